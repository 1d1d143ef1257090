"""Privacy-loss distributions: discretise a pair, compose it, read epsilon off.

A pair of distributions P, Q is known here by its *excess*, a vectorised function

    excess(e) = H(e) - max(0, 1 - exp(e)),   H(e) = sup_E P(E) - exp(e) Q(E),

that is H less what it would be for P = Q. It is tiny on both sides of 0, so that no
digits are lost in the differences below.
"""

import math

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import minimize_scalar
from scipy.signal import lfilter
from scipy.special import erfcx, log1p, ndtr, xlogy

LARGEST_LOSS = 700.0  # exp of more overflows
TAIL = 1e-3  # share of delta spent on the losses cut off
TOLERANCE = 1e-3  # of epsilon, by which one more refinement may change it
MAX_POINTS = 2**22
MAX_STEPS = 10**12  # rounding, 1e-16 of delta a step, is then below TOLERANCE
LOG_WINDOW = 25.0  # -log of the probability left outside the Fourier window


def noise_profile(noise, shift):
    """Return log(alpha) >= 0 -> H for two laws of unit scale that are `shift` apart."""

    def laplace(a):
        return -np.expm1(np.minimum(a - shift, 0) / 2)

    def gaussian(a):
        # exp(a) times the normal law's tail, without a difference of large numbers
        with np.errstate(over="ignore"):
            near, far = shift / 2 - a / shift, shift / 2 + a / shift
        tail = erfcx(far / math.sqrt(2)) / 2
        tail = tail * np.exp(-(np.minimum(abs(near), 40.0) ** 2) / 2)
        return np.maximum(ndtr(near) - tail, 0)

    return {"laplace": laplace, "gaussian": gaussian}[noise]


def mixture_excess(profile, p):
    """Return the excess of (1 - p) N + p N_s against N, N_s and N as in `profile`.

    With v = exp(e) - 1 + p, the excess is p H(v / p) for e >= 0 and v H(p / v), or 0
    once v <= 0, for e < 0.
    """

    def excess(e):
        with np.errstate(divide="ignore", over="ignore"):
            inner = np.log1p(np.maximum(np.expm1(e) / p, -1))
            inner = np.where(e > 40, e - math.log(p), inner)
            weight = np.minimum(p, np.maximum(np.expm1(e) + p, 0))
        finite = np.isfinite(inner)
        return np.where(finite, weight * profile(np.where(finite, abs(inner), 0)), 0)

    return excess


def reverse(excess):
    """Return the excess of (Q, P), given that of (P, Q)."""
    return lambda e: np.exp(e) * excess(-e)


def symmetric(excess):
    """Return the excess that is `excess` above 0 and its own reverse."""
    return lambda e: np.exp(np.minimum(e, 0)) * excess(abs(e))


def subsampled_epsilon(noise, shift, shares, weights, n_steps, delta, *, replaced):
    """Return epsilon at `delta` of `n_steps` releases, each of a random subset.

    Parameters
    ----------
    noise : {"laplace", "gaussian"}
    shift : float
        By how much one record moves a release it is in, in units of the noise.
    shares, weights : ndarray of shape (m,)
        A record is in a release with chance ``shares[i]``, i public and drawn with
        chance ``weights[i]``.
    n_steps : int
    delta : float in (0, 1)
    replaced : bool
        Neighbours replace a record; False: one of them lacks it.

    Returns
    -------
    epsilon : float
    """
    profile = noise_profile(noise, shift)
    whole = math.inf
    if noise == "gaussian":  # as if the record were in every release
        total = shift * math.sqrt(n_steps)
        if total > 1e100:
            return math.inf
        high = total**2 / 2 + total * math.sqrt(-2 * math.log(delta))
        whole = invert_excess(noise_profile(noise, total), delta, high)
        if shares.min() == 1:
            return whole
    parts = [
        (weight, mixture_excess(profile, share))
        for weight, share in zip(weights, shares, strict=True)
        if share > 0
    ]

    def excess(e):
        return sum(weight * part(e) for weight, part in parts)

    if replaced:
        return min(whole, compose_epsilon(symmetric(excess), n_steps, delta))
    added = compose_epsilon(excess, n_steps, delta)
    removed = compose_epsilon(reverse(excess), n_steps, delta, enough=added)
    return min(whole, max(added, removed))


