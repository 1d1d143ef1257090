"""Test-time attacks: inputs within a radius that a fitted model misreads.

Names load on first use.
"""

from skpoison.utils._lazy import load_on_use

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
__getattr__, __dir__ = load_on_use(__name__, _MODULES)
