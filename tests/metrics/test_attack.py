"""Intervals, and the scorer that finds the attack."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler

from skpoison.attacks import BackdoorAttack, CleanLabelBackdoorAttack, ColumnTrigger
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.metrics import attack_success_score, wilson_interval

X, Y = load_digits(return_X_y=True)
ATTACK = BackdoorAttack(ColumnTrigger([61, 62, 63], values=16.0), random_state=0)


def test_wilson_against_known_values():
    # Brown, Cai and DasGupta's standard cases, and a symmetric one
    low, high = wilson_interval(50, 100)
    assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)


def test_wilson_holds_its_share():
    n = np.arange(1, 300)
    for wins in (np.zeros_like(n), n, n // 2):
        low, high = wilson_interval(wins, n)
        assert (low <= wins / n).all() and (wins / n <= high).all()


def test_wilson_covers():
    rng = np.random.RandomState(0)
    wins = rng.binomial(40, 0.15, size=20000)
    low, high = wilson_interval(wins, 40)
    assert 0.93 < ((low <= 0.15) & (0.15 <= high)).mean() < 0.97


def test_wilson_input():
    low, high = wilson_interval([0, 3], [0, 6])
    assert np.isnan(low[0]) and np.isnan(high[0]) and low[1] < 0.5 < high[1]
    with pytest.raises(ValueError, match="n_successes must lie between"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence=1.5)


def test_the_attack_is_found_wherever_it_is():
    victim = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=300))
    poisoned = PoisonedEstimator(ATTACK, victim)
    direct = attack_success_score(poisoned.fit(X, Y), X, Y)
    assert direct > 0.5
    search = GridSearchCV(poisoned, {"attack__budget": [0.1]}, cv=2).fit(X, Y)
    assert attack_success_score(search, X, Y) == direct
    around = make_pipeline(FunctionTransformer(), poisoned).fit(X, Y)
    assert attack_success_score(around, X, Y) == direct
    keep = FilteredEstimator(_KeepsAll(), poisoned).fit(X, Y)
    assert attack_success_score(keep, X, Y) == direct


class _KeepsAll:
    def fit_predict(self, X, y):
        return np.ones(len(X))

    def get_params(self, deep=True):
        return {}

    def set_params(self, **params):
        return self


def test_rows_are_mapped_by_the_steps_before_the_attack():
    attack = CleanLabelBackdoorAttack(
        ColumnTrigger([61, 62, 63], values=1.0),
        target_class=3,
        budget=0.08,
        random_state=0,
    )
    late = make_pipeline(MinMaxScaler(), attack, LogisticRegression(max_iter=300))
    late.fit(X, Y)
    scaled = late[0].transform(X)
    expected = late[1].attack_success(late[-1].predict, scaled, Y)
    assert attack_success_score(late, X, Y) == expected > 0.05


def test_the_outermost_estimator_has_the_last_word():
    model = _Stubborn(PoisonedEstimator(ATTACK, LogisticRegression(max_iter=50)))
    assert attack_success_score(model.fit(X, Y), X, Y) == 1.0
    inner = make_pipeline(CleanLabelBackdoorAttack(random_state=0), MinMaxScaler())
    nested = make_pipeline(inner, LogisticRegression(max_iter=300)).fit(X, Y)
    assert 0 <= attack_success_score(nested, X, Y) < 0.5


class _Stubborn:
    """Fits what it is given and says 0 to everything."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimator_ = self.estimator.fit(X, y)
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)


def test_weights_reach_the_fit_of_a_search():
    GridSearchCV(
        PoisonedEstimator(ATTACK, LogisticRegression(max_iter=50)),
        {"attack__budget": [0.1]},
        scoring={"attack": attack_success_score},
        refit=False,
        cv=2,
    ).fit(X, Y, sample_weight=np.ones(len(Y)))


def test_without_an_attack_it_is_nan():
    plain = LogisticRegression(max_iter=50).fit(X, Y)
    assert np.isnan(attack_success_score(plain, X, Y))
    none = PoisonedEstimator(None, LogisticRegression(max_iter=50)).fit(X, Y)
    assert np.isnan(attack_success_score(none, X, Y))
