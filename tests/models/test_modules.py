"""The networks: shapes, names of weights, published weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from skpoison.models import (
    MLP,
    ConvNet,
    LeNet,
    LinearModel,
    ResNet18,
    ResNet20,
    TorchClassifier,
)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7), (2, 8, 8), (3, 32, 33)])
def test_image_networks_take_any_size(shape):
    X = torch.zeros(2, *shape)
    for net in (
        ConvNet(shape, 5),
        ConvNet(shape, 5, channels=(4, 4, 4, 4), hidden=8, dropout=0.2),
        ResNet18(shape, 5, width=4),
        ResNet20(shape, 5),
        LeNet(shape, 5),
        LeNet(shape, 5, activation="relu"),
        MLP(shape, 5),
        LinearModel(shape, 5),
    ):
        assert net.eval()(X).shape == (2, 5)


@pytest.mark.parametrize("shape", [(20,), (1, 3, 8), (8, 8)])
@pytest.mark.parametrize("module", [ConvNet, LeNet, ResNet18, ResNet20])
def test_image_networks_say_what_they_need(module, shape):
    with pytest.raises(ValueError, match=f"{module.__name__} needs samples of shape"):
        module(shape, 2)


def test_sizes():
    def n_weights(net):
        return sum(p.numel() for p in net.parameters())

    # figures of the papers' tables and of direct counts
    assert n_weights(ResNet18((3, 32, 32), 10)) == 11_173_962
    assert n_weights(ResNet20((3, 32, 32), 10)) == 269_722
    assert n_weights(LeNet((3, 32, 32), 10)) == 15_826
    assert n_weights(LeNet((1, 28, 28), 10)) == 13_426
    assert n_weights(LinearModel((3, 2), 4)) == 28
    assert n_weights(MLP((4,), 3, hidden=())) == 15


def test_lenet_starts_as_published():
    net = LeNet((1, 28, 28), 10)
    for values in net.parameters():  # biases too
        assert values.abs().max() <= 0.5
    every = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert abs(every.mean()) < 0.02 and abs(every.std() - 12**-0.5) < 0.01
    assert not any(isinstance(part, torch.nn.ReLU) for part in net.modules())
    strides = [p.stride[0] for p in net.modules() if isinstance(p, torch.nn.Conv2d)]
    assert strides == [2, 2, 1]
    with pytest.raises(ValueError, match="activation must be one of 'sigmoid', 'relu'"):
        LeNet((1, 28, 28), 10, activation="tanh")


def test_per_sample_gradients_and_second_derivatives():
    net = ConvNet((1, 9, 9), 3, channels=(2, 2), hidden=4)
    X, y = torch.randn(4, 1, 9, 9), torch.tensor([0, 1, 2, 0])
    params = dict(net.named_parameters())

    def loss(params, x, label):
        out = torch.func.functional_call(net, params, (x[None],))
        return torch.nn.functional.cross_entropy(out, label[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, X, y)
    assert all(len(gradient) == 4 for gradient in each.values())
    X.requires_grad_()
    value = torch.nn.functional.cross_entropy(net(X), y)
    first = torch.autograd.grad(value, list(net.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(sum((g**2).sum() for g in first), X)
    assert torch.isfinite(second).all() and second.abs().sum() > 0


def test_resnet_trains_through_the_classifier():
    rng = np.random.RandomState(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 1, 8, 8)).astype(np.float32) + 2 * y[:, None, None, None]
    clf = TorchClassifier(
        ResNet18, module__width=4, max_epochs=5, batch_size=8, device="cpu",
        random_state=0,
    )  # fmt: skip
    assert clf.fit(X, y).score(X, y) > 0.9


@pytest.mark.slow
def test_published_resnet20_weights():
    root = os.environ.get("SKPOISON_SHARED_DATA")
    if not root:
        pytest.skip("resnet20.npz: SKPOISON_SHARED_DATA is not set")
    image = pytest.importorskip("PIL.Image")
    folder = Path(root) / "cifar10"
    weights = np.load(folder / "weights" / "resnet20.npz")
    net = ResNet20((3, 32, 32), 10)
    net.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
    labels = np.load(folder / "cifar10_exact_labels.npz")["y_test"]
    sheet = np.asarray(image.open(folder / "cifar10_exact_test.webp").convert("RGB"))
    rows, columns = (side // 32 for side in sheet.shape[:2])
    tiles = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)
    tiles = tiles.reshape(-1, 32, 32, 3)[: len(labels)]
    X = torch.from_numpy(tiles.transpose(0, 3, 1, 2) / np.float32(255))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        predicted = torch.cat([net.eval()(x) for x in ((X - mean) / std).split(128)])
    accuracy = (predicted.argmax(1).numpy() == labels).mean()
    assert accuracy == pytest.approx(0.9164, abs=5e-4)
