"""What attacks share that differentiate a trained classical model."""

import os
import warnings

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from skpoison.attacks._implicit._objectives import (
    NotDifferentiableError,
    resolve_objective,
)
from skpoison.attacks._implicit._victim import Victim
from skpoison.attacks._store import Store
from skpoison.base import BaseAttack
from skpoison.utils import make_table_encoder, row_keys, set_random_states
from skpoison.utils._containers import (
    as_rows,
    cells_of,
    column_of,
    is_frame,
    is_missing,
)
from skpoison.utils._validation import (
    check_label,
    check_number,
    check_option,
    check_targets,
)

# an SVM that misses its optimum by more is reported
_LARGEST_RESIDUAL = 1e-3


_LOSSES = ["log_loss", "hinge"]


class LearnerAttackMixin(BaseAttack):
    """An attack on a learner whose solution has a gradient.

    Parameters ``estimator, surrogate, jacobian, objective, validation_data, max_iter,
    step_size, random_state, checkpoint`` and, where there are any, ``targets,
    target_labels``.
    """

    targets = None
    target_labels = None
    _hint = ""  # where those go who bring an estimator of the other kind

    def attack_outcomes(self, predict, X, y):
        """Tell, for each trial, whether the attacker got his way.

        With targets a trial is a target, won when it is read as its target label, in
        regression when the prediction is no farther from it than `y_scale_`; without,
        see :meth:`BaseAttack.attack_outcomes`.

        Parameters
        ----------
        predict : callable
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        outcomes : ndarray of bool
        """
        if self.targets is None:
            return super().attack_outcomes(predict, X, y)
        predicted = np.asarray(predict(self.targets_))
        if self._is_regression():
            return np.abs(predicted - self.target_labels_) <= self.y_scale_
        return predicted == self.target_labels_

    def _check_learner_attack(self, table, y):
        """Raise on a bad value of a parameter that these attacks share."""
        check_number("max_iter", self.max_iter, low=0, integer=True)
        check_number("step_size", self.step_size, low=0.0, strict=True)
        if not callable(self.objective):
            losses = ["squared_error"] if self._is_regression() else _LOSSES
            check_option("objective", self.objective, ["auto", *losses])
        for name in ("estimator", "surrogate"):
            self._check_estimator(name, getattr(self, name))
        self._validation(table, y)
        if self.checkpoint is None:
            return
        if not isinstance(self.checkpoint, str | os.PathLike):
            raise TypeError(f"checkpoint must be a folder, got {self.checkpoint!r}")
        if self.random_state is None:
            raise ValueError(
                "checkpoint needs a random_state: without one no two calls are the same"
            )

    def _check_estimator(self, name, estimator):
        if estimator is None:
            return
        if isinstance(estimator, str) and estimator == "victim":
            raise ValueError(
                f"{name}='victim' needs a PoisonedEstimator around the attack"
            )
        if not hasattr(estimator, "fit") or isinstance(estimator, type):
            raise ValueError(
                f"{name} must be an estimator, 'victim' or None, got {estimator!r}"
            )
        wanted = is_regressor if self._is_regression() else is_classifier
        if not wanted(estimator):
            kind = "regressor" if self._is_regression() else "classifier"
            raise ValueError(f"{name} must be a {kind}, got {estimator!r}{self._hint}")

    def _validation(self, table, y):
        """Return the rows and codes that the objective is measured on."""
        if self.targets is not None:
            if self.validation_data is not None:
                raise ValueError(
                    "targets and validation_data exclude each other: the objective is "
                    "measured on the targets"
                )
            return self._targets(table)
        if self.target_labels is not None:
            raise ValueError(
                f"target_labels={self.target_labels!r} needs targets that are to be "
                "read so"
            )
        if self.validation_data is None:
            return None, y
        X_val, y_val = rows_and_labels("validation_data", self.validation_data, table)
        if len(y_val) == 0:
            raise ValueError("validation_data must hold at least one row, got none")
        if self._is_regression():
            return X_val, y_val.astype(float)
        codes = [check_label("validation_data", c, self.classes_) for c in y_val]
        return X_val, np.array(codes)

    def _targets(self, table):
        """Return targets and the codes or numbers they are to be read as."""
        classes = getattr(self, "classes_", None)
        targets = rows_like("targets", self.targets, table)
        numbers, aims = table, targets
        if is_frame(table) or table.dtype.kind not in "fiub":
            numbers, aims = _numbered(table, targets)
        _, labels = check_targets(
            aims, self.target_labels, numbers, row_keys(numbers), classes
        )
        # as the victim takes them: images keep their shape
        self.targets_, self.target_labels_ = as_rows(self.targets), labels
        if classes is None:
            return targets, labels
        codes = [check_label("target_labels", c, classes) for c in labels]
        return targets, np.array(codes)

    def _objective(self, learner):
        """Return the function of scores and y that is to rise."""
        found = resolve_objective(self.objective, learner)
        return _lowered(found) if self.targets is not None else found

    def _make_victim(self, estimator):
        return Victim(
            estimator,
            jacobian=self.jacobian,
            classes=getattr(self, "classes_", None),
        )

    def _default_estimator(self, table):
        last = Ridge() if self._is_regression() else LogisticRegression(max_iter=300)
        return make_pipeline(make_table_encoder(table), last)

    def _default_surrogate(self, table):
        # what bends as trees and neighbours do; SVR would need a scale of y
        last = Ridge() if self._is_regression() else SVC()
        return make_pipeline(make_table_encoder(table), last)

    def _seeded_estimator(self, table, streams):
        """Return a copy of the learner under attack with every seed set."""
        estimator = self.estimator
        if estimator is None:
            estimator = self._default_estimator(table)
        estimator = clone(estimator)
        set_random_states(estimator, streams, only_missing=True)
        return estimator

    def _differentiable(self, estimator, table, streams):
        """Return what is differentiated, and whether it is the estimator itself."""
        if self.surrogate is None:
            try:
                return self._make_victim(estimator), "estimator"
            except NotDifferentiableError:
                surrogate = self._default_surrogate(table)
        else:
            surrogate = clone(self.surrogate)
        set_random_states(surrogate, streams, only_missing=True)
        return self._make_victim(surrogate), "surrogate"

    def _store(self, table, y, streams):
        """Return where the search keeps its state, or raise on another one's."""
        if self.checkpoint is None:
            return Store(None, None)
        same = clone(self).set_params(checkpoint=None, verbose=0, random_state=None)
        return Store(self.checkpoint, (same, streams.root, table, y))

    def _warn_unless_solved(self, problem):
        """Warn when the objective is that of an SVM short of its optimum."""
        if problem.kkt_residual > _LARGEST_RESIDUAL:
            warnings.warn(
                f"{type(self).__name__}: the SVM misses its optimality conditions by "
                f"{problem.kkt_residual:.1g}, so objective_ and gradients are "
                "approximate; scale the features or lower C",
                ConvergenceWarning,
                stacklevel=6,
            )


