"""How much the tangent kernel changes in training, by the width of networks.

    python examples/papers/tangent_kernel_table.py --out tangent_kernel.jsonl
    python examples/papers/tangent_kernel_table.py --out tangent_kernel.jsonl --show
    python examples/papers/tangent_kernel_table.py --out full.jsonl --full --seeds 3

Families of networks of several widths are trained by SGD with momentum 0.9, rate 0.01,
weight decay 5e-4 and batches of 128 on standardised pixels. The kernel of all outputs
on 25 rows before training is compared with the one after it: Pearson's correlation of
the entries, cosine, and the relative change of all parameters. Networks with batch
normalisation are measured twice: in the statistics of the training rows
("correlation"), and in the running ones ("running"), with which they start as another
function than the one that is trained.

By default: 2,000 rows of Fashion-MNIST, for convolutions averaged to 14 by 14 pixels,
10 epochs, 25 rows drawn evenly from the classes. "--full" is the published protocol on
CIFAR-10, for a GPU: 200 epochs, rate times 0.2 after 60, 120 and 160, no augmentation,
the first 25 rows of a batch of 128 sorted by class. MLPs have three hidden layers.
"""

import argparse
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _runs import Runs, arguments, images, interval, shown
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
WIDTHS = {"MLP": (16, 64, 256, 1024), "ConvNet": (4, 16, 64)}
WIDTHS |= dict.fromkeys(RESNETS, (4, 8, 16, 32))
FULL_WIDTHS = {"MLP": (16, 64, 256, 1024, 4096), "ConvNet": (16, 32, 64, 128, 256)}
FULL_WIDTHS |= dict.fromkeys(RESNETS, (16, 32, 64, 128))
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


def data(family, full, n_rows, seed):
    """Return training and test rows, each channel standardised."""
    if full:
        X, y, X_test, y_test = images("cifar10", n_rows, None, seed)
    else:
        X, y, X_test, y_test = images("fashion_mnist", n_rows or 2000, 2000, seed)
        if family != "MLP":
            X, X_test = (averaged(v, SIDE) for v in (X, X_test))
    mean, std = (f(X, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (X - mean) / std, y, (X_test - mean) / std, y_test


def averaged(X, side):
    """Return images averaged to fewer pixels."""
    step = X.shape[-1] // side
    return X.reshape(len(X), -1, side, step, side, step).mean((3, 5))


def run(family, width, seed, full, n_epochs, n_rows, device):
    """Train one network and return the figures of its trackers."""
    X, y, X_test, y_test = data(family, full, n_rows, seed)
    module, params = network(family, width, full)
    probe = {"probe": "first" if full else "stratified", "at": [], "random_state": seed}
    callbacks = [
        ("ntk", NTKTracker(**probe)),
        ("running", NTKTracker(**probe, recalibrate=False)),
    ]
    if full:
        steps = {"milestones": [60, 120, 160], "gamma": 0.2}
        callbacks.append(("lr", LRScheduler("MultiStepLR", **steps)))
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of networks that diverge; their loss tells
        clf = TorchClassifier(
            module,
            **params,
            optimizer="sgd",
            optimizer__nesterov=False,
            lr=0.01,
            batch_size=128,
            max_epochs=n_epochs,
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
        "seconds": time.process_time() - started,
    }


def slopes(runs, setting, family, widths):
    """Return, of each seed, how the correlation rises with a doubling of the width."""
    values = [
        runs.values("correlation", family=family, width=w, **setting) for w in widths
    ]
    if len({len(v) for v in values}) > 1:
        raise SystemExit(f"{family}: runs are missing; drop --show to make them")
    return np.polyfit(np.log2(widths), np.array(values), 1)[0]


def show(runs, setting, widths):
    """Print the table and what follows from it."""
    print(f"{'family':16s} {'width':>5s} " + "".join(f"{f:>17s}" for f in FIGURES))
    for family, width in ((f, w) for f in widths for w in widths[f]):
        found = {
            f: runs.values(f, family=family, width=width, **setting) for f in FIGURES
        }
        if len(found["accuracy"]):
            cells = [shown(v, 1 if f == "accuracy" else 3) for f, v in found.items()]
            print(f"{family:16s} {width:5d} " + "".join(f"{c:>17s}" for c in cells))
    print("\nrise of the correlation with a doubling of the width, 95 % intervals")
    widest = {}
    for family, own in widths.items():
        widest[family] = runs.values(
            "correlation", family=family, width=own[-1], **setting
        )
        print(f"{family:16s} {shown(slopes(runs, setting, family, own), 3)}")
    print("\nat the widest, correlation less that of another family, paired by seed")
    for one, other in PAIRS:
        if one in widest and other in widest:
            print(f"{one:16s} - {other:16s} {shown(widest[one] - widest[other], 3)}")
    rises = {f: interval(slopes(runs, setting, f, w)) for f, w in widths.items()}
    rising = [f for f, (mean, half) in rises.items() if mean - half > 0]
    print(f"\nrises with width beyond its interval: {'; '.join(rising) or 'none'}")


def main(argv=None):
    parser = arguments(__doc__, seeds=5)
    parser.add_argument("--families", nargs="+", default=list(WIDTHS))
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--widths", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    runs = Runs(args.out)
    setting = {"full": args.full, "n_rows": args.rows}
    setting["n_epochs"] = args.epochs or (200 if args.full else 10)
    device = args.device or ("auto" if args.full else "cpu")
    widths = FULL_WIDTHS if args.full else WIDTHS
    widths = {f: tuple(args.widths or widths[f]) for f in args.families}
    for seed in range(args.seeds):
        for family, width in ((f, w) for f in widths for w in widths[f]):
            if not args.show:
                one = {"family": family, "width": width, "seed": seed, **setting}
                runs.get(one, lambda **one: run(**one, device=device))
    show(runs, setting, widths)


if __name__ == "__main__":
    main()
