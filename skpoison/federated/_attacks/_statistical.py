"""Attacks made of the mean and the spread of the updates."""

from scipy.special import ndtri

from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.federated._attacks._knowledge import (
    as_sent,
    mean,
    models,
    moments,
    repeated,
    server_rule,
)
from skpoison.federated._attacks._optimal import most_harmful
from skpoison.utils._validation import check_number, check_option


class SignFlipAttack(BaseUpdateAttack):
    """Send the update with its sign turned.

    Parameters
    ----------
    scale : float, default=1.0
        Length of what is sent against the length of the update.
    source : {"own", "benign"}, default="own"
        Each Byzantine client turns its own update, or all of them the benign mean.
    knowledge : {"full", "partial"}, default="full"
        For ``source="benign"``: whether the attacker sees the benign updates, or takes
        the mean of what its own clients would send.
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
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import SignFlipAttack
    >>> updates = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> SignFlipAttack(n_byzantine=1).fit_transform(updates)[0]
    array([-1., -2.])
    >>> SignFlipAttack(source="benign", n_byzantine=1).fit_transform(updates)[0]
    array([-4., -5.])
    """

    def __init__(
        self,
        *,
        scale=1.0,
        source="own",
        knowledge="full",
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.scale = scale
        self.source = source
        self.knowledge = knowledge
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        check_number("scale", self.scale, low=0.0)
        check_option("source", self.source, ("own", "benign"))

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        if self.source == "own":
            return -float(self.scale) * context.own
        return repeated(-self.scale * mean(models(context)), context)


class IPMAttack(BaseUpdateAttack):
    """Send the benign mean with its sign turned, shortened: "Fall of Empires".

    Parameters
    ----------
    eps : float or "optimal", default=0.1
        Length of what is sent against the length of the mean. From (m - c) / c on, with
        c of m clients Byzantine, the mean of all updates turns round. "optimal" looks
        in (0, 10] for the length that takes the server's result farthest from the
        benign mean, see Notes.
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the benign updates, or takes the mean of what its own
        clients would send. "optimal" needs full knowledge.
    assumed_aggregator : estimator or None, default=None
        What the attacker takes for the server's rule, for ``eps="optimal"``. None is
        the server's own.
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
        Of the last round: "eps".
    n_features_in_ : int

    Notes
    -----
    What is sent is :math:`-\\epsilon \\mu`, so that the inner product of what the
    server makes of it and the true mean :math:`\\mu` turns negative.

    "optimal" is found on a grid, then by golden section, in about 45 trials a round.
    Where the result is a weighted sum of the updates (Krum, geometric median, a
    pipeline of NNM and these, ...), they work on inner products. Rules that look at
    each weight by itself, rules that remember earlier rounds, and functions are called
    for each trial.

    References
    ----------
    .. [1] Xie, C., Koyejo, O., Gupta, I. "Fall of empires: breaking Byzantine-tolerant
       SGD by inner product manipulation." UAI 2019. arXiv:1903.03936.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import IPMAttack
    >>> updates = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> IPMAttack(n_byzantine=1).fit_transform(updates)[0]
    array([-0.4, -0.5])
    """

    def __init__(
        self,
        *,
        eps=0.1,
        knowledge="full",
        assumed_aggregator=None,
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.eps = eps
        self.knowledge = knowledge
        self.assumed_aggregator = assumed_aggregator
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        if not _optimal(self, "eps"):
            check_number("eps", self.eps, low=0.0)

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        known = models(context)
        centre = mean(known)
        eps = self.eps
        if eps == "optimal":
            rule = server_rule(context, self.assumed_aggregator)
            eps = most_harmful(context, rule, known, 0, -centre)
        context.info["eps"] = float(eps)
        return repeated(-eps * centre, context)


class ALIEAttack(BaseUpdateAttack):
    """Send the mean moved by a few standard deviations: "A Little Is Enough".

    So few that enough benign clients lie farther from the mean, in each weight, to make
    a majority with the Byzantine ones.

    Parameters
    ----------
    z : float, "optimal" or None, default=None
        Standard deviations; a negative number moves upwards. None is the number of
        [1]_, see Notes. "optimal" looks in (0, 10] for the number that takes the
        server's result farthest from the benign mean, see :class:`IPMAttack`.
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the benign updates, or takes mean and spread of what
        its own clients would send, as in [1]_. "optimal" needs full knowledge.
    assumed_aggregator : estimator or None, default=None
        What the attacker takes for the server's rule, for ``z="optimal"``. None is the
        server's own.
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
        Of the last round: "z".
    n_features_in_ : int

    Raises
    ------
    ValueError
        With ``z=None`` where the Byzantine clients are a majority already.

    Notes
    -----
    With m clients, c of them Byzantine, :math:`s = \\lfloor m/2 + 1 \\rfloor - c`
    benign ones are missing to a majority, and

    .. math:: \\Phi(z) = \\frac{m - c - s}{m - c}.

    What is sent is :math:`\\mu - z \\sigma`.

    References
    ----------
    .. [1] Baruch, M., Baruch, G., Goldberg, Y. "A little is enough: circumventing
       defenses for distributed learning." NeurIPS 2019. arXiv:1902.06156.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import ALIEAttack
    >>> updates = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
    >>> ALIEAttack(z=1.5, n_byzantine=1).fit_transform(updates)[0]
    array([0.5, 2. ])
    """

    def __init__(
        self,
        *,
        z=None,
        knowledge="full",
        assumed_aggregator=None,
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.z = z
        self.knowledge = knowledge
        self.assumed_aggregator = assumed_aggregator
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        if self.z is not None and not _optimal(self, "z"):
            check_number("z", self.z)

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        known = models(context)
        centre, spread = moments(known)
        z = self.z
        if z is None:
            z = _quantile(context.n_clients, len(context.byzantine))
        elif z == "optimal":
            rule = server_rule(context, self.assumed_aggregator)
            z = most_harmful(context, rule, known, 1, -as_sent(spread, context))
        context.info["z"] = float(z)
        return repeated(centre - z * spread, context)


def _optimal(attack, name):
    """Tell whether a parameter is "optimal"; raise where that needs more knowledge."""
    value = getattr(attack, name)
    if not isinstance(value, str):
        return False
    check_option(name, value, ("optimal",))
    if attack.knowledge == "partial":
        raise ValueError(
            f"{name}='optimal' needs knowledge='full', got knowledge='partial'"
        )
    return True


def _quantile(m, c):
    missing = m // 2 + 1 - c
    if missing <= 0:
        raise ValueError(
            f"z must be given where the Byzantine clients are a majority: c={c} of "
            f"m={m} clients"
        )
    share = (m - c - missing) / (m - c)
    # of so few clients none can be left behind: the mean itself is sent
    return float(ndtri(share)) if share > 0 else 0.0
