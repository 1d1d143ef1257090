"""Stereo on super-pixels against the pixel grid, SGBM and published optima.

    SKPOISON_SHARED_DATA=data python examples/stereo_table.py
    python examples/stereo_table.py --data data/stereo --tables cells pairs

``data/stereo`` has one folder for each of the Middlebury pairs tsukuba, venus, teddy
and cones, with imL, imR, groundtruth, nonocc, all and disc as PNG. Seconds are of one
CPU; in the tables cells and headline for given costs: partition, sums, solve. Smaller
is the peak of memory of all of that. Bad pixels are off by more than one, in per cent,
of all that are visible in both images, of all, and of those near jumps in depth.

cells       Tsukuba, one energy on the grid and on cells of several kinds
pairs       the four pairs at the defaults, and OpenCV's SGBM if it is installed
headline    Tsukuba and Venus: time, memory and accuracy, cells against grid, at the
            best cost and regularization for cells and at the defaults
mrf         the energy of Szeliski et al. (2008) on Tsukuba; 369218 is the best known
motorcycle  the pair in scikit-image, at full size
"""

import argparse
import os
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import (
    LiftedStereo,
    PartitionGraph,
    SuperpixelGraph,
    solve_lifted,
)
from skpoison.partition._matching_costs import matching_cost

# disparities, and by how much those in the files are multiplied
PAIRS = {"tsukuba": (16, 16), "venus": (20, 8), "teddy": (60, 4), "cones": (60, 4)}
# cost and regularization: the best of a few for cells, and the defaults
HEADLINE = {
    "tsukuba": (("adgrad", 0.2), ("census", 0.4)),
    "venus": (("adgrad", 0.8), ("census", 0.4)),
}
MASKS = ("nonocc", "all", "disc")
TABLES = ("cells", "pairs", "headline", "mrf", "motorcycle")


class Pair:
    """Two images, true disparities, and where they count."""

    def __init__(self, folder, name):
        self.name = name
        self.n_disparities, unit = PAIRS[name]
        left, right, truth, *masks = (
            np.asarray(Image.open(folder / name / f"{kind}.png").convert("RGB"))
            for kind in ("imL", "imR", "groundtruth", *MASKS)
        )
        self.X = np.stack([left, right])
        self.truth = truth[..., 0] / unit
        self.masks = [(m[..., 0] == 255) & (self.truth > 0) for m in masks]

    def bad(self, disparity):
        """Return the percentages of bad pixels as text."""
        wrong = abs(disparity - self.truth) > 1.0
        return " / ".join(f"{100 * wrong[mask].mean():5.2f}" for mask in self.masks)

    def costs(self, cost):
        """Return the costs once and for all, as a function of nothing."""
        left, right = self.X / 255.0
        volume = matching_cost(left, right, self.n_disparities, cost)
        return lambda *_: volume


def timed(model, X, n_runs=1):
    """Fit, and return the fewest CPU seconds it took."""
    seconds = []
    for _ in range(n_runs):
        start = time.process_time()
        model.fit(X)
        seconds.append(time.process_time() - start)
    return min(seconds)


def peak_memory(model, X):
    """Return the most megabytes that a fit holds besides the images."""
    tracemalloc.start()
    clone(model).fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def sgbm(left, right, n_disparities, block_size):
    """Return the disparities of OpenCV's SGBM, over all eight paths."""
    import cv2

    n_disparities = -(-n_disparities // 16) * 16
    left, right = (  # else it gives up on a band as wide as the largest disparity
        np.pad(image, ((0, 0), (n_disparities, 0), (0, 0)), mode="edge")
        for image in (left, right)
    )
    matcher = cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=n_disparities,
        blockSize=block_size,
        P1=8 * 3 * block_size**2,
        P2=32 * 3 * block_size**2,
        mode=cv2.STEREO_SGBM_MODE_HH,
    )
    return matcher.compute(left, right)[:, n_disparities:] / 16.0


def show_cells(folder):
    """Print Tsukuba's energy on several graphs, and the exact one on the pixels."""
    pair = Pair(folder, "tsukuba")
    cost = pair.costs("adgrad")
    slic = {n: SuperpixelGraph("slic", n, 10.0) for n in (1000, 3000, 10_000)}
    cut = {mu: SuperpixelGraph("cut_pursuit", mu=mu) for mu in (0.03, 0.01)}
    graphs = {
        "grid": "grid",
        **{f"SLIC {n:,}": cells for n, cells in slic.items()},
        **{f"cut pursuit, mu {mu}": cells for mu, cells in cut.items()},
    }
    print(
        f"{'tsukuba, adgrad':22}{'nodes':>8}{'seconds':>9}{'faster':>8}{'smaller':>9}"
        f"{'energy':>11}{'ratio':>7}{'bad nonocc / all / disc':>28}"
    )
    grid = None
    for name, discretization in graphs.items():
        model = LiftedStereo(
            pair.n_disparities, 0.2, cost=cost, discretization=discretization
        )
        seconds = timed(model, pair.X)
        memory = peak_memory(model, pair.X)
        grid = grid or (seconds, memory, model.energy_)
        print(
            f"{name:22}{model.graph_.n_nodes:8,}{seconds:9.2f}"
            f"{grid[0] / seconds:7.0f}x{grid[1] / memory:8.1f}x{model.energy_:11.1f}"
            f"{model.energy_ / grid[2]:7.3f}{pair.bad(model.disparity_):>28}",
            flush=True,
        )
    model = LiftedStereo(
        pair.n_disparities, 0.2, cost=cost, discretization="grid", solver="maxflow"
    )
    try:
        model.fit(pair.X)
    except (ImportError, ValueError) as error:
        print(f"no exact optimum: {error}")
    else:
        print(f"{'exact, by min-cut':22}{'':34}{model.energy_:11.2f}")


