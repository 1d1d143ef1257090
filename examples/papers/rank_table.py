"""Accuracy and robustness of networks whose layers are held at low or at high rank.

    python examples/papers/rank_table.py --out rank.jsonl
    python examples/papers/rank_table.py --out rank.jsonl --show
    python examples/papers/rank_table.py --out rank_full.jsonl --full --device cuda

A low rank of layers has been said to help generalisation and robustness. The study
(M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth or
backpropaganda? ICLR 2020, arXiv:1910.00359) lowers the rank of all convolutions but the
first (RankMin: singular values under a threshold become zero) or raises it (RankMax:
those above one are cut down to it), in natural and in adversarial training, and finds
no such relation: low rank does not help, high rank does not hurt.

Every network is trained with SGD, momentum .9, weight decay 2e-4 and gradient values
clipped at .1, and projected by `SpectralProjection` at the end of three epochs. Rows,
initial weights and order of batches of a seed are the same in all arms, so differences
are paired by seed. Shown are accuracy on test images, robust accuracy under PGD, and
the mean effective rank of the projected layers by the largest there can be, with 95 %
intervals over seeds (Student's t).

The CPU setting takes 15 minutes on one core: 6,000 images of Fashion-MNIST, three 3x3
convolutions of 16, 32 and 32 channels, thresholds of .8 (RankMin) and 1.0 (RankMax),
projections after epochs 2, 4 and 6 of 12, and an attack of 20 steps at the radius of
training, .05. Thresholds were fixed beforehand. So were the epochs, but for their
number: a first try on one seed had 8, of which hardly any learning was left after the
last projection, and RankMax lost 2 points of accuracy.

`--full` is the published setting: CIFAR-10, ResNet-18, thresholds of .5 and 1.5,
projections after epochs 15, 30 and 40, training against 7 steps of 1/255 at a radius
of 4/255, and an attack of 20 steps of .25/255 at 1/255. That training has 50 epochs and
a rate of .1, divided by 10 after 25, 35 and 45, is this script's choice.
"""

import time
from functools import partial

import numpy as np
from _runs import Runs, arguments, images, interval, shown
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
SETTINGS = {
    "cpu": {
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
    },
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


def measure(training, mode, threshold, seed, setting, device):
    """Train a network, and return its accuracies in per cent and its ranks."""
    plan = SETTINGS[setting]
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
    start = time.process_time()
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
        "seconds": round(time.process_time() - start, 1),
    }


def compared(runs, training, arm, setting):
    """Return {figure: its values for an arm less those without, seed by seed}."""
    shared = {"training": training, "setting": setting}
    values = {}
    for key in ("clean", "robust", "rank"):
        ours = runs.values(key, **shared, mode=arm[0], threshold=arm[1])
        none = runs.values(key, **shared, mode="none", threshold=0.0)
        n = min(len(ours), len(none))
        values[key] = ours[:n] - none[:n]
    return values


def verdict(values):
    """Return what an interval says."""
    mean, half = interval(values)
    if mean - half > 0:
        return "helps"
    return "hurts" if mean + half < 0 else "makes no difference that shows"


def show(runs, arms, setting):
    """Print the table, the paired differences, and what they say."""
    head = f"{'training':12}{'arm':13}{'clean %':>16}{'robust %':>16}{'rank %':>16}"
    print(head + "  nets")
    names = {arm: f"Rank{arm[0].title()} {arm[1]:g}" for arm in arms}
    for training in TRAININGS:
        for arm, name in {("none", 0.0): "none", **names}.items():
            which = {"training": training, "mode": arm[0], "threshold": arm[1]}
            values = [
                runs.values(key, setting=setting, **which)
                for key in ("clean", "robust", "rank")
            ]
            cells = "".join(f"{shown(v):>16}" for v in values)
            print(f"{training:12}{name:13}{cells}{len(values[0]):6}")
    print("\nless none of the same seed, points")
    findings, verdicts = [], []
    for training in TRAININGS:
        for arm, name in names.items():
            gains = compared(runs, training, arm, setting)
            cells = "".join(f"{shown(v):>16}" for v in gains.values())
            print(f"{training:12}{name:13}{cells}{len(gains['clean']):6}")
            verdicts.append((arm[0], verdict(gains["robust"])))
            findings.append(
                f"{training} training, {name}: rank {gains['rank'].mean():+.1f}, clean "
                f"{gains['clean'].mean():+.2f} ({verdict(gains['clean'])}), robust "
                f"{gains['robust'].mean():+.2f} ({verdict(gains['robust'])})"
            )
    print("\n" + "\n".join(findings))
    helps, hurts = (verdicts.count(v) for v in (("min", "helps"), ("max", "hurts")))
    n_each = len(verdicts) // len({mode for mode, _ in verdicts})
    print(
        f"\nlow rank helps robust accuracy in {helps} of {n_each} cases, high rank "
        f"hurts it in {hurts} of {n_each}"
    )


def main():
    """Run what is missing, and print the table."""
    parser = arguments(__doc__, seeds=5)
    args = parser.parse_args()
    setting = "full" if args.full else "cpu"
    device = args.device or ("auto" if args.full else "cpu")
    runs, arms = Runs(args.out), SETTINGS[setting]["arms"]
    todo = [
        {
            "training": training,
            "mode": mode,
            "threshold": threshold,
            "seed": seed,
            "setting": setting,
        }
        for seed in range(args.seeds)
        for training in TRAININGS
        for mode, threshold in [("none", 0.0), *arms]
    ]
    if not args.show:
        for run in todo:
            runs.get(run, partial(measure, device=device))
    show(runs, arms, setting)


if __name__ == "__main__":
    main()
