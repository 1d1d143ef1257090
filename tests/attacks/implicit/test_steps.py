"""Derivatives through preprocessing equal those of refitting, by differences."""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import (
    SelectFromModel,
    SelectKBest,
    VarianceThreshold,
    f_regression,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)

from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._rules import DERIVATIVES
from skpoison.attacks._implicit._steps import pull_back, pull_back_steps
from skpoison.utils import make_table_encoder
from skpoison.utils._containers import is_frame
from skpoison.utils._tabular import _as_text

pd = pytest.importorskip("pandas")

N_FIT = 7


def _numbers(n_rows=9, n_columns=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, n_columns)) * [1, 3, 0.5, 2, 1, 4, 2, 3, 1][
        :n_columns
    ] + np.arange(n_columns)


def _dense(X):
    X = X.toarray() if sparse.issparse(X) else np.asarray(X)
    return X.astype(float)


def _take(X, rows):
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _quiet(function, X, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(deepcopy(X), *args)  # there are steps that work in place


def _fit(step, X, n_fit=N_FIT, y=None):
    return _quiet(clone(step).fit, _take(X, slice(None, n_fit)), y)


def _state(fitted, X):
    return pickle.dumps(fitted), X.to_numpy().tolist() if is_frame(X) else X.copy()


def _pulled(fitted, X, G=None, n_fit=N_FIT, seed=1, **options):
    """Return G, G_in, gains; check that nothing is changed and nothing warned of."""
    X_out = _dense(_quiet(fitted.transform, X))
    if G is None:
        G = np.random.default_rng(seed).normal(size=X_out.shape)
    before = _state(fitted, X)
    G_before = G.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        G_in, gains = pull_back(fitted, X, X_out, G, n_fit, **options)
    after = _state(fitted, X)
    assert before[0] == after[0]
    np.testing.assert_array_equal(G, G_before)
    if sparse.issparse(X):
        assert (before[1] != after[1]).nnz == 0
    else:
        np.testing.assert_array_equal(
            np.asarray(before[1], dtype=object).astype(str),
            np.asarray(after[1], dtype=object).astype(str),
        )
    assert G_in.shape == X.shape
    return G, G_in, gains


def _by_differences(
    step, X, G, n_fit=N_FIT, put=None, columns=None, rows=None, y=None, h=1e-6
):
    """Refit and transform with each cell moved up and down."""

    def value(Z):
        out = _dense(_quiet(_fit(step, Z, n_fit, y).transform, Z))
        return np.sum(np.where(G == 0, 0.0, G * np.nan_to_num(out)))

    expected = np.zeros(X.shape)
    for i in range(X.shape[0]) if rows is None else rows:
        for j in range(X.shape[1]) if columns is None else columns:
            ends = []
            for sign in (1, -1):
                if put is None:
                    Z = X.copy()
                    Z[i, j] += sign * h
                else:
                    Z = put(X, i, j, sign * h)
                ends.append(value(Z))
            expected[i, j] = (ends[0] - ends[1]) / (2 * h)
    return expected


def _assert_near(found, expected, rtol=1e-6):
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max())


def _check(step, X, rtol=1e-6, n_fit=N_FIT, y=None, **options):
    fitted = _fit(step, X, n_fit, y)
    G, G_in, gains = _pulled(fitted, X, n_fit=n_fit, **options)
    assert gains == {}
    _assert_near(G_in, _by_differences(step, X, G, n_fit, y=y), rtol)
    return fitted


def _with_nan(X):
    X = X.copy()
    X[[1, 4, 8], [0, 2, 3]] = np.nan
    return X


SCALERS = {
    "standard": StandardScaler(),
    "no_mean": StandardScaler(with_mean=False),
    "no_std": StandardScaler(with_std=False),
    "neither": StandardScaler(with_mean=False, with_std=False),
    "in_place": StandardScaler(copy=False),
    "min_max": MinMaxScaler(),
    "range": MinMaxScaler(feature_range=(-3, 2)),
    "clip": MinMaxScaler(clip=True),
    "max_abs": MaxAbsScaler(),
    "robust": RobustScaler(),
    "robust_range": RobustScaler(quantile_range=(11.0, 83.0), unit_variance=True),
    "robust_center": RobustScaler(with_scaling=False),
    "robust_scale": RobustScaler(with_centering=False),
}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("n_fit", [6, 7])
@pytest.mark.parametrize("name", SCALERS)
def test_scalers(name, n_fit, missing):
    X = _with_nan(_numbers()) if missing else _numbers()
    fitted = _fit(SCALERS[name], X, n_fit)
    seen = ~np.isnan(X)
    G = np.random.default_rng(1).normal(size=X.shape) * seen
    _, G_in, _ = _pulled(fitted, X, G, n_fit)
    _assert_near(G_in, _by_differences(clone(SCALERS[name]), X, G, n_fit))
    assert (G_in[~seen] == 0).all()


