"""Centered clipping: each update pulls what was agreed before, but only so far."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.utils._validation import check_number


class CenteredClipping(GramAggregator):
    """The last result, moved by the mean of clipped differences to it.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. It only says how many rows may hold NaN or infinity.
    radius : float, default=10.0
        Length to which differences are clipped, :math:`\\tau`. The default is that of
        the MNIST experiments of [1]_, where clients send momentum; for updates from
        steps of rate lr, 10 lr is of the same size.
    n_iter : int, default=1
        Steps a round; one is enough where rounds are many [1]_.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update. The next call starts from it; ``fit`` and ``reset``
        forget it.
    weights_ : ndarray of shape (n_clients,)
        Share of each client in it; what is lacking to one is that of the last result.
    selected_ : ndarray of int
        All clients but those with NaN or infinity.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n; or if updates have another length than in the last round.

    Notes
    -----
    From :math:`v = 0` in the first round and the last result in others, n_iter times

    .. math::

        v \\leftarrow v + \\frac{1}{n} \\sum_i (u_i - v)
        \\min\\Big(1, \\frac{\\tau}{\\|u_i - v\\|}\\Big).

    No client moves the result by more than :math:`\\tau / n` in a step. The number of
    clients may change between rounds, and they need no order.

    References
    ----------
    .. [1] Karimireddy, S. P., He, L., Jaggi, M. "Learning from history for Byzantine
       robust optimization." ICML 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import CenteredClipping
    >>> updates = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, -400.0]])
    >>> rule = CenteredClipping(n_byzantine=1, radius=3.0)
    >>> rule(updates).round(2)
    array([ 0.67, -1.  ])
    >>> rule(updates).round(2)
    array([ 0.89, -1.33])
    """

    def __init__(self, n_byzantine=None, *, radius=10.0, n_iter=1):
        self.n_byzantine = n_byzantine
        self.radius = radius
        self.n_iter = n_iter

    def reset(self):
        """Forget earlier rounds.

        Returns
        -------
        self : object
        """
        vars(self).pop("location_", None)
        return self

    def _condition(self, n, f):
        check_number("radius", self.radius, low=0.0, strict=True)
        check_number("n_iter", self.n_iter, low=1, integer=True)
        return "f < n", f < n

    def _extra_rows(self, matrix):
        if not hasattr(self, "location_"):
            return ()
        if len(self.location_) != matrix.n_columns:
            raise ValueError(
                f"CenteredClipping goes on from an update of length "
                f"{len(self.location_)}, got updates of length {matrix.n_columns}; "
                "reset() starts anew"
            )
        return (self.location_,)

    def _weigh(self, geometry, f):
        n = geometry.n
        # in the first round v is the origin, which has what weights lack to one
        weights = np.zeros(len(geometry.products) - 1)
        weights[n:] = 1
        for _ in range(self.n_iter):
            distances = np.sqrt(geometry.sq_distance_to_mean(weights))
            shares = self.radius / np.maximum(distances, self.radius) / n
            weights *= 1 - shares.sum()
            weights[:n] += shares
        return weights
