"""Segmentation on pixels and on super-pixels: energy, time and memory, side by side.

    python examples/segmentation_table.py
    python examples/segmentation_table.py --images 100007 --tol 1e-4
    python examples/segmentation_table.py --all

Images of the Berkeley Segmentation Data Set, from the folder ``segmentation`` of
``$SKPOISON_SHARED_DATA``. Costs are squared distances to the colours of 8 k-means
centres, found once an image and not counted; interfaces are those of 4 neighbours. All
rows pose this one problem, so that their energies compare.

nodes     of the graph that is solved first
cells s   CPU seconds that the super-pixels take
solve s   CPU seconds of all else: sums over cells, solve, refinement
speed     CPU seconds of the grid over those of this row, cells included
MB        peak of numpy's allocations in super-pixels and fit; the costs of all
          pixels, which are given, not counted
solver    the same of the solver alone, where there is no refinement
energy    over that of the grid
gap       of the row's own bound: that of its cells without refinement, else that of
          all pixels

The last rows are alpha-expansion (gco-wrapper, where it is installed) and the nearest
centre. ``--all`` prints a line an image, at half size: the grid against alpha-expansion
and against super-pixels.
"""

import argparse
import os
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
from skimage.io import imread
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import (
    LiftedPartition,
    PartitionGraph,
    SuperpixelGraph,
    solve_lifted,
)

CELLS = {
    "SLIC 1000": {"n_segments": 1000},
    "SLIC 3000": {"n_segments": 3000},
    "SLIC 10000": {"n_segments": 10000},
    "cut pursuit 0.1": {"method": "cut_pursuit", "mu": 0.1},
    "cut pursuit 0.03": {"method": "cut_pursuit", "mu": 0.03},
    "cut pursuit 0.003": {"method": "cut_pursuit", "mu": 0.003},
}
REFINED = [
    ("SLIC 3000", True),
    ("SLIC 3000", "full"),
    ("cut pursuit 0.03", True),
    ("cut pursuit 0.03", "full"),
]


