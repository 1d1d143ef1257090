"""What a client of federated learning shares, as a differentiable function."""

import copy

import numpy as np
import torch
from torch.func import functional_call, replace_all_batch_norm_modules_, vmap
from torch.nn import functional as F

from skpoison.inversion._network import check_modes, recorded
from skpoison.models._given import Model
from skpoison.utils._validation import check_number, check_option

UPDATES = ("gradient", "weights")


class Client:
    """A network and the client's recipe: from rows and labels to the update.

    It works on a copy of the network, so that nothing that goes wrong on the way can
    change the caller's: parameters, gradients, buffers or modes.

    Parameters
    ----------
    module : torch.nn.Module
    update, local_steps, local_lr, batch_size, criterion, batch_norm
        As in :func:`client_update`.
    dtype : torch.dtype, default=None
        Of the computation; None is the module's own.
    device : torch.device, default=None
        None is the module's own.

    Attributes
    ----------
    module : torch.nn.Module
        The copy, in evaluation mode, none of its parameters asking for gradients.
    params : dict of str to Tensor
        The trainable parameters in order.
    """

    def __init__(
        self,
        module,
        *,
        update="gradient",
        local_steps=1,
        local_lr=1e-4,
        batch_size=None,
        criterion=None,
        batch_norm=None,
        dtype=None,
        device=None,
    ):
        check_option("update", update, UPDATES)
        check_number("local_steps", local_steps, low=1, integer=True)
        check_number("local_lr", local_lr, low=0, strict=True)
        if batch_size is not None:
            check_number("batch_size", batch_size, low=1, integer=True)
        if update == "gradient" and local_steps > 1:
            raise ValueError(
                f"local_steps={local_steps} makes an update of weights: set "
                "update='weights'"
            )
        if criterion is not None and not callable(criterion):
            raise TypeError(
                "criterion must be None or a callable (scores, y) -> loss, got "
                f"{criterion!r}"
            )
        self.update, self.local_steps, self.local_lr = update, local_steps, local_lr
        self.batch_size = batch_size
        self.criterion = F.cross_entropy if criterion is None else criterion
        trainable = [n for n, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise ValueError(f"{type(module).__name__} has no trainable parameter")
        self.module = _private_copy(module, batch_norm, dtype, device)
        own = dict(self.module.named_parameters())
        self.params = {name: own[name].detach() for name in trainable}
        first = self.params[trainable[0]]
        self.dtype, self.device = first.dtype, first.device

    @property
    def is_one_gradient(self):
        """Whether the update is the gradient up to a factor."""
        return self.local_steps == 1

    def n_outputs(self, shape):
        """Return the number of outputs for rows of `shape`, or say that none fit."""
        rows = torch.zeros(2, *shape, dtype=self.dtype, device=self.device)
        try:
            with torch.no_grad():
                scores = self.module(rows)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{type(self.module).__name__} takes no inputs of shape "
                f"{tuple(shape)}: {error}"
            ) from error
        is_rows = isinstance(scores, torch.Tensor) and scores.ndim == 2
        if not is_rows or len(scores) != len(rows):
            found = getattr(scores, "shape", type(scores).__name__)
            raise ValueError(
                f"{type(self.module).__name__} must return one row of scores an input, "
                f"got {found} for {len(rows)}"
            )
        return scores.shape[1]

    def labels(self, y, n_rows, n_outputs, name="labels"):
        """Return class indices or soft labels as a tensor, checked."""
        if not isinstance(y, torch.Tensor):
            y = np.asarray(y)
            if y.dtype.kind not in "fiub":
                raise TypeError(
                    f"{name} must be numbers for a network, which has no other names "
                    f"of classes, got dtype {y.dtype}"
                )
            kind = np.float64 if y.dtype.kind == "f" else np.int64
            y = torch.from_numpy(np.array(y, dtype=kind, order="C"))
        if y.ndim < 1 or len(y) != n_rows:
            raise ValueError(
                f"{name} must have one entry a row, {n_rows}, got shape "
                f"{tuple(y.shape)}"
            )
        if self.criterion is F.cross_entropy:
            soft = y.is_floating_point() and tuple(y.shape[1:]) == (n_outputs,)
            if soft:  # not so where a value is NaN
                soft = bool((y >= 0).all() and ((y.sum(1) - 1).abs() < 1e-3).all())
            whole = y.ndim == 1 and bool((y == y.to(torch.int64)).all())
            if not soft and not (whole and 0 <= y.min() and y.max() < n_outputs):
                raise ValueError(
                    f"{name} must be class indices in [0, {n_outputs - 1}], one a row, "
                    f"or rows of {n_outputs} probabilities, got shape {tuple(y.shape)} "
                    f"with values from {y.min().item():g} to {y.max().item():g}"
                )
            y = y if soft else y.to(torch.int64)
        return y.to(self.device, self.dtype if y.is_floating_point() else torch.int64)

    def __call__(self, X, y, layers=(), *, create_graph=True):
        """Return the update and, for each of `layers`, its input in the first step.

        Differentiable in X and in soft labels.
        """
        return self._run(X, y, layers, _gradient_of(create_graph))

    def many(self, X, y, layers=()):
        """Return the updates of several clients, stacked along a first axis of all."""
        return vmap(lambda X, y: self._run(X, y, layers, _functional_gradient))(X, y)

    def _run(self, X, y, layers, gradient):
        size = len(X) if self.batch_size is None else min(self.batch_size, len(X))
        n_batches = len(X) // size
        total, inputs = dict.fromkeys(self.params, 0.0), ()
        for step in range(self.local_steps):
            # summed apart from the weights: in float32, weights after minus weights
            # before would lose the small steps
            weights = {n: p + total[n] if step else p for n, p in self.params.items()}
            rows = slice((step % n_batches) * size, (step % n_batches + 1) * size)
            wanted = () if step else layers
            found, seen = gradient(self._loss(X[rows], y[rows], wanted), weights)
            inputs = inputs if step else seen
            if self.update == "gradient":
                return found, inputs
            total = {n: total[n] - self.local_lr * g for n, g in found.items()}
        return total, inputs

    def _loss(self, X, y, layers):
        def loss(weights):
            with recorded(layers) as inputs:
                scores = functional_call(self.module, weights, (X,))
            value = self.criterion(scores, y)
            if not isinstance(value, torch.Tensor) or value.ndim:
                found = getattr(value, "shape", type(value).__name__)
                raise TypeError(
                    f"criterion must return a tensor that holds one number, got {found}"
                )
            return value, tuple(inputs[part] for part in layers)

        return loss


