"""From the parameters of an estimator to clients, the attacker's among them."""

import math
import numbers
import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.base import clone

from skpoison.federated._aggregators._checks import n_faulty
from skpoison.federated._aggregators._server_rule import ServerRule
from skpoison.federated._clients import BatchPlan, Clients, stream
from skpoison.federated._engines import ENGINES
from skpoison.federated._learners import make_learner
from skpoison.federated._partition import METHODS, clients_of_ids, partition_clients
from skpoison.federated._recorded import check_record_updates
from skpoison.federated._rounds import ServerState
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._validation import check_number, check_option

REJECTIONS = ("err", "lfr", "union")
N_CLIENTS = 100  # where neither `n_clients` nor `client_id` says


def check_parameters(estimator):
    """Raise on a bad parameter of a FederatedClassifier, before any work."""
    p = estimator
    for name in ("n_rounds", "local_steps"):
        low = 0 if name == "n_rounds" else 1
        check_number(name, getattr(p, name), low=low, integer=True)
    for name in ("n_clients", "batch_size", "chunk_clients", "snapshot_every"):
        if getattr(p, name) is not None:
            check_number(name, getattr(p, name), low=1, integer=True)
    for name in ("lr", "server_lr"):
        check_number(name, getattr(p, name), low=0.0, strict=True)
    check_number("bias", p.bias, low=0.0, high=1.0)
    share = p.clients_per_round
    if isinstance(share, numbers.Integral):
        check_number("clients_per_round", share, low=1, integer=True)
    else:
        check_number("clients_per_round", share, low=0.0, high=1.0, strict=True)
    if not callable(p.partition):
        check_option("partition", p.partition, METHODS)
    check_option("select", p.select, ("last", "best"))
    check_option("engine", p.engine, ENGINES)
    check_option("aggregate_buffers", p.aggregate_buffers, ("rule", "mean", "server"))
    check_option("dtype", p.dtype, ("float32", "float64"))
    if isinstance(p.byzantine, str):
        check_option("byzantine", p.byzantine, ("random",))
    if isinstance(p.rejection, str):
        check_option("rejection", p.rejection, REJECTIONS)
    for name, method in (("attack", "poison_round"), ("rejection", "keep")):
        part = getattr(p, name)
        if part is None or isinstance(part, str) and name == "rejection":
            continue
        if isinstance(part, type) or not hasattr(part, method):
            raise TypeError(
                f"{name} must be None or an object with the method {method}, got "
                f"{part!r}"
            )
    if isinstance(p.aggregator, type):
        raise TypeError(f"aggregator must be an instance, got {p.aggregator!r}")
    if hasattr(p.attack, "_check_params"):
        p.attack._check_params()
    _check_validation(p.validation)
    check_record_updates(p.record_updates)
    for callback in p.callbacks or ():
        if not callable(callback):
            raise TypeError(f"callbacks must hold callables, got {callback!r}")


def _check_validation(validation):
    if validation is None or _is_pair(validation):
        return
    if isinstance(validation, numbers.Integral):
        check_number("validation", validation, low=1, integer=True)
        return
    check_number("validation", validation, low=0.0, strict=True)
    if validation >= 1:
        raise ValueError(f"validation as a share must be below 1, got {validation!r}")


def _is_pair(validation):
    return isinstance(validation, tuple | list) and len(validation) == 2


def new_state(estimator, sample_shape, n_classes):
    """Return the state of a training before its first round."""
    streams = RandomStreams(estimator.random_state)
    rule = ServerRule(estimator.aggregator)
    attack = clone(estimator.attack, safe=False)
    rejection = clone(estimator.rejection, safe=False)
    if isinstance(rejection, str):
        from skpoison.federated._rejection import Rejection

        rejection = Rejection(rejection)
    for part in (rule.rule, attack, rejection):
        if hasattr(part, "get_params"):
            set_random_states(part, streams, only_missing=True)
    learner = make_learner(
        estimator.estimator,
        sample_shape,
        n_classes,
        dtype=np.dtype(estimator.dtype),
        device=estimator.device,
        seed=streams.seed("init"),
    )
    if estimator.record_updates is not None and not hasattr(learner, "fitted"):
        raise TypeError(
            "record_updates needs estimator=None or a torch module: "
            f"{type(estimator.estimator).__name__} takes steps of its own"
        )
    reason = learner.reason_for_loop
    if estimator.engine == "vectorized" and reason:
        warnings.warn(
            f"clients are run in turn, as engine='loop' does: {reason}",
            UserWarning,
            stacklevel=4,
        )
    weights = learner.initial_weights(streams.seed("init"))
    return ServerState(streams.root, learner, weights, rule, attack, rejection)


