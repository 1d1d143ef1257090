"""Files that are there whole or not at all, whoever is killed while writing them."""

import contextlib
import functools
import os
import uuid
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows: nobody is kept out, and nothing swept
    fcntl = None  # type: ignore[assignment]

_PART = ".skpoison-{}.part"


def write_atomically(path, content):
    """Write a file whole or not at all.

    Parameters
    ----------
    path : str or Path
    content : str or bytes
        Text is encoded as UTF-8.
    """
    content = content.encode() if isinstance(content, str) else content
    with new_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def new_file(path, check=None):
    """Open a binary file that appears under its name once written and checked.

    Each writer has a file of its own until then, so several processes may do this at
    once: the last one wins, and every one's file is whole. What a killed writer left
    goes when the next process writes into the folder.

    Parameters
    ----------
    path : str or Path
    check : callable, default=None
        Given the path of the file under its temporary name, and may raise.
    """
    path = Path(path)
    _sweep_once(path.parent)
    with contextlib.ExitStack() as alive:
        part, file = _open_part(path.parent, alive)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(part)
        os.replace(part, path)


def sweep(folder):
    """Remove what killed writers left in a folder and below it.

    Parameters
    ----------
    folder : Path
    """
    for part in folder.rglob(_PART.format("*")):
        _remove_if_dead(part)


@contextlib.contextmanager
def locked(path, *, wait):
    """Keep others out that lock the same file, until the block ends or the process.

    Where the file system knows no locks, nobody is kept out.

    Parameters
    ----------
    path : Path
        Made where it is not there, and left there.
    wait : bool
        Whether to wait for those who came first.

    Raises
    ------
    BlockingIOError
        Somebody came first, and `wait` is False.
    """
    with open(path, "ab") as file:
        _lock(file.fileno(), wait)
        yield


@functools.cache
def _sweep_once(folder):
    for part in folder.glob(_PART.format("*")):
        _remove_if_dead(part)


def _open_part(folder, alive):
    """Return the path of a new file and the file, locked until `alive` ends."""
    while True:
        part = folder / _PART.format(uuid.uuid4().hex)
        # before there is a file: an interrupt may come at once
        alive.callback(part.unlink, missing_ok=True)
        # no mkstemp, whose files only their owner may read: to know the umask is to
        # change it for all threads
        file = open(part, "xb")
        # outlives the closing, which comes before the replacing
        lock = os.dup(file.fileno())
        alive.callback(os.close, lock)
        _lock(lock, wait=True)
        if part.exists():  # or somebody swept it before it was locked
            return part, file
        file.close()


def _remove_if_dead(part):
    if fcntl is None:
        return
    # who still writes holds the lock
    with contextlib.suppress(OSError), open(part, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()


def _lock(handle, wait):
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return
