"""Derivatives of numeric preprocessing steps, one function a step.

Each is called as ``rule(step, X, G, n_fit)``: a fitted step, its dense input, the
derivative G of some number by its output, and how many of the rows, the first ones, it
was fitted on. It returns the derivative by X: through the transform and, in the fitted
rows, through the statistics. ``n_fit=0`` holds the statistics constant.

Where several rows share an extreme or a quantile the derivative is split equally
between them. A scale that scikit-learn replaced by 1, because the column is constant,
is constant here too.
"""

import numpy as np
from scipy import sparse, stats
from scipy.special import expit

from skpoison.attacks._implicit._columns import is_missing
from skpoison.utils._tabular import _as_text

_EPS = np.finfo(float).eps

# of the functions that people put into a FunctionTransformer
DERIVATIVES = {
    np.abs: np.sign,
    np.arcsinh: lambda X: 1 / np.sqrt(1 + X**2),
    np.arctan: lambda X: 1 / (1 + X**2),
    np.cbrt: lambda X: 1 / (3 * np.cbrt(X) ** 2),
    np.cos: lambda X: -np.sin(X),
    np.exp: np.exp,
    np.expm1: np.exp,
    np.exp2: lambda X: np.log(2) * np.exp2(X),
    np.log: lambda X: 1 / X,
    np.log10: lambda X: 1 / (np.log(10) * X),
    np.log1p: lambda X: 1 / (1 + X),
    np.log2: lambda X: 1 / (np.log(2) * X),
    np.negative: lambda X: -np.ones_like(X),
    np.reciprocal: lambda X: -1 / X**2,
    np.sin: np.cos,
    np.sqrt: lambda X: 0.5 / np.sqrt(X),
    np.square: lambda X: 2 * X,
    np.tanh: lambda X: 1 - np.tanh(X) ** 2,
    abs: np.sign,
    expit: lambda X: expit(X) * expit(-X),
    _as_text: np.zeros_like,  # what comes out is no number
}


def _rescale(X, G, n_fit, center, scale, weights):
    """Pull back ``(X - center) / scale``.

    ``weights(X_fit)`` returns the derivatives of the center and of the scale by each
    cell that they were fitted on, 0 for missing cells.
    """
    center = 0.0 if center is None else center
    scale = 1.0 if scale is None else scale
    seen = ~np.isnan(X)
    G_in = np.where(seen, G, 0.0) / scale
    if n_fit:
        by_scale = -np.sum(G_in * np.where(seen, X - center, 0.0), axis=0) / scale
        of_center, of_scale = weights(X[:n_fit])
        G_in[:n_fit] += by_scale * of_scale - G_in.sum(axis=0) * of_center
    return G_in


def _shared(mask):
    """Return equal weights for the True cells of each column, which sum to 1."""
    return mask / np.maximum(mask.sum(axis=0), 1)


def _quantile(X, q):
    """Return the q-quantile of each column and its derivative by each cell.

    Linear interpolation between the two nearest values, NaN ignored.
    """
    ordered = np.sort(X, axis=0)  # NaN last
    last = np.maximum((~np.isnan(X)).sum(axis=0) - 1, 0)
    place = q * last
    low = np.floor(place).astype(int)
    share = place - low
    below = np.take_along_axis(ordered, low[None], axis=0)[0]
    above = np.take_along_axis(ordered, np.minimum(low + 1, last)[None], axis=0)[0]
    weights = (1 - share) * _shared(X == below) + share * _shared(X == above)
    return below + share * (above - below), weights


def _is_zero(size, like):
    """Tell where scikit-learn takes a scale for 0, computed in the type of `like`."""
    return size < 10 * np.finfo(like.dtype).eps


