"""Certified accuracy of deep partition aggregation on MNIST.

    python examples/tables/certified.py
    python examples/tables/certified.py --parts 250 --test-rows 10000 --jobs 2

60,000 training images, one nearest neighbour on each part, the first 2,000 test
images. "at r" is the certified accuracy: the share of test images that are read rightly
whatever r training rows are inserted, deleted or relabelled. The median radius counts
images that are read wrongly as 0, as the paper does: it is the r at which the certified
accuracy falls to one half. MNIST has to be on the machine, see
`skpoison.datasets.fetch_mnist`.
"""

import argparse
import os
import time

# before the libraries that read it; --jobs says how many threads there are
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from skpoison.datasets import fetch_mnist
from skpoison.defenses import DeepPartitionAggregationClassifier

BUDGETS = (0, 10, 25, 50, 100, 200, 400)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, nargs="+", default=[50, 250, 1200])
    parser.add_argument("--hash", choices=["blake2b", "sum"], default="blake2b")
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()

    X, y = fetch_mnist(subset="all", dtype="uint8", return_X_y=True)
    X = X.reshape(len(X), -1)
    # neighbours are searched in float32: twice as fast as in float64
    X_test = X[60_000:][: args.test_rows].astype(np.float32)
    X, y, y_test = X[:60_000].astype(np.float32), y[:60_000], y[60_000:]
    y_test = y_test[: args.test_rows]

    columns = "".join(f"{f'at {budget}':>8}" for budget in BUDGETS[1:])
    print(f"{'parts':>5} {'accuracy':>9} {'median radius':>14}{columns}    fit certify")
    for n_partitions in args.parts:
        model = DeepPartitionAggregationClassifier(
            KNeighborsClassifier(1),
            n_partitions=n_partitions,
            hash=args.hash,
            n_jobs=args.jobs,
        )
        start = time.perf_counter()
        model.fit(X, y)
        fitted = time.perf_counter()
        labels, radius = model.certify(X_test)
        end = time.perf_counter()
        right = labels == y_test
        shares = [(right & (radius >= budget)).mean() for budget in BUDGETS]
        median = np.median(np.where(right, radius, 0))
        cells = "".join(f"{share:8.3f}" for share in shares[1:])
        print(
            f"{n_partitions:5} {shares[0]:9.3f} {median:14g}{cells}"
            f" {fitted - start:4.0f} s {end - fitted:5.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
