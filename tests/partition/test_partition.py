import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils import get_tags

from skpoison.partition import (
    LiftedPartition,
    PartitionGraph,
    SuperpixelGraph,
    solve_lifted,
)
from skpoison.partition._energy import LiftedEnergy, Potts


@pytest.fixture(scope="module")
def truth():
    labels = np.zeros((24, 30), int)
    labels[4:18, 3:14] = 1
    labels[10:22, 16:28] = 2
    return labels


@pytest.fixture(scope="module")
def image(truth):
    colors = np.array([[0.1, 0.1, 0.2], [0.8, 0.4, 0.3], [0.4, 0.9, 0.8]])
    rng = np.random.default_rng(0)
    return colors[truth] + 0.2 * rng.normal(size=(24, 30, 3))


@pytest.fixture(scope="module")
def cells(image):
    return SuperpixelGraph(n_segments=60).fit(image)


def model(**params):
    defaults = {"n_labels": 3, "discretization": "grid", "random_state": 0}
    return LiftedPartition(**{**defaults, "regularization": 0.05, **params})


def distances(X, centers):
    return ((X[..., None, :] - centers) ** 2).sum(axis=-1)


# ------------------------------------------------------------------ data and graphs


def test_attributes_of_a_grid(image, truth):
    found = model().fit(image)
    assert found.labels_.shape == (24, 30)
    assert adjusted_rand_score(truth.ravel(), found.labels_.ravel()) > 0.95
    # the energy from the definition
    x = found.labels_
    unary = distances(image, found.cluster_centers_)
    fit = np.take_along_axis(unary, x[..., None], axis=-1).sum()
    cut = (x[1:] != x[:-1]).sum() + (x[:, 1:] != x[:, :-1]).sum()
    assert found.energy_ == pytest.approx(fit + 0.05 * cut, rel=1e-12)
    assert found.lower_bound_ <= found.energy_
    assert found.gap_ == found.energy_ - found.lower_bound_
    assert found.relative_gap_ <= found.tol and found.converged_
    assert found.primal_.shape == (720, 3) and found.node_labels_.shape == (720,)
    np.testing.assert_allclose(found.primal_.sum(axis=1), 1, atol=1e-5)
    assert found.graph_.shape == (24, 30) and found.n_features_in_ == 3
    assert found.n_iter_ > 0 and found.solve_time_ > 0 and found.build_time_ > 0
    assert found.result_.energy == found.energy_
    assert found.score(image) == pytest.approx(-found.energy_ / 720)


@pytest.mark.parametrize("params", [{}, {"connectivity": 8}, {"contrast": (10, 0.1)}])
def test_rows_of_pixels_are_an_image(image, params):
    one = model(**params).fit(image)
    rows = model(image_shape=(24, 30), **params).fit(image.reshape(-1, 3))
    assert rows.labels_.shape == (720,)
    np.testing.assert_array_equal(rows.labels_, one.labels_.ravel())
    assert rows.energy_ == one.energy_
    np.testing.assert_array_equal(
        rows.predict(image.reshape(-1, 3)), one.predict(image).ravel()
    )


def test_one_channel_and_whole_numbers(image):
    gray = image.mean(axis=2)
    one = model().fit(gray)
    assert one.n_features_in_ == 1 and one.labels_.shape == (24, 30)
    np.testing.assert_array_equal(one.labels_, model().fit(gray[..., None]).labels_)
    bytes_ = np.clip(255 * image, 0, 255).astype(np.uint8)
    np.testing.assert_allclose(
        model().fit(bytes_).cluster_centers_,
        model().fit(bytes_ / 255).cluster_centers_,
    )
    whole = model().fit(bytes_.astype(int))
    assert whole.cluster_centers_.max() > 100


def test_cells_have_the_energy_of_pixels(image, cells):
    found = model(discretization=SuperpixelGraph(n_segments=60)).fit(image)
    assert found.graph_.n_nodes == cells.n_segments_ == len(found.node_labels_)
    np.testing.assert_array_equal(found.labels_, found.node_labels_[cells.labels_])
    unary = distances(image, found.cluster_centers_).reshape(-1, 3)
    grid = PartitionGraph.from_grid((24, 30))
    pixels = LiftedEnergy(unary, grid, 0.05, Potts(3))
    assert found.energy_ == pytest.approx(pixels.value(found.labels_.ravel()))
    named = model(discretization="superpixel").fit(image)
    assert named.graph_.n_nodes == SuperpixelGraph().fit(image).n_segments_


