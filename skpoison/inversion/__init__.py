"""Gradient inversion: inputs recovered from the gradients that a client shares.

Names load on first use.
"""

import importlib

_MODULES = {
    "AnalyticInversion": "_analytic",
    "BatchNormStatistics": "_priors",
    "GradientInversion": "_inversion",
    "ReconstructionDisplay": "_display",
    "SquaredNorm": "_priors",
    "TotalVariation": "_priors",
    "client_update": "_client",
    "clip_update": "_countermeasures",
    "invert_linear": "_linear",
    "load_update": "_updates",
    "noise_update": "_countermeasures",
    "prune_update": "_countermeasures",
    "recover_labels": "_labels",
    "save_update": "_updates",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        module = importlib.import_module(f"skpoison.inversion.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'skpoison.inversion' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
