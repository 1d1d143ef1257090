"""Rows added against a regressor: the starts of the paper, damage, legal rows."""

import joblib
import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, make_regression
from sklearn.dummy import DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
)
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVR

from skpoison.attacks import RegressionPoisoningAttack
from skpoison.attacks._implicit._ascent import PoisonProblem
from skpoison.compose import PoisonedEstimator

X_DIABETES, Y_DIABETES = load_diabetes(return_X_y=True)
INITS = ["inv_flip", "b_flip", "inf_flip", "alfa_tilt", "adaptive", "statp", "best"]


def _small(n=60, n_features=3, seed=0):
    X, y = make_regression(n, n_features, noise=10.0, random_state=seed)
    return X, y


def _poisons(data):
    return data.X[data.poison_indices], data.y[data.poison_indices]


# Damage.


def _factors(n_seeds=10, on_validation=False, **params):
    """Return what poisons multiply the test error with, in the published setting."""
    X = (X_DIABETES - X_DIABETES.min(axis=0)) / np.ptp(X_DIABETES, axis=0)
    y = (Y_DIABETES - Y_DIABETES.min()) / np.ptp(Y_DIABETES)
    factors = []
    for seed in range(n_seeds):
        order = np.random.RandomState(seed).permutation(442)
        train, held, test = np.split(order, [240, 340])
        attack = RegressionPoisoningAttack(
            Ridge(0.01 * 300), budget=60, bounds=(0, 1), random_state=seed
        ).set_params(**params)
        if on_validation:
            attack.set_params(validation_data=(X[held], y[held]))
        data = attack.poison(X[train], y[train])
        clean = Ridge(0.01 * 240).fit(X[train], y[train]).predict(X[test])
        poisoned = Ridge(0.01 * 300).fit(data.X, data.y).predict(X[test])
        factors.append(
            mean_squared_error(y[test], poisoned) / mean_squared_error(y[test], clean)
        )
    return np.mean(factors), np.std(factors, ddof=1) / np.sqrt(n_seeds)


@pytest.mark.parametrize(
    "params, figure",
    [
        ({"init": "inv_flip", "max_iter": 0}, 1.23),
        ({"init": "b_flip", "max_iter": 0}, 1.42),
        ({"init": "statp", "max_iter": 0}, 2.26),
    ],
    ids=["inverse flip", "boundary flip", "StatP"],
)
def test_figures_of_starts_on_diabetes(params, figure):
    factor, error = _factors(**params)
    assert abs(factor - figure) < 3 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    "params, figure",
    [
        ({"init": "best", "move_targets": False}, 3.04),
        ({"init": "best"}, 3.04),
        ({"init": "best", "on_validation": True}, 2.95),
        ({"init": "inf_flip", "move_targets": False}, 3.04),
        ({"init": "inf_flip", "strategy": "coordinate", "max_iter": 3}, 3.04),
    ],
    ids=["OptP x", "OptP", "OptP validation", "BGD", "coordinate"],
)
def test_figures_of_optimised_rows_on_diabetes(params, figure):
    n_seeds = 3 if "strategy" in params else 10
    factor, error = _factors(n_seeds, **params)
    assert factor > figure - 3 * error


@pytest.mark.parametrize(
    "victim",
    [Ridge(), LinearRegression(), Lasso(0.5), ElasticNet(0.1), SVR(C=100.0)],
    ids=repr,
)
def test_every_regressor_with_a_gradient_is_hurt(victim):
    X, X_test = X_DIABETES[:150], X_DIABETES[150:]
    y, y_test = Y_DIABETES[:150], Y_DIABETES[150:]
    victim = make_pipeline(StandardScaler(), victim)
    errors = {}
    for max_iter in (0, 40):
        attack = RegressionPoisoningAttack(
            victim, budget=0.15, init="inv_flip", max_iter=max_iter, random_state=0
        )
        data = attack.poison(X, y)
        poisoned = victim.fit(data.X, data.y)
        errors[max_iter] = mean_squared_error(y_test, poisoned.predict(X_test))
    clean = mean_squared_error(y_test, victim.fit(X, y).predict(X_test))
    assert attack.gradient_source_ == "estimator"
    assert attack.objective_ > 1.2 * attack.start_objective_
    assert errors[40] - clean > 1.5 * (errors[0] - clean)


