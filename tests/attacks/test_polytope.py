"""Convex polytope and bullseye: the simplex problems, the objectives, what they win."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skpoison.attacks._craft._features import FeatureMap, Polytope, places_of
from skpoison.attacks._craft._members import stack
from skpoison.attacks._craft._simplex import project_simplex, simplex_least_squares
from skpoison.attacks._feature_collision import WatermarkAttack
from skpoison.attacks._polytope import BullseyePolytopeAttack, ConvexPolytopeAttack
from skpoison.models import ConvNet, TorchClassifier
from skpoison.utils import RandomStreams
from skpoison.utils.estimator_checks import check_attack

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = (X_DIGITS / 16).astype(np.float32)
X, Y = X_DIGITS[1000:1500], Y_DIGITS[1000:1500]
TARGETS, TRUE = X_DIGITS[1500:], Y_DIGITS[1500:]


@pytest.fixture(scope="module")
def net():
    net = TorchClassifier(max_epochs=20, device="cpu", random_state=0)
    return net.fit(X_DIGITS[:1000], Y_DIGITS[:1000])


def _feature_map(*nets, end_to_end=False, shape=(64,)):
    groups = stack([n.module_ for n in nets], shape, torch.device("cpu"))
    places = [places_of(g, end_to_end=end_to_end) for g in groups]
    return FeatureMap(groups, places, streams=RandomStreams(0))


# The simplex


def test_projection_on_the_simplex_equals_that_of_a_solver():
    rng = np.random.RandomState(0)
    v = rng.normal(size=(6, 5)) * np.array([0.1, 0.5, 1, 3, 10, 1])[:, None]
    v[5] = [0.2, 0.2, 0.2, 0.2, 0.2]
    found = project_simplex(torch.from_numpy(v)).numpy()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    for row, got in zip(v, found, strict=True):
        solved = minimize(
            lambda c, row=row: ((c - row) ** 2).sum(),
            np.full(5, 0.2),
            method="SLSQP",
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda c: c.sum() - 1},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(got, solved.x, atol=1e-6)


def test_least_squares_on_the_simplex_equals_a_quadratic_program():
    """The nearest point of a hull is a non-negative least squares problem."""
    rng = np.random.RandomState(0)
    points, aims = rng.normal(size=(4, 7, 12)), 0.3 * rng.normal(size=(4, 12))
    aims[0] = points[0].mean(0)  # inside the hull
    aims[1] = 5 * points[1, 2]  # beyond a corner
    P, a = torch.from_numpy(points), torch.from_numpy(aims)
    found = simplex_least_squares(
        P @ P.transpose(1, 2),
        torch.einsum("knd,kd->kn", P, a),
        torch.full((4, 7), 1 / 7, dtype=torch.float64),
        tol=1e-10,
    ).numpy()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-10)
    for c, hull, aim in zip(found, points, aims, strict=True):
        stacked = np.vstack([(hull - aim).T, np.ones(len(hull))])
        u, _ = nnls(stacked, np.append(np.zeros(len(aim)), 1.0))
        np.testing.assert_allclose(c @ hull, u / u.sum() @ hull, atol=1e-5)
    np.testing.assert_allclose(found[0], 1 / 7, atol=1e-6)


# The objectives


def test_objectives_by_hand(net):
    other = TorchClassifier(max_epochs=3, device="cpu", random_state=1)
    other.fit(X_DIGITS[:300], Y_DIGITS[:300])
    features = _feature_map(net, other)
    rows, views = torch.from_numpy(X[:6]), torch.from_numpy(TARGETS[:3])
    (there,), (aims,) = features.of(rows), features.of(views)
    there, aims = there.double().numpy(), aims.double().mean(1).numpy()
    sizes = np.linalg.norm(aims, axis=1)

    objective = Polytope(features, rows, features.of(views), centred=True)
    value, _ = objective(0 * rows, 0)
    apart = np.linalg.norm(there.mean(1) - aims, axis=1) / sizes
    assert float(value) == pytest.approx(apart.mean(), rel=1e-5)
    np.testing.assert_array_equal(objective.coefficients, 1 / 6)

    objective = Polytope(features, rows, features.of(views), centred=False)
    for _ in range(40):  # each call goes on from the last coefficients
        value, gradient = objective(0 * rows, 0)
    c = objective.coefficients.numpy()
    np.testing.assert_allclose(c.sum(1), 1, rtol=1e-9)
    points = np.einsum("kn,knd->kd", c, there)
    apart = np.linalg.norm(points - aims, axis=1) / sizes
    assert float(value) == pytest.approx((apart**2).mean() / 2, rel=1e-5)
    for k in range(2):
        stacked = np.vstack([(there[k] - aims[k]).T, np.ones(6)])
        u, _ = nnls(stacked, np.append(np.zeros(len(aims[k])), 1.0))
        best = np.linalg.norm(u / u.sum() @ there[k] - aims[k])
        assert np.linalg.norm(points[k] - aims[k]) <= best * (1 + 1e-3)
    unused = (c == 0).all(0)
    assert (gradient[unused] == 0).all() and (gradient[~unused] != 0).any()


def test_end_to_end_sums_over_layers_with_coefficients_of_their_own():
    rows = X[:30].reshape(-1, 1, 8, 8)
    conv = TorchClassifier(ConvNet, max_epochs=1, device="cpu", random_state=0)
    conv.fit(rows, Y[:30])
    x, aim = torch.from_numpy(rows[:4]), torch.from_numpy(rows[10:11])
    whole = _feature_map(conv, end_to_end=True, shape=(1, 8, 8))
    objective = Polytope(whole, x, whole.of(aim), centred=False)
    value, _ = objective(0 * x, 0)
    assert objective.coefficients.shape == (3, 4)
    total = 0.0
    for place in whole.places[0]:
        one = FeatureMap(whole.groups, [[place]], streams=RandomStreams(0))
        total += float(Polytope(one, x, one.of(aim), centred=False)(0 * x, 0)[0])
    assert float(value) == pytest.approx(total, rel=1e-4)


# Parameters


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"end_to_end": 1}, TypeError, "end_to_end must be a bool"),
        ({"end_to_end": True, "layer": "a"}, ValueError, "layer='a' names one layer"),
        ({"target_labels": [8, 9]}, ValueError, "target_labels must be one label"),
        ({"optimizer": "fbs"}, ValueError, "optimizer must be one of"),
    ],
)
def test_bad_parameters(params, error, message):
    attack = BullseyePolytopeAttack(TARGETS[:2], 8).set_params(**params)
    with pytest.raises(error, match=message):
        attack.fit(X, Y)


def test_unknown_layer_is_named(net):
    attack = BullseyePolytopeAttack(
        TARGETS[:1], 8, layer="tail", surrogate=FrozenEstimator(net), device="cpu"
    )
    with pytest.raises(ValueError, match="layer='tail' is no module"):
        attack.fit(X, Y)


@pytest.mark.slow
def test_attack_checks():
    common = {
        "surrogate": TorchClassifier(max_epochs=1, device="cpu"),
        "budget": 0.2,
        "max_iter": 2,
        "device": "cpu",
    }
    # from "zero" poisons with coefficients of 0 would stay where they are
    check_attack(ConvexPolytopeAttack(init="randn", **common))
    check_attack(BullseyePolytopeAttack(end_to_end=True, **common))


# What they do


@pytest.mark.parametrize("cls", [ConvexPolytopeAttack, BullseyePolytopeAttack])
def test_pixels_stay_whole_and_in_the_ball(net, cls):
    pixels = (255 * X_DIGITS).astype(np.uint8)
    attack = cls(
        pixels[1500:1501], 8, budget=5, surrogate=FrozenEstimator(net), max_iter=20,
        device="cpu", random_state=0,
    )  # fmt: skip
    out = attack.fit_transform(pixels[1000:1500], Y)
    moved = np.abs(out.astype(int) - pixels[1000:1500])
    assert out.dtype == np.uint8 and moved.max() == 16
    np.testing.assert_allclose(attack.coefficients_.sum(1), 1, rtol=1e-6)
    assert attack.loss_curve_[-1] < attack.loss_curve_[0]


def test_networks_of_several_kinds_have_coefficients_of_their_own(net):
    other = TorchClassifier(module__hidden=(32,), max_epochs=2, device="cpu")
    other.fit(X_DIGITS[:300], Y_DIGITS[:300])
    attack = ConvexPolytopeAttack(
        TARGETS[:1], 8, budget=5, eps=0.2, n_ensemble=2, max_iter=20, device="cpu",
        surrogate=[FrozenEstimator(net), FrozenEstimator(other)], random_state=0,
    ).fit(X, Y)  # fmt: skip
    assert attack.coefficients_.shape == (2, 5)
    np.testing.assert_allclose(attack.coefficients_.sum(1), 1, rtol=1e-6)
    assert abs(attack.coefficients_[0] - attack.coefficients_[1]).max() > 1e-3
    assert attack.loss_curve_[-1] < attack.loss_curve_[0]


@pytest.mark.slow
def test_five_poisons_win_targets_that_the_controls_do_not(net):
    features = _feature_map(net)

    def of(rows):
        return features.of(torch.from_numpy(rows))[0][0].numpy()

    clean = LogisticRegression(max_iter=1000).fit(of(X), Y)
    right = np.flatnonzero(clean.predict(of(TARGETS)) == TRUE)[:6]
    scores = clean.decision_function(of(TARGETS[right]))
    scores[np.arange(6), TRUE[right]] = -np.inf
    common = {"budget": 5, "eps": 0.3, "random_state": 0}
    crafted = {"surrogate": FrozenEstimator(net), "max_iter": 50, "device": "cpu"}
    attacks = {
        "watermark": WatermarkAttack(**common),
        "polytope": ConvexPolytopeAttack(**common, **crafted),
        "bullseye": BullseyePolytopeAttack(**common, **crafted),
    }
    won = dict.fromkeys(attacks, 0)
    for name, attack in attacks.items():
        for i, wish in zip(right, scores.argmax(1), strict=True):
            attack.set_params(targets=TARGETS[i : i + 1], target_labels=wish)
            victim = LogisticRegression(max_iter=1000)
            victim.fit(of(attack.fit_transform(X, Y)), Y)
            won[name] += int(victim.predict(of(TARGETS[i : i + 1]))[0] == wish)
    assert won["bullseye"] >= won["polytope"] >= won["watermark"], won
    assert won["bullseye"] >= won["watermark"] + 2, won
