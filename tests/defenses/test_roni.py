import pickle
import warnings

import numpy as np
import pytest
from joblib import parallel_config
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_blobs, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from skpoison.attacks import LabelFlipAttack
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import RONI
from skpoison.defenses._roni import _halves
from skpoison.metrics import detection_report


class Counting(GaussianNB):
    """Count the trainings, and remember on what."""

    log: list = []

    def fit(self, X, y):
        Counting.log.append(np.array(X))
        return super().fit(X, y)


@pytest.fixture(scope="module")
def data():
    """Rows around two centres, ten of them on the wrong side and far out."""
    X, y = make_blobs(150, centers=[[-2, 0], [2, 0]], random_state=0)
    X[:10], y[:10] = [25.0, 0.0], 0
    return X, y


@pytest.fixture(scope="module")
def trusted():
    return np.arange(150) >= 100


@pytest.fixture(scope="module")
def fitted(data, trusted):
    return RONI(n_trials=2, random_state=0).fit(*data, trusted=trusted)


# ------------------------------------------------------------------------- contract


@pytest.mark.slow
def test_same_seed_jobs_strings_and_pickle(data, trusted):
    X, y = data
    fitted = RONI(GaussianNB(), n_trials=2, max_fits=90, random_state=0)
    fitted.fit(X, y, trusted=trusted)
    X_before = X.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with parallel_config(backend="threading"):  # processes take seconds to start
        parallel = clone(fitted).set_params(n_jobs=2).fit(X, y, trusted=trusted)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(X, X_before)
    named = clone(fitted).fit(X, np.array(["no", "yes"])[y], trusted=trusted)
    for again in (parallel, named, pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(again.scores_, fitted.scores_)
        np.testing.assert_array_equal(again.is_clean_, fitted.is_clean_)
    other = clone(fitted).set_params(random_state=1).fit(X, y, trusted=trusted)
    assert (other.scores_ != fitted.scores_).any()
    forest = RandomForestClassifier(3)  # its random_state=None is seeded too
    a, b = (
        RONI(forest, n_trials=1, max_fits=40, random_state=3).fit(X, y).scores_
        for _ in range(2)
    )
    np.testing.assert_array_equal(a, b)
    assert forest.random_state is None


@pytest.mark.slow
def test_in_a_search_and_behind_an_attack():
    X, y = load_iris(return_X_y=True)
    roni = RONI(GaussianNB(), n_trials=2, max_fits=100, random_state=0)
    search = GridSearchCV(
        PoisonedEstimator(
            LabelFlipAttack(budget=0.1, random_state=0),
            FilteredEstimator(roni, LogisticRegression(max_iter=500)),
        ),
        {"estimator__detector__threshold": ["calibrated", 0.0]},
        cv=3,
    ).fit(X, y)
    assert search.best_score_ > 0.85
    detector = search.best_estimator_.estimator_.detector_
    assert detector.n_fits_ <= 100


# ----------------------------------------------------------- the method, row by row


def brute_force(X, y, roni, base_sets, good_rows, blocks):
    """The score from its definition, given the splits that were drawn."""
    drops = []
    for block in [*good_rows, *blocks]:
        changes = []
        for base, held_out in base_sets:
            model = LogisticRegression().fit(X[base], y[base])
            before = (model.predict(X[held_out]) == y[held_out]).mean()
            rows = list(base) + list(block)
            model = LogisticRegression().fit(X[rows], y[rows])
            changes.append(before - (model.predict(X[held_out]) == y[held_out]).mean())
        drops.append(np.mean(changes))
    good, tried = drops[: len(good_rows)], drops[len(good_rows) :]
    limit = np.mean(good) + 3 * np.std(good, ddof=1)
    scores = np.full(len(X), min(tried))
    for block, drop in zip(blocks, tried, strict=True):
        scores[block] = drop
    return scores, limit


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 4])
def test_by_brute_force(data, trusted, monkeypatch, block_size):
    X, y = data[0][60:].copy(), data[1][60:].copy()
    X[:6], y[:6] = [25.0, 0.0], 0
    known = trusted[60:]
    drawn = {}
    original = RONI._drops

    def spy(self, estimator, X, labels, splits, blocks):
        drawn.update(splits=splits, blocks=blocks)
        return original(self, estimator, X, labels, splits, blocks)

    monkeypatch.setattr(RONI, "_drops", spy)
    roni = RONI(block_size=block_size, n_trials=2, n_calibration=5, random_state=0)
    roni.fit(X, y, trusted=known)
    good, tried = drawn["blocks"][:5], drawn["blocks"][5:]
    scores, limit = brute_force(X, y, roni, drawn["splits"], good, tried)
    np.testing.assert_allclose(roni.scores_, scores, atol=1e-12)
    assert roni.threshold_ == pytest.approx(limit)
    np.testing.assert_array_equal(roni.is_clean_, (scores <= limit + 1e-12) | known)
    # every candidate once, in blocks; what calibrates is in no split
    candidates = np.flatnonzero(~known)
    assert sorted(np.concatenate(tried)) == candidates.tolist()
    assert {len(block) for block in tried[:-1]} == {block_size}
    assert all(len(block) == block_size for block in good)
    apart = set(np.concatenate(good))
    for base, held_out in drawn["splits"]:
        assert len(set(base) | set(held_out)) == len(base) + len(held_out)
        assert not apart & (set(base) | set(held_out))
        assert known[base].all() and known[held_out].all()
        assert set(y[base]) == set(y[held_out]) == {0, 1}
    assert not np.array_equal(drawn["splits"][0][0], drawn["splits"][1][0])


