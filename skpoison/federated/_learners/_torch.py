"""Torch modules as flat vectors, trained client by client or by vmap."""

import copy
import inspect
import math
import warnings

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from skpoison.federated._clients import stream
from skpoison.federated._learners._base import Learner
from skpoison.utils import local_torch_seed

# Values of weights that evaluation holds at a time when it maps over models.
_WEIGHT_VALUES = 2**24


class TorchLearner(Learner):
    """A module that returns one logit a class, trained by SGD on the cross entropy.

    The vector holds the parameters that require gradients, in the module's order, and
    then the buffers that training changes, such as running means.

    Parameters
    ----------
    module : torch.nn.Module
        Its weights are the starting point. Kept, and used as a mould only.
    sample_shape : tuple of int
        Of one sample, as the module takes it.
    n_classes : int
    dtype : numpy dtype, default=float32
    device : torch.device or str, default="cpu"
    """

    # on a CPU, an MLP of 50 thousand weights: with fewer clients at once calls cost
    # more, with more the cache does
    most_values = 2**21

    def __init__(self, module, sample_shape, n_classes, dtype=np.float32, device="cpu"):
        self.device = torch.device(device)
        self._torch_dtype = getattr(torch, np.dtype(dtype).name)
        self.module = module.to(self.device, self._torch_dtype)
        self.sample_shape = tuple(sample_shape)
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(f"the module has no parameters to train: {module!r}")
        self._names = [*trained, *self._changing_buffers(n_classes)]
        tensors = {**trained, **dict(module.named_buffers())}
        self._shapes = [tensors[name].shape for name in self._names]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        super().__init__(n_classes, sum(self._sizes), dtype)
        self.n_buffers = sum(self._sizes[len(trained) :])
        self._n_trained = len(trained)
        self._flat = torch.cat(
            [tensors[name].detach().reshape(-1) for name in self._names]
        )
        self.vectorizes, self.reason_for_loop = self._can_vectorize()

    def _changing_buffers(self, n_classes):
        """Return the names of float buffers that a forward pass in training changes."""
        module = copy.deepcopy(self.module).train()
        before = {
            name: b.clone()
            for name, b in module.named_buffers()
            if b.is_floating_point()
        }
        X = torch.linspace(-1, 1, 2 * math.prod(self.sample_shape))
        X = X.reshape(2, *self.sample_shape).to(self.device, self._torch_dtype)
        with local_torch_seed(0, self.device), torch.no_grad():
            out = module(X)
        if getattr(out, "shape", None) != (2, n_classes):
            got = tuple(out.shape) if hasattr(out, "shape") else type(out).__name__
            raise ValueError(
                f"the module must return a tensor of shape (n_samples, {n_classes}), "
                f"got {got} for 2 samples of shape {self.sample_shape}"
            )
        after = dict(module.named_buffers())
        return [name for name, b in before.items() if not torch.equal(b, after[name])]

    def _can_vectorize(self):
        if self.n_buffers:
            return False, "the module keeps running statistics"
        if self.device.type == "cpu" and any(map(_convolves, self.module.modules())):
            return False, None  # grouped convolutions: no faster, or slower
        X = np.zeros((2, 2, *self.sample_shape), self.dtype)
        y = np.zeros((2, 2), np.int64)
        out = np.empty((2, self.n_weights), self.dtype)
        try:
            self.train_together(
                self.initial_weights(0), [(X, y, None)] * 2, 0.0, seeds=(0,), out=out
            )
        except Exception as error:  # whatever vmap or the module has to say
            return False, f"torch.vmap can't run the module: {error}"
        return True, None

    def values_together(self, n_values):
        return np.maximum(n_values, self.n_weights)

    def initial_weights(self, seed):
        return self._host(self._flat).copy()

    def _host(self, tensor):
        return tensor.detach().cpu().numpy()

    def _tensor(self, array):
        with warnings.catch_warnings():
            # read-only arrays come from memory maps; nothing here writes to them
            warnings.filterwarnings("ignore", message=".*not writable.*")
            tensor = torch.as_tensor(array)
        dtype = self._torch_dtype if tensor.is_floating_point() else None
        return tensor.to(self.device, dtype)

    def _split(self, flat):
        n = self.n_weights - self.n_buffers
        return flat[:n], flat[n:]

    def _by_name(self, trained, state):
        n = self._n_trained
        # the gradient of one split is one concatenation, that of slices many sums
        parts = [*trained.split(self._sizes[:n]), *state.split(self._sizes[n:])]
        shaped = (p.view(s) for p, s in zip(parts, self._shapes, strict=True))
        return dict(zip(self._names, shaped, strict=True))

    def _forward(self, trained, state, X):
        X = X.reshape(len(X), *self.sample_shape)
        return functional_call(self.module, self._by_name(trained, state), (X,))

    def _logits(self, flat, X):
        trained, state = self._split(flat)
        return self._forward(trained, state, X)

    def train(self, weights, batches, lr, *, seed=(0,), n_seen=0, extra_loss=None):
        start = self._tensor(weights)
        now, first = start.clone(), None
        with self._draws(seed):
            for X, y in batches:
                # normalisation over the batch can't train on one row
                self.module.train(len(y) > 1 or not self.n_buffers)
                trained, state = self._split(now)
                loss, slope = self._slope(
                    trained, state, self._tensor(X), self._tensor(y)
                )
                if first is None:
                    first = float(loss)
                if extra_loss is not None:
                    extra = self._tensor(extra_loss(self._host(now - start)))
                    slope += self._split(extra)[0]
                trained.sub_(slope, alpha=lr)
        return self._host(now - start), first

    def _slope(self, trained, state, X, y):
        """Return loss and gradient; running statistics move in place."""
        trained = trained.detach().clone().requires_grad_()
        loss = F.cross_entropy(self._forward(trained, state, X), y)
        (slope,) = torch.autograd.grad(loss, trained)
        return loss.detach(), slope

    def _draws(self, seed):
        root, *numbers = seed
        number = int(stream(root, "dropout", *numbers).integers(2**31))
        return local_torch_seed(number, self.device)

    def train_together(self, weights, batches, lr, *, seeds=(0,), out):
        """Train many clients; see `SoftmaxLearner.train_together`.

        Dropout draws other masks than in `train`.
        """
        start = self._tensor(weights)
        now, first = start, None
        self.module.train()
        with self._draws(seeds):
            for X, y, share in batches:
                share = self._shares(share, y)
                shared = None if first is None else 0
                step = vmap(
                    grad_and_value(self._weighted_loss),
                    in_dims=(shared, 0, 0, 0),
                    randomness="different",
                )
                slopes, losses = step(now, self._tensor(X), self._tensor(y), share)
                if first is None:
                    first = self._host(losses)
                now = torch.sub(now, slopes, alpha=lr)
        np.copyto(out, self._host(now - start))
        return first

    def _shares(self, share, y):
        if share is None:
            share = np.full(y.shape, 1 / y.shape[1], self.dtype)
        return self._tensor(share)

    def _weighted_loss(self, flat, X, y, share):
        losses = F.cross_entropy(self._logits(flat, X), y, reduction="none")
        return losses @ share

    def candidate_logits(self, candidates, X):
        X, candidates = self._tensor(X), self._tensor(candidates)
        self.module.eval()
        with torch.no_grad(), local_torch_seed(0, self.device):
            if not self.vectorizes or len(candidates) == 1:
                found = [self._logits(flat, X) for flat in candidates]
                return self._host(torch.stack(found))
            forward = vmap(self._logits, (0, None), randomness="different")
            step = max(1, _WEIGHT_VALUES // self.n_weights)
            return self._host(
                torch.cat([forward(part, X) for part in candidates.split(step)])
            )

    def fitted(self, weights):
        module = copy.deepcopy(self.module).eval()
        state = self._by_name(*self._split(self._tensor(weights).clone()))
        module.load_state_dict(state, strict=False)
        return module


def _convolves(part):
    return isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def make_module(estimator, sample_shape, n_classes, seed):
    """Return a torch module and the shape of the samples that it takes.

    Parameters
    ----------
    estimator : nn.Module class or instance, callable, or skorch classifier
        What of ``input_shape``, ``n_features_in``, ``n_classes`` and ``n_outputs`` a
        class or callable names is filled in. Of a skorch classifier, the module and
        its parameters count and nothing else.
    sample_shape : tuple of int
    n_classes : int
    seed : int

    Returns
    -------
    module : torch.nn.Module
    sample_shape : tuple of int
    """
    params = {}
    if hasattr(estimator, "_module_and_params"):  # ours
        estimator = copy.deepcopy(estimator)
        estimator.input_shape_ = sample_shape
        estimator._check_parameters()
        sample_shape = estimator._module_shape()
        given = estimator._component_params
        estimator, offered = estimator._module_and_params(n_classes)
        given = {k: v for k, v in given.items() if k.startswith("module__")}
        params = {k.removeprefix("module__"): v for k, v in (offered | given).items()}
    elif hasattr(estimator, "get_params_for"):
        params = estimator.get_params_for("module")
        estimator = estimator.module
    if isinstance(estimator, torch.nn.Module):
        return copy.deepcopy(estimator), sample_shape
    offered = {
        "input_shape": sample_shape,
        "n_features_in": math.prod(sample_shape),
        "n_classes": n_classes,
        "n_outputs": n_classes,
    }
    named = inspect.signature(estimator).parameters
    offered = {k: v for k, v in offered.items() if k in named and k not in params}
    with local_torch_seed(seed):
        module = estimator(**offered, **params)
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"estimator must make a torch.nn.Module, got {module!r}")
    return module, sample_shape
