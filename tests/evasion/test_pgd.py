import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from skpoison.evasion import FGSM, PGD, MomentumPGD, WITCHcraft
from skpoison.evasion._draws import RowDraws
from skpoison.evasion._steps import Steps


def trained(X, y, width=32):
    """A small network; frozen, so that every attack meets the same one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    return net.double().eval()  # signs of tiny slopes are the same everywhere


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = (X[:600] / 16).astype(np.float32)
    return trained(X, y[:600]), X.astype(np.float64), y[:600]


def slopes(net, X, y):
    x = torch.tensor(X, requires_grad=True)
    loss = nn.functional.cross_entropy(net(x), torch.from_numpy(y), reduction="sum")
    return torch.autograd.grad(loss, x)[0].numpy()


def right_rows(net, X, y):
    with torch.no_grad():
        right = net(torch.from_numpy(X)).argmax(1).numpy() == y
    return X[right], y[right]


# ---------------------------------------------------------------------------- FGSM


def test_fgsm_is_one_signed_step(digits):
    net, X, y = digits
    X, y = right_rows(net, X, y)
    found = FGSM(net, eps=0.1, bounds=(0, 1)).perturb(X, y)
    wanted = np.clip(X + 0.1 * np.sign(slopes(net, X, y)), 0, 1)
    # steps that lower the loss are not taken: the row is the better iterate then
    moved = (found != X).any(axis=1)
    assert moved.mean() > 0.95
    np.testing.assert_allclose(found[moved], wanted[moved], atol=1e-12)


def test_euclidean_fgsm_is_a_step_along_the_gradient(digits):
    net, X, y = digits
    X, y = right_rows(net, X, y)
    found = FGSM(net, eps=0.4, norm="l2").perturb(X, y)
    slope = slopes(net, X, y)
    slope = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    moved = (found != X).any(axis=1)
    np.testing.assert_allclose(found[moved], (X + 0.4 * slope)[moved], atol=1e-12)


# ----------------------------------------------------------------------------- PGD


def test_more_effort_breaks_more_rows(digits):
    net, X, y = digits
    args = {"eps": 0.06, "bounds": (0, 1), "random_state": 0}
    broken = [
        FGSM(net, **args).attack(X, y).success,
        PGD(net, max_iter=10, **args).attack(X, y).success,
        PGD(net, max_iter=10, n_restarts=4, **args).attack(X, y).success,
    ]
    assert broken[0].sum() < broken[1].sum() <= broken[2].sum()
    assert (broken[2] >= broken[1]).all()  # the first restart is the one run


def test_default_step_crosses_the_ball_two_and_a_half_times(digits):
    net, X, y = digits
    named = PGD(net, eps=0.04, step_size=2.5 * 0.04 / 8, max_iter=8, random_state=0)
    default = PGD(net, eps=0.04, max_iter=8, random_state=0)
    np.testing.assert_array_equal(named.perturb(X, y), default.perturb(X, y))


def test_radius_of_each_value(digits):
    net, X, y = digits
    eps = np.linspace(0, 0.2, 64)
    found = PGD(net, eps=eps, random_state=0).perturb(X, y)
    change = np.abs(found.astype(float) - X)
    assert (change <= eps).all() and (change[:, 0] == 0).all()
    assert (change.max(axis=0) >= 0.9 * eps).all()


def test_early_stop_changes_which_misread_row_is_returned_and_not_whether(digits):
    net, X, y = digits
    for attack in (
        PGD(net, eps=0.06, random_state=0, n_restarts=2),
        WITCHcraft(net, eps=0.06, random_state=0),
        MomentumPGD(net, eps=0.06),
    ):
        first = attack.attack(X, y)
        worst = attack.set_params(early_stop=False).attack(X, y)
        np.testing.assert_array_equal(first.success, worst.success)
        assert first.n_gradients < worst.n_gradients
        assert (worst.loss >= first.loss - 1e-4).all()
        assert worst.loss[first.success].mean() > first.loss[first.success].mean()


def test_identical_restarts_are_refused(digits):
    net, X, y = digits
    with pytest.raises(ValueError, match="would all be the same"):
        PGD(net, n_restarts=2, random_start=False).perturb(X, y)
    WITCHcraft(net, n_restarts=2, random_start=False, max_iter=2).perturb(X, y)


# ------------------------------------------------------------------ exact on affine


@pytest.mark.parametrize("n_classes", [2, 3])
def test_affine_models_are_solved_exactly(n_classes):
    rng = np.random.RandomState(n_classes)
    X = rng.randn(90, 5)
    y = np.argmax(X[:, :n_classes] + 0.5 * rng.randn(90, n_classes), axis=1)
    model = LogisticRegression().fit(X, y)
    low, high = X.min() - 0.1, X.max() + 0.1
    found = PGD(model, eps=0.3, bounds=(low, high)).attack(X, y)
    assert found.solver == "exact" and found.n_gradients == 0
    for i, row in enumerate(X):
        corners = np.array(list(itertools.product([-0.3, 0.3], repeat=5))) + row
        reachable = model.predict(np.clip(corners, low, high)) != y[i]
        assert found.success[i] == reachable.any()
    np.testing.assert_array_equal(found.success, model.predict(found.X) != y)
    assert 5 < found.success.sum() < 85


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.uint8], ids=lambda t: t.__name__
)
def test_search_never_beats_the_exact_attack(dtype):
    X, y = load_digits(return_X_y=True)
    X = X[:500].astype(dtype)
    y = y[:500]
    model = LogisticRegression(C=0.01, max_iter=2000).fit(X.astype(float), y)
    W = torch.tensor(model.coef_)
    b = torch.tensor(model.intercept_)

    class Hidden(nn.Module):  # the same model, which nobody knows to be affine
        def __init__(self):
            super().__init__()
            self.W = nn.Parameter(W)

        def forward(self, x):
            x = x * 255 if dtype == np.uint8 else x
            return x @ self.W.T + b

    options = {"eps": 2.0, "bounds": (0, 16), "random_state": 0}
    exact = PGD(model, **options).attack(X, y)
    sought = PGD(Hidden(), n_restarts=2, **options).attack(X, y)
    assert (exact.solver, sought.solver) == ("exact", "search")
    assert (exact.success >= sought.success).all()
    assert sought.success.mean() > 0.9 * exact.success.mean()
    worst = PGD(model, early_stop=False, loss="margin", **options).attack(X, y)
    other = PGD(Hidden(), early_stop=False, loss="margin", **options).attack(X, y)
    assert (worst.loss >= other.loss - 1e-9).all()


def test_fgsm_stays_itself_on_affine_models():
    X, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=2000).fit(X[:300] / 16, y[:300])
    assert FGSM(model).attack(X[:300] / 16, y[:300]).solver == "search"


# ---------------------------------------------------------------------- WITCHcraft


@pytest.mark.parametrize("step_mode", ["sample", "pixel", "batch"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_degenerate_range_is_pgd_bit_for_bit(digits, step_mode, norm):
    net, X, y = digits
    options = {"eps": 0.3, "norm": norm, "bounds": (0, 1), "random_state": 3}
    for size in (0.07, 0.1):
        fixed = PGD(net, step_size=size, early_stop=False, **options)
        drawn = WITCHcraft(
            net,
            step_size=(size, size),
            step_mode=step_mode,
            early_stop=False,
            **options,
        )
        one, other = fixed.attack(X, y), drawn.attack(X, y)
        np.testing.assert_array_equal(one.X, other.X)
        np.testing.assert_array_equal(one.success, other.success)


@pytest.mark.parametrize("step_mode", ["sample", "pixel", "batch"])
def test_step_sizes_are_drawn_as_the_mode_says(step_mode):
    n, d = 30, 11
    X = np.random.RandomState(0).rand(n, d)
    draws = RowDraws.of_rows(0, X)

    class Wide:
        norm = "linf"

        def project(self, x):
            return x

    walk = Steps(0.2, 0.6, step_mode).walk(Wide(), draws, 1)
    sizes = []
    for _ in range(20):
        x = torch.zeros(n, d, dtype=torch.float64)
        sizes.append(walk.move(x, torch.ones_like(x), None).numpy().copy())
    sizes = np.stack(sizes)
    assert sizes.min() >= 0.2 and sizes.max() <= 0.6
    n_drawn = {"sample": 20 * n, "pixel": 20 * n * d, "batch": 20}[step_mode]
    assert len(np.unique(sizes)) > 0.99 * n_drawn
    assert len(np.unique(sizes[:, 0, 0])) == 20
    assert abs(sizes.mean() - 0.4) < 0.08
    if step_mode != "pixel":
        assert (sizes == sizes[:, :, :1]).all()


def test_default_range_reaches_from_nothing_to_the_radius(digits):
    net, X, y = digits
    default = WITCHcraft(net, eps=0.05, random_state=0).perturb(X, y)
    named = WITCHcraft(net, eps=0.05, step_size=(0, 0.05), random_state=0)
    np.testing.assert_array_equal(default, named.perturb(X, y))


@pytest.mark.parametrize(
    "params, match",
    [
        ({"step_size": 0.1}, "pair"),
        ({"step_size": (0.1, 0.2, 0.3)}, "pair"),
        ({"step_size": (0.2, 0.1)}, "low <= high"),
        ({"step_size": (-0.1, 0.1)}, r"step_size\[0\] must be >= 0"),
        ({"step_mode": "row"}, "step_mode must be one of"),
    ],
)
def test_bad_steps_of_witchcraft(digits, params, match):
    net, X, y = digits
    with pytest.raises(ValueError, match=match):
        WITCHcraft(net, **params).perturb(X, y)


# ------------------------------------------------------------------------ momentum


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("momentum", [1.0, 0.3])
def test_momentum_sums_gradients_of_unit_length(digits, norm, momentum):
    net, X, y = digits
    X, y = right_rows(net, X, y)
    X, y, eps, n = X[:40], y[:40], 0.02, 5
    point, total = X.copy(), np.zeros_like(X)
    for _ in range(n):
        slope = slopes(net, point, y)
        total = momentum * total + slope / np.abs(slope).sum(1, keepdims=True)
        if norm == "linf":
            step = np.sign(total)
        else:
            step = total / np.linalg.norm(total, axis=1, keepdims=True)
        point = point + eps / n * step
    found = MomentumPGD(
        net, eps=eps, norm=norm, momentum=momentum, max_iter=n, early_stop=False
    ).attack(X, y)
    last = ~found.success
    assert last.sum() > 20
    np.testing.assert_allclose(found.X[last], point[last], atol=1e-12)
