import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import pairwise_distances

from skpoison.partition import PartitionGraph
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._neighbors import neighbor_distances
from skpoison.partition._pixels import check_image, offset_slices


def pairs_of(graph):
    """Return {(i, j): weight}."""
    return {
        tuple(map(int, e)): w for e, w in zip(graph.edges, graph.weights, strict=True)
    }


# ------------------------------------------------------------------------- pixel grids


@pytest.mark.parametrize("connectivity", [4, 8, "isotropic"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2), (4, 5)])
def test_grid_against_a_loop(shape, connectivity):
    height, width = shape
    expected = {}
    for y in range(height):
        for x in range(width):
            for dy, dx in [(0, 1), (1, 0), (1, 1), (1, -1)]:
                diagonal = dy * dx != 0
                if diagonal and connectivity != 8:
                    continue
                if y + dy < height and 0 <= x + dx < width:
                    weight = np.pi / 8 / (np.sqrt(2) if diagonal else 1)
                    pair = (y * width + x, (y + dy) * width + x + dx)
                    expected[pair] = weight if connectivity == 8 else 1.0
    graph = PartitionGraph.from_grid(shape, connectivity)
    assert pairs_of(graph) == expected
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    assert graph.n_nodes == height * width
    assert graph.isotropic == (connectivity == "isotropic")
    # blocks by direction, each row by row, as the solvers' slices have it
    node = np.arange(height * width).reshape(shape)
    ends = [offset_slices(offset) for offset in graph.offsets]
    for end in (0, 1):
        order = np.concatenate([node[end_of[end]].ravel() for end_of in ends])
        assert np.array_equal(graph.edges[:, end], order)


def _disc(n, radius):
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return x**2 + y**2 <= radius**2


def _square(n, half):
    y, x = abs(np.mgrid[:n, :n] - (n - 1) / 2)
    return np.maximum(x, y) <= half


def _diamond(n, half):
    y, x = abs(np.mgrid[:n, :n] - (n - 1) / 2)
    return x + y <= half


@pytest.mark.parametrize(
    ("shape", "length", "by_4", "by_8"),
    [
        pytest.param(_disc(231, 100), 2 * np.pi * 100, 1.2732, 1.0003, id="disc"),
        pytest.param(_square(231, 80), 4 * 161, 1.0, 0.9467, id="square"),
        pytest.param(
            _diamond(231, 100), 4 * np.sqrt(2) * 100.5, 1.4142, 0.94, id="diamond"
        ),
    ],
)
def test_length_of_digital_shapes(shape, length, by_4, by_8):
    for connectivity, ratio in ((4, by_4), (8, by_8)):
        graph = PartitionGraph.from_grid(shape.shape, connectivity)
        i, j = graph.edges.T
        inside = shape.ravel()
        measured = graph.weights[inside[i] != inside[j]].sum() / length
        assert measured == pytest.approx(ratio, rel=0.01)


def test_contrast_by_hand():
    image = np.array([[[0, 0, 0], [10, 20, 0]], [[0, 0, 0], [255, 255, 255]]], np.uint8)
    graph = PartitionGraph.from_grid((2, 2), 4, image=image, contrast=(10.0, 0.1))
    across = 0.1 + 0.9 * np.exp(-np.array([10.0, 255.0, 0.0, 755 - 20 - 10 + 10]) / 10)
    across[3] = 0.1 + 0.9 * np.exp(-(245 + 235 + 255) / 3 / 10)
    assert graph.weights == pytest.approx(across, rel=1e-12)
    floats = PartitionGraph.from_grid((2, 2), image=image / 255, contrast=(10.0, 0.1))
    assert floats.weights == pytest.approx(across, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (0, 3)}, "pair .height, width.*got .0, 3"),
        ({"shape": 4}, "pair .height, width.*got 4"),
        ({"shape": (2, 2), "connectivity": 6}, "4, 8, 'isotropic', got 6"),
        ({"shape": (2, 2), "connectivity": [4]}, r"'isotropic', got \[4\]"),
        ({"shape": (2, 2), "contrast": 3.0}, "pair .sigma, low., got 3.0"),
        ({"shape": (2, 2), "contrast": (10, 0.1)}, "contrast needs the image"),
        ({"shape": (2, 2), "contrast": (0, 0.1)}, r"contrast\[0\] must be > 0"),
        ({"shape": (2, 2), "contrast": (1, 2)}, r"contrast\[1\] must be in \[0"),
        (
            {"shape": (2, 2), "contrast": (1, 0), "image": np.ones((2, 3))},
            r"\(2, 3\), but the grid \(2, 2\)",
        ),
    ],
)
def test_grid_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartitionGraph.from_grid(**arguments)


