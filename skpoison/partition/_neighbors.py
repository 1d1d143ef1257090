"""Distances to nearest neighbours, and the weights that they become."""

import numpy as np
from scipy.sparse import coo_array

from skpoison.utils._validation import check_number


def neighbor_distances(X, n_neighbors):
    """Return distances to the nearest neighbours, (n, n) COO, each pair once."""
    from sklearn.neighbors import kneighbors_graph

    check_number("n_neighbors", n_neighbors, low=1, integer=True)
    n_neighbors = min(int(n_neighbors), X.shape[0] - 1)
    if n_neighbors < 1:
        return coo_array((X.shape[0], X.shape[0]))
    graph = coo_array(kneighbors_graph(X, n_neighbors, mode="distance"))
    i, j = np.minimum(*graph.coords), np.maximum(*graph.coords)
    _, first = np.unique(i.astype(np.int64) * X.shape[0] + j, return_index=True)
    return coo_array((graph.data[first], (i[first], j[first])), shape=graph.shape)


def neighbor_weights(distances, bandwidth):
    """Return Gaussian weights of distances."""
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(
                f"bandwidth must be 'median' or a positive number, got {bandwidth!r}"
            )
        apart = distances[distances > 0]
        if len(apart) == 0:
            return np.ones(len(distances))
        # above 0: where more than half of the pairs are copies of each other
        bandwidth = np.median(distances) or np.median(apart)
    else:
        check_number("bandwidth", bandwidth, low=0.0, strict=True)
    return np.exp(-0.5 * (distances / bandwidth) ** 2)
