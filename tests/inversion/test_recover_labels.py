import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from torch import nn
from torch.nn import functional as F

from skpoison.inversion import client_update, recover_labels
from skpoison.models import MLP, LeNet, as_module


def small_net(seed, n_classes=5, bias=True, unit=nn.Tanh):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), unit(), nn.Linear(12, n_classes, bias=bias))


def batch(seed, n_samples, n_classes=5):
    rng = np.random.RandomState(seed)
    X = torch.as_tensor(rng.randn(n_samples, 6), dtype=torch.float32)
    return X, torch.as_tensor(rng.randint(n_classes, size=n_samples))


@pytest.mark.parametrize("n_samples", [1, 4, 32])
@pytest.mark.parametrize("seed", range(3))
def test_counts_are_exact_at_the_true_mean_prediction(n_samples, seed):
    net = small_net(seed)
    X, y = batch(seed, n_samples)  # repeated labels from 6 samples on for certain
    prior = net(X).softmax(1).mean(0).detach()
    update = client_update(net, X, y)
    found = recover_labels(update, net, n_samples, class_prior=prior)
    np.testing.assert_array_equal(found, np.sort(y))
    assert found.dtype == np.int64


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("unit", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("n_classes", [3, 5])
def test_one_sample_is_exact(bias, unit, n_classes):
    for seed in range(20):
        net = small_net(seed, n_classes, bias, unit)
        X, y = batch(seed, 1, n_classes)
        found = recover_labels(client_update(net, X, y), net, 1)
        np.testing.assert_array_equal(found, y)


def test_a_confident_mistake_without_bias():
    """Two rows of nearly the same size: the small ones tell which is the label's."""
    probabilities = np.array([1e-9, 0.998, 1e-3, 1e-3 - 1e-9])
    for label in (0, 3):
        delta = probabilities - np.eye(4)[label]
        weight = np.outer(delta, [-1.0, 2.0, 0.5])
        found = recover_labels([weight], nn.Linear(3, 4, bias=False), 1)
        assert found.tolist() == [label]


def test_two_classes_without_bias_take_the_sign_of_features():
    hits = 0
    for seed in range(30):
        net = small_net(seed, 2, bias=False, unit=nn.Sigmoid)
        X, y = batch(seed, 1, 2)
        hits += recover_labels(client_update(net, X, y), net, 1, random_state=0) == y
    assert hits == 30


def naive_counts(update, prior, n_samples):
    """Rounded counts by trial of all compositions: the nearest to the shares."""
    shares = n_samples * (prior - update)
    n_classes = len(shares)
    best, nearest = None, np.inf
    for first in range(n_samples + 1):
        for second in range(n_samples + 1 - first):
            counts = np.array([first, second, n_samples - first - second])
            distance = ((counts - shares) ** 2).sum()
            if distance < nearest:
                best, nearest = counts, distance
    return np.repeat(np.arange(n_classes), best)


@pytest.mark.parametrize("seed", range(20))
def test_rounding_is_the_nearest_composition(seed):
    rng = np.random.RandomState(seed)
    prior = rng.dirichlet(np.ones(3))
    bias = 0.3 * rng.randn(3)
    bias -= bias.mean()
    found = recover_labels([bias], Bias(3), 7, class_prior=prior)
    np.testing.assert_array_equal(found, naive_counts(bias, prior, 7))


class Bias(nn.Linear):
    """A linear layer whose bias alone is trained."""

    def __init__(self, n_classes):
        super().__init__(2, n_classes)
        self.weight.requires_grad_(False)


def test_guess_of_the_prior():
    """Fresh networks predict the same for all inputs: noise shows what."""
    right = {"noise": 0, "uniform": 0}
    for seed in range(10):
        torch.manual_seed(seed)
        net = LeNet((1, 12, 12), 10)
        y = torch.randint(0, 10, (16,))
        update = client_update(net, torch.rand(16, 1, 12, 12), y)
        priors = {"noise": None, "uniform": np.full(10, 0.1)}
        for name, prior in priors.items():
            found = recover_labels(update, net, 16, class_prior=prior, random_state=0)
            counts = (np.bincount(labels, minlength=10) for labels in (found, y))
            right[name] += np.minimum(*counts).sum()
    assert right["noise"] > 150 > right["uniform"]


def test_batch_without_bias_is_near():
    right = 0
    for seed in range(10):
        net = small_net(seed, bias=False, unit=nn.Sigmoid)
        X, y = batch(seed, 8)
        found = recover_labels(client_update(net, X, y), net, 8, random_state=0)
        counts = (np.bincount(labels, minlength=5) for labels in (found, y))
        right += np.minimum(*counts).sum()
    assert right > 70


def test_updates_of_weights():
    net = small_net(0)
    X, y = batch(0, 8)
    prior = net(X).softmax(1).mean(0).detach()
    for steps in (1, 4):
        update = client_update(
            net, X, y, update="weights", local_steps=steps, local_lr=1e-3
        )
        found = recover_labels(
            update, net, 8, update="weights", local_steps=steps, local_lr=1e-3,
            class_prior=prior,
        )  # fmt: skip
        np.testing.assert_array_equal(found, np.sort(y))


def test_fitted_classifiers_of_scikit_learn():
    X, y = load_digits(return_X_y=True)
    model = MLPClassifier((20,), max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X / 16, y)
    rows = slice(3, 9)
    update = client_update(as_module(model), X[rows] / 16, y[rows])
    prior = model.predict_proba(X[rows] / 16).mean(axis=0)
    found = recover_labels(update, model, 6, class_prior=prior)
    np.testing.assert_array_equal(found, np.sort(y[rows]))


def test_one_decision_value():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    model = LogisticRegression().fit(X, y)
    for rows in ([0], [30], list(range(12, 24))):
        prior = model.predict_proba(X[rows]).mean(axis=0)
        update = client_update(as_module(model), X[rows], y[rows])
        found = recover_labels(update, model, len(rows), class_prior=prior)
        np.testing.assert_array_equal(found, np.sort(y[rows]))


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    X, y = batch(0, 4, 3)
    update = client_update(net.eval(), X, y)
    net.train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = recover_labels(update, net, 4, random_state=1)
    np.testing.assert_array_equal(recover_labels(update, net, 4, random_state=1), first)
    assert torch.equal(torch.rand(3), expected)
    assert all(part.training for part in net.modules())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "n_samples, params, error, match",
    [
        (0, {}, ValueError, "n_samples must be >= 1"),
        (2.5, {}, TypeError, "n_samples must be an int"),
        (2, {"update": "weight"}, ValueError, "update must be one of"),
        (2, {"local_lr": 0.0}, ValueError, "local_lr must be > 0"),
        (2, {"local_steps": 0}, ValueError, "local_steps must be >= 1"),
        (2, {"class_prior": [0.5, 0.5]}, ValueError, "one entry a class, 5"),
        (2, {"class_prior": [1, 1, 1, 1, 1]}, ValueError, "must sum to 1"),
        (2, {"class_prior": [2, -1, 0, 0, 0]}, ValueError, "finite and >= 0"),
        (2, {"shape": (7,)}, ValueError, "takes no inputs of shape"),
    ],
)
def test_bad_parameters(n_samples, params, error, match):
    net = small_net(0)
    update = client_update(net, *batch(0, 2))
    with pytest.raises(error, match=match):
        recover_labels(update, net, n_samples, **params)


def test_networks_that_do_not_end_in_a_linear_layer():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    update = client_update(net, torch.rand(1, 1, 5, 5), [0])
    with pytest.raises(TypeError, match="the last one with parameters is 0, a Conv2d"):
        recover_labels(update, net, 1)
    with pytest.raises(ValueError, match="the update has shape"):
        recover_labels([np.ones(3)], MLP((4,), 3), 1)
    net = small_net(0)
    net[2].requires_grad_(False)
    update = client_update(net, *batch(0, 1))
    with pytest.raises(ValueError, match="its parameters are frozen"):
        recover_labels(update, net, 1)


def test_other_losses_are_noticed():
    net = small_net(0)
    X, y = batch(0, 4)

    def sigmoids(scores, y):
        return F.binary_cross_entropy_with_logits(scores, F.one_hot(y, 5).float())

    update = client_update(net, X, y, criterion=sigmoids)
    with pytest.warns(UserWarning, match="does not sum to zero"):
        recover_labels(update, net, 4)
