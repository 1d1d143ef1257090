"""Models of cvxpy and its solvers, against linear programs written another way."""

import copy
import itertools
import pickle
import tracemalloc
import warnings

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import coo_array, kron
from scipy.sparse import eye_array as eye
from skimage import data
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import (
    LiftedProblem,
    PartitionGraph,
    SuperpixelGraph,
    build_problem,
)
from skpoison.partition._cvxpy import _problem, _solvers, solve_cvxpy
from skpoison.partition._energy import LiftedEnergy, make_pairwise

VALUES = [0.0, 0.5, 2.0, 3.0]
TERMS = {
    "potts": {},
    "tv": {"label_values": VALUES},
    "truncated": {"truncation": 1.5},
    "sublabel": {"label_values": VALUES, "coarse_values": [0.0, 2.0, 3.0]},
    "separable_tv": {"label_shape": (2, 2)},
}
RELAXATIONS = ("lellmann", "zach", "ccp")


def random_graph(seed=0, n=7, n_pairs=14):
    rng = np.random.default_rng(seed)
    return PartitionGraph.from_edges(
        rng.integers(0, n, (n_pairs, 2)), rng.random(n_pairs), n
    )


def make_problem(name="potts", seed=0, regularization=0.4):
    unary = np.random.default_rng(seed + 100).normal(size=(7, 4))
    return build_problem(unary, random_graph(seed), regularization, name, **TERMS[name])


def local_polytope(F, graph, strength, V):
    """Return the optimum over marginals of nodes and of edges, by SciPy."""
    n, k = F.shape
    m = graph.n_edges
    identity, ones = eye(k), np.ones((1, k))
    rows = []
    for end, marginal in enumerate([kron(identity, ones), kron(ones, identity)]):
        node = coo_array((np.ones(m), (np.arange(m), graph.edges[:, end])), (m, n))
        rows.append([kron(node, -identity), kron(eye(m), marginal)])
    rows.append([kron(eye(n), ones), coo_array((n, m * k * k))])
    cost = np.concatenate([F.ravel(), np.outer(strength, V).ravel()])
    A = np.block([[part.toarray() for part in row] for row in rows])
    b = np.concatenate([np.zeros(2 * m * k), np.ones(n)])
    return linprog(cost, A_eq=A, b_eq=b).fun


def metric(name):
    a, b = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    if name == "potts":
        return (a != b) * 1.0
    if name == "truncated":
        return np.minimum(abs(a - b), 1.5)
    values = np.array(VALUES)
    return abs(values[a] - values[b])


def master_form(F, graph, strength, A, c):
    """Return the optimum with a row for each sign of each absolute value, by SciPy."""
    n, k = F.shape
    gap = np.kron(graph.incidence().toarray(), A.T)
    slack = np.eye(len(gap))
    return linprog(
        np.concatenate([F.ravel(), np.outer(strength, c).ravel()]),
        A_ub=np.block([[gap, -slack], [-gap, -slack]]),
        b_ub=np.zeros(2 * len(gap)),
        A_eq=np.hstack([np.kron(np.eye(n), np.ones(k)), np.zeros((n, len(gap)))]),
        b_eq=np.ones(n),
    ).fun


def expected_value(problem, name):
    energy = problem.energy
    if name in ("potts", "tv", "truncated"):
        return local_polytope(energy.unary, energy.graph, energy.strength, metric(name))
    A, c = {
        "sublabel": ([[0, 0], [0.25, 0], [1, 0], [1, 1]], [2.0, 1.0]),
        "separable_tv": ([[0, 0], [0, 1], [1, 0], [1, 1]], [1.0, 1.0]),
    }[name]
    return master_form(
        energy.unary, energy.graph, energy.strength, np.array(A, float), np.array(c)
    )


