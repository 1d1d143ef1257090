"""Attacks that go as far as distances between benign updates allow."""

import numpy as np

from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._matrix import gram
from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.federated._attacks._knowledge import (
    mean,
    models,
    moments,
    projections,
    repeated,
)
from skpoison.utils._validation import check_option


class _FarthestAttack(BaseUpdateAttack):
    """Base of the two: mu + gamma p with the largest gamma that is allowed.

    With v_i = mu - u_i, |v_i + gamma p|^2 = |v_i|^2 + 2 gamma v_i.p + gamma^2 |p|^2:
    all bounds are on quadratics in gamma.
    """

    def __init__(
        self,
        *,
        perturbation="unit",
        knowledge="full",
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.perturbation = perturbation
        self.knowledge = knowledge
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        check_option("perturbation", self.perturbation, ("unit", "sign", "std"))

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
        centre, step = self._step(known)
        n = len(known)
        products = gram(known)
        square = Geometry(products, n).sq_distances
        rows = products[:n, :n]
        middle = rows.mean(axis=1)
        offset = np.maximum(np.diag(rows) - 2 * middle + middle.mean(), 0)
        # not from inner products about a row: a short p would be lost in a long one
        shift = -projections(known, step, centre)
        length = step @ step
        gamma = 0.0
        if length > 0:
            gamma = self._farthest(square, offset, shift - shift.mean(), length)
        context.info["gamma"] = float(gamma)
        return repeated(centre + gamma * step, context)

    def _step(self, known):
        """Return mean and perturbation."""
        if self.perturbation == "std":
            centre, spread = moments(known)
            return centre, -spread
        centre = mean(known)
        if self.perturbation == "sign":
            return centre, -np.sign(centre)
        length = np.linalg.norm(centre)
        return centre, -centre / length if length > 0 else -centre

    def _farthest(self, square, offset, shift, length):
        """Return gamma.

        Parameters
        ----------
        square : ndarray of shape (n, n)
            Squared distances between benign rows.
        offset, shift : ndarray of shape (n,)
            Squared length of v_i, and its product with p.
        length : float
            Squared length of p.
        """
        raise TypeError(f"{type(self).__name__} must define _farthest")


def _largest_root(excess, shift, length):
    """Return the larger root of ``length g^2 + 2 shift g = excess``, excess >= 0."""
    root = np.sqrt(shift**2 + length * excess)
    # the form without cancellation, whatever the sign of shift
    safe = np.where(shift + root > 0, shift + root, 1)
    return np.where(shift > 0, excess / safe, (root - shift) / length)


class MinMaxAttack(_FarthestAttack):
    """Send a point as far out as the distance to no benign update gives away.

    It is no farther from any benign update than two of these are from each other.

    Parameters
    ----------
    perturbation : {"unit", "sign", "std"}, default="unit"
        In which direction from the benign mean: against the mean, against the sign of
        each weight's mean, or against each weight's standard deviation.
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the benign updates, or takes what its own clients
        would send for them.
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
        Of the last round: "gamma".
    n_features_in_ : int

    See Also
    --------
    MinSumAttack : Bounds the sum of squared distances.

    Notes
    -----
    With :math:`\\mu` the benign mean and p the perturbation,
    :math:`\\mu + \\gamma p` is sent, with the largest :math:`\\gamma` such that

    .. math:: \\max_i \\|\\mu + \\gamma p - u_i\\| \\le \\max_{i,j} \\|u_i - u_j\\|.

    For each i this bounds a quadratic in :math:`\\gamma`; the least of the larger
    roots is taken, where [1]_ searches.

    References
    ----------
    .. [1] Shejwalkar, V., Houmansadr, A. "Manipulating the Byzantine: optimizing model
       poisoning attacks and defenses for federated learning." NDSS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MinMaxAttack
    >>> updates = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> MinMaxAttack(n_byzantine=1).fit_transform(updates)[0]
    array([1.])
    """

    def _farthest(self, square, offset, shift, length):
        # the mean is no farther from a row than the farthest row is
        excess = np.maximum(square.max() - offset, 0)
        return _largest_root(excess, shift, length).min()


class MinSumAttack(_FarthestAttack):
    """Send a point as far out as the sum of squared distances gives away nothing.

    The sum of its squared distances to the benign updates is no larger than that of
    one of these.

    Parameters
    ----------
    perturbation : {"unit", "sign", "std"}, default="unit"
        In which direction from the benign mean: against the mean, against the sign of
        each weight's mean, or against each weight's standard deviation.
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the benign updates, or takes what its own clients
        would send for them.
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
        Of the last round: "gamma".
    n_features_in_ : int

    See Also
    --------
    MinMaxAttack : Bounds the largest distance.

    Notes
    -----
    With :math:`\\mu` the benign mean and p the perturbation,
    :math:`\\mu + \\gamma p` is sent, with the largest :math:`\\gamma` such that

    .. math::
        \\sum_i \\|\\mu + \\gamma p - u_i\\|^2 \\le \\max_i \\sum_j \\|u_i - u_j\\|^2.

    The distances to the mean sum up to no cross term, and with n benign updates

    .. math::
        n \\|p\\|^2 \\gamma^2
        = \\max_i \\sum_j \\|u_i - u_j\\|^2 - \\sum_i \\|\\mu - u_i\\|^2.

    References
    ----------
    .. [1] Shejwalkar, V., Houmansadr, A. "Manipulating the Byzantine: optimizing model
       poisoning attacks and defenses for federated learning." NDSS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MinSumAttack
    >>> updates = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> MinSumAttack(n_byzantine=1).fit_transform(updates)[0]
    array([1.])
    """

    def _farthest(self, square, offset, shift, length):
        excess = square.sum(axis=1).max() - offset.sum()
        return np.sqrt(max(excess, 0) / (len(offset) * length))
