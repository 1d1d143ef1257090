"""The cvxpy problem that knows what it is: arrays in, a certified labelling out."""

import time
import warnings

import cvxpy as cp
import numpy as np
from cvxpy.problems.problem import SolverStats
from sklearn.utils import check_array

from skpoison.partition._cvxpy._forms import ConeForm, LinearForm
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._result import LiftedResult, warn_user
from skpoison.partition._solve import _without_interfaces, as_graph

# cvxpy makes a dense array of the constraints of a parametrised problem for these,
# and before 1.9 for all that it can take for a solver of quadratic programs
_EXPANDS_PARAMETERS = frozenset({"DAQP", "MPAX", "OSQP", "PIQP", "PROXQP", "QPALM"})
_CONIC_ONLY = frozenset({"CLARABEL", "SCS"})
_OLD = tuple(map(int, cp.__version__.split(".")[:2])) < (1, 9)
_LARGE = 3_000_000


class LiftedProblem(cp.Problem):
    """A lifted labelling problem as a cvxpy problem, made by :func:`build_problem`.

    Any of cvxpy's solvers takes it by ``problem.solve(solver=...)``, and so does the
    library's own by ``problem.solve(method="lifted_pdhg")``; :meth:`result` then gives
    the labels and the bound. New values of `F_param` and `lam_param` re-use the
    compilation; not so with cones (isotropic grids) and with solvers for quadratic
    programs only, such as OSQP (before cvxpy 1.9, all but CLARABEL and SCS), for which
    cvxpy would need gigabytes to do it.

    Parameters
    ----------
    energy : LiftedEnergy
        With 2 or more labels.

    Attributes
    ----------
    U : cvxpy.Variable
        The assignment, (n_nodes, n_labels); for "tv" the mass above each label,
        (n_nodes, n_labels - 1).
    F_param : cvxpy.Parameter of shape (n_nodes, n_labels)
        The unary costs.
    lam_param : cvxpy.Parameter
        The regularization.

    Notes
    -----
    Copies and pickles are new problems with the current values of the parameters and
    new variables, not yet solved. Sums and multiples of the problem are plain cvxpy
    problems.
    """

    def __init__(self, energy):
        form = ConeForm if energy.graph.isotropic else LinearForm
        self._form = form(energy)
        self.U = self._form.U
        self.F_param = cp.Parameter(
            energy.unary.shape, name="F", value=energy.unary.copy()
        )
        self.lam_param = cp.Parameter(
            nonneg=True, name="lam", value=float(energy.regularization)
        )
        self._found = None
        self._seconds = 0.0
        cost = self._form.data_term(self.F_param) + self.lam_param * self._form.cost
        super().__init__(cp.Minimize(cost), self._form.constraints)

    @property
    def energy(self):
        """The :class:`LiftedEnergy` at the current values of the parameters."""
        form = self._form
        return LiftedEnergy(
            self.F_param.value,
            form.graph,
            float(np.asarray(self.lam_param.value)),
            form.pairwise,
            form.relaxation,
        )

    def __reduce__(self):
        return LiftedProblem, (self.energy,)

    def __copy__(self):
        return LiftedProblem(self.energy)

    def __deepcopy__(self, memo):
        return LiftedProblem(self.energy)

    def solve(self, *args, **kwargs):
        """Solve, as :meth:`cvxpy.Problem.solve` does, and return the relaxed optimum.

        Parameters
        ----------
        *args, **kwargs
            cvxpy's, such as ``solver="CLARABEL"``, and the solver's own options.
            ``method="lifted_pdhg"`` takes `tol`, `max_iter` and the other options of
            :func:`~skpoison.partition.solve_lifted` that its own solver has; the value
            it returns is that of the last assignment, at or above the optimum.

        Returns
        -------
        value : float
            Not the energy of the labelling and not a bound: see :meth:`result`.
        """
        self._found = None
        solver = kwargs.get("solver", args[0] if args else None)
        if kwargs.get("method") != "lifted_pdhg":
            self._warn_if_large()
            if self._parameters_expand(solver):
                kwargs.setdefault("ignore_dpp", True)
        start = time.perf_counter()
        with warnings.catch_warnings():
            # bounds of expressions: infinity times zero, of no consequence
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="cvxpy")
            value = super().solve(*args, **kwargs)
        self._seconds = time.perf_counter() - start
        return value

    def _parameters_expand(self, solver):
        if self._form.graph.isotropic:
            return True  # cones: a matrix of (variables times parameters) columns
        name = str(solver).upper()
        return name in _EXPANDS_PARAMETERS or (_OLD and name not in _CONIC_ONLY)

    def _warn_if_large(self):
        graph, n_labels = self._form.graph, self.F_param.shape[1]
        if graph.n_edges * n_labels > _LARGE:
            warn_user(
                f"{graph.n_edges} edges times {n_labels} labels take cvxpy's solvers "
                "minutes and gigabytes; solver='pdhg' (method='lifted_pdhg') takes "
                "neither"
            )

    def result(self):
        """Return the labels, their energy and a lower bound, after a solve.

        All are evaluated at the current values of the parameters. The bound comes
        from the solver's duals, moved into the dual set: it holds whatever tolerance
        the solver reached.

        Returns
        -------
        result : LiftedResult

        Raises
        ------
        RuntimeError
            Not solved, or the solver gave no assignment.
        """
        if self._found is None:
            return self._certify(self.energy)
        (solved, found), energy = self._found, self.energy
        if energy.regularization == solved.regularization and np.array_equal(
            energy.unary, solved.unary
        ):
            return found
        return _evaluate(
            energy,
            [found.labels],
            found.assignment,
            found.duals,
            n_iter=found.n_iter,
            converged=False,
            seconds=found.seconds,
            solver=found.solver,
        )

    def _certify(self, energy, scale=1.0):
        """Return the result of a solve by cvxpy, for an energy of another unit.

        Parameters
        ----------
        energy : LiftedEnergy
        scale : float, default=1.0
            The energy's unit, where the problem's is 1.

        Returns
        -------
        result : LiftedResult
        """
        if self.status is None:
            raise RuntimeError("the problem is not solved: call solve first")
        solver = f"cvxpy:{self.solver_stats.solver_name}"
        Z = self._form.assignment()
        if Z is None:
            raise RuntimeError(
                f"{solver} stopped with status {self.status!r} and no solution"
            )
        duals = self._form.duals(self.lam_param.value * energy.graph.weights)
        candidates = [energy.pairwise.decide(Z)]
        if energy.pairwise.name != "sublabel":
            unary = energy.unary
            candidates.append(unary.argmin(axis=1))
            candidates.append(np.full(len(unary), unary.sum(axis=0).argmin()))
        return _evaluate(
            energy,
            candidates,
            Z,
            None if duals is None else scale * duals,
            n_iter=int(self.solver_stats.num_iters or 0),
            converged=self.status == cp.OPTIMAL,
            seconds=self._seconds,
            solver=solver,
        )


