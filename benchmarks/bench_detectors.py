"""Detectors of poisoned rows on given features, against ART and the same by hand."""

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.neighbors import NearestNeighbors

from skpoison.defenses import ActivationClustering, DeepKNN, SpectralSignatures

_N_CLASSES = 10
_CLASSES = range(_N_CLASSES)


def make_features(n_rows, n_values, seed=0):
    """Return float32 features of ten classes as a network leaves them, and labels.

    Non-negative, with a falling spectrum; a fifth of class 0 is a lump of its own.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, _N_CLASSES, n_rows)
    n_factors = n_values // 2
    mixing = rng.normal(size=(n_factors, n_values))
    factors = rng.normal(size=(n_rows, n_factors)) + 2 * rng.normal(
        size=(_N_CLASSES, n_factors)
    )[y]  # fmt: skip
    factors[(y == 0) & (rng.random(n_rows) < 0.2), :3] += 4
    factors /= np.sqrt(np.arange(1, n_factors + 1))
    return np.maximum(factors @ mixing, 0).astype(np.float32), y


def measure(bench):
    """Time the three detectors; validation, labels and decisions included."""
    warnings.filterwarnings("ignore", module="sklearn.decomposition")
    for n_rows in (bench.size(10_000, 1_000), bench.size(50_000, 2_000)):
        for n_values in (64, 512):
            F, y = make_features(n_rows, n_values)
            size = f"{n_rows:,} x {n_values}"
            bench.title(f"Detectors on features, {size} float32, 10 classes")
            _spectral(bench, F, y, size)
            _clustering(bench, F, y, size, "pca", "PCA")
            if n_rows * n_values < 1e6:  # the others take minutes in either
                _clustering(bench, F, y, size, "ica", "FastICA")
                _neighbours(bench, F, y, size)


def _fit(detector, F, y):
    X = np.zeros((len(y), 1))  # only its length is looked at
    return detector.set_params(features=F).fit(X, y)


def _spectral(bench, F, y, size):
    def by_hand():
        scores = np.empty(len(y))
        for k in _CLASSES:
            M = F[y == k] - F[y == k].mean(axis=0)
            scores[y == k] = (M @ np.linalg.svd(M, full_matrices=False)[2][0]) ** 2
        return scores

    detector = SpectralSignatures()
    np.testing.assert_allclose(
        _fit(detector, F, y).scores_, by_hand(), rtol=1e-3, atol=0.01
    )
    peers, bars = {"NumPy's SVD": by_hand}, {"NumPy's SVD": 1.0}
    art = bench.optional("art.defences.detector.poison.spectral_signature_defense")
    if art is not None:
        scores = art.SpectralSignatureDefense.spectral_signature_scores
        peers["ART, scores alone"] = lambda: [scores(F[y == k]) for k in _CLASSES]
        bars["ART, scores alone"] = 1.0
    bench.compare(
        f"SpectralSignatures, {size}",
        lambda: _fit(detector, F, y),
        peers,
        repeats=5 if len(y) * F.shape[1] < 1e7 else 1,
        bars=bars,
    )


def _clustering(bench, F, y, size, reduce, name):
    def by_hand():
        found = []
        for k in _CLASSES:
            if reduce == "pca":
                Z = PCA(10).fit_transform(F[y == k])
            else:
                ica = FastICA(10, max_iter=1000, tol=0.005, whiten="unit-variance")
                Z = ica.fit_transform(F[y == k])
            found.append(KMeans(2).fit_predict(Z))
        return found

    detector = ActivationClustering(reduce=reduce, random_state=0)
    if reduce == "pca":
        ours = np.bincount(_fit(detector, F, y).cluster_labels_[y == 0])
        theirs = np.bincount(by_hand()[0])
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=0.2 * sum(ours))
    # clusters alone, from one start each where ours has four
    peers = {"scikit-learn by hand": by_hand}
    art = bench.optional("art.defences.detector.poison.activation_defence")
    if art is not None:

        def with_art():
            parts = art.segment_by_class(F, y, _N_CLASSES)
            return art.cluster_activations(parts, reduce=name)

        peers["ART, clusters alone"] = with_art
    bench.compare(
        f"ActivationClustering, {reduce}, {size}",
        lambda: _fit(detector, F, y),
        peers,
        repeats=5 if reduce == "pca" else 1,
        bars={"ART, clusters alone": 1.0},
    )


def _neighbours(bench, F, y, size):
    n_neighbors = len(y) // 20

    def by_hand():
        index = NearestNeighbors(n_neighbors=n_neighbors + 1, algorithm="brute").fit(F)
        near = index.kneighbors(F, return_distance=False)[:, 1:]
        own = (y[near] == y[:, None]).mean(axis=1)
        return own < 0.5

    detector = DeepKNN(n_neighbors=n_neighbors, vote="majority", normalize=False)
    suspects = ~_fit(detector, F, y).is_clean_
    assert (suspects == by_hand()).mean() > 0.999
    bench.compare(
        f"DeepKNN, {n_neighbors} neighbours, {size}",
        lambda: _fit(detector, F, y),
        {"scikit-learn by hand": by_hand},
        repeats=1,
        bars={"scikit-learn by hand": 1.0},
    )
