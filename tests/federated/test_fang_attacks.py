import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    NNM,
    BaseUpdateAttack,
    Bulyan,
    FangKrumAttack,
    FangTrimAttack,
    Krum,
    Mean,
    Median,
    MultiKrum,
    RoundContext,
    TrimmedMean,
)
from skpoison.federated._aggregators._matrix import UpdateMatrix
from skpoison.federated._attacks._fang_krum import _Contest, _ExactContest

M, C, D = 23, 5, 40


def updates_of(seed=0, m=M, d=D, mean=0.1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 1.0, (m, d)).astype(dtype)


def context(updates, byzantine=C, rule=None, seed=0, **params):
    if np.isscalar(byzantine):
        byzantine = np.arange(byzantine)
    rng = np.random.default_rng(seed)
    return RoundContext(updates, byzantine, aggregator=rule, rng=rng, **params)


def naive_krum(rows, k, metric):
    """The first row of least score, and whether another has the same."""
    scores = []
    for i, row in enumerate(rows):
        others = np.delete(rows, i, axis=0)
        distances = np.sqrt(((others - row) ** 2).sum(axis=1))
        distances = distances if metric == "euclidean" else distances**2
        scores.append(np.sort(distances)[:k].sum())
    return int(np.argmin(scores))


def signs_of(rows):
    return np.where(rows.mean(axis=0) > 0, 1.0, -1.0)


# ---------------------------------------------------------------------- Krum attack


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("search", ["halving", "bisect"])
@pytest.mark.parametrize("m, c, d", [(23, 5, 40), (11, 1, 8), (11, 4, 3), (9, 3, 1)])
def test_krum_selects_the_crafted_update(metric, search, m, c, d):
    updates = updates_of(m=m, d=d)
    rule = Krum(c, metric=metric)
    attack = FangKrumAttack(search=search, epsilon=0.0)
    poisoned = attack.poison_round(context(updates, c, rule))
    scale = attack.info_["lambda"]
    assert scale > 0
    wanted = np.tile(-scale * signs_of(updates), (c, 1))
    np.testing.assert_allclose(poisoned[:c], wanted, rtol=1e-12)
    np.testing.assert_array_equal(poisoned[c:], updates[c:])
    assert rule.fit(poisoned).selected_[0] == 0
    assert naive_krum(poisoned, m - c - 2, metric) == 0


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("seed", range(4))
def test_halving_starts_at_the_theorem_s_bound_and_takes_the_first_selected(
    metric, seed
):
    updates = updates_of(seed, mean=0.2)
    signs, benign = signs_of(updates), updates[C:]
    apart = np.sqrt(((benign[:, None] - benign[None]) ** 2).sum(axis=-1))
    norms = np.sqrt((benign**2).sum(axis=1))
    k = M - C - 2
    nearest = np.sort(apart, axis=1)[:, 1 : k + 1]
    if metric == "euclidean":
        start = nearest.sum(axis=1).min() / (M - 2 * C - 1) + norms.max()
    else:
        start = (nearest**2).sum(axis=1).min() / (M - 2 * C - 1)
        start = np.sqrt(start) + norms.max()
    start /= np.sqrt(D)

    def selected(scale):
        return naive_krum(np.vstack([[-scale * signs] * C, benign]), k, metric) == 0

    for beyond in (1.0001, 1.5, 4, 100):  # the bound is one
        assert not selected(beyond * start)
    grid = start * 0.5 ** np.arange(40)
    wanted = next(scale for scale in grid if selected(scale))
    rule = Krum(C, metric=metric)
    halving, bisect = FangKrumAttack(), FangKrumAttack(search="bisect")
    halving.poison_round(context(updates, C, rule))
    assert halving.info_["lambda"] == pytest.approx(wanted, rel=1e-9)
    bisect.poison_round(context(updates, C, rule))
    scale = bisect.info_["lambda"]
    assert wanted <= scale <= 2 * wanted
    assert selected(scale)
    assert not selected(1.002 * scale)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 2.0])
