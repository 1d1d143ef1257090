"""Test-time attacks: inputs within a radius that a fitted model misreads.

Names load on first use.
"""

import importlib

_MODULES = {
    "APGD": "_apgd",
    "AdversarialClassifier": "_adversarial_training",
    "FGSM": "_fgsm",
    "MomentumPGD": "_momentum",
    "PGD": "_pgd",
    "RobustAccuracyDisplay": "_display",
    "WITCHcraft": "_witchcraft",
    "robust_accuracy": "_scoring",
    "robustness_report": "_scoring",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        module = importlib.import_module(f"skpoison.evasion.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'skpoison.evasion' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
