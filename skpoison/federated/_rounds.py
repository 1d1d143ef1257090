"""The server's side of a training: rounds, and what is recorded of them."""

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skpoison.federated._attacks._base import RoundContext
from skpoison.federated._clients import BatchPlan, ClientWork, stream

# in the place of a client's number, beyond all of them
_SERVER, _ATTACKER = 2**40, 2**41


@dataclass
class ServerState:
    """What is left of a training between two rounds.

    Parameters
    ----------
    seed : int
    learner : Learner
    weights : ndarray of shape (n_weights,)
    rule : ServerRule
    attack : attack or None
    rejection : Rejection or None
    """

    seed: int
    learner: Any
    weights: np.ndarray
    rule: Any
    attack: Any
    rejection: Any
    round: int = 0
    attack_history: dict = field(default_factory=dict)
    records: list = field(default_factory=list)
    recorded: dict = field(default_factory=dict)
    snapshots: list = field(default_factory=list)
    best_error: float = math.inf
    best_weights: Any = None


class NotFiniteError(Exception):
    """The weights of the next round would not be finite."""


@dataclass
class Federation:
    """Clients, a server and an attacker, in the state of one training.

    Parameters
    ----------
    state : ServerState
        Changed by each round.
    clients : Clients
    byzantine : ndarray of int
        Numbers of the Byzantine clients.
    n_byzantine : int
        How many the server reckons with.
    n_sampled : int
        Clients of a round.
    server_lr : float
    aggregate_buffers : {"rule", "mean", "server"}
    validation : (X, y) or None
        The server's own rows.
    track : bool
        Whether the validation error of every round is wanted.
    recorder : Recorder
        Keeps what clients send.
    engine : engine
        Set before the first round.
    """

    state: ServerState
    clients: Any
    byzantine: np.ndarray
    n_byzantine: int
    n_sampled: int
    server_lr: float = 1.0
    aggregate_buffers: str = "rule"
    validation: Any = None
    track: bool = False
    recorder: Any = None
    engine: Any = None

    def __post_init__(self):
        n, f = self.n_sampled, self.n_byzantine
        # of a sample the server knows no more than this share, rounded up
        self.f = math.ceil(round(f * n / len(self.clients), 9))
        self.state.rule.check(n, self.f)
        all_take_part = n == len(self.clients) and self.state.rejection is None
        if self.state.rule.knows_clients_by_row and not all_take_part:
            raise ValueError(
                f"{type(self.state.rule.rule).__name__} needs every client in every "
                "round: clients_per_round=1.0 and no rejection"
            )

    def run_round(self):
        """Do one round; the state moves on only if all of it succeeds.

        Raises
        ------
        NotFiniteError
        """
        state, clock = self.state, _Clock()
        numbers = self._sample()
        byzantine = np.flatnonzero(np.isin(numbers, self.byzantine))
        with clock("time_clients"):
            updates, losses = self.engine.updates(state.round, state.weights, numbers)
        record: dict = {"round": state.round, "n_clients": len(numbers)}
        record["n_byzantine"] = len(byzantine)
        honest = np.ones(len(numbers), bool)
        if state.attack is not None:
            honest[byzantine] = False
            with clock("time_attack"):
                updates = self._poison(updates, numbers, byzantine, record)
        norms = self._norms(updates)
        record["train_loss"] = _mean(losses[honest])
        record["client_norm"] = _mean(norms[honest])
        record["byzantine_norm"] = _mean(norms[byzantine])
        # a copy: rules may work in place
        sent = updates.copy() if self.recorder.wants(state.round) else None
        kept, f = np.arange(len(numbers)), self.f
        root = self._root_update() if state.rule.needs_root_update else None
        if state.rejection is not None:
            with clock("time_rejection"):
                kept, f = self._reject(updates, root)
            record["n_rejected"] = len(numbers) - len(kept)
            updates = updates[kept]
        with clock("time_aggregation"):
            location = self._aggregate(updates, f, root)
        with np.errstate(over="ignore", invalid="ignore"):
            weights = state.weights + state.weights.dtype.type(self.server_lr) * (
                np.asarray(location).astype(state.weights.dtype, copy=False)
            )
        if not np.isfinite(weights).all():
            raise NotFiniteError("the aggregated update is not finite")
        # float64: squares of what float32 holds
        record["update_norm"] = float(np.linalg.norm(np.asarray(location, np.float64)))
        record["n_nonfinite"] = state.rule.n_nonfinite_
        if state.rule.selected_ is not None:
            selected = kept[state.rule.selected_]
            record["n_byzantine_selected"] = int(np.isin(selected, byzantine).sum())
        if self.track:
            self._judge(weights, record)
        if sent is not None:
            state.recorded[state.round] = self.recorder.note(
                state.round, state.weights, numbers, sent
            )
        state.weights = weights
        state.round += 1
        state.records.append({**record, **clock.seconds})

    def _sample(self):
        n = len(self.clients)
        if self.n_sampled == n:
            return np.arange(n)
        rng = stream(self.state.seed, "sample", self.state.round)
        return np.sort(rng.choice(n, self.n_sampled, replace=False))

    def _poison(self, updates, numbers, byzantine, record):
        state = self.state
        # the attacker sees the rule as it is in this round
        state.rule.check(len(numbers), self.f)
        context = RoundContext(
            updates=updates,
            byzantine=byzantine,
            n_clients=len(numbers),
            weights=state.weights,
            round=state.round,
            aggregator=state.rule.rule,
            rng=stream(state.seed, "attack", state.round),
            history=state.attack_history,
            train=self._train,
            shards=[self.clients.shard(numbers[i]) for i in byzantine],
            server_lr=self.server_lr,
        )
        poisoned = state.attack.poison_round(context)
        if poisoned.shape != updates.shape:
            raise ValueError(
                f"{type(state.attack).__name__}.poison_round must return updates of "
                f"shape {updates.shape}, got {poisoned.shape}"
            )
        info = getattr(state.attack, "info_", {})
        record.update({f"attack_{name}": value for name, value in info.items()})
        return poisoned

    def _train(self, X, y, n_steps, batch_size=None, lr=None, extra_loss=None):
        """Train the model of the round on data that the attacker holds."""
        state = self.state
        if batch_size is None:
            batch_size = self.clients.plan.batch_size
        plan = BatchPlan(state.seed, batch_size, n_steps)
        X = np.asarray(X, dtype=state.learner.dtype)
        rows = plan.rows(_ATTACKER + state.round, len(y), 0)
        return state.learner.client_update(
            state.weights,
            [(X[r], y[r]) for r in rows],
            self.clients.lr if lr is None else lr,
            seed=(state.seed, _ATTACKER, state.round),
            extra_loss=extra_loss,
        )

    def _norms(self, updates):
        """Return the length of each row, or stop where too many are not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", updates, updates))
        if not np.isfinite(norms).all():
            n_bad = int((~np.isfinite(updates).all(axis=1)).sum())
            if n_bad > self.f:
                raise NotFiniteError(
                    f"{n_bad} of {len(updates)} updates are not finite, more than "
                    f"n_byzantine={self.f}"
                )
        return norms

    @property
    def _n_apart(self):
        """Number of weights, the last ones, that are not for the rule."""
        return 0 if self.aggregate_buffers == "rule" else self.state.learner.n_buffers

    def _reject(self, updates, root):
        state = self.state
        n_weights = updates.shape[1] - self._n_apart
        kept = state.rejection.keep(
            updates[:, :n_weights],
            state.rule,
            self.f,
            self._evaluate,
            rng=stream(state.seed, "ties", state.round),
            root_update=root,
        )
        kept = np.asarray(kept, dtype=int)
        f = state.rejection.n_byzantine_after_(self.f, len(kept), len(updates))
        return kept, f

    def _evaluate(self, candidates):
        """Return errors and losses on validation rows of updates, one each."""
        step = np.zeros((len(candidates), len(self.state.weights)), candidates.dtype)
        step[:, : candidates.shape[1]] = candidates
        step *= self.server_lr
        step += self.state.weights
        return self.state.learner.evaluate(step, *self.validation)

    def _aggregate(self, updates, f, root):
        state, n_apart = self.state, self._n_apart
        n_weights = updates.shape[1] - n_apart
        location = state.rule(updates[:, :n_weights], f, root_update=root)
        if n_apart == 0:
            return location
        if self.aggregate_buffers == "mean":
            rows = updates[:, n_weights:]
            rows = rows[np.isfinite(rows).all(axis=1)]
            return np.concatenate([location, rows.mean(axis=0)])
        moved = state.weights.copy()
        moved[:n_weights] += self.server_lr * location
        seen = state.learner.client_update(moved, [self.validation], 0.0)
        return np.concatenate([location, seen[n_weights:] / self.server_lr])

    def _root_update(self):
        state, (X, y), plan = self.state, self.validation, self.clients.plan
        work = ClientWork(state.learner, X, y, plan, _SERVER, self.clients.lr)
        update = work.update(state.round, state.weights)
        return update[: len(update) - self._n_apart]

    def _judge(self, weights, record):
        state = self.state
        errors, losses = state.learner.evaluate(weights[np.newaxis], *self.validation)
        record["validation_error"] = float(errors[0])
        record["validation_loss"] = float(losses[0])
        if errors[0] < state.best_error:
            state.best_error, state.best_weights = float(errors[0]), weights


class _Clock:
    """Seconds of the phases of a round, and of all of it."""

    def __init__(self):
        self._start = time.perf_counter()
        self._phases = {}

    @contextlib.contextmanager
    def __call__(self, name):
        start = time.perf_counter()
        yield
        self._phases[name] = time.perf_counter() - start

    @property
    def seconds(self):
        return {**self._phases, "time": time.perf_counter() - self._start}


def _mean(values):
    return float(values.mean()) if len(values) else math.nan


def as_arrays(records):
    """Return a dict of arrays with one entry a record, NaN where it has none."""
    names = dict.fromkeys(name for record in records for name in record)
    return {
        name: np.array([record.get(name, math.nan) for record in records])
        for name in names
    }
