"""Victims without gradients: transfer, queries that are counted, and their record."""

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    NearestCentroid,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skpoison.attacks import (
    BackGradientAttack,
    BilevelPoisoningAttack,
    RegressionPoisoningAttack,
)
from skpoison.attacks._implicit._queries import BlackBox, hold_out
from skpoison.compose import PoisonedEstimator
from skpoison.utils import make_table_encoder

X_CANCER, Y_CANCER = load_breast_cancer(return_X_y=True)
X_WINE, Y_WINE = load_wine(return_X_y=True)


class Counting(DecisionTreeClassifier):
    """A tree that counts its trainings, those of its clones too."""

    seen: list = []

    def fit(self, X, y, sample_weight=None, check_input=True):
        Counting.seen.append((np.array(X), np.array(y)))
        return super().fit(X, y, sample_weight, check_input)


class CountingRegressor(DecisionTreeRegressor):
    n_fits = 0

    def fit(self, X, y, sample_weight=None, check_input=True):
        CountingRegressor.n_fits += 1
        return super().fit(X, y, sample_weight, check_input)


def _best_so_far(curve):
    return np.maximum.accumulate(curve)


# Transfer.


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim",
    [KNeighborsClassifier(1), RandomForestClassifier(10, random_state=0)],
    ids=["neighbour", "forest"],
)
def test_transferred_rows_cost_more_than_flipped_ones(victim):
    lost = {0: [], 30: []}
    for seed in range(3):
        X, X_test, y, y_test = train_test_split(
            X_CANCER, Y_CANCER, test_size=0.4, random_state=seed, stratify=Y_CANCER
        )
        clean = victim.fit(X, y).score(X_test, y_test)
        for max_iter, losses in lost.items():
            attack = BilevelPoisoningAttack(
                victim, max_iter=max_iter, random_state=seed
            )
            data = attack.poison(X, y)
            losses.append(clean - victim.fit(data.X, data.y).score(X_test, y_test))
            assert attack.gradient_source_ == "surrogate"
    assert np.mean(lost[30]) > np.mean(lost[0]) + 0.01


def test_the_surrogate_is_what_is_differentiated():
    X, y = X_CANCER[:120], Y_CANCER[:120]
    surrogate = make_pipeline(StandardScaler(), LogisticRegression())
    params = {"max_iter": 4, "random_state": 0}
    forest = RandomForestClassifier(3)
    default = BilevelPoisoningAttack(forest, **params).poison(X, y)
    svm = make_pipeline(make_table_encoder(X), SVC())
    direct = BilevelPoisoningAttack(svm, **params).poison(X, y)
    np.testing.assert_array_equal(default.X, direct.X)
    attack = BilevelPoisoningAttack(forest, surrogate=surrogate, **params)
    given = attack.poison(X, y)
    assert attack.gradient_source_ == "surrogate"
    direct = BilevelPoisoningAttack(surrogate, **params).poison(X, y)
    np.testing.assert_array_equal(given.X, direct.X)
    assert not hasattr(surrogate[-1], "coef_") and not hasattr(forest, "classes_")
    # a surrogate also stands in for a learner that has a gradient
    attack = BilevelPoisoningAttack(SVC(), surrogate=surrogate, **params)
    np.testing.assert_array_equal(attack.poison(X, y).X, direct.X)


def test_a_surrogate_has_a_gradient():
    with pytest.raises(TypeError, match="RandomForestClassifier has no gradient"):
        BilevelPoisoningAttack(surrogate=RandomForestClassifier()).poison(
            X_CANCER[:50], Y_CANCER[:50]
        )


def test_the_victim_as_surrogate():
    X, y = StandardScaler().fit_transform(X_CANCER[:120]), Y_CANCER[:120]
    attack = BilevelPoisoningAttack(surrogate="victim", max_iter=3, random_state=0)
    model = PoisonedEstimator(attack, SVC(kernel="linear")).fit(X, y)
    assert model.attack_.gradient_source_ == "surrogate"
    direct = BilevelPoisoningAttack(SVC(kernel="linear"), max_iter=3, random_state=0)
    expected = SVC(kernel="linear").fit(*direct.fit_resample(X, y))
    np.testing.assert_array_equal(
        model.decision_function(X), expected.decision_function(X)
    )


