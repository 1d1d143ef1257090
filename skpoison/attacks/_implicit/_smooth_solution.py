"""A solved linear learner, and derivatives through its solution.

With c_i the weight of row i in the training objective, H the Hessian of that at the
solution (of its nonzero coefficients, if there is an l1), ``v = H^-1 dA/dtheta`` and
``h(x) = V (x, 1)``,

    dA/dx_i = -c_i [(l''_i h(x_i)) W + l'_i V_w],    dA/dc_i = -l'_i . h(x_i)
"""

from functools import cached_property

import numpy as np


class Solution:
    """A solved training problem.

    Attributes
    ----------
    X, y : ndarray
        The training data; X as given, though what is derived here has its own copy.
    rows : TrainingRows
    problems : list of Problem
        As many as are solved apart.
    theta : ndarray of shape (k, p)
        Their solutions, in the columns of the problems.
    centre : ndarray of shape (d,)
        What was taken off X there.
    coef : ndarray of shape (k, d)
    intercept : ndarray of shape (k,)
    """

    def __init__(self, learner, problems, X, rows, centre):
        self.learner, self.X, self.y = learner, X, rows.y
        self.problems, self.rows, self.centre = problems, rows, centre
        d = X.shape[1]
        self.theta = np.concatenate([p.theta for p in problems])
        self.coef = self.theta[:, :d]
        self.intercept = np.zeros(len(self.theta))
        if self.theta.shape[1] > d:
            self.intercept = self.theta[:, d] - self.coef @ centre

    def scores(self, X):
        """Return the scores of the rows of X, shape (m, k)."""
        return X @ self.coef.T + self.intercept

    def adjoint(self, X_val, G):
        """Return the derivatives of A, given those by the scores of `X_val`.

        Parameters
        ----------
        X_val : ndarray of shape (m, d)
        G : ndarray of shape (m, k)
            ``dA/dscores``.
        """
        return Adjoint(self, X_val, np.reshape(G, (len(X_val), len(self.coef))))

    def design(self, X):
        """Return rows in the columns of the problems."""
        design = np.ones((len(X), self.theta.shape[1]))
        np.subtract(X, self.centre, out=design[:, : X.shape[1]])
        return design


class Adjoint:
    """Total derivatives of A through the solved model.

    `rows` arguments are slices, index arrays or masks over the training rows.
    """

    def __init__(self, solution, X_val, G):
        self._solution, self._G = solution, G
        problems = solution.problems
        direction = G.T @ solution.design(X_val)
        parts = np.split(direction, len(problems))
        self._v = np.concatenate(
            [p.solve_adjoint(part) for p, part in zip(problems, parts, strict=True)]
        )
        self._design = problems[0].X
        self._slope = np.hstack([p.slope for p in problems])
        self._curvature = np.hstack([p.curvature for p in problems])
        self._c = solution.rows.c
        self._least_norm = problems[0].least_norm_terms(direction)

    def rows(self, rows=slice(None)):
        """Return dA/dX of training rows, shape (len(rows), d)."""
        d = self._solution.X.shape[1]
        c, h = self._c[rows], self._design[rows] @ self._v.T
        bent = self._solution.learner.loss.curve(self._curvature[rows], h)
        found = (c * bent) @ self._solution.coef
        found += (c * self._slope[rows]) @ self._v[:, :d]
        if self._least_norm is not None:
            multipliers, beyond = self._least_norm
            found -= multipliers[rows] @ beyond[:, :d]
        return -found

    def targets(self, rows=slice(None)):
        """Return dA/dy of training rows, of a regressor."""
        if not self._solution.learner.is_regressor:
            name = type(self._solution.learner.estimator).__name__
            raise TypeError(f"{name} is a classifier: its targets have no derivative")
        return self._c[rows, 0] * (self._design[rows] @ self._v[0])

    def weights(self, rows=slice(None)):
        """Return dA/d sample_weight of training rows.

        Weights that enter the penalty (Lasso and ElasticNet average the loss over
        them) or "balanced" class weights (where scikit-learn takes those from the
        sample weights) count in full.
        """
        solution, h = self._solution, self._design[rows] @ self._v.T
        found = -(self._slope[rows] * h * solution.rows.by_row[rows]).sum(axis=1)
        found += self._averaging()
        if solution.rows.totals is not None and solution.learner.balances_weights:
            found += self._by_total[solution.y[rows]]
        return found

    def validation(self):
        """Return dA/dX_val through the scores, shape (m, d)."""
        return self._G @ self._solution.coef

    def gain(self, X_new, y_new):
        """Return dA/dw at w = 0 of adding a row with sample weight w, for many rows.

        Whatever the rows are counted for grows by w with it: the weights that Lasso
        and ElasticNet divide by, and the class totals of "balanced" (also where
        scikit-learn counts rows instead of weights, so that a whole row is w = 1).
        """
        solution, learner = self._solution, self._solution.learner
        design = solution.design(np.asarray(X_new, dtype=float))
        y_new = np.asarray(y_new, dtype=float if learner.is_regressor else np.intp)
        targets = learner.loss.targets(y_new, learner.n_classes)
        slope, _ = learner.loss.derivatives(design @ solution.theta.T, targets)
        factors = learner.row_factors(y_new, solution.rows.factors)
        found = -(slope * (design @ self._v.T) * factors).sum(axis=1)
        found += self._averaging()
        if solution.rows.totals is not None:
            found += self._by_total[y_new]
        return found

    def _averaging(self):
        """Return the derivative by the sum of the weights, through the penalty."""
        learner, theta = self._solution.learner, self._solution.theta
        if not learner.averaged:
            return 0.0
        d = self._solution.X.shape[1]
        bent = learner.l1 * np.sign(theta) + learner.l2 * theta
        return -np.vdot(self._v[:, :d], bent[:, :d])

    @cached_property
    def _by_total(self):
        """The derivative by the total of each class, through its weight."""
        rows = self._solution.rows
        slope_h = self._slope * (self._design @ self._v.T)
        own = rows.by_row.shape[1] > 1
        loss = slope_h[np.arange(len(rows.y)), rows.y] if own else slope_h.sum(axis=1)
        by_factor = -np.bincount(rows.y, weights=rows.weights * loss)
        # factor_j = sum(totals) / (K totals_j)
        totals, n_classes = rows.totals, len(rows.totals)
        found = (by_factor / (n_classes * totals)).sum()
        return found - by_factor * totals.sum() / (n_classes * totals**2)
