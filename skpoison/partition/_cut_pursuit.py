"""Cut pursuit: piecewise constant signals on a graph, by cutting and joining cells."""

from copy import copy

import numpy as np
from sklearn.utils import check_array

from skpoison.partition._binary_cut import Matrix, Slices, binary_cut
from skpoison.partition._cells import (
    cell_sums,
    close_up,
    connected_pieces,
    join_pairs,
    limit_area,
)
from skpoison.utils._validation import check_number

_ROUNDING = 1e-12  # a gain smaller than this share may be none
_GROWTH, _FALL = 0.01, 1e-3  # done: so few more cells, so small a fall of the sum
_N_POWERS, _N_MEANS = 5, 4  # rounds of each, after which sides hardly change
# means and cut are fitted to each other: short cuts that go on from each other do
# better than few exact ones
_N_CUTS, _CUT_TOL = 4, 3e-3
_SLICED = 0.3  # share of a grid from which slices of all beat a matrix of the share


def cut_pursuit(features, graph, mu, *, max_iter=10, max_area=None):
    """Cut a graph into connected cells of nearly constant features.

    Parameters
    ----------
    features : array-like of shape (n_nodes, n_features)
        One row a node, such as the channels of a pixel.
    graph : PartitionGraph
    mu : float
        Price of a unit of interface, in squares of a feature. With 0 cells are the
        connected regions of equal features.
    max_iter : int, default=10
        Rounds of cutting and joining at most. Few change anything after the eighth.
    max_area : float, default=None
        Cells with a larger area are halved, see Notes. None is no limit.

    Returns
    -------
    labels : ndarray of int, shape (n_nodes,)
        The cell of each node; cells are numbered from 0.

    Raises
    ------
    ValueError, TypeError
        A parameter out of range, features of another number of rows than nodes.

    Notes
    -----
    Greedily lowers ::

        sum_v a_v |Y_v - c_cell(v)|^2 + mu sum_(e between cells) w_e

    over cells and their means c, for features Y, areas a and weights w. In each round,
    all cells at once: two values for every cell by 2-means, started along the leading
    principal direction; the best way to cut cells into parts with these values, a
    binary problem that a primal-dual method solves nearly exactly; parts that are
    connected become cells where this lowers the sum; pairs of adjacent cells that do
    better as one are joined, best pairs first. So the sum never rises. Nothing is
    drawn at random.

    A cell larger than `max_area` is cut half-way between two of its nodes that are far
    apart, counted in edges, and again, until none is too large. A node alone is never
    cut.

    References
    ----------
    Landrieu and Obozinski (2017), Cut pursuit: fast algorithms to learn piecewise
    constant functions on general weighted graphs. SIAM Journal on Imaging Sciences 10.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import PartitionGraph
    >>> from skpoison.partition._cut_pursuit import cut_pursuit
    >>> image = np.array([[0.0, 0.1, 1.0], [0.1, 0.0, 0.9]])
    >>> grid = PartitionGraph.from_grid((2, 3))
    >>> cut_pursuit(image.reshape(-1, 1), grid, mu=0.1).reshape(2, 3)
    array([[0, 0, 1],
           [0, 0, 1]])
    """
    features = check_array(features, dtype=np.float64, input_name="features")
    if len(features) != graph.n_nodes:
        raise ValueError(
            f"features has {len(features)} rows, but the graph has {graph.n_nodes} "
            "nodes"
        )
    check_number("mu", mu, low=0.0)
    check_number("max_iter", max_iter, low=1, integer=True)
    if max_area is not None:
        check_number("max_area", max_area, low=1.0)
    labels = _pursue(_Signal(features, graph, mu), max_iter)
    return labels if max_area is None else limit_area(labels, graph, max_area)


