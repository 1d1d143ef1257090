"""Stereo on super-pixels against the pixel grid and OpenCV's semi-global matching."""

import os
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import LiftedStereo
from skpoison.partition._matching_costs import matching_cost

#: Largest share of the grid's time; costs, which both need, are given.
_TIME = 1 / 8
#: Least ratio of the memory that a fit on the grid takes to that of one on cells.
_MEMORY = 10.0
#: Costs and their regularizations: the best of a few for cells, and the defaults.
_MIDDLEBURY = {
    "tsukuba": (("adgrad", 0.2), ("census", 0.4)),
    "venus": (("adgrad", 0.8), ("census", 0.4)),
}


def measure(bench):
    """Time fits on 3,000 cells and on the grid, and print memory and accuracy."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    bench.title("Stereo to a gap of 1e-4: partition, sums and solve, costs given")
    for name, X, truth, n_disparities, settings in _pairs(bench):
        for cost, regularization in settings:
            _against_grid(bench, name, X, truth, n_disparities, cost, regularization)
        cv2 = bench.optional("cv2")
        if cv2 is not None:
            _against_sgbm(bench, cv2, name, X, truth, n_disparities)


def _pairs(bench):
    """Yield (name, images, true disparities, their number, settings) of the pairs.

    Settings are costs and their regularizations.
    """
    shared = os.environ.get("SKPOISON_SHARED_DATA")
    if shared and not bench.quick:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples/papers"))
        from graph_discretization import middlebury

        for name, settings in _MIDDLEBURY.items():
            yield name, *middlebury(Path(shared) / "stereo", name), settings
        return
    data = bench.optional("skimage.data")
    if data is not None:
        left, right, truth = data.stereo_motorcycle()
        step = bench.size(2, 8)
        X = np.stack([left, right])[:, ::step, ::step]
        truth = truth[::step, ::step] / step
        yield "motorcycle", X, truth, 64 // step, (("census", 0.4),)


def _against_grid(bench, name, X, truth, n_disparities, cost, regularization):
    left, right = X / 255.0
    volume = matching_cost(left, right, n_disparities, cost)
    cells, grid = (
        LiftedStereo(
            n_disparities,
            regularization,
            cost=lambda *_: volume,
            discretization=discretization,
        )
        for discretization in ("superpixel", "grid")
    )
    bench.compare(
        f"{name}, {cost} {regularization}, {len(left)}x{len(left[0])}x{n_disparities}",
        lambda: cells.fit(X),
        {"the pixel grid": lambda: grid.fit(X)},
        repeats=3,
        bars={"the pixel grid": _TIME},
    )
    bad = [-model.score(X, truth) for model in (cells, grid)]
    memory = [_peak_memory(model, X) for model in (cells, grid)]
    print(
        f"bad pixels {bad[0]:.2f} % and {bad[1]:.2f} %, memory {memory[0]:.1f} MB and "
        f"{memory[1]:.0f} MB, {memory[1] / memory[0]:.1f} times (at least {_MEMORY:g} "
        "wanted)",
        flush=True,
    )
    if memory[1] < _MEMORY * memory[0] and not bench.quick:
        raise RuntimeError("cells take more than their share of memory")


def _peak_memory(model, X):
    """Return the most megabytes that a fit holds besides images and costs."""
    tracemalloc.start()
    model.fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def _against_sgbm(bench, cv2, name, X, truth, n_disparities):
    n_disparities_cv = -(-n_disparities // 16) * 16
    # else it gives up on a band as wide as the largest disparity
    left, right = (
        np.pad(image, ((0, 0), (n_disparities_cv, 0), (0, 0)), mode="edge")
        for image in X
    )
    matcher = cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=n_disparities_cv,
        blockSize=5,
        P1=8 * 3 * 25,
        P2=32 * 3 * 25,
        mode=cv2.STEREO_SGBM_MODE_HH,
    )
    model = LiftedStereo(n_disparities)
    bench.compare(
        f"{name}, costs included",
        lambda: model.fit(X),
        {"OpenCV SGBM": lambda: matcher.compute(left, right)},
        repeats=3,
    )
    found = matcher.compute(left, right)[:, n_disparities_cv:] / 16.0
    known = np.isfinite(truth) & (truth > 0)
    bad = 100 * np.mean(abs(found - truth)[known] > 1)
    print(f"bad pixels {-model.score(X, truth):.2f} % and {bad:.2f} %", flush=True)
