"""Support vector machines, solved to machine precision and differentiated implicitly.

Everything is written in ``beta``, scikit-learn's ``dual_coef_``: f(x) = sum_j beta_j
K(x, x_j) + b, which serves classification and regression alike. A row is *free* where
f meets its target exactly, and *bounded* where beta sits on a corner of its box.
"""

import warnings
from functools import partial
from inspect import signature

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.utils import compute_class_weight

from skpoison.attacks._implicit._active_set import (
    DualTask,
    Gram,
    Kernel,
    whole_matrix,
)
from skpoison.attacks._implicit._objectives import NotDifferentiableError


def make_learner(estimator, classes=None):
    """Return the learner of an SVC, an SVR or a LinearSVC with hinge loss.

    Parameters
    ----------
    estimator : estimator, fitted or not
        Not changed.
    classes : ndarray, default=None
        The labels that codes 0..K-1 stand for, for class weights by label.

    Returns
    -------
    learner : SVMLearner or None
        None for an estimator of another kind.

    Raises
    ------
    NotDifferentiableError
        A kernel or an option that has no derivative.
    """
    kind = next(
        (
            base
            for base in (SVC, SVR, LinearSVC)
            if isinstance(estimator, base) and type(estimator).fit is base.fit
        ),
        None,
    )
    if kind is None or (kind is LinearSVC and estimator.loss != "hinge"):
        return None
    name = type(estimator).__name__
    if kind is LinearSVC:
        if estimator.multi_class != "ovr":
            raise NotDifferentiableError(
                f"{name}(multi_class={estimator.multi_class!r}) has no gradient that "
                "is known here: multi_class='ovr' has one"
            )
    elif estimator.kernel not in ("linear", "rbf", "poly", "sigmoid"):
        raise NotDifferentiableError(
            f"{name}(kernel={estimator.kernel!r}) has no gradient that is known here: "
            "'linear', 'rbf', 'poly' and 'sigmoid' have one"
        )
    if classes is None:
        classes = getattr(estimator, "classes_", None)
    return SVMLearner(estimator, kind, classes)


