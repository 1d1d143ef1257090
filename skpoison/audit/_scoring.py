"""Which scores of a regressor damage can be read from."""

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import check_scoring

NO_SHARE = (
    "scoring must be 1 for perfect predictions and never more, as r2, "
    "explained_variance or d2_absolute_error_score are, since damage is measured in "
    "it; {}"
)


class _Oracle(RegressorMixin, BaseEstimator):
    """Predicts what it is given to predict from."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]

    def __sklearn_is_fitted__(self):
        return True


def check_best_score(scoring, y):
    """Raise unless perfect predictions of a regressor score 1, as R2 gives them.

    Errors and their negatives have the unit of y: no damage can be read from them.
    """
    try:
        scorer = check_scoring(_Oracle(), scoring)
        best = float(scorer(_Oracle(), y[:, None], y))
    except Exception as error:
        if callable(scoring):  # it may look at more than predictions
            return
        raise ValueError(
            f"scoring={scoring!r} can't score a regressor on this y: {error}"
        ) from error
    if not np.isclose(best, 1):
        raise ValueError(NO_SHARE.format(f"perfect predictions score {best:g}"))
