"""The attack on trimmed mean, median and mean."""

import warnings

import numpy as np

from skpoison.federated._attacks._directed import DirectedAttack
from skpoison.federated._attacks._knowledge import (
    aggregated,
    as_sent,
    extremes,
    models,
    moments,
    server_rule,
    usable,
)
from skpoison.utils._validation import check_number, check_option


class FangTrimAttack(DirectedAttack):
    """Push each weight the wrong way with values just beyond the benign ones.

    For rules that look at each weight by itself: :class:`TrimmedMean`, :class:`Median`
    and also :class:`Mean`.

    Parameters
    ----------
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the updates of all clients, or what its own would
        send.
    b : float, default=2.0
        Full knowledge: how far the values go beyond the largest or smallest benign one,
        as a factor above 1; 2 as in [1]_.
    space : {"update", "weights"}, default="update"
        Full knowledge: whether the factor is one of updates or of weights, as in the
        text of [1]_. Trimmed mean and median hardly see the difference; the mean does,
        and an attack on it is stronger in weights.
    goal : {"directed", "deviation"}, default="directed"
        Against the direction of training, or for each weight to the side where the
        server's rule gives way more: Appendix B of [1]_, which shows that this does
        less. The latter needs full knowledge, and calls the rule three times a round.
    direction : {"mean", "aggregate"}, default="mean"
        With full knowledge, what the direction of training is read from: the mean of
        all updates, as in the authors' code, or the result of the server's rule, as in
        the text, which makes the attack on the trimmed mean far weaker. With partial
        knowledge it is the mean of the known updates.
    zero_direction : {-1, 0}, default=-1
        Direction of weights that don't move: downwards as in [1]_, or none, as in the
        authors' code; these then are sent unmoved.
    assumed_aggregator : estimator or None, default=None
        What the attacker takes for the server's rule, where it needs one: with
        ``goal="deviation"`` or ``direction="aggregate"``. None is the server's own.
    n_byzantine : int, float or None, default=None
        Rows that ``transform`` replaces, a number or a share; None is 0. Federated
        training has its own.
    attack_rounds : float in [0, 1], default=1.0
        Share of the rounds that are attacked, drawn at random.
    strict : bool, default=False
        Raise where half of the clients or more are Byzantine.
    random_state : None, int, RandomState or Generator, default=None
        Of ``transform``. Federated training has its own.

    Attributes
    ----------
    info_ : dict
        Of the last round: "signs_right", the share of the moving weights whose
        direction was right.
    n_features_in_ : int

    Warns
    -----
    UserWarning
        With partial knowledge and one known update: there is no spread to read.

    See Also
    --------
    FangKrumAttack : Against rules that look at distances between updates.

    Notes
    -----
    With :math:`s_j = \\pm 1` the direction of weight j, values are drawn uniformly, for
    each Byzantine client and weight, from ::

        full, s = -1:     [max, b max]  if max > 0,  else [max, max / b]
        full, s = +1:     [min / b, min] if min > 0, else [b min, min]
        partial, s = -1:  [mu + 3 sigma, mu + 4 sigma]
        partial, s = +1:  [mu - 4 sigma, mu - 3 sigma]

    where max and min are over the benign clients, mu and sigma over what the Byzantine
    ones would send. After a full attack by c of m clients the mean trimmed by c at
    either end is the mean of the m - 2c largest (s = -1) or smallest (s = +1) benign
    values, whatever `b` and the seed.

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import FangTrimAttack, TrimmedMean
    >>> updates = np.array([[0.2], [0.1], [0.2], [0.3], [0.4]])
    >>> TrimmedMean(n_byzantine=1)(updates).round(2)
    array([0.23])
    >>> poisoned = FangTrimAttack(n_byzantine=1, random_state=0).fit_transform(updates)
    >>> TrimmedMean(n_byzantine=1)(poisoned).round(2)
    array([0.2])
    """

    def __init__(
        self,
        *,
        knowledge="full",
        b=2.0,
        space="update",
        goal="directed",
        direction="mean",
        zero_direction=-1,
        assumed_aggregator=None,
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.knowledge = knowledge
        self.b = b
        self.space = space
        self.goal = goal
        self.direction = direction
        self.zero_direction = zero_direction
        self.assumed_aggregator = assumed_aggregator
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        check_number("b", self.b, low=1.0, strict=True)
        check_option("space", self.space, ("update", "weights"))
        if self.goal == "deviation" and self.knowledge == "partial":
            raise ValueError(
                "goal='deviation' of FangTrimAttack needs knowledge='full', got "
                "knowledge='partial'"
            )

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        above, below = self._sides(context)
        if self.goal == "deviation":
            signs = self._yielding(context, above, below)
        else:
            signs = self._signs(self._course(context))
        near, far = np.where(signs < 0, above, below)
        near[signs == 0] = far[signs == 0] = 0
        near, far = as_sent(near, context), as_sent(far, context)
        crafted = np.empty((len(context.byzantine), len(near)), near.dtype)
        context.rng.random(out=crafted, dtype=near.dtype)
        crafted *= far - near
        crafted += near
        return crafted

    def _sides(self, context):
        """Return the intervals above and below the benign values.

        Each as an array of shape (2, n_weights): the end near to them, the far one.
        """
        if self.knowledge == "partial":
            known = usable(context)
            if len(known) == 1:
                warnings.warn(
                    "FangTrimAttack with partial knowledge and one known update sees "
                    "no spread: that update is sent",
                    UserWarning,
                    stacklevel=4,
                )
            centre, spread = moments(known)
            steps = np.array([[3.0], [4.0]]) * spread
            return centre + steps, centre - steps
        low, high = extremes(models(context))
        origin = np.zeros(1)
        if self.space == "weights":
            if context.weights is None:
                raise ValueError(
                    "space='weights' needs the global weights: context.weights is None"
                )
            origin = np.asarray(context.weights, dtype=np.float64)
        low, high = low + origin, high + origin
        above = np.stack([high, np.where(high > 0, self.b * high, high / self.b)])
        below = np.stack([low, np.where(low > 0, low / self.b, self.b * low)])
        return above - origin, below - origin

    def _yielding(self, context, above, below):
        """Return -1 for weights whose aggregate moves farther up than down, else 1."""
        rule = server_rule(context, self.assumed_aggregator)
        c = len(context.byzantine)
        before = aggregated(rule, context.updates, c)
        updates = np.array(context.updates)
        moved = []
        for side in (above, below):
            updates[context.byzantine] = as_sent(side.mean(axis=0), context)
            moved.append(np.abs(aggregated(rule, updates, c) - before))
        return np.where(moved[0] > moved[1], -1.0, 1.0)
