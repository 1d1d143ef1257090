"""What detectors share that judge rows by what a model makes of them."""

import math
import warnings
from numbers import Integral

import numpy as np
from scipy.linalg import eigh, qr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.defenses._detectors import BaseDetector
from skpoison.defenses._feature_blocks import CentredTiles
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._containers import as_rows
from skpoison.utils._rows import keep_every_class
from skpoison.utils._validation import check_number

_WHOLE_VALUES = 2**23  # of a class that are copied at once, 64 MiB
_LARGEST = 1e30  # of a feature: sums in float32 and squares in float64 stay finite


def is_fitted(estimator):
    """Tell whether an estimator was fitted."""
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        return False
    return True


def trained(estimator, X, y, streams):
    """Return a fitted estimator: the one given if it is, or a clone trained on X, y.

    Parameters
    ----------
    estimator : estimator or None
        None is ``TorchClassifier()``. What is fitted, or in a ``FrozenEstimator``, is
        returned as it is, not a copy.
    X, y : array-like
    streams : RandomStreams
        Seeds the ``random_state`` parameters that are None.
    """
    if estimator is None:
        from skpoison.models import TorchClassifier

        estimator = TorchClassifier()
    if is_fitted(estimator):
        return estimator
    estimator = clone(estimator)
    set_random_states(estimator, streams, only_missing=True)
    return estimator.fit(X, y)


def n_expected(expected_poison, factor, n_samples):
    """Return the rows that a multiple of the expected poisons comes to, floored.

    Parameters
    ----------
    expected_poison : int or float
        A count, or a share of all rows.
    factor : float
    n_samples : int

    Returns
    -------
    n_rows : int
        At most `n_samples`.
    """
    is_count = isinstance(expected_poison, Integral)
    n_poison = expected_poison if is_count else expected_poison * n_samples
    return min(math.floor(round(factor * n_poison, 9)), n_samples)


def check_expected(expected_poison):
    """Check the parameter of that name: a count or a share."""
    is_count = isinstance(expected_poison, Integral)
    high = None if is_count else 1.0
    check_number("expected_poison", expected_poison, low=0, high=high)


def check_flags(**flags):
    """Check that parameters are True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def centred(F, rows, dtype=None):
    """Return some rows of features minus their mean, exactly 0 where all are equal.

    In `dtype`; None is that of F, and float64 for integers.
    """
    if dtype is None:
        dtype = F.dtype if F.dtype.kind == "f" else np.float64
    M = F[rows].astype(dtype, copy=False)  # the only copy: fresh memory is slow
    M -= F[rows[0]]
    M -= M.mean(axis=0)
    return M


def class_projections(F, rows, n_components, generator=None, dtype=None):
    """Project some rows of features on their top right singular vectors.

    Parameters
    ----------
    F : ndarray of shape (n_samples, n_values)
        May be on disk: what is large is read block by block.
    rows : ndarray of int
    n_components, generator : int, RandomState
        See `principal_projections`.
    dtype : dtype, default=None
        See `centred`.

    Returns
    -------
    projections : ndarray of shape (len(rows), n_found)
    """
    if len(rows) * F.shape[1] <= _WHOLE_VALUES:
        return principal_projections(centred(F, rows, dtype), n_components, generator)
    tiles = CentredTiles(F, rows)
    if tiles.scale == 0:
        return np.zeros((len(rows), 0))
    gram = tiles.gram(np.float64 if generator is None else np.float32)
    values, vectors = _leading(gram, n_components, generator)
    if len(rows) >= F.shape[1]:
        return tiles.project(vectors)
    return vectors * np.sqrt(values) * np.float64(tiles.scale)


def principal_projections(M, n_components, generator=None):
    """Project centred features on their top right singular vectors.

    Parameters
    ----------
    M : ndarray of shape (n_samples, n_values)
    n_components : int
    generator : RandomState, default=None
        None is exact, by the eigenvectors of the smaller Gram matrix. Otherwise they
        are found in single precision, and those of a large Gram matrix in the span of
        a few vectors more than are wanted, by power iterations from a random start.

    Returns
    -------
    projections : ndarray of shape (n_samples, n_found)
        The largest first; fewer than `n_components` where the rank of M is lower.
    """
    scale = max(M.max(), -M.min())
    if scale == 0:
        return M[:, :0]
    dtype = np.float64 if generator is None else np.float32
    M = np.divide(M, scale, dtype=dtype, casting="same_kind")
    is_tall = len(M) >= M.shape[1]
    gram = M.T @ M if is_tall else M @ M.T
    values, vectors = _leading(gram, n_components, generator)
    projections = M @ vectors if is_tall else vectors * np.sqrt(values)
    return projections * np.float64(scale)


def _leading(gram, n_components, generator):
    """Return the largest eigenvalues of a Gram matrix above 0, and their vectors."""
    dtype = gram.dtype
    is_quick = generator is not None and len(gram) > 10 * (n_components + 10)
    smallest = len(gram) * np.finfo(dtype).eps  # of the largest eigenvalue
    if is_quick:
        basis = generator.standard_normal((len(gram), n_components + 10)).astype(dtype)
        for _ in range(4):
            basis, _ = qr(gram @ basis, mode="economic", check_finite=False)
        gram = basis.T @ gram @ basis
    wanted = [max(0, len(gram) - n_components), len(gram) - 1]
    values, vectors = eigh(
        gram.astype(np.float64), subset_by_index=wanted, check_finite=False
    )
    found = values > values[-1] * smallest
    values, vectors = values[found][::-1], vectors[:, found][:, ::-1].astype(dtype)
    return values, basis @ vectors if is_quick else vectors


def spare_one(suspects, scores, y):
    """Clear the least suspicious row of each class of which all rows are suspects."""
    return ~keep_every_class(~suspects, y, scores, n_keep=1, quiet=True)


def warn_not_judged(classes, reason):
    """Warn, from a detector's ``_score_features``, of classes left as they are."""
    if len(classes):
        warnings.warn(
            f"classes with {reason} are not judged, their rows get score 0: {classes}",
            UserWarning,
            stacklevel=6,
        )


