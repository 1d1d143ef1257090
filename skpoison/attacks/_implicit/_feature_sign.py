"""Feature-sign search: a quadratic with an l1 penalty, minimised exactly."""

import numpy as np

from skpoison.attacks._implicit._inverses import Cholesky, Pseudo

_EPS = np.finfo(float).eps


def feature_sign_step(X, weight, start, gradient, l1, l2, penalised):
    """Minimise ``sum_i weight_i (X_i s)^2 / 2 + gradient s`` + penalties over steps s.

    The penalties are ``l2 s^2 / 2 + l1 |start + s|``; `penalised` tells that there is
    an l2. Coefficients keep their signs while the quadratic is solved for them, cross
    zero by a search over the crossings, and join where the gradient exceeds their l1
    (Lee et al. 2006). The value falls with every round, so the signs never come back
    and the search ends with the exact solution.
    """
    b, grad, settled = start.copy(), gradient, False
    root = X * np.sqrt(weight)[:, None]
    for _ in range(50 + 20 * len(b)):
        sign = np.sign(b)
        active = (sign != 0) | (l1 == 0)
        new = np.zeros(len(b), dtype=bool)
        if settled or not active.any():
            excess = np.where(active, 0.0, np.abs(grad) - l1)
            if not excess.max() > 1e-10 * l1.max():
                break
            new = excess >= 0.5 * excess.max()
            sign[new] = -np.sign(grad[new])
            active |= new
        rows = np.flatnonzero(active)
        while True:
            pull = -(grad[rows] + l1[rows] * sign[rows])
            part = root[:, rows]
            hessian = part.T @ part + np.diag(l2[rows])
            inverse = Cholesky.of(hessian, None if penalised else 10 * len(rows) * _EPS)
            flat = False
            if inverse is None:
                inverse = Pseudo.of(hessian)
                loose = pull - inverse.project(pull)
                flat = np.abs(loose).max() > 1e-8 * np.abs(pull).max()
            step = loose if flat else inverse.solve(pull)
            wrong = new[rows] & (step * sign[rows] <= 0)
            if not wrong.any():
                break
            rows = rows[~wrong]
        if not len(rows):
            break
        b, settled = _cross(b, rows, step, grad, hessian, l1, flat)
        shift = b - start
        grad = gradient + root.T @ (root @ shift) + l2 * shift
    return b - start


def _cross(b, rows, step, grad, hessian, l1, flat):
    """Move `b` along `step` to the best of its end and the crossings of zero.

    A `flat` direction has no end. Also return whether the signs survived the full step.
    """
    b = b.copy()
    old = b[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(old * step < 0, -old / step, np.inf)
    at[l1[rows] == 0] = np.inf
    inside = at < (np.inf if flat else 1.0)
    if not inside.any():
        if not flat:
            b[rows] += step
        return b, True
    lengths = at[inside] if flat else np.append(at[inside], 1.0)
    values = lengths * (grad[rows] @ step) + 0.5 * lengths**2 * (step @ hessian @ step)
    values += np.abs(old + lengths[:, None] * step) @ l1[rows]
    length = lengths[values.argmin()]
    b[rows] += length * step
    b[rows[at == length]] = 0.0
    return b, False
