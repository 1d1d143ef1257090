import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import nn

from skpoison.landscape import _hessian, hessian_eigenvalues
from skpoison.landscape._hessian import lanczos
from skpoison.landscape._objective import TrainingLoss
from skpoison.models import MLP, LinearModel


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:60] / 16, y[:60]


def network(name):
    torch.manual_seed(1)
    return {
        "relu": lambda: MLP((64,), 10, hidden=(6, 6)),
        "tanh": lambda: nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)),
        "conv": lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(16, 10),
        ),
    }[name]()


def dense(*args, **kwargs):
    loss = TrainingLoss(*args, **kwargs)
    rows = torch.eye(len(loss.start), dtype=torch.float64)
    return torch.stack([loss.product(row) for row in rows]).numpy()


@pytest.mark.parametrize("name", ["relu", "tanh", "conv"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equal_to_the_dense_spectrum(digits, name, weight_decay):
    net = network(name)
    H = dense(net, *digits, weight_decay=weight_decay)
    exact = np.linalg.eigvalsh(H)
    found = hessian_eigenvalues(
        net, *digits, k=2, weight_decay=weight_decay, random_state=0
    )
    assert found.converged and found.n_products < 200
    np.testing.assert_allclose(found.smallest, exact[:2], rtol=1e-6)
    np.testing.assert_allclose(found.largest, exact[:-3:-1], rtol=1e-6)
    scale = np.abs(exact).max()
    for end in ("smallest", "largest"):
        vectors, values = found[f"{end}_vectors"], found[end]
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-10)
        residuals = np.linalg.norm(vectors @ H - values[:, None] * vectors, axis=1)
        np.testing.assert_allclose(
            found[f"{end}_residuals"], residuals, rtol=1e-3, atol=1e-12
        )
        assert (residuals <= 1e-6 * scale).all()
    assert exact[0] - 1e-3 * scale <= found.lower_bound <= exact[0]
    assert exact[-1] <= found.upper_bound <= exact[-1] + 1e-3 * scale


def test_one_end_alone(digits):
    net = network("tanh")
    both = hessian_eigenvalues(net, *digits, random_state=0)
    for end, other in [("largest", "smallest"), ("smallest", "largest")]:
        one = hessian_eigenvalues(net, *digits, which=end, random_state=0)
        np.testing.assert_allclose(one[end], both[end], rtol=1e-6)
        assert one[other].shape == (0,) and one[f"{other}_residuals"].shape == (0,)
        assert one[f"{other}_vectors"].shape[0] == 0 and one.converged


def test_small_networks_are_exact():
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(0), y / 100
    net = LinearModel((10,), 1)
    # of a mean of squares: 2 / n A^T A, whatever the parameters
    A = np.column_stack([X, np.ones(len(X))])
    exact = np.linalg.eigvalsh(2 / len(X) * A.T @ A)
    found = hessian_eigenvalues(net, X, y, k=11)
    np.testing.assert_allclose(found.smallest, exact, rtol=1e-10)
    np.testing.assert_allclose(found.largest, exact[::-1], rtol=1e-10)
    assert found.n_products == 11 and found.converged
    assert found.lower_bound == found.smallest[0]


def test_a_short_basis_gives_the_same(digits, monkeypatch):
    net = network("relu")
    whole = hessian_eigenvalues(net, *digits, k=2, random_state=0)
    monkeypatch.setattr(_hessian, "_BASIS_VECTORS", 12)
    short = hessian_eigenvalues(net, *digits, k=2, random_state=0)
    assert short.converged and short.n_products > whole.n_products
    for end in ("smallest", "largest"):
        np.testing.assert_allclose(short[end], whole[end], rtol=1e-6)
    # of the products before the first restart
    assert short.lower_bound < whole.lower_bound < whole.smallest[0]


@pytest.mark.parametrize("max_products", [4, 5, 11, 30])
def test_products_are_bounded(digits, max_products):
    net = network("relu")
    exact = hessian_eigenvalues(net, *digits, random_state=0)
    found = hessian_eigenvalues(
        net, *digits, max_products=max_products, tol=1e-12, random_state=0
    )
    assert found.n_products == max_products and not found.converged
    assert found.smallest[0] >= exact.smallest[0] - 1e-9
    assert found.largest[0] <= exact.largest[0] + 1e-9
    assert found.lower_bound <= exact.smallest[0]
    assert found.upper_bound >= exact.largest[0]


def diagonal(values, **params):
    values = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(len(values), generator=generator, dtype=torch.float64)

    params = {"tol": 1e-8, "max_products": len(values), **params}
    return lanczos(lambda v: values * v, len(values), draw=draw, **params)


def test_clusters_and_copies():
    rng = np.random.RandomState(0)
    values = np.concatenate([np.zeros(300), rng.rand(50), [-1e-3], [271.0] * 3])
    found, vectors, bounds = diagonal(values, n_low=1, n_high=1)
    np.testing.assert_allclose(found, [-1e-3, 271], rtol=1e-6)
    assert abs(vectors[0, 350]) > 1 - 1e-6
    assert bounds[0] <= -1e-3 and bounds[1] >= 271 and bounds[1] < 271.01
    # three distinct values: the space of one start ends, others bring copies
    found, _, bounds = diagonal([0.0] * 60 + [1.0] * 2 + [2.0] * 8, n_low=1, n_high=4)
    np.testing.assert_allclose(found, [0, 1, 1, 2, 2], atol=1e-9)
    assert -1e-6 < bounds[0] <= 1e-12 and 2 - 1e-12 <= bounds[1] < 2 + 1e-6
    found, vectors, bounds = diagonal([0.0] * 70, n_low=1, n_high=2)
    assert found.tolist() == [0, 0, 0] and bounds == (0, 0)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(3, dtype=torch.float64))


