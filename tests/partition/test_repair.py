"""LiftedLabelRepair: its energy by brute force, its contract, what it repairs."""

import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_blobs, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import LabelFlipAttack
from skpoison.compose import FilteredEstimator
from skpoison.partition import LiftedLabelPropagation, LiftedLabelRepair

CANCER, ILL = load_breast_cancer(return_X_y=True)


@pytest.fixture(scope="module")
def flipped():
    """Digits of the training part of 70 %, true labels, and 30 % of them wrong."""
    X, y = load_digits(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, train_size=0.7, random_state=0, stratify=y)
    noisy = LabelFlipAttack(budget=0.3, random_state=0).poison(X, y).y
    return X, y, noisy


@pytest.fixture(scope="module")
def small():
    X, y = make_blobs(120, centers=[[-3, 0], [3, 0]], random_state=0)
    noisy = y.copy()
    noisy[::6] = 1 - y[::6]
    return X, y, noisy


def by_force(X, y, n_neighbors, regularization, bandwidth):
    """Return the least energy of all labellings, the graph built by loops."""
    n = len(X)
    distance = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
    links, own = {}, []
    for i in range(n):
        others = [j for j in np.argsort(distance[i], kind="stable") if j != i]
        for j in others[:n_neighbors]:
            links[min(i, j), max(i, j)] = distance[i, j]
        own.append(np.median([distance[i, j] for j in others[:n_neighbors]]))
    middle = np.median(list(links.values()))
    square = dict.fromkeys(links, middle**2)
    if bandwidth == "local":
        square = {(i, j): own[i] * own[j] for i, j in links}

    def energy(labels):
        changed = sum(a != b for a, b in zip(labels, y, strict=True))
        return changed + regularization * sum(
            np.exp(-0.5 * links[i, j] ** 2 / square[i, j])
            for i, j in links
            if labels[i] != labels[j]
        )

    every = itertools.product(range(max(y) + 1), repeat=n)
    return energy, min(map(energy, every))