def _evaluate(energy, labellings, Z, duals, **facts):
    """Return the best labelling and the better of the given duals and of none."""
    values = [energy.value(labels) for labels in labellings]
    value = min(values)
    candidates = [np.zeros((energy.graph.n_edges, len(energy.pairwise.costs)))]
    if duals is not None and np.isfinite(duals).all():
        candidates.append(energy.project(duals))
    bounds = [energy.lower_bound(p) for p in candidates]
    best = int(np.argmax(bounds))
    return LiftedResult(
        labels=labellings[values.index(value)],
        assignment=Z,
        energy=value,
        lower_bound=bounds[best],
        duals=candidates[best],
        history=[(facts["n_iter"], facts["seconds"], value, bounds[best])],
        **facts,
    )


def build_problem(
    F,
    graph,
    regularization=1.0,
    pairwise="potts",
    *,
    label_values=None,
    truncation=None,
    coarse_values=None,
    label_shape=None,
    relaxation="zach",
):
    """Write a labelling problem's convex relaxation as a cvxpy problem.

    Parameters
    ----------
    F : array-like of shape (n_nodes, n_labels)
        Cost of each label at each node: sums over the pixels of the node.
    graph : PartitionGraph, SuperpixelGraph, sparse matrix or (edges, weights)
    regularization : float, default=1.0
        Factor of the interface term.
    pairwise : {"potts", "tv", "truncated", "sublabel", "separable_tv"}, \
default="potts"
        What a pair of labels costs across an edge.
    label_values : array-like of shape (n_labels,), default=None
        Ascending values of the labels of "tv" and "sublabel"; None is 0, 1, ...
    truncation : float, default=None
        Largest cost of a pair of labels, of "truncated".
    coarse_values : array-like, default=None
        Labels between which "sublabel" takes the convex hull of the costs.
    label_shape : tuple (n_rows, n_columns), default=None
        Of the displacements that are the labels of "separable_tv".
    relaxation : {"zach", "lellmann", "ccp"}, default="zach"
        Of "potts" on isotropic grids; elsewhere the three are the same or nearly so.

    Returns
    -------
    problem : LiftedProblem
        A linear program, or one with second-order cones on isotropic grids. It
        follows cvxpy's rules for parameters (``problem.is_dpp()``).

    See Also
    --------
    solve_lifted : Solve without cvxpy.

    Notes
    -----
    The graph is that of [1]_, the relaxation that of [2]_. On separate edges, with D
    the signed incidence matrix and w the weights, the problem is::

        min <F, U> + lam * sum_e w_e sum_r c_r abs((D U A)_er),   U_v in the simplex

    with one non-negative slack for each absolute value. A and c are the identity and
    1/2 for "potts", cumulative sums and the gaps of the values for "tv".

    References
    ----------
    .. [1] J. Geiping, F. Gaede, H. Bauermeister, M. Moeller, "Fast Convex Relaxations
       using Graph Discretizations", 2020, arXiv:2004.11075.
    .. [2] C. Zach, D. Gallup, J.-M. Frahm, M. Niethammer, "Fast Global Labeling for
       Real-Time Stereo Using Multiple Plane Sweeps", VMV 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import PartitionGraph, build_problem
    >>> F = np.array([[0.0, 1.0], [0.6, 0.4], [0.0, 1.0]])
    >>> problem = build_problem(F, PartitionGraph.from_edges([[0, 1], [1, 2]]), 0.3)
    >>> round(float(problem.solve()), 6)
    0.6
    >>> problem.result().labels
    array([0, 0, 0])
    >>> problem.lam_param.value = 0.05
    >>> round(float(problem.solve()), 6)
    0.5
    """
    F = check_array(F, dtype=np.float64, input_name="F")
    term = make_pairwise(
        pairwise,
        F.shape[1],
        label_values=label_values,
        truncation=truncation,
        coarse_values=coarse_values,
        label_shape=label_shape,
    )
    return LiftedProblem(
        LiftedEnergy(F, as_graph(graph, len(F)), regularization, term, relaxation)
    )


