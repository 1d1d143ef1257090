import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skpoison.attacks import LabelFlipAttack
from skpoison.compose import PoisonedEstimator
from skpoison.defenses import LabelFlipSmoothingClassifier
from skpoison.defenses._label_flip_smoothing import (
    certified_flips,
    needed_probability,
)

AS_IT_IS = FunctionTransformer()


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X[:400], y[:400], X[400:], y[400:]


# ------------------------------------------------------------------------ contract


def test_one_seed_one_model(cancer):
    X, y, X_test, _ = cancer
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, three = (
        LabelFlipSmoothingClassifier(n_draws=60, random_state=seed).fit(X, y)
        for seed in (0, 0, 1)
    )
    shares = one.predict_proba(X_test)
    np.testing.assert_array_equal(two.predict_proba(X_test), shares)
    assert (three.predict_proba(X_test) != shares).any()
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(after, state)
    loaded = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(loaded.certify(X_test)[1], one.certify(X_test)[1])
    # rows have the same noise wherever they stand
    np.testing.assert_array_equal(one.predict_proba(X_test[::-1])[::-1], shares)
    np.testing.assert_array_equal(one.predict_proba(X_test[5:6])[0], shares[5])


def test_a_search_takes_map_and_noise(cancer):
    X, y, *_ = cancer
    search = GridSearchCV(
        LabelFlipSmoothingClassifier(PCA(5), n_draws=20, random_state=0),
        {"feature_map__n_components": [1, 3], "flip_prob": [0.1, 0.49]},
        cv=2,
    )
    search.fit(StandardScaler().fit_transform(X), y)
    assert search.best_params_["flip_prob"] == 0.1


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"regularization": 0}, ValueError, "regularization must be > 0"),
        ({"flip_prob": 0.5}, ValueError, "flip_prob must be below .* 0.5 for 2"),
        ({"flip_prob": 0}, ValueError, r"flip_prob must be in \(0"),
        ({"flip_prob": "no"}, TypeError, "flip_prob must be a number"),
        ({"feature_map": 3}, TypeError, "feature_map must be an estimator or None"),
        ({"n_draws": 0}, ValueError, "n_draws must be >= 1"),
        ({"confidence": 1.0}, ValueError, "confidence must be below 1"),
    ],
)
def test_bad_parameters(cancer, params, error, match):
    X, y, *_ = cancer
    with pytest.raises(error, match=match):
        LabelFlipSmoothingClassifier(**params).fit(X, y)


def test_one_class_is_refused(cancer):
    X, *_ = cancer
    with pytest.raises(ValueError, match="got one class: 'a'"):
        LabelFlipSmoothingClassifier().fit(X, np.repeat("a", len(X)))


# ------------------------------------------------------------------- models and noise


