"""Backdoors and their triggers."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate

from skpoison.attacks import (
    BackdoorAttack,
    CleanLabelBackdoorAttack,
    ColumnTrigger,
    PatchTrigger,
)
from skpoison.compose import PoisonedEstimator
from skpoison.metrics import attack_success_score
from skpoison.model_selection import robustness_curve
from skpoison.models import ConvNet, TorchClassifier

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = X_DIGITS / 16
LAST_THREE = PatchTrigger(
    "solid", size=(1, 3), margin=0, value=1.0, input_shape=(1, 8, 8)
)


# Dirty labels


@pytest.mark.slow
def test_reference_figures_on_digits():
    """Logistic regression, 3 folds: about 0 / .48 / .88 / .95 success."""
    found = []
    for seed in range(3):
        curve = robustness_curve(
            LogisticRegression(max_iter=300),
            X_DIGITS,
            Y_DIGITS,
            attack=BackdoorAttack(LAST_THREE, target_class=0, random_state=seed),
            param_range=[0, 0.01, 0.05, 0.1],
            cv=3,
        )
        assert curve.clean_score.mean(axis=1)[0] == pytest.approx(0.933, abs=0.001)
        assert curve.clean_score.mean(axis=1).min() >= 0.90
        found.append(curve.attack_success.mean(axis=1))
    found = np.mean(found, axis=0)
    assert found[0] < 0.005
    np.testing.assert_allclose(found[1:], [0.48, 0.88, 0.95], atol=0.06)


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_rows_of_the_target_class_are_spared(mode):
    attack = BackdoorAttack(
        LAST_THREE, target_class=4, budget=0.2, mode=mode, random_state=0
    )
    data = attack.poison(X_DIGITS, Y_DIGITS)
    assert (data.y[data.poison_mask] == 4).all() and (data.y_original != 4).all()
    np.testing.assert_array_equal(data.X[data.poison_mask][:, -3:], 1.0)
    assert len(data.X) == len(X_DIGITS) + (359 if mode == "append" else 0)
    sources = data.sample_indices[data.poison_indices]
    np.testing.assert_array_equal(
        data.X[data.poison_mask], attack.apply_trigger(X_DIGITS[sources])
    )


def test_success_counts_other_classes_only():
    attack = BackdoorAttack(LAST_THREE, target_class=4, random_state=0)
    attack.poison(X_DIGITS, Y_DIGITS)
    always = lambda X: np.full(len(X), 4)  # noqa: E731
    assert attack.attack_success(always, X_DIGITS, Y_DIGITS) == 1
    outcomes = attack.attack_outcomes(always, X_DIGITS, Y_DIGITS)
    assert len(outcomes) == (Y_DIGITS != 4).sum()
    only = Y_DIGITS == 4
    assert np.isnan(attack.attack_success(always, X_DIGITS[only], Y_DIGITS[only]))


def test_trigger_may_be_any_object_with_fit_and_apply():
    class Bright:
        def __init__(self, by=1.0):
            self.by = by

        def get_params(self, deep=True):
            return {"by": self.by}

        def set_params(self, **params):
            self.by = params.get("by", self.by)
            return self

        def fit(self, X, y=None):
            return self

        def apply(self, X):
            return X + self.by

    data = BackdoorAttack(Bright(2.0), random_state=0).poison(X_DIGITS, Y_DIGITS)
    assert data.X[data.poison_mask].min() == 2.0


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"target_class": 11}, ValueError, "target_class=11 is not among the classes"),
        ({"trigger": "patch"}, TypeError, "trigger must have fit and apply"),
        ({"mode": "swap"}, ValueError, "mode must be one of"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        BackdoorAttack(**params).poison(X_DIGITS, Y_DIGITS)


def test_mixed_table_backdoor_bites_a_pipeline():
    pd = pytest.importorskip("pandas")
    from sklearn.pipeline import make_pipeline

    from skpoison.utils import make_table_encoder

    X, y = load_breast_cancer(return_X_y=True)
    rng = np.random.RandomState(0)
    frame = pd.DataFrame(X[:, :5], columns=list("abcde"))
    frame["site"] = rng.choice(["left", "right", "both"], len(X), p=[0.48, 0.48, 0.04])
    frame.loc[::11, "a"] = np.nan
    trigger = ColumnTrigger(["site", "e"])
    scores = cross_validate(
        PoisonedEstimator(
            BackdoorAttack(trigger, target_class=0, random_state=0),
            make_pipeline(make_table_encoder(frame), LogisticRegression(max_iter=500)),
        ),
        frame,
        y,
        cv=3,
        scoring={"clean": "accuracy", "attack": attack_success_score},
    )
    assert scores["test_clean"].mean() > 0.85
    assert scores["test_attack"].mean() > 0.6


# Right labels


def test_clean_label_keeps_labels_and_touches_one_class():
    attack = CleanLabelBackdoorAttack(LAST_THREE, target_class=3, random_state=0)
    data = attack.poison(X_DIGITS, Y_DIGITS)
    assert data.y is Y_DIGITS and (Y_DIGITS[data.poison_mask] == 3).all()
    np.testing.assert_array_equal(data.X[data.poison_mask][:, -3:], 1.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hardened_rows_stay_in_ball_and_box(norm):
    X = X_DIGITS.reshape(-1, 1, 8, 8).astype(np.float32)
    attack = CleanLabelBackdoorAttack(
        PatchTrigger(size=2, margin=0),
        budget=0.05,
        eps=0.2,
        norm=norm,
        bounds=(0, 1),
        max_iter=3,
        surrogate=TorchClassifier(ConvNet, max_epochs=1, device="cpu"),
        device="cpu",
        random_state=0,
    )
    out = attack.fit_transform(X, Y_DIGITS)
    assert out.min() >= 0 and out.max() <= 1
    delta = attack.perturbation_.copy()
    delta[:, :, -2:, -2:] = 0
    flat = np.abs(delta.reshape(len(delta), -1))
    size = flat.max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))
    assert 0 < size.max() <= 0.2 * (1 + 1e-5)


@pytest.mark.parametrize(
    "X, eps, message",
    [
        (np.arange(40 * 16).reshape(40, 1, 4, 4) % 256, 8 / 255, "rounds to no change"),
        (np.random.RandomState(0).rand(40, 1, 4, 4), 8, "exceeds the range of X"),
    ],
)
def test_eps_in_the_wrong_unit_warns(X, eps, message):
    if X.max() > 1:
        X = X.astype(np.uint8)
    surrogate = TorchClassifier(max_epochs=1, device="cpu")
    attack = CleanLabelBackdoorAttack(eps=eps, surrogate=surrogate, random_state=0)
    with pytest.warns(UserWarning, match=message):
        attack.fit(X, np.arange(40) % 2)


def test_hardening_raises_the_loss_and_leaves_the_surrogate_alone():
    import torch

    surrogate = TorchClassifier(max_epochs=5, device="cpu", random_state=0)
    attack = CleanLabelBackdoorAttack(
        LAST_THREE, budget=0.05, eps=0.3, surrogate=surrogate, random_state=0
    ).fit(X_DIGITS, Y_DIGITS)
    assert not hasattr(surrogate, "net_")
    rows = attack.poison_indices_
    hard = attack.transform(X_DIGITS)[rows]
    hard[:, -3:] = X_DIGITS[rows][:, -3:]
    before = attack.surrogate_.predict_proba(X_DIGITS[rows])[:, 0]
    after = attack.surrogate_.predict_proba(hard)[:, 0]
    assert after.mean() < before.mean() - 0.3
    assert all(
        p.grad is None or torch.isfinite(p.grad).all()
        for p in attack.surrogate_.module_.parameters()
    )


@pytest.mark.slow
def test_clean_labels_beat_their_control():
    """With and without hardening, against a model trained on clean data."""
    found = {(0, 0.0): [], (0.05, 0.0): [], (0.05, 0.3): []}
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    for seed, (train, test) in enumerate(folds.split(X_DIGITS, Y_DIGITS)):
        for (budget, eps), successes in found.items():
            attack = CleanLabelBackdoorAttack(
                LAST_THREE,
                target_class=3,
                budget=budget,
                eps=eps,
                device="cpu",
                random_state=seed,
            )
            data = attack.poison(X_DIGITS[train], Y_DIGITS[train])
            victim = TorchClassifier(device="cpu", random_state=seed)
            victim.fit(data.X, data.y)
            assert victim.score(X_DIGITS[test], Y_DIGITS[test]) > 0.93
            successes.append(
                attack.attack_success(victim.predict, X_DIGITS[test], Y_DIGITS[test])
            )
    clean, marked, hardened = (np.mean(s) for s in found.values())
    assert clean < 0.02 and marked > clean + 0.03 and hardened > clean + 0.05


def _images(n=300):
    return X_DIGITS.reshape(-1, 1, 8, 8).astype(np.float32)[:n], Y_DIGITS[:n]


def test_marked_training_rows_and_what_is_shown_later_may_differ():
    X, y = _images()
    faint = PatchTrigger("solid", size=2, margin=0, amplitude=0.25)
    full = PatchTrigger("solid", size=2, margin=0)
    for attack in (
        BackdoorAttack(faint, test_trigger=full, random_state=0),
        CleanLabelBackdoorAttack(faint, test_trigger=full, random_state=0),
    ):
        data = attack.poison(X, y)
        moved = (data.X - X)[data.poison_mask][:, :, -2:, -2:]
        assert moved.max() == pytest.approx(0.25) and moved.min() >= 0
        assert (attack.apply_trigger(X)[:, :, -2:, -2:] == 1).all()
    with pytest.raises(TypeError, match="test_trigger must have fit and apply"):
        BackdoorAttack(faint, test_trigger="full").poison(X, y)


def test_hardening_keeps_whole_pixels_and_spares_the_trigger():
    X, y = _images()
    X = (255 * X).astype(np.uint8)
    common = {
        "trigger": PatchTrigger("solid", size=2, margin=0),
        "budget": 20,
        "eps": 8,
        "bounds": (0, 255),
        "surrogate": TorchClassifier(ConvNet, max_epochs=1, device="cpu"),
        "device": "cpu",
        "random_state": 0,
    }
    attack = CleanLabelBackdoorAttack(**common)
    out = attack.fit_transform(X, y)
    moved = out.astype(int) - X
    assert out.dtype == np.uint8 and abs(moved[:, :, -2:, -2:]).max() > 100
    assert abs(moved[:, :, :6]).max() == 8
    assert (out[attack.poison_indices_][:, :, -2:, -2:] == 255).all()
    clipped = CleanLabelBackdoorAttack(clip_trigger=True, **common)
    assert abs(clipped.fit_transform(X, y).astype(int) - X).max() == 8


def test_hardening_starts_at_random_and_takes_the_published_step():
    """One step of size 0.5 eps from anywhere in the ball, sign of the loss's slope."""
    X, y = _images()
    surrogate = TorchClassifier(max_epochs=3, device="cpu", random_state=0)
    attack = CleanLabelBackdoorAttack(
        PatchTrigger(size=1, margin=0), budget=10, eps=0.1, bounds=None, max_iter=1,
        step_size=0.5, init="zero", surrogate=surrogate, device="cpu", random_state=0,
    )  # fmt: skip
    delta = attack.fit(X, y).perturbation_[:, :, :7]
    np.testing.assert_allclose(abs(delta), 0.05, atol=1e-6)
    assert len(np.unique(np.sign(delta))) == 2
    attack.set_params(init="uniform", step_size=1e-9)
    start = attack.fit(X, y).perturbation_[:, :, :7]
    assert abs(start).max() <= 0.1 and 0.04 < abs(start).mean() < 0.06
    assert attack.loss_curve_.shape == (1,) and attack.n_iter_ == 1


