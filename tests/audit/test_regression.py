"""The audit of regressors, and attacks that are crafted against the victim."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.linear_model import Lasso, LogisticRegression, Ridge, TweedieRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from sklearn.utils import Bunch

from skpoison.attacks import (
    BilevelPoisoningAttack,
    InfluenceAttack,
    LabelFlipAttack,
    RegressionPoisoningAttack,
)
from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.audit import AttackEntry, AuditContext, audit, register_attack
from skpoison.audit._registry import ATTACKS, DEFENSES
from skpoison.base import BaseAttack
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.utils import RandomStreams, n_budget

pd = pytest.importorskip("pandas")

X, Y = load_diabetes(return_X_y=True)
X, Y = X[:200], Y[:200]
VICTIM = make_pipeline(StandardScaler(), Ridge())
CRAFTED = []  # what the attacks below were crafted against


class FarTargets(BaseAttack, BaseEstimator):
    """Targets of random rows go to the far end; `factor` overshoots it."""

    def __init__(self, *, budget=0.1, factor=1.0, random_state=None):
        self.budget = budget
        self.factor = factor
        self.random_state = random_state

    def _rows(self, X, y, n_rows):
        streams = RandomStreams(self.random_state)
        return streams.numpy("rows").permutation(len(y))[:n_rows]

    def poison(self, X, y):
        y = np.asarray(y)
        rows = self._rows(X, y, n_budget(self.budget, len(y)))
        poisoned = y.copy()
        poisoned[rows] = np.where(y[rows] > np.median(y), y.min(), y.max())
        poisoned[rows] += (self.factor - 1) * (poisoned[rows] - np.median(y))
        self.poison_indices_ = np.sort(rows)
        self.sample_indices_ = np.arange(len(y))
        self.y_original_ = y[self.poison_indices_]
        self.y_scale_ = y.std()
        return Bunch(X=X, y=poisoned, sample_indices=self.sample_indices_)

    def _is_regression(self):
        return True


class VictimTargets(FarTargets):
    """The same for the rows that the victim fits best."""

    def __init__(
        self, *, budget=0.1, factor=1.0, estimator="victim", random_state=None
    ):
        super().__init__(budget=budget, factor=factor, random_state=random_state)
        self.estimator = estimator

    def _rows(self, X, y, n_rows):
        CRAFTED.append(self.estimator)
        miss = np.abs(clone(self.estimator).fit(X, y).predict(X) - y)
        return np.argsort(miss, kind="stable")[:n_rows]


class Picky(VictimTargets):
    """As the attacks that need a gradient and have no stand-in of their own."""

    def _rows(self, X, y, n_rows):
        if isinstance(self.estimator, RandomForestRegressor):
            raise NotDifferentiableError("a forest has no gradient")
        return super()._rows(X, y, n_rows)


FAST = {"budgets": (0, 0.1), "cv": 2, "random_state": 0, "verbose": 0}
FOLDS = KFold(2, shuffle=True, random_state=RandomStreams(0).seed("folds"))  # of FAST
FAR = {**FAST, "attacks": {"far": FarTargets(factor=3)}, "defenses": []}


def _same(a, b):
    pd.testing.assert_frame_equal(a.table, b.table)
    assert a.recommendation == b.recommendation
    assert a.meta["attacks"] == b.meta["attacks"]


@pytest.fixture(scope="module")
def report():
    return audit(
        {"ridge": VICTIM, "nearest": KNeighborsRegressor(5)},
        X,
        Y,
        **{**FAST, "budgets": (0, 0.05, 0.2)},
        attacks={"far": FarTargets(factor=3), "fitted": VictimTargets(factor=3)},
        defenses=["isolation-forest"],
        n_trials=2,
    )


@pytest.mark.slow
def test_table_is_tidy_and_complete(report):
    table = report.table
    keys = ["estimator", "attack", "defense", "budget", "fold", "trial"]
    assert not table.duplicated(keys).any()
    assert len(table) == 2 * 2 * 2 * 3 * 2 * 2
    assert np.isfinite(table["clean_score"]).all() and (table["clean_score"] < 1).all()
    assert table["attack_success"].between(0, 1).all()
    clean = table[table["budget"] == 0]
    np.testing.assert_array_equal(clean["attack_success"], clean["control_success"])


def test_damage_is_what_the_score_loses(report):
    summary = report.summary()
    for estimator in ("ridge", "nearest"):
        own = summary[summary["estimator"] == estimator]
        bare = own[(own["defense"] == "none") & (own["budget"] == 0)]
        lost = bare["clean_score"].iloc[0] - own["clean_score"]
        np.testing.assert_allclose(own["damage"], lost.clip(lower=0, upper=1))
        assert (own.loc[own["budget"] == 0.2, "damage"] > 0.05).all()
    assert report.unit == "R²"


def test_report_speaks_of_regression(report, tmp_path, capsys):
    from skpoison.audit import print_report

    pytest.importorskip("matplotlib")
    assert "classes" not in report.meta and report.meta["task"] == "regression"
    target = report.meta["target"]
    assert (target["min"], target["max"]) == (Y.min(), Y.max())
    assert report.meta["scoring"] == "r2"
    for line in report.recommendation.splitlines():
        assert " R² damage (success " in line
    print_report(report)
    shown = capsys.readouterr().out
    assert "200 rows, target from 25 to 341; damage in R² lost, by budget" in shown
    report.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for needed in (
        "amage (R² lost)",
        "25 to 341, mean",
        "misses by more than the",
        "does not know the defense",
        "For regressors the clean score",
    ):
        assert needed in page
    assert "classes (rows)" not in page and "share of held-out" not in page


@pytest.mark.slow
def test_damage_ends_at_one_and_ruins_are_not_ranked():
    attacks = {"far": FarTargets(factor=50)}
    defenses = {"forest": IsolationForest(random_state=0)}
    arguments = {**FAR, "attacks": attacks, "defenses": defenses}
    found = audit(VICTIM, X, Y, **{**arguments, "budgets": [0.2, 0.3]})
    summary = found.summary().query("budget > 0")
    assert (summary["clean_score"] < -1).all() and (summary["damage"] == 1).all()
    assert "the worst, far at 0.2, does 1.000 R² damage" in found.recommendation
    assert "None of the defenses" in found.recommendation


@pytest.mark.slow
def test_numbers_equal_a_loop_by_hand():
    """Folds, poison and victims can be rebuilt from the seeds that are stated."""
    folds = KFold(3, shuffle=True, random_state=7)
    attack = FarTargets(factor=2, random_state=5)
    found = audit(
        VICTIM,
        X,
        Y,
        attacks={"mine": attack},
        defenses={"forest": IsolationForest(random_state=1)},
        budgets=[0.1],
        cv=folds,
        random_state=0,
        verbose=0,
    ).table.set_index(["defense", "budget", "fold"])
    for i, (train, test) in enumerate(folds.split(X)):
        for budget in (0, 0.1):
            fold = clone(attack).set_params(budget=budget)
            data = fold.poison(X[train], Y[train])
            for name, model in {
                "none": clone(VICTIM),
                "forest": FilteredEstimator(IsolationForest(random_state=1), VICTIM),
            }.items():
                model.fit(data.X, data.y)
                row = found.loc[(name, budget, i)]
                assert row["clean_score"] == model.score(X[test], Y[test])
                missed = np.abs(model.predict(X[test]) - Y[test]) > Y[train].std()
                assert row["attack_success"] == missed.mean()


def test_an_int_makes_shuffled_folds_and_the_seed_decides():
    first = audit(VICTIM, X, Y, **FAR)
    _same(first, audit(VICTIM, X, Y, **FAR, n_jobs=2))
    order = np.argsort(Y)
    scores = audit(VICTIM, X[order], Y[order], **FAR).table["clean_score"]
    assert scores.iloc[0] > 0.2  # unshuffled halves of sorted targets score below 0
    other = audit(VICTIM, X, Y, **{**FAR, "random_state": 1})
    assert not first.table.equals(other.table)


# Scores


@pytest.mark.parametrize(
    "scoring",
    ["neg_mean_absolute_error", "neg_root_mean_squared_error", "max_error"],
)
def test_errors_are_no_scores(scoring, tmp_path):
    if scoring == "max_error":
        from sklearn.metrics import make_scorer, max_error

        scoring = make_scorer(max_error)
    message = "r2, explained_variance or.*perfect predictions score -?0"
    with pytest.raises(ValueError, match=message):
        audit(VICTIM, X, Y, **FAR, scoring=scoring, checkpoint=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def _of_the_step(model, X, y):
    return model[-1].coef_.shape[0] / 5


def test_other_scores():
    found = audit(VICTIM, X, Y, **FAR, scoring="explained_variance")
    assert found.unit == "explained_variance"
    assert " explained_variance" in found.recommendation
    with pytest.raises(ValueError, match="never more.*estimator scored 2.0"):
        audit(VICTIM, X, Y, **FAR, scoring=_of_the_step)
    with pytest.raises(ValueError, match="'neg_mean_gamma_deviance' can't score"):
        audit(VICTIM, X, Y - Y.mean(), **FAR, scoring="neg_mean_gamma_deviance")


def test_one_unit_whatever_the_score_of_the_estimator_is():
    """A search's own score is its ``scoring``, that of a GLM is deviance."""
    search = GridSearchCV(Ridge(), {"alpha": [1.0]}, scoring="neg_mean_squared_error")
    victims = {"search": search, "glm": TweedieRegressor(alpha=0.1), "ridge": Ridge()}
    table = audit(victims, X, Y, **FAR).table.set_index("estimator")["clean_score"]
    assert table["search"].to_list() == table["ridge"].to_list()
    train, test = next(FOLDS.split(X))
    glm = TweedieRegressor(alpha=0.1).fit(X[train], Y[train])
    assert table["glm"].iloc[0] == r2_score(Y[test], glm.predict(X[test]))


