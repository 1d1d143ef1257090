"""Attacks on training data, and the triggers of backdoors."""

from skpoison.attacks._back_gradient import BackGradientAttack
from skpoison.attacks._backdoor import BackdoorAttack, CleanLabelBackdoorAttack
from skpoison.attacks._bilevel import BilevelPoisoningAttack
from skpoison.attacks._column_trigger import ColumnTrigger
from skpoison.attacks._gradient import implicit_gradient
from skpoison.attacks._influence import InfluenceAttack
from skpoison.attacks._label_flip import LabelFlipAttack
from skpoison.attacks._regression import RegressionPoisoningAttack
from skpoison.attacks._triggers import (
    BlendTrigger,
    PatchTrigger,
    SinusoidTrigger,
)

__all__ = [
    "BackGradientAttack",
    "BackdoorAttack",
    "BilevelPoisoningAttack",
    "BlendTrigger",
    "CleanLabelBackdoorAttack",
    "ColumnTrigger",
    "InfluenceAttack",
    "LabelFlipAttack",
    "PatchTrigger",
    "RegressionPoisoningAttack",
    "SinusoidTrigger",
    "implicit_gradient",
]
