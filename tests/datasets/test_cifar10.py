import hashlib
import io
import os
import pickle
import pickletools
import tarfile

import numpy as np
import pytest

from skpoison.datasets import (
    DatasetCorruptError,
    DatasetNotFoundError,
    _cifar10,
    fetch_cifar10,
    find_dataset,
)

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
N = 10  # rows in each batch


def batch_bytes(images, labels):
    """Return what Python 2 wrote: protocol 2, every string and array as a BINSTRING."""
    batch = {
        b"batch_label": b"tiny",
        b"labels": labels.tolist(),
        b"data": images.reshape(len(images), 3072),
        b"filenames": [b"x.png"] * len(labels),
    }
    data = pickle.dumps(batch, protocol=3)
    operations = list(pickletools.genops(data))
    ends = [*(position for _, _, position in operations[1:]), len(data)]
    out = b""
    for (code, value, start), end in zip(operations, ends, strict=True):
        raw = data[start:end]
        if code.name == "PROTO":
            raw = b"\x80\x02"
        elif code.name == "BINUNICODE":
            raw = b"U" + bytes([len(value)]) + value.encode()
        elif code.name == "SHORT_BINBYTES":
            raw = b"U" + raw[1:]
        elif code.name == "BINBYTES":
            raw = b"T" + raw[1:]
        out += raw
    return out.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


@pytest.fixture
def arrays():
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (6 * N, 3, 32, 32)).astype(np.uint8)
    labels = rng.permutation(np.arange(6 * N) % 10)
    return images, labels


@pytest.fixture
def members(arrays):
    images, labels = arrays
    return {
        name: batch_bytes(images[i * N : (i + 1) * N], labels[i * N : (i + 1) * N])
        for i, name in enumerate(NAMES)
    }


def write_folder(members, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)


def write_archive(members, path, prefix="cifar-10-batches-py/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["folder", "parent", "archive", "archive_in_folder"])
def test_forms(tmp_path, arrays, members, form):
    if form in ("folder", "parent"):
        folder = tmp_path / "cifar-10-batches-py"
        write_folder(members, folder)
        path, found = (folder if form == "folder" else tmp_path), folder
    else:
        found = tmp_path / "cifar-10-python.tar.gz"
        write_archive(members, found)
        path = found if form == "archive" else tmp_path
    bunch = fetch_cifar10(path=path, subset="all", layout="nchw", verify=False)
    assert bunch.data.shape == (6 * N, 3, 32, 32)
    np.testing.assert_array_equal(bunch.images, arrays[0].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(bunch.target, arrays[1])
    np.testing.assert_array_equal(bunch.split, [0] * 5 * N + [1] * N)
    assert bunch.index.tolist() == [*range(5 * N), *range(50_000, 50_000 + N)]
    assert bunch.source == f"path: {found}"
    assert find_dataset("cifar10", path=path) == str(found)


def test_planes_are_not_scrambled(tmp_path, arrays, members):
    write_folder(members, tmp_path)
    flat = fetch_cifar10(path=tmp_path, dtype="uint8", verify=False)
    np.testing.assert_array_equal(flat.data, arrays[0][: 5 * N].reshape(5 * N, -1))
    last = fetch_cifar10(path=tmp_path, layout="nhwc", dtype="uint8", verify=False)
    assert (last.data[3, 4, 5] == arrays[0][3, :, 4, 5]).all()
    names = flat.feature_names
    assert (names[0], names[1024], names[-1]) == ("red_0_0", "green_0_0", "blue_31_31")


def test_only_the_needed_batches(tmp_path, members):
    write_folder({"test_batch": members["test_batch"]}, tmp_path)
    assert len(fetch_cifar10(path=tmp_path, subset="test", verify=False).target) == N
    with pytest.raises(DatasetNotFoundError):
        fetch_cifar10(path=tmp_path, verify=False)


def test_hashes_of_the_members(tmp_path, members, monkeypatch):
    write_folder(members, tmp_path)
    with pytest.raises(DatasetCorruptError, match="data_batch_1: md5 of it is"):
        fetch_cifar10(path=tmp_path)
    right = {name: hashlib.md5(data).hexdigest() for name, data in members.items()}
    monkeypatch.setattr(_cifar10, "_MD5", right)
    assert fetch_cifar10(path=tmp_path).verified


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("verify", [True, False])
def test_a_pickle_cannot_run_code(tmp_path, members, verify):
    Evil.target = str(tmp_path / "harm")
    write_folder({**members, "data_batch_3": pickle.dumps(Evil())}, tmp_path)
    message = "md5" if verify else f"{os.mkdir.__module__}.mkdir"
    if verify:
        members = {**members, "data_batch_1": pickle.dumps(Evil())}
        write_folder(members, tmp_path)
    with pytest.raises(DatasetCorruptError, match=message):
        fetch_cifar10(path=tmp_path, verify=verify)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not a batch file"),
        (b"\x80\x02}q", "not a batch file"),
        (pickle.dumps([1, 2], protocol=3), "not a batch file"),
        (pickle.dumps({b"labels": [1]}, protocol=3), "not a batch file"),
        (pickle.dumps({b"data": [1], b"labels": [1]}, protocol=3), "expected uint8"),
    ],
)
def test_damaged_pickles(tmp_path, members, data, message):
    write_folder({**members, "data_batch_1": data}, tmp_path)
    with pytest.raises(DatasetCorruptError, match=message):
        fetch_cifar10(path=tmp_path, verify=False)


def test_archive_never_writes_outside(tmp_path, members):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "cifar-10-python.tar.gz"
    write_archive(
        {f"cifar-10-batches-py/{k}": v for k, v in members.items()} | {"../x": b"x"},
        path,
        prefix="",
    )
    fetch_cifar10(path=path, verify=False)
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", path.name]


