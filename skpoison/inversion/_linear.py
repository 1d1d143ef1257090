"""The input of a fully connected layer, read off its gradient."""

import warnings

import numpy as np

from skpoison.utils._validation import bounds_pair

_RANK_TOLERANCE = 1e-4  # relative; rounding of float32 gradients stays far below
_AGREEMENT = 1e-9  # relative difference of two rows that hold the same sample


def invert_linear(weight_grad, bias_grad=None, *, bounds=None, return_candidates=False):
    """Recover what went into a fully connected layer from the gradient of the layer.

    For one sample the answer is exact, wherever the layer stands in the network and
    whatever comes behind it, as long as one derivative by the bias is not zero.

    Parameters
    ----------
    weight_grad : array-like or tensor of shape (n_outputs, n_inputs)
        Gradient by the weights, laid out as in :class:`torch.nn.Linear`.
    bias_grad : array-like or tensor of shape (n_outputs,), default=None
        Gradient by the bias. None for a layer without bias, of whose input the gradient
        holds the direction alone, see Notes.
    bounds : (low, high), default=None
        Box of the input, numbers or arrays that broadcast to (n_inputs,). The result is
        clipped to it; without bias it also gives sign and scale.
    return_candidates : bool, default=False
        Also return the inputs of a batch that two or more rows agree on.

    Returns
    -------
    x : ndarray of shape (n_inputs,), float64
        The input. For a batch it is a mixture of the inputs, and a warning says so.
    candidates : ndarray of shape (n_candidates, n_inputs), float64
        Only with ``return_candidates=True``: inputs found in two or more rows, those of
        the largest gradients first. May be empty.

    Raises
    ------
    ValueError
        Shapes that don't fit, values that are not finite, a bias gradient of zeros (the
        layer learned nothing from the sample), or without bias a weight gradient of
        zeros.

    Warns
    -----
    UserWarning
        The gradient is not of rank one: of several samples, or noisy. Without bias:
        sign or scale is a guess.

    Notes
    -----
    With :math:`v = W x + b` the chain rule gives

    .. math::
        \\frac{\\partial L}{\\partial W} = \\delta x^\\top, \\qquad
        \\frac{\\partial L}{\\partial b} = \\delta, \\qquad
        \\delta = \\frac{\\partial L}{\\partial v},

    so that every row i with :math:`\\delta_i \\neq 0` gives
    :math:`x = (\\partial L / \\partial W_i) / \\delta_i` (proposition 3.1 of [1]_). The
    least-squares combination of all rows,
    :math:`x = (\\partial L / \\partial W)^\\top \\delta / (\\delta^\\top \\delta)`,
    averages rounding and noise.

    Without bias, x is parallel to the leading right singular vector. Inside a box of
    one sign (pixels) the sign follows, and the scale is taken as the largest that fits:
    the brightest pixel is as bright as the box allows.

    Of a batch, :math:`\\partial L / \\partial W = D^\\top X` with one row of D a
    sample. The ratio of row i is the mean of the samples with weights
    :math:`D_{bi}`, which may be negative, and it is one of the samples where no other
    sample reaches unit i, as happens behind ReLU. One such row alone can't be told from
    a mixture, but two rows with the same ratio can: different mixtures do not agree.
    With two classes they may, as the derivatives by both scores are opposite: there
    `candidates` may hold mixtures.

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller (2020), Inverting
       gradients: how easy is it to break privacy in federated learning? NeurIPS.
       arXiv:2003.14053.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import invert_linear
    >>> x, delta = np.array([0.2, 0.9, 0.4]), np.array([0.3, -0.1])
    >>> invert_linear(np.outer(delta, x), delta)
    array([0.2, 0.9, 0.4])
    """
    weight, precision = _array("weight_grad", weight_grad, 2)
    low, high = (-np.inf, np.inf)
    if bounds is not None:
        low, high = bounds_pair(bounds, weight.shape[1:], others="None")
    tolerance = max(_RANK_TOLERANCE, 10 * precision)
    agreement = max(_AGREEMENT, 1000 * precision)
    if bias_grad is None:
        if return_candidates:
            raise ValueError("return_candidates=True needs bias_grad, got None")
        return _without_bias(weight, low, high, bounds is not None, tolerance)
    bias, _ = _array("bias_grad", bias_grad, 1)
    if len(bias) != len(weight):
        raise ValueError(
            f"bias_grad must have one entry a row of weight_grad, {len(weight)}, got "
            f"{len(bias)}"
        )
    size = abs(bias).max()
    if size == 0:
        raise ValueError(
            "bias_grad is zero everywhere: the loss does not depend on the layer at "
            "this sample, and nothing can be recovered"
        )
    unit = bias / size  # tiny gradients must not underflow when they are squared
    x = unit @ (weight / size) / (unit @ unit)
    mismatch = np.linalg.norm(weight - np.outer(bias, x))
    _warn_rank(mismatch, np.linalg.norm(weight), tolerance)
    x = np.clip(x, low, high)
    if return_candidates:
        return x, np.clip(_agreeing(weight, bias, agreement), low, high)
    return x


