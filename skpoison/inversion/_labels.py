"""Labels of a client's samples, read off the gradient of the last layer."""

import warnings

import numpy as np
import torch
from torch import nn

from skpoison.inversion._updates import load_update
from skpoison.models._given import Model
from skpoison.utils import RandomStreams
from skpoison.utils._tensors import evaluating
from skpoison.utils._validation import check_number, check_option

_N_PROBES = 64
_SUM_TOLERANCE = 0.05  # share that rounding stays far below, and other losses exceed


def recover_labels(
    gradients,
    module,
    n_samples,
    *,
    update="gradient",
    local_steps=1,
    local_lr=1e-4,
    class_prior=None,
    shape=None,
    random_state=None,
):
    """Count the labels of a batch from the gradient of a network's last layer.

    The network ends in a linear layer and is trained by cross entropy. One sample's
    label is exact; of a batch the counts are as good as the guess of the network's mean
    prediction, see Notes.

    Parameters
    ----------
    gradients : list, dict, array or path
        What the client sent, see :func:`load_update`.
    module : torch.nn.Module, or fitted classifier
        The network that the gradients are of; left as it is.
    n_samples : int
        Samples in the batch.
    update : {"gradient", "weights"}, default="gradient"
        What `gradients` holds: the gradient of the mean loss, or the change of the
        weights by local steps of gradient descent.
    local_steps : int, default=1
        Steps behind a change of the weights. With several the answer is approximate:
        their mean gradient is taken for the first one.
    local_lr : float, default=1e-4
        Step size of the client.
    class_prior : array-like of shape (n_classes,), default=None
        Mean prediction of the network on data like the client's, for example on public
        data. None compares the mean prediction on noise with equal shares.
    shape : tuple of int, default=None
        Shape of one input, for the noise. None finds one that the network takes.
    random_state : None, int, RandomState or Generator, default=None
        Draws the noise.

    Returns
    -------
    labels : ndarray of shape (n_samples,)
        As in `classes_` of a fitted classifier, and positions among the scores of a
        network. Ascending: the order of the samples can't be told.

    Raises
    ------
    TypeError
        The last layer with parameters is not linear.
    ValueError
        Parameters out of range, or gradients that don't fit the network, are zero or
        not finite.

    Warns
    -----
    UserWarning
        The gradient of a batch by the bias does not sum to zero, as that of cross
        entropy does: it is noisy, or of another loss.

    Notes
    -----
    With softmax probabilities :math:`p_{bc}` of sample b, the derivative of the mean
    cross entropy by the bias of class c is
    :math:`g_c = \\frac{1}{B} \\sum_b (p_{bc} - [y_b = c])`, so that the number of
    samples of class c is exactly

    .. math::
        n_c = B (\\bar p_c - g_c), \\qquad \\bar p_c = \\frac{1}{B} \\sum_b p_{bc}.

    The server does not know :math:`\\bar p`. By default two guesses are compared, the
    mean prediction on 64 inputs of normal noise and 1 / n_classes, and the one whose
    counts are less negative is taken. The counts are projected onto those that are
    non-negative and sum to B, and rounded by largest remainders.

    For one sample :math:`g_c < 0` holds for the label alone. Without bias, row c of the
    weights' gradient is :math:`(p_c - y_c) h^\\top`: all rows but the label's point the
    same way, whatever the signs of the features h. (The rule that takes the row with
    the smallest sum needs :math:`h \\geq 0`.) With two classes the rows are opposite
    and tell nothing by themselves; the sign of h is then taken from the features of
    noise. The same features stand in for the batch's where a batch has no bias
    gradient, which makes its counts approximate.

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller (2020), Inverting
       gradients: how easy is it to break privacy in federated learning? NeurIPS.
       arXiv:2003.14053.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import client_update, recover_labels
    >>> from skpoison.models import MLP
    >>> from skpoison.utils import local_torch_seed
    >>> with local_torch_seed(0):
    ...     net = MLP((4,), 3)
    >>> X = np.random.RandomState(0).rand(6, 4)
    >>> gradients = client_update(net, X, [2, 0, 2, 1, 2, 0])
    >>> recover_labels(gradients, net, 6, random_state=0)
    array([0, 0, 1, 2, 2, 2])
    """
    check_number("n_samples", n_samples, low=1, integer=True)
    check_option("update", update, ["gradient", "weights"])
    check_number("local_steps", local_steps, low=1, integer=True)
    check_number("local_lr", local_lr, low=0.0, strict=True)
    model = Model(module)
    module = model.network
    shape = None if shape is None else model.shape(shape)
    observed = load_update(gradients, module)
    scale = -1.0 / (local_steps * local_lr) if update == "weights" else 1.0
    observed = {
        name: scale * values.detach().to("cpu", torch.float64).numpy()
        for name, values in observed.items()
    }
    name, last = last_linear(module)
    weight = observed.get(_join(name, "weight"))
    bias = observed.get(_join(name, "bias"))
    if weight is None and bias is None:
        raise ValueError(
            f"gradients hold nothing of the last layer, {name or 'the module'}: its "
            "parameters are frozen, and the labels can't be counted"
        )
    probe = _Probe(module, last, shape, RandomStreams(random_state))
    if bias is None:
        if n_samples == 1:
            return model.labels(np.array([_label_without_bias(weight, probe)]))
        direction = probe.features().mean(axis=0)
        bias = weight @ direction / max(direction @ direction, 1e-300)
    if not bias.any():
        raise ValueError(
            "the gradient of the last layer is zero: the labels can't be counted"
        )
    if len(bias) == 1:  # one decision value against zero
        bias = np.append(-bias, bias)
    if class_prior is not None:
        class_prior = _check_prior(class_prior, len(bias))
    if n_samples == 1:
        return model.labels(np.array([bias.argmin()]))
    _warn_sum(bias)
    prior = class_prior
    if prior is None:
        prior = _guess_prior(bias, n_samples, probe)
    counts = _round(n_samples * (prior - bias), n_samples)
    return model.labels(np.repeat(np.arange(len(bias)), counts))


