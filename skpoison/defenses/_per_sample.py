"""Sums of gradients that are clipped one sample at a time.

Two ways to the same numbers. `_by_layers` makes one backward pass for the whole batch
and gets norms and clipped sums from what enters and leaves each layer; it holds the
gradients of single samples only of layers where they are small. `_by_vmap` maps over
single samples and so takes any module.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from skpoison.models._calls import count_uses, recorded

# A gradient scaled to the limit stays below it in float32, rounding included.
_SLACK = 1 - 2**-20
# Values of per-sample gradients that "vmap" holds at a time: 256 MB.
_MOST_VALUES = 2**26
# Values of what kernels meet, held at a time: on a CPU, fresh memory is what costs.
_WINDOW_VALUES = {"cpu": 2**20, "cuda": 2**26}


@dataclass(slots=True)
class ClippedGradient:
    """What `clipped_gradient` finds in one batch.

    Attributes
    ----------
    gradients : dict of str to tensor
        By the parameter's name: sum over the samples of their clipped gradients.
    losses, norms : tensors of shape (n_samples,)
        Norms before clipping, over all parameters together.
    outputs : tensor of shape (n_samples, ...)
        Of the module.
    method : {"auto", "layers", "vmap"}
        What to pass with the next batch: the way taken, or "auto" where fewer than
        two samples decide nothing.
    """

    gradients: dict[str, torch.Tensor]
    losses: torch.Tensor
    norms: torch.Tensor
    outputs: torch.Tensor
    method: str


class _Term:
    """The gradients of one parameter: their squared norms, and what sums them.

    Parameters
    ----------
    name : str
    squares : tensor of shape (n_samples,)
    combine : callable
        ``combine(weights, *tensors)`` is the weighted sum of the gradients.
    *tensors : tensors of shape (n_samples, ...)
    """

    def __init__(self, name, squares, combine, *tensors):
        self.name, self.squares = name, squares
        self.combine, self.tensors = combine, tensors

    def total(self, weights, finite):
        """Return the weighted sum; `finite` masks the samples to use, None is all."""
        if finite is None:
            return self.combine(weights, *self.tensors)
        # a weight of zero does not stop inf or NaN
        masks = [finite.view(-1, *[1] * (t.ndim - 1)) for t in self.tensors]
        tensors = [t.where(m, 0) for t, m in zip(self.tensors, masks, strict=True)]
        return self.combine(weights, *tensors)


def clipped_gradient(
    module, loss_function, X, y, max_norm, *, chunk_size=None, method="auto"
):
    """Sum the clipped gradients of the samples of a batch.

    Parameters
    ----------
    module : torch.nn.Module
        Treats samples, along the first axis, one by one.
    loss_function : callable
        ``loss_function(outputs, y)`` returns one loss a sample.
    X, y : tensors of shape (n_samples, ...)
    max_norm : float
        Norm that a longer gradient is shortened to.
    chunk_size : int, default=None
        Samples at a time, to bound memory. None is all of them and, with "vmap", as
        many as have gradients of 256 MB together.
    method : {"auto", "layers", "vmap"}, default="auto"
        "layers" is for modules whose trainable parameters all belong to layers of the
        types in `RULES`, each called at most once, and turns to "vmap" for others.
        "auto" is "layers" after a check that samples don't affect each other.

    Returns
    -------
    clipped : ClippedGradient

    Raises
    ------
    ValueError
        With "auto": samples affect each other.

    Notes
    -----
    The sum is ``sum_i g_i min(1, C / |g_i|)``, C the `max_norm`. A gradient that is
    not finite counts as zero, so that no sample adds more than C.
    """
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    gradients: dict[str, torch.Tensor] = {}
    room = max(1, _MOST_VALUES // max(1, sum(p.numel() for p in trainable.values())))
    found = []
    start = 0
    while start < len(X):
        size = chunk_size or (room if method == "vmap" else len(X))
        # a copy: a module that works in place may have to see the batch twice
        batch = X[start : start + size].clone(), y[start : start + size]
        if method == "vmap":
            taken = _by_vmap(module, loss_function, *batch, trainable)
        else:
            taken = _by_layers(module, loss_function, *batch, method == "auto")
            if taken is None:
                method = "vmap"
                continue  # in chunks of its own size
            if len(batch[0]) > 1:
                method = "layers"
        terms, *rest = taken
        norms = _add_clipped(gradients, terms, max_norm)
        found.append((norms, *rest))
        start += size
    if not found:
        found.append((X.new_zeros(0),) * 3)
    gradients = {  # in the order of the module, whatever the way
        name: gradients[name] if name in gradients else torch.zeros_like(parameter)
        for name, parameter in trainable.items()
    }
    norms, losses, outputs = (torch.cat(parts) for parts in zip(*found, strict=True))
    return ClippedGradient(gradients, losses, norms, outputs, method)


def _add_clipped(gradients, terms, max_norm):
    """Add the clipped sums to `gradients` and return the norms before clipping."""
    with torch.no_grad():
        norms = torch.stack([term.squares for term in terms]).sum(0).sqrt()
        finite = norms.isfinite()
        weights = (max_norm * _SLACK / norms).clamp(max=1).where(finite, 0)
        mask = None if finite.all() else finite
        for term in terms:
            total = term.total(weights, mask)
            gradients[term.name] = gradients.get(term.name, 0) + total
    return norms


# ------------------------------------------------------------------- by sample


def _by_vmap(module, loss_function, X, y, trainable):
    """Return terms, losses and outputs by mapping over single samples."""
    values = {n: p.detach() for n, p in trainable.items()}

    def one_loss(values, x, target):
        output = functional_call(module, values, (x[None],))
        return loss_function(output, target[None]).sum(), output[0]

    mapped = vmap(
        grad_and_value(one_loss, has_aux=True), (None, 0, 0), randomness="different"
    )
    gradients, (losses, outputs) = mapped(values, X, y)
    terms = [_stored(name, gradient) for name, gradient in gradients.items()]
    return terms, losses, outputs


# ------------------------------------------------------------------- by layers


def _by_layers(module, loss_function, X, y, check_rows):
    """Return terms, losses and outputs by one backward pass, or None."""
    layers = _layers(module)
    if layers is None:
        return None
    with recorded(layers.values()) as calls:
        outputs = module(X)
    losses = loss_function(outputs, y)
    if not _covers(calls, losses):
        return None
    called = {name: layer for name, layer in layers.items() if calls[layer]}
    edges = [calls[layer][0].edge for layer in called.values()]
    if check_rows and len(X) > 1:
        _check_rows(losses, edges)
    slopes = torch.autograd.grad(losses.sum(), edges, allow_unused=True)
    terms = []
    with torch.no_grad():
        for (name, layer), slope in zip(called.items(), slopes, strict=True):
            call = calls[layer][0]
            if slope is None or not call.is_a_batch_of(len(X)) or call.is_changed():
                return None
            for term in RULES[type(layer)](layer, call.x, slope):
                if getattr(layer, term.name).requires_grad:
                    term.name = f"{name}.{term.name}" if name else term.name
                    terms.append(term)
    return terms, losses.detach(), outputs.detach()


def _layers(module):
    """Return the layers that hold all trainable parameters, by name, or None."""
    layers: dict[str, Any] = {}
    seen: set = set()
    for name, layer in module.named_modules():
        own = {n: p for n, p in layer._parameters.items() if p is not None}
        trainable = {p for p in own.values() if p.requires_grad}
        if not trainable:
            continue
        if type(layer) not in RULES or not {*own} <= {"weight", "bias"}:
            return None
        if any(getattr(layer, option, None) for option in _UNUSUAL) or seen & trainable:
            return None
        seen |= trainable
        layers[name] = layer
    return layers


def _covers(calls, losses):
    """Tell whether the recorded calls, one a layer, are all uses of parameters."""
    if not losses.requires_grad:
        return False
    uses = count_uses(losses)
    return all(
        len(found) <= 1 and uses[parameter] == len(found)
        for layer, found in calls.items()
        for parameter in layer.parameters()
        if parameter.requires_grad
    )


def _check_rows(losses, edges):
    """Raise if the loss of a sample depends on another's."""
    slopes = torch.autograd.grad(
        losses[::2].sum(), edges, retain_graph=True, allow_unused=True
    )
    slopes = [s for s in slopes if s is not None and len(s) == len(losses)]
    if any(slope[1::2].nan_to_num().any() for slope in slopes):
        raise ValueError(
            "the module lets the samples of a batch affect each other, as batch "
            "normalisation does, so that clipping their gradients bounds nothing"
        )


