"""Clients in processes, here or on a cluster, by joblib."""

import copy
from dataclasses import replace

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs

from skpoison.federated._engines._loop import train_in_turn


class JoblibEngine:
    """Train the clients of a round in parallel, in joblib's current backend.

    Workers are kept from round to round; batches depend on client and round alone, so
    that the result does not depend on `n_jobs`.

    Parameters
    ----------
    clients : Clients
    n_jobs : int, default=None
    """

    def __init__(self, clients, n_jobs=None):
        self.clients = clients
        self.n_parts = max(1, effective_n_jobs(n_jobs))
        self._parallel = Parallel(n_jobs=n_jobs)
        self._parallel.__enter__()

    def updates(self, round, weights, numbers):
        """Return updates and losses of some clients; see the package."""
        parts = np.array_split(numbers, min(self.n_parts, len(numbers)))
        found = self._parallel(
            delayed(_train)(self.clients, round, weights, part) for part in parts
        )
        updates, losses = zip(*found, strict=True)
        return np.concatenate(updates), np.concatenate(losses)

    def close(self):
        """Give the workers back."""
        self._parallel.__exit__(None, None, None)


def _train(clients, round, weights, numbers):
    # threads of one process must not share a model
    clients = replace(clients, learner=copy.deepcopy(clients.learner))
    return train_in_turn(clients, round, weights, numbers)
