import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from skpoison.landscape import _hessian, check_local_minimum, hessian_eigenvalues
from skpoison.landscape._check import lowest_in_ball
from skpoison.landscape._objective import TrainingLoss
from skpoison.models import LinearModel


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), y


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:120], y[:120]
    return X[:, :5] / X[:, :5].std(0), (y - y.mean()) / y.std()


def curvature(loss):
    rows = torch.eye(len(loss.start), dtype=torch.float64)
    return torch.stack([loss.product(row) for row in rows])


def minimised(net, X, y, n_steps, **params):
    """Return a network after Newton steps with a damped, absolute Hessian."""
    net = copy.deepcopy(net).double()
    for _ in range(n_steps):
        loss = TrainingLoss(net, X, y, **params)
        at, gradient = loss.value_and_gradient(loss.start)
        values, vectors = torch.linalg.eigh(curvature(loss))
        damping = 0.1 * gradient.norm()
        step = vectors @ (vectors.T @ gradient / (values.abs() + damping + 1e-12))
        share = 1.0
        while loss.value(loss.start - share * step) > at and share > 1e-9:
            share /= 2
        nn.utils.vector_to_parameters(loss.start - share * step, net.parameters())
    return net


def tanh_net(n_in, n_hidden, n_out):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(n_in, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n_out)
    )
    return net.double()


def zero_net(depth, unit, y):
    """All weights zero, and the last bias the best one."""
    widths = [4] + [5] * depth
    layers = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), unit()]
    net = nn.Sequential(*layers, nn.Linear(5, 3)).double()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    net[-1].bias.data = torch.log(torch.tensor(np.bincount(y) / len(y)))
    return net


def linear_in_relu(X, y, width=7, depth=2):
    """A ReLU network that computes the least-squares fit, every unit switched on."""
    n = X.shape[1]
    *coef, intercept = np.linalg.lstsq(
        np.column_stack([X, np.ones(len(X))]), y, rcond=None
    )[0]
    shift = 1 - X.min()
    layers = []
    for i in range(depth):
        layer = nn.Linear(n if i == 0 else width, width).double()
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
        layer.weight.data[:n, :n] = torch.eye(n)
        layer.bias.data[n:] = 1.0
        layers += [layer, nn.ReLU()]
    layers[0].bias.data[:n] = shift
    last = nn.Linear(width, 1).double()
    nn.init.zeros_(last.weight)
    last.weight.data[0, :n] = torch.tensor(coef)
    last.bias.data[0] = intercept - shift * sum(coef)
    return nn.Sequential(*layers, last)


def test_a_strictly_convex_minimum(iris):
    net = minimised(LinearModel((4,), 3), *iris, 12, weight_decay=0.01)
    report = check_local_minimum(net, *iris, weight_decay=0.01, random_state=0)
    assert report.is_minimum and report.reasons == []
    assert report.lambda_min == pytest.approx(0.01, rel=1e-9)  # adding to all logits
    assert report.margin == np.inf and report.converged
    assert report.grad_norm < 1e-12
    assert (report.random_rise > 0).all() and (report.eigen_rise > 0).all()
    np.testing.assert_allclose(report.worst_rise, 0, atol=1e-14)
    assert "local minimum: yes" in report.summary
    # the loss without its penalty is another one
    report = check_local_minimum(net, *iris, random_state=0)
    assert not report.is_minimum and not report.is_stationary
    assert report.is_semidefinite and len(report.reasons) == 1
    assert "the gradient's length is" in report.summary


def test_a_fitted_logistic_regression():
    X, y = load_iris(return_X_y=True)
    X, y = X[y > 0], np.array(["a", "b"])[y[y > 0] - 1]
    clf = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X, y)
    report = check_local_minimum(clf, X, y, gradient_tol=1e-4, random_state=0)
    assert report.is_minimum
    clf.coef_ = clf.coef_ + 0.1
    assert not check_local_minimum(clf, X, y, gradient_tol=1e-4).is_minimum


@pytest.mark.slow
def test_a_trained_minimum_of_a_smooth_network(iris):
    start = tanh_net(4, 3, 3)
    net = minimised(start, *iris, 16, weight_decay=0.02)
    report = check_local_minimum(net, *iris, weight_decay=0.02, random_state=0)
    assert report.is_minimum and 0 < report.lambda_min < report.lambda_max
    early = minimised(start, *iris, 3, weight_decay=0.02)
    report = check_local_minimum(
        early, *iris, weight_decay=0.02, n_search_steps=5, random_state=0
    )
    assert not report.is_stationary and not report.is_minimum
    assert (report.worst_rise < 0).all()


