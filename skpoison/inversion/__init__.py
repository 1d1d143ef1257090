"""Gradient inversion: inputs recovered from the gradients that a client shares.

Names load on first use.
"""

from skpoison.utils._lazy import load_on_use

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
__getattr__, __dir__ = load_on_use(__name__, _MODULES)
