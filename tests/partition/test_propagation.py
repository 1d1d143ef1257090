"""LiftedLabelPropagation: costs and energy by other means, contract and use."""

import heapq
import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits, make_blobs, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import kneighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from skpoison.partition import LiftedLabelPropagation
from skpoison.partition._graph import PartitionGraph
from skpoison.partition._propagation import poisson_costs

PRIORS = ["geodesic", "poisson", "both", "none"]


def few(y, n, seed):
    """Keep n labels a class, -1 elsewhere."""
    rng = np.random.RandomState(seed)
    given = np.full(len(y), -1)
    for label in np.unique(y):
        rows = rng.choice(np.flatnonzero(y == label), n, replace=False)
        given[rows] = label
    return given


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(90, centers=3, cluster_std=1.5, random_state=1)
    return X, y, few(y, 2, 0)


def naive_geodesic(X, given, n_neighbors):
    """Prior and weights of the graph, by loops and a heap."""
    n, classes = len(X), np.unique(given[given != -1])
    distance = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
    links = {}
    for i in range(n):
        others = [j for j in np.argsort(distance[i], kind="stable") if j != i]
        for j in others[:n_neighbors]:
            links[min(i, j), max(i, j)] = distance[i, j]
    neighbours = {i: [] for i in range(n)}
    for (i, j), d in links.items():
        neighbours[i].append((j, d))
        neighbours[j].append((i, d))
    costs = np.full((n, len(classes)), np.inf)
    for k, label in enumerate(classes):
        heap = [(0.0, int(i)) for i in np.flatnonzero(given == label)]
        while heap:
            d, i = heapq.heappop(heap)
            if d < costs[i, k]:
                costs[i, k] = d
                for j, step in neighbours[i]:
                    heapq.heappush(heap, (d + step, j))
    costs[np.isinf(costs)] = costs[np.isfinite(costs)].max()
    scale = np.median(list(links.values()))
    weights = {e: np.exp(-0.5 * (d / scale) ** 2) for e, d in links.items()}
    return costs / costs.mean(), weights


def naive_energy(labels, costs, weights, regularization):
    energy = sum(costs[i, k] for i, k in enumerate(labels))
    return energy + regularization * sum(
        w for (i, j), w in weights.items() if labels[i] != labels[j]
    )


