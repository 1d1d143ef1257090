"""Derivatives by a training set are those of complete refits."""

import pickle
import warnings
from inspect import signature

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectFromModel, SelectKBest, f_regression
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
)
from sklearn.metrics import hinge_loss, log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.utils.class_weight import compute_class_weight

from skpoison.attacks import implicit_gradient
from skpoison.utils import make_table_encoder

pd = pytest.importorskip("pandas")

OLD = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8)
L1 = {"penalty": "l1"} if OLD else {"l1_ratio": 1.0}
LIBLINEAR = {"solver": "liblinear", "intercept_scaling": 2.0}

TWO, THREE = ["no", "yes"], ["low", "mid", "top"]
BINARY = {
    "logistic": LogisticRegression(C=0.8),
    "logistic-weighted": LogisticRegression(class_weight={"no": 0.5, "yes": 2}),
    "logistic-balanced": LogisticRegression(class_weight="balanced"),
    "logistic-l1": LogisticRegression(**L1, C=2.0, solver="saga"),
    "liblinear": LogisticRegression(**LIBLINEAR),
    "ridge-classifier": RidgeClassifier(),
    "squared-hinge": LinearSVC(C=0.5),
}
MULTI = {
    "softmax": LogisticRegression(C=0.8),
    "softmax-weighted": LogisticRegression(
        class_weight={"low": 2, "mid": 1, "top": 0.5}
    ),
    "ridge-multi": RidgeClassifier(),
    "ridge-balanced": RidgeClassifier(class_weight="balanced"),
    "squared-hinge-multi": LinearSVC(C=0.5),
}
REGRESSION = {
    "ridge": Ridge(),
    "least-squares": LinearRegression(),
    "lasso": Lasso(alpha=0.05),
    "elastic-net": ElasticNet(alpha=0.05),
}
KERNELS = {
    "linear": {"kernel": "linear"},
    "rbf": {"kernel": "rbf"},
    "poly": {"kernel": "poly", "coef0": 1.0},
    "sigmoid": {"kernel": "sigmoid", "gamma": 0.05, "coef0": 0.1},
}
SVM_BINARY = {f"svc-{k}": SVC(**kernel) for k, kernel in KERNELS.items()}
SVM_BINARY["svc-weighted"] = SVC(class_weight={"no": 0.5, "yes": 2}, gamma=0.3)
SVM_BINARY["hinge"] = LinearSVC(loss="hinge", C=0.5)
SVM_MULTI = {f"svc-{k}-multi": SVC(**kernel) for k, kernel in KERNELS.items()}
SVM_MULTI["hinge-multi"] = LinearSVC(loss="hinge", C=0.5)
SVM_REGRESSION = {f"svr-{k}": SVR(**kernel) for k, kernel in KERNELS.items()}

# "balanced" has no meaning for a part of a row where scikit-learn counts rows
COUNTS_ROWS = ["ridge-balanced"]
if "sample_weight" not in signature(compute_class_weight).parameters:
    COUNTS_ROWS.append("logistic-balanced")
CLASSIFICATION = [
    name
    for name in [*BINARY, *MULTI, *SVM_BINARY, *SVM_MULTI]
    if name not in COUNTS_ROWS
]
SMOOTH = {**BINARY, **MULTI, **REGRESSION}
SVM = {**SVM_BINARY, **SVM_MULTI, **SVM_REGRESSION}
ALL = {**SMOOTH, **SVM}


