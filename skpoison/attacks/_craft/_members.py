"""The trained networks that an attack crafts on, weights stacked by architecture."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call

from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.models._features import last_linear
from skpoison.utils import local_torch_seed


@dataclass
class Members:
    """Networks of one architecture.

    Attributes
    ----------
    module : torch.nn.Module
        The architecture, in evaluation mode with dropout on, as the published attacks
        craft; its own weights are not used.
    params, others : dict of str to tensor of shape (n_members, ...)
        Weights that the gradient is taken in; frozen weights and buffers.
    input_shape : tuple of int
        What one row is reshaped to.
    """

    module: torch.nn.Module
    params: dict
    others: dict
    input_shape: tuple

    def __len__(self):
        return len(next(iter({**self.params, **self.others}.values())))

    def __post_init__(self):
        self.draws = any(
            isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p > 0
            for m in self.module.modules()
        )
        self.last = last_linear(self.module)

    def leaves(self, index):
        """Return copies of weights, ready for gradients, of the members in `index`."""
        index = torch.as_tensor(index, device=next(iter(self.params.values())).device)
        return {n: p[index].requires_grad_() for n, p in self.params.items()}

    def chosen(self, index):
        """Return weights and the rest of the members in `index`, without gradients."""
        index = list(index)
        return (
            {n: p[index] for n, p in self.params.items()},
            {n: p[index] for n, p in self.others.items()},
        )

    def network(self, params, others):
        """Return one member as a module of its own; weights are shared, not copied.

        Parameters
        ----------
        params, others : dict of str to tensor
            Without the axis of members.
        """
        module = copy.deepcopy(self.module)
        for name, p in module.named_parameters():
            p.data = {**params, **others}[name].detach()
            p.requires_grad_(name in params)
        for name, b in module.named_buffers():
            b.data = others[name].clone()
        return module

    def logits(self, params, others, inputs):
        """Return logits of shape (k, n, n_classes) for k members on rows of their own.

        Parameters
        ----------
        params, others : dict of str to tensor of shape (k, ...)
        inputs : tensor of shape (k, n, *row_shape)
        """
        return self._run(self._forward, params, others, inputs)

    def features(self, params, others, inputs):
        """Return what enters the last linear layer, of shape (k, n, n_features)."""
        return self.activations(params, others, inputs, [(self.last, "input")])[0]

    def activations(self, params, others, inputs, places):
        """Return what enters or leaves some layers, each of shape (k, n, n_values).

        Parameters
        ----------
        params, others, inputs
            As in :meth:`logits`.
        places : list of (str, {"input", "output"})
            Names of modules; "" is the whole network.

        Returns
        -------
        found : tuple of tensors
        """

        def function(params, others, x):
            return self._activations(params, others, x, places)

        return self._run(function, params, others, inputs)

    def _run(self, function, params, others, inputs):
        if len(inputs) == 1:  # no batching rule to pay for
            # squeezed, not indexed: its backward pass is a view and copies nothing
            params = {n: p.squeeze(0) for n, p in params.items()}
            others = {n: b.squeeze(0) for n, b in others.items()}
            found = function(params, others, inputs[0])
            several = isinstance(found, tuple)
            return tuple(f[None] for f in found) if several else found[None]
        return torch.vmap(function, randomness="different")(params, others, inputs)

    def _forward(self, params, others, x):
        x = x.reshape(-1, *self.input_shape)
        return functional_call(self.module, {**params, **others}, (x,))

    def _activations(self, params, others, x, places):
        kept, hooks = {}, []

        def keep(place):
            def hook(module, args, output=None):
                kept[place] = args[0] if output is None else output

            return hook

        for place in places:
            layer = self.module.get_submodule(place[0])
            if place[1] == "input":
                hooks.append(layer.register_forward_pre_hook(keep(place)))
            else:
                hooks.append(layer.register_forward_hook(keep(place)))
        try:
            self._forward(params, others, x)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(kept[place].flatten(1) for place in places)

    def randomness(self, seed):
        """Return the context in which dropout draws, seeded."""
        device = next(iter({**self.params, **self.others}.values())).device
        return local_torch_seed(seed, device) if self.draws else nullcontext()


def stack(modules, input_shape, device):
    """Group networks by architecture and stack their weights.

    Parameters
    ----------
    modules : list of torch.nn.Module
        Never changed.
    input_shape : tuple of int
    device : torch.device

    Returns
    -------
    groups : list of Members
    """
    by_kind: dict = {}
    for module in modules:
        kind = (
            repr(module),
            tuple(
                (n, tuple(t.shape), getattr(t, "requires_grad", False))
                for n, t in [*module.named_parameters(), *module.named_buffers()]
            ),
        )
        by_kind.setdefault(kind, []).append(module)
    groups = []
    for same in by_kind.values():
        skeleton = copy.deepcopy(same[0]).to(device).eval()
        for part in skeleton.modules():
            if isinstance(part, torch.nn.modules.dropout._DropoutNd):
                part.train()
        trained = {n for n, p in same[0].named_parameters() if p.requires_grad}
        skeleton.requires_grad_(False)
        state = [
            {**dict(m.named_parameters()), **dict(m.named_buffers())} for m in same
        ]
        stacked = {
            n: torch.stack([s[n].detach().to(device) for s in state]) for n in state[0]
        }
        params = {n: t for n, t in stacked.items() if n in trained}
        others = {n: t for n, t in stacked.items() if n not in trained}
        groups.append(Members(skeleton, params, others, tuple(input_shape)))
    return groups


def feature_distances(groups, rows, aims, batch_size=512):
    """Return each row's mean distance to the nearest aim, in features.

    Distances of a member are divided by the length of the aims' features.
    """
    total, n_members = torch.zeros(len(rows), device=rows.device), 0
    with torch.no_grad():
        for members in groups:
            for e in range(len(members)):
                weights = members.chosen([e])
                with members.randomness(0):
                    there = members.features(*weights, aims[None])[0]
                    batches = [
                        torch.cdist(members.features(*weights, part[None])[0], there)
                        for part in rows.split(batch_size)
                    ]
                length = there.norm(dim=1).mean() + 1e-12
                total = total + torch.cat(batches).amin(1) / length
                n_members += 1
    return (total / n_members).cpu().numpy()


class Affine(torch.nn.Module):
    """A fitted linear preprocessing step of a pipeline, in front of its network."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, X):
        return X.flatten(1) @ self.weight + self.bias


#: Steps that map a row to a fixed linear function of it, once they are fitted.
_LINEAR_STEPS = (
    "FunctionTransformer",
    "MaxAbsScaler",
    "MinMaxScaler",
    "PCA",
    "RobustScaler",
    "StandardScaler",
    "TruncatedSVD",
    "VarianceThreshold",
)


def affine_of(step, n_features):
    """Return a fitted scikit-learn step as a module, or raise naming it.

    The map is read off the images of zero and of the unit rows.
    """
    name = type(step).__name__
    known = name in _LINEAR_STEPS and type(step).__module__.startswith("sklearn.")
    if name == "FunctionTransformer" and known:
        known = step.func is None
    if not known or getattr(step, "clip", False):
        raise NotDifferentiableError(
            f"surrogate: no gradient goes through {step!r}; steps before the network "
            f"may be {', '.join(_LINEAR_STEPS)}"
        )
    rows = np.vstack([np.zeros((1, n_features)), np.eye(n_features)])
    images = np.asarray(step.transform(rows), dtype=float)
    weight = torch.as_tensor(images[1:] - images[0], dtype=torch.float32)
    return Affine(weight, torch.as_tensor(images[0], dtype=torch.float32))
