"""Flower: the strategy on hand-made replies, the simulation, real processes."""

import contextlib
import importlib
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from skpoison.federated import (
    ClientLabelFlipAttack,
    FangTrimAttack,
    FaultAttack,
    FederatedClassifier,
    FLTrust,
    FoolsGold,
    GaussianNoiseAttack,
    IPMAttack,
    Krum,
    Mean,
    Median,
    Rejection,
    SignFlipAttack,
    SybilAttack,
    TrimmedMean,
)

pytest.importorskip("flwr")

from flwr.app import (  # noqa: E402
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.serverapp.exception import AggregationError  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from skpoison.federated._clients import BatchPlan, Clients  # noqa: E402
from skpoison.federated._engines._flower import FlowerEngine  # noqa: E402
from skpoison.federated._learners import SoftmaxLearner  # noqa: E402
from skpoison.federated.flower import (  # noqa: E402
    RobustStrategy,
    byzantine_mod,
    make_client_app,
    make_server_app,
)

WEIGHTS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
LINUX = sys.platform == "linux"
BIAS = np.array([0.5, -0.5], np.float32)
FLAT = np.r_[WEIGHTS.ravel(), BIAS]


@pytest.fixture(autouse=True)
def in_a_run():
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = None


def record(flat, names=("w", "b")):
    flat = np.asarray(flat)
    parts = flat[:4].reshape(2, 2), flat[4:]
    return ArrayRecord({n: Array(p) for n, p in zip(names, parts, strict=True)})


def reply(message, arrays, **metrics):
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)


def honest(message, row, client):
    """What a client sends whose update is `row`."""
    return reply(message, record(FLAT + np.float32(row)), client=client)


