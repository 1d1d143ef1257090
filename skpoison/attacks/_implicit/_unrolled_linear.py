"""Linear models for gradient descent: a mean loss and its derivatives in numpy."""

from dataclasses import replace

import numpy as np


class LinearModel:
    """A linear estimator without data, as a Learner of `_smooth` has read it."""

    def __init__(self, learner):
        if learner.l1:
            learner.refuse_l1("for gradient descent")
        self.learner = learner

    @property
    def score_kind(self):
        return self.learner.score_kind

    @property
    def objective(self):
        return self.learner.objective

    def problem(self, X, y, weights):
        """Return the problem of training on these rows."""
        rows = self.learner.training_rows(y, weights)
        return LinearProblem(self.learner, X, rows, len(X))


class LinearProblem:
    """The mean loss over some rows (x, 1), plus an l2 penalty.

    Offers what the recursion needs, theta being flat: the mean loss's `gradient` and,
    in ``pull(theta, q)``, the gradient, H q, and the derivatives of ``<q, gradient>``
    by X, y and the weights. The sum of the losses is divided by `n_rows`.
    """

    def __init__(self, learner, X, rows, n_rows):
        self.learner, self.rows, self.n_rows = learner, rows, n_rows
        self.n_features = X.shape[1]
        self.constant = 1.0 if learner.scaling is None else float(learner.scaling)
        self.decay = np.full(self.n_features, learner.l2 / n_rows)
        if learner.estimator.fit_intercept:
            X = np.column_stack([X, np.full(len(X), self.constant)])
            last = 0.0 if learner.scaling is None else learner.l2 / n_rows
            self.decay = np.append(self.decay, last)
        self.X = X
        self.by_unit_weight = rows.by_row / n_rows
        self.factors = rows.c / n_rows
        self.shape = rows.targets.shape[1], X.shape[1]

    def beside(self, X, y):
        """Return the problem of other rows without weight, with this one's constants.

        Their derivatives by weight are those of adding them.
        """
        learner = self.learner
        y = np.asarray(y)
        by_row = learner.row_factors(y, self.rows.factors)
        rows = replace(
            self.rows,
            y=y,
            targets=learner.loss.targets(y, learner.n_classes),
            weights=np.zeros(len(y)),
            by_row=by_row,
            c=0.0 * by_row,
        )
        return LinearProblem(learner, X, rows, self.n_rows)

    @staticmethod
    def numpy(array):
        return array

    def start(self):
        return np.zeros(self.shape[0] * self.shape[1])

    def curvature(self):
        """Return the size of a matrix that bounds the Hessian, and its product."""
        weight = self.learner.loss.bound * self.factors.max(axis=1)

        def product(v):
            return self.X.T @ (weight * (self.X @ v)) + self.decay.max() * v

        return self.shape[1], product

    def _slope(self, W):
        return self.learner.loss.derivatives(self.X @ W.T, self.rows.targets)

    def gradient(self, theta):
        W = theta.reshape(self.shape)
        slope = self.factors * self._slope(W)[0]
        return (slope.T @ self.X + self.decay * W).ravel()

    def pull(self, theta, q):
        W, Q = theta.reshape(self.shape), q.reshape(self.shape)
        along = self.X @ Q.T
        slope, curvature = self._slope(W)
        by_weight = (self.by_unit_weight * slope * along).sum(axis=1)
        by_y = None
        if self.learner.is_regressor:
            by_y = -(self.factors * along)[:, 0]
        slope = self.factors * slope
        bend = self.factors * self.learner.loss.curve(curvature, along)
        gradient = slope.T @ self.X + self.decay * W
        product = bend.T @ self.X + self.decay * Q
        d = self.n_features
        by_X = bend @ W[:, :d] + slope @ Q[:, :d]
        return gradient.ravel(), product.ravel(), by_X, by_y, by_weight

    def by_targets(self, by_y, theta, X_val, G):
        return by_y

    def _split(self, theta):
        W = theta.reshape(self.shape)
        d = self.n_features
        return W[:, :d], self.constant * W[:, d:].sum(axis=1)

    def scores(self, theta, X):
        W, b = self._split(theta)
        return X @ W.T + b

    def pull_scores(self, theta, X_val, G):
        by_W = G.T @ X_val
        if self.shape[1] > self.n_features:
            by_W = np.column_stack([by_W, self.constant * G.sum(axis=0)])
        return by_W.ravel(), G @ self._split(theta)[0]
