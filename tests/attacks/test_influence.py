"""Edited rows: which ones, how far, what they cost, and the same edits again."""

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, make_blobs
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from skpoison.attacks import InfluenceAttack
from skpoison.attacks._implicit import _svm
from skpoison.attacks._implicit._ascent import EditProblem, PoisonProblem
from skpoison.compose import PoisonedEstimator
from skpoison.utils import make_table_encoder


def _small(n=60, n_features=4, seed=0):
    X, y = make_blobs(n, n_features, centers=2, cluster_std=3.0, random_state=seed)
    return MinMaxScaler((1, 3)).fit_transform(X), y


# Which rows, and what it costs.


@pytest.mark.parametrize(
    "victim", [LogisticRegression(), SVC(kernel="linear"), SVC(), LinearSVC()], ids=repr
)
def test_edits_cost_more_than_noise_of_the_same_size(victim):
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        StandardScaler().fit_transform(X), y, train_size=250, random_state=0, stratify=y
    )
    clean = victim.fit(X, y).score(X_test, y_test)
    attack = InfluenceAttack(victim, eps=2.0, budget=0.15, random_state=0)
    poisoned = attack.fit_transform(X, y)
    lost = clean - victim.fit(poisoned, y).score(X_test, y_test)
    signs = np.random.RandomState(0).choice([-2.0, 2.0], X.shape)
    noisy = X.copy()
    noisy[attack.poison_indices_] += signs[attack.poison_indices_]
    noise = clean - victim.fit(noisy, y).score(X_test, y_test)
    assert lost > max(0.02, 2 * noise)
    assert attack.objective_ > 2 * attack.start_objective_


def test_a_regressor_is_hurt():
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = X[:200], X[200:], y[:200], y[200:]
    victim = make_pipeline(StandardScaler(), Ridge())
    clean = mean_squared_error(y_test, victim.fit(X, y).predict(X_test))
    attack = InfluenceAttack(victim, budget=0.2, random_state=0)
    poisoned = victim.fit(attack.fit_transform(X, y), y).predict(X_test)
    assert mean_squared_error(y_test, poisoned) > 1.2 * clean
    np.testing.assert_allclose(
        attack.objective_, mean_squared_error(y, victim.predict(X)), 1e-6
    )


@pytest.mark.parametrize("victim", [LogisticRegression(), LinearRegression()], ids=repr)
def test_the_rows_of_the_largest_influence_are_edited(victim):
    X, y = _small()
    attack = InfluenceAttack(victim, budget=9, max_iter=1, random_state=0).fit(X, y)
    assert attack.influence_.shape == (60,)
    expected = np.sort(np.argsort(-attack.influence_)[:9])
    np.testing.assert_array_equal(attack.poison_indices_, expected)


@pytest.mark.slow
def test_influence_is_the_effect_of_an_edit():
    X, y = _small(20)
    victim = LogisticRegression(tol=1e-12, max_iter=10_000)
    attack = InfluenceAttack(victim, budget=3, max_iter=0).fit(X, y)

    def objective(X_train):
        margin = victim.fit(X_train, y).decision_function(X) * (2 * y - 1)
        return np.logaddexp(0, -margin).mean()

    gradient = np.empty_like(X)
    for cell in np.ndindex(*X.shape):
        moved = X.copy(), X.copy()
        moved[0][cell] += 1e-4
        moved[1][cell] -= 1e-4
        gradient[cell] = (objective(moved[0]) - objective(moved[1])) / 2e-4
    expected = np.linalg.norm(gradient * np.ptp(X, axis=0), axis=1)
    np.testing.assert_allclose(attack.influence_, expected, rtol=1e-3)
    np.testing.assert_allclose(attack.start_objective_, objective(X), rtol=1e-6)
    assert attack.objective_ == attack.start_objective_
    np.testing.assert_array_equal(attack.perturbation_, 0)


def test_budgets_nest():
    X, y = _small()
    chosen = [
        set(InfluenceAttack(budget=b, max_iter=1, random_state=0).fit(X, y).row_keys_)
        for b in (2, 7, 20)
    ]
    assert chosen[0] < chosen[1] < chosen[2]


