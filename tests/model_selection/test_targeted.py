"""The report's numbers by hand, pairing, and what is refused."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skpoison.attacks import InfluenceAttack, LabelFlipAttack
from skpoison.base import PerturbationMixin
from skpoison.metrics import wilson_interval
from skpoison.model_selection import TargetedReport, evaluate_targeted
from skpoison.models import TorchClassifier

X, Y = load_digits(return_X_y=True)
X, Y = (X[:400] / 16).astype(np.float32), Y[:400]
TRAIN, TEST = slice(0, 300), slice(310, 400)
TARGETS, TRUE = X[300:303], Y[300:303]
WANTED = (TRUE + 1) % 10
NET = TorchClassifier(max_epochs=15, device="cpu")


class Copying(PerturbationMixin, BaseEstimator):
    """Turns the first rows of the wanted class into copies of the target."""

    def __init__(
        self,
        budget=0.03,
        *,
        targets=None,
        target_labels=None,
        surrogate=None,
        random_state=None,
    ):
        self.budget = budget
        self.targets = targets
        self.target_labels = target_labels
        self.surrogate = surrogate
        self.random_state = random_state

    def _candidates(self, y):
        return self.classes_[y] == self.target_labels[0]

    def _craft(self, X, y, rows, streams):
        return self.targets_[0].astype(float) - X[rows]


class Together(Copying):
    def craft_each(self, X, y, targets, target_labels):
        attacks = []
        for target, label in zip(targets, target_labels, strict=True):
            one = clone(self).set_params(targets=target[None], target_labels=[label])
            attacks.append(one.fit(X, y))
            attacks[-1].crafted_together_ = True
        return attacks


def evaluate(attack, victim, **params):
    params = {"n_victims": 2, "random_state": 0, **params}
    return evaluate_targeted(
        attack, victim, X[TRAIN], Y[TRAIN], TARGETS, WANTED, **params
    )


@pytest.mark.parametrize(
    "victim",
    [
        KNeighborsClassifier(1),
        make_pipeline(StandardScaler(), DecisionTreeClassifier()),
        NET,
    ],
    ids=["neighbours", "pipeline", "net"],
)
def test_copies_of_the_target_always_win(victim):
    report = evaluate(
        Copying(), victim, target_true_labels=TRUE, X_test=X[TEST], y_test=Y[TEST]
    )
    assert isinstance(report, TargetedReport)
    assert report.success.shape == (3, 2) and report.success.all()
    assert report.misclassified.all()
    assert report.control_rate < 0.5
    assert report.train_accuracy > 0.95
    assert report.clean_accuracy > 0.6 and report.poisoned_accuracy > 0.6
    assert_array_equal(report.n_poisoned, [9, 9, 9])
    assert [one.targets_.shape for one in report.attacks] == [(1, 64)] * 3


@pytest.mark.slow
def test_numbers_by_a_loop_by_hand():
    victim = DecisionTreeClassifier(max_features=5)
    attack = InfluenceAttack(
        LogisticRegression(max_iter=300), budget=30, max_iter=1, random_state=0
    )
    report = evaluate(
        attack, victim, n_victims=4, target_true_labels=TRUE, X_test=X[TEST],
        y_test=Y[TEST],
    )  # fmt: skip
    seeds = _seeds_of(victim, 4)
    scores = []
    for t in range(3):
        crafted = clone(attack).set_params(
            targets=TARGETS[[t]], target_labels=WANTED[[t]]
        )
        poisoned = crafted.fit(X[TRAIN], Y[TRAIN]).transform(X[TRAIN])
        for v, seed in enumerate(seeds):
            pair = [
                clone(victim).set_params(random_state=seed).fit(rows, Y[TRAIN])
                for rows in (X[TRAIN], poisoned)
            ]
            clean, fooled = (one.predict(TARGETS[[t]])[0] for one in pair)
            assert report.control[t, v] == (clean == WANTED[t])
            assert report.control_misclassified[t, v] == (clean != TRUE[t])
            assert report.success[t, v] == (fooled == WANTED[t])
            assert report.misclassified[t, v] == (fooled != TRUE[t])
            scores.append([one.score(X[TEST], Y[TEST]) for one in pair])
    assert 0 < report.misclassified.mean() < 1  # or the loop would prove little
    np.testing.assert_allclose(
        np.mean(scores, axis=0), [report.clean_accuracy, report.poisoned_accuracy]
    )


def _seeds_of(victim, n_victims):
    """Return the seeds that victims get, read off an attack that never acts."""
    seen = []

    class Watched(type(victim)):
        def fit(self, X, y):
            seen.append(self.random_state)
            return super().fit(X, y)

    evaluate(Copying(budget=0), Watched(), n_victims=n_victims)
    assert len(set(seen)) == n_victims
    return seen


def _report(success, **changes):
    success = np.array(success, dtype=bool)
    fields = {
        "target_labels": np.arange(len(success)),
        "success": success,
        "control": np.zeros_like(success),
        "misclassified": None,
        "control_misclassified": None,
        "n_poisoned": np.full(len(success), 5),
        "train_accuracy": 0.99,
        "clean_accuracy": None,
        "poisoned_accuracy": None,
        "craft_seconds": 1.0,
        "train_seconds": 2.0,
        "attacks": [],
    }
    return TargetedReport(**{**fields, **changes})


def test_summaries():
    report = _report([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert report.rate == 7 / 16 and report.interval == wilson_interval(7, 16)
    assert report.control_rate == 0 and report.control_interval == wilson_interval(
        0, 16
    )
    assert report.target_rate == 0.5 and report.target_interval == wilson_interval(2, 4)
    means = [0.5, 0.25, 1, 0]
    assert report.standard_error == pytest.approx(np.std(means, ddof=1) / 2)
    assert np.isnan(_report([[1, 0]]).standard_error)
    text = str(report)
    assert "4 targets, 4 victims each, 5 poisoned rows" in text
    assert "success   0.44 [0.23, 0.67]" in text and "accuracy  " not in text
    assert repr(report) == text
    report = _report([[1]], clean_accuracy=0.9, poisoned_accuracy=0.8)
    assert "accuracy  0.900 clean, 0.800 poisoned" in str(report)


def test_table_has_one_row_a_trial():
    pytest.importorskip("pandas")
    frame = _report([[1, 0, 0], [0, 1, 1]]).to_frame()
    assert list(frame.columns) == [
        "target", "victim", "target_label", "n_poisoned", "success", "control",
    ]  # fmt: skip
    assert frame.groupby("target")["success"].mean().tolist() == [1 / 3, 2 / 3]
    assert frame["victim"].tolist() == [0, 1, 2] * 2
    wrong = np.ones((2, 3), dtype=bool)
    frame = _report(wrong, misclassified=wrong, control_misclassified=~wrong).to_frame()
    assert frame["misclassified"].all() and not frame["control_misclassified"].any()


@pytest.mark.parametrize("victim", [DecisionTreeClassifier(max_depth=9), NET])
def test_no_poison_is_the_control(victim):
    victim = clone(victim)
    report = evaluate(Copying(budget=0), victim, X_test=X[TEST], y_test=Y[TEST])
    assert_array_equal(report.success, report.control)
    assert report.clean_accuracy == pytest.approx(report.poisoned_accuracy)
    assert_array_equal(report.n_poisoned, 0)


def test_settings_are_paired():
    victim = DecisionTreeClassifier(max_features=3)
    small, large, other = (
        evaluate(Copying(budget), victim, n_victims=8, random_state=seed)
        for budget, seed in ((1, 0), (9, 0), (1, 1))
    )
    assert_array_equal(small.control, large.control)
    assert not np.array_equal(small.control, other.control)


@pytest.mark.slow
def test_jobs_and_progress_change_nothing(capsys):
    attack = Copying(random_state=0)
    for victim in (DecisionTreeClassifier(max_features=3), NET):
        one = evaluate(attack, victim)
        with joblib.parallel_config("threading"):
            two = evaluate(attack, victim, n_jobs=2, verbose=1)
        assert_array_equal(one.success, two.success)
        assert_array_equal(one.control, two.control)
        assert one.train_accuracy == two.train_accuracy
    captured = capsys.readouterr()
    assert captured.out == "" and "victims" in captured.err


def test_attack_crafts_all_targets_at_once_where_it_can():
    report = evaluate(Together(), KNeighborsClassifier(1))
    assert all(one.crafted_together_ for one in report.attacks)
    assert report.success.all()


def test_seeds_and_victim_reach_the_attack():
    victim = KNeighborsClassifier(1)
    report = evaluate(Copying(surrogate="victim"), victim)
    seeds = {one.random_state for one in report.attacks}
    assert len(seeds) == 1 and None not in seeds
    assert all(
        isinstance(one.surrogate, KNeighborsClassifier) and one.surrogate is not victim
        for one in report.attacks
    )
    kept = evaluate(Copying(random_state=7), victim)
    assert {one.random_state for one in kept.attacks} == {7}


def test_strings_uint8_and_one_label_for_all():
    names = np.array([f"digit {i}" for i in range(10)])
    pixels = np.round(X * 255).astype(np.uint8)
    keep = TRUE != 7
    report = evaluate_targeted(
        Copying(), KNeighborsClassifier(1), pixels[TRAIN], names[Y[TRAIN]],
        pixels[300:303][keep], "digit 7", n_victims=1,
    )  # fmt: skip
    assert report.success.all() and set(report.target_labels) == {"digit 7"}
    assert report.attacks[0].transform(pixels).dtype == np.uint8


def test_underfitted_victims_are_a_warning():
    with pytest.warns(UserWarning, match="an under-fitted victim proves nothing"):
        evaluate(Copying(), DecisionTreeClassifier(max_depth=2))


def test_inputs_stay_as_they_were():
    attack, victim, rows = Copying(), KNeighborsClassifier(1), X.copy()
    evaluate(attack, victim)
    assert attack.targets is None and not hasattr(attack, "perturbation_")
    assert not hasattr(victim, "classes_")
    assert_array_equal(X, rows)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"attack": LabelFlipAttack()}, TypeError, "attack must change X alone"),
        ({"victim": Ridge()}, TypeError, "victim must be a classifier"),
        ({"n_victims": 0}, ValueError, "n_victims must be >= 1"),
        ({"targets": TARGETS[:, :5]}, ValueError, "targets must have shape"),
        ({"targets": X[:3]}, ValueError, "is also a training row"),
        ({"target_labels": [1, 2]}, ValueError, "one label a target, 3"),
        ({"target_labels": 11}, ValueError, "not among the classes"),
        ({"target_true_labels": WANTED}, ValueError, "is the true label"),
        ({"target_true_labels": [1]}, ValueError, "one label a target, 3"),
        ({"target_true_labels": 12}, ValueError, "not among the classes"),
        ({"X_test": X[TEST]}, ValueError, "given together"),
        (
            {"X_test": X[TEST][:, :9], "y_test": Y[TEST]},
            ValueError,
            r"X_test has rows of shape \(9,\)",
        ),
        ({"y": Y[:20]}, ValueError, "inconsistent numbers of samples"),
    ],
)
def test_errors_come_before_any_work(changes, error, message, monkeypatch):
    monkeypatch.setattr(Copying, "fit", lambda *args: pytest.fail("crafted already"))
    params = {
        "attack": Copying(),
        "victim": KNeighborsClassifier(),
        "X": X[TRAIN],
        "y": Y[TRAIN],
        "targets": TARGETS,
        "target_labels": WANTED,
    }
    with pytest.raises(error, match=message):
        evaluate_targeted(**{**params, **changes})