def _pursue(signal, max_iter):
    i, j = signal.i, signal.j
    if signal.mu == 0:
        alike = (signal.Y[i] == signal.Y[j]).all(axis=1)
        return connected_pieces(i[alike], j[alike], signal.n)
    labels = connected_pieces(i, j, signal.n)
    n_cells = labels.max() + 1
    changed = np.ones(n_cells, dtype=bool)  # the others were found not worth a cut
    value = signal.value(labels)
    for _ in range(max_iter):
        before, n_before = value, n_cells
        labels, changed = _cut_cells(signal, labels, changed)
        labels, changed = _join_cells(signal, labels, changed)
        n_cells, value = len(changed), signal.value(labels)
        few = n_cells - n_before <= _GROWTH * n_before
        if not changed.any() or (few and before - value <= _FALL * before):
            break
    return labels


class _Signal:
    """Features on a graph, or on some of its nodes, scaled to [-1, 1].

    Parameters
    ----------
    Y : ndarray of shape (n_nodes, n_features)
    graph : PartitionGraph
    mu : float
    """

    def __init__(self, Y, graph, mu):
        Y = Y - Y.mean(axis=0)  # sums of squares then lose no digits
        scale = abs(Y).max() or 1.0
        self.Y = Y / scale
        self.areas = graph.node_areas
        self.i, self.j = np.ascontiguousarray(graph.edges.T)
        # float32 holds the largest, which nobody would pay for any cut
        self.costs = np.minimum(mu / scale**2 * graph.weights, 1e30)
        self.mu = mu
        self.grid = graph if graph.shape is not None else None

    @property
    def n(self):
        """Number of nodes."""
        return len(self.Y)

    def open_part(self, labels, open_cells):
        """Return the nodes of open cells, the signal on them, and its labels.

        Only edges inside cells cost anything. Of a grid it may be all of it.
        """
        inner = labels[self.i] == labels[self.j]
        nodes = np.flatnonzero(open_cells[labels])
        part = copy(self)
        if self.grid is not None and len(nodes) > _SLICED * self.n:
            part.costs = np.where(inner, self.costs, 0.0)
            return np.arange(self.n), part, labels
        place = np.full(self.n, -1)
        place[nodes] = np.arange(len(nodes))
        edges = np.flatnonzero(inner & (place[self.i] >= 0))
        part.Y, part.areas, part.costs = (
            self.Y[nodes],
            self.areas[nodes],
            self.costs[edges],
        )
        part.i, part.j = place[self.i[edges]], place[self.j[edges]]
        part.grid = None
        return nodes, part, close_up(labels[nodes])[0]

    def sums(self, labels, n_cells):
        """Return areas and sums of the features of cells."""
        areas = np.bincount(labels, self.areas, n_cells)
        return areas, cell_sums(labels, n_cells, self.Y * self.areas[:, None])

    def means(self, labels, n_cells):
        """Return areas and means of the features of cells; 0 of an empty one."""
        areas, total = self.sums(labels, n_cells)
        return areas, total / np.where(areas > 0, areas, 1.0)[:, None]

    def spread(self, labels, n_cells):
        """Return the sum of squared distances to the mean, of each cell."""
        distance = ((self.Y - self.means(labels, n_cells)[1][labels]) ** 2).sum(axis=1)
        return np.bincount(labels, self.areas * distance, n_cells)

    def value(self, labels):
        """Return the sum that cut pursuit lowers, of scaled features."""
        between = labels[self.i] != labels[self.j]
        spread = self.spread(labels, labels.max() + 1)
        return float(spread.sum() + self.costs[between].sum())


