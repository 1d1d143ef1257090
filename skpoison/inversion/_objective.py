"""What a candidate is judged by: its update against the observed one, and priors."""

import warnings

import numpy as np
import torch

from skpoison.inversion._heads import row_target
from skpoison.inversion._linear import invert_linear
from skpoison.inversion._network import first_linear

LOSSES = ("cosine", "euclidean")
#: Singular values below this many units of rounding of the largest count as zero.
_RANK_TOLERANCE = 500
#: Memory that one pass over a group of candidates may take on a CPU, in bytes.
_MEMORY = 2**30


class Objective:
    """The mismatch of updates plus weighted priors, for many candidates at a time.

    Parameters
    ----------
    client : Client
    target : dict of str to Tensor
        The observed update.
    loss : {"cosine", "euclidean"}
    terms : list of (weight, names of layers, value)
        Priors, as :meth:`TotalVariation.bind` returns them.
    shape : tuple of int
        Of one row.
    n_samples : int
    """

    def __init__(self, client, target, *, loss, terms, shape, n_samples):
        self.client, self.loss = client, loss
        # of length one, so that squares of small gradients do not vanish in float32
        largest = max(float(t.abs().max()) for t in target.values())
        parts = [t.double() / largest for t in target.values()]
        length = largest * sum(float((t**2).sum()) for t in parts) ** 0.5
        if not 1e-100 < length < 1e100:
            raise ValueError(
                f"the update has length {length:.0e}, which is none of a gradient: "
                "check its unit, and local_lr"
            )
        self.unit = 1 / length
        self.target = {
            n: (t.double() * self.unit).to(client.device, client.dtype)
            for n, t in target.items()
        }
        self.terms = [term for term in terms if term[0] > 0]
        names = dict.fromkeys(name for _, found, _ in self.terms for name in found)
        self.names = list(names)
        self.layers = [client.module.get_submodule(name) for name in names]
        self.group = self._group(shape, n_samples)

    def __call__(self, z, y):
        """Return the objective and the mismatch alone, each of shape (n_candidates,).

        Parameters
        ----------
        z : Tensor of shape (n_candidates, n_samples, *shape)
        y : Tensor of shape (n_candidates, n_samples) or (..., n_outputs)
        """
        if len(z) == 1:  # less than half the time of a batch of one
            update, inputs = self.client(z[0], y[0], self.layers)
            update = {name: u[None] for name, u in update.items()}
            inputs = [x[None] for x in inputs]
        else:
            update, inputs = self.client.many(z, y, self.layers)
        mismatch = total = self._mismatch(update)
        seen = dict(zip(self.names, inputs, strict=True))
        for weight, names, value in self.terms:
            total = total + weight * value(z, [seen[name] for name in names])
        return total, mismatch

    def gradients(self, variables, labels):
        """Return objective, mismatch and gradients, group by group of candidates.

        Parameters
        ----------
        variables : list of Tensor
            The candidates z and, where labels are sought too, their logits.
        labels : callable
            ``labels(logits, n_candidates)`` returns y; the logits are None or the
            second variable.
        """
        parts = []
        for start in range(0, len(variables[0]), self.group):
            group = [
                v[start : start + self.group].detach().requires_grad_()
                for v in variables
            ]
            y = labels(group[1] if len(group) > 1 else None, len(group[0]))
            total, mismatch = self(group[0], y)
            found = torch.autograd.grad(
                total.sum(), group, allow_unused=True, materialize_grads=True
            )
            parts.append((total.detach(), mismatch.detach(), *found))
        total, mismatch, *gradients = (torch.cat(p) for p in zip(*parts, strict=True))
        return total, mismatch, gradients

    def residual(self, z, y):
        """Return ||u(z) - u*|| / ||u*|| of one candidate."""
        update, _ = self.client(z, y, create_graph=False)
        off = [((update[n] * self.unit - t) ** 2).sum() for n, t in self.target.items()]
        return float(torch.stack(off).sum().sqrt())

    def _mismatch(self, update):
        pairs = [(update[n] * self.unit, t) for n, t in self.target.items()]
        if self.loss == "euclidean":
            return torch.stack([_sum((u - t) ** 2) for u, t in pairs]).sum(0)
        inner = torch.stack([_sum(u * t) for u, t in pairs]).sum(0)
        square = torch.stack([_sum(u**2) for u, _ in pairs]).sum(0)
        # a candidate behind dead units has no update, and no direction to go
        return 1 - inner / square.clamp_min(torch.finfo(square.dtype).eps ** 2).sqrt()

    def _group(self, shape, n_samples):
        """Return how many candidates fit into memory together."""
        n_weights = sum(p.numel() for p in self.client.params.values())
        n_values = _activations(self.client, shape) * n_samples
        # the graph of a second derivative holds a step's weights and values so often
        size = next(iter(self.client.params.values())).element_size()
        each = size * self.client.local_steps * (8 * n_weights + 16 * n_values)
        memory = _MEMORY
        if self.client.device.type == "cuda":
            memory = torch.cuda.mem_get_info(self.client.device)[0] // 2
        return max(1, memory // each)


def _sum(values):
    return values.flatten(1).sum(1)


def _activations(client, shape):
    """Return how many values the layers of the network put out for one row."""
    sizes = [0]
    hooks = [
        part.register_forward_hook(
            lambda _, args, out: sizes.append(getattr(out, "numel", int)())
        )
        for part in client.module.modules()
        if not list(part.children())
    ]
    try:
        client.n_outputs(shape)  # runs two rows
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes) // 2


