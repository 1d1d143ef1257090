"""Rules that go on from earlier rounds, and those that look at lengths."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    NNM,
    CenteredClipping,
    FLTrust,
    FoolsGold,
    NormClipping,
    aggregate,
)
from skpoison.federated._aggregators._server_rule import ServerRule

HOSTILE = [np.nan, np.inf, 1e30, 3e38, [np.nan, 3e38], [1e30, -1e30], [3e38, -np.inf]]


def made(n=9, d=40, seed=0, dtype=np.float64):
    return (np.random.default_rng(seed).normal(size=(n, d)) + 0.3).astype(dtype)


def clipped_step(v, updates, radius, n_iter):
    for _ in range(n_iter):
        step = np.zeros_like(v)
        for u in updates:
            step += (u - v) * min(1, radius / max(np.linalg.norm(u - v), 1e-300))
        v = v + step / len(updates)
    return v


# --------------------------------------------------------------- centered clipping


@pytest.mark.parametrize("radius", [0.1, 5.0, 1e6])
@pytest.mark.parametrize("n_iter", [1, 4])
def test_centered_clipping_over_rounds(radius, n_iter):
    rule, v = CenteredClipping(radius=radius, n_iter=n_iter), np.zeros(40)
    for round_ in range(4):
        updates = made(9 + round_, seed=round_)
        v = clipped_step(v, updates, radius, n_iter)
        np.testing.assert_allclose(rule(updates), v, rtol=1e-9)
    assert rule.n_clients_ == 12 and rule.weights_.shape == (12,)
    rule.fit(updates)
    first = clipped_step(np.zeros(40), updates, radius, n_iter)
    np.testing.assert_allclose(rule.location_, first, rtol=1e-9)


def test_centered_clipping_forgets_and_travels():
    updates = made()
    rule = CenteredClipping(radius=1.0)
    first, second = rule(updates), rule(updates)
    assert not np.allclose(first, second)
    loaded = pickle.loads(pickle.dumps(rule))
    np.testing.assert_array_equal(loaded(updates), rule(updates))
    np.testing.assert_array_equal(rule.reset()(updates), first)
    np.testing.assert_array_equal(clone(rule)(updates), first)
    with pytest.raises(ValueError, match="an update of length 40, got updates of leng"):
        rule(updates[:, :20])
    np.testing.assert_array_equal(rule.location_, first)  # it stays what it was


def test_centered_clipping_at_the_centre_itself():
    np.testing.assert_array_equal(CenteredClipping()(np.zeros((4, 3))), 0)
    rule = CenteredClipping(radius=1e3)
    np.testing.assert_allclose(rule(np.full((4, 3), 2.0)), 2.0)
    np.testing.assert_allclose(rule(np.full((4, 3), 2.0)), 2.0)


def test_centered_clipping_without_each_client_goes_on_from_the_last_round():
    rule, updates = CenteredClipping(radius=2.0), made(seed=1)
    rule(made(seed=0))
    before = rule.location_.copy()
    found = rule.leave_one_out(updates)
    np.testing.assert_array_equal(rule.location_, before)
    for i in range(9):
        others = np.delete(updates, i, axis=0)
        direct = clipped_step(before, others, 2.0, 1)
        np.testing.assert_allclose(found[i], direct, rtol=1e-9)


@pytest.mark.parametrize("value", HOSTILE)
def test_centered_clipping_bounds_what_liars_do(value):
    honest = made(dtype=np.float32)
    updates = honest.copy()
    updates[:2] = np.reshape(value, (-1, 1))
    updates.flags.writeable = False
    rule = CenteredClipping(2, radius=1.0)
    for _ in range(20):
        location = rule(updates)
        assert np.isfinite(location).all()
    n_bad = int((~np.isfinite(updates[:2, 0])).sum())
    assert rule.n_nonfinite_ == n_bad
    # two clients of nine pull with length one each: the fixed point is near
    assert np.linalg.norm(location) < 20 / 1


# ------------------------------------------------------------------- norm clipping


@pytest.mark.parametrize("max_norm", ["median", 0.5, 6.0, 1e9])
def test_norm_clipping(max_norm):
    updates = made() * np.arange(9)[:, np.newaxis]
    norms = np.linalg.norm(updates, axis=1)
    limit = np.median(norms) if max_norm == "median" else max_norm
    shares = np.minimum(1, limit / np.maximum(norms, 1e-12)) / 9
    rule = NormClipping(max_norm=max_norm).fit(updates)
    np.testing.assert_allclose(rule.location_, shares @ updates, rtol=1e-10)
    np.testing.assert_allclose(rule.weights_, shares)
    assert rule.max_norm_ == pytest.approx(limit)
    found = rule.leave_one_out(updates)
    for i in range(9):
        direct = clone(rule)(np.delete(updates, i, axis=0))
        np.testing.assert_allclose(found[i], direct, rtol=1e-10)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("max_norm", ["median", 3.0])
def test_norm_clipping_bounds_what_liars_do(value, max_norm):
    updates = made(dtype=np.float32)
    updates[:2] = np.reshape(value, (-1, 1))
    updates.flags.writeable = False
    rule = NormClipping(2, max_norm=max_norm).fit(updates)
    longest = np.linalg.norm(updates[2:], axis=1).max()
    assert rule.max_norm_ <= (longest if max_norm == "median" else 3.0)
    assert np.linalg.norm(rule.location_) <= rule.max_norm_ * (1 + 1e-6)


def test_noise_is_new_each_round_and_the_same_for_the_same_seed():
    updates = made(d=20_000)
    plain = NormClipping()(updates)
    rule = NormClipping(noise_std=0.5, random_state=3)
    rounds = [rule(updates) - plain for _ in range(3)]
    assert rule.n_rounds_ == 3
    for noise in rounds:
        assert noise.std() == pytest.approx(0.5, rel=0.03)
        assert abs(noise.mean()) < 0.02
    assert abs(np.corrcoef(rounds)[0, 1]) < 0.03
    again = rule.reset()
    np.testing.assert_array_equal(again(updates) - plain, rounds[0])
    np.testing.assert_array_equal(rule.fit(updates).location_ - plain, rounds[0])
    other = NormClipping(noise_std=0.5, random_state=4)(updates) - plain
    assert abs(np.corrcoef(other, rounds[0])[0, 1]) < 0.03
    single = NormClipping(noise_std=0.5)(torch.tensor(updates, dtype=torch.float32))
    assert single.dtype == torch.float32


# ------------------------------------------------------------------------- FLTrust


def trusted(updates, root):
    updates, root = np.float64(updates), np.float64(root)
    norms = np.linalg.norm(updates, axis=1)
    cosines = updates @ root / np.where(norms > 0, norms, 1) / np.linalg.norm(root)
    trust = np.maximum(0, cosines)
    scaled = updates * (np.linalg.norm(root) / np.where(norms > 0, norms, 1))[:, None]
    return trust, trust @ scaled / trust.sum()


def test_fltrust_is_the_formula():
    updates, root = made(d=7000), made(d=7000, seed=5)[0]
    updates[3], updates[4] = 0, -root
    # a short row next to long ones, and all far from the origin
    updates[5] *= 1e-6
    updates[6:] += 100
    trust, location = trusted(updates, root)
    rule = FLTrust().fit(updates, root_update=root)
    np.testing.assert_allclose(rule.location_, location, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rule.trust_, trust, atol=1e-12)
    assert rule.selected_.tolist() == np.flatnonzero(trust).tolist()
    assert 3 not in rule.selected_ and 4 not in rule.selected_
    single = FLTrust()(torch.tensor(updates, dtype=torch.float32),
                       torch.tensor(root, dtype=torch.float32))  # fmt: skip
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, location, atol=1e-4)
    kept = rule.fit_predict(updates, root_update=root)
    assert kept[3] == kept[4] == -1
    found = rule.leave_one_out(updates, root)
    for i in range(9):
        direct = trusted(np.delete(updates, i, axis=0), root)[1]
        np.testing.assert_allclose(found[i], direct, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", HOSTILE)
def test_fltrust_is_never_longer_than_the_root_update(value):
    updates = made(dtype=np.float32)
    root = updates.mean(axis=0)
    updates[:2] = np.reshape(value, (-1, 1))
    updates.flags.writeable = False
    rule = FLTrust(2).fit(updates, root_update=root)
    assert np.linalg.norm(rule.location_) <= np.linalg.norm(root) * (1 + 1e-6)
    np.testing.assert_array_equal(rule.trust_[~np.isfinite(updates[:, 0])], 0)


def test_short_rows_of_float32_gain_no_length_in_fltrust():
    # products about another row would take such lengths for zero, or worse for less
    rng = np.random.default_rng(0)
    root = np.ones(3000, np.float32)
    updates = root + rng.normal(size=(9, 3000)).astype(np.float32)
    updates[:4] *= np.float32([1e-3, 1e-4, 1e-6, 1e-12])[:, np.newaxis]
    _, location = trusted(updates, root)
    np.testing.assert_allclose(FLTrust()(updates, root), location, atol=1e-5)


def test_nobody_is_trusted():
    updates = made()
    for root in (-updates.sum(axis=0), np.zeros(40)):
        with pytest.warns(UserWarning, match="trusts no client"):
            location = FLTrust()(np.abs(updates), -np.abs(root))
        np.testing.assert_array_equal(location, 0)


@pytest.mark.parametrize(
    "root, match",
    [
        (None, "FLTrust needs root_update"),
        (
            np.ones(3),
            r"root_update must have shape \(40,\) as updates have, got \(3,\)",
        ),
        (np.full(40, np.nan), "root_update must be finite"),
    ],
)
def test_a_bad_root_update(root, match):
    rule = FLTrust()
    with pytest.raises(ValueError, match=match):
        rule.fit(made(), root_update=root)
    assert rule.fit(made(), root_update=np.ones(40)).location_.shape == (40,)


def test_fltrust_behind_a_pre_aggregator():
    updates, root = made(), made(seed=3)[0]
    rule = make_pipeline(NNM(2), FLTrust())
    found = aggregate(updates, rule, n_byzantine=2, root_update=root)
    direct = trusted(NNM(2).transform(updates), root)[1]
    np.testing.assert_allclose(found, direct, rtol=1e-7, atol=1e-9)


# ----------------------------------------------------------------------- FoolsGold


def fools_gold(history, updates, kappa=1.0, normalize=True):
    """Return the result by the formulas, with loops."""
    n = len(updates)
    cosine = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                lengths = np.linalg.norm(history[i]) * np.linalg.norm(history[j])
                cosine[i, j] = history[i] @ history[j] / lengths
    most = [max(0, *(cosine[i, j] for j in range(n) if j != i)) for i in range(n)]
    a = np.zeros(n)
    for i in range(n):
        pardoned = [0.0]
        for j in range(n):
            factor = most[i] / most[j] if most[i] < most[j] else 1
            pardoned.append(cosine[i, j] * factor)
        a[i] = min(max(1 - max(pardoned), 0), 1)
    a = np.minimum(a / a.max(), 0.99)
    with np.errstate(divide="ignore"):
        a = np.clip(kappa * (np.log(a / (1 - a)) + 0.5), 0, 1)
    return a @ updates / (a.sum() if normalize else 1)


@pytest.mark.parametrize("kappa", [0.2, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_fools_gold_over_rounds(kappa, normalize):
    rule = FoolsGold(kappa=kappa, normalize=normalize)
    history = np.zeros((9, 40))
    for round_ in range(4):
        updates = made(seed=round_) * np.linspace(1e-4, 10, 9)[:, np.newaxis]
        updates[:3] += 2 * updates[3]
        history += updates
        expected = fools_gold(history, updates, kappa, normalize)
        np.testing.assert_allclose(rule(updates), expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(rule.history_, history)
    first = fools_gold(updates, updates, kappa, normalize)
    np.testing.assert_allclose(rule.fit(updates).location_, first, rtol=1e-8)


def test_sybils_are_found_by_what_they_sum_up_to():
    rng = np.random.default_rng(0)
    aims = rng.normal(size=(9, 500)).astype(np.float32)
    aims[:4] = aims[0]
    rule = FoolsGold()
    for _ in range(30):  # in one round noise hides them
        noise = 3 * rng.normal(size=(9, 500)).astype(np.float32)
        rule(aims + noise)
        if rule.n_clients_ and not hasattr(rule, "first"):
            rule.first = rule.weights_[:4].sum()
    assert rule.weights_[:4].sum() < 0.1 * rule.first
    # copies: nothing is left of them, also where they are short
    updates = aims + noise
    updates[:4] = 1e-7 * updates[0]
    rule.fit(updates)
    np.testing.assert_array_equal(rule.weights_[:4], 0)
    assert rule.selected_.tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(rule.fit_predict(updates), [-1] * 4 + [1] * 5)


@pytest.mark.filterwarnings("error")
def test_clients_that_are_nearly_the_same_are_told_apart_in_float64():
    updates = 1 + 1e-4 * made()  # cosines of 1 - 1e-8
    expected = fools_gold(updates, updates)
    np.testing.assert_allclose(FoolsGold()(updates), expected, rtol=1e-9)


def test_clients_that_are_all_the_same_count_for_nothing():
    with pytest.warns(UserWarning, match="all clients for one"):
        location = FoolsGold()(np.tile(made(1, dtype=np.float32), (6, 1)))
    np.testing.assert_array_equal(location, 0)
    one = made(1)
    np.testing.assert_array_equal(FoolsGold()(one), one[0])
    zeros = np.zeros((3, 4))
    np.testing.assert_array_equal(FoolsGold()(zeros), 0)


def test_fools_gold_knows_clients_by_their_row():
    rule = FoolsGold()
    rule(made())
    with pytest.raises(ValueError, match=r"shape \(9, 40\), clients by their row, got"):
        rule(made(8))
    with pytest.raises(ValueError, match=r"got updates of shape \(9, 41\)"):
        rule(made(d=41))
    np.testing.assert_array_equal(rule.history_, made())
    with pytest.raises(ValueError, match="can't be used with rejection"):
        rule.leave_one_out(made())
    assert not hasattr(clone(rule), "history_")
    assert rule.reset()(made(8)).shape == (40,)
    loaded = pickle.loads(pickle.dumps(rule))
    np.testing.assert_array_equal(loaded(made(8, seed=1)), rule(made(8, seed=1)))


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("normalize", [True, False])
def test_fools_gold_stays_finite(value, normalize):
    updates = made(dtype=np.float32)
    updates[:2] = np.reshape(value, (-1, 1))
    updates.flags.writeable = False
    rule = FoolsGold(2, normalize=normalize)
    for _ in range(5):
        assert np.isfinite(rule(updates)).all()
    assert np.isfinite(rule.history_).all()
    finite = np.isfinite(updates[:, 0])
    np.testing.assert_allclose(rule.history_[finite][-5:], 5 * updates[-5:], rtol=1e-6)
    np.testing.assert_array_equal(rule.history_[~finite], 0)
    assert rule.n_nonfinite_ == (~finite).sum()


def test_a_faulty_round_leaves_the_memory_of_a_client_alone():
    rule, updates = FoolsGold(1), made()
    rule(updates)
    broken = updates.copy()
    broken[4, 7] = np.nan
    rule(broken)
    np.testing.assert_allclose(rule.history_[4], updates[4])
    np.testing.assert_allclose(rule.history_[5], 2 * updates[5])
    assert rule.weights_[4] == 0 and np.isnan(rule.similarity_[4])


# --------------------------------------------------------------------------- common


@pytest.mark.parametrize(
    "rule",
    [CenteredClipping(2), NormClipping(2), FoolsGold(2), FLTrust(2)],
    ids=lambda rule: type(rule).__name__,
)
def test_types_and_an_input_that_stays(rule):
    updates = made(dtype=np.float32, d=7000)
    before = updates.copy()
    updates.flags.writeable = False
    given = {"root_update": np.ones(7000)} if rule.needs_root_update else {}
    expected = rule.fit(updates, **given).location_
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(updates, before)
    rule.reset()
    location = rule(torch.tensor(before), **given)
    assert isinstance(location, torch.Tensor) and location.dtype == torch.float32
    np.testing.assert_allclose(location, expected, rtol=1e-5, atol=1e-7)
    rule.reset()
    double = rule(np.asfortranarray(before.astype(np.float64)), **given)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "rule, error, match",
    [
        (CenteredClipping(9), ValueError, r"CenteredClipping needs f < n: n=9, f=9"),
        (CenteredClipping(radius=0), ValueError, "radius must be > 0"),
        (CenteredClipping(n_iter=0), ValueError, "n_iter must be >= 1"),
        (NormClipping(5), ValueError, r"NormClipping needs 2\*f < n: n=9, f=5"),
        (NormClipping(9, max_norm=1), ValueError, "NormClipping needs f < n"),
        (NormClipping(max_norm="mean"), ValueError, "max_norm must be one of"),
        (NormClipping(max_norm=-1.0), ValueError, "max_norm must be > 0"),
        (NormClipping(max_norm=None), TypeError, "max_norm must be a number"),
        (NormClipping(noise_std=-1.0), ValueError, "noise_std must be >= 0"),
        (FoolsGold(9), ValueError, "FoolsGold needs f < n"),
        (FoolsGold(kappa=0), ValueError, "kappa must be > 0"),
    ],
)
def test_bad_parameters(rule, error, match):
    with pytest.raises(error, match=match):
        rule(made())


def test_a_server_keeps_what_a_rule_remembers():
    server = ServerRule(make_pipeline(NNM(), CenteredClipping(radius=1.0)))
    v = np.zeros(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for round_ in range(3):
            updates = made(seed=round_)
            v = clipped_step(v, NNM(2).transform(updates), 1.0, 1)
            np.testing.assert_allclose(server(updates, 2), v, rtol=1e-7, atol=1e-9)
    server.reset()
    first = clipped_step(np.zeros(40), NNM(2).transform(updates), 1.0, 1)
    np.testing.assert_allclose(server(updates, 2), first, rtol=1e-7, atol=1e-9)
