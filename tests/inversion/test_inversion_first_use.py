"""Every function takes the same models, and refuses nonsense before it works."""

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier
from torch import nn

from skpoison.federated import FederatedClassifier
from skpoison.inversion import (
    AnalyticInversion,
    GradientInversion,
    client_update,
    invert_linear,
    load_update,
    prune_update,
    recover_labels,
    save_update,
)
from skpoison.metrics import psnr
from skpoison.model_selection import leakage_curve
from skpoison.models import LeNet, TorchClassifier
from skpoison.utils import local_torch_seed

X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]
NAMES = np.array(list("abcdefghij"))[Y]
MODELS = {
    "torch": (TorchClassifier(max_epochs=0, device="cpu", random_state=0), NAMES),
    "logistic": (LogisticRegression(max_iter=20), NAMES),
    "two classes": (LogisticRegression(max_iter=20), Y > 4),
    "sgd": (SGDClassifier(loss="log_loss", max_iter=5, random_state=0), Y + 5),
    "mlp": (MLPClassifier((20,), max_iter=2, random_state=0), NAMES),
    "federation": (FederatedClassifier(n_rounds=1, random_state=0), NAMES),
    "frozen": (LogisticRegression(max_iter=20), Y + 5),
}


@pytest.mark.parametrize("name", MODELS)
def test_fitted_classifiers_everywhere(name, tmp_path):
    model, y = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = copy.deepcopy(model).fit(X, y)
    if name == "frozen":
        model = FrozenEstimator(model)
    update = client_update(model, X[:1], y[:1])
    save_update(tmp_path / "update.npz", update)
    assert list(load_update(tmp_path / "update.npz", model)) == list(update)
    assert recover_labels(update, model, 1).tolist() == [y[0]]
    for inversion in AnalyticInversion(model), GradientInversion(model):
        for labels in (None, y[:1]):
            found = inversion.reconstruct(tmp_path / "update.npz", labels=labels)
            assert found.y.tolist() == [y[0]] and found.exact
            np.testing.assert_allclose(found.X, X[:1], atol=1e-6)
    with pytest.raises(ValueError, match="y has 'z', which is none of the"):
        client_update(model, X[:1], np.array(["z"], dtype=object))
    curve = leakage_curve(
        AnalyticInversion(model), X[:2], y[:2], defense=prune_update, param_range=[0]
    )
    assert (curve.psnr > 100).all()


def test_rows_for_a_classifier_of_images():
    clf = TorchClassifier(
        LeNet, input_shape=(1, 8, 8), max_epochs=0, device="cpu", random_state=0
    ).fit(X, Y)
    update = client_update(clf, X[:1], Y[:1])
    images = client_update(clf.module_, X[:1].reshape(1, 1, 8, 8), Y[:1])
    for name, values in images.items():
        torch.testing.assert_close(update[name], values)
    found = GradientInversion(clf).reconstruct(update)  # the shape is the classifier's
    assert found.X.shape == (1, 1, 8, 8) and psnr(X[:1], found.X.reshape(1, -1)) > 40


@pytest.fixture(scope="module")
def net():
    with local_torch_seed(0):
        return LeNet((2, 8, 8), 4)


def of_images(net, images, y=(3, 1)):
    return torch.cat([v.flatten() for v in client_update(net, images, y).values()])


def test_memory_layouts_and_types(net):
    images = np.random.RandomState(0).randint(0, 256, (2, 2, 8, 8)).astype(np.uint8)
    expected = of_images(net, torch.from_numpy(images).float() / 255)
    last = torch.from_numpy(images / 255).permute(0, 2, 3, 1).contiguous()
    for same in (
        images,
        torch.from_numpy(images),
        np.asfortranarray(images / 255),
        (images / 255).astype(">f8"),
        last.permute(0, 3, 1, 2),
        (images / 255).tolist(),
    ):
        torch.testing.assert_close(of_images(net, same), expected)
    backwards = (images / 255)[::-1], np.array([3, 1], dtype=">i4")[::-1]
    torch.testing.assert_close(of_images(net, *backwards), expected)
    pixels = (images * 1.0).reshape(2, -1)
    clf = LogisticRegression(max_iter=5).fit(pixels, [0, 1])
    for a, b in zip(
        client_update(clf, images.reshape(2, -1), [0, 1]).values(),
        client_update(clf, pixels, [0, 1]).values(),
        strict=True,
    ):
        torch.testing.assert_close(a, b)  # scikit-learn's see 0 to 255


