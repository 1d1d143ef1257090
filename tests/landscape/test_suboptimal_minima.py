import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from skpoison.landscape import (
    check_local_minimum,
    construct_suboptimal_minimum,
    linear_minimum,
)
from skpoison.models import (
    MLP,
    ConvNet,
    LinearModel,
    Normalized,
    ResNet18,
    ResNet20,
    TorchClassifier,
)


def table(n_features=8, n_rows=600, n_classes=5):
    """Return digits whitened to a few features; classes overlap."""
    X, y = load_digits(return_X_y=True)
    X = PCA(n_features, whiten=True, random_state=0).fit_transform(X)
    return X[:n_rows], (y % n_classes)[:n_rows]


def images(n_rows=300):
    """Return digits of 4 by 4 pixels, whitened but still images, in five classes."""
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(X), -1)
    pca = PCA(whiten=True, random_state=0).fit(X)
    X = pca.transform(X) @ pca.components_
    return X.reshape(-1, 1, 4, 4)[:n_rows], (y % 5)[:n_rows]


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


def conv_net(stride=1, kernel=3, dilation=1, first=2, second=8, unit=nn.ReLU):
    padding = dilation * (kernel - 1) // 2
    side = (4 - 1) // stride + 1
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, first, 3, padding="same"), unit()),
        nn.Conv2d(first, second, kernel, stride, padding, dilation),
        unit(),
        nn.Flatten(),
        nn.Linear(second * side**2, 5),
    )


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


def conv(width):
    return ConvNet((1, 4, 4), 5, channels=(width, 2 * width), hidden=3 * width)


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


# -------------------------------------------------------------------------- bad input


class Functional(nn.Module):
    def __init__(self, skip=False):
        super().__init__()
        self.first, self.middle = nn.Linear(8, 12), nn.Linear(12, 12)
        self.last, self.skip = nn.Linear(12, 5), skip

    def forward(self, X):
        X = self.first(X) if self.skip else F.relu(self.first(X))
        return self.last(self.middle(X) + self.skip * X)


def chain(*parts, n_in=8):
    return nn.Sequential(nn.Linear(n_in, 12), *parts, nn.Linear(12, 5))


@pytest.mark.parametrize(
    "net, message",
    [
        (Functional(), "layer 'middle' does not take what layer 'first' gives"),
        (Functional(skip=True), "layer 'last' does not take what layer 'middle'"),
        (chain(nn.Tanh()), "layer '1' is Tanh, which can't carry an affine map"),
        (chain(nn.ReLU(), nn.LayerNorm(12)), "'2' is LayerNorm"),
        (
            chain(nn.BatchNorm1d(12, affine=False)),
            "'1' must be BatchNorm1d with weights",
        ),
        (nn.Sequential(chain(), nn.ReLU()), "must end with torch.nn.Linear"),
        (chain(*[nn.Linear(12, 12)] * 2), "each of its weights once"),
        (Normalized((8,), 5), "layers.0' does not take what the input gives"),
    ],
    ids=["function", "skip", "tanh", "norm", "no weights", "end", "twice", "prefix"],
)
def test_networks_that_are_no_chain(net, message):
    X, y = table()
    with pytest.raises(TypeError, match=message):
        construct_suboptimal_minimum(net, X, y)


@pytest.mark.parametrize(
    "net, error, message",
    [
        (conv(2), TypeError, r"features.2' is MaxPool2d: .*worse='constant'"),
        (conv_net(stride=2, second=3), ValueError, "3 channels, but carrying.*takes 4"),
        (
            conv_net(stride=2, kernel=1, second=9), ValueError,
            "layer '1' skips pixels of the image: 12 of 16 features",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 1, 3, bias=False, padding=1), nn.ReLU(),
                          nn.Flatten(), nn.Linear(16, 5)),
            ValueError, "units of layer '1' can't be made active: the layer in front",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2),
                          nn.Flatten(), nn.Linear(32, 5)),
            TypeError, "'1' must have groups=1, got 2",
        ),
    ],
    ids=["pooling", "channels", "stride", "bias", "groups"],
)  # fmt: skip
def test_convolutions_that_cannot_carry(net, error, message):
    X, y = images()
    with pytest.raises(error, match=message):
        construct_suboptimal_minimum(net, X, y)


