"""Tiles of colorectal tissue, from the TIFF originals or the CSV copies."""

import io
import re
import zipfile
from dataclasses import dataclass

import numpy as np

from skpoison.datasets._base import (
    Dataset,
    DatasetCorruptError,
    NotHere,
    Rows,
    check_hash,
    is_zip,
    read_payload,
    refusing_damage,
)
from skpoison.datasets._bunch import document, fetch_images, own_split, require
from skpoison.utils._validation import check_number

_FOLDERS = (
    "01_TUMOR",
    "02_STROMA",
    "03_COMPLEX",
    "04_LYMPHO",
    "05_DEBRIS",
    "06_MUCOSA",
    "07_ADIPOSE",
    "08_EMPTY",
)
_TILES = "Kather_texture_2016_image_tiles_5000"
_ARCHIVE = f"{_TILES}.zip"
_ARCHIVE_SHA256 = "936d0b95ae0f04f1f7b18a2b7e8c55776c3e887d102f645bcee752d1a6626a32"
_CSV = re.compile(r"hmnist_\d+_\d+_(L|RGB)\.csv")
_PER_CLASS = 625


def _tiles_in_zip(path):
    """Yield (class, bytes of a TIFF file), sorted by class and name."""
    with refusing_damage(path, "zip file"), zipfile.ZipFile(path) as archive:
        tiles = []
        for name in archive.namelist():
            *_, folder, file = ["", *name.split("/")]
            if folder in _FOLDERS and file.endswith(".tif") and file[0] != ".":
                tiles.append((_FOLDERS.index(folder), file, name))
        for k, _, name in sorted(tiles):
            yield k, archive.read(name)


def _tiles_in_folder(path):
    """Yield (class, bytes of a TIFF file), sorted by class and name."""
    for k, folder in enumerate(_FOLDERS):
        for file in sorted((path / folder).glob("[!.]*.tif")):
            yield k, file.read_bytes()


def _read_tiles(path, size, grayscale, verify):
    """Return images (n, C, size, size) and labels of the TIFF tiles."""
    image_module = require("PIL.Image", "pillow", "fetch_ch_mnist with TIFF tiles")
    images, labels = [], []
    for k, data in (_tiles_in_folder if path.is_dir() else _tiles_in_zip)(path):
        with (
            refusing_damage(path, f"tile of {_FOLDERS[k]}"),
            image_module.open(io.BytesIO(data)) as tile,
        ):
            tile = tile.convert("L" if grayscale else "RGB")
            tile = tile.resize((size, size), image_module.Resampling.BOX)
        images.append(np.asarray(tile))
        labels.append(k)
    counts = np.bincount(labels, minlength=len(_FOLDERS)).tolist()
    if (verify and counts != [_PER_CLASS] * len(_FOLDERS)) or 0 in counts:
        raise DatasetCorruptError(
            f"{path}: {counts} tiles in the classes, expected {_PER_CLASS} in each"
        )
    pixels = np.stack(images)
    pixels = pixels[:, None] if grayscale else pixels.transpose(0, 3, 1, 2)
    return pixels, np.array(labels)


