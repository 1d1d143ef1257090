"""The best linear model of a data set, without a penalty."""

import inspect
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch
from torch import nn

from skpoison.models._given import Model
from skpoison.utils._validation import check_number

# singular values of the standardised features below this share of the largest are 0
_RANK_TOLERANCE = 1e-9
# of the gradient by whitened features: what is left of it where the minimum is at
# infinity, when every other part has long vanished
_VANISHING = 1e-10
_ENDLESS_STEPS = 20  # each divides the gradient by e: from 1e-10 down to rounding
_MARGIN_TOLERANCE = 1e-9  # of a step, relative to the largest change of a score
_REMEDY = "use fewer features, such as PCA(n_components=8), or more rows"


def linear_minimum(X, y, *, criterion="auto", tol=1e-8, max_iter=200):
    """Fit the affine model of least training loss, without any penalty.

    Multinomial logistic regression for labels, least squares for numbers. This is the
    minimum that :func:`construct_suboptimal_minimum` hides in a deep network [1]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Rows are flattened; pixels of type uint8 are divided by 255, as networks take
        them.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels, or numbers to regress on.
    criterion : "auto" or torch loss, default="auto"
        ``torch.nn.CrossEntropyLoss`` or ``torch.nn.MSELoss``, the class or an instance
        without options. "auto" is the squared error for y of floats, the cross entropy
        for any other y.
    tol : float, default=1e-8
        Largest norm of the gradient by coefficients and intercepts. Newton's method
        converges quadratically, so that a smaller one costs a step or two.
    max_iter : int, default=200
        Newton steps at most; data of which a minimum exists take about ten.

    Returns
    -------
    found : Bunch
        With the entries

        - ``coef``: ndarray of shape (n_outputs, n_features);
        - ``intercept``: ndarray of shape (n_outputs,);
        - ``loss``: float, the mean over rows, and over outputs where the error is
          squared;
        - ``grad_norm``: float;
        - ``n_iter``: int;
        - ``classes``: ndarray of shape (n_outputs,), labels in the order of the
          outputs, or None for numbers.

    Raises
    ------
    ValueError
        A class can be separated from the others by a hyperplane, at least weakly: the
        loss then falls towards its infimum along a ray and has no minimum. Or the
        overlap is too small for float64 to tell.

    Warns
    -----
    ConvergenceWarning
        The gradient stays above `tol`.

    Notes
    -----
    Minimised over A and b, with n rows x_i::

        1/n sum_i [ log sum_c exp(a_c x_i + b_c) - (a_{y_i} x_i + b_{y_i}) ]

    Newton's equations are solved by conjugate gradients in features that are whitened
    first. Adding the same row to every a_c, or a direction in which the features do not
    vary, changes nothing: of these solutions it is the one whose classes sum to zero
    and that is shortest in standardised features.

    A minimum exists unless some direction raises or keeps the margins of all rows [2]_.
    Where one exists, Newton steps become small. Where none does, each moves scores by 1
    or more, however small the gradient has become, and turns into such a direction. It
    is one if it lowers no margin by more than 1e-9 of the largest change of a score.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.
    .. [2] A. Albert and J. Anderson. On the existence of maximum likelihood estimates
       in logistic regression models. Biometrika 71, 1984.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from skpoison.landscape import linear_minimum
    >>> X, y = load_digits(return_X_y=True)
    >>> X = PCA(8, whiten=True, random_state=0).fit_transform(X)
    >>> found = linear_minimum(X, y)
    >>> found.coef.shape, round(found.loss, 3), found.grad_norm < 1e-8
    ((10, 8), 0.242, True)
    """
    rows = Model(nn.Identity()).rows(X).flatten(1).double().numpy()
    y = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if y.ndim not in (1, 2) or len(y) != len(rows):
        raise ValueError(
            f"y must have one entry for each of the {len(rows)} rows of X, got shape "
            f"{y.shape}"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("y holds NaN or infinite values")
    if isinstance(criterion, str) and criterion == "auto":
        of_classes = y.dtype.kind != "f"
    else:
        of_classes = is_cross_entropy(criterion)
    if not of_classes:
        if y.dtype.kind not in "biuf":
            raise ValueError(f"y must hold numbers for MSELoss, got dtype {y.dtype}")
        return minimize_affine(rows, y.astype(float), None, tol, max_iter)
    if y.ndim != 1:
        raise ValueError(f"y must have one label a row, got shape {y.shape}")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y must have two classes or more, got {classes.tolist()}")
    found = minimize_affine(rows, codes, len(classes), tol, max_iter)
    found.classes = classes
    return found


def is_cross_entropy(criterion):
    """Tell the cross entropy from the squared error, and refuse any other loss."""
    given: Any = criterion() if inspect.isclass(criterion) else criterion
    if isinstance(given, nn.CrossEntropyLoss):
        is_plain = given.weight is None and not given.label_smoothing
    else:
        is_plain = isinstance(given, nn.MSELoss)
    if not is_plain or given.reduction != "mean":
        raise ValueError(
            "criterion must be 'auto', torch.nn.CrossEntropyLoss or torch.nn.MSELoss, "
            f"without class weights or other options, got {criterion!r}"
        )
    return isinstance(given, nn.CrossEntropyLoss)


def minimize_affine(rows, y, n_classes, tol, max_iter):
    """Return :func:`linear_minimum` of flat rows and of codes of classes, or numbers.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
    y : ndarray
        Codes from 0 to ``n_classes - 1``; numbers where `n_classes` is None.
    n_classes : int or None
    tol : float
    max_iter : int

    Returns
    -------
    found : Bunch
    """
    check_number("tol", tol, low=0, strict=True)
    check_number("max_iter", max_iter, low=1, integer=True)
    Z, back, to_raw = _whitened(rows)
    if n_classes is None:
        target = y.reshape(len(y), -1)
        M, n_iter, converged = Z.T @ target / len(Z), 1, True
    else:
        missing = np.flatnonzero(np.bincount(y, minlength=n_classes) == 0)
        if len(missing):
            raise ValueError(
                f"y has no row of class {missing[0]} (of 0 to {n_classes - 1}): its "
                "score falls without end; no finite linear minimum"
            )
        target = np.eye(n_classes)[y]
        M, n_iter, converged = _newton(Z, target, to_raw, tol, max_iter)
        M -= M.mean(axis=1, keepdims=True)
    coef, intercept = back(M)
    scores = rows @ coef.T + intercept
    if n_classes is None:
        loss = float(((scores - target) ** 2).mean())
        slope = 2 * (scores - target) / target.size
    else:
        log_p = _log_softmax(scores)
        loss = float(-(log_p * target).sum() / len(rows))
        slope = (np.exp(log_p) - target) / len(rows)
    grad_norm = float(np.hypot(np.linalg.norm(slope.T @ rows), _norm(slope.sum(0))))
    if not converged or grad_norm > tol:
        warnings.warn(
            f"the gradient has norm {grad_norm:.1e} after {n_iter} Newton steps, above "
            f"tol={tol}; standardise X",
            ConvergenceWarning,
            stacklevel=3,
        )
    return Bunch(
        coef=coef, intercept=intercept, loss=loss, grad_norm=grad_norm, n_iter=n_iter,
        classes=None,
    )  # fmt: skip


def _norm(vector):
    return float(np.linalg.norm(vector))


def _whitened(rows):
    """Return Z with Z'Z = nI, its last column ones, and two maps out of it.

    Returns
    -------
    Z : ndarray of shape (n_samples, rank + 1)
    back : callable
        Turns weights of Z's columns into coefficients and intercepts of the rows.
    to_raw : callable
        Turns a gradient by such weights into the norm of that by the latter.
    """
    n = len(rows)
    mean, size = rows.mean(axis=0), abs(rows).max(axis=0)
    scale = rows.std(axis=0)
    scale[scale <= 1e-12 * size] = np.inf  # a constant feature, up to rounding
    U, s, Vt = np.linalg.svd((rows - mean) / scale, full_matrices=False)
    keep = s > _RANK_TOLERANCE * max(s[0], 1e-300)
    s, Vt = s[keep] / np.sqrt(n), Vt[keep]
    Z = np.hstack([U[:, keep] * np.sqrt(n), np.ones((n, 1))])

    def back(M):
        coef = ((M[:-1] / s[:, None]).T @ Vt) / scale
        return coef, M[-1] - coef @ mean

    def to_raw(G):
        spread = np.where(np.isinf(scale), 0.0, scale)
        by_coef = (G[:-1] * s[:, None]).T @ Vt * spread + np.outer(G[-1], mean)
        return np.hypot(np.linalg.norm(by_coef), _norm(G[-1]))

    return Z, back, to_raw


def _log_softmax(scores):
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def _newton(Z, target, to_raw, tol, max_iter):
    """Minimise the cross entropy over weights M of the columns of Z."""
    n = len(Z)

    def loss_at(scores):
        return -(_log_softmax(scores) * target).sum() / n

    scores, n_endless = np.zeros_like(target), 0
    M = np.zeros((Z.shape[1], target.shape[1]))
    loss = loss_at(scores)
    for n_iter in range(max_iter):
        P = np.exp(_log_softmax(scores))
        gradient = Z.T @ (P - target) / n
        size = _norm(gradient)
        step = _newton_step(Z, P, gradient, share=min(0.1, max(size, 1e-3)))
        move = Z @ step
        largest = abs(move).max()
        is_endless = size < _VANISHING and largest > 0.1
        n_endless += is_endless
        if _margins(scores, target).min() > 1e-12 * abs(scores).max() or (
            is_endless and _margins(move, target).min() >= -_MARGIN_TOLERANCE * largest
        ):
            raise ValueError(
                "the data are linearly separable, at least one class from the rest; no "
                f"finite linear minimum: {_REMEDY}"
            )
        if n_endless > _ENDLESS_STEPS:
            raise ValueError(
                "the data are linearly separable, or too nearly so for float64, at "
                f"least one class from the rest; no linear minimum found: {_REMEDY}"
            )
        if size < _VANISHING and not is_endless and to_raw(gradient) < tol:
            return M, n_iter, True
        slope, length = (gradient * step).sum(), 1.0
        # close to the minimum all differences are rounding
        allowed = 1e-14 * (1 + loss)
        while (new := loss_at(scores + length * move)) > (
            loss + 1e-4 * length * slope + allowed
        ):
            length /= 2
        M, loss = M + length * step, new
        scores = Z @ M
    return M, max_iter, False


def _margins(scores, target):
    """Return by how much each row's own class is ahead of the best other one."""
    other = np.where(target == 1, -np.inf, scores).max(axis=1)
    return (scores * target).sum(axis=1) - other


def _newton_step(Z, P, gradient, share):
    """Solve Newton's equations down to a share of the gradient."""
    n = len(Z)
    # a class that few rows are close to has curvatures far below those of others
    diagonal = (Z**2).T @ (P * (1 - P)) / n
    diagonal = np.maximum(diagonal, 1e-15 * diagonal.max())

    def solved(residual):
        found = residual / diagonal
        # steps of all classes alike change nothing: CG would divide rounding by 0
        return found - found.mean(axis=1, keepdims=True)

    step = np.zeros_like(gradient)
    residual = gradient.mean(axis=1, keepdims=True) - gradient
    direction = solved(residual)
    square = (residual * direction).sum()
    target = share**2 * square
    for _ in range(2 * gradient.size):
        if square <= target:
            break
        change = P * (Z @ direction)
        change -= P * change.sum(axis=1, keepdims=True)
        product = Z.T @ change / n
        curvature = (direction * product).sum()
        if curvature <= 0:  # rounding: nothing is left to solve for
            break
        length = square / curvature
        step = step + length * direction
        residual = residual - length * product
        next_one = solved(residual)
        square, before = (residual * next_one).sum(), square
        direction = next_one + square / before * direction
    return step
