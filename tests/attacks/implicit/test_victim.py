"""Whole estimators, retrained and differentiated."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._smooth import make_learner
from skpoison.attacks._implicit._victim import Victim, find_learner

CLASSIFIERS = [
    LogisticRegression(),
    RidgeClassifier(),
    LinearSVC(C=0.3),
    SVC(kernel="linear"),
    SVC(),
    LinearSVC(loss="hinge"),
]
REGRESSORS = [Ridge(), SVR()]
STEPS = [[], [StandardScaler(), PCA(3)]]


def data(n_classes=3, n=30, m=10, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + m, d)) * [1, 3, 1, 2, 1][:d]
    score = X[:, 0] + X[:, 2] + rng.normal(size=n + m)
    if n_classes:
        score = np.digitize(score, np.quantile(score, [0.4, 0.7][: n_classes - 1]))
    return X[:n], score[:n], X[n:], score[n:]


def data_of(last):
    return data(0 if last in REGRESSORS else 3)


def slope(function, h=1e-5):
    near, far = function(h) - function(-h), function(2 * h) - function(-2 * h)
    return (8 * near - far) / (12 * h)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("last", CLASSIFIERS + REGRESSORS)
def test_scores_are_scikit_learns(last, steps):
    X, y, X_val, y_val = data_of(last)
    model = make_pipeline(*steps, clone(last))
    if not isinstance(last, Ridge | RidgeClassifier):
        model[-1].set_params(tol=1e-9, max_iter=10**6)
    if isinstance(last, SVC):
        model[-1].set_params(decision_function_shape="ovo")
    solved = Victim(model).solve(X, y)
    model.fit(X, y)
    known = getattr(model, "decision_function", model.predict)(X_val)
    assert_allclose(solved.scores(X_val), known.reshape(len(y_val), -1), atol=1e-4)
    assert_allclose(solved.features(X), solved.inputs[-1], atol=1e-12)
    value = solved.value(X_val, y_val, "auto")
    assert value == solved.gradient(X_val, y_val, "auto").value


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("last", CLASSIFIERS + REGRESSORS)
def test_training_rows_as_validation_rows(last, steps):
    """A row that the objective is measured on moves it in two ways."""
    X, y, _, _ = data_of(last)
    victim = Victim(make_pipeline(*steps, last))

    def value(t, n_own):
        solved = victim.solve(X + t * direction, y)
        return solved.value(None, y[:n_own], "auto")

    direction = np.random.default_rng(1).normal(size=X.shape)
    for n_own in (len(y), 12):
        found = victim.solve(X, y).gradient(None, y[:n_own], "auto")
        assert found.value == value(0, n_own)
        expected = slope(lambda t: value(t, n_own))  # noqa: B023
        assert_allclose(np.sum(found.X * direction), expected, rtol=1e-6)
        for rows in (slice(5, None), slice(20, None), slice(0, 3), slice(14, 20)):
            some = victim.solve(X, y).gradient(None, y[:n_own], "auto", rows=rows)
            assert_allclose(some.X, found.X[rows], atol=1e-13)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("last", CLASSIFIERS + REGRESSORS)
def test_some_rows(last, steps):
    X, y, X_val, y_val = data_of(last)
    solved = Victim(make_pipeline(*steps, last)).solve(X, y)
    options = {"categories": {1: [0.0, 1.0]}}
    found = solved.gradient(X_val, y_val, "auto", **options)
    some = solved.gradient(X_val, y_val, "auto", rows=slice(20, None), **options)
    assert (found.X[:, 1] == 0).all() and found.gains[1].shape == (len(X), 2)
    assert_allclose(some.X, found.X[20:], atol=1e-14)
    assert_allclose(some.gains[1], found.gains[1][20:], atol=1e-14)
    assert_allclose(some.weights(slice(20, None)), found.weights()[20:], atol=1e-14)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("last", CLASSIFIERS + REGRESSORS)
def test_warm_starts(last, steps):
    """The solution is that of a cold start, also with other rows at the end."""
    X, y, X_val, y_val = data_of(last)
    victim = Victim(make_pipeline(*steps, last))
    cold = victim.solve(X, y).gradient(X_val, y_val, "auto")
    moved = X + 0.1 * np.random.default_rng(2).normal(size=X.shape)
    for start in (
        victim.solve(moved, y),
        victim.solve(X[:-4], y[:-4]),
        victim.solve(np.concatenate([X, moved[:7]]), np.concatenate([y, y[7:14]])),
    ):
        warm = victim.solve(X, y, start=start).gradient(X_val, y_val, "auto")
        assert_allclose(warm.value, cold.value, rtol=1e-9)
        assert_allclose(warm.X, cold.X, atol=1e-7 * np.abs(cold.X).max())


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "last",
    [LogisticRegression(), LinearSVC(C=0.3), SVC(gamma=0.2), Ridge(), SVR(gamma=1)],
)
def test_gain(last, steps):
    """A row is added with a small weight, the steps as they are."""
    X, y, X_val, y_val = data(0 if isinstance(last, Ridge | SVR) else 3)
    model = make_pipeline(*steps, last)
    found = Victim(model).solve(X, y).gradient(X_val, y_val, "auto")
    X_new, y_new = X_val[:4] + 0.3, y_val[[4, 5, 6, 7]]
    if steps:
        fitted = model[:-1].fit(X)
        model = make_pipeline(*(FrozenEstimator(s) for s in fitted), last)
    gain = found.gain(X_new, y_new)
    for i in range(4):

        def value(t, i=i):
            solved = Victim(model).solve(
                np.concatenate([X, X_new[[i]]]),
                np.append(y, y_new[i]),
                np.append(np.ones(len(X)), t),
            )
            return solved.value(X_val, y_val, "auto")

        f = [value(k * 1e-6) for k in range(4)]
        expected = (-11 * f[0] + 18 * f[1] - 9 * f[2] + 2 * f[3]) / 6e-6
        assert abs(gain[i] - expected) <= 1e-6 * np.abs(gain).max()


class Shift(BaseEstimator):
    """Looks at labels, writes to what it is given, and has no ``fit_transform``."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def transform(self, X):
        X += 1.0
        return X


