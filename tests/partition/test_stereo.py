import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

from skpoison.partition import LiftedStereo, PartitionGraph, SuperpixelGraph
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._matching_costs import matching_cost

SHAPE = (40, 70)


def texture(seed=0, shape=SHAPE, n_channels=3):
    return np.random.RandomState(seed).rand(*shape, n_channels)


def shifted(left, disparity, seed=1):
    """The right image of a plane that faces the cameras."""
    right = np.roll(left, -disparity, axis=1)
    right[:, -disparity:] = texture(seed, (len(left), disparity), left.shape[2])
    return right


@pytest.fixture(scope="module")
def planes():
    """A square in front of a plane: left, right, true disparities, the visible."""
    left = texture()
    right = shifted(left, 2)
    square = texture(2, (20, 20))
    left[10:30, 30:50], right[10:30, 23:43] = square, square
    truth = np.full(SHAPE, 2.0)
    truth[10:30, 30:50] = 7.0
    visible = np.ones(SHAPE, dtype=bool)
    visible[:, :2] = False  # out of view
    visible[10:30, 25:30] = False  # hidden by the square
    return left, right, truth, visible


def difference(left, right, n):
    """A cost that sees no pixel but one, and so no border of a plane."""
    costs = np.ones((*left.shape[:2], n))
    for d in range(n):
        costs[:, d:, d] = abs(left[:, d:] - right[:, : left.shape[1] - d]).mean(axis=2)
    return costs


def pixel_energy(model, left, right, n_labels, cost="census"):
    """The problem of the pixels, written out from the text of the class."""
    costs = matching_cost(left, right, n_labels, cost).astype(float)
    scale = np.median(np.ptp(costs, axis=2))
    grid = PartitionGraph.from_grid(left.shape[:2], 4, image=left, contrast=(10.0, 0.1))
    term = make_pairwise(model.pairwise, n_labels, truncation=model.truncation)
    return LiftedEnergy(
        costs.reshape(-1, n_labels), grid, model.regularization * scale, term
    )


# --------------------------------------------------------------------------- scenes


@pytest.mark.parametrize("cost", ["census", "adgrad", "bt", "gradient"])
def test_a_plane_is_found(cost):
    left = texture()
    model = LiftedStereo(8, cost=cost, contrast=None, discretization="grid")
    model.fit((left, shifted(left, 3)))
    np.testing.assert_array_equal(model.disparity_[:, 3:], 3.0)
    assert model.disparity_.dtype == np.float64
    assert model.converged_ and model.relative_gap_ <= 1e-4


@pytest.mark.parametrize("pairwise", ["tv", "potts", "truncated"])
def test_two_planes_are_found(planes, pairwise):
    left, right, truth, visible = planes
    model = LiftedStereo(
        10,
        0.2,
        cost=difference,
        pairwise=pairwise,
        truncation=3,
        contrast=None,
        discretization="grid",
    ).fit((left, right))
    np.testing.assert_array_equal(model.disparity_[visible], truth[visible])
    assert model.score((left, right), np.where(visible, truth, 0)) == 0.0


def test_cells_follow_the_planes(planes):
    left, right, truth, visible = planes
    cells = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) // 5  # within both planes
    cells = SuperpixelGraph("precomputed", labels=cells)
    model = LiftedStereo(10, 0.2, contrast=None, discretization=cells)
    model.fit((left, right))
    assert model.graph_.n_nodes == cells.labels.max() + 1
    np.testing.assert_array_equal(model.disparity_[visible], truth[visible])


def test_channels_and_types():
    left = (255 * texture(n_channels=1)).astype(np.uint8)
    right = shifted(left, 3).astype(np.uint8)
    model = LiftedStereo(
        6, discretization=SuperpixelGraph(n_segments=100, compactness=1e4)
    )
    disparity = model.fit_predict((left, right))
    for X in [
        np.stack([left, right]),
        np.stack([left, right])[..., 0],
        [left[..., 0], right[..., 0]],
        np.stack([left, right]) / 255,
    ]:
        again = clone(model).fit(X)
        np.testing.assert_array_equal(again.disparity_, disparity)
        assert again.energy_ == model.energy_
    assert disparity.shape == SHAPE


