"""The point of least total distance to the updates."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.utils._validation import check_number


class GeometricMedian(GramAggregator):
    """Point of least summed distance to all updates, by smoothed Weiszfeld steps.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    nu : float, default=1e-6
        Distances below it count as it: in units of the updates' spread, the median
        distance to the most central update.
    max_iter : int, default=100
        Bound on the steps. Three are enough in practice [1]_.
    tol : float, default=1e-6
        A step shorter than this is the last, in units of the spread.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    weights_ : ndarray of shape (n_clients,)
        Share of each client in it.
    selected_ : ndarray of int
        All clients but those with NaN or infinity.
    objective_ : float
        Sum of the smoothed distances.
    n_iter_ : int
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless 2f < n.

    Notes
    -----
    With :math:`d_i = \\|z - u_i\\|`, each step is

    .. math::

        b_i = \\frac{1}{\\max(\\nu, d_i)}, \\quad
        z \\leftarrow \\frac{\\sum_i b_i u_i}{\\sum_i b_i},

    which never raises the sum of :math:`d_i` where :math:`d_i > \\nu` and of
    :math:`(d_i^2 + \\nu^2) / 2\\nu` elsewhere. All z are weighted sums of the updates,
    so a step works on inner products alone. The first z is the mean of the half of the
    updates that lie nearest to the most central one, the one of least median distance:
    huge updates don't enter it, and so cost no steps. With f Byzantine updates, for
    any point c and up to :math:`\\nu`,

    .. math:: \\|z - c\\| \\le \\frac{2 (n - f)}{n - 2 f} \\max_{honest} \\|u_i - c\\|.

    References
    ----------
    .. [1] Pillutla, K., Kakade, S. M., Harchaoui, Z. "Robust aggregation for federated
       learning." IEEE Transactions on Signal Processing 70, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import GeometricMedian
    >>> updates = np.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0], [0, 99]])
    >>> GeometricMedian(n_byzantine=1)(updates).round(2)
    array([0.  , 0.58])
    """

    def __init__(self, n_byzantine=None, *, nu=1e-6, max_iter=100, tol=1e-6):
        self.n_byzantine = n_byzantine
        self.nu = nu
        self.max_iter = max_iter
        self.tol = tol

    def _condition(self, n, f):
        check_number("nu", self.nu, low=0, strict=True)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number("tol", self.tol, low=0)
        return "2*f < n", 2 * f < n

    def _weigh(self, geometry, f):
        distances = np.sqrt(geometry.sq_distances)
        middle = int(np.argmin(np.median(distances, axis=1)))
        spread = np.median(distances[middle])
        near = np.argsort(distances[middle], kind="stable")[: geometry.n // 2 + 1]
        if spread == 0:  # more than half are one point, and that is the median
            near = np.flatnonzero(distances[middle] == 0)
        weights = np.zeros(geometry.n)
        weights[near] = 1 / len(near)
        self.n_iter_ = 1
        if spread > 0:
            weights = self._steps(geometry, weights, spread)
        nu = self.nu * spread
        d = np.sqrt(geometry.sq_distance_to_mean(weights))
        if nu > 0:
            d = np.where(d > nu, d, (d**2 + nu**2) / (2 * nu))
        self.objective_ = float(d.sum())
        return weights

    def _steps(self, geometry, weights, spread):
        inner = geometry.products[: geometry.n, : geometry.n]
        for n_iter in range(1, self.max_iter + 1):
            self.n_iter_ = n_iter
            d = np.sqrt(geometry.sq_distance_to_mean(weights))
            pull = 1 / np.maximum(d, self.nu * spread)
            before, weights = weights, pull / pull.sum()
            moved = weights - before
            if moved @ inner @ moved <= (self.tol * spread) ** 2:
                break
        return weights
