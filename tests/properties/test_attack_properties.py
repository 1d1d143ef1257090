"""What holds of every attack on training data, whatever the data look like."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties._strategies import (
    FRAMES,
    LABELS,
    LAYOUTS,
    SEEDS,
    SHARES,
    SPARSE,
    as_bytes,
    dense,
    n_allowed,
    pictures,
    polars_frame,
    tables,
)
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags

from skpoison.attacks import (
    Adaptation,
    AllToAllBackdoor,
    BackdoorAttack,
    BackGradientAttack,
    BilevelPoisoningAttack,
    BlendBackdoor,
    BlendTrigger,
    BullseyePolytopeAttack,
    CleanLabelBackdoorAttack,
    ColumnTrigger,
    ConvexPolytopeAttack,
    FeatureCollisionAttack,
    GradientMatchingAttack,
    HiddenTriggerBackdoorAttack,
    InfluenceAttack,
    LabelFlipAttack,
    MetaPoisonAttack,
    PatchTrigger,
    RandomPatchTrigger,
    RegressionPoisoningAttack,
    ReleasePoisonAttack,
    SinusoidBackdoor,
    SinusoidTrigger,
    SleeperAgentAttack,
    WatermarkAttack,
    implicit_gradient,
    step_size_from_tau,
)
from skpoison.models import LinearModel, TorchClassifier

pytestmark = pytest.mark.filterwarnings("ignore")


def _named(*attacks):
    return [
        pytest.param(attack, id=f"{type(attack).__name__}-{i}")
        for i, attack in enumerate(attacks)
    ]


_FLIPS = _named(
    LabelFlipAttack(),
    LabelFlipAttack("pair"),
    BackdoorAttack(),
    BackdoorAttack(mode="append"),
    BlendBackdoor(),
    AllToAllBackdoor(),
)
_MADE = _named(
    BilevelPoisoningAttack(LogisticRegression(), max_iter=1),
    BackGradientAttack(max_iter=1, n_steps=5),
)


def _poison(attack, X, y, budget, seed):
    attack = clone(attack).set_params(budget=budget, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attack.poison(X, y)


def _check_sampler(attack, X, y, budget, seed):
    """Check the contract of a sampler on an ndarray and return its result."""
    data = _poison(attack, X, y, budget, seed)
    again = _poison(attack, X, y, budget, seed)
    np.testing.assert_array_equal(data.X, again.X)
    np.testing.assert_array_equal(data.y, again.y)
    mask = data.poison_mask
    assert mask.dtype == bool and len(mask) == len(data.y) == len(data.X)
    assert mask.sum() <= n_allowed(budget, len(y))
    np.testing.assert_array_equal(np.flatnonzero(mask), data.poison_indices)
    clean = data.sample_indices[~mask]
    assert np.asarray(data.X)[~mask].tobytes() == X[clean].tobytes()
    assert (np.asarray(data.y)[~mask] == y[clean]).all()
    if n_allowed(budget, len(y)) == 0:
        assert np.asarray(data.X).tobytes() == np.ascontiguousarray(X).tobytes()
        assert (np.asarray(data.y) == y).all()
    return data


@pytest.mark.slow
@pytest.mark.parametrize("attack", _FLIPS + _MADE)
@given(
    data=tables(),
    budget=SHARES,
    seed=SEEDS,
    layout=st.sampled_from(list(LAYOUTS)),
    labels=st.sampled_from(list(LABELS)),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_samplers_keep_budget_rows_labels_and_input(
    attack, data, budget, seed, layout, labels, dtype
):
    X, y = data[0].astype(dtype), LABELS[labels](data[1])
    given_X = LAYOUTS[layout](X)
    before = as_bytes(given_X), y.tolist()
    found = _check_sampler(attack, given_X, y, budget, seed)
    assert (as_bytes(given_X), y.tolist()) == before
    assert set(found.y) <= set(y) and np.asarray(found.y).dtype.kind == y.dtype.kind
    assert found.X.dtype == X.dtype and found.X.shape[1:] == X.shape[1:]
    # the layout in memory is no data
    plain = _poison(attack, X, y, budget, seed)
    np.testing.assert_array_equal(found.X, plain.X)
    np.testing.assert_array_equal(found.y, plain.y)


@pytest.mark.parametrize("attack", _FLIPS)
@given(
    data=tables(),
    budget=SHARES,
    seed=SEEDS,
    dtype=st.sampled_from(["int64", "int8", "uint8", "bool", "float16", "object"]),
)
def test_samplers_keep_types(attack, data, budget, seed, dtype):
    X = np.rint(3 * data[0]).astype(dtype)
    found = _poison(attack, X, data[1], budget, seed)
    clean = ~found.poison_mask
    assert found.X.dtype == X.dtype and (~clean).sum() <= n_allowed(budget, len(X))
    np.testing.assert_array_equal(found.X[clean], X[found.sample_indices[clean]])


@pytest.mark.parametrize("attack", _FLIPS)
@given(
    data=tables(),
    budget=SHARES,
    seed=SEEDS,
    kind=st.sampled_from([*FRAMES, *SPARSE, "polars"]),
)
def test_samplers_keep_containers(attack, data, budget, seed, kind):
    X, y = data
    if kind in SPARSE and not get_tags(attack).input_tags.sparse:
        kind = "frame"
    make = {**FRAMES, **SPARSE, "polars": polars_frame}[kind]
    given_X = make(X)
    before = as_bytes(given_X)
    found = _poison(attack, given_X, y, budget, seed)
    plain = _poison(attack, X, y, budget, seed)
    assert type(found.X) is type(given_X) and as_bytes(given_X) == before
    np.testing.assert_array_equal(dense(found.X), plain.X)
    np.testing.assert_array_equal(np.asarray(found.y), plain.y)
    if hasattr(given_X, "columns"):
        assert list(found.X.columns) == list(given_X.columns)


@pytest.mark.parametrize("attack", _FLIPS)
@given(
    data=tables(), budgets=st.lists(st.floats(0, 1), min_size=2, max_size=2), seed=SEEDS
)
def test_rows_of_a_smaller_budget_are_among_those_of_a_larger(
    attack, data, budgets, seed
):
    small, large = (_poison(attack, *data, b, seed) for b in sorted(budgets))
    rows, more = (set(d.sample_indices[d.poison_indices]) for d in (small, large))
    assert rows <= more


@given(data=tables(), budget=SHARES, seed=SEEDS)
def test_regression_attack_keeps_budget_and_rows(data, budget, seed):
    X, codes = data
    y = X.sum(axis=1) + codes
    attack = RegressionPoisoningAttack(max_iter=1)
    found = _check_sampler(attack, X, y, budget, seed)
    assert np.isfinite(found.y).all() and np.isfinite(found.X).all()
    assert (found.X >= X.min(0) - 1e-12).all() and (found.X <= X.max(0) + 1e-12).all()


_NET = TorchClassifier(LinearModel, max_epochs=1, device="cpu", random_state=0)
_FAST = {"surrogate": _NET, "max_iter": 2}
_PERTURBATIONS = _named(
    WatermarkAttack(),
    InfluenceAttack(max_iter=1),
    FeatureCollisionAttack(**_FAST, optimizer="sign_adam"),
    ConvexPolytopeAttack(**_FAST),
    BullseyePolytopeAttack(**_FAST),
    GradientMatchingAttack(**_FAST, n_restarts=1),
    GradientMatchingAttack(
        **_FAST, n_restarts=1, adaptation=Adaptation(gradient_clip=1.0)
    ),
    MetaPoisonAttack(**_FAST, n_ensemble=1),
    ReleasePoisonAttack(**_FAST),
    ReleasePoisonAttack("random", surrogate=_NET),
    SleeperAgentAttack(**_FAST),
    HiddenTriggerBackdoorAttack(**_FAST),
    CleanLabelBackdoorAttack(surrogate=_NET, max_iter=1),
    SinusoidBackdoor(),
)


@pytest.mark.parametrize("attack", _PERTURBATIONS)
@given(
    data=pictures(),
    budget=st.sampled_from([0, 0.1, 0.29, 0.5, 3]),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.sampled_from([2 / 255, 0.05, 0.3]),
    bounds=st.sampled_from(["data", "box", None]),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=SEEDS,
)
def test_perturbations_stay_in_ball_box_and_budget(
    attack, data, budget, norm, eps, bounds, layout, seed
):
    X, y = data
    unit = 255 if X.dtype == np.uint8 else 1
    box = (0, unit) if bounds == "box" else bounds
    patched = isinstance(attack, CleanLabelBackdoorAttack | SinusoidBackdoor)
    params = {"budget": budget, "random_state": seed}
    if not patched:
        params.update(eps=eps * unit, norm=norm, bounds=box)
    attack = clone(attack).set_params(**params)
    given_X = LAYOUTS[layout](X)
    before = as_bytes(given_X)
    out = attack.fit(given_X, y).transform(given_X)
    assert as_bytes(given_X) == before
    assert out.dtype == X.dtype and out.shape == X.shape and np.isfinite(out).all()
    assert attack.n_poisoned_ <= n_allowed(budget, len(X))
    mask = np.zeros(len(X), dtype=bool)
    mask[attack.poison_indices_] = True
    np.testing.assert_array_equal(mask, attack.poison_mask_)
    assert out[~mask].tobytes() == X[~mask].tobytes()
    np.testing.assert_array_equal(
        clone(attack).fit_transform(np.ascontiguousarray(X), y), out
    )
    foreign = np.flip(X, axis=-1) if unit == 255 else X + 0.001
    hit = np.isin(_keys(foreign), _keys(X))
    assert attack.transform(foreign)[~hit].tobytes() == foreign[~hit].tobytes()
    if patched:
        return
    delta = (out.astype(float) - X).reshape(len(X), -1)
    size = np.abs(delta).max(1) if norm == "linf" else np.sqrt((delta**2).sum(1))
    slack = 0 if unit == 255 else 1e-6
    assert (size <= eps * unit * (1 + 1e-6) + slack).all(), size.max()
    if bounds == "data":
        assert (out >= X.min(0) - slack).all() and (out <= X.max(0) + slack).all()
    elif bounds == "box":
        assert out.min() >= 0 and out.max() <= unit


def _keys(X):
    return [row.tobytes() for row in X]


_TRIGGERS = [
    PatchTrigger(),
    PatchTrigger(size=2, value=0.5, position="top_left"),
    RandomPatchTrigger(),
    BlendTrigger(),
    SinusoidTrigger(),
]


@pytest.mark.parametrize("trigger", _TRIGGERS, ids=lambda t: type(t).__name__)
@given(data=pictures(), layout=st.sampled_from(list(LAYOUTS)))
def test_triggers_are_functions_of_a_row(trigger, data, layout):
    X = data[0]
    given_X = LAYOUTS[layout](X)
    before = as_bytes(given_X)
    trigger = clone(trigger).fit(given_X)
    out = trigger.apply(given_X)
    assert as_bytes(given_X) == before
    assert out.dtype == X.dtype and out.shape == X.shape and np.isfinite(out).all()
    if isinstance(trigger, RandomPatchTrigger):
        return  # its place is drawn anew for each row
    # batch and order don't matter to one that is fixed
    order = np.arange(len(X))[::-1]
    np.testing.assert_array_equal(trigger.apply(X[order]), out[order])
    if isinstance(trigger, PatchTrigger):
        np.testing.assert_array_equal(trigger.apply(out), out)


@given(data=tables(), kind=st.sampled_from(["frame", "odd-index", "polars", "array"]))
def test_column_triggers_put_values_in_columns_alone(data, kind):
    X = data[0]
    make = {**FRAMES, "polars": polars_frame, "array": np.asarray}[kind]
    trigger = ColumnTrigger([1], values=0.5)
    out = dense(trigger.fit(make(X)).apply(make(X)))
    np.testing.assert_array_equal(out[:, 1], 0.5)
    rest = np.delete(np.arange(X.shape[1]), 1)
    np.testing.assert_array_equal(out[:, rest], X[:, rest])


@given(data=tables(n_classes=2), layout=st.sampled_from(list(LAYOUTS)))
def test_gradients_follow_the_rows(data, layout):
    X, y = data
    val = slice(None, None, 3)
    model = LogisticRegression()
    plain = implicit_gradient(model, X, y, X[val], y[val])
    order = np.arange(len(X))[::-1]
    moved = implicit_gradient(
        model, LAYOUTS[layout](X[order]), y[order], X[val], y[val]
    )
    np.testing.assert_allclose(moved.X, plain.X[order], atol=1e-8)
    np.testing.assert_allclose(moved.value, plain.value, rtol=1e-8)
    # a row that weighs nothing moves nothing
    weight = np.ones(len(X))
    weight[0] = 0
    silent = implicit_gradient(model, X, y, X[val], y[val], sample_weight=weight)
    np.testing.assert_array_equal(silent.X[0], 0)


@given(
    tau=st.floats(1e-4, 1),
    std=st.floats(1e-3, 10),
    eps=st.floats(1e-3, 1),
    factor=st.floats(1.1, 10),
)
def test_step_size_is_linear_in_tau(tau, std, eps, factor):
    step = step_size_from_tau(tau, std, eps)
    assert 0 < step < np.inf
    assert step_size_from_tau(factor * tau, std, eps) == pytest.approx(factor * step)