def test_the_objective_is_the_error_of_the_retrained_victim():
    X, y = _small()
    attack = RegressionPoisoningAttack(Ridge(), max_iter=5, random_state=0)
    data = attack.poison(X, y)
    error = mean_squared_error(y, Ridge().fit(data.X, data.y).predict(X))
    np.testing.assert_allclose(attack.objective_, error, 1e-9)
    assert attack.objective_ == attack.loss_curve_.max()
    trials = np.abs(Ridge().fit(data.X, data.y).predict(X) - y) > y.std()
    success = attack.attack_success(Ridge().fit(data.X, data.y).predict, X, y)
    assert success == trials.mean()


# The starts.


def _start(init, X, y, n_rows, seed=0):
    attack = RegressionPoisoningAttack(
        Ridge(), init=init, budget=n_rows, max_iter=0, random_state=seed
    )
    data = attack.poison(X, y)
    assert attack.init_ == init
    rows, numbers = _poisons(data)
    return rows, numbers, data.sample_indices[data.poison_indices]


@pytest.mark.parametrize("init", ["inv_flip", "b_flip", "inf_flip", "adaptive"])
def test_numbers_of_flipped_starts(init):
    X, y = _small()
    rows, numbers, sources = _start(init, X, y, 20)
    assert len(set(sources)) == 20
    np.testing.assert_array_equal(rows, X[sources])
    low, high = y.min(), y.max()
    expected = low + high - y[sources]
    if init != "inv_flip":
        expected = np.where(y[sources] >= (low + high) / 2, low, high)
    np.testing.assert_allclose(numbers, expected, atol=1e-9)


@pytest.mark.parametrize("init", ["inf_flip", "adaptive"])
def test_rows_of_inf_flip_have_leverage_and_numbers_near_an_end(init):
    rng = np.random.RandomState(0)
    X = np.concatenate([np.zeros((40, 3)), rng.uniform(0.5, 1, (40, 3))])
    y = np.tile([0.0, 0.5, 1.0, 0.5], 20)
    found = [_start(init, X, y, 10, seed)[2] for seed in range(30)]
    assert min(map(min, found)) >= 40  # the others have no leverage
    share = np.mean(y[np.concatenate(found)] != 0.5)
    assert abs(share - 2 / 3) < 0.07  # twice the room for them, of half the rows


def test_rows_of_alfa_tilt():
    X, y = _small()
    Z, u = (X - X.min(0)) / np.ptp(X, 0), (y - y.min()) / np.ptp(y)
    hat = Z @ np.linalg.inv(Z.T @ Z + 0.01 * np.eye(3)) @ Z.T
    for seed in range(4):
        _, numbers, sources = _start("alfa_tilt", X, y, 60, seed)
        v = (numbers - y.min()) / np.ptp(y)
        # on one side of a plane all go up, on the other all go down
        np.testing.assert_allclose(v, np.rint(v), atol=1e-12)
        plane = LogisticRegression(C=1e6).fit(Z[sources], v > 0.5)
        assert plane.score(Z[sources], v > 0.5) == 1.0
        flipped = np.empty(60)
        flipped[sources] = v
        weight = hat @ (flipped - u)
        # those that pull nothing up come last
        first = np.count_nonzero(weight > 1e-9)
        assert set(sources[:first]) == set(np.flatnonzero(weight > 1e-9))


def test_statp_rows_are_corners_that_contradict_the_prediction():
    X, y = _small()
    rows, numbers, sources = _start("statp", X, y, 40)
    assert (sources == -1).all()
    corners = np.isclose(rows, X.min(axis=0)), np.isclose(rows, X.max(axis=0))
    assert np.logical_or(*corners).all()
    assert len(np.unique(rows, axis=0)) > 3
    predicted = Ridge().fit(X, y).predict(rows)
    up = predicted < (y.min() + y.max()) / 2
    np.testing.assert_allclose(numbers, np.where(up, y.max(), y.min()))


def test_best_is_the_start_of_the_largest_objective():
    X, y = _small()
    values = {}
    for init in INITS:
        attack = RegressionPoisoningAttack(
            Ridge(), init=init, budget=6, max_iter=0, random_state=0
        )
        attack.poison(X, y)
        values[init] = attack.start_objective_
        if init == "best":
            chosen = attack.init_
    best = values.pop("best")
    assert best == values[chosen] == max(values.values())


