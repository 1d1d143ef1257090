"""A whole estimator as a differentiable map from its training set to its scores."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import assert_all_finite

from skpoison.attacks._implicit import _smooth, _svm
from skpoison.attacks._implicit._objectives import (
    NotDifferentiableError,
    resolve_objective,
)
from skpoison.attacks._implicit._steps import pull_back_steps
from skpoison.utils._containers import append_rows


def find_learner(estimator, classes=None):
    """Return the learner of a final estimator, or raise and say what would do."""
    for module in (_smooth, _svm):
        learner = module.make_learner(estimator, classes=classes)
        if learner is not None:
            return learner
    named = hasattr(estimator, "fit") and not isinstance(estimator, type)
    name = type(estimator).__name__ if named else repr(estimator)
    raise NotDifferentiableError(
        f"{name} has no gradient that is known here. There are "
        "those of LogisticRegression, LinearSVC, RidgeClassifier, SVC, Ridge, "
        "LinearRegression, Lasso, ElasticNet and SVR, alone or at the end of a "
        "Pipeline. LabelFlipAttack, and attacks with surrogate=, need none"
    )


def _flat_steps(estimator, prefix=""):
    """Return the named transformers and the final estimator of nested pipelines."""
    if not hasattr(estimator, "steps"):
        return [], estimator
    *before, (name, last) = estimator.steps
    steps = [
        (f"{prefix}{key}", step)
        for key, step in before
        if step is not None and not isinstance(step, str)
    ]
    inner, final = _flat_steps(last, f"{prefix}{name}__")
    return [*steps, *inner], final


class Victim:
    """An estimator or pipeline, seen as a function of its training rows.

    Parameters
    ----------
    estimator : estimator
        Not changed: its steps are cloned.
    jacobian : "analytic", "finite-differences" or dict, default="analytic"
        For preprocessing steps, see :func:`pull_back_steps`.
    classes : ndarray, default=None
        The labels that codes 0..K-1 stand for, for class weights by label.
    make : callable, default=find_learner
        ``make(final_estimator, classes)`` returns the learner of the last step.
    """

    def __init__(
        self, estimator, *, jacobian="analytic", classes=None, make=find_learner
    ):
        self.steps, final = _flat_steps(estimator)
        for name, step in self.steps:
            if not hasattr(step, "transform"):  # samplers, for one
                raise NotDifferentiableError(
                    f"step {name!r} ({type(step).__name__}) is no transformer"
                )
        self.jacobian = jacobian
        self.classes = None if classes is None else np.asarray(classes)
        self.learner = make(final, classes)

    def solve(self, X, y, weights=None, start=None):
        """Fit the steps and solve the learner's problem exactly.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            Codes 0..K-1, or numbers.
        weights : ndarray of shape (n_samples,), default=None
            Sample weights of the final estimator.
        start : Solved, default=None
            Of nearly the same rows, to start from.

        Returns
        -------
        solved : Solved
        """
        inputs, fitted = [], []
        labels = y if self.classes is None else self.classes[y]
        for name, step in self.steps:
            inputs.append(X)
            step, X = clone(step), _copy(X)
            if hasattr(step, "fit_transform"):
                X = _dense(step.fit_transform(X, labels))
            else:
                X = _dense(step.fit(X, labels).transform(X))
            fitted.append((name, step))
        X = _matrix(X)
        solution = self.learner.solve(
            X, y, weights, None if start is None else start.solution
        )
        return Solved(self, fitted, [*inputs, X], solution)


@dataclass
class Gradient:
    """Derivatives of a validation objective, through everything that was refitted.

    Attributes
    ----------
    value : float
    X : ndarray of shape (n_rows, n_features)
        By cell of the training rows; 0 in columns that hold categories.
    gains : dict of int to ndarray of shape (n_rows, n_categories)
        By column of categories: what each would change, up to a constant a row.
    adjoint : Adjoint
        Of the final estimator.
    solved : Solved
    """

    value: float
    X: np.ndarray
    gains: dict
    adjoint: object
    solved: object

    def targets(self, rows=slice(None)):
        """Derivative by the numbers y of the training rows."""
        return self.adjoint.targets(rows)

    def weights(self, rows=slice(None)):
        """Derivative by the sample weights of the training rows."""
        return self.adjoint.weights(rows)

    def gain(self, X_new, y_new):
        """Derivative by the weight of rows that would be added, steps as they are."""
        return self.adjoint.gain(self.solved.features(X_new), y_new)


class Solved:
    """A victim, trained."""

    def __init__(self, victim, steps, inputs, solution):
        self.victim = victim
        self.steps = steps
        self.inputs = inputs
        self.solution = solution

    def features(self, X):
        """Take rows through the fitted steps."""
        for _, step in self.steps:
            X = _dense(step.transform(_copy(X)))
        return _matrix(X)

    def scores(self, X):
        """Return the final estimator's scores, of shape (n_samples, n_scores)."""
        return self.solution.scores(self.features(X))

    def value(self, X_val, y_val, objective):
        """Return an objective of validation scores; see :meth:`gradient`."""
        if X_val is None:
            scores = self.solution.scores(self.inputs[-1][: len(y_val)])
        else:
            scores = self.scores(X_val)
        return resolve_objective(objective, self.victim.learner)(scores, y_val)[0]

    def gradient(self, X_val, y_val, objective, *, rows=slice(None), categories=None):
        """Differentiate an objective of validation scores by the training rows.

        Parameters
        ----------
        X_val : array or data frame, or None
            None: the first ``len(y_val)`` training rows.
        y_val : ndarray
        objective : str or callable
            See :func:`resolve_objective`.
        rows : slice, default=slice(None)
            The training rows that are wanted.
        categories : dict, default=None
            See :func:`pull_back_steps`.

        Returns
        -------
        gradient : Gradient
        """
        features, own = self.inputs[-1], X_val is None
        n_fit = len(features)
        if own:
            V = features[: len(y_val)]
        else:
            V, forward = X_val, []
            for _, step in self.steps:
                forward.append(V)
                V = _dense(step.transform(_copy(V)))
            V = _matrix(V)
        scores = self.solution.scores(V)
        value, G = resolve_objective(objective, self.victim.learner)(scores, y_val)
        adjoint = self.solution.adjoint(V, G)
        if not self.steps:
            X = adjoint.rows(rows)
            if own:
                first, last, _ = rows.indices(n_fit)
                held = min(last, len(y_val))
                if first < held:
                    X[: held - first] += adjoint.validation()[first:held]
            gains = {j: np.outer(X[:, j], c) for j, c in (categories or {}).items()}
            return Gradient(value, _without(X, gains), gains, adjoint, self)
        pulled = adjoint.rows()
        if own:
            pulled[: len(y_val)] += adjoint.validation()
            inputs = self.inputs[:-1]
        else:
            pulled = np.concatenate([pulled, adjoint.validation()])
            inputs = [
                append_rows(fitted, given)
                for fitted, given in zip(self.inputs[:-1], forward, strict=True)
            ]
        pulled, gains = pull_back_steps(
            self.steps,
            inputs,
            pulled,
            n_fit,
            jacobian=self.victim.jacobian,
            categories=categories,
        )
        gains = {j: g[:n_fit][rows] for j, g in gains.items()}
        return Gradient(value, pulled[:n_fit][rows], gains, adjoint, self)


def _without(X, columns):
    if columns:
        X = X.copy()
        X[:, list(columns)] = 0.0
    return X


def _copy(X):
    """Copy what a step is given: with ``copy=False`` it may be written to."""
    return X.copy() if hasattr(X, "copy") else X.clone()  # polars


def _dense(X):
    return X.toarray() if sparse.issparse(X) else X


def _matrix(X):
    """Return what the final estimator takes: a dense matrix of finite numbers."""
    X = np.ascontiguousarray(_dense(X), dtype=np.float64)
    assert_all_finite(X, input_name="X")
    return X