def test_clipped_cells_have_no_derivative():
    X = _numbers()
    X[8] = 100.0
    assert (_pulled(_fit(MinMaxScaler(clip=True), X), X)[1][8] == 0).all()
    assert (_pulled(_fit(MinMaxScaler(), X), X)[1][8] != 0).all()
    if "clip" in MaxAbsScaler().get_params():
        _check(MaxAbsScaler(clip=True), X)


@pytest.mark.parametrize("name", SCALERS)
def test_constant_columns_keep_their_scale(name):
    X = _numbers()
    X[:, 1] = 3.0
    X[:, 3] = 0.0
    fitted = _fit(SCALERS[name], X)
    G, G_in, _ = _pulled(fitted, X)
    assert np.isfinite(G_in).all()
    others = [0, 2]
    expected = _by_differences(SCALERS[name], X, G, columns=others)
    _assert_near(G_in[:, others], expected[:, others])
    # all cells moved together: the scale stays constant, and the centre moves along
    moved = X + [0, 1e-3, 0, 0]
    if name != "max_abs":
        change = _fit(SCALERS[name], moved).transform(moved) - fitted.transform(X)
        assert np.sum(G * change) / 1e-3 == pytest.approx(G_in[:, 1].sum(), abs=1e-8)


@pytest.mark.parametrize("step", [MinMaxScaler(), MaxAbsScaler(), RobustScaler()])
def test_ties_share(step):
    X = np.array([[0.0, 5, 5, 2, 1, 5, 1, 0], [-4, -4, 1, 4, 4, 4, 2, 3]]).T
    G, G_in, _ = _pulled(_fit(step, X, 8), X, n_fit=8)
    for j in range(2):
        for value in np.unique(X[:, j]):
            tied = X[:, j] == value
            ends = []
            for h in (1e-6, -1e-6):  # all of a tie together
                Z = X.copy()
                Z[tied, j] += h
                if isinstance(step, MaxAbsScaler) and abs(value) == 4:
                    Z[X[:, j] == -value, j] -= h
                ends.append(np.sum(G * _fit(step, Z, 8).transform(Z)))
            found = G_in[tied, j].sum()
            if isinstance(step, MaxAbsScaler) and abs(value) == 4:
                found -= G_in[X[:, j] == -value, j].sum()
            assert found == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_normalizer(norm):
    _check(Normalizer(norm), _numbers())
    X = _numbers()
    X[3] = 0.0
    G, G_in, _ = _pulled(_fit(Normalizer(norm), X), X)
    np.testing.assert_array_equal(G_in[3], G[3])


@pytest.mark.parametrize(
    "step",
    [
        PCA(),
        PCA(2),
        PCA(2, whiten=True),
        PCA(whiten=True),
        PCA(2, svd_solver="full"),
        PCA(3, svd_solver="covariance_eigh", whiten=True),
        PCA(2, svd_solver="arpack", random_state=0),
        PCA(2, svd_solver="randomized", whiten=True, random_state=0),
        PCA(0.9),
        PCA("mle"),
        TruncatedSVD(2, random_state=0),
        TruncatedSVD(3, algorithm="arpack", random_state=0),
    ],
    ids=str,
)
def test_components(step):
    _check(step, _numbers(), rtol=1e-5)


@pytest.mark.parametrize(
    "step",
    [
        PCA(3),
        PCA(3, whiten=True),
        PCA(4, svd_solver="covariance_eigh"),
        TruncatedSVD(3, random_state=0),
        TruncatedSVD(5, random_state=0),
    ],
    ids=str,
)
def test_components_of_few_rows(step):
    _check(step, _numbers(8, 9), rtol=1e-5, n_fit=5)


def test_component_without_variance():
    X = _numbers(8, 9)
    fitted = _fit(PCA(svd_solver="full"), X, 5)
    G = np.random.default_rng(0).normal(size=(8, 5))
    G[5:, 4] = 0.0  # which direction is last is up to rounding errors
    _, G_in, _ = _pulled(fitted, X, G, 5)
    expected = _by_differences(PCA(svd_solver="full"), X, G, 5)
    _assert_near(G_in, expected, 1e-5)
    whitened = _fit(PCA(whiten=True, svd_solver="full"), X, 5)
    assert np.abs(_pulled(whitened, X, n_fit=5)[1]).max() < 100
    constant = np.ones((6, 3))
    fitted = _fit(PCA(2), constant)
    assert np.isfinite(_pulled(fitted, constant, n_fit=6)[1]).all()


def test_equal_eigenvalues():
    # the corners of a square: any two directions are principal
    X = np.array([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    fitted = PCA(2).fit(X)
    # derivative of the squared norm, which does not depend on the directions
    G = 2 * fitted.transform(X) * [[1.0], [2], [3], [4]]
    G_in = _pulled(fitted, X, G, 4)[1]
    centred = X - X.mean(0)
    direct = 2 * centred * [[1.0], [2], [3], [4]]
    np.testing.assert_allclose(G_in, direct - direct.mean(0), atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"degree": 3},
        {"degree": (2, 3), "include_bias": False},
        {"degree": 3, "interaction_only": True},
        {"degree": 0},
    ],
    ids=str,
)
def test_polynomial_features(options):
    X = _numbers(6, 3)
    X[2, 1] = 0.0
    _check(PolynomialFeatures(**options), X, n_fit=4)