def standard_scaler(step, X, G, n_fit):
    def weights(X_fit):
        seen = _shared(~np.isnan(X_fit))
        if not step.with_std:
            return seen, 0.0
        constant = step.scale_ != np.sqrt(step.var_)
        residual = np.where(seen > 0, X_fit - step.mean_, 0.0)
        of_scale = np.where(constant, 0.0, seen * residual / step.scale_)
        return (seen if step.with_mean else 0.0), of_scale

    if step.mean_ is None:  # neither centred nor scaled
        n_fit = 0
    center = step.mean_ if step.with_mean else None
    return _rescale(X, G, n_fit, center, step.scale_, weights)


def min_max_scaler(step, X, G, n_fit):
    low, high = step.feature_range

    def weights(X_fit):
        at_min = _shared(X_fit == step.data_min_)
        of_scale = (_shared(X_fit == step.data_max_) - at_min) / (high - low)
        constant = _is_zero(step.data_range_, step.data_range_)
        return at_min, np.where(constant, 0.0, of_scale)

    if step.clip:
        # the extremes themselves may lie a rounding error outside
        edge = 1e-12 * (high - low)
        Z = X * step.scale_ + step.min_
        G = np.where((Z < low - edge) | (Z > high + edge), 0.0, G)
    return _rescale(X, G, n_fit, step.data_min_, 1 / step.scale_, weights)


def max_abs_scaler(step, X, G, n_fit):
    def weights(X_fit):
        at_max = _shared(np.abs(X_fit) == step.max_abs_)
        of_scale = at_max * np.sign(np.where(at_max > 0, X_fit, 0.0))
        return 0.0, np.where(_is_zero(step.max_abs_, step.max_abs_), 0.0, of_scale)

    if getattr(step, "clip", False):  # newer scikit-learn
        G = np.where(np.abs(X) > step.scale_ * (1 + 1e-12), 0.0, G)
    return _rescale(X, G, n_fit, None, step.scale_, weights)


def robust_scaler(step, X, G, n_fit):
    def weights(X_fit):
        of_center = of_scale = np.zeros_like(X_fit)
        if step.with_centering:
            of_center = _quantile(X_fit, 0.5)[1]
        if step.with_scaling:
            q = np.asarray(step.quantile_range) / 100
            (low, of_low), (high, of_high) = (_quantile(X_fit, part) for part in q)
            unit = np.diff(stats.norm.ppf(q))[0] if step.unit_variance else 1.0
            constant = _is_zero(high - low, step.scale_)
            of_scale = np.where(constant, 0.0, (of_high - of_low) / unit)
        return of_center, of_scale

    return _rescale(X, G, n_fit, step.center_, step.scale_, weights)


def normalizer(step, X, G, n_fit):
    size = np.abs(X)
    if step.norm == "l2":
        norm = np.sqrt(np.sum(X**2, axis=1, keepdims=True))
        of_norm = X / np.where(norm > 0, norm, 1.0)
    elif step.norm == "l1":
        norm = size.sum(axis=1, keepdims=True)
        of_norm = np.sign(X)
    else:
        norm = size.max(axis=1, keepdims=True)
        of_norm = np.sign(X) * _shared((size == norm).T).T
    empty = _is_zero(norm, X)  # such rows pass as they are
    norm = np.where(empty, 1.0, norm)
    along = np.sum(G * X, axis=1, keepdims=True) / norm
    return (G - np.where(empty, 0.0, along * of_norm)) / norm


def _spectral(X, V, by_V, by_eigenvalues=0.0):
    """Pull back leading right singular vectors V (n_components, d) of X (n, d).

    With M = X'X and M v_k = e_k v_k, ``dv_k = (e_k I - M)^+ dM v_k`` and ``de_k = v_k'
    dM v_k``. Eigenvalues that are equal up to rounding do not rotate into each other:
    any basis of their space is as good.
    """
    n, d = X.shape
    if d <= n:
        eigenvalues, U = np.linalg.eigh(X.T @ X)
    else:
        eigenvalues, U = np.linalg.eigh(X @ X.T)
    eigenvalues, U = eigenvalues[::-1], U[:, ::-1]
    tiny = 10 * max(n, d) * _EPS * eigenvalues[0]
    positive = eigenvalues > tiny
    eigenvalues, U = eigenvalues[positive], U[:, positive]
    if d > n:
        U = X.T @ U / np.sqrt(eigenvalues)
    own = np.zeros(len(V))
    own[: len(eigenvalues)] = eigenvalues[: len(V)]

    def divide(numerator, gap):
        near = np.abs(gap) <= tiny
        return np.where(near, 0.0, numerator / np.where(near, 1.0, gap))

    inside = by_V @ U
    W = divide(inside, own[:, None] - eigenvalues) @ U.T
    # the null space of X, eigenvalue 0
    W += divide(by_V - inside @ U.T, own[:, None])
    Z = X @ V.T
    return Z @ W + (X @ W.T + 2 * Z * by_eigenvalues) @ V


