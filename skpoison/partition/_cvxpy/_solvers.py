"""One call for the solvers that cvxpy knows."""

import time
import warnings

import cvxpy as cp

from skpoison.partition._cvxpy._problem import LiftedProblem
from skpoison.partition._energy import LiftedEnergy
from skpoison.partition._result import warn_not_converged

# of those that cvxpy names: linear (and quadratic) programs only
_NO_CONES = frozenset(
    "CBC DAQP GLOP GLPK GLPK_MI HIGHS MPAX OSQP PDLP PIQP PROXQP QPALM SCIPY".split()
)


def solve_cvxpy(
    energy, name=None, *, tol=1e-4, max_iter=2000, verbose=0, **solver_options
):
    """Solve a lifted problem by one of cvxpy's solvers.

    Parameters
    ----------
    energy : LiftedEnergy
    name : str, default=None
        One of ``cvxpy.installed_solvers()``. None is "HIGHS" (or, without it, SciPy's
        copy of it) for linear programs and "CLARABEL" where there are cones.
    tol : float, default=1e-4
        Relative tolerance of CLARABEL, SCS, OSQP and of HIGHS's "ipm" and "pdlp". The
        simplex method of HIGHS ends at an optimal vertex whatever it is; other solvers
        keep their own unless `solver_options` says otherwise.
    max_iter : int, default=2000
        Of the same. A pivot of the simplex method is no iteration in this sense: limit
        them by the option ``simplex_iteration_limit``.
    verbose : int, default=0
        1 prints what cvxpy and the solver report.
    **solver_options
        Passed to the solver, and stronger than `tol` and `max_iter`.

    Returns
    -------
    result : LiftedResult
        `converged` is what the solver says of itself. The bound is computed from its
        duals and holds in any case.

    Raises
    ------
    ValueError
        No such solver here, or one that cannot have cones.
    RuntimeError
        The solver failed and left no assignment.

    Notes
    -----
    The costs are shifted to a minimum of 0 at each node and scaled to 1 on average,
    because the tolerances of solvers are partly absolute.
    """
    start = time.perf_counter()
    name = choose_solver(name, cones=energy.graph.isotropic)
    unary = energy.unary - energy.unary.min(axis=1, keepdims=True)
    scale = unary.mean() or 1.0
    problem = LiftedProblem(
        LiftedEnergy(
            unary / scale,
            energy.graph,
            energy.regularization / scale,
            energy.pairwise,
            energy.relaxation,
        )
    )
    options = {**limits(name, tol, max_iter), **solver_options}
    try:
        with warnings.catch_warnings():
            # this function warns itself, with the gap
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=name, verbose=bool(verbose), **options)
    except ImportError as error:
        raise ValueError(
            f"solver 'cvxpy:{name}' does not import: {error}. Packages such as ortools "
            "clash with highspy: start a new process and import them first"
        ) from error
    except cp.error.SolverError as error:
        raise RuntimeError(f"cvxpy:{name} failed: {error}") from error
    result = problem._certify(energy, scale)
    result.seconds = time.perf_counter() - start
    if not result.converged:
        warn_not_converged(result, f"with status {problem.status!r}")
    return result


def choose_solver(name, *, cones):
    """Return the name of an installed solver, or raise saying which there are."""
    installed = cp.installed_solvers()
    if name is None:
        wanted = ["CLARABEL", "SCS"] if cones else ["HIGHS", "SCIPY", "CLARABEL"]
        found = [solver for solver in wanted if solver in installed]
        if not found:
            raise ValueError(
                f"solver='cvxpy' needs {' or '.join(wanted)}, but cvxpy finds only "
                f"{', '.join(installed)}"
            )
        return found[0]
    if name.upper() not in installed:
        hint = ""
        if name.upper() in ("GLOP", "PDLP"):
            hint = "; ortools does not import in a process that has loaded highspy"
        raise ValueError(
            f"solver must be 'cvxpy:NAME' with NAME one of {', '.join(installed)}, got "
            f"'cvxpy:{name}'{hint}"
        )
    if cones and name.upper() in _NO_CONES:
        able = [solver for solver in installed if solver not in _NO_CONES]
        raise ValueError(
            "an isotropic grid needs a solver for second-order cones, one of "
            f"{', '.join(able)}, got 'cvxpy:{name}'"
        )
    return name.upper()


def limits(name, tol, max_iter):
    """Return `tol` and `max_iter` as the options of a solver."""
    if name == "CLARABEL":
        return {"tol_gap_rel": tol, "tol_feas": tol, "max_iter": max_iter}
    if name == "SCS":
        return {"eps_abs": tol, "eps_rel": tol, "max_iters": max_iter}
    if name == "OSQP":
        return {"eps_abs": tol, "eps_rel": tol, "max_iter": max_iter}
    if name == "HIGHS":
        return {
            "ipm_optimality_tolerance": tol,
            "pdlp_optimality_tolerance": tol,
            "ipm_iteration_limit": max_iter,
            "pdlp_iteration_limit": max_iter,
        }
    return {}