def hold_out(estimator, state, n_samples, given):
    """Return the rows to train on and those the server keeps, or None.

    Parameters
    ----------
    estimator : FederatedClassifier
    state : ServerState
    n_samples : int
    given : bool
        Whether the server has rows of its own already.
    """
    rows = np.arange(n_samples)
    reasons = {
        "rejection": state.rejection is not None,
        "aggregator": state.rule.needs_root_update,
        "select": estimator.select == "best",
        "aggregate_buffers": estimator.aggregate_buffers == "server"
        and state.learner.n_buffers > 0,
    }
    needed = [name for name, wanted in reasons.items() if wanted]
    if given or not needed:
        return rows, None
    size = estimator.validation
    if size is None:
        name = needed[0]
        raise ValueError(
            f"{name}={getattr(estimator, name)!r} needs rows that the server trusts: "
            "validation is None and no X_val was given"
        )
    if not isinstance(size, numbers.Integral):
        size = max(1, round(size * n_samples))
    if size >= n_samples:
        raise ValueError(
            f"validation={estimator.validation!r} leaves none of n_samples={n_samples} "
            "rows to train on"
        )
    held = stream(state.seed, "validation").permutation(n_samples)[:size]
    return np.setdiff1d(rows, held), np.sort(held)


@dataclass
class Cast:
    """Who holds which rows, and who is Byzantine.

    Parameters
    ----------
    indices : list of ndarray of int
        Rows of each client.
    ids : ndarray
        What the caller calls the clients.
    byzantine : ndarray of int
    n_byzantine : int
        What the server reckons with.
    """

    indices: list
    ids: np.ndarray
    byzantine: np.ndarray
    n_byzantine: int


def cast_clients(estimator, state, y, rows, client_id):
    """Spread rows over clients and choose the Byzantine ones.

    Parameters
    ----------
    estimator : FederatedClassifier
    state : ServerState
    y : ndarray of int of shape (n_samples,)
    rows : ndarray of int
        Those that clients train on.
    client_id : array-like of shape (n_samples,) or None
    """
    n_clients = estimator.n_clients
    if client_id is not None:
        client, ids = clients_of_ids(client_id, len(y))
        if n_clients not in (None, len(ids)):
            raise ValueError(
                f"client_id names {len(ids)} clients, but n_clients={n_clients}: set "
                f"n_clients={len(ids)} or None"
            )
        client = client[rows]
        lost = ids[np.setdiff1d(np.arange(len(ids)), client)].tolist()
        if lost:
            raise ValueError(
                f"all rows of client {lost[0]!r} were held out by "
                f"validation={estimator.validation!r}: pass X_val instead"
            )
        n_clients, f = len(ids), _n_byzantine(estimator, len(ids))
    else:
        client, n_clients, f = _spread(estimator, state, y[rows])
        ids = np.arange(n_clients)
    order = np.argsort(client, kind="stable")
    cuts = np.cumsum(np.bincount(client, minlength=n_clients))[:-1]
    indices = np.split(rows[order], cuts)
    byzantine = _byzantine(estimator, state, ids, f)
    n_injected = 0 if state.attack is None else state.attack.n_injected(f)
    if n_injected:
        source = int(stream(state.seed, "injected").integers(n_clients))
        indices = indices + [indices[source]] * n_injected
        byzantine = np.arange(n_clients, n_clients + n_injected)
    return Cast(indices, ids, byzantine, f)


def _n_byzantine(estimator, n_clients):
    f = n_faulty(estimator.n_byzantine, n_clients)
    if f >= n_clients and f > 0:
        raise ValueError(
            f"n_byzantine must be less than n_clients={n_clients}, got "
            f"{estimator.n_byzantine!r}"
        )
    return f


