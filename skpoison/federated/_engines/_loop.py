"""One client after the other: the reference."""

import numpy as np


class LoopEngine:
    """Train clients in turn.

    Parameters
    ----------
    clients : Clients
    """

    def __init__(self, clients):
        self.clients = clients

    def updates(self, round, weights, numbers):
        """Return updates and losses of some clients; see the package."""
        return train_in_turn(self.clients, round, weights, numbers)

    def close(self):
        """Nothing to give back."""


def train_in_turn(clients, round, weights, numbers):
    """Train clients one after the other.

    Returns
    -------
    updates : ndarray of shape (n, n_weights)
    losses : ndarray of shape (n,)
    """
    updates = np.empty((len(numbers), len(weights)), weights.dtype)
    losses = np.empty(len(numbers))
    for i, number in enumerate(numbers):
        updates[i], losses[i] = clients.work(number).train(round, weights)
    return updates, losses