# ------------------------------------------------------------------------ the problem


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("regularization", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_labelling_of_a_small_graph_is_better(n_classes, regularization, seed):
    rng = np.random.RandomState(seed)
    X = rng.randn(9, 2)
    given = np.full(9, -1)
    given[:n_classes] = np.arange(n_classes)
    model = LiftedLabelPropagation(3, regularization, dtype="float64", tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a gap of the relaxation itself
        model.fit(X, given)
    costs, weights = naive_geodesic(X, given, 3)
    free = range(n_classes, 9)
    best = min(
        naive_energy([*range(n_classes), *labels], costs * (given == -1)[:, None],
                     weights, regularization)
        for labels in itertools.product(range(n_classes), repeat=len(free))
    )  # fmt: skip
    own = naive_energy(
        model.transduction_, costs * (given == -1)[:, None], weights, regularization
    )
    assert own == pytest.approx(model.energy_, rel=1e-9)
    assert model.lower_bound_ <= best + 1e-9
    assert model.energy_ == pytest.approx(best, rel=1e-6)


def test_the_prior_alone_is_the_nearest_label_along_the_graph():
    X, y = make_moons(120, noise=0.1, random_state=0)
    given = few(y, 3, 0)
    model = LiftedLabelPropagation(4, 0.0).fit(X, given)
    costs, _ = naive_geodesic(X, given, 4)
    rows = given == -1
    np.testing.assert_array_equal(model.transduction_[rows], costs.argmin(axis=1)[rows])
    assert model.energy_ == pytest.approx(costs.min(axis=1)[rows].sum())


def test_poisson_prior_solves_the_diffusion():
    X, y = make_moons(150, noise=0.1, random_state=0)
    given = few(y, 2, 0)
    graph = PartitionGraph.from_neighbors(X, 8)
    W = graph.adjacency().toarray()
    sources = np.zeros((150, 2))
    sources[given != -1] = np.eye(2)[given[given != -1]] - 0.5
    potential = np.linalg.pinv(np.diag(W.sum(axis=1)) - W) @ sources
    wanted = potential.max(axis=1, keepdims=True) - potential
    found = poisson_costs(graph, given, 2)
    scale = (found * wanted).sum() / (wanted**2).sum()
    # the leak that makes parts without labels solvable moves it by a little
    assert abs(found - scale * wanted).max() < 0.05 * found.max()
    assert np.median(found.mean(axis=1)) == pytest.approx(1.0)


def test_a_classifier_as_prior(blobs):
    X, y, given = blobs
    rows = given != -1
    fitted = LogisticRegression().fit(X[rows], given[rows])
    plain = LogisticRegression()
    own = LiftedLabelPropagation(prior=plain, regularization=0.0).fit(X, given)
    assert not hasattr(plain, "classes_")
    np.testing.assert_array_equal(own.transduction_, fitted.predict(X))
    taken = LiftedLabelPropagation(prior=fitted, regularization=0.0).fit(X, given)
    assert taken.energy_ == own.energy_
    proba = fitted.predict_proba(X[~rows])
    assert own.energy_ == pytest.approx(-np.log(proba.max(axis=1)).sum())
    # a frozen one survives the clones of a search
    other = LogisticRegression().fit(X, 2 - y)
    model = clone(LiftedLabelPropagation(prior=FrozenEstimator(other)))
    model.set_params(regularization=0.0).fit(X, given)
    wrong = model.transduction_[~rows] != y[~rows]
    assert wrong.mean() > 0.5


@pytest.mark.parametrize("prior", PRIORS)
def test_given_labels_stay(blobs, prior):
    X, _, given = blobs
    given = given.copy()
    given[np.flatnonzero(given == -1)[:20]] = 2  # most of them wrong
    rows = given != -1
    for regularization in (0.3, 300.0):
        model = LiftedLabelPropagation(prior=prior, regularization=regularization)
        found = model.fit(X, given).transduction_
        np.testing.assert_array_equal(found[rows], given[rows])
    soft = LiftedLabelPropagation(prior=prior, clamp=False, alpha=0.1, regularization=1)
    assert (soft.fit(X, given).transduction_[rows] != given[rows]).any()
    firm = LiftedLabelPropagation(prior=prior, clamp=False, alpha=1e6)
    np.testing.assert_array_equal(firm.fit(X, given).transduction_[rows], given[rows])


def test_without_a_prior_few_labels_are_cut_off():
    X, y = load_digits(return_X_y=True)
    X, y = X[:500] / 16, y[:500]
    none = LiftedLabelPropagation(prior="none").fit(X, few(y, 1, 0))
    assert (np.bincount(none.transduction_) == 1).sum() >= 6
    full = LiftedLabelPropagation().fit(X, few(y, 1, 0))
    assert np.bincount(full.transduction_).min() > 20


# ------------------------------------------------------------------------- what it buys


def test_two_moons_from_one_label_each():
    X, y = make_moons(200, noise=0.05, random_state=0)
    given = np.full(200, -1)
    given[X[:, 1].argmax()], given[X[:, 1].argmin()] = 0, 1  # the middle of each
    # the tip of a moon is nearer to the middle of the other: one path against many
    for prior, share in (("geodesic", 0.93), ("poisson", 1.0), ("both", 1.0)):
        found = LiftedLabelPropagation(prior=prior).fit(X, given).transduction_
        assert (found == y).mean() >= share


@pytest.mark.parametrize("prior", ["geodesic", "both"])
def test_digits_from_three_labels_a_class(prior):
    X, y = load_digits(return_X_y=True)
    ours, theirs = [], []
    for seed in range(3):
        given = few(y, 3, seed)
        rows = given == -1
        model = LiftedLabelPropagation(prior=prior).fit(X / 16, given)
        ours.append((model.transduction_ == y)[rows].mean())
        peer = LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer.fit(X / 16, given)
        theirs.append((peer.transduction_ == y)[rows].mean())
        assert model.relative_gap_ <= 1e-4
    assert np.mean(ours) > 0.93
    assert np.mean(ours) > np.mean(theirs) + 0.01


def test_new_rows_take_the_labels_around_them():
    X, y = make_moons(300, noise=0.05, random_state=0)
    given = few(y[:200], 5, 0)
    model = LiftedLabelPropagation().fit(X[:200], given)
    assert (model.predict(X[200:]) == y[200:]).mean() > 0.97
    assert (model.predict(X[:200]) == model.transduction_).mean() > 0.97
    far = model.predict_proba([[1e6, -1e6], [0.5, 0.25]])
    np.testing.assert_allclose(far.sum(axis=1), 1.0)
    # by hand: one row, its ten nearest
    row = X[250]
    d = np.sqrt(((X[:200] - row) ** 2).sum(axis=1))
    near = np.argsort(d)[:10]
    graph = kneighbors_graph(X[:200], 10, mode="distance").toarray()
    pairs = np.maximum(graph, graph.T)[np.triu_indices(200, 1)]
    scale = np.median(pairs[pairs > 0])
    w = np.exp(-0.5 * (d[near] / scale) ** 2)
    np.testing.assert_allclose(
        model.predict_proba([row])[0],
        w @ model.label_distributions_[near] / w.sum(),
        atol=1e-9,
    )


# --------------------------------------------------------------------------- contract


def test_labels_that_are_strings(blobs):
    X, _, given = blobs
    expected = LiftedLabelPropagation().fit(X, given).transduction_
    names = np.array(["a", "b", "c"])
    for missing in (None, np.nan, -1, "-1"):
        text = [names[k] if k >= 0 else missing for k in given]
        model = LiftedLabelPropagation().fit(X, np.array(text, dtype=object))
        assert model.classes_.tolist() == ["a", "b", "c"]
        np.testing.assert_array_equal(model.transduction_, names[expected])
        assert set(model.predict(X)) <= set("abc")
    model = LiftedLabelPropagation().fit(X, pd.Series(text, dtype="string"))
    np.testing.assert_array_equal(model.transduction_, names[expected])
    floats = LiftedLabelPropagation().fit(X, given.astype(float))
    np.testing.assert_array_equal(floats.transduction_, expected)


def test_minus_one_and_one_are_two_classes():
    X, y = make_blobs(40, centers=[[-5, 0], [5, 0]], random_state=0)
    signs = 2 * y - 1
    model = LiftedLabelPropagation().fit(X, signs)
    np.testing.assert_array_equal(model.classes_, [-1, 1])
    np.testing.assert_array_equal(model.predict(X), signs)
    given = np.where(np.arange(40) < 20, y, -1)  # 0, 1 and -1: unlabelled
    np.testing.assert_array_equal(
        LiftedLabelPropagation().fit(X, given).classes_, [0, 1]
    )


def test_containers(blobs):
    X, _, given = blobs
    expected = LiftedLabelPropagation().fit(X, given)
    frame = pd.DataFrame(X, columns=["width", "height"])
    model = LiftedLabelPropagation().fit(frame, pd.Series(given))
    assert model.feature_names_in_.tolist() == ["width", "height"]
    np.testing.assert_array_equal(model.predict(frame), expected.predict(X))
    for make in (sparse.csr_matrix, sparse.coo_array):
        model = LiftedLabelPropagation().fit(make(X), given)
        np.testing.assert_array_equal(model.transduction_, expected.transduction_)
        np.testing.assert_array_equal(model.predict(make(X)), expected.predict(X))
    # a prior reads the names
    scaled = make_column_transformer((StandardScaler(), ["height", "width"]))
    prior = make_pipeline(scaled, LogisticRegression())
    model = LiftedLabelPropagation(prior=prior).fit(frame, given)
    prior = make_pipeline(StandardScaler(), LogisticRegression())
    same = LiftedLabelPropagation(prior=prior).fit(X, given)
    assert model.energy_ == pytest.approx(same.energy_)


def test_a_search_a_copy_and_no_fit():
    X, y = make_blobs(200, centers=[[-4, 0], [4, 0], [0, 6]], random_state=0)
    rng = np.random.RandomState(0)
    noisy = np.where(rng.rand(200) < 0.3, (y + rng.randint(1, 3, 200)) % 3, y)
    search = GridSearchCV(
        LiftedLabelPropagation(prior="none", clamp=False),
        {"regularization": [0.0, 0.3], "n_neighbors": [1, 8]},
        cv=3,
    ).fit(X, noisy)
    assert search.best_params_ == {"regularization": 0.3, "n_neighbors": 8}
    best = search.best_estimator_
    loaded = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(loaded.predict_proba(X), best.predict_proba(X))
    with pytest.raises(NotFittedError):
        LiftedLabelPropagation().predict(X)


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"n_neighbors": 0}, ValueError, "n_neighbors must be >= 1"),
        ({"n_neighbors": 2.5}, TypeError, "n_neighbors must be an int"),
        ({"regularization": -1.0}, ValueError, "regularization must be >= 0"),
        ({"alpha": -1.0}, ValueError, "alpha must be >= 0"),
        ({"prior": "nearest"}, ValueError, "prior must be one of 'geodesic'"),
        ({"prior": 3}, TypeError, "prior must be one of .* classifier"),
        ({"prior": LogisticRegression}, TypeError, "prior must be one of"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be > 0"),
        ({"bandwidth": "mean"}, ValueError, "bandwidth must be 'median'"),
        ({"tol": 0.0}, ValueError, "tol must be > 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
    ],
    ids=str,
)
def test_bad_parameters(blobs, params, error, match):
    X, _, given = blobs
    with pytest.raises(error, match=match):
        LiftedLabelPropagation(**params).fit(X, given)


