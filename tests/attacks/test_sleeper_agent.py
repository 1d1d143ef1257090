"""SleeperAgentAttack and its trigger that lands anywhere."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits

from skpoison.attacks import PatchTrigger, RandomPatchTrigger, SleeperAgentAttack
from skpoison.models import TorchClassifier, fit_together

NET = TorchClassifier(max_epochs=15, device="cpu")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 1, 8, 8) / 16
    order = np.random.RandomState(0).permutation(len(X))
    X, y = X[order], y[order]
    return X[:1200], y[:1200], X[1200:], y[1200:]


@pytest.mark.slow
def test_no_training_row_shows_the_trigger_and_the_trigger_works(digits):
    X, y, X_test, y_test = digits
    trigger = PatchTrigger("solid", size=3, margin=0)
    attack = SleeperAgentAttack(
        trigger,
        source_class=9,
        target_class=3,
        budget=0.05,
        eps=0.3,
        surrogate=clone(NET).set_params(module="auto"),
        n_ensemble=2,
        max_iter=40,
        retrain_every=None,
        random_state=0,
    )
    flat = X.reshape(len(X), -1)
    attack.set_params(trigger__input_shape=(8, 8))
    out = attack.fit_transform(flat, y)
    rows = attack.poison_indices_
    assert len(rows) == 60 and set(y[rows]) == {3}
    assert np.abs(out - flat).max() <= 0.3 + 1e-6
    patch = attack.trigger_.apply(out).reshape(-1, 8, 8)[:, -3:, -3:]
    assert not (out.reshape(-1, 8, 8)[:, -3:, -3:] == patch).all(axis=(1, 2)).any()
    # same victims on poisoned rows, on rows with noise of the same size, on clean ones
    noise = flat.copy()
    signs = np.sign(np.random.RandomState(1).randn(*flat[rows].shape))
    noise[rows] = np.clip(noise[rows] + 0.3 * signs, 0, 1)
    n = 3
    victims = [clone(NET).set_params(random_state=100 + s) for s in range(n)] * 3
    fitted = fit_together(victims, [out] * n + [noise] * n + [flat] * n, [y] * 3 * n)
    X_test = X_test.reshape(len(X_test), -1)
    success = [attack.attack_success(v.predict, X_test, y_test) for v in fitted]
    poisoned, noisy, control = np.mean(np.reshape(success, (3, n)), axis=1)
    assert poisoned > control + 0.15 and poisoned > noisy + 0.1
    accuracy = [v.score(X_test, y_test) for v in fitted]
    assert np.mean(accuracy[:n]) > np.mean(accuracy[2 * n :]) - 0.03


def test_outcomes_are_those_of_the_source_class_alone(digits):
    X, y, X_test, y_test = digits
    attack = SleeperAgentAttack(
        source_class=4,
        target_class=7,
        max_iter=1,
        retrain_every=None,
        surrogate=clone(NET).set_params(max_epochs=1),
        budget=5,
        random_state=0,
    ).fit(X, y)
    seen = []

    def predict(rows):
        seen.append(rows)
        return np.full(len(rows), 7)

    outcomes = attack.attack_outcomes(predict, X_test, y_test)
    assert outcomes.all() and len(outcomes) == (y_test == 4).sum()
    assert np.array_equal(seen[0], attack.apply_trigger(X_test[y_test == 4]))
    assert len(attack.attack_outcomes(predict, X_test[:0], y_test[:0])) == 0


@pytest.mark.slow
def test_rows_with_long_gradients_are_taken_first(digits):
    X, y, _, _ = digits
    params = {
        "source_class": 4,
        "target_class": 7,
        "max_iter": 1,
        "retrain_every": None,
        "surrogate": NET,
        "random_state": 0,
    }
    attack = SleeperAgentAttack(budget=10, **params).fit(X, y)
    loss = -np.log(attack.surrogates_[0].predict_proba(X)[np.arange(len(X)), y])
    of_class = y == 7
    assert loss[attack.poison_indices_].mean() > 3 * loss[of_class].mean()
    drawn = SleeperAgentAttack(budget=10, selection="random", **params).fit(X, y)
    assert set(drawn.poison_indices_) != set(attack.poison_indices_)


def test_defaults_and_errors(digits):
    X, y, _, _ = digits
    net = clone(NET).set_params(max_epochs=1)
    fast = {"max_iter": 2, "retrain_every": 1, "surrogate": net, "random_state": 0}
    attack = SleeperAgentAttack(**fast).fit(X, y)
    assert (attack.target_class_, attack.source_class_) == (0, 1)
    assert isinstance(attack.trigger_, RandomPatchTrigger)
    with pytest.raises(ValueError, match="source_class and target_class are both 3"):
        SleeperAgentAttack(source_class=3, target_class=3, **fast).fit(X, y)
    with pytest.raises(ValueError, match="source_class=12 is not among"):
        SleeperAgentAttack(source_class=12, **fast).fit(X, y)
    with pytest.raises(TypeError, match="has no targets"):
        SleeperAgentAttack(**fast).craft_each(X, y, X[:1], [1])


def test_the_random_patch_goes_by_content_and_covers_the_image():
    X = np.random.RandomState(0).rand(400, 3, 12, 12).astype(np.float32)
    trigger = RandomPatchTrigger().fit(X)
    marked = trigger.apply(X)
    assert trigger.patch_.shape == (3, 3, 3)
    np.testing.assert_allclose(np.unique(trigger.patch_), [X.min(), X.max()])
    assert np.array_equal(marked[::-1], trigger.apply(X[::-1]))
    changed = (marked != X).any(axis=1)
    assert (changed.sum(axis=(1, 2)) == 9).all()
    assert changed.any(axis=0).all()  # every pixel is covered by some image
    corners = [np.argwhere(c)[0] for c in changed]
    assert len({tuple(c) for c in corners}) > 50
    for c, image in zip(corners, marked, strict=True):
        window = image[:, c[0] : c[0] + 3, c[1] : c[1] + 3]
        np.testing.assert_allclose(window, trigger.patch_, rtol=1e-6)


def test_the_random_patch_of_uint8_and_its_errors():
    X = np.random.RandomState(0).randint(0, 256, (6, 1, 8, 8)).astype(np.uint8)
    marked = RandomPatchTrigger(size=2).fit(X).apply(X)
    assert marked.dtype == np.uint8
    assert (marked != X).any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match="does not fit"):
        RandomPatchTrigger(size=9).fit(X)
    with pytest.raises(ValueError, match="outside the range of uint8"):
        RandomPatchTrigger(np.full((2, 2), 300.0)).fit(X)


def test_the_random_patch_can_have_one_place():
    X = np.random.RandomState(0).rand(5, 1, 8, 8)
    marked = RandomPatchTrigger(position="bottom_right").fit(X).apply(X)
    assert (marked[:, :, :6] == X[:, :, :6]).all()
    assert (marked[:, :, 6:, 6:] == marked[:1, :, 6:, 6:]).all()
    assert (marked[:, :, 6:, 6:] != X[:, :, 6:, 6:]).all()
    with pytest.raises(ValueError, match="position must be one of"):
        RandomPatchTrigger(position="middle").fit(X)
