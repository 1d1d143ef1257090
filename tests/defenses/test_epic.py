"""EPIC: medoids of gradients, what is dropped, and training on what is left."""

import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit

from skpoison.defenses import EPICClassifier, _epic
from skpoison.defenses._epic import greedy_medoids
from skpoison.models import TorchClassifier

FAST = {"max_epochs": 6, "device": "cpu", "random_state": 0}
ROUNDS = {"start": 2, "every": 2}


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(150, 4, centers=3, cluster_std=2.0, random_state=0)
    return (X / 10).astype(np.float32), y


@pytest.fixture(scope="module")
def odd_labels():
    """Digits whose first 12 rows have wrong labels, each in its own way."""
    X, y = load_digits(return_X_y=True)
    X, labels = (X / 16).astype(np.float32), y.copy()
    labels[:12] = (y[:12] + 1 + np.arange(12) % 9) % 10
    return X[:1000], labels[:1000], X[1000:], y[1000:]


# ----------------------------------------------------------------------- the medoids


def plain_greedy(points, n_medoids, metric):
    """Facility location by its definition, gains and similarities in full."""
    distance = cdist(points, points, metric)
    similarity = distance.max() - distance
    covered, medoids = np.zeros(len(points)), []
    for _ in range(n_medoids):
        gains = np.maximum(similarity - covered, 0).sum(axis=1)
        medoids.append(int(gains.argmax()))
        covered = np.maximum(covered, similarity[medoids[-1]])
    return medoids, similarity[medoids].argmax(axis=0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("block_values", [1, 500, 2**20])
def test_lazy_greedy_is_plain_greedy(metric, block_values, monkeypatch):
    monkeypatch.setattr(_epic, "_BLOCK_VALUES", block_values)
    rng = np.random.default_rng(0)
    for n_points in (7, 60):
        points = rng.dirichlet(np.full(5, 0.3), n_points) - np.eye(5)[0]
        for n_medoids in {1, n_points // 2, n_points - 1}:
            medoids, nearest = greedy_medoids(points, n_medoids, metric)
            expected, clusters = plain_greedy(points, n_medoids, metric)
            assert medoids.tolist() == expected
            np.testing.assert_array_equal(nearest, clusters)


def test_ties_go_to_the_first():
    # a grid of integers: distances along the axis are exact, and many are equal
    points = np.repeat(np.arange(6.0), 4)[:, None]
    medoids, nearest = greedy_medoids(points, 3)
    expected, clusters = plain_greedy(points, 3, "euclidean")
    assert medoids.tolist() == expected
    np.testing.assert_array_equal(nearest, clusters)
    # six places are covered by six medoids: no more are chosen
    medoids, nearest = greedy_medoids(points, 20)
    assert sorted(medoids) == [0, 4, 8, 12, 16, 20]
    assert np.bincount(nearest).tolist() == [4] * 6


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("points", [np.zeros((5, 3)), np.ones((1, 3))], ids=["0", "1"])
def test_equal_points_are_one_cluster(metric, points):
    medoids, nearest = greedy_medoids(points, 3, metric)
    assert len(medoids) <= 1
    assert nearest.tolist() == [0] * len(points)


# --------------------------------------------------------------------------- dropping


def test_odd_gradients_are_dropped_and_accuracy_stays(odd_labels):
    X, labels, X_test, y_test = odd_labels
    params = {**FAST, "max_epochs": 12}
    clf = EPICClassifier(start=6, every=4, **params).fit(X, labels)
    assert clf.is_clean_[:12].sum() <= 2
    assert clf.n_removed_ < 0.2 * len(X)
    plain = TorchClassifier(**params).fit(X, labels)
    assert clf.score(X_test, y_test) > plain.score(X_test, y_test) - 0.03
    # more than chance: as many rows at random would take a tenth of the odd ones
    assert (~clf.is_clean_[12:]).mean() < 0.2


def test_attributes_are_one_account(blobs):
    clf = EPICClassifier(**ROUNDS, **FAST).fit(*blobs)
    assert len(clf.dropped_) == 2 and clf.n_removed_ > 0
    dropped = np.concatenate(clf.dropped_)
    assert len(np.unique(dropped)) == len(dropped) == clf.n_removed_
    np.testing.assert_array_equal(np.flatnonzero(~clf.is_clean_), np.sort(dropped))
    assert clf.n_iter_ == len(clf.history_) == 6


def test_the_net_trains_on_the_kept_rows_alone(blobs):
    clf = EPICClassifier(**ROUNDS, **FAST).fit(*blobs)
    sizes = [sum(b["train_batch_size"] for b in e["batches"]) for e in clf.history_]
    first, second = map(len, clf.dropped_)
    assert sizes == [150] * 2 + [150 - first] * 2 + [150 - first - second] * 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_rounds_that_drop_nothing_change_nothing(blobs, optimizer):
    # each row twice: no gradient is alone; order and optimizer must go on as they were
    X, y = (np.repeat(a, 2, axis=0) for a in blobs)
    params = {**FAST, "optimizer": optimizer}
    clf = EPICClassifier(**ROUNDS, **params).fit(X, y)
    assert [len(d) for d in clf.dropped_] == [0, 0] and clf.is_clean_.all()
    plain = TorchClassifier(**params).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    "params, n_rounds",
    [
        ({"start": 0, "every": 1}, 6),
        ({"start": 5, "every": 1}, 1),
        ({"start": 1, "every": 2, "stop": 4}, 2),
        ({"start": 1, "every": 10, "stop": 100}, 1),
    ],
)
def test_when_rounds_are(blobs, params, n_rounds):
    assert len(EPICClassifier(**params, **FAST).fit(*blobs).dropped_) == n_rounds


@pytest.mark.parametrize("params", [{"start": 6}, {"start": 2, "stop": 2}], ids=str)
def test_no_round_warns(blobs, params):
    with pytest.warns(UserWarning, match="no row is ever dropped: start="):
        clf = EPICClassifier(**params, **FAST).fit(*blobs)
    assert clf.dropped_ == [] and clf.n_removed_ == 0 and clf.is_clean_.all()


@pytest.mark.parametrize("subset_size", [0.2, 1.0])
@pytest.mark.parametrize("cluster_threshold", [1, 1000])
def test_no_class_is_dropped_whole(blobs, subset_size, cluster_threshold):
    X, y = blobs
    y = np.where(np.arange(150) < 1, 7, np.where(np.arange(150) < 3, 8, y))
    params = {"subset_size": subset_size, "cluster_threshold": cluster_threshold}
    clf = EPICClassifier(**params, **ROUNDS, **FAST).fit(X, y)
    kept = y[clf.is_clean_]
    assert set(kept) == set(y)
    assert np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.parametrize("n_rows", [2, 3])
def test_hardly_any_rows_and_equal_rows(n_rows):
    X, y = np.ones((n_rows, 3)), np.arange(n_rows) % 2
    clf = EPICClassifier(**ROUNDS, **FAST).fit(X, y)
    assert clf.is_clean_.all()


def test_a_diverged_network_drops_nothing(blobs):
    X, y = blobs
    params = {**FAST, "optimizer": torch.optim.SGD, "lr": 1e30}
    with pytest.warns(ConvergenceWarning, match="not finite"):
        clf = EPICClassifier(**ROUNDS, **params).fit(X, y)
    assert clf.n_removed_ == 0


# ------------------------------------------------------------------ the rest of sklearn


def test_held_out_rows_stay_the_same_and_are_kept(blobs):
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, net, dataset_train, dataset_valid, **kwargs):
            seen.append((dataset_train.indices, dataset_valid.indices))

    params = {**FAST, "train_split": ValidSplit(5)}
    clf = EPICClassifier(**ROUNDS, callbacks=[Watch()], **params).fit(*blobs)
    held_out = seen[0][1]
    assert len(held_out) == 30 and len(seen) == 6
    for train, valid in seen:
        np.testing.assert_array_equal(valid, held_out)
        assert not np.isin(train, held_out).any()
    assert clf.n_removed_ > 0 and clf.is_clean_[held_out].all()
    assert "valid_loss" in clf.history_[-1]


