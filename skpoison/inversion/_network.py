"""What a network tells about itself: modes, inputs of layers, operations."""

from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from skpoison.utils._validation import check_option

#: Operations whose slope jumps.
_KINKED = {
    "_prelu_kernel", "abs", "adaptive_max_pool2d", "clamp", "clamp_min", "hardsigmoid",
    "hardswish", "hardtanh", "leaky_relu", "max", "max_pool2d_with_indices",
    "maximum", "relu", "rrelu_with_noise", "threshold",
}  # fmt: skip


def check_modes(module, batch_norm):
    """Raise where a network's mode leaves open what the client computed."""
    if batch_norm is not None:
        check_option("batch_norm", batch_norm, ("eval", "train"))
    name = type(module).__name__
    for part in module.modules():
        if isinstance(part, _DropoutNd) and part.training and part.p > 0:
            raise ValueError(
                f"{name} is in training mode and has dropout, whose mask the server "
                "does not know: call module.eval() first"
            )
        normalises = isinstance(part, _BatchNorm) and part.track_running_stats
        if normalises and part.training and batch_norm is None:
            raise ValueError(
                f"{name} is in training mode and has batch normalisation: set "
                "batch_norm='train' if the client normalised by its batch, or "
                "batch_norm='eval' (or call module.eval()) if by running statistics"
            )


@contextmanager
def recorded(layers):
    """Give a dict that fills with the inputs of layers, the first time each runs."""
    inputs: dict = {}

    def record(layer, args):
        inputs.setdefault(layer, args[0])

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def first_linear(client, shape):
    """Return the name of the linear layer with a bias that runs first, or None.

    None also where it does not run exactly once on one vector a row: then its
    gradient says something else than its input.
    """
    calls = []
    hooks = [
        part.register_forward_pre_hook(
            lambda _, args, name=name: calls.append((name, args[0].ndim))
        )
        for name, part in client.module.named_modules()
        if isinstance(part, torch.nn.Linear) and part.bias is not None
    ]
    try:
        client.n_outputs(shape)
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, _ in calls]
    once = calls and calls[0][1] == 2 and names.count(names[0]) == 1
    return names[0] if once else None


def has_kinks(client, shape):
    """Return whether a forward pass runs operations without a second derivative."""
    with _Operations() as seen:
        client.n_outputs(shape)
    return not _KINKED.isdisjoint(seen.names)


class _Operations(TorchDispatchMode):
    """Sees every operation on tensors, as layer, function or method."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))