IMAGES = np.full((2, 2, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("rows", "y", "params", "error", "match"),
    [
        (IMAGES[0, 0, 0], [0] * 8, {}, ValueError, r"X must have shape \(n_samples"),
        (IMAGES[:0], [], {}, ValueError, r"X must have shape \(n_samples"),
        (IMAGES * np.nan, [0, 1], {}, ValueError, "X holds NaN"),
        (IMAGES.astype(str), [0, 1], {}, TypeError, "X must hold numbers"),
        (IMAGES + 1j, [0, 1], {}, TypeError, "X must hold numbers"),
        (IMAGES, ["a", "b"], {}, TypeError, "y must be numbers for a network"),
        (IMAGES, [0, np.nan], {}, ValueError, "y must be class indices"),
        (IMAGES, np.full((2, 4), np.nan), {}, ValueError, "rows of 4 probabilities"),
        (IMAGES, np.full((2, 4), -0.25), {}, ValueError, "rows of 4 probabilities"),
        (IMAGES, [0, 1], {"criterion": lambda s, y: s}, TypeError, "one number, got"),
        (IMAGES, [0, 1], {"criterion": lambda s, y: 1.0}, TypeError, "one number, got"),
        (IMAGES, [0, 1], {"criterion": lambda s, y: s.detach().sum()}, ValueError,
         "detaches"),
        (IMAGES * 1e300, [0, 1], {}, FloatingPointError, "NaN or infinite"),
        (IMAGES, [0, 1], {"update": "weights", "local_lr": 0}, ValueError, "local_lr"),
    ],
    ids=["one row", "none", "nan", "text", "complex", "names", "nan label",
         "nan shares", "negative shares", "loss a row", "loss a float", "detached",
         "huge", "rate"],
)  # fmt: skip
def test_updates_that_no_client_sends(net, rows, y, params, error, match):
    with pytest.raises(error, match=match):
        client_update(net, rows, y, **params)


def test_a_network_that_loses_rows():
    class First(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:1]

    with pytest.raises(ValueError, match="one row of scores an input"):
        client_update(First(3, 2), np.ones((2, 3)), [0, 1])


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"init": np.ones((2, 2, 8, 7))}, ValueError, "init must be one of"),
        ({"init": np.full((2, 2, 8, 8), np.nan)}, ValueError, "init must be one of"),
        ({"init": None}, ValueError, "init must be one of"),
        ({"priors": None}, TypeError, "priors must be a sequence"),
        ({"local_lr": 0, "update": "weights"}, ValueError, "local_lr must be > 0"),
        ({"class_prior": [1.0]}, ValueError, "class_prior must have one entry"),
        ({"class_prior": "uniform"}, TypeError, "class_prior must be an array"),
    ],
    ids=["shape", "nan", "none", "priors", "rate", "one share", "word"],
)
def test_bad_parameters(net, params, error, match):
    params = {"solver": "lbfgs", "n_samples": 2, "max_iter": 3, **params}
    with pytest.raises(error, match=match):
        GradientInversion(net, **params).reconstruct(
            client_update(net, IMAGES, [0, 1]), shape=(2, 8, 8)
        )


@pytest.mark.parametrize("scale", [1e-180, 1e180])
def test_updates_whose_squares_are_no_numbers(net, scale):
    net = copy.deepcopy(net).double()
    update = client_update(net, np.random.RandomState(0).rand(1, 2, 8, 8), [2])
    update = {n: u * scale for n, u in update.items()}
    with pytest.raises(ValueError, match=r"the update has length \de"):
        GradientInversion(net, solver="signed_adam", max_iter=5).reconstruct(
            update, labels=[2], shape=(2, 8, 8)
        )
    assert recover_labels(update, net, 1).tolist() == [2]


