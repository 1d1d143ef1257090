"""When solvers stop, what they then say, and costs and graphs of every kind."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import (
    LiftedPartition,
    PartitionGraph,
    build_problem,
    solve_lifted,
)

GRID = PartitionGraph.from_grid((16, 16))
RNG = np.random.default_rng(0)
NOISY = (1.0 - np.eye(4)[np.arange(256) // 64]) + RNG.normal(0, 0.5, (256, 4))


def excess(unary, bound):
    """Return what a bound is above every node's own least cost."""
    return bound - unary.min(axis=1).sum()


OFFSETS = {
    "all": 1e3,
    "negative": -1e3,
    "rows": RNG.normal(0, 100, (256, 1)),
    "energy-0": "energy",
}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("pairwise", ["potts", "tv"])
def test_constants_do_not_change_when_to_stop(offset, pairwise):
    exact = solve_lifted(NOISY, GRID, 0.4, pairwise=pairwise, tol=1e-6)
    shift = OFFSETS[offset]
    if isinstance(shift, str):  # a relative gap would never be small
        shift = -exact.energy / len(NOISY)
    found = solve_lifted(NOISY + shift, GRID, 0.4, pairwise=pairwise)
    assert found.converged
    energy = found.energy - np.broadcast_to(shift, (256, 1)).sum()
    assert energy - exact.energy <= 1e-3 * excess(NOISY, exact.lower_bound)


@pytest.mark.parametrize("pairwise", ["potts", "tv", "truncated", "sublabel"])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_the_first_labelling_may_be_optimal(pairwise, offset):
    unary = np.tile([3.0, 2.5, 1.0, 2.0], (256, 1)) + offset
    params = {"truncated": {"truncation": 2}, "sublabel": {"coarse_values": [0, 2, 3]}}
    result = solve_lifted(unary, GRID, pairwise=pairwise, **params.get(pairwise, {}))
    assert result.converged and result.n_iter == 0
    assert (result.labels == 2).all()
    np.testing.assert_array_equal(result.assignment, np.eye(4)[[2] * 256])


def test_a_relaxation_that_is_solved_ends_the_solve():
    grid = PartitionGraph.from_grid((16, 16), "isotropic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = solve_lifted(NOISY, grid, 0.4)
        theirs = solve_lifted(NOISY, grid, 0.4, solver="cvxpy", tol=1e-8)
    assert result.converged and theirs.converged and result.n_iter < 2000
    assert result.relative_gap > 1e-3  # no labelling reaches the bound
    assert result.lower_bound == pytest.approx(theirs.lower_bound, rel=1e-4)


def triple():
    """Return a triangle whose relaxation is half of each of two labels a node."""
    unary = 10.0 * np.eye(3)
    graph = PartitionGraph.from_edges([[0, 1], [0, 2], [1, 2]])
    return unary, graph


def test_a_gap_of_rounding_alone():
    unary, graph = triple()
    result = solve_lifted(unary, graph)
    assert result.energy == pytest.approx(2.0)
    assert result.lower_bound == pytest.approx(1.5, rel=1e-4)
    assert result.converged and result.n_iter < 2000
    np.testing.assert_allclose(result.assignment, 0.5 - 0.5 * np.eye(3), atol=1e-3)


def test_warnings_point_at_the_call():
    with pytest.warns(ConvergenceWarning) as seen:
        solve_lifted(NOISY, GRID, 0.4, max_iter=1)
        solve_lifted(NOISY, GRID, 0.4, max_iter=1, solver="cvxpy:CLARABEL")
        build_problem(NOISY, GRID, 0.4).solve(method="lifted_pdhg", max_iter=1)
        model = LiftedPartition(4, 0.4, unary="precomputed", max_iter=1)
        model.set_params(discretization="grid").fit(NOISY.reshape(16, 16, 4))
    assert [w.filename for w in seen] == [__file__] * 4
    assert "short of tol=0.0001" in str(seen[0].message)


def test_costs_of_every_kind():
    costs = np.round(NOISY * 10).astype(int)
    expected = solve_lifted(costs.astype(float), GRID, 4.0)
    kinds = {
        "int": costs,
        "float32": costs.astype(np.float32),
        "list": costs.tolist(),
        "fortran": np.asfortranarray(costs.astype(float)),
        "read-only": np.array(costs, dtype=float),
    }
    kinds["read-only"].flags.writeable = False
    for name, unary in kinds.items():
        result = solve_lifted(unary, GRID, 4.0)
        np.testing.assert_array_equal(result.labels, expected.labels, err_msg=name)
        assert result.energy == expected.energy
        np.testing.assert_array_equal(unary, costs)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e8, 1e30])