def problem(name, seed=0, n=26, d=5, m=12):
    """Return training rows and validation rows in which labels overlap."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + m, d)) * rng.uniform(0.5, 3, d) + rng.normal(size=d)
    score = 2 * (X / X.std(axis=0)) @ [1, -1, 0.5, 0, 0.7][:d]
    score += rng.normal(size=n + m)
    if name in REGRESSION or name in SVM_REGRESSION:
        y = score
    elif name in MULTI or name in SVM_MULTI:
        y = np.array(THREE)[np.digitize(score, np.quantile(score, [0.3, 0.65]))]
    else:
        y = np.array(TWO)[(score > np.median(score)).astype(int)]
    return X[:n], y[:n], X[n:], y[n:]


def with_missing(X, seed):
    X = X.copy()
    X[np.random.default_rng(seed).random(X.shape) < 0.1] = np.nan
    return X


def as_frame(X, seed):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(X.shape[1])])
    frame.insert(2, "text", rng.choice(["red", "green", "blue"], len(X)))
    return frame


TABLE = ColumnTransformer(
    [
        ("numbers", StandardScaler(), ["c4", "c0", "c2", "c1"]),
        ("text", OneHotEncoder(handle_unknown="ignore"), ["text"]),
    ]
)
PIPELINES = {
    "scaler-pca": (lambda X, seed: X, [StandardScaler(), PCA(3)]),
    "polynomial": (lambda X, seed: X, [MinMaxScaler(), PolynomialFeatures(2)]),
    "imputer": (with_missing, [SimpleImputer(), RobustScaler()]),
    "svd": (lambda X, seed: X, [Normalizer(), TruncatedSVD(3)]),
    "table": (as_frame, [TABLE, PCA(4)]),
}


def pipeline(name, last):
    return make_pipeline(*PIPELINES[name][1], last)


def move(X, direction, t):
    """Return rows moved by t in a direction, text as it is."""
    if not hasattr(X, "iloc"):
        return X + t * direction
    X = X.copy()
    for j, dtype in enumerate(X.dtypes):
        if dtype.kind == "f":
            X.isetitem(j, X.iloc[:, j] + t * direction[:, j])
    return X


def slope(function, h):
    """Return a derivative at 0 by four central differences, of fourth order."""
    near, far = function(h) - function(-h), function(2 * h) - function(-2 * h)
    return (8 * near - far) / (12 * h)


def right_slope(function, h):
    """Return a derivative at 0 from the right, of third order."""
    f = [function(k * h) for k in range(4)]
    return (-11 * f[0] + 18 * f[1] - 9 * f[2] + 2 * f[3]) / (6 * h)


def check_rows(estimator, X, y, X_val, y_val, *, rtol=1e-6, h=1e-5, seed=0, **options):
    """Check the derivative by X along a random direction and in single cells."""
    found = implicit_gradient(estimator, X, y, X_val, y_val, **options)

    def value(t, direction):
        moved = move(X, direction, t)
        return implicit_gradient(estimator, moved, y, X_val, y_val, **options).value

    rng = np.random.default_rng(seed)
    size = np.abs(found.X).max()
    assert size > 1e-6
    direction = rng.normal(size=X.shape)
    expected = slope(lambda t: value(t, direction), h)
    scale = max(abs(expected), size)
    assert abs(np.sum(found.X * direction) - expected) <= rtol * scale
    cells = [np.unravel_index(np.abs(found.X).argmax(), X.shape)]
    cells += rng.integers(X.shape, size=(1, 2)).tolist()
    for cell in map(tuple, cells):
        direction = np.zeros(X.shape)
        direction[cell] = 1.0
        expected = slope(lambda t: value(t, direction), h)  # noqa: B023
        assert abs(found.X[cell] - expected) <= rtol * max(abs(expected), 0.1 * size)
    return found


# ------------------------------------------------------------------------ rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ALL)
def test_rows_alone(name, seed):
    check_rows(ALL[name], *problem(name, seed), seed=seed)


@pytest.mark.parametrize("steps", PIPELINES)
@pytest.mark.parametrize("name", ALL)
def test_rows_through_pipelines(name, steps):
    seed = len(name) + len(steps)
    X, y, X_val, y_val = problem(name, seed)
    change = PIPELINES[steps][0]
    X, X_val = change(X, seed), change(X_val, seed + 1)
    found = check_rows(pipeline(steps, ALL[name]), X, y, X_val, y_val, seed=seed)
    if steps == "imputer":
        assert (found.X[np.isnan(X)] == 0).all()
    if steps == "table":
        assert (found.X[:, [2, 4]] == 0).all()  # text, and a column that is dropped


SCIKIT_LEARN = {
    "logistic": LogisticRegression(solver="newton-cholesky", tol=1e-12),
    "logistic-weighted": LogisticRegression(
        solver="newton-cholesky", tol=1e-12, class_weight={"no": 0.5, "yes": 2}
    ),
    "softmax": LogisticRegression(solver="newton-cholesky", tol=1e-12),
    "liblinear": LogisticRegression(**LIBLINEAR, tol=1e-12, max_iter=10000),
    "squared-hinge": LinearSVC(C=0.5, dual=False, tol=1e-12, max_iter=10000),
    "ridge": Ridge(solver="cholesky"),
    "least-squares": LinearRegression(),
    "lasso": Lasso(alpha=0.05, tol=1e-14, max_iter=100000),
    "elastic-net": ElasticNet(alpha=0.05, tol=1e-14, max_iter=100000),
    "ridge-classifier": RidgeClassifier(solver="cholesky"),
    "svc-rbf": SVC(tol=1e-10),
    "svc-poly": SVC(**KERNELS["poly"], tol=1e-10),
    "svc-linear-multi": SVC(
        kernel="linear", tol=1e-10, decision_function_shape="ovo", break_ties=False
    ),
    "svr-rbf": SVR(tol=1e-10),
    "svr-sigmoid": SVR(**KERNELS["sigmoid"], tol=1e-10),
}


def loss_of_scikit_learn(model, X_val, y_val):
    """Return what objective="auto" stands for, from scikit-learn's own functions."""
    last = model[-1] if isinstance(model, Pipeline) else model
    if not hasattr(last, "classes_"):
        return mean_squared_error(y_val, model.predict(X_val))
    if isinstance(last, LogisticRegression):
        return log_loss(y_val, model.predict_proba(X_val), labels=last.classes_)
    scores = model.decision_function(X_val)
    if isinstance(last, SVC) and len(last.classes_) == 3:
        total = 0.0
        for column, (i, j) in zip(scores.T, [(0, 1), (0, 2), (1, 2)], strict=True):
            for k, sign in ((i, 1), (j, -1)):
                own = y_val == last.classes_[k]
                total += np.maximum(0, 1 - sign * column[own]).sum()
        return total / len(y_val)
    return hinge_loss(y_val, scores, labels=last.classes_)


