import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.nn import functional as F

from skpoison.inversion import AnalyticInversion, _recursion, client_update
from skpoison.inversion._chain import Convolution
from skpoison.inversion._recursion import ConvolutionSystem, Signal, solve
from skpoison.models import LeNet, Normalized, as_module


def images(side=16):
    """Return five patches of photographs, (5, 3, side, side) in [0, 1]."""
    photos = load_sample_images().images
    step = 4 * side
    patches = [
        photo[row : row + step, column : column + step]
        .reshape(side, 4, side, 4, 3)
        .mean((1, 3))
        for photo, row, column in zip(
            [photos[0], photos[1]] * 3, [60, 60, 150, 150, 300],
            [100, 300, 200, 100, 400], strict=False,
        )
    ]  # fmt: skip
    return np.ascontiguousarray(np.array(patches).transpose(0, 3, 1, 2)) / 255


class ReLUNet(nn.Module):
    """Written with functions, as many networks are."""

    def __init__(self, side, n_channels=3):
        super().__init__()
        self.first = nn.Conv2d(n_channels, 16, 4, 2, 1)
        self.second = nn.Conv2d(16, 32, 4, 2, 1)
        self.hidden = nn.Linear(32 * (side // 4) ** 2, 50)
        self.out = nn.Linear(50, 10)

    def forward(self, X):
        X = F.relu(self.first(X))
        X = torch.relu(self.second(X)).view(len(X), -1)
        return self.out(F.relu(self.hidden(X)))


def psnr(found, X):
    return -10 * np.log10(np.mean((found - X) ** 2) + 1e-40)


def attack(net, X, label=3, dtype=torch.float64, **params):
    """Return what the attack makes of the gradient at X."""
    net = net.to(dtype)
    gradients = client_update(net, torch.as_tensor(X, dtype=dtype), [label])
    shape = params.pop("shape", X.shape[1:])
    return AnalyticInversion(net, **params).reconstruct(gradients, shape=shape)


# -------------------------------------------------------------------------- the figures


@pytest.mark.slow
@pytest.mark.parametrize("dtype, level", [("float64", 200), ("float32", 70)])
@pytest.mark.parametrize("make", [LeNet, ReLUNet], ids=["lenet", "relu"])
def test_images_from_gradients(make, dtype, level):
    torch.manual_seed(0)
    for label, X in enumerate(images()):
        net = make((3, 16, 16), 10) if make is LeNet else make(16)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = attack(net, X[None], label, getattr(torch, dtype))
        assert psnr(found.X, X.astype(dtype)) > level
        assert found.exact and found.y.tolist() == [label]
        assert found.method == "recursive"
        names = {"linear": ["linear"], "relu": ["hidden", "second", "first"]}
        if make is ReLUNet:
            assert [layer.name for layer in found.layers] == names["relu"]
        assert found.X.shape == (1, 3, 16, 16) and found.X.dtype == np.float64


@pytest.mark.slow
def test_a_trained_network_that_is_sure():
    """Rounding of p - y is large there, and the equations do not see it."""
    X, y = load_digits(return_X_y=True)
    X = torch.as_tensor(X / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    torch.manual_seed(0)
    net = ReLUNet(8, 1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(X[:500]), torch.as_tensor(y[:500])).backward()
        optimizer.step()
    with torch.no_grad():
        net.out.weight *= 3
        net.out.bias *= 3
    found = attack(net, X[:1].numpy(), int(y[0]), torch.float32)
    assert found.exact and psnr(found.X, X[:1].numpy()) > 100
    assert found.residual > 1e-4  # of the gradient as float64 would have had it


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 20, 3, padding=1), nn.Tanh()],
        [nn.Conv2d(1, 20, 3, stride=2, padding=1), nn.ELU(0.7)],
        [nn.Conv2d(1, 20, (3, 5), padding=(1, 2), bias=False), nn.LeakyReLU(0.2)],
        [nn.Conv2d(1, 30, 3, padding=2, dilation=2), nn.Softplus()],
        [nn.Conv2d(1, 20, 5, padding="same"), nn.BatchNorm2d(20), nn.ReLU()],
        [nn.Conv2d(1, 20, 3), nn.Identity(), nn.Dropout(), nn.Sigmoid()],
        [nn.Conv2d(1, 20, 3), nn.BatchNorm2d(20, affine=False), nn.ReLU(inplace=True)],
        [nn.Conv2d(1, 12, 3), nn.ReLU6()],
    ],
    ids=[
        "tanh", "elu_stride", "leaky_oblong", "softplus_dilated", "batch_norm",
        "dropout", "in_place", "relu6",
    ],
)  # fmt: skip
def test_layers(layers):
    torch.manual_seed(0)
    body = nn.Sequential(*copy.deepcopy(layers), nn.Flatten())
    for part in body:
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    width = body.eval()(torch.zeros(1, 1, 8, 8)).shape[1]
    net = nn.Sequential(body, nn.Linear(width, 10)).eval()
    X = load_digits().images[7][None, None] / 16
    if isinstance(layers[-1], nn.ReLU6):
        with pytest.raises(TypeError, match="hardtanh is none of the operations"):
            attack(net, X)
        return
    found = attack(net, X)
    assert found.exact and psnr(found.X, X) > 200


