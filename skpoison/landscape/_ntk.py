"""The kernel of a network's gradients by its weights."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from skpoison.landscape._ntk_jacobian import (
    add_products,
    forward_work,
    jacobian_terms,
)
from skpoison.landscape._ntk_layers import Layer, find_layers, layer_terms
from skpoison.models._given import Model
from skpoison.utils import local_torch_seed
from skpoison.utils._tensors import evaluating, resolve_device
from skpoison.utils._validation import check_number, check_option

REDUCTIONS = ("trace", "mean_logit", "per_class")
METHODS = ("auto", "layerwise", "jacobian", "products")
_CORNER = 1024
#: Values kept of rows, and that one forward and backward pass makes. With copies and
#: products, memory beside the kernel, the network and X stays below 1 GB in float32.
_KEPT_VALUES = 2**26
_PASS_VALUES = 2**24
#: What derivatives by a weight cost beside a multiplication of a forward pass, to make
#: for a row and to multiply with those of another; measured.
_MAKING, _MULTIPLYING = 60, 0.3


def empirical_ntk(
    module,
    X,
    X2=None,
    *,
    reduction=None,
    method="auto",
    batch_size=None,
    dtype=None,
    device="auto",
):
    """Return the empirical tangent kernel of a network, exactly.

    Entry by entry it is the inner product of the gradients, by all trainable weights,
    of an output at one row and an output at another. Without a reduction, line
    ``i * n_outputs + c`` belongs to output c at row i.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        In evaluation mode it maps every row by itself to a row of outputs: logits, not
        probabilities. Of a classifier, what :func:`~skpoison.models.as_module` makes of
        it. Mode and gradients stay as they are; frozen weights do not count.
    X : array-like or tensor of shape (n_samples, ...)
        Rows as the network takes them; of a fitted classifier as it was fitted on. Of
        type uint8 they count as pixels, divided by 255.
    X2 : array-like or tensor of shape (n_samples_2, ...), default=None
        The rows of the columns. None is X, at half of the cost: the kernel is then
        exactly symmetric, and positive semidefinite up to rounding.
    reduction : {None, "trace", "per_class", "mean_logit"}, default=None
        None is the full kernel, as in the paper. "trace" sums over equal outputs, which
        divided by ``n_outputs`` estimates the kernel of infinite width; "per_class"
        keeps a kernel for each output; "mean_logit" is the kernel of the outputs' mean.
    method : {"auto", "layerwise", "jacobian", "products"}, default="auto"
        The way; all give the same, see Notes. "auto" is "layerwise", with products
        instead of Jacobians for weights of other layers where these cost less.
    batch_size : int, default=None
        Rows at a time. None follows from a bound on memory: beside the kernel, the
        network and X less than 1 GB in float32, as long as single rows allow it.
    dtype : {None, "float32", "float64"}, default=None
        Of the arithmetic and of the kernel. None is that of the network, but float32
        for types of half precision.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.

    Returns
    -------
    K : ndarray
        Of shape ``(n * n_outputs, n_2 * n_outputs)``, for "per_class" ``(n_outputs, n,
        n_2)``, else ``(n, n_2)``.

    Raises
    ------
    TypeError
        `module` has no gradient, or is no classifier.
    ValueError
        It has no trainable weights, returns something else than one row of outputs for
        each row, or mixes rows; a bad option; shapes that do not fit.

    Notes
    -----
    With f the outputs and theta the weights ::

        K[(i, c), (j, d)] = < grad_theta f_c(x_i), grad_theta f_d(z_j) >

    "layerwise" makes one forward pass and one backward pass of all outputs at once. It
    yields what enters a layer at a place t, a, and the derivatives g of the outputs by
    what leaves it there; the share of the layer with a bias, for example, is ::

        sum_t,s <g_ict, g_jds> (<a_it, a_js> + 1)

    so that for a fully connected layer the gradients are never formed. Where a layer
    meets many places, the gradients ``sum_t g a^T`` of a slice of its weights are made
    and multiplied instead; the number of multiplications decides. This covers linear
    layers, convolutions, and the scales and shifts of batch, layer and group
    normalisation, each called once. Weights that are shared, used directly, or owned by
    other layers are found from the graph and left to "jacobian": derivatives of each
    row, mapped over rows by ``torch.func`` where it can, else row by row.

    "products" multiplies the derivatives of one row with those of the others without
    making the latter, as derivatives of the network in a direction. "auto" takes it for
    weights W left over if ``W (60 / n_2 + 0.3 p) > F``, with F the multiplications of a
    forward pass of a row and p the number of outputs, or 1 with a reduction, or if one
    row's derivatives would not fit into memory.

    Rows that do not fit at once are passed block by block, and for all pairs of
    blocks.

    References
    ----------
    .. [1] A. Jacot, F. Gabriel and C. Hongler. Neural tangent kernel: convergence and
       generalization in neural networks. NeurIPS 2018, arXiv:1806.07572.
    .. [2] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein.
       Truth or backpropaganda? An empirical investigation of deep learning theory.
       ICLR 2020, arXiv:1910.00359.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.kernel_ridge import KernelRidge
    >>> from skpoison.landscape import empirical_ntk
    >>> from skpoison.models import MLP
    >>> X, y = load_digits(return_X_y=True)
    >>> net = MLP((64,), 10, hidden=(128,)).double()
    >>> K = empirical_ntk(net, X[:40])
    >>> K.shape
    (400, 400)

    Kernel regression of the ten outputs at once:

    >>> targets = np.eye(10)[y[:40]].ravel()
    >>> ridge = KernelRidge(alpha=1.0, kernel="precomputed").fit(K, targets)
    >>> K_new = empirical_ntk(net, X[40:50], X[:40])
    >>> ridge.predict(K_new).reshape(10, 10).argmax(axis=1).shape
    (10,)
    """
    if reduction is not None:
        check_option("reduction", reduction, REDUCTIONS)
    check_option("method", method, METHODS)
    if batch_size is not None:
        check_number("batch_size", batch_size, low=1, integer=True)
    if dtype is not None:
        check_option("dtype", dtype, ("float32", "float64"))
    device = resolve_device(device)
    model = Model(module)
    network = model.network
    trainable = [p for p in network.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("module must have trainable parameters, got none")
    if dtype is None:
        dtype = "float64" if trainable[0].dtype == torch.float64 else "float32"
    dtype = getattr(torch, dtype)
    X = _rows(model, X, device, dtype)
    if X2 is not None:
        try:
            X2 = _rows(model, X2, device, dtype)
        except (TypeError, ValueError) as error:
            raise type(error)(f"X2 is not like X: {error}") from error
        if X2.shape[1:] != X.shape[1:]:
            raise ValueError(
                f"X2 must have rows of shape {tuple(X.shape[1:])} as X has, got "
                f"{tuple(X2.shape[1:])}"
            )
    if not _is_in(network, device, dtype):
        network = copy.deepcopy(network).to(device, dtype)
    # a module may draw even when it predicts, and so differ from row to row
    with evaluating(network), torch.enable_grad(), local_torch_seed(0, device):
        kernel = _Job(network, X, X2, reduction, method, batch_size).kernel()
    found = kernel.cpu().numpy()
    return found if reduction == "per_class" else found[0]


def _is_in(network, device, dtype):
    return all(
        t.device == device and (t.dtype == dtype or not t.is_floating_point())
        for t in (*network.parameters(), *network.buffers())
    )


def _rows(model, X, device, dtype):
    X = model.rows(X)
    if X.is_floating_point():
        X = X.to(dtype)
    return X.to(device)


@dataclass
class _Part:
    """Layers, or weights of others, whose share of the kernel is added at once.

    Attributes
    ----------
    layers : list of Layer
    weights : dict of str to tensor
    n_kept, n_passed : int
        Rows that terms are kept of, and that are passed through at a time.
    """

    layers: list[Layer]
    weights: dict[str, torch.Tensor]
    n_kept: int
    n_passed: int


class _Job:
    """One kernel: what its parts are, and how they add up."""

    def __init__(self, network, X, X2, reduction, method, batch_size):
        self.network, self.X, self.X2 = network, X, X2
        few = X[:2] if X2 is None else torch.cat([X[:1], X2[:1]])
        n_rows = len(X) if X2 is None else min(len(X), len(X2))
        structured = method in ("auto", "layerwise")
        self.outputs, self.n_values, layers = find_layers(
            network, few, n_rows, reduction, structured
        )
        covered = {p for layer in layers for p in layer.module.parameters()}
        rest = {
            name: p
            for name, p in network.named_parameters()
            if p.requires_grad and p not in covered
        }
        self.batch_size = batch_size
        self.parts = []
        if layers:
            kept = sum(layer.kept for layer in layers)
            self.parts.append(self._part(layers, {}, kept))
        self.by_products = {}
        if method == "products" or (method == "auto" and self._prefers_products(rest)):
            self.by_products = rest
            return
        for weights in self._groups(rest):
            n_weights = sum(p.numel() for p in weights.values())
            self.parts.append(self._part([], weights, self.outputs.q * n_weights))

    @property
    def _n_rows(self):
        return len(self.X) + (0 if self.X2 is None else len(self.X2))

    def _part(self, layers, weights, kept):
        """Return a part of which a row keeps some values."""
        if self.batch_size is not None:
            return _Part(layers, weights, self.batch_size, self.batch_size)
        n_kept = self._n_rows
        if n_kept * kept > _KEPT_VALUES:
            n_kept = max(1, _KEPT_VALUES // (2 * kept))
        made = (self.outputs.q + 1) * self.n_values
        if weights:
            made += kept
        return _Part(layers, weights, n_kept, max(1, _PASS_VALUES // made))

    def _groups(self, weights):
        """Yield weights, as many at once as all rows' derivatives can be kept of."""
        most = _KEPT_VALUES // (self._n_rows * self.outputs.q)
        group: dict[str, torch.Tensor] = {}
        size = 0
        for name, p in weights.items():
            if group and size + p.numel() > most:
                yield group
                group, size = {}, 0
            group[name] = p
            size += p.numel()
        if group:
            yield group

    def _prefers_products(self, weights):
        """Tell whether products with derivatives cost less than making them."""
        n_weights = sum(p.numel() for p in weights.values())
        too_many = 2 * self.outputs.q * n_weights > _KEPT_VALUES
        x, share = self.X[:1], self.outputs.n_pairs / self.outputs.q
        n_columns = len(self.X if self.X2 is None else self.X2)
        gain = n_weights * (_MAKING / n_columns + _MULTIPLYING * share)
        if not weights or not (too_many or gain > forward_work(self.network, x)):
            return False
        try:
            kernel = self.outputs.kernel(1, 1)
            add_products(kernel, self.network, weights, x, None, self.outputs, 1)
        except (RuntimeError, ValueError):  # what torch.func does not take
            return False
        return True

    def kernel(self):
        """Return the kernel, (n_kernels, lines of X, lines of X2)."""
        n_columns = len(self.X if self.X2 is None else self.X2)
        kernel = self.outputs.kernel(len(self.X), n_columns)
        for part in self.parts:
            self._add(part, kernel)
        if self.by_products:
            # of a pass, functions times values of a row and of its derivatives
            made = (self.outputs.q + 1) * self.n_values
            n_rows = self.batch_size or max(1, _PASS_VALUES // made)
            add_products(
                kernel, self.network, self.by_products, self.X, self.X2, self.outputs,
                n_rows,
            )  # fmt: skip
        if self.X2 is None:
            _mirror(kernel)
        return kernel

    def _add(self, part, kernel):
        symmetric = self.X2 is None
        X2 = self.X if symmetric else self.X2
        right: list[Any] = []
        held = None
        for i in range(0, len(self.X), part.n_kept):
            rows = slice(i, min(len(self.X), i + part.n_kept))
            left = self._terms(part, self.X[rows])
            for j in range(i if symmetric else 0, len(X2), part.n_kept):
                columns = slice(j, min(len(X2), j + part.n_kept))
                if symmetric and i == j:
                    right = left
                elif held != columns:
                    right = []  # before the next is made
                    right = self._terms(part, X2[columns])
                held = columns
                block = self.outputs.block(kernel, rows, columns)
                with torch.no_grad():
                    for term, other in zip(left, right, strict=True):
                        term.add(block, other, self.outputs)

    def _terms(self, part, X):
        passes = [self._pass(part, rows) for rows in X.split(part.n_passed)]
        if len(passes) == 1:
            return passes[0]
        joined = []
        while passes[0]:  # a term at a time, so that memory does not double
            terms = [found.pop() for found in passes]
            joined.append(terms[0].joined(terms))
        return joined[::-1]

    def _pass(self, part, X):
        if part.layers:
            return layer_terms(self.network, part.layers, X, self.outputs)
        return jacobian_terms(self.network, part.weights, X, self.outputs)


def _mirror(kernel):
    """Copy what is above the diagonal to below it, in place."""
    for start in range(0, kernel.shape[2], _CORNER):
        stop = start + _CORNER
        kernel[:, stop:, start:stop] = kernel[:, start:stop, stop:].mT
        corner = kernel[:, start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).mT)