class SVMLearner:
    """A support vector machine as a map from training rows to scores.

    Parameters
    ----------
    estimator : SVC, SVR or LinearSVC
    kind : type
        Which of the three.
    classes : ndarray or None
    """

    def __init__(self, estimator, kind, classes=None):
        self.estimator = estimator
        self.kind = kind
        self.classes = classes
        self.objective = "squared_error" if kind is SVR else "hinge"
        self.epsilon = float(estimator.epsilon) if kind is SVR else None
        self.ignores_shifts = kind is not LinearSVC and (
            estimator.kernel in ("linear", "rbf")
        )
        self._set_classes(2 if classes is None else len(classes))

    def _set_classes(self, n_classes):
        self.n_classes = n_classes
        self.pairs = None
        if self.kind is SVR:
            self.score_kind = "regression"
        elif n_classes == 2:
            self.score_kind = "binary"
        elif self.kind is LinearSVC:
            self.score_kind = "ovr"
        else:
            self.score_kind = "ovo"
            self.pairs = np.triu_indices(n_classes, 1)

    def solve(self, X, y, weights=None, start=None):
        """Solve the training problem until its optimality conditions hold.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            Codes 0..K-1, or numbers for a regressor.
        weights : ndarray of shape (n_samples,), default=None
            Sample weights; a row of weight 0 is no part of the problem.
        start : SVMSolution or fitted estimator, default=None
            Of nearly the same rows; there may be more or fewer at the end.

        Returns
        -------
        solution : SVMSolution
        """
        X = np.array(X, dtype=np.float64, order="C")
        y = np.array(y, dtype=np.float64 if self.kind is SVR else np.intp)
        if self.kind is not SVR:
            counts = np.bincount(y)
            if len(counts) < 2 or not counts.all():
                raise ValueError(
                    "y must hold rows of every class, and of 2 at least: there are "
                    f"{counts.tolist()}"
                )
            self._set_classes(len(counts))
        class_weight = self._class_weights(y, weights)
        targets, costs = self.targets(y), self.costs(y, class_weight)
        if weights is not None:
            costs = costs * np.asarray(weights, dtype=np.float64)[:, None]
        solution = SVMSolution(
            self, X, y, class_weight, np.maximum(costs, 0), *self._kernel(X)
        )
        known = self._starting_point(start, solution)
        kernel, Z = solution.kernel, solution.Z
        matrix = whole_matrix(kernel, Z)
        gram = None
        for p in range(targets.shape[1]):
            rows = np.flatnonzero(solution.costs[:, p])
            t, cost = targets[rows, p], solution.costs[rows, p]
            if self.kind is not SVR and (len(t) == 0 or t.min() == t.max()):
                raise ValueError("the rows with a positive weight are of one class")
            if gram is None or self.pairs is not None:
                gram = Gram(kernel, Z, rows, matrix)
            task = DualTask(gram, t, cost, self.kind is not LinearSVC, self.epsilon)
            begun = None
            if known is not None:
                state, beta = (part[rows, p] for part in known)
                begun = np.where(state < 0, task.state_of(beta), state), beta
            found = task.solve(begun, partial(self._fit, task))
            solution.add(p, rows, found)
        return solution

    def _kernel(self, X):
        """Return the kernel, and whether its gamma moves with X."""
        if self.kind is LinearSVC:
            scaling = self.estimator.intercept_scaling * self.estimator.fit_intercept
            return Kernel("linear", constant=float(scaling) ** 2), False
        gamma = self.estimator.gamma
        by_variance = False
        if gamma == "scale":
            variance = X.var()
            by_variance = variance != 0 and self.estimator.kernel != "linear"
            gamma = 1 / (X.shape[1] * variance) if variance != 0 else 1.0
        elif gamma == "auto":
            gamma = 1 / X.shape[1]
        kernel = Kernel(
            self.estimator.kernel,
            gamma=float(gamma),
            coef0=self.estimator.coef0,
            degree=int(self.estimator.degree),
        )
        return kernel, by_variance

    def _class_weights(self, y, weights):
        if self.kind is SVR:
            return np.ones(1)
        classes = self.classes
        if classes is None or len(classes) != self.n_classes:
            classes = np.arange(self.n_classes)
        classes = np.asarray(classes)
        given = self.estimator.class_weight
        if given is None:
            return np.ones(self.n_classes)
        extra = {}
        if self.kind is LinearSVC and weights is not None and given == "balanced":
            # newer versions of scikit-learn count rows by their weights here
            if "sample_weight" in signature(compute_class_weight).parameters:
                extra["sample_weight"] = weights
        return compute_class_weight(given, classes=classes, y=classes[y], **extra)

    def targets(self, y):
        """Return what each score should be for each row: +1, -1 or 0, or y itself."""
        if self.kind is SVR:
            return y[:, None]
        if self.n_classes == 2:
            return np.where(y == 1, 1.0, -1.0)[:, None]
        if self.pairs is None:
            return np.where(y[:, None] == np.arange(self.n_classes), 1.0, -1.0)
        first, second = self.pairs
        return (y[:, None] == first).astype(float) - (y[:, None] == second)

    def costs(self, y, class_weight):
        """Return C_i of each row in each sub-problem, 0 where it is no part of it."""
        C = float(self.estimator.C)
        if self.kind is SVR:
            return np.full((len(y), 1), C)
        own = C * class_weight[y][:, None]
        if self.n_classes == 2:
            return own
        if self.pairs is None:  # liblinear weights the one class, never the rest
            return np.where(y[:, None] == np.arange(self.n_classes), own, C)
        return own * np.abs(self.targets(y))

    def _starting_point(self, start, solution):
        """Return the state (-1: by beta) and beta to start from, or None."""
        shape = solution.costs.shape
        n = shape[0]
        state, beta = np.full(shape, -1, dtype=np.int8), np.zeros(shape)
        if isinstance(start, SVMSolution):
            if start.beta.shape[1] != shape[1] or start.learner.kind is not self.kind:
                return None
            n = min(n, len(start.y))
            state[:n], beta[:n] = start.state[:n], start.beta[:n]
            if self.kind is not SVR:  # the corners of a box go by the label
                changed = np.flatnonzero(start.y[:n] != solution.y[:n])
                state[changed], beta[changed] = -1, 0
            return state, beta
        known = getattr(start, "dual_coef_", None)
        n_others = 1 if self.pairs is None else self.n_classes - 1
        if known is None or len(known) != n_others or start.shape_fit_[0] > n:
            return None
        support = start.support_
        if self.pairs is None:
            beta[support, 0] = known[0]
            return state, beta
        own = np.repeat(np.arange(self.n_classes), start.n_support_)
        for p, (i, j) in enumerate(zip(*self.pairs, strict=True)):
            # line k of dual_coef_ is about the k-th of the other classes
            beta[support[own == i], p] = known[j - 1, own == i]
            beta[support[own == j], p] = known[i, own == j]
        return state, beta

    def _fit(self, task):
        """Return the state and beta of one sub-problem from scikit-learn's solver."""
        Z = task.gram.Z
        with warnings.catch_warnings():
            # iterations are capped: what they leave to do is done exactly afterwards
            warnings.simplefilter("ignore", ConvergenceWarning)
            if self.kind is LinearSVC:
                model = LinearSVC(
                    loss="hinge",
                    tol=1e-5,
                    max_iter=2000,
                    fit_intercept=self.estimator.fit_intercept,
                    intercept_scaling=self.estimator.intercept_scaling,
                    random_state=0,
                )
                model.fit(Z, task.t, sample_weight=task.cost)
                return task.guess(model.decision_function(Z), Z.shape[1] + 1)
            model = SVR(epsilon=self.epsilon)
            if self.kind is SVC:
                model = SVC(random_state=0)  # None would advance the global stream
            model.set_params(tol=1e-5, max_iter=20_000 + 50 * len(Z))
            inputs = task.gram.matrix
            if inputs is None:
                inputs = Z
                model.set_params(**task.gram.kernel.options(), cache_size=500)
            else:
                model.set_params(kernel="precomputed")
            model.fit(inputs, task.t, sample_weight=task.cost)
        beta = np.zeros(len(Z))
        beta[model.support_] = model.dual_coef_[0]
        return task.state_of(beta), beta


