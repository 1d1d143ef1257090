"""The empirical tangent kernel against gradients taken one by one."""

import copy

import numpy as np
import pytest
import torch
from landscape._odd_networks import ODD
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F

from skpoison.landscape import _ntk, _ntk_terms, empirical_ntk
from skpoison.landscape._ntk_layers import find_layers
from skpoison.models import MLP, ConvNet, ResNet20, TorchClassifier, as_module

METHODS = ("layerwise", "jacobian", "products")
REDUCTIONS = (None, "trace", "per_class", "mean_logit")


def reference(network, X, X2=None, reduction=None):
    """Return the kernel from one backward pass an output, in float64."""
    J, J2 = (
        None if rows is None else _gradients(copy.deepcopy(network).double(), rows)
        for rows in (X, X2)
    )
    K = np.einsum("icp,jdp->icjd", J, J if J2 is None else J2)
    if reduction == "trace":
        return np.einsum("icjc->ij", K)
    if reduction == "per_class":
        return np.einsum("icjc->cij", K)
    if reduction == "mean_logit":
        return K.mean(axis=(1, 3))
    return K.reshape(K.shape[0] * K.shape[1], -1)


def _gradients(network, X):
    network.eval()
    weights = [p for p in network.parameters() if p.requires_grad]
    rows = []
    for x in X:
        outputs = network((x.double() if x.is_floating_point() else x).clone()[None])[0]
        outputs = outputs + 0 * sum(p.sum() for p in weights)  # a graph in any case
        gradients = [
            torch.autograd.grad(o, weights, retain_graph=True) for o in outputs
        ]
        rows.append([torch.cat([g.flatten() for g in one]) for one in gradients])
    return np.array([[gradient.numpy() for gradient in row] for row in rows])


def assert_equal(found, wanted, dtype="float32"):
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(
        found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max()
    )


def n_layers(network, X):
    network.eval()
    return len(find_layers(network, X, len(X), None, True)[2])


def warmed(network, *shape):
    """Give batch normalisation statistics and scales that are not 0 and 1."""
    network(torch.randn(16, *shape))
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    return network


def sequence_net():
    return nn.Sequential(
        nn.Linear(5, 40), nn.LayerNorm(40), nn.GELU(), nn.Linear(40, 40, bias=False),
        nn.Conv1d(6, 5, 3, padding=1), nn.BatchNorm1d(5), nn.Flatten(),
        nn.Linear(200, 3),
    )  # fmt: skip


def grouped_net():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 6, 2, dilation=2, padding="same", padding_mode="circular"),
        nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip


