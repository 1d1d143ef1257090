"""Sweeps over attacks, and their drawings."""

from skpoison.model_selection._curve import RobustnessCurveDisplay, robustness_curve

__all__ = ["RobustnessCurveDisplay", "robustness_curve"]
