"""The training loss as a function of one flat vector, with its derivatives."""

import copy
import inspect

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from skpoison.models._given import Model
from skpoison.utils._tensors import resolve_device
from skpoison.utils._validation import check_number

_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)


def class_codes(model, y, n_outputs):
    """Return labels as positions among a network's outputs.

    Parameters
    ----------
    model : Model
        A fitted classifier tells the order of its classes. For a bare network, whole
        numbers from 0 to ``n_outputs - 1`` are positions already; any other labels
        stand for the outputs in sorted order, and every output needs one.
    y : array-like of shape (n_samples,)
    n_outputs : int

    Returns
    -------
    codes : ndarray of int64

    Raises
    ------
    ValueError
        Labels that a classifier does not know, or other than one a row, or not as
        many of them as outputs.
    """
    y = np.asarray(model.positions("y", y))
    if y.ndim != 1:
        raise ValueError(f"y must have one label a row, got shape {y.shape}")
    if y.dtype.kind in "biuf":
        if not np.isfinite(y).all():
            raise ValueError("y holds NaN or infinite values")
        if ((y >= 0) & (y < n_outputs) & (y == np.floor(y))).all():
            return y.astype(np.int64)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) != n_outputs:
        shown = ", ".join(map(repr, classes.tolist()[:10]))
        raise ValueError(
            f"y must have one label for each of the network's {n_outputs} outputs, or "
            f"be their positions 0 to {n_outputs - 1}; got {len(classes)} labels: "
            f"{shown}"
        )
    return codes.astype(np.int64)


