"""Lengths of updates, and their angles with a row that the server has."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.federated._aggregators._mapped import MappedUpdates
from skpoison.federated._aggregators._matrix import (
    GRAM_WIDTH,
    as_double,
    like,
    on_host,
)


def products_about_origin(matrix, extra=()):
    """Return what :func:`gram` does, but zero for two different rows of the matrix.

    Read once, in float64. Products about a row of the matrix lose the digits of rows
    that are much shorter than it, and a rule that divides by a length needs them.

    Parameters
    ----------
    matrix : UpdateMatrix
    extra : sequence of ndarray of shape (n_columns,)

    Returns
    -------
    products : ndarray of shape (n + n_extra + 1, n + n_extra + 1)
    """
    n, n_all = len(matrix), len(matrix) + len(extra) + 1
    products = np.zeros((n_all, n_all))
    size = products.reshape(-1)[:: n_all + 1]
    with np.errstate(over="ignore", invalid="ignore"):
        for where, tile in matrix.tiles(GRAM_WIDTH):
            rows = as_double(tile)
            size[:n] += on_host((rows**2).sum(1))
            for i, row in enumerate(extra, start=n):
                products[i, :n] += on_host(rows @ like(row[where], rows))
    for i, row in enumerate(extra, start=n):
        size[i] = (as_double(on_host(row)) ** 2).sum()
    products[:n, n:] = products[n:, :n].T
    return products


class LengthAggregator(GramAggregator):
    """Base of rules that look at lengths, and at angles with extra rows, alone."""

    def _products(self, matrix, given, extra):
        if isinstance(matrix, MappedUpdates):
            return super()._products(matrix, given, extra)
        return products_about_origin(given, extra)