def _spread(estimator, state, y):
    """Return the client of each row, how many there are, and n_byzantine."""
    n_clients, n_rows = estimator.n_clients, len(y)
    if n_clients is None:
        n_clients = N_CLIENTS
    f = _n_byzantine(estimator, n_clients)
    if n_rows < n_clients:
        warnings.warn(
            f"n_clients={n_clients} is more than the {n_rows} rows to train on: there "
            f"are {n_rows} clients, and n_byzantine shrinks alike",
            UserWarning,
            stacklevel=5,
        )
        f = f * n_rows // n_clients
        n_clients = n_rows
    seed = RandomStreams(state.seed).seed("partition")
    if not callable(estimator.partition):
        client = partition_clients(
            y, n_clients, estimator.partition, bias=estimator.bias, random_state=seed
        )
        return client, n_clients, f
    client = np.asarray(estimator.partition(y, n_clients, random_state=seed))
    good = client.shape == y.shape and client.dtype.kind in "iu"
    if not good or not np.array_equal(np.unique(client), np.arange(n_clients)):
        raise ValueError(
            f"partition must return one of the clients 0 to {n_clients - 1} for each "
            f"of {n_rows} rows, and each of them at least once"
        )
    return client, n_clients, f


def _byzantine(estimator, state, ids, f):
    if isinstance(estimator.byzantine, str):
        rng = stream(state.seed, "byzantine")
        return np.sort(rng.choice(len(ids), f, replace=False))
    wanted = np.unique(np.asarray(estimator.byzantine))
    unknown = np.setdiff1d(wanted, ids).tolist()
    if unknown:
        raise ValueError(
            f"byzantine names {unknown[0]!r}, which is none of the {len(ids)} clients"
        )
    return np.flatnonzero(np.isin(ids, wanted))


def make_clients(estimator, state, X, y, cast):
    """Return the clients, the data of Byzantine ones as the attack leaves it."""
    plan = BatchPlan(
        RandomStreams(state.seed).seed("batches"),
        estimator.batch_size,
        estimator.local_steps,
    )
    shards = _poisoned_shards(state, X, y, cast)
    sizes = [len(rows) for rows in cast.indices]
    if not shards:
        order = np.concatenate(cast.indices)
        X, y = X[order], y[order]
    else:
        parts = [
            shards[i] if i in shards else (X[rows], y[rows])
            for i, rows in enumerate(cast.indices)
        ]
        X, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        sizes = [len(own) for _, own in parts]
    starts = np.cumsum([0, *sizes])
    return Clients(state.learner, X, y, starts, plan, estimator.lr)


def _poisoned_shards(state, X, y, cast):
    """Return the shards of Byzantine clients by number; none without an attack."""
    if state.attack is None or len(cast.byzantine) == 0:
        return {}
    # copies, by indexing: whatever the attack does, honest rows stay as they are
    own = [(X[cast.indices[i]], y[cast.indices[i]]) for i in cast.byzantine]
    n_classes, rng = state.learner.n_classes, stream(state.seed, "poison")
    shards = {}
    poisoned = state.attack.poison_shards(own, n_classes, rng)
    for i, (X_own, y_own) in zip(cast.byzantine, poisoned, strict=True):
        X_own = np.asarray(X_own, dtype=X.dtype)
        y_own = np.asarray(y_own, dtype=np.int64)
        name = type(state.attack).__name__
        if (
            len(X_own) != len(y_own)
            or len(y_own) == 0
            or X_own.shape[1:] != X.shape[1:]
        ):
            raise ValueError(
                f"{name}.poison_shard must return X of shape (n >= 1, "
                f"{str(X.shape[1:])[1:]} and as many labels, got {X_own.shape} and "
                f"{y_own.shape}"
            )
        if y_own.min() < 0 or y_own.max() >= n_classes:
            raise ValueError(
                f"{name}.poison_shard must return labels in 0..{n_classes - 1}, got "
                f"{y_own.min()}..{y_own.max()}"
            )
        shards[int(i)] = X_own, y_own
    return shards


def n_sampled(estimator, n_clients):
    """Return how many clients take part in a round."""
    share = estimator.clients_per_round
    if not isinstance(share, numbers.Integral):
        return max(1, math.floor(share * n_clients + 0.5))
    if share > n_clients:
        raise ValueError(
            f"clients_per_round must be at most n_clients={n_clients}, got {share}"
        )
    return int(share)
