"""Are small weights why networks generalise? Norm bias against weight decay.

Section 3 of the paper. Weight decay pulls the squared norm of the weights to zero, norm
bias to a number of one's choice, here a multiple of the norm that the same network,
trained from the same seed with the weight decay of 5e-4, ends with. If small norms were
what helps, norm bias would do worse than weight decay; the paper found that it does as
well or better.

On the CPU a fully connected network sees 8,000 rows of Fashion-MNIST, a convolutional
one and residual ones, with batch normalisation and with Fixup, 2,000 rows of images of
half the size. 5e-4 does little in so few steps, and so a stronger weight decay is in
the table too. Under batch normalisation the norm of the weights before it divides the
learning rate and does nothing else; the row "rate too", added after the others were
seen, undoes that. --full is CIFAR-10 with crops and mirror images, 200 epochs.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from _runs import images, interval, print_table, shown
from skorch.callbacks import LRScheduler

from skpoison.landscape import NormBias
from skpoison.models import (
    MLP,
    ConvNet,
    Normalized,
    ResNet18,
    ResNet20,
    TorchClassifier,
)

DECAY = "weight decay 0.0005"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network and how it is trained."""

    module: type
    params: dict = field(default_factory=dict)
    data: str = "fashion_mnist"
    mean: Any = 0.286
    std: Any = 0.353
    n_train: int | None = 2000
    n_test: int | None = None
    halved: bool = True
    augment: str | None = None
    max_epochs: int = 15
    batch_size: int = 64
    lr: float = 0.05
    schedule: dict = field(
        default_factory=lambda: {"policy": "CosineAnnealingLR", "T_max": 15}
    )
    decays: tuple = (5e-4, 5e-3)
    coef: float = 0.02
    batch_norm: bool = False

    def classifier(self, seed, device, decay, bias, rate):
        """Return a classifier with weight decay or a norm bias."""
        callbacks = [("rate", LRScheduler(**self.schedule))]
        if bias is not None:
            callbacks.append(("bias", bias))
        return TorchClassifier(
            Normalized,
            module__network=self.module,
            module__mean=self.mean,
            module__std=self.std,
            **{f"module__{name}": value for name, value in self.params.items()},
            optimizer="sgd",
            optimizer__momentum=0.9,
            optimizer__nesterov=False,
            optimizer__weight_decay=decay,
            lr=rate * self.lr,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            augment=self.augment,
            callbacks=callbacks,
            device=device,
            random_state=seed,
        )


SMALL = {"width": 8, "n_blocks": 1}
CPU = {
    "MLP 256-256": Setting(
        module=MLP,
        params={"hidden": (256, 256)},
        n_train=8000,
        halved=False,
        max_epochs=25,
        batch_size=128,
        schedule={"policy": "CosineAnnealingLR", "T_max": 25},
        decays=(5e-4, 2e-3),
        coef=3e-3,
    ),
    "ConvNet": Setting(module=ConvNet),
    "ResNet-8": Setting(module=ResNet20, params=SMALL, lr=0.1, batch_norm=True),
    "ResNet-8 Fixup": Setting(
        module=ResNet20, params={**SMALL, "normalization": "fixup"}
    ),
}
PUBLISHED: dict[str, Any] = {
    "data": "cifar10",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
    "n_train": None,
    "halved": False,
    "augment": "default",
    "max_epochs": 200,
    "batch_size": 128,
    "lr": 0.01,
    "schedule": {"policy": "MultiStepLR", "milestones": [25, 35, 40, 45]},
    "decays": (5e-4,),
    "coef": 5e-4,
}
FULL = {
    "ResNet-18": Setting(module=ResNet18, batch_norm=True, **PUBLISHED),
    "MLP 4 x 2048": Setting(module=MLP, params={"hidden": (2048,) * 4}, **PUBLISHED),
    "ResNet-20 Fixup": Setting(
        module=ResNet20, params={"normalization": "fixup"}, **PUBLISHED
    ),
}
SHORT = {"n_train": 64, "n_test": 50, "max_epochs": 1}
SETTINGS = {
    "cpu": CPU,
    "full": FULL,
    "tiny": {"ConvNet": replace(CPU["ConvNet"], **SHORT)},
}
MULTIPLES = 1.5, 3.0


def methods(setting):
    """Return {name: (weight decay, multiple of the norm or None, factor of the rate)}.

    Weights before batch normalisation whose squared norm is m times as large learn as
    before with a learning rate m times as high: one row has both.
    """
    found: dict = {"none": (0, None, 1)}
    found |= {f"weight decay {decay:g}": (decay, None, 1) for decay in setting.decays}
    found |= {f"norm bias x {m:g}": (0, m, 1) for m in MULTIPLES}
    if setting.batch_norm:
        m = MULTIPLES[-1]
        found[f"norm bias x {m:g}, rate too"] = (0, m, m)
    return found