class SVMSolution:
    """A solved machine.

    Attributes
    ----------
    X, y : ndarray
        Copies of the training data.
    beta : ndarray of shape (n_samples, k)
        Dual coefficients, one column a score.
    state : ndarray of shape (n_samples, k)
        Even where beta is at a corner of its box, odd where the row is free, -1
        where the row is no part of that score's problem.
    intercept : ndarray of shape (k,)
        With `shift` as the origin: the mean of X where the kernel allows it.
    kkt_residual : float
        By how much the optimality conditions are missed, in units of the targets.
    """

    def __init__(self, learner, X, y, class_weight, costs, kernel, gamma_moves):
        self.learner, self.X, self.y = learner, X, y
        self.class_weight, self.costs = class_weight, costs
        self.kernel, self.gamma_moves = kernel, gamma_moves
        # far from the origin inner products and distances lose digits
        self.shift = X.mean(axis=0) if learner.ignores_shifts else 0.0
        self.Z = X - self.shift
        self.beta = np.zeros(costs.shape)
        self.state = np.full(costs.shape, -1, dtype=np.int8)
        self.intercept = np.zeros(costs.shape[1])
        self.tasks = []  # of each score: its free rows and their factored equations
        self.kkt_residual = 0.0
        self._support = None

    @property
    def support(self):
        """Rows with a coefficient in any score."""
        if self._support is None:
            self._support = np.flatnonzero(self.beta.any(axis=1))
        return self._support

    def add(self, p, rows, found):
        """Enter what was found for one score."""
        self.beta[rows, p], self.state[rows, p] = found.beta, found.state
        self.intercept[p] = found.b
        self.tasks.append((rows[found.margin], found.system))
        self.kkt_residual = max(self.kkt_residual, float(found.residual))

    def scores(self, X):
        """Return the scores, of shape (m, k), at some rows."""
        return self._scores(np.asarray(X, dtype=np.float64) - self.shift)

    def _scores(self, Z):
        rows = self.support
        return self.kernel.sum(Z, self.Z[rows], self.beta[rows]) + self.intercept

    def adjoint(self, X_val, G):
        """Return the derivatives of A, given those by the scores.

        Parameters
        ----------
        X_val : ndarray of shape (m, n_features)
        G : ndarray of shape (m, k)
            dA / dscores at these rows.

        Returns
        -------
        adjoint : SVMAdjoint
        """
        return SVMAdjoint(self, X_val, G)


