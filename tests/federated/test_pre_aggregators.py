"""Steps before a rule, against naive versions of their definitions."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skpoison.federated import ARC, NNM, Bucketing, Clipping, Krum, TrimmedMean

STEPS = {
    "NNM": NNM(3),
    "Bucketing": Bucketing(s=3, random_state=0),
    "Clipping": Clipping(max_norm=5.0),
    "ARC": ARC(3),
}


def updates(n=13, d=60, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * rng.uniform(0.2, 2, (n, 1))).astype(np.float32)


def test_nnm():
    rows = updates()
    between = ((rows[:, np.newaxis] - rows) ** 2).sum(axis=2)
    for f in (0, 4, 12):
        expected = [rows[np.argsort(b)[: 13 - f]].mean(axis=0) for b in between]
        np.testing.assert_allclose(NNM(f).fit_transform(rows), expected, atol=1e-6)


def test_a_row_is_its_own_neighbour_before_its_copies():
    rows = np.zeros((5, 2), np.float32)
    np.testing.assert_array_equal(NNM(4).transform(rows + 1), rows + 1)


@pytest.mark.parametrize("s, n_rows", [(1, 13), (2, 7), (5, 3), (13, 1), (20, 1)])
def test_bucketing(s, n_rows):
    rows = updates()
    found = Bucketing(s=s, random_state=0).fit_transform(rows)
    assert len(found) == n_rows
    sizes = np.full(n_rows, min(s, 13))
    sizes[-1] = 13 - sizes[:-1].sum()
    # each client is in one group
    np.testing.assert_allclose(sizes @ found, rows.sum(axis=0), rtol=1e-3, atol=1e-4)
    if s == 1:
        order = np.argsort(found[:, 0])
        np.testing.assert_array_equal(found[order], rows[np.argsort(rows[:, 0])])


def test_groups_are_random():
    rows = np.eye(8)
    groups = {
        Bucketing(random_state=seed).transform(rows).tobytes() for seed in range(20)
    }
    assert len(groups) == 20
    rng = np.random.default_rng(0)
    step = Bucketing(random_state=rng)
    assert (step.transform(rows) != step.transform(rows)).any()
    step = Bucketing(random_state=4)
    np.testing.assert_array_equal(step.transform(rows), step.transform(rows))


def test_clipping():
    rows = updates()
    norms = np.linalg.norm(rows, axis=1)
    assert (norms < 5).any() and (norms > 5).any()
    expected = rows * np.minimum(1, 5 / norms)[:, np.newaxis]
    found = Clipping(max_norm=5.0).fit_transform(rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[norms < 5], rows[norms < 5])
    np.testing.assert_array_equal(Clipping().transform(0 * rows), 0)


@pytest.mark.parametrize("f, n_clipped", [(0, 0), (1, 1), (3, 4), (6, 6)])
def test_arc(f, n_clipped):
    rows = updates()
    norms = np.linalg.norm(rows, axis=1)
    bound = np.sort(norms)[12 - n_clipped]
    expected = rows * np.minimum(1, bound / norms)[:, np.newaxis]
    found = ARC(f).fit_transform(rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    changed = np.abs(found - rows).max(axis=1) > 1e-6
    assert changed.sum() == n_clipped
    np.testing.assert_array_equal(ARC(4).transform(0 * rows), 0)


@pytest.mark.parametrize("name", list(STEPS))
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 3e38])
def test_bad_rows(name, value):
    rows, zeroed = updates(), updates()
    rows[[2, 8]], zeroed[[2, 8]] = value, 0
    rows.flags.writeable = False
    step = clone(STEPS[name])
    if np.isfinite(value):
        found = step.transform(rows)
        assert np.isfinite(found).all()
        if name in ("Clipping", "ARC"):  # the others keep what is not their matter
            assert np.linalg.norm(found, axis=1).max() < 30
    else:
        with pytest.warns(UserWarning, match="2 of 13 updates hold NaN or infinity"):
            found = step.transform(rows)
        np.testing.assert_allclose(found, step.transform(zeroed), atol=1e-6)


def test_nnm_keeps_huge_rows_out_of_the_others():
    rows = updates()
    rows[[2, 8]] = 3e38
    left = np.delete(np.arange(13), [2, 8])
    expected = NNM(2).transform(rows[left])
    found = NNM(4).transform(rows)[left]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", list(STEPS))
def test_forms_of_updates(name, monkeypatch):
    from skpoison.federated._aggregators import _matrix

    rows = updates()
    step = clone(STEPS[name])
    expected = step.fit_transform(rows)
    assert expected.dtype == np.float32
    assert step.fit_transform(rows.astype(np.float64)).dtype == np.float64
    found = step.fit_transform(torch.from_numpy(rows))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), expected)
    monkeypatch.setattr(_matrix, "host", lambda array: array)
    found = step.transform(torch.from_numpy(rows))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="expecting 60 features"):
        step.transform(torch.from_numpy(rows[:, :5]))


@pytest.mark.parametrize(
    "step, error, match",
    [
        (NNM(13), ValueError, "NNM needs f < n: n=13, f=13"),
        (ARC(7), ValueError, r"ARC needs 2\*f < n: n=13, f=7"),
        (Clipping(max_norm=0), ValueError, "max_norm must be > 0"),
        (Bucketing(s=0), ValueError, "s must be >= 1"),
        (Bucketing(s=2.0), TypeError, "s must be an int"),
    ],
    ids=["nnm", "arc", "clipping", "bucketing", "bucketing-float"],
)
def test_bad_parameters(step, error, match):
    with pytest.raises(error, match=match):
        step.fit(updates()).transform(updates())


@pytest.mark.parametrize("rule", [Krum(3), TrimmedMean(3)], ids=["Krum", "TrimmedMean"])
def test_plain_pipelines(rule):
    rows = updates()
    pipeline = make_pipeline(ARC(3), NNM(3), rule).fit(rows)
    expected = rule(NNM(3).transform(ARC(3).transform(rows)))
    np.testing.assert_array_equal(pipeline[-1].location_, expected)
    assert set(pipeline.fit_predict(rows)) <= {-1, 1}