def compose_epsilon(excess, n_steps, delta, *, enough=0.0):
    """Return an upper bound of epsilon at `delta` after `n_steps` of the pair (P, Q).

    Parameters
    ----------
    excess : callable
    n_steps : int
    delta : float in (0, 1)
    enough : float
        Any bound up to here is as good as a better one.

    Returns
    -------
    epsilon : float
        inf where losses above 700 matter, or beyond 1e12 steps.

    Notes
    -----
    H is replaced by its chords in exp(e) over a grid, "connecting the dots": the
    distribution on the grid dominates P, Q, so that every later figure stays an upper
    bound. Its power is taken by FFT under the exponential tilt that centres the sum on
    epsilon: errors of rounding are then small against delta, not against 1.
    """
    if n_steps * float(excess(0.0)) <= delta:  # total variation adds up
        return 0.0
    if n_steps > MAX_STEPS:
        return math.inf
    end = _largest_loss(excess, TAIL * delta / n_steps)
    start = _largest_loss(reverse(excess), TAIL * delta / n_steps)
    if not math.isfinite(end + start):
        return math.inf
    if n_steps == 1:
        return invert_excess(excess, delta, end)
    step, rate, bound = max(end, start) / 60, None, math.inf
    while True:
        losses = _Losses(excess, step, start, end)
        rest = delta - losses.infinite_after(n_steps)
        previous, (rate, bound) = bound, losses.chernoff(n_steps, rest, rate)
        if bound <= enough:
            return bound
        n_points = 15 * losses.tilted(rate, n_steps)[1] / step
        settled = max(abs(previous - bound), step) <= TOLERANCE * bound
        if settled or max(4 * n_points, 4 * len(losses.mass)) > MAX_POINTS:
            return min(bound, losses.epsilon(n_steps, rest, rate))
        step /= 4


def _largest_loss(excess, tail):
    """Return the smallest loss of a fine grid above which at most `tail` lies."""
    grid = np.geomspace(1e-12, LARGEST_LOSS, 4000)
    below = excess(grid) <= tail
    return float(grid[np.argmax(below)]) if below.any() else math.inf


def invert_excess(excess, delta, high):
    """Return the smallest epsilon >= 0 with H(epsilon) <= delta, by bisection."""
    low = 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) <= delta else (middle, high)
    return high


