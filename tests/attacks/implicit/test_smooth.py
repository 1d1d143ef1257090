"""Smooth learners: scikit-learn's own solution, and derivatives that refits confirm."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    MultiTaskLasso,
    Ridge,
    RidgeClassifier,
)
from sklearn.svm import SVC, LinearSVC

from skpoison.attacks._implicit import _newton
from skpoison.attacks._implicit._inverses import Cholesky
from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._smooth import make_learner

OLD = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8)
L1 = {"penalty": "l1"} if OLD else {"l1_ratio": 1.0}
ELASTIC = {"penalty": "elasticnet", "l1_ratio": 0.5} if OLD else {"l1_ratio": 0.5}
FREE = {"penalty": None} if OLD else {"C": np.inf}

NEWTON = {"solver": "newton-cholesky", "tol": 1e-13, "max_iter": 1000}
LIBLINEAR = {"solver": "liblinear", "tol": 1e-13, "max_iter": 100000}
SAGA = {"solver": "saga", "tol": 1e-11, "max_iter": 100000, "random_state": 0}
SVM = {"dual": False, "tol": 1e-13, "max_iter": 100000}
DESCENT = {"tol": 1e-14, "max_iter": 100000}

BINARY = {
    "logistic": LogisticRegression(C=0.7, **NEWTON),
    "logistic-no-intercept": LogisticRegression(fit_intercept=False, **NEWTON),
    "logistic-free": LogisticRegression(**FREE, **NEWTON),
    "logistic-weighted": LogisticRegression(class_weight={0: 0.5, 1: 3.0}, **NEWTON),
    "logistic-balanced": LogisticRegression(class_weight="balanced", **NEWTON),
    "logistic-l1": LogisticRegression(**L1, C=0.3, **SAGA),
    "logistic-elastic": LogisticRegression(**ELASTIC, C=0.3, **SAGA),
    "liblinear": LogisticRegression(intercept_scaling=2.5, C=0.1, **LIBLINEAR),
    "liblinear-dual": LogisticRegression(dual=True, C=0.1, **LIBLINEAR),
    "liblinear-balanced": LogisticRegression(class_weight="balanced", **LIBLINEAR),
    "liblinear-no-intercept": LogisticRegression(fit_intercept=False, **LIBLINEAR),
    "liblinear-l1": LogisticRegression(
        **L1, C=0.3, intercept_scaling=1.5, random_state=0, **LIBLINEAR
    ),
    "svc": LinearSVC(C=0.5, intercept_scaling=3.0, **SVM),
    "svc-no-intercept": LinearSVC(C=0.5, fit_intercept=False, **SVM),
    "svc-balanced": LinearSVC(class_weight="balanced", **SVM),
    "ridge-classifier": RidgeClassifier(alpha=0.5),
    "ridge-classifier-balanced": RidgeClassifier(class_weight="balanced"),
}
MULTI = {
    "softmax": LogisticRegression(C=0.7, **NEWTON),
    "softmax-no-intercept": LogisticRegression(fit_intercept=False, **NEWTON),
    "softmax-free": LogisticRegression(**FREE, **NEWTON),
    "softmax-balanced": LogisticRegression(class_weight="balanced", **NEWTON),
    "softmax-weighted": LogisticRegression(class_weight={0: 2, 1: 1, 2: 0.3}, **NEWTON),
    "svc-ovr": LinearSVC(C=0.5, **SVM),
    "svc-ovr-weighted": LinearSVC(class_weight={0: 2, 1: 1, 2: 0.3}, **SVM),
    "svc-ovr-balanced": LinearSVC(class_weight="balanced", **SVM),
    "ridge-classifier-multi": RidgeClassifier(alpha=0.5),
    "ridge-classifier-multi-balanced": RidgeClassifier(class_weight="balanced"),
}
if OLD:
    MULTI["liblinear-ovr"] = LogisticRegression(class_weight="balanced", **LIBLINEAR)
REGRESSION = {
    "ridge": Ridge(alpha=0.5),
    "ridge-no-intercept": Ridge(alpha=0.5, fit_intercept=False),
    "linear": LinearRegression(),
    "linear-no-intercept": LinearRegression(fit_intercept=False),
    "lasso": Lasso(alpha=0.3, **DESCENT),
    "lasso-no-intercept": Lasso(alpha=0.3, fit_intercept=False, **DESCENT),
    "elastic": ElasticNet(alpha=0.3, l1_ratio=0.6, **DESCENT),
    "elastic-l2": ElasticNet(alpha=0.3, l1_ratio=0.0, **DESCENT),
}
ALL = {**BINARY, **MULTI, **REGRESSION}
SPARSE = [name for name in ALL if "l1" in name or "lasso" in name or "elastic" in name]


def problem(name, n=40, d=5, seed=0):
    """Return X, y and sample weights: no class separable, some columns useless."""
    rng = np.random.RandomState(seed)
    X = rng.randn(n, d) + rng.randn(d)
    X[:, 1] += 0.5 * X[:, 0]
    score = X[:, 0] - 0.8 * X[:, 2] + 1.2 * rng.randn(n)
    weights = rng.uniform(0.3, 2.0, n)
    if name in REGRESSION:
        return X, 2 * score + 5, weights
    if name in BINARY:
        return X, (score > np.quantile(score, 0.4)).astype(int), weights
    y = np.digitize(score, np.quantile(score, [0.3, 0.75]))
    y[rng.permutation(n)[:4]] = rng.randint(0, 3, 4)
    return X, y, weights


def fitted(estimator, X, y, weights):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(estimator).fit(X, y, sample_weight=weights)


class Objective:
    """A random smooth function of the scores of validation rows."""

    def __init__(self, shape, seed=1):
        rng = np.random.RandomState(seed)
        self.a, self.b = rng.randn(*shape), rng.uniform(0.3, 1.0, shape)

    def value(self, scores):
        return float(np.sum(self.a * np.sin(self.b * scores)))

    def gradient(self, scores):
        return self.a * self.b * np.cos(self.b * scores)


def close(found, expected, rtol=1e-6):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * scale)


def difference(function, array, index, step=1e-5):
    """Return the central difference of a function by one entry of an array."""
    values = []
    for sign in (1, -1):
        moved = array.copy()
        moved[index] += sign * step
        values.append(function(moved))
    return (values[0] - values[1]) / (2 * step)


def setting(name, with_weights=True, **size):
    """Return data, validation rows, an objective, a learner and its solution."""
    X, y, weights = problem(name, **size)
    weights = weights if with_weights else None
    X_val = np.random.RandomState(3).randn(7, X.shape[1])
    learner = make_learner(ALL[name])
    solution = learner.solve(X, y, weights)
    scores = solution.scores(X_val)
    objective = Objective(scores.shape)
    return X, y, weights, X_val, objective, learner, solution


# ------------------------------------------------------------------------- solutions


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_solution_is_scikit_learns(name, with_weights):
    X, y, weights = problem(name)
    weights = weights if with_weights else None
    learner = make_learner(ALL[name])
    solution = learner.solve(X, y, weights)
    model = fitted(ALL[name], X, y, weights)
    # the iterations of saga end farther off than the others'
    rtol = 1e-5 if ALL[name].get_params().get("solver") == "saga" else 1e-6
    close(solution.coef, np.atleast_2d(model.coef_), rtol)
    close(
        solution.intercept, np.broadcast_to(model.intercept_, len(solution.coef)), rtol
    )
    if name in SPARSE:
        zeros = solution.coef == 0
        assert np.array_equal(zeros, np.abs(np.atleast_2d(model.coef_)) < 1e-7)
        assert name == "elastic-l2" or (zeros.any() and not zeros.all())
    scores = solution.scores(X)
    if learner.score_kind == "regression":
        close(scores[:, 0], model.predict(X), rtol)
    else:
        found = scores[:, 0] if learner.score_kind == "binary" else scores
        close(found, model.decision_function(X), rtol)


def test_kinds_and_losses():
    expected = {
        "logistic": ("binary", "log_loss"),
        "softmax": ("softmax", "log_loss"),
        "svc": ("binary", "hinge"),
        "svc-ovr": ("ovr", "hinge"),
        "ridge-classifier": ("binary", "hinge"),
        "ridge-classifier-multi": ("ovr", "hinge"),
        "ridge": ("regression", "squared_error"),
        "lasso": ("regression", "squared_error"),
    }
    for name, (kind, objective) in expected.items():
        classes = None if name in REGRESSION else range(3 if name in MULTI else 2)
        learner = make_learner(ALL[name], classes)
        assert (learner.score_kind, learner.objective) == (kind, objective)
        assert learner.estimator is ALL[name]
    learner = make_learner(LogisticRegression())
    assert learner.score_kind is None
    learner.solve(*problem("softmax")[:2])
    assert learner.score_kind == "softmax"


def test_class_weight_is_keyed_by_label():
    X, y, weights = problem("softmax")
    labels = np.array(["ape", "bee", "cat"])
    model = LogisticRegression(
        class_weight={"bee": 3.0, "cat": 0.2, "ape": 1}, **NEWTON
    )
    solution = make_learner(model, labels).solve(X, y, weights)
    close(solution.coef, fitted(model, X, labels[y], weights).coef_)
    with pytest.raises(ValueError, match="not in class_weight"):
        make_learner(LogisticRegression(class_weight={"bee": 1, "cow": 1}), labels)


def test_a_hard_lasso():
    # more columns than rows, near copies among them, most of them in the solution
    rng = np.random.RandomState(0)
    X = rng.randn(30, 60) @ (np.eye(60) + 0.7 * rng.randn(60, 60) / 8)
    X[:, 30:40] = X[:, :10] + 1e-3 * rng.randn(30, 10)
    y = X[:, :20] @ rng.randn(20) + rng.randn(30)
    for alpha in (1e-3, 1e-2, 0.1, 1.0, 1e3):
        for estimator in (Lasso(alpha), ElasticNet(alpha, l1_ratio=0.9)):
            solution = make_learner(estimator).solve(X, y)
            w = solution.coef[0]
            ratio = getattr(estimator, "l1_ratio", 1.0)
            residual = y - solution.scores(X)[:, 0]
            pull = X.T @ residual / 30 - alpha * (1 - ratio) * w
            assert abs(residual.mean()) < 1e-12
            np.testing.assert_allclose(
                pull[w != 0], alpha * ratio * np.sign(w[w != 0]), atol=1e-10
            )
            assert np.abs(pull).max() <= alpha * ratio * (1 + 1e-8) + 1e-12


def test_warm_start_equals_cold_start():
    for name, estimator in ALL.items():
        X, y, weights, _, _, learner, before = setting(name)
        rng = np.random.RandomState(5)
        X = np.vstack([X[:-3] + 0.1 * rng.randn(37, 5), rng.randn(6, 5)])
        y = np.concatenate([y[:-3], y[:6]])
        cold = learner.solve(X, y)
        model = fitted(clone(estimator).set_params(**loose(estimator)), X, y, None)
        for start in (before, cold, model):
            warm = learner.solve(X, y, start=start)
            close(warm.coef, cold.coef, 1e-10)
            close(warm.intercept, cold.intercept, 1e-10)
        other = make_learner(estimator).solve(X[:, :3], y)  # of no use, no harm
        close(learner.solve(X, y, start=other).coef, cold.coef, 1e-10)


def loose(estimator):
    return {"tol": 1e-2} if "tol" in estimator.get_params() else {}


def test_inputs_stay_and_solution_stays():
    for name in (
        "logistic",
        "softmax",
        "lasso",
        "linear",
        "svc-ovr",
        "ridge-classifier",
    ):
        X, y, weights, X_val, objective, learner, solution = setting(name)
        copies = X.copy(), y.copy(), weights.copy(), X_val.copy()
        G = objective.gradient(solution.scores(X_val))
        first = solution.adjoint(X_val, G).rows()
        for array, copy in zip((X, y, weights, X_val), copies, strict=True):
            assert np.array_equal(array, copy)
        X[:] = 0  # an attack may move its rows in place
        y[:] = 0
        assert np.array_equal(solution.adjoint(X_val, G).rows(), first)
    with pytest.raises(AttributeError):
        ALL["logistic"].coef_  # noqa: B018


# ------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_derivatives_match_differences(name, with_weights):
    X, y, weights, X_val, objective, learner, solution = setting(name, with_weights)
    adjoint = solution.adjoint(X_val, objective.gradient(solution.scores(X_val)))
    chosen = [3, 17, 39]

    def at(X=X, y=y, weights=weights, X_val=X_val):
        return objective.value(learner.solve(X, y, weights).scores(X_val))

    expected = [
        [difference(lambda Z: at(X=Z), X, (i, j)) for j in range(5)] for i in chosen
    ]
    close(adjoint.rows(chosen), expected)
    ones = np.ones(len(y)) if weights is None else weights
    expected = [difference(lambda w: at(weights=w), ones, i) for i in chosen]
    close(adjoint.weights(chosen), expected)
    expected = [difference(lambda Z: at(X_val=Z), X_val, (2, j)) for j in range(5)]
    close(adjoint.validation()[2], expected)
    if name in REGRESSION:
        expected = [difference(lambda t: at(y=t), y, i) for i in chosen]
        close(adjoint.targets(chosen), expected)
    else:
        with pytest.raises(TypeError, match="classifier"):
            adjoint.targets()
    assert np.abs(adjoint.rows()).max() > 1e-3
    for rows in (slice(30, None), np.arange(40) > 20):
        assert np.array_equal(adjoint.rows(rows), adjoint.rows()[rows])
        close(adjoint.weights(rows), adjoint.weights()[rows], 1e-14)


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_gain_matches_a_row_of_tiny_weight(name, with_weights):
    X, y, weights, X_val, objective, learner, solution = setting(name, with_weights)
    adjoint = solution.adjoint(X_val, objective.gradient(solution.scores(X_val)))
    X_new, y_new = X[[0, 5, 11]] + 0.3, y[[9, 2, 30]]
    old = np.ones(len(y)) if weights is None else weights
    counted = learner.class_weight == "balanced" and not learner.balances_weights

    def at(w, i):
        model = learner
        if counted:
            # what scikit-learn counts jumps: let the share of a row count
            totals = np.bincount(y).astype(float)
            totals[y_new[i]] += w
            shares = totals.sum() / (len(totals) * totals)
            model = clone(ALL[name]).set_params(class_weight=dict(enumerate(shares)))
            model = make_learner(model)
        rows = np.vstack([X, X_new[i]]), np.append(y, y_new[i]), np.append(old, w)
        return objective.value(model.solve(*rows).scores(X_val))

    h = 1e-5  # one-sided, of second order
    expected = [
        (4 * at(h, i) - at(2 * h, i) - 3 * at(0, i)) / (2 * h) for i in range(3)
    ]
    close(adjoint.gain(X_new, y_new), expected)


REFITTED = [
    "logistic",
    "logistic-balanced",
    "softmax",
    "ridge",
    "linear",
    "lasso",
    "elastic",
    "svc",
    "svc-ovr-weighted",
    "liblinear",
    "ridge-classifier-multi",
]


@pytest.mark.parametrize("name", REFITTED)
def test_derivatives_match_refits_of_scikit_learn(name):
    X, y, weights, X_val, objective, _, solution = setting(name)
    adjoint = solution.adjoint(X_val, objective.gradient(solution.scores(X_val)))

    def at(X=X, y=y, weights=weights):
        model = fitted(ALL[name], X, y, weights)
        scores = X_val @ np.atleast_2d(model.coef_).T + model.intercept_
        return objective.value(scores)

    step = 1e-3
    rtol = 1e-3 if "svc" in name else 1e-4  # liblinear ends some 1e-9 off its solution
    expected = [difference(lambda Z: at(X=Z), X, (7, j), step) for j in range(5)]
    close(adjoint.rows([7])[0], expected, rtol)
    expected = [difference(lambda w: at(weights=w), weights, i, step) for i in (1, 30)]
    close(adjoint.weights([1, 30]), expected, rtol)
    if name in REGRESSION:
        close(adjoint.targets([7])[0], difference(lambda t: at(y=t), y, 7), 1e-4)


@pytest.mark.parametrize("name", ALL)
def test_conjugate_gradients_agree(name, monkeypatch):
    X, y, weights, X_val, objective, learner, solution = setting(name)
    G = objective.gradient(solution.scores(X_val))
    dense = solution.adjoint(X_val, G)
    monkeypatch.setattr(_newton, "_LARGEST_DENSE", 0)
    other = learner.solve(X, y, weights)
    close(other.coef, solution.coef, 1e-9)
    close(other.intercept, solution.intercept, 1e-9)
    adjoint = other.adjoint(X_val, G)
    close(adjoint.rows(), dense.rows(), 1e-7)
    close(adjoint.weights(), dense.weights(), 1e-7)


@pytest.mark.parametrize("name", ["softmax", "logistic", "ridge", "svc-ovr"])
def test_the_factor_of_a_start_serves_and_leaves_no_trace(name, monkeypatch):
    rng = np.random.RandomState(0)
    X = rng.randn(400, 25 if name == "softmax" else 230)
    n_classes = {"softmax": 9, "svc-ovr": 3}.get(name, 2)
    codes = rng.permutation(np.arange(400) % n_classes)
    y = X[:, 0] + rng.randn(400) if name == "ridge" else codes
    near, far = X.copy(), rng.randn(*X.shape) * 10 ** rng.uniform(-1, 1, X.shape[1])
    near[:2] += 0.05 * rng.randn(2, X.shape[1])
    learner, factorised = make_learner(ALL[name]), []
    of = Cholesky.of
    monkeypatch.setattr(Cholesky, "of", lambda *a: factorised.append(a) or of(*a))

    def solve(moved, start):
        factorised.clear()
        solution = learner.solve(moved, y, start=start)
        adjoint = solution.adjoint(X, np.sin(solution.scores(X)))
        return solution, adjoint.rows(), len(factorised)

    before = solve(X, None)[0]
    for moved in (near, far):
        cold, cold_rows, cold_factors = solve(moved, None)
        warm, warm_rows, warm_factors = solve(moved, before)
        close(warm.coef, cold.coef, 1e-11)
        close(warm_rows, cold_rows, 1e-10)
        if moved is near:
            assert warm_factors < cold_factors


def test_blocks_of_rows_add_up(monkeypatch):
    X, y, weights, X_val, objective, learner, solution = setting("softmax")
    G = objective.gradient(solution.scores(X_val))
    monkeypatch.setattr(_newton, "_BLOCK", 7 * 18)
    other = learner.solve(X, y, weights).adjoint(X_val, G)
    close(other.rows(), solution.adjoint(X_val, G).rows(), 1e-12)


# ---------------------------------------------------------------- singular and extreme


def test_least_norm_of_more_columns_than_rows():
    rng = np.random.RandomState(0)
    X, y, weights = rng.randn(8, 15), rng.randn(8), rng.uniform(0.5, 2, 8)
    X_val = rng.randn(5, 15)
    objective = Objective((5, 1))
    for fit_intercept in (True, False):
        learner = make_learner(LinearRegression(fit_intercept=fit_intercept))
        solution = learner.solve(X, y, weights)
        model = fitted(learner.estimator, X, y, weights)
        close(solution.coef[0], model.coef_, 1e-10)
        start = learner.solve(X + 1, -y)
        close(learner.solve(X, y, weights, start=start).coef, solution.coef, 1e-10)
        adjoint = solution.adjoint(X_val, objective.gradient(solution.scores(X_val)))

        def at(X, y=y, learner=learner):
            return objective.value(learner.solve(X, y, weights).scores(X_val))

        expected = [difference(at, X, (2, j)) for j in range(15)]
        close(adjoint.rows([2])[0], expected)
        expected = difference(lambda t: at(X, t), y, 2)
        close(adjoint.targets([2])[0], expected)
        close(adjoint.weights(), np.zeros(8))


def test_duplicate_and_constant_columns():
    for name in (
        "linear",
        "ridge",
        "lasso",
        "logistic-free",
        "softmax-free",
        "logistic",
    ):
        X, y, weights = problem(name)
        X = np.column_stack([X, np.full(40, 3.0), X[:, 0]])
        learner = make_learner(ALL[name])
        solution = learner.solve(X, y, weights)
        assert np.abs(solution.coef[:, 5]).max() < 1e-12
        if name == "linear":
            close(solution.coef[0], fitted(ALL[name], X, y, weights).coef_)
        if name != "lasso":
            close(solution.coef[:, 0], solution.coef[:, 6], 1e-8)
        # without a penalty a copy changes nothing but how the coefficient is shared
        if name in ("linear", "logistic-free", "softmax-free"):
            simple = learner.solve(X[:, :5], y, weights)
            close(solution.scores(X), simple.scores(X[:, :5]), 1e-8)
            X_val = np.random.RandomState(3).randn(7, 7)
            X_val[:, 5], X_val[:, 6] = 3.0, X_val[:, 0]
            objective = Objective(solution.scores(X_val).shape)
            G = objective.gradient(solution.scores(X_val))
            both = solution.adjoint(X_val, G).rows()
            alone = simple.adjoint(X_val[:, :5], G).rows()
            close(both[:, 1:5], alone[:, 1:5])
            close(both[:, 0] + both[:, 6], alone[:, 0])
        warm = learner.solve(X, y, weights, start=learner.solve(X + 1, y))
        if name != "lasso":  # the copies may share as they like
            close(warm.coef, solution.coef, 1e-8)


def test_badly_scaled_columns_are_not_singular():
    X, y, weights = problem("linear")
    units = np.array([1e5, 1e-5, 1.0, 1e3, 1e-2])
    learner = make_learner(LogisticRegression(**FREE))
    X_two, y_two, weights = problem("logistic")
    close(
        learner.solve(X_two * units, y_two, weights).coef * units,
        learner.solve(X_two, y_two, weights).coef,
    )
    # an offset costs no digits
    learner = make_learner(LinearRegression())
    close(learner.solve(X + 1e5, y).coef, learner.solve(X, y).coef)


def test_separable_data_without_penalty():
    X = np.array([[0.0, 1], [1, 0], [1, 1], [4, 5], [5, 4], [6, 6]])
    for y in np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]]):
        learner = make_learner(LogisticRegression(**FREE))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solution = learner.solve(X, y)
            scores = solution.scores(X)
            adjoint = solution.adjoint(X, np.ones_like(scores))
        found = scores.argmax(axis=1) if y.max() > 1 else scores[:, 0] > 0
        assert np.array_equal(found, y)
        assert np.isfinite(solution.coef).all()
        assert np.isfinite(adjoint.rows()).all()
        assert np.isfinite(adjoint.weights()).all()


def test_nearly_no_penalty_and_far_starts():
    X, y, _ = problem("logistic")
    for estimator in (
        LogisticRegression(C=1e12),
        LinearSVC(C=1e6),
        LogisticRegression(C=1e-8),
    ):
        learner = make_learner(estimator)
        cold = learner.solve(X, y)
        far = learner.solve(X, y)
        far.coef, far.intercept = 1e4 * np.ones_like(far.coef), far.intercept - 1e5
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            close(learner.solve(X, y, start=far).coef, cold.coef, 1e-8)


def test_nearly_a_hard_margin():
    rng = np.random.RandomState(0)
    X = 100 * rng.randn(140, 60)
    X[:, 1] = X[:, 0]
    y = rng.randint(0, 3, 140)
    for estimator in (LinearSVC(C=1e4), LogisticRegression(C=1e4)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            solution = make_learner(estimator).solve(X, y)
        for part in solution.problems:
            pulls = np.abs(part.c * part.slope).T @ np.abs(part.X)
            gradient = (part.c * part.slope).T @ part.X + part.l2 * part.theta
            assert np.abs(gradient / pulls).max() < 1e-8


# ----------------------------------------------------------------------------- refusals


def test_not_its_own():
    class Own(Ridge):
        def fit(self, X, y, sample_weight=None):
            return self

    class Same(Ridge):
        pass

    assert isinstance(
        make_learner(Same()).solve(np.eye(3), np.ones(3)).coef, np.ndarray
    )
    for estimator in (
        Own(),
        SVC(),
        LinearSVC(loss="hinge"),
        LassoCV(),
        MultiTaskLasso(),
        LogisticRegressionCV(),
    ):
        assert make_learner(estimator) is None


@pytest.mark.parametrize(
    "estimator, message",
    [
        (Ridge(positive=True), r"Ridge\(positive=True\)"),
        (Ridge(alpha=[1.0, 2.0]), r"Ridge\(alpha=\[1.0, 2.0\]\)"),
        (LinearRegression(positive=True), r"LinearRegression\(positive=True\)"),
        (Lasso(positive=True), r"Lasso\(positive=True\)"),
        (LinearSVC(penalty="l1", dual=False), r"LinearSVC\(penalty='l1'\)"),
        (LinearSVC(multi_class="crammer_singer"), r"multi_class='crammer_singer'"),
    ],
)
def test_settings_without_a_derivative(estimator, message):
    with pytest.raises(NotDifferentiableError, match=message):
        make_learner(estimator)


def test_classes_that_do_not_fit():
    X, y, _ = problem("softmax")
    with pytest.raises(NotDifferentiableError, match="more than two classes"):
        make_learner(LogisticRegression(**L1, solver="saga"), [0, 1, 2])
    with pytest.raises(ValueError, match="no row of class 1"):
        make_learner(LogisticRegression()).solve(X, np.where(y == 1, 2, y))
    with pytest.raises(ValueError, match="two classes"):
        make_learner(LogisticRegression()).solve(X, np.zeros(40, int))
    with pytest.raises(ValueError, match="code 2"):
        make_learner(LogisticRegression(), ["a", "b"]).solve(X, y)
    if not OLD:
        with pytest.raises(ValueError, match="liblinear"):
            make_learner(LogisticRegression(solver="liblinear")).solve(X, y)
    else:
        for multi_class in ("ovr", "multinomial"):
            model = LogisticRegression(multi_class=multi_class)
            with pytest.raises(NotDifferentiableError, match="multi_class"):
                make_learner(model, ["a", "b"])
