"""Singular values of layers, and numbers that sum them up."""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from skpoison.landscape._operators import (
    LAYERS,
    LinearMap,
    as_layer,
    as_weight,
    check_input_size,
    circular_form,
)
from skpoison.utils import RandomStreams
from skpoison.utils._tensors import evaluating
from skpoison.utils._validation import check_number, check_option

KINDS = ("nuclear", "stable", "entropy", "count")
#: Entries of a matrix that is formed: 4096 x 4096 in float64 are 128 MiB.
_DENSE_ENTRIES = 2**24
#: Smaller operators are made a matrix: Lanczos needs room for its 20 vectors.
_SMALL_ENTRIES, _SMALL_SIDE = 2**16, 32


def conv_singular_values(
    weight, input_size=None, *, stride=1, padding="circular", dilation=1, groups=1
):
    """Singular values of a convolution as a map between images.

    Parameters
    ----------
    weight : array or tensor of shape (outputs, inputs / groups, ...)
        A kernel of one to three sides. A matrix of shape (outputs, inputs) is taken as
        it is.
    input_size : int or tuple of int, default=None
        Sides of the images; one number is all sides. Must be given for a kernel.
    stride, dilation : int or tuple of int, default=1
        Torch's.
    padding : "circular", "same", "valid", int or tuple of int, default="circular"
        "circular" continues the image on its other side, which is what has a fast way.
        Others are the zeros that torch adds; the operator is then formed as a matrix,
        which must be small.
    groups : int, default=1
        Torch's; as many parts of the inputs and outputs don't mix.

    Returns
    -------
    values : ndarray of shape (n_blocks, n_values)
        In float64, each row in falling order.
    multiplicity : ndarray of shape (n_blocks,)
        How often the values of each row occur.

    Raises
    ------
    TypeError, ValueError
        A weight or a size of another shape, a stride that does not divide the size, or
        an operator with more than 4096 x 4096 entries that is not circular.

    See Also
    --------
    effective_rank : Sums them up.
    operator_norm : The largest one, of any layer as it is.

    Notes
    -----
    With K the kernel on an image of n x n pixels and its discrete Fourier transform at
    frequency f, a matrix of outputs by inputs, the singular values are those of all
    these matrices [1]_::

        K^(f) = sum over pixels p of K[:, :, p] exp(-2 pi i f p / n).

    The matrices at f and -f are conjugate, so only half of them are decomposed. At a
    stride s that divides n, s * s frequencies meet at each frequency of the output, and
    the matrices are ``[K^(f_1), ..., K^(f_ss)] / s`` side by side. A kernel that is
    larger than the image wraps around it. These are not the singular values of the
    kernel reshaped to a matrix, which are those of no convolution. The rank of these
    operators is what [2]_ studies.

    With zeros at the border the largest value is mostly smaller, but not always. The
    convolution is then a part of the circular one on images larger by the reach of the
    kernel, whose largest value bounds it.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta and P. M. Long. The singular values of convolutional
       layers. ICLR 2019, arXiv:1805.10408.
    .. [2] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.landscape import conv_singular_values
    >>> blur = np.full((1, 1, 3, 3), 1 / 9)
    >>> values, multiplicity = conv_singular_values(blur, 8)
    >>> round(float(values.max()), 6), int(multiplicity.sum())
    (1.0, 64)
    """
    weight = as_weight(weight)
    if isinstance(padding, str):
        check_option("padding", padding, ("circular", "same", "valid"))
    if weight.ndim == 2 or (isinstance(padding, str) and padding == "circular"):
        form = circular_form(weight, input_size, stride, dilation, groups)
        blocks, times = form.blocks(weight), form.multiplicity()
    else:
        size = check_input_size(weight, input_size)
        layer = as_layer(weight, stride, padding, dilation, groups)
        linear_map = LinearMap(layer, weight, size)
        n_in, n_out = linear_map.n_in, linear_map.n_out
        if n_in * n_out > _DENSE_ENTRIES:
            raise ValueError(
                f"the operator is a matrix of {n_out} x {n_in}, and more than "
                f"{_DENSE_ENTRIES} entries are not formed; padding='circular' has a "
                "fast way, and operator_norm finds the largest singular value"
            )
        blocks, times = linear_map.dense(), torch.ones(1, dtype=torch.int64)
    values = torch.linalg.svdvals(blocks)
    return values.reshape(-1, values.shape[-1]).numpy(), times.flatten().numpy()


