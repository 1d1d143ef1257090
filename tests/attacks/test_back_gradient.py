"""Poisons by reversed training: damage to networks, and both ways to reverse."""

import pickle

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_blobs
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from skpoison.attacks import BackGradientAttack, BilevelPoisoningAttack
from skpoison.attacks._implicit._ascent import PoisonProblem
from skpoison.compose import PoisonedEstimator


def _small(n=60, seed=0):
    X, y = make_blobs(n, 4, centers=2, cluster_std=3.0, random_state=seed)
    return MinMaxScaler().fit_transform(X), y


def _network(**params):
    """A small network, trained much as the attack trains it."""
    import torch

    from skpoison.models import MLP, TorchClassifier

    options = {
        "module__hidden": [5],
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__weight_decay": 0.01,
        "max_epochs": 60,
        "lr": 0.1,
        "batch_size": 500,
        "device": "cpu",
        "random_state": 0,
    }
    return TorchClassifier(MLP, **{**options, **params})


def test_a_logistic_regression_loses_more_than_to_flipped_rows():
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X, y, train_size=200, random_state=0, stratify=y
    )
    victim = make_pipeline(MinMaxScaler(), LogisticRegression())
    clean = victim.fit(X, y).score(X_test, y_test)
    lost = {}
    for max_iter in (0, 40):
        attack = BackGradientAttack(victim, max_iter=max_iter, random_state=0)
        data = attack.poison(X, y)
        lost[max_iter] = clean - victim.fit(data.X, data.y).score(X_test, y_test)
    assert lost[40] > 0.05 and lost[40] > 3 * lost[0]
    assert attack.gradient_source_ == "estimator"


def test_long_training_gives_the_poisons_of_the_optimum():
    X, y = _small()
    victim = LogisticRegression()
    params = {"budget": 4, "max_iter": 5, "random_state": 0}
    unrolled = BackGradientAttack(victim, n_steps=1500, **params).poison(X, y)
    implicit = BilevelPoisoningAttack(victim, **params).poison(X, y)
    np.testing.assert_allclose(unrolled.X, implicit.X, atol=1e-4)


@pytest.mark.parametrize(
    "params, tolerance",
    [
        ({}, 1e-6),
        ({"momentum": 0.5, "n_steps": 40}, 1e-6),
        ({"momentum": 0.0, "learning_rate": 0.1, "n_steps": 50}, 1e-3),
    ],
    ids=str,
)
def test_both_ways_to_reverse_agree(params, tolerance):
    X, y = _small()
    rows = [
        BackGradientAttack(
            LogisticRegression(), reverse=reverse, max_iter=10, random_state=0, **params
        ).poison(X, y)
        for reverse in ("exact", "back_gradient")
    ]
    np.testing.assert_allclose(rows[0].X, rows[1].X, atol=tolerance)


@pytest.mark.parametrize("strategy", ["joint", "greedy", "coordinate"])
def test_strategies(strategy):
    X, y = _small()
    attack = BackGradientAttack(
        LogisticRegression(),
        budget=3,
        n_steps=30,
        strategy=strategy,
        max_iter=4,
        random_state=0,
    )
    attack.poison(X, y)
    assert attack.objective_ > attack.start_objective_


@pytest.mark.long
def test_a_network_loses_more_than_to_flipped_rows():
    torch = pytest.importorskip("torch")
    X, y = load_breast_cancer(return_X_y=True)
    X = MinMaxScaler().fit_transform(X)
    victim = _network()
    state = torch.random.get_rng_state()
    before = joblib.hash(victim.get_params(deep=False))
    scores = {"clean": [], 0: [], 25: []}
    for seed in (1, 2):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, train_size=120, random_state=seed, stratify=y
        )
        fitted = clone(victim).fit(X_train, y_train)
        scores["clean"].append(fitted.score(X_test, y_test))
        for max_iter in (0, 25):
            attack = BackGradientAttack(
                victim,
                budget=0.15,
                max_iter=max_iter,
                n_steps=60,
                learning_rate=0.1,
                random_state=seed,
            )
            data = attack.poison(X_train, y_train)
            fitted = clone(victim).fit(data.X, data.y)
            scores[max_iter].append(fitted.score(X_test, y_test))
        assert attack.gradient_source_ == "estimator"
        assert attack.objective_ > 1.4 * attack.start_objective_
    clean, flipped, optimised = (np.mean(s) for s in scores.values())
    assert clean - optimised > 0.05
    assert clean - optimised > 2 * (clean - flipped)
    assert (state == torch.random.get_rng_state()).all()
    assert joblib.hash(victim.get_params(deep=False)) == before
    assert not hasattr(victim, "net_")


@pytest.mark.slow
def test_a_fitted_network_is_not_touched():
    pytest.importorskip("torch")
    X, y = _small()
    victim = _network(max_epochs=2).fit(X.astype(np.float32), y)
    before = pickle.dumps(
        [(p.detach().numpy(), p.grad.numpy()) for p in victim.module_.parameters()]
    )
    rows = [
        BackGradientAttack(
            victim, reverse=reverse, n_steps=25, max_iter=5, random_state=0
        ).poison(X, y)
        for reverse in ("exact", "back_gradient", "back_gradient")
    ]
    after = [(p.detach().numpy(), p.grad.numpy()) for p in victim.module_.parameters()]
    assert pickle.dumps(after) == before
    np.testing.assert_allclose(rows[0].X, rows[1].X, atol=1e-6)
    np.testing.assert_array_equal(rows[1].X, rows[2].X)


