"""Privacy-loss distributions: the pair, the grid, the composition."""

import numpy as np
import pytest
from scipy.stats import laplace, norm

from skpoison.privacy import _pld
from skpoison.privacy._pld import (
    compose_epsilon,
    mixture_excess,
    noise_profile,
    reverse,
    symmetric,
)

LAWS = {"laplace": laplace, "gaussian": norm}
LOSSES = np.linspace(-3, 3, 61)


def trivial(e):
    return np.maximum(-np.expm1(e), 0)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize("shift, p", [(0.3, 1.0), (2.0, 0.2), (4.0, 0.01)])
def test_excess_against_quadrature(noise, shift, p):
    x = np.linspace(-30, 30 + shift, 60001)
    plain, moved = LAWS[noise].pdf(x), LAWS[noise].pdf(x - shift)
    mixed = (1 - p) * plain + p * moved
    excess = mixture_excess(noise_profile(noise, shift), p)
    for found, first, second in (
        (excess, mixed, plain),
        (reverse(excess), plain, mixed),
    ):
        gaps = first - np.exp(LOSSES)[:, None] * second
        expected = np.maximum(gaps, 0).sum(axis=1) * (x[1] - x[0])
        assert found(LOSSES) + trivial(LOSSES) == pytest.approx(expected, abs=2e-6)
    both = np.maximum(excess(LOSSES), reverse(excess)(LOSSES))
    assert symmetric(excess)(LOSSES) == pytest.approx(both, abs=1e-15)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_a_shift_split_over_coordinates_is_no_worse(noise):
    # one Laplace coordinate takes a shift in l1 whole, normal ones only in l2
    first, second, p = 0.8, 1.3, 0.1
    x = np.linspace(-14, 14, 1401)
    pdf = LAWS[noise].pdf
    plain = np.outer(pdf(x), pdf(x))
    moved = np.outer(pdf(x - first), pdf(x - second))
    plain, moved = plain / plain.sum(), moved / moved.sum()
    whole = first + second if noise == "laplace" else np.hypot(first, second)
    excess = mixture_excess(noise_profile(noise, whole), p)
    for e in (-1.0, -0.08, 0.02, 0.1, 0.4):
        gap = (1 - p) * plain + p * moved - np.exp(e) * plain
        split = np.maximum(gap, 0).sum()
        bound = excess(np.array(e)) + trivial(e)
        assert split <= bound + 1e-5
        if noise == "gaussian":
            assert split == pytest.approx(bound, abs=1e-5)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize("p", [1e-4, 0.05, 1.0])
def test_the_grid_dominates(noise, p):
    excess = mixture_excess(noise_profile(noise, 2.0), p)
    losses = _pld._Losses(excess, 0.05, 3.0, 3.0)
    assert losses.mass.sum() + losses.infinite == pytest.approx(1, abs=1e-12)
    assert losses.mass.min() > -1e-14
    for e in np.linspace(-2, 2, 33):
        above = losses.mass @ np.maximum(-np.expm1(e - losses.loss), 0)
        truth = float(excess(np.array(e)) + trivial(e))
        assert truth - 1e-12 <= above + losses.infinite <= truth + 1e-3


@pytest.mark.parametrize("noise, shift", [("laplace", 2.5), ("gaussian", 0.625)])
@pytest.mark.parametrize("p, n_steps", [(0.004, 1000), (0.3, 3), (1e-4, 10**5)])
def test_a_finer_grid_changes_little(monkeypatch, noise, shift, p, n_steps):
    excess = symmetric(mixture_excess(noise_profile(noise, shift), p))
    coarse = compose_epsilon(excess, n_steps, 1e-6)
    monkeypatch.setattr(_pld, "TOLERANCE", 1e-4)
    monkeypatch.setattr(_pld, "TAIL", 1e-5)
    fine = compose_epsilon(excess, n_steps, 1e-6)
    assert fine * (1 - 1e-6) <= coarse <= fine * 1.002


@pytest.mark.parametrize("shift, n_steps", [(0.01, 10**5), (0.5, 7), (3.0, 40)])
@pytest.mark.parametrize("delta", [1e-2, 1e-6, 1e-12])
def test_whole_gaussian_releases_in_closed_form(shift, n_steps, delta):
    excess = mixture_excess(noise_profile("gaussian", shift), 1.0)
    found = compose_epsilon(excess, n_steps, delta)
    total = shift * np.sqrt(n_steps)
    at = norm.cdf(total / 2 - found / total)
    at -= np.exp(found + norm.logcdf(-total / 2 - found / total))
    assert at <= delta * (1 + 1e-6)
    assert at > 0.9 * delta


def test_chernoff_bound_where_the_window_is_too_long(monkeypatch):
    excess = symmetric(mixture_excess(noise_profile("laplace", 2.0), 0.01))
    found = compose_epsilon(excess, 10**4, 1e-6)
    monkeypatch.setattr(_pld, "MAX_POINTS", 1000)
    assert found < compose_epsilon(excess, 10**4, 1e-6) < 1.2 * found


def test_large_delta_needs_no_epsilon():
    excess = mixture_excess(noise_profile("laplace", 0.5), 0.01)
    assert compose_epsilon(excess, 1, 0.01) == 0.0
    assert compose_epsilon(excess, 5, 0.1) == 0.0


def test_losses_too_large_are_infinite():
    excess = mixture_excess(noise_profile("laplace", 2000.0), 0.5)
    assert compose_epsilon(excess, 3, 1e-5) == np.inf


@pytest.mark.parametrize("shift", [1e-9, 0.1, 3.0, 1e3, 1e13])
def test_gaussian_profile_of_any_shift(shift):
    z = np.array([-8.0, -1.0, 0.0, 2.0])
    loss = shift * (shift / 2 - z)
    inside = loss >= 0
    found = noise_profile("gaussian", shift)(loss[inside])
    assert (found <= norm.cdf(z[inside]) * (1 + 1e-9)).all()
    if shift >= 1e3:  # exp(loss) times the other tail is negligible
        assert found == pytest.approx(norm.cdf(z), rel=0.02)


@pytest.mark.parametrize("n_steps", [10**5, 10**6, 10**7])
def test_one_rare_large_loss_is_not_lost_in_rounding(n_steps):
    # a record drawn 4 times in 10^10: epsilon is that of a single large loss, and the
    # mass there is 1e-13 of that at 0
    excess, delta = mixture_excess(noise_profile("gaussian", 2.5), 4e-10), 1e-15
    found = compose_epsilon(excess, n_steps, delta)
    assert 0.93 * delta < n_steps * float(excess(found)) < delta


def test_more_steps_than_can_be_counted():
    excess = mixture_excess(noise_profile("laplace", 2.5), 0.004)
    assert compose_epsilon(excess, 10**30, 1e-5) == np.inf


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize("p", [1e-4, 0.3, 1.0])
def test_tiny_delta(noise, p):
    excess = mixture_excess(noise_profile(noise, 0.5), p)
    figures = [compose_epsilon(excess, 3, d) for d in (1e-3, 1e-30, 1e-100, 1e-300)]
    assert (np.diff(figures) >= 0).all() and np.isfinite(figures).all()
    if noise == "laplace":  # the largest loss there is, 3 times
        largest = 3 * np.log1p(p * np.expm1(0.5))
        assert all(largest <= f < 1.003 * largest for f in figures[1:])