def test_an_odd_row_is_trained_on():
    base, held_out = _halves(
        np.arange(8), np.array([0] * 3 + [1] * 5), np.random.RandomState(0)
    )
    assert (len(base), len(held_out)) == (5, 3)
    assert sorted([*base, *held_out]) == list(range(8))
    assert (base < 3).sum() == 2


def test_means_that_differ_by_rounding_are_equal():
    roni = RONI(threshold=0.1)
    roni.judged_ = np.ones(3, dtype=bool)
    flagged = roni._flag(np.array([0.1, 0.1 + 2e-16, 0.1 + 1e-9]), None)
    assert flagged.tolist() == [False, False, True]


def test_whole_blocks_are_rejected(data, trusted):
    X, y = data
    roni = RONI(block_size=5, random_state=0).fit(X, y, trusted=trusted)
    rejected = np.flatnonzero(~roni.is_clean_)
    assert len(rejected) % 5 == 0 and len(rejected) > 10
    assert not roni.is_clean_[:10].any()
    assert len(np.unique(roni.scores_)) <= 21


def test_number_of_trainings(data, trusted):
    for params in ({"block_size": 1}, {"block_size": 7}, {"max_fits": 180}):
        Counting.log.clear()
        roni = RONI(Counting(), n_trials=3, n_calibration=4, random_state=0, **params)
        roni.fit(*data, trusted=trusted)
        assert len(Counting.log) == roni.n_fits_ <= roni.max_fits
        n_blocks = -(-100 // roni.block_size_)
        assert roni.n_fits_ == 3 * (1 + 4 + n_blocks)
    # the smallest block that fits: 55 blocks at most
    assert roni.block_size_ == 2 and roni.n_fits_ == 3 * (1 + 4 + 50)


# ------------------------------------------------------------------ how well it works


def test_finds_rows_that_do_harm_alone(fitted, trusted):
    assert not fitted.is_clean_[:10].any()
    assert fitted.is_clean_[10:].mean() > 0.97
    assert (fitted.scores_[:10] > fitted.threshold_).all()
    assert fitted.is_clean_[trusted].all()
    assert (fitted.scores_[trusted] == fitted.scores_.min()).all()
    assert fitted.block_size_ == 1 and fitted.calibration_drops_.shape == (20,)
    np.testing.assert_array_equal(fitted.trusted_, trusted)


@pytest.mark.slow
def test_sampled_trusted_rows(data):
    X, y = data
    roni = RONI(trusted_size=0.3, n_trials=2, random_state=0).fit(X, y)
    for k in range(2):
        assert roni.trusted_[y == k].sum() == int(0.3 * (y == k).sum())
    report = detection_report(
        np.arange(150) < 10, roni.is_clean_ | roni.trusted_, roni.scores_
    )
    assert roni.is_clean_[roni.trusted_].all()
    # those among the trusted are never judged: the price that the docstring states
    assert report.n_caught <= 10 - roni.trusted_[:10].sum()


@pytest.mark.slow
def test_few_false_alarms_without_poisons():
    X, y = make_classification(100, n_features=5, flip_y=0.05, random_state=0)
    removed = [
        RONI(GaussianNB(), random_state=s).fit(X, y).n_removed_ for s in range(2)
    ]
    assert max(removed) < 0.05 * len(X)


def test_flips_against_nearest_neighbours():
    X, y = load_digits(return_X_y=True)
    X, y = X[:240], y[:240]
    noisy = y.copy()
    noisy[:20] = (y[:20] + 1) % 10
    roni = RONI(KNeighborsClassifier(1), n_trials=3, max_fits=900, random_state=0)
    roni.fit(X, noisy, trusted=np.arange(240) >= 60)
    report = detection_report(noisy != y, roni.is_clean_, roni.scores_)
    judged = detection_report((noisy != y)[:60], roni.is_clean_[:60], roni.scores_[:60])
    assert judged.auc > 0.75
    assert report.recall > 0.5 and report.false_positive_rate < 0.05


# ----------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"trusted_size": 0.0}, ValueError, "trusted_size must be"),
        ({"estimator": GaussianNB}, TypeError, "estimator must be an estimator"),
        ({"block_size": 0}, ValueError, "block_size must be"),
        ({"block_size": "big"}, TypeError, "block_size must be"),
        ({"n_trials": 0}, ValueError, "n_trials must be"),
        ({"n_calibration": 1}, ValueError, "n_calibration must be"),
        ({"threshold": "high"}, TypeError, "threshold must be"),
        ({"max_fits": 0}, ValueError, "max_fits must be"),
        (
            {"block_size": 1, "max_fits": 300},
            ValueError,
            "block_size=1 with n_trials=5 .* more than max_fits=300",
        ),
        ({"max_fits": 100}, ValueError, "more than max_fits=100"),
    ],
)
def test_bad_parameters(data, params, error, match):
    with pytest.raises(error, match=match):
        RONI(**params).fit(*data)