NETS = {
    "mlp": (lambda: MLP((6,), 3, hidden=(20, 9)), (6,)),
    "convnet": (lambda: ConvNet((2, 7, 6), 3, channels=(4, 6), hidden=8), (2, 7, 6)),
    "grouped": (grouped_net, (4, 8, 7)),
    "sequence": (sequence_net, (6, 5)),
    "resnet": (lambda: ResNet20((1, 6, 6), 3), (1, 6, 6)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_equals_products_of_gradients(name):
    make, shape = NETS[name]
    net, X = warmed(make(), *shape), torch.randn(3, *shape)
    wanted = reference(net, X)
    for method in METHODS:
        assert_equal(empirical_ntk(net, X, method=method), wanted)
        found = empirical_ntk(net, X, X[1:], method=method, dtype="float64")
        assert_equal(found, wanted[:, len(wanted) // 3 :], "float64")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions(reduction, method):
    net, X = warmed(grouped_net(), 4, 8, 7), torch.randn(5, 4, 8, 7)
    options = {"reduction": reduction, "method": method, "dtype": "float64"}
    wanted = reference(net, X, reduction=reduction)
    found = empirical_ntk(net, X, **options)
    assert_equal(found, wanted, "float64")
    np.testing.assert_array_equal(found, found.swapaxes(-1, -2))
    found = empirical_ntk(net, X, batch_size=3, **options)
    assert_equal(found, wanted, "float64")
    wanted = reference(net, X, X[:3] + 1, reduction=reduction)
    for batch_size in (None, 2):
        found = empirical_ntk(net, X, X[:3] + 1, batch_size=batch_size, **options)
        assert_equal(found, wanted, "float64")


@pytest.mark.parametrize("in_pairs", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pairs_of_places_and_slices_agree(monkeypatch, reduction, in_pairs):
    """Both ways, in tiles, slices and passes that are smaller than the data."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 9, 2), nn.Tanh(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    X = torch.randn(9, 3, 7, 7)
    monkeypatch.setattr(
        "skpoison.landscape._ntk_layers.pays_in_pairs", lambda *_: in_pairs
    )
    monkeypatch.setattr(_ntk_terms, "TILE_VALUES", 500)
    monkeypatch.setattr(_ntk_terms, "SLICE_VALUES", 500)
    monkeypatch.setattr(_ntk_terms, "_SMALL_TILE", 1)
    monkeypatch.setattr(_ntk, "_PASS_VALUES", 4000)
    for kept in (10**6, 8000):
        monkeypatch.setattr(_ntk, "_KEPT_VALUES", kept)
        found = empirical_ntk(net, X, reduction=reduction, dtype="float64")
        assert_equal(found, reference(net, X, reduction=reduction), "float64")


def test_jacobian_in_groups_of_weights(monkeypatch):
    monkeypatch.setattr(_ntk, "_KEPT_VALUES", 5000)
    net, X = MLP((6,), 3, hidden=(20, 9)), torch.randn(8, 6)
    found = empirical_ntk(net, X, method="jacobian")
    assert_equal(found, reference(net, X))


@pytest.mark.slow
def test_semidefinite():
    net, X = warmed(ResNet20((1, 6, 6), 3), 1, 6, 6), torch.randn(6, 1, 6, 6)
    K = empirical_ntk(net, X)
    np.testing.assert_array_equal(K, K.T)
    values = np.linalg.eigvalsh(K.astype(np.float64))
    assert values[0] > -1e-5 * values[-1]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_weights_that_no_rule_covers(name, n_rows):
    make, n_covered = ODD[name]
    net, X = make(), torch.randn(n_rows, 6)
    wanted = reference(net, X)
    for method in ("auto", *METHODS):
        if name == "weight norm" and method == "products":
            with pytest.raises(ValueError, match="pass method='jacobian'"):
                empirical_ntk(net, X, method=method)
            continue
        assert_equal(empirical_ntk(net, X, method=method), wanted)
    if n_rows > 1:
        assert n_layers(net, X) == n_covered


class Branch(nn.Module):
    """Which way a row goes depends on its values, which torch.func can't map."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, X):
        return torch.stack(
            [torch.tanh(x @ self.weight.T) if x.sum() > 0 else x[:3] for x in X]
        )


def test_rows_that_can_not_be_mapped():
    net, X = Branch(), torch.randn(6, 6)
    assert {bool(x.sum() > 0) for x in X} == {True, False}
    for method in ("auto", "layerwise", "jacobian"):
        assert_equal(empirical_ntk(net, X, method=method), reference(net, X))


class Custom(nn.Linear):
    """A linear layer whose type no rule knows."""


@pytest.mark.parametrize("n_outputs, way", [(2, "jacobian"), (40, "products")])
def test_auto_counts_multiplications(monkeypatch, n_outputs, way):
    calls = []
    for name in ("jacobian_terms", "add_products"):
        original = getattr(_ntk, name)
        monkeypatch.setattr(
            _ntk, name, lambda *a, f=original, n=name: (calls.append(n), f(*a))[1]
        )
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(), nn.ReLU(), Custom(288, n_outputs),
    )  # fmt: skip
    X = torch.randn(30, 1, 6, 6)
    assert_equal(empirical_ntk(net, X), empirical_ntk(net, X, method="jacobian"))
    assert (calls[0] == "add_products") == (way == "products")


def test_embedding_of_integers():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    X = torch.randint(7, (6, 3))
    for method in METHODS:
        assert_equal(empirical_ntk(net, X, method=method), reference(net, X))


def test_rows_that_affect_each_other():
    class Centred(nn.Module):
        def forward(self, X):
            return X - X.mean(0)

    net = nn.Sequential(nn.Linear(6, 5), Centred(), nn.Linear(5, 3))
    without = nn.Sequential(
        nn.BatchNorm1d(6, track_running_stats=False), nn.Flatten(), nn.Linear(12, 3)
    )
    for bad, shape in ((net, (4, 6)), (without, (4, 6, 2))):
        with pytest.raises(ValueError, match="rows of a batch affect each other"):
            empirical_ntk(bad, torch.randn(shape))


def test_leaves_everything_as_it_was():
    net = warmed(nn.Sequential(nn.ReLU(inplace=True), *sequence_net()), 6, 5)
    net.insert(2, nn.Dropout(0.5))
    net.train()
    net[2].eval()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before, X = copy.deepcopy(net.state_dict()), torch.randn(4, 6, 5)
    rows, state = X.clone(), torch.get_rng_state()
    with torch.no_grad():
        first = empirical_ntk(net, X)
        second = empirical_ntk(net, X, method="jacobian")
        np.testing.assert_array_equal(first, empirical_ntk(net, X))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-5 * first.max())
    empirical_ntk(net, X, dtype="float64")
    assert [part.training for part in net] == [i != 2 for i in range(len(net))]
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all((p.grad == 1).all() for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(rows, X)
    assert torch.equal(state, torch.get_rng_state())


def test_random_even_in_evaluation():
    class Noisy(nn.Module):
        def forward(self, X):
            return F.dropout(X)

    net = nn.Sequential(nn.Linear(6, 5), Noisy(), nn.Linear(5, 3))
    state, X = torch.get_rng_state(), torch.randn(4, 6)
    torch.set_rng_state(state)
    np.testing.assert_array_equal(empirical_ntk(net, X), empirical_ntk(net, X))
    assert torch.equal(state, torch.get_rng_state())


def test_fitted_classifiers():
    X, y = load_digits(n_class=3, return_X_y=True)
    pixels = (X * 15).astype(np.uint8)
    net = TorchClassifier(
        ConvNet, input_shape=(1, 8, 8), max_epochs=1, device="cpu", random_state=0
    ).fit(pixels, y)
    images = torch.tensor(pixels[:6] / np.float32(255)).reshape(6, 1, 8, 8)
    wanted = reference(net.module_, images)
    assert_equal(empirical_ntk(net, pixels[:6]), wanted)
    assert_equal(empirical_ntk(FrozenEstimator(net), pixels[:6]), wanted)
    linear = LogisticRegression(max_iter=5000).fit(X, y)
    found = empirical_ntk(linear, X[:6])
    wanted = np.kron(X[:6] @ X[:6].T + 1, np.eye(3))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert [*as_module(linear).parameters()][0].grad is None


def test_kernel_regression_of_a_linear_network_is_ridge_regression():
    X, y = load_digits(return_X_y=True)
    X, new, targets = X[:80] / 16, X[80:120] / 16, np.eye(10)[y[:80]]
    net = nn.Linear(64, 10, bias=False).double()
    K, K_new = (
        empirical_ntk(net, rows, columns) for rows, columns in ((X, None), (new, X))
    )
    ridge = Ridge(alpha=0.5, fit_intercept=False).fit(X, targets)
    kernel = KernelRidge(alpha=0.5, kernel="precomputed").fit(K, targets.ravel())
    np.testing.assert_allclose(
        kernel.predict(K_new).reshape(40, 10), ridge.predict(new), atol=1e-10
    )


def test_kernel_machines_take_it():
    X, y = load_digits(n_class=2, return_X_y=True)
    net = MLP((64,), 1, hidden=(64,))
    K = empirical_ntk(net, X[:60] / 16, dtype="float64")
    K_new = empirical_ntk(net, X[60:] / 16, X[:60] / 16, dtype="float64")
    svm = SVC(kernel="precomputed", C=10.0).fit(K, y[:60])
    assert svm.score(K_new, y[60:]) > 0.97


def test_is_a_derivative():
    """The outputs after a small step along a gradient change by the kernel."""
    net, X = MLP((6,), 3, hidden=(20,)).double(), torch.randn(4, 6).double()
    K = empirical_ntk(net, X).reshape(4, 3, 4, 3)
    gradient = torch.autograd.grad(net(X)[2, 1], [*net.parameters()])
    outputs = []
    for step in (1e-6, -1e-6):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for p, g in zip(moved.parameters(), gradient, strict=True):
                p += step * g
            outputs.append(moved(X).numpy())
    np.testing.assert_allclose(
        (outputs[0] - outputs[1]) / 2e-6, K[:, :, 2, 1], rtol=1e-6, atol=1e-9
    )


def test_half_precision_is_computed_in_single():
    net, X = MLP((6,), 3).half(), torch.randn(4, 6)
    assert_equal(empirical_ntk(net, X), reference(net, X))
    assert {p.dtype for p in net.parameters()} == {torch.float16}


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_gpu(method):
    net, X = warmed(grouped_net(), 4, 8, 7), torch.randn(5, 4, 8, 7)
    found = empirical_ntk(net, X, method=method, dtype="float64", device="cuda")
    assert_equal(found, reference(net, X), "float64")
    assert {p.device.type for p in net.parameters()} == {"cpu"}


class OneNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, X):
        return self.layer(X)[:, 0]


@pytest.mark.parametrize(
    "module, options, message",
    [
        (nn.ReLU(), {}, "module must have trainable parameters"),
        (OneNumber(), {}, r"\(n_samples, n_outputs\), got \(1,\) for 1 row"),
        (nn.Linear(6, 3), {"reduction": "sum"}, "reduction must be one of 'trace'"),
        (nn.Linear(6, 3), {"method": "vmap"}, "method must be one of 'auto'"),
        (nn.Linear(6, 3), {"dtype": "float16"}, "dtype must be one of 'float32'"),
        (nn.Linear(6, 3), {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        (nn.Linear(6, 3), {"X2": np.ones((2, 5))}, r"rows of shape \(6,\)"),
        (nn.Linear(5, 3), {}, r"does not take rows X of shape \(6,\)"),
        (nn.Linear(6, 3), {"X2": np.ones(6)}, "X2 is not like X: X must"),
        (nn.Linear(6, 3), {"X2": np.full((2, 6), np.nan)}, "NaN or infinite"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_errors(module, options, message):
    with pytest.raises(ValueError, match=message):
        empirical_ntk(module, np.ones((4, 6)), **options)


def test_no_classifier():
    with pytest.raises(TypeError, match="is no classifier"):
        empirical_ntk(Ridge(), np.ones((4, 6)))


def test_paths_that_differ_between_rows():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, X):
            again = len(X) > 2
            return self.last(self.first(self.first(X)) if again else self.first(X))

    with pytest.raises(ValueError, match="takes different paths"):
        empirical_ntk(Early(), torch.randn(4, 6))
