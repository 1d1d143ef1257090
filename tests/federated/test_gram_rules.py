"""Rules that look at distances, against naive versions of their definitions."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpoison.federated import (
    CAF,
    MDA,
    DnC,
    GeometricMedian,
    Krum,
    Mean,
    MoNNA,
    MultiKrum,
)
from skpoison.federated._aggregators._mda import _CoverSearch

RULES = {
    "Mean": Mean(),
    "Krum": Krum(),
    "Krum-euclidean": Krum(metric="euclidean"),
    "MultiKrum": MultiKrum(),
    "MDA": MDA(),
    "CAF": CAF(),
    "MoNNA": MoNNA(idx=6),
    "DnC": DnC(random_state=0),
    "GeometricMedian": GeometricMedian(),
}
ROBUST = [name for name in RULES if name != "Mean"]


def updates(n=13, d=60, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def rule_of(name, f):
    return clone(RULES[name]).set_params(n_byzantine=f)


def plain(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return np.stack([((rows - row) ** 2).sum(axis=1) for row in rows])


# ----------------------------------------------------------------------- definitions


@pytest.mark.parametrize("n_select", [None, 1, 4])
@pytest.mark.parametrize("n_neighbors", [None, 3])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_multi_krum(n_select, n_neighbors, metric):
    rows, f = updates(), 4
    between = plain(rows) ** (1 if metric == "sqeuclidean" else 0.5)
    k = n_neighbors or 13 - f - 2
    scores = np.array(
        [np.sort(np.delete(b, i))[:k].sum() for i, b in enumerate(between)]
    )
    best = np.argsort(scores)[: n_select or 13 - f]
    rule = MultiKrum(f, n_select=n_select, n_neighbors=n_neighbors, metric=metric)
    rule.fit(rows)
    np.testing.assert_allclose(rule.scores_, scores, rtol=1e-5)
    assert rule.selected_.tolist() == sorted(best)
    np.testing.assert_allclose(rule.location_, rows[best].mean(axis=0), atol=1e-6)
    if n_select == 1:
        krum = Krum(f, n_neighbors=n_neighbors, metric=metric).fit(rows)
        np.testing.assert_array_equal(krum.location_, rule.location_)


def closest_subset(rows, f):
    """Every subset; of equal diameters the one of least second distance, and so on."""
    between = plain(rows)
    upper = np.triu_indices(len(rows) - f, 1)
    subsets = itertools.combinations(range(len(rows)), len(rows) - f)

    def lengths(subset):
        return tuple(np.sort(between[np.ix_(subset, subset)][upper])[::-1])

    return min(subsets, key=lengths)


@pytest.mark.parametrize("kind", ["random", "clusters", "duplicates"])
@pytest.mark.parametrize("n, f", [(3, 1), (5, 2), (9, 4), (12, 3), (12, 5), (14, 3)])
def test_minimum_diameter_against_enumeration(n, f, kind):
    rng = np.random.default_rng(n + f)
    rows = rng.normal(size=(n, 3))
    if kind == "clusters":
        rows[: n // 2] += 3
        rows[:f] = rows[0] + 0.01 * rng.normal(size=(f, 3))
    if kind == "duplicates":
        rows[:f] = rows[0]
        rows[-2:] = rows[-1]
    best = closest_subset(rows, f)
    rule = MDA(f).fit(rows)
    assert rule.diameter_ == pytest.approx(np.sqrt(plain(rows[list(best)]).max()))
    np.testing.assert_allclose(rule.location_, rows[list(best)].mean(axis=0))
    if kind != "duplicates":
        assert tuple(rule.selected_) == best


@pytest.mark.parametrize("seed", range(5))
def test_minimum_diameter_with_many_ties(seed):
    rows = np.random.default_rng(seed).integers(0, 3, size=(12, 2)).astype(float)
    for f in range(6):
        best = closest_subset(rows, f)
        found = MDA(f).fit(rows)
        assert len(found.selected_) == 12 - f
        assert found.diameter_ == pytest.approx(np.sqrt(plain(rows[list(best)]).max()))


def test_equal_distances_leave_the_first_clients():
    assert MDA(1).fit([[0.0], [1.0], [2.0]]).selected_.tolist() == [0, 1]


@pytest.mark.parametrize("density", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(15))
def test_covers_against_enumeration(seed, density):
    rng = np.random.default_rng(seed)
    graph = np.triu(rng.random((10, 10)) < density, 1)
    kept = np.zeros(10, bool)
    kept[rng.integers(10)] = True
    pairs = np.argwhere(graph)
    graph |= graph.T

    def hits_all(cover):
        return all(a in cover or b in cover for a, b in pairs)

    allowed = np.flatnonzero(~kept)
    least = next(
        k
        for k in range(10)
        if any(hits_all(cover) for cover in itertools.combinations(allowed, k))
    )
    found = _CoverSearch(1000).cover(graph, kept, least)
    assert found.sum() == least and hits_all(np.flatnonzero(found))
    assert not (found & kept).any()
    assert _CoverSearch(1000).cover(graph, kept, least - 1) is None


def test_the_search_has_a_limit():
    rows = updates(40, 5)
    assert MDA(10).fit(rows).n_nodes_ > 3
    with pytest.raises(RuntimeError, match="max_nodes=3 nodes"):
        MDA(10, max_nodes=3).fit(rows)


def test_monna():
    rows = updates()
    for idx in (0, 6):
        near = np.argsort(plain(rows)[idx])[:9]
        rule = MoNNA(4, idx=idx).fit(rows)
        assert rule.selected_.tolist() == sorted(near)
        np.testing.assert_allclose(rule.location_, rows[near].mean(axis=0), atol=1e-6)


def test_monna_counts_rows_as_given():
    rows = updates()
    expected = MoNNA(2, idx=4)(np.delete(rows, [0, 2], axis=0))
    rows[[0, 2]] = np.nan
    np.testing.assert_array_equal(MoNNA(4, idx=6)(rows), expected)
    with pytest.raises(ValueError, match="trusts row idx=2"):
        MoNNA(4, idx=2)(rows)


def filtered_mean(rows, f):
    """CAF as defined, in the space of the weights."""
    rows, c = rows.astype(np.float64), np.ones(len(rows))
    seen = []
    while not seen or c.sum() > len(rows) - 2 * f:
        mean = c @ rows / c.sum()
        root = np.sqrt(c / c.sum())[:, np.newaxis] * (rows - mean)
        _, singular, directions = np.linalg.svd(root, full_matrices=False)
        seen.append((singular[0] ** 2, mean))
        tau = np.where(c > 0, ((rows - mean) @ directions[0]) ** 2, 0)
        c = c * (1 - tau / tau.max())
    return min(seen, key=lambda pair: pair[0]), len(seen)


@pytest.mark.parametrize("f", [0, 1, 3, 6])
@pytest.mark.parametrize("attack", ["none", "shift", "far"])
def test_caf(f, attack):
    rows = updates()
    if attack != "none":
        rows[:f] += {"shift": 1.0, "far": 100.0}[attack]
    (eigenvalue, mean), n_iter = filtered_mean(rows, f)
    rule = CAF(f).fit(rows)
    assert rule.n_iter_ == n_iter <= 2 * f + 1
    assert rule.eigenvalue_ == pytest.approx(eigenvalue, rel=1e-5)
    np.testing.assert_allclose(rule.location_, mean, atol=1e-5)


def test_dnc_on_all_coordinates():
    rows, f = updates(), 3
    rows[:f] += 0.5
    rule = DnC(f, subsample=1.0, n_iter=1, random_state=0).fit(rows)
    centred = rows - rows.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    kept = np.sort(np.argsort((centred @ direction) ** 2)[: 13 - f])
    assert rule.selected_.tolist() == kept.tolist()
    np.testing.assert_allclose(rule.location_, rows[kept].mean(axis=0), atol=1e-6)
    wider = DnC(f, subsample=1.0, n_iter=1, filter_frac=2.0).fit(rows)
    assert len(wider.selected_) == 13 - 2 * f
    assert set(wider.selected_) < set(kept)


def test_dnc_intersects_its_parts():
    rows, f = updates(d=400), 2
    parts = DnC(f, n_iter=4, random_state=1).fit(rows)
    assert 13 - 4 * f <= len(parts.selected_) < 13 - f
    one = DnC(f, n_iter=1, random_state=1).fit(rows)
    assert set(parts.selected_) <= set(one.selected_)
    # where none passes all, those that pass most are left
    assert len(DnC(6, n_iter=40, random_state=0).fit(rows).selected_) >= 1


def smoothed(rows, z, nu):
    d = np.sqrt(((rows - z) ** 2).sum(axis=1))
    return np.where(d > nu, d, (d**2 + nu**2) / (2 * nu)).sum()


def test_geometric_median_is_the_least_total_distance():
    rows = updates(d=5).astype(np.float64)
    rows[:4] += 5
    rule = GeometricMedian(4, tol=1e-10, max_iter=1000).fit(rows)
    least = smoothed(rows, rule.location_, 1e-6)
    assert rule.objective_ == pytest.approx(least)
    pull = (rows - rule.location_) / np.sqrt(
        ((rows - rule.location_) ** 2).sum(axis=1, keepdims=True)
    )
    np.testing.assert_allclose(pull.sum(axis=0), 0, atol=1e-7)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1, 1.0):
        assert smoothed(rows, rule.location_ + size * rng.normal(size=5), 1e-6) > least


@pytest.mark.parametrize("nu", [1e-6, 1.0])
def test_the_total_distance_never_rises(nu):
    rows = updates(d=5).astype(np.float64)
    rows[:4] += 5
    sums = [
        GeometricMedian(4, max_iter=k, tol=0, nu=nu).fit(rows).objective_
        for k in range(1, 15)
    ]
    assert (np.diff(sums) <= 1e-12 * sums[0]).all() and sums[-1] < sums[0]


def test_geometric_median_where_most_are_one_point():
    rows = updates(9, 4)
    rows[:5] = rows[0]
    rule = GeometricMedian(4).fit(rows)
    np.testing.assert_allclose(rule.location_, rows[0], rtol=1e-6)
    assert rule.n_iter_ == 1
    assert rule.selected_.tolist() == [0, 1, 2, 3, 4]


def test_mean_with_weights():
    rows, weights = updates(4), np.array([1.0, 2.0, 0.0, 1000.0])
    expected = np.average(rows, axis=0, weights=weights)
    rule = Mean().fit(rows, sample_weight=weights)
    np.testing.assert_allclose(rule.location_, expected, rtol=1e-4, atol=1e-6)
    assert rule.selected_.tolist() == [0, 1, 3]
    clipped = Mean(max_weight=3.0)(rows, sample_weight=weights)
    expected = np.average(rows, axis=0, weights=[1, 2, 0, 3])
    np.testing.assert_allclose(clipped, expected, atol=1e-6)
    # the weights of one call are not those of the next
    rule = Mean().fit(rows, sample_weight=weights)
    np.testing.assert_allclose(rule(rows), rows.mean(axis=0), atol=1e-6)
    rows[2] = np.nan
    np.testing.assert_allclose(
        Mean(1)(rows, weights), np.average(rows[[0, 1, 3]], 0, weights[[0, 1, 3]]), 1e-4
    )


# --------------------------------------------------------------------- bad parameters


@pytest.mark.parametrize(
    "rule, error, match",
    [
        (MultiKrum(6), ValueError, r"MultiKrum needs n >= 2\*f\+3: n=13, f=6"),
        (MultiKrum(2, n_select=12), ValueError, "n_select must be in"),
        (MultiKrum(2, metric="cosine"), ValueError, "metric must be one of"),
        (MDA(7), ValueError, r"MDA needs 2\*f < n: n=13, f=7"),
        (MDA(2, max_nodes=0), ValueError, "max_nodes must be >= 1"),
        (CAF(7), ValueError, r"CAF needs 2\*f < n: n=13, f=7"),
        (MoNNA(7), ValueError, r"MoNNA needs 2\*f < n: n=13, f=7"),
        (MoNNA(2, idx=13), ValueError, "idx must be in"),
        (MoNNA(2, idx=-1), ValueError, "idx must be in"),
        (DnC(7), ValueError, r"DnC needs 2\*f < n .*: n=13, f=7"),
        (DnC(5, filter_frac=3.0), ValueError, "filter_frac"),
        (DnC(2, filter_frac=-1.0), ValueError, "filter_frac must be >= 0"),
        (DnC(2, n_iter=0), ValueError, "n_iter must be >= 1"),
        (DnC(2, subsample=0.0), ValueError, "subsample must be in"),
        (DnC(2, random_state="x"), ValueError, "random_state must be"),
        (GeometricMedian(7), ValueError, r"GeometricMedian needs 2\*f < n: n=13, f=7"),
        (GeometricMedian(nu=0.0), ValueError, "nu must be > 0"),
        (GeometricMedian(max_iter=0), ValueError, "max_iter must be >= 1"),
        (GeometricMedian(tol=-1.0), ValueError, "tol must be >= 0"),
        (Mean(max_weight=0.0), ValueError, "max_weight must be > 0"),
        (Mean(-1), ValueError, "n_byzantine must be >= 0"),
        (Mean(0.5), ValueError, "n_byzantine as a share"),
        (Mean("2"), TypeError, "n_byzantine must be a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parameters(rule, error, match):
    with pytest.raises(error, match=match):
        rule.fit(updates())


@pytest.mark.parametrize("weights", [[1, 2], [1, -1] + [1] * 11, [0] * 13])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="(?i)weight"):
        Mean()(updates(), sample_weight=weights)


def test_half_precision_is_refused():
    with pytest.raises(TypeError, match="float32 or float64, got torch.float16"):
        Mean()(torch.zeros(3, 4, dtype=torch.float16))


# --------------------------------------------------------------------- hostile updates


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("value", ["nan", "inf", "1e30", "3e38", "scales", "copies"])
def test_whatever_bad_rows_hold_the_result_is_bounded(name, value):
    """Within 4 times the honest rows' distance from their mean."""
    n, f = 25, 5
    rows = updates(n, 100)
    honest = rows[f:].astype(np.float64)
    if value == "scales":
        for i in range(f):
            rows[i] *= np.float32(10.0 ** (7 * i + 9))
    elif value == "copies":
        rows[:f] = -3 + 1e-4 * updates(f, 100, seed=1)
    else:
        rows[:f] = float(value)
    rows.flags.writeable = False
    before = rows.copy()
    rule = rule_of(name, f)
    location = rule(rows)
    np.testing.assert_array_equal(rows, before)
    assert location.dtype == np.float32
    centre = honest.mean(axis=0)
    radius = np.sqrt(((honest - centre) ** 2).sum(axis=1)).max()
    assert np.sqrt(((location - centre) ** 2).sum()) < 4 * radius
    assert rule.n_nonfinite_ == (f if value in ("nan", "inf") else 0)