def last_linear(module):
    """Return name and layer of the last part with parameters, which is linear."""
    parts = [
        (name, part)
        for name, part in module.named_modules()
        if next(part.parameters(recurse=False), None) is not None
    ]
    if not parts:
        raise ValueError("module has no parameters")
    name, part = parts[-1]
    if not isinstance(part, nn.Linear):
        raise TypeError(
            "labels are read off a last layer that is torch.nn.Linear; the last one "
            f"with parameters is {name or 'the module'}, a {type(part).__name__}"
        )
    return name, part


def _join(name, parameter):
    return f"{name}.{parameter}" if name else parameter


def _warn_sum(bias):
    if abs(bias.sum()) > _SUM_TOLERANCE * abs(bias).sum():
        warnings.warn(
            "the gradient by the last bias does not sum to zero, as that of cross "
            "entropy does: it is noisy or of another loss, and the labels are a guess",
            UserWarning,
            stacklevel=3,
        )


def _label_without_bias(weight, probe):
    """Return the one row that points the other way than all others."""
    left, sizes, right = np.linalg.svd(weight, full_matrices=False)
    if sizes[0] == 0:
        raise ValueError("the gradient of the last layer is zero: no label to be read")
    rows = left[:, 0]
    if len(rows) <= 2:
        if right[0] @ probe.features().mean(axis=0) < 0:
            rows = -rows
        return int(np.append(-rows, rows)[-2:].argmin())
    # The label's entry balances all others. Where a second one is nearly as large, as
    # in a confident mistake, the small rest decides, whose sign is that of the wrong.
    first, second = np.argsort(-abs(rows), kind="stable")[:2]
    rest = np.delete(rows, [first, second]).sum()
    return int(first if rest * rows[first] <= 0 else second)


