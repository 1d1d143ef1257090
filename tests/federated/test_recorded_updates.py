"""What single clients sent, as gradient inversion takes it."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from torch import nn

from skpoison.federated import (
    ClientLabelFlipAttack,
    FederatedClassifier,
    IPMAttack,
    Krum,
    Rejection,
    SybilAttack,
)
from skpoison.inversion import GradientInversion, client_update
from skpoison.metrics import match_reconstruction, psnr
from skpoison.models import MLP

X, LABELS = load_digits(return_X_y=True)
X, LABELS = X[:120] / 16, LABELS[:120]
Y = np.array(list("abcdefghij"))[LABELS]


class NormNet(nn.Module):
    """One hidden layer with batch normalisation, and a frozen layer."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.frozen = nn.Linear(n_features_in, 12).requires_grad_(False)
        self.norm = nn.BatchNorm1d(12)
        self.out = nn.Linear(12, n_outputs)

    def forward(self, X):
        return self.out(torch.relu(self.norm(self.frozen(X))))


def federated(estimator=None, **params):
    params = {
        "n_clients": 8,
        "n_byzantine": 2,
        "n_rounds": 3,
        "batch_size": 5,
        "record_updates": 1,
        "dtype": "float64",
        "engine": "loop",
        "random_state": 0,
        **params,
    }
    return FederatedClassifier(estimator, **params)


def repeated(seen, data=X, labels=LABELS):
    """Return what the client's recipe makes of the rows that it is said to hold."""
    rows = seen.sample_indices
    return client_update(
        seen.module,
        data[rows],
        labels[rows],
        update=seen.kind,
        local_steps=seen.local_steps,
        local_lr=seen.local_lr,
        batch_size=seen.local_batch_size,
        batch_norm=seen.batch_norm,
    )


def assert_repeats(seen, tol=1e-12, **data):
    assert len(seen.sample_indices) == seen.n_samples
    again = repeated(seen, **data)
    assert list(again) == list(seen.update)
    for name, value in seen.update.items():
        np.testing.assert_allclose(value, again[name].detach(), atol=tol, err_msg=name)


MODELS = {"softmax": None, "mlp": MLP, "norm": NormNet}
BATCHES = {
    "one row": (1, 1),
    "one batch": (5, 1),
    "two batches": (5, 2),
    "over the end of an epoch": (5, 7),
    "all rows": (None, 1),
    "all rows twice": (None, 2),
}