@pytest.mark.parametrize("name", ROBUST)
def test_huge_rows_of_float64(name):
    rows = updates(25, 100).astype(np.float64)
    rows[:5] = np.array([1e300, -1e300, 1e140, 1e100, 1e30])[:, np.newaxis]
    location = rule_of(name, 5)(rows)
    assert location.dtype == np.float64
    assert np.abs(location).max() < 4 * np.abs(rows[5:]).max()


@pytest.mark.parametrize("name", ["Krum", "MultiKrum", "MDA", "MoNNA"])
def test_a_huge_row_leaves_the_choice_among_the_others(name):
    """As if it were not there, with one Byzantine row less."""
    rows = updates(14)
    rows[3] = 1e30
    expected = rule_of(name, 3).set_params(**({"idx": 5} if name == "MoNNA" else {}))(
        np.delete(rows, 3, axis=0)
    )
    np.testing.assert_allclose(rule_of(name, 4)(rows), expected, atol=1e-5)


def test_the_geometric_median_feels_only_the_direction_of_a_far_row():
    rows = updates(14).astype(np.float64)
    found = []
    for size in (1e7, 1e15, 1e30, 1e100):
        rows[3] = size
        found.append(GeometricMedian(4, tol=1e-9, max_iter=500)(rows))
    np.testing.assert_allclose(found[1:], found[:1] * 3, atol=1e-5)