@pytest.mark.parametrize("steps", [None, *PIPELINES])
@pytest.mark.parametrize("name", SCIKIT_LEARN)
def test_rows_by_scikit_learn(name, steps):
    """The solver here is no part of this: scikit-learn refits, and scores."""
    model, seed = SCIKIT_LEARN[name], 6
    X, y, X_val, y_val = problem(name, seed)
    if steps is not None:
        change = PIPELINES[steps][0]
        X, X_val = change(X, seed), change(X_val, seed + 1)
        model = pipeline(steps, model)
    found = implicit_gradient(model, X, y, X_val, y_val)
    # libsvm keeps its kernel in single precision, liblinear ends early
    is_rough = name in SVM or name == "liblinear"
    h, rtol = (1e-3, 1e-3) if is_rough else (1e-4, 1e-5)

    def value(t):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refitted = clone(model).fit(move(X, direction, t), y)
        return loss_of_scikit_learn(refitted, X_val, y_val)

    direction = np.random.default_rng(seed).normal(size=X.shape)
    assert_allclose(found.value, value(0.0), rtol=1e-6)
    assert_allclose(np.sum(found.X * direction), slope(value, h), rtol=rtol)
    direction = np.zeros(X.shape)
    direction[np.unravel_index(np.abs(found.X).argmax(), X.shape)] = 1.0
    assert_allclose(np.sum(found.X * direction), slope(value, h), rtol=rtol)


# --------------------------------------------------------- weights, targets, labels


@pytest.mark.parametrize("name", ALL)
def test_weights(name):
    X, y, X_val, y_val = problem(name, 1)
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.3, 2, len(X))
    model = make_pipeline(StandardScaler(), PCA(4), ALL[name])
    found = check_rows(model, X, y, X_val, y_val, sample_weight=weights)

    def value(t):
        return implicit_gradient(
            model, X, y, X_val, y_val, sample_weight=weights + t * direction
        ).value

    direction = rng.normal(size=len(X))
    expected = slope(value, 1e-5)
    assert_allclose(found.sample_weight @ direction, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_weight_of_one_is_none(name):
    X, y, X_val, y_val = problem(name, 1)
    plain = implicit_gradient(ALL[name], X, y, X_val, y_val)
    weighted = implicit_gradient(
        ALL[name], X, y, X_val, y_val, sample_weight=np.ones(len(X))
    )
    for key, expected in plain.items():
        if key != "category_gain":
            assert_allclose(weighted[key], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*REGRESSION, *SVM_REGRESSION])
