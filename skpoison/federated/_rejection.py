"""Clients whose updates harm the model on the server's data are left out."""

import numpy as np
from sklearn.base import BaseEstimator

from skpoison.federated._aggregators._checks import check_updates, n_faulty
from skpoison.federated._aggregators._matrix import UpdateMatrix, on_host, row_maxima
from skpoison.federated._aggregators._server_rule import ServerRule
from skpoison.utils._random import RandomStreams
from skpoison.utils._validation import check_number, check_option

METHODS = ("err", "lfr", "union")


class Rejection(BaseEstimator):
    """Leave out the clients without whom a rule gives the best models.

    Parameters
    ----------
    method : {"err", "lfr", "union"}, default="lfr"
        What is best, on data that the server holds: the lowest error rate ("err"), the
        lowest mean cross-entropy ("lfr", for loss function based rejection), or those
        that either leaves out ("union"). In [1]_ "lfr" does better than "err".
    n_reject : int or None, default=None
        Clients to leave out, up to twice as many with "union". None is the number of
        Byzantine clients, as in [1]_.
    n_byzantine_after : {"same", "reduced"}, default="same"
        What the rule is told about those that are left: as many Byzantine clients as
        before, or fewer by those left out. [1]_ does not say.
    random_state : int, RandomState instance or None, default=None
        For ties, where no generator is given.

    Attributes
    ----------
    errors_, losses_ : ndarray of shape (n_clients,)
        Of the model without each client.
    rejected_ : ndarray of int
        Clients left out, in ascending order.

    Notes
    -----
    The impact of client i is :math:`E_A - E_B^i`, with :math:`E_A` the error or loss
    of the model that the rule gives of all clients and :math:`E_B^i` that without i.
    The first is the same for all, so that the clients of largest impact are those of
    least :math:`E_B^i`. All models without one client come from one sort or one matrix
    of inner products, where the rule has such a way.

    With few validation rows most error rates are equal, and so are the models where a
    rule selects one client. Ties are broken at random: by index, they would fall on
    whoever is stored first.

    Rows with NaN or infinity are left out first.

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Mean, Rejection
    >>> updates = np.array([[1.0], [1.1], [0.9], [1.0], [1.2], [-4.0]])
    >>> def evaluate(candidates):  # the model is best at 1.1
    ...     losses = abs(candidates[:, 0] - 1.1)
    ...     return losses > 0.1, losses
    >>> Rejection("lfr").keep(updates, Mean(), 1, evaluate)
    array([0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        method="lfr",
        *,
        n_reject=None,
        n_byzantine_after="same",
        random_state=None,
    ):
        self.method = method
        self.n_reject = n_reject
        self.n_byzantine_after = n_byzantine_after
        self.random_state = random_state

    def keep(self, updates, rule, n_byzantine, evaluate, rng=None, root_update=None):
        """Return the clients whose updates are to be aggregated.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        rule : aggregator, Pipeline or callable
            A rule that remembers earlier rounds goes on from them and does not
            remember this.
        n_byzantine : int, float or None
            Clients that may be Byzantine: a number, or a share in [0, 0.5). None is 0.
        evaluate : callable
            ``evaluate(candidates)`` takes updates of shape (n_clients, n_weights) and
            returns the error rates and the losses of the models they lead to, one
            each, on data that the server trusts.
        rng : numpy Generator or RandomState, default=None
            For ties; None starts one from `random_state`.
        root_update : array or tensor of shape (n_weights,), default=None
            For a rule that needs it, :class:`FLTrust`.

        Returns
        -------
        kept : ndarray of int
            In ascending order.

        Raises
        ------
        ValueError
            A bad parameter; or the rule can't work with so few clients.
        """
        check_option("method", self.method, METHODS)
        check_option("n_byzantine_after", self.n_byzantine_after, ("same", "reduced"))
        updates = check_updates(BaseEstimator(), updates)
        n = len(updates)
        f = n_faulty(n_byzantine, n)
        n_reject = f
        if self.n_reject is not None:
            n_reject = check_number(
                "n_reject", self.n_reject, low=0, high=n - 1, integer=True
            )
        if not callable(evaluate):
            raise TypeError(
                "Rejection needs validation data of the server: evaluate must be a "
                f"callable, got {evaluate!r}"
            )
        if not isinstance(rule, ServerRule):
            rule = ServerRule(rule)
        candidates = rule.leave_one_out(updates, f, root_update)
        self.errors_, self.losses_ = _judged(candidates, evaluate)
        if rng is None:
            rng = RandomStreams(self.random_state).numpy("ties")
        faulty = ~np.isfinite(row_maxima(UpdateMatrix.of(updates)))
        rejected = np.zeros(n, bool)
        for method, values in (("err", self.errors_), ("lfr", self.losses_)):
            if self.method in (method, "union"):
                order = np.lexsort((rng.permutation(n), values, ~faulty))
                rejected[order[:n_reject]] = True
        self.rejected_ = np.flatnonzero(rejected)
        kept = np.flatnonzero(~rejected)
        self._check_left(rule, n, len(kept), f)
        return kept

    def n_byzantine_after_(self, n_byzantine, n_kept, n_clients):
        """Return what the rule is to be told about the clients that are left.

        Parameters
        ----------
        n_byzantine : int
            Before.
        n_kept, n_clients : int
            Clients after and before.

        Returns
        -------
        n_byzantine : int
        """
        if self.n_byzantine_after == "same":
            return n_byzantine
        return max(0, n_byzantine - (n_clients - n_kept))

    def _check_left(self, rule, n, n_kept, f):
        f_left = self.n_byzantine_after_(f, n_kept, n)
        try:
            rule.check(n_kept, f_left)
        except ValueError as error:
            raise ValueError(
                f"Rejection leaves {n_kept} of n={n} clients, n_byzantine={f_left} of "
                f"them, too few for the rule: {error}"
            ) from error


def _judged(candidates, evaluate):
    """Return error rates and losses, those that are not numbers as infinite."""
    found = []
    for name, values in zip(
        ("error rates", "losses"), evaluate(candidates), strict=True
    ):
        values = np.asarray(on_host(values), dtype=np.float64)
        if values.shape != (len(candidates),):
            raise ValueError(
                f"evaluate must return {len(candidates)} {name}, got shape "
                f"{values.shape}"
            )
        found.append(np.where(np.isnan(values), np.inf, values))
    return found
