import copy

import numpy as np
import pytest
import torch
from landscape._minima import conv, conv_net, images, table
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from skpoison.landscape import (
    check_local_minimum,
    construct_suboptimal_minimum,
    linear_minimum,
)
from skpoison.models import (
    MLP,
    LinearModel,
    ResNet18,
    ResNet20,
    TorchClassifier,
)


def loss_of(network, X, y):
    with torch.no_grad():
        out = network(torch.as_tensor(X, dtype=torch.float64))
    return F.cross_entropy(out, torch.as_tensor(y)).item()


def derivatives(network, X, y, loss=F.cross_entropy):
    """Return loss, gradient and a function of moves of all parameters."""
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    names = {name: p.detach() for name, p in network.named_parameters()}

    def moved(move):
        parts = move.split([p.numel() for p in names.values()])
        near = {
            name: p + part.reshape(p.shape)
            for (name, p), part in zip(names.items(), parts, strict=True)
        }
        return loss(functional_call(network, near, (X,)), y)

    zero = torch.zeros(sum(p.numel() for p in names.values()), dtype=torch.float64)
    start = zero.clone().requires_grad_()
    value = moved(start)
    return value.item(), torch.autograd.grad(value, start)[0], moved


def check_is_minimum(network, X, y, radii=(1e-3, 1e-2, 1e-1), loss=F.cross_entropy):
    """Check that the gradient vanishes, and that no point nearby is lower."""
    value, gradient, moved = derivatives(network, X, y, loss)
    assert gradient.norm() < 1e-5
    with torch.no_grad():
        for radius in radii:
            moves = torch.randn(20, len(gradient), dtype=torch.float64)
            moves *= radius / moves.norm(dim=1, keepdim=True)
            assert min(moved(move).item() for move in moves) >= value - 1e-12


def trained(network, X, y, n_steps=150, lr=0.02, loss=F.cross_entropy):
    """Return a copy trained from a fresh start, in float64."""
    torch.manual_seed(1)
    network = copy.deepcopy(network).double().train()
    for part in network.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss(network(X), y).backward()
        optimizer.step()
    return network.eval()


def active(network, X):
    """Return the smallest input of any unit."""
    lowest = []
    for part in network.modules():
        if isinstance(part, nn.ReLU | nn.LeakyReLU | nn.ELU):
            part.register_forward_pre_hook(
                lambda part, args: lowest.append(args[0].min().item())
            )
    with torch.no_grad():
        network(torch.as_tensor(X))
    return min(lowest)


# ---------------------------------------------------------------- the linear minimum


@pytest.mark.parametrize("mode", ["svd", "identity"])
@pytest.mark.parametrize("hidden", [(8,), (16, 8), (12, 20, 12), (10, 10, 10, 10)])
def test_mlp_at_the_linear_minimum(hidden, mode):
    X, y = table()
    given = MLP((8,), 5, hidden=hidden, dropout=0.3)
    before = copy.deepcopy(given.state_dict())
    network = construct_suboptimal_minimum(given, X, y, mode=mode)
    assert loss_of(network, X, y) == pytest.approx(linear_minimum(X, y).loss, rel=1e-10)
    check_is_minimum(network, X, y)
    assert active(network, X) >= 1 - 1e-9
    assert not network.training and given.training
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    for name, value in given.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == torch.float32


def test_the_same_network_can_do_much_better():
    X, y = table(n_rows=300)
    network = construct_suboptimal_minimum(MLP((8,), 5, hidden=(16, 16)), X, y)
    assert loss_of(trained(network, X, y, 60), X, y) < 0.3 * loss_of(network, X, y)


def test_no_curvature_is_negative():
    """The whole Hessian, of a network with 149 parameters."""
    X, y = table(4, 300, 3)
    network = construct_suboptimal_minimum(MLP((4,), 3, hidden=(9, 6, 5)), X, y)
    _, gradient, moved = derivatives(network, X, y)
    hessian = torch.autograd.functional.hessian(moved, torch.zeros_like(gradient))
    values = torch.linalg.eigvalsh(hessian)
    assert values[0] > -1e-10 * values[-1] and values[-1] > 1
    fresh = MLP((4,), 3, hidden=(9, 6, 5)).double()
    _, gradient, moved = derivatives(fresh, X, y)
    hessian = torch.autograd.functional.hessian(moved, torch.zeros_like(gradient))
    values = torch.linalg.eigvalsh(hessian)
    assert values[0] < -1e-3 * values[-1]


