"""What attackers work out from the updates that they know, a tile of columns each."""

import copy

import numpy as np
from sklearn.pipeline import Pipeline

from skpoison.federated._aggregators._matrix import (
    UpdateMatrix,
    combine,
    row_maxima,
    unusable_rows,
)
from skpoison.federated._aggregators._server_rule import ServerRule
from skpoison.federated._attacks._base import NothingKnownError

_WIDTH = 2040  # columns a tile: 100 rows of float64 stay in the cache


def usable(context, rows=None):
    """Return the rows that hold finite numbers.

    Parameters
    ----------
    context : RoundContext
    rows : ndarray of int, default=None
        Among these; None is all.

    Returns
    -------
    matrix : UpdateMatrix
    """
    matrix = UpdateMatrix.of(context.updates)
    if rows is not None and len(rows) < len(matrix):
        matrix.keep = rows
    if len(matrix):
        bad = unusable_rows(row_maxima(matrix), matrix.n_columns)
        matrix = matrix.without(bad) if len(bad) else matrix
    if len(matrix) == 0:
        raise NothingKnownError
    return matrix


def models(context):
    """Return the rows that an attacker takes for benign behaviour.

    Those of the benign clients or, where it knows none, what its own would send.
    """
    rows = context.benign
    return usable(context, rows if len(rows) else None)


def positions(matrix):
    """Return where its rows stand among those of the round."""
    return np.arange(matrix.n_rows) if matrix.keep is None else matrix.keep


def mean(matrix):
    """Return the mean of the rows, float64."""
    return weighted_sum(matrix, np.full(len(matrix), 1 / len(matrix)))


def weighted_sum(matrix, weights):
    """Return a weighted sum of the rows, float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = matrix.join(combine(matrix, weights))
    if np.isfinite(total).all():
        return total.astype(np.float64)
    # too large for the type of the rows, but not for float64
    return _tiled(matrix, lambda tile: weights @ tile.astype(np.float64))


def projections(matrix, direction, centre):
    """Return the inner product of each row, less the centre, with a direction."""
    total = np.zeros(len(matrix))
    for where, tile in matrix.tiles(_WIDTH):
        total += (tile.astype(np.float64) - centre[where]) @ direction[where]
    return total


def moments(matrix):
    """Return mean and standard deviation (of the population) of each coordinate."""

    def of_tile(tile):
        tile = tile.astype(np.float64)
        centre = tile.mean(axis=0)
        tile -= centre
        np.square(tile, out=tile)
        return np.stack([centre, np.sqrt(tile.mean(axis=0))])

    return _tiled(matrix, of_tile)


def extremes(matrix):
    """Return least and largest value of each coordinate, float64."""

    def of_tile(tile):
        return np.stack([tile.min(axis=0), tile.max(axis=0)]).astype(np.float64)

    return _tiled(matrix, of_tile)


def _tiled(matrix, function):
    parts = [function(tile) for _, tile in matrix.tiles(_WIDTH)]
    return np.concatenate(parts, axis=-1)


def as_sent(values, context):
    """Return float64 values in the type of the updates, kept finite."""
    dtype = context.updates.dtype
    limits = np.finfo(dtype)
    return np.clip(values, limits.min, limits.max).astype(dtype, copy=False)


def repeated(row, context):
    """Return one row for each Byzantine client, without copies of it."""
    row = as_sent(row, context)
    return np.broadcast_to(row, (len(context.byzantine), len(row)))


def server_rule(context, assumed=None):
    """Return the rule that an attack is aimed at.

    Parameters
    ----------
    context : RoundContext
    assumed : estimator, Pipeline, callable or None
        What the attacker takes for the server's rule; None is the server's own.

    Returns
    -------
    rule : estimator, Pipeline, callable or None
    """
    return context.aggregator if assumed is None else assumed


def last_step(rule):
    """Return the rule at the end of a pipeline, or the rule."""
    return rule.steps[-1][1] if isinstance(rule, Pipeline) else rule


def aggregated(rule, updates, n_byzantine):
    """Return what the server would make of updates; the rule stays as it is.

    Parameters
    ----------
    rule : estimator, Pipeline, callable or None
    updates : ndarray of shape (n_clients, n_weights)
    n_byzantine : int
        Where the rule does not say.

    Returns
    -------
    location : ndarray of shape (n_weights,)
    """
    server = ServerRule(rule)
    if server.needs_root_update:
        raise ValueError(
            f"assumed_aggregator must be given: an attacker can't work out "
            f"{last_step(rule)!r}, which needs the server's own data"
        )
    if hasattr(rule, "reset"):
        # a clone starts clean; a copy goes on from the rounds before
        rule = copy.deepcopy(rule)
        if rule.n_byzantine is None:
            rule.n_byzantine = n_byzantine
        return rule(updates)
    return server(updates, n_byzantine)
