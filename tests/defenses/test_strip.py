import pickle

import numpy as np
import pytest
from scipy.special import entr
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from skpoison.attacks import BackdoorAttack, PatchTrigger
from skpoison.compose import FilteredEstimator
from skpoison.defenses import STRIP
from skpoison.models import MLP, TorchClassifier

N_CLASSES = 10


class Fixed(ClassifierMixin, BaseEstimator):
    """A classifier that knows everything already: ``chances(X)`` are its answer."""

    def __init__(self, chances=None):
        self.chances = chances

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        return self.chances(X)


def one_hot(X):
    """Each row its own sure class, by its first value."""
    return np.eye(N_CLASSES)[np.floor(X[:, 0]).astype(int) % N_CLASSES]


def uniform(X):
    return np.full((len(X), N_CLASSES), 1 / N_CLASSES)


def mild(X):
    """Surer the larger the first value."""
    odds = np.column_stack([np.exp(X[:, 0] / 10), np.ones(len(X))])
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 1, 8, 8) / 16, y


@pytest.fixture(scope="module")
def backdoor(data):
    X, y = data
    attack = BackdoorAttack(
        PatchTrigger("solid", margin=0), target_class=3, random_state=0
    )
    poisoned = attack.poison(X[:1000], y[:1000])
    net = TorchClassifier(MLP, max_epochs=15, device="cpu", random_state=0)
    return attack, poisoned, net.fit(poisoned.X, poisoned.y)


# ------------------------------------------------------------------ what it computes


def test_entropy_is_over_classes():
    X = np.arange(40, dtype=float).reshape(20, 2)
    y = np.arange(20) % 2
    # sure of every blend, of another class each time: over overlays this would be
    # far from 0
    sure = STRIP(Fixed(one_hot), false_rejection=0, random_state=0).fit(X, y)
    np.testing.assert_array_equal(sure.score_samples(X), np.zeros(20))
    # the same doubt under every overlay: log of the classes, not of the overlays
    doubt = STRIP(Fixed(uniform), n_overlays=4, false_rejection=0, random_state=0)
    np.testing.assert_allclose(
        doubt.fit(X, y).score_samples(X), np.full(20, np.log(N_CLASSES))
    )


def test_scores_by_hand(monkeypatch):
    X = np.arange(36, dtype=float).reshape(12, 3)
    y = np.arange(12) % 2
    detector = STRIP(
        Fixed(mild), n_overlays=4, blend=0.7, false_rejection=0.25, random_state=0
    )
    detector.fit(X, y)
    assert detector.overlays_.shape == (4, 3)

    def entropy(row, overlays):
        blends = np.array([0.7 * row + 0.3 * other for other in overlays])
        return entr(mild(blends)).sum(axis=1).mean()

    others = [detector.overlays_[(detector.overlays_ != row).any(1)] for row in X]
    assert sum(len(o) == 3 for o in others) == 4  # not over itself
    expected = [entropy(row, o) for row, o in zip(X, others, strict=True)]
    np.testing.assert_allclose(detector.scores_, -np.array(expected))
    new = X[:5] + 0.25
    expected = [entropy(row, detector.overlays_) for row in new]
    np.testing.assert_allclose(detector.score_samples(new), expected)
    # the same in calls of one row each
    monkeypatch.setattr("skpoison.defenses._strip._CHUNK", 1)
    np.testing.assert_allclose(detector.score_samples(new), expected)


def test_threshold_and_decisions():
    X = np.arange(60, dtype=float).reshape(20, 3)
    y = np.arange(20) % 2
    detector = STRIP(Fixed(mild), false_rejection=0.15, random_state=0).fit(X, y)
    entropies = np.sort(-detector.scores_)
    assert detector.threshold_ == entropies[2]  # 3 of 20
    assert detector.n_removed_ == 3
    np.testing.assert_array_equal(detector.is_clean_, detector.scores_ < -entropies[2])
    found = detector.score_samples(X)
    np.testing.assert_allclose(
        detector.decision_function(X), found - detector.threshold_
    )
    np.testing.assert_array_equal(
        detector.predict(X), np.where(found <= detector.threshold_, -1, 1)
    )


