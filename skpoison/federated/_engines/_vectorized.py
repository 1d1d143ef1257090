"""All clients of a round in a few batched operations."""

import numpy as np


class VectorizedEngine:
    """Train clients together, those of similar size in one chunk.

    Parameters
    ----------
    clients : Clients
    chunk_clients : int, default=None
        Clients in a chunk; None is as many as fit a fixed amount of memory.
    """

    def __init__(self, clients, chunk_clients=None):
        self.clients = clients
        self.chunk_clients = chunk_clients
        self.n_rows = clients.sizes
        self.sizes = np.array([clients.plan.size(n) for n in self.n_rows])

    def updates(self, round, weights, numbers):
        """Return updates and losses of some clients; see the package."""
        clients = self.clients
        updates = np.empty((len(numbers), len(weights)), weights.dtype)
        losses = np.empty(len(numbers))
        for chunk in self._chunks(numbers):
            batches = self._batches(round, numbers[chunk])
            together = chunk[-1] - chunk[0] == len(chunk) - 1
            if together:
                out = updates[chunk[0] : chunk[-1] + 1]
            else:
                out = np.empty((len(chunk), len(weights)), weights.dtype)
            seeds = clients.plan.seed, int(numbers[chunk[0]]), round
            losses[chunk] = clients.learner.train_together(
                weights, batches, clients.lr, seeds=seeds, out=out
            )
            if not together:
                updates[chunk] = out
        return updates, losses

    def _chunks(self, numbers):
        """Yield places in `numbers`, each chunk ascending."""
        sizes = self.sizes[numbers]
        order = np.argsort(sizes, kind="stable")
        clients, start = self.clients, 0
        values = int(np.prod(clients.X.shape[1:]))
        while start < len(order):
            size = self.chunk_clients
            if size is None:
                # sizes ascend: the last client says what all are filled up to
                held = clients.learner.values_together(sizes[order[start:]] * values)
                held = held * np.arange(1, len(held) + 1)
                most = clients.learner.most_values
                size = max(1, int(np.searchsorted(held, most, side="right")))
            yield np.sort(order[start : start + size])
            start += size

    def _batches(self, round, numbers):
        clients, sizes = self.clients, self.sizes[numbers]
        longest = sizes.max()
        steps = [clients.plan.rows(int(i), int(self.n_rows[i]), round) for i in numbers]
        share = None
        if (sizes != longest).any():
            inside = np.arange(longest) < sizes[:, np.newaxis]
            share = (inside / sizes[:, np.newaxis]).astype(clients.learner.dtype)
        first = clients.starts[numbers]
        batches = []
        for rows in zip(*steps, strict=True):
            place = np.zeros((len(numbers), longest), int)
            for i, own in enumerate(rows):
                place[i, : len(own)] = own
            place += first[:, np.newaxis]
            batches.append((clients.X[place], clients.y[place], share))
        return batches

    def close(self):
        """Nothing to give back."""
