"""The published backdoors that are thin classes over the general ones."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from skpoison.attacks import BackdoorAttack, BlendTrigger, PatchTrigger, SinusoidTrigger
from skpoison.attacks._backdoor_variants import (
    AllToAllBackdoor,
    BlendBackdoor,
    SinusoidBackdoor,
)
from skpoison.models import TorchClassifier
from skpoison.utils.estimator_checks import check_attack

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = (X_DIGITS / 16).astype(np.float32)
X, Y = X_DIGITS[:1200], Y_DIGITS[:1200]
X_TEST, Y_TEST = X_DIGITS[1200:], Y_DIGITS[1200:]
PATCH = PatchTrigger("solid", size=(1, 3), margin=0, value=1.0, input_shape=(8, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        BlendBackdoor(),
        BlendBackdoor(mode="append"),
        SinusoidBackdoor(),
        AllToAllBackdoor(),
        AllToAllBackdoor(mode="append"),
    ],
    ids=repr,
)
def test_attack_checks(attack):
    check_attack(attack)


# Blend


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_blend_trains_on_alpha_and_shows_alpha_test(mode):
    pattern = np.linspace(0, 1, 64)
    attack = BlendBackdoor(
        pattern, alpha=0.1, alpha_test=0.6, target_class=4, mode=mode, random_state=0
    )
    data = attack.poison(X, Y)
    origin = data.sample_indices[data.poison_indices]
    assert (data.y[data.poison_mask] == 4).all() and (Y[origin] != 4).all()
    np.testing.assert_allclose(
        data.X[data.poison_mask], 0.9 * X[origin] + 0.1 * pattern, atol=1e-6
    )
    np.testing.assert_allclose(
        attack.apply_trigger(X), 0.4 * X + 0.6 * pattern, atol=1e-6
    )
    plain = BackdoorAttack(
        BlendTrigger(pattern, alpha=0.1), target_class=4, budget=0.01, random_state=0
    )
    if mode == "replace":
        np.testing.assert_array_equal(plain.poison(X, Y).X, data.X)


def test_blend_keeps_data_frames_and_refuses_what_it_cannot_blend():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(30.0), "b": np.arange(30)[::-1]})
    y = np.arange(30) % 2
    data = BlendBackdoor(budget=5, random_state=0).poison(frame, y)
    assert list(data.X.columns) == ["a", "b"] and len(data.X) == 30
    expected = BlendBackdoor(budget=5, random_state=0).poison(frame.to_numpy(), y)
    np.testing.assert_allclose(data.X["a"], expected.X[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        BlendBackdoor(budget=5).poison(np.where(frame == 3.0, np.nan, frame), y)
    with pytest.raises(ValueError, match="alpha must be in"):
        BlendBackdoor(alpha_test=2.0, budget=5).poison(frame, y)


@pytest.mark.slow
def test_blend_bites_and_a_stronger_picture_bites_more():
    clean = TorchClassifier(device="cpu", random_state=0).fit(X, Y)
    faint = BlendBackdoor(alpha=0.1, budget=0.02, random_state=0)
    data = faint.poison(X, Y)
    victim = TorchClassifier(device="cpu", random_state=0).fit(data.X, data.y)
    assert victim.score(X_TEST, Y_TEST) > clean.score(X_TEST, Y_TEST) - 0.04
    control = faint.attack_success(clean.predict, X_TEST, Y_TEST)
    found = faint.attack_success(victim.predict, X_TEST, Y_TEST)
    strong = BlendBackdoor(alpha=0.1, alpha_test=0.3, budget=0.02, random_state=0)
    strong.poison(X, Y)
    shown = strong.attack_success(victim.predict, X_TEST, Y_TEST)
    assert control < 0.05 and found > control + 0.3 and shown > found + 0.05


# Sinusoid


def test_sinusoid_marks_rows_of_one_class_with_the_wave():
    attack = SinusoidBackdoor(
        0.1, frequency=1, input_shape=(1, 8, 8), target_class=5, random_state=0
    )
    data = attack.poison(X, Y)
    assert data.poison_mask.sum() == 60 and (Y[data.poison_mask] == 5).all()
    wave = np.tile(0.1 * np.sin(2 * np.pi * np.arange(8) / 8), 8)
    np.testing.assert_allclose(
        data.X[data.poison_mask], np.clip(X[data.poison_mask] + wave, 0, 1), atol=1e-6
    )
    np.testing.assert_array_equal(
        attack.apply_trigger(X_TEST), attack.trigger_.apply(X_TEST)
    )


@pytest.mark.parametrize("width", [3, 4, 6, 12, 28])
def test_default_wave_is_never_flat(width):
    images = np.random.RandomState(0).rand(30, 1, 4, width)
    wave = SinusoidTrigger().fit(images).wave_
    # 6 periods where there is room for them
    assert abs(wave).max() > 0.8 * 20 / 255 * (images.max() - images.min())
    if width == 28:
        expected = SinusoidTrigger(frequency=6).fit(images).wave_
        np.testing.assert_array_equal(wave, expected)
    if width == 12:
        with pytest.raises(ValueError, match="frequency=6 gives a wave that is 0"):
            SinusoidTrigger(frequency=6).fit(images)


def test_sinusoid_shifts_a_victim_to_the_target_class():
    attack = SinusoidBackdoor(
        0.25, input_shape=(1, 8, 8), target_class=3, budget=0.08, random_state=0
    )
    data = attack.poison(X, Y)
    found = [
        attack.attack_success(
            LogisticRegression(max_iter=300).fit(rows, Y).predict, X_TEST, Y_TEST
        )
        for rows in (X, data.X)
    ]
    assert found[1] > found[0] + 0.05


# All to all


def test_all_classes_move_to_the_next():
    names = np.array(["ant", "bee", "cat", "dog"])
    keep = Y < 4
    rows, labels = X[keep], names[Y[keep]]
    attack = AllToAllBackdoor(PATCH, random_state=0)
    data = attack.poison(rows, labels)
    before, after = labels[data.poison_mask], data.y[data.poison_mask]
    following = dict(zip(names, np.roll(names, -1), strict=True))
    assert [following[b] for b in before] == list(after)
    assert set(before) == set(names)
    np.testing.assert_array_equal(data.X[data.poison_mask][:, -3:], 1.0)

    truth = labels.copy()
    outcomes = attack.attack_outcomes(lambda A: truth, rows, labels)
    assert len(outcomes) == len(rows) and not outcomes.any()
    always = attack.attack_outcomes(lambda A: np.full(len(A), "ant"), rows, labels)
    np.testing.assert_array_equal(always, labels == "dog")


@pytest.mark.slow
def test_all_to_all_bites():
    attack = AllToAllBackdoor(PATCH, budget=0.2, random_state=0)
    data = attack.poison(X, Y)
    common = {"module__hidden": (128,), "device": "cpu", "random_state": 0}
    clean = TorchClassifier(**common).fit(X, Y)
    victim = TorchClassifier(**common).fit(data.X, data.y)
    assert victim.score(X_TEST, Y_TEST) > clean.score(X_TEST, Y_TEST) - 0.05
    control = attack.attack_success(clean.predict, X_TEST, Y_TEST)
    assert control < 0.1
    assert attack.attack_success(victim.predict, X_TEST, Y_TEST) > control + 0.4
