"""The hidden trigger: pairs, what is hidden, and what it opens."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skpoison.attacks import PatchTrigger
from skpoison.attacks._craft._features import (
    FeatureMap,
    Pairs,
    greedy_pairs,
    places_of,
)
from skpoison.attacks._craft._members import stack
from skpoison.attacks._hidden_trigger import HiddenTriggerBackdoorAttack
from skpoison.models import TorchClassifier
from skpoison.utils import RandomStreams
from skpoison.utils.estimator_checks import check_attack

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = (X_DIGITS / 16).astype(np.float32)
X, Y = X_DIGITS[1000:1500], Y_DIGITS[1000:1500]
X_TEST, Y_TEST = X_DIGITS[1500:], Y_DIGITS[1500:]
PATCH = PatchTrigger(
    "solid", size=2, value=1.0, margin=0, position="top_left", input_shape=(8, 8)
)


@pytest.fixture(scope="module")
def net():
    net = TorchClassifier(max_epochs=20, device="cpu", random_state=0)
    return net.fit(X_DIGITS[:1000], Y_DIGITS[:1000])


def _feature_map(net):
    groups = stack([net.module_], (64,), torch.device("cpu"))
    return FeatureMap(groups, [places_of(groups[0])], streams=RandomStreams(0))


def _attack(net, **params):
    common = {
        "target_class": 3,
        "source_class": 8,
        "budget": 40,
        "eps": 0.2,
        "surrogate": FrozenEstimator(net),
        "max_iter": 60,
        "device": "cpu",
        "random_state": 0,
    }
    return HiddenTriggerBackdoorAttack(PATCH, **{**common, **params})


# Pairs


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (5, 9)])
def test_greedy_pairs_are_one_to_one_and_nearest_first(shape):
    rng = np.random.RandomState(0)
    for _ in range(20):
        cost = rng.rand(*shape)
        rest, expected = cost.copy(), np.full(shape[0], -1)
        for _ in range(shape[0]):
            i, j = np.unravel_index(rest.argmin(), shape)
            expected[i] = j
            rest[i], rest[:, j] = np.inf, np.inf
        np.testing.assert_array_equal(greedy_pairs(cost), expected)


def test_greedy_pairs_are_one_to_one_among_ties_and_nans():
    cost = np.zeros((5, 5))
    cost[2], cost[:, 3] = np.nan, np.inf
    assert sorted(greedy_pairs(cost)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("matching", ["greedy", "hungarian"])
def test_each_poison_has_a_source_of_its_own(net, matching):
    rows = torch.from_numpy(X[Y == 3][:20])
    sources = torch.from_numpy(PATCH.fit(X).apply(X[Y == 8]))
    assert len(sources) > 20
    features = _feature_map(net)
    objective = Pairs(features, rows, sources, matching)
    seen = set()
    for step in range(3):
        value, _ = objective(0 * rows, step)
        assert len(set(objective.drawn)) == 20  # one to one, without replacement
        seen |= set(objective.drawn)
        here, there = (features.of(a)[0][0] for a in (rows, sources[objective.drawn]))
        apart = (here - there).square().sum(1).mean()
        assert float(value) == pytest.approx(float(apart), rel=1e-4)
        if matching == "hungarian":
            cost = torch.cdist(here, there).square().numpy()
            i, j = linear_sum_assignment(cost)
            assert float(value) == pytest.approx(cost[i, j].mean(), rel=1e-4)
    assert len(seen) > 20  # drawn anew in each step


def test_fewer_sources_than_poisons_serve_evenly(net):
    rows = torch.from_numpy(X[Y == 3][:20])
    objective = Pairs(_feature_map(net), rows, rows[:6] + 0.1, "greedy")
    objective(0 * rows, 0)
    assert set(np.bincount(objective.drawn, minlength=6)) <= {3, 4}


# The attack


def test_the_trigger_is_hidden_in_training_and_opens_the_door_later(net):
    features = _feature_map(net)

    def of(rows):
        return features.of(torch.from_numpy(rows))[0][0].numpy()

    attack = _attack(net)
    data = attack.poison(X, Y)
    rows = attack.poison_indices_
    assert (Y[rows] == 3).all() and abs(data.X - X).max() <= 0.2 + 1e-6
    assert (data.X[rows].reshape(-1, 8, 8)[:, :2, :2] < 1).any((1, 2)).all()
    assert attack.loss_curve_[-1] < 0.5 * attack.loss_curve_[0]
    noise = X.copy()
    signs = np.random.RandomState(0).choice([-1, 1], size=noise[rows].shape)
    noise[rows] = np.clip(noise[rows] + 0.2 * signs, 0, 1)
    found = []
    for poisoned in (X, noise, data.X):
        victim = LogisticRegression(max_iter=1000).fit(of(poisoned), Y)
        assert victim.score(of(X_TEST), Y_TEST) > 0.85
        success = attack.attack_success(
            lambda A, victim=victim: victim.predict(of(A)), X_TEST, Y_TEST
        )
        found.append(success)
    clean, noisy, hidden = found
    assert clean < 0.1 and hidden > noisy + 0.15 and hidden > clean + 0.25


def test_outcomes_are_those_of_the_source_class(net):
    attack = _attack(net, max_iter=1).fit(X, Y)
    asked = []

    def predict(rows):
        asked.append(rows)
        return np.full(len(rows), 3)

    assert attack.attack_success(predict, X_TEST, Y_TEST) == 1
    np.testing.assert_array_equal(
        asked[0], PATCH.fit(X).apply(X_TEST[Y_TEST == 8]).astype(np.float32)
    )
    assert len(attack.attack_outcomes(predict, X_TEST[:0], Y_TEST[:0])) == 0
    assert _attack(net, source_class=None, max_iter=1).fit(X, Y).source_class_ == 4


@pytest.mark.parametrize(
    "params, message",
    [
        ({"matching": "random"}, "matching must be one of"),
        ({"source_class": 3}, "source_class and target_class are both 3"),
        ({"source_class": 12}, "source_class=12 is not among the classes"),
    ],
)
def test_bad_parameters(net, params, message):
    with pytest.raises(ValueError, match=message):
        _attack(net, **params).fit(X, Y)


@pytest.mark.slow
@pytest.mark.parametrize("matching", ["greedy", "hungarian"])
def test_attack_checks(matching):
    surrogate = TorchClassifier(max_epochs=1, device="cpu")
    check_attack(
        HiddenTriggerBackdoorAttack(
            matching=matching, surrogate=surrogate, max_iter=2, device="cpu"
        )
    )
