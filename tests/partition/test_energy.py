"""The energies and their bounds, against loops and linear programs written out."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linprog

from skpoison.partition import PartitionGraph
from skpoison.partition._energy import LiftedEnergy, make_pairwise

VALUES = [0.0, 0.5, 2.0, 3.0]
TERMS = {
    "potts": {},
    "tv": {"label_values": VALUES},
    "truncated": {"truncation": 1.5},
    "sublabel": {"label_values": VALUES, "coarse_values": [0.0, 2.0, 3.0]},
    "separable_tv": {"label_shape": (2, 2)},
}
V = {
    "potts": lambda a, b: float(a != b),
    "tv": lambda a, b: abs(VALUES[a] - VALUES[b]),
    "truncated": lambda a, b: min(abs(a - b), 1.5),
    "sublabel": lambda a, b: abs(a - b),
    "separable_tv": lambda a, b: abs(a // 2 - b // 2) + abs(a % 2 - b % 2),
}


def make_energy(name, seed=0, n=6, n_pairs=11, regularization=0.4):
    rng = np.random.default_rng(seed)
    graph = PartitionGraph.from_edges(
        rng.integers(0, n, (n_pairs, 2)), rng.random(n_pairs), n
    )
    unary = rng.normal(size=(n, 4))
    term = make_pairwise(name, 4, **TERMS[name])
    return LiftedEnergy(unary, graph, regularization, term)


def labellings(name, n=6):
    levels = VALUES if name == "sublabel" else range(4)
    return (np.array(x) for x in itertools.product(levels, repeat=n))


def naive_value(energy, x):
    name, total = energy.pairwise.name, 0.0
    for v, label in enumerate(x):
        if name == "sublabel":
            total += np.interp(label, VALUES, energy.unary[v])
        else:
            total += energy.unary[v, label]
    for (i, j), w in zip(energy.graph.edges, energy.graph.weights, strict=True):
        total += energy.regularization * w * V[name](x[i], x[j])
    return total


def lifting(name):
    """Return (A, c) of the master form, from the table of definitions."""
    if name == "potts":
        return np.eye(4), np.full(4, 0.5)
    if name == "tv":
        return np.tri(4, 3, -1), np.diff(VALUES)
    if name == "separable_tv":
        return np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), np.ones(2)
    return np.array([[0, 0], [0.25, 0], [1, 0], [1, 1.0]]), np.array([2.0, 1.0])


def naive_relaxation(energy):
    """Return the optimum of the master form and its duals, by two slacks' rows."""
    A, c = lifting(energy.pairwise.name)
    n, n_labels, n_duals = energy.graph.n_nodes, 4, len(c)
    m, edges = energy.graph.n_edges, energy.graph.edges
    gap = np.zeros((m * n_duals, n * n_labels))
    for e, (i, j) in enumerate(edges):
        for r in range(n_duals):
            gap[e * n_duals + r, i * n_labels : (i + 1) * n_labels] = A[:, r]
            gap[e * n_duals + r, j * n_labels : (j + 1) * n_labels] = -A[:, r]
    strength = np.repeat(energy.regularization * energy.graph.weights, n_duals)
    slack = np.eye(m * n_duals)
    found = linprog(
        np.concatenate([energy.unary.ravel(), strength * np.tile(c, m)]),
        A_ub=np.block([[gap, -slack], [-gap, -slack]]),
        b_ub=np.zeros(2 * m * n_duals),
        A_eq=np.hstack(
            [np.kron(np.eye(n), np.ones(n_labels)), np.zeros((n, len(gap)))]
        ),
        b_eq=np.ones(n),
    )
    plus, minus = found.ineqlin.marginals.reshape(2, m, n_duals)
    return found.fun, minus - plus


