import pickle
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC

from skpoison.attacks import BilevelPoisoningAttack
from skpoison.defenses import DataSanitizer, SanitizedSVMBound
from skpoison.defenses._constrained_svm import constrained_svm
from skpoison.defenses._feasible_set import FeasibleSet
from skpoison.defenses._sanitized_svm import herd

EPSILONS = (0.0, 0.03, 0.1, 0.3)


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    rows = np.random.default_rng(1).permutation(len(X))[:400]
    return scale(X)[rows] / 30**0.5, y[rows]


def ones_and_sevens():
    X, y = load_digits(return_X_y=True)
    X, y = X[np.isin(y, [1, 7])] / 16, y[np.isin(y, [1, 7])]
    return X, y


@pytest.fixture(scope="module")
def fitted():
    return SanitizedSVMBound(EPSILONS).fit(*cancer())


@pytest.fixture(scope="module")
def small():
    X, y = make_blobs(60, centers=[[-1, 0], [1, 0.5]], random_state=0)
    return X, y


def signed(X, y):
    """Rows z = y (x, 1) for labels 0 and 1."""
    return np.column_stack([X, np.ones(len(X))]) * (2.0 * np.asarray(y) - 1)[:, None]


def learner_loss(X, y, X_poison, y_poison, rho_sq):
    """The functional that is bounded, from above: the loss of a model of the ball."""
    rows = np.vstack([signed(X, y), signed(X_poison, y_poison)])
    weights = np.full(len(rows), 1 / len(X))
    theta, upper, _ = constrained_svm(rows, weights, rho_sq**0.5, tol=1e-7)
    assert np.linalg.norm(theta) <= rho_sq**0.5 * (1 + 1e-12)
    assert upper == pytest.approx(weights @ np.maximum(1 - rows @ theta, 0))
    return upper


# ------------------------------------------------------------------------- contract


def test_same_result_twice_with_strings_and_after_pickle(small):
    X, y = small
    X_before = X.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    bound = SanitizedSVMBound(max_iter=500).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(X, X_before)
    names = np.array(["ham", "spam"])
    named = clone(bound).fit(X, names[y])
    for again in (named, clone(bound).fit(X, y), pickle.loads(pickle.dumps(bound))):
        np.testing.assert_array_equal(again.bounds_, bound.bounds_)
        np.testing.assert_array_equal(again.coefs_, bound.coefs_)
        for a, b in zip(again.X_attack_, bound.X_attack_, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(named.y_attack_[-1], names[bound.y_attack_[-1]])
    np.testing.assert_array_equal(named.predict(X), names[bound.predict(X)])


@pytest.mark.slow
def test_layout(fitted):
    X, y = cancer()
    assert [len(rows) for rows in fitted.X_attack_] == [0, 12, 40, 120]
    assert [len(rows) for rows in fitted.y_attack_] == [0, 12, 40, 120]
    assert {rows.shape[1] for rows in fitted.X_attack_} == {30}
    np.testing.assert_array_equal(fitted.epsilons_, EPSILONS)
    np.testing.assert_array_equal(fitted.gaps_, fitted.bounds_ - fitted.attack_losses_)
    np.testing.assert_array_equal(fitted.coef_[0], fitted.coefs_[-1])
    norms = (fitted.coefs_**2).sum(axis=1) + fitted.intercepts_**2
    assert (norms <= 25 * (1 + 1e-12)).all()
    values = X @ fitted.coef_[0] + fitted.intercept_[0]
    np.testing.assert_allclose(fitted.decision_function(X), values)
    np.testing.assert_array_equal(fitted.predict(X), (values > 0).astype(int))
    assert fitted.score(X, y) > 0.9 and fitted.n_iter_ == 3000
    shuffled = SanitizedSVMBound((0.3, 0.0), max_iter=400).fit(X, y)
    np.testing.assert_array_equal(shuffled.coef_[0], shuffled.coefs_[0])


@pytest.mark.slow
def test_no_warning_and_a_search(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = GridSearchCV(
            SanitizedSVMBound((0.0, 0.05), max_iter=200, burn_in=50),
            {"rho_sq": [1e-4, 4.0], "rule": ["sphere", "sphere+slab"]},
            cv=3,
        ).fit(*small)
    assert search.best_score_ > 0.8


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"epsilons": ()}, "epsilons must be a non-empty"),
        ({"epsilons": 0.1}, "epsilons must be a non-empty"),
        ({"epsilons": (0.1, -0.1)}, "epsilons must be >= 0"),
        ({"rule": "slab"}, "a slab alone lets unbounded rows pass"),
        ({"rule": "knn"}, "rule must be"),
        ({"percentile": 101}, "percentile must be"),
        ({"rho_sq": 0.0}, "rho_sq must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"max_iter": 300}, "burn_in must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"oracle_stats": (np.zeros((2, 2)), None, None)}, "needs the radii"),
        ({"oracle_stats": (np.zeros((2, 2)), [1, 1], None)}, "needs the radii"),
        ({"oracle_stats": (np.zeros((3, 2)), [1, 1], [1, 1])}, "shape"),
    ],
)
def test_bad_parameters(small, params, match):
    with pytest.raises(ValueError, match=match):
        SanitizedSVMBound(**params).fit(*small)


