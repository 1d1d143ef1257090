import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpoison.federated import (
    MeaMed,
    Mean,
    Median,
    OrderAggregator,
    SignMajority,
    TrimmedMean,
)

RULES = [TrimmedMean(2), Median(2), MeaMed(2), SignMajority(2, step=0.1)]
HOSTILE = [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, -3e38]


def naive(rule, updates):
    """Return the rule's result, coordinate by coordinate in plain Python."""
    n, f = len(updates), rule.n_byzantine
    found = []
    for values in updates.T.astype(np.float64):
        values = sorted(values.tolist())
        centre = (values[(n - 1) // 2] + values[n // 2]) / 2
        if isinstance(rule, TrimmedMean):
            kept = values[f : n - f]
        elif isinstance(rule, Median):
            kept = [centre]
        elif isinstance(rule, MeaMed):
            kept = sorted(values, key=lambda x: (abs(x - centre), x))[: n - f]
        else:
            up = sum(x > 0 for x in values) - sum(x < 0 for x in values)
            kept = [rule.step * ((up > 0) - (up < 0))]
        found.append(sum(kept) / len(kept))
    return np.array(found)


def with_ties(n, d, seed=0):
    """Return updates of whole numbers and halves: sums of them are exact."""
    return np.random.default_rng(seed).integers(-6, 7, (n, d)) / 2


# ------------------------------------------------------------------------ contract


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("n, d", [(5, 1), (6, 3), (7, 40), (30, 2003), (51, 1000)])
def test_results_are_those_of_plain_python(rule, n, d):
    for updates in (with_ties(n, d), np.random.default_rng(1).normal(size=(n, d))):
        np.testing.assert_allclose(rule(updates), naive(rule, updates), atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_meamed_with_any_number_of_byzantine_clients(n):
    updates = with_ties(n, 200)
    for f in range(n):
        rule = MeaMed(f)
        np.testing.assert_allclose(rule(updates), naive(rule, updates), atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_types_layouts_and_an_input_that_stays(rule):
    updates = np.random.default_rng(0).normal(size=(9, 1500))
    expected = rule(updates)
    updates.flags.writeable = False
    assert expected.dtype == np.float64
    np.testing.assert_array_equal(rule(np.asfortranarray(updates)), expected)
    single = updates.astype(np.float32)
    single.flags.writeable = False
    assert rule(single).dtype == np.float32
    np.testing.assert_allclose(rule(single), expected, rtol=1e-4, atol=1e-6)
    tensor = torch.tensor(single)
    location = rule(tensor)
    assert isinstance(location, torch.Tensor) and location.dtype == torch.float32
    np.testing.assert_array_equal(location.numpy(), rule(single))
    np.testing.assert_array_equal(tensor.numpy(), single)
    rule.fit(single)
    assert rule.selected_.tolist() == list(range(9))
    np.testing.assert_array_equal(rule.fit_predict(single), np.ones(9))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("n", [8, 9])
def test_sorted_values_may_be_tensors(rule, n):
    updates = with_ties(n, 30).astype(np.float32)
    ordered = np.sort(updates.T, axis=1)
    as_tensor = rule._of_sorted(torch.tensor(ordered), 2)
    assert isinstance(as_tensor, torch.Tensor) and as_tensor.dtype == torch.float32
    np.testing.assert_allclose(as_tensor, rule._of_sorted(ordered, 2), rtol=1e-6)
    each = rule._without_each(torch.tensor(updates), torch.tensor(ordered), 2)
    assert isinstance(each, torch.Tensor)
    np.testing.assert_allclose(each, rule._without_each(updates, ordered, 2), rtol=1e-6)
    generic = OrderAggregator._without_each(
        rule, torch.tensor(updates), torch.tensor(ordered), 2
    )
    np.testing.assert_allclose(generic, each, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------ hostile updates


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("n_bad", [1, 2])
@pytest.mark.parametrize("value", HOSTILE)
def test_byzantine_rows_cannot_leave_the_honest_range(rule, value, n_bad):
    updates = np.random.default_rng(0).normal(size=(9, 50)).astype(np.float32)
    honest = updates[n_bad:].copy()
    updates[:n_bad] = value
    before = updates.copy()
    location = rule(updates)
    np.testing.assert_array_equal(updates, before)
    assert rule.n_nonfinite_ == (0 if np.isfinite(value) else n_bad)
    if isinstance(rule, SignMajority):
        assert set(np.abs(location).tolist()) <= {0.0, np.float32(0.1)}
    else:
        assert (location >= honest.min(axis=0)).all()
        assert (location <= honest.max(axis=0)).all()
    if not np.isfinite(value):
        left = clone(rule).set_params(n_byzantine=2 - n_bad)
        np.testing.assert_array_equal(location, left(honest))
        np.testing.assert_array_equal(rule.fit_predict(updates)[:n_bad], -1)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_mixed_faults_and_huge_numbers_in_double(rule):
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(9, 50))
    updates[0], updates[1] = 1e300, -1.7e308
    assert np.isfinite(rule(updates)).all() and np.abs(rule(updates)).max() < 10
    updates[0, 3] = np.nan
    assert np.isfinite(rule(updates)).all() and np.abs(rule(updates)).max() < 10
    with pytest.raises(ValueError, match=r"in 3 of n=9 updates, more than its f=2"):
        updates[4:6, 0] = np.inf
        rule(updates)


def test_near_copies_move_a_trimmed_mean_no_further_than_the_honest():
    updates = np.random.default_rng(0).normal(size=(9, 50))
    updates[:2] = updates[2] + 1e-9
    np.testing.assert_allclose(TrimmedMean(2)(updates), naive(TrimmedMean(2), updates))


def test_huge_rows_cost_the_others_no_digits():
    updates = np.random.default_rng(0).normal(size=(9, 50)).astype(np.float32)
    small = MeaMed(2)(np.where(np.arange(9)[:, None] < 2, 50, updates))
    huge = MeaMed(2)(np.where(np.arange(9)[:, None] < 2, 3e38, updates))
    np.testing.assert_array_equal(small, huge)


# -------------------------------------------------------------- parameters, errors


@pytest.mark.parametrize(
    "rule, error, match",
    [
        (Median(5), ValueError, r"Median needs f < n: n=5, f=5"),
        (MeaMed(5), ValueError, r"MeaMed needs f < n: n=5, f=5"),
        (SignMajority(5), ValueError, r"SignMajority needs f < n: n=5, f=5"),
        (SignMajority(step=0.0), ValueError, "step must be > 0"),
        (SignMajority(step="a"), TypeError, "step must be a number"),
        (TrimmedMean(3), ValueError, r"TrimmedMean needs 2\*n_trim < n \(n_trim=3\)"),
        (TrimmedMean(n_trim=-1), ValueError, "n_trim must be >= 0"),
        (Median(-1), ValueError, "n_byzantine must be >= 0"),
        (Median(0.5), ValueError, r"share must be in \[0, 0.5\)"),
        (Median("a"), TypeError, "n_byzantine must be a number"),
    ],
)
def test_bad_parameters(rule, error, match):
    with pytest.raises(error, match=match):
        rule(np.zeros((5, 2)))


def test_values_to_trim_must_be_left_when_faulty_rows_are_gone():
    updates = np.ones((7, 2))
    updates[:2] = np.nan
    with pytest.raises(ValueError, match=r"2\*n_trim < n \(n_trim=3\): n=5, f=0"):
        TrimmedMean(2, n_trim=3)(updates)


# ------------------------------------------------------------------ without each row


class Smallest(OrderAggregator):
    """A rule of somebody else's, which has no closed form here."""

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def _of_sorted(self, ordered, f):
        return ordered[:, f] + 0


@pytest.mark.parametrize("n, f", [(3, 0), (4, 1), (11, 2), (12, 3), (100, 20)])
@pytest.mark.parametrize("kind", ["ties", "normal", "equal"])
@pytest.mark.parametrize(
    "rule", [TrimmedMean, Median, MeaMed, SignMajority, Smallest, Mean]
)
def test_without_each_client_is_the_rule_on_the_others(rule, kind, n, f):
    d = 40 if n == 100 else 1100
    updates = {
        "ties": with_ties(n, d),
        "normal": np.random.default_rng(0).normal(size=(n, d)),
        "equal": np.full((n, d), 0.5),
    }[kind]
    rule = rule(f)
    found = rule.leave_one_out(updates)
    direct = [rule(np.delete(updates, i, axis=0)) for i in range(n)]
    np.testing.assert_allclose(found, direct, rtol=1e-12, atol=1e-13)
    single = rule.leave_one_out(torch.tensor(updates, dtype=torch.float32))
    assert isinstance(single, torch.Tensor) and single.dtype == torch.float32
    np.testing.assert_allclose(single, direct, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [*RULES, Smallest(2)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("value", [*HOSTILE, [np.nan, 3e38], [-np.inf, np.nan]])
def test_without_each_client_where_some_are_faulty(rule, value):
    updates = np.random.default_rng(0).normal(size=(11, 30)).astype(np.float32)
    updates[[3, 7]] = np.reshape(value, (-1, 1))
    updates.flags.writeable = False
    found = rule.leave_one_out(updates)
    direct = [rule(np.delete(updates, i, axis=0)) for i in range(11)]
    np.testing.assert_allclose(found, direct, rtol=1e-5, atol=1e-6)


def test_one_client_less_must_be_enough_for_the_rule():
    with pytest.raises(ValueError, match=r"2\*n_trim < n \(n_trim=2\): n=4, f=2"):
        TrimmedMean(2).leave_one_out(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="f < n: n=0, f=0"):
        Median().leave_one_out(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="more than its f=1"):
        Median(1).leave_one_out(np.array([[np.nan], [np.inf], [0.0], [1.0]]))


def test_a_rule_without_its_method_says_which():
    class Unfinished(OrderAggregator):
        pass

    with pytest.raises(TypeError, match="Unfinished must define _of_sorted"):
        Unfinished()(np.ones((3, 2)))
