"""What every row of a batch put into the last layer, from the gradient of all."""

import copy

import numpy as np
import torch
from scipy.optimize import least_squares
from torch.nn import functional as F

from skpoison.inversion._chain import (
    Activation,
    Convolution,
    Dense,
    Reshape,
    Scale,
    trace_chain,
)
from skpoison.inversion._network import recorded

_MOST_ROWS = 12  # rows and starts for which the system takes at most a few seconds
_N_STARTS = 16
_FEW, _MANY = 100, 300  # evaluations of the two forms of the system
#: Rounding, in units of the smallest singular value, with which wrong solutions pass.
_COARSE = 3e-4
_MOST_UNKNOWNS = 4096  # of a convolution whose matrix is factorised whole
_PRECISE = 1e-3  # error of a value, in units of their root mean square


def row_target(client, target, shape, name, y):
    """Return (names, value) of a prior on what each row of a batch is inside, or None.

    Parameters
    ----------
    client : Client
        That takes one gradient.
    target : dict of str to Tensor
        The gradient.
    shape : tuple of int
        Of one row.
    name : str
        Of the linear layer with a bias that runs first.
    y : Tensor of shape (n_samples,) or (n_samples, n_outputs)

    Notes
    -----
    Where the layer is the last one and the loss is cross entropy, its gradient G by
    weights and bias, side by side, is ``D^T [H, 1] / B`` with D the softmax of
    ``[H, 1] [W, b]^T`` minus the labels. With G = U S V^T of rank B, ``[H, 1] = M S
    V^T`` leaves B rows of B unknowns, which solve ::

        M^T D(M) = B U^T,      the last column of M S V^T is 1

    and are determined where B is smaller than the number of classes. From H the layers
    in front are undone, as far as no derivative is needed: activations that have an
    inverse, and convolutions with as many outputs as inputs. The value is the squared
    relative distance to the deepest values known. Whatever is not known to about the
    gradient's precision is left out, and without a solution the result is None.
    """
    if client.criterion is not F.cross_entropy or not 1 < len(y) <= _MOST_ROWS:
        return None
    network = copy.deepcopy(client.module).to("cpu", torch.float64)
    layer = network.get_submodule(name)
    keys = [f"{name}.{part}" if name else part for part in ("weight", "bias")]
    precision = max(torch.finfo(target[key].dtype).eps for key in keys)
    gradient, weight = (
        np.column_stack([part.detach().cpu().double().numpy() for part in parts])
        for parts in ((target[key] for key in keys), (layer.weight, layer.bias))
    )
    y = y.cpu()
    labels = (y.double() if y.ndim > 1 else F.one_hot(y, len(weight))).numpy()
    starts = _starts(network, layer, (len(y), *shape))
    if starts is None:
        return None
    found = batch_features(gradient, weight, labels, starts, precision)
    if found is None:
        return None
    features, error = found
    steps = trace_chain(network, torch.zeros(1, *shape, dtype=torch.float64))
    return _deepest(network, steps, name, features, error, client.device)


def batch_features(gradient, weight, labels, starts, precision):
    """Return the inputs of a last linear layer, row by row, and their error, or None.

    Parameters
    ----------
    gradient, weight : ndarray of shape (n_outputs, n_inputs + 1)
        By weights and bias side by side, of the mean cross entropy; and these.
    labels : ndarray of shape (n_samples, n_outputs)
        One-hot or soft.
    starts : iterable of ndarray of shape (n_samples, n_inputs)
    precision : float
        Unit of rounding of the gradient.

    Returns
    -------
    features : ndarray of shape (n_samples, n_inputs)
        In the order of `labels`.
    error : float
        Relative; an estimate.
    """
    n_samples = len(labels)
    if n_samples >= min(gradient.shape):
        return None
    left, sizes, right = np.linalg.svd(gradient, full_matrices=False)
    left, sizes, right = left[:, :n_samples], sizes[:n_samples], right[:n_samples]
    if precision * sizes[0] >= _COARSE * sizes[-1]:  # a rank below n_samples too
        return None
    tolerance = precision * (10 + 0.1 * sizes[0] / sizes[-1])
    system = _System(left, sizes[:, None] * right, weight, labels)
    for start in starts:
        start = np.column_stack([start, np.ones(n_samples)])
        try:
            solved = system.solve((start @ right.T) / sizes)
        except (ValueError, np.linalg.LinAlgError):  # it left the range of numbers
            continue
        if solved is not None and solved[1] <= tolerance:
            return ((solved[0] * sizes) @ right)[:, :-1], tolerance
    return None