def test_bisection_reckons_with_the_supporters(metric, epsilon):
    updates, k = updates_of(2), M - C - 2
    rule = Krum(C, metric=metric)
    attack = FangKrumAttack(search="bisect", epsilon=epsilon)
    poisoned = attack.poison_round(context(updates, C, rule))
    around = poisoned[:C] - poisoned[0]
    assert attack.info_["lambda"] > 0
    assert rule.fit(poisoned).selected_[0] < C
    poisoned[:C] = 1.002 * poisoned[0] + around
    assert naive_krum(poisoned, k, metric) >= C


def test_bisection_leaves_room_for_rounding():
    rng, rule = np.random.default_rng(0), Krum(5, metric="euclidean")
    attack = FangKrumAttack(search="bisect", epsilon=1e-4)
    for _ in range(20):
        updates = (rng.normal(0.1, 1.0, (20, 50)) * 0.01).astype(np.float32)
        poisoned = attack.poison_round(context(updates, 5, rule, seed=5))
        assert rule.fit(poisoned).selected_[0] < 5


@pytest.mark.parametrize("seed", range(5))
def test_bisection_with_partial_knowledge(seed):
    updates, c = updates_of(seed, m=31, mean=0.4), 7
    attack = FangKrumAttack(search="bisect", epsilon=0.2, knowledge="partial")
    poisoned = attack.poison_round(context(updates, c, Krum(c)))
    around, own = poisoned[:c] - poisoned[0], updates[:c]

    def selected(scale, q):
        rows = np.vstack([scale * poisoned[0] + around[:q], own])
        return naive_krum(rows, c - 2, "sqeuclidean") < q

    q = next(q for q in range(1, c + 1) if selected(1, q))
    assert not selected(1.002, q)


def test_supporters_lie_around_the_crafted_update():
    updates = updates_of(m=203, d=6)
    attack = FangKrumAttack(epsilon=0.3)
    poisoned = attack.poison_round(context(updates, 100, Krum(100)))
    radii = np.linalg.norm(poisoned[1:100] - poisoned[0], axis=1)
    assert radii.max() <= 0.3
    # uniform: far from all at the rim, where a uniform point of the ball would be
    assert abs(np.median(radii) - 0.15) < 0.04
    directions = (poisoned[1:100] - poisoned[0]) / radii[:, np.newaxis]
    assert np.linalg.norm(directions.mean(axis=0)) < 0.25


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("kind", [_Contest, _ExactContest])
def test_trials_agree_with_krum(metric, kind):
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(150):
        n, q, d = rng.integers(2, 9), rng.integers(1, 7), rng.integers(2, 5)
        known, signs = rng.normal(0.3, 1.0, (n, d)), rng.choice([-1.0, 0, 1], d)
        around = rng.normal(size=(q, d)) * 0.5
        around[0] = 0
        if kind is _Contest:
            around[:] = 0
        if not signs.any():
            continue
        k = rng.integers(1, n + q)
        scale = rng.uniform(0.05, 2.0)
        contest = kind(UpdateMatrix.of(known), signs, around, metric, k)
        rows = np.vstack([-scale * signs + around, known])
        back = np.vstack([known, -scale * signs + around])
        ahead = naive_krum(rows, k, metric) < q
        behind = naive_krum(back, k, metric) >= n
        if ahead == behind:  # no tie
            assert contest.selects(scale, q) == ahead
            outcomes.append(ahead)
    assert len(outcomes) > 100
    assert 0.1 < np.mean(outcomes) < 0.9


def selects_partial(own, signs, offset):
    """Whether q copies win against the known rows, by a naive Krum."""
    c = len(own)
    k = max(c - offset, 1)

    def selected(scale, q):
        rows = np.vstack([[-scale * signs] * q, own])
        crafted = naive_krum(rows, k, "sqeuclidean")
        # a tie with a known row is none of the attacker's
        return crafted == 0 and naive_krum(rows[::-1], k, "sqeuclidean") >= c

    return selected


@pytest.mark.parametrize("c, mean", [(2, 0.1), (3, 0.5), (5, 0.05), (5, 3.0), (8, 0.3)])
def test_partial_knowledge_takes_the_fewest_copies(c, mean):
    updates = updates_of(3, m=4 * c + 3, mean=mean)
    attack = FangKrumAttack(knowledge="partial", epsilon=0.0)
    poisoned = attack.poison_round(context(updates, c, Krum(c)))
    own, scale = updates[:c], attack.info_["lambda"]
    signs = signs_of(own)
    np.testing.assert_allclose(poisoned[:c], [-scale * signs] * c)
    selected = selects_partial(own, signs, 2)
    copies = [q for q in range(1, c + 1) if selected(scale, q)]
    assert copies
    # with fewer copies no scale on any grid down to the threshold is selected
    for q in range(1, copies[0]):
        assert not any(selected(s, q) for s in np.geomspace(1e-5, 4 * scale, 100))


