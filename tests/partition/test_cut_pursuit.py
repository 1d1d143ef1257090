import itertools

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_digits

from skpoison.partition import PartitionGraph
from skpoison.partition._cells import limit_area
from skpoison.partition._cut_pursuit import cut_pursuit


def objective(labels, features, graph, mu):
    """Return the squared distances to the cells' means and the price of interfaces."""
    total = 0.0
    for cell in np.unique(labels):
        rows, areas = features[labels == cell], graph.node_areas[labels == cell]
        mean = areas @ rows / areas.sum()
        total += areas @ ((rows - mean) ** 2).sum(axis=1)
    i, j = graph.edges.T
    return total + mu * graph.weights[labels[i] != labels[j]].sum()


def n_pieces(labels, graph):
    """Return the number of connected pieces of all cells together."""
    i, j = graph.edges.T
    inner = PartitionGraph.from_edges(
        graph.edges[labels[i] == labels[j]], n_nodes=graph.n_nodes
    )
    return connected_components(inner.adjacency())[0]


def partitions(n, start=()):
    """Yield all labellings of n nodes whose numbers first occur in ascending order."""
    if len(start) == n:
        yield np.array(start)
        return
    for label in range(max(start, default=-1) + 2):
        yield from partitions(n, (*start, label))


def regions(height=48, width=60):
    """Return a label image of four regions and the colours of them."""
    y, x = np.mgrid[:height, :width]
    labels = (x > 0.6 * width).astype(int) + 2 * (y > 0.5 * height + 0.2 * x)
    labels[(x - 15) ** 2 + (y - 12) ** 2 < 50] = 3
    colours = np.array([[0.2, 0.3, 0.5], [0.8, 0.7, 0.2], [0.5, 0.9, 0.4], [0.9, 0, 0]])
    return labels, colours


@pytest.mark.parametrize("connectivity", [4, 8])
def test_noisy_regions_are_found_exactly(connectivity):
    labels, colours = regions()
    graph = PartitionGraph.from_grid(labels.shape, connectivity)
    noise = 0.05 * np.random.RandomState(0).randn(labels.size, 3)
    found = cut_pursuit(colours[labels.ravel()] + noise, graph, 0.2)
    assert found.dtype == np.int64
    pairs = np.unique(np.stack([found, labels.ravel()]), axis=1)
    # a cell never holds two regions; a region in two places is two cells
    assert len(np.unique(pairs[0])) == pairs.shape[1]
    assert found.max() + 1 == pairs.shape[1] == n_pieces(labels.ravel(), graph)


