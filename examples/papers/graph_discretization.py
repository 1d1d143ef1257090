"""Labelling on super-pixels instead of pixels: time, memory and energy, side by side.

    python examples/papers/graph_discretization.py --out graphs.jsonl
    python examples/papers/graph_discretization.py --out graphs.jsonl --show
    python examples/papers/graph_discretization.py --out bsds.jsonl --full --data DATA

J. Geiping, F. Gaede, H. Bauermeister and M. Moeller. Fast convex relaxations using
graph discretizations. 2020, arXiv:2004.11075. Its abstract promises up to ten times
less time and memory at a similar energy. Its tables were not at hand, so that images,
costs and labels are a choice of this script.

Segmentation: squared distances to the colours of 8 k-means centres, an interface of
length 1 for .1, four neighbours. Stereo: everything at the defaults of `LiftedStereo`.
All rows of a part pose the one problem of the pixels, so that their energies compare.
"faster" and "smaller" are CPU seconds and peak of numpy's memory of the grid over those
of the row, super-pixels included; the costs, which both need, are given. "energy" is
that of the row over that of the grid. Means and 95 % intervals over images. Of stereo,
"bad" is the share of visible pixels that are off by more than one, and SGBM that of
OpenCV, where it is installed, at its best block size; alpha-expansion is that of
gco-wrapper.

By default six photographs and one stereo pair, halved, that come with scikit-image.
--full, which needs no GPU, is the Berkeley Segmentation Data Set and the Middlebury
pairs at full size, of which --images takes the first few: DATA holds a folder
"segmentation" of JPEG images and a folder "stereo" with tsukuba, venus, teddy and
cones, each with imL, imR, groundtruth and nonocc as PNG. --data without --full takes
them at half size.
"""

import time
import tracemalloc
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
from _runs import Runs, arguments, print_table, shown
from skimage import data as photographs
from skimage.io import imread
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import (
    LiftedPartition,
    LiftedStereo,
    PartitionGraph,
    SuperpixelGraph,
)
from skpoison.partition._matching_costs import matching_cost

WEIGHT, N_LABELS = 0.1, 8
#: name: discretization, rounds of refinement
SEGMENTATION = {
    "grid": ("grid", 0),
    **{f"SLIC {n:,}": (SuperpixelGraph(n_segments=n), 0) for n in (1000, 3000, 10_000)},
    "cut pursuit": (SuperpixelGraph("cut_pursuit", mu=0.03), 0),
    "SLIC 3,000, refined": (SuperpixelGraph(n_segments=3000), "full"),
    "alpha-expansion": (None, 0),
}
#: figure, what it is computed from, what was published
FIGURES = (
    ("faster", "seconds", "up to 10"),
    ("smaller", "megabytes", "up to 10"),
    ("energy", "energy", "similar"),
    ("bad %", "bad", "-"),
)
STEREO = {"grid": "grid", "super-pixels": "superpixel", "SGBM": None}
CELLS = [*(m for m in SEGMENTATION if "SLIC" in m), "cut pursuit", "super-pixels"]
PHOTOGRAPHS = "astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket"
# disparities, and by how much those in the files are multiplied
PAIRS = {"tsukuba": (16, 16), "venus": (20, 8), "teddy": (60, 4), "cones": (60, 4)}