def test_targets(name):
    X, y, X_val, y_val = problem(name, 3)
    weights = np.random.default_rng(2).uniform(0.3, 2, len(X))
    model = make_pipeline(MinMaxScaler(), PCA(4), ALL[name])
    options = {"sample_weight": weights}
    found = implicit_gradient(model, X, y, X_val, y_val, **options)
    assert "label_gain" not in found and found.y.shape == y.shape

    def value(t):
        moved = y + t * direction
        return implicit_gradient(model, X, moved, X_val, y_val, **options).value

    direction = np.random.default_rng(4).normal(size=len(X))
    assert_allclose(found.y @ direction, slope(value, 1e-5), rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_label_gain(name, weighted):
    """A share t of a row changes its label: the row is split in two."""
    X, y, X_val, y_val = problem(name, 5)
    rng = np.random.default_rng(6)
    weights = rng.uniform(0.3, 2, len(X)) if weighted else np.ones(len(X))
    last = clone(ALL[name])
    if getattr(last, "gamma", None) == "scale":
        last.set_params(gamma=0.2)  # else it would move with the row that is split off
    steps = [StandardScaler().fit(X)]
    steps.append(PCA(4).fit(steps[0].transform(X)))
    frozen = make_pipeline(*map(FrozenEstimator, steps), last)
    found = implicit_gradient(
        make_pipeline(*steps, last), X, y, X_val, y_val, sample_weight=weights
    )
    classes = np.unique(y)
    assert found.label_gain.shape == (len(X), len(classes)) and "y" not in found
    assert (found.label_gain[np.arange(len(X)), np.searchsorted(classes, y)] == 0).all()
    size = np.abs(found.label_gain).max()
    cells = [
        np.unravel_index(np.abs(found.label_gain).argmax(), found.label_gain.shape)
    ]
    cells += rng.integers([len(X), len(classes)], size=(3, 2)).tolist()
    for i, c in cells:

        def value(t, i=i, c=c):
            split = weights.copy()
            split[i] *= 1 - t
            return implicit_gradient(
                frozen,
                np.concatenate([X, X[[i]]]),
                np.append(y, classes[c]),
                X_val,
                y_val,
                sample_weight=np.append(split, t * weights[i]),
            ).value

        expected = right_slope(value, 1e-6)
        assert abs(found.label_gain[i, c] - expected) <= 1e-6 * size


@pytest.mark.parametrize("name", ["logistic", "softmax", "ridge", "svc-rbf-multi"])
def test_category_gain(name):
    """A cell goes a part of the way from its category to another, once encoded."""
    X, y, X_val, y_val = problem(name, 7)
    X, X_val = as_frame(X, 8), as_frame(X_val, 9)
    encoder = ColumnTransformer(
        [("text", OneHotEncoder(), ["text"])], remainder="passthrough"
    )
    rest = [StandardScaler(), PCA(5), ALL[name]]
    colours = ["blue", "green", "red"]  # as the encoder has them
    found = implicit_gradient(
        make_pipeline(encoder, *rest),
        X,
        y,
        X_val,
        y_val,
        categories={"text": colours[::-1]},
    )
    gain = found.category_gain["text"][:, ::-1]
    assert gain.shape == (len(X), 3) and (found.X[:, 2] == 0).all()
    Z, Z_val = encoder.fit_transform(X), encoder.transform(X_val)
    held = np.arange(3) == [[colours.index(c)] for c in X["text"]]
    gain = gain - gain[held][:, None]
    size = np.abs(gain).max()
    for i, c in [(0, 0), (0, 1), (0, 2), (3, 0), (9, 1), (14, 2)]:
        direction = np.zeros(Z.shape)
        direction[i, :3] = (np.arange(3) == c).astype(float) - held[i]

        def value(t, direction=direction):
            moved = Z + t * direction
            return implicit_gradient(make_pipeline(*rest), moved, y, Z_val, y_val).value

        assert abs(gain[i, c] - slope(value, 1e-5)) <= 1e-6 * size
    by_position = implicit_gradient(
        make_pipeline(encoder, *rest), X, y, X_val, y_val, categories={2: colours}
    )
    assert_allclose(by_position.category_gain[2], found.category_gain["text"][:, ::-1])


def test_categories_that_are_numbers():
    X, y, X_val, y_val = problem("ridge", 1)
    plain = implicit_gradient(Ridge(), X, y, X_val, y_val)
    found = implicit_gradient(Ridge(), X, y, X_val, y_val, categories={-1: [0, 1, 5]})
    assert (found.X[:, -1] == 0).all()
    assert_array_equal(found.X[:, :-1], plain.X[:, :-1])
    assert_allclose(found.category_gain[-1], plain.X[:, [-1]] * [0, 1, 5])


def test_table_encoder():
    X, y, X_val, y_val = problem("softmax", 4)
    X, X_val = as_frame(with_missing(X, 0), 1), as_frame(X_val, 2)
    model = make_pipeline(make_table_encoder(X), LogisticRegression())
    found = check_rows(model, X, y, X_val, y_val)
    assert (found.X[:, 2] == 0).all()


# -------------------------------------------------------------------- objectives


def softly_wrong(scores, y):
    """Return the mean of sigmoid(-margin), as a soft count of errors."""
    assert scores.shape == (len(y), 1) and set(y) <= {0, 1} and y.dtype.kind == "i"
    sign = np.where(y == 1, 1.0, -1.0)[:, None]
    wrong = 1 / (1 + np.exp(sign * scores))
    return wrong.mean(), -sign * wrong * (1 - wrong) / len(y)


def cubed(scores, y):
    return np.float32(np.sum((scores[:, 0] - y) ** 3)), 3 * (scores[:, 0] - y) ** 2


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("logistic", "hinge"),
        ("logistic", softly_wrong),
        ("softmax", "hinge"),
        ("svc-rbf", "log_loss"),
        ("svc-rbf", softly_wrong),
        ("svc-rbf-multi", "log_loss"),
        ("hinge-multi", "log_loss"),
        ("ridge-multi", "log_loss"),
        ("squared-hinge-multi", "hinge"),
    ],
)
def test_objectives(name, objective):
    check_rows(
        make_pipeline(StandardScaler(), ALL[name]),
        *problem(name, 2),
        objective=objective,
    )


