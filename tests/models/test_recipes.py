"""The recipes train as the papers' tables say."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone

from skpoison.models import (
    MLP,
    ConvNet,
    ResNet18,
    ShiftFlip,
    can_train_together,
    fit_together,
    training_recipe,
)

NAMES = ["conservative", "basic", "metapoison", "benchmark_scratch"]
rng = np.random.RandomState(0)
X = rng.rand(40, 3, 8, 8).astype(np.float32)
Y = np.arange(40) % 4


def rates(name, n_epochs):
    """Return the rate of each epoch."""
    clf = training_recipe(name, max_epochs=n_epochs)
    if clf.callbacks is None:
        return [clf.lr] * n_epochs
    return clf.callbacks[0].simulate(n_epochs, clf.lr)


def test_rates_of_the_papers():
    expected = [0.1] * 14 + [1e-2] * 10 + [1e-3] * 11 + [1e-4] * 5
    assert_allclose(rates("conservative", 40), expected)
    assert_allclose(rates("basic", 80), [0.1] * 80)
    expected = [0.1] * 100 + [1e-2] * 50 + [1e-3] * 50
    assert_allclose(rates("benchmark_scratch", 200), expected)
    expected[:4] = [0.02, 0.04, 0.06, 0.08]
    assert_allclose(rates("metapoison", 200), expected)


def test_schedules_scale_with_the_epochs():
    drops = [0, 0, 1, 1, 2, 2, 2, 3]  # at 8 // 2.667, 8 // 1.6 and 8 // 1.142
    assert_allclose(rates("conservative", 8), 0.1 * 10.0 ** -np.array(drops))
    assert_allclose(rates("benchmark_scratch", 4), [0.1, 0.1, 0.01, 0.001])
    assert_allclose(rates("metapoison", 80)[:3], [0.05, 0.1, 0.1])


@pytest.mark.parametrize("name", NAMES)
def test_one_epoch_has_the_full_rate(name):
    assert_allclose(rates(name, 1), [0.1])


@pytest.mark.parametrize("name", ["conservative", "metapoison", "benchmark_scratch"])
def test_training_follows_the_schedule(name):
    clf = training_recipe(
        name, MLP, max_epochs=6, module__hidden=(2,), augment=None, device="cpu"
    ).fit(X, Y)
    assert_allclose([epoch["event_lr"] for epoch in clf.history_], rates(name, 6))


@pytest.mark.parametrize(
    "name, momentum, nesterov, weight_decay, batch_size, n_epochs",
    [
        ("conservative", 0.9, True, 5e-4, 128, 40),
        ("basic", 0.0, False, 0.0, 128, 80),
        ("metapoison", 0.0, False, 0.0, 125, 200),
        ("benchmark_scratch", 0.9, False, 2e-4, 128, 200),
    ],
)
def test_optimizer_of_the_papers(
    name, momentum, nesterov, weight_decay, batch_size, n_epochs
):
    clf = training_recipe(name, MLP, device="cpu")
    assert (clf.batch_size, clf.max_epochs) == (batch_size, n_epochs)
    clf.set_params(max_epochs=0, module__hidden=(2,)).fit(X, Y)
    group = clf.net_.optimizer_.param_groups[0]
    assert isinstance(clf.net_.optimizer_, torch.optim.SGD)
    assert group["momentum"] == momentum and group["nesterov"] is nesterov
    assert group["weight_decay"] == weight_decay


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_moves_four_pixels_of_32_and_fills_with_grey(name):
    augment = training_recipe(name).augment
    if name in ("basic", "metapoison"):
        assert augment is None
        return
    moves = augment.draw(2000, (3, 32, 32), torch.Generator().manual_seed(0))
    assert 3.9 < moves[:, :2].abs().max() <= 4
    assert 0.45 < moves[:, 2].mean() < 0.55
    corner = augment.apply(torch.ones(1, 3, 32, 32), torch.tensor([[-4.0, -4.0, 0]]))
    assert corner[0, :, 0, 0].mean() == pytest.approx((0.4914 + 0.4822 + 0.4465) / 3)


def test_normalisation_is_inside():
    clf = training_recipe(
        "basic", MLP, mean=0.5, std=0.5, max_epochs=1, module__hidden=(4,), device="cpu"
    ).fit(X, Y)
    inside = clf.module_.network(torch.from_numpy((X - 0.5) / 0.5)).softmax(1)
    assert_allclose(inside.detach().numpy(), clf.predict_proba(X), rtol=1e-4)
    pixels = np.round(255 * X).astype(np.uint8)
    assert_allclose(clf.predict_proba(pixels), clf.predict_proba(X), atol=0.02)


def test_plain_networks_start_slowly_where_the_code_does():
    assert training_recipe("conservative", ConvNet).lr == pytest.approx(0.01)
    assert training_recipe("basic", ConvNet).lr == pytest.approx(0.01)
    assert training_recipe("metapoison", ConvNet).lr == pytest.approx(0.1)
    assert training_recipe("conservative", ResNet18).lr == pytest.approx(0.1)


def test_parameters_replace_those_of_the_recipe():
    clf = training_recipe(
        "conservative", lr=0.5, augment=None, batch_size=7, module__width=4
    )
    assert (clf.lr, clf.augment, clf.batch_size) == (0.5, None, 7)
    assert clf.get_params()["module__width"] == 4


@pytest.mark.parametrize("name", NAMES)
def test_two_of_a_recipe_train_together_as_alone(name):
    nets = [
        training_recipe(
            name, MLP, max_epochs=4, module__hidden=(5,), device="cpu", random_state=s
        )
        for s in (0, 1)
    ]
    assert can_train_together([nets[0], clone(nets[1])], [X, X])
    together = fit_together(nets, [X, X], [Y, Y])
    for one, alone in zip(together, nets, strict=True):
        assert_allclose(
            one.predict_proba(X), alone.fit(X, Y).predict_proba(X), atol=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
def test_clones_and_pickles(name):
    clf = training_recipe(name, max_epochs=1, module__width=2, device="cpu")
    fitted = clone(clf).set_params(random_state=0).fit(X, Y)
    again = pickle.loads(pickle.dumps(fitted))
    assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-6)


def test_errors_name_the_parameter():
    with pytest.raises(ValueError, match="name must be one of 'conservative'"):
        training_recipe("aggressive")
    with pytest.raises(ValueError, match="max_epochs"):
        training_recipe("basic", max_epochs=0)
    with pytest.raises(TypeError, match="module must be a network's class"):
        training_recipe("basic", MLP((4,), 2))
    with pytest.raises(TypeError, match="module must be a network's class"):
        training_recipe("basic", "ResNet18")


def test_default_augmentation_is_a_shift_and_flip():
    assert isinstance(training_recipe("conservative").augment, ShiftFlip)