def test_what_is_out_of_view_follows_its_neighbours():
    left = texture()
    right = shifted(left, 5)
    model = LiftedStereo(8, contrast=None, discretization="grid").fit((left, right))
    assert (model.disparity_[:, :5] == 5).mean() > 0.9


def test_a_callable_and_the_name_of_its_cost(planes):
    left, right = planes[:2]
    model = LiftedStereo(
        10, cost="bt", discretization=SuperpixelGraph(n_segments=200, compactness=1e4)
    )
    disparity = model.fit_predict((left, right))
    model = clone(model).set_params(cost=lambda a, b, n: matching_cost(a, b, n, "bt"))
    np.testing.assert_array_equal(model.fit_predict((left, right)), disparity)


# --------------------------------------------------------------------------- energies


@pytest.mark.parametrize(
    "discretization",
    [
        "grid",
        "superpixel",
        SuperpixelGraph("slic", 150, 1e4),
    ],
    ids=["grid", "superpixel", "instance"],
)
@pytest.mark.parametrize("pairwise", ["tv", "potts", "truncated"])
def test_energies_are_those_of_the_pixels(planes, discretization, pairwise):
    left, right = planes[:2]
    model = LiftedStereo(
        10, 0.3, pairwise=pairwise, truncation=2.5, discretization=discretization
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((left, right))
    energy = pixel_energy(model, left, right, 10)
    labels = model.disparity_.astype(int).ravel()
    assert model.energy_ == pytest.approx(energy.value(labels), rel=1e-6)
    assert model.lower_bound_ <= model.energy_ + 1e-9 * abs(model.energy_)
    assert model.energy_ < energy.unary.sum(axis=0).min()  # of constant labels
    np.testing.assert_array_equal(model.labels_, model.disparity_)
    assert model.scale_ * 0.3 == pytest.approx(energy.regularization)
    if discretization == "grid":
        assert model.lower_bound_ == pytest.approx(
            energy.lower_bound(model.result_.duals), rel=1e-6
        )


def test_tv_is_exact():
    maxflow = pytest.importorskip("maxflow")
    left = texture(shape=(20, 30))
    right = 0.5 * shifted(left, 3) + 0.5 * texture(2, (20, 30))
    model = LiftedStereo(6, 0.2, cost="adgrad", discretization="grid", tol=1e-7)
    model.set_params(max_iter=20_000, dtype="float64").fit((left, right))
    energy = pixel_energy(model, left, right, 6, "adgrad")
    step = np.diff(energy.unary, axis=1)
    graph = maxflow.Graph[float]()
    node = graph.add_grid_nodes(step.shape)
    graph.add_grid_tedges(node, np.maximum(-step, 0), np.maximum(step, 0))
    i, j = energy.graph.edges.T
    for k in range(5):
        graph.add_edges(node[i, k], node[j, k], energy.strength, energy.strength)
    for k in range(4):
        never = np.full(len(node), 1e6)
        graph.add_edges(node[:, k + 1], node[:, k], never, 0 * never)
    least = energy.unary[:, 0].sum() + np.minimum(step, 0).sum() + graph.maxflow()
    assert model.energy_ == pytest.approx(least, rel=1e-5)


def test_regularization_is_relative_to_the_costs(planes):
    X = planes[:2]
    cells = SuperpixelGraph(n_segments=200, compactness=1e4)

    def ten_times(left, right, n):
        return 10 * matching_cost(left, right, n)

    model = LiftedStereo(10, discretization=cells, random_state=0).fit(X)
    larger = clone(model).set_params(cost=ten_times).fit(X)
    assert larger.scale_ == pytest.approx(10 * model.scale_)
    assert larger.energy_ == pytest.approx(10 * model.energy_, rel=1e-4)
    plain = clone(model).set_params(
        normalize_cost=False, regularization=0.4 * model.scale_
    )
    assert plain.fit(X).energy_ == pytest.approx(model.energy_)
    assert plain.scale_ == 1.0


def test_confidence(planes):
    X = planes[:2]
    model = LiftedStereo(10, discretization="grid").fit(X)
    assert model.confidence_.shape == SHAPE
    assert (model.confidence_ <= 1 + 1e-6).all() and (model.confidence_ > 0).all()
    assert np.median(model.confidence_) > 0.99


# --------------------------------------------------------------------------- labels


def test_few_labels(planes):
    left, right, truth, visible = planes
    model = LiftedStereo(11, cost="adgrad", n_labels=6, discretization="grid")
    disparity = model.fit_predict((left, right))
    assert set(np.unique(disparity)) <= {0, 2, 4, 6, 8, 10}
    assert (disparity[visible & (truth == 2)] == 2).mean() > 0.95
    assert model.primal_.shape[1] == 6
    # a step of one label is two pixels of disparity
    energy = pixel_energy(model, left, right, 11, "adgrad")
    term = make_pairwise("tv", 11)
    energy = LiftedEnergy(energy.unary, energy.graph, 0.4 * model.scale_, term)
    assert model.energy_ == pytest.approx(energy.value(disparity.astype(int).ravel()))


def test_one_label(planes):
    left, right = planes[:2]
    for params in ({"max_disparity": 1}, {"n_labels": 1}):
        model = LiftedStereo(**params, discretization="grid").fit((left, right))
        assert (model.disparity_ == 0).all() and model.gap_ == 0


@pytest.fixture(scope="module")
def slant():
    """A plane whose disparity rises from 2 to 6 along a row."""
    x = np.arange(120)
    truth = np.repeat(2 + 4 * x[None] / 119, 60, axis=0)
    rng = np.random.RandomState(0)
    noise = rng.rand(60, 200)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    right = np.stack([np.convolve(row, kernel / kernel.sum(), "same") for row in noise])
    right = (right - right.min()) / np.ptp(right)
    columns = np.arange(200) - 40
    left = np.stack([np.interp(x - truth[0], columns, row) for row in right])
    return left, right[:, 40:160], truth


def test_sublabel_is_finer_than_pixels(slant):
    left, right, truth = slant
    cells = SuperpixelGraph(n_segments=300, compactness=1e4)
    errors = {}
    for sublabel, n_labels in [(False, None), (True, None), (True, 4)]:
        model = LiftedStereo(
            8, 0.1, sublabel=sublabel, n_labels=n_labels, discretization=cells, tol=1e-2
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            disparity = model.fit_predict((left, right))
        errors[sublabel, n_labels] = abs(disparity - truth)[:, 8:].mean()
        assert (disparity % 1 != 0).any() == sublabel
        assert (disparity >= 0).all() and (disparity <= 7).all()
        np.testing.assert_array_equal(model.labels_, disparity)
    assert errors[True, None] < 0.6 * errors[False, None]
    assert errors[True, 4] < 0.8 * errors[False, None]
    assert errors[False, None] < 0.3


# -------------------------------------------------------------- several pairs, searches


@pytest.fixture(scope="module")
def pairs():
    lefts = [texture(seed) for seed in (3, 4)]
    X = np.stack([np.stack([left, shifted(left, 3)]) for left in lefts])
    y = np.full((2, *SHAPE), 3.0)
    y[:, :, :3] = np.inf
    return X, y


def test_several_pairs(pairs):
    X, y = pairs
    model = LiftedStereo(
        6, discretization=SuperpixelGraph(n_segments=150, compactness=1e4)
    ).fit(X)
    assert model.disparity_.shape == y.shape == model.confidence_.shape
    alone = [clone(model).fit(pair) for pair in X]
    for k in (0, 1):
        np.testing.assert_array_equal(model.disparity_[k], alone[k].disparity_)
        assert model.result_[k].energy == alone[k].energy_
        assert model.graph_[k].n_nodes == len(model.primal_[k])
    assert model.energy_ == alone[0].energy_ + alone[1].energy_
    assert model.lower_bound_ == alone[0].lower_bound_ + alone[1].lower_bound_
    assert model.gap_ == pytest.approx(model.energy_ - model.lower_bound_)
    scores = [one.score(pair, truth) for one, pair, truth in zip(alone, X, y, strict=1)]
    assert model.score(X, y) == pytest.approx(np.mean(scores))


def test_pairs_of_different_sizes(pairs):
    X, y = pairs
    small = X[1][:, :30]
    model = LiftedStereo(
        6, discretization=SuperpixelGraph(n_segments=150, compactness=1e4)
    )
    for pairs_ in ([X[0], small], [tuple(X[0]), tuple(small)], (X[0], small)):
        found = clone(model).fit_predict(pairs_)
        assert [field.shape for field in found] == [SHAPE, (30, 70)]
        np.testing.assert_array_equal(found[0], model.fit_predict(X[0]))
    assert model.score([X[0], small], [y[0], y[1][:30]]) > -20


def test_a_search(pairs):
    X, y = pairs
    model = LiftedStereo(6, discretization=SuperpixelGraph(compactness=1e4))
    grid = {"regularization": [0.3, 1e4], "discretization__n_segments": [50, 200]}
    y = y.copy()
    y[:, 10:30, 20:50] = 5.0  # wrong, so that even the best is not perfect
    search = GridSearchCV(model, grid, cv=[(range(2), range(2))], error_score="raise")
    search.fit(X, y)
    assert search.best_params_["regularization"] == 0.3
    assert search.best_score_ == pytest.approx(search.best_estimator_.score(X, y))
    search = GridSearchCV(model, grid, cv=[([0], [0])], error_score="raise")
    search.fit(X[:1], y[:1])
    assert search.best_estimator_.disparity_.shape == (1, *SHAPE)
    scores = cross_val_score(model, list(X), list(y), cv=2, error_score="raise")
    assert scores.shape == (2,)


# --------------------------------------------------------------------------- contract


def test_prediction_and_copies(planes):
    left, right, truth, visible = planes
    X = (left, right)
    model = LiftedStereo(10, discretization="grid", random_state=0)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(NotFittedError):
        model.score(X, truth)
    model.fit(X)
    np.testing.assert_array_equal(model.predict(X), model.disparity_)
    np.testing.assert_array_equal(clone(model).fit_predict(X), model.disparity_)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X), model.disparity_)
    other = (texture(7, (20, 30)), texture(7, (20, 30)))
    np.testing.assert_array_equal(model.predict(other), 0)
    assert model.disparity_.shape == SHAPE  # as it was
    nested = LiftedStereo(discretization=SuperpixelGraph())
    nested.set_params(discretization__n_segments=7)
    assert nested.get_params()["discretization__n_segments"] == 7