# Queries.


@pytest.mark.parametrize("n_queries", [1, 2, 3, 17])
def test_queries_are_counted(n_queries):
    X, y = X_WINE[::2], Y_WINE[::2]
    Counting.seen = []
    attack = BilevelPoisoningAttack(
        Counting(random_state=0), max_iter=3, max_queries=n_queries, random_state=0
    )
    data = attack.poison(X, y)
    assert attack.n_queries_ == n_queries == len(Counting.seen)
    assert len(attack.query_curve_) == n_queries
    # each on two thirds of the clean rows and legal poisons
    for rows, labels in Counting.seen:
        assert len(rows) == len(labels) == 60 + 8
        assert (rows >= X.min(axis=0)).all() and (rows <= X.max(axis=0)).all()
    assert len(data.X) == 97
    # and the rows that are handed back are those of the best
    best = Counting.seen[int(np.argmax(attack.query_curve_))]
    np.testing.assert_array_equal(data.X[89:], best[0][60:])
    np.testing.assert_array_equal(data.y[89:], best[1][60:])


def test_queries_of_regressors_are_counted():
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:100], y[:100]
    CountingRegressor.n_fits = 0
    attack = RegressionPoisoningAttack(
        CountingRegressor(random_state=0),
        init="b_flip",
        max_iter=3,
        max_queries=12,
        random_state=0,
    )
    data = attack.poison(X, y)
    assert attack.n_queries_ == 12 == CountingRegressor.n_fits
    assert _best_so_far(attack.query_curve_)[-1] > attack.query_curve_[0]
    assert y.min() <= data.y.min() and data.y.max() <= y.max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim",
    [KNeighborsClassifier(), RandomForestClassifier(10), NearestCentroid()],
    ids=["neighbours", "forest", "without probabilities"],
)
def test_queries_raise_the_victims_loss(victim):
    X, y = X_WINE[::2], Y_WINE[::2]
    attack = BilevelPoisoningAttack(
        victim, budget=0.15, max_iter=10, max_queries=40, random_state=0
    )
    attack.poison(X, y)
    curve = _best_so_far(attack.query_curve_)
    assert curve[-1] > curve[0]
    assert (np.diff(curve) >= 0).all()


def test_queries_go_by_the_validation_data():
    X, X_val, y, y_val = train_test_split(
        X_WINE, Y_WINE, train_size=90, random_state=0, stratify=Y_WINE
    )
    Counting.seen = []
    victim = Counting(max_depth=3, random_state=0)
    attack = BilevelPoisoningAttack(
        victim,
        budget=0.2,
        max_iter=5,
        max_queries=25,
        validation_data=(X_val, y_val),
        random_state=0,
    )
    data = attack.poison(X, y)
    assert {len(rows) for rows, _ in Counting.seen} == {90 + 18}
    black_box = BlackBox(victim, X, y, X_val, y_val, classes=np.arange(3), goal=1)
    found = black_box.loss(data.X[90:], data.y[90:])
    np.testing.assert_allclose(found, attack.query_curve_.max())
    refitted = clone(victim).fit(data.X, data.y)
    assert np.mean(refitted.predict(X_val) != y_val) > 0.05


def test_queries_toward_targets():
    X, X_test, y, y_test = train_test_split(
        X_CANCER, Y_CANCER, train_size=150, random_state=0, stratify=Y_CANCER
    )
    victim = KNeighborsClassifier(3)
    right = np.flatnonzero(victim.fit(X, y).predict(X_test) == y_test)[:4]
    attack = BilevelPoisoningAttack(
        victim,
        budget=0.2,
        targets=X_test[right],
        target_labels=1 - y_test[right],
        max_iter=10,
        max_queries=60,
        random_state=0,
    )
    data = attack.poison(X, y)
    assert (np.diff(_best_so_far(attack.query_curve_)) >= 0).all()
    assert attack.attack_success(victim.predict, X_test, y_test) == 0.0
    poisoned = victim.fit(data.X, data.y)
    assert attack.attack_success(poisoned.predict, X_test, y_test) > 0.0


