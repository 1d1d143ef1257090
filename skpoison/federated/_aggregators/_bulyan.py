"""Bulyan: a selection by Krum, then a mean around the median of what is selected."""

import numpy as np

from skpoison.federated._aggregators._base import BaseAggregator
from skpoison.federated._aggregators._checks import check_updates, n_faulty
from skpoison.federated._aggregators._coordinatewise import mean_of_nearest
from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._krum import METRICS
from skpoison.federated._aggregators._matrix import (
    UpdateMatrix,
    coordinatewise,
    empty_like,
    gram,
)
from skpoison.utils._validation import check_number, check_option


def select_by_krum(distances, n_select, f):
    """Pick rows one after the other, each by Krum among those that are left.

    Parameters
    ----------
    distances : ndarray of shape (n, n)
        As they are to be summed.
    n_select : int
    f : int

    Returns
    -------
    rows : ndarray of int of shape (n_select,)
        In the order of selection.
    """
    n = len(distances)
    left = np.arange(n)
    others = ~np.eye(n, dtype=bool)
    neighbours = np.broadcast_to(left, (n, n))[others].reshape(n, n - 1)
    distances = distances[others].reshape(n, n - 1)
    order = np.argsort(distances, axis=1, kind="stable")
    neighbours = np.take_along_axis(neighbours, order, axis=1)
    distances = np.take_along_axis(distances, order, axis=1)
    rows = []
    for _ in range(n_select):
        k = max(1, len(left) - f - 2)
        # summed anew: to subtract what leaves would let one huge distance take the
        # digits of all others
        best = np.argmin(distances[:, :k].sum(axis=1))
        rows.append(left[best])
        stays = neighbours != left[best]
        stays[best] = False
        left = np.delete(left, best)
        shape = len(left), max(len(left) - 1, 0)
        neighbours = neighbours[stays].reshape(shape)
        distances = distances[stays].reshape(shape)
    return np.array(rows)


class Bulyan(BaseAggregator):
    """Mean around the median, of updates that Krum selects.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    metric : {"sqeuclidean", "euclidean"}, default="sqeuclidean"
        What Krum sums, see :class:`Krum`.
    theta : int or None, default=None
        Updates to select; None is n - 2f, as in [1]_.
    gamma : int or None, default=None
        Values to average; None is theta - 2f, as in [1]_, but at least one.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int of shape (theta,)
        Clients that Krum selected, in ascending order.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless n >= 4f + 3.

    Notes
    -----
    theta times, Krum picks one of the updates that are left, of scores computed anew;
    where few are left it sums at least one distance. Of equal scores, such as those of
    two rows that are each other's nearest, the first. Then, for each coordinate, the
    mean of the gamma selected values that are nearest to their median. At most f of
    the selected updates are Byzantine, so that the result lies between honest values
    in each coordinate.

    References
    ----------
    .. [1] El Mhamdi, E. M., Guerraoui, R., Rouault, S. "The hidden vulnerability of
       distributed learning in Byzantium." ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Bulyan
    >>> updates = np.array([[1.0], [1.1], [0.9], [1.3], [0.4], [1.0], [9.0]])
    >>> rule = Bulyan(n_byzantine=1).fit(updates)
    >>> rule.selected_
    array([0, 1, 2, 3, 5])
    >>> rule.location_.round(3)
    array([0.967])
    """

    def __init__(
        self, n_byzantine=None, *, metric="sqeuclidean", theta=None, gamma=None
    ):
        self.n_byzantine = n_byzantine
        self.metric = metric
        self.theta = theta
        self.gamma = gamma

    def _condition(self, n, f):
        check_option("metric", self.metric, METRICS)
        self._counts(n, f)
        return "n >= 4*f+3", n >= 4 * f + 3

    def _counts(self, n, f):
        theta, gamma = self.theta, self.gamma
        if theta is None:
            theta = n - 2 * f
        else:
            check_number("theta", theta, low=1, high=n, integer=True)
        if gamma is None:
            gamma = max(1, theta - 2 * f)
        else:
            check_number("gamma", gamma, low=1, high=theta, integer=True)
        return theta, gamma

    def _aggregate(self, matrix, f):
        products, good, f = self._usable(matrix, f)
        self.selected_, location = self._located(matrix, products, good, f)
        return location

    def _usable(self, matrix, f):
        products = gram(matrix)
        finite = np.isfinite(np.diag(products)[: len(matrix)])
        _, f = self._without_faulty(matrix, f, np.flatnonzero(~finite))
        return products, np.flatnonzero(finite), f

    def _located(self, matrix, products, rows, f):
        """Return which of some rows Krum selects, and their aggregate."""
        lines = np.append(rows, len(products) - 1)
        distances = Geometry(products[np.ix_(lines, lines)], len(rows)).sq_distances
        if self.metric == "euclidean":
            distances = np.sqrt(distances)
        theta, gamma = self._counts(len(rows), f)
        chosen = np.sort(rows[select_by_krum(distances, theta, f)])
        others = np.setdiff1d(np.arange(len(matrix)), chosen)
        with np.errstate(over="ignore"):
            parts = coordinatewise(
                matrix.without(others), lambda ordered: mean_of_nearest(ordered, gamma)
            )
        return chosen, matrix.join(parts)

    def leave_one_out(self, updates):
        """Return what the rule gives without each client in turn.

        The inner products are formed once; the second step is done n times.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)

        Returns
        -------
        locations : array or tensor of shape (n_clients, n_weights)
        """
        matrix = UpdateMatrix.of(check_updates(self, updates))
        n = len(matrix)
        f = n_faulty(self.n_byzantine, n)
        self._require(n - 1, f)
        products, good, f = self._usable(matrix, f)
        locations = None
        for i in range(n):
            rows = good[good != i]
            # without a faulty row the others still count in f
            f_left = f + len(rows) - len(good) + 1
            _, location = self._located(matrix, products, rows, f_left)
            if locations is None:
                locations = empty_like(location, (n, matrix.n_columns))
            locations[i] = location
        return locations
