"""The rows that an attacker may write into a table, and a relaxation of them."""

import numpy as np

from skpoison.attacks._legal_columns import (
    check_categorical,
    check_groups,
    check_integer,
    column_spans,
    given_bounds,
    name_of,
)
from skpoison.utils._containers import (
    cells_of,
    column_of,
    is_frame,
    is_missing,
    number_type,
    numbers_of,
    put_in_columns,
)
from skpoison.utils._validation import check_columns


class LegalRows:
    """The rows that may be written into a table, and a continuous relaxation of them.

    An attack moves a float matrix Z, one row a poison, by gradients, and judges it by
    ``decode(Z, rows)``, so that every poison it ever looks at is legal.

    Parameters
    ----------
    X : ndarray or data frame of shape (n_samples, n_features)
        The clean table: numbers, or an object array or a frame with any columns.
    bounds : "data", None or (low, high), default="data"
        Box of the numeric columns: their minima and maxima in X; none but that of
        the column's type; or numbers, or arrays with one entry a column or one a
        numeric column.
    mutable : list of columns, bool mask or None, default=None
        The columns that may change. None is all.
    integer : "auto" or list of columns, default="auto"
        Numeric columns of whole numbers, beside those of an integer type.
    categorical : "auto" or list of columns, default="auto"
        Columns that take the values seen in X only, beside those that hold no numbers.
    one_hot : list of lists of columns, default=None
        Groups of columns of 0 and 1, or of truth values, with at most one 1 a row.

    Attributes
    ----------
    categories : dict of int to list
        The values of each categorical column, by position: sorted, or in order of
        appearance where they have no order; none for a column that may not change.
    n_coordinates : int
        Columns of Z.
    n_mobile : int
        Columns of X that can change.
    whole : ndarray of int
        Coordinates of columns of whole numbers.

    Notes
    -----
    A numeric column that may change has one coordinate, ``u = (x - low) / (high -
    low)``, over its bounds, or its range in X where these are infinite. A categorical
    column has one coordinate for each value, and they lie in a simplex; the largest
    tells the value. The columns of a one-hot group are relaxed to [0, 1] each, and the
    largest becomes 1 if it exceeds ``1 / (1 + group size)`` and all others 0, as in
    Jagielski et al. (2018). Coordinates of numbers come first, in the order of the
    columns, then those of the categories.

    Columns that may not change have no coordinate. Cells that are empty or infinite,
    or hold a category that X does not, stay as they are.
    """

    def __init__(
        self,
        X,
        *,
        bounds="data",
        mutable=None,
        integer="auto",
        categorical="auto",
        one_hot=None,
    ):
        if not (isinstance(X, np.ndarray) or is_frame(X)) or len(X.shape) != 2:
            raise TypeError(
                "X must be a two-dimensional array or a data frame, got "
                f"{type(X).__name__} of shape {getattr(X, 'shape', None)}"
            )
        self._n_features = X.shape[1]
        self._is_array = isinstance(X, np.ndarray) and X.dtype.kind in "fiu"
        if self._is_array:
            types = [X.dtype] * X.shape[1]
        else:
            types = [number_type(column_of(X, j)) for j in range(X.shape[1])]
        is_mobile = np.ones(X.shape[1], dtype=bool)
        if mutable is not None:
            is_mobile[:] = False
            is_mobile[check_columns("mutable", mutable, X)] = True
        groups = check_groups(one_hot, X, types, is_mobile)
        grouped = [j for group in groups for j in group]
        whole = check_integer(integer, X, types)
        categories = check_categorical(categorical, X, types, grouped)
        for first, second, shared in (
            ("integer", "categorical", set(whole) & set(categories)),
            ("integer", "one_hot", set(whole) & set(grouped)),
        ):
            if shared:
                raise ValueError(
                    f"column {name_of(X, min(shared))!r} is named in both {first} and "
                    f"{second}"
                )
        self._set_categories(X, categories, is_mobile)
        is_box = np.array(
            [t is not None and t.kind != "b" for t in types], dtype=bool
        )  # with numbers in a box
        is_box[categories] = False
        is_numeric = is_mobile.copy()
        is_numeric[categories] = False
        self._numeric = np.flatnonzero(is_numeric)
        self._types = [types[j] for j in self._numeric]
        self._set_box(X, bounds, is_box, set(grouped), set(whole))
        place = {j: i for i, j in enumerate(self._numeric)}
        self._groups = [
            np.array([place[j] for j in group]) for group in groups if group[0] in place
        ]
        self.n_coordinates = len(self._numeric) + sum(
            len(self.categories[j]) for j in self._blocks
        )
        self.n_mobile = int(np.count_nonzero(self._gain)) + sum(
            len(self.categories[j]) > 1 for j in self._blocks
        )

    def _set_categories(self, X, columns, is_mobile):
        """List the values of the categorical columns and a row that holds each."""
        self.categories: dict = {}
        self._values: dict = {}  # as cells in the column's own container and type
        self._codes_of: dict = {}
        self._blocks: dict = {}  # columns that may change, to their coordinates
        start = int(is_mobile.sum() - is_mobile[columns].sum())
        for j in columns:
            self.categories[j] = []
            if not is_mobile[j]:
                continue
            column = column_of(X, j)
            first: dict = {}
            try:
                for i, cell in enumerate(cells_of(column)):
                    first.setdefault(cell, i)
            except TypeError:
                raise TypeError(
                    f"column {name_of(X, j)!r} holds {type(cell).__name__}, which "
                    "can't be a category; leave it out of mutable"
                ) from None
            cells = [cell for cell in first if not is_missing(cell)]
            try:
                cells = sorted(cells)
            except TypeError:
                pass  # of types that do not compare: in order of appearance
            self.categories[j] = cells
            rows = np.array([first[cell] for cell in cells], dtype=int)
            self._values[j] = getattr(column, "array", column)[rows]
            self._codes_of[j] = {cell: code for code, cell in enumerate(cells)}
            self._blocks[j] = slice(start, start + len(cells))
            start += len(cells)

    def _set_box(self, X, bounds, is_box, grouped, whole):
        """Resolve what the numbers of each column lie between, and their unit."""
        given = None
        if bounds is None:
            given = np.tile([[-np.inf], [np.inf]], X.shape[1])
        elif not (isinstance(bounds, str) and bounds == "data"):
            given = given_bounds(bounds, is_box)
        spans = column_spans(X, self._numeric, self._types, self._is_array)
        low, high, origin, end, is_whole = [], [], [], [], []
        for j, dtype, (a, b) in zip(self._numeric, self._types, spans, strict=True):
            is_whole.append((j in whole or dtype.kind != "f") and j not in grouped)
            unit = float(a), float(b)
            if j in grouped:
                a, b, unit = dtype.type(0), dtype.type(1), (0.0, 1.0)
            elif given is not None:
                least, most = a, b
                a = _inside(given[0, j], dtype, is_whole[-1], np.ceil)
                b = _inside(given[1, j], dtype, is_whole[-1], np.floor)
                if a > b:
                    raise ValueError(
                        f"bounds={bounds!r} hold no whole number for column "
                        f"{name_of(X, j)!r}"
                    )
                slack = 0.0
                if dtype.kind == "f":  # the rounding errors of a scaler
                    slack = 8 * np.finfo(dtype).eps * max(abs(least), abs(most))
                if least < a - slack or most > b + slack:
                    raise ValueError(
                        f"X lies outside bounds={bounds!r}: column {name_of(X, j)!r} "
                        f"spans [{least:g}, {most:g}]"
                    )
                a, b = min(a, least), max(b, most)
                if np.isfinite(given[:, j]).all():
                    unit = float(a), float(b)
            low.append(a)
            high.append(b)
            origin.append(unit[0])
            end.append(unit[1])
        self.whole = np.flatnonzero(np.array(is_whole, dtype=bool))
        # arrays are cut off at once, frames column by column in the type of each
        self._low = np.array(low, dtype=X.dtype) if self._is_array else low
        self._high = np.array(high, dtype=X.dtype) if self._is_array else high
        self._floor = np.array([float(a) for a in low])
        self._ceil = np.array(
            [_castable(b, t) for b, t in zip(high, self._types, strict=True)]
        )
        self._origin = np.array(origin, dtype=float)
        with np.errstate(over="ignore"):
            scale = np.array(end, dtype=float) - self._origin
        scale[scale == 0] = 1.0
        self._scale = scale.clip(max=np.finfo(float).max)
        self._box = (
            (self._floor - self._origin) / self._scale,
            (self._ceil - self._origin) / self._scale,
        )
        self._gain = np.where(self._ceil > self._floor, self._scale, 0.0)

    def _numbers(self, rows):
        """Return the numeric columns that may change, as float64."""
        if self._is_array:
            if len(self._numeric) < self._n_features:
                rows = rows[:, self._numeric]
            return rows if rows.dtype == np.float64 else rows.astype(np.float64)
        numbers = np.empty((rows.shape[0], len(self._numeric)))
        for i, j in enumerate(self._numeric):
            numbers[:, i] = numbers_of(rows, j)
        return numbers

    def _codes(self, rows, j):
        """Return the position of each cell among the values of a column, -1: none."""
        codes = self._codes_of[j]
        return np.array(
            [codes.get(cell, -1) for cell in cells_of(column_of(rows, j))], dtype=int
        )

    def relax(self, rows):
        """Return the coordinates of rows.

        Parameters
        ----------
        rows : like X, of shape (n_rows, n_features)

        Returns
        -------
        Z : ndarray of shape (n_rows, n_coordinates)
        """
        Z = np.zeros((rows.shape[0], self.n_coordinates))
        if len(self._numeric):
            u = (self._numbers(rows) - self._origin) / self._scale
            Z[:, : u.shape[1]] = np.where(np.isfinite(u), u, 0.0).clip(*self._box)
        for j, block in self._blocks.items():
            codes = self._codes(rows, j)
            Z[:, block] = np.equal.outer(codes, np.arange(len(self.categories[j])))
            Z[codes < 0, block] = 1 / max(1, len(self.categories[j]))
        return Z

    def project(self, Z):
        """Return the nearest coordinates that a legal row relaxes to.

        Parameters
        ----------
        Z : ndarray of shape (n_rows, n_coordinates)

        Returns
        -------
        Z : ndarray of shape (n_rows, n_coordinates)
        """
        k = len(self._numeric)
        if k == Z.shape[1]:
            return np.minimum(np.maximum(Z, self._box[0]), self._box[1])
        out = np.empty_like(Z)
        out[:, :k] = Z[:, :k].clip(*self._box)
        for block in self._blocks.values():
            out[:, block] = _onto_simplex(Z[:, block])
        return out

    def decode(self, Z, rows):
        """Return the legal rows that coordinates stand for.

        Parameters
        ----------
        Z : ndarray of shape (n_rows, n_coordinates)
        rows : like X, of shape (n_rows, n_features)
            Where they started. Cells whose coordinates did not move, and cells that
            may not, come back bit for bit.

        Returns
        -------
        rows : like X, of shape (n_rows, n_features)
            A copy.
        """
        k = len(self._numeric)
        if k == 0 and not self._blocks:
            return rows.copy() if hasattr(rows, "copy") else rows.clone()
        u = Z[:, :k]
        numbers = self._numbers(rows)
        start = numbers - self._origin
        start /= self._scale
        values = u * self._scale
        values += self._origin
        moved = u != start
        moved &= np.isfinite(start)
        if len(self.whole):
            values[:, self.whole] = np.rint(values[:, self.whole])
        for group in self._groups:
            values[:, group] = _one_hot(u[:, group])
            is_known = np.isfinite(numbers[:, group]).all(axis=1, keepdims=True)
            moved[:, group] = is_known & (values[:, group] != numbers[:, group])
        if self._is_array:
            values = self._in_type(values, rows.dtype, self._low, self._high)
            if k == self._n_features:
                return np.where(moved, values, rows)
            rows = rows.copy()
            rows[:, self._numeric] = np.where(moved, values, rows[:, self._numeric])
            changes = {}
        else:
            changes = {
                self._numeric[i]: (
                    moved[:, i],
                    self._in_type(
                        values[:, i], self._types[i], self._low[i], self._high[i], i
                    ),
                )
                for i in np.flatnonzero(moved.any(axis=0))
            }
        for j, block in self._blocks.items():
            before, after = self._codes(rows, j), Z[:, block].argmax(axis=1)
            is_other = (before >= 0) & (before != after)
            if is_other.any():
                changes[j] = is_other, self._values[j][after]
        return put_in_columns(rows, changes)

    def _in_type(self, values, dtype, low, high, column=slice(None)):
        """Cast numbers and cut them off at the bounds, exactly in their type."""
        if dtype.kind != "f":  # the cast of what lies outside is not defined
            values = values.clip(self._floor[column], self._ceil[column])
        values = values.astype(dtype, copy=False)
        return np.minimum(np.maximum(values, low), high)

    def pull(self, G, gains=None, rows=None):
        """Return a gradient by coordinates.

        Parameters
        ----------
        G : ndarray of shape (n_rows, n_features)
            Derivative by the cells that hold numbers.
        gains : dict of int to ndarray of shape (n_rows, n_categories), default=None
            By position of a categorical column: what each value would change, up to
            a constant a row. NaN, of a value that an encoder refuses, draws no row.
            Columns that are not in it get zeros.
        rows : like X, default=None
            The rows themselves, for zeros at cells that stay because they are empty.

        Returns
        -------
        G : ndarray of shape (n_rows, n_coordinates)
            0 where a column has one legal value.
        """
        k = len(self._numeric)
        numeric = G if k == self._n_features else G[:, self._numeric]
        if k == self.n_coordinates:
            out = numeric * self._gain
        else:
            out = np.zeros((len(G), self.n_coordinates))
            out[:, :k] = numeric * self._gain
            for j, block in self._blocks.items():
                if gains and j in gains and len(self.categories[j]):
                    out[:, block] = _without_nan(gains[j])
        if rows is not None:
            out[:, :k][~np.isfinite(self._numbers(rows))] = 0.0
            for j, block in self._blocks.items():
                out[self._codes(rows, j) < 0, block] = 0.0
        return out

    def in_ranges(self, lengths):
        """Return lengths in units of X as lengths by coordinates.

        Parameters
        ----------
        lengths : ndarray of shape (n_features,)

        Returns
        -------
        lengths : ndarray of shape (n_coordinates,)
            Infinite for categories, which know no length.
        """
        out = np.full(self.n_coordinates, np.inf)
        out[: len(self._numeric)] = np.asarray(lengths)[self._numeric] / self._scale
        return out

    def is_legal(self, rows):
        """Tell which rows lie inside the bounds and hold known values only.

        Columns that may not change are not looked at.

        Parameters
        ----------
        rows : like X, of shape (n_rows, n_features)

        Returns
        -------
        is_legal : ndarray of bool of shape (n_rows,)
        """
        numbers = self._numbers(rows)
        is_known = np.isfinite(numbers)
        fits = (numbers >= self._floor) & (numbers <= self._ceil)
        whole = numbers[:, self.whole]
        fits[:, self.whole] &= whole == np.rint(whole)
        for group in self._groups:
            bits = numbers[:, group]
            fits[:, group] &= (bits == 0) | (bits == 1)
            fits[:, group] &= np.nansum(bits, axis=1, keepdims=True) <= 1
        legal = (fits | ~is_known).all(axis=1)
        for j in self._blocks:
            for i in np.flatnonzero(self._codes(rows, j) < 0):
                legal[i] &= is_missing(cells_of(column_of(rows, j))[i])
        return legal


