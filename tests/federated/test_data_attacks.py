import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits

from skpoison.attacks import (
    BackdoorAttack,
    ColumnTrigger,
    FeatureCollisionAttack,
    LabelFlipAttack,
    PatchTrigger,
)
from skpoison.federated import (
    ClientLabelFlipAttack,
    DataPoisoningAttack,
    FederatedClassifier,
    Mean,
    ModelReplacementAttack,
    RoundContext,
    SybilAttack,
    TrimmedMean,
)

N_CLASSES = 3


def shards_of(sizes=(20, 30, 25), d=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(n, d)).astype(np.float32), rng.integers(N_CLASSES, size=n))
        for n in sizes
    ]


def stream(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------ label flip


@pytest.mark.parametrize(
    "mapping, wanted",
    [
        (None, [2, 1, 0, 2]),
        ({0: 1}, [1, 1, 2, 1]),
        ([2, 2, 1], [2, 2, 1, 2]),
        (np.array([0, 1, 2]), [0, 1, 2, 0]),
    ],
    ids=["none", "dict", "list", "array"],
)
def test_labels_are_mapped(mapping, wanted):
    X, y = np.zeros((4, 2)), np.array([0, 1, 2, 0])
    attack = ClientLabelFlipAttack(mapping)
    X_out, y_out = attack.poison_shard(X, y, N_CLASSES, stream())
    np.testing.assert_array_equal(y_out, wanted)
    np.testing.assert_array_equal(y, [0, 1, 2, 0])
    assert y_out.dtype == y.dtype
    assert X_out is X
    ((_, y_out),) = attack.poison_shards([(X, y)], N_CLASSES, stream())
    np.testing.assert_array_equal(y_out, wanted)
    ((_, y_out),) = SybilAttack(attack).poison_shards([(X, y)], N_CLASSES, stream())
    np.testing.assert_array_equal(y_out, wanted)


@pytest.mark.parametrize(
    "mapping, match",
    [
        ({0: 3}, r"must hold ints in \[0, 2\]"),
        ({-1: 0}, r"must hold ints in \[0, 2\]"),
        ([0, 1], "a label for each of the 3 classes"),
        ([0, 1, 1.5], r"must hold ints in \[0, 2\]"),
    ],
    ids=["to", "from", "few", "float"],
)
def test_bad_mappings(mapping, match):
    with pytest.raises(ValueError, match=match):
        ClientLabelFlipAttack(mapping).poison_shards(shards_of(), N_CLASSES, stream())


def test_attacks_on_data_send_what_they_trained():
    updates = stream().normal(size=(6, 3))
    for attack in (ClientLabelFlipAttack(), DataPoisoningAttack(LabelFlipAttack())):
        poisoned = attack.poison_round(RoundContext(updates, [0, 1]))
        np.testing.assert_array_equal(poisoned, updates)


# -------------------------------------------------------------------- data poisoning


def test_rows_that_change_stay_with_their_client():
    shards = shards_of()
    attack = DataPoisoningAttack(LabelFlipAttack(budget=0.4))
    poisoned = attack.poison_shards(shards, N_CLASSES, stream(1))
    flipped = 0
    for (X, y), (X_out, y_out) in zip(shards, poisoned, strict=True):
        np.testing.assert_array_equal(X_out, X)
        flipped += (y_out != y).sum()
        assert (y_out != y).any()
    assert flipped == 30
    again = attack.poison_shards(shards, N_CLASSES, stream(1))
    other = attack.poison_shards(shards, N_CLASSES, stream(2))
    labels, same, new = (
        np.concatenate([y for _, y in run]) for run in (poisoned, again, other)
    )
    np.testing.assert_array_equal(labels, same)
    assert (labels != new).any()


def test_transformers_and_samplers_that_add_rows():
    shards = shards_of()
    collide = FeatureCollisionAttack(budget=0.2, max_iter=3)
    poisoned = DataPoisoningAttack(collide).poison_shards(shards, N_CLASSES, stream())
    changed = 0
    for (X, y), (X_out, y_out) in zip(shards, poisoned, strict=True):
        np.testing.assert_array_equal(y_out, y)
        assert X_out.shape == X.shape
        changed += (X_out != X).any(axis=1).sum()
    assert 0 < changed <= 15
    trigger = ColumnTrigger([0], values=9.0)
    backdoor = BackdoorAttack(trigger, target_class=1, budget=0.2)
    poisoned = DataPoisoningAttack(backdoor).poison_shards(shards, N_CLASSES, stream())
    marked = [X[:, 0] == 9 for X, _ in poisoned]
    assert sum(m.sum() for m in marked) == 15
    for mark, (_, y) in zip(marked, poisoned, strict=True):
        assert (y[mark] == 1).all()


@pytest.mark.parametrize("placement", ["uniform", "single"])
def test_given_rows_are_placed(placement):
    shards = shards_of()
    X_poison = np.arange(28.0).reshape(7, 4) + 100
    y_poison = [0, 1, 2, 0, 1, 2, 0]
    attack = DataPoisoningAttack(
        X_poison=X_poison, y_poison=y_poison, placement=placement
    )
    poisoned = attack.poison_shards(shards, N_CLASSES, stream())
    counts, found = [], []
    for (X, y), (X_out, y_out) in zip(shards, poisoned, strict=True):
        np.testing.assert_array_equal(X_out[: len(X)], X)
        np.testing.assert_array_equal(y_out[: len(y)], y)
        assert X_out.dtype == X.dtype
        counts.append(len(y_out) - len(y))
        found += [*zip(X_out[len(X) :, 0], y_out[len(y) :], strict=True)]
    assert sorted(found) == list(zip(X_poison[:, 0], y_poison, strict=True))
    assert (
        sorted(counts) == [2, 2, 3] if placement == "uniform" else counts == [7, 0, 0]
    )
    X, y = attack.poison_shard(*shards[1], N_CLASSES, stream())
    assert len(X) == len(y) == 37


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({}, ValueError, "attack or X_poison must be given"),
        ({"placement": "all"}, ValueError, "placement must be one of"),
        ({"attack": Mean()}, TypeError, "attack must have poison"),
        ({"X_poison": [[1.0] * 4]}, ValueError, "must be given together"),
        (
            {"attack": LabelFlipAttack(), "X_poison": [[1.0] * 4], "y_poison": [0]},
            ValueError,
            "must not be given together",
        ),
        ({"X_poison": [[1.0]], "y_poison": [0]}, ValueError, r"rows of shape \(4,\)"),
        ({"X_poison": [[1.0] * 4], "y_poison": [0, 1]}, ValueError, "a label for each"),
        ({"X_poison": [[1.0] * 4], "y_poison": [3]}, ValueError, r"ints in \[0, 2\]"),
    ],
    ids=range(8),
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        DataPoisoningAttack(**params).poison_shards(shards_of(), N_CLASSES, stream())


