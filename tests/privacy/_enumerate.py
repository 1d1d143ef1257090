"""Epsilon of mixing on one pair of data sets, by enumerating all subsets."""

from itertools import combinations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import logsumexp


def log_joint(X, y, k, log_noise, z):
    """Log density of a release of 1-d records on the grid z, by what labels show.

    A first record that is NaN is missing. How often labels are shown stays as it was.
    """
    subsets = list(combinations(range(len(X)), k))
    parts, shares = {}, {}
    for subset in subsets:
        shown = () if y is None else tuple(sorted(y[i] for i in subset))
        shares[shown] = shares.get(shown, 0) + 1 / len(subsets)
        centre = np.mean([X[i] for i in subset])
        if not np.isnan(centre):
            parts.setdefault(shown, []).append(log_noise(z - centre))
    return {
        shown: logsumexp(rows, axis=0) + np.log(shares[shown] / len(rows))
        for shown, rows in parts.items()
    }


def laplace(scale):
    return lambda t: -abs(t) / scale - np.log(2 * scale)


def gaussian(scale):
    return lambda t: -((t / scale) ** 2) / 2 - np.log(scale * np.sqrt(2 * np.pi))


def pure_epsilon(X, X_other, y, k, log_noise):
    z = np.concatenate([np.linspace(-2, 3, 2001), [-50.0, 50.0]])
    first, second = (log_joint(rows, y, k, log_noise, z) for rows in (X, X_other))
    return max(abs(first[shown] - second[shown]).max() for shown in first)


def loss_masses(X, X_other, y, k, log_noise, *, reach=8.0, n_points=40001):
    """Loss and its mass under X on a grid of outcomes."""
    z = np.linspace(-reach, 1 + reach, n_points)
    first, second = (log_joint(rows, y, k, log_noise, z) for rows in (X, X_other))
    loss = np.concatenate([first[shown] - second[shown] for shown in first])
    mass = np.concatenate([np.exp(first[shown]) for shown in first]) * (z[1] - z[0])
    return loss, mass / mass.sum()


def hockey_stick(loss, mass, epsilon):
    return mass @ np.maximum(-np.expm1(epsilon - loss), 0)


def epsilon_of(loss, mass, delta):
    low, high = 0.0, max(loss.max(), 0.0)
    if hockey_stick(loss, mass, 0.0) <= delta:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        over = hockey_stick(loss, mass, middle) > delta
        low, high = (middle, high) if over else (low, middle)
    return low


def compose(loss, mass, n_steps, *, fineness=0.01, width=24):
    """Loss of many releases: on a grid, its mean kept and its variance nearly so."""
    deviation = np.sqrt(mass @ loss**2)
    step = fineness * deviation
    spread = np.sqrt(n_steps) * deviation
    index = np.floor(loss / step).astype(int)
    upper = loss / step - index
    size = next_fast_len(int(width * spread / step))
    low = int((n_steps * (mass @ loss) - width / 2 * spread) / step)
    folded = np.bincount(index % size, mass * (1 - upper), size)
    folded += np.bincount((index + 1) % size, mass * upper, size)
    power = irfft(rfft(folded) ** n_steps, n=size)
    sums = np.arange(low, low + size)
    return sums * step, power[sums % size]