def test_partial_knowledge_of_one_update():
    updates = updates_of()
    attack = FangKrumAttack(knowledge="partial")
    poisoned = attack.poison_round(context(updates, [3], Krum(1)))
    scale = np.linalg.norm(updates[3]) / np.sqrt(D)
    np.testing.assert_allclose(poisoned[3], -scale * signs_of(updates[[3]]))


@pytest.mark.parametrize(
    "attack",
    [
        FangKrumAttack(knowledge="partial"),
        FangTrimAttack(knowledge="partial"),
        FangTrimAttack(knowledge="partial", direction="aggregate"),
    ],
    ids=["krum", "trim", "trim-aggregate"],
)
@pytest.mark.parametrize("rule", [Krum(C), TrimmedMean(C), None])
def test_partial_knowledge_sees_no_benign_row(attack, rule):
    updates, byzantine = updates_of(), [2, 3, 11, 20, 22]
    hidden = np.full_like(updates, np.nan)
    hidden[byzantine] = updates[byzantine]
    attack = clone(attack)
    crafted = attack.poison_round(context(updates, byzantine, rule))[byzantine]
    right = attack.info_["signs_right"]
    blind = attack.poison_round(context(hidden, byzantine, rule))[byzantine]
    np.testing.assert_array_equal(crafted, blind)
    assert not (crafted == updates[byzantine]).any()
    true = updates.mean(axis=0)
    seen = np.where(updates[byzantine].mean(axis=0) > 0, 1, -1)
    assert right == np.mean(np.sign(true) == seen)


def test_signs_right_counts_weights_that_move():
    updates = updates_of()
    updates[:, ::2] = 0
    attack = FangTrimAttack(knowledge="partial")
    attack.poison_round(context(updates, C))
    true, seen = updates.mean(axis=0)[1::2], updates[:C].mean(axis=0)[1::2]
    assert attack.info_["signs_right"] == np.mean(np.sign(true) == np.sign(seen))
    attack = FangTrimAttack()
    attack.poison_round(context(updates, C))
    assert attack.info_["signs_right"] == 1


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_the_rule_is_read_from_the_server(metric):
    updates = updates_of(5)

    def crafted(rule, **params):
        attack = FangKrumAttack(**params)
        return attack.poison_round(context(updates, C, rule))[:C]

    plain = crafted(Krum(C, metric=metric))
    for same in (
        MultiKrum(C, metric=metric),
        make_pipeline(NNM(C), Krum(C, metric=metric)),
    ):
        np.testing.assert_array_equal(crafted(same), plain)
    assumed = crafted(Median(), assumed_aggregator=Krum(metric=metric))
    np.testing.assert_array_equal(assumed, plain)
    if metric == "sqeuclidean":
        np.testing.assert_array_equal(crafted(Median()), plain)
        np.testing.assert_array_equal(crafted(None), plain)
        np.testing.assert_array_equal(crafted(lambda rows: rows[0]), plain)
    else:
        assert not np.array_equal(plain, crafted(Krum(C)))
    # other f, other neighbours: each search is right for its rule
    for rule in (Krum(2, metric=metric), Krum(C, metric=metric, n_neighbors=M - C - 1)):
        k = rule.n_neighbors or M - 2 - 2
        for knowledge in ("full", "partial"):
            attack = FangKrumAttack(knowledge=knowledge, epsilon=0.0, search="bisect")
            poisoned = attack.poison_round(context(updates, C, rule))
            if knowledge == "full":
                assert naive_krum(poisoned, k, metric) == 0
                scale = attack.info_["lambda"]
                poisoned[:C] *= 1.002
                assert naive_krum(poisoned, k, metric) >= C, scale


