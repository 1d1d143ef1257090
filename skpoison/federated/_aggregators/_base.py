"""What every aggregation rule shares: faulty rows, leaving out, what is fitted."""

import copy
import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from skpoison.federated._aggregators._checks import (
    Conditioned,
    check_updates,
    n_faulty,
)
from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._mapped import MappedUpdates
from skpoison.federated._aggregators._matrix import (
    UpdateMatrix,
    choose,
    combine,
    coordinatewise,
    empty_like,
    gram,
    is_tensor,
    ordered_tiles,
    row_maxima,
)


def _nonfinite_rows(matrix):
    return np.flatnonzero(~np.isfinite(row_maxima(matrix)))


class BaseAggregator(Conditioned, BaseEstimator):
    """Base of aggregation rules.

    A rule takes the updates of all clients, one row each, and returns one update.
    Subclasses write one of the two kinds below.

    Notes
    -----
    ``fit`` starts clean, as everywhere in scikit-learn. Calling the rule is what a
    server does each round: a rule that remembers earlier rounds goes on from them.
    """

    # what a rule has no parameter for
    n_byzantine: Any = None

    #: Whether `fit` and the call need ``root_update``, from data the server trusts.
    needs_root_update = False
    #: Whether a row must be the same client in every round.
    knows_clients_by_row = False

    def fit(self, updates, y=None):
        """Aggregate updates, whatever was aggregated before.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
            Float32 or float64, other numbers become float64; never changed. Rows with
            NaN or infinity count as Byzantine and are left out.
        y : ignored

        Returns
        -------
        self : object
        """
        self.reset()
        self(updates)
        return self

    def __call__(self, updates):
        """Aggregate the updates of one more round.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)

        Returns
        -------
        location : array or tensor of shape (n_weights,)
            In the updates' type, on their device; also kept as ``location_``.
        """
        return self._run(updates)

    def fit_predict(self, updates, y=None, **given):
        """Tell which clients the rule keeps.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        y : ignored
        **given : dict
            What `fit` takes beside them.

        Returns
        -------
        kept : ndarray of int of shape (n_clients,)
            1 for clients whose updates count, -1 for those rejected. A rule that
            judges coordinates rather than clients rejects only unusable rows.
        """
        self.fit(updates, **given)
        kept = np.full(self.n_clients_, -1)
        kept[self.selected_] = 1
        return kept

    def reset(self):
        """Forget earlier rounds; for most rules there is nothing to forget.

        Returns
        -------
        self : object
        """
        return self

    def leave_one_out(self, updates):
        """Return what the rule gives without each client in turn.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)

        Returns
        -------
        locations : array or tensor of shape (n_clients, n_weights)
        """
        return without_each(self, check_updates(self, updates))

    def _matrix(self, updates):
        if isinstance(updates, UpdateMatrix):
            return updates
        return UpdateMatrix.of(check_updates(self, updates))

    def _run(self, updates):
        matrix = self._matrix(updates)
        f = n_faulty(self.n_byzantine, len(matrix))
        self._require(len(matrix), f)
        self.n_clients_ = len(matrix)
        self.n_nonfinite_ = 0
        self.location_ = self._aggregate(matrix, f)
        return self.location_

    def _without_faulty(self, matrix, f, rows):
        """Return the matrix without unusable rows, and the f that is left."""
        if len(rows) == 0:
            return matrix, f
        self._count_faulty(len(rows), len(matrix), f)
        self._require(len(matrix) - len(rows), f - len(rows))
        return matrix.without(rows), f - len(rows)

    def _count_faulty(self, n_bad, n, f):
        if n_bad > f:
            raise ValueError(
                f"{type(self).__name__} got NaN, infinity or values beyond float64's "
                f"squares in {n_bad} of n={n} updates, more than its f={f} "
                f"(n_byzantine={self.n_byzantine})"
            )
        self.n_nonfinite_ = n_bad

    def _aggregate(self, matrix, f):
        raise TypeError(f"{type(self).__name__} must define _aggregate")


def without_each(rule, updates, *given):
    """Return what a rule gives without each client in turn, by calling it n times."""
    locations = []
    for i in range(len(updates)):
        left = np.delete(np.arange(len(updates)), i)
        # a copy each: what a rule remembers is not to see the other candidates
        locations.append(copy.deepcopy(rule)(updates[left], *given))
    if is_tensor(updates):
        import torch

        return torch.stack(locations)
    return np.stack(locations)


