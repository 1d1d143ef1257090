"""Support vector machines: the same machine as scikit-learn's, and its derivatives."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC

from skpoison.attacks._implicit._active_set import Kernel, whole_matrix
from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._svm import make_learner


def _scaled(X):
    return (X - X.min(axis=0)) / np.ptp(X, axis=0)


def _binary(n=60, d=6):
    X, y = load_breast_cancer(return_X_y=True)
    rows = np.random.RandomState(0).permutation(len(X))
    X, y = _scaled(X)[rows, :d], y[rows]
    return X[:n], y[:n], X[n : n + 40]


def _three(n=60, d=6):
    X, y = load_wine(return_X_y=True)
    rows = np.random.RandomState(1).permutation(len(X))
    X, y = _scaled(X)[rows, :d], y[rows]
    return X[:n], y[:n], X[n : n + 40]


def _numbers(n=60):
    X, y = load_diabetes(return_X_y=True)
    X = _scaled(X)
    return X[:n], (y[:n] - 150) / 80, X[n : n + 40]


def _lin(**parameters):
    return LinearSVC(loss="hinge", **parameters)


CASES = {
    "linear": (SVC(kernel="linear"), _binary),
    "rbf": (SVC(gamma=2.0), _binary),
    "rbf scale": (SVC(C=3.0), _binary),
    "poly": (SVC(kernel="poly", gamma=0.7, coef0=0.5), _binary),
    "poly scale": (SVC(kernel="poly", degree=2, C=2.0), _binary),
    "sigmoid": (SVC(kernel="sigmoid", gamma=0.1, coef0=-0.2, C=5.0), _binary),
    "sigmoid scale": (SVC(kernel="sigmoid", coef0=-2.0), _binary),
    "classes, linear": (SVC(kernel="linear"), _three),
    "classes, rbf": (SVC(C=0.5), _three),
    "classes, poly": (SVC(kernel="poly", gamma="auto", coef0=1.0), _three),
    "regression, linear": (SVR(kernel="linear", C=2.0, epsilon=0.3), _numbers),
    "regression, rbf": (SVR(epsilon=0.3), _numbers),
    "regression, poly": (SVR(kernel="poly", gamma=0.5, epsilon=0.4), _numbers),
    "regression, no tube": (SVR(epsilon=0.0, gamma=1.0), _numbers),
    "hinge": (_lin(C=2.0), _binary),
    "hinge, no intercept": (_lin(fit_intercept=False), _binary),
    "hinge, classes": (_lin(intercept_scaling=2.0), _three),
}


@pytest.fixture(params=CASES, name="case")
def _case(request):
    estimator, data = CASES[request.param]
    X, y, X_val = data()
    weights = np.random.RandomState(2).uniform(0.5, 1.5, len(y))
    return make_learner(estimator), X, y, weights, X_val


def _reference(estimator, X, y, weights=None, tol=1e-9):
    model = clone(estimator).set_params(tol=tol)
    if isinstance(model, SVC):
        model.set_params(decision_function_shape="ovo")
    if isinstance(model, LinearSVC):
        model.set_params(max_iter=1_000_000)
    model.fit(X, y, sample_weight=weights)
    f = model.predict if isinstance(model, SVR) else model.decision_function
    return lambda X: f(X).reshape(len(X), -1)


class _Objective:
    """A smooth function of the scores, whose active set is never at a kink."""

    def __init__(self, scores):
        self.c = np.random.RandomState(3).standard_normal(scores.shape)

    def __call__(self, scores):
        return (self.c * scores + 0.1 * scores**2).sum()

    def gradient(self, scores):
        return self.c + 0.2 * scores


def _slope(A, x, place, step=1e-5):
    """Central difference of A by one entry of an array."""
    sides = []
    for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * step
        sides.append(A(moved))
    return (sides[0] - sides[1]) / (2 * step)


def _some_rows(solution):
    """Rows of each kind: free, at C, at zero."""
    state, beta = solution.state, solution.beta
    kinds = [
        (state % 2 == 1).any(axis=1),
        ((state % 2 == 0) & (beta != 0)).any(axis=1),
        (beta == 0).all(axis=1),
    ]
    return np.concatenate([np.flatnonzero(kind)[:3] for kind in kinds])


# ---------------------------------------------------------------- the same machine


def test_scores_are_scikit_learns(case):
    learner, X, y, weights, X_val = case
    X_before, y_before, weights_before = X.copy(), y.copy(), weights.copy()
    solution = learner.solve(X, y, weights)
    expected = _reference(learner.estimator, X, y, weights)(X_val)
    # libsvm keeps kernels in single precision
    np.testing.assert_allclose(solution.scores(X_val), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    np.testing.assert_array_equal(weights, weights_before)


def test_optimality_conditions(case):
    learner, X, y, weights, _ = case
    solution = learner.solve(X, y, weights)
    assert solution.kkt_residual < 1e-9
    beta, costs, epsilon = solution.beta, solution.costs, learner.epsilon or 0.0
    error = learner.targets(y) - solution.scores(X)
    if learner.kind is not LinearSVC:
        assert np.abs(beta.sum(axis=0)).max() < 1e-9
    assert (np.abs(beta) <= costs * (1 + 1e-9)).all()
    if learner.kind is SVR:
        away, inside = np.sign(beta) * error - epsilon, np.abs(error) <= epsilon + 1e-9
    else:
        signs = learner.targets(y)
        assert (beta * signs >= -1e-12).all()
        away, inside = signs * error, signs * error <= 1e-9
    assert inside[(beta == 0) & (costs > 0)].all()
    assert (away[beta != 0] > -1e-9).all()
    free = (beta != 0) & (np.abs(beta) < costs * (1 - 1e-9))
    assert free.any() and np.abs(away[free]).max() < 1e-9


@pytest.mark.parametrize("data", [_binary, _three])
@pytest.mark.parametrize("given", ["balanced", {"a": 3.0, "b": 0.5}])
@pytest.mark.parametrize("estimator", [SVC(gamma=1.0), _lin()])
def test_class_weights_go_by_label(estimator, given, data):
    X, y, X_val = data()
    classes = np.array(["a", "b", "c"])[: y.max() + 1]
    weights = np.random.RandomState(4).uniform(0, 2, len(y))
    estimator = clone(estimator).set_params(class_weight=given)
    solution = make_learner(estimator, classes=classes).solve(X, y, weights)
    expected = _reference(estimator, X, classes[y], weights)(X_val)
    np.testing.assert_allclose(solution.scores(X_val), expected, atol=1e-5)


def test_score_kinds():
    kinds = [
        (SVC(), None, "binary", "hinge"),
        (SVC(), range(3), "ovo", "hinge"),
        (_lin(), range(2), "binary", "hinge"),
        (_lin(), range(3), "ovr", "hinge"),
        (SVR(), None, "regression", "squared_error"),
    ]
    for estimator, classes, score_kind, objective in kinds:
        learner = make_learner(estimator, classes=classes)
        assert (learner.score_kind, learner.objective) == (score_kind, objective)
    learner = make_learner(SVC())
    learner.solve(*_three()[:2])
    assert learner.score_kind == "ovo"


def test_a_row_of_weight_zero_is_no_row():
    X, y, X_val = _binary()
    for estimator in (SVC(gamma=1.0), SVR(gamma=1.0), _lin()):
        learner = make_learner(estimator)
        weights = np.ones(len(y))
        weights[::3] = 0
        there = learner.solve(X, y, weights).scores(X_val)
        without = learner.solve(X[weights > 0], y[weights > 0]).scores(X_val)
        np.testing.assert_allclose(there, without, atol=1e-10)
    with pytest.raises(ValueError, match="one class"):
        make_learner(SVC()).solve(X, y, weights=1.0 * (y == 0))


@pytest.mark.parametrize("y", [[0, 0, 0], [0, 2, 2]])
def test_classes_must_be_there(y):
    with pytest.raises(ValueError, match="every class"):
        make_learner(SVC()).solve(np.eye(3), np.array(y))


@pytest.mark.parametrize("estimator", [SVC(kernel="linear"), SVC(C=1000.0), _lin()])
def test_raw_columns_of_any_unit(estimator):
    # libsvm would take minutes to hours for a linear kernel on such data
    X, y = load_breast_cancer(return_X_y=True)
    solution = make_learner(estimator).solve(X[:200], y[:200])
    assert solution.kkt_residual < 1e-5


def test_columns_far_from_zero():
    X, y, X_val = _binary()
    for kernel in ("linear", "rbf"):
        learner = make_learner(SVC(kernel=kernel, gamma=1.0))
        near, far = learner.solve(X, y), learner.solve(X + 1e6, y)
        np.testing.assert_allclose(far.scores(X_val + 1e6), near.scores(X_val), 1e-6)


# --------------------------------------------------------------------- derivatives


def test_gradient_of_rows(case):
    learner, X, y, weights, X_val = case
    solution = learner.solve(X, y, weights)
    A = _Objective(solution.scores(X_val))
    adjoint = solution.adjoint(X_val, A.gradient(solution.scores(X_val)))
    gradient = adjoint.rows()
    assert gradient.shape == X.shape
    rows = _some_rows(solution)

    def solved(moved):
        return A(learner.solve(moved, y, weights, start=solution).scores(X_val))

    for i in rows:
        for j in (0, 3, 5):
            expected = _slope(solved, X, (i, j))
            assert gradient[i, j] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(adjoint.rows(rows), gradient[rows], atol=1e-12)
    mask = np.isin(np.arange(len(X)), rows)
    np.testing.assert_allclose(adjoint.rows(mask), gradient[mask], atol=1e-12)
    np.testing.assert_allclose(adjoint.rows(slice(9, 2, -2)), gradient[9:2:-2])


def test_rows_that_support_nothing_have_no_gradient(case):
    learner, X, y, weights, X_val = case
    solution = learner.solve(X, y, weights)
    gradient = solution.adjoint(X_val, np.ones((40, solution.beta.shape[1]))).rows()
    idle = (solution.beta == 0).all(axis=1)
    if solution.gamma_moves:  # any row moves the variance of X
        assert gradient[idle].any()
    else:
        assert not gradient[idle].any() or not idle.any()
    assert gradient[~idle].any()


def test_gradient_of_weights(case):
    learner, X, y, weights, X_val = case
    solution = learner.solve(X, y, weights)
    A = _Objective(solution.scores(X_val))
    adjoint = solution.adjoint(X_val, A.gradient(solution.scores(X_val)))
    gradient = adjoint.weights()

    def solved(moved):
        return A(learner.solve(X, y, moved, start=solution).scores(X_val))

    rows = _some_rows(solution)
    for i in rows:
        expected = _slope(solved, weights, i)
        assert gradient[i] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(adjoint.weights(rows), gradient[rows])


def test_gradient_of_weights_with_class_weights():
    X, y, X_val = _three()
    weights = np.random.RandomState(5).uniform(0.5, 1.5, len(y))
    for estimator in (SVC(gamma=1.0), _lin()):
        estimator.set_params(class_weight={0: 2.0, 1: 0.5})
        learner = make_learner(estimator)
        solution = learner.solve(X, y, weights)
        A = _Objective(solution.scores(X_val))
        adjoint = solution.adjoint(X_val, A.gradient(solution.scores(X_val)))

        def solved(moved, learner=learner, A=A):
            return A(learner.solve(X, y, moved).scores(X_val))

        for i in _some_rows(solution):
            expected = _slope(solved, weights, i)
            assert adjoint.weights()[i] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_gradient_of_targets():
    X, y, X_val = _numbers()
    for estimator in (SVR(epsilon=0.3), SVR(kernel="linear"), SVR(epsilon=0.0)):
        learner = make_learner(estimator)
        solution = learner.solve(X, y)
        A = _Objective(solution.scores(X_val))
        adjoint = solution.adjoint(X_val, A.gradient(solution.scores(X_val)))

        def solved(moved, learner=learner, A=A):
            return A(learner.solve(X, moved).scores(X_val))

        for i in _some_rows(solution):
            expected = _slope(solved, y, i)
            assert adjoint.targets()[i] == pytest.approx(expected, rel=1e-5, abs=1e-8)
    with pytest.raises(TypeError, match="no derivative"):
        make_learner(SVC()).solve(X, 1 * (y > 0)).adjoint(X, np.ones((60, 1))).targets()


def test_gradient_of_validation_rows(case):
    learner, X, y, weights, X_val = case
    solution = learner.solve(X, y, weights)
    A = _Objective(solution.scores(X_val))
    G = A.gradient(solution.scores(X_val))
    G[5] = 0  # the rows that A does not see
    gradient = solution.adjoint(X_val, G).validation()
    assert not gradient[5].any()
    for place in [(0, 0), (3, 5), (39, 2)]:
        expected = _slope(lambda moved: A(solution.scores(moved)), X_val, place)
        assert gradient[place] == pytest.approx(expected, rel=1e-6)


def test_gain_of_a_row_that_is_added(case):
    learner, X, y, weights, X_val = case
    if getattr(learner.estimator, "gamma", None) == "scale":
        learner = make_learner(clone(learner.estimator).set_params(gamma=1.0))
    solution = learner.solve(X, y, weights)
    A = _Objective(solution.scores(X_val))
    before = A(solution.scores(X_val))
    adjoint = solution.adjoint(X_val, A.gradient(solution.scores(X_val)))
    X_new = X_val[:12]
    y_new = np.roll(y[:12], 1)
    gains = adjoint.gain(X_new, y_new)
    assert gains.any()
    step = 1e-5
    for x, label, gain in zip(X_new, y_new, gains, strict=True):
        after = learner.solve(
            np.vstack([X, x]), np.append(y, label), np.append(weights, step), solution
        )
        found = (A(after.scores(X_val)) - before) / step
        assert gain == pytest.approx(found, rel=1e-3, abs=1e-4)
    # a row of weight 0 that is there already
    there = learner.solve(
        np.vstack([X, X_new]), np.append(y, y_new), np.append(weights, np.zeros(12))
    ).adjoint(X_val, A.gradient(solution.scores(X_val)))
    np.testing.assert_allclose(there.weights(slice(60, None)), gains, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "rbf scale", "classes, rbf"])
def test_gradient_against_refits_of_scikit_learn(name):
    estimator, data = CASES[name]
    X, y, X_val = data()
    solution = make_learner(estimator).solve(X, y)
    A = _Objective(solution.scores(X_val))
    scores = solution.scores(X_val)
    gradient = solution.adjoint(X_val, A.gradient(scores)).rows()
    largest = np.argsort(-np.abs(gradient), axis=None)[:4]
    for place in zip(*np.unravel_index(largest, X.shape), strict=True):
        # libsvm keeps kernels in single precision: no smaller step than this
        expected = _slope(
            lambda moved: A(_reference(estimator, moved, y, tol=1e-10)(X_val)),
            X,
            place,
            step=3e-4,
        )
        assert gradient[place] == pytest.approx(expected, rel=1e-3)


# ------------------------------------------------------------------- special cases


def test_no_free_row():
    # four rows, all at C: the intercept is the middle of an interval
    X = np.array([[0.0, 0.1], [1.0, 0.0], [0.1, 1.0], [0.9, 1.2]])
    y = np.array([0, 1, 0, 1])
    X_val = np.random.RandomState(0).uniform(size=(5, 2))
    estimator = SVC(kernel="rbf", gamma=0.5, C=0.1)
    learner = make_learner(estimator)
    solution = learner.solve(X, y)
    assert (solution.state % 2 == 0).all()
    expected = _reference(estimator, X, y)(X_val)
    np.testing.assert_allclose(solution.scores(X_val), expected, atol=1e-6)
    A = _Objective(expected)
    gradient = solution.adjoint(X_val, A.gradient(expected)).rows()
    for place in np.ndindex(*X.shape):
        expected = _slope(
            lambda moved: A(learner.solve(moved, y).scores(X_val)), X, place
        )
        assert gradient[place] == pytest.approx(expected, rel=1e-6)


def test_everything_inside_the_tube():
    X, y, X_val = _numbers()
    solution = make_learner(SVR(epsilon=10.0)).solve(X, y)
    assert not solution.beta.any()
    np.testing.assert_allclose(solution.scores(X_val), (y.max() + y.min()) / 2)
    adjoint = solution.adjoint(X_val, np.ones((40, 1)))
    assert not adjoint.rows().any()
    assert adjoint.targets()[[y.argmax(), y.argmin()]].tolist() == [20, 20]
    assert np.count_nonzero(adjoint.targets()) == 2


@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly"])
def test_copies_of_rows(kernel):
    X, y, X_val = _binary()
    # each row twice, and some with the other label as well
    once = np.vstack([X, X[:30]]), np.concatenate([y, 1 - y[:30]])
    X, y = (np.concatenate([part, part[:60]]) for part in once)
    weights = np.repeat([2.0, 1.0], [60, 30])
    for estimator in (
        SVC(kernel=kernel, gamma=1.0, C=2.0),
        SVR(kernel=kernel, gamma=1.0, epsilon=0.05),
        _lin(),
    ):
        learner = make_learner(estimator)
        solution = learner.solve(X, y)
        assert solution.kkt_residual < 1e-9
        weighted = learner.solve(*once, weights)
        np.testing.assert_allclose(
            solution.scores(X_val), weighted.scores(X_val), atol=1e-8
        )
        expected = _reference(estimator, X, y)(X_val)
        np.testing.assert_allclose(solution.scores(X_val), expected, atol=1e-3)
        adjoint = solution.adjoint(X_val, np.ones((40, 1)))
        assert np.isfinite(adjoint.rows()).all()
        assert np.isfinite(adjoint.gain(X_val, y[:40])).all()


def test_more_free_rows_than_dimensions():
    # a square: all four corners on the margin of a linear machine in the plane
    X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = np.array([0, 0, 1, 1])
    for estimator in (SVC(kernel="linear", C=10.0), _lin(C=10.0)):
        solution = make_learner(estimator).solve(X, y)
        assert solution.kkt_residual < 1e-9
        expected = _reference(estimator, X, y)(X)
        np.testing.assert_allclose(solution.scores(X), expected, atol=1e-6)
        assert np.isfinite(solution.adjoint(X, np.ones((4, 1))).rows()).all()


def test_separable_data():
    X, y, X_val = _three()
    X = X + 3 * np.eye(6)[y]
    for estimator in (SVC(kernel="linear", C=1e6), SVC(C=1e6, gamma=0.5)):
        learner = make_learner(estimator)
        solution = learner.solve(X, y)
        assert solution.kkt_residual < 1e-9
        signs = learner.targets(y)
        assert (solution.scores(X) * signs)[signs != 0].min() > 1 - 1e-9
        A = _Objective(solution.scores(X_val))
        G = A.gradient(solution.scores(X_val))
        gradient = solution.adjoint(X_val, G).rows()
        place = np.unravel_index(np.abs(gradient).argmax(), X.shape)
        expected = _slope(
            lambda moved, learner=learner, A=A: A(
                learner.solve(moved, y).scores(X_val)
            ),
            X,
            place,
        )
        assert gradient[place] == pytest.approx(expected, rel=1e-4)


def test_warm_start_is_cold_start(case):
    learner, X, y, weights, X_val = case
    start = learner.solve(X[:-8], y[:-8])
    moved = X + np.random.RandomState(6).normal(scale=0.02, size=X.shape)
    y = y.copy()
    y[:3] = y[[1, 2, 0]]
    for X_now, y_now, w in (
        (moved, y, None),  # more rows, other values, other labels
        (moved[:-20], y[:-20], None),  # fewer rows
        (X, y, 2 * weights),
    ):
        cold = learner.solve(X_now, y_now, w)
        warm = learner.solve(X_now, y_now, w, start=start)
        np.testing.assert_allclose(
            warm.scores(X_val), cold.scores(X_val), rtol=1e-7, atol=1e-8
        )


@pytest.mark.parametrize("data", [_binary, _three, _numbers])
def test_start_from_a_fitted_estimator(data):
    X, y, X_val = data()
    estimator = SVR(gamma=1.0) if data is _numbers else SVC(gamma=1.0)
    learner = make_learner(estimator)
    cold = learner.solve(X, y).scores(X_val)

    def refuse(task):
        raise AssertionError("a close start needs no fit")

    learner._fit = refuse
    warm = learner.solve(X, y, start=clone(estimator).fit(X, y))
    np.testing.assert_allclose(warm.scores(X_val), cold, atol=1e-10)
    assert make_learner(clone(estimator).fit(X, y)).score_kind == learner.score_kind


def test_starts_that_do_not_fit_are_not_used():
    X, y, X_val = _binary()
    learner = make_learner(SVC(gamma=1.0))
    cold = learner.solve(X, y).scores(X_val)
    for start in (
        make_learner(SVR()).solve(X, y * 1.0),
        learner.solve(*_three()[:2]),
        SVC(),
        SVC().fit(*_three()[:2]),
        LogisticRegression().fit(X, y),
    ):
        warm = learner.solve(X, y, start=start).scores(X_val)
        np.testing.assert_allclose(warm, cold, atol=1e-10)


def test_kernel_rows_as_needed(monkeypatch):
    from skpoison.attacks._implicit import _active_set

    for data in (_binary, _three):
        X, y, X_val = data()
        for kernel in ("rbf", "linear"):
            learner = make_learner(SVC(kernel=kernel, gamma=1.0))
            whole = learner.solve(X, y)
            with monkeypatch.context() as patch:
                patch.setattr(_active_set, "_WHOLE", 10)
                assert whole_matrix(Kernel(kernel), X) is None
                parts = learner.solve(X, y)
            np.testing.assert_allclose(
                parts.scores(X_val), whole.scores(X_val), atol=1e-9
            )


# ------------------------------------------------------------------ what is refused


class _Renamed(SVC):
    pass


class _OwnFit(SVC):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y)


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), NuSVC(), _OwnFit(), LinearSVC(loss="squared_hinge")],
)
def test_estimators_of_other_kinds(estimator):
    assert make_learner(estimator) is None


def test_subclass_with_the_same_fit():
    assert make_learner(_Renamed()).score_kind == "binary"


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (SVC(kernel="precomputed"), r"SVC\(kernel='precomputed'\)"),
        (SVR(kernel=np.dot), r"SVR\(kernel=.*dot"),
        (_lin(multi_class="crammer_singer"), "LinearSVC.*crammer_singer"),
    ],
)
def test_settings_without_a_gradient(estimator, named):
    with pytest.raises(NotDifferentiableError, match=named):
        make_learner(estimator)