def test_parameters_reach_the_attack_within():
    attack = DataPoisoningAttack(LabelFlipAttack(budget=0.1))
    attack = clone(attack).set_params(attack__budget=0.0)
    poisoned = attack.poison_shards(shards_of(), N_CLASSES, stream())
    for (_, y), (_, y_out) in zip(shards_of(), poisoned, strict=True):
        np.testing.assert_array_equal(y, y_out)
    assert attack.poison_shards([], N_CLASSES, stream()) == []


# ----------------------------------------------------------------- model replacement


def softmax_train(weights, default_lr=0.5):
    """A round's training of softmax regression, weights of shape (classes, d)."""

    def train(X, y, n_steps, batch_size=None, lr=None, extra_loss=None):
        train.data = X, y, n_steps, batch_size, lr
        now = weights.copy()
        for _ in range(n_steps):
            scores = X @ now.reshape(N_CLASSES, -1).T
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            share[np.arange(len(y)), y] -= 1
            gradient = (share.T @ X / len(y)).ravel()
            if extra_loss is not None:
                gradient = gradient + extra_loss(now - weights)
            now = now - (default_lr if lr is None else lr) * gradient
        return now - weights

    return train


def round_of(train, m=10, byzantine=(0, 1, 2), **params):
    weights = np.linspace(-0.1, 0.1, 4 * N_CLASSES)
    updates = stream().normal(size=(m, 4 * N_CLASSES)) * 0.01
    return RoundContext(
        updates,
        list(byzantine),
        weights=weights,
        rng=stream(),
        train=train(weights),
        shards=shards_of()[: len(byzantine)],
        **params,
    )


TRIGGER = ColumnTrigger([3], values=8.0)


def test_the_mean_becomes_the_attacker_s_model():
    for server_lr in (1.0, 0.5):
        given = round_of(softmax_train, server_lr=server_lr)
        given.updates[3:] -= given.updates[3:].mean(axis=0)  # the others cancel
        attack = ModelReplacementAttack(TRIGGER, target_class=2, alpha=1.0, n_steps=80)
        poisoned = attack.poison_round(given)
        np.testing.assert_array_equal(poisoned[3:], given.updates[3:])
        model = given.weights + server_lr * Mean()(poisoned)
        X, y, n_steps, batch_size, lr = given.train.data
        wanted = given.weights + given.train(X, y, 80)
        np.testing.assert_allclose(model, wanted, atol=1e-12)
        assert (n_steps, batch_size, lr) == (80, None, None)
        assert attack.info_["gamma"] == pytest.approx(10 / (3 * server_lr))
        X = np.concatenate([X for X, _ in shards_of()])
        marked = TRIGGER.fit(X).apply(X)
        predicted = (marked @ model.reshape(N_CLASSES, -1).T).argmax(axis=1)
        assert (predicted == 2).mean() > 0.95


