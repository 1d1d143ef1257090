"""What a server does with the updates of a round, whichever way its rule was given."""

import numbers

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples

from skpoison.federated._aggregators._base import (
    BaseAggregator,
    GramAggregator,
    PreAggregator,
    without_each,
)
from skpoison.federated._aggregators._checks import check_updates, n_faulty
from skpoison.federated._aggregators._mapped import MappedUpdates
from skpoison.federated._aggregators._matrix import UpdateMatrix
from skpoison.utils import RandomStreams


class ServerRule:
    """An aggregator, a pipeline ending in one, or a function, in one form.

    Parameters
    ----------
    aggregator : aggregator, Pipeline, callable or None, default=None
        A pipeline holds pre-aggregators and, last, an aggregator. A callable takes
        updates and returns the location; it judges rows with NaN itself. None is
        :class:`Mean`. Estimators are cloned. An int as their ``random_state`` is what
        the first round uses; the seeds of later rounds follow from it.

    Attributes
    ----------
    rule : aggregator, Pipeline or callable
        The clone; ``n_byzantine`` is filled in where the given one had None.
    needs_root_update : bool
    selected_ : ndarray of int or None
        Rows that counted in the last round; None where the rule does not tell.
    n_nonfinite_ : int
        Rows with NaN or infinity in the last round.

    Notes
    -----
    A pipeline never forms the rows between its steps: each step is a matrix that maps
    rows to rows, so that U' = M U has the inner products M G M'. One matrix G of all
    updates and one weighted sum remain, unless the rule at the end looks at
    coordinates: then M U is formed once.
    """

    def __init__(self, aggregator=None):
        if aggregator is None:
            from skpoison.federated._aggregators._mean import Mean

            aggregator = Mean()
        self.rule = clone(aggregator, safe=False)
        self._steps, self._last = _parts(self.rule)
        self._open = [
            (part, own)
            for part, own in _owners(self.rule, "n_byzantine")
            if not isinstance(own, numbers.Integral)
        ]
        self._seeded = [
            (part, own)
            for part, own in _owners(self.rule, "random_state")
            if isinstance(own, numbers.Integral)
        ]
        self._round = 0
        self.selected_ = None
        self.n_nonfinite_ = 0

    @property
    def needs_root_update(self):
        return getattr(self._last, "needs_root_update", False)

    @property
    def knows_clients_by_row(self):
        """Whether a row must be the same client in every round."""
        return getattr(self._last, "knows_clients_by_row", False)

    def check(self, n_clients, n_byzantine):
        """Raise if the rule can't work with so many clients and Byzantine ones.

        Parameters
        ----------
        n_clients : int
        n_byzantine : int, float or None
        """
        self._fill(n_clients, n_byzantine)
        n = n_clients
        for step in self._steps:
            step._require(n, n_faulty(step.n_byzantine, n))
            n = step._n_rows(n)
        if isinstance(self._last, BaseAggregator):
            self._last._require(n, n_faulty(self._last.n_byzantine, n))

    def reset(self):
        """Forget earlier rounds.

        Returns
        -------
        self : object
        """
        if isinstance(self._last, BaseAggregator):
            self._last.reset()
        self._round = 0
        return self

    def __call__(self, updates, n_byzantine=None, root_update=None):
        """Aggregate the updates of one round.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        n_byzantine : int, float or None, default=None
            For the parts of the rule whose own is None; None is 0.
        root_update : array or tensor of shape (n_weights,), default=None
            Update from data that the server trusts, for rules that need it.

        Returns
        -------
        location : array or tensor of shape (n_weights,)
        """
        last, given = self._last, self._root(root_update)
        if not isinstance(last, BaseAggregator):
            return self._call(updates)
        self.check(_num_samples(updates), n_byzantine)
        self._round += 1
        if not self._steps:
            location = last(updates, **given)
            self.selected_, self.n_nonfinite_ = last.selected_, last.n_nonfinite_
            return location
        matrix = self._mapped(updates)
        if isinstance(last, GramAggregator):
            location = last(matrix, **given)
            counted = last.weights_ @ matrix.mapping
            self.selected_ = matrix.good[counted != 0]
        else:
            rows, n_bad = matrix.formed()
            last._count_faulty(n_bad, len(matrix.given), last.n_byzantine)
            location = last(rows, **given)
            self.selected_ = None
        self.n_nonfinite_ = len(matrix.given) - len(matrix.good)
        return location

    def leave_one_out(self, updates, n_byzantine=None, root_update=None):
        """Return what the rule gives without each client in turn.

        Rules that remember earlier rounds go on from them each time; none remembers
        these.

        Parameters
        ----------
        updates : array or tensor of shape (n_clients, n_weights)
        n_byzantine : int, float or None, default=None
        root_update : array or tensor of shape (n_weights,), default=None

        Returns
        -------
        locations : array or tensor of shape (n_clients, n_weights)
        """
        last, given = self._last, self._root(root_update)
        if isinstance(last, BaseAggregator):
            self._fill(_num_samples(updates), n_byzantine)
        if self._steps and isinstance(last, GramAggregator):
            return last.leave_one_out(self._mapped(updates), **given)
        if not self._steps and isinstance(last, BaseAggregator):
            return last.leave_one_out(updates, **given)
        updates = check_updates(BaseEstimator(), updates)
        n_byzantine = n_faulty(n_byzantine, len(updates))
        return without_each(self, updates, n_byzantine, root_update)

    def _root(self, root_update):
        return {"root_update": root_update} if self.needs_root_update else {}

    def _fill(self, n_clients, n_byzantine):
        for part, own in self._open:
            share = n_byzantine if own is None else own
            part.n_byzantine = n_faulty(share, n_clients)
        for part, seed in self._seeded:  # other draws each round, from one seed
            if self._round:
                seed = RandomStreams(seed).seed(f"round {self._round}")
            part.random_state = seed

    def _mapped(self, updates):
        if not isinstance(updates, UpdateMatrix):
            updates = UpdateMatrix.of(check_updates(self._last, updates))
        return MappedUpdates(updates, self._steps)

    def _call(self, updates):
        updates = check_updates(BaseEstimator(), updates)
        location = self._last(updates)
        shape = tuple(getattr(location, "shape", ()))
        if shape != (updates.shape[1],):
            raise ValueError(
                f"aggregator={self._last!r} must return one update of shape "
                f"({updates.shape[1]},), got {type(location).__name__} of shape {shape}"
            )
        return location


