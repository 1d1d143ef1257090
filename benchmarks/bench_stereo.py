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
#: Least ratio of the memory that the grid takes to solve to that of cells.
_MEMORY = 10.0


def measure(bench):
    """Time fits on 3,000 cells and on the grid, and print memory and accuracy."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    bench.title("Stereo to a gap of 1e-4: partition, sums and solve, costs given")
    for name, X, truth, n_disparities in _pairs(bench):
        left, right = X / 255.0
        volume = matching_cost(left, right, n_disparities, "census")
        models = {
            kind: LiftedStereo(
                n_disparities,
                cost=lambda *_, volume=volume: volume,
                discretization=kind,
            )
            for kind in ("superpixel", "grid")
        }
        cells, grid = models.values()
        bench.compare(
            f"{name}, {len(left)}x{len(left[0])}x{n_disparities}",
            lambda cells=cells, X=X: cells.fit(X),
            {"the pixel grid": lambda grid=grid, X=X: grid.fit(X)},
            repeats=3,
            bars={"the pixel grid": _TIME},
        )
        bad = [-model.score(X, truth) for model in (cells, grid)]
        memory = [_solve_memory(model, X, volume) for model in (cells, grid)]
        print(
            f"bad pixels {bad[0]:.2f} % and {bad[1]:.2f} %, memory to solve "
            f"{memory[0]:.1f} MB and {memory[1]:.0f} MB, {memory[1] / memory[0]:.0f} "
            f"times (at least {_MEMORY:g} wanted)",
            flush=True,
        )
        if memory[1] < _MEMORY * memory[0] and not bench.quick:
            raise RuntimeError("cells take more than their share of memory to solve")
        cv2 = bench.optional("cv2")
        if cv2 is not None:
            _against_sgbm(bench, cv2, name, X, truth, n_disparities)


def _pairs(bench):
    """Yield (name, images, true disparities, their number) of what is at hand."""
    shared = os.environ.get("SKPOISON_SHARED_DATA")
    if shared and not bench.quick:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
        from stereo_table import Pair

        for name in ("tsukuba", "venus"):
            pair = Pair(Path(shared) / "stereo", name)
            visible = pair.masks[0]
            yield name, pair.X, np.where(visible, pair.truth, 0), pair.n_disparities
        return
    data = bench.optional("skimage.data")
    if data is not None:
        left, right, truth = data.stereo_motorcycle()
        step = bench.size(2, 8)
        X = np.stack([left, right])[:, ::step, ::step]
        yield "motorcycle", X, truth[::step, ::step] / step, 64 // step


def _solve_memory(model, X, volume):
    """Return the megabytes held at most from when the graph is there."""
    before = []

    def cost(*_):
        before.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()
        return volume

    tracemalloc.start()
    LiftedStereo(**{**model.get_params(deep=False), "cost": cost}).fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - before[0]) / 1e6


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