class TrainingLoss:
    """The mean loss of a network over all rows, as a function of its parameters.

    Everything is in float64 and in evaluation mode, on a copy of the network. The
    parameters are those that require a gradient, one after the other in one vector.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        See :class:`skpoison.models._given.Model`.
    X : array-like of shape (n_samples, ...)
    y : array-like
        Labels, see :func:`class_codes`, or numbers in the shape of the outputs.
    criterion : "auto" or torch.nn.Module class or instance, default="auto"
        "auto" is the cross entropy for labels, and the mean squared error for a bare
        network and an array of floats. A loss must be a mean over rows.
    weight_decay : float, default=0.0
        Adds half of it times the squared length of the vector.
    batch_size : int, default=None
        Rows at a time, for data that don't fit: every product then repeats the two
        passes that come before it. None takes all rows at once, and keeps their graph.
    device : str or torch.device, default="auto"

    Attributes
    ----------
    start : torch.Tensor of shape (n_parameters,)
        The parameters as they were given.
    shapes : dict of str to torch.Size
        Of the parameters, in the order of the vector.
    n_products : int
        Hessian-vector products taken so far.
    """

    def __init__(
        self,
        module,
        X,
        y,
        *,
        criterion="auto",
        weight_decay=0.0,
        batch_size=None,
        device="auto",
    ):
        check_number("weight_decay", weight_decay, low=0.0)
        if batch_size is not None:
            check_number("batch_size", batch_size, low=1, integer=True)
        device = resolve_device(device)
        model = Model(module)
        X = model.rows(X)
        self.module = copy.deepcopy(model.network).double().eval().to(device)
        named = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("module has no parameter that requires a gradient")
        self.shapes = {name: p.shape for name, p in named.items()}
        self.start = torch.cat([p.detach().flatten() for p in named.values()])
        if not self.start.isfinite().all():
            raise ValueError("module has parameters that are NaN or infinite")
        self.weight_decay = float(weight_decay)
        self._X = X.to(device).double()
        try:
            out = self.module(self._X[:1].clone())
        except RuntimeError as error:
            raise ValueError(
                f"module can't take a row of X, shape {tuple(X.shape[1:])}: {error}"
            ) from error
        if not isinstance(out, torch.Tensor) or out.ndim == 0 or len(out) != 1:
            got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out)
            raise ValueError(
                f"module must return a tensor with one row for each of X, got {got}"
            )
        if not out.requires_grad:
            raise ValueError("module's output has no gradient in its parameters")
        y = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
        if y.ndim == 0 or len(y) != len(X):
            raise ValueError(
                f"y must have one entry a row, {len(X)}, got shape {y.shape}"
            )
        if isinstance(criterion, str) and criterion == "auto":
            is_bare = isinstance(module, nn.Module)
            numbers = y.dtype.kind == "f" and (is_bare or y.ndim > 1)
            criterion = nn.MSELoss() if numbers else nn.CrossEntropyLoss()
        self.criterion = _checked_criterion(criterion).to(device)
        self._y = _targets(self.criterion, model, y, out).to(device)
        if batch_size is None or batch_size >= len(X):
            self._rows = [slice(None)]
        else:
            ignored = getattr(self.criterion, "ignore_index", -1)
            if getattr(self.criterion, "weight", None) is not None or ignored >= 0:
                raise ValueError(
                    "batch_size must be None for a criterion that weights or ignores "
                    f"classes, whose mean over batches is another, got {batch_size}"
                )
            starts = range(0, len(X), batch_size)
            self._rows = [slice(i, i + batch_size) for i in starts]
        self.n_products = 0
        self._graph: tuple[torch.Tensor, torch.Tensor] | None = None

    def named(self, theta):
        """Return a vector cut into the parameters, by name."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = theta.split(sizes)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def value(self, theta):
        """Return the loss at `theta` as a float."""
        with torch.no_grad():
            total = sum(self._part(theta, rows) for rows in self._rows)
        return float(total + self.weight_decay / 2 * theta @ theta)

    def value_and_gradient(self, theta):
        """Return the loss at `theta` as a float, and its gradient."""
        leaf = theta.detach().clone().requires_grad_()
        total = self.weight_decay / 2 * leaf @ leaf
        total.backward()
        for rows in self._rows:  # a batch at a time, so that its graph can go
            part = self._part(leaf, rows)
            part.backward()
            total = total + part.detach()
        return float(total.detach()), leaf.grad

    def product(self, vector):
        """Return the product of the Hessian at `start` with a vector."""
        self.n_products += 1
        if len(self._rows) == 1:
            if self._graph is None:
                leaf = self.start.clone().requires_grad_()
                self._graph = leaf, self._derivative(leaf, self._rows[0])
            found = _backward(*self._graph, vector, retain_graph=True)
        else:
            leaf = self.start.clone().requires_grad_()
            found = torch.zeros_like(vector)
            for rows in self._rows:
                found += _backward(leaf, self._derivative(leaf, rows), vector)
        return found + self.weight_decay * vector

    def _part(self, theta, rows):
        X, y = self._X[rows], self._y[rows]
        # a copy: modules that work in place must not reach the rows
        out = functional_call(self.module, self.named(theta), (X.clone(),))
        return self.criterion(out, y) * (len(X) / len(self._X))

    def _derivative(self, leaf, rows):
        part = self._part(leaf, rows)
        return torch.autograd.grad(part, leaf, create_graph=True)[0]


def _backward(leaf, gradient, vector, retain_graph=False):
    if not gradient.requires_grad:  # the loss is linear in the parameters
        return torch.zeros_like(vector)
    found = torch.autograd.grad(
        gradient, leaf, vector, retain_graph=retain_graph, allow_unused=True
    )[0]
    return torch.zeros_like(vector) if found is None else found


def _checked_criterion(criterion):
    """Return a copy of a loss in float64."""
    if inspect.isclass(criterion) and issubclass(criterion, nn.Module):
        criterion = criterion()
    if not isinstance(criterion, nn.Module):
        raise TypeError(
            "criterion must be 'auto' or a loss of torch.nn, its class or an instance, "
            f"got {criterion!r}"
        )
    if getattr(criterion, "reduction", "mean") != "mean":
        raise ValueError(
            f"criterion must have reduction='mean', got {criterion.reduction!r}"
        )
    return copy.deepcopy(criterion).double()


def _targets(criterion, model, y, out):
    """Return y as a loss of outputs like `out` takes it."""
    is_soft = y.dtype.kind == "f" and y.ndim == 2
    if isinstance(criterion, _OF_CLASSES) and not is_soft:
        if out.ndim != 2:
            raise ValueError(
                "module must return shape (n_samples, n_classes) for labels, got "
                f"{tuple(out.shape)} for one row"
            )
        return torch.from_numpy(class_codes(model, y, out.shape[1]))
    if y.dtype.kind not in "biuf" or not np.isfinite(y).all():
        raise ValueError(
            f"y must hold finite numbers for {type(criterion).__name__}, got dtype "
            f"{y.dtype}"
        )
    if y.size != len(y) * out.numel():
        raise ValueError(
            "y must have one number for each output of the network, shape "
            f"{(len(y), *out.shape[1:])}, got {y.shape}"
        )
    return torch.from_numpy(y.astype(np.float64)).reshape(len(y), *out.shape[1:])
