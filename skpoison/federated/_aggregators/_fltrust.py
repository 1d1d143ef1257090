"""FLTrust: updates count as far as they point where trusted data point."""

import warnings

import numpy as np

from skpoison.federated._aggregators._lengths import LengthAggregator
from skpoison.federated._aggregators._matrix import is_tensor, on_host

_SHORT = 1e-3  # square root of what float32 products can tell from zero


class FLTrust(LengthAggregator):
    """Average of directions, by their agreement with an update of the server's own.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. It only says how many rows may hold NaN or infinity.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    trust_ : ndarray of shape (n_clients,)
        Cosine with the server's update, zero where that is negative.
    weights_ : ndarray of shape (n_clients,)
        Factor of each client's update.
    selected_ : ndarray of int
        Clients that are trusted at all.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n; or if no root update is given or it is not finite.

    Warns
    -----
    UserWarning
        No client is trusted: the result is zero.

    Notes
    -----
    With the root update :math:`g_0`, which the server trains on a small clean data set
    (100 samples in [1]_) from the same weights as the clients,

    .. math::

        t_i = \\max(0, \\cos(u_i, g_0)), \\quad
        \\frac{1}{\\sum_i t_i} \\sum_i t_i \\frac{\\|g_0\\|}{\\|u_i\\|} u_i.

    The result is no longer than :math:`g_0`, whatever the clients send and however
    many of them lie. Behind pre-aggregators, rows a thousand times shorter than their
    median count as zero: only their inner products are known.

    References
    ----------
    .. [1] Cao, X., Fang, M., Liu, J., Gong, N. Z. "FLTrust: Byzantine-robust federated
       learning via trust bootstrapping." NDSS 2021. arXiv:2012.13995.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import FLTrust
    >>> updates = np.array([[3.0, 0.0], [0.0, 5.0], [-90.0, -90.0]])
    >>> FLTrust()(updates, root_update=[1.0, 1.0]).round(3)
    array([0.707, 0.707])
    """

    needs_root_update = True
    _root = None

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def fit(self, updates, y=None, root_update=None):
        """Aggregate updates.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
            See :class:`BaseAggregator`.
        y : ignored
        root_update : array or tensor of shape (n_weights,)
            From data that the server trusts.

        Returns
        -------
        self : object
        """
        self(updates, root_update)
        return self

    def __call__(self, updates, root_update=None):
        """Aggregate the updates of a round.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        root_update : array or tensor of shape (n_weights,)

        Returns
        -------
        location : array or tensor of shape (n_weights,)
        """
        return self._with_root(super().__call__, updates, root_update)

    def leave_one_out(self, updates, root_update=None):
        """Return what the rule gives without each client in turn.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        root_update : array or tensor of shape (n_weights,)

        Returns
        -------
        locations : array or tensor of shape (n_clients, n_weights)
        """
        return self._with_root(super().leave_one_out, updates, root_update)

    def _with_root(self, method, updates, root_update):
        self._root = root_update
        try:
            return method(updates)
        finally:
            del self._root

    def _condition(self, n, f):
        return "f < n", f < n

    def _extra_rows(self, matrix):
        root = self._root
        if root is None:
            raise ValueError(
                "FLTrust needs root_update, an update from data that the server trusts"
            )
        if not is_tensor(root):
            root = np.asarray(root, dtype=np.float64)
        if tuple(root.shape) != (matrix.n_columns,):
            raise ValueError(
                f"root_update must have shape ({matrix.n_columns},) as updates have, "
                f"got {tuple(root.shape)}"
            )
        if not np.isfinite(on_host(root)).all():
            raise ValueError("root_update must be finite, got NaN or infinity")
        return (root,)

    def _weigh(self, geometry, f):
        n = geometry.n
        norms, root = geometry.norms[:n], geometry.norms[n]
        if geometry.mapping is not None:
            norms = np.where(norms < _SHORT * np.median(norms), 0, norms)
        lengths = np.where(norms > 0, norms, np.inf)
        trust = np.clip(geometry.inner[:n, n] / lengths / (root or np.inf), 0, 1)
        self._per_client(trust_=trust)
        weights = np.zeros(n + 1)
        if trust.any():
            weights[:n] = trust / trust.sum() * root / lengths
        else:
            warnings.warn(
                "FLTrust trusts no client: the update is zero",
                UserWarning,
                stacklevel=2,
            )
        return weights

    def _aggregate(self, matrix, f):
        location = super()._aggregate(matrix, f)
        self.trust_[np.isinf(self.trust_)] = 0  # rows with NaN or infinity
        return location