class SVMAdjoint:
    """Total derivatives of A through the machine that is solved again.

    With S the free rows, M their equations and g = dA/df, one solve gives lambda =
    M^-1 (K(S, V) g, sum g). Then dA is the change of sum_ij W_ij K(a_i, x_j) over the
    rows a of [X_val; S], with W = [g; -lambda] beta', and the adjoint function h(x) =
    K(x, V) g - K(x, S) lambda - lambda_b is the worth of a unit of beta at x.

    Without free rows the intercept is the middle of the interval that the optimality
    conditions leave, as libsvm has it, and moves with the two rows that bound it.
    """

    def __init__(self, solution, X_val, G):
        self.solution = solution
        self.X_val = X_val
        Z_val = np.asarray(X_val, dtype=np.float64) - solution.shift
        G = np.asarray(G, dtype=np.float64)
        self.seen = np.flatnonzero(G.any(axis=1))
        g, Z_val = G[self.seen], Z_val[self.seen]
        n, k = solution.beta.shape
        used = np.zeros(n, dtype=bool)
        for margin, _ in solution.tasks:
            used[margin] = True
        used = np.flatnonzero(used)
        place = np.zeros(n, dtype=np.intp)
        place[used] = np.arange(len(used))
        pull = solution.kernel.sum(solution.Z[used], Z_val, g)
        total = g.sum(axis=0)
        self.multipliers = np.zeros((n, k))
        self.intercept = np.zeros(k)
        for p, (margin, system) in enumerate(solution.tasks):
            if system is None:
                self.multipliers[margin, p] = total[p] / max(len(margin), 1)
            else:
                found, self.intercept[p] = system.solve(
                    pull[place[margin], p], total[p]
                )
                self.multipliers[margin, p] = found
        # the rows a and their weights, by which everything else is computed
        self.left = np.concatenate([Z_val, solution.Z[used]])
        self.left_weights = np.concatenate([g, -self.multipliers[used]])
        self._slope = None

    def rows(self, rows=slice(None)):
        """Return dA/dX of some training rows."""
        solution = self.solution
        rows = np.arange(len(solution.y))[rows]
        Z, beta = solution.Z, solution.beta
        pull_back = solution.kernel.pull_back
        gradient = np.zeros((len(rows), Z.shape[1]))
        of = np.flatnonzero(beta[rows].any(axis=1))
        if len(of):
            at = rows[of]
            gradient[of] = pull_back(Z[at], self.left, beta[at], self.left_weights)
        of = np.flatnonzero(self.multipliers[rows].any(axis=1))
        if len(of):
            at, support = rows[of], solution.support
            gradient[of] += pull_back(
                Z[at], Z[support], -self.multipliers[at], beta[support]
            )
        if solution.gamma_moves:
            # gamma = 1 / (d Var(X)), the variance over all cells
            X, gamma = solution.X, solution.kernel.gamma
            by_cell = -2 * gamma**2 / len(X) * (X[rows] - X.mean())
            gradient += self._gamma_slope() * by_cell
        return gradient

    def _gamma_slope(self):
        if self._slope is None:
            s = self.solution
            self._slope = s.kernel.gamma_slope(
                self.left, s.Z[s.support], self.left_weights, s.beta[s.support]
            )
        return self._slope

    def targets(self, rows=slice(None)):
        """Return dA/dy of some training rows of a regressor."""
        if self.solution.learner.kind is not SVR:
            raise TypeError("the labels of a classifier have no derivative")
        return self.multipliers[rows, 0]

    def weights(self, rows=slice(None)):
        """Return dA/d sample_weight of some training rows, class weights held."""
        solution = self.solution
        rows = np.arange(len(solution.y))[rows]
        state, beta = solution.state[rows], solution.beta[rows]
        # of the rows in the problem only those at C move with it
        outside, at_cost = state < 0, (state % 2 == 0) & (beta != 0)
        of = np.flatnonzero((outside | at_cost).any(axis=1))
        found = np.zeros(len(rows))
        if len(of):
            worth = self._worth(solution.Z[rows[of]], solution.y[rows[of]])
            found[of] = np.where((outside | at_cost)[of], worth, 0.0).sum(axis=1)
        return found

    def validation(self):
        """Return dA/dX_val, through the scores of the rows themselves."""
        solution = self.solution
        found = np.zeros(np.shape(self.X_val))
        n_seen = len(self.seen)
        found[self.seen] = solution.kernel.pull_back(
            self.left[:n_seen],
            solution.Z[solution.support],
            self.left_weights[:n_seen],
            solution.beta[solution.support],
        )
        return found

    def gain(self, X_new, y_new):
        """Return dA/dw at w = 0 of rows that would be added with weight w.

        Class weights, and a gamma that goes by the variance of X, are held.
        """
        Z = np.asarray(X_new, dtype=np.float64) - self.solution.shift
        return self._worth(Z, np.asarray(y_new)).sum(axis=1)

    def _worth(self, Z, y):
        """Return by score what a unit of weight is worth where the loss is not 0."""
        solution = self.solution
        learner = solution.learner
        error = learner.targets(y) - solution._scores(Z)
        costs = learner.costs(y, solution.class_weight)
        if learner.kind is SVR:
            push = np.sign(error) * (np.abs(error) > learner.epsilon)
        else:
            push = learner.targets(y)
            push = push * (push * error > 0)
        h = solution.kernel.sum(Z, self.left, self.left_weights) - self.intercept
        return costs * push * h
