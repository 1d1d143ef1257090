"""Linear learners with a Hessian, solved to machine precision and differentiated.

All of them minimise, over one row of coefficients W_k and one intercept b_k a score,

    sum_i c_i l(W x_i + b, y_i) + sum_j (l1_j |theta_j| + l2_j theta_j^2 / 2)

and differ in the loss l and in the strengths l1 and l2.
"""

import inspect
from dataclasses import dataclass, field

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
)
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight

from skpoison.attacks._implicit._losses import Logistic, Softmax, Squared, SquaredHinge
from skpoison.attacks._implicit._newton import Problem
from skpoison.attacks._implicit._refusal import refuse
from skpoison.attacks._implicit._smooth_solution import Solution

# "balanced" counts rows in older versions of scikit-learn, and weighs them in newer
_BALANCES_WEIGHTS = (
    "sample_weight" in inspect.signature(compute_class_weight).parameters
)
_LSTSQ_HAS_TOL = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)


def make_learner(estimator, classes=None):
    """Return the Learner of an estimator, or None if it is of no class known here.

    Parameters
    ----------
    estimator : estimator
        Fitted or not.
    classes : array-like of shape (n_classes,), default=None
        The labels that the codes 0, 1, ... stand for: what the keys of a
        ``class_weight`` mean. None takes the codes themselves.

    Raises
    ------
    NotDifferentiableError
        A parameter of the estimator rules a derivative out.
    """
    for kind, build in _BUILDERS.items():
        # a subclass with a `fit` of its own solves another problem
        if isinstance(estimator, kind) and type(estimator).fit is kind.fit:
            if getattr(estimator, "positive", False):
                refuse(estimator, "positive")
            learner = build(estimator)
            if classes is not None and learner is not None:
                learner.set_classes(classes)
            return learner
    return None


@dataclass
class TrainingRows:
    """What enters the training objective beside X."""

    y: np.ndarray  # (n,), codes or numbers
    targets: np.ndarray  # (n, k), what the loss compares with the scores
    weights: np.ndarray  # (n,), sample weights
    factors: np.ndarray | None  # (n_classes,), class weights
    by_row: np.ndarray  # (n, 1) or (n, k), the same by row
    totals: np.ndarray | None  # (n_classes,), what "balanced" goes by
    c: np.ndarray  # (n, k), or (n, 1) for a coupled loss: full weight of each row


