"""From the rows of a data set to what a fetcher returns, and its documentation."""

import importlib
import inspect
import math

import numpy as np

from skpoison.datasets._base import SPLITS
from skpoison.utils import draw_seed
from skpoison.utils._validation import check_number, check_option

LAYOUTS = ("flat", "nchw", "nhwc")
DTYPES = ("float32", "float64", "uint8")
_CHANNELS = {1: ("pixel",), 3: ("red", "green", "blue")}

_DOCS = {
    "place": """\
data_home : str or path-like, default=None
    Folder of downloaded data, see :func:`get_data_home`.
path : str or path-like, default=None
    File or folder that holds the data. When given it is the only place looked at.""",
    "sample": """\
n_samples : int or float, default=None
    Rows to draw, keeping the shares of the classes and the order of the file. An
    int is their number, a float in (0, 1] a share, rounded up; None takes all.
random_state : int, RandomState instance or None, default=0
    Which rows `n_samples` draws: an int gives the same rows on every machine.""",
    "image": """\
layout : {"flat", "nchw", "nhwc"}, default="flat"
    Axes of the data: one row an image, in the order of "nchw", or channels first,
    or channels last. Grey images have one channel.
dtype : {"float32", "float64", "uint8"}, default="float32"
    Floats are pixels divided by 255; "uint8" keeps them as they are.""",
    "output": """\
return_X_y : bool, default=False
    Return ``(data, target)`` instead of a Bunch.""",
    "no_frame": """\
as_frame : bool, default=False
    Here for scikit-learn's signature; images are never a data frame.""",
    "network": """\
download_if_missing : bool, default=True
    False never uses the network; neither does any call while the environment
    variable ``SKPOISON_OFFLINE`` is set.
n_retries : int, default=3
    Further rounds over the addresses after a failed one.
delay : float, default=1.0
    Seconds between the rounds.
timeout : float, default=30.0
    Seconds without an answer after which an address is given up.
verify : bool, default=True
    Compare what was read with the published hashes.""",
    "bunch": """\
data : ndarray
    The rows, as `layout` and `dtype` ask.
target : ndarray of int64
    Classes, from 0.
target_names : list of str
    Their names.
images : uint8 ndarray of shape (n, height, width) or (n, height, width, 3)
    The same images for display.""",
    "origin": """\
feature_names : list of str
    Names of the columns.
index : ndarray of int64
    Position of each row in the original data set{index}.
split : ndarray of int8
    0 for a row of the training set, 1 for one of the test set.
DESCR : str
    Origin, licence and known defects.
source : str
    Which step found the data, and where.
url : str
    Where the data set lives.
verified : bool
    Whether what was read was compared with published hashes and agreed.""",
    "raises": """\
DatasetNotFoundError
    Nothing was found; the message says where and what to do.
DatasetCorruptError
    A file was found that does not hold what it should.""",
}
_DOCS["official"] = _DOCS["origin"].format(index=", the test set last")
_DOCS["own"] = _DOCS["origin"].format(index="'s file")


def document(fetcher):
    """Write the passages that all fetchers share in place of their ``%(name)s``."""
    if fetcher.__doc__ is not None:  # python -OO drops it
        lines = []
        for line in inspect.cleandoc(fetcher.__doc__).splitlines():
            text = line.strip()
            if text.startswith("%(") and text.endswith(")s"):
                indent = line[: len(line) - len(text)]
                block = _DOCS[text[2:-2]].splitlines()
                lines += [(indent + row).rstrip() for row in block]
            else:
                lines.append(line)
        fetcher.__doc__ = "\n".join([*lines, ""])
    return fetcher


def fetch_images(
    dataset,
    *,
    subset,
    n_samples,
    random_state,
    layout,
    dtype,
    return_X_y,
    as_frame,
    **where,
):
    """Do what the fetchers of image sets do; `where` goes to `Dataset.obtain`."""
    _check_common(subset, n_samples, where)
    check_option("layout", layout, LAYOUTS)
    check_option("dtype", dtype, DTYPES)
    if as_frame:
        raise ValueError(
            f"as_frame must be False for a set of images, got {as_frame!r}"
        )
    rows, source = dataset.obtain(subset=subset, **where)
    chosen = _choose(rows, subset, n_samples, random_state)
    pixels = rows.values[chosen]
    X = arrange(pixels, layout)
    X = X.copy() if dtype == "uint8" else np.divide(X, 255, dtype=dtype)
    if return_X_y:
        return X, rows.target[chosen]
    images = np.array(pixels.transpose(0, 2, 3, 1), order="C")
    _, n_channels, height, width = pixels.shape
    return _make_bunch(
        dataset,
        rows,
        chosen,
        source,
        data=X,
        images=images[..., 0] if n_channels == 1 else images,
        frame=None,
        feature_names=[
            f"{channel}_{i}_{j}"
            for channel in _CHANNELS[n_channels]
            for i in range(height)
            for j in range(width)
        ],
    )