@pytest.mark.parametrize("add_indicator", [False, True])
@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
def test_imputer(strategy, add_indicator):
    X = _with_nan(_numbers())
    if strategy == "most_frequent":
        X[[2, 3, 5, 6]] = 1.0
    options = {"strategy": strategy, "add_indicator": add_indicator}
    step = SimpleImputer(**options)
    fitted = _fit(step, X)
    G, G_in, _ = _pulled(fitted, X)
    _assert_near(G_in, _by_differences(step, X, G))
    assert (G_in[np.isnan(X)] == 0).all()
    # the same where another number stands for what is missing
    marked = np.where(np.isnan(X), -99.0, X)
    marked_fit = _fit(SimpleImputer(missing_values=-99.0, **options), marked)
    np.testing.assert_allclose(_pulled(marked_fit, marked, G)[1], G_in)


@pytest.mark.parametrize("strategy", ["mean", "median", "constant"])
@pytest.mark.parametrize("keep_empty_features", [False, True])
def test_imputer_of_an_empty_column(strategy, keep_empty_features):
    X = _with_nan(_numbers())
    X[:N_FIT, 1] = np.nan
    step = SimpleImputer(strategy=strategy, keep_empty_features=keep_empty_features)
    fitted = _fit(step, X)
    G, G_in, _ = _pulled(fitted, X)
    expected = _by_differences(step, X, G, columns=[0, 2, 3])
    _assert_near(G_in[:, [0, 2, 3]], expected[:, [0, 2, 3]])
    kept = G.shape[1] == 4
    np.testing.assert_array_equal(G_in[N_FIT:, 1], G[N_FIT:, 1] if kept else 0)


def test_imputer_with_a_function_has_no_derivative():
    X = _with_nan(_numbers())
    fitted = _fit(SimpleImputer(strategy=np.max), X)
    with pytest.raises(NotDifferentiableError, match="SimpleImputer"):
        _pulled(fitted, X)
    G, G_in, _ = _pulled(fitted, X, jacobian="finite-differences")
    np.testing.assert_allclose(G_in, np.where(np.isnan(X), 0, G), atol=1e-8)


@pytest.mark.parametrize("function", [f for f in DERIVATIVES if f is not _as_text])
def test_known_functions(function):
    X = np.random.default_rng(0).uniform(0.3, 2.0, (6, 2))
    _check(FunctionTransformer(function), X, n_fit=4)


def test_functions():
    X = _numbers()
    _check(FunctionTransformer(), X)
    _check(
        FunctionTransformer(np.log1p, validate=True), np.abs(X), jacobian={"log": None}
    )
    frame = pd.DataFrame(np.abs(X), columns=list("abcd"))
    G, G_in, _ = _pulled(_fit(FunctionTransformer(np.log), frame), frame)
    np.testing.assert_allclose(G_in, G / np.abs(X))
    # an infinite slope where nothing arrives
    X = np.array([[0.0], [4.0]])
    fitted = FunctionTransformer(np.sqrt).fit(X)
    G_in = _pulled(fitted, X, np.array([[0.0], [1.0]]), 2)[1]
    np.testing.assert_array_equal(G_in, [[0.0], [0.25]])
    X = _numbers()
    # a cell that is missing stays so
    X = _with_nan(np.abs(X))
    G_in = _pulled(_fit(FunctionTransformer(np.sqrt), X), X)[1]
    assert (G_in[np.isnan(X)] == 0).all() and np.isfinite(G_in).all()


def _cube(X, factor=1.0):
    return factor * X**3


def _cube_derivative(X, factor=1.0):
    return 3 * factor * X**2


def test_given_derivatives():
    X = _numbers()
    step = FunctionTransformer(_cube, kw_args={"factor": 2.0})
    _check(step, X, jacobian={_cube: _cube_derivative})
    _check(step, X, jacobian={"cube": _cube_derivative}, name="cube")
    nested = ColumnTransformer(
        [("numeric", Pipeline([("cube", step), ("scale", StandardScaler())]), [0, 2])]
    )
    _check(
        nested,
        X,
        jacobian={"columns__numeric__cube": _cube_derivative},
        name="columns",
    )
    with pytest.raises(NotDifferentiableError, match="'other' .Func.*_cube.*'other'"):
        _pulled(_fit(step, X), X, jacobian={"cube": _cube_derivative}, name="other")
    # keywords may make another function of a known one
    known = FunctionTransformer(np.log, kw_args={"where": True})
    with pytest.raises(NotDifferentiableError, match="log"):
        _pulled(_fit(known, np.abs(X)), np.abs(X))
    # also for a step that is no FunctionTransformer
    G, G_in, _ = _pulled(_Own().fit(X), X, jacobian={"own": np.cos}, name="own")
    np.testing.assert_allclose(G_in, G * np.cos(X))


def _products(X):
    return X[:, :2] * X[:, 2:]


