"""Cells and columns of whatever a step takes, and categories put into them."""

import warnings
from functools import cached_property

import numpy as np
from scipy import sparse

from skpoison.utils._containers import _is_polars, as_rows, is_frame, take_rows

_MISSING = ("None", "nan", "NaN", "NaT", "<NA>")


def is_missing(value):
    """Tell whether a cell holds no value; None, NaN and pandas' NA are the same."""
    return not isinstance(value, str) and str(value) in _MISSING


def transform(step, X):
    """Transform a copy of X in silence; X stays also for steps with ``copy=False``."""
    if _is_polars(X):
        X = X.clone()
    elif hasattr(X, "copy"):
        X = X.copy()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return step.transform(X)


def plain(X):
    """Return X as a dense array, of objects where it does not hold numbers only."""
    X = X.toarray() if sparse.issparse(X) else np.asarray(X)
    return X if X.dtype.kind in "fiub" else X.astype(object)


def to_numbers(cells):
    """Return cells as floats, NaN for missing ones, or None if they are no numbers."""
    cells = np.asarray(cells)
    if cells.dtype.kind in "mM":
        return None
    try:
        return cells.astype(float)
    except (TypeError, ValueError):
        cells = cells.astype(object)
    missing = [is_missing(value) for value in cells]
    if not any(missing):
        return None
    cells[missing] = np.nan
    try:
        return cells.astype(float)
    except (TypeError, ValueError):
        return None


def _column(X, j):
    if hasattr(X, "iloc"):
        return X.iloc[:, j].to_numpy()
    if _is_polars(X):
        return X.to_series(j).to_numpy()
    return X[:, [j]].toarray()[:, 0] if sparse.issparse(X) else X[:, j]


def numbers(X):
    """Return X as floats, and which of its columns hold numbers; the others are NaN."""
    if sparse.issparse(X):
        X = X.toarray()
    if is_frame(X) or X.dtype.kind not in "fiub":
        columns = [to_numbers(_column(X, j)) for j in range(X.shape[1])]
        is_number = np.array([column is not None for column in columns], dtype=bool)
        values = np.full(X.shape, np.nan)
        for j in np.flatnonzero(is_number):
            values[:, j] = columns[j]
        return values, is_number
    return X.astype(float, copy=False), np.ones(X.shape[1], dtype=bool)


def cells_of(values):
    """Return values, of any types, as an array of objects."""
    cells = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        cells[i] = value.item() if isinstance(value, np.generic) else value
    return cells


def put_column(X, j, values):
    """Return a copy of X with another column j, in the column's type if that fits."""
    if _is_polars(X):
        import polars as pl

        name, dtype = X.columns[j], X.dtypes[j]
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
            series = pl.Series(name, values)
        else:
            cells = [None if is_missing(value) else value for value in cells_of(values)]
            series = pl.Series(name, cells, dtype=dtype, strict=False)
        return X.clone().replace_column(j, series)
    if is_frame(X):
        import pandas as pd

        column = pd.Series(values, index=X.index)
        try:
            typed = column.astype(X.dtypes.iloc[j])
            if typed.isna().equals(column.isna()) and np.array_equal(
                typed.dropna().astype(object), column.dropna().astype(object)
            ):
                column = typed
        except (TypeError, ValueError):
            pass
        X = X.copy()
        X.isetitem(j, column)
        return X
    if sparse.issparse(X):
        return type(X)(put_column(X.toarray(), j, values))
    dtype = X.dtype
    if dtype.kind in "fiub":
        values = [np.nan if value is None else value for value in values]
        dtype = np.result_type(dtype, np.asarray(values).dtype)
    X = X.astype(dtype if dtype.kind in "fiub" else object)
    X[:, j] = values if X.dtype.kind in "fiub" else cells_of(values)
    return X


class Rows:
    """The rows that a step is given, made when they are first looked at.

    Parameters
    ----------
    make, make_head : callable
        Return all rows, and the first two of them, in the step's own container.
    """

    def __init__(self, make, make_head):
        self._make = make
        self._make_head = make_head

    @classmethod
    def of(cls, X):
        X = as_rows(X)
        if isinstance(X, list):  # of rows, whose cells keep their types
            found = np.asarray(X)
            X = found if found.dtype.kind in "fiub" else np.asarray(X, dtype=object)
        head = np.arange(min(2, X.shape[0]))
        return cls(lambda: X, lambda: take_rows(X, head))

    @cached_property
    def all(self):
        return self._make()

    @cached_property
    def head(self):
        return self._make_head()

    @cached_property
    def numbers(self):
        return numbers(self.all)

    @property
    def n_columns(self):
        return self.head.shape[1]

    def columns(self, positions):
        return Rows(
            lambda: take_rows(self.all, positions, axis=1),
            lambda: take_rows(self.head, positions, axis=1),
        )

    def after(self, step):
        if step is None or isinstance(step, str):
            return self
        return Rows(
            lambda: as_rows(transform(step, self.all)),
            lambda: as_rows(transform(step, self.head)),
        )


