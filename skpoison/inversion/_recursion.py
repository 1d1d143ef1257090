"""From the input of a fully connected layer back to the input of the network."""

import math
from dataclasses import dataclass

import torch
from sklearn.utils import Bunch
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from skpoison.inversion._chain import (
    Activation,
    Convolution,
    Dense,
    Reshape,
    Unsupported,
)

_DENSE_LIMIT = 8000  # unknowns whose Gram matrix is factorised whole: 512 MB
# thresholds at which a ReLU is taken to be on, in units of the largest noise seen
_FACTORS = (3.0, 2.0, 1.5, 1.0, 0.7)
_CONSISTENT = 1e-4
_HOPELESS = 0.5
_NOTHING_LEFT = (
    "a layer's input has no equations left: its units are off, or the gradient is too "
    "noisy for the closed form; use GradientInversion"
)
# below this error of a known random input the equations are said to determine theirs
DETERMINED = 1e-3
#: Steps towards the solution of smallest norm.
_FEW_STEPS = 50
# of the normal matrix's diagonal, as shares of its trace: rounding, and well above
_TIGHT, _LOOSE = 1e-16, 1e-10
_ROUNDING = 1e-30  # squared, relative


@dataclass
class Signal:
    """What is known where: values, derivatives of the loss, trust in the values."""

    value: torch.Tensor
    delta: torch.Tensor
    trust: torch.Tensor

    def map(self, function):
        return Signal(*(function(t) for t in (self.value, self.delta, self.trust)))