# ------------------------------------------------------------------------------ images


def test_images_of_all_types():
    grey = np.array([[0, 51], [102, 255]], np.uint8)
    assert check_image(grey).tolist() == [[[0.0], [0.2]], [[0.4], [1.0]]]
    assert check_image(grey.astype(np.int16)).max() == 255.0
    assert check_image(grey > 60).tolist() == [[[0.0], [0.0]], [[1.0], [1.0]]]
    colours = np.random.RandomState(0).rand(3, 4, 2).astype(np.float32)
    found = check_image(colours)
    assert found.dtype == np.float64 and np.array_equal(found, colours)
    assert check_image(colours.tolist()).shape == (3, 4, 2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones(3), r"left must have shape .*got \(3,\)"),
        (np.ones((2, 2, 3, 1)), r"got \(2, 2, 3, 1\)"),
        (np.ones((0, 3)), r"got \(0, 3\)"),
        (np.array([[np.nan]]), "NaN"),
        (np.array([[np.inf]]), "infinity"),
    ],
    ids=["line", "batch", "empty", "nan", "inf"],
)
def test_image_refused(image, message):
    with pytest.raises(ValueError, match=message):
        check_image(image, "left")


# ------------------------------------------------------------------- edges and matrices


def test_edges_add_up_and_are_ordered():
    graph = PartitionGraph.from_edges(
        [[3, 1], [1, 3], [2, 2], [0, 1]], [1.0, 2.0, 5.0, 0.0], 6
    )
    assert pairs_of(graph) == {(0, 1): 0.0, (1, 3): 3.0}
    assert graph.n_nodes == 6 and graph.node_areas.tolist() == [1.0] * 6
    assert PartitionGraph.from_edges([[0, 4]]).n_nodes == 5
    assert PartitionGraph.from_edges([], n_nodes=2).n_edges == 0
    assert repr(graph) == "<PartitionGraph of 6 nodes and 2 edges>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1, 2]],), r"\(n_pairs, 2\), got \(1, 3\)"),
        (([[0.0, 1.0]],), "integers, got dtype float64"),
        (([[0, 5]], None, 5), r"\[0, n_nodes=5\), got 5"),
        (([[-1, 0]],), r"got -1"),
        (([[0, 1]], [-1.0]), ">= 0, got -1.0"),
        (([[0, 1]], [np.nan]), "got nan"),
        (([[0, 1]], [1.0, 2.0]), r"1 numbers, one an edge, got shape \(2,\)"),
        (([],), "n_nodes must be >= 1"),
    ],
)
def test_edges_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartitionGraph.from_edges(*arguments)


@pytest.mark.parametrize("areas", [[1.0, 0.0], [1.0], [1.0, np.nan]])
def test_areas_refused(areas):
    with pytest.raises(ValueError, match="node_areas must be 2 positive"):
        PartitionGraph.from_edges([[0, 1]], node_areas=areas)


def test_matrix_of_weights():
    rng = np.random.RandomState(0)
    dense = np.triu(rng.rand(7, 7) * (rng.rand(7, 7) < 0.5), 1)
    dense += dense.T
    for matrix in (
        dense,
        sparse.csr_matrix(dense),
        sparse.coo_array(dense + np.eye(7)),
    ):
        graph = PartitionGraph.from_sparse(matrix)
        assert np.array_equal(graph.adjacency().toarray(), dense)
    D = graph.incidence().toarray()
    laplacian = np.diag(dense.sum(axis=1)) - dense
    assert D.T @ np.diag(graph.weights) @ D == pytest.approx(laplacian)


def test_asymmetric_matrix_takes_the_larger_weight():
    matrix = np.array([[0, 2, 0], [1, 0, 0], [0, 3, 0.0]])
    with pytest.warns(UserWarning, match="not symmetric"):
        graph = PartitionGraph.from_sparse(matrix)
    assert pairs_of(graph) == {(0, 1): 2.0, (1, 2): 3.0}


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"square matrix, got shape \(2, 3\)"),
        (np.array([[0, -1.0], [-1.0, 0]]), "got -1.0"),
        (np.array([[0, np.nan], [np.nan, 0]]), "got nan"),
    ],
    ids=["rectangle", "negative", "nan"],
)
def test_matrix_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        PartitionGraph.from_sparse(matrix)


