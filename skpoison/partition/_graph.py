"""The graph that a partition lives on: pixels, cells of pixels, neighbours, edges."""

import numpy as np
from scipy.sparse import coo_array, csr_array, issparse
from sklearn.utils import check_array

from skpoison.partition._cells import cell_sums, close_up, join_pairs
from skpoison.partition._neighbors import (
    check_bandwidth,
    neighbor_distances,
    neighbor_weights,
)
from skpoison.partition._pixels import OFFSETS, PixelEdges
from skpoison.partition._result import warn_user
from skpoison.utils._validation import check_number


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
        return None if self.shape is None else OFFSETS[self.connectivity]

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
            warn_user(
                "connectivity is not symmetric: the larger weight of each pair counts"
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
        pixels = PixelEdges(shape, connectivity, image, contrast)
        node = np.arange(np.prod(pixels.shape)).reshape(pixels.shape)
        n_edges = sum(node[here].size for here, _, _ in pixels.steps())
        edges, weights = np.empty((n_edges, 2), dtype=np.int64), np.empty(n_edges)
        start = 0
        for here, there, length in pixels.steps():
            stop = start + node[here].size
            edges[start:stop, 0] = node[here].ravel()
            edges[start:stop, 1] = node[there].ravel()
            weights[start:stop] = np.ravel(length * pixels.factors(here, there))
            start = stop
        return cls(
            edges,
            weights,
            node.size,
            shape=pixels.shape,
            connectivity=connectivity,
        )

    @classmethod
    def from_cells(cls, labels, connectivity=4, *, image=None, contrast=None):
        """Make the graph of cells of pixels: the grid's contraction, in less memory.

        Parameters
        ----------
        labels : array-like of int, shape (height, width)
            The cell of each pixel. Any integers; missing numbers are closed up.
        connectivity : {4, 8}, default=4
            Of the pixels.
        image : ndarray of shape (height, width, n_channels), default=None
        contrast : tuple (sigma, low), default=None
            As in :meth:`from_grid`.

        Returns
        -------
        graph : PartitionGraph
            As ``from_grid(...).contract(labels)`` makes it.
        """
        labels = np.asarray(labels)
        pixels = PixelEdges(labels.shape, connectivity, image, contrast)
        _check_cells(labels, labels.size, pixels.shape, connectivity)
        flat, n_cells = close_up(labels.ravel())
        cells = flat.reshape(labels.shape)
        pairs, weights = [], []
        for here, there, length in pixels.steps():
            apart = cells[here] != cells[there]  # few: no others are ever held
            pairs.append((cells[here][apart], cells[there][apart]))
            factors = pixels.factors(here, there, apart)
            weights.append(np.broadcast_to(length * factors, len(pairs[-1][0])))
        i, j = np.concatenate(pairs, axis=1)
        edges, weights = join_pairs(i, j, np.concatenate(weights), n_cells)
        areas = np.bincount(flat).astype(np.float64)
        return cls(edges, weights, n_cells, node_areas=areas, labels=cells)

    @classmethod
    def from_neighbors(cls, X, n_neighbors=10, *, bandwidth="median"):
        """Make the graph of each row's nearest neighbours.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_neighbors : int, default=10
            At most n_samples - 1 count.
        bandwidth : {"median", "local"} or float, default="median"
            The s of weights ``exp(-d ** 2 / (2 * s ** 2))``. "median": that of the
            distances. "local": of each pair the geometric mean of the two rows' own
            median distances to their neighbours.

        Returns
        -------
        graph : PartitionGraph
        """
        X = check_array(X, accept_sparse="csr", input_name="X")
        check_bandwidth(bandwidth, ("median", "local"))
        distances, scales = neighbor_distances(X, n_neighbors)
        weights = neighbor_weights(distances, scales, bandwidth)
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
        _check_cells(cells, self.n_nodes, self.shape, self.connectivity)
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


def _check_cells(cells, n_nodes, shape, connectivity):
    if cells.shape not in ((n_nodes,), shape) or cells.dtype.kind not in "iu":
        raise ValueError(
            f"cells must be {n_nodes} integers, one a node, got shape {cells.shape} of "
            f"dtype {cells.dtype}"
        )
    if connectivity == "isotropic":
        raise ValueError(
            "an isotropic grid has no contraction: its edges are coupled; use "
            "connectivity=8"
        )
