"""Cells of nodes: their numbers, sums, interfaces, pieces and size."""

import numpy as np
from scipy.sparse import csc_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components


def close_up(cells):
    """Return the same cells numbered from 0 without gaps, and how many they are."""
    low = int(cells.min())
    if int(cells.max()) - low > 4 * cells.size:
        names, closed = np.unique(cells, return_inverse=True)
        return closed, len(names)
    cells = cells.astype(np.int64) - low
    occurs = np.bincount(cells) > 0
    return (np.cumsum(occurs) - 1)[cells], int(occurs.sum())


def cell_sums(labels, n_cells, values):
    """Return sums of rows of values over cells, (n_cells, n_columns)."""
    n = len(labels)
    # by columns, a matrix of memberships needs no sorting
    member = csc_array((np.ones(n), labels, np.arange(n + 1)), shape=(n_cells, n))
    return member @ values


def join_pairs(i, j, weights, n_nodes):
    """Return each pair once, the smaller number first, with the sum of its weights."""
    crossing = np.flatnonzero(i != j)
    i, j, weights = i[crossing], j[crossing], weights[crossing]
    # by counting rather than sorting: linear in the number of pairs
    matrix = csr_array(
        (weights, (np.minimum(i, j), np.maximum(i, j))), shape=(n_nodes, n_nodes)
    )
    matrix.sum_duplicates()
    i = np.repeat(np.arange(n_nodes), np.diff(matrix.indptr))
    return np.stack([i, matrix.indices], axis=1), matrix.data


def connected_pieces(i, j, n_nodes):
    """Return the number of the connected piece of each node, from 0."""
    links = csr_array((np.ones(len(i), np.int8), (i, j)), shape=(n_nodes, n_nodes))
    return connected_components(links, directed=False)[1].astype(np.int64)


def limit_area(labels, graph, max_area):
    """Halve cells until none is larger than `max_area`.

    Parameters
    ----------
    labels : ndarray of int, shape (n_nodes,)
    graph : PartitionGraph
    max_area : float

    Returns
    -------
    labels : ndarray of int, shape (n_nodes,)
        Cells that were not connected and too large are taken apart first.
    """
    i, j = graph.edges.T
    while True:
        areas = np.bincount(labels, graph.node_areas)
        large = (areas > max_area) & (np.bincount(labels) > 1)
        nodes = np.flatnonzero(large[labels])
        if len(nodes) == 0:
            return labels
        place = np.full(graph.n_nodes, -1)
        place[nodes] = np.arange(len(nodes))
        inner = (labels[i] == labels[j]) & (place[i] >= 0)
        pieces, upper = _halve(place[i[inner]], place[j[inner]], len(nodes))
        upper &= np.bincount(pieces, graph.node_areas[nodes])[pieces] > max_area
        labels = labels.copy()
        labels[nodes] = len(areas) + 2 * pieces + upper
        labels, _ = close_up(labels)


def _halve(i, j, n_nodes):
    """Return connected pieces and one half of each, cut across its longest way."""
    pieces = connected_pieces(i, j, n_nodes)
    n_pieces = pieces.max() + 1
    ones = np.ones(2 * len(i))
    matrix = csr_array((ones, (np.r_[i, j], np.r_[j, i])), shape=(n_nodes, n_nodes))
    ends = np.empty((2, n_pieces), dtype=np.int64)
    start = np.empty(n_pieces, dtype=np.int64)
    start[pieces] = np.arange(n_nodes)
    for end in ends:  # the last node that a breadth-first search meets is far away
        order, _ = _search(matrix, start)
        end[pieces[order]] = order
        start = end
    _, before = _search(matrix, ends.ravel())
    while (before[before] != before).any():
        before = before[before]
    upper = np.zeros(n_nodes, dtype=bool)
    upper[ends[1]] = True
    return pieces, upper[before]


def _search(matrix, sources):
    """Search breadth-first from all sources at once.

    Returns
    -------
    order : ndarray of int, shape (n_nodes,)
    before : ndarray of int, shape (n_nodes,)
        From where each node was met; itself of a source.
    """
    n = matrix.shape[0]
    rooted = csr_array(  # one more node, from which edges go to the sources
        (
            np.ones(matrix.nnz + len(sources)),
            np.concatenate([matrix.indices, sources]),
            np.append(matrix.indptr, matrix.nnz + len(sources)),
        ),
        shape=(n + 1, n + 1),
    )
    order, before = breadth_first_order(rooted, n)
    return order[1:], np.where(before[:n] == n, np.arange(n), before[:n])
