"""Targeted poisons against victims trained from scratch, beside what is not optimised.

    python benchmarks/bench_targeted.py [--targets 12] [--victims 8] [--settings mlp]

Fashion-MNIST, 200 training rows a class; targets are test images of a class that is
often taken for the wished one, all read rightly by clean networks. Victims: 40 epochs
of SGD with momentum, pixels normalised inside the network. Printed for each setting and
attack: success over all victims with its Wilson interval, the share of targets that at
least half of their victims read as wished, the rate of clean victims, accuracies.

gradient matching    eight surrogates of the victim's kind, trained for 0 to 40 epochs
watermark            the targets blended into the same rows within the same radius
noise                the start of gradient matching: the same rows, random perturbations
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from skorch.callbacks import LRScheduler
from torch import nn

from skpoison.attacks import GradientMatchingAttack, WatermarkAttack
from skpoison.datasets import fetch_fashion_mnist
from skpoison.model_selection import evaluate_targeted
from skpoison.models import MLP, Normalized, TorchClassifier, fit_together

torch.set_num_threads(1)

#: (true class, wished class): shirts, coats and pullovers; shoes.
NEAR = [(0, 6), (6, 0), (2, 4), (4, 2), (2, 6), (6, 2), (4, 6), (6, 4), (5, 7), (7, 9)]


class BatchNormNet(nn.Module):
    """Four convolutions with batch normalisation, for images of 14 by 14."""

    def __init__(self, input_shape, n_outputs, channels=(16, 32, 32, 32)):
        super().__init__()
        layers, n_in = [], input_shape[0]
        for i, n_out in enumerate(channels):
            stride = 2 if i < 2 else 1
            layers += [
                nn.Conv2d(n_in, n_out, 3, stride, padding=1),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
            ]
            n_in = n_out
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = self.features(torch.zeros(2, *input_shape)).shape[1]
        self.head = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, X):
        return self.head(self.features(X))


def data(halve):
    """Return training rows, labels, test rows, labels."""
    found = fetch_fashion_mnist(subset="all", layout="nchw", download_if_missing=False)
    X, y = np.asarray(found.data, dtype=np.float32), np.asarray(found.target, dtype=int)
    X = X / X.max()
    if halve:
        X = X.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(y[:60000] == c))[:200] for c in range(10)]
    rows = rng.permutation(np.concatenate(rows))
    return X[rows], y[rows], X[60000:], y[60000:]


def network(module, X, **params):
    """Return the victim."""
    schedule = LRScheduler("MultiStepLR", milestones=[14, 24, 35], gamma=0.1)
    return TorchClassifier(
        Normalized,
        module__network=module,
        module__mean=float(X.mean()),
        module__std=float(X.std()),
        optimizer="sgd",
        lr=0.05,
        max_epochs=40,
        batch_size=128,
        callbacks=[schedule],
        device="cpu",
        **params,
    )


#: module, its parameters, size of the images, what all attacks are given
SETTINGS = {
    "mlp": (MLP, {"module__hidden": (128, 64)}, 28, {"eps": 16 / 255, "budget": 0.05}),
    "mlp-all-classes": (
        MLP,
        {"module__hidden": (128, 64)},
        28,
        {"eps": 16 / 255, "budget": 0.05, "threat_model": "random_subset"},
    ),
    "mlp-all-32": (
        MLP,
        {"module__hidden": (128, 64)},
        28,
        {"eps": 32 / 255, "budget": 0.05, "threat_model": "random_subset"},
    ),
    "batch-norm": (BatchNormNet, {}, 14, {"eps": 16 / 255, "budget": 0.05}),
}


def targets(net, X, y, X_test, y_test, n_targets, seed):
    """Draw targets that three clean networks read rightly, near pairs in turn."""
    judges = [
        net.__class__(**{**net.get_params(), "random_state": s}) for s in (1, 2, 3)
    ]
    judges = fit_together(judges, [X] * 3, [y] * 3)
    right = np.all([j.predict(X_test[:2000]) == y_test[:2000] for j in judges], axis=0)
    rng, rows, wished = np.random.default_rng(seed), [], []
    while len(rows) < n_targets:
        true, label = NEAR[len(rows) % len(NEAR)]
        found = np.setdiff1d(np.flatnonzero(right & (y_test[:2000] == true)), rows)
        rows.append(int(rng.choice(found)))
        wished.append(label)
    return X_test[rows], np.array(wished), y_test[rows]


def run(name, args):
    """Evaluate one setting and print its rows."""
    module, params, size, shared = SETTINGS[name]
    X, y, X_test, y_test = data(halve=size == 14)
    net = network(module, X, **params)
    aims = targets(net, X, y, X_test, y_test, args.targets, args.seed)
    shared = {**shared, "bounds": (0.0, 1.0), "random_state": args.seed}
    crafted = {"surrogate": "victim", "n_restarts": 1, **shared}
    ensemble = {"n_ensemble": 8, "ensemble_stagger": "full", "max_iter": args.steps}
    attacks = {
        "gradient matching": GradientMatchingAttack(**crafted, **ensemble),
        "watermark": WatermarkAttack(**shared),
        "noise": GradientMatchingAttack(**crafted, max_iter=1, step_size=1e-9),
    }
    print(f"\n{name}: {shared}")
    for title, attack in attacks.items():
        report = evaluate_targeted(
            attack,
            net,
            X,
            y,
            *aims[:2],
            target_true_labels=aims[2],
            n_victims=args.victims,
            X_test=X_test[2000:],
            y_test=y_test[2000:],
            random_state=args.seed,
        )
        low, high = report.interval
        print(
            f"{title:18} {report.success.sum():3}/{report.success.size} "
            f"{report.rate:.2f} [{low:.2f}, {high:.2f}]  targets "
            f"{(report.success.mean(1) >= 0.5).sum()}/{len(report.success)}  clean "
            f"{report.control.sum()}/{report.control.size}  accuracy "
            f"{report.clean_accuracy:.3f} -> {report.poisoned_accuracy:.3f}  training "
            f"{report.train_accuracy:.3f}  craft {report.craft_seconds:.0f} s, victims "
            f"{report.train_seconds:.0f} s",
            flush=True,
        )


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    args = parser.parse_args()
    for name in args.settings:
        run(name, args)


if __name__ == "__main__":
    main()
