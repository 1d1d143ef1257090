"""Local minima of deep networks that are no better than a smaller model."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from skpoison.landscape._embedding import Carrier, trace_chain
from skpoison.landscape._idle_units import switch_off, widen
from skpoison.landscape._linear_minimum import is_cross_entropy, minimize_affine
from skpoison.landscape._objective import class_codes
from skpoison.models._given import Model
from skpoison.utils._validation import check_number, check_option

_TOLERANCE = 1e-9  # of outputs, relative to the largest
_OF_LINEAR = "whiten X or take a smaller margin: their scale leaves no digits"
_OF_CONSTANT = "the bias of the last layer must be what the network returns"
_OF_NARROW = "both must have the same layers, but for their widths"


def construct_suboptimal_minimum(
    module, X, y=None, *, worse="linear", criterion="auto", mode="svd", margin=1.0
):
    """Return a network at a local minimum of its training loss that a worse model has.

    The parameters are such that the network computes on the rows of X, and at all
    parameters nearby, only what a smaller model can. Where that model is at a minimum
    of its loss, so is the network, although it could fit far better [1]_.

    Parameters
    ----------
    module : torch.nn.Module or fitted TorchClassifier
        The network, a bare module for regression. Its weights don't matter. It is not
        changed.
    X : array-like of shape (n_samples, ...)
        The training rows. At other rows the network may be anything.
    y : array-like of shape (n_samples,), default=None
        Labels: positions of the network's outputs, or as many labels as there are
        outputs, which then stand for these in sorted order. Floats are numbers to
        regress on, unless `module` is a classifier. Needed unless `worse` is a model.
    worse : {"linear", "constant"}, pair, linear model or network, default="linear"
        The model whose minimum it is.

        - "linear": the best affine model, from :func:`linear_minimum`. A pair (coef,
          intercept) of shapes (n_outputs, n_features) and (n_outputs,), or a fitted
          model with ``coef_`` and ``intercept_``, a row for each output, is such a
          model fitted elsewhere, without a penalty; of two classes one row is enough.
          The module must be a chain of layers: ``Linear``,
          ``Conv2d``, ``BatchNorm``, ``ReLU``, ``LeakyReLU``, ``ELU``, ``CELU``,
          ``Flatten``, ``Dropout`` and ``Identity``.
        - "constant": the best scores that are the same for all rows, such as logarithms
          of the frequencies of classes. All hidden units are off. For any network in
          which ReLU layers with biases cut the input off from the output.
        - A ``torch.nn.Module`` or fitted TorchClassifier with the same layers, but
          fewer units or channels: the others are off. For networks of ReLU, with any
          pooling; residual ones too where a skip connection is the identity or a layer.
          It must be at a minimum itself, see :func:`check_local_minimum`.
    criterion : "auto" or torch loss, default="auto"
        ``torch.nn.CrossEntropyLoss`` or ``torch.nn.MSELoss``. "auto" is the squared
        error for y of floats, the cross entropy otherwise.
    mode : {"svd", "identity"}, default="svd"
        What the linear layers carry of an affine model: its singular directions, which
        takes as many units as its rank, or all features. With two hidden layers or more
        the former has several times less curvature, so that larger steps of gradient
        descent stay at the minimum.
    margin : float, default=1.0
        How far from the kink of its activation each hidden unit is, on all rows, at
        least. Chosen here: the scale of features of unit variance.

    Returns
    -------
    network : torch.nn.Module
        A copy in float64 and evaluation mode. ``.float()`` moves its outputs by about
        1e-7 of their size; ``TorchClassifier(network.float(), ...)`` continues from
        there.

    Raises
    ------
    TypeError
        The layers don't allow it; the message tells which.
    ValueError
        Too few units or channels; data that are linearly separable, so that there is no
        linear minimum; a class without rows.

    See Also
    --------
    check_local_minimum : Tests whether a point is a minimum.
    linear_minimum : Fits the linear model.

    Notes
    -----
    With an affine model A x + b = U B x + b, every hidden unit is made active on every
    row: the first layer computes ``B x + t`` with t so large that nothing is negative,
    the next ones pass it on, idle units get the bias `margin`, and the last layer
    applies U and takes ``U t`` back. As no unit switches in a neighbourhood of these
    parameters, the network is affine in x there, on all rows; none of the affine models
    is better than the best, hence the point is a local minimum. It is not a strict
    one: along some directions, such as scaling one layer against the next, the loss is
    constant. Convolutions carry the image, a pixel in each number, with kernels that
    are 1 at one tap; those with a stride put the pixels they would skip into further
    channels.

    Any of the minima vanishes under weight decay, with batch normalisation or dropout
    in training mode, and with augmented rows, which may switch units.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from skpoison.landscape import construct_suboptimal_minimum, linear_minimum
    >>> from skpoison.models import MLP
    >>> X, y = load_digits(return_X_y=True)
    >>> X = PCA(8, whiten=True, random_state=0).fit_transform(X)
    >>> network = construct_suboptimal_minimum(MLP((8,), 10, hidden=(32, 32)), X, y)
    >>> with torch.no_grad():
    ...     loss = torch.nn.functional.cross_entropy(
    ...         network(torch.from_numpy(X)), torch.from_numpy(y)
    ...     )
    >>> round(loss.item(), 6) == round(linear_minimum(X, y).loss, 6)
    True
    """
    check_number("margin", margin, low=0, strict=True)
    check_option("mode", mode, ("svd", "identity"))
    if isinstance(worse, str):
        check_option("worse", worse, ("linear", "constant"))
    model = Model(module)
    network = copy.deepcopy(model.network).double().eval()
    weights = [*network.parameters()]
    if not weights:
        raise ValueError("module has no parameters")
    rows = model.rows(X).to(weights[0].device).double()
    _check_plain("module", network)
    _check_classes(module, worse)
    try:
        with torch.no_grad():
            out = network(rows[:2].clone())
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"module can't take rows of X, shape {tuple(rows.shape[1:])}: {error}"
        ) from error
    if not isinstance(out, torch.Tensor) or out.ndim != 2:
        got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ValueError(f"module must return shape (n_samples, n_outputs), got {got}")
    n_outputs = out.shape[1]
    is_network = isinstance(worse, nn.Module) or hasattr(worse, "module_")
    is_affine = not is_network and not (isinstance(worse, str) and worse == "constant")
    layers = trace_chain(network, rows) if is_affine else []
    if isinstance(worse, str):
        if y is None:
            raise ValueError(f"worse={worse!r} needs y to fit the model, got None")
        is_bare = isinstance(module, nn.Module)
        target, n_classes = _targets(criterion, model, is_bare, y, len(rows), n_outputs)
        if worse == "constant":
            scores = _best_constant(target, n_classes).to(rows)
            switch_off(network, rows, scores, margin)
            _check_equal(network, rows, scores.expand(len(rows), -1), _OF_CONSTANT)
            return network
        flat = rows.flatten(1).cpu().numpy()
        found = minimize_affine(flat, target, n_classes, tol=1e-8, max_iter=200)
        pair = found.coef, found.intercept
    elif is_network:
        narrow = copy.deepcopy(Model(worse).network).to(rows).eval()
        _check_plain("worse", narrow)
        expected = _outputs(narrow, rows, n_outputs)
        widen(network, narrow, rows, margin)
        _check_equal(network, rows, expected, _OF_NARROW)
        return network
    else:
        pair = _pair(worse, n_outputs, rows[0].numel())
    coef, intercept = (torch.as_tensor(np.array(part)).to(rows) for part in pair)
    Carrier(layers, rows, coef, intercept, mode, margin)
    expected = rows.flatten(1) @ coef.T + intercept
    _check_equal(network, rows, expected, _OF_LINEAR)
    return network


def _check_plain(name, network):
    """Refuse weights that are computed from others when they are read."""
    for place, part in network.named_modules():
        if parametrize.is_parametrized(part):
            raise TypeError(
                f"{name} must have plain weights, but those of layer {place!r} are "
                "parametrized: torch.nn.utils.parametrize.remove_parametrizations "
                "makes them plain"
            )


def _check_classes(module, worse):
    """Refuse models whose outputs stand for different classes."""
    pair = module, worse
    if not all(hasattr(m, "classes_") and not isinstance(m, nn.Module) for m in pair):
        return
    expected, got = (np.asarray(m.classes_).tolist() for m in pair)
    if expected != got:
        raise ValueError(
            f"worse must have the classes of module, {expected[:10]}, got {got[:10]}"
        )


def _targets(criterion, model, is_bare, y, n_rows, n_outputs):
    """Return y as codes or numbers, and the number of classes or None."""
    y = np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y)
    if y.ndim == 0 or len(y) != n_rows:
        raise ValueError(f"y must have one entry a row, {n_rows}, got shape {y.shape}")
    if isinstance(criterion, str) and criterion == "auto":
        of_classes = y.dtype.kind != "f" or not (is_bare or y.ndim > 1)
    else:
        of_classes = is_cross_entropy(criterion)
    if of_classes:
        return class_codes(model, y, n_outputs), n_outputs
    if y.dtype.kind not in "biuf" or not np.isfinite(y).all():
        raise ValueError(f"y must hold finite numbers for MSELoss, got dtype {y.dtype}")
    if y.size != n_rows * n_outputs:
        raise ValueError(
            f"y must have one number for each of the {n_outputs} outputs, got shape "
            f"{y.shape}"
        )
    return y.astype(float).reshape(n_rows, n_outputs), None


def _pair(worse, n_outputs, n_features):
    """Return coefficients and intercepts as arrays, checked."""
    if hasattr(worse, "coef_") and hasattr(worse, "intercept_"):
        coef = np.atleast_2d(np.asarray(worse.coef_, dtype=float))
        intercept = np.broadcast_to(worse.intercept_, len(coef)).astype(float)
        n_classes = len(getattr(worse, "classes_", ()))
        if n_classes > 2 and hasattr(worse, "decision_function_shape"):
            raise ValueError(
                f"worse must have a row of coef_ for each class, but "
                f"{type(worse).__name__} has one for each pair of classes"
            )
        # one decision value d of a classifier is (0, d)
        if len(coef) == 1 and n_outputs == 2 and n_classes == 2:
            coef = np.vstack([np.zeros_like(coef), coef])
            intercept = np.append(0.0, intercept)
    elif isinstance(worse, tuple | list) and len(worse) == 2:
        coef, intercept = (np.asarray(part, dtype=float) for part in worse)
    else:
        raise TypeError(
            "worse must be 'linear', 'constant', a pair (coef, intercept), a fitted "
            f"linear model or a narrower network, got {worse!r}"
        )
    for name, part, shape in (
        ("coef", coef, (n_outputs, n_features)),
        ("intercept", intercept, (n_outputs,)),
    ):
        if part.shape != shape:
            raise ValueError(
                f"worse must have {name} of shape {shape}, as the network has "
                f"{n_outputs} outputs and rows of {n_features} numbers, got "
                f"{part.shape}"
            )
        if not np.isfinite(part).all():
            raise ValueError(f"worse has {name} that is NaN or infinite")
    return coef, intercept


def _outputs(narrow, rows, n_outputs):
    try:
        with torch.no_grad():
            out = narrow(rows.clone())
    except RuntimeError as error:
        shape = tuple(rows.shape[1:])
        raise ValueError(f"worse does not take rows of shape {shape}") from error
    if out.shape != (len(rows), n_outputs):
        raise ValueError(
            f"worse must have the network's {n_outputs} outputs, got an output of "
            f"shape {tuple(out.shape)}"
        )
    return out


def _check_equal(network, rows, expected, remedy):
    with torch.no_grad():
        gap = float((network(rows.clone()) - expected).abs().max())
    if not gap <= _TOLERANCE * (1 + float(expected.abs().max())):
        raise ValueError(
            f"the network's outputs differ from those of the worse model by {gap:.1e}: "
            f"{remedy}"
        )


def _best_constant(target, n_classes):
    if n_classes is None:
        return torch.as_tensor(target.mean(axis=0))
    counts = np.bincount(target, minlength=n_classes)
    if not counts.all():
        raise ValueError(
            f"y has no row of class {int(counts.argmin())} (of 0 to {n_classes - 1}): "
            "its best score is minus infinity; there is no constant minimum"
        )
    return torch.as_tensor(np.log(counts / len(target)))