def test_the_floor_goes_on_until_it_is_clear():
    rng = np.random.RandomState(0)
    values = np.concatenate([rng.rand(200) ** 4, np.zeros(100)])
    _, _, loose = diagonal(values, n_low=1, n_high=1, tol=1e-2)
    _, _, tight = diagonal(values, n_low=1, n_high=1, tol=1e-2, floor=1e-5)
    assert loose[0] < -1e-5 <= tight[0] <= 0
    values[0] = -1e-3
    found, _, bounds = diagonal(values, n_low=1, n_high=1, tol=1e-2, floor=1e-5)
    assert bounds[0] <= -1e-3 <= found[0] < -1e-5


def test_bounds_hold_and_mean_something():
    values = torch.linspace(-1, 1, 200, dtype=torch.float64) ** 3
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(200, generator=generator, dtype=torch.float64)

    slack = []
    for _ in range(50):
        _, _, (low, high) = lanczos(
            lambda v: values * v, 200, 1, 1, tol=1e-9, max_products=12, draw=draw
        )
        slack += [-1 - low, high - 1]
    # probability of failure: at most 0.5 % for each of 100
    assert sum(s < 0 for s in slack) <= 3
    assert np.median(slack) < 0.5


def test_batches_give_the_same(digits):
    net = network("conv")
    whole = hessian_eigenvalues(net, *digits, random_state=3)
    parts = hessian_eigenvalues(net, *digits, batch_size=64, random_state=3)
    np.testing.assert_allclose(parts.smallest, whole.smallest, rtol=1e-9)
    np.testing.assert_allclose(parts.largest, whole.largest, rtol=1e-9)
    assert parts.n_products == whole.n_products


def test_repeatable_without_global_streams(digits):
    net = network("tanh")
    torch_before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (hessian_eigenvalues(net, *digits, random_state=5) for _ in "ab")
    assert (first.smallest_vectors == second.smallest_vectors).all()
    hessian_eigenvalues(net, *digits)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be >= 1"),
        ({"k": 1.5}, TypeError, "k must be an int"),
        ({"k": 100}, ValueError, "k must be at most 33, the number of parameters"),
        ({"which": "LA"}, ValueError, "which must be one of 'both'"),
        ({"tol": 0.0}, ValueError, "tol must be > 0"),
        ({"max_products": 32}, ValueError, "max_products must be at least 33"),
        ({"random_state": "a"}, ValueError, "random_state must be"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be >= 0"),
    ],
)
def test_bad_parameters(params, error, message):
    X, y = load_diabetes(return_X_y=True)
    with pytest.raises(error, match=message):
        hessian_eigenvalues(LinearModel((10,), 3), X, np.arange(len(y)) % 3, **params)


@pytest.mark.parametrize("n_outputs", [1, 70])  # whole, and by products
def test_an_infinite_hessian_is_refused(n_outputs):
    class Root(nn.Linear):
        def forward(self, X):
            return (super().forward(X) ** 2 + self.bias**2).sqrt()

    net = Root(3, n_outputs)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    with pytest.raises(ValueError, match="NaN or infinite"):
        hessian_eigenvalues(net, np.ones((4, 3)), np.ones((4, n_outputs)))