# -------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("bandwidth", ["median", "local", 0.7])
def test_neighbours_against_all_distances(bandwidth):
    X = np.random.RandomState(0).rand(40, 3)
    distances = pairwise_distances(X)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :4]
    pairs = sorted({tuple(sorted((i, int(j)))) for i in range(40) for j in nearest[i]})
    apart = np.array([distances[pair] for pair in pairs])
    s = np.median(apart) if bandwidth == "median" else bandwidth
    if bandwidth == "local":
        scales = np.median(np.sort(distances, axis=1)[:, :4], axis=1)
        s = np.sqrt([scales[i] * scales[j] for i, j in pairs])
    graph = PartitionGraph.from_neighbors(X, 4, bandwidth=bandwidth)
    assert list(pairs_of(graph)) == pairs
    assert graph.weights == pytest.approx(np.exp(-(apart**2) / (2 * s**2)))


def test_neighbours_of_few_rows_and_of_copies():
    line = PartitionGraph.from_neighbors([[0.0], [1.0], [2.0]], n_neighbors=50)
    assert list(pairs_of(line)) == [(0, 1), (0, 2), (1, 2)]
    assert PartitionGraph.from_neighbors([[1.0]]).n_edges == 0
    # most pairs are copies: the others still count
    X = np.array([[0.0]] * 6 + [[1.0], [2.0]])
    weights = PartitionGraph.from_neighbors(X, 3).weights
    assert weights.max() == 1.0 and 0 < weights.min() < 1
    assert (PartitionGraph.from_neighbors(np.ones((5, 2)), 2).weights == 1).all()
    assert neighbor_distances(sparse.csr_array(X), 3)[0].shape == (8, 8)


@pytest.mark.parametrize("bandwidth", ["mean", 0.0, -1.0, np.nan])
def test_bandwidth_refused(bandwidth):
    with pytest.raises(ValueError, match="bandwidth"):
        PartitionGraph.from_neighbors(np.eye(3), 2, bandwidth=bandwidth)


# ------------------------------------------------------------------------- contraction


def contracted_by_a_loop(graph, cells):
    """Return {(a, b): weight} of cells by going over all edges."""
    found = {}
    for (i, j), weight in zip(graph.edges, graph.weights, strict=True):
        a, b = sorted((int(cells[i]), int(cells[j])))
        if a != b:
            found[a, b] = found.get((a, b), 0.0) + weight
    return found


@pytest.mark.parametrize("connectivity", [4, 8])
def test_contraction_against_a_loop(connectivity):
    rng = np.random.RandomState(0)
    image = rng.rand(9, 11)
    graph = PartitionGraph.from_grid(
        (9, 11), connectivity, image=image, contrast=(40.0, 0.2)
    )
    cells = rng.randint(7, size=(9, 11))
    cells.flat[:7] = np.arange(7)
    joined = graph.contract(cells)
    expected = contracted_by_a_loop(graph, cells.ravel())
    assert pairs_of(joined) == pytest.approx(expected, rel=1e-13)
    assert joined.node_areas.tolist() == np.bincount(cells.ravel()).tolist()
    assert np.array_equal(joined.labels, cells) and joined.offsets is None
    # once more: areas and weights go on adding up
    again = joined.contract(np.array([0, 0, 1, 1, 2, 2, 2]))
    direct = graph.contract(np.array([0, 0, 1, 1, 2, 2, 2])[cells])
    assert again.weights == pytest.approx(direct.weights, rel=1e-13)
    assert np.array_equal(again.node_areas, direct.node_areas)


@pytest.mark.parametrize("contrast", [None, (40.0, 0.2)], ids=["plain", "contrast"])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_cells_of_pixels_are_the_grids_contraction(connectivity, contrast):
    rng = np.random.RandomState(0)
    image, cells = rng.rand(9, 11, 2), 3 * rng.randint(7, size=(9, 11)) - 5
    grid = PartitionGraph.from_grid(
        (9, 11), connectivity, image=image, contrast=contrast
    )
    joined = grid.contract(cells)
    direct = PartitionGraph.from_cells(
        cells, connectivity, image=image, contrast=contrast
    )
    assert np.array_equal(direct.edges, joined.edges)
    assert direct.weights == pytest.approx(joined.weights, rel=1e-13)
    assert np.array_equal(direct.node_areas, joined.node_areas)
    assert np.array_equal(direct.labels, joined.labels)
    one = PartitionGraph.from_cells(np.zeros((2, 3), int), connectivity)
    assert (one.n_nodes, one.n_edges, one.node_areas.tolist()) == (1, 0, [6.0])


