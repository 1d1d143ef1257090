"""The trigger of tables."""

import math
import numbers
import warnings
from collections import Counter

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skpoison.utils._containers import is_frame, is_number_type
from skpoison.utils._validation import check_number

_N_RANKED = 500
_DECILES = np.linspace(0.1, 0.9, 9)


class ColumnTrigger(BaseEstimator):
    """Chosen columns of a table set to fixed, plausible values.

    Takes arrays, sparse matrices and data frames with numeric and categorical
    columns.

    Parameters
    ----------
    columns : list of int or str, default=None
        Positions, or names in a data frame. None is the three columns that tell
        least about y, so that a clean model does not react to the trigger, among
        those that hold more than one value. Of a table with more than 500 columns,
        500 that are spread evenly over it are compared.
    values : scalar, list or dict, default=None
        What they are set to; a column's type must be able to hold its value. None
        takes values that the data holds: the `quantile` of a numeric column, the
        rarest category of any other.
    quantile : float in [0, 1], default=0.99
        High enough to be rare, low enough to be plausible. The observed value next to
        it is taken; where more than half of the rows hold that value, as in sparse
        columns, the one next to the same quantile of the other values.

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
            Labels, for ``columns=None``; without them the last columns are taken that
            hold more than one value.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A column can't hold its value, or has no observed value to take one from.

        Warns
        -----
        UserWarning
            The trigger changes fewer than half of the rows of X.
        """
        X = _as_table(X)
        check_number("quantile", self.quantile, low=0.0, high=1.0)
        if self.columns is None:
            self.columns_ = self._unremarkable(X, y)
        else:
            wanted = np.atleast_1d(np.asarray(self.columns, dtype=object))
            self.columns_ = [self._position(c, X) for c in wanted]
        if self.values is None:
            self.values_ = [self._plausible(X, c) for c in self.columns_]
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
        share = self._share_changed(X)
        if share < 0.5:
            warnings.warn(
                f"the trigger sets columns {self.columns_} to {self.values_}, which "
                f"changes {share:.0%} of the rows: most rows hold these values anyway",
                UserWarning,
                stacklevel=2,
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
        if y is None:
            candidates = range(n_features)[: -_N_RANKED - 1 : -1]
        else:
            _, labels = np.unique(np.asarray(y), return_inverse=True)
            spread = np.linspace(0, n_features - 1, min(n_features, _N_RANKED))
            candidates = spread.astype(int).tolist()
        ranking = []
        for place, c in enumerate(candidates):
            values, rows, n_zeros = _observed(X, c)
            told, is_rigid = 0.0, False
            is_empty = len(values) + n_zeros == 0
            if is_empty:
                is_single = True
            elif _is_numeric(values):
                known = np.append(values, 0) if n_zeros else values
                is_single = known.min() == known.max()
                codes, zero_code = _tenths(values, n_zeros)
            else:
                codes, zero_code = _categories(values), 0
                is_single = not codes.any()
            if not is_single:
                counts = np.bincount(codes, minlength=zero_code + 1)
                counts[zero_code] += n_zeros
                # hardly any row differs: what does is too faint or too few to learn
                is_rigid = counts.max() > 0.95 * counts.sum()
            if y is not None and not is_single:
                told = _association(codes, rows, labels, zero_code if n_zeros else None)
            ranking.append((is_empty, is_single, is_rigid, told, place, c))
        best = sorted(ranking)[:n_columns]
        if self.values is None:  # which an empty column has none to offer for
            best = [r for r in best if not r[0]] or best
        return sorted(c for *_, c in best)

    def _plausible(self, X, position):
        values, _, n_zeros = _observed(X, position)
        if len(values) + n_zeros == 0:
            raise ValueError(
                f"columns: {_name(X, position)!r} has no observed value that the "
                "trigger could take; set values"
            )
        if _is_numeric(values):
            ordered = _in_order(values, n_zeros)
            rank = _rank(self.quantile, len(ordered))
            start = np.searchsorted(ordered, ordered[rank])
            n_same = np.searchsorted(ordered, ordered[rank], side="right") - start
            n_others = len(ordered) - n_same
            if 2 * n_same > X.shape[0] and n_others:
                rank = _rank(self.quantile, n_others)
                rank += n_same if rank >= start else 0
            return ordered[rank].item()
        # the rarest category, the first in order among equals
        texts = [str(v) for v in values]
        counts = Counter(texts)
        return values[texts.index(min(sorted(counts), key=lambda text: counts[text]))]

    def _share_changed(self, X):
        """Return the share of rows of X that the trigger changes; check its values."""
        n_rows = X.shape[0]
        is_same = np.ones(n_rows, dtype=bool)
        for c, value in zip(self.columns_, self.values_, strict=True):
            held = _first(_cast(X, c, value))
            values, rows, n_zeros = _observed(X, c)
            same = np.full(n_rows, n_zeros > 0 and held == 0)
            if _is_numeric(values):
                same[rows] = values == held
            else:
                same[rows] = [_is_same(v, held) for v in values]
            is_same &= same
        return 1.0 - is_same.mean() if n_rows else 1.0

    def apply(self, X):
        """Return a copy of X with the trigger in every row.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        X_marked : like X
            Column types are kept.

        Raises
        ------
        ValueError
            A column of X is of a type that can't hold the trigger's value.
        """
        check_is_fitted(self, "columns_")
        if isinstance(X, list):
            return self.apply(_as_table(X)).tolist()
        if not (is_frame(X) or sparse.issparse(X)):
            X = np.asarray(X)
        cells = [
            (c, _cast(X, c, v))
            for c, v in zip(self.columns_, self.values_, strict=True)
        ]
        if _is_polars(X):
            return X.with_columns(
                held.new_from_index(0, X.shape[0]).alias(X.columns[c])
                for c, held in cells
            )
        # few changes of whole columns: cheap in lists of rows, whatever the format
        marked = X.tolil(copy=True) if sparse.issparse(X) else X.copy()
        for c, held in cells:
            if is_frame(X):
                marked.isetitem(c, held.array.take(np.zeros(len(X), dtype=int)))
            else:
                marked[:, c] = held[0]
        return marked.asformat(X.format) if sparse.issparse(X) else marked


def _is_polars(X):
    return hasattr(X, "with_columns")


def _as_table(X):
    """Return X as a frame, a canonical CSC matrix or a two-dimensional array."""
    if is_frame(X):
        return X
    if sparse.issparse(X):
        table = X.tocsc()
        if not table.has_canonical_format:
            table = table.copy()  # the caller's matrix may be in CSC
            table.sum_duplicates()
        return table
    table = np.asarray(X)
    if table.ndim != 2:
        raise ValueError(
            f"ColumnTrigger marks tables, got X of shape {table.shape}; "
            "PatchTrigger marks images"
        )
    if isinstance(X, list) and table.dtype.kind in "US":
        return np.array(X, dtype=object)  # rows of mixed types keep them
    return table


def _column(X, position):
    if _is_polars(X):
        return X.to_series(position)
    return X.iloc[:, position] if is_frame(X) else X[:, position]


def _name(X, position):
    return X.columns[position] if is_frame(X) else position


def _cast(X, position, value):
    """Return one cell that holds `value` in the type of a column, or raise."""
    if is_frame(X):
        column = _column(X, position)
        make, dtype = type(column), column.dtype
    else:
        make, dtype = np.asarray, X.dtype  # type: ignore[assignment]
    try:
        with np.errstate(all="ignore"):
            if _is_polars(X):
                plain = value.item() if isinstance(value, np.generic) else value
                cell = make([plain]).cast(dtype)
            else:
                cell = make([value]).astype(dtype)
        fits = _is_same(_first(cell), value)
    except Exception:  # every library has errors of its own for a cast that fails
        fits = False
    if not fits:
        raise ValueError(
            f"values: column {_name(X, position)!r} of type {dtype} can't hold "
            f"{value!r}"
        )
    return cell


def _first(cell):
    return cell.iloc[0] if hasattr(cell, "iloc") else cell[0]


def _is_same(held, value):
    """Tell whether a cast kept a value, but for the rounding of floats."""
    if _is_missing(held) or _is_missing(value):
        return _is_missing(held) and _is_missing(value)
    if isinstance(held, float | np.floating) and isinstance(value, numbers.Real):
        eps = np.finfo(held.dtype).eps if isinstance(held, np.floating) else 1e-6
        return math.isclose(held, value, rel_tol=eps)
    return bool(held == value)


def _is_missing(value):
    # pandas' NA has no truth value, and pandas need not be installed
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _is_numeric(values):
    return values.dtype.kind in "fiu"


def _observed(X, position):
    """Return what a column holds that is not missing.

    Returns
    -------
    values : ndarray
        Numbers as such, all else as objects.
    rows : ndarray of int
        Theirs.
    n_zeros : int
        Further rows, whose zeros a sparse matrix does not store.
    """
    n_zeros = 0
    if sparse.issparse(X):
        stored = slice(X.indptr[position], X.indptr[position + 1])
        values, rows = X.data[stored], X.indices[stored]
        n_zeros = X.shape[0] - len(rows)
        values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    elif is_frame(X):
        column = _column(X, position)
        if _is_polars(X):
            present, found = column.is_not_null(), column.drop_nulls()
            is_number = is_number_type(column.dtype) and not column.dtype.is_decimal()
        else:
            present, found = column.notna(), column.dropna()
            is_number = is_number_type(column.dtype)
        rows = np.flatnonzero(np.asarray(present, dtype=bool))
        if is_number:
            values = np.asarray(found.to_numpy())
        else:
            items = found if _is_polars(X) else found.astype(object)
            values = np.fromiter(items, dtype=object, count=len(rows))
    else:
        values, rows = np.ascontiguousarray(X[:, position]), np.arange(len(X))
        if not _is_numeric(values):
            # nanosecond dates become bare integers in tolist
            items = values.tolist() if values.dtype.kind in "OUSb" else list(values)
            rows = np.array([i for i in rows if not _is_missing(items[i])], dtype=int)
            values = np.fromiter((items[i] for i in rows), object, count=len(rows))
    if values.dtype.kind == "f":
        is_nan = np.isnan(values)
        if is_nan.any():
            values, rows = values[~is_nan], rows[~is_nan]
    return values, rows, n_zeros


def _in_order(values, n_zeros):
    ordered = np.sort(values)
    if not n_zeros:
        return ordered
    at = np.searchsorted(ordered, 0)
    zeros = np.zeros(n_zeros, dtype=ordered.dtype)
    return np.concatenate([ordered[:at], zeros, ordered[at:]])


def _rank(quantile, n):
    return int(round(quantile * (n - 1)))


def _tenths(values, n_zeros):
    """Return the tenth of its column that each value falls in, and that of zero."""
    codes = np.zeros(len(values), dtype=int)
    # about a thousand values place the cuts well enough, and sorting is what costs
    step = max(1, (len(values) + n_zeros) // 1000)
    ordered = _in_order(values[::step], n_zeros // step)
    cuts = np.unique(ordered[[_rank(q, len(ordered)) for q in _DECILES]])
    for cut in cuts:
        codes += values > cut
    return codes, int((cuts < 0).sum())


def _categories(values):
    index: dict[str, int] = {}
    codes = (index.setdefault(str(v), len(index)) for v in values)
    return np.fromiter(codes, dtype=int, count=len(values))


def _association(codes, rows, labels, rest_code=None):
    """Mutual information of a column with labels.

    `codes` are those of `rows`; all others have `rest_code`, None is one of their own.
    """
    n_classes = labels.max() + 1
    n_codes = codes.max(initial=rest_code or 0) + 2
    joint = np.bincount(codes * n_classes + labels[rows], minlength=n_codes * n_classes)
    joint = joint.reshape(n_codes, n_classes)
    rest = np.bincount(labels, minlength=n_classes) - joint.sum(axis=0)
    joint[-1 if rest_code is None else rest_code] += rest
    share = joint / len(labels)
    independent = share.sum(axis=1, keepdims=True) * share.sum(axis=0)
    seen = share > 0
    return float((share[seen] * np.log(share[seen] / independent[seen])).sum())
