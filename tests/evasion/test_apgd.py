import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from skpoison.evasion import APGD, PGD
from skpoison.evasion._apgd import AutoSteps, checkpoints
from skpoison.evasion._draws import RowDraws
from skpoison.evasion._losses import objective
from skpoison.evasion._region import Region
from skpoison.evasion._search import search


@pytest.fixture(scope="module")
def blobs():
    """Rows of a bumpy network, whose loss rises and falls along a run."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 5)).double()
    with torch.no_grad():
        net[0].weight *= 4
        net[2].weight *= 3
        x = torch.randn(40, 8, dtype=torch.float64)
        return net, x, net(x).argmax(1)


@pytest.mark.parametrize(
    "max_iter, points",
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),  # printed by Croce and Hein
        (20, [5, 9, 12, 14, 16, 18, 19, 20]),
        (3, [1, 2, 3]),
    ],
)
def test_checkpoints(max_iter, points):
    assert checkpoints(max_iter) == points


def reference(net, x, y, eps, start, max_iter, loss, project, norm):
    """Algorithm 1 of Croce and Hein for one row, with its symbols; visited points."""

    def f(point):
        leaf = point.clone().requires_grad_()
        value = objective(net(leaf[None]), y[None], loss)[0]
        (slope,) = torch.autograd.grad(value, leaf)
        step = slope.sign() if norm == "linf" else slope / slope.norm()
        return float(value.detach()), step

    w = [0, *checkpoints(max_iter)]
    eta = 2 * eps
    value, step = f(start)
    x_max, f_max, step_max = start, value, step
    points, values = [start], [value]
    x_k, x_prev, rising, eta_then, f_then = start, start, 0, eta, value
    halvings = 0
    for k in range(max_iter):
        if k in w[1:]:
            interval = k - w[w.index(k) - 1]
            stalls = rising < 0.75 * interval
            stuck = eta == eta_then and f_max == f_then and k != w[1]
            eta_then, f_then, rising = eta, f_max, 0
            if stalls or stuck:
                eta, x_k, step, value = eta / 2, x_max, step_max, f_max
                halvings += 1
        z = project(x_k + eta * step)
        new = z if k == 0 else project(x_k + 0.75 * (z - x_k) + 0.25 * (x_k - x_prev))
        x_prev, x_k = x_k, new
        before = value
        value, step = f(x_k)
        rising += value > before
        points.append(x_k)
        values.append(value)
        if value > f_max:
            x_max, f_max, step_max = x_k, value, step
    return points, values, halvings


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_runs_are_those_of_the_published_algorithm(blobs, loss, norm):
    net, x, y = blobs
    eps, max_iter = {"linf": 0.12, "l2": 0.3}[norm], 25
    region = Region(x, eps, norm=norm)
    draws = RowDraws(0, torch.arange(len(x)))
    found = search(
        net,
        x,
        y,
        region,
        AutoSteps(2 * eps, max_iter),
        draws,
        loss=loss,
        max_iter=max_iter,
        early_stop=False,
    )
    starts = region.random_start(draws.uniform(0, 0, (len(x), 9)))
    halvings = []
    for i in range(len(x)):

        def project(point, i=i):
            return region.take([i]).project(point[None].clone())[0]

        points, values, n_halved = reference(
            net, x[i], y[i], eps, starts[i], max_iter, loss, project, norm
        )
        halvings.append(n_halved)
        visited = torch.stack([x[i], *points])
        with torch.no_grad():
            wrong = net(visited).argmax(1) != y[i]
            values = objective(net(visited), y[i].repeat(len(visited)), loss)
        assert found.is_broken[i] == wrong.any()
        values[wrong != wrong.any()] = -torch.inf
        best = visited[values.argmax()]
        # near a maximum directions magnify the rounding of the steps before
        np.testing.assert_allclose(found.x_adv[i], best, atol=1e-7)
    assert len(set(halvings)) > 1 and 5 < found.is_broken.sum() < 35


@pytest.mark.parametrize("norm, eps", [("linf", 0.12), ("l2", 0.3)])
def test_rows_that_leave_change_nothing_for_those_that_stay(blobs, norm, eps):
    net, x, y = blobs
    attack = APGD(net, eps=eps, norm=norm, max_iter=25, n_restarts=2, random_state=0)
    early = attack.attack(x.numpy(), y.numpy())
    late = attack.set_params(early_stop=False).attack(x.numpy(), y.numpy())
    np.testing.assert_array_equal(early.success, late.success)
    left = ~early.success
    assert 5 < left.sum() < 35 and early.n_gradients < late.n_gradients == 40 * 50
    np.testing.assert_allclose(early.X[left], late.X[left], atol=1e-7)


def test_a_step_that_turned_out_too_long_is_halved():
    # the loss falls within the first step: all is lost without smaller ones
    def scores(x):
        return torch.cat([0 * x, 1 - 30 * (x - 0.55).abs()], dim=1)

    x = np.array([[0.5], [0.42]])
    y = np.array([0, 0])

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x):
            return scores(x)

    outcome = APGD(Narrow(), eps=0.3, max_iter=20, random_state=0).attack(x, y)
    assert outcome.success.all()


def test_stronger_than_pgd_at_equal_steps():
    X, y = load_digits(return_X_y=True)
    X, y = (X[:500] / 16).astype(np.float32), y[:500]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            net(torch.from_numpy(X)), torch.from_numpy(y)
        ).backward()
        optimizer.step()
    options = {"eps": 0.5, "norm": "l2", "max_iter": 30, "random_state": 0}
    auto = APGD(net, **options).attack(X, y)
    plain = PGD(net, step_size=0.02, **options).attack(X, y)
    assert auto.success.sum() >= plain.success.sum()
    for loss in ("dlr", "margin"):
        other = APGD(net, loss=loss, **options).attack(X, y)
        assert abs(int(other.success.sum()) - int(auto.success.sum())) < 25


def test_two_classes_have_no_dlr():
    net = nn.Linear(4, 2)
    X = np.random.RandomState(0).rand(6, 4).astype(np.float32)
    y = np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(ValueError, match="'dlr' needs a model with at least 3 scores"):
        APGD(net, loss="dlr").perturb(X, y)
    net = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="at least 4 scores"):
        APGD(net, loss="dlr", target_labels=2).perturb(X, y)
