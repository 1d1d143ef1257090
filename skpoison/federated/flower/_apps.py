"""Whole Flower apps from a FederatedClassifier."""

import uuid

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from sklearn.base import clone

from skpoison.federated._aggregators._checks import n_faulty
from skpoison.federated._clients import BatchPlan, ClientWork
from skpoison.federated._rounds import _SERVER
from skpoison.federated._setup import check_parameters, n_sampled
from skpoison.federated.flower._mod import (
    attacks_data,
    client_number,
    poison_here,
    replies_of,
    round_number,
)
from skpoison.federated.flower._records import Layout, only_arrays
from skpoison.federated.flower._strategy import RobustStrategy
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number

# Of this process, by app and client: simulations ship the app with each message, and
# what the app itself holds is lost.
_WORKS: dict[tuple, ClientWork] = {}


def make_client_app(classifier, load_data, *, classes, mods=None):
    """Return the ClientApp of a federated classifier.

    Parameters
    ----------
    classifier : FederatedClassifier
        Not fitted. Its `estimator`, `batch_size`, `lr`, `local_steps`, `dtype`,
        `device` and `random_state` are used.
    load_data : callable
        ``load_data(context) -> X, y``: the client's own rows. In simulations
        ``context.node_config`` has a ``partition-id``, the client's number.
    classes : array-like of shape (n_classes,)
        All labels, also those that this client has no row of.
    mods : list of callables, default=None
        Such as that of :func:`byzantine_mod`.

    Returns
    -------
    app : flwr.clientapp.ClientApp
        Replies hold the client's number, "num-examples" and "train-loss", and new
        weights or their change, as the server asks.

    Notes
    -----
    Batches depend on seed, client and round alone: with the same rows and
    ``random_state``, a client sends bit for bit what it sends in
    :meth:`FederatedClassifier.fit` with ``engine="loop"``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.federated import FederatedClassifier
    >>> from skpoison.federated.flower import make_client_app
    >>> def load_data(context):
    ...     X, y = load_digits(return_X_y=True)
    ...     number = context.node_config["partition-id"]
    ...     return X[number::10] / 16, y[number::10]
    >>> classifier = FederatedClassifier(n_clients=10, n_byzantine=2, random_state=0)
    >>> app = make_client_app(classifier, load_data, classes=range(10))
    """
    check_parameters(classifier)
    classifier = clone(classifier).set_params(attack=None, engine="loop")
    classes = np.unique(np.asarray(list(classes)))
    token = uuid.uuid4().hex
    app = ClientApp(mods=mods)

    @app.train()
    def train(message, context):
        number = client_number(context)
        change = poison_here(number, len(classes))
        key = token, number, change is not None
        if key not in _WORKS:
            X, y = load_data(context)
            _WORKS[key] = _work(classifier, X, y, classes, number, change)
        return _train(_WORKS[key], message)

    return app


def _work(classifier, X, y, classes, number, change):
    member = clone(classifier)
    X, y = member._first_rows(X, y, classes)
    if change is not None:
        X, y = change(X, y)
        X, y = np.asarray(X, member.dtype), np.asarray(y, int)
    state = member._state
    return ClientWork(state.learner, X, y, _plan(member, state), number, member.lr)


def _plan(classifier, state):
    seed = RandomStreams(state.seed).seed("batches")
    return BatchPlan(seed, classifier.batch_size, classifier.local_steps)


def _train(work, message):
    arrays = only_arrays(message.content)
    layout = Layout(arrays)
    weights = layout.flatten(arrays)
    update, loss = work.train(round_number(message), weights)
    sends_weights = replies_of(message) == "weights"
    sent = weights + update if sends_weights else update
    metrics = {
        "client": work.number,
        "num-examples": len(work.y),
        "train-loss": float(loss),
    }
    content = RecordDict(
        {
            "arrays": layout.record(sent, keep_types=sends_weights),
            "metrics": MetricRecord(metrics),
        }
    )
    return Message(content, reply_to=message)


