"""One call for every solver."""

import time

import numpy as np
from sklearn.utils import check_array

from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._graph import PartitionGraph
from skpoison.partition._result import LiftedResult
from skpoison.utils._validation import check_number, check_option


def solve_lifted(
    unary,
    graph,
    regularization=1.0,
    *,
    pairwise="potts",
    label_values=None,
    truncation=None,
    coarse_values=None,
    label_shape=None,
    relaxation="zach",
    solver="pdhg",
    tol=1e-4,
    max_iter=2000,
    backend="numpy",
    device="auto",
    dtype="float32",
    warm_start=None,
    random_state=None,
    solver_options=None,
    verbose=0,
):
    """Label the nodes of a graph at nearly the least energy, with a certificate.

    The energy of labels x is the sum of a cost of each node and of each edge (i, j):

        E(x) = sum_v F[v, x_v] + regularization * sum_e w_e V(x_i, x_j).

    Its convex relaxation is solved; the labels are rounded from the solution, and weak
    duality gives a bound that no labelling is below, however early the solver stops.

    Parameters
    ----------
    unary : array-like of shape (n_nodes, n_labels)
        F, the cost of each label at each node; of a cell of pixels the sum over them.
    graph : PartitionGraph, SuperpixelGraph, matrix or tuple
        The nodes' graph: ours, a fitted transformer's, a symmetric matrix of weights or
        ``(edges, weights)``.
    regularization : float, default=1.0
    pairwise : {"potts", "tv", "truncated", "sublabel", "separable_tv"}, default="potts"
        V(a, b): 1 where the labels differ; the distance of their values; that of their
        numbers up to `truncation`; the distance of real values between the coarse ones;
        the distance along both axes of a grid of displacements.
    label_values : array-like of shape (n_labels,), default=None
        Ascending values for "tv" and "sublabel"; None is 0, 1, ...
    truncation : float, default=None
        For "truncated".
    coarse_values : array-like, default=None
        For "sublabel": between these the costs are replaced by their convex hull.
    label_shape : tuple (n_rows, n_columns), default=None
        For "separable_tv".
    relaxation : {"zach", "lellmann", "ccp"}, default="zach"
        How "potts" is relaxed on an isotropic grid, where the three differ: the second
        is the loosest and the third the tightest and slowest.
    solver : str, default="pdhg"
        "pdhg" is the library's first-order method; "cvxpy" and "cvxpy:NAME" any solver
        that cvxpy finds; "maxflow" is exact for two labels and for "tv".
    tol : float, default=1e-4
        Gap at which to stop, as a share of the lower bound's size; but of no less than
        what the bound has above the sum of each node's least cost, and of no more than
        ten times that, because constants added to costs say nothing. A tenth of `tol`
        between the relaxed problem and the bound is enough too: what is left then is
        the gap of rounding, which no solver closes.
    max_iter : int, default=2000
    backend : {"numpy", "torch"}, default="numpy"
        For "pdhg".
    device : str, default="auto"
        For the torch backend; "auto" is CUDA where there is any.
    dtype : {"float32", "float64"}, default="float32"
        Of the iterations; energies and bounds are summed in float64.
    warm_start : LiftedResult, default=None
        Of a problem with as many nodes and labels. For "pdhg".
    random_state : None, int, RandomState or Generator, default=None
        For random roundings where the tolerance was missed.
    solver_options : dict, default=None
        Of "pdhg": `check_every` (25 iterations between checks), `kappa` (balance of
        primal and dual steps, chosen by the model), `over_relaxation` (1.8; 1 is the
        plain method), `n_roundings` (5), `max_seconds`. Of others: their own.
    verbose : int, default=0
        1 shows progress on stderr.

    Returns
    -------
    result : LiftedResult

    Raises
    ------
    ValueError
        An unknown or uninstalled solver, numbers out of range, shapes that do not fit.

    Warns
    -----
    ConvergenceWarning
        The tolerance was not reached; labels and bound are valid nevertheless.

    Notes
    -----
    "pdhg" is the primal-dual method of Chambolle and Pock (2011) with the diagonal
    steps of Pock and Chambolle (2011), over-relaxed. One iteration takes time and
    memory in proportion to (nodes + edges) times labels.

    References
    ----------
    J. Geiping, F. Gaede, H. Bauermeister, M. Moeller, Fast Convex Relaxations using
    Graph Discretizations, 2020, arXiv:2004.11075.

    A. Chambolle, T. Pock, A First-Order Primal-Dual Algorithm for Convex Problems with
    Applications to Imaging, JMIV 2011.

    T. Pock, A. Chambolle, Diagonal Preconditioning for First Order Primal-Dual
    Algorithms in Convex Optimization, ICCV 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import PartitionGraph, solve_lifted
    >>> unary = np.array([[0.0, 1.0], [0.6, 0.4], [0.0, 1.0]])
    >>> chain = PartitionGraph.from_edges([[0, 1], [1, 2]])
    >>> result = solve_lifted(unary, chain, regularization=0.5)
    >>> result.labels
    array([0, 0, 0])
    >>> round(result.energy, 4), bool(result.gap < 1e-3)
    (0.6, True)
    """
    unary = check_array(unary, dtype=np.float64, input_name="unary")
    _check_parameters(solver, tol, max_iter, backend, device, dtype, solver_options)
    if warm_start is not None and not isinstance(warm_start, LiftedResult):
        raise TypeError(
            f"warm_start must be None or a LiftedResult, got {type(warm_start)}"
        )
    term = make_pairwise(
        pairwise,
        unary.shape[1],
        label_values=label_values,
        truncation=truncation,
        coarse_values=coarse_values,
        label_shape=label_shape,
    )
    energy = LiftedEnergy(
        unary, as_graph(graph, len(unary)), regularization, term, relaxation
    )
    trivial = _without_interfaces(energy)
    if trivial is not None:
        return trivial
    options = dict(solver_options or {})
    if solver == "maxflow":
        from skpoison.partition._maxflow import solve_maxflow

        return solve_maxflow(energy, **options)
    limits = {"tol": tol, "max_iter": max_iter, "verbose": verbose}
    if solver != "pdhg":
        from skpoison.partition._cvxpy import solve_cvxpy

        name = solver.partition(":")[2] or None
        return solve_cvxpy(energy, name, **limits, **options)
    from skpoison.partition._pdhg import solve_pdhg

    return solve_pdhg(
        energy,
        **limits,
        backend=backend,
        device=device,
        dtype=dtype,
        warm_start=warm_start,
        random_state=random_state,
        **options,
    )


