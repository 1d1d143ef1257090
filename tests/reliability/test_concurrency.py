"""Threads and processes that share objects, seeds and a machine: serial results."""

import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from torch import nn

from skpoison.attacks import (
    BackdoorAttack,
    CleanLabelBackdoorAttack,
    FeatureCollisionAttack,
    InfluenceAttack,
    LabelFlipAttack,
    ReleasePoisonAttack,
)
from skpoison.compose import PoisonedEstimator
from skpoison.defenses import (
    RONI,
    STRIP,
    ActivationClustering,
    DeepPartitionAggregationClassifier,
    DPSGDClassifier,
    LabelFlipSmoothingClassifier,
    LabelIssueDetector,
    MixupClassifier,
    PoisonDetector,
)
from skpoison.evasion import PGD, MomentumPGD
from skpoison.federated import FederatedClassifier, SignFlipAttack
from skpoison.model_selection import robustness_curve
from skpoison.models import TorchClassifier

X, Y = load_iris(return_X_y=True)
X = (X - X.min(axis=0)) / np.ptp(X, axis=0)
X, Y = X[::3], Y[::3]


class Dropping(nn.Module):
    """Draws from torch's global stream whenever it trains."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features_in, 16), nn.Dropout(0.5), nn.Linear(16, n_outputs)
        )

    def forward(self, X):
        return self.layers(X)


NET = TorchClassifier(Dropping, max_epochs=3, device="cpu", random_state=0)
FITTED = [
    NET,
    MixupClassifier(Dropping, max_epochs=3, device="cpu", random_state=0),
    DPSGDClassifier(max_epochs=1, device="cpu", random_state=0),
    DeepPartitionAggregationClassifier(GaussianNB(), n_partitions=3),
    LabelFlipSmoothingClassifier(n_draws=40, random_state=0),
    FederatedClassifier(n_clients=5, n_rounds=5, random_state=0),
    FederatedClassifier(Dropping, n_clients=5, n_rounds=3, random_state=0),
    FederatedClassifier(
        SGDClassifier(loss="log_loss"), n_clients=5, n_rounds=3, random_state=0
    ),
    STRIP(LogisticRegression(), random_state=0),
    BackdoorAttack(random_state=0),
    CleanLabelBackdoorAttack(random_state=0),
    InfluenceAttack(max_iter=2, random_state=0),
    FeatureCollisionAttack(surrogate=NET, max_iter=2, budget=0.2, random_state=0),
    ReleasePoisonAttack(surrogate=NET, max_iter=2, online=True, random_state=0),
    PGD(NET, max_iter=3, random_state=0),
    MomentumPGD(NET, max_iter=3, random_state=0),
    PoisonedEstimator(BackdoorAttack(), LogisticRegression(), random_state=0),
]
#: What an object answers with; none of them is to change it.
METHODS = ["predict", "predict_proba", "decision_function", "score_samples"]
METHODS += ["certify", "transform", "perturb", "protect", "apply_trigger"]
#: What a fit leaves.
RESULTS = ["scores_", "outlier_scores_", "location_", "poison_mask_"]


def _answers(model):
    """Return what each of a model's methods says of X."""
    found = []
    for name in METHODS:
        if hasattr(model, name):
            labels = [Y] if name in ("perturb", "protect") else []
            answer = getattr(model, name)(X, *labels)
            found += answer if isinstance(answer, tuple) else [answer]
    return found + [vars(model)[name] for name in RESULTS if name in vars(model)]


def _same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def _at_once(function, arguments):
    """Call a function in threads that all begin at the same moment."""
    barrier = threading.Barrier(len(arguments))

    def begin(argument):
        barrier.wait()
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(begin, arguments))


@pytest.fixture
def switching():
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def _name(model):
    inner = getattr(model, "estimator", None)
    return type(model).__name__ + (f"-{inner.__name__}" if type(inner) is type else "")