@pytest.mark.parametrize("init", INITS)
def test_smaller_budgets_begin_with_the_rows_of_larger_ones(init):
    X, y = _small()
    small, large = (
        RegressionPoisoningAttack(
            Ridge(), init=init, budget=budget, max_iter=0, random_state=0
        ).poison(X, y)
        for budget in (4, 11)
    )
    np.testing.assert_array_equal(small.X, large.X[:64])
    np.testing.assert_array_equal(small.y, large.y[:64])


@pytest.mark.parametrize("init", INITS)
def test_provenance(init):
    X, y = _small()
    attack = RegressionPoisoningAttack(init=init, budget=8, max_iter=2, random_state=0)
    data = attack.poison(X, y)
    np.testing.assert_array_equal(data.X[:60], X)
    np.testing.assert_array_equal(data.y[:60], y)
    np.testing.assert_array_equal(data.sample_indices[:60], np.arange(60))
    sources = data.sample_indices[60:]
    if attack.init_ == "statp":
        assert (sources == -1).all()
        np.testing.assert_array_equal(data.y_original, data.y[60:])
    else:
        np.testing.assert_array_equal(data.y_original, y[sources])
    assert attack.y_range_ == (y.min(), y.max())


# Legal rows.


@pytest.mark.parametrize("move_targets", [True, False])
@pytest.mark.parametrize("init", INITS)
def test_numbers_stay_in_the_range_of_y(init, move_targets):
    X, y = _small()
    attack = RegressionPoisoningAttack(
        Ridge(0.1),
        init=init,
        move_targets=move_targets,
        step_size=0.5,
        max_iter=10,
        random_state=0,
    )
    rows, numbers = _poisons(attack.poison(X, y))
    assert y.min() <= numbers.min() and numbers.max() <= y.max()
    assert (rows >= X.min(axis=0)).all() and (rows <= X.max(axis=0)).all()
    start = attack.set_params(max_iter=0).poison(X, y)
    assert (rows != start.X[60:]).any()
    if not move_targets:
        np.testing.assert_array_equal(numbers, start.y[60:])
    elif init == "inv_flip":
        assert (np.abs(numbers - start.y[60:]) > 1e-3).any()


@pytest.mark.parametrize("init", ["inv_flip", "alfa_tilt", "adaptive", "statp"])
def test_poisons_of_a_mixed_table_are_legal(init):
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    frame = pd.DataFrame(
        {
            "area": rng.lognormal(size=80),
            "rooms": rng.randint(1, 7, 80),
            "town": rng.choice(["ulm", "bonn", "jena"], 80),
            "id": np.arange(80),
        },
        index=np.arange(80) + 1000,
    )
    y = pd.Series(
        100 * frame["rooms"] + (50 * frame["area"]).astype(int),
        frame.index,
        name="rent",
    )
    encoder = make_column_transformer(
        (StandardScaler(), ["area", "rooms"]), (OneHotEncoder(), ["town"])
    )
    attack = RegressionPoisoningAttack(
        make_pipeline(encoder, Ridge()),
        init=init,
        mutable=["area", "rooms", "town"],
        max_iter=8,
        step_size=0.3,
        random_state=0,
    )
    data = attack.poison(frame, y)
    assert list(data.X.dtypes) == list(frame.dtypes)
    assert data.X.iloc[:80].equals(frame)
    rows = data.X.iloc[80:]
    assert rows["area"].between(frame["area"].min(), frame["area"].max()).all()
    assert rows["rooms"].isin(range(1, 7)).all()
    assert rows["town"].isin(["ulm", "bonn", "jena"]).all()
    assert rows["id"].isin(frame["id"]).all()
    assert data.y.name == "rent" and data.y.index.equals(data.X.index)
    assert data.y.between(y.min(), y.max()).all()
    assert attack.objective_ > attack.start_objective_