class FakeGrid(Grid):
    """Nodes that are there, or come and go, by the second look."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.n_looks = 0
        self.answer = None
        self.timeouts = []

    def get_node_ids(self):
        self.n_looks += 1
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def send_and_receive(self, messages, *, timeout=None):
        self.timeouts.append(timeout)
        return [self.answer(message) for message in messages]

    def set_run(self, run):
        raise NotImplementedError

    run = None
    create_message = push_messages = pull_messages = None


def updates_of(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def one_round(strategy, rows, change=None, server_round=1, clients=None):
    """Send to as many nodes as rows, change the replies, aggregate."""
    nodes = [10 * (i + 1) for i in range(len(rows))]
    messages = strategy.configure_train(
        server_round, record(FLAT), ConfigRecord(), FakeGrid(nodes)
    )
    clients = range(len(rows)) if clients is None else clients
    by_node = dict(zip(nodes, zip(rows, clients, strict=True), strict=True))
    replies = [honest(m, *by_node[m.metadata.dst_node_id]) for m in messages]
    if change is not None:
        replies = change(messages, replies)
    arrays, metrics = strategy.aggregate_train(server_round, replies)
    flat = np.concatenate([array.numpy().ravel() for array in arrays.values()])
    return flat, metrics, arrays


def test_weights_move_by_the_rule_of_the_updates():
    rows = updates_of(7)
    flat, metrics, arrays = one_round(
        RobustStrategy(TrimmedMean(), n_byzantine=2, server_lr=0.5), rows
    )
    sent = (FLAT + rows) - FLAT  # what is left of the rows in weights of 32 bits
    expected = FLAT + np.float32(0.5) * np.sort(sent, axis=0)[2:-2].mean(axis=0)
    np.testing.assert_allclose(flat, expected, rtol=1e-6)
    assert list(arrays) == ["w", "b"]
    assert arrays["w"].numpy().shape == (2, 2)
    assert flat.dtype == np.float32
    assert metrics["n-replies"] == 7
    assert metrics["n-missing"] == metrics["n-malformed"] == 0


def test_updates_come_as_sent():
    rows = updates_of(5) * np.float32(1e-8)  # lost in weights of 32 bits

    def change(messages, replies):
        assert messages[0].content["config"]["replies"] == "updates"
        return [
            reply(m, record(row), client=i)
            for i, (m, row) in enumerate(zip(messages, rows, strict=True))
        ]

    strategy = RobustStrategy(Median(), replies="updates", server_lr=1e6)
    flat, *_ = one_round(strategy, rows, change)
    expected = FLAT + np.float32(1e6) * np.median(rows, axis=0)
    np.testing.assert_array_equal(flat, expected)


@pytest.mark.parametrize("numbered", [True, False])
def test_order_of_replies_does_not_matter(numbered):
    rows = updates_of(9)
    seen = []

    def rule(updates):
        seen.append(updates.copy())
        return updates.mean(axis=0)

    def change(messages, replies):
        random.Random(3).shuffle(replies)
        return replies

    # the clients' numbers go against the nodes'
    clients = range(8, -1, -1) if numbered else [0.5] * 9
    one_round(RobustStrategy(rule), rows, clients=clients)
    one_round(RobustStrategy(rule), rows, change, clients=clients)
    np.testing.assert_array_equal(*seen)
    sent = (FLAT + rows) - FLAT
    np.testing.assert_array_equal(seen[0], sent[::-1] if numbered else sent)


def test_a_node_counts_once_with_this_rounds_first_reply():
    rows = updates_of(6)

    def change(messages, replies):
        stranger = Message(messages[0].content, 999, "train", group_id="1")
        late = Message(messages[2].content, 30, "train", group_id="0")
        huge = np.full(6, 1e6)
        return [
            honest(late, huge, 2),
            *replies,
            honest(messages[0], huge, 0),
            honest(messages[1], huge, 77),  # another client's number, the same node
            honest(stranger, huge, 9),
        ]

    flat, metrics, _ = one_round(RobustStrategy(), rows, change)
    np.testing.assert_allclose(flat, FLAT + rows.mean(axis=0), rtol=1e-5)
    assert metrics["n-replies"] == 6


def test_a_stolen_number_does_not_silence_its_owner():
    rows = updates_of(5)
    flat, *_ = one_round(RobustStrategy(), rows, clients=[0, 1, 2, 2, 2])
    np.testing.assert_allclose(flat, FLAT + rows.mean(axis=0), rtol=1e-5)


def malformed():
    def of(function):
        return lambda message: function(message)

    broken = Array(np.zeros((2, 2), np.float32))
    short = Array("float32", (2, 2), "numpy.ndarray", broken.data[:-4])
    text = Array(np.array([["a", "b"], ["c", "d"]]))
    pickled = Array("object", (2, 2), "pickle", b"cos\nsystem\n")
    bias = Array(BIAS)
    return {
        "shape": of(lambda m: reply(m, record(np.zeros(5)), client=0)),
        "names": of(lambda m: reply(m, record(FLAT, ("w", "c")), client=0)),
        "no arrays": of(lambda m: Message(RecordDict(), reply_to=m)),
        "two records": of(
            lambda m: Message(
                RecordDict({"a": record(FLAT), "b": record(FLAT)}), reply_to=m
            )
        ),
        "cut": of(lambda m: reply(m, ArrayRecord({"w": short, "b": bias}))),
        "text": of(lambda m: reply(m, ArrayRecord({"w": text, "b": bias}))),
        "pickle": of(lambda m: reply(m, ArrayRecord({"w": pickled, "b": bias}))),
        "nan": of(lambda m: honest(m, np.full(6, np.nan), 0)),
        "overflow": of(lambda m: reply(m, record(np.full(6, 1e200)), client=0)),
    }


@pytest.mark.parametrize("kind", malformed())
def test_malformed_reply_is_one_of_the_faulty(kind):
    rows = updates_of(7)

    def change(messages, replies):
        return [malformed()[kind](messages[0]), *replies[1:]]

    strategy = RobustStrategy(TrimmedMean(), n_byzantine=2)
    flat, metrics, _ = one_round(strategy, rows, change)
    sent = (FLAT + rows[1:]) - FLAT
    expected = FLAT + np.sort(sent, axis=0)[1:-1].mean(axis=0)
    np.testing.assert_allclose(flat, expected, rtol=1e-6)
    assert metrics["n-replies"] == 7
    with pytest.raises(ValueError, match=r"round 1: TrimmedMean .*1 of n=7 .*f=0"):
        one_round(RobustStrategy(TrimmedMean(), n_byzantine=0), rows, change)


def test_goes_on_while_the_condition_holds_and_stops_then():
    rows = updates_of(9)

    def lose(n):
        def change(messages, replies):
            error = Error(code=3, reason="node unavailable")
            return [Message(error, reply_to=m) for m in messages[:1]] + replies[n:]

        return change

    strategy = RobustStrategy(Krum(), n_byzantine=3)
    *_, full = one_round(strategy, rows)
    flat, metrics, _ = one_round(strategy, rows, lose(0), server_round=2)
    # Krum with f = 3 needs more than 8 rows
    with pytest.raises(AggregationError) as caught:
        one_round(strategy, rows, lose(1), server_round=3)
    assert isinstance(caught.value, ValueError)
    for part in ("round 3", "8 of 9 clients replied", "Krum", "n=8", "f=3"):
        assert part in str(caught.value)
    strategy = RobustStrategy(Krum(), n_byzantine=2)
    flat, metrics, _ = one_round(strategy, rows, lose(2))
    assert metrics["n-missing"] == 2
    winner = Krum(n_byzantine=2).fit((FLAT + rows[2:]) - FLAT).location_
    np.testing.assert_array_equal(flat, FLAT + winner)


def test_no_reply_at_all_is_an_error_for_any_rule():
    with pytest.raises(ValueError, match="0 of 3 clients replied; Mean"):
        one_round(RobustStrategy(), updates_of(3), lambda messages, replies: [])
    rule = RobustStrategy(lambda updates: updates.mean(axis=0))
    with pytest.raises(ValueError, match="<lambda> needs replies: n=0, f=0"):
        one_round(rule, updates_of(3), lambda messages, replies: [])


def test_a_rule_that_gives_nan_stops_the_run():
    rule = RobustStrategy(lambda updates: updates[0] * np.nan)
    with pytest.raises(ValueError, match="round 1: .*not finite"):
        one_round(rule, updates_of(3))


def test_omniscient_attack_at_the_server():
    rows = updates_of(10)
    strategy = RobustStrategy(
        Mean(), n_byzantine=3, attack=IPMAttack(), byzantine=[1, 4, 7], random_state=0
    )
    flat, metrics, _ = one_round(strategy, rows)
    sent = (FLAT + rows) - FLAT
    good = np.delete(sent, [1, 4, 7], axis=0).mean(axis=0)
    expected = (7 * good - 3 * IPMAttack().eps * good) / 10
    np.testing.assert_allclose(flat, FLAT + expected, rtol=1e-5)
    assert metrics["n-byzantine-selected"] == 3
    assert strategy.attack is not None and not hasattr(strategy.attack, "info_")


def test_random_byzantine_clients_stay_the_same():
    seen = []

    def rule(updates):
        seen.append(np.flatnonzero((updates == 0).all(axis=1)))
        return updates.mean(axis=0)

    attack = FaultAttack(kind="zero")
    strategy = RobustStrategy(rule, n_byzantine=0.3, attack=attack, random_state=4)
    for server_round in (1, 2):
        one_round(strategy, updates_of(10, server_round), server_round=server_round)
    assert len(seen[0]) == 3
    np.testing.assert_array_equal(*seen)


def test_attack_sees_the_filled_in_rule_and_seeds_repeat():
    rows = updates_of(11)

    def run(seed):
        strategy = RobustStrategy(
            TrimmedMean(), n_byzantine=3, attack=FangTrimAttack(), random_state=seed
        )
        return one_round(strategy, rows)[0]

    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()


def test_a_liar_can_not_move_the_rows_of_a_rule_that_knows_clients_by_row():
    rounds = updates_of(6), updates_of(6, seed=1)
    strategy, alone = RobustStrategy(FoolsGold(), replies="updates"), FoolsGold()
    for number, (rows, liar) in enumerate(zip(rounds, (5, -1), strict=True), start=1):

        def change(messages, replies, rows=rows, liar=liar):
            numbers = [*range(5), liar]
            return [
                reply(m, record(row), client=client)
                for m, row, client in zip(messages, rows, numbers, strict=True)
            ]

        flat, *_ = one_round(strategy, rows, change, server_round=number)
        np.testing.assert_allclose(flat, FLAT + alone(rows), rtol=1e-5)
    with pytest.raises(ValueError, match="FoolsGold .* the 6 nodes .* got .* of 5"):
        one_round(strategy, rows, lambda messages, replies: replies[1:], 3)


@pytest.mark.parametrize("rejection", ["lfr", Rejection("lfr")])
def test_rejection_of_a_rule_with_a_root_update(rejection):
    rows, root = updates_of(7), np.ones(6, np.float32)
    rows[2] = root * 5

    def evaluate(weights):  # best where nothing moves
        losses = ((weights - FLAT) ** 2).sum(axis=1)
        return losses > 1, losses

    def change(messages, replies):
        rows_of = zip(messages, rows, strict=True)
        return [reply(m, record(row), client=i) for i, (m, row) in enumerate(rows_of)]

    strategy = RobustStrategy(
        FLTrust(),
        n_byzantine=1,
        rejection=rejection,
        evaluate=evaluate,
        root_update=lambda server_round, weights: root,
        replies="updates",
    )
    flat, *_ = one_round(strategy, rows, change)
    without = [FLTrust()(np.delete(rows, i, axis=0), root) for i in range(7)]
    best = without[np.argmin([(update**2).sum() for update in without])]
    np.testing.assert_allclose(flat, FLAT + best, rtol=1e-5)


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    module = importlib.import_module("skpoison.federated.flower._strategy")
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_waits_for_nodes_no_longer_than_the_timeout(clock):
    strategy = RobustStrategy(Krum(), n_byzantine=1, round_timeout=20)
    sent = strategy.configure_train(
        1, record(FLAT), ConfigRecord(), FakeGrid([1], [1, 2], range(7))
    )
    assert len(sent) == 7
    assert clock.now < 2
    strategy = RobustStrategy(Krum(), n_byzantine=1, round_timeout=20)
    with pytest.raises(ValueError, match=r"3 nodes are connected; Krum .*n=3, f=1"):
        strategy.configure_train(1, record(FLAT), ConfigRecord(), FakeGrid([1, 2, 3]))
    assert 20 <= clock.now < 24


def test_min_available_nodes_does_not_hang_when_one_is_gone(clock):
    strategy = RobustStrategy(Median(), min_available_nodes=4, round_timeout=20)
    sent = strategy.configure_train(
        1, record(FLAT), ConfigRecord(), FakeGrid([1, 2], [1, 2, 3, 4])
    )
    assert len(sent) == 4
    before = clock.now
    sent = strategy.configure_train(
        2, record(FLAT), ConfigRecord(), FakeGrid([1, 2, 3])
    )
    assert len(sent) == 3
    assert clock.now == before
    # fewer than asked for from the start: on after the timeout, the rule allows it
    strategy = RobustStrategy(Median(), min_available_nodes=4, round_timeout=20)
    assert (
        len(strategy.configure_train(1, record(FLAT), ConfigRecord(), FakeGrid([1, 2])))
        == 2
    )


def test_a_share_of_the_nodes_is_drawn_from_the_seed():
    def draw(seed, server_round=1, fraction=0.29):
        strategy = RobustStrategy(
            Median(), n_byzantine=10, fraction_train=fraction, random_state=seed
        )
        state = random.getstate()
        sent = strategy.configure_train(
            server_round, record(FLAT), ConfigRecord(), FakeGrid(range(100, 200))
        )
        assert random.getstate() == state  # Flower's own draws from it
        return [m.metadata.dst_node_id for m in sent], strategy

    nodes, strategy = draw(0)
    assert len(set(nodes)) == 29  # int(0.29 * 100) is 28
    assert strategy._f == 3  # 2.9
    assert nodes == draw(0)[0] == sorted(nodes)
    assert nodes != draw(1)[0]
    assert nodes != draw(0, 2)[0]


def test_start_passes_the_round_timeout_and_ends():
    grid = FakeGrid(range(1, 8))
    grid.answer = lambda m: honest(m, np.full(6, m.metadata.dst_node_id), 0)
    strategy = RobustStrategy(
        TrimmedMean(), n_byzantine=1, round_timeout=17, fraction_evaluate=0.0
    )
    result = strategy.start(grid, record(FLAT), num_rounds=2)
    # one for training and an empty one for evaluating in each round
    assert grid.timeouts == [17] * 4
    np.testing.assert_allclose(result.arrays["b"].numpy(), BIAS + 4, rtol=1e-6)
    assert result.train_metrics_clientapp[2]["n-replies"] == 7


def test_metrics_are_medians_that_no_client_can_move():
    rows = updates_of(5)

    def change(messages, replies):
        for i, message in enumerate(replies):
            values = {"client": i, "loss": float(i), "num-examples": 10}
            message.content["metrics"] = MetricRecord(values)
        replies[4].content["metrics"] = MetricRecord(
            {"client": 4, "loss": float("nan"), "num-examples": 10**15, "mine": 1.0}
        )
        return replies

    strategy = RobustStrategy()
    *_, metrics, _ = one_round(strategy, rows, change)
    assert metrics["loss"] == 2.0
    assert metrics["num-examples"] == 10
    assert "mine" not in metrics and "client" not in metrics
    grid = FakeGrid([1, 2, 3])
    sent = strategy.configure_evaluate(1, record(FLAT), ConfigRecord(), grid)
    answers = [
        Message(RecordDict({"m": MetricRecord({"accuracy": value})}), reply_to=m)
        for m, value in zip(sent, (0.9, 0.8, -1e9), strict=True)
    ]
    assert strategy.aggregate_evaluate(1, answers)["accuracy"] == 0.8
    answers[2] = Message(RecordDict(), reply_to=sent[2])
    assert strategy.aggregate_evaluate(1, answers)["accuracy"] == pytest.approx(0.85)
    assert strategy.aggregate_evaluate(1, []) is None


def test_integers_and_doubles_come_back_in_their_types():
    model = {
        "w": np.array([0.1, 0.2]),
        "n": np.array(7, dtype=np.int64),
        "h": np.array([[1.0]], dtype=np.float16),
    }
    arrays = ArrayRecord({name: Array(value) for name, value in model.items()})
    strategy = RobustStrategy()
    sent = strategy.configure_train(1, arrays, ConfigRecord(), FakeGrid([1, 2]))
    moved = [
        {"w": model["w"] + 1e-12, "n": model["n"] + 2, "h": model["h"]},
        {"w": model["w"] + 1e-12, "n": model["n"] + 1, "h": model["h"]},
    ]
    replies = [
        reply(m, ArrayRecord({k: Array(np.asarray(v)) for k, v in values.items()}))
        for m, values in zip(sent, moved, strict=True)
    ]
    new, _ = strategy.aggregate_train(1, replies)
    for name, value in model.items():
        assert new[name].numpy().dtype == value.dtype
        assert new[name].numpy().shape == value.shape
    np.testing.assert_allclose(new["w"].numpy() - model["w"], 1e-12, rtol=1e-3)
    assert new["n"].numpy() == 8  # 1.5 rounds to even


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_byzantine": -1}, "n_byzantine"),
        ({"n_byzantine": 0.5}, "n_byzantine"),
        ({"round_timeout": 0}, "round_timeout"),
        ({"server_lr": float("nan")}, "server_lr"),
        ({"replies": "gradients"}, "replies"),
        ({"rejection": object()}, "evaluate"),
        ({"rejection": object(), "evaluate": print}, "rejection must be"),
        ({"rejection": "best", "evaluate": print}, "rejection must be one of"),
        ({"attack": IPMAttack(), "byzantine": "first"}, "byzantine"),
        ({"attack": IPMAttack(), "fraction_train": 0.5}, "fraction_train"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parameters(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RobustStrategy(**options)


# Whole apps, called as Flower calls them


X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = X_DIGITS / 16
OWNER = np.arange(len(Y_DIGITS)) % 9
NAMES = np.array(list("abcdefghij"))[Y_DIGITS]


def load_data(context):
    own = OWNER == context.node_config["partition-id"]
    return X_DIGITS[own], NAMES[own]


class AppGrid(FakeGrid):
    """Runs a ClientApp for every message; nodes are in no order."""

    def __init__(self, app, n_clients=9):
        self.app = app
        nodes = [(7 * i) % 31 + 100 for i in range(n_clients)]
        self.contexts = {
            node: Context(1, node, {"partition-id": i}, RecordDict(), {})
            for i, node in enumerate(nodes)
        }
        super().__init__(nodes)

    def send_and_receive(self, messages, *, timeout=None):
        return [self.app(m, self.contexts[m.metadata.dst_node_id]) for m in messages]


def deploy(classifier, mods=None, **options):
    """Run both apps of a classifier and return what the server hands out."""
    found = []
    client = make_client_app(classifier, load_data, classes=NAMES, mods=mods)
    server = make_server_app(
        classifier, sample_shape=(64,), classes=NAMES, on_end=found.append, **options
    )
    server(AppGrid(client), Context(1, 0, {}, RecordDict(), {}))
    return found[0]


def federated(**params):
    defaults = {"n_clients": 9, "n_byzantine": 2, "n_rounds": 4}
    defaults |= {"engine": "loop", "random_state": 3}
    return FederatedClassifier(**defaults | params)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"aggregator": TrimmedMean(), "attack": FangTrimAttack(), "dtype": "float64"},
        {"aggregator": Krum(), "attack": SignFlipAttack(), "local_steps": 3},
        {"aggregator": FLTrust(), "validation": (X_DIGITS[:50], NAMES[:50])},
        {
            "aggregator": Median(),
            "attack": IPMAttack(),
            "rejection": "union",
            "validation": (X_DIGITS[:50], NAMES[:50]),
        },
    ],
    ids=["mean", "trimmed-mean", "krum", "fltrust", "rejection"],
)
def test_apps_train_as_the_estimator_does(params):
    fitted = deploy(federated(**params))
    expected = federated(**params).fit(X_DIGITS, NAMES, client_id=OWNER)
    np.testing.assert_array_equal(fitted.weights_, expected.weights_)
    np.testing.assert_array_equal(fitted.predict(X_DIGITS), expected.predict(X_DIGITS))
    assert fitted.n_rounds_ == len(fitted.history_["n_replies"]) == 4


def test_client_app_serves_flowers_own_server():
    app = make_client_app(federated(), load_data, classes=NAMES)
    expected = federated().fit(X_DIGITS, NAMES, client_id=OWNER)
    start = federated(n_rounds=0).fit(X_DIGITS, NAMES, client_id=OWNER).weights_
    arrays = ArrayRecord({"weights": Array(start)})
    strategy = FedAvg(min_available_nodes=9, fraction_evaluate=0.0)
    result = strategy.start(AppGrid(app), arrays, num_rounds=4)
    # 1797 rows in 9 clients: all but three have 200, which weigh the mean
    np.testing.assert_allclose(
        result.arrays["weights"].numpy(), expected.weights_, atol=1e-3
    )
    assert (result.arrays["weights"].numpy() != start).any()


def test_mod_does_to_the_update_what_the_server_would():
    attack = SignFlipAttack(scale=3.0, source="own")
    params = {"aggregator": TrimmedMean(), "byzantine": [2, 6]}
    lying = deploy(federated(**params), mods=[byzantine_mod(attack, clients=[2, 6])])
    expected = deploy(federated(**params, attack=attack))
    np.testing.assert_array_equal(lying.weights_, expected.weights_)
    assert (lying.weights_ != deploy(federated(**params)).weights_).any()


def test_mod_gives_other_data_to_the_client():
    attack = ClientLabelFlipAttack()
    params = {"aggregator": Median(), "n_byzantine": 3, "byzantine": [0, 4, 8]}
    mod = byzantine_mod(attack, clients=[0, 4, 8])
    lying = deploy(federated(**params), mods=[mod])
    expected = federated(**params, attack=attack).fit(X_DIGITS, NAMES, client_id=OWNER)
    np.testing.assert_array_equal(lying.weights_, expected.weights_)


def echo(config=None, sent=FLAT, mods=()):
    """Run a client that sends back weights + 1, or the update 1."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        updates = message.content["config"].get("replies") == "updates"
        return reply(message, record(np.ones(6) if updates else FLAT + 1))

    content = RecordDict({"a": record(sent), "config": ConfigRecord(config or {})})
    message = Message(content, 5, "train")
    answer = app(message, Context(1, 5, {"partition-id": 2}, RecordDict(), {}))
    arrays = answer.content["arrays"]
    return np.concatenate([array.numpy().ravel() for array in arrays.values()])


