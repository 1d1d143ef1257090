"""Sweeps over attacks, trials of targeted ones, published settings, drawings."""

from skpoison.model_selection._curve import RobustnessCurveDisplay, robustness_curve
from skpoison.model_selection._leakage import LeakageCurveDisplay, leakage_curve
from skpoison.model_selection._published import (
    PublishedFigure,
    PublishedSetting,
    benchmark_trial,
    published_setting,
    published_settings,
)
from skpoison.model_selection._targeted import TargetedReport, evaluate_targeted

__all__ = [
    "LeakageCurveDisplay",
    "PublishedFigure",
    "PublishedSetting",
    "RobustnessCurveDisplay",
    "TargetedReport",
    "benchmark_trial",
    "evaluate_targeted",
    "leakage_curve",
    "published_setting",
    "published_settings",
    "robustness_curve",
]
