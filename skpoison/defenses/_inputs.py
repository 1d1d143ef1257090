"""What comes in: tables, images and labels, checked alike."""

import numpy as np
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from skpoison.defenses._detectors import _has_text
from skpoison.utils._containers import is_frame
from skpoison.utils._validation import check_given


def check_numbers(estimator, X, **params):
    """Validate numbers, of which images are flattened; `params` as validate_data's."""
    if _has_text(X):
        raise ValueError(
            f"{type(estimator).__name__} takes numbers, got text or other values in X: "
            "encode them first, for example by skpoison.utils.make_table_encoder"
        )
    if getattr(X, "ndim", 2) > 2:
        X = np.asarray(X).reshape(len(X), -1)
    return validate_data(estimator, X, **params)


def check_table(estimator, X, reset, allow_nan=True):
    """Validate images, numbers or tables of any type, which stay as they came."""
    if is_frame(X) or _has_text(X):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X
    finite = "allow-nan" if allow_nan else True
    return validate_data(
        estimator, X, reset=reset, allow_nd=True, ensure_all_finite=finite
    )


def check_labels(estimator, X, y):
    """Return y of two classes or more in one dimension, the classes and the codes."""
    check_given(estimator, y)
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y must hold at least two classes, got one class: {classes.tolist()[0]!r}"
        )
    return y, classes, codes


def check_learner(name, estimator):
    """Raise where a parameter is neither None nor an estimator."""
    is_learner = hasattr(estimator, "fit") and not isinstance(estimator, type)
    if estimator is not None and not is_learner:
        raise TypeError(f"{name} must be an estimator or None, got {estimator!r}")
