"""Rows in and rows out, in the container that the caller brought."""

from numbers import Integral, Real

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing as take_rows

__all__ = [
    "append_rows",
    "as_rows",
    "cells_of",
    "column_of",
    "flat_numeric",
    "is_frame",
    "is_missing",
    "is_number_type",
    "like",
    "number_type",
    "numbers_like",
    "numbers_of",
    "put_cells",
    "put_in_columns",
    "put_rows",
    "take_rows",
]


def is_frame(X):
    """Tell whether X is a data frame (pandas or polars)."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def is_number_type(dtype):
    """Tell whether a column type of pandas or polars holds numbers; bool does not."""
    if hasattr(dtype, "is_numeric"):  # polars
        return dtype.is_numeric()
    dtype = getattr(dtype, "subtype", dtype)  # pandas' sparse columns
    return getattr(dtype, "kind", "O") in "fiu"


def as_rows(X):
    """Return X as a container whose rows can be taken."""
    if is_frame(X) or hasattr(X, "iloc") or isinstance(X, list | np.ndarray):
        return X
    return X.tocsr() if sparse.issparse(X) else np.asarray(X)


def _is_polars(X):
    return type(X).__module__.partition(".")[0] == "polars"


def append_rows(X, rows):
    """Put `rows` below X; both are of one container."""
    if sparse.issparse(X):
        return sparse.vstack([X, rows], format=X.format)
    if _is_polars(X):
        return X.vstack(rows)
    if is_frame(X):
        import pandas as pd

        return pd.concat([X, rows])
    if isinstance(X, list):
        return X + list(rows)
    return np.concatenate([X, rows])


def put_rows(X, positions, rows):
    """Return a copy of X in which `rows` stand at `positions`."""
    if isinstance(X, np.ndarray) and X.dtype == rows.dtype:
        X = X.copy()
        X[positions] = rows
        return X
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
    source = np.arange(n_samples)
    source[positions] = n_samples + np.arange(len(positions))
    return take_rows(append_rows(X, rows), source)


def put_cells(X, before, after):
    """Return a copy of a data frame with the columns that changed replaced.

    `before` and `after` are X as an array, without and with the change. Columns that
    did not change keep their type, floats theirs too; others become float64.
    """
    X_out = X.clone() if _is_polars(X) else X.copy()
    for j in np.flatnonzero((before != after).any(axis=0)):
        column = after[:, j]
        if _is_polars(X):
            import polars as pl

            dtype = X.dtypes[j] if X.dtypes[j].is_float() else pl.Float64
            X_out.replace_column(int(j), pl.Series(X.columns[j], column, dtype=dtype))
        else:
            dtype = X.dtypes.iloc[j]
            X_out.isetitem(j, column.astype(dtype if dtype.kind == "f" else float))
    return X_out


def column_of(X, position):
    """Return one column of a data frame or an array."""
    if _is_polars(X):
        return X.to_series(position)
    return X.iloc[:, position] if is_frame(X) else X[:, position]


def cells_of(column):
    """Return what a column holds as a list of Python objects."""
    return column.to_list() if hasattr(column, "to_list") else column.tolist()


def is_missing(cell):
    """Tell whether a cell of a table is empty: None, NaN, NaT or pandas' NA."""
    # NA has no truth value, and pandas need not be installed
    return cell is None or type(cell).__name__ == "NAType" or bool(cell != cell)


def number_type(column):
    """Return the NumPy type of the numbers or truth values in a column, else None."""
    dtype = column.dtype
    if isinstance(column, np.ndarray) and dtype.kind == "O":
        cells = [cell for cell in column.tolist() if not is_missing(cell)]
        n_bool = sum(isinstance(cell, bool | np.bool_) for cell in cells)
        if n_bool:
            return np.dtype(bool) if n_bool == len(cells) else None
        if cells and all(isinstance(cell, Integral) for cell in cells):
            return np.dtype(np.int64)
        is_number = all(isinstance(cell, Real) for cell in cells)
        return np.dtype(np.float64) if is_number else None
    if hasattr(dtype, "is_numeric"):  # polars; its decimals are no floats
        if dtype.is_float() or dtype.is_integer():
            return type(column)("", [0], dtype=dtype).to_numpy().dtype
        return np.dtype(bool) if str(dtype) == "Boolean" else None
    if hasattr(dtype, "fill_value"):  # pandas' sparse columns
        dtype = dtype.subtype
    dtype = getattr(dtype, "numpy_dtype", dtype)  # its nullable and Arrow columns
    return dtype if getattr(dtype, "kind", "O") in "fiub" else None