def _lowered(objective):
    def lowered(scores, y):
        value, gradient = objective(scores, y)
        return -value, -gradient

    return lowered


def as_table(X):
    """Return rows of one dimension each: images flattened, lists as arrays."""
    if is_frame(X):
        return X
    table = np.asarray(X)
    if table.dtype.kind in "SU" and isinstance(X, list):
        table = np.array(X, dtype=object)  # numbers beside text stay numbers
    return table.reshape(len(table), -1) if table.ndim > 2 else table


def rows_like(name, rows, table):
    """Return rows that a parameter holds as a table like X, or raise."""
    rows = as_table(rows)
    if is_frame(table):
        if not is_frame(rows):
            raise TypeError(
                f"{name} must hold a data frame where X is one, got "
                f"{type(rows).__name__}"
            )
        if list(rows.columns) != list(table.columns):
            raise ValueError(
                f"{name} must have the columns of X, {list(table.columns)}, got "
                f"{list(rows.columns)}"
            )
        return rows
    rows = np.asarray(rows)
    if rows.shape[1:] != table.shape[1:]:
        raise ValueError(
            f"{name} must hold rows of shape {table.shape[1:]}, got {rows.shape[1:]}"
        )
    return rows


def in_types_of(table, rows):
    """Return rows with each column in the type that it has in a table."""
    if hasattr(rows, "schema"):  # polars
        return rows.cast(dict(table.schema))
    return rows.astype(table.dtypes if is_frame(table) else table.dtype)


def rows_and_labels(name, pair, table):
    """Return a pair (rows, labels) that a parameter holds, or raise."""
    try:
        rows, labels = pair
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be a pair of rows and their labels, got {pair!r}"
        ) from None
    rows, labels = rows_like(name, rows, table), np.asarray(labels).ravel()
    if rows.shape[0] != len(labels):
        raise ValueError(
            f"{name} must hold one label a row, got {rows.shape[0]} rows and "
            f"{len(labels)} labels"
        )
    return rows, labels


def _numbered(*tables):
    """Return tables with a number for each value, the same for equal cells."""
    numbers: list[dict] = [{} for _ in range(tables[0].shape[1])]

    def number(cell, known):
        return known.setdefault(None if is_missing(cell) else cell, len(known))

    return [
        np.array(
            [
                [number(cell, known) for cell in cells_of(column_of(table, j))]
                for j, known in enumerate(numbers)
            ],
            dtype=float,
        ).T
        for table in tables
    ]
