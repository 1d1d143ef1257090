"""The attack that says again what another client says."""

import numpy as np

from skpoison.federated._aggregators._matrix import gram
from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.federated._attacks._knowledge import (
    models,
    positions,
    projections,
    repeated,
    weighted_sum,
)
from skpoison.utils._validation import check_number


class MimicAttack(BaseUpdateAttack):
    """Send copies of one benign client's update.

    Nothing that is sent is wrong, so that no rule can tell it; yet where clients' data
    differ, the one that is copied counts for more than its share.

    Parameters
    ----------
    index : int, default=None
        Which of the benign clients is copied. None is the one that lies farthest along
        the direction in which the benign updates differ most.
    warmup : int, default=0
        Rounds in which the attacker only watches to find that client, the clients being
        the same in each; then it copies the same one for good. 0 looks anew each round.
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the benign updates. If not, one of its own clients'
        updates is copied.
    n_byzantine : int, float or None, default=None
        Rows that ``transform`` replaces, a number or a share; None is 0. Federated
        training has its own.
    attack_rounds : float in [0, 1], default=1.0
        Share of the rounds that are attacked, or watched, drawn at random.
    strict : bool, default=False
        Raise where half of the clients or more are Byzantine.
    random_state : None, int, RandomState or Generator, default=None
        Of ``transform``. Federated training has its own.

    Attributes
    ----------
    info_ : dict
        Of the last round: "mimicked", the row that was copied.
    n_features_in_ : int

    Notes
    -----
    The direction z is that of the first principal component of the benign updates of
    the first round that is watched. In the t-th it moves on to

    .. math:: \\tfrac{t-1}{t} z + \\tfrac{1}{t} \\sum_i (u_i - \\mu)(u_i - \\mu)^T z,

    scaled to length one, as in [1]_. The client with the largest
    :math:`|\\sum_t z^T u_i|` is copied.

    References
    ----------
    .. [1] Karimireddy, S. P., He, L., Jaggi, M. "Byzantine-robust learning on
       heterogeneous datasets via bucketing." ICLR 2022. arXiv:2006.09365.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MimicAttack
    >>> updates = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 1.0], [2.0, 0.0]])
    >>> MimicAttack(n_byzantine=1).fit_transform(updates)[0]
    array([9., 1.])
    """

    def __init__(
        self,
        *,
        index=None,
        warmup=0,
        knowledge="full",
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.index = index
        self.warmup = warmup
        self.knowledge = knowledge
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        if self.index is not None:
            check_number("index", self.index, low=0, integer=True)
        check_number("warmup", self.warmup, low=0, integer=True)

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        rows = context.benign if len(context.benign) else context.byzantine
        if self.index is not None:
            if self.index >= len(rows):
                raise ValueError(
                    f"index must be less than the {len(rows)} clients to copy from, "
                    f"got {self.index}"
                )
            row = rows[self.index]
        elif self.warmup == 0:
            known = models(context)
            along = _along(known, _component(known))
            row = positions(known)[np.argmax(np.abs(along))]
        else:
            watched = context.history.setdefault("MimicAttack", {})
            if watched.get("n_rounds", 0) < self.warmup:
                _watch(watched, models(context))
                return context.own
            row = rows[np.argmax(np.abs(watched["along"][rows]))]
        context.info["mimicked"] = float(row)
        return repeated(context.updates[row].astype(np.float64), context)


def _watch(watched, known):
    """Bring what is remembered of the rounds watched up to date."""
    t = watched.get("n_rounds", 0) + 1
    direction = _component(known) if t == 1 else watched["direction"]
    total = watched.get("along", np.zeros(known.n_rows))
    if len(total) != known.n_rows:
        raise ValueError(
            "warmup of MimicAttack needs the same clients in each round: after rounds "
            f"of {len(total)} clients came one of {known.n_rows}"
        )
    along = _along(known, direction)
    total[positions(known)] += along
    # the coefficients sum to zero, so that mu drops out
    spread = weighted_sum(known, along - along.mean())
    direction = (t - 1) / t * direction + spread / t
    length = np.linalg.norm(direction)
    watched.update(
        n_rounds=t,
        along=total,
        direction=direction / length if length > 0 else direction,
    )


def _component(known):
    """Return the first principal direction of the rows; zeros where they are equal."""
    n = len(known)
    rows = gram(known)[:n, :n]
    middle = rows.mean(axis=0)
    rows = rows - middle - middle[:, np.newaxis] + middle.mean()
    weights = np.linalg.eigh(rows)[1][:, -1]
    direction = weighted_sum(known, weights - weights.mean())
    length = np.linalg.norm(direction)
    return direction / length if length > 0 else direction


def _along(known, direction):
    return projections(known, direction, np.zeros(known.n_columns))