def pca(step, X, G, n_fit):
    V = step.components_
    centred = X - step.mean_
    scale = np.ones(len(V))
    if step.whiten:
        variance = step.explained_variance_
        floor = 10 * max(step.n_samples_, X.shape[1]) * _EPS * variance.max(initial=0)
        if n_fit:
            # what rounding errors are scaled up to has no derivative
            G = np.where(variance <= floor, 0.0, G)
        scale = np.sqrt(np.maximum(variance, _EPS**2))
    G = G / scale
    G_in = G @ V
    if n_fit:
        by_eigenvalues = 0.0
        if step.whiten:
            by_scale = -np.sum(G * (centred @ V.T), axis=0) / scale
            by_eigenvalues = by_scale / (2 * scale * (n_fit - 1))
        by_mean = -G_in.sum(axis=0)
        fitted = centred[:n_fit]
        G_in[:n_fit] += _spectral(fitted, V, G.T @ centred, by_eigenvalues)
        G_in[:n_fit] += by_mean / n_fit
    return G_in


def truncated_svd(step, X, G, n_fit):
    G_in = G @ step.components_
    if n_fit:
        G_in[:n_fit] += _spectral(X[:n_fit], step.components_, G.T @ X)
    return G_in


def polynomial_features(step, X, G, n_fit):
    # each output is a product of columns, those of a lower degree filled up with ones
    powers = step.powers_
    n_outputs, d = powers.shape
    degree = powers.sum(axis=1)
    factors = np.full((n_outputs, degree.max(initial=0)), d)
    output, column = np.nonzero(powers)
    factors[np.arange(factors.shape[1]) < degree[:, None]] = np.repeat(
        column, powers[output, column]
    )
    X = np.column_stack([X, np.ones(len(X))])
    G_in = np.zeros_like(X)
    for k in range(factors.shape[1]):
        others = np.delete(factors, k, axis=1)
        product = G.copy()
        for other in others.T:
            product *= X[:, other]
        place = (np.ones(n_outputs), (np.arange(n_outputs), factors[:, k]))
        G_in += product @ sparse.csr_array(place, shape=(n_outputs, d + 1))
    return G_in[:, :d]


def simple_imputer(step, X, G, n_fit):
    n_indicators = len(step.indicator_.features_) if step.add_indicator else 0
    kept = np.arange(X.shape[1])
    if G.shape[1] - n_indicators < X.shape[1]:  # columns without a value are dropped
        kept = np.flatnonzero([not is_missing(value) for value in step.statistics_])
    values = X[:, kept]
    if is_missing(step.missing_values):
        missing = np.isnan(values)
    else:
        missing = values == step.missing_values
    G = G[:, : len(kept)]
    by_values = np.where(missing, 0.0, G)
    if n_fit and step.strategy in ("mean", "median"):
        observed = np.where(missing, np.nan, values)[:n_fit]
        if step.strategy == "mean":
            weights = _shared(~np.isnan(observed))
        else:
            weights = _quantile(observed, 0.5)[1]
        by_values[:n_fit] += np.where(missing, G, 0.0).sum(axis=0) * weights
    G_in = np.zeros_like(X)
    G_in[:, kept] = by_values
    return G_in


def selector(step, X, G, n_fit):
    G_in = np.zeros_like(X)
    G_in[:, step.get_support()] = G
    return G_in
