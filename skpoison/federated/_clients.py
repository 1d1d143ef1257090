"""Clients: which rows each holds, its batches in each round, and its training."""

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def stream(seed, purpose, *numbers):
    """Return a Generator that depends on its arguments alone.

    Parameters
    ----------
    seed : int
    purpose : str
    *numbers : int
        For example client and round.
    """
    # crc32 and not hash(): str hashes differ between interpreter processes
    key = [seed, zlib.crc32(purpose.encode()), *numbers]
    return np.random.default_rng(np.random.SeedSequence(key))


@dataclass
class BatchPlan:
    """The batches of every client in every round, as a function of the seed.

    In each epoch a client goes through its rows in a new order, cut into batches;
    rows that do not fill a batch wait for another epoch, so that all batches of a
    client have one size. Nothing is remembered: round 7 has the same batches whether
    the client took part in the six rounds before or not, on any machine.

    Parameters
    ----------
    seed : int
    batch_size : int or None
        None is all rows of the client; so is more than it has.
    n_steps : int, default=1
        Batches of a client in a round.
    """

    seed: int
    batch_size: int | None
    n_steps: int = 1
    _orders: dict = field(default_factory=dict, repr=False, compare=False)

    def size(self, n_rows):
        """Return the rows in each batch of a client that has `n_rows`."""
        return n_rows if self.batch_size is None else min(self.batch_size, n_rows)

    def rows(self, client, n_rows, round):
        """Return the batches of a client in a round: arrays of its row numbers.

        Parameters
        ----------
        client : int
        n_rows : int
        round : int
            From 0.

        Returns
        -------
        batches : list of ndarray of int, of length `n_steps`
        """
        size = self.size(n_rows)
        if size == n_rows:
            return [np.arange(n_rows)] * self.n_steps
        n_batches = n_rows // size
        found = []
        for step in range(round * self.n_steps, (round + 1) * self.n_steps):
            epoch, batch = divmod(step, n_batches)
            order = self._order(client, n_rows, epoch)
            found.append(order[batch * size : (batch + 1) * size])
        return found

    def _order(self, client, n_rows, epoch):
        key, order = self._orders.get(client, (None, None))
        if key != (epoch, n_rows):
            order = stream(self.seed, "batches", client, epoch).permutation(n_rows)
            self._orders[client] = (epoch, n_rows), order
        return order

    def __getstate__(self):
        return {**self.__dict__, "_orders": {}}


@dataclass
class ClientWork:
    """What one client needs to train, in plain parts that can be pickled.

    Parameters
    ----------
    learner : Learner
    X : ndarray of shape (n_rows, ...)
        As the learner takes it.
    y : ndarray of int of shape (n_rows,)
        Class numbers 0, 1, ...
    plan : BatchPlan
    number : int
        Of the client: its batches depend on it.
    lr : float
    """

    learner: Any
    X: Any
    y: Any
    plan: BatchPlan
    number: int
    lr: float

    def train(self, round, weights):
        """Train for one round.

        Parameters
        ----------
        round : int
            From 0.
        weights : ndarray of shape (n_weights,)
            The server's.

        Returns
        -------
        update : ndarray of shape (n_weights,)
        loss : float
            Mean loss of the first batch at the server's weights.
        """
        batches = self.plan.rows(self.number, len(self.y), round)
        n_seen = round * len(batches) * self.plan.size(len(self.y))
        return self.learner.train(
            weights,
            [(self.X[rows], self.y[rows]) for rows in batches],
            self.lr,
            seed=(self.plan.seed, self.number, round),
            n_seen=n_seen,
        )

    def update(self, round, weights):
        """Return the update of one round; see `train`."""
        return self.train(round, weights)[0]


@dataclass
class Clients:
    """All clients: their rows lie one client after the other.

    Parameters
    ----------
    learner : Learner
    X : ndarray of shape (n_rows, ...)
    y : ndarray of int of shape (n_rows,)
    starts : ndarray of int of shape (n_clients + 1,)
        Client i holds the rows from ``starts[i]`` up to ``starts[i + 1]``.
    plan : BatchPlan
    lr : float
    """

    learner: Any
    X: Any
    y: Any
    starts: np.ndarray
    plan: BatchPlan
    lr: float

    def __len__(self):
        return len(self.starts) - 1

    @property
    def sizes(self):
        """Rows of each client."""
        return np.diff(self.starts)

    def shard(self, number):
        """Return X and y of a client; views."""
        rows = slice(self.starts[number], self.starts[number + 1])
        return self.X[rows], self.y[rows]

    def work(self, number):
        """Return what one client needs to train."""
        X, y = self.shard(number)
        return ClientWork(self.learner, X, y, self.plan, int(number), self.lr)