@pytest.mark.parametrize("name", list(RULES))
def test_rows_that_are_not_finite_are_left_out(name):
    rows = updates(16)
    clean = np.delete(rows, [1, 9], axis=0)
    idx = {"idx": 5} if name == "MoNNA" else {}
    expected = rule_of(name, 2).set_params(**idx).fit(clean)
    rows[1, 3], rows[9, 7] = np.nan, -np.inf
    rule = rule_of(name, 4)
    kept = rule.fit_predict(rows)
    np.testing.assert_allclose(rule.location_, expected.location_, atol=1e-6)
    assert rule.n_nonfinite_ == 2 and rule.n_clients_ == 16
    assert (kept[[1, 9]] == -1).all() and (rule.weights_[[1, 9]] == 0).all()
    left = np.delete(rule.weights_, [1, 9])
    np.testing.assert_allclose(left, expected.weights_, atol=1e-6)
    with pytest.raises(ValueError, match="in 2 of n=16 updates, more than its f=1"):
        rule_of(name, 1)(rows)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("DnC",)])
def test_all_clients_alike(name):
    rows = np.repeat(updates(1), 13, axis=0)
    np.testing.assert_allclose(rule_of(name, 4)(rows), rows[0], rtol=1e-6)
    np.testing.assert_array_equal(rule_of(name, 4)(0 * rows), 0)


