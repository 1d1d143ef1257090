import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from skpoison.landscape._objective import TrainingLoss, class_codes
from skpoison.models import MLP, TorchClassifier
from skpoison.models._given import Model


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), y


def small_net(unit=nn.Tanh):
    return nn.Sequential(nn.Linear(4, 5), unit(), nn.Linear(5, 3))


def by_torch(net, X, target, criterion, weight_decay):
    """The loss of one flat vector, written out."""
    net = copy.deepcopy(net).double().eval()
    named = dict(net.named_parameters())
    X = torch.as_tensor(X, dtype=torch.float64)

    def loss(theta):
        parts = theta.split([p.numel() for p in named.values()])
        given = {
            name: part.view(p.shape)
            for (name, p), part in zip(named.items(), parts, strict=True)
        }
        penalty = weight_decay / 2 * (theta**2).sum()
        return criterion(functional_call(net, given, (X,)), target) + penalty

    return loss, torch.cat([p.detach().flatten() for p in named.values()])


@pytest.mark.parametrize("batch_size", [None, 7, 1000])
@pytest.mark.parametrize("kind", ["labels", "numbers", "soft", "smoothed"])
def test_value_gradient_and_product_equal_torch(iris, kind, batch_size):
    X, y = iris
    net = small_net()
    numbers = np.random.RandomState(0).randn(len(X), 3)
    given, criterion, name = {
        "labels": (y, F.cross_entropy, "auto"),
        "numbers": (numbers, F.mse_loss, "auto"),
        "soft": (np.abs(numbers), F.cross_entropy, nn.CrossEntropyLoss),
        "smoothed": (y, nn.CrossEntropyLoss(label_smoothing=0.1), "same"),
    }[kind]
    name = criterion if name == "same" else name
    expected, start = by_torch(net, X, torch.as_tensor(given), criterion, 0.01)
    loss = TrainingLoss(
        net, X, given, criterion=name, weight_decay=0.01, batch_size=batch_size
    )
    assert torch.equal(loss.start, start)
    theta = start + 0.1
    leaf = theta.clone().requires_grad_()
    at = expected(leaf)
    value, gradient = loss.value_and_gradient(theta)
    assert value == pytest.approx(at.item(), rel=1e-14)
    assert loss.value(theta) == pytest.approx(value, rel=1e-14)
    slope = torch.autograd.grad(at, leaf)[0]
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-15)
    vectors = torch.randn(3, len(start), dtype=torch.float64)
    found = torch.stack([loss.product(v) for v in vectors])
    assert loss.n_products == 3
    H = hessian(expected, start)
    torch.testing.assert_close(found, vectors @ H, rtol=1e-12, atol=1e-13)


def test_a_linear_loss_has_no_curvature(iris):
    class Total(nn.Module):
        def forward(self, out, y):
            return (out - y).sum(1).mean()

    X, _ = iris
    y = np.zeros((len(X), 3))
    loss = TrainingLoss(nn.Linear(4, 3), X, y, criterion=Total, weight_decay=2.0)
    vector = torch.randn(15, dtype=torch.float64)
    torch.testing.assert_close(loss.product(vector), 2 * vector)


def test_columns_of_numbers(iris):
    X, y = iris
    net = nn.Linear(4, 1)
    flat = TrainingLoss(net, X, y / 2)
    column = TrainingLoss(net, X, y[:, None] / 2)
    out = net.double()(torch.as_tensor(X)).detach().numpy()[:, 0]
    expected = np.mean((out - y / 2) ** 2)
    assert flat.value(flat.start) == column.value(column.start)
    assert flat.value(flat.start) == pytest.approx(expected, rel=1e-14)


def test_the_callers_network_stays(iris):
    X, y = iris
    net = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
    )
    net[0].weight.grad = torch.ones(8, 4)
    net[3].eval()
    before = copy.deepcopy(net.state_dict())
    modes = [part.training for part in net.modules()]
    loss = TrainingLoss(net, X, y)
    first = loss.value_and_gradient(loss.start)[0]
    loss.product(loss.start)
    assert loss.value(loss.start) == pytest.approx(first, rel=1e-14)  # no dropout
    assert modes == [part.training for part in net.modules()]
    assert torch.equal(net[0].weight.grad, torch.ones(8, 4))
    assert net[4].weight.grad is None
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype


def test_rows_survive_modules_that_work_in_place(iris):
    X, y = iris
    net = nn.Sequential(nn.Hardtanh(-0.5, 0.5, inplace=True), nn.Linear(4, 3))
    plain = nn.Sequential(nn.Hardtanh(-0.5, 0.5), net[1])
    loss, expected = TrainingLoss(net, X, y), TrainingLoss(plain, X, y)
    # were the rows clipped, a wider range would show it
    loss.value(loss.start)
    loss.module[0].min_val = expected.module[0].min_val = -2.0
    loss.module[0].max_val = expected.module[0].max_val = 2.0
    assert loss.value(loss.start) == expected.value(loss.start)


def test_frozen_and_shared_parameters(iris):
    X, y = iris
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    net[2].weight = net[0].weight
    net[3].requires_grad_(False)
    loss = TrainingLoss(net, X, y)
    assert list(loss.shapes) == ["0.weight", "0.bias", "2.bias"]
    step = torch.zeros_like(loss.start)
    step[0] = 1e-6
    rise = loss.value(loss.start + step) - loss.value(loss.start - step)
    slope = loss.value_and_gradient(loss.start)[1][0]
    assert rise / 2e-6 == pytest.approx(float(slope), rel=1e-6)
    parts = loss.named(loss.start)
    assert torch.equal(parts["0.weight"], net[0].weight.double())


