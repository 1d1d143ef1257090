"""Rows added to the training set of a regressor, optimised against it."""

import numpy as np

from skpoison.attacks._added_rows import AddedRowsAttack
from skpoison.utils._containers import take_rows
from skpoison.utils._validation import check_option

_INITS = [
    "inv_flip",
    "b_flip",
    "inf_flip",
    "alfa_tilt",
    "adaptive",
    "statp",
    "best",
]
_DAMPING = 0.01  # of the hat matrix, Jagielski et al.


class RegressionPoisoningAttack(AddedRowsAttack):
    """Add rows that cost a regressor the most, after Jagielski et al.

    Threat model: the attacker adds ``budget`` rows with numbers y of his choice inside
    the range of the clean ones, and wants the error on held-out rows to rise. He knows
    the training data and the learner; for "statp" alone only the mean and covariance
    of the columns and the predictions of a trained model.

    Parameters
    ----------
    estimator : regressor, "victim" or None, default=None
        The learner under attack, cloned: ``Ridge``, ``LinearRegression``, ``Lasso``,
        ``ElasticNet`` or ``SVR``, alone or at the end of a pipeline, have gradients;
        for any other see `surrogate`. "victim" is the estimator of the
        :class:`~skpoison.compose.PoisonedEstimator` around the attack. None is a ridge
        regression behind :func:`~skpoison.utils.make_table_encoder`.
    budget : int or float, default=0.1
        Rows that are added: a count, or a share of the clean rows, floored. The
        paper's rate ``p / (n + p)`` is ``budget / (1 + budget)``.
    init : str, default="best"
        Where the rows start, see Notes: "inv_flip", "b_flip", "inf_flip",
        "alfa_tilt", "adaptive", "statp", or "best", the one among the others that
        raises the objective most when a tenth of the rows is added as they are.
    move_targets : bool, default=True
        Whether the numbers y of the poisons move as well.
    strategy : {"joint", "greedy", "coordinate"}, default="joint"
        The paper's line search over one row after the other is "coordinate".
    objective : str or callable, default="auto"
        What rises on the validation rows: "squared_error" ("auto"), or a function of
        scores of shape (m, 1) and y that returns a number and its gradient.
    validation_data : (X_val, y_val), default=None
        Rows that the objective is measured on. None: the clean training rows, the
        paper's training objective.
    max_iter : int, default=100
        Steps. 0 adds the start rows as they are.
    step_size, tol, bounds, mutable, integer, categorical, one_hot, jacobian
        See :class:`BilevelPoisoningAttack`.
    surrogate, max_queries, random_state, verbose, checkpoint
        See :class:`BilevelPoisoningAttack`.

    Attributes
    ----------
    y_range_ : tuple of float
        The smallest and largest number in the clean y, which poisons keep to.
    init_ : str
        The start that was taken; None where nothing is added.
    objective_, start_objective_, loss_curve_, n_iter_, gradient_source_
        See :class:`BilevelPoisoningAttack`.
    query_curve_, n_queries_
        See :class:`BilevelPoisoningAttack`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    BilevelPoisoningAttack : The same for classifiers.

    Notes
    -----
    The paper's attacks are settings: OptP is ``init="best"``; BGD is
    ``init="inf_flip", move_targets=False``; StatP is ``init="statp", max_iter=0``.
    With every column and y in units of its range:

    - "inv_flip": random rows, ``y <- 1 - y``;
    - "b_flip": random rows, y to the far end of its range;
    - "inf_flip": rows drawn in proportion to ``(H 1)_i (.5 + |y_i - .5|)`` with the
      hat matrix ``H = X (X'X + .01 I)^-1 X'``, y to the far end;
    - "adaptive": the same, one row at a time with H re-estimated;
    - "alfa_tilt": y to the end opposite to the side of a random hyperplane, rows
      drawn in proportion to ``H (y_new - y)``, clipped at 0;
    - "statp": rows drawn from a normal law with the columns' mean and covariance,
      rounded to the corners of the box, y to the end opposite to the prediction.

    References
    ----------
    Jagielski, Oprea, Biggio, Liu, Nita-Rotaru and Li (2018), Manipulating machine
    learning: poisoning attacks and countermeasures for regression learning. IEEE S&P.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.metrics import mean_squared_error
    >>> from skpoison.attacks import RegressionPoisoningAttack
    >>> X, y = load_diabetes(return_X_y=True)
    >>> victim = Ridge(0.01).fit(X[:300], y[:300])
    >>> clean = mean_squared_error(y[300:], victim.predict(X[300:]))
    >>> attack = RegressionPoisoningAttack(victim, budget=0.2, random_state=0)
    >>> data = attack.poison(X[:300], y[:300])
    >>> victim = Ridge(0.01).fit(data.X, data.y)
    >>> mean_squared_error(y[300:], victim.predict(X[300:])) > 1.5 * clean
    True
    """

    def __init__(
        self,
        estimator=None,
        *,
        budget=0.1,
        init="best",
        move_targets=True,
        strategy="joint",
        objective="auto",
        validation_data=None,
        max_iter=100,
        step_size=0.03,
        tol=1e-4,
        bounds="data",
        mutable=None,
        integer="auto",
        categorical="auto",
        one_hot=None,
        jacobian="analytic",
        surrogate=None,
        max_queries=0,
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.estimator = estimator
        self.budget = budget
        self.init = init
        self.move_targets = move_targets
        self.strategy = strategy
        self.objective = objective
        self.validation_data = validation_data
        self.max_iter = max_iter
        self.step_size = step_size
        self.tol = tol
        self.bounds = bounds
        self.mutable = mutable
        self.integer = integer
        self.categorical = categorical
        self.one_hot = one_hot
        self.jacobian = jacobian
        self.surrogate = surrogate
        self.max_queries = max_queries
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    _hint = "; BilevelPoisoningAttack attacks classifiers"

    def _is_regression(self):
        return True

    def _check_params(self, X, y):
        super()._check_params(X, y)
        check_option("init", self.init, _INITS)
        if not isinstance(self.move_targets, bool | np.bool_):
            raise TypeError(f"move_targets must be a bool, got {self.move_targets!r}")

    def _resample(self, X, y, n_rows, streams):
        self.y_range_, self.init_ = (float(y.min()), float(y.max())), None
        return super()._resample(X, y, n_rows, streams)

    def _starts(self, problem, n_rows, streams):
        low, high = self.y_range_
        Z = problem.legal.relax(problem.X)
        u = (problem.y - low) / ((high - low) or 1.0)
        self.init_ = self.init
        if self.init == "best":
            # judged at one size: smaller budgets then start from the first rows that
            # larger ones start from
            size = max(1, len(u) // 10)
            values = {
                name: problem.value(self._start(name, problem, Z, u, size, streams))
                for name in _INITS[:-1]
            }
            self.init_ = max(values, key=values.__getitem__)
        return self._start(self.init_, problem, Z, u, n_rows, streams)

    def _start(self, name, problem, Z, u, n_rows, streams):
        low, high = self.y_range_
        rows, v, sources = getattr(self, f"_{name}")(problem, Z, u, n_rows, streams)
        if rows is None:
            rows = take_rows(problem.X, sources)
        return problem.poisons(rows, low + (high - low) * np.asarray(v), sources)

    # Each returns legal rows (None: clean rows), y in units of its range, and sources.

    def _inv_flip(self, problem, Z, u, n_rows, streams):
        sources = streams.numpy("rows").permutation(len(u))[:n_rows]
        return None, 1 - u[sources], sources

    def _b_flip(self, problem, Z, u, n_rows, streams):
        sources = streams.numpy("rows").permutation(len(u))[:n_rows]
        return None, _far(u[sources]), sources

    def _inf_flip(self, problem, Z, u, n_rows, streams):
        weight = _hat(Z, np.ones(len(u))) * (0.5 + np.abs(u - 0.5))
        sources = _draw(weight, n_rows, streams)
        return None, _far(u[sources]), sources

    def _adaptive(self, problem, Z, u, n_rows, streams):
        # one clock a row, as in the draw without re-estimation: smaller budgets nest
        clock = streams.numpy("rows").exponential(size=len(u))
        room = 0.5 + np.abs(u - 0.5)
        left = np.ones(len(u), dtype=bool)
        inverse = np.linalg.inv(Z.T @ Z + _DAMPING * np.eye(Z.shape[1]))
        total = Z.sum(axis=0)
        sources = np.empty(n_rows, dtype=int)
        for i in range(n_rows):
            weight = (Z @ (inverse @ total)) * room
            rate = np.where(left, weight.clip(min=1e-12), 0.0)
            with np.errstate(divide="ignore"):
                pick = int(np.argmin(clock / rate))
            sources[i], left[pick] = pick, False
            row = inverse @ Z[pick]
            inverse -= np.outer(row, row) / (1 + Z[pick] @ row)
            total += Z[pick]
        return None, _far(u[sources]), sources

    def _alfa_tilt(self, problem, Z, u, n_rows, streams):
        direction = streams.numpy("hyperplane").standard_normal(Z.shape[1])
        side = Z @ direction
        flipped = np.where(side > np.median(side), 0.0, 1.0)
        sources = _draw(_hat(Z, flipped - u), n_rows, streams)
        return None, flipped[sources], sources

    def _statp(self, problem, Z, u, n_rows, streams):
        mean, rng = Z.mean(axis=0), streams.numpy("starts")
        covariance = (Z - mean).T @ (Z - mean) / len(Z)
        root = np.linalg.cholesky(covariance + 1e-9 * np.eye(Z.shape[1]))
        drawn = mean + rng.standard_normal((n_rows, Z.shape[1])) @ root.T
        corners = problem.legal.project(np.rint(drawn.clip(0, 1)))
        # cells that may not change are those of a random clean row
        like = streams.numpy("rows").permutation(len(u))[:n_rows]
        rows = problem.legal.decode(corners, take_rows(problem.X, like))
        model = self._seeded_estimator(problem.X, streams)
        predicted = model.fit(problem.X, problem.y).predict(rows)
        low, high = self.y_range_
        far = _far((predicted - low) / ((high - low) or 1.0))
        return rows, far, np.full(n_rows, -1)


def _far(u):
    """Return the far end of [0, 1]."""
    return np.where(np.clip(u, 0, 1) >= 0.5, 0.0, 1.0)


def _hat(Z, values):
    """Return ``Z (Z'Z + .01 I)^-1 Z' values``."""
    gram = Z.T @ Z + _DAMPING * np.eye(Z.shape[1])
    return Z @ np.linalg.solve(gram, Z.T @ values)


def _draw(weight, n_rows, streams):
    """Draw rows without replacement in proportion to weights, clipped at 0.

    By exponential clocks: the rows of a smaller number come first.
    """
    most = weight.max()
    rate = np.maximum(weight, 1e-12 * most) if most > 0 else np.ones_like(weight)
    clock = streams.numpy("rows").exponential(size=len(weight)) / rate
    return np.argsort(clock, kind="stable")[:n_rows]