def test_mod_around_any_client_app():
    mod = byzantine_mod(SignFlipAttack(source="own"))
    np.testing.assert_array_equal(echo(mods=[mod]), FLAT - 1)
    np.testing.assert_array_equal(echo({"replies": "updates"}, mods=[mod]), -np.ones(6))
    other = byzantine_mod(SignFlipAttack(source="own"), clients=[0, 1])
    np.testing.assert_array_equal(echo(mods=[other]), FLAT + 1)


def test_mod_draws_from_seed_client_and_round():
    def draw(seed, number):
        mod = byzantine_mod(GaussianNoiseAttack(), random_state=seed)
        return echo({"server-round": number}, mods=[mod])

    np.testing.assert_array_equal(draw(0, 1), draw(0, 1))
    assert (draw(0, 1) != draw(0, 2)).all()
    assert (draw(0, 1) != draw(1, 1)).all()


@pytest.mark.parametrize(
    "attack", [IPMAttack(), FangTrimAttack(), SignFlipAttack(source="benign")], ids=repr
)
def test_mod_refuses_attacks_that_need_other_clients(attack):
    with pytest.raises(ValueError, match="RobustStrategy"):
        byzantine_mod(attack)


def test_data_attacks_need_a_client_that_has_data():
    with pytest.raises(ValueError, match="byzantine_mod"):
        RobustStrategy(attack=ClientLabelFlipAttack())
    with pytest.raises(ValueError, match="make_client_app"):
        echo(mods=[byzantine_mod(ClientLabelFlipAttack())])