class _Losses:
    """The loss of one step on a grid: ``mass`` at ``index * step``, the rest at inf."""

    def __init__(self, excess, step, start, end):
        self.step = step
        self.index = np.arange(-math.ceil(start / step), math.ceil(end / step) + 1)
        self.loss = self.index * step
        dots = excess(self.loss)
        # mass = exp(e_i) times the change of H's slope in exp(e): the exponentials
        # cancel but for the grid's step, so that no loss is too large
        rises = np.diff(dots)
        self.mass = np.append(rises / np.expm1(step), 0.0)
        self.mass -= np.insert(rises / -np.expm1(-step), 0, dots[0])
        self.mass[self.index == 0] += 1
        self.infinite = float(dots[-1])
        self.log_mass = np.log(np.maximum(self.mass, 1e-300))

    def infinite_after(self, n_steps):
        return -math.expm1(n_steps * math.log1p(-self.infinite))

    def cumulant(self, rate):
        """Return log E[exp(rate L); L finite]."""
        terms = self.log_mass + rate * self.loss
        top = terms.max()
        return float(top + np.log(np.exp(terms - top).sum()))

    def tilted(self, rate, n_steps):
        """Return mean and deviation of the tilted sum of `n_steps` losses."""
        weights = self.log_mass + rate * self.loss
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        mean = weights @ self.loss
        variance = weights @ (self.loss - mean) ** 2
        return n_steps * float(mean), math.sqrt(n_steps * variance)

    def chernoff(self, n_steps, delta, guess):
        """Return the rate with the smallest Chernoff bound of epsilon, and the bound.

        delta <= E[exp(rate L)] exp(-rate epsilon) max_x exp(-rate x) (1 - exp(-x)).
        """

        def bound(log_rate):
            rate = math.exp(log_rate)
            peak = xlogy(rate, rate) - (1 + rate) * math.log1p(rate)
            total = n_steps * self.cumulant(rate) + peak - math.log(delta)
            return total / rate

        if guess is None:
            guess, reach = 1 / self.tilted(0.0, n_steps)[1], 1e4
        else:
            reach = 8.0
        limits = math.log(guess / reach), math.log(guess * reach)
        best = minimize_scalar(
            bound, bounds=limits, method="bounded", options={"xatol": 0.02}
        )
        return math.exp(best.x), max(float(best.fun), 0.0)

    def window(self, n_steps, rate):
        """Return grid indices that hold all but exp(-25) of the tilted sum."""
        base = self.cumulant(rate)
        deviation = max(self.tilted(rate, n_steps)[1], self.step)
        ends = []
        for sign in (-1, 1):
            tries = (
                sign * np.sqrt(2 * LOG_WINDOW) / deviation * np.geomspace(0.25, 4, 5)
            )
            reach = [
                (n_steps * (self.cumulant(rate + t) - base) + LOG_WINDOW) / t
                for t in tries
            ]
            ends.append(max(reach) if sign < 0 else min(reach))
        low = max(math.floor(ends[0] / self.step), n_steps * int(self.index[0]))
        high = min(math.ceil(ends[1] / self.step), n_steps * int(self.index[-1]))
        return low, high

    def epsilon(self, n_steps, delta, rate):
        """Return epsilon of the sum of `n_steps` losses, by FFT under the tilt."""
        low, high = self.window(n_steps, rate)
        if high - low > 4 * MAX_POINTS:  # Chernoff's bound has to do
            return math.inf
        size = next_fast_len(high - low + 1, real=True)
        base = self.cumulant(rate)
        tilted = self.mass * np.exp(rate * self.loss - base)
        # less 1, of which the tilted mass at 0 is nearly all where a record is rarely
        # drawn: what is left of its rounding would be raised to `n_steps` too
        other = np.bincount(self.index % size, weights=tilted, minlength=size)
        other[0] = 0.0
        change = rfft(other) - other.sum()
        power = irfft(np.exp(n_steps * log1p(change)), n=size)
        # rounding shows as negative probabilities: as much is added to all
        power -= min(power.min(), 0.0)
        sums = np.arange(low, low + size)
        exponent = n_steps * base - rate * sums * self.step
        # what lies above the window counts as infinite; what was folded into it from
        # outside can only raise delta
        delta -= math.exp(min(float(exponent[-1]) - LOG_WINDOW, 0))
        keep = (sums >= 0) & (exponent < LARGEST_LOSS)
        mass = power[sums[keep] % size] * np.exp(exponent[keep])
        return _invert(sums[keep] * self.step, self.step, mass, delta)


def _invert(loss, step, mass, delta):
    """Return the smallest epsilon with E[max(0, 1 - exp(epsilon - L))] <= delta."""
    if delta <= 0 or len(loss) == 0:
        return math.inf
    above = np.cumsum(mass[::-1])[::-1]
    # at every loss, from the top down: far below epsilon the tilt turns rounding into
    # noise that must not enter the sums above it
    ratio = math.exp(-step)
    over = lfilter([0.0, -math.expm1(-step)], [1.0, -ratio], above[::-1])[::-1]
    late = np.flatnonzero(over > delta)
    if len(late) == 0:
        return float(loss[0])
    first = int(late[-1]) + 1
    # between two losses delta(epsilon) = above - exp(epsilon) const
    rest = max((above[first] - delta) / (above[first] - over[first]), 1e-300)
    return max(float(loss[first] + math.log(rest)), float(loss[first - 1]))
