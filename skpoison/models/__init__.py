"""Neural classifiers and regressors, and the networks they train."""

from skpoison.models._augment import ShiftFlip
from skpoison.models._estimators import TorchClassifier, TorchRegressor
from skpoison.models._features import extract_features
from skpoison.models._modules import (
    MLP,
    ConvNet,
    LinearModel,
    Normalized,
    ResNet18,
    ResNet20,
)
from skpoison.models._recipes import training_recipe
from skpoison.models._together import can_train_together, fit_together

__all__ = [
    "ConvNet",
    "LinearModel",
    "MLP",
    "Normalized",
    "ResNet18",
    "ResNet20",
    "ShiftFlip",
    "TorchClassifier",
    "TorchRegressor",
    "can_train_together",
    "extract_features",
    "fit_together",
    "training_recipe",
]