@pytest.mark.parametrize("name", ["ridge", "svr-rbf"])
def test_gradient_of_one_dimension(name):
    X, y, X_val, y_val = problem(name, 2)
    found = implicit_gradient(ALL[name], X, y, X_val, y_val, objective=cubed)
    assert type(found.value) is float
    column = implicit_gradient(
        ALL[name],
        X,
        y,
        X_val,
        y_val,
        objective=lambda s, y: (0, cubed(s, y)[1][:, None].tolist()),
    )
    assert_array_equal(found.X, column.X)


@pytest.mark.parametrize(
    "objective",
    [lambda s, y: s.sum(), lambda s, y: (0.0, np.ones(3)), lambda s, y: None],
)
def test_callable_that_returns_something_else(objective):
    data = problem("svc-rbf", 2)
    with pytest.raises(ValueError, match=r"its gradient .* of shape \(12, 1\)"):
        implicit_gradient(SVC(), *data, objective=objective)


@pytest.mark.parametrize(
    ("name", "objective", "message"),
    [
        ("ridge", "hinge", "objective='hinge' does not fit a regressor"),
        ("svr-rbf", "log_loss", "does not fit a regressor"),
        ("logistic", "squared_error", "does not fit a classifier"),
        ("logistic", "mse", "objective must be one of 'auto', 'log_loss'"),
        ("logistic", None, "objective must be one of"),
    ],
)
def test_objective_that_does_not_fit(name, objective, message):
    with pytest.raises(ValueError, match=message):
        implicit_gradient(ALL[name], *problem(name), objective=objective)


# ----------------------------------------------------------------------- steps


PLAIN = ["logistic", "svc-rbf-multi", "ridge"]


def steps_data(name):
    return problem(name, 11, n=30, m=10)


def same(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for key in found:
        if key == "category_gain":
            assert found[key].keys() == expected[key].keys()
            continue
        size = np.abs(expected[key]).max()
        assert_allclose(found[key], expected[key], rtol=0, atol=rtol * size)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    "steps",
    [
        [StandardScaler(copy=False), PCA(3, copy=False)],
        ["passthrough", StandardScaler(), None, PCA(3)],
        [make_pipeline(StandardScaler(), "passthrough"), make_pipeline(PCA(3))],
        [StandardScaler(), FeatureUnion([("all", "passthrough"), ("pca", PCA(2))])],
        [FunctionTransformer(np.arcsinh), SelectKBest(k=3), MaxAbsScaler()],
    ],
    ids=["in-place", "passthrough", "nested", "union", "supervised"],
)
def test_steps(name, steps):
    steps = [clone(s) if isinstance(s, BaseEstimator) else s for s in steps]
    if isinstance(steps[1], SelectKBest) and name in REGRESSION:
        steps[1].set_params(score_func=f_regression)
    check_rows(make_pipeline(*steps, ALL[name]), *steps_data(name))


@pytest.mark.parametrize("name", PLAIN)
def test_writing_to_the_input_makes_no_difference(name):
    data = steps_data(name)
    found, expected = (
        implicit_gradient(
            make_pipeline(
                StandardScaler(copy=copy),
                RobustScaler(copy=copy),
                Normalizer(copy=copy),
                ALL[name],
            ),
            *data,
        )
        for copy in (False, True)
    )
    same(found, expected)


@pytest.mark.parametrize("name", PLAIN)
def test_nested_pipelines(name):
    data = steps_data(name)
    flat = make_pipeline(StandardScaler(), PCA(3), MinMaxScaler(), ALL[name])
    nested = make_pipeline(
        make_pipeline(StandardScaler(), PCA(3)),
        make_pipeline(MinMaxScaler(), ALL[name]),
    )
    same(implicit_gradient(nested, *data), implicit_gradient(flat, *data))