class GramAggregator(BaseAggregator):
    """Base of rules whose result is a weighted sum of the updates.

    The weights follow from where the updates lie to each other: a subclass writes
    `_weigh`. Fitted attributes with one entry a client, which `_weigh` sets by
    `_per_client`, are laid out over all clients afterwards.
    """

    def _weigh(self, geometry, f):
        """Return the weights of n rows and of the extra ones.

        Parameters
        ----------
        geometry : Geometry
            Of the rows that are left when unusable ones are gone.
        f : int
            Byzantine rows among them.

        Returns
        -------
        weights : ndarray of shape (n + n_extra,)
        """
        raise TypeError(f"{type(self).__name__} must define _weigh")

    def _per_client(self, **values):
        """Note fitted attributes with an entry for each row of the geometry."""
        self._noted.update(values)

    def _extra_rows(self, matrix):
        """Return rows that the rule looks at beside the clients', (n_columns,) each."""
        return ()

    def _aggregate(self, matrix, f):
        extra = self._extra_rows(matrix)
        geometry, matrix, f = self._geometry(matrix, f, extra)
        weights = self._weights(geometry, f)
        self._lay_out(matrix, geometry, weights)
        return matrix.join(combine(matrix, geometry.to_given(weights), extra))

    def _geometry(self, matrix, f, extra):
        given = matrix.given if isinstance(matrix, MappedUpdates) else matrix
        products = self._products(matrix, given, extra)
        geometry, good, f = self._usable(matrix, products, len(given), f)
        if len(good) < len(given):
            given = given.without(np.delete(np.arange(len(given)), good))
        return geometry, given, f

    def _products(self, matrix, given, extra):
        """Return inner products of rows given, extra rows and the origin."""
        return gram(given, extra)

    def _usable(self, matrix, products, n, f):
        """Return the geometry that the rule sees, the rows below it, and their f."""
        good = np.flatnonzero(np.isfinite(np.diag(products)[:n]))
        n_bad = n - len(good)
        self._count_faulty(n_bad, n, f)
        if isinstance(matrix, MappedUpdates):
            return matrix.mapped(products, n), good, f
        left = np.r_[good, np.arange(n, len(products))]
        return Geometry(products[np.ix_(left, left)], len(good)), good, f - n_bad

    def _weights(self, geometry, f):
        self._noted = {}
        return self._weigh(geometry, f)

    def _lay_out(self, matrix, geometry, weights):
        n = self.n_clients_
        every = matrix.keep is None or geometry.mapping is not None
        kept = np.arange(n) if every else matrix.keep
        values = {"weights_": (weights[: geometry.n], 0.0)}
        values |= {name: (value, np.inf) for name, value in self._noted.items()}
        del self._noted
        for name, (value, missing) in values.items():
            laid = np.full((n,) * value.ndim, missing)
            laid[np.ix_(*[kept] * value.ndim)] = value
            if value.ndim == 2:
                np.fill_diagonal(laid, 0)
            setattr(self, name, laid)
        self.selected_ = np.flatnonzero(self.weights_)

    def leave_one_out(self, updates):
        """Return what the rule gives without each client in turn.

        The inner products are formed once; then each client costs work on an (n, n)
        matrix and one row of a matrix product.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)

        Returns
        -------
        locations : array or tensor of shape (n_clients, n_weights)
        """
        matrix = self._matrix(updates)
        given = matrix.given if isinstance(matrix, MappedUpdates) else matrix
        f = n_faulty(self.n_byzantine, len(given))
        weights = self._left_out(matrix, given, f)
        return given.join(combine(given, weights, self._extra_rows(matrix)))

    def _left_out(self, matrix, given, f):
        """Return the weights of all rows without each in turn, (n, n + n_extra)."""
        n = len(given)
        products = self._products(matrix, given, self._extra_rows(matrix))
        extra = np.arange(n, len(products) - 1)
        weights = np.zeros((n, len(products) - 1))
        for i in range(n):
            left = np.delete(np.arange(len(products)), i)
            part = products[np.ix_(left, left)]
            geometry, good, f_left = self._usable(matrix, part, n - 1, f)
            self._require(n - 1 if matrix is given else geometry.n, f)
            given_weights = geometry.to_given(self._weights(geometry, f_left))
            weights[i, np.r_[left[good], extra]] = given_weights
            del self._noted
        return weights


