"""Wrong labels repaired, voted down or dropped: right labels, and models after it.

    python examples/label_repair_table.py --out label_repair.jsonl
    python examples/label_repair_table.py --out label_repair.jsonl --show

Four data sets: digits (70 % train, pixels), breast cancer and wine (70 %,
standardised), Fashion-MNIST (4,000 rows, 2,000 for the test, 30 principal components;
left out where the data are not found, see ``skpoison.datasets``). Labels of the
training part are flipped to another class at random, or to the next class ("pair").
A seed moves the split and the flips. Every run is a line of the output file, and a
second call runs only what is missing.

The first table has the share of right labels, mean and standard error over seeds:
before, after ``LiftedLabelRepair`` at some values of its regularization (0.3 is the
default), after a vote of ten neighbours, and after replacing the labels that
``LabelIssueDetector`` distrusts by those that it proposes. The second has the accuracy
on clean test rows of a support vector machine and of logistic regression trained on
all rows, on those that the detector keeps, on repaired rows, and on those that repair
does not flag.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skpoison.datasets import fetch_fashion_mnist
from skpoison.defenses import LabelIssueDetector
from skpoison.partition import LiftedLabelRepair

DATA = {"digits": load_digits, "cancer": load_breast_cancer, "wine": load_wine}
NOISE = [("none", 0.0), *[("flips", s / 10) for s in (1, 2, 3, 4)], ("pair", 0.3)]
REGULARIZATION = [0.2, 0.25, 0.3, 0.4, 0.6]
DEFAULT = LiftedLabelRepair().regularization
MODELS = {"SVC": SVC(), "LR": LogisticRegression(max_iter=1000)}
TRAINED_ON = ["all", "detector", "repair", "drop"]


def load(name, seed):
    """Return training and test rows and labels; None where the data are missing."""
    if name in DATA:
        X, y = DATA[name](return_X_y=True)
        X, X_test, y, y_test = train_test_split(
            X, y, train_size=0.7, random_state=seed, stratify=y
        )
        scaler = StandardScaler().fit(X)
        if name == "digits":  # pixels have one unit
            return X / 16, X_test / 16, y, y_test
        return scaler.transform(X), scaler.transform(X_test), y, y_test
    try:
        X, y = fetch_fashion_mnist(
            subset="train", return_X_y=True, download_if_missing=False
        )
    except OSError as error:
        print(f"{name} is left out: {error}")
        return None
    rows = np.random.default_rng(seed).permutation(len(y))[:6000]
    X, y = np.asarray(X)[rows], np.asarray(y)[rows]
    reduce = PCA(30, random_state=0).fit(X[:4000])
    X = reduce.transform(X)
    return X[:4000], X[4000:], y[:4000], y[4000:]


def flip(y, kind, share, seed):
    """Return a copy of y with wrong labels."""
    rng = np.random.default_rng(seed)
    n_classes = y.max() + 1
    rows = rng.permutation(len(y))[: int(share * len(y))]
    step = 1 if kind == "pair" else rng.integers(1, n_classes, len(rows))
    noisy = y.copy()
    noisy[rows] = (y[rows] + step) % n_classes
    return noisy


def vote(X, noisy):
    """Return the label of most of the ten neighbours of each row."""
    rows = NearestNeighbors(n_neighbors=10).fit(X).kneighbors(return_distance=False)
    return np.eye(noisy.max() + 1)[noisy][rows].sum(axis=1).argmax(axis=1)


def run(name, kind, share, seed, data):
    """Return the record of one setting."""
    X, X_test, y, y_test = data
    noisy = flip(y, kind, share, seed)
    right = {"given": np.mean(noisy == y), "vote": np.mean(vote(X, noisy) == y)}
    sets = {"all": (X, noisy)}
    seconds = {}
    for value in REGULARIZATION:
        start = time.process_time()
        model = LiftedLabelRepair(regularization=value).fit(X, noisy)
        right[f"repair {value}"] = np.mean(model.repaired_labels_ == y)
        if value == DEFAULT:
            seconds["repair"] = time.process_time() - start
            sets["repair"] = X, model.repaired_labels_
            sets["drop"] = X[model.is_clean_], noisy[model.is_clean_]
    start = time.process_time()
    detector = LabelIssueDetector(random_state=seed).fit(X, noisy)
    seconds["detector"] = time.process_time() - start
    proposed = np.where(detector.is_clean_, noisy, detector.proposed_labels_)
    right["detector"] = np.mean(proposed == y)
    sets["detector"] = X[detector.is_clean_], noisy[detector.is_clean_]
    accuracy = {
        f"{model} {trained_on}": MODELS[model].fit(*rows).score(X_test, y_test)
        for model in MODELS
        for trained_on, rows in sets.items()
    }
    return {
        "data": name,
        "noise": kind,
        "share": share,
        "seed": seed,
        "right": {key: float(value) for key, value in right.items()},
        "accuracy": accuracy,
        "seconds": seconds,
    }


def show(records):
    """Print both tables."""
    columns = ["given", *[f"repair {v}" for v in REGULARIZATION], "vote", "detector"]
    _table(records, "right", columns, "share of right labels")
    columns = [f"{model} {rows}" for model in MODELS for rows in TRAINED_ON]
    _table(records, "accuracy", columns, "accuracy on clean test rows")
    for name in ("repair", "detector"):
        seconds = [r["seconds"][name] for r in records]
        print(f"CPU seconds of {name}: median {np.median(seconds):.2f}")


def _table(records, key, columns, title):
    print(f"\n{title}\n{'data':9}{'noise':12}" + "".join(f"{c:>14}" for c in columns))
    settings = dict.fromkeys((r["data"], r["noise"], r["share"]) for r in records)
    for setting in settings:
        found = [
            r[key] for r in records if (r["data"], r["noise"], r["share"]) == setting
        ]
        name, kind, share = setting
        line = f"{name:9}{f'{kind} {share:.0%}':12}"
        for column in columns:
            values = np.array([f[column] for f in found])
            error = values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
            line += f"{f'{values.mean():.3f} ±{error:.3f}':>14}"
        print(line)


def main(argv=None):
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("label_repair_table.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    names = [*DATA, "fashion"]
    parser.add_argument("--data", nargs="+", choices=names, default=names)
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(r["data"], r["noise"], r["share"], r["seed"]) for r in records}
    warnings.filterwarnings("ignore", message=".*keep their labels")
    for name in [] if args.show else args.data:
        for seed in range(args.seeds):
            missing = [n for n in NOISE if (name, *n, seed) not in done]
            data = load(name, seed) if missing else None
            if data is None:
                continue
            for kind, share in missing:
                record = run(name, kind, share, seed, data)
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                records.append(record)
    if records:
        show(records)


if __name__ == "__main__":
    main()
