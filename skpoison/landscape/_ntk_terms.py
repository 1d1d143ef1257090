"""Shares of a tangent kernel: what a layer keeps of rows, and adds of two sets of them.

With x what a layer meets at a place and g the derivatives of the outputs by what leaves
it there, the derivatives by the weights are sums over places of ``g x^T``. Their inner
products follow from the derivatives, held or made a slice at a time, or from inner
products of all pairs of places, ``(g g') (x x')``, without them.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

#: Values of a tile of the kernel that are computed at a time, and of a slice of
#: derivatives by weights: on a CPU, memory that is not in the cache is what costs.
TILE_VALUES = 2**22
SLICE_VALUES = 2**24
#: A tile on the diagonal is computed whole: four of them waste an eighth of the work.
_N_TILES = 4
_SMALL_TILE = 128
#: What reading and writing one value costs, in multiplications of a matrix product.
_TRAFFIC = 32


class Outputs:
    """Which functions of the outputs a kernel is of, and how it sums over them.

    Parameters
    ----------
    reduction : {None, "trace", "per_class", "mean_logit"}
    n_outputs : int
        Of the network.
    like : tensor
        Whose type and device the kernel has.

    Attributes
    ----------
    directions : tensor of shape (q, n_outputs)
        Each a linear function of the outputs.
    n_lines : int
        Lines of the kernel a row.
    n_kernels : int
    n_pairs : int
        Pairs of functions whose products are wanted.
    """

    def __init__(self, reduction, n_outputs, like):
        self.reduction = reduction
        self._options = {"dtype": like.dtype, "device": like.device}
        self.directions = torch.eye(n_outputs, **self._options)
        if reduction == "mean_logit":
            self.directions = self.directions.mean(0, keepdim=True)
        self.q = len(self.directions)
        self.n_lines = self.q if reduction is None else 1
        self.n_kernels = self.q if reduction == "per_class" else 1
        self.n_pairs = self.q**2 if reduction is None else self.q

    def kernel(self, n_rows, n_columns):
        """Return zeros of shape (n_kernels, n_rows * n_lines, n_columns * n_lines)."""
        shape = self.n_kernels, n_rows * self.n_lines, n_columns * self.n_lines
        return torch.zeros(shape, **self._options)

    def lines(self, rows, n_places=1):
        """Return the slice of lines that belong to a slice of rows."""
        width = self.n_lines * n_places
        return slice(rows.start * width, rows.stop * width)

    def block(self, kernel, rows, columns):
        """Return a view of the kernel of some rows and columns."""
        return kernel[:, self.lines(rows), self.lines(columns)]

    def arrange(self, J):
        """Turn (rows, places, q, features) into (n_kernels, lines, features).

        The lines are ordered by row, then function, then place.
        """
        if self.reduction is None:
            return J.transpose(1, 2).reshape(1, -1, J.shape[3])
        if self.reduction == "per_class":
            return J.permute(2, 0, 1, 3).reshape(self.q, -1, J.shape[3])
        return J.reshape(1, J.shape[0] * J.shape[1], -1)


def tiles(n_rows, n_columns, values, symmetric, smallest=1):
    """Yield the slices of rows and of columns of tiles that cover a kernel.

    Parameters
    ----------
    n_rows, n_columns : int
    values : int
        Held for a pair of rows.
    symmetric : bool
        Only tiles on the diagonal and above it.
    smallest : int, default=1
        Side that is large enough for a fast product.
    """
    side = max(1, math.isqrt(TILE_VALUES // values))
    if symmetric:
        side = min(side, max(smallest, -(-n_rows // _N_TILES)))
    for row in range(0, n_rows, side):
        rows = slice(row, min(n_rows, row + side))
        for column in range(row if symmetric else 0, n_columns, side):
            yield rows, slice(column, min(n_columns, column + side))


class Dense:
    """Derivatives by some weights, held: (rows, functions, weights)."""

    def __init__(self, J):
        self.tensors = (J,)

    def joined(self, terms):
        """Return this term for the rows of all `terms`."""
        return Dense(_joined(terms, 0))

    def add(self, kernel, other, outputs):
        """Add the products with those of another set of rows, or of the same."""
        _add_products(kernel, self.tensors[0], other.tensors[0], outputs)


class Places:
    """A layer that multiplies what it meets at each place with the same weights.

    Parameters
    ----------
    layer : Linear or convolution
    x : tensor of shape (rows, ...)
        What entered it.
    g : tensor of shape (rows, functions, n_out, places)
        Derivatives by what left it.
    in_pairs : bool
        Take inner products of all pairs of places, which cover the bias, rather than
        the derivatives by the weights, a slice of them at a time.
    """

    def __init__(self, layer, x, g, in_pairs):
        self.layer, self.in_pairs = layer, in_pairs
        self.tensors = x, g

    def joined(self, terms):
        """Return this term for the rows of all `terms`."""
        x, g = _joined(terms, 0), _joined(terms, 1)
        return Places(self.layer, x, g, self.in_pairs)

    def add(self, kernel, other, outputs):
        """Add the products with those of another set of rows, or of the same."""
        if self.in_pairs:
            self._add_pairs(kernel, other, outputs)
            return
        n_rows = max(len(self.tensors[0]), len(other.tensors[0]))
        n_slices = _n_slices(self.layer)
        weights = self.layer.weight.numel() // n_slices
        width = max(1, SLICE_VALUES // (n_rows * outputs.q * weights))
        for start in range(0, n_slices, width):
            part = slice(start, min(n_slices, start + width))
            J2 = J = self._slopes(part)
            if other is not self:
                J2 = other._slopes(part)
            _add_products(kernel, J, J2, outputs)

    def _slopes(self, part):
        x, g = self.tensors
        return weight_slopes(self.layer, x, g, part)

    def _add_pairs(self, kernel, other, outputs):
        n_places = self.tensors[1].shape[3]
        met, slopes = self._arranged(outputs)
        met2, slopes2 = (met, slopes) if other is self else other._arranged(outputs)
        has_bias = self.layer.bias is not None and self.layer.bias.requires_grad
        n_rows, n_columns = len(self.tensors[0]), len(other.tensors[0])
        values = 2 * outputs.n_kernels * (outputs.n_lines * n_places) ** 2
        smallest = _SMALL_TILE // outputs.n_lines
        for rows, columns in tiles(n_rows, n_columns, values, other is self, smallest):
            inner = met[rows].flatten(0, 1) @ met2[columns].flatten(0, 1).T
            if has_bias:
                inner += 1
            outer = slopes[:, outputs.lines(rows, n_places)]
            outer = outer @ slopes2[:, outputs.lines(columns, n_places)].mT
            tile = outputs.block(kernel, rows, columns)
            # rows, functions and places of either side
            outer, inner, tile = (
                t.view(len(t), -1, m, p, t.shape[2] // (m * p), m, p)
                for t, m, p in (
                    (outer, outputs.n_lines, n_places),
                    (inner[None], 1, n_places),
                    (tile, outputs.n_lines, 1),
                )
            )
            if n_places == 1:
                tile.addcmul_(outer, inner)
            else:
                tile += outer.mul_(inner).sum((3, 6), keepdim=True)

    def _arranged(self, outputs):
        """Return what the layer met, (rows, places, n_in), and slopes by lines."""
        x, g = self.tensors
        return _met(self.layer, x)[:, 0].mT, outputs.arrange(g.permute(0, 3, 1, 2))


def _joined(terms, i):
    return torch.cat([term.tensors[i] for term in terms])


def _add_products(kernel, J, J2, outputs):
    """Add the products of derivatives (rows, functions, weights)."""
    left = outputs.arrange(J[:, None])
    right = left if J2 is J else outputs.arrange(J2[:, None])
    smallest = _SMALL_TILE // outputs.n_lines
    for rows, columns in tiles(len(J), len(J2), 1, J2 is J, smallest):
        tile = outputs.block(kernel, rows, columns)
        rows, columns = outputs.lines(rows), outputs.lines(columns)
        for k in range(outputs.n_kernels):
            tile[k].addmm_(left[k, rows], right[k, columns].T)


def pays_in_pairs(layer, n_places, n_rows, outputs):
    """Tell whether pairs of places cost less than derivatives by the weights."""
    if getattr(layer, "groups", 1) > 1:
        return False
    n_out, n_in = len(layer.weight), layer.weight[0].numel()
    traffic = _TRAFFIC * outputs.n_kernels * outputs.n_lines**2
    pairs = n_places**2 * (n_in + outputs.n_pairs * n_out + traffic)
    making = 2 * outputs.q * n_places * n_in * n_out / n_rows
    return pairs < making + outputs.n_pairs * n_in * n_out


def weight_slopes(layer, x, g, part=None):
    """Return the derivatives by the weights, (rows, functions, weights).

    Parameters
    ----------
    layer, x, g
        See :class:`Places`.
    part : slice, default=None
        Of the groups of a grouped convolution, else of the channels that come in: only
        the weights that these meet.
    """
    part = part or slice(0, _n_slices(layer))
    n_rows, q = g.shape[:2]
    n_in = layer.weight[0].numel()
    n_met = n_in * (part.stop - part.start)
    if isinstance(layer, nn.Linear) or layer.groups == 1:
        n_met = n_in = n_met // _n_slices(layer)
        g = g.flatten(1, 2)[:, None]
    else:
        # functions and groups change places
        g = g.unflatten(2, (layer.groups, -1))[:, :, part].transpose(1, 2)
    made = g.new_empty((*g.shape[:-1], n_in))
    size = max(1, TILE_VALUES // (g.shape[-1] * n_met))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        met = _met(layer, x[rows], part).mT
        torch.matmul(g[rows], met if g.ndim == 4 else met[:, :, None], out=made[rows])
    if g.ndim == 5:
        made = made.transpose(1, 2)
    return made.reshape(n_rows, q, -1)


def _n_slices(layer):
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels if layer.groups == 1 else layer.groups


def _met(layer, x, part=slice(None)):
    """Return what the weights met, (rows, groups, n_in, places)."""
    if isinstance(layer, nn.Linear):
        x = x[..., part]
        return x.reshape(len(x), 1, -1, x.shape[-1]).mT
    if layer.groups > 1 and part != slice(None):
        width = layer.in_channels // layer.groups
        part = slice(part.start * width, part.stop * width)
    mode = layer.padding_mode.replace("zeros", "constant")
    x = F.pad(x[:, part], layer._reversed_padding_repeated_twice, mode)
    n_axes = len(layer.kernel_size)
    for axis in range(n_axes):
        step = layer.dilation[axis]
        width = (layer.kernel_size[axis] - 1) * step + 1
        x = x.unfold(2 + axis, width, layer.stride[axis])[..., ::step]
    places, kernel = range(2, 2 + n_axes), range(2 + n_axes, 2 + 2 * n_axes)
    # places last, which is far the faster order to copy
    x = x.permute(0, 1, *kernel, *places)
    x = x.reshape(len(x), -1, math.prod(x.shape[2 + n_axes :]))
    n_in = x.shape[1] if layer.groups == 1 else layer.weight[0].numel()
    return x.unflatten(1, (-1, n_in))
