"""Accuracy and robustness of networks whose layers are held at low or at high rank.

Section 5 of the paper. A low rank of layers has been said to help generalisation and
robustness. The study lowers the rank of all convolutions but the first (RankMin:
singular values under a threshold become zero) or raises it (RankMax: those above one
are cut down to it), in natural and in adversarial training, and finds no such relation:
low rank does not help, high rank does not hurt.

Every network is trained with SGD, momentum .9, weight decay 2e-4 and gradient values
clipped at .1, and projected by `SpectralProjection` at the end of three epochs. Rows,
initial weights and order of batches of a seed are the same in all arms, so differences
are paired by seed. Shown are accuracy on test images, robust accuracy under PGD, and
the mean effective rank of the projected layers by the largest there can be.

On the CPU 6,000 images of Fashion-MNIST, three 3x3 convolutions of 16, 32 and 32
channels, thresholds of .8 (RankMin) and 1.0 (RankMax), projections after epochs 2, 4
and 6 of 12, and an attack of 20 steps at the radius of training, .05. Thresholds were
fixed beforehand. So were the epochs, but for their number: a first try on one seed had
8, of which hardly any learning was left after the last projection, and RankMax lost 2
points of accuracy.

--full is CIFAR-10, ResNet-18, thresholds of .5 and 1.5, projections after epochs 15, 30
and 40, training against 7 steps of 1/255 at a radius of 4/255, and an attack of 20
steps of .25/255 at 1/255. That training has 50 epochs and a rate of .1, divided by 10
after 25, 35 and 45, is this script's choice.
"""

from functools import partial

import numpy as np
from _runs import images, print_table, shown, sign
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from skpoison.evasion import PGD, AdversarialClassifier, robust_accuracy
from skpoison.landscape import SpectralProjection
from skpoison.models import Normalized, ResNet18, TorchClassifier


class ConvNet3(nn.Sequential):
    """Three 3x3 convolutions and a linear layer, for images of 28 x 28."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(
            nn.Conv2d(input_shape[0], 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, n_outputs),
        )


class ClipValues(Callback):
    """Callback that clips each entry of the gradient."""

    def __init__(self, largest=0.1):
        self.largest = largest

    def on_grad_computed(self, net, named_parameters, **kwargs):
        """Clip the gradients of all parameters."""
        nn.utils.clip_grad_value_(net.module_.parameters(), self.largest)


TRAININGS = ("natural", "adversarial")
CPU = {
    "data": "fashion_mnist",
    "n_rows": (6_000, 1_000),
    "arms": [("min", 0.8), ("max", 1.0)],
    "epochs": 12,
    "at_epochs": (2, 4, 6),
    "drops": (9, 11),
    "lr": 0.05,
    "module": {"module": ConvNet3},
    "train_attack": {"eps": 0.05, "max_iter": 2, "step_size": 0.035},
    "test_attack": {"eps": 0.05, "max_iter": 20, "step_size": 0.005},
}
SETTINGS = {
    "cpu": CPU,
    "tiny": {**CPU, "n_rows": (64, 32), "epochs": 1, "at_epochs": (1,)},
    "full": {
        "data": "cifar10",
        "n_rows": (None, None),
        "arms": [("min", 0.5), ("max", 1.5)],
        "epochs": 50,
        "at_epochs": (15, 30, 40),
        "drops": (25, 35, 45),
        "lr": 0.1,
        "module": {
            "module": Normalized,
            "module__network": ResNet18,
            "module__mean": (0.4914, 0.4822, 0.4465),
            "module__std": (0.2470, 0.2435, 0.2616),
            "augment": "default",
        },
        "train_attack": {"eps": 4 / 255, "max_iter": 7, "step_size": 1 / 255},
        "test_attack": {"eps": 1 / 255, "max_iter": 20, "step_size": 0.25 / 255},
    },
}


def measure(training, mode, threshold, seed, size, device):
    """Train a network, and return its accuracies in per cent and its ranks."""
    plan = SETTINGS[size]
    X, y, X_test, y_test = images(plan["data"], *plan["n_rows"], seed)
    rank = SpectralProjection(mode, threshold, at_epochs=plan["at_epochs"])
    if mode == "none":  # no epoch to project after: only measures
        rank = SpectralProjection(at_epochs=())
    drops = LRScheduler("MultiStepLR", milestones=list(plan["drops"]), gamma=0.1)
    box = {"bounds": (0, 1), "random_state": seed}
    if training == "adversarial":
        learner = AdversarialClassifier
        attack = {"attack": PGD(**plan["train_attack"], bounds=(0, 1))}
    else:
        learner, attack = TorchClassifier, {}
    clf = learner(
        **plan["module"],
        **attack,
        optimizer="sgd",
        optimizer__nesterov=False,
        optimizer__weight_decay=2e-4,
        lr=plan["lr"],
        batch_size=128,
        max_epochs=plan["epochs"],
        callbacks=[("rank", rank), ("clip", ClipValues()), ("drops", drops)],
        device=device,
        random_state=seed,
    )
    clf.fit(X, y)
    fitted = dict(clf.net_.callbacks_)["rank"]
    robust = robust_accuracy(
        clf, X_test, y_test, attack=PGD(**plan["test_attack"], **box)
    )
    return {
        "clean": 100 * clf.score(X_test, y_test),
        "robust": 100 * robust,
        "rank": 100 * float(np.mean(list(fitted.effective_ranks_.values()))),
        "ranks": fitted.effective_ranks_,
        "projected": [
            100 * clf.history_[epoch - 1, "effective_rank"]
            for epoch in plan["at_epochs"]
            if epoch <= clf.n_iter_
        ],
    }


def todo(runs, args):
    """Yield the runs and what measures them."""
    for seed in range(args.seeds):
        for training in TRAININGS:
            for mode, threshold in [("none", 0.0), *SETTINGS[args.size]["arms"]]:
                yield (
                    {
                        "training": training,
                        "mode": mode,
                        "threshold": threshold,
                        "seed": seed,
                        "size": args.size,
                    },
                    partial(measure, device=args.device),
                )


def show(runs, args):
    """Print the table; return what it says."""
    rows, signs = [], {"min": [], "max": []}
    for training in TRAININGS:
        shared = {"training": training, "size": args.size}
        plain = {
            key: runs.values(key, mode="none", **shared)
            for key in ("clean", "robust", "rank")
        }
        for mode, threshold in [("none", 0.0), *SETTINGS[args.size]["arms"]]:
            arm = {"mode": mode, "threshold": threshold, **shared}
            found = {key: runs.values(key, **arm) for key in plain}
            n = min(map(len, [*found.values(), *plain.values()]))
            if not n:
                continue
            gaps = {key: found[key][:n] - plain[key][:n] for key in ("clean", "robust")}
            name, published, cells = "none", "-", ["", ""]
            if mode != "none":
                name = f"Rank{mode.title()} {threshold:g}"
                published = "not above 0" if mode == "min" else "not below 0"
                cells = [shown(values) for values in gaps.values()]
                signs[mode].append(sign(gaps["robust"]))
            cells = [*(shown(values) for values in found.values()), *cells]
            seconds = f"{runs.values('seconds', **arm).mean():.0f}"
            rows.append((f"{training}, {name}", published, *cells, n, seconds))
    head = ("training", "published", "clean %", "robust %", "rank %")
    print_table(rows, (*head, "clean less none", "robust less none", "n", "seconds"))
    return (
        f"Low rank helps robust accuracy in {signs['min'].count(1)} of "
        f"{len(signs['min'])} cases, high rank hurts it in {signs['max'].count(-1)} of "
        f"{len(signs['max'])}."
    )