def effective_rank(
    singular_values, multiplicity=None, *, kind="nuclear", tol=1e-6, normalize=False
):
    """Rank of an operator as a number that moves with its singular values.

    Parameters
    ----------
    singular_values : array-like of shape (n_values,) or (n_blocks, n_values)
        Not a matrix: that of a matrix is ``effective_rank(*conv_singular_values(A))``.
    multiplicity : array-like of shape (n_blocks,), default=None
        How often each row of values occurs, as :func:`conv_singular_values` returns it.
        Must be given for two dimensions. None is once.
    kind : {"nuclear", "stable", "entropy", "count"}, default="nuclear"
        See Notes. "nuclear" is what the study of ranks in [1]_ is about.
    tol : float, default=1e-6
        Of "count": smaller shares of the largest value count as zero; below 1. The
        default is ten roundings of float32, in which networks are trained.
    normalize : bool, default=False
        Divide by the number of values: 1 is a map that stretches all directions alike.

    Returns
    -------
    rank : float
        At least 1, but 0 of the operator zero.

    Notes
    -----
    With s_1 the largest of the singular values s_i and p_i the share of each in their
    sum::

        nuclear   sum of s_i / s_1
        stable    sum of (s_i / s_1)^2
        entropy   exp(-sum of p_i log p_i)
        count     number of s_i > tol s_1

    None of them changes when the operator is multiplied by a number. The rank of [1]_
    is "nuclear"; "stable" <= "nuclear" <= "count" at ``tol=0``.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from skpoison.landscape import effective_rank
    >>> effective_rank([2, 1, 1, 0])
    2.0
    >>> effective_rank([2, 1, 1, 0], kind="stable", normalize=True)
    0.375
    """
    check_option("kind", kind, KINDS)
    check_number("tol", tol, low=0)
    if tol >= 1:
        raise ValueError(f"tol must be < 1, a share of the largest value, got {tol!r}")
    if isinstance(singular_values, torch.Tensor):
        singular_values = singular_values.detach().cpu()
    values = np.asarray(singular_values, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            "singular_values must have shape (n_values,) or (n_blocks, n_values), got "
            f"{values.shape}"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("singular_values must be finite and >= 0")
    if values.ndim == 2 and multiplicity is None:
        raise ValueError(
            "multiplicity must be given with singular_values of shape "
            f"{values.shape}; effective_rank(*conv_singular_values(A)) takes a matrix A"
        )
    values = np.atleast_2d(values)
    times = np.ones(len(values)) if multiplicity is None else np.asarray(multiplicity)
    if times.shape != (len(values),) or times.dtype.kind not in "fiu":
        raise ValueError(
            f"multiplicity must have one number a row of values, {len(values)}, got "
            f"shape {times.shape}"
        )
    if not (times >= 1).all():
        raise ValueError(f"multiplicity must be >= 1, got {times.min()}")
    largest = values.max()
    if largest == 0:
        return 0.0
    values, times = values / largest, times[:, None]
    if kind == "count":
        rank = (times * (values > tol)).sum()
    elif kind == "entropy":
        share = values / (times * values).sum()
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
        rank = np.exp(-(times * share * logs).sum())
    else:
        rank = (times * values ** (2 if kind == "stable" else 1)).sum()
    return float(rank / (times.sum() * values.shape[1] if normalize else 1))


def operator_norm(layer, input_size=None, *, circular=False, tol=1e-8, random_state=0):
    """Largest singular value of a layer as it is: its padding, stride and groups.

    Parameters
    ----------
    layer : torch.nn.Linear, Conv1d, Conv2d, Conv3d, or matrix
        Its bias is left out. Not changed.
    input_size : int or tuple of int, default=None
        Sides of the images that a convolution meets. Must be given for one.
    circular : bool, default=False
        Take the convolution with circular padding instead, by its Fourier transform,
        which is faster. See the Notes of :func:`conv_singular_values`.
    tol : float, default=1e-8
        Relative error at which the iteration ends, below that of float32, in which
        networks are trained; 0 is rounding.
    random_state : int, RandomState, Generator or None, default=0
        Of the vector that the iteration starts from. The norm does not depend on it.

    Returns
    -------
    norm : float

    Raises
    ------
    TypeError, ValueError
        Another kind of layer, a kernel alone, or no `input_size` for a convolution.
    RuntimeError
        The iteration did not converge (SciPy's ``ArpackNoConvergence``).

    See Also
    --------
    conv_singular_values : All of them.
    operator_norm_penalty : To be minimised.

    Notes
    -----
    The Lanczos method on A'A or AA', the smaller of them, where A is the layer and A'
    its transposed convolution, in float64 on the CPU; small operators are decomposed as
    matrices. A kernel reshaped to a matrix has another norm than its convolution. The
    norm bounds how far a change of the input moves the output; raising the rank as in
    [1]_ lowers it.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import torch
    >>> from skpoison.landscape import operator_norm
    >>> blur = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    >>> _ = torch.nn.init.constant_(blur.weight, 1 / 9)
    >>> round(operator_norm(blur, 8, circular=True), 4)
    1.0
    >>> operator_norm(blur, 8) < 1
    True
    """
    check_number("tol", tol, low=0)
    if not isinstance(layer, LAYERS):
        if isinstance(layer, nn.Module):
            raise TypeError(
                "layer must be a Linear, Conv1d, Conv2d or Conv3d, got "
                f"{type(layer).__name__}"
            )
        weight = as_weight(layer)
        if weight.ndim > 2:
            raise TypeError(
                "layer must be a module or a matrix: a kernel of shape "
                f"{tuple(weight.shape)} does not tell its padding; "
                "conv_singular_values takes it"
            )
        layer = as_layer(weight, 1, 0, 1, 1)
    else:
        # a weight that is computed may be changed by being read in training
        with evaluating(layer):
            weight = as_weight(layer.weight)
    size = check_input_size(weight, input_size)
    if circular and size:
        form = circular_form(weight, size, layer.stride, layer.dilation, layer.groups)
        return float(torch.linalg.svdvals(form.blocks(weight)).max())
    value, _ = largest_singular(LinearMap(layer, weight, size), tol, random_state)
    return value


def largest_singular(linear_map, tol, random_state):
    """Return the largest singular value, and its vector on the side of the input."""
    n_in, n_out = linear_map.n_in, linear_map.n_out
    small = min(n_in, n_out)
    if n_in * n_out <= _SMALL_ENTRIES or small <= _SMALL_SIDE:
        _, values, right = torch.linalg.svd(linear_map.dense(), full_matrices=False)
        return float(values[0]), right[0].reshape(1, *linear_map.shape_in)
    one_way, other_way = linear_map, linear_map.transposed
    shape = linear_map.shape_in
    if small < n_in:
        one_way, other_way = other_way, one_way
        shape = linear_map.shape_out

    def gram(vector):
        rows = torch.from_numpy(np.array(vector, dtype=np.float64)).reshape(1, *shape)
        with torch.no_grad():
            return other_way(one_way(rows)).numpy().ravel()

    start = RandomStreams(random_state).numpy("start").standard_normal(small)
    if not gram(start).any():  # the operator zero, on which Lanczos breaks down
        return 0.0, torch.zeros(1, *linear_map.shape_in, dtype=torch.float64)
    operator = LinearOperator((small, small), matvec=gram, dtype=np.float64)
    (value,), vector = eigsh(operator, k=1, which="LA", v0=start, tol=tol)
    found = torch.from_numpy(np.ascontiguousarray(vector[:, 0])).reshape(1, *shape)
    norm = float(max(value, 0.0)) ** 0.5
    if small < n_in:
        found = linear_map.transposed(found) / norm
    return norm, found