def aggregate(updates, aggregator=None, n_byzantine=None, root_update=None):
    """Aggregate updates once.

    Parameters
    ----------
    updates : array or tensor of shape (n_clients, n_weights)
        Not changed. Rows with NaN or infinity are left out; where `aggregator` is a
        pipeline they count as zero rows. More than `n_byzantine` of them: an error.
    aggregator : aggregator, Pipeline, callable or None, default=None
        A pipeline of pre-aggregators with an aggregator at its end is done on one
        matrix of inner products. None is :class:`Mean`.
    n_byzantine : int, float or None, default=None
        For all parts of `aggregator` whose own is None; None is 0.
    root_update : array or tensor of shape (n_weights,), default=None
        Update from data that the server trusts; :class:`FLTrust` needs it.

    Returns
    -------
    location : array or tensor of shape (n_weights,)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skpoison.federated import GeometricMedian, NNM, aggregate
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 1.0], [9.0, 9.0]])
    >>> rule = make_pipeline(NNM(), GeometricMedian())
    >>> aggregate(updates, rule, n_byzantine=1).round(2)
    array([1.  , 1.02])
    """
    return ServerRule(aggregator)(updates, n_byzantine, root_update)


def _parts(rule):
    """Return the pre-aggregators and what follows them."""
    if isinstance(rule, Pipeline):
        *steps, (name, last) = rule.steps
        steps = [step for step in steps if step[1] not in (None, "passthrough")]
        for title, step in steps:
            if not isinstance(step, PreAggregator):
                raise TypeError(
                    f"aggregator: step {title!r} must be a pre-aggregator, got {step!r}"
                )
        if not isinstance(last, BaseAggregator):
            raise TypeError(
                f"aggregator: the last step {name!r} must be an aggregator, got "
                f"{last!r}"
            )
        return [step for _, step in steps], last
    if not callable(rule):
        raise TypeError(
            "aggregator must be an aggregator, a Pipeline of pre-aggregators that ends "
            f"in one, a callable or None, got {rule!r}"
        )
    return [], rule


def _owners(rule, parameter):
    """Return the parts of a rule that have a parameter, and its value."""
    params = rule.get_params() if hasattr(rule, "get_params") else {}
    owners = []
    for name, own in params.items():
        owner, _, last = name.rpartition("__")
        if last == parameter:
            owners.append((params[owner] if owner else rule, own))
    return owners
