"""Rows in and rows out, in the container that the caller brought."""

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing as take_rows

__all__ = [
    "append_rows",
    "as_rows",
    "flat_numeric",
    "is_frame",
    "is_number_type",
    "like",
    "put_cells",
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


def like(values, template):
    """Give an ndarray of labels or a matrix the container of `template`.

    Rows must be those of `template`, in order: index and names carry over.
    """
    if isinstance(template, list):
        return values.tolist()
    if _is_polars(template):
        import polars as pl

        if is_frame(template):
            return pl.DataFrame(values, schema=template.columns)
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


def flat_numeric(X):
    """Return X as a matrix of floats that a surrogate can take: images flattened."""
    if sparse.issparse(X) or is_frame(X):
        return X
    X = np.asarray(X)
    return X.reshape(len(X), -1) if X.ndim > 2 else X