def test_only_chosen_rows_change_and_are_known_again():
    X, y = _small()
    attack = InfluenceAttack(budget=6, max_iter=5, random_state=0)
    poisoned = attack.fit_transform(X, y)
    rows = attack.poison_indices_
    assert len(rows) == 6 == attack.n_poisoned_
    changed = (poisoned != X).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), rows)
    order = np.random.RandomState(0).permutation(60)
    np.testing.assert_array_equal(attack.transform(X[order]), poisoned[order])
    np.testing.assert_array_equal(attack.transform(X + 1e-3), X + 1e-3)
    data = attack.poison(X, y)
    np.testing.assert_array_equal(data.y, y)
    np.testing.assert_array_equal(data.X, poisoned)
    np.testing.assert_array_equal(data.sample_indices, np.arange(60))
    np.testing.assert_array_equal(data.y_original, y[rows])


def test_copies_are_edited_together():
    X, y = _small(30)
    X, y = np.repeat(X, 2, axis=0), np.repeat(y, 2)
    attack = InfluenceAttack(budget=6, max_iter=3, random_state=0)
    poisoned = attack.fit_transform(X, y)
    np.testing.assert_array_equal(poisoned[::2], poisoned[1::2])
    assert attack.n_poisoned_ == 6


# How far.


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "norm, eps",
    [
        ("linf", 0.3),
        ("linf", [0.0, 0.1, 0.2, 0.4]),
        ("l2", 0.3),
        ("linf", 0),
        ("l2", 0),
    ],
    ids=str,
)
def test_radius_and_box(norm, eps, dtype):
    X, y = _small()
    X = X.astype(dtype)
    attack = InfluenceAttack(
        make_pipeline(StandardScaler(), LogisticRegression()),
        eps=eps,
        norm=norm,
        budget=10,
        random_state=0,
    )
    poisoned = attack.fit_transform(X, y)
    assert poisoned.dtype == dtype
    slack = 1e-9 if dtype == "float64" else 1e-6
    moved = poisoned.astype(float) - X
    if norm == "linf":
        assert (np.abs(moved) <= np.asarray(eps) + slack).all()
    else:
        assert np.linalg.norm(moved, axis=1).max() <= eps + slack
    assert (poisoned >= X.min(axis=0)).all() and (poisoned <= X.max(axis=0)).all()
    if np.any(eps):
        reach = attack.perturbation_norms_[norm].max()
        assert reach > 0.99 * np.max(eps)
        assert attack.objective_ > attack.start_objective_
    else:
        np.testing.assert_array_equal(poisoned, X)


def test_the_ball_is_one_of_the_units_of_X():
    # a column of a thousand times the range takes a thousand times the share
    X, y = _small()
    X = X * [1, 1, 1000, 1000]
    victim = make_pipeline(StandardScaler(), LogisticRegression())
    for eps in (0.5, 100.0):
        attack = InfluenceAttack(victim, eps=eps, norm="l2", budget=10, random_state=0)
        attack.fit(X, y)
        assert attack.perturbation_norms_["l2"].max() <= eps * (1 + 1e-9)
        assert attack.objective_ > 1.05 * attack.start_objective_


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_radius_is_an_infinite_one(norm):
    X, y = _small()
    free = InfluenceAttack(norm=norm, max_iter=5, random_state=0).fit(X, y)
    with np.errstate(all="raise"):
        wide = clone(free).set_params(eps=np.inf).fit(X, y)
    assert np.isfinite(wide.perturbation_).all()
    assert free.objective_ > free.start_objective_
    assert wide.objective_ > wide.start_objective_


def test_bounds_and_fixed_columns():
    X, y = _small()
    attack = InfluenceAttack(bounds=(0.5, 3.5), mutable=[1, 3], random_state=0)
    poisoned = attack.fit_transform(X, y)
    np.testing.assert_array_equal(poisoned[:, [0, 2]], X[:, [0, 2]])
    assert poisoned.min() >= 0.5 and poisoned.max() <= 3.5
    assert poisoned.min() < 1 or poisoned.max() > 3


