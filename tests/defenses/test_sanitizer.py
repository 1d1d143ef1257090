import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.svm import LinearSVC

from skpoison.compose import FilteredEstimator
from skpoison.defenses import DataSanitizer
from skpoison.metrics import detection_report

RULES = ["sphere", "l2", "slab", "sphere+slab", "knn", "svd", "loss"]


@pytest.fixture(scope="module")
def small():
    rng = np.random.RandomState(0)
    y = np.repeat([0, 1, 2], [12, 15, 20])[rng.permutation(47)]
    return rng.randn(47, 4) * [1, 2, 0.5, 1] + 1.5 * np.eye(4)[y], y


# ------------------------------------------------------------------------- contract


@pytest.mark.parametrize("rule", RULES)
def test_same_result_twice_with_strings_and_after_pickle(small, rule):
    X, y = small
    names = np.array(["low", "mid", "top"])
    X_before = X.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    fitted = DataSanitizer(rule, frac_remove=0.2, random_state=0).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(X, X_before)
    for again in (
        clone(fitted).fit(X, names[y]),
        pickle.loads(pickle.dumps(fitted)),
        clone(fitted).fit(np.asfortranarray(X), y),
    ):
        np.testing.assert_allclose(again.scores_, fitted.scores_, rtol=1e-9)
        np.testing.assert_array_equal(again.is_clean_, fitted.is_clean_)
    X_clean, y_clean = clone(fitted).fit_resample(X, y)
    np.testing.assert_array_equal(X_clean, X[fitted.is_clean_])
    np.testing.assert_array_equal(y_clean, y[fitted.is_clean_])


def test_in_a_search():
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(
        FilteredEstimator(DataSanitizer(), LogisticRegression(max_iter=500)),
        {"detector__rule": ["slab", "loss"], "detector__frac_remove": [0.0, 0.1]},
        cv=3,
    ).fit(X, y)
    assert search.best_score_ > 0.9
    removed = ~search.best_estimator_.is_clean_
    expected = 15 if search.best_params_["detector__frac_remove"] else 0
    assert removed.sum() == expected


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"rule": "cube"}, ValueError, "rule must be"),
        ({"center": "mode"}, ValueError, "center must be"),
        ({"frac_remove": 1.5}, ValueError, "frac_remove must be"),
        ({"percentile": -1}, ValueError, "percentile must be"),
        ({"n_neighbors": 0}, ValueError, "n_neighbors must be"),
        ({"n_components": 0.0}, ValueError, "n_components must be"),
        ({"n_components": -1}, ValueError, "n_components must be"),
        ({"estimator": "tree"}, TypeError, "estimator must be an estimator or None"),
        ({"oracle_stats": ("abc", None, None)}, ValueError, "centers .* numbers"),
        ({"oracle_stats": 3}, ValueError, "oracle_stats must be"),
        ({"oracle_stats": (np.zeros((2, 4)), None, None)}, ValueError, "centers"),
        (
            {"oracle_stats": (np.zeros((3, 4)), -np.ones(3), None)},
            ValueError,
            "radii of oracle_stats must be >= 0",
        ),
        (
            {"rule": "sphere+slab", "oracle_stats": (np.ones((3, 4)), [1] * 3, None)},
            ValueError,
            "both radii and widths",
        ),
        (
            {"rule": "knn", "oracle_stats": (np.zeros((3, 4)), None, None)},
            ValueError,
            "spheres and slabs",
        ),
    ],
)
def test_bad_parameters(small, params, error, match):
    with pytest.raises(error, match=match):
        DataSanitizer(**params).fit(*small)


