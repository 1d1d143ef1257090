import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV

from skpoison.partition import LiftedFlow, PartitionGraph, SuperpixelGraph
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._matching_costs import displacement_costs

SHAPE = (40, 50)
BACKGROUND, SQUARE = (1, -2), (-2, 1)


@pytest.fixture(scope="module")
def scene():
    """A square that moves one way and a background that moves another."""
    rng = np.random.RandomState(0)
    wide = rng.rand(SHAPE[0] + 4, SHAPE[1] + 4, 3)
    dy, dx = BACKGROUND
    first = wide[2:-2, 2:-2].copy()
    second = wide[2 - dy : 42 - dy, 2 - dx : 52 - dx].copy()
    square = rng.rand(16, 16, 3)
    first[12:28, 16:32] = square
    second[10:26, 17:33] = square
    truth = np.tile(np.array(BACKGROUND, dtype=float), (*SHAPE, 1))
    truth[12:28, 16:32] = SQUARE
    visible = np.zeros(SHAPE, dtype=bool)
    visible[3:-3, 3:-3] = True
    visible[6:32, 13:38] = False  # where the square may hide the background
    visible[12:28, 16:32] = True
    return first, second, truth, visible


def photographs(noise=0.03):
    """A disc of one photograph moves over another."""
    data = pytest.importorskip("skimage.data")
    behind = data.astronaut()[:360:2, :440:2] / 255
    before = data.cat()[60:240, 100:320] / 255
    height, width = 160, 200
    y, x = np.mgrid[:height, :width]

    def frame(dy, dx, dy_2, dx_2):
        image = behind[10 - dy :, 10 - dx :][:height, :width].copy()
        disc = (y - 80 - dy_2) ** 2 + (x - 100 - dx_2) ** 2 < 45**2
        image[disc] = before[10 - dy_2 :, 10 - dx_2 :][:height, :width][disc]
        return image, disc

    rng = np.random.RandomState(0)
    (first, disc), (second, _) = frame(0, 0, 0, 0), frame(2, -1, -3, 2)
    first, second = (
        np.clip(image + noise * rng.randn(*image.shape), 0, 1)
        for image in (first, second)
    )
    return first, second, np.where(disc[..., None], (-3.0, 2.0), (2.0, -1.0))


