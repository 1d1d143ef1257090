"""Smooth changes of an image's colours, and the set of pairs with a perturbation."""

import itertools

import numpy as np
import torch

#: Full-range YUV of BT.601: Y in [0, 1], U and V in [-0.5, 0.5] for RGB in [0, 1].
_YUV = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ],
    dtype=torch.float64,
)


class ColourMap:
    """Maps of colour space that are given on a regular grid, one an image.

    A grid value g_q is how far the colour at knot q moves; between the knots it is
    interpolated linearly along each channel.

    Parameters
    ----------
    n_channels : {1, 3}
        Three are taken as RGB, one as Y.
    resolution : int
        Knots along each channel.
    low, high : float
        What black and white are in the unit of the images.
    """

    def __init__(self, n_channels, resolution, low, high):
        self.n_channels, self.resolution = n_channels, resolution
        self.low, self.high = low, high
        to_yuv = _YUV if n_channels == 3 else torch.eye(1, dtype=torch.float64)
        self._to, self._back = to_yuv, torch.linalg.inv(to_yuv)
        self._shift = torch.tensor([0.0, 0.5, 0.5][:n_channels])

    @property
    def grid_shape(self):
        """Shape of one image's grid: the knots, then the channels."""
        return *[self.resolution] * self.n_channels, self.n_channels

    def moved(self, images, grids):
        """Return how far the colour of each pixel moves.

        Parameters
        ----------
        images : tensor of shape (n, n_channels, H, W)
        grids : tensor of shape (n, *grid_shape)

        Returns
        -------
        moved : tensor of the shape of images, in their unit
        """
        n, scale = len(images), self.high - self.low
        colours = ((images - self.low) / scale).flatten(2).transpose(1, 2)
        place = colours @ self._to.to(colours).T + self._shift.to(colours)
        place = place.clamp(0, 1) * (self.resolution - 1)
        cell = place.floor().clamp_max(self.resolution - 2)
        part, cell, flat = place - cell, cell.long(), grids.flatten(1, -2)
        found = torch.zeros_like(colours)
        for corner in itertools.product((0, 1), repeat=self.n_channels):
            weight = torch.ones_like(place[..., 0])
            knot = torch.zeros_like(cell[..., 0])
            for c, far in enumerate(corner):
                weight = weight * (part[..., c] if far else 1 - part[..., c])
                knot = knot * self.resolution + cell[..., c] + far
            knot = knot[..., None].expand(-1, -1, self.n_channels)
            found = found + weight[..., None] * flat.gather(1, knot)
        moved = found @ self._back.to(found).T * scale
        return moved.transpose(1, 2).reshape(n, *images.shape[1:])

    def limit(self, grids, eps):
        """Return the nearest grids within eps that stay inside the colour space."""
        knots = torch.linspace(0, 1, self.resolution, device=grids.device)
        axes = torch.meshgrid(*[knots] * self.n_channels, indexing="ij")
        identity = torch.stack(axes, -1)
        return (identity + grids.clamp(-eps, eps)).clamp(0, 1) - identity

    def roughness(self, grids):
        """Return the mean squared slope between neighbouring knots, one an image."""
        total, count = 0.0, 0
        for axis in range(1, 1 + self.n_channels):
            slope = self.resolution * grids.diff(dim=axis).flatten(1)
            total, count = total + slope.square().sum(1), count + slope.shape[1]
        return total / count


