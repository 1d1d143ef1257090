import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from skpoison.evasion._draws import RowDraws
from skpoison.evasion._losses import objective
from skpoison.evasion._region import hand_back
from skpoison.evasion._search import Region, Steps, ascend, losses, search
from skpoison.evasion._steps import direction


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)).double()


@pytest.fixture(scope="module")
def rows():
    return torch.from_numpy(np.random.RandomState(0).randn(80, 6))


# -------------------------------------------------------------------------- region


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cube_and_box_hold_to_the_bit_and_are_not_smaller(dtype):
    x = torch.from_numpy(np.random.RandomState(1).rand(500, 9)).to(dtype)
    region = Region(x, 0.1, 0.0, 1.0)
    far = torch.where(torch.arange(9) % 2 == 0, 9.0, -9.0).to(dtype).expand(500, 9)
    end = region.project(far.clone())
    for one, other in ((x, end), (x.double(), end.double())):
        assert ((other - one).abs() <= 0.1).all()
    assert end.min() >= 0 and end.max() <= 1
    beyond = end.double() + far.double().sign() * 2 * torch.finfo(dtype).eps
    outside = ((beyond - x.double()).abs() > 0.1) | (beyond < 0) | (beyond > 1)
    assert outside.all()


def test_float64_rows_of_a_float32_network_keep_their_ball_and_digits():
    x = 1e4 + torch.from_numpy(np.random.RandomState(1).rand(300, 5))
    region = Region(x, 0.1, dtype=torch.float32)
    assert region.x.dtype == torch.float32
    end = hand_back(region.project(torch.full_like(region.x, 9e9)), x, region)
    assert ((end - x) <= 0.1).all() and ((end - x) > 0.098).all()
    assert torch.equal(hand_back(region.x, x, region), x)


def test_a_float64_model_sees_the_digits_that_float32_rows_keep():
    x = torch.rand(50, 3)
    region = Region(x, 0.1, dtype=torch.float64)
    inside = region.random_start(torch.rand(50, 4))
    seen = region.seen(inside)
    assert seen.dtype == torch.float64 and not torch.equal(seen, inside)
    assert torch.equal(hand_back(seen, x, region).double(), seen)
    assert ((seen - x.double()).abs() <= 0.1).all()


@pytest.mark.parametrize("eps, reach", [(0.4, 0), (3.7, 3), (8 / 255 * 255, 8)])
def test_whole_pixels_stay_within_a_whole_radius(eps, reach):
    x = torch.randint(0, 256, (40, 7), dtype=torch.uint8)
    region = Region(x, eps, 0.5, 250.5)
    end = region.seen(region.project(torch.full_like(region.x, 1e3)))
    expected = (x.int() + reach).clamp_max(250).maximum(x.int())
    assert torch.equal(hand_back(end, x, region).int(), expected)
    assert torch.equal(region.seen(region.random_start(torch.rand(40, 8))) % 1, 0 * end)


