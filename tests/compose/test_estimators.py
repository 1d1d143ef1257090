"""PoisonedEstimator and FilteredEstimator, alone, nested and in searches."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpoison.attacks import BackdoorAttack, CleanLabelBackdoorAttack, LabelFlipAttack
from skpoison.base import SamplerMixin
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.metrics import attack_success_score
from skpoison.partition import LiftedLabelRepair

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS, Y_DIGITS = X_DIGITS[:600] / 16, Y_DIGITS[:600]
X_WINE, Y_WINE = load_wine(return_X_y=True)

ATTACKS = [
    LabelFlipAttack(random_state=0),
    BackdoorAttack(random_state=0),
    CleanLabelBackdoorAttack(random_state=0),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_budget_zero_is_the_clean_run_bit_for_bit(attack):
    victim = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=3))
    attack.set_params(budget=0)
    poisoned = PoisonedEstimator(attack, victim).fit(X_DIGITS, Y_DIGITS)
    clean = victim.fit(X_DIGITS, Y_DIGITS)
    np.testing.assert_array_equal(
        poisoned.predict_proba(X_DIGITS), clean.predict_proba(X_DIGITS)
    )


class Recorder(LogisticRegression):
    """Keeps what it was fitted on and asked about."""

    seen = []

    def fit(self, X, y, sample_weight=None):
        self.seen.append(("fit", np.array(X)))
        return super().fit(X, y, sample_weight)

    def predict(self, X):
        self.seen.append(("predict", np.array(X)))
        return super().predict(X)


@pytest.mark.parametrize("attack", ATTACKS[1:], ids=repr)
def test_test_folds_are_clean(attack):
    Recorder.seen.clear()
    attack.set_params(budget=0.05)
    known = {row.tobytes() for row in X_DIGITS}
    cross_val_score(
        PoisonedEstimator(attack, Recorder(max_iter=300)),
        X_DIGITS,
        Y_DIGITS,
        cv=3,
        scoring="accuracy",
    )
    asked = [X for what, X in Recorder.seen if what == "predict"]
    fitted = [X for what, X in Recorder.seen if what == "fit"]
    assert len(asked) == len(fitted) == 3
    assert all(row.tobytes() in known for X in asked for row in X)
    assert all(any(row.tobytes() not in known for row in X) for X in fitted)


def test_parameters_and_parts():
    model = PoisonedEstimator(LabelFlipAttack(), SVC())
    model.set_params(attack__budget=0.2, estimator__C=3, attack__strategy="pair")
    assert model.get_params()["estimator__C"] == 3
    model.fit(X_WINE, Y_WINE)
    assert model.attack_.n_poisoned_ == 35 and model.estimator_.C == 3
    assert not hasattr(model.attack, "poison_indices_")
    assert not hasattr(model.estimator, "support_")
    assert model.n_features_in_ == 13 and list(model.classes_) == [0, 1, 2]
    assert hasattr(model, "decision_function") and not hasattr(model, "predict_proba")
    assert isinstance(pickle.loads(pickle.dumps(model)), PoisonedEstimator)


def test_random_state_reaches_attack_and_victim():
    model = PoisonedEstimator(
        LabelFlipAttack(), RandomForestClassifier(5), random_state=1
    )
    first, again = (model.fit(X_WINE, Y_WINE).predict_proba(X_WINE) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = model.set_params(random_state=2).fit(X_WINE, Y_WINE).predict_proba(X_WINE)
    assert (first != other).any()


def test_a_trigger_keeps_its_pattern():
    from skpoison.attacks import BlendTrigger

    patterns = [
        PoisonedEstimator(BackdoorAttack(BlendTrigger()), SVC(), random_state=seed)
        .fit(X_WINE, Y_WINE)
        .attack_.trigger_.pattern_
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(*patterns)


def test_grid_over_attack_budget_and_victim():
    search = GridSearchCV(
        PoisonedEstimator(),
        {
            "attack": [None, LabelFlipAttack(budget=0.3, random_state=0)],
            "estimator": [SVC(), KNeighborsClassifier(1)],
        },
        scoring={"clean": "accuracy", "attack": attack_success_score},
        refit="clean",
        cv=3,
    ).fit(X_WINE, Y_WINE)
    assert search.cv_results_["mean_test_clean"].shape == (4,)
    nan = np.isnan(search.cv_results_["mean_test_attack"])
    assert nan.tolist() == [True, True, False, False]


class AppendNoise(SamplerMixin, BaseEstimator):
    """Rows that come from nothing."""

    def __init__(self, budget=0.1, random_state=None):
        self.budget = budget
        self.random_state = random_state

    def _resample(self, X, y, n_rows, streams):
        new = streams.numpy("rows").rand(n_rows, X.shape[1])
        sources = np.concatenate([np.arange(len(y)), np.full(n_rows, -1)])
        labels = np.concatenate([y, np.zeros(n_rows, dtype=y.dtype)])
        return np.concatenate([X, new]), labels, len(y) + np.arange(n_rows), sources


def test_sample_weights_follow_their_rows():
    weights = np.random.RandomState(0).rand(len(Y_WINE))
    attack = BackdoorAttack(mode="append", random_state=0)
    victim = make_pipeline(StandardScaler(), LogisticRegression())
    model = PoisonedEstimator(attack, victim).fit(
        X_WINE, Y_WINE, logisticregression__sample_weight=weights
    )
    data = attack.poison(X_WINE, Y_WINE)
    expected = victim.fit(
        data.X, data.y, logisticregression__sample_weight=weights[data.sample_indices]
    )
    np.testing.assert_array_equal(model.estimator_[-1].coef_, expected[-1].coef_)
    with pytest.raises(ValueError, match="sample_weight cannot be extended to rows"):
        PoisonedEstimator(AppendNoise(), LogisticRegression()).fit(
            X_WINE, Y_WINE, sample_weight=weights
        )


class KnowsTheVictim(SamplerMixin, BaseEstimator):
    """Flips the rows that its estimator is surest of; moves y of regressors."""

    def __init__(self, estimator=None, surrogate=None, budget=0.1, random_state=None):
        self.estimator = estimator
        self.surrogate = surrogate
        self.budget = budget
        self.random_state = random_state

    def _is_regression(self):
        return is_regressor(self.estimator)

    def _resample(self, X, y, n_rows, streams):
        self.model_ = clone(self.estimator).fit(X, y)
        found = self.model_.predict(X)
        rows = np.argsort(-np.abs(found - y), kind="stable")[:n_rows]
        y = y.copy()
        y[rows] = y.max() - y[rows]
        return X, y, rows, np.arange(len(y))


def test_an_attack_learns_who_the_victim_is():
    pipe = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=3))
    attack = KnowsTheVictim("victim", "victim", random_state=0)
    model = PoisonedEstimator(attack, pipe, random_state=0).fit(X_WINE, Y_WINE)
    assert attack.estimator == attack.surrogate == model.attack.estimator == "victim"
    for known in (model.attack_.estimator, model.attack_.surrogate):
        assert isinstance(known, Pipeline) and known is not pipe
        assert known[-1].random_state == 3 and not hasattr(known[-1], "estimators_")
    assert model.attack_.estimator is not model.attack_.surrogate
    assert model.estimator_[-1].random_state != 3 and not hasattr(pipe[0], "mean_")
    model = PoisonedEstimator(KnowsTheVictim("victim"))
    model.fit(StandardScaler().fit_transform(X_WINE), Y_WINE)
    assert isinstance(model.attack_.estimator, LogisticRegression)
    assert model.attack_.surrogate is None


def test_victims_that_are_meta_estimators_and_searches():
    inner = FilteredEstimator(IsolationForest(n_estimators=5), SVC(), random_state=0)
    nested = PoisonedEstimator(
        KnowsTheVictim("victim"), PoisonedEstimator(KnowsTheVictim("victim"), inner)
    ).fit(X_WINE, Y_WINE)
    assert isinstance(nested.attack_.estimator, PoisonedEstimator)
    assert isinstance(nested.estimator_.attack_.estimator, FilteredEstimator)
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(
        PoisonedEstimator(KnowsTheVictim("victim"), pipe),
        {"attack__budget": [0, 0.3], "estimator": [pipe, SVC()]},
        scoring={"clean": "accuracy", "attack": attack_success_score},
        refit="clean",
        cv=3,
        error_score="raise",
    ).fit(X_WINE, Y_WINE)
    assert search.best_params_["attack__budget"] == 0
    attack = search.best_estimator_.attack_
    assert type(attack.estimator) is type(search.best_params_["estimator"])


def test_regressors_are_victims_too():
    X, y = load_diabetes(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), Ridge())
    search = GridSearchCV(
        PoisonedEstimator(KnowsTheVictim("victim"), pipe, random_state=0),
        {"attack__budget": [0, 0.3]},
        scoring={"clean": "r2", "attack": attack_success_score},
        refit="clean",
        cv=3,
        error_score="raise",
    ).fit(X, y)
    clean, poisoned = search.cv_results_["mean_test_clean"]
    assert clean > 0.45 > poisoned
    quiet, loud = search.cv_results_["mean_test_attack"]
    assert 0 < quiet < 0.5 and quiet < loud
    model = search.best_estimator_
    assert is_regressor(model) and not hasattr(model, "classes_")
    assert not hasattr(model.attack_, "classes_") and model.attack_.y_scale_ == y.std()


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(
    [
        PoisonedEstimator(KnowsTheVictim("victim"), Ridge(), random_state=0),
        PoisonedEstimator(BackdoorAttack(mode="append"), KNeighborsClassifier()),
    ]
)
def test_sklearn_checks(estimator, check):
    check(estimator)


def test_metadata_routing():
    weights = np.random.RandomState(0).rand(len(Y_WINE))
    attack = LabelFlipAttack(random_state=0)
    with config_context(enable_metadata_routing=True):
        victim = LogisticRegression(max_iter=200).set_fit_request(sample_weight=True)
        victim.set_score_request(sample_weight=False)
        model = PoisonedEstimator(attack, victim)
        X = StandardScaler().fit_transform(X_WINE)
        scores = cross_validate(model, X, Y_WINE, params={"sample_weight": weights})
        assert scores["test_score"].mean() > 0.8
        weighted = model.fit(X, Y_WINE, sample_weight=weights).estimator_.coef_
        assert (model.fit(X, Y_WINE).estimator_.coef_ != weighted).any()


@pytest.mark.slow
def test_victims_of_any_kind_of_data():
    pd = pytest.importorskip("pandas")
    from scipy import sparse

    from skpoison.utils import make_table_encoder

    frame = pd.DataFrame(X_WINE).add_prefix("f")
    frame["kind"] = np.where(X_WINE[:, 0] > 13, "high", "low")
    labels = np.array(["a", "b", "c"])[Y_WINE]
    victim = make_pipeline(make_table_encoder(frame), LogisticRegression())
    for attack in (LabelFlipAttack("far"), BackdoorAttack()):
        model = PoisonedEstimator(attack, victim, random_state=0).fit(frame, labels)
        assert model.score(frame, labels) > 0.8
        assert list(model.feature_names_in_) == list(frame.columns)
    matrix = sparse.csr_matrix(X_WINE)
    model = PoisonedEstimator(BackdoorAttack(), SVC(kernel="linear"), random_state=0)
    assert model.fit(matrix, labels).score(matrix, labels) > 0.8


def test_imblearn_pipeline_takes_samplers_and_detectors():
    imblearn_pipeline = pytest.importorskip("imblearn.pipeline")
    from sklearn.preprocessing import MinMaxScaler

    from skpoison.defenses import LabelIssueDetector

    pipe = imblearn_pipeline.Pipeline(
        [
            ("scale", MinMaxScaler()),
            ("backdoor", BackdoorAttack(budget=0.1, random_state=0)),
            ("filter", LabelIssueDetector(cv=3, random_state=0)),
            ("clf", LogisticRegression(max_iter=300)),
        ]
    ).fit(X_DIGITS, Y_DIGITS)
    assert pipe.score(X_DIGITS, Y_DIGITS) > 0.9
    assert 0 <= attack_success_score(pipe, X_DIGITS, Y_DIGITS) <= 1


def test_bad_parts_are_named():
    with pytest.raises(TypeError, match=r"attack must have poison\(X, y\)"):
        PoisonedEstimator(StandardScaler()).fit(X_WINE, Y_WINE)
    with pytest.raises(TypeError, match="detector must have fit_predict"):
        FilteredEstimator(StandardScaler()).fit(X_WINE, Y_WINE)


@pytest.mark.slow
def test_filter_restores_a_poisoned_model():
    attack = LabelFlipAttack(budget=0.2, random_state=0)
    victim = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    bare, filtered = (
        cross_val_score(PoisonedEstimator(attack, v), X_DIGITS, Y_DIGITS, cv=3).mean()
        for v in (victim, FilteredEstimator(estimator=victim, random_state=0))
    )
    assert filtered > bare + 0.03


def test_filter_takes_sklearns_detectors_and_reports_rows():
    model = FilteredEstimator(
        IsolationForest(contamination=0.1), SVC(), random_state=0
    ).fit(X_WINE, Y_WINE)
    assert (~model.is_clean_).sum() == 18
    kept = SVC().fit(X_WINE[model.is_clean_], Y_WINE[model.is_clean_])
    np.testing.assert_array_equal(model.predict(X_WINE), kept.predict(X_WINE))


class RejectsClass(BaseEstimator):
    def __init__(self, label=0):
        self.label = label

    def fit_predict(self, X, y=None):
        self.scores_ = np.arange(len(y))[::-1].astype(float)
        return np.where(np.asarray(y) == self.label, -1, 1)


def test_no_class_vanishes():
    with pytest.warns(UserWarning, match=r"rejects every row of \[0\]"):
        model = FilteredEstimator(RejectsClass(), SVC()).fit(X_WINE, Y_WINE)
    kept = np.flatnonzero(model.is_clean_ & (Y_WINE == 0))
    # the least suspicious ones, by the detector's own scores
    np.testing.assert_array_equal(kept, np.flatnonzero(Y_WINE == 0)[-5:])


class SwapsAndDrops(BaseEstimator):
    """Swaps two labels and drops the first row, whatever the data."""

    _estimator_type = "sampler"

    def fit_resample(self, X, y):
        self.sample_indices_ = np.arange(1, len(y))
        return X[1:], np.array([0, 2, 1])[y[1:]]


def test_samplers_may_relabel_and_drop():
    weights = np.linspace(0, 1, len(Y_WINE))
    model = FilteredEstimator(
        SwapsAndDrops(), RandomForestClassifier(5, random_state=0)
    )
    model.fit(X_WINE, Y_WINE, sample_weight=weights)
    expected = RandomForestClassifier(5, random_state=0).fit(
        X_WINE[1:], np.array([0, 2, 1])[Y_WINE[1:]], sample_weight=weights[1:]
    )
    np.testing.assert_array_equal(
        model.predict_proba(X_WINE), expected.predict_proba(X_WINE)
    )
    assert model.is_clean_.tolist() == [False] + [True] * (len(Y_WINE) - 1)
    assert type(model.detector_) is SwapsAndDrops


def test_labels_are_repaired_before_training():
    attack = LabelFlipAttack(budget=0.3, random_state=0)
    victim = KNeighborsClassifier(1)
    scores = {}
    for mode in ("repair", "drop"):
        filtered = FilteredEstimator(LiftedLabelRepair(mode=mode), victim)
        model = PoisonedEstimator(attack, filtered).fit(X_DIGITS[:400], Y_DIGITS[:400])
        scores[mode] = model.score(X_DIGITS[400:], Y_DIGITS[400:])
        assert model.estimator_.is_clean_.all() == (mode == "repair")
    bare = PoisonedEstimator(attack, victim).fit(X_DIGITS[:400], Y_DIGITS[:400])
    assert bare.score(X_DIGITS[400:], Y_DIGITS[400:]) < 0.75
    assert min(scores.values()) > 0.85


def test_labels_of_minus_one_and_one_are_no_verdicts():
    y = np.where(Y_WINE == 0, -1, 1)
    repair = LiftedLabelRepair(encoder="table")
    model = FilteredEstimator(repair, SVC()).fit(X_WINE, y)
    expected = SVC().fit(X_WINE, repair.fit_predict(X_WINE, y))
    np.testing.assert_array_equal(model.predict(X_WINE), expected.predict(X_WINE))


def test_pipeline_around_and_inside():
    inner = PoisonedEstimator(BackdoorAttack(random_state=0), SVC())
    pipe = Pipeline([("scale", StandardScaler()), ("model", inner)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.fit(X_WINE, Y_WINE)
    assert 0 <= attack_success_score(pipe, X_WINE, Y_WINE) <= 1
