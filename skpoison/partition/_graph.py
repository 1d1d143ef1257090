"""The graph that a partition lives on: pixels, cells of pixels, neighbours, edges."""

import numbers
import warnings

import numpy as np
from scipy.sparse import coo_array, csr_array, issparse
from sklearn.utils import check_array

from skpoison.partition._cells import cell_sums, close_up, join_pairs
from skpoison.partition._neighbors import neighbor_distances, neighbor_weights
from skpoison.utils._validation import check_number

# of pixel (y, x): right, down, down-right, down-left; edges are stored in this order
_OFFSETS: dict[int | str, tuple] = {
    4: ((0, 1), (1, 0)),
    8: ((0, 1), (1, 0), (1, 1), (1, -1)),
}
_OFFSETS["isotropic"] = _OFFSETS[4]
# Cauchy-Crofton: what makes the weight of a cut approach the length of the interface
_CROFTON = {1: np.pi / 8, 2: np.pi / (8 * np.sqrt(2))}


class PartitionGraph:
    """Undirected weighted graph with areas of its nodes.

    Made by :meth:`from_grid`, :meth:`from_neighbors`, :meth:`from_sparse`,
    :meth:`from_edges` or :meth:`contract`.

    Parameters
    ----------
    edges : ndarray of shape (n_edges, 2)
        Node numbers, the smaller one first, no pair twice.
    weights : ndarray of shape (n_edges,)
        Length of the interface between the two nodes, >= 0.
    n_nodes : int
    node_areas : ndarray of shape (n_nodes,), default=None
        Number of pixels of each node; None is 1 each.
    labels : ndarray of shape (height, width), default=None
        The node of each pixel, where the nodes are cells of an image.
    shape : tuple (height, width), default=None
        Only of a pixel grid, whose edges then come in blocks by direction.
    connectivity : {4, 8, "isotropic"}, default=None
        Of a pixel grid.

    Attributes
    ----------
    isotropic : bool
        Whether the two edges of a pixel are measured together, by a 2-norm.

    Examples
    --------
    >>> from skpoison.partition import PartitionGraph
    >>> graph = PartitionGraph.from_grid((2, 3))
    >>> graph.n_nodes, graph.n_edges
    (6, 7)
    >>> graph.contract([[0, 0, 1], [0, 0, 1]]).weights
    array([2.])
    """

    def __init__(
        self,
        edges,
        weights,
        n_nodes,
        *,
        node_areas=None,
        labels=None,
        shape=None,
        connectivity=None,
    ):
        self.edges = edges
        self.weights = weights
        self.n_nodes = n_nodes
        self.node_areas = np.ones(n_nodes) if node_areas is None else node_areas
        self.labels = labels
        self.shape = shape
        self.connectivity = connectivity

    def __repr__(self):
        return f"<PartitionGraph of {self.n_nodes} nodes and {self.n_edges} edges>"

    @property
    def n_edges(self):
        """Number of edges."""
        return len(self.weights)

    @property
    def isotropic(self):
        """Whether the two edges of a pixel are measured together, by a 2-norm."""
        return self.connectivity == "isotropic"

    @property
    def offsets(self):
        """Steps (dy, dx) of a pixel grid's blocks of edges; None on other graphs."""
        return None if self.shape is None else _OFFSETS[self.connectivity]

    @classmethod
    def from_edges(cls, edges, weights=None, n_nodes=None, *, node_areas=None):
        """Make a graph from pairs of nodes.

        Parameters
        ----------
        edges : array-like of shape (n_pairs, 2)
            Either order; pairs given twice add up, a node with itself is dropped.
        weights : array-like of shape (n_pairs,), default=None
            None is 1 each.
        n_nodes : int, default=None
            None is one more than the largest number in `edges`.
        node_areas : array-like of shape (n_nodes,), default=None

        Returns
        -------
        graph : PartitionGraph

        Raises
        ------
        ValueError
            A weight that is negative or not finite, an edge out of range.
        """
        edges = np.asarray(edges)
        edges = edges.reshape(0, 2) if edges.size == 0 else edges
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise ValueError(f"edges must have shape (n_pairs, 2), got {edges.shape}")
        if edges.size and edges.dtype.kind not in "iu":
            raise ValueError(f"edges must be integers, got dtype {edges.dtype}")
        edges = edges.astype(np.int64)
        if n_nodes is None:
            n_nodes = int(edges.max(initial=-1)) + 1
        check_number("n_nodes", n_nodes, low=1, integer=True)
        for extreme in (edges.min(initial=0), edges.max(initial=0)):
            if not 0 <= extreme < n_nodes:
                raise ValueError(
                    f"edges must name nodes in [0, n_nodes={n_nodes}), got {extreme}"
                )
        weights = _check_weights(weights, len(edges))
        edges, weights = join_pairs(edges[:, 0], edges[:, 1], weights, n_nodes)
        if node_areas is not None:
            node_areas = np.asarray(node_areas, dtype=float)
            if node_areas.shape != (n_nodes,) or not (node_areas > 0).all():
                raise ValueError(
                    f"node_areas must be {n_nodes} positive numbers, one a node, got "
                    f"shape {node_areas.shape}"
                )
        return cls(edges, weights, int(n_nodes), node_areas=node_areas)

    @classmethod
    def from_sparse(cls, adjacency):
        """Make a graph from a symmetric matrix of weights.

        Parameters
        ----------
        adjacency : sparse or dense matrix of shape (n_nodes, n_nodes)
            Its diagonal is ignored. One that is not symmetric is replaced by the
            larger of the two weights of each pair, with a warning.

        Returns
        -------
        graph : PartitionGraph
        """
        if not issparse(adjacency):
            adjacency = np.asarray(adjacency, dtype=float)
        if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
            raise ValueError(
                f"connectivity must be a square matrix, got shape {adjacency.shape}"
            )
        matrix = csr_array(adjacency, dtype=float)
        matrix.sum_duplicates()
        _check_weights(matrix.data, matrix.nnz)
        difference = abs(matrix - matrix.T)
        if difference.nnz and difference.max() > 1e-12:
            warnings.warn(
                "connectivity is not symmetric: the larger weight of each pair counts",
                UserWarning,
                stacklevel=2,
            )
            matrix = matrix.maximum(matrix.T)
        upper = coo_array(matrix)
        kept = upper.row < upper.col
        edges = np.stack([upper.row[kept], upper.col[kept]], axis=1)
        return cls.from_edges(edges, upper.data[kept], matrix.shape[0])

    @classmethod
    def from_grid(cls, shape, connectivity=4, *, image=None, contrast=None):
        """Make the graph of an image's pixels, numbered row by row.

        Parameters
        ----------
        shape : tuple (height, width)
        connectivity : {4, 8, "isotropic"}, default=4
            4: unit weights, which measure Manhattan length. 8: Cauchy-Crofton
            weights, which measure Euclidean length to a few per cent. "isotropic":
            forward differences under a 2-norm.
        image : ndarray of shape (height, width, n_channels), default=None
            Bytes, or numbers in [0, 1]. Needed for `contrast` only.
        contrast : tuple (sigma, low), default=None
            Multiplies weights by ``low + (1 - low) * exp(-d / sigma)``, where d is
            the mean absolute difference of the two pixels on a scale of 0 to 255.

        Returns
        -------
        graph : PartitionGraph
        """
        height, width = _check_shape(shape)
        if isinstance(connectivity, bool) or connectivity not in tuple(_OFFSETS):
            raise ValueError(
                f"connectivity must be one of 4, 8, 'isotropic', got {connectivity!r}"
            )
        node = np.arange(height * width).reshape(height, width)
        steps = [offset_slices(offset) for offset in _OFFSETS[connectivity]]
        n_edges = sum(node[here].size for here, _ in steps)
        edges, weights = np.empty((n_edges, 2), dtype=np.int64), np.ones(n_edges)
        start = 0
        for (dy, dx), (here, there) in zip(_OFFSETS[connectivity], steps, strict=True):
            stop = start + node[here].size
            edges[start:stop, 0] = node[here].ravel()
            edges[start:stop, 1] = node[there].ravel()
            if connectivity == 8:
                weights[start:stop] = _CROFTON[abs(dy) + abs(dx)]
            start = stop
        graph = cls(
            edges,
            weights,
            node.size,
            shape=(height, width),
            connectivity=connectivity,
        )
        if contrast is not None:
            graph.weights *= contrast_factors(graph, image, contrast)
        return graph

    @classmethod
    def from_neighbors(cls, X, n_neighbors=10, *, bandwidth="median"):
        """Make the graph of each row's nearest neighbours.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_neighbors : int, default=10
            At most n_samples - 1 count.
        bandwidth : "median" or float, default="median"
            The s of weights ``exp(-d ** 2 / (2 * s ** 2))``; the median of the
            distances by default.

        Returns
        -------
        graph : PartitionGraph
        """
        X = check_array(X, accept_sparse="csr", input_name="X")
        distances = neighbor_distances(X, n_neighbors)
        weights = neighbor_weights(distances.data, bandwidth)
        return cls.from_edges(
            np.stack([distances.row, distances.col], axis=1),
            weights,
            distances.shape[0],
        )

    def contract(self, cells):
        """Join nodes into cells; weights and areas add up.

        The energy of any labelling of the cells is then that of the labelling that
        it induces on the nodes.

        Parameters
        ----------
        cells : array-like of int, shape (n_nodes,) or the image's
            The cell of each node. Any integers; missing numbers are closed up.

        Returns
        -------
        graph : PartitionGraph
            With `labels` set to the cells, in the shape they were given.
        """
        cells = np.asarray(cells)
        if (
            cells.shape not in ((self.n_nodes,), self.shape)
            or cells.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"cells must be {self.n_nodes} integers, one a node, got shape "
                f"{cells.shape} of dtype {cells.dtype}"
            )
        if self.isotropic:
            raise ValueError(
                "an isotropic grid has no contraction: its edges are coupled; use "
                "connectivity=8"
            )
        flat, n_cells = close_up(cells.ravel())
        i, j = flat[self.edges.T]
        edges, weights = join_pairs(i, j, self.weights, n_cells)
        return PartitionGraph(
            edges,
            weights,
            n_cells,
            node_areas=np.bincount(flat, self.node_areas),
            labels=flat.reshape(cells.shape),
        )

    def aggregate(self, values, *, mean=False):
        """Sum values of pixels over each cell, or average them.

        Parameters
        ----------
        values : array-like of shape (n_pixels, n_features)
        mean : bool, default=False

        Returns
        -------
        aggregated : ndarray of shape (n_nodes, n_features)
        """
        if self.labels is None:
            return np.asarray(values)
        labels = self.labels.ravel()
        values = np.asarray(values).reshape(labels.size, -1)
        total = cell_sums(labels, self.n_nodes, values)
        return total / np.bincount(labels)[:, None] if mean else total

    def incidence(self):
        """Return the signed incidence matrix, (n_edges, n_nodes): +1 first, -1 second.

        Returns
        -------
        incidence : scipy.sparse.csr_array
        """
        m = self.n_edges
        return csr_array(
            (
                np.tile([1.0, -1.0], m),
                self.edges.ravel(),
                np.arange(0, 2 * m + 1, 2),
            ),
            shape=(m, self.n_nodes),
        )

    def adjacency(self):
        """Return the symmetric matrix of weights.

        Returns
        -------
        adjacency : scipy.sparse.csr_array of shape (n_nodes, n_nodes)
        """
        i, j = self.edges.T
        return csr_array(
            (np.tile(self.weights, 2), (np.r_[i, j], np.r_[j, i])),
            shape=(self.n_nodes, self.n_nodes),
        )


