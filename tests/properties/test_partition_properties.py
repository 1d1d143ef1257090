"""Labellings of graphs: bounds below energies, labels in range, graphs that add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties._strategies import LABELS, LAYOUTS, SEEDS, as_bytes, tables

from skpoison.partition import (
    LiftedFlow,
    LiftedLabelPropagation,
    LiftedLabelRepair,
    LiftedPartition,
    LiftedProblem,
    LiftedResult,
    LiftedStereo,
    PartitionGraph,
    SuperpixelGraph,
    build_problem,
    solve_lifted,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@st.composite
def _problems(draw):
    """A graph, the cost of each label at each node, and a weight."""
    rng = np.random.RandomState(draw(SEEDS))
    n, k = draw(st.integers(2, 6)), draw(st.integers(2, 3))
    pairs = rng.randint(0, n, (draw(st.integers(1, 9)), 2))
    graph = PartitionGraph.from_edges(pairs, rng.rand(len(pairs)), n)
    return graph, rng.rand(n, k), draw(st.sampled_from([0.0, 0.1, 1.0, 10.0]))


def _energy(labels, graph, unary, weight):
    cut = labels[graph.edges[:, 0]] != labels[graph.edges[:, 1]]
    rows = np.arange(len(labels))
    return unary[rows, labels].sum() + weight * graph.weights[cut].sum()


@given(problem=_problems(), seed=SEEDS)
def test_no_labelling_lies_below_the_bound(problem, seed):
    graph, unary, weight = problem
    n, k = unary.shape
    before = unary.copy()
    result = solve_lifted(unary, graph, weight, dtype="float64")
    np.testing.assert_array_equal(unary, before)
    assert isinstance(result, LiftedResult)
    assert result.labels.dtype.kind == "i" and set(result.labels) <= set(range(k))
    energy = _energy(result.labels, graph, unary, weight)
    assert result.energy == pytest.approx(energy, rel=1e-9, abs=1e-12)
    every = np.stack(np.meshgrid(*[range(k)] * n), -1).reshape(-1, n)
    best = min(_energy(labels, graph, unary, weight) for labels in every)
    assert result.lower_bound <= best + 1e-9 and result.energy >= best - 1e-9
    np.testing.assert_allclose(result.assignment.sum(1), 1, atol=1e-5)
    # names of nodes don't matter
    order = np.random.RandomState(seed).permutation(n)
    place = np.argsort(order)
    renamed = PartitionGraph.from_edges(place[graph.edges], graph.weights, n)
    moved = solve_lifted(unary[order], renamed, weight, dtype="float64")
    assert moved.lower_bound <= best + 1e-9 <= moved.energy + 2e-9


@settings(max_examples=3)
@given(problem=_problems())
def test_conic_solvers_agree(problem):
    graph, unary, weight = problem
    made = build_problem(unary, graph, weight)
    assert isinstance(made, LiftedProblem)
    value = made.solve()
    result = solve_lifted(unary, graph, weight, dtype="float64", tol=1e-6)
    assert result.lower_bound <= value + 1e-5
    assert value <= result.energy + 1e-5


@given(
    n=st.integers(1, 9),
    pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12),
    seed=SEEDS,
)
def test_graphs_add_up(n, pairs, seed):
    pairs = np.array([(a % n, b % n) for a, b in pairs], dtype=int).reshape(-1, 2)
    weights = np.random.RandomState(seed).rand(len(pairs))
    graph = PartitionGraph.from_edges(pairs, weights, n)
    kept = weights[pairs[:, 0] != pairs[:, 1]]
    assert graph.weights.sum() == pytest.approx(kept.sum())
    assert len({tuple(sorted(e)) for e in graph.edges.tolist()}) == graph.n_edges
    flipped = PartitionGraph.from_edges(pairs[::-1, ::-1], weights[::-1], n)
    assert flipped.n_edges == graph.n_edges
    one = graph.contract(np.zeros(n, dtype=int))
    assert one.n_nodes == 1 and one.n_edges == 0
    assert one.node_areas.sum() == pytest.approx(graph.node_areas.sum())


@settings(max_examples=4)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(4, 8), st.integers(4, 8)),
    channels=st.sampled_from([None, 3]),
    dtype=st.sampled_from(["uint8", "float64"]),
    layout=st.sampled_from(["c", "fortran", "strided", "reversed", "read-only"]),
)
def test_pictures_are_labelled_in_range(seed, shape, channels, dtype, layout):
    rng = np.random.RandomState(seed)
    image = rng.rand(*shape, *([] if channels is None else [channels]))
    image = (255 * image).astype("uint8") if dtype == "uint8" else image
    given_image = LAYOUTS[layout](image)
    before = as_bytes(given_image)
    model = LiftedPartition(3, 0.1, discretization="grid", random_state=0)
    labels = model.fit(given_image).labels_
    assert as_bytes(given_image) == before
    assert labels.shape == shape and set(labels.ravel()) <= {0, 1, 2}
    assert model.relative_gap_ >= -1e-9
    cells = SuperpixelGraph("cut_pursuit").fit(given_image)
    assert cells.node_areas_.sum() == np.prod(shape)
    disparity = LiftedStereo(2, discretization="grid").fit_predict((image, image))
    assert disparity.shape == shape and ((disparity >= 0) & (disparity <= 2)).all()
    flow = LiftedFlow(1, discretization="grid").fit((image, image)).flow_
    assert flow.shape == (*shape, 2) and (np.abs(flow) <= 1).all()


@settings(max_examples=4)
@given(
    data=tables(),
    labels=st.sampled_from(["text", "objects", "bytes"]),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_labels_spread_within_the_classes(data, labels, layout):
    X, y = data[0], LABELS[labels](data[1])
    repaired = LiftedLabelRepair(3).fit_predict(LAYOUTS[layout](X), y)
    assert set(repaired) <= set(y) and len(repaired) == len(y)
    part = data[1].copy()
    part[9:] = -1
    model = LiftedLabelPropagation(3).fit(LAYOUTS[layout](X), part)
    assert set(model.transduction_) <= set(part[:9])
    np.testing.assert_array_equal(model.transduction_[:9], part[:9])