def test_a_regressor_that_learnt_nothing_is_named():
    with pytest.warns(UserWarning, match="mean scores -0.* no better than a constant"):
        found = audit({"mean": DummyRegressor()}, X, Y, **FAR)
    assert "its damage says little" in found.meta["notes"][0]


# Input


class Stubborn(Ridge):
    """Says what it is in no way that scikit-learn knows."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = None
        return tags


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"estimator": KMeans()}, ValueError, "a classifier or a regressor"),
        ({"estimator": StandardScaler()}, ValueError, "a classifier or a regressor"),
        ({"estimator": Stubborn()}, ValueError, "a classifier or a regressor"),
        (
            {"estimator": {"a": Ridge(), "b": LogisticRegression()}},
            ValueError,
            "'b' is a classifier, 'a' a regressor; audit them apart",
        ),
        ({"y": Y[:-1]}, ValueError, "inconsistent numbers of samples"),
        ({"y": np.full(len(Y), 3.0)}, ValueError, "at least two values, got one: 3.0"),
        ({"y": np.where(Y > 300, np.nan, Y)}, ValueError, "finite numbers"),
        ({"y": np.where(Y > 300, np.inf, Y)}, ValueError, "finite numbers"),
        ({"y": Y.astype(str)}, ValueError, "finite numbers for a regressor, got type"),
        ({"y": [None, *Y[1:]]}, ValueError, "finite numbers"),
        ({"y": np.column_stack([Y, Y])}, ValueError, "one target a row"),
        ({"attacks": ["random-flips"]}, ValueError, "to a regressor on numeric data"),
        (
            {"attacks": {"flips": LabelFlipAttack()}},
            ValueError,
            "'flips' is for classification, the estimator for regression",
        ),
        (
            {"estimator": LogisticRegression(), "y": Y > 100},
            ValueError,
            "'far' is for regression, the estimator for classification",
        ),
        ({"defenses": ["label-filter"]}, ValueError, "to a regressor on numeric data"),
        ({"cv": 201}, ValueError, "can't split the data"),
        ({"cv": 150}, ValueError, "a test fold of one row"),
        ({"cv": LeaveOneOut()}, ValueError, "a test fold of one row"),
        ({"scoring": "acuracy"}, ValueError, "acuracy"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"estimator": VICTIM, "X": X, "y": Y, **FAR, **change}
    with pytest.raises(error, match=message):
        audit(**arguments)


@pytest.mark.parametrize(
    "y", [Y.astype(int), Y.tolist(), pd.Series(Y, dtype="Float64"), Y[:, None]]
)
def test_numbers_of_any_container(y):
    _same(audit(VICTIM, X, Y, **FAR), audit(VICTIM, X, y, **FAR))


def test_frames_with_text_and_missing_values():
    from skpoison.utils import make_table_encoder

    frame = pd.DataFrame(X).add_prefix("f")
    frame["kind"] = np.where(X[:, 0] > 0, "old", "young")
    frame.loc[::9, "f2"] = np.nan
    model = make_pipeline(make_table_encoder(frame), Ridge())
    found = audit(model, frame, pd.Series(Y, index=frame.index), **FAR)
    assert found.meta["data"] == "mixed"
    with pytest.raises(ValueError, match="not apply to a regressor on mixed data"):
        audit(model, frame, Y, **{**FAR, "defenses": ["isolation-forest"]})


def test_context_and_auto():
    context = AuditContext.of(VICTIM, X, Y)
    assert (context.task, context.n_classes) == ("regression", 0)
    assert [e.name for e in DEFENSES.automatic(context)] == ["trim", "isolation-forest"]
    labels = AuditContext.of(LogisticRegression(), X, Y > 100)
    assert (labels.task, labels.n_classes) == ("classification", 2)
    assert "isolation-forest" not in [e.name for e in DEFENSES.automatic(labels)]
    for entry in ATTACKS.automatic(context):
        assert "regression" in entry.tasks
    for entry in ATTACKS.automatic(labels):
        assert "classification" in entry.tasks


@pytest.fixture
def registries():
    before = dict(ATTACKS.entries)
    yield
    ATTACKS.entries = before


def _far(context):
    return FarTargets()


def test_registered_for_a_task(registries):
    tasks = frozenset({"regression"})
    register_attack(AttackEntry("far", "a test", "knows nothing", _far, tasks=tasks))
    names = ATTACKS.automatic(AuditContext.of(VICTIM, X, Y))
    assert "far" in [e.name for e in names]
    found = audit(VICTIM, X, Y, **{**FAR, "attacks": ["far"]})
    assert list(found.meta["attacks"]) == ["far"]
    with pytest.raises(ValueError, match="'far' does not apply to a model on numeric"):
        audit(LogisticRegression(), X, Y > 100, **{**FAR, "attacks": ["far"]})


# Attacks that are crafted against the victim


@pytest.mark.slow
def test_each_victim_gets_its_own_poison_and_its_defenses_share_it():
    CRAFTED.clear()
    victims = {"ridge": Ridge(3.0), "nearest": KNeighborsRegressor(5)}
    arguments = {**FAST, "attacks": {"fitted": VictimTargets(factor=3)}}
    found = audit(victims, X, Y, **arguments, defenses=["isolation-forest"])
    # two folds, each with a control and one budget; once for each victim
    assert [type(e) for e in CRAFTED] == [Ridge, KNeighborsRegressor] * 4
    assert all(e.alpha == 3.0 for e in CRAFTED[::2])
    threat = found.meta["attacks"]["fitted"]["threat_model"]
    assert "does not know the defense" in threat
    bare = found.table.query("budget == 0.1 and defense == 'none'")
    bare = bare.set_index(["estimator", "fold"])["clean_score"]
    for i, (train, test) in enumerate(FOLDS.split(X)):
        for name, victim in victims.items():
            attack = VictimTargets(budget=0.1, factor=3, estimator=victim)
            data = attack.poison(X[train], Y[train])
            model = clone(victim).fit(data.X, data.y)
            assert bare[name, i] == model.score(X[test], Y[test])


def test_shared_poisons_stay_shared():
    CRAFTED.clear()
    attack = VictimTargets(factor=3, estimator=Lasso())
    found = audit(
        {"ridge": Ridge(), "nearest": KNeighborsRegressor()},
        X, Y, **{**FAR, "attacks": {"mine": attack}},
    )  # fmt: skip
    assert [type(e) for e in CRAFTED] == [Lasso] * 4
    assert "defense" not in found.meta["attacks"]["mine"]["threat_model"]


def test_the_attacker_does_not_know_what_the_victim_draws():
    CRAFTED.clear()
    arguments = {**FAR, "attacks": {"fitted": VictimTargets()}, "n_trials": 2}
    audit(RandomForestRegressor(5), X, Y, **arguments)
    streams = RandomStreams(0)
    drawn = {
        RandomStreams(streams.seed(f"victim/{fold}/{trial}")).seed("random_state")
        for fold in range(2)
        for trial in range(2)
    }
    seeds = [e.random_state for e in CRAFTED]
    assert len(set(seeds)) == 4 and None not in seeds and not drawn & set(seeds)
    CRAFTED.clear()
    audit(RandomForestRegressor(5, random_state=3), X, Y, **arguments)
    assert {e.random_state for e in CRAFTED} == {3}


@pytest.mark.slow
def test_workers_and_resuming_do_not_change_the_result(tmp_path):
    victims = {"ridge": VICTIM, "forest": RandomForestRegressor(5)}
    attacks = {"far": FarTargets(), "fitted": Picky()}
    arguments = {**FAR, "attacks": attacks, "n_trials": 2}
    whole = audit(victims, X, Y, **arguments)
    _same(whole, audit(victims, X, Y, **arguments, n_jobs=2))
    first = audit(victims, X, Y, **arguments, checkpoint=tmp_path)
    for path in sorted((tmp_path / "jobs").iterdir())[::2]:
        path.unlink()
    _same(whole, first)
    _same(whole, audit(victims, X, Y, **arguments, checkpoint=tmp_path))


def test_a_victim_without_gradient_gets_a_stand_in():
    CRAFTED.clear()
    victims = {"ridge": Ridge(), "forest": RandomForestRegressor(5)}
    found = audit(victims, X, Y, **{**FAR, "attacks": {"picky": Picky()}})
    assert [type(e) for e in CRAFTED] == [Ridge, Pipeline] * 4
    threat = found.meta["attacks"]["picky"]["threat_model"]
    assert "No gradient of forest is known" in threat and "of ridge" not in threat
    assert found.meta["notes"] == []


class Sparing(VictimTargets):
    """Touches fewer rows of some victims, and says so."""

    def _rows(self, X, y, n_rows):
        if isinstance(self.estimator, KNeighborsRegressor) and n_rows:
            warnings.warn("half is enough", UserWarning, stacklevel=2)
            n_rows //= 2
        return super()._rows(X, y, n_rows)


def test_rows_poisoned_and_notes_go_by_victim():
    victims = {"ridge": Ridge(), "nearest": KNeighborsRegressor()}
    with pytest.warns(UserWarning, match="half is enough"):
        found = audit(victims, X, Y, **{**FAR, "attacks": {"sparing": Sparing()}})
    n_poisoned = found.table.query("budget == 0.1").groupby("estimator")["n_poisoned"]
    assert n_poisoned.unique().map(list).to_dict() == {"nearest": [5], "ridge": [10]}
    assert found.meta["notes"] == [
        "sparing against nearest at budget 0.1: half is enough"
    ]


def test_progress_and_estimate(capsys):
    CRAFTED.clear()
    victims = {"ridge": Ridge(), "nearest": KNeighborsRegressor()}
    attacks = {"fitted": VictimTargets()}
    audit(victims, X, Y, **{**FAR, "attacks": attacks, "verbose": 1})
    assert "fits to go, about" in capsys.readouterr().err
    assert len(CRAFTED) == 8  # none just to tell the time from


# The attacks of the library


CANCER = load_breast_cancer(return_X_y=True)
LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression())


@pytest.mark.slow
def test_auto_on_numbers():
    found = audit(VICTIM, X, Y, **FAST)
    assert list(found.meta["attacks"]) == [
        "influence-edits",
        "flipped-rows",
        "statp-rows",
        "regression-rows",
        "adaptive-rows",
    ]
    assert list(found.meta["defenses"]) == ["none", "trim", "isolation-forest"]
    worst = found.summary().query("budget == 0.1").set_index(["defense", "attack"])
    tried, static = (
        worst.loc[("trim", name), "damage"]
        for name in ("adaptive-rows", "regression-rows")
    )
    assert tried > static  # copies of the few rows that trimming leaves
    damage = found.summary().query("budget == 0.1 and defense == 'none'")
    damage = damage.set_index("attack")["damage"]
    assert damage["regression-rows"] > damage["statp-rows"] > damage["flipped-rows"]
    assert damage["regression-rows"] > 0.2 and damage["influence-edits"] > 0.1
    threats = {k: a["threat_model"] for k, a in found.meta["attacks"].items()}
    assert "the defense" not in threats["flipped-rows"]
    assert "the defense" in threats["regression-rows"]
    assert not any("No gradient" in threat for threat in threats.values())


@pytest.mark.long
def test_auto_on_a_table_and_a_victim_without_gradient():
    from skpoison.audit._ingest import default_estimators

    frame = pd.DataFrame(X).add_prefix("f")
    frame["kind"] = np.where(X[:, 0] > 0, "old", "young")
    frame.loc[::9, "f2"] = np.nan
    models = default_estimators(frame, "regression")
    found = audit(models, frame, Y, defenses=[], **FAST)
    assert list(found.meta["attacks"]) == [
        "flipped-rows",
        "statp-rows",
        "regression-rows",
        "adaptive-rows",
    ]
    bare = found.summary().query("budget == 0.1 and defense == 'none'")
    damage = bare.set_index(["estimator", "attack"])["damage"]
    assert damage["ridge", "regression-rows"] > damage["ridge", "flipped-rows"] + 0.1
    said = {
        name: "No gradient of boosting is known" in attack["threat_model"]
        for name, attack in found.meta["attacks"].items()
    }
    crafted = ["regression-rows", "adaptive-rows"]
    assert [name for name, what in said.items() if what] == crafted


def test_no_attack_on_sparse_rows():
    from scipy import sparse

    with pytest.raises(ValueError, match="none is registered for regressors on sparse"):
        audit(Ridge(), sparse.csr_matrix(X), Y, **FAST)


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack, model, data",
    [
        (RegressionPoisoningAttack("victim", random_state=5), VICTIM, (X, Y)),
        (InfluenceAttack("victim", random_state=5), VICTIM, (X, Y)),
        (BilevelPoisoningAttack("victim", random_state=5), LOGISTIC, CANCER),
        (
            LabelFlipAttack("influence", surrogate="victim", random_state=5),
            LOGISTIC,
            CANCER,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_equal_those_of_a_poisoned_estimator(attack, model, data):
    folds = KFold(2, shuffle=True, random_state=3)
    arguments = {**FAST, "attacks": {"mine": attack}, "defenses": [], "cv": folds}
    found = audit({"me": model}, *data, **arguments).table.query("budget == 0.1")
    inputs, targets = data
    attack = clone(attack).set_params(budget=0.1)
    for score, success, n_poisoned, (train, test) in zip(
        found["clean_score"],
        found["attack_success"],
        found["n_poisoned"],
        folds.split(inputs),
        strict=True,
    ):
        whole = PoisonedEstimator(attack, model).fit(inputs[train], targets[train])
        assert score == whole.score(inputs[test], targets[test])
        assert n_poisoned == whole.attack_.n_poisoned_ == len(train) // 10
        assert success == whole.attack_.attack_success(
            whole.predict, inputs[test], targets[test]
        )


@pytest.mark.slow
def test_chosen_rows_and_flips_beat_random_flips():
    attacks = ["random-flips", "added-rows", "influence-flips", "influence-edits"]
    arguments = {**FAST, "attacks": attacks, "defenses": []}
    found = audit(LOGISTIC, *CANCER, **arguments)
    damage = found.summary().query("budget == 0.1").set_index("attack")["damage"]
    for name in attacks[1:]:
        assert damage[name] > damage["random-flips"] + 0.03
    assert found.unit == "" and "% damage" in found.recommendation
    context = AuditContext.of(LOGISTIC, *CANCER)
    auto = [e.name for e in ATTACKS.automatic(context)]
    assert [name for name in attacks if name in auto] == attacks[:2]


@pytest.mark.slow
def test_a_step_without_derivative_is_no_obstacle():
    """That shows at the first gradient, not where the model is looked at."""
    model = make_pipeline(KBinsDiscretizer(3, subsample=None), LogisticRegression())
    attacks = ["added-rows", "influence-flips", "influence-edits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the discretizer
        found = audit(model, *CANCER, **{**FAST, "attacks": attacks, "defenses": []})
    threats = [a["threat_model"] for a in found.meta["attacks"].values()]
    assert ["No gradient" in threat for threat in threats] == [True, False, True]
    assert found.table["clean_score"].notna().all()


@pytest.mark.long
def test_library_attacks_do_not_depend_on_workers_or_breaks(tmp_path):
    victims = {"ridge": VICTIM, "forest": RandomForestRegressor(5)}
    whole = audit(victims, X, Y, **FAST)
    _same(whole, audit(victims, X, Y, **FAST, n_jobs=2))
    audit(victims, X, Y, **FAST, checkpoint=tmp_path)
    for path in sorted((tmp_path / "jobs").iterdir())[::2]:
        path.unlink()
    _same(whole, audit(victims, X, Y, **FAST, checkpoint=tmp_path))
