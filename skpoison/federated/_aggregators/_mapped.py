"""Updates behind pre-aggregators: a matrix that maps rows to rows."""

import numpy as np

from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._matrix import (
    GRAM_WIDTH,
    UpdateMatrix,
    gram,
    like,
)


class MappedUpdates(UpdateMatrix):
    """Updates as a rule sees them behind pre-aggregators.

    Parameters
    ----------
    given : UpdateMatrix
    steps : list of PreAggregator
    """

    def __init__(self, given, steps):
        super().__init__(given.blocks, given.n_rows, given.n_columns, given.as_tensor)
        self.given = given
        self.steps = steps

    def __len__(self):
        n = len(self.given)
        for step in self.steps:
            n = step._n_rows(n)
        return n

    def mapped(self, products, n):
        """Return the geometry of what the steps make of n rows.

        Unusable rows lie at the origin: ``mapping`` has columns for the others.
        """
        good = np.flatnonzero(np.isfinite(np.diag(products)[:n]))
        left = np.r_[good, np.arange(n, len(products))]
        laid = np.zeros((n, len(good)))
        laid[good, np.arange(len(good))] = 1
        geometry = Geometry(products[np.ix_(left, left)], len(good)).mapped(laid)
        for step in self.steps:
            geometry = step._mapped(geometry)
        self.mapping = geometry.mapping[: geometry.n, : len(good)]
        self.good = good
        return geometry

    def formed(self):
        """Return the rows themselves, and how many of those given are unusable.

        They are formed tile by tile as they are looked at.
        """
        n = len(self.given)
        self.mapped(gram(self.given), n)
        mapping, given = self.mapping, self.given
        if len(self.good) < n:
            given = given.without(np.delete(np.arange(n), self.good))

        def blocks():
            for _, tile in given.tiles(GRAM_WIDTH):
                yield like(mapping, tile) @ tile

        rows = UpdateMatrix(blocks, len(mapping), self.n_columns, self.as_tensor)
        return rows, n - len(self.good)