def show_pairs(folder):
    """Print the four pairs at the defaults, and SGBM at its best block size."""
    print(f"{'':10}{'nodes':>6}{'seconds':>9}{'bad nonocc / all / disc':>28}   SGBM")
    for name in PAIRS:
        pair = Pair(folder, name)
        model = LiftedStereo(pair.n_disparities)
        seconds = timed(model, pair.X)
        print(
            f"{name:10}{model.graph_.n_nodes:6,}{seconds:9.2f}"
            f"{pair.bad(model.disparity_):>28}   {best_sgbm(pair)}",
            flush=True,
        )


def best_sgbm(pair):
    """Return the bad pixels of SGBM's best block size, and its seconds, as text."""
    try:
        start = time.process_time()
        found = [sgbm(*pair.X, pair.n_disparities, size) for size in (3, 5, 7)]
    except ImportError:
        return "cv2 is not installed"
    seconds = (time.process_time() - start) / 3
    return f"{min(map(pair.bad, found))}, {seconds:.2f} s"


def show_headline(folder):
    """Print cells against the grid."""
    print(
        f"{'':10}{'cost':14}{'faster':>7}{'smaller':>9}   bad nonocc / all / disc: "
        "cells, grid"
    )
    for name, settings in HEADLINE.items():
        pair = Pair(folder, name)
        for cost, regularization in settings:
            volume = pair.costs(cost)
            seconds, memory, bad = [], [], []
            for discretization in ("superpixel", "grid"):
                model = LiftedStereo(
                    pair.n_disparities,
                    regularization,
                    cost=volume,
                    discretization=discretization,
                )
                seconds.append(timed(model, pair.X))
                bad.append(pair.bad(model.disparity_))
                memory.append(peak_memory(model, pair.X))
            print(
                f"{name:10}{f'{cost} {regularization}':14}"
                f"{seconds[1] / seconds[0]:6.1f}x{memory[1] / memory[0]:8.1f}x   "
                f"{bad[0]}   {bad[1]}",
                flush=True,
            )


def show_mrf(folder):
    """Print the energy of Szeliski et al.: truncated linear, on the pixels."""
    pair = Pair(folder, "tsukuba")
    left = pair.X[0].astype(int)
    grid = PartitionGraph.from_grid(left.shape[:2])
    i, j = grid.edges.T
    pixels = left.reshape(-1, 3)
    difference = ((pixels[i] - pixels[j]) ** 2).sum(axis=1)
    grid.weights = np.where(difference < 3 * 8 * 8, 2.0, 1.0)
    unary = pair.costs("bt")().reshape(grid.n_nodes, -1)
    print(f"{'iterations':>11}{'seconds':>9}{'energy':>9}{'bound':>11}  bad pixels")
    for max_iter in (300, 1000, 2000):
        start = time.process_time()
        result = solve_lifted(
            unary, grid, 20.0, pairwise="truncated", truncation=2, max_iter=max_iter
        )
        print(
            f"{result.n_iter:11}{time.process_time() - start:9.1f}{result.energy:9.0f}"
            f"{result.lower_bound:11.1f}  "
            f"{pair.bad(result.labels.reshape(left.shape[:2]))}",
            flush=True,
        )


def show_motorcycle(folder):
    """Print scikit-image's pair; errors above one and above two pixels count."""
    from skimage.data import stereo_motorcycle

    left, right, truth = stereo_motorcycle()
    known = np.isfinite(truth)

    def bad(disparity):
        error = abs(disparity - truth)[known]
        return f"{100 * (error > 1).mean():7.1f}{100 * (error > 2).mean():9.1f}"

    print(f"{'motorcycle':18}{'nodes':>8}{'seconds':>9}{'bad 1.0':>9}{'bad 2.0':>9}")
    for n_segments in (3000, 8000, 20_000):
        cells = SuperpixelGraph("slic", n_segments, 10.0)
        model = LiftedStereo(64, discretization=cells)
        seconds = timed(model, (left, right))
        print(
            f"{f'SLIC {n_segments:,}':18}{model.graph_.n_nodes:8,}{seconds:9.1f}  "
            f"{bad(model.disparity_)}",
            flush=True,
        )
    try:
        start = time.process_time()
        found = [sgbm(left, right, 64, size) for size in (3, 5, 7)]
    except ImportError:
        return
    seconds = (time.process_time() - start) / 3
    print(f"{'SGBM':26}{seconds:9.1f}  {min(map(bad, found))}")


def main(argv=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("SKPOISON_SHARED_DATA")
    parser.add_argument(
        "--data", type=Path, default=Path(shared) / "stereo" if shared else None
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    args = parser.parse_args(argv)
    if args.data is None and list(args.tables) != ["motorcycle"]:
        parser.error("give --data, or set SKPOISON_SHARED_DATA")
    warnings.simplefilter("ignore", ConvergenceWarning)
    for table in args.tables:
        print(f"\n{table}")
        globals()[f"show_{table}"](args.data)


if __name__ == "__main__":
    main()