def test_containers_come_back_in_kind():
    X, y = _small()
    attack = RegressionPoisoningAttack(init="b_flip", max_iter=2, random_state=0)
    array = attack.poison(X, y)
    lists = attack.poison(X.tolist(), y.tolist())
    assert isinstance(lists.X, list) and isinstance(lists.y, list)
    np.testing.assert_array_equal(lists.y, array.y)
    single = attack.poison(X.astype(np.float32), y.astype(np.float32))
    assert single.X.dtype == single.y.dtype == np.float32
    images = attack.poison(X[:, :2].reshape(-1, 1, 2), y)
    assert images.X.shape == (66, 1, 2)
    whole = attack.set_params(max_iter=0).poison(X, np.rint(y).astype(int))
    assert whole.y.dtype.kind == "i"  # the ends of the range are whole
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(X, schema=list("abc"))
    data = attack.set_params(init="statp").poison(frame, pl.Series("y", y))
    assert data.X.schema == frame.schema and isinstance(data.y, pl.Series)


@pytest.mark.parametrize("init", INITS)
def test_empty_cells(init):
    X, y = _small()
    X[::4, 0] = np.nan
    attack = RegressionPoisoningAttack(
        make_pipeline(SimpleImputer(), Ridge()), init=init, max_iter=2, random_state=0
    )
    rows, numbers = _poisons(attack.poison(X, y))
    assert np.isfinite(rows[:, 1:]).all() and np.isfinite(numbers).all()
    with pytest.raises(ValueError, match="NaN"):
        attack.set_params(estimator=Ridge()).poison(X, y)


# In searches; seeds; checkpoints.


def test_test_folds_stay_clean_in_a_search():
    X, y = _small(90)
    seen = []

    class Recorder(Ridge):
        def predict(self, X):
            seen.append(X)
            return super().predict(X)

    folds = KFold(3)
    attack = RegressionPoisoningAttack("victim", init="b_flip", max_iter=5)
    search = GridSearchCV(
        PoisonedEstimator(attack, Recorder(), random_state=0),
        {"attack__budget": [0, 0.2]},
        cv=folds,
        refit=False,
    ).fit(X, y)
    clean, poisoned = search.cv_results_["mean_test_score"]
    assert clean > poisoned + 0.2
    plain = GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=folds, refit=False).fit(X, y)
    assert plain.cv_results_["mean_test_score"][0] == clean
    for i, rows in enumerate(seen):
        np.testing.assert_array_equal(rows, X[list(folds.split(X))[i % 3][1]])


def test_sample_weight_has_no_row_to_follow_from_statp():
    X, y = _small()
    attack = RegressionPoisoningAttack("victim", init="b_flip", max_iter=1)
    model = PoisonedEstimator(attack, Ridge(), random_state=0)
    model.fit(X, y, sample_weight=np.ones(60))
    model.set_params(attack__init="statp")
    with pytest.raises(ValueError, match="sample_weight cannot be extended"):
        model.fit(X, y, sample_weight=np.ones(60))


@pytest.mark.parametrize("init", INITS)
def test_same_seed_same_bits_and_nothing_else_moves(init):
    X, y = _small()
    victim = make_pipeline(StandardScaler(), Ridge()).fit(X, y)
    attack = RegressionPoisoningAttack(
        victim,
        init=init,
        max_iter=3,
        validation_data=(X[:9], y[:9]),
        bounds=(X.min(0), X.max(0)),
        random_state=0,
    )
    own = (X, y, attack.get_params(deep=False), np.random.mtrand._rand)
    before = joblib.hash(own)
    first = attack.poison(X, y)
    assert joblib.hash(own) == before
    np.random.mtrand._rand.rand()
    second = attack.poison(X, y)
    np.testing.assert_array_equal(first.X, second.X)
    np.testing.assert_array_equal(first.y, second.y)
    other = attack.set_params(random_state=1).poison(X, y)
    assert (first.X[60:] != other.X[60:]).any()


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "strategy, init",
    [("joint", "best"), ("greedy", "statp"), ("coordinate", "adaptive")],
)
def test_a_killed_search_goes_on(strategy, init, tmp_path, monkeypatch):
    X, y = _small()

    def attack(folder):
        return RegressionPoisoningAttack(
            Lasso(0.1),
            budget=3,
            strategy=strategy,
            init=init,
            max_iter=25 if strategy == "joint" else 5,
            tol=0.0,
            random_state=0,
            checkpoint=tmp_path / folder,
        )

    whole = attack("whole")
    expected = whole.poison(X, y)
    solve = PoisonProblem.solve
    with monkeypatch.context() as patch:
        left = [15]

        def dying(self, poisons):
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return solve(self, poisons)

        patch.setattr(PoisonProblem, "solve", dying)
        with pytest.raises(_Killed):
            attack("killed").poison(X, y)
    for _ in range(2):  # goes on, and is finished
        again = attack("killed")
        data = again.poison(X, y)
        np.testing.assert_array_equal(data.X, expected.X)
        np.testing.assert_array_equal(data.y, expected.y)
        assert again.objective_ == whole.objective_
        assert again.init_ == whole.init_


