import numpy as np
import pytest
import torch
from landscape._minima import conv, conv_net, images, table
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from skpoison.landscape import (
    construct_suboptimal_minimum,
)
from skpoison.models import (
    MLP,
    Normalized,
    TorchClassifier,
)


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


@pytest.mark.slow
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
