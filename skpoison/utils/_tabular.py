"""The preprocessing of people who bring a raw table and no pipeline."""

import numpy as np
from scipy import sparse
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def make_table_encoder(X):
    """Build an unfitted transformer that turns a table into numbers.

    Parameters
    ----------
    X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        Only its kind and column types are looked at.

    Returns
    -------
    encoder : transformer
        Numeric columns: median imputation, standardisation. Others: most frequent
        value, one-hot with unknown categories ignored and at most 30 categories a
        column.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpoison.utils import make_table_encoder
    >>> X = pd.DataFrame({"age": [20.0, None, 40.0], "job": ["a", "b", "a"]})
    >>> make_table_encoder(X).fit_transform(X).round(2)
    array([[-1.22,  1.  ,  0.  ],
           [ 0.  ,  0.  ,  1.  ],
           [ 1.22,  1.  ,  0.  ]])
    """
    # centring would fill a sparse matrix up, and a frame with sparse columns
    scaler = StandardScaler(with_mean=not _has_sparse(X))
    numeric = make_pipeline(SimpleImputer(strategy="median"), scaler)
    categorical = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=30, sparse_output=False
        ),
    )
    if hasattr(X, "columns"):
        columns = (
            make_column_selector(dtype_include="number"),
            make_column_selector(dtype_exclude="number"),
        )
    elif getattr(X, "dtype", np.dtype(float)).kind in "OSU":
        text = [c for c in range(X.shape[1]) if not _is_number(X[:, c])]
        columns = (np.setdiff1d(np.arange(X.shape[1]), text).tolist(), text)
    else:
        return numeric
    return ColumnTransformer(
        [("numeric", numeric, columns[0]), ("categorical", categorical, columns[1])]
    )


def _has_sparse(X):
    return sparse.issparse(X) or any(
        hasattr(dtype, "fill_value") for dtype in getattr(X, "dtypes", ())
    )


def _is_number(column):
    try:
        column.astype(float)
    except (TypeError, ValueError):
        return False
    return True
