"""Curves equal what a loop by hand gives, on one core, two and a cluster."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from skpoison.attacks import BackdoorAttack, ColumnTrigger, LabelFlipAttack
from skpoison.compose import PoisonedEstimator
from skpoison.defenses import MixupClassifier
from skpoison.metrics import attack_success_score
from skpoison.model_selection import RobustnessCurveDisplay, robustness_curve
from skpoison.models import TorchClassifier

X, Y = load_digits(return_X_y=True)
X, Y = X[:500] / 16, Y[:500]
VICTIM = LogisticRegression(max_iter=200)


def test_curve_equals_a_loop_by_hand():
    attack = BackdoorAttack(random_state=0)
    curve = robustness_curve(
        VICTIM,
        X,
        Y,
        attack=attack,
        param_range=[0, 0.1],
        cv=3,
        scoring="accuracy",
        params={"sample_weight": np.ones(len(Y))},
    )
    for i, budget in enumerate([0, 0.1]):
        for j, (train, test) in enumerate(StratifiedKFold(3).split(X, Y)):
            fold = clone(attack).set_params(budget=budget)
            data = fold.poison(X[train], Y[train])
            victim = clone(VICTIM).fit(data.X, data.y)
            assert curve.clean_score[i, j] == victim.score(X[test], Y[test])
            success = fold.attack_success(victim.predict, X[test], Y[test])
            assert curve.attack_success[i, j] == success
    assert curve.fit_time.shape == (2,)


@pytest.mark.slow
def test_any_parameter_can_be_swept():
    curve = robustness_curve(
        SVC(),
        X,
        Y,
        attack=LabelFlipAttack(budget=0.2, random_state=0),
        param_name="strategy",
        param_range=["uniform", "adversarial"],
        cv=2,
    )
    uniform, adversarial = curve.clean_score.mean(axis=1)
    assert adversarial < uniform - 0.05
    with pytest.raises(ValueError, match="param_name='bugdet' is not a parameter"):
        robustness_curve(
            VICTIM, X, Y, attack=LabelFlipAttack(), param_name="bugdet", param_range=[0]
        )


def test_display():
    pytest.importorskip("matplotlib")
    display = RobustnessCurveDisplay.from_estimator(
        VICTIM,
        X,
        Y,
        attack=LabelFlipAttack(random_state=0),
        param_range=[0, 0.2],
        cv=2,
        scoring="balanced_accuracy",
    )
    assert len(display.lines_) == 2 and display.ax_.get_xlabel() == "budget"
    np.testing.assert_allclose(
        display.lines_[0].get_ydata(), display.clean_score.mean(axis=1)
    )
    other = display.plot(score_type="attack", std_display_style="errorbar")
    assert len(other.lines_) == 1 and other.figure_ is other.ax_.figure
    with pytest.raises(ValueError, match="score_type must be one of"):
        display.plot(score_type="worst")
    names = RobustnessCurveDisplay(["a", "b"], np.ones((2, 2)), np.ones((2, 2)))
    labels = [t.get_text() for t in names.plot().ax_.get_xticklabels()]
    assert labels == ["a", "b"]


def _search(n_jobs):
    search = GridSearchCV(
        PoisonedEstimator(),
        {
            "attack": [
                BackdoorAttack(ColumnTrigger([61, 62, 63], values=1.0), random_state=0),
                LabelFlipAttack("adversarial", random_state=0),
            ],
            "attack__budget": [0, 0.1],
            "estimator": [
                VICTIM,
                TorchClassifier(max_epochs=3, device="cpu", random_state=0),
                MixupClassifier(max_epochs=3, device="cpu", random_state=0),
            ],
        },
        scoring={"clean": "accuracy", "attack": attack_success_score},
        refit=False,
        cv=2,
        n_jobs=n_jobs,
        error_score="raise",
    ).fit(X, Y)
    results = search.cv_results_
    return {k: v for k, v in results.items() if "_test_" in k}


@pytest.fixture(scope="module")
def serial():
    return _search(1)


def _assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.slow
def test_two_workers_give_the_same_table(serial):
    _assert_equal(_search(2), serial)
