"""Audits of data whose rows belong to clients: some of the clients attack.

What is poisoned is not rows but what compromised clients send while the model is
trained; a budget counts clients.
"""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Bunch

from skpoison.audit._registry import final_step
from skpoison.utils import RandomStreams, n_budget


def federated(estimator):
    """Put FederatedClassifier around a model, or around the last of a pipeline."""
    from skpoison.federated import FederatedClassifier

    last = final_step(estimator)
    if not isinstance(last, FederatedClassifier):
        wrapped = FederatedClassifier(clone(last))
        if not hasattr(estimator, "steps"):
            return wrapped
        estimator = clone(estimator)
        return estimator.set_params(**{estimator.steps[-1][0]: wrapped})
    if last.attack is not None:
        raise ValueError(
            f"estimator has an attack of its own, {last.attack!r}; the audit mounts "
            "the attacks: pass attack=None, and your own in attacks={...}"
        )
    return estimator


def check_client_id(client_id, y):
    """Return owners of the rows as an array without missing ones."""
    from skpoison.federated._partition import clients_of_ids

    numbers, names = clients_of_ids(client_id, len(y))
    if len(names) < 2:
        raise ValueError("client_id must name at least two clients, got one")
    return names[numbers]


def n_compromised(budget, n_clients):
    """Return how many clients a budget stands for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return n_budget(budget, n_clients, name="budgets")


def warn_of_nobody(budgets, n_clients):
    """Warn of budgets that compromise no client, and so show no damage."""
    nobody = [b for b in budgets if n_compromised(b, n_clients) == 0]
    if nobody:
        warnings.warn(
            f"budgets {nobody} of {n_clients} clients come to no client: nothing "
            "attacks there",
            UserWarning,
            stacklevel=4,
        )


class ClientAttack(BaseEstimator):
    """The side of an update attack that the audit sees.

    Parameters
    ----------
    attack : update attack
    budget : int or float, default=0.1
        Clients that attack, as a number or share of all.
    """

    def __init__(self, attack, budget=0.1):
        self.attack = attack
        self.budget = budget

    def poison(self, X, y):
        """Leave the rows alone: clients are what is compromised."""
        self.n_poisoned_ = 0
        return Bunch(X=X, y=y)

    def attack_outcomes(self, predict, X, y):
        """Tell which held-out rows are misread."""
        return np.asarray(predict(X)) != np.asarray(y)


class Federation:
    """The clients of one training fold, and which of them a budget compromises.

    The clients of a smaller budget are among those of a larger one.

    Parameters
    ----------
    owners : ndarray of shape (n_train,)
    seed : int
    largest : int or float
        The largest budget: what every rule is told to withstand, attacked or not.
    """

    def __init__(self, owners, seed, largest):
        self.owners = owners
        self.clients, self.numbers = np.unique(owners, return_inverse=True)
        rng = RandomStreams(seed).numpy("compromised")
        self.order = rng.permutation(len(self.clients))
        self.largest = n_compromised(largest, len(self.clients))

    def compromised(self, budget):
        """Return the numbers of the clients that attack."""
        return np.sort(self.order[: n_compromised(budget, len(self.clients))])

    def n_rows(self, budget):
        """Return how many rows they own."""
        return int(np.isin(self.numbers, self.compromised(budget)).sum())

    def fit(self, model, X, y, attack, budget):
        """Train a model with some clients attacking; `attack` may be None."""
        last = final_step(model)
        byzantine = self.compromised(budget)
        last.set_params(
            n_clients=None,
            n_byzantine=len(byzantine),
            byzantine=self.clients[byzantine],
        )
        if attack is not None and len(byzantine):
            last.set_params(attack=clone(attack.attack))
        _expect(last, self.largest)
        name = "client_id"
        if last is not model:
            name = f"{model.steps[-1][0]}__{name}"
        return model.fit(X, y, **{name: self.owners})


def _expect(classifier, n_byzantine):
    """Tell the parts of a server that don't know it how many clients may attack."""
    for name in ("n_byzantine", "n_reject"):
        params = classifier.get_params(deep=True)
        open_ = [
            key
            for key, value in params.items()
            if key.startswith(("aggregator__", "rejection__"))
            and key.endswith(f"__{name}")
            and value is None
        ]
        if open_:
            classifier.set_params(**dict.fromkeys(open_, n_byzantine))
