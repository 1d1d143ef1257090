"""Distances to nearest neighbours, and the weights that they become."""

import numpy as np
from scipy.sparse import coo_array

from skpoison.utils._validation import check_number


def neighbor_distances(X, n_neighbors):
    """Find the nearest neighbours of each row.

    Parameters
    ----------
    X : array or sparse matrix of shape (n_samples, n_features)
    n_neighbors : int
        At most n_samples - 1 count.

    Returns
    -------
    distances : coo_array of shape (n_samples, n_samples)
        Each pair of neighbours once.
    scales : ndarray of shape (n_samples,)
        The median distance of each row to its own neighbours.
    """
    from sklearn.neighbors import kneighbors_graph

    check_number("n_neighbors", n_neighbors, low=1, integer=True)
    n_samples = X.shape[0]
    n_neighbors = min(int(n_neighbors), n_samples - 1)
    if n_neighbors < 1:
        return coo_array((n_samples, n_samples)), np.zeros(n_samples)
    graph = coo_array(kneighbors_graph(X, n_neighbors, mode="distance"))
    scales = np.median(graph.data.reshape(n_samples, n_neighbors), axis=1)
    i, j = np.minimum(*graph.coords), np.maximum(*graph.coords)
    _, first = np.unique(i.astype(np.int64) * n_samples + j, return_index=True)
    pairs = (i[first], j[first])
    return coo_array((graph.data[first], pairs), shape=graph.shape), scales


def neighbor_weights(distances, scales, bandwidth):
    """Return Gaussian weights of the pairs of :func:`neighbor_distances`."""
    if isinstance(bandwidth, str) and bandwidth == "local":
        squares = scales[distances.row] * scales[distances.col]
        # where more than half of a row's neighbours are its copies, they alone count
        squares = np.maximum(squares, np.finfo(float).tiny)
        return np.exp(-0.5 * distances.data**2 / squares)
    return np.exp(-0.5 * (distances.data / find_bandwidth(distances, bandwidth)) ** 2)


def find_bandwidth(distances, bandwidth):
    """Return the s of the weights that "median" stands for, or the number given."""
    if not isinstance(bandwidth, str):
        return float(bandwidth)
    apart = distances.data[distances.data > 0]
    if len(apart) == 0:
        return 1.0
    # above 0: where more than half of the pairs are copies of each other
    return float(np.median(distances.data) or np.median(apart))


def check_bandwidth(bandwidth, names):
    """Raise unless a bandwidth is one of the names or a positive number."""
    if isinstance(bandwidth, str) and bandwidth not in names:
        wanted = " or ".join(map(repr, names))
        raise ValueError(
            f"bandwidth must be {wanted} or a positive number, got {bandwidth!r}"
        )
    if not isinstance(bandwidth, str):
        check_number("bandwidth", bandwidth, low=0.0, strict=True)
