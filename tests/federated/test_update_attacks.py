import pickle
import warnings

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    NNM,
    ALIEAttack,
    Bulyan,
    CenteredClipping,
    FangKrumAttack,
    FaultAttack,
    FLTrust,
    GaussianAttack,
    GaussianNoiseAttack,
    GeometricMedian,
    IPMAttack,
    Krum,
    Mean,
    Median,
    MimicAttack,
    MinMaxAttack,
    MinSumAttack,
    MoNNA,
    MultiKrum,
    RoundContext,
    SignFlipAttack,
    SybilAttack,
    TrimmedMean,
)
from skpoison.federated._attacks import _optimal
from skpoison.federated._attacks._knowledge import models

M, C, D = 23, 5, 40


def updates_of(seed=0, m=M, d=D, mean=0.1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 1.0, (m, d)).astype(dtype)


def context(updates, byzantine=C, rule=None, seed=0, **params):
    if np.isscalar(byzantine):
        byzantine = np.arange(byzantine)
    rng = np.random.default_rng(seed)
    return RoundContext(updates, byzantine, aggregator=rule, rng=rng, **params)


def crafted_by(attack, updates, byzantine=C, **params):
    given = context(updates, byzantine, **params)
    return attack.poison_round(given)[given.byzantine]


# -------------------------------------------------------------------------- contract


ATTACKS = {
    "alie": ALIEAttack(),
    "alie-optimal": ALIEAttack(z="optimal"),
    "gaussian": GaussianAttack(),
    "noise": GaussianNoiseAttack(std=3.0),
    "ipm": IPMAttack(),
    "ipm-optimal": IPMAttack(eps="optimal"),
    "mimic": MimicAttack(),
    "mimic-warmup": MimicAttack(warmup=3),
    "min-max": MinMaxAttack(),
    "min-max-std": MinMaxAttack(perturbation="std"),
    "min-sum": MinSumAttack(),
    "min-sum-sign": MinSumAttack(perturbation="sign"),
    "flip": SignFlipAttack(),
    "flip-benign": SignFlipAttack(source="benign"),
    "sybil": SybilAttack(ALIEAttack()),
    "fault": FaultAttack(),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_rounds_are_new_arrays_and_repeat(name):
    attack, byzantine = clone(ATTACKS[name]), [1, 8, 9, 20, 21]
    updates = np.asfortranarray(updates_of(dtype=np.float32))
    given = updates.copy()
    updates.setflags(write=False)
    poisoned = attack.poison_round(context(updates, byzantine, Krum(C)))
    np.testing.assert_array_equal(updates, given)
    assert poisoned.dtype == np.float32
    assert poisoned.flags.writeable
    others = np.delete(np.arange(M), byzantine)
    np.testing.assert_array_equal(poisoned[others], given[others])
    if name != "mimic-warmup":
        assert not np.array_equal(poisoned[byzantine], given[byzantine])
    again = pickle.loads(pickle.dumps(attack))
    np.testing.assert_array_equal(
        again.poison_round(context(updates, byzantine, Krum(C))), poisoned
    )
    np.testing.assert_array_equal(
        attack.poison_round(context(updates, [], Krum(C))), given
    )
    assert attack.info_ == {}


@pytest.mark.parametrize("name", ATTACKS)
def test_as_transformers(name):
    attack, updates = clone(ATTACKS[name]), updates_of()
    inner = attack.attack if name == "sybil" else attack
    inner.set_params(n_byzantine=0.2, random_state=0)
    poisoned = attack.fit_transform(updates)
    np.testing.assert_array_equal(poisoned[C:], updates[C:])
    np.testing.assert_array_equal(poisoned, attack.transform(updates))


@pytest.mark.parametrize(
    "name", [n for n in ATTACKS if "knowledge" in ATTACKS[n].get_params()]
)
def test_partial_knowledge_sees_no_benign_row(name):
    attack = clone(ATTACKS[name]).set_params(knowledge="partial")
    updates, byzantine = updates_of(), [2, 3, 11, 20, 22]
    hidden = np.full_like(updates, np.nan)
    hidden[byzantine] = updates[byzantine]
    if "optimal" in name:
        with pytest.raises(ValueError, match="='optimal' needs knowledge='full'"):
            attack.fit(updates)
        return
    crafted = crafted_by(attack, updates, byzantine)
    np.testing.assert_array_equal(crafted, crafted_by(attack, hidden, byzantine))
    if name not in ("mimic-warmup", "flip"):
        full = crafted_by(
            clone(attack).set_params(knowledge="full"), updates, byzantine
        )
        assert not np.array_equal(crafted, full)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, 3e38])
