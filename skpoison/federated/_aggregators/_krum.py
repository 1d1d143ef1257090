"""Krum and its relatives: updates are judged by their distance to the nearest ones."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.utils._validation import check_number, check_option

METRICS = ("sqeuclidean", "euclidean")


def krum_scores(sq_distances, n_neighbors, metric="sqeuclidean"):
    """Return for each row the sum of distances to its nearest other rows.

    Parameters
    ----------
    sq_distances : ndarray of shape (n, n)
    n_neighbors : int
    metric : {"sqeuclidean", "euclidean"}

    Returns
    -------
    scores : ndarray of shape (n,)
    """
    n = len(sq_distances)
    # a row is no neighbour of its own, however many others equal it
    others = sq_distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    nearest = np.sort(others, axis=1)[:, :n_neighbors]
    if metric == "euclidean":
        np.sqrt(nearest, out=nearest)
    return nearest.sum(axis=1)


class Krum(GramAggregator):
    """The one update that is nearest to its neighbours.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    metric : {"sqeuclidean", "euclidean"}, default="sqeuclidean"
        What is summed: squared distances, as where Krum was proposed [1]_, or
        distances, as in [2]_.
    n_neighbors : int or None, default=None
        Nearest updates that count; None is n - f - 2, as in [1]_.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        The client whose update it is.
    scores_ : ndarray of shape (n_clients,)
        Sums of distances, infinite for rows with NaN or infinity.
    distances_ : ndarray of shape (n_clients, n_clients)
        Squared distances.
    weights_ : ndarray of shape (n_clients,)
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless n >= 2f + 3.

    Notes
    -----
    With k = n - f - 2 and :math:`N_k(i)` the k other updates nearest to :math:`u_i`,

    .. math:: s_i = \\sum_{j \\in N_k(i)} \\|u_i - u_j\\|^2,

    and the result is the update of least score; of equal scores, the first.

    References
    ----------
    .. [1] Blanchard, P., El Mhamdi, E. M., Guerraoui, R., Stainer, J. "Machine
       learning with adversaries: Byzantine tolerant gradient descent." NeurIPS 2017.
    .. [2] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Krum
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 1.0], [9.0, 9.0]])
    >>> Krum(n_byzantine=1)(updates)
    array([1., 1.])
    """

    def __init__(self, n_byzantine=None, *, metric="sqeuclidean", n_neighbors=None):
        self.n_byzantine = n_byzantine
        self.metric = metric
        self.n_neighbors = n_neighbors

    def _condition(self, n, f):
        check_option("metric", self.metric, METRICS)
        if self.n_neighbors is not None:
            check_number(
                "n_neighbors", self.n_neighbors, low=1, high=n - 1, integer=True
            )
        return "n >= 2*f+3", n >= 2 * f + 3

    def _scores(self, geometry, f):
        k = geometry.n - f - 2 if self.n_neighbors is None else self.n_neighbors
        scores = krum_scores(geometry.sq_distances, k, self.metric)
        self._per_client(scores_=scores, distances_=geometry.sq_distances)
        return scores

    def _weigh(self, geometry, f):
        weights = np.zeros(geometry.n)
        weights[np.argmin(self._scores(geometry, f))] = 1
        return weights


class MultiKrum(Krum):
    """Average of the updates nearest to their neighbours.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    n_select : int or None, default=None
        Updates that are averaged; None is n - f, the most that may be honest.
    metric : {"sqeuclidean", "euclidean"}, default="sqeuclidean"
        What :class:`Krum` sums over the nearest neighbours.
    n_neighbors : int or None, default=None
        Nearest updates that count; None is n - f - 2.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that are averaged.
    scores_ : ndarray of shape (n_clients,)
        Sums of distances, infinite for rows with NaN or infinity.
    distances_ : ndarray of shape (n_clients, n_clients)
        Squared distances.
    weights_ : ndarray of shape (n_clients,)
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless n >= 2f + 3.

    Notes
    -----
    The scores are those of :class:`Krum`, formed once; of equal ones, the first.

    References
    ----------
    .. [1] Blanchard, P., El Mhamdi, E. M., Guerraoui, R., Stainer, J. "Machine
       learning with adversaries: Byzantine tolerant gradient descent." NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MultiKrum
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 0.9], [9.0, 9.0]])
    >>> MultiKrum(n_byzantine=1)(updates)
    array([1., 1.])
    """

    def __init__(
        self,
        n_byzantine=None,
        *,
        n_select=None,
        metric="sqeuclidean",
        n_neighbors=None,
    ):
        super().__init__(n_byzantine, metric=metric, n_neighbors=n_neighbors)
        self.n_select = n_select

    def _condition(self, n, f):
        condition = super()._condition(n, f)
        if self.n_select is not None and condition[1]:
            check_number("n_select", self.n_select, low=1, high=n - f, integer=True)
        return condition

    def _weigh(self, geometry, f):
        n_select = geometry.n - f if self.n_select is None else self.n_select
        best = np.argsort(self._scores(geometry, f), kind="stable")[:n_select]
        weights = np.zeros(geometry.n)
        weights[best] = 1 / n_select
        return weights
