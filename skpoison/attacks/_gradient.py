"""What a validation objective owes to each training row, label and weight."""

import numpy as np
from scipy import sparse
from sklearn.utils import Bunch, assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from skpoison.attacks._implicit._victim import Victim
from skpoison.utils._containers import as_rows, is_frame
from skpoison.utils._validation import check_columns, check_label


def implicit_gradient(
    estimator,
    X,
    y,
    X_val,
    y_val,
    *,
    objective="auto",
    sample_weight=None,
    jacobian="analytic",
    categories=None,
):
    """Differentiate a validation objective by the training set of an estimator.

    The derivative is that of the retrained estimator, preprocessing included: what
    central differences over complete refits converge to.

    Parameters
    ----------
    estimator : estimator
        LogisticRegression, LinearSVC, RidgeClassifier, SVC, Ridge, LinearRegression,
        Lasso, ElasticNet or SVR, alone or at the end of a pipeline; fitted or not. It
        is not changed: its training problem is solved here to machine precision.
    X : array, sparse matrix or data frame of shape (n_samples, n_features)
        The training rows. The last step is given them dense.
    y : array-like of shape (n_samples,)
    X_val : array, sparse matrix or data frame of shape (n_val, n_features)
        A data frame where X is one, with the same columns.
    y_val : array-like of shape (n_val,)
    objective : "auto", "log_loss", "hinge", "squared_error" or callable
        "auto" is the loss of the estimator. A callable is given scores of shape
        (n_val, k) and y, codes 0..n_classes-1 of classes or numbers, and returns a
        number and its gradient by the scores.
    sample_weight : array-like of shape (n_samples,), default=None
        Of the last step.
    jacobian : "analytic", "finite-differences" or dict, default="analytic"
        See :class:`BilevelPoisoningAttack`.
    categories : dict of int or str to list, default=None
        For columns that hold categories, by position or name: the values to consider.

    Returns
    -------
    gradient : Bunch
        - `value` : float, the objective.
        - `X` : ndarray of shape (n_samples, n_features), its derivative by each cell;
          0 where a cell is missing or holds a category.
        - `sample_weight` : ndarray of shape (n_samples,), by the weight of each row:
          minus the first-order effect of leaving a row of weight 1 out of the last
          step.
        - `y` : ndarray of shape (n_samples,), by each number y; regressors only.
        - `label_gain` : ndarray of shape (n_samples, n_classes), the first-order
          change when a row's label becomes that class, 0 at its own; classifiers only.
        - `category_gain` : dict with the keys of `categories`, to ndarray of shape
          (n_samples, n_categories), the first-order change when a cell becomes that
          category, up to a constant a row.

    Raises
    ------
    TypeError
        The estimator or a step of its pipeline has no derivative that is known here;
        the message names it.
    ValueError
        Rows, labels or the objective do not fit each other or the estimator, or NaN
        reaches the last step.

    Notes
    -----
    "balanced" class weights of SVC, and of LinearSVC with hinge loss, are held.

    References
    ----------
    Koh and Liang (2017), Understanding black-box predictions via influence functions.
    ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn.svm import SVC
    >>> from skpoison.attacks import implicit_gradient
    >>> X, y = load_wine(return_X_y=True)
    >>> victim = make_pipeline(StandardScaler(), PCA(5), SVC())
    >>> gradient = implicit_gradient(victim, X[::2], y[::2], X[1::2], y[1::2])
    >>> gradient.X.shape, gradient.label_gain.shape
    ((89, 13), (89, 3))
    """
    X, X_val = _table("X", X), _table("X_val", X_val)
    y, y_val = column_or_1d(np.asarray(y)), column_or_1d(np.asarray(y_val))
    check_consistent_length(X, y)
    check_consistent_length(X_val, y_val)
    X_val = _alike(X, X_val)
    weights = None
    if sample_weight is not None:
        weights = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
    columns = list(categories or {})
    places = check_columns("categories", columns, X)
    values = {j: categories[c] for j, c in zip(places, columns, strict=True)}
    victim = Victim(estimator, jacobian=jacobian)
    is_regressor = victim.learner.score_kind == "regression"
    if is_regressor:
        codes, codes_val = y.astype(np.float64), y_val.astype(np.float64)
        assert_all_finite(codes, input_name="y")
        assert_all_finite(codes_val, input_name="y_val")
    else:
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must hold two classes or more, got {classes.tolist()}")
        codes_val = np.array([check_label("y_val", c, classes) for c in y_val])
        victim = Victim(estimator, jacobian=jacobian, classes=classes)
    solved = victim.solve(X, codes, weights)
    found = solved.gradient(X_val, codes_val, objective, categories=values)
    out = Bunch(
        value=found.value,
        X=found.X,
        sample_weight=found.weights(),
        category_gain={c: found.gains[j] for c, j in zip(columns, places, strict=True)},
    )
    if is_regressor:
        return Bunch(**out, y=found.targets())
    features = solved.inputs[-1]
    gain = np.column_stack(
        [
            found.adjoint.gain(features, np.full(len(codes), c))
            for c in range(len(classes))
        ]
    )
    gain -= gain[np.arange(len(codes)), codes][:, None]
    if weights is not None:
        gain *= weights[:, None]
    return Bunch(**out, label_gain=gain)


def _table(name, X):
    """Return rows of cells, numbers as float64."""
    X = as_rows(X)
    if isinstance(X, list):  # cells of several types keep theirs
        numbers = np.asarray(X)
        X = numbers if numbers.dtype.kind in "fiub" else np.asarray(X, dtype=object)
    if len(X.shape) != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {X.shape}")
    is_plain = not is_frame(X) and X.dtype.kind in "fiub"
    return X.astype(np.float64) if is_plain else X


def _alike(X, X_val):
    """Return X_val as the same kind of container as X, or raise."""
    if (is_frame(X) or is_frame(X_val)) and type(X) is not type(X_val):
        raise TypeError(
            "X and X_val must both be data frames, of one library, or neither: got "
            f"{type(X).__name__} and {type(X_val).__name__}"
        )
    if X.shape[1] != X_val.shape[1] or X_val.shape[0] == 0:
        raise ValueError(
            f"X_val must hold rows of {X.shape[1]} features, got shape {X_val.shape}"
        )
    if is_frame(X) and list(X.columns) != list(X_val.columns):
        raise ValueError(
            "X_val must have the columns of X in the same order, "
            f"{list(X.columns)[:10]}, got {list(X_val.columns)[:10]}"
        )
    if sparse.issparse(X) and not sparse.issparse(X_val):
        return type(X)(X_val)
    if sparse.issparse(X_val) and not sparse.issparse(X):
        return X_val.toarray()
    return X_val
