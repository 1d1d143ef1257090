import itertools

import numpy as np
import pytest

from skpoison.partition import PartitionGraph, _refine, solve_lifted
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._refine import (
    _even_out,
    _restrict,
    find_band,
    lift_result,
    refine_band,
)

TERMS = {
    "potts": {},
    "tv": {"label_values": [0.0, 1.0, 3.0]},
    "truncated": {"truncation": 1.5},
}


def make(pairwise, shape=(18, 22), connectivity=4, regularization=0.4, seed=0):
    """Return costs of noisy stripes, the grid, the cells' graph and both energies."""
    rng = np.random.default_rng(seed)
    truth = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) // 9 % 3
    noisy = truth + 0.5 * rng.normal(size=shape)
    unary = (noisy.reshape(-1, 1) - np.arange(3.0)) ** 2
    image = rng.random((*shape, 1))
    grid = PartitionGraph.from_grid(
        shape, connectivity, image=image, contrast=(30.0, 0.2)
    )
    y, x = np.indices(shape)
    cells = grid.contract(y // 3 * 100 + x // 4)
    term = make_pairwise(pairwise, 3, **TERMS[pairwise])
    energy = LiftedEnergy(unary, grid, regularization, term)
    coarse = LiftedEnergy(cells.aggregate(unary), cells, regularization, term)
    return energy, coarse


def solve(energy, pairwise, graph=None, unary=None, **options):
    return solve_lifted(
        energy.unary if unary is None else unary,
        energy.graph if graph is None else graph,
        energy.regularization,
        pairwise=pairwise,
        random_state=0,
        **{"tol": 1e-5, "max_iter": 3000, **TERMS[pairwise], **options},
    )


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("pairwise", ["potts", "tv"])
def test_a_lifted_solution(pairwise, connectivity):
    energy, coarse = make(pairwise, connectivity=connectivity)
    result = solve(coarse, pairwise)
    lifted = lift_result(result, coarse.graph, energy)
    assert lifted.energy == pytest.approx(energy.value(lifted.labels), rel=1e-12)
    np.testing.assert_array_equal(
        lifted.labels, result.labels[coarse.graph.labels.ravel()]
    )
    exact = solve(energy, pairwise)
    assert lifted.lower_bound == energy.lower_bound(lifted.duals)
    assert lifted.lower_bound <= exact.energy
    np.testing.assert_allclose(energy.project(lifted.duals), lifted.duals, atol=1e-12)
    # better than to decide each pixel alone
    assert lifted.lower_bound > energy.unary.min(axis=1).sum()
    assert np.isinf(lifted.lower_bound) is np.False_


@pytest.mark.parametrize("pairwise", ["potts", "tv", "truncated"])
def test_shared_duals_leave_each_cell_its_costs(pairwise):
    """Independent of signs in the code: divergences by a loop over edges."""
    energy, coarse = make(pairwise)
    rng = np.random.default_rng(1)
    result = solve(coarse, "potts")
    result.duals = coarse.project(
        rng.normal(size=(coarse.graph.n_edges, len(energy.pairwise.costs)))
    )
    lifted = lift_result(result, coarse.graph, energy)
    cells = coarse.graph.labels.ravel()
    pixels = np.zeros((energy.graph.n_nodes, lifted.duals.shape[1]))
    for (i, j), p in zip(energy.graph.edges, lifted.duals, strict=True):
        if cells[i] != cells[j]:
            pixels[i] += p
            pixels[j] -= p
    expected = np.zeros((coarse.graph.n_nodes, lifted.duals.shape[1]))
    for (a, b), p in zip(coarse.graph.edges, result.duals, strict=True):
        expected[a] += p
        expected[b] -= p
    total = [pixels[cells == c].sum(axis=0) for c in range(coarse.graph.n_nodes)]
    np.testing.assert_allclose(total, expected, atol=1e-12)


@pytest.mark.parametrize("pairwise", ["potts", "tv", "truncated"])
def test_duals_inside_of_a_cell_even_out_its_costs(pairwise, monkeypatch):
    monkeypatch.setattr(_refine, "_CG_STEPS", 60)
    energy, coarse = make(pairwise, shape=(6, 8))
    cells = coarse.graph.labels.ravel()
    i, j = energy.graph.edges.T
    inner = cells[i] == cells[j]
    duals = np.zeros((energy.graph.n_edges, len(energy.pairwise.costs)))
    duals[inner] = _even_out(energy, duals, inner, cells)
    D = energy.graph.incidence().toarray()
    left = energy.unary + energy.pairwise.lift_dual(D.T @ duals)
    left -= left.mean(axis=1, keepdims=True)  # what labels share decides nothing
    for cell in range(coarse.graph.n_nodes):
        assert np.ptp(left[cells == cell], axis=0).max() < 1e-6


def test_no_bound_is_lost_where_no_dual_is_cut_off(monkeypatch):
    monkeypatch.setattr(_refine, "_CG_STEPS", 100)
    energy, coarse = make("potts", regularization=500.0)
    result = solve(coarse, "potts")
    lifted = lift_result(result, coarse.graph, energy)
    assert lifted.lower_bound == pytest.approx(result.lower_bound, rel=1e-3)


def test_find_band():
    labels = np.zeros((9, 12), int)
    labels[:, 6:] = 1
    for radius in (1, 2, 4):
        band = find_band(labels, radius)
        assert (band == (abs(np.arange(12) - 5.5) < radius)).all()
    assert not find_band(0 * labels, 4).any()


@pytest.mark.parametrize("pairwise", ["potts", "tv", "truncated"])
def test_the_band_has_the_energy_of_the_image(pairwise):
    """All labellings of a band of 4 pixels, the others fixed, by the whole energy."""
    energy, _ = make(pairwise, shape=(3, 4))
    rng = np.random.default_rng(3)
    fixed = solve(energy, "potts")
    fixed.labels = rng.integers(3, size=12)
    fixed.duals = np.zeros((energy.graph.n_edges, len(energy.pairwise.costs)))
    band = np.isin(np.arange(12), [1, 2, 5, 10])
    _, unary, graph, inner = _restrict(fixed, energy, band)
    part = LiftedEnergy(unary, graph, energy.regularization, energy.pairwise)
    shift = set()
    for labels in itertools.product(range(3), repeat=4):
        whole = fixed.labels.copy()
        whole[band] = labels
        shift.add(round(energy.value(whole) - part.value(np.array(labels)), 9))
    assert len(shift) == 1
    assert inner.sum() == graph.n_edges == 2


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("pairwise", ["potts", "tv"])
@pytest.mark.parametrize("radius", [1, 3])
def test_a_refinement_only_lowers_the_energy(pairwise, connectivity, radius):
    energy, coarse = make(pairwise, connectivity=connectivity)
    lifted = lift_result(solve(coarse, pairwise), coarse.graph, energy)

    def solver(unary, graph, warm_start):
        return solve(energy, pairwise, graph, unary, warm_start=warm_start)

    exact = solve(energy, pairwise)
    energies = [
        refine_band(lifted, energy, solver, radius=radius, n_rounds=n).energy
        for n in range(4)
    ]
    assert energies[0] == lifted.energy
    assert (np.diff(energies) <= 0).all() and energies[1] < energies[0]
    assert energies[-1] >= exact.lower_bound
    refined = refine_band(lifted, energy, solver, radius=radius)
    assert refined.energy == pytest.approx(energy.value(refined.labels), rel=1e-12)
    assert lifted.lower_bound <= refined.lower_bound <= exact.energy
    assert refined.lower_bound == energy.lower_bound(refined.duals)


def test_a_band_that_is_the_image_is_the_grid():
    energy, coarse = make("potts")
    lifted = lift_result(solve(coarse, "potts"), coarse.graph, energy)

    def solver(unary, graph, warm_start):
        assert graph.n_edges == energy.graph.n_edges
        np.testing.assert_array_equal(unary, energy.unary)
        return solve(energy, "potts", graph, unary, warm_start=warm_start)

    refined = refine_band(lifted, energy, solver, radius=100)
    exact = solve(energy, "potts")
    assert refined.energy == pytest.approx(exact.energy, rel=2e-5)
    assert refined.lower_bound == pytest.approx(exact.lower_bound, rel=2e-5)


def test_a_worse_solution_of_the_band_is_not_taken():
    energy, coarse = make("potts")
    lifted = lift_result(solve(coarse, "potts"), coarse.graph, energy)

    def solver(unary, graph, warm_start):
        result = solve(energy, "potts", graph, unary)
        result.labels = unary.argmax(axis=1)
        result.duals = np.random.default_rng(0).normal(size=result.duals.shape)
        return result

    refined = refine_band(lifted, energy, solver)
    assert refined.energy == lifted.energy
    assert refined.lower_bound == lifted.lower_bound
    np.testing.assert_array_equal(refined.labels, lifted.labels)


def test_one_label_everywhere_needs_no_refinement():
    energy, coarse = make("potts", regularization=100.0)
    lifted = lift_result(solve(coarse, "potts"), coarse.graph, energy)
    assert len(np.unique(lifted.labels)) == 1
    refined = refine_band(lifted, energy, None)
    assert refined.energy == lifted.energy and refined.n_iter == lifted.n_iter