def test_gradient_descent_stays_with_small_steps_only():
    X, y = table(4, 300, 3)
    network = construct_suboptimal_minimum(MLP((4,), 3, hidden=(9, 6)), X, y)
    value, gradient, moved = derivatives(network, X, y)
    zero = torch.zeros_like(gradient)
    top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(moved, zero))[-1]
    kick = 1e-3 * torch.randn(len(zero), dtype=torch.float64)
    ends = {}
    for factor, n_steps in ((1.5, 200), (2.5, 60)):
        place = kick.clone().requires_grad_()
        for _ in range(n_steps):
            slope = torch.autograd.grad(moved(place), place)[0]
            place = (place - factor / top * slope).detach().requires_grad_()
        ends[factor] = moved(place).item()
    start = moved(kick).item() - value
    assert 0 <= ends[1.5] - value < 0.01 * start
    assert ends[2.5] - value > 10 * start


def test_check_local_minimum_agrees():
    X, y = table(4, 300, 3)
    given = MLP((4,), 3, hidden=(9,))
    network = construct_suboptimal_minimum(given, X, y)
    assert check_local_minimum(network, X, y, random_state=0).is_minimum
    assert not check_local_minimum(given, X, y, random_state=0).is_minimum


@pytest.mark.parametrize(
    "options",
    [
        {"second": 2},
        {"stride": 2, "second": 4},
        {"stride": 2, "second": 6, "unit": nn.ELU},
        {"kernel": 5, "second": 2, "unit": nn.LeakyReLU},
        {"dilation": 2, "second": 1},
    ],
    ids=str,
)
def test_convolutions_carry_the_image(options):
    X, y = images()
    network = construct_suboptimal_minimum(conv_net(**options), X, y)
    found = linear_minimum(X, y)
    assert loss_of(network, X, y) == pytest.approx(found.loss, rel=1e-10)
    check_is_minimum(network, X, y)
    assert active(network, X) >= 1 - 1e-9
    out = network(torch.from_numpy(X)).detach().numpy()
    expected = X.reshape(len(X), -1) @ found.coef.T + found.intercept
    np.testing.assert_allclose(out, expected, atol=1e-9)


def test_convolutions_before_hidden_layers_and_without_padding():
    """Two kernels of 2 without padding read a corner each; channels make up for it."""
    X, y = images()
    net = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 9, 2, bias=False), nn.BatchNorm2d(9), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    net(torch.randn(64, 1, 4, 4))  # statistics other than 0 and 1
    network = construct_suboptimal_minimum(net, X, y)
    assert loss_of(network, X, y) == pytest.approx(linear_minimum(X, y).loss, rel=1e-10)
    check_is_minimum(network, X, y)
    assert torch.equal(network[1].running_mean.float(), net[1].running_mean)


def test_three_channels_in_order():
    X, y = images()
    X = np.concatenate([X, 0.5 * X[:, :, ::-1] ** 2, abs(X)], axis=1)[:, :, :2, :3]
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(30, 9),
        nn.ReLU(), nn.Linear(9, 5),
    )  # fmt: skip
    for mode, error in (("svd", None), ("identity", "width 9.*takes 18 units")):
        if error:
            with pytest.raises(ValueError, match=error):
                construct_suboptimal_minimum(net, X, y, mode=mode)
            continue
        network = construct_suboptimal_minimum(net, X, y, mode=mode)
        assert loss_of(network, X, y) == pytest.approx(linear_minimum(X, y).loss)
        check_is_minimum(network, X, y)


def test_least_squares():
    X, y = load_diabetes(return_X_y=True)
    X, y = 20 * X, y / 100
    network = construct_suboptimal_minimum(MLP((10,), 1, hidden=(3, 2)), X, y)
    out = network(torch.from_numpy(X)).detach().numpy()[:, 0]
    assert ((out - y) ** 2).mean() == pytest.approx(linear_minimum(X, y).loss)
    check_is_minimum(network, X, y[:, None], loss=F.mse_loss)


