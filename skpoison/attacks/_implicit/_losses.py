"""Losses of linear learners, with what Newton's method asks of them.

z is (n, k) scores, t (n, k) targets; derivatives are in z. A curvature is what the
loss needs to apply l'' (k x k a row) to a vector, and `bound` the most that l'' is.
"""

import numpy as np
from scipy.special import expit


class Separable:
    """A loss that is a sum over the scores of a row."""

    coupled = False
    kinked = False  # whether l'' jumps

    @staticmethod
    def targets(y, n_classes):
        """Return one column of -1 and 1 for two classes, else one a class."""
        if n_classes == 2:
            return np.where(y == 1, 1.0, -1.0)[:, None]
        return np.where(y[:, None] == np.arange(n_classes), 1.0, -1.0)

    @staticmethod
    def curve(curvature, h):
        return curvature * h

    @staticmethod
    def diagonal(curvature):
        return curvature


class Squared(Separable):
    """``(z - t)^2 / 2``; without classes the targets are the numbers y."""

    bound = 1.0

    @staticmethod
    def targets(y, n_classes):
        if n_classes:
            return Separable.targets(y, n_classes)
        return y[:, None].astype(float)

    @staticmethod
    def value(z, t):
        return 0.5 * (z - t) ** 2

    @staticmethod
    def derivatives(z, t):
        return z - t, np.ones_like(z)


class Logistic(Separable):
    """``log(1 + exp(-t z))``."""

    bound = 0.25

    @staticmethod
    def value(z, t):
        return np.logaddexp(0.0, -t * z)

    @staticmethod
    def derivatives(z, t):
        wrong = expit(-t * z)
        return -t * wrong, wrong * (1.0 - wrong)


class SquaredHinge(Separable):
    """``max(0, 1 - t z)^2``."""

    bound = 2.0
    kinked = True

    @staticmethod
    def value(z, t):
        return np.maximum(1.0 - t * z, 0.0) ** 2

    @staticmethod
    def derivatives(z, t):
        short = np.maximum(1.0 - t * z, 0.0)
        return -2.0 * t * short, 2.0 * (short > 0)

    @staticmethod
    def best_length(c, z, t, moved, slope, bend):
        """Return where the value is least along a step: a root between two kinks.

        The penalty's share of the derivative at length s is ``slope + s bend``. With
        exact searches Newton's method ends after a finite number of steps.
        """
        short, drop, c = (1.0 - t * z).ravel(), (t * moved).ravel(), c.ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            kink = short / drop
        inside = (short > 0) | ((short == 0) & (drop < 0))
        changes = np.flatnonzero((kink > 0) & np.isfinite(kink))
        changes = changes[np.argsort(kink[changes])]
        sign = np.where(inside[changes], -1.0, 1.0)
        # derivative at length s, between two kinks: level + s rise
        levels, rises = -2.0 * c * drop * short, 2.0 * c * drop**2
        slope, bend = slope + levels[inside].sum(), bend + rises[inside].sum()
        level = np.cumsum(np.append(slope, sign * levels[changes]))
        rise = np.cumsum(np.append(bend, sign * rises[changes]))
        ends = np.append(kink[changes], np.inf)
        piece = np.argmax(level + ends * rise >= 0)
        return -level[piece] / rise[piece] if rise[piece] > 0 else 1.0


class Softmax:
    """``-log softmax(z)[y]``; t is one-hot.

    Where one class takes nearly all, what is left for the others is summed up, not
    taken as a difference from one: the digits of a confident model are there.
    """

    coupled = True
    kinked = False
    bound = 0.5

    @staticmethod
    def targets(y, n_classes):
        return (y[:, None] == np.arange(n_classes)).astype(float)

    @staticmethod
    def value(z, t):
        rows, top = np.arange(len(z)), z.argmax(axis=1)
        largest = z[rows, top][:, None]
        others = np.exp(z - largest)
        others[rows, top] = 0.0
        own = (z * t).sum(axis=1, keepdims=True)
        return np.log1p(others.sum(axis=1, keepdims=True)) + (largest - own)

    @staticmethod
    def derivatives(z, t):
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return np.where(t == 1, -Softmax.rest(p), p), p

    @staticmethod
    def rest(p):
        """Return 1 - p."""
        rows, top = np.arange(len(p)), p.argmax(axis=1)
        others = p.copy()
        others[rows, top] = 0.0
        rest = 1.0 - p
        rest[rows, top] = others.sum(axis=1)
        return rest

    @staticmethod
    def curve(curvature, h):
        h = h - h[np.arange(len(h)), curvature.argmax(axis=1)][:, None]
        return curvature * (h - np.einsum("ij,ij->i", curvature, h)[:, None])

    @staticmethod
    def gauge(curvature):
        """Return what is added to every entry of l'' to make it regular.

        A shift common to all classes changes no loss: H is singular along it wherever
        there is no penalty. All that is asked of v are products with l' and l'', which
        are zero along it too, so this leaves the results as they are.
        """
        return (curvature * Softmax.rest(curvature)).mean(axis=1, keepdims=True)

    @staticmethod
    def diagonal(curvature):
        """Return the diagonal of what is then regular."""
        return curvature * Softmax.rest(curvature) + Softmax.gauge(curvature)