@pytest.mark.parametrize("mu", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_against_all_partitions(seed, mu):
    rng = np.random.RandomState(seed)
    n = 7
    pairs = [pair for pair in itertools.combinations(range(n), 2) if rng.rand() < 0.5]
    graph = PartitionGraph.from_edges(
        pairs, rng.rand(len(pairs)), n, node_areas=rng.randint(1, 4, n)
    )
    features = rng.rand(n, 2) + 0.5 * rng.randint(2, size=(n, 1))
    best = min(objective(labels, features, graph, mu) for labels in partitions(n))
    found = objective(cut_pursuit(features, graph, mu), features, graph, mu)
    assert best - 1e-12 <= found <= 1.1 * best + 1e-12


def test_the_sum_falls_from_round_to_round():
    rng = np.random.RandomState(0)
    labels, colours = regions(30, 30)
    features = colours[labels.ravel()] + 0.15 * rng.randn(900, 3)
    graph = PartitionGraph.from_grid((30, 30))
    values = [
        objective(cut_pursuit(features, graph, 0.1, max_iter=t), features, graph, 0.1)
        for t in range(1, 9)
    ]
    assert (np.diff(values) <= 1e-9).all()
    assert values[-1] < values[0]
    truth = objective(labels.ravel(), features, graph, 0.1)
    one = objective(np.zeros(900, int), features, graph, 0.1)
    assert values[-1] <= 1.01 * truth < one


def test_prices_at_both_ends():
    labels, colours = regions()
    graph = PartitionGraph.from_grid(labels.shape)
    features = colours[labels.ravel()]
    for mu in (0.0, 1e-6):
        found = cut_pursuit(features, graph, mu)
        assert found.max() + 1 == n_pieces(labels.ravel(), graph)
        assert objective(found, features, graph, 0.0) == pytest.approx(0.0, abs=1e-20)
    assert cut_pursuit(features, graph, 1e4).max() == 0
    # a cell for each connected component, however dear interfaces are
    halves = PartitionGraph.from_edges([[0, 1], [2, 3]], n_nodes=5)
    found = cut_pursuit(np.zeros((5, 1)), halves, 1e4)
    assert found.tolist() == [0, 0, 1, 1, 2]


def test_distinct_values_without_a_price():
    values = np.array([0, 0, 1, 1, 0, 2, 2, 3.0])
    graph = PartitionGraph.from_grid((1, 8))
    assert cut_pursuit(values[:, None], graph, 0.0).tolist() == [0, 0, 1, 1, 2, 3, 3, 4]


def test_areas_count_as_copies():
    rng = np.random.RandomState(1)
    features, cells = rng.rand(40, 2), np.repeat(np.arange(40), 3)
    grid = PartitionGraph.from_grid((1, 120))
    by_pixel = cut_pursuit(features[cells], grid, 0.05)
    by_cell = cut_pursuit(features, grid.contract(cells), 0.05)
    fine = objective(by_pixel, features[cells], grid, 0.05)
    coarse = objective(by_cell, features, grid.contract(cells), 0.05)
    assert objective(by_cell[cells], features[cells], grid, 0.05) == pytest.approx(
        coarse
    )
    assert fine == pytest.approx(coarse, rel=0.05)


def test_rows_of_a_table():
    X, y = load_digits(n_class=4, return_X_y=True)
    X = X / 16
    graph = PartitionGraph.from_neighbors(X, 8)
    labels = cut_pursuit(X, graph, 4.0)
    agree = sum(np.bincount(y[labels == cell]).max() for cell in np.unique(labels))
    assert 4 <= labels.max() + 1 < 40
    assert agree / len(y) > 0.95
    assert n_pieces(labels, graph) == labels.max() + 1


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_scale_of_features_and_price_does_not_matter(scale):
    labels, colours = regions(20, 24)
    features = colours[labels.ravel()] + 0.1 * np.random.RandomState(0).randn(480, 3)
    graph = PartitionGraph.from_grid(labels.shape)
    expected = cut_pursuit(features, graph, 0.05)
    found = cut_pursuit(scale * (features + 3), graph, scale**2 * 0.05)
    assert objective(found, features, graph, 0.05) == pytest.approx(
        objective(expected, features, graph, 0.05), rel=0.01
    )


def test_grid_and_list_of_edges_agree():
    labels, colours = regions()
    noise = 0.2 * np.random.RandomState(0).randn(labels.size, 3)
    features = colours[labels.ravel()] + noise
    grid = PartitionGraph.from_grid(labels.shape, 8)
    same = PartitionGraph.from_edges(grid.edges, grid.weights, grid.n_nodes)
    first = cut_pursuit(features, grid, 0.1)
    value = objective(first, features, grid, 0.1)
    other = cut_pursuit(features, same, 0.1)
    assert objective(other, features, grid, 0.1) == pytest.approx(value, rel=0.02)
    assert np.array_equal(first, cut_pursuit(features, grid, 0.1))


@pytest.mark.parametrize("max_area", [1, 7, 100])
def test_no_cell_is_larger_than_allowed(max_area):
    labels, colours = regions()
    graph = PartitionGraph.from_grid(labels.shape)
    features = colours[labels.ravel()]
    free = cut_pursuit(features, graph, 0.1)
    found = cut_pursuit(features, graph, 0.1, max_area=max_area)
    areas = np.bincount(found)
    assert areas.min() >= 1 and areas.max() <= max_area
    assert n_pieces(found, graph) == len(areas)
    # only cut further: each cell within one of those without a limit
    assert np.unique(np.stack([found, free]), axis=1).shape[1] == len(areas)
    if max_area > 1:
        assert len(areas) < 4 * labels.size / max_area


def test_limit_of_areas_takes_pieces_apart_and_leaves_nodes():
    line = PartitionGraph.from_grid((1, 8))
    apart = limit_area(np.array([0, 0, 1, 1, 0, 0, 1, 1]), line, 3)
    assert n_pieces(apart, line) == len(np.unique(apart)) == 4
    assert (
        limit_area(np.array([0, 1, 0, 2]), PartitionGraph.from_grid((1, 4)), 2)[2] == 0
    )
    heavy = PartitionGraph.from_edges([[0, 1], [1, 2]], node_areas=[9.0, 1.0, 1.0])
    first, second, third = limit_area(np.zeros(3, int), heavy, 2)
    assert first not in (second, third)


def test_the_smallest_graphs():
    one = PartitionGraph.from_edges([], n_nodes=1)
    assert cut_pursuit([[1.0]], one, 0.1, max_area=1).tolist() == [0]
    two = PartitionGraph.from_edges([[0, 1]])
    assert cut_pursuit([[0.0], [1.0]], two, 0.4).tolist() == [0, 1]
    assert cut_pursuit([[0.0], [1.0]], two, 0.6).tolist() == [0, 0]
    free = PartitionGraph.from_edges([[0, 1]], [0.0])
    assert cut_pursuit([[0.0], [1.0]], free, 0.6).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mu": -1.0}, ValueError, "mu must be >= 0"),
        ({"mu": "a"}, TypeError, "mu must be a number"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"max_area": 0}, ValueError, "max_area must be >= 1"),
        ({"features": np.ones((3, 1))}, ValueError, "3 rows, but the graph has 4"),
        ({"features": [[np.nan]] * 4}, ValueError, "features contains NaN"),
    ],
)
def test_refused(arguments, error, message):
    given = {
        "features": np.ones((4, 1)),
        "graph": PartitionGraph.from_grid((2, 2)),
        "mu": 0.1,
    }
    with pytest.raises(error, match=message):
        cut_pursuit(**{**given, **arguments})