@pytest.mark.parametrize("n_features", [3, 40])
def test_each_model_is_a_ridge_regression_on_its_noisy_labels(n_features):
    rng = np.random.RandomState(0)
    X, codes = rng.randn(25, n_features) + 3, rng.randint(3, size=25)
    model = LabelFlipSmoothingClassifier(
        AS_IT_IS, regularization=0.2, n_draws=7, random_state=0
    )
    model.fit(X, codes)
    noise = _noise_of(model)
    Y = model._noisy(codes, 7, noise)
    ridge = Ridge(alpha=0.2 * 25).fit(X, Y)
    np.testing.assert_allclose(model.coef_.T, ridge.coef_, atol=1e-10)
    np.testing.assert_allclose(model.intercept_, ridge.intercept_, atol=1e-10)
    votes = ridge.predict(X).reshape(25, 7, 3).argmax(axis=2)
    shares = np.stack([(votes == c).mean(axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(model.predict_proba(X), shares)


def _noise_of(model):
    from skpoison.utils import RandomStreams

    return RandomStreams(model.random_state).numpy("noise")


@pytest.mark.parametrize("flip_prob", [0.05, 0.6])
def test_noise_keeps_a_label_or_takes_any_other(flip_prob):
    codes = np.arange(40_000) % 4
    model = LabelFlipSmoothingClassifier(flip_prob=flip_prob)
    model.classes_ = np.arange(4)
    Y = model._noisy(codes, 5, np.random.RandomState(0)).reshape(-1, 5, 4)
    assert (Y.sum(axis=2) == 1).all()
    steps = (Y.argmax(axis=2) - codes[:, None]) % 4
    shares = np.bincount(steps.ravel(), minlength=4) / steps.size
    expected = [1 - flip_prob, *[flip_prob / 3] * 3]
    np.testing.assert_allclose(shares, expected, atol=0.004)  # 3.6 deviations
    # whatever the labels are, the same rows are replaced by the same step
    other = model._noisy(3 - codes, 5, np.random.RandomState(0)).reshape(-1, 5, 4)
    np.testing.assert_array_equal((other.argmax(2) - (3 - codes)[:, None]) % 4, steps)


def test_draws_do_not_depend_on_how_they_are_blocked(cancer, monkeypatch):
    X, y, X_test, _ = cancer
    shares = []
    for block in (2**23, 3000):
        monkeypatch.setattr("skpoison.defenses._label_flip_smoothing._BLOCK", block)
        model = LabelFlipSmoothingClassifier(n_draws=50, random_state=0).fit(X, y)
        shares.append(model.predict_proba(X_test))
    np.testing.assert_array_equal(*shares)


# ---------------------------------------------------------------------- the certificate


def label_law(y, flip_prob, n_classes):
    """Return all label vectors, and their probability when the labels are y."""
    vectors = np.array(list(itertools.product(range(n_classes), repeat=len(y))))
    kept = vectors == np.asarray(y)
    factors = np.where(kept, 1 - flip_prob, flip_prob / (n_classes - 1))
    return vectors, factors.prod(axis=1)


@pytest.mark.parametrize("n_classes, flip_prob", [(2, 0.3), (2, 0.45), (3, 0.5)])
@pytest.mark.parametrize("n_flips", [0, 1, 2, 5])
def test_needed_probability_is_that_of_neyman_and_pearson(
    n_classes, flip_prob, n_flips
):
    """Fill an event of probability one half, likelihood ratio by likelihood ratio."""
    _, before = label_law([0] * n_flips, flip_prob, n_classes)
    _, after = label_law([1] * n_flips, flip_prob, n_classes)
    order = np.argsort(-before / after, kind="stable")
    reached = np.concatenate([[0], np.cumsum(after[order])])
    gained = np.concatenate([[0], np.cumsum(before[order])])
    expected = np.interp(0.5, reached, gained)
    found = needed_probability(n_flips, flip_prob, n_classes)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_flips", [1, 4, 31, 400])
def test_two_classes_are_the_binomials_of_the_paper(n_flips):
    q = 0.4
    k = np.arange(n_flips + 1)  # labels that keep the value before the attack
    before, after = binom.pmf(k, n_flips, 1 - q)[::-1], binom.pmf(k, n_flips, q)[::-1]
    reached = np.concatenate([[0], np.cumsum(after)])
    expected = np.interp(0.5, reached, np.concatenate([[0], np.cumsum(before)]))
    assert needed_probability(n_flips, q, 2) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    "n_classes, flip_prob, most", [(2, 0.45, 260), (10, 0.7, 30), (3, 0.1, 10)]
)
def test_the_search_for_the_radius_is_a_scan(n_classes, flip_prob, most):
    needed = [needed_probability(r, flip_prob, n_classes) for r in range(most)]
    assert (np.diff(needed) > 0).all()
    lower = np.array([0.0, 0.5, 0.5 + 1e-6, 0.7, 0.9, 0.97, 0.999])
    expected = np.searchsorted(needed, lower) - 1
    found = certified_flips(lower, flip_prob, n_classes, most=1000)
    np.testing.assert_array_equal(found, expected)
    assert found[0] == found[1] == -1 and found[2] == 0
    capped = certified_flips(lower, flip_prob, n_classes, most=2)
    np.testing.assert_array_equal(capped, np.minimum(expected, 2))


def exact_votes(X, x, n_classes, model):
    """Return the class that ridge predicts for x for each label vector there is."""
    vectors, _ = label_law([0] * len(X), 0.5, n_classes)
    Y = np.eye(n_classes)[vectors]  # vector, row, class
    centred = X - X.mean(axis=0)
    gram = centred.T @ centred + model.regularization * len(X) * np.eye(X.shape[1])
    hat = (x - X.mean(axis=0)) @ np.linalg.solve(gram, centred.T) + 1 / len(X)
    return np.einsum("ti,vic->tvc", hat, Y).argmax(axis=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_classes, flip_prob", [(2, 0.2), (2, 0.4), (3, 0.1), (3, 0.25)]
)
def test_the_certificate_by_brute_force(n_classes, flip_prob):
    """Eight rows: all noise, and all attacks."""
    rng = np.random.RandomState(0)
    y = np.arange(8) % 2 if n_classes == 2 else np.array([0, 0, 0, 0, 0, 1, 1, 2])
    X = np.eye(n_classes)[y] * 4 + rng.randn(8, n_classes)
    x = np.vstack([X, rng.randn(6, n_classes)])
    model = LabelFlipSmoothingClassifier(AS_IT_IS, regularization=0.3)
    votes = exact_votes(X, x, n_classes, model)

    def shares(labels):
        law = label_law(labels, flip_prob, n_classes)[1]
        return np.stack([(votes == c) @ law for c in range(n_classes)], axis=1)

    before = shares(y)
    winners, top = before.argmax(axis=1), before.max(axis=1)
    order = np.argsort(top)
    radius = np.empty(len(x), dtype=int)
    radius[order] = certified_flips(top[order], flip_prob, n_classes, most=8)
    assert radius.max() >= 1
    lost = np.zeros(len(x), dtype=bool)
    for n_flips in (1, 2, 3):
        for rows in itertools.combinations(range(8), n_flips):
            for steps in itertools.product(range(1, n_classes), repeat=n_flips):
                labels = y.copy()
                labels[list(rows)] = (labels[list(rows)] + steps) % n_classes
                after = shares(labels)
                moved = after.argmax(axis=1) != winners
                assert not (moved & (radius >= n_flips)).any()
                lost |= moved
                if n_flips == 3:
                    break  # one choice of labels is enough to see votes lost
    assert lost.any()


@pytest.mark.slow
def test_the_confidence_is_kept():
    """Of many models, few certify more than the noise as a whole allows."""
    rng = np.random.RandomState(1)
    y = np.array([0, 1] * 4)
    X = y[:, None] + rng.randn(8, 2)
    x = np.vstack([X, rng.randn(30, 2)])
    shared = {"regularization": 0.3, "flip_prob": 0.4}
    model = LabelFlipSmoothingClassifier(AS_IT_IS, n_draws=60, confidence=0.8, **shared)
    votes = exact_votes(X, x, 2, model)
    ones = votes @ label_law(y, 0.4, 2)[1]
    exact = np.stack([1 - ones, ones], axis=1)
    wrong, certified = np.zeros(len(x)), 0
    for seed in range(300):
        labels, radius = model.set_params(random_state=seed).fit(X, y).certify(x)
        true = exact[np.arange(len(x)), labels]
        order = np.argsort(true)
        allowed = np.empty(len(x), dtype=int)
        allowed[order] = certified_flips(true[order], 0.4, 2, most=8)
        wrong += radius > allowed
        certified += (radius >= 0).mean()
    assert certified > 100
    assert 0 < wrong.max() / 300 < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 300)


@pytest.mark.parametrize("confidence", [0.5, 0.999])
def test_the_bound_where_all_draws_agree_has_a_closed_form(cancer, confidence):
    X, y, *_ = cancer
    model = LabelFlipSmoothingClassifier(
        AS_IT_IS, n_draws=50, confidence=confidence, random_state=0
    )
    lower = ((1 - confidence) / 2) ** (1 / 50)  # two-sided, as c is chosen by the draws
    expected = certified_flips(np.array([lower]), 0.4, 2, most=400)[0]
    assert model.fit(X, y).max_radius_ == expected


def test_rows_that_the_draws_leave_open_are_not_certified():
    X = np.repeat([[0.0], [1.0]], 20, axis=0)
    y = np.arange(40) % 2  # X says nothing
    model = LabelFlipSmoothingClassifier(n_draws=200, random_state=0).fit(X, y)
    labels, radius = model.certify(X)
    assert (radius == -1).all()
    np.testing.assert_array_equal(labels, model.predict(X))
    assert model.max_radius_ > 0


def test_a_radius_is_no_larger_than_the_number_of_labels():
    X = np.array([[0.0], [1.0], [2.0], [9.0], [10.0]])
    model = LabelFlipSmoothingClassifier(
        flip_prob=0.499, n_draws=3000, confidence=0.5, random_state=0
    )
    assert model.fit(X, [0, 0, 0, 1, 1]).max_radius_ == 5


def test_more_noise_more_certificate(cancer):
    X, y, X_test, y_test = cancer
    reached = []
    for flip_prob in (0.1, 0.3, 0.45):
        model = LabelFlipSmoothingClassifier(flip_prob=flip_prob, random_state=0)
        labels, radius = model.fit(X, y).certify(X_test)
        assert (labels == y_test).mean() > 0.93
        assert radius.max() <= model.max_radius_
        reached.append(np.quantile(radius, 0.9))
    assert reached[0] < reached[1] < reached[2]


@pytest.mark.parametrize("strategy", ["uniform", "far", "adversarial", "influence"])
def test_label_flips_within_the_certificate(cancer, strategy):
    X, y, X_test, _ = cancer
    model = LabelFlipSmoothingClassifier(random_state=0).fit(X, y)
    labels, radius = model.certify(X_test)
    for budget in (2, 10):
        attack = LabelFlipAttack(strategy, budget=budget, random_state=0)
        poisoned = PoisonedEstimator(attack, clone(model)).fit(X, y)
        assert poisoned.attack_.n_poisoned_ == budget
        moved = poisoned.predict(X_test) != labels
        assert (radius >= budget).sum() > 10
        assert not (moved & (radius >= budget)).any()


# --------------------------------------------------------------------------- containers


def test_images_tables_and_labels_of_any_kind():
    X, y = load_digits(return_X_y=True)
    names = np.array([f"digit {c}" for c in y])
    shared = {"n_draws": 30, "random_state": 0}
    flat = LabelFlipSmoothingClassifier(**shared).fit(X[:800], y[:800])
    images = (X.reshape(-1, 8, 8)).astype(np.uint8)
    model = LabelFlipSmoothingClassifier(**shared).fit(images[:800], names[:800])
    np.testing.assert_allclose(
        model.predict_proba(images[800:]), flat.predict_proba(X[800:])
    )
    assert model.score(images[800:], names[800:]) > 0.85

    table = pd.DataFrame({"a": [1.0, None, 3.0] * 50, "b": ["x", "x", "y"] * 50})
    is_y = table["b"] == "y"
    assert (
        LabelFlipSmoothingClassifier(**shared).fit(table, is_y).score(table, is_y) == 1
    )
    gaps = LabelFlipSmoothingClassifier(AS_IT_IS, **shared)
    with pytest.raises(ValueError, match="feature_map's output contains NaN"):
        gaps.fit(np.where(X == 0, np.nan, X), y)


@pytest.mark.parametrize("kind", ["constant", "two rows", "rare class"])
def test_degenerate_data(kind):
    X, y = np.ones((30, 2)), np.arange(30) % 3
    if kind == "two rows":
        X, y = np.array([[0.0], [1.0]]), np.array([0, 1])
    elif kind == "rare class":
        X, y = np.random.RandomState(0).randn(30, 2), np.zeros(30, dtype=int)
        y[4] = 1
    model = LabelFlipSmoothingClassifier(n_draws=50, random_state=0).fit(X, y)
    shares = model.predict_proba(X)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (model.certify(X)[1] >= -1).all()
