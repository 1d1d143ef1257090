"""Derivatives of kernel feature maps; called as the rules of `_rules` are."""

import numpy as np

#: scikit-learn's floor of the eigenvalues of the basis kernel.
_FLOOR = 1e-12


def rbf_sampler(step, X, G, n_fit):
    angles = X @ step.random_weights_ + step.random_offset_
    by_angles = -np.sqrt(2.0 / step.n_components) * np.sin(angles) * G
    G_in = by_angles @ step.random_weights_.T
    if n_fit and step.gamma == "scale":
        fitted = X[:n_fit]
        variance = fitted.var()
        if variance:  # the weights go with its root, downwards
            by_root = np.sum(by_angles * (X @ step.random_weights_))
            by_cell = 2 * (fitted - fitted.mean()) / fitted.size
            G_in[:n_fit] -= by_root / (2 * variance) * by_cell
    return G_in


def nystroem(step, X, G, n_fit):
    """Pull back ``k(X, C) N'`` with basis rows C and ``N = k(C, C)^(-1/2)``.

    With eigenvalues e and eigenvectors U of the basis kernel, a change dK moves N by
    ``U (F * U'dK U) U'``, with F the divided differences of ``e^(-1/2)``.
    """
    C, N = step.components_, step.normalization_
    kernel = _rbf(step, X, C)
    G_in, by_basis = _pull_rbf(step, X, C, kernel, G @ N)
    if n_fit:
        own = _rbf(step, C, C)
        eigenvalues, U = np.linalg.eigh(own)
        root = 1 / np.sqrt(np.maximum(eigenvalues, _FLOOR))
        slope = np.where(eigenvalues > _FLOOR, -0.5 * root**3, 0.0)
        gap = eigenvalues[:, None] - eigenvalues
        near = np.abs(gap) <= 1e-10 * np.abs(eigenvalues).max()
        steepness = np.where(
            near, slope, (root[:, None] - root) / np.where(near, 1, gap)
        )
        by_own = U @ (steepness * (U.T @ (G.T @ kernel) @ U)) @ U.T
        for part in _pull_rbf(step, C, C, own, by_own):
            by_basis += part
        G_in[step.component_indices_] += by_basis
    return G_in


def _gamma(step, X):
    return 1.0 / X.shape[1] if step.gamma is None else step.gamma


def _rbf(step, X, C):
    squares = (X**2).sum(1)[:, None] - 2 * X @ C.T + (C**2).sum(1)
    return np.exp(-_gamma(step, X) * np.maximum(squares, 0))


def _pull_rbf(step, X, C, kernel, G):
    """Return the derivatives by X and by C."""
    G = -2 * _gamma(step, X) * G * kernel
    return G.sum(1)[:, None] * X - G @ C, G.sum(0)[:, None] * C - G.T @ X