def test_labels_of_two_classes_only(small):
    X, y = small
    with pytest.raises(ValueError, match="Only binary classification is supported"):
        SanitizedSVMBound().fit(X, np.arange(60) % 3)
    with pytest.raises(ValueError, match="got 1 class"):
        SanitizedSVMBound().fit(X, np.zeros(60))
    with pytest.raises(ValueError, match=r"features up to 1e\+100, got .*e\+120"):
        SanitizedSVMBound().fit(X * 1e120, y)


# ------------------------------------------------------ the maximum, in closed form


def random_set(rng, n_features, slab):
    centers = rng.randn(2, n_features)
    widths = rng.uniform(0.01, 3, 2) if slab else None
    return FeasibleSet(centers, rng.uniform(0.2, 2, 2), widths), centers, widths


def is_inside(x, label, feasible, centers, widths, slack=1e-9):
    offset = x - centers[label]
    inside = np.linalg.norm(offset, axis=-1) <= feasible.radii[label] + slack
    if widths is not None:
        inside &= abs(offset @ (centers[1] - centers[0])) <= widths[label] + slack
    return inside


@pytest.mark.parametrize("slab", [False, True])
@pytest.mark.parametrize("n_features", [2, 5])
def test_maximum_against_a_solver(n_features, slab):
    rng = np.random.RandomState(0)
    for _ in range(12):
        feasible, centers, widths = random_set(rng, n_features, slab)
        u, label = rng.randn(n_features), rng.randint(2)
        x = feasible.farthest(u[None], label)[0]
        assert is_inside(x, label, feasible, centers, widths)
        center, radius = centers[label], feasible.radii[label]
        limits = [
            {
                "type": "ineq",
                "fun": lambda x, c=center, r=radius: r**2 - (x - c) @ (x - c),
            }
        ]
        if slab:
            v = centers[1] - centers[0]
            for sign in (1, -1):
                limits.append(
                    {
                        "type": "ineq",
                        "fun": lambda x, c=center, v=v, s=sign, w=widths[label]: (
                            w - s * v @ (x - c)
                        ),
                    }
                )
        solution = minimize(
            lambda x, u=u: -u @ x,
            center,
            jac=lambda x, u=u: -u,
            constraints=limits,
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert is_inside(solution.x, label, feasible, centers, widths, 1e-6)
        assert u @ x == pytest.approx(-solution.fun, abs=1e-6)


@pytest.mark.parametrize("slab", [False, True])
def test_maximum_against_a_dense_grid(slab):
    rng = np.random.RandomState(1)
    for _ in range(6):
        feasible, centers, widths = random_set(rng, 2, slab)
        u, label = rng.randn(2), rng.randint(2)
        axis = np.linspace(-1, 1, 401) * feasible.radii[label]
        grid = centers[label] + np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        inside = is_inside(grid, label, feasible, centers, widths, 0)
        best = (grid[inside] @ u).max()
        value = u @ feasible.farthest(u[None], label)[0]
        step = (axis[1] - axis[0]) * 2 * np.abs(u).sum()
        assert best <= value + 1e-9 and value <= best + 2 * step


def test_maximum_in_special_positions():
    centers = np.array([[0.0, 0.0], [2.0, 0.0]])
    feasible = FeasibleSet(centers, np.array([1.0, 1.0]), np.array([1.0, 8.0]))
    # along the slab's direction: |2 t| <= 1
    np.testing.assert_allclose(
        feasible.farthest(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0]]), 0),
        [[0.5, 0], [-0.5, 0], [0, 0]],
    )
    # a slab wider than the sphere is none
    np.testing.assert_allclose(feasible.farthest(np.array([[2.0, 0.0]]), 1), [[3, 0]])
    # centres that coincide span no slab
    same = FeasibleSet(np.zeros((2, 2)), np.ones(2), np.zeros(2))
    np.testing.assert_allclose(same.farthest(np.array([[3.0, 4.0]]), 0), [[0.6, 0.8]])
    # across the slab nothing is left of u but rounding, which must not become a step
    rng = np.random.RandomState(0)
    for _ in range(50):
        feasible, centers, widths = random_set(rng, 3, slab=True)
        u = rng.randn() * (centers[1] - centers[0])
        for label in range(2):
            x = feasible.farthest(u[None], label)[0]
            assert is_inside(x, label, feasible, centers, widths)