@pytest.mark.parametrize(
    "params",
    [
        {"n_clients": None},
        {"select": "best"},
        {"aggregate_buffers": "mean"},
        {"lr": -1},
        {"attack": ClientLabelFlipAttack()},
        {"attack": SybilAttack()},
    ],
    ids=lambda params: "-".join(params),
)
def test_server_app_refuses_what_it_can_not_do(params):
    name = next(iter(params))
    message = "byzantine_mod" if name == "attack" else name
    with pytest.raises((TypeError, ValueError), match=message):
        make_server_app(federated(**params), sample_shape=(64,), classes=NAMES)


def test_rejection_without_trusted_rows():
    with pytest.raises(ValueError, match="validation"):
        deploy(federated(rejection="err"))


def test_example_app(capsys):
    folder = Path(__file__).parents[2] / "examples" / "federated" / "flower_app"
    app = runpy.run_path(str(folder / "robust_digits.py"))
    app["server"](AppGrid(app["client"], 10), Context(1, 0, {}, RecordDict(), {}))
    error = float(capsys.readouterr().out.rpartition(" ")[2])
    assert error < 0.2


# Real processes


@pytest.fixture(scope="module")
def simulated():
    """One simulation, since it takes seconds to start, with what it can be held to."""
    if find_spec("ray") is None:
        pytest.skip("needs ray")
    environment, at_home = dict(os.environ), set(Path.home().iterdir())
    # workers that other tests have started stay where they are
    before = set(descendants(os.getpid()))
    params = {"aggregator": TrimmedMean(), "attack": FangTrimAttack(), "n_rounds": 5}
    ports = []

    def look(classifier):
        ports.extend(listening(set(descendants(os.getpid())) - before))

    flower = federated(**params, engine="flower", callbacks=[look], verbose=0)
    flower.fit(X_DIGITS, NAMES, client_id=OWNER)
    loop = federated(**params).fit(X_DIGITS, NAMES, client_id=OWNER)
    left = [key for key, value in os.environ.items() if environment.get(key) != value]
    left += set(Path.home().iterdir()) - at_home
    for folder in (tempfile.gettempdir(), "/tmp"):
        left += Path(folder).glob(f"skpoison-{os.getpid()}-*")
    left += set(descendants(os.getpid())) - before
    return SimpleNamespace(flower=flower, loop=loop, ports=ports, left=left)