@pytest.mark.parametrize(
    "norm, eps",
    [("linf", 0.9), ("linf", 1.6), ("linf", 3), ("l2", 2.5), ("linf", None)],
)
def test_whole_numbers_stay_whole_inside_the_radius(norm, eps):
    rng = np.random.RandomState(0)
    X = rng.randint(0, 20, (60, 3))
    y = (X[:, 0] + 4 * rng.randn(60) > 10).astype(int)
    attack = InfluenceAttack(eps=eps, norm=norm, budget=12, random_state=0)
    poisoned = attack.fit_transform(X, y)
    np.testing.assert_array_equal(poisoned, np.rint(poisoned))
    if eps is not None:
        assert attack.perturbation_norms_[norm].max() <= eps
    if eps != 0.9:
        assert attack.n_poisoned_ == 12 and (poisoned != X).any()


@pytest.mark.slow
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_frames(container):
    module = pytest.importorskip(container)
    X, y = _small()
    columns = {c: X[:, j] for j, c in enumerate("abc")}
    columns["count"] = np.arange(60) % 7
    frame = module.DataFrame(columns)
    victim = make_pipeline(
        make_column_transformer((StandardScaler(), ["a", "b", "count"])),
        LogisticRegression(),
    )
    attack = InfluenceAttack(
        victim, budget=8, mutable=["a", "count"], integer="auto", random_state=0
    )
    data = attack.poison(frame, y)
    assert type(data.X) is type(frame) and list(data.X.columns) == list(frame.columns)
    before, after = (np.asarray(f, dtype=float) for f in (frame, data.X))
    changed = before != after
    assert not changed[:, [1, 2]].any() and changed[:, 0].any()
    np.testing.assert_array_equal(after[:, 3], np.rint(after[:, 3]))
    assert set(np.flatnonzero(changed.any(axis=1))) <= set(data.poison_indices)
    # the same numbers without names are edited alike
    plain = InfluenceAttack(
        make_pipeline(
            make_column_transformer((StandardScaler(), [0, 1, 3])), LogisticRegression()
        ),
        budget=8,
        mutable=[0, 3],
        integer=[3],
        random_state=0,
    ).fit_transform(before, y)
    np.testing.assert_allclose(plain, after)


def test_images_and_other_types():
    X, y = _small()
    flat = InfluenceAttack(max_iter=3, random_state=0)
    expected = flat.fit_transform(X, y)
    images = clone(flat).fit(X.reshape(-1, 2, 2), y)
    assert images.perturbation_.shape == (6, 2, 2)
    found = images.transform(X.reshape(-1, 2, 2))
    np.testing.assert_allclose(found.reshape(-1, 4), expected)
    pixels = np.rint(80 * X).astype(np.uint8).reshape(-1, 2, 2)
    attack = InfluenceAttack(eps=8, random_state=0)
    poisoned = attack.fit_transform(pixels, y)
    assert poisoned.dtype == np.uint8
    assert np.abs(poisoned.astype(int) - pixels).max() == 8
    switches = X > np.median(X, axis=0)
    victim = LogisticRegression()
    attack = InfluenceAttack(victim, eps=1, budget=4, random_state=0)
    with pytest.warns(UserWarning, match="copies of a row go together"):
        poisoned = attack.fit_transform(np.repeat(switches[:9], 3, axis=0), y[:27])
    assert set(np.unique(poisoned)) <= {0.0, 1.0}
    lists = clone(flat).fit_transform(X.tolist(), y.tolist())
    np.testing.assert_array_equal(lists, expected)


# Targets.


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim", [LogisticRegression(), SVC(kernel="linear")], ids=repr
)
def test_targets_are_read_as_wanted(victim):
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        StandardScaler().fit_transform(X), y, train_size=200, random_state=0, stratify=y
    )
    victim.fit(X, y)
    margin = np.abs(victim.decision_function(X_test))
    margin[victim.predict(X_test) != y_test] = np.inf
    won = []
    for i in np.argsort(margin)[10:30:4]:
        attack = InfluenceAttack(
            victim, targets=X_test[[i]], target_labels=1 - y_test[i], random_state=0
        )
        fitted = clone(victim).fit(attack.fit_transform(X, y), y)
        won.append(attack.attack_success(fitted.predict, X_test, y_test))
        assert attack.attack_success(victim.predict, X_test, y_test) == 0.0
    assert np.mean(won) >= 0.8