def test_targets_are_read_as_wanted():
    X, y = _small()
    X_test, y_test = _small(30, seed=1)
    victim = LogisticRegression(C=10)
    clean = victim.fit(X, y).predict(X_test)
    attack = BackGradientAttack(
        victim,
        budget=0.3,
        targets=X_test[:1],
        target_labels=1 - clean[0],
        random_state=0,
    )
    data = attack.poison(X, y)
    assert attack.attack_success(victim.predict, X_test, y_test) == 0.0
    victim.fit(data.X, data.y)
    assert attack.attack_success(victim.predict, X_test, y_test) == 1.0


def test_the_victim_around_it():
    X, y = _small()
    attack = BackGradientAttack("victim", budget=0.3, max_iter=20, random_state=0)
    model = PoisonedEstimator(
        attack, make_pipeline(StandardScaler(), LogisticRegression())
    )
    poisoned = model.fit(X, y).score(X, y)
    model.set_params(attack__budget=0)
    assert poisoned < model.fit(X, y).score(X, y)


@pytest.mark.parametrize("victim", [RandomForestClassifier(5), SVC()], ids=repr)
def test_others_have_a_logistic_regression_as_surrogate(victim):
    X, y = _small()
    attack = BackGradientAttack(victim, max_iter=3, n_steps=20, random_state=0)
    data = attack.poison(X, y)
    assert attack.gradient_source_ == "surrogate"
    plain = BackGradientAttack(max_iter=3, n_steps=20, random_state=0).poison(X, y)
    np.testing.assert_array_equal(data.X, plain.X)


def test_a_surrogate_that_descends_is_needed():
    X, y = _small()
    with pytest.raises(TypeError, match="SVC is not trained by gradient descent"):
        BackGradientAttack(surrogate=SVC()).poison(X, y)


def test_nothing_of_the_callers_changes():
    X, y = _small()
    victim = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    attack = BackGradientAttack(victim, n_steps=20, max_iter=3, random_state=0)
    own = (X, y, attack.get_params(deep=False), np.random.mtrand._rand)
    before = joblib.hash(own)
    first = attack.poison(X, y)
    assert joblib.hash(own) == before
    np.testing.assert_array_equal(first.X, attack.poison(X, y).X)


class _Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("network", [False, True])
def test_a_killed_search_goes_on(network, tmp_path, monkeypatch):
    X, y = _small()
    victim = LogisticRegression()
    if network:
        pytest.importorskip("torch")
        victim = _network()

    def attack(folder):
        return BackGradientAttack(
            victim,
            budget=3,
            n_steps=10,
            max_iter=22,
            tol=0.0,
            random_state=0,
            checkpoint=tmp_path / folder,
        )

    whole = attack("whole")
    expected = whole.poison(X, y)
    solve = PoisonProblem.solve
    left = [15]

    def dying(self, poisons):
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return solve(self, poisons)

    with monkeypatch.context() as patch:
        patch.setattr(PoisonProblem, "solve", dying)
        with pytest.raises(_Killed):
            attack("killed").poison(X, y)
    again = attack("killed")
    np.testing.assert_array_equal(again.poison(X, y).X, expected.X)
    np.testing.assert_array_equal(again.loss_curve_, whole.loss_curve_)
    with pytest.raises(ValueError, match="holds another attack or other data"):
        attack("killed").set_params(n_steps=11).poison(X, y)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_steps": 0}, "n_steps must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0.0, got 0.0"),
        ({"learning_rate": "adaptive"}, "learning_rate must be one of 'auto'"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"reverse": "forward"}, "reverse must be one of 'back_gradient', 'exact'"),
        ({"estimator": Ridge()}, r"estimator must be a classifier, got Ridge\(\)"),
        ({"estimator": "victim"}, "estimator='victim' needs a PoisonedEstimator"),
        ({"init": "random"}, "init must be one of"),
    ],
)
def test_bad_parameters_are_named_before_any_work(params, message, monkeypatch):
    monkeypatch.setattr(PoisonProblem, "solve", None)
    X, y = _small()
    attack = BackGradientAttack(random_state=0).set_params(**params)
    for call in (attack.fit, attack.poison):
        with pytest.raises(ValueError, match=message):
            call(X, y)


def test_corners():
    X, y = _small()
    with pytest.warns(UserWarning, match="y holds one class"):
        assert BackGradientAttack().poison(X, 0 * y).X is X
    attack = BackGradientAttack(n_steps=20, max_iter=2, budget=60, random_state=0)
    for table in (np.ones((60, 2)), np.repeat(X[:6], 10, axis=0)):
        data = attack.poison(table, y)
        assert np.isfinite(data.X).all() and len(data.X) == 120
