import gzip
import hashlib
import io
import zipfile

import numpy as np
import pytest

from skpoison.datasets import (
    DatasetCorruptError,
    DatasetNotFoundError,
    _ch_mnist,
    fetch_ch_mnist,
    find_dataset,
)

FOLDERS = _ch_mnist._FOLDERS
TILES = "Kather_texture_2016_image_tiles_5000"


def csv_bytes(labels, n_pixels, offset=0):
    """Pixels that tell the row: its number in base 256, then the column's."""
    rows = np.arange(len(labels))
    pixels = np.tile(np.arange(n_pixels) % 256, (len(labels), 1))
    pixels[:, 0], pixels[:, 1] = rows // 256, rows % 256
    header = ",".join([*(f"pixel{i:04d}" for i in range(n_pixels)), "label"])
    out = io.StringIO()
    np.savetxt(out, np.column_stack([pixels, labels]), fmt="%d", delimiter=",")
    return (header + "\n" + out.getvalue()).encode()


@pytest.fixture(scope="module")
def grey_8():
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(1, 9), 625))
    return labels, csv_bytes(labels, 64)


def test_csv(tmp_path, grey_8):
    labels, data = grey_8
    (tmp_path / "hmnist_8_8_L.csv").write_bytes(data)
    params = {"data_home": tmp_path, "size": 8, "dtype": "uint8"}
    bunch = fetch_ch_mnist(**params, subset="all", layout="nchw")
    assert bunch.data.shape == (5000, 1, 8, 8)
    assert bunch.images.shape == (5000, 8, 8)
    np.testing.assert_array_equal(bunch.target, labels - 1)
    assert bunch.data[300, 0, 0, :3].tolist() == [1, 44, 2]
    assert bunch.verified is False
    assert bunch.target_names[5] == "mucosa"

    train, test = (fetch_ch_mnist(**params, subset=s) for s in ("train", "test"))
    assert np.bincount(train.target).tolist() == [500] * 8
    assert np.bincount(test.target).tolist() == [125] * 8
    both = np.concatenate([train.index, test.index])
    assert sorted(both) == list(range(5000))
    np.testing.assert_array_equal(bunch.split[test.index], 1)
    np.testing.assert_array_equal(train.target, labels[train.index] - 1)


def test_csv_of_colours(tmp_path, grey_8):
    labels, _ = grey_8
    path = tmp_path / "hmnist_8_8_RGB.csv.gz"
    path.write_bytes(gzip.compress(csv_bytes(labels, 192), compresslevel=1))
    bunch = fetch_ch_mnist(
        path=path, size=8, grayscale=False, layout="nhwc", dtype="uint8"
    )
    assert bunch.data.shape == bunch.images.shape == (4000, 8, 8, 3)
    assert bunch.data[0, 0, 1].tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match="1 x 8 x 8 pixels, but .* holds 3 x 8 x 8"):
        fetch_ch_mnist(path=path, size=8)


def test_csv_of_another_size(tmp_path, grey_8):
    path = tmp_path / "hmnist_8_8_L.csv"
    path.write_bytes(grey_8[1])
    with pytest.raises(ValueError, match="1 x 64 x 64 pixels, but .* holds 1 x 8 x 8"):
        fetch_ch_mnist(data_home=tmp_path)
    with pytest.raises(ValueError, match="3 x 8 x 8 pixels, but .* holds 1 x 8 x 8"):
        fetch_ch_mnist(path=path, size=8, grayscale=False)
    with pytest.raises(ValueError, match="size must be >= 1"):
        fetch_ch_mnist(path=path, size=0)


def test_the_csv_that_fits_is_preferred(tmp_path):
    for name in ("hmnist_28_28_L.csv", "hmnist_64_64_L.csv", "other.csv"):
        (tmp_path / name).touch()
    assert find_dataset("ch_mnist", path=tmp_path) == str(
        tmp_path / "hmnist_64_64_L.csv"
    )
    found = _ch_mnist._CHMNIST(size=28).find(tmp_path, "all")
    assert found.name == "hmnist_28_28_L.csv"


def test_the_skin_lesions_are_refused(tmp_path):
    labels = np.arange(10_015) % 7
    (tmp_path / "hmnist_8_8_L.csv").write_bytes(csv_bytes(labels, 4))
    with pytest.raises(DatasetCorruptError, match="10015 rows.*HAM10000"):
        fetch_ch_mnist(data_home=tmp_path, size=8, verify=False)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a,b\n1,2\n", "last column 'b'"),
        (b"pixel0000,label\n1,x\n", "could not convert"),
        (b"pixel0000,label\n1,1\n", "1 rows with labels \\[1\\]"),
        (b"", "last column"),
    ],
)
def test_bad_csv(tmp_path, data, message):
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(DatasetCorruptError, match=message):
        fetch_ch_mnist(path=tmp_path / "x.csv")


