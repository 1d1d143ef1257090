"""Classifiers that train with batch hooks."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from skpoison.attacks import BackdoorAttack, PatchTrigger
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import (
    AugmentedClassifier,
    Compose,
    CutMix,
    CutMixClassifier,
    Cutout,
    CutoutClassifier,
    LabelIssueDetector,
    MaxUp,
    MaxUpClassifier,
    Mixup,
    MixupClassifier,
    Noise,
    NoiseClassifier,
)
from skpoison.models import TorchClassifier, fit_together
from skpoison.models._net import BatchContext
from skpoison.utils import RandomStreams

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
SMALL = X[:130], Y[:130]
FAST = {"max_epochs": 3, "device": "cpu", "random_state": 0}
#: A classifier, one of its own parameters with two values, and the hook it makes.
KINDS = [
    (AugmentedClassifier, "augmentation", ["cutmix", Noise()], CutMix()),
    (AugmentedClassifier, "augmentation", [["mixup", Noise()], "maxup"],
     Compose([Mixup(), Noise()])),
    (MixupClassifier, "n_mix", [3, 4], Mixup(3)),
    (CutMixClassifier, "prob", [0.5, 1.0], CutMix(prob=0.5)),
    (CutoutClassifier, "size", [3, 0.5], Cutout(3)),
    (MaxUpClassifier, "n_copies", [2, 3], MaxUp(Cutout(), n_copies=2)),
    (NoiseClassifier, "noise", ["laplace", "uniform"], Noise("laplace")),
]  # fmt: skip
each_kind = pytest.mark.parametrize(
    "kind, name, values, hook", KINDS, ids=lambda value: getattr(value, "__name__", "")
)


def make(kind, **params):
    if kind is MaxUpClassifier:
        params = {"warmup_epochs": 1, **params}
    return kind(**{**FAST, **params})


@pytest.mark.slow
@pytest.mark.parametrize("images", [False, True])
@each_kind
def test_learns_digits(kind, name, values, hook, images):
    train = X.reshape(-1, 1, 8, 8) if images else X
    model = make(kind, max_epochs=8, **{name: values[0]}).fit(train[:1200], Y[:1200])
    assert model.score(train[1200:], Y[1200:]) > 0.85
    assert type(model.module_).__name__ == ("ConvNet" if images else "MLP")
    proba = model.predict_proba(train[:9])
    np.testing.assert_array_equal(proba, model.predict_proba(train[:9]))


@each_kind
def test_input_shape_makes_images_of_rows(kind, name, values, hook):
    flat = make(kind, input_shape=(1, 8, 8), **{name: values[0]}).fit(*SMALL)
    images = make(kind, **{name: values[0]}).fit(X[:130].reshape(-1, 1, 8, 8), Y[:130])
    np.testing.assert_array_equal(
        flat.predict_proba(X), images.predict_proba(X.reshape(-1, 1, 8, 8))
    )


@each_kind
def test_seeds_clones_and_pickles(kind, name, values, hook):
    model = make(kind, **{name: values[0]})
    copies = [clone(model), pickle.loads(pickle.dumps(model)), model]
    state = torch.get_rng_state()
    expected = model.fit(*SMALL).predict_proba(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.net_.hook_ is None and model.net_.context_ is None
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.predict_proba(X), expected)
    for copy in copies:
        np.testing.assert_array_equal(copy.fit(*SMALL).predict_proba(X), expected)
    for other in ({"random_state": 1}, {name: values[1]}):
        proba = clone(model).set_params(**other).fit(*SMALL).predict_proba(X)
        assert np.abs(proba - expected).max() > 1e-4
    plain = TorchClassifier(**FAST).fit(*SMALL)
    assert np.abs(plain.predict_proba(X) - expected).max() > 1e-4


@each_kind
def test_grid_search(kind, name, values, hook):
    model = make_pipeline(StandardScaler(), make(kind))
    step = kind.__name__.lower()
    grid = {f"{step}__{name}": values, f"{step}__module__hidden": [(4,), (8,)]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(*SMALL)
    assert len({*search.cv_results_["mean_test_score"]}) > 1


@each_kind
def test_several_at_once_as_one_by_one(kind, name, values, hook):
    models = [make(kind, **{name: values[0], "random_state": seed}) for seed in (0, 1)]
    together = fit_together(models, [SMALL[0]] * 2, [SMALL[1]] * 2)
    for one, alone in zip(together, models, strict=True):
        proba = alone.fit(*SMALL).predict_proba(X)
        np.testing.assert_allclose(one.predict_proba(X), proba, atol=1e-4)


@pytest.mark.slow
@each_kind
def test_behind_an_attack_and_a_filter(kind, name, values, hook):
    images = X[:300].reshape(-1, 1, 8, 8), Y[:300]
    trigger = PatchTrigger(size=2)
    attack = BackdoorAttack(trigger, target_class=0, budget=0.1, random_state=0)
    model = make(kind, **{name: values[0]})
    poisoned = PoisonedEstimator(attack, model).fit(*images).estimator_
    direct = clone(model).fit(*attack.fit_resample(*images))
    proba = direct.predict_proba(images[0])
    np.testing.assert_array_equal(poisoned.predict_proba(images[0]), proba)
    filtered = FilteredEstimator(LabelIssueDetector(), model).fit(*images)
    assert filtered.predict(images[0]).shape == (300,)


@each_kind
def test_loss_is_that_of_what_the_hook_makes(kind, name, values, hook):
    """The weighted sum of the losses of hard labels, on the augmented batch."""
    rows, labels = X[:60], Y[:60]  # one batch
    params = {**FAST, "max_epochs": 1, name: values[0]}
    if kind is MaxUpClassifier:
        params["warmup_epochs"] = hook.warmup_epochs = 0
    loss = kind(**params).fit(rows, labels).history_[0]["train_loss"]
    start = kind(**{**params, "max_epochs": 0}).fit(rows, labels).module_
    streams = RandomStreams(0)
    order = torch.randperm(60, generator=streams.torch("batches"))
    T = F.one_hot(torch.as_tensor(labels), 10).float()
    batch, T = hook(
        torch.as_tensor(rows)[order],
        T[order],
        BatchContext(start, 10, streams.torch("augmentation")),
    )
    with torch.no_grad():
        logits = start(batch)
    hard = [F.cross_entropy(logits, torch.full((60,), c), reduction="none")
            for c in range(10)]  # fmt: skip
    expected = (T * torch.stack(hard, dim=1)).sum(1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_parameters_of_hooks_are_reached():
    model = AugmentedClassifier(augmentation=Mixup(4), **FAST)
    copied = clone(model).set_params(augmentation__n_mix=3)
    assert (copied.augmentation.n_mix, model.augmentation.n_mix) == (3, 4)
    assert copied.get_params()["augmentation__n_mix"] == 3
    assert "augmentation__n_mix" not in model.get_params(deep=False)
    search = GridSearchCV(model, {"augmentation__n_mix": [1, 8]}, cv=2).fit(*SMALL)
    assert len({*search.cv_results_["mean_test_score"]}) == 2
    nested = MaxUpClassifier(base=Cutout(3)).set_params(base__size=5)
    assert nested.base.size == 5
    several = AugmentedClassifier(augmentation=["mixup", Noise(scale=0.3)])
    assert repr(clone(several)) == repr(several)
    wrapped = AugmentedClassifier(augmentation=MaxUp(Compose([CutMix(), Noise()])))
    assert repr(clone(wrapped)) == repr(wrapped)


def test_names_and_lists_mean_the_hooks_of_these_names():
    named = AugmentedClassifier(augmentation=["cutmix", "noise"], **FAST)
    given = clone(named).set_params(augmentation=Compose([CutMix(), Noise()]))
    plain = clone(named).set_params(augmentation=[])
    expected = named.fit(*SMALL).predict_proba(X)
    np.testing.assert_array_equal(given.fit(*SMALL).predict_proba(X), expected)
    reference = TorchClassifier(**FAST).fit(*SMALL)
    np.testing.assert_allclose(
        plain.fit(*SMALL).predict_proba(X), reference.predict_proba(X), atol=1e-5
    )


def test_a_hook_of_the_users_own():
    seen = []

    def hook(batch, T, context):
        seen.append((context.epoch, context.step))
        return batch + 0.01, T

    AugmentedClassifier(augmentation=["mixup", hook], **FAST).fit(*SMALL)
    assert seen == [(e, 3 * e + s) for e in range(3) for s in range(3)]


def test_maxup_trains_plainly_until_the_warm_up_is_over():
    plain = AugmentedClassifier(augmentation=[], **FAST).fit(*SMALL)
    for warmup, equal in ((3, True), (2, False)):
        model = make(MaxUpClassifier, warmup_epochs=warmup).fit(*SMALL)
        gaps = [
            abs(ours["train_loss"] - theirs["train_loss"])
            for ours, theirs in zip(model.history_, plain.history_, strict=True)
        ]
        assert gaps[:2] == [0, 0] and bool(gaps[2] == 0) is equal


def test_maxup_leaves_batch_statistics_to_training():
    class Normed(torch.nn.Sequential):
        def __init__(self, n_features_in, n_classes):
            layers = torch.nn.BatchNorm1d(n_features_in, momentum=None), torch.nn.Linear
            super().__init__(layers[0], layers[1](n_features_in, n_classes))

    model = make(MaxUpClassifier, module=Normed, warmup_epochs=0, n_copies=1)
    norm = model.fit(*SMALL).module_[0]
    assert norm.num_batches_tracked == 9  # three batches in three epochs
    once = make(CutoutClassifier, module=Normed).fit(*SMALL).module_[0]
    torch.testing.assert_close(norm.running_mean, once.running_mean, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [CutMixClassifier, CutoutClassifier, MaxUpClassifier])
def test_tables_are_images_of_one_line(kind):
    table, y = load_wine(return_X_y=True)
    model = make_pipeline(StandardScaler(), make(kind, max_epochs=15))
    assert cross_val_score(model, table, y, cv=3).mean() > 0.9


@pytest.mark.parametrize(
    "kind", [CutMixClassifier, CutoutClassifier, MaxUpClassifier]
)  # fmt: skip
@pytest.mark.parametrize("shape", [(8, 8), (1, 2, 4, 8)], ids=str)
def test_other_samples_are_refused_before_training(kind, shape):
    def module(input_shape, n_classes):
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(math.prod(input_shape), n_classes)
        )

    model = kind(module, **FAST)  # MaxUp's warm-up is longer than this fit
    with pytest.raises(ValueError, match=r"takes images of shape \(C, H, W\) or flat"):
        model.fit(X[:130].reshape(130, *shape), Y[:130])
    NoiseClassifier(module, **FAST).fit(X[:130].reshape(130, *shape), Y[:130])


@pytest.mark.parametrize(
    "model, error, message",
    [
        (AugmentedClassifier(augmentation="mixin"), ValueError, "augmentation must be"),
        (
            AugmentedClassifier(augmentation=3),
            TypeError,
            "augmentation must be a batch",
        ),
        (AugmentedClassifier(augmentation=None), TypeError, "must be a batch hook"),
        (AugmentedClassifier(augmentation=Mixup), TypeError, "must be a batch hook"),
        (
            AugmentedClassifier(augmentation=["mixup", 3]),
            TypeError,
            "augmentation must",
        ),
        (AugmentedClassifier(augmentation=Mixup(0)), ValueError, "n_mix must be >= 1"),
        (AugmentedClassifier(n_mix=3), TypeError, "unexpected parameter 'n_mix'"),
        (MixupClassifier(n_mix=0), ValueError, "n_mix must be >= 1, got 0"),
        (MixupClassifier(alpha=0), ValueError, "alpha must be > 0"),
        (MixupClassifier(weights="beta"), ValueError, "weights must be one of"),
        (MixupClassifier(per_sample=None), TypeError, "per_sample must be a bool"),
        (CutMixClassifier(alpha=0), ValueError, "alpha must be > 0"),
        (CutMixClassifier(prob=2), ValueError, "prob must be in"),
        (CutoutClassifier(size=2.0), ValueError, "size must be in"),
        (CutoutClassifier(fill=None), TypeError, "fill must be a number"),
        (MaxUpClassifier(base="cut"), ValueError, "base must be one of 'mixup'"),
        (MaxUpClassifier(base=Cutout(-1)), ValueError, "size must be >= 0"),
        (MaxUpClassifier(n_copies=0), ValueError, "n_copies must be >= 1"),
        (MaxUpClassifier(warmup_epochs=0.5), TypeError, "warmup_epochs must be an int"),
        (NoiseClassifier(noise="normal"), ValueError, "noise must be one of"),
        (NoiseClassifier(noise_scale=-1), ValueError, "noise_scale must be >= 0"),
        (NoiseClassifier(bounds=3), ValueError, "bounds must be None or a pair"),
        (NoiseClassifier(max_epochs=-1), ValueError, "max_epochs must be >= 0"),
    ],
    ids=repr,
)
def test_bad_parameters_wait_for_fit(model, error, message):
    model = clone(model)
    with pytest.raises(error, match=message):
        model.fit(*SMALL)
    assert not hasattr(model, "net_")