def test_pairs_and_fitted_models():
    X, y = table()
    found = linear_minimum(X, y)
    expected = construct_suboptimal_minimum(MLP((8,), 5), X, y).state_dict()
    network = construct_suboptimal_minimum(
        MLP((8,), 5), X, worse=(found.coef, found.intercept)
    )
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    two = (y > 2).astype(int)
    peer = LogisticRegression().fit(X, two)
    network = construct_suboptimal_minimum(MLP((8,), 2), X, worse=peer)
    out = network(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(out[:, 1], peer.decision_function(X), atol=1e-9)
    np.testing.assert_allclose(out[:, 0], 0, atol=1e-9)


def test_a_linear_model_that_reads_nothing():
    X, y = table(3, 200, 3)
    network = construct_suboptimal_minimum(
        MLP((3,), 10, hidden=(2, 2)), X, worse=(np.zeros((10, 3)), np.arange(10))
    )
    assert (network(torch.from_numpy(X)) == torch.arange(10)).all()
    linear = construct_suboptimal_minimum(LinearModel((3,), 3), X, y)
    assert loss_of(linear, X, y) == pytest.approx(linear_minimum(X, y).loss)


def test_fitted_classifier_with_names_of_classes():
    X, y = table()
    names = np.array([f"class {d}" for d in "43210"])[y]
    clf = TorchClassifier(max_epochs=1, device="cpu", random_state=0).fit(X, names)
    network = construct_suboptimal_minimum(clf, X, names)
    expected = linear_minimum(X, names).loss
    assert loss_of(network, X, 4 - y) == pytest.approx(expected, rel=1e-10)
    again = TorchClassifier(network.float(), max_epochs=0, device="cpu").fit(X, names)
    p = again.predict_proba(X)[np.arange(len(X)), 4 - y]
    assert -np.log(p).mean() == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------- the minimum of a smaller network


def test_narrower_mlp():
    """One unit: a constant on the left, a line on the right, the kink where no row is.

    More units fit the step on the far left too.
    """
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    x = x[((x > 1) | (x < -0.5))][:, None]
    y = torch.where(x < -2, 1.0, x.clamp(min=0)) + 0.1 * torch.sin(7 * x)
    small = MLP((1,), 1, hidden=(1,)).double()
    for p, value in zip(small.parameters(), (1, -0.5, 1, 0.5), strict=True):
        p.data.fill_(value)
    optimizer = torch.optim.LBFGS(
        small.parameters(), max_iter=100, tolerance_grad=1e-12, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(small(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    X, y = x.numpy(), y.numpy()
    network = construct_suboptimal_minimum(MLP((1,), 1, hidden=(9,)), X, worse=small)
    check_is_minimum(network, X, y, radii=(1e-3, 1e-2), loss=F.mse_loss)
    report = check_local_minimum(network, X, y, random_state=0)
    assert report.is_minimum
    assert report.loss == pytest.approx(
        F.mse_loss(small(x), torch.from_numpy(y)).item(), rel=1e-12
    )
    best = trained(network, X, y, 300, loss=F.mse_loss)
    assert F.mse_loss(best(x), torch.from_numpy(y)) < 0.5 * report.loss


@pytest.mark.parametrize(
    "make",
    [conv, lambda width: ResNet18((1, 4, 4), 5, width=width)],
    ids=["max pooling", "skip connections"],
)
def test_near_there_a_wider_network_is_the_narrower_one(make):
    X, _ = images(40)
    torch.manual_seed(0)
    small, wide = make(2), make(3)
    small.train()(torch.randn(20, 1, 4, 4))  # statistics of batches
    network = construct_suboptimal_minimum(wide, X, worse=small)
    small = small.double().eval()
    rows = torch.from_numpy(X)
    torch.testing.assert_close(network(rows), small(rows))
    for p, q in zip(network.parameters(), small.parameters(), strict=True):
        p.data += 1e-4 * torch.randn_like(p)
        q.data.copy_(p[tuple(slice(0, n) for n in q.shape)])
    torch.testing.assert_close(network(rows), small(rows), rtol=1e-12, atol=1e-12)


def test_a_fitted_classifier_may_be_the_smaller_one():
    X, y = images()
    X = X.astype(np.float32)
    small = TorchClassifier(conv(2), max_epochs=1, device="cpu", random_state=0)
    small.fit(X, y)
    network = construct_suboptimal_minimum(conv(4), X, worse=small)
    out = torch.softmax(network(torch.from_numpy(X).double()), 1)
    np.testing.assert_allclose(out.detach(), small.predict_proba(X), atol=1e-5)


# ----------------------------------------------------------------- the best constant


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP((16,), 5, hidden=(6, 7)),
        lambda: conv(2),
        lambda: ResNet18((1, 4, 4), 5, width=2),
        lambda: ResNet20((1, 4, 4), 5, width=2),
    ],
    ids=["mlp", "max pooling", "projections", "padding"],
)
def test_constant(make):
    X, y = images(20)
    y = np.where(np.arange(20) % 4, y, 2)  # classes of different sizes
    net = make()
    X = X if not isinstance(net, MLP) else X.reshape(len(X), -1)
    network = construct_suboptimal_minimum(net, X, y, worse="constant")
    shares = np.bincount(y) / len(y)
    assert loss_of(network, X, y) == pytest.approx(-(shares @ np.log(shares)))
    check_is_minimum(network, X, y, radii=(1e-3,))
    out = network(torch.from_numpy(X))
    torch.testing.assert_close(out, out[:1].expand_as(out), rtol=0, atol=0)


def test_constant_number():
    X, y = load_diabetes(return_X_y=True)
    network = construct_suboptimal_minimum(MLP((10,), 1), X, y, worse="constant")
    np.testing.assert_allclose(network(torch.from_numpy(X)).detach(), y.mean())
