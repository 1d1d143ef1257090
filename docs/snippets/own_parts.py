"""Attacks of each kind, a trigger and a detector, as `extending` shows them."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing

from skpoison.base import PerturbationMixin, SamplerMixin
from skpoison.defenses import BaseDetector


# [perturbation]
class ShiftAttack(PerturbationMixin, BaseEstimator):
    """Push rows towards the mean of the next class; labels stay right."""

    def __init__(self, budget=0.1, *, eps=0.1, random_state=None):
        self.budget = budget
        self.eps = eps
        self.random_state = random_state

    def _check_params(self, X, y):
        if self.eps < 0:
            raise ValueError(f"eps must be >= 0, got {self.eps!r}")

    def _craft(self, X, y, rows, streams):
        n_classes = len(self.classes_)
        means = np.stack([X[y == c].mean(axis=0) for c in range(n_classes)])
        towards = means[(y[rows] + 1) % n_classes] - X[rows].astype(float)
        return np.clip(towards, -self.eps, self.eps)


# [sampler]
class EchoAttack(SamplerMixin, BaseEstimator):
    """Append copies of random rows with the label of the next class."""

    def __init__(self, budget=0.1, *, random_state=None):
        self.budget = budget
        self.random_state = random_state

    def _resample(self, X, y, n_rows, streams):
        if n_rows == 0:
            return self._unchanged(X, y)
        sources = streams.numpy("rows").permutation(len(y))[:n_rows]
        origin = np.concatenate([np.arange(len(y)), sources])
        labels = np.concatenate([y, (y[sources] + 1) % len(self.classes_)])
        poisons = np.arange(len(y), len(labels))
        return _safe_indexing(X, origin), labels, poisons, origin


# [regression]
class MirrorAttack(SamplerMixin, BaseEstimator):
    """Mirror the numbers y of random rows in their range."""

    def __init__(self, budget=0.1, *, random_state=None):
        self.budget = budget
        self.random_state = random_state

    def _is_regression(self):
        return True

    def _resample(self, X, y, n_rows, streams):
        rows = streams.numpy("rows").permutation(len(y))[:n_rows]
        mirrored = y.copy()
        mirrored[rows] = y.min() + y.max() - y[rows]
        return X, mirrored, rows, np.arange(len(y))


# [trigger]
class FrameTrigger(BaseEstimator):
    """Set the outermost pixels of images (n, C, H, W) to the brightest value."""

    def fit(self, X, y=None):
        self.value_ = np.asarray(X).max()
        return self

    def apply(self, X):
        X = np.array(X)
        X[..., [0, -1], :] = self.value_
        X[..., [0, -1]] = self.value_
        return X


# [detector]
class NeighbourVote(BaseDetector):
    """Distrust a row when most of its neighbours have another label."""

    def __init__(self, n_neighbors=10):
        self.n_neighbors = n_neighbors

    def _score(self, X, y):
        n_neighbors = max(1, min(self.n_neighbors, len(X) - 1))
        search = NearestNeighbors(n_neighbors=n_neighbors).fit(X)
        neighbours = search.kneighbors(return_distance=False)  # never the row itself
        return (y[neighbours] != y[:, None]).mean(axis=1)

    def _flag(self, scores, y):
        return scores > 0.5


# [end]
