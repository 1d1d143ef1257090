"""Questions about all data sets at once."""

import shutil
from contextlib import suppress
from pathlib import Path

from skpoison.datasets._base import get_data_home
from skpoison.datasets._ch_mnist import CH_MNIST
from skpoison.datasets._cifar10 import CIFAR10
from skpoison.datasets._mnist import FASHION_MNIST, MNIST
from skpoison.datasets._spambase import SPAMBASE
from skpoison.utils._validation import check_option

DATASETS = {
    dataset.name: dataset
    for dataset in (CH_MNIST, CIFAR10, FASHION_MNIST, MNIST, SPAMBASE)
}


def find_dataset(name, *, data_home=None, path=None):
    """Return where a fetch would read a data set from, without the network.

    Parameters
    ----------
    name : {"ch_mnist", "cifar10", "fashion_mnist", "mnist", "spambase"}
        The data set: what follows ``fetch_`` in the name of its function.
    data_home : str or path-like, default=None
        Folder of downloaded data, see :func:`get_data_home`.
    path : str or path-like, default=None
        File or folder that holds the data. When given it is the only place looked at.

    Returns
    -------
    location : str or None
        The file or folder, None if there is none with both the training and the test
        rows. What it holds is not verified.

    Examples
    --------
    >>> from skpoison.datasets import find_dataset
    >>> find_dataset("mnist", path="/no/such/folder") is None
    True
    """
    check_option("name", name, DATASETS)
    found, _ = DATASETS[name].search(data_home, path, "all")
    return None if found is None else str(found[1])


def clear_data_home(data_home=None):
    """Delete the downloaded data sets.

    Of the data home only the folders named like a data set are deleted, which is
    where downloads go, and the home itself if nothing else is in it.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of downloaded data, see :func:`get_data_home`.

    Examples
    --------
    >>> from skpoison.datasets import clear_data_home
    >>> clear_data_home()  # doctest: +SKIP
    """
    home = Path(get_data_home(data_home))
    for name in DATASETS:
        with suppress(FileNotFoundError):
            shutil.rmtree(home / name)
    with suppress(OSError):  # not empty, or not there
        home.rmdir()