# ----------------------------------------------------------------------- rules
# Each takes a layer, what entered it and the slope of the loss in what left it, and
# yields the terms of its parameters.


def _weighted_sum(weights, gradients):
    return (weights @ gradients.flatten(1)).view(gradients.shape[1:])


def _stored(name, gradients):
    """Return the term of gradients that are held one a sample."""
    squares = gradients.flatten(1).square().sum(1)
    return _Term(name, squares, _weighted_sum, gradients)


def _pays_in_pairs(n_places, n_in, n_out):
    # squared norms of sums over places from inner products of all pairs of places,
    # or from the sums, which have to be held
    return n_places * (n_in + n_out) <= n_in * n_out


def _squares_in_pairs(x, g):
    """Return the squared norms of ``sum_t g_t x_t'``, t the last axis but one."""
    if x.shape[-2] == 1:
        squares = x.square().sum(-1) * g.square().sum(-1)
    else:
        squares = ((x @ x.mT) * (g @ g.mT)).sum((-1, -2)).clamp_(min=0)
    return squares.reshape(len(x), -1).sum(1)


def _linear(layer, x, g):
    if layer.bias is not None:
        yield _stored("bias", g.flatten(1, -2).sum(1) if g.ndim > 2 else g)
    x, g = (t.reshape(len(t), -1, t.shape[-1]) for t in (x, g))
    if _pays_in_pairs(x.shape[1], layer.in_features, layer.out_features):
        yield _Term("weight", _squares_in_pairs(x, g), _linear_sum, x, g)
    else:
        yield _stored("weight", g.mT @ x)


