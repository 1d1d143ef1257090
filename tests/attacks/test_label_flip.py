"""Label flips: each strategy does what it says, and chosen flips beat blind ones."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from skpoison.attacks import LabelFlipAttack
from skpoison.attacks._implicit._objectives import resolve_objective
from skpoison.attacks._implicit._victim import Victim

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)


def _cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


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


STRATEGIES_BY_SURROGATE = ["margin", "far", "adversarial", "alfa", "influence"]


@pytest.mark.parametrize("strategy", STRATEGIES_BY_SURROGATE)
def test_the_victim_as_surrogate_needs_a_victim(strategy):
    X, y = _cancer()
    attack = LabelFlipAttack(strategy, surrogate="victim")
    with pytest.raises(ValueError, match="'victim' needs a PoisonedEstimator around"):
        attack.poison(X, y)
    with pytest.raises(ValueError, match="surrogate must be one of 'victim'"):
        attack.set_params(surrogate="svc").poison(X, y)
    LabelFlipAttack("uniform", surrogate="victim").poison(X, y)  # which needs none


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    for strategy in ("uniform", "margin", "far", "adversarial", "alfa", "influence"):
        data = LabelFlipAttack(strategy, random_state=0).poison(frame, y)
        assert data.X is frame and isinstance(data.y, pd.Series)
        assert (data.y != y).sum() == 20


def _paired_loss(load, strategies, victims, budget=0.15, **params):
    """Accuracy that each strategy costs beyond uniform flips: one figure a fold."""
    X, y = load(return_X_y=True)
    accuracy = {"uniform": [], **{strategy: [] for strategy in strategies}}
    for seed, (train, test) in enumerate(
        StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)
    ):
        for strategy, found in accuracy.items():
            attack = LabelFlipAttack(strategy, budget=budget, random_state=seed)
            if strategy != "uniform":
                attack.set_params(**params)
            data = attack.poison(X[train], y[train])
            assert attack.n_poisoned_ == int(budget * len(train))
            for victim in victims:
                model = make_pipeline(StandardScaler(), victim).fit(data.X, data.y)
                found.append(model.score(X[test], y[test]))
    uniform = np.array(accuracy.pop("uniform"))
    return {strategy: uniform - found for strategy, found in accuracy.items()}


def test_alfa_and_influence_beat_uniform_flips_of_two_classes():
    victims = LogisticRegression(max_iter=300), SVC(), SVC(kernel="linear")
    strategies = ["alfa", "influence"]
    for lost in _paired_loss(load_breast_cancer, strategies, victims).values():
        assert (lost > 0.05).all() and lost.mean() > 0.1


@pytest.mark.slow
def test_influence_beats_uniform_flips_of_ten_classes():
    victims = [LogisticRegression(max_iter=300)]
    for surrogate in (None, make_pipeline(StandardScaler(), RidgeClassifier())):
        params = {"surrogate": surrogate, "chunk_size": 0.05}
        lost = _paired_loss(load_digits, ["influence"], victims, **params)["influence"]
        assert (lost > 0.04).all() and lost.mean() > 0.06


@pytest.mark.parametrize(
    "surrogate",
    [None, LinearSVC(), make_pipeline(StandardScaler(), SVC(gamma=0.1))],
    ids=repr,
)
def test_alfa_ends_where_its_two_steps_agree(surrogate):
    """The program for the machine it ended with gives the flips it ended with."""
    X, y = _cancer()
    attack = LabelFlipAttack("alfa", surrogate=surrogate, random_state=0)
    rows, labels = _flipped(attack, X, y)
    np.testing.assert_array_equal(labels, 1 - y[rows])
    power = 2 if isinstance(surrogate, LinearSVC) else 1

    def objection(model):
        margin = model.decision_function(X) * (2 * y - 1)
        return (1 + margin).clip(0) ** power - (1 - margin).clip(0) ** power

    clean = SVC(kernel="linear") if surrogate is None else surrogate
    cost = objection(attack.surrogate_) - objection(clone(clean).fit(X, y))
    tolerance = 0.05 * cost.std()  # the machines stop short of their optimum
    assert cost[rows].max() <= np.sort(cost)[len(rows) - 1] + tolerance


def test_alfa_is_for_two_classes_and_margin_machines():
    X, y = load_wine(return_X_y=True)
    with pytest.raises(ValueError, match="binary.*has 3; strategy='adversarial' and"):
        LabelFlipAttack("alfa").fit(X, y)
    X, y = _cancer()
    for surrogate in (LogisticRegression(), make_pipeline(RidgeClassifier())):
        with pytest.raises(TypeError, match="surrogate must be an SVC or LinearSVC"):
            LabelFlipAttack("alfa", surrogate=surrogate).fit(X, y)


def test_alfa_survives_any_budget_and_any_labels():
    X, y = _cancer()
    X, y = X[:60], np.where(y[:60] == 1, "benign", "malignant")
    for budget in (0, 1, 30, 59, 60):
        attack = LabelFlipAttack("alfa", budget=budget)
        data = attack.poison(X, y)
        assert (data.y != y).sum() == budget and set(data.y) <= {"benign", "malignant"}


@pytest.mark.parametrize(
    "surrogate",
    [LogisticRegression(), RidgeClassifier(), LinearSVC(), SVC(gamma=0.1)],
    ids=repr,
)
def test_influence_takes_the_flips_of_largest_effect(surrogate):
    """The effect of a flip, by moving some weight from a row to its relabelled copy.

    Each effect is found by solving the surrogate anew.
    """
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X, y, X_val, y_val = X[::3], y[::3], X[1::3], y[1::3]
    victim = Victim(surrogate, classes=np.unique(y))
    objective = resolve_objective("auto", victim.learner)
    start = victim.solve(X, y)
    clean = objective(start.scores(X_val), y_val)[0]
    effect = np.zeros((len(y), 3))
    for i in range(len(y)):
        X_more, weights = np.vstack([X, X[i]]), np.ones(len(y) + 1)
        weights[[i, -1]] = 1 - 1e-4, 1e-4
        for c in range(3):
            solved = victim.solve(X_more, np.append(y, c), weights, start=start)
            effect[i, c] = objective(solved.scores(X_val), y_val)[0] - clean
    attack = LabelFlipAttack("influence", budget=5, chunk_size=5, surrogate=surrogate)
    data = attack.set_params(validation_data=(X_val, y_val)).poison(X, y)
    best = np.argsort(-effect.max(axis=1))[:5]
    np.testing.assert_array_equal(np.sort(best), data.poison_indices)
    np.testing.assert_array_equal(
        data.y[data.poison_indices], effect.argmax(axis=1)[data.poison_indices]
    )


def test_influence_takes_validation_rows():
    """Of a class that alone is to be misread, above all its own rows are flipped."""
    X, y = load_wine(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    attack = LabelFlipAttack("influence", budget=20)
    attack.validation_data = X[y == 0], names[y == 0]
    data = attack.poison(X, names)
    assert np.mean(data.y_original == "a") > 0.7
    rest = LabelFlipAttack("influence", budget=20).poison(X, names)
    assert np.mean(rest.y_original == "a") < 0.6


@pytest.mark.parametrize(
    "data, error, message",
    [
        (np.eye(3), TypeError, r"validation_data must be None or a pair \(X, y\)"),
        ((np.eye(3), [0, 1]), ValueError, "inconsistent numbers of samples"),
        ((np.eye(2), [0, 7]), ValueError, "validation_data y=7 is not among"),
    ],
)
def test_bad_validation_data_are_named(data, error, message):
    attack = LabelFlipAttack("influence", budget=1, validation_data=data)
    with pytest.raises(error, match=message):
        attack.fit(np.eye(4), [0, 0, 1, 1])


def test_influence_needs_a_derivative():
    attack = LabelFlipAttack("influence", surrogate=KNeighborsClassifier())
    with pytest.raises(TypeError, match="KNeighborsClassifier has no gradient"):
        attack.poison(*_cancer())


def test_influence_differentiates_no_preprocessing():
    """Any step will do before a surrogate: rows move, labels do not pass through it."""
    X, y = _cancer()
    surrogate = make_pipeline(
        KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf")
        if "quantile_method" in KBinsDiscretizer().get_params()
        else KBinsDiscretizer(4),
        LogisticRegression(),
    )
    rows, _ = _flipped(LabelFlipAttack("influence", surrogate=surrogate), X, y)
    assert len(rows) == 56


def test_influence_takes_any_budget_and_sparse_rows():
    X, y = load_wine(return_X_y=True)
    X, y = X[::3], y[::3]
    for budget in (1, 30, len(y)):
        attack = LabelFlipAttack("influence", budget=budget, chunk_size=0.1)
        assert len(_flipped(attack, X, y)[0]) == budget
    dense, _ = _flipped(LabelFlipAttack("influence", budget=9), X, y)
    found = LabelFlipAttack("influence", budget=9).poison(sparse.csr_array(X), y)
    # centring leaves a linear model with an intercept as it is
    np.testing.assert_array_equal(found.poison_indices, dense)


def test_influence_flips_of_a_smaller_budget_are_among_those_of_a_larger_one():
    X, y = _cancer()
    small, _ = _flipped(LabelFlipAttack("influence", budget=0.05), X, y)
    large, _ = _flipped(LabelFlipAttack("influence", budget=0.11), X, y)
    assert set(small) < set(large)
