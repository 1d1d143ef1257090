import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from skpoison.landscape import LossSliceDisplay, hessian_eigenvalues
from skpoison.landscape._objective import TrainingLoss

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), y


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))


def test_lines_along_eigenvectors(iris, net):
    display = LossSliceDisplay.from_module(
        net, *iris, directions=["smallest", "largest"], radius=0.1, n_points=3,
        weight_decay=0.5, random_state=0,
    )  # fmt: skip
    found = hessian_eigenvalues(net, *iris, weight_decay=0.5, random_state=0)
    loss = TrainingLoss(net, *iris, weight_decay=0.5)
    for i, end in enumerate(["smallest", "largest"]):
        vector = torch.tensor(found[f"{end}_vectors"][0])
        ends = [loss.value(loss.start + s * 0.1 * vector) for s in (-1, 1)]
        np.testing.assert_allclose(
            np.sort(display.losses[i][[0, 2]]), np.sort(ends), rtol=1e-5
        )
        # second differences are the eigenvalue
        bent = display.losses[i] @ [1, -2, 1] / 0.1**2
        assert bent == pytest.approx(found[end][0], rel=0.05)
        assert display.names[i] == f"{end} eigenvalue, {found[end][0]:.3g}"
    np.testing.assert_allclose(display.alphas, [-0.1, 0, 0.1])
    assert (display.losses[:, 1] == loss.value(loss.start)).all()


def test_random_lines_have_unit_length(iris, net):
    display = LossSliceDisplay.from_module(
        net, *iris, directions=["random"], n_random=3, n_points=2, random_state=0
    )
    assert display.losses.shape == (3, 2)
    assert display.names == ["random 1", "random 2", "random 3"]
    zero = nn.Linear(4, 3)
    nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)

    class Length(nn.Module):  # the squared length of what a step adds to the bias
        def forward(self, out, y):
            return out.pow(2).sum(1).mean()

    X, y = np.zeros((5, 4)), np.zeros((5, 3))
    flat = LossSliceDisplay.from_module(
        zero, X, y, criterion=Length, directions=["random"], weight_decay=2.0,
        radius=3.0, n_points=2, random_state=0,
    )  # fmt: skip
    assert (flat.losses >= 9).all() and (flat.losses <= 18).all()


def test_filters_keep_their_lengths(iris):
    net = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 3)
    )
    net[1].weight.data *= torch.tensor([1.0, 0.0, 100.0]).view(3, 1, 1, 1)

    class Penalty(nn.Module):
        def forward(self, out, y):
            return 0 * out.sum(1).mean()

    # of a step d from theta, half of both squared lengths: theta^2 + d^2 on average
    params = {"directions": ["random"], "normalization": "filter", "n_points": 2}
    display = LossSliceDisplay.from_module(
        net, iris[0], np.zeros((150, 3)), criterion=Penalty, weight_decay=1.0,
        random_state=0, **params,
    )  # fmt: skip
    weights = [net[1].weight, net[3].weight]
    whole = sum(p.double().pow(2).sum().item() for p in net.parameters())
    added = sum(w.double().pow(2).sum().item() for w in weights)
    expected = np.full(5, (whole + added) / 2)
    np.testing.assert_allclose(display.losses.mean(axis=1), expected, rtol=1e-10)


def test_same_seed_same_lines(iris, net):
    params = {"n_points": 4, "n_random": 2, "random_state": 7}
    before = torch.get_rng_state()
    first = LossSliceDisplay.from_module(net, *iris, **params)
    second = LossSliceDisplay.from_module(net, *iris, batch_size=40, **params)
    np.testing.assert_allclose(first.losses, second.losses, rtol=1e-9)
    only = LossSliceDisplay.from_module(net, *iris, directions=("random",), **params)
    np.testing.assert_array_equal(only.losses, first.losses[2:])
    assert torch.equal(torch.get_rng_state(), before)


def test_plot():
    _, ax = plt.subplots()
    losses = [[3, 1, 2], [1, 1, 1]]
    display = LossSliceDisplay([-1, 0, 1], losses, names=["a", "b"])
    assert display.plot(ax=ax, linewidth=3) is display
    assert display.ax_ is ax and display.figure_ is ax.figure
    assert [line.get_ydata().tolist() for line in display.lines_] == losses
    assert display.lines_[0].get_linewidth() == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_ylabel() == "training loss"
    unnamed = LossSliceDisplay([0, 1], [[1, 2]]).plot()
    assert unnamed.ax_ is not ax and unnamed.ax_.get_legend() is None


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"directions": "random"}, TypeError, "directions must be a sequence of"),
        ({"directions": []}, ValueError, "directions must name at least one"),
        ({"directions": ["top"]}, ValueError, "each of directions must be one of"),
        ({"n_random": 0}, ValueError, "n_random must be >= 1"),
        ({"normalization": "layer"}, ValueError, "normalization must be one of"),
        ({"radius": 0}, ValueError, "radius must be > 0"),
        ({"n_points": 1}, ValueError, "n_points must be >= 2"),
        ({"max_products": "a"}, TypeError, "max_products must be an int"),
    ],
)
def test_bad_parameters(iris, net, params, error, message):
    with pytest.raises(error, match=message):
        LossSliceDisplay.from_module(net, *iris, **params)