def test_a_constructed_minimum_is_flat_and_passes(diabetes):
    net = linear_in_relu(*diabetes)
    report = check_local_minimum(net, *diabetes, random_state=0)
    assert report.is_minimum, report.summary
    assert report.margin == pytest.approx(1.0)
    assert abs(report.lambda_min) < 1e-6 * report.lambda_max
    assert report.lower_bound >= -1e-6 * report.lambda_max
    assert report.n_products < 150
    in_parts = check_local_minimum(
        net, *diabetes, random_state=0, batch_size=70, n_search_steps=2
    )
    assert in_parts.is_minimum and in_parts.n_products == report.n_products
    np.testing.assert_allclose(
        in_parts.random_rise, report.random_rise, rtol=1e-6, atol=1e-14
    )
    # the same function, but a spare unit stands on its kink
    with torch.no_grad():
        net[0].bias[5] = 0
    report = check_local_minimum(net, *diabetes, n_search_steps=5, random_state=0)
    assert report.is_stationary and not report.is_smooth and not report.is_minimum
    assert "kink" in report.reasons[0]


def test_a_maximum_fails(diabetes):
    class Negated(nn.MSELoss):
        def forward(self, out, y):
            return -super().forward(out, y)

    X, y = diabetes
    net = minimised(LinearModel((5,), 1), X, y, 3)
    assert check_local_minimum(net, X, y).is_minimum
    report = check_local_minimum(net, X, y, criterion=Negated)
    assert report.is_stationary and not report.is_semidefinite
    assert report.lambda_max < 0 and not report.is_minimum


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_zero_weights_of_relu_are_no_minimum(iris, depth):
    X, y = iris
    net = zero_net(depth, nn.ReLU, y)
    report = check_local_minimum(net, X, y, radii=(0.01, 0.1), random_state=0)
    assert report.is_stationary and report.is_semidefinite
    assert report.margin == 0 and not report.is_smooth and not report.is_minimum
    assert not report.is_lowest  # beyond the kink the loss is lower indeed


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_zero_weights_of_tanh_are_saddles_of_growing_order(iris, depth):
    X, y = iris
    net = zero_net(depth, nn.Tanh, y)
    report = check_local_minimum(net, X, y, radii=(0.01, 0.1), random_state=0)
    assert report.is_stationary and report.is_smooth and not report.is_minimum
    # one hidden layer: the Hessian tells; more: only the search does
    assert report.is_semidefinite == (depth > 1)
    assert report.is_lowest == (depth == 1)
    drops = -report.worst_rise
    assert drops[1] == pytest.approx(10 ** (depth + 1) * drops[0], rel=0.05)


@pytest.mark.slow
def test_a_unit_split_in_two():
    X = np.linspace(-2, 2, 20)[:, None]
    y = np.sin(1.5 * X[:, 0])
    narrow = minimised(tanh_net(1, 1, 1), X, y, 12)
    before = check_local_minimum(narrow, X, y, random_state=0)
    assert before.is_minimum and before.lambda_min > 1e-3
    for share in (-1.0, 0.5, 2.0):
        wide = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)).double()
        with torch.no_grad():
            wide[0].weight.copy_(narrow[0].weight[[0, 0]])
            wide[0].bias.copy_(narrow[0].bias[[0, 0]])
            split = torch.tensor([share, 1 - share])
            wide[2].weight.copy_(narrow[2].weight[:, [0, 0]] * split)
            wide[2].bias.copy_(narrow[2].bias)
        report = check_local_minimum(wide, X, y, n_search_steps=5, random_state=0)
        values = torch.linalg.eigvalsh(curvature(TrainingLoss(wide, X, y)))
        assert report.loss == pytest.approx(before.loss, rel=1e-12)
        assert report.lambda_min == pytest.approx(float(values[0]), rel=1e-9)
        assert report.is_stationary and not report.is_semidefinite
        assert report.eigen_rise[1].max() < 0 and not report.is_minimum


def test_too_few_products_decide_nothing(diabetes):
    X, y = diabetes
    net = linear_in_relu(X, y)
    few = {"max_products": 6, "n_search_steps": 0, "random_state": 0}
    report = check_local_minimum(net, X, y, **few)
    assert report.n_products == 6 and not report.is_semidefinite
    assert not report.is_minimum and "raise max_products" in report.reasons[0]
    # a negative eigenvalue is one after any number of them
    with torch.no_grad():
        net[4].weight[0, 0] += 1
    report = check_local_minimum(net, X, y, **few)
    assert "has an eigenvalue of at most -" in report.summary