def test_a_value_outside_the_box_may_stay_but_goes_no_farther():
    region = Region(torch.tensor([[2.0, 0.5]]), 1.0, 0.0, 1.0)
    assert region.project(torch.tensor([[9.0, 9.0]])).tolist() == [[2.0, 1.0]]
    assert region.project(torch.tensor([[-9.0, -9.0]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_euclidean_ball(dtype):
    rng = np.random.RandomState(0)
    x = torch.from_numpy(1000 * rng.rand(60, 30)).to(dtype)
    point = x + torch.from_numpy(rng.randn(60, 30)).to(dtype)
    region = Region(x, 0.5, norm="l2")
    end = hand_back(region.project(point.clone()), x, region)
    delta = (end.double() - x.double()).numpy()
    assert np.linalg.norm(delta, axis=1).max() <= 0.5
    wanted = (point.double() - x.double()).numpy()
    wanted *= 0.5 / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(
        delta, wanted, atol=3e-4 if dtype.itemsize == 4 else 1e-6
    )


def test_points_inside_stay_where_they_are():
    x = torch.zeros(3, 2)
    for norm in ("linf", "l2"):
        inside = torch.tensor([[0.1, 0.0], [0.0, -0.2], [0.1, 0.1]])
        assert torch.equal(Region(x, 0.3, -1, 1, norm).project(inside.clone()), inside)


def test_random_starts_fill_the_region_evenly():
    n, d = 4000, 3
    draws = RowDraws(0, torch.arange(n))
    x = torch.zeros(n, d, dtype=torch.float64)
    cube = Region(x, 0.5).random_start(draws.uniform(0, 0, (n, d + 1)))
    assert stats.kstest(cube.ravel().numpy() + 0.5, "uniform").pvalue > 1e-3
    ball = Region(x, 0.5, norm="l2").random_start(draws.uniform(0, 0, (n, d + 1)))
    length = np.linalg.norm(ball.numpy(), axis=1)
    assert stats.kstest((2 * length) ** d, "uniform").pvalue > 1e-3
    # on a sphere in three dimensions each coordinate is uniform
    for j in range(d):
        assert (
            stats.kstest((ball[:, j].numpy() / length + 1) / 2, "uniform").pvalue > 1e-3
        )


# -------------------------------------------------------------------------- losses


def naive_loss(z, y, name):
    others = np.delete(z, y)
    if name == "cross_entropy":
        return np.log(np.exp(z).sum()) - z[y]
    margin = others.max() - z[y]
    ranked = np.sort(z)[::-1]
    return margin if name == "margin" else margin / (ranked[0] - ranked[2] + 1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_losses_are_their_formulas(name):
    rng = np.random.RandomState(0)
    z, y = rng.randn(50, 5), rng.randint(5, size=50)
    wanted = [naive_loss(z[i], y[i], name) for i in range(50)]
    found = losses(torch.from_numpy(z), torch.from_numpy(y), name)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    targets = (y + 1) % 5
    found = losses(
        torch.from_numpy(z), torch.from_numpy(y), name, torch.from_numpy(targets)
    )
    for i, t in enumerate(targets):
        ranked = np.sort(z[i])[::-1]
        wanted[i] = -naive_loss(z[i], t, name)
        if name == "dlr":  # equation 7 of Croce and Hein
            below = ranked[0] - (ranked[2] + ranked[3]) / 2
            wanted[i] = -(z[i, y[i]] - z[i, t]) / (below + 1e-12)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_cross_entropy_is_climbed_along_its_own_gradient_where_it_has_one():
    z = torch.randn(30, 5, dtype=torch.float64, requires_grad=True)
    y = torch.arange(30) % 5
    (mine,) = torch.autograd.grad(objective(z, y, "cross_entropy").sum(), z)
    loss = nn.functional.cross_entropy(z, y, reduction="sum")
    (plain,) = torch.autograd.grad(loss, z)
    for norm in ("linf", "l2"):
        np.testing.assert_allclose(
            direction(mine.clone(), norm), direction(plain.clone(), norm), atol=1e-12
        )


@pytest.mark.parametrize("gap", [30.0, 200.0, 1e4])
def test_a_sure_model_leaves_cross_entropy_a_gradient(gap):
    z = torch.tensor([[gap, 0.0, -1.0]], requires_grad=True)
    y = torch.tensor([0])
    (plain,) = torch.autograd.grad(nn.functional.cross_entropy(z, y), z)
    (mine,) = torch.autograd.grad(objective(z, y, "cross_entropy").sum(), z)
    assert plain[0, 0] == 0  # the pitfall
    np.testing.assert_allclose(mine, [[-1, 0.7310586, 0.2689414]], rtol=1e-6)


def test_directions_of_tiny_gradients():
    tiny = torch.tensor([[3e-30, -4e-30], [0.0, 0.0]])
    np.testing.assert_allclose(
        direction(tiny.clone(), "l2"), [[0.6, -0.8], [0, 0]], rtol=1e-6
    )
    assert direction(tiny.clone(), "linf").tolist() == [[1, -1], [0, 0]]


# -------------------------------------------------------------------------- search


def naive_search(net, x, y, eps, step, max_iter, starts, norm):
    """One row at a time, every iterate kept, judged afterwards."""
    visited = [x]
    for start in starts:
        point = start.clone()
        for _ in range(max_iter):
            visited.append(point)
            leaf = point.clone().requires_grad_()
            loss = nn.functional.cross_entropy(net(leaf[None]), torch.tensor([y]))
            (slope,) = torch.autograd.grad(loss, leaf)
            if norm == "linf":
                point = point + step * slope.sign()
                point = torch.minimum(torch.maximum(point, x - eps), x + eps)
            else:
                delta = point + step * slope / slope.norm() - x
                point = x + delta * min(1.0, eps / float(delta.norm()))
            point = point.clamp(-1.5, 1.5)
        visited.append(point)
    with torch.no_grad():
        scores = net(torch.stack(visited))
    wrong = (scores.argmax(1) != y).nonzero()[:, 0]
    if len(wrong):
        return visited[wrong[0]], True
    return visited[int(losses(scores, torch.full((len(scores),), y)).argmax())], False


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("n_restarts", [1, 3])
def test_search_finds_what_a_loop_over_rows_finds(net, rows, norm, n_restarts):
    x = rows.clamp(-1.5, 1.5)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::10] = (y[::10] + 1) % 4  # misread from the start
    draws = RowDraws.of_rows(0, x.numpy())
    region = Region(x, 0.3, -1.5, 1.5, norm)
    found = search(
        net, x, y, region, Steps(0.05), draws, max_iter=7, n_restarts=n_restarts
    )
    starts = torch.stack(
        [
            region.random_start(draws.uniform(r, 0, (len(x), 7)))
            for r in range(n_restarts)
        ],
        dim=1,
    )
    naive = [
        naive_search(net, x[i], int(y[i]), 0.3, 0.05, 7, starts[i], norm)
        for i in range(len(x))
    ]
    assert found.is_broken.tolist() == [broken for _, broken in naive]
    assert 10 < found.is_broken.sum() < 70
    np.testing.assert_allclose(
        found.x_adv, torch.stack([point for point, _ in naive]), atol=1e-9
    )
    with torch.no_grad():
        scores = net(found.x_adv)
    np.testing.assert_allclose(found.loss, losses(scores, y), atol=1e-12)


def test_a_row_misread_on_the_way_is_broken_though_its_end_is_not():
    def scores(x):  # class 1 within a narrow valley, whose loss falls beyond it
        inside = 1 - (x - 0.3).abs() * 20
        return torch.cat([0 * x, inside], dim=1)

    x = torch.zeros(1, 1)
    found = search(
        scores,
        x,
        torch.tensor([0]),
        Region(x, 1.0),
        Steps(0.29),
        None,
        max_iter=2,
        random_start=False,
    )
    assert found.is_broken.item() and found.x_adv.item() == pytest.approx(0.29)
    last = ascend(
        scores,
        x,
        torch.tensor([0]),
        Region(x, 1.0),
        Steps(0.29),
        None,
        max_iter=2,
        random_start=False,
    )
    assert last.item() == pytest.approx(0.58)


def test_gradients_are_counted_and_rows_leave_as_they_break(net, rows):
    calls = []

    def scores(x):
        calls.append((len(x), torch.is_grad_enabled()))
        return net(x)

    with torch.no_grad():
        y = net(rows).argmax(1)
    draws = RowDraws.of_rows(0, rows.numpy())
    args = (scores, rows, y, Region(rows, 0.4), Steps(0.05), draws)
    found = search(*args, max_iter=9, n_restarts=2)
    sizes = [n for n, has_gradient in calls if has_gradient]
    assert sum(sizes) == found.n_gradients
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] == 80
    # without gradient: the clean rows, and the last iterates of each run
    assert [n for n, has_gradient in calls if not has_gradient][0] == 80
    assert len(calls) - len(sizes) == 3
    calls.clear()
    assert search(*args, max_iter=9, early_stop=False).n_gradients == 80 * 9
    assert len(calls) == 9 + 2


def test_a_flat_model_is_noticed():
    def scores(x):
        return torch.cat([x * 0 + 1, x.clamp_max(0)], dim=1)

    x = torch.tensor([[1.0], [-1.0]])
    found = search(
        scores,
        x,
        torch.tensor([0, 0]),
        Region(x, 0.1),
        Steps(0.05),
        None,
        max_iter=3,
        random_start=False,
    )
    assert found.n_zero_gradient == 1 and not found.is_broken.any()


def test_runs_begin_where_they_are_told(net, rows):
    y = torch.zeros(len(rows), dtype=torch.int64)
    begin = rows + 0.05
    region = Region(rows, 0.1)
    end = ascend(
        net, begin, y, region, Steps(0.0), None, max_iter=1, random_start=False
    )
    assert torch.equal(end, begin)
