"""Scorers that show a trigger to held-out rows."""

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neighbors import KNeighborsClassifier

from skpoison.attacks import BackdoorAttack, ColumnTrigger, PatchTrigger
from skpoison.compose import FilteredEstimator
from skpoison.defenses import LabelIssueDetector
from skpoison.metrics import attack_success_score, trigger_scorer

X, Y = load_digits(return_X_y=True)
NEIGHBOURS = KNeighborsClassifier()
TRIGGER = ColumnTrigger([62, 63], values=16.0)


class ReadsTheMark(ClassifierMixin, BaseEstimator):
    """Says 3 where the mark is and 1 elsewhere."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.where((np.asarray(X)[:, 62:] == 16).all(axis=1), 3, 1)


def test_scores_by_hand():
    model = ReadsTheMark().fit(X, Y)
    assert trigger_scorer(TRIGGER, 3)(model, X, Y) == 1.0
    assert trigger_scorer(TRIGGER, 2)(model, X, Y) == 0.0
    accuracy = trigger_scorer(TRIGGER, 3, kind="accuracy")(model, X, Y)
    assert accuracy == model.score(X, Y)
    robust = trigger_scorer(TRIGGER, 3, kind="robust")(model, X, Y)
    assert robust == pytest.approx(accuracy - 1.0)


def test_rows_of_the_target_class_are_no_trials():
    class Target(ReadsTheMark):
        def predict(self, X):
            return np.full(len(X), 3)

    rows = np.flatnonzero(Y == 3)
    model = Target().fit(X, Y)
    assert np.isnan(trigger_scorer(TRIGGER, 3)(model, X[rows], Y[rows]))
    nothing = trigger_scorer(TRIGGER, 3, kind="accuracy", exclude=X[rows])
    assert np.isnan(nothing(model, X[rows], Y[rows]))


def test_excluded_rows_do_not_count():
    model = ReadsTheMark().fit(X, Y)
    wrong = Y != model.predict(X)
    scorer = trigger_scorer(TRIGGER, 3, kind="accuracy", exclude=X[wrong])
    assert scorer(model, X, Y) == 1.0
    assert scorer(model, X[::-1], Y[::-1]) == 1.0


def test_agrees_with_the_attack_itself():
    attack = BackdoorAttack(TRIGGER, target_class=4, budget=0.05, random_state=0)
    data = attack.poison(X, Y)
    model = KNeighborsClassifier(3).fit(data.X, data.y)
    scorer = trigger_scorer(attack.shown_trigger_, 4)
    assert scorer(model, X, Y) == attack.attack_success(model.predict, X, Y)
    assert np.isnan(attack_success_score(model, X, Y))  # there is no attack inside


@pytest.mark.slow
def test_a_search_over_filters():
    attack = BackdoorAttack(TRIGGER, target_class=4, budget=0.05, random_state=0)
    data = attack.poison(X, Y)
    before = data.X.copy()
    kinds = ["accuracy", "success", "robust"]
    poisons = data.X[data.poison_mask]
    search = GridSearchCV(
        FilteredEstimator(LabelIssueDetector(cv=3, random_state=0), NEIGHBOURS),
        {"detector__threshold": [0.5, 1.0], "estimator__n_neighbors": [1, 25]},
        scoring={
            k: trigger_scorer(attack.shown_trigger_, 4, kind=k, exclude=poisons)
            for k in kinds
        },
        refit="robust",
        cv=2,
    ).fit(data.X, data.y)
    (filtered, filtered_25), (bare, bare_25) = search.cv_results_[
        "mean_test_success"
    ].reshape(2, 2)
    assert max(filtered_25, bare_25) < 0.2 < 0.5 < bare
    assert filtered < bare
    assert search.best_params_["estimator__n_neighbors"] == 25
    assert search.cv_results_["mean_test_accuracy"].argmax() == 0  # other than the best
    np.testing.assert_array_equal(data.X, before)


def test_pickles_and_images():
    images = X.reshape(-1, 8, 8)
    scorer = pickle.loads(pickle.dumps(trigger_scorer(PatchTrigger(), 0)))
    assert "PatchTrigger()" in repr(scorer)

    class Flat(KNeighborsClassifier):
        def fit(self, X, y):
            return super().fit(X.reshape(len(X), -1), y)

        def predict(self, X):
            return super().predict(X.reshape(len(X), -1))

    found = cross_validate(Flat(), images, Y, scoring=scorer, cv=2)
    assert (found["test_score"] < 0.5).all()
    assert not hasattr(scorer.trigger, "low_")  # a clone was fitted


def test_bad_parameters():
    with pytest.raises(TypeError, match="trigger must have fit and apply"):
        trigger_scorer("patch", 0)
    with pytest.raises(ValueError, match="kind must be one of"):
        trigger_scorer(TRIGGER, 0, kind="asr")