def test_fitted_classifiers():
    X, y = load_digits(return_X_y=True)
    keep = y < 3
    X, names = X[keep] / 16, np.array(["two", "one", "zero"])[y[keep]]
    clf = TorchClassifier(
        MLP, module__hidden=(8,), max_epochs=2, device="cpu", random_state=0
    ).fit(X, names)
    loss = TrainingLoss(clf, X, names)
    rows = np.arange(len(X)), np.searchsorted(clf.classes_, names)
    expected = -np.log(clf.predict_proba(X)[rows]).mean()
    assert loss.value(loss.start) == pytest.approx(expected, rel=1e-5)
    # scikit-learn's own, of two classes: its scores are (0, d)
    two = names != "two"
    logistic = LogisticRegression().fit(X[two], names[two])
    loss = TrainingLoss(logistic, X[two], names[two])
    rows = np.arange(two.sum()), np.searchsorted(logistic.classes_, names[two])
    expected = -np.log(logistic.predict_proba(X[two])[rows]).mean()
    assert loss.value(loss.start) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("y", "n_outputs", "expected"),
    [
        ([0, 2, 2, 0], 3, [0, 2, 2, 0]),
        ([1.0, 0.0], 4, [1, 0]),
        ([True, False, True], 2, [1, 0, 1]),
        ([3, 1, 2], 3, [2, 0, 1]),
        ([-1, 1, 1], 2, [0, 1, 1]),
        (["b", "a"], 2, [1, 0]),
        ([0.5, 1.5], 2, [0, 1]),
    ],
)
def test_class_codes_of_a_bare_network(y, n_outputs, expected):
    codes = class_codes(Model(nn.Linear(1, n_outputs)), y, n_outputs)
    assert codes.dtype == np.int64 and codes.tolist() == expected


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            ["a", "b"],
            r"each of the network's 3.*0 to 2; got 2 labels: 'a', 'b'",
        ),
        ([1, 2, 3, 4], "got 4 labels: 1, 2, 3, 4"),
        ([[0, 1]], r"one label a row, got shape \(1, 2\)"),
        ([0.0, np.nan], "y holds NaN"),
    ],
)
def test_class_codes_errors(y, message):
    with pytest.raises(ValueError, match=message):
        class_codes(Model(nn.Linear(1, 3)), y, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"y": [0, 1]},
            ValueError,
            r"y must have one entry a row, 150, got shape \(2,\)",
        ),
        ({"y": 1}, ValueError, "y must have one entry a row"),
        ({"y": np.zeros((150, 2))}, ValueError, r"output.*\(150, 3\), got"),
        ({"y": np.full((150, 3), np.nan)}, ValueError, "finite numbers for MSELoss"),
        ({"X": np.full((150, 4), np.inf)}, ValueError, "X holds NaN or infinite"),
        ({"criterion": "mse"}, TypeError, "criterion must be 'auto' or a loss"),
        ({"criterion": F.mse_loss}, TypeError, "criterion must be 'auto' or a loss"),
        (
            {"criterion": nn.CrossEntropyLoss(reduction="sum")},
            ValueError,
            "reduction='mean', got 'sum'",
        ),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be >= 0"),
        ({"weight_decay": "a"}, TypeError, "weight_decay must be a number"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        (
            {"criterion": nn.CrossEntropyLoss(weight=torch.ones(3)), "batch_size": 9},
            ValueError,
            "batch_size must be None",
        ),
        (
            {"criterion": nn.CrossEntropyLoss(ignore_index=1), "batch_size": 9},
            ValueError,
            "ignores classes, whose mean over batches is another, got 9",
        ),
        (
            {"X": np.ones((150, 5))},
            ValueError,
            r"module can't take a row of X, shape \(5,\): mat1 and mat2",
        ),
        ({"device": "nowhere"}, ValueError, "device must be"),
        ({"module": 3}, TypeError, "expected a classifier or a torch module"),
        ({"module": nn.Flatten()}, ValueError, "no parameter that requires a gradient"),
        (
            {"module": nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))},
            ValueError,
            r"one row for each of X, got \(3,\)",
        ),
        (
            {"module": nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Linear(4, 3))},
            ValueError,
            r"\(n_samples, n_classes\) for labels, got \(1, 1, 3\)",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_input(iris, change, error, message):
    X, y = iris
    params = {"module": small_net(), "X": X, "y": y, **change}
    with pytest.raises(error, match=message):
        TrainingLoss(**params)


def test_bad_parameters(iris):
    net = small_net()
    with torch.no_grad():
        net[0].bias[1] = torch.nan
    with pytest.raises(ValueError, match="parameters that are NaN"):
        TrainingLoss(net, *iris)

    class Detached(nn.Linear):
        def forward(self, X):
            return super().forward(X).detach()

    with pytest.raises(ValueError, match="no gradient in its parameters"):
        TrainingLoss(Detached(4, 3), *iris)


@pytest.mark.gpu
def test_on_a_gpu(iris):
    net = small_net()
    here, there = (TrainingLoss(net, *iris, device=d) for d in ("cpu", "cuda"))
    vector = torch.randn(len(here.start), dtype=torch.float64)
    torch.testing.assert_close(
        there.product(vector.cuda()).cpu(), here.product(vector), rtol=1e-10, atol=1e-12
    )
