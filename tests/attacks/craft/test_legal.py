"""Radius, box and untouched rows of every attack that has a radius."""

import numpy as np
import pytest
from _instances import crafted, perturbations
from sklearn.base import clone

_SHAPES = {"table": (6,), "grey": (1, 6, 5), "colour": (3, 5, 6)}
_ATTACKS = [
    attack
    for attack in [*crafted(), *perturbations()]
    # a trigger is no perturbation: it may leave the ball
    if hasattr(attack, "eps") and type(attack).__name__ != "CleanLabelBackdoorAttack"
]


def _data(shape, dtype, seed=0):
    rng = np.random.RandomState(seed)
    X = rng.uniform(10, 245, (36, *shape))
    y = np.arange(36) % 3
    X = (X + 8 * y.reshape(-1, *[1] * len(shape))).clip(0, 255)
    return (X if dtype == "uint8" else X / 255).astype(dtype), y


@pytest.mark.parametrize("attack", _ATTACKS, ids=lambda a: repr(a)[:60].split("\n")[0])
@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_what_comes_back_is_inside_ball_and_box(attack, shape, dtype):
    attack = clone(attack).set_params(random_state=0)
    X, y = _data(_SHAPES[shape], dtype)
    unit = 255 if dtype == "uint8" else 1
    eps = 0.1 * unit if attack.norm == "linf" else 0.5 * unit
    for bounds in ("data", (0.0, 1.0 * unit)):
        attack.set_params(eps=eps, bounds=bounds)
        data = attack.poison(X, y)
        assert data.X.dtype == X.dtype and data.poison_mask.sum() > 0
        kept = ~data.poison_mask
        assert np.array_equal(data.X[kept], X[kept])
        low, high = (X.min(0), X.max(0)) if bounds == "data" else bounds
        assert (data.X >= low).all() and (data.X <= high).all()
        moved = (data.X.astype(float) - X).reshape(len(X), -1)
        length = np.abs(moved).max(1)
        if attack.norm == "l2":
            length = np.linalg.norm(moved, axis=1)
        # half an ulp of float32 in the addition; whole numbers are exact
        assert length.max() <= eps + (0 if dtype == "uint8" else 1e-6)
        assert length.max() > 0


def test_the_table_of_attacks_is_not_empty():
    assert len(_ATTACKS) >= 14
