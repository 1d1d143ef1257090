"""The exact worst case of an affine classifier, within a ball and a box."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog


def has_closed_form(norm, n_classes, *, targeted=False):
    """Tell whether :func:`worst_case` is exact: all but l2 with one target of many."""
    return norm == "linf" or not targeted or n_classes == 2


def worst_case(W, b, X, y, eps, low, high, norm="linf", target=None):
    """Return the inputs that an affine classifier gets most wrong, exactly.

    Parameters
    ----------
    W : ndarray of shape (n_classes, n_features)
    b : ndarray of shape (n_classes,)
        Scores are ``W @ x.ravel() + b``; the largest one, and of equal ones the first,
        is predicted.
    X : ndarray of shape (n_samples, ...)
        Inside the box.
    y : ndarray of int of shape (n_samples,)
        True classes, as positions.
    eps : float or array that broadcasts to one row
        Of l2 a number.
    low, high : float or arrays that broadcast to one row
        The box; may be infinite.
    norm : {"linf", "l2"}, default="linf"
    target : int or ndarray of int of shape (n_samples,), default=None
        The class to be predicted; None is any but `y`. Of more than two classes only
        for ``norm="linf"``.

    Returns
    -------
    X_adv : ndarray of shape (n_samples, ...), float64
        Without `target`, for each row the point of ball and box at which the margin of
        the best rival j over y is largest. With it, a point at which `target` is
        predicted, wherever there is one.

    Raises
    ------
    ValueError
        Ball and box are both unbounded in some direction; l2 with a target and more
        than two classes, which has no closed form.

    Notes
    -----
    For each rival the margin is linear in the change :math:`\\delta`,

    .. math:: m_j + (W_j - W_y) \\delta,

    and largest, over :math:`l \\le \\delta \\le u`, at the corner with
    :math:`\\delta_i = u_i` where :math:`(W_j - W_y)_i > 0` and :math:`l_i` where it is
    negative. In an l2 ball it is largest at :math:`\\mathrm{clip}(t (W_j - W_y), l,
    u)` with the largest t that keeps the length. Of a target, the smallest margin over
    all rivals has to be large: a linear program, solved for the rows that neither a
    corner nor a bound decides.
    """
    radius = np.asarray(eps, dtype=np.float64)
    given = np.asarray(X, dtype=np.float64)
    flat = len(given), -1
    region = _Region(
        given.reshape(flat),
        np.maximum(given - radius, low).reshape(flat),
        np.minimum(given + radius, high).reshape(flat),
        float(radius) if norm == "l2" else None,
    )
    if not (np.isfinite(region.low).all() and np.isfinite(region.high).all()):
        raise ValueError("eps and bounds must not both be infinite")
    y = np.asarray(y)
    if target is not None:
        target = np.broadcast_to(target, y.shape)
        if len(W) == 2:
            y = 1 - target
        elif norm == "l2":
            raise ValueError(
                "norm='l2' with a target and more than two classes has no closed form"
            )
        else:
            return _targeted(W, b, region, target).reshape(given.shape)
    return _untargeted(W, b, region, y).reshape(given.shape)


@dataclass
class _Region:
    """Rows, the corners of what they may move to, and the radius of an l2 ball."""

    X: np.ndarray
    low: np.ndarray
    high: np.ndarray
    length: float | None

    def rows(self, kept):
        return _Region(self.X[kept], self.low[kept], self.high[kept], self.length)

    def farthest(self, direction):
        """Return the points that lie farthest in a direction."""
        if self.length is None:
            corner = np.where(direction > 0, self.high, self.low)
            return np.where(direction == 0, self.X, corner)
        room = np.where(direction > 0, self.high - self.X, self.X - self.low)
        size = np.abs(direction)
        change = np.sign(direction) * np.minimum(
            _multiplier(size, room, self.length)[:, None] * size, room
        )
        return np.clip(self.X + change, self.low, self.high)

    def extents(self, directions):
        """Return how far rows can get in each of some directions."""
        if self.length is None:
            return (
                self.high @ np.maximum(directions, 0).T
                + self.low @ np.minimum(directions, 0).T
            )
        return np.stack([self.farthest(d) @ d for d in directions], axis=1)


def _multiplier(size, room, length):
    """Return for each row the largest t with ``norm(min(t * size, room)) <= length``.

    Sorted by the t at which they reach their room, the first k entries are full: the
    squared length is the sum of their rooms, squared, and t^2 times that of the others'
    sizes.
    """
    if not size.any():
        return np.zeros(len(room))
    alone = length / np.linalg.norm(size)
    if (alone * size <= room).all():
        return np.full(len(room), alone)
    room = room[:, size > 0]
    full_at = room / size[size > 0]
    order = np.argsort(full_at, axis=1)
    full_at = np.take_along_axis(full_at, order, axis=1)
    full = np.cumsum(np.take_along_axis(room, order, axis=1) ** 2, axis=1)
    free = np.cumsum((size[size > 0] ** 2)[order][:, ::-1], axis=1)[:, ::-1]
    before = np.concatenate([np.zeros((len(room), 1)), full[:, :-1]], axis=1)
    fits = before + full_at**2 * free <= length**2
    k = fits.sum(axis=1)  # the squared length grows along a row
    rows = np.flatnonzero(k < fits.shape[1])
    at = rows, k[rows]
    t = full_at[:, -1].copy()
    t[rows] = np.sqrt(np.maximum(length**2 - before[at], 0) / free[at])
    return t


def _untargeted(W, b, region, y):
    X_adv = region.X.copy()
    for own in np.unique(y):
        rows = np.flatnonzero(y == own)
        part, ahead = region.rows(rows), W - W[own]
        margins = part.extents(ahead) + (b - b[own])
        margins[:, own] = -np.inf
        best = margins.argmax(axis=1)
        for rival in np.unique(best):
            chosen = best == rival
            X_adv[rows[chosen]] = part.rows(chosen).farthest(ahead[rival])
    return X_adv


def _targeted(W, b, region, target):
    X_adv = region.X.copy()
    for own in np.unique(target):
        rows = np.flatnonzero(target == own)
        part = region.rows(rows)
        ahead, lead = (np.delete(v[own] - v, own, axis=0) for v in (W, b))
        lowest = (part.X @ ahead.T + lead).min(axis=1)
        points = part.X.copy()
        for direction in ahead:
            corners = part.farthest(direction)
            found = (corners @ ahead.T + lead).min(axis=1)
            better = found > lowest
            points[better], lowest[better] = corners[better], found[better]
        reachable = (part.extents(ahead) + lead).min(axis=1) >= 0
        for i in np.flatnonzero(reachable & (lowest <= 0)):
            point = _balanced(ahead, lead, part.low[i], part.high[i])
            point = np.where(ahead.any(axis=0), point, part.X[i])
            if (point @ ahead.T + lead).min() > lowest[i]:
                points[i] = point
        X_adv[rows] = points
    return X_adv


def _balanced(ahead, lead, low, high):
    """Return the point of a box at which the smallest of some margins is largest."""
    d = len(low)
    cost = np.zeros(d + 1)
    cost[d] = -1.0
    box = np.concatenate(
        [np.stack([low, high], axis=1), [[-np.inf, np.inf]]],
    )
    solved = linprog(
        cost,
        A_ub=np.column_stack([-ahead, np.ones(len(ahead))]),
        b_ub=lead,
        bounds=box,
        method="highs",
    )
    return np.clip(solved.x[:d], low, high)
