"""Files that are damaged or made to harm are read right or refused in one line."""

import contextlib
import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties._damage import damaged, file_of, outcome

from skpoison.attacks import protect_images
from skpoison.attacks._image_files import read_picture
from skpoison.audit._ingest import InputError, load_estimator, read_table
from skpoison.datasets import (
    fetch_ch_mnist,
    fetch_cifar10,
    fetch_fashion_mnist,
    fetch_mnist,
    fetch_spambase,
)
from skpoison.inversion import load_update, save_update

pd = pytest.importorskip("pandas")
Image = pytest.importorskip("PIL.Image")

# Data sets: OSError, of which DatasetCorruptError and DatasetNotFoundError are two


def _idx(array):
    header = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
    return header + array.tobytes()


_RNG = np.random.RandomState(0)
_LABELS = np.arange(10, dtype=np.uint8)
_IDX = {
    "t10k-images-idx3-ubyte": _idx(_RNG.randint(0, 256, (10, 28, 28), dtype=np.uint8)),
    "t10k-labels-idx1-ubyte": _idx(_LABELS),
}
_IDX_GZ = {f"{name}.gz": gzip.compress(data) for name, data in _IDX.items()}


@pytest.mark.parametrize("fetch", [fetch_mnist, fetch_fashion_mnist])
@given(
    data=st.data(),
    files=st.sampled_from([_IDX, _IDX_GZ]),
    which=st.integers(0, 1),
)
def test_idx_files(fetch, data, files, which):
    broken = data.draw(damaged(list(files.values())[which]))
    names = list(files)
    with file_of(names[which], broken) as path:
        other = path.with_name(names[1 - which])
        other.write_bytes(files[other.name])
        found = outcome(
            lambda: fetch(path=path.parent, subset="test", verify=False), OSError
        )
    if found is not None:
        assert found.data.shape == (10, 784) and set(found.target) <= set(range(10))
        assert not found.verified


_BATCH = {
    b"data": _RNG.randint(0, 256, (20, 3072), dtype=np.uint8),
    b"labels": list(range(10)) * 2,
}


