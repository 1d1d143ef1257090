"""What each row may become: a ball around it, cut by a box, in one number type."""

import copy

import torch

NORMS = ("linf", "l2")


def per_row(values, like):
    """Give a tensor of one number a row the axes of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def lengths(delta):
    """Return the Euclidean length of each row, with the axes of `delta`."""
    return per_row(torch.linalg.vector_norm(delta.flatten(1), dim=1), delta)


class Region:
    """What each row may become: a ball around it, cut by a box.

    Limits are computed in float64 and rounded inward, so that they hold to the bit,
    both in the type of the rows and in float64.

    Parameters
    ----------
    x : tensor of shape (n, *sample_shape)
        In the type that rows are handed in and out.
    eps : float or tensor that broadcasts to one row
    low, high : float or tensor that broadcasts to one row
        A value of x that lies outside may stay, but goes no farther.
    norm : {"linf", "l2"}
    dtype : torch.dtype, default=None
        In which the search computes; None is that of x, float32 for integers.

    Attributes
    ----------
    x : tensor
        The rows, in `dtype`.
    floor, ceiling : tensor or None
        Limits of every value; None where there are none.
    """

    def __init__(
        self, x, eps, low=-torch.inf, high=torch.inf, norm="linf", *, dtype=None
    ):
        self.is_whole = not x.is_floating_point()
        dtype = dtype or (torch.float32 if self.is_whole else x.dtype)
        # a network of float64 must not see digits that float32 rows can't keep
        is_coarse = not self.is_whole and x.dtype.itemsize < dtype.itemsize
        self.kept = x.dtype if is_coarse else None
        self.x = x.to(dtype)
        self.norm = norm
        exact = x.to(torch.float64)
        eps, low, high = (
            torch.as_tensor(value, dtype=torch.float64, device=x.device)
            for value in (eps, low, high)
        )
        if norm == "linf" and self.is_whole:
            eps = torch.floor(eps + 1e-6)  # 16/255 * 255 may fall short of 16
        self.eps = eps
        self.floor: torch.Tensor | None = None
        self.ceiling: torch.Tensor | None = None
        if norm == "linf" or low.isfinite().any() or high.isfinite().any():
            reach = eps if norm == "linf" else torch.inf
            if self.is_whole:
                low, high = low.ceil(), high.floor()
            grid = self.kept or dtype
            self.floor = -_limit(-exact, reach, -low, grid).to(dtype)
            self.ceiling = _limit(exact, reach, high, grid).to(dtype)

    def take(self, rows):
        """Return the region of some rows."""
        part = copy.copy(self)
        part.x = self.x[rows]
        if self.floor is not None and self.ceiling is not None:
            part.floor, part.ceiling = self.floor[rows], self.ceiling[rows]
        return part

    def project(self, x):
        """Move x to the nearest point of the region, in place.

        With the norm "l2" and a box: of the ball, then of the box. As the row itself
        lies in the box, the second step only shortens what the first one left.
        """
        if self.norm == "l2":
            delta = x.sub_(self.x)
            inside = self.eps * (1 - 16 * torch.finfo(x.dtype).eps)
            shrink = (inside / lengths(delta).clamp_min_(1e-30)).clamp_max_(1)
            x = delta.mul_(shrink).add_(self.x)
        if self.floor is not None:
            torch.clamp(x, self.floor, self.ceiling, out=x)
        return x

    def random_start(self, uniforms):
        """Return a random point of the region.

        Parameters
        ----------
        uniforms : tensor of shape (n, 1 + values in a row)
            From (0, 1). The first column is the distance, of "l2" only.
        """
        # in half precision draws near 1 would be 1, where erfinv is infinite
        wide = torch.promote_types(self.x.dtype, torch.float32)
        uniforms = uniforms.to(self.x.device, wide)
        signed = uniforms[:, 1:].reshape(self.x.shape) * 2 - 1
        if self.norm == "linf":
            return self.project(signed.mul_(self.eps).add_(self.x).to(self.x.dtype))
        # normal numbers have no preferred direction; the volume within r grows as r^d
        normal = torch.erfinv(signed.clamp_(-1 + 1e-6, 1 - 1e-6))
        radius = self.eps * uniforms[:, 0] ** (1 / uniforms[0, 1:].numel())
        normal *= per_row(radius, normal) / lengths(normal).clamp_min_(1e-30)
        return self.project(normal.add_(self.x).to(self.x.dtype))

    def seen(self, x):
        """Return x as it will be handed back: whole pixels, digits of its type."""
        if self.is_whole:
            if self.norm == "l2":  # rounding to nearest could lengthen a row
                return (x - self.x).trunc_().add_(self.x)
            return x.round()
        return x if self.kept is None else x.to(self.kept).to(x.dtype)


def _limit(x, eps, high, dtype):
    """Return min(x + eps, high) rounded down to `dtype`, but not below x."""
    limit = torch.minimum(x + eps, high)
    rounded = limit.to(dtype)
    wide = rounded.to(torch.float64)
    too_far = (wide > limit) | (wide - x > eps)
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(too_far, below, rounded).maximum(x.to(dtype))


def hand_back(x, given, region):
    """Return iterates in the type in which the rows were given.

    Parameters
    ----------
    x : tensor
        As :meth:`Region.seen` returns them.
    given : tensor
        The rows that `region` was made from.
    region : Region
    """
    out = x.to(given.dtype)
    if region.is_whole:
        return out
    out = torch.where(x == region.x, given, out)  # float64 rows keep their digits
    return _pulled_in(out, given, region.eps) if region.norm == "l2" else out


def _pulled_in(out, given, eps):
    """Shorten the rows that rounding has put outside the ball, in exact steps."""
    exact = given.to(torch.float64)
    delta = out.to(torch.float64) - exact
    length = lengths(delta)
    if not (length > eps).any():
        return out
    shorter = delta * ((eps / length) * (1 - 1e-15))
    moved = (exact + shorter).to(given.dtype)
    too_far = (moved.to(torch.float64) - exact).abs() > shorter.abs()
    moved = torch.where(too_far, torch.nextafter(moved, given), moved)
    return torch.where(length > eps, moved, out)