@pytest.mark.parametrize("rows", [[0], [C], list(range(C)), list(range(C, C + 3))])
def test_faulty_rows_before_the_attack(name, bad, rows):
    updates = updates_of(dtype=np.float32)
    updates[rows] = bad
    attack = clone(ATTACKS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        crafted = crafted_by(attack, updates, rule=TrimmedMean(C))
    own = name in ("flip", "mimic-warmup")  # what these send is what they were given
    if np.isfinite(bad) or not own or rows[0] >= C:
        assert np.isfinite(crafted).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_small_and_odd_matrices(name):
    for m, c, d in [(2, 1, 1), (3, 1, 4), (4, 1, 1), (7, 3, 2)]:
        for updates in (updates_of(m=m, d=d), np.ones((m, d)), np.zeros((m, d))):
            crafted = crafted_by(clone(ATTACKS[name]), updates, c, rule=Median(0))
            assert np.isfinite(crafted).all()
            assert crafted.shape == (c, d)


@pytest.mark.parametrize(
    "attack, error, match",
    [
        (IPMAttack(eps=-0.1), ValueError, "eps must be >= 0"),
        (IPMAttack(eps="best"), ValueError, "eps must be one of 'optimal'"),
        (IPMAttack(knowledge=None), ValueError, "knowledge must be one of"),
        (ALIEAttack(z="best"), ValueError, "z must be one of 'optimal'"),
        (ALIEAttack(z=np.nan), ValueError, "z must be finite"),
        (SignFlipAttack(scale=-1.0), ValueError, "scale must be >= 0"),
        (SignFlipAttack(source="all"), ValueError, "source must be one of"),
        (GaussianNoiseAttack(std=-1.0), ValueError, "std must be >= 0"),
        (GaussianNoiseAttack(mean=np.inf), ValueError, "mean must be finite"),
        (FaultAttack(kind="one"), ValueError, "kind must be one of"),
        (MinMaxAttack(perturbation="mean"), ValueError, "perturbation must be one of"),
        (MimicAttack(index=-1), ValueError, "index must be >= 0"),
        (MimicAttack(warmup=1.5), TypeError, "warmup must be an int"),
        (MinSumAttack(n_byzantine=-1), ValueError, "n_byzantine must be >= 0"),
        (MinSumAttack(n_byzantine=24), ValueError, "n_byzantine=24 is more than"),
        (ALIEAttack(n_byzantine=12, strict=True), ValueError, "strict=True needs"),
        (SybilAttack(Krum()), TypeError, "attack must be an attack of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parameters(attack, error, match):
    with pytest.raises(error, match=match):
        attack.fit(updates_of())


# -------------------------------------------------------------- noise, means, spreads


def test_gaussian_draws_by_weight():
    updates = updates_of(m=3000, d=2) * [1.0, 5.0] + [0.0, 3.0]
    updates[:2000] += [10.0, 0.0]
    crafted = crafted_by(GaussianAttack(), updates, 2000)
    np.testing.assert_allclose(crafted.mean(axis=0), updates.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(crafted.std(axis=0), updates.std(axis=0), rtol=0.05)
    own = updates[:2000]
    crafted = crafted_by(GaussianAttack(knowledge="partial"), updates, 2000)
    np.testing.assert_allclose(crafted.mean(axis=0), own.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(crafted.std(axis=0), own.std(axis=0), rtol=0.05)


def test_noise_and_faults():
    updates = updates_of(d=5000)
    crafted = crafted_by(GaussianNoiseAttack(mean=2.0, std=3.0), updates)
    assert abs(crafted.mean() - 2) < 0.1
    assert abs(crafted.std() - 3) < 0.1
    assert (crafted_by(FaultAttack(), updates) == 0).all()
    assert (crafted_by(FaultAttack(kind="inf"), updates) == np.inf).all()
    assert np.isnan(crafted_by(FaultAttack(kind="nan"), updates)).all()


def test_signs_and_inner_products():
    updates = updates_of()
    own, centre = updates[:C], updates[C:].mean(axis=0)
    np.testing.assert_allclose(crafted_by(SignFlipAttack(scale=2), updates), -2 * own)
    flipped = crafted_by(SignFlipAttack(source="benign"), updates)
    np.testing.assert_allclose(flipped, [-centre] * C)
    crafted = crafted_by(IPMAttack(eps=0.3), updates)
    np.testing.assert_allclose(crafted, [-0.3 * centre] * C)
    crafted = crafted_by(IPMAttack(eps=0.3, knowledge="partial"), updates)
    np.testing.assert_allclose(crafted, [-0.3 * own.mean(axis=0)] * C)
    # the mean turns round at (m - c) / c
    turn = (M - C) / C
    for eps, sign in [(0.99 * turn, 1), (1.01 * turn, -1)]:
        poisoned = IPMAttack(eps=eps).poison_round(context(updates))
        assert np.sign(poisoned.mean(axis=0) @ centre) == sign


@pytest.mark.parametrize("m, c", [(50, 12), (23, 5), (10, 1), (4, 1), (51, 24)])
def test_a_little_is_enough(m, c):
    updates = updates_of(m=m)
    benign = updates[c:]
    s = m // 2 + 1 - c
    z = norm.ppf((m - c - s) / (m - c))
    wanted = benign.mean(axis=0) - z * benign.std(axis=0)
    attack = ALIEAttack()
    np.testing.assert_allclose(crafted_by(attack, updates, c), [wanted] * c)
    assert attack.info_["z"] == pytest.approx(z)
    wanted = benign.mean(axis=0) + 1.5 * benign.std(axis=0)
    np.testing.assert_allclose(crafted_by(ALIEAttack(z=-1.5), updates, c), [wanted] * c)


def test_a_little_is_enough_for_a_majority():
    with pytest.raises(ValueError, match="c=13 of m=23"):
        crafted_by(ALIEAttack(), updates_of(), 13)
    crafted_by(ALIEAttack(z=1.0), updates_of(), 13)


RULES = {
    "mean": Mean(C),
    "none": None,
    "krum": Krum(C),
    "krum-euclidean": Krum(C, metric="euclidean"),
    "multi-krum": MultiKrum(C),
    "bulyan": Bulyan(4),
    "trimmed": TrimmedMean(C),
    "median": Median(C),
    "geometric-median": GeometricMedian(C),
    "centered-clipping": CenteredClipping(C, radius=2.0),
    "monna": MoNNA(C, idx=12),
    "pipeline": make_pipeline(NNM(C), Krum(C)),
    "pipeline-order": make_pipeline(NNM(), TrimmedMean()),
    "function": lambda updates: np.median(updates, axis=0),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "attack, name", [(IPMAttack(eps="optimal"), "eps"), (ALIEAttack(z="optimal"), "z")]
)
@pytest.mark.parametrize("bad", [0, 1])
def test_optimal_moves_the_result_farthest(rule, attack, name, bad):
    from skpoison.federated import aggregate

    updates, rule = updates_of(4, mean=0.6), RULES[rule]
    if bad and not callable(rule) or callable(rule) and not hasattr(rule, "fit"):
        bad = 0  # pipelines take the row for zeros, functions for what they like
    if bad:
        updates[-1] = np.nan
    centre = np.nanmean(updates[C:], axis=0)

    def distance(value):
        one = clone(attack).set_params(**{name: value})
        poisoned = one.poison_round(context(updates))
        return np.linalg.norm(aggregate(poisoned, rule, C) - centre)

    attack = clone(attack)
    attack.poison_round(context(updates, rule=rule))
    found = attack.info_[name]
    assert 0 < found <= 10
    grid = [distance(t) for t in np.geomspace(0.01, 10, 80)]
    assert distance(found) >= 0.98 * max(grid)


@pytest.mark.parametrize(
    "rule",
    [
        Krum(C),
        MultiKrum(C, metric="euclidean"),
        GeometricMedian(C),
        make_pipeline(NNM(C), MultiKrum(C)),
    ],
    ids=["krum", "multi-krum", "geometric-median", "pipeline"],
)
def test_trials_on_inner_products_agree_with_the_rule(rule):
    updates, byzantine = updates_of(6), [3, 4, 11, 17, 22]
    given = context(updates, byzantine, rule)
    step = -updates.std(axis=0)
    assert _optimal._weighs(rule)
    for origin in (0, 1):
        trial = _optimal._Trial(given, rule, models(given), origin, step)
        fast = _optimal._GramTrial(given, rule, models(given), origin, step)
        for t in (0.03, 0.3, 0.8, 1.2, 3.0, 9.0):
            assert fast(t) == pytest.approx(trial(t), rel=1e-6, abs=1e-12)


def test_a_rule_that_remembers_is_tried_from_where_it_stands():
    updates = updates_of()
    rule = CenteredClipping(C, radius=1.0)
    rule(updates + 5)
    before = pickle.dumps(rule)
    moved = rule.location_ @ rule.location_
    attack = IPMAttack(eps="optimal", assumed_aggregator=rule)
    attack.poison_round(context(updates))
    assert pickle.dumps(rule) == before
    assert moved > 0

    def distance(eps):
        poisoned = IPMAttack(eps=eps).poison_round(context(updates))
        return np.linalg.norm(pickle.loads(before)(poisoned) - updates[C:].mean(axis=0))

    grid = [distance(t) for t in np.geomspace(0.01, 10, 60)]
    assert distance(attack.info_["eps"]) >= 0.999 * max(grid)


def test_optimal_needs_a_rule_that_can_be_worked_out():
    attack = IPMAttack(eps="optimal")
    with pytest.raises(ValueError, match="assumed_aggregator must be given"):
        attack.poison_round(context(updates_of(), rule=FLTrust()))
    attack.set_params(assumed_aggregator=Mean())
    attack.poison_round(context(updates_of(), rule=FLTrust()))
    assert attack.info_["eps"] == 10


# ----------------------------------------------------------------- MinMax and MinSum


def perturbation_of(kind, benign):
    centre = benign.mean(axis=0)
    return {
        "unit": -centre / np.linalg.norm(centre),
        "sign": -np.sign(centre),
        "std": -benign.std(axis=0),
    }[kind]


def bisected(allowed):
    low, high = 0.0, 1.0
    while allowed(high):
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


@pytest.mark.parametrize("kind", ["unit", "sign", "std"])
@pytest.mark.parametrize("seed, d, mean", [(0, 40, 0.1), (1, 3, 2.0), (2, 1, -1.0)])
def test_closed_forms(kind, seed, d, mean):
    updates = updates_of(seed, d=d, mean=mean)
    benign = updates[C:]
    centre, step = benign.mean(axis=0), perturbation_of(kind, benign)
    square = ((benign[:, None] - benign[None]) ** 2).sum(axis=-1)

    def from_point(gamma):
        return ((centre + gamma * step - benign) ** 2).sum(axis=1)

    cases = {
        MinMaxAttack: lambda g: from_point(g).max() <= square.max(),
        MinSumAttack: lambda g: from_point(g).sum() <= square.sum(axis=1).max(),
    }
    for Attack, allowed in cases.items():
        attack = Attack(perturbation=kind)
        crafted = crafted_by(attack, updates)
        gamma = bisected(allowed)
        assert attack.info_["gamma"] == pytest.approx(gamma, rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(crafted, [centre + gamma * step] * C, atol=1e-11)


def test_closed_forms_far_from_the_origin():
    updates = updates_of(mean=1e6, dtype=np.float32)
    exact = updates.astype(np.float64)
    for Attack in (MinMaxAttack, MinSumAttack):
        attack = Attack()
        crafted_by(attack, exact)
        gamma = attack.info_["gamma"]
        crafted_by(attack, updates)
        assert attack.info_["gamma"] == pytest.approx(gamma, rel=1e-3)


# ----------------------------------------------------------------------------- mimic


def test_mimic_copies_the_row_that_lies_farthest():
    updates = updates_of(d=60)
    benign = updates[C:]
    direction = np.linalg.svd(benign - benign.mean(axis=0))[2][0]
    row = C + np.argmax(np.abs(benign @ direction))
    attack = MimicAttack()
    np.testing.assert_allclose(crafted_by(attack, updates), [updates[row]] * C)
    assert attack.info_["mimicked"] == row
    np.testing.assert_array_equal(
        crafted_by(MimicAttack(index=2), updates), [updates[C + 2]] * C
    )
    with pytest.raises(ValueError, match="index must be less than the 18"):
        crafted_by(MimicAttack(index=18), updates)


def test_mimic_watches_first_and_then_stays():
    rounds = [updates_of(seed, d=6) for seed in range(9)]
    for updates in rounds:  # one client is off its own way in each
        updates[9] += [3, 0, 0, 0, 0, 0]
    attack, history = MimicAttack(warmup=4), {}
    along = np.zeros(M - C)
    for t, updates in enumerate(rounds, start=1):
        history = pickle.loads(pickle.dumps(history))
        benign = updates[C:]
        poisoned = attack.poison_round(context(updates, history=history))
        if t <= 4:
            np.testing.assert_array_equal(poisoned, updates)
            off = benign - benign.mean(axis=0)
            if t == 1:
                direction = np.linalg.svd(off)[2][0]
            along += benign @ direction
            direction = (t - 1) / t * direction + off.T @ off @ direction / t
            direction /= np.linalg.norm(direction)
        else:
            row = C + np.argmax(np.abs(along))
            np.testing.assert_array_equal(poisoned[:C], [updates[row]] * C)
    assert row == 9
    assert list(history) == ["MimicAttack"]
    with pytest.raises(ValueError, match="same clients in each round"):
        attack = MimicAttack(warmup=2)
        history = {}
        attack.poison_round(context(updates_of(), history=history))
        attack.poison_round(context(updates_of(m=20), history=history))


# ----------------------------------------------------------------------------- sybil


def test_sybil_hands_on():
    updates, inner = updates_of(), FangKrumAttack(knowledge="partial", epsilon=0.0)
    attack = SybilAttack(inner)
    poisoned = attack.poison_round(context(updates, rule=Krum(C)))
    np.testing.assert_array_equal(
        poisoned, clone(inner).poison_round(context(updates, rule=Krum(C)))
    )
    assert attack.info_["lambda"] > 0
    assert not hasattr(inner, "info_")
    assert attack.n_injected(7) == 7
    assert inner.n_injected(7) == 0
    np.testing.assert_array_equal(SybilAttack().poison_round(context(updates)), updates)
    attack.set_params(attack__epsilon=-1.0)
    with pytest.raises(ValueError, match="epsilon"):
        attack.poison_round(context(updates))
