"""Row keys: how an attack recognises, later, a row that it has seen."""

import hashlib

import numpy as np

_BLOCK = 4096


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
            rows = np.asarray(block, dtype=dtype, order="C").reshape(len(block), -1)
        rows = rows + rows.dtype.type(0)  # a copy in which -0.0 is 0.0
        keys[start : start + _BLOCK] = [
            hashlib.blake2b(row, digest_size=16).hexdigest()
            for row in rows.view(np.uint8)
        ]
    return keys
