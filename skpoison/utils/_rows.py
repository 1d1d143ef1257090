"""Row keys: how an attack recognises, later, a row that it has seen."""

import hashlib

import numpy as np

_BLOCK = 4096


def _digest(row):
    return hashlib.blake2b(row, digest_size=16).hexdigest()


def row_keys(X):
    """Name each row of X by a hash of its content.

    Equal rows get equal keys, whatever their order, batch, memory layout or
    floating type: content is compared at float32, the resolution that neural
    networks train at, and -0.0 equals 0.0.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Dense, numeric.

    Returns
    -------
    keys : ndarray of shape (n_samples,), dtype <U32
        128-bit BLAKE2b digests in hexadecimal.

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
    for start in range(0, len(X), _BLOCK):  # bounded memory, also for a memmap
        block = X[start : start + _BLOCK]
        with np.errstate(over="ignore"):
            single = np.asarray(block, dtype=np.float32, order="C")
        single = single.reshape(len(block), -1) + np.float32(0)  # -0.0 becomes 0.0
        keys[start : start + _BLOCK] = [_digest(row) for row in single.view(np.uint8)]
        if block.dtype == np.float64:
            # beyond float32's range different rows would all read as infinity
            for i in np.flatnonzero(np.isinf(single).any(axis=1)):
                keys[start + i] = _digest(np.ascontiguousarray(block[i]) + 0.0)
    return keys
