"""A network as the chain of steps that one input goes through."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_RESHAPES = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze",
    "unsqueeze", "clone", "detach", "alias", "lift_fresh",
}  # fmt: skip
_AFFINE = {"add", "sub", "rsub", "mul", "div", "neg", "native_batch_norm"}
_VIEWS = {"t", "transpose", "detach", "alias"}


@dataclass
class Reshape:
    """The same values in another shape."""

    input_shape: torch.Size


@dataclass
class Scale:
    """``scale * input + shift`` entry by entry: normalisation of pixels or batches."""

    scale: torch.Tensor
    shift: torch.Tensor


@dataclass
class Activation:
    """An elementwise function with its inverse.

    ``undo(h)`` returns what went in and the slope there. That of ReLU is None: what
    went in is known where it is on.
    """

    name: str
    undo: Callable | None


@dataclass
class Dense:
    """A fully connected layer; `weight` and `bias` are names of parameters."""

    weight: str
    bias: str | None


@dataclass
class Convolution:
    """A convolution; `weight` and `bias` are names of parameters."""

    weight: str
    bias: str | None
    input_shape: torch.Size
    stride: tuple
    padding: tuple
    dilation: tuple


@dataclass
class Unsupported:
    """What the chain ends at."""

    reason: str


def trace_chain(module, rows):
    """Return the steps that `module` applies to `rows`, up to the first that is none.

    Parameters
    ----------
    module : torch.nn.Module
        On the CPU, in evaluation mode. What runs is recorded, whether it is written as
        a layer, a function or a method.
    rows : Tensor of shape (1, ...)

    Returns
    -------
    steps : list
        The last one is :class:`Unsupported` where something else than a chain of known
        steps comes.
    """
    recorder = _Recorder(module, rows)
    with torch.no_grad(), recorder:
        module(rows)
    steps = [recorder.checked(step) for step in recorder.steps]
    if recorder.branch is not None:
        position, step = recorder.branch
        steps.insert(position, step)
    return steps


class _Recorder(TorchDispatchMode):
    """Sees every operation on tensors while it is active."""

    def __init__(self, module, rows):
        super().__init__()
        self.steps: list = []
        self.head = rows
        # by id, with the tensors themselves: an id is reused once a tensor is gone
        self.seen = {id(rows): (rows, 0)}
        self.weights = {id(p): (n, p) for n, p in module.named_parameters()}
        self.turned: dict = {}
        self.uses: Counter = Counter()
        self.branch: tuple | None = None  # the first, by the step that it starts at

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        before = self.head.clone() if name.endswith("_") else self.head
        name = name.rstrip("_")
        out = func(*args, **kwargs)
        self.uses.update(self.weights[id(a)][0] for a in args if id(a) in self.weights)
        inputs = [a for a in _leaves(args) if id(a) in self.seen]
        if not inputs:
            source = args[0] if args else None
            if name in _VIEWS and id(source) in self.weights:
                is_turned = name in ("t", "transpose")  # square ones too
                known = self.turned if is_turned else self.weights
                known[id(out)] = (self.weights[id(source)][0], out)
            return out
        self._note_branch(name, inputs)
        if self.steps and isinstance(self.steps[-1], Unsupported):
            return out
        first = out[0] if isinstance(out, tuple | list) else out
        if len(inputs) == 1 and inputs[0] is self.head:
            step = self._step(name, func, args, kwargs, before, first)
        else:
            step = Unsupported(f"{name} takes several inputs")
        if step is not None:
            self.steps.append(step)
        self.head = first
        self.seen[id(first)] = first, len(self.steps)
        return out

    def _note_branch(self, name, inputs):
        """Keep where the first branch starts: what feeds two steps ends the chain."""
        for tensor in inputs:
            position = self.seen[id(tensor)][1]
            earlier = self.branch is None or position < self.branch[0]
            if tensor is not self.head and earlier:
                verb = "joins" if len(inputs) > 1 else "starts"
                self.branch = (
                    position,
                    Unsupported(
                        f"{name} {verb} a second branch, as in a skip connection"
                    ),
                )

    def checked(self, step):
        """Return the step, unless its weights are another's too."""
        name = getattr(step, "weight", None)
        if self.uses[name] > 1:
            return Unsupported(f"{name} is used {self.uses[name]} times")
        return step

    def _step(self, name, func, args, kwargs, before, out):
        if name in _RESHAPES:
            if before.shape == out.shape:
                return None
            return Reshape(before.shape)
        if name == "relu":
            return Activation(name, None)
        if name in _ACTIVATIONS and (undo := _ACTIVATIONS[name](*args[1:], **kwargs)):
            return Activation(name, undo)
        if name in ("addmm", "mm"):
            return self._dense(name, args, kwargs)
        if name == "convolution":
            return self._convolution(args, before)
        if name in _AFFINE and before.shape == out.shape:
            return self._scale(func, args, kwargs, before)
        return Unsupported(f"{name} is none of the operations that can be undone")

    def _dense(self, name, args, kwargs):
        bias, x, weight = args if name == "addmm" else (None, *args)
        if id(x) not in self.seen or kwargs or len(x) != 1:
            return Unsupported(f"{name} is no linear layer on one vector")
        if id(weight) not in self.turned or not self._is_known(bias):
            return Unsupported(f"{name} has a weight that is no parameter of its own")
        return Dense(self.turned[id(weight)][0], self._name(bias))

    def _convolution(self, args, before):
        _, weight, bias, stride, padding, dilation, transposed, _, groups = args
        if transposed or groups != 1 or before.ndim != 4:
            return Unsupported("only Conv2d with groups=1 can be undone")
        if id(weight) not in self.weights or not self._is_known(bias):
            return Unsupported("convolution has a weight that is no parameter")
        return Convolution(
            self._name(weight), self._name(bias), before.shape,
            tuple(stride), tuple(padding), tuple(dilation),
        )  # fmt: skip

    def _is_known(self, bias):
        return bias is None or id(bias) in self.weights

    def _name(self, parameter):
        return None if parameter is None else self.weights[id(parameter)][0]

    def _scale(self, func, args, kwargs, before):
        """Read factor and shift off what the operation makes of 0 and 1."""

        def at(value):
            x = torch.full_like(before, value)
            moved = func(*(x if a is self.head else a for a in args), **kwargs)
            return moved[0] if isinstance(moved, tuple | list) else moved

        shift = at(0.0).clone()
        scale = at(1.0) - shift
        if not (torch.isfinite(shift).all() and torch.isfinite(scale).all()):
            return Unsupported("division by the input can't be undone")
        return Scale(scale, shift)


