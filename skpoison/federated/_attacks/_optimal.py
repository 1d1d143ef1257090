"""The step length at which an attack moves the server's result farthest."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._matrix import gram
from skpoison.federated._aggregators._server_rule import ServerRule
from skpoison.federated._attacks._knowledge import (
    aggregated,
    as_sent,
    last_step,
    mean,
    positions,
)

#: The longest step that is tried.
LONGEST = 10.0
_RATIO = 2 ** (1 / 3)
_N_STEPS = 31  # down to a thousandth
_PRECISION = 1e-3  # relative
_PLAIN = ("__call__", "_run", "_extra_rows", "_aggregate", "_geometry", "_usable")
_GOLDEN = (np.sqrt(5) - 1) / 2


def most_harmful(context, rule, known, origin, step):
    """Return the t at which rows ``origin * mean + t * step`` move the result farthest.

    Parameters
    ----------
    context : RoundContext
    rule : estimator, Pipeline, callable or None
        The server's.
    known : UpdateMatrix
        The benign rows; the distance is that from their mean.
    origin : {0, 1}
    step : ndarray of shape (n_weights,)

    Returns
    -------
    t : float in (0, LONGEST]

    Notes
    -----
    Shortens the step from LONGEST on, then searches by golden section between the
    neighbours of the best. Rules that reject what is too far off let the distance rise
    and then jump; hence the narrow steps.
    """
    trial = _GramTrial if _weighs(rule) else _Trial
    distance = trial(context, rule, known, origin, step)
    tried = {t: distance(t) for t in LONGEST * _RATIO ** -np.arange(_N_STEPS)}
    best = max(tried, key=tried.__getitem__)
    low, high = best / _RATIO, min(_RATIO * best, LONGEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    tried[left], tried[right] = distance(left), distance(right)
    while high - low > _PRECISION * best:
        if tried[left] >= tried[right]:
            high, right = right, left
            left = high - _GOLDEN * (high - low)
            tried[left] = distance(left)
        else:
            low, left = left, right
            right = low + _GOLDEN * (high - low)
            tried[right] = distance(right)
    return float(max(tried, key=tried.__getitem__))


def _weighs(rule):
    """Tell whether the inner products of the rows alone decide on the result.

    Not where a rule has its own way with what it is given: further rows, a trusted one,
    what it remembers.
    """
    kind = type(last_step(rule))
    return issubclass(kind, GramAggregator) and all(
        getattr(kind, name) is getattr(GramAggregator, name) for name in _PLAIN
    )


class _GramTrial:
    """Distance of the rule's result from the benign mean, by inner products alone."""

    def __init__(self, context, rule, known, origin, step):
        n, c = len(known), len(context.byzantine)
        # the step is one more row, which only the crafted rows are made of
        self.rows = Geometry(gram(known, (step,)), n + 1)
        self.mapping = np.eye(n + c, n + 1)
        self.mapping[n:] = np.append(np.full(n, origin / n), 0.0)
        order = np.argsort(np.r_[positions(known), context.byzantine])
        self.mapping, self.crafted = self.mapping[order], order >= n
        self.mean = np.append(np.full(n, 1 / n), 0.0)
        server = ServerRule(rule)
        server.check(context.n_clients, c)  # which fills in n_byzantine
        self.last = last_step(server.rule)
        steps = getattr(server.rule, "steps", [])[:-1]
        self.steps = [step for _, step in steps if hasattr(step, "_mapped")]
        # benign rows without finite numbers count among the faulty ones
        self.f = max(self.last.n_byzantine - (context.n_clients - n - c), 0)

    def __call__(self, t):
        self.mapping[self.crafted, -1] = t
        geometry = self.rows.mapped(self.mapping)
        for step in self.steps:
            geometry = step._mapped(geometry)
        weights = self.last._weights(geometry, self.f)
        off = geometry.to_given(weights) - self.mean
        off = np.append(off, -off.sum())  # the last line is the origin's
        return float(off @ self.rows.products @ off)


class _Trial:
    """The same by calling the rule."""

    def __init__(self, context, rule, known, origin, step):
        self.context, self.rule = context, rule
        self.mean = mean(known)
        # in float64: older NumPy lets a number times float32 overflow
        self.origin, self.step = origin * self.mean, np.asarray(step, dtype=float)
        self.updates = np.array(context.updates)

    def __call__(self, t):
        rows = self.context.byzantine
        self.updates[rows] = as_sent(self.origin + t * self.step, self.context)
        location = aggregated(self.rule, self.updates, len(rows))
        return float(((location - self.mean) ** 2).sum())
