"""Test error of federated learning by aggregation rule, attack and rejection.

    python examples/federated_table.py --out mnist.jsonl
    python examples/federated_table.py --out mnist.jsonl --show
    python examples/federated_table.py --data breast_cancer --out cancer.jsonl
    python examples/federated_table.py --data fashion_mnist --out fashion.jsonl
    python examples/federated_table.py --model cnn --out cnn.jsonl
    python examples/federated_table.py --model cnn --scale full --device cuda

The setting of "Local model poisoning attacks to Byzantine-robust federated learning":
100 clients, 20 of them compromised, bias .5, one local step a round, learning rate .096
on the mean loss, 500 rounds for softmax regression on all of MNIST. Tables 2 (MNIST
column), 4, 6 and 7b of the paper are printed beside what it printed. Every run is a
line of the output file, and a second call runs only what is missing. A run of softmax
regression on MNIST takes 5 to 10 seconds on one core.

The convolutional network runs at a scale for one core by default (30 clients, 6
compromised, 150 rounds); ``--scale full`` is the paper's.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from skpoison.datasets import fetch_ch_mnist, fetch_fashion_mnist, fetch_mnist
from skpoison.federated import (
    Bulyan,
    ClientLabelFlipAttack,
    FangKrumAttack,
    FangTrimAttack,
    FederatedClassifier,
    GaussianAttack,
    Krum,
    Mean,
    Median,
    TrimmedMean,
    partition_clients,
)

# the paper sums distances, not their squares
KRUM = Krum(metric="euclidean")
RULES = {
    "krum": KRUM,
    "trimmed mean": TrimmedMean(),
    "median": Median(),
    "bulyan": Bulyan(),
    "mean": Mean(),
}
ATTACKS = {
    "none": None,
    "gaussian": GaussianAttack(),
    "label flip": ClientLabelFlipAttack(),
    "krum partial": FangKrumAttack(knowledge="partial"),
    "krum full": FangKrumAttack(knowledge="full"),
    "trim partial": FangTrimAttack(knowledge="partial"),
    "trim full": FangTrimAttack(knowledge="full"),
}
OWN = {"krum": "krum", "bulyan": "krum"}  # the attack made for a rule, or "trim"

# what the paper prints for softmax regression on MNIST, by rule, rejection and attack
PUBLISHED = {
    ("krum", "", "none"): 0.14,
    ("krum", "", "gaussian"): 0.13,
    ("krum", "", "label flip"): 0.13,
    ("krum", "", "krum partial"): 0.72,
    ("krum", "", "krum full"): 0.80,
    ("krum", "", "trim partial"): 0.13,
    ("trimmed mean", "", "none"): 0.12,
    ("trimmed mean", "", "gaussian"): 0.11,
    ("trimmed mean", "", "label flip"): 0.13,
    ("trimmed mean", "", "trim partial"): 0.23,
    ("trimmed mean", "", "trim full"): 0.52,
    ("trimmed mean", "", "krum partial"): 0.15,
    ("median", "", "none"): 0.13,
    ("median", "", "gaussian"): 0.13,
    ("median", "", "label flip"): 0.15,
    ("median", "", "trim partial"): 0.19,
    ("median", "", "trim full"): 0.29,
    ("median", "", "krum partial"): 0.17,
    ("bulyan", "", "none"): 0.14,
    ("bulyan", "", "krum partial"): 0.36,
    ("bulyan", "", "krum full"): 0.38,
}
for _rule, _rows in {
    "krum": {"err": (0.14, 0.62, 0.13), "lfr": (0.14, 0.58, 0.14)},
    "trimmed mean": {"err": (0.12, 0.17, 0.21), "lfr": (0.12, 0.18, 0.12)},
    "median": {"err": (0.13, 0.21, 0.25), "lfr": (0.13, 0.20, 0.13)},
}.items():
    _rows["union"] = {
        "krum": (0.14, 0.48, 0.14),
        "trimmed mean": (0.12, 0.18, 0.12),
        "median": (0.13, 0.19, 0.14),
    }[_rule]
    for _rejection, _errors in _rows.items():
        for _attack, _error in zip(
            ("none", "krum partial", "trim partial"), _errors, strict=True
        ):
            PUBLISHED[_rule, _rejection, _attack] = _error


def cells(model, data):
    """Return the (rule, rejection, attack) to run."""
    if model == "lr" and data == "mnist":
        return [*PUBLISHED, ("mean", "", "none"), ("mean", "", "trim full")]
    found = []
    for rule in ("krum", "trimmed mean", "median"):
        own = OWN.get(rule, "trim")
        attacks = ("none", "gaussian", "label flip", f"{own} partial", f"{own} full")
        found += [(rule, "", attack) for attack in attacks]
    return found


class ConvolutionalNet(nn.Module):
    """The paper's network: two convolutions, two poolings, a hidden layer of 200.

    Its kernels of 3 by 3 need images; there is no padding.
    """

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        channels = input_shape[0]
        features = nn.Sequential(
            nn.Conv2d(channels, 30, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(30, 50, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        with torch.no_grad():
            width = features(torch.zeros(1, *input_shape)).shape[1]
        self.layers = nn.Sequential(
            *features, nn.Linear(width, 200), nn.ReLU(), nn.Linear(200, n_outputs)
        )

    def forward(self, X):
        return self.layers(X)


def load(data, model):
    """Return training and test rows: images, or flat rows for softmax regression."""
    if data == "breast_cancer":
        X, y = load_breast_cancer(return_X_y=True)
        X = (X - X.mean(axis=0)) / np.ptp(X, axis=0)
        X, X_test, y, y_test = train_test_split(
            X.astype("float32"), y, test_size=114, stratify=y, random_state=0
        )
        return X, y, X_test, y_test
    layout = "flat" if model == "lr" else "nchw"
    if data == "ch_mnist":
        X, y = fetch_ch_mnist(layout=layout, dtype="float32", return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        X, y = X[order], y[order]
        return X[:4000], y[:4000], X[4000:], y[4000:]
    fetch = {"mnist": fetch_mnist, "fashion_mnist": fetch_fashion_mnist}[data]
    X, y = fetch(subset="all", layout=layout, dtype="float32", return_X_y=True)
    return X[:60000], y[:60000], X[60000:], y[60000:]


def federation(model, data, scale, device):
    """Return the estimator of a setting."""
    params = {
        "n_clients": 100,
        "n_byzantine": 0.2,
        "lr": 0.096,
        "n_rounds": 500,
        "batch_size": 64 if data == "fashion_mnist" else 32,
        "bias": 0.5,
        "device": device,
    }
    if data == "breast_cancer":
        even = partial(partition_clients, bias=0.5, within="even")
        params |= {"n_rounds": 1000, "batch_size": None, "partition": even}
    if model == "cnn":
        params |= {"estimator": ConvolutionalNet, "n_rounds": 2000}
        if scale == "cpu":
            params |= {"n_clients": 30, "n_rounds": 150, "batch_size": 16, "lr": 0.1}
    return FederatedClassifier(**params)


def run(estimator, cell, seed, data, tail=100, every=20):
    """Train one federation; return its record."""
    X, y, X_test, y_test = data
    rule, rejection, attack = cell
    attack = ATTACKS[attack]
    if attack is not None and "assumed_aggregator" in attack.get_params():
        # an attack made for another rule than the server's does not know better
        made_for_krum = isinstance(attack, FangKrumAttack)
        assumed = KRUM if made_for_krum and OWN.get(rule) != "krum" else None
        attack.set_params(assumed_aggregator=assumed)
    params = {"aggregator": RULES[rule], "attack": attack, "random_state": seed}
    if rejection:
        # 100 rows drawn at the server; the paper draws them from the test set
        params |= {"rejection": rejection, "validation": 100}
    model = clone(estimator).set_params(**params)
    start = time.perf_counter()
    n_rounds, errors = model.n_rounds, []
    stops = [*range(n_rounds - tail, n_rounds, every), n_rounds]
    done = 0
    for stop in (s for s in stops if s > 0):
        model.partial_fit(X, y, n_rounds=stop - done)
        done = stop
        errors.append(1 - model.score(X_test, y_test))
    return {
        "rule": rule,
        "rejection": rejection,
        "attack": cell[2],
        "seed": seed,
        "error": round(errors[-1], 4),
        "tail_error": round(float(np.mean(errors)), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }


def show(records, wanted, published):
    """Print a row for each cell: every seed's error, the tail's mean, the paper's."""
    print(
        f"{'rule':14}{'rejection':11}{'attack':14}{'last round, each seed':24}"
        f"{'tail':>7}{'paper':>7}{'s':>7}"
    )
    for cell in wanted:
        found = [r for r in records if (r["rule"], r["rejection"], r["attack"]) == cell]
        if not found:
            continue
        errors = " ".join(f"{r['error']:.3f}" for r in found)
        tail = np.mean([r["tail_error"] for r in found])
        paper = published.get(cell, float("nan"))
        seconds = np.mean([r["seconds"] for r in found])
        print(
            f"{cell[0]:14}{cell[1] or '-':11}{cell[2]:14}{errors:24}{tail:7.3f}"
            f"{paper:7.2f}{seconds:7.1f}"
        )


def main(argv=None):
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("federated_table.jsonl"))
    parser.add_argument(
        "--data",
        choices=["mnist", "fashion_mnist", "breast_cancer", "ch_mnist"],
        default="mnist",
    )
    parser.add_argument("--model", choices=["lr", "cnn"], default="lr")
    parser.add_argument("--scale", choices=["cpu", "full"], default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=[*RULES])
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    wanted = [c for c in cells(args.model, args.data) if c[0] in args.rules]
    if not args.show:
        data = load(args.data, args.model)
        estimator = federation(args.model, args.data, args.scale, args.device)
        done = {(r["rule"], r["rejection"], r["attack"], r["seed"]) for r in records}
        for seed in range(args.seeds):
            for cell in wanted:
                if (*cell, seed) in done:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    records.append(run(estimator, cell, seed, data))
                with args.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                print(records[-1], flush=True)
    on_mnist = (args.model, args.data) == ("lr", "mnist")
    show(records, wanted, PUBLISHED if on_mnist else {})


if __name__ == "__main__":
    main()
