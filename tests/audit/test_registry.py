"""The audit's registry: everything public is in it, and "auto" is right by kind."""

import inspect
from importlib import import_module

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.audit import AuditContext
from skpoison.audit._registry import ATTACKS, DEFENSES
from skpoison.federated import FederatedClassifier
from skpoison.models import TorchClassifier

TABLE, IMAGES = np.random.RandomState(0).rand(400, 64), np.zeros((400, 1, 8, 8))
TWO, NUMBERS = np.arange(400) % 2, np.arange(400.0)
CONTEXTS = {
    "table": AuditContext.of(LogisticRegression(), TABLE, TWO),
    "numbers": AuditContext.of(Ridge(), TABLE, NUMBERS),
    "images": AuditContext.of(TorchClassifier(), IMAGES, TWO),
    "clients": AuditContext.of(FederatedClassifier(), TABLE, TWO, clients=True),
}
VICTIMS = {
    "table": make_pipeline(StandardScaler(), LogisticRegression()),
    "numbers": Ridge(),
    "images": TorchClassifier(),
    "clients": FederatedClassifier(),
}

#: Why a public class has no entry of its own.
NO_ENTRY = {
    # parts of others
    "Adaptation": "what an adaptive attacker knows, set where it applies",
    "BlendTrigger": "a trigger",
    "ColumnTrigger": "the default trigger on tables",
    "SinusoidTrigger": "a trigger",
    "AdversarialPoison": "a batch hook, behind adversarial-poisons",
    "AugmentedClassifier": "any hook; those with names have entries",
    "Compose": "batch hooks in a row",
    "CutMix": "a batch hook, behind cutmix",
    "Cutout": "a batch hook, behind cutout",
    "MaxUp": "a batch hook, behind maxup",
    "Mixup": "a batch hook, behind mixup",
    "Noise": "a batch hook, behind noise",
    # no defense of a victim
    "InstaHideRelease": "a release: its rows have no source in the data",
    "SanitizedSVMBound": "a bound on one learner's loss",
    # a backdoor in the unit that clients train in, which the audit does not know
    "ModelReplacementAttack": "needs a trigger; mounted in FederatedClassifier",
    "Mean": "what 'none' aggregates by",
    # bases and results
    "BaseDetector": "a base",
    "BaseAggregator": "a base",
    "BaseUpdateAttack": "a base",
    "GramAggregator": "a base",
    "OrderAggregator": "a base",
    "PreAggregator": "a base",
    "RoundContext": "what an update attack sees",
    "RobustnessSweepDisplay": "a display",
    "RobustAccuracyDisplay": "a display",
}


def _parts(estimator):
    found = {type(estimator).__name__}
    for value in estimator.get_params(deep=True).values():
        if hasattr(value, "get_params") and not isinstance(value, type):
            found.add(type(value).__name__)
    return found


def _made():
    """Return the names of all classes that entries make, parts included."""
    found = set()
    for kind, context in CONTEXTS.items():
        for entry in ATTACKS.entries.values():
            if ATTACKS.applies(entry, context):
                found |= _parts(entry.make(context))
        for entry in DEFENSES.entries.values():
            if DEFENSES.applies(entry, context):
                found |= _parts(entry.wrap(VICTIMS[kind]))
    return found


def test_every_public_class_is_in_the_audit_or_says_why_not():
    public = set()
    for area in ("attacks", "defenses", "evasion", "federated"):
        module = import_module(f"skpoison.{area}")
        public |= {n for n in module.__all__ if inspect.isclass(getattr(module, n))}
    made = _made()
    assert public - made == set(NO_ENTRY)


AUTO = {
    "table": (
        ["random-flips", "adversarial-flips", "backdoor", "clean-label-backdoor"]
        + ["added-rows", "adaptive-flips", "adaptive-rows", "witchcraft"],
        ["label-filter", "sanitizer", "partition-aggregation"],
    ),
    "numbers": (
        ["influence-edits", "flipped-rows", "statp-rows", "regression-rows"]
        + ["adaptive-rows"],
        ["trim", "isolation-forest"],
    ),
    "images": (
        ["random-flips", "adversarial-flips", "backdoor", "clean-label-backdoor"]
        + ["gradient-matching", "watermark", "sleeper-agent", "release-alignment"]
        + ["blend-backdoor", "adaptive-gradient-matching", "witchcraft"],
        ["label-filter", "poison-detector", "mixup", "cutmix"],
    ),
}


@pytest.mark.parametrize("kind", AUTO)
def test_auto_is_right_by_kind(kind):
    names = [
        [entry.name for entry in registry.automatic(CONTEXTS[kind])]
        for registry in (ATTACKS, DEFENSES)
    ]
    assert tuple(names) == AUTO[kind]


def test_few_rows_are_not_shared_by_ten_models():
    context = AuditContext.of(LogisticRegression(), TABLE[:200], TWO[:200])
    names = [entry.name for entry in DEFENSES.automatic(context)]
    assert context.n_rarest == 100 and "partition-aggregation" not in names


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_entries_describe_themselves(registry):
    for name, entry in registry.entries.items():
        assert entry.name == name == name.lower() and " " not in name
        assert entry.summary and not entry.summary.endswith(".")
        if registry is ATTACKS:
            assert entry.threat_model.endswith(".")
            assert ("defense" in entry.threat_model) == entry.adaptive