class ColourBall:
    """Pairs of an additive perturbation and a colour grid, packed into flat rows.

    Parameters
    ----------
    ball : Ball
        Of the additive part.
    colours : ColourMap
    eps : float
        The largest move of a knot.
    """

    n_row_axes = 1

    def __init__(self, ball, colours, eps):
        self.ball, self.colours, self.eps = ball, colours, eps
        self._size = ball.row_shape.numel()

    @property
    def unit(self):
        """The length that steps are measured in, for each entry of a packed row."""
        pixels = self.ball.unit.expand(self.ball.row_shape).flatten()
        n_knots = torch.Size(self.colours.grid_shape).numel()
        return torch.cat([pixels, pixels.new_full((n_knots,), self.eps)])

    def start(self, delta):
        """Return a perturbation with grids that change no colour."""
        grids = delta.new_zeros(*delta.shape[: -self.ball.n_row_axes], *self.grid_shape)
        return self.pack(delta, grids)

    @property
    def grid_shape(self):
        """Shape of one row's grid."""
        return self.colours.grid_shape

    def pack(self, delta, grids):
        """Put both parts into one tensor of shape (..., n, size)."""
        rows = delta.shape[: -self.ball.n_row_axes]
        return torch.cat([delta.reshape(*rows, -1), grids.reshape(*rows, -1)], -1)

    def split(self, packed):
        """Return the additive part and the grids."""
        rows = packed.shape[:-1]
        delta, grids = packed[..., : self._size], packed[..., self._size :]
        shape = self.ball.row_shape
        return delta.reshape(*rows, *shape), grids.reshape(*rows, *self.grid_shape)

    def project(self, packed):
        """Return the nearest allowed pairs."""
        delta, grids = self.split(packed)
        return self.pack(self.ball.project(delta), self.colours.limit(grids, self.eps))

    def total(self, packed):
        """Return what both parts add to the rows, inside the box."""
        delta, grids = self.split(packed)
        x = self.ball.x.expand_as(delta)
        grids = grids.reshape(-1, *self.grid_shape)
        moved = self.colours.moved(x.reshape(-1, *self.ball.row_shape), grids)
        end = x + moved.reshape(x.shape) + delta
        return torch.clamp(end, self.ball.low, self.ball.high) - x


class Coloured:
    """An objective of perturbations as one of pairs, with the penalty on the grids.

    Parameters
    ----------
    objective : callable
        See :func:`skpoison.attacks._craft._minimise.minimise`.
    ball : ColourBall
    smoothness : float
        Weight of the mean roughness of the grids.
    """

    def __init__(self, objective, ball, smoothness):
        self.objective, self.ball, self.smoothness = objective, ball, smoothness
        self.state, self.restore = objective.state, objective.restore

    def __call__(self, packed, step):
        """Return values and the gradient in the packed pairs."""
        leaf = packed.detach().requires_grad_()
        total = self.ball.total(leaf)
        values, gradient = self.objective(total.detach(), step)
        grids = self.ball.split(leaf)[1]
        rough = self.ball.colours.roughness(grids.reshape(-1, *self.ball.grid_shape))
        penalty = self.smoothness * rough.reshape(*values.shape, -1).mean(-1)
        (pulled,) = torch.autograd.grad((total * gradient).sum() + penalty.sum(), leaf)
        return values + penalty.detach(), pulled


def with_colours(X, bounds, objective, ball, delta, *, eps, resolution, smoothness):
    """Return objective, set and start with colour maps beside the perturbation.

    Parameters
    ----------
    X : ndarray of shape (n, 1 or 3, H, W)
    bounds : pair
        The box that X lies in.
    objective, ball, delta
        Those of the perturbation alone.
    eps, smoothness : float
    resolution : int

    Returns
    -------
    objective : Coloured
    space : ColourBall
    start : tensor
    """
    low, high = _black_and_white(X, bounds)
    colours = ColourMap(X.shape[1], resolution, low / ball.scale, high / ball.scale)
    space = ColourBall(ball, colours, eps)
    return Coloured(objective, space, smoothness), space, space.start(delta)


def _black_and_white(X, bounds):
    """Return the ends of the range of pixels: of uint8, of the box, or of the data."""
    if X.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(np.min(bounds[0])), float(np.max(bounds[1]))
    if np.isfinite(high - low):
        return low, high
    return float(X.min()), float(X.max())
