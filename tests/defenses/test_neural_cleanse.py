import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.frozen import FrozenEstimator

from skpoison.attacks import BackdoorAttack, ColumnTrigger, PatchTrigger
from skpoison.defenses import NeuralCleanse
from skpoison.defenses._neural_cleanse import _anomalies, _CostSchedule
from skpoison.models import TorchClassifier

CLEAN, TEST = slice(1000, 1200), slice(1200, None)
TARGET = 3


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(return_X_y=True)
    return (X.reshape(-1, 1, 8, 8) / 16).astype(np.float32), y


@pytest.fixture(scope="module")
def backdoor(data):
    X, y = data
    trigger = PatchTrigger("solid", size=2, margin=0)
    attack = BackdoorAttack(trigger, target_class=TARGET, random_state=0)
    poisoned = attack.poison(X[:1000], y[:1000])
    net = TorchClassifier(
        module__channels=(8, 16), max_epochs=15, device="cpu", random_state=0
    )
    return attack, net.fit(poisoned.X, poisoned.y)


@pytest.fixture(scope="module")
def cleansed(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    return NeuralCleanse(backdoor[1], random_state=0).fit(X, y)


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.module_.parameters()).detach()


# --------------------------------------------------------------- what it finds


@pytest.mark.slow
def test_backdoor_is_found(cleansed):
    assert cleansed.flagged_classes_.tolist() == [TARGET]
    assert cleansed.mask_norms_.argmin() == TARGET
    assert cleansed.anomaly_index_[TARGET] > 3
    assert cleansed.masks_.shape == (10, 8, 8)
    assert cleansed.patterns_.shape == (10, 1, 8, 8)
    assert ((cleansed.masks_ >= 0) & (cleansed.masks_ <= 1)).all()
    assert ((cleansed.patterns_ >= 0) & (cleansed.patterns_ <= 1)).all()
    np.testing.assert_allclose(
        cleansed.mask_norms_, cleansed.masks_.sum((1, 2)), rtol=1e-5
    )
    mask, pattern = cleansed.masks_[TARGET], cleansed.patterns_[TARGET, 0]
    # the patch is 4 of 64 pixels at the bottom right, and bright
    assert mask[-3:, -3:].sum() > 0.5 * mask.sum()
    assert (mask * pattern)[-2:, -2:].sum() > 0.3 * (mask * pattern).sum()
    assert cleansed.n_iter_ < 1000


def test_triggers_turn_rows(cleansed, backdoor, data):
    X = data[0][CLEAN]
    for k in range(10):
        mask = cleansed.masks_[k]
        stamped = (1 - mask) * X + mask * cleansed.patterns_[k]
        assert (backdoor[1].predict(stamped) == k).mean() > 0.9


def test_unlearning_removes_the_backdoor_and_keeps_the_accuracy(
    cleansed, backdoor, data
):
    attack, net = backdoor
    X, y = data[0][TEST], data[1][TEST]
    assert attack.attack_success(net.predict, X, y) > 0.9
    assert attack.attack_success(cleansed.predict, X, y) < 0.15
    assert cleansed.score(X, y) > net.score(X, y) - 0.03


@pytest.mark.slow
def test_clean_network_is_left_alone(data):
    X, y = data
    net = TorchClassifier(
        module__channels=(8, 16), max_epochs=10, device="cpu", random_state=0
    )
    net.fit(X[:1000], y[:1000])
    model = NeuralCleanse(net, random_state=0).fit(X[CLEAN], y[CLEAN])
    assert len(model.flagged_classes_) == 0 and model.flagged_classes_.dtype == y.dtype
    assert torch.equal(weights(model.estimator_), weights(net))


@pytest.mark.slow
def test_column_of_a_table(data):
    X, y = make_blobs(1200, n_features=12, centers=8, cluster_std=2.0, random_state=0)
    attack = BackdoorAttack(
        ColumnTrigger(columns=[4], values=[15.0]), target_class=2, random_state=0
    )
    poisoned = attack.poison(X[:800], y[:800])
    net = TorchClassifier(max_epochs=40, device="cpu", random_state=0)
    net.fit(poisoned.X, poisoned.y)
    rows, labels = X[1000:], y[1000:]
    assert attack.attack_success(net.predict, rows, labels) > 0.9
    model = NeuralCleanse(net, bounds=(-20, 20), random_state=0)
    model.fit(X[800:1000], y[800:1000])
    assert model.flagged_classes_.tolist() == [2]
    assert model.masks_.shape == model.patterns_.shape == (8, 12)
    assert model.masks_[2].argmax() == 4
    assert model.patterns_[2, 4] > 10
    assert attack.attack_success(model.predict, rows, labels) < 0.2
    assert model.score(rows, labels) > net.score(rows, labels) - 0.03


