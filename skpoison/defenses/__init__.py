"""Training that poisons cannot bite, and detectors that find them.

Names load on first use: a detector does not pay for torch.
"""

import importlib

_MODULES = {
    "BaseDetector": "_detectors",
    "LabelIssueDetector": "_detectors",
    "Mixup": "_augmentation",
    "MixupClassifier": "_augmentation",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        module = importlib.import_module(f"skpoison.defenses.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'skpoison.defenses' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
