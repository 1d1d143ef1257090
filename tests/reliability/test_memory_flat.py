"""Calls repeated for long leave nothing behind: neither objects nor resident memory."""

import gc
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from skpoison.attacks import (
    BackdoorAttack,
    FeatureCollisionAttack,
    InfluenceAttack,
    LabelFlipAttack,
    ReleasePoisonAttack,
)
from skpoison.attacks._store import Store
from skpoison.audit import audit
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import (
    DataSanitizer,
    LabelIssueDetector,
    MixupClassifier,
    SpectralSignatures,
)
from skpoison.evasion import PGD
from skpoison.federated import FederatedClassifier, GeometricMedian, Krum
from skpoison.models import TorchClassifier

X, Y = load_iris(return_X_y=True)
X = (X - X.min(axis=0)) / np.ptp(X, axis=0)
X, Y = X[::5], Y[::5]
NET = TorchClassifier(max_epochs=1, device="cpu", random_state=0).fit(X, Y)
PROTECTING = ReleasePoisonAttack(
    surrogate=NET, online=True, max_iter=2, random_state=0
).fit(X, Y)
ATTACKING = PGD(NET, max_iter=2, random_state=0).fit(X, Y)
BACKDOOR = BackdoorAttack(random_state=0)


def _kept(folder):
    Store(folder, "memory").put("state", X=X)
    return Store(folder, "memory").get("state")


#: What is repeated, given a folder.
WORK = {
    "predict": lambda _: NET.predict_proba(X),
    "epoch": lambda _: TorchClassifier(max_epochs=1, device="cpu").fit(X, Y),
    "hooked epoch": lambda _: MixupClassifier(max_epochs=1, device="cpu").fit(X, Y),
    "evasion": lambda _: ATTACKING.perturb(X, Y),
    "protect": lambda _: PROTECTING.protect(X[:8], Y[:8]),
    "backdoor": lambda _: BACKDOOR.fit_resample(X, Y),
    "flips": lambda _: LabelFlipAttack("margin", cv=2).fit_resample(X, Y),
    "influence": lambda _: InfluenceAttack(max_iter=1).fit(X, Y).transform(X),
    "collision": lambda _: FeatureCollisionAttack(
        surrogate=NET, max_iter=1, budget=0.1, random_state=0
    ).fit(X, Y),
    "aggregators": lambda _: (Krum().fit(X), GeometricMedian().fit(X)),
    "detectors": lambda _: (
        SpectralSignatures(NET).fit(X, Y),
        DataSanitizer("sphere").fit(X, Y),
    ),
    "label issues": lambda _: LabelIssueDetector(cv=2).fit(X, Y),
    "pipeline": lambda _: PoisonedEstimator(
        LabelFlipAttack(), FilteredEstimator(DataSanitizer("knn"), GaussianNB())
    ).fit(X, Y),
    "federation": lambda _: FederatedClassifier(n_clients=3, n_rounds=1).fit(X, Y),
    "checkpoint": _kept,
}


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Leave what is there already out of the counting, which takes long otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _n_objects():
    gc.collect()
    objects = gc.get_objects()
    return len(objects), sum(isinstance(o, torch.Tensor) for o in objects)


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _repeat(work, folder, n):
    for _ in range(n):
        work(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WORK)
def test_repeats_leave_no_objects(tmp_path, name):
    _repeat(WORK[name], tmp_path, 6)  # what is kept once: caches, warnings
    before = _n_objects()
    _repeat(WORK[name], tmp_path, 12)
    grown = np.subtract(_n_objects(), before)
    assert (grown < 12).all(), grown  # less than one a repeat


def test_what_is_counted_shows_a_leak(tmp_path):
    leaked = []
    before = _n_objects()
    _repeat(lambda _: leaked.append(torch.zeros(1)), tmp_path, 12)
    assert _n_objects()[1] - before[1] == 12


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WORK)
def test_a_thousand_repeats_take_no_more_memory_than_some(tmp_path, name):
    _repeat(WORK[name], tmp_path, 200)
    before, resident = _n_objects(), _resident()
    _repeat(WORK[name], tmp_path, 800)
    assert (np.subtract(_n_objects(), before) < 20).all()
    # 5 KiB a repeat, were it a leak
    assert _resident() - resident < 4 * 2**20


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_audits_take_no_more_memory_than_some():
    def work(_):
        audit(
            {"nb": GaussianNB(), "lr": LogisticRegression()},
            X,
            Y,
            attacks=["random-flips", "backdoor"],
            defenses={"forest": IsolationForest(n_estimators=10)},
            budgets=[0.2],
            cv=2,
            random_state=0,
            verbose=0,
        )

    _repeat(work, None, 10)
    before, resident = _n_objects(), _resident()
    _repeat(work, None, 20)
    assert (np.subtract(_n_objects(), before) < 20).all()
    assert _resident() - resident < 4 * 2**20