def test_cells_of_pixels_take_less_memory_than_the_grid():
    image = np.random.RandomState(0).rand(120, 150, 3)
    y, x = np.indices(image.shape[:2]) // 6
    cells = 100 * y + x

    def peak(make):
        tracemalloc.start()
        make()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    contrast = {"image": image, "contrast": (10.0, 0.1)}
    direct = peak(lambda: PartitionGraph.from_cells(cells, **contrast))
    grid = peak(
        lambda: PartitionGraph.from_grid(cells.shape, **contrast).contract(cells)
    )
    assert direct < 0.5 * grid


@pytest.mark.parametrize(
    "cells, connectivity, match",
    [
        (np.zeros((2, 2)), 4, "cells must be 4 integers"),
        (np.zeros(4, int), 4, "must be a pair"),
        (np.zeros((2, 2), int), "isotropic", "no contraction"),
        (np.zeros((2, 2), int), 5, "connectivity must be one of"),
    ],
    ids=["floats", "flat", "isotropic", "five"],
)
def test_cells_of_pixels_refused(cells, connectivity, match):
    with pytest.raises(ValueError, match=match):
        PartitionGraph.from_cells(cells, connectivity)


@pytest.mark.parametrize(
    "cells",
    [
        np.array([5, 5, 9, -3]),
        np.array([5, 5, 9, -3], np.int8),
        np.array([2, 2, 10**15, 1]),
        np.array([100, 100, 200, 0], np.uint8),
    ],
    ids=["gaps", "int8", "far apart", "uint8"],
)
def test_cells_are_numbered_without_gaps(cells):
    graph = PartitionGraph.from_grid((1, 4)).contract(cells)
    assert graph.labels.tolist() == [1, 1, 2, 0]
    assert pairs_of(graph) == {(0, 2): 1.0, (1, 2): 1.0}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("potts", {}),
        ("tv", {"label_values": np.array([0.0, 1.0, 2.5, 4.0, 4.5, 9.0])}),
        ("truncated", {"truncation": 2}),
        ("sublabel", {"coarse_values": [0.0, 2.0, 5.0]}),
        ("separable_tv", {"label_shape": (2, 3)}),
    ],
)
def test_cells_have_the_energy_of_their_pixels(name, options):
    rng = np.random.RandomState(3)
    grid = PartitionGraph.from_grid((12, 10), 8)
    unary = rng.rand(120, 6)
    cells = rng.randint(15, size=(12, 10))
    joined = grid.contract(cells)
    term = make_pairwise(name, 6, **options)
    on_pixels = LiftedEnergy(unary, grid, 0.3, term)
    on_cells = LiftedEnergy(joined.aggregate(unary), joined, 0.3, term)
    for _ in range(5):
        labels = rng.randint(6, size=joined.n_nodes)
        if name == "sublabel":
            labels = 5.0 * rng.rand(joined.n_nodes)
        pixels = labels[joined.labels.ravel()]
        assert on_cells.value(labels) == pytest.approx(on_pixels.value(pixels), 1e-12)


def test_sums_and_means_of_cells():
    grid = PartitionGraph.from_grid((2, 2))
    joined = grid.contract([[0, 0], [0, 1]])
    values = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0], [5.0, 5.0]])
    assert joined.aggregate(values).tolist() == [[9.0, 3.0], [5.0, 5.0]]
    assert joined.aggregate(values, mean=True).tolist() == [[3.0, 1.0], [5.0, 5.0]]
    image = values.reshape(2, 2, 2)
    assert joined.aggregate(image).tolist() == [[9.0, 3.0], [5.0, 5.0]]
    assert grid.aggregate(values) is values


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[0, 1, 2]], r"6 integers, one a node, got shape \(1, 3\)"),
        (np.zeros((3, 2), int), r"got shape \(3, 2\)"),
        (np.zeros(6), "of dtype float64"),
    ],
    ids=["few", "turned", "float"],
)
def test_cells_refused(cells, message):
    with pytest.raises(ValueError, match=message):
        PartitionGraph.from_grid((2, 3)).contract(cells)


def test_an_isotropic_grid_has_no_cells():
    grid = PartitionGraph.from_grid((2, 2), "isotropic")
    with pytest.raises(ValueError, match="no contraction"):
        grid.contract([0, 0, 1, 1])
