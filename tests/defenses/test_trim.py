import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, make_regression
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import HuberRegressor, LinearRegression, Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import minmax_scale

from skpoison.attacks import RegressionPoisoningAttack
from skpoison.defenses import TRIMRegressor


@pytest.fixture(scope="module")
def lines():
    """A line, and 20 rows of another one at the end."""
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, (100, 1))
    y = 2 * X[:, 0] + 0.1 * rng.randn(100)
    y[80:] = -3 * X[80:, 0] + 1
    return X, y


# ------------------------------------------------------------------------ contract


@pytest.mark.slow
def test_a_search_and_a_copy(lines):
    X, y = lines
    search = GridSearchCV(
        TRIMRegressor(Ridge(), random_state=0),
        {"contamination": [0.0, 0.25], "estimator__alpha": [1e-3, 1e3]},
        scoring="neg_median_absolute_error",
    )
    search.fit(X, y)
    assert search.best_params_["estimator__alpha"] == 1e-3
    assert search.best_params_["contamination"] > 0
    best = search.best_estimator_
    loaded = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(loaded.predict(X), best.predict(X))


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"contamination": 1.0}, ValueError, "leaves no row"),
        ({"contamination": -0.1}, ValueError, "contamination must be in"),
        ({"contamination": 101}, ValueError, "contamination as a count"),
        ({"n_inliers": 0}, ValueError, "n_inliers must be in"),
        ({"n_inliers": 101}, ValueError, "n_inliers must be in"),
        ({"n_inliers": 0.5}, TypeError, "n_inliers must be an int"),
        ({"estimator": 3}, TypeError, "estimator must be an estimator or None"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"n_restarts": 0}, ValueError, "n_restarts must be >= 1"),
        ({"init": "some"}, ValueError, "init must be one of"),
        ({"tol": -1.0}, ValueError, "tol must be >= 0"),
    ],
)
def test_bad_parameters(lines, params, error, match):
    with pytest.raises(error, match=match):
        TRIMRegressor(**params).fit(*lines)


# ----------------------------------------------------------------------- the algorithm


def test_it_finds_the_rows_of_the_other_line(lines):
    X, y = lines
    model = TRIMRegressor(LinearRegression(), contamination=20, random_state=0).fit(
        X, y
    )
    assert model.inlier_mask_.sum() == 80
    assert (~model.inlier_mask_[80:]).sum() >= 15  # the lines cross
    assert model.estimator_.coef_[0] == pytest.approx(2, abs=0.1)
    assert LinearRegression().fit(X, y).coef_[0] < 1.5


def test_attributes_belong_together(lines):
    X, y = lines
    model = TRIMRegressor(LinearRegression(), n_inliers=70, tol=0, random_state=0).fit(
        X, y
    )
    residuals = (y - model.predict(X)) ** 2
    assert model.inlier_mask_.sum() == 70
    assert residuals[model.inlier_mask_].max() <= residuals[~model.inlier_mask_].min()
    assert model.trimmed_loss_ == pytest.approx(residuals[model.inlier_mask_].mean())
    assert len(model.loss_curve_) == model.n_iter_ > 2
    assert model.loss_curve_[-1] == model.trimmed_loss_
    # a fixed point: trained on the rows that it fits best
    kept = LinearRegression().fit(X[model.inlier_mask_], y[model.inlier_mask_])
    np.testing.assert_allclose(kept.coef_, model.estimator_.coef_)


@pytest.mark.parametrize("init", ["all", "random"])
@pytest.mark.parametrize("seed", range(5))
def test_the_trimmed_loss_of_least_squares_never_rises(init, seed):
    rng = np.random.RandomState(seed)
    X = rng.randn(150, 4)
    y = X @ rng.randn(4) + rng.standard_cauchy(150)
    model = TRIMRegressor(
        LinearRegression(), contamination=0.3, init=init, tol=0, random_state=seed
    )
    curve = model.fit(X, y).loss_curve_
    assert len(curve) > 2
    assert (np.diff(curve) <= 1e-12 * curve[0]).all()