def test_steps_of_any_make():
    X, y, X_val, y_val = data(2)
    before = X.copy(), X_val.copy()
    victim = Victim(
        make_pipeline(StandardScaler(copy=False), Shift(), LogisticRegression()),
        jacobian="finite-differences",
        classes=["no", "yes"],
    )
    solved = victim.solve(X, y)
    found = solved.gradient(X_val, y_val, "auto")
    assert solved.steps[1][1].classes_.tolist() == ["no", "yes"]
    assert_array_equal(solved.inputs[0], before[0])
    assert_array_equal(X, before[0])
    assert_array_equal(X_val, before[1])
    plain = Victim(make_pipeline(StandardScaler(), LogisticRegression()))
    expected = plain.solve(X, y).gradient(X_val, y_val, "auto")
    assert_allclose(found.X, expected.X, atol=1e-8)


def test_only_finite_numbers_reach_the_learner():
    X, y, X_val, y_val = data(2)
    holes = X.copy()
    holes[3, 2] = np.nan
    for steps in STEPS[:1] + [[StandardScaler()]]:
        victim = Victim(make_pipeline(*steps, LogisticRegression()))
        with pytest.raises(ValueError, match="NaN"):
            victim.solve(holes, y)
        with pytest.raises(ValueError, match="NaN"):
            victim.solve(X, y).scores(holes)
        with pytest.raises(ValueError, match="NaN"):
            victim.solve(X, y).gradient(holes, y, "auto")


def test_names_of_nested_steps():
    inner = Pipeline([("low", MinMaxScaler()), ("no", None), ("last", Ridge())])
    model = Pipeline(
        [("scale", StandardScaler()), ("off", "passthrough"), ("in", inner)]
    )
    assert [name for name, _ in Victim(model).steps] == ["scale", "in__low"]


def test_learners():
    assert find_learner(LogisticRegression(), ["a", "b"]).score_kind == "binary"
    assert find_learner(SVC(), ["a", "b", "c"]).score_kind == "ovo"
    made = []

    def make(estimator, classes):
        made.append((estimator, classes))
        return make_learner(estimator, classes)

    last = LogisticRegression()
    Victim(make_pipeline(StandardScaler(), last), classes=[0, 1], make=make)
    assert made == [(last, [0, 1])]
    for estimator, message in [
        (SVC(kernel="precomputed"), "precomputed"),
        (SVC(kernel=lambda X, Z: X @ Z.T), "kernel"),
        (LinearSVC(multi_class="crammer_singer"), "crammer_singer"),
        (Ridge(positive=True), "positive"),
        (StandardScaler(), "StandardScaler has no gradient"),
    ]:
        with pytest.raises(NotDifferentiableError, match=message):
            find_learner(estimator)
