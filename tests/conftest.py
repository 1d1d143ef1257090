"""One thread, no network, and real data only where it is already on the machine."""

import gc
import os

# Before numpy and torch start their thread pools.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SKPOISON_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

from pathlib import Path

import pytest

try:
    import torch
except ImportError:
    torch = None
else:
    torch.set_num_threads(1)

# Where .ci/fetch-data puts the data sets unless told otherwise.
FETCHED = Path(__file__).resolve().parents[1] / ".data"
if FETCHED.is_dir():
    os.environ.setdefault("SKPOISON_DATA", str(FETCHED))


def pytest_collection_finish(session):
    # What was collected stays: no need to look at it in each garbage collection.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    # A test's own draws are the same in every run and in any order of tests.
    if torch:
        torch.manual_seed(0)
    for marker in item.iter_markers("dataset"):
        for name in marker.args:
            require_dataset(name)
    if item.get_closest_marker("gpu") and not (torch and torch.cuda.is_available()):
        pytest.skip("needs a CUDA device")


def require_dataset(name):
    """Skip the test without the data set, or fail it where CI promises the data."""
    from skpoison.datasets import find_dataset

    if find_dataset(name) is not None:
        return
    required = os.environ.get("SKPOISON_REQUIRE_DATA", "").split(",")
    stop = pytest.fail if name in [entry.strip() for entry in required] else pytest.skip
    stop(f"needs the data set {name}: run .ci/fetch-data, or set SKPOISON_DATA")
