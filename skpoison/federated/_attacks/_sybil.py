"""Attackers that join instead of taking clients over."""

import copy

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skpoison.federated._attacks._base import BaseUpdateAttack


class SybilAttack(BaseUpdateAttack):
    """Carry an attack out by clients that the attacker adds.

    In federated training no existing client becomes Byzantine. As many as would have
    been are added, and all of them hold a copy of the data of one client.

    Parameters
    ----------
    attack : update attack, default=None
        What the added clients do. None: they send what they would without attack, and
        one client's data count several times.

    Attributes
    ----------
    info_ : dict
        Of the last round, as `attack` notes it.
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import IPMAttack, SybilAttack
    >>> attack = SybilAttack(IPMAttack(eps=1.0, n_byzantine=1))
    >>> attack.n_injected(20)
    20
    >>> attack.fit_transform(np.array([[1.0], [2.0], [4.0]])).ravel()
    array([-3.,  2.,  4.])
    """

    def __init__(self, attack=None):
        self.attack = attack

    def _carried_out(self):
        return BaseUpdateAttack() if self.attack is None else self.attack

    def _check_params(self):
        if not hasattr(self._carried_out(), "poison_round"):
            raise TypeError(
                f"attack must be an attack of skpoison.federated, got {self.attack!r}"
            )

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
        super().fit(updates)
        self.attack_ = clone(self._carried_out()).fit(updates)
        return self

    def transform(self, updates):
        """Return updates with those of the attack's `n_byzantine` first rows replaced.

        Parameters
        ----------
        updates : array-like of shape (n_clients, n_weights)

        Returns
        -------
        poisoned : ndarray of shape (n_clients, n_weights)
        """
        check_is_fitted(self)
        self._validate(updates, reset=False)
        return self.attack_.transform(updates)

    def poison_round(self, context):
        """Return the updates of a round with those of the added clients replaced.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        updates : ndarray of shape (n_clients, n_weights)
            A new array.
        """
        self._check_params()
        attack = copy.copy(self._carried_out())
        poisoned = attack.poison_round(context)
        self.info_ = attack.info_
        return poisoned

    def craft(self, context):
        """Return what the added clients send, see the attack that is carried out."""
        return self._carried_out().craft(context)

    def poison_shards(self, shards, n_classes, rng):
        """Return the data that the added clients train on.

        Parameters
        ----------
        shards : list of (X, y)
        n_classes : int
        rng : numpy.random.Generator

        Returns
        -------
        shards : list of (X, y)
        """
        return self._carried_out().poison_shards(shards, n_classes, rng)

    def poison_shard(self, X, y, n_classes, rng):
        """Return the data that one of them trains on, see :meth:`poison_shards`."""
        return self._carried_out().poison_shard(X, y, n_classes, rng)

    def n_injected(self, n_byzantine):
        """Return how many clients are added.

        Parameters
        ----------
        n_byzantine : int

        Returns
        -------
        n_injected : int
        """
        return n_byzantine