class TestTheRecipeRepeatsTheUpdate:
    @pytest.mark.parametrize("batches", BATCHES)
    @pytest.mark.parametrize("model", MODELS)
    def test_batches(self, model, batches):
        size, steps = BATCHES[batches]
        clf = federated(MODELS[model], batch_size=size, local_steps=steps).fit(X, Y)
        for round, client in ((0, 3), (2, 0)):
            seen = clf.observed_update(round, client)
            assert_repeats(seen)
            own = clf.client_indices_[client]
            assert set(seen.sample_indices) <= set(own)
            if size is None:
                assert seen.n_samples == len(own) == seen.local_batch_size
            else:
                assert seen.n_samples == steps * seen.local_batch_size
            assert seen.local_steps == steps and seen.shape == (64,)

    @pytest.mark.parametrize("engine", ["vectorized", "loop", "joblib"])
    @pytest.mark.parametrize("model", ["softmax", "mlp"])
    def test_engines(self, model, engine):
        clf = federated(MODELS[model], engine=engine, n_rounds=1).fit(X, Y)
        for client in range(8):
            assert_repeats(clf.observed_update(0, client))

    def test_float32(self):
        clf = federated(MLP, dtype="float32", n_rounds=1).fit(X, Y)
        seen = clf.observed_update(0, 2)
        assert {v.dtype for v in seen.update.values()} == {torch.float32}
        # weights of size 1/8, less themselves
        assert_repeats(seen, tol=1e-7)

    def test_images_of_bytes(self):
        pixels = np.rint(X * 255).astype(np.uint8).reshape(-1, 1, 8, 8)
        clf = federated(MLP, n_rounds=1, engine="vectorized").fit(pixels, Y)
        seen = clf.observed_update(0, 1)
        assert seen.shape == (1, 8, 8)
        assert_repeats(seen, data=pixels / 255)

    def test_rows_held_out_by_the_server(self):
        clf = federated(select="best", validation=30).fit(X, Y)
        assert_repeats(clf.observed_update(1, 4))

    def test_sampled_clients(self):
        clf = federated(clients_per_round=3, n_rounds=2).fit(X, Y)
        took_part = clf._state.recorded[1].names
        assert len(took_part) == 3
        for client in took_part:
            assert_repeats(clf.observed_update(1, client))
        left = min(set(range(8)) - set(took_part))
        with pytest.raises(ValueError, match=f"client {left} took no part in round 1"):
            clf.observed_update(1, left)

    def test_more_rounds_with_other_data(self):
        clf = federated(n_rounds=1).fit(X[:60], Y[:60])
        clf.partial_fit(X[60:], Y[60:])
        assert_repeats(clf.observed_update(0, 5))
        assert_repeats(clf.observed_update(1, 5), data=X[60:], labels=LABELS[60:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, params",
    [
        ("softmax", {"batch_size": 1}),
        ("mlp", {"batch_size": 1}),
        ("softmax", {"batch_size": 2, "local_steps": 2}),
        ("softmax", {"n_clients": 30, "batch_size": None, "local_steps": 5}),
    ],
    ids=["one row", "one row, mlp", "four rows in two steps", "five steps"],
)
@pytest.mark.filterwarnings("ignore:.*came out without a sample")
def test_inversion_needs_no_further_knowledge(model, params):
    clf = federated(MODELS[model], n_byzantine=0, **params).fit(X[:32], Y[:32])
    sizes = [len(rows) for rows in clf.client_indices_]
    client = sizes.index(1) if 1 in sizes else 0
    seen = clf.observed_update(1, client)
    found = GradientInversion(
        seen.module,
        update=seen.kind,
        n_samples=seen.n_samples,
        local_steps=seen.local_steps,
        local_lr=seen.local_lr,
        local_batch_size=seen.local_batch_size,
        max_iter=1000,
        random_state=0,
    ).reconstruct(seen.update, labels=LABELS[seen.sample_indices])
    rows = X[seen.sample_indices]
    ratios = psnr(rows, found.X[match_reconstruction(rows, found.X)], average=False)
    assert ratios.min() > (180 if seen.local_steps == 1 else 40)


@pytest.mark.parametrize("model", MODELS)
def test_recording_changes_nothing(model):
    plain = federated(MODELS[model], record_updates=None).fit(X, Y)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    clf = federated(MODELS[model]).fit(X, Y)
    np.testing.assert_array_equal(clf.weights_, plain.weights_)
    weights = clf.weights_.copy()
    seen = clf.observed_update(2, 0)
    assert not seen.module.training
    with torch.no_grad():
        for part in [*seen.module.parameters(), *seen.update.values()]:
            part.zero_()
    np.testing.assert_array_equal(clf.weights_, weights)
    assert_repeats(clf.observed_update(2, 0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "record, kept", [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), ([3], [3]), ((9,), [])]
)
def test_which_rounds(record, kept):
    clf = federated(n_rounds=5, record_updates=record).fit(X, Y)
    assert sorted(clf._state.recorded) == kept
    message = "those kept are" if kept else "set record_updates before fit"
    with pytest.raises(ValueError, match=f"round 9 was not recorded: {message}"):
        clf.observed_update(9, 0)


def test_rounds_are_numbered_as_in_the_history():
    clf = federated(n_rounds=3).fit(X, Y)
    norms = [np.linalg.norm(clf._state.recorded[r].updates, axis=1) for r in range(3)]
    np.testing.assert_allclose(np.mean(norms, axis=1), clf.history_["client_norm"])


class TestByzantineClients:
    def test_what_the_server_receives(self):
        attack = IPMAttack()
        clf = federated(attack=attack, aggregator=Krum(), n_rounds=1).fit(X, Y)
        plain = federated(aggregator=Krum(), n_rounds=1).fit(X, Y)
        liar = clf.byzantine_clients_[0]
        seen, honest = (c.observed_update(0, liar) for c in (clf, plain))
        assert seen.sample_indices is None and seen.n_samples == honest.n_samples
        assert not torch.allclose(
            seen.update["linear.weight"], honest.update["linear.weight"]
        )
        others = np.setdiff1d(np.arange(8), clf.byzantine_clients_)
        assert_repeats(clf.observed_update(0, others[0]))

    def test_poisoned_rows(self):
        clf = federated(attack=ClientLabelFlipAttack(), n_rounds=1).fit(X, Y)
        assert clf.observed_update(0, clf.byzantine_clients_[0]).sample_indices is None
        honest = np.setdiff1d(np.arange(8), clf.byzantine_clients_)[-1]
        assert_repeats(clf.observed_update(0, honest))

    def test_injected_clients_have_no_name(self):
        clf = federated(attack=SybilAttack(), n_rounds=1).fit(X, Y)
        assert clf.n_clients_ > 8
        assert_repeats(clf.observed_update(0, 7))
        with pytest.raises(ValueError, match="client 8 took no part"):
            clf.observed_update(0, 8)

    def test_rejected_ones_are_seen_too(self):
        clf = federated(rejection=Rejection("err"), validation=20, n_rounds=1)
        clf.fit(X, Y)
        for client in range(8):
            assert_repeats(clf.observed_update(0, client))

    def test_a_rule_that_works_in_place(self):
        def rule(updates):
            updates[:] = 0
            return updates.mean(axis=0)

        assert_repeats(federated(aggregator=rule).fit(X, Y).observed_update(0, 3))


def test_clients_by_id():
    owner = np.array(["north", "east", "south"])[np.arange(120) % 3]
    clf = federated(n_clients=None, n_byzantine=1).fit(X, Y, client_id=owner)
    seen = clf.observed_update(1, "south")
    assert set(owner[seen.sample_indices]) == {"south"}
    assert_repeats(seen)
    with pytest.raises(ValueError, match=r"client 0 took no part.*'east', 'north'"):
        clf.observed_update(1, 0)


def test_pickle_and_clone():
    clf = federated(record_updates=[1]).fit(X, Y)
    assert_repeats(pickle.loads(pickle.dumps(clf)).observed_update(1, 2))
    assert clone(clf).get_params()["record_updates"] == [1]


@pytest.mark.parametrize(
    "record, error, message",
    [
        (0, ValueError, "record_updates must be >= 1, got 0"),
        ([0, -1], ValueError, "record_updates must be >= 0, got -1"),
        (True, TypeError, "record_updates must be an int, got True"),
        ("all", TypeError, "record_updates must be an int, got 'all'"),
        ([0.5], TypeError, "record_updates must be an int, got 0.5"),
    ],
)
def test_bad_rounds(record, error, message):
    with pytest.raises(error, match=message):
        federated(record_updates=record).fit(X, Y)


def test_sklearn_models_take_their_own_steps():
    clf = federated(SGDClassifier(loss="log_loss"))
    with pytest.raises(TypeError, match="record_updates needs.*SGDClassifier takes"):
        clf.fit(X, Y)
