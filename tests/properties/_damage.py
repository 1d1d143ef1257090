"""Damaged copies of good files, and what a reader may make of them."""

import contextlib
import signal
import tempfile
import threading
import warnings
from pathlib import Path

from hypothesis import strategies as st

#: What length fields, counts and separators look like when they are wrong.
_NASTY = st.sampled_from(
    [
        b"\x00",
        b"\xff",
        b"\x00" * 8,
        b"\xff" * 8,
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n\n",
        b'"',
        b",",
        b";",
        b"nan",
        b"1e999",
        b"-1",
        b"9" * 30,
        b"{",
        b"]",
        b"null",
    ]
)
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "overwrite", "insert", "delete", "double", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 255),
        _NASTY | st.binary(min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content):
    """Return a strategy of copies of some bytes with a few edits each."""
    return _EDITS.map(lambda edits: _edit(content, edits))


def _edit(content, edits):
    found = bytearray(content)
    for kind, where, number, put in edits:
        # half of the edits go to the ends, where formats keep their tables
        place = int(where * 2 * len(found)) if where < 0.5 else 0
        if where >= 0.75:
            place = max(0, len(found) - number)
        elif where >= 0.5:
            place = number % max(1, min(len(found), 64))
        if kind == "flip" and place < len(found):
            found[place] ^= number
        elif kind == "overwrite":
            found[place : place + len(put)] = put
        elif kind == "insert":
            found[place:place] = put
        elif kind == "delete":
            del found[place : place + number]
        elif kind == "double":
            found[place:place] = found[place : place + number]
        elif kind == "cut":
            del found[place:]
    return bytes(found)


@contextlib.contextmanager
def file_of(name, content):
    """A file of this name and content in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        yield path


class StillReading(BaseException):
    """Raised where time is up; no ``except Exception`` takes it for an answer."""


@contextlib.contextmanager
def at_most(seconds=30):
    """Fail where a reader goes on for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise StillReading(f"after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(read, allowed):
    """Return what `read` returns, or None where it raises one of what is allowed.

    Errors must say something, and be of the types allowed: not of those that Python's
    own containers raise, which are allowed types' subclasses now and then.
    """
    raw = (UnicodeError, LookupError, MemoryError, RecursionError)
    with at_most(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except allowed as error:
            assert not isinstance(error, raw), repr(error)
            assert str(error).strip(), repr(error)
            return None