def _linear_sum(weights, x, g):
    return (g * weights.view(-1, 1, 1)).flatten(0, 1).T @ x.flatten(0, 1)


def _convolution(layer, x, g):
    if layer.bias is not None:
        yield _stored("bias", g.flatten(2).sum(2))
    mode = layer.padding_mode.replace("zeros", "constant")
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    slopes = g.reshape(len(g), layer.groups, layer.out_channels // layer.groups, -1)
    n_in, n_out = layer.weight[0].numel(), slopes.shape[2]
    n_places = slopes.shape[3]
    room = _WINDOW_VALUES.get(x.device.type, 2**20)
    size = max(1, room // (layer.groups * n_in * n_places))
    pieces = (
        (_windows(layer, part).mT, slope.mT)
        for part, slope in zip(x.split(size), slopes.split(size), strict=True)
    )
    if _pays_in_pairs(n_places, n_in, n_out):
        squares = torch.cat([_squares_in_pairs(*piece) for piece in pieces])
        yield _Term("weight", squares, partial(_convolution_sum, layer), x, g)
    else:
        gradients = torch.cat([slope.mT @ windows for windows, slope in pieces])
        yield _stored("weight", gradients.reshape(len(g), *layer.weight.shape))


def _windows(layer, x):
    """Return what the kernel meets: (n_samples, groups, kernel values, places)."""
    n_axes = len(layer.kernel_size)
    for axis in range(n_axes):
        step = layer.dilation[axis]
        width = (layer.kernel_size[axis] - 1) * step + 1
        x = x.unfold(2 + axis, width, layer.stride[axis])[..., ::step]
    places, kernel = range(2, 2 + n_axes), range(2 + n_axes, 2 + 2 * n_axes)
    x = x.permute(0, 1, *kernel, *places)
    return x.reshape(len(x), layer.groups, layer.weight[0].numel(), -1)


def _convolution_sum(layer, weights, x, g):
    g = g * weights.view(-1, *[1] * (g.ndim - 1))
    weight_gradient = _CONVOLUTIONS[type(layer)]
    return weight_gradient(
        x,
        layer.weight.shape,
        g,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
    )


def _embedding(layer, x, g):
    x, g = x.reshape(len(x), -1), g.reshape(len(g), -1, g.shape[-1])
    if layer.padding_idx is not None:
        g = g.masked_fill((x == layer.padding_idx)[..., None], 0)
    pairs = (g @ g.mT) * (x[:, None] == x[:, :, None])
    squares = pairs.sum((1, 2)).clamp_(min=0)
    yield _Term("weight", squares, partial(_embedding_sum, layer), x, g)


def _embedding_sum(layer, weights, x, g):
    total = torch.zeros_like(layer.weight)
    g = g * weights.view(-1, 1, 1)
    return total.index_add_(0, x.flatten(), g.flatten(0, 1))


def _channel_norm(layer, x, g):
    if isinstance(layer, nn.GroupNorm):
        x = F.group_norm(x, layer.num_groups, eps=layer.eps)
    else:
        x = F.instance_norm(x, eps=layer.eps)
    shape = (*g.shape[:2], -1)
    yield _stored("weight", (g * x).reshape(shape).sum(2))
    yield _stored("bias", g.reshape(shape).sum(2))


def _layer_norm(layer, x, g):
    shape = layer.normalized_shape
    x = F.layer_norm(x, shape, eps=layer.eps)
    yield _stored("weight", (g * x).reshape(len(g), -1, *shape).sum(1))
    if layer.bias is not None:
        yield _stored("bias", g.reshape(len(g), -1, *shape).sum(1))


_CONVOLUTIONS = {
    nn.Conv1d: nn.grad.conv1d_weight,
    nn.Conv2d: nn.grad.conv2d_weight,
    nn.Conv3d: nn.grad.conv3d_weight,
}
RULES: dict[Any, Any] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.GroupNorm: _channel_norm,
    nn.InstanceNorm1d: _channel_norm,
    nn.InstanceNorm2d: _channel_norm,
    nn.InstanceNorm3d: _channel_norm,
    nn.LayerNorm: _layer_norm,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
}
# Options of these layers that change the gradient, or tie samples together.
_UNUSUAL = ("max_norm", "scale_grad_by_freq", "sparse", "track_running_stats")
