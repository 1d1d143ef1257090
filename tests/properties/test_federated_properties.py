"""What aggregation rules and attacks on updates promise, on updates of any kind."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties._strategies import LAYOUTS, SEEDS, as_bytes, tables
from sklearn.base import clone

from skpoison.attacks import PatchTrigger
from skpoison.federated import (
    ARC,
    CAF,
    MDA,
    NNM,
    ALIEAttack,
    Bucketing,
    Bulyan,
    CenteredClipping,
    ClientLabelFlipAttack,
    Clipping,
    DataPoisoningAttack,
    DnC,
    FangKrumAttack,
    FangTrimAttack,
    FaultAttack,
    FederatedClassifier,
    FLTrust,
    FoolsGold,
    GaussianAttack,
    GaussianNoiseAttack,
    GeometricMedian,
    IPMAttack,
    Krum,
    MeaMed,
    Mean,
    Median,
    MimicAttack,
    MinMaxAttack,
    MinSumAttack,
    ModelReplacementAttack,
    MoNNA,
    MultiKrum,
    NormClipping,
    Rejection,
    SignFlipAttack,
    SignMajority,
    SybilAttack,
    TrimmedMean,
    aggregate,
    aggregate_blocks,
    partition_clients,
    robustness_sweep,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def _name(rule):
    return type(rule).__name__


@st.composite
def _updates(draw, f=2):
    """Updates of clients around a point, with up to f of them anywhere."""
    rng = np.random.default_rng(draw(SEEDS))
    n, d = draw(st.integers(4 * f + 3, 14)), draw(st.integers(1, 7))
    U = draw(st.sampled_from([1e-3, 1.0, 1e3])) * (1 + rng.normal(size=(n, d)))
    if draw(st.booleans()):
        U = np.round(4 * U) / 4  # ties
    if draw(st.booleans()):
        U[1] = U[0]
    return U.astype(draw(st.sampled_from(["float32", "float64"])))


#: Each result lies in the range of the updates, coordinate by coordinate.
_IN_RANGE = [
    Mean(),
    TrimmedMean(2),
    Median(2),
    MeaMed(2),
    Krum(2),
    MultiKrum(2),
    Bulyan(2),
    GeometricMedian(2),
    MDA(2),
    CAF(2),
    DnC(2, subsample=1.0, random_state=0),
]
_MOVE_ALONG = [r for r in _IN_RANGE if not isinstance(r, CAF | DnC)]
_OTHERS = [MoNNA(2), CenteredClipping(2), NormClipping(2), FoolsGold(), SignMajority(2)]


@pytest.mark.parametrize("rule", _IN_RANGE + _OTHERS, ids=_name)
@given(U=_updates(), layout=st.sampled_from(list(LAYOUTS)), data=st.data())
def test_rules_keep_type_input_and_range(rule, U, layout, data):
    given_U = LAYOUTS[layout](U)
    before = as_bytes(given_U)
    found = clone(rule)(given_U)
    assert as_bytes(given_U) == before
    assert found.dtype == U.dtype and found.shape == U.shape[1:]
    scale = np.abs(U).max() + 1e-30
    eps = 64 * np.finfo(U.dtype).eps
    tensor = clone(rule)(torch.from_numpy(U))
    np.testing.assert_allclose(tensor.numpy(), found, rtol=0, atol=eps * scale)
    if _name(rule) in map(_name, _IN_RANGE):
        assert (found >= U.min(0) - eps * scale).all()
        assert (found <= U.max(0) + eps * scale).all()
    if isinstance(rule, MoNNA | Bulyan):
        return  # the server's own row comes first; pairs tie among the last rows
    # ties may be broken by order, so rows are put apart first
    rng = np.random.default_rng(0)
    apart = U * (1 + 0.01 * rng.random(U.shape)).astype(U.dtype)
    apart = apart + (0.01 * scale * rng.random(U.shape)).astype(U.dtype)
    order = np.array(data.draw(st.permutations(range(len(U)))))
    np.testing.assert_allclose(
        clone(rule)(apart[order]), clone(rule)(apart), rtol=1e-4, atol=1e-4 * scale
    )


@pytest.mark.parametrize("rule", _MOVE_ALONG, ids=_name)
@given(U=_updates(), factor=st.sampled_from([0.25, 2.0, 8.0]), by=st.integers(-4, 4))
def test_rules_move_and_scale_with_the_updates(rule, U, factor, by):
    U = U.astype(np.float64)
    scale = np.abs(U).max() + abs(by)
    U = U + 1e-3 * scale * np.random.default_rng(0).random(U.shape)  # no ties
    plain = clone(rule)(U)
    # the geometric median is found up to its tolerance
    close = {"rtol": 1e-4, "atol": 1e-4 * scale}
    np.testing.assert_allclose(clone(rule)(factor * U), factor * plain, **close)
    np.testing.assert_allclose(clone(rule)(U + by), plain + by, **close)


@pytest.mark.parametrize("rule", _IN_RANGE[1:] + _OTHERS[:3], ids=_name)
@given(
    U=_updates(),
    bad=st.lists(
        st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30]), min_size=2, max_size=2
    ),
)
def test_rules_stand_two_hostile_rows(rule, U, bad):
    honest = U[2:]
    U = U.copy()
    for row, value in enumerate(bad, start=len(U) - 2):
        U[row] = value
    honest = U[:-2]
    found = clone(rule)(U)
    assert np.isfinite(found).all()
    if isinstance(rule, TrimmedMean | Median | Krum | MultiKrum | Bulyan | MDA):
        slack = 1e-5 * (np.abs(honest).max() + 1e-30)
        if np.isfinite(bad).all() and isinstance(rule, MDA):
            return  # a pair far off may be close to itself, but not to the rest
        assert (found >= honest.min(0) - slack).all()
        assert (found <= honest.max(0) + slack).all()


@given(U=_updates(), width=st.integers(1, 3), rule=st.sampled_from(_IN_RANGE[:8]))
def test_blocks_are_the_whole(U, width, rule):
    blocks = [U[:, i : i + width] for i in range(0, U.shape[1], width)]
    whole = aggregate(U, clone(rule), n_byzantine=2)
    np.testing.assert_allclose(
        aggregate_blocks(blocks, clone(rule), n_byzantine=2),
        whole,
        rtol=2e-5,
        atol=1e-5,
    )


@given(U=_updates(), factor=st.sampled_from([0.5, 4.0]))
def test_fltrust_follows_the_server(U, factor):
    root = U[0] + 1
    found = FLTrust()(U, root_update=root)
    assert np.linalg.norm(found) <= np.linalg.norm(root) * (1 + 1e-4)
    # how long a client's update is does not matter
    scaled = FLTrust()(factor * U, root_update=root)
    np.testing.assert_allclose(scaled, found, rtol=1e-3, atol=1e-3 * abs(root).max())


@pytest.mark.parametrize("step", [NNM(2), Clipping(1.0), ARC(2)], ids=_name)
@given(U=_updates())
def test_pre_aggregators_keep_shape_and_bounds(step, U):
    before = U.tobytes()
    out = clone(step).fit_transform(U)
    assert U.tobytes() == before and out.shape == U.shape and out.dtype == U.dtype
    norms = np.linalg.norm(out.astype(float), axis=1)
    if isinstance(step, NNM):
        slack = 1e-4 * np.abs(U).max()
        assert (out >= U.min(0) - slack).all() and (out <= U.max(0) + slack).all()
    else:
        limit = np.linalg.norm(U.astype(float), axis=1)
        limit = np.minimum(limit, 1.0) if isinstance(step, Clipping) else limit
        assert (norms <= limit * (1 + 1e-5) + 1e-12).all()


@given(U=_updates(), s=st.integers(1, 5), seed=st.integers(0, 99))
def test_buckets_keep_the_mean(U, s, seed):
    U = U.astype(np.float64)
    out = Bucketing(s, random_state=seed).fit_transform(U)
    assert len(out) == -(-len(U) // s)
    if len(U) % s == 0:
        np.testing.assert_allclose(out.mean(0), U.mean(0), atol=1e-9 * abs(U).max())


_UPDATE_ATTACKS = [
    FangKrumAttack(),
    FangTrimAttack(),
    GaussianAttack(),
    GaussianNoiseAttack(),
    FaultAttack(),
    SignFlipAttack(),
    IPMAttack(),
    ALIEAttack(),
    MinMaxAttack(),
    MinSumAttack(),
    MimicAttack(),
]


@pytest.mark.parametrize("attack", _UPDATE_ATTACKS, ids=_name)
@given(U=_updates(), f=st.integers(0, 2), seed=st.integers(0, 2**31 - 1))
def test_attacks_on_updates_leave_the_honest_alone(attack, U, f, seed):
    before = U.tobytes()
    attack = clone(attack).set_params(n_byzantine=f, random_state=seed)
    out = attack.fit_transform(U)
    assert U.tobytes() == before and out.shape == U.shape and out.dtype == U.dtype
    assert out[f:].tobytes() == U[f:].tobytes() and np.isfinite(out).all()
    np.testing.assert_array_equal(clone(attack).fit_transform(U), out)
    if isinstance(attack, MinMaxAttack) and f:
        # no farther from an honest update than the farthest two of them
        honest = U[f:].astype(float)
        spread = np.linalg.norm(honest[:, None] - honest[None], axis=2).max()
        far = np.linalg.norm(out[0] - honest, axis=1).max()
        assert far <= spread * (1 + 1e-3) + 1e-6 * np.abs(U).max()


@given(U=_updates(), eps=st.sampled_from([0.1, 1.0]))
def test_sybils_are_one_attacker(U, eps):
    found = SybilAttack(IPMAttack(eps=eps, n_byzantine=2)).fit_transform(U)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2:], U[2:])


@given(codes=st.lists(st.integers(0, 9), min_size=1, max_size=30), seed=SEEDS)
def test_label_flips_of_clients_are_their_own_inverse(codes, seed):
    X, y = np.zeros((len(codes), 1)), np.array(codes)
    rng = np.random.default_rng(seed)
    attack = ClientLabelFlipAttack()
    X_out, once = attack.poison_shard(X, y, 10, rng)
    np.testing.assert_array_equal(X_out, X)
    np.testing.assert_array_equal(attack.poison_shard(X, once, 10, rng)[1], y)


@given(
    codes=st.lists(st.integers(0, 3), min_size=24, max_size=60),
    n_clients=st.integers(1, 6),
    method=st.sampled_from(["fang", "iid", "dirichlet", "shards"]),
    seed=SEEDS,
)
def test_every_row_has_one_client(codes, n_clients, method, seed):
    y = np.array(codes)
    try:
        client = partition_clients(y, n_clients, method, random_state=seed)
    except ValueError as error:
        assert "client" in str(error) or "method" in str(error) or "bias" in str(error)
        return
    assert client.shape == y.shape and set(client) <= set(range(n_clients))
    again = partition_clients(y, n_clients, method, random_state=seed)
    np.testing.assert_array_equal(client, again)


@given(
    n=st.integers(6, 10),
    method=st.sampled_from(["err", "lfr", "union"]),
    worst=st.integers(0, 5),
)
def test_rejection_drops_as_many_as_it_says(n, method, worst):
    U = np.linspace(0.9, 1.1, n)[:, None]
    U[worst] = -9

    def evaluate(candidates):
        losses = np.abs(candidates[:, 0] - 1)
        return losses > 0.3, losses

    kept = Rejection(method, random_state=0).keep(U, Mean(), 1, evaluate)
    assert len(set(kept)) == len(kept) and set(kept) <= set(range(n))
    assert worst not in kept and len(kept) >= n - (2 if method == "union" else 1)


_TRAIN = {"n_clients": 5, "n_byzantine": 1, "n_rounds": 3, "batch_size": 4}


@given(
    data=tables(n_classes=2, low=40, high=50),
    attack=st.sampled_from(
        [
            SignFlipAttack(),
            DataPoisoningAttack(),
            ModelReplacementAttack(
                PatchTrigger(size=1, margin=0, input_shape=(1, 2)), n_steps=2
            ),
        ]
    ),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 99),
)
def test_federated_training_is_a_function_of_data_and_seed(data, attack, layout, seed):
    X, y = data[0][:, :2], np.array(["ant", "bee"])[data[1]]
    if isinstance(attack, DataPoisoningAttack):
        attack = ClientLabelFlipAttack()
    model = FederatedClassifier(
        aggregator=TrimmedMean(),
        attack=attack,
        partition="iid",
        random_state=seed,
        device="cpu",
        **_TRAIN,
    )
    before = as_bytes(X)
    one = clone(model).fit(X, y).predict_proba(X)
    two = clone(model).fit(LAYOUTS[layout](X), y).predict_proba(X)
    assert as_bytes(X) == before
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-5)


@given(seed=st.integers(0, 99))
def test_sweeps_report_shares(seed):
    rng = np.random.RandomState(seed)
    X, y = rng.rand(60, 3), np.arange(60) % 2
    X[:, 0] += y
    table = robustness_sweep(
        FederatedClassifier(device="cpu", **_TRAIN),
        {"none": None, "flip": SignFlipAttack()},
        {"mean": Mean(), "median": Median()},
        0.2,
        X[:40],
        y[:40],
        X[40:],
        y[40:],
        seeds=(seed,),
    )
    errors = np.asarray(table["error"])
    assert len(errors) >= 4 and ((errors >= 0) & (errors <= 1)).all()