def test_ties_are_not_all_rejected():
    X = np.arange(400, dtype=float).reshape(200, 2)
    y = np.arange(200) % 2
    detector = STRIP(Fixed(one_hot), false_rejection=0.05, random_state=0)
    with pytest.warns(UserWarning, match="lowest entropies tie, so no row"):
        detector.fit(X, y)
    assert detector.is_clean_.all() and (detector.predict(X) == 1).all()
    assert np.isfinite(detector.decision_function(X)).all()
    with pytest.warns(UserWarning, match="less than one, so no row is rejected"):
        STRIP(Fixed(mild), random_state=0).fit(X[:99], y[:99])


def test_no_class_goes_whole():
    X = np.arange(60, dtype=float).reshape(20, 3)
    y = np.repeat(["a", "b"], [18, 2])  # the last rows are the surest
    detector = STRIP(Fixed(mild), false_rejection=0.2, random_state=0)
    with pytest.warns(UserWarning, match=r"rejects every row of \['b'\]"):
        detector.fit(X, y)
    assert detector.is_clean_[y == "b"].all() and detector.n_removed_ == 2
    with pytest.warns(UserWarning, match="rejects every row"):
        X_kept, y_kept = detector.fit_resample(X, y)
    assert len(X_kept) == 18 and set(y_kept) == {"a", "b"}


# --------------------------------------------------------------- how well it detects


def test_triggered_rows_are_told_from_clean_ones(backdoor, data):
    attack, _, net = backdoor
    X, y = data
    before = pickle.dumps(net.module_.state_dict())
    for rate, least in ((0.01, 0.6), (0.05, 0.85)):
        detector = STRIP(net, false_rejection=rate, random_state=0)
        detector.fit(X[1000:1300], y[1000:1300])
        clean = X[1300:]
        triggered = attack.apply_trigger(clean[y[1300:] != 3])
        # 497 held-out rows: two standard errors above the nominal share
        spread = (rate * (1 - rate) / len(clean)) ** 0.5
        assert (detector.predict(clean) == -1).mean() < rate + 2 * spread
        assert (detector.predict(triggered) == -1).mean() > least
    H = detector.score_samples(np.concatenate([clean, triggered]))
    assert roc_auc_score(np.arange(len(H)) >= len(clean), -H) > 0.98
    assert detector.estimator_ is net
    assert pickle.dumps(net.module_.state_dict()) == before


def test_false_rejections_are_the_nominal_share(backdoor, data):
    # no trigger anywhere: on average over draws of the reference rows, held-out rows
    # are rejected as often as was allowed
    _, _, net = backdoor
    X, y = data
    shares = []
    for seed in range(4):
        order = np.random.RandomState(seed).permutation(np.arange(1000, 1797))
        known, new = order[:400], order[400:]
        detector = STRIP(net, n_overlays=10, false_rejection=0.1, random_state=seed)
        detector.fit(X[known], y[known])
        shares.append((detector.predict(X[new]) == -1).mean())
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)


def test_filter_of_a_training_set(backdoor):
    _, poisoned, _ = backdoor
    X, y = poisoned.X.reshape(len(poisoned.X), -1), poisoned.y
    model = LogisticRegression(max_iter=500)
    filtered = FilteredEstimator(STRIP(model, false_rejection=0.1), model)
    filtered.set_params(random_state=0).fit(X, y)
    caught = ~filtered.is_clean_ & poisoned.poison_mask
    assert (~filtered.is_clean_).sum() == 100 and caught.sum() > 70
    search = GridSearchCV(
        FilteredEstimator(STRIP(FrozenEstimator(filtered)), model),
        {"detector__false_rejection": [0.0, 0.1]},
        cv=2,
        error_score="raise",
    )
    assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()


# -------------------------------------------------------------------------- contract


def test_frames_and_lists(data):
    pd = pytest.importorskip("pandas")
    X, y = data[0][:300].reshape(300, -1)[:, 20:30], data[1][:300]
    frame = pd.DataFrame(X, columns=[f"p{j}" for j in range(10)], index=range(5, 305))
    plain = STRIP(LogisticRegression(), false_rejection=0.1, random_state=0)
    named = clone(plain).fit(frame, y)  # without a warning about names
    plain.fit(X, y)
    assert named.feature_names_in_.tolist() == list(frame.columns)
    np.testing.assert_allclose(named.scores_, plain.scores_)
    np.testing.assert_allclose(
        named.score_samples(frame[:7]), plain.score_samples(X[:7])
    )
    listed = clone(plain).fit(X.tolist(), y.tolist())
    np.testing.assert_array_equal(listed.scores_, plain.scores_)


