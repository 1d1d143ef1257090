"""Audits of what comes after training: moved inputs, and updates turned into rows."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.audit import AuditContext, audit
from skpoison.audit._registry import ATTACKS
from skpoison.evasion import PGD
from skpoison.federated import FederatedClassifier
from skpoison.models import TorchClassifier

X, Y = load_breast_cancer(return_X_y=True)
LINEAR = make_pipeline(StandardScaler(), LogisticRegression())
OWNERS = np.arange(len(Y)) % 20


def run(estimator=LINEAR, X=X, y=Y, **params):
    defaults = {
        "attacks": ["witchcraft"],
        "defenses": [],
        "budgets": (0.02, 0.05),
        "cv": 2,
        "random_state": 0,
        "verbose": 0,
    }
    return audit(estimator, X, y, **{**defaults, **params})


def test_a_linear_model_meets_the_worst_case_within_the_share_of_each_range():
    cut = (np.arange(0, 300), np.arange(300, len(Y)))
    found = run(cv=[cut]).summary().set_index("budget")
    model = LINEAR.fit(X[cut[0]], Y[cut[0]])
    coef = model[-1].coef_[0] / model[0].scale_
    low, high = X.min(0), X.max(0)
    margin = np.where(Y[cut[1]] == 1, 1, -1) * model.decision_function(X[cut[1]])
    for budget in (0, 0.02, 0.05):
        eps = budget * (high - low)
        sign = np.where(Y[cut[1]] == 1, -1, 1)[:, None] * np.sign(coef)
        moved = np.clip(X[cut[1]] + sign * eps, low, high)
        worst = margin - np.abs((moved - X[cut[1]]) @ coef)
        assert found.loc[budget, "attack_success"] == np.mean(worst < 0)
    assert (found["control_success"] == np.mean(margin < 0)).all()
    assert found["damage"].is_monotonic_increasing
    assert (found["n_poisoned"] == 0).all()
    assert (found["clean_score"] == np.mean(margin >= 0)).all()


def test_models_of_the_control_are_attacked_and_none_is_trained_for_it(monkeypatch):
    n_fits = []
    original = LogisticRegression.fit

    def fit(self, *args, **kwargs):
        n_fits.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    run(cv=3)
    assert len(n_fits) == 3


@pytest.mark.slow
def test_advice_on_training_data_stays_what_it_is():
    params = {"defenses": ["label-filter"], "budgets": (0.3,)}
    alone = run(attacks=["adversarial-flips"], **params)
    both = run(attacks=["adversarial-flips", "witchcraft"], **params)
    assert both.recommendation.startswith(alone.recommendation)
    assert "At test time witchcraft within 0.3 of the range" in both.recommendation
    same = ["rank", "estimator", "defense", "price", "worst_damage", "reason"]
    assert alone.ranking()[same].equals(both.ranking()[same])
    only = run(budgets=(0.3,)).recommendation
    assert only.startswith("estimator: At test time") and "nan" not in only


@pytest.mark.slow
def test_jobs_and_checkpoints_change_nothing(tmp_path):
    network = TorchClassifier(max_epochs=2, device="cpu")
    images = load_digits(return_X_y=True)
    rows = images[0][:300].reshape(-1, 1, 8, 8) / 16, images[1][:300]
    first = run(network, *rows, checkpoint=tmp_path)
    again = run(network, *rows, checkpoint=tmp_path)
    parallel = run(network, *rows, n_jobs=2)
    assert first.table.equals(again.table)
    assert first.table.equals(parallel.table)
    assert first.summary()["damage"].max() > 0


@pytest.mark.slow
def test_uint8_images_move_by_a_share_of_255():
    images, y = load_digits(return_X_y=True)
    pixels = (images[:300] * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    network = TorchClassifier(max_epochs=5, device="cpu")
    found = run(network, pixels, y[:300], budgets=(0.001, 0.2)).summary()
    damage = found.set_index("budget")["damage"]
    assert damage[0.001] == 0 < damage[0.2]  # less than one of 255 is nothing


@pytest.mark.slow
def test_a_forest_is_attacked_by_transfer_and_the_report_says_so():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
    report = run(RandomForestClassifier(20), frame, budgets=(0.2,))
    told = report.meta["attacks"]["witchcraft"]["threat_model"]
    assert "No gradient of estimator is known" in told
    assert report.summary()["damage"].max() > 0.1


@pytest.mark.long
def test_an_attack_of_ones_own_gets_the_radius_of_the_budget():
    mine = PGD(max_iter=3, eps=123.0)
    report = run(attacks={"mine": mine})
    assert report.meta["attacks"]["mine"]["goal"] == "evasion"
    assert mine.eps == 123.0
    assert report.summary()["damage"].tolist() == run().summary()["damage"].tolist()


@pytest.mark.parametrize(
    "victim, data, automatic",
    [
        (LINEAR, X, True),
        (RandomForestClassifier(), X, False),
        (TorchClassifier(), X, False),
        (TorchClassifier(), X[:, :25].reshape(-1, 1, 5, 5), True),
    ],
    ids=["linear", "forest", "network on a table", "network on images"],
)
def test_automatic_for_linear_models_and_networks_on_images(victim, data, automatic):
    names = [e.name for e in ATTACKS.automatic(AuditContext.of(victim, data, Y))]
    assert ("witchcraft" in names) == automatic


def leakage(estimator=None, **params):
    victim = make_pipeline(
        StandardScaler(), FederatedClassifier(estimator, n_rounds=3, **params)
    )
    return run(
        victim, attacks=["gradient-inversion"], budgets=(0.1, 0.2), client_id=OWNERS
    )


def test_updates_of_single_rows_give_them_away():
    report = leakage(batch_size=1)
    found = report.summary().set_index("budget")
    assert found["damage"].tolist() == [0, 1, 1]
    assert found["n_tries"].tolist() == [8, 4, 8]  # clients looked at, two folds
    assert "gradient-inversion gets back 100.0%" in report.recommendation


@pytest.mark.slow
def test_updates_of_many_rows_of_two_classes_do_not():
    found = leakage(batch_size=10).summary().set_index("budget")
    assert found.loc[0.2, "damage"] == 0
    assert found.loc[0.2, "n_tries"] == 80


def test_models_that_step_by_themselves_are_named():
    report = leakage(SGDClassifier(loss="log_loss"), batch_size=1)
    assert (report.table["n_tries"] == 0).all()
    assert "gradient-inversion was not tried" in report.recommendation