def _guess_prior(bias, n_samples, probe):
    """Return the one of two guesses that makes the counts less negative."""
    uniform = np.full(len(bias), 1 / len(bias))
    noise = probe.prediction()
    if noise is None or noise.shape != uniform.shape:
        return uniform

    def violation(prior):
        return np.maximum(n_samples * (bias - prior), 0).sum()

    return noise if violation(noise) <= violation(uniform) else uniform


def _check_prior(class_prior, n_classes):
    prior = np.asarray(class_prior)
    if prior.dtype.kind not in "fiu":
        raise TypeError(f"class_prior must be an array of numbers, got {class_prior!r}")
    if prior.shape != (n_classes,):
        raise ValueError(
            f"class_prior must have one entry a class, {n_classes}, got shape "
            f"{prior.shape}"
        )
    if not (np.isfinite(prior).all() and (prior >= 0).all()):
        raise ValueError(f"class_prior must be finite and >= 0, got {class_prior!r}")
    if abs(prior.sum() - 1) > 1e-3:
        raise ValueError(f"class_prior must sum to 1, got {prior.sum():g}")
    return prior


def _round(shares, total):
    """Return the whole numbers >= 0 with this total that are next to `shares`."""
    # wild ones, as of another loss, would swallow the total
    shares = np.clip(shares, -1e6 * total, 1e6 * total)
    # projection onto the simplex: the constant whose subtraction keeps the total
    ordered = np.sort(shares)[::-1]
    excess = (np.cumsum(ordered) - total) / np.arange(1, len(shares) + 1)
    shares = np.maximum(shares - excess[ordered > excess][-1], 0)
    counts = np.floor(shares + 1e-9).astype(np.int64)
    left = total - counts.sum()
    if left > 0:
        counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    return counts


class _Probe:
    """Features before the last layer, and its prediction, on normal noise."""

    def __init__(self, module, last, shape, streams):
        self.module, self.last = module, last
        self.shape, self.streams = shape, streams

    def features(self):
        """Return float64 features of shape (n_probes, n_inputs of the last layer)."""
        found = self._run()
        if found is None:
            raise ValueError(
                "no shape of an input was found that the network takes: pass shape=..."
            )
        return found[0].cpu().double().numpy()

    def prediction(self):
        """Return the mean of softmax, or None where no input's shape is known."""
        found = self._run()
        if found is None:
            return None
        scores = found[1].double()
        if scores.shape[1] == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
        return scores.softmax(1).mean(0).cpu().numpy()

    def _run(self):
        if self.shape is not None:
            try:
                return self._forward(self.shape, _N_PROBES)
            except (RuntimeError, ValueError, IndexError) as error:
                raise ValueError(
                    f"{type(self.module).__name__} takes no inputs of shape "
                    f"{self.shape}: {error}"
                ) from error
        for shape in _input_shapes(self.module):
            try:
                self._forward(shape, 1)
            except (RuntimeError, ValueError, IndexError):
                continue
            return self._forward(shape, _N_PROBES)
        return None

    def _forward(self, shape, n_probes):
        """Return what went into the last layer and what came out."""
        caught: list = []
        noise = self.streams.numpy("noise")
        inputs = torch.as_tensor(noise.standard_normal((n_probes, *shape)))
        hook = self.last.register_forward_hook(
            lambda _, args, scores: caught.append((args[0], scores))
        )
        try:
            with evaluating(self.module), torch.no_grad():
                self.module(inputs.to(next(self.module.parameters())))
        finally:
            hook.remove()
        return caught[-1]


def _input_shapes(module):
    """Yield shapes of one input that the first layer may take, likely ones first."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            yield (part.in_features,)
            return
        if isinstance(part, nn.Conv2d):
            sides = dict.fromkeys([28, 32, 64, 96, 224, *range(4, 129)])
            yield from ((part.in_channels, side, side) for side in sides)
            return
