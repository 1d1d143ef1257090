"""Suboptimal local minima: constructed ones, and those that training runs into.

Section 2 of the paper. Points: networks are put at a local minimum that the best linear
model has, and for the network with max pooling, which can't carry one, the best
constant. Multilayer perceptrons with 32 units a layer see 4,000 images of
Fashion-MNIST, whitened to 20 principal components; convolutional networks see 1,000,
whitened to 10 components and put back into images of 7 by 7 pixels. "trained" is the
same network trained from its default initialisation. "minima" counts how many of the
constructed, the trained and fresh random points pass `check_local_minimum`.

Starts: training by SGD (rate 0.01, momentum 0.4, weight decay 5e-4, the rate divided by
10 after 1/3, 5/9 and 7/9 of the epochs) from bad initial weights, on 4,000 rows with
batches of 32 (published: 128) and 18 epochs. Test accuracies in percent; differences
from the default initialisation are paired by seed. A training loss of nan is one that
overflowed. --full is CIFAR-10, 450 epochs, an MLP with 2048, 2048 and 1024 hidden
units, a ResNet-18.
"""

import warnings
from functools import partial

import numpy as np
import torch
from _runs import images, print_table, shown, sign
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import LRScheduler
from torch import nn
from torch.nn import functional as F

from skpoison.landscape import (
    PoorInitialization,
    check_local_minimum,
    construct_suboptimal_minimum,
    linear_minimum,
)
from skpoison.models import MLP, ConvNet, Normalized, ResNet18, TorchClassifier
from skpoison.utils import RandomStreams, local_torch_seed

STARTS = {
    "default": None,
    "all 0": ("zero", None),
    "all 0.001": ("constant", 1e-3),
    "biases -20": ("bias", -20.0),
    "biases +20": ("bias", 20.0),
    "biases in +-10": ("uniform_bias", 10.0),
    "biases in +-1000": ("uniform_bias", 1000.0),
    "weights x 10": ("scale", 10.0),
}
MEANS = {"fashion_mnist": (0.286, 0.353), "cifar10": (0.473, 0.251)}


def plain_convolutions(input_shape, n_outputs):
    """Two convolutions, the second of stride 2, and no pooling."""
    side = (input_shape[1] + 1) // 2
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * side**2, 16),
        nn.ReLU(),
        nn.Linear(16, n_outputs),
    )


