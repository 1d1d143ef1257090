"""The average of all updates."""

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._mapped import MappedUpdates
from skpoison.federated._aggregators._matrix import combine, is_tensor, row_maxima
from skpoison.utils._validation import check_number


class Mean(GramAggregator):
    """Average of all updates, which one client can move anywhere.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Rows with NaN or infinity that are left out before an error is raised: a
        number, or a share in [0, 0.5) of the clients, rounded. None is what
        :class:`FederatedClassifier` says, and 0 where the rule is used alone. All
        other rows are averaged, whatever it says.
    max_weight : float or None, default=None
        Where weights are given, larger ones count as this. A client that reports a
        sample count of its own choice takes over an average without such a limit.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    weights_ : ndarray of shape (n_clients,)
        Share of each client in it.
    selected_ : ndarray of int
        Clients of positive weight.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Mean
    >>> updates = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, 0.0]])
    >>> Mean(n_byzantine=1)(updates)
    array([2., 3.])
    >>> Mean(max_weight=3)(updates[:2], sample_weight=[1, 1000])
    array([2.5, 3.5])
    """

    _given = None

    def __init__(self, n_byzantine=None, *, max_weight=None):
        self.n_byzantine = n_byzantine
        self.max_weight = max_weight

    def fit(self, updates, y=None, sample_weight=None):
        """Average updates.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        y : ignored
        sample_weight : array-like of shape (n_clients,), default=None
            None counts all clients alike.

        Returns
        -------
        self : object
        """
        self(updates, sample_weight)
        return self

    def __call__(self, updates, sample_weight=None):
        """Average the updates of one round.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        sample_weight : array-like of shape (n_clients,), default=None

        Returns
        -------
        location : array or tensor of shape (n_weights,)
        """
        self._given = sample_weight
        try:
            return self._run(updates)
        finally:
            del self._given

    def _shares(self, n):
        weights = _check_sample_weight(
            self._given, np.empty(n), dtype=np.float64, ensure_non_negative=True
        )
        if self.max_weight is not None:
            weights = np.minimum(weights, self.max_weight)
        return weights

    def _condition(self, n, f):
        if self.max_weight is not None:
            check_number("max_weight", self.max_weight, low=0, strict=True)
        return super()._condition(n, f)

    def _weigh(self, geometry, f):
        return np.full(geometry.n, 1 / geometry.n)

    def _aggregate(self, matrix, f):
        if isinstance(matrix, MappedUpdates):
            return super()._aggregate(matrix, f)
        shares = self._shares(len(matrix))
        location = self._average(matrix, shares)
        if not _finite(location):
            rows = np.flatnonzero(~np.isfinite(row_maxima(matrix)))
            matrix, f = self._without_faulty(matrix, f, rows)
            shares = np.delete(shares, rows)
            location = self._average(matrix, shares)
        self._noted = {}
        self._lay_out(matrix, Geometry(None, len(matrix)), shares / shares.sum())
        return location

    def _average(self, matrix, shares):
        total = shares.sum()
        if not total > 0:
            raise ValueError("sample_weight must have a positive entry, got none")
        with np.errstate(over="ignore", invalid="ignore"):
            return matrix.join(combine(matrix, shares / total))

    def _left_out(self, matrix, given, f):
        if matrix is not given:
            return super()._left_out(matrix, given, f)
        n = len(given)
        bad = np.flatnonzero(~np.isfinite(row_maxima(given)))
        self._count_faulty(len(bad), n, f)
        self._require(n - len(bad) - 1, f)
        # not (n mean - u_i) / (n - 1): one huge row would take all digits away
        weights = 1 - np.eye(n)
        weights[:, bad] = 0
        return weights / weights.sum(axis=1)[:, np.newaxis]


def _finite(values):
    return bool((values.isfinite() if is_tensor(values) else np.isfinite(values)).all())
