"""Every defense that the audit comes with, in one audit of each kind of victim."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import LabelFlipAttack
from skpoison.audit import audit
from skpoison.audit._registry import DEFENSES, AuditContext
from skpoison.models import TorchClassifier
from skpoison.utils import make_table_encoder

FAST = {"budgets": (0, 0.1), "cv": 2, "random_state": 0, "verbose": 0}
DIGITS, LABELS = load_digits(n_class=3, return_X_y=True)
IMAGES = (DIGITS[:160] / 16).astype("float32").reshape(-1, 1, 8, 8)
CANCER, ILL = load_breast_cancer(return_X_y=True)
NUMBERS, TARGETS = load_diabetes(return_X_y=True)
# craft in each step, see their own tests
SLOW = {"adversarial-poisons", "adversarial-training"}

VICTIMS = {
    "a network on images": (
        TorchClassifier(max_epochs=8, device="cpu"),
        IMAGES,
        LABELS[:160],
        "random-flips",
    ),
    "a network at the end of a pipeline": (
        make_pipeline(StandardScaler(), TorchClassifier(max_epochs=5, device="cpu")),
        CANCER[:160],
        ILL[:160],
        "random-flips",
    ),
    "a classical model": (
        make_pipeline(StandardScaler(), LogisticRegression()),
        CANCER[:160],
        ILL[:160],
        "random-flips",
    ),
    "a regressor": (
        make_pipeline(StandardScaler(), Ridge()),
        NUMBERS[:160],
        TARGETS[:160],
        "flipped-rows",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("victim", VICTIMS)
def test_every_defense_that_applies(victim):
    estimator, X, y, attack = VICTIMS[victim]
    context = AuditContext.of(estimator, X, y)
    names = [
        name
        for name, entry in DEFENSES.entries.items()
        if DEFENSES.applies(entry, context) and name not in SLOW
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some say that a class is too small to judge
        found = audit(estimator, X, y, attacks=[attack], defenses=names, **FAST)
    assert list(found.meta["defenses"]) == ["none", *names]
    assert not found.table["clean_score"].isna().any()
    clean = found.summary().query("budget == 0").set_index("defense")["clean_score"]
    floor = 0.25 if context.task == "regression" else 0.5
    private = {"dp-sgd", "dp-instahide"}  # noise, and few epochs
    assert np.all(clean.drop(list(private & set(clean.index))) > floor), clean


def test_the_victims_own_features_are_read():
    network = TorchClassifier(max_epochs=2, lr=0.01, device="cpu")
    for name in ("spectral-signatures", "deep-knn", "poison-detector"):
        wrap = DEFENSES.entries[name].wrap
        assert wrap(network).detector.estimator.lr == 0.01
        assert wrap(LogisticRegression()).detector.estimator is None


def test_repair_takes_the_place_of_the_network_in_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), TorchClassifier(device="cpu"))
    repaired = DEFENSES.entries["fine-pruning"].wrap(pipeline)
    assert type(repaired[-1]).__name__ == "FinePruning"
    assert type(repaired[-1].estimator) is TorchClassifier
    assert type(pipeline[-1]) is TorchClassifier


def test_label_repair_reads_tables_and_trains_on_other_labels():
    X = pd.DataFrame(CANCER[:200, :4], columns=["a", "b", "c", "d"])
    X["a"] = np.where(X["a"] > 14, "large", "small")  # text, and columns of any unit
    X.loc[3, "b"] = np.nan
    noisy = LabelFlipAttack(budget=0.2, random_state=0).poison(X, ILL[:200]).y
    wrap = DEFENSES.entries["label-repair"].wrap
    victim = make_pipeline(make_table_encoder(X), LogisticRegression())
    model = wrap(victim).fit(X, noisy)
    repaired = model.detector_.repaired_labels_
    assert (repaired == ILL[:200]).mean() > (noisy == ILL[:200]).mean() + 0.05
    expected = clone(victim).fit(X, repaired)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