def numbers_of(X, position):
    """Return a column of numbers as float64 with NaN for empty cells."""
    column = column_of(X, position)
    if _is_polars(X):
        import polars as pl

        return column.cast(pl.Float64).to_numpy()
    if is_frame(X):
        if hasattr(column.dtype, "fill_value"):
            column = column.sparse.to_dense()
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if column.dtype.kind == "O":
        return np.array([np.nan if is_missing(c) else float(c) for c in column])
    return column.astype(np.float64)


def put_in_columns(X, changes):
    """Return a copy of X with some cells of some columns replaced.

    Parameters
    ----------
    X : ndarray or data frame of shape (n_samples, n_features)
    changes : dict of int to (mask, values)
        By position of the column: which cells, and a whole column that holds their
        values, in the column's own type or as an ndarray of its NumPy type.
    """
    if _is_polars(X):
        import polars as pl

        columns = []
        for j, (mask, values) in changes.items():
            held = X.to_series(j)
            if isinstance(values, np.ndarray):
                values = pl.Series(held.name, values, dtype=held.dtype)
            columns.append(held.zip_with(pl.Series(~mask), values))
        return X.with_columns(columns)
    X_out = X.copy()
    for j, (mask, values) in changes.items():
        if not is_frame(X):
            X_out[mask, j] = values[mask]
            continue
        array = X.iloc[:, j].array
        if hasattr(array.dtype, "fill_value"):  # sparse: takes no assignment
            dense = np.array(array)
            dense[mask] = values[mask]
            array = type(array)(dense, dtype=array.dtype)
        else:
            array = array.copy()
            array[mask] = values[mask]
        X_out.isetitem(j, array)
    return X_out


def like(values, template):
    """Give an ndarray of labels or a matrix the container of `template`.

    Rows must be those of `template`, in order: index and names carry over.
    """
    if isinstance(template, list):
        return values.tolist()
    if _is_polars(template):
        import polars as pl

        if is_frame(template):
            # as many rows as columns: polars would guess which are which
            return pl.DataFrame(values, schema=template.columns, orient="row")
        return pl.Series(template.name, values.tolist(), dtype=template.dtype)
    if is_frame(template):
        import pandas as pd

        return pd.DataFrame(values, index=template.index, columns=template.columns)
    if hasattr(template, "iloc"):
        import pandas as pd

        return pd.Series(
            values, index=template.index, name=template.name, dtype=template.dtype
        )
    return values


def numbers_like(values, template):
    """Give float64 numbers the container of `template`, and its type if it holds them.

    Integers stay integers if all are whole and in range, and become float64 otherwise.
    """
    column = template
    if is_frame(template):
        column = column_of(template, 0)
    elif not hasattr(template, "dtype"):
        column = np.asarray(template)
    dtype = number_type(column)
    if dtype is not None and dtype.kind in "iu":
        is_whole = (values == np.rint(values)).all()
        limits = np.iinfo(dtype)
        fits = is_whole and limits.min <= values.min() <= values.max() <= limits.max
        dtype = dtype if fits else None
    elif dtype is not None and dtype.kind == "b":
        dtype = None
    if dtype is not None:
        return like(values.astype(dtype), template)
    if is_frame(template) or isinstance(template, list | np.ndarray):
        return like(values, template)
    if _is_polars(template):
        import polars as pl

        return like(values, template.cast(pl.Float64))
    return like(values, template.astype(np.float64))


def flat_numeric(X):
    """Return X as a matrix of floats that a surrogate can take: images flattened."""
    if sparse.issparse(X) or is_frame(X):
        return X
    X = np.asarray(X)
    return X.reshape(len(X), -1) if X.ndim > 2 else X