def smaller(image, step):
    """Return an image averaged over squares of `step` pixels."""
    height, width = (side // step for side in image.shape[:2])
    image = image[: step * height, : step * width]
    return image.reshape(height, step, width, step, -1).mean(axis=(1, 3))


def middlebury(folder, name):
    """Return two images, visible pixels' disparities or 0, how many there may be."""
    left, right, truth, visible = (
        imread(folder / name / f"{kind}.png")
        for kind in ("imL", "imR", "groundtruth", "nonocc")
    )
    truth, visible = (v if v.ndim == 2 else v[..., 0] for v in (truth, visible))
    n_disparities, unit = PAIRS[name]
    X = np.stack([left[..., :3], right[..., :3]])
    return X, np.where(visible == 255, truth / unit, 0), n_disparities


class Images:
    """The images of a size, by name."""

    def __init__(self, args):
        self.folder = args.data
        self.step = {"full": 1, "cpu": 2, "tiny": 8}[args.size]
        self.segmentation = [*PHOTOGRAPHS, "motorcycle"]
        self.stereo = ["motorcycle"]
        if self.folder is not None:
            found = sorted((self.folder / "segmentation").glob("*.jpg"))
            self.segmentation = [path.stem for path in found]
            self.stereo = [*PAIRS]
        self.segmentation = self.segmentation[: args.images]
        self.stereo = self.stereo[: args.images]

    def photograph(self, name):
        """Return an image in [0, 1]."""
        if self.folder is not None:
            image = imread(self.folder / "segmentation" / f"{name}.jpg")
        elif name == "motorcycle":
            image = photographs.stereo_motorcycle()[0]
        else:
            image = getattr(photographs, name)()
        return smaller(image / 255.0, self.step)

    def pair(self, name):
        """Return two images, true disparities or 0, and the number of disparities."""
        if self.folder is None:
            left, right, truth = photographs.stereo_motorcycle()
            X, n_disparities = (left, right), 64
            truth = np.where(np.isfinite(truth), truth, 0)
        else:
            X, truth, n_disparities = middlebury(self.folder / "stereo", name)
        X = np.stack([smaller(image, self.step) for image in X])
        truth = truth[:: self.step, :: self.step] / self.step
        truth = truth[: X.shape[1], : X.shape[2]]
        return X.round().astype(np.uint8), truth, -(-n_disparities // self.step)


def measured(fit):
    """Return a fitted model, its CPU seconds and the megabytes that a fit holds.

    Memory is that of a few iterations: tracing it is slow.
    """
    start = time.process_time()
    fitted = fit()
    seconds = time.process_time() - start
    tracemalloc.start()
    fit(max_iter=25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return fitted, seconds, peak / 1e6


def segment(images, name, method, **_):
    """Return the figures of one segmentation."""
    image = images.photograph(name)
    rows = image.reshape(-1, 3)
    centers = KMeans(N_LABELS, n_init=3, random_state=0).fit(rows).cluster_centers_
    costs = ((image[:, :, None] - centers) ** 2).sum(axis=-1)
    if method == "alpha-expansion":
        labels, seconds = expansion(costs)
        return {"energy": energy(labels, costs), "seconds": seconds}
    cells, refine = SEGMENTATION[method]

    def fit(**short):
        graph = cells
        if cells != "grid":
            labels = clone(cells).fit(image).labels_
            graph = SuperpixelGraph("precomputed", labels=labels)
        return LiftedPartition(
            regularization=WEIGHT, unary="precomputed", tol=1e-3, random_state=0,
            discretization=graph, refine=refine, **short,
        ).fit(costs)  # fmt: skip

    fitted, seconds, megabytes = measured(fit)
    return {
        "energy": energy(fitted.labels_.reshape(costs.shape[:2]), costs),
        "gap": fitted.relative_gap_,
        "nodes": fitted.graph_.n_nodes,
        "seconds": seconds,
        "megabytes": megabytes,
    }


def energy(labels, costs):
    """Return the energy of a labelling of the pixels, from its definition."""
    fit = np.take_along_axis(costs, labels[..., None], axis=-1).sum()
    cut = (labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()
    return float(fit + WEIGHT * cut)


def expansion(costs):
    """Return labels and CPU seconds of alpha-expansion."""
    import gco

    scale = 10000.0  # integers; without down_weight_factor they would be divided away
    grid = PartitionGraph.from_grid(costs.shape[:2])
    start = time.process_time()
    labels = gco.cut_general_graph(
        grid.edges.astype(np.int32),
        np.full(grid.n_edges, round(scale * WEIGHT), np.int32),
        np.rint(scale * costs.reshape(-1, N_LABELS)).astype(np.int32),
        (1 - np.eye(N_LABELS)).astype(np.int32),
        down_weight_factor=1,
    )
    return labels.reshape(costs.shape[:2]), time.process_time() - start


def match(images, name, method, **_):
    """Return the figures of one stereo pair."""
    X, truth, n_disparities = images.pair(name)

    def bad(disparity):
        return 100 * float((abs(disparity - truth) > 1)[truth > 0].mean())

    if method == "SGBM":
        start = time.process_time()
        found = [bad(sgbm(*X, n_disparities, block)) for block in (3, 5, 7)]
        seconds = (time.process_time() - start) / 3
        return {"bad": min(found), "seconds": seconds}
    volume = matching_cost(*X / 255.0, n_disparities, "census")
    model = LiftedStereo(
        n_disparities, discretization=STEREO[method], cost=lambda *_: volume
    )
    fitted, seconds, megabytes = measured(
        lambda **short: clone(model).set_params(**short).fit(X)
    )
    return {
        "energy": fitted.energy_,
        "bad": bad(fitted.disparity_),
        "nodes": fitted.graph_.n_nodes,
        "seconds": seconds,
        "megabytes": megabytes,
    }


def sgbm(left, right, n_disparities, block):
    """Return the disparities of OpenCV's SGBM, over all eight paths."""
    import cv2

    n_disparities = -(-n_disparities // 16) * 16
    left, right = (  # else it gives up on a band as wide as the largest disparity
        np.pad(image, ((0, 0), (n_disparities, 0), (0, 0)), mode="edge")
        for image in (left, right)
    )
    matcher = cv2.StereoSGBM_create(
        minDisparity=0, numDisparities=n_disparities, blockSize=block,
        P1=8 * 3 * block**2, P2=32 * 3 * block**2, mode=cv2.STEREO_SGBM_MODE_HH,
    )  # fmt: skip
    return matcher.compute(left, right)[:, n_disparities:] / 16.0


def cases(images, args):
    """Yield each run and the function that measures it."""
    shared = {"size": args.size, "data": args.data and args.data.name}
    for part, names, methods, measure in (
        ("segmentation", images.segmentation, SEGMENTATION, segment),
        ("stereo", images.stereo, STEREO, match),
    ):
        for name in names:
            for method in methods:
                yield {"part": part, "name": name, "method": method, **shared}, measure


@cache
def available(method):
    """Return whether what a method needs is installed."""
    try:
        if method == "alpha-expansion":
            import gco  # noqa: F401
        if method == "SGBM":
            import cv2  # noqa: F401
    except ImportError as error:
        print(f"{method} is left out: {error}")
        return False
    return True


def show(runs, images, args):
    """Print the table, and whether the claim is seen."""
    found: dict = {}
    for run, _ in cases(images, args):
        result = runs.get(run)
        grid = runs.get({**run, "method": "grid"})
        if result is not None and grid is not None:
            found.setdefault((run["part"], run["method"]), []).append((result, grid))
    rows, told = [], []
    for (part, method), pairs in found.items():
        seconds = f"{np.mean([r['seconds'] for r, _ in pairs]):.2f}"
        ratios = {}
        for figure, key, published in FIGURES:
            if key not in pairs[0][0] or method == "grid" and figure != "bad %":
                continue
            values = [r[key] for r, _ in pairs]
            if figure != "bad %":
                values = np.divide(values, [g[key] for _, g in pairs])
            if published == "up to 10":
                values = 1 / values
            ratios[figure] = values
            cells = shown(values, 3 if figure == "energy" else 1), len(values)
            name = f"{part}, {method}, {figure}"
            rows.append((name, published if method in CELLS else "-", *cells, seconds))
        if method in CELLS:
            faster, less, energies = (ratios[name] for name, _, _ in FIGURES[:3])
            holds = (faster >= 10) & (less >= 10) & (energies <= 1.1)
            told.append(
                f"{part} on {method}: up to {faster.max():.1f} times faster, up to "
                f"{less.max():.1f} times smaller; ten times less of both at an energy "
                f"within 10 % in {holds.sum()} of {len(holds)}."
            )
    print_table(rows)
    print("\n".join(told))


def main(argv=None):
    """Run what is missing, print the table."""
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--data", type=Path, help="folder with images, see above")
    parser.add_argument("--images", type=int, help="how many of each part")
    args = parser.parse_args(argv)
    if args.full and args.data is None:
        parser.error("--full needs --data, the folder with the images")
    if args.data is not None and not (args.data / "segmentation").is_dir():
        parser.error(f"--data: there is no folder {args.data / 'segmentation'}")
    runs, images = Runs(args.out), Images(args)
    for run, measure in [] if args.show else cases(images, args):
        if runs.get(run) is None and available(run["method"]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                runs.get(run, partial(measure, images))
    show(runs, images, args)


if __name__ == "__main__":
    main()