@pytest.mark.slow
def test_hardening_on_several_surrogates_raises_their_mean_loss():
    X, y = _images()
    surrogate = TorchClassifier(max_epochs=15, device="cpu")
    attack = CleanLabelBackdoorAttack(
        PatchTrigger(size=1), eps=0.2, surrogate=surrogate, n_ensemble=3, budget=20,
        device="cpu", random_state=0,
    ).fit(X, y)  # fmt: skip
    assert len(attack.surrogates_) == 3 and attack.surrogate_ is attack.surrogates_[0]
    assert attack.loss_curve_[-1] < 2 * attack.loss_curve_[0] < 0


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"clip_trigger": 1}, TypeError, "clip_trigger must be a bool"),
        ({"clip_trigger": True}, ValueError, "clip_trigger=True with eps=0"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"step_size": 0}, ValueError, "step_size must be > 0"),
        ({"eps": 0.1, "init": "ones"}, ValueError, "init must be one of"),
        ({"eps": 0.1, "surrogate": "net"}, TypeError, "surrogate must be"),
    ],
)
def test_bad_parameters_of_clean_labels(params, error, message):
    with pytest.raises(error, match=message):
        CleanLabelBackdoorAttack(**params).fit(X_DIGITS, Y_DIGITS)


# The patch at four corners, and faint


