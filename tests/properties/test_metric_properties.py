"""Metrics, row keys, budgets and seeds: identities that hold for all input."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties._strategies import LAYOUTS, SEEDS, pictures, tables
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from skpoison.attacks import BackdoorAttack, ColumnTrigger, LabelFlipAttack
from skpoison.audit import defend
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import DataSanitizer
from skpoison.metrics import (
    attack_success_score,
    detection_report,
    feature_mse,
    match_reconstruction,
    psnr,
    ssim,
    trigger_scorer,
    wilson_interval,
)
from skpoison.model_selection import robustness_curve
from skpoison.utils import (
    RandomStreams,
    draw_seed,
    local_torch_seed,
    make_table_encoder,
    n_budget,
    row_keys,
    set_random_states,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@given(
    n=st.integers(1, 10**9),
    share=st.floats(0, 1),
    confidence=st.floats(0.01, 0.9999),
)
def test_wilson_interval_holds_the_share(n, share, confidence):
    wins = int(share * n)
    low, high = wilson_interval(wins, n, confidence=confidence)
    assert 0 <= low <= wins / n <= high <= 1
    wide = wilson_interval(wins, n, confidence=0.5 + confidence / 2)
    assert wide[0] <= low + 1e-12 and wide[1] >= high - 1e-12
    # losses are wins of the other side
    other = wilson_interval(n - wins, n, confidence=confidence)
    np.testing.assert_allclose([1 - other[1], 1 - other[0]], [low, high], atol=1e-9)


@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.floats(-9, 9)),
        min_size=1,
        max_size=30,
    ),
    scored=st.booleans(),
)
def test_detection_report_counts(rows, scored):
    is_poison, is_clean, scores = map(np.array, zip(*rows, strict=True))
    report = detection_report(is_poison, is_clean, scores if scored else None)
    for name in ("precision", "recall"):
        assert np.isnan(report[name]) or 0 <= report[name] <= 1
    assert report.n_removed == (~is_clean).sum()
    if is_poison.any():
        assert report.recall == pytest.approx(
            (is_poison & ~is_clean).sum() / is_poison.sum()
        )
    if scored and is_poison.any() and not is_poison.all():
        mirrored = detection_report(is_poison, is_clean, -scores)
        assert report.auc == pytest.approx(1 - mirrored.auc)


@given(data=pictures(side=12), seed=SEEDS, layout=st.sampled_from(list(LAYOUTS)))
def test_picture_metrics_know_equal_pictures(data, seed, layout):
    X = data[0]
    rng = np.random.RandomState(seed)
    unit = 255 if X.dtype == np.uint8 else 1
    Z = rng.permutation(X.ravel()).reshape(X.shape)
    assert ssim(X, X.copy(), data_range=unit) == pytest.approx(1)
    assert psnr(X, X.copy(), data_range=unit) == np.inf
    given_X = LAYOUTS[layout](X)
    for metric in (psnr, ssim):
        each = metric(given_X, Z, data_range=unit, average=False)
        assert each.shape == (len(X),)
        np.testing.assert_allclose(metric(Z, X, data_range=unit, average=False), each)
        np.testing.assert_allclose(np.mean(each), metric(X, Z, data_range=unit))
    assert (np.abs(ssim(X, Z, data_range=unit, average=False)) <= 1 + 1e-9).all()
    # ten times the error is twenty decibels
    A = X.astype(float) / unit
    near = psnr(A, A + 0.01, data_range=1)
    assert near - psnr(A, A + 0.1, data_range=1) == pytest.approx(20)


@given(seed=SEEDS, n=st.integers(1, 8), d=st.integers(1, 5))
def test_matches_are_the_permutation(seed, n, d):
    rng = np.random.RandomState(seed)
    X = rng.rand(n, d) + np.arange(n)[:, None]
    order = rng.permutation(n)
    found = match_reconstruction(X, X[order] + 1e-3 * rng.rand(n, d))
    assert sorted(found) == list(range(n))
    np.testing.assert_array_equal(X[order][found], X)
    A, B = torch.from_numpy(X), torch.from_numpy(X[order])
    whole = feature_mse(torch.nn.Identity(), A, B)
    assert whole == pytest.approx(((X - X[order]) ** 2).mean())
    assert feature_mse(torch.nn.Identity(), A, A) == 0


_DTYPES = ["float64", "float32", "int64", "int8", "uint8", "bool", "float16"]


@given(
    seed=SEEDS,
    n=st.integers(0, 12),
    d=st.integers(1, 4),
    dtype=st.sampled_from(_DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_rows_are_equal_where_their_keys_are(seed, n, d, dtype, layout):
    rng = np.random.RandomState(seed)
    X = rng.randint(0, 2, (n, d)).astype(dtype)
    keys = row_keys(LAYOUTS[layout](X))
    assert keys.shape == (n,)
    same = (X[:, None] == X[None]).all(2)
    np.testing.assert_array_equal(keys[:, None] == keys[None], same)
    # one row has one key, of whatever type and shape
    np.testing.assert_array_equal(row_keys(X.astype("float32")), keys)
    np.testing.assert_array_equal(row_keys(X.reshape(n, 1, d)), keys)
    np.testing.assert_array_equal(row_keys(X.tolist()) if n else keys, keys)
    np.testing.assert_array_equal(
        row_keys(-1.0 * X.astype(float)) == keys, (X == 0).all(1)
    )


@given(budget=st.floats(0, 1) | st.integers(0, 5000), n=st.integers(1, 5000))
def test_budgets_are_floors(budget, n):
    if isinstance(budget, int) and budget > n:
        with pytest.raises(ValueError, match="budget"):
            n_budget(budget, n)
        return
    found = n_budget(budget, n)
    if isinstance(budget, int):
        assert found == budget
    else:
        assert 0 <= found <= n and budget * n - 1 < found <= budget * n + 1e-9
    assert n_budget(found / n, n) == found


@given(seed=SEEDS, name=st.text(min_size=1, max_size=8))
def test_streams_are_functions_of_seed_and_name(seed, name):
    a, b = RandomStreams(seed), RandomStreams(seed)
    b.numpy(name + "'").rand(9)
    np.testing.assert_array_equal(a.numpy(name).rand(3), b.numpy(name).rand(3))
    assert a.numpy(name).rand() != a.numpy(name + "'").rand()
    assert draw_seed(seed) == seed
    before = torch.get_rng_state()
    with local_torch_seed(seed % 2**31):
        one = torch.rand(3)
    with local_torch_seed(seed % 2**31):
        assert torch.equal(one, torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    models = [DummyClassifier(), DummyClassifier()]
    for model, streams in zip(models, (a, b), strict=True):
        set_random_states(model, streams)
    assert models[0].random_state == models[1].random_state is not None


@given(
    numbers=st.lists(st.none() | st.floats(-9, 9), min_size=2, max_size=8),
    words=st.lists(st.none() | st.sampled_from("abc"), min_size=8, max_size=8),
    index=st.sampled_from([None, 0]),
)
def test_tables_are_encoded_as_finite_numbers(numbers, words, index):
    n = len(numbers)
    X = pd.DataFrame(
        {"n": np.array(numbers, dtype=float), "w": words[:n], "k": [1.0] * n},
        index=None if index is None else [index] * n,
    )
    before = X.copy()
    out = make_table_encoder(X).fit_transform(X)
    out = out.toarray() if hasattr(out, "toarray") else np.asarray(out)
    assert len(out) == n and np.isfinite(out).all()
    pd.testing.assert_frame_equal(X, before)
    # unseen words do no harm
    unseen = X.assign(w="never seen")
    assert len(make_table_encoder(X).fit(X).transform(unseen).shape) == 2


@pytest.mark.slow
@given(
    data=tables(n_classes=2, low=30, high=40),
    budget=st.sampled_from([0, 0.1, 0.3]),
    seed=st.integers(0, 99),
)
def test_attacked_models_score_in_shares(data, budget, seed):
    X, y = data
    trigger = ColumnTrigger([0], values=9.0)
    attack = BackdoorAttack(trigger, budget=budget, target_class=0, random_state=seed)
    model = PoisonedEstimator(attack, GaussianNB()).fit(X, y)
    success = attack_success_score(model, X, y)
    assert 0 <= success <= 1
    assert model.n_features_in_ == X.shape[1] and set(model.predict(X)) <= {0, 1}
    if budget == 0:
        plain = GaussianNB().fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    filtered = FilteredEstimator(DataSanitizer(), GaussianNB())
    for defended in (filtered, defend(GaussianNB(), "label-filter")):
        assert set(defended.fit(X, y).predict(X)) <= {0, 1}
    shown = model.attack_.shown_trigger_
    for kind in ("accuracy", "success", "robust"):
        assert -1 <= trigger_scorer(shown, 0, kind=kind)(model, X, y) <= 1
    curve = robustness_curve(
        LogisticRegression(),
        X,
        y,
        attack=LabelFlipAttack(random_state=seed),
        param_range=[0, budget],
        cv=2,
    )
    scores = np.asarray(curve.clean_score)
    assert scores.shape == (2, 2) and ((scores >= 0) & (scores <= 1)).all()
    if budget == 0:
        np.testing.assert_array_equal(scores[0], scores[1])
