"""How much of a client's images its counter-measures leave."""

from functools import partial

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.datasets import load_digits
from torch import nn

from skpoison.inversion import (
    AnalyticInversion,
    GradientInversion,
    clip_update,
    noise_update,
    prune_update,
)
from skpoison.metrics import psnr
from skpoison.model_selection import LeakageCurveDisplay, leakage_curve

X, Y = load_digits(return_X_y=True)
X, Y = X[:4] / 16, Y[:4]


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)).double()


def of_first_layer(net, **params):
    return AnalyticInversion(net, polish=False, device="cpu", **params)


def test_noise_by_hand(net):
    sigma = 0.05
    curve = leakage_curve(
        of_first_layer(net),
        X,
        Y,
        defense=partial(noise_update, random_state=3),
        param_range=[0, sigma],
    )
    assert curve.param_range == [0, sigma]
    assert curve.psnr.shape == curve.gradient_cosine.shape == (2, 4)
    assert (curve.psnr[0] > 200).all()
    np.testing.assert_allclose(curve.gradient_cosine[0], 1)
    for i in range(4):
        scores = net(torch.tensor(X[[i]]))
        loss = nn.functional.cross_entropy(scores, torch.tensor(Y[[i]]))
        gradient = torch.autograd.grad(loss, list(net.parameters()))
        noisy = noise_update(gradient, sigma, random_state=3)
        weight, bias = (part.numpy() for part in noisy[:2])
        row = np.clip(weight.T @ bias / (bias @ bias), 0, 1)
        assert curve.psnr[1, i] == pytest.approx(psnr(X[[i]], row[None]))
        flat, sent = (np.concatenate([p.ravel() for p in g]) for g in (gradient, noisy))
        cosine = flat @ sent / np.linalg.norm(flat) / np.linalg.norm(sent)
        assert curve.gradient_cosine[1, i] == pytest.approx(cosine)


def test_seeds(net):
    def curve(random_state, **params):
        return leakage_curve(
            of_first_layer(net),
            X,
            Y,
            defense=noise_update,
            param_range=[0.1, 0.1],
            random_state=random_state,
            **params,
        ).psnr

    first = curve(0)
    np.testing.assert_array_equal(first, curve(0))
    with parallel_config(backend="threading"):  # processes take seconds to start
        np.testing.assert_array_equal(first, curve(0, n_jobs=2))
    np.testing.assert_array_equal(first[0], first[1])  # values are paired
    assert len(set(first[0])) == 4 and not np.array_equal(first, curve(1))
    alone = leakage_curve(
        of_first_layer(net), X[:2], Y[:2],
        defense=noise_update, param_range=[0.1], random_state=0,
    )  # fmt: skip
    np.testing.assert_array_equal(alone.psnr, first[:1, :2])


def test_a_given_seed_of_the_defense_stays(net):
    seeds = []

    def defense(update, value, random_state=None):
        seeds.append(random_state)
        return update

    def given(update, value, random_state=7):
        seeds.append(random_state)
        return update

    leakage_curve(of_first_layer(net), X, Y, defense=defense, param_range=[0, 1])
    assert seeds[::2] == seeds[1::2] and len(set(seeds)) == 4
    seeds.clear()
    leakage_curve(of_first_layer(net), X, Y, defense=given, param_range=[0])
    assert seeds == [7] * 4


def test_recipe_and_unit_of_the_inversion(net):
    # weights after a step, of rows that the network takes standardised
    inversion = of_first_layer(net, update="weights", local_lr=0.5, mean=0.3, scale=2.0)
    curve = leakage_curve(
        inversion, X, Y, defense=lambda update, value: update, param_range=[None]
    )
    assert (curve.psnr > 100).all()


def test_clipping_hides_nothing_and_pruning_some(net):
    clipped = leakage_curve(
        of_first_layer(net), X, Y, defense=clip_update, param_range=[1e-3]
    )
    np.testing.assert_allclose(clipped.gradient_cosine, 1)
    assert (clipped.psnr > 200).all()
    pruned = leakage_curve(
        of_first_layer(net), X, Y, defense=prune_update, param_range=[0.5, 0.99]
    )
    assert (np.diff(pruned.gradient_cosine, axis=0) < 0).all()
    assert (np.diff(pruned.psnr.mean(axis=1)) < 0).all()


def test_by_optimisation(net):
    inversion = GradientInversion(net, solver="lbfgs", max_iter=200, random_state=0)
    before = inversion.get_params()
    curve = leakage_curve(
        inversion, X[:2], Y[:2], defense=noise_update, param_range=[0, 1.0],
        random_state=0,
    )  # fmt: skip
    assert (curve.psnr[0] > 40).all() and (curve.psnr[1] < 40).all()
    assert inversion.get_params() == before


def test_bad_defense(net):
    with pytest.raises(TypeError, match="defense must be a callable"):
        leakage_curve(of_first_layer(net), X, Y, defense=0.5, param_range=[1])


def test_display():
    plt = pytest.importorskip("matplotlib.pyplot")
    values = np.array([[40.0, 30.0], [12.0, 8.0]])
    axes = plt.subplots()[1]
    curve = {"param_range": [0.1, 1.0], "psnr": values}
    display = LeakageCurveDisplay(**curve).plot(ax=axes, color="C3")
    assert display.ax_ is axes and display.figure_ is axes.figure
    np.testing.assert_array_equal(display.line_.get_ydata(), [35, 10])
    assert axes.collections and axes.get_ylabel() == "PSNR in dB"
    plt.close("all")
