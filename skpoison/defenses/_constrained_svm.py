"""The linear support vector machine of bounded norm, solved with a certificate."""

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import brentq


def constrained_svm(Z, weights, rho, *, tol=1e-6, max_iter=100):
    """Minimise a weighted sum of hinge losses over a ball, with a certificate.

    Newton's method on the barrier of ``sum_i weights_i s_i`` with ``s_i >= 0`` and
    ``s_i >= 1 - z_i . theta``, in which the s_i have a closed form; each quadratic
    model is minimised over the ball itself. The multipliers that a step forecasts are
    a point of the dual problem, and so certify how far the best model is at most.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_values)
        ``y * (x, 1)`` of each row.
    weights : ndarray of shape (n_rows,)
        Of the losses, above 0.
    rho : float
        Radius of the ball.
    tol : float
        Largest gap at which to stop, relative where the loss is above 1.
    max_iter : int

    Returns
    -------
    theta : ndarray of shape (n_values,)
    upper : float
        The loss of theta.
    lower : float
        What no theta of the ball can fall below: a value of the dual problem.
    """
    n_rows, n_values = Z.shape
    if n_values > n_rows:  # theta is a sum of rows, in coordinates of their span
        basis, rows = np.linalg.qr(Z.T)
        theta, upper, lower = constrained_svm(
            rows.T, weights, rho, tol=tol, max_iter=max_iter
        )
        return basis @ theta, upper, lower
    theta, losses = np.zeros(n_values), np.ones(n_rows)
    best, upper, lower = theta, weights.sum(), 0.0
    scale = 2 * n_rows / upper  # of the sum against the barrier
    for _ in range(max_iter):
        value, a, curvature = _barrier(losses, scale * weights)
        gradient, hessian = -a @ Z, (Z * curvature[:, None]).T @ Z
        step = _minimum_in_ball(hessian, hessian @ theta - gradient, rho) - theta
        change = Z @ step
        a = np.clip(a - curvature * change, 0.0, scale * weights)
        lower = max(lower, (a.sum() - rho * np.linalg.norm(a @ Z)) / scale)
        if upper - lower <= tol * max(1.0, upper):
            break
        if curvature @ change**2 < 0.1:
            scale *= 10
            continue
        fall, size = -gradient @ step, 1.0
        while size > 1e-12:  # smaller are rounding errors
            moved = losses - size * change
            if _barrier(moved, scale * weights)[0] <= value - 0.1 * size * fall:
                break
            size /= 2
        theta, losses = theta + size * step, moved
        loss = weights @ np.maximum(losses, 0.0)
        if loss < upper:
            best, upper = theta, loss
    return best, float(upper), float(lower)


def _minimum_in_ball(hessian, b, rho):
    """Minimise ``x . hessian x / 2 - b . x`` over the ball of radius rho."""
    values, axes = eigh(hessian)
    values = np.maximum(values, 1e-15 * values[-1])
    b = b @ axes

    def excess(multiplier):
        return np.linalg.norm(b / (values + multiplier)) - rho

    multiplier = 0.0
    if excess(0.0) > 0:
        multiplier = brentq(excess, 0.0, 2 * np.linalg.norm(b) / rho, xtol=1e-300)
    return axes @ (b / (values + multiplier))


def _barrier(losses, weights):
    """Minimise ``weights * s - log(s) - log(s - losses)`` over each s.

    Returns
    -------
    value : float
        The sum of the minima.
    slopes, curvatures : ndarray
        Their derivatives with respect to the losses.
    """
    half = abs(losses) / 2
    middle = (1 + np.sqrt(1 + (weights * half) ** 2)) / weights  # s - losses / 2
    product = 2 * middle / weights  # s (s - losses)
    far = middle + half  # the larger factor, and the smaller without cancellation
    near = product / far
    is_loss = losses > 0
    value = weights @ np.where(is_loss, far, near) - np.log(product).sum()
    slopes = np.where(is_loss, weights - 1 / far, 1 / far)
    return value, slopes, 1 / (far**2 + near**2)