def test_bulyan_falls_to_it():
    updates = updates_of(1, m=27)
    rule = Bulyan(C)
    before = rule(updates)
    poisoned = FangKrumAttack().poison_round(context(updates, C, rule))
    after = rule(poisoned)
    assert signs_of(updates) @ after < signs_of(updates) @ before


def test_nothing_selected_sends_what_the_fallback_says():
    updates = updates_of()
    updates[C:] = updates[C]  # all scores of benign rows are zero
    attack = FangKrumAttack(epsilon=0.0)
    poisoned = attack.poison_round(context(updates, C, Krum(C)))
    np.testing.assert_array_equal(poisoned, updates)
    assert attack.info_["lambda"] == 0
    attack.set_params(fallback="threshold", threshold=0.25)
    poisoned = attack.poison_round(context(updates, C, Krum(C)))
    np.testing.assert_array_equal(poisoned[:C], [-0.25 * signs_of(updates)] * C)


def test_goal_deviation_moves_all_weights_down():
    updates = updates_of()
    for knowledge in ("full", "partial"):
        attack = FangKrumAttack(goal="deviation", knowledge=knowledge, epsilon=0.0)
        poisoned = attack.poison_round(context(updates, C, Krum(C)))
        np.testing.assert_allclose(poisoned[:C], -attack.info_["lambda"])
        assert "signs_right" not in attack.info_


def test_weights_that_stand_still():
    updates = updates_of()
    updates[:, :10] = 0
    attack = FangKrumAttack(epsilon=0.0)
    poisoned = attack.poison_round(context(updates, C, Krum(C)))
    assert (poisoned[:C, :10] == attack.info_["lambda"]).all()
    attack.set_params(zero_direction=0)
    poisoned = attack.poison_round(context(updates, C, Krum(C)))
    assert (poisoned[:C, :10] == 0).all()
    assert naive_krum(poisoned, M - C - 2, "sqeuclidean") == 0
    nothing = np.zeros_like(updates)
    np.testing.assert_array_equal(
        attack.poison_round(context(nothing, C, Krum(C))), nothing
    )
    poisoned = FangTrimAttack(zero_direction=0).poison_round(context(updates, C))
    assert (poisoned[:C, :10] == 0).all()
    assert (poisoned[:C, 10:] != 0).all()


def test_direction_of_the_aggregate():
    updates = updates_of()
    rule = TrimmedMean(C)
    course = rule(updates)
    signs = np.where(course > 0, 1, -1)
    assert (signs != signs_of(updates)).any()
    attack = FangKrumAttack(direction="aggregate", epsilon=0.0)
    poisoned = attack.poison_round(context(updates, C, rule))
    np.testing.assert_array_equal(np.sign(poisoned[0]), -signs)


def test_an_attack_does_not_advance_the_server():
    class Remembers(Mean):
        n_calls = 0

        def __call__(self, updates):
            self.n_calls += 1
            return super().__call__(updates)

    rule = Remembers()
    FangTrimAttack(direction="aggregate").poison_round(context(updates_of(), C, rule))
    assert rule.n_calls == 0


# ---------------------------------------------------------------------- trim attack


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_four_cases(dtype):
    #         s = -1, max > 0 | s = -1, max < 0 | s = +1, min > 0 | s = +1, min < 0
    benign = np.array(
        [[-4.0, -1.0, 2.0, -1.0], [1.0, -2.0, 3.0, 5.0], [-3.0, -3.0, 4.0, 6.0]], dtype
    )
    own = np.tile(benign.mean(axis=0), (50, 1)).astype(dtype)
    updates = np.vstack([own, benign])
    poisoned = FangTrimAttack(b=2.0).poison_round(context(updates, 50))
    crafted = poisoned[:50]
    assert crafted.dtype == dtype
    low = np.array([1.0, -1.0, 1.0, -2.0])
    high = np.array([2.0, -0.5, 2.0, -1.0])
    assert (crafted >= low).all() and (crafted <= high).all()
    np.testing.assert_allclose(crafted.mean(axis=0), (low + high) / 2, atol=0.2)
    assert (np.ptp(crafted, axis=0) > 0.8 * (high - low)).all()
    assert len(np.unique(crafted[:, 0])) > 40  # a draw for each client