def test_score_counts_bad_pixels(planes):
    left, right, truth, _ = planes
    model = LiftedStereo(10, discretization="grid").fit((left, right))
    y = model.disparity_ + 1.0  # not bad: at most one pixel
    y[0, :10] += 0.5
    y[1, :5] = [0, -1, np.nan, np.inf, 0]  # unknown
    assert model.score((left, right), y) == pytest.approx(-1000 / (y.size - 5))
    with pytest.raises(ValueError, match="no known disparity"):
        model.score((left, right), np.zeros(SHAPE))
    with pytest.raises(ValueError, match=r"shape of the prediction, \(40, 70\)"):
        model.score((left, right), truth[1:])
    with pytest.raises(ValueError, match="X has 1 pairs of images, but y 2"):
        model.score([(left, right)], [truth, truth])


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"max_disparity": 0}, ValueError, "max_disparity must be >= 1"),
        ({"max_disparity": 8.0}, TypeError, "max_disparity must be an int"),
        ({"max_disparity": 71}, ValueError, "max_disparity=71 exceeds the width .* 70"),
        ({"max_disparity": 1, "sublabel": True}, ValueError, "max_disparity must be"),
        ({"regularization": -1}, ValueError, "regularization must be >= 0"),
        ({"regularization": np.nan}, ValueError, "regularization must be >= 0"),
        ({"cost": "ssd"}, ValueError, "cost must be one of 'census'"),
        ({"pairwise": "sublabel"}, ValueError, "pairwise must be one of 'potts'"),
        ({"pairwise": "truncated"}, ValueError, "needs truncation"),
        ({"sublabel": True, "pairwise": "potts"}, ValueError, "needs pairwise='tv'"),
        ({"n_labels": 17}, ValueError, r"n_labels must be in \[1, 16\]"),
        ({"n_labels": 1, "sublabel": True}, ValueError, r"n_labels must be in \[2,"),
        ({"discretization": "knn"}, ValueError, "discretization must be 'superpixel'"),
        ({"discretization": np.zeros(3)}, ValueError, "discretization must be"),
        ({"contrast": 3}, ValueError, "contrast must be None or a pair"),
        ({"connectivity": 6}, ValueError, "connectivity must be"),
        ({"tol": 0}, ValueError, "tol must be > 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_parameters(params, error, match):
    left = texture()
    with pytest.raises(error, match=match):
        LiftedStereo(**params).fit((left, left))


@pytest.mark.parametrize(
    "X, match",
    [
        (np.zeros((3, 20, 20, 3)), "a pair must be two images, got 3"),
        (np.zeros((20, 20)), "X must be a pair of images"),
        ([], "at least one pair"),
        ((np.zeros((20, 20)), np.zeros((20, 21))), "the same shape"),
        ((np.zeros((20, 20)), np.zeros((20, 20, 3))), "the same shape"),
        ((np.zeros((20, 20)), np.full((20, 20), np.nan)), "NaN"),
        ((np.zeros((20, 0)), np.zeros((20, 0))), "must have shape"),
    ],
    ids=["three", "image", "none", "sizes", "channels", "NaN", "empty"],
)
def test_bad_images(X, match):
    with pytest.raises(ValueError, match=match):
        LiftedStereo().fit(X)


def test_a_warning_about_units():
    left = texture(shape=(20, 30))
    with pytest.warns(UserWarning, match=r"pixels reach 25\d.*expect \[0, 1\]") as seen:
        LiftedStereo(4, discretization="grid").fit((255 * left, 255 * left))
    assert seen[0].filename == __file__


# --------------------------------------------------------------------------- real pairs


@pytest.mark.skipif(
    "SKPOISON_SHARED_DATA" not in os.environ, reason="SKPOISON_SHARED_DATA is not set"
)
@pytest.mark.parametrize(
    "name, n_disparities, unit, most_bad",
    [("tsukuba", 16, 16, 3.19), ("cones", 60, 4, 4.86)],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_middlebury_pairs(name, n_disparities, unit, most_bad):
    image = pytest.importorskip("PIL.Image")
    folder = Path(os.environ["SKPOISON_SHARED_DATA"]) / "stereo" / name
    left, right, truth, visible = (
        np.asarray(image.open(folder / f"{kind}.png").convert("RGB"))
        for kind in ("imL", "imR", "groundtruth", "nonocc")
    )
    truth = np.where(visible[..., 0] == 255, truth[..., 0] / unit, 0)
    model = LiftedStereo(n_disparities, tol=1e-3, max_iter=800).fit((left, right))
    bad = abs(model.disparity_ - truth)[truth > 0] > 1
    assert 100 * bad.mean() < most_bad