def test_wild_counts():
    last = nn.Linear(3, 4).double()
    update = [torch.zeros(4, 3), torch.tensor([1.0, -3.0, 1.0, 1.0]) * 1e30]
    assert recover_labels(update, last, 5).tolist() == [1] * 5


def test_a_last_layer_without_gradient():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    update = [torch.ones(4, 3), torch.ones(4), torch.zeros(2, 4), torch.zeros(2)]
    with pytest.raises(ValueError, match="last layer is zero"):
        recover_labels(update, net, 1)


def test_names_that_numpy_uses_itself(tmp_path):
    save_update(tmp_path / "u.npz", {"file": np.ones(2), "args": np.zeros(1)})
    with np.load(tmp_path / "u.npz") as archive:
        assert sorted(archive.files) == ["args", "file"]
        assert archive["file"].tolist() == [1, 1]


def test_complex_numbers_are_refused():
    with pytest.raises(TypeError, match="weight_grad must hold real"):
        invert_linear(torch.ones(2, 2, dtype=torch.complex64), torch.ones(2))
    with pytest.raises(TypeError, match="X_true must hold real"):
        psnr(torch.ones(1, 2, dtype=torch.complex64), torch.ones(1, 2))


class Interrupted(nn.Module):
    """Is stopped in the forward pass with this number, copies counted too."""

    calls: list = []
    at = 0

    def __init__(self):
        super().__init__()
        self.first, self.bn = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        self.calls.append(None)
        if len(self.calls) == Interrupted.at:
            raise KeyboardInterrupt
        return self.last(torch.tanh(self.bn(self.first(x))))


@pytest.mark.parametrize("at", [1, 2, 3, 4, 8, 20])
def test_an_interrupt_leaves_no_trace(at, monkeypatch):
    net = Interrupted().eval()
    update = client_update(net, np.ones((2, 6)) * [[0.1], [0.9]], [0, 2])
    net.train()
    net.first.bias.grad = torch.ones(8)
    net.first.weight.requires_grad_(True)

    def state():
        return (
            {n: v.clone() for n, v in net.state_dict().items()},
            [m.training for m in net.modules()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
            [p.requires_grad for p in net.parameters()],
            net.first.bias.grad.tolist(),
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
        )

    def work():
        recover_labels(update, net, 2, random_state=0)
        attack = GradientInversion(
            net, n_samples=2, batch_norm="train", n_restarts=2, max_iter=5,
            random_state=0,
        )  # fmt: skip
        for solver in ("signed_adam", "lbfgs"):
            attack.set_params(solver=solver).reconstruct(update)

    before = state()
    monkeypatch.setattr(Interrupted, "calls", [])
    monkeypatch.setattr(Interrupted, "at", at)
    with pytest.raises(KeyboardInterrupt):
        work()
    after = state()
    for name, values in before[0].items():
        torch.testing.assert_close(after[0][name], values, rtol=0, atol=0)
    assert after[1:] == before[1:]


def test_a_shape_that_does_not_fit_leaves_no_hook():
    net = nn.Linear(6, 3)
    update = [torch.ones(3, 6), torch.tensor([-1.0, 0.5, 0.5])]
    for shape, error in (((5,), ValueError), (6, TypeError)):
        with pytest.raises(error):
            recover_labels(update, net, 2, shape=shape)
    assert not net._forward_hooks


@pytest.mark.slow
def test_heavily_pruned_gradients_end_soon():
    with local_torch_seed(0):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 36, 10),
        ).double()  # fmt: skip
    image = np.random.RandomState(0).rand(1, 1, 12, 12)
    update = prune_update(client_update(net, image, [1]), 0.99)
    passes = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, *_: passes.append(isinstance(module, nn.Sequential))
    )
    try:
        with pytest.warns(UserWarning, match="do not determine its input"):
            found = AnalyticInversion(net).reconstruct(update, shape=(1, 12, 12))
    finally:
        hook.remove()
    assert not found.exact
    assert sum(passes) < 300  # of the 500 evaluations that the polish may take