@pytest.mark.parametrize("name", TERMS)
def test_value_is_the_sum_over_nodes_and_edges(name):
    energy = make_energy(name)
    rng = np.random.default_rng(1)
    for _ in range(20):
        if name == "sublabel":  # any real values, not only samples
            x = rng.uniform(0.0, 3.0, 6)
        else:
            x = rng.integers(0, 4, 6)
        assert energy.value(x) == pytest.approx(naive_value(energy, x), abs=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_any_duals_give_a_lower_bound(name):
    energy = make_energy(name)
    best = min(energy.value(x) for x in labellings(name))
    rng = np.random.default_rng(2)
    shape = (energy.graph.n_edges, len(energy.pairwise.costs))
    bounds = [
        energy.lower_bound(scale * rng.normal(size=shape))
        for scale in (0.0, 0.01, 0.1, 1.0, 100.0)
        for _ in range(20)
    ]
    assert max(bounds) <= best + 1e-12
    assert max(bounds) > min(bounds)
    assert bounds[0] == pytest.approx(energy.unary.min(axis=1).sum())


@pytest.mark.parametrize("name", [name for name in TERMS if name != "truncated"])
@pytest.mark.parametrize("seed", range(3))
def test_optimal_duals_give_the_value_of_the_relaxation(name, seed):
    energy = make_energy(name, seed)
    value, duals = naive_relaxation(energy)
    assert energy.lower_bound(duals) == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose(energy.project(duals), duals, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_relaxed_value_is_the_master_form(name):
    energy = make_energy(name)
    assignment = np.random.default_rng(1).dirichlet(np.ones(4), 6)
    if name == "truncated":  # takes a problem of its own
        assert energy.relaxed_value(assignment) == np.inf
        return
    A, costs = lifting(name)
    jumps = energy.graph.incidence() @ assignment @ A
    expected = (energy.unary * assignment).sum() + energy.strength @ abs(jumps) @ costs
    assert energy.relaxed_value(assignment) == pytest.approx(expected)
    for x in itertools.islice(labellings(name), 0, None, 311):
        one_hot = energy.pairwise.one_hot(x)
        assert energy.relaxed_value(one_hot) == pytest.approx(naive_value(energy, x))


@pytest.mark.parametrize("name", ["potts", "tv"])
@pytest.mark.parametrize("relaxation", ["zach", "lellmann", "ccp"])
def test_relaxed_value_on_an_isotropic_grid(relaxation, name):
    from skpoison.partition import build_problem

    energy = isotropic((4, 5), 3, relaxation, name, seed=0)
    assignment = np.random.default_rng(1).dirichlet(np.ones(3), 20)
    found = energy.relaxed_value(assignment)
    if (relaxation, name) == ("ccp", "potts"):
        assert found == np.inf
        return
    problem = build_problem(
        energy.unary,
        energy.graph,
        energy.regularization,
        name,
        relaxation=relaxation,
    )
    problem._form.set_assignment(assignment)
    assert found == pytest.approx(problem.objective.value)


def test_sublabel_bound_holds_between_the_samples():
    energy = make_energy("sublabel")
    _, duals = naive_relaxation(energy)
    bound = energy.lower_bound(duals)
    rng = np.random.default_rng(0)
    assert min(energy.value(x) for x in rng.uniform(0, 3, (5000, 6))) >= bound


def test_sublabel_bound_holds_where_a_coarse_value_is_no_sample():
    values, coarse = np.array([0.0, 2.0, 3.0]), np.array([0.0, 1.2, 3.0])
    term = make_pairwise("sublabel", 3, label_values=values, coarse_values=coarse)
    rng = np.random.default_rng(0)
    graph = PartitionGraph.from_edges([[0, 1], [1, 2]], [1.0, 0.5])
    energy = LiftedEnergy(rng.random((3, 3)), graph, 0.3, term)
    bounds = [energy.lower_bound(p) for p in rng.normal(scale=0.2, size=(3000, 2, 2))]
    fine = itertools.product(np.linspace(0, 3, 16), repeat=3)
    assert max(bounds) <= min(energy.value(np.array(x)) for x in fine)


@pytest.mark.parametrize("name", TERMS)
def test_projection_is_inside_and_stays(name):
    energy = make_energy(name)
    energy.graph.weights[0] = 0.0
    strength, term = energy.strength, energy.pairwise
    rng = np.random.default_rng(3)
    for scale in (1e-3, 0.1, 10.0):
        p = scale * rng.normal(size=(len(strength), len(term.costs)))
        q = energy.project(p)
        assert (abs(q) <= strength[:, None] * term.costs * (1 + 1e-12)).all()
        if name == "truncated":
            steps = abs(np.diff(q, axis=1)).max(axis=1)
            assert (steps <= strength * (1 + 1e-12)).all()
        np.testing.assert_allclose(energy.project(q), q, rtol=1e-12)
    inside = 1e-6 * p
    inside[0] = 0.0
    np.testing.assert_allclose(energy.project(inside), inside, rtol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_lifting_and_its_adjoint(name):
    term = make_energy(name).pairwise
    rng = np.random.default_rng(4)
    Z, G = rng.random((5, 4)), rng.normal(size=(5, len(term.costs)))
    assert (term.lift(Z) * G).sum() == pytest.approx((Z * term.lift_dual(G)).sum())
    if name != "truncated":
        A, c = lifting(name)
        np.testing.assert_allclose(term.lift(Z), Z @ A)
        np.testing.assert_allclose(term.costs, c)


@pytest.mark.parametrize("name", TERMS)
def test_a_label_is_decided_from_its_own_assignment(name):
    term = make_energy(name).pairwise
    expected = VALUES if name == "sublabel" else np.arange(4)
    np.testing.assert_allclose(term.decide(np.eye(4)), expected)


def test_ties_go_to_the_lowest_label():
    assert make_pairwise("potts", 3).decide(np.full((1, 3), 1 / 3))[0] == 0
    assert make_pairwise("tv", 2).decide(np.full((1, 2), 1 / 2))[0] == 0


# --- isotropic grids


def isotropic(shape, n_labels, relaxation="zach", name="potts", seed=None):
    graph = PartitionGraph.from_grid(shape, "isotropic")
    if seed is not None:
        graph.weights = np.random.default_rng(seed).uniform(0.5, 2.0, graph.n_edges)
    term = make_pairwise(name, n_labels)
    unary = np.zeros((graph.n_nodes, n_labels))
    return LiftedEnergy(unary, graph, 1.0, term, relaxation)


@pytest.mark.parametrize("relaxation", ["lellmann", "zach", "ccp"])
@pytest.mark.parametrize(
    "labels, length",
    [
        ([[0, 0], [0, 0]], 0.0),
        ([[0, 1], [0, 1]], 2.0),
        ([[0, 0], [1, 1]], 2.0),
        ([[0, 1], [1, 1]], math.sqrt(2)),
        ([[1, 1], [1, 0]], 2.0),
        ([[0, 0], [0, 1]], 2.0),
    ],
    ids=["none", "vertical", "horizontal", "corner", "far corner", "far corner 2"],
)
def test_interface_of_two_labels(relaxation, labels, length):
    energy = isotropic((2, 2), 2, relaxation)
    assert energy.value(np.ravel(labels)) == pytest.approx(length)


@pytest.mark.parametrize(
    "relaxation, junction",
    [
        ("lellmann", math.sqrt(2)),
        ("zach", 1 + math.sqrt(0.5)),
        ("ccp", math.sqrt(2 + math.sqrt(3))),
    ],
)
def test_interface_where_three_labels_meet(relaxation, junction):
    energy = isotropic((2, 2), 3, relaxation)
    # the pixel in the corner sees both; its right neighbour sees one edge more
    assert energy.value(np.array([0, 1, 2, 2])) == pytest.approx(junction + 1)


@pytest.mark.parametrize("relaxation", ["lellmann", "zach", "ccp"])
def test_isotropic_projection_is_inside_and_stays(relaxation):
    energy = isotropic((4, 5), 3, relaxation, seed=0)
    rng = np.random.default_rng(0)
    p = energy.project(rng.normal(size=(energy.graph.n_edges, 3)))
    np.testing.assert_allclose(energy.project(p), p, rtol=1e-12)
    edge = {tuple(pair): e for e, pair in enumerate(energy.graph.edges)}
    touching = 0
    for y, x in itertools.product(range(4), range(5)):
        v, q = 5 * y + x, np.zeros((2, 3))
        for axis, other in enumerate([v + 1 if x < 4 else None, v + 5]):
            e = edge.get((v, other))
            if e is not None:
                q[axis] = p[e] / energy.graph.weights[e]
        if relaxation == "zach":
            size = 2 * np.hypot(*q).max()
        elif relaxation == "lellmann":
            size = math.sqrt(2) * np.linalg.norm(q)
        else:
            size = max(
                np.hypot(*(q[:, a] - q[:, b])) for a, b in [(0, 1), (0, 2), (1, 2)]
            )
        assert size <= 1 + 1e-12
        touching += size > 1 - 1e-9
    assert touching > 10


@pytest.mark.parametrize("relaxation", ["lellmann", "zach", "ccp"])
def test_isotropic_bound_is_below_every_labelling(relaxation):
    energy = isotropic((2, 3), 3, relaxation, seed=1)
    rng = np.random.default_rng(1)
    energy.unary = rng.random((6, 3))
    best = min(energy.value(np.array(x)) for x in itertools.product(range(3), repeat=6))
    bounds = [energy.lower_bound(p) for p in rng.normal(size=(200, 7, 3))]
    assert max(bounds) <= best


def test_isotropic_total_variation_is_summed_over_the_levels():
    energy = isotropic((3, 4), 4, name="tv", seed=2)
    x = np.random.default_rng(0).integers(0, 4, (3, 4))
    weights = dict(
        zip(map(tuple, energy.graph.edges), energy.graph.weights, strict=True)
    )
    total = 0.0
    for level, i, j in itertools.product(range(3), range(3), range(4)):
        above = x > level
        right = down = 0.0
        if j < 3 and above[i, j] != above[i, j + 1]:
            right = weights[4 * i + j, 4 * i + j + 1]
        if i < 2 and above[i, j] != above[i + 1, j]:
            down = weights[4 * i + j, 4 * i + j + 4]
        total += math.hypot(right, down)
    assert energy.value(x.ravel()) == pytest.approx(total)


# --- contraction


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_contraction_keeps_the_energy(name, connectivity):
    rng = np.random.default_rng(5)
    grid = PartitionGraph.from_grid((30, 40), connectivity)
    grid.weights = rng.uniform(0, 1, grid.n_edges)
    cells = rng.integers(0, 60, (30, 40)) * 7  # numbers with gaps
    small = grid.contract(cells)
    unary = rng.normal(size=(1200, 4))
    term = make_pairwise(name, 4, **TERMS[name])
    fine = LiftedEnergy(unary, grid, 0.7, term)
    coarse = LiftedEnergy(small.aggregate(unary), small, 0.7, term)
    for _ in range(5):
        if name == "sublabel":
            x = rng.uniform(0, 3, small.n_nodes)
        else:
            x = rng.integers(0, 4, small.n_nodes)
        value = fine.value(x[small.labels.ravel()])
        assert coarse.value(x) == pytest.approx(value, rel=1e-12)


# --- bad input


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("pots", 3, {}), "pairwise must be one of 'potts'"),
        (("truncated", 3, {}), "needs truncation"),
        (("truncated", 3, {"truncation": 0.0}), "truncation must be > 0"),
        (("tv", 3, {"label_values": [0, 2, 1]}), "label_values must be 3 ascending"),
        (("tv", 3, {"label_values": [0, 1]}), "label_values must be 3 ascending"),
        (("tv", 2, {"label_values": [0, np.inf]}), "label_values must be 2 ascending"),
        (("sublabel", 3, {}), "needs coarse_values"),
        (("sublabel", 3, {"coarse_values": [0.0, 1.0]}), "span label_values"),
        (("sublabel", 3, {"coarse_values": 2.0}), "coarse_values must be 1 ascending"),
        (("separable_tv", 6, {"label_shape": (2, 2)}), "label_shape must be a pair"),
        (("separable_tv", 4, {"label_shape": (2, 2, 1)}), "label_shape must be a pair"),
        (("separable_tv", 4, {}), "label_shape must be a pair"),
    ],
)
def test_bad_terms_are_named(arguments, message):
    name, n_labels, options = arguments
    with pytest.raises(ValueError, match=message):
        make_pairwise(name, n_labels, **options)


def test_bad_energies_are_named():
    grid = PartitionGraph.from_grid((2, 2), "isotropic")
    term = make_pairwise("potts", 3)
    with pytest.raises(ValueError, match="5 rows.*4 nodes"):
        LiftedEnergy(np.zeros((5, 3)), grid, 1.0, term)
    with pytest.raises(ValueError, match="regularization must be >= 0"):
        LiftedEnergy(np.zeros((4, 3)), grid, -1.0, term)
    with pytest.raises(ValueError, match="relaxation must be one of"):
        LiftedEnergy(np.zeros((4, 3)), grid, 1.0, term, "zack")
    with pytest.raises(ValueError, match="not defined on an isotropic grid"):
        LiftedEnergy(
            np.zeros((4, 3)), grid, 1.0, make_pairwise("truncated", 3, truncation=2)
        )
    with pytest.raises(ValueError, match="unary contains NaN"):
        LiftedEnergy(np.full((4, 3), np.nan), grid, 1.0, term)
