"""Covariance-bound agnostic filtering."""

import numpy as np
from scipy.linalg import eigh

from skpoison.federated._aggregators._base import GramAggregator


class CAF(GramAggregator):
    """Mean after down-weighting, step by step, what stretches the covariance most.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    weights_ : ndarray of shape (n_clients,)
        Share of each client in it.
    selected_ : ndarray of int
        Clients of positive weight.
    eigenvalue_ : float
        Largest eigenvalue of the weighted covariance about the result.
    n_iter_ : int
        Means that were looked at.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless 2f < n.

    Notes
    -----
    From :math:`c_i = 1`, while :math:`\\sum_i c_i > n - 2f`:

    .. math::

        \\mu = \\frac{\\sum_i c_i u_i}{\\sum_i c_i}, \\quad
        \\tau_i = \\langle u_i - \\mu, v \\rangle^2, \\quad
        c_i \\leftarrow c_i \\Big(1 - \\frac{\\tau_i}{\\max_j \\tau_j}\\Big),

    with v the first eigenvector of the covariance weighted by c; the maximum is over
    clients with weight left. The result is the mean of least first eigenvalue. Each
    step takes all weight from one client at least, so there are at most 2f of them
    and one. The eigenvector comes from the inner products of the updates, exactly,
    rather than from power iterations in the space of the weights.

    References
    ----------
    .. [1] Allouah, Y., Guerraoui, R., Stephan, J. "Towards trustworthy federated
       learning with untrusted participants." ICML 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import CAF
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 0.9], [9.0, 9.0]])
    >>> CAF(n_byzantine=1)(updates).round(3)
    array([1., 1.])
    """

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def _condition(self, n, f):
        return "2*f < n", 2 * f < n

    def _weigh(self, geometry, f):
        n = geometry.n
        left = np.ones(n)
        weights, least, n_iter = left / n, np.inf, 0
        while n_iter == 0 or left.sum() > n - 2 * f:
            n_iter += 1
            some = np.flatnonzero(left)
            share = left[some] / left[some].sum()
            top, stretch = first_direction(geometry.products, some, share)
            if top < least:
                least = top
                weights = np.zeros(n)
                weights[some] = share
            if not stretch.max() > 0:
                break
            left[some] *= 1 - stretch / stretch.max()
        self.eigenvalue_, self.n_iter_ = float(least), n_iter
        return weights


def first_direction(products, rows, share):
    """Return the first eigenvalue of a weighted covariance, and squared projections.

    On its eigenvector, of the rows about their weighted mean, up to a factor.
    """
    inner = products[np.ix_(rows, rows)]
    about = inner @ share
    centred = inner - np.add.outer(about, about) + share @ about
    # the eigenvectors of X'X from those of XX', X the centred rows times root
    root = np.sqrt(share)
    small = root[:, np.newaxis] * centred * root
    largest = np.abs(small).max()
    if not largest > 0:
        return 0.0, np.zeros(len(rows))
    last = len(rows) - 1
    top, vector = eigh(small / largest, subset_by_index=[last, last])
    projections = (centred / largest) @ (root * vector[:, 0])
    return largest * top[0], projections**2
