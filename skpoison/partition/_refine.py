"""From cells to pixels: lifted solutions, and exact solves near the boundaries."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array

from skpoison.partition._graph import PartitionGraph
from skpoison.partition._result import LiftedResult

_CG_STEPS = 10


def lift_result(result, cell_graph, energy):
    """Turn the solution on the cells of an image into one on its pixels.

    Parameters
    ----------
    result : LiftedResult
        On `cell_graph`.
    cell_graph : PartitionGraph
        A contraction of the pixel grid, with `labels`.
    energy : LiftedEnergy
        The same problem on the pixel grid, whose contraction was solved.

    Returns
    -------
    lifted : LiftedResult
        The same labelling and energy; `duals` on the edges of the grid, and the lower
        bound of the pixels' problem that they certify. Serves as a warm start there.

    Notes
    -----
    The dual p_AB of an interface is shared among its pixel edges by their weights,
    p_e = +-p_AB w_e / w_AB, which keeps it in the dual set. These leave costs
    r_v = F_v + lift_dual(D^T p)_v at the pixels, whose sums over the cells are those of
    the cells' problem. Inside of each cell a flow p = S D phi evens r out, where phi
    solves the Laplacian system D^T S D phi = mean(r) - r by a few steps of conjugate
    gradients, and S are the strengths. If the flow stays in the dual set, the bounds of
    both problems are equal; moved into the set, it gives a smaller bound.
    """
    grid, term = energy.graph, energy.pairwise
    cells = cell_graph.labels.ravel()
    ends = cells[grid.edges]
    crossing = ends[:, 0] != ends[:, 1]
    duals = np.zeros((grid.n_edges, len(term.costs)))
    edge, sign = _find_edges(cell_graph, ends[crossing])
    whole = cell_graph.weights[edge]
    part = grid.weights[crossing]
    share = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    duals[crossing] = result.duals[edge] * (sign * share)[:, None]
    duals[~crossing] = _even_out(energy, duals, ~crossing, cells)
    bound = energy.lower_bound(duals)
    return replace(
        result,
        labels=result.labels[cells],
        assignment=result.assignment[cells],
        lower_bound=bound,
        duals=energy.project(duals),
        history=[(result.n_iter, result.seconds, result.energy, bound)],
        state=None,
    )


def _find_edges(graph, pairs):
    """Return the edge between each pair of nodes, and -1 where it runs backwards."""
    names = graph.edges[:, 0] * graph.n_nodes + graph.edges[:, 1]
    order = np.argsort(names)
    wanted = pairs.min(axis=1) * graph.n_nodes + pairs.max(axis=1)
    edge = order[np.searchsorted(names, wanted, sorter=order)]
    return edge, np.where(pairs[:, 0] < pairs[:, 1], 1.0, -1.0)


def _incidence(energy, edges):
    """Return the incidence matrix of some of the edges."""
    graph = energy.graph
    return PartitionGraph(
        graph.edges[edges], graph.weights[edges], graph.n_nodes
    ).incidence()


def _even_out(energy, duals, inner, cells):
    """Return duals of the inner edges that spread costs evenly over each cell."""
    term = energy.pairwise
    D = energy.graph.incidence()
    left = energy.unary + term.lift_dual(D.T @ duals)
    member = csr_array((np.ones(len(cells)), (cells, np.arange(len(cells)))))
    mean = (member @ left) / member.sum(axis=1)[:, None]
    demand = mean[cells] - left
    if term.name == "tv":  # duals add their cumulative sums, from 0
        demand = np.diff(demand, axis=1)
    else:  # what all labels of a pixel have in common is of no use
        demand -= demand.mean(axis=1, keepdims=True)
    D = _incidence(energy, inner)
    strength = energy.strength[inner][:, None]
    degree = abs(D.T) @ strength
    phi = _conjugate_gradients(lambda u: D.T @ (strength * (D @ u)), degree, demand)
    return strength * (D @ phi)


def _conjugate_gradients(operator, diagonal, right):
    """Solve operator(u) = right, column by column, by a fixed number of steps."""
    scale = np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    u = np.zeros_like(right)
    residual = right.copy()
    direction = scale * residual
    norm = (residual * direction).sum(axis=0)
    floor = 1e-20 * norm.max()  # below it there is rounding alone
    for _ in range(_CG_STEPS):
        image = operator(direction)
        curve = (direction * image).sum(axis=0)
        step = np.divide(norm, curve, out=np.zeros_like(norm), where=norm > floor)
        u += step * direction
        residual -= step * image
        scaled = scale * residual
        new = (residual * scaled).sum(axis=0)
        ratio = np.divide(new, norm, out=np.zeros_like(norm), where=norm > floor)
        direction = scaled + ratio * direction
        norm = new
    return u


def find_band(labels, radius):
    """Return the mask of the pixels within some pixels of a boundary of labels.

    Parameters
    ----------
    labels : ndarray of shape (height, width)
    radius : int
        1 is the pixels on both sides of a boundary alone.

    Returns
    -------
    band : bool ndarray of shape (height, width)
    """
    edge = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        here, there = np.moveaxis(labels, axis, 0), np.moveaxis(edge, axis, 0)
        differ = here[1:] != here[:-1]
        there[1:] |= differ
        there[:-1] |= differ
    if not edge.any():
        return edge
    return distance_transform_edt(~edge) < radius


def refine_band(lifted, energy, solve, *, radius=4, n_rounds=2):
    """Solve exactly near the boundaries of a labelling, the other pixels fixed.

    Parameters
    ----------
    lifted : LiftedResult
        On the pixel grid, from :func:`lift_result`.
    energy : LiftedEnergy
        The pixels' problem.
    solve : callable
        ``solve(unary, graph, warm_start)`` returns a LiftedResult.
    radius : int, default=4
    n_rounds : int, default=2

    Returns
    -------
    refined : LiftedResult
        Never above the energy that came in. Its lower bound holds for the pixels'
        problem: the best one that the duals of cells and bands give.
    """
    best = lifted
    for _ in range(n_rounds):
        band = find_band(best.labels.reshape(energy.graph.shape), radius).ravel()
        if not band.any():
            break
        start, unary, graph, inner = _restrict(best, energy, band)
        found = solve(unary, graph, start)
        before = best
        best = _insert(best, energy, band, inner, found)
        spent = (before.n_iter + found.n_iter, before.seconds + found.seconds)
        best = replace(
            best,
            n_iter=spent[0],
            seconds=spent[1],
            converged=before.converged and found.converged,
            history=[*before.history, (*spent, best.energy, best.lower_bound)],
        )
        if np.array_equal(best.labels, before.labels):
            break
    return best


def refine_all(lifted, energy, solve):
    """Solve on all pixels, going on from :func:`lift_result`.

    Parameters are those of :func:`refine_band`, and so is what is returned: never
    above the energy that came in, also where the solver stops early.
    """
    found = solve(energy.unary, energy.graph, lifted)
    if found.energy > lifted.energy:
        found = replace(found, labels=lifted.labels, energy=lifted.energy)
    return replace(
        found,
        n_iter=lifted.n_iter + found.n_iter,
        seconds=lifted.seconds + found.seconds,
        converged=lifted.converged and found.converged,
    )


def _restrict(result, energy, band):
    """Return warm start, costs and graph of the band's problem, and its edges."""
    grid, term = energy.graph, energy.pairwise
    number = np.cumsum(band) - 1
    i, j = grid.edges.T
    inner = band[i] & band[j]
    unary = energy.unary[band]
    every = np.arange(term.n_labels)
    for near, far in ((i, j), (j, i)):
        rim = band[near] & ~band[far]
        label = result.labels[far[rim]]
        costs = energy.strength[rim, None] * term.distance(every, label[:, None])
        where = number[near[rim]]
        for k in every:
            unary[:, k] += np.bincount(where, costs[:, k], len(unary))
    graph = PartitionGraph(
        number[grid.edges[inner]], grid.weights[inner], int(band.sum())
    )
    labels = result.labels[band]
    start = LiftedResult(
        labels=labels,
        assignment=np.eye(term.n_labels)[labels],
        energy=np.inf,
        lower_bound=-np.inf,
        n_iter=0,
        converged=False,
        seconds=0.0,
        solver="band",
        duals=result.duals[inner],
    )
    return start, unary, graph, inner


def _insert(best, energy, band, inner, found):
    """Put a band's solution into the image's, where it is better."""
    labels = best.labels.copy()
    labels[band] = found.labels
    value = energy.value(labels)
    if value < best.energy:
        assignment = best.assignment.copy()
        assignment[band] = found.assignment
        best = replace(best, labels=labels, assignment=assignment, energy=value)
    duals = best.duals.copy()
    duals[inner] = found.duals
    bound = energy.lower_bound(duals)
    if bound > best.lower_bound:
        best = replace(best, duals=duals, lower_bound=bound)
    return best
