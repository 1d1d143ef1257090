"""Losses of validation scores, and their gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_softmax
from sklearn.metrics import hinge_loss
from sklearn.metrics import log_loss as log_loss_of_probabilities

from skpoison.attacks._implicit._objectives import (
    cross_entropy,
    hinge,
    log_loss,
    multiclass_hinge,
    resolve_objective,
    squared_error,
)

PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def scores_and_codes(n_scores, n_classes, m=9, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=m)
    return scale * rng.normal(size=(m, n_scores)), y


def differences(objective, scores, y, h=1e-6):
    gradient = np.zeros(scores.shape)
    for place in np.ndindex(scores.shape):
        values = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[place] += sign * h
            values.append(objective(moved, y)[0])
        gradient[place] = (values[0] - values[1]) / (2 * h)
    return gradient


@pytest.mark.parametrize(
    ("objective", "n_scores", "n_classes"),
    [
        (hinge, 1, 2),
        (log_loss, 1, 2),
        (hinge, 6, 4),
        (log_loss, 6, 4),
        (hinge, 3, 3),
        (log_loss, 3, 3),
        (multiclass_hinge, 4, 4),
        (cross_entropy, 4, 4),
        (cross_entropy, 2, 2),
        (squared_error, 1, 2),
    ],
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_gradients(objective, n_scores, n_classes, scale):
    scores, y = scores_and_codes(n_scores, n_classes, scale=scale)
    before = scores.copy()
    value, gradient = objective(scores, y)
    assert type(value) is float and gradient.shape == scores.shape
    assert_array_equal(scores, before)
    assert_allclose(gradient, differences(objective, scores, y), atol=1e-8)


def test_values_are_scikit_learns():
    scores, y = scores_and_codes(1, 2)
    flat = scores[:, 0]
    assert_allclose(hinge(scores, y)[0], hinge_loss(y, flat))
    assert_allclose(log_loss(scores, y)[0], log_loss_of_probabilities(y, expit(flat)))
    scores, y = scores_and_codes(4, 4)
    y[:4] = range(4)
    assert_allclose(
        multiclass_hinge(scores, y)[0], hinge_loss(y, scores, labels=range(4))
    )
    own = log_softmax(scores, axis=1)[np.arange(len(y)), y]
    assert_allclose(cross_entropy(scores, y)[0], -own.mean())


def test_pairs():
    """A row counts in the pairs of its own class only, each with its own sign."""
    scores, y = scores_and_codes(len(PAIRS), 4)
    for objective, loss in (
        (hinge, lambda z: max(0.0, 1 - z)),
        (log_loss, lambda z: np.log1p(np.exp(-z))),
    ):
        total = 0.0
        for row, code in zip(scores, y, strict=True):
            for z, (i, j) in zip(row, PAIRS, strict=True):
                if code in (i, j):
                    total += loss(z if code == i else -z)
        value, gradient = objective(scores, y)
        assert_allclose(value, total / len(y))
        strangers = [[code not in pair for pair in PAIRS] for code in y]
        assert (gradient[np.array(strangers)] == 0).all()


@pytest.mark.parametrize(
    "rows", [[[2.0, 2.0, 2.0]], [[3.0, 3.0, 1.0], [1.0, 3.0, 3.0]]]
)
def test_ties_of_the_best_rival(rows):
    """One of the rivals that are equal carries the whole derivative."""
    scores, y = np.array(rows), np.zeros(len(rows), dtype=int)
    value, gradient = multiclass_hinge(scores, y)
    assert_allclose(value, np.mean([1 + max(r[1:]) - r[0] for r in rows]))
    assert_allclose(gradient.sum(axis=1), 0, atol=1e-15)
    assert (np.count_nonzero(gradient, axis=1) == 2).all()


def test_a_margin_of_one_has_no_slope():
    for objective, scores in (
        (hinge, [[1.0]]),
        (multiclass_hinge, [[0.5, 1.5, 0.0]]),
    ):
        value, gradient = objective(np.array(scores), np.array([1]))
        assert value == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("objective", "n_scores", "n_classes"),
    [
        (hinge, 1, 2),
        (log_loss, 1, 2),
        (hinge, 6, 4),
        (log_loss, 6, 4),
        (multiclass_hinge, 4, 4),
        (cross_entropy, 4, 4),
    ],
)
@pytest.mark.parametrize("scale", [1e4, 1e8])
def test_extreme_scores(objective, n_scores, n_classes, scale):
    scores, y = scores_and_codes(n_scores, n_classes, scale=scale)
    with np.errstate(all="raise", under="ignore"):
        value, gradient = objective(scores, y)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    limit = {log_loss: hinge, cross_entropy: multiclass_hinge}.get(objective)
    if limit is not None:  # but for the margin of one, three times a row at most
        assert_allclose(value, limit(scores, y)[0], rtol=0, atol=3)
        assert_allclose(gradient, limit(scores, y)[1], atol=1e-12)


@pytest.mark.parametrize("lead", [1e-3, 1.0, 40.0, 300.0])
def test_digits_of_confident_scores(lead):
    """Nothing is lost to rounding where the own class is nearly certain."""
    for objective, scores in (
        (log_loss, [[lead]]),
        (log_loss, [[-lead, 0.0, lead], [-lead, 7.0, lead]]),
        (cross_entropy, [[-lead / 2, lead / 2]]),
    ):
        scores = np.array(scores)
        y = np.ones(len(scores), dtype=int)
        value, gradient = objective(scores, y)
        n_pairs = 2 if scores.shape[1] == 3 else 1
        assert_allclose(value, n_pairs * np.log1p(np.exp(-lead)), rtol=1e-13)
        own = np.abs(gradient[gradient != 0]) * len(y)
        assert_allclose(own, expit(-lead), rtol=1e-13)
    _, gradient = cross_entropy(np.array([[0.0, lead, -lead]]), np.array([1]))
    assert_allclose(gradient.sum(), 0, atol=1e-16 * np.abs(gradient).max())


def test_resolve():
    def resolve(objective, kind, own=None):
        learner = SimpleNamespace(score_kind=kind)
        if own is not None:
            learner.objective = own
        return resolve_objective(objective, learner)

    assert resolve("auto", "binary") is log_loss
    assert resolve("auto", "softmax") is cross_entropy
    assert resolve("auto", "ovr") is multiclass_hinge
    assert resolve("auto", "ovo") is hinge
    assert resolve("auto", "regression") is squared_error
    assert resolve("auto", "binary", "hinge") is hinge
    assert resolve("log_loss", "ovr") is cross_entropy
    assert resolve("log_loss", "ovo") is log_loss
    assert resolve("hinge", "softmax") is multiclass_hinge
    with pytest.raises(ValueError, match="does not fit a classifier"):
        resolve("squared_error", "ovo")
    with pytest.raises(ValueError, match="does not fit a regressor"):
        resolve("log_loss", "regression")


def test_callables():
    scores, y = scores_and_codes(1, 2)
    learner = SimpleNamespace(score_kind="binary")

    def own(scores, y):
        return np.array([2]), list(range(len(y)))

    value, gradient = resolve_objective(own, learner)(scores, y)
    assert type(value) is float and value == 2.0
    assert_array_equal(gradient, np.arange(9.0)[:, None])
    for wrong in (2.0, (1, 2, 3), (0.0, np.ones((9, 2))), (np.ones(9), np.ones(9))):
        with pytest.raises(ValueError, match=r"must return a number and its gradient"):
            resolve_objective(lambda s, y, wrong=wrong: wrong, learner)(scores, y)
