"""What layers keep for the tangent kernel, from one forward and one backward pass."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from skpoison.landscape._ntk_terms import (
    Dense,
    Outputs,
    Places,
    pays_in_pairs,
    weight_slopes,
)
from skpoison.models._calls import count_uses, recorded


@dataclass
class Layer:
    """A layer whose share of the kernel follows from its input and output.

    Attributes
    ----------
    module : torch.nn.Module
    in_pairs : bool or None
        See :class:`~skpoison.landscape._ntk_terms.Places`; None holds derivatives.
    kept : int
        Values a row that stay after a pass.
    """

    module: nn.Module
    in_pairs: bool | None
    kept: int


def find_layers(network, X, n_rows, reduction, wanted):
    """Try a network on a few rows, and find the layers that need no derivatives.

    A layer counts if its type is known, no other module has its weights, it is called
    once on a batch of rows that nothing changes in place, and the graph shows no other
    use of its weights.

    Parameters
    ----------
    network : torch.nn.Module
    X : tensor of shape (n_samples, ...)
        A few rows.
    n_rows : int
        Of the kernel.
    reduction : str or None
    wanted : bool
        False looks for no layers.

    Returns
    -------
    outputs : Outputs
    n_values : int
        That a backward pass needs of a row.
    layers : list of Layer

    Raises
    ------
    ValueError
        The network returns something else than outputs of rows, or rows affect each
        other.
    """
    usable = _candidates(network) if wanted else []
    X = X.clone().requires_grad_(X.is_floating_point())
    counter = _Counter(network)
    with counter.counting():
        found, calls = _try(network, X[:1], usable)
    outputs = Outputs(reduction, found.shape[1], found)
    usable = _covered(found, calls, 1)
    if len(X) > 1 and usable:
        # what is no batch of rows does not grow with their number
        found, calls = _try(network, X, usable)
        usable = _covered(found, calls, len(X))
    if not usable:
        return outputs, counter.n_values, []
    reached: list[Any] = [calls[m][0].edge for m in usable]
    reached += [X] * X.requires_grad
    slopes = torch.autograd.grad(found[::2].sum(), reached, allow_unused=True)
    if any(s is not None and s[1::2].nan_to_num().any() for s in slopes):
        raise ValueError(
            "module lets the rows of a batch affect each other, as batch normalisation "
            "without running statistics does: it has no kernel of pairs of rows"
        )
    # what the outputs do not depend on is left to others
    layers = [
        _planned(m, calls[m][0], n_rows, outputs)
        for m, slope in zip(usable, slopes, strict=False)
        if slope is not None
    ]
    return outputs, counter.n_values, layers


class _Counter:
    """Counts what a forward pass keeps for the backward one, weights apart."""

    def __init__(self, network):
        parts = [*network.parameters(), *network.buffers()]
        self._own = {part.untyped_storage().data_ptr() for part in parts}
        self.n_values = 0

    def counting(self):
        return torch.autograd.graph.saved_tensors_hooks(self._count, lambda t: t)

    def _count(self, saved):
        if saved.untyped_storage().data_ptr() not in self._own:
            self.n_values += saved.numel()
        return saved


def _try(network, X, modules):
    with recorded(modules) as calls:
        try:
            found = network(X)
        except RuntimeError as error:
            raise ValueError(
                f"module does not take rows X of shape {tuple(X.shape[1:])} and type "
                f"{X.dtype}: {error}"
            ) from error
    shape = tuple(getattr(found, "shape", ()))
    if len(shape) != 2 or len(found) != len(X):
        got = shape if shape else type(found).__name__
        raise ValueError(
            f"module must return a tensor of shape (n_samples, n_outputs), got {got} "
            f"for {len(X)} row{'s' * (len(X) > 1)}"
        )
    return found, calls


def _candidates(network):
    owners = Counter(
        p for m in network.modules() for p in {*m._parameters.values()} - {None}
    )
    found = []
    for module in network.modules():
        own = {n: p for n, p in module._parameters.items() if p is not None}
        if (
            type(module) in RULES
            and {*own} <= {"weight", "bias"}
            and any(p.requires_grad for p in own.values())
            and all(owners[p] == 1 for p in own.values())
            and not (module._forward_hooks or module._backward_hooks)
        ):
            found.append(module)
    return found


def _covered(found, calls, n_rows):
    """Return the modules whose one call on rows is all that uses their weights."""
    uses = count_uses(found) if calls else {}
    return [
        module
        for module, made in calls.items()
        if _is_one_pass(made, n_rows) and all(uses[p] == 1 for p in _trainable(module))
    ]


def _trainable(module):
    """Return a layer's own weights, which `parameters()` is slower to find."""
    own = module._parameters.values()
    return [p for p in own if p is not None and p.requires_grad]