class ConvolutionSystem:
    """The linear equations that a convolution's input solves.

    With known outputs z, their derivatives delta, and the gradient G of the weights::

        trust * (conv(W, a) - (z - b)) = 0
        sum over positions of delta * (patches of a) - G = 0

    each block divided by the norm of its right side. The second block is the same
    matrix `patches` for every input channel, which is why it is cheap.
    """

    def __init__(self, layer, weight, bias, gradient, signal):
        self.layer, self.weight = layer, weight
        self.shape = layer.input_shape[1:]
        self.n_positions = math.prod(self.shape[1:])
        self.trust = signal.trust[0] / signal.trust.max().clamp_min(1e-300)
        target = signal.value[0]
        if bias is not None:
            target = target - bias[:, None, None]
        target = self.trust * target
        size = float(target.norm()) or 1.0
        self.trust, self.target = self.trust / size, target / size
        self.index = self._patch_index()
        self.patches = self._patch_matrix(signal.delta[0]) / gradient.norm()
        # (outputs * kernel, input channels), as the product with `patches` gives it
        self.gradient = gradient.transpose(0, 1).reshape(self.shape[0], -1).T
        self.gradient = self.gradient / gradient.norm()

    @property
    def n_equations(self):
        return int((self.trust > 0).sum()) + self.gradient.numel()

    @property
    def n_equations_at_most(self):
        """Return how many there were if all outputs were known."""
        return self.trust.numel() + self.gradient.numel()

    @property
    def n_unknowns(self):
        return math.prod(self.shape)

    def _patch_index(self):
        """Return for each tap of the kernel and output position what it looks at.

        Positions of the padding are `n_positions`, one behind the last.
        """
        height, width = self.shape[1:]
        numbers = torch.arange(1, self.n_positions + 1, dtype=torch.float64)
        taps = F.unfold(
            numbers.reshape(1, 1, height, width),
            self.weight.shape[2:],
            dilation=self.layer.dilation,
            padding=self.layer.padding,
            stride=self.layer.stride,
        )[0].long() - 1  # fmt: skip
        return torch.where(taps < 0, self.n_positions, taps).to(self.weight.device)

    def _patch_matrix(self, delta):
        n_outputs, n_taps = len(delta), len(self.index)
        matrix = delta.new_zeros(n_outputs, n_taps, self.n_positions + 1)
        values = delta.reshape(n_outputs, 1, -1).expand(-1, n_taps, -1)
        matrix.scatter_add_(2, self.index.expand(n_outputs, -1, -1), values)
        return matrix[..., :-1].reshape(-1, self.n_positions)

    def right_side(self):
        return self.target[None], self.gradient[None]

    def forward(self, a):
        """Return both blocks of equations for a of shape (n, *shape)."""
        layer = self.layer
        z = F.conv2d(a, self.weight, None, layer.stride, layer.padding, layer.dilation)
        return self.trust * z, self.patches @ a.flatten(2).transpose(1, 2)

    def adjoint(self, z, gradient):
        layer = self.layer
        a = conv2d_input(
            (len(z), *self.shape), self.weight, self.trust * z,
            layer.stride, layer.padding, layer.dilation,
        )  # fmt: skip
        return a + (self.patches.T @ gradient).transpose(1, 2).reshape(a.shape)

    def gram(self, channels):
        """Return the normal matrix of some input channels."""
        n = len(channels)
        size = n * (self.n_positions + 1)
        weight = self.weight[:, channels].flatten(1)  # (outputs, n * taps)
        start = torch.arange(n, device=weight.device) * (self.n_positions + 1)
        index = (start[:, None, None] + self.index).flatten(0, 1)  # (n * taps, L)
        square = (self.trust * self.trust).flatten(1)
        matrix = weight.new_zeros(size * size)
        rows = max(1, 2**24 // len(index) ** 2)
        for part in range(0, index.shape[1], rows):
            at = index[:, part : part + rows].T
            local = torch.einsum(
                "oi,ol,oj->lij", weight, square[:, part : part + rows], weight
            )
            flat = at[:, :, None] * size + at[:, None, :]
            matrix.index_add_(0, flat.flatten(), local.flatten())
        matrix = matrix.reshape(n, self.n_positions + 1, n, self.n_positions + 1)
        matrix = matrix[:, :-1, :, :-1].contiguous()
        matrix.diagonal(dim1=0, dim2=2).add_((self.patches.T @ self.patches)[..., None])
        return matrix.reshape(n * self.n_positions, n * self.n_positions)


class _Factors:
    """An approximate inverse of the normal matrix, exact but for rounding if small."""

    def __init__(self, system, shift):
        n_channels = system.shape[0]
        together = n_channels if system.n_unknowns <= _DENSE_LIMIT else 1
        self.shape = system.shape
        self.together = together
        # a whole factor needs few, unless the equations are close to contradictory
        self.max_iter = 10 if together == n_channels else 400
        self.factors = [
            _cholesky(system.gram(torch.arange(c, c + together)), shift)
            for c in range(0, n_channels, together)
        ]

    def __call__(self, g):
        blocks = g.reshape(len(g), -1, self.together * math.prod(self.shape[1:]))
        solved = [
            torch.cholesky_solve(blocks[:, i].T, factor).T
            for i, factor in enumerate(self.factors)
        ]
        return torch.stack(solved, 1).reshape(g.shape)


def _cholesky(matrix, shift):
    # what the shift does to the result, the iterations that follow take back
    shift = shift * float(matrix.diagonal().sum())
    if not 0 < shift < math.inf:  # it would never succeed
        raise ValueError(_NOTHING_LEFT)
    while True:
        matrix.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return factor
        shift *= 10


def solve(system):
    """Return the least-squares input and how well the equations determine it.

    Returns
    -------
    a : Tensor of shape (1, *shape)
    residual : float
        Of the scaled equations, relative.
    error : float
        Relative error when the same steps solve for a known random input: about 1e-10
        where the equations determine it, about 1 where they don't.
    """
    if system.n_equations >= system.n_unknowns:
        found = _solve(system, _TIGHT)
        if found[-1] < DETERMINED:
            return found
    # rounding must not fill in what the equations leave open
    return _solve(system, _LOOSE)


def _solve(system, shift):
    factors = _Factors(system, shift)
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(
        (1, *system.shape), dtype=torch.float64, generator=generator
    ).to(system.weight)
    target = [
        torch.cat(pair)
        for pair in zip(system.right_side(), system.forward(known), strict=True)
    ]
    if system.n_equations < system.n_unknowns:  # of little use to the last digit
        factors.max_iter = min(factors.max_iter, _FEW_STEPS)
    a, size = _conjugate_gradients(system, factors, target)
    residual = [t - s for t, s in zip(target, system.forward(a), strict=True)]
    # rounding of the first pass is what the second one solves for
    correction, _ = _conjugate_gradients(system, factors, residual, size)
    a = a + correction
    residual = [t - s for t, s in zip(target, system.forward(a), strict=True)]
    size = math.sqrt(sum(float(t[0].square().sum()) for t in target))
    rest = math.sqrt(sum(float(r[0].square().sum()) for r in residual))
    return a[:1], rest / size, float((a[1:] - known).norm() / known.norm())


def _conjugate_gradients(system, factors, target, first=None):
    """Solve the least-squares problems along the first axis, preconditioned.

    Returns the solutions and the size of the gradient at zero, in the norm in which the
    iterations end when it has fallen to rounding; `first` is that of an earlier pass.
    """

    def dot(a, b):
        return (a * b).flatten(1).sum(1)

    residual = list(target)
    g = system.adjoint(*residual)
    a = torch.zeros_like(g)
    direction = s = factors(g)
    size = dot(g, s)
    first = size if first is None else first
    for _ in range(factors.max_iter):
        if bool((size <= _ROUNDING * first).all()):
            break
        image = system.forward(direction)
        energy = sum(dot(i, i) for i in image)
        step = torch.where(energy > 0, size / energy.clamp_min(1e-300), 0.0)
        a += step[:, None, None, None] * direction
        residual = [
            r - step.reshape(-1, *[1] * (r.ndim - 1)) * i
            for r, i in zip(residual, image, strict=True)
        ]
        g = system.adjoint(*residual)
        s = factors(g)
        before, size = size, dot(g, s)
        ratio = size / before.clamp_min(1e-300)
        direction = s + ratio[:, None, None, None] * direction
    return a, first


def first_dense(steps):
    """Return the position of the first fully connected layer with a bias, or raise."""
    for position, step in enumerate(steps):
        if isinstance(step, Dense) and step.bias is not None:
            return position
        if isinstance(step, Unsupported):
            raise TypeError(
                "the closed form needs a chain of convolutions, linear layers and "
                f"invertible or ReLU-like activations, but {step.reason}; use "
                "GradientInversion"
            )
    raise TypeError(
        "the closed form starts from a fully connected layer with a bias, and the "
        "network has none; use GradientInversion"
    )


def walk_back(steps, parameters, gradients):
    """Return the network's input, and a record of each layer that was undone.

    Parameters
    ----------
    steps : list
        From :func:`trace_chain`.
    parameters, gradients : dict of str to Tensor
        In float64.

    Returns
    -------
    x : Tensor of shape (1, ...)
    layers : list of Bunch
        From the fully connected layer back to the first one.
    """
    start = first_dense(steps)
    layer = steps[start]
    delta = _gradient(gradients, layer.bias)
    x, residual = _rank_one(_gradient(gradients, layer.weight), delta)
    layers = [_dense_record(layer.weight, delta, x, residual)]
    signal = Signal(
        x[None], (delta @ parameters[layer.weight])[None], torch.ones_like(x[None])
    )
    is_hopeless = residual > _HOPELESS
    gate = None
    for step in reversed(steps[:start]):
        if isinstance(step, Convolution):
            signal, record = _undo_convolution(
                step, parameters, gradients, signal, gate, is_hopeless
            )
            layers.append(record)
        elif isinstance(step, Dense):
            weight, delta = parameters[step.weight], signal.delta[0]
            x, residual = _rank_one(_gradient(gradients, step.weight), delta)
            layers.append(_dense_record(step.weight, delta, x, residual))
            signal = Signal(x[None], (delta @ weight)[None], torch.ones_like(x[None]))
        elif isinstance(step, Activation):
            if step.undo is None:
                gate = _Gate(signal)
                signal = gate.undone(_FACTORS[0])
                continue
            value, slope = step.undo(signal.value)
            signal = Signal(value, signal.delta * slope, signal.trust * slope)
        else:
            signal = _undo_elementwise(step, signal)
            if gate is not None:
                gate.before.append(step)
            continue
        gate = None
    return signal.value, layers


class _Gate:
    """A ReLU, some units of which may be on or off as far as noise lets see.

    Where it is off its output is 0, and what is negative there shows how large the
    noise is.
    """

    def __init__(self, signal):
        self.signal = signal
        self.noise = max(float(-signal.value.min()), 0.0)
        self.least = 1e-10 * float(signal.value.abs().max())
        self.before: list = []  # elementwise steps that were undone since

    def undone(self, factor):
        """Return the signal in front, on where the output exceeds noise times this."""
        on = self.signal.value > max(factor * self.noise, self.least)
        signal = self.signal.map(lambda t: t * on)
        for step in self.before:
            signal = _undo_elementwise(step, signal)
        return signal


def _gradient(gradients, name):
    if name not in gradients:
        raise ValueError(
            f"the closed form needs the gradient of {name}, which is frozen; use "
            "GradientInversion"
        )
    return gradients[name]


def _rank_one(gradient, delta):
    """Return the x that comes nearest to gradient = delta x^T, and how near."""
    size = delta.abs().max()
    if size == 0:
        raise ValueError(
            "the gradient behind a fully connected layer is zero: nothing can be "
            "reconstructed"
        )
    unit = delta / size
    x = unit @ (gradient / size) / (unit @ unit)
    rest = (gradient - torch.outer(delta, x)).norm()
    return x, float(rest / gradient.norm().clamp_min(1e-300))


def _undo_elementwise(step, signal):
    if isinstance(step, Reshape):
        return signal.map(lambda t: t.reshape(step.input_shape))
    scale = step.scale.to(signal.value.device)
    known = scale != 0
    scale = torch.where(known, scale, 1.0)
    return Signal(
        torch.where(known, (signal.value - step.shift.to(scale)) / scale, 0.0),
        signal.delta * scale * known,
        signal.trust * scale.abs() * known,
    )


def _undo_convolution(step, parameters, gradients, signal, gate, is_hopeless):
    weight = parameters[step.weight]
    bias = None if step.bias is None else parameters[step.bias]
    gradient = _gradient(gradients, step.weight)
    if not gradient.any():
        raise ValueError(
            f"the gradient of {step.weight} is zero: nothing can be reconstructed"
        )
    geometry = (step.stride, step.padding, step.dilation)
    tried: list = []
    # one unit of ReLU on the wrong side is enough to make the equations contradict
    for guess in [signal] if gate is None else map(gate.undone, _FACTORS):
        if not guess.trust.any():
            continue
        system = ConvolutionSystem(step, weight, bias, gradient, guess)
        a, residual, error = solve(system)
        shape = (system.n_equations, system.n_unknowns)
        record = _record("convolution", step.weight, shape, residual, error)
        tried.append((a, guess.delta, record))
        # with as much noise as signal, or much left open, all guesses are as good
        is_open = system.n_equations_at_most < system.n_unknowns
        if residual < _CONSISTENT or is_open or is_hopeless:
            break
    if not tried:
        raise ValueError(_NOTHING_LEFT)
    a, delta, record = min(tried, key=lambda found: found[-1].residual)
    delta = conv2d_input(step.input_shape, weight, delta, *geometry)
    return Signal(a, delta, torch.ones_like(a)), record


def _dense_record(weight, delta, x, residual):
    shape = (int((delta != 0).sum()) * len(x), len(x))
    return _record("linear", weight, shape, residual, 0.0)


def _record(kind, weight, shape, residual, error):
    name = weight.rpartition(".")[0]
    return Bunch(name=name, kind=kind, shape=shape, residual=residual, error=error)
