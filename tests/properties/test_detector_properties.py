"""Detectors: masks of the right kind on data of any kind, good or odd."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties._strategies import FRAMES, LABELS, LAYOUTS, SEEDS, as_bytes, tables
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from skpoison.defenses import (
    RONI,
    STRIP,
    ActivationClustering,
    DataSanitizer,
    DeepKNN,
    LabelIssueDetector,
    PoisonDetector,
    SpectralSignatures,
)

pytestmark = pytest.mark.filterwarnings("ignore")

#: Their scores depend on the set of rows alone.
_UNORDERED = [
    SpectralSignatures(features="input"),
    DeepKNN(features="input"),
    DataSanitizer("sphere"),
    DataSanitizer("slab"),
    DataSanitizer("sphere+slab"),
    DataSanitizer("knn"),
    DataSanitizer("svd"),
]
_DETECTORS = [
    *_UNORDERED,
    DataSanitizer("loss"),
    ActivationClustering(features="input", random_state=0),
    LabelIssueDetector([GaussianNB()], cv=2, random_state=0),
    PoisonDetector(features="input", cv=2, random_state=0),
    RONI(GaussianNB(), n_trials=1, n_calibration=3, max_fits=60, random_state=0),
    STRIP(LogisticRegression(), n_overlays=4, false_rejection=0.1, random_state=0),
]


def _name(detector):
    return f"{type(detector).__name__}-{getattr(detector, 'rule', '')}"


@pytest.mark.slow
@pytest.mark.parametrize("detector", _DETECTORS, ids=_name)
@given(
    data=tables(n_classes=2),
    labels=st.sampled_from(["text", "negative", "bool", "objects"]),
    layout=st.sampled_from([*LAYOUTS, *FRAMES]),
)
def test_masks_fit_the_rows(detector, data, labels, layout):
    X, y = data[0], LABELS[labels](data[1])
    given_X = {**LAYOUTS, **FRAMES}[layout](X)
    before = as_bytes(given_X)
    found = clone(detector).fit(given_X, y)
    plain = clone(detector).fit(X, y)
    assert as_bytes(given_X) == before
    if isinstance(detector, STRIP):
        np.testing.assert_array_equal(found.predict(given_X), plain.predict(X))
        assert set(found.predict(given_X)) <= {-1, 1}
        return
    assert found.is_clean_.shape == (len(X),) and found.is_clean_.dtype == bool
    assert found.scores_.shape == (len(X),) and not np.isnan(found.scores_).any()
    assert found.n_removed_ == (~found.is_clean_).sum()
    np.testing.assert_allclose(found.scores_, plain.scores_, rtol=1e-6, atol=1e-9)
    # no class is lost, and what is kept is what was given
    assert set(y[found.is_clean_]) == set(y)
    X_kept, y_kept = clone(detector).fit_resample(X, y)
    np.testing.assert_array_equal(X_kept, X[plain.is_clean_])
    np.testing.assert_array_equal(y_kept, y[plain.is_clean_])


@pytest.mark.parametrize("detector", _UNORDERED, ids=_name)
@given(data=tables(n_classes=2), pick=st.data())
def test_scores_move_with_the_rows(detector, data, pick):
    X, y = data
    # ties are broken by place: rows are put apart
    X = X + 1e-3 * np.random.RandomState(0).rand(*X.shape)
    order = np.array(pick.draw(st.permutations(range(len(X)))))
    plain = clone(detector).fit(X, y).scores_
    moved = clone(detector).fit(X[order], y[order]).scores_
    np.testing.assert_allclose(moved, plain[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("detector", _DETECTORS, ids=_name)
@given(
    n=st.integers(2, 9),
    d=st.integers(1, 3),
    n_classes=st.integers(1, 4),
    kind=st.sampled_from(["random", "constant", "equal", "large", "tiny"]),
    seed=SEEDS,
)
def test_odd_data_are_judged_or_refused(detector, n, d, n_classes, kind, seed):
    rng = np.random.RandomState(seed)
    X, y = rng.rand(n, d), rng.randint(0, n_classes, n)
    if kind == "constant":
        X[:] = 0.5
    elif kind == "equal":
        X[1:] = X[0]
    else:
        X *= {"random": 1, "large": 1e12, "tiny": 1e-12}[kind]
    try:
        found = clone(detector).fit(X, y)
    except ValueError as error:
        assert len(str(error)) > 10
        return
    if not isinstance(detector, STRIP):
        assert len(found.is_clean_) == n and not np.isnan(found.scores_).any()
        assert set(y[found.is_clean_]) == set(y)