def test_targets_of_a_regressor():
    X, y = _small()
    y = X @ [1.0, -2.0, 0.5, 1.0]
    target = [[2.0, 2.0, 2.0, 2.05]]
    wanted = Ridge().fit(X, y).predict(target) + 1.4 * y.std()
    attack = InfluenceAttack(
        Ridge(), budget=20, targets=target, target_labels=wanted, random_state=0
    ).fit(X, y)
    assert attack.attack_success(Ridge().fit(X, y).predict, X, y) == 0.0
    poisoned = Ridge().fit(attack.transform(X), y)
    assert attack.attack_success(poisoned.predict, X, y) == 1.0


def test_without_targets_rows_that_are_misread_count():
    X, y = _small()
    attack = InfluenceAttack(max_iter=1).fit(X, y)
    outcomes = attack.attack_outcomes(lambda X: np.zeros(len(X)), X, y)
    np.testing.assert_array_equal(outcomes, y == 1)
    attack = InfluenceAttack(Ridge(), max_iter=1).fit(X, 1.0 * y)
    outcomes = attack.attack_outcomes(lambda X: np.full(len(X), 0.6), X, y)
    np.testing.assert_array_equal(outcomes, y == 0)


# In estimators and searches; black boxes.


def test_test_folds_stay_clean_in_a_search():
    X, y = _small(90)
    seen = []

    class Recorder(LogisticRegression):
        def predict(self, X):
            seen.append(X)
            return super().predict(X)

    folds = KFold(3)
    search = GridSearchCV(
        PoisonedEstimator(InfluenceAttack("victim"), Recorder(), random_state=0),
        {"attack__budget": [0, 0.3]},
        cv=folds,
        refit=False,
    ).fit(X, y)
    clean, poisoned = search.cv_results_["mean_test_score"]
    plain = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=folds, refit=False)
    assert plain.fit(X, y).cv_results_["mean_test_score"][0] == clean > poisoned
    for i, rows in enumerate(seen):
        np.testing.assert_array_equal(rows, X[list(folds.split(X))[i % 3][1]])


def test_a_pipeline_trains_on_poisoned_rows_and_sample_weight_follows():
    X, y = _small()
    weight = np.linspace(0, 1, 60)
    model = PoisonedEstimator(
        InfluenceAttack("victim", max_iter=3, random_state=0), LogisticRegression()
    ).fit(X, y, sample_weight=weight)
    attack = InfluenceAttack(LogisticRegression(), max_iter=3, random_state=0)
    expected = LogisticRegression().fit(attack.fit_transform(X, y), y, weight)
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    pipeline = make_pipeline(clone(attack), LogisticRegression()).fit(X, y)
    plain = LogisticRegression().fit(attack.transform(X), y)
    np.testing.assert_array_equal(pipeline[-1].coef_, plain.coef_)


def test_black_boxes_have_a_surrogate():
    X, y = _small()
    forest = RandomForestClassifier(5)
    attack = InfluenceAttack(forest, max_iter=2, random_state=0).fit(X, y)
    assert attack.gradient_source_ == "surrogate"
    by_svm = make_pipeline(make_table_encoder(X), SVC())
    same = clone(attack).set_params(surrogate=by_svm).fit(X, y)
    np.testing.assert_array_equal(same.perturbation_, attack.perturbation_)
    assert not hasattr(forest, "classes_")


# Nothing of the caller's changes; the same bits; checkpoints.


