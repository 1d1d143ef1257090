"""What a server does with any rule, pipelines on one matrix of inner products."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.federated import (
    ARC,
    CAF,
    MDA,
    NNM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    Clipping,
    DnC,
    FLTrust,
    FoolsGold,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    MoNNA,
    MultiKrum,
    NormClipping,
    TrimmedMean,
    aggregate,
)
from skpoison.federated._aggregators import _base
from skpoison.federated._aggregators._server_rule import ServerRule

RULES = {
    type(rule).__name__: rule
    for rule in [
        Mean(),
        Krum(),
        MultiKrum(),
        MDA(),
        CAF(),
        MoNNA(idx=5),
        GeometricMedian(),
        CenteredClipping(radius=2.0),
        FLTrust(),
        NormClipping(),
        DnC(random_state=0),
        TrimmedMean(),
        Median(),
        Bulyan(),
        FoolsGold(),
    ]
}
STEPS = {
    "NNM": [NNM()],
    "Bucketing": [Bucketing(random_state=3)],
    "Clipping": [Clipping(max_norm=6.0)],
    "ARC": [ARC()],
    "ARC-Bucketing-NNM": [ARC(), Bucketing(random_state=3), NNM()],
}
F = 2


def updates(n=30, d=70, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * rng.uniform(0.5, 1.5, (n, 1)) + 0.3
    rows[:F] -= 2
    return rows.astype(np.float32)


def root(rule, d=70):
    return {"root_update": np.full(d, 0.3)} if rule.needs_root_update else {}


def step_by_step(steps, rule, rows):
    for step in steps:
        step = clone(step)
        rows = step.set_params(
            **{k: F for k in step.get_params() if k == "n_byzantine"}
        ).fit_transform(rows)
    return clone(rule).set_params(n_byzantine=F)(rows, **root(rule))


# behind NNM many pairs of rows are equally far apart, up to rounding: which subset of
# them is the closest is not defined
PAIRS = [
    (name, steps)
    for name in RULES
    for steps in STEPS
    if name != "MDA" or "NNM" not in steps
]


@pytest.mark.parametrize("name, steps", PAIRS)
def test_a_pipeline_is_what_its_steps_are(name, steps):
    rows, rule = updates(), RULES[name]
    before = rows.copy()
    pipeline = make_pipeline(*STEPS[steps], rule)
    found = aggregate(rows, pipeline, F, **root(rule))
    expected = step_by_step(STEPS[steps], rule, rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max() * 4)
    np.testing.assert_array_equal(rows, before)
    assert rule.n_byzantine is None and not hasattr(rule, "location_")


@pytest.mark.parametrize("name", ["Krum", "GeometricMedian", "CAF", "CenteredClipping"])
def test_a_pipeline_reads_the_updates_twice(name, monkeypatch):
    """For one matrix of inner products and one weighted sum; no row is formed."""
    calls = []
    for function in ("gram", "combine"):
        plain = getattr(_base, function)

        def counted(*args, plain=plain, function=function, **kwargs):
            result = plain(*args, **kwargs)
            calls.append((function, len(np.shape(result[0]))))
            return result

        monkeypatch.setattr(_base, function, counted)
    aggregate(updates(), make_pipeline(ARC(), NNM(), RULES[name]), F)
    assert calls == [("gram", 1), ("combine", 1)]


@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_alone(name):
    rows, rule = updates(), RULES[name]
    server = ServerRule(rule)
    assert server.needs_root_update == (name == "FLTrust")
    server.check(30, F)
    found = server(rows, F, **root(rule))
    expected = clone(rule).set_params(n_byzantine=F).fit(rows, **root(rule))
    np.testing.assert_array_equal(found, expected.location_)
    np.testing.assert_array_equal(server.selected_, expected.selected_)
    assert server.rule.n_byzantine == F and server.n_nonfinite_ == 0


def test_none_is_the_mean_and_a_callable_is_called():
    rows = updates()
    np.testing.assert_array_equal(aggregate(rows), Mean()(rows))
    server = ServerRule(lambda rows: np.median(rows, axis=0))
    server.check(1, 5)
    np.testing.assert_array_equal(server(rows, F), np.median(rows, axis=0))
    assert server.selected_ is None and not server.needs_root_update
    tensor = torch.from_numpy(rows)
    found = aggregate(tensor, lambda rows: rows.mean(dim=0))
    assert isinstance(found, torch.Tensor)


# -------------------------------------------------------------------- n_byzantine


def test_n_byzantine_is_filled_in_where_it_is_none():
    pipeline = make_pipeline(ARC(1), Bucketing(), NNM(), Krum(metric="euclidean"))
    server = ServerRule(pipeline)
    for f in (2, 5):
        server(updates(), f)
        steps = [step for _, step in server.rule.steps]
        assert [steps[0].n_byzantine, steps[2].n_byzantine] == [1, f]
        assert steps[3].n_byzantine == f
    assert pipeline[-1].n_byzantine is None


def test_a_share_is_one_of_the_clients_also_behind_buckets():
    for own, given in ((0.2, None), (None, 0.2)):
        server = ServerRule(make_pipeline(Bucketing(), Krum(own)))
        server(updates(), given)
        assert server.rule[-1].n_byzantine == 6


def test_the_condition_is_checked_early():
    server = ServerRule(make_pipeline(Bucketing(s=2), Krum()))
    server.check(30, 6)
    with pytest.raises(ValueError, match=r"Krum needs n >= 2\*f\+3: n=15, f=7"):
        server.check(30, 7)
    with pytest.raises(ValueError, match=r"Krum needs n >= 2\*f\+3: n=15, f=7"):
        server(updates(), 7)
    with pytest.raises(ValueError, match=r"ARC needs 2\*f < n: n=30, f=15"):
        ServerRule(make_pipeline(ARC(), Mean())).check(30, 15)
    with pytest.raises(ValueError, match=r"Krum needs n >= 2\*f\+3: n=30, f=14"):
        ServerRule(Krum()).check(30, 14)


# -------------------------------------------------------------------- faulty rows


@pytest.mark.filterwarnings("ignore:FoolsGold takes all clients for one")
@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("value", [np.nan, 1e30, 3e38])
def test_faulty_rows_behind_a_step(name, value):
    """Not finite: zero rows. Huge: bounded, as the step and the rule together say."""
    rows, zeroed, rule = updates(), updates(), RULES[name]
    rows[:F], zeroed[:F] = value, 0
    server = ServerRule(make_pipeline(NNM(), rule))
    found = server(rows, F, **root(rule))
    assert np.isfinite(found).all()
    if np.isnan(value):
        assert server.n_nonfinite_ == F
        expected = aggregate(zeroed, make_pipeline(NNM(), rule), F, **root(rule))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    elif name not in ("Mean", "NormClipping", "FLTrust", "FoolsGold"):
        assert np.linalg.norm(found) < 4 * np.linalg.norm(rows[F:], axis=1).max()


@pytest.mark.parametrize("name", ["Krum", "TrimmedMean"])
def test_too_many_faulty_rows(name):
    rows = updates()
    rows[:3] = np.nan
    for rule in (RULES[name], make_pipeline(NNM(), RULES[name])):
        with pytest.raises(ValueError, match=f"{name} got NaN.* in 3 of n=30"):
            aggregate(rows, rule, F)


def test_rows_that_counted():
    rows = updates()
    rows[0] = np.nan
    server = ServerRule(make_pipeline(NNM(), Krum()))
    found = server(rows, F)
    assert len(server.selected_) in (27, 28) and 0 not in server.selected_
    share = 1 / 28
    np.testing.assert_allclose(
        found, share * rows[server.selected_].sum(axis=0), atol=1e-5
    )


# ---------------------------------------------------------------- leaving one out


@pytest.mark.parametrize(
    "name, steps",
    [(name, None) for name in RULES] + [p for p in PAIRS if p[1] != "Clipping"],
)
def test_without_each_client_in_turn(name, steps):
    rows, rule = updates(24), RULES[name]
    rows[1] = np.nan
    if steps:
        rule = make_pipeline(*STEPS[steps], rule)
    server = ServerRule(rule)
    given = root(RULES[name])
    if name == "FoolsGold" and not steps:
        with pytest.raises(ValueError, match="knows clients by their row"):
            server.leave_one_out(rows, F)
        return
    found = server.leave_one_out(rows, F, **given)
    assert found.shape == (24, 70) and found.dtype == np.float32
    for i in range(0, 24, 3):
        expected = aggregate(np.delete(rows, i, axis=0), rule, F, **given)
        np.testing.assert_allclose(found[i], expected, atol=2e-5)


def test_without_each_client_for_a_callable():
    rows = updates(8)
    for form in (rows, torch.from_numpy(rows)):
        found = ServerRule(lambda rows: rows.sum(0)).leave_one_out(form, F)
        assert type(found) is type(form)
        np.testing.assert_allclose(
            np.asarray(found), rows.sum(axis=0) - rows, atol=1e-5
        )


def test_a_share_is_one_of_all_clients_when_each_is_left_out():
    rows = updates(11)  # 0.23 of 11 is 3, of 10 only 2
    rule = make_pipeline(NNM(), Median())
    found = ServerRule(rule).leave_one_out(rows, 0.23)
    np.testing.assert_array_equal(found, ServerRule(rule).leave_one_out(rows, 3))
    assert (found != ServerRule(rule).leave_one_out(rows, 2)).any()


def test_leaving_out_changes_no_memory():
    rows, later = updates(20), updates(20, seed=1)
    first = make_pipeline(NNM(), CenteredClipping(radius=1.0))
    second = ServerRule(first)
    first = ServerRule(first)
    first(rows, F), second(rows, F)
    second.leave_one_out(later, F)
    np.testing.assert_array_equal(first(later, F), second(later, F))


# ------------------------------------------------------------------------- rounds


@pytest.mark.parametrize("steps", [[], [NNM()]], ids=["alone", "pipeline"])
def test_rules_that_remember(steps):
    rule = CenteredClipping(radius=1.0)
    server = ServerRule(make_pipeline(*steps, rule) if steps else rule)
    rows = updates()
    first = server(rows, F)
    second = server(rows, F)
    assert (first != second).any()
    loaded = pickle.loads(pickle.dumps(server))
    np.testing.assert_array_equal(loaded(rows, F), server(rows, F))
    np.testing.assert_array_equal(server.reset()(rows, F), first)
    np.testing.assert_array_equal(server(rows, F), second)


def test_each_round_has_its_own_groups():
    rows = updates()
    pipeline = make_pipeline(Bucketing(s=3, random_state=0), Krum())
    server = ServerRule(pipeline)
    rounds = [server(rows, F) for _ in range(4)]
    assert len({found.tobytes() for found in rounds}) == 4
    np.testing.assert_array_equal(rounds[0], aggregate(rows, pipeline, F))
    server.reset()
    for found in rounds:  # one seed says all of them
        np.testing.assert_array_equal(server(rows, F), found)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "rule, match",
    [
        (Pipeline([("s", StandardScaler()), ("k", Krum())]), "step 's' must be a pre-"),
        (Pipeline([("n", NNM()), ("c", Clipping())]), "last step 'c' must be an agg"),
        (Pipeline([("k", Krum()), ("n", Krum())]), "step 'k' must be a pre-"),
        (NNM(), "aggregator must be an aggregator, a Pipeline"),
        ("krum", "aggregator must be an aggregator, a Pipeline"),
    ],
    ids=["scaler", "no-rule", "two-rules", "step", "name"],
)
def test_bad_rules(rule, match):
    with pytest.raises(TypeError, match=match):
        ServerRule(rule)


def test_a_callable_of_another_shape():
    with pytest.raises(ValueError, match=r"one update of shape \(70,\), got ndarray"):
        aggregate(updates(), lambda rows: rows[:, :5].sum(axis=0))
    with pytest.raises(ValueError, match="got float32 of shape"):
        aggregate(updates(), lambda rows: rows.sum())


@pytest.mark.parametrize("rule", [None, make_pipeline(NNM(), Krum())])
def test_bad_updates(rule):
    with pytest.raises(ValueError, match="2D"):
        aggregate(np.zeros(5), rule)
    with pytest.raises(ValueError, match="n=0"):
        aggregate(np.zeros((0, 5)), rule)


def test_steps_that_are_passed_by():
    rows = updates()
    pipeline = Pipeline(
        [("a", None), ("b", "passthrough"), ("n", NNM()), ("k", Krum())]
    )
    expected = aggregate(rows, make_pipeline(NNM(), Krum()), F)
    np.testing.assert_array_equal(aggregate(rows, pipeline, F), expected)
