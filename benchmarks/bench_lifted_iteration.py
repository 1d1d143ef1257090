"""One iteration of the first-order lifted solver, against the traffic it can't avoid.

Potts on a 4-connected image, 8 labels, float32. An iteration must read the unaries, and
read and write the primal variables and two duals an edge direction: 7 arrays of nodes
by labels. The bound copies as many bytes. Peers: the same iteration written with
slices and temporaries, and half the pixels or half the labels of ours, whose ratio is 2
where time is linear in both.
"""

import tracemalloc

import numpy as np

from skpoison.partition import PartitionGraph
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._pdhg._arrays import NumpyArrays
from skpoison.partition._pdhg._models import make_scheme

_REPEATS = 10
# F, u and two duals read, u and two duals written
_ARRAYS = 7


def measure(bench):
    """Time iterations on two sizes of image and on a graph, then weigh memory."""
    bench.title("One iteration of the lifted solver, Potts, float32")
    side = bench.size(512, 64)
    for n_labels in (8, 16):
        _case(bench, (side, side), n_labels)
    _memory(bench, side)


def _scheme(shape, n_labels, grid=True):
    unary = np.random.default_rng(0).uniform(0, 1, (shape[0] * shape[1], n_labels))
    graph = PartitionGraph.from_grid(shape)
    if not grid:
        graph = PartitionGraph.from_edges(graph.edges, graph.weights)
    energy = LiftedEnergy(unary, graph, 0.1, make_pairwise("potts", n_labels))
    scheme = make_scheme(NumpyArrays("float32"), energy, kappa=None, rho=1.8)
    scheme.start()
    return scheme


def _case(bench, shape, n_labels):
    height, width = shape
    scheme = _scheme(shape, n_labels)
    source = np.ones(_ARRAYS * scheme.U.size // 2, np.float32)
    target = np.empty_like(source)
    peers = {
        "slices and temporaries": _by_hand(shape, n_labels),
        "a matrix for the edges": _scheme(shape, n_labels, grid=False).iterate,
        "half the pixels (2 is linear)": _scheme(
            (height // 2, width), n_labels
        ).iterate,
        "half the labels (2 is linear)": _scheme(shape, n_labels // 2).iterate,
    }
    bars = {
        "slices and temporaries": 0.7,
        "half the pixels (2 is linear)": 2.6,
        "half the labels (2 is linear)": 3.0,
    }
    bench.compare(
        f"{height} x {width} x {n_labels}",
        scheme.iterate,
        peers,
        repeats=_REPEATS,
        bound=lambda: np.copyto(target, source),
        bars=bars,
    )


def _by_hand(shape, n_labels):
    """Return an iteration as the formulas read, on images (n_labels, height, width)."""
    unary = np.random.default_rng(0).uniform(0, 1, (n_labels, *shape))
    unary = unary.astype(np.float32)
    state = {
        "u": np.full_like(unary, 1 / n_labels),
        "right": np.zeros_like(unary[:, :, 1:]),
        "down": np.zeros_like(unary[:, 1:]),
    }
    tau, sigma, c = np.float32(5.0), np.float32(0.025), np.float32(0.05)
    counts = np.arange(1, n_labels + 1, dtype=np.float32)[:, None, None]

    def iterate():
        u, right, down = state["u"], state["right"], state["down"]
        sums = unary.copy()
        sums[:, :, :-1] += right
        sums[:, :, 1:] -= right
        sums[:, :-1] += down
        sums[:, 1:] -= down
        v = u - tau * sums
        ordered = -np.sort(-v, axis=0)
        threshold = ((np.cumsum(ordered, axis=0) - 1) / counts).max(axis=0)
        new = np.maximum(v - threshold, 0)
        bar = 2 * new - u
        change = sigma * (bar[:, :, :-1] - bar[:, :, 1:])
        state["right"] = np.clip(right + change, -c, c)
        change = sigma * (bar[:, :-1] - bar[:, 1:])
        state["down"] = np.clip(down + change, -c, c)
        state["u"] = new

    return iterate


def _memory(bench, side):
    print("\nMemory of a scheme at work, in bytes a node and label")
    for n_labels in (4, 8, 16):
        for height in (side // 2, side):
            tracemalloc.start()
            scheme = _scheme((height, side), n_labels)
            before = tracemalloc.get_traced_memory()[0]
            scheme.iterate()
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            # the energy's own unaries, 8 bytes, and edges are the caller's
            ours = held - scheme.energy.unary.nbytes - scheme.energy.graph.edges.nbytes
            print(
                f"{height} x {side} x {n_labels}: {ours / scheme.U.size:.1f}, "
                f"an iteration adds {(held - before) / scheme.U.size:.2f}"
            )
