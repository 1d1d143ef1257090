"""The preprocessing of people who bring a raw table and no pipeline."""

from itertools import compress

import numpy as np
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from skpoison.utils._containers import is_number_type


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
    # a column may be empty in one fold only
    numeric = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), scaler
    )
    categorical = make_pipeline(
        FunctionTransformer(_as_text, feature_names_out="one-to-one"),
        SimpleImputer(strategy="most_frequent", keep_empty_features=True),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=30, sparse_output=False
        ),
    )
    if hasattr(X, "columns"):
        columns = list(X.columns)
        is_number = [is_number_type(dtype) for dtype in X.dtypes]
    elif getattr(X, "dtype", np.dtype(float)).kind in "OSU":
        columns = list(range(X.shape[1]))
        is_number = [_holds_numbers(X[:, c]) for c in columns]
    else:
        return numeric
    return ColumnTransformer(
        [
            ("numeric", numeric, list(compress(columns, is_number))),
            ("text", categorical, list(compress(columns, np.invert(is_number)))),
        ]
    )


def _as_text(X):
    """Return an object array of str with NaN for what is missing.

    scikit-learn would read a column of truth values beside one of categories as
    numbers.
    """
    X = X.to_numpy() if hasattr(X, "to_numpy") else X
    text = np.empty(X.shape, dtype=object)
    for place, value in np.ndenumerate(np.asarray(X, dtype=object)):
        missing = str(value) in ("None", "nan", "NaN", "NaT", "<NA>")
        text[place] = np.nan if missing else str(value)
    return text


def _has_sparse(X):
    return sparse.issparse(X) or any(
        hasattr(dtype, "fill_value") for dtype in getattr(X, "dtypes", ())
    )


def _holds_numbers(column):
    try:
        column.astype(float)
    except (TypeError, ValueError):
        return False
    return True
