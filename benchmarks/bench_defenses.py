"""What defenses cost: training with one against plain training of the same network."""

import numpy as np
import torch
from torch.nn import functional as F

from skpoison.defenses import (
    AugmentedClassifier,
    Compose,
    CutMix,
    Cutout,
    DPInstaHideClassifier,
    MaxUp,
    Mixup,
    Noise,
)
from skpoison.models import ConvNet, TorchClassifier

#: Largest ratio to plain training of hooks that need no pass of the network.
_BAR = 1.2
_HOOKS = {
    "mixup": Mixup(),
    "mixup of 4": Mixup(4, weights="uniform"),
    "mixup of 4, weights for each row": Mixup(4, per_sample=True),
    "mixup of 4 + Laplace noise": Compose(
        [Mixup(4, weights="uniform"), Noise("laplace", scale=0.1)]
    ),
    "Gaussian noise": Noise(),
    "CutMix": CutMix(),
    "Cutout": Cutout(),
}


class AllCopies:
    """MaxUp as its formula says: every copy goes through the backward pass.

    Parameters
    ----------
    n_copies : int
    """

    def __init__(self, n_copies):
        self.n_copies = n_copies
        self.base = Cutout()

    def __call__(self, X, T, context):
        copies = [self.base(X, T, context) for _ in range(self.n_copies)]
        Xs, Ts = (torch.cat(parts) for parts in zip(*copies, strict=True))
        return Xs, Ts

    def loss(self, output, T):
        """Return the mean over rows of the largest loss over copies."""
        losses = F.cross_entropy(output, T, reduction="none")
        return losses.view(self.n_copies, -1).amax(0).mean()


def measure(bench):
    """Time training of a small ConvNet on 14 x 14 pixels with each defense."""
    rng = np.random.default_rng(0)
    n_rows = bench.size(4_000, 500)
    X = rng.random((n_rows, 1, 14, 14), dtype=np.float32)
    y = np.arange(n_rows) % 10
    shared = {
        "module": ConvNet,
        "module__channels": (12, 24),
        "lr": 0.003,
        "max_epochs": 1,
        "device": bench.device,
        "random_state": 0,
    }
    plain = TorchClassifier(**shared)
    by_hook = {
        name: AugmentedClassifier(augmentation=hook, **shared)
        for name, hook in _HOOKS.items()
    }
    by_hook["DP-InstaHide, 4 rows"] = DPInstaHideClassifier(bounds=(0, 1), **shared)
    maxup, copies = (
        AugmentedClassifier(augmentation=hook, **shared)
        for hook in (MaxUp(warmup_epochs=0), AllCopies(4))
    )

    bench.title("Training with a defense, seconds an epoch")
    print(f"ConvNet, {n_rows:,} x 1 x 14 x 14 random pixels")
    for name, model in by_hook.items():
        bench.compare(
            name,
            lambda model=model: model.fit(X, y),
            {"no defense": lambda: plain.fit(X, y)},
            repeats=9,
            bars={"no defense": _BAR},
        )
    bench.compare(
        "MaxUp of 4 Cutouts",
        lambda: maxup.fit(X, y),
        {
            "no defense": lambda: plain.fit(X, y),
            "all copies trained": lambda: copies.fit(X, y),
        },
        repeats=9,
        bars={"all copies trained": 1.0},
    )
