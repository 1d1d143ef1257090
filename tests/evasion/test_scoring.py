"""Robust accuracy against formulas, single attacks and what searches need."""

import pickle
import warnings
from functools import partial

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from skpoison.evasion import (
    FGSM,
    PGD,
    WITCHcraft,
    robust_accuracy,
    robustness_report,
)
from skpoison.metrics import wilson_interval
from skpoison.models import TorchClassifier

BOX = {"bounds": (0, 1), "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


@pytest.fixture(scope="module")
def net(digits):
    X, y = digits
    return TorchClassifier(max_epochs=5, device="cpu", random_state=0).fit(
        X[:1000], y[:1000]
    )


def two_classes(n_features=5):
    """Return rows of two classes that overlap, with names as labels."""
    rng = np.random.RandomState(0)
    X = rng.randn(200, n_features)
    y = np.where(X.sum(axis=1) + rng.randn(200) > 0, "yes", "no")
    return X, y


class Stub(PGD):
    """An attack that returns and reports what it is told."""

    def __init__(self, surrogate=None, *, shift=0.0, success=False, prefit=False):
        super().__init__(surrogate, prefit=prefit)
        self.shift = shift
        self.success = success

    def attack(self, X, y):
        return Bunch(X=X + self.shift, success=np.full(len(X), self.success))


# ----------------------------------------------------------------------- what it counts


def test_of_an_affine_classifier_it_is_the_share_of_margins_above_the_reach():
    X, y = two_classes()
    model = LogisticRegression().fit(X, y)
    signed = model.decision_function(X) * np.where(y == "yes", 1, -1)
    for eps in (0.05, 0.2, 0.6):
        expected = np.mean(signed > eps * abs(model.coef_).sum())
        assert 0.02 < expected < 0.95
        assert robust_accuracy(model, X, y, attack=PGD(eps=eps)) == expected


def test_of_a_pipeline_the_radius_is_in_the_unit_of_its_input():
    X, y = two_classes()
    X = X * [1, 10, 100, 1, 1]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    reach = (abs(model[-1].coef_) / model[0].scale_).sum()
    signed = model.decision_function(X) * np.where(y == "yes", 1, -1)
    score = robust_accuracy(model, X, y, attack=PGD(eps=0.3))
    assert score == np.mean(signed > 0.3 * reach)


def test_it_counts_right_rows_that_stay_right(digits, net):
    X, y = (part[1000:1200] for part in digits)
    attack = PGD(FrozenEstimator(net), eps=0.1, **BOX)
    adversarial = attack.perturb(X, y)
    expected = np.mean((net.predict(X) == y) & (net.predict(adversarial) == y))
    score = robust_accuracy(net, X, y, attack=PGD(eps=0.1, **BOX))
    assert score == expected
    assert score < net.score(X, y) - 0.1


def test_without_an_attack_it_is_witchcraft_and_repeats(digits, net):
    X, y = (part[1000:1100] for part in digits)
    score = robust_accuracy(net, X, y)
    assert score == robust_accuracy(net, X, y)
    assert score == robust_accuracy(net, X, y, attack=WITCHcraft(random_state=0))


def test_no_radius_is_accuracy(digits, net):
    X, y = (part[1000:1200] for part in digits)
    score = robust_accuracy(net, X, y, attack=PGD(eps=0, **BOX))
    assert score == net.score(X, y)


@pytest.mark.slow
def test_of_several_attacks_none_may_break_a_row(digits, net):
    X, y = (part[1000:1060] for part in digits)
    upper = np.repeat([0.2, 0.0], 32)
    attacks = [PGD(eps=upper, **BOX), FGSM(eps=upper[::-1], **BOX)]
    single = [
        [robust_accuracy(net, X[[i]], y[[i]], attack=a) for i in range(len(X))]
        for a in attacks
    ]
    together = np.all(single, axis=0).mean()
    assert together < np.mean(single, axis=1).min()
    assert robust_accuracy(net, X, y, attack=attacks) == together
    assert robust_accuracy(net, X, y, attack=attacks[::-1]) == together


def test_a_bare_module_is_scored_like_the_classifier_around_it(digits, net):
    X, y = (part[1000:1200] for part in digits)
    attacks = {"a": PGD(eps=0.1, **BOX)}
    inside = robustness_report(net.module_, X, y, eps_range=[0, 0.1], attacks=attacks)
    around = robustness_report(net, X, y, eps_range=[0, 0.1], attacks=attacks)
    assert np.array_equal(inside.robust_accuracy, around.robust_accuracy)
    assert inside.clean_accuracy == net.score(X, y)


@pytest.mark.parametrize(
    "shift, success, expected", [(0, False, 1), (0, True, 0), (9, False, 0.5)]
)
def test_the_attack_and_the_classifier_must_both_say_that_a_row_holds(
    shift, success, expected
):
    X, y = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1])
    model = LogisticRegression().fit(X, y)
    attack = Stub(shift=shift, success=success)
    assert robust_accuracy(model, X, y, attack=attack) == expected


