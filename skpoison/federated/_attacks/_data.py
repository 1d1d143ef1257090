"""Attacks by what Byzantine clients train on."""

import numpy as np
from sklearn.base import clone

from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._validation import check_option


class ClientLabelFlipAttack(BaseUpdateAttack):
    """Byzantine clients train on wrong labels, and are honest otherwise.

    Parameters
    ----------
    mapping : dict or array-like of shape (n_classes,), default=None
        The label that each is replaced by, both as positions in the sorted classes; a
        dict may leave labels out, which stay. None is L - 1 - l for label l of L, as in
        [1]_.

    Attributes
    ----------
    info_ : dict
    n_features_in_ : int

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import ClientLabelFlipAttack
    >>> X, y = np.zeros((3, 1)), np.array([0, 1, 9])
    >>> rng = np.random.default_rng(0)
    >>> ClientLabelFlipAttack().poison_shard(X, y, 10, rng)[1]
    array([9, 8, 0])
    """

    def __init__(self, mapping=None):
        self.mapping = mapping

    def poison_shard(self, X, y, n_classes, rng):
        """Return the data of one Byzantine client with its labels flipped.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : ndarray of shape (n_samples,)
            Encoded as 0..n_classes-1.
        n_classes : int
        rng : numpy.random.Generator
            Not used.

        Returns
        -------
        X, y : as given
        """
        y = np.asarray(y)
        return X, self._table(n_classes)[y].astype(y.dtype)

    def _table(self, n_classes):
        """Return the new label of each class."""
        labels = np.arange(n_classes)
        if self.mapping is None:
            return labels[::-1]
        if isinstance(self.mapping, dict):
            old = np.asarray(list(self.mapping))
            new = np.asarray(list(self.mapping.values()))
        else:
            old, new = labels, np.asarray(self.mapping)
            if new.shape != (n_classes,):
                raise ValueError(
                    f"mapping must hold a label for each of the {n_classes} classes, "
                    f"got shape {new.shape}"
                )
        if not (np.isin(old, labels).all() and np.isin(new, labels).all()):
            raise ValueError(
                f"mapping must hold ints in [0, {n_classes - 1}], got {self.mapping!r}"
            )
        table = labels.copy()
        table[old.astype(int)] = new
        return table


class DataPoisoningAttack(BaseUpdateAttack):
    """Byzantine clients train on poisoned data, and are honest otherwise.

    Parameters
    ----------
    attack : attack, default=None
        Any attack of :mod:`skpoison.attacks`, whether it changes rows or adds some. It
        is given the pooled data of all Byzantine clients, labels encoded as
        0..n_classes-1; rows that it keeps or changes go back to their clients. Cloned.
    X_poison : array-like of shape (n_poison, ...), default=None
        Instead of `attack`: rows to be added.
    y_poison : array-like of shape (n_poison,), default=None
        Their labels, as positions in the sorted classes.
    placement : {"uniform", "single"}, default="uniform"
        Where rows that are added go: dealt out evenly to all Byzantine clients, or all
        to the first of them. Both are studied in [1]_.

    Attributes
    ----------
    info_ : dict
    n_features_in_ : int

    Raises
    ------
    ValueError
        Neither or both of `attack` and `X_poison`, or rows that don't fit.

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.attacks import LabelFlipAttack
    >>> from skpoison.federated import DataPoisoningAttack
    >>> shards = [(np.arange(4.0).reshape(2, 2), np.array([0, 1]))] * 3
    >>> attack = DataPoisoningAttack(LabelFlipAttack(budget=0.5, random_state=0))
    >>> poisoned = attack.poison_shards(shards, 2, np.random.default_rng(0))
    >>> sum(int((y != [0, 1]).sum()) for _, y in poisoned)
    3
    """

    def __init__(
        self, attack=None, *, X_poison=None, y_poison=None, placement="uniform"
    ):
        self.attack = attack
        self.X_poison = X_poison
        self.y_poison = y_poison
        self.placement = placement

    def _check_params(self):
        super()._check_params()
        check_option("placement", self.placement, ("uniform", "single"))
        if self.attack is not None and not hasattr(self.attack, "poison"):
            raise TypeError(
                f"attack must have poison(X, y), as those of skpoison.attacks, got "
                f"{self.attack!r}"
            )
        if (self.X_poison is None) != (self.y_poison is None):
            raise ValueError("X_poison and y_poison must be given together")
        if self.attack is not None and self.X_poison is not None:
            raise ValueError("attack and X_poison must not be given together")

    def poison_shard(self, X, y, n_classes, rng):
        """Return the data of the only Byzantine client, poisoned.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : ndarray of shape (n_samples,)
            Encoded as 0..n_classes-1.
        n_classes : int
        rng : numpy.random.Generator

        Returns
        -------
        X, y : ndarray
        """
        return self.poison_shards([(X, y)], n_classes, rng)[0]

    def poison_shards(self, shards, n_classes, rng):
        """Return the data of all Byzantine clients, poisoned.

        Parameters
        ----------
        shards : list of (X, y)
        n_classes : int
        rng : numpy.random.Generator

        Returns
        -------
        shards : list of (X, y)
        """
        self._check_params()
        if self.attack is None and self.X_poison is None:
            raise ValueError("attack or X_poison must be given, got None for both")
        if not shards:
            return []
        X = np.concatenate([np.asarray(X) for X, _ in shards])
        y = np.concatenate([np.asarray(y) for _, y in shards])
        owner = np.repeat(np.arange(len(shards)), [len(y) for _, y in shards])
        if self.attack is None:
            X, y, origin = self._with_given(X, y, n_classes)
        else:
            attack = clone(self.attack)
            streams = RandomStreams(rng)
            set_random_states(attack, streams, only_missing=True)
            poisoned = attack.poison(X, y)
            X, y, origin = poisoned.X, poisoned.y, poisoned.sample_indices
        new = np.flatnonzero(origin < 0)
        owner = np.where(origin < 0, 0, owner[origin])
        if self.placement == "uniform":
            owner[new] = rng.permutation(len(new)) % len(shards)
        return [(X[owner == i], y[owner == i]) for i in range(len(shards))]

    def _with_given(self, X, y, n_classes):
        """Return the data with the given rows added, and where each row comes from."""
        extra = np.asarray(self.X_poison, dtype=X.dtype)
        labels = np.asarray(self.y_poison)
        if extra.shape[1:] != X.shape[1:] or labels.shape != extra.shape[:1]:
            raise ValueError(
                f"X_poison and y_poison must hold rows of shape {X.shape[1:]} and a "
                f"label for each, got shapes {extra.shape} and {labels.shape}"
            )
        if not np.isin(labels, np.arange(n_classes)).all():
            raise ValueError(f"y_poison must hold ints in [0, {n_classes - 1}]")
        origin = np.append(np.arange(len(y)), np.full(len(labels), -1))
        labels = labels.astype(y.dtype)
        return np.concatenate([X, extra]), np.concatenate([y, labels]), origin