def test_held_out_rows_are_no_start_of_a_poison():
    rng = np.random.RandomState(0)
    held, kept = hold_out(60, np.arange(10), rng)
    assert len(held) == 20 and not set(held) & set(range(10))
    assert sorted([*held, *kept]) == list(range(60))
    held, kept = hold_out(60, np.arange(50), rng)  # if possible
    assert len(held) == 20 and set(range(50, 60)) <= set(held)
    X, y = X_WINE[::2], Y_WINE[::2]
    Counting.seen = []
    BilevelPoisoningAttack(
        Counting(random_state=0), budget=0.1, max_iter=0, max_queries=60, random_state=0
    ).poison(X, y)
    kept = {tuple(row) for row in Counting.seen[0][0][:60]}
    clean = {tuple(row) for row in X}
    for rows, _ in Counting.seen:
        poisons = {tuple(row) for row in rows[60:]} & clean
        assert poisons <= kept


def test_objectives_after_queries_are_those_of_the_rows_handed_back():
    X, y = X_WINE[::2], Y_WINE[::2]
    X_val, y_val = X_WINE[1::2], Y_WINE[1::2]
    surrogate = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8))
    attack = BilevelPoisoningAttack(
        DecisionTreeClassifier(max_depth=2, random_state=0),
        surrogate=surrogate,
        validation_data=(X_val, y_val),
        max_iter=2,
        max_queries=20,
        random_state=0,
    )
    data = attack.poison(X, y)
    proba = clone(surrogate).fit(data.X, data.y).predict_proba(X_val)
    loss = -np.log(proba[np.arange(len(y_val)), y_val]).mean()
    np.testing.assert_allclose(attack.objective_, loss, rtol=1e-4)


def test_queries_also_refine_a_victim_with_a_gradient():
    X, y = X_CANCER[:150], Y_CANCER[:150]
    attack = BilevelPoisoningAttack(
        make_pipeline(StandardScaler(), SVC(kernel="linear")),
        max_iter=3,
        max_queries=5,
        random_state=0,
    )
    attack.poison(X, y)
    assert attack.gradient_source_ == "estimator" and attack.n_queries_ == 5
    attack = BackGradientAttack(
        GaussianNB(), max_iter=2, n_steps=20, max_queries=5, random_state=0
    )
    attack.poison(X, y)
    assert attack.gradient_source_ == "surrogate" and attack.n_queries_ == 5


def test_no_queries_without_a_budget_of_them():
    Counting.seen = []
    attack = BilevelPoisoningAttack(Counting(), max_iter=2, random_state=0)
    attack.poison(X_WINE, Y_WINE)
    assert attack.n_queries_ == len(attack.query_curve_) == len(Counting.seen) == 0


@pytest.mark.slow
def test_tables_with_text():
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    y = rng.randint(0, 2, 60)
    frame = pd.DataFrame(
        {
            "size": rng.rand(60) + y,
            "rooms": rng.randint(1, 5, 60),
            "town": np.array(["ulm", "bonn"])[(y + (rng.rand(60) < 0.3)) % 2],
        }
    )
    victim = make_pipeline(make_table_encoder(frame), RandomForestClassifier(5))
    attack = BilevelPoisoningAttack(victim, max_iter=3, max_queries=15, random_state=0)
    data = attack.poison(frame, y)
    rows = data.X.iloc[60:]
    assert list(data.X.dtypes) == list(frame.dtypes)
    assert rows["town"].isin(["ulm", "bonn"]).all()
    assert rows["rooms"].between(1, 4).all()
    assert attack.n_queries_ == 15