@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected(bias):
    """A first layer without bias is solved from behind."""
    torch.manual_seed(0)
    X = load_digits().data[:1] / 16
    net = nn.Sequential(nn.Linear(64, 30, bias=bias), nn.ReLU(), nn.Linear(30, 10))
    gradients = client_update(net.double(), X, [0])
    found = AnalyticInversion(net).reconstruct(gradients)
    assert found.exact and found.method == ("analytic" if bias else "recursive")
    np.testing.assert_allclose(found.X, X, atol=1e-12)
    assert found.residual < 1e-12 and found.loss == found.residual**2


def test_normalised_pixels():
    torch.manual_seed(0)
    X, mean, scale = images()[:1], [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    net = LeNet((3, 16, 16), 10).double()
    Z = (X - np.reshape(mean, (3, 1, 1))) / np.reshape(scale, (3, 1, 1))
    gradients = client_update(net, Z, [1])
    attack_ = AnalyticInversion(net, mean=mean, scale=scale)
    assert psnr(attack_.reconstruct(gradients, shape=(3, 16, 16)).X, X) > 200
    torch.manual_seed(0)
    net = Normalized((3, 16, 16), 10, LeNet, mean, scale)
    assert psnr(attack(net, X).X, X) > 150  # its mean and std are float32


def test_updates_of_weights_and_estimators():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    model = MLPClassifier((20,), max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    module = as_module(model)
    update = client_update(module, X[:1], y[:1], update="weights", local_lr=0.1)
    inversion = AnalyticInversion(model, update="weights", local_lr=0.1)
    found = inversion.reconstruct(update)
    assert found.y.tolist() == [y[0]] and found.residual < 1e-8
    np.testing.assert_allclose(found.X, X[:1], atol=1e-8)


# ----------------------------------------------------------------- noise and the polish


@pytest.mark.slow
def test_polish_helps_where_the_closed_form_is_not_exact():
    torch.manual_seed(0)
    X = images()[:1]
    net = LeNet((3, 16, 16), 10).double()
    generator = torch.Generator().manual_seed(0)
    gradients = {
        name: g + 1e-3 * g.std() * torch.randn(g.shape, generator=generator)
        for name, g in client_update(net, X, [2]).items()
    }
    found = {}
    for polish in (False, True):
        inversion = AnalyticInversion(net, polish=polish, max_iter=100)
        with pytest.warns(UserWarning, match="not of rank one"):
            found[polish] = inversion.reconstruct(gradients, shape=(3, 16, 16))
    assert found[True].method == "recursive+lbfgs"
    assert found[False].method == "recursive"
    assert not found[True].exact and not found[False].exact
    assert found[True].residual < found[False].residual
    assert psnr(found[True].X, X) > psnr(found[False].X, X) + 3


@pytest.mark.slow
def test_noise_hides_which_units_are_on():
    """One threshold for all would lose most of the units that are on."""
    torch.manual_seed(1)
    X, net = images()[:1], ReLUNet(16).double()
    gradients = client_update(net, X, [2])
    size = torch.cat([g.ravel() for g in gradients.values()]).square().mean().sqrt()
    gradients = {
        name: g + 1e-3 * size * torch.randn_like(g) for name, g in gradients.items()
    }
    inversion = AnalyticInversion(net, polish=False)
    with pytest.warns(UserWarning, match="not of rank one"):
        found = inversion.reconstruct(gradients, shape=(3, 16, 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_recursion, "_FACTORS", (3.0,))
        with pytest.warns(UserWarning, match="not of rank one"):
            once = inversion.reconstruct(gradients, shape=(3, 16, 16))
    assert psnr(found.X, X) > psnr(once.X, X) + 10
    assert found.layers[-1].residual < 0.5 * once.layers[-1].residual


def test_too_few_equations():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 2, 3, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(98, 10)
    )
    with pytest.warns(UserWarning, match="layer '0', 152 for 768 unknowns, do not"):
        found = attack(net, images()[:1], polish=False)
    assert not found.exact and found.layers[-1].error > 0.1
    assert found.layers[-1].shape == (152, 768)
    # the smallest of all inputs that fit
    assert found.layers[-1].residual < 1e-10


def test_equations_enough_in_number_alone():
    """Two equal filters: the second one's equations say nothing new."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 2, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(128, 10)
    )
    with torch.no_grad():
        net[0].weight[:] = net[0].weight[:1]
        net[0].bias[:] = net[0].bias[:1]
        net[3].weight[:] = net[3].weight[:, :16].repeat(1, 8)
    X = load_digits().images[3][None, None] / 16
    with pytest.warns(UserWarning, match="160 for 64 unknowns, do not determine"):
        found = attack(net, X, polish=False)
    assert not found.exact


# ------------------------------------------------------------------------ the equations


def system(noise=0.0, n_outputs=9):
    """Return a convolution's equations, their matrix and right side."""
    rng = np.random.RandomState(0)
    layer = Convolution("w", "b", torch.Size((1, 2, 7, 6)), (2, 1), (1, 2), (1, 2))
    weight = torch.as_tensor(rng.randn(n_outputs, 2, 3, 2))
    bias = torch.as_tensor(rng.randn(n_outputs))
    a = torch.as_tensor(rng.randn(1, 2, 7, 6))
    weight.requires_grad_()
    z = F.conv2d(a, weight, bias, (2, 1), (1, 2), (1, 2))
    delta = torch.as_tensor(rng.randn(*z.shape))
    (gradient,) = torch.autograd.grad((delta * z).sum(), weight)
    trust = torch.as_tensor(rng.rand(*z.shape) * (rng.rand(*z.shape) < 0.6))
    z = z.detach() + noise * torch.as_tensor(rng.randn(*z.shape))
    signal = Signal(z, delta, trust)
    weight = weight.detach()
    equations = ConvolutionSystem(layer, weight, bias, gradient, signal)
    basis = torch.eye(84, dtype=torch.float64).reshape(84, 2, 7, 6)
    rows = [block.flatten(1).T for block in equations.forward(basis)]
    right = [block.flatten() for block in equations.right_side()]
    return equations, torch.cat(rows), torch.cat(right), a


def test_equations_hold_at_the_input():
    equations, matrix, right, a = system()
    np.testing.assert_allclose(matrix @ a.flatten(), right, atol=1e-13)
    assert equations.n_unknowns == 84
    known = (matrix != 0).any(1).sum()
    assert known == equations.n_equations < len(matrix)


def test_normal_matrix_and_adjoint():
    equations, matrix, right, _ = system()
    gram = equations.gram(torch.arange(2))
    np.testing.assert_allclose(gram, matrix.T @ matrix, atol=1e-13)
    single = equations.gram(torch.arange(1, 2))
    np.testing.assert_allclose(single, gram[42:, 42:], atol=1e-13)
    back = equations.adjoint(*equations.right_side())
    np.testing.assert_allclose(back.flatten(), matrix.T @ right, atol=1e-13)


@pytest.mark.parametrize("limit", [8000, 50], ids=["whole", "by_channel"])
def test_least_squares(limit, monkeypatch):
    monkeypatch.setattr(_recursion, "_DENSE_LIMIT", limit)
    equations, matrix, right, _ = system(noise=0.1)
    found, residual, error = solve(equations)
    expected, *_ = np.linalg.lstsq(matrix.numpy(), right.numpy(), rcond=None)
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-9)
    off = np.linalg.norm(matrix.numpy() @ expected - right.numpy())
    assert residual == pytest.approx(off / np.linalg.norm(right))
    assert error < 1e-9


def test_smallest_solution_of_too_few_equations():
    equations, matrix, right, _ = system(n_outputs=1)
    assert equations.n_equations < equations.n_unknowns
    found, residual, error = solve(equations)
    expected, *_ = np.linalg.lstsq(matrix.numpy(), right.numpy(), rcond=None)
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-6)
    assert residual < 1e-9 and error > 0.1