class _System:
    """The equations of a batch, with ``M v = 1`` put in.

    M is ``v / v^T v + T Q``, Q a basis of what is orthogonal to v, and T is sought.
    """

    def __init__(self, left, basis, weight, labels):
        self.left, self.labels = left, labels
        self.scores = basis @ weight.T
        last = basis[:, -1]
        self.first = last / (last @ last)
        self.free = np.linalg.svd(last[None])[2][1:]

    def solve(self, start):
        """Return M and the error of D, or None where no descent ends.

        Sums over rows, ``M^T D = B U^T``, lead near from anywhere, but slowly; the
        rows themselves, ``D = B M^-T U^T``, lead home from near.
        """
        free = ((start - self.first) @ self.free.T).ravel()
        near = self._descend(self._sums, free, _FEW)
        found = self._descend(self._rows, near.x, _MANY)
        rest = float(np.sqrt(2 * found.cost)) / len(self.labels)
        return (self._mixture(found.x), rest) if found.success else None

    def _descend(self, equations, free, max_nfev):
        return least_squares(
            lambda t: equations(t)[0].ravel(), free,
            jac=lambda t: self._along(equations(t)[1]),
            method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=max_nfev,
        )  # fmt: skip

    def _along(self, jacobian):
        return (jacobian @ self.free.T).reshape(self.labels.size, -1)

    def _mixture(self, free):
        return self.first + free.reshape(len(self.labels), -1) @ self.free

    def _derivatives(self, mixture):
        """Return D and its derivatives: of (b, c) by entry (b, i) of M."""
        scores = mixture @ self.scores
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        slopes = p[:, None] * (self.scores - (p @ self.scores.T)[:, :, None])
        return p - self.labels, slopes

    def _sums(self, free):
        mixture = self._mixture(free)
        delta, slopes = self._derivatives(mixture)
        jacobian = np.einsum("bj,bic->jcbi", mixture, slopes)
        at = np.arange(len(delta))
        jacobian[at, :, :, at] += delta.T
        return mixture.T @ delta - len(delta) * self.left.T, jacobian

    def _rows(self, free):
        mixture = self._mixture(free)
        delta, slopes = self._derivatives(mixture)
        inverse = np.linalg.inv(mixture).T
        seen = len(delta) * inverse @ self.left.T
        jacobian = np.einsum("ri,bc->rcbi", inverse, seen)
        at = np.arange(len(delta))
        jacobian[at, :, at] += slopes.transpose(0, 2, 1)
        return delta - seen, jacobian


def _starts(network, layer, shape):
    """Return features of noise and of flat images, or None if the layer is not last."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.zeros(_N_STARTS, *shape, dtype=torch.float64)
    noise[::2].normal_(generator=generator)
    flat = (*shape[:2], *[1] * (len(shape) - 2))
    noise[1::2] = torch.randn(len(noise[1::2]), *flat, generator=generator)
    with torch.no_grad(), recorded([layer]) as inputs:
        scores = network(noise.flatten(0, 1))
        features = inputs[layer]
        if not torch.equal(scores, layer(features)):
            return None
    return features.reshape(_N_STARTS, shape[0], -1).numpy()


def _deepest(network, steps, name, features, error, device):
    """Return the prior on the deepest values that features determine."""
    generator = torch.Generator().manual_seed(0)
    values = torch.from_numpy(features)
    noise = torch.randn(values.shape, dtype=torch.float64, generator=generator)
    size = error * values.square().mean().sqrt()
    # what is undone for one is undone for the other, which shows the error
    values = torch.stack([values, values + size * noise])
    known = _Known(name, [], values, size.expand(values[0].shape))
    if not isinstance(steps[-1], Dense):  # branches, or layers that are not known
        return known.prior(device)
    for step in reversed(steps[:-1]):
        following = known.before(step, network)
        if following is None or following.precise.double().mean() < 0.5:
            break
        known = following
    return known.prior(device)


class _Known:
    """Values somewhere in the network, of the batch and of the same with noise.

    Undoing the steps in `undone` leads to them from the input of layer `name`.
    """

    def __init__(self, name, undone, values, noise):
        self.name, self.undone, self.values, self.noise = name, undone, values, noise
        self.precise = noise <= _PRECISE * values[0].square().mean().sqrt()

    def before(self, step, network):
        """Return what is known in front of a step, or None."""
        if isinstance(step, Convolution):
            return self._before_convolution(step, network)
        if isinstance(step, Activation) and step.undo is not None:
            noise = self.noise / step.undo(self.values[0])[1].clamp_min(1e-300)
        elif isinstance(step, Scale) and step.scale.all():
            noise = self.noise / step.scale.abs()
        elif isinstance(step, Reshape):
            noise = _undo(step, self.noise[None])[0]
        else:
            return None
        return _Known(self.name, [*self.undone, step], _undo(step, self.values), noise)

    def _before_convolution(self, step, network):
        name, _, kind = step.weight.rpartition(".")
        layer, shape = network.get_submodule(name), step.input_shape[1:]
        is_layer = isinstance(layer, torch.nn.Conv2d) and kind == "weight"
        fits = shape.numel() <= min(self.values[0, 0].numel(), _MOST_UNKNOWNS)
        if not (fits and is_layer and self.precise.all()):
            return None
        with torch.no_grad():
            unit = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
            shift = layer(torch.zeros_like(unit[:1]))
            matrix = (layer(unit) - shift).flatten(1).T
            wanted = (self.values - shift).flatten(0, 1).flatten(1).T
            found = torch.linalg.lstsq(matrix, wanted, driver="gels").solution
        if not found.isfinite().all():
            return None
        values = found.T.reshape(*self.values.shape[:2], *shape)
        noise = (values[1] - values[0]).square().mean().sqrt()
        return _Known(name, [], values, noise.expand(values[0].shape))

    def prior(self, device):
        """Return (names, value) as :class:`Objective` takes them."""
        wanted = self.values[0].to(device)
        precise = self.precise.double().to(device)
        size = (precise * wanted.square()).sum()
        undone = list(self.undone)

        def value(z, inputs):
            # in double precision, in which the inverses stay finite
            x = inputs[0].double()
            for step in undone:
                x = _undo(step, x)
            off = precise * (x - wanted).square()
            return (off.flatten(1).sum(1) / size).to(z.dtype)

        return [self.name], value


def _undo(step, x):
    """Undo a step for x of shape (n_candidates, n_samples, ...)."""
    if isinstance(step, Reshape):
        return x.reshape(*x.shape[:2], *step.input_shape[1:])
    if isinstance(step, Scale):
        return (x - step.shift.to(x)) / step.scale.to(x)
    return step.undo(x)[0]