def test_three_b_and_weights():
    updates, weights = updates_of(), np.linspace(-3, 3, D)
    attack = FangTrimAttack(b=3.0, space="weights")
    poisoned = attack.poison_round(context(updates, C, weights=weights))
    models, signs = poisoned[:C] + weights, signs_of(updates)
    benign = updates[C:] + weights
    for j in range(D):
        if signs[j] < 0:
            near = benign[:, j].max()
            far = 3 * near if near > 0 else near / 3
        else:
            near = benign[:, j].min()
            far = near / 3 if near > 0 else 3 * near
        low, high = min(near, far), max(near, far)
        assert (models[:, j] >= low - 1e-12).all()
        assert (models[:, j] <= high + 1e-12).all()
    with pytest.raises(ValueError, match="context.weights is None"):
        attack.poison_round(context(updates, C))


@pytest.mark.parametrize("space", ["update", "weights"])
@pytest.mark.parametrize("b, seed", [(1.01, 0), (2, 1), (50, 2)])
def test_trimmed_mean_afterwards(space, b, seed):
    updates = updates_of()
    attack = FangTrimAttack(b=b, space=space)
    weights = np.linspace(-1, 1, D)
    poisoned = attack.poison_round(context(updates, C, seed=seed, weights=weights))
    ordered, signs = np.sort(updates[C:], axis=0), signs_of(updates)
    n = M - 2 * C
    wanted = np.where(signs < 0, ordered[-n:].mean(axis=0), ordered[:n].mean(axis=0))
    np.testing.assert_allclose(TrimmedMean(C)(poisoned), wanted, rtol=1e-12)


def test_partial_trim_is_made_of_mean_and_spread():
    updates = updates_of(m=400)
    poisoned = FangTrimAttack(knowledge="partial").poison_round(context(updates, 150))
    own = updates[:150]
    signs = signs_of(own)
    steps = (poisoned[:150] - own.mean(axis=0)) / own.std(axis=0) * -signs
    assert steps.min() >= 3 - 1e-9
    assert steps.max() <= 4 + 1e-9
    assert abs(steps.mean() - 3.5) < 0.02
    with pytest.warns(UserWarning, match="no spread"):
        poisoned = FangTrimAttack(knowledge="partial").poison_round(context(updates, 1))
    np.testing.assert_allclose(poisoned, updates)


@pytest.mark.parametrize("rule", [TrimmedMean(C), Median()])
def test_deviation_picks_the_side_that_moves_farther(rule):
    updates = updates_of() ** 3
    before = rule(updates)

    def moved(poisoned):
        return np.abs(rule(poisoned) - before)

    attack = FangTrimAttack(goal="deviation")
    found = moved(attack.poison_round(context(updates, C, rule)))
    up, down = updates.copy(), updates.copy()
    up[:C], down[:C] = 1e3, -1e3
    np.testing.assert_allclose(found, np.maximum(moved(up), moved(down)), atol=1e-12)
    directed = moved(FangTrimAttack().poison_round(context(updates, C, rule)))
    assert (found >= directed - 1e-12).all()
    assert found.sum() > 1.01 * directed.sum()


# -------------------------------------------------------------------------- contract

ATTACKS = [
    FangKrumAttack(),
    FangKrumAttack(knowledge="partial", search="bisect"),
    FangTrimAttack(),
    FangTrimAttack(knowledge="partial"),
    FangTrimAttack(goal="deviation"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 3e38])