def test_a_share_of_the_pooled_rows_is_marked():
    given = round_of(softmax_train)
    before = [(X.copy(), y.copy()) for X, y in given.shards]
    attack = ModelReplacementAttack(TRIGGER, target_class=2, share=0.4)
    attack.set_params(batch_size=16, lr=0.2, n_steps=3).poison_round(given)
    X, y, n_steps, batch_size, lr = given.train.data
    assert (n_steps, batch_size, lr) == (3, 16, 0.2)
    X_clean = np.concatenate([X for X, _ in before])
    y_clean = np.concatenate([y for _, y in before])
    marked = X[:, 3] == 8
    assert marked.sum() == 30
    assert (y_clean[marked] != 2).all()
    assert (y[marked] == 2).all()
    np.testing.assert_array_equal(X[~marked], X_clean[~marked])
    np.testing.assert_array_equal(y[~marked], y_clean[~marked])
    for (X, y), (X_own, y_own) in zip(before, given.shards, strict=True):
        np.testing.assert_array_equal(X, X_own)
        np.testing.assert_array_equal(y, y_own)


def test_alpha_keeps_the_update_short():
    lengths = []
    for alpha in (1.0, 0.9, 0.5, 0.1):
        attack = ModelReplacementAttack(TRIGGER, alpha=alpha, n_steps=300, lr=0.02)
        attack.poison_round(round_of(softmax_train))
        lengths.append(attack.info_["length"])
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 2 * lengths[-1]
    # where it ends, alpha dL + 2 (1 - alpha) (x - w) = 0
    attack = ModelReplacementAttack(
        TRIGGER, alpha=0.5, n_steps=3000, lr=0.05, gamma=1.0
    )
    given = round_of(softmax_train)
    update = attack.poison_round(given)[0]
    X, y, *_ = given.train.data
    step = softmax_train(given.weights + update)(X, y, 1, lr=1.0)
    np.testing.assert_allclose(step, 2 * update, atol=1e-6)


def test_images_and_patches():
    rng = stream()
    shards = [(rng.random((12, 16), dtype=np.float32), np.arange(12) % N_CLASSES)]
    given = RoundContext(np.zeros((4, 2)), [1], shards=shards, rng=stream())
    given.train = lambda X, y, n_steps, **_: np.array([(X > 1).sum(), len(y)])
    trigger = PatchTrigger("solid", size=2, value=5.0, input_shape=(4, 4))
    attack = ModelReplacementAttack(trigger, share=0.5, gamma=2.0)
    poisoned = attack.poison_round(given)
    np.testing.assert_array_equal(poisoned[1], [2 * 6 * 4, 2 * 12])


def test_a_backdoor_in_a_federation():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    trigger = PatchTrigger("solid", size=2, value=1.0, margin=0, input_shape=(8, 8))
    attack = ModelReplacementAttack(trigger, target_class=3, alpha=0.9, n_steps=30)
    marked = trigger.fit(X).apply(X[y != 3])
    success = []
    for rule in (None, TrimmedMean()):
        model = FederatedClassifier(
            n_clients=20,
            n_byzantine=4,
            aggregator=rule,
            attack=attack,
            n_rounds=30,
            lr=0.5,
            random_state=0,
        ).fit(X, y)
        assert model.score(X, y) > 0.85
        success.append(np.mean(model.predict(marked) == 3))
    assert success[0] > 0.9
    assert success[1] < 0.3


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"target_class": -1}, ValueError, "target_class must be >= 0"),
        ({"share": 0.0}, ValueError, "share must be in"),
        ({"alpha": 0.0}, ValueError, "alpha must be in"),
        ({"gamma": np.inf}, ValueError, "gamma must be finite"),
        ({"n_steps": 0}, ValueError, "n_steps must be >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"lr": 0.0}, ValueError, "lr must be > 0"),
        ({"trigger": 3}, TypeError, "trigger must have fit and apply"),
    ],
    ids=range(8),
)
def test_bad_parameters_of_model_replacement(params, error, match):
    params = {"trigger": TRIGGER, **params}
    with pytest.raises(error, match=match):
        ModelReplacementAttack(**params).fit(np.zeros((3, 2)))


def test_what_model_replacement_needs():
    updates = np.zeros((4, 2))
    with pytest.raises(ValueError, match="trigger must be given"):
        ModelReplacementAttack().poison_round(RoundContext(updates, [0]))
    with pytest.raises(ValueError, match="context.train and context.shards"):
        ModelReplacementAttack(TRIGGER).poison_round(RoundContext(updates, [0]))