def test_neighbours_of_blobs():
    X, y = make_blobs(200, centers=4, cluster_std=1.2, random_state=3)
    found = LiftedPartition(4, 1.0, random_state=0).fit(X)
    plain = KMeans(4, n_init=3, random_state=0).fit(X).labels_
    assert adjusted_rand_score(y, found.labels_) >= adjusted_rand_score(y, plain)
    assert adjusted_rand_score(y, found.labels_) > 0.9
    graph = PartitionGraph.from_neighbors(X, 10)
    unary = distances(X, found.cluster_centers_)
    same = solve_lifted(unary, graph, 1.0, tol=1e-4)
    assert found.energy_ == pytest.approx(same.energy, rel=2e-4)
    np.testing.assert_array_equal(found.fit_predict(X), found.labels_)


def test_a_given_graph(image, cells):
    X, _ = make_blobs(60, centers=3, random_state=0)
    graph = PartitionGraph.from_neighbors(X, 5)
    given = LiftedPartition(3, 0.5, discretization="precomputed", random_state=0).fit(
        X, connectivity=graph.adjacency()
    )
    neighbours = LiftedPartition(3, 0.5, n_neighbors=5, random_state=0).fit(X)
    assert given.energy_ == pytest.approx(neighbours.energy_)
    np.testing.assert_array_equal(given.predict(X), given.labels_)
    part = sparse.csr_array(graph.adjacency()[:7][:, :7])
    assert given.predict(X[:7], connectivity=part).shape == (7,)
    # cells of an image
    known = model(discretization="precomputed").fit(image, connectivity=cells)
    found = model(discretization=SuperpixelGraph(n_segments=60)).fit(image)
    np.testing.assert_array_equal(known.labels_, found.labels_)
    flat = model(discretization="precomputed")
    flat.fit(image.reshape(-1, 3), connectivity=cells.graph_)
    np.testing.assert_array_equal(flat.labels_, found.labels_.ravel())


# ------------------------------------------------------------------------ unary models


def test_given_costs_are_those_of_kmeans(image, cells):
    for kind in ("grid", SuperpixelGraph(method="precomputed", labels=cells.labels_)):
        found = model(discretization=kind).fit(image)
        costs = distances(image, found.cluster_centers_)
        given = model(unary="precomputed", discretization=kind).fit(costs)
        np.testing.assert_array_equal(given.labels_, found.labels_)
        assert given.energy_ == pytest.approx(found.energy_)
        assert not hasattr(given, "cluster_centers_")
        np.testing.assert_array_equal(given.predict(costs), found.labels_)


def test_a_function_gives_the_costs(image):
    for kind in ("grid", SuperpixelGraph(n_segments=60)):
        found = model(discretization=kind).fit(image)
        centers = found.cluster_centers_
        called = model(unary=lambda X, c=centers: distances(X, c), discretization=kind)
        np.testing.assert_array_equal(called.fit(image).labels_, found.labels_)
        np.testing.assert_array_equal(called.predict(image), found.labels_)


def test_gmm_tells_spread_from_spread(truth):
    """Two textures of one mean: k-means cannot tell them apart."""
    textures = np.random.default_rng(0).normal(size=truth.shape)
    textures *= np.where(truth > 0, 0.3, 1)
    found = {
        unary: model(unary=unary, n_labels=2, regularization=2.0).fit(textures)
        for unary in ("gmm", "kmeans")
    }
    agreement = {
        unary: adjusted_rand_score((truth > 0).ravel(), one.labels_.ravel())
        for unary, one in found.items()
    }
    assert agreement["gmm"] > 0.75 and agreement["kmeans"] < 0.1
    assert found["gmm"].relative_gap_ <= 1e-4


def test_negative_energies(image):
    found = model(unary="gmm", regularization=0.5).fit(image / 10)
    assert found.energy_ < 0 <= found.gap_ <= 1e-4 * -found.energy_


@pytest.mark.parametrize("unary", ["kmeans", "gmm"])
@pytest.mark.parametrize("kind", ["grid", SuperpixelGraph(n_segments=60)], ids=str)
def test_updates_of_centres_lower_the_energy(image, kind, unary):
    energies = []
    for rounds in range(4):
        found = model(
            unary=unary, update_centers=rounds, discretization=kind, regularization=0.3
        ).fit(image)
        energies.append(found.energy_)
        unary_costs = np.stack(
            [found.unary_.column(image.reshape(-1, 3), k) for k in range(3)], axis=1
        )
        grid = PartitionGraph.from_grid((24, 30))
        energy = LiftedEnergy(unary_costs, grid, 0.3, Potts(3))
        assert found.energy_ == pytest.approx(energy.value(found.labels_.ravel()))
    assert (np.diff(energies) <= 0).all() and energies[1] < energies[0]


