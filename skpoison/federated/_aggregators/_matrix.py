"""The matrix of updates, walked through by tiles of columns.

Two kernels, each reading the matrix once and holding one tile of it: inner products of
its rows (`gram`), and functions of each coordinate's sorted values (`coordinatewise`).
Nothing else touches arrays of the full length, so that rules work on m x m matrices
whether the updates lie in memory, on disk, on an accelerator or come block by block.
"""

import numpy as np

# columns a tile; not powers of two, whose strides share cache lines
GRAM_WIDTH = 5000
_ORDER_WIDTH = 1000
_TINY = 1e-24  # below it, squares of single entries may be less than any float32
_FAR = 20  # a reference so many times the middle's spread off costs digits
_LARGEST_EXPONENT = 126  # of a scale in float32
_LARGEST_NORM = 1e150  # its square is still a float64


class UpdateMatrix:
    """Rows of updates in one array, one tensor or several blocks of columns.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` iterates over arrays or tensors of shape (n_rows, n_columns).
    n_rows, n_columns : int
    as_tensor : bool
        Whether results are to be tensors, as the updates were.
    keep : ndarray of int or None
        Rows that count; None for all.
    """

    def __init__(self, blocks, n_rows, n_columns, as_tensor, keep=None):
        self.blocks = blocks
        self.n_rows = n_rows
        self.n_columns = n_columns
        self.as_tensor = as_tensor
        self.keep = keep

    @classmethod
    def of(cls, updates):
        """Wrap one array or tensor."""
        n_rows, n_columns = updates.shape
        return cls(lambda: (updates,), n_rows, n_columns, is_tensor(updates))

    def __len__(self):
        return self.n_rows if self.keep is None else len(self.keep)

    def without(self, rows):
        """Return the matrix without some of its rows; nothing is copied."""
        keep = np.arange(self.n_rows) if self.keep is None else self.keep
        kept = np.delete(keep, rows)
        return UpdateMatrix(
            self.blocks, self.n_rows, self.n_columns, self.as_tensor, kept
        )

    def join(self, parts):
        """Lay the tiles of one result side by side along the last axis."""
        if is_tensor(parts[0]):
            import torch

            return torch.cat(parts, dim=-1)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        if not self.as_tensor:
            return whole
        import torch

        return torch.from_numpy(whole)

    def tiles(self, width):
        """Iterate over (columns, tile); a tile is a view where no row is left out."""
        start = 0
        for block in self.blocks():
            block = host(block)
            n_columns = block.shape[1]
            # tiles of one width: a narrow last one costs as much as a wide one
            step = -(-n_columns // max(-(-n_columns // width), 1))
            for left in range(0, n_columns, max(step, 1)):
                tile = block[:, left : left + step]
                if self.keep is not None:
                    tile = tile[self.keep]
                yield slice(start + left, start + left + tile.shape[1]), tile
            start += n_columns


def is_tensor(array):
    """Tell a torch tensor without importing torch."""
    return hasattr(array, "__torch_function__")


def host(array):
    """Return a tensor that lies in main memory as an array, without copying it."""
    if is_tensor(array):
        array = array.detach()
        return array.numpy() if array.device.type == "cpu" else array
    return array


def on_host(array):
    """Return an array, copied from an accelerator where need be."""
    return array.cpu().numpy() if is_tensor(array) else np.asarray(array)


def empty_like(tile, shape):
    """Return an unset array or tensor of a tile's type, on its device."""
    if is_tensor(tile):
        return tile.new_empty(shape)
    return np.empty(shape, tile.dtype)


def as_double(values):
    """Return an array or a tensor in float64."""
    return values.double() if is_tensor(values) else values.astype(np.float64)


def choose(condition, values, others):
    """Return ``where(condition, values, others)`` for arrays or tensors."""
    if is_tensor(condition):
        import torch

        return torch.where(condition, values, others)
    return np.where(condition, values, others)


def row_maxima(matrix):
    """Return the largest absolute value of each row, NaN where there is a NaN."""
    largest = np.zeros(len(matrix))
    for _, tile in matrix.tiles(GRAM_WIDTH):
        for extreme in (_reduce(tile, "max"), -_reduce(tile, "min")):
            largest = np.maximum(largest, extreme.astype(np.float64))
    return largest


def _reduce(tile, kind):
    if is_tensor(tile):
        return on_host(getattr(tile, f"a{kind}")(dim=1).double())
    return getattr(tile, kind)(axis=1)


def unusable_rows(maxima, n_columns):
    """Return the rows with NaN or infinity, or too long for a float64 square."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.flatnonzero(~(maxima * np.sqrt(n_columns) < _LARGEST_NORM))


def gram(matrix, extra=(), *, columns=None):
    """Return the inner products of all rows about a reference among them.

    Parameters
    ----------
    matrix : UpdateMatrix
    extra : sequence of ndarray of shape (n_columns,)
        Further rows, which the matrix does not hold.
    columns : ndarray of bool of shape (n_columns,), default=None
        Only these coordinates.

    Returns
    -------
    products : ndarray of shape (n + n_extra + 1, n + n_extra + 1), float64
        Of rows, extra rows and, last, the origin; not finite in the lines of rows
        that hold NaN or infinity.

    Notes
    -----
    Distances from the products of raw rows lose all their digits where the rows have
    much in common. The reference is a row near the middle: the products are formed of
    what is left after it is subtracted, tile by tile in the rows' type, and summed in
    float64. Rows that are too long or too short for squares in that type are scaled by
    a power of two on the way.
    """
    n = len(matrix)
    reference = _first_reference(matrix)
    with np.errstate(all="ignore"):
        products = _products(matrix, extra, columns, reference, None)
        size = np.diag(products)[:n]
        lost = np.flatnonzero(~np.isfinite(size))
        tiny = not np.sort(size)[(n - len(lost)) // 2] >= _TINY
        scale = None
        if tiny or len(lost):
            # only now is the extra pass over the matrix worth its time
            maxima = row_maxima(matrix)
            bad = unusable_rows(maxima, matrix.n_columns)
            if len(bad) == n:
                return products
            if tiny or not np.array_equal(lost, bad):
                maxima[bad] = np.inf
                order = np.argsort(maxima, kind="stable")
                reference = int(order[(n - len(bad) - 1) // 2])
                maxima[bad] = 1.0
                scale = _scales(maxima, reference, extra)
                products = _products(matrix, extra, columns, reference, scale)
        best = _most_central(products[:n, :n], reference)
        if best != reference:
            products = _products(matrix, extra, columns, best, scale)
    return products


def _first_reference(matrix):
    """Return the row of median length as far as the first tile shows."""
    for _, tile in matrix.tiles(256):
        with np.errstate(all="ignore"):
            first = on_host(tile).astype(np.float64)
            length = (first**2).sum(axis=1)
        order = np.argsort(np.where(np.isfinite(length), length, np.inf), kind="stable")
        return int(order[(len(order) - 1) // 2])
    return 0


def _most_central(products, reference):
    """Return the reference, unless it lies far off the other rows.

    Then the row whose median distance to the others is least.
    """
    size = np.diag(products)
    square = np.add.outer(size, size) - 2 * products
    square[~np.isfinite(square)] = np.inf
    square.sort(axis=1)
    spread = square[:, (np.isfinite(size).sum() - 1) // 2]
    best = int(np.argmin(spread))
    return best if spread[reference] > _FAR * spread[best] else reference


def _scales(maxima, reference, extra):
    """Return powers of two that bring rows near one, those of the extra rows last."""
    around = maxima[reference]
    others = [float(np.abs(on_host(row)).max(initial=0)) for row in extra]
    rows = np.maximum([*maxima, *others, around], around)
    rows[~(rows > 0)] = 1.0
    exponents = -np.round(np.log2(rows))
    return np.exp2(np.clip(exponents, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))


def _products(matrix, extra, columns, reference, scale):
    n = len(matrix)
    n_all = n + len(extra) + 1
    total = np.zeros((n_all, n_all))
    buffer = None
    for where, tile in matrix.tiles(GRAM_WIDTH):
        others = [row[where] for row in extra]
        if columns is not None:
            chosen = np.flatnonzero(columns[where])
            tile = tile[:, chosen]
            others = [row[chosen] for row in others]
        width = tile.shape[1]
        if buffer is None or buffer.shape[1] < width:
            buffer = empty_like(tile, (n_all, width))
        part, centre = buffer[:, :width], tile[reference]
        for i, row in enumerate(others):
            part[n + i] = like(row, tile)
        part[-1] = 0
        if scale is None:
            _subtract(tile, centre, part[:n])
            part[n:] -= centre
        else:
            # scaled first: the difference of two rows may overflow
            by = like(scale[:, np.newaxis], tile)
            part[:n] = tile
            part *= by
            part -= by * centre
        total += on_host(part @ part.T)
    if scale is not None:
        total /= np.multiply.outer(scale, scale)
    return total


def _subtract(tile, centre, out):
    if is_tensor(tile):
        import torch

        torch.sub(tile, centre, out=out)
    else:
        np.subtract(tile, centre, out=out)


def like(array, tile):
    """Return an array in the type, and on the device, of a tile."""
    if is_tensor(tile):
        import torch

        return torch.as_tensor(array, device=tile.device).to(tile.dtype)
    return on_host(array).astype(tile.dtype, copy=False)


def combine(matrix, weights, extra=()):
    """Return weighted sums of rows and extra rows.

    Parameters
    ----------
    matrix : UpdateMatrix
    weights : ndarray of shape (n + n_extra,) or (n_sums, n + n_extra)
    extra : sequence of ndarray of shape (n_columns,)

    Returns
    -------
    sums : list of arrays or tensors of shape (n_sums or none, tile width)
        One a tile, in the order of columns, for `UpdateMatrix.join`.
    """
    n = len(matrix)
    used = np.flatnonzero((weights != 0).reshape(-1, weights.shape[-1]).any(axis=0))
    rows = used[used < n]
    part = matrix
    if len(rows) < n:
        part = matrix.without(np.delete(np.arange(n), rows))
    parts = []
    # rows that are gathered are copied a tile at a time; all of them, not at all
    width = GRAM_WIDTH if part.keep is not None else max(matrix.n_columns, 1)
    for where, tile in part.tiles(width):
        total = like(weights[..., rows], tile) @ tile
        for i in used[used >= n]:
            share = like(weights[..., i, np.newaxis], tile)
            total = total + share * like(extra[i - n][where], tile)
        parts.append(total)
    return parts


def coordinatewise(matrix, function):
    """Return a function of the sorted values of each coordinate.

    Parameters
    ----------
    matrix : UpdateMatrix
    function : callable
        Takes values of shape (n_coordinates, n), ascending in each row, an array or a
        tensor, and returns (n_coordinates,) or (n_coordinates, k).

    Returns
    -------
    values : list of arrays or tensors, one a tile
        None where a value is NaN or infinite: which rows hold it says `row_maxima`.
    """
    parts = []
    for _, _, ordered in ordered_tiles(matrix):
        if not np.isfinite(on_host(ordered[:, [0, -1]])).all():
            return None
        parts.append(function(ordered))
    return parts


def ordered_tiles(matrix):
    """Iterate over (columns, tile, its transpose with each row sorted)."""
    for where, tile in matrix.tiles(_ORDER_WIDTH):
        if is_tensor(tile):
            yield where, tile, tile.T.contiguous().sort(dim=1).values
        else:
            ordered = tile.T.copy(order="C")
            ordered.sort(axis=1)
            yield where, tile, ordered
