"""The accountant of noisy gradient descent."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from skpoison.privacy import PrivacyWarning, dpsgd_epsilon


@pytest.mark.parametrize(
    "args, expected",
    [((60000, 256, 1.1, 14000, 1e-5), 2.37593), ((5000, 128, 1.0, 390, 1e-5), 3.21205)],
)
def test_figures(args, expected):
    assert dpsgd_epsilon(*args) == pytest.approx(expected, rel=1e-3)


def test_one_step_by_quadrature():
    q, sigma, delta = 0.1, 0.7, 1e-3
    x = np.linspace(-10, 12, 200001)
    plain, moved = norm.pdf(x, scale=sigma), norm.pdf(x, 1, sigma)
    mixed = (1 - q) * plain + q * moved
    found = dpsgd_epsilon(10, 1, sigma, 1, delta)

    def at(first, second, epsilon):
        gap = np.maximum(first - np.exp(epsilon) * second, 0)
        return gap.sum() * (x[1] - x[0])

    assert at(mixed, plain, found) == pytest.approx(delta, rel=1e-4)
    assert at(plain, mixed, found) < delta


def test_whole_batches_are_one_gaussian():
    # 9 steps of sigma are one of sigma / 3
    found = dpsgd_epsilon(50, 50, 3.0, 9, 1e-5)
    at = norm.cdf(0.5 - found) - math.exp(found) * norm.cdf(-0.5 - found)
    assert at == pytest.approx(1e-5, rel=1e-6)


def test_monotony():
    base = {
        "n": 1000,
        "batch_size": 50,
        "noise_multiplier": 1.0,
        "n_steps": 200,
        "delta": 1e-5,
    }

    def along(name, values):
        return np.diff([dpsgd_epsilon(**{**base, name: value}) for value in values])

    assert (along("n", [50, 200, 1000, 10**6]) < 0).all()
    assert (along("batch_size", [1, 50, 500, 1000]) > 0).all()
    assert (along("noise_multiplier", [0.02, 0.3, 1.0, 5.0, 100.0]) < 0).all()
    assert (along("n_steps", [1, 30, 1000, 10**6]) > 0).all()
    assert (along("delta", [1e-12, 1e-6, 1e-3]) < 0).all()


def test_no_guarantee():
    with pytest.warns(PrivacyWarning, match="noise_multiplier=0 adds no noise"):
        assert dpsgd_epsilon(100, 10, 0, 10, 1e-5) == math.inf
    with pytest.warns(PrivacyWarning, match="delta=0"):
        assert dpsgd_epsilon(100, 10, 1.0, 10, 0.0) == math.inf


@pytest.mark.parametrize(
    "args, match",
    [
        ((0, 1, 1.0, 1, 0.1), "n must be >= 1"),
        ((10, 11, 1.0, 1, 0.1), "batch_size must be at most n=10, got 11"),
        ((10, 0, 1.0, 1, 0.1), "batch_size must be >= 1"),
        ((10, 1, -1.0, 1, 0.1), "noise_multiplier must be >= 0"),
        ((10, 1, 1.0, 0, 0.1), "n_steps must be >= 1"),
        ((10, 1, 1.0, 1, 1.5), r"delta must be in \[0, 1\)"),
    ],
)
def test_bad_values(args, match):
    with pytest.raises(ValueError, match=match):
        dpsgd_epsilon(*args)


@pytest.mark.filterwarnings("error")
def test_types_and_sizes_of_numbers():
    found = dpsgd_epsilon(np.int8(100), np.int8(10), np.float32(1), np.int8(90), 1e-5)
    assert found == dpsgd_epsilon(100, 10, 1.0, 90, 1e-5)
    for tiny in (1e-160, 1e-320):
        assert dpsgd_epsilon(100, 10, tiny, 10, 1e-5) == math.inf
    assert dpsgd_epsilon(100, 10, 1e150, 10, 1e-5) == 0
