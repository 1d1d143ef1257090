"""What single clients sent, kept so that it can be looked into."""

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from skpoison.utils._validation import check_number


def check_record_updates(record_updates):
    """Raise unless it is None, a number of rounds or a list of rounds."""
    if record_updates is None:
        return
    if isinstance(record_updates, numbers.Number | str):
        check_number("record_updates", record_updates, low=1, integer=True)
        return
    for round in record_updates:
        check_number("record_updates", round, low=0, integer=True)


@dataclass
class RecordedRound:
    """One round as the server saw it, and what it takes to repeat it.

    Parameters
    ----------
    weights : ndarray of shape (n_weights,)
        Before the round.
    updates : ndarray of shape (n, n_weights)
        As the server received them.
    names : list
        What the caller calls the clients, in the order of `updates`; injected ones,
        which come last, have no name.
    sizes : list of int
        Rows in each client's batches.
    n_rows : list of int
        Rows of each client's round: once where all are in each batch.
    rows : list of ndarray of int or None
        Those rows of X, batch by batch; None where an attacker sent the update.
    local_steps : int
    local_lr : float
    """

    weights: np.ndarray
    updates: np.ndarray
    names: list
    sizes: list
    n_rows: list
    rows: list
    local_steps: int
    local_lr: float


@dataclass(frozen=True)
class ObservedUpdate:
    """What the server saw of one client in one round.

    Attributes
    ----------
    module : torch.nn.Module
        With the weights before the round, in evaluation mode.
    update : dict of str to torch.Tensor
        What the client sent, by parameter name.
    kind : "weights"
        Weights after training less those before.
    n_samples : int
        Rows in the client's batches.
    shape : tuple of int
        Of one row, as the module takes it.
    local_steps : int
    local_lr : float
    local_batch_size : int
    batch_norm : {"eval", "train"}
        Whether the client normalised by running statistics or its batches'.
    sample_indices : ndarray of int of shape (n_samples,) or None
        Those rows of X, in order; None where an attacker sent the update.
    """

    # no Bunch: a dict has an `update` of its own
    module: Any
    update: dict
    kind: str
    n_samples: int
    shape: tuple
    local_steps: int
    local_lr: float
    local_batch_size: int
    batch_norm: str
    sample_indices: Any


@dataclass
class Recorder:
    """Notes what clients send.

    Parameters
    ----------
    rounds : None, int or list of int
        Every so many rounds from the first on, or those rounds.
    clients : Clients
    cast : Cast
    is_attacked : bool
        Whether what Byzantine clients send is not what they trained.
    """

    rounds: Any
    clients: Any
    cast: Any
    is_attacked: bool

    def wants(self, round):
        """Return whether a round is to be noted."""
        if isinstance(self.rounds, numbers.Integral):
            return round % self.rounds == 0
        return self.rounds is not None and round in self.rounds

    def note(self, round, weights, numbers, updates):
        """Return a round of the clients with these numbers."""
        cast, plan = self.cast, self.clients.plan
        sizes, n_rows, rows = [], [], []
        n_owned = self.clients.sizes[numbers].tolist()
        for i, n_own in zip(numbers.tolist(), n_owned, strict=True):
            sizes.append(plan.size(n_own))
            batches = plan.rows(i, n_own, round)
            if sizes[-1] == n_own:  # all of them in each step
                batches = batches[:1]
            found = np.concatenate(batches)
            n_rows.append(len(found))
            forged = self.is_attacked and i in cast.byzantine
            rows.append(None if forged else cast.indices[i][found])
        return RecordedRound(
            weights=weights,
            updates=updates,
            names=cast.ids[numbers[numbers < len(cast.ids)]].tolist(),
            sizes=sizes,
            n_rows=n_rows,
            rows=rows,
            local_steps=plan.n_steps,
            local_lr=self.clients.lr,
        )


def observed(state, round, client, sample_shape):
    """Return the update of a client in a round; see `FederatedModel`."""
    from skpoison.inversion import load_update

    if round not in state.recorded:
        kept = sorted(state.recorded)
        raise ValueError(
            f"round {round!r} was not recorded: "
            + (f"those kept are {kept}" if kept else "set record_updates before fit")
        )
    seen, learner = state.recorded[round], state.learner
    if client not in seen.names:
        raise ValueError(
            f"client {client!r} took no part in round {round}: those that did are "
            f"{seen.names}"
        )
    place = seen.names.index(client)
    module = learner.fitted(seen.weights)
    n_trained = learner.n_weights - learner.n_buffers
    size = seen.sizes[place]
    return ObservedUpdate(
        module=module,
        update=load_update(seen.updates[place, :n_trained], module),
        kind="weights",
        n_samples=seen.n_rows[place],
        shape=getattr(learner, "sample_shape", sample_shape),
        local_steps=seen.local_steps,
        local_lr=seen.local_lr,
        local_batch_size=size,
        batch_norm="train" if learner.n_buffers and size > 1 else "eval",
        sample_indices=seen.rows[place],
    )
