"""Attacks that change labels or the number of rows are samplers."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils import InputTags, RegressorTags
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from skpoison.base._attack import BaseAttack
from skpoison.utils import RandomStreams, n_budget
from skpoison.utils._containers import is_frame, like, numbers_like, take_rows


def _share_index(X, y):
    """Tell whether X and y come from pandas with one index for both."""
    if hasattr(X, "iloc") and hasattr(y, "iloc"):
        return X.index.equals(y.index)
    return False


@dataclass
class _SamplerInputTags(InputTags):
    dataframe: bool = True  # imbalanced-learn's check generator reads it


class SamplerMixin(OneToOneFeatureMixin, BaseAttack):
    """Base of attacks that change labels or the number of rows.

    ``fit_resample(X, y)`` is imbalanced-learn's contract, kept without needing
    imbalanced-learn: in its ``Pipeline`` the attack acts during ``fit`` only. In
    scikit-learn's own containers use
    :class:`~skpoison.compose.PoisonedEstimator`, since a scikit-learn ``Pipeline``
    takes no step that changes y.

    A subclass has ``budget`` and ``random_state``, and writes ``_resample(X, y,
    n_rows, streams)``. It is given X in the caller's container, y encoded as
    0..n_classes-1 and the number of rows it may touch, and returns ``(X, y,
    poison_indices, sample_indices)``, y encoded; an X that does not change is
    returned as the same object.

    In regression y is float64 on the way in and out. The caller gets it back in the
    type that it had, but for integers that an attack replaced by numbers that are not
    whole or that the type can't hold: these come back as float64.

    Notes
    -----
    Data frames with any columns, sparse matrices, missing values and n-dimensional
    arrays are taken and handed back in kind; inputs are never written to.
    """

    _estimator_type = "sampler"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "sampler"
        tags.target_tags.required = True
        tags.input_tags = _SamplerInputTags(
            sparse=True, allow_nan=True, string=True, categorical=True
        )
        if self._is_regression():
            tags.regressor_tags = RegressorTags()
        return tags

    def _check_params(self, X, y):
        """Raise on a bad parameter; y is encoded as 0..n_classes-1."""

    def _resample(self, X, y, n_rows, streams):
        raise TypeError(f"{type(self).__name__} must define _resample")

    def _validate(self, X, y):
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None"
            )
        if is_frame(X):
            validate_data(self, X, y, skip_check_array=True)
            if X.shape[0] == 0 or X.shape[1] == 0:
                raise ValueError(f"X must have rows and columns, got shape {X.shape}")
        else:
            checked = validate_data(
                self,
                X,
                accept_sparse=["csr", "csc"],
                dtype=None,
                ensure_all_finite=False,
                allow_nd=True,
            )
            X = X if isinstance(X, list) else checked
        labels = column_or_1d(y, warn=True)
        if not self._is_regression():
            labels = check_array(labels, ensure_2d=False, dtype=None, input_name="y")
        check_consistent_length(X, labels)
        return X, self._read_targets(labels)

    def fit(self, X, y):
        """Check the input; the attack itself is ``fit_resample``.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        self
        """
        X, encoded = self._validate(X, y)
        n_budget(self.budget, len(encoded))
        self._check_params(X, encoded)
        return self

    def fit_resample(self, X, y):
        """Return the poisoned training set.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
            Class labels; numbers for an attack on regressors.

        Returns
        -------
        X_out, y_out
            In the containers that came in. Rows keep their order; rows are added at
            the end and only by attacks that add rows.
        """
        X, encoded = self._validate(X, y)
        n_rows = n_budget(self.budget, len(encoded))
        self._check_params(X, encoded)
        X_out, y_new, poisons, sources = self._resample(
            X, encoded, n_rows, RandomStreams(self.random_state)
        )
        self.poison_indices_ = np.sort(poisons)
        self.sample_indices_ = sources
        origin = sources[self.poison_indices_]
        given = y_new[self.poison_indices_]
        original = np.where(origin < 0, given, encoded[origin])
        template = y
        if len(sources) != len(encoded):
            rows = y if hasattr(y, "__getitem__") else np.asarray(y)
            template = take_rows(rows, sources)
        if hasattr(template, "reshape") and np.ndim(template) == 2:
            template = np.ravel(template)
        if template is not y and _share_index(X, y):
            template = template.set_axis(X_out.index)
        if self._is_regression():
            self.y_original_ = original
            return X_out, numbers_like(y_new, template)
        self.y_original_ = self.classes_[original]
        return X_out, like(self.classes_[y_new], template)

    def _poison(self, X, y):
        return self.fit_resample(X, y)

    def _unchanged(self, X, y):
        """What a ``_resample`` returns that has nothing to do."""
        return X, y, np.empty(0, dtype=int), np.arange(len(y))
