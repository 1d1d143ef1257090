"""Neural classifiers and regressors, and the networks they train."""

from skpoison.models._estimators import TorchClassifier, TorchRegressor
from skpoison.models._modules import MLP, ConvNet, LinearModel, ResNet18, ResNet20

__all__ = [
    "ConvNet",
    "LinearModel",
    "MLP",
    "ResNet18",
    "ResNet20",
    "TorchClassifier",
    "TorchRegressor",
]
