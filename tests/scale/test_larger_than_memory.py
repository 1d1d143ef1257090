"""Memory maps in, bounded memory out: peaks, and the same results as in memory."""

import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

from skpoison.attacks import ReleasePoisonAttack
from skpoison.defenses import (
    ActivationClustering,
    DeepKNN,
    LabelIssueDetector,
    SpectralSignatures,
)
from skpoison.models import LinearModel, TorchClassifier, extract_features
from skpoison.utils import row_keys

MB = 2**20
BLOCK = 2**16  # values at a time, 0.5 MB in float64


@contextmanager
def peak_below(limit):
    """Check that arrays and objects made inside take less than so many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def peak_of(run):
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def on_disk(path, array, mode="r"):
    array.tofile(path)
    return np.memmap(path, array.dtype, mode, shape=array.shape)


@pytest.fixture
def noise():
    return np.random.default_rng(0)


def test_row_keys_of_rows_that_are_large(tmp_path, noise):
    X = noise.random((60, 3, 224, 224), dtype=np.float32)
    stored = on_disk(tmp_path / "X", X)
    with peak_below(20 * MB):
        keys = row_keys(stored)
    assert (keys[[0, 30, 59]] == row_keys(X[[0, 30, 59]].astype(float))).all()


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in [
        ("_feature_blocks.BLOCK_VALUES", BLOCK),
        ("_feature_detectors._WHOLE_VALUES", BLOCK),
        ("_deep_knn._RESIDENT_VALUES", BLOCK),
        ("_deep_knn._LARGE_CHUNK_VALUES", BLOCK),
    ]:
        monkeypatch.setattr(f"skpoison.defenses.{name}", value)


# ActivationClustering finds directions in single precision
@pytest.mark.parametrize(
    "detector, tolerance", [(SpectralSignatures, 1e-9), (ActivationClustering, 1e-3)]
)
@pytest.mark.parametrize(
    "shape, kind", [((8000, 150), np.float32), ((300, 4000), np.uint8)]
)
def test_features_on_disk(detector, tolerance, shape, kind, tmp_path, noise, request):
    F = noise.normal(100, 5, size=shape).astype(kind)
    F[: shape[0] // 20] += noise.integers(0, 60, shape[1]).astype(kind)
    X, y = np.zeros((len(F), 1)), np.zeros(len(F), int)
    y[-100:] = 1
    expected = detector(features=F, random_state=0).fit(X, y)
    assert expected.n_removed_ >= shape[0] // 20

    request.getfixturevalue("small_blocks")
    stored = on_disk(tmp_path / "F", F)
    gram = 8 * min(shape) ** 2
    with peak_below(4 * 8 * BLOCK + 4 * gram + 150 * len(F)):
        found = detector(features=stored, random_state=0).fit(X, y)
    np.testing.assert_allclose(found.scores_, expected.scores_, rtol=tolerance)
    np.testing.assert_array_equal(found.is_clean_, expected.is_clean_)


def test_rows_that_are_all_alike_on_disk(tmp_path, small_blocks):
    F = on_disk(tmp_path / "F", np.full((3000, 30), 0.1, np.float32))
    with pytest.warns(UserWarning, match="all alike"):
        found = SpectralSignatures(features=F).fit(np.zeros((3000, 1)), [0] * 3000)
    assert found.n_removed_ == 0 and not found.scores_.any()


@pytest.mark.parametrize("normalize", [True, False])
def test_neighbours_on_disk(normalize, tmp_path, noise, request):
    y = noise.integers(0, 4, 900)
    F = (noise.normal(size=(900, 1500)) + 3 * np.eye(4, 1500)[y]).astype(np.float32)
    X = np.zeros((len(y), 1))
    expected = DeepKNN(features=F, normalize=normalize).fit(X, y)

    request.getfixturevalue("small_blocks")
    stored = on_disk(tmp_path / "F", F)
    with peak_below(8 * 8 * BLOCK):
        found = DeepKNN(features=stored, normalize=normalize).fit(X, y)
    np.testing.assert_allclose(found.scores_, expected.scores_, atol=1e-9)


def test_probabilities_for_rows_on_disk(tmp_path, noise):
    X = on_disk(tmp_path / "X", noise.random((2000, 3000), dtype=np.float32))
    y = noise.integers(0, 3, 2000)
    given = 0.9 * np.eye(3)[y] + 0.1 / 3
    given[:20] = np.roll(given[:20], 1, axis=1)
    with peak_below(X.nbytes // 8):
        found = LabelIssueDetector().fit(X, y, pred_proba=given)
    assert not found.is_clean_[:20].any() and found.is_clean_[20:].mean() > 0.95


@pytest.fixture(scope="module")
def pixels():
    noise = np.random.default_rng(1)
    y = noise.integers(0, 2, 6001)
    X = noise.integers(0, 200, (6001, 3, 16, 16), dtype=np.uint8)
    X[y == 1] += 50
    return X, y


@pytest.fixture(scope="module")
def network(pixels):
    net = TorchClassifier(LinearModel, max_epochs=1, device="cpu", random_state=0)
    return net.fit(pixels[0][:500], pixels[1][:500])


# several batches at a time and then one row, which joins them; less than a batch
@pytest.mark.parametrize("n_rows, part", [(6001, 768 * 1000), (500, 768)])
def test_features_of_pixels_on_disk(
    n_rows, part, network, pixels, tmp_path, monkeypatch
):
    X = pixels[0][:n_rows]
    expected = extract_features(network, X)
    monkeypatch.setattr("skpoison.models._features._PART_VALUES", part)
    stored = on_disk(tmp_path / "X", X)
    # the parts are put together at the end
    with peak_below(2 * expected.nbytes + 4 * 4 * part + MB):
        found = extract_features(network, stored)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "error_max"])
def test_protection_from_disk_to_disk(method, network, pixels, tmp_path, monkeypatch):
    X, y = pixels[0][:1200], pixels[1][:1200]
    attack = ReleasePoisonAttack(
        method,
        budget=1,  # learn from all rows, craft one
        max_iter=1,
        eps=8,
        bounds=(0, 255),
        surrogate=FrozenEstimator(network),
        batch_size=100,
        augment=None,
        device="cpu",
        random_state=0,
    ).fit(X, y)
    expected = attack.protect(X, y)
    assert (expected != X).any(axis=(1, 2, 3)).all()

    monkeypatch.setattr("skpoison.attacks._release_attack._BLOCK_BYTES", 768 * 4 * 150)
    stored = on_disk(tmp_path / "X", X)
    out = np.memmap(tmp_path / "out", np.uint8, "w+", shape=X.shape)
    some = peak_of(lambda: attack.protect(stored[:400], y[:400], out=out[:400]))
    with peak_below(1.1 * some):  # of three times as many rows
        assert attack.protect(stored, y, out=out) is out
    np.testing.assert_array_equal(out, expected)
    if method == "random":
        same = X.copy()
        np.testing.assert_array_equal(attack.protect(same, y, out=same), expected)


def test_out_that_does_not_fit(tmp_path):
    X, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
    attack = ReleasePoisonAttack("random", eps=0.1, random_state=0).fit(X, y)
    for bad, error in [
        (np.empty((3, 4)), r"\(3, 4\)"),
        (np.empty((20, 4), np.float32), "float32"),
        (on_disk(tmp_path / "X", X), "read-only"),
    ]:
        with pytest.raises(ValueError, match=f"out must be a writeable .*{error}"):
            attack.protect(X, y, out=bad)
    with pytest.raises(TypeError, match="out must be an array or None, got list"):
        attack.protect(X, y, out=[])
