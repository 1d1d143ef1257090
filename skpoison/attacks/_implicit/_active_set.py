"""The dual problem of a support vector machine, solved exactly by its active set."""

import numpy as np
from scipy.linalg import eigh, lapack

# Rows up to which the whole kernel matrix is kept (72 MB); above, rows as needed.
_WHOLE = 3000


class Kernel:
    """A kernel of scikit-learn, its sums and their derivatives."""

    def __init__(self, name, gamma=1.0, coef0=0.0, degree=1, constant=0.0):
        self.name, self.gamma, self.coef0 = name, gamma, coef0
        self.degree, self.constant = degree, constant

    def options(self):
        """Return the parameters by which scikit-learn knows it."""
        return {
            "kernel": self.name,
            "gamma": self.gamma,
            "coef0": self.coef0,
            "degree": self.degree,
        }

    def __call__(self, A, B):
        if self.name == "rbf":
            return np.exp(-self.gamma * _squared_distances(A, B))
        return self._of_inner(A @ B.T)

    def diagonal(self, A):
        """Return K(a_i, a_i)."""
        if self.name == "rbf":
            return np.ones(len(A))
        return self._of_inner(np.einsum("ij,ij->i", A, A))

    def _of_inner(self, inner):
        if self.name == "linear":
            return inner + self.constant
        inner = self.gamma * inner + self.coef0
        return np.tanh(inner) if self.name == "sigmoid" else _power(inner, self.degree)

    def sum(self, A, B, weights):
        """Return sum_j K(a_i, b_j) weights_j."""
        if self.name == "linear":
            return A @ (B.T @ weights) + self.constant * weights.sum(axis=0)
        return self(A, B) @ weights

    def _slopes(self, A, B):
        """Return the derivative of K by the inner product or squared distance."""
        if self.name == "rbf":
            return -self.gamma * self(A, B)
        inner = self.gamma * (A @ B.T) + self.coef0
        if self.name == "sigmoid":
            return self.gamma * (1 - np.tanh(inner) ** 2)
        if self.degree == 0:
            return np.zeros_like(inner)
        return self.gamma * self.degree * _power(inner, self.degree - 1)

    def pull_back(self, A, B, left, right):
        """Return the derivative by A of sum_ij W_ij K(a_i, b_j), W = left right'."""
        if self.name == "linear":
            return left @ (right.T @ B)
        P = self._slopes(A, B)
        P *= left @ right.T
        if self.name == "rbf":
            return 2 * (A * P.sum(axis=1, keepdims=True) - P @ B)
        return P @ B

    def gamma_slope(self, A, B, left, right):
        """Return the derivative of the same sum by gamma."""
        inner = _squared_distances(A, B) if self.name == "rbf" else A @ B.T
        inner *= self._slopes(A, B)
        return np.einsum("ip,ip->", left, inner @ right) / self.gamma


def _squared_distances(A, B):
    D = A @ B.T
    D *= -2
    D += np.einsum("ij,ij->i", A, A)[:, None]
    D += np.einsum("ij,ij->i", B, B)
    return np.maximum(D, 0, out=D)


