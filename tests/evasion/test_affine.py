"""The exact worst case of affine classifiers, against all corners and peers."""

import itertools

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, NonlinearConstraint, minimize

from skpoison.evasion._affine import has_closed_form, worst_case


def _problem(seed, n=12, d=6, K=4):
    rng = np.random.RandomState(seed)
    W, b = rng.normal(size=(K, d)), rng.normal(size=K)
    X = rng.uniform(0, 1, (n, d))
    return rng, W, b, X, rng.randint(K, size=n)


def _margin(W, b, X, y):
    """Return the largest lead of another class over y."""
    scores = X @ W.T + b
    own = scores[np.arange(len(y)), y].copy()
    scores[np.arange(len(y)), y] = -np.inf
    return scores.max(axis=1) - own


def _corners(x, eps, low, high):
    ends = zip(np.maximum(x - eps, low), np.minimum(x + eps, high), strict=True)
    return np.array(list(itertools.product(*ends)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize(
    "eps, low, high",
    [
        (0.2, -np.inf, np.inf),
        (0.3, 0.0, 1.0),
        (np.array([0.0, 0.1, 0.4, 1.0, 0.2, 0.3]), 0.0, 1.0),
        (0.3, np.zeros(6), np.array([np.inf, 1.0, 1.0, 1.0, 1.0, 1.0])),
        (np.inf, 0.0, 1.0),
    ],
    ids=["ball", "box", "eps by feature", "half box", "whole box"],
)
def test_linf_equals_the_best_of_all_corners(seed, K, eps, low, high):
    _, W, b, X, y = _problem(seed, K=K)
    y = y % K
    X_adv = worst_case(W, b, X, y, eps, low, high)
    found = _margin(W, b, X_adv, y)
    for i, x in enumerate(X):
        corners = _corners(x, eps, low, high)
        best = _margin(W, b, corners, np.full(len(corners), y[i])).max()
        assert found[i] == pytest.approx(best, abs=1e-12)
    assert X_adv.dtype == np.float64
    assert (X_adv >= np.maximum(X - eps, low)).all()
    assert (X_adv <= np.minimum(X + eps, high)).all()


def test_a_feature_without_influence_stays():
    _, W, b, X, y = _problem(0)
    W[:, 2] = 0.7
    X_adv = worst_case(W, b, X, y, 0.1, 0, 1)
    np.testing.assert_array_equal(X_adv[:, 2], X[:, 2])
    assert (X_adv[:, 3] != X[:, 3]).all()


def test_rows_keep_their_shape_and_type_is_float64():
    _, W, b, X, y = _problem(0)
    images = X.astype(np.float32).reshape(-1, 1, 2, 3)
    eps = np.full((1, 2, 3), 0.1)
    X_adv = worst_case(W, b, images, y, eps, np.zeros((1, 1, 1)), 1.0)
    assert X_adv.shape == images.shape and X_adv.dtype == np.float64
    flat = worst_case(W, b, images.reshape(-1, 6).astype(float), y, 0.1, 0, 1)
    np.testing.assert_array_equal(X_adv.reshape(-1, 6), flat)


def test_of_equal_margins_the_first_class_is_taken_as_argmax_does():
    W = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    X_adv = worst_case(W, np.zeros(3), np.zeros((1, 2)), np.array([1]), 0.5, -1, 1)
    np.testing.assert_array_equal(X_adv, [[0.5, 0.0]])


def test_rows_misread_already_stay_misread():
    _, W, b, X, _ = _problem(3)
    worst = (X @ W.T + b).argmin(axis=1)
    X_adv = worst_case(W, b, X, worst, 0.1, 0, 1)
    assert (_margin(W, b, X_adv, worst) >= _margin(W, b, X, worst)).all()


def test_no_radius_no_change():
    _, W, b, X, y = _problem(1)
    for norm in ("linf", "l2"):
        X_adv = worst_case(W, b, X, y, 0.0, 0, 1, norm)
        np.testing.assert_array_equal(X_adv, X)


@pytest.mark.parametrize("seed", range(3))
def test_l2_is_the_closed_form_of_the_best_rival(seed):
    _, W, b, X, y = _problem(seed)
    X_adv = worst_case(W, b, X, y, 0.4, -np.inf, np.inf, "l2")
    for x, own, x_adv in zip(X, y, X_adv, strict=True):
        rivals = [j for j in range(len(W)) if j != own]
        gains = [
            (W[j] - W[own]) @ x + b[j] - b[own] + 0.4 * np.linalg.norm(W[j] - W[own])
            for j in rivals
        ]
        step = W[rivals[np.argmax(gains)]] - W[own]
        np.testing.assert_allclose(x_adv - x, 0.4 * step / np.linalg.norm(step))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [0.3, 0.8, 3.0])
def test_l2_in_a_box_is_what_a_solver_finds(seed, eps):
    _, W, b, X, y = _problem(seed, n=4, K=3)
    X_adv = worst_case(W, b, X, y, eps, 0, 1, "l2")
    assert (np.linalg.norm(X_adv - X, axis=1) <= eps * (1 + 1e-12)).all()
    assert X_adv.min() >= 0 and X_adv.max() <= 1
    found = _margin(W, b, X_adv, y)
    for i, (x, own) in enumerate(zip(X, y, strict=True)):
        best = max(_solver_margin(W, b, x, own, j, eps) for j in range(3) if j != own)
        assert found[i] == pytest.approx(best, abs=1e-5)


def _solver_margin(W, b, x, own, rival, eps):
    step = W[rival] - W[own]
    solved = minimize(
        lambda z: -step @ z,
        x,
        jac=lambda z: -step,
        bounds=[(0, 1)] * len(x),
        constraints=NonlinearConstraint(
            lambda z: np.sum((z - x) ** 2), -np.inf, eps**2, jac=lambda z: 2 * (z - x)
        ),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return -solved.fun + b[rival] - b[own]


@pytest.mark.parametrize("seed", range(4))
def test_a_target_is_reached_wherever_it_can_be(seed):
    rng, W, b, X, y = _problem(seed, n=40)
    target = (y + 1 + rng.randint(3, size=40)) % 4
    X_adv = worst_case(W, b, X, y, 0.3, 0, 1, target=target)
    assert (np.abs(X_adv - X) <= 0.3 + 1e-12).all()
    assert X_adv.min() >= 0 and X_adv.max() <= 1
    hit = (X_adv @ W.T + b).argmax(axis=1) == target
    possible = [_target_margin(W, b, x, t) > 0 for x, t in zip(X, target, strict=True)]
    np.testing.assert_array_equal(hit, possible)
    assert 0 < hit.sum() < 40


def _target_margin(W, b, x, target):
    """Return the largest lowest margin by another solver, from several starts."""
    others = [j for j in range(len(W)) if j != target]
    ahead, lead = W[target] - W[others], b[target] - b[others]
    low, high = np.maximum(x - 0.3, 0), np.minimum(x + 0.3, 1)
    rows = np.column_stack([ahead, -np.ones(len(others))])
    solved = minimize(
        lambda z: -z[-1],
        np.append(x, (ahead @ x + lead).min()),
        jac=lambda z: np.append(np.zeros(len(x)), -1.0),
        bounds=[*zip(low, high, strict=True), (None, None)],
        constraints=LinearConstraint(rows, -lead, np.inf),
        method="SLSQP",
    )
    return solved.x[-1]


def test_some_targets_need_more_than_a_corner():
    # class 2 wins only where the first feature is between those of the others
    W = np.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0]])
    b = np.array([-0.4, -0.4, 0.0])
    X_adv = worst_case(
        W, b, np.array([[0.5, 0.0]]), np.array([0]), 0.6, -1, 1, target=2
    )
    assert (X_adv @ W.T + b).argmax() == 2
    assert abs(X_adv[0, 0]) < 0.25


