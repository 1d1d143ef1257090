import itertools
import os
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import block_array, coo_array, csr_array, eye_array, kron
from scipy.sparse.csgraph import maximum_flow
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import PartitionGraph, solve_lifted
from skpoison.partition._energy import LiftedEnergy, make_pairwise
from skpoison.partition._pdhg._arrays import NumpyArrays
from skpoison.partition._pdhg._models import make_scheme
from skpoison.partition._pdhg._simplex import project_simplex, sorting_network

TERMS = {
    "potts-2": ("potts", 2, {}),
    "potts-3": ("potts", 3, {}),
    "tv-2": ("tv", 2, {}),
    "tv-4": ("tv", 4, {}),
    "tv-uneven": ("tv", 3, {"label_values": [0.0, 0.5, 3.0]}),
    "truncated-2": ("truncated", 2, {"truncation": 1.0}),
    "truncated-3": ("truncated", 3, {"truncation": 1.5}),
    "truncated-4": ("truncated", 4, {"truncation": 2}),
    "separable": ("separable_tv", 4, {"label_shape": (2, 2)}),
    "sublabel": ("sublabel", 5, {"coarse_values": [0.0, 2.0, 4.0]}),
}


def random_graph(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "random":
        edges = rng.integers(0, 6, (9, 2))
        return PartitionGraph.from_edges(edges, rng.uniform(0.1, 2, 9), 6)
    graph = PartitionGraph.from_grid((3, 2), kind)
    graph.weights = graph.weights * rng.uniform(0.1, 2, graph.n_edges)
    return graph


def solve_quietly(*args, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solve_lifted(*args, **params)


def relaxed_optimum(unary, graph, strength, term, A, costs):
    """Return min <F, Z> + sum s |D Z A| c over rows in the simplex, as a plain LP."""
    n, n_labels = unary.shape
    m, n_lifted = graph.n_edges, len(costs)
    D = graph.incidence()
    K = kron(D, csr_array(A.T))
    I = eye_array(m * n_lifted)  # noqa: E741
    cost = np.concatenate([unary.ravel(), np.outer(strength, costs).ravel()])
    upper = block_array([[K, -I], [-K, -I]])
    equal = block_array(
        [
            [
                kron(eye_array(n), np.ones((1, n_labels))),
                csr_array((n, m * n_lifted)),
            ]
        ]
    )
    found = linprog(
        cost,
        A_ub=upper.tocsc(),
        b_ub=np.zeros(upper.shape[0]),
        A_eq=equal.tocsc(),
        b_eq=np.ones(n),
    )
    assert found.status == 0
    return found.fun


def lifting(pairwise, n_labels, values):
    """Return A and the costs of the master form, written out here once more."""
    if pairwise == "potts":
        return np.eye(n_labels), np.full(n_labels, 0.5)
    above = np.arange(n_labels)[:, None] > np.arange(n_labels - 1)
    return above.astype(float), np.diff(values)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13, 64])
def test_network_sorts(n):
    values = np.random.default_rng(n).permutation(n)
    for i, j in sorting_network(n):
        if values[i] < values[j]:
            values[[i, j]] = values[[j, i]]
    assert values.tolist() == list(range(n))[::-1]


@pytest.mark.parametrize("n_labels", [1, 2, 7, 65])
def test_simplex_projection(n_labels):
    rng = np.random.default_rng(0)
    V = rng.normal(size=(n_labels, 50))
    V[:, 0] = 0.25
    U = V.copy()
    project_simplex(NumpyArrays("float64"), U, 0.3, np.empty((n_labels + 2, 50)))
    assert U.min() >= 0
    np.testing.assert_allclose(U.sum(axis=0), 0.3, atol=1e-14)
    # optimality: <V - U, W - U> <= 0 at every vertex W of the simplex
    slope = ((V - U) * U).sum(axis=0)
    assert (0.3 * (V - U).max(axis=0) <= slope + 1e-12).all()


