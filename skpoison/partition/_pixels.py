"""Grids of pixels: images, the steps between neighbours, what an edge weighs."""

import numbers

import numpy as np
from sklearn.utils import check_array

from skpoison.utils._validation import check_number

# of pixel (y, x): right, down, down-right, down-left; edges are stored in this order
OFFSETS: dict[int | str, tuple] = {
    4: ((0, 1), (1, 0)),
    8: ((0, 1), (1, 0), (1, 1), (1, -1)),
}
OFFSETS["isotropic"] = OFFSETS[4]
# Cauchy-Crofton: what makes the weight of a cut approach the length of the interface
_CROFTON = {1: np.pi / 8, 2: np.pi / (8 * np.sqrt(2))}


def offset_slices(offset):
    """Return the slices of an image that hold the two ends of the edges of a step."""
    dy, dx = offset
    rows = (slice(None, -dy or None), slice(dy, None))
    if dx >= 0:
        columns = (slice(None, -dx or None), slice(dx, None))
    else:
        columns = (slice(-dx, None), slice(None, dx))
    return (rows[0], columns[0]), (rows[1], columns[1])


def check_image(image, name="image"):
    """Return an image as finite float64 of shape (height, width, n_channels).

    Parameters
    ----------
    image : array-like of shape (height, width) or (height, width, n_channels)
        uint8 is divided by 255; other numbers and bool are taken as they are.
    name : str, default="image"
        The parameter, for the messages.

    Returns
    -------
    image : ndarray of shape (height, width, n_channels)

    Raises
    ------
    ValueError
        Another number of dimensions, an empty image, NaN or infinite values.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(
            f"{name} must have shape (height, width) or (height, width, n_channels), "
            f"got {image.shape}"
        )
    unit = 255.0 if image.dtype == np.uint8 else 1.0
    image = check_array(image, dtype=np.float64, allow_nd=True, input_name=name)
    image = image.reshape(*image.shape[:2], -1)
    return image if unit == 1.0 else image / unit


def check_contrast(contrast):
    """Raise unless contrast is a pair (sigma, low) of numbers in range."""
    try:
        sigma, low = contrast
    except (TypeError, ValueError):
        raise ValueError(
            f"contrast must be None or a pair (sigma, low), got {contrast!r}"
        ) from None
    check_number("contrast[0]", sigma, low=0.0, strict=True)
    check_number("contrast[1]", low, low=0.0, high=1.0)


def contrast_factors(first, second, contrast):
    """Return the factors of edges: small where their two pixels differ.

    Parameters
    ----------
    first, second : ndarray of shape (..., n_channels)
        The pixels at both ends, numbers in [0, 1].
    contrast : tuple (sigma, low)

    Returns
    -------
    factors : ndarray of shape (...)
    """
    sigma, low = contrast
    difference = first - second
    unit = np.full(difference.shape[-1], -255.0 / (sigma * difference.shape[-1]))
    factors = np.exp(np.abs(difference, out=difference) @ unit)
    factors *= 1 - low
    factors += low
    return factors


class PixelEdges:
    """Edges between pixels, step by step: their ends and their weights.

    Parameters
    ----------
    shape : tuple (height, width)
    connectivity : {4, 8, "isotropic"}
    image : ndarray of shape (height, width, n_channels) or None
    contrast : tuple (sigma, low) or None
    """

    def __init__(self, shape, connectivity, image, contrast):
        if isinstance(connectivity, bool) or connectivity not in tuple(OFFSETS):
            raise ValueError(
                f"connectivity must be one of 4, 8, 'isotropic', got {connectivity!r}"
            )
        self.shape = check_shape(shape)
        self.connectivity = connectivity
        self.image, self.contrast = image, contrast
        if contrast is None:
            return
        check_contrast(contrast)
        if image is None:
            raise ValueError("contrast needs the image, got image=None")
        self.image = check_image(image)
        if self.image.shape[:2] != self.shape:
            raise ValueError(
                f"image has shape {self.image.shape[:2]}, but the grid {self.shape}"
            )

    def steps(self):
        """Yield the slices of the two ends, and the length of the edges between."""
        for offset in OFFSETS[self.connectivity]:
            diagonal = abs(offset[0]) + abs(offset[1])
            length = _CROFTON[diagonal] if self.connectivity == 8 else 1.0
            yield *offset_slices(offset), length

    def factors(self, here, there, chosen=...):
        """Return the contrast's factors of the chosen edges of a step."""
        if self.contrast is None:
            return 1.0
        first, second = self.image[here][chosen], self.image[there][chosen]
        return contrast_factors(first, second, self.contrast)


def check_shape(shape):
    if (
        not isinstance(shape, tuple | list)
        or len(shape) != 2
        or not all(
            isinstance(side, numbers.Integral) and int(side) > 0 for side in shape
        )
    ):
        raise ValueError(f"shape must be a pair (height, width), got {shape!r}")
    return int(shape[0]), int(shape[1])