def _archive(pickled, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = len(pickled)
        archive.addfile(member, io.BytesIO(pickled))
    return file.getvalue()


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


_CIFAR = {
    "test_batch": pickle.dumps(_BATCH, protocol=2),
    "cifar-10-python.tar.gz": _archive(pickle.dumps(_BATCH, protocol=2)),
    "cifar-10-python.tar.xz": _archive(pickle.dumps(_BATCH, protocol=2), "w:xz"),
    "cifar-10-python.tar.bz2": _archive(pickle.dumps(_BATCH, protocol=2), "w:bz2"),
    "cifar10.npz": _npz(
        X_test=_BATCH[b"data"],
        y_test=np.arange(20) % 10,
        index_test=np.arange(20),
    ),
}


@pytest.mark.parametrize("name", _CIFAR)
@given(data=st.data())
def test_cifar_files(name, data):
    with file_of(name, data.draw(damaged(_CIFAR[name]))) as path:
        place = path.parent if name == "test_batch" else path
        found = outcome(
            lambda: fetch_cifar10(path=place, subset="test", verify=False), OSError
        )
    if found is not None:
        assert found.data.shape[1:] == (3072,) and set(found.target) <= set(range(10))


def _tiff():
    file = io.BytesIO()
    Image.fromarray(_RNG.randint(0, 256, (20, 20, 3), dtype=np.uint8)).save(
        file, "TIFF"
    )
    return file.getvalue()


_FOLDERS = (
    "01_TUMOR 02_STROMA 03_COMPLEX 04_LYMPHO 05_DEBRIS 06_MUCOSA 07_ADIPOSE 08_EMPTY"
).split()


def _tiles():
    file, tile = io.BytesIO(), _tiff()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in _FOLDERS:
            for i in range(2):
                archive.writestr(f"tiles/{folder}/{i}.tif", tile)
    return file.getvalue()


def _tile_table():
    pixels = _RNG.randint(0, 256, (5000, 1))
    table = np.column_stack([pixels, np.repeat(np.arange(8), 625) + 1])
    lines = ["pixel0000,label", *(",".join(map(str, row)) for row in table.tolist())]
    return "\n".join(lines).encode()


_TISSUE = {"tiles.zip": _tiles(), "hmnist_1_1_L.csv": _tile_table()}


@pytest.mark.parametrize("name", _TISSUE)
@given(data=st.data())
def test_tissue_files(name, data):
    with file_of(name, data.draw(damaged(_TISSUE[name]))) as path:
        size = 4 if name.endswith("zip") else 1
        found = outcome(
            lambda: fetch_ch_mnist(path=path, size=size, subset="all", verify=False),
            (OSError, ValueError),
        )
    if found is not None:
        assert found.data.shape[1:] == (size**2,) and set(found.target) <= set(range(8))


def _spam_lines(header=False):
    table = np.round(_RNG.rand(12, 58), 3)
    table[:, -1] = np.arange(12) % 2
    lines = [",".join(map(str, row)) for row in table.tolist()]
    if header:
        lines.insert(0, ",".join(f"column{i}" for i in range(58)))
    return "\n".join(lines).encode()


def _spam_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("spambase.data", _spam_lines())
    return file.getvalue()


_SPAM = {
    "spambase.data": _spam_lines(),
    "spambase.csv": _spam_lines(header=True),
    "spambase.data.gz": gzip.compress(_spam_lines()),
    "spambase.zip": _spam_zip(),
}


@pytest.mark.parametrize("name", _SPAM)
@given(data=st.data())
def test_spambase_files(name, data):
    with file_of(name, data.draw(damaged(_SPAM[name]))) as path:
        found = outcome(lambda: fetch_spambase(path=path, verify=False), OSError)
    if found is not None:
        assert found.data.shape[1:] == (57,) and set(found.target) <= {0, 1}


# Tables: InputError, one line

_FRAME = pd.DataFrame(
    {
        "a": [1.5, 2.5, None, 4.0],
        "b c": ["x", "y,z", 'q"', None],
        "when": pd.date_range("2020-01-01", periods=4),
        "label": ["u", "v", "u", "v"],
    }
)


def _table(suffix):
    file = io.BytesIO()
    if suffix == "parquet":
        _FRAME.to_parquet(file)
        return file.getvalue()
    text = _FRAME.to_csv(index=False, sep="\t" if suffix == "tsv" else ",").encode()
    return gzip.compress(text) if suffix == "csv.gz" else text


_TABLES = {name: _table(name) for name in ("csv", "tsv", "csv.gz", "parquet")}


def _check_table(suffix, content):
    with file_of(f"t.{suffix}", content) as path:
        found = outcome(lambda: read_table(path, "label"), InputError)
    if found is not None:
        X, y = found
        assert len(X) == len(y) > 0 and X.shape[1] > 0 and len(np.unique(y)) > 1
        assert "label" not in X.columns and X.columns.is_unique


@pytest.mark.parametrize("suffix", _TABLES)
@given(data=st.data())
def test_damaged_tables(suffix, data):
    _check_table(suffix, data.draw(damaged(_TABLES[suffix])))


_CELLS = st.sampled_from(
    ["", "1", "-2.5", "1e400", "9" * 25, "nan", "NaN", "text", '"', '"a,b"', "\0"]
    + ["2020-01-01", "½", " ", "label", "0x1f", "1_000", "inf", "\u202e", "\t", "'"]
    + ["True"]
)
_ROWS = st.lists(st.lists(_CELLS, min_size=1, max_size=4), max_size=5)


@given(
    header=st.lists(_CELLS, max_size=3),
    rows=_ROWS,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    code=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    place=st.integers(0, 3),
)
def test_ugly_tables(header, rows, end, code, place):
    header = [*header[:place], "label", *header[place:]]
    text = end.join(",".join(row) for row in [header, *rows])
    _check_table("csv", text.encode(code, "replace"))


# Images and labels of images: ValueError


def _picture(kind, mode="RGB"):
    file = io.BytesIO()
    shape = (9, 7, 3) if mode == "RGB" else (9, 7)
    pixels = _RNG.randint(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


_PICTURES = {
    "colour.png": _picture("PNG"),
    "grey.png": _picture("PNG", "L"),
    "photo.jpg": _picture("JPEG"),
}


@pytest.mark.parametrize("name", _PICTURES)
@given(data=st.data())
def test_pictures(name, data):
    with file_of(name, data.draw(damaged(_PICTURES[name]))) as path:
        found = outcome(lambda: read_picture(path), ValueError)
        if found is not None:
            assert found.pixels.dtype == np.uint8 and found.pixels.ndim == 3
            assert len(found.pixels) in (1, 3)


@given(labels=damaged(b"file,label\na.png,ant\nb.png,bee\n"))
def test_label_files_of_pictures(labels):
    with file_of("labels.csv", labels) as path:
        folder = path.parent / "in"
        folder.mkdir()
        (folder / "a.png").write_bytes(_PICTURES["grey.png"])
        (folder / "b.png").write_bytes(b"not a picture")
        # the picture that can't be read stops what the labels let through
        with pytest.raises(ValueError) as caught:
            protect_images(folder, path.parent / "out", path)
        assert not isinstance(caught.value, UnicodeError)
        assert not (path.parent / "out").exists()


# Updates of clients: ValueError

_NET = torch.nn.Linear(3, 2)


def _update(name):
    update = {n: p.detach() for n, p in _NET.named_parameters()}
    with file_of(name, b"") as path:
        save_update(path, update)
        return path.read_bytes()


_UPDATES = {"u.npz": _update("u.npz")}
with contextlib.suppress(ImportError):
    _UPDATES["u.safetensors"] = _update("u.safetensors")


@pytest.mark.parametrize("name", _UPDATES)
@given(data=st.data())
def test_updates(name, data):
    with file_of(name, data.draw(damaged(_UPDATES[name]))) as path:
        found = outcome(lambda: load_update(path, _NET), (ValueError, TypeError))
    if found is not None:
        assert {n: v.shape for n, v in found.items()} == {
            n: p.shape for n, p in _NET.named_parameters()
        }


class _Hostile:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code of a file was run",)


_EVIL = pickle.dumps(_Hostile())


@pytest.mark.parametrize(
    "name, content",
    [
        ("u.npz", _EVIL),
        ("u.npz", _npz(weight=np.array([_Hostile()], dtype=object), bias=[1.0, 2.0])),
        ("u.safetensors", _EVIL),
    ],
    ids=["pickle", "objects", "safetensors"],
)
def test_hostile_updates_run_nothing(name, content):
    pytest.importorskip("safetensors")
    with file_of(name, content) as path, pytest.raises(ValueError):
        load_update(path, _NET)


def test_hostile_data_sets_and_models_run_nothing():
    npz = _npz(X_test=np.array([_Hostile()], dtype=object), y_test=[0])
    for name, content in [
        ("cifar10.tar.gz", _archive(_EVIL)),
        ("cifar10.npz", npz),
    ]:
        with file_of(name, content) as path, pytest.raises(OSError):
            fetch_cifar10(path=path, subset="test", verify=False)
    for name in ("m.skops", "m.pkl", "m.joblib"):
        with file_of(name, _EVIL) as path, pytest.raises(InputError):
            load_estimator(str(path), _FRAME[["a"]])


# Models

_SKOPS = None


def _skops():
    io_ = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    global _SKOPS
    if _SKOPS is None:
        _SKOPS = io_.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    return _SKOPS


@given(data=st.data())
def test_skops_files(data):
    with file_of("m.skops", data.draw(damaged(_skops()))) as path:
        found = outcome(lambda: load_estimator(str(path), _FRAME[["a"]]), InputError)
    assert found is None or type(found).__module__.startswith("sklearn")
