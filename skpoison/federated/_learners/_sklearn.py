"""Linear models of scikit-learn that learn by ``partial_fit``."""

import numpy as np
from sklearn.base import clone

from skpoison.federated._clients import stream
from skpoison.federated._learners._base import Learner, cross_entropy


class SklearnLearner(Learner):
    """The coefficients and intercepts of a linear classifier as one vector.

    Parameters
    ----------
    estimator : classifier with ``partial_fit``
    n_features, n_classes : int
    dtype : numpy dtype, default=float32
    """

    def __init__(self, estimator, n_features, n_classes, dtype=np.float32):
        name = type(estimator).__name__
        if not hasattr(estimator, "partial_fit"):
            raise TypeError(
                f"estimator must have partial_fit, so that clients can train in "
                f"rounds, got {name}"
            )
        if getattr(estimator, "average", False):
            raise ValueError(
                f"estimator={estimator!r} averages its own weights: set average=False"
            )
        model = clone(estimator)
        codes = np.arange(n_classes)
        model.partial_fit(
            np.zeros((n_classes, n_features), dtype), codes, classes=codes
        )
        if not hasattr(model, "coef_") or not hasattr(model, "intercept_"):
            raise TypeError(
                f"estimator must be linear, with coef_ and intercept_, got {name}"
            )
        self._coef_shape = model.coef_.shape
        self._n_coef = model.coef_.size
        self._draws = "random_state" in model.get_params(deep=False)
        super().__init__(n_classes, self._n_coef + model.intercept_.size, dtype)
        self.model = model

    def initial_weights(self, seed):
        return np.zeros(self.n_weights, self.dtype)

    def train(self, weights, batches, lr, *, seed=(0,), n_seen=0, extra_loss=None):
        if extra_loss is not None:
            raise ValueError(
                "an attack that trains with a loss of its own needs a torch module or "
                "estimator=None; ModelReplacementAttack has no such loss with alpha=1"
            )
        model = self._load(weights)
        if hasattr(model, "t_"):  # step sizes fall with it
            model.t_ = 1.0 + n_seen
        if self._draws:
            root, *numbers = seed
            model.random_state = int(stream(root, "order", *numbers).integers(2**31))
        X, y = batches[0]
        loss = cross_entropy(self._scores(weights, X.reshape(len(X), -1)), y).mean()
        for X, y in batches:
            model.partial_fit(X.reshape(len(X), -1), y)
        new = np.concatenate([model.coef_.ravel(), model.intercept_])
        return new.astype(self.dtype, copy=False) - weights, float(loss)

    def _load(self, weights):
        coef = weights[: self._n_coef].reshape(self._coef_shape)
        self.model.coef_ = coef.astype(self.dtype)
        self.model.intercept_ = weights[self._n_coef :].astype(self.dtype)
        return self.model

    def _scores(self, weights, X):
        coef = weights[: self._n_coef].reshape(self._coef_shape)
        scores = X @ coef.T + weights[self._n_coef :]
        if self.n_classes > 2:
            return scores
        return np.concatenate([np.zeros_like(scores), scores], axis=1)

    def candidate_logits(self, candidates, X):
        X = X.reshape(len(X), -1)
        return np.stack([self._scores(weights, X) for weights in candidates])

    def _accurate_logits(self, weights, X):
        X = X.reshape(len(X), -1).astype(np.float64)
        return self._scores(weights.astype(np.float64), X)

    def probabilities(self, weights, X):
        """Return the estimator's own probabilities."""
        return self._load(weights).predict_proba(X.reshape(len(X), -1))
