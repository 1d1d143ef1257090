"""Gradient matching against fresh victims, beside what is not optimised."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skpoison.attacks import GradientMatchingAttack, WatermarkAttack
from skpoison.model_selection import evaluate_targeted
from skpoison.models import MLP, TorchClassifier, fit_together

VICTIM = TorchClassifier(
    MLP, module__hidden=(64,), max_epochs=30, batch_size=128, lr=0.01, device="cpu"
)


@pytest.fixture(scope="module")
def near_targets():
    """Return a training set and four held-out digits whose second guess is near."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X / 16, y, train_size=600, stratify=y, random_state=0
    )
    judges = [clone(VICTIM).set_params(random_state=seed) for seed in (1, 2, 3)]
    judges = fit_together(judges, [X] * 3, [y] * 3)
    read = np.mean([j.predict_proba(X_test) for j in judges], axis=0)
    right = np.all([j.predict(X_test) == y_test for j in judges], axis=0)
    sure = np.where(right, read[np.arange(len(y_test)), y_test], 0)
    rows = np.argsort(np.where(sure < 0.9, -sure, 0))[:4]
    wanted = np.argsort(read[rows], axis=1)[:, -2]
    return X, y, X_test, y_test, rows, wanted


@pytest.mark.long
def test_poisons_of_all_classes_beat_watermark_and_noise(near_targets):
    X, y, X_test, y_test, rows, wanted = near_targets
    shared = {
        "eps": 0.25,
        "bounds": (0.0, 1.0),
        "budget": 0.1,
        "threat_model": "random_subset",
        "random_state": 0,
    }
    crafted = {"surrogate": "victim", "n_restarts": 1, **shared}
    attacks = [
        GradientMatchingAttack(**crafted, n_ensemble=6, max_iter=100),
        WatermarkAttack(**shared),
        GradientMatchingAttack(**crafted, max_iter=1, step_size=1e-9),
    ]
    matching, watermark, noise = (
        evaluate_targeted(
            attack,
            VICTIM,
            X,
            y,
            X_test[rows],
            wanted,
            n_victims=4,
            X_test=X_test,
            y_test=y_test,
            random_state=0,
        )
        for attack in attacks
    )
    assert matching.interval[0] > watermark.interval[1]
    assert matching.interval[0] > noise.interval[1]
    assert matching.interval[0] > matching.control_interval[1]
    assert matching.target_rate >= 0.5
    assert matching.poisoned_accuracy > matching.clean_accuracy - 0.02
    assert (matching.n_poisoned == 60).all() and (watermark.n_poisoned == 60).all()