def test_damaged_archives(tmp_path, members):
    path = tmp_path / "x.tar.gz"
    write_archive({k: members[k] for k in NAMES[1:]}, path)
    with pytest.raises(DatasetCorruptError, match="lacks data_batch_1"):
        fetch_cifar10(path=path, verify=False)
    write_archive(members, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DatasetCorruptError, match="damaged archive"):
        fetch_cifar10(path=path, subset="test", verify=False)
    path.write_bytes(b"no archive")
    with pytest.raises(DatasetCorruptError, match="damaged archive"):
        fetch_cifar10(path=path, verify=False)


@pytest.mark.parametrize("axes", ["nhwc", "nchw"])
@pytest.mark.parametrize("case", [str.lower, str])
def test_npz(tmp_path, arrays, axes, case):
    images, labels = arrays
    stored = images if axes == "nchw" else images.transpose(0, 2, 3, 1)
    path = tmp_path / "cifar10.npz"
    fields = {
        case("X_train"): stored[:40],
        "y_train": labels[:40, None],
        case("X_test"): stored[40:],
        "y_test": labels[40:].astype(np.uint8),
    }
    np.savez(path, **fields)
    with pytest.warns(UserWarning, match="40 of the 50000 rows"):
        bunch = fetch_cifar10(path=tmp_path, layout="nchw", dtype="uint8")
    np.testing.assert_array_equal(bunch.data, images[:40])
    np.testing.assert_array_equal(bunch.target, labels[:40])
    assert bunch.verified is False
    assert bunch.index.tolist() == list(range(40))
    index = {"index_train": np.arange(40) * 7, "index_test": np.arange(20) + 3}
    np.savez(path, **fields, **index)
    with pytest.warns(UserWarning) as warned:
        bunch = fetch_cifar10(path=path, subset="all")
    assert len(warned) == 2
    assert "20 of the 10000 rows of the test split" in str(warned[1].message)
    expected = [*range(0, 280, 7), *range(50_003, 50_023)]
    assert bunch.index.tolist() == expected


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"X_train": np.zeros((2, 32, 32, 3), np.uint8)}, "expected X_train and y_"),
        ({"X_train": np.zeros((2, 32, 32, 3)), "y_train": [0, 1]}, "expected uint8"),
        ({"X_train": np.zeros((2, 28, 28), np.uint8), "y_train": [0, 1]}, "of shape"),
        ({"X_train": np.zeros((2, 3072), np.uint8), "y_train": [0]}, "but 1 labels"),
        ({"X_train": np.zeros((1, 3072), np.uint8), "y_train": [10]}, "0 to 9"),
        ({"X_train": np.array([None]), "y_train": [0]}, "damaged npz"),
        (
            {
                "X_train": np.zeros((1, 3072), np.uint8),
                "y_train": [0],
                "index_train": [0, 1],
            },
            "index_train has 2",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*cannot be verified")
def test_bad_npz(tmp_path, fields, message):
    np.savez(tmp_path / "x.npz", **fields)
    with pytest.raises(DatasetCorruptError, match=message):
        fetch_cifar10(path=tmp_path / "x.npz")


def test_npz_of_full_size_is_verified(tmp_path, arrays, monkeypatch):
    images, labels = arrays
    np.savez(tmp_path / "x.npz", X_test=images, y_test=labels)
    monkeypatch.setattr(_cifar10, "_N_ROWS", {"train": 50_000, "test": len(labels)})
    with pytest.raises(DatasetCorruptError, match="sha256 of y_test"):
        fetch_cifar10(path=tmp_path / "x.npz", subset="test")
    digest = hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()
    monkeypatch.setattr(_cifar10, "_LABELS_SHA256", {"test": digest})
    with pytest.raises(
        DatasetCorruptError, match="sha256 of 1000 rows from 0 on of X_test"
    ):
        fetch_cifar10(path=tmp_path / "x.npz", subset="test")
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    monkeypatch.setattr(_cifar10, "_IMAGES_SHA256", {"test": (digest,)})
    assert fetch_cifar10(path=tmp_path / "x.npz", subset="test").verified


@pytest.mark.skipif(
    "SKPOISON_SHARED_DATA" not in os.environ, reason="SKPOISON_SHARED_DATA is not set"
)
@pytest.mark.filterwarnings("ignore:.*cannot be verified")
def test_published_pixels(tmp_path):
    from pathlib import Path

    image_module = pytest.importorskip("PIL.Image")
    root = Path(os.environ["SKPOISON_SHARED_DATA"]) / "cifar10"
    sheet = np.asarray(image_module.open(root / "cifar10_exact_test.webp"))
    rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
    tiles = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)
    with np.load(root / "cifar10_exact_labels.npz") as labels:
        y, index = labels["y_test"], labels["index_test"]
    np.savez(
        tmp_path / "x.npz",
        X_test=tiles.reshape(-1, 32, 32, 3)[: len(y)],
        y_test=y,
        index_test=index,
    )
    bunch = fetch_cifar10(
        path=tmp_path / "x.npz", subset="test", layout="nchw", dtype="uint8"
    )
    first = np.searchsorted(bunch.index, np.arange(50_000, 51_000))
    digest = hashlib.sha256(bunch.data[first].tobytes()).hexdigest()
    assert digest == _cifar10._IMAGES_SHA256["test"][0]
    assert bunch.target_names[bunch.target[0]] == "cat"


@pytest.mark.dataset("cifar10")
def test_the_real_set():
    bunch = fetch_cifar10(subset="test", n_samples=100)
    assert np.bincount(bunch.target).tolist() == [10] * 10