@pytest.mark.parametrize("rows", [[0], [C], [0, 1, 2, 3, 4]])
def test_faulty_rows_before_the_attack(attack, bad, rows):
    updates = updates_of(dtype=np.float32)
    updates[rows] = bad
    given = updates.copy()
    updates.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        poisoned = attack.poison_round(context(updates, C, TrimmedMean(C)))
    np.testing.assert_array_equal(updates, given)
    np.testing.assert_array_equal(poisoned[C:], given[C:])
    known_are_gone = attack.knowledge == "partial" and len(rows) == C
    if not (known_are_gone and not np.isfinite(bad)):
        assert np.isfinite(poisoned[:C]).all()
    else:
        np.testing.assert_array_equal(poisoned, given)


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_small_and_odd_matrices(attack):
    for m, c, d in [(1, 1, 1), (2, 1, 1), (3, 1, 4), (4, 2, 1), (7, 3, 2)]:
        updates = np.asfortranarray(updates_of(m=m, d=d, dtype=np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            poisoned = attack.poison_round(context(updates, c, Median(0)))
        assert poisoned.shape == (m, d)
        assert poisoned.dtype == np.float32
        assert np.isfinite(poisoned).all()
        np.testing.assert_array_equal(poisoned[c:], updates[c:])
    copies = np.ones((10, 3))
    assert np.isfinite(attack.poison_round(context(copies, 3, Median()))).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_no_byzantine_client_no_attack(attack):
    updates = updates_of()
    poisoned = attack.poison_round(context(updates, 0))
    assert poisoned is not updates
    np.testing.assert_array_equal(poisoned, updates)
    assert attack.info_ == {}


@pytest.mark.parametrize(
    "attack, match",
    [
        (FangKrumAttack(epsilon=-0.1), "epsilon must be >= 0"),
        (FangKrumAttack(knowledge="some"), "knowledge must be one of"),
        (FangKrumAttack(search="golden"), "search must be one of"),
        (FangKrumAttack(threshold=0), "threshold must be > 0"),
        (FangKrumAttack(fallback="none"), "fallback must be one of"),
        (FangKrumAttack(goal="none"), "goal must be one of"),
        (FangKrumAttack(direction="median"), "direction must be one of"),
        (FangKrumAttack(zero_direction=1), "zero_direction must be in"),
        (FangKrumAttack(attack_rounds=1.1), "attack_rounds must be in"),
        (FangKrumAttack(n_byzantine=0.5), "n_byzantine as a share"),
        (FangKrumAttack(n_byzantine=24), "n_byzantine=24 is more than"),
        (FangKrumAttack(n_byzantine=12, strict=True), "needs n_byzantine < n_clients"),
        (FangTrimAttack(b=1.0), "b must be > 1"),
        (FangTrimAttack(b=np.nan), "b must be > 1"),
        (FangTrimAttack(space="model"), "space must be one of"),
        (FangTrimAttack(goal="deviation", knowledge="partial"), "needs knowledge"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parameters(attack, match):
    with pytest.raises(ValueError, match=match):
        attack.fit(updates_of())


def test_strict_counts_the_round():
    attack = FangTrimAttack(strict=True)
    attack.poison_round(context(updates_of(), 11))
    with pytest.raises(ValueError, match="n_byzantine=12, n_clients=23"):
        attack.poison_round(context(updates_of(), 12))


def test_attack_rounds_is_a_share_drawn_by_the_round():
    updates = updates_of()
    attack = FangTrimAttack(attack_rounds=0.3)
    active = []
    for seed in range(400):
        poisoned = attack.poison_round(context(updates, C, seed=seed))
        active.append(not np.array_equal(poisoned, updates))
        assert active[-1] == bool(attack.info_)
    assert abs(np.mean(active) - 0.3) < 0.07
    # rounds that are attacked are attacked alike, whatever the share
    seed = active.index(True)
    np.testing.assert_array_equal(
        attack.poison_round(context(updates, C, seed=seed)),
        FangTrimAttack().poison_round(context(updates, C, seed=seed)),
    )


def test_as_a_transformer():
    updates = updates_of()
    attack = FangKrumAttack(n_byzantine=0.2, random_state=3)
    poisoned = attack.fit_transform(updates)
    assert (poisoned[:C] != updates[:C]).all()
    np.testing.assert_array_equal(poisoned[C:], updates[C:])
    np.testing.assert_array_equal(poisoned, attack.transform(updates))
    assert attack.info_ == {}
    other = clone(attack).set_params(random_state=4).fit_transform(updates)
    assert (other[1:C] != poisoned[1:C]).any()


def test_craft_is_given_what_is_known():
    class Spy(BaseUpdateAttack):
        knowledge = "partial"

        def craft(self, context):
            self.seen = context
            return context.own

    spy, updates = Spy(), updates_of()
    spy.poison_round(context(updates, [4, 2], Krum(2), round=7))
    assert spy.seen.updates.shape == (2, D)
    np.testing.assert_array_equal(spy.seen.own, updates[[4, 2]])
    assert spy.seen.n_clients == M
    assert spy.seen.round == 7
    assert len(spy.seen.benign) == 0