class Table:
    """What a step makes of one row while one cell of it goes through its categories.

    Attributes
    ----------
    cells : ndarray of shape (n_categories, n_outputs)
    refused : ndarray of shape (n_categories,)
        Categories that the step raises an error for.
    varying : ndarray of int
        The outputs that depend on the cell.
    """

    def __init__(self, cells, refused):
        self.cells = cells
        self.refused = refused
        known = cells[~refused]
        if known.dtype == object:
            # NaN is not equal to itself
            known = np.frompyfunc(lambda v: None if is_missing(v) else v, 1, 1)(known)
            varies = known != known[:1]
        else:
            varies = ~((known == known[:1]) | (np.isnan(known) & np.isnan(known[:1])))
        self.varying = np.flatnonzero(np.any(varies.astype(bool), axis=0))

    @cached_property
    def values(self):
        """The varying outputs as floats, or None where they are text."""
        found = to_numbers(self.cells[:, self.varying].ravel())
        text = any(isinstance(v, str) for v in self.cells[:, self.varying].flat)
        if found is None or text:
            return None
        return found.reshape(len(self.cells), len(self.varying))

    @property
    def is_text(self):
        return self.values is None

    def agrees(self, other):
        """Tell whether another row around the cell makes no difference."""
        if not np.array_equal(self.varying, other.varying):
            return False
        here, there = (
            [[str(v) for v in row] for row in t.cells[:, t.varying]]
            for t in (self, other)
        )
        return here == there


def tabulate(step, head, categories, row=0):
    """Return a :class:`Table` for each column in `categories`, around a row of head."""
    if not categories:
        return {}
    row = min(row, head.shape[0] - 1)
    counts = [len(values) for values in categories.values()]
    stops = np.cumsum(counts)
    stacked = take_rows(head, np.full(stops[-1], row))
    for (j, values), stop in zip(categories.items(), stops, strict=True):
        cells = cells_of(_column(stacked, j))
        cells[stop - len(values) : stop] = cells_of(values)
        stacked = put_column(stacked, j, cells.tolist())
    refused = np.zeros(stops[-1], dtype=bool)
    try:
        out = plain(transform(step, stacked))
    except ValueError:
        base = plain(transform(step, take_rows(head, [row])))
        out = np.repeat(base, len(refused), axis=0)
        for i in range(len(refused)):
            try:
                out[i] = plain(transform(step, take_rows(stacked, [i])))[0]
            except ValueError:
                refused[i] = True
    return {
        j: Table(out[stop - count : stop], refused[stop - count : stop])
        for j, count, stop in zip(categories, counts, stops, strict=True)
    }


def substitute(step, rows, j, values, G):
    """Return what G says of the outputs of all rows with each value in column j.

    NaN for a value that the step refuses.
    """
    gains = np.full((len(G), len(values)), np.nan)
    for k, value in enumerate(values):
        try:
            Z = transform(step, put_column(rows.all, j, [value] * len(G)))
        except ValueError:  # refused
            continue
        gains[:, k] = np.sum(np.where(G == 0, 0.0, G * numbers(plain(Z))[0]), axis=1)
    return gains


def slopes(step, rows, categories, G):
    """Pull back by central differences, all rows of a column at once."""
    G_in = np.zeros((len(G), rows.n_columns))
    if not G.any():
        return G_in
    X, is_number = rows.numbers

    def output(j, column):
        return numbers(plain(transform(step, put_column(rows.all, j, column))))[0]

    for j in np.setdiff1d(np.flatnonzero(is_number), list(categories)).tolist():
        column = X[:, j]
        kind = plain(take_rows(rows.all, [j], axis=1)).dtype.kind
        if kind == "b":
            true = np.ones(len(G), dtype=bool)
            change = output(j, true) - output(j, ~true)
        elif kind in "iu":
            whole = column.astype(int)
            change = (output(j, whole + 1) - output(j, whole - 1)) / 2
        else:
            seen = column[~np.isnan(column)]
            if len(seen) == 0:
                continue
            spread = seen.std() or np.abs(seen).max() or 1.0
            h = np.cbrt(np.finfo(float).eps) * spread
            up, down = column + h, column - h
            here = output(j, column)
            change = _slope(column, here, up, output(j, up), down, output(j, down))
        G_in[:, j] = np.sum(G * np.nan_to_num(change), axis=1)
    return G_in


def _slope(x, here, up, above, down, below):
    """Return the slope at x of columns of outputs, from the values on both sides."""
    with np.errstate(all="ignore"):
        ahead = (above - here) / (up - x)[:, None]
        behind = (here - below) / (x - down)[:, None]
        # at a jump or a kink one side is right: the flatter one
        jump = np.abs(ahead - behind) > 0.5 * (np.abs(ahead) + np.abs(behind))
        flatter = np.where(np.abs(ahead) < np.abs(behind), ahead, behind)
        return np.where(jump, flatter, (ahead + behind) / 2)