def test_products_beyond_the_basis_are_not_advised(diabetes, monkeypatch):
    monkeypatch.setattr(_hessian, "_BASIS_VECTORS", 0)
    report = check_local_minimum(
        linear_in_relu(*diabetes), *diabetes, max_products=12, n_search_steps=0
    )
    assert not report.is_minimum and report.n_products == 12
    assert report.reasons[0].endswith("those after the first 4 can't tell")


class Function(nn.Module):
    """A loss that is any function of a vector, and of parameters that do nothing."""

    def __init__(self, function, start, n_idle=0):
        super().__init__()
        self.function = function
        self.at = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.idle = nn.Parameter(torch.zeros(n_idle))

    def forward(self, X):
        return self.function(self.at, X).expand(len(X), 1) + 0 * self.idle.sum()


class Mean(nn.Module):
    def forward(self, out, y):
        return out.mean()


def report_of(function, *start, n_idle=0):
    net = Function(function, start, n_idle)
    X = np.zeros((2, 1))
    return check_local_minimum(
        net, X, X, criterion=Mean, n_directions=5, n_search_steps=20, random_state=0
    )


@pytest.mark.parametrize("n_idle", [0, 100])  # eigenvalues of the whole, by products
def test_degenerate_points(n_idle):
    for function in (
        lambda t, X: t[0] ** 4 + 0 * t[1],
        lambda t, X: 1e10 * t @ t,
        lambda t, X: ((t[0] - 1) * t[1]) ** 2,
        lambda t, X: t[0] ** 2 + X.relu().sum() + X.clamp(0, 1).sum(),  # X is zero
    ):
        assert report_of(function, 0.0, 0.0, n_idle=n_idle).is_minimum
    for function in (
        lambda t, X: t[0] ** 2 - t[1] ** 4,
        lambda t, X: t[0] ** 5,
        lambda t, X: t[0] ** 3 - 3 * t[0] * t[1] ** 2,
        # a minimum along every line
        lambda t, X: (t[1] - t[0] ** 2) * (t[1] - 3 * t[0] ** 2),
    ):
        report = report_of(function, 0.0, 0.0, n_idle=n_idle)
        assert report.is_stationary and report.is_semidefinite
        assert not report.is_lowest and not report.is_minimum


@pytest.mark.parametrize(
    ("function", "start"),
    [
        (lambda t, X: 1e10 + (t - 1) ** 2, 0.0),
        (lambda t, X: 1e-10 * (t - 1) ** 2, 0.0),
        (lambda t, X: 1e-6 * t, 0.0),
        (lambda t, X: torch.exp(-t), 15.0),
    ],
    ids=["large loss", "small gradient", "line", "no minimum"],
)
def test_a_gradient_is_compared_with_the_curvature(function, start):
    report = report_of(function, start)
    assert not report.is_stationary and not report.is_minimum
    assert "the gradient's length is" in report.reasons[0]


