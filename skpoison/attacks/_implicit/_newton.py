"""Newton's method to machine precision, and the linear system of an adjoint."""

import warnings
from typing import Any

import numpy as np
from scipy.linalg import svd
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches

from skpoison.attacks._implicit._feature_sign import feature_sign_step
from skpoison.attacks._implicit._inverses import Cholesky, ConjugateGradients, Pseudo
from skpoison.attacks._implicit._losses import Squared

_EPS = np.finfo(float).eps
_LARGEST_DENSE = 3000  # unknowns; more are left to conjugate gradients
# from here on a factor of a Hessian serves for others like it, as the preconditioner of
# so many iterations of conjugate gradients
_SMALLEST_SHARED = 200
_MAX_SHARED_ITER = 15
_MAX_ITER = 200
_BLOCK = 2**21  # numbers in a temporary array
# Newton ends with a step that moves no score by more than this (in units of the margin
# or of the largest target): the error it leaves is smaller by that factor again
_TOL = 1e-7


class Problem:
    """One training problem in ``theta`` (k, p), and its solution.

    Parameters
    ----------
    X : (n, p), the column of ones included
    targets : (n, k)
    c : (n, k), or (n, 1) for a coupled loss
        Full weight of each row.
    loss : class of `_losses`
    l1, l2 : (p,); l1 is None where there is none
    cond : float or None
        Singular values of a least-squares problem below this share of the largest
        count as zero. None for any other problem.
    free : bool
        The last column is an intercept without a penalty.

    Attributes
    ----------
    theta : (k, p)
    slope, curvature : of the loss at theta
    inverse : the inverse of a Hessian that was computed last, or None
    """

    def __init__(self, X, targets, c, loss, l1, l2, cond, free):
        self.X, self.targets, self.c, self.loss = X, targets, c, loss
        self.l1, self.l2, self.cond, self.free = l1, l2, cond, free
        self.linear = loss is Squared
        self.penalised = l2[0] > 0
        self.unit = max(np.abs(targets).max(), 1e-300) if self.linear else 1.0
        # the Hessian of a loss with kinks jumps: iterations lose its exact steps
        self._shares = self.penalised and not loss.kinked and l1 is None
        self.inverse: Any = None
        self._inverted: Any = None  # the curvature behind `inverse`

    def value(self, theta, z):
        found = np.vdot(self.c, self.loss.value(z, self.targets))
        found += 0.5 * np.vdot(theta, self.l2 * theta)
        if self.l1 is not None:
            found += self.l1 @ np.abs(theta[0])
        return found

    def minimise(self, theta, like=None):
        """Solve from `theta`, or from zero if that is nearer.

        `like` is a solved problem whose Hessian may be similar, or None.
        """
        size = theta.size if self.loss.coupled else theta.shape[1]
        if like is not None and _is_factor(like.inverse, size):
            self.inverse = like.inverse
        z = self.X @ theta.T
        value = self.value(theta, z)
        if not value <= self.value(np.zeros_like(theta), np.zeros_like(z)):
            theta = np.zeros_like(theta)
        theta, converged = self._descend(theta)
        if not converged and self._shares:
            self._shares = False
            theta, converged = self._descend(theta)
        if not converged and self.penalised and not self.linear:
            # nearly a hard margin: come from a stronger penalty
            l2 = self.l2
            for factor in 10.0 ** np.arange(8, -1, -1):
                self.l2, self._inverted = l2 * factor, None
                theta, converged = self._descend(theta)
        if not converged:
            warnings.warn(
                "the training problem could not be solved to machine precision: its "
                "derivatives are those of an approximate solution",
                ConvergenceWarning,
                stacklevel=4,
            )
        if self._is_singular() and (self.linear or not self.penalised):
            # of all solutions the one of least norm, wherever the search came from
            theta = self._least_norm(theta)
            z = self.X @ theta.T
            self.slope, self.curvature = self.loss.derivatives(z, self.targets)
        self.theta = theta

    def _descend(self, theta):
        """Newton's method with a line search; with an l1, its proximal variant."""
        X, c, loss, l1 = self.X, self.c, self.loss, self.l1
        floor = None
        if not self.penalised and not self.linear and l1 is None:
            # of separable data there may be no solution: stop where nothing is left
            floor = 1e-13 * (np.abs(X).T @ c).T
        z = X @ theta.T
        value = self.value(theta, z)
        # the error that the last step left, in scores, as far as can be told
        left = 1.0
        for _ in range(_MAX_ITER):
            self.slope, self.curvature = loss.derivatives(z, self.targets)
            if left <= _TOL**2:
                return theta, True
            gradient = (c * self.slope).T @ X + self.l2 * theta
            if floor is not None and (np.abs(gradient) <= floor).all():
                return theta, True
            rtol = 0.0
            if l1 is not None:
                weight = c[:, 0] * self.curvature[:, 0]
                step = feature_sign_step(
                    X, weight, theta[0], gradient[0], l1, self.l2, self.penalised
                )[None]
                fall = -np.vdot(gradient, step)
                fall -= l1 @ (np.abs(theta + step) - np.abs(theta))[0]
            else:
                # as exact as the step that is to be expected deserves
                rtol = min(0.1, max(left, _TOL**2 / left))
                step, rtol = self._solve(-gradient, rtol)
                if loss.coupled:  # a shift common to all classes is no step
                    step -= step.mean(axis=0)
                fall = -np.vdot(gradient, step)
            moved = X @ step.T
            size = np.abs(moved).max() / self.unit
            left, length = max(size, rtol) * size, 1.0
            # exact, or so near that values differ by rounding only
            accepted = self.linear or size <= 1e-5
            if loss.kinked and not accepted:
                pull = self.l2 * step
                length = loss.best_length(
                    c, z, self.targets, moved, np.vdot(pull, theta), np.vdot(pull, step)
                )
                accepted = True
            while True:
                trial = theta + length * step
                trial_value = self.value(trial, z + length * moved)
                if accepted or trial_value <= value - 1e-4 * length * fall:
                    break
                length *= 0.5
                if length < 1e-12:
                    return theta, False
            theta, value = trial, trial_value
            z = X @ theta.T
        self.slope, self.curvature = loss.derivatives(z, self.targets)
        return theta, False

    def _least_norm(self, theta):
        if self.linear:
            return self.inverse.project(theta)
        # H may have lost directions that the data determine: go by the data
        values, basis = svd(self.X, full_matrices=False)[1:]
        basis = basis[values > max(self.X.shape) * _EPS * values.max()]
        return (theta @ basis.T) @ basis

    def _is_singular(self):
        return self.inverse is not None and self.inverse.range is not None

    # ----------------------------------------------------- systems with the Hessian

    def _solve(self, b, rtol):
        """Return ``H^-1 b`` at the present curvature, and the relative error allowed.

        Factorising is what takes the time. As long as it is of use the last factor
        is a preconditioner, be it of an earlier step or of another training set.
        """
        known = self.inverse
        if not np.array_equal(self._inverted, self.curvature):
            if self._shares and _is_factor(known):
                product = self._product(self.X, self.l2)
                found = ConjugateGradients(
                    product, known.solve, _MAX_SHARED_ITER
                ).solve(b, rtol)
                if found is not None:
                    return found, rtol
            self.inverse, self._inverted = self._invert(), self.curvature
        dense = not isinstance(self.inverse, ConjugateGradients)
        return self.inverse.solve(b, rtol), 0.0 if dense else rtol

    def _invert(self, active=slice(None)):
        """Return the inverse of the Hessian of the active coefficients."""
        X, l2 = self.X[:, active], self.l2[active]
        size = X.shape[1] * (self.targets.shape[1] if self.loss.coupled else 1)
        if size > _LARGEST_DENSE:
            diagonal = (self.c * self.loss.diagonal(self.curvature)).T @ X**2 + l2
            diagonal[diagonal <= 0] = 1.0
            return ConjugateGradients(self._product(X, l2), lambda b: b / diagonal)
        hessian = self._hessian(X, l2)
        if self.penalised:
            found = Cholesky.of(hessian)
        elif self.cond is not None and self.l1 is None:
            smallest = max(size * self.cond**2, 1e-12)
            found = Cholesky.of(hessian, smallest, scaled=False)
            return found or self._least_squares()
        else:
            found = Cholesky.of(hessian, 10 * size * _EPS)
        return found or Pseudo.of(hessian)

    def _hessian(self, X, l2):
        size = X.shape[1]
        if not self.loss.coupled:
            # of a squared loss all columns share one Hessian, others come one by one
            weight = self.c[:, :1] * self.curvature[:, :1]
            if self.loss.kinked:  # many rows are beyond the margin
                used = weight[:, 0] > 0
                X, weight = X[used], weight[used]
            root = X * np.sqrt(weight)
            hessian = root.T @ root
            hessian.reshape(-1)[:: size + 1] += l2
            return hessian
        # sum_i c_i (diag(p_i) - p_i p_i' + gauge_i) (x) x_i x_i'
        p, c = self.curvature, self.c
        k = p.shape[1]
        hessian = np.zeros((k * size, k * size))
        for rows in gen_batches(len(X), max(1, _BLOCK // (k * size))):
            half = np.sqrt(c[rows]) * p[rows]
            half = (half[:, :, None] * X[rows, None]).reshape(-1, k * size)
            hessian -= half.T @ half
        hessian = hessian.reshape(k, size, k, size)
        hessian += (X.T @ (c * self.loss.gauge(p) * X))[:, None]
        weight = c * self.loss.diagonal(p)
        for j in range(k):
            # not by difference: digits would be lost where a class takes nearly all
            hessian[j, :, j] = X.T @ (weight[:, j : j + 1] * X)
        hessian = hessian.reshape(k * size, k * size)
        hessian.reshape(-1)[:: k * size + 1] += np.tile(l2, k)
        return hessian

    def _product(self, X, l2):
        """Return the function that applies the Hessian."""
        c, loss, curvature = self.c, self.loss, self.curvature
        gauge = loss.gauge(curvature) if loss.coupled else None

        def product(v):
            h = X @ v.T
            bent = loss.curve(curvature, h)
            if gauge is not None:
                bent += gauge * h.sum(axis=1, keepdims=True)
            return (c * bent).T @ X + l2 * v

        return product

    def _least_squares(self):
        """Return the pseudo-inverse that scikit-learn's own ``lstsq`` stands for."""
        root = np.sqrt(self.c[:, :1]) * (self.X[:, :-1] if self.free else self.X)
        values, basis = svd(root, full_matrices=False)[1:]
        keep = values > self.cond * values.max(initial=0.0)
        values, basis = values[keep] ** 2, basis[keep].T
        if self.free:  # the columns are centred: the intercept stands alone
            basis = np.pad(basis, (0, 1))
            basis[-1, -1] = 1.0
            values = np.append(values, self.c[:, 0].sum())
        return Pseudo(basis, values)

    def solve_adjoint(self, direction):
        """Return ``H^-1 direction`` at the solution."""
        if self.l1 is None:
            return self._solve(direction, 1e-12)[0]
        active = np.flatnonzero((self.theta[0] != 0) | (self.l1 == 0))
        found = np.zeros_like(direction)
        if len(active):
            found[:, active] = self._invert(active).solve(direction[:, active], 1e-12)
        return found

    def least_norm_terms(self, direction):
        """Return (n, k) and (k, p) whose product the rows' derivatives add, or None.

        Of the many solutions of a singular least-squares problem scikit-learn takes
        the one of least norm, and moving a row moves the space that it lies in.
        """
        if not self.linear or self.l1 is not None or not self._is_singular():
            return None
        theta = self.theta.copy()
        if self.free:
            theta[:, -1] = 0.0
        multipliers = self.c * (self.X @ self.inverse.solve(theta).T)
        return multipliers, direction - self.inverse.project(direction)


def _is_factor(inverse, size=None):
    """Tell whether an inverse is a factor that pays to keep, of this size if given."""
    if not isinstance(inverse, Cholesky):
        return False
    found = len(inverse.factor)
    return found >= _SMALLEST_SHARED and size in (None, found)