@pytest.mark.slow
@pytest.mark.parametrize("pairwise", ["potts", "separable_tv"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_moving_square(scene, pairwise):
    first, second, truth, visible = scene
    model = LiftedFlow(3, 0.02, pairwise=pairwise, discretization="grid")
    model.set_params(tol=1e-3, max_iter=500)
    flow = model.fit_predict((first, second))
    np.testing.assert_array_equal(flow[visible], truth[visible])
    assert flow.shape == (*SHAPE, 2) and flow.dtype == np.float64
    # (dy, dx): what it says lies there
    y, x = np.argwhere(visible).T
    there = second[y + flow[y, x, 0].astype(int), x + flow[y, x, 1].astype(int)]
    np.testing.assert_array_equal(there, first[y, x])


@pytest.mark.slow
@pytest.mark.parametrize("n_segments, most", [(250, 0.19), (800, 0.17)])
def test_photographs_beat_what_is_smooth(n_segments, most):
    registration = pytest.importorskip("skimage.registration")
    first, second, truth = photographs()
    cells = SuperpixelGraph("slic", n_segments, compactness=10.0)
    model = LiftedFlow(discretization=cells, tol=1e-3).fit((first, second))
    error = -model.score((first, second), truth)
    assert error == pytest.approx(
        np.linalg.norm(model.flow_ - truth, axis=2).mean(), rel=1e-9
    )
    smooth = registration.optical_flow_tvl1(first.mean(axis=2), second.mean(axis=2))
    peer = np.linalg.norm(np.moveaxis(smooth, 0, -1) - truth, axis=2).mean()
    assert error < most and error < 0.6 * peer


@pytest.mark.parametrize("pairwise", ["potts", "separable_tv"])
@pytest.mark.parametrize(
    "discretization", ["grid", SuperpixelGraph(n_segments=100, compactness=1e4)]
)
def test_energies_are_those_of_the_pixels(scene, pairwise, discretization):
    first, second = scene[:2]
    model = LiftedFlow(2, pairwise=pairwise, discretization=discretization)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(max_iter=200).fit((first, second))
    unary = np.stack(list(displacement_costs(first, second, 2)), axis=-1)
    term = make_pairwise(pairwise, 25, label_shape=(5, 5))
    energy = LiftedEnergy(
        unary.reshape(-1, 25).astype(float), PartitionGraph.from_grid(SHAPE), 0.1, term
    )
    rows, columns = np.moveaxis(model.flow_.astype(int) + 2, -1, 0)
    labels = rows * 5 + columns
    np.testing.assert_array_equal(model.labels_, labels)
    assert model.energy_ == pytest.approx(energy.value(labels.ravel()), rel=1e-6)
    assert model.lower_bound_ <= model.energy_
    assert model.scale_ == 1.0
    assert model.confidence_.shape == SHAPE


def test_radius_zero_and_normalised_costs(scene):
    X = scene[:2]
    model = LiftedFlow(0).fit(X)
    assert (model.flow_ == 0).all() and model.gap_ == 0
    model = LiftedFlow(1, 0.7, normalize_cost=True, discretization="grid").fit(X)
    costs = np.stack(list(displacement_costs(*X, 1)))
    assert model.scale_ == pytest.approx(np.median(np.ptp(costs, axis=0)))
    plain = LiftedFlow(1, 0.7 * model.scale_, discretization="grid").fit(X)
    assert plain.energy_ == pytest.approx(model.energy_)


def test_grey_and_whole_numbers(scene):
    first, second = ((255 * image[..., 0]).astype(np.uint8) for image in scene[:2])
    model = LiftedFlow(
        2, discretization=SuperpixelGraph(n_segments=100, compactness=1e4)
    )
    flow = model.fit_predict((first, second))
    for X in [np.stack([first, second]), np.stack([first, second]) / 255]:
        np.testing.assert_array_equal(model.fit_predict(X), flow)


@pytest.mark.slow
def test_several_pairs_and_a_search(scene):
    first, second, truth, visible = scene
    X = np.stack([np.stack([first, second]), np.stack([second, first])])
    y = np.stack([truth, -truth])
    model = LiftedFlow(
        3, discretization=SuperpixelGraph(compactness=1e4), max_iter=100, tol=1e-2
    )
    grid = {"regularization": [0.1, 1e3], "discretization__n_segments": [60, 200]}
    search = GridSearchCV(model, grid, cv=[(range(2), range(2))], error_score="raise")
    search.fit(X, y)
    best = search.best_estimator_
    assert best.regularization == 0.1
    assert best.flow_.shape == (2, *SHAPE, 2)
    scores = [best.score(pair, field) for pair, field in zip(X, y, strict=True)]
    assert search.best_score_ == pytest.approx(np.mean(scores))
    y[0, :20] = np.nan  # unknown
    assert best.score(X[0], y[0]) == pytest.approx(
        -np.linalg.norm(best.flow_[0] - truth, axis=-1)[20:].mean()
    )


def test_contract(scene):
    X = scene[:2]
    model = LiftedFlow(
        2, random_state=0, discretization=SuperpixelGraph(compactness=1e4)
    )
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.set_params(discretization__n_segments=80).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.flow_)
    np.testing.assert_array_equal(clone(model).fit_predict(X), model.flow_)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X), model.flow_)
    with pytest.raises(ValueError, match="no known displacement"):
        model.score(X, np.full((*SHAPE, 2), np.nan))
    with pytest.raises(ValueError, match="shape of the prediction"):
        model.score(X, np.zeros(SHAPE))


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"radius": -1}, ValueError, "radius must be >= 0"),
        ({"radius": 1.5}, TypeError, "radius must be an int"),
        ({"regularization": -1}, ValueError, "regularization must be >= 0"),
        ({"pairwise": "tv"}, ValueError, "pairwise must be one of 'potts', 'separ"),
        ({"discretization": None}, ValueError, "discretization must be 'superpixel'"),
        ({"contrast": (0, 1)}, ValueError, r"contrast\[0\] must be > 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_parameters(scene, params, error, match):
    with pytest.raises(error, match=match):
        LiftedFlow(**params).fit(scene[:2])


def test_bad_images(scene):
    first = scene[0].copy()
    with pytest.raises(ValueError, match="the same shape"):
        LiftedFlow().fit((first, first[1:]))
    first[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        LiftedFlow().fit((first, first))
