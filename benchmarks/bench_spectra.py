"""Singular values and norms of convolutions against other ways to have them."""

import numpy as np
import torch
from torch import nn

from skpoison.landscape import conv_singular_values, operator_norm

#: Largest ratios that are good enough: half of the frequencies are conjugates.
_BARS = {"NumPy, all frequencies": 0.9, "power iteration": 0.8}


def all_frequencies(weight, n):
    """Return the singular values as published: a transform, and one matrix each."""
    transforms = np.fft.fft2(weight, (n, n), axes=(2, 3))
    return np.linalg.svd(transforms.transpose(2, 3, 0, 1), compute_uv=False)


def power_iteration(layer, n, tol):
    """Return the norm by power iteration on pairs of products, and how many pairs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(
        1, layer.in_channels, n, n, generator=generator, dtype=torch.float64
    )
    weight, last, square, count = layer.weight.detach().double(), -1.0, 0.0, 0
    while abs(square - last) > tol * square:
        last, count = square, count + 1
        y = nn.functional.conv2d(x, weight, padding=layer.padding)
        x = nn.functional.conv_transpose2d(y, weight, padding=layer.padding)
        square = float(x.norm())
        x = x / square
    return square**0.5, count


def measure(bench):
    """Time all singular values, and the largest one of what is padded with zeros."""
    channels, n = bench.size(64, 16), bench.size(32, 8)
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    weight = layer.weight.detach().double().numpy()
    bench.title(f"3x3 convolution, {channels} to {channels} channels, {n} x {n} pixels")
    ours, times = conv_singular_values(weight, n)
    theirs = all_frequencies(weight, n)
    repeated = np.repeat(ours, times, axis=0)
    gap = np.abs(np.sort(repeated.ravel()) - np.sort(theirs.ravel())).max()
    bench.compare(
        "all singular values, circular",
        lambda: conv_singular_values(weight, n),
        {"NumPy, all frequencies": lambda: all_frequencies(weight, n)},
        repeats=5,
        bars=_BARS,
    )
    # products in float64 are slow where images are large
    few = n // 2
    bench.compare(
        f"operator norm, {few} x {few}, zeros at the border",
        lambda: operator_norm(layer, few),
        {"power iteration": lambda: power_iteration(layer, few, 1e-8)},
        repeats=1,
        bars=_BARS,
    )
    norm = operator_norm(layer, few)
    iterated, count = power_iteration(layer, few, 1e-8)
    print(f"\nlargest difference of singular values {gap:.1e}")
    print(
        f"power iteration below the norm by {(norm - iterated) / norm:.1e} of it after "
        f"{count} pairs of products"
    )
