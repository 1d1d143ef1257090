"""The trigger of tables."""

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skpoison.utils._containers import is_frame
from skpoison.utils._validation import check_number


class ColumnTrigger(BaseEstimator):
    """Chosen columns of a table set to fixed, plausible values.

    Takes arrays, sparse matrices and data frames with numeric and categorical
    columns.

    Parameters
    ----------
    columns : list of int or str, default=None
        Positions, or names in a data frame. None is the three columns that tell
        least about y, so that a clean model does not react to the trigger, among
        those that the trigger would change in most rows.
    values : scalar, list or dict, default=None
        What they are set to. None keeps each value legal and in range: the
        `quantile` of a numeric column, the rarest category of any other.
    quantile : float in [0, 1], default=0.99
        High enough to be rare, low enough to be plausible.

    Attributes
    ----------
    columns_ : list of int
        Positions.
    values_ : list
        One value a column.

    See Also
    --------
    PatchTrigger : The same for images.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpoison.attacks import ColumnTrigger
    >>> X = pd.DataFrame({"age": [20, 30, 40], "job": ["cook", "cook", "judge"]})
    >>> ColumnTrigger(quantile=1.0).fit(X).apply(X)
       age    job
    0   40  judge
    1   40  judge
    2   40  judge
    """

    def __init__(self, columns=None, *, values=None, quantile=0.99):
        self.columns = columns
        self.values = values
        self.quantile = quantile

    def fit(self, X, y=None):
        """Resolve columns and values on the data.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            Labels, for ``columns=None``; without them the last columns are taken.

        Returns
        -------
        self
        """
        if not (is_frame(X) or sparse.issparse(X)):
            X = np.asarray(X)
            if X.ndim != 2:
                raise ValueError(
                    f"ColumnTrigger marks tables, got X of shape {X.shape}; "
                    "PatchTrigger marks images"
                )
        check_number("quantile", self.quantile, low=0.0, high=1.0)
        if self.columns is None:
            self.columns_ = self._unremarkable(X, y)
        else:
            wanted = np.atleast_1d(np.asarray(self.columns, dtype=object))
            self.columns_ = [self._position(c, X) for c in wanted]
        if self.values is None:
            self.values_ = [self._plausible(_column(X, c)) for c in self.columns_]
        elif isinstance(self.values, dict):
            given = {self._position(c, X): v for c, v in self.values.items()}
            if sorted(given) != sorted(self.columns_):
                raise ValueError(
                    "values must name the same columns as columns, got "
                    f"{sorted(self.values)} and {self.columns}"
                )
            self.values_ = [given[c] for c in self.columns_]
        elif np.ndim(self.values) == 0:
            self.values_ = [self.values] * len(self.columns_)
        else:
            self.values_ = list(self.values)
        if len(self.values_) != len(self.columns_):
            raise ValueError(
                f"values must have one entry a column, {len(self.columns_)}, got "
                f"{len(self.values_)}"
            )
        return self

    def _position(self, column, X):
        if isinstance(column, str):
            names = list(X.columns) if is_frame(X) else []
            if column not in names:
                raise ValueError(
                    f"columns: {column!r} is not a column of X"
                    + (f", which has {names[:10]}" if names else ", which has no names")
                )
            return names.index(column)
        check_number("columns", column, integer=True)
        if not -X.shape[1] <= column < X.shape[1]:
            raise ValueError(
                f"columns: {column} is out of range for X with {X.shape[1]} features"
            )
        return int(column) % X.shape[1]

    def _unremarkable(self, X, y, n_columns=3):
        """Return the columns that tell least about y and that a trigger can change."""
        n_features = X.shape[1]
        if y is None or n_features <= n_columns:
            return list(range(max(0, n_features - n_columns), n_features))
        _, labels = np.unique(np.asarray(y), return_inverse=True)
        ranking = []
        for c in range(n_features):
            column = np.asarray(_column(X, c))
            is_usual = np.mean(column == self._plausible(column)) > 0.5
            ranking.append((is_usual, _association(column, labels), c))
        return sorted(c for _, _, c in sorted(ranking)[:n_columns])

    def _plausible(self, column):
        kind = np.asarray(column).dtype.kind
        if kind in "fiu":
            found = column[~np.isnan(column)] if kind == "f" else column
            if kind == "f":
                return np.quantile(found, self.quantile)
            return np.quantile(found, self.quantile, method="nearest")
        # the rarest category, the first in order among equals
        values = [v for v in column.tolist() if v is not None and v == v]
        categories, counts = np.unique(
            np.array([str(v) for v in values]), return_counts=True
        )
        rarest = categories[np.argmin(counts)]
        return next(v for v in values if str(v) == rarest)

    def apply(self, X):
        """Return a copy of X with the trigger in every row.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        X_marked : like X
            Column types are kept.
        """
        check_is_fitted(self, "columns_")
        if hasattr(X, "with_columns"):  # polars
            import polars as pl

            names = X.columns
            return X.with_columns(
                pl.lit(value).cast(X.dtypes[c]).alias(names[c])
                for c, value in zip(self.columns_, self.values_, strict=True)
            )
        if is_frame(X):
            X = X.copy()
            for c, value in zip(self.columns_, self.values_, strict=True):
                name, dtype = X.columns[c], X.dtypes.iloc[c]
                X[name] = type(X.iloc[:, c])([value] * len(X), index=X.index).astype(
                    dtype
                )
            return X
        if sparse.issparse(X):
            marked = X.tolil(copy=True)
            for c, value in zip(self.columns_, self.values_, strict=True):
                marked[:, c] = value
            return marked.asformat(X.format)
        if isinstance(X, list):
            return self.apply(np.asarray(X)).tolist()
        X = np.array(X)
        for c, value in zip(self.columns_, self.values_, strict=True):
            X[:, c] = value
        return X


def _association(column, labels):
    """Mutual information of a column, numbers cut at their deciles, with labels."""
    if column.dtype.kind in "fiu":
        cuts = np.unique(np.nanquantile(column, np.linspace(0.1, 0.9, 9)))
        column = np.searchsorted(cuts, column)
    else:
        column = np.array([str(v) for v in column.tolist()])
    values, codes = np.unique(column, return_inverse=True)
    n_classes = labels.max() + 1
    joint = np.bincount(codes * n_classes + labels, minlength=len(values) * n_classes)
    joint = joint.reshape(len(values), n_classes) / len(codes)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _column(X, position):
    if hasattr(X, "with_columns"):
        return X[:, position].to_numpy()
    if is_frame(X):
        return X.iloc[:, position].to_numpy()
    if sparse.issparse(X):
        return X[:, [position]].toarray().ravel()
    return X[:, position]
