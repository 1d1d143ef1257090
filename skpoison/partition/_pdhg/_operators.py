"""Differences along edges and their adjoint, on grids by slices, else by matrices.

A dual variable is kept as one array (n_rows, length) for each block of edges. Rows are
labels, flows or levels. It counts in units of its edge's `scale`, so that one bound
holds for all edges.
"""

import numpy as np

from skpoison.partition._pixels import offset_slices


class GridOperator:
    """Differences on a pixel grid, one block a direction.

    Images are flat, so that a step is a shift. Node arrays have `pad` zeros behind and
    dual arrays `pad` zeros in front; the edge of pixel v is at v + pad of its block,
    and 0 where it would leave the image.

    Parameters
    ----------
    xp : NumpyArrays or TorchArrays
    graph : PartitionGraph
        With a shape.
    scale : ndarray of shape (n_edges,)
    """

    def __init__(self, xp, graph, scale):
        height, width = graph.shape
        self.xp = xp
        self.n = height * width
        self.height, self.width = height, width
        self.pad = width + 1
        self.shifts, self.holes, self.places, self.wide_scales = [], [], [], []
        start = 0
        node = np.arange(self.n).reshape(graph.shape)
        for dy, dx in graph.offsets:
            here = node[offset_slices((dy, dx))[0]].ravel()
            image = np.zeros(self.n)
            image[here] = scale[start : start + len(here)]
            start += len(here)
            self.shifts.append(dy * width + dx)
            self.holes.append((dy > 0, None if dx == 0 else -1 if dx > 0 else 0))
            self.places.append(here + self.pad)
            self.wide_scales.append(np.concatenate([np.zeros(self.pad), image]))
        self.lengths = [self.pad + self.n] * len(self.shifts)
        # weights of 1 are the usual case: then one number serves a direction, or all
        levels = [set(s[s > 0].tolist()) for s in self.wide_scales]
        even = [
            len(level) <= 1 and np.count_nonzero(s) == len(place)
            for level, s, place in zip(
                levels, self.wide_scales, self.places, strict=True
            )
        ]
        self.uniform = all(even) and len(set().union(*levels)) == 1
        self.common = set().union(*levels).pop() if self.uniform else 1.0
        self.scales = [
            max(level, default=1.0) if e else xp.put(wide)
            for level, e, wide in zip(levels, even, self.wide_scales, strict=True)
        ]
        self.ratios = None
        if graph.isotropic and not self.uniform:
            # the two duals of a pixel share a step, or their ball would not be round
            largest = np.maximum(np.maximum(*self.wide_scales), 1e-300)
            self.ratios = [xp.put(scale / largest) for scale in self.wide_scales]
        total = abs(graph.incidence()).T @ scale
        self.total = float(total.max(initial=0.0)) if self.uniform else total

    def ranges(self, rows):
        """Return ranges (first, last) of pixels whose arrays of `rows` fit the cache.

        Of nodes and, one row of pixels behind, of edges.
        """
        if self.xp.strip_size is None:
            return [((0, self.n), (0, self.n))]
        step = max(1, round(self.xp.strip_size / (rows * self.width)))
        ends = [*range(step, self.height, step), self.height]
        found, a, p = [], 0, 0
        for end in ends:
            q = self.height if end == self.height else end - 1
            found.append(
                ((a * self.width, end * self.width), (p * self.width, q * self.width))
            )
            a, p = end, q
        return found

    def adjoint(self, duals, nodes, out, work):
        """Write sum over edges of scale * dual, signed, over `common`, at a range."""
        a, b = nodes
        scales: list = [None] * len(duals)
        if not self.uniform:
            scales = [
                s if isinstance(s, float) else s[a : b + self.pad] for s in self.scales
            ]
        views = [dual[:, a : b + self.pad] for dual in duals]
        self._sum(views, scales, b - a, out, work)

    def wide_adjoint(self, duals, nodes, feasible):
        """Return the sums in float64, of duals that `feasible` has moved in place."""
        xp = self.xp
        span = slice(nodes[0], nodes[1] + self.pad)
        views = [xp.wide(dual[:, span]) for dual in duals]
        feasible(views)
        scales = [xp.wide(scale[span]) for scale in self.wide_scales]
        for view, scale in zip(views, scales, strict=True):
            xp.multiply(view, scale, out=view)
        out = xp.wide(views[0][:, self.pad :])
        self._sum(views, [None] * len(views), nodes[1] - nodes[0], out, None)
        return out

    def _sum(self, views, scales, n, out, work):
        xp, pad = self.xp, self.pad
        for k, (view, scale) in enumerate(zip(views, scales, strict=True)):
            shift = self.shifts[k]
            if scale is not None:
                scaled = work[: len(view), : n + shift]
                if not isinstance(scale, float):
                    scale = scale[pad - shift :]
                xp.multiply(view[:, pad - shift :], scale, out=scaled)
                here, there = scaled[:, shift:], scaled[:, :n]
            else:
                here, there = view[:, pad:], view[:, pad - shift : pad - shift + n]
            if k == 0:
                xp.subtract(here, there, out=out)
            else:
                xp.add(out, here, out=out)
                xp.subtract(out, there, out=out)

    def forward(self, values, block, edges, out):
        """Write the differences of node values along the edges of a block."""
        a, b = edges
        shift = self.shifts[block]
        self.xp.subtract(values[:, a:b], values[:, a + shift : b + shift], out=out)

    def span(self, edges, block):
        """Return where a range of edges lies in the arrays of a block."""
        return slice(edges[0] + self.pad, edges[1] + self.pad)

    def clear(self, view, block, edges):
        """Zero a block's edges that leave the image."""
        last_row, column = self.holes[block]
        if column is not None:
            view[:, column % self.width :: self.width] = 0
        if last_row and edges[1] == self.n:
            view[:, -self.width :] = 0

    def to_edges(self, arrays):
        """Return NumPy arrays of blocks as one, (n_edges, n_rows)."""
        sizes = [len(place) for place in self.places]
        values = np.empty((sum(sizes), len(arrays[0])), arrays[0].dtype)
        parts = np.split(values, np.cumsum(sizes)[:-1])
        for part, array, place in zip(parts, arrays, self.places, strict=True):
            for column, row in zip(part.T, array, strict=True):
                column[...] = row[place]
        return values

    def from_edges(self, values):
        """Return NumPy arrays of blocks, from (n_edges, n_rows)."""
        arrays, start = [], 0
        for place, length in zip(self.places, self.lengths, strict=True):
            array = np.zeros((values.shape[1], length))
            array[:, place] = values[start : start + len(place)].T
            start += len(place)
            arrays.append(array)
        return arrays


