"""The mixing accountant: published figures, enumeration, options, monotony."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from privacy._enumerate import (
    compose,
    epsilon_of,
    gaussian,
    laplace,
    loss_masses,
    pure_epsilon,
)

from skpoison.privacy import PrivacyWarning, mix_epsilon
from skpoison.privacy._mixing import _inclusion, _lump
from skpoison.privacy._pld import subsampled_epsilon

NOISE = {"laplace": laplace, "gaussian": gaussian}


def epsilon(n, k, scale, n_releases=1, **options):
    options = {"sensitivity": 1.0, "labels": None, **options}
    return mix_epsilon(n, k, scale, n_releases, **options)


@pytest.mark.parametrize(
    "n, k, scale, expected",
    [  # by enumeration, in the reference
        (6, 1, 0.5, 0.7251),
        (6, 2, 0.5, 0.4528),
        (6, 3, 0.5, 0.3879),
        (8, 4, 0.2, 0.8088),
        (8, 4, 1.0, 0.1328),
        (10, 5, 0.1, 1.4338),
        (1000, 1, 1.0, 0.001717),
        (1000, 4, 1.0, 0.001135),
        (1000, 1, 0.1, 3.1366),
        (1000, 4, 0.1, 0.0438),
    ],
)
def test_pure_figures(n, k, scale, expected):
    assert epsilon(n, k, scale) == pytest.approx(expected, rel=1e-3)
    assert epsilon(n, k, scale, 7) == pytest.approx(7 * epsilon(n, k, scale))


@pytest.mark.parametrize(
    "n, k, noise, scale, n_releases, delta, expected, replaced",
    [
        (1000, 4, "laplace", 0.1, 1000, 1e-5, 1.37096, 1.7855),
        (1000, 1, "laplace", 0.1, 1000, 1e-5, 19.39057, 20.192),
        (1000, 2, "laplace", 0.1, 1000, 1e-5, 3.081, 3.7333),
        (1000, 8, "laplace", 0.1, 1000, 1e-5, 1.137, 1.3974),
        (60000, 4, "laplace", 0.05, 60000, 1e-5, 0.59494, 0.8341),
        (1000, 4, "gaussian", 1.0, 1000, 1e-5, 0.10009, 0.10893),
        (5000, 8, "gaussian", 0.2, 20000, 1e-6, 0.64871, 0.7887),
    ],
)
def test_composed_figures(n, k, noise, scale, n_releases, delta, expected, replaced):
    setting = {"n_releases": n_releases, "noise": noise, "delta": delta}
    assert epsilon(n, k, scale, **setting) == pytest.approx(expected, rel=0.01)
    # replaced records cost more, see test_a_simplex_exceeds_one_order
    found = epsilon(n, k, scale, adjacency="replace", **setting)
    assert found == pytest.approx(replaced, rel=0.01)


def test_figure_of_the_pure_bound():
    assert epsilon(60000, 4, 0.05, 60000) == pytest.approx(586.77, rel=1e-4)


@pytest.mark.parametrize(
    "size, expected, crude, replaced",
    [
        (1000, 1.371, 1.371, 1.7855),
        (100, 2.787, 19.57, 3.438),
        (50, 3.913, 47.58, 4.722),
    ],
)
def test_public_label_figures(size, expected, crude, replaced):
    def one_order(shares, weights):
        return subsampled_epsilon(
            "laplace", 2.5, shares, weights, 1000, 1e-5, replaced=False
        )

    shares, weights = _inclusion(1000, 4, "without_replacement", size)
    assert one_order(shares, weights) == pytest.approx(expected, rel=0.01)
    crude_share = np.array([4 / size])
    assert one_order(crude_share, np.ones(1)) == pytest.approx(crude, rel=0.01)
    counts = [size, 1000 - size] if size < 1000 else [1000]
    setting = {"labels": "public", "class_counts": counts, "delta": 1e-5}
    found = epsilon(1000, 4, 0.1, 1000, **setting)
    assert found == pytest.approx(expected, rel=0.01)
    found = epsilon(1000, 4, 0.1, 1000, adjacency="replace", **setting)
    assert found == pytest.approx(replaced, rel=0.01)


@pytest.mark.parametrize("k, expected", [(1, 10.0), (2, 10.0), (4, 10.0), (8, 9.997)])
def test_regular_figures(k, expected):
    setting = {"sampling": "regular", "labels": "public", "delta": 1e-5}
    assert epsilon(1000, k, 0.1, 1000, **setting) == pytest.approx(expected, rel=1e-4)
    assert epsilon(1000, k, 0.1, 1000, sampling="regular") == pytest.approx(10)


def test_unsubsampled_figures():
    setting = {"sampling": "partition", "delta": 1e-5}
    # groups of all four records: four releases of the shift 1/4
    assert epsilon(4, 4, 1.0, 4, **setting) == pytest.approx(0.99984, rel=1e-4)
    found = epsilon(1, 1, 4.0, 10, noise="gaussian", **setting)
    assert found == pytest.approx(3.34141, rel=1e-5)


def test_smallest_class_of_one_row_is_seen():
    # alone in its class, a record's presence is public: no amplification at all
    found = epsilon(100, 4, 0.5, labels="public", class_counts=[1, 99])
    assert found == pytest.approx(0.5)
    found = epsilon(8, 2, 0.3, labels="public", class_counts=[4, 4])
    assert found == pytest.approx(1.1465, abs=1e-4)
    assert epsilon(8, 2, 0.3) == pytest.approx(0.7293, abs=1e-4)


WORST = np.array([1.0] + [0.0] * 7)
CASES = [(3, 1), (5, 2), (6, 3), (8, 4), (8, 8)]


@pytest.mark.parametrize("n, k", CASES)
@pytest.mark.parametrize("scale", [0.2, 0.7])
def test_pure_bound_by_enumeration(n, k, scale):
    claim = epsilon(n, k, scale)
    worst = WORST[:n]
    truth = pure_epsilon(worst, 0 * worst, None, k, laplace(scale))
    assert truth == pytest.approx(claim, rel=1e-9)  # attained
    rng = np.random.default_rng(n)
    for _ in range(5):
        X = rng.random(n)
        other = np.append(rng.random(), X[1:])
        assert pure_epsilon(X, other, None, k, laplace(scale)) <= claim + 1e-12


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [[3, 4], [2, 5], [1, 6], [2, 2, 3]])
def test_pure_bound_with_public_labels_by_enumeration(k, sizes):
    y = np.repeat(np.arange(len(sizes)), sizes)
    n, claim = 7, epsilon(7, k, 0.3, labels="public", class_counts=sizes)
    worst = np.zeros(n)
    worst[np.flatnonzero(y == np.argmin(sizes))[0]] = 1.0
    truth = pure_epsilon(worst, np.zeros(n), y, k, laplace(0.3))
    assert truth == pytest.approx(claim, rel=1e-9)
    rng = np.random.default_rng(k)
    for j in range(n):
        X = rng.random(n)
        other = X.copy()
        other[j] = rng.random()
        assert pure_epsilon(X, other, y, k, laplace(0.3)) <= claim + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("noise, scale", [("laplace", 0.15), ("gaussian", 0.3)])
@pytest.mark.parametrize("y", [None, [0, 0, 0, 1, 1, 1, 1]])
@pytest.mark.parametrize("k", [1, 3])
def test_one_release_by_enumeration(noise, scale, y, k):
    n = 7
    labels = {} if y is None else {"labels": "public", "class_counts": [3, 4]}
    rng = np.random.default_rng(k)
    X = rng.random(n)
    pairs = [(WORST[:n], np.zeros(n)), (X, np.append(rng.random(), X[1:]))]
    for delta in (1e-1, 1e-2, 1e-4):
        claim = epsilon(n, k, scale, noise=noise, delta=delta, **labels)
        truths = []
        for pair in pairs:
            for first, second in (pair, pair[::-1]):
                masses = loss_masses(first, second, y, k, NOISE[noise](scale))
                truths.append(epsilon_of(*masses, delta))
        assert max(truths) == pytest.approx(claim, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("noise, scale", [("laplace", 0.3), ("gaussian", 0.4)])
@pytest.mark.parametrize("n_releases", [2, 20, 300])
@pytest.mark.parametrize("y", [None, [0, 0, 0, 1, 1, 1, 1]])
@pytest.mark.parametrize("adjacency, other", [("replace", 0.0), ("add-remove", np.nan)])
def test_many_releases_by_quadrature(noise, scale, n_releases, y, adjacency, other):
    n, k, delta = 7, 2, 1e-4
    options = {} if y is None else {"labels": "public", "class_counts": [3, 4]}
    options |= {"noise": noise, "delta": delta, "adjacency": adjacency}
    claim = epsilon(n, k, scale, n_releases, **options)
    rng = np.random.default_rng(n_releases)
    truths = []
    for first in (WORST[:n], rng.random(n)):
        second = np.append(other, first[1:])
        for pair in ((first, second), (second, first)):
            masses = loss_masses(*pair, y, k, NOISE[noise](scale))
            masses = compose(*masses, n_releases, fineness=5e-4 * n_releases**0.5)
            truths.append(epsilon_of(*masses, delta))
    least = 0.99 if adjacency == "add-remove" else 0.8
    assert least * claim < max(truths) <= claim * (1 + 1e-4)


def test_a_simplex_exceeds_one_order():
    # Three records at equal distances: the others, the record and its replacement.
    # Composing the dominating pair one order at a time is too little for them.
    n, scale, n_releases, delta = 1000, 0.5, 30000, 1e-5
    p, shift = 1 / n, 1 / scale
    grid = np.linspace(-8, 8 + 2 * shift, 700)
    x, y = np.meshgrid(grid, grid)
    mass = np.exp(-(x**2 + y**2) / 2)
    height = np.sqrt(3) / 2

    def lift(a, b):
        return np.log1p(p * np.expm1(shift * (a * x + b * y) - shift**2 / 2))

    loss = lift(1, 0) - lift(0.5, height)
    mass *= np.exp(lift(1, 0))
    loss, mass = loss.ravel(), mass.ravel() / mass.sum()
    truth = epsilon_of(*compose(loss, mass, n_releases), delta)
    setting = {"noise": "gaussian", "delta": delta}
    one_order = epsilon(n, 1, scale, n_releases, **setting)
    claim = epsilon(n, 1, scale, n_releases, adjacency="replace", **setting)
    assert 1.05 * one_order < truth < claim < 1.1 * truth
    assert claim < 2 * one_order


def test_smallest_class_is_the_worst():
    def figure(size, delta):
        shares, weights = _inclusion(60, 5, "without_replacement", size)
        return subsampled_epsilon(
            "laplace", 2.0, shares, weights, 30, delta, replaced=True
        )

    for delta in (1e-2, 1e-6):
        figures = [figure(size, delta) for size in (1, 2, 4, 8, 16, 60)]
        assert (np.diff(figures) < 0).all()


@pytest.mark.parametrize("sampling", ["without_replacement", "with_replacement"])
def test_chance_of_inclusion_adds_up(sampling):
    inside = 4 / 50 if sampling == "without_replacement" else 1 - (1 - 1 / 50) ** 4
    for size in (1, 3, 20, 49, 50):
        shares, weights = _inclusion(50, 4, sampling, size)
        assert weights.sum() == pytest.approx(1)
        assert shares @ weights == pytest.approx(inside)
    shares, weights = _inclusion(60000, 500, sampling, 6000)
    few, heavier = _lump(shares, weights, 1e-9)
    assert len(few) < 150 and heavier.sum() == pytest.approx(1)
    assert few @ heavier >= shares @ weights


def test_with_replacement_earns_no_credit_for_k():
    p = 1 - (1 - 1 / 50) ** 4
    expected = math.log(1 + p * (math.exp(1 / 0.5) - 1))
    found = epsilon(50, 4, 0.5, sampling="with_replacement")
    assert found == pytest.approx(expected)
    # of 2 records, one is at 1 or 0: in 3 draws it comes m times
    z = np.linspace(-40, 40, 4001)
    chances = [math.comb(3, m) / 8 for m in range(4)]
    present = sum(c * np.exp(-abs(z - m / 3) / 0.5) for m, c in enumerate(chances))
    truth = abs(np.log(present) + abs(z) / 0.5).max()
    p = 1 - 1 / 2**3
    assert 1.0 < truth < math.log(1 + p * math.expm1(1 / 0.5))


def test_noisy_labels():
    found = epsilon(20, 2, 0.5, labels="noisy", label_scale=2.0)
    assert found == pytest.approx(math.log(1 + 0.1 * (math.exp(1.0 + 0.5) - 1)))
    # a Gaussian release of rows and labels together is one of a longer shift
    setting = {"noise": "gaussian", "delta": 1e-5}
    both = epsilon(20, 2, 0.5, 9, labels="noisy", label_scale=2.0, **setting)
    assert both == epsilon(20, 2, 1 / math.hypot(2, math.sqrt(2) / 2), 9, **setting)
    # an added record changes one entry of the labels instead of two
    added = {"sampling": "poisson", "labels": "noisy", "label_scale": 2.0}
    expected = math.log(1 + 0.1 * (math.exp(1.0 + 0.25) - 1))
    assert epsilon(20, 2, 0.5, **added) == pytest.approx(expected)
    found = epsilon(20, 2, 0.5, 9, **added, **setting)
    longer = 1 / math.hypot(2, 1 / 2)
    assert found == epsilon(20, 2, longer, 9, sampling="poisson", **setting)


def test_epochs_of_fixed_schedules():
    regular = {"sampling": "regular"}
    assert epsilon(10, 4, 1.0, 10, **regular) == pytest.approx(1.0)
    assert epsilon(10, 4, 1.0, 2, **regular) == pytest.approx(0.5)  # in two at most
    assert epsilon(10, 4, 1.0, 13, **regular) == pytest.approx(1.75)
    partition = {"sampling": "partition"}
    assert epsilon(10, 4, 1.0, 2, **partition) == pytest.approx(0.25)  # 2 groups
    assert epsilon(10, 4, 1.0, 3, **partition) == pytest.approx(0.5)
    gauss = {"noise": "gaussian", "delta": 1e-5}
    # k releases of the shift 1 / (k sigma) are one of 1 / (sqrt(k) sigma)
    assert epsilon(100, 4, 1.0, 100, **regular, **gauss) == pytest.approx(
        epsilon(100, 1, 2.0, 100, **regular, **gauss)
    )


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"labels": "public", "class_counts": [40, 160]},
        {"sampling": "poisson"},
        {"sampling": "regular"},
        {"sampling": "partition"},
        {"sampling": "with_replacement"},
        {"labels": "noisy", "label_scale": 1.0},
    ],
    ids=str,
)
def test_monotony(noise, options):
    setting = {"noise": noise, "n_releases": 400, "delta": 1e-5, **options}

    def along(name, values):
        changed = [{**setting, name: value} for value in values]
        return np.diff([epsilon(200, 4, **{"scale": 0.5, **c}) for c in changed])

    assert (along("scale", [0.1, 0.3, 1.0, 5.0, 50.0]) < 0).all()
    assert (along("n_releases", [1, 300, 900, 5000, 100000]) > 0).all()
    assert (along("delta", [1e-10, 1e-7, 1e-4, 1e-2]) <= 0).all()
    if noise == "laplace":
        assert along("delta", [0.0, 1e-12])[0] <= 0


def test_pure_epsilon_falls_with_k():
    for scale in (0.01, 0.1, 1.0, 10.0):
        figures = [epsilon(200, k, scale) for k in (1, 2, 5, 20, 100, 200)]
        assert (np.diff(figures) < 0).all()


def test_methods():
    setting = {"n": 1000, "k": 4, "scale": 0.1, "n_releases": 1000, "delta": 1e-5}
    pure, pld = (epsilon(**setting, method=m) for m in ("pure", "pld"))
    assert pld < 0.1 * pure
    assert epsilon(**setting) == pld
    # pixels: losses beyond any exponential leave the pure bound
    pixels = {"n": 60000, "k": 2, "scale": 0.3, "n_releases": 10, "sensitivity": 784.0}
    bound = epsilon(**pixels, method="pure")
    assert bound == pytest.approx(10 * (784 / 0.6 - math.log(30000)))
    assert epsilon(**pixels, delta=1e-5) == bound
    assert epsilon(**pixels, delta=1e-5, method="pld") == math.inf
    assert 1e4 < epsilon(**pixels, delta=1e-5, noise="gaussian") < math.inf


def test_tiny_losses_need_no_epsilon():
    assert epsilon(10**6, 1, 1e6, 1000, delta=1e-5) == 0.0
    assert 0 < epsilon(10**6, 1, 1e6, 1000, delta=1e-11) < 1e-8


@pytest.mark.slow
def test_large_settings():
    setting = {"n": 60000, "k": 4, "n_releases": 10**7, "delta": 1e-5}
    for noise in ("laplace", "gaussian"):
        counts = {"labels": "public", "class_counts": [6000] * 10}
        fewer = epsilon(scale=0.2, noise=noise, **setting)
        assert 0 < fewer < epsilon(scale=0.2, noise=noise, **{**setting, **counts})


@pytest.mark.parametrize(
    "options, match",
    [
        ({"scale": 0.0}, "scale=0.0 adds no noise"),
        ({"labels": "noisy", "label_scale": 0}, "label_scale=0 adds no noise"),
        ({"noise": "gaussian"}, "delta=0: noise='gaussian'"),
        ({"noise": "gaussian", "delta": 0.1, "method": "pure"}, "method='pure'"),
    ],
)
def test_no_guarantee(options, match):
    with pytest.warns(PrivacyWarning, match=match) as caught:
        assert epsilon(10, 2, **{"scale": 1.0, **options}) == math.inf
    assert caught[0].filename.endswith("test_mixing.py")  # the caller's line


@pytest.mark.parametrize(
    "options, match",
    [
        ({"n": 0}, "n must be >= 1, got 0"),
        ({"k": 11}, "k must be at most n=10, got 11"),
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"scale": -1.0}, "scale must be >= 0.0, got -1.0"),
        ({"scale": math.nan}, "scale must be >= 0.0, got nan"),
        ({"n_releases": 0}, "n_releases must be >= 1, got 0"),
        ({"noise": "uniform"}, "noise must be one of 'laplace', 'gaussian'"),
        ({"sensitivity": 0.0}, "sensitivity must be > 0.0, got 0.0"),
        ({"delta": 1.0}, r"delta must be in \[0, 1\), got 1.0"),
        ({"delta": -0.1}, "delta must be >= 0.0, got -0.1"),
        ({"sampling": "shuffle"}, "sampling must be one of"),
        ({"labels": "none"}, "labels must be one of 'public', 'noisy', got 'none'"),
        ({"labels": "public", "sampling": "poisson"}, "labels must be 'noisy' or None"),
        ({"labels": "public"}, "class_counts must be given"),
        ({"labels": "public", "class_counts": [4, 5]}, "sum to n=10, got"),
        ({"labels": "public", "class_counts": [0, 10]}, "counts >= 1"),
        ({"labels": "public", "class_counts": [2.5, 7.5]}, "class_counts must be"),
        ({"labels": "public", "class_counts": [[1], [4, 5]]}, "class_counts must be"),
        ({"labels": "public", "class_counts": []}, "class_counts must be"),
        ({"labels": "noisy"}, "label_scale must be >= 0 for labels='noisy', got None"),
        ({"labels": "noisy", "label_scale": -1}, "label_scale must be >= 0.0"),
        ({"label_scale": 1.0}, "label_scale must be None unless"),
        ({"adjacency": "swap"}, "adjacency must be one of 'add-remove', 'replace'"),
        ({"adjacency": "replace", "sampling": "poisson"}, "must be 'add-remove' for"),
        ({"method": "rdp"}, "method must be one of"),
        ({"method": "pld"}, "delta must be > 0 for method='pld'"),
    ],
    ids=str,
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        epsilon(**{"n": 10, "k": 2, "scale": 1.0, **options})


@pytest.mark.parametrize("name", ["n", "k", "n_releases"])
def test_counts_are_ints(name):
    with pytest.raises(TypeError, match=f"{name} must be an int, got 2.0"):
        epsilon(**{"n": 10, "k": 2, "scale": 1.0, name: 2.0})


def subsets(n, k, sampling, missing):
    """Groups and their chances; a missing record is drawn around, or not added."""
    rest = [i for i in range(n) if i != missing]
    if sampling == "with_replacement":
        groups = list(product(rest, repeat=k))
        return groups, np.full(len(groups), 1 / len(groups))
    if sampling == "without_replacement":
        groups = list(combinations(rest, k))
        return groups, np.full(len(groups), 1 / len(groups))
    groups = [g for m in range(len(rest) + 1) for g in combinations(rest, m)]
    sizes = np.array([len(g) for g in groups])
    return groups, (k / n) ** sizes * (1 - k / n) ** (len(rest) - sizes)


@pytest.mark.parametrize("noise, scale", [("laplace", 0.5), ("gaussian", 0.6)])
@pytest.mark.parametrize(
    "sampling, least",
    [("without_replacement", 0.99), ("poisson", 0.99), ("with_replacement", 0.0)],
)
@pytest.mark.parametrize("n_releases", [1, 30])
def test_rows_in_a_ball_by_quadrature(noise, scale, sampling, least, n_releases):
    # two features, rows of norm 1 at most, one of them missing; either order
    n, k, delta, order = 4, 2, 1e-3, 1 if noise == "laplace" else 2
    span = np.linspace(-7, 7, 701) if noise == "laplace" else np.linspace(-6, 6, 301)
    x, y = np.meshgrid(span, span)

    def law(rows, missing):
        groups, chances = subsets(n, k, sampling, missing)
        total = 0
        for group, chance in zip(groups, chances, strict=True):
            a, b = rows[list(group)].sum(axis=0) / k if group else (0, 0)
            logs = NOISE[noise](scale)(x - a) + NOISE[noise](scale)(y - b)
            total = total + chance * np.exp(logs)
        return total.ravel() / total.sum()

    alone = sampling == "poisson"  # its sensitivity is the norm of one row
    claim = epsilon(
        n, k, scale, n_releases, noise=noise, delta=delta, sampling=sampling,
        sensitivity=1 if alone else 2,
    )  # fmt: skip
    rng, truths = np.random.default_rng(0), []
    far = np.array([[1.0, 0.0]] + [[0.0 if alone else -1.0, 0.0]] * (n - 1))
    wild = rng.normal(size=(n, 2))
    wild /= np.linalg.norm(wild, order, axis=1)[:, None]
    for rows in (far, wild):
        laws = law(rows, None), law(rows, 0)
        for first, second in (laws, laws[::-1]):
            loss, mass = np.log(first / second), first
            if n_releases > 1:
                loss, mass = compose(loss, mass, n_releases, fineness=5e-3)
            truths.append(epsilon_of(loss, mass, delta))
    assert least * claim < max(truths) <= claim * (1 + 1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "regular"},
        {"sampling": "partition"},
        {"sampling": "poisson"},
        {"labels": "public", "class_counts": np.array([60, 40], np.int8)},
        {"labels": "noisy", "label_scale": np.float32(0.5)},
    ],
    ids=str,
)
def test_narrow_types_of_numpy(noise, options):
    plain = {"n": 100, "k": 3, "scale": 0.5, "n_releases": 127, "delta": 0.125}
    narrow = {
        "n": np.int8(100), "k": np.uint8(3), "scale": np.float32(0.5),
        "n_releases": np.int8(127), "delta": np.float16(0.125),
    }  # fmt: skip
    options = {**options, "noise": noise}
    assert epsilon(**plain, **options) == epsilon(**narrow, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize("adjacency", ["add-remove", "replace"])
def test_any_scale_and_any_number_of_releases(noise, adjacency):
    options = {"noise": noise, "adjacency": adjacency, "delta": 1e-5}
    scales = [1e-320, 1e-150, 1e-40, 1e-12, 1e-3, 1.0, 1e3, 1e150, 1e308]
    figures = np.array([epsilon(1000, 4, s, 1000, **options) for s in scales])
    assert figures[0] == math.inf and figures[-1] == 0
    assert (figures[1:] <= figures[:-1]).all()
    if noise == "gaussian":  # where a record is in every release
        found = epsilon(1, 1, 1e-12, 1, **options)
        assert found > 1e24 / 2
    counts = [1, 10**3, 10**6, 10**9, 10**13, 10**30]
    figures = [epsilon(1000, 4, 1.0, c, **options) for c in counts]
    assert (np.diff(figures) > 0).all()


def test_replaced_records_may_cost_more_than_twice_as_much():
    added, replaced = (
        epsilon(1000, 4, 0.1, 1000, delta=0.1, adjacency=a)
        for a in ("add-remove", "replace")
    )
    assert 0 < 2 * added < replaced