def test_bad_data(small):
    X, y = small
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        DataSanitizer().fit(sparse.csr_matrix(X), y)
    for rule in ("slab", "sphere+slab", "loss"):
        with pytest.raises(ValueError, match="got 1 class"):
            DataSanitizer(rule).fit(X, np.zeros(len(X)))
    assert DataSanitizer("sphere").fit(X, np.zeros(len(X))).n_removed_ == 2
    text = np.array([["a", 1], ["b", 2]] * 10, dtype=object)
    with pytest.raises(ValueError, match="takes numbers, got text"):
        DataSanitizer().fit(text, np.arange(20) % 2)
    for rule in RULES:
        with pytest.raises(ValueError, match=r"features up to 1e\+100, got .*e\+120"):
            DataSanitizer(rule).fit(X * 1e120, y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = DataSanitizer(rule).fit(X * 1e95, y).scores_
        assert np.isfinite(scores).all()
    frozen = FrozenEstimator(LogisticRegression().fit(X[y != 2], y[y != 2]))
    with pytest.raises(ValueError, match="knows no class 2"):
        DataSanitizer("loss", estimator=frozen).fit(X, y)


# -------------------------------------------------- each rule against its definition


def brute_scores(rule, X, y, middle=np.mean):
    """The definitions, row by row."""
    found = np.zeros(len(X))
    centers = {k: middle(X[y == k], axis=0) for k in np.unique(y)}
    for i, (x, k) in enumerate(zip(X, y, strict=True)):
        own = np.flatnonzero(y == k)
        if rule in ("sphere", "l2"):
            found[i] = np.sqrt(sum((x - centers[k]) ** 2))
        elif rule == "slab":
            found[i] = max(
                abs(np.dot(centers[k] - centers[other], x - centers[k]))
                for other in centers
                if other != k
            )
        elif rule == "knn":
            others = [np.linalg.norm(x - X[j]) for j in own if j != i]
            found[i] = sorted(others)[4]
        elif rule == "svd":
            pca = PCA(2).fit(X[own])
            found[i] = np.linalg.norm(x - pca.inverse_transform(pca.transform([x])))
        elif rule == "loss":
            columns = StandardScaler().fit(X)
            model = LogisticRegression().fit(columns.transform(X), y)
            proba = model.predict_proba(columns.transform([x]))[0]
            found[i] = -np.log(proba[list(model.classes_).index(k)])
    return found


def brute_flags(scores, y, share):
    flagged = np.zeros(len(y), dtype=bool)
    for k in np.unique(y):
        own = [i for i in range(len(y)) if y[i] == k]
        ranked = sorted(own, key=lambda i: (-scores[i], i))
        flagged[ranked[: min(round(share * len(own)), len(own) - 1)]] = True
    return flagged


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("rule", ["sphere", "l2", "slab", "knn", "svd", "loss"])
def test_rules_by_brute_force(small, rule, share):
    X, y = small
    expected = brute_scores(rule, X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = DataSanitizer(rule, frac_remove=share, n_components=2).fit(X, y)
    np.testing.assert_allclose(fitted.scores_, expected, atol=1e-9)
    np.testing.assert_array_equal(~fitted.is_clean_, brute_flags(expected, y, share))
    assert set(y[fitted.is_clean_]) == {0, 1, 2}
    for k in range(3):
        kept = fitted.scores_[(y == k) & fitted.is_clean_]
        assert kept.max() == fitted.thresholds_[k]


@pytest.mark.parametrize("rule", ["sphere", "slab"])
def test_median_centres(small, rule):
    X, y = small
    fitted = DataSanitizer(rule, center="median").fit(X, y)
    np.testing.assert_allclose(fitted.scores_, brute_scores(rule, X, y, np.median))


@pytest.mark.parametrize("percentile", [0, 40, 70, 100])
def test_percentile_of_each_class(small, percentile):
    X, y = small
    flags = {}
    for rule in ("sphere", "slab", "knn", "sphere+slab"):
        fitted = DataSanitizer(rule, percentile=percentile, frac_remove=0.9).fit(X, y)
        flags[rule] = ~fitted.is_clean_
        if rule != "sphere+slab":
            for k in range(3):
                own = fitted.scores_[y == k]
                limit = np.percentile(own, percentile)
                np.testing.assert_array_equal(flags[rule][y == k], own > limit)
    expected = flags["sphere"] | flags["slab"]
    for k in range(3):  # both may cover a class, of which one row stays
        if expected[y == k].all():
            assert (~flags["sphere+slab"][y == k]).sum() == 1
        else:
            np.testing.assert_array_equal(
                flags["sphere+slab"][y == k], expected[y == k]
            )


def test_both_rules_by_a_share(small):
    X, y = small
    fitted = DataSanitizer("sphere+slab", frac_remove=0.2).fit(X, y)
    expected = np.zeros(len(X))
    for rule in ("sphere", "slab"):
        values = brute_scores(rule, X, y)
        limits = [np.percentile(values[y == k], 80) for k in range(3)]
        expected = np.maximum(expected, values / np.take(limits, y))
    np.testing.assert_allclose(fitted.scores_, expected)
    np.testing.assert_array_equal(~fitted.is_clean_, brute_flags(expected, y, 0.2))


def test_share_of_variance_chooses_the_components(small):
    X, y = small
    for share in (0.3, 0.7, 0.95, 1.0):
        fitted = DataSanitizer("svd", n_components=share).fit(X, y)
        for k in range(3):
            own = X[y == k]
            ratios = PCA().fit(own).explained_variance_ratio_
            rank = 1 + int((np.cumsum(ratios) < share - 1e-12).sum())
            pca = PCA(rank).fit(own)
            expected = np.linalg.norm(
                own - pca.inverse_transform(pca.transform(own)), axis=1
            )
            np.testing.assert_allclose(fitted.scores_[y == k], expected, atol=1e-9)
    whole = DataSanitizer("svd", n_components=0).fit(X, y)
    np.testing.assert_allclose(whole.scores_, brute_scores("sphere", X, y))


def test_loss_under_estimators_of_all_kinds(small):
    X, y = small
    model = LogisticRegression().fit(X, y)
    expected = -np.log(model.predict_proba(X)[np.arange(len(y)), y])
    coef = model.coef_.copy()
    for given in (model, FrozenEstimator(model), LogisticRegression()):
        fitted = DataSanitizer("loss", estimator=given).fit(X, y)
        np.testing.assert_allclose(fitted.scores_, expected)
    np.testing.assert_array_equal(model.coef_, coef)
    assert DataSanitizer("loss", estimator=model).fit(X, y).estimator_ is model
    # hinge losses, of two classes and of more
    binary, signs = y != 2, 2 * y - 1
    svm = LinearSVC(random_state=0).fit(X[binary], y[binary])
    fitted = DataSanitizer("loss", estimator=svm).fit(X[binary], y[binary])
    margins = signs[binary] * svm.decision_function(X[binary])
    np.testing.assert_allclose(fitted.scores_, np.maximum(1 - margins, 0))
    svm = LinearSVC(random_state=0).fit(X, y)
    fitted = DataSanitizer("loss", estimator=svm).fit(X, y)
    for i, values in enumerate(svm.decision_function(X)):
        rival = max(np.delete(values, y[i]))
        assert fitted.scores_[i] == pytest.approx(max(0, 1 - values[y[i]] + rival))


# --------------------------------------------------------------------- oracle rules


def test_oracle_centres_and_radii(small):
    X, y = small
    rng = np.random.RandomState(1)
    centers = np.stack([X[y == k].mean(axis=0) for k in range(3)]) + 0.3 * rng.randn(
        3, 4
    )
    radii, widths = np.array([2.0, 3.0, 2.5]), np.full(3, 4.0)
    far = np.linalg.norm(X - centers[y], axis=1)
    along = np.array(
        [
            max(
                abs((centers[k] - centers[o]) @ (x - centers[k]))
                for o in range(3)
                if o != k
            )
            for x, k in zip(X, y, strict=True)
        ]
    )
    outside = {
        "sphere": far > radii[y],
        "slab": along > widths[y],
        "sphere+slab": (far > radii[y]) | (along > widths[y]),
    }
    for rule, expected in outside.items():
        assert 0.1 < expected.mean() < 0.9
        fitted = DataSanitizer(rule, oracle_stats=(centers, radii, widths)).fit(X, y)
        np.testing.assert_array_equal(~fitted.is_clean_, expected)
    only = DataSanitizer(oracle_stats=(centers, None, None), frac_remove=0.2).fit(X, y)
    np.testing.assert_allclose(only.scores_, far)
    np.testing.assert_array_equal(~only.is_clean_, brute_flags(far, y, 0.2))
    nothing = DataSanitizer(oracle_stats=(centers, [0, 0, 0], None)).fit(X, y)
    assert np.bincount(y[nothing.is_clean_]).tolist() == [1, 1, 1]


def test_oracle_rule_ignores_what_the_attacker_adds():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    clean = DataSanitizer(percentile=90).fit(X, y)
    stats = (clean.centers_, clean.thresholds_, None)
    # copies of one far row drag the centre of the data's own rule after them
    poison = np.repeat(clean.centers_[:1] + 12 * np.eye(30)[:1], 150, axis=0)
    X_all, y_all = np.vstack([X, poison]), np.append(y, np.zeros(150, int))
    own = DataSanitizer(percentile=90).fit(X_all, y_all)
    oracle = DataSanitizer(oracle_stats=stats).fit(X_all, y_all)
    assert own.is_clean_[-150:].all()
    assert not oracle.is_clean_[-150:].any()
    np.testing.assert_array_equal(oracle.is_clean_[:-150], clean.is_clean_)


# -------------------------------------------------------------------- awkward input


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_data_gives_finite_scores_and_keeps_every_class(rule):
    rng = np.random.RandomState(0)
    constant = np.column_stack([rng.randn(20), np.full(20, 3.0), np.zeros(20)])
    y = np.repeat([0, 1], 10)
    cases = {
        "constant features": (constant, y),
        "all rows equal": (np.full((20, 3), 0.1), y),
        "ties": (np.tile([[0.0], [1.0]], (10, 1)), y),
        "a row alone": (rng.randn(20, 3), np.r_[0, np.ones(19, int)]),
        "two rows": (rng.randn(2, 3), np.array([0, 1])),
        "few in a class": (rng.randn(20, 3), np.repeat([0, 1, 2], [2, 3, 15])),
        "images": (rng.randint(0, 255, (20, 1, 4, 4)).astype(np.uint8), y),
    }
    for name, (X, labels) in cases.items():
        for params in ({"frac_remove": 0.3}, {"percentile": 70}, {"frac_remove": 1.0}):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", "classes of one row|frac_remove")
                fitted = DataSanitizer(rule, random_state=0, **params).fit(X, labels)
            assert np.isfinite(fitted.scores_).all(), name
            assert set(labels[fitted.is_clean_]) == set(labels), name
            if params == {"frac_remove": 1.0}:
                assert fitted.is_clean_.sum() == len(set(labels))


def test_ties_go_by_position():
    X, y = np.ones((400, 2)), np.tile([0, 1], 200)
    for rule in RULES:
        fitted = DataSanitizer(rule, frac_remove=0.3).fit(X, y)
        np.testing.assert_array_equal(np.flatnonzero(~fitted.is_clean_), range(120))
        assert DataSanitizer(rule, percentile=70).fit(X, y).n_removed_ == 0
    X[::7] += 1.0  # two values, equal ones far apart
    fitted = DataSanitizer("knn", n_neighbors=30, frac_remove=0.3).fit(X, y)
    np.testing.assert_array_equal(
        ~fitted.is_clean_, brute_flags(fitted.scores_, y, 0.3)
    )


def test_a_percentile_of_zero_distances():
    # nine of ten rows sit on the centre of their class: the tenth is outside, however
    # near, and by both rules
    X = np.zeros((40, 2))
    X[20:] = 1.0
    X[5] += 1e-3
    y = np.repeat([0, 1], 20)
    stats = (np.array([[0.0, 0.0], [1.0, 1.0]]), np.zeros(2), np.zeros(2))
    fitted = DataSanitizer("sphere+slab", oracle_stats=stats).fit(X, y)
    np.testing.assert_array_equal(np.flatnonzero(~fitted.is_clean_), [5])
    assert np.isfinite(fitted.scores_).all()


def test_warnings(small):
    X, y = small
    alone = y.copy()
    alone[3] = 9
    with pytest.warns(UserWarning, match=r"of one row are not judged, and kept: \[9\]"):
        assert DataSanitizer().fit(X, alone).is_clean_[3]
    with pytest.warns(UserWarning, match="comes to no row of any class"):
        assert DataSanitizer(frac_remove=0.01).fit(X, y).n_removed_ == 0


def test_images_and_frames():
    pd = pytest.importorskip("pandas")
    digits = load_digits()
    images, flat = digits.images[:300], digits.data[:300]
    y = digits.target[:300]
    for rule in RULES:
        a = DataSanitizer(rule).fit(images.astype(np.uint8)[:, None], y)
        b = DataSanitizer(rule).fit(flat, y)
        np.testing.assert_allclose(a.scores_, b.scores_, rtol=1e-6, atol=1e-9)
    kept, _ = DataSanitizer().fit_resample(images.astype(np.uint8), y)
    assert kept.dtype == np.uint8 and kept.shape[1:] == (8, 8)
    frame = pd.DataFrame(flat[:, 20:24], columns=list("abcd"))
    fitted = DataSanitizer(
        "loss", estimator=make_pipeline(StandardScaler(), LinearSVC())
    )
    kept, labels = fitted.fit_resample(frame, pd.Series(y))
    assert isinstance(kept, pd.DataFrame) and len(kept) == len(labels) < 300
    assert fitted.feature_names_in_.tolist() == list("abcd")


# ------------------------------------------------------------------ how well it works


@pytest.mark.parametrize("rule", RULES)
def test_finds_flipped_digits(rule):
    X, y = load_digits(return_X_y=True)
    rng = np.random.RandomState(0)
    rows = rng.choice(len(y), 90, replace=False)
    noisy = y.copy()
    noisy[rows] = (y[rows] + rng.randint(1, 10, 90)) % 10
    fitted = DataSanitizer(rule, frac_remove=0.05, random_state=0).fit(X, noisy)
    report = detection_report(noisy != y, fitted.is_clean_, fitted.scores_)
    floors = {"knn": (0.99, 0.7), "loss": (0.99, 0.75)}
    floors["svd"] = (0.8, 0.3)  # flipped rows bend the subspace towards them
    auc, recall = floors.get(rule, (0.95, 0.55))
    assert report.auc > auc and report.recall > recall