# ------------------------------------------------------------------ how it works


@pytest.mark.filterwarnings("ignore:the masks of")
def test_classes_in_one_batch_do_not_meet(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    model = NeuralCleanse(
        backdoor[1], max_iter=25, attack_success=0.5, repair=None, random_state=0
    )
    model.fit(X, y)
    frozen = FrozenEstimator(backdoor[1])
    for k in (0, TARGET):
        alone = clone(model).set_params(estimator=frozen, classes=[k]).fit(X, y)
        np.testing.assert_allclose(alone.masks_[0], model.masks_[k], atol=1e-3)
        assert alone.inspected_classes_.tolist() == [k]
    some = clone(model).set_params(estimator=frozen, classes=[7, 1, TARGET]).fit(X, y)
    assert some.inspected_classes_.tolist() == [1, TARGET, 7]
    np.testing.assert_allclose(some.masks_, model.masks_[[1, 3, 7]], atol=1e-3)


def test_price_follows_success():
    params = NeuralCleanse(
        init_cost=1.0, cost_multiplier=2.0, patience=2, early_stop_patience=2
    )
    schedule = _CostSchedule(params, 3, "cpu")
    active = torch.arange(3)
    yes, no = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    norms = torch.tensor([5.0, 4.0, 3.0])
    assert schedule.update(active, yes, norms).tolist() == [True, True, False]
    assert schedule.update(active, no, norms).tolist() == [False, False, False]
    # two successes, one of each, two failures
    np.testing.assert_allclose(schedule.cost, [2.0, 1.0, 2**-1.5])
    assert schedule.best.tolist() == [5.0, 4.0, torch.inf]
    # only a success with a smaller mask is a record; the last class is asleep
    active = torch.arange(2)
    smaller = schedule.update(active, no[:2], torch.tensor([4.0, 1.0]))
    assert smaller.tolist() == [True, False]
    assert schedule.best.tolist() == [4.0, 4.0, torch.inf] and schedule.stalled[2] == 2
    # the first class: up, then down, and four steps without a smaller mask. The second
    # went down before it went up, which says nothing
    for ended in ([0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]):
        schedule.update(active, ~no[:2], torch.tensor([9.0, 9.0]))
        assert schedule.finished().tolist() == ended


def test_anomaly_index():
    norms = np.array([2.0, 9.0, 10.0, 11.0, 12.0, 20.0])
    index, flagged = _anomalies(norms, 2.0, "mad")
    scale = 1.4826 * 1.5  # deviations 8.5 1.5 .5 .5 1.5 9.5 from 10.5
    np.testing.assert_allclose(index, np.abs(norms - 10.5) / scale)
    assert flagged.tolist() == [True, False, False, False, False, False]
    index, flagged = _anomalies(np.array([5.0, 10.0, 10.0, 10.0]), 2.0, "mad")
    np.testing.assert_allclose(index, [50, 0, 0, 0])  # the floor: 1 % of the median
    assert flagged.tolist() == [True, False, False, False]
    for rule in ("mad", "log"):
        for norms in (np.zeros(4), np.array([1.0, 9.0]), np.array([3.0])):
            index, flagged = _anomalies(norms, 0.1, rule)
            assert np.isfinite(index).all() and not flagged.any()


def test_anomaly_index_of_logarithms():
    # sizes that spread as those of a dense network: no index of "mad" can exceed 1.5
    norms = np.array([0.5, 6.0, 7.0, 8.0, 8.0, 12.5, 15.0, 17.0, 18.0, 20.0])
    index, flagged = _anomalies(norms, 2.0, "mad")
    assert index[0] < 2 and not flagged.any()
    index, flagged = _anomalies(norms, 2.0, "log")
    away = np.abs(np.log(norms) - np.log(np.sqrt(8 * 12.5)))
    np.testing.assert_allclose(index, away / (1.4826 * np.median(away)))
    assert flagged.tolist() == [True] + [False] * 9
    # a class is not flagged for others that are closely together
    norms = np.array([6.1, 10.0, 10.1, 9.9, 10.0])
    index, flagged = _anomalies(norms, 2.0, "log")
    assert index[0] > 2 and not flagged.any()
    assert _anomalies(norms, 2.0, "mad")[1].tolist() == [True] + [False] * 4
    norms[0] = 5.9
    assert _anomalies(norms, 2.0, "log")[1].tolist() == [True] + [False] * 4
    norms[0] = 0.0  # nothing at all
    index, flagged = _anomalies(norms, 2.0, "log")
    assert np.isfinite(index).all() and flagged[0]


def test_two_classes_flag_nothing(data):
    X, y = data
    rows = np.flatnonzero(y < 2)
    net = TorchClassifier(max_epochs=2, device="cpu", random_state=0)
    net.fit(X[rows[:200]], y[rows[:200]])
    model = NeuralCleanse(net, max_iter=60, random_state=0)
    with pytest.warns(UserWarning, match="masks of 2 classes can't tell"):
        model.fit(X[rows[200:300]], y[rows[200:300]])
    assert len(model.flagged_classes_) == 0
    assert torch.equal(weights(model.estimator_), weights(net))


def test_search_that_fails_counts_as_full_mask(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    model = NeuralCleanse(backdoor[1], max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match=r"no trigger for \[0, 1.* count as full"):
        model.fit(X, y)
    assert (model.mask_norms_ == 64).all() and len(model.flagged_classes_) == 0


def test_only_looking(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    model = NeuralCleanse(
        backdoor[1],
        attack_success=0.2,
        max_iter=20,
        rule="mad",
        threshold=1e-9,
        repair=None,
        random_state=0,
    ).fit(X, y)
    assert len(model.flagged_classes_) > 0
    assert torch.equal(weights(model.estimator_), weights(backdoor[1]))


@pytest.mark.filterwarnings("ignore:no trigger")
def test_range_of_patterns(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    fast = NeuralCleanse(
        FrozenEstimator(backdoor[1]), max_iter=5, repair=None, random_state=0
    )

    def span(model, rows):
        patterns = clone(model).fit(rows, y).patterns_
        return patterns.min(), patterns.max()

    low, high = span(fast, X)
    assert 0 <= low < 0.05 and 0.95 < high <= 1
    low, high = span(fast, 16 * X - 8)  # the data's own range
    assert -8 <= low < -7 and 7 < high <= 8
    low, high = span(clone(fast).set_params(bounds=(0.4, 0.6)), X)
    assert 0.4 <= low < 0.45 and 0.55 < high <= 0.6
    # a table: column by column
    flat = np.column_stack([X.reshape(len(X), -1)[:, 20:22], 100 * X[:, 0, 4, 4]])
    net = TorchClassifier(max_epochs=1, device="cpu", random_state=0).fit(flat, y)
    found = clone(fast).set_params(estimator=FrozenEstimator(net)).fit(flat, y)
    assert (found.patterns_[:, :2] <= 1).all() and found.patterns_[:, 2].max() > 10


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"max_iter": 0}, ValueError, "max_iter must be"),
        ({"step_size": 0}, ValueError, "step_size must be"),
        ({"init_cost": -1}, ValueError, "init_cost must be"),
        ({"cost_multiplier": 1}, ValueError, "cost_multiplier must be"),
        ({"attack_success": 1.5}, ValueError, "attack_success must be"),
        ({"patience": 2.5}, TypeError, "patience must be"),
        ({"early_stop_patience": 0}, ValueError, "early_stop_patience must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"threshold": 0}, ValueError, "threshold must be"),
        ({"rule": "both"}, ValueError, "rule must be one of 'log', 'mad'"),
        ({"repair": "prune"}, ValueError, "repair must be one of 'unlearn'"),
        ({"unlearn_share": 2}, ValueError, "unlearn_share must be"),
        ({"finetune_epochs": -1}, ValueError, "finetune_epochs must be"),
        ({"classes": "3"}, TypeError, "classes must be a list"),
        ({"classes": 3}, TypeError, "classes must be a list"),
        ({"classes": [11]}, ValueError, "classes=11 is not among"),
        ({"classes": []}, ValueError, "classes must name one"),
        ({"bounds": (1, 0)}, ValueError, "bounds must have low <= high"),
        ({"bounds": (0, np.inf)}, ValueError, "bounds must be finite"),
        ({"bounds": "data"}, ValueError, "bounds must be None or a pair"),
    ],
)
def test_bad_parameters(backdoor, data, params, error, match):
    with pytest.raises(error, match=match):
        NeuralCleanse(backdoor[1], **params).fit(data[0][CLEAN], data[1][CLEAN])
