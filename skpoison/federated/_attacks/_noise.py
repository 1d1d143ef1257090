"""Attacks that know no better than to send noise, and faults."""

import numpy as np

from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.federated._attacks._knowledge import as_sent, moments, usable
from skpoison.utils._validation import check_number, check_option

_FAULTS = {"zero": 0.0, "inf": np.inf, "nan": np.nan}


def _normal(context, centre, spread):
    """Draw a normal value for each Byzantine client and weight."""
    shape = len(context.byzantine), context.updates.shape[1]
    crafted = np.empty(shape, context.updates.dtype)
    context.rng.standard_normal(out=crafted, dtype=crafted.dtype)
    with np.errstate(over="ignore"):
        crafted *= spread
        crafted += centre
    limits = np.finfo(crafted.dtype)
    return np.clip(crafted, limits.min, limits.max, out=crafted)


class GaussianAttack(BaseUpdateAttack):
    """Send draws from a normal distribution fitted to each weight's updates.

    The weak attack of [1]_: what it sends looks like the updates and means nothing.

    Parameters
    ----------
    knowledge : {"full", "partial"}, default="full"
        Whether mean and standard deviation are those of all updates, as in [1]_, or of
        what the Byzantine clients would send.
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

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import GaussianAttack
    >>> updates = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 4.0]])
    >>> GaussianAttack(n_byzantine=1, random_state=0).fit_transform(updates)[:, 0]
    array([1., 1., 1.])
    """

    def __init__(
        self,
        *,
        knowledge="full",
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.knowledge = knowledge
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        centre, spread = moments(usable(context))
        return _normal(context, as_sent(centre, context), as_sent(spread, context))


class GaussianNoiseAttack(BaseUpdateAttack):
    """Send normal noise.

    Parameters
    ----------
    mean : float, default=0.0
    std : float, default=1.0
        Of each weight; large against honest updates, which are near the learning rate.
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
    >>> from skpoison.federated import GaussianNoiseAttack
    >>> attack = GaussianNoiseAttack(mean=5.0, std=0.0, n_byzantine=1)
    >>> attack.fit_transform(np.ones((3, 2)))
    array([[5., 5.],
           [1., 1.],
           [1., 1.]])
    """

    def __init__(
        self,
        *,
        mean=0.0,
        std=1.0,
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.mean = mean
        self.std = std
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        check_number("mean", self.mean)
        check_number("std", self.std, low=0.0)

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        return _normal(context, float(self.mean), float(self.std))


class FaultAttack(BaseUpdateAttack):
    """Send zeros, infinity or NaN, as broken clients do.

    Parameters
    ----------
    kind : {"zero", "inf", "nan"}, default="zero"
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
    >>> from skpoison.federated import FaultAttack
    >>> FaultAttack(kind="nan", n_byzantine=1).fit_transform(np.ones((3, 2)))
    array([[nan, nan],
           [ 1.,  1.],
           [ 1.,  1.]])
    """

    def __init__(
        self,
        *,
        kind="zero",
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.kind = kind
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        check_option("kind", self.kind, tuple(_FAULTS))

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        shape = len(context.byzantine), context.updates.shape[1]
        return np.full(shape, _FAULTS[self.kind], context.updates.dtype)
