"""What LiftedPartition reads: rows or images, and their graphs."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skpoison.partition._graph import PartitionGraph
from skpoison.partition._pixels import check_image
from skpoison.partition._result import LiftedResult
from skpoison.partition._solve import as_graph
from skpoison.partition._superpixels import SuperpixelGraph, pixel_grid, with_metric
from skpoison.utils._validation import check_number, check_option

DISCRETIZATIONS = ("knn", "grid", "superpixel", "precomputed")


@dataclass
class Solution:
    """What was found on the nodes of the graph, and after refinement on the pixels."""

    nodes: LiftedResult
    pixels: LiftedResult | None = None

    @property
    def final(self):
        """The last of the two."""
        return self.pixels or self.nodes


@dataclass
class PartitionData:
    """Rows or pixels, their graph, and the shape that labels have."""

    X: np.ndarray  # (n_rows, n_features) or (height, width, n_channels)
    shape: tuple
    graph: PartitionGraph
    grid: PartitionGraph | None = None  # of the pixels, where they are in cells

    @property
    def n_rows(self):
        """Number of rows or pixels."""
        return self.X[..., 0].size

    def spread(self, solution):
        """Return the labels of the rows or pixels, in the shape of X."""
        labels = solution.final.labels
        if solution.pixels is None and self.graph.labels is not None:
            labels = labels[self.graph.labels]
        return labels.reshape(self.shape)


def takes_images(discretization):
    """Tell whether X is an image."""
    return not isinstance(discretization, str) or discretization in (
        "grid",
        "superpixel",
    )


def read_data(estimator, X, connectivity=None, *, reset=False):
    """Check X and build its graph.

    Parameters
    ----------
    estimator : LiftedPartition
    X : array-like
    connectivity : object, default=None
        Of "precomputed".
    reset : bool, default=False
        Whether `n_features_in_` is set, else checked.

    Returns
    -------
    data : PartitionData
    """
    kind = estimator.discretization
    if isinstance(kind, str):
        check_option("discretization", kind, DISCRETIZATIONS)
    elif not isinstance(kind, SuperpixelGraph):
        raise TypeError(
            f"discretization must be one of {', '.join(map(repr, DISCRETIZATIONS))} or "
            f"a SuperpixelGraph, got {kind!r}"
        )
    if connectivity is not None and kind != "precomputed":
        raise ValueError(
            "connectivity as data needs discretization='precomputed', got "
            f"discretization={kind!r}"
        )
    if kind == "precomputed":
        return _read_precomputed(estimator, X, connectivity, reset)
    if kind == "knn":
        if np.ndim(X) == 3:
            raise ValueError(
                f"Found array with dim 3, of shape {np.shape(X)}, where "
                "discretization='knn' takes rows: for an image set 'grid' or "
                "'superpixel'"
            )
        X = validate_data(estimator, X, dtype=np.float64, reset=reset)
        graph = PartitionGraph.from_neighbors(X, estimator.n_neighbors)
        return PartitionData(X, (len(X),), graph)
    image, shape = _read_image(estimator, X, reset)
    if kind == "grid":
        return PartitionData(image, shape, pixel_grid(image, estimator))
    if kind == "superpixel":
        kind = SuperpixelGraph()
    cells = with_metric(kind, estimator)
    grid = pixel_grid(image, cells) if estimator.refine else None
    return PartitionData(image, shape, cells.fit(image).graph_, grid)


def _read_image(estimator, X, reset):
    """Return X as an image, and the shape of its labels."""
    rows = estimator.image_shape is not None and np.ndim(X) == 2
    if rows:
        X = validate_data(estimator, X, reset=reset)
        height, width = _check_image_shape(estimator.image_shape)
        if len(X) != height * width:
            raise ValueError(
                f"image_shape={estimator.image_shape!r} has {height * width} pixels, "
                f"but X has {len(X)} rows"
            )
        X = X.reshape(height, width, -1)
    if isinstance(estimator.unary, str) and estimator.unary == "precomputed":
        X = np.asarray(X, dtype=np.float64)  # costs, not to be divided by 255
    image = check_image(X, "X")
    height, width, n_channels = image.shape
    if not rows:
        validate_data(estimator, image.reshape(-1, n_channels), reset=reset)
    return image, (height * width,) if rows else (height, width)


def _check_image_shape(image_shape):
    try:
        height, width = image_shape
    except (TypeError, ValueError):
        raise ValueError(
            f"image_shape must be a pair (height, width), got {image_shape!r}"
        ) from None
    for side in (height, width):
        check_number("image_shape", side, low=1, integer=True)
    return height, width


def _read_precomputed(estimator, X, connectivity, reset):
    """Return rows that are the nodes of a given graph, or the pixels of its cells."""
    if connectivity is not None:
        graph = as_graph(connectivity, len(X))
    elif reset:
        raise ValueError(
            "discretization='precomputed' needs the graph: fit(X, connectivity=graph)"
        )
    else:
        graph = estimator.graph_
    X = check_array(X, dtype=np.float64, allow_nd=True, input_name="X")
    rows = X.reshape(-1, X.shape[-1])
    validate_data(estimator, rows, reset=reset)
    n_expected = graph.n_nodes if graph.labels is None else graph.labels.size
    if len(rows) != n_expected:
        what = "nodes" if graph.labels is None else "pixels in its cells"
        raise ValueError(
            f"X has {len(rows)} rows, but connectivity has {n_expected} {what}"
        )
    return PartitionData(X, X.shape[:-1], graph)