def test_a_callback_ends_training(blobs):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                raise KeyboardInterrupt

    clf = EPICClassifier(**ROUNDS, callbacks=[Stop()], **FAST).fit(*blobs)
    assert clf.n_iter_ == 3 and len(clf.dropped_) == 1
    assert clf.n_removed_ == len(clf.dropped_[0])


def test_same_seed_same_bits_pickling_and_global_stream(blobs):
    clf = EPICClassifier(**ROUNDS, **FAST)
    state = torch.get_rng_state()
    first = clf.fit(*blobs).predict_proba(blobs[0])
    assert torch.equal(torch.get_rng_state(), state)
    copied = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copied.predict_proba(blobs[0]), first)
    np.testing.assert_array_equal(clf.fit(*blobs).predict_proba(blobs[0]), first)
    other = clone(clf).set_params(random_state=1).fit(*blobs)
    assert (other.predict_proba(blobs[0]) != first).all()


def test_search_in_a_pipeline(blobs):
    pipeline = make_pipeline(StandardScaler(), EPICClassifier(**ROUNDS, **FAST))
    grid = {"epicclassifier__subset_size": [0.1, 0.3]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(*blobs)
    assert search.best_estimator_[-1].n_removed_ > 0


def test_images_of_bytes_and_labels_as_strings(odd_labels):
    X, labels, _, _ = odd_labels
    images = (X[:200] * 255).astype(np.uint8).reshape(-1, 1, 8, 8)
    names = np.array([f"digit {d}" for d in labels[:200]])
    clf = EPICClassifier(**ROUNDS, **FAST).fit(images, names)
    assert clf.is_clean_.shape == (200,) and clf.n_removed_ > 0
    assert set(clf.predict(images)) <= set(names)


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"subset_size": 0.0}, ValueError, r"subset_size must be in \(0.0, 1.0\]"),
        ({"subset_size": 1.5}, ValueError, r"subset_size must be in \(0.0, 1.0\]"),
        ({"every": 0}, ValueError, "every must be >= 1"),
        ({"every": 1.5}, TypeError, "every must be an int"),
        ({"start": -1}, ValueError, "start must be >= 0"),
        ({"stop": -1}, ValueError, "stop must be >= 0"),
        ({"cluster_threshold": 0}, ValueError, "cluster_threshold must be >= 1"),
        ({"metric": "cityblock"}, ValueError, "metric must be one of"),
    ],
)
def test_bad_parameters(blobs, params, error, message):
    with pytest.raises(error, match=message):
        EPICClassifier(**params, **FAST).fit(*blobs)


@pytest.mark.gpu
def test_cuda(blobs):
    clf = EPICClassifier(**ROUNDS, **{**FAST, "device": "cuda"}).fit(*blobs)
    assert clf.n_removed_ > 0 and clf.score(*blobs) > 0.5
