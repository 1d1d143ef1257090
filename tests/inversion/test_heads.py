"""Each row's input of the last layer from the gradient of a batch."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from skpoison.inversion import GradientInversion, _objective, client_update
from skpoison.inversion._client import Client
from skpoison.inversion._heads import batch_features
from skpoison.inversion._objective import feature_term
from skpoison.models import LeNet
from skpoison.utils import local_torch_seed

SHAPE = (1, 8, 8)
EPS = np.finfo(float).eps


def head(n_samples, labels, seed=0, n_classes=10, n_features=40, scale=0.5):
    """Return features, gradient and weights of a random last layer."""
    rng = np.random.RandomState(seed)
    H = rng.rand(n_samples, n_features)
    layer = nn.Linear(n_features, n_classes).double()
    with torch.no_grad():
        layer.weight.copy_(
            torch.from_numpy(rng.uniform(-scale, scale, (n_classes, n_features)))
        )
        layer.bias.zero_()
    found = client_update(layer, H, np.asarray(labels))
    gradient = np.column_stack([found["weight"], found["bias"]])
    weight = np.column_stack([layer.weight.detach(), layer.bias.detach()])
    starts = rng.rand(16, n_samples, n_features)
    return H, gradient, weight, starts


def distance(H, found, labels):
    """Return the largest difference after matching the rows of each label."""
    worst = 0.0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        off = abs(H[rows][:, None] - found[rows]).max(-1)
        worst = max(worst, off[linear_sum_assignment(off)].max())
    return worst


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("n_samples", [2, 3, 4, 5, 6])
def test_features_of_every_row(n_samples, repeated):
    labels = np.arange(n_samples) // (2 if repeated else 1)
    for seed in range(3):
        H, gradient, weight, starts = head(n_samples, labels, seed)
        found, error = batch_features(gradient, weight, np.eye(10)[labels], starts, EPS)
        assert distance(H, found, labels) < 1e-8
        assert error < 1e-8


def test_features_from_single_precision():
    labels = np.array([3, 1, 3])
    H, gradient, weight, starts = head(3, labels)
    gradient = gradient.astype(np.float32).astype(float)
    eps = np.finfo(np.float32).eps
    found, error = batch_features(gradient, weight, np.eye(10)[labels], starts, eps)
    size = np.sqrt((H**2).mean())
    assert 1e-8 < distance(H, found, labels) < 10 * error * size < 1e-2


def test_no_features_where_the_equations_do_not_fit():
    labels = np.array([0, 1, 2])
    _, gradient, weight, starts = head(3, labels)

    def features(gradient, labels):
        return batch_features(gradient, weight, np.eye(10)[labels], starts, EPS)

    assert features(gradient, labels) is not None
    assert features(gradient, np.array([0, 1, 3])) is None  # a label that is wrong
    noise = np.random.RandomState(0).standard_normal(gradient.shape)
    assert features(gradient + 1e-3 * noise, labels) is None


@pytest.mark.parametrize("case", ["many", "saturated", "equal", "binary"])
def test_nothing_where_rows_leave_no_trace(case):
    n_samples, n_classes, scale = {
        "many": (5, 5, 0.5),
        "saturated": (3, 10, 1e5),
        "equal": (3, 10, 0.5),
        "binary": (2, 2, 0.5),
    }[case]
    labels = np.arange(n_samples)
    H, gradient, weight, starts = head(
        n_samples, labels, n_classes=n_classes, scale=scale
    )
    if case == "equal":
        labels = np.zeros(3, int)
        p = np.exp(H[0] @ weight[:, :-1].T)
        gradient = np.outer(p / p.sum() - np.eye(10)[0], np.append(H[0], 1))
    found = batch_features(gradient, weight, np.eye(n_classes)[labels], starts, EPS)
    if found is not None:  # saturated: probabilities are 0 or 1, the rest is as ever
        assert case == "saturated"
        assert distance(H, found[0], labels) < 1e-8


def batch(labels, dtype="float64", net=None):
    with local_torch_seed(0):
        net = LeNet(SHAPE, 10).to(getattr(torch, dtype)) if net is None else net
    X = torch.from_numpy(np.random.RandomState(1).rand(len(labels), *SHAPE))
    y = torch.as_tensor(labels)
    return net, X.to(next(net.parameters())), y


def test_term_is_zero_at_the_truth_and_tells_rows_apart():
    net, X, y = batch([3, 1, 7])
    client, target = Client(net), client_update(net, X, y)
    names, value = feature_term(client, target, SHAPE, 3, y)
    assert names == ["features.4"]  # in front of the last convolution

    def at(X):
        return value(X[None], [net.features[:4](X)[None]]).item()

    assert at(X) < 1e-15
    assert at(X.flip(0)) > 1e-3
    # the distance of what came out of the second convolution
    Z = X + 0.1
    wanted, other = (net.features[:3](x).detach() for x in (X, Z))
    expected = ((other - wanted) ** 2).sum() / (wanted**2).sum()
    assert at(Z) == pytest.approx(expected.item(), rel=1e-6)
    # in the order of the labels
    order = [2, 0, 1]
    _, value = feature_term(client, target, SHAPE, 3, y[order])
    assert at(X[order]) < 1e-15


def test_term_stops_where_a_layer_is_not_determined():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(2), nn.Tanh(),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    net, X, y = batch([3, 1, 7], net=net.double())
    names, value = feature_term(Client(net), client_update(net, X, y), SHAPE, 3, y)
    assert names == ["5"]
    H = net[:5](X).detach()
    assert value(X[None], [H[None]]).item() < 1e-15
    assert value(X[None], [H[None] + 0.1]).item() > 1e-3


def test_term_falls_back_to_the_span():
    net, X, y = batch([3, 1, 7])
    client, target = Client(net), client_update(net, X, y)
    H = net.features(X).detach()

    def is_span(names, value):
        return names == ["linear"] and value(X[None], [H.flip(0)[None]]).item() < 1e-15

    assert is_span(*feature_term(client, target, SHAPE, 3))
    assert is_span(*feature_term(client, target, SHAPE, 3, torch.tensor([3, 1, 2])))
    halved = Client(net, criterion=lambda scores, y: scores.square().mean())
    found = feature_term(halved, client_update(net, X, y), SHAPE, 3, y)
    assert is_span(*found)
    deeper = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    deeper, X, y = batch([3, 1, 7], net=deeper.double())
    target = client_update(deeper, X, y)
    names, value = feature_term(Client(deeper), target, SHAPE, 3, y)
    assert names == ["1"]
    assert value(X[None], [X.flip(0).flatten(1)[None]]).item() < 1e-15


def test_soft_labels():
    net, X, _ = batch([3, 1, 7])
    y = torch.from_numpy(np.random.RandomState(0).dirichlet(np.ones(10), 3))
    names, value = feature_term(Client(net), client_update(net, X, y), SHAPE, 3, y)
    assert names == ["features.4"]
    assert value(X[None], [net.features[:4](X)[None]]).item() < 1e-15


def test_batch_comes_back_in_single_precision_adam():
    """The inverse of a sigmoid stays finite where float32 saturates."""
    net, X, y = batch([3, 1], dtype="float32")
    with torch.no_grad():
        net.features[2].bias.fill_(30.0)
    attack = GradientInversion(
        net, n_samples=2, solver="adam", max_iter=20, bounds=None
    )
    found = attack.reconstruct(client_update(net, X, y), labels=y, shape=SHAPE)
    assert np.isfinite(found.X).all()


@pytest.mark.slow
def test_batch_comes_back_sooner_than_by_the_span(monkeypatch):
    net, X, y = batch([3, 1, 3, 7])
    target = client_update(net, X, y)
    attack = GradientInversion(net, n_samples=4, max_iter=200, random_state=0)

    def error():
        found = attack.reconstruct(target, labels=y, shape=SHAPE).X
        return distance(X.flatten(1).numpy(), found.reshape(4, -1), y.numpy())

    by_rows = error()
    monkeypatch.setattr(_objective, "row_target", lambda *args: None)
    assert by_rows < 0.05
    assert by_rows < error() / 2
