"""Differentiable norms of layers, to be added to a training loss."""

import torch
from torch import nn

from skpoison.landscape._operators import (
    LinearMap,
    as_layer,
    check_input_size,
    check_weight,
    circular_form,
)
from skpoison.landscape._spectra import largest_singular
from skpoison.utils._validation import check_option


def nuclear_norm_penalty(weight, input_size=None, *, stride=1, dilation=1, groups=1):
    """Sum of the singular values of a layer, differentiable in its weight.

    Parameters
    ----------
    weight : tensor of shape (outputs, inputs / groups, ...)
        A matrix of shape (outputs, inputs) is taken as it is.
    input_size : int or tuple of int, default=None
        Sides of the images that the kernel meets. Must be given for a kernel.
    stride, dilation : int or tuple of int, default=1
        Torch's.
    groups : int, default=1
        Torch's; as many parts of the inputs and outputs don't mix.

    Returns
    -------
    penalty : tensor of shape ()
        In the weight's type, on its device.

    Raises
    ------
    TypeError, ValueError
        No tensor, or a shape or a stride that does not fit.

    See Also
    --------
    SpectralProjection : Low rank, or a flat spectrum, without a loss of one's own.
    conv_singular_values : The values, and what circular padding means.

    Notes
    -----
    The convolution is that with circular padding. The gradient is, with the singular
    value decomposition U S V' of the operator, UV' brought back to the kernel; where
    singular values are zero it is one of many subgradients. The penalty of a
    convolution is of the order of pixels x channels: divide it by that number. It is
    the convex stand-in for a low rank, about which [1]_ asks whether it helps.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import torch
    >>> from skpoison.landscape import nuclear_norm_penalty
    >>> float(nuclear_norm_penalty(torch.diag(torch.tensor([3.0, 4.0]))))
    7.0
    """
    wide = _checked(weight)
    form = circular_form(weight, input_size, stride, dilation, groups)
    values = torch.linalg.svdvals(form.blocks(wide)).sum(dim=-1)
    return (values * form.multiplicity().to(values)).sum().to(weight)


def operator_norm_penalty(
    weight, input_size=None, *, stride=1, padding="circular", dilation=1, groups=1
):
    """Largest singular value of a layer, differentiable in its weight.

    Parameters
    ----------
    weight : tensor of shape (outputs, inputs / groups, ...)
        A matrix of shape (outputs, inputs) is taken as it is.
    input_size : int or tuple of int, default=None
        Sides of the images that the kernel meets. Must be given for a kernel.
    stride, dilation : int or tuple of int, default=1
        Torch's.
    padding : "circular", "same", "valid", int or tuple of int, default="circular"
        "circular" goes through the Fourier transform. Others are the zeros that torch
        adds; the singular vector is then found by iteration in float64 on the CPU.
    groups : int, default=1
        Torch's; as many parts of the inputs and outputs don't mix.

    Returns
    -------
    penalty : tensor of shape ()
        In the weight's type, on its device.

    Raises
    ------
    TypeError, ValueError
        No tensor, or a shape or a stride that does not fit.

    See Also
    --------
    operator_norm : The number, of a layer.

    Notes
    -----
    With u and v the singular vectors of the largest value, which must be single, the
    gradient is that of u'Av with both held fixed. The way in which [1]_ raises ranks
    bounds this norm, too.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import torch
    >>> from skpoison.landscape import operator_norm_penalty
    >>> weight = torch.diag(torch.tensor([3.0, 4.0])).requires_grad_()
    >>> operator_norm_penalty(weight).backward()
    >>> weight.grad.tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    wide = _checked(weight)
    if isinstance(padding, str):
        check_option("padding", padding, ("circular", "same", "valid"))
    if weight.ndim == 2 or (isinstance(padding, str) and padding == "circular"):
        form = circular_form(weight, input_size, stride, dilation, groups)
        return torch.linalg.svdvals(form.blocks(wide)).amax().to(weight)
    size = check_input_size(weight, input_size)
    layer: nn.Module = as_layer(weight, stride, padding, dilation, groups)
    held = weight.detach().to("cpu", torch.float64)
    _, vector = largest_singular(LinearMap(layer, held, size), 1e-10, 0)
    return LinearMap(layer, wide, size)(vector.to(wide)).norm().to(weight)


def _checked(weight):
    """Return a weight in a type that can be decomposed, float32 at least."""
    if not isinstance(weight, torch.Tensor):
        raise TypeError(
            f"weight must be a torch tensor, got {type(weight).__name__}; "
            "conv_singular_values takes arrays"
        )
    check_weight(weight)
    if not weight.is_floating_point():
        raise TypeError(f"weight must hold floating point numbers, got {weight.dtype}")
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