class FeatureDetector(BaseDetector):
    """Base of detectors that judge rows by what a model makes of them.

    A subclass has the parameters ``estimator``, ``features`` and ``random_state``, and
    writes ``_score_features(F, y)``, which takes finite features of shape (n_samples,
    n_values), float64, and encoded labels and returns one score a row, and ``_flag``,
    as any detector does. One that looks at X and features together writes ``_score``
    and calls ``_finite_features``. Checks of its own parameters go into
    ``_check_parameters``, those that need ``classes_`` into ``_check_classes``: both
    come before training.
    """

    #: Whether ``_score_features`` takes numbers of any type, and writes to no features.
    _takes_numbers = False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X, y):
        """Score every row of a training set.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training data, tables or images; with an `estimator`, whatever that takes.
        y : array-like of shape (n_samples,)
            Labels, of any kind that scikit-learn's classifiers take.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        return self._fit(X, y)

    def _check_parameters(self):
        features = self.features
        if callable(features):
            return
        if not isinstance(features, str):
            shape = np.shape(features)
            if len(shape) != 2 or np.asarray(features).dtype.kind not in "fiu":
                raise ValueError(
                    "features must be 'auto', 'input', the name of a layer, a callable "
                    f"or an array of shape (n_samples, n_values), got {features!r}"
                )
        elif features != "input" and self.estimator is not None:
            from skpoison.models._features import check_network

            check_network(self.estimator)

    def _check_classes(self):
        """Check what can only be checked once the labels are known."""

    def _check_X(self, X):
        if self.estimator is not None:  # it says itself what it can't take
            validate_data(self, X, skip_check_array=True)
            return as_rows(X)
        return validate_data(self, X, allow_nd=True)

    def _score(self, X, y):  # type: ignore[override]
        return self._score_features(self._finite_features(X, y), y)

    def _finite_features(self, X, y):
        self._check_classes()
        F = np.asarray(self._features(X, y))
        if F.ndim < 2 or len(F) != len(y) or F.size == 0:
            raise ValueError(
                f"features must have shape (n_samples={len(y)}, n_values), got "
                f"{F.shape}"
            )
        F = F.reshape(len(F), -1)
        whole = F.dtype.kind in "iu" or F.dtype in (np.float32, np.float64)
        if not (self._takes_numbers and whole):
            F = F.astype(np.float64)
        # NaN is not smaller either
        largest = np.maximum(F.max(axis=0), -F.min(axis=0).astype(np.float64))
        lost = ~(largest < _LARGEST)
        if lost.any():
            warnings.warn(
                f"{lost.sum()} of {len(lost)} features are not finite, or larger than "
                f"{_LARGEST:g}, and are left out",
                UserWarning,
                stacklevel=5,
            )
            F = F[:, ~lost] if not lost.all() else np.zeros((len(F), 1))
        return F

    def _features(self, X, y):
        if callable(self.features):
            return self.features(X)
        if not isinstance(self.features, str):
            return self.features
        if self.features == "input":
            return np.asarray(X)
        from skpoison.models import extract_features

        # the caller's labels, and not their codes, to an estimator of his
        labels = self.classes_[y]
        streams = RandomStreams(self.random_state)
        self.estimator_ = trained(self.estimator, X, labels, streams)
        layer = None if self.features == "auto" else self.features
        return extract_features(self.estimator_, X, layer)

    def _score_features(self, F, y):
        """Return one score a row, larger for more suspicious."""
        raise TypeError(f"{type(self).__name__} must define _score_features or _score")
