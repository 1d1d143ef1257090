"""LiftedLabelPropagation and LiftedLabelRepair against LabelSpreading.

The neighbours are sought on either side, and take the same time there. At their
defaults the lifted solvers stop at a certified gap of 1e-4; LabelSpreading stops after
its 30 iterations. The bound is the search for neighbours alone.
"""

import warnings

import numpy as np
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import kneighbors_graph
from sklearn.semi_supervised import LabelSpreading

from skpoison.partition import LiftedLabelPropagation, LiftedLabelRepair


def few(y, n_each, seed=0):
    """Keep `n_each` labels a class, -1 elsewhere."""
    rng = np.random.default_rng(seed)
    given = np.full(len(y), -1)
    for label in np.unique(y):
        rows = rng.choice(np.flatnonzero(y == label), n_each, replace=False)
        given[rows] = label
    return given


def flip(y, share, seed=0):
    """Give a share of the rows a random label."""
    rng = np.random.default_rng(seed)
    noisy = y.copy()
    rows = rng.permutation(len(y))[: int(share * len(y))]
    noisy[rows] = rng.choice(np.unique(y), len(rows))
    return noisy


def measure(bench):
    """Time fits on digits and on larger made data of ten classes."""
    warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
    X, y = load_digits(return_X_y=True)
    _compare(bench, "digits", X / 16, y)
    n_rows = bench.size(10_000, 1_000)
    X, y = make_blobs(
        n_rows, 10, centers=10, cluster_std=3.0, center_box=(-5, 5), random_state=0
    )
    _compare(bench, "blobs", X, y)


def _compare(bench, name, X, y):
    given, noisy = few(y, 3), flip(y, 0.3)
    bench.title(f"Labels over neighbours, {name}, {len(y):,} x {X.shape[1]}")
    for prior in ("geodesic", "both"):
        model = LiftedLabelPropagation(prior=prior)
        assert model.fit(X, given).relative_gap_ <= 1e-4
        bench.compare(
            f"LiftedLabelPropagation, {prior}",
            lambda model=model: model.fit(X, given),
            {
                "LabelSpreading": lambda: LabelSpreading(
                    kernel="knn", n_neighbors=10, alpha=0.8
                ).fit(X, given)
            },
            repeats=5,
            bound=lambda: kneighbors_graph(X, 10, mode="distance"),
            bars={"LabelSpreading": 3.0 if prior == "geodesic" else 5.0},
        )
    bench.compare(
        "LiftedLabelRepair",
        lambda: LiftedLabelRepair().fit(X, noisy),
        {
            "LabelSpreading": lambda: LabelSpreading(
                kernel="knn", n_neighbors=10, alpha=0.8
            ).fit(X, noisy)
        },
        repeats=5,
        bound=lambda: kneighbors_graph(X, 10, mode="distance"),
        bars={"LabelSpreading": 3.0},
    )
