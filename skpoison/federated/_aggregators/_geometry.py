"""Where the updates lie to each other: all that many rules look at."""

from functools import cached_property

import numpy as np


class Geometry:
    """Inner products of n rows, some extra rows and the origin, and what follows.

    Rows may be linear combinations of the clients' updates; ``mapping`` says which.

    Parameters
    ----------
    products : ndarray of shape (n + n_extra + 1, n + n_extra + 1)
        About any point, float64; the last line is the origin's.
    n : int
        Rows, the extra ones and the origin not counted.
    mapping : ndarray of shape (n + n_extra, n_given + n_extra), default=None
        What the rows are made of; None if they are those given.
    """

    def __init__(self, products, n, mapping=None):
        self.products = products
        self.n = n
        self.mapping = mapping

    @cached_property
    def _squares(self):
        size = np.diag(self.products)
        square = np.add.outer(size, size) - 2 * self.products
        np.maximum(square, 0, out=square)
        np.fill_diagonal(square, 0)
        return square

    @property
    def sq_distances(self):
        """Squared distances between rows, (n, n), the diagonal zero."""
        return self._squares[: self.n, : self.n]

    @property
    def extra_sq_distances(self):
        """Squared distances of the extra rows from the rows, (n_extra, n)."""
        return self._squares[self.n : -1, : self.n]

    @property
    def norms(self):
        """Lengths of the rows and the extra rows, (n + n_extra,)."""
        return np.sqrt(self._squares[-1, :-1])

    @cached_property
    def inner(self):
        """Inner products of rows and extra rows about the origin."""
        edge = self.products[-1, :-1]
        return (
            self.products[:-1, :-1] - np.add.outer(edge, edge) + self.products[-1, -1]
        )

    def mapped(self, mapping):
        """Return the geometry of linear combinations of the rows.

        Parameters
        ----------
        mapping : ndarray of shape (n_new, n)
            One row of coefficients for each new row. Extra rows stay as they are.
        """
        n_new, n_extra = len(mapping), len(self.products) - 1 - self.n
        # what coefficients lack to one is laid on the origin: products about a point
        # other than the origin obey affine combinations alone
        full = np.zeros((n_new + n_extra + 1, len(self.products)))
        full[:n_new, : self.n] = mapping
        full[:n_new, -1] = 1 - mapping.sum(axis=1)
        full[n_new:, self.n :] = np.eye(n_extra + 1)
        made_of = full[:-1, :-1]
        if self.mapping is not None:
            made_of = made_of @ self.mapping
        return Geometry(full @ self.products @ full.T, n_new, made_of)

    def to_given(self, weights):
        """Turn weights of these rows into weights of the rows first given."""
        return weights if self.mapping is None else weights @ self.mapping

    def sq_distance_to_mean(self, weights):
        """Return squared distances of the rows from a weighted sum of all rows.

        Parameters
        ----------
        weights : ndarray of shape (n + n_extra,)
        """
        full = np.append(weights, 1 - weights.sum())
        about = self.products @ full
        square = np.diag(self.products)[: self.n] - 2 * about[: self.n] + full @ about
        return np.maximum(square, 0)