def _power(base, exponent):
    # numpy's own is 20 times slower for small integers above 2
    if exponent == 0:
        return np.ones_like(base)
    half = _power(base, exponent // 2) if exponent > 1 else None
    if half is None:
        return base.copy()
    return half * half * base if exponent % 2 else half * half


def whole_matrix(kernel, Z):
    """Return the kernel matrix of all rows, or None where other ways are cheaper."""
    if len(Z) > _WHOLE or (kernel.name == "linear" and 2 * Z.shape[1] < len(Z)):
        return None
    return kernel(Z, Z)


class Gram:
    """The kernel matrix of one sub-problem, whole or by what it is made of.

    Without the whole one a linear kernel is kept as its factors, and of any other
    those rows that have been asked for.
    """

    def __init__(self, kernel, Z, rows, matrix=None):
        self.kernel, self.Z, self.matrix = kernel, Z, matrix
        if len(rows) < len(Z):
            self.Z = Z = Z[rows]
            if matrix is not None:
                self.matrix = matrix[rows[:, None], rows]
        self.scale = np.abs(kernel.diagonal(Z)).max()
        self.linear = kernel.name == "linear"
        if matrix is None and not self.linear:
            self.position = np.full(len(Z), -1)
            self.held = np.empty(0, dtype=np.intp)
            self.buffer = np.empty((64, len(Z)))

    def _hold(self, rows):
        new = rows[self.position[rows] < 0]
        if not len(new):
            return
        n = len(self.held)
        self.position[new] = np.arange(n, n + len(new))
        self.held = np.append(self.held, new)
        if len(self.held) > len(self.buffer):
            grown = np.empty((2 * len(self.held), len(self.Z)))
            grown[:n] = self.buffer[:n]
            self.buffer = grown
        self.buffer[n : len(self.held)] = self.kernel(self.Z[new], self.Z)

    def times(self, beta):
        """Return K beta."""
        if self.matrix is not None:
            return self.matrix @ beta
        if self.linear:
            return self.kernel.sum(self.Z, self.Z, beta)
        self._hold(np.flatnonzero(beta))
        return beta[self.held] @ self.buffer[: len(self.held)]

    def block(self, rows):
        """Return K of some rows among themselves."""
        if self.matrix is not None:
            return self.matrix[rows[:, None], rows]
        if self.linear:
            return self.kernel(self.Z[rows], self.Z[rows])
        self._hold(rows)
        return self.buffer[self.position[rows][:, None], rows]


class MarginSystem:
    """The equations of the free rows: K beta + b = r and sum(beta) = s, factored.

    Solved by least squares where they are singular: for copies of a row, or more
    free rows than the kernel has dimensions.
    """

    def __init__(self, K, bias):
        self.n, self.bias = len(K), bias
        self.scale = np.abs(K).max() or 1.0  # beside the ones of the last row
        M = np.ones((self.n + bias, self.n + bias))
        M[: self.n, : self.n] = K
        M[: self.n, : self.n] /= self.scale
        if bias:
            M[-1, -1] = 0.0
        self.lu, self.pivots, _ = lapack.dgetrf(M)
        pivots = np.abs(self.lu.diagonal())
        self.singular = pivots.min() <= 1e-13 * pivots.max()
        if self.singular:
            values, vectors = eigh(M)
            kept = np.abs(values) > 1e-13 * np.abs(values).max()
            self.values, self.vectors = values[kept], vectors[:, kept]

    def _stacked(self, r, s):
        return np.append(r, self.scale * s) if self.bias else r

    def solve(self, r, s):
        """Return beta and b."""
        rhs = self._stacked(r, s)
        if self.singular:
            x = self.vectors @ ((self.vectors.T @ rhs) / self.values)
        else:
            x, _ = lapack.dgetrs(self.lu, self.pivots, rhs)
        return x[: self.n] / self.scale, x[-1] if self.bias else 0.0

    def out_of_reach(self, r, s):
        """Return the part of r that no beta gives: a direction without curvature."""
        if not self.singular:
            return np.zeros(self.n)
        rhs = self._stacked(r, s)
        return (rhs - self.vectors @ (self.vectors.T @ rhs))[: self.n]


class Found:
    """Where the search for the active set stands."""

    def __init__(self, state, corners, offsets):
        lower, upper = state // 2, (state + 1) // 2
        columns = np.arange(len(state))
        self.state = state
        self.free = upper > lower
        self.margin = np.flatnonzero(self.free)
        # where beta may be, and where the error t - f
        self.low, self.high = corners[lower, columns], corners[upper, columns]
        self.least, self.most = offsets[upper], offsets[lower + 1]
        self.system = None
        self.b = 0.0
        self.step = 1.0  # of the way to the balance, before a wall
        self.hits = None  # the rows that hit it


class DualTask:
    """The dual problem of one score, solved by its active set.

    Minimise beta' K beta / 2 - t' beta + epsilon |beta|_1, beta in a box and, with a
    free intercept, of sum 0. The objective bends at the corners of each beta, whose
    state counts along them: 0 at the first, 1 between the first and the second, and
    so on. The error t - f lies between two offsets at a corner and at one between.
    """

    def __init__(self, gram, t, cost, bias, epsilon=None):
        self.gram, self.t, self.cost, self.bias = gram, t, cost, bias
        if epsilon is None:
            corners = [np.minimum(t * cost, 0), np.maximum(t * cost, 0)]
        else:
            corners = [-cost, cost] if epsilon == 0 else [-cost, 0 * cost, cost]
        self.corners = np.array(corners)
        inner = [-epsilon, epsilon] if epsilon else [0.0]
        self.offsets = np.array([-np.inf, *inner, np.inf])
        self.size = max(1.0, np.abs(t).max())

    def state_of(self, beta):
        """Return the state that goes with some beta."""
        near = 1e-10 * np.abs(beta).max()
        below = (self.corners < beta - near).sum(axis=0)
        at = (np.abs(self.corners - beta) <= near).any(axis=0)
        state = np.where(at, 2 * below, 2 * below - 1)
        return state.clip(0, 2 * len(self.corners) - 2).astype(np.int8)

    def guess(self, f, n_free):
        """Return the state and beta that go with some rough scores."""
        error = self.t - f
        state = 2 * (np.searchsorted(self.offsets, error) - 1)
        state[np.argsort(np.abs(error))[:n_free]] = 1
        corner = self.corners[state // 2, np.arange(len(state))]
        beta = np.where(state == 1, self.corners.mean(axis=0), corner)
        return state.astype(np.int8), beta

    def solve(self, start, fit):
        """Return the solution, reached from a start or else from a fit.

        Parameters
        ----------
        start : tuple of state and beta, or None
        fit : callable
            Returns such a tuple.

        Returns
        -------
        found : Found
        """
        best = None
        for begin, limit in ((lambda: start, 80), (fit, 100 + 10 * len(self.t))):
            begun = begin()
            if begun is None:
                continue
            state, beta = begun
            found = self._swap(state, beta) or self._descend(state, beta, limit)
            if best is None or found.residual < best.residual:
                best = found
            if found.residual <= found.noise:
                break
        return best

    def _swap(self, state, beta):
        """Move all rows that break a condition at once: a few rounds when close."""
        for _ in range(12):
            found = self._balance(state, beta)
            if found.system is not None and found.system.singular:
                return None
            moves = self._moves(found)
            if not moves.any():
                return found if found.residual <= found.noise else None
            state, beta = state + moves, found.beta
        return None

    def _descend(self, state, beta, limit):
        """Lower the objective step by step without leaving the box.

        Ends for every positive semi-definite kernel, copies of rows or not; for a
        sigmoid kernel, which is none, the limit may end it first.
        """
        singly = False
        for _ in range(limit):
            found = self._balance(state, beta, guarded=True)
            moves = found.hits
            if moves is None:
                moves = self._moves(found)
                if not moves.any():
                    break
                if singly:
                    moves[np.arange(len(moves)) != found.misses.argmax()] = 0
            elif found.step == 0:  # rows moved together may stand in each other's way
                singly = True
            state, beta = state + moves, found.beta
        return found

    def _balance(self, state, beta, guarded=False):
        """Solve for the free rows, all others at their corners."""
        found = Found(state, self.corners, self.offsets)
        found.beta = beta = np.where(found.free, beta, found.low)
        error = self.t - self.gram.times(beta)
        found.noise = 1e-10 * self.size + 1e-15 * self.gram.scale * np.abs(beta).sum()
        margin = found.margin
        if len(margin):
            found.system = MarginSystem(self.gram.block(margin), self.bias)
            missing = (error - found.most)[margin], -beta.sum()
            move, found.b = found.system.solve(*missing)
            if guarded:
                move = self._inside(found, move, missing)
            beta[margin] += move
            error = self.t - self.gram.times(beta)
        elif self.bias:
            # the middle of what the corners leave, as libsvm has it
            ends = np.argmax(error - found.most), np.argmin(error - found.least)
            found.b = (error - found.most)[ends[0]] + (error - found.least)[ends[1]]
            found.b /= 2
            found.margin = np.unique(ends)
        found.error = error - found.b
        found.misses = np.maximum(found.error - found.most, found.least - found.error)
        found.residual = found.misses.max()
        if self.bias:
            unbalanced = abs(beta.sum()) * self.gram.scale
            found.residual = max(found.residual, unbalanced)
        return found

    def _inside(self, found, move, missing):
        """Shorten a move at the first wall, and note which rows hit it."""
        longest = 1.0
        flat = found.system.out_of_reach(*missing)
        if np.abs(flat).max() > found.noise:
            move, longest = flat, np.inf
        wall = np.where(move > 0, found.high[found.margin], found.low[found.margin])
        room = np.full(len(move), np.inf)
        np.divide(wall - found.beta[found.margin], move, out=room, where=move != 0)
        found.step = max(room.min(), 0.0)
        if found.step >= longest:
            found.step = longest
            return move
        hit = room <= found.step
        found.hits = np.zeros(len(self.t), dtype=np.int8)
        found.hits[found.margin[hit]] = np.sign(move[hit])
        return found.step * move

    def _moves(self, found):
        """Return +1 or -1 for the rows that break a condition, by where they go."""
        slack = 1e-11 * np.abs(found.beta).max()
        over = found.error > found.most + found.noise
        under = found.error < found.least - found.noise
        over = np.where(found.free, found.beta > found.high + slack, over)
        under = np.where(found.free, found.beta < found.low - slack, under)
        return over.astype(np.int8) - under.astype(np.int8)
