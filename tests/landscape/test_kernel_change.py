"""Figures of change against their definitions, features against the layer's input."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from skpoison.landscape import feature_distances, ntk_change
from skpoison.models import MLP, ConvNet, TorchClassifier, extract_features


def kernels(shape=(6, 6), seed=0):
    rng = np.random.RandomState(seed)
    return rng.randn(*shape), rng.randn(*shape)


@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (3, 5, 5)])
def test_each_figure_is_its_definition(shape):
    K0, K1 = kernels(shape)
    change = ntk_change(K0, K1)
    a, b = K0.ravel().tolist(), K1.ravel().tolist()
    norm0, norm1 = (math.sqrt(math.fsum(v * v for v in k)) for k in (a, b))
    moved = math.sqrt(math.fsum((q - p) ** 2 for p, q in zip(a, b, strict=True)))
    assert change.norm0 == pytest.approx(norm0, rel=1e-12)
    assert change.norm1 == pytest.approx(norm1, rel=1e-12)
    assert change.relative_change == pytest.approx(moved / norm0, rel=1e-12)
    inner = math.fsum(p * q for p, q in zip(a, b, strict=True))
    assert change.similarity == pytest.approx(inner / norm0 / norm1, rel=1e-12)
    assert change.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-12)
    parts = [((q - p) / (abs(p) + 1e-4)) ** 2 for p, q in zip(a, b, strict=True)]
    assert change.elementwise_change == pytest.approx(math.sqrt(math.fsum(parts)))
    assert all(type(value) is float for value in change.values())


def test_scale_moves_norms_but_neither_correlation_nor_similarity():
    K = kernels()[0]
    change = ntk_change(K, 3 * K)
    assert change.relative_change == pytest.approx(2)
    assert change.correlation == change.similarity == pytest.approx(1, abs=1e-15)
    assert change.correlation <= 1 and change.similarity <= 1
    shifted = ntk_change(K, K + 5)
    assert shifted.correlation == pytest.approx(1) and shifted.similarity < 0.9


def test_float32_kernels_are_measured_in_double_precision():
    K0, K1 = (K.astype(np.float32) for K in kernels())
    wide = ntk_change(K0.astype(float), K1.astype(float))
    assert ntk_change(K0, K1) == wide


def test_nothing_over_nothing_is_nan():
    zero, ones, K = np.zeros((3, 3)), np.full((3, 3), 0.1), kernels((3, 3))[0]
    none = ntk_change(zero, zero)
    assert math.isnan(none.relative_change) and math.isnan(none.similarity)
    assert none.norm0 == none.elementwise_change == 0
    assert ntk_change(zero, K).relative_change == math.inf
    flat = ntk_change(ones, K)
    assert math.isnan(flat.correlation) and math.isfinite(flat.similarity)


@pytest.mark.parametrize(
    "K0, K1, error, message",
    [
        (np.eye(2), np.eye(3), ValueError, r"same shape, got \(2, 2\) and \(3, 3\)"),
        (np.ones(4), np.ones(4), ValueError, r"K0 must have two axes.*\(4,\)"),
        (np.ones((0, 0)), np.ones((0, 0)), ValueError, r"K0 must have two axes"),
        (np.eye(2), np.eye(2) * np.nan, ValueError, "K1 holds NaN"),
        (np.eye(2) * 1j, np.eye(2), TypeError, "K0 must hold real numbers"),
        (np.eye(2), [[1, 2], [3]], ValueError, "K1 is no array"),
    ],
    ids=["shapes", "vector", "empty", "nan", "complex", "ragged"],
)
def test_kernels_that_cannot_be_compared(K0, K1, error, message):
    with pytest.raises(error, match=message):
        ntk_change(K0, K1)


def by_hand(F):
    F = F.astype(float)
    inner = np.array([[a @ b for b in F] for a in F])
    distance = np.array([[np.linalg.norm(a - b) for b in F] for a in F])
    norms = np.linalg.norm(F, axis=1)
    return distance, inner / np.outer(norms, norms), inner


def test_features_are_what_enters_the_last_linear_layer():
    X, y = load_digits(return_X_y=True)
    net = TorchClassifier(max_epochs=1, device="cpu", random_state=0).fit(X, y)
    for layer in (None, "layers.2"):
        found = feature_distances(net, X[:7], layer=layer)
        distance, cosine, inner = by_hand(extract_features(net, X[:7], layer))
        assert np.allclose(found.distance, distance, rtol=1e-5, atol=1e-5)
        assert np.allclose(found.cosine, cosine, rtol=1e-5)
        assert np.allclose(found.inner, inner, rtol=1e-5)


def test_bare_networks_are_left_as_they_are():
    torch.manual_seed(0)
    net = MLP((5,), 3, hidden=(8,), dropout=0.5).double()
    X = torch.rand(4, 5, dtype=torch.float64)
    before = torch.random.get_rng_state()
    found = feature_distances(net, X)
    assert torch.equal(before, torch.random.get_rng_state())
    hidden = torch.relu(net.layers[0](X)).detach().numpy()  # no dropout
    for value, wanted in zip(found.values(), by_hand(hidden), strict=True):
        assert np.allclose(value, wanted, rtol=1e-12, atol=1e-12)
    assert net.training and not any(m._forward_hooks for m in net.modules())


def test_rows_that_are_nearly_equal_keep_their_distance():
    X = np.full((2, 3), 1e4)
    X[1, 0] += 1e-3
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double()
    assert feature_distances(net, X).distance[0, 1] == pytest.approx(1e-3)


def test_a_layer_before_one_that_works_in_place():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    X = torch.randn(5, 4)
    found = feature_distances(net, X, layer="0").inner
    F = net[0](X).detach().numpy()
    assert np.allclose(found, F @ F.T, rtol=1e-5, atol=1e-6)


def test_images_of_pixels():
    net = ConvNet((1, 8, 8), 3)
    X = np.random.RandomState(0).randint(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    same = feature_distances(net, X / 255.0)
    assert np.array_equal(feature_distances(net, X).inner, same.inner)


@pytest.mark.parametrize(
    "module, layer, message",
    [
        (nn.Sequential(nn.Flatten(), nn.ReLU()), None, "no linear layer"),
        (MLP((4,), 2), "layers.9", "'layers.9' is no module.*'layers.0'"),
        (nn.Sequential(*[nn.Linear(4, 4)] * 2), None, "called once, was called 2"),
        (nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 2)), "1", "one entry a row.*tuple"),
    ],
    ids=["no-linear", "unknown", "twice", "tuple"],
)
def test_layers_without_features(module, layer, message):
    with pytest.raises(ValueError, match=message):
        feature_distances(module, np.ones((3, 4), np.float32), layer=layer)
