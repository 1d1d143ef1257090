"""Files that are there whole or not at all, at each place that writes one."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB

import skpoison
from skpoison.attacks import ReleasePoisonAttack, protect_images
from skpoison.attacks._store import Store
from skpoison.audit import audit
from skpoison.audit._checkpoint import Checkpoint
from skpoison.datasets._download import new_file
from skpoison.inversion import save_update
from skpoison.models import LinearModel, TorchClassifier
from skpoison.utils import _files
from skpoison.utils._files import locked, sweep, write_atomically

ROOT = Path(skpoison.__file__).parent
OLD, NEW = b"old" * 1000, b"new" * 5000


@pytest.fixture(autouse=True)
def forgotten():
    """Folders are swept once for each process."""
    _files._sweep_once.cache_clear()


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


# The one writer


def _full(handle):
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupted(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "place, failure, error",
    [
        ("dup", _interrupted, KeyboardInterrupt),
        ("fsync", _full, OSError),
        ("fsync", _interrupted, KeyboardInterrupt),
        ("replace", _interrupted, KeyboardInterrupt),
    ],
    ids=[
        "interrupted at opening",
        "disk full",
        "interrupted before",
        "interrupted at renaming",
    ],
)
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, place, failure, error):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(os, place, failure)
        write_atomically(path, NEW)
    assert path.read_bytes() == OLD
    assert _names(tmp_path) == ["file"]
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW
    assert _names(tmp_path) == ["file"]


def test_an_interrupt_right_after_the_renaming_is_what_is_raised(tmp_path, monkeypatch):
    replace = os.replace

    def late(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(KeyboardInterrupt) as caught:
        write_atomically(tmp_path / "file", NEW)
    assert caught.value.__context__ is None
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_file_that_outgrows_the_limit_leaves_the_old_one(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "file").write_bytes(OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:  # the kernel takes 4096 bytes and no more
        with pytest.raises(OSError) as caught:
            write_atomically(tmp_path / "file", NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / "file").read_bytes() == OLD
    assert _names(tmp_path) == ["file"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "file", "text")
    (tmp_path / "other").touch()
    modes = [path.stat().st_mode for path in tmp_path.iterdir()]
    assert modes[0] == modes[1]
    assert (tmp_path / "file").read_text() == "text"


def test_the_umask_is_never_touched(tmp_path, monkeypatch):
    # for a moment other threads would make files that all may write to
    monkeypatch.setattr(os, "umask", _interrupted)
    write_atomically(tmp_path / "file", NEW)


def test_the_longest_name_is_written(tmp_path):
    write_atomically(tmp_path / ("n" * 255), NEW)
    assert _names(tmp_path) == ["n" * 255]


def test_threads_write_whole_files(tmp_path):
    contents = [bytes([i]) * 100_000 for i in range(4)]
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            seen.add((tmp_path / "file").read_bytes())

    def write(content):
        for _ in range(10):
            write_atomically(tmp_path / "file", content)

    write(contents[0])
    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=[c]) for c in contents]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert seen <= set(contents)
    assert _names(tmp_path) == ["file"]


# What killed writers leave


def _left(folder):
    part = folder / ".skpoison-0.part"
    part.write_bytes(b"half")
    return part


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    part, other = _left(tmp_path), tmp_path / ".mine.part"
    other.touch()
    write_atomically(tmp_path / "file", NEW)
    assert not part.exists()
    assert other.exists()
    late = _left(tmp_path)
    write_atomically(tmp_path / "file", NEW)  # no second look: folders may be large
    assert late.exists()
    sweep(tmp_path.parent)
    assert not late.exists()


def test_files_that_are_being_written_are_not_swept(tmp_path):
    with _files.new_file(tmp_path / "file") as file:
        file.write(b"half")
        sweep(tmp_path)
        _files._sweep_once(tmp_path)
        (part,) = tmp_path.iterdir()
        with _files.new_file(tmp_path / "file") as second:
            second.write(OLD)
        assert (tmp_path / "file").read_bytes() == OLD
        file.write(b" and half")
    assert (tmp_path / "file").read_bytes() == b"half and half"
    assert _names(tmp_path) == ["file"]
    assert part.name.startswith(".skpoison-")


def test_a_new_file_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, calls = _files._lock, []

    def late(handle, wait):
        if not calls:
            sweep(tmp_path)
        calls.append(handle)
        lock(handle, wait)

    monkeypatch.setattr(_files, "_lock", late)
    write_atomically(tmp_path / "file", NEW)
    assert len(calls) == 2
    assert _names(tmp_path) == ["file"]


@pytest.mark.skipif(_files.fcntl is None, reason="needs locks")
def test_locks_keep_others_out_and_end_with_their_holder(tmp_path):
    path = tmp_path / "lock"
    with locked(path, wait=False):
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            raise AssertionError
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), locked(path, wait=False):
        raise AssertionError
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(path, wait=True):
        pass


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    part = _left(tmp_path)
    monkeypatch.setattr(_files.fcntl, "flock", refuse)
    with locked(tmp_path / "lock", wait=False):
        write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    assert part.exists()  # who can't tell does not remove


# The places that write


def _report(path, content):
    X, y = load_iris(return_X_y=True)
    report = audit(
        GaussianNB(), X, y, attacks=["random-flips"], defenses=[], budgets=[0.1],
        cv=2, random_state=len(content), verbose=0,
    )  # fmt: skip
    report.to_html(path)


def _update(path, content):
    save_update(path, {"weight": np.frombuffer(content, np.uint8).astype(np.float32)})


def _job(path, content):
    fingerprint = {"data": "0"}
    checkpoint = Checkpoint(path.parent.parent, fingerprint, 0)
    checkpoint.put(path.stem, {"rows": [len(content)], "notes": [], "stand_ins": {}})


def _array(path, content):
    Store(path.parent, 0).put(path.stem, content=np.frombuffer(content, np.uint8))


def _data_set(path, content):
    with new_file(path, None) as file:
        file.write(content)


def _image(path, content):
    source = path.parent.parent.parent / "in" / path.parent.name
    other = source.parent / "other"
    for folder in (source, other):
        folder.mkdir(parents=True, exist_ok=True)
        grey = np.full((8, 8), len(content) % 251, np.uint8)
        Image.fromarray(grey).save(folder / path.name)
    net = TorchClassifier(LinearModel, max_epochs=1, device="cpu")
    attack = ReleasePoisonAttack(online=True, max_iter=1, surrogate=net)
    out = path.parent.parent
    protect_images(source.parent, out, "folders", attack=attack)


@pytest.mark.parametrize(
    "write, name",
    [
        (_report, "report.html"),
        (_update, "update.npz"),
        (_update, "update.safetensors"),
        (_job, "jobs/job.json"),
        (_array, "state.npz"),
        (_data_set, "data.bin"),
        (_image, "out/kind/1.png"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_writer_is_whole_or_not_at_all(tmp_path, monkeypatch, write, name):
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    if name.startswith("out"):
        path.parent.rmdir()
        path.parent.parent.rmdir()
    replace = os.replace

    def failing(source, target):
        if Path(target) == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    write(path, OLD)
    before = path.read_bytes()
    _files._sweep_once.cache_clear()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "replace", failing)
        write(path, NEW)
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))
    write(path, NEW)
    assert path.read_bytes() != before


#: What looks like another writer, and why it is none.
RAW = {
    "utils/_files.py": "the writer itself",
    "attacks/_store.py": "an archive in memory",
    "attacks/_image_files.py": "a file in memory",
    "federated/_classifier.py": "hands its state to the store",
    "federated/_engines/_flower.py": "a temporary folder of one training",
    "inversion/_updates.py": "an archive in memory",
}
_WRITES = re.compile(
    r"""\b(?:fd)?open\([^)\n]*["'][rb+]*[wxa+]|\bmkstemp\(|NamedTemporaryFile\("""
    r"""|\.(?:save|savez\w*|savefig|dump|tofile|write_text|write_bytes)\("""
    r"""|\.to_(?:csv|parquet|pickle)\("""
)
_EXAMPLE = re.compile(r"^ *(?:>>>|\.\.\.) .*$", re.MULTILINE)


def test_nothing_else_writes_files():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if _WRITES.search(_EXAMPLE.sub("", path.read_text("utf-8")))
    }
    assert found == set(RAW)