class Setting:
    """What differs between the sizes."""

    def __init__(self, size):
        full, tiny = size == "full", size == "tiny"
        self.data = "cifar10" if full else "fashion_mnist"
        self.n_train, self.n_test = (None, None) if full else (4000, 2000)
        self.n_epochs = 450 if full else 18
        self.batch_size = 128 if full else 32
        self.n_features = (100, 20) if full else (20, 10)  # of tables, of images
        self.n_images = None if full else 1000
        width = 256 if full else 32
        self.points = {
            **{
                f"MLP, {n} hidden": (MLP, {"hidden": (width,) * n}) for n in range(1, 5)
            },
            "convolutions": (plain_convolutions, {}),
            "max pooling": (ConvNet, {"channels": (4, 8), "hidden": 16}),
        }
        self.trained = {
            "MLP 256-256": (MLP, {"hidden": (256, 256)}),
            "MLP 64-64-64-64": (MLP, {"hidden": (64,) * 4}),
            "ConvNet": (ConvNet, {"channels": (4, 8), "hidden": 32}),
        }
        if full:
            self.trained = {
                "MLP 2048-2048-1024": (MLP, {"hidden": (2048, 2048, 1024)}),
                "ResNet-18": (ResNet18, {}),
            }
        if tiny:
            self.n_train, self.n_test, self.n_epochs = 400, 50, 1
            self.n_features, self.points = (2, 2), {"MLP, 1 hidden": (MLP, {})}
            self.trained = {"MLP 16": (MLP, {"hidden": (16,)})}

    def whitened(self, net, seed):
        """Return training rows for the constructed points, and their labels."""
        X, y, _, _ = images(self.data, self.n_train, 10, seed)
        if net.startswith("MLP"):
            pca = PCA(self.n_features[0], whiten=True, random_state=seed)
            return pca.fit_transform(X.reshape(len(X), -1).astype(float)), y
        X, y, side = X[: self.n_images], y[: self.n_images], X.shape[2] // 4
        X = X.reshape(len(X), -1, side, 4, side, 4).mean((3, 5))
        pca = PCA(self.n_features[1], whiten=True, random_state=seed)
        # back in the pixels' axes, so that they are images still
        rows = pca.fit_transform(X.reshape(len(X), -1).astype(float)) @ pca.components_
        return rows.reshape(X.shape), y

    def measure_point(self, net, seed, device, **_):
        """Construct a minimum and train; return losses and what the check says."""
        X, y = self.whitened(net, seed)
        make, params = self.points[net]
        with local_torch_seed(RandomStreams(seed).seed("module")):
            fresh = make(input_shape=X.shape[1:], n_outputs=10, **params)
        worse = "constant" if net == "max pooling" else "linear"
        n_epochs = 3 * self.n_epochs
        decay = LRScheduler("CosineAnnealingLR", T_max=n_epochs)
        clf = TorchClassifier(
            fresh, lr=0.003, batch_size=100, max_epochs=n_epochs,
            callbacks=[("decay", decay)], device=device, random_state=seed,
        ).fit(X, y)  # fmt: skip
        found = {
            "constructed": construct_suboptimal_minimum(fresh, X, y, worse=worse),
            "trained": clf.module_,
            "random": fresh,
        }
        result = {}
        for name, network in found.items():
            report = check_local_minimum(
                network, X, y, n_search_steps=20, random_state=seed, device=device
            )
            result[f"loss_{name}"] = report.loss
            result[f"is_minimum_{name}"] = bool(report.is_minimum)
            result[f"grad_norm_{name}"] = report.grad_norm
            result[f"lambda_max_{name}"] = report.lambda_max
            result[f"lambda_min_{name}"] = report.lambda_min
            result[f"rise_{name}"] = report.random_rise.min(axis=1).tolist()
        if worse == "linear":
            result["loss_worse"] = linear_minimum(X, y).loss
        else:
            shares = np.bincount(y) / len(y)
            result["loss_worse"] = float(-shares @ np.log(shares))
        return result

    def measure_start(self, net, start, seed, device, **_):
        """Train from a start; return loss and accuracy."""
        X, y, X_test, y_test = images(self.data, self.n_train, self.n_test, seed)
        drops = [max(1, round(self.n_epochs * k / 9)) for k in (3, 5, 7)]
        callbacks = [("drops", LRScheduler("MultiStepLR", milestones=drops))]
        if STARTS[start] is not None:
            kind, value = STARTS[start]
            callbacks.append(("start", PoorInitialization(kind, value, seed)))
        network, params = self.trained[net]
        mean, std = MEANS[self.data]
        clf = TorchClassifier(
            Normalized, module__network=network, module__mean=mean, module__std=std,
            **{f"module__{name}": value for name, value in params.items()},
            optimizer="sgd", lr=0.01, optimizer__momentum=0.4,
            optimizer__nesterov=False, optimizer__weight_decay=5e-4,
            batch_size=self.batch_size, max_epochs=self.n_epochs, callbacks=callbacks,
            device=device, random_state=seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            # a start from which the loss overflows is one of the findings
            warnings.simplefilter("ignore", ConvergenceWarning)
            clf.fit(X, y)
        out = torch.from_numpy(clf.predict_proba(X)).clamp(min=1e-300).log()
        loss = F.nll_loss(out, torch.from_numpy(y)).item()
        return {"loss": loss, "accuracy": 100 * clf.score(X_test, y_test)}


def todo(runs, args):
    """Yield the runs and what measures them."""
    setting = Setting(args.size)
    for seed in range(args.seeds):
        for net in setting.points:
            yield (
                {"part": "point", "net": net, "seed": seed, "size": args.size},
                partial(setting.measure_point, device=args.device),
            )
        for net in setting.trained:
            for start in STARTS:
                run = {"part": "start", "net": net, "start": start, "seed": seed}
                run["size"] = args.size
                yield run, partial(setting.measure_start, device=args.device)


def show(runs, args):
    """Print both tables; return what they say."""
    setting, rows, counts = Setting(args.size), [], np.zeros(3, dtype=int)
    for net in setting.points:
        of_net = {"part": "point", "net": net, "size": args.size}
        constructed, trained, seconds = (
            runs.values(name, **of_net)
            for name in ("loss_constructed", "loss_trained", "seconds")
        )
        if not len(constructed):
            continue
        minima = [
            runs.values(f"is_minimum_{name}", **of_net).sum()
            for name in ("constructed", "trained", "random")
        ]
        gap = constructed - trained
        counts += minima[0], (gap > 0).sum(), len(gap)
        rows.append(
            (
                net,
                "above 0",
                *(shown(values, 3) for values in (constructed, trained, gap)),
                "/".join(map(str, minima)),
                len(gap),
                f"{seconds.mean():.0f}",
            )
        )
    head = ("training loss", "published", "constructed", "trained", "difference")
    print_table(rows, (*head, "minima", "n", "seconds"))
    print()
    rows, signs = [], []
    for net in setting.trained:
        shared = {"part": "start", "net": net, "size": args.size}
        default = runs.values("accuracy", start="default", **shared)
        for start in STARTS:
            loss, accuracy, seconds = (
                runs.values(name, start=start, **shared)
                for name in ("loss", "accuracy", "seconds")
            )
            if not len(accuracy) or len(accuracy) != len(default):
                continue
            gap = accuracy - default
            signs += [sign(gap)] if start != "default" else []
            rows.append(
                (
                    f"{net}, {start}",
                    "-" if start == "default" else "below 0",
                    shown(loss, 3),
                    shown(accuracy),
                    "" if start == "default" else shown(gap),
                    len(gap),
                    f"{seconds.mean():.0f}",
                )
            )
    head = ("start", "published", "training loss", "accuracy", "less default")
    print_table(rows, (*head, "n", "seconds"))
    return (
        f"{counts[0]} of {counts[2]} constructed points are minima, training ends "
        f"lower in {counts[1]}; {signs.count(-1)} of {len(signs)} bad starts end below "
        "the default, interval included."
    )