def test_worst_point_is_the_worse_of_both_labels(fitted):
    feasible = FeasibleSet(*fitted.oracle_stats_)
    rng = np.random.RandomState(0)
    theta = rng.randn(8, 31)
    z, losses = feasible.worst(theta)
    for model, row, loss in zip(theta, z, losses, strict=True):
        assert loss == pytest.approx(max(0, 1 - row @ model))
        label = int(row[-1] > 0)
        both = []
        for k, sign in enumerate((-1, 1)):
            x = feasible.farthest(-sign * model[None, :-1], k)[0]
            both.append(1 - sign * (x @ model[:-1] + model[-1]))
        assert loss == pytest.approx(max(0, *both))
        assert int(both[1] > both[0]) == label


# ---------------------------------------------------- the learner, and the selection


def test_learner_against_a_general_solver(small):
    X, y = small
    Z = signed(X, y)
    for rho in (0.3, 1.0, 10.0):
        weights = np.random.RandomState(0).rand(60)
        theta, upper, lower = constrained_svm(Z, weights, rho)
        assert 0 <= upper - lower <= 1e-6 * max(1, upper)

        cost = np.concatenate([np.zeros(3), weights])
        solution = minimize(
            lambda v, cost=cost: cost @ v,
            np.concatenate([np.zeros(3), np.ones(60)]),
            jac=lambda v, cost=cost: cost,
            bounds=[(None, None)] * 3 + [(0, None)] * 60,
            constraints=[
                {"type": "ineq", "fun": lambda v: v[3:] - 1 + Z @ v[:3]},
                {"type": "ineq", "fun": lambda v, rho=rho: rho**2 - v[:3] @ v[:3]},
            ],
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-11},
        )
        assert solution.success
        assert lower - 1e-6 <= solution.fun
        assert upper == pytest.approx(solution.fun, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(60, 3), (12, 40)])
def test_learner_of_any_scale_and_shape(scale, shape):
    rng = np.random.RandomState(0)
    Z, weights = rng.randn(*shape) * scale + scale, rng.rand(shape[0])
    Z *= rng.choice([-1, 1], shape[0])[:, None]
    for rho in (0.3, 5.0):
        theta, upper, lower = constrained_svm(Z, weights, rho / scale)
        assert np.linalg.norm(theta) <= rho / scale * (1 + 1e-12)
        assert upper == pytest.approx(weights @ np.maximum(1 - Z @ theta, 0))
        assert 0 <= upper - lower <= 1e-6 * max(1, upper)
        for _ in range(200):  # nobody is below the certificate
            other = theta + rng.randn(shape[1]) * 0.1 * rho / scale
            other *= min(1, rho / scale / np.linalg.norm(other))
            assert weights @ np.maximum(1 - Z @ other, 0) >= lower


def test_learner_agrees_with_liblinear(fitted):
    X, y = cancer()
    svm = LinearSVC(C=1.0, loss="hinge", tol=1e-8, max_iter=10**6).fit(X, y)
    theta = np.append(svm.coef_, svm.intercept_)
    weights = np.full(400, 1 / 400)
    loss = weights @ np.maximum(1 - signed(X, y) @ theta, 0)
    _, upper, lower = constrained_svm(signed(X, y), weights, np.linalg.norm(theta))
    assert lower <= loss and upper == pytest.approx(loss, abs=2e-6)


def test_herding_keeps_the_mean():
    points = np.random.RandomState(0).randn(500, 4)
    for n_points in (1, 10, 60):
        chosen = herd(points, n_points)
        assert len(np.unique(chosen, axis=0)) == n_points
        assert (
            np.linalg.norm(chosen.mean(axis=0) - points.mean(axis=0)) < 1.0 / n_points
        )
    assert herd(points, 0).shape == (0, 4)
    np.testing.assert_array_equal(herd(points, 1000), np.tile(points, (2, 1)))
    more = herd(points, 503)
    np.testing.assert_array_equal(more[:500], points)


# ------------------------------------------------------------------------- the bound


def test_figures_of_breast_cancer(fitted):
    np.testing.assert_allclose(
        fitted.bounds_, [0.0820, 0.1414, 0.1733, 0.2093], atol=1e-3
    )
    assert (fitted.gaps_ >= 0).all()
    assert (fitted.gaps_ <= [1e-5, 1e-3, 1e-3, 1e-3]).all()
    assert (np.diff(fitted.bounds_) >= 0).all()  # concave and rising
    slopes = np.diff(fitted.bounds_) / np.diff(fitted.epsilons_)
    assert (np.diff(slopes) <= 0).all()


