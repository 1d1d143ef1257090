"""Attacks at test time stay in their region and tell the truth about success."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties._strategies import LAYOUTS, as_bytes, tables
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from skpoison.evasion import (
    APGD,
    FGSM,
    PGD,
    MomentumPGD,
    WITCHcraft,
    robust_accuracy,
    robustness_report,
)

pytestmark = pytest.mark.filterwarnings("ignore")

_ATTACKS = [
    FGSM(),
    PGD(max_iter=3, random_state=0),
    PGD(max_iter=2, n_restarts=2, random_state=0),
    WITCHcraft(max_iter=3, random_state=0),
    MomentumPGD(max_iter=3),
    APGD(max_iter=4, random_state=0),
]


@pytest.mark.parametrize("attack", _ATTACKS, ids=lambda a: type(a).__name__)
@given(
    data=tables(),
    eps=st.sampled_from([0.0, 0.01, 0.2, 3.0]),
    norm=st.sampled_from(["linf", "l2"]),
    box=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    layout=st.sampled_from(list(LAYOUTS)),
    linear=st.booleans(),
)
def test_attacked_rows_stay_in_ball_and_box(
    attack, data, eps, norm, box, dtype, layout, linear
):
    X, y = data[0].astype(dtype), data[1]
    model = LogisticRegression() if linear else MLPClassifier((4,), max_iter=5)
    if not linear:
        model.set_params(random_state=0)
    attack = clone(attack).set_params(
        surrogate=model.fit(X, y), eps=eps, norm=norm, bounds=(0, 1) if box else None
    )
    given_X = LAYOUTS[layout](X)
    before = as_bytes(given_X)
    outcome = attack.attack(given_X, y)
    assert as_bytes(given_X) == before
    assert outcome.X.dtype == X.dtype and outcome.X.shape == X.shape
    delta = np.abs(outcome.X.astype(float) - X)
    size = delta.max(1) if norm == "linf" else np.sqrt((delta**2).sum(1))
    slack = 4 * np.finfo(X.dtype).eps * (1 + np.abs(X).max() + eps)
    assert (size <= eps + slack).all()
    if box:
        assert outcome.X.min() >= 0 and outcome.X.max() <= 1
    # success is what the model says of the rows that are returned
    np.testing.assert_array_equal(outcome.success, model.predict(outcome.X) != y)
    np.testing.assert_array_equal(attack.attack(X, y).X, outcome.X)


@given(data=tables(n_classes=2))
def test_robust_accuracy_is_no_more_than_accuracy(data):
    X, y = data
    model = LogisticRegression().fit(X, y)
    attack = PGD(eps=0.1, max_iter=3, random_state=0)
    assert 0 <= robust_accuracy(model, X, y, attack=attack) <= model.score(X, y)
    report = robustness_report(model, X, y, eps_range=[0, 0.1, 0.4], attacks=attack)
    assert (np.diff(report.robust_accuracy[0]) <= 1e-12).all()
    assert report.robust_accuracy[0, 0] == report.clean_accuracy
