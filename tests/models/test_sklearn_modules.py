"""Fitted classifiers as modules: scores and gradients are scikit-learn's own."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.svm import SVC, LinearSVC, NuSVC
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from skpoison.models import LinearModel, TorchClassifier
from skpoison.models._sklearn_modules import as_module

LINEAR = {
    "logistic": LogisticRegression(max_iter=500),
    "logistic_cv": LogisticRegressionCV(Cs=[0.1, 1.0], max_iter=500),
    "logistic_no_bias": LogisticRegression(fit_intercept=False),
    "linear_svc": LinearSVC(random_state=0),
    "linear_svc_no_bias": LinearSVC(fit_intercept=False, random_state=0),
    "ridge": RidgeClassifier(),
    "ridge_cv": RidgeClassifierCV(),
    "sgd": SGDClassifier(random_state=0),
    "sgd_log": SGDClassifier(loss="log_loss", average=True, random_state=0),
    "perceptron": Perceptron(random_state=0),
    "lda": LinearDiscriminantAnalysis(),
    "lda_lsqr": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
}
if hasattr(linear_model, "PassiveAggressiveClassifier"):  # until scikit-learn 1.10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LINEAR["passive"] = linear_model.PassiveAggressiveClassifier(random_state=0)
OTHERS = {
    "gaussian_nb": GaussianNB(),
    "qda": QuadraticDiscriminantAnalysis(reg_param=0.1),
    "mlp_relu": MLPClassifier((7, 5), max_iter=60, random_state=0),
    "mlp_tanh": MLPClassifier((6,), activation="tanh", max_iter=60, random_state=0),
    "mlp_logistic": MLPClassifier(
        (6,), activation="logistic", max_iter=60, random_state=0
    ),
    "mlp_identity": MLPClassifier(
        (6,), activation="identity", max_iter=60, random_state=0
    ),
    "svc_linear": SVC(kernel="linear"),
    "svc_rbf": SVC(gamma=0.3, C=5.0),
    "svc_poly": SVC(kernel="poly", degree=2, coef0=0.5),
    "svc_sigmoid": SVC(kernel="sigmoid", gamma=0.05),
    "svc_ovo": SVC(decision_function_shape="ovo"),
    "svc_break_ties": SVC(break_ties=True),
    "nu_svc": NuSVC(nu=0.2),
}
ALL = {**LINEAR, **OTHERS}


def _data(kind):
    X, y = load_wine(return_X_y=True) if kind == "many" else _cancer()
    return scale(X), np.array(["b", "a", "c"])[y]


def _cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X[:150, :9], y[:150]


def _fit(estimator, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations, names on their way out
        return clone(estimator).fit(X, y)


def _scores(module, X):
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize("kind", ["two", "many"])
@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_estimators_own(name, kind):
    X, y = _data(kind)
    clf = _fit(ALL[name], X, y)
    module = as_module(clf)
    assert not module.training
    # rows between the classes as well, where votes of pairs are close
    rng = np.random.RandomState(0)
    X = np.concatenate([X, rng.normal(size=(400, X.shape[1]))])
    scores = _scores(module, X)
    assert scores.dtype == np.float64 and scores.shape == (len(X), len(clf.classes_))
    np.testing.assert_array_equal(clf.classes_[scores.argmax(axis=1)], clf.predict(X))
    if hasattr(clf, "decision_function") and name != "svc_ovo":
        expected = clf.decision_function(X)
        found = scores[:, 1] - scores[:, 0] if expected.ndim == 1 else scores
        # votes tied: predict takes the first class, the decision function another
        usual = expected.ndim == 1 or found.argmax(1) == expected.argmax(1)
        np.testing.assert_allclose(found[usual], expected[usual], rtol=1e-6, atol=1e-6)
        assert np.mean(usual) > 0.95
    if hasattr(clf, "predict_proba") and name != "sgd_log":
        np.testing.assert_allclose(
            softmax(scores, axis=1), clf.predict_proba(X), atol=1e-6
        )


@pytest.mark.parametrize("kind", ["two", "many"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_by_rows_are_finite_differences(name, kind):
    X, y = _data(kind)
    X = X[::30]
    module = as_module(_fit(ALL[name], *_data(kind)))
    by_votes = "svc" in name and "linear_" not in name and kind == "many"
    if by_votes:  # the scores jump, the pair margins do not
        function = _pairs_of_winner(module, X)
    else:
        function = module
    x = torch.tensor(X, requires_grad=True)
    weights = torch.from_numpy(
        np.random.RandomState(1).normal(size=(len(X), 3 if kind == "many" else 2))
    )
    (found,) = torch.autograd.grad((module(x) * weights).sum(), x)
    expected = np.empty_like(X)
    with torch.no_grad():
        for cell in np.ndindex(X.shape):
            ends = []
            for h in (1e-6, -1e-6):
                Z = torch.tensor(X)
                Z[cell] += h
                ends.append(float((function(Z) * weights).sum()))
            expected[cell] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(
        found.numpy(), expected, rtol=1e-5, atol=1e-6 * max(1, np.abs(expected).max())
    )


def _pairs_of_winner(module, X):
    winner = module(torch.from_numpy(X)).argmax(dim=1).tolist()

    def function(x):
        leads = {}
        for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
            leads[j, i] = -module.pairs(x)[:, k]
            leads[i, j] = module.pairs(x)[:, k]
        values = torch.zeros(len(x), 3, dtype=x.dtype)
        for row, own in enumerate(winner):
            for rival in {0, 1, 2} - {own}:
                values[row, rival] = leads[rival, own][row]
        return values

    return function


def test_pairs_are_the_decision_values_of_ovo():
    X, y = _data("many")
    for clf in (SVC(decision_function_shape="ovo"), NuSVC(kernel="linear", nu=0.1)):
        clf.set_params(decision_function_shape="ovo").fit(X, y)
        pairs = as_module(clf).pairs(torch.from_numpy(X)).numpy()
        np.testing.assert_allclose(pairs, clf.decision_function(X), atol=1e-9)


def test_ties_of_votes_go_where_the_estimator_takes_them():
    X, y = load_iris(return_X_y=True)
    rng = np.random.RandomState(0)
    y = rng.permutation(y)  # nothing to learn: votes go in circles
    Z = rng.normal(size=(500, 4)) + X.mean(axis=0)
    first = SVC(gamma=2.0).fit(X, y)
    best = clone(first).set_params(break_ties=True).fit(X, y)
    assert (first.predict(Z) != best.predict(Z)).any()
    for clf in (first, best):
        np.testing.assert_array_equal(
            _scores(as_module(clf), Z).argmax(1), clf.predict(Z)
        )


def test_a_pair_at_zero_votes_as_the_estimator_lets_it():
    X, y = load_iris(return_X_y=True)
    origin = np.zeros((1, 4))  # where this kernel vanishes
    for break_ties, winner in ((False, 2), (True, 0)):
        clf = SVC(kernel="poly", break_ties=break_ties).fit(X, y)
        clf._intercept_ = clf.intercept_ = np.zeros(3)
        assert clf.predict(origin) == winner
        assert _scores(as_module(clf), origin).argmax(1) == winner


def test_classes_of_many_support_vectors_and_sparse_input():
    from scipy.sparse import csr_matrix
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = X[:400] / 16
    for kernel in ("rbf", "linear"):
        clf = SVC(kernel=kernel).fit(csr_matrix(X), y[:400])
        np.testing.assert_array_equal(
            _scores(as_module(clf), X).argmax(1), clf.predict(X)
        )


@pytest.mark.parametrize("name", ["logistic", "linear_svc", "ridge", "lda", "sgd"])
@pytest.mark.parametrize("kind", ["two", "many"])
def test_parameters_of_linear_models(name, kind):
    X, y = _data(kind)
    clf = _fit(LINEAR[name], X, y)
    weight, bias = as_module(clf).parameters()
    np.testing.assert_array_equal(weight.detach(), np.atleast_2d(clf.coef_))
    np.testing.assert_array_equal(bias.detach(), clf.intercept_)
    with torch.no_grad():
        weight += 1
    assert np.array_equal(clf.coef_, _fit(LINEAR[name], X, y).coef_)


def test_no_intercept_no_bias():
    X, y = _data("two")
    for name in ("logistic_no_bias", "linear_svc_no_bias"):
        (weight,) = as_module(_fit(LINEAR[name], X, y)).parameters()
        assert weight.shape == (1, X.shape[1])


def _mean_loss_gradients(module, X, codes):
    loss = F.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(codes))
    return [g.numpy() for g in torch.autograd.grad(loss, list(module.parameters()))]


@pytest.mark.parametrize("kind", ["two", "many"])
def test_gradients_of_a_network_are_those_of_backprop(kind):
    X, y = _data(kind)
    clf = MLPClassifier((5, 4), alpha=0.0, max_iter=5, random_state=0)
    clf = _fit(clf, X, y)
    codes = np.searchsorted(clf.classes_, y)
    found = _mean_loss_gradients(as_module(clf), X, codes)
    activations = [X] + [None] * len(clf.coefs_)
    activations = clf._forward_pass(activations)
    deltas = [np.empty_like(a) for a in activations[1:]]
    coefs = [np.empty_like(c) for c in clf.coefs_]
    intercepts = [np.empty_like(c) for c in clf.intercepts_]
    onehot = clf._label_binarizer.transform(y).astype(float)
    args = (X, onehot, activations, deltas, coefs, intercepts)
    try:
        clf._backprop(*args)
    except TypeError:  # newer scikit-learn weighs samples
        clf._backprop(X, onehot, None, *args[2:])
    for k in range(len(coefs)):
        np.testing.assert_allclose(found[2 * k], coefs[k].T, atol=1e-12)
        np.testing.assert_allclose(found[2 * k + 1], intercepts[k], atol=1e-12)


@pytest.mark.parametrize("kind", ["two", "many"])
@pytest.mark.parametrize(
    "clf",
    [
        LogisticRegression(C=1e9, tol=1e-10, max_iter=5000),
        LogisticRegression(C=0.5, tol=1e-10, max_iter=5000),
    ],
    ids=["free", "penalised"],
)
def test_gradients_of_logistic_regression_vanish_with_its_penalty(clf, kind):
    X, y = _data(kind)
    y = y.copy()
    y[::3] = np.roll(y, 40)[::3]  # not separable, so that there is a minimum
    clf = clone(clf).fit(X, y)
    codes = np.searchsorted(clf.classes_, y)
    by_weight, by_bias = _mean_loss_gradients(as_module(clf), X, codes)
    penalty = clf.coef_ / (clf.C * len(X))
    np.testing.assert_allclose(by_weight, -penalty, atol=1e-5)
    np.testing.assert_allclose(by_bias, 0, atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "mlp_tanh"])
@pytest.mark.parametrize("kind", ["two", "many"])
def test_modules_work_with_functional_call_and_vmap(name, kind):
    X, y = _data(kind)
    clf = _fit(ALL[name], X, y)
    module = as_module(clf)
    parameters = {k: v.detach() for k, v in module.named_parameters()}
    x = torch.from_numpy(X[:6])
    codes = torch.from_numpy(np.searchsorted(clf.classes_, y)[:6])

    def loss(parameters, x, code):
        scores = functional_call(module, parameters, (x[None],))
        return F.cross_entropy(scores, code[None])

    each = vmap(grad(loss), (None, 0, 0))(parameters, x, codes)
    mean = _mean_loss_gradients(module, X[:6], codes.numpy())
    for found, expected in zip(each.values(), mean, strict=True):
        np.testing.assert_allclose(found.mean(0), expected, atol=1e-12)


# Networks


class _Probabilities(nn.Module):
    def __init__(self, n_in=4, n_out=3):
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)

    def forward(self, x):
        return torch.softmax(self.layer(x), dim=1)


class _Column(nn.Module):
    def __init__(self, squash=False, flat=True):
        super().__init__()
        self.layer, self.squash, self.flat = nn.Linear(4, 1), squash, flat

    def forward(self, x):
        out = self.layer(x)
        out = out.sigmoid() if self.squash else out
        return out[:, 0] if self.flat else out


def _iris(n_classes=3):
    X, y = load_iris(return_X_y=True)
    kept = y < n_classes
    return scale(X[kept]).astype(np.float32), y[kept]


def test_a_module_is_itself():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    assert as_module(module) is module and module.training


def test_our_networks_give_their_own():
    X, y = _iris()
    clf = TorchClassifier(max_epochs=2, device="cpu", random_state=0).fit(X, y)
    module = as_module(clf)
    assert module is clf.module_ and not module.training
    scores = _scores(module, X)
    np.testing.assert_allclose(
        softmax(scores.astype(float), axis=1), clf.predict_proba(X), atol=1e-6
    )


def test_nets_of_skorch():
    X, y = _iris()
    net = NeuralNetClassifier(_Probabilities, max_epochs=3, lr=0.5, verbose=0)
    net.fit(X, y)  # its default loss takes probabilities
    scores = _scores(as_module(net), X)
    np.testing.assert_allclose(softmax(scores, axis=1), net.predict_proba(X), atol=1e-6)
    net = NeuralNetClassifier(
        LinearModel,
        module__input_shape=(4,),
        module__n_outputs=3,
        criterion=nn.CrossEntropyLoss,
        max_epochs=3,
        verbose=0,
    ).fit(X, y)
    assert as_module(net) is net.module_
    np.testing.assert_array_equal(_scores(as_module(net), X).argmax(1), net.predict(X))


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_binary_nets_of_skorch(squash, flat, threshold):
    X, y = _iris(2)
    y = y.astype(np.float32)
    net = NeuralNetBinaryClassifier(
        _Column,
        module__squash=squash,
        module__flat=flat,
        criterion=nn.BCELoss if squash else nn.BCEWithLogitsLoss,
        threshold=threshold,
        max_epochs=1,
        verbose=0,
    )
    net.fit(X, y)
    Z = np.random.RandomState(0).normal(size=(300, 4)).astype(np.float32)
    scores = _scores(as_module(net), Z)
    np.testing.assert_array_equal(scores.argmax(1), net.predict(Z).ravel())
    if threshold == 0.5:
        np.testing.assert_allclose(
            softmax(scores, axis=1)[:, 1], net.predict_proba(Z)[:, 1], atol=1e-6
        )


# What holds a classifier, and what is none


def test_searches_and_frozen_estimators_show_what_they_hold():
    X, y = _data("many")
    inner = LogisticRegression().fit(X, y)
    for clf in (
        FrozenEstimator(inner),
        GridSearchCV(inner, {"C": [1.0]}).fit(X, y),
        FrozenEstimator(
            RandomizedSearchCV(inner, {"C": [1.0]}, n_iter=1, random_state=0).fit(X, y)
        ),
    ):
        np.testing.assert_allclose(
            _scores(as_module(clf), X), inner.decision_function(X), atol=1e-9
        )


@pytest.mark.parametrize(
    "clf, message",
    [
        (RandomForestClassifier(3), "RandomForestClassifier has no gradient; pass"),
        (KNeighborsClassifier(), "KNeighborsClassifier has no gradient; pass surr"),
        (SVC(kernel=lambda a, b: a @ b.T), r"SVC with kernel=<function .* no grad"),
        (RFE(LogisticRegression()), "RFE has no gradient"),
        (make_pipeline(StandardScaler(), SVC()), "Pipeline has no gradient"),
        (LinearRegression(), "LinearRegression is no classifier"),
        (StandardScaler(), "StandardScaler is no classifier"),
        (
            GridSearchCV(LogisticRegression(), {"C": [1.0]}, refit=False),
            "GridSearchCV with refit=False keeps no fitted estimator",
        ),
    ],
    ids=["forest", "neighbors", "kernel", "rfe", "pipe", "reg", "scaler", "search"],
)
def test_what_is_refused(clf, message):
    X, y = _data("many")
    y = np.searchsorted(["a", "b", "c"], y)
    with pytest.raises(TypeError, match=message):
        as_module(clf.fit(X, y))


def test_what_is_refused_before_anything_is_fitted():
    for clf in (LogisticRegression(), SVC(), TorchClassifier(), MLPClassifier()):
        with pytest.raises(NotFittedError):
            as_module(clf)
    with pytest.raises(NotFittedError):
        as_module(NeuralNetClassifier(_Probabilities))
    with pytest.raises(TypeError, match="expected a classifier or a torch module"):
        as_module("logistic")


def test_several_labels_a_row_are_refused():
    X, _ = _data("many")
    Y = (X[:, :3] > 0).astype(int)
    for clf in (RidgeClassifier(), MLPClassifier((3,), max_iter=2)):
        with pytest.raises(TypeError, match="several labels a row"):
            as_module(_fit(clf, X, Y))
    with pytest.raises(TypeError, match="several labels a row"):
        as_module(RandomForestClassifier(2).fit(X, Y))