@pytest.mark.parametrize("name", PLAIN)
def test_frozen_steps(name):
    """What is fitted beforehand does not move with X."""
    X, y, X_val, y_val = steps_data(name)
    scaler = StandardScaler().fit(X)
    frozen = make_pipeline(FrozenEstimator(scaler), PCA(3), ALL[name])
    found = check_rows(frozen, X, y, X_val, y_val)
    by_hand = implicit_gradient(
        frozen[1:], scaler.transform(X), y, scaler.transform(X_val), y_val
    )
    assert_allclose(found.X, by_hand.X / scaler.scale_, atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_output_as_frames(name):
    X, y, X_val, y_val = steps_data(name)
    model = make_pipeline(StandardScaler(), PCA(3), ALL[name])
    expected = implicit_gradient(model, X, y, X_val, y_val)
    framed = clone(model).set_output(transform="pandas")
    same(implicit_gradient(framed, X, y, X_val, y_val), expected)
    with sklearn.config_context(transform_output="pandas"):
        same(implicit_gradient(model, X, y, X_val, y_val), expected)
    columns = list("abcde")
    X, X_val = (pd.DataFrame(Z, columns=columns) for Z in (X, X_val))
    same(implicit_gradient(framed, X, y, X_val, y_val), expected)


def test_steps_are_given_labels():
    """A selector with weights by label is fitted as in the pipeline itself."""
    X, y, X_val, y_val = problem("softmax", 3)
    weights = {"low": 5.0, "mid": 1.0, "top": 0.2}
    selector = SelectFromModel(
        LogisticRegression(class_weight=weights), max_features=2, threshold=-np.inf
    )
    found = implicit_gradient(
        make_pipeline(selector, LogisticRegression()), X, y, X_val, y_val
    )
    kept = clone(selector).fit(X, y).get_support()
    assert_array_equal((found.X != 0).any(axis=0), kept)


def cube(X):
    return X**3


def test_jacobian_by_name_or_function():
    X, y, X_val, y_val = problem("logistic", 3)
    model = make_pipeline(
        StandardScaler(),
        make_pipeline(FunctionTransformer(cube), StandardScaler()),
        make_pipeline(StandardScaler(), FunctionTransformer(cube), ALL["logistic"]),
    )
    with pytest.raises(TypeError, match="'pipeline-1__functiontransformer'"):
        implicit_gradient(model, X, y, X_val, y_val)

    def derivative(X):
        return 3 * X**2

    found = check_rows(model, X, y, X_val, y_val, jacobian={cube: derivative})
    by_name = implicit_gradient(
        model,
        X,
        y,
        X_val,
        y_val,
        jacobian={
            "pipeline-1__functiontransformer": derivative,
            "pipeline-2__functiontransformer": derivative,
        },
    )
    same(by_name, found)
    near = implicit_gradient(model, X, y, X_val, y_val, jacobian="finite-differences")
    same(near, found, rtol=1e-5)


def test_memory_is_left_alone(tmp_path):
    data = problem("logistic", 3)
    steps = [("scale", StandardScaler()), ("last", LogisticRegression())]
    found = implicit_gradient(Pipeline(steps, memory=str(tmp_path / "cache")), *data)
    same(found, implicit_gradient(Pipeline(steps), *data))
    assert not (tmp_path / "cache").exists()


# ------------------------------------------------------------------- containers


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("steps", [[], [StandardScaler(), PCA(3)]])
def test_containers(name, steps):
    X, y, X_val, y_val = steps_data(name)
    X, X_val = (np.round(4 * Z) for Z in (X, X_val))
    model = make_pipeline(*steps, ALL[name])
    expected = implicit_gradient(model, X, y, X_val, y_val)
    columns = list("abcde")
    pairs = [
        (X.astype(np.float32), X_val.astype(np.float32)),
        (X.astype(int), X_val),
        (X.astype(np.int8), X_val.astype(np.int8)),
        (X.tolist(), X_val.tolist()),
        (X.astype(int).tolist(), X_val),
        (X.astype(object), X_val),
        (np.asfortranarray(X), X_val[:, ::-1][:, ::-1]),
        (pd.DataFrame(X, columns=columns), pd.DataFrame(X_val, columns=columns)),
        (pd.DataFrame(X, index=X[:, 0]), pd.DataFrame(X_val).astype(int)),
    ]
    for rows, rows_val in pairs:
        same(implicit_gradient(model, rows, y, rows_val, y_val), expected)
    for labels, labels_val in [
        (y.tolist(), y_val.tolist()),
        (y[:, None], y_val),
        (y.astype(object), y_val.astype(object)),
        (pd.Series(y, index=X[:, 0]), pd.Series(y_val)),
    ]:
        same(implicit_gradient(model, X, labels, X_val, labels_val), expected)


def test_polars():
    pl = pytest.importorskip("polars")
    X, y, X_val, y_val = steps_data("logistic")
    model = make_pipeline(StandardScaler(), PCA(3), LogisticRegression())
    expected = implicit_gradient(model, X, y, X_val, y_val)
    columns = list("abcde")
    X, X_val = (pl.DataFrame(Z, schema=columns) for Z in (X, X_val))
    same(implicit_gradient(model, X, pl.Series(y), X_val, y_val), expected)


@pytest.mark.parametrize(
    "kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array]
)
@pytest.mark.parametrize("steps", [[], [MaxAbsScaler(), TruncatedSVD(3)]])
def test_sparse(steps, kind):
    X, y, X_val, y_val = steps_data("softmax")
    X, X_val = X * (X > 0), X_val * (X_val > 0)
    model = make_pipeline(*steps, LogisticRegression())
    expected = implicit_gradient(model, X, y, X_val, y_val)
    for rows, rows_val in [(kind(X), kind(X_val)), (kind(X), X_val), (X, kind(X_val))]:
        found = implicit_gradient(model, rows, y, rows_val, y_val)
        assert isinstance(found.X, np.ndarray)
        same(found, expected)


def test_texts():
    texts = [
        "a fine day",
        "sad night",
        "good day",
        "sad rain",
        "fine good",
        "bad night",
    ]
    y = [1, 0, 1, 0, 1, 0]
    rows = TfidfVectorizer().fit_transform(texts)
    found = implicit_gradient(LogisticRegression(), rows, y, rows[:3], y[:3])
    assert found.X.shape == rows.shape
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    with pytest.raises(
        ValueError, match=r"X must have two dimensions, got shape \(6,\)"
    ):
        implicit_gradient(model, texts, y, texts[:3], y[:3])


def test_lists_of_several_types():
    X, y, X_val, y_val = problem("logistic", 3)
    X, X_val = ([[a, "u" if b > 0 else "v"] for a, b in Z[:, :2]] for Z in (X, X_val))
    model = make_pipeline(
        ColumnTransformer([("n", StandardScaler(), [0]), ("t", OneHotEncoder(), [1])]),
        LogisticRegression(),
    )
    found = implicit_gradient(model, X, y, X_val, y_val, categories={1: ["u", "v"]})
    assert (found.X[:, 0] != 0).all() and (found.X[:, 1] == 0).all()
    assert found.category_gain[1].shape == (len(X), 2)


@pytest.mark.parametrize("steps", PIPELINES)
@pytest.mark.parametrize("name", ["logistic-weighted", "svc-rbf-multi", "elastic-net"])
def test_nothing_is_changed(name, steps):
    X, y, X_val, y_val = problem(name, 5)
    change = PIPELINES[steps][0]
    X, X_val = change(X, 1), change(X_val, 2)
    model = pipeline(steps, clone(ALL[name]))
    inputs = [X, y, X_val, y_val, np.linspace(1, 2, len(X)), {0: [1.0, 2.0]}]
    options = {"sample_weight": inputs[4]}
    if steps == "polynomial":
        options["categories"] = inputs[5]

    def state():
        return pickle.dumps(model), pickle.dumps(inputs)

    before = state()
    unfitted = implicit_gradient(model, *inputs[:4], **options)
    assert state() == before
    model.fit(X, y)
    before = state()
    fitted = implicit_gradient(model, *inputs[:4], **options)
    assert state() == before
    same(fitted, unfitted, rtol=1e-12)
    # nor does it matter what else it was fitted on
    model.fit(X_val, y_val)
    same(implicit_gradient(model, *inputs[:4], **options), unfitted, rtol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "svc-rbf-multi"])
