import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import EpochScoring
from skorch.dataset import ValidSplit
from torch import nn

from skpoison.defenses import ABLClassifier
from skpoison.landscape import PoorInitialization, poor_initialization
from skpoison.models import MLP, TorchClassifier


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:400] / 16).astype(np.float32), y[:400]


@pytest.fixture
def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def classifier(*args, **params):
    callbacks = [("start", PoorInitialization(*args))]
    defaults = {"max_epochs": 1, "device": "cpu", "random_state": 0}
    return TorchClassifier(MLP, callbacks=callbacks, **{**defaults, **params})


@pytest.mark.parametrize(
    "kind, value, biases, weights, scales",
    [
        ("zero", None, lambda b: 0 * b, lambda w: 0 * w, lambda s: 0 * s),
        *[
            ("constant", v, *[lambda p, c=c: torch.full_like(p, c)] * 3)
            for v, c in ((None, 1e-3), (2.5, 2.5))
        ],
        *[
            ("bias", v, lambda b, c=c: torch.full_like(b, c), *[lambda p: p] * 2)
            for v, c in ((None, -20.0), (20, 20.0))
        ],
        ("scale", None, lambda b: b, lambda w: 10 * w, lambda s: s),
        ("scale", -2, lambda b: b, lambda w: -2 * w, lambda s: s),
    ],
)
def test_parameters(network, kind, value, biases, weights, scales):
    before = {name: p.clone() for name, p in network.named_parameters()}
    found = poor_initialization(network, kind, value)
    for name, p in found.named_parameters():
        old = before[name]
        change = (
            biases if name.endswith("bias") else weights if old.ndim > 1 else scales
        )
        torch.testing.assert_close(p, change(old), rtol=1e-6, atol=0)
    for name, p in network.named_parameters():  # the given one is as it was
        assert torch.equal(p, before[name])
    assert found.training and found[0].weight.requires_grad


def test_uniform_biases(network):
    found = poor_initialization(network, "uniform_bias", 7, random_state=0)
    biases = torch.cat([p for n, p in found.named_parameters() if "bias" in n])
    assert len(biases) == 11 and biases.abs().max() <= 7 and biases.abs().max() > 4
    assert len(biases.unique()) == 11 and biases.min() < 0 < biases.max()
    assert torch.equal(found[0].weight, network[0].weight)
    again = poor_initialization(network, "uniform_bias", 7, random_state=0)
    other = poor_initialization(network, "uniform_bias", 7, random_state=1)
    assert torch.equal(again[0].bias, found[0].bias)
    assert not torch.equal(other[0].bias, found[0].bias)
    by_default = poor_initialization(network, "uniform_bias", random_state=0)
    torch.testing.assert_close(by_default[0].bias, found[0].bias * 10 / 7)


@pytest.mark.parametrize(
    "kind, value, error, message",
    [
        ("ones", None, ValueError, "kind must be one of 'zero', 'constant'"),
        (None, None, ValueError, "kind must be one of"),
        ("zero", 0.0, ValueError, "value must be None for kind='zero', got 0.0"),
        ("bias", "low", TypeError, "value must be a number"),
        ("scale", float("nan"), ValueError, "value must be finite"),
        ("uniform_bias", -1, ValueError, "value must be >= 0"),
    ],
)
def test_bad_input(network, digits, kind, value, error, message):
    with pytest.raises(error, match=message):
        poor_initialization(network, kind, value)
    with pytest.raises(error, match=message):
        classifier(kind, value, max_epochs=10**9).fit(*digits)


def test_what_is_no_module(digits):
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module.*callbacks"):
        poor_initialization(classifier("zero"), "zero")
    with pytest.raises(ValueError, match="random_state must be"):
        classifier("zero", None, "seed").fit(*digits)


def test_callback_changes_what_the_seed_gave(digits):
    X, y = digits
    plain = TorchClassifier(MLP, max_epochs=0, device="cpu", random_state=0).fit(X, y)
    for kind in ("zero", "bias", "scale"):
        clf = classifier(kind, max_epochs=0).fit(X, y)
        expected = poor_initialization(plain.module_, kind)
        for p, q in zip(clf.module_.parameters(), expected.parameters(), strict=True):
            assert torch.equal(p, q)


def test_training_goes_on_from_there(digits):
    """Units that are off have no gradient: only the last bias is ever changed."""
    X, y = digits
    clf = classifier("bias", max_epochs=3, optimizer=torch.optim.SGD).fit(X, y)
    first, last = clf.module_.layers[0], clf.module_.layers[2]
    assert (first.bias == -20).all() and not (last.bias == -20).any()
    scores = clf.predict_proba(X)
    np.testing.assert_array_equal(scores, np.repeat(scores[:1], len(X), axis=0))


def test_once_in_a_fit_of_several_stages_and_again_in_the_next_fit(digits):
    X, y = digits
    clf = ABLClassifier(
        MLP, tuning_epochs=1, max_epochs=1, unlearn_epochs=1, lr=1e-6,
        callbacks=[("start", PoorInitialization("uniform_bias", 5, random_state=0))],
        device="cpu", random_state=0,
    )  # fmt: skip
    given = clf.callbacks[0][1]
    calls = []

    class Counted(PoorInitialization):
        def on_train_begin(self, net, **kwargs):
            before = net.module_.layers[0].bias.clone()
            super().on_train_begin(net, **kwargs)
            calls.append(not torch.equal(before, net.module_.layers[0].bias))

    clf.set_params(callbacks=[("start", Counted("uniform_bias", 5, random_state=0))])
    clf.fit(X, y)
    assert calls[0] and len(calls) > 1 and not any(calls[1:])
    n_calls = len(calls)
    clf.fit(X, y)
    assert calls[n_calls] and sum(calls) == 2
    assert vars(given).keys() == {"kind", "value", "random_state"}


def test_search_over_starts(digits):
    X, y = digits
    search = GridSearchCV(
        classifier(max_epochs=4, lr=0.01),
        {"callbacks__start__kind": ["bias", "scale"],
         "callbacks__start__value": [-20, 1.0]},
        cv=2,
    )  # fmt: skip
    search.fit(X, y)
    scores = dict(zip(
        [(p["callbacks__start__kind"], p["callbacks__start__value"])
         for p in search.cv_results_["params"]],
        search.cv_results_["mean_test_score"], strict=True,
    ))  # fmt: skip
    assert scores["scale", 1.0] > 0.6 and scores["bias", -20] < 0.2
    assert search.best_params_["callbacks__start__value"] == 1.0


def test_clone_pickle_and_validation_split(digits):
    X, y = digits
    callback = PoorInitialization("uniform_bias", 3, random_state=4)
    assert clone(callback).get_params() == callback.get_params()
    scoring = EpochScoring("accuracy", name="score", lower_is_better=False)
    clf = classifier("zero", max_epochs=2, train_split=ValidSplit(4))
    clf.callbacks.append(("scoring", scoring))
    clf = clone(clf).fit(X, y)
    assert (clf.module_.layers[0].weight == 0).all()
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_random_streams_are_left_alone(digits):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    classifier("uniform_bias", 1.0).fit(*digits)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.gpu
def test_on_cuda(digits):
    clf = classifier("uniform_bias", 3, 0, max_epochs=0, device="cuda").fit(*digits)
    other = classifier("uniform_bias", 3, 0, max_epochs=0).fit(*digits)
    for p, q in zip(clf.module_.parameters(), other.module_.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q)