def test_what_a_surrogate_misreads_is_not_held_against_the_classifier():
    X, y = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1])
    model = LogisticRegression().fit(X, y)
    attack = Stub(FrozenEstimator(clone(model).fit(X, y)), success=True)
    assert robust_accuracy(model, X, y, attack=attack) == 1


# ----------------------------------------------------------------------------- transfer


def test_a_forest_is_scored_by_transfer(digits, net):
    X, y = digits
    forest = RandomForestClassifier(30, random_state=0).fit(X[:1000], y[:1000])
    X, y = X[1000:1200], y[1000:1200]
    with pytest.raises(TypeError, match="has no gradient; pass surrogate="):
        robust_accuracy(forest, X, y, attack=PGD(eps=0.2, **BOX))
    expected = PGD(net, eps=0.2, prefit=True, **BOX).perturb(X, y)
    right = forest.predict(X) == y
    expected = np.mean(right & (forest.predict(expected) == y))
    assert expected < right.mean() - 0.05
    for attack in (
        PGD(net, eps=0.2, prefit=True, **BOX),
        PGD(FrozenEstimator(net), eps=0.2, **BOX),
    ):
        assert robust_accuracy(forest, X, y, attack=attack) == expected


def test_a_fitted_attack_brings_its_surrogate(digits):
    X, y = digits
    forest = RandomForestClassifier(20, random_state=0).fit(X[:500], y[:500])
    attack = PGD(LogisticRegression(), eps=0.1, **BOX)
    with pytest.raises(NotFittedError):
        robust_accuracy(forest, X[500:600], y[500:600], attack=attack)
    attack.fit(X[:500], y[:500])
    score = robust_accuracy(forest, X[500:600], y[500:600], attack=attack)
    assert score < forest.score(X[500:600], y[500:600])


def test_a_fitted_attack_brings_its_box(digits, net):
    X, y = digits
    attack = PGD(eps=0.1, bounds="data", random_state=0).fit(X[:500], y[:500])
    limits = X[:500].min(axis=0), X[:500].max(axis=0)
    inside = ((X >= limits[0]) & (X <= limits[1])).all(axis=1)
    X, y = X[500:][inside[500:]], y[500:][inside[500:]]
    given = PGD(eps=0.1, bounds=limits, random_state=attack._seed)
    score = robust_accuracy(net, X, y, attack=attack)
    assert 0.1 < score == robust_accuracy(net, X, y, attack=given)


# ------------------------------------------------------------------------ as a scorer


def test_in_a_search_beside_accuracy(digits):
    X, y = (part[:300] for part in digits)
    robust = partial(robust_accuracy, attack=PGD(eps=0.1, **BOX))
    search = GridSearchCV(
        make_pipeline(StandardScaler(with_std=False), LogisticRegression()),
        {"logisticregression__C": [1e-3, 1.0, 100.0]},
        scoring={"clean": "accuracy", "robust": robust},
        refit="robust",
        cv=2,
        error_score="raise",
    ).fit(X, y)
    clean, attacked = (
        search.cv_results_[f"mean_test_{m}"] for m in ("clean", "robust")
    )
    assert (attacked < clean).all()
    assert search.best_index_ == attacked.argmax()
    assert search.score(X, y) == robust(search.best_estimator_, X, y)


def test_as_it_is_and_through_joblib(digits):
    X, y = (part[:200] for part in digits)
    model = LogisticRegression()
    scores = cross_validate(model, X, y, cv=2, scoring=robust_accuracy)
    with joblib.parallel_config("threading", n_jobs=2):
        again = cross_validate(model, X, y, cv=2, scoring=robust_accuracy)
    assert np.array_equal(scores["test_score"], again["test_score"])


def test_a_pickled_scorer_gives_the_same_score(digits, net):
    X, y = (part[1000:1100] for part in digits)
    scorer = partial(robust_accuracy, attack=PGD(eps=0.1, **BOX))
    restored = pickle.loads(pickle.dumps(scorer))
    assert restored(net, X, y) == scorer(net, X, y)


