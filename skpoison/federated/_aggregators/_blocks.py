"""Aggregation of updates that come in blocks of coordinates."""

from sklearn.base import BaseEstimator

from skpoison.federated._aggregators._base import BaseAggregator
from skpoison.federated._aggregators._checks import check_updates
from skpoison.federated._aggregators._matrix import UpdateMatrix, is_tensor
from skpoison.federated._aggregators._server_rule import ServerRule


def aggregate_blocks(blocks, aggregator=None, n_byzantine=None, root_update=None):
    """Aggregate updates that lie in several arrays, or are larger than memory.

    Parameters
    ----------
    blocks : sequence or callable
        Arrays, memory maps or tensors of shape (n_clients, n_weights_of_the_block),
        such as one a layer of the model, all with the same clients in the same rows.
        A callable is called without arguments whenever the blocks are needed and
        returns an iterator over them.
    aggregator : aggregator, Pipeline or None, default=None
        An aggregator is used as it is: one that remembers earlier rounds goes on from
        them. A pipeline of pre-aggregators with an aggregator at its end is cloned.
        None is :class:`Mean`.
    n_byzantine : int, float or None, default=None
        For all parts of `aggregator` whose own is None; None is 0.
    root_update : array or tensor of shape (n_weights,), default=None
        Update from data that the server trusts; :class:`FLTrust` needs it.

    Returns
    -------
    location : array or tensor of shape (n_weights,)
        Over all blocks, in their order.

    Notes
    -----
    Inner products of updates add up over blocks of coordinates. So a rule that weighs
    updates by them reads the blocks twice, once for an (n_clients, n_clients) matrix
    and once for the weighted sum, and a rule that looks at each coordinate by itself
    reads them once. Before, their shapes are looked at, which reads nothing where
    blocks are memory maps. Besides the blocks themselves, memory holds some thousand
    columns of them, the matrix of inner products and the result; only
    :class:`FoolsGold` keeps sums as large as all blocks together.

    A memory map's pages count as the process's own while it lives: a callable that
    opens a map for each block gives them back.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Krum, aggregate_blocks
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 1.0], [9.0, 9.0]])
    >>> aggregate_blocks([updates[:, :1], updates[:, 1:]], Krum(n_byzantine=1))
    array([1., 1.])
    """
    matrix = _matrix_of(blocks)
    if not isinstance(aggregator, BaseAggregator):
        rule = ServerRule(aggregator)
        if not hasattr(rule.rule, "get_params"):
            raise TypeError(
                "aggregate_blocks needs an aggregator or a Pipeline that ends in one; "
                f"a function sees one array, got {aggregator!r}"
            )
        return rule(matrix, n_byzantine, root_update)
    given = {"root_update": root_update} if aggregator.needs_root_update else {}
    own = aggregator.n_byzantine
    try:
        if own is None:
            aggregator.n_byzantine = n_byzantine
        return aggregator(matrix, **given)
    finally:
        aggregator.n_byzantine = own


def _matrix_of(blocks):
    if hasattr(blocks, "__next__"):
        raise TypeError(
            "blocks must be a sequence or a callable that returns an iterator, as they "
            f"are read more than once, got {type(blocks).__name__}"
        )
    given = blocks if callable(blocks) else lambda: blocks

    def checked():
        return (check_updates(BaseEstimator(), block) for block in given())

    shapes, kinds = [], set()
    for block in checked():
        shapes.append(tuple(block.shape))
        kinds.add(is_tensor(block))
    if not shapes:
        raise ValueError("blocks must hold at least one block, got none")
    n_rows = {n for n, _ in shapes}
    if len(n_rows) > 1:
        raise ValueError(
            f"blocks must have the same rows, one a client, got {sorted(n_rows)} rows"
        )
    if len(kinds) > 1:
        raise TypeError("blocks must be all arrays or all tensors, got both")
    n_columns = sum(width for _, width in shapes)
    return UpdateMatrix(checked, n_rows.pop(), n_columns, kinds.pop())
