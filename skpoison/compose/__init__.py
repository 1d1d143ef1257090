"""Meta-estimators that poison or filter the training set of any estimator."""

from skpoison.compose._estimators import FilteredEstimator, PoisonedEstimator

__all__ = ["FilteredEstimator", "PoisonedEstimator"]
