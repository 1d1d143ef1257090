"""The same problems as models of cvxpy."""

from skpoison.partition._cvxpy._problem import LiftedProblem, build_problem
from skpoison.partition._cvxpy._solvers import solve_cvxpy

__all__ = ["LiftedProblem", "build_problem", "solve_cvxpy"]