class GraphOperator:
    """Differences on any graph, one block for all edges.

    Parameters
    ----------
    xp : NumpyArrays or TorchArrays
    graph : PartitionGraph
    scale : ndarray of shape (n_edges,)
    """

    pad = 0
    common = 1.0

    def __init__(self, xp, graph, scale):
        self.xp = xp
        self.n = graph.n_nodes
        self.lengths = [graph.n_edges]
        self.ratios = None
        incidence = graph.incidence()
        scaled = incidence.T.tocsr()
        scaled.data *= scale[scaled.indices]
        self.total = abs(scaled).sum(axis=1)
        self._forward = xp.sparse(incidence)
        self._adjoint = xp.sparse(scaled)
        self._wide = xp.sparse(scaled, wide=True)

    def ranges(self, rows):
        """Return the one range of nodes and the one of edges."""
        return [((0, self.n), (0, self.lengths[0]))]

    def adjoint(self, duals, nodes, out, work):
        """Write sum over edges of scale * dual, signed, over `common`."""
        self.xp.apply(self._adjoint, duals[0], out)

    def wide_adjoint(self, duals, nodes, feasible):
        """Return the sums in float64, of duals that `feasible` has moved in place."""
        view = self.xp.wide(duals[0])
        feasible([view])
        return self.xp.apply(self._wide, view)

    def forward(self, values, block, edges, out):
        """Write the differences of node values along the edges."""
        self.xp.apply(self._forward, values, out)

    def span(self, edges, block):
        """Return where a range of edges lies in the arrays of a block."""
        return slice(*edges)

    def clear(self, view, block, edges):
        """Do nothing: every edge is one."""

    def to_edges(self, arrays):
        """Return NumPy arrays of blocks as one, (n_edges, n_rows)."""
        return np.ascontiguousarray(arrays[0].T)

    def from_edges(self, values):
        """Return NumPy arrays of blocks, from (n_edges, n_rows)."""
        return [np.ascontiguousarray(values.T)]