def test_nothing_of_the_callers_changes():
    X, y = _small()
    victim = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(X, y)
    attack = InfluenceAttack(
        victim,
        eps=np.full(4, 0.2),
        validation_data=(X[:9], y[:9]),
        bounds=(X.min(0), X.max(0)),
        max_iter=5,
        random_state=0,
    )
    own = (X, y, attack.get_params(deep=False), np.random.mtrand._rand)
    before = joblib.hash(own)
    first = attack.fit_transform(X, y)
    assert joblib.hash(own) == before
    np.random.mtrand._rand.rand()
    np.testing.assert_array_equal(attack.fit_transform(X, y), first)
    assert not np.shares_memory(first, X)
    # nothing of X itself is kept
    assert "_table" not in vars(attack)


class _Killed(BaseException):
    pass


def test_a_killed_search_goes_on(tmp_path, monkeypatch):
    X, y = _small()
    params = {"budget": 9, "max_iter": 25, "random_state": 0}
    victim = SVC(kernel="linear", C=20)
    whole = InfluenceAttack(victim, checkpoint=tmp_path / "whole", **params).fit(X, y)
    solve = PoisonProblem.solve
    for death in (5, 18):
        left = [death]

        def dying(self, poisons, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return solve(self, poisons)

        with monkeypatch.context() as patch:
            patch.setattr(PoisonProblem, "solve", dying)
            attack = InfluenceAttack(victim, checkpoint=tmp_path / "killed", **params)
            with pytest.raises(_Killed):
                attack.fit(X, y)
    for _ in range(2):
        again = InfluenceAttack(victim, checkpoint=tmp_path / "killed", **params)
        again.fit(X, y)
        np.testing.assert_array_equal(again.perturbation_, whole.perturbation_)
        np.testing.assert_array_equal(again.loss_curve_, whole.loss_curve_)
        assert again.objective_ == whole.objective_


def test_other_checkpoints_are_refused(tmp_path):
    X, y = _small()
    # most rows have no influence: another seed edits others
    attack = InfluenceAttack(
        SVC(kernel="linear"),
        budget=50,
        max_iter=11,
        random_state=0,
        checkpoint=tmp_path,
    ).fit(X, y)
    for other in ({"random_state": 1}, {"budget": 49}, {"eps": 1.0}):
        with pytest.raises(ValueError, match="holds another attack or other data"):
            clone(attack).set_params(**other).fit(X, y)
    with pytest.raises(ValueError, match="holds another attack or other data"):
        clone(attack).fit(X, 1 - y)
    (tmp_path / "joint.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"joint\.npz is damaged"):
        clone(attack).fit(X, y)
    with pytest.raises(ValueError, match="checkpoint needs a random_state"):
        clone(attack).set_params(random_state=None).fit(X, y)


def test_progress_goes_to_stderr(capsys):
    X, y = _small()
    InfluenceAttack(max_iter=3).fit(X, y)
    assert capsys.readouterr() == ("", "")
    InfluenceAttack(max_iter=3, verbose=1).fit(X, y)
    out, err = capsys.readouterr()
    assert out == "" and "/3 [" in err


# Errors, warnings and corners.


@pytest.mark.parametrize(
    "params, message",
    [
        ({"estimator": "victim"}, "estimator='victim' needs a PoisonedEstimator"),
        ({"estimator": "svc"}, "estimator must be an estimator.*got 'svc'"),
        ({"estimator": MinMaxScaler()}, r"must be a classifier, got MinMaxScaler\(\)$"),
        ({"surrogate": Ridge()}, r"surrogate must be a classifier, got Ridge\(\)$"),
        ({"norm": "l1"}, "norm must be one of 'linf', 'l2', got 'l1'"),
        ({"eps": -1}, "eps must be >= 0, got -1"),
        ({"eps": [0.1, 0.2]}, "eps has shape"),
        ({"eps": np.ones(4), "norm": "l2"}, "eps must be one number for norm='l2'"),
        ({"objective": "squared_error"}, "objective must be one of 'auto', 'log_loss'"),
        ({"max_iter": -1}, "max_iter must be >= 0"),
        ({"step_size": 0.0}, "step_size must be > 0"),
        ({"bounds": (3, 1)}, "bounds must have low <= high"),
        ({"bounds": (2, 3)}, "X lies outside bounds"),
        ({"mutable": [4]}, "mutable: 4 is out of range"),
        ({"integer": [0]}, "integer: column 0 holds numbers that are not whole"),
        ({"budget": 61}, "budget as a count of rows"),
        ({"validation_data": (np.ones((1, 3)), [0])}, "validation_data must hold rows"),
        ({"validation_data": np.ones(3)}, "validation_data must be a pair"),
        ({"target_labels": 1}, "target_labels=1 needs targets"),
        ({"targets": np.ones((1, 4)), "target_labels": 9}, "target_labels=9 is not"),
    ],
)
def test_bad_parameters_are_named_before_any_work(params, message, monkeypatch):
    monkeypatch.setattr(PoisonProblem, "solve", None)
    X, y = _small()
    attack = InfluenceAttack(random_state=0).set_params(**params)
    for call in (attack.fit, attack.fit_transform, attack.poison):
        with pytest.raises(ValueError, match=message):
            call(X, y)


def test_targets_are_held_out():
    X, y = _small()
    attack = InfluenceAttack(targets=X[:1], target_labels=1)
    with pytest.raises(ValueError, match=r"targets\[0\] is also a training row"):
        attack.fit(X, y)


def test_one_class_and_no_budget():
    X, y = _small()
    attack = InfluenceAttack(max_iter=2)
    with pytest.warns(UserWarning, match="only 0 are poisoned"):
        attack.fit(X, np.zeros(60))
    np.testing.assert_array_equal(attack.transform(X), X)
    attack = InfluenceAttack(budget=0, max_iter=2).fit(X, y)
    np.testing.assert_array_equal(attack.transform(X), X)
    assert attack.influence_.shape == (60,) and attack.n_iter_ == 0
    assert np.isnan(attack.objective_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "victim",
    [LogisticRegression(C=1e8), SVC(kernel="linear", C=1e5), SVC(gamma=100.0)],
    ids=repr,
)
@pytest.mark.parametrize("case", ["separable", "more columns", "constant"])
def test_degenerate_data(victim, case):
    rng = np.random.RandomState(0)
    y = np.arange(24) % 2
    X = {
        "separable": rng.rand(24, 3) + 10 * y[:, None],
        "more columns": rng.rand(24, 40),
        "constant": np.column_stack([rng.rand(24), np.ones(24), np.zeros(24)]),
    }[case]
    attack = InfluenceAttack(victim, budget=24, max_iter=5, random_state=0).fit(X, y)
    poisoned = attack.transform(X)
    assert (poisoned >= X.min(axis=0)).all() and (poisoned <= X.max(axis=0)).all()
    assert attack.objective_ >= attack.start_objective_


def test_an_svm_short_of_its_optimum_is_reported(monkeypatch):
    X, y = _small()
    solve = _svm.SVMLearner.solve

    def loose(self, *args, **kwargs):
        solution = solve(self, *args, **kwargs)
        solution.kkt_residual = 0.02
        return solution

    monkeypatch.setattr(_svm.SVMLearner, "solve", loose)
    with pytest.warns(ConvergenceWarning, match="optimality conditions by 0.02"):
        InfluenceAttack(SVC(), max_iter=1, random_state=0).fit(X, y)


def test_every_row_that_is_tried_is_legal(monkeypatch):
    tried = []
    training_set = EditProblem.training_set
    monkeypatch.setattr(
        EditProblem,
        "training_set",
        lambda self, rows, y: tried.append(rows) or training_set(self, rows, y),
    )
    rng = np.random.RandomState(0)
    X = np.column_stack([rng.randint(0, 9, 50), rng.rand(50)]).astype(float)
    y = (X[:, 1] > 0.5).astype(int)
    InfluenceAttack(SVC(), integer=[0], eps=2.5, budget=8, random_state=0).fit(X, y)
    tried = [rows for rows in tried if len(rows) == 8]
    assert len(tried) == 31
    for rows in tried:
        np.testing.assert_array_equal(rows[:, 0], np.rint(rows[:, 0]))
        assert np.abs(rows[:, 0] - tried[0][:, 0]).max() <= 2
        assert rows[:, 1].min() >= X[:, 1].min()