# Errors and corners.


@pytest.mark.parametrize(
    "params, message",
    [
        ({"estimator": LogisticRegression()}, "regressor, got.*BilevelPoisoningAttack"),
        ({"surrogate": LogisticRegression()}, "surrogate must be a regressor"),
        ({"estimator": "victim"}, "estimator='victim' needs a PoisonedEstimator"),
        ({"init": "flip"}, "init must be one of 'inv_flip'.*got 'flip'"),
        ({"init": (np.zeros((2, 3)), [0, 1])}, "init must be one of"),
        ({"objective": "log_loss"}, "objective must be one of 'auto', 'squared_error'"),
        ({"strategy": "all"}, "strategy must be one of"),
        ({"bounds": (0, -1)}, "bounds must have low <= high"),
        ({"validation_data": (np.zeros((2, 3)), [0])}, "validation_data must hold one"),
        ({"budget": 61}, "budget as a count of rows"),
    ],
)
def test_bad_parameters_are_named_before_any_work(params, message, monkeypatch):
    monkeypatch.setattr(PoisonProblem, "solve", None)
    X, y = _small()
    attack = RegressionPoisoningAttack(random_state=0).set_params(**params)
    for call in (attack.fit, attack.fit_resample, attack.poison):
        with pytest.raises(ValueError, match=message):
            call(X, y)


def test_move_targets_is_a_bool():
    with pytest.raises(TypeError, match="move_targets must be a bool, got 1"):
        RegressionPoisoningAttack(move_targets=1).fit(*_small())


def test_y_must_hold_numbers():
    X, _ = _small()
    with pytest.raises(ValueError, match="y must hold finite numbers"):
        RegressionPoisoningAttack().fit(X, np.array(["a", "b"] * 30))
    with pytest.raises(ValueError, match="y must hold finite numbers"):
        RegressionPoisoningAttack().fit(X, np.r_[np.nan, np.ones(59)])


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    "case",
    ["constant y", "constant X", "more columns", "copies", "two rows", "one row"],
)
def test_degenerate_data(case, init):
    X, y = _small(20, 3)
    if case == "constant y":
        y = np.full(20, 2.0)
    elif case == "constant X":
        X = np.ones((20, 3))
    elif case == "more columns":
        X = np.random.RandomState(0).randn(20, 50)
    elif case == "copies":
        X, y = np.repeat(X[:4], 5, axis=0), np.repeat(y[:4], 5)
    elif case != "constant y":
        n = 2 if case == "two rows" else 1
        X, y = X[:n], y[:n]
    for victim in (Ridge(), LinearRegression()):
        attack = RegressionPoisoningAttack(
            victim, budget=len(y), init=init, max_iter=3, random_state=0
        )
        data = attack.poison(X, y)
        rows, numbers = _poisons(data)
        assert len(rows) == len(y)
        assert np.isfinite(rows).all() and np.isfinite(numbers).all()
        assert y.min() <= numbers.min() and numbers.max() <= y.max()
        assert attack.objective_ >= attack.start_objective_


def test_a_budget_of_nothing_returns_the_data():
    X, y = _small()
    attack = RegressionPoisoningAttack(budget=0)
    data = attack.poison(X, y)
    assert data.X is X
    np.testing.assert_array_equal(data.y, y)
    assert attack.init_ is None and attack.y_range_ == (y.min(), y.max())
    assert np.isnan(attack.objective_) and attack.n_iter_ == 0


def test_black_boxes_have_a_surrogate():
    X, y = _small()
    attack = RegressionPoisoningAttack(DummyRegressor(), max_iter=3, random_state=0)
    attack.poison(X, y)
    assert attack.gradient_source_ == "surrogate"
