"""What the estimators share: the call of the solver and the attributes of it."""

import time

from sklearn.base import BaseEstimator

from skpoison.partition._solve import _check_parameters, solve_lifted
from skpoison.utils import RandomStreams


class BaseLifted(BaseEstimator):
    """An estimator that solves one lifted problem in `fit`.

    Subclasses have the parameters ``solver, tol, max_iter, backend, device, dtype,
    solver_options, random_state, verbose`` and call :meth:`_solve`, then
    :meth:`_keep`.
    """

    def _check_solver(self):
        """Check what the solver would only see after graph and costs are built."""
        names = "solver tol max_iter backend device dtype solver_options".split()
        _check_parameters(**{name: getattr(self, name) for name in names})
        RandomStreams(self.random_state)

    def _solve(self, unary, graph, regularization, *, warm_start=None, **term):
        """Solve with the estimator's parameters; `term` are those of the interfaces."""
        return solve_lifted(
            unary,
            graph,
            regularization,
            solver=self.solver,
            tol=self.tol,
            max_iter=self.max_iter,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            warm_start=warm_start,
            random_state=RandomStreams(self.random_state).seed("rounding"),
            solver_options=self.solver_options,
            verbose=self.verbose,
            **term,
        )

    def _solve_path(self, unary, graph, regularizations, **term):
        """Yield the result at each regularization, each solve going on from the last.

        A solver of cvxpy's cannot go on, but compiles the model once.
        """
        modelled = unary.shape[1] > 1 and graph.n_edges > 0
        if str(self.solver).startswith("cvxpy") and modelled:
            yield from self._solve_compiled(unary, graph, regularizations, **term)
            return
        last = None
        for value in regularizations:
            last = self._solve(unary, graph, value, warm_start=last, **term)
            yield last

    def _solve_compiled(self, unary, graph, regularizations, **term):
        from skpoison.partition._cvxpy import build_problem
        from skpoison.partition._cvxpy._solvers import choose_solver, limits

        name = self.solver.partition(":")[2] or None
        name = choose_solver(name, cones=graph.isotropic)
        options = {
            **limits(name, self.tol, self.max_iter),
            **(self.solver_options or {}),
        }
        problem = build_problem(unary, graph, **term)
        for value in regularizations:
            problem.lam_param.value = value
            problem.solve(solver=name, verbose=bool(self.verbose), **options)
            yield problem.result()

    def _keep(self, result, graph, started):
        """Set the fitted attributes; `started` is when the graph began to be built."""
        self.result_ = result
        self.graph_ = graph
        self.energy_ = result.energy
        self.lower_bound_ = result.lower_bound
        self.gap_ = result.gap
        self.relative_gap_ = result.relative_gap
        self.primal_ = result.assignment
        self.n_iter_ = result.n_iter
        self.converged_ = result.converged
        self.solve_time_ = result.seconds
        self.build_time_ = time.perf_counter() - started - result.seconds
        return self