@dataclass(eq=False)
class Learner:
    """A linear estimator's training problem; made by :func:`make_learner`.

    Attributes
    ----------
    score_kind : str or None
        "binary", "softmax", "ovr" or "regression". Of a classifier None until the
        number of classes is known: from `classes` or from the first `solve`.
    n_classes : int
        0 if not known.
    """

    estimator: BaseEstimator  # never fitted or changed
    loss: type
    objective: str  # the loss's name among those of validation scores
    l1: float = 0.0
    l2: float = 0.0
    averaged: bool = False  # the penalties are times the sum of the weights
    cond: float | None = None  # of least squares, see Problem
    is_regressor: bool = False
    scaling: float | None = None  # of the intercept's column; None: no penalty there
    class_weight: str | dict | None = None
    balances_weights: bool = False  # "balanced" sums weights, it counts no rows
    one_vs_rest: bool = False  # more than two classes have a score each, solved apart
    score_kind: str | None = field(default=None, init=False)
    n_classes: int = field(default=0, init=False)

    def __post_init__(self):
        self._classes = None
        self._factors = None
        if self.is_regressor:
            self.score_kind = "regression"

    def set_classes(self, classes):
        """Take note of the labels behind the codes 0, 1, ..."""
        if self.is_regressor or self.n_classes == len(classes):
            return
        if len(classes) < 2:
            raise ValueError(f"a classifier needs two classes, got {len(classes)}")
        self._classes = np.asarray(classes)
        self.n_classes = n = len(classes)
        if isinstance(self.estimator, LogisticRegression):
            multi_class = getattr(self.estimator, "multi_class", None)
            if multi_class == "ovr" or (multi_class == "multinomial" and n == 2):
                refuse(self.estimator, "multi_class", f"for {n} classes")
            if n > 2 and self.l1:
                self.refuse_l1("for more than two classes")
            if n > 2 and self.one_vs_rest and multi_class is None:
                raise ValueError(
                    f"{type(self.estimator).__name__}(solver='liblinear') does not "
                    f"take {n} classes, only two"
                )
            self.loss = Softmax if n > 2 and not self.one_vs_rest else Logistic
        self.score_kind = (
            "binary" if n == 2 else "softmax" if self.loss.coupled else "ovr"
        )
        if self.class_weight is not None and self.class_weight != "balanced":
            # scikit-learn's own reading of a dict, and its own complaints
            self._factors = compute_class_weight(
                self.class_weight, classes=self._classes, y=self._classes
            ).astype(float)

    def refuse_l1(self, why):
        """Complain about the parameter that asks for an l1 penalty."""
        penalty = getattr(self.estimator, "penalty", None)
        named = penalty in ("l1", "elasticnet")
        refuse(self.estimator, "penalty" if named else "l1_ratio", why)

    def row_factors(self, y, factors):
        """Return class weights (n, 1), or (n, k) where the sides of a score differ."""
        if factors is None:
            return np.ones((len(y), 1))
        if self.one_vs_rest and self.n_classes > 2:
            own = y[:, None] == np.arange(self.n_classes)
            return np.where(own, factors, 1.0)
        return factors[y][:, None]

    def training_rows(self, y, weights=None):
        """Return what y and sample weights mean to the objective."""
        if self.is_regressor:
            y = np.array(y, dtype=float)
        else:
            y = np.array(y, dtype=np.intp)
            counts = np.bincount(y, minlength=self.n_classes)
            if self.n_classes != len(counts):
                if self._classes is not None and len(counts) > len(self._classes):
                    raise ValueError(
                        f"y holds code {len(counts) - 1}, but there are "
                        f"{len(self._classes)} classes"
                    )
                self.set_classes(np.arange(len(counts)))
            if not counts.all():
                raise ValueError(f"y holds no row of class {counts.argmin()}")
        w = np.ones(len(y)) if weights is None else np.array(weights, dtype=float)
        totals, factors = None, self._factors
        if isinstance(self.class_weight, str):
            counted = w if self.balances_weights else None
            totals = np.bincount(y, weights=counted).astype(float)
            factors = totals.sum() / (len(totals) * totals)
        by_row = self.row_factors(y, factors)
        targets = self.loss.targets(y, self.n_classes)
        c = w[:, None] * by_row
        if not self.loss.coupled and c.shape[1] != targets.shape[1]:
            c = np.repeat(c, targets.shape[1], axis=1)
        return TrainingRows(y, targets, w, factors, by_row, totals, c)

    def solve(self, X, y, weights=None, start=None):
        """Solve the training problem to machine precision.

        Parameters
        ----------
        X : ndarray of shape (n, d)
        y : ndarray of shape (n,)
            Codes 0 to K - 1, each of them present, or numbers.
        weights : ndarray of shape (n,), default=None
            Sample weights.
        start : Solution or fitted estimator, default=None
            Where to start from; the rows it was solved for do not matter.

        Returns
        -------
        Solution

        Notes
        -----
        Of a problem without a penalty that has many solutions the one of least norm
        is taken; one that has none (separable data, C=inf) is left where its gradient
        vanishes. The derivatives are then least-squares solutions.
        """
        X = np.asarray(X, dtype=float)
        n, d = X.shape
        rows = self.training_rows(y, weights)
        k = rows.targets.shape[1]
        fit_intercept = self.estimator.fit_intercept
        free = fit_intercept and self.scaling is None
        # an intercept without a penalty lets the columns be centred: better numbers,
        # the same problem
        design = np.ones((n, d + bool(fit_intercept)))
        centre = np.zeros(d)
        if free:
            # in two steps: a constant column becomes zero to the last bit
            np.subtract(X, X[0], out=design[:, :d])
            mean = rows.c[:, 0] @ design[:, :d] / rows.c[:, 0].sum()
            design[:, :d] -= mean
            centre = X[0] + mean
        else:
            design[:, :d] = X
        strength = rows.weights.sum() if self.averaged else 1.0
        felt = np.ones(design.shape[1])  # what a penalty sees of each coefficient
        if free:
            felt[d] = 0.0
        elif self.scaling is not None and fit_intercept:
            felt[d] = 1.0 / self.scaling
        l1 = self.l1 * strength * felt if self.l1 else None
        l2 = self.l2 * strength * felt**2
        cond = self.cond
        if self.loss is Squared and cond is None:
            cond = max(n, d) * np.finfo(float).eps
        theta = self._start(start, k, d, centre, design.shape[1])
        parts = [slice(None)]
        if k > 1 and not self.loss.coupled and self.loss is not Squared:
            parts = [slice(j, j + 1) for j in range(k)]  # as many separate problems
        likes = [None] * len(parts)
        if isinstance(start, Solution) and len(start.problems) == len(parts):
            likes = start.problems
        problems = []
        for part, like in zip(parts, likes, strict=True):
            targets, c = rows.targets[:, part], rows.c[:, part]
            problem = Problem(design, targets, c, self.loss, l1, l2, cond, free)
            problem.minimise(theta[part], like)
            problems.append(problem)
        return Solution(self, problems, X, rows, centre)

    def _start(self, start, k, d, centre, size):
        theta = np.zeros((k, size))
        if start is None:
            return theta
        if isinstance(start, Solution):
            coef, intercept = start.coef, start.intercept
        else:
            coef, intercept = np.atleast_2d(start.coef_), start.intercept_
        if coef.shape != (k, d) or not np.isfinite(coef).all():
            return theta
        theta[:, :d] = coef
        if size > d:
            theta[:, d] = intercept + coef @ centre
        if self.loss.coupled:
            theta -= theta.mean(axis=0)
        return theta


