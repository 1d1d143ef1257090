"""Group privacy against poisons, by hand and by brute force."""

import math
from itertools import product

import numpy as np
import pytest

from skpoison.privacy import poisoning_success_bound


def answers(bits, epsilon, delta):
    """Law of randomised response on all bits; with chance delta a bit is shown."""
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    laws = []
    for bit in bits:
        law = np.full(4, (1 - delta) * (1 - keep))
        law[bit], law[2:] = (1 - delta) * keep, 0.0
        law[2 + bit] = delta
        laws.append(law)
    joint = laws[0]
    for law in laws[1:]:
        joint = np.outer(joint, law).ravel()
    return joint


@pytest.mark.parametrize("epsilon, delta", [(0.5, 0.0), (1.0, 0.01), (0.1, 0.05)])
def test_no_event_exceeds_it(epsilon, delta):
    clean = answers([0, 0, 0], epsilon, delta)
    for poison in product([0, 1], repeat=3):
        poisoned = answers(poison, epsilon, delta)
        # the most powerful events, by their ratio, one output after another
        order = np.argsort(clean / np.maximum(poisoned, 1e-300))
        reached, rates = np.cumsum(poisoned[order]), np.cumsum(clean[order])
        for rate, found in zip(np.minimum(rates, 1), reached, strict=True):
            bound = poisoning_success_bound(epsilon, delta, sum(poison), rate)
            assert found <= bound + 1e-12


def test_it_is_attained():
    clean, poisoned = answers([0, 0], 0.7, 0.0), answers([1, 1], 0.7, 0.0)
    event = np.argmax(poisoned / np.maximum(clean, 1e-300))
    bound = poisoning_success_bound(0.7, 0.0, 2, clean[event])
    assert poisoned[event] == pytest.approx(bound)


def test_formula_and_limits():
    found = poisoning_success_bound(0.5, 1e-3, 3, 0.02)
    grown = math.exp(1.5)
    expected = grown * 0.02 + 1e-3 * (grown - 1) / (math.exp(0.5) - 1)
    assert found == pytest.approx(expected)
    assert poisoning_success_bound(0, 0.01, 3, 0.02) == pytest.approx(0.05)
    near = poisoning_success_bound(1e-12, 0.01, 3, 0.02)
    assert near == pytest.approx(0.05)
    assert poisoning_success_bound(5.0, 0.1, 0, 0.3) == 0.3
    assert poisoning_success_bound(math.inf, 0.0, 1, 0.0) == 1.0
    assert poisoning_success_bound(1e300, 1e-5, 10**9, 0.5) == 1.0
    assert poisoning_success_bound(1e6, 0.0, 1000, 0.0) == 0.0
    tiny = poisoning_success_bound(600.0, 0.0, 1, 1e-280)
    assert tiny == pytest.approx(math.exp(600 - 280 * math.log(10)))


@pytest.mark.parametrize(
    "args, match",
    [
        ((-1.0, 0.0, 1, 0.5), "epsilon must be >= 0.0, got -1.0"),
        ((math.nan, 0.0, 1, 0.5), "epsilon must be"),
        ((1.0, 1.0, 1, 0.5), "delta must be in"),
        ((1.0, 0.0, -1, 0.5), "n_poisons must be >= 0, got -1"),
        ((1.0, 0.0, 1, 1.5), r"clean_rate must be in \[0.0, 1.0\], got 1.5"),
    ],
)
def test_bad_values(args, match):
    with pytest.raises(ValueError, match=match):
        poisoning_success_bound(*args)


def test_types_of_numbers():
    expected = poisoning_success_bound(0.5, 0.0, 100, 1e-30)
    found = poisoning_success_bound(np.float32(0.5), 0.0, np.int8(100), 1e-30)
    assert found == pytest.approx(expected, rel=1e-12)
    assert poisoning_success_bound(np.float32("inf"), 0.0, 1, 0.1) == 1.0
    for epsilon in (np.array([1.0, 2.0]), "1", None, True):
        with pytest.raises(TypeError, match="epsilon must be a number"):
            poisoning_success_bound(epsilon, 0.0, 1, 0.1)