@pytest.mark.parametrize(
    ("unit", "at"),
    [
        (F.selu, 0.0),
        (F.celu, 0.0),
        (torch.abs, 0.0),
        (nn.PReLU().double(), 0.0),
        (nn.RReLU(), 0.0),
        (F.relu6, 6.0),
        (F.hardtanh, -1.0),
        (F.hardswish, 3.0),
        (lambda t: F.threshold(t, 0.5, 0.5), 0.5),
        (lambda t: t.clamp(max=2.0), 2.0),
        (lambda t: t.clamp(torch.zeros(1), torch.ones(1)), 1.0),
        (lambda t: torch.clamp_min(t, -1.0), -1.0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_units_on_their_kinks(unit, at):
    for move, is_smooth in ((0.0, False), (0.25, True)):
        report = report_of(lambda t, X: unit(t), at + move)
        assert report.is_smooth == is_smooth
        assert report.margin == pytest.approx(move)


def test_figures_of_a_report(iris):
    X, y = iris
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3)).double()
    report = check_local_minimum(
        net, X, y, radii=[0.1, 1e-3], n_directions=4, random_state=0
    )
    loss = TrainingLoss(net, X, y)
    at, gradient = loss.value_and_gradient(loss.start)
    assert (report.loss, report.grad_norm) == (at, float(gradient.norm()))
    spectrum = hessian_eigenvalues(net, X, y, random_state=0)
    assert report.lambda_min == pytest.approx(spectrum.smallest[0], rel=1e-6)
    assert report.lambda_max == pytest.approx(spectrum.largest[0], rel=1e-6)
    assert report.radii.tolist() == [1e-3, 0.1]
    lowest = torch.tensor(spectrum.smallest_vectors[0])
    ends = [loss.value(loss.start + s * 0.1 * lowest) - at for s in (1, -1)]
    np.testing.assert_allclose(np.sort(report.eigen_rise[1]), np.sort(ends), rtol=1e-4)
    assert report.random_rise.shape == (2, 4)
    assert (report.worst_rise < report.random_rise.min(axis=1)).all()
    steepest = loss.value(loss.start - 1e-3 * gradient / gradient.norm()) - at
    assert report.worst_rise[0] <= steepest
    expected = report.grad_norm * report.radii - report.lambda_min / 2 * (
        report.radii**2
    )
    np.testing.assert_allclose(report.allowed_drop, expected, rtol=1e-9)
    again = check_local_minimum(net, X, y, radii=[1e-3], n_directions=4, random_state=0)
    np.testing.assert_array_equal(again.random_rise[0], report.random_rise[0])


def test_the_margin_is_found_in_functions_too(iris):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
            self.last = nn.Linear(6, 3)

        def forward(self, X):
            hidden = torch.relu(self.first(X))
            return self.last(F.leaky_relu(self.second(hidden)))

    X, y = iris
    net = Net().double()
    report = check_local_minimum(net, X, y, n_search_steps=0, random_state=0)
    first = net.first(torch.tensor(X))
    second = net.second(first.relu())
    expected = min(first.abs().min().item(), second.abs().min().item())
    assert report.margin == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("radius", [0.05, 0.5, 5.0])
def test_the_descent_solves_the_ball_of_a_quadratic(diabetes, radius):
    X, y = diabetes
    net = LinearModel((5,), 1).double()
    loss = TrainingLoss(net, X, y)
    at, gradient = loss.value_and_gradient(loss.start)
    values, vectors = torch.linalg.eigh(curvature(loss))
    along = vectors.T @ gradient
    low, high = 0.0, 1e6
    for _ in range(200):  # the multiplier that puts the step on the sphere
        middle = (low + high) / 2
        too_long = (along / (values + middle)).norm() > radius
        low, high = (middle, high) if too_long else (low, middle)
    step = along / (values + high)
    exact = at - float(along @ step) + 0.5 * float(values @ step**2)
    begin = loss.start + radius * vectors[:, -1]
    found, theta = lowest_in_ball(loss, begin, radius, 60)
    assert found == pytest.approx(exact, rel=1e-9)
    assert loss.value(theta) == pytest.approx(found, rel=1e-12)
    assert (theta - loss.start).norm() <= radius * (1 + 1e-12)


def test_the_callers_network_stays(iris):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    before = copy.deepcopy(net.state_dict())
    torch_before = torch.get_rng_state()
    check_local_minimum(net, *iris, n_search_steps=2)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert net.training and all(p.grad is None for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"gradient_tol": -1.0}, ValueError, "gradient_tol must be >= 0"),
        ({"curvature_tol": 0}, ValueError, "curvature_tol must be > 0"),
        ({"radii": 0.1}, TypeError, "radii must be a sequence of numbers, got 0.1"),
        ({"radii": []}, ValueError, r"radii must hold a number <= local_radius=0.01"),
        ({"radii": (0.1,)}, ValueError, r"local_radius=0.01, got \[0.1\]"),
        ({"radii": (0.0,)}, ValueError, "each of radii must be > 0"),
        ({"local_radius": "a"}, TypeError, "local_radius must be a number"),
        ({"n_directions": 0}, ValueError, "n_directions must be >= 1"),
        ({"n_search_steps": -1}, ValueError, "n_search_steps must be >= 0"),
        ({"max_products": 0}, ValueError, "max_products must be >= 1"),
    ],
)
def test_bad_parameters(iris, params, error, message):
    with pytest.raises(error, match=message):
        check_local_minimum(LinearModel((4,), 3), *iris, **params)


def test_a_loss_that_is_not_finite(iris):
    class Log(nn.Linear):
        def forward(self, X):
            return torch.log(self.bias - self.bias.max() + 0 * super().forward(X))

    with pytest.raises(ValueError, match="not finite"):
        check_local_minimum(Log(4, 3), *iris)
