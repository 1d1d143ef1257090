"""Neural classifiers and regressors, and the networks they train."""

from skpoison.models._augment import ShiftFlip
from skpoison.models._estimators import TorchClassifier, TorchRegressor
from skpoison.models._features import extract_features
from skpoison.models._modules import (
    MLP,
    ConvNet,
    LeNet,
    LinearModel,
    Normalized,
)
from skpoison.models._processes import SplitBatches
from skpoison.models._recipes import training_recipe
from skpoison.models._resnets import ResNet18, ResNet20
from skpoison.models._sklearn_modules import as_module
from skpoison.models._together import can_train_together, fit_together

__all__ = [
    "ConvNet",
    "LeNet",
    "LinearModel",
    "MLP",
    "Normalized",
    "ResNet18",
    "ResNet20",
    "ShiftFlip",
    "SplitBatches",
    "TorchClassifier",
    "TorchRegressor",
    "as_module",
    "can_train_together",
    "extract_features",
    "fit_together",
    "training_recipe",
]
