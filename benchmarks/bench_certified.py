"""Certificates and trimming beside what one would write without them."""

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import HuberRegressor, RANSACRegressor, Ridge
from sklearn.neighbors import KNeighborsClassifier

from skpoison.defenses import (
    DeepPartitionAggregationClassifier,
    LabelFlipSmoothingClassifier,
    TRIMRegressor,
)

#: Largest share of time beside training and asking the parts' classifiers alone.
_OVERHEAD = 1.5


def images(n_rows, n_classes=10, size=784):
    """Return random rows around one centre a class, and their labels."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % n_classes
    centres = rng.random((n_classes, size), dtype=np.float32)
    return centres[y] + rng.random((n_rows, size), dtype=np.float32), y


def measure(bench):
    """Time fit and certify of the classifiers, and fit of the regressor."""
    _aggregation(bench)
    _smoothing(bench)
    _trim(bench)


def _aggregation(bench):
    X, y = images(bench.size(22_000, 1_500))
    X_test, X, y = X[:1000], X[1000:], y[1000:]
    neighbour = KNeighborsClassifier(1)
    bench.title("Deep partition aggregation: fit, and certify 1,000 rows")
    print(f"{len(X):,} x 784, one nearest neighbour on each part")
    for n_partitions in (50, 250):
        parts = np.arange(len(X)) % n_partitions
        model = DeepPartitionAggregationClassifier(neighbour, n_partitions=n_partitions)

        def classifiers(parts=parts, n_partitions=n_partitions):
            for part in range(n_partitions):
                rows = np.flatnonzero(parts == part)
                clone(neighbour).fit(X[rows], y[rows]).predict(X_test)

        bags = BaggingClassifier(
            neighbour, n_partitions, max_samples=1 / n_partitions, random_state=0
        )
        bench.compare(
            f"{n_partitions} parts",
            lambda model=model: model.fit(X, y).certify(X_test),
            {
                "its classifiers alone": classifiers,
                "BaggingClassifier": lambda bags=bags: bags.fit(X, y).predict(X_test),
            },
            repeats=3,
            bars={"its classifiers alone": _OVERHEAD},
        )


def _smoothing(bench):
    n_draws = bench.size(200, 20)
    bench.title(f"Label-flip smoothing: fit and certify, {n_draws} draws")
    for n_rows, n_classes, n_features in [(4000, 2, 57), (4000, 10, 196)]:
        X, y = images(bench.size(n_rows, 400), n_classes, n_features)
        X_test = X[:1000]
        model = LabelFlipSmoothingClassifier(n_draws=n_draws, random_state=0)
        Y = np.eye(n_classes)[y]

        def refits(X=X, X_test=X_test, Y=Y):
            for _ in range(n_draws):
                Ridge(100.0).fit(X, Y).predict(X_test).argmax(axis=1)

        left, draws = X.T.astype(float), np.tile(Y, n_draws)
        right, coefs = X_test.astype(float), np.ones((n_features, draws.shape[1]))

        def products(left=left, draws=draws, right=right, coefs=coefs):
            return left @ draws, right @ coefs

        bench.compare(
            f"{len(X):,} x {n_features}, {n_classes} classes",
            lambda X=X, y=y, X_test=X_test, m=model: m.fit(X, y).certify(X_test),
            {"a Ridge a draw": refits},
            repeats=3,
            bound=products,
            bars={"a Ridge a draw": 1.0},
        )


def _trim(bench):
    rng = np.random.default_rng(0)
    n_rows = bench.size(5_000, 500)
    X = rng.normal(size=(n_rows, 20))
    y = X @ rng.normal(size=20) + rng.normal(size=n_rows)
    y[: n_rows // 10] = 30.0
    ridge = Ridge()
    bench.title("TRIM: fit")
    for n_restarts in (1, 10):
        model = TRIMRegressor(n_restarts=n_restarts, random_state=0)
        n_fits = sum(
            TRIMRegressor(n_restarts=1, init=init, random_state=0).fit(X, y).n_iter_
            * weight
            for init, weight in (("all", 1), ("random", n_restarts - 1))
        )

        def fits(n_fits=n_fits):
            for _ in range(n_fits):
                clone(ridge).fit(X, y).predict(X)

        bench.compare(
            f"{n_rows:,} x 20, {n_restarts} starts",
            lambda model=model: model.fit(X, y),
            {
                f"{n_fits} fits of Ridge": fits,
                "HuberRegressor": lambda: HuberRegressor(max_iter=1000).fit(X, y),
                "RANSACRegressor": lambda: RANSACRegressor(random_state=0).fit(X, y),
            },
            repeats=5,
        )
