"""DPSGDClassifier against Opacus, torch.func and training without privacy."""

import numpy as np
import torch
from sklearn.datasets import make_classification
from torch import nn
from torch.nn import functional as F

from skpoison.defenses import DPSGDClassifier
from skpoison.defenses._per_sample import clipped_gradient
from skpoison.models import MLP, ConvNet, TorchClassifier

_BAR, _LR = 1.15, 0.003


def by_opacus(engine, make, X, y, batch_size, n_epochs, device):
    """Train as the documentation of Opacus does: its loader, engine and optimizer.

    Parameters
    ----------
    engine : class
        ``opacus.PrivacyEngine``.
    make : callable
        Returns a new module.
    X, y : ndarray
    batch_size, n_epochs : int
    device : str
    """
    data = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
    module = make().to(device).train()
    module, optimizer, batches = engine().make_private(
        module=module,
        optimizer=torch.optim.Adam(module.parameters(), lr=_LR),
        data_loader=torch.utils.data.DataLoader(data, batch_size=batch_size),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    for _ in range(n_epochs):
        for rows, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(module(rows.to(device)), targets.to(device)).backward()
            optimizer.step()


def by_vmap(make, X, y, batch_size, n_epochs, device):
    """Train with gradients of rows from torch.func alone, batches from memory.

    Parameters
    ----------
    make : callable
        Returns a new module.
    X, y : ndarray
    batch_size, n_epochs : int
    device : str
    """
    module = make().to(device).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=_LR, fused=True)
    X, y = torch.as_tensor(X).to(device), torch.as_tensor(y).to(device)

    def losses_of(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    for _ in range(n_epochs * round(len(X) / batch_size)):
        rows = (torch.rand(len(X)) < batch_size / len(X)).nonzero()[:, 0].to(device)
        clipped = clipped_gradient(
            module, losses_of, X[rows], y[rows], 1.0, method="vmap"
        )
        for name, total in clipped.gradients.items():
            gradient = (total + torch.randn_like(total)) / batch_size
            module.get_parameter(name).grad = gradient
        optimizer.step()


def group_normed(shape, n_classes):
    """Return a deeper convolutional network with group normalisation."""
    layers, n_in = [], shape[0]
    for n_out, stride in ((16, 1), (16, 1), (32, 2), (32, 1)):
        convolution = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(4, n_out), nn.ReLU()]
        n_in = n_out
    pool = nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(4 * n_in, n_classes))


def measure(bench):
    """Time training of small networks, everything that a fit does included."""
    bench.title("DP-SGD, seconds an epoch")
    opacus = bench.optional("opacus")
    rng = np.random.default_rng(0)
    n_rows = bench.size(4_000, 400)
    images = rng.random((n_rows, 1, 14, 14), dtype=np.float32)
    flat, found = make_classification(
        bench.size(8_000, 800), 60, n_informative=20, n_classes=5, random_state=0
    )
    shape, classes = (1, 14, 14), np.arange(n_rows) % 10
    small = {"channels": (12, 24), "hidden": 64}
    cases = [
        ("ConvNet, batches of 64", lambda: ConvNet(shape, 10, **small), 64, 2),
        ("ConvNet, batches of 256", lambda: ConvNet(shape, 10, **small), 256, 2),
        ("group norm, batches of 64", lambda: group_normed(shape, 10), 64, 1),
        ("MLP, batches of 64", lambda: MLP((60,), 5, hidden=(128,)), 64, 4),
        ("MLP, batches of 256", lambda: MLP((60,), 5, hidden=(128,)), 256, 8),
    ]
    for name, make, batch_size, n_epochs in cases:
        X, y = (flat, found) if name.startswith("MLP") else (images, classes)
        X = X.astype(np.float32)
        shared = {
            "max_epochs": n_epochs,
            "batch_size": batch_size,
            "lr": _LR,
            "device": bench.device,
            "random_state": 0,
        }
        ours = DPSGDClassifier(make(), **shared)
        plain = TorchClassifier(make(), **shared)
        settings = (make, X, y, batch_size, n_epochs, bench.device)
        peers = {
            "no privacy": lambda plain=plain, X=X, y=y: plain.fit(X, y),
            "vmap, by hand": lambda settings=settings: by_vmap(*settings),
        }
        if opacus is not None:
            theirs = DPSGDClassifier(make(), engine="opacus", **shared)
            peers["Opacus, by hand"] = lambda settings=settings: by_opacus(
                opacus.PrivacyEngine, *settings
            )
            peers["engine='opacus'"] = lambda theirs=theirs, X=X, y=y: theirs.fit(X, y)
        bench.compare(
            f"DPSGDClassifier.fit, {name}",
            lambda ours=ours, X=X, y=y: ours.fit(X, y),
            peers,
            repeats=3,
            work=n_epochs,
            bars={"Opacus, by hand": _BAR, "engine='opacus'": _BAR},
        )
