"""Attacks on training data, and the triggers of backdoors."""

from skpoison.attacks._adaptation import Adaptation
from skpoison.attacks._back_gradient import BackGradientAttack
from skpoison.attacks._backdoor import BackdoorAttack, CleanLabelBackdoorAttack
from skpoison.attacks._backdoor_variants import (
    AllToAllBackdoor,
    BlendBackdoor,
    SinusoidBackdoor,
)
from skpoison.attacks._bilevel import BilevelPoisoningAttack
from skpoison.attacks._column_trigger import ColumnTrigger
from skpoison.attacks._feature_collision import (
    FeatureCollisionAttack,
    WatermarkAttack,
)
from skpoison.attacks._gradient import implicit_gradient
from skpoison.attacks._gradient_matching import (
    GradientMatchingAttack,
    step_size_from_tau,
)
from skpoison.attacks._hidden_trigger import HiddenTriggerBackdoorAttack
from skpoison.attacks._influence import InfluenceAttack
from skpoison.attacks._label_flip import LabelFlipAttack
from skpoison.attacks._metapoison import MetaPoisonAttack
from skpoison.attacks._polytope import BullseyePolytopeAttack, ConvexPolytopeAttack
from skpoison.attacks._protect import protect_images
from skpoison.attacks._random_patch import RandomPatchTrigger
from skpoison.attacks._regression import RegressionPoisoningAttack
from skpoison.attacks._release import ReleasePoisonAttack
from skpoison.attacks._sleeper_agent import SleeperAgentAttack
from skpoison.attacks._triggers import (
    BlendTrigger,
    PatchTrigger,
    SinusoidTrigger,
)

__all__ = [
    "Adaptation",
    "AllToAllBackdoor",
    "BackGradientAttack",
    "BackdoorAttack",
    "BilevelPoisoningAttack",
    "BlendBackdoor",
    "BlendTrigger",
    "BullseyePolytopeAttack",
    "CleanLabelBackdoorAttack",
    "ColumnTrigger",
    "ConvexPolytopeAttack",
    "FeatureCollisionAttack",
    "GradientMatchingAttack",
    "HiddenTriggerBackdoorAttack",
    "InfluenceAttack",
    "LabelFlipAttack",
    "MetaPoisonAttack",
    "PatchTrigger",
    "RandomPatchTrigger",
    "RegressionPoisoningAttack",
    "ReleasePoisonAttack",
    "SinusoidBackdoor",
    "SinusoidTrigger",
    "SleeperAgentAttack",
    "WatermarkAttack",
    "implicit_gradient",
    "protect_images",
    "step_size_from_tau",
]