def test_two_classes_have_one_target():
    _, W, b, X, y = _problem(0, K=2)
    y = y % 2
    for norm in ("linf", "l2"):
        np.testing.assert_array_equal(
            worst_case(W, b, X, y, 0.2, 0, 1, norm, target=1 - y),
            worst_case(W, b, X, y, 0.2, 0, 1, norm),
        )


def test_what_has_no_closed_form_is_refused():
    _, W, b, X, y = _problem(0)
    assert has_closed_form("linf", 4, targeted=True)
    assert has_closed_form("l2", 4) and has_closed_form("l2", 2, targeted=True)
    assert not has_closed_form("l2", 4, targeted=True)
    with pytest.raises(ValueError, match="no closed form"):
        worst_case(W, b, X, y, 0.2, 0, 1, "l2", target=y)
    with pytest.raises(ValueError, match="both be infinite"):
        worst_case(W, b, X, y, np.inf, 0, np.inf)


def test_memory_does_not_grow_with_the_number_of_classes():
    import tracemalloc

    rng = np.random.RandomState(0)
    W, b = rng.normal(size=(60, 400)), np.zeros(60)
    X, y = rng.uniform(size=(300, 400)), rng.randint(60, size=300)
    tracemalloc.start()
    worst_case(W, b, X, y, 0.05, 0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * X.nbytes  # rows times classes times features: 60
