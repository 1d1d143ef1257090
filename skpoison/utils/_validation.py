"""Checks of parameters: one function a parameter, one wording of its errors."""

import math
import numbers
import warnings

import numpy as np


def check_number(name, value, *, low=None, high=None, integer=False, strict=False):
    """Check that a parameter is a finite number in a range.

    Parameters
    ----------
    name : str
        The parameter, for the message.
    value : object
    low, high : float, default=None
        Closed range; ``strict=True`` excludes `low`.
    integer : bool, default=False
        Only integers pass.
    strict : bool, default=False

    Returns
    -------
    value : int or float

    Raises
    ------
    TypeError
        Not a number (bool counts as none).
    ValueError
        NaN, infinite or outside the range.
    """
    kind = numbers.Integral if integer else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool | np.bool_):
        wanted = "an int" if integer else "a number"
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    below = low is not None and (value <= low if strict else value < low)
    above = high is not None and value > high
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        finite = False
    if not finite or below or above:
        if low is not None and high is not None:
            wanted = f"in {'(' if strict else '['}{low}, {high}]"
        elif low is not None:
            wanted = f"{'>' if strict else '>='} {low}"
        elif high is not None:
            wanted = f"<= {high}"
        else:
            wanted = "finite"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return value


def check_option(name, value, options):
    """Check that a parameter is one of a few strings."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}"
        )
    return value


def check_given(estimator, y):
    """Raise where y is None."""
    if y is None:  # the wording that scikit-learn's checks look for
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is "
            "None"
        )


def n_budget(budget, n_samples, *, name="budget"):
    """Turn a budget into a number of rows, never above it.

    Parameters
    ----------
    budget : int or float
        An int is a count of rows, a float in [0, 1] a share of `n_samples`, floored.
    n_samples : int
        Rows of the clean training set.
    name : str, default="budget"
        The parameter, for the messages.

    Returns
    -------
    n_rows : int

    Raises
    ------
    TypeError, ValueError
        Neither, or out of range.

    Warns
    -----
    UserWarning
        A share above zero that comes to no row at all.

    Examples
    --------
    >>> from skpoison.utils import n_budget
    >>> n_budget(0.29, 100), n_budget(0.1, 57), n_budget(3, 57)
    (29, 5, 3)
    """
    if isinstance(budget, numbers.Integral) and not isinstance(budget, bool | np.bool_):
        if not 0 <= int(budget) <= n_samples:
            raise ValueError(
                f"{name} as a count of rows must be in [0, n_samples={n_samples}], "
                f"got {budget}"
            )
        return int(budget)
    check_number(name, budget, low=0.0, high=1.0)
    # 0.29 * 100 is 28.999999999999996: round the float error away before the floor
    n_rows = math.floor(round(float(budget) * n_samples, 9))
    if n_rows == 0 and budget > 0:
        warnings.warn(
            f"{name}={budget} of {n_samples} rows comes to no row: nothing is changed",
            UserWarning,
            stacklevel=3,
        )
    return n_rows


def check_eps(eps, sample_shape, *, norm="linf", name="eps"):
    """Check a perturbation radius: a number, or an array that fits one row."""
    radius = np.asarray(eps)
    if radius.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a number or an array of numbers, got {eps!r}")
    if np.isnan(radius).any() or (radius < 0).any():
        raise ValueError(f"{name} must be >= 0, got {eps!r}")
    if norm == "l2" and radius.ndim:
        raise ValueError(f"{name} must be one number for norm='l2', got {eps!r}")
    try:
        np.broadcast_to(radius, sample_shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {radius.shape}, which does not broadcast to one row of "
            f"shape {tuple(sample_shape)}"
        ) from None
    return radius


def warn_unit(eps, X, *, name="eps"):
    """Warn when a radius looks as if it were given in another unit than X is in."""
    largest = np.max(np.asarray(eps, dtype=float), initial=0.0)
    if X.dtype == np.uint8 and 0 < largest < 0.5:
        warnings.warn(
            f"{name}={eps!r} rounds to no change of uint8 pixels, whose unit is 1 of "
            "255",
            UserWarning,
            stacklevel=5,
        )
    spread = float(X.max()) - float(X.min())
    if np.isfinite(largest) and 0 < spread < largest:
        warnings.warn(
            f"{name}={eps!r} exceeds the range of X, {spread:g}: is it in X's unit?",
            UserWarning,
            stacklevel=5,
        )


def check_bounds(bounds, X):
    """Resolve the box that poisoned values never leave.

    Parameters
    ----------
    bounds : "data", None or (low, high)
        "data" is the per-feature minimum and maximum of X; scalars or arrays that
        broadcast to one row otherwise; None is no bound.
    X : ndarray of shape (n_samples, ...)

    Returns
    -------
    low, high : ndarray
        Broadcastable to one row, in X's floating type.

    Raises
    ------
    ValueError
        Malformed, or X itself lies outside.
    """
    dtype = X.dtype if X.dtype.kind == "f" else np.float64
    if isinstance(bounds, str) and bounds == "data":
        return X.min(axis=0).astype(dtype), X.max(axis=0).astype(dtype)
    if bounds is None:
        if X.dtype.kind == "u":  # an unsigned image can't leave its type's range
            return np.zeros((), dtype), np.full((), np.iinfo(X.dtype).max, dtype)
        return np.full((), -np.inf, dtype), np.full((), np.inf, dtype)
    low, high = bounds_pair(bounds, X.shape[1:], dtype)
    # a mask would be as large as X; NaN lies inside
    least, most = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
    if (least < low).any() or (most > high).any():
        # a scaler's largest value is 1 only up to rounding: the box takes it in
        ulp = 8 * np.finfo(dtype).eps
        floor = low - ulp * np.maximum(1, abs(low))
        ceiling = high + ulp * np.maximum(1, abs(high))
        if (least < floor).any() or (most > ceiling).any():
            raise ValueError(
                f"X lies outside bounds={bounds!r}: its values span "
                f"[{least.min():g}, {most.max():g}]"
            )
        low, high = np.minimum(low, least), np.maximum(high, most)
    return low, high


def bounds_pair(bounds, shape, dtype=np.float64, others="'data', None"):
    """Return (low, high) as arrays that broadcast to one row of `shape`, or raise."""
    try:
        low, high = (np.asarray(b, dtype=dtype) for b in bounds)
        np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"bounds must be {others} or a pair (low, high) of numbers or arrays "
            f"that broadcast to one row of shape {shape}, got {bounds!r}"
        ) from None
    if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        raise ValueError(f"bounds must have low <= high, got {bounds!r}")
    return low, high


def check_columns(name, columns, X):
    """Return the positions of columns given by position or, in a frame, by name.

    Parameters
    ----------
    name : str
        The parameter, for the messages.
    columns : list of int or str, or bool mask
    X : array or data frame of shape (n_samples, n_features)

    Returns
    -------
    positions : list of int
        In the order given.

    Raises
    ------
    TypeError, ValueError
        No list, no such column, or one twice.
    """
    n_features = X.shape[1]
    if isinstance(columns, str | bytes | dict) or not hasattr(columns, "__iter__"):
        raise TypeError(
            f"{name} must be a list of columns, by position or, for a data frame, by "
            f"name, got {columns!r}"
        )
    columns = list(columns)
    if columns and all(isinstance(c, bool | np.bool_) for c in columns):
        if len(columns) != n_features:
            raise ValueError(
                f"{name} as a mask must have one entry a column, {n_features}, got "
                f"{len(columns)}"
            )
        return [j for j, wanted in enumerate(columns) if wanted]
    names = list(X.columns) if hasattr(X, "columns") else []
    positions: list[int] = []
    for column in columns:
        if isinstance(column, str):
            if column not in names:
                known = f"which has {names[:10]}" if names else "which has no names"
                raise ValueError(f"{name}: {column!r} is not a column of X, {known}")
            position = names.index(column)
        else:
            check_number(name, column, integer=True)
            if not -n_features <= column < n_features:
                raise ValueError(
                    f"{name}: {column} is out of range for X with {n_features} columns"
                )
            position = int(column) % n_features
        if position in positions:
            raise ValueError(f"{name} names column {column!r} twice")
        positions.append(position)
    return positions


def check_label(name, label, classes):
    """Return the position of `label` in `classes`, or raise naming both."""
    label = label.item() if isinstance(label, np.generic) else label
    found = np.flatnonzero(np.asarray(classes) == label)
    if len(found) == 0:
        shown = ", ".join(map(repr, np.asarray(classes).tolist()[:10]))
        raise ValueError(f"{name}={label!r} is not among the classes of y: {shown}")
    return int(found[0])


def check_targets(targets, target_labels, X, keys, classes):
    """Check what a targeted attack aims at.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:])
    target_labels : array-like of shape (n_targets,) or a label
    X : ndarray
        The training data.
    keys : ndarray of str
        Row keys of X: a target must not be a training row.
    classes : ndarray or None
        None for numbers, of regression.

    Returns
    -------
    targets : ndarray in X's type
    target_labels : ndarray of shape (n_targets,)
    """
    from skpoison.utils._rows import row_keys

    targets = np.asarray(targets, dtype=X.dtype)
    if targets.shape[1:] != X.shape[1:] or len(targets) == 0:
        raise ValueError(
            f"targets must have shape (n_targets >= 1, {str(X.shape[1:])[1:]}, "
            f"got {targets.shape}"
        )
    target_labels = np.asarray(target_labels)
    if target_labels.ndim == 0:
        target_labels = np.repeat(target_labels, len(targets))
    if target_labels.shape != (len(targets),):
        raise ValueError(
            f"target_labels must have one label a target, {len(targets)}, "
            f"got shape {target_labels.shape}"
        )
    if classes is None:
        if (
            target_labels.dtype.kind not in "fiu"
            or not np.isfinite(target_labels).all()
        ):
            raise ValueError(
                f"target_labels must hold finite numbers, got {target_labels.tolist()}"
            )
        target_labels = target_labels.astype(np.float64)
    else:
        for label in target_labels:
            check_label("target_labels", label, classes)
    inside = np.flatnonzero(np.isin(row_keys(targets), keys))
    if len(inside):
        raise ValueError(
            f"targets[{inside[0]}] is also a training row; attack targets must be "
            "held out of X"
        )
    return targets, target_labels