def test_labels_are_numbered_by_brightness(image):
    gray = image.mean(axis=2)
    found = model(pairwise="tv").fit(gray)
    assert (np.diff(found.cluster_centers_.ravel()) > 0).all()
    # exact for "tv": no labelling is better than the bound by more than the gap
    assert found.relative_gap_ <= 1e-4
    other = model(pairwise="tv", label_values=[0.0, 1.0, 5.0]).fit(gray)
    assert other.energy_ > found.energy_
    capped = model(pairwise="truncated", truncation=1.0).fit(gray)
    potts = model().fit(gray)
    assert capped.energy_ == pytest.approx(potts.energy_, rel=2e-4)


def test_permuted_costs_are_permuted_labels(image):
    costs = np.random.default_rng(0).random((24, 30, 4)) ** 4
    one = model(unary="precomputed", regularization=0.03, tol=1e-3).fit(costs)
    order = np.array([2, 0, 3, 1])
    two = clone(one).fit(costs[..., order])
    assert two.energy_ == pytest.approx(one.energy_, rel=1e-3)
    assert np.mean(order[two.labels_] == one.labels_) > 0.97


# ------------------------------------------------------------------- new data, searches


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"discretization": SuperpixelGraph(n_segments=60)},
        {"discretization": SuperpixelGraph(n_segments=60), "refine": True},
        {"discretization": SuperpixelGraph(n_segments=60), "refine": "full"},
        {"unary": "gmm", "regularization": 0.5},
    ],
    ids=["grid", "cells", "band", "full", "gmm"],
)
def test_the_same_data_get_the_same_labels(image, params):
    found = model(**params).fit(image)
    np.testing.assert_array_equal(found.predict(image), found.labels_)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.predict(image), found.labels_)
    np.testing.assert_array_equal(clone(found).fit_predict(image), found.labels_)


def test_a_new_image_is_partitioned_by_the_old_centres(image):
    found = model().fit(image)
    other = image[5:, ::-1]
    labels = found.predict(other)
    assert labels.shape == (19, 30)
    expected = solve_lifted(
        distances(other, found.cluster_centers_).reshape(-1, 3),
        PartitionGraph.from_grid((19, 30)),
        0.05,
        random_state=0,
    )
    np.testing.assert_array_equal(labels.ravel(), expected.labels)
    assert found.score(other) == pytest.approx(-expected.energy / 570)


@pytest.mark.slow
@pytest.mark.parametrize("refine", [0, 2, "full"])
@pytest.mark.parametrize("solver", ["pdhg", "cvxpy"])
def test_a_path_is_a_fit_at_each_regularization(image, refine, solver):
    if solver == "cvxpy":
        pytest.importorskip("cvxpy")
    found = model(
        discretization=SuperpixelGraph(n_segments=60), refine=refine, solver=solver
    ).fit(image)
    lambdas = [0.3, 0.05, 0.0]
    path = found.regularization_path(image, lambdas)
    assert [step[0] for step in path] == lambdas
    for value, labels, energy, bound in path:
        one = clone(found).set_params(regularization=value).fit(image)
        assert energy == pytest.approx(one.energy_, rel=2e-4)
        assert bound <= one.energy_ * (1 + 1e-12)
        if refine != 2:  # else the bound is as loose as the band is narrow
            assert bound == pytest.approx(one.lower_bound_, rel=2e-4)
        assert labels.shape == (24, 30)


def test_a_search_over_cells_on_one_image(image, truth):
    def agreement(estimator, X, y):
        return adjusted_rand_score(y.ravel(), estimator.predict(X).ravel())

    rows = np.arange(len(image))
    grid = {"regularization": [1e-4, 0.05], "discretization__n_segments": [20, 200]}
    search = GridSearchCV(
        model(discretization=SuperpixelGraph()),
        grid,
        scoring=agreement,
        cv=[(rows, rows)],
        error_score="raise",
    ).fit(image, truth)
    assert search.best_params_["discretization__n_segments"] == 200
    by_hand = []
    for params in search.cv_results_["params"]:
        one = model(discretization=SuperpixelGraph()).set_params(**params).fit(image)
        by_hand.append(agreement(one, image, truth))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], by_hand)
    # without truth: the energy, and the plain split into strips
    del grid["regularization"]
    plain = GridSearchCV(search.estimator, grid, cv=[(rows, rows)])
    plain.fit(image)
    assert plain.best_params_ == {"discretization__n_segments": 200}
    strips = GridSearchCV(search.estimator, grid, cv=2, error_score="raise").fit(image)
    assert np.isfinite(strips.cv_results_["mean_test_score"]).all()