def test_bad_data(data):
    X, y = data
    with pytest.raises(ValueError, match="got 1 class"):
        RONI().fit(X, np.zeros(len(X)))
    for mask in (np.ones(3, bool), np.arange(150), [[True]] * 150):
        with pytest.raises(ValueError, match="trusted must be a mask of bool"):
            RONI().fit(X, y, trusted=mask)


def test_default_parameters_never_refuse_some_thousand_rows():
    for n_rows in (200, 1000, 5000, 60_000):
        roni = RONI()
        size = roni._find_block_size(n_rows)
        assert roni.n_fits_ <= 5000
        assert size == 1 or RONI._find_block_size(
            RONI(block_size=size, max_fits=10**6), n_rows
        )
        if size > 1:  # none smaller would do
            with pytest.raises(ValueError, match="max_fits"):
                RONI(block_size=size - 1)._find_block_size(n_rows)
    assert RONI()._find_block_size(900) == 1


# -------------------------------------------------------------------- awkward input


def test_rare_classes_are_kept_unjudged(data):
    X, y = data
    rare = y.copy()
    rare[20:23] = 7
    with pytest.warns(UserWarning, match=r"not judged, and kept: \[7\]"):
        roni = RONI(GaussianNB(), n_trials=1, max_fits=200, random_state=0)
        roni.fit(X, rare)
    assert roni.is_clean_[20:23].all()
    assert (roni.scores_[20:23] == roni.scores_.min()).all()
    with pytest.warns(UserWarning, match=r"not judged, and kept: \[0, 1\]"):
        roni.fit(X[[20, 40, 60, 80, 100]], [0, 1, 0, 1, 0])
    assert roni.is_clean_.all() and roni.n_fits_ == 0
    assert (roni.scores_ == 0).all()


def test_degenerate_data():
    rng = np.random.RandomState(0)
    y = np.repeat([0, 1], 20)
    cases = {
        "constant": (np.ones((40, 3)), y),
        "images": (rng.randint(0, 255, (40, 2, 3)).astype(np.uint8), y),
        "two rows": (rng.randn(2, 3), np.array([0, 1])),
        "rare": (rng.randn(40, 2), np.r_[0, np.ones(39, int)]),
    }
    for name, (X, labels) in cases.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "classes with too few trusted")
            roni = RONI(n_trials=1, max_fits=60, random_state=0).fit(X, labels)
        assert np.isfinite(roni.scores_).all(), name
        assert set(labels[roni.is_clean_]) == set(labels), name
        if name != "rare":
            assert roni.is_clean_.all() or name == "images"


def test_no_class_is_removed_whole(data, trusted):
    X, y = data
    roni = RONI(GaussianNB(), n_trials=1, threshold=-2.0, random_state=0)
    roni.fit(X, y, trusted=trusted)
    np.testing.assert_array_equal(roni.is_clean_, trusted)  # nothing else passes
    three = y.copy()
    three[:100:7] = 2  # a class without trusted rows is not judged
    with pytest.warns(UserWarning, match="not judged"):
        roni.fit(X, three, trusted=trusted)
    assert roni.is_clean_[three == 2].all()


def test_containers_reach_the_estimator(data, trusted):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(X, columns=["a", "b"])

    class OnFrames(GaussianNB):
        def fit(self, X, y):
            assert list(X.columns) == ["a", "b"]
            return super().fit(X, y)

    direct = RONI(GaussianNB(), n_trials=1, max_fits=60, random_state=0)
    direct.fit(X, y, trusted=trusted)
    roni = clone(direct).set_params(estimator=OnFrames())
    kept, labels = roni.fit_resample(frame, pd.Series(y), trusted=trusted)
    np.testing.assert_array_equal(roni.scores_, direct.scores_)
    assert isinstance(kept, pd.DataFrame) and len(kept) == len(labels)
    dense = RONI(n_trials=1, max_fits=40, random_state=0).fit(X, y, trusted=trusted)
    thin = clone(dense).fit(sparse.csr_matrix(X), y, trusted=trusted)
    np.testing.assert_array_equal(thin.scores_, dense.scores_)
    texts = np.array(["red apple", "blue sky"])[y]
    from sklearn.feature_extraction.text import CountVectorizer

    model = make_pipeline(CountVectorizer(), LogisticRegression())
    clone(dense).set_params(estimator=model).fit(texts.tolist(), y, trusted=trusted)