def test_labels_that_are_missing_altogether(blobs):
    X, y, given = blobs
    with pytest.raises(ValueError, match="at least one label"):
        LiftedLabelPropagation().fit(X, np.full(len(X), -1))
    prior = LogisticRegression().fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match=r"without the classes \[2\]"):
        LiftedLabelPropagation(prior=prior).fit(X, given)


@pytest.mark.parametrize("prior", PRIORS)
def test_degenerate_data(prior):
    model = LiftedLabelPropagation(prior=prior)
    rng = np.random.RandomState(0)
    # one class; fewer rows than neighbours; all the same; one row; two far lumps
    X = rng.randn(30, 2)
    one = np.where(np.arange(30) < 3, 7, -1)
    assert set(model.fit(X, one).transduction_) == {7}
    assert model.predict_proba(X).shape == (30, 1)
    assert model.fit(X[:4], [0, 1, -1, -1]).transduction_.tolist()[:2] == [0, 1]
    same = model.fit(np.ones((20, 2)), few(np.arange(20) % 2, 2, 0))
    assert np.isfinite(same.energy_)
    assert model.fit([[1.0]], [3]).predict([[2.0]]) == [3]
    # labels that need no solver still are what is predicted
    sure = model.fit(X, (X[:, 0] > 0).astype(int))
    assert (sure.label_distributions_.argmax(axis=1) == sure.transduction_).all()
    lumps = np.vstack([X, X + 1000.0, X - 1000.0])
    given = np.full(90, -1)
    given[:2], given[30] = [0, 1], 1  # a lump with both, one with 1 alone, one bare
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(n_neighbors=5).fit(lumps, given)
    assert set(model.transduction_[30:60]) == {1}
    assert np.isfinite(model.energy_)
    assert model.fit(lumps, np.arange(90) % 4).transduction_.tolist() == [
        i % 4 for i in range(90)
    ]


def test_copies_of_rows_share_their_label():
    X = np.repeat(np.random.RandomState(0).randn(8, 2), 5, axis=0)
    given = np.full(40, -1)
    given[::5] = np.arange(8) % 2
    model = LiftedLabelPropagation(4).fit(X, given)
    np.testing.assert_array_equal(model.transduction_, np.repeat(given[::5], 5))
    np.testing.assert_array_equal(model.predict(X), model.transduction_)
