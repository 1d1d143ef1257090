"""Layers as linear maps: as they are, and as matrices with the same singular values."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from skpoison.utils import local_torch_seed
from skpoison.utils._tensors import evaluating
from skpoison.utils._validation import check_number

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LAYERS = (nn.Linear, *CONVOLUTIONS.values())
OPERATORS = ("fft", "reshaped")


class Matrix:
    """A weight as one matrix: that of a linear layer, or a kernel reshaped."""

    def blocks(self, weight):
        """Return the matrix, in a stack of one."""
        return weight.flatten(1)[None]

    def multiplicity(self):
        """Return how often each block occurs."""
        return torch.ones(1, dtype=torch.int64)

    def weight(self, blocks, weight):
        """Return the weight that has these blocks."""
        return blocks[0].view_as(weight)


@dataclass(frozen=True)
class Circular:
    """A kernel as the blocks of its convolution with circular padding.

    A convolution of stride s is one of stride 1 on the s * s coarser images that take
    every s-th pixel, as further channels. The discrete Fourier transform makes that
    block diagonal: a matrix a frequency. Both only turn inputs and outputs, so that
    the singular values of all blocks are those of the convolution.

    Parameters
    ----------
    size, stride, dilation : tuple of int
        The strides divide the size.
    groups : int
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def _coarse(self):
        return [n // s for n, s in zip(self.size, self.stride, strict=True)]

    def _taps(self, weight):
        """Return the pixel under each entry of the kernel; some may share one."""
        position = torch.zeros(1, dtype=torch.int64, device=weight.device)
        sides = zip(weight.shape[2:], self.size, self.dilation, strict=True)
        for k, n, d in sides:
            along = torch.arange(k, device=weight.device) * d % n
            position = (position[:, None] * n + along).flatten()
        return position

    def _spread(self, weight):
        """Return the kernel on all pixels."""
        full = weight.new_zeros(*weight.shape[:2], math.prod(self.size))
        return full.index_add(2, self._taps(weight), weight.flatten(2))

    def blocks(self, weight):
        """Return matrices of shape (groups, *frequencies, outputs, inputs).

        Frequencies are half of all: the others have the conjugate matrices.
        """
        n_dims, coarse = len(self.size), self._coarse()
        split = [n for pair in zip(coarse, self.stride, strict=True) for n in pair]
        full = self._spread(weight).reshape(*weight.shape[:2], *split)
        pixels = [2 + 2 * i for i in range(n_dims)]
        full = full.permute(0, 1, *[p + 1 for p in pixels], *pixels)
        full = full.reshape(self.groups, len(weight) // self.groups, -1, *coarse)
        spectrum = torch.fft.rfftn(full, dim=list(range(3, 3 + n_dims)))
        return spectrum.permute(0, *range(3, 3 + n_dims), 1, 2)

    def multiplicity(self):
        """Return how often each of the blocks occurs among all frequencies."""
        *others, last = self._coarse()
        times = torch.full((last // 2 + 1,), 2)
        times[0] = 1
        if last % 2 == 0:
            times[-1] = 1
        return times.expand(self.groups, *others, -1)

    def weight(self, blocks, weight):
        """Return the kernel of the convolution with these blocks, cut to its support.

        Parameters
        ----------
        blocks : tensor
        weight : tensor
            The kernel before. Where several of its entries lie on one pixel, as of a
            kernel larger than the image, each takes an equal share of the change.
        """
        n_dims, coarse = len(self.size), self._coarse()
        full = blocks.permute(0, -2, -1, *range(1, 1 + n_dims))
        full = torch.fft.irfftn(full, s=coarse, dim=list(range(3, 3 + n_dims)))
        full = full.reshape(*weight.shape[:2], *self.stride, *coarse)
        order = [2 + i + shift for i in range(n_dims) for shift in (n_dims, 0)]
        full = full.permute(0, 1, *order).reshape(*weight.shape[:2], -1)
        taps = self._taps(weight)
        shared = torch.bincount(taps, minlength=math.prod(self.size))[taps]
        change = (full - self._spread(weight))[..., taps] / shared
        return weight + change.view_as(weight)


def per_side(name, value, n_dims, low=1):
    """Return a number, or one a side of an image, as a tuple of int >= `low`."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * n_dims
    for side in values:
        check_number(name, side, low=low, integer=True)
    if len(values) != n_dims:
        raise ValueError(
            f"{name} must be one number or {n_dims}, one a side, got {value!r}"
        )
    return tuple(map(int, values))


def check_input_size(weight, input_size):
    """Return the sides of what a kernel moves over; a matrix has none."""
    if weight.ndim == 2:
        if input_size is not None:
            raise ValueError(
                "input_size must be None for a weight of two dimensions, which is a "
                f"matrix, got {input_size!r}"
            )
        return ()
    if input_size is None:
        raise ValueError(
            "input_size must be the sides of the images that the kernel of shape "
            f"{tuple(weight.shape)} moves over; weight.reshape(len(weight), -1) is "
            "the matrix of its entries"
        )
    return per_side("input_size", input_size, weight.ndim - 2)


def check_groups(weight, groups):
    """Raise unless the outputs of a kernel can be parted so."""
    check_number("groups", groups, low=1, integer=True)
    if len(weight) % groups:
        raise ValueError(f"groups={groups} must divide the {len(weight)} outputs")


def circular_form(weight, input_size, stride=1, dilation=1, groups=1):
    """Return the matrices of a weight, the kernel's padding being circular."""
    size = check_input_size(weight, input_size)
    if not size:
        return Matrix()
    stride = per_side("stride", stride, len(size))
    dilation = per_side("dilation", dilation, len(size))
    check_groups(weight, groups)
    if any(n % s for n, s in zip(size, stride, strict=True)):
        raise ValueError(
            f"stride={stride} must divide input_size={size}, for circular padding"
        )
    return Circular(size, stride, dilation, groups)


def layer_form(layer, size, operator):
    """Return the matrices of a layer: "fft" or "reshaped".

    A size that the stride does not divide is rounded up, which keeps the size of the
    output under the usual padding.
    """
    if operator == "reshaped" or isinstance(layer, nn.Linear):
        return Matrix()
    sides = zip(size, layer.stride, strict=True)
    size = tuple(math.ceil(n / s) * s for n, s in sides)
    return Circular(size, layer.stride, layer.dilation, layer.groups)


def is_exact(layer, size, operator):
    """Tell whether these matrices have the singular values of the layer as it is."""
    if isinstance(layer, nn.Linear):
        return True
    taps = zip(layer.dilation, layer.kernel_size, strict=True)
    reach = [d * (k - 1) for d, k in taps]
    if isinstance(layer.padding, str):
        added = reach if layer.padding == "same" else [0] * len(reach)
    else:
        added = [2 * p for p in layer.padding]
    divides = all(n % s == 0 for n, s in zip(size, layer.stride, strict=True))
    # a kernel of one entry needs nothing around the image
    is_circular = layer.padding_mode == "circular" or not any(reach)
    return operator == "fft" and added == reach and divides and is_circular


def as_layer(weight, stride, padding, dilation, groups):
    """Return the layer without bias that has a weight, which it doesn't hold."""
    n_out, n_in, *kernel = weight.shape
    if not kernel:
        return nn.Linear(n_in, n_out, bias=False, device="meta")
    check_groups(weight, groups)
    if not isinstance(padding, str):
        padding = per_side("padding", padding, len(kernel), low=0)
    return CONVOLUTIONS[len(kernel)](
        n_in * groups,
        n_out,
        tuple(kernel),
        per_side("stride", stride, len(kernel)),
        padding,
        per_side("dilation", dilation, len(kernel)),
        groups,
        bias=False,
        device="meta",
    )


class LinearMap:
    """What a layer does to one row, its bias aside, with a given weight.

    Parameters
    ----------
    layer : module of LAYERS
    weight : tensor of its weight's shape
    size : tuple of int
        Sides of the images.
    """

    def __init__(self, layer, weight, size):
        self.layer = layer
        self.weight = weight
        is_matrix = isinstance(layer, nn.Linear)
        n_in = layer.in_features if is_matrix else layer.in_channels
        self.shape_in = (n_in, *size)
        # one pass tells the shape that comes out, of any padding
        try:
            with torch.no_grad():
                self.shape_out = tuple(self(self._zeros(1)).shape[1:])
        except RuntimeError as error:
            raise ValueError(
                f"input_size={size} does not fit the kernel and its padding: {error}"
            ) from error
        self.n_in, self.n_out = map(math.prod, (self.shape_in, self.shape_out))
        self._graph = None

    def _zeros(self, n_rows):
        return self.weight.new_zeros(n_rows, *self.shape_in)

    def __call__(self, x):
        """Return the images of rows."""
        if isinstance(self.layer, nn.Linear):
            return x @ self.weight.T
        return self.layer._conv_forward(x, self.weight, None)

    def transposed(self, y):
        """Return what the transposed map makes of rows."""
        if self._graph is None or len(self._graph[0]) != len(y):
            x = self._zeros(len(y)).requires_grad_()
            with torch.enable_grad():
                self._graph = x, self(x)
        x, out = self._graph
        # the map is linear: one graph serves all rows
        return torch.autograd.grad(out, x, y, retain_graph=True)[0]

    def dense(self):
        """Return the matrix of shape (n_out, n_in), the smaller side probed."""
        options = {"dtype": self.weight.dtype, "device": self.weight.device}
        if self.n_in < self.n_out:
            rows = torch.eye(self.n_in, **options).reshape(-1, *self.shape_in)
            return self(rows).flatten(1).T
        rows = torch.eye(self.n_out, **options).reshape(-1, *self.shape_out)
        return self.transposed(rows).flatten(1)


def as_weight(weight):
    """Return a weight as a float64 tensor on the CPU, or raise."""
    if not isinstance(weight, torch.Tensor):
        weight = np.asarray(weight)
        if weight.dtype.kind not in "fiu":
            raise TypeError(f"weight must hold real numbers, got dtype {weight.dtype}")
        weight = torch.from_numpy(np.array(weight, dtype=np.float64))
    check_weight(weight)
    weight = weight.detach().to("cpu", torch.float64)
    if not weight.isfinite().all():
        raise ValueError("weight holds NaN or infinite values")
    return weight


def check_weight(weight):
    """Raise unless this is a weight of a linear layer or of a convolution."""
    if weight.is_complex():
        raise TypeError(f"weight must hold real numbers, got {weight.dtype}")
    if not 2 <= weight.ndim <= 5 or not weight.numel():
        raise ValueError(
            "weight must have shape (outputs, inputs), or (outputs, inputs, *kernel) "
            f"with one to three sides, got {tuple(weight.shape)}"
        )


def input_sizes(network, row):
    """Return {name: sides of the images} of layers, in the order a row meets them.

    Parameters
    ----------
    network : torch.nn.Module
        Not changed.
    row : tensor of shape (1, ...)
    """
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name, layer):
        def hook(_, args, kwargs):
            image = args[0] if args else kwargs["input"]
            n_dims = len(getattr(layer, "kernel_size", ()))
            sizes.setdefault(name, tuple(image.shape[image.ndim - n_dims :]))

        return layer.register_forward_pre_hook(hook, with_kwargs=True)

    found = [(n, m) for n, m in network.named_modules() if isinstance(m, LAYERS)]
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no linear layer and no convolution"
        )
    hooks = [note(name, layer) for name, layer in found]
    try:
        with evaluating(network), torch.no_grad():
            like = found[0][1].weight
            # a network may draw even when it predicts
            with local_torch_seed(0, like.device):
                network(row.to(like))
    finally:
        for hook in hooks:
            hook.remove()
    if not sizes:
        raise ValueError(
            f"{type(network).__name__} calls none of its linear layers and convolutions"
        )
    return sizes