def _read_csv(path, size, grayscale):
    """Return images (n, C, size, size) and labels of a CSV file."""
    data = read_payload(path)
    header = data.partition(b"\n")[0].decode("ascii", "replace").strip().split(",")
    if header[-1].strip('"') != "label":
        raise DatasetCorruptError(
            f"{path}: last column {header[-1]!r}, expected pixel0000, ..., label"
        )
    try:
        table = np.loadtxt(
            io.BytesIO(data), delimiter=",", skiprows=1, dtype=np.int16, ndmin=2
        )
    except ValueError as error:
        raise DatasetCorruptError(f"{path}: {error}") from error
    pixels, labels = table[:, :-1], table[:, -1]
    n_classes = len(_FOLDERS)
    found = np.unique(labels)[:12].tolist()
    counts = np.bincount(labels.clip(0, n_classes + 1), minlength=n_classes + 2)
    if counts.tolist() != [0, *[_PER_CLASS] * n_classes, 0]:
        raise DatasetCorruptError(
            f"{path}: {len(labels)} rows with labels {found}, "
            f"expected {n_classes * _PER_CLASS} with labels 1 to {n_classes}, "
            f"{_PER_CLASS} of each. The skin lesions of HAM10000 (10015 rows, labels 0 "
            "to 6) are distributed under the same file names."
        )
    n_channels = 1 if grayscale else 3
    if pixels.shape[1] != n_channels * size**2:
        raise ValueError(
            f"size={size!r} with grayscale={grayscale!r} needs {n_channels} x {size} x "
            f"{size} pixels, but {path} holds {_describe_width(pixels.shape[1])}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise DatasetCorruptError(f"{path}: pixels outside of 0 to 255")
    images = pixels.astype(np.uint8).reshape(-1, size, size, n_channels)
    return images.transpose(0, 3, 1, 2), labels - 1


def _describe_width(n_pixels):
    for n_channels in (1, 3):
        side = round((n_pixels / n_channels) ** 0.5)
        if n_channels * side**2 == n_pixels:
            return f"{n_channels} x {side} x {side}"
    return f"{n_pixels}"


@dataclass
class _CHMNIST(Dataset):
    size: int = 64
    grayscale: bool = True

    name = "ch_mnist"
    page = "https://zenodo.org/record/53169"
    forms = (
        f"{_ARCHIVE}, the folder {_TILES} from it, or hmnist_64_64_L.csv and the like"
    )
    target_names = tuple(folder[3:].lower() for folder in _FOLDERS)
    descr = """\
CH-MNIST
--------

Tiles of stained tissue from colorectal cancer, 74 micrometres wide, from ten slides
of the University Medical Center Mannheim.

:Rows: 5,000; the split into 4,000 and 1,000 is this library's
:Features: tiles of 150 x 150 pixels, RGB, here reduced to `size` and to grey
:Classes: 8 kinds of tissue, 625 tiles each
:Licence: CC BY 4.0
:Origin: https://zenodo.org/record/53169, https://doi.org/10.5281/zenodo.53169

Known defects: tiles of one slide are alike and are found on both sides of any split
by tile. The HAM10000 skin lesions are distributed under the names of the CSV copies;
they are refused. The CSV copies were reduced by another method than is used here,
so their pixels differ.

.. rubric:: References

* Kather, J. N. et al. (2016). "Multi-class texture analysis in colorectal cancer
  histology." Scientific Reports 6, 27988.
"""

    def find(self, place, subset):
        if place.is_file():
            return place
        if (place / _ARCHIVE).is_file():
            return place / _ARCHIVE
        for folder in (place, place / _TILES, place / _TILES / _TILES):
            if all((folder / name).is_dir() for name in _FOLDERS):
                return folder
        colours = "L" if self.grayscale else "RGB"
        best = place / f"hmnist_{self.size}_{self.size}_{colours}.csv"
        tables = [best] if best.is_file() else sorted(place.glob("hmnist_*.csv"))
        for table in tables:
            if _CSV.fullmatch(table.name):
                return table
        raise NotHere("has none of the accepted forms")

    def read(self, path, subset, verify):
        hashed = path.is_file() and is_zip(path)
        if hashed and verify:
            check_hash(path, "it", path, _ARCHIVE_SHA256)
        if hashed or path.is_dir():
            images, labels = _read_tiles(path, self.size, self.grayscale, verify)
        else:
            images, labels = _read_csv(path, self.size, self.grayscale)
        return Rows(
            values=images,
            target=labels.astype(np.int64),
            index=np.arange(len(labels), dtype=np.int64),
            split=own_split(labels),
            verified=hashed and verify,
        )

    def files(self, subset):
        return {_ARCHIVE: [f"https://zenodo.org/record/53169/files/{_ARCHIVE}"]}

    def check(self, path, *, name):
        check_hash(path, "it", path, _ARCHIVE_SHA256)


CH_MNIST = _CHMNIST()


@document
def fetch_ch_mnist(
    *,
    size=64,
    grayscale=True,
    data_home=None,
    path=None,
    subset="train",
    n_samples=None,
    random_state=0,
    layout="flat",
    dtype="float32",
    return_X_y=False,
    as_frame=False,
    download_if_missing=True,
    n_retries=3,
    delay=1.0,
    timeout=30.0,
    verify=True,
):
    """Load CH-MNIST: 5,000 tiles of colorectal tissue in 8 classes.

    It is looked for at `path`; or else in the data home and on the network (258 MB).
    The original tiles need Pillow.

    Parameters
    ----------
    size : int, default=64
        Height and width of the images; 64 and grey as in [2]_.
    grayscale : bool, default=True
        Whether to turn the colours into one channel.
    %(place)s
    subset : {"train", "test", "all"}, default="train"
        Which rows of the split described in the notes; "all" is in the order of the
        file.
    %(sample)s
    %(image)s
    %(output)s
    %(no_frame)s
    %(network)s

    Returns
    -------
    bunch : Bunch or tuple (data, target)
        With the fields:

        %(bunch)s
        %(own)s

    Raises
    ------
    %(raises)s
    ValueError
        The file is a CSV copy of another size than asked for.

    See Also
    --------
    find_dataset : Where a fetch would find its files, without loading them.

    Notes
    -----
    The authors give no split. The one here draws 125 tiles of each class for
    testing, by ``RandomState(0)`` over the tiles sorted by class and name, or over
    the rows of a CSV copy.

    Tiles are reduced with Pillow: ``convert("L")``, then ``resize`` with the box
    filter. Only the archive as published has a known hash; of an extracted folder or
    a CSV copy the classes are counted, and `verified` is False.

    References
    ----------
    .. [1] Kather, J. N. et al. (2016). "Multi-class texture analysis in colorectal
       cancer histology." Scientific Reports 6, 27988.
    .. [2] Fang, M., Cao, X., Jia, J. and Gong, N. Z. (2020). "Local model poisoning
       attacks to Byzantine-robust federated learning." USENIX Security.

    Examples
    --------
    >>> from skpoison.datasets import fetch_ch_mnist
    >>> X, y = fetch_ch_mnist(size=32, return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (4000, 1024)
    """
    params = locals()
    check_number("size", size, low=1, integer=True)
    dataset = _CHMNIST(params.pop("size"), params.pop("grayscale"))
    return fetch_images(dataset, **params)
