"""What it costs to match a pixel of one image to a displaced one of another."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from skpoison.utils._validation import check_option

_CENSUS_RADIUS = 2
# ITU-R BT.601. The mean of the channels leaves more ties and more noise: 9.6 % instead
# of 8.3 % bad pixels on Teddy
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def matching_cost(left, right, max_disparity, cost="census"):
    """Return the cost of each disparity of each pixel of the left image.

    Parameters
    ----------
    left, right : ndarray of shape (height, width, n_channels)
        Rectified images, floats in [0, 1]. The pixel (y, x) of the left one at
        disparity d matches (y, x - d) of the right one.
    max_disparity : int
        Disparities are 0 to ``max_disparity - 1``.
    cost : {"census", "adgrad", "bt", "gradient"} or callable, default="census"
        As in :class:`LiftedStereo`.

    Returns
    -------
    costs : ndarray of shape (height, width, max_disparity)
        Where the match lies outside the right image, the largest cost there is.
        Pixels lie together in memory, disparities apart.
    """
    slices = list(disparity_costs(left, right, np.arange(max_disparity), cost))
    return np.moveaxis(np.stack(slices), 0, -1)


def disparity_costs(left, right, disparities, cost="census") -> Iterator[np.ndarray]:
    """Yield the costs (height, width) of one disparity after the other.

    Between whole disparities the right image is interpolated linearly. Only one slice
    is held at a time, except for a callable.
    """
    if callable(cost):
        compare = _called(cost, left, int(np.max(disparities)) + 1)
    else:
        compare = _compared(COSTS[check_option("cost", cost, COSTS)], left)
    shifted: dict[float, Callable] = {}
    for disparity in disparities:
        whole = int(disparity)
        part = float(disparity - whole)
        if part not in shifted:
            shifted[part] = compare(_shift(right, part))
        yield shifted[part](whole, part > 0)


def displacement_costs(first, second, radius, largest=0.15) -> Iterator[np.ndarray]:
    """Yield the costs (height, width) of displacements, row by row.

    The mean absolute difference of the channels of first[p] and second[p + f], at most
    `largest`, which is also the cost where p + f lies outside.
    """
    height, width = first.shape[:2]
    first, second = (_channels(image).astype(np.float32) for image in (first, second))
    steps = range(-radius, radius + 1)
    for dy in steps:
        rows, rows_2 = _overlap(dy, height)
        for dx in steps:
            columns, columns_2 = _overlap(dx, width)
            costs = np.full((height, width), largest, dtype=np.float32)
            difference = abs(first[:, rows, columns] - second[:, rows_2, columns_2])
            costs[rows, columns] = np.minimum(difference.mean(axis=0), largest)
            yield costs


def _overlap(step, size):
    """Return the slices of p and of p + step where both lie in [0, size)."""
    step = max(-size, min(step, size))
    low, high = max(0, -step), size - max(0, step)
    return slice(low, high), slice(low + step, high + step)


def _shift(right, part):
    """Return the image whose pixel x is right[x - part]."""
    if part == 0.0:
        return right
    before = np.concatenate([right[:, :1], right[:, :-1]], axis=1)
    return (1 - part) * right + part * before


def _compared(cost, left):
    """Return what makes, of a right image, a function from disparity to costs."""
    here = cost.features(left)
    height, width, n_channels = left.shape
    largest = cost.largest * (n_channels if cost.by_channel else 1)

    def with_right(right):
        there = cost.features(right)

        def costs_of(whole, between):
            costs = np.full((height, width), largest, dtype=np.float32)
            first = whole + between  # the column that an interpolation needs besides
            if first < width:
                a = [feature[..., first:] for feature in here]
                b = [feature[..., first - whole : width - whole] for feature in there]
                costs[:, first:] = cost.compare(a, b)
            return costs

        return costs_of

    return with_right


def _called(cost, left, n_disparities):
    """Do what _compared does with a user's function."""

    def with_right(right):
        volume = np.asarray(cost(left, right, n_disparities))
        wanted = (*left.shape[:2], n_disparities)
        if volume.shape != wanted:
            raise ValueError(
                f"cost must return costs of shape {wanted}, got {volume.shape}"
            )
        if volume.dtype.kind not in "fiu" or not np.isfinite(volume).all():
            raise ValueError("cost must return finite numbers")
        return lambda whole, between: volume[:, :, whole]

    return with_right