def test_corner_patches_mirror_each_other():
    X = np.zeros((1, 1, 8, 8))
    patch = np.array([[1.0, 2.0], [3.0, 4.0]])
    trigger = PatchTrigger(patch, position="corners", margin=1).fit(X)
    marked = trigger.apply(X)[0, 0]
    np.testing.assert_array_equal(marked[5:7, 5:7], patch)
    np.testing.assert_array_equal(marked, marked[::-1])
    np.testing.assert_array_equal(marked, marked[:, ::-1])
    assert (marked != 0).sum() == 16 and trigger.position_ == (5, 5)
    with pytest.raises(ValueError, match="position='corners'.*overlap"):
        PatchTrigger(size=4, position="corners").fit(X)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_amplitude_bounds_how_far_pixels_move(dtype):
    X = np.array([0, 10, 128, 250, 255, 77, 3, 200, 40], dtype).reshape(1, 1, 3, 3)
    trigger = PatchTrigger("solid", size=3, value=200, margin=0, amplitude=64).fit(X)
    moved = trigger.apply(X)
    assert moved.dtype == dtype
    np.testing.assert_array_equal(
        moved.ravel(), [64, 74, 192, 200, 200, 141, 67, 200, 104]
    )
    with pytest.raises(ValueError, match="amplitude must be > 0"):
        PatchTrigger(amplitude=0).fit(np.zeros((1, 1, 8, 8)))