def test_labels_of_any_type(name):
    X, y, X_val, y_val = problem(name, 5)
    expected = implicit_gradient(ALL[name], X, y, X_val, y_val)
    classes = np.unique(y)
    for labels in ([-3, 5, 7], [0.0, 1.0, 4.0], [False, True, None]):
        if labels[-1] is None and len(classes) == 3:
            continue
        labels = np.array(labels[: len(classes)])
        codes, codes_val = (np.searchsorted(classes, z) for z in (y, y_val))
        found = implicit_gradient(ALL[name], X, labels[codes], X_val, labels[codes_val])
        same(found, expected)


# ----------------------------------------------------------------------- errors


class Sampler(BaseEstimator):
    def fit_resample(self, X, y):
        return X, y


@pytest.mark.parametrize(
    ("estimator", "names"),
    [
        (RandomForestClassifier(), "RandomForestClassifier"),
        (GridSearchCV(LogisticRegression(), {"C": [1]}), "GridSearchCV"),
        (CalibratedClassifierCV(LogisticRegression()), "CalibratedClassifierCV"),
        (OneVsRestClassifier(LogisticRegression()), "OneVsRestClassifier"),
        (FrozenEstimator(LogisticRegression()), "FrozenEstimator"),
        (Pipeline([("a", StandardScaler()), ("b", "passthrough")]), "'passthrough'"),
        (Pipeline([("a", StandardScaler()), ("b", None)]), "None"),
        (make_pipeline(StandardScaler(), PCA()), "PCA"),
        ("victim", "'victim'"),
        (None, "None"),
        (LogisticRegression, "<class .*LogisticRegression'>"),
    ],
)
def test_unknown_estimators(estimator, names):
    message = f"^{names} has no gradient that is known here. There are those of Logis"
    with pytest.raises(TypeError, match=message):
        implicit_gradient(estimator, *problem("logistic"))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (QuantileTransformer(n_quantiles=9), r"step 'odd' \(QuantileTransformer\) has"),
        (FunctionTransformer(cube), "derivative of cube .* jacobian={'odd'"),
        (Sampler(), r"step 'odd' \(Sampler\) is no transformer"),
    ],
)
def test_unknown_steps(step, message):
    model = Pipeline([("odd", step), ("last", LogisticRegression())])
    with pytest.raises(TypeError, match=message):
        implicit_gradient(model, *problem("logistic"))


