"""Minimum cuts: the exact solver of two labels and of ordered ones."""

import time

import numpy as np
from scipy.sparse import coo_array

from skpoison.partition._result import LiftedResult

# reading the flow out of the package takes a kilobyte of memory an arc
_READABLE = 200_000


def solve_maxflow(energy):
    """Solve a lifted problem by a maximum flow, exactly.

    Parameters
    ----------
    energy : LiftedEnergy
        With the interface term "tv", or "potts" or "truncated" with two labels, on
        any graph but an isotropic grid.

    Returns
    -------
    result : LiftedResult
        Of an optimal labelling. `lower_bound` is the value of the flow; `duals`, which
        certify it, are those of the flow, or None for more than 200,000 pairs of edge
        and level, where it takes much longer to read them than to solve.

    Raises
    ------
    ImportError
        PyMaxflow is not installed.
    ValueError
        Another interface term.

    Notes
    -----
    The graph of Ishikawa [1]_: a node (v, k) for each node v and level k, which is on
    the side of the source where the label of v is above k; arcs that no cut affords
    from (v, k + 1) to (v, k) keep the levels of a node in order. The package runs the
    algorithm of [2]_.

    References
    ----------
    .. [1] H. Ishikawa, "Exact Optimization for Markov Random Fields with Convex
       Priors", PAMI 2003.
    .. [2] Y. Boykov, V. Kolmogorov, "An Experimental Comparison of Min-Cut/Max-Flow
       Algorithms for Energy Minimization in Vision", PAMI 2004.
    """
    levels = _level_costs(energy)
    try:
        import maxflow
    except ImportError as error:
        raise ImportError(
            "solver='maxflow' needs PyMaxflow: pip install 'skpoison[maxflow]'"
        ) from error
    start = time.perf_counter()
    n, n_levels = energy.graph.n_nodes, len(levels)
    capacity = energy.strength[:, None] * levels
    steps = np.diff(energy.unary, axis=1)
    network = maxflow.Graph[float](steps.size, capacity.size + steps.size)
    nodes = network.add_grid_nodes((n, n_levels))
    network.add_grid_tedges(nodes, np.maximum(-steps, 0.0), np.maximum(steps, 0.0))
    tail, head = (nodes[end].ravel() for end in energy.graph.edges.T)
    network.add_edges(tail, head, capacity.ravel(), capacity.ravel())
    if n_levels > 1:
        # more than can be won by breaking the order at one node
        stake = abs(steps).sum(axis=1)
        for end in energy.graph.edges.T:
            stake += np.bincount(end, capacity.sum(axis=1), n)
        wall = np.repeat(2.0 * stake + 1.0, n_levels - 1)
        above, below = nodes[:, 1:].ravel(), nodes[:, :-1].ravel()
        network.add_edges(above, below, wall, np.zeros_like(wall))
    flow = network.maxflow()
    labels = (~network.get_grid_segments(nodes)).sum(axis=1)
    value = energy.value(labels)
    bound = float(energy.unary[:, 0].sum() + np.minimum(steps, 0.0).sum() + flow)
    duals = None
    if capacity.size <= _READABLE:
        duals = _read_flow(network, tail, head).reshape(capacity.shape)
        if energy.pairwise.name != "tv":  # one dual a label, not one a level
            duals = np.concatenate([-duals, duals], axis=1) / 2.0
        duals = energy.project(duals)
        bound = energy.lower_bound(duals)
    # the flow is a sum of floats: rounding must not lift it above the optimum
    bound = min(bound, value)
    seconds = time.perf_counter() - start
    return LiftedResult(
        labels=labels,
        assignment=np.eye(energy.n_labels)[labels],
        energy=value,
        lower_bound=bound,
        n_iter=1,
        converged=True,
        seconds=seconds,
        solver="maxflow",
        duals=duals,
        history=[(1, seconds, value, bound)],
    )


def _level_costs(energy):
    """Return what one unit of weight costs at each level, or raise."""
    term = energy.pairwise
    if not energy.graph.isotropic:
        if term.name == "tv":
            return term.costs
        if term.name in ("potts", "truncated") and energy.n_labels == 2:
            return term.distance(np.array([0]), np.array([1]))
    kind = "an isotropic grid" if energy.graph.isotropic else "this graph"
    raise ValueError(
        "solver='maxflow' takes pairwise='tv', or 'potts' or 'truncated' with two "
        f"labels, on graphs of separate edges; got pairwise={term.name!r} with "
        f"{energy.n_labels} labels on {kind}"
    )


def _read_flow(network, tail, head):
    """Return the net flow through each arc pair of equal capacities, from residuals."""
    arcs = [
        arc
        for arc in network.get_nx_graph().edges(data="weight")
        if arc[0] != "s" and arc[1] != "t"
    ]
    i, j, left = np.array(arcs, dtype=float).reshape(-1, 3).T
    size = network.get_node_count()
    residual = coo_array((left, (i.astype(int), j.astype(int))), (size, size)).tocsr()
    return (residual[head, tail] - residual[tail, head]) / 2.0
