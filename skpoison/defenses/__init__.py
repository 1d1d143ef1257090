"""Training that poisons cannot bite, and detectors that find them.

Names load on first use: a detector does not pay for torch.
"""

import importlib

_MODULES = {
    "AdversarialPoison": "_adversarial",
    "AdversarialPoisonClassifier": "_adversarial",
    "AugmentedClassifier": "_augmentation",
    "BaseDetector": "_detectors",
    "Compose": "_hooks",
    "CutMix": "_plain_hooks",
    "CutMixClassifier": "_augmentation",
    "Cutout": "_plain_hooks",
    "CutoutClassifier": "_augmentation",
    "DPInstaHideClassifier": "_instahide",
    "DPSGDClassifier": "_dpsgd",
    "GradientShapingClassifier": "_shaping",
    "InstaHideRelease": "_instahide",
    "LabelIssueDetector": "_detectors",
    "MaxUp": "_hooks",
    "MaxUpClassifier": "_augmentation",
    "Mixup": "_plain_hooks",
    "MixupClassifier": "_augmentation",
    "Noise": "_plain_hooks",
    "NoiseClassifier": "_augmentation",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        module = importlib.import_module(f"skpoison.defenses.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'skpoison.defenses' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
