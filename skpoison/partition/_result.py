"""What every solver returns."""

from dataclasses import dataclass, field

import numpy as np


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
        Whether the solver reached its tolerance.
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