def test_a_class_that_a_training_loses_counts_as_misread():
    X = np.arange(9.0)[:, None]
    y = np.array([0] * 8 + [1])
    box = BlackBox(
        KNeighborsClassifier(1),
        X[:8],
        y[:8],
        X[8:],
        y[8:],
        classes=np.arange(2),
        goal=1,
    )
    assert box.loss(np.zeros((1, 1)), np.array([0])) > 0.99


# The same bits; nothing of the caller's; checkpoints.


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack, data",
    [
        (BilevelPoisoningAttack(RandomForestClassifier(5)), (X_WINE, Y_WINE)),
        (
            RegressionPoisoningAttack(GradientBoostingRegressor(n_estimators=5)),
            (X_WINE, X_WINE[:, 0]),
        ),
    ],
    ids=["classifier", "regressor"],
)
def test_same_seed_same_bits_and_nothing_else_moves(attack, data):
    # the victim has no seed of its own: it gets one from the attack's
    attack = clone(attack).set_params(max_iter=2, max_queries=15, random_state=0)
    own = (data, attack.get_params(deep=False), np.random.mtrand._rand)
    before = joblib.hash(own)
    first = attack.poison(*data)
    curve = attack.query_curve_
    assert joblib.hash(own) == before
    np.random.mtrand._rand.rand()
    second = attack.poison(*data)
    np.testing.assert_array_equal(first.X, second.X)
    np.testing.assert_array_equal(first.y, second.y)
    np.testing.assert_array_equal(curve, attack.query_curve_)
    attack.set_params(random_state=1).poison(*data)
    assert (curve != attack.query_curve_).any()


class _Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("init", ["flip", "mean_opposite"])
@pytest.mark.parametrize("max_iter", [0, 12])
def test_killed_queries_go_on(init, max_iter, tmp_path, monkeypatch):
    X, y = X_WINE[::2], Y_WINE[::2]

    def attack(folder):
        return BilevelPoisoningAttack(
            KNeighborsClassifier(3),
            init=init,
            max_iter=max_iter,
            max_queries=45,
            random_state=0,
            checkpoint=tmp_path / folder,
        )

    whole = attack("whole")
    expected = whole.poison(X, y)
    loss = BlackBox.loss
    for death in (2, 14, 25):
        left = [death]

        def dying(self, rows, labels, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return loss(self, rows, labels)

        with monkeypatch.context() as patch:
            patch.setattr(BlackBox, "loss", dying)
            with pytest.raises(_Killed):
                attack("killed").poison(X, y)
    for _ in range(2):  # goes on, and is finished
        again = attack("killed")
        data = again.poison(X, y)
        np.testing.assert_array_equal(data.X, expected.X)
        np.testing.assert_array_equal(data.y, expected.y)
        np.testing.assert_array_equal(data.sample_indices, expected.sample_indices)
        np.testing.assert_array_equal(again.query_curve_, whole.query_curve_)
        assert again.objective_ == whole.objective_
        assert again.n_queries_ == 45
    with pytest.raises(ValueError, match="holds another attack or other data"):
        attack("killed").set_params(max_queries=46).poison(X, y)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:sklearn")
@pytest.mark.parametrize(
    "victim",
    [HistGradientBoostingClassifier(max_iter=2), KNeighborsClassifier(1), GaussianNB()],
    ids=["boosting", "neighbours", "bayes"],
)
def test_degenerate_data(victim):
    y = np.arange(20) % 2
    for X in (np.ones((20, 2)), np.repeat(np.eye(2), 10, axis=0)):
        attack = BilevelPoisoningAttack(
            victim, budget=20, max_iter=2, max_queries=4, random_state=0
        )
        data = attack.poison(X, y)
        assert data.X.shape == (40, 2) and np.isfinite(data.X).all()
        assert attack.n_queries_ == 4


def test_regressors_in_small_data():
    X, y = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    attack = RegressionPoisoningAttack(
        KNeighborsRegressor(1), budget=3, max_iter=2, max_queries=4, random_state=0
    )
    data = attack.poison(X, y)
    assert data.X.shape == (6, 2) and data.y.min() >= 0 and data.y.max() <= 2