def client_update(
    module,
    X,
    y,
    *,
    update="gradient",
    local_steps=1,
    local_lr=1e-4,
    batch_size=None,
    criterion=None,
    batch_norm=None,
    create_graph=False,
):
    """Return what a client that trains on these rows shares with the server.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        The server's model, see :func:`skpoison.models.as_module`. It is not changed.
    X : array or Tensor of shape (n_samples, ...)
        As the model takes them. A network's uint8 pixels are divided by 255.
    y : array or Tensor of shape (n_samples,) or (n_samples, n_outputs)
        Labels, as in `classes_` of a fitted classifier and positions among the scores
        of a network; or soft labels.
    update : {"gradient", "weights"}, default="gradient"
        The gradient of the mean loss, or the weights after local training minus those
        before, as in federated averaging.
    local_steps : int, default=1
        Steps of gradient descent that the client takes, without momentum.
    local_lr : float, default=1e-4
        Its learning rate; the published notebook's.
    batch_size : int, default=None
        Rows of each step, taken in order: step s uses batch
        ``s % (n_samples // batch_size)``. None is all rows in each step.
    criterion : callable, default=None
        ``criterion(scores, y)`` returns the mean loss; None is cross entropy.
    batch_norm : {"eval", "train"}, default=None
        "eval" normalises by the running statistics, "train" by those of the batch.
        None is "eval", and refuses a network in training mode that has such layers.
    create_graph : bool, default=False
        Keep the graph, so that the update can be differentiated in X and soft labels,
        through all local steps.

    Returns
    -------
    update : dict of str to Tensor
        By name, in the order of the trainable parameters.

    Raises
    ------
    ValueError
        Labels out of range, rows that do not fit the network, a network in training
        mode with dropout or, unless `batch_norm` says how, batch normalisation.
    FloatingPointError
        The update is NaN or infinite.

    Notes
    -----
    With theta_0 the module's parameters and K = `local_steps`::

        theta_{s+1} = theta_s - local_lr * gradient of the mean loss on batch s
        update      = theta_K - theta_0            (update="weights")

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller. Inverting gradients:
       how easy is it to break privacy in federated learning? NeurIPS 2020,
       arXiv:2003.14053.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.inversion import client_update
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=1000).fit(X, y)
    >>> gradient = client_update(clf, X[:2], y[:2])
    >>> {name: tuple(value.shape) for name, value in gradient.items()}
    {'0.weight': (3, 4), '0.bias': (3,)}
    """
    model = Model(module)
    client = Client(
        model.network,
        update=update,
        local_steps=local_steps,
        local_lr=local_lr,
        batch_size=batch_size,
        criterion=criterion,
        batch_norm=batch_norm,
    )
    X = model.rows(X).to(client.device, client.dtype)
    if not (isinstance(y, torch.Tensor) and y.requires_grad):
        y = model.positions("y", y)
    y = client.labels(y, len(X), client.n_outputs(X.shape[1:]), name="y")
    if not create_graph:
        X, y = X.detach(), y.detach()
    found, _ = client(X, y, create_graph=create_graph)
    for name, values in found.items():
        if not values.isfinite().all():
            raise FloatingPointError(
                f"the update of {name!r} has NaN or infinite values: the rows, the "
                "weights or local_lr are too large"
            )
    return found


def _private_copy(module, batch_norm, dtype, device):
    check_modes(module, batch_norm)
    module = copy.deepcopy(module).to(device=device, dtype=dtype).eval()
    if batch_norm == "train":
        # layers without running statistics normalise by the batch in either mode
        replace_all_batch_norm_modules_(module)
    return module.requires_grad_(False)


def _gradient_of(create_graph):
    def gradient(loss, weights):
        # from the network's own weights on, a step's weights already have a graph
        weights = {
            n: w if w.requires_grad else w.detach().requires_grad_()
            for n, w in weights.items()
        }
        with torch.enable_grad():
            value, inputs = loss(weights)
            if not value.requires_grad:
                raise ValueError(
                    "the loss can't be differentiated by the weights: the criterion "
                    "or the network detaches them"
                )
            found = torch.autograd.grad(
                value, list(weights.values()), create_graph=create_graph,
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
        return dict(zip(weights, found, strict=True)), inputs

    return gradient


def _functional_gradient(loss, weights):
    return torch.func.grad(loss, has_aux=True)(weights)
