"""A server for Flower that expects some of its clients to lie, and some to vanish."""

import math
import time
from typing import Any

import numpy as np
from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import FedAvg
from sklearn.base import clone

from skpoison.federated._aggregators._checks import n_faulty
from skpoison.federated._aggregators._server_rule import ServerRule
from skpoison.federated._attacks._base import BaseUpdateAttack, RoundContext
from skpoison.federated._clients import stream
from skpoison.federated._rejection import METHODS, Rejection
from skpoison.federated.flower._mod import attacks_data
from skpoison.federated.flower._records import (
    LOG,
    REPLIES_KEY,
    Layout,
    client_of,
    first_replies,
    median_metrics,
    stack_updates,
)
from skpoison.utils import draw_seed
from skpoison.utils._validation import check_number, check_option

_POLL_SECONDS = 0.5


class RoundFailedError(AggregationError, ValueError):
    """A round that can't be aggregated; Flower marks the run as failed."""


class RobustStrategy(FedAvg):
    """Flower strategy with a robust rule, and with omniscient attackers on trial.

    Parameters
    ----------
    aggregator : aggregator, Pipeline, callable or None, default=None
        The rule; None is :class:`~skpoison.federated.Mean`. Its ``n_byzantine`` is
        filled in where it is None.
    n_byzantine : int or float, default=0
        Byzantine clients that the rule must stand: a number, or a share of the nodes
        connected in the first round. In a round with part of the nodes it is scaled,
        rounded up; when nodes vanish it stays.
    attack : BaseUpdateAttack, default=None
        An attack that sees what all clients send. It is simulated here, at the server:
        no client learns another's update. For attacks that need a client's own data or
        update alone see also :func:`byzantine_mod`.
    byzantine : "random" or array-like of int, default="random"
        Numbers of the clients that `attack` controls; "random" draws `n_byzantine` of
        those that reply in the first round.
    rejection : {"err", "lfr", "union"} or Rejection, default=None
        Clients to leave out before aggregating; needs `evaluate`.
    evaluate : callable, default=None
        ``evaluate(weights) -> (error_rates, losses)`` on data that the server trusts,
        for flat weights of shape (k, n_weights).
    root_update : callable, default=None
        ``root_update(server_round, weights) -> update`` from data that the server
        trusts, of shape (n_weights,), for rules such as
        :class:`~skpoison.federated.FLTrust`.
    server_lr : float, default=1.0
        Factor on the aggregated update.
    replies : {"weights", "updates"}, default="weights"
        What clients send: their new weights, Flower's custom, or what they changed,
        which keeps digits that weights of 32 bits lose. Clients read it in the key
        "replies" of their config.
    client_key : str, default="client"
        Key of the replies' metrics that holds the client's number. Rows are sorted by
        it, so that results do not depend on who answers first; by the node's where it
        is missing. Rules that know clients by their row, such as
        :class:`~skpoison.federated.FoolsGold`, have rows sorted by node, and need the
        same nodes each round.
    round_timeout : float, default=60.0
        Seconds to wait for the replies of a round, and for nodes to connect.
    random_state : int, RandomState, Generator or None, default=None
        Seeds the attack and the choice of nodes.
    **options
        Parameters of :class:`flwr.serverapp.strategy.FedAvg`, such as
        `fraction_train`, `min_train_nodes` and `min_available_nodes`, with Flower's
        defaults. `weighted_by_key` is without effect, and metrics are aggregated by
        the median of each number that most clients report.

    Raises
    ------
    RoundFailedError
        During a run, where the replies of a round do not satisfy the condition of the
        rule: a ValueError naming the rule, n and f, and Flower's AggregationError.

    Notes
    -----
    Each node counts once in a round, with its first reply. A reply of another round,
    from a node that was not asked, or with an error counts as missing: the rule goes
    on with the others as long as its condition holds for n replies with f unchanged.
    A reply without the model's arrays, or with NaN or infinity, is a row that the rule
    counts among the f faulty ones.

    The strategy waits for `min_available_nodes` before the first round alone, and
    never longer than `round_timeout`: Flower's own would wait for ever for a node
    that has died.

    Examples
    --------
    >>> from flwr.serverapp import ServerApp
    >>> from skpoison.federated import Krum
    >>> from skpoison.federated.flower import RobustStrategy
    >>> app = ServerApp()
    >>> @app.main()
    ... def main(grid, context):
    ...     strategy = RobustStrategy(Krum(), n_byzantine=2, min_available_nodes=10)
    ...     strategy.start(grid, initial_arrays=..., num_rounds=50)
    """

    def __init__(
        self,
        aggregator=None,
        *,
        n_byzantine=0,
        attack=None,
        byzantine="random",
        rejection=None,
        evaluate=None,
        root_update=None,
        server_lr=1.0,
        replies="weights",
        client_key="client",
        round_timeout=60.0,
        random_state=None,
        **options,
    ):
        options.setdefault("train_metrics_aggr_fn", median_metrics)
        options.setdefault("evaluate_metrics_aggr_fn", median_metrics)
        super().__init__(**options)
        self.aggregator = aggregator
        self.n_byzantine = n_byzantine
        self.attack = attack
        self.byzantine = byzantine
        self.rejection = rejection
        self.evaluate = evaluate
        self.root_update = root_update
        self.server_lr = server_lr
        self.replies = replies
        self.client_key = client_key
        self.round_timeout = round_timeout
        self.random_state = random_state
        self._check_params()
        self._begin()

    def _check_params(self):
        n_faulty(self.n_byzantine, 1)
        check_number("server_lr", self.server_lr, low=0.0, strict=True)
        check_number("round_timeout", self.round_timeout, low=0.0, strict=True)
        check_option("replies", self.replies, ("weights", "updates"))
        if self.attack is not None:
            self._check_attack()
        if self.rejection is not None and self.evaluate is None:
            raise ValueError("rejection needs evaluate, got evaluate=None")
        if isinstance(self.rejection, str):
            check_option("rejection", self.rejection, METHODS)
        elif self.rejection is not None and not hasattr(self.rejection, "keep"):
            raise TypeError(f"rejection must be a Rejection, got {self.rejection!r}")

    def _check_attack(self):
        if not isinstance(self.attack, BaseUpdateAttack):
            raise TypeError(f"attack must be an update attack, got {self.attack!r}")
        if attacks_data(self.attack):
            raise ValueError(
                f"{type(self.attack).__name__} attacks the clients' data, which the "
                "server does not have: give it to byzantine_mod"
            )
        if isinstance(self.byzantine, str):
            check_option("byzantine", self.byzantine, ("random",))
            if self.fraction_train < 1:
                raise ValueError(
                    "byzantine='random' needs fraction_train=1: the clients of the "
                    "first round are not all; give their numbers"
                )

    def _begin(self):
        """Forget earlier runs."""
        self._rule = ServerRule(self.aggregator)
        if self._rule.needs_root_update and self.root_update is None:
            raise ValueError(
                f"{rule_name(self._rule)} needs root_update, got root_update=None"
            )
        self._attack = None if self.attack is None else clone(self.attack)
        self._rejection = self.rejection
        if isinstance(self.rejection, str):
            self._rejection = Rejection(self.rejection)
        self._seed = draw_seed(self.random_state)
        self._history = {}
        self._n_byzantine: Any = None
        self._byzantine = None
        self._asked = set()
        self._nodes = None

    def start(
        self,
        grid,
        initial_arrays,
        num_rounds=3,
        timeout=None,
        train_config=None,
        evaluate_config=None,
        evaluate_fn=None,
    ):
        """Run all rounds; see :meth:`flwr.serverapp.strategy.Strategy.start`.

        Parameters
        ----------
        grid : Grid
        initial_arrays : ArrayRecord
        num_rounds : int, default=3
        timeout : float, default=None
            Seconds a round; None is `round_timeout`.
        train_config, evaluate_config : ConfigRecord, default=None
        evaluate_fn : callable, default=None

        Returns
        -------
        result : flwr.serverapp.strategy.Result
        """
        self._begin()
        return super().start(
            grid,
            initial_arrays,
            num_rounds,
            self.round_timeout if timeout is None else timeout,
            train_config,
            evaluate_config,
            evaluate_fn,
        )

    def summary(self):
        """Log the settings."""
        LOG.info("\t├──> Rule: %s", self._rule.rule)
        LOG.info("\t├──> Byzantine clients: %s", self.n_byzantine)
        LOG.info("\t├──> Attack, simulated: %s", self._attack)
        super().summary()

    # The round out

    def configure_train(self, server_round, arrays, config, grid):
        """Keep what is sent and choose who gets it."""
        if self.fraction_train == 0.0:
            return []
        self._layout = Layout(arrays)
        self._weights = self._layout.flatten(arrays)
        nodes = self._connected(grid, max(self.min_train_nodes, 1))
        n_nodes = len(nodes)
        if self._n_byzantine is None:
            self._n_byzantine = n_faulty(self.n_byzantine, n_nodes)
        nodes = self._choose(
            nodes, self.fraction_train, self.min_train_nodes, "train", server_round
        )
        share = len(nodes) / n_nodes if n_nodes else 1.0
        # rounded first: 0.2 * 15 is 3.0000000000000004
        self._f = math.ceil(round(self._n_byzantine * share, 9))
        self._require(server_round, len(nodes), f"{len(nodes)} nodes are connected")
        self._asked = set(nodes)
        config[REPLIES_KEY] = self.replies
        return self._messages(server_round, arrays, config, nodes, MessageType.TRAIN)

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Choose who evaluates."""
        if self.fraction_evaluate == 0.0:
            return []
        nodes = self._choose(
            sorted(grid.get_node_ids()),
            self.fraction_evaluate,
            self.min_evaluate_nodes,
            "evaluate",
            server_round,
        )
        return self._messages(server_round, arrays, config, nodes, MessageType.EVALUATE)

    def _messages(self, server_round, arrays, config, nodes, kind):
        config["server-round"] = server_round
        content = RecordDict(
            {self.arrayrecord_key: arrays, self.configrecord_key: config}
        )
        return [
            Message(content, node, kind, group_id=str(server_round)) for node in nodes
        ]

    def _connected(self, grid, at_least):
        """Return the nodes there, once they are enough or the time is up."""
        if self._n_byzantine is None:
            at_least = max(at_least, self.min_available_nodes)
        else:  # who was there once and is gone may stay so
            at_least = 1
        deadline = time.monotonic() + self.round_timeout
        while True:
            nodes = sorted(grid.get_node_ids())
            enough = len(nodes) >= at_least and self._holds(len(nodes))
            if enough or time.monotonic() >= deadline:
                return nodes
            LOG.info("%d nodes are connected, waiting for more", len(nodes))
            time.sleep(min(_POLL_SECONDS, self.round_timeout))

    def _choose(self, nodes, fraction, at_least, purpose, server_round):
        # 0.29 * 100 is 28.999999999999996
        n_chosen = max(math.floor(round(len(nodes) * fraction, 9)), at_least)
        if n_chosen >= len(nodes):
            return nodes
        rng = stream(self._seed, purpose, server_round)
        return [nodes[i] for i in np.sort(rng.permutation(len(nodes))[:n_chosen])]

    # The round in

    def aggregate_train(self, server_round, replies):
        """Return new arrays by the rule, and medians of what the clients report."""
        if self.fraction_train == 0.0:
            return None, None
        answers, _ = self._check_and_log_replies(
            list(replies), is_train=True, validate=False
        )
        key = self.client_key
        if self._rule.knows_clients_by_row:
            key = None  # a client's word on its number could move all other rows
        answers = first_replies(answers, self._asked, server_round, key)
        n_asked = len(self._asked)
        self._require(
            server_round, len(answers), f"{len(answers)} of {n_asked} clients replied"
        )
        self._require_known(server_round, answers)
        clients = np.array(
            [client_of(m, self.client_key) for m in answers], dtype=object
        )
        sent = self._weights if self.replies == "weights" else None
        updates, n_malformed = stack_updates(answers, self._layout, sent)
        updates = self._attacked(server_round, clients, updates)
        try:
            location, selected = self._aggregate(server_round, updates)
            weights = self._moved(location)
        except ValueError as error:
            raise RoundFailedError(f"round {server_round}: {error}") from error
        metrics = self._metrics(answers) | {
            "n-replies": len(answers),
            "n-missing": n_asked - len(answers),
            "n-malformed": n_malformed,
        }
        if self._byzantine is not None and selected is not None:
            liars = [client in self._byzantine for client in clients[selected]]
            metrics["n-byzantine-selected"] = sum(liars)
        return self._layout.record(weights), MetricRecord(metrics)

    def aggregate_evaluate(self, server_round, replies):
        """Return the median of what the clients report."""
        answers, _ = self._check_and_log_replies(
            list(replies), is_train=False, validate=False
        )
        if not answers:
            return None
        contents = [message.content for message in answers]
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key)

    def _attacked(self, server_round, clients, updates):
        if self._attack is None:
            return updates
        if self._byzantine is None:
            self._byzantine = self._draw_byzantine(clients)
        return self._attack.poison_round(
            RoundContext(
                updates,
                np.flatnonzero([client in self._byzantine for client in clients]),
                weights=self._weights,
                round=server_round - 1,
                aggregator=self._rule.rule,
                rng=stream(self._seed, "attack", server_round - 1),
                history=self._history,
                server_lr=self.server_lr,
            )
        )

    def _draw_byzantine(self, clients):
        if not isinstance(self.byzantine, str):
            return {int(client) for client in self.byzantine}
        numbers = sorted(set(clients))
        n = min(self._n_byzantine, len(numbers))
        rng = stream(self._seed, "byzantine")
        return {numbers[i] for i in rng.choice(len(numbers), n, replace=False)}

    def _aggregate(self, server_round, updates):
        root = None
        if self._rule.needs_root_update:
            root = np.asarray(self.root_update(server_round, self._weights))
            root = root.astype(self._layout.dtype, copy=False)
        f = self._f
        kept = np.arange(len(updates))
        if self._rejection is not None:
            kept = self._rejection.keep(
                updates,
                self._rule,
                f,
                self._evaluate_updates,
                rng=stream(self._seed, "ties", server_round - 1),
                root_update=root,
            )
            f = self._rejection.n_byzantine_after_(f, len(kept), len(updates))
            updates = updates[kept]
        location = self._rule(updates, f, root_update=root)
        selected = self._rule.selected_
        return location, None if selected is None else kept[selected]

    def _moved(self, location):
        with np.errstate(over="ignore", invalid="ignore"):
            weights = self._weights + self._layout.dtype.type(self.server_lr) * (
                np.asarray(location).astype(self._layout.dtype, copy=False)
            )
        if not np.isfinite(weights).all():
            raise ValueError("the aggregated update is not finite")
        return weights

    def _evaluate_updates(self, candidates):
        return self.evaluate(self._weights + self.server_lr * candidates)

    def _metrics(self, answers):
        contents = [message.content for message in answers]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return {k: v for k, v in metrics.items() if k != self.client_key}

    # The rule's condition

    def _holds(self, n):
        f = self._n_byzantine
        try:
            self._rule.check(n, n_faulty(self.n_byzantine, n) if f is None else f)
        except ValueError:
            return False
        return True

    def _require_known(self, server_round, answers):
        if not self._rule.knows_clients_by_row:
            return
        nodes = [message.metadata.src_node_id for message in answers]
        if self._nodes is None:
            self._nodes = nodes
        if nodes != self._nodes:
            raise RoundFailedError(
                f"round {server_round}: {rule_name(self._rule)} knows clients by their "
                f"row and needs the {len(self._nodes)} nodes of the first round, got "
                f"replies of {len(nodes)}, of them "
                f"{len(set(nodes) & set(self._nodes))} the same"
            )

    def _require(self, server_round, n, what):
        try:
            if n == 0:
                raise ValueError(
                    f"{rule_name(self._rule)} needs replies: n=0, f={self._f}"
                )
            self._rule.check(n, self._f)
        except ValueError as error:
            raise RoundFailedError(f"round {server_round}: {what}; {error}") from error


def rule_name(server_rule):
    """Return how messages call a server's rule."""
    rule = server_rule.rule
    return getattr(rule, "__name__", type(rule).__name__)