def _inside(bound, dtype, is_whole, to_whole):
    """Return the outermost number of a type that a bound allows."""
    if is_whole:
        bound = to_whole(bound)
    if dtype.kind == "f":
        return dtype.type(bound)
    limits = np.iinfo(dtype)
    if bound <= limits.min:
        return dtype.type(limits.min)
    if bound >= float(limits.max):
        return dtype.type(limits.max)
    return dtype.type(bound)


def _castable(bound, dtype):
    """Return an upper bound as a float that a cast to its type does not overflow."""
    bound = float(bound)
    if dtype.kind in "iu" and bound > np.iinfo(dtype).max:
        return np.nextafter(bound, 0.0)
    return bound


def _without_nan(gains):
    """Return gains in which NaN is the least of its row."""
    is_nan = np.isnan(gains)
    if not is_nan.any():
        return gains
    least = np.where(is_nan, np.inf, gains).min(axis=1, keepdims=True)
    return np.where(is_nan, np.where(np.isfinite(least), least, 0.0), gains)


def _one_hot(U):
    """Return the group of columns that relaxed ones stand for."""
    n_rows, size = U.shape
    best = U.argmax(axis=1)
    bits = np.zeros((n_rows, size))
    bits[np.arange(n_rows), best] = U.max(axis=1) > 1 / (1 + size)
    return bits


def _onto_simplex(V):
    """Return the nearest points of the simplex, row by row."""
    n_rows, m = V.shape
    if m == 0:
        return V
    ordered = -np.sort(-V, axis=1)
    excess = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, m + 1)
    last = np.count_nonzero(ordered > excess, axis=1) - 1
    return np.maximum(V - excess[np.arange(n_rows), last][:, None], 0.0)
