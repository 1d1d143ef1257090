"""Small models inside large networks: chains of layers that carry an affine map."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_UNITS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU)  # the identity of positive numbers
_PASSING = (
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
_KNOWN = (nn.Linear, nn.Conv2d, *_NORMS, *_UNITS, *_PASSING)
_POOLS = (
    nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.MaxPool1d, nn.AdaptiveMaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d,
)  # fmt: skip
_REMEDY = (
    "worse='constant' or a narrower trained network as worse does without a chain of "
    "affine layers"
)
_RANK_TOLERANCE = 1e-12


@dataclass
class Layer:
    """A layer of a chain, its name, and the shape of one row that it takes."""

    name: str
    module: nn.Module
    shape: torch.Size


def trace_chain(network, X):
    """Return the layers of a network that applies them one after the other.

    Parameters
    ----------
    network : torch.nn.Module
        In float64 and in evaluation mode. Its parts without parts are the layers.
    X : Tensor of shape (n_samples, ...)
        Of which only the shape counts.

    Returns
    -------
    layers : list of Layer

    Raises
    ------
    TypeError
        A layer of another kind, or something between two layers: a function, or a
        connection that skips some.
    """
    names = {part: f"layer {name!r}" for name, part in network.named_modules()}
    calls: list = []

    def before(part, args):
        calls.append([part, args[0].clone(), None])

    def after(part, args, out):
        # layers that give something else than a tensor are refused below
        kept = out.clone() if isinstance(out, torch.Tensor) else out
        next(call for call in reversed(calls) if call[0] is part)[2] = kept

    generator = torch.Generator().manual_seed(0)
    leaves = [part for part in network.modules() if not [*part.children()]]
    hooks = [part.register_forward_pre_hook(before) for part in leaves]
    hooks += [part.register_forward_hook(after) for part in leaves]
    weights = copy.deepcopy(network.state_dict())
    try:
        with torch.no_grad():
            # at other weights, no branch is zero or the identity by chance
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter))
            rows = torch.randn((2, *X.shape[1:]), generator=generator)
            start = rows.to(X)
            out = network(start.clone())
    finally:
        for hook in hooks:
            hook.remove()
        network.load_state_dict(weights)
    for part, _, _ in calls:
        _check_known(names[part], part)
    uses = [id(p) for part, _, _ in calls for p in part.parameters()]
    if len(uses) > len({*uses}):
        raise TypeError(f"module must use each of its weights once; {_REMEDY}")
    value, behind = start, "the input"
    for part, taken, given in calls:
        if not torch.equal(taken.flatten(), value.flatten()):
            raise TypeError(
                f"module must be a chain of layers, but {names[part]} does not take "
                f"what {behind} gives: a function or another connection stands "
                f"between; {_REMEDY}"
            )
        value, behind = given, names[part]
    if not calls or not torch.equal(out.flatten(), value.flatten()):
        raise TypeError(
            f"module must be a chain of layers that ends with a layer, but what "
            f"{behind} gives is not what it returns; {_REMEDY}"
        )
    return [Layer(names[part], part, taken.shape[1:]) for part, taken, _ in calls]


def _check_known(name, part):
    if isinstance(part, _POOLS):
        raise TypeError(
            f"{name} is {type(part).__name__}: which pixels it selects or mixes is no "
            f"affine map that later layers could undo; {_REMEDY}"
        )
    if type(part) not in _KNOWN:
        known = ", ".join(kind.__name__ for kind in _KNOWN)
        raise TypeError(
            f"{name} is {type(part).__name__}, which can't carry an affine map; layers "
            f"must be of {known}; {_REMEDY}"
        )
    if isinstance(part, nn.Conv2d) and part.groups != 1:
        raise TypeError(f"{name} must have groups=1, got {part.groups}; {_REMEDY}")
    if isinstance(part, _NORMS) and not (part.affine and part.track_running_stats):
        raise TypeError(
            f"{name} must be {type(part).__name__} with weights and running statistics"
        )


class Carrier:
    """Set the layers of a chain to an affine map, every unit being active.

    Parameters
    ----------
    layers : list of Layer
        Their parameters are changed.
    X : Tensor of shape (n_samples, ...)
        The rows on which all units are to be active.
    coef : Tensor of shape (n_outputs, n_features)
    intercept : Tensor of shape (n_outputs,)
    mode : {"svd", "identity"}
    margin : float
        What each unit gets at least.

    Notes
    -----
    Along the chain `values` are what the layers make of X, and `origin` what they make
    of a row of zeros as long as all units are active: the constant part of the map. In
    front of the first linear layer `cells` tells of each number which feature it is,
    plus a constant, -1 being none. Behind it `head` is still to be applied to the first
    of the units.
    """

    def __init__(self, layers, X, coef, intercept, mode, margin):
        self.layers, self.margin = layers, margin
        self.coef, self.intercept, self.mode = coef, intercept, mode
        self.values = X
        self.origin = torch.zeros_like(X[:1])
        self.cells = torch.arange(X[0].numel()).reshape(X.shape[1:])
        self.head: torch.Tensor | None = None
        with torch.no_grad():
            self._run()

    def _run(self):
        linear = [
            i for i, x in enumerate(self.layers) if isinstance(x.module, nn.Linear)
        ]
        behind = self.layers[linear[-1] + 1 :] if linear else self.layers
        if not linear or any(not isinstance(x.module, _PASSING) for x in behind):
            raise TypeError(f"module must end with torch.nn.Linear; {_REMEDY}")
        last = linear[-1]
        for i, layer in enumerate(self.layers):
            part = layer.module
            self._reshape(layer.shape)
            if i == last:
                self._set_last(layer)
            elif isinstance(part, nn.Linear):
                self._set_linear(layer)
            elif isinstance(part, nn.Conv2d):
                self._set_convolution(layer)
            elif isinstance(part, _NORMS):
                self._set_norm(part)
            elif isinstance(part, _UNITS):
                self._check_active(layer)

    def _reshape(self, shape):
        self.values = self.values.reshape(-1, *shape)
        self.origin = self.origin.reshape(1, *shape)
        if self.head is None:
            self.cells = self.cells.reshape(shape)

    def _needed(self):
        """Return the features that the map reads."""
        if self.mode == "identity":
            return torch.arange(self.coef.shape[1])
        return self.coef.any(dim=0).cpu().nonzero().flatten()

    def _places(self, features, layer):
        """Return where features stand among the numbers that a linear layer takes."""
        if self.cells.ndim != 1:
            raise TypeError(
                f"{layer.name} must take one vector a row, but it takes shape "
                f"{tuple(layer.shape)}; {_REMEDY}"
            )
        place = torch.full((self.coef.shape[1],), -1)
        known = (self.cells >= 0).nonzero().flatten()
        place[self.cells[known]] = known
        return place[features]

    def _set_linear(self, layer):
        part = layer.module
        part.weight.zero_()
        if self.head is None:
            features = self._needed()
            places = self._places(features, layer)
            first, self.head = _factors(self.coef[:, features], self.mode)
            self._check_width(layer, len(first), part.out_features)
            part.weight[: len(first), places] = first
        else:
            width = self.head.shape[1]
            self._check_width(layer, width, part.out_features)
            index = torch.arange(width)
            part.weight[index, index] = 1
        self._shift(part)

    def _check_width(self, layer, needed, available):
        if needed > available:
            what = "features" if self.mode == "identity" else "rank of the linear model"
            raise ValueError(
                f"{layer.name} has width {available}, but carrying the linear model "
                f"takes {needed} units, the {what}; mode={self.mode!r}"
            )

    def _set_last(self, layer):
        part = layer.module
        if part.bias is None:
            raise ValueError(f"{layer.name} must have a bias for the intercepts")
        part.weight.zero_()
        if self.head is None:
            features = self._needed()
            part.weight[:, self._places(features, layer)] = self.coef[:, features]
        else:
            part.weight[:, : self.head.shape[1]] = self.head
        part.bias.copy_(self.intercept - part.weight @ self.origin.flatten())

    def _set_convolution(self, layer):
        part = layer.module
        part.weight.zero_()
        reads = _reads(part, self.cells)
        missing = torch.zeros(self.coef.shape[1] + 1, dtype=torch.bool)
        missing[self._needed()] = True  # its last entry is that of no feature, -1
        # of taps that bring equally many features, the central one
        height, width = part.kernel_size
        rows, columns = torch.meshgrid(
            torch.arange(height), torch.arange(width), indexing="ij"
        )
        distance = (rows - (height - 1) / 2).abs() + (columns - (width - 1) / 2).abs()
        penalty = 0.5 * distance / (1 + distance.max())
        read: list[torch.Tensor] = []
        while missing.any():
            found = missing[reads].sum(dim=(2, 3)) - penalty.flatten()
            best = int(found.argmax())
            channel, tap = divmod(best, height * width)
            if found[channel, tap] <= 0:
                raise ValueError(
                    f"{layer.name} skips pixels of the image: {int(missing.sum())} of "
                    f"{len(missing) - 1} features are read by no tap of its kernel"
                )
            if len(read) < part.out_channels:
                row, column = divmod(tap, width)
                part.weight[len(read), channel, row, column] = 1
            read.append(reads[channel, tap])
            missing[read[-1]] = False
        if len(read) > part.out_channels:
            raise ValueError(
                f"{layer.name} has {part.out_channels} channels, but carrying the "
                f"image takes {len(read)}"
            )
        idle = torch.full_like(reads[0, 0], -1)
        read += [idle] * (part.out_channels - len(read))
        self.cells = torch.stack(read)
        self._shift(part)

    def _shift(self, part):
        """Choose the biases of a layer, and apply it."""
        bias, part.bias = part.bias, None
        bare = part(self.values)
        part.bias = bias
        if bias is not None:
            lowest = bare.transpose(0, 1).flatten(1).amin(dim=1)
            bias.copy_((self.margin - lowest).clamp(min=0))
        self.values, self.origin = part(self.values), part(self.origin)

    def _set_norm(self, part):
        """Make batch normalisation by its running statistics the identity."""
        lowest = self.values.transpose(0, 1).flatten(1).amin(dim=1)
        part.weight.copy_((part.running_var + part.eps).sqrt())
        part.bias.copy_(part.running_mean + (self.margin - lowest).clamp(min=0))
        self.values, self.origin = part(self.values), part(self.origin)

    def _check_active(self, layer):
        lowest = float(self.values.min())
        if lowest < self.margin / 2:
            raise ValueError(
                f"the units of {layer.name} can't be made active: the layer in front "
                f"of it has no bias (smallest value {lowest:.2g})"
            )


def _factors(coef, mode):
    """Return B and the head of coef = head B."""
    if mode == "identity":
        return torch.eye(coef.shape[1]).to(coef), coef
    U, s, Vh = torch.linalg.svd(coef, full_matrices=False)
    keep = s > _RANK_TOLERANCE * s[:1]
    root = s[keep].sqrt()
    return root[:, None] * Vh[keep], U[:, keep] * root


def _reads(part, cells):
    """Return which cell each tap of a kernel reads for each pixel, -1 being none.

    Returns
    -------
    reads : Tensor of shape (in_channels, n_taps, height, width)
    """
    height, width = part.kernel_size
    taps = torch.eye(height * width, dtype=torch.float64)
    found = nn.functional.conv2d(
        cells[:, None].double() + 1,  # what is padded with zeros is none
        taps.reshape(-1, 1, height, width),
        stride=part.stride,
        padding=part.padding,
        dilation=part.dilation,
    )
    return found.round().long() - 1
