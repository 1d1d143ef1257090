"""Minimum cuts against every labelling and against cvxpy."""

import itertools
import os
import sys

import numpy as np
import pytest

pytest.importorskip("maxflow")

from skpoison.partition import PartitionGraph  # noqa: E402
from skpoison.partition import _maxflow as module  # noqa: E402
from skpoison.partition._cvxpy import solve_cvxpy  # noqa: E402
from skpoison.partition._energy import LiftedEnergy, make_pairwise  # noqa: E402
from skpoison.partition._maxflow import solve_maxflow  # noqa: E402

CASES = {
    "potts": ("potts", 2, {}),
    "truncated": ("truncated", 2, {"truncation": 0.4}),
    "truncated above 1": ("truncated", 2, {"truncation": 3.0}),
    "tv of two": ("tv", 2, {"label_values": [0.0, 2.5]}),
    "tv": ("tv", 4, {"label_values": [-1.0, 0.5, 2.0, 2.1]}),
}


def make_energy(case, seed, n=6, regularization=0.4):
    name, n_labels, options = CASES[case]
    rng = np.random.default_rng(seed)
    graph = PartitionGraph.from_edges(
        rng.integers(0, n, (2 * n, 2)), rng.random(2 * n), n
    )
    unary = rng.normal(size=(n, n_labels))
    return LiftedEnergy(
        unary, graph, regularization, make_pairwise(name, n_labels, **options)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(5))
def test_no_labelling_is_better(case, seed):
    energy = make_energy(case, seed)
    every = itertools.product(range(energy.n_labels), repeat=6)
    best = min(energy.value(np.array(x)) for x in every)
    result = solve_maxflow(energy)
    assert result.energy == energy.value(result.labels)
    assert result.energy == pytest.approx(best, abs=1e-12)
    assert best - 1e-12 <= result.lower_bound <= result.energy
    np.testing.assert_array_equal(
        result.assignment, np.eye(energy.n_labels)[result.labels]
    )
    assert result.converged
    assert result.solver == "maxflow"


@pytest.mark.parametrize("case", CASES)
def test_the_flow_certifies_the_bound(case, monkeypatch):
    energy = make_energy(case, 0, n=40)
    result = solve_maxflow(energy)
    assert result.duals.shape == (energy.graph.n_edges, len(energy.pairwise.costs))
    assert energy.lower_bound(result.duals) == pytest.approx(result.energy, rel=1e-12)
    monkeypatch.setattr(module, "_READABLE", 0)
    large = solve_maxflow(energy)
    assert large.duals is None
    assert large.lower_bound == pytest.approx(result.lower_bound, rel=1e-12)
    np.testing.assert_array_equal(large.labels, result.labels)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_linear_program(case):
    energy = make_energy(case, 1, n=60)
    ours, theirs = solve_maxflow(energy), solve_cvxpy(energy)
    assert ours.energy == pytest.approx(theirs.energy, abs=1e-6)
    assert ours.lower_bound == pytest.approx(theirs.lower_bound, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_weights_and_costs_of_any_size(scale):
    energy = make_energy("tv", 2)
    expected = solve_maxflow(energy)
    energy.unary *= scale
    energy.regularization *= scale
    result = solve_maxflow(energy)
    assert result.energy == pytest.approx(scale * expected.energy, rel=1e-9)
    assert result.lower_bound == pytest.approx(result.energy, rel=1e-9)
    rng = np.random.default_rng(0)
    energy.graph.weights = 10.0 ** rng.uniform(-6, 6, energy.graph.n_edges)
    result = solve_maxflow(energy)
    assert result.lower_bound == pytest.approx(result.energy, rel=1e-9)


def test_isolated_nodes_take_their_cheapest_label():
    graph = PartitionGraph.from_edges([[0, 1]], n_nodes=4)
    unary = np.random.default_rng(0).random((4, 5))
    result = solve_maxflow(LiftedEnergy(unary, graph, 0.1, make_pairwise("tv", 5)))
    np.testing.assert_array_equal(result.labels[2:], unary[2:].argmin(axis=1))


@pytest.mark.parametrize(
    "name, n_labels, connectivity",
    [("potts", 3, 4), ("truncated", 3, 4), ("sublabel", 3, 4), ("tv", 3, "isotropic")],
)
def test_other_terms_are_refused(name, n_labels, connectivity):
    term = make_pairwise(
        name, n_labels, truncation=2, coarse_values=[0, 2] if n_labels else None
    )
    grid = PartitionGraph.from_grid((2, 2), connectivity)
    energy = LiftedEnergy(np.zeros((4, n_labels)), grid, 1.0, term)
    with pytest.raises(ValueError, match=f"takes pairwise='tv'.*got pairwise='{name}'"):
        solve_maxflow(energy)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(ImportError, match=r"skpoison\[maxflow\]"):
        solve_maxflow(make_energy("potts", 0))


def test_tsukuba_crop():
    folder = os.environ.get("SKPOISON_SHARED_DATA")
    if not folder:
        pytest.skip("SKPOISON_SHARED_DATA is not set: no Tsukuba pair")
    image = pytest.importorskip("PIL.Image")
    from skpoison.partition._matching_costs import matching_cost

    left, right = (
        np.asarray(image.open(f"{folder}/stereo/tsukuba/{name}").convert("RGB")) / 255
        for name in ("imL.png", "imR.png")
    )
    costs = matching_cost(left, right, 16, "bt")
    unary = costs[80:176, 120:248].reshape(-1, 16)
    grid, term = PartitionGraph.from_grid((96, 128)), make_pairwise("tv", 16)
    for regularization, optimum in [(10, 34075), (20, 53672), (40, 89511)]:
        result = solve_maxflow(LiftedEnergy(unary, grid, regularization, term))
        assert result.energy == optimum
        assert result.lower_bound == pytest.approx(optimum, rel=1e-9)
