"""Privacy bills fall with noise, rise with use, and are never negative."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skpoison.privacy import (
    PrivacyWarning,
    audit_epsilon,
    dpsgd_epsilon,
    mix_epsilon,
    noise_for_epsilon,
    poisoning_success_bound,
)

_SCALES = st.floats(0.02, 5)
_MORE = st.floats(1.05, 3)
#: A composed bill is known up to the grid on which losses are composed.
_GRID = 1 + 1e-3


@st.composite
def _mixing(draw):
    """Arguments of mix_epsilon but for the scale; pure ones for Laplace noise."""
    noise = draw(st.sampled_from(["laplace", "gaussian"]))
    pure = noise == "laplace" and draw(st.booleans())
    n = draw(st.integers(10, 500))
    return {
        "n": n,
        "k": draw(st.integers(1, 8)),
        "n_releases": draw(st.sampled_from([1, 2, 10, 50])),
        "noise": noise,
        "sensitivity": draw(st.sampled_from([0.5, 1.0, 2.0])),
        "delta": 0.0 if pure else 1e-5,
        "sampling": draw(
            st.sampled_from(["without_replacement", "poisson", "with_replacement"])
        ),
        "labels": None,
        "method": "pure" if pure else "auto",
    }


@given(setting=_mixing(), scale=_SCALES, more=_MORE)
def test_mixing_bill_is_monotone(setting, scale, more):
    bill = mix_epsilon(scale=scale, **setting)
    assert bill >= 0
    assert mix_epsilon(scale=more * scale, **setting) <= bill * _GRID
    twice = {**setting, "n_releases": 2 * setting["n_releases"]}
    assert mix_epsilon(scale=scale, **twice) >= bill / _GRID
    larger = {**setting, "n": 2 * setting["n"]}
    assert mix_epsilon(scale=scale, **larger) <= bill * _GRID
    farther = {**setting, "sensitivity": more * setting["sensitivity"]}
    assert mix_epsilon(scale=scale, **farther) >= bill / _GRID
    if setting["delta"]:
        looser = {**setting, "delta": 10 * setting["delta"]}
        assert mix_epsilon(scale=scale, **looser) <= bill * _GRID
    elif np.isfinite(bill):
        # pure loss adds up over releases
        assert mix_epsilon(scale=scale, **twice) == pytest.approx(2 * bill)


@given(
    noise=st.floats(0.5, 5),
    more=_MORE,
    batch=st.integers(1, 64),
    steps=st.sampled_from([1, 10, 200]),
)
def test_dpsgd_bill_is_monotone(noise, more, batch, steps):
    bill = dpsgd_epsilon(500, batch, noise, steps, 1e-5)
    assert bill >= 0
    assert dpsgd_epsilon(500, batch, more * noise, steps, 1e-5) <= bill * _GRID
    assert dpsgd_epsilon(500, batch, noise, 2 * steps, 1e-5) >= bill / _GRID
    assert dpsgd_epsilon(500, batch + 1, noise, steps, 1e-5) >= bill / _GRID
    assert dpsgd_epsilon(500, batch, noise, steps, 1e-4) <= bill * _GRID


@given(setting=_mixing(), target=st.sampled_from([0.3, 1.0, 4.0]))
def test_noise_for_epsilon_inverts_the_bill(setting, target):
    assume(setting["method"] == "pure" or setting["n_releases"] <= 10)
    scale = noise_for_epsilon(target, **setting)
    assert mix_epsilon(scale=scale, **setting) <= target
    below = 0.999 * scale
    if below > 1e-9:
        assert mix_epsilon(scale=below, **setting) > target / _GRID


@given(
    epsilon=st.floats(0, 50),
    delta=st.floats(0, 1, exclude_max=True),
    m=st.integers(0, 100),
    rate=st.floats(0, 1),
    more=_MORE,
)
def test_poisoning_bound_is_a_probability(epsilon, delta, m, rate, more):
    bound = poisoning_success_bound(epsilon, delta, m, rate)
    assert rate - 1e-12 <= bound <= 1
    assert poisoning_success_bound(epsilon, delta, m + 1, rate) >= bound - 1e-12
    assert poisoning_success_bound(more * epsilon, delta, m, rate) >= bound - 1e-12
    if m == 0:
        assert bound == pytest.approx(rate)
    assert poisoning_success_bound(np.inf, delta, m + 1, rate) >= bound - 1e-12


@given(seed=st.integers(0, 2**31 - 1), n=st.integers(2, 400), shift=st.floats(-2, 2))
def test_audited_epsilon_sees_order_alone(seed, n, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n) + shift, rng.normal(size=n)
    found = audit_epsilon(a, b)
    assert 0 <= found < np.log(max(n, 2))
    assert audit_epsilon(np.exp(a), np.exp(b)) == found
    assert audit_epsilon(3 * a, 3 * b) == found


def test_no_noise_is_said_to_be_no_privacy():
    with pytest.warns(PrivacyWarning):
        assert mix_epsilon(10, 2, 0.0, 1, sensitivity=1.0, labels=None) == np.inf