@pytest.mark.parametrize("pairwise", ["potts", "tv"])
def test_costs_of_every_size(size, pairwise):
    plain = solve_lifted(NOISY, GRID, 0.4, pairwise=pairwise)
    result = solve_lifted(size * NOISY, GRID, 0.4 * size, pairwise=pairwise)
    assert result.converged
    assert result.energy == pytest.approx(size * plain.energy, rel=2e-4, abs=0)
    forbidden = NOISY.copy()
    forbidden[::3, 0] = 1e30
    result = solve_lifted(forbidden, GRID, 0.4, pairwise=pairwise)
    assert result.converged and result.labels[::3].all()


@pytest.mark.parametrize("solve", [solve_lifted, build_problem])
@pytest.mark.parametrize(
    "unary, graph, params, message",
    [
        ([[np.nan, 1.0]] * 2, ([[0, 1]], None), {}, "NaN"),
        ([[np.inf, 1.0]] * 2, ([[0, 1]], None), {}, "infinity"),
        (np.zeros((0, 3)), ([[0, 1]], None), {}, "0 sample"),
        (np.zeros(4), ([[0, 1]], None), {}, "2D"),
        (np.ones((3, 2)), ([[0, 1]], None, 2), {}, "3 rows.*2 nodes"),
        (np.ones((2, 2)), ([[0, 5]], None, 2), {}, "5.*2|2.*5"),
        (np.ones((2, 2)), ([[0, -1]], None), {}, "-1|negative"),
        (np.ones((2, 2)), ([[0, 1]],), {}, "graph must be.*a tuple of 1"),
        (np.ones((2, 2)), ([[0, 1]], [-1.0]), {}, "weights"),
        (np.ones((2, 2)), ([[0, 1]], [np.nan]), {}, "weights"),
        (np.ones((2, 2)), ([[0, 1]], None), {"regularization": -1}, "regularization"),
        (
            np.ones((2, 2)),
            ([[0, 1]], None),
            {"regularization": np.nan},
            "regularization",
        ),
        (np.ones((2, 2)), ([[0, 1]], None), {"pairwise": "l2"}, "pairwise"),
        (np.ones((2, 2)), ([[0, 1]], None), {"relaxation": "l2"}, "relaxation"),
    ],
)
def test_bad_problems(solve, unary, graph, params, message):
    with pytest.raises(ValueError, match=message):
        solve(unary, graph, **params)


@pytest.mark.parametrize("name", ["truncated", "sublabel", "separable_tv"])
def test_terms_that_isotropic_grids_do_not_have(name):
    params = {"truncation": 2, "coarse_values": [0, 3], "label_shape": (2, 2)}
    grid = PartitionGraph.from_grid((16, 16), "isotropic")
    with pytest.raises(ValueError, match=f"{name}.* isotropic grid"):
        solve_lifted(NOISY, grid, pairwise=name, **params)


def test_one_node_and_two():
    assert solve_lifted([[2.0, 1.0]], ([], None, 1)).labels.tolist() == [1]
    result = solve_lifted([[2.0, 1.0], [0.0, 3.0]], ([[0, 1]], [5.0]))
    assert result.labels.tolist() == [0, 0] and result.energy == 2.0