def test_wrong_data():
    X, y, X_val, y_val = problem("logistic", 1)
    frame, frame_val = (pd.DataFrame(Z, columns=list("abcde")) for Z in (X, X_val))
    holes = with_missing(X, 1)
    both = np.column_stack([np.arange(len(X)), np.ones(len(X))])
    for change, message in [
        ({"X_val": X_val[:, :3]}, r"X_val must hold rows of 5 features.*\(12, 3\)"),
        ({"X_val": X_val[:0], "y_val": []}, r"X_val must hold rows .*\(0, 5\)"),
        ({"X_val": X_val[0], "y_val": y_val[:5]}, "X_val must have two dimensions"),
        ({"X": X.reshape(-1, 5, 1)}, "X must have two dimensions"),
        (
            {"X": frame, "X_val": frame_val[list("abced")]},
            "X_val must have the columns",
        ),
        (
            {"X": frame, "X_val": frame_val.rename(columns=str.upper)},
            "the columns of X",
        ),
        ({"y": y[:-1]}, "inconsistent numbers of samples"),
        ({"y_val": y_val[:-1]}, "inconsistent numbers of samples"),
        ({"y_val": np.where(y_val == "no", "maybe", y_val)}, "'maybe' is not among"),
        ({"y_val": np.zeros(len(y_val))}, "y_val=0.0 is not among the classes of y"),
        (
            {"y": np.full(len(y), "no")},
            r"y must hold two classes or more, got \['no'\]",
        ),
        ({"y": np.column_stack([y, y])}, "1d array"),
        ({"y": X[:, 0]}, "continuous"),
        ({"X": holes}, "Input X contains NaN"),
        ({"X_val": with_missing(X_val, 1)}, "Input X contains NaN"),
        ({"X": np.where(np.isnan(holes), np.inf, X)}, "infinity"),
        ({"sample_weight": np.ones(3)}, "sample_weight.shape == "),
        ({"sample_weight": -np.ones(len(X))}, "Negative values .*sample_weight"),
        ({"categories": {5: [0]}}, "categories: 5 is out of range"),
        ({"categories": {"a": [0]}}, "categories: 'a' is not a column"),
    ]:
        data = {"X": X, "y": y, "X_val": X_val, "y_val": y_val, **change}
        for model in (LogisticRegression(), SVC()):
            with pytest.raises(ValueError, match=message):
                implicit_gradient(model, **data)
    for rows, rows_val in [(frame, X_val), (X, frame_val)]:
        with pytest.raises(TypeError, match="must both be data frames"):
            implicit_gradient(LogisticRegression(), rows, y, rows_val, y_val)
    scaled = make_pipeline(StandardScaler(), SVC())
    with pytest.raises(ValueError, match="Input X contains NaN"):
        implicit_gradient(scaled, holes, y, X_val, y_val)
    for y_wrong, message in [
        (both, "1d array"),
        (np.where(y == "no", np.nan, 1.0), "Input y contains NaN"),
        (y, "could not convert string to float"),
    ]:
        with pytest.raises(ValueError, match=message):
            implicit_gradient(Ridge(), X, y_wrong, X_val, np.ones(len(X_val)))
