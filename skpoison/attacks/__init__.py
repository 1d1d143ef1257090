"""Attacks on training data, and the triggers of backdoors."""

from skpoison.attacks._backdoor import BackdoorAttack, CleanLabelBackdoorAttack
from skpoison.attacks._column_trigger import ColumnTrigger
from skpoison.attacks._label_flip import LabelFlipAttack
from skpoison.attacks._triggers import (
    BlendTrigger,
    PatchTrigger,
    SinusoidTrigger,
)

__all__ = [
    "BackdoorAttack",
    "BlendTrigger",
    "CleanLabelBackdoorAttack",
    "ColumnTrigger",
    "LabelFlipAttack",
    "PatchTrigger",
    "SinusoidTrigger",
]
