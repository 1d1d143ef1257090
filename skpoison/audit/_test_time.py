"""Attacks on a finished model: at test time, or on what its clients sent.

They poison nothing, so that each model of the control is attacked once, at every
budget.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator

from skpoison.audit._registry import final_step
from skpoison.utils._containers import is_frame, put_cells

#: A row counts as recovered within this share of its distance from the mean row.
_RECOVERED = 0.1


@dataclass
class Trained:
    """A model that was trained on a clean fold, and its data.

    Attributes
    ----------
    model : estimator
    X, y : array-like
        The training fold.
    X_test, y_test : array-like
    federation : Federation or None
    seed : int
    stand_in : callable
        Makes an unfitted model whose gradient is followed where the victim has none.
    """

    model: Any
    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    federation: Any
    seed: int
    stand_in: Any


class EvasionProbe(BaseEstimator):
    """An evasion attack whose radius is a budget, as a share of the data's range.

    Parameters
    ----------
    attack : evasion attack
        Cloned; its `eps`, `bounds` and `surrogate` are set here.
    """

    def __init__(self, attack):
        self.attack = attack

    def prepare(self, model):
        """Do nothing to the estimator that is to be trained."""

    def outcomes(self, trained, budgets):
        """Attack the held-out rows of a fold.

        Parameters
        ----------
        trained : Trained
        budgets : list of int or float
            A number of rows stands for its share of the training fold, as elsewhere.

        Returns
        -------
        outcomes : list of ndarray of bool
            For each budget, the held-out rows that are misread.
        opaque : bool
            Whether the gradient of another model was followed.
        """
        X, X_test = (np.asarray(Z) for Z in (trained.X, trained.X_test))
        low, high = _range(X, X_test)
        surrogate, opaque = self._surrogate(trained, X_test)
        found = []
        for budget in budgets:
            share = budget if isinstance(budget, float) else budget / len(X)
            attack = clone(self.attack).set_params(
                surrogate=FrozenEstimator(surrogate),
                eps=share * (high - low),
                bounds=(low, high),
                random_state=trained.seed,
            )
            moved = attack.attack(X_test, trained.y_test)
            rows = moved.X
            if is_frame(trained.X_test):
                rows = put_cells(trained.X_test, X_test, rows)
            misread = np.asarray(trained.model.predict(rows)) != trained.y_test
            found.append(misread if opaque else misread | moved.success)
        return found, opaque

    def _surrogate(self, trained, X_test):
        from skpoison.evasion._views import view

        try:
            view(trained.model)
            return trained.model, False
        except TypeError:
            stand_in = trained.stand_in().fit(trained.X, trained.y)
            return stand_in, True


def _range(X, X_test):
    """Return the range of each column, or of all pixels."""
    if X.dtype == np.uint8:
        return 0.0, 255.0
    both = [np.asarray(Z, dtype=float) for Z in (X, X_test)]
    axis = 0 if X.ndim == 2 else None
    low = np.minimum(*(Z.min(axis) for Z in both))
    high = np.maximum(*(Z.max(axis) for Z in both))
    return low, high


class LeakageProbe(BaseEstimator):
    """A server that looks at what clients sent in the first round.

    A budget is the clients whose updates it tries to turn back into rows.

    Parameters
    ----------
    max_iter : int, default=300
        Of the inversion of an update of several rows.
    """

    def __init__(self, max_iter=300):
        self.max_iter = max_iter

    def prepare(self, model):
        """Have the estimator that is to be trained keep what clients send."""
        from skpoison.federated._model import takes_own_steps

        last = final_step(model)
        if not takes_own_steps(last.estimator):
            last.set_params(record_updates=[0])

    def outcomes(self, trained, budgets):
        """Invert the updates of some clients.

        Parameters
        ----------
        trained : Trained
        budgets : list of int or float
            Clients, as a number or share.

        Returns
        -------
        outcomes : list of ndarray of bool
            For each budget, the rows in these clients' updates that are recovered.
        opaque : bool
            False.
        """
        last = final_step(trained.model)
        if last.record_updates is None:
            return [np.zeros(0, dtype=bool)] * len(budgets), False
        X = trained.X
        if last is not trained.model:
            X = trained.model[:-1].transform(X)
        X = np.asarray(X, dtype=float)
        federation = trained.federation
        clients = federation.compromised(budgets[-1])
        found = [
            self._recovered(last, name, X, trained.seed)
            for name in federation.clients[clients]
        ]
        nothing = np.zeros(sum(map(len, found)), dtype=bool)  # seen: the mean row
        outcomes = []
        for budget in budgets:
            looked_at = np.isin(clients, federation.compromised(budget))
            parts = [r for r, seen in zip(found, looked_at, strict=True) if seen]
            outcomes.append(np.concatenate(parts) if parts else nothing)
        return outcomes, False

    def _recovered(self, federated, client, X, seed):
        """Tell which rows of a client's first update can be recovered from it."""
        from skpoison.inversion import GradientInversion
        from skpoison.metrics import match_reconstruction

        sent = federated.observed_update(0, client)
        rows = X[sent.sample_indices]
        inversion = GradientInversion(
            sent.module,
            n_samples=sent.n_samples,
            update=sent.kind,
            local_steps=sent.local_steps,
            local_lr=sent.local_lr,
            local_batch_size=sent.local_batch_size,
            batch_norm=sent.batch_norm,
            bounds=(X.min(), X.max()),
            max_iter=self.max_iter,
            random_state=seed,
        )
        result = inversion.reconstruct(sent.update, shape=sent.shape)
        guess = result.X.reshape(rows.shape)
        guess = guess[match_reconstruction(rows, guess)]
        off = np.linalg.norm((guess - rows).reshape(len(rows), -1), axis=1)
        away = np.linalg.norm((rows - X.mean(axis=0)).reshape(len(rows), -1), axis=1)
        return off <= _RECOVERED * away