def fetch_table(
    dataset,
    *,
    feature_names,
    subset,
    n_samples,
    random_state,
    return_X_y,
    as_frame,
    **where,
):
    """Do what the fetchers of tables do; `where` goes to `Dataset.obtain`."""
    _check_common(subset, n_samples, where)
    if as_frame:
        caller = f"fetch_{dataset.name} with as_frame=True"
        pandas = require("pandas", "pandas", caller)
    rows, source = dataset.obtain(subset=subset, **where)
    chosen = _choose(rows, subset, n_samples, random_state)
    X, y, frame = rows.values[chosen], rows.target[chosen], None
    if as_frame:
        frame = pandas.DataFrame(X, columns=feature_names)
        frame["target"] = y
        X, y = frame[feature_names], frame["target"]
    if return_X_y:
        return X, y
    return _make_bunch(
        dataset,
        rows,
        chosen,
        source,
        data=X,
        target=y,
        frame=frame,
        feature_names=list(feature_names),
    )


def require(module, package, caller):
    """Import a module of an optional package or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{caller} needs {package}: pip install {package}") from error


def arrange(pixels, layout):
    """Bring images from axes (n, C, H, W) to a layout; may share their memory."""
    if layout == "nhwc":
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return pixels.reshape(len(pixels), -1) if layout == "flat" else pixels


def own_split(target):
    """Return the split of a set that has no official one: every class 80 to 20."""
    split = np.zeros(len(target), dtype=np.int8)
    n_test = math.ceil(0.2 * len(target))
    split[_stratified(target, n_test, np.random.RandomState(0))] = SPLITS["test"]
    return split


def _check_common(subset, n_samples, where):
    check_option("subset", subset, (*SPLITS, "all"))
    check_number("n_retries", where["n_retries"], low=0, integer=True)
    check_number("delay", where["delay"], low=0)
    check_number("timeout", where["timeout"], low=0, strict=True)
    if n_samples is not None:
        # Before the data is looked for, which may take a download.
        _check_n_samples(n_samples, math.inf)


def _check_n_samples(n_samples, available):
    if isinstance(n_samples, bool | np.bool_):
        valid = False
    elif isinstance(n_samples, int | np.integer):
        valid = 1 <= n_samples <= available
    else:
        valid = isinstance(n_samples, float | np.floating) and bool(0 < n_samples <= 1)
    if not valid:
        limit = "" if math.isinf(available) else f" of at most {available}, the rows"
        raise ValueError(
            f"n_samples must be None, an int >= 1{limit} or a float in (0, 1], got "
            f"{n_samples!r}"
        )


def _choose(rows, subset, n_samples, random_state):
    """Return the positions in `rows` that were asked for, in the order of the file."""
    chosen = np.arange(len(rows.target))
    if subset != "all":
        chosen = np.flatnonzero(rows.split == SPLITS[subset])
    if n_samples is not None:
        _check_n_samples(n_samples, len(chosen))
        if isinstance(n_samples, int | np.integer):
            n_chosen = n_samples
        else:
            # Rounded first: 30 * 0.1 is a hair above 3, and means 3.
            n_chosen = max(1, math.ceil(round(n_samples * len(chosen), 6)))
        rng = np.random.RandomState(draw_seed(random_state))
        chosen = chosen[_stratified(rows.target[chosen], n_chosen, rng)]
    return chosen


def _stratified(target, n_chosen, rng):
    """Draw positions, sorted, whose classes have the shares that `target` has."""
    classes, counts = np.unique(target, return_counts=True)
    # Largest remainders, in integers: ties must not hang on rounding.
    take, remainder = np.divmod(n_chosen * counts, len(target))
    left = n_chosen - take.sum()
    take[np.argsort(-remainder, kind="stable")[:left]] += 1
    if n_chosen >= len(classes):
        while (take == 0).any():
            take[take.argmax()] -= 1
            take[take.argmin()] += 1
    drawn = [
        rng.permutation(np.flatnonzero(target == k))[:n]
        for k, n in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _make_bunch(dataset, rows, chosen, source, **fields):
    # Here because scikit-learn loads pandas, where there is one.
    from sklearn.utils import Bunch

    return Bunch(
        **{
            "target": rows.target[chosen],
            "target_names": list(dataset.target_names),
            "index": rows.index[chosen],
            "split": rows.split[chosen],
            "DESCR": dataset.descr,
            "source": source,
            "url": dataset.page,
            "verified": rows.verified,
            **fields,
        }
    )
