"""What every attack of Byzantine clients shares: what it knows and when it acts."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.federated._aggregators._checks import n_faulty
from skpoison.utils import draw_seed
from skpoison.utils._validation import check_number, check_option

KNOWLEDGE = ("full", "partial")


@dataclass
class RoundContext:
    """One round of federated training, as an attacker may see it.

    Parameters
    ----------
    updates : ndarray of shape (n_clients, n_weights)
        What all clients would send without an attack. An attack with partial knowledge
        is handed the rows of the Byzantine clients alone.
    byzantine : array-like of int
        The rows of `updates` that are the attacker's.
    n_clients : int, default=None
        Clients of the round; None is the number of rows.
    weights : ndarray of shape (n_weights,), default=None
        The global weights before the round.
    round : int, default=0
    aggregator : estimator, Pipeline or callable, default=None
        The server's rule, its ``n_byzantine`` filled in; None is the mean.
    rng : numpy.random.Generator, default=None
        Of this round; None is seeded by the operating system.
    history : dict, default=None
        Lives as long as the training; an attack keeps under its own name what it must
        remember.
    train : callable, default=None
        ``train(X, y, n_steps, batch_size=None, lr=None, extra_loss=None)`` trains the
        server's current model on data that the attacker holds and returns the update,
        of shape (n_weights,). ``extra_loss(update)`` returns the gradient, of the same
        shape, of what is added to the mean loss of a batch, where the model has moved
        by ``update`` so far.
    shards : list of (X, y), default=None
        Data of the Byzantine clients, labels encoded as 0..n_classes-1.
    server_lr : float, default=1.0
    info : dict, default={}
        What the attack notes about this round, for its ``info_``.
    """

    updates: np.ndarray
    byzantine: Any
    n_clients: Any = None
    weights: np.ndarray | None = None
    round: int = 0
    aggregator: Any = None
    rng: Any = None
    history: Any = None
    train: Callable | None = None
    shards: list | None = None
    server_lr: float = 1.0
    info: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self.byzantine = np.asarray(self.byzantine, dtype=int).reshape(-1)
        if self.n_clients is None:
            self.n_clients = len(self.updates)
        if self.rng is None:
            self.rng = np.random.default_rng()
        if self.history is None:
            self.history = {}

    @property
    def own(self):
        """What the Byzantine clients would send without an attack, a copy."""
        return self.updates[self.byzantine]

    @property
    def benign(self):
        """The rows of `updates` that are not the attacker's."""
        return np.delete(np.arange(len(self.updates)), self.byzantine)


class NothingKnownError(Exception):
    """No row that the attacker knows holds finite numbers."""


class BaseUpdateAttack(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of attacks of Byzantine clients on federated training.

    A subclass writes `craft`, or `poison_shard` if it attacks by its data.

    Attributes
    ----------
    info_ : dict of str to float
        What an attack notes about its last round.
    n_features_in_ : int

    Notes
    -----
    The updates are the data set that is poisoned, so that an attack is a transformer:
    ``transform`` replaces the first `n_byzantine` rows. Federated training calls
    `poison_round` each round instead. It hands `craft` no more than the attacker
    knows, whatever `craft` does.
    """

    info_: dict
    # what an attack has no parameter for
    n_byzantine: Any = None
    knowledge: str = "full"
    assumed_aggregator: Any = None
    attack_rounds: float = 1.0
    strict: bool = False
    random_state: Any = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_params(self):
        """Raise on a bad parameter; subclasses call this one too."""
        check_option("knowledge", self.knowledge, KNOWLEDGE)
        check_number("attack_rounds", self.attack_rounds, low=0.0, high=1.0)

    def _check_count(self, n_byzantine, n_clients):
        if n_byzantine > n_clients:
            raise ValueError(
                f"n_byzantine={n_byzantine} is more than the n_samples={n_clients} "
                "clients"
            )
        if self.strict and n_byzantine > 0 and 2 * n_byzantine >= n_clients:
            raise ValueError(
                f"{type(self).__name__} with strict=True needs n_byzantine < "
                f"n_clients / 2: n_byzantine={n_byzantine}, n_clients={n_clients}"
            )

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext
            What the attacker knows.

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        return context.own

    def poison_round(self, context):
        """Return the updates of a round with those of the Byzantine clients replaced.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        updates : ndarray of shape (n_clients, n_weights)
            A new array.
        """
        self._check_params()
        n_byzantine = len(context.byzantine)
        self._check_count(n_byzantine, context.n_clients)
        self.info_ = {}
        poisoned = np.array(context.updates)
        # drawn in every round, so that the share changes no other draw
        active = context.rng.random() < self.attack_rounds
        if n_byzantine == 0 or not active:
            return poisoned
        known = self._known(context)
        try:
            poisoned[context.byzantine] = self.craft(known)
        except NothingKnownError:
            return poisoned
        self.info_.update(known.info)
        self._note(context, known)
        return poisoned

    def _known(self, context):
        """Return the part of a round that the attacker knows."""
        if self.knowledge == "full":
            return replace(context, info={})
        own = context.own
        return replace(context, updates=own, byzantine=np.arange(len(own)), info={})

    def _note(self, context, known):
        """Add to `info_` what follows from the whole round, known or not."""

    def poison_shard(self, X, y, n_classes, rng):
        """Return the data that one Byzantine client trains on.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : ndarray of shape (n_samples,)
            Encoded as 0..n_classes-1.
        n_classes : int
        rng : numpy.random.Generator

        Returns
        -------
        X, y : as given, of any length
        """
        return X, y

    def poison_shards(self, shards, n_classes, rng):
        """Return the data that all Byzantine clients train on.

        Parameters
        ----------
        shards : list of (X, y)
            One for each Byzantine client, see :meth:`poison_shard`.
        n_classes : int
        rng : numpy.random.Generator

        Returns
        -------
        shards : list of (X, y)
        """
        return [self.poison_shard(X, y, n_classes, rng) for X, y in shards]

    def n_injected(self, n_byzantine):
        """Return how many clients the attacker adds, instead of taking some over.

        Parameters
        ----------
        n_byzantine : int

        Returns
        -------
        n_injected : int
        """
        return 0

    def fit(self, updates, y=None):
        """Check the parameters; nothing is learned.

        Parameters
        ----------
        updates : array-like of shape (n_clients, n_weights)
        y : ignored

        Returns
        -------
        self : object
        """
        updates = self._validate(updates, reset=True)
        self._check_params()
        self._check_count(n_faulty(self.n_byzantine, len(updates)), len(updates))
        self.seed_ = draw_seed(self.random_state)
        self.info_ = {}
        return self

    def transform(self, updates):
        """Return updates with those of the first `n_byzantine` clients replaced.

        Parameters
        ----------
        updates : array-like of shape (n_clients, n_weights)

        Returns
        -------
        poisoned : ndarray of shape (n_clients, n_weights)
            A new array; the same one each time.
        """
        check_is_fitted(self, "seed_")
        updates = self._validate(updates, reset=False)
        context = RoundContext(
            updates,
            np.arange(n_faulty(self.n_byzantine, len(updates))),
            rng=np.random.default_rng(self.seed_),
        )
        # `transform` leaves the estimator as it is, its notes included
        return copy.copy(self).poison_round(context)

    def _validate(self, updates, *, reset):
        return validate_data(
            self,
            updates,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
        )