# ------------------------------------------------------------------------ the problem


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("regularization", [0.2, 0.6])
@pytest.mark.parametrize("bandwidth", ["local", "median"])
@pytest.mark.parametrize("seed", range(3))
def test_no_labelling_of_a_small_graph_is_better(
    n_classes, regularization, bandwidth, seed
):
    rng = np.random.RandomState(seed)
    X, y = rng.randn(8, 2), rng.permutation(np.arange(8) % n_classes)
    model = LiftedLabelRepair(
        3, regularization, bandwidth=bandwidth, dtype="float64", tol=1e-6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gaps of the relaxation, and lost classes
        model.fit(X, y)
    energy, best = by_force(X, y, 3, regularization, bandwidth)
    assert energy(model.result_.labels) == pytest.approx(model.energy_, rel=1e-9)
    assert model.lower_bound_ <= best + 1e-9
    assert model.energy_ == pytest.approx(best, rel=1e-6)


def test_scores_are_what_a_change_of_one_label_saves(small):
    X, _, noisy = small
    model = LiftedLabelRepair(5).fit(X, noisy)
    W = model.graph_.adjacency().toarray()
    x = model.repaired_labels_
    for v in range(0, 120, 7):
        costs = [
            (k != noisy[v]) + 0.3 * sum(W[v, u] for u in range(120) if x[u] != k)
            for k in (0, 1)
        ]
        given = noisy[v]
        assert model.scores_[v] == pytest.approx(costs[given] - costs[1 - given])
    # at the optimum no change of one label saves anything
    assert (model.scores_[model.flagged_] >= -1e-6).all()
    assert (model.scores_[~model.flagged_] <= 1e-6).all()


def test_attributes_belong_together(small):
    X, y, noisy = small
    model = LiftedLabelRepair()
    repaired = model.fit_predict(X, noisy)
    np.testing.assert_array_equal(repaired, model.repaired_labels_)
    np.testing.assert_array_equal(repaired, y)
    np.testing.assert_array_equal(model.flagged_, repaired != noisy)
    np.testing.assert_array_equal(model.is_clean_, ~model.flagged_)
    assert model.relative_gap_ <= 1e-4
    assert model.lower_bound_ <= model.energy_
    nothing = LiftedLabelRepair(regularization=0).fit(X, noisy)
    assert not nothing.flagged_.any() and nothing.energy_ == 0


# ------------------------------------------------------------------------- what it buys


def test_digits_with_thirty_per_cent_of_flips(flipped):
    X, y, noisy = flipped
    assert (noisy == y).mean() < 0.71
    model = LiftedLabelRepair().fit(X, noisy)
    assert (model.repaired_labels_ == y).mean() >= 0.975
    vote = KNeighborsClassifier(11).fit(X, noisy).predict(X)
    assert (model.repaired_labels_ == y).mean() > (vote == y).mean()
    assert roc_auc_score(noisy != y, model.scores_) > 0.97
    assert model.converged_


def test_moons_in_which_groups_of_labels_are_wrong():
    X, y = make_moons(300, noise=0.05, random_state=0)
    noisy = y.copy()
    seed = X[:, 1].argmax()
    group = ((X - X[seed]) ** 2).sum(axis=1).argsort()[:8]  # a run of wrong labels
    noisy[group] = 1 - y[group]
    vote = KNeighborsClassifier(5).fit(X, noisy).predict(X)
    assert (vote[group] != y[group]).mean() > 0.5
    model = LiftedLabelRepair(regularization=0.6).fit(X, noisy)
    np.testing.assert_array_equal(model.repaired_labels_, y)


def test_columns_of_different_units():
    noisy = LabelFlipAttack(budget=0.2, random_state=0).poison(CANCER, ILL).y
    shares = [
        (LiftedLabelRepair(encoder=e).fit_predict(CANCER, noisy) == ILL).mean()
        for e in (None, "table")
    ]
    assert shares[1] > shares[0] + 0.01
    scaled = StandardScaler().fit_transform(CANCER)
    expected = LiftedLabelRepair().fit_predict(scaled, noisy)
    for encoder in ("table", StandardScaler()):
        found = LiftedLabelRepair(encoder=encoder).fit_predict(CANCER, noisy)
        assert (found == expected).mean() > 0.99


# --------------------------------------------------------------------------- contract


def test_the_training_set_is_relabelled_or_shortened(small):
    X, y, noisy = small
    model = LiftedLabelRepair()
    X_out, y_out = model.fit_resample(X, noisy)
    assert X_out is X
    np.testing.assert_array_equal(y_out, y)
    np.testing.assert_array_equal(model.sample_indices_, np.arange(120))
    drop = LiftedLabelRepair(mode="drop")
    X_out, y_out = drop.fit_resample(X, noisy)
    kept = np.flatnonzero(noisy == y)
    np.testing.assert_array_equal(drop.sample_indices_, kept)
    np.testing.assert_array_equal(X_out, X[kept])
    np.testing.assert_array_equal(y_out, y[kept])


@pytest.mark.parametrize("mode", ["repair", "drop"])
def test_frames_and_strings_come_back_in_kind(small, mode):
    X, _, noisy = small
    names = np.array(["no", "yes"])
    frame = pd.DataFrame(X, columns=["width", "height"], index=np.arange(120) + 7)
    labels = pd.Series(names[noisy], index=frame.index, name="sick", dtype="category")
    before = frame.copy(), labels.copy()
    model = LiftedLabelRepair(mode=mode)
    X_out, y_out = model.fit_resample(frame, labels)
    expected = LiftedLabelRepair(mode=mode)
    X_plain, y_plain = expected.fit_resample(X, noisy)
    pd.testing.assert_frame_equal(X_out, frame.iloc[model.sample_indices_])
    pd.testing.assert_index_equal(y_out.index, X_out.index)
    assert y_out.name == "sick" and y_out.dtype == labels.dtype
    np.testing.assert_array_equal(y_out, names[y_plain])
    np.testing.assert_array_equal(X_out, X_plain)
    assert model.feature_names_in_.tolist() == ["width", "height"]
    pd.testing.assert_frame_equal(frame, before[0])
    pd.testing.assert_series_equal(labels, before[1])
    found, listed = LiftedLabelRepair(mode=mode).fit_resample(
        X.tolist(), names[noisy].tolist()
    )
    assert isinstance(found, list) and listed == names[y_plain].tolist()
    rows, codes = LiftedLabelRepair(mode=mode).fit_resample(sparse.csc_array(X), noisy)
    assert sparse.issparse(rows)
    np.testing.assert_array_equal(rows.toarray(), X_plain)
    np.testing.assert_array_equal(codes, y_plain)


def test_tables_with_text_and_gaps(small):
    X, y, noisy = small
    frame = pd.DataFrame({"side": np.where(X[:, 0] > 0, "r", "l"), "x": X[:, 0]})
    frame.loc[[3, 50], "x"] = np.nan
    model = LiftedLabelRepair(encoder="table")
    X_out, y_out = model.fit_resample(frame, noisy)
    pd.testing.assert_frame_equal(X_out, frame)
    assert (y_out == y).mean() > 0.97
    with pytest.raises(ValueError, match="could not convert|NaN"):
        LiftedLabelRepair().fit(frame, noisy)


def test_in_a_search(small):
    X, y, noisy = small
    model = FilteredEstimator(LiftedLabelRepair(), KNeighborsClassifier(1))
    search = GridSearchCV(
        model, {"detector__regularization": [0.0, 0.3], "detector__mode": ["repair"]}
    ).fit(X, noisy)
    assert search.best_params_["detector__regularization"] == 0.3
    assert search.best_estimator_.score(X, y) == 1.0
    drop = clone(model).set_params(detector__mode="drop").fit(X, noisy)
    np.testing.assert_array_equal(drop.is_clean_, noisy == y)
    assert drop.score(X, y) == 1.0


def test_in_a_pipeline_of_imbalanced_learn(small):
    pipeline = pytest.importorskip("imblearn.pipeline")
    X, y, noisy = small
    for mode in ("repair", "drop"):
        model = pipeline.make_pipeline(
            StandardScaler(), LiftedLabelRepair(mode=mode), KNeighborsClassifier(1)
        )
        assert model.fit(X, noisy).score(X, y) == 1.0
        np.testing.assert_array_equal(model.predict(X), y)  # no row is lost here


def test_a_class_that_would_vanish_keeps_its_rows():
    X, y = make_blobs([60, 60, 3], centers=[[-4, 0], [4, 0], [4, 0.5]], random_state=0)
    for mode in ("repair", "drop"):
        with pytest.warns(UserWarning, match=r"every row of \[2\] away.* keep"):
            model = LiftedLabelRepair(mode=mode).fit(X, y)
        assert not model.flagged_[y == 2].any()
        _, y_out = LiftedLabelRepair(mode=mode).fit_resample(X, y)
        assert (y_out == 2).sum() == 3
    assert not (model.result_.labels == 2).any()
    # what was given to the others is repaired all the same
    row = abs(X - [-4, 0]).sum(axis=1).argmin()
    y[row] = 1
    with pytest.warns(UserWarning, match="keep their labels"):
        assert LiftedLabelRepair().fit(X, y).repaired_labels_[row] == 0


def test_a_copy(small):
    X, _, noisy = small
    model = LiftedLabelRepair(encoder=StandardScaler()).fit(X, noisy)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.repaired_labels_, model.repaired_labels_)
    again = clone(model).fit(X, noisy)
    np.testing.assert_array_equal(again.repaired_labels_, model.repaired_labels_)


