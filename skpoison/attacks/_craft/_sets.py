"""What a perturbation may be: a ball around each row, inside the box of the data."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from skpoison.utils._tensors import project, quantize
from skpoison.utils._validation import check_bounds

#: Published radius, as a share of the range of the data.
DEFAULT_EPS = 16 / 255


def resolve_eps(eps, X, bounds):
    """Return a radius in the unit of X; None is 16/255 of the range.

    The range is 255 for uint8 images, that of finite `bounds` where they are given and
    that of X otherwise.
    """
    if eps is not None:
        return np.asarray(eps, dtype=float)
    if X.dtype == np.uint8:
        return np.asarray(16.0)
    low, high = check_bounds(bounds, X)
    spread = np.asarray(high, dtype=float) - low
    if isinstance(bounds, str) or not np.isfinite(spread).all():
        spread = np.asarray(float(X.max()) - float(X.min()))
    return DEFAULT_EPS * spread


def noise(init, shape, generator):
    """Draw starts in units of the radius, see :meth:`Ball.start`."""
    if init == "zero":
        return torch.zeros(shape)
    if init == "uniform":
        return 2 * torch.rand(shape, generator=generator) - 1
    return torch.randn(shape, generator=generator).clamp_(-1, 1)


@dataclass
class Ball:
    """Rows as tensors, and the perturbations allowed to them.

    Attributes
    ----------
    x : tensor of shape (..., n, *row_shape)
        Clean rows in the unit that networks take.
    eps, low, high : tensors that broadcast to one row
    norm : {"linf", "l2"}
    n_row_axes : int
    scale : float
        What one unit of the tensors is in the unit of X: 255 for uint8 images.
    """

    x: torch.Tensor
    eps: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    norm: str
    n_row_axes: int
    scale: float

    @classmethod
    def around(cls, X, *, eps, norm, bounds, box=None, device="cpu"):
        """Make the ball for rows of X.

        Parameters
        ----------
        X : ndarray of shape (..., n, *row_shape)
        eps : float or array, in the unit of X
        norm : {"linf", "l2"}
        bounds : (low, high)
            As :func:`check_bounds` returns them.
        box : tuple of int, default=None
            Shape of one row; None is that of X without its first axis.
        """
        scale = 255.0 if X.dtype == np.uint8 else 1.0

        def tensor(a):
            a = np.asarray(a)
            if a.dtype != np.float32:  # division in float64, rounded once
                a = (a / scale).astype(np.float32)
            return torch.as_tensor(a, device=device)

        low, high = (np.asarray(b, dtype=float) for b in bounds)
        row_shape = X.shape[1:] if box is None else box
        x = tensor(X)
        if x.data_ptr() == X.ctypes.data:
            x = x.clone()  # float32 rows share the caller's memory
        return cls(
            x,
            tensor(np.asarray(eps, dtype=float)),
            tensor(low),
            tensor(high),
            norm,
            len(row_shape),
            scale,
        )

    @property
    def row_shape(self):
        """Shape of one row."""
        return self.x.shape[self.x.ndim - self.n_row_axes :]

    @property
    def unit(self):
        """The length that steps are measured in, for each entry of a row.

        eps itself; of an l2 ball the share of one entry, ``eps / sqrt(d)``; where eps
        is infinite the width of the box.
        """
        unit = self.eps
        if self.norm == "l2":
            unit = unit / self.row_shape.numel() ** 0.5
        width = torch.where(
            torch.isfinite(self.high - self.low), self.high - self.low, 1
        )
        return torch.where(torch.isfinite(unit), unit, width)

    def project(self, delta):
        """Return the nearest allowed perturbations; ball first, then the box."""
        if self.norm == "linf":
            delta = torch.clamp(delta, -self.eps, self.eps)
        else:
            axes = tuple(range(-self.n_row_axes, 0))
            length = delta.square().sum(axes, keepdim=True).sqrt()
            delta = delta * (self.eps / (length + 1e-30)).clamp_max(1.0)
        return torch.clamp(self.x + delta, self.low, self.high) - self.x

    def start(self, init, shape, generator):
        """Draw start perturbations, allowed ones.

        Parameters
        ----------
        init : {"randn", "uniform", "zero"}
        shape : tuple of int
            (..., n, *row_shape), see :attr:`x`.
        generator : torch.Generator
            On the CPU, so that every device starts from the same draws.
        """
        draws = noise(init, shape, generator)
        return self.project(draws.to(self.x.device) * self.unit)

    def expanded(self, delta):
        """Return the same ball around every row of `delta`, leading axes merged."""
        x = self.x.expand_as(delta).reshape(-1, *self.row_shape)
        return replace(self, x=x)

    def legal(self, delta, X, bounds, eps):
        """Return perturbations in the unit and type of X that X can bear.

        Parameters
        ----------
        delta : tensor of shape (n, *row_shape)
        X : ndarray of shape (n, *row_shape)
        bounds : (low, high)
        eps : float or array, in the unit of X

        Returns
        -------
        delta : ndarray
            Inside ball and box after it was added and rounded; whole numbers for uint8.
        """
        low, high = bounds
        exact = delta.detach().cpu().numpy().astype(float) * self.scale
        wide = X.astype(float)
        exact = project(exact, wide, np.asarray(eps, dtype=float), self.norm, low, high)
        if X.dtype == np.uint8:
            exact = quantize(exact, eps, self.norm)
            return np.clip(wide + exact, np.ceil(low), np.floor(high)) - wide
        return inside(exact.astype(X.dtype), X, low, high)


def inside(delta, X, low, high):
    """Shorten what rounding in ``X + delta`` carried over the box."""
    low, high = np.asarray(low, dtype=X.dtype), np.asarray(high, dtype=X.dtype)
    for _ in range(2):
        end = X + delta
        beyond = (end < low) | (end > high)
        if not beyond.any():
            break
        delta = np.where(beyond, np.nextafter(delta, np.zeros_like(delta)), delta)
    return np.where((X + delta < low) | (X + delta > high), 0, delta).astype(X.dtype)