def _leaves(args):
    for a in args:
        yield from a if isinstance(a, list | tuple) else (a,)


# ------------------------------------------------------------------------ activations


def _sigmoid():
    def undo(h):
        h = h.clamp(1e-15, 1 - 1e-15)
        return torch.logit(h), h * (1 - h)

    return undo


def _tanh():
    def undo(h):
        h = h.clamp(-1 + 1e-15, 1 - 1e-15)
        return torch.atanh(h), 1 - h * h

    return undo


def _leaky_relu(slope=0.01):
    if slope <= 0:  # two inputs have the same output
        return None

    def undo(h):
        slopes = torch.where(h > 0, torch.ones_like(h), slope)
        return h / slopes, slopes

    return undo


def _elu(alpha=1.0, scale=1.0, input_scale=1.0):
    def undo(h):
        h = h / scale
        inside = (h / alpha).clamp(-1 + 1e-15, 0)
        z = torch.where(h > 0, h, torch.log1p(inside)) / input_scale
        slope = torch.where(h > 0, 1.0, alpha * (1 + inside))
        return z, scale * input_scale * slope

    return undo


def _softplus(beta=1.0, threshold=20.0):
    def undo(h):
        h = (beta * h).clamp_min(1e-300)
        z = torch.where(h > threshold, h, h + torch.log(-torch.expm1(-h)))
        return z / beta, -torch.expm1(-h)

    return undo


_ACTIVATIONS: dict[str, Callable] = {
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "tanh": _tanh,
}
