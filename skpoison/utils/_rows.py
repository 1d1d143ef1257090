"""Rows: keys by which one is recognised later, and which of them to keep."""

import hashlib
import warnings

import numpy as np

_BLOCK, _BLOCK_BYTES = 4096, 2**23  # rows that are copied at a time, at most


def row_keys(X, dtype=np.float32):
    """Name each row of X by a hash of its content.

    Equal rows get equal keys, whatever their order, batch or memory layout, and -0.0
    equals 0.0.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Dense, numeric.
    dtype : {numpy.float32, numpy.float64}, default=numpy.float32
        Resolution at which content is compared. At float32, that of neural networks,
        a float64 array and its float32 copy get the same keys; at float64, rows that
        differ in the digits that float32 drops are told apart.

    Returns
    -------
    keys : ndarray of shape (n_samples,), dtype <U32
        128-bit BLAKE2b digests in hexadecimal.

    Notes
    -----
    Besides X and the keys, 128 bytes a row, memory holds about 20 MB at any time, so
    that X can be a ``numpy.memmap`` of any size.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.utils import row_keys
    >>> X = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]])
    >>> keys = row_keys(X)
    >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2])
    (True, False)
    >>> bool((row_keys(X.astype("float32")) == keys).all())
    True
    """
    X = np.asarray(X)
    keys = np.empty(len(X), dtype="<U32")
    row_bytes = int(np.prod(X.shape[1:])) * np.dtype(dtype).itemsize
    step = max(1, min(_BLOCK, _BLOCK_BYTES // max(1, row_bytes)))
    for start in range(0, len(X), step):  # bounded memory, also for a memmap
        block = X[start : start + step]
        with np.errstate(over="ignore"):
            rows = np.asarray(block, dtype=dtype, order="C").reshape(len(block), -1)
        rows = rows + rows.dtype.type(0)  # a copy in which -0.0 is 0.0
        keys[start : start + step] = [
            hashlib.blake2b(row, digest_size=16).hexdigest()
            for row in rows.view(np.uint8)
        ]
    return keys


def keep_every_class(is_clean, y, scores, n_keep=5, quiet=False):
    """Return a mask of clean rows in which no class is missing.

    Parameters
    ----------
    is_clean : ndarray of bool of shape (n_samples,)
    y : ndarray of shape (n_samples,)
    scores : ndarray of shape (n_samples,)
        Larger for more suspicious.
    n_keep : int, default=5
        Rows of a class that are kept, the least suspicious, where all are rejected.
    quiet : bool, default=False
        For a rule that keeps some of each class as its own, not as a last resort.

    Warns
    -----
    UserWarning
        There is such a class.
    """
    lost = np.setdiff1d(y, y[is_clean])
    if len(lost) == 0:
        return is_clean
    if not quiet:
        warnings.warn(
            f"the detector rejects every row of {lost.tolist()}: the {n_keep} least "
            "suspicious rows of each are kept",
            UserWarning,
            stacklevel=4,
        )
    is_clean = is_clean.copy()
    for label in lost:
        rows = np.flatnonzero(y == label)
        is_clean[rows[np.argsort(-scores[rows], kind="stable")[-n_keep:]]] = True
    return is_clean
