import math

import numpy as np
import pytest

from skpoison.metrics import detection_report

POISON = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
CLEAN = np.array([0, 0, 1, 0, 1, 1, 1, 1], dtype=bool)


def test_counts_and_shares_by_hand():
    report = detection_report(POISON, CLEAN, [9, 8, 3, 7, 1, 1, 1, 1])
    assert (report.n_removed, report.n_poison) == (3, 3)
    assert (report.n_caught, report.n_false_alarms) == (2, 1)
    assert report.precision == report.recall == report.f1 == 2 / 3
    assert report.false_positive_rate == 1 / 5
    assert report.auc == 14 / 15  # of 15 pairs, only (3, 7) is the wrong way round


def test_perfect_detection_and_ties():
    report = detection_report(POISON, ~POISON, POISON.astype(float))
    assert report.precision == report.recall == report.f1 == report.auc == 1.0
    assert report.false_positive_rate == 0.0
    assert detection_report(POISON, CLEAN, np.zeros(8)).auc == 0.5


def test_undefined_shares_are_nan_and_not_zero():
    nothing = detection_report(np.zeros(4, bool), np.ones(4, bool), np.arange(4.0))
    for name in ("precision", "recall", "f1", "auc"):
        assert math.isnan(nothing[name]), name
    assert nothing.false_positive_rate == 0.0
    missed = detection_report([True, False], [True, True])
    assert math.isnan(missed.precision) and math.isnan(missed.auc)
    assert missed.recall == missed.f1 == 0.0
    assert math.isnan(detection_report([1, 1], [0, 0]).false_positive_rate)


def test_agrees_with_scikit_learn():
    from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

    rng = np.random.RandomState(0)
    poison, clean = rng.rand(200) < 0.2, rng.rand(200) < 0.7
    scores = rng.rand(200) + poison
    report = detection_report(poison, clean, scores)
    assert report.precision == pytest.approx(precision_score(poison, ~clean))
    assert report.recall == pytest.approx(recall_score(poison, ~clean))
    assert report.f1 == pytest.approx(f1_score(poison, ~clean))
    assert report.auc == pytest.approx(roc_auc_score(poison, scores))


@pytest.mark.parametrize(
    "args, match",
    [
        (([True, False], [True]), "inconsistent"),
        (([True, False], [True, False], [1.0]), "inconsistent"),
        (([1, -1], [True, False]), "is_poison must be"),
        (([True, False], [1, -1]), "is_clean must be"),
        (([[True]], [True]), "is_poison must be"),
        (([True, False], [True, False], [np.nan, 1.0]), "NaN"),
    ],
)
def test_bad_input(args, match):
    with pytest.raises(ValueError, match=match):
        detection_report(*args)