def offset_slices(offset):
    """Return the slices of an image that hold the two ends of the edges of a step."""
    dy, dx = offset
    rows = (slice(None, -dy or None), slice(dy, None))
    if dx >= 0:
        columns = (slice(None, -dx or None), slice(dx, None))
    else:
        columns = (slice(-dx, None), slice(None, dx))
    return (rows[0], columns[0]), (rows[1], columns[1])


def check_image(image, name="image"):
    """Return an image as finite float64 of shape (height, width, n_channels).

    Parameters
    ----------
    image : array-like of shape (height, width) or (height, width, n_channels)
        uint8 is divided by 255; other numbers and bool are taken as they are.
    name : str, default="image"
        The parameter, for the messages.

    Returns
    -------
    image : ndarray of shape (height, width, n_channels)

    Raises
    ------
    ValueError
        Another number of dimensions, an empty image, NaN or infinite values.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(
            f"{name} must have shape (height, width) or (height, width, n_channels), "
            f"got {image.shape}"
        )
    unit = 255.0 if image.dtype == np.uint8 else 1.0
    image = check_array(image, dtype=np.float64, allow_nd=True, input_name=name)
    image = image.reshape(*image.shape[:2], -1)
    return image if unit == 1.0 else image / unit


def check_contrast(contrast):
    """Return (sigma, low) of contrast weights, or raise."""
    try:
        sigma, low = contrast
    except (TypeError, ValueError):
        raise ValueError(
            f"contrast must be None or a pair (sigma, low), got {contrast!r}"
        ) from None
    check_number("contrast[0]", sigma, low=0.0, strict=True)
    check_number("contrast[1]", low, low=0.0, high=1.0)
    return sigma, low


def contrast_factors(graph, image, contrast):
    """Return the factor of each edge of a pixel grid: small across strong edges."""
    sigma, low = check_contrast(contrast)
    if image is None:
        raise ValueError("contrast needs the image, got image=None")
    image = check_image(image)
    if image.shape[:2] != graph.shape:
        raise ValueError(
            f"image has shape {image.shape[:2]}, but the grid {graph.shape}"
        )
    unit = np.full(image.shape[2], 255.0 / image.shape[2])
    factors, start = np.empty(graph.n_edges), 0
    for here, there in map(offset_slices, graph.offsets):
        difference = image[here] - image[there]
        distance = np.abs(difference, out=difference) @ unit
        factors[start : start + distance.size] = distance.ravel()
        start += distance.size
    factors /= -sigma
    np.exp(factors, out=factors)
    factors *= 1 - low
    factors += low
    return factors


def _check_weights(weights, n_edges):
    weights = np.ones(n_edges) if weights is None else np.asarray(weights, dtype=float)
    if weights.shape != (n_edges,):
        raise ValueError(
            f"weights must be {n_edges} numbers, one an edge, got shape {weights.shape}"
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        worst = weights[~np.isfinite(weights) | (weights < 0)][0]
        raise ValueError(f"edge weights must be finite and >= 0, got {worst}")
    return weights


def _check_shape(shape):
    if (
        not isinstance(shape, tuple | list)
        or len(shape) != 2
        or not all(
            isinstance(side, numbers.Integral) and int(side) > 0 for side in shape
        )
    ):
        raise ValueError(f"shape must be a pair (height, width), got {shape!r}")
    return int(shape[0]), int(shape[1])