# ------------------------------------------------------------------------- the contract


def test_labels():
    torch.manual_seed(0)
    net, X = LeNet((3, 16, 16), 10).double(), images()[:1]
    gradients = client_update(net, X, [4])
    inversion = AnalyticInversion(net)
    assert inversion.reconstruct(gradients, 4, (3, 16, 16)).y.tolist() == [4]
    with pytest.warns(UserWarning, match="is that of class 4"):
        found = inversion.reconstruct(gradients, [7], (3, 16, 16))
    assert found.y.tolist() == [7] and psnr(found.X, X) > 200
    with pytest.raises(ValueError, match="got 2 labels: use GradientInversion"):
        inversion.reconstruct(gradients, [4, 4], (3, 16, 16))
    with pytest.raises(ValueError, match="class indices in"):
        inversion.reconstruct(gradients, [10], (3, 16, 16))


def test_a_batch_is_noticed():
    torch.manual_seed(0)
    net = LeNet((3, 16, 16), 10).double()
    gradients = client_update(net, images()[:2], [4, 5])
    with pytest.warns(UserWarning, match="or of a batch, which GradientInversion"):
        found = AnalyticInversion(net, polish=False).reconstruct(
            gradients, shape=(3, 16, 16)
        )
    assert not found.exact


def test_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    net = LeNet((3, 16, 16), 10)
    net.train()
    net.linear.bias.grad = torch.ones(10)
    gradients = client_update(net, images()[:1], [4])
    before, mode = copy.deepcopy(net.state_dict()), torch.get_default_dtype()
    first = clone(AnalyticInversion(net), safe=False)
    results = [
        inversion.reconstruct(gradients, shape=(3, 16, 16)).X
        for inversion in (AnalyticInversion(net), first)
    ]
    np.testing.assert_array_equal(*results)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == mode
    assert net.training and torch.equal(net.linear.bias.grad, torch.ones(10))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(768, 4)

    def forward(self, X):
        return self.linear((X + self.conv(X)).flatten(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(768, 4)

    def forward(self, X):
        return self.linear(self.conv(torch.tanh(self.conv(X))).flatten(1))


class Late(nn.Module):
    """The branch comes back behind the layer that the closed form starts from."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(768, 4)
        self.other = nn.Linear(768, 4)

    def forward(self, X):
        X = torch.tanh(self.conv(X)).flatten(1)
        return self.linear(X) + self.other(X)


class Cat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(1536, 4)

    def forward(self, X):
        return self.linear(torch.cat([X, self.conv(X)], 1).flatten(1))


def chain(*layers, n_inputs):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_inputs, 4))


@pytest.mark.parametrize(
    "net, match",
    [
        (chain(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), n_inputs=196), "max_pool2d"),
        (chain(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), n_inputs=196), "avg_pool2d"),
        (chain(nn.Conv2d(3, 4, 3), nn.GELU(), n_inputs=784), "gelu is none"),
        (chain(nn.Conv2d(3, 3, 3, groups=3), n_inputs=588), "groups=1"),
        (chain(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3), n_inputs=768), "group_norm"),
        (Skip(), "add joins a second branch, as in a skip connection"),
        (Late(), "addmm starts a second branch"),
        (Cat(), "cat joins a second branch"),
        (Twice(), "conv.weight is used 2 times"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 4, bias=False)), "has none"),
    ],
    ids=[
        "max",
        "mean",
        "gelu",
        "groups",
        "norm",
        "skip",
        "late",
        "cat",
        "shared",
        "no_bias",
    ],
)
def test_networks_that_are_no_chain(net, match):
    with pytest.raises(TypeError, match=f"{match}.*use GradientInversion"):
        attack(net, images()[:1], label=1)


def test_what_comes_behind_may_be_anything():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(64, 40), nn.GELU(), nn.LayerNorm(40))
    net = nn.Sequential(head, nn.Linear(40, 5))
    X = load_digits().data[:1] / 16
    found = attack(net, X, shape=None)
    assert found.exact and abs(found.X - X).max() < 1e-12


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"update": "delta"}, ValueError, "update must be one of"),
        ({"local_lr": -1.0}, ValueError, "local_lr must be > 0"),
        ({"bounds": (1, 0)}, ValueError, "low <= high"),
        ({"mean": [0, 0]}, ValueError, "mean must be a number or one a channel"),
        ({"scale": 0.0}, ValueError, "scale must be finite and > 0"),
        ({"polish": "yes"}, TypeError, "polish must be a bool"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"device": "abacus"}, ValueError, "device must be"),
        ({"shape": None}, ValueError, "shape must be that of one input"),
        ({"shape": (3, 15, 40)}, ValueError, "takes no inputs of shape"),
        ({"shape": (3, 16, 0)}, ValueError, "shape must be >= 1"),
    ],
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        attack(LeNet((3, 16, 16), 10), images()[:1], **params)


def test_bad_gradients():
    net = LeNet((3, 16, 16), 10)
    gradients = client_update(net, images()[:1], [4])
    inversion = AnalyticInversion(net)
    for values, match in [
        ({n: 0 * g for n, g in gradients.items()}, "the update is zero"),
        ({n: g * np.nan for n, g in gradients.items()}, "NaN or infinite"),
        (list(gradients.values())[:-1], "has 7 arrays"),
    ]:
        with pytest.raises(ValueError, match=match):
            inversion.reconstruct(values, shape=(3, 16, 16))
    net.features[2].requires_grad_(False)
    gradients = client_update(net, images()[:1], [4])
    with pytest.raises(ValueError, match="features.2.weight, which is frozen"):
        inversion.reconstruct(gradients, shape=(3, 16, 16))