def test_uint8_images_stay_uint8(backdoor, data):
    X, y = data
    pixels = np.rint(X[1000:1400] * 255).astype(np.uint8)
    kinds = []

    def chances(rows):
        kinds.append(rows.dtype)
        return backdoor[2].predict_proba(rows)

    detector = STRIP(Fixed(chances), false_rejection=0.05, random_state=0)
    detector.fit(pixels, y[1000:1400])
    assert set(kinds) == {np.dtype(np.uint8)}
    floats = STRIP(backdoor[2], false_rejection=0.05, random_state=0)
    floats.fit((pixels / 255).astype(np.float32), y[1000:1400])
    np.testing.assert_allclose(detector.scores_, floats.scores_, atol=0.02)  # rounding
    assert detector.overlays_.dtype == np.uint8
    with pytest.raises(ValueError, match=r"samples of shape \(1, 4, 16\)"):
        detector.predict(pixels.reshape(-1, 1, 4, 16))


def test_unsigned_numbers_are_rounded():
    seen = []

    def chances(rows):
        seen.append(rows)
        return uniform(rows)

    X = np.array([[0], [1], [1000]], dtype=np.uint16)
    STRIP(Fixed(chances), false_rejection=0, n_overlays=3).fit(X, [0, 1, 0])
    assert seen[0].dtype == np.uint16
    # halves go to the even neighbour, and none is cut off: 500.5 is 500, 0.5 is 0
    assert set(seen[0].ravel().tolist()) == {0, 1, 500, 1000}
    STRIP(Fixed(chances), blend=0.9, false_rejection=0, n_overlays=3).fit(X, [0, 1, 0])
    assert {100, 101, 900} < set(seen[1].ravel().tolist())  # 100.9 is 101


def test_probabilities_that_are_none(data):
    def chances(rows):
        return np.full((len(rows), 2), np.nan)

    with pytest.raises(ValueError, match="estimator must predict finite"):
        STRIP(Fixed(chances)).fit(np.eye(4), [0, 1, 0, 1])


def test_an_interrupted_fit_is_no_fit():
    def chances(rows):
        raise KeyboardInterrupt

    detector = STRIP(Fixed(chances))
    with pytest.raises(KeyboardInterrupt):
        detector.fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(NotFittedError):
        detector.predict(np.eye(4))
    with pytest.raises(NotFittedError):
        check_is_fitted(detector)


def test_seed_labels_and_pickle(data):
    import torch

    X, y = data[0][:300], np.array([f"class {k}" for k in data[1][:300]])
    net = TorchClassifier(MLP, max_epochs=2, device="cpu")
    state = torch.get_rng_state()
    a, b, c = (
        STRIP(net, false_rejection=0.05, random_state=s).fit(X, y) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a.scores_, b.scores_)
    assert (a.scores_ != c.scores_).any()
    assert not hasattr(net, "net_") and a.estimator_.classes_[0] == "class 0"
    again = pickle.loads(pickle.dumps(a))
    np.testing.assert_array_equal(again.predict(X), a.predict(X))
    frozen = STRIP(FrozenEstimator(a.estimator_), false_rejection=0.05, random_state=0)
    assert clone(frozen).fit(X, y).estimator_.estimator is a.estimator_
    np.testing.assert_array_equal(clone(frozen).fit(X, y).scores_, a.scores_)


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"n_overlays": 1}, ValueError, "n_overlays must be"),
        ({"n_overlays": 2.5}, TypeError, "n_overlays must be"),
        ({"blend": 1.5}, ValueError, "blend must be"),
        ({"false_rejection": -0.1}, ValueError, "false_rejection must be"),
        ({"blend": 0}, ValueError, "blend must be"),
        ({"estimator": LinearSVC()}, TypeError, "estimator must be a classifier with"),
        ({"estimator": MLP}, TypeError, "estimator must be a classifier with"),
        ({"estimator": Fixed}, TypeError, "estimator must be a classifier with"),
    ],
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        STRIP(**params).fit(np.eye(4), [0, 1, 0, 1])


def test_two_rows_and_one():
    detector = STRIP(Fixed(mild), blend=0.7, false_rejection=0.5, random_state=0)
    detector.fit([[1.0], [2.0]], [0, 0])
    assert np.isfinite(detector.scores_).all() and detector.n_removed_ == 1
    with pytest.raises(ValueError, match="1 sample"):
        detector.fit([[1.0]], [0])
