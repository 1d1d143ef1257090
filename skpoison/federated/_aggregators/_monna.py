"""The average of the updates around a trusted one."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.utils._validation import check_number


class MoNNA(GramAggregator):
    """Average of the updates nearest to one that is trusted.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    idx : int, default=0
        Row of the trusted client among those given; a server that takes part puts its
        own update there.

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
        Unless 2f < n, or where the trusted row holds NaN or infinity.

    Notes
    -----
    The n - f updates nearest to row `idx`, itself included, are averaged; of equal
    distances, the first. A location is at most as far from the trusted update as the
    farthest honest update is.

    References
    ----------
    .. [1] Farhadkhani, S., Guerraoui, R., Gupta, N., Hoang, L.-N., Pinot, R., Stephan,
       J. "Robust collaborative learning with linear gradient overhead." ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MoNNA
    >>> updates = np.array([[1.0, 1.0], [1.2, 1.0], [0.8, 1.0], [9.0, 9.0]])
    >>> MoNNA(n_byzantine=1)(updates)
    array([1., 1.])
    """

    def __init__(self, n_byzantine=None, *, idx=0):
        self.n_byzantine = n_byzantine
        self.idx = idx

    def _condition(self, n, f):
        if 2 * f < n:
            check_number("idx", self.idx, low=0, high=n - 1, integer=True)
        return "2*f < n", 2 * f < n

    def _usable(self, matrix, products, n, f):
        geometry, good, f = super()._usable(matrix, products, n, f)
        self._trusted = self.idx
        if geometry.mapping is None:
            if self.idx not in good:
                raise ValueError(
                    f"MoNNA trusts row idx={self.idx}, which holds NaN or infinity"
                )
            self._trusted = int(np.searchsorted(good, self.idx))
        return geometry, good, f

    def _weigh(self, geometry, f):
        distances = geometry.sq_distances[self._trusted].copy()
        distances[self._trusted] = -1  # before its copies
        n_select = geometry.n - f
        weights = np.zeros(geometry.n)
        weights[np.argsort(distances, kind="stable")[:n_select]] = 1 / n_select
        return weights
