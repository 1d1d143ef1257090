"""Norm clipping: an average of updates that are cut to a length."""

import numpy as np

from skpoison.federated._aggregators._lengths import LengthAggregator
from skpoison.federated._aggregators._matrix import like
from skpoison.utils._random import RandomStreams
from skpoison.utils._validation import check_number, check_option


class NormClipping(LengthAggregator):
    """Average of updates cut to a length, with or without noise.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. It only says how many rows may hold NaN or infinity.
    max_norm : float or "median", default="median"
        Length to which longer updates are cut; "median" takes that of the lengths of
        the round's updates, so that no scale has to be known.
    noise_std : float, default=0.0
        Standard deviation of Gaussian noise on each coordinate of the result.
    random_state : int, RandomState instance or None, default=None
        For the noise, another one each round. Pass an int for the same noises again
        after ``reset``.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    max_norm_ : float
        Length to which longer updates were cut.
    weights_ : ndarray of shape (n_clients,)
        Factor of each client's update, 1/n for those that are not cut.
    selected_ : ndarray of int
        All clients but those with NaN or infinity.
    n_rounds_ : int
        Calls since ``fit`` or ``reset``.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n; with ``max_norm="median"`` unless 2f < n.

    Notes
    -----
    .. math::

        \\frac{1}{n} \\sum_i u_i \\min\\Big(1, \\frac{M}{\\|u_i\\|}\\Big) + \\xi,
        \\quad \\xi \\sim N(0, \\sigma^2 I).

    One client moves the result by no more than 2 M / n, and without noise the result is
    no longer than M. With "median" M is at most the length of the longest honest
    update. Directions aren't looked at: f colluding clients turn a share f/n of the
    result as they like.

    References
    ----------
    .. [1] Sun, Z., Kairouz, P., Suresh, A. T., McMahan, H. B. "Can you really backdoor
       federated learning?" arXiv:1911.07963, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import NormClipping
    >>> updates = np.array([[1.0, 0.0], [0.0, 1.0], [-300.0, 400.0]])
    >>> NormClipping(n_byzantine=1, max_norm=1.0)(updates).round(3)
    array([0.133, 0.6  ])
    """

    def __init__(
        self,
        n_byzantine=None,
        *,
        max_norm="median",
        noise_std=0.0,
        random_state=None,
    ):
        self.n_byzantine = n_byzantine
        self.max_norm = max_norm
        self.noise_std = noise_std
        self.random_state = random_state

    def reset(self):
        """Start the noise again.

        Returns
        -------
        self : object
        """
        vars(self).pop("n_rounds_", None)
        return self

    def _condition(self, n, f):
        check_number("noise_std", self.noise_std, low=0.0)
        if isinstance(self.max_norm, str):
            check_option("max_norm", self.max_norm, ("median",))
            return "2*f < n", 2 * f < n
        check_number("max_norm", self.max_norm, low=0.0, strict=True)
        return "f < n", f < n

    def _weigh(self, geometry, f):
        norms = geometry.norms
        limit = np.median(norms) if self.max_norm == "median" else self.max_norm
        self.max_norm_ = float(limit)
        shares = np.full(len(norms), 1 / len(norms))
        long = norms > limit
        shares[long] *= limit / norms[long]
        return shares

    def _aggregate(self, matrix, f):
        location = super()._aggregate(matrix, f)
        self.n_rounds_ = getattr(self, "n_rounds_", 0) + 1
        if self.noise_std == 0:
            return location
        # a stream a round: the same noise each time would not average out
        rng = RandomStreams(self.random_state).numpy(f"noise {self.n_rounds_}")
        noise = rng.normal(0, self.noise_std, len(location))
        return location + like(noise, location)