def _is_one_pass(made, n_rows):
    """Tell whether a layer met one batch of rows that nobody changed in place."""
    return (
        len(made) == 1
        and made[0].edge is not None
        and made[0].is_a_batch_of(n_rows)
        and not made[0].is_changed()
    )


def _planned(module, call, n_rows, outputs):
    n_weights = sum(p.numel() for p in _trainable(module))
    held = outputs.q * n_weights
    if RULES[type(module)] is not _product or not module.weight.requires_grad:
        return Layer(module, None, held)
    n_places = call.output[0].numel() // len(module.weight)
    entered = call.x[0].numel()
    in_pairs = pays_in_pairs(module, n_places, n_rows, outputs)
    if in_pairs:
        entered = n_places * module.weight[0].numel()
    kept = entered + outputs.q * call.output[0].numel()
    if not in_pairs and held <= kept:
        return Layer(module, None, held)
    return Layer(module, in_pairs, kept)


def layer_terms(network, layers, X, outputs):
    """Return what each layer keeps of rows.

    Returns
    -------
    terms : list of Dense or Places
        Always of the same layers in the same order.
    """
    with recorded([layer.module for layer in layers]) as by_module:
        found = network(X)
    calls = [by_module[layer.module] for layer in layers]
    if not all(_is_one_pass(made, len(X)) for made in calls):
        raise ValueError(
            "module takes different paths for different rows; pass method='jacobian'"
        )
    slopes = _slopes(found, [made[0].edge for made in calls], outputs.directions)
    terms: list[Any] = []
    with torch.no_grad():
        for layer, (call,), g in zip(layers, calls, slopes, strict=True):
            terms += RULES[type(layer.module)](layer, call.x, g)
    return terms


def _slopes(found, edges, directions):
    """Return the derivatives of functions of the outputs, functions first."""
    seeds = directions[:, None].expand(-1, len(found), -1)
    if len(seeds) > 1:
        try:
            return torch.autograd.grad(
                found, edges, seeds, is_grads_batched=True, retain_graph=True
            )
        except RuntimeError:  # an operation that can't be mapped over
            pass
    made = [
        torch.autograd.grad(found, edges, seed, retain_graph=True) for seed in seeds
    ]
    return [torch.stack(parts) for parts in zip(*made, strict=True)]


# ----------------------------------------------------------------------- rules
# Each takes a layer, what entered it and the derivatives by what left it, (functions,
# rows, ...), and yields terms.


def _product(layer, x, g):
    module = layer.module
    linear = isinstance(module, nn.Linear)
    if linear:
        g = g.flatten(2, -2).mT if g.ndim > 3 else g.unsqueeze(3)
    else:
        g = g.flatten(3)
    g = g.transpose(0, 1)
    if layer.in_pairs is not None:
        yield Places(module, x, g.contiguous(), layer.in_pairs)
    elif module.weight.requires_grad:
        yield Dense(weight_slopes(module, x, g))
    if module.bias is not None and module.bias.requires_grad and not layer.in_pairs:
        yield Dense(g.sum(3))


def _batch_norm(layer, x, g):
    module = layer.module
    shape = (-1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(module.running_var + module.eps)
    x = (x - module.running_mean.view(shape)) * scale.view(shape)
    yield from _channel_scale(module, x, g)


def _group_norm(layer, x, g):
    module = layer.module
    x = F.group_norm(x, module.num_groups, eps=module.eps)
    yield from _channel_scale(module, x, g)


def _channel_scale(module, x, g):
    x, g = x.reshape(*x.shape[:2], -1), g.reshape(*g.shape[:3], -1)
    if module.weight.requires_grad:
        yield Dense(torch.einsum("bfp,qbfp->bqf", x, g))
    if module.bias.requires_grad:
        yield Dense(g.sum(3).transpose(0, 1))


def _layer_norm(layer, x, g):
    module = layer.module
    n = module.weight.numel()
    x = F.layer_norm(x, module.normalized_shape, eps=module.eps)
    x, g = x.reshape(len(x), -1, n), g.reshape(*g.shape[:2], -1, n)
    if module.weight.requires_grad:
        yield Dense(torch.einsum("bpn,qbpn->bqn", x, g))
    if module.bias is not None and module.bias.requires_grad:
        yield Dense(g.sum(2).transpose(0, 1))


RULES: dict[Any, Any] = {
    nn.Linear: _product,
    nn.Conv1d: _product,
    nn.Conv2d: _product,
    nn.Conv3d: _product,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
