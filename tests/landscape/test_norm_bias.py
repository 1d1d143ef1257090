"""Norm bias: its gradient, where the norm ends, and how it sits in classifiers."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Freezer
from skorch.dataset import ValidSplit
from torch import nn

from skpoison.defenses import DPSGDClassifier, MixupClassifier
from skpoison.evasion import AdversarialClassifier
from skpoison.landscape import NormBias, apply_norm_bias_
from skpoison.models import MLP, ResNet20, TorchClassifier, TorchRegressor


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:600] / 16).astype(np.float32), y[:600]


def classifier(bias, kind=TorchClassifier, **params):
    settings = {
        "optimizer": "sgd",
        "optimizer__weight_decay": 0,
        "module__hidden": (16,),
        "lr": 0.05,
        "max_epochs": 2,
        "callbacks": None if bias is None else [("bias", bias)],
        "device": "cpu",
        "random_state": 0,
    }
    return kind(MLP, **{**settings, **params})


def norm_of(clf, select=lambda name: True):
    return sum(
        float(p.detach().double().square().sum())
        for name, p in clf.module_.named_parameters()
        if p.requires_grad and select(name)
    )


def weights_of(clf):
    return torch.cat([p.detach().flatten() for p in clf.module_.parameters()])


def regulariser(parameters, target, coef, power):
    distance = sum((p**2).sum() for p in parameters) - target
    return coef / 2 * (abs(distance) if power == 1 else distance**2)


# --------------------------------------------------------------------- gradient


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("target", [0, 2.5, 1e4])
def test_gradient_is_that_of_the_regulariser(power, target):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    parameters = list(net.parameters())
    start = [torch.randn_like(p) for p in parameters]
    for p, slope in zip(parameters, start, strict=True):
        p.grad = slope.clone()
    before = [p.detach().clone() for p in parameters]
    norm = apply_norm_bias_(net.parameters(), target, coef=0.3, power=power)
    expected = torch.autograd.grad(
        regulariser(parameters, target, 0.3, power), parameters
    )
    for p, first, slope in zip(parameters, start, expected, strict=True):
        torch.testing.assert_close(p.grad, first + slope, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    assert norm.item() == pytest.approx(sum((b**2).sum().item() for b in before))
    assert not norm.requires_grad


def test_nothing_pulls_at_the_target():
    weights = torch.tensor([3.0, 4.0], requires_grad=True)
    for power in (1, 2):
        weights.grad = torch.zeros(2)
        apply_norm_bias_([weights], 25, coef=2.0, power=power)
        assert weights.grad.tolist() == [0, 0]


@pytest.mark.parametrize("target, sign", [(0, 1), (1e3, -1)])
def test_the_factor_is_limited_on_both_sides(target, sign):
    weights = torch.tensor([3.0, 4.0], requires_grad=True)
    weights.grad = torch.zeros(2)
    apply_norm_bias_(weights, target, coef=1.0, power=2, max_factor=0.5)
    assert weights.grad.tolist() == [sign * 1.5, sign * 2.0]


def test_parameters_without_gradient_count_and_frozen_ones_do_not():
    moved, idle, frozen = (torch.full((4,), v) for v in (1.0, 2.0, 3.0))
    moved.requires_grad_().grad = torch.zeros(4)
    idle.requires_grad_()
    norm = apply_norm_bias_(iter([moved, idle, frozen]), 0, coef=0.5)
    assert norm.item() == 4 + 16
    assert moved.grad.tolist() == [0.5] * 4
    assert idle.grad is None and frozen.grad is None
    idle.grad, moved.grad = None, None
    assert apply_norm_bias_([idle], 0).item() == 16


@pytest.mark.gpu
def test_gradient_on_a_gpu_is_that_on_the_cpu():
    torch.manual_seed(0)
    weights = [torch.randn(5, 3), torch.randn(7)]
    found = []
    for device in ("cpu", "cuda"):
        there = [w.to(device).requires_grad_() for w in weights]
        for w in there:
            w.grad = torch.ones_like(w)
        norm = apply_norm_bias_(there, 3.0, coef=0.1)
        assert norm.device.type == device
        found.append([w.grad.cpu() for w in there])
    torch.testing.assert_close(*found)


# --------------------------------------------------------------------- training


@pytest.mark.parametrize("target", [120.0, 700.0])
@pytest.mark.parametrize("power", [1, 2])
def test_norm_reaches_the_target_from_both_sides(digits, target, power):
    # 4 eta lambda mu^2 is 0.6 with power 2, where eta counts the momentum
    coef = 0.02 if power == 1 else 0.3 / target
    bias = NormBias(target, coef, power, max_factor=0.5)
    clf = classifier(bias, module__hidden=(64,), max_epochs=25).fit(*digits)
    start = norm_of(classifier(None, module__hidden=(64,), max_epochs=0).fit(*digits))
    recorded = clf.history_[:, "norm_sq"]
    assert start < 100
    assert recorded[-1] == pytest.approx(target, rel=0.01)
    assert recorded[-1] == pytest.approx(norm_of(clf), rel=1e-6)
    assert clf.score(*digits) > 0.95


def test_a_large_target_lifts_the_norm_and_a_small_one_lowers_it(digits):
    ends = {}
    for target in (5.0, 400.0):
        clf = classifier(NormBias(target, 0.05), max_epochs=8).fit(*digits)
        ends[target] = clf.history_[:, "norm_sq"]
    plain = norm_of(classifier(None, max_epochs=8).fit(*digits))
    assert ends[5.0][-1] < plain < ends[400.0][-1]
    assert all(np.diff(ends[400.0][:3]) > 0)


@pytest.mark.parametrize("coef", [5e-4, 0.03])
def test_target_zero_is_weight_decay(digits, coef):
    shared = {"lr": 0.1, "max_epochs": 3}
    biased = classifier(NormBias(0, coef), **shared).fit(*digits)
    decayed = classifier(None, **shared, optimizer__weight_decay=coef).fit(*digits)
    free = classifier(None, **shared).fit(*digits)
    gap = (weights_of(biased) - weights_of(decayed)).abs().max()
    assert gap <= 1e-6
    assert (weights_of(free) - weights_of(decayed)).abs().max() > 100 * gap


def test_callback_takes_the_steps_of_the_function(digits):
    """One full batch: the step is that of a loop written out."""
    X, y = digits
    clf = classifier(
        NormBias(50.0, 0.1, power=2, max_factor=0.3),
        batch_size=len(X),
        max_epochs=1,
        optimizer__momentum=0,
        optimizer__nesterov=False,
    ).fit(X, y)
    start = classifier(None, max_epochs=0).fit(X, y).module_
    loss = nn.functional.cross_entropy(start(torch.from_numpy(X)), torch.as_tensor(y))
    loss.backward()
    apply_norm_bias_(start.parameters(), 50.0, 0.1, 2, max_factor=0.3)
    with torch.no_grad():
        for p in start.parameters():
            p -= 0.05 * p.grad
    expected = torch.cat([p.detach().flatten() for p in start.parameters()])
    torch.testing.assert_close(weights_of(clf), expected, rtol=1e-5, atol=1e-6)


def matrices(name, parameter):
    return parameter.ndim > 1


def test_select_narrows_the_vector(digits):
    bias = NormBias(200.0, 0.05, select=matrices)
    clf = classifier(bias, max_epochs=15).fit(*digits)
    found = norm_of(clf, lambda name: name.endswith("weight"))
    assert clf.history_[-1]["norm_sq"] == pytest.approx(found, rel=1e-6)
    assert found == pytest.approx(200, rel=0.01)
    assert norm_of(clf) > found + 0.01


def test_frozen_layers_stay_and_do_not_count(digits):
    frozen = Freezer("layers.0.*")
    callbacks = [("freeze", frozen), ("bias", NormBias(60.0, 0.05))]
    clf = classifier(None, callbacks=callbacks, max_epochs=10).fit(*digits)
    start = classifier(None, max_epochs=0).fit(*digits)
    assert torch.equal(clf.module_.layers[0].weight, start.module_.layers[0].weight)
    last = norm_of(clf, lambda name: name.startswith("layers.2"))
    assert clf.history_[-1]["norm_sq"] == pytest.approx(last, rel=1e-6)
    assert last == pytest.approx(60, rel=0.01)


@pytest.mark.parametrize("normalization", ["batch", "fixup"])
def test_scales_of_normalisation_belong_to_the_norm(digits, normalization):
    X, y = digits
    clf = TorchClassifier(
        ResNet20, module__width=4, module__n_blocks=1, input_shape=(1, 8, 8),
        module__normalization=normalization, optimizer="sgd", lr=0.02, max_epochs=15,
        optimizer__weight_decay=0, callbacks=[("bias", NormBias(70.0, 0.05))],
        batch_size=25, device="cpu", random_state=0,
    ).fit(X[:125], y[:125])  # fmt: skip
    assert clf.history_[-1]["norm_sq"] == pytest.approx(norm_of(clf), rel=1e-5)
    assert norm_of(clf) == pytest.approx(70, rel=0.01)


# ---------------------------------------------------------------- the estimators


def final_norm(clf, X, y):
    return clf.history_[-1]["norm_sq"]


@pytest.mark.slow
def test_grid_search_reaches_the_target(digits):
    targets = [50.0, 150.0]
    search = GridSearchCV(
        classifier(NormBias(0, 0.05), max_epochs=30),
        {"callbacks__bias__target": targets},
        scoring=final_norm,
        cv=2,
    ).fit(*digits)
    for fold in ("split0_test_score", "split1_test_score"):
        assert search.cv_results_[fold] == pytest.approx(targets, rel=0.01)
    assert norm_of(search.best_estimator_) == pytest.approx(150, rel=0.01)
    assert search.estimator.callbacks[0][1].target == 0  # the caller's own


def test_clone_pickle_and_a_second_fit(digits):
    bias = NormBias(80.0, 0.01, 2, 0.3, matrices)
    assert clone(bias).get_params() == bias.get_params()
    clf = classifier(bias).fit(*digits)
    assert vars(bias).keys() == bias.get_params().keys()  # untouched by fit
    fitted = dict(clf.net_.callbacks_)["bias"]
    assert not [v for v in vars(fitted).values() if isinstance(v, list)]
    again = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(again.predict_proba(digits[0]), clf.predict_proba(digits[0]))
    first = weights_of(clf).clone()
    assert torch.equal(weights_of(clf.fit(*digits)), first)
    assert torch.equal(weights_of(again.fit(*digits)), first)
    assert torch.equal(weights_of(clone(clf).fit(*digits)), first)


def test_held_out_rows_no_epochs_and_numbers_as_targets(digits):
    X, y = digits
    split = classifier(NormBias(50.0), train_split=ValidSplit(5)).fit(X, y)
    assert len(split.history_[:, ("norm_sq", "valid_loss")]) == 2
    unfit = classifier(NormBias(50.0), max_epochs=0).fit(X, y)
    assert unfit.history_ == []
    regressor = classifier(
        NormBias(50.0, 0.1), TorchRegressor, lr=0.02, max_epochs=20
    ).fit(X[:300], y[:300].astype(float))
    assert regressor.history_[-1]["norm_sq"] == pytest.approx(50, rel=0.02)


def test_global_streams_are_left_alone(digits):
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    classifier(NormBias(50.0), max_epochs=1).fit(*digits)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], drawn)  # noqa: NPY002


@pytest.mark.parametrize(
    "kind, params",
    [
        (MixupClassifier, {}),
        (AdversarialClassifier, {"attack": "free", "max_iter": 3}),
        (DPSGDClassifier, {"noise_multiplier": 0.5, "delta": 1e-3}),
    ],
)
def test_defenses_keep_the_callback(digits, kind, params):
    X, y = digits
    shared = {"batch_size": 30, "max_epochs": 6, "optimizer__momentum": 0}
    shared["optimizer__nesterov"] = False
    clf = classifier(NormBias(90.0, 1.0), kind, **shared, **params).fit(X, y)
    assert clf.history_[-1]["norm_sq"] == pytest.approx(norm_of(clf), rel=1e-6)
    assert norm_of(clf) == pytest.approx(90, rel=0.2)


# ------------------------------------------------------------------------ errors

BAD = [
    ({"target": -1.0}, ValueError, "target must be >= 0, got -1.0"),
    ({"target": "auto"}, TypeError, "target must be a number, got 'auto'"),
    ({"target": float("nan")}, ValueError, "target must be >= 0, got nan"),
    ({"coef": -0.1}, ValueError, "coef must be >= 0, got -0.1"),
    ({"power": 3}, ValueError, "power must be 1 or 2, got 3"),
    ({"power": 1.5}, TypeError, "power must be an int, got 1.5"),
    ({"max_factor": 0}, ValueError, "max_factor must be > 0, got 0"),
]


@pytest.mark.parametrize("params, error, message", BAD)
def test_bad_numbers_are_named(digits, params, error, message):
    params = {"target": 1.0, **params}
    with pytest.raises(error, match=message):
        classifier(NormBias(**params)).fit(*digits)
    weights = torch.ones(2, requires_grad=True)
    with pytest.raises(error, match=message):
        apply_norm_bias_([weights], **params)


@pytest.mark.parametrize(
    "select, error, message",
    [
        ("weights", TypeError, "select must be 'all' or a callable"),
        (np.array(["0.weight", "2.weight"]), TypeError, "select must be 'all' or"),
        (lambda name, parameter: False, ValueError, "select leaves no trainable"),
    ],
    ids=["a word", "names", "nothing"],
)
def test_bad_selections_are_named(digits, select, error, message):
    with pytest.raises(error, match=message):
        classifier(NormBias(1.0, select=select), max_epochs=0).fit(*digits)


@pytest.mark.parametrize(
    "optimizer, decay",
    [
        ({"optimizer": "sgd"}, "0.0005"),
        ({"optimizer": "adamw"}, "0.01"),
        ({"optimizer": "adam", "optimizer__weight_decay": 0.2}, "0.2"),
    ],
    ids=["sgd", "adamw", "adam"],
)
def test_a_second_decay_is_refused(digits, optimizer, decay):
    clf = TorchClassifier(
        **optimizer, callbacks=[NormBias(1.0)], device="cpu", max_epochs=0
    )
    with pytest.raises(ValueError, match=f"weight_decay={decay}: set optimizer__w"):
        clf.fit(*digits)
    clf.set_params(optimizer__weight_decay=0).fit(*digits)


def test_parameters_that_cannot_be_trained_are_refused():
    for parameters in ([], [torch.ones(2)]):
        with pytest.raises(ValueError, match="none that requires a gradient"):
            apply_norm_bias_(parameters, 1.0)
    with pytest.raises(TypeError, match="must hold tensors, .* got tuple"):
        apply_norm_bias_(nn.Linear(2, 2).named_parameters(), 1.0)
