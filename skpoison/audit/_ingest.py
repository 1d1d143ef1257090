"""From the words of a command line to an estimator and data, or one clear line."""

import importlib
from pathlib import Path

import numpy as np


class InputError(Exception):
    """What the user gave can't be used; the text is one line that says why."""


def read_table(path, target):
    """Read a CSV or Parquet file into features and a target.

    Parameters
    ----------
    path : str or Path
        ``.csv``, ``.tsv`` (also compressed) or ``.parquet``.
    target : str
        Column of the labels or numbers to predict.

    Returns
    -------
    X : pandas.DataFrame
        Dates become seconds since 1970.
    y : ndarray of shape (n_samples,)
        Numbers as they are, anything else as text.

    Raises
    ------
    InputError
        Unreadable, empty, no such column, missing targets or one value only.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffixes = {s.lower() for s in path.suffixes}
    try:
        if suffixes & {".parquet", ".pq"}:
            frame = pd.read_parquet(path)
        else:
            separator = "\t" if suffixes & {".tsv"} else ","
            head = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str)
            names = head.iloc[0].dropna()
            if not names.is_unique:  # pandas would rename the second one
                twice = names[names.duplicated()].iloc[0]
                raise InputError(f"{path}: two columns are called {twice!r}")
            frame = pd.read_csv(path, sep=separator, low_memory=False)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow: pip install 'skpoison[audit]'"
        ) from error
    except Exception as error:  # readers raise whatever their libraries do
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: can't be read as a table: {reason}") from error
    frame.columns = [str(c) for c in frame.columns]
    if target not in frame.columns:
        shown = " ".join(", ".join(frame.columns[:10]).split())
        raise InputError(f"{path}: no column {target!r}; there are {shown}")
    if not frame.columns.is_unique:
        raise InputError(f"{path}: two columns have the same name")
    if frame.shape[1] < 2 or len(frame) == 0:
        raise InputError(f"{path}: a table with rows and features is needed")
    missing = int(frame[target].isna().sum())
    if missing:
        raise InputError(f"{path}: {missing} rows have no value in {target!r}")
    y = frame[target].to_numpy()
    if y.dtype.kind not in "fiu":
        y = np.array([str(v) for v in y])
    classes = np.unique(y)
    if len(classes) < 2:
        raise InputError(f"{path}: {target!r} holds one class, {classes.tolist()[0]!r}")
    X = frame.drop(columns=target)
    for column in X.select_dtypes(["datetime", "datetimetz", "timedelta"]).columns:
        # missing dates stay missing
        stamps = X[column]
        if getattr(stamps.dtype, "tz", None) is not None:
            stamps = stamps.dt.tz_convert(None)
        unit = "timedelta64[ns]" if stamps.dtype.kind == "m" else "datetime64[ns]"
        values = stamps.to_numpy(dtype=unit)
        X[column] = np.where(np.isnat(values), np.nan, values.astype("int64") / 1e9)
    empty = [c for c in X.columns if X[c].isna().all()]
    X = X.drop(columns=empty)
    if X.shape[1] == 0:
        raise InputError(f"{path}: no feature holds a value")
    for column in X.select_dtypes(exclude=["number", "bool"]).columns:
        # one kind of text, whatever mixture the file held
        X[column] = X[column].astype(object).where(X[column].notna(), None)
        X[column] = X[column].map(lambda v: v if v is None else str(v))
    return X, y


def choose_task(y, n_folds):
    """Tell from a target what to do with it.

    Numbers are regressed on if some are fractions, or if there are more than 20 of
    which one is too rare for a class: it has fewer rows than there are folds.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    n_folds : int

    Returns
    -------
    task : {"classification", "regression"}
    """
    values, counts = np.unique(y, return_counts=True)
    if y.dtype.kind not in "fiu":
        return "classification"
    rare = len(values) > 20 and counts.min() < n_folds
    return "regression" if rare or _has_fractions(y) else "classification"


def check_target(y, target, task):
    """Raise where the target does not fit the task."""
    if task == "classification" and y.dtype.kind == "f" and _has_fractions(y):
        raise InputError(
            f"{target!r} holds fractions; a classifier needs classes, and numbers to "
            "regress on need --task regression or a regressor"
        )
    if task == "regression" and y.dtype.kind not in "fiu":
        raise InputError(
            f"{target!r} holds text, {y.tolist()[0]!r} for one; a regressor needs "
            "numbers"
        )


def _has_fractions(y):
    return bool((np.floor(y) != y).any() or not np.isfinite(y).all())


def default_estimators(X, task, clients=False):
    """Return the victims of people who bring a table and no model, by name.

    Parameters
    ----------
    X : pandas.DataFrame
    task : {"classification", "regression"}
    clients : bool, default=False
        Whether rows belong to clients.

    Returns
    -------
    estimators : dict of str to estimator
        Behind an encoder for mixed tables: logistic regression, trained by the clients
        if there are any; or ridge regression, a smooth victim, and gradient boosting,
        one of trees.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    from skpoison.utils import make_table_encoder

    if clients:
        from skpoison.federated import FederatedClassifier

        models = {"estimator": FederatedClassifier()}
    elif task == "classification":
        models = {"estimator": LogisticRegression(max_iter=1000)}
    else:
        models = {"ridge": Ridge(), "boosting": HistGradientBoostingRegressor()}
    return {k: make_pipeline(make_table_encoder(X), m) for k, m in models.items()}


def load_estimator(spec, X, trusted=()):
    """Find the estimator that a command line names.

    Parameters
    ----------
    spec : str
        A dotted path to an estimator, class or factory, or a file written by skops.
    X : pandas.DataFrame
    trusted : sequence of str
        Types that a skops file may hold beside those that skops trusts.

    Returns
    -------
    estimator : estimator

    Raises
    ------
    InputError
    """
    if Path(spec).suffix in (".skops", ".joblib", ".pkl", ".pickle"):
        estimator = _load_file(Path(spec), trusted)
    else:
        estimator = _import_estimator(spec)
    if not hasattr(estimator, "steps"):
        text = [c for c in X.columns if X[c].dtype.kind not in "fiub"]
        if text:
            raise InputError(
                f"column {text[0]!r} is not numeric and {spec} is no pipeline: leave "
                "--estimator out, or name a pipeline that encodes it"
            )
    return estimator


def _load_file(path, trusted):
    try:
        from skops import io
    except ImportError as error:
        raise InputError(
            f"{path}: loading needs skops: pip install 'skpoison[audit]'"
        ) from error
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        unknown = set(io.get_untrusted_types(file=path)) - set(trusted)
    except Exception as error:
        raise InputError(
            f"{path}: not a skops file; pickles run code when loaded, so they are not "
            "read: save the model with skops.io.dump"
        ) from error
    if unknown:
        raise InputError(
            f"{path}: holds types that are not trusted: {', '.join(sorted(unknown))}; "
            "pass --trust TYPE for each that you know"
        )
    return io.load(path, trusted=list(trusted))


def _import_estimator(spec):
    module, _, name = spec.rpartition(".")
    if not module:
        raise InputError(
            f"{spec}: a dotted path such as sklearn.svm.SVC is needed, or a .skops file"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{spec}: can't be imported: {error}") from error
    try:
        return found() if callable(found) else found
    except (TypeError, SystemExit) as error:
        raise InputError(f"{spec}: can't be made without arguments: {error}") from error
