"""Derivatives by weights that no rule covers, row by row, and products with them."""

import torch
from torch.func import functional_call, jvp, vjp, vmap
from torch.utils.flop_counter import FlopCounterMode

from skpoison.landscape._ntk_terms import Dense


def jacobian_terms(network, weights, X, outputs):
    """Return the derivatives of rows by weights.

    Parameters
    ----------
    network : torch.nn.Module
    weights : dict of str to tensor
    X : tensor of shape (n_samples, ...)
    outputs : Outputs

    Returns
    -------
    terms : list of Dense
        One for each of the weights.
    """
    try:
        found = _mapped(network, weights, X, outputs)
    except RuntimeError:  # what torch.func can't map over, such as a branch on values
        rows = [_of_row(network, weights, x, outputs) for x in X]
        found = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    return [Dense(J.detach().reshape(*J.shape[:2], -1)) for J in found]


def _mapped(network, weights, X, outputs):
    values = {name: p.detach() for name, p in weights.items()}

    def of_row(x):
        back = vjp(lambda values: _one_row(network, values, x), values)[1]
        return [*vmap(back)(outputs.directions)[0].values()]

    with torch.no_grad():
        return vmap(of_row)(X)


def _one_row(network, values, x):
    return functional_call(network, values, (x[None],))[0]


def _of_row(network, weights, x, outputs):
    found = network(x[None])[0]
    if not found.requires_grad:  # no weight takes part in this row's outputs
        return [p.new_zeros(outputs.q, *p.shape) for p in weights.values()]
    made = [
        torch.autograd.grad(
            found, [*weights.values()], d, retain_graph=True, materialize_grads=True
        )
        for d in outputs.directions
    ]
    return [torch.stack(parts) for parts in zip(*made, strict=True)]


def forward_work(network, X):
    """Return the multiplications of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        network(X)
    return counter.get_total_flops() / 2


def add_products(kernel, network, weights, X, X2, outputs, n_rows):
    """Add to a kernel, one column of rows at a time, by products with derivatives.

    The derivatives of one row are multiplied by those of the others without making
    these: as a derivative of the network in their direction.

    Parameters
    ----------
    kernel : tensor
        See Outputs.
    network : torch.nn.Module
    weights : dict of str to tensor
    X : tensor of shape (n_samples, ...)
    X2 : tensor of shape (n_samples_2, ...) or None
        None is X, and leaves what is below the diagonal undone.
    outputs : Outputs
    n_rows : int
        Rows at a time.

    Raises
    ------
    ValueError
        An operation has no derivative in a direction.
    """
    values = {name: p.detach() for name, p in weights.items()}
    kernel = kernel.unflatten(2, (-1, outputs.n_lines))
    kernel = kernel.unflatten(1, (-1, outputs.n_lines))
    columns = X if X2 is None else X2
    with torch.no_grad():
        for j, column in enumerate(columns):
            back = vjp(lambda v, x=column: _one_row(network, v, x), values)[1]
            tangents = vmap(back)(outputs.directions)[0]
            stop = j + 1 if X2 is None else len(X)
            for start in range(0, stop, n_rows):
                rows = slice(start, min(stop, start + n_rows))
                # functions of the column, rows, functions of the rows
                made = _along(network, values, X[rows], tangents)
                made = (made @ outputs.directions.T).permute(1, 2, 0)
                if outputs.reduction is None:
                    kernel[0, rows, :, j] += made
                    continue
                made = made.diagonal(dim1=1, dim2=2)
                if outputs.reduction == "per_class":
                    kernel[:, rows, 0, j, 0] += made.T
                else:
                    kernel[0, rows, 0, j, 0] += made.sum(1)


def _along(network, values, X, tangents):
    """Return the derivatives of the outputs of rows in directions of the weights."""

    def along(tangent):
        def forward(values):
            return vmap(lambda x: _one_row(network, values, x))(X)

        return jvp(forward, (values,), (tangent,))[1]

    try:
        return vmap(along)(tangents)
    except NotImplementedError as error:
        raise ValueError(
            "method='products' needs derivatives in a direction, which torch does not "
            "have for an operation of module; pass method='jacobian'"
        ) from error
