"""Ways to solve with a Hessian: regular, singular, or too large to be factorised.

``solve(b, rtol)`` takes and returns arrays of shape (k, p), as coefficients are kept;
`rtol` matters to conjugate gradients alone. `range` is None, or an orthonormal basis of
the directions that a singular Hessian determines; it leaves the others at zero, as the
least-squares solution of least norm does.
"""

import numpy as np
from scipy.linalg import eigh, lapack

_EPS = np.finfo(float).eps


class Cholesky:
    range = None

    def __init__(self, factor):
        self.factor = factor

    @classmethod
    def of(cls, hessian, smallest=None, *, scaled=True):
        """Factorise a Hessian; return None where it is singular.

        `smallest` is the least reciprocal condition number to accept, None to go by
        the pivots alone. With `scaled` it is judged in the units that suit the
        features best.
        """
        factor, info = lapack.dpotrf(hessian.T, lower=1)
        if info:
            return None
        if smallest is not None:
            unit = np.ones(len(hessian))
            if scaled:
                unit /= np.sqrt(np.diag(hessian))
            norm = ((np.abs(hessian) @ unit) * unit).max()
            found = lapack.dpocon(factor * unit[:, None], norm, uplo="L")[0]
            if not found >= smallest:
                return None
        return cls(factor)

    def solve(self, b, rtol=None):
        flat = b.reshape(-1, len(self.factor))
        return lapack.dpotrs(self.factor, flat.T, lower=1)[0].T.reshape(b.shape)


class Pseudo:
    def __init__(self, basis, eigenvalues):
        self.range = basis
        self.eigenvalues = eigenvalues

    @classmethod
    def of(cls, hessian):
        eigenvalues, basis = eigh(hessian)
        keep = eigenvalues > len(hessian) * _EPS * max(eigenvalues[-1], 0.0)
        return cls(basis[:, keep], eigenvalues[keep])

    def project(self, b):
        flat = b.reshape(-1, len(self.range))
        return ((flat @ self.range) @ self.range.T).reshape(b.shape)

    def solve(self, b, rtol=None):
        flat = b.reshape(-1, len(self.range))
        found = ((flat @ self.range) / self.eigenvalues) @ self.range.T
        return found.reshape(b.shape)


class ConjugateGradients:
    """Conjugate gradients to a relative error of `rtol` in the energy norm.

    ``product(v)`` applies the Hessian, ``near(b)`` solves with a matrix like it. After
    `max_iter` iterations, if given, `solve` gives up and returns None.
    """

    range = None

    def __init__(self, product, near, max_iter=None):
        self.product = product
        self.near = near
        self.max_iter = max_iter

    def solve(self, b, rtol):
        x = np.zeros_like(b)
        residual = b.copy()
        direction = scaled = self.near(residual)
        size = np.vdot(residual, scaled)
        target = rtol**2 * size
        for _ in range(self.max_iter or 10 * b.size):
            if size <= target:
                return x
            image = self.product(direction)
            step = size / np.vdot(direction, image)
            x += step * direction
            residual -= step * image
            scaled = self.near(residual)
            size, last = np.vdot(residual, scaled), size
            direction = scaled + (size / last) * direction
        return x if self.max_iter is None else None
