"""The preprocessing of people who bring a raw table and no pipeline."""

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
    # centring would fill a sparse matrix up
    scaler = StandardScaler(with_mean=not sparse.issparse(X))
    numeric = make_pipeline(SimpleImputer(strategy="median"), scaler)
    if not hasattr(X, "columns"):
        return numeric
    categorical = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=30, sparse_output=False
        ),
    )
    return ColumnTransformer(
        [
            ("numeric", numeric, make_column_selector(dtype_include="number")),
            ("categorical", categorical, make_column_selector(dtype_exclude="number")),
        ]
    )