@lru_cache(maxsize=2)
def rows(data, n_train, n_test, halved, seed):
    """Return X_train, y_train, X_test, y_test."""
    X, y, X_test, y_test = images(data, n_train, n_test, seed)
    if halved:
        X, X_test = (
            torch.nn.functional.avg_pool2d(torch.from_numpy(part), 2).numpy()
            for part in (X, X_test)
        )
    return X, y, X_test, y_test


def measure(setting, decay, target, rate, seed, device):
    """Train and return accuracy in percent and the squared norm."""
    X, y, X_test, y_test = rows(
        setting.data, setting.n_train, setting.n_test, setting.halved, seed
    )
    bias = None if target is None else NormBias(target, setting.coef / rate)
    clf = setting.classifier(seed, device, decay, bias, rate).fit(X, y)
    weights = [p.detach() for p in clf.module_.parameters()]
    return {
        "accuracy": 100 * clf.score(X_test, y_test),
        "norm_sq": float(sum(w.square().sum() for w in weights)),
        "target": target,
    }


def todo(runs, args):
    """Yield the runs and what measures them.

    A target is a multiple of the decayed norm of the same seed, which is measured by
    the time that it is asked for.
    """
    for seed in range(args.seeds):
        for net, setting in SETTINGS[args.size].items():
            for name, (decay, multiple, rate) in methods(setting).items():
                shared = {"net": net, "seed": seed, "size": args.size}
                target = None
                if multiple is not None:
                    decayed = runs.get({**shared, "method": DECAY})
                    target = multiple * decayed["norm_sq"]
                yield (
                    {**shared, "method": name},
                    partial(_run, setting, decay, target, rate, device=args.device),
                )


def _run(setting, decay, target, rate, seed, device, **_):
    return measure(setting, decay, target, rate, seed, device)


def show(runs, args):
    """Print the table; return what the figures say."""
    rows, controls = [], []
    summary = {False: Summary(), True: Summary()}
    for net, setting in SETTINGS[args.size].items():
        names = methods(setting)
        found = {
            key: [
                runs.values(key, net=net, method=method, size=args.size)
                for method in names
            ]
            for key in ("accuracy", "norm_sq", "target")
        }
        n_seeds = min(map(len, found["accuracy"]))
        if not n_seeds:
            continue
        accuracy, norms, targets = (
            {m: v[:n_seeds] for m, v in zip(names, found[key], strict=True)}
            for key in found
        )
        decays = [m for m in names if m.startswith("weight decay")]
        best = max(decays, key=lambda m: accuracy[m].mean())
        for method, (_, multiple, rate) in names.items():
            gaps = accuracy[method] - accuracy[best]
            seconds = runs.values("seconds", net=net, method=method, size=args.size)
            rows.append(
                (
                    f"{net}, {method}",
                    "0 or above" if multiple is not None else "-",
                    shown(accuracy[method]),
                    "" if method == best else shown(gaps),
                    f"{norms[method].mean():.1f}",
                    n_seeds,
                    f"{seconds.mean():.0f}",
                )
            )
            if multiple is not None and rate == 1:
                off = abs(norms[method] / targets[method].astype(float) - 1)
                ratio = (norms[method] / norms[best]).mean()
                summary[setting.batch_norm].add(gaps, ratio, off)
            elif multiple is not None:
                alone, both = (
                    shown(accuracy[m] - accuracy[DECAY])
                    for m in (f"norm bias x {multiple:g}", method)
                )
                controls.append(
                    f"{net}: {multiple:g} times the norm of {DECAY} changes accuracy "
                    f"by {alone} points, with {multiple:g} times the rate by {both}."
                )
    head = ("network, method", "published", "accuracy", "less decay", "norm^2")
    print_table(rows, (*head, "n", "seconds"))
    print("'less decay': than the better weight decay, paired by seed, in points")
    told = [
        f"With{'' if batch_norm else 'out'} batch normalisation {rows}"
        for batch_norm, rows in summary.items()
        if rows.ratios
    ]
    return " ".join(told + controls)


@dataclass
class Summary:
    """What rows of norm bias say together."""

    intervals: list = field(default_factory=list)
    ratios: list = field(default_factory=list)
    off: list = field(default_factory=list)

    def add(self, gaps, ratio, off):
        mean, half = interval(gaps)
        self.intervals.append((mean - half, mean + half))
        self.ratios.append(ratio)
        self.off.extend(off)

    def __str__(self):
        lows, highs = zip(*self.intervals, strict=True)
        return (
            f"norm bias, at {min(self.ratios):.1f} to {max(self.ratios):.1f} times the "
            f"squared norm, differs by {min(lows):+.2f} to {max(highs):+.2f} points; "
            f"of {len(lows)} intervals {sum(low > 0 for low in lows)} are above 0, "
            f"{sum(high < 0 for high in highs)} below, and "
            f"{sum(low >= -0.5 for low in lows)} exclude a loss of 0.5 points. Norms "
            f"end within {100 * max(self.off):.2f} % of their targets."
        )