# ---------------------------------------------------------------- from estimators


def _logistic(estimator):
    penalty, ratio = estimator.penalty, estimator.l1_ratio or 0.0
    ratio = {"l2": 0.0, "l1": 1.0, None: 0.0}.get(penalty, ratio)
    strength = 0.0 if penalty is None else 1.0 / estimator.C
    liblinear = estimator.solver == "liblinear"
    return Learner(
        estimator,
        Logistic,
        "log_loss",
        l1=strength * ratio,
        l2=strength * (1.0 - ratio),
        scaling=estimator.intercept_scaling if liblinear else None,
        class_weight=estimator.class_weight,
        balances_weights=_BALANCES_WEIGHTS,
        one_vs_rest=liblinear,
    )


def _linear_svc(estimator):
    if estimator.multi_class != "ovr":
        refuse(estimator, "multi_class")
    if estimator.loss == "hinge":
        return None
    if estimator.penalty != "l2":
        refuse(estimator, "penalty")
    return Learner(
        estimator,
        SquaredHinge,
        "hinge",
        l2=1.0 / estimator.C,
        scaling=estimator.intercept_scaling,
        class_weight=estimator.class_weight,
        balances_weights=_BALANCES_WEIGHTS,
        one_vs_rest=True,
    )


def _ridge(estimator):
    if np.ndim(estimator.alpha):
        refuse(estimator, "alpha", "unless it is one number")
    regression = isinstance(estimator, Ridge)
    return Learner(
        estimator,
        Squared,
        "squared_error" if regression else "hinge",
        l2=estimator.alpha,
        is_regressor=regression,
        class_weight=None if regression else estimator.class_weight,
    )


def _linear_regression(estimator):
    return Learner(
        estimator,
        Squared,
        "squared_error",
        cond=estimator.tol if _LSTSQ_HAS_TOL else None,
        is_regressor=True,
    )


def _elastic_net(estimator):
    return Learner(
        estimator,
        Squared,
        "squared_error",
        l1=estimator.alpha * estimator.l1_ratio,
        l2=estimator.alpha * (1.0 - estimator.l1_ratio),
        averaged=True,
        is_regressor=True,
    )


_BUILDERS = {
    LogisticRegression: _logistic,
    LinearSVC: _linear_svc,
    Ridge: _ridge,
    RidgeClassifier: _ridge,
    LinearRegression: _linear_regression,
    ElasticNet: _elastic_net,  # and Lasso, its subclass
}
