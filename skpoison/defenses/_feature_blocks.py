"""Features block by block, in float64: what is larger than memory stays on disk."""

import numpy as np

BLOCK_VALUES = 2**21  # at a time, 16 MiB


def cuts(n_rows, n_values):
    """Return slices of rows that hold `BLOCK_VALUES` values at most, or one row."""
    step = max(1, BLOCK_VALUES // max(1, n_values))
    return [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]


class CentredTiles:
    """Tiles of some rows of features minus their mean, and how large they get.

    Parameters
    ----------
    F : ndarray of shape (n_samples, n_values)
        Of numbers, in memory or not.
    rows : ndarray of int

    Attributes
    ----------
    scale : float
        The largest absolute value; 0 where all rows are equal.
    """

    def __init__(self, F, rows):
        self.F, self.rows = F, rows
        self.first, self.mean = F[rows[0]].astype(np.float64), np.zeros(F.shape[1])
        total, low, high = np.zeros((3, F.shape[1]))
        for cut in cuts(len(rows), F.shape[1]):
            tile = self.tile(cut)  # minus the first row as yet
            total += tile.sum(axis=0)
            low = np.minimum(low, tile.min(axis=0))
            high = np.maximum(high, tile.max(axis=0))
        self.mean = total / len(rows)
        self.scale = max((high - self.mean).max(), (self.mean - low).max())

    def tile(self, cut, columns=slice(None)):
        """Return some of the rows, and of the columns, in memory."""
        tile = self.F[:, columns][self.rows[cut]].astype(np.float64, copy=False)
        tile -= self.first[columns]
        tile -= self.mean[columns]
        return tile

    def gram(self, dtype):
        """Return the smaller Gram matrix of the rows over their scale."""
        n_rows, n_values = len(self.rows), self.F.shape[1]
        is_tall = n_rows >= n_values
        gram = np.zeros((min(n_rows, n_values),) * 2, dtype)
        for cut in cuts(n_rows, n_values) if is_tall else cuts(n_values, n_rows):
            tile = self.tile(cut) if is_tall else self.tile(slice(None), cut)
            tile /= self.scale
            tile = tile.astype(dtype, copy=False)
            gram += tile.T @ tile if is_tall else tile @ tile.T
        return gram

    def project(self, vectors):
        """Return the rows times vectors of shape (n_values, n_found)."""
        found = [
            self.tile(cut) @ vectors for cut in cuts(len(self.rows), self.F.shape[1])
        ]
        return np.concatenate(found)


class LengthScaledRows:
    """Rows about their mean, of unit length first if need be, in float64.

    Those of one block are formed once, several blocks whenever they are looked at.

    Parameters
    ----------
    F : ndarray of shape (n_samples, n_values)
    normalize : bool
    n_resident : int
        Values that are one block.
    """

    def __init__(self, F, normalize, n_resident):
        self.F, self.normalize = F, normalize
        self.first, self.mean = np.zeros((2, F.shape[1]))
        self.is_resident = F.size <= n_resident
        self.cuts = [slice(0, len(F))] if self.is_resident else cuts(*F.shape)
        self.first = self._rows(slice(0, 1))[0]
        total = np.zeros(F.shape[1])
        for cut in self.cuts:
            block = self._rows(cut)
            total += block.sum(axis=0)
        self.mean = total / len(F)
        if self.is_resident:
            block -= self.mean
            self.block = block

    def _rows(self, rows):
        rows = self.F[rows]
        if self.normalize:
            rows = rows.astype(np.float64, copy=False)
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.where(length > 0, length, 1.0)
        else:
            rows = rows.astype(np.float64)
        rows -= self.first
        rows -= self.mean
        return rows

    def __getitem__(self, rows):
        return self.block[rows] if self.is_resident else self._rows(rows)

    def blocks(self):
        """Iterate over (slice, rows)."""
        for cut in self.cuts:
            yield cut, self.block if self.is_resident else self._rows(cut)