def test_frames():
    frame = pd.DataFrame(make_blobs(40, random_state=0)[0], columns=["a", "b"])
    found = LiftedPartition(3, random_state=0).fit(frame)
    assert found.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        found.predict(frame[["b", "a"]])


def test_tags():
    assert not get_tags(LiftedPartition()).input_tags.three_d_array
    tags = get_tags(model(discretization=SuperpixelGraph())).input_tags
    assert tags.three_d_array and not tags.two_d_array
    assert get_tags(model(image_shape=(2, 3))).input_tags.two_d_array


# -------------------------------------------------------------------------- refinement


def test_refinements_in_order(image):
    shared = {"discretization": SuperpixelGraph(n_segments=60), "tol": 1e-5}
    cells, band, four, full = (
        model(refine=r, **shared).fit(image) for r in (0, 1, True, "full")
    )
    grid = model(tol=1e-5).fit(image)
    assert cells.energy_ > band.energy_ >= four.energy_ >= grid.lower_bound_
    assert full.energy_ == pytest.approx(grid.energy_, rel=2e-5)
    assert full.lower_bound_ == pytest.approx(grid.lower_bound_, rel=2e-5)
    same = model(refine=4, **shared).fit(image)
    np.testing.assert_array_equal(same.labels_, four.labels_)
    for refined in (band, four, full):
        np.testing.assert_array_equal(refined.node_labels_, cells.node_labels_)
        assert refined.primal_.shape == cells.primal_.shape
        assert refined.lower_bound_ <= grid.energy_  # of the pixels' problem
        assert refined.n_iter_ > cells.n_iter_
        end = refined.result_.history[-1]
        assert end[2:] == pytest.approx((refined.energy_, refined.lower_bound_))
        unary = distances(image, refined.cluster_centers_).reshape(-1, 3)
        energy = LiftedEnergy(unary, refined.pixel_graph_, 0.05, Potts(3))
        assert refined.energy_ == pytest.approx(energy.value(refined.labels_.ravel()))
        assert refined.lower_bound_ == pytest.approx(
            energy.lower_bound(refined.result_.duals)
        )
    assert not hasattr(cells, "pixel_graph_")


def test_pixels_have_nothing_to_refine(image):
    plain, refined = model().fit(image), model(refine=True).fit(image)
    np.testing.assert_array_equal(plain.labels_, refined.labels_)
    assert not hasattr(refined, "pixel_graph_")


def test_a_full_solve_that_stops_early_keeps_the_better_labels(image):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model(
            discretization=SuperpixelGraph(n_segments=60), refine="full", max_iter=1
        ).fit(image)
        cells = model(discretization=SuperpixelGraph(n_segments=60), max_iter=1).fit(
            image
        )
    assert found.energy_ <= cells.energy_
    assert not found.converged_


# --------------------------------------------------------------------------- odd input


def test_one_label(image):
    found = model(n_labels=1).fit(image)
    assert (found.labels_ == 0).all() and found.gap_ == 0 and found.n_iter_ == 0
    assert found.energy_ == pytest.approx(image.var(axis=(0, 1)).sum() * 720)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["knn", "grid", SuperpixelGraph(n_segments=9)])
@pytest.mark.parametrize("unary", ["kmeans", "gmm"])
def test_constant_data(kind, unary):
    X = np.full((12, 13) if kind != "knn" else (60, 2), 0.5)
    found = model(discretization=kind, unary=unary).fit(X)
    assert len(np.unique(found.labels_)) == 1
    assert found.gap_ == pytest.approx(0, abs=1e-9)


def test_equal_costs_give_the_lowest_label():
    found = model(unary="precomputed").fit(np.ones((6, 7, 4)))
    assert (found.labels_ == 0).all() and found.energy_ == 42


def test_no_regularization_is_the_nearest_centre(image):
    found = model(regularization=0).fit(image)
    nearest = distances(image, found.cluster_centers_).argmin(axis=-1)
    np.testing.assert_array_equal(found.labels_, nearest)
    assert found.gap_ == 0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fewer_distinct_rows_than_labels():
    X = np.repeat(np.eye(2), 20, axis=0)
    found = LiftedPartition(5, random_state=0).fit(X)
    assert adjusted_rand_score(np.repeat([0, 1], 20), found.labels_) == 1


