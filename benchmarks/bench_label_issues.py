"""Wrong labels found: LabelIssueDetector beside the trivial rules, same rows flipped.

    python benchmarks/bench_label_issues.py [--seeds 3]

Precision / recall / F1, means over the seeds. Every rule gets five-fold out-of-fold
probabilities. Columns:

ours          LabelIssueDetector with its defaults
k-NN vote     ten neighbours' majority disagrees with the label
margin 0.3    logistic regression and ten neighbours averaged; the best other class is
              ahead of the label by more than 0.3
cleanlab      its default filter on logistic regression and on ten neighbours; only
              where the package is installed

At 0 % flips the columns hold the false-positive rate. The last columns are our AUC, the
best F1 of the other rules, and the seconds that one of our fits takes. Pixels are
divided by 16; the tables are standardised for the other rules, ours takes them raw.
"Pair" flips rows of one class to one other class and leaves the rest alone.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import scale

from skpoison.defenses import LabelIssueDetector
from skpoison.metrics import detection_report

try:
    from cleanlab.filter import find_label_issues
except ImportError:
    find_label_issues = None

SETTINGS = [
    *[("digits", kind, s) for kind in ("uniform", "next") for s in (0.05, 0.1, 0.2)],
    *[("digits", "pair", share) for share in (0.1, 0.2, 0.3)],
    *[("cancer", "uniform", share) for share in (0.05, 0.1, 0.2)],
    *[("wine", kind, 0.2) for kind in ("uniform", "next")],
    *[("blobs", kind, 0.2) for kind in ("uniform", "next")],
    *[(name, "none", 0.0) for name in ("digits", "cancer", "wine", "blobs")],
]

FIELDS = ("precision", "recall", "f1", "false_positive_rate", "auc")


def load(name):
    if name == "blobs":
        return make_blobs(
            [400, 300, 200, 100], 6, cluster_std=3.5, center_box=(-10, 10),
            random_state=0,
        )  # fmt: skip
    loaders = {"digits": load_digits, "cancer": load_breast_cancer, "wine": load_wine}
    X, y = loaders[name](return_X_y=True)
    return (X / 16 if name == "digits" else X), y


def flip(y, kind, share, seed):
    """Flip a share of the rows, or for "pair" of the rows of class 3 (of 0)."""
    rng = np.random.default_rng(seed)
    n_classes = y.max() + 1
    source, goal = (3, 8) if n_classes > 8 else (0, 1)
    pool = np.flatnonzero(y == source) if kind == "pair" else np.arange(len(y))
    rows = rng.choice(pool, int(share * len(pool)), replace=False)
    noisy = y.copy()
    if kind == "uniform":
        noisy[rows] = (y[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
    elif kind == "next":
        noisy[rows] = (y[rows] + 1) % n_classes
    else:
        noisy[rows] = goal
    return noisy


def margin(proba, y):
    own = proba[np.arange(len(y)), y]
    others = proba.copy()
    others[np.arange(len(y)), y] = -1
    return others.max(axis=1) - own


def other_rules(X, y, seed):
    """Return {name: suspects} of the trivial rules and of cleanlab."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    linear, neighbours = (
        cross_val_predict(model, X, y, cv=folds, method="predict_proba")
        for model in (LogisticRegression(max_iter=1000), KNeighborsClassifier(10))
    )
    rules = {
        "k-NN vote": neighbours.argmax(axis=1) != y,
        "margin 0.3": margin((linear + neighbours) / 2, y) > 0.3,
    }
    if find_label_issues is not None:
        rules["cleanlab LR"] = find_label_issues(y, linear)
        rules["cleanlab k-NN"] = find_label_issues(y, neighbours)
    return rules


def run(name, kind, share, n_seeds):
    """Return {rule: reports averaged over the seeds} and seconds a fit."""
    X, y = load(name)
    standard = X if name in ("digits", "blobs") else scale(X)
    found, seconds = {}, 0.0
    for seed in range(n_seeds):
        noisy = flip(y, kind, share, seed)
        start = time.perf_counter()
        detector = LabelIssueDetector(random_state=seed).fit(X, noisy)
        seconds += time.perf_counter() - start
        report = detection_report(noisy != y, detector.is_clean_, detector.scores_)
        found.setdefault("ours", []).append(report)
        for rule, suspects in other_rules(standard, noisy, seed).items():
            found.setdefault(rule, []).append(detection_report(noisy != y, ~suspects))
    means = {
        rule: {field: np.mean([r[field] for r in reports]) for field in FIELDS}
        for rule, reports in found.items()
    }
    return means, seconds / n_seeds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    n_seeds = parser.parse_args().seeds
    begin, header = time.perf_counter(), False
    for name, kind, share in SETTINGS:
        means, seconds = run(name, kind, share, n_seeds)
        if not header:
            names = "  ".join(f"{rule:^14}" for rule in means)
            print(f"{'data':7} {'flips':8} {'%':>3}  {names}  {'AUC':>5} best   s/fit")
            header = True
        cells = [
            f"{m['precision']:.3f}/{m['recall']:.3f}/{m['f1']:.3f}"
            if share
            else f"{m['false_positive_rate']:.4f}"
            for m in means.values()
        ]
        cells = "  ".join(f"{cell.replace('0.', '.'):^14}" for cell in cells)
        best = max(m["f1"] for rule, m in means.items() if rule != "ours")
        last = f"{means['ours']['auc']:.3f} {best:.3f}" if share else " " * 11
        print(
            f"{name:7} {kind:8} {share * 100:3.0f}  {cells}  {last}  {seconds:.2f}",
            flush=True,
        )
    print(f"{n_seeds} seeds, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
