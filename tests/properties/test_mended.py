"""What the properties and the fuzzing here found once, as plain cases."""

import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from skpoison.attacks import BlendBackdoor, protect_images
from skpoison.attacks._store import Store
from skpoison.datasets import (
    DatasetCorruptError,
    fetch_ch_mnist,
    fetch_cifar10,
    fetch_spambase,
)
from skpoison.evasion import robustness_report
from skpoison.metrics import wilson_interval
from skpoison.utils import make_table_encoder


def test_a_pickle_of_eight_bytes_claims_no_memory(tmp_path):
    # the second word is the place of an object in pickle's memo
    (tmp_path / "test_batch").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(DatasetCorruptError, match="not a batch file"):
        fetch_cifar10(path=tmp_path, subset="test", verify=False)


def _zip(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return bytearray(file.getvalue())


def _with_method(content, method=97, flags=0):
    """Return a zip archive whose entries say that they are packed in another way."""
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            content[start + place : start + place + 4] = struct.pack(
                "<HH", flags, method
            )
            start = content.find(signature, start + 4)
    return bytes(content)


@pytest.mark.parametrize("method, flags", [(97, 0), (0, 1)], ids=["packed", "locked"])
def test_archives_that_python_cannot_unpack(tmp_path, method, flags):
    file = io.BytesIO()
    np.savez(file, X_test=np.zeros((2, 3072), np.uint8), y_test=[0, 1])
    npz = _with_method(bytearray(file.getvalue()), method, flags)
    spam = _with_method(_zip(**{"spambase.data": b"1,2"}), method, flags)
    tiles = _with_method(_zip(**{"01_TUMOR/a.tif": b"II"}), method, flags)
    for fetch, name, content in [
        (fetch_cifar10, "cifar10.npz", npz),
        (fetch_spambase, "spambase.zip", spam),
        (fetch_ch_mnist, "tiles.zip", tiles),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DatasetCorruptError, match="damaged"):
            fetch(path=path, verify=False, subset="test")
    Store(tmp_path / "state", "me").put("k", a=np.arange(3))
    path = tmp_path / "state" / "k.npz"
    path.write_bytes(_with_method(bytearray(path.read_bytes()), method, flags))
    with pytest.raises(ValueError, match="is damaged"):
        Store(tmp_path / "state", "me")


def test_damage_inside_an_xz_archive(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        content = pickle.dumps({b"data": np.random.RandomState(0).bytes(9000)})
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    damaged = bytearray(file.getvalue())
    damaged[len(damaged) // 2] ^= 255
    path = tmp_path / "cifar.tar.xz"
    path.write_bytes(bytes(damaged))
    with pytest.raises(DatasetCorruptError, match="damaged archive"):
        fetch_cifar10(path=path, subset="test", verify=False)


def test_index_of_a_numpy_archive_must_be_integers(tmp_path):
    path = tmp_path / "cifar10.npz"
    X, y = np.zeros((2, 3072), np.uint8), np.zeros(2, int)
    np.savez(path, X_test=X, y_test=y, index_test=np.array(["a", "b"]))
    with (
        pytest.warns(UserWarning, match="cannot be verified"),
        pytest.raises(DatasetCorruptError, match="index_test"),
    ):
        fetch_cifar10(path=path, subset="test", verify=False)


def test_tiles_too_large_to_be_true(tmp_path):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.fromarray(np.zeros((2, 2), np.uint8)).save(file, "TIFF")
    tile = bytearray(file.getvalue())
    n_entries = struct.unpack("<H", tile[8:10])[0]
    for entry in range(10, 10 + 12 * n_entries, 12):
        tag = struct.unpack("<H", tile[entry : entry + 2])[0]
        if tag in (256, 257):  # width and height
            tile[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 100_000)
    path = tmp_path / "tiles.zip"
    path.write_bytes(_zip(**{"01_TUMOR/a.tif": bytes(tile)}))
    with pytest.raises(DatasetCorruptError, match="damaged tile of 01_TUMOR"):
        fetch_ch_mnist(path=path, subset="all", verify=False)


@pytest.fixture
def folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "in").mkdir()
    for name in "ab":
        pixels = np.zeros((4, 4), np.uint8)
        image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("content", [b"\xe6ile,label\n", b"file,label\n\x00\n" * 2])
def test_labels_that_are_no_text(folder, content):
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match="labels"):
        protect_images(folder / "in", folder / "out", folder / "labels.csv")


def test_sizes_that_no_memory_holds(folder):
    with pytest.raises(ValueError, match="size must be at most"):
        protect_images(
            folder / "in", folder / "out", {"a.png": "x"}, size=(10**8, 10**8)
        )


@pytest.mark.parametrize(
    "name, content",
    [
        ("settings.json", {}),
        ("settings.json", []),
        ("settings.json", {"attack": {}, "channels": 1, "size": [4], "classes": ["a"]}),
        ("index.json", True),
        ("index.json", {"a.png": 3}),
        ("index.json", {"a.png": {}}),
    ],
    ids=str,
)
def test_states_of_releases_that_hold_something_else(folder, name, content):
    state = folder / "out" / ".skpoison"
    state.mkdir(parents=True)
    (state / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        protect_images(folder / "in", folder / "out", {"a.png": "x", "b.png": "y"})


def test_columns_that_are_empty_in_one_fold():
    X = pd.DataFrame({"age": [np.nan, np.nan], "job": [None, None]})
    encoder = make_table_encoder(X).fit(X)
    assert np.isfinite(encoder.transform(X)).all()
    other = pd.DataFrame({"age": [1.0, np.nan], "job": ["a", None]})
    assert np.isfinite(encoder.transform(other)).all()


def test_as_many_marked_rows_as_columns_of_a_polars_frame():
    polars = pytest.importorskip("polars")
    X, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 1, 1])
    attack = BlendBackdoor(budget=2, target_class=0, random_state=0)
    frame = polars.DataFrame(X, schema=["a", "b"], orient="row")
    found = attack.poison(frame, y).X.to_numpy()
    np.testing.assert_array_equal(found, attack.poison(X, y).X)


def test_no_interval_is_certain():
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(3, 10, confidence=1.0)
    X, y = np.array([[0.0], [1.0]]), [0, 1]
    model = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="confidence"):
        robustness_report(model, X, y, eps_range=[0], confidence=1.0)