def test_it_is_the_propagation_of_labels_that_may_change(small):
    X, _, noisy = small
    other = LiftedLabelPropagation(prior="none", clamp=False).fit(X, noisy)
    model = LiftedLabelRepair(bandwidth="median").fit(X, noisy)
    assert other.energy_ == pytest.approx(model.energy_)
    np.testing.assert_array_equal(other.transduction_, model.repaired_labels_)


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"n_neighbors": 0}, ValueError, "n_neighbors must be >= 1"),
        ({"regularization": -1.0}, ValueError, "regularization must be >= 0"),
        ({"regularization": "auto"}, TypeError, "regularization must be a number"),
        ({"mode": "remove"}, ValueError, "mode must be one of 'repair', 'drop'"),
        ({"encoder": "scale"}, ValueError, "encoder must be one of 'table'"),
        ({"encoder": StandardScaler}, TypeError, "encoder must be None, 'table'"),
        ({"encoder": LogisticRegression()}, TypeError, "encoder must be None"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be > 0"),
        ({"tol": 0.0}, ValueError, "tol must be > 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
    ],
    ids=str,
)
def test_bad_parameters(small, params, error, match):
    X, _, noisy = small
    with pytest.raises(error, match=match):
        LiftedLabelRepair(**params).fit(X, noisy)


def test_degenerate_data():
    rng = np.random.RandomState(0)
    X = rng.randn(30, 2)
    one = LiftedLabelRepair().fit(X, np.full(30, "a"))
    assert not one.flagged_.any() and (one.scores_ == 0).all()
    few = LiftedLabelRepair(n_neighbors=50, regularization=0.01)
    assert few.fit_predict(X[:4], [0, 1, 0, 1]).tolist() == [0, 1, 0, 1]
    assert LiftedLabelRepair().fit_predict([[0.0]], [5]).tolist() == [5]
    # all rows the same: one label among many others is outvoted
    same = LiftedLabelRepair().fit(np.ones((30, 2)), np.arange(30) % 5 > 0)
    assert np.isfinite(same.energy_)
    copies = np.repeat(X[:6], 5, axis=0)
    y = np.repeat([0, 1, 0, 1, 0, 1], 5)
    y[0] = 1
    assert LiftedLabelRepair(4).fit_predict(copies, y)[0] == 0
    with pytest.raises(ValueError, match="Unknown label type"):
        LiftedLabelRepair().fit(X, rng.randn(30))
    with pytest.raises(ValueError, match="requires y"):
        LiftedLabelRepair().fit(X, None)
