"""Rows added against a classifier: damage, legal rows, and the same rows again."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from skpoison.attacks import BilevelPoisoningAttack
from skpoison.attacks._implicit import _svm
from skpoison.attacks._implicit._ascent import PoisonProblem
from skpoison.attacks._implicit._victim import Victim
from skpoison.attacks._legal_rows import LegalRows
from skpoison.compose import PoisonedEstimator

X_CANCER, Y_CANCER = load_breast_cancer(return_X_y=True)
X_UNIT = (X_CANCER - X_CANCER.min(axis=0)) / np.ptp(X_CANCER, axis=0)


def _small(n=60, n_features=4, seed=0):
    X, y = make_blobs(
        n, n_features, centers=2, cluster_std=3.0, random_state=seed, shuffle=True
    )
    return MinMaxScaler().fit_transform(X), y


def _poisons(data):
    return data.X[data.poison_indices], data.y[data.poison_indices]


# Damage.


def _test_errors(victim, n_poisons, max_iter, n_seeds=10):
    """Retake a cell of the table of published figures."""
    errors = []
    for seed in range(n_seeds):
        order = np.random.RandomState(seed).permutation(569)
        train, held, test = np.split(order, [100, 250])
        start = train[np.random.RandomState(100 + seed).permutation(100)[:n_poisons]]
        attack = BilevelPoisoningAttack(
            victim,
            budget=n_poisons,
            init=(X_UNIT[start], 1 - Y_CANCER[start]),
            validation_data=(X_UNIT[held], Y_CANCER[held]),
            bounds=(0, 1),
            max_iter=max_iter,
            random_state=seed,
        )
        data = attack.poison(X_UNIT[train], Y_CANCER[train])
        victim.fit(data.X, data.y)
        errors.append(1 - victim.score(X_UNIT[test], Y_CANCER[test]))
    return np.mean(errors), np.std(errors, ddof=1) / np.sqrt(n_seeds)


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, n_poisons, flipped, figure, its_error",
    [
        (LogisticRegression(max_iter=1000), 5, 0.062, 0.118, 0.012),
        (LogisticRegression(max_iter=1000), 10, 0.054, 0.159, 0.015),
        (LogisticRegression(max_iter=1000), 20, 0.056, 0.276, 0.015),
        (SVC(kernel="linear"), 5, 0.046, 0.103, 0.014),
        (SVC(kernel="linear"), 20, 0.050, 0.153, 0.019),
        (SVC(gamma=1.0), 5, 0.048, 0.065, 0.010),
        (SVC(gamma=1.0), 20, 0.047, 0.132, 0.009),
    ],
)
def test_figures_on_breast_cancer(victim, n_poisons, flipped, figure, its_error):
    control, error = _test_errors(victim, n_poisons, 0)
    assert control < flipped + 3 * error
    found, error = _test_errors(victim, n_poisons, 60)
    assert found > figure - 3 * np.hypot(error, its_error)
    assert found > control + 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "scaler, kernel", [(StandardScaler(), "linear"), (MinMaxScaler(), "linear")]
)
def test_a_tenth_of_optimised_rows_costs_much_more_than_flipped_ones(scaler, kernel):
    victim = make_pipeline(scaler, SVC(kernel=kernel))
    lost = {0: [], 100: []}
    for seed in range(3):
        X, X_test, y, y_test = train_test_split(
            X_CANCER, Y_CANCER, test_size=0.4, random_state=seed, stratify=Y_CANCER
        )
        clean = victim.fit(X, y).score(X_test, y_test)
        for max_iter, losses in lost.items():
            attack = BilevelPoisoningAttack(
                victim, budget=0.1, max_iter=max_iter, random_state=seed
            )
            data = attack.poison(X, y)
            losses.append(clean - victim.fit(data.X, data.y).score(X_test, y_test))
    assert np.mean(lost[100]) > 0.05
    assert np.mean(lost[100]) > 4 * np.mean(lost[0])


@pytest.mark.parametrize("victim", [LogisticRegression(max_iter=500), LinearSVC()])
def test_ten_classes(victim):
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X / 16, y, train_size=500, random_state=0, stratify=y
    )
    clean = victim.fit(X, y).score(X_test, y_test)
    lost = {}
    for max_iter in (0, 12):
        attack = BilevelPoisoningAttack(victim, max_iter=max_iter, random_state=0)
        data = attack.poison(X, y)
        lost[max_iter] = clean - victim.fit(data.X, data.y).score(X_test, y_test)
    assert lost[12] > 2 * max(lost[0], 0.01)
    assert len(set(data.y[data.poison_indices])) == 10


@pytest.mark.parametrize(
    "victim",
    [LogisticRegression(), SVC(kernel="linear"), RidgeClassifier(), SVC(kernel="poly")],
)
@pytest.mark.parametrize("init", ["flip", "mean_opposite", "adaptive"])
def test_the_objective_rises_from_every_start(victim, init):
    X, y = load_wine(return_X_y=True)
    victim = make_pipeline(StandardScaler(), victim)
    attack = BilevelPoisoningAttack(victim, init=init, max_iter=15, random_state=0)
    data = attack.poison(X[::2], y[::2])
    assert attack.objective_ > 1.1 * attack.start_objective_
    assert attack.objective_ == attack.loss_curve_.max()
    assert attack.n_iter_ == len(attack.loss_curve_) <= 16
    assert attack.gradient_source_ == "estimator"
    _, labels = _poisons(data)
    sources = data.sample_indices[data.poison_indices]
    if init == "mean_opposite":
        assert (sources == -1).all()
        np.testing.assert_array_equal(data.y_original, labels)
    else:
        assert len(np.unique(sources)) == len(sources) == 8
        np.testing.assert_array_equal(data.y_original, y[::2][sources])
        assert (labels != y[::2][sources]).all()
    np.testing.assert_array_equal(data.sample_indices[:89], np.arange(89))
    np.testing.assert_array_equal(data.poison_indices, np.arange(89, 97))
    np.testing.assert_array_equal(data.X[:89], X[::2])


def test_adaptive_starts_are_better_than_blind_ones():
    X, y = X_UNIT[:200], Y_CANCER[:200]
    values = {}
    for init in ("flip", "adaptive"):
        attack = BilevelPoisoningAttack(
            LogisticRegression(), init=init, max_iter=0, random_state=0
        )
        data = attack.poison(X, y)
        values[init] = attack.objective_
        assert attack.objective_ == attack.start_objective_
        assert attack.n_iter_ == len(attack.loss_curve_) == 0
        # the control adds clean rows as they are
        sources = data.sample_indices[data.poison_indices]
        np.testing.assert_array_equal(_poisons(data)[0], X[sources])
    assert values["adaptive"] > 1.2 * values["flip"]


def test_the_objective_is_that_of_the_retrained_victim():
    X, y = _small()
    X_val, y_val = _small(40, seed=1)
    victim = LogisticRegression(tol=1e-10, max_iter=10_000)
    attack = BilevelPoisoningAttack(
        victim, validation_data=(X_val, y_val), max_iter=5, random_state=0
    )
    data = attack.poison(X, y)
    margin = victim.fit(data.X, data.y).decision_function(X_val) * (2 * y_val - 1)
    np.testing.assert_allclose(attack.objective_, np.logaddexp(0, -margin).mean(), 1e-5)


def test_an_objective_of_ones_own_is_what_rises():
    def scores_of_class_1(scores, y):
        return float(scores.mean()), np.full_like(scores, 1 / scores.size)

    X, y = _small()
    attack = BilevelPoisoningAttack(
        LogisticRegression(), objective=scores_of_class_1, max_iter=20, random_state=0
    )
    data = attack.poison(X, y)
    clean, poisoned = (
        LogisticRegression().fit(*train).decision_function(X).mean()
        for train in ((X, y), (data.X, data.y))
    )
    assert attack.objective_ > attack.start_objective_
    assert abs(attack.objective_ - poisoned) < 0.01
    assert poisoned > clean


# Strategies.


@pytest.mark.parametrize("victim", [LogisticRegression(), SVC(kernel="linear")])
def test_greedy_moves_one_row_after_the_other(victim, monkeypatch):
    seen = []
    solve = PoisonProblem.solve
    monkeypatch.setattr(
        PoisonProblem,
        "solve",
        lambda self, poisons: seen.append(poisons.Z) or solve(self, poisons),
    )
    X, y = _small()
    attack = BilevelPoisoningAttack(
        victim, budget=4, strategy="greedy", max_iter=6, random_state=0
    )
    attack.poison(X, y)
    moved = seen[1:]  # the first is of the start, all four
    sizes = [len(Z) for Z in moved]
    assert sizes == sorted(sizes) and set(sizes) == {1, 2, 3, 4}
    for size in (2, 3, 4):
        of_size = [Z for Z in moved if len(Z) == size]
        before = [Z for Z in moved if len(Z) == size - 1]
        for (
            Z
        ) in of_size:  # earlier rows stand still, where one of their steps left them
            np.testing.assert_array_equal(Z[:-1], of_size[0][:-1])
        assert any((of_size[0][:-1] == Z).all() for Z in before)
        assert len({Z[-1].tobytes() for Z in of_size}) > 1


def test_a_later_row_of_greedy_sees_the_earlier_ones():
    X, y = _small()
    rows = {}
    for first in (0.0, 1.0):
        start = np.array([[first] * 4, [0.5] * 4])
        attack = BilevelPoisoningAttack(
            LogisticRegression(C=100),
            budget=2,
            strategy="greedy",
            init=(start, [1, 0]),
            bounds=(-1, 2),
            max_iter=3,
            step_size=0.01,
        )
        rows[first] = _poisons(attack.poison(X, y))[0]
    assert (rows[0.0][1] != rows[1.0][1]).all()


@pytest.mark.parametrize(
    "victim",
    [LogisticRegression(), SVC(kernel="linear"), SVC(), LinearSVC()],
    ids=["logistic", "linear", "rbf", "squared hinge"],
)
def test_the_objective_of_coordinate_never_falls(victim):
    X, y = _small()
    attack = BilevelPoisoningAttack(
        victim, budget=4, strategy="coordinate", max_iter=4, random_state=0
    )
    attack.poison(X, y)
    curve = attack.loss_curve_
    assert len(curve) == attack.n_iter_ > 4
    assert (np.diff(curve) > -1e-9 * curve[:-1]).all()
    assert curve[0] == attack.start_objective_
    assert curve[-1] == attack.objective_ > attack.start_objective_


def test_rows_without_influence_start_again_elsewhere():
    # far inside their own side: no support vectors, so no gradient
    X, y = _small()
    far = np.tile(X[y == 1].mean(axis=0), (3, 1))
    victim = SVC(kernel="linear", C=100)
    attack = BilevelPoisoningAttack(
        victim, budget=3, init=(far, [1, 1, 1]), max_iter=40, random_state=0
    )
    rows, labels = _poisons(attack.poison(X, y))
    np.testing.assert_array_equal(labels, 1)  # rows move, labels were asked for
    assert (rows != far).any(axis=1).all()
    assert attack.objective_ > 1.2 * attack.start_objective_
    legal = LegalRows(X)
    spares = np.random.RandomState(0).permutation(60)
    problem = PoisonProblem(
        Victim(victim), X, y, legal, "auto", (None, y), spares=spares
    )
    poisons = problem.poisons(far, np.array([1, 0, 1]), [-1] * 3)
    seen = set()
    for i, attempt in np.ndindex(3, 5):
        moved = problem.restart(poisons, i, attempt)
        row = int(np.flatnonzero((legal.relax(X) == moved.Z[i]).all(axis=1))[0])
        assert y[row] != poisons.y[i]
        seen.add((poisons.y[i], row))
        others = np.arange(3) != i
        np.testing.assert_array_equal(moved.Z[others], poisons.Z[others])
    assert len(seen) == 15


def test_fixed_columns_stay_when_a_row_starts_again():
    X, y = _small()
    far = np.tile(X[y == 1].mean(axis=0), (3, 1))
    attack = BilevelPoisoningAttack(
        SVC(kernel="linear", C=100),
        budget=3,
        init=(far, [1, 1, 1]),
        mutable=[0, 1],
        max_iter=10,
        random_state=0,
    )
    rows, _ = _poisons(attack.poison(X, y))
    np.testing.assert_array_equal(rows[:, 2:], far[:, 2:])
    assert (rows[:, :2] != far[:, :2]).any()


def test_smaller_budgets_begin_with_the_rows_of_larger_ones():
    X, y = _small()
    for init in ("flip", "adaptive"):
        small, large = (
            BilevelPoisoningAttack(
                init=init, budget=budget, max_iter=0, random_state=0
            ).poison(X, y)
            for budget in (3, 9)
        )
        np.testing.assert_array_equal(small.X, large.X[:63])
        np.testing.assert_array_equal(small.y, large.y[:63])


# Targets.


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim", [LogisticRegression(), SVC(), SVC(kernel="linear")], ids=repr
)
def test_targets_are_read_as_wanted(victim):
    X, X_test, y, y_test = train_test_split(
        X_UNIT, Y_CANCER, train_size=200, random_state=0, stratify=Y_CANCER
    )
    victim.fit(X, y)
    right = np.flatnonzero(victim.predict(X_test) == y_test)
    margin = np.abs(victim.decision_function(X_test))[right]
    chosen = right[np.argsort(margin, kind="stable")][20:120:10]
    won = {}
    for max_iter in (0, 30):
        attack = BilevelPoisoningAttack(
            victim,
            budget=0.1,
            targets=X_test[chosen[:1]],
            target_labels=1 - y_test[chosen[0]],
            max_iter=max_iter,
            random_state=0,
        )
        won[max_iter] = []
        for i in chosen:
            attack.set_params(targets=X_test[[i]], target_labels=1 - y_test[i])
            data = attack.poison(X, y)
            assert set(_poisons(data)[1]) == {1 - y_test[i]}
            poisoned = victim.fit(data.X, data.y)
            outcome = attack.attack_outcomes(poisoned.predict, X_test, y_test)
            assert outcome.tolist() == [poisoned.predict(X_test[[i]])[0] != y_test[i]]
            won[max_iter].append(attack.attack_success(poisoned.predict, None, None))
    assert np.mean(won[30]) >= 0.8
    assert np.mean(won[0]) <= 0.2


def test_targets_in_three_classes_with_names():
    X, y = load_wine(return_X_y=True)
    names = np.array(["red", "rosé", "white"])
    X, X_test, y, y_test = train_test_split(X, names[y], random_state=0, stratify=y)
    targets, wanted = X_test[:3], names[(np.searchsorted(names, y_test[:3]) + 1) % 3]
    victim = make_pipeline(StandardScaler(), LogisticRegression())
    attack = BilevelPoisoningAttack(
        victim, budget=0.2, targets=targets, target_labels=wanted, random_state=0
    )
    data = attack.poison(X, y)
    assert set(_poisons(data)[1]) <= set(wanted)
    np.testing.assert_array_equal(victim.fit(X, y).predict(targets), y_test[:3])
    poisoned = victim.fit(data.X, data.y)
    np.testing.assert_array_equal(poisoned.predict(targets), wanted)
    assert attack.attack_success(poisoned.predict, X_test, y_test) == 1.0


def test_without_targets_rows_that_are_misread_count():
    X, y = _small()
    attack = BilevelPoisoningAttack(max_iter=1, random_state=0)
    attack.poison(X, y)
    outcomes = attack.attack_outcomes(lambda X: np.zeros(len(X)), X, y)
    np.testing.assert_array_equal(outcomes, y == 1)


# Starts of one's own.


def test_rows_of_ones_own():
    X, y = _small()
    names = np.array(["no", "yes"])[y]
    start = np.linspace(0.2, 0.8, 12).reshape(3, 4)
    attack = BilevelPoisoningAttack(
        budget=2, init=(start.tolist(), ["yes", "no", "no"]), max_iter=0
    )
    rows, labels = _poisons(attack.poison(X, names))
    np.testing.assert_array_equal(rows, start[:2])
    assert labels.tolist() == ["yes", "no"]
    assert (attack.sample_indices_[60:] == -1).all()
    np.testing.assert_array_equal(attack.y_original_, labels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_ones_own_take_the_type_of_X(dtype):
    X, y = _small()
    X = 10 * X
    start = np.array([[3, 7, 3, 7], [7, 3, 7, 3]])  # of integers
    attack = BilevelPoisoningAttack(
        LogisticRegression(), budget=2, init=(start, [0, 1]), max_iter=5
    )
    data = attack.poison(X.astype(dtype), y)
    assert data.X.dtype == dtype
    assert (_poisons(data)[0] % 1 > 0).any()


def test_frames_of_ones_own_have_the_columns_of_X():
    pd = pytest.importorskip("pandas")
    X, y = _small()
    frame = pd.DataFrame(X, columns=list("abcd"))
    attack = BilevelPoisoningAttack(budget=3, max_iter=1, init=(frame[:3], [0, 1, 0]))
    assert list(attack.poison(frame, y).X.dtypes) == [np.float64] * 4
    for other, error in (
        (frame[:3][list("dcba")], ValueError),
        (frame[:3].rename(columns={"a": "e"}), ValueError),
        (X[:3], TypeError),
    ):
        for name in ("init", "validation_data"):
            attack = BilevelPoisoningAttack(budget=3, **{name: (other, [0, 1, 0])})
            with pytest.raises(
                error, match=f"{name} must (have the columns|hold a da)"
            ):
                attack.fit(frame, y)


# Legal rows, in every container.


def _mixed_frame(n=60, seed=0):
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(seed)
    y = rng.randint(0, 2, n)
    bits = np.eye(3, dtype=int)[rng.randint(0, 3, n)]
    frame = pd.DataFrame(
        {
            "income": rng.lognormal(size=n) + y,
            "age": rng.randint(18, 80, n),
            "rooms": rng.randint(1, 6, n).astype(float),
            "town": pd.Categorical(
                np.array(["ulm", "bonn", "jena"])[rng.randint(3, size=n)]
            ),
            "job": np.array(["cook", "smith"], dtype=object)[
                (y + (rng.rand(n) < 0.2)) % 2
            ],
            "owner": rng.rand(n) < 0.4,
            "id": np.arange(n) * 7,
            "red": bits[:, 0],
            "green": bits[:, 1],
        },
        index=[f"row {i}" for i in range(n)],
    )
    return frame, np.array(["bad", "good"])[y]


ROLES = {
    "mutable": ["income", "age", "rooms", "town", "job", "owner", "red", "green"],
    "integer": ["rooms"],
    "one_hot": [["red", "green"]],
}


def _encoder():
    return make_column_transformer(
        (StandardScaler(), ["income", "age", "rooms", "red", "green"]),
        (OneHotEncoder(handle_unknown="ignore"), ["town", "job", "owner"]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, init, strategy",
    [
        (LogisticRegression(), "flip", "joint"),
        (LogisticRegression(), "adaptive", "greedy"),
        (SVC(), "mean_opposite", "joint"),
        (SVC(), "adaptive", "joint"),
        (SVC(kernel="linear"), "flip", "coordinate"),
    ],
)
def test_poisons_of_a_mixed_table_are_legal(victim, init, strategy):
    frame, y = _mixed_frame()
    low = np.array([0.5, 18, 1, 0, 0, 0])
    high = np.array([np.inf, 75, 4, 0, 0, 0])
    frame["income"] = frame["income"].clip(lower=0.5)
    frame["age"] = frame["age"].clip(upper=75)
    frame["rooms"] = frame["rooms"].clip(upper=4)
    given = frame.copy(deep=True)
    attack = BilevelPoisoningAttack(
        make_pipeline(_encoder(), victim),
        budget=5,
        strategy=strategy,
        init=init,
        max_iter=2 if strategy == "coordinate" else 5,
        step_size=0.3,
        bounds=(low, high),
        random_state=0,
        **ROLES,
    )
    data = attack.poison(frame, y)
    assert frame.equals(given)
    assert list(data.X.dtypes) == list(frame.dtypes)
    assert data.X.iloc[:60].equals(frame)
    rows = data.X.iloc[60:]
    assert rows["income"].min() >= 0.5
    assert rows["age"].between(18, 75).all() and rows["age"].dtype.kind == "i"
    assert rows["rooms"].isin([1.0, 2.0, 3.0, 4.0]).all()
    for column in ("town", "job", "owner"):
        assert rows[column].isin(frame[column].unique()).all()
    assert rows[["red", "green"]].isin([0, 1]).all(axis=None)
    assert (rows["red"] + rows["green"] <= 1).all()
    assert rows["id"].isin(frame["id"]).all()
    sources = data.sample_indices[60:]
    if init != "mean_opposite":
        np.testing.assert_array_equal(rows["id"], frame["id"].iloc[sources])
        assert list(rows.index) == list(frame.index[sources])
    assert attack.objective_ >= attack.start_objective_
    assert set(data.y[60:]) <= {"bad", "good"}


def test_bounds_hold_on_every_row_that_is_tried(monkeypatch):
    tried = []
    training_set = PoisonProblem.training_set
    monkeypatch.setattr(
        PoisonProblem,
        "training_set",
        lambda self, rows, y: tried.append(rows) or training_set(self, rows, y),
    )
    rng = np.random.RandomState(0)
    X = np.column_stack([rng.randint(0, 9, 50), rng.rand(50), rng.rand(50) * 100])
    y = (X[:, 1] > 0.5).astype(int)
    BilevelPoisoningAttack(
        SVC(), integer=[0], bounds=(0, [9, 1, 200]), step_size=1.0, max_iter=20
    ).poison(X, y)
    assert len(tried) > 20
    tried = np.concatenate(tried)
    assert (tried[:, 0] == np.rint(tried[:, 0])).all()
    assert tried.min() >= 0 and (tried <= [9, 1, 200]).all()
    assert tried[:, 2].max() > 100


def test_containers_come_back_in_kind():
    X, y = _small()
    attack = BilevelPoisoningAttack(max_iter=2, random_state=0)
    array = attack.poison(X, y)
    as_lists = attack.poison(X.tolist(), y.tolist())
    assert isinstance(as_lists.X, list) and isinstance(as_lists.y, list)
    np.testing.assert_array_equal(as_lists.X, array.X)
    single = attack.poison(X.astype(np.float32), y)
    assert single.X.dtype == np.float32
    np.testing.assert_allclose(single.X, array.X, atol=1e-3)
    images = attack.poison(X.reshape(-1, 2, 2), y)
    assert images.X.shape == (66, 2, 2)
    np.testing.assert_array_equal(images.X.reshape(-1, 4), array.X)
    whole = attack.poison(np.rint(X * 255).astype(np.uint8).reshape(-1, 2, 2), y)
    assert whole.X.dtype == np.uint8 and whole.X.shape == (66, 2, 2)
    mixed = [[*row, "ab"[int(label)]] for row, label in zip(X.tolist(), y, strict=True)]
    rows = attack.poison(mixed, y.tolist()).X
    assert rows[:60] == mixed
    assert all(
        [type(cell) for cell in row] == [float] * 4 + [str] and row[4] in "ab"
        for row in rows[60:]
    )


@pytest.mark.parametrize("init", ["flip", "adaptive", "mean_opposite"])
def test_polars_frames(init):
    pl = pytest.importorskip("polars")
    X, y = _small()
    frame = pl.DataFrame(X, schema=list("abcd")).with_columns(
        pl.Series("kind", ["uvw"[i % 3] for i in range(60)]),
        pl.Series("count", np.arange(60) % 5),
    )
    attack = BilevelPoisoningAttack(init=init, budget=4, max_iter=3, random_state=0)
    data = attack.poison(frame, pl.Series("y", y))
    assert data.X.schema == frame.schema and data.X.shape == (64, 6)
    assert data.X[:60].equals(frame)
    assert isinstance(data.y, pl.Series) and len(data.y) == 64
    assert set(data.X["kind"][60:]) <= set("uvw")
    assert attack.objective_ > attack.start_objective_
    # rows that the victim takes no notice of are taken again, by position
    BilevelPoisoningAttack(
        SVC(C=100, kernel="linear"), init=init, budget=4, max_iter=5, random_state=0
    ).poison(frame[:, :4], y)


def test_labels_share_the_index_of_a_frame():
    pd = pytest.importorskip("pandas")
    X, y = _small()
    index = pd.Index(np.arange(60) * 10 + 5)
    frame = pd.DataFrame(X, index=index, columns=list("abcd"))
    series = pd.Series(np.array(["n", "p"])[y], index=index, name="label")
    data = BilevelPoisoningAttack(max_iter=1, random_state=0).poison(frame, series)
    assert data.y.name == "label" and data.y.index.equals(data.X.index)


@pytest.mark.parametrize("init", ["flip", "adaptive", "mean_opposite"])
def test_empty_cells_need_an_imputer_and_stay_empty(init):
    X, y = _small()
    X[::5, 1] = np.nan
    victim = make_pipeline(SimpleImputer(), SVC(kernel="linear"))
    attack = BilevelPoisoningAttack(
        victim, init=init, budget=20, max_iter=3, random_state=0
    )
    rows, _ = _poisons(attack.poison(X, y))
    assert np.isfinite(rows[:, [0, 2, 3]]).all()
    if init != "mean_opposite":
        sources = attack.sample_indices_[60:]
        np.testing.assert_array_equal(np.isnan(rows), np.isnan(X[sources]))
        assert np.isnan(rows).any()
    assert attack.objective_ > attack.start_objective_
    with pytest.raises(ValueError, match="NaN"):
        attack.set_params(estimator=SVC()).poison(X, y)


# In estimators and searches.


class _Recorder(LogisticRegression):
    """Remembers what it was trained on and asked about."""

    seen: list = []

    def fit(self, X, y, sample_weight=None):
        type(self).seen.append(("fit", X.copy()))
        return super().fit(X, y, sample_weight)

    def predict(self, X):
        type(self).seen.append(("predict", X.copy()))
        return super().predict(X)


def test_the_attack_knows_the_victim_around_it_and_test_folds_stay_clean():
    X, y = _small(90)
    folds = KFold(3)
    attack = BilevelPoisoningAttack("victim", max_iter=15, random_state=0)
    attack.set_params(surrogate=LogisticRegression())  # the recorder overrides fit
    _Recorder.seen = []
    search = GridSearchCV(
        PoisonedEstimator(attack, _Recorder(), random_state=0),
        {"attack__budget": [0, 0.1, 0.3]},
        cv=folds,
        refit=False,
    ).fit(X, y)
    means = search.cv_results_["mean_test_score"]
    assert means[2] < means[0]
    clean = GridSearchCV(_Recorder(), {"C": [1.0]}, cv=folds, refit=False).fit(X, y)
    for k in range(3):
        key = f"split{k}_test_score"
        assert search.cv_results_[key][0] == clean.cv_results_[key][0]
    tests = [X[test] for _, test in folds.split(X)]
    trains = [X[train] for train, _ in folds.split(X)]
    kinds = [kind for kind, _ in _Recorder.seen]
    assert kinds == ["fit", "predict"] * 12
    sizes = [len(rows) for kind, rows in _Recorder.seen if kind == "fit"]
    assert sizes == [60] * 3 + [66] * 3 + [78] * 3 + [60] * 3
    for i, (kind, rows) in enumerate(_Recorder.seen):
        k = i // 2 % 3
        np.testing.assert_array_equal(
            rows if kind == "predict" else rows[:60],
            tests[k] if kind == "predict" else trains[k],
        )


def test_the_attack_follows_the_victim_in_a_search():
    X, y = _small(90)
    model = PoisonedEstimator(
        BilevelPoisoningAttack("victim", budget=0.2, max_iter=10, random_state=0)
    )
    for victim in (LogisticRegression(), SVC(kernel="linear")):
        model.set_params(estimator=victim).fit(X, y)
        alone = BilevelPoisoningAttack(
            victim, budget=0.2, max_iter=10, random_state=0
        ).poison(X, y)
        expected = victim.fit(alone.X, alone.y).decision_function(X)
        np.testing.assert_array_equal(model.decision_function(X), expected)
        assert model.attack == model.attack and model.attack.estimator == "victim"


def test_fit_parameters_follow_rows_that_have_a_source():
    X, y = _small()
    weight = np.random.RandomState(0).rand(60)
    attack = BilevelPoisoningAttack("victim", budget=5, max_iter=3, random_state=0)
    model = PoisonedEstimator(attack, LogisticRegression())
    model.fit(X, y, sample_weight=weight)
    data = BilevelPoisoningAttack(
        LogisticRegression(), budget=5, max_iter=3, random_state=0
    ).poison(X, y)
    expected = LogisticRegression().fit(data.X, data.y, weight[data.sample_indices])
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    model.set_params(attack__init="mean_opposite")
    with pytest.raises(ValueError, match="sample_weight cannot be extended to rows"):
        model.fit(X, y, sample_weight=weight)


# Nothing of the caller's changes, and the same seed gives the same bits.


@pytest.mark.parametrize("strategy", ["joint", "greedy", "coordinate"])
def test_nothing_of_the_callers_changes(strategy):
    X, y = _small()
    X_val, y_val = _small(30, seed=1)
    victim = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(X, y)
    attack = BilevelPoisoningAttack(
        victim,
        budget=3,
        strategy=strategy,
        validation_data=(X_val, y_val),
        init=(X[:3], 1 - y[:3]),
        bounds=(np.zeros(4), np.ones(4)),
        mutable=[0, 1, 2],
        max_iter=3,
        random_state=0,
    )
    own = (X, y, attack.get_params(deep=False))
    state = np.random.mtrand._rand
    before = joblib.hash((own, state))
    first = attack.poison(X, y)
    assert joblib.hash((own, state)) == before
    state.randint(5)
    assert joblib.hash((own, state)) != before
    second = attack.poison(X, y)
    np.testing.assert_array_equal(first.X, second.X)
    assert not np.shares_memory(first.X, X)


@pytest.mark.parametrize("init", ["flip", "mean_opposite"])
def test_seeds(init):
    X, y = _small()
    rows = [
        BilevelPoisoningAttack(init=init, max_iter=4, random_state=seed).poison(X, y).X
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


# Checkpoints.


class _Killed(BaseException):
    pass


def _kill_after(monkeypatch, n_calls):
    """Let the search die at its n-th training of the victim."""
    left = [n_calls]
    solve = PoisonProblem.solve

    def dying(self, poisons):
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return solve(self, poisons)

    monkeypatch.setattr(PoisonProblem, "solve", dying)


def _counted(monkeypatch):
    counts = []
    solve = PoisonProblem.solve
    monkeypatch.setattr(
        PoisonProblem,
        "solve",
        lambda self, poisons: counts.append(1) or solve(self, poisons),
    )
    return counts


@pytest.mark.parametrize(
    "strategy, max_iter, deaths",
    [
        ("joint", 35, (5, 17, 9)),
        ("greedy", 6, (3, 15, 10)),
        ("coordinate", 4, (9, 25)),
    ],
)
@pytest.mark.parametrize("victim", [LogisticRegression(), SVC(kernel="linear", C=50)])
def test_a_killed_search_goes_on(
    victim, strategy, max_iter, deaths, tmp_path, monkeypatch
):
    X, y = _small()

    def attack(folder):
        return BilevelPoisoningAttack(
            victim,
            budget=4,
            strategy=strategy,
            max_iter=max_iter,
            # joint steps are halved on the way
            step_size=0.3 if strategy == "joint" else 0.03,
            tol=0.05 if strategy == "joint" else 0.0,
            random_state=0,
            checkpoint=tmp_path / folder,
        )

    whole = attack("whole")
    expected = whole.poison(X, y)
    for death in deaths:
        with monkeypatch.context() as patch:
            _kill_after(patch, death)
            with pytest.raises(_Killed):
                attack("killed").poison(X, y)
    again = attack("killed")
    with monkeypatch.context() as patch:
        counts = _counted(patch)
        data = again.poison(X, y)
    np.testing.assert_array_equal(data.X, expected.X)
    np.testing.assert_array_equal(data.y, expected.y)
    np.testing.assert_array_equal(again.loss_curve_, whole.loss_curve_)
    assert again.objective_ == whole.objective_
    assert len(counts) < 0.8 * whole.n_iter_ or strategy == "coordinate"
    # what is finished is not done again
    with monkeypatch.context() as patch:
        counts = _counted(patch)
        finished = attack("killed")
        np.testing.assert_array_equal(finished.poison(X, y).X, expected.X)
    assert finished.objective_ == whole.objective_
    assert len(counts) <= 12


def test_a_search_that_ended_early_stays_ended(tmp_path):
    X, y = _small()
    attack = BilevelPoisoningAttack(
        LogisticRegression(),
        budget=2,
        strategy="coordinate",
        max_iter=50,
        tol=0.05,
        random_state=0,
        checkpoint=tmp_path,
    )
    first = attack.poison(X, y)
    n_iter = attack.n_iter_
    assert n_iter < 50
    np.testing.assert_array_equal(attack.poison(X, y).X, first.X)
    assert attack.n_iter_ == n_iter


def test_other_checkpoints_are_refused_before_any_work(tmp_path, monkeypatch):
    X, y = _small()
    params = {"max_iter": 11, "random_state": 0, "checkpoint": tmp_path}
    victim = LogisticRegression()
    data = BilevelPoisoningAttack(victim, **params).poison(X, y)
    # what does not decide the result may change: a victim's fit, the bar
    fitted = LogisticRegression().fit(X, y)
    again = BilevelPoisoningAttack(fitted, verbose=0, **params).poison(X, y)
    np.testing.assert_array_equal(data.X, again.X)
    counts = _counted(monkeypatch)
    for other in (
        {"random_state": 1},
        {"budget": 0.2},
        {"max_iter": 12},
        {"estimator": LogisticRegression(C=2)},
        {"strategy": "greedy"},
        {"init": "adaptive"},
    ):
        attack = BilevelPoisoningAttack(**{"estimator": victim, **params, **other})
        with pytest.raises(ValueError, match="holds another attack or other data"):
            attack.poison(X, y)
    with pytest.raises(ValueError, match="holds another attack or other data"):
        BilevelPoisoningAttack(victim, **params).poison(X + 1e-9, y)
    (tmp_path / "joint.npz").write_bytes((tmp_path / "joint.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"joint\.npz is damaged"):
        BilevelPoisoningAttack(victim, **params).poison(X, y)
    assert not counts


def test_checkpoints_that_can_not_work_are_refused(tmp_path):
    X, y = _small()
    attack = BilevelPoisoningAttack(checkpoint=tmp_path / "new")
    with pytest.raises(ValueError, match="checkpoint needs a random_state"):
        attack.fit(X, y)
    with pytest.raises(TypeError, match="checkpoint must be a folder, got 3"):
        BilevelPoisoningAttack(checkpoint=3, random_state=0).fit(X, y)
    attack.set_params(random_state=0, objective=lambda scores, y: (0.0, scores))
    with pytest.raises(TypeError, match="checkpoint needs parameters that can be pic"):
        attack.poison(X, y)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, not a folder"):
        BilevelPoisoningAttack(checkpoint=tmp_path / "file", random_state=0).poison(
            X, y
        )


def test_progress_goes_to_stderr(capsys):
    X, y = _small()
    BilevelPoisoningAttack(max_iter=3, random_state=0).poison(X, y)
    assert capsys.readouterr() == ("", "")
    BilevelPoisoningAttack(max_iter=3, max_queries=2, verbose=1).poison(X, y)
    out, err = capsys.readouterr()
    assert out == "" and "/3 [" in err and "/2 [" in err


# Errors, warnings and corners.


@pytest.mark.parametrize(
    "params, message",
    [
        ({"estimator": "svc"}, "estimator must be an estimator, 'victim' or.*'svc'"),
        ({"estimator": 3}, "estimator must be an estimator, 'victim' or None, got 3"),
        ({"estimator": SVC}, "estimator must be an estimator, 'victim' or None"),
        ({"estimator": "victim"}, "estimator='victim' needs a PoisonedEstimator"),
        ({"surrogate": "victim"}, "surrogate='victim' needs a PoisonedEstimator"),
        ({"estimator": Ridge()}, r"classifier, got Ridge\(\); RegressionPoisoning"),
        ({"surrogate": Ridge()}, r"surrogate must be a classifier, got Ridge\(\)"),
        ({"strategy": "best"}, "strategy must be one of 'joint'.*got 'best'"),
        ({"objective": "accuracy"}, "objective must be one of 'auto'.*got 'accuracy'"),
        ({"objective": "squared_error"}, "objective must be one of 'auto', 'log_l"),
        ({"init": "random"}, "init must be one of 'flip'.*got 'random'"),
        ({"init": 3}, "init must be a pair of rows and their labels, got 3"),
        ({"init": (np.zeros((2, 4)), [0])}, "init must hold one label a row, got 2"),
        ({"init": (np.zeros((2, 3)), [0, 1])}, r"init must hold rows of shape \(4,\)"),
        ({"init": (np.zeros((2, 4)), [0, 7])}, "init=7 is not among the classes"),
        ({"init": (np.full((2, 4), 9), [0, 1])}, "init: row 0 is no legal row"),
        ({"max_iter": -1}, "max_iter must be >= 0, got -1"),
        ({"step_size": 0}, "step_size must be > 0.0, got 0"),
        ({"tol": -1.0}, "tol must be >= 0.0, got -1.0"),
        ({"max_queries": -1}, "max_queries must be >= 0, got -1"),
        ({"budget": 61}, r"budget as a count of rows must be in \[0, n_samples=60\]"),
        ({"bounds": (1, 0)}, "bounds must have low <= high"),
        ({"bounds": (0, 0.5)}, "X lies outside bounds"),
        ({"bounds": "clip"}, "bounds must be 'data', None or a pair"),
        ({"mutable": [9]}, "mutable: 9 is out of range"),
        ({"integer": [0]}, "integer: column 0 holds numbers that are not whole"),
        ({"one_hot": [[0]]}, "one_hot: column 0 holds other values than 0 and 1"),
        ({"validation_data": 3}, "validation_data must be a pair.*got 3"),
        (
            {"validation_data": (np.zeros((2, 3)), [0, 1])},
            "validation_data must hold r",
        ),
        ({"validation_data": (np.zeros((2, 4)), [0])}, "validation_data must hold one"),
        ({"validation_data": (np.zeros((2, 4)), [0, 7])}, "validation_data=7 is not"),
        ({"validation_data": (np.zeros((0, 4)), [])}, "at least one row, got none"),
        ({"targets": np.zeros((1, 4))}, "target_labels=None is not among the classes"),
        ({"target_labels": 1}, "target_labels=1 needs targets"),
        ({"targets": np.zeros((1, 4)), "target_labels": 7}, "target_labels=7 is not"),
        (
            {"targets": np.zeros((1, 3)), "target_labels": 1},
            "targets must hold rows of",
        ),
        ({"targets": np.zeros((2, 4)), "target_labels": [1]}, "one label a target, 2"),
        (
            {
                "targets": np.zeros((1, 4)),
                "target_labels": 1,
                "validation_data": (np.zeros((1, 4)), [1]),
            },
            "targets and validation_data exclude each other",
        ),
    ],
)
def test_bad_parameters_are_named_before_any_work(params, message, monkeypatch):
    counts = _counted(monkeypatch)
    X, y = _small()
    attack = BilevelPoisoningAttack(random_state=0).set_params(**params)
    for call in (attack.fit, attack.fit_resample, attack.poison):
        with pytest.raises(ValueError, match=message):
            call(X, y)
    assert not counts


@pytest.mark.parametrize(
    "params, message",
    [
        ({"max_iter": 1.5}, "max_iter must be an int, got 1.5"),
        ({"step_size": "a"}, "step_size must be a number, got 'a'"),
        ({"mutable": 3}, "mutable must be a list of columns.*got 3"),
        ({"one_hot": [0, 1]}, "one_hot must be a list of lists of columns"),
    ],
)
def test_parameters_of_a_wrong_type(params, message):
    X, y = _small()
    with pytest.raises(TypeError, match=message):
        BilevelPoisoningAttack(**params).fit(X, y)


def test_too_few_rows_of_ones_own():
    X, y = _small()
    with pytest.raises(ValueError, match="init holds 2 rows, but the budget allows 6"):
        BilevelPoisoningAttack(init=(X[:2], y[:2])).poison(X, y)


def test_targets_are_held_out():
    pd = pytest.importorskip("pandas")
    X, y = _small()
    frame, labels = _mixed_frame()
    cells = np.array([[1.0, "u"], [2.0, "v"]] * 30, dtype=object)
    fresh = np.array([[1.0, "v"]], dtype=object)
    for table, y_, label, inside, outside in (
        (X, y, 1, X[:1], X[:1] + 0.01),
        (frame, labels, "bad", frame[3:4], frame[3:4].assign(town="ulm", age=99)),
        (cells, y, 1, cells[:1], fresh),
        (pd.DataFrame(X), y, 1, pd.DataFrame(X[:1]), pd.DataFrame(X[:1] + 0.01)),
    ):
        attack = BilevelPoisoningAttack(
            targets=outside, target_labels=label, max_iter=2, random_state=0
        )
        assert attack.poison(table, y_).X is not None
        attack.set_params(targets=inside)
        with pytest.raises(ValueError, match=r"targets\[0\] is also a training row"):
            attack.fit(table, y_)


def test_what_is_no_classification_is_refused():
    from scipy import sparse

    X, y = _small()
    with pytest.raises(ValueError, match="continuous"):
        BilevelPoisoningAttack().poison(X, y + 0.5 * X[:, 0])
    with pytest.raises(TypeError, match=r"Sparse data.*use X\.toarray\(\)"):
        BilevelPoisoningAttack().poison(sparse.csr_matrix(X), y)


def test_one_class_is_left_alone_with_a_warning():
    X, y = _small()
    attack = BilevelPoisoningAttack(max_iter=2)
    with pytest.warns(UserWarning, match="y holds one class, 0"):
        data = attack.poison(X, np.zeros(60, dtype=int))
    np.testing.assert_array_equal(data.X, X)
    assert attack.n_poisoned_ == 0 and np.isnan(attack.objective_)


def test_a_budget_of_nothing_returns_the_data():
    X, y = _small()
    attack = BilevelPoisoningAttack(budget=0, max_iter=2)
    data = attack.poison(X, y)
    assert data.X is X
    assert attack.n_poisoned_ == attack.n_iter_ == attack.n_queries_ == 0
    assert len(attack.loss_curve_) == len(attack.query_curve_) == 0
    with pytest.warns(UserWarning, match="comes to no row"):
        assert attack.set_params(budget=0.01).poison(X, y).X is X


VICTIMS = [
    LogisticRegression(C=1e8),
    SVC(kernel="linear", C=1e5),
    SVC(gamma=100.0),
    LinearSVC(C=1e4),
    RidgeClassifier(alpha=1e-8),
    make_pipeline(StandardScaler(), SVC(kernel="linear", C=1e5)),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("victim", VICTIMS, ids=str)
@pytest.mark.parametrize("case", ["separable", "more columns", "copies", "constant"])
def test_degenerate_data(victim, case):
    rng = np.random.RandomState(0)
    y = np.arange(24) % 2
    X = {
        "separable": rng.rand(24, 3) + 10 * y[:, None],
        "more columns": rng.rand(24, 40),
        "copies": np.repeat(rng.rand(4, 3), 6, axis=0),
        "constant": np.column_stack([rng.rand(24), np.ones(24), np.zeros(24)]),
    }[case]
    attack = BilevelPoisoningAttack(victim, budget=24, max_iter=5, random_state=0)
    data = attack.poison(X, y)
    rows, _ = _poisons(data)
    assert len(rows) == 24 and np.isfinite(rows).all()
    assert (rows >= X.min(axis=0)).all() and (rows <= X.max(axis=0)).all()
    assert np.isfinite(attack.objective_)
    assert attack.objective_ >= attack.start_objective_
    victim.fit(data.X, data.y)


def test_constant_data_gives_constant_poisons():
    X, y = np.ones((20, 3)), np.arange(20) % 2
    data = BilevelPoisoningAttack(SVC(), max_iter=3, random_state=0).poison(X, y)
    np.testing.assert_array_equal(data.X, np.ones((22, 3)))


def test_no_free_support_vector():
    # as many of both classes and a small C: every coefficient sits at its bound
    rng = np.random.RandomState(0)
    X, y = rng.rand(20, 2), np.arange(20) % 2
    victim = SVC(kernel="linear", C=1e-3)
    attack = BilevelPoisoningAttack(
        victim, budget=2, init=(X[:2], [1, 0]), max_iter=5, random_state=0
    )
    data = attack.poison(X, y)
    for rows in (slice(20), slice(None)):
        solved = _svm.make_learner(victim).solve(data.X[rows], data.y[rows])
        assert all(system is None for _, system in solved.tasks)
    assert attack.objective_ > attack.start_objective_


def test_nothing_to_move():
    X, y = _small()
    for strategy in ("joint", "greedy", "coordinate"):
        attack = BilevelPoisoningAttack(
            SVC(), mutable=[], strategy=strategy, max_iter=3, random_state=0
        )
        rows, _ = _poisons(attack.poison(X, y))
        np.testing.assert_array_equal(rows, X[attack.sample_indices_[60:]])
        assert attack.objective_ == pytest.approx(attack.start_objective_)


def test_an_svm_short_of_its_optimum_is_reported(monkeypatch):
    X, y = _small()
    attack = BilevelPoisoningAttack(SVC(kernel="linear"), max_iter=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.poison(X, y)
    solve = _svm.SVMLearner.solve

    def loose(self, *args, **kwargs):
        solution = solve(self, *args, **kwargs)
        solution.kkt_residual = 0.02
        return solution

    monkeypatch.setattr(_svm.SVMLearner, "solve", loose)
    with pytest.warns(ConvergenceWarning, match="optimality conditions by 0.02"):
        attack.poison(X, y)
