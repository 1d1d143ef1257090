import numpy as np
import pytest
import torch
from scipy import stats

from skpoison.evasion._draws import GeneratorDraws, RowDraws

WORD = (1 << 64) - 1


@pytest.fixture
def rows():
    return np.random.RandomState(0).rand(40, 7).astype(np.float32)


def split_mix(word):
    """The published generator's finaliser, in Python's integers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


def test_draws_are_a_hash_of_seed_row_restart_and_step():
    keys = [5, -3, 2**62]
    drawn = RowDraws(9, torch.tensor(keys)).uniform(2, 4, (3, 2, 2)).reshape(3, 4)
    golden = 0x9E3779B97F4A7C15
    counter = 0
    for part in (9, 2, 4):
        counter = split_mix((counter + part + golden) & WORD)
    for i, key in enumerate(keys):
        row = split_mix((key + counter) & WORD)
        for j in range(4):
            bits = split_mix((row + (j + 1) * golden) & WORD)
            assert float(drawn[i, j]) == ((bits >> 41) + 0.5) / 2**23


def test_draws_are_uniform_and_unrelated(rows):
    draws = RowDraws.of_rows(0, rows)
    steps = np.stack([draws.uniform(0, k, (40, 50)).numpy() for k in range(50)])
    assert steps.min() > 0 and steps.max() < 1
    assert stats.kstest(steps.ravel(), "uniform").pvalue > 1e-3
    for one, other in (
        (steps[1:], steps[:-1]),
        (steps[:, 1:], steps[:, :-1]),
        (steps[..., 1:], steps[..., :-1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_order_subsets_and_type_change_no_row(rows):
    whole = RowDraws.of_rows(3, rows).uniform(1, 2, (40, 7))
    order = np.random.RandomState(1).permutation(40)[:13]
    some = RowDraws.of_rows(3, rows[order]).uniform(1, 2, (13, 7))
    taken = RowDraws.of_rows(3, rows).take(torch.from_numpy(order))
    wide = RowDraws.of_rows(3, rows.astype(np.float64)).uniform(1, 2, (40, 7))
    assert torch.equal(some, whole[order])
    assert torch.equal(taken.uniform(1, 2, (13, 7)), some)
    assert torch.equal(wide, whole)


def test_equal_rows_get_equal_draws(rows):
    rows[3] = rows[17]
    drawn = RowDraws.of_rows(0, rows).uniform(0, 0, (40, 5))
    assert torch.equal(drawn[3], drawn[17])
    assert len(torch.unique(drawn, dim=0)) == 39


def test_seed_restart_and_step_each_change_all(rows):
    drawn = [
        RowDraws.of_rows(seed, rows).uniform(restart, step, (40, 7))
        for seed, restart, step in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one != other).all()


def test_one_draw_for_all_rows(rows):
    draws = RowDraws.of_rows(0, rows)
    shared = [draws.shared(0, k) for k in range(400)]
    assert shared[7] == RowDraws.of_rows(0, rows[:3]).shared(0, 7)
    assert stats.kstest(shared, "uniform").pvalue > 1e-3


def test_the_global_generator_is_left_alone(rows):
    before = torch.random.get_rng_state()
    draws = RowDraws.of_rows(0, rows)
    draws.uniform(0, 0, (40, 2))
    draws.shared(0, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_of_a_generator():
    made = [GeneratorDraws(torch.Generator().manual_seed(4)) for _ in range(2)]
    first = made[0].uniform(0, 0, (3, 2))
    assert first.shape == (3, 2) and torch.equal(first, made[1].uniform(0, 0, (3, 2)))
    assert not torch.equal(first, made[0].uniform(0, 0, (3, 2)))
    assert 0 <= made[0].take(torch.tensor([0])).shared(0, 1) < 1