def _set_better(problem, found):
    """Set the variables to the relaxed solution, or to the labelling if it is cheaper.

    The solver stops when the labelling is good enough, which may be long before the
    relaxed iterate is.
    """
    problem._form.set_assignment(found.assignment)
    if problem.energy.pairwise.name == "sublabel":  # a labelling is no point of it
        return
    relaxed = problem.objective.value
    problem._form.set_assignment(np.eye(problem.energy.n_labels)[found.labels])
    if problem.objective.value > relaxed:
        problem._form.set_assignment(found.assignment)


def _solve_lifted_pdhg(problem, *, tol=1e-4, max_iter=2000, **options):
    """Solve by the library's own solver: ``problem.solve(method="lifted_pdhg")``."""
    from skpoison.partition._pdhg import solve_pdhg

    if not isinstance(problem, LiftedProblem):
        raise ValueError(
            "method='lifted_pdhg' solves the problems of build_problem, got a "
            f"{type(problem).__name__}"
        )
    energy = problem.energy
    found = _without_interfaces(energy)
    if found is None:
        found = solve_pdhg(energy, tol=tol, max_iter=max_iter, **options)
    _set_better(problem, found)
    for constraint in problem.constraints:  # of an earlier solve
        for dual in constraint.dual_variables:
            dual.save_value(None)
    problem._found = energy, found
    problem._status = cp.OPTIMAL if found.converged else cp.OPTIMAL_INACCURATE
    problem._value = problem.objective.value
    problem._solution = None
    problem._solver_stats = SolverStats(
        found.solver, solve_time=found.seconds, num_iters=found.n_iter
    )
    return problem.value


cp.Problem.register_solve("lifted_pdhg", _solve_lifted_pdhg)
