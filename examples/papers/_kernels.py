"""How much the tangent kernel changes in training, by the width of networks.

Section 4 of the paper. Families of networks of several widths are trained by SGD with
momentum 0.9, rate 0.01, weight decay 5e-4 and batches of 128 on standardised pixels.
The kernel of all outputs on 25 rows before training is compared with the one after it:
Pearson's correlation of the entries, cosine ("similarity"), and the relative change of
all parameters. Networks with batch normalisation are measured twice: in the statistics
of the training rows ("correlation"), and in the running ones ("running"), with which
they start as another function than the one that is trained.

On the CPU 2,000 rows of Fashion-MNIST, for convolutions averaged to 14 by 14 pixels, 10
epochs, 25 rows drawn evenly from the classes. --full is the published protocol on
CIFAR-10: 200 epochs, rate times 0.2 after 60, 120 and 160, no augmentation, the first
25 rows of a batch of 128 sorted by class. MLPs have three hidden layers.
"""

import warnings
from functools import partial

import numpy as np
from _runs import images, print_table, shown, sign
from skorch.callbacks import LRScheduler

from skpoison.landscape import NTKTracker
from skpoison.models import MLP, ConvNet, ResNet18, ResNet20, TorchClassifier

#: normalisation and shortcuts of the residual networks
RESNETS = {
    "ResNet": ("batch", True),
    "ResNet, no skip": ("batch", False),
    "ResNet, no BN": ("none", True),
    "ResNet, neither": ("none", False),
}
WIDTHS = {
    "cpu": {
        "MLP": (16, 64, 256, 1024),
        "ConvNet": (4, 16, 64),
        **dict.fromkeys(RESNETS, (4, 8, 16, 32)),
    },
    "full": {
        "MLP": (16, 64, 256, 1024, 4096),
        "ConvNet": (16, 32, 64, 128, 256),
        **dict.fromkeys(RESNETS, (16, 32, 64, 128)),
    },
    "tiny": {"MLP": (2, 4), "ConvNet": (1, 2)},
}
#: families that are compared at their widest
PAIRS = [(family, "MLP") for family in ("ConvNet", *RESNETS)]
PAIRS += [("ResNet", "ResNet, no BN"), ("ResNet, no skip", "ResNet, neither")]
SIDE = 14
FIGURES = ("correlation", "running", "similarity", "param_change", "accuracy")


def network(family, width, full):
    """Return a class of networks and its parameters."""
    if family == "MLP":
        return MLP, {"module__hidden": (width,) * 3}
    if family == "ConvNet":
        channels = (width, 2 * width)
        return ConvNet, {"module__channels": channels, "module__hidden": 4 * width}
    normalization, skip = RESNETS[family]
    options = {"width": width, "normalization": normalization, "skip": skip}
    if not full:
        options["n_blocks"] = 1
    params = {f"module__{name}": value for name, value in options.items()}
    return ResNet18 if full else ResNet20, params


def data(family, size, seed):
    """Return training and test rows, each channel standardised."""
    if size == "full":
        X, y, X_test, y_test = images("cifar10", None, None, seed)
    else:
        n_rows = 2000 if size == "cpu" else 60
        X, y, X_test, y_test = images("fashion_mnist", n_rows, n_rows, seed)
        if family != "MLP":
            X, X_test = (averaged(v, SIDE) for v in (X, X_test))
    mean, std = (f(X, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (X - mean) / std, y, (X_test - mean) / std, y_test


def averaged(X, side):
    """Return images averaged to fewer pixels."""
    step = X.shape[-1] // side
    return X.reshape(len(X), -1, side, step, side, step).mean((3, 5))


def measure(family, width, seed, size, device):
    """Train one network and return the figures of its trackers."""
    full = size == "full"
    X, y, X_test, y_test = data(family, size, seed)
    module, params = network(family, width, full)
    probe = {"probe": "first" if full else "stratified", "at": [], "random_state": seed}
    callbacks = [
        ("ntk", NTKTracker(**probe)),
        ("running", NTKTracker(**probe, recalibrate=False)),
    ]
    if full:
        steps = {"milestones": [60, 120, 160], "gamma": 0.2}
        callbacks.append(("lr", LRScheduler("MultiStepLR", **steps)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of networks that diverge; their loss tells
        clf = TorchClassifier(
            module,
            **params,
            optimizer="sgd",
            optimizer__nesterov=False,
            lr=0.01,
            batch_size=128,
            max_epochs={"full": 200, "cpu": 10, "tiny": 1}[size],
            callbacks=callbacks,
            device=device,
            random_state=seed,
        ).fit(X, y)
    trackers = dict(clf.net_.callbacks_)
    return {
        **trackers["ntk"].change_,
        "running": trackers["running"].change_.correlation,
        "accuracy": 100 * clf.score(X_test, y_test),
        "loss": clf.history_[-1]["train_loss"] if clf.history_ else None,
    }


def todo(runs, args):
    """Yield the runs and what measures them."""
    for seed in range(args.seeds):
        for family, widths in WIDTHS[args.size].items():
            for width in widths:
                run = {"family": family, "width": width, "seed": seed}
                yield {**run, "size": args.size}, partial(measure, device=args.device)


def show(runs, args):
    """Print the tables; return what they say."""
    rows, correlations = [], {}
    for family, widths in WIDTHS[args.size].items():
        for width in widths:
            which = {"family": family, "width": width, "size": args.size}
            found = {name: runs.values(name, **which) for name in FIGURES}
            if len(found["accuracy"]):
                cells = [
                    shown(v, 1 if f == "accuracy" else 3) for f, v in found.items()
                ]
                seconds = runs.values("seconds", **which).mean()
                n = len(found["accuracy"])
                rows.append((f"{family}, {width}", *cells, n, f"{seconds:.1f}"))
                correlations.setdefault(family, []).append(found["correlation"])
    print_table(rows, ("family, width", *FIGURES, "n", "seconds"))
    print()
    rows, rising = [], []
    for family, found in correlations.items():
        n = min(map(len, found))
        doublings = np.log2(WIDTHS[args.size][family][: len(found)])
        slopes = np.polyfit(doublings, [v[:n] for v in found], 1)[0]
        rising += [family] if sign(slopes) > 0 else []
        published = "rises" if family == "MLP" else "-"
        published = "does not rise" if family == "ResNet" else published
        rows.append((f"{family}, a doubling of the width", published, shown(slopes, 3)))
    for one, other in PAIRS:
        if one in correlations and other in correlations:
            gap = correlations[one][-1] - correlations[other][-1]
            published = "below 0" if one.startswith("ResNet") else "-"
            name = f"{one} less {other}, at the widest"
            rows.append((name, published, shown(gap, 3)))
    print_table(rows, ("correlation", "published", "ours"))
    return f"The correlation rises with the width of: {'; '.join(rising) or 'none'}."
