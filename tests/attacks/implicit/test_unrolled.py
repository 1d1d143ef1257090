"""Gradients through training: against autograd, differences and the optimum."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
)
from sklearn.preprocessing import StandardScaler, scale
from sklearn.svm import SVC

from skpoison.attacks._implicit._objectives import (
    NotDifferentiableError,
    resolve_objective,
)
from skpoison.attacks._implicit._unrolled import make_learner

torch = pytest.importorskip("torch")
one_vs_rest = pytest.mark.skipif(
    not hasattr(LogisticRegression(), "multi_class"),
    reason="liblinear with more than two classes is gone from scikit-learn 1.8",
)
F = torch.nn.functional


def _table(load, n_samples=60, n_features=5):
    X, y = load(return_X_y=True)
    rows = np.random.RandomState(0).permutation(len(X))[: n_samples + 30]
    X, y = scale(X[rows, :n_features]), y[rows]
    if load is load_diabetes:
        y = scale(y) + 0.3
    return X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:]


def _smooth_net(kind="TorchClassifier", **params):
    """A network without kinks, so that differences are clean."""
    models = pytest.importorskip("skpoison.models")

    def module(input_shape, n_outputs):
        return torch.nn.Sequential(
            torch.nn.Linear(input_shape[0], 4),
            torch.nn.Tanh(),
            torch.nn.Linear(4, n_outputs),
        )

    return getattr(models, kind)(module, random_state=0, **params)


def _cases():
    return {
        "binary": (LogisticRegression(C=0.5), load_breast_cancer),
        "softmax": (LogisticRegression(fit_intercept=False), load_iris),
        "liblinear": (
            LogisticRegression(
                solver="liblinear", intercept_scaling=2.0, class_weight={1: 3.0}
            ),
            load_breast_cancer,
        ),
        "ridge": (Ridge(alpha=2.0), load_diabetes),
        "network": (_smooth_net(), load_iris),
        "network regression": (_smooth_net("TorchRegressor"), load_diabetes),
    }


CASES = ["binary", "softmax", "liblinear", "ridge", "network", "network regression"]


def _setting(case, **params):
    estimator, load = _cases()[case]
    params = {"n_steps": 50, "learning_rate": 0.05, "momentum": 0.9, **params}
    learner = make_learner(estimator, **params)
    return learner, *_table(load)


def _objective(learner, solution, X_val, y_val):
    return resolve_objective("auto", learner)(solution.scores(X_val), y_val)


def _adjoint(learner, X, y, X_val, y_val, weights=None):
    solution = learner.solve(X, y, weights)
    _, G = _objective(learner, solution, X_val, y_val)
    return solution.adjoint(X_val, G)


def _relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("case", CASES)
def test_exact_reverse_equals_differences(case):
    learner, X, y, X_val, y_val = _setting(case, reverse="exact", n_steps=20)
    rng = np.random.RandomState(1)
    weights = rng.uniform(0.5, 1.5, len(y))
    adjoint = _adjoint(learner, X, y, X_val, y_val, weights)
    assert adjoint.drift == 0

    def value(X=X, y=y, X_val=X_val, weights=weights):
        solution = learner.solve(X, y, weights)
        return _objective(learner, solution, X_val, y_val)[0]

    def check(found, name, array, h=1e-5):
        for _ in range(3):
            step = rng.randn(*array.shape)
            up, down = (value(**{name: array + s * h * step}) for s in (1, -1))
            np.testing.assert_allclose(
                (found * step).sum(), (up - down) / (2 * h), rtol=1e-5, atol=1e-9
            )

    check(adjoint.rows(), "X", X)
    check(adjoint.weights(), "weights", weights)
    check(adjoint.validation(), "X_val", X_val)
    if learner.score_kind == "regression":
        check(adjoint.targets(), "y", y)
    else:
        with pytest.raises(TypeError, match="labels have no derivative"):
            adjoint.targets()
    np.testing.assert_array_equal(adjoint.rows([4, 2]), adjoint.rows()[[4, 2]])


@pytest.mark.parametrize("reverse", ["exact", "back_gradient"])
@pytest.mark.parametrize("case", CASES)
def test_gain_is_the_derivative_by_the_weight_of_a_new_row(case, reverse):
    learner, X, y, X_val, y_val = _setting(case, reverse=reverse, n_steps=20)
    X_new, y_new = X_val[:3] + 0.5, y_val[:3]
    adjoint = _adjoint(learner, X, y, X_val, y_val)
    gain = adjoint.gain(X_new, y_new)
    # a second copy of a row does what more weight on the first does
    np.testing.assert_allclose(adjoint.gain(X, y), adjoint.weights(), rtol=1e-9)
    if case == "network regression":
        return  # the new row's target would move the mean and scale of the others'
    n = len(y)
    # one more row divides the loss by n + 1: undo it
    factor = (n + 1) / n
    learner.learning_rate *= factor
    if case == "network":
        learner.model.decay /= factor
    for i in range(3):
        X_more, y_more = np.vstack([X, X_new[i]]), np.append(y, y_new[i])
        values = [
            _objective(
                learner,
                learner.solve(X_more, y_more, np.append(np.ones(n), w)),
                X_val,
                y_val,
            )[0]
            for w in (1e-4, -1e-4)
        ]
        np.testing.assert_allclose(
            gain[i], (values[0] - values[1]) / 2e-4, rtol=1e-5, atol=1e-10
        )


def _unrolled_by_torch(
    X, y, X_val, y_val, loss, n_outputs, l2, n_steps, rate, momentum
):
    """Train in one autograd graph; return the gradient of the validation loss."""
    X, X_val = (torch.tensor(a, requires_grad=True) for a in (X, X_val))
    y, y_val = torch.tensor(y), torch.tensor(y_val)
    W = torch.zeros(n_outputs, X.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(n_outputs, dtype=torch.float64, requires_grad=True)
    state, velocity = [W, b], [torch.zeros_like(W), torch.zeros_like(b)]
    for _ in range(n_steps):
        W, b = state
        value = loss(X @ W.T + b, y) + 0.5 * l2 * (W**2).sum() / len(X)
        gradient = torch.autograd.grad(value, state, create_graph=True)
        velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        state = [s - rate * v for s, v in zip(state, velocity, strict=True)]
    W, b = state
    total = loss(X_val @ W.T + b, y_val)
    found = torch.autograd.grad(total, [X, X_val])
    return W.detach().numpy(), [g.numpy() for g in found]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "estimator, load, n_outputs, l2, loss",
    [
        (
            LogisticRegression(C=0.5),
            load_breast_cancer,
            1,
            2.0,
            lambda Z, y: F.binary_cross_entropy_with_logits(Z[:, 0], y.double()),
        ),
        (LogisticRegression(), load_iris, 3, 1.0, F.cross_entropy),
        # the halves of squared_error's value stand in for its learner's
        (
            Ridge(alpha=3.0),
            load_diabetes,
            1,
            3.0,
            lambda Z, y: 0.5 * F.mse_loss(Z[:, 0], y),
        ),
    ],
    ids=["binary", "softmax", "ridge"],
)
def test_exact_reverse_equals_autograd(estimator, load, n_outputs, l2, loss, momentum):
    data = _table(load)
    options = {"n_steps": 40, "learning_rate": 0.1, "momentum": momentum}
    learner = make_learner(estimator, reverse="exact", **options)
    adjoint = _adjoint(learner, *data)
    W, (by_X, by_X_val) = _unrolled_by_torch(
        *data, loss, n_outputs, l2, *options.values()
    )
    found = adjoint.solution.theta.reshape(n_outputs, -1)[:, :-1]
    np.testing.assert_allclose(found, W, rtol=1e-10, atol=1e-14)
    factor = 2 if learner.score_kind == "regression" else 1
    assert _relative(adjoint.rows(), factor * by_X) < 1e-8
    assert _relative(adjoint.validation(), factor * by_X_val) < 1e-8


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_exact_reverse_of_a_network_equals_autograd(decay):
    estimator = _smooth_net(optimizer__weight_decay=decay)
    X, y, X_val, y_val = _table(load_iris)
    learner = make_learner(
        estimator, reverse="exact", n_steps=30, learning_rate=0.2, momentum=0.8
    )
    adjoint = _adjoint(learner, X, y, X_val, y_val)
    module = clone(estimator).set_params(max_epochs=1, lr=1e-30).fit(X, y).module_
    leaf = torch.tensor(X, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]
    # the weights that fit would start from
    state = [p.detach().double().requires_grad_(True) for p in module.parameters()]
    velocity = [torch.zeros_like(p) for p in state]

    def out(state, X):
        return torch.func.functional_call(
            module, dict(zip(names, state, strict=True)), X
        )

    for _ in range(30):
        value = F.cross_entropy(out(state, leaf), torch.tensor(y))
        value = value + 0.5 * decay * sum((p**2).sum() for p in state)
        gradient = torch.autograd.grad(value, state, create_graph=True)
        velocity = [0.8 * v + g for v, g in zip(velocity, gradient, strict=True)]
        state = [s - 0.2 * v for s, v in zip(state, velocity, strict=True)]
    total = F.cross_entropy(out(state, torch.tensor(X_val)), torch.tensor(y_val))
    (by_X,) = torch.autograd.grad(total, leaf)
    assert _relative(adjoint.rows(), by_X.numpy()) < 1e-8


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("case", [*CASES, "relu"])
def test_back_gradient_agrees_with_exact(case, momentum):
    if case == "relu":
        models = pytest.importorskip("skpoison.models")
        estimator = models.TorchClassifier(module__hidden=(16,), random_state=0)
        data = _table(load_breast_cancer)
    else:
        estimator, load = _cases()[case]
        data = _table(load)
    rate = 0.02 if momentum == 0 else 0.05
    options = {"n_steps": 50, "learning_rate": rate, "momentum": momentum}
    exact, back = (
        _adjoint(make_learner(estimator, reverse=reverse, **options), *data)
        for reverse in ("exact", "back_gradient")
    )
    assert len(back.solution.kept) == 1  # where training started from, no more
    limit = 1e-3 if momentum == 0 else 1e-8
    assert back.drift < limit
    for name in ("rows", "weights", "validation"):
        assert _relative(getattr(back, name)(), getattr(exact, name)()) < limit


@pytest.mark.filterwarnings("ignore:gradient descent run backwards")
def test_reversal_without_momentum_drifts_with_rate_times_steps():
    """The rule of one evaluation; each more gains about a factor of rate * curvature.

    With momentum there is no drift, however large the rate.
    """
    data = _table(load_breast_cancer)

    def error(rate, n_steps, momentum=0.0, fixed_point_iter=1):
        options = {
            "n_steps": n_steps,
            "learning_rate": rate,
            "momentum": momentum,
            "fixed_point_iter": fixed_point_iter,
        }
        exact, back = (
            _adjoint(make_learner(LogisticRegression(), reverse=r, **options), *data)
            for r in ("exact", "back_gradient")
        )
        return _relative(back.rows(), exact.rows())

    by_rate = [error(rate, 50) for rate in (0.005, 0.02, 0.08)]
    by_steps = [error(0.02, n_steps) for n_steps in (10, 30, 90)]
    by_effort = [error(0.08, 50, fixed_point_iter=k) for k in (1, 2, 3)]
    for errors in (by_rate, by_steps, by_effort[::-1]):
        assert (np.diff(errors) > 0).all()
    assert by_rate[0] < 1e-3 < 0.01 < by_rate[2]
    assert error(0.5, 50, momentum=0.9) < 1e-8


def test_a_reversal_that_strays_is_reported():
    data = _table(load_breast_cancer)
    learner = make_learner(
        LogisticRegression(), learning_rate=1.0, momentum=0.0, n_steps=200
    )
    with pytest.warns(RuntimeWarning, match="run backwards strays"):
        assert _adjoint(learner, *data).drift > 0.01


def test_kept_states_hold_a_long_reversal_on_its_way():
    """Rounding grows by 1 / momentum a step: 1e-16 to 1e29 over a thousand steps."""
    data = _table(load_breast_cancer)
    exact, back = (
        _adjoint(make_learner(LogisticRegression(), n_steps=1000, reverse=r), *data)
        for r in ("exact", "back_gradient")
    )
    assert len(exact.solution.kept) == 1000 and len(back.solution.kept) == 8
    assert back.drift < 1e-6 and _relative(back.rows(), exact.rows()) < 1e-6


@pytest.mark.parametrize(
    "estimator, load",
    [
        (LogisticRegression(C=0.1), load_breast_cancer),
        (LogisticRegression(C=0.1, class_weight="balanced"), load_iris),
        (LogisticRegression(C=0.1, solver="liblinear"), load_breast_cancer),
        pytest.param(
            LogisticRegression(C=0.1, solver="liblinear"), load_iris, marks=one_vs_rest
        ),
        (Ridge(alpha=5.0), load_diabetes),
        (Ridge(alpha=5.0, fit_intercept=False), load_diabetes),
        (LinearRegression(), load_diabetes),
    ],
)
def test_long_training_ends_at_the_optimum(estimator, load):
    X, y, X_val, _ = _table(load)
    weights = np.random.RandomState(0).uniform(0.5, 1.5, len(y))
    learner = make_learner(estimator, n_steps=3000)
    found = learner.solve(X, y, weights).scores(X_val)
    if hasattr(estimator, "tol"):
        estimator = clone(estimator).set_params(tol=1e-10)
    if hasattr(estimator, "max_iter") and load is not load_diabetes:
        estimator.set_params(max_iter=10000)
    model = estimator.fit(X, y, weights)
    if load is load_diabetes:
        wanted = model.predict(X_val)[:, None]
    else:
        wanted = model.decision_function(X_val).reshape(len(X_val), -1)
        found = (
            found - found.mean(axis=1, keepdims=True) if load is load_iris else found
        )
        wanted = wanted - (
            wanted.mean(axis=1, keepdims=True) if load is load_iris else 0
        )
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_automatic_rate_trains_networks():
    models = pytest.importorskip("skpoison.models")
    X, y = load_iris(return_X_y=True)
    X = scale(X)
    learner = make_learner(models.TorchClassifier(random_state=0))
    scores = learner.solve(X, y).scores(X)
    assert (scores.argmax(axis=1) == y).mean() > 0.93
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    scores = make_learner(models.TorchRegressor()).solve(X, y).scores(X)[:, 0]
    assert ((scores - y) ** 2).mean() < 0.6 * y.var()


def test_images_reach_networks_as_rows():
    models = pytest.importorskip("skpoison.models")
    rng = np.random.RandomState(0)
    X, y = rng.rand(12, 64), np.arange(12) % 3
    estimator = models.TorchClassifier(
        "auto", input_shape=(1, 8, 8), module__channels=(2,), module__hidden=4
    )
    learner = make_learner(estimator, n_steps=3, classes=np.arange(4))
    solution = learner.solve(X, y)
    assert solution.scores(X).shape == (12, 4)
    adjoint = solution.adjoint(X[:5], np.ones((5, 4)))
    assert adjoint.rows().shape == X.shape and adjoint.validation().shape == (5, 64)


@pytest.mark.slow
def test_training_is_repeatable_and_leaves_global_streams_alone():
    estimator = _smooth_net().set_params(random_state=None)
    X, y, X_val, y_val = _table(load_iris)
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    first, again, other = (
        _adjoint(make_learner(estimator, random_state=s), X, y, X_val, y_val).rows()
        for s in (None, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(
        np.random.get_state(legacy=False)["state"]["key"],  # noqa: NPY002
        numpy_state,
    )


def test_score_kinds():
    X, y, *_ = _table(load_iris)
    learner = make_learner(LogisticRegression(), classes=np.array(["a", "b"]))
    assert learner.score_kind == "binary"
    learner = make_learner(LogisticRegression(), n_steps=2)
    learner.solve(X, y)
    assert learner.score_kind == "softmax"
    assert make_learner(Ridge()).score_kind == "regression"


@pytest.mark.parametrize(
    "estimator",
    [SVC(), LogisticRegressionCV(), StandardScaler(), "LogisticRegression"],
    ids=repr,
)
def test_others_are_left_to_others(estimator):
    assert make_learner(estimator) is None


def test_what_is_no_gradient_descent_is_refused():
    models = pytest.importorskip("skpoison.models")
    loss = torch.nn.MultiMarginLoss
    cases = [
        (LogisticRegression(l1_ratio=0.5, solver="saga"), "l1_ratio=0.5"),
        (Ridge(positive=True), "positive=True"),
        (Ridge(alpha=[1.0, 2.0]), "unless it is one number"),
        (models.TorchClassifier(criterion=loss), "criterion=.*MultiMargin"),
        (
            models.TorchClassifier(criterion__label_smoothing=0.1),
            "without parameters",
        ),
    ]
    penalty = LogisticRegression().get_params().get("penalty")
    if penalty is not None:
        cases.append((LogisticRegression(penalty="l1", solver="saga"), "penalty='l1'"))
    if penalty == "l2":  # releases that read l1_ratio for penalty="elasticnet" alone
        cases[0] = (cases[0][0].set_params(penalty="elasticnet"), "penalty='elastic")
    for estimator, message in cases:
        with pytest.raises(NotDifferentiableError, match=message):
            make_learner(estimator)
    net = models.TorchClassifier(models.ResNet20)
    with pytest.raises(NotDifferentiableError, match="BatchNorm2d"):
        make_learner(net).solve(np.zeros((4, 1, 8, 8)), np.arange(4) % 2)


def test_a_subclass_that_trains_otherwise_is_no_own():
    defenses = pytest.importorskip("skpoison.defenses")
    assert make_learner(defenses.MixupClassifier()) is None


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_steps": 0}, "n_steps must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": "fast"}, "learning_rate must be one of 'auto'"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"reverse": "both"}, "reverse must be one of"),
        ({"fixed_point_iter": 0}, "fixed_point_iter must be >= 1"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        make_learner(Ridge(), **params)


def test_training_that_explodes_is_an_error():
    X, y, *_ = _table(load_diabetes)
    learner = make_learner(Ridge(), learning_rate=1e3, n_steps=200)
    with pytest.raises(ValueError, match="learning_rate=1000 leaves the finite"):
        learner.solve(X, y)


@pytest.mark.gpu
def test_networks_on_a_gpu_agree_with_the_cpu():
    data = _table(load_iris)
    options = {"n_steps": 50, "learning_rate": 0.1}
    cpu, gpu = (
        _adjoint(make_learner(_smooth_net(), device=d, **options), *data)
        for d in ("cpu", "cuda")
    )
    assert _relative(gpu.rows(), cpu.rows()) < 1e-8
