"""Models as vectors: their gradients, against autograd and scikit-learn."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import (
    LogisticRegression,
    Perceptron,
    Ridge,
    SGDClassifier,
)
from sklearn.naive_bayes import MultinomialNB
from torch import nn
from torch.nn import functional as F

from skpoison.federated._clients import BatchPlan, ClientWork
from skpoison.federated._learners import make_learner
from skpoison.models import MLP, LinearModel, TorchClassifier


def learner_for(estimator, shape=(6,), n_classes=3, dtype="float64", seed=0):
    return make_learner(
        estimator, shape, n_classes, dtype=np.dtype(dtype), device="cpu", seed=seed
    )


def data(n, shape=(6,), n_classes=3, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *shape)).astype(dtype), rng.integers(0, n_classes, n)


class Norm(nn.Module):
    """Batch normalisation, and a buffer that training does not change."""

    def __init__(self, n_features_in, n_classes):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.norm = nn.BatchNorm1d(n_features_in)
        self.linear = nn.Linear(n_features_in, n_classes)

    def forward(self, X):
        return self.linear(self.norm(X) * self.scale)


def by_autograd(weights, batches, lr, n_features, n_classes):
    """Train softmax regression with torch and nothing of ours."""
    coef, intercept = np.split(weights, [n_features * n_classes])
    coef = torch.tensor(coef.reshape(n_classes, n_features), requires_grad=True)
    intercept = torch.tensor(intercept, requires_grad=True)
    losses = []
    for X, y in batches:
        loss = F.cross_entropy(torch.tensor(X) @ coef.T + intercept, torch.tensor(y))
        losses.append(loss.item())
        slopes = torch.autograd.grad(loss, [coef, intercept])
        with torch.no_grad():
            coef -= lr * slopes[0]
            intercept -= lr * slopes[1]
    new = np.concatenate([coef.detach().numpy().ravel(), intercept.detach().numpy()])
    return new - weights, losses[0]


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_softmax_regression_is_what_autograd_gives(n_classes, n_steps):
    learner = learner_for(None, n_classes=n_classes)
    assert learner.n_weights == 7 * n_classes
    weights = np.random.default_rng(1).normal(size=learner.n_weights)
    before = weights.copy()
    batches = [data(5, n_classes=n_classes, seed=s) for s in range(n_steps)]
    update, loss = learner.train(weights, batches, 0.3)
    wanted, wanted_loss = by_autograd(weights, batches, 0.3, 6, n_classes)
    np.testing.assert_allclose(update, wanted, atol=1e-12)
    assert loss == pytest.approx(wanted_loss, abs=1e-12)
    assert np.array_equal(weights, before)
    assert np.array_equal(update, learner.client_update(weights, batches, 0.3))


@pytest.mark.parametrize("estimator", [None, LinearModel, MLP], ids=["none", "l", "m"])
def test_together_is_one_by_one_with_unequal_batches(estimator):
    learner = learner_for(estimator)
    assert learner.vectorizes
    weights = np.random.default_rng(0).normal(size=learner.n_weights)
    sizes = [4, 1, 3]
    steps = [[data(n, seed=10 * s + n) for n in sizes] for s in range(3)]
    batches, share = [], np.zeros((3, 4))
    for i, n in enumerate(sizes):
        share[i, :n] = 1 / n
    for step in steps:
        X, y = np.full((3, 4, 6), 7.0), np.zeros((3, 4), int)
        for i, (X_own, y_own) in enumerate(step):
            X[i, : len(y_own)], y[i, : len(y_own)] = X_own, y_own
        batches.append((X, y, share))
    updates = np.empty((3, learner.n_weights))
    losses = learner.train_together(weights, batches, 0.2, seeds=(0,), out=updates)
    for i in range(3):
        alone, loss = learner.train(weights, [step[i] for step in steps], 0.2)
        np.testing.assert_allclose(updates[i], alone, atol=1e-12)
        assert losses[i] == pytest.approx(loss, abs=1e-12)


def test_a_linear_module_is_softmax_regression():
    module, closed = learner_for(LinearModel), learner_for(None)
    assert module.n_weights == closed.n_weights
    weights = np.random.default_rng(0).normal(size=closed.n_weights)
    batches = [data(8, seed=s) for s in range(3)]
    np.testing.assert_allclose(
        module.client_update(weights, batches, 0.5),
        closed.client_update(weights, batches, 0.5),
        atol=1e-12,
    )
    X, y = data(30)
    np.testing.assert_allclose(module.logits(weights, X), closed.logits(weights, X))
    for a, b in zip(
        module.evaluate(weights[None], X, y),
        closed.evaluate(weights[None], X, y),
        strict=True,
    ):
        np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("estimator", [None, MLP], ids=["none", "mlp"])
def test_evaluate_many_candidates(estimator):
    learner = learner_for(estimator)
    X, y = data(40)
    candidates = np.random.default_rng(0).normal(size=(9, learner.n_weights))
    candidates[4, 0] = np.nan
    errors, losses = learner.evaluate(candidates, X, y)
    for i, weights in enumerate(candidates):
        if i == 4:
            assert errors[i] == 1 and losses[i] == np.inf
            continue
        logits = torch.tensor(learner.logits(weights, X))
        assert errors[i] == (logits.argmax(1).numpy() != y).mean()
        wanted = F.cross_entropy(logits, torch.tensor(y)).item()
        assert losses[i] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("estimator", [None, MLP], ids=["none", "mlp"])
def test_a_loss_of_the_attackers_own(estimator):
    learner = learner_for(estimator)
    weights = learner.initial_weights(0)
    batches = [data(8, seed=s) for s in range(2)]
    seen = []

    def pull(update):
        seen.append(update.copy())
        return 0.5 * update + 1.0

    update = learner.client_update(weights, batches, 0.1, extra_loss=pull)
    first = learner.client_update(weights, batches[:1], 0.1) - 0.1
    second = learner.client_update(weights + first, batches[1:], 0.1)
    assert np.array_equal(seen[0], np.zeros_like(weights))
    np.testing.assert_allclose(seen[1], first, atol=1e-12)
    np.testing.assert_allclose(
        update, first + second - 0.1 * (0.5 * first + 1), atol=1e-12
    )


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(
    "estimator",
    [
        SGDClassifier(learning_rate="constant", eta0=0.05, shuffle=False),
        SGDClassifier(loss="log_loss", learning_rate="invscaling", eta0=0.1),
        SGDClassifier(fit_intercept=False, random_state=3),
        Perceptron(),
    ],
    ids=["constant", "log", "no-intercept", "perceptron"],
)
def test_scikit_learn_models_go_on_where_they_stopped(estimator, n_classes):
    """A client alone with the server is the estimator trained without a federation."""
    learner = learner_for(estimator, n_classes=n_classes)
    weights = learner.initial_weights(0)
    X, y = data(40, n_classes=n_classes)
    plan = BatchPlan(0, 10, 2)
    work = ClientWork(learner, X, y, plan, 0, 0.1)
    alone = copy.deepcopy(estimator)
    alone.shuffle = False
    learner.model.shuffle = False
    for number in range(4):
        weights = weights + work.update(number, weights)
        for rows in plan.rows(0, 40, number):
            alone.partial_fit(X[rows], y[rows], classes=np.arange(n_classes))
    wanted = np.concatenate([alone.coef_.ravel(), alone.intercept_])
    np.testing.assert_allclose(weights, wanted, atol=1e-10)
    labels = learner.logits(weights, X).argmax(axis=1)
    assert np.array_equal(labels, alone.predict(X))


def test_what_is_no_model():
    with pytest.raises(TypeError, match="must have partial_fit.*LogisticRegression"):
        learner_for(LogisticRegression())
    with pytest.raises(TypeError, match="must have partial_fit.*Ridge"):
        learner_for(Ridge())
    with pytest.raises(TypeError, match="coef_ and intercept_, got MultinomialNB"):
        learner_for(MultinomialNB())
    with pytest.raises(ValueError, match="set average=False"):
        learner_for(SGDClassifier(average=True))
    with pytest.raises(TypeError, match="estimator must be None, a torch module"):
        learner_for(3)
    with pytest.raises(ValueError, match=r"shape \(n_samples, 3\), got \(2, 5\)"):
        learner_for(nn.Linear(6, 5))
    with pytest.raises(TypeError, match="must make a torch.nn.Module"):
        learner_for(lambda n_classes: n_classes)
    with pytest.raises(ValueError, match="loss of its own needs a torch module"):
        learner = learner_for(SGDClassifier())
        learner.train(learner.initial_weights(0), [data(3)], 0.1, extra_loss=len)


def test_modules_by_class_instance_callable_and_skorch():
    from skorch import NeuralNetClassifier

    by_class = learner_for(MLP, seed=5)
    again = learner_for(MLP, seed=5)
    assert np.array_equal(by_class.initial_weights(0), again.initial_weights(0))
    other = learner_for(MLP, seed=6).initial_weights(0)
    assert not np.array_equal(by_class.initial_weights(0), other)

    module = MLP((6,), 3)
    start = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    learner = learner_for(module, dtype="float32")
    assert np.array_equal(learner.initial_weights(0), start)
    learner_for(module)
    assert next(module.parameters()).dtype == torch.float32  # the caller's is left

    for net in (
        TorchClassifier(MLP, module__hidden=(5,)),
        NeuralNetClassifier(
            MLP, module__hidden=(5,), module__input_shape=(6,), module__n_outputs=3
        ),
        lambda n_features_in, n_classes: MLP((n_features_in,), n_classes, (5,)),
    ):
        assert learner_for(net).n_weights == 6 * 5 + 5 + 5 * 3 + 3
    image = TorchClassifier(input_shape=(1, 4, 4))
    assert learner_for(image, shape=(16,)).sample_shape == (1, 4, 4)


def test_frozen_parameters_stay():
    module = MLP((6,), 3)
    module.layers[0].weight.requires_grad_(False)
    learner = learner_for(module)
    assert learner.n_weights == 64 + 64 * 3 + 3
    with pytest.raises(ValueError, match="no parameters to train"):
        learner_for(module.requires_grad_(False))


def test_running_statistics_are_the_last_weights():
    learner = learner_for(Norm)
    assert not learner.vectorizes and "running statistics" in learner.reason_for_loop
    assert learner.n_buffers == 12  # mean and variance; not the constant
    weights = learner.initial_weights(0)
    assert np.array_equal(weights[-12:], [0] * 6 + [1] * 6)
    X, y = data(20)
    update = learner.client_update(weights, [(X, y)], 0.1)
    np.testing.assert_allclose(update[-12:-6], 0.1 * X.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(
        update[-6:], 0.1 * (X.var(axis=0, ddof=1) - 1), atol=1e-12
    )
    # one row trains on what is known so far instead of failing
    assert np.isfinite(learner.client_update(weights, [(X[:1], y[:1])], 0.1)).all()
    module = learner.fitted(weights + update)
    np.testing.assert_allclose(module.norm.running_mean, 0.1 * X.mean(axis=0))


def test_dropout_draws_by_seed_and_leaves_the_global_stream():
    learner = learner_for(TorchClassifier(MLP, module__dropout=0.5))
    weights = learner.initial_weights(0)
    state = torch.get_rng_state()
    first = learner.client_update(weights, [data(9)], 0.1, seed=(0, 1, 2))
    again = learner.client_update(weights, [data(9)], 0.1, seed=(0, 1, 2))
    other = learner.client_update(weights, [data(9)], 0.1, seed=(0, 1, 3))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    works = [
        ClientWork(learner, *data(9), BatchPlan(0, None), number, 0.1)
        for number in (0, 1)
    ]
    updates = [work.update(r, weights) for work in works for r in (0, 1)]
    assert len({update.tobytes() for update in updates}) == 4


def test_modules_that_vmap_cannot_run():
    class Choice(nn.Module):
        def __init__(self, n_classes):
            super().__init__()
            self.linear = nn.Linear(6, n_classes)

        def forward(self, X):
            return self.linear(X if X.sum() > 0 else -X)

    learner = learner_for(Choice)
    assert not learner.vectorizes and "vmap can't run" in learner.reason_for_loop
    errors, _ = learner.evaluate(np.stack([learner.initial_weights(0)] * 3), *data(9))
    assert (errors == errors[0]).all()


@pytest.mark.parametrize(
    "estimator", [None, MLP, SGDClassifier()], ids=["none", "mlp", "sgd"]
)
def test_pickle(estimator):
    learner = learner_for(estimator)
    weights = np.random.default_rng(0).normal(size=learner.n_weights)
    copied = pickle.loads(pickle.dumps(learner))
    batches = [data(9)]
    assert np.array_equal(
        copied.client_update(weights, batches, 0.1),
        learner.client_update(weights, batches, 0.1),
    )


@pytest.mark.parametrize("estimator", [None, MLP, SGDClassifier()])
def test_float32_in_float32_out(estimator):
    learner = learner_for(estimator, dtype="float32")
    weights = learner.initial_weights(0)
    update = learner.client_update(weights, [data(9, dtype="float32")], 0.1)
    assert weights.dtype == update.dtype == np.float32


class TestBatches:
    def test_an_epoch_is_every_row_once_but_for_a_rest(self):
        plan = BatchPlan(0, 8)
        found = [plan.rows(3, 35, r)[0] for r in range(4)]
        seen = np.concatenate(found)
        assert len(seen) == len(set(seen.tolist())) == 32
        # the next epoch has another order and another rest
        later = np.concatenate([plan.rows(3, 35, r)[0] for r in range(4, 8)])
        assert len(set(later.tolist())) == 32 and not np.array_equal(seen, later)

    def test_steps_of_a_round_go_on_through_the_epoch(self):
        one, three = BatchPlan(0, 8), BatchPlan(0, 8, 3)
        rows = [one.rows(0, 50, r)[0] for r in range(12)]
        grouped = [batch for r in range(4) for batch in three.rows(0, 50, r)]
        assert all(map(np.array_equal, rows, grouped))

    def test_nothing_is_remembered(self):
        plan = BatchPlan(0, 8)
        wanted = BatchPlan(0, 8).rows(5, 40, 17)[0]
        plan.rows(5, 40, 3)
        plan.rows(5, 44, 17)
        assert np.array_equal(plan.rows(5, 40, 17)[0], wanted)
        assert np.array_equal(
            pickle.loads(pickle.dumps(plan)).rows(5, 40, 17)[0], wanted
        )

    def test_clients_and_seeds_differ(self):
        found = {
            tuple(BatchPlan(seed, 8).rows(client, 40, 0)[0])
            for seed in range(3)
            for client in range(3)
        }
        assert len(found) == 9

    @pytest.mark.parametrize("batch_size", [None, 9, 20])
    def test_small_shards_are_used_whole(self, batch_size):
        plan = BatchPlan(0, batch_size, 2)
        assert plan.size(9) == 9
        for rows in plan.rows(0, 9, 4):
            assert sorted(rows) == list(range(9))
