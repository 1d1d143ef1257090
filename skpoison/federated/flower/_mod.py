"""Byzantine clients that lie where they are: a mod for any ClientApp of Flower."""

from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from flwr.app import MessageType
from sklearn.base import clone

from skpoison.federated._attacks._base import BaseUpdateAttack, RoundContext
from skpoison.federated._clients import stream
from skpoison.federated.flower._records import (
    REPLIES_KEY,
    Layout,
    only_arrays,
)
from skpoison.utils import draw_seed

_POISON: ContextVar = ContextVar("poison", default=None)


@dataclass
class _Poison:
    attack: BaseUpdateAttack
    seed: int
    used: bool = False


def byzantine_mod(attack, *, clients=None, random_state=None):
    """Return a mod that makes a Flower client Byzantine.

    Parameters
    ----------
    attack : BaseUpdateAttack
        One that knows no more than its own client: with ``knowledge="partial"``, on
        data, or that looks at its own update alone, such as
        :class:`~skpoison.federated.SignFlipAttack`. Attacks on data need a ClientApp
        of :func:`make_client_app`.
    clients : array-like of int, default=None
        Numbers of the clients that lie, where one ClientApp serves many, as in
        simulations; a client's number is its ``partition-id``, or its node's. None is
        all.
    random_state : int, RandomState, Generator or None, default=None

    Returns
    -------
    mod : callable
        For ``ClientApp(mods=[mod])`` or ``@app.train(mods=[mod])``.

    Notes
    -----
    An attacker here does not know the server's rule: one whose `assumed_aggregator` is
    None takes the mean. What an attack remembers between rounds lives in the client's
    process.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from skpoison.federated import SignFlipAttack
    >>> from skpoison.federated.flower import byzantine_mod
    >>> app = ClientApp(mods=[byzantine_mod(SignFlipAttack(), clients=[0, 3])])
    """
    if not isinstance(attack, BaseUpdateAttack):
        raise TypeError(f"attack must be an update attack, got {attack!r}")
    on_data = attacks_data(attack)
    if not on_data:
        _require_own_update_only(attack)
    attack = clone(attack)
    chosen = None if clients is None else {int(client) for client in clients}
    seed = draw_seed(random_state)
    histories: dict[int, dict] = {}

    def mod(message, context, call_next):
        client = client_number(context)
        trains = message.metadata.message_type.split(".")[0] == MessageType.TRAIN
        if not trains or (chosen is not None and client not in chosen):
            return call_next(message, context)
        if on_data:
            return _with_poisoned_data(attack, seed, message, context, call_next)
        reply = call_next(message, context)
        if reply.has_content():
            number = round_number(message)
            history = histories.setdefault(client, {})
            rng = stream(seed, "attack", client, number)
            _replace_update(attack, message, reply, number, history, rng)
        return reply

    return mod


def attacks_data(attack):
    """Tell whether an attack changes what its clients train on."""
    kind = type(attack)
    return any(
        getattr(kind, name) is not getattr(BaseUpdateAttack, name)
        for name in ("poison_shard", "poison_shards")
    )


def _require_own_update_only(attack):
    params = attack.get_params(deep=False)
    partial = params.get("knowledge", "partial") == "partial"
    if not partial and params.get("source") != "own":
        raise ValueError(
            f"{attack!r} needs the updates of other clients, which a client does not "
            "have: give it to RobustStrategy"
        )


def _with_poisoned_data(attack, seed, message, context, call_next):
    poison = _Poison(attack, seed)
    token = _POISON.set(poison)
    try:
        reply = call_next(message, context)
    finally:
        _POISON.reset(token)
    if not poison.used:
        raise ValueError(
            f"{type(attack).__name__} changes what a client trains on: it needs a "
            "ClientApp of make_client_app"
        )
    return reply


def poison_here(client, n_classes):
    """Return a function that changes a client's data as a mod around the call wants.

    None where there is no such mod.
    """
    poison = _POISON.get()
    if poison is None:
        return None
    poison.used = True

    def change(X, y):
        rng = stream(poison.seed, "poison", client)
        ((X, y),) = poison.attack.poison_shards([(X, y)], n_classes, rng)
        return X, y

    return change


def _replace_update(attack, message, reply, number, history, rng):
    sent = only_arrays(message.content)
    layout = Layout(sent)
    weights = layout.flatten(sent)
    (key,) = reply.content.array_records
    update = layout.flatten(reply.content[key])
    sends_weights = replies_of(message) == "weights"
    if sends_weights:
        update = update - weights
    context = RoundContext(
        update[np.newaxis], [0], weights=weights, round=number, rng=rng, history=history
    )
    (crafted,) = attack.poison_round(context)
    flat = weights + crafted if sends_weights else crafted
    reply.content[key] = layout.record(flat, keep_types=sends_weights)


def client_number(context):
    """Return the number of the client that a Context belongs to."""
    return int(context.node_config.get("partition-id", context.node_id))


def round_number(message):
    """Return the round of a message, counted from 0."""
    return int(config_value(message, "server-round", 1)) - 1


def replies_of(message):
    """Return what the server wants to be sent, "weights" or "updates"."""
    return config_value(message, REPLIES_KEY, "weights")


def config_value(message, key, default):
    """Return a value of the first config of a message that has it."""
    for record in message.content.config_records.values():
        if key in record:
            return record[key]
    return default
