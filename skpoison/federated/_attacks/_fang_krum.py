"""The attack on Krum and the rules built on it."""

from functools import cached_property

import numpy as np

from skpoison.federated._aggregators._checks import n_faulty
from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._krum import Krum, krum_scores
from skpoison.federated._aggregators._matrix import gram
from skpoison.federated._attacks._directed import DirectedAttack
from skpoison.federated._attacks._knowledge import (
    as_sent,
    last_step,
    server_rule,
    usable,
)
from skpoison.utils._validation import check_number, check_option

_PRECISION = 1e-3  # of the bisection, relative
# Of scores, relative: a bisection ends next to a tie, and in float32 the short
# distances between near copies are rounded so much as to decide that.
_MARGIN = 2e-4


class FangKrumAttack(DirectedAttack):
    """Push the global model back, as far as Krum lets through.

    One Byzantine client sends the global model moved against the direction of training,
    the others send near copies, which support it: their distances to it are nearly
    zero. How far it is moved is found by trying out Krum on what the attacker knows.
    For :class:`Krum`, :class:`MultiKrum` and :class:`Bulyan`.

    Parameters
    ----------
    knowledge : {"full", "partial"}, default="full"
        Whether the attacker sees the updates of all clients, or what its own would
        send.
    epsilon : float, default=0.01
        Distance of the supporting updates from the one supported, at most; as in [1]_.
    search : {"halving", "bisect"}, default="halving"
        Halve the distance until Krum selects the update, with the supporting ones taken
        for copies of it, as in [1]_. "bisect" takes them where they are, and goes on
        between the distance that was selected and its double.
    threshold : float, default=1e-5
        The shortest distance tried; as in [1]_.
    fallback : {"benign", "threshold"}, default="benign"
        What is sent when none is selected: the updates without attack, as in the
        authors' code, or those at `threshold`.
    goal : {"directed", "deviation"}, default="directed"
        Against the direction of training, or all weights downwards: Appendix B of
        [1]_, where this harms Krum as much.
    direction : {"mean", "aggregate"}, default="mean"
        With full knowledge, what the direction of training is read from: the mean of
        all updates, as in the authors' code, or the result of the server's rule, as in
        the text. With partial knowledge it is the mean of the known updates.
    zero_direction : {-1, 0}, default=-1
        Direction of weights that don't move: downwards as in [1]_, or none, as in the
        authors' code.
    assumed_aggregator : estimator or None, default=None
        What the attacker takes for the server's rule; None is the server's own. The
        metric, the number of neighbours and of Byzantine clients are read from it, of
        a pipeline from its last step. Of a rule without these, those of ``Krum()``.
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
        Of the last round: "lambda", the distance by which each weight was moved, and
        "signs_right", the share of the moving weights whose direction was right.
    n_features_in_ : int

    See Also
    --------
    FangTrimAttack : Against rules that look at each weight by itself.

    Notes
    -----
    With m clients, c of them Byzantine, and :math:`s_j = \\pm 1` the direction of
    weight j, the crafted update is :math:`u^* = -\\lambda s`. It is wanted that Krum
    selects it among c copies of it and the m - c benign updates, where
    :math:`\\lambda` is large. With full knowledge no :math:`\\lambda` above

    .. math::
        \\frac{1}{(m - 2c - 1) \\sqrt d} \\min_i \\sum_{l \\in N_i} \\|u_i - u_l\\|
        + \\frac{1}{\\sqrt d} \\max_i \\|u_i\\|

    is selected (Theorem 1 of [1]_; i runs over the benign updates, :math:`N_i` are the
    m - c - 2 benign ones nearest to it). The search starts there, at the bound that
    holds likewise for squared distances where the server's rule sums those. With
    partial knowledge q copies compete with the c known updates, for q = 1, 2, ..., c
    until one :math:`\\lambda` is selected.

    Only distances to :math:`u^*` depend on :math:`\\lambda`, and they follow from
    :math:`\\|u_i\\|^2` and :math:`s^T u_i`. So one matrix of inner products is formed,
    and a trial costs O(m^2). Halving is sure to find less than the best; bisecting with
    copies would end where nothing is left for the distances of the supporting updates,
    and Krum would turn to a benign one. Hence the exact trials of "bisect".

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import FangKrumAttack, Krum
    >>> updates = np.random.default_rng(0).normal(0.1, 1.0, (20, 30))
    >>> attack = FangKrumAttack(n_byzantine=4, random_state=0)
    >>> poisoned = attack.fit_transform(updates)
    >>> bool(Krum(n_byzantine=4).fit(poisoned).selected_[0] < 4)
    True
    """

    def __init__(
        self,
        *,
        knowledge="full",
        epsilon=0.01,
        search="halving",
        threshold=1e-5,
        fallback="benign",
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
        self.epsilon = epsilon
        self.search = search
        self.threshold = threshold
        self.fallback = fallback
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
        check_number("epsilon", self.epsilon, low=0.0)
        check_option("search", self.search, ("halving", "bisect"))
        check_number("threshold", self.threshold, low=0.0, strict=True)
        check_option("fallback", self.fallback, ("benign", "threshold"))

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        if self.goal == "deviation":
            signs = np.ones(context.updates.shape[1])
        else:
            signs = self._signs(self._course(context))
        crafted = self._around(context)
        scale = self._scale(context, signs, crafted) if signs.any() else None
        if scale is None and self.fallback == "benign":
            context.info["lambda"] = 0.0
            return context.own
        scale = self.threshold if scale is None else scale
        context.info["lambda"] = float(scale)
        crafted += as_sent(-scale * signs, context)
        return crafted

    def _around(self, context):
        """Return the origin and c - 1 points of a ball around it."""
        c, rng = len(context.byzantine), context.rng
        points = np.zeros((c, context.updates.shape[1]), context.updates.dtype)
        rng.standard_normal(out=points[1:], dtype=points.dtype)
        lengths = np.sqrt(np.einsum("ij,ij->i", points, points))
        # a draw of length zero has no direction: it stays at the centre
        radii = self.epsilon * rng.random(c) / np.where(lengths > 0, lengths, 1)
        points *= radii.astype(points.dtype)[:, np.newaxis]
        return points

    def _scale(self, context, signs, around):
        """Return the lambda that is selected, None if there is none."""
        c, m = len(context.byzantine), context.n_clients
        rule = last_step(server_rule(context, self.assumed_aggregator))
        f = getattr(rule, "n_byzantine", None)
        f = c if f is None else n_faulty(f, m)
        n_neighbors = getattr(rule, "n_neighbors", None)
        n_neighbors = m - f - 2 if n_neighbors is None else n_neighbors
        full = self.knowledge == "full"
        known = usable(context, context.benign) if full else usable(context)
        if not full:
            # of n rows, f = q of them bad, the server looks at n - q - 2 neighbours
            n_neighbors = len(known) - (m - f - n_neighbors)
        metric = getattr(rule, "metric", Krum().metric)
        kind = _Contest if self.search == "halving" else _ExactContest
        contest = kind(known, signs, around, metric, max(n_neighbors, 1))
        if full:
            return self._search(contest, c)
        if len(known) == 1:  # always a tie; as far from the origin as that row
            return np.sqrt(contest.square[0] / contest.length)
        found = (self._search(contest, q) for q in range(1, c + 1))
        return next((scale for scale in found if scale is not None), None)

    def _search(self, contest, copies):
        bound = scale = contest.bound(copies)
        while not contest.selects(scale, copies):
            scale /= 2
            if scale < self.threshold:
                return None
        if self.search == "bisect" and scale < bound:
            high = 2 * scale
            while high - scale > _PRECISION * scale:
                middle = (scale + high) / 2
                if contest.selects(middle, copies):
                    scale = middle
                else:
                    high = middle
        return scale


class _Contest:
    """Krum among known updates and copies of the crafted one, -scale * signs.

    Parameters
    ----------
    known : UpdateMatrix
    signs : ndarray of shape (n_weights,)
    around : ndarray of shape (n_byzantine, n_weights)
        Where the other crafted updates lie, seen from it; copies here.
    metric : {"sqeuclidean", "euclidean"}
    n_neighbors : int
    """

    def __init__(self, known, signs, around, metric, n_neighbors):
        n = len(known)
        geometry = self._geometry(known, signs, around)
        self.n = n
        self.n_neighbors = n_neighbors
        self.root = metric == "euclidean"
        self.square = geometry.norms[:n] ** 2
        self.along = geometry.inner[:n, n]
        self.length = float(np.count_nonzero(signs))
        others = geometry.sq_distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
        self.ordered = np.sort(self._metric(others), axis=1)

    def _geometry(self, known, signs, around):
        return Geometry(gram(known, (signs,)), len(known))

    def _metric(self, squares):
        return np.sqrt(squares) if self.root else squares

    @cached_property
    def _sums(self):
        """Sums of each row's t smallest distances to known ones, t = 0, ..., n - 1."""
        return np.pad(self.ordered.cumsum(axis=1), ((0, 0), (1, 0)))

    def bound(self, copies):
        """Return a scale above which the crafted update is not selected.

        Where there are so many copies that it always is: a large scale.
        """
        known = min(self.n_neighbors, self.n - 1)
        least = self._sums[:, known].min()
        near = max(self.n_neighbors - copies + 1, 1)
        beyond = self.n_neighbors - known
        if not self.root:
            # the triangle inequality is for roots of sums of squares
            least, near, beyond = np.sqrt([least, near, beyond])
        gap = near - beyond if near > beyond else 1.0
        farthest = np.sqrt(self.square.max())
        return (least + (near + beyond) * farthest) / (gap * np.sqrt(self.length))

    def selects(self, scale, copies):
        """Tell whether Krum selects the crafted update, no known one being its tie."""
        k = min(self.n_neighbors, self.n + copies - 1)
        square = self.square + 2 * scale * self.along + scale**2 * self.length
        crafted = self._metric(np.maximum(square, 0))
        # of a known row's k nearest, `inner` are known ones and the rest are copies
        nearer = (self.ordered < crafted[:, np.newaxis]).sum(axis=1)
        inner = np.clip(nearer, max(k - copies, 0), k)
        scores = self._sums[np.arange(self.n), inner] + (k - inner) * crafted
        own = np.sort(crafted)[: max(k - copies + 1, 0)].sum()
        return bool(own < scores.min())


class _ExactContest(_Contest):
    """The same with the supporting updates where they will be."""

    def _geometry(self, known, signs, around):
        geometry = Geometry(gram(known, (signs, *around)), len(known))
        n, inner = len(known), geometry.inner
        self.apart = geometry.sq_distances
        self.within = inner[:n, n + 1 :]  # products of known updates and points
        self.across = inner[n, n + 1 :]  # of signs and points
        size = np.diag(inner)[n + 1 :]
        self.size = size
        points = inner[n + 1 :, n + 1 :]
        self.points = np.maximum(np.add.outer(size, size) - 2 * points, 0)
        return geometry

    def selects(self, scale, copies):
        """Tell whether Krum selects one of the crafted updates."""
        n, n_all = self.n, self.n + copies
        reach = self.square + 2 * scale * self.along + scale**2 * self.length
        shift = self.size - 2 * scale * self.across
        between = np.add.outer(reach, shift) - 2 * self.within
        square = np.empty((n_all, n_all))
        square[:n, :n] = self.apart
        square[:n, n:] = np.maximum(between, 0)[:, :copies]
        square[n:, :n] = square[:n, n:].T
        square[n:, n:] = self.points[:copies, :copies]
        metric = "euclidean" if self.root else "sqeuclidean"
        k = min(self.n_neighbors, n_all - 1)
        scores = krum_scores(square, k, metric)
        return bool(scores[n:].min() < (1 - _MARGIN) * scores[:n].min())
