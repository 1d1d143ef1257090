"""Real data sets in scikit-learn's conventions, and one generator.

Fetchers look for files that are already on the machine before they use the
network; nothing is bundled.
"""

from skpoison.datasets._base import (
    DatasetCorruptError,
    DatasetNotFoundError,
    get_data_home,
)
from skpoison.datasets._ch_mnist import fetch_ch_mnist
from skpoison.datasets._cifar10 import fetch_cifar10
from skpoison.datasets._find import clear_data_home, find_dataset
from skpoison.datasets._gratings import make_gratings
from skpoison.datasets._mnist import fetch_fashion_mnist, fetch_mnist
from skpoison.datasets._spambase import fetch_spambase

__all__ = [
    "DatasetCorruptError",
    "DatasetNotFoundError",
    "clear_data_home",
    "fetch_ch_mnist",
    "fetch_cifar10",
    "fetch_fashion_mnist",
    "fetch_mnist",
    "fetch_spambase",
    "find_dataset",
    "get_data_home",
    "make_gratings",
]
