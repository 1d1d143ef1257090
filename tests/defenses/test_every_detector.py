"""What every detector of the table promises, on ordinary and on degenerate data."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from _instances import detectors
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB

from skpoison.compose import FilteredEstimator

X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]


def _name(detector):
    given = {
        k: v
        for k, v in detector.get_params(deep=False).items()
        if isinstance(v, str | int | float) and not isinstance(v, bool)
    }
    changed = {
        k: v
        for k, v in given.items()
        if v != type(detector)().get_params(deep=False)[k]
    }
    return "-".join([type(detector).__name__, *map(str, changed.values())])


every_detector = pytest.mark.parametrize("detector", detectors(), ids=_name)


def fitted(detector, X, y):
    """Fit a seeded copy, warnings allowed, errors not; check what was promised."""
    detector = clone(detector)
    if "random_state" in detector.get_params():
        detector.set_params(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(X, y)
    assert detector.scores_.shape == detector.is_clean_.shape == (len(y),)
    assert np.isfinite(detector.scores_).all()
    assert detector.is_clean_.dtype == bool
    assert detector.n_removed_ == (~detector.is_clean_).sum()
    np.testing.assert_array_equal(
        detector.sample_indices_, np.flatnonzero(detector.is_clean_)
    )
    kept = np.asarray(y)[detector.is_clean_]
    np.testing.assert_array_equal(np.unique(kept), np.unique(y))  # no class is gone
    return detector


@pytest.mark.slow
@every_detector
def test_ordinary(detector):
    found = fitted(detector, X, Y)
    assert found.n_removed_ < len(Y) / 2
    again = fitted(detector, X, np.array([f"digit {k}" for k in Y]))
    np.testing.assert_array_equal(found.is_clean_, again.is_clean_)
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy.scores_, found.scores_)
    kept, labels = clone(found).fit_resample(X, Y)
    np.testing.assert_array_equal(kept, X[found.is_clean_])
    np.testing.assert_array_equal(labels, Y[found.is_clean_])


@every_detector
def test_global_streams_stay(detector):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    fitted(detector, X, Y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


RARE = np.concatenate([np.flatnonzero(Y < 3), np.flatnonzero(Y == 5)[:1]])
DEGENERATE = {
    "a class of one row": (X[RARE], Y[RARE]),
    "constant features": (np.hstack([X, np.ones((300, 5))]), Y),
    "all rows equal": (np.ones((60, 4)), np.arange(60) % 3),
    "rows twice": (np.repeat(X[:80], 2, axis=0), np.repeat(Y[:80], 2)),
    "one column": (X[:, 20:21], Y),
    "two classes of two rows": (X[[0, 10, 1, 11]], Y[[0, 10, 1, 11]]),
    "a class of three rows": (X[np.r_[0:90]], np.r_[[7, 7, 7], Y[3:90] % 2]),
    "huge": (X * 1e12, Y),
    "tiny": (X * 1e-12, Y),
}


@every_detector
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate(detector, case):
    fitted(detector, *DEGENERATE[case])


@every_detector
def test_labels_that_mean_nothing(detector):
    shuffled = np.random.default_rng(0).permutation(Y)
    fitted(detector, X, shuffled)


@every_detector
def test_images(detector):
    pixels = np.rint(X * 255).astype(np.uint8).reshape(-1, 1, 8, 8)
    detector = clone(detector)
    if isinstance(
        getattr(detector, "estimator", None), LogisticRegression | GaussianNB
    ):
        detector.set_params(estimator=None)  # what takes images
    before = pixels.copy()
    fitted(detector, pixels, Y)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.slow
@every_detector
def test_in_a_search_over_filters(detector):
    other = clone(detector)
    search = GridSearchCV(
        FilteredEstimator(detector, LogisticRegression(), random_state=0),
        {"detector": [detector, other], "estimator__C": [0.1, 1.0]},
        cv=2,
        error_score="raise",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    first, second = search.cv_results_["mean_test_score"].reshape(2, 2)
    np.testing.assert_array_equal(first, second)  # one seed, one result
    assert first.min() > 0.75
