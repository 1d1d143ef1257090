"""Small data sets in every layout, container and type that people bring."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

SEEDS = st.integers(0, 2**31 - 1)
#: What a budget may be; counts are taken modulo the rows.
SHARES = st.sampled_from([0, 0.0, 0.01, 0.1, 0.29, 1 / 3, 0.5, 1.0, 1, 2, 7])

LABELS = {
    "text": lambda codes: np.array(["ant", "bee", "cat"])[codes],
    "negative": lambda codes: codes - 1,
    "bytes": lambda codes: codes.astype(np.uint8),
    "bool": lambda codes: codes > 0,
    "objects": lambda codes: np.array(["ant", "bee", "cat"], dtype=object)[codes],
    "floats": lambda codes: 2.0 * codes,
}


@st.composite
def tables(draw, n_classes=3, low=18, high=36, min_features=2, max_features=5):
    """Return X in [0, 1] of float64 and codes of classes, with repeats and constants.

    Classes are apart but overlap, and each has five rows or more.
    """
    rng = np.random.RandomState(draw(SEEDS))
    n = draw(st.integers(low, high))
    d = draw(st.integers(min_features, max_features))
    codes = rng.permutation(np.arange(n) % n_classes)
    X = (rng.rand(n, d) + 0.6 * codes[:, None]) / (1 + 0.6 * (n_classes - 1))
    if draw(st.booleans()):  # equal rows, of one class and of two
        X[3], X[7] = X[2], X[6]
        codes[3] = codes[2]
    if draw(st.booleans()):
        X[:, 0] = 0.25
    if draw(st.booleans()):  # numbers that float32 holds too
        X = np.round(64 * X) / 64
    return X, codes


@st.composite
def pictures(draw, n_classes=2, low=12, high=20, side=6):
    """Return images (n, C, side, side), uint8 or floats in [0, 1], and codes."""
    rng = np.random.RandomState(draw(SEEDS))
    n, n_channels = draw(st.integers(low, high)), draw(st.sampled_from([1, 3]))
    codes = rng.permutation(np.arange(n) % n_classes)
    X = rng.randint(0, 256, (n, n_channels, side, side))
    dtype = draw(st.sampled_from(["uint8", "float32", "float64"]))
    return (X.astype("uint8") if dtype == "uint8" else (X / 255).astype(dtype)), codes


def _strided(X):
    return np.repeat(X, 2, axis=0)[::2]


def _reversed(X):
    return X[::-1].copy()[::-1]


def _read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def _wide(X):
    return np.concatenate([X, X], axis=1)[:, : X.shape[1]]


LAYOUTS = {
    "c": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "strided": _strided,
    "reversed": _reversed,
    "read-only": _read_only,
    "wide": _wide,
}


def _frame(X, index):
    return pd.DataFrame(X, columns=[f"x {j}" for j in range(X.shape[1])], index=index)


FRAMES = {
    "list": lambda X: X.tolist(),
    "frame": lambda X: _frame(X, None),
    "odd-index": lambda X: _frame(X, [f"r{i}" for i in range(len(X))][::-1]),
    "same-index": lambda X: _frame(X, np.zeros(len(X), dtype=int)),
}
SPARSE = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_array,
}


def polars_frame(X):
    import polars

    names = [f"x {j}" for j in range(X.shape[1])]
    return polars.DataFrame(X, schema=names, orient="row")


def dense(X):
    """Return whatever container as an ndarray."""
    return X.toarray() if sparse.issparse(X) else np.asarray(X)


def as_bytes(X):
    """Return what decides whether X was written to."""
    if sparse.issparse(X):
        return X.data.tobytes() + X.indices.tobytes() + X.indptr.tobytes()
    return repr(X) if isinstance(X, list) else np.asarray(X).tobytes()


def n_allowed(budget, n):
    """Return the rows that a budget allows: floor, up to the rounding of floats."""
    return budget if isinstance(budget, int) else int(np.floor(budget * n + 1e-9))