def _check_parameters(solver, tol, max_iter, backend, device, dtype, solver_options):
    check_number("tol", tol, low=0.0, strict=True)
    check_number("max_iter", max_iter, low=1, integer=True)
    check_option("backend", backend, ("numpy", "torch"))
    check_option("dtype", dtype, ("float32", "float64"))
    if not isinstance(device, str):
        raise TypeError(f"device must be a str, got {device!r}")
    if backend == "numpy" and device not in ("auto", "cpu"):
        raise ValueError(
            f"device must be 'auto' or 'cpu' with backend='numpy', got {device!r}"
        )
    if solver_options is not None and not isinstance(solver_options, dict):
        raise TypeError(
            f"solver_options must be None or a dict, got {solver_options!r}"
        )
    _check_solver(solver, solver_options or {})


def _check_solver(solver, options):
    if not isinstance(solver, str):
        raise TypeError(f"solver must be a str, got {solver!r}")
    if solver == "pdhg":
        from skpoison.partition._pdhg import check_options

        check_options(options)
    elif solver == "maxflow" and options:
        raise ValueError(
            f"solver_options must be empty with solver='maxflow', got {options!r}"
        )
    elif solver == "cvxpy" or solver.startswith("cvxpy:"):
        names = _installed()
        name = solver.partition(":")[2]
        if ":" in solver and name not in names:
            raise ValueError(
                f"solver must be 'cvxpy:NAME' with NAME one of {', '.join(names)}, "
                f"got {solver!r}"
            )
    elif solver != "maxflow":
        found = ", ".join(f"'cvxpy:{name}'" for name in _installed())
        raise ValueError(
            f"solver must be one of 'pdhg', 'maxflow', 'cvxpy', {found}, got {solver!r}"
        )


def _installed():
    import cvxpy

    return cvxpy.installed_solvers()


def as_graph(graph, n_nodes=None):
    """Return the graph of a PartitionGraph, a transformer, a matrix or edges.

    `n_nodes` is for edges alone: nodes after the last that they name have none.
    """
    if isinstance(graph, PartitionGraph):
        return graph
    if hasattr(graph, "graph_"):
        return graph.graph_
    if isinstance(graph, tuple):
        if len(graph) not in (2, 3):
            raise ValueError(
                "graph must be a graph, a matrix, (edges, weights) or (edges, weights, "
                f"n_nodes), got a tuple of {len(graph)}"
            )
        edges, weights, *given = graph
        return PartitionGraph.from_edges(edges, weights, *(given or [n_nodes]))
    return PartitionGraph.from_sparse(graph)


def _without_interfaces(energy):
    """Return the result where nodes do not matter to each other, else None."""
    if energy.n_labels > 1 and energy.strength.any():
        return None
    start = time.perf_counter()
    best = energy.unary.argmin(axis=1)
    value = float(energy.unary.min(axis=1).sum())
    labels = (
        energy.pairwise.values[best] if energy.pairwise.name == "sublabel" else best
    )
    return LiftedResult(
        labels=labels,
        assignment=np.eye(energy.n_labels)[best],
        energy=value,
        lower_bound=value,
        n_iter=0,
        converged=True,
        seconds=time.perf_counter() - start,
        solver="none",
        duals=np.zeros((energy.graph.n_edges, len(energy.pairwise.costs))),
    )
