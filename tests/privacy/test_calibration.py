"""Noise for a target."""

import pytest

from skpoison.privacy import dpsgd_epsilon, mix_epsilon, noise_for_epsilon

MIXING = {"n": 500, "k": 4, "n_releases": 500, "sensitivity": 3.0, "labels": None}
DPSGD = {"n": 5000, "batch_size": 128, "n_steps": 390, "delta": 1e-5}


@pytest.mark.parametrize("target", [0.05, 1.0, 30.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"delta": 1e-5}, {"delta": 1e-6, "noise": "gaussian"}],
    ids=str,
)
def test_mixing(target, options):
    setting = {**MIXING, **options}
    scale = noise_for_epsilon(target, **setting)
    assert mix_epsilon(scale=scale, **setting) <= target
    assert mix_epsilon(scale=scale * 0.998, **setting) > target


@pytest.mark.parametrize("target", [0.1, 3.0, 100.0])
def test_dpsgd(target):
    noise = noise_for_epsilon(target, mechanism="dpsgd", **DPSGD)
    assert dpsgd_epsilon(noise_multiplier=noise, **DPSGD) <= target
    assert dpsgd_epsilon(noise_multiplier=noise * 0.998, **DPSGD) > target


def test_noise_has_the_unit_of_the_sensitivity():
    one = noise_for_epsilon(1.0, **MIXING)
    for factor in (1e-20, 1e6, 1e20):
        other = {**MIXING, "sensitivity": 3.0 * factor}
        assert noise_for_epsilon(1.0, **other) == pytest.approx(factor * one, rel=1e-3)


def test_parameters_are_named():
    with pytest.raises(TypeError, match="takes no batch_size, steps; it takes n, k"):
        noise_for_epsilon(1.0, **MIXING, batch_size=3, steps=2)
    with pytest.raises(TypeError, match="takes no noise_multiplier"):
        noise_for_epsilon(1.0, mechanism="dpsgd", noise_multiplier=1.0, **DPSGD)
    with pytest.raises(TypeError, match="mechanism='dpsgd' needs n, n_steps, delta"):
        noise_for_epsilon(1.0, mechanism="dpsgd", batch_size=3)


@pytest.mark.parametrize(
    "target, options, match",
    [
        (0.0, {}, "target_epsilon must be > 0.0, got 0.0"),
        (1.0, {"mechanism": "sgd"}, "mechanism must be one of 'mixing', 'dpsgd'"),
        (1.0, {"k": 501}, "k must be at most n=500"),
        (1.0, {"sensitivity": -1.0}, "sensitivity must be > 0.0"),
        (1.0, {"noise": "gaussian"}, "target_epsilon=1.0 is out of reach"),
        (1.0, {"labels": "noisy", "label_scale": 1e-3}, "is out of reach: no scale"),
    ],
)
def test_bad_values(target, options, match):
    with pytest.raises(ValueError, match=match):
        noise_for_epsilon(target, **{**MIXING, **options})