# ------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", list(RULES))
def test_the_order_of_the_clients_does_not_matter(name):
    rows = updates(25, 40)
    rows[:4] += 1
    rule = rule_of(name, 4)
    expected = rule.fit(rows).weights_
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(25)
        if name == "MoNNA":
            rule.set_params(idx=int(np.flatnonzero(order == 6)[0]))
        found = rule.fit(rows[order]).weights_
        np.testing.assert_allclose(found, expected[order], atol=1e-5)


@pytest.mark.parametrize("name", list(RULES))
def test_an_offset_of_all_rows_moves_the_result(name):
    rows = updates(25, 40).astype(np.float64)
    expected = rule_of(name, 4)(rows)
    np.testing.assert_allclose(rule_of(name, 4)(rows + 100), expected + 100, rtol=1e-7)


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_other_layouts(name, dtype):
    rows = torch.from_numpy(updates(25, 40)).to(dtype)
    expected = rule_of(name, 4)(rows.numpy())
    found = rule_of(name, 4)(rows.requires_grad_())
    assert isinstance(found, torch.Tensor) and found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), expected)
    other = rule_of(name, 4)(np.asfortranarray(rows.detach().numpy()))
    np.testing.assert_allclose(other, expected, atol=1e-5)


@pytest.mark.parametrize("name", list(RULES))
def test_tensors_of_an_accelerator(name, monkeypatch):
    from skpoison.federated._aggregators import _matrix

    rows = updates(25, 40)
    rows[3] = np.nan
    expected = rule_of(name, 4)(rows)
    monkeypatch.setattr(_matrix, "host", lambda array: array)
    found = rule_of(name, 4)(torch.from_numpy(rows))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", list(RULES))
