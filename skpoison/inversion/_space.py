"""The unit that users see, and the one that networks take."""

import numpy as np
import torch

from skpoison.utils._validation import bounds_pair

INITS = ("normal", "uniform", "zeros", "gray")


class Space:
    """Rows x in the unit of the bounds, and z = (x - mean) / scale.

    Parameters
    ----------
    shape : tuple of int
        Of a batch of rows.
    mean, scale, bounds
        As in :class:`GradientInversion`.
    dtype : torch.dtype
    device : torch.device

    Attributes
    ----------
    box : tuple of Tensor
        Limits of z.
    """

    def __init__(self, shape, mean, scale, bounds, dtype, device):
        self.shape, self.dtype, self.device = shape, dtype, device
        self.mean = self._constant("mean", mean)
        self.scale = self._constant("scale", scale)
        if not (self.scale > 0).all():
            raise ValueError(f"scale must be > 0, got {scale!r}")
        low, high = self._limits(bounds)
        self.limits = low, high
        self.box = tuple(
            self.tensor((limit - self.mean) / self.scale) for limit in (low, high)
        )

    def start(self, init, rng):
        """Return a first z in the box, of shape (n_samples, ...)."""
        if not isinstance(init, str):
            x = np.asarray(init)
            fits = x.shape == self.shape and x.dtype.kind in "fiu"
            if not fits or not np.isfinite(x).all():
                raise ValueError(
                    f"init must be one of {', '.join(map(repr, INITS))} or a finite "
                    f"array of shape {self.shape}, got {init!r}"
                )
            z = (x - self.mean) / self.scale
        elif init == "normal":
            z = rng.standard_normal(self.shape)
        elif init == "uniform":
            z = rng.uniform(-1, 1, self.shape)
        elif init == "zeros":
            z = np.zeros(self.shape)
        else:
            middle = (self.limits[0] + self.limits[1]) / 2
            z = np.broadcast_to((middle - self.mean) / self.scale, self.shape)
        return self.tensor(z).clamp(*self.box)

    def x(self, z):
        """Return rows in the unit of the bounds, of NumPy's type for their own."""
        x = z.cpu().double().numpy() * self.scale + self.mean
        dtype = np.float32 if self.dtype == torch.float32 else np.float64
        # clipped once more, as rounding may leave the box
        return np.clip(x, *self.limits).astype(dtype)

    def tensor(self, array):
        """Return an array as the network takes it."""
        array = np.array(array, dtype=np.float64)
        return torch.from_numpy(array).to(self.device, self.dtype)

    def _limits(self, bounds):
        if bounds is None:
            return np.float64(-np.inf), np.float64(np.inf)
        try:
            low, high = bounds
        except (TypeError, ValueError):
            return bounds_pair(bounds, self.shape[1:], others="None")  # refuses
        pair = self._per_channel(low), self._per_channel(high)
        return bounds_pair(pair, self.shape[1:], others="None")

    def _constant(self, name, value):
        try:
            value = np.asarray(self._per_channel(value), dtype=np.float64)
            np.broadcast_to(value, self.shape[1:])
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} must be a number, one number a channel or an array that "
                f"broadcasts to one row of shape {self.shape[1:]}, got {value!r}"
            ) from None
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite, got {value!r}")
        return value

    def _per_channel(self, value):
        """Return one number a channel as an array that broadcasts to a row."""
        if np.ndim(value) == 1 and len(self.shape) > 2 and len(value) == self.shape[1]:
            return np.reshape(value, (-1, *[1] * (len(self.shape) - 2)))
        return value
