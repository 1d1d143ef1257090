"""Fitted models as torch sees them: pipelines, wrappers, networks, refusals."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA, KernelPCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from skorch import NeuralNetClassifier
from torch import nn

from skpoison import defenses, evasion
from skpoison.attacks import LabelFlipAttack
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import DPInstaHideClassifier, FinePruning
from skpoison.evasion._views import agree, as_tensor, view
from skpoison.federated import FederatedClassifier
from skpoison.models import LinearModel, TorchClassifier

LOGISTIC = LogisticRegression(max_iter=1000)
MLP = MLPClassifier((8,), max_iter=80, random_state=0)
AFFINE = {
    "standard": make_pipeline(StandardScaler(), LOGISTIC),
    "scalers": make_pipeline(
        MinMaxScaler((-1, 3)), MaxAbsScaler(), RobustScaler(), LinearSVC(random_state=0)
    ),
    "pca": make_pipeline(StandardScaler(), PCA(5), RidgeClassifier()),
    "whiten": make_pipeline(PCA(5, whiten=True), LOGISTIC),
    "svd": make_pipeline(TruncatedSVD(4, random_state=0), StandardScaler(), LOGISTIC),
    "selected": make_pipeline(
        VarianceThreshold(0.1), StandardScaler(), SelectKBest(k=5), LOGISTIC
    ),
    "imputed": make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), LOGISTIC
    ),
    "nested": make_pipeline(
        make_pipeline(StandardScaler(), PCA(6)),
        "passthrough",
        FunctionTransformer(),
        make_pipeline(MaxAbsScaler(), LOGISTIC),
    ),
    "columns": make_pipeline(
        ColumnTransformer(
            [
                ("a", StandardScaler(), [3, 1, 0]),
                ("b", make_pipeline(MinMaxScaler(), PCA(2)), [2, 4, 5]),
                ("c", "drop", [6]),
            ],
            remainder="passthrough",
            transformer_weights={"a": 2.0},
        ),
        StandardScaler(),
        LOGISTIC,
    ),
    "union": make_pipeline(
        make_union(StandardScaler(), PCA(2), "passthrough"), StandardScaler(), LOGISTIC
    ),
    "scaled_identity_mlp": make_pipeline(
        StandardScaler(), clone(MLP).set_params(activation="identity")
    ),
    "linear_svc_kernel": make_pipeline(StandardScaler(), SVC(kernel="linear")),
}
CURVED = {
    "mlp": make_pipeline(StandardScaler(), MLP),
    "svc": make_pipeline(StandardScaler(), PCA(6), SVC()),
    "nb": make_pipeline(RobustScaler(), GaussianNB()),
    "normalized": make_pipeline(StandardScaler(), Normalizer(), LOGISTIC),
    "polynomial": make_pipeline(
        StandardScaler(), PolynomialFeatures(2), StandardScaler(), LOGISTIC
    ),
    "clipped": make_pipeline(MinMaxScaler(clip=True), LOGISTIC),
    "nystroem": make_pipeline(
        StandardScaler(), Nystroem(gamma=0.1, n_components=30, random_state=0), LOGISTIC
    ),
    "fourier": make_pipeline(
        StandardScaler(),
        RBFSampler(gamma=0.1, n_components=40, random_state=0),
        LOGISTIC,
    ),
    "function": make_pipeline(
        MinMaxScaler(), FunctionTransformer(np.log1p), StandardScaler(), LOGISTIC
    ),
    "mixed_columns": make_pipeline(
        ColumnTransformer(
            [("a", Normalizer(), [0, 1, 2]), ("b", StandardScaler(), [5, 4])],
            remainder="passthrough",
        ),
        StandardScaler(),
        FeatureUnion([("raw", "passthrough"), ("poly", PolynomialFeatures(2))]),
        LOGISTIC,
    ),
}
PIPELINES = {**AFFINE, **CURVED}


def _data(kind):
    if kind == "two":
        X, y = load_breast_cancer(return_X_y=True)
        X, y = X[:200, :13], y[:200]
    else:
        X, y = load_wine(return_X_y=True)
    return X / X.std(axis=0), np.array(["b", "a", "c"])[y]


def _fit(estimator, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(estimator).fit(X, y)


def _scores(found, X):
    with found.in_use(), torch.no_grad():
        return found.scores(as_tensor(found, X)).double().numpy()


def _check_scores(found, clf, X):
    scores = _scores(found, X)
    classes = clf.classes_ if found.classes is None else found.classes
    np.testing.assert_array_equal(found.classes, clf.classes_)
    np.testing.assert_array_equal(classes[scores.argmax(axis=1)], clf.predict(X))
    if hasattr(clf, "decision_function"):
        expected = clf.decision_function(X)
        lead = scores[:, 1] - scores[:, 0] if expected.ndim == 1 else scores
        if not isinstance(clf[-1], SVC):  # whose ties are tested beside the module
            np.testing.assert_allclose(lead, expected, rtol=1e-6, atol=1e-6)
    elif hasattr(clf, "predict_proba"):
        np.testing.assert_allclose(
            softmax(scores, axis=1), clf.predict_proba(X), atol=1e-6
        )


def _check_gradient(found, X, shift=1e-6, rtol=1e-5):
    x = as_tensor(found, X).requires_grad_()
    n_classes = found.scores(x).shape[1]
    weights = torch.from_numpy(
        np.random.RandomState(1).normal(size=(len(X), n_classes))
    )
    with found.in_use():
        (by_x,) = torch.autograd.grad((found.scores(x) * weights).sum(), x)
        expected = np.empty_like(X)
        with torch.no_grad():
            for j in range(X.shape[1]):
                step = np.zeros_like(X)
                step[:, j] = shift
                ends = [
                    (found.scores(as_tensor(found, X + h)) * weights).sum(1).numpy()
                    for h in (step, -step)
                ]
                expected[:, j] = (ends[0] - ends[1]) / (2 * shift)
    scale = max(1e-3, np.abs(expected).max())
    np.testing.assert_allclose(by_x.numpy(), expected, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("kind", ["two", "many"])
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines(name, kind):
    X, y = _data(kind)
    clf = _fit(PIPELINES[name], X, y)
    found = view(clf)
    rng = np.random.RandomState(0)
    Z = np.concatenate([X, X[rng.permutation(len(X))] + 0.3 * rng.normal(size=X.shape)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check_scores(found, clf, Z)
        agree(found, clf, Z)
        if not (name == "svc" or "kernel" in name) or kind == "two":
            _check_gradient(found, Z[::40] if name != "clipped" else Z[::40] * 0.999)


@pytest.mark.parametrize("kind", ["two", "many"])
@pytest.mark.parametrize("name", AFFINE)
def test_affine_pipelines_fold_into_one_map(name, kind):
    X, y = _data(kind)
    found = view(_fit(AFFINE[name], X, y))
    if name == "linear_svc_kernel" and kind == "many":
        assert found.affine is None  # votes of pairs
        return
    W, b = found.affine()
    assert W.dtype == b.dtype == np.float64
    np.testing.assert_allclose(X @ W.T + b, _scores(found, X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CURVED)
def test_curved_models_are_not_called_affine(name):
    assert view(_fit(CURVED[name], *_data("many"))).affine is None


def test_whitened_rounding_errors_are_as_steep_as_they_are():
    # constant pixels make components of no variance, scaled up by 1e16
    X, y = load_digits(return_X_y=True)
    X = X[:600] / 16
    clf = make_pipeline(PCA(whiten=True), LOGISTIC).fit(X, y[:600])
    assert (clf[0].explained_variance_ < 1e-20).any()
    found = view(clf)
    agree(found, clf, X, n_rows=600)
    moved = X + np.random.RandomState(0).uniform(-0.1, 0.1, X.shape)
    assert (clf.predict(moved) != clf.predict(X)).mean() > 0.3
    agree(found, clf, moved, n_rows=600)


def test_bare_linear_models_are_affine():
    X, y = _data("two")
    clf = LOGISTIC.fit(X, y)
    W, b = view(clf).affine()
    np.testing.assert_array_equal(W, np.concatenate([0 * clf.coef_, clf.coef_]))
    np.testing.assert_array_equal(b, [0, clf.intercept_[0]])
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False), nn.Linear(4, 3))
    W, b = view(module).affine()
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(
        x.flatten(1).numpy() @ W.T + b, module(x).detach().numpy(), atol=1e-6
    )
    assert view(nn.Sequential(nn.Linear(3, 3), nn.ReLU())).affine is None
    assert view(nn.Flatten()).affine is None


# Data frames


@pytest.mark.slow
def test_columns_by_name_without_a_warning():
    pd = pytest.importorskip("pandas")
    X, y = _data("many")
    frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(X.shape[1])])
    table = ColumnTransformer(
        [
            ("a", make_pipeline(SimpleImputer(), StandardScaler()), ["c3", "c1"]),
            ("b", Normalizer(), ["c5", "c6", "c7"]),
        ],
        remainder=MinMaxScaler(),
    )
    for part in (table, clone(table).set_params(b=StandardScaler())):
        for output in ("default", "pandas"):
            clf = _fit(
                make_pipeline(part, LOGISTIC).set_output(transform=output), frame, y
            )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = view(clf)
                agree(found, clf, frame)
                agree(found, clf, X)
                np.testing.assert_allclose(
                    _scores(found, X), clf.decision_function(frame), atol=1e-9
                )
                _check_gradient(found, X[::20])


# What holds a classifier


@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize("kind", ["two", "many"])
@pytest.mark.parametrize(
    "inner",
    [
        LOGISTIC,
        GaussianNB(var_smoothing=1.0),
        SVC(),
        make_pipeline(StandardScaler(), MLP),
    ],
    ids=["decision", "probability", "votes", "pipeline"],
)
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibrated_classifiers(method, inner, kind, ensemble):
    X, y = _data(kind)
    clf = CalibratedClassifierCV(inner, method=method, cv=2, ensemble=ensemble)
    if method == "temperature":
        try:
            clf = _fit(clf, X, y)
        except ValueError:
            pytest.skip("this scikit-learn has no temperature scaling")
    clf = _fit(clf, X, y)
    found = view(clf)
    agree(found, clf, X)
    scores = _scores(found, X)
    np.testing.assert_allclose(softmax(scores, axis=1), clf.predict_proba(X), atol=1e-6)
    if method != "isotonic" and not (isinstance(inner, SVC) and kind == "many"):
        _check_gradient(found, X[::30], shift=1e-5, rtol=1e-4)


def test_isotonic_staircases_have_a_slope_everywhere():
    X, y = _data("two")
    clf = CalibratedClassifierCV(LOGISTIC, method="isotonic", cv=2).fit(X, y)
    found = view(clf)
    x = as_tensor(found, X).requires_grad_()
    scores = found.scores(x)
    (by_x,) = torch.autograd.grad((scores[:, 1] - scores[:, 0]).sum(), x)
    assert (by_x.abs().sum(1) > 0).all()
    mean = np.mean([m.estimator.coef_[0] for m in clf.calibrated_classifiers_], axis=0)
    assert (by_x.numpy() @ mean > 0).all()


class _Mine(PoisonedEstimator):
    pass


@pytest.mark.parametrize(
    "clf",
    [
        GridSearchCV(make_pipeline(StandardScaler(), LOGISTIC), {}, cv=2),
        PoisonedEstimator(LabelFlipAttack(random_state=0), LOGISTIC),
        FilteredEstimator(estimator=make_pipeline(StandardScaler(), LOGISTIC)),
        PoisonedEstimator(None, FilteredEstimator(estimator=LOGISTIC)),
        _Mine(None, LOGISTIC),
    ],
    ids=["search", "poisoned", "filtered", "both", "subclass"],
)
def test_wrappers_show_the_model_inside(clf):
    X, y = _data("many")
    clf = _fit(clf, X, y)
    for model in (clf, FrozenEstimator(clf), make_pipeline(FrozenEstimator(clf))):
        found = view(model)
        agree(found, model, X)
        assert found.affine is not None
        np.testing.assert_allclose(_scores(found, X), clf.decision_function(X))


# Networks


def _images(n=120):
    X, y = load_digits(n_class=4, return_X_y=True)
    return (X[:n] / 16).astype(np.float32).reshape(-1, 1, 8, 8), y[:n] + 3


OURS = {
    name: getattr(room, name)()
    for room in (defenses, evasion)
    for name in room.__all__
    if name.endswith("Classifier") and issubclass(getattr(room, name), TorchClassifier)
} | {
    "network": TorchClassifier(),
    "linear": TorchClassifier(LinearModel),
    "instahide_clipped": DPInstaHideClassifier(clip_norm=3.0, bounds=(0.1, 0.8)),
    "repaired": FinePruning(
        TorchClassifier(max_epochs=1, device="cpu", random_state=0)
    ),
    "federated_network": FederatedClassifier(
        TorchClassifier(), n_rounds=5, n_clients=4
    ),
    "federated_module": FederatedClassifier(LinearModel, n_rounds=5, n_clients=4),
    "federated": FederatedClassifier(n_rounds=5, n_clients=4),
}


@pytest.mark.parametrize("name", OURS)
def test_networks_on_images_and_pixels(name):
    clf = OURS[name]
    X, y = _images()
    params = {"device": "cpu", "random_state": 0, "max_epochs": 2}
    own = clf.get_params()
    clf = clone(clf).set_params(**{k: v for k, v in params.items() if k in own})
    clf = _fit(clf, X, y)
    found = view(clf)
    np.testing.assert_array_equal(found.classes, clf.classes_)
    for rows in (X, np.round(X * 255).astype(np.uint8)):
        agree(found, clf, rows, n_rows=len(X))
        expected = clf.predict_proba(rows)
        np.testing.assert_allclose(
            softmax(_scores(found, rows), axis=1), expected, atol=1e-5
        )
    x = as_tensor(found, X).requires_grad_()
    with found.in_use():
        (by_x,) = torch.autograd.grad(found.scores(x).logsumexp(1).sum(), x)
    assert by_x.shape == X.shape and by_x.abs().max() > 0
    is_linear = isinstance(clf, FederatedClassifier) and clf.estimator is None
    if is_linear or isinstance(getattr(clf, "module_", None), LinearModel):
        W, b = found.affine()
        np.testing.assert_allclose(
            X.reshape(len(X), -1) @ W.T + b, _scores(found, X), atol=1e-5
        )


def test_a_federation_of_a_linear_classifier():
    from sklearn.linear_model import SGDClassifier

    X, y = _data("two")
    clf = FederatedClassifier(
        SGDClassifier(random_state=0), n_rounds=5, n_clients=4, random_state=0
    ).fit(X, y)
    found = view(clf)
    agree(found, clf, X)
    scores = _scores(found, X)
    np.testing.assert_allclose(
        scores[:, 1] - scores[:, 0], clf.decision_function(X), rtol=1e-5, atol=1e-5
    )


def test_a_network_behind_scalers():
    X, y = _data("many")
    net = TorchClassifier(max_epochs=5, device="cpu", random_state=0)
    clf = make_pipeline(StandardScaler(), PCA(5), net).fit(X.astype(np.float32), y)
    found = view(clf)
    assert found.dtype == torch.float64 and found.modules == [net.module_]
    agree(found, clf, X)
    agree(found, clf, X.astype(np.float32))


def test_pixels_reach_a_network_through_steps_that_keep_them():
    X, y = load_digits(n_class=3, return_X_y=True)
    pixels = (X[:90] * 15).astype(np.uint8)
    net = TorchClassifier(max_epochs=2, device="cpu", random_state=0)
    kept = make_pipeline(VarianceThreshold(), "passthrough", net)
    scaled = make_pipeline(StandardScaler(), net)
    for clf, scale in ((kept, 255.0), (scaled, 1.0)):
        found = view(clone(clf).fit(pixels, y[:90]))
        assert found.pixel_scale == scale
        agree(found, _fit(clf, pixels, y[:90]), pixels)


def test_nets_of_skorch_predict_positions():
    X, y = load_digits(n_class=3, return_X_y=True)
    X = X[:90].astype(np.float32) / 16
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 3), nn.Softmax(dim=1)), max_epochs=3, verbose=0
    ).fit(X, y[:90])
    found = view(net)
    assert found.classes is None and found.dtype == torch.float32
    agree(found, net, X)
    agree(found, net, X.astype(np.float64))
    np.testing.assert_allclose(
        softmax(_scores(found, X), axis=1), net.predict_proba(X), atol=1e-6
    )


def test_nets_of_skorch_behind_a_scaler():
    X, y = _data("many")
    X = X.astype(np.float32)
    net = NeuralNetClassifier(
        nn.Linear(13, 3), criterion=nn.CrossEntropyLoss, max_epochs=2, verbose=0
    )
    clf = make_pipeline(StandardScaler(), net).fit(
        X, np.unique(y, return_inverse=True)[1]
    )
    found = view(clf)
    agree(found, clf, X)
    assert found.affine is not None


def test_samplers_in_a_pipeline_are_passed_over():
    imblearn = pytest.importorskip("imblearn.pipeline")
    X, y = _data("many")
    clf = imblearn.make_pipeline(
        StandardScaler(), LabelFlipAttack(random_state=0), LOGISTIC
    ).fit(X, y)
    agree(view(clf), clf, X)


def test_models_are_left_as_they_were():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = view(module)
    with found.in_use():
        x = torch.ones(5, 3, requires_grad=True)
        found.scores(x).sum().backward()
        assert not module.training
    assert module.training and module[1].training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["standard", "mlp", "svc", "polynomial"])
def test_models_of_scikit_learn_on_a_gpu(name):
    X, y = _data("many")
    clf = _fit(PIPELINES[name], X, y)
    found = view(clf, device="cuda")
    assert found.device.type == "cuda" and view(clf).device.type == "cpu"
    agree(found, clf, X)
    x = as_tensor(found, X).requires_grad_()
    scores = found.scores(x)
    (by_x,) = torch.autograd.grad(scores.logsumexp(1).sum(), x)
    assert scores.device == by_x.device == x.device
    np.testing.assert_allclose(
        scores.detach().cpu().numpy(), _scores(view(clf), X), atol=1e-9
    )


# Refusals


@pytest.mark.parametrize(
    "clf, name",
    [
        (RandomForestClassifier(3), "RandomForestClassifier"),
        (VotingClassifier([("a", LOGISTIC)]), "VotingClassifier"),
        (make_pipeline(StandardScaler(), RandomForestClassifier(3)), "RandomForestC"),
        (
            Pipeline([("bins", KBinsDiscretizer(3)), ("clf", LOGISTIC)]),
            r"step 'bins' \(KBinsDiscretizer\)",
        ),
        (make_pipeline(QuantileTransformer(n_quantiles=9), LOGISTIC), "QuantileTr"),
        (make_pipeline(KernelPCA(2), LOGISTIC), "KernelPCA"),
        (
            make_pipeline(make_pipeline(FunctionTransformer(np.round)), LOGISTIC),
            r"step 'pipeline__functiontransformer' \(FunctionTransformer\)",
        ),
        (
            make_pipeline(
                ColumnTransformer([("a", KBinsDiscretizer(3), [0, 1])]), LOGISTIC
            ),
            "ColumnTransformer",
        ),
        (CalibratedClassifierCV(RandomForestClassifier(3), cv=2), "RandomForest"),
        (make_pipeline(Nystroem(kernel="poly", n_components=5), LOGISTIC), "Nystroem"),
    ],
    ids=[
        "forest", "vote", "last", "bins", "quantiles", "kernel pca", "round", "columns",
        "calibrated", "nystroem",
    ],
)  # fmt: skip
def test_what_has_no_gradient_says_so(clf, name):
    clf = _fit(clf, *_data("many"))
    with pytest.raises(
        TypeError,
        match=name + r".* has no gradient; pass surrogate=<differentiable estimator>",
    ):
        view(clf)


def test_text_has_no_gradient():
    texts = ["good film", "bad film", "good book", "a bad book"] * 3
    clf = make_pipeline(TfidfVectorizer(), LOGISTIC).fit(texts, [1, 0, 1, 0] * 3)
    with pytest.raises(TypeError, match=r"\(TfidfVectorizer\) has no gradient"):
        view(clf)


def test_other_refusals():
    X, y = _data("many")
    with pytest.raises(NotFittedError):
        view(make_pipeline(StandardScaler(), LogisticRegression()))
    with pytest.raises(NotFittedError):
        view(GridSearchCV(LogisticRegression(), {}))
    with pytest.raises(TypeError, match="is no classifier"):
        view(make_pipeline(StandardScaler(), LinearRegression()).fit(X, X[:, 0]))
    with pytest.raises(TypeError, match="several labels a row"):
        view(make_pipeline(StandardScaler(), RidgeClassifier()).fit(X, X[:, :2] > 2))
    with pytest.raises(TypeError, match="expected a classifier"):
        view(None)


def test_a_prediction_that_is_not_the_largest_score_is_found_out():
    X, y = _data("many")
    clf = LogisticRegression(max_iter=500).fit(X, y)
    agree(view(clf), clf, X)
    other = LogisticRegression(max_iter=500).fit(X, np.roll(y, 60))
    with pytest.raises(RuntimeError, match="LogisticRegression disagree with its pre"):
        agree(view(clf), other, X)


def test_models_of_float32_are_no_disagreement():
    X, y = _data("many")
    X = X.astype(np.float32)
    clf = _fit(MLP, X, y)
    assert clf.coefs_[0].dtype == np.float32
    agree(view(clf), clf, X, n_rows=len(X))


def test_a_tie_is_no_disagreement():
    X, y = _data("two")
    clf = LogisticRegression().fit(X, y)
    clf.coef_[:], clf.intercept_[:] = 1e-9, 0.0  # a rounding error decides
    found = view(clf)
    clf.coef_ *= -1
    agree(found, clf, X)
    agree(view(nn.Linear(13, 2)), nn.Linear(13, 2), X)  # nothing to compare with