@pytest.mark.slow
def test_figures_of_digits():
    # separable: what is left to the attacker does not grow with his budget
    bound = SanitizedSVMBound(EPSILONS, rho_sq=4.0).fit(*ones_and_sevens())
    assert bound.bounds_[0] < 0.01 and bound.bounds_[-1] < 0.02
    assert np.ptp(bound.bounds_[1:]) < 1e-3 and (bound.gaps_ < 1e-4).all()
    assert bound.score(*ones_and_sevens()) == 1.0


@pytest.mark.parametrize("rule", ["sphere", "sphere+slab"])
def test_attacks_are_feasible_and_cause_what_they_claim(rule):
    X, y = cancer()
    bound = SanitizedSVMBound(EPSILONS, rule=rule, max_iter=1000).fit(X, y)
    for X_attack, y_attack, loss, limit in zip(
        bound.X_attack_,
        bound.y_attack_,
        bound.attack_losses_,
        bound.bounds_,
        strict=True,
    ):
        reached = learner_loss(X, y, X_attack, y_attack, 25.0)
        assert loss - 1e-6 <= reached <= limit + 1e-6
        assert reached <= loss + 2e-6
        if len(X_attack) == 0:
            continue
        # the sanitizer itself lets every row pass
        sanitizer = DataSanitizer(rule, oracle_stats=bound.oracle_stats_)
        sanitizer.fit(np.vstack([X, X_attack]), np.append(y, y_attack))
        assert sanitizer.is_clean_[400:].all()
        assert 0.3 < sanitizer.is_clean_[:400].mean() < 0.75


def test_bound_is_attained_by_its_model(fitted):
    X, y = cancer()
    feasible = FeasibleSet(*fitted.oracle_stats_)
    theta = np.column_stack([fitted.coefs_, fitted.intercepts_])
    clean = np.maximum(1 - signed(X, y) @ theta.T, 0).mean(axis=0)
    _, worst = feasible.worst(theta)
    np.testing.assert_allclose(clean + EPSILONS * worst, fitted.bounds_)


def into_set(X, y, stats):
    """Move rows into the feasible set of their label."""
    centers, radii, widths = stats
    direction = centers[1] - centers[0]
    length = np.linalg.norm(direction)
    direction = direction / length
    offset = X - centers[y]
    along = np.clip(offset @ direction, -widths[y] / length, widths[y] / length)
    along = np.clip(along, -radii[y], radii[y])
    across = offset - (offset @ direction)[:, None] * direction
    room = np.sqrt(radii[y] ** 2 - along**2)
    norms = np.maximum(np.linalg.norm(across, axis=1), 1e-12)
    across *= np.minimum(1, room / norms)[:, None]
    return centers[y] + along[:, None] * direction + across


def random_points(X, y, n_rows, stats, rng):
    labels = rng.randint(0, 2, n_rows)
    return into_set(rng.randn(n_rows, X.shape[1]) * 3, labels, stats), labels


def flipped_rows(X, y, n_rows, stats, rng):
    centers, radii, widths = stats
    flipped = 1 - y
    inside = np.linalg.norm(into_set(X, flipped, stats) - X, axis=1) < 1e-9
    rows = np.flatnonzero(inside)
    if len(rows) == 0:  # then the nearest that pass
        rows = np.arange(len(X))
    rows = rng.choice(rows, n_rows)
    return into_set(X[rows], flipped[rows], stats), flipped[rows]


def greedy_points(X, y, n_rows, stats, rng):
    """A third of the rows at a time, each the worst for the model trained so far."""
    feasible = FeasibleSet(*stats)
    poisons = np.empty((0, X.shape[1] + 1))
    for n_new in np.diff(np.linspace(0, n_rows, 4).astype(int)):
        rows = np.vstack([signed(X, y), poisons])
        theta, _, _ = constrained_svm(rows, np.full(len(rows), 1 / len(X)), 5.0)
        z, _ = feasible.worst(theta[None])
        poisons = np.vstack([poisons, np.repeat(z, n_new, axis=0)])
    signs = poisons[:, -1:]
    return poisons[:, :-1] * signs, (signs[:, 0] > 0).astype(int)


def far_corners(X, y, n_rows, stats, rng):
    """The points of one label that are farthest along the slab's border."""
    label = int(rng.randint(2))
    labels = np.full(n_rows, label)
    u = (1 - 2 * label) * (stats[0][1] - stats[0][0])
    return FeasibleSet(*stats).farthest(np.tile(u, (n_rows, 1)), label), labels