class OrderAggregator(BaseAggregator):
    """Base of rules that look at the sorted values of each coordinate.

    A subclass writes `_of_sorted`. Values come as arrays or as tensors: it uses
    indexing, arithmetic and what both kinds have.
    """

    def _of_sorted(self, ordered, f):
        """Return one value for each coordinate.

        Parameters
        ----------
        ordered : array or tensor of shape (n_coordinates, n)
            Ascending, finite.
        f : int
            Byzantine rows among the n.
        """
        raise TypeError(f"{type(self).__name__} must define _of_sorted")

    def _aggregate(self, matrix, f):
        matrix, parts = self._sorted(matrix, f, self._of_sorted)
        kept = matrix.keep
        self.selected_ = np.arange(self.n_clients_) if kept is None else kept
        return matrix.join(parts)

    def _sorted(self, matrix, f, function):
        with np.errstate(over="ignore"):
            parts = coordinatewise(matrix, lambda ordered: function(ordered, f))
            if parts is None:
                matrix, f = self._without_faulty(matrix, f, _nonfinite_rows(matrix))
                parts = coordinatewise(matrix, lambda ordered: function(ordered, f))
        return matrix, parts

    def leave_one_out(self, updates):
        """Return what the rule gives without each client in turn.

        The values are sorted once.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)

        Returns
        -------
        locations : array or tensor of shape (n_clients, n_weights)
        """
        matrix = self._matrix(updates)
        n = len(matrix)
        f = n_faulty(self.n_byzantine, n)
        self._require(n - 1, f)
        bad = _nonfinite_rows(matrix)
        good = np.setdiff1d(np.arange(n), bad)
        matrix, f = self._without_faulty(matrix, f, bad)
        locations = None
        with np.errstate(over="ignore"):
            for where, tile, ordered in ordered_tiles(matrix):
                if locations is None:
                    locations = empty_like(tile, (n, matrix.n_columns))
                locations[good, where] = self._without_each(tile, ordered, f)
                if len(bad):  # without one of them the others still count in f
                    locations[bad, where] = self._of_sorted(ordered, f + 1)
        return matrix.join([locations])

    def _without_each(self, rows, ordered, f):
        """Return the values without each row in turn, (n, n_coordinates).

        Parameters
        ----------
        rows : array or tensor of shape (n, n_coordinates)
        ordered : array or tensor of shape (n_coordinates, n)
            The same, sorted.
        f : int
        """
        found = empty_like(rows, rows.shape)
        for i, row in enumerate(rows):
            below = ordered[:, :-1] < row[:, None]
            rest = choose(below, ordered[:, :-1], ordered[:, 1:])
            found[i] = self._of_sorted(rest, f)
        return found


class PreAggregator(Conditioned, TransformerMixin, BaseEstimator):
    """Base of what is done to the updates before a rule sees them.

    A subclass writes `_mapping`: each new row is a linear combination of the given
    ones. So a pipeline of them and a rule needs one matrix of inner products and one
    weighted sum; see :func:`aggregate`.
    """

    n_byzantine = None  # where a subclass has no such parameter

    def fit(self, updates, y=None):
        """Check the updates; nothing is learned.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        y : ignored

        Returns
        -------
        self : object
        """
        self._check_rows(check_updates(self, updates))
        return self

    def transform(self, updates):
        """Return the rows that a rule is to see.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
            Rows with NaN or infinity count as zero rows, with a warning.

        Returns
        -------
        rows : array or tensor of shape (n_rows, n_weights)
            In the updates' type, on their device.
        """
        updates = check_updates(self, updates, reset=False)
        self._check_rows(updates)
        matrix = MappedUpdates(UpdateMatrix.of(updates), [self])
        rows, n_bad = matrix.formed()
        if n_bad:
            warnings.warn(
                f"{n_bad} of {len(matrix.given)} updates hold NaN or infinity and "
                "count as zero",
                UserWarning,
                stacklevel=3,  # scikit-learn wraps this method
            )
        return rows.join(list(rows.blocks()))

    def _mapped(self, geometry):
        n = geometry.n
        f = n_faulty(self.n_byzantine, n)
        return geometry.mapped(self._mapping(geometry, f))

    def _check_rows(self, updates):
        n = len(updates)
        self._require(n, n_faulty(self.n_byzantine, n))

    def _n_rows(self, n):
        """Return how many rows come of n."""
        return n

    def _mapping(self, geometry, f):
        """Return coefficients of shape (n_rows, n)."""
        raise TypeError(f"{type(self).__name__} must define _mapping")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.allow_nan = True
        return tags