def descendants(pid):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                child = int(folder.name)
                found += [child, *descendants(child)]
    return found


def listening(processes):
    """Return the addresses, in hexadecimal, that processes listen on."""
    sockets = set()
    for child in processes:
        for link in Path(f"/proc/{child}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(link))
    addresses = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.append(fields[1].rpartition(":")[0])
    return addresses


@pytest.mark.long
def test_simulation_trains_as_the_loop_does(simulated):
    flower, loop = simulated.flower, simulated.loop
    np.testing.assert_array_equal(flower.weights_, loop.weights_)
    for name in ("train_loss", "client_norm", "byzantine_norm"):
        np.testing.assert_array_equal(flower.history_[name], loop.history_[name])
    assert flower.n_rounds_ == 5


def test_simulation_leaves_nothing_behind(simulated):
    assert not simulated.left
    assert "ray" not in sys.modules


@pytest.mark.skipif(not LINUX, reason="reads Linux's /proc")
def test_simulation_listens_on_loopback_only(simulated):
    assert simulated.ports  # Ray's
    loopback = ("0100007F", "0000000000000000FFFF00000100007F")
    assert set(simulated.ports) <= set(loopback)


@pytest.mark.slow
def test_simulation_that_fails_says_so():
    if find_spec("ray") is None:
        pytest.skip("needs ray")
    learner = SoftmaxLearner(64, 10)
    X, y, starts = X_DIGITS[:40].astype("f"), Y_DIGITS[:40], np.array([0, 20, 40])
    clients = Clients(learner, X, y, starts, BatchPlan(0, None), 0.1)
    weights = learner.initial_weights(0)
    with contextlib.closing(FlowerEngine(clients)) as engine:
        folder = engine._folder
        with pytest.raises(RuntimeError, match="(?s)in round 3: .*cannot reshape"):
            engine.updates(3, weights[:7], [0, 1])
        # and goes on
        updates, _ = engine.updates(4, weights, [1])
        np.testing.assert_array_equal(updates[0], clients.work(1).update(4, weights))
        engine._process.kill()
        with pytest.raises(RuntimeError, match="simulation ended in round 5"):
            engine.updates(5, weights, [0, 1])
    assert not folder.exists()


def test_ray_gets_a_short_folder(tmp_path, monkeypatch):
    module = importlib.import_module("skpoison.federated._engines._flower")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = module._short_folder()
    folder.rmdir()
    assert len(str(folder)) <= module._LONGEST_FOLDER
    assert not list(tmp_path.iterdir())


def test_engine_without_flower(monkeypatch):
    module = importlib.import_module("skpoison.federated._engines._flower")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install skpoison\[flower\]"):
        federated(engine="flower").fit(X_DIGITS, NAMES, client_id=OWNER)


def test_import_without_flower():
    code = """
import sys
import skpoison.federated
assert "flwr" not in sys.modules and "ray" not in sys.modules
sys.modules["flwr"] = None
try:
    import skpoison.federated.flower
except ImportError as error:
    assert "pip install skpoison[flower]" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(tmp_path):
    """Start commands of Flower, with a home of their own; killed at the end."""
    started = []
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }

    def start(*command, log):
        with open(tmp_path / log, "wb") as file:
            process = subprocess.Popen(
                [scripts / command[0], *map(str, command[1:])],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        kill(process)


def kill(process):
    # with all that it started; what left the session looks after its parent
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long  # a minute, most of it until the network gives a node up
@pytest.mark.skipif(os.name != "posix", reason="kills process groups")
def test_killed_nodes(start, tmp_path):
    port = free_port()
    address = f"127.0.0.1:{port}"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n'
        f'[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    start(
        "flower-superlink",
        *("--insecure", "--host", "127.0.0.1", "--port", port),
        "--disable-runtime-dependency-installation",
        log="superlink",
    )
    nodes = [
        start(
            "flower-supernode",
            *("--insecure", "--superlink", address, "--port", free_port()),
            *("--node-config", f"partition-id={number}"),
            log=f"node-{number}",
        )
        for number in range(4)
    ]
    wait_for_port(port)
    app = Path(__file__).parent / "flower_app"
    run = start(
        *("flwr", "run", app, "here", "--stream"),
        *("--run-config", f'folder="{tmp_path}"'),
        log="run",
    )
    deadline = time.monotonic() + 150
    doomed = {"first-2-3": nodes[3], "second-1-2": nodes[2]}
    while run.poll() is None:
        assert time.monotonic() < deadline, (tmp_path / "run").read_text()
        for place in [p for p in doomed if (tmp_path / p).exists()]:
            kill(doomed.pop(place))
        time.sleep(0.1)
    log = (tmp_path / "run").read_text()
    assert not doomed, log
    # with three of four left the rule goes on: two rounds of + 1
    np.testing.assert_array_equal(np.load(tmp_path / "first.npy"), np.full(3, 2.0))
    # with two it can't
    assert not (tmp_path / "second.npy").exists()
    assert "round 1: 2 of " in log
    for part in ("TrimmedMean needs", "n=2, f=1", "Exit Code: 202"):
        assert part in log


def wait_for_port(port):
    deadline = time.monotonic() + 60
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)