def wedge(shape=(24, 24)):
    """Return the costs of three sectors with a disc of no opinion in the middle."""
    c = 11.5
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = (np.arctan2(y - c, x - c) + np.pi / 2) % (2 * np.pi)
    F = 1.0 - np.eye(3)[(angle // (2 * np.pi / 3)).astype(int)]
    F[np.hypot(y - c, x - c) < 0.55 * 12] = 0.5
    return F.reshape(-1, 3)


# ------------------------------------------------------------------- values and bounds


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_linear_programs_have_the_value_of_the_relaxation(name, seed):
    problem = make_problem(name, seed)
    assert problem.is_dpp()
    assert problem.is_qp()
    value = expected_value(problem, name)
    assert problem.solve(solver="HIGHS") == pytest.approx(value, abs=1e-7)
    result = problem.result()
    assert result.lower_bound == pytest.approx(value, abs=1e-7)
    assert result.energy >= result.lower_bound - 1e-12
    energy = problem.energy
    assert energy.value(result.labels) == result.energy
    assert energy.lower_bound(result.duals) == pytest.approx(result.lower_bound)
    np.testing.assert_allclose(result.assignment.sum(axis=1), 1.0)
    assert (result.assignment >= 0).all()
    if name == "tv":  # exact
        assert result.energy == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("truncation", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_truncated_form_is_the_local_polytope(truncation, seed):
    rng = np.random.default_rng(seed)
    F, graph = rng.normal(size=(7, 4)), random_graph(seed)
    problem = build_problem(F, graph, 0.5, "truncated", truncation=truncation)
    a, b = np.meshgrid(np.arange(4), np.arange(4))
    V = np.minimum(abs(a - b), truncation)
    value = local_polytope(F, graph, 0.5 * graph.weights, V)
    assert problem.solve(solver="HIGHS") == pytest.approx(value, abs=1e-7)
    others = {1: {"pairwise": "potts"}, 3: {"pairwise": "tv"}}
    if truncation in others:
        same = build_problem(F, graph, 0.5, **others[truncation])
        assert same.solve(solver="HIGHS") == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("name", ["potts", "truncated", "separable_tv"])
def test_relaxation_is_below_every_labelling(name):
    problem = make_problem(name)
    energy = problem.energy
    every = itertools.product(range(4), repeat=7)
    best = min(energy.value(np.array(x)) for x in every)
    value = problem.solve(solver="HIGHS")
    assert value <= best + 1e-9
    assert problem.result().energy >= best - 1e-12


@pytest.mark.slow
def test_triple_junction_anchors():
    F, values = wedge(), {}
    grid = PartitionGraph.from_grid((24, 24), "isotropic")
    for relaxation in RELAXATIONS:
        problem = build_problem(F, grid, 1.0, relaxation=relaxation)
        values[relaxation] = problem.solve(solver="CLARABEL")
        result = problem.result()
        assert result.lower_bound <= values[relaxation] + 1e-6
        assert result.lower_bound == pytest.approx(values[relaxation], abs=1e-3)
        assert result.energy >= values[relaxation] - 1e-6
    problem = build_problem(F, PartitionGraph.from_grid((24, 24)), 1.0)
    values["anisotropic"] = problem.solve(solver="HIGHS")
    assert values == pytest.approx(
        {
            "lellmann": 110.4820,
            "zach": 111.9329,
            "ccp": 112.5461,
            "anisotropic": 116.0,
        },
        abs=1e-3,
    )


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_relaxations(seed):
    rng = np.random.default_rng(seed)
    grid = PartitionGraph.from_grid((2, 3), "isotropic")
    grid.weights = rng.uniform(0.2, 1.0, grid.n_edges)
    F = rng.random((6, 3))
    values = []
    for relaxation in RELAXATIONS:
        problem = build_problem(F, grid, 0.4, relaxation=relaxation)
        values.append(problem.solve(solver="CLARABEL"))
        bound = problem.result().lower_bound
        assert bound == pytest.approx(values[-1], abs=1e-5)
        energy = problem.energy
    every = itertools.product(range(3), repeat=6)
    values.append(min(energy.value(np.array(x)) for x in every))
    assert (np.diff(values) >= -1e-7).all()


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_integral_points_of_the_cones_cost_what_the_energy_says(relaxation):
    rng = np.random.default_rng(0)
    grid = PartitionGraph.from_grid((3, 3), "isotropic")
    grid.weights = rng.uniform(0.5, 2.0, grid.n_edges)
    problem = build_problem(np.zeros((9, 3)), grid, 1.0, relaxation=relaxation)
    for _ in range(8):
        x = rng.integers(0, 3, 9)
        fixed = cp.Problem(
            problem.objective, [*problem.constraints, problem.U == np.eye(3)[x]]
        )
        value = fixed.solve(solver="CLARABEL", ignore_dpp=True)
        assert value == pytest.approx(problem.energy.value(x), abs=1e-5)


def test_isotropic_total_variation():
    rng = np.random.default_rng(0)
    grid = PartitionGraph.from_grid((6, 7), "isotropic")
    problem = build_problem(rng.random((42, 4)), grid, 0.1, "tv", label_values=VALUES)
    value = problem.solve(solver="CLARABEL")
    result = problem.result()
    assert result.lower_bound == pytest.approx(value, abs=1e-5)
    # 2-norms of sums are not sums of 2-norms: thresholds are near the optimum, not it
    assert value - 1e-6 <= result.energy <= 1.01 * value


# -------------------------------------------------------------------------- sub-labels


def sublabel_values(costs, subsets):
    """Return the relaxation's value and the labelling's energy for each subset."""
    fine = np.linspace(0.0, 1.0, 13)
    noisy = np.random.default_rng(0).normal(0.5, 0.15, (6, 6))
    noisy[:, 3:] += 0.2
    F = costs(fine - noisy.reshape(-1, 1))
    grid = PartitionGraph.from_grid((6, 6))
    full = build_problem(F, grid, 0.05, "tv", label_values=fine)
    optimum = full.solve(solver="HIGHS")
    values, energies = [], []
    for step in subsets:
        problem = build_problem(
            F, grid, 0.05, "sublabel", label_values=fine, coarse_values=fine[::step]
        )
        values.append(problem.solve(solver="HIGHS"))
        energies.append(problem.result().energy)
    return optimum, values, energies


def test_sublabel_lifting_of_convex_costs_is_exact_with_two_labels():
    optimum, values, energies = sublabel_values(np.square, [12, 6, 4, 3, 1])
    np.testing.assert_allclose(values, optimum, rtol=1e-8)
    np.testing.assert_allclose(energies, optimum, rtol=1e-8)


@pytest.mark.parametrize("subsets", [[12, 6, 3, 1], [12, 4, 2, 1]], ids=str)
def test_sublabel_lifting_of_other_costs_tightens_with_labels(subsets):
    optimum, values, energies = sublabel_values(
        lambda d: np.minimum(d**2, 0.02), subsets
    )
    assert (np.diff(values) >= -1e-9).all()
    assert values[0] < values[-1] - 1e-3
    assert values[-1] == pytest.approx(optimum)
    assert (np.array(energies) >= optimum - 1e-9).all()


# ----------------------------------------------------------------------- natural images


@pytest.mark.slow
@pytest.mark.parametrize(
    "connectivity, optima",
    [
        (4, {0.1: 1021.06545, 0.3: 1173.19744, 1.0: 1562.39082}),
        (8, {0.1: 1000.10251, 0.3: 1130.12880, 1.0: 1463.42898}),
    ],
)
def test_astronaut_anchors_on_one_compilation(connectivity, optima):
    image = data.astronaut().reshape(64, 8, 64, 8, 3).mean(axis=(1, 3)) / 255
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    F = ((image[:, :, None] - corners) ** 2).sum(axis=3).reshape(-1, 8)
    problem = build_problem(F, PartitionGraph.from_grid((64, 64), connectivity))
    for regularization, optimum in optima.items():
        problem.lam_param.value = regularization
        assert problem.solve(solver="HIGHS") == pytest.approx(optimum, abs=1e-4)
        result = problem.result()
        assert result.energy == pytest.approx(optimum, abs=1e-4)
        assert result.lower_bound == pytest.approx(optimum, abs=1e-4)


# --------------------------------------------------------------- parameters and copies


@pytest.mark.parametrize("name", TERMS)
def test_new_parameters_give_what_a_fresh_problem_gives(name):
    problem = make_problem(name)
    problem.solve(solver="HIGHS")
    rng = np.random.default_rng(9)
    for regularization in (0.1, 1.0, 0.0):
        problem.F_param.value = rng.normal(size=(7, 4))
        problem.lam_param.value = regularization
        fresh = copy.copy(problem)
        value = problem.solve(solver="HIGHS")
        assert value == pytest.approx(fresh.solve(solver="HIGHS"), abs=1e-8)
        ours, theirs = problem.result(), fresh.result()
        assert ours.lower_bound == pytest.approx(value, abs=1e-7)
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-8)
        assert problem.energy.regularization == regularization


@pytest.mark.parametrize("solver", ["CLARABEL", "OSQP", "HIGHS"])
def test_new_parameters_reach_solvers_that_take_constants_only(solver):
    if solver not in cp.installed_solvers():
        pytest.skip(f"{solver} is not installed")
    if solver == "CLARABEL":  # cones
        grid = PartitionGraph.from_grid((3, 3), "isotropic")
        problem = build_problem(np.zeros((9, 2)), grid)
    else:
        problem = build_problem(np.zeros((7, 2)), random_graph())
    rng = np.random.default_rng(0)
    for regularization in (0.2, 0.4):
        problem.F_param.value = rng.normal(size=problem.F_param.shape)
        problem.lam_param.value = regularization
        value = problem.solve(solver=solver)
        assert problem.result().lower_bound == pytest.approx(value, abs=0.02)
        assert problem.result().energy == pytest.approx(value, abs=0.02)


def test_a_result_follows_the_current_parameters():
    problem = make_problem()
    problem.solve(solver="HIGHS")
    before = problem.result()
    problem.F_param.value = problem.F_param.value + 1.0
    after = problem.result()
    assert after.energy == pytest.approx(before.energy + 7)
    assert after.lower_bound == pytest.approx(before.lower_bound + 7)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_are_new_problems(duplicate):
    problem = make_problem("tv")
    value = problem.solve(solver="HIGHS")
    problem.lam_param.value = 0.1
    other = duplicate(problem)
    assert isinstance(other, LiftedProblem)
    assert other.U is not problem.U
    assert other.status is None
    assert other.solve(solver="HIGHS") < value
    other.lam_param.value = 0.4
    assert other.solve(solver="HIGHS") == pytest.approx(value)
    assert problem.lam_param.value == 0.1
    problem.lam_param.value = 0.4
    assert problem.solve(solver="HIGHS") == pytest.approx(value)


def test_sums_and_multiples_are_plain_problems():
    problem = make_problem()
    value = problem.solve(solver="HIGHS")
    for other, expected in [(problem + problem, 2 * value), (3 * problem, 3 * value)]:
        assert type(other) is cp.Problem
        assert other.solve(solver="HIGHS") == pytest.approx(expected)


def test_graphs_of_every_kind():
    graph, F = random_graph(), np.random.default_rng(0).random((7, 3))
    values = [
        build_problem(F, same, 0.3).solve(solver="HIGHS")
        for same in (graph, graph.adjacency(), (graph.edges, graph.weights, 7))
    ]
    assert values == pytest.approx([values[0]] * 3)


def test_a_superpixel_graph_is_a_graph():
    y, x = np.mgrid[:16, :16] / 16.0
    cells = SuperpixelGraph(n_segments=9).fit(np.stack([x, y, x * y], axis=2))
    assert cells.graph_.n_edges > 3
    F = np.random.default_rng(1).random((cells.graph_.n_nodes, 3))
    problem = build_problem(F, cells, 0.1)
    assert problem.energy.graph is cells.graph_
    value = problem.solve(solver="HIGHS")
    assert problem.result().lower_bound == pytest.approx(value)


def test_a_graph_without_edges():
    F = np.random.default_rng(0).random((3, 4))
    graph = PartitionGraph.from_edges(np.zeros((0, 2), int), n_nodes=3)
    for name in ("potts", "tv"):
        problem = build_problem(F, graph, 1.0, name)
        assert problem.solve(solver="HIGHS") == pytest.approx(F.min(axis=1).sum())
        result = problem.result()
        np.testing.assert_array_equal(result.labels, F.argmin(axis=1))
        assert result.lower_bound == pytest.approx(result.energy)


# ----------------------------------------------------------------------------- solvers

STOPS = {
    "HIGHS": {"simplex_iteration_limit": 5, "presolve": "off"},
}


def small_energy(name="potts", seed=0):
    grid = PartitionGraph.from_grid((6, 7), "isotropic" if name == "cones" else 4)
    unary = np.random.default_rng(seed).random((42, 4))
    name = "potts" if name == "cones" else name
    return LiftedEnergy(unary, grid, 0.2, make_pairwise(name, 4, **TERMS[name]))


@pytest.mark.parametrize("name", ["potts", "tv", "truncated"])
@pytest.mark.parametrize("solver", cp.installed_solvers())
def test_every_solver_agrees(solver, name):
    energy = small_energy(name)
    exact = solve_cvxpy(energy)
    assert exact.solver == "cvxpy:HIGHS"
    result = solve_cvxpy(energy, solver, tol=1e-6, max_iter=100_000)
    assert result.converged
    assert result.solver == f"cvxpy:{solver}"
    assert result.lower_bound <= exact.lower_bound + 1e-9
    assert result.lower_bound == pytest.approx(exact.lower_bound, rel=1e-3)
    assert result.energy == pytest.approx(exact.energy, rel=1e-3)


@pytest.mark.parametrize("solver", cp.installed_solvers())
def test_every_solver_gives_a_bound_when_stopped_early(solver):
    energy = small_energy()
    exact = solve_cvxpy(energy)
    options = STOPS.get(solver, {})
    if solver == "SCIPY":  # keeps nothing of a solve that it did not end
        options = {"scipy_options": {"maxiter": 5, "presolve": False}}
        with pytest.raises(RuntimeError, match="cvxpy:SCIPY failed"):
            solve_cvxpy(energy, solver, **options)
        return
    with pytest.warns(ConvergenceWarning, match=f"cvxpy:{solver} stopped with status"):
        result = solve_cvxpy(energy, solver, max_iter=5, tol=1e-9, **options)
    assert not result.converged
    assert result.lower_bound <= exact.lower_bound + 1e-9
    assert result.lower_bound >= energy.unary.min(axis=1).sum() - 1e-12
    assert result.energy >= exact.lower_bound - 1e-9
    assert energy.value(result.labels) == result.energy
    np.testing.assert_allclose(result.assignment.sum(axis=1), 1.0)


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS"])
def test_solvers_with_cones(solver):
    energy = small_energy("cones")
    result = solve_cvxpy(energy)
    assert result.solver == "cvxpy:CLARABEL"
    other = solve_cvxpy(energy, solver, tol=1e-6, max_iter=100_000)
    assert other.lower_bound == pytest.approx(result.lower_bound, rel=1e-3)
    with pytest.raises(ValueError, match="second-order cones, one of .*CLARABEL"):
        solve_cvxpy(energy, "HIGHS")


@pytest.mark.parametrize("scale", [1e-9, 1e9])
@pytest.mark.parametrize("solver", ["HIGHS", "CLARABEL", "SCS", "OSQP"])
def test_tolerances_do_not_depend_on_the_unit(solver, scale):
    energy = small_energy()
    exact = solve_cvxpy(energy).lower_bound
    unary = scale * (energy.unary + 5.0)
    other = LiftedEnergy(unary, energy.graph, 0.2 * scale, energy.pairwise)
    result = solve_cvxpy(other, solver, max_iter=100_000)
    assert result.lower_bound == pytest.approx(scale * (exact + 5 * 42), rel=1e-4)


def test_looser_tolerances_and_limits_reach_the_solver():
    energy = small_energy()
    loose = solve_cvxpy(energy, "CLARABEL", tol=1e-2)
    tight = solve_cvxpy(energy, "CLARABEL", tol=1e-8)
    assert loose.n_iter < tight.n_iter
    assert loose.lower_bound < tight.lower_bound
    same = solve_cvxpy(energy, "CLARABEL", tol=1e-2, tol_gap_rel=1e-8, tol_feas=1e-8)
    assert same.n_iter == tight.n_iter


def test_names_of_solvers():
    energy = small_energy()
    with pytest.raises(ValueError, match="one of .*CLARABEL.*got 'cvxpy:HIGH'"):
        solve_cvxpy(energy, "HIGH")
    assert solve_cvxpy(energy, "highs").solver == "cvxpy:HIGHS"


def test_defaults_without_the_usual_solvers(monkeypatch):
    choose = _solvers.choose_solver
    monkeypatch.setattr(cp, "installed_solvers", lambda: ["OSQP", "SCIPY", "SCS"])
    assert choose(None, cones=False) == "SCIPY"
    assert choose(None, cones=True) == "SCS"
    monkeypatch.setattr(cp, "installed_solvers", lambda: ["OSQP"])
    with pytest.raises(ValueError, match="needs CLARABEL or SCS.*only OSQP"):
        choose(None, cones=True)
    with pytest.raises(ValueError, match="ortools does not import"):
        choose("PDLP", cones=False)


def test_failures_name_the_solver(monkeypatch):
    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(LiftedProblem, "solve", fail)
    error = cp.error.SolverError("no luck")
    with pytest.raises(RuntimeError, match="cvxpy:HIGHS failed: no luck"):
        solve_cvxpy(small_energy())
    error = ImportError("symbol clash")
    with pytest.raises(ValueError, match="'cvxpy:HIGHS' does not import: symbol clash"):
        solve_cvxpy(small_energy())


def test_a_useless_assignment_loses_to_simple_labellings():
    problem = make_problem(regularization=1e-3)
    problem.solve(solver="HIGHS")
    problem.U.value = np.eye(4)[problem.F_param.value.argmax(axis=1)]
    unary = problem.energy.unary
    assert problem.result().energy <= problem.energy.value(unary.argmin(axis=1))
    problem.lam_param.value = 1e3
    assert problem.result().energy == pytest.approx(unary.sum(axis=0).min())


def test_missing_duals_leave_the_bound_of_no_duals(monkeypatch):
    problem = make_problem()
    problem.solve(solver="HIGHS")
    monkeypatch.setattr(problem._form, "duals", lambda strength: None)
    result = problem.result()
    assert result.lower_bound == pytest.approx(problem.energy.unary.min(axis=1).sum())


def test_useless_duals_lose_to_none():
    problem = make_problem(regularization=1e-3)
    problem.solve(solver="HIGHS")
    dual = problem._form.coupling.dual_variables[0]
    dual.save_value(1e6 * np.random.default_rng(0).normal(size=dual.shape))
    result = problem.result()
    assert result.lower_bound >= problem.energy.unary.min(axis=1).sum() - 1e-12


def test_a_result_needs_a_solve():
    with pytest.raises(RuntimeError, match="call solve first"):
        make_problem().result()


def test_no_solver_prints_or_warns(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve_cvxpy(small_energy())
        solve_cvxpy(small_energy("cones"))
    assert capfd.readouterr() == ("", "")


def test_large_problems_name_the_other_solver(monkeypatch):
    problem = make_problem()
    monkeypatch.setattr(_problem, "_LARGE", 10)
    with pytest.warns(UserWarning, match="14?.* edges times 4 labels.*solver='pdhg'"):
        problem.solve(solver="HIGHS")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        problem.solve(method="lifted_pdhg")


def test_compilation_stays_small():
    F = np.random.default_rng(0).random((32 * 32, 8))
    for connectivity in (4, "isotropic"):
        problem = build_problem(F, PartitionGraph.from_grid((32, 32), connectivity))
        tracemalloc.start()
        cones = connectivity == "isotropic"
        problem.get_problem_data("CLARABEL", ignore_dpp=cones)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 40e6  # the wrong form of the data term: 500 MB


# --------------------------------------------------------------------- our own method


@pytest.mark.parametrize("name", TERMS)
def test_own_method_fills_the_problem(name):
    problem = make_problem(name)
    relaxed = problem.solve(solver="HIGHS")
    exact = problem.result()
    with warnings.catch_warnings():  # no labelling reaches the bound of some
        warnings.simplefilter("ignore", ConvergenceWarning)
        value = problem.solve(method="lifted_pdhg", max_iter=3000, tol=1e-7)
    assert value == problem.value == pytest.approx(problem.objective.value)
    assert problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE)
    assert all(np.max(c.violation()) < 1e-5 for c in problem.constraints)
    assert value >= relaxed - 1e-5
    assert value == pytest.approx(relaxed, rel=0.01)
    result = problem.result()
    assert result.solver == problem.solver_stats.solver_name == "pdhg"
    assert result.lower_bound == pytest.approx(exact.lower_bound, rel=1e-3)
    assert result.lower_bound <= exact.lower_bound + 1e-9
    assert result.energy <= exact.energy + 1e-3
    # and back
    assert problem.solve(solver="HIGHS") == pytest.approx(relaxed)
    assert problem.result().solver == "cvxpy:HIGHS"


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_own_method_on_isotropic_grids(relaxation):
    F = wedge()
    grid = PartitionGraph.from_grid((24, 24), "isotropic")
    problem = build_problem(F, grid, 1.0, relaxation=relaxation)
    relaxed = problem.solve(solver="CLARABEL")
    with warnings.catch_warnings():  # what "ccp" gives an assignment is not computed
        warnings.simplefilter("ignore" if relaxation == "ccp" else "error")
        value = problem.solve(method="lifted_pdhg", max_iter=1500)
    assert problem.result().converged == (relaxation != "ccp")
    assert all(np.max(c.violation()) < 1e-5 for c in problem.constraints)
    assert value >= relaxed - 1e-4
    # the flows between pairs of labels are feasible, not the cheapest
    assert value == pytest.approx(relaxed, rel=0.2 if relaxation == "ccp" else 1e-3)
    assert problem.result().lower_bound <= relaxed + 1e-4
    assert problem.result().lower_bound == pytest.approx(relaxed, rel=2e-5)


def test_own_method_follows_the_current_parameters():
    problem = make_problem("tv")
    value = problem.solve(method="lifted_pdhg", tol=1e-6)
    before = problem.result()
    assert before.energy == pytest.approx(value, rel=1e-3)
    assert len(before.history) > 1  # all of what the solver found, not a summary
    problem.F_param.value = problem.F_param.value + 1.0
    after = problem.result()
    assert after.energy == pytest.approx(before.energy + 7)
    assert after.lower_bound == pytest.approx(before.lower_bound + 7)
    again = problem.solve(method="lifted_pdhg", tol=1e-6, warm_start=before)
    assert again == pytest.approx(value + 7, rel=1e-3)
    assert problem.result().n_iter <= before.n_iter


def test_own_method_reports_when_it_stops_early():
    problem = build_problem(small_energy().unary, PartitionGraph.from_grid((6, 7)), 0.2)
    with pytest.warns(ConvergenceWarning):
        problem.solve(method="lifted_pdhg", max_iter=1)
    assert problem.status == cp.OPTIMAL_INACCURATE
    assert not problem.result().converged


def test_own_method_without_interfaces():
    F = np.random.default_rng(0).random((7, 3))
    problem = build_problem(F, random_graph(), 0.0)
    assert problem.solve(method="lifted_pdhg") == pytest.approx(F.min(axis=1).sum())
    np.testing.assert_array_equal(problem.result().labels, F.argmin(axis=1))


def test_own_method_refuses_other_problems():
    x = cp.Variable()
    other = cp.Problem(cp.Minimize(x), [x >= 0])
    with pytest.raises(ValueError, match="problems of build_problem, got a Problem"):
        other.solve(method="lifted_pdhg")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"F": np.zeros((6, 4))}, "6 rows.*7 nodes"),
        ({"F": np.zeros((7, 1))}, "2 or more labels, got 1"),
        ({"F": np.full((7, 3), np.nan)}, "F contains NaN"),
        ({"regularization": -1.0}, "regularization must be >= 0"),
        ({"pairwise": "pots"}, "pairwise must be one of"),
        ({"relaxation": "zack"}, "relaxation must be one of"),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else None,
)
def test_bad_input_is_named(change, message):
    good = {"F": np.zeros((7, 4)), "graph": random_graph()}
    with pytest.raises(ValueError, match=message):
        build_problem(**{**good, **change})


def test_own_solver_returns_what_cvxpy_calls_optimal():
    costs = np.random.default_rng(0).random((6, 3))
    problem = build_problem(costs, PartitionGraph.from_grid((2, 3)), 0.1)
    best = problem.solve()
    found = problem.solve(method="lifted_pdhg")
    assert best * (1 - 1e-7) <= found <= best * (1 + 1e-4)
    assert np.allclose(problem.objective.value, problem.value)
