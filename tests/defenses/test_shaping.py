"""Gradient shaping: the gradient of a batch is clipped, then noise is added."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from torch import nn

from skpoison.defenses import GradientShapingClassifier
from skpoison.defenses._shaping import draw_noise
from skpoison.models import ConvNet, TorchClassifier

FAST = {"max_epochs": 3, "device": "cpu", "random_state": 0}
SGD = {**FAST, "optimizer": torch.optim.SGD, "batch_size": 150}


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(150, 4, centers=3, random_state=0)
    return (X / 10).astype(np.float32), y


def weights(classifier):
    return torch.cat([p.detach().ravel() for p in classifier.module_.parameters()])


@pytest.mark.parametrize(
    "distribution, law", [("gaussian", stats.norm), ("laplace", stats.laplace)]
)
def test_noise_has_the_law_it_is_named_after(distribution, law):
    shapes = [torch.empty(40, 50), torch.empty(()), torch.empty(7999)]
    noise = draw_noise(shapes, torch.Generator().manual_seed(0), distribution)
    assert [n.shape for n in noise] == [s.shape for s in shapes]
    draws = torch.cat([n.ravel() for n in noise]).numpy()
    assert stats.kstest(draws, law.cdf).pvalue > 1e-3


def test_the_step_is_the_formula(blobs):
    params = {**SGD, "max_epochs": 1, "lr": 0.5}
    start = weights(TorchClassifier(**{**params, "max_epochs": 0}).fit(*blobs))
    plain = (start - weights(TorchClassifier(**params).fit(*blobs))) / 0.5
    clipping = GradientShapingClassifier(max_grad_norm=0.01, noise=0, **params)
    clipped = (start - weights(clipping.fit(*blobs))) / 0.5
    assert plain.norm() > 0.05
    torch.testing.assert_close(
        clipped, plain * 0.01 / plain.norm(), rtol=1e-3, atol=1e-7
    )
    noisy = clone(clipping).set_params(noise=3.0).fit(*blobs)
    added = (start - weights(noisy)) / 0.5 - clipped
    assert stats.kstest(added.numpy() / 0.03, "norm").pvalue > 1e-3


def test_a_large_limit_without_noise_changes_nothing(blobs):
    shaped = GradientShapingClassifier(max_grad_norm=1e9, noise=0, **FAST).fit(*blobs)
    torch.testing.assert_close(
        weights(shaped), weights(TorchClassifier(**FAST).fit(*blobs))
    )
    assert shaped.epsilon_ == math.inf


def test_batch_normalisation_frozen_parts_and_images(blobs):
    class Net(nn.Module):
        def __init__(self, input_shape, n_outputs):
            super().__init__()
            self.features = ConvNet(input_shape, 8)
            self.features.requires_grad_(False)
            self.norm, self.output = nn.BatchNorm1d(8), nn.Linear(8, n_outputs)

        def forward(self, X):
            return self.output(self.norm(self.features(X)))

    X = np.random.default_rng(0).random((60, 1, 6, 6))
    clf = GradientShapingClassifier(Net, **FAST).fit(X, np.arange(60) % 2)
    start = clone(clf).set_params(max_epochs=0).fit(X, np.arange(60) % 2)
    for (name, trained), first in zip(
        clf.module_.named_parameters(), start.module_.parameters(), strict=True
    ):
        assert torch.equal(trained, first) is name.startswith("features")


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_same_seed_same_bits_and_pickling(blobs, distribution):
    clf = GradientShapingClassifier(distribution=distribution, **FAST).fit(*blobs)
    first = clf.predict_proba(blobs[0])
    np.testing.assert_array_equal(clf.fit(*blobs).predict_proba(blobs[0]), first)
    copied = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copied.predict_proba(blobs[0]), first)
    other = clone(clf).set_params(random_state=1).fit(*blobs)
    assert (other.predict_proba(blobs[0]) != first).all()


def test_search(blobs):
    search = GridSearchCV(
        GradientShapingClassifier(**FAST),
        {"noise": [0.0, 0.01], "module__hidden": [(8,), (16,)]},
        cv=2,
        error_score="raise",
    ).fit(*blobs)
    assert search.best_estimator_.noise in (0.0, 0.01)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm must be > 0"),
        ({"noise": -0.1}, "noise must be >= 0"),
        ({"distribution": "cauchy"}, "distribution must be one of"),
    ],
)
def test_bad_parameters(blobs, params, message):
    with pytest.raises(ValueError, match=message):
        GradientShapingClassifier(**FAST, **params).fit(*blobs)


@pytest.mark.gpu
def test_cuda(blobs):
    clf = GradientShapingClassifier(**{**FAST, "device": "cuda"}).fit(*blobs)
    assert clf.score(*blobs) > 0.5
