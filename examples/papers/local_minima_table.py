"""Suboptimal local minima: constructed ones, and those that training runs into.

    python examples/papers/local_minima_table.py --out minima.jsonl
    python examples/papers/local_minima_table.py --out minima.jsonl --show
    python examples/papers/local_minima_table.py --out full.jsonl --full --device auto

Two findings of "Truth or backpropaganda?" (arXiv:1910.00359), section 2.

First table: networks are put at a local minimum that the best linear model has, and for
the network with max pooling, which can't carry one, the best constant. Multilayer
perceptrons with 32 units a layer see 4,000 images of Fashion-MNIST, whitened to 20
principal components; convolutional networks see 1,000, whitened to 10 components and
put back into images of 7 by 7 pixels. "trained" is the same network trained from its
default initialisation. "rise" is the smallest change of the loss along 20 random
directions of length 0.01; "minima" counts how many of the constructed, the trained and
fresh random points pass `check_local_minimum`.

Second table: training by SGD (learning rate 0.01, momentum 0.4, weight decay 5e-4, the
rate divided by 10 after 1/3, 5/9 and 7/9 of the epochs) from bad initial weights. Test
accuracies in percent; differences from the default initialisation are paired by seed.
On the CPU: 4,000 rows of Fashion-MNIST, batches of 32 (published: 128) and 18 epochs.
A training loss of nan is one that overflowed.

All intervals are Student's at 95 %. --full takes the published setting for the second
table: CIFAR-10, 450 epochs, an MLP with 2048, 2048 and 1024 hidden units, a ResNet-18.
"""

import argparse
import warnings

import numpy as np
import torch
from _runs import Runs, arguments, images, interval, shown
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
    """What differs between the CPU's setting and the published one."""

    def __init__(self, args):
        self.device = args.device or ("auto" if args.full else "cpu")
        self.data = "cifar10" if args.full else "fashion_mnist"
        self.n_train = args.rows or (None if args.full else 4000)
        self.n_test = args.rows or (None if args.full else 2000)
        self.n_epochs = args.epochs or (450 if args.full else 18)
        self.batch_size = 128 if args.full else 32
        self.n_features = (100, 20) if args.full else (20, 10)  # of tables, of images
        self.n_images = None if args.full else 1000
        width = 256 if args.full else 32
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
        if args.full:
            self.trained = {
                "MLP 2048-2048-1024": (MLP, {"hidden": (2048, 2048, 1024)}),
                "ResNet-18": (ResNet18, {}),
            }

    def whitened(self, net, seed):
        """Return training rows for the first table, and their labels."""
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

    def measure_point(self, net, seed, **_):
        X, y = self.whitened(net, seed)
        make, params = self.points[net]
        with local_torch_seed(RandomStreams(seed).seed("module")):
            fresh = make(input_shape=X.shape[1:], n_outputs=10, **params)
        worse = "constant" if net == "max pooling" else "linear"
        n_epochs = 3 * self.n_epochs
        decay = LRScheduler("CosineAnnealingLR", T_max=n_epochs)
        clf = TorchClassifier(
            fresh, lr=0.003, batch_size=100, max_epochs=n_epochs,
            callbacks=[("decay", decay)], device=self.device, random_state=seed,
        ).fit(X, y)  # fmt: skip
        found = {
            "constructed": construct_suboptimal_minimum(fresh, X, y, worse=worse),
            "trained": clf.module_,
            "random": fresh,
        }
        result = {}
        for name, network in found.items():
            report = check_local_minimum(
                network, X, y, n_search_steps=20, random_state=seed, device=self.device
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

    def measure_start(self, net, start, seed, **_):
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
            device=self.device, random_state=seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            # a start from which the loss overflows is one of the findings
            warnings.simplefilter("ignore", ConvergenceWarning)
            clf.fit(X, y)
        out = torch.from_numpy(clf.predict_proba(X)).clamp(min=1e-300).log()
        loss = F.nll_loss(out, torch.from_numpy(y)).item()
        return {"loss": loss, "accuracy": 100 * clf.score(X_test, y_test)}


def show_points(runs, points):
    print(f"{'':16} {'worse':>8} {'constructed':>17} {'trained':>17}"
          f" {'difference':>17} {'lambda max':>11} {'lambda min':>11} {'rise':>8}"
          " minima")  # fmt: skip
    n_lower, n_all = 0, 0
    for net in points:
        of_net = {"part": "point", "net": net}
        constructed = runs.values("loss_constructed", **of_net)
        if not len(constructed):
            continue
        trained = runs.values("loss_trained", **of_net)
        minima = "/".join(
            str(runs.values(f"is_minimum_{name}", **of_net).sum())
            for name in ("constructed", "trained", "random")
        )
        rises = np.array(runs.values("rise_constructed", **of_net))[:, 1]
        print(
            f"{net:16} {runs.values('loss_worse', **of_net).mean():8.4f}"
            f" {shown(constructed, 4):>17} {shown(trained, 4):>17}"
            f" {shown(constructed - trained, 4):>17}"
            f" {runs.values('lambda_max_constructed', **of_net).max():11.1f}"
            f" {runs.values('lambda_min_constructed', **of_net).min():11.1e}"
            f" {rises.min():8.1e} {minima} of {len(constructed)}"
        )
        n_lower += (trained < constructed).sum()
        n_all += len(trained)
    kept = [r for r in runs.results.values() if r["run"]["part"] == "point"]
    if kept:
        n_minima = sum(r["is_minimum_constructed"] for r in kept)
        print(f"{n_minima} of {n_all} constructed points are minima; training ends "
              f"lower in {n_lower}.")  # fmt: skip


def show_starts(runs, nets):
    print(f"{'':20} {'start':18} {'training loss':>16} {'accuracy':>15}"
          f" {'less default':>16}")  # fmt: skip
    n_worse, means = 0, []
    for net in nets:
        of_default = {"part": "start", "net": net, "start": "default"}
        default = runs.values("accuracy", **of_default)
        for start in STARTS:
            of_start = {"part": "start", "net": net, "start": start}
            accuracy = runs.values("accuracy", **of_start)
            if not len(accuracy) or len(accuracy) != len(default):
                continue
            line = (
                f"{net:20} {start:18} {shown(runs.values('loss', **of_start), 3):>16}"
                f" {shown(accuracy):>15}"
            )
            if start != "default":
                line += f" {shown(accuracy - default):>16}"
                mean, half = interval(accuracy - default)
                n_worse += mean + half < 0
                means.append(mean)
            print(line)
    if means:
        print(
            f"{n_worse} of {len(means)} bad starts end below the default, interval "
            f"included; mean differences {min(means):.2f} to {max(means):.2f}."
        )


def main():
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    runs, setting = Runs(args.out), Setting(args)
    if not args.show:
        for seed in range(args.seeds):
            for net in setting.points:
                run = {"part": "point", "net": net, "seed": seed}
                runs.get(run, setting.measure_point)
            for net in setting.trained:
                for start in STARTS:
                    run = {"part": "start", "net": net, "start": start, "seed": seed}
                    runs.get(run, setting.measure_start)
    show_points(runs, setting.points)
    print()
    show_starts(runs, setting.trained)


if __name__ == "__main__":
    main()
