import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    CAF,
    MDA,
    NNM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    FLTrust,
    FoolsGold,
    GeometricMedian,
    Krum,
    MeaMed,
    Mean,
    Median,
    MultiKrum,
    NormClipping,
    SignMajority,
    TrimmedMean,
    aggregate,
    aggregate_blocks,
)

RULES = [
    Krum(2),
    MultiKrum(2),
    Mean(2),
    TrimmedMean(2),
    Median(2),
    MeaMed(2),
    SignMajority(2),
    Bulyan(2),
    GeometricMedian(2),
    MDA(2),
    CAF(2),
    CenteredClipping(2),
    NormClipping(2),
    FoolsGold(2),
    FLTrust(2),
    make_pipeline(NNM(2), TrimmedMean(2)),
    make_pipeline(NNM(2), GeometricMedian(2)),
    make_pipeline(Bucketing(2, random_state=0), Median()),
]


def name(rule):
    steps = getattr(rule, "steps", [(None, rule)])
    return "+".join(type(step).__name__ for _, step in steps)


def made(n=12, d=3000, dtype=np.float64):
    return (np.random.default_rng(0).normal(size=(n, d)) + 1).astype(dtype)


def cut(updates, *where):
    return np.split(updates, where, axis=1)


@pytest.mark.parametrize("rule", RULES, ids=name)
@pytest.mark.parametrize("n_bad", [0, 2])
def test_the_same_as_of_the_whole_matrix(rule, n_bad):
    updates = made()
    if n_bad and isinstance(rule, type(RULES[-1])) and name(rule).startswith("Buck"):
        n_bad = 0  # the rule behind it has no liars to spare
    updates[1, 2999:], updates[5] = (np.nan, 1e30) if n_bad else (0, 0)
    root = {"root_update": np.ones(3000)}
    whole = aggregate(updates, rule, **root)
    blocks = cut(updates, 1, 700, 2990)
    found = aggregate_blocks(blocks, rule, **root)
    np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-12)
    if hasattr(rule, "reset"):
        rule.reset()
    found = aggregate_blocks(lambda: iter(blocks), rule, **root)
    np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-12)
    if hasattr(rule, "reset"):
        assert rule.n_clients_ == 12 and rule.n_nonfinite_ == n_bad // 2
        rule.reset()


def test_tensors_and_mixed_blocks():
    updates = made(dtype=np.float32)
    blocks = [torch.tensor(block) for block in cut(updates, 1000)]
    for rule in (Krum(2), Median(2), Bulyan(2)):
        found = aggregate_blocks(blocks, rule)
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
        np.testing.assert_allclose(found, rule(updates), rtol=1e-6)
    with pytest.raises(TypeError, match="all arrays or all tensors"):
        aggregate_blocks([updates, blocks[0]], Krum(2))


@pytest.mark.parametrize("rule", [CenteredClipping(radius=5.0), FoolsGold()], ids=name)
def test_a_rule_that_remembers_goes_on(rule):
    updates = made()
    blocks = cut(updates, 1500)
    for round_ in range(3):
        whole = rule(updates * (round_ + 1)) if round_ == 0 else rule(updates)
    rule.reset()
    for _ in range(3):
        found = aggregate_blocks(blocks, rule)
    np.testing.assert_allclose(found, whole, rtol=1e-9)


def test_liars_are_counted_where_the_rule_does_not_say():
    updates = made()
    rule = Krum()
    found = aggregate_blocks(cut(updates, 7), rule, n_byzantine=3)
    np.testing.assert_array_equal(found, Krum(3)(updates))
    assert rule.n_byzantine is None
    share = aggregate_blocks(cut(updates, 7), Krum(), n_byzantine=0.25)
    np.testing.assert_array_equal(share, found)
    own = aggregate_blocks(cut(updates, 7), Krum(1), n_byzantine=3)
    np.testing.assert_array_equal(own, Krum(1)(updates))
    pipeline = make_pipeline(NNM(), Krum())
    np.testing.assert_allclose(
        aggregate_blocks(cut(updates, 7), pipeline, n_byzantine=3),
        aggregate(updates, pipeline, n_byzantine=3),
    )
    np.testing.assert_allclose(aggregate_blocks([updates]), updates.mean(axis=0))


@pytest.mark.parametrize(
    "rule",
    [Krum(10), TrimmedMean(10), GeometricMedian(10), CenteredClipping(10),
     NormClipping(10), make_pipeline(NNM(10), TrimmedMean(10))],
    ids=name,
)  # fmt: skip
def test_memory_is_that_of_a_few_columns(tmp_path, rule):
    n, d = 50, 100_000
    path = tmp_path / "updates"
    on_disk = np.memmap(path, np.float32, "w+", shape=(n, d))
    rng = np.random.default_rng(0)
    for row in on_disk:
        row[:] = rng.normal(size=d)
    whole = aggregate(np.array(on_disk), rule)

    def blocks():
        for left in range(0, d, 20_000):
            yield np.memmap(path, np.float32, "r", shape=(n, d))[
                :, left : left + 20_000
            ]

    aggregate_blocks([on_disk[:, :100]], rule)  # imports
    if hasattr(rule, "reset"):
        rule.reset()
    for given in (blocks, cut(on_disk, 50_000)):
        tracemalloc.start()
        found = aggregate_blocks(given, rule)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # all updates take 20 MB, a tile of the widest kind 1.2, 2.4 as float64
        assert peak < 8e6
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)
        if hasattr(rule, "reset"):
            rule.reset()


@pytest.mark.parametrize(
    "blocks, rule, error, match",
    [
        ([], Krum(), ValueError, "at least one block"),
        ([np.ones((4, 2)), np.ones((5, 2))], Mean(), ValueError, r"got \[4, 5\] rows"),
        ([np.ones(4)], Mean(), ValueError, "Expected 2D array"),
        (np.ones((3, 3)), Mean(), ValueError, "Expected 2D array"),
        (iter([np.ones((4, 2))]), Mean(), TypeError, "read more than once"),
        ([np.ones((4, 2))], np.mean, TypeError, "a function sees one array"),
        ([np.ones((4, 2))], "krum", TypeError, "aggregator must be an aggregator"),
        ([np.ones((4, 2))], Krum(1), ValueError, r"Krum needs n >= 2\*f\+3: n=4, f=1"),
        ([np.ones((4, 2))], FLTrust(), ValueError, "FLTrust needs root_update"),
    ],
    ids=range(9),
)
def test_bad_input(blocks, rule, error, match):
    with pytest.raises(error, match=match):
        aggregate_blocks(blocks, rule)