def test_early_stops_warn_and_hold(image):
    with pytest.warns(ConvergenceWarning, match="raise max_iter or tol"):
        found = model(max_iter=1, tol=1e-9).fit(image)
    assert not found.converged_
    assert found.lower_bound_ <= model().fit(image).energy_


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"n_labels": 0}, ValueError, "n_labels must be >= 1"),
        ({"n_labels": 2.5}, TypeError, "n_labels must be an int"),
        ({"n_labels": 721}, ValueError, "n_labels=721 needs.*n_samples=720"),
        ({"regularization": -0.1}, ValueError, "regularization must be >= 0"),
        ({"regularization": np.nan}, ValueError, "regularization must be >= 0"),
        ({"tol": 0}, ValueError, "tol must be > 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"n_init": 0}, ValueError, "n_init must be >= 1"),
        ({"unary": "mean"}, ValueError, "unary must be one of"),
        ({"discretization": "hexagons"}, ValueError, "discretization must be one of"),
        ({"discretization": 3}, TypeError, "or a SuperpixelGraph, got 3"),
        ({"pairwise": "sublabel"}, ValueError, "pairwise must be one of"),
        ({"pairwise": "truncated"}, ValueError, "needs truncation"),
        ({"pairwise": "tv", "label_values": [1, 2]}, ValueError, "label_values must"),
        ({"relaxation": "tight"}, ValueError, "relaxation must be one of"),
        ({"refine": -1}, ValueError, "refine must be >= 0"),
        ({"refine": "band"}, TypeError, "refine must be"),
        ({"refine": 2, "discretization": "knn"}, ValueError, "refine needs the cells"),
        ({"update_centers": -1}, ValueError, "update_centers must be >= 0"),
        (
            {"update_centers": 1, "unary": "precomputed"},
            ValueError,
            "update_centers needs unary 'kmeans' or 'gmm'",
        ),
        ({"connectivity": 6}, ValueError, "connectivity must be one of"),
        ({"contrast": 3}, ValueError, "contrast must be None or a pair"),
        ({"discretization": "precomputed"}, ValueError, "needs the graph: fit"),
        ({"random_state": -1}, ValueError, "random_state must be in"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_parameters(image, params, error, match):
    kind = params.get("discretization")
    X = image.reshape(-1, 3) if kind in ("knn", "precomputed") else image
    with pytest.raises(error, match=match):
        model(**params).fit(X)


def test_bad_data(image):
    rows = image.reshape(-1, 3)
    with pytest.raises(ValueError, match=r"has 600 pixels, but X has 720 rows"):
        model(image_shape=(20, 30)).fit(rows)
    for shape, error in ((720, ValueError), ((720,), ValueError), ("ab", TypeError)):
        with pytest.raises(error, match="image_shape must be"):
            model(image_shape=shape).fit(rows)
    with pytest.raises(ValueError, match="connectivity as data needs"):
        model().fit(image, connectivity=np.eye(720))
    given = model(discretization="precomputed")
    with pytest.raises(ValueError, match="720 rows, but connectivity has 9 nodes"):
        given.fit(rows, connectivity=np.eye(9))
    holes = image.copy()
    holes[3, 4, 1] = np.nan
    for bad in (model(), LiftedPartition(discretization="superpixel")):
        with pytest.raises(ValueError, match="NaN"):
            bad.fit(holes)
    with pytest.raises(ValueError, match="NaN"):
        LiftedPartition().fit(holes.reshape(-1, 3))
    found = model().fit(image)
    with pytest.raises(ValueError, match="expecting 3 features"):
        found.predict(image[..., :2])
    with pytest.raises(ValueError, match="lambdas must be >= 0"):
        found.regularization_path(image, [0.1, -1.0])
    for call in ("predict", "score"):
        with pytest.raises(NotFittedError):
            getattr(model(), call)(image)
    with pytest.raises(NotFittedError):
        model().regularization_path(image, [0.1])


def test_seeds(image):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (model(random_state=5).fit(image).labels_ for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_an_image_without_a_graph_of_pixels_is_told_what_to_set():
    with pytest.raises(ValueError, match="for an image set 'grid' or 'superpixel'"):
        LiftedPartition(2).fit(np.zeros((4, 5, 3)))