class _Own(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return np.sin(X)


class _Same(StandardScaler):
    pass


class _Overriding(StandardScaler):
    def transform(self, X, copy=None):
        return super().transform(X) ** 2


def test_selectors():
    X = _numbers()
    y = X[:N_FIT] @ [1.0, 0, 0, 5]
    for step in (
        VarianceThreshold(0.5),
        SelectKBest(f_regression, k=2),
        SelectFromModel(LinearRegression(), max_features=1),
    ):
        fitted = _check(step, X, y=y)
        assert fitted.get_support().sum() < 4


def test_unknown_steps():
    X = _numbers()
    for step in (_Own(), _Overriding(), IncrementalPCA(2), PowerTransformer()):
        kind = type(step).__name__
        with pytest.raises(
            NotDifferentiableError, match=f"'mine' .{kind}.*jacobian=\"finite-differ"
        ):
            _pulled(_fit(step, X), X, name="mine")
    with pytest.raises(NotDifferentiableError, match="'a__b' ._Own"):
        step = Pipeline([("s", StandardScaler()), ("b", _Own())])
        _pulled(_fit(step, X), X, name="a")
    with pytest.raises(ValueError, match="jacobian must be"):
        _pulled(_fit(_Same(), X), X, jacobian="numeric")
    with pytest.raises(ValueError, match="G has shape"):
        _pulled(_fit(_Same(), X), X, np.zeros((3, 4)))
    _check(_Same(), X)


@pytest.mark.parametrize(
    "step",
    [
        _Own(),
        _Overriding(),
        PowerTransformer(),
        SplineTransformer(),
        QuantileTransformer(n_quantiles=5),
        IncrementalPCA(2),
        FunctionTransformer(_products),
    ],
    ids=lambda step: type(step).__name__,
)
def test_finite_differences_hold_the_fit_constant(step):
    X = _numbers()
    fitted = _fit(step, X)
    inside = X.copy()  # between the quantiles, where nothing has a kink
    inside[:N_FIT] += 0.01 * np.random.default_rng(3).normal(size=(N_FIT, 4))
    G, G_in, _ = _pulled(fitted, inside, jacobian="finite-differences")
    frozen = FrozenEstimator(fitted)
    _assert_near(G_in, _by_differences(frozen, inside, G), 1e-5)


def test_finite_differences_see_no_jump_at_an_edge():
    X = np.arange(12.0).reshape(12, 1)
    fitted = KBinsDiscretizer(4, encode="ordinal").fit(X)
    assert np.isin(X, fitted.bin_edges_[0]).any()
    assert (_pulled(fitted, X, jacobian="finite-differences")[1] == 0).all()


def test_finite_differences_of_other_kinds_of_columns():
    frame = pd.DataFrame(
        {
            "real": np.linspace(1, 2, 6).astype("float32"),
            "count": np.arange(6, dtype="uint8"),
            "flag": [True, False] * 3,
            "kind": list("abcabc"),
        }
    )
    step = FunctionTransformer(_mixed).fit(frame)
    options = {"jacobian": "finite-differences", "categories": {3: ["a", "b", "c"]}}
    G, G_in, gains = _pulled(step, frame, n_fit=4, **options)
    real, count = frame["real"].astype(float), frame["count"].astype(float)
    np.testing.assert_allclose(G_in[:, 0], G[:, 0] * 2 * real, rtol=1e-6)
    np.testing.assert_allclose(G_in[:, 1], G[:, 1] * 2 * count)
    scale = frame["kind"].map({"a": 1, "b": 2, "c": 4})
    np.testing.assert_allclose(G_in[:, 2], G[:, 2] * scale)
    assert (G_in[:, 3] == 0).all()
    _check_gains(step, frame, G, gains, options["categories"])
    # whole matrices of integers
    X = np.arange(12).reshape(6, 2).astype("uint8")
    step = FunctionTransformer(_square).fit(X)
    G, G_in, _ = _pulled(step, X, n_fit=4, jacobian="finite-differences")
    np.testing.assert_allclose(G_in, 2 * G * X)
    # a sparse matrix stays one
    X = sparse.csr_array(_numbers())
    step = FunctionTransformer(_dense_square, accept_sparse=True).fit(X)
    G, G_in, _ = _pulled(step, X, jacobian="finite-differences")
    np.testing.assert_allclose(G_in, 2 * G * X.toarray(), rtol=1e-6)


def _square(X):
    return X.astype(float) ** 2


def _dense_square(X):
    return X.toarray() ** 2


def _mixed(X):
    scale = X["kind"].map({"a": 1, "b": 2, "c": 4})
    columns = [X["real"] ** 2, X["count"].astype(float) ** 2, X["flag"] * scale]
    return np.column_stack([np.asarray(c, dtype=float) for c in columns])


def test_frozen():
    X = _numbers()
    for step in (
        StandardScaler(),
        PCA(2, whiten=True),
        make_pipeline(MinMaxScaler(), PolynomialFeatures(), TruncatedSVD(2)),
        make_union(RobustScaler(), SimpleImputer()),
    ):
        frozen = FrozenEstimator(_fit(step, X))
        G, G_in, _ = _pulled(frozen, X)
        _assert_near(G_in, _by_differences(frozen, X, G), 1e-5)
        # no row, no fit
        np.testing.assert_allclose(_pulled(_fit(step, X), X, G, n_fit=0)[1], G_in)
    part_frozen = make_pipeline(FrozenEstimator(_fit(MinMaxScaler(), X)), PCA(2))
    _check(part_frozen, X, 1e-5)


def test_nothing_to_do():
    X = _numbers()
    for step in (None, "passthrough"):
        G = np.random.default_rng(0).normal(size=X.shape)
        G_in, gains = pull_back(step, X, X, G, N_FIT)
        np.testing.assert_array_equal(G_in, G)
        assert gains == {}
    G_in, _ = pull_back_steps([], [], G, N_FIT)
    np.testing.assert_array_equal(G_in, G)


CHAINS = [
    (SimpleImputer(), StandardScaler(), PCA(2)),
    (SimpleImputer(strategy="median"), MinMaxScaler(), PolynomialFeatures()),
    (SimpleImputer(add_indicator=True), Normalizer(), TruncatedSVD(3)),
    (StandardScaler(), SimpleImputer(), FunctionTransformer(np.tanh)),
]


@pytest.mark.parametrize("steps", CHAINS, ids=str)
def test_chains(steps):
    X = _with_nan(_numbers())
    pipeline = make_pipeline(*steps)
    fitted = _check(pipeline, X, 1e-5)
    G, expected, _ = _pulled(fitted, X)
    inputs = [X]
    for _, step in fitted.steps:
        inputs.append(_dense(step.transform(inputs[-1])))
    G_in = G
    for (_, step), before, after in zip(
        fitted.steps[::-1], inputs[-2::-1], inputs[:0:-1], strict=True
    ):
        G_in, _ = pull_back(step, before, after, G_in, N_FIT)
    np.testing.assert_allclose(G_in, expected, rtol=1e-10, atol=1e-12)
    G_in, _ = pull_back_steps(fitted.steps, inputs[:-1], G, N_FIT)
    np.testing.assert_allclose(G_in, expected, rtol=1e-10, atol=1e-12)


def test_union():
    X = _with_nan(_numbers())
    step = FeatureUnion(
        [
            ("a", make_pipeline(SimpleImputer(), PCA(2))),
            ("drop", "drop"),
            ("b", make_pipeline(StandardScaler(), SimpleImputer(strategy="constant"))),
            ("missing", MissingIndicator(features="all")),
        ],
        transformer_weights={"a": 3.0},
    )
    _check(step, X, 1e-5)
    _check(FeatureUnion([("same", "passthrough"), ("p", PCA(1))]), _numbers(), 1e-5)


def _two_columns(X):
    return [1, 0]


def _no_column(X):
    return []


COLUMNS = {
    "index": ([0, 2], [3]),
    "slice": (slice(0, 2), slice(1, 3)),
    "mask": ([True, False, False, True], [False, True, False, True]),
    "callable": (_two_columns, _no_column),
    "negative": ([-1], [0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("remainder", ["drop", "passthrough", MinMaxScaler()], ids=str)
@pytest.mark.parametrize("how", COLUMNS)
def test_columns_of_arrays(how, remainder):
    first, second = COLUMNS[how]
    step = ColumnTransformer(
        [
            ("scale", make_pipeline(StandardScaler(), PolynomialFeatures()), first),
            ("none", PCA(), []),
            ("gone", "drop", [0]),
            ("other", RobustScaler(), second),
        ],
        remainder=remainder,
        transformer_weights={"scale": 0.5},
    )
    _check(step, _numbers(8), n_fit=6)


def _put_pandas(X, i, j, change):
    X = X.copy()
    X.iloc[i, j] += change
    return X


def _check_frame(step, X, G, G_in, columns, n_fit=N_FIT, rtol=1e-6):
    rows = [0, 2, 5, len(X) - 1]  # refits with frames take their time
    options = {"put": _put_pandas, "columns": columns, "rows": rows, "h": 1e-5}
    expected = _by_differences(step, X, G, n_fit, **options)
    _assert_near(G_in[rows], np.where(X.isna(), 0, expected)[rows], rtol)
    others = np.setdiff1d(np.arange(X.shape[1]), columns)
    assert (G_in[:, others] == 0).all()


@pytest.mark.slow
def test_columns_of_frames():
    X = pd.DataFrame(_numbers(8), columns=list("abcd")).assign(t=list("uvwuvwuv"))
    step = ColumnTransformer(
        [
            ("name", StandardScaler(), ["d", "a"]),
            ("slice", MinMaxScaler(), slice("b", "c")),
            ("kind", PolynomialFeatures(), make_column_selector(dtype_include=float)),
            ("text", OneHotEncoder(), ["t"]),
        ],
        sparse_threshold=1.0,
    )
    fitted = _fit(step, X, 6)
    assert sparse.issparse(fitted.transform(X))
    G, G_in, _ = _pulled(fitted, X, n_fit=6)
    _check_frame(step, X, G, G_in, range(4), 6)
    # other order, other columns: found by name
    mixed = X[["t", "d", "c", "b", "a"]].assign(z=0.0)
    _, moved, _ = _pulled(fitted, mixed, G, 6)
    np.testing.assert_allclose(moved[:, [4, 3, 2, 1, 0]], G_in)
    # frames all the way
    step = make_pipeline(step.set_params(sparse_threshold=0), StandardScaler())
    step[0].set_params(text=OneHotEncoder(sparse_output=False))
    step.set_output(transform="pandas")
    G, G_in, _ = _pulled(_fit(step, X, 6), X, n_fit=6)
    _check_frame(step, X, G, G_in, range(4), 6)


def test_sparse():
    X = _numbers() * (np.random.default_rng(0).random((9, 4)) < 0.6)
    for step in (
        make_pipeline(MaxAbsScaler(), StandardScaler(with_mean=False)),
        make_pipeline(TruncatedSVD(2), Normalizer()),
        ColumnTransformer([("a", MaxAbsScaler(), [0, 2])], remainder="passthrough"),
    ):
        fitted = _fit(step, sparse.csr_array(X))
        G, G_in, _ = _pulled(fitted, sparse.csr_array(X))
        np.testing.assert_allclose(G_in, _pulled(fitted, X, G)[1])
        np.testing.assert_allclose(G_in, _pulled(fitted, sparse.csc_array(X), G)[1])


# Categories


def _frame(n_rows=13):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": rng.normal(40, 10, n_rows),
            "job": rng.choice(["cook", "smith", "clerk"], n_rows),
            "size": pd.Categorical(rng.choice(["s", "m", "l"], n_rows)),
            "member": rng.random(n_rows) < 0.5,
            "pay": rng.lognormal(size=n_rows),
            "code": rng.integers(0, 3, n_rows),
        }
    )
    X.loc[[1, 5, 11], "age"] = np.nan
    X.loc[[2, 6], "job"] = None
    X.loc[[0], "size"] = np.nan
    X.loc[:3, "job"] = ["cook", "smith", None, "clerk"]
    X.loc[:2, "code"] = [0, 1, 2]
    return X


CATEGORIES = {
    1: ["cook", "smith", "clerk", None],
    2: ["s", "m", "l", np.nan],
    3: [False, True],
    5: [0, 1, 2],
}


def _check_gains(fitted, X, G, gains, categories, atol=1e-10):
    """Compare with what the fitted step makes of rows with the cell replaced."""
    assert gains.keys() == categories.keys()
    for j, values in categories.items():
        effect = np.empty((len(X), len(values)))
        for k, value in enumerate(values):
            Z = X.copy()
            if is_frame(X):
                Z[X.columns[j]] = pd.Series([value] * len(X), dtype=object)
            else:
                Z[:, j] = value
            out = _dense(_quiet(fitted.transform, Z))
            effect[:, k] = np.sum(np.where(G == 0, 0, G * out), axis=1)
        found = gains[j] - gains[j][:, :1]
        np.testing.assert_allclose(found, effect - effect[:, :1], atol=atol)


@pytest.mark.slow
def test_table_encoder():
    X = _frame()
    categories = {j: CATEGORIES[j] for j in (1, 2, 3)}
    encoder = make_table_encoder(X)
    G, G_in, gains = _pulled(_fit(encoder, X), X, categories=categories)
    _check_gains(_fit(encoder, X), X, G, gains, categories)
    X = X.astype({"code": float})  # whole numbers can't be moved a little
    _check_frame(encoder, X, G, G_in, [0, 4, 5])
    # text that is not to be changed
    _, same, none = _pulled(_fit(encoder, X), X, G)
    np.testing.assert_array_equal(same, G_in)
    assert none == {}
    # as an array of objects, the truth values of which are numbers
    X = _frame().drop(columns="member").to_numpy(dtype=object)
    categories = {1: CATEGORIES[1], 2: CATEGORIES[2]}
    encoder = make_table_encoder(X)
    G, G_in, gains = _pulled(_fit(encoder, X), X, categories=categories)
    _check_gains(_fit(encoder, X), X, G, gains, categories)
    numeric = X.copy()
    numeric[:, 4] = numeric[:, 4].astype(float)  # whole numbers can't move a little
    rows = [0, 2, 5, 12]
    options = {"columns": [0, 3, 4], "rows": rows, "h": 1e-5}
    expected = _by_differences(encoder, numeric, G, **options)
    _assert_near(G_in[rows], np.where(pd.isna(X), 0, expected)[rows])
    # and of numbers only
    X = _with_nan(_numbers())
    _check(make_table_encoder(X), X)


def test_table_encoder_with_rare_and_unknown_categories():
    X = _frame(60)
    X["job"] = [f"job {i % 40}" for i in range(60)]
    categories = {1: [*(f"job {i}" for i in range(40)), "none of them", None]}
    fitted = _fit(make_table_encoder(X), X, 45)
    G, _, gains = _pulled(fitted, X, n_fit=45, categories=categories)
    _check_gains(fitted, X, G, gains, categories)


@pytest.mark.slow
def test_table_encoder_of_polars():
    pl = pytest.importorskip("polars")
    frame = _frame()
    X = pl.DataFrame(
        {
            "age": frame["age"].tolist(),
            "job": [None if pd.isna(v) else v for v in frame["job"]],
            "member": frame["member"].tolist(),
            "size": pl.Series(
                [None if pd.isna(v) else v for v in frame["size"]],
                dtype=pl.Enum(["s", "m", "l"]),
            ),
        }
    )
    same = frame[["age", "job", "member", "size"]]
    categories = {1: CATEGORIES[1], 2: [False, True], 3: CATEGORIES[2]}
    fitted = make_table_encoder(X).fit(X[:N_FIT])
    G, G_in, gains = _pulled(fitted, X, categories=categories)
    twin = _fit(make_table_encoder(same), same)
    _, expected, expected_gains = _pulled(twin, same, G, categories=categories)
    np.testing.assert_allclose(G_in, expected)
    for j in categories:
        np.testing.assert_allclose(gains[j], expected_gains[j], atol=1e-12)
    # numbers of polars frames, by name and by differences
    step = ColumnTransformer([("own", _Own(), ["age"])]).fit(X[:N_FIT])
    G, G_in, _ = _pulled(step, X, np.ones((13, 1)), jacobian="finite-differences")
    np.testing.assert_allclose(
        G_in[:, 0], np.nan_to_num(np.cos(frame["age"])), atol=1e-6
    )


def _to_text(X):
    return X.astype(str)


def _upper(X):
    return np.char.upper(np.asarray(X).astype(str))


def _join(X):
    return np.asarray(X["job"] + X["size"]).reshape(-1, 1)


def _last(X, y):
    return np.arange(X.shape[1])


def _first(X, y):
    return -np.arange(X.shape[1])


ENCODERS = {
    "one_hot": OneHotEncoder(),
    "drop_first": OneHotEncoder(drop="first", sparse_output=False),
    "if_binary": OneHotEncoder(drop="if_binary", handle_unknown="ignore"),
    "infrequent": OneHotEncoder(min_frequency=3, handle_unknown="infrequent_if_exist"),
    "ordinal": OrdinalEncoder(),
    "ordinal_missing": OrdinalEncoder(encoded_missing_value=-1),
    "two": make_pipeline(OrdinalEncoder(), OneHotEncoder(handle_unknown="ignore")),
    "imputed": make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
    ),
    "indicator": make_pipeline(
        SimpleImputer(strategy="constant", fill_value="?", add_indicator=True),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    ),
    "imputed_later": make_pipeline(
        OrdinalEncoder(), SimpleImputer(strategy="median", add_indicator=True)
    ),
    "lambda": make_pipeline(
        FunctionTransformer(_to_text), OneHotEncoder(handle_unknown="ignore")
    ),
    "named": make_pipeline(
        FunctionTransformer(
            _upper,
            feature_names_out="one-to-one",
        ),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    ),
}


@pytest.mark.parametrize("kind", ["frame", "array"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, kind):
    X = _frame()[["job", "size"]].astype(object)
    X = X.where(X.notna(), np.nan)
    categories = {0: ["cook", "smith", "clerk", np.nan], 1: ["s", "m", "l"]}
    if name == "ordinal":  # NaN would come out, which nothing may be derived by
        X = X.ffill().bfill()
        categories[0] = categories[0][:3]
    X = X if kind == "frame" else X.to_numpy()
    fitted = _fit(ENCODERS[name], X)
    G, G_in, gains = _pulled(fitted, X, categories=categories)
    assert (G_in == 0).all()
    _check_gains(fitted, X, G, gains, categories)
    # several encoders of one column
    both = make_union(*(clone(ENCODERS[n]) for n in ("one_hot", name)))
    if name != "ordinal":
        fitted = _fit(both, X)
        G, _, gains = _pulled(fitted, X, categories=categories)
        _check_gains(fitted, X, G, gains, categories)


def test_refused_categories_have_no_gain():
    X = _frame()[["job"]]
    categories = {0: ["cook", "sailor", "smith"]}
    fitted = _fit(OneHotEncoder(), X)
    gains = _pulled(fitted, X, categories=categories)[2][0]
    np.testing.assert_array_equal(np.isnan(gains).any(0), [False, True, False])
    known = _pulled(fitted, X, categories={0: ["cook", "smith"]})[2][0]
    np.testing.assert_allclose(gains[:, [0, 2]], known)


def test_codes_that_are_numbers():
    X = np.array(_frame()["code"].astype(float))
    X = np.column_stack([X, _numbers(13, 2)])
    categories = {0: [0.0, 1.0, 2.0]}
    X[:, 1] = np.abs(X[:, 1])
    X[:, 2] = np.abs(X[:, 2])
    for step in (
        ColumnTransformer([("hot", OneHotEncoder(), [0])], remainder="passthrough"),
        ColumnTransformer(
            [
                (
                    "hot",
                    make_pipeline(
                        SimpleImputer(strategy="most_frequent"),
                        OneHotEncoder(drop="first"),
                    ),
                    [0],
                ),
                ("as_number", "passthrough", [0]),
            ],
            remainder=StandardScaler(),
            transformer_weights={"as_number": 2.0, "hot": 3.0},
        ),
        make_pipeline(FunctionTransformer(np.log1p), SelectKBest(_first, k=1)),
        SelectKBest(_last, k=2),
    ):
        fitted = _fit(step, X, y=np.arange(N_FIT))
        G, G_in, gains = _pulled(fitted, X, categories=categories)
        _check_gains(fitted, X, G, gains, categories)
        assert (G_in[:, 0] == 0).all()
    # where the step computes: derivative times value
    fitted = _fit(make_pipeline(FunctionTransformer(), StandardScaler()), X)
    G, direct, _ = _pulled(fitted, X)
    _, G_in, gains = _pulled(fitted, X, G, categories=categories)
    np.testing.assert_allclose(gains[0], np.outer(direct[:, 0], [0, 1, 2]))
    np.testing.assert_array_equal(G_in[:, 1:], direct[:, 1:])
    G_in, gains = pull_back(None, X, X, X, N_FIT, categories=categories)
    np.testing.assert_allclose(gains[0], np.outer(X[:, 0], [0, 1, 2]))


def test_encoded_categories_that_are_mixed_later():
    X = _frame()
    encode = ColumnTransformer(
        [
            ("text", OneHotEncoder(sparse_output=False), ["job", "size"]),
            ("code", OrdinalEncoder(), ["member"]),
            ("pay", StandardScaler(), ["pay"]),
        ]
    )
    step = make_pipeline(encode, StandardScaler(), PCA(3))
    categories = {1: CATEGORIES[1][:3], 2: CATEGORIES[2], 3: CATEGORIES[3]}
    fitted = _fit(FrozenEstimator(_fit(step, X)), X)
    G, G_in, gains = _pulled(fitted, X, categories=categories)
    _check_gains(fitted, X, G, gains, categories)
    # through the fit as well: the first step is linear in the encoded columns
    fitted = _fit(step, X)
    _, G_in, gains = _pulled(fitted, X, G, categories=categories)
    Z = fitted[0].transform(X)
    G_mid, _ = pull_back(fitted[1:], Z, fitted.transform(X), G, N_FIT)
    _, expected = pull_back(fitted[0], X, Z, G_mid, N_FIT, categories=categories)
    for j in categories:
        np.testing.assert_allclose(gains[j], expected[j])
    _check_frame(step, X, G, G_in, [4], rtol=1e-5)


def test_text_needs_the_encoder_behind_it():
    X = _frame()[["job", "size"]].astype(object)
    X = X.where(X.notna(), np.nan)
    categories = {0: ["cook", "smith", "clerk"], 1: ["s", "m", "l"]}
    impute = SimpleImputer(strategy="most_frequent")
    fitted = _fit(make_pipeline(impute, OneHotEncoder(handle_unknown="ignore")), X)
    Z = fitted[0].transform(X)
    with pytest.raises(NotDifferentiableError, match="column 0 holds text"):
        pull_back(fitted[0], X, Z, np.zeros(Z.shape), N_FIT, categories=categories)
    G, _, gains = _pulled(fitted, X, categories=categories)
    found = pull_back_steps(fitted.steps, [X, Z], G, N_FIT, categories=categories)[1]
    for j in categories:
        np.testing.assert_array_equal(found[j], gains[j])


def test_functions_of_several_columns():
    X = _frame()[["job", "size"]].astype(str)
    categories = {0: ["cook", "smith", "clerk"], 1: ["s", "m", "l"]}

    step = make_pipeline(
        FunctionTransformer(_join), OneHotEncoder(handle_unknown="ignore")
    )
    fitted = _fit(step, X)
    with pytest.raises(NotDifferentiableError, match="join"):
        _pulled(fitted, X, categories=categories)
    with pytest.raises(NotDifferentiableError, match="more than one column"):
        _pulled(fitted, X, categories=categories, jacobian="finite-differences")


def test_vectorizer_of_a_text_column():
    X = _frame()[["pay", "job"]].fillna("nobody")
    step = ColumnTransformer(
        [("words", CountVectorizer(), "job"), ("pay", StandardScaler(), ["pay"])]
    )
    fitted = _fit(step, X)
    G, G_in, _ = _pulled(fitted, X)  # text that stays needs no derivative
    _check_frame(step, X, G, G_in, [0])
    categories = {1: ["cook", "smith", "clerk"]}
    with pytest.raises(NotDifferentiableError, match="'words' .CountVectorizer"):
        _pulled(fitted, X, categories=categories)
    options = {"categories": categories, "jacobian": "finite-differences"}
    _, same, gains = _pulled(fitted, X, G, **options)
    np.testing.assert_array_equal(same, G_in)
    _check_gains(fitted, X, G, gains, categories)
