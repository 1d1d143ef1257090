"""FoolsGold: clients whose updates go the same way round after round count less."""

import warnings

import numpy as np

from skpoison.federated._aggregators._base import BaseAggregator
from skpoison.federated._aggregators._lengths import products_about_origin
from skpoison.federated._aggregators._matrix import (
    GRAM_WIDTH,
    UpdateMatrix,
    combine,
    empty_like,
    like,
    on_host,
)
from skpoison.utils._validation import check_number

_LONGEST = 1e30  # sums of thousands of rows as long as this are still float32
_ROUNDING = 8  # of a product of unit rows, in units of their type


class FoolsGold(BaseAggregator):
    """Weighted average against many clients that serve one aim.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. It only says how many rows may hold NaN or infinity.
    kappa : float, default=1.0
        How sharply clients are told apart, :math:`\\kappa`.
    normalize : bool, default=True
        Divide by the sum of the weights. The authors' code does not: the length of its
        result grows with the number of clients.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    similarity_ : ndarray of shape (n_clients,)
        Largest cosine of each client's sum of updates with another's.
    weights_ : ndarray of shape (n_clients,)
        Factor of each client's update.
    selected_ : ndarray of int
        Clients of positive weight.
    history_ : array or tensor of shape (n_clients, n_weights)
        Sum of each client's updates over the rounds.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n; or if the shape of the updates is not that of the last round.

    Warns
    -----
    UserWarning
        All clients are alike and none counts: the result is zero.

    Notes
    -----
    With :math:`H_i` the sum of a client's updates and :math:`c_{ij}` the cosine of
    :math:`H_i` and :math:`H_j`, let :math:`v_i = \\max(0, \\max_{j \\ne i} c_{ij})`.
    Where :math:`v_i < v_j`, :math:`c_{ij}` is multiplied by :math:`v_i / v_j`, so that
    honest clients who happen to look like liars are not held back. Then

    .. math::

        a_i = 1 - \\max_{j \\ne i} c_{ij}, \\quad
        a_i \\leftarrow \\frac{a_i}{\\max_j a_j}, \\quad
        a_i \\leftarrow \\kappa \\Big(\\ln \\frac{a_i}{1 - a_i} + \\frac12\\Big),

    each step cut to [0, 1], and to 0.99 before the logarithm, and the result is
    :math:`\\sum_i a_i u_i / \\sum_i a_i`.

    Clients are known by their row: the same client must have the same row each round,
    and all take part in each round. A row with NaN or infinity counts for nothing and
    is not added to the client's sum.

    Memory: the cosines of sums need the sums themselves, so that a second matrix as
    large as the updates lives between rounds. (The products of old sums and new
    updates don't follow from matrices of inner products.)

    What is not bounded: lengths. One client unlike all others counts fully, whatever
    the length of its update; put :class:`Clipping` before the rule. Only beyond a
    length of 1e30 updates are cut, which keeps the result finite.

    References
    ----------
    .. [1] Fung, C., Yoon, C. J. M., Beschastnikh, I. "The limitations of federated
       learning in Sybil settings." RAID 2020. arXiv:1808.04866.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import FoolsGold
    >>> updates = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -0.99], [-0.99, -1.0]])
    >>> rule = FoolsGold()
    >>> rule(updates)
    array([0.5, 0.5])
    >>> rule.selected_
    array([0, 1])
    """

    knows_clients_by_row = True

    def __init__(self, n_byzantine=None, *, kappa=1.0, normalize=True):
        self.n_byzantine = n_byzantine
        self.kappa = kappa
        self.normalize = normalize

    def reset(self):
        """Forget earlier rounds.

        Returns
        -------
        self : object
        """
        vars(self).pop("history_", None)
        return self

    def leave_one_out(self, updates):
        """Refuse: clients are known by their row, and none can be left out.

        Raises
        ------
        ValueError
        """
        raise ValueError(
            "FoolsGold knows clients by their row and needs all of them each round: "
            "it can't be used with rejection"
        )

    def _condition(self, n, f):
        check_number("kappa", self.kappa, low=0.0, strict=True)
        return "f < n", f < n

    def _aggregate(self, matrix, f):
        n = len(matrix)
        shape = n, matrix.n_columns
        before = getattr(self, "history_", None)
        if before is not None and tuple(before.shape) != shape:
            raise ValueError(
                f"FoolsGold remembers updates of shape {tuple(before.shape)}, clients "
                f"by their row, got updates of shape {shape}; reset() starts anew"
            )
        norms = _norms(matrix)
        good = np.flatnonzero(np.isfinite(norms))
        matrix, f = self._without_faulty(matrix, f, np.delete(np.arange(n), good))
        cut = _LONGEST / np.maximum(norms[good], _LONGEST)
        self._remember(matrix, good, cut, shape)
        found = cosines(UpdateMatrix.of(self.history_))[np.ix_(good, good)]
        weights = self._trusted(found) * cut
        self.similarity_, self.weights_ = np.full(n, np.nan), np.zeros(n)
        self.similarity_[good] = found.max(axis=1)
        self.weights_[good] = weights
        self.selected_ = np.flatnonzero(self.weights_)
        return matrix.join(combine(matrix, weights))

    def _remember(self, matrix, rows, cut, shape):
        for where, tile in matrix.tiles(GRAM_WIDTH):
            if not hasattr(self, "history_"):
                self.history_ = empty_like(tile, shape)
                self.history_[:] = 0
            self.history_[rows, where] += like(cut[:, np.newaxis] * tile, self.history_)

    def _trusted(self, cosines):
        """Return the weights that follow from cosines with zeros in the diagonal."""
        most = cosines.max(axis=1)
        pardon = np.divide.outer(most, np.where(most > 0, most, 1))
        weights = 1 - (cosines * np.minimum(pardon, 1)).max(axis=1)
        if not weights.any():
            warnings.warn(
                "FoolsGold takes all clients for one: the update is zero",
                UserWarning,
                stacklevel=5,
            )
            return weights
        weights = np.minimum(weights / weights.max(), 0.99)
        with np.errstate(divide="ignore"):
            weights = self.kappa * (np.log(weights / (1 - weights)) + 0.5)
        weights = np.clip(weights, 0, 1)
        return weights / weights.sum() if self.normalize else weights


def cosines(matrix):
    """Return the cosines of different rows, zeros in the diagonal and for zero rows."""
    norms = _norms(matrix)
    scale = np.where(norms > 1 / _LONGEST, 1 / np.maximum(norms, 1 / _LONGEST), 0)
    found = np.zeros((len(norms), len(norms)))
    for _, tile in matrix.tiles(GRAM_WIDTH):
        # of unit length before the product: short rows keep their digits
        unit = like(scale[:, np.newaxis], tile) * tile
        product = on_host(unit @ unit.T)
        found += product
    # copies are one, whatever rounding made of them
    found[found > 1 - _ROUNDING * np.finfo(product.dtype).eps] = 1
    np.fill_diagonal(found, 0)
    return found


def _norms(matrix):
    return np.sqrt(np.diag(products_about_origin(matrix))[:-1])
