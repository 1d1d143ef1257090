"""Scores of attacks, detectors and their uncertainty."""

from skpoison.metrics._attack import attack_success_score, wilson_interval
from skpoison.metrics._detection import detection_report
from skpoison.metrics._trigger import trigger_scorer

__all__ = [
    "attack_success_score",
    "detection_report",
    "trigger_scorer",
    "wilson_interval",
]
