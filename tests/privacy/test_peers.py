"""Agreement with dp-accounting, where it is installed."""

import pytest

from skpoison.privacy import dpsgd_epsilon, mix_epsilon

distribution = pytest.importorskip(
    "dp_accounting.pld.privacy_loss_distribution",
    reason="dp-accounting is not installed",
)
STEP = 5e-4


def peer(noise, shift, p, n_steps, delta):
    if noise == "laplace":
        one = distribution.from_laplace_mechanism(
            1 / shift, sampling_prob=p, value_discretization_interval=STEP
        )
    else:
        one = distribution.from_gaussian_mechanism(
            1 / shift, sampling_prob=p, value_discretization_interval=STEP
        )
    return one.self_compose(n_steps).get_epsilon_for_delta(delta)


@pytest.mark.parametrize(
    "n, k, noise, scale, n_releases, delta",
    [
        (1000, 4, "laplace", 0.1, 1000, 1e-5),
        (1000, 1, "laplace", 0.1, 1000, 1e-5),
        (200, 8, "laplace", 0.05, 50, 1e-7),
        (100, 20, "laplace", 0.5, 300, 1e-3),
        (300, 2, "gaussian", 0.3, 1000, 1e-5),
        (500, 8, "gaussian", 0.1, 3000, 1e-6),
        (50, 5, "gaussian", 0.05, 20, 1e-8),
    ],
)
def test_poisson_mixing(n, k, noise, scale, n_releases, delta):
    found = mix_epsilon(
        n,
        k,
        scale,
        n_releases,
        noise=noise,
        sensitivity=1.0,
        delta=delta,
        sampling="poisson",
        labels=None,
    )
    expected = peer(noise, 1 / (k * scale), k / n, n_releases, delta)
    assert found == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_fixed_schedules(noise):
    found = mix_epsilon(
        100,
        4,
        0.3,
        600,
        noise=noise,
        sensitivity=1.0,
        delta=1e-5,
        sampling="regular",
    )
    assert found == pytest.approx(peer(noise, 1 / 1.2, 1.0, 24, 1e-5), rel=0.002)


@pytest.mark.parametrize(
    "n, batch_size, noise, n_steps, delta",
    [
        (60000, 256, 0.8, 2000, 1e-5),
        (5000, 128, 1.0, 390, 1e-5),
        (200, 50, 2, 40, 1e-6),
    ],
)
def test_dpsgd(n, batch_size, noise, n_steps, delta):
    found = dpsgd_epsilon(n, batch_size, noise, n_steps, delta)
    expected = peer("gaussian", 1 / noise, batch_size / n, n_steps, delta)
    assert found == pytest.approx(expected, rel=0.005)
