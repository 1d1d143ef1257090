"""Networks for gradient descent: a mean loss and its derivatives by torch, in float64.

The only module of this package that imports torch: import it where a network is there.
"""

import numpy as np
import torch
from sklearn.base import clone, is_classifier
from torch.nn import functional

from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._refusal import refuse
from skpoison.utils import RandomStreams, local_torch_seed
from skpoison.utils._tensors import resolve_device


class NetworkModel:
    """A TorchClassifier or TorchRegressor without data."""

    def __init__(self, estimator, classes, random_state, device):
        own = estimator.random_state
        if random_state is None and isinstance(own, int | np.integer):
            random_state = own
        self.seed = RandomStreams(0 if random_state is None else random_state).root
        self.device = resolve_device(device)
        self.is_classifier = is_classifier(estimator)
        self.score_kind = "softmax" if self.is_classifier else "regression"
        self.objective = "log_loss" if self.is_classifier else "squared_error"
        self.n_classes = None if classes is None else len(classes)
        default = torch.nn.CrossEntropyLoss if self.is_classifier else torch.nn.MSELoss
        params = estimator.get_params(deep=False)
        if estimator.criterion is not default or any(
            name.startswith("criterion__") for name in params
        ):
            refuse(
                estimator,
                "criterion",
                f"unless it is the class {default.__name__}, without parameters",
            )
        if params["augment"] is not None:
            refuse(estimator, "augment", "unless it is None")
        standard = 5e-4 if params["optimizer"] == "sgd" else 0.0
        self.decay = params.get("optimizer__weight_decay", standard)
        self._estimator = clone(estimator).set_params(verbose=0)
        self._made = {}

    def network(self, shape, n_outputs):
        """Return the network for rows of a shape, as `fit` would initialise it."""
        if (shape, n_outputs) not in self._made:
            estimator = self._estimator
            estimator._check_parameters()
            estimator.input_shape_ = shape
            net = estimator._make_net(n_outputs, self.device, RandomStreams(self.seed))
            self._made[shape, n_outputs] = _Network(
                net.module_, estimator._module_shape(), self.device
            )
        return self._made[shape, n_outputs]

    def problem(self, X, y, weights):
        """Return the problem of training on these rows."""
        y = np.asarray(y)
        if self.is_classifier:
            n_outputs, location = self.n_classes or max(2, int(y.max()) + 1), (0.0, 1.0)
        else:
            n_outputs, location = 1, (float(y.mean()), float(y.std()) or 1.0)
        network = self.network(X.shape[1:], n_outputs)
        return NetworkProblem(self, network, X, y, weights, len(y), location)


class _Network:
    """A module as a function of one flat vector of weights."""

    def __init__(self, module, sample_shape, device):
        self.module = module.double().eval()
        self.sample_shape, self.device = sample_shape, device
        for part in self.module.modules():
            if getattr(part, "track_running_stats", False):
                raise NotDifferentiableError(
                    f"{type(module).__name__} has {type(part).__name__}, whose "
                    "running statistics are not part of gradient descent: take a "
                    "module without, such as MLP or ConvNet"
                )
        parts = {
            name: value.detach().clone()
            for name, value in self.module.named_parameters()
            if value.requires_grad
        }
        self.shapes = {name: value.shape for name, value in parts.items()}
        self.sizes = [value.numel() for value in parts.values()]
        self.start = torch.cat([value.ravel() for value in parts.values()])

    def __call__(self, theta, X):
        parts = torch.split(theta, self.sizes)
        state = {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        X = X.reshape(len(X), *self.sample_shape)
        # a module that draws even when it predicts draws the same every time
        with local_torch_seed(0, self.device):
            return torch.func.functional_call(self.module, state, (X,))


class NetworkProblem:
    """The mean loss over some rows; offers what `LinearProblem` does, on tensors.

    The sum of the losses is divided by `n_rows`. `location` is mean and scale of the
    numbers y, by which they are standardised; (0, 1) for codes.
    """

    def __init__(self, model, network, X, y, weights, n_rows, location):
        self.model, self.network = model, network
        self.n_rows, self.location = n_rows, location
        if model.is_classifier:
            self.y = self._tensor(y, np.int64)
        else:
            self.y = self._tensor((y - location[0]) / location[1])
        self.X, self.weights = self._tensor(X), self._tensor(weights)

    def beside(self, X, y):
        return NetworkProblem(
            self.model,
            self.network,
            X,
            np.asarray(y),
            np.zeros(len(y)),
            self.n_rows,
            self.location,
        )

    def _tensor(self, array, dtype=float):
        array = np.ascontiguousarray(array, dtype=dtype)
        return torch.tensor(array, device=self.model.device)

    @staticmethod
    def numpy(tensor):
        return tensor.detach().cpu().numpy()

    def start(self):
        return self.network.start

    def curvature(self):
        """Return the size of the Hessian at the start, and its product."""
        theta = self.start().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            self._loss(theta, self.X, self.y, self.weights), theta, create_graph=True
        )

        def product(v):
            (found,) = torch.autograd.grad(
                gradient,
                theta,
                self._tensor(v),
                retain_graph=True,
                materialize_grads=True,
            )
            return self.numpy(found)

        return len(theta), product

    def _loss(self, theta, X, y, weights):
        out = self.network(theta, X)
        if self.model.is_classifier:
            losses = functional.cross_entropy(out, y, reduction="none")
        else:
            losses = (out[:, 0] - y) ** 2
        decay = 0.5 * self.model.decay * (theta @ theta)
        return (weights * losses).sum() / self.n_rows + decay

    def gradient(self, theta):
        theta = theta.detach().requires_grad_(True)
        loss = self._loss(theta, self.X, self.y, self.weights)
        return torch.autograd.grad(loss, theta)[0]

    def pull(self, theta, q):
        theta, X, weights = (
            a.detach().requires_grad_(True) for a in (theta, self.X, self.weights)
        )
        leaves, y = [theta, X, weights], self.y
        if not self.model.is_classifier:
            y = y.detach().requires_grad_(True)
            leaves.append(y)
        (gradient,) = torch.autograd.grad(
            self._loss(theta, X, y, weights), theta, create_graph=True
        )
        product, by_X, by_weight, *by_y = torch.autograd.grad(
            gradient, leaves, q, materialize_grads=True
        )
        return gradient.detach(), product, by_X, by_y[0] if by_y else None, by_weight

    def by_targets(self, by_y, theta, X_val, G):
        """Take in that the targets' mean and scale follow the targets."""
        mean, scale = self.location
        out = (self.scores(theta, X_val) - mean) / scale
        z = self.numpy(self.y)
        by_mean = G.sum() - by_y.sum() / scale
        by_scale = (G * out).sum() - (by_y @ z) / scale
        return by_y / scale + (by_mean + by_scale * z) / len(z)

    def scores(self, theta, X):
        mean, scale = self.location
        with torch.no_grad():
            return self.numpy(self.network(theta, self._tensor(X))) * scale + mean

    def pull_scores(self, theta, X_val, G):
        theta = theta.detach().requires_grad_(True)
        X_val = self._tensor(X_val).requires_grad_(True)
        by_theta, by_X_val = torch.autograd.grad(
            self.network(theta, X_val),
            [theta, X_val],
            self.location[1] * self._tensor(G),
            materialize_grads=True,
        )
        return by_theta, self.numpy(by_X_val)
