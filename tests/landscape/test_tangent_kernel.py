"""The tangent kernel as a transformer in front of kernel methods."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from skpoison.landscape import TangentKernel, empirical_ntk
from skpoison.models import ConvNet, LinearModel, TorchClassifier


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def test_equals_the_function(digits):
    X, _ = digits
    step = TangentKernel(n_outputs=3, random_state=0, device="cpu")
    K = step.fit_transform(X[:30])
    np.testing.assert_array_equal(K, K.T)
    np.testing.assert_allclose(step.transform(X[:30]), K, rtol=1e-10)
    np.testing.assert_array_equal(
        step.transform(X[30:50]),
        empirical_ntk(
            step.module_, X[30:50], X[:30], reduction="trace", dtype="float64"
        ),
    )
    np.testing.assert_array_equal(step.X_fit_, X[:30])
    assert step.n_features_in_ == 64
    assert len(step.get_feature_names_out()) == 30
    assert step.transform(X[:4].astype(np.float32)).dtype == np.float64
    assert step.fit_transform(X[:4].astype(np.float32)).dtype == np.float32


def test_linear_network_is_ridge_regression(digits):
    X, y = digits
    pipe = make_pipeline(
        TangentKernel(LinearModel, device="cpu"),
        KernelRidge(alpha=2.0, kernel="precomputed"),
    )
    centred, targets = X - X.mean(0), y - y.mean()
    # the bias adds 1 to each product, as a column of ones does
    plain = Ridge(alpha=2.0, fit_intercept=False)
    ones = np.column_stack([centred, np.ones(len(X))])
    np.testing.assert_allclose(
        pipe.fit(centred[:200], targets[:200]).predict(centred[200:300]),
        plain.fit(ones[:200], targets[:200]).predict(ones[200:300]),
        atol=1e-9,
    )


def test_cross_validation_on_rows():
    X, y = (part[:300] for part in load_breast_cancer(return_X_y=True))
    kernel = TangentKernel(random_state=0, device="cpu")
    svm = make_pipeline(StandardScaler(), kernel, SVC(kernel="precomputed"))
    assert cross_val_score(svm, X, y, cv=3).mean() > 0.95
    search = GridSearchCV(
        make_pipeline(StandardScaler(), kernel, KernelRidge(kernel="precomputed")),
        {"tangentkernel__n_outputs": [1, 2], "kernelridge__alpha": [0.1, 1.0]},
        cv=2,
    ).fit(X, y)
    assert search.best_score_ > 0.7
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


def test_modules(digits):
    X, y = digits
    images, pixels = X.reshape(-1, 1, 8, 8)[:12], (X[:12] * 255).astype(np.uint8)
    for module in (ConvNet, lambda input_shape, n_outputs: ConvNet(input_shape, 2)):
        step = TangentKernel(module, n_outputs=2, random_state=3, device="cpu")
        first, state = step.fit_transform(images), torch.get_rng_state()
        np.testing.assert_array_equal(first, clone(step).fit_transform(images))
        assert torch.equal(state, torch.get_rng_state())
        step.set_params(random_state=4)
        assert not np.array_equal(first, step.fit_transform(images))
    own = nn.Sequential(nn.Linear(64, 4))
    step = TangentKernel(own, reduction="mean_logit", device="cpu").fit(X[:12])
    wanted = (X[12:14] @ X[:12].T + 1) / 4
    np.testing.assert_allclose(step.transform(X[12:14]), wanted, rtol=1e-12)
    assert step.module_ is not own
    step.fit(pixels)
    wanted = (pixels / 255.0 @ (pixels / 255.0).T + 1) / 4
    np.testing.assert_allclose(step.transform(pixels), wanted, rtol=1e-12)


def test_kernel_after_training(digits):
    X, y = digits
    net = TorchClassifier(max_epochs=3, device="cpu", random_state=0).fit(X, y)
    scores = [
        cross_val_score(
            make_pipeline(
                TangentKernel(module, device="cpu"), SVC(kernel="precomputed")
            ),
            X[:300], y[:300], cv=2, error_score="raise",
        ).mean()
        for module in (FrozenEstimator(net), net.module_)
    ]  # fmt: skip
    assert scores[0] == scores[1] > 0.9
    K = TangentKernel(net, device="cpu").fit_transform(X[:5])
    wanted = empirical_ntk(net.module_, X[:5], reduction="trace", dtype="float64")
    np.testing.assert_allclose(K, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    "params, kind, message",
    [
        ({"module": "mlp"}, ValueError, "module must be one of 'auto', got 'mlp'"),
        ({"module": 3}, TypeError, "expected a classifier or a torch module, got 3"),
        ({"module": TorchClassifier()}, ValueError, "is not fitted yet"),
        ({"module": lambda: 3}, TypeError, "must make a torch.nn.Module, got int"),
        ({"n_outputs": 0}, ValueError, "n_outputs must be >= 1, got 0"),
        ({"reduction": None}, ValueError, "reduction must be one of 'trace'"),
        ({"method": "fast"}, ValueError, "method must be one of 'auto'"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an int, got 1.5"),
        ({"device": "tpu!"}, ValueError, "device must be 'auto'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_errors(params, kind, message):
    with pytest.raises(kind, match=message):
        TangentKernel(**params).fit(np.ones((4, 6)))


def test_shape_of_images():
    step = TangentKernel(device="cpu").fit(np.ones((3, 1, 4, 4)))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4\) as in fit, got \(1, 4, 5"):
        step.transform(np.ones((3, 1, 4, 5)))