def make_server_app(
    classifier, *, sample_shape, classes, on_end=None, round_timeout=60.0, **options
):
    """Return the ServerApp of a federated classifier.

    Parameters
    ----------
    classifier : FederatedClassifier
        Not fitted. `n_clients` is how many nodes to wait for; rows that the server
        trusts are `validation`, a pair (X, y), where `rejection` or `aggregator` need
        them.
    sample_shape : tuple of int
        Of one row of X, such as ``(64,)``.
    classes : array-like of shape (n_classes,)
    on_end : callable, default=None
        Called with the fitted classifier after the last round: to save or to score it.
    round_timeout : float, default=60.0
        Seconds; see :class:`RobustStrategy`.
    **options
        Further parameters of :class:`RobustStrategy`.

    Returns
    -------
    app : flwr.serverapp.ServerApp

    Examples
    --------
    >>> from skpoison.federated import FederatedClassifier, Krum
    >>> from skpoison.federated.flower import make_server_app
    >>> classifier = FederatedClassifier(
    ...     n_clients=10, n_byzantine=2, aggregator=Krum(), n_rounds=50
    ... )
    >>> app = make_server_app(
    ...     classifier, sample_shape=(64,), classes=range(10), on_end=print
    ... )
    """
    check_parameters(classifier)
    check_number("n_clients", classifier.n_clients, low=1, integer=True)
    _check_deployable(classifier)
    classes = np.unique(np.asarray(list(classes)))
    sample_shape = tuple(sample_shape)
    app = ServerApp()

    @app.main()
    def main(grid, context):
        fitted = clone(classifier).set_params(engine="loop")
        # a row a class, of zeros: there are no data at the server
        fitted._first_rows(np.zeros((len(classes), *sample_shape)), classes, classes)
        state = fitted._state
        strategy = _strategy(fitted, state, round_timeout, options)
        arrays = ArrayRecord({"weights": Array(state.weights)})
        result = strategy.start(grid, arrays, num_rounds=fitted.n_rounds)
        _publish(fitted, state, result)
        if on_end is not None:
            on_end(fitted)

    return app


def _check_deployable(classifier):
    kept = {"select": "last", "aggregate_buffers": "rule"}
    for name, value in kept.items():
        if getattr(classifier, name) != value:
            raise ValueError(
                f"{name} must be {value!r} in a ServerApp, got "
                f"{getattr(classifier, name)!r}"
            )
    attack = classifier.attack
    if attack is not None and attack.n_injected(1):
        raise ValueError(
            f"{type(attack).__name__} adds clients, which a ServerApp can't: start "
            "more nodes, with byzantine_mod"
        )
    if attack is not None and attacks_data(attack):
        raise ValueError(
            f"{type(attack).__name__} attacks the clients' data, which the server "
            "does not have: give it to byzantine_mod"
        )


def _strategy(fitted, state, round_timeout, options):
    n_clients = fitted.n_clients
    fraction = n_sampled(fitted, n_clients) / n_clients
    trusted = _trusted(fitted, state)
    return RobustStrategy(
        state.rule.rule,
        n_byzantine=fitted.n_byzantine,
        attack=state.attack,
        byzantine=fitted.byzantine,
        rejection=state.rejection,
        server_lr=fitted.server_lr,
        replies="updates",
        round_timeout=round_timeout,
        random_state=state.seed,
        **{
            "fraction_train": fraction,
            "fraction_evaluate": 0.0,
            "min_train_nodes": 1,
            "min_available_nodes": n_clients,
        }
        | trusted
        | options,
    )


def _trusted(fitted, state):
    """Return what the strategy computes on the server's own rows."""
    needed = state.rejection is not None or state.rule.needs_root_update
    given = isinstance(fitted.validation, tuple | list)
    if needed and not given:
        raise ValueError(
            "rejection and aggregators with a root update need rows that the server "
            f"trusts: validation must be (X, y), got {fitted.validation!r}"
        )
    if not given:
        return {}
    X, y = fitted._more_rows(*fitted.validation, "y_val")
    work = ClientWork(state.learner, X, y, _plan(fitted, state), _SERVER, fitted.lr)
    return {
        "evaluate": lambda weights: state.learner.evaluate(weights, X, y),
        "root_update": lambda number, weights: work.update(number - 1, weights),
    }


def _publish(fitted, state, result):
    if result.arrays is not None:
        state.weights = result.arrays["weights"].numpy()
    state.round = fitted.n_rounds
    state.records = [
        {name.replace("-", "_"): value for name, value in metrics.items()}
        for _, metrics in sorted(result.train_metrics_clientapp.items())
    ]
    fitted.n_clients_ = fitted.n_clients
    fitted.n_byzantine_ = n_faulty(fitted.n_byzantine, fitted.n_clients)
    fitted._publish()