def feature_term(client, target, shape, n_samples, labels=None):
    """Return (names, value) of the prior that an observed linear layer makes, or None.

    Of one sample, the first linear layer's gradient tells its input h* exactly, and
    the value is ``||h - h*||^2 / ||h*||^2``. Of several, the rows of the gradient by
    weights and bias, side by side, span the same space as the samples' inputs (h, 1)
    if the rank says that none is lost; the value is the share of (h, 1) outside of it.
    With labels, the last layer may even tell each sample's own, see
    :func:`row_target`.
    """
    name = None
    if client.is_one_gradient:
        name = first_linear(client, shape)
    keys = [f"{name}.{part}" if name else part for part in ("weight", "bias")]
    if name is None or not all(key in target for key in keys):
        return None
    if labels is not None:
        found = row_target(client, target, shape, name, labels)
        if found is not None:
            return found
    precision = max(torch.finfo(target[key].dtype).eps for key in keys)
    weight, bias = (target[key].cpu().double().numpy() for key in keys)
    if n_samples == 1:
        value = _same_input(weight, bias, client)
    else:
        rows = np.column_stack([weight, bias])
        value = _same_span(rows, n_samples, _RANK_TOLERANCE * precision, client)
    return None if value is None else ([name], value)


def _same_input(weight, bias, client):
    if not bias.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # noise: the term is a guide then
        features = invert_linear(weight, bias)
    wanted = torch.as_tensor(features, dtype=client.dtype, device=client.device)
    square = (wanted**2).sum()
    if not square > 0:
        return None

    def value(z, inputs):
        return ((inputs[0][:, 0] - wanted) ** 2).sum(1) / square

    return value


def _same_span(rows, n_samples, tolerance, client):
    if n_samples >= min(rows.shape):
        return None
    _, sizes, right = np.linalg.svd(rows, full_matrices=False)
    rank = int((sizes > tolerance * sizes[0]).sum())
    if rank != n_samples:  # a sample that leaves no trace, or noise
        return None
    basis = torch.as_tensor(right[:rank], dtype=client.dtype, device=client.device)

    def value(z, inputs):
        h = torch.nn.functional.pad(inputs[0], (0, 1), value=1.0)
        outside = h - (h @ basis.T) @ basis
        return (outside**2).sum((1, 2)) / (h**2).sum((1, 2))

    return value
