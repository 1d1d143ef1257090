"""Our solver of lifted problems against those of cvxpy and against graph cuts."""

import subprocess
import sys
import time

import numpy as np
from sklearn.cluster import KMeans

from skpoison.partition import PartitionGraph
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._pdhg import solve_pdhg

_N_LABELS = 8
_COMPILE = (2.0, 300.0)  # seconds and megabytes allowed to the model of 96x96x8


def measure(bench):
    """Time solvers to a gap of 1e-4 and graph cuts, then the making of a model."""
    data = bench.optional("skimage.data")
    if data is None:
        return
    photo = data.astronaut() / 255.0
    if bench.optional("cvxpy") is not None:
        _against_cvxpy(bench, photo)
        _compilation(bench)
    gco = bench.optional("gco")
    if gco is not None:
        _against_graph_cuts(bench, photo, gco)


def make_energy(photo, size):
    """Return the Potts problem of a photo's blocks and the colours of 8 means."""
    block = len(photo) // size
    X = photo.reshape(size, block, size, block, 3).mean(axis=(1, 3)).reshape(-1, 3)
    means = KMeans(_N_LABELS, n_init=1, random_state=0).fit(
        X[:: max(1, len(X) // 4096)]
    )
    unary = ((X[:, None] - means.cluster_centers_) ** 2).sum(axis=2)
    grid = PartitionGraph.from_grid((size, size))
    return LiftedEnergy(unary, grid, 0.1, make_pairwise("potts", _N_LABELS))


def _against_cvxpy(bench, photo):
    import cvxpy

    from skpoison.partition._cvxpy import solve_cvxpy

    bench.title("Potts, 8 colours of a photo, 4-connected, to a gap of 1e-4")
    # at 32x32 the simplex method nearly keeps up
    for size, names, judged in (
        (32, ["HIGHS", "CLARABEL", "SCS"], ["CLARABEL", "SCS"]),
        (bench.size(128, 32), ["HIGHS"], ["HIGHS"]),
    ):
        energy = make_energy(photo, size)
        names = [name for name in names if name in cvxpy.installed_solvers()]
        ours, exact = solve_pdhg(energy), solve_cvxpy(energy)
        np.testing.assert_allclose(ours.energy, exact.lower_bound, rtol=1.5e-4)
        bench.compare(
            f"pdhg, {size}x{size}",
            lambda energy=energy: solve_pdhg(energy),
            {
                f"cvxpy, {name}": lambda energy=energy, name=name: solve_cvxpy(
                    energy, name, max_iter=100_000
                )
                for name in names
            },
            repeats=3,
            bars={f"cvxpy, {name}": 1 / 8 for name in judged},
        )


def _compilation(bench):
    """Print what a model costs to compile, in a process of its own."""
    size = bench.size(96, 24)
    script = f"""
import re, time
import numpy as np
from skpoison.partition import PartitionGraph, build_problem
F = np.random.default_rng(0).random(({size} ** 2, {_N_LABELS}))
grid = PartitionGraph.from_grid(({size}, {size}))
def peak():
    try:  # unlike ru_maxrss, not that of the process that started this one
        status = open("/proc/self/status").read()
    except OSError:
        return 0
    return int(re.search(r"VmHWM:\\s*([0-9]+)", status)[1]) / 1024
import cvxpy, skpoison.partition._cvxpy
before = peak()
start = time.process_time()
build_problem(F, grid, 0.1).get_problem_data("CLARABEL")
seconds = time.process_time() - start
print(seconds, peak() - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, found.stdout.split())
    print(
        f"build_problem, {size}x{size}x{_N_LABELS}: {seconds:.2f} CPU s and "
        f"{megabytes:.0f} MB to compile (allowed: {_COMPILE[0]:g} s, "
        f"{_COMPILE[1]:g} MB)",
        flush=True,
    )
    if seconds > _COMPILE[0] or megabytes > _COMPILE[1]:
        raise RuntimeError("the model takes more than is allowed to compile")


def _against_graph_cuts(bench, photo, gco):
    bench.title("Potts, 8 colours of a photo, against alpha-expansion (gco-wrapper)")
    for size in (128, 256, 512) if not bench.quick else (64,):
        energy = make_energy(photo, size)
        start = time.process_time()
        ours = solve_pdhg(energy)
        seconds = time.process_time() - start
        cut = energy.value(_expand(gco, energy))
        if ours.energy > cut:
            raise RuntimeError(f"energy {ours.energy} above alpha-expansion's, {cut}")
        # at this gap the energy is at most the one that alpha-expansion ends at
        enough = (cut - ours.lower_bound) / abs(ours.lower_bound)
        peer = {"alpha-expansion": lambda energy=energy: _expand(gco, energy)}
        bench.compare(
            f"pdhg to a gap of 1e-4, {size}x{size}",
            lambda energy=energy: solve_pdhg(energy),
            peer,
            repeats=3,
        )
        bench.compare(
            f"pdhg to a gap of {enough:.1e}, {size}x{size}",
            lambda energy=energy, tol=enough: solve_pdhg(energy, tol=tol),
            peer,
            repeats=3,
            bars={"alpha-expansion": 1.0},
        )
        close = solve_pdhg(energy, tol=enough)
        print(
            f"energies: {ours.energy:.2f} (bound {ours.lower_bound:.2f}, "
            f"{ours.n_iter} iterations, {seconds:.2f} CPU s), {close.energy:.2f} "
            f"({close.n_iter} iterations), alpha-expansion {cut:.2f}",
            flush=True,
        )


def _expand(gco, energy, unit=1000):
    """Return the labels of alpha-expansion, on costs rounded to thousandths."""
    return gco.cut_general_graph(
        energy.graph.edges.astype(np.int32),
        np.rint(unit * energy.strength).astype(np.int32),
        np.rint(unit * energy.unary).astype(np.int32),
        (1 - np.eye(energy.n_labels)).astype(np.int32),
        algorithm="expansion",
        down_weight_factor=1,  # or integers are divided to zero
    )
