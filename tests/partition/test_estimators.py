"""What all estimators of the package promise alike."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import (
    LiftedFlow,
    LiftedLabelPropagation,
    LiftedLabelRepair,
    LiftedPartition,
    LiftedStereo,
    PartitionGraph,
    SuperpixelGraph,
)

RNG = np.random.RandomState(0)
LEFT = RNG.rand(12, 20, 3).round(2)
RIGHT = np.roll(LEFT, -2, axis=1)
PAIR = np.stack([LEFT, RIGHT])
ROWS = np.concatenate([RNG.randn(15, 2), RNG.randn(15, 2) + 3])
CLASSES = np.repeat([0, 1], 15)
GIVEN = np.where(np.arange(30) % 5 == 0, CLASSES, -1)
FLIPPED = np.where(np.arange(30) % 7 == 0, 1 - CLASSES, CLASSES)
CELLS = SuperpixelGraph(n_segments=40, compactness=1e3)

# estimators at small sizes, the data they take, and the attribute that is their answer
CASES = {
    "rows": (LiftedPartition(3, random_state=0), (ROWS,), "labels_"),
    "pixels": (
        LiftedPartition(3, discretization="grid", random_state=0),
        (LEFT,),
        "labels_",
    ),
    "cells": (
        LiftedPartition(3, discretization=CELLS, refine=2, random_state=0),
        (LEFT,),
        "labels_",
    ),
    "stereo": (LiftedStereo(4, discretization=CELLS), (PAIR,), "disparity_"),
    "flow": (LiftedFlow(1, discretization=CELLS), (PAIR,), "flow_"),
    "propagation": (LiftedLabelPropagation(5), (ROWS, GIVEN), "transduction_"),
    "repair": (LiftedLabelRepair(5), (ROWS, FLIPPED), "repaired_labels_"),
}
IMAGES = ("pixels", "cells", "stereo", "flow")


@pytest.fixture(params=CASES)
def case(request):
    estimator, data, answer = CASES[request.param]
    return clone(estimator), data, answer


# ---------------------------------------------------------------------------- solvers


def _solvers(name):
    """Name what the problem of a case can be solved with, besides the default."""
    found = [
        pytest.param({"solver": "cvxpy"}, "cvxpy", id=f"{name}-cvxpy"),
        pytest.param({"solver": "cvxpy:CLARABEL"}, "cvxpy", id=f"{name}-clarabel"),
        pytest.param({"backend": "torch"}, "torch", id=f"{name}-torch"),
        pytest.param({"dtype": "float64"}, "numpy", id=f"{name}-float64"),
    ]
    if name in ("stereo", "propagation", "repair"):  # "tv", or two labels
        found.append(
            pytest.param({"solver": "maxflow"}, "maxflow", id=f"{name}-maxflow")
        )
    return [pytest.param(name, *p.values, id=p.id) for p in found]


@pytest.mark.parametrize(
    "name, params, package", [p for name in CASES for p in _solvers(name)]
)
def test_solvers_agree(name, params, package):
    pytest.importorskip(package)
    estimator, data, _ = CASES[name]
    estimator = clone(estimator).set_params(tol=1e-5)
    first = clone(estimator).fit(*data)
    other = estimator.set_params(**params).fit(*data)
    size = abs(first.energy_)
    assert first.converged_ and other.converged_
    # either may be above the other by its gap only
    assert other.energy_ <= first.energy_ + first.gap_ + other.gap_ + 1e-6 * size
    assert first.energy_ <= other.energy_ + first.gap_ + other.gap_ + 1e-6 * size
    if name != "cells":  # bands leave a loose bound
        assert max(first.relative_gap_, other.relative_gap_) <= 2e-5
        assert other.lower_bound_ <= first.energy_ + 1e-6 * size


@pytest.mark.parametrize("params", [{"pairwise": "tv"}, {"n_labels": 2}], ids=str)
@pytest.mark.parametrize("name", ["rows", "pixels", "cells"])
def test_minimum_cuts_of_a_partition(name, params):
    pytest.importorskip("maxflow")
    estimator, data, answer = CASES[name]
    estimator = clone(estimator).set_params(refine=0, tol=1e-6, **params)
    first = clone(estimator).fit(*data)
    exact = estimator.set_params(solver="maxflow").fit(*data)
    assert exact.relative_gap_ <= 1e-6
    assert exact.energy_ == pytest.approx(first.energy_, rel=2e-6)
    if name == "cells":
        with pytest.raises(ValueError, match="maxflow"):
            clone(estimator).set_params(pairwise="potts", n_labels=3).fit(*data)


@pytest.mark.parametrize(
    "params, match",
    [
        ({"solver": "simplex"}, "solver must be one of"),
        ({"solver": "cvxpy:NONE"}, "with NAME one of"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"backend": "jax"}, "backend must be one of"),
        ({"device": "cuda:0"}, "device must be"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"max_iter": 0}, "max_iter must be >= 1"),
        ({"regularization": -1.0}, "regularization must be >= 0"),
        ({"regularization": np.nan}, "regularization must be >= 0"),
        ({"solver_options": {"step": 1}}, "solver_options"),
        ({"random_state": -1}, "random_state must be in"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_parameters_come_before_the_work(case, params, match, monkeypatch):
    if "cvxpy" in str(params) or params.get("solver") == "simplex":
        pytest.importorskip("cvxpy")

    def work(*args, **kwargs):
        raise AssertionError("graph, cells or costs were made")

    for owner, name in (
        (SuperpixelGraph, "fit"),
        (PartitionGraph, "from_grid"),
        (PartitionGraph, "from_neighbors"),
        (PartitionGraph, "from_edges"),
    ):
        monkeypatch.setattr(owner, name, work)
    estimator, data, _ = case
    with pytest.raises(ValueError, match=match):
        estimator.set_params(**params).fit(*data)


# ------------------------------------------------------------------ metric of the cells


@pytest.mark.parametrize(
    "of_cells, of_estimator, expected",
    [
        ({}, {}, (4, None)),
        ({}, {"contrast": (20.0, 0.2)}, (4, (20.0, 0.2))),
        ({"contrast": (5.0, 0.3)}, {"contrast": (20.0, 0.2)}, (4, (5.0, 0.3))),
        ({"contrast": (5.0, 0.3)}, {}, (4, (5.0, 0.3))),
        ({"connectivity": 8}, {}, (8, None)),
        ({}, {"connectivity": 8}, (8, None)),
    ],
    ids=["neither", "estimator", "both", "cells", "eight of cells", "eight"],
)
@pytest.mark.parametrize("name", ["cells", "stereo", "flow"])
def test_one_rule_for_contrast_and_connectivity(name, of_cells, of_estimator, expected):
    estimator, data, _ = CASES[name]
    cells = clone(CELLS).set_params(**of_cells)
    estimator = clone(estimator).set_params(
        discretization=cells, **{"contrast": None, **of_estimator}
    )
    connectivity, contrast = expected
    graph = estimator.fit(*data).graph_
    labels = clone(CELLS).fit(LEFT).labels_
    grid = PartitionGraph.from_grid(
        LEFT.shape[:2], connectivity, image=LEFT, contrast=contrast
    )
    assert np.array_equal(graph.labels, labels)
    np.testing.assert_allclose(graph.weights, grid.contract(labels).weights)
    if name == "cells":
        np.testing.assert_allclose(estimator.pixel_graph_.weights, grid.weights)
    # what was passed is as it was
    assert cells.get_params() == clone(CELLS).set_params(**of_cells).get_params()
    assert not hasattr(cells, "graph_")


def test_default_contrast_of_stereo_is_that_of_its_cells():
    named = LiftedStereo(4).fit(PAIR).graph_
    instance = SuperpixelGraph(compactness=10.0)
    own = LiftedStereo(4, discretization=instance).fit(PAIR).graph_
    np.testing.assert_array_equal(named.weights, own.weights)
    assert named.weights.min() < 1.0
    plain = LiftedStereo(4, discretization=instance, contrast=None).fit(PAIR).graph_
    assert (plain.weights == 1.0).all()


@pytest.mark.parametrize("name", ["cells", "stereo", "flow"])
def test_cells_of_an_isotropic_grid_are_refused(name):
    estimator, data, _ = CASES[name]
    with pytest.raises(ValueError, match="connectivity must be 4 or 8 for cells"):
        clone(estimator).set_params(connectivity="isotropic").fit(*data)


# ------------------------------------------------------------------------------ refits


def test_refits_and_copies(case):
    estimator, data, answer = case
    before = [array.copy() for array in data]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = clone(estimator).fit(*data)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    second = clone(estimator).fit(*data)
    for name in (answer, "primal_", "energy_", "lower_bound_", "n_iter_"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    again = second.fit(*data)
    np.testing.assert_array_equal(getattr(again, answer), getattr(first, answer))
    copy = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(getattr(copy, answer), getattr(first, answer))
    assert copy.energy_ == first.energy_
    for array, kept in zip(data, before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("name", CASES)
def test_layouts_and_read_only_memory(name):
    estimator, (X, *y), answer = CASES[name]
    wanted = getattr(clone(estimator).fit(X, *y), answer)
    fortran = np.asfortranarray(X)
    locked = X.copy()
    locked.flags.writeable = False
    spread = np.repeat(X, 2, axis=0)[::2]
    for other in (fortran, locked, spread, X.tolist()):
        found = getattr(clone(estimator).fit(other, *y), answer)
        np.testing.assert_array_equal(found, wanted)


def test_a_refit_leaves_nothing_behind():
    model = LiftedPartition(3, discretization=CELLS, refine=2, random_state=0)
    model.fit(LEFT)
    assert hasattr(model, "pixel_graph_") and hasattr(model, "cluster_centers_")
    model.set_params(unary="precomputed", discretization="grid", refine=0)
    fresh = clone(model).fit(LEFT)
    assert set(vars(model.fit(LEFT))) == set(vars(fresh))
    assert model.energy_ == fresh.energy_


@pytest.mark.parametrize("name", CASES)
def test_other_data_replace_all(name):
    estimator, (X, *y), answer = CASES[name]
    rng = np.random.RandomState(1)
    if name in ("stereo", "flow"):
        other = (np.stack([rng.rand(9, 15), rng.rand(9, 15)]),)
    elif name in IMAGES:
        other = (rng.rand(9, 15),)
    else:
        other = (rng.rand(25, 4), *(part[:25] for part in y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        refitted = clone(estimator).fit(X, *y).fit(*other)
        fresh = clone(estimator).fit(*other)
    assert set(vars(refitted)) == set(vars(fresh))
    np.testing.assert_array_equal(getattr(refitted, answer), getattr(fresh, answer))
    np.testing.assert_array_equal(refitted.graph_.weights, fresh.graph_.weights)


# -------------------------------------------------------------------------- odd images


def _as_pair(name, image):
    return image if name in ("pixels", "cells") else (image, image)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    "image",
    [
        np.ones((1, 1, 3)),
        np.linspace(0, 1, 9).reshape(1, 9),
        np.linspace(0, 1, 9).reshape(9, 1),
        np.full((6, 7), 0.5),
        LEFT[..., 0] > 0.5,
        (4 * LEFT).astype(int) // 4,
        LEFT.astype(np.float16),
        LEFT[..., :2],
    ],
    ids="pixel row column constant bool integers half channels".split(),
)
def test_small_and_odd_images(name, image):
    estimator = clone(CASES[name][0])
    if name == "stereo":
        estimator.set_params(max_disparity=min(4, image.shape[1]))
    if image[..., :1].size == 1 and name in ("pixels", "cells"):
        estimator.set_params(n_labels=1)
    with warnings.catch_warnings():
        # k-means finds fewer colours, slic fewer cells of a constant image
        warnings.simplefilter("ignore")
        answer = getattr(estimator.fit(_as_pair(name, image)), CASES[name][2])
    assert answer.shape[:2] == image.shape[:2]
    assert np.isfinite(answer).all()
    assert estimator.lower_bound_ <= estimator.energy_ + 1e-9


@pytest.mark.parametrize("name", IMAGES)
def test_bytes_are_floats_over_255(name):
    estimator, (X,), answer = CASES[name]
    data = np.rint(255 * X).astype(np.uint8)
    one, two = (clone(estimator).fit(x) for x in (data, data / 255.0))
    np.testing.assert_array_equal(getattr(one, answer), getattr(two, answer))
    assert one.energy_ == two.energy_


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    "image, match",
    [
        (np.where(np.arange(12).reshape(3, 4) == 5, np.nan, 0.5), "X contains NaN"),
        (np.where(np.arange(12).reshape(3, 4) == 5, np.inf, 0.5), "contains infinity"),
        (np.ones(4), r"must have shape \(height, width\).*got \(4,\)"),
        (np.ones((3, 3, 4, 5)), "must have shape|must be two images"),
        (np.ones((0, 4)), r"must have shape.*got \(0, 4\)"),
        (np.ones((4, 0, 3)), r"must have shape.*got \(4, 0, 3\)"),
        (np.ones((4, 4, 0)), r"must have shape.*got \(4, 4, 0\)"),
        (None, "must have shape|X must be"),
        (1j * np.ones((3, 3)), "Complex data not supported"),
        (np.full((3, 3), "a"), "could not convert string"),
    ],
    ids="nan inf vector batch rows columns channels none complex text".split(),
)
def test_bad_images(name, image, match):
    with pytest.raises(ValueError, match=match):
        clone(CASES[name][0]).fit(_as_pair(name, image))


def test_displacements_beyond_the_image():
    model = LiftedFlow(15, discretization="grid", max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        flow = model.fit((LEFT[:4, :5], LEFT[:4, :5])).flow_
    # what is out of view costs most, and all else is free to match itself
    assert (flow == 0).all() and model.energy_ == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="max_disparity=6 exceeds the width.*5"):
        LiftedStereo(6).fit((LEFT[:4, :5], LEFT[:4, :5]))
