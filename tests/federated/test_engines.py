"""Engines: the same updates from the same batches, however they are run."""

from functools import partial

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import SGDClassifier
from torch import nn

from skpoison.federated import FederatedClassifier, partition_clients
from skpoison.federated._clients import BatchPlan, Clients
from skpoison.federated._engines import (
    JoblibEngine,
    LoopEngine,
    VectorizedEngine,
    make_engine,
)
from skpoison.federated._learners import make_learner
from skpoison.models import MLP, TorchClassifier

SIZES = [40, 7, 1, 33, 12, 90, 8]


def federation(estimator=None, batch_size=12, n_steps=1, dtype="float32", shape=(9,)):
    rng = np.random.default_rng(0)
    learner = make_learner(
        estimator, shape, 4, dtype=np.dtype(dtype), device="cpu", seed=0
    )
    X = rng.normal(size=(sum(SIZES), *shape)).astype(dtype)
    y = rng.integers(0, 4, len(X))
    starts = np.cumsum([0, *SIZES])
    return Clients(learner, X, y, starts, BatchPlan(1, batch_size, n_steps), 0.2)


@pytest.mark.parametrize("batch_size", [12, None, 1, 1000])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("estimator", [None, MLP], ids=["none", "mlp"])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_vectorized_is_the_loop_up_to_rounding(batch_size, n_steps, estimator, chunk):
    clients = federation(estimator, batch_size, n_steps)
    weights = clients.learner.initial_weights(0)
    numbers = np.arange(len(SIZES))
    for number in (0, 5):
        updates, losses = LoopEngine(clients).updates(number, weights, numbers)
        fast = VectorizedEngine(clients, chunk).updates(number, weights, numbers)
        np.testing.assert_allclose(fast[0], updates, atol=1e-6)
        np.testing.assert_allclose(fast[1], losses, rtol=1e-5)
        assert fast[0].dtype == np.float32


def test_a_client_s_batch_does_not_depend_on_who_else_takes_part():
    clients = federation(n_steps=2)
    weights = clients.learner.initial_weights(0)
    everyone = VectorizedEngine(clients).updates(3, weights, np.arange(7))[0]
    some = VectorizedEngine(clients).updates(3, weights, np.array([1, 5, 6]))[0]
    np.testing.assert_allclose(some, everyone[[1, 5, 6]], atol=1e-6)
    assert not np.allclose(
        some, VectorizedEngine(clients).updates(4, weights, np.array([1, 5, 6]))[0]
    )


@pytest.mark.parametrize(
    "estimator",
    [None, TorchClassifier(MLP, module__dropout=0.3), SGDClassifier()],
    ids=["none", "dropout", "sgd"],
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_joblib_gives_the_bits_of_the_loop(estimator, n_jobs):
    clients = federation(estimator, n_steps=2)
    weights = clients.learner.initial_weights(0)
    numbers = np.array([0, 2, 3, 5, 6])
    # threads share memory: a learner used by two at once would show
    processes = isinstance(estimator, SGDClassifier)  # they need no torch: fast
    with joblib.parallel_config("loky" if processes else "threading"):
        engine = JoblibEngine(clients, n_jobs)
        for number in range(2):
            found = engine.updates(number, weights, numbers)
            wanted = LoopEngine(clients).updates(number, weights, numbers)
            assert np.array_equal(found[0], wanted[0])
            assert np.array_equal(found[1], wanted[1])
        engine.close()


def test_what_the_name_gives():
    assert isinstance(make_engine("vectorized", federation()), VectorizedEngine)
    assert isinstance(make_engine("loop", federation()), LoopEngine)
    sgd = federation(SGDClassifier())
    assert isinstance(make_engine("vectorized", sgd), LoopEngine)


@pytest.mark.parametrize("estimator", [None, nn.Linear(9, 4)], ids=["none", "linear"])
@pytest.mark.parametrize("engine", ["vectorized", "loop"])
def test_a_round_of_the_mean_is_a_step_on_the_pooled_batch(estimator, engine):
    """Equal shards, whole as batches: federated averaging is gradient descent."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 9)), np.arange(60) % 4
    clf = FederatedClassifier(
        estimator,
        n_clients=6,
        n_byzantine=0,
        partition="iid",
        batch_size=None,
        lr=0.3,
        n_rounds=0,
        dtype="float64",
        engine=engine,
        random_state=0,
    ).fit(X, y)
    before = clf.weights_.copy()
    coef = torch.tensor(before[:36].reshape(4, 9), requires_grad=True)
    intercept = torch.tensor(before[36:], requires_grad=True)
    logits = torch.tensor(X) @ coef.T + intercept
    nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
    slope = np.concatenate([coef.grad.numpy().ravel(), intercept.grad.numpy()])
    clf.partial_fit(X, y)
    np.testing.assert_allclose(clf.weights_, before - 0.3 * slope, atol=1e-12)


@pytest.mark.parametrize("estimator", [None, MLP], ids=["none", "mlp"])
def test_trainings_end_at_the_same_weights(estimator):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 9)), rng.integers(0, 3, 300)
    uneven = partial(partition_clients, method="dirichlet", alpha=0.5)
    fitted = {}
    for engine in ("vectorized", "loop", "joblib"):
        clf = FederatedClassifier(
            estimator,
            n_clients=12,
            n_byzantine=2,
            partition=uneven,
            batch_size=16,
            local_steps=2,
            clients_per_round=0.5,
            n_rounds=15,
            engine=engine,
            random_state=0,
        )
        fitted[engine] = clf.fit(X, y)
    loop = fitted["loop"]
    assert np.array_equal(fitted["joblib"].weights_, loop.weights_)
    np.testing.assert_allclose(fitted["vectorized"].weights_, loop.weights_, atol=1e-6)
    for name in ("train_loss", "client_norm", "update_norm"):
        np.testing.assert_allclose(
            fitted["vectorized"].history_[name], loop.history_[name], rtol=1e-4
        )


def test_images_and_small_chunks():
    clients = federation(TorchClassifier(), shape=(1, 6, 6))
    weights = clients.learner.initial_weights(0)
    numbers = np.arange(7)
    wanted = LoopEngine(clients).updates(0, weights, numbers)[0]
    found = VectorizedEngine(clients, 2).updates(0, weights, numbers)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
