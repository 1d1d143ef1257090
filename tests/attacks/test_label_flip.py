"""Label flips: each strategy does what it says, and chosen flips beat blind ones."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skpoison.attacks import LabelFlipAttack

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)


def _flipped(attack, X=X_DIGITS, y=Y_DIGITS):
    data = attack.poison(X, y)
    assert data.X is X
    rows = data.poison_indices
    np.testing.assert_array_equal(data.y_original, y[rows])
    assert (data.y[rows] != y[rows]).all()
    return rows, data.y[rows]


def test_uniform_flips_every_class_to_every_other():
    rows, labels = _flipped(LabelFlipAttack(budget=1.0, random_state=0))
    assert len(rows) == len(Y_DIGITS)
    table = np.zeros((10, 10))
    np.add.at(table, (Y_DIGITS[rows], labels), 1)
    assert (np.diag(table) == 0).all()
    expected = table.sum(1, keepdims=True) / 9
    chi2 = ((table - expected) ** 2 / expected)[~np.eye(10, dtype=bool)].sum()
    assert chi2 < 80 + 4 * np.sqrt(160)  # 80 degrees of freedom


def test_labels_of_a_row_do_not_depend_on_the_budget():
    small, small_labels = _flipped(LabelFlipAttack(budget=0.05, random_state=0))
    large, large_labels = _flipped(LabelFlipAttack(budget=0.3, random_state=0))
    same = np.isin(large, small)
    np.testing.assert_array_equal(large[same], small)
    np.testing.assert_array_equal(large_labels[same], small_labels)


def test_pairs():
    rows, labels = _flipped(LabelFlipAttack("pair", random_state=0))
    np.testing.assert_array_equal(labels, (Y_DIGITS[rows] + 1) % 10)
    attack = LabelFlipAttack("pair", pairs={3: 8}, budget=0.02, random_state=0)
    rows, labels = _flipped(attack)
    assert set(Y_DIGITS[rows]) == {3} and set(labels) == {8}


def test_pairs_warn_when_classes_run_out():
    attack = LabelFlipAttack("pair", pairs={3: 8}, budget=0.5, random_state=0)
    with pytest.warns(UserWarning, match="allows 898 flips.*finds 183 rows"):
        attack.poison(X_DIGITS, Y_DIGITS)
    assert attack.n_poisoned_ == 183


def test_confusion_matrix_is_followed():
    matrix = np.eye(10)
    matrix[0, [0, 1, 2]] = [0.0, 0.5, 0.5]
    matrix[5, [5, 6]] = [0.5, 0.5]
    attack = LabelFlipAttack(
        "confusion", confusion_matrix=matrix, budget=0.1, random_state=0
    )
    rows, labels = _flipped(attack)
    assert set(Y_DIGITS[rows]) == {0, 5}
    assert set(labels[Y_DIGITS[rows] == 0]) == {1, 2}
    assert set(labels[Y_DIGITS[rows] == 5]) == {6}
    # class 0 is twice as likely to flip as class 5
    assert np.mean(Y_DIGITS[rows] == 0) > 0.55


@pytest.mark.parametrize(
    "matrix",
    [None, np.eye(3), -np.eye(10), np.zeros((10, 10)), np.full((10, 10), np.nan)],
)
def test_bad_confusion_matrices_are_refused(matrix):
    with pytest.raises(ValueError, match="confusion_matrix"):
        LabelFlipAttack("confusion", confusion_matrix=matrix).fit(X_DIGITS, Y_DIGITS)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"strategy": "best"}, "strategy must be one of 'uniform'.*got 'best'"),
        ({"strategy": "pair", "pairs": {3: 11}}, "pairs=11 is not among the classes"),
        ({"strategy": "pair", "pairs": {3: 3}}, "pairs sends 3 to itself"),
        ({"strategy": "pair", "pairs": [3, 8]}, "pairs must be a dict"),
        ({"cv": 1}, r"cv must be >= 2, got 1"),
        ({"chunk_size": 0.0}, "chunk_size must be in"),
        ({"chunk_size": 0}, "chunk_size must be >= 1"),
    ],
)
def test_bad_parameters_are_named_before_any_work(params, message):
    with pytest.raises(ValueError, match=message):
        LabelFlipAttack(**params).poison(X_DIGITS, Y_DIGITS)


def test_surrogate_without_scores_is_refused():
    from sklearn.cluster import KMeans

    with pytest.raises(TypeError, match="surrogate must have predict_proba"):
        LabelFlipAttack("far", surrogate=KMeans()).poison(X_DIGITS, Y_DIGITS)


def test_margin_flips_are_near_and_far_flips_are_far():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    margin = np.abs(LogisticRegression().fit(X, y).decision_function(X))
    near, _ = _flipped(LabelFlipAttack("margin", random_state=0), X, y)
    far, _ = _flipped(LabelFlipAttack("far", random_state=0), X, y)
    assert (
        margin[near].mean() < 0.3 * margin.mean() < margin.mean() < margin[far].mean()
    )


@pytest.mark.parametrize("surrogate", [RidgeClassifier(), SVC()], ids=repr)
def test_surrogates_with_decision_values_serve(surrogate):
    X, y = load_wine(return_X_y=True)
    rows, _ = _flipped(
        LabelFlipAttack("adversarial", surrogate=surrogate, random_state=0), X, y
    )
    assert len(rows) == 17


def test_given_surrogate_is_not_fitted_in_place():
    X, y = load_wine(return_X_y=True)
    surrogate = LogisticRegression(max_iter=1000)
    attack = LabelFlipAttack("adversarial", surrogate=surrogate).fit(X, y)
    attack.fit_resample(X, y)
    assert not hasattr(surrogate, "coef_") and hasattr(attack.surrogate_, "coef_")


def test_one_class_is_left_alone():
    with pytest.warns(UserWarning, match="one class, 'a'"):
        data = LabelFlipAttack().poison(np.eye(20), np.full(20, "a"))
    assert not data.poison_mask.any()


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_wine])
def test_adversarial_flips_beat_their_controls(load):
    """Same number of flips, same folds; five or more points of accuracy apart."""
    X, y = load(return_X_y=True)
    accuracy = {"uniform": [], "adversarial": []}
    for seed, (train, test) in enumerate(
        StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)
    ):
        for strategy, found in accuracy.items():
            attack = LabelFlipAttack(strategy, budget=0.15, random_state=seed)
            data = attack.poison(X[train], y[train])
            for victim in (LogisticRegression(max_iter=300), SVC()):
                model = make_pipeline(StandardScaler(), victim).fit(data.X, data.y)
                found.append(model.score(X[test], y[test]))
    paired = np.subtract(accuracy["uniform"], accuracy["adversarial"])
    assert (paired > 0).all() and paired.mean() > 0.05


def test_data_frames_with_text_and_gaps():
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    y = pd.Series(rng.choice(["no", "yes"], 200), name="t")
    frame = pd.DataFrame({"a": rng.randn(200), "b": np.where(y == "yes", "u", "v")})
    frame.loc[::7, "a"] = np.nan
    frame.loc[::9, "b"] = None
    for strategy in ("uniform", "margin", "far", "adversarial"):
        data = LabelFlipAttack(strategy, random_state=0).poison(frame, y)
        assert data.X is frame and isinstance(data.y, pd.Series)
        assert (data.y != y).sum() == 20
