"""CIFAR-10, from the published pickles or a numpy archive, neither of them trusted."""

import io
import pickle
import tarfile
import warnings

import numpy as np

from skpoison.datasets._base import (
    Dataset,
    DatasetCorruptError,
    NotHere,
    Rows,
    check_hash,
    is_zip,
    refusing_damage,
    splits_of,
)
from skpoison.datasets._bunch import document, fetch_images

_FOLDER = "cifar-10-batches-py"
_ARCHIVE = "cifar-10-python.tar.gz"
_SHAPE = (3, 32, 32)
_N_BATCH = 10_000
_N_HASHED = 1_000
_N_ROWS = {"train": 50_000, "test": 10_000}
_BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
# For copies that are no longer the published files: the labels as bytes, and the
# first thousand images of each batch as bytes of shape (1000, 3, 32, 32).
_LABELS_SHA256 = {
    "train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
_IMAGES_SHA256 = {
    "train": (
        "29afc5d98b6b245b6205dadfe60b5574e777abc30e0de91e95a288ef54435f58",
        "7d3a04e3721d79ea8aa62d337d6cf11adc0435115d1d0dfa52946bd493248ee1",
        "400f1b151eaba85ba03b7990ea31d52de9ca75069da63220c4223bb7726c940a",
        "6381365504be6bcc50616624b636394a3c99ab8b710a250a084101851a3a79d0",
        "fae9e46a88bf226e77d4afa1fd7674aceadaeaf70c5ec566b12c32ab5f7e52aa",
    ),
    "test": ("f167149948fc8fe0b9a76ba86421e987817f98b63761ba9415c5d42664d51f03",),
}


class _ArrayUnpickler(pickle._Unpickler):
    """Builds what a batch file consists of, and nothing that could run code.

    It is Python's own, not that in C, of which eight bytes can claim all memory.
    """

    def find_class(self, module, name):
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            # The module's name since numpy 2, under which the old one warns.
            return super().find_class("numpy._core.multiarray", name)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return super().find_class(module, name)
        raise DatasetCorruptError(
            f"a pickle asks for {module}.{name}, expected only what numpy arrays need"
        )


def _load_batch(label, data):
    """Return images (n, 3, 32, 32) and labels of one batch file."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        images, labels = batch[b"data"], np.asarray(batch[b"labels"])
    except DatasetCorruptError as error:
        raise DatasetCorruptError(f"{label}: {error}") from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise DatasetCorruptError(f"{label}: not a batch file ({error!r})") from error
    return _checked(label, images, labels)


def _checked(label, images, labels):
    """Return images as (n, 3, 32, 32) and labels as (n,), or refuse them."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = getattr(images, "dtype", type(images).__name__)
        raise DatasetCorruptError(f"{label}: images of type {found}, expected uint8")
    if images.shape[1:] == (3072,):
        images = images.reshape(-1, *_SHAPE)  # planes of red, green and blue
    elif images.shape[1:] == (32, 32, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.shape[1:] != _SHAPE:
        raise DatasetCorruptError(
            f"{label}: images of shape {images.shape}, expected (n, 32, 32, 3), "
            "(n, 3, 32, 32) or (n, 3072)"
        )
    labels = np.asarray(labels).ravel()  # Keras keeps them as a column
    if len(labels) != len(images):
        raise DatasetCorruptError(
            f"{label}: {len(images)} images but {len(labels)} labels"
        )
    if not np.isin(labels, np.arange(10)).all():
        raise DatasetCorruptError(f"{label}: labels other than 0 to 9")
    return images, labels.astype(np.int64)


def _read_members(path, names):
    """Return {name: bytes} of batch files in a folder or the published archive."""
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names}
    wanted = {f"{_FOLDER}/{name}": name for name in names}
    members = {}
    # Read by name: nothing is ever extracted to a path that the archive gives.
    with refusing_damage(path, "archive"), tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name in wanted:
                file = archive.extractfile(member)
                assert file is not None  # since isfile
                members[wanted[member.name]] = file.read()
    missing = sorted(set(names) - set(members))
    if missing:
        raise DatasetCorruptError(f"{path}: lacks {', '.join(missing)}")
    return members


def _read_npz(path, split, verify):
    """Return images, labels, positions in the split and whether hashes agreed."""
    with (
        refusing_damage(path, "npz file"),
        np.load(path, allow_pickle=False) as archive,
    ):
        arrays = {name.lower(): name for name in archive.files}

        def get(name):
            return archive[arrays[name]] if name in arrays else None

        images, labels = get(f"x_{split}"), get(f"y_{split}")
        index = get(f"index_{split}")
    if images is None or labels is None:
        raise DatasetCorruptError(
            f"{path}: holds {', '.join(sorted(arrays.values()))}, expected X_{split} "
            f"and y_{split}"
        )
    images, labels = _checked(path, images, labels)
    if len(images) == _N_ROWS[split]:
        if verify:
            data = labels.astype(np.uint8).tobytes()
            check_hash(path, f"y_{split}", data, _LABELS_SHA256[split])
            for i, expected in enumerate(_IMAGES_SHA256[split]):
                first = images[i * _N_BATCH :][:_N_HASHED].tobytes()
                what = f"{_N_HASHED} rows from {i * _N_BATCH} on of X_{split}"
                check_hash(path, what, first, expected)
        return images, labels, np.arange(len(labels)), verify
    warnings.warn(
        f"{path}: {len(images)} of the {_N_ROWS[split]} rows of the {split} split, "
        "which cannot be verified.",
        UserWarning,
        stacklevel=2,
    )
    index = np.arange(len(labels)) if index is None else np.asarray(index).ravel()
    if len(index) != len(labels):
        raise DatasetCorruptError(
            f"{path}: index_{split} has {len(index)} entries for {len(labels)} rows"
        )
    if index.dtype.kind not in "iu":
        raise DatasetCorruptError(
            f"{path}: index_{split} holds {index.dtype}, expected integers"
        )
    return images, labels, index, False


class _CIFAR10(Dataset):
    name = "cifar10"
    page = "https://www.cs.toronto.edu/~kriz/cifar.html"
    forms = (
        f"{_ARCHIVE}, the folder {_FOLDER} from it, or cifar10.npz with X_train, "
        "y_train, X_test and y_test"
    )
    hints = ("Keras, torchvision: name their download with path=...",)
    target_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    descr = """\
CIFAR-10
--------

Colour photographs of animals and vehicles, a labelled part of the Tiny Images.

:Rows: 50,000 for training, 10,000 for testing
:Features: 3,072 pixels of 3 x 32 x 32, planes of red, green and blue, 0 to 255
:Classes: 10, balanced in both parts
:Licence: none is stated; research use with citation
:Origin: https://www.cs.toronto.edu/~kriz/cifar.html, the Python version. Published
  indices of poisons and targets refer to its order; TensorFlow's copy has another.

Known defects: some test images nearly repeat training images. Copies that went
through JPEG are common on the web and cost a network trained on the original pixels
about ten points of test accuracy; verification refuses them.

.. rubric:: References

* Krizhevsky, A. (2009). "Learning multiple layers of features from tiny images."
  Technical report, University of Toronto.
"""

    def find(self, place, subset):
        if place.is_file():
            return place
        needed = [name for split in splits_of(subset) for name in _BATCHES[split]]
        for folder in (place, place / _FOLDER):
            if all((folder / name).is_file() for name in needed):
                return folder
        for name in (_ARCHIVE, "cifar10.npz"):
            if (place / name).is_file():
                return place / name
        raise NotHere("has none of the accepted forms")

    def read(self, path, subset, verify):
        splits = splits_of(subset)
        if path.is_file() and is_zip(path):
            parts = {split: _read_npz(path, split, verify) for split in splits}
        else:
            names = [name for split in splits for name in _BATCHES[split]]
            members = _read_members(path, names)
            parts = {}
            for split in splits:
                batches = []
                for name in _BATCHES[split]:
                    label, data = f"{path}/{name}", members.pop(name)
                    if verify:  # before it is unpickled
                        check_hash(label, "it", data, _MD5[name], algorithm="md5")
                    batches.append(_load_batch(label, data))
                images, labels = map(np.concatenate, zip(*batches, strict=True))
                parts[split] = images, labels, np.arange(len(labels)), verify
        return Rows.join(parts, _N_ROWS["train"])

    def files(self, subset):
        return {_ARCHIVE: ["https://www.cs.toronto.edu/~kriz/" + _ARCHIVE]}

    def check(self, path, *, name):
        check_hash(path, "it", path, _ARCHIVE_MD5, algorithm="md5")


CIFAR10 = _CIFAR10()


@document
def fetch_cifar10(
    *,
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
    """Load CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in 10 classes.

    It is looked for at `path`; or else in the data home and on the network (170 MB).

    Parameters
    ----------
    %(place)s
    subset : {"train", "test", "all"}, default="train"
        Which rows; "all" has the training rows first.
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
        %(official)s

    Raises
    ------
    %(raises)s

    See Also
    --------
    fetch_fashion_mnist : A set of grey images that a CPU trains on in seconds.
    find_dataset : Where a fetch would find its files, without loading them.

    Notes
    -----
    Batch files are pickles. They are read by an unpickler that builds numpy arrays
    and refuses all else, after their hashes were compared.

    Of a ``.npz`` with all rows, the labels and the first thousand images of each
    batch are verified. One with fewer rows is read with a warning; `index` then
    comes from its arrays ``index_train`` and ``index_test`` (positions in their
    split), if it has them, and counts its rows if not.

    References
    ----------
    .. [1] Krizhevsky, A. (2009). "Learning multiple layers of features from tiny
       images." Technical report, University of Toronto.

    Examples
    --------
    >>> from skpoison.datasets import fetch_cifar10
    >>> photos = fetch_cifar10(subset="test", layout="nchw")  # doctest: +SKIP
    >>> photos.target_names[photos.target[0]]  # doctest: +SKIP
    'cat'
    """
    return fetch_images(CIFAR10, **locals())
