"""Adversarial poison training: what each attack costs over plain training."""

import copy
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.datasets import fetch_fashion_mnist, find_dataset
from skpoison.defenses import AdversarialPoison, AdversarialPoisonClassifier
from skpoison.models import TorchClassifier

_BATCH, _STEPS, _EPS = 64, 5, 16 / 255
#: Largest ratios that are good enough: to plain training, to crafting by hand.
_PATCH_BAR, _HAND_BAR = 1.5, 1.5
_FREE = "watermark", "random_normal", "random_laplace", "random_bernoulli"
_CRAFTED = (
    "feature_collision",
    "hidden_trigger",
    "evasion",
    "gradient_matching",
    "gradient_distance",
    "metapoison",
)


class SmallNet(nn.Sequential):
    """Two convolutions and two linear layers, for images of 14 x 14."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24 * 9, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def images(n_images):
    """Return Fashion-MNIST at half its size, or random pixels, and their name."""
    if find_dataset("fashion_mnist") is not None:
        found = fetch_fashion_mnist(
            n_samples=n_images, layout="nchw", download_if_missing=False
        )
        X = found.data.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5), dtype=np.float32)
        return X / (255 if found.data.dtype == np.uint8 else 1), found.target, "Fashion"
    rng = np.random.default_rng(0)
    X = rng.random((n_images, 1, 14, 14), dtype=np.float32)
    return X, np.arange(n_images) % 10, "random pixels"


def by_hand(module, X, T, generator, n_steps=_STEPS):
    """Gradient matching as one would write it: signed Adam, autograd all the way."""
    half, labels = len(X) // 2, T.argmax(1)
    module.eval()
    weights = list(module.parameters())
    x, y, targets = X[:half], labels[:half], X[half:]
    wanted = torch.bincount(y).argmax().expand(len(targets))
    goal = torch.autograd.grad(F.cross_entropy(module(targets), wanted), weights)
    goal = torch.cat([g.flatten() for g in goal])
    draws = torch.randn(x.shape, generator=generator).to(x).clamp(-1, 1)
    delta = (_EPS * draws).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=0.1 * _EPS)
    for _ in range(n_steps):
        loss = F.cross_entropy(module(x + delta), y)
        found = torch.autograd.grad(loss, weights, create_graph=True)
        found = torch.cat([g.flatten() for g in found])
        cost = 1 - F.cosine_similarity(found, goal, dim=0)
        (slope,) = torch.autograd.grad(cost, delta)
        delta.grad = slope.sign()
        optimizer.step()
        with torch.no_grad():
            delta.clamp_(-_EPS, _EPS).copy_((x + delta).clamp(0, 1) - x)
    module.train()
    return torch.cat([x + delta.detach(), targets])


def passes(module, X, T):
    """The double backward passes of the crafting steps, and nothing else."""
    half = len(X) // 2
    weights, y = list(module.parameters()), T[:half].argmax(1)
    for _ in range(_STEPS):
        leaf = X[:half].clone().requires_grad_()
        loss = F.cross_entropy(module(leaf), y)
        found = torch.autograd.grad(loss, weights, create_graph=True)
        torch.autograd.grad(found, leaf, [torch.ones_like(g) for g in found])


def measure(bench):
    """Time an epoch with each attack, and the crafting of one batch."""
    X, y, origin = images(bench.size(1_024, 256))
    bench.title(
        "Adversarial poison training, seconds an epoch or a batch; bound: the double "
        "backward passes alone"
    )
    print(f"small ConvNet, {len(X):,} x 1 x 14 x 14 {origin}, batches of {_BATCH}")
    shared = {
        "module": SmallNet,
        "max_epochs": 1,
        "batch_size": _BATCH,
        "lr": 3e-3,
        "device": bench.device,
        "random_state": 0,
    }
    plain = TorchClassifier(**shared)
    for attack in ("patch", *_FREE, *_CRAFTED):
        ours = AdversarialPoisonClassifier(attack=attack, **shared)
        bench.compare(
            f"fit, {attack}",
            lambda ours=ours: ours.fit(X, y),
            {"TorchClassifier": lambda: plain.fit(X, y)},
            repeats=3 if attack in _CRAFTED else 7,
            bars={"TorchClassifier": _PATCH_BAR} if attack == "patch" else None,
        )

    module = plain.fit(X, y).module_.train()
    rows = torch.as_tensor(X[:_BATCH], device=bench.device)
    targets = F.one_hot(torch.as_tensor(y[:_BATCH].astype(int)), 10).to(rows)
    hook, generator = AdversarialPoison(), torch.Generator().manual_seed(0)
    context = SimpleNamespace(module=module, n_classes=10, generator=generator)
    theirs = copy.deepcopy(module)
    bench.compare(
        "AdversarialPoison(), gradient matching, one batch",
        lambda: hook(rows, targets, context),
        {"by hand": lambda: by_hand(theirs, rows, targets, generator)},
        repeats=21,
        bound=lambda: passes(theirs, rows, targets),
        bars={"by hand": _HAND_BAR},
    )
