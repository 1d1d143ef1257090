"""A training on disk, so that a killed `fit` goes on where it was."""

import json
import os
import time

import numpy as np
from sklearn.base import clone

from skpoison.attacks._store import Store
from skpoison.federated._recorded import RecordedRound

_SECONDS_BETWEEN_SAVES = 20.0
_KEY = "federation"
#: What tells how a training is run or watched, not what comes of it.
_NOT_KEPT = {"checkpoint": None, "verbose": 0, "n_jobs": None, "callbacks": None}
_STATE = ["round", "weights", "attack_history", "records", "snapshots"]
_STATE += ["best_error", "best_weights"]
_RULE = ("_round", "selected_", "n_nonfinite_")


def check_checkpoint(estimator):
    """Raise unless a FederatedClassifier's training can be told from another one."""
    if estimator.checkpoint is None:
        return
    if not isinstance(estimator.checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be a folder, got {estimator.checkpoint!r}")
    if estimator.random_state is None:
        raise ValueError(
            "checkpoint needs a random_state: without one no two calls are the same"
        )


def open_store(estimator, state, data):
    """Return the store of one training, an empty one without a folder.

    Parameters
    ----------
    estimator : FederatedClassifier
    state : ServerState
    data : object
        What is trained on.
    """
    if estimator.checkpoint is None:
        return Store(None, None)
    same = clone(estimator).set_params(**_NOT_KEPT, random_state=None)
    return Store(estimator.checkpoint, (same, state.seed, data), "training")


class SavedTraining:
    """The state of one training in a store.

    Parameters
    ----------
    state : ServerState
        Brought to where the store's is.
    store : Store

    Attributes
    ----------
    n_done : int
        Rounds that came from the store.
    is_over : bool
        Whether a callback ended the training.
    """

    def __init__(self, state, store):
        self.state, self.store = state, store
        self.n_done, self.is_over = 0, False
        kept = store.get(_KEY)
        if kept is not None:
            self._restore(kept)
        self._saved_at = time.monotonic()

    def save(self, *, now):
        """Keep the state if the last time is long ago.

        Parameters
        ----------
        now : bool
            Whether to do so in any case.
        """
        late = time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES
        if not self.store.keeps or not (now or late):
            return
        state = self.state
        arrays: list = []
        recorded = {i: vars(seen) for i, seen in state.recorded.items()}
        tree = {
            "is_over": self.is_over,
            "state": _encoded({n: getattr(state, n) for n in _STATE}, arrays, "state"),
            "recorded": _encoded(recorded, arrays, "recorded"),
            "parts": [
                _encoded(memory, arrays, type(part).__name__)
                for part, memory in _memories(state)
            ],
        }
        named = {f"array-{i}": array for i, array in enumerate(arrays)}
        text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
        self.store.put(_KEY, tree=text, **named)
        self._saved_at = time.monotonic()

    def _restore(self, kept):
        state, tree = self.state, json.loads(kept["tree"].tobytes())
        vars(state).update(_decoded(tree["state"], kept))
        recorded = _decoded(tree["recorded"], kept).items()
        state.recorded = {i: RecordedRound(**seen) for i, seen in recorded}
        memories = zip(_memories(state), tree["parts"], strict=True)
        for (part, _), memory in memories:
            vars(part).update(_decoded(memory, kept))
        self.n_done, self.is_over = state.round, tree["is_over"]


def _memories(state):
    """Return what may remember earlier rounds, and all but its parameters."""
    parts = []
    for part in (state.rule.rule, state.attack, state.rejection):
        params = part.get_params() if hasattr(part, "get_params") else {}
        inner = [value for value in params.values() if hasattr(value, "get_params")]
        parts += [p for p in (part, *inner) if hasattr(p, "__dict__")]
    memories = [(state.rule, {name: getattr(state.rule, name) for name in _RULE})]
    for part in parts:
        params = part.get_params(deep=False) if hasattr(part, "get_params") else {}
        own = {name: v for name, v in vars(part).items() if name not in params}
        memories.append((part, own))
    return memories


def _encoded(value, arrays, where):
    """Return a value as JSON holds it, its arrays in a list of their own."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1, "scalar": isinstance(value, np.generic)}
    if isinstance(value, list | tuple):
        parts = [_encoded(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]
        return {type(value).__name__: parts}
    if isinstance(value, dict):
        pairs = [
            [_encoded(k, arrays, where), _encoded(v, arrays, f"{where}[{k!r}]")]
            for k, v in value.items()
        ]
        return {"dict": pairs}
    raise TypeError(
        f"checkpoint keeps numbers, texts, arrays, lists and dicts, but {where} is "
        f"of type {type(value).__name__}"
    )


def _decoded(tree, arrays):
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        array = arrays[f"array-{tree['array']}"]
        return array[()] if tree["scalar"] else array
    ((kind, parts),) = tree.items()
    if kind == "dict":
        return {_decoded(k, arrays): _decoded(v, arrays) for k, v in parts}
    decoded = [_decoded(part, arrays) for part in parts]
    return tuple(decoded) if kind == "tuple" else decoded