class _Cost(NamedTuple):
    features: Callable  # of an image: arrays whose last axes are height and width
    compare: Callable  # of the features of pixels that match
    largest: float  # out of view
    by_channel: bool = False  # whether `largest` counts each channel


def _channels(image):
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


def _luminance(image):
    # float32 makes levels equal again that differ by the rounding of a sum
    weights = _LUMINANCE if image.shape[2] == 3 else np.full(image.shape[2], 1.0)
    return (image @ (weights / weights.sum())).astype(np.float32)


def _census(image):
    """Return a bit for each neighbour: is it darker?"""
    grey, r = _luminance(image), _CENSUS_RADIUS
    height, width = grey.shape
    padded = np.pad(grey, r, mode="edge")
    code = np.zeros(grey.shape, dtype=np.uint32)
    for dy in range(2 * r + 1):
        for dx in range(2 * r + 1):
            if (dy, dx) != (r, r):
                code <<= np.uint32(1)
                code |= padded[dy : dy + height, dx : dx + width] < grey
    return (code,)


def _hamming(here, there):
    n_bits = (2 * _CENSUS_RADIUS + 1) ** 2 - 1
    return count_bits(here[0] ^ there[0]) * np.float32(1 / n_bits)


def count_bits(codes):
    """Return the number of set bits of each uint32."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(codes)
    codes = codes - ((codes >> np.uint32(1)) & np.uint32(0x55555555))
    codes = (codes & np.uint32(0x33333333)) + (
        (codes >> np.uint32(2)) & np.uint32(0x33333333)
    )
    codes = (codes + (codes >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return (codes * np.uint32(0x01010101)) >> np.uint32(24)


def _adgrad(image):
    grey = 255 * image.mean(axis=2).astype(np.float32)
    slope = np.gradient(grey, axis=1) if grey.shape[1] > 1 else np.zeros_like(grey)
    return (255 * _channels(image)).astype(np.float32), slope


def _compare_adgrad(here, there):
    difference = abs(here[0] - there[0]).mean(axis=0)
    slope = abs(here[1] - there[1])
    return 0.1 * np.minimum(difference, 7) + 0.9 * np.minimum(slope, 2)


def _half_samples(image):
    """Return 8-bit values, and the least and the largest up to half a pixel away."""
    values = np.rint(255 * _channels(image)).astype(np.int16)
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1)), mode="edge")
    before = (padded[..., :-2] + values) // 2
    after = (padded[..., 2:] + values) // 2
    low = np.minimum(np.minimum(before, after), values)
    high = np.maximum(np.maximum(before, after), values)
    return values, low, high


def _compare_bt(here, there):
    value, low, high = here
    value_2, low_2, high_2 = there
    forth = np.maximum(np.maximum(value - high_2, low_2 - value), 0)
    back = np.maximum(np.maximum(value_2 - high, low - value_2), 0)
    return np.minimum(forth, back).sum(axis=0)


def _gradient(image):
    values = _channels(image).astype(np.float32)
    along = np.diff(values, axis=2, append=values[:, :, -1:])
    down = np.diff(values, axis=1, append=values[:, -1:])
    return along, down


def _compare_gradient(here, there):
    along, down = (
        np.minimum(abs(a - b).sum(axis=0), 0.1)
        for a, b in zip(here, there, strict=True)
    )
    return along + down


COSTS = {
    "census": _Cost(_census, _hamming, 0.5),
    "adgrad": _Cost(_adgrad, _compare_adgrad, 0.1 * 7 + 0.9 * 2),
    "bt": _Cost(_half_samples, _compare_bt, 255, by_channel=True),
    "gradient": _Cost(_gradient, _compare_gradient, 0.2),
}