def bilevel(X, y, n_rows, stats, rng):
    attack = BilevelPoisoningAttack(
        LinearSVC(C=1.0, max_iter=10**5),
        budget=n_rows,
        max_iter=15,
        bounds=(X.min() - 1, X.max() + 1),
        random_state=rng.randint(1000),
    )
    data = attack.poison(X, y)
    added = data.poison_mask
    return into_set(data.X[added], data.y[added], stats), data.y[added]


@pytest.mark.parametrize(
    "attack", [random_points, flipped_rows, greedy_points, far_corners, bilevel]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_attack_passes_the_bound(fitted, attack):
    X, y = cancer()
    stats = fitted.oracle_stats_
    rng = np.random.RandomState(0)
    for k, epsilon in enumerate(EPSILONS[1:], 1):
        n_rows = int(epsilon * len(X))
        X_poison, y_poison = attack(X, y, n_rows, stats, rng)
        assert len(X_poison) == n_rows
        assert (
            np.linalg.norm(X_poison - stats[0][y_poison], axis=1)
            <= stats[1][y_poison] + 1e-9
        ).all()
        loss = learner_loss(X, y, X_poison, y_poison, 25.0)
        assert loss <= fitted.bounds_[k] + 1e-6
        # and the returned one is the worst of them all
        assert loss <= fitted.attack_losses_[k] + 1e-3


def test_bound_in_one_dimension_by_brute_force():
    # every multiset of poisons on a grid of the feasible set, both labels
    X = np.array([[-1.0], [-0.8], [-0.2], [0.1], [0.5], [0.9]])
    y = np.array([0, 0, 0, 1, 1, 1])
    bound = SanitizedSVMBound((1 / 3,), percentile=100, rho_sq=4.0).fit(X, y)
    centers, radii, widths = bound.oracle_stats_
    reach = np.minimum(radii, widths / np.ptp(centers))
    points = [
        (c + t, k)
        for k, c in enumerate(centers[:, 0])
        for t in np.linspace(-reach[k], reach[k], 5)
    ]
    worst = 0
    for i, (a, k) in enumerate(points):
        for b, m in points[i:]:
            loss = learner_loss(X, y, np.array([[a], [b]]), [k, m], 4.0)
            worst = max(worst, loss)
            assert loss <= bound.bounds_[0] + 1e-6
    assert worst > 0.98 * bound.bounds_[0]


def test_certificate_is_lost_outside_the_set(fitted):
    # the bound is no accident of the learner: one that admits all is hurt more
    X, y = cancer()
    far = np.repeat(X[y == 1].mean(axis=0)[None] * 20, 120, axis=0)
    assert learner_loss(X, y, far, np.zeros(120, int), 25.0) > fitted.bounds_[-1] + 0.05


def test_given_statistics_are_used(small):
    X, y = small
    own = SanitizedSVMBound(max_iter=500).fit(X, y)
    given = SanitizedSVMBound(max_iter=500, oracle_stats=own.oracle_stats_).fit(X, y)
    np.testing.assert_array_equal(given.bounds_, own.bounds_)
    for k in range(2):
        values = np.linalg.norm(X[y == k] - X[y == k].mean(axis=0), axis=1)
        assert own.oracle_stats_[1][k] == pytest.approx(np.percentile(values, 70))
    centers, radii, widths = own.oracle_stats_
    wide = SanitizedSVMBound(
        max_iter=500, oracle_stats=(centers, 2 * radii, 2 * widths)
    )
    assert (wide.fit(X, y).bounds_[2:] > own.bounds_[2:] + 0.01).all()


@pytest.mark.parametrize("rule", ["sphere", "sphere+slab"])
def test_degenerate_data(rule):
    rng = np.random.RandomState(0)
    cases = {
        "two rows": (rng.randn(2, 3), [0, 1]),
        "rare class": (rng.randn(30, 3), np.r_[0, np.ones(29, int)]),
        "all rows equal": (np.ones((20, 3)), np.arange(20) % 2),
        "constant": (np.column_stack([rng.randn(20), np.ones(20)]), np.arange(20) % 2),
        "zeros": (np.zeros((20, 3)), np.arange(20) % 2),
    }
    for name, (X, y) in cases.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bound = SanitizedSVMBound(rule=rule, max_iter=400).fit(X, y)
        assert np.isfinite(bound.bounds_).all() and (bound.gaps_ > -1e-9).all(), name
        assert all(np.isfinite(rows).all() for rows in bound.X_attack_), name