def load(folder, name, half):
    """Return an image in [0, 1], at half size if so asked."""
    image = imread(folder / f"{name}.jpg") / 255.0
    if half:
        height, width = (side // 2 for side in image.shape[:2])
        image = image[: 2 * height, : 2 * width]
        image = image.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    return image


def squared_distances(image, n_labels=8):
    """Return the costs (height, width, n_labels)."""
    rows = image.reshape(-1, 3)
    centers = KMeans(n_labels, n_init=3, random_state=0).fit(rows).cluster_centers_
    return ((image[:, :, None] - centers) ** 2).sum(axis=-1)


def energy(labels, costs, regularization):
    """Return the energy of a labelling, from its definition."""
    fit = np.take_along_axis(costs, labels[..., None], axis=-1).sum()
    cut = (labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()
    return float(fit + regularization * cut)


def timed(function):
    """Return what a function returns, and its CPU seconds."""
    start = time.process_time()
    value = function()
    return value, time.process_time() - start


def make(args, discretization="grid", refine=0, **params):
    """Return the estimator, for given costs."""
    params = {"regularization": args.regularization, "tol": args.tol, **params}
    return LiftedPartition(
        unary="precomputed",
        discretization=discretization,
        refine=refine,
        random_state=0,
        **params,
    )


def known(cells):
    """Return the cells of a fitted SuperpixelGraph as a parameter."""
    return SuperpixelGraph("precomputed", labels=cells.labels_)


def peak(function):
    """Return the largest number of MB allocated while a function runs."""
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        function()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size / 1e6


def memory(args, image, costs, params=None, refine=0):
    """Return the peaks of a whole fit and of the solver, in a few iterations."""

    def fit():
        kind = "grid" if params is None else known(SuperpixelGraph(**params).fit(image))
        return make(args, kind, refine, max_iter=25).fit(costs)

    def solve():
        solve_lifted(unary, graph, args.regularization, tol=args.tol, max_iter=25)

    whole = peak(fit)
    if refine:
        return whole, None
    graph = PartitionGraph.from_grid(costs.shape[:2])
    if params is not None:
        graph = SuperpixelGraph(**params).fit(image).graph_
    unary = graph.aggregate(costs.reshape(-1, costs.shape[2]))
    return whole, peak(solve)


def expansion(costs, regularization):
    """Return labels and CPU seconds of alpha-expansion, or None without gco-wrapper."""
    try:
        import gco
    except ImportError:
        return None
    scale = 10000.0  # integers; without down_weight_factor they would be divided away
    grid = PartitionGraph.from_grid(costs.shape[:2])
    n_labels = costs.shape[2]
    labels, seconds = timed(
        lambda: gco.cut_general_graph(
            grid.edges.astype(np.int32),
            np.full(grid.n_edges, round(scale * regularization), np.int32),
            np.rint(scale * costs.reshape(-1, n_labels)).astype(np.int32),
            (1 - np.eye(n_labels)).astype(np.int32),
            down_weight_factor=1,
        )
    )
    return labels.reshape(costs.shape[:2]), seconds


def table(args, name):
    """Print one image's table."""
    image = load(args.folder, name, False)
    costs = squared_distances(image)
    grid, grid_seconds = timed(lambda: make(args).fit(costs))
    print(
        f"\n{name}, {image.shape[1]} x {image.shape[0]}, regularization "
        f"{args.regularization}, tol {args.tol:g}\n"
        f"{'':24}{'nodes':>8}{'cells s':>9}{'solve s':>9}{'iter':>6}{'speed':>8}"
        f"{'MB':>7}{'solver':>8}{'energy':>9}{'gap':>9}"
    )

    def row(title, model, cells_seconds, seconds, sizes):
        speed = grid_seconds / (cells_seconds + seconds)
        solver = "" if sizes[1] is None else f"{sizes[1]:.1f}"
        print(
            f"{title:24}{model.graph_.n_nodes:8}{cells_seconds:9.2f}{seconds:9.2f}"
            f"{model.n_iter_:6}{speed:8.1f}{sizes[0]:7.1f}{solver:>8}"
            f"{model.energy_ / grid.energy_:9.4f}{model.relative_gap_:9.1e}",
            flush=True,
        )

    row("grid", grid, 0.0, grid_seconds, memory(args, image, costs))
    for title, refine in [(title, 0) for title in CELLS] + REFINED:
        params = CELLS[title]
        cells, cells_seconds = timed(
            lambda params=params: SuperpixelGraph(**params).fit(image)
        )
        kind = known(cells)
        model, seconds = timed(
            lambda kind=kind, refine=refine: make(args, kind, refine).fit(costs)
        )
        suffix = {True: " + bands", "full": " + full"}.get(refine, "")
        sizes = memory(args, image, costs, params, refine)
        row(title + suffix, model, cells_seconds, seconds, sizes)
    others = {"alpha-expansion": expansion(costs, args.regularization)}
    others["nearest centre"] = timed(lambda: costs.argmin(axis=-1))
    for title, found in others.items():
        if found is not None:
            ratio = energy(found[0], costs, args.regularization) / grid.energy_
            print(f"{title:24}{'':17}{found[1]:9.2f}{'':29}{ratio:9.4f}")


def summary(args):
    """Print a line an image at half size, and means over the images."""
    print(
        f"half size, tol {args.tol:g}; energies over the grid's\n{'image':10}"
        f"{'lambda':>8}{'grid s':>8}{'gap':>10}{'expansion':>11}{'s':>7}"
        f"{'SLIC 2000':>11}{'speed':>7}{'cut pursuit':>13}{'speed':>7}"
    )
    lines = []
    for path in sorted(args.folder.glob("*.jpg")):
        image = load(args.folder, path.stem, True)
        costs = squared_distances(image)
        slic, slic_seconds = timed(
            lambda x=image: SuperpixelGraph(n_segments=2000).fit(x)
        )
        pursuit, pursuit_seconds = timed(
            lambda x=image: SuperpixelGraph("cut_pursuit", mu=0.03).fit(x)
        )
        for regularization in (0.03, 0.1):
            args.regularization = regularization
            grid, seconds = timed(lambda costs=costs: make(args).fit(costs))
            peer = expansion(costs, regularization)
            values = [np.nan, np.nan]
            if peer is not None:
                values = [
                    energy(peer[0], costs, regularization) / grid.energy_,
                    peer[1],
                ]
            for cells, before in ((slic, slic_seconds), (pursuit, pursuit_seconds)):
                kind = known(cells)
                model, after = timed(lambda k=kind, c=costs: make(args, k).fit(c))
                values += [model.energy_ / grid.energy_, seconds / (before + after)]
            lines.append([grid.relative_gap_, *values])
            print(
                f"{path.stem:10}{regularization:8}{seconds:8.2f}{grid.relative_gap_:10.1e}"
                f"{values[0]:11.4f}{values[1]:7.2f}{values[2]:11.3f}{values[3]:7.1f}"
                f"{values[4]:13.3f}{values[5]:7.1f}",
                flush=True,
            )
    for title, reduce in (("mean", np.mean), ("min", np.min), ("max", np.max)):
        v = reduce(lines, axis=0)
        print(
            f"{title:26}{v[0]:10.1e}{v[1]:11.4f}{v[2]:7.2f}{v[3]:11.3f}{v[4]:7.1f}"
            f"{v[5]:13.3f}{v[6]:7.1f}"
        )


def main(argv=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", default=["103006", "196027"])
    parser.add_argument("--regularization", type=float, default=0.1)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--all", action="store_true", help="all images, at half size")
    args = parser.parse_args(argv)

    if "SKPOISON_SHARED_DATA" not in os.environ:
        parser.error("SKPOISON_SHARED_DATA must name the folder with the images")
    args.folder = Path(os.environ["SKPOISON_SHARED_DATA"]) / "segmentation"
    if args.all:
        summary(args)
    else:
        for name in args.images:
            table(args, name)


if __name__ == "__main__":
    main()