def test_the_penalised_sum_of_ridge_never_rises():
    rng = np.random.RandomState(0)
    X = rng.randn(60, 8)
    y = X @ rng.randn(8) + rng.standard_cauchy(60)
    sums = []
    for max_iter in range(1, 12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = TRIMRegressor(
                Ridge(20.0), max_iter=max_iter, n_restarts=1, tol=0
            ).fit(X, y)
        coef = model.estimator_.coef_
        sums.append(model.trimmed_loss_ * 48 + 20 * coef @ coef)
    assert (np.diff(sums) <= 1e-9 * sums[0]).all()
    assert sums[-1] < sums[0]


@pytest.mark.parametrize(
    "estimator",
    [HuberRegressor(), KNeighborsRegressor(3), RandomForestRegressor(5)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_best_round_of_any_learner_is_kept(lines, estimator):
    X, y = lines
    model = TRIMRegressor(estimator, contamination=30, tol=0, random_state=0)
    model.fit(X, y)
    assert model.trimmed_loss_ == min(model.loss_curve_)
    residuals = np.sort((y - model.predict(X)) ** 2)
    assert model.trimmed_loss_ == pytest.approx(residuals[:70].mean())


def test_restarts_keep_the_best():
    """Two lines of 60 and 40 rows, far from each other: starts end in either."""
    rng = np.random.RandomState(0)
    X = rng.uniform(0, 1, (100, 1))
    y = np.where(np.arange(100) < 60, 5 * X[:, 0], 4 - 4 * X[:, 0])
    y += 0.01 * rng.randn(100)
    shared = {"n_inliers": 55, "random_state": 0}
    one = TRIMRegressor(LinearRegression(), **shared).fit(X, y)
    many = TRIMRegressor(LinearRegression(), n_restarts=30, **shared).fit(X, y)
    assert many.trimmed_loss_ <= one.trimmed_loss_
    assert many.trimmed_loss_ == pytest.approx(1e-4, rel=0.5)
    assert many.estimator_.coef_[0] == pytest.approx(5, abs=0.05)
    again = TRIMRegressor(LinearRegression(), n_restarts=30, **shared).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), many.predict(X))
    other = clone(many).set_params(init="random", n_restarts=1, random_state=3)
    assert other.fit(X, y).trimmed_loss_ >= many.trimmed_loss_


def test_rounds_that_are_used_up(lines):
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        TRIMRegressor(max_iter=1, random_state=0).fit(*lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TRIMRegressor(contamination=0.0).fit(*lines)


def test_no_contamination_is_the_learner_itself(lines):
    X, y = lines
    for seed in (88, 143, 158):  # whose random starts used to win
        model = TRIMRegressor(contamination=0, random_state=seed).fit(X, y)
        np.testing.assert_array_equal(model.predict(X), Ridge().fit(X, y).predict(X))
        assert model.n_iter_ == 1


def test_the_tolerance_has_no_unit(lines):
    X, y = lines
    rounds = {
        TRIMRegressor(LinearRegression(), random_state=0).fit(X, scale * y).n_iter_
        for scale in (1e-6, 1.0, 1e6)
    }
    assert len(rounds) == 1 and rounds.pop() > 2


def test_labels_that_are_no_numbers(lines):
    X, y = lines
    with pytest.raises(ValueError, match="y must hold numbers: could not convert"):
        TRIMRegressor().fit(X, np.where(y > 0, "high", "low"))
    with pytest.raises(ValueError, match="y contains NaN"):
        TRIMRegressor().fit(X, np.where(np.arange(len(y)) == 3, np.nan, y))


def test_predictions_in_a_column(lines):
    class Column(Ridge):
        def predict(self, X):
            return super().predict(X)[:, None]

    expected = TRIMRegressor(Ridge(), random_state=0).fit(*lines)
    model = TRIMRegressor(Column(), random_state=0).fit(*lines)
    np.testing.assert_array_equal(model.inlier_mask_, expected.inlier_mask_)
    assert model.trimmed_loss_ == expected.trimmed_loss_


def test_ties_are_taken_in_order():
    X, y = np.zeros((10, 1)), np.ones(10)
    model = TRIMRegressor(n_inliers=4, random_state=0).fit(X, y)
    assert model.inlier_mask_.tolist() == [True] * 4 + [False] * 6
    assert model.trimmed_loss_ == 0


def test_containers(lines):
    X, y = lines
    expected = TRIMRegressor(random_state=0).fit(X, y).predict(X)
    frame = pd.DataFrame(X, columns=["width"])
    model = TRIMRegressor(random_state=0).fit(frame, pd.Series(y))
    assert model.feature_names_in_.tolist() == ["width"]
    np.testing.assert_allclose(model.predict(frame), expected)
    np.testing.assert_allclose(
        TRIMRegressor(random_state=0)
        .fit(sparse.coo_matrix(X), y)
        .predict(sparse.csr_matrix(X)),
        expected,
        atol=1e-6,
    )


def test_a_seed_reaches_the_learner_and_nothing_else(lines):
    X, y = lines
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    forest = RandomForestRegressor(3)
    one, two = (TRIMRegressor(forest, random_state=1).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    assert forest.random_state is None
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(after, state)


# ------------------------------------------------------------------------ the attacks


@pytest.mark.parametrize(
    "init, move", [("statp", False), ("b_flip", False), ("best", True)]
)
def test_attacks_that_it_was_made_for(init, move):
    X, y = load_diabetes(return_X_y=True)
    X, y = minmax_scale(X), minmax_scale(y)
    errors = {"clean": [], "ridge": [], "trim": []}
    for seed in range(4):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, train_size=300, random_state=seed
        )
        attack = RegressionPoisoningAttack(
            Ridge(), budget=60, init=init, max_iter=10 * move, random_state=seed
        )
        data = attack.poison(X_train, y_train)
        trim = TRIMRegressor(contamination=60, random_state=seed)
        models = {
            "clean": Ridge().fit(X_train, y_train),
            "ridge": Ridge().fit(data.X, data.y),
            "trim": trim.fit(data.X, data.y),
        }
        for name, model in models.items():
            errors[name].append(mean_squared_error(y_test, model.predict(X_test)))
    clean, ridge, trim = (np.mean(errors[name]) for name in errors)
    assert ridge > 1.2 * clean
    assert trim - clean < 0.25 * (ridge - clean)


def test_small_starts_see_through_rows_that_pull_the_model_to_themselves():
    X, y = make_regression(200, 4, noise=2.0, random_state=0)
    X = np.vstack([X, np.full((20, 4), 3.0)])
    y = np.append(y, np.full(20, y.min()))
    shared = {"n_inliers": 200, "random_state": 0}
    model = TRIMRegressor(n_restarts=1, **shared).fit(X, y)
    assert model.inlier_mask_[200:].all()  # from all rows
    model = TRIMRegressor(**shared).fit(X, y)
    assert not model.inlier_mask_[200:].any()
