"""Units that are switched off, so that a network does no more than a smaller one."""

import copy

import torch
from torch import nn

_N_PROBES = 3


def switch_off(network, rows, scores, margin):
    """Turn all hidden units off, and let the last layer's bias be the scores.

    Parameters
    ----------
    network : torch.nn.Module
        In float64 and in evaluation mode; its parameters are changed.
    rows : Tensor of shape (n_samples, ...)
    scores : Tensor of shape (n_outputs,)
    margin : float

    Raises
    ------
    TypeError
        The network doesn't end with a linear layer, or doesn't stay constant.
    """
    name = _last_layer(network, rows)
    with torch.no_grad():
        for part_name, parameter in network.named_parameters():
            parameter.fill_(-margin if part_name.endswith("bias") else 0.0)
        network.get_submodule(name).bias.copy_(scores)
        noise = _Noise(network, rows, margin)
        for probe in range(_N_PROBES):
            near = copy.deepcopy(network)
            for i, parameter in enumerate(near.parameters()):
                parameter.add_(noise.draw(probe, i, parameter))
            # off is off for any weights behind, and no bias is to round a rest away
            last = near.get_submodule(name)
            last.weight.copy_(noise.draw(probe, -1, last.weight) / noise.radius)
            last.bias.zero_()
            out = near(rows.clone())
            if (out - out[:1]).abs().max() > 1e-12 * out.abs().max():
                raise TypeError(
                    "module does not stay constant near such parameters: its units "
                    "must be torch.nn.ReLU or other functions that are 0 below 0, with "
                    "biases in front of them, and no connection may pass by all of them"
                )


def _last_layer(network, rows):
    """Return the name of the last layer with weights that runs."""
    called: list = []
    hooks = [
        part.register_forward_hook(lambda part, args, out: called.append(part))
        for part in network.modules()
        if [*part.parameters(recurse=False)]
    ]
    with torch.no_grad():
        network(rows[:2].clone())
    for hook in hooks:
        hook.remove()
    last = called[-1] if called else None
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise TypeError(
            "module must end with torch.nn.Linear with a bias for worse='constant', "
            f"got {last}"
        )
    return next(name for name, part in network.named_modules() if part is last)


class _Noise:
    """Random moves that are too small to switch a unit that is off by the margin.

    Parameters
    ----------
    network : torch.nn.Module
    rows : Tensor
    margin : float

    Attributes
    ----------
    radius : float
        Standard deviation of a move of one weight.
    """

    def __init__(self, network, rows, margin):
        sizes = [1.0]

        def measure(part, args):
            sizes.append(float(args[0].flatten(1).abs().sum(dim=1).max()))

        layers = [p for p in network.modules() if [*p.parameters(recurse=False)]]
        hooks = [part.register_forward_pre_hook(measure) for part in layers]
        network(rows.clone())
        for hook in hooks:
            hook.remove()
        self.radius = 1e-3 * margin / max(sizes)

    def draw(self, probe, place, parameter):
        """Return a move of one parameter, the same for the same two numbers."""
        generator = torch.Generator().manual_seed(1000 * probe + place + 1)
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return self.radius * drawn.to(parameter.device)


def widen(network, narrow, rows, margin):
    """Set a network to a narrower one, further units being off.

    Parameters
    ----------
    network, narrow : torch.nn.Module
        In float64 and in evaluation mode; the parameters and buffers of the former are
        changed.
    rows : Tensor of shape (n_samples, ...)
    margin : float

    Raises
    ------
    ValueError
        The networks have different layers, or the former is not the wider one.
    TypeError
        Units that are off don't stay off.
    """
    with torch.no_grad():
        for name, wide, small in _matched(network, narrow):
            if isinstance(wide, nn.Parameter):
                wide.fill_(-margin if name.endswith("bias") else 0.0)
            # statistics of units that are off may stay
            wide[_block(small)] = small
        noise = _Noise(network, rows, margin)
        for probe in range(_N_PROBES):
            near, near_small = copy.deepcopy(network), copy.deepcopy(narrow)
            for i, (_, wide, small) in enumerate(_matched(near, near_small)):
                if not isinstance(wide, nn.Parameter):
                    continue
                move = noise.draw(probe, i, wide)
                if wide.ndim > 1:  # off is off for any weights behind
                    move[: len(small), small.shape[1] :] /= noise.radius
                wide.add_(move)
                small.copy_(wide[_block(small)])
            out, expected = near(rows.clone()), near_small(rows.clone())
            if (out - expected).abs().max() > 1e-10 * expected.abs().max():
                raise TypeError(
                    "module does more than the narrower network near such parameters: "
                    "units must be torch.nn.ReLU or other functions that are 0 below "
                    "0, with biases in front of them, in the same places in both"
                )


def _block(small):
    return tuple(slice(0, side) for side in small.shape)


def _matched(network, narrow):
    """Return (name, tensor, narrower tensor) of all parameters and buffers."""
    wides = [*network.named_parameters(), *network.named_buffers()]
    smalls = [*narrow.parameters(), *narrow.buffers()]
    kinds = [
        [type(part).__name__ for part in net.modules() if not [*part.children()]]
        for net in (network, narrow)
    ]
    if len(wides) != len(smalls) or kinds[0] != kinds[1]:
        raise ValueError(
            "worse must have the same layers as module, with fewer units, but has "
            f"{', '.join(kinds[1])} where module has {', '.join(kinds[0])}"
        )
    matched = []
    for (name, wide), small in zip(wides, smalls, strict=True):
        is_narrower = (
            wide.ndim == small.ndim
            and wide.shape[2:] == small.shape[2:]
            and all(a >= b for a, b in zip(wide.shape, small.shape, strict=True))
        )
        if not is_narrower:
            raise ValueError(
                f"worse must be narrower than module, but {name} has shape "
                f"{tuple(small.shape)} where module has {tuple(wide.shape)}"
            )
        matched.append((name, wide, small))
    return matched