@pytest.mark.parametrize("model", FITTED, ids=_name)
def test_threads_that_share_a_fitted_object(model, switching):
    model = clone(model).fit(X, Y)
    serial = _answers(model)
    for answers in _at_once(_answers, [model] * 8):
        _same(answers, serial)


def _numpy_state():
    return np.random.get_state()[1].tobytes()  # noqa: NPY002


def _fit(model):
    model.fit(X, Y)
    return _answers(model)


SEEDED = [
    NET,
    MixupClassifier(Dropping, max_epochs=3, device="cpu"),
    DPSGDClassifier(Dropping, max_epochs=1, device="cpu"),
    FederatedClassifier(Dropping, n_clients=5, n_rounds=2, attack=SignFlipAttack()),
    ReleasePoisonAttack(surrogate=clone(NET).set_params(random_state=None), max_iter=2),
    PGD(clone(NET).set_params(random_state=None), max_iter=2),
    LabelIssueDetector(cv=3),
    PoisonDetector(clone(NET).set_params(random_state=None)),
    ActivationClustering(clone(NET).set_params(random_state=None)),
    RONI(GaussianNB(), n_trials=1, max_fits=30),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", SEEDED, ids=_name)
def test_threads_that_fit_with_seeds_of_their_own(model, switching):
    seeds = range(4)
    serial = [_fit(clone(model).set_params(random_state=s)) for s in seeds]
    torch.manual_seed(7)
    numpy_state = _numpy_state()
    state = torch.random.get_rng_state()
    models = [clone(model).set_params(random_state=s) for s in seeds]
    for found, expected in zip(_at_once(_fit, models), serial, strict=True):
        _same(found, expected)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert _numpy_state() == numpy_state


def test_seeds_make_a_difference():
    one, other = (_fit(clone(NET).set_params(random_state=s)) for s in (0, 1))
    assert not np.array_equal(one[1], other[1])


def _curve():
    attack = LabelFlipAttack(random_state=0)
    options = {"attack": attack, "param_range": [0, 0.2], "cv": 2, "n_jobs": 2}
    curve = robustness_curve(
        TorchClassifier(max_epochs=2, device="cpu", random_state=0), X, Y, **options
    )
    return [curve.clean_score, curve.attack_success]


@pytest.mark.parametrize(
    "backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_backends_of_joblib_give_the_same_bits(backend):
    with parallel_config("sequential"):
        serial = _curve()
    with parallel_config(backend):
        _same(_curve(), serial)


@pytest.mark.parametrize(
    "method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_processes_get_the_same_object(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    model = TorchClassifier(max_epochs=2, device="cpu", random_state=0).fit(X, Y)
    with multiprocessing.get_context(method).Pool(1) as pool:
        there = pool.apply(model.predict_proba, [X])
    _same([there], [model.predict_proba(X)])


# scikit-learn itself can't be imported first by several threads at once
FRESH = """
import importlib, sys, threading
import sklearn.base
names = sys.argv[1:]
barrier, failures = threading.Barrier(len(names)), []
def load(name):
    barrier.wait()
    try:
        module, _, attribute = name.rpartition(".")
        getattr(importlib.import_module(module), attribute)
    except BaseException as error:
        failures.append(f"{name}: {error!r}")
threads = [threading.Thread(target=load, args=[name]) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
assert not any(thread.is_alive() for thread in threads), "deadlock"
assert not failures, failures
"""


@pytest.mark.slow
def test_threads_that_import_at_once():
    names = [
        "skpoison.audit.audit",
        "skpoison.federated.FederatedClassifier",
        "skpoison.attacks.ReleasePoisonAttack",
        "skpoison.attacks.BackdoorAttack",
        "skpoison.defenses.MixupClassifier",
        "skpoison.evasion.PGD",
        "skpoison.models.TorchClassifier",
        "skpoison.partition.LiftedPartition",
    ]
    subprocess.run([sys.executable, "-c", FRESH, *names], check=True, timeout=240)
