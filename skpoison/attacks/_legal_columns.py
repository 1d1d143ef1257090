"""What the columns of a table hold, as an attacker is told or can see."""

import numpy as np

from skpoison.utils._containers import (
    cells_of,
    column_of,
    is_frame,
    is_missing,
    numbers_of,
)
from skpoison.utils._validation import bounds_pair, check_columns


def name_of(X, position):
    """Return what a caller calls a column."""
    return X.columns[position] if is_frame(X) else int(position)


def check_groups(one_hot, X, types, is_mobile):
    """Return the positions of each group of columns, of which one is 1 at most."""
    if one_hot is None:
        return []
    if isinstance(one_hot, str) or not all(
        hasattr(group, "__iter__") and not isinstance(group, str) for group in one_hot
    ):
        raise TypeError(f"one_hot must be a list of lists of columns, got {one_hot!r}")
    groups = [check_columns("one_hot", group, X) for group in one_hot]
    seen: set = set()
    for group in groups:
        if not group:
            raise ValueError("one_hot holds an empty group")
        if seen & set(group):
            j = min(seen & set(group))
            raise ValueError(f"one_hot: column {name_of(X, j)!r} is in two groups")
        seen |= set(group)
        if len(set(is_mobile[group])) > 1:
            raise ValueError(
                "one_hot: of the group of column "
                f"{name_of(X, group[0])!r} all or none must be in mutable"
            )
        total = np.zeros(X.shape[0])
        for j in group:
            bits = None if types[j] is None else numbers_of(X, j)
            if bits is None or not np.isin(bits[~np.isnan(bits)], (0, 1)).all():
                raise ValueError(
                    f"one_hot: column {name_of(X, j)!r} holds other values than 0 and 1"
                )
            total += np.nan_to_num(bits)
        if (total > 1).any():
            raise ValueError(
                f"one_hot: row {int(np.argmax(total > 1))} has more than one 1 in the "
                f"group of column {name_of(X, group[0])!r}"
            )
    return groups


def check_integer(integer, X, types):
    """Return the positions of columns that must stay whole."""
    if isinstance(integer, str) and integer == "auto":
        return []
    positions = check_columns("integer", integer, X)
    for j in positions:
        if types[j] is None or types[j].kind == "b":
            raise ValueError(f"integer: column {name_of(X, j)!r} holds no numbers")
        numbers = numbers_of(X, j)
        numbers = numbers[np.isfinite(numbers)]
        if (numbers != np.rint(numbers)).any():
            raise ValueError(
                f"integer: column {name_of(X, j)!r} holds numbers that are not whole"
            )
    return positions


def check_categorical(categorical, X, types, grouped):
    """Return the positions of columns that hold categories."""
    columns = {j for j, t in enumerate(types) if t is None or t.kind == "b"}
    columns -= set(grouped)
    if not (isinstance(categorical, str) and categorical == "auto"):
        named = set(check_columns("categorical", categorical, X))
        if named & set(grouped):
            j = min(named & set(grouped))
            raise ValueError(
                f"column {name_of(X, j)!r} is named in both categorical and one_hot"
            )
        columns |= named
    return sorted(columns)


def column_spans(X, positions, types, is_array):
    """Return the least and the largest finite number of each column, in its type."""
    if is_array:
        numbers = X[:, positions]
        if X.dtype.kind != "f" or np.isfinite(numbers).all():
            return list(zip(numbers.min(axis=0), numbers.max(axis=0), strict=True))
    found = []
    for j, dtype in zip(positions, types, strict=True):
        column = column_of(X, j)
        if not is_array and dtype.kind in "iu":  # exact beyond 2**53
            cells = [cell for cell in cells_of(column) if not is_missing(cell)]
            numbers = np.array(cells, dtype=dtype)
        else:
            numbers = numbers_of(X, j).astype(dtype, copy=False)
            numbers = numbers[np.isfinite(numbers)]
        if len(numbers) == 0:
            numbers = np.zeros(1, dtype=dtype)
        found.append((numbers.min(), numbers.max()))
    return found


def given_bounds(bounds, is_box):
    """Return bounds as (2, n_features), NaN for columns that they do not concern."""
    n_features, n_box = len(is_box), int(is_box.sum())
    if np.iterable(bounds) and not isinstance(bounds, str):
        # one entry a column: those of columns without numbers are not looked at
        bounds = [
            np.asarray(b)[is_box] if np.shape(b) == (n_features,) else b for b in bounds
        ]
    out = np.full((2, n_features), np.nan)
    for side, bound in zip(out, bounds_pair(bounds, (n_box,)), strict=True):
        side[is_box] = bound
    return out