def test_pixels_out_of_range(tmp_path, grey_8):
    data = grey_8[1].replace(b"\n0,0,2,", b"\n0,0,300,", 1)
    (tmp_path / "hmnist_8_8_L.csv").write_bytes(data)
    with pytest.raises(DatasetCorruptError, match="pixels outside"):
        fetch_ch_mnist(data_home=tmp_path, size=8)


@pytest.fixture(scope="module")
def tiles():
    """{folder: {name: bytes}} of five tiles a class, whose left half is black."""
    image_module = pytest.importorskip("PIL.Image")
    result = {}
    for k, folder in enumerate(FOLDERS):
        result[folder] = {}
        for i in range(5):
            pixels = np.full((6, 6, 3), (20 * k, 10 * i, 255), np.uint8)
            pixels[:, :3] = 0
            out = io.BytesIO()
            image_module.fromarray(pixels).save(out, "TIFF")
            result[folder][f"tile_{i}.tif"] = out.getvalue()
    return result


def write_zip(tiles, path):
    with zipfile.ZipFile(path, "w") as archive:
        # Out of order, as zip files may be; the last two are not tiles.
        for folder in reversed(tiles):
            for name in reversed(tiles[folder]):
                archive.writestr(f"{TILES}/{folder}/{name}", tiles[folder][name])
        archive.writestr(f"__MACOSX/{TILES}/01_TUMOR/._tile_0.tif", b"x")
        archive.writestr("../readme.txt", b"x")


@pytest.mark.parametrize("form", ["zip", "folder", "parent"])
def test_tiles(tmp_path, tiles, form):
    path = tmp_path
    if form == "zip":
        write_zip(tiles, tmp_path / f"{TILES}.zip")
    else:
        for folder, files in tiles.items():
            (tmp_path / TILES / folder).mkdir(parents=True)
            for name, data in files.items():
                (tmp_path / TILES / folder / name).write_bytes(data)
        path = tmp_path / TILES if form == "folder" else tmp_path
    params = {"path": path, "subset": "all", "size": 2, "verify": False}
    colour = fetch_ch_mnist(**params, grayscale=False, layout="nhwc", dtype="uint8")
    assert colour.target.tolist() == np.repeat(np.arange(8), 5).tolist()
    assert (colour.data[:, :, 0] == 0).all()  # the box filter does not mix halves
    assert colour.data[13, 0, 1].tolist() == [40, 30, 255]
    assert colour.split.sum() == 8
    grey = fetch_ch_mnist(**params, dtype="uint8")
    assert grey.data.shape == (40, 4)
    weights = 0.299 * 40 + 0.587 * 30 + 0.114 * 255
    assert abs(int(grey.data[13, 1]) - weights) <= 1
    with pytest.raises(DatasetCorruptError, match="sha256|expected 625 in each"):
        fetch_ch_mnist(**{**params, "verify": True})


def test_hash_of_the_archive(tmp_path, tiles, monkeypatch):
    path = tmp_path / f"{TILES}.zip"
    write_zip(tiles, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(_ch_mnist, "_ARCHIVE_SHA256", digest)
    monkeypatch.setattr(_ch_mnist, "_PER_CLASS", 5)
    assert fetch_ch_mnist(path=path, size=4).verified


def test_damaged_tiles(tmp_path, tiles):
    path = tmp_path / f"{TILES}.zip"
    write_zip({**tiles, "05_DEBRIS": {"tile.tif": b"no tiff"}}, path)
    with pytest.raises(DatasetCorruptError, match="damaged tile of 05_DEBRIS"):
        fetch_ch_mnist(path=path, verify=False)
    write_zip({**tiles, "05_DEBRIS": {}}, path)
    with pytest.raises(DatasetCorruptError, match="expected 625 in each"):
        fetch_ch_mnist(path=path, verify=False)
    write_zip(tiles, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetCorruptError, match="damaged zip"):
        fetch_ch_mnist(path=path, verify=False)


def test_nothing_accepted(tmp_path):
    (tmp_path / "01_TUMOR").mkdir()
    with pytest.raises(DatasetNotFoundError, match="hmnist_64_64_L.csv and the like"):
        fetch_ch_mnist(path=tmp_path)
