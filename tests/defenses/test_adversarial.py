"""The classifier: scikit-learn's contract, learning, and what it is there for."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import BackdoorAttack, PatchTrigger
from skpoison.defenses import AdversarialPoisonClassifier
from skpoison.models import TorchClassifier, fit_together

FAST = {"max_epochs": 4, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


class Normalised(torch.nn.Module):
    """Batch normalisation and dropout."""

    def __init__(self, n_features_in, n_classes):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(n_features_in, 32),
            torch.nn.BatchNorm1d(32),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(32, n_classes),
        )

    def forward(self, X):
        return self.layers(X)


# ----------------------------------------------------------------------------- learning


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack", ["gradient_matching", "metapoison", "hidden_trigger", "patch", "evasion"]
)
def test_learns_tables_and_images(attack, digits):
    X, y = digits
    for rows in (X, X.reshape(-1, 1, 8, 8)):
        model = AdversarialPoisonClassifier(attack=attack, max_iter=1, **FAST)
        model.fit(rows[:1200], y[:1200])
        assert model.score(rows[1200:], y[1200:]) > 0.75


@pytest.mark.slow
def test_equal_seeds_give_equal_bits(digits):
    X, y = digits
    X, y = X[:200], y[:200]
    model = AdversarialPoisonClassifier(Normalised, max_iter=2, **FAST)
    first = model.fit(X, y).predict_proba(X)
    assert np.array_equal(first, model.fit(X, y).predict_proba(X))
    assert np.array_equal(first, clone(model).fit(X, y).predict_proba(X))
    model.set_params(random_state=1)
    assert not np.array_equal(first, model.fit(X, y).predict_proba(X))


def test_batch_statistics_come_from_updates_alone(digits):
    X, y = digits
    model = AdversarialPoisonClassifier(Normalised, batch_size=50, **FAST)
    model.fit(X[:200], y[:200])
    assert model.module_.layers[1].num_batches_tracked == 4 * 4


def test_pickle_keeps_predictions_and_no_hook(digits):
    X, y = digits
    model = AdversarialPoisonClassifier(**FAST).fit(X[:200], y[:200])
    restored = pickle.loads(pickle.dumps(model))
    assert np.array_equal(restored.predict_proba(X), model.predict_proba(X))
    assert model.net_.hook_ is None


@pytest.mark.slow
def test_grid_search_over_attack_and_radius(digits):
    X, y = digits
    grid = {"attack": ["gradient_distance", "patch", "watermark"], "eps": [None, 0.1]}
    model = AdversarialPoisonClassifier(max_iter=1, **FAST)
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X[:300], y[:300])
    assert search.best_score_ > 0.5
    assert set(search.best_params_) == {"attack", "eps"}


def test_parameters_reach_the_hook(digits):
    X, y = digits
    params = {
        "attack": "metapoison",
        "eps": 0.3,
        "max_iter": 3,
        "poison_fraction": 0.25,
        "step_size": 0.2,
        "init": "zero",
        "recombine": False,
        "bounds": None,
    }
    model = AdversarialPoisonClassifier(**params)
    model.input_shape_ = (64,)
    assert model._batch_hook(None).get_params() == params


@pytest.mark.slow
def test_networks_are_trained_one_at_a_time(digits):
    X, y = digits
    X, y = X[:150], y[:150]
    models = [
        AdversarialPoisonClassifier(**{**FAST, "random_state": seed})
        for seed in range(2)
    ]
    together = fit_together(models, [X] * 2, [y] * 2)
    for model, one in zip(models, together, strict=True):
        assert np.array_equal(model.fit(X, y).predict_proba(X), one.predict_proba(X))


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "params, match",
    [
        ({"attack": "sleeper"}, "attack must be one of"),
        ({"eps": np.ones(3)}, "eps has shape"),
        ({"eps": np.inf}, "eps must be finite"),
        ({"bounds": (np.zeros(5), 1)}, "bounds must be"),
        ({"attack": "patch", "input_shape": (8, 8)}, "input_shape"),
        ({"poison_fraction": 0.0}, "poison_fraction"),
    ],
    ids=str,
)
def test_refused_before_training(params, match, digits):
    X, y = digits
    model = AdversarialPoisonClassifier(**{**FAST, **params})
    with pytest.raises(ValueError, match=match):
        model.fit(X[:100], y[:100])
    assert not hasattr(model, "net_")


@pytest.mark.slow
def test_a_box_in_another_unit_is_said(digits):
    X, y = digits
    X, y = X[:200], y[:200]
    scaled = make_pipeline(StandardScaler(), AdversarialPoisonClassifier(**FAST))
    with pytest.warns(UserWarning, match=r"X lies outside bounds=\(0, 1\)"):
        scaled.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled.set_params(adversarialpoisonclassifier__bounds=None).fit(X, y)
        pixels = (X * 255).astype(np.uint8)
        AdversarialPoisonClassifier(**FAST).fit(pixels, y)


# ------------------------------------------------------------------------------- effect


@pytest.mark.long
def test_random_patches_disarm_a_patch_that_was_never_seen(digits):
    """A fixed block, of another place and size than any one drawn in training."""
    X, y = digits
    X = X.reshape(-1, 1, 8, 8)
    plain, robust = [], []
    for seed in range(3):
        order = np.random.RandomState(seed).permutation(len(X))
        train, test = order[:1000], order[1000:]
        attack = BackdoorAttack(
            PatchTrigger(size=2), target_class=0, budget=0.03, random_state=seed
        )
        poisoned = attack.fit_resample(X[train], y[train])
        others = test[y[test] != 0]
        marked = attack.trigger_.apply(X[others])
        params = {"max_epochs": 12, "device": "cpu", "random_state": seed}
        for model, scores in (
            (TorchClassifier(**params), plain),
            (AdversarialPoisonClassifier(attack="patch", **params), robust),
        ):
            model.fit(*poisoned)
            success = (model.predict(marked) == 0).mean()
            scores.append((model.score(X[test], y[test]), success))
    accuracy, success = np.mean(plain, axis=0) - np.mean(robust, axis=0)
    assert np.mean(plain, axis=0)[1] > 0.6 and success > 0.25
    assert accuracy < 0.03
