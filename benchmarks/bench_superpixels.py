"""Super-pixels and their graph against scikit-image, sparse products and C++."""

import numpy as np
from scipy.sparse import coo_array, csr_array
from skimage import data, graph
from skimage.segmentation import felzenszwalb, slic

from skpoison.partition import PartitionGraph, SuperpixelGraph
from skpoison.partition._cut_pursuit import cut_pursuit

_MU = 0.03


def by_product(adjacency, labels, F):
    """Return the cells' interfaces and costs by P W P^T and P F.

    Parameters
    ----------
    adjacency : csr_array of shape (n_pixels, n_pixels)
    labels : ndarray of shape (n_pixels,)
    F : ndarray of shape (n_pixels, n_labels)
    """
    n = len(labels)
    P = csr_array((np.ones(n), (labels, np.arange(n))))
    interfaces = (P @ adjacency @ P.T).tocoo()
    return interfaces, P @ F


def by_sorting(edges, weights, labels, F):
    """Return the same by sorting pairs of cells.

    Parameters
    ----------
    edges : ndarray of shape (n_edges, 2)
    weights : ndarray of shape (n_edges,)
    labels : ndarray of shape (n_pixels,)
    F : ndarray of shape (n_pixels, n_labels)
    """
    n_cells = labels.max() + 1
    i, j = np.sort(labels[edges], axis=1).T
    apart = i != j
    pairs, place = np.unique(i[apart] * n_cells + j[apart], return_inverse=True)
    lengths = np.bincount(place, weights[apart])
    sums = np.stack([np.bincount(labels, column) for column in F.T], axis=1)
    return coo_array((lengths, np.divmod(pairs, n_cells)), (n_cells, n_cells)), sums


def by_authors(module, pixels, grid):
    """Return cells by the C++ implementation of cut pursuit's authors.

    Parameters
    ----------
    module : module
        ``pycut_pursuit.cp_d0_dist``.
    pixels : ndarray of shape (n_pixels, n_channels)
    grid : PartitionGraph
    """
    order = np.argsort(grid.edges[:, 0], kind="stable")
    starts, ends = grid.edges[order].T
    first = np.append(0, np.cumsum(np.bincount(starts, minlength=grid.n_nodes)))
    return module.cp_d0_dist(
        pixels.shape[1],
        np.asfortranarray(pixels.T),
        first.astype(np.uint32),
        ends.astype(np.uint32),
        edge_weights=_MU * grid.weights[order],
        max_num_threads=1,
        verbose=False,
    )[0].astype(np.int64)


def measure(bench):
    """Time cells and their graph on a photograph of 300 x 451 pixels."""
    bench.title("Super-pixels")
    step = bench.size(1, 3)
    image = data.chelsea()[::step, ::step] / 255
    grid = PartitionGraph.from_grid(image.shape[:2])
    n_segments = grid.n_nodes // 50
    cells = SuperpixelGraph(n_segments=n_segments)
    labels = cells.fit(image).labels_
    bench.compare(
        "SuperpixelGraph('slic').fit",
        lambda: cells.fit(image),
        {
            "slic alone": lambda: slic(
                image, n_segments, compactness=30.0, start_label=0
            )
        },
        repeats=7,
        bars={"slic alone": 1.25},
    )
    _contraction(bench, image, grid, labels)
    pixels = image.reshape(grid.n_nodes, -1)
    peers = {"felzenszwalb": lambda: felzenszwalb(image, scale=50, min_size=25)}
    authors = bench.optional("pycut_pursuit.cp_d0_dist")
    if authors is not None:
        ours, theirs = cut_pursuit(pixels, grid, _MU), by_authors(authors, pixels, grid)
        n_ours, n_theirs = ours.max() + 1, theirs.max() + 1
        assert abs(n_ours - n_theirs) < 0.15 * n_theirs
        peers["the authors' C++"] = lambda: by_authors(authors, pixels, grid)
    bench.compare(
        f"cut_pursuit, mu={_MU}",
        lambda: cut_pursuit(pixels, grid, _MU),
        peers,
        repeats=3,
    )


def _contraction(bench, image, grid, labels):
    """Time the graph of given cells, with the sums of eight costs."""
    F = np.random.default_rng(0).random((grid.n_nodes, 8))
    flat, adjacency = labels.ravel(), grid.adjacency()

    def ours():
        joined = grid.contract(labels)
        return joined, joined.aggregate(F)

    def bound():  # which edges cross, and all costs once
        crossing = [labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]]
        return crossing, F.sum()

    joined, sums = ours()
    for peer in (
        by_product(adjacency, flat, F),
        by_sorting(grid.edges, grid.weights, flat, F),
    ):
        dense = np.triu(peer[0].toarray(), 1)
        assert np.array_equal(dense, np.triu(joined.adjacency().toarray(), 1))
        assert np.allclose(peer[1], sums)
    bench.compare(
        "contract and aggregate, 8 costs",
        ours,
        {
            "P W P^T in SciPy": lambda: by_product(adjacency, flat, F),
            "np.unique": lambda: by_sorting(grid.edges, grid.weights, flat, F),
            "skimage's rag_mean_color": lambda: graph.rag_mean_color(image, labels),
        },
        repeats=7,
        bound=bound,
        bars={
            "P W P^T in SciPy": 0.5,
            "np.unique": 0.5,
            "skimage's rag_mean_color": 0.1,
        },
    )
