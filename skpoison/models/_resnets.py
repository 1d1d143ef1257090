"""Residual networks, and what is left of them without normalisation or shortcuts."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.models._modules import check_image_shape
from skpoison.utils._validation import check_number, check_option

_NORMALIZATIONS = ("batch", "none", "fixup")


class _Shift(nn.Module):
    """Adds one number."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, X):
        return X + self.bias


class _Scale(_Shift):
    """Multiplies by one number and adds another."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, X):
        return X * self.weight + self.bias


class _PadShortcut(nn.Module):
    """Option A: every second pixel, new channels zero, half of them on each side."""

    def __init__(self, n_new, stride):
        super().__init__()
        self.n_before, self.n_after = n_new // 2, n_new - n_new // 2
        self.stride = stride

    def forward(self, X):
        X = X[:, :, :: self.stride, :: self.stride]
        return F.pad(X, (0, 0, 0, 0, self.n_before, self.n_after))


def _conv(n_in, n_out, side, stride, normalization):
    conv = nn.Conv2d(
        n_in, n_out, side, stride, padding=side // 2, bias=normalization == "none"
    )
    return nn.Sequential(_Shift(), conv) if normalization == "fixup" else conv


def _norm(n_channels, normalization):
    if normalization == "batch":
        return nn.BatchNorm2d(n_channels)
    return _Shift() if normalization == "fixup" else nn.Identity()


class _Block(nn.Module):
    """Two convolutions; what stands in for batch normalisation has its names."""

    def __init__(self, n_in, n_out, stride, projection, normalization, skip):
        super().__init__()
        self.conv1: Any = _conv(n_in, n_out, 3, stride, normalization)
        self.bn1 = _norm(n_out, normalization)
        self.conv2: Any = _conv(n_out, n_out, 3, 1, normalization)
        fixup = normalization == "fixup"
        self.bn2 = _Scale() if fixup else _norm(n_out, normalization)
        self.shortcut: nn.Module | None = None
        if not skip:
            return
        if stride == 1 and n_in == n_out:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = _conv(n_in, n_out, 1, stride, normalization)
            if normalization == "batch":
                self.shortcut = nn.Sequential(self.shortcut, nn.BatchNorm2d(n_out))
        else:
            self.shortcut = _PadShortcut(n_out - n_in, stride)

    @torch.no_grad()
    def start_fixup(self, n_branches):
        # L^(-1 / (2 m - 2)) for branches of m = 2 convolutions
        self.conv1[1].weight.mul_(n_branches**-0.5)
        self.conv2[1].weight.zero_()

    def forward(self, X):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(X)))))
        return F.relu(out if self.shortcut is None else out + self.shortcut(X))


class _ResNet(nn.Module):
    """Residual network with a 3x3 stem, as used on images of 32 by 32."""

    def __init__(
        self, input_shape, n_outputs, widths, n_blocks, projection, normalization, skip
    ):
        super().__init__()
        n_in = check_image_shape(self, input_shape)[0]
        check_number("width", widths[0], low=1, integer=True)
        check_number("n_blocks", n_blocks, low=1, integer=True)
        check_option("normalization", normalization, _NORMALIZATIONS)
        if not isinstance(skip, bool | np.bool_):
            raise TypeError(f"skip must be True or False, got {skip!r}")
        fixup = normalization == "fixup"
        if fixup and not skip:
            raise ValueError(
                "normalization='fixup' starts with residual branches of zero, through "
                "which nothing passes with skip=False: take 'batch' or 'none'"
            )
        plain = normalization == "none"
        self.conv1 = nn.Conv2d(n_in, widths[0], 3, padding=1, bias=plain)
        self.bn1 = _norm(widths[0], normalization)
        n_in = widths[0]
        self.n_layers = len(widths)
        for i, width in enumerate(widths):
            blocks = []
            for j in range(n_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(
                    _Block(n_in, width, stride, projection, normalization, skip)
                )
                n_in = width
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        linear = nn.Linear(n_in, n_outputs)
        self.linear: nn.Module = linear
        if fixup:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            self.linear = nn.Sequential(_Shift(), linear)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        if fixup:
            for part in self.modules():
                if isinstance(part, _Block):
                    part.start_fixup(len(widths) * n_blocks)

    def forward(self, X):
        out = F.relu(self.bn1(self.conv1(X)))
        for i in range(self.n_layers):
            out = getattr(self, f"layer{i + 1}")(out)
        return self.linear(out.mean((2, 3)))


class ResNet18(_ResNet):
    """ResNet-18 with the stem for small images: 3x3 convolution, no pooling.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width).
    n_outputs : int
        Number of classes, 1 for regression.
    width : int, default=64
        Channels of the first of four stages; each further stage doubles them. 64 is
        the paper's; 16 trains on a CPU.
    normalization : {"batch", "none", "fixup"}, default="batch"
        As in :class:`ResNet20`; "batch" is the paper's.
    skip : bool, default=True
        False leaves out the shortcuts, which makes a plain convolutional network.
        Not with "fixup".

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun. Deep residual learning for image
       recognition. CVPR 2016.

    Examples
    --------
    >>> import torch
    >>> from skpoison.models import ResNet18
    >>> ResNet18((3, 32, 32), 10, width=8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, input_shape, n_outputs, width=64, normalization="batch", skip=True
    ):
        widths = [width, 2 * width, 4 * width, 8 * width]
        super().__init__(input_shape, n_outputs, widths, 2, True, normalization, skip)


