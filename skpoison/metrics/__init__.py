"""Scores of attacks, detectors and reconstructions, and their uncertainty."""

from skpoison.metrics._attack import attack_success_score, wilson_interval
from skpoison.metrics._detection import detection_report
from skpoison.metrics._images import (
    feature_mse,
    match_reconstruction,
    psnr,
    ssim,
)
from skpoison.metrics._trigger import trigger_scorer

__all__ = [
    "attack_success_score",
    "detection_report",
    "feature_mse",
    "match_reconstruction",
    "psnr",
    "ssim",
    "trigger_scorer",
    "wilson_interval",
]
