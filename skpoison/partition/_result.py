"""What every solver returns."""

import sys
import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning


@dataclass
class LiftedResult:
    """A labelling, its energy, and a lower bound of every labelling's energy.

    Parameters
    ----------
    labels : ndarray of shape (n_nodes,)
        The best labelling found: label numbers, real values for "sublabel".
    assignment : ndarray of shape (n_nodes, n_labels)
        The relaxed solution: rows in the unit simplex.
    energy : float
        Of `labels`.
    lower_bound : float
        No labelling has a smaller energy, whatever tolerance was reached.
    n_iter : int
        Iterations that the solver says it took.
    converged : bool
        Whether the solver reached its tolerance: the gap did or, where the relaxation
        is not tight, the gap between the relaxed problem and its dual. Then more
        iterations are of no use, and `relative_gap` says what is left.
    seconds : float
        Wall time of the solve, the compilation of a model included.
    solver : str
        Such as "pdhg" or "cvxpy:HIGHS".
    duals : ndarray of shape (n_edges, n_duals), default=None
        Certify `lower_bound`: ``LiftedEnergy.lower_bound(duals)`` gives it.
    history : list of tuple, default=[]
        (iteration, seconds, best energy, best lower bound) at each check.
    state : object, default=None
        Pass the result as `warm_start` to go on from here.
    """

    labels: np.ndarray
    assignment: np.ndarray
    energy: float
    lower_bound: float
    n_iter: int
    converged: bool
    seconds: float
    solver: str
    duals: np.ndarray | None = None
    history: list = field(default_factory=list)
    state: object = None

    @property
    def gap(self):
        """Energy less lower bound: no labelling is better by more."""
        return self.energy - self.lower_bound

    @property
    def relative_gap(self):
        """The gap over the larger of |energy| and |lower bound|."""
        return self.gap / max(abs(self.energy), abs(self.lower_bound), 1e-12)


def warn_user(message, category=UserWarning):
    """Warn at the line outside the package, and outside cvxpy, that called it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_inside(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_inside(frame):
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in ("skpoison", "cvxpy")


def warn_not_converged(result, how):
    """Warn that a solver stopped early; the bound it reports still holds."""
    warn_user(
        f"{result.solver} stopped {how} after {result.n_iter} iterations, at a "
        f"relative gap of {result.relative_gap:.2g}; labels and lower bound are valid: "
        "raise max_iter or tol",
        ConvergenceWarning,
    )