class ResNet20(_ResNet):
    """The 20-layer ResNet for CIFAR-10, with shortcuts that have no weights.

    Three stages of three blocks with 16, 32 and 64 channels; a shortcut that changes
    shape takes every second pixel and pads channels with zeros (option A of [1]_,
    section 4.2). 269,722 weights for 3 channels and 10 classes.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width).
    n_outputs : int
        Number of classes, 1 for regression.
    width : int, default=16
        Channels of the first of three stages; each further stage doubles them. 16 is
        the paper's.
    normalization : {"batch", "none", "fixup"}, default="batch"
        "batch" is the paper's batch normalisation. "none" has plain convolutions with
        biases; with shortcuts the scale of its outputs grows with depth, and so deep
        ones want a lower learning rate. "fixup" starts from the scaled weights of [2]_,
        see Notes.
    skip : bool, default=True
        False leaves out the shortcuts, which makes a plain convolutional network.
        Not with "fixup".
    n_blocks : int, default=3
        Blocks of each stage, of two convolutions: 3 make 20 layers, as in the paper,
        1 makes 8, which train on a CPU.

    Notes
    -----
    Fixup [2]_ replaces normalisation by the start: in each of the L residual branches
    the first convolution's weights are drawn as usual and multiplied by ``L**-0.5``,
    those of the second are zero, and so are those of the output layer. A number is
    added before each convolution of a branch, each activation and the output layer,
    and one multiplies each branch; these are learned, from 0 and 1.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun. Deep residual learning for image
       recognition. CVPR 2016.
    .. [2] H. Zhang, Y. N. Dauphin and T. Ma. Fixup initialization: residual learning
       without normalization. ICLR 2019, arXiv:1901.09321.

    Examples
    --------
    >>> import torch
    >>> from skpoison.models import ResNet20
    >>> net = ResNet20((3, 32, 32), 10)
    >>> sum(p.numel() for p in net.parameters())
    269722
    >>> small = ResNet20((3, 32, 32), 10, width=4, n_blocks=1, normalization="fixup")
    >>> small(torch.ones(2, 3, 32, 32)).abs().max().item()  # of a net not yet trained
    0.0
    """

    def __init__(
        self,
        input_shape,
        n_outputs,
        width=16,
        normalization="batch",
        skip=True,
        n_blocks=3,
    ):
        widths = [width, 2 * width, 4 * width]
        super().__init__(
            input_shape, n_outputs, widths, n_blocks, False, normalization, skip
        )
