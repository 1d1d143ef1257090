"""The best way to cut every cell of a graph in two, all of them at once."""

import numpy as np
from scipy.sparse import csr_array

from skpoison.partition._pixels import offset_slices

_MAX_ITER, _CHECK = 50, 25
_RELAXATION = 1.8  # under 2; halves the number of iterations


class Slices:
    """Differences along the edges of a pixel grid."""

    def __init__(self, grid):
        self.shape = grid.shape
        self.ends = [offset_slices(offset) for offset in grid.offsets]
        node = np.empty(grid.shape)
        self.blocks = [node[here].shape for here, _ in self.ends]

    def _views(self, p):
        start = 0
        for height, width in self.blocks:
            yield p[start : start + height * width].reshape(height, width)
            start += height * width

    def differences(self, u, out):
        """Write u_i - u_j of all edges to `out`."""
        u = u.reshape(self.shape)
        for (here, there), block in zip(self.ends, self._views(out), strict=True):
            np.subtract(u[here], u[there], out=block)

    def divergence(self, p, out):
        """Write the sums of p over the edges of each node to `out`, with its sign."""
        out[:] = 0
        out = out.reshape(self.shape)
        for (here, there), block in zip(self.ends, self._views(p), strict=True):
            out[here] += block
            out[there] -= block


class Matrix:
    """Differences along the edges of any graph."""

    def __init__(self, i, j, n_nodes):
        n_edges = len(i)
        self.D = csr_array(
            (
                np.tile(np.array([1, -1], dtype=np.float32), n_edges),
                np.stack([i, j], axis=1).ravel(),
                np.arange(0, 2 * n_edges + 1, 2),
            ),
            shape=(n_edges, n_nodes),
        )
        self.DT = self.D.T.tocsr()

    def differences(self, u, out):
        """Write u_i - u_j of all edges to `out`."""
        out[:] = self.D @ u

    def divergence(self, p, out):
        """Write the sums of p over the edges of each node to `out`, with its sign."""
        out[:] = self.DT @ p


def binary_cut(operator, i, j, costs, gap, side, p, tol):
    """Minimise sum_v gap_v x_v + sum_e costs_e |x_i - x_j| over x in {0, 1}.

    The primal-dual method of Chambolle and Pock (2011), over-relaxed, with a step for
    each node and edge. Ends where the duals show that x is within `tol` of the best.

    Returns
    -------
    x : ndarray of bool
    p : ndarray of float32
        Duals, to go on from.
    """
    n = len(gap)
    degree = np.bincount(i, costs, n) + np.bincount(j, costs, n)
    tau = (1 / np.maximum(degree, 1e-20)).astype(np.float32)
    slope, bound = gap.astype(np.float32), costs.astype(np.float32)
    u, sigma, floor = side.astype(np.float32), 0.5 * bound, -bound
    best, best_value, lower = side, np.inf, -np.inf
    u_next, u_bar, p_next = np.empty_like(u), np.empty_like(u), np.empty_like(p)
    for n_iter in range(1, _MAX_ITER + 1):
        operator.divergence(p, u_next)
        u_next += slope
        u_next *= tau
        np.subtract(u, u_next, out=u_next)
        np.maximum(u_next, 0, out=u_next)  # much faster than np.clip
        np.minimum(u_next, 1, out=u_next)
        np.multiply(u_next, 2, out=u_bar)
        u_bar -= u
        operator.differences(u_bar, p_next)
        p_next *= sigma
        p_next += p
        np.maximum(p_next, floor, out=p_next)
        np.minimum(p_next, bound, out=p_next)
        if n_iter % _CHECK == 0:
            x = u_next > 0.5
            value = gap[x].sum() + costs[x[i] != x[j]].sum()
            if value < best_value:
                best, best_value = x, value
            operator.divergence(p_next, u_bar)
            lower = max(lower, np.minimum(gap + u_bar, 0.0).sum())
            if best_value - lower <= tol:
                break
        for old, new in ((u, u_next), (p, p_next)):
            new -= old
            new *= _RELAXATION
            old += new
    return best, p