@pytest.mark.parametrize("kind", ["random", 4, 8])
@pytest.mark.parametrize("case", TERMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_hold_against_all_labellings(case, kind, dtype):
    pairwise, n_labels, params = TERMS[case]
    graph = random_graph(kind, 3)
    unary = np.random.default_rng(4).uniform(0, 2, (6, n_labels))
    term = make_pairwise(pairwise, n_labels, **params)
    energy = LiftedEnergy(unary, graph, 0.7, term)
    names = term.values if pairwise == "sublabel" else np.arange(n_labels)
    optimum = min(
        energy.value(names[list(x)])
        for x in itertools.product(range(n_labels), repeat=6)
    )
    result = solve_quietly(
        unary, graph, 0.7, pairwise=pairwise, dtype=dtype, max_iter=400, **params
    )
    assert result.lower_bound <= optimum + 1e-9
    assert result.energy == energy.value(result.labels)
    if pairwise == "sublabel":  # labels are real: less than any sample may be reached
        assert result.energy >= result.lower_bound
    else:
        assert result.energy >= optimum - 1e-9
    # the certificate, and the solution
    assert energy.lower_bound(result.duals) == result.lower_bound
    np.testing.assert_allclose(
        energy.project(result.duals), result.duals, rtol=1e-6, atol=1e-9
    )
    assert result.assignment.shape == unary.shape
    assert result.assignment.min() >= 0
    np.testing.assert_allclose(result.assignment.sum(axis=1), 1, atol=1e-6)
    # the best of each side never gets worse
    history = np.array(result.history)
    assert (np.diff(history[:, 2]) <= 0).all() and (np.diff(history[:, 3]) >= 0).all()


@pytest.mark.parametrize(
    "case", ["potts-2", "potts-3", "tv-4", "tv-uneven", "sublabel", "separable"]
)
def test_bound_converges_to_the_linear_program(case):
    pairwise, n_labels, params = TERMS[case]
    rng = np.random.default_rng(5)
    edges = rng.integers(0, 20, (45, 2))
    graph = PartitionGraph.from_edges(edges, rng.uniform(0.1, 2, 45), 20)
    unary = rng.uniform(0, 2, (20, n_labels))
    if case == "sublabel":
        g = np.array(params["coarse_values"])
        t = np.arange(5.0)[:, None]
        A, costs = np.clip((t - g[:-1]) / np.diff(g), 0, 1), np.diff(g)
    elif case == "separable":
        A, costs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.ones(2)
    else:
        values = params.get("label_values", np.arange(n_labels))
        A, costs = lifting(pairwise, n_labels, values)
    optimum = relaxed_optimum(unary, graph, 0.4 * graph.weights, pairwise, A, costs)
    result = solve_quietly(
        unary,
        graph,
        0.4,
        pairwise=pairwise,
        dtype="float64",
        tol=1e-9,
        max_iter=3000,
        **params,
    )
    assert result.lower_bound == pytest.approx(optimum, rel=1e-5)


def truncated_optimum(unary, strength, graph, truncation):
    """Return the local polytope's optimum, with a joint mass for each edge."""
    n, n_labels = unary.shape
    a, b = np.indices((n_labels, n_labels)).reshape(2, -1)
    cost = [unary.ravel()]
    rows, columns, data, right = [], [], [], []
    row, size = 0, unary.size

    def add(entries, value):
        nonlocal row
        for column, number in entries:
            rows.append(row), columns.append(column), data.append(number)
        right.append(value)
        row += 1

    for v in range(n):
        add([(v * n_labels + k, 1) for k in range(n_labels)], 1)
    for (i, j), s in zip(graph.edges, strength, strict=True):
        cost.append(s * np.minimum(abs(a - b), truncation))
        for k in range(n_labels):
            joint = [(size + c, 1) for c in np.flatnonzero(a == k)]
            add([*joint, (i * n_labels + k, -1)], 0)
            joint = [(size + c, 1) for c in np.flatnonzero(b == k)]
            add([*joint, (j * n_labels + k, -1)], 0)
        size += n_labels**2
    equal = coo_array((data, (rows, columns)), shape=(row, size)).tocsc()
    return linprog(np.concatenate(cost), A_eq=equal, b_eq=right).fun


@pytest.mark.parametrize("truncation", [1, 1.5, 2, 3])
def test_truncated_bound_converges_to_the_local_polytope(truncation):
    rng = np.random.default_rng(6)
    edges = rng.integers(0, 12, (28, 2))
    graph = PartitionGraph.from_edges(edges, rng.uniform(0.1, 2, 28), 12)
    unary = rng.uniform(0, 2, (12, 4))
    result = solve_quietly(
        unary,
        graph,
        0.4,
        pairwise="truncated",
        truncation=truncation,
        dtype="float64",
        tol=1e-9,
        max_iter=3000,
    )
    optimum = truncated_optimum(unary, 0.4 * graph.weights, graph, truncation)
    assert result.lower_bound == pytest.approx(optimum, rel=1e-5)


def minimum_cut(unary, graph, strength, steps):
    """Return the optimum of "tv" by Ishikawa's graph and scipy's integer flow."""
    scale = 1e6
    n, n_labels = unary.shape
    node = np.arange(n * (n_labels + 1)).reshape(n, n_labels + 1)
    sink, source, big = node.size, node.size + 1, 2**30
    offset = unary.min()
    tail, head, capacity = [], [], []

    def add(t, h, c):
        tail.append(np.ravel(t)), head.append(np.ravel(h))
        capacity.append(np.broadcast_to(c, np.size(t)).ravel())

    add(node[:, :-1], node[:, 1:], np.rint((unary - offset).ravel() * scale))
    add(node[:, 1:], node[:, :-1], big)
    add(np.full(n, source), node[:, 0], big)
    add(node[:, -1], np.full(n, sink), big)
    i, j = graph.edges.T
    for k, step in enumerate(steps, 1):
        add(node[i, k], node[j, k], np.rint(strength * step * scale))
        add(node[j, k], node[i, k], np.rint(strength * step * scale))
    network = csr_array(
        coo_array(
            (
                np.concatenate(capacity).astype(np.int64),
                (np.concatenate(tail), np.concatenate(head)),
            ),
            shape=(node.size + 2, node.size + 2),
        )
    ).astype(np.int32)
    for name in ("indices", "indptr"):  # older SciPy's flow takes no others
        setattr(network, name, getattr(network, name).astype(np.int32))
    flow = maximum_flow(network, source, sink).flow_value
    return flow / scale + n * offset


@pytest.mark.parametrize("n_labels", [2, 5])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_exact_against_a_maximum_flow(n_labels, connectivity):
    rng = np.random.default_rng(7)
    graph = PartitionGraph.from_grid((7, 9), connectivity)
    graph.weights = graph.weights * rng.uniform(0.2, 1, graph.n_edges)
    unary = rng.uniform(0, 1, (63, n_labels))
    cut = minimum_cut(unary, graph, 0.3 * graph.weights, np.ones(n_labels - 1))
    for pairwise in ("tv", "potts") if n_labels == 2 else ("tv",):
        result = solve_lifted(
            unary,
            graph,
            0.3,
            pairwise=pairwise,
            tol=1e-7,
            dtype="float64",
            max_iter=20_000,
        )
        assert result.energy == pytest.approx(cut, rel=1e-6)
        assert result.lower_bound == pytest.approx(cut, rel=1e-6)


ANCHORS = {
    (4, 0.1): 1021.06545,
    (4, 0.3): 1173.19744,
    (4, 1.0): 1562.39082,
    (8, 0.1): 1000.10251,
    (8, 0.3): 1130.12880,
    (8, 1.0): 1463.42898,
}


@pytest.mark.parametrize("connectivity, regularization", ANCHORS)
def test_astronaut(connectivity, regularization):
    data = pytest.importorskip("skimage.data")
    blocks = (data.astronaut() / 255).reshape(64, 8, 64, 8, 3).mean(axis=(1, 3))
    cube = np.indices((2, 2, 2)).reshape(3, 8).T
    unary = ((blocks.reshape(-1, 1, 3) - cube) ** 2).sum(axis=2)
    graph = PartitionGraph.from_grid((64, 64), connectivity)
    result = solve_lifted(unary, graph, regularization, tol=1e-5)
    optimum = ANCHORS[connectivity, regularization]
    assert result.lower_bound <= optimum + 1e-4 <= result.energy + 2e-4
    assert result.energy == pytest.approx(optimum, rel=1e-5)
    # the same graph without its grid goes by matrices
    plain = PartitionGraph.from_edges(graph.edges, graph.weights)
    other = solve_lifted(unary, plain, regularization, tol=1e-5)
    assert other.energy == pytest.approx(result.energy, rel=1e-5)


def triple_junction():
    y, x = np.mgrid[:24, :24] - 11.5
    angle = (np.arctan2(y, x) + np.pi / 2) % (2 * np.pi)
    unary = 1.0 - np.eye(3)[np.floor(angle / (2 * np.pi / 3)).astype(int)]
    unary[np.hypot(y, x) < 0.55 * 12] = 0.5
    return unary.reshape(-1, 3)


@pytest.mark.parametrize(
    "relaxation, optimum",
    [("lellmann", 110.4820), ("zach", 111.9329), ("ccp", 112.5461)],
)
def test_triple_junction(relaxation, optimum):
    graph = PartitionGraph.from_grid((24, 24), "isotropic")
    result = solve_quietly(
        triple_junction(), graph, relaxation=relaxation, max_iter=2000, dtype="float64"
    )
    assert result.lower_bound <= optimum + 1e-3
    assert result.lower_bound == pytest.approx(optimum, rel=2e-5)
    assert result.energy >= optimum


def test_triple_junction_with_separate_edges():
    result = solve_lifted(triple_junction(), PartitionGraph.from_grid((24, 24)))
    assert result.energy == 116.0
    assert result.lower_bound == pytest.approx(116.0, rel=1e-4)


def test_relaxations_are_ordered_and_weights_count():
    rng = np.random.default_rng(8)
    graph = PartitionGraph.from_grid((9, 11), "isotropic")
    graph.weights = rng.uniform(0.1, 2, graph.n_edges)
    unary = rng.uniform(0, 1, (99, 4))
    bounds, energies = [], []
    for relaxation in ("lellmann", "zach", "ccp"):
        result = solve_quietly(unary, graph, 0.3, relaxation=relaxation, max_iter=1000)
        bounds.append(result.lower_bound)
        energies.append(result.energy)
    assert bounds[0] < bounds[1] < bounds[2] <= energies[2]


def birchfield_tomasi(left, right, n_disparities):
    """Return the cost summed over channels, on half samples rounded down."""

    def halves(image):
        padded = np.pad(image, ((0, 0), (1, 1), (0, 0)), mode="edge")
        sides = (padded[:, :-2] + image) // 2, (padded[:, 2:] + image) // 2
        return np.minimum.reduce([image, *sides]), np.maximum.reduce([image, *sides])

    (low_l, high_l), (low_r, high_r) = halves(left), halves(right)
    height, width, _ = left.shape
    costs = np.full((height, width, n_disparities), 765.0)
    for d in range(n_disparities):
        a, b = slice(d, None), slice(None, width - d)
        forth = np.maximum(left[:, a] - high_r[:, b], low_r[:, b] - left[:, a])
        back = np.maximum(right[:, b] - high_l[:, a], low_l[:, a] - right[:, b])
        costs[:, a, d] = np.maximum(np.minimum(forth, back), 0).sum(axis=2)
    return costs


def tsukuba():
    if "SKPOISON_SHARED_DATA" not in os.environ:
        pytest.skip("SKPOISON_SHARED_DATA is not set")
    image = pytest.importorskip("PIL.Image")
    folder = Path(os.environ["SKPOISON_SHARED_DATA"]) / "stereo" / "tsukuba"
    left, right = (
        np.asarray(image.open(folder / f"im{side}.png").convert("RGB")).astype(int)
        for side in "LR"
    )
    return left, birchfield_tomasi(left, right, 16)


@pytest.mark.parametrize("regularization, optimum", [(10, 34075), (20, 53672)])
def test_stereo_crop(regularization, optimum):
    costs = tsukuba()[1][80:176, 120:248].reshape(-1, 16)
    graph = PartitionGraph.from_grid((96, 128))
    result = solve_lifted(costs, graph, regularization, pairwise="tv", tol=3e-4)
    assert result.lower_bound <= optimum <= result.energy
    assert result.energy == pytest.approx(optimum, rel=1e-3)


@pytest.mark.long
def test_stereo_crop_and_benchmark_energy():
    left, costs = tsukuba()
    graph = PartitionGraph.from_grid((96, 128))
    crop = costs[80:176, 120:248].reshape(-1, 16)
    result = solve_lifted(crop, graph, 40, pairwise="tv", tol=3e-4, max_iter=3000)
    assert result.lower_bound <= 89511 <= result.energy <= 89511 * 1.001
    # the "Tsukuba" energy of Szeliski et al. (2008)
    graph = PartitionGraph.from_grid(left.shape[:2])
    i, j = graph.edges.T
    pixels = left.reshape(-1, 3)
    near = ((pixels[i] - pixels[j]) ** 2).sum(axis=1) < 192
    graph.weights = np.where(near, 2.0, 1.0)
    result = solve_quietly(
        costs.reshape(-1, 16),
        graph,
        20,
        pairwise="truncated",
        truncation=2,
        max_iter=600,
        tol=2e-4,
    )
    assert result.energy <= 369_600
    assert result.lower_bound > 368_900


@pytest.mark.parametrize("pairwise", ["potts", "tv"])
def test_weights_over_twelve_orders(pairwise):
    rng = np.random.default_rng(9)
    graph = PartitionGraph.from_grid((12, 12))
    graph.weights = 10.0 ** rng.uniform(-6, 6, graph.n_edges)
    result = solve_lifted(rng.uniform(0, 1, (144, 3)), graph, pairwise=pairwise)
    assert result.converged


def test_isolated_nodes_and_components():
    unary = np.array([[2.0, 1.0, 3.0]] * 3 + [[0.0, 5.0, 5.0], [5.0, 5.0, 0.0]])
    edges = [[0, 1], [3, 4]]
    result = solve_lifted(unary, (edges, [1.0, 1e-3]), 1.0)
    assert result.labels.tolist() == [1, 1, 1, 0, 2]
    assert result.converged


def test_large_numbers_leave_a_gap_of_no_wrong_sign():
    rng = np.random.default_rng(10)
    unary = 1e8 + rng.uniform(0, 1, (400, 3)) * 1e6
    result = solve_quietly(
        unary, PartitionGraph.from_grid((20, 20)), 1e5, tol=1e-9, max_iter=300
    )
    assert result.gap >= 0
    assert result.relative_gap < 1e-4


def test_equal_unaries_give_the_first_label():
    result = solve_lifted(np.ones((30, 4)), PartitionGraph.from_grid((5, 6)))
    assert not result.labels.any()
    assert result.energy == result.lower_bound == 30


def noisy(n_labels=4, n=24):
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:n, :n]
    truth = (x * n_labels // n + (y > n // 2)) % n_labels
    unary = 1.0 - np.eye(n_labels)[truth] + rng.normal(0, 0.6, (n, n, n_labels))
    return unary.reshape(-1, n_labels), PartitionGraph.from_grid((n, n))


@pytest.mark.parametrize("pairwise", ["potts", "tv"])
@pytest.mark.parametrize("keep", ["state", "arrays"])
def test_warm_start_saves_iterations(pairwise, keep):
    unary, graph = noisy()
    cold = solve_lifted(unary, graph, 0.5, pairwise=pairwise, tol=1e-5)
    if keep == "arrays":
        cold.state = None
    warm = solve_lifted(unary, graph, 0.5, pairwise=pairwise, tol=1e-5, warm_start=cold)
    assert warm.n_iter < cold.n_iter
    assert warm.energy <= cold.energy
    # another problem, whose dual set is smaller: still a bound of it
    other = solve_lifted(
        unary, graph, 0.2, pairwise=pairwise, tol=1e-5, warm_start=cold
    )
    plain = solve_lifted(unary, graph, 0.2, pairwise=pairwise, tol=1e-5)
    assert other.lower_bound <= plain.energy + 1e-9
    assert other.energy == pytest.approx(plain.energy, rel=2e-5)


def test_a_state_goes_on_as_if_there_had_been_no_stop():
    unary, graph = noisy()
    whole = solve_quietly(unary, graph, 0.5, tol=1e-12, max_iter=50)
    half = solve_quietly(unary, graph, 0.5, tol=1e-12, max_iter=25)
    rest = solve_quietly(unary, graph, 0.5, tol=1e-12, max_iter=25, warm_start=half)
    np.testing.assert_array_equal(rest.assignment, whole.assignment)


def test_strips_do_not_change_iterates(monkeypatch):
    unary, graph = noisy()
    graph8 = PartitionGraph.from_grid((24, 24), 8)
    for grid in (graph, graph8):
        found = []
        for size in (1, 10**9):
            monkeypatch.setattr(NumpyArrays, "strip_size", size)
            found.append(solve_quietly(unary, grid, 0.5, max_iter=60, tol=1e-12))
        np.testing.assert_array_equal(found[0].assignment, found[1].assignment)
        assert found[0].lower_bound == found[1].lower_bound


def test_an_iteration_is_the_formula():
    unary, graph = noisy(3, 6)
    energy = LiftedEnergy(unary, graph, 0.5, make_pairwise("potts", 3))
    scheme = make_scheme(NumpyArrays("float64"), energy, kappa=1.0, rho=1.0)
    scheme.start()
    D, c = graph.incidence().toarray(), 0.25
    u, p = np.full(unary.shape, 1 / 3), np.zeros((graph.n_edges, 3))
    for _ in range(7):
        scheme.iterate()
        v = u - (unary + D.T @ p) / (4 * c)
        ordered = -np.sort(-v, axis=1)
        top = (ordered.cumsum(axis=1) - 1) / np.arange(1, 4)
        new = np.maximum(v - top.max(axis=1, keepdims=True), 0)
        p = np.clip(p + 0.5 * c * D @ (2 * new - u), -c, c)
        u = new
    np.testing.assert_allclose(scheme.assignment(scheme.U), u, atol=1e-12)
    np.testing.assert_allclose(scheme.edge_duals(scheme.duals), p, atol=1e-12)


def test_memory_is_that_of_a_few_arrays():
    rng = np.random.default_rng(12)
    unary = rng.uniform(0, 1, (256 * 256, 8))
    graph = PartitionGraph.from_grid((256, 256))
    solve_quietly(unary[:64], PartitionGraph.from_grid((8, 8)), 0.1, max_iter=5)
    tracemalloc.start()
    solve_quietly(unary, graph, 0.1, max_iter=25, solver_options={"n_roundings": 0})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # u, its average, F, the extrapolation, two duals and their best; as much again
    assert peak < 2 * 8 * 256 * 256 * 8 * 4


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", TERMS)
@pytest.mark.parametrize("grid", [True, False], ids=["grid", "graph"])
def test_torch_gives_the_same(case, grid):
    pytest.importorskip("torch")
    compare_backends(case, grid, "cpu")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", TERMS)
@pytest.mark.parametrize("grid", [True, False], ids=["grid", "graph"])
def test_cuda_gives_the_same(case, grid):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    compare_backends(case, grid, "cuda")


def compare_backends(case, grid, device):
    pairwise, n_labels, params = TERMS[case]
    unary, graph = noisy(n_labels, 12)
    if not grid:
        graph = PartitionGraph.from_edges(graph.edges, graph.weights)
    params = {"pairwise": pairwise, "max_iter": 100, **params}
    ours = solve_lifted(unary, graph, 0.3, **params)
    theirs = solve_lifted(unary, graph, 0.3, backend="torch", device=device, **params)
    assert theirs.energy == pytest.approx(ours.energy, rel=1e-5)
    assert theirs.lower_bound == pytest.approx(ours.lower_bound, rel=1e-5)
