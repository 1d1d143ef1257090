"""Defended learners: functions of data and seed, with certificates that hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from properties._strategies import LABELS, LAYOUTS, SEEDS, as_bytes, pictures, tables
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB

from skpoison.defenses import (
    ABLClassifier,
    AdversarialPoison,
    AdversarialPoisonClassifier,
    AugmentedClassifier,
    Compose,
    CutMix,
    CutMixClassifier,
    Cutout,
    CutoutClassifier,
    DeepPartitionAggregationClassifier,
    DPInstaHideClassifier,
    DPSGDClassifier,
    EPICClassifier,
    FinePruning,
    GradientShapingClassifier,
    InstaHideRelease,
    LabelFlipSmoothingClassifier,
    MaxUp,
    MaxUpClassifier,
    Mixup,
    MixupClassifier,
    NeuralCleanse,
    Noise,
    NoiseClassifier,
    SanitizedSVMBound,
    TRIMRegressor,
)
from skpoison.evasion import AdversarialClassifier
from skpoison.models import ConvNet, LinearModel, TorchClassifier, TorchRegressor

pytestmark = pytest.mark.filterwarnings("ignore")

_FAST = {"device": "cpu", "max_epochs": 3, "batch_size": 8, "random_state": 0}
_NETS = [
    TorchClassifier(LinearModel, **_FAST),
    AugmentedClassifier(augmentation=Compose([Mixup(), Noise()]), **_FAST),
    MixupClassifier(n_mix=3, **_FAST),
    CutMixClassifier(**_FAST),
    CutoutClassifier(**_FAST),
    MaxUpClassifier(warmup_epochs=1, n_copies=2, **_FAST),
    NoiseClassifier(**_FAST),
    AdversarialPoisonClassifier(max_iter=1, **_FAST),
    DPInstaHideClassifier(**_FAST),
    DPSGDClassifier(**_FAST),
    GradientShapingClassifier(**_FAST),
    EPICClassifier(start=1, every=1, **_FAST),
    ABLClassifier(tuning_epochs=1, unlearn_epochs=1, **_FAST),
    AdversarialClassifier(max_iter=1, **_FAST),
    FinePruning(TorchClassifier(**_FAST), finetune_epochs=1, random_state=0),
    NeuralCleanse(
        TorchClassifier(**_FAST), max_iter=2, finetune_epochs=1, random_state=0
    ),
]


@pytest.mark.parametrize("model", _NETS, ids=lambda m: type(m).__name__)
@settings(max_examples=3)
@given(
    data=pictures(),
    labels=st.sampled_from(["text", "negative", "bool"]),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_networks_are_functions_of_data_and_seed(model, data, labels, layout):
    X, y = data[0], LABELS[labels](data[1])
    given_X = LAYOUTS[layout](X)
    before = as_bytes(given_X)
    state = torch.get_rng_state()
    one = clone(model).fit(given_X, y)
    proba = one.predict_proba(given_X)
    assert as_bytes(given_X) == before and torch.equal(torch.get_rng_state(), state)
    assert proba.shape == (len(X), len(set(y)))
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    assert set(one.predict(X)) <= set(y)
    np.testing.assert_array_equal(clone(model).fit(X, y).predict_proba(X), proba)


@given(data=tables(), seed=st.integers(0, 99))
def test_regressors_return_finite_numbers(data, seed):
    X, codes = data
    model = TorchRegressor(LinearModel, **{**_FAST, "random_state": seed})
    found = model.fit(X, X.sum(1) + codes).predict(X)
    assert found.shape == (len(X),) and np.isfinite(found).all()


_HOOKS = [
    Mixup(),
    Mixup(3, weights="uniform"),
    CutMix(),
    Cutout(),
    Noise(scale=0.1),
    MaxUp(n_copies=2),
    AdversarialPoison(max_iter=1),
]


@pytest.mark.parametrize("hook", _HOOKS, ids=lambda h: type(h).__name__)
@settings(max_examples=2)
@given(data=pictures(), seed=st.integers(0, 99))
def test_hooks_are_checked_and_train(hook, data, seed):
    model = AugmentedClassifier(
        ConvNet, augmentation=hook, module__channels=(2,), **_FAST
    ).set_params(random_state=seed)
    assert np.isfinite(model.fit(*data).predict_proba(data[0])).all()


@given(data=tables(n_classes=2), seed=SEEDS, drop=st.integers(0, 17))
def test_partition_certificates_hold(data, seed, drop):
    X, y = data
    model = DeepPartitionAggregationClassifier(GaussianNB(), n_partitions=5)
    labels, radius = clone(model).fit(X, y).certify(X)
    order = np.random.RandomState(seed).permutation(len(X))
    again = clone(model).fit(X[order], y[order])
    np.testing.assert_array_equal(again.predict(X), labels)
    sure = radius >= 1
    flipped = y.copy()
    flipped[drop] = 1 - flipped[drop]
    for X_bad, y_bad in (
        (np.delete(X, drop, 0), np.delete(y, drop)),
        (X, flipped),
        (np.r_[X, X[drop : drop + 1] + 0.1], np.r_[y, 0]),
    ):
        found = clone(model).fit(X_bad, y_bad).predict(X)
        np.testing.assert_array_equal(found[sure], labels[sure])


@given(data=tables(n_classes=2), seed=st.integers(0, 99))
def test_smoothing_radii_are_counts(data, seed):
    X, y = data
    model = LabelFlipSmoothingClassifier(n_draws=50, random_state=seed).fit(X, y)
    labels, radius = model.certify(X)
    assert set(labels) <= set(y) and radius.dtype.kind == "i"
    assert ((radius >= -1) & (radius <= len(y))).all()
    lax = LabelFlipSmoothingClassifier(n_draws=50, random_state=seed, confidence=0.6)
    assert (lax.fit(X, y).certify(X)[1] >= radius).all()


@settings(max_examples=3)
@given(data=tables(n_classes=2))
def test_bounds_of_sanitized_learners_lie_above_attacks(data):
    X, y = data
    bound = SanitizedSVMBound((0, 0.1, 0.3), max_iter=60, burn_in=10).fit(X, y)
    assert (bound.gaps_ >= -1e-6).all()
    for epsilon, rows in zip(bound.epsilons_, bound.X_attack_, strict=True):
        assert len(rows) <= epsilon * len(X) + 1e-9


@given(
    data=tables(), share=st.sampled_from([0.0, 0.1, 0.3]), scale=st.sampled_from([1, 8])
)
def test_trimmed_loss_falls(data, share, scale):
    X, codes = data
    y = X.sum(1) + 0.1 * codes
    model = TRIMRegressor(
        Ridge(1e-6), contamination=share, n_restarts=2, random_state=0
    )
    found = clone(model).fit(X, scale * y)
    assert found.inlier_mask_.sum() >= (1 - share) * len(X) - 1
    assert (np.diff(found.loss_curve_) <= 1e-9 * scale**2).all()
    assert found.trimmed_loss_ >= 0


@given(data=tables(n_classes=2), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_released_rows_are_means_with_noise(data, k, seed):
    X, y = data
    release = InstaHideRelease(
        k, noise_scale=1e-12, bounds=(0, 1), clip_output=False, random_state=seed
    )
    X_out, y_out = release.fit_resample(X, y)
    assert X_out.shape[1:] == X.shape[1:] and len(X_out) == len(y_out)
    assert set(y_out) <= set(y) and release.epsilon_ > 0
    assert (X_out >= X.min(0) - 1e-6).all() and (X_out <= X.max(0) + 1e-6).all()
    np.testing.assert_allclose(release.Y_released_.sum(1), 1, atol=1e-6)
