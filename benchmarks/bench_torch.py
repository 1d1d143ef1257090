"""TorchClassifier against the loop that one would write by hand, and against skorch."""

import numpy as np
import torch
from sklearn.datasets import make_classification
from skorch import NeuralNetClassifier
from torch.nn import functional as F

from skpoison.datasets import fetch_fashion_mnist, find_dataset
from skpoison.defenses import MixupClassifier
from skpoison.models import MLP, ConvNet, TorchClassifier

_BATCH, _LR = 64, 0.005
_BAR, _MIXUP_BAR = 1.3, 1.15


class ByHand:
    """Plain torch: tensors in memory, one indexing call a batch, fused Adam.

    Parameters
    ----------
    make : callable
        Returns a new module.
    X, y : ndarray
    device : str
    """

    def __init__(self, make, X, y, device):
        self.make, self.X, self.y, self.device = make, X, y, device

    def _start(self):
        X, y = torch.as_tensor(self.X), torch.as_tensor(self.y)
        module = self.make().to(self.device).train()
        return X.to(self.device), y.to(self.device), module

    def fit(self, n_epochs):
        """Train for n_epochs."""
        X, y, module = self._start()
        optimizer = torch.optim.Adam(module.parameters(), lr=_LR, fused=True)
        for _ in range(n_epochs):
            for rows in torch.randperm(len(X)).to(self.device).split(_BATCH):
                optimizer.zero_grad()
                F.cross_entropy(module(X[rows]), y[rows]).backward()
                optimizer.step()
        self.module = module
        return self

    def passes(self, n_epochs):
        """Only the forward and backward passes of `fit`, all on one batch."""
        X, y, module = self._start()
        n_batches = n_epochs * len(X) // _BATCH
        X, y = X[:_BATCH].clone(), y[:_BATCH]
        for _ in range(n_batches):
            module.zero_grad()
            F.cross_entropy(module(X), y).backward()

    def predict(self, size):
        """Return the classes of the rows that it was trained on."""
        self.module.eval()
        with torch.inference_mode():
            batches = torch.as_tensor(self.X).split(size)
            found = [self.module(X.to(self.device)).argmax(1) for X in batches]
            return torch.cat(found).cpu().numpy()


def images(n_images):
    """Return Fashion-MNIST where it is at hand, or random pixels, and their name."""
    if find_dataset("fashion_mnist") is not None:
        found = fetch_fashion_mnist(
            n_samples=n_images, layout="nchw", download_if_missing=False
        )
        return np.ascontiguousarray(found.data), found.target, "Fashion-MNIST"
    rng = np.random.default_rng(0)
    X = rng.random((n_images, 1, 28, 28), dtype=np.float32)
    return X, np.arange(n_images) % 10, "random pixels"


def measure(bench):
    """Time training and prediction of a small ConvNet and a small MLP."""
    bench.title(
        "Networks, seconds an epoch or a call; bound: forward and backward passes alone"
    )
    shared = {"batch_size": _BATCH, "lr": _LR, "device": bench.device}

    X, y, origin = images(bench.size(10_000, 1_000))
    hand = ByHand(lambda: ConvNet((1, 28, 28), 10), X, y, bench.device)
    ours = TorchClassifier(ConvNet, max_epochs=1, random_state=0, **shared)
    mixup = MixupClassifier(ConvNet, max_epochs=1, random_state=0, **shared)
    print(f"ConvNet, {len(X):,} x 1 x 28 x 28 {origin}")
    bench.compare(
        f"TorchClassifier.fit, ConvNet, {origin}",
        lambda: ours.fit(X, y),
        {"by hand": lambda: hand.fit(1)},
        repeats=5,
        bound=lambda: hand.passes(1),
        bars={"by hand": _BAR},
    )
    bench.compare(
        f"MixupClassifier.fit, ConvNet, {origin}",
        lambda: mixup.fit(X, y),
        {"TorchClassifier": lambda: ours.fit(X, y)},
        repeats=5,
        bound=lambda: hand.passes(1),
        bars={"TorchClassifier": _MIXUP_BAR},
    )
    bench.compare(
        f"TorchClassifier.predict, ConvNet, {origin}",
        lambda: ours.predict(X),
        {
            "by hand, batches of 128": lambda: hand.predict(128),
            "by hand, all at once": lambda: hand.predict(len(X)),
        },
        repeats=7,
        bars={"by hand, batches of 128": _BAR},
    )

    X, y = make_classification(5_000, 30, n_informative=10, random_state=0)
    X, n_epochs = X.astype(np.float32), bench.size(10, 2)
    print(f"MLP, {len(X):,} x 30 generated, {n_epochs} epochs")
    hand = ByHand(lambda: MLP((30,), 2), X, y, bench.device)
    ours = TorchClassifier(MLP, max_epochs=n_epochs, random_state=0, **shared)
    mixup = MixupClassifier(MLP, max_epochs=n_epochs, random_state=0, **shared)
    skorch = NeuralNetClassifier(
        MLP,
        module__input_shape=(30,),
        module__n_outputs=2,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__fused=True,
        max_epochs=n_epochs,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
        **shared,
    )
    bench.compare(
        "TorchClassifier.fit, MLP",
        lambda: ours.fit(X, y),
        {"by hand": lambda: hand.fit(n_epochs), "skorch": lambda: skorch.fit(X, y)},
        repeats=7,
        work=n_epochs,
        bound=lambda: hand.passes(n_epochs),
        bars={"by hand": _BAR, "skorch": 1.0},
    )
    bench.compare(
        "MixupClassifier.fit, MLP",
        lambda: mixup.fit(X, y),
        {"TorchClassifier": lambda: ours.fit(X, y)},
        repeats=7,
        work=n_epochs,
        bound=lambda: hand.passes(n_epochs),
    )
    bench.compare(
        "TorchClassifier.predict, MLP",
        lambda: ours.predict(X),
        {
            "by hand, all at once": lambda: hand.predict(len(X)),
            "skorch": lambda: skorch.predict(X),
        },
        repeats=21,
        bars={"skorch": 1.0},
    )