def test_a_branch_that_is_zero_at_the_start_is_seen():
    """At the given weights the block is the identity, and everything looks like one."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(12, 12)
            nn.init.zeros_(self.inner.weight)
            nn.init.zeros_(self.inner.bias)

        def forward(self, X):
            return X + self.inner(X)

    X, y = table()
    with pytest.raises(TypeError, match="'2' does not take what layer '1.inner' gives"):
        construct_suboptimal_minimum(chain(Block()), X, y)


@pytest.mark.parametrize(
    "net",
    [
        chain(nn.LeakyReLU()),
        chain(nn.Sigmoid()),
        chain(),
        Functional(skip=True),
        nn.Sequential(nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 5)),
        nn.Sequential(
            *[p for _ in range(4) for p in (nn.Linear(8, 8, bias=False), nn.ReLU())],
            nn.Linear(8, 5),
        ),
    ],
    ids=["leaky", "sigmoid", "linear", "skip", "no bias", "deep without bias"],
)
def test_units_that_do_not_stay_off(net):
    X, y = table()
    with pytest.raises(TypeError, match="does not stay constant near"):
        construct_suboptimal_minimum(net, X, y, worse="constant")


@pytest.mark.parametrize("unit", [nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Identity])
def test_further_units_that_do_not_stay_off(unit):
    def net(width, bias=True):
        return nn.Sequential(
            nn.Linear(8, width, bias=bias), unit(), nn.Linear(width, 3)
        )

    X, _ = table()
    with pytest.raises(TypeError, match="does more than the narrower network"):
        construct_suboptimal_minimum(net(8), X, worse=net(4))


def test_further_units_without_a_bias():
    def net(width):
        return nn.Sequential(
            nn.Linear(8, width, bias=False), nn.ReLU(), nn.Linear(width, 3)
        )

    X, _ = table()
    with pytest.raises(TypeError, match="with biases in front of them"):
        construct_suboptimal_minimum(net(8), X, worse=net(4))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"y": None}, ValueError, "worse='linear' needs y"),
        ({"worse": "affine"}, ValueError, "worse must be one of 'linear', 'constant'"),
        ({"worse": 3}, TypeError, "worse must be 'linear', 'constant', a pair"),
        ({"worse": (np.eye(10), np.ones(10))}, ValueError, r"coef of shape \(5, 8\)"),
        (
            {"worse": (np.ones((5, 8)), [np.nan] * 5)}, ValueError,
            "intercept that is NaN",
        ),
        ({"worse": MLP((8,), 5, hidden=(3, 3))}, ValueError, "the same layers"),
        ({"worse": MLP((8,), 5, hidden=(65,))}, ValueError, r"shape \(65, 8\) where"),
        ({"worse": MLP((8,), 4, hidden=(3,))}, ValueError, "network's 5 outputs"),
        ({"worse": MLP((7,), 10, hidden=(3,))}, ValueError, r"rows of shape \(8,\)"),
        ({"mode": "qr"}, ValueError, "mode must be one of"),
        ({"margin": 0}, ValueError, "margin must be > 0"),
        ({"margin": 1e9}, ValueError, "whiten X or take a smaller margin"),
        ({"module": MLP((7,), 5)}, ValueError, r"can't take rows of X, shape \(8,\)"),
        ({"criterion": nn.L1Loss}, ValueError, "criterion must be 'auto'"),
        ({"module": MLP((8,), 5, hidden=(3,))}, ValueError, "width 3, but.*takes 4"),
        ({"module": nn.ReLU()}, ValueError, "module has no parameters"),
        ({"module": nn.Conv1d(1, 1, 1)}, ValueError, r"shape \(n_samples, n_outputs\)"),
        ({"module": MLP((8,), 4)}, ValueError, "each of the network's 4 outputs"),
        ({"module": MLP((8,), 6)}, ValueError, "no row of class 5"),
        ({"module": MLP((8,), 6), "worse": "constant"}, ValueError, "no row of class"),
        ({"y": np.zeros((3, 3))}, ValueError, "y must have one entry a row"),
        ({"X": np.full((600, 8), np.nan)}, ValueError, "X holds NaN"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    X, y = table()
    given = {"module": MLP((8,), 5), "X": X, "y": y}
    if isinstance(change.get("module"), nn.Conv1d):
        given["X"] = X[:, None]
    with pytest.raises(error, match=message):
        construct_suboptimal_minimum(**{**given, **change})


@pytest.mark.parametrize("worse", ["linear", "constant", "narrower"])
def test_weights_that_are_computed_are_refused(worse):
    X, y = table()
    net = chain(nn.ReLU())
    weight_norm(net[0])
    worse = chain(nn.ReLU()) if worse == "narrower" else worse
    with pytest.raises(TypeError, match="module must have plain.*layer '0'"):
        construct_suboptimal_minimum(net, X, y, worse=worse)
    if isinstance(worse, nn.Module):
        with pytest.raises(TypeError, match="worse must have plain.*layer '0'"):
            construct_suboptimal_minimum(worse, X, worse=net)


def test_one_target_is_no_decision_value():
    X, y = table()
    with pytest.raises(ValueError, match=r"coef of shape \(2, 8\).*got \(1, 8\)"):
        construct_suboptimal_minimum(
            MLP((8,), 2), X, worse=LinearRegression().fit(X, y)
        )


def test_models_of_other_classes():
    X, y = table(n_classes=3)
    clf = TorchClassifier(MLP, max_epochs=0, device="cpu")
    clf.fit(X, np.array(list("abc"))[y])
    linear = LogisticRegression()
    construct_suboptimal_minimum(clf, X, worse=linear.fit(X, np.array(list("abc"))[y]))
    linear.fit(X, np.array(list("qbz"))[y])
    message = r"classes of module, \['a', 'b', 'c'\], got \['b', 'q', 'z'\]"
    with pytest.raises(ValueError, match=message):
        construct_suboptimal_minimum(clf, X, worse=linear)
    pairs = SVC(kernel="linear").fit(X, y)
    assert pairs.coef_.shape == (3, 8)  # as of three classes, but of three pairs
    with pytest.raises(ValueError, match="SVC has one for each pair of classes"):
        construct_suboptimal_minimum(MLP((8,), 3), X, worse=pairs)


def test_separable_data_have_no_linear_minimum():
    X, y = load_digits(return_X_y=True)
    with pytest.raises(ValueError, match="linearly separable.*PCA"):
        construct_suboptimal_minimum(MLP((64,), 10), X[:200], y[:200])


def test_random_streams_are_left_alone():
    X, y = table()
    net, small = MLP((8,), 5), MLP((8,), 5, hidden=(9,))
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    construct_suboptimal_minimum(net, X, y)
    construct_suboptimal_minimum(net, X, y, worse="constant")
    construct_suboptimal_minimum(net, X, worse=small)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