def test_without_each_client_in_turn(name):
    rows = updates(14, 40)
    rows[:3] += 1
    rows[2] = np.nan
    rule = rule_of(name, 3)
    found = rule.leave_one_out(rows)
    assert found.dtype == np.float32
    for i in range(14):
        expected = rule_of(name, 3)(np.delete(rows, i, axis=0))
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["Mean", "GeometricMedian", "CAF", "MDA", "MoNNA", "DnC"]
)
@pytest.mark.parametrize("n, d", [(1, 1), (1, 5), (2, 1), (3, 1)])
def test_few_clients_and_one_weight(name, n, d):
    rows = updates(n, d)
    rule = rule_of(name, 0)
    if name == "MoNNA":
        rule.set_params(idx=0)
    location = rule(rows)
    assert location.shape == (d,) and np.isfinite(location).all()
    if n == 1:
        np.testing.assert_allclose(location, rows[0], rtol=1e-6)


@pytest.mark.parametrize("name", list(RULES))
def test_copies_and_shares(name):
    rows = updates(20, 30)
    rule = rule_of(name, 0.2).fit(rows)
    np.testing.assert_array_equal(rule.location_, rule_of(name, 4)(rows))
    loaded = pickle.loads(pickle.dumps(rule))
    np.testing.assert_array_equal(loaded(rows), rule.location_)
    assert not hasattr(clone(rule), "location_")
