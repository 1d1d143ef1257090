"""What a client shares: against plain loops, finite differences, and the network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.inversion import client_update
from skpoison.models import MLP, LeNet, ResNet20


def small_net(dtype=torch.float64):
    net = LeNet((1, 8, 8), 4)
    return net.to(dtype)


def batch(n, dtype=torch.float64, seed=0):
    rng = np.random.RandomState(seed)
    X = torch.from_numpy(rng.rand(n, 1, 8, 8)).to(dtype)
    return X, torch.from_numpy(rng.randint(0, 4, n))


def trained(net, X, y, steps, lr, size):
    """Return weights after less weights before, by torch's own optimiser."""
    after = copy.deepcopy(net)
    optimizer = torch.optim.SGD(after.parameters(), lr=lr)
    for step in range(steps):
        start = step % (len(X) // size) * size
        optimizer.zero_grad()
        F.cross_entropy(
            after(X[start : start + size]), y[start : start + size]
        ).backward()
        optimizer.step()
    pairs = zip(after.parameters(), net.parameters(), strict=True)
    return [(a - b).detach() for a, b in pairs]


def state(net):
    return (
        {n: v.clone() for n, v in net.state_dict().items()},
        [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        [p.requires_grad for p in net.parameters()],
        [m.training for m in net.modules()],
        [len(m._forward_pre_hooks) for m in net.modules()],
    )


def same(a, b):
    return (
        all(torch.equal(a[0][n], b[0][n]) for n in b[0])
        and all(
            p is q is None or torch.equal(p, q) for p, q in zip(a[1], b[1], strict=True)
        )
        and a[2:] == b[2:]
    )


def test_gradient_is_that_of_backward():
    net, (X, y) = small_net(), batch(3)
    F.cross_entropy(net(X), y).backward()
    found = client_update(net, X, y)
    assert list(found) == [n for n, _ in net.named_parameters()]
    for name, p in net.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-12, atol=1e-14)
        assert not found[name].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_one_step_is_a_gradient(dtype):
    net, (X, y) = small_net(dtype), batch(2, dtype)
    gradient = client_update(net, X, y)
    weights = client_update(net, X, y, update="weights", local_lr=0.1)
    for name, value in weights.items():
        assert (value + 0.1 * gradient[name]).abs().max() <= 1e-7
        # no weight is subtracted from another, so nothing is lost in float32
        torch.testing.assert_close(value, -0.1 * gradient[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("steps", "size"), [(3, 4), (3, 2), (5, 1)])
def test_several_steps_are_sgd(steps, size):
    net, (X, y) = small_net(), batch(4)
    found = client_update(
        net, X, y, update="weights", local_steps=steps, local_lr=0.3, batch_size=size
    )
    for a, b in zip(found.values(), trained(net, X, y, steps, 0.3, size), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_derivative_through_three_steps():
    net, X = small_net(), batch(2)[0]
    options = {"update": "weights", "local_steps": 3, "local_lr": 0.5, "batch_size": 1}
    weights = {n: torch.randn_like(p) for n, p in net.named_parameters()}

    def value(X, soft):
        found = client_update(net, X, soft, create_graph=True, **options)
        return sum((found[n] * w).sum() for n, w in weights.items())

    X = X.requires_grad_()
    soft = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).double()
    soft.requires_grad_()
    found = torch.autograd.grad(value(X, soft), [X, soft])
    rng = np.random.RandomState(1)
    for k, variable in enumerate([X, soft]):
        direction = torch.from_numpy(rng.randn(*variable.shape))
        ends = []
        for sign in (1, -1):
            moved = [X.detach(), soft.detach()]
            moved[k] = moved[k] + sign * 1e-5 * direction
            ends.append(float(value(*moved).detach()))
        expected = (ends[0] - ends[1]) / 2e-5
        assert float((found[k] * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_network_is_left_alone():
    net, (X, y) = ResNet20((1, 8, 8), 4).double(), batch(4)
    net.train()
    net.bn1.eval()
    F.cross_entropy(net(X), y).backward()
    net.conv1.weight.requires_grad_(False)
    before = state(net)
    for mode in ("eval", "train"):
        found = client_update(net, X, y, batch_norm=mode)
        assert "conv1.weight" not in found
        client_update(net, X, y, update="weights", local_steps=2, batch_norm=mode)
        assert same(before, state(net))
    with pytest.raises(ValueError, match="takes no inputs"):
        client_update(net, X[:, 0], y, batch_norm="eval")
    assert same(before, state(net))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm_by_either_statistics(mode):
    net, (X, y) = ResNet20((1, 8, 8), 4).double(), batch(4)
    net(X)  # moves the running statistics off their start
    found = client_update(net, X, y, batch_norm=mode)
    net.train(mode == "train")
    F.cross_entropy(net(X), y).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-8, atol=1e-12)


def test_modes_that_hide_what_was_computed():
    X, y = batch(2)
    with pytest.raises(ValueError, match=r"batch_norm='train'.*module\.eval"):
        client_update(ResNet20((1, 8, 8), 4).double(), X, y)
    dropout = MLP((64,), 4, dropout=0.5).double()
    with pytest.raises(ValueError, match=r"dropout.*module\.eval"):
        client_update(dropout, X.flatten(1), y)
    client_update(dropout.eval(), X.flatten(1), y)


def test_labels_of_either_kind():
    net, (X, y) = small_net(), batch(3)
    one_hot = F.one_hot(y, 4).double()
    for a, b in zip(
        client_update(net, X, y.tolist()).values(),
        client_update(net, X.numpy(), one_hot.numpy()).values(),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 4], r"\[0, 3\].*values from 0 to 4"),
        ([-1, 0], r"values from -1"),
        ([0.5, 1.0], r"class indices"),
        ([0], "one entry a row, 2"),
        (np.ones((2, 3)) / 3, "rows of 4 probabilities"),
    ],
    ids=["large", "negative", "fraction", "few", "narrow"],
)
def test_wrong_labels(y, message):
    with pytest.raises(ValueError, match=message):
        client_update(small_net(), batch(2)[0], y)


def test_wrong_recipes():
    net, (X, y) = small_net(), batch(2)
    with pytest.raises(ValueError, match="update='weights'"):
        client_update(net, X, y, local_steps=2)
    with pytest.raises(ValueError, match="^batch_size"):
        client_update(net, X, y, batch_size=0)
    with pytest.raises(TypeError, match="criterion"):
        client_update(net, X, y, criterion="mse")
    with pytest.raises(ValueError, match="no trainable parameter"):
        client_update(nn.Linear(64, 4).requires_grad_(False), X.flatten(1), y)
    with pytest.raises(ValueError, match="one row of scores"):
        client_update(nn.Conv2d(1, 1, 1).double(), X, y)


def test_own_criterion():
    net, X = nn.Linear(3, 1).double(), torch.rand(4, 3).double()
    y = torch.rand(4, 1).double()
    found = client_update(net, X, y, criterion=F.mse_loss)
    expected = 2 * ((net(X) - y) * X).mean(0, keepdim=True)
    torch.testing.assert_close(found["weight"], expected.detach())
