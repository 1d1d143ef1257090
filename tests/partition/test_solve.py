import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import PartitionGraph, solve_lifted

UNARY = np.random.default_rng(0).uniform(0, 1, (12, 3))
GRID = PartitionGraph.from_grid((3, 4))


def test_one_label():
    result = solve_lifted(UNARY[:, :1], GRID)
    assert not result.labels.any()
    assert result.energy == result.lower_bound == UNARY[:, 0].sum()
    assert result.converged and result.n_iter == 0


@pytest.mark.parametrize("pairwise", ["potts", "tv"])
def test_nodes_that_do_not_matter_to_each_other(pairwise):
    for graph, regularization in (
        (GRID, 0.0),
        (([], None, 12), 1.0),
        ((GRID.edges, np.zeros(GRID.n_edges), 12), 1.0),
    ):
        result = solve_lifted(UNARY, graph, regularization, pairwise=pairwise)
        np.testing.assert_array_equal(result.labels, UNARY.argmin(axis=1))
        assert result.gap == 0


def test_strong_edges_give_one_label():
    result = solve_lifted(UNARY, GRID, 1e6)
    assert set(result.labels) == {UNARY.sum(axis=0).argmin()}
    assert result.converged


def test_graphs_of_all_kinds_agree():
    matrix = GRID.adjacency()
    graphs = [GRID, matrix, csr_array(matrix), matrix.toarray(), (GRID.edges, None)]
    energies = [solve_lifted(UNARY, g, 0.2, tol=1e-6).energy for g in graphs]
    assert np.ptp(energies) < 1e-12


@pytest.mark.parametrize("solver", ["cvxpy", "cvxpy:HIGHS", "maxflow"])
def test_solvers_agree(solver):
    if solver == "maxflow":
        pytest.importorskip("maxflow")
    ours = solve_lifted(UNARY[:, :2], GRID, 0.2, tol=1e-6)
    theirs = solve_lifted(UNARY[:, :2], GRID, 0.2, solver=solver)
    assert theirs.energy == pytest.approx(ours.energy, rel=1e-6)
    assert theirs.lower_bound == pytest.approx(ours.lower_bound, rel=1e-5)


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"solver": "simplex"}, ValueError, "'pdhg', 'maxflow', 'cvxpy', .*'simplex'"),
        ({"solver": "cvxpy:NONE"}, ValueError, "HIGHS.*'cvxpy:NONE'"),
        ({"solver": 3}, TypeError, "solver must be a str"),
        ({"tol": 0}, ValueError, "tol must be > 0"),
        ({"tol": np.nan}, ValueError, "tol"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be an int"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of"),
        ({"backend": "jax"}, ValueError, "backend must be one of"),
        ({"device": "cuda"}, ValueError, "device must be 'auto' or 'cpu'"),
        ({"device": 0}, TypeError, "device must be a str"),
        ({"regularization": -1.0}, ValueError, "regularization must be >= 0"),
        ({"pairwise": "linear"}, ValueError, "pairwise must be one of"),
        ({"relaxation": "none"}, ValueError, "relaxation must be one of"),
        ({"pairwise": "truncated"}, ValueError, "truncation"),
        ({"solver_options": ["kappa"]}, TypeError, "solver_options must be None or"),
        ({"solver_options": {"step": 1}}, ValueError, "check_every.*'step'"),
        ({"solver_options": {"kappa": -1}}, ValueError, "kappa must be > 0"),
        ({"solver_options": {"check_every": 0}}, ValueError, "check_every"),
        ({"solver_options": {"over_relaxation": 2}}, ValueError, "over_relaxation"),
        ({"solver_options": {"max_seconds": "1"}}, TypeError, "max_seconds"),
        ({"warm_start": 3}, TypeError, "warm_start must be None or a LiftedResult"),
        (
            {"solver": "maxflow", "solver_options": {"a": 1}},
            ValueError,
            "solver_options must be empty",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        solve_lifted(UNARY, GRID, **params)


def test_bad_arrays():
    bad = UNARY.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="unary contains NaN"):
        solve_lifted(bad, GRID)
    with pytest.raises(ValueError, match="11 rows, but the graph has 12 nodes"):
        solve_lifted(UNARY[:11], GRID)
    with pytest.raises(ValueError, match="edge weights must be finite"):
        solve_lifted(UNARY, (GRID.edges, np.full(GRID.n_edges, -1.0)))
    other = solve_lifted(UNARY[:6], PartitionGraph.from_grid((2, 3)), 0.2)
    with pytest.raises(ValueError, match=r"assignment of shape \(6, 3\)"):
        solve_lifted(UNARY, GRID, 0.2, warm_start=other)


def test_too_few_iterations_warn_and_stay_valid():
    unary = np.random.default_rng(1).uniform(0, 1, (400, 5))
    graph = PartitionGraph.from_grid((20, 20))
    with pytest.warns(ConvergenceWarning, match="raise max_iter or tol"):
        short = solve_lifted(unary, graph, 0.3, max_iter=3, random_state=0)
    with pytest.warns(ConvergenceWarning):
        late = solve_lifted(
            unary, graph, 0.3, tol=1e-9, solver_options={"max_seconds": 0.0}
        )
    assert short.n_iter == 3 and late.n_iter == 25
    exact = solve_lifted(unary, graph, 0.3, tol=2e-3)
    for result in (short, late):
        assert result.lower_bound <= exact.energy
        assert result.energy >= exact.lower_bound
    with pytest.warns(ConvergenceWarning):
        again = solve_lifted(unary, graph, 0.3, max_iter=3, random_state=0)
    np.testing.assert_array_equal(again.labels, short.labels)


def test_progress_goes_to_stderr(capsys):
    solve_lifted(UNARY, GRID, 0.2, verbose=1)
    solve_lifted(UNARY, GRID, 0.2)
    captured = capsys.readouterr()
    assert captured.out == "" and "bound" in captured.err


def test_input_is_left_alone():
    unary, weights = UNARY.copy(), GRID.weights.copy()
    solve_lifted(unary, GRID, 0.2)
    np.testing.assert_array_equal(unary, UNARY)
    np.testing.assert_array_equal(GRID.weights, weights)


@pytest.mark.slow
def test_solving_loads_neither_torch_nor_cvxpy():
    code = (
        "import sys, numpy as np\n"
        "from skpoison.partition import PartitionGraph, solve_lifted\n"
        "solve_lifted(np.eye(6)[:, :3], PartitionGraph.from_grid((2, 3)), 0.2)\n"
        "print(sorted({'torch', 'cvxpy', 'skorch'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_edges_alone_may_leave_the_last_nodes_out():
    unary = np.random.default_rng(0).random((6, 3))
    edges = np.array([[0, 1], [1, 2]])
    found = solve_lifted(unary, (edges, np.array([1.0, 2.0])), 0.5)
    whole = PartitionGraph.from_edges(edges, [1.0, 2.0], n_nodes=6)
    assert found.energy == solve_lifted(unary, whole, 0.5).energy
    assert (found.labels[3:] == unary[3:].argmin(axis=1)).all()
    with pytest.raises(ValueError, match=r"\[0, n_nodes=6\), got 9"):
        solve_lifted(unary, (np.array([[0, 9]]), np.ones(1)), 0.5)
