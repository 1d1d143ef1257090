import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpoison.federated import Bulyan, Krum
from skpoison.federated._aggregators._bulyan import select_by_krum


def naive(updates, f, metric="sqeuclidean", theta=None, gamma=None):
    """Return the selected rows and the result, in plain Python."""
    updates = np.asarray(updates, dtype=np.float64)
    n = len(updates)
    theta = n - 2 * f if theta is None else theta
    gamma = theta - 2 * f if gamma is None else gamma
    left, chosen = list(range(n)), []
    while len(chosen) < theta:
        k = max(1, len(left) - f - 2)
        scores = []
        for i in left:
            found = [((updates[i] - updates[j]) ** 2).sum() for j in left if j != i]
            if metric == "euclidean":
                found = np.sqrt(found)
            scores.append(sum(sorted(found)[:k]))
        chosen.append(left.pop(int(np.argmin(scores))))
    location = []
    for values in updates[chosen].T:
        centre = np.median(values)
        nearest = sorted(values, key=lambda x: (abs(x - centre), x))[:gamma]
        location.append(sum(nearest) / gamma)
    return sorted(chosen), np.array(location)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize(
    "n, f, d", [(3, 0, 1), (4, 0, 3), (7, 1, 1), (11, 2, 60), (12, 1, 5), (30, 6, 7)]
)
def test_selection_and_result_are_those_of_plain_python(n, f, d, metric):
    for seed in range(3):
        updates = np.random.default_rng(seed).normal(size=(n, d))
        rule = Bulyan(f, metric=metric).fit(updates)
        chosen, location = naive(updates, f, metric)
        assert rule.selected_.tolist() == chosen
        np.testing.assert_allclose(rule.location_, location, rtol=1e-10, atol=1e-12)


def test_the_metric_changes_the_selection():
    def chosen(metric, seed):
        updates = np.random.default_rng(seed).standard_t(1.5, size=(23, 4))
        return Bulyan(5, metric=metric).fit(updates).selected_.tolist()

    assert any(chosen("sqeuclidean", s) != chosen("euclidean", s) for s in range(20))


@pytest.mark.parametrize("theta, gamma", [(5, 1), (9, 4), (11, 11), (6, None)])
def test_numbers_of_updates_and_values(theta, gamma):
    updates = np.random.default_rng(0).normal(size=(11, 6))
    rule = Bulyan(2, theta=theta, gamma=gamma).fit(updates)
    chosen, location = naive(updates, 2, theta=theta, gamma=gamma or 2)
    assert rule.selected_.tolist() == chosen
    np.testing.assert_allclose(rule.location_, location)


def test_duplicates_and_ties():
    # whole numbers: distances are exact, and of equal scores the first row wins
    for seed in range(5):
        updates = np.random.default_rng(seed).integers(0, 3, (15, 2)).astype(float)
        rule = Bulyan(3).fit(updates)
        chosen, location = naive(updates, 3)
        assert rule.selected_.tolist() == chosen
        np.testing.assert_allclose(rule.location_, location)
    rule.fit(np.ones((15, 4)))
    assert rule.selected_.tolist() == list(range(9))
    np.testing.assert_array_equal(rule.location_, 1)


def test_types_and_an_input_that_stays():
    updates = np.random.default_rng(0).normal(size=(11, 2500)).astype(np.float32)
    before = updates.copy()
    updates.flags.writeable = False
    rule = Bulyan(2)
    expected = rule(updates)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(updates, before)
    tensor = rule(torch.tensor(before))
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), expected)
    np.testing.assert_allclose(
        rule(np.asfortranarray(before.astype(np.float64))), expected, atol=1e-6
    )


@pytest.mark.parametrize(
    "value",
    [np.nan, np.inf, 1e30, 3e38, [np.nan, 3e38, -3e38], [1e30, 1e30, 1.0001e30]],
)
def test_byzantine_rows_cannot_leave_the_honest_range(value):
    updates = np.random.default_rng(0).normal(size=(15, 50)).astype(np.float32)
    updates[:3] = np.reshape(value, (-1, 1))
    honest = updates[3:]
    rule = Bulyan(3).fit(updates)
    n_bad = int((~np.isfinite(updates[:3, 0])).sum())
    assert rule.n_nonfinite_ == n_bad
    assert (rule.location_ >= honest.min(axis=0)).all()
    assert (rule.location_ <= honest.max(axis=0)).all()
    if n_bad == 3:
        np.testing.assert_array_equal(rule.location_, Bulyan(0)(honest))


def test_huge_distances_cost_small_ones_no_digits():
    # colluders near each other and 1e30 off: at the end only their distances to each
    # other count, which are lost if sums are updated by subtraction
    updates = np.random.default_rng(0).normal(size=(23, 20))
    updates[:5] = 10 + np.arange(5)[:, np.newaxis] / 16
    distances = ((updates[:, np.newaxis] - updates) ** 2).sum(axis=2)
    distances[:5, 5:] = distances[5:, :5] = 1e60
    left, chosen = list(range(23)), []
    while len(chosen) < 23:
        k = max(1, len(left) - 7)
        scores = [sorted(distances[i, [j for j in left if j != i]])[:k] for i in left]
        chosen.append(left.pop(int(np.argmin([sum(s) for s in scores]))))
    assert select_by_krum(distances, 23, 5).tolist() == chosen
    assert 2 in chosen[:13]


@pytest.mark.parametrize(
    "rule, error, match",
    [
        (Bulyan(2), ValueError, r"Bulyan needs n >= 4\*f\+3: n=10, f=2"),
        (Bulyan(metric="l1"), ValueError, "metric must be one of"),
        (Bulyan(1, theta=0), ValueError, r"theta must be in \[1, 10\], got 0"),
        (Bulyan(1, theta=11), ValueError, r"theta must be in \[1, 10\], got 11"),
        (Bulyan(1, theta=2.0), TypeError, "theta must be an int"),
        (Bulyan(1, gamma=9), ValueError, r"gamma must be in \[1, 8\], got 9"),
    ],
)
def test_bad_parameters(rule, error, match):
    with pytest.raises(error, match=match):
        rule(np.random.default_rng(0).normal(size=(10, 2)))


@pytest.mark.parametrize("n, f", [(4, 0), (12, 2), (16, 3)])
def test_without_each_client_is_the_rule_on_the_others(n, f):
    updates = np.random.default_rng(0).normal(size=(n, 40))
    rule = Bulyan(f)
    if f:
        updates[0], updates[1] = np.nan, 1e30
    found = rule.leave_one_out(updates)
    direct = [clone(rule)(np.delete(updates, i, axis=0)) for i in range(n)]
    np.testing.assert_allclose(found, direct, rtol=1e-8, atol=1e-10)
    tensor = rule.leave_one_out(torch.tensor(updates))
    np.testing.assert_array_equal(tensor.numpy(), found)
    with pytest.raises(ValueError, match=r"n >= 4\*f\+3"):
        Bulyan(3).leave_one_out(np.zeros((15, 2)))


def test_the_first_pick_is_krums():
    updates = np.random.default_rng(0).normal(size=(15, 40))
    assert Bulyan(3, theta=1).fit(updates).selected_ == Krum(3).fit(updates).selected_