def _array(name, values, ndim):
    """Return a float64 array and the precision of what it was made from."""
    if hasattr(values, "detach"):
        import torch

        if values.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {values.dtype}")

        precision = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
        values = values.detach().to("cpu", torch.float64).numpy()
    else:
        values = np.asarray(values)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold numbers, got dtype {values.dtype}")
        precision = np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
        values = values.astype(np.float64)
    if values.ndim != ndim or not values.size:
        raise ValueError(f"{name} must have {ndim} axes, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    return values, float(precision)


def _warn_rank(mismatch, norm, tolerance):
    if mismatch > tolerance * norm:
        warnings.warn(
            "the gradient of the layer is not of rank one (relative mismatch "
            f"{mismatch / norm:.1e}): it is noisy, or of a batch, whose samples are "
            "mixed in the result",
            UserWarning,
            stacklevel=4,
        )


def _without_bias(weight, low, high, has_box, tolerance):
    if not weight.any():
        raise ValueError("weight_grad is zero everywhere: nothing can be recovered")
    _, sizes, rows = np.linalg.svd(weight, full_matrices=False)
    _warn_rank(np.linalg.norm(sizes[1:]), np.linalg.norm(sizes), tolerance)
    x = rows[0] * (1.0 if rows[0].sum() >= 0 else -1.0)
    if not has_box:
        _warn_guess("scale and sign can't be told: a unit vector is returned")
        return x
    scales = [_largest_scale(sign * x, low, high) for sign in (1.0, -1.0)]
    sign, scale = (1.0, scales[0]) if scales[0] >= scales[1] else (-1.0, scales[1])
    if not np.isfinite(scale):
        scale = 1.0
        _warn_guess("an unbounded box does not tell the scale: a unit vector is taken")
    x = sign * scale * x
    if np.any((np.asarray(low) < 0) & (np.asarray(high) > 0)):
        _warn_guess("the sign is a guess, as the box holds both")
    return np.clip(x, low, high)


def _warn_guess(message):
    warnings.warn(f"without bias_grad {message}", UserWarning, stacklevel=4)


def _largest_scale(x, low, high):
    """Return the largest t with t x in the box, 0 where x points out of it.

    Entries on the wrong side of a one-sided box allow no t at all. They are left out if
    they are small, as rounding is, and clipped later.
    """
    limit = np.where(x > 0, high, low)
    allowed = (limit * x > 0) & (abs(x) > 1e-12)
    if not allowed.any() or x[allowed].dot(x[allowed]) < 0.5:
        return 0.0
    return float((limit[allowed] / x[allowed]).min())


def _agreeing(weight, bias, agreement):
    """Return the ratios that at least two rows agree on, the largest rows first."""
    order = np.argsort(-abs(bias), kind="stable")
    order = order[abs(bias[order]) > 1e-10 * abs(bias).max()]
    ratios = weight[order] / bias[order, None]
    scale = np.maximum(np.linalg.norm(ratios, axis=1), 1e-300)
    found: list[np.ndarray] = []
    free = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if not free[i]:
            continue
        near = np.linalg.norm(ratios - ratios[i], axis=1) <= agreement * scale[i]
        near &= free
        if near.sum() > 1:
            found.append(ratios[i])
            free &= ~near
    return np.array(found).reshape(-1, weight.shape[1])
