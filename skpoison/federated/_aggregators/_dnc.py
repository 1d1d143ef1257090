"""Divide and conquer: filtering on random parts of the coordinates."""

import numpy as np

from skpoison.federated._aggregators._base import BaseAggregator
from skpoison.federated._aggregators._caf import first_direction
from skpoison.federated._aggregators._matrix import (
    combine,
    gram,
    row_maxima,
    unusable_rows,
)
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number

# a row so many times larger than most leaves no digits of the others in a projection
_BEYOND = 1e6


class DnC(BaseAggregator):
    """Average of the updates that lie least along the first singular vectors.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    n_iter : int, default=5
        Random parts of the coordinates that are looked at; an update counts if it
        passes all of them.
    subsample : float, default=0.2
        Share of the coordinates in each part.
    filter_frac : float, default=1.0
        Updates dropped for each part, as a multiple of f.
    random_state : int, RandomState instance, Generator or None, default=None
        Draws the parts. A server draws anew each round.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that are averaged.
    weights_ : ndarray of shape (n_clients,)
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless 2f < n and filter_frac f < n.

    Notes
    -----
    For each part the updates' coordinates in it are centred, and the updates whose
    squared projections on the first right singular vector are largest are dropped.
    Where no update passes all parts, those that pass most are averaged.

    The rule itself has no bound: of several updates that lie far off in different
    directions only the first direction is seen, and one that lies far off in a few
    coordinates may not be seen at all. So updates with an entry a million times the
    median of all updates' largest entries are dropped first, and count in f.

    References
    ----------
    .. [1] Shejwalkar, V., Houmansadr, A. "Manipulating the Byzantine: optimizing model
       poisoning attacks and defenses for federated learning." NDSS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import DnC
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 0.9], [9.0, 9.0]])
    >>> DnC(n_byzantine=1, subsample=1.0, random_state=0)(updates)
    array([1., 1.])
    """

    def __init__(
        self,
        n_byzantine=None,
        *,
        n_iter=5,
        subsample=0.2,
        filter_frac=1.0,
        random_state=None,
    ):
        self.n_byzantine = n_byzantine
        self.n_iter = n_iter
        self.subsample = subsample
        self.filter_frac = filter_frac
        self.random_state = random_state

    def _n_drop(self, f):
        check_number("filter_frac", self.filter_frac, low=0)
        return round(self.filter_frac * f)

    def _condition(self, n, f):
        check_number("n_iter", self.n_iter, low=1, integer=True)
        check_number("subsample", self.subsample, low=0, high=1, strict=True)
        text = f"2*f < n and filter_frac*f < n (filter_frac={self.filter_frac})"
        return text, 2 * f < n and self._n_drop(f) < n

    def _aggregate(self, matrix, f):
        matrix, f = self._without_huge(matrix, f)
        n, d = len(matrix), matrix.n_columns
        rng = RandomStreams(self.random_state).numpy("columns")
        passed = np.zeros(n, int)
        for _ in range(self.n_iter):
            columns = np.zeros(d, bool)
            columns[rng.permutation(d)[: max(round(self.subsample * d), 1)]] = True
            products = gram(matrix, columns=columns)
            share = np.full(n, 1 / n)
            _, stretch = first_direction(products, np.arange(n), share)
            passed[np.argsort(stretch, kind="stable")[: n - self._n_drop(f)]] += 1
        best = np.flatnonzero(passed == passed.max())
        weights = np.zeros(n)
        weights[best] = 1 / len(best)
        kept = np.arange(n) if matrix.keep is None else matrix.keep
        self.selected_ = kept[best]
        self.weights_ = np.zeros(self.n_clients_)
        self.weights_[self.selected_] = 1 / len(best)
        return matrix.join(combine(matrix, weights))

    def _without_huge(self, matrix, f):
        maxima = row_maxima(matrix)
        bad = unusable_rows(maxima, matrix.n_columns)
        self._count_faulty(len(bad), len(matrix), f)
        maxima[bad] = np.inf
        middle = np.median(maxima)
        huge = np.flatnonzero(maxima > _BEYOND * middle)
        if middle > 0 and len(huge) <= f:
            bad = huge
        return (matrix.without(bad), f - len(bad)) if len(bad) else (matrix, f)
