"""Experiments never show more than the accountants allow, and show much of it."""

import math

import numpy as np
import pytest
from scipy.special import expit

from skpoison.privacy import audit_epsilon, mix_epsilon

N_RUNS = 40000


def released_scores(rng, present, *, n, k, noise, scale, n_releases):
    """Log likelihood ratio of scalar releases: one record at 1 or 0, the rest at 0."""
    shape = (N_RUNS, n_releases)
    members = rng.random(shape) < k / n  # the record's own part of a k-subset
    draw = rng.laplace if noise == "laplace" else rng.normal
    z = draw(scale=scale, size=shape) + present * members / k
    if noise == "laplace":
        ratio = (abs(z) - abs(z - 1 / k)) / scale
    else:
        ratio = (z / k - 1 / (2 * k**2)) / scale**2
    # rounded: the last bits of z tell on which grid of floats the noise was added
    return np.log1p(k / n * np.expm1(ratio)).sum(axis=1).round(9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "n, k, noise, scale, n_releases, delta, share",
    [
        (4, 1, "laplace", 0.5, 1, 0.0, 0.8),
        (4, 2, "laplace", 0.3, 1, 0.0, 0.8),
        (10, 2, "laplace", 0.2, 5, 0.0, 0.25),
        (10, 2, "laplace", 0.2, 5, 1e-2, 0.6),
        (4, 4, "laplace", 0.25, 2, 0.0, 0.8),
        (4, 1, "gaussian", 0.7, 1, 1e-2, 0.6),
        (6, 2, "gaussian", 0.3, 5, 1e-2, 0.5),
        (5, 5, "gaussian", 0.3, 3, 1e-2, 0.7),
    ],
)
def test_mixing_keeps_its_promise(seed, n, k, noise, scale, n_releases, delta, share):
    setting = {"n": n, "k": k, "noise": noise, "scale": scale, "n_releases": n_releases}
    claim = mix_epsilon(**setting, delta=delta, sensitivity=1.0, labels=None)
    rng = np.random.default_rng(seed)
    scores = [released_scores(rng, present, **setting) for present in (1, 0)]
    found = audit_epsilon(*scores, delta=delta, confidence=0.99)
    assert share * claim < found <= claim


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_confidence_is_kept(level):
    # randomised response of a known epsilon: the figure exceeds it as often as allowed
    epsilon, rng = 0.8, np.random.default_rng(0)
    keep = expit(epsilon)
    over = 0
    for _ in range(400):
        first, second = rng.random(300) < keep, rng.random(300) > keep
        over += audit_epsilon(first, second, confidence=level) > epsilon
    assert over / 400 <= 1 - level + 0.03


def test_all_four_attacks_are_tried():
    rng = np.random.default_rng(0)
    rare = (rng.random(4000) < 0.01).astype(float)
    often = (rng.random(4000) < 0.3).astype(float)
    found = [
        audit_epsilon(*scores)
        for scores in ((rare, often), (often, rare), (-rare, -often), (-often, -rare))
    ]
    assert min(found) > 2.0


def test_no_difference_shows_nothing():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 20000))
    assert audit_epsilon(*scores) < 0.1
    assert audit_epsilon([1.0, 2.0], [5.0, 6.0]) == 0.0
    assert audit_epsilon(scores[0] + 1, scores[1], delta=0.9) == 0.0


def test_the_number_of_runs_limits_it():
    for n_runs in (100, 1000, 10000):
        apart = np.zeros(n_runs), np.ones(n_runs)
        found = audit_epsilon(*apart)
        assert math.log(n_runs / 10) < found < math.log(n_runs / 2)


@pytest.mark.parametrize(
    "scores, options, match",
    [
        ([1.0], {}, "scores must be a list of two or more finite numbers"),
        ([[1.0, 2.0]], {}, r"scores must be .* shape \(1, 2\)"),
        ([1.0, math.nan], {}, "scores must be"),
        ([1.0, 2.0], {"confidence": 1.0}, r"confidence must be in \(0, 1\), got 1.0"),
        ([1.0, 2.0], {"delta": 1.0}, "delta must be in"),
    ],
)
def test_bad_values(scores, options, match):
    with pytest.raises(ValueError, match=match):
        audit_epsilon(scores, [1.0, 2.0], **options)


@pytest.mark.parametrize(
    "scores", ["ab", ["a", "b"], [1j, 2.0], [[1.0], [2.0, 3.0]], {}]
)
def test_scores_are_numbers(scores):
    with pytest.raises(TypeError, match="scores_neighbour must be a list of two or"):
        audit_epsilon([1.0, 2.0], scores)