def test_attack_and_classifier_are_left_as_they_were(digits, net):
    X, y = (part[1000:1100] for part in digits)
    attack = PGD(eps=0.1, **BOX)
    before, weights = repr(vars(attack)), net.module_.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    robust_accuracy(net, X, y, attack=attack)
    robustness_report(net, X, y, eps_range=[0.05], attacks=attack)
    assert repr(vars(attack)) == before
    assert all(
        (value == weights[n]).all() for n, value in net.module_.state_dict().items()
    )


def test_frames_keep_their_names():
    pytest.importorskip("pandas")
    X, y = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=1000).fit(X, y)
    plain = LogisticRegression(max_iter=1000).fit(X.to_numpy(), y)
    attack = PGD(eps=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = robust_accuracy(model, X, y, attack=attack)
    assert score == robust_accuracy(plain, X.to_numpy(), y, attack=attack)


# ------------------------------------------------------------------------------ report


def test_report_against_single_scores(digits, net):
    X, y = (part[1000:1200] for part in digits)
    exact = LogisticRegression().fit(*(part[:500] for part in digits))
    radii = [0.1, 0, 0.02, 0.05]
    report = robustness_report(exact, X, y, eps_range=radii, attacks=PGD(**BOX))
    expected = [robust_accuracy(exact, X, y, attack=PGD(eps=e, **BOX)) for e in radii]
    assert report.robust_accuracy.tolist() == [expected]
    assert report.clean_accuracy == expected[1] == exact.score(X, y)

    report = robustness_report(
        net, X, y, eps_range=radii, attacks=[FGSM(**BOX), PGD(max_iter=5, **BOX)]
    )
    assert report.names == ["FGSM", "PGD"]
    in_order = report.robust_accuracy[:, np.argsort(radii)]
    assert (np.diff(in_order) <= 0).all()
    for i, attack in enumerate((FGSM(**BOX), PGD(max_iter=5, **BOX))):
        for j, eps in enumerate(radii):
            single = robust_accuracy(
                net, X, y, attack=clone(attack).set_params(eps=eps)
            )
            assert report.robust_accuracy[i, j] <= single
    assert (report.worst <= report.robust_accuracy.min(axis=0)).all()


def test_intervals_are_those_of_the_metrics(digits, net):
    X, y = (part[1000:1060] for part in digits)
    report = robustness_report(
        net, X, y, eps_range=[0, 0.1, 0.5], attacks={"a": PGD(**BOX)}, confidence=0.9
    )
    counts = report.robust_accuracy * report.n_samples
    low, high = wilson_interval(counts.round(), 60, confidence=0.9)
    np.testing.assert_allclose(report.low, low, atol=1e-12)
    np.testing.assert_allclose(report.high, high, atol=1e-12)
    assert report.names == ["a"]


def test_names_of_attacks(digits, net):
    X, y = (part[1000:1020] for part in digits)
    several = [PGD(**BOX), WITCHcraft(**BOX), PGD(norm="l2", **BOX)]
    report = robustness_report(net, X, y, eps_range=[0.1], attacks=several)
    assert report.names == ["PGD", "WITCHcraft", "PGD 2"]
    report = robustness_report(net, X, y, eps_range=[0.1])
    assert report.names == ["WITCHcraft"]


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "attack, error, match",
    [
        ("pgd", TypeError, "attack must be None, an evasion attack"),
        ([], ValueError, "got none"),
        ([PGD(), 0.1], TypeError, "got 0.1"),
    ],
    ids=["name", "empty", "number"],
)
def test_what_is_no_attack(attack, error, match, digits, net):
    X, y = (part[:20] for part in digits)
    with pytest.raises(error, match=match):
        robust_accuracy(net, X, y, attack=attack)


@pytest.mark.parametrize(
    "params, match",
    [
        ({"eps_range": 0.1}, "eps_range must be a list"),
        ({"eps_range": []}, "eps_range must be a list"),
        ({"eps_range": [0.1, -1]}, "each radius in eps_range must be >= 0"),
        ({"eps_range": [0.1], "confidence": 0}, "confidence must be in"),
    ],
    ids=["number", "empty", "negative", "confidence"],
)
def test_bad_parameters_of_the_report(params, match, digits, net):
    X, y = (part[:20] for part in digits)
    with pytest.raises(ValueError, match=match):
        robustness_report(net, X, y, **params)


def test_rows_and_labels_must_match(digits, net):
    X, y = digits
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        robust_accuracy(net, X[:20], y[:19])
