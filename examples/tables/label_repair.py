"""Wrong labels repaired, voted down or dropped: right labels, and models after it.

    python examples/tables/label_repair.py --out label_repair.jsonl
    python examples/tables/label_repair.py --out label_repair.jsonl --show

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

import time
import warnings
from functools import lru_cache

import numpy as np
from _papers import Runs, arguments, print_table
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


@lru_cache(maxsize=1)
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


def measure(data, noise, share, seed):
    """Return the figures of one setting."""
    X, X_test, y, y_test = load(data, seed)
    noisy = flip(y, noise, share, seed)
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
        "right": {key: float(value) for key, value in right.items()},
        "accuracy": accuracy,
        "seconds": seconds,
    }


def show(runs):
    """Print both tables."""
    tables = {
        "right": [
            "given",
            *[f"repair {v}" for v in REGULARIZATION],
            "vote",
            "detector",
        ],
        "accuracy": [f"{model} {rows}" for model in MODELS for rows in TRAINED_ON],
    }
    titles = {"right": "share of right labels", "accuracy": "accuracy on clean rows"}
    found = [r["run"] for r in runs.results.values()]
    settings = dict.fromkeys((r["data"], r["noise"], r["share"]) for r in found)
    for key, columns in tables.items():
        rows = []
        for data, noise, share in settings:
            results = runs.values(key, data=data, noise=noise, share=share)
            cells = []
            for column in columns:
                values = np.array([result[column] for result in results])
                error = values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
                cells.append(f"{values.mean():.3f} ±{error:.3f}")
            rows.append((f"{data}, {noise} {share:.0%}", *cells))
        print_table(rows, (titles[key], *columns))
        print()
    for name in ("repair", "detector"):
        seconds = [seconds[name] for seconds in runs.values("seconds")]
        print(f"CPU seconds of {name}: median {np.median(seconds):.2f}")


def main(argv=None):
    """Run what is missing, print the tables."""
    parser = arguments(__doc__, full=False)
    names = [*DATA, "fashion"]
    parser.add_argument("--data", nargs="+", choices=names, default=names)
    args = parser.parse_args(argv)
    runs = Runs(args.out)
    warnings.filterwarnings("ignore", message=".*keep their labels")
    for data in [] if args.show else args.data:
        for seed in range(args.seeds):
            for noise, share in NOISE if load(data, seed) else []:
                run = {"data": data, "noise": noise, "share": share, "seed": seed}
                runs.get(run, measure)
    if runs.results:
        show(runs)


if __name__ == "__main__":
    main()