def _cut_cells(signal, labels, open_cells):
    """Cut open cells where that pays; return labels and which cells are new."""
    nodes, part, cells = signal.open_part(labels, open_cells)
    n_cells = cells.max() + 1
    side = _two_means(part, cells, n_cells)
    duals = np.zeros(len(part.costs), dtype=np.float32)
    operator = Slices(part.grid) if part.grid else Matrix(part.i, part.j, part.n)
    spread = part.spread(cells, n_cells)
    for _ in range(_N_CUTS):
        gap = part.areas * _difference(part, cells, n_cells, side)
        tol = _CUT_TOL * spread.sum()
        side, duals = binary_cut(
            operator, part.i, part.j, part.costs, gap, side, duals, tol
        )
    halves = 2 * cells + side
    kept = halves[part.i] == halves[part.j]
    pieces = connected_pieces(part.i[kept], part.j[kept], part.n)
    n_pieces = pieces.max() + 1
    parent = np.empty(n_pieces, dtype=np.int64)
    parent[pieces] = cells
    interface = np.bincount(cells[part.i], np.where(kept, 0.0, part.costs), n_cells)
    lost = interface + np.bincount(parent, part.spread(pieces, n_pieces), n_cells)
    pays = (spread - lost > _ROUNDING * spread)[cells]
    labels = labels.copy()
    n_before = len(open_cells)
    labels[nodes[pays]] = n_before + pieces[pays]
    labels, n_after = close_up(labels)
    new = np.zeros(n_after, dtype=bool)
    new[labels[nodes[pays]]] = True
    return labels, new


def _join_cells(signal, labels, new):
    """Join adjacent cells that do better as one; return labels and new cells."""
    areas, total = signal.sums(labels, len(new))
    i, j = labels[signal.i], labels[signal.j]
    edges, costs = join_pairs(i, j, signal.costs, len(new))
    joined = np.arange(len(new))
    while True:
        i, j = edges.T
        means = total / areas[:, None]
        rise = ((means[i] - means[j]) ** 2).sum(axis=1)
        gain = costs - rise * areas[i] * areas[j] / (areas[i] + areas[j])
        order = np.flatnonzero(gain > 0)
        if len(order) == 0:
            return joined[labels], new
        order = order[np.argsort(gain[order], kind="stable")]
        best = np.empty(len(areas), dtype=np.int64)
        best[edges[order].ravel()] = np.repeat(order, 2)  # the last one stays
        pairs = order[(best[i[order]] == order) & (best[j[order]] == order)]
        into = np.arange(len(areas))
        into[j[pairs]] = i[pairs]
        new[i[pairs]] = True
        into, n_cells = close_up(into)
        new = np.bincount(into, new, n_cells) > 0
        areas = np.bincount(into, areas, n_cells)
        total = cell_sums(into, n_cells, total)
        edges, costs = join_pairs(into[i], into[j], costs, n_cells)
        joined = into[joined]


def _two_means(signal, cells, n_cells):
    """Return which nodes are on the upper side of their cell."""
    _, means = signal.means(cells, n_cells)
    Z = signal.Y - means[cells]
    variance = cell_sums(cells, n_cells, signal.areas[:, None] * Z**2)
    direction = np.eye(Z.shape[1])[variance.argmax(axis=1)]
    for _ in range(_N_POWERS):  # towards the leading principal direction
        along = signal.areas * np.einsum("nc,nc->n", Z, direction[cells])
        direction = cell_sums(cells, n_cells, Z * along[:, None])
        length = np.sqrt((direction**2).sum(axis=1, keepdims=True))
        direction /= np.where(length > 0, length, 1.0)
    side = np.einsum("nc,nc->n", Z, direction[cells]) > 0
    for _ in range(_N_MEANS):
        side = _difference(signal, cells, n_cells, side) < 0
    return side


def _difference(signal, cells, n_cells, side):
    """Return by how much the upper mean is farther, squared, than the lower one."""
    areas, means = signal.means(2 * cells + side, 2 * n_cells)
    areas, means = areas.reshape(n_cells, 2), means.reshape(n_cells, 2, -1)
    step = np.where((areas > 0).all(axis=1)[:, None], means[:, 1] - means[:, 0], 0.0)
    middle = (step * means.mean(axis=1)).sum(axis=1)
    return 2 * (middle[cells] - np.einsum("nc,nc->n", signal.Y, step[cells]))
