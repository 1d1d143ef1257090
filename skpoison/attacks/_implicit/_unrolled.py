"""Learners trained by gradient descent, differentiated step by step.

Where the other learners of this package are differentiated at their optimum, these
are differentiated through T steps of training, which need not have arrived anywhere:
the derivative runs backwards through the recursion

    v <- momentum v + g(theta),    theta <- theta - learning_rate v

with g the gradient of the mean training loss over all rows.
"""

import math
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from skpoison.attacks._implicit import _smooth
from skpoison.attacks._implicit._unrolled_linear import LinearModel
from skpoison.utils._validation import check_number, check_option

# a reversed state further off than this share of the way travelled is reported
_TOLERANCE = 0.01
# a step backwards multiplies rounding errors by 1 / momentum: how far that may go
_GROWTH = 1e6
_POWER_ITERATIONS = 20


def check_parameters(n_steps, learning_rate, momentum, reverse):
    """Raise on a bad parameter of :func:`make_learner`, before any work."""
    check_number("n_steps", n_steps, low=1, integer=True)
    if not isinstance(learning_rate, str):
        check_number("learning_rate", learning_rate, low=0.0, strict=True)
    else:
        check_option("learning_rate", learning_rate, ["auto"])
    check_number("momentum", momentum, low=0.0)
    if momentum >= 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")
    check_option("reverse", reverse, ["back_gradient", "exact"])


def make_learner(
    estimator,
    *,
    n_steps=100,
    learning_rate="auto",
    momentum=0.9,
    reverse="back_gradient",
    fixed_point_iter=3,
    classes=None,
    random_state=None,
    device="cpu",
):
    """Make a learner that trains an estimator's model by gradient descent.

    Parameters
    ----------
    estimator : estimator
        LogisticRegression, Ridge or LinearRegression, trained from zero on
        scikit-learn's objective, divided by the number of rows; or TorchClassifier or
        TorchRegressor with its default loss, trained from the weights that it would
        start from with `random_state`, without dropout, with the weight decay that its
        optimizer is given. Its own solver, learning rate and epochs are not used.
    n_steps : int, default=100
        Steps of training: 60 to 200 in [1]_.
    learning_rate : float or "auto", default="auto"
        "auto" is 1 / curvature: for linear models a bound, for networks the largest
        eigenvalue of the Hessian at the start; rounded down to a quarter of an octave,
        so that it does not move with every small change of the rows.
    momentum : float in [0, 1), default=0.9
        Without momentum a reversal is approximate, see Notes.
    reverse : {"back_gradient", "exact"}, default="back_gradient"
        "exact" keeps the T iterates; "back_gradient" finds them again by running the
        descent backwards from the last.
    fixed_point_iter : int, default=3
        For "back_gradient" without momentum: evaluations of the gradient for each
        step backwards. 1 is the rule of [1]_.
    classes : ndarray, default=None
        The labels that codes 0..K-1 stand for. None finds K in y.
    random_state : None, int, RandomState or Generator, default=None
        Seed of a network's weights. None is the estimator's own, or 0.
    device : str or torch.device, default="cpu"
        For networks; always in float64.

    Returns
    -------
    learner : UnrolledLearner or None
        None for an estimator of another kind.

    Raises
    ------
    NotDifferentiableError
        A setting that has no place in gradient descent on rows.

    Warns
    -----
    RuntimeWarning
        By `adjoint`: the reversal strayed by more than a hundredth of the way.

    Notes
    -----
    With momentum the velocity tells the state before exactly,
    ``theta_t = theta_(t+1) + learning_rate v_(t+1)`` and
    ``v_t = (v_(t+1) - g(theta_t)) / momentum`` [2]_, whatever the learning rate; only
    rounding errors grow, by 1 / momentum a step, and a copy of the state kept after
    every hundred steps or so stops that.

    Without momentum ``theta_t = theta_(t+1) + learning_rate g(theta_t)`` is implicit.
    It is iterated `fixed_point_iter` times from theta_(t+1). What remains grows with
    ``learning_rate * curvature * n_steps``: descent forgets, by a factor
    ``1 - learning_rate * curvature`` a step, where it came from. Take a small learning
    rate, momentum, or "exact".

    References
    ----------
    .. [1] Munoz-Gonzalez et al. (2017), Towards poisoning of deep learning algorithms
       with back-gradient optimization. AISec.
    .. [2] Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter
       optimization through reversible learning. ICML.
    """
    check_parameters(n_steps, learning_rate, momentum, reverse)
    check_number("fixed_point_iter", fixed_point_iter, low=1, integer=True)
    model = _make_model(estimator, classes, random_state, device)
    if model is None:
        return None
    return UnrolledLearner(
        model, n_steps, learning_rate, momentum, reverse, fixed_point_iter
    )


def _make_model(estimator, classes, random_state, device):
    if isinstance(estimator, LogisticRegression | Ridge | LinearRegression):
        learner = _smooth.make_learner(estimator, classes)
        return None if learner is None else LinearModel(learner)
    # no estimator can be of a class whose module was never imported
    models = sys.modules.get("skpoison.models")
    if models is None:
        return None
    for kind in (models.TorchClassifier, models.TorchRegressor):
        # a subclass may train in ways of its own
        if isinstance(estimator, kind) and all(
            getattr(type(estimator), name) is getattr(kind, name)
            for name in ("fit", "_fit_net", "_batch_hook", "_train", "_net_class")
        ):
            from skpoison.attacks._implicit._unrolled_network import NetworkModel

            return NetworkModel(estimator, classes, random_state, device)
    return None


@dataclass(eq=False)
class UnrolledLearner:
    """A model and the way it is trained; made by :func:`make_learner`.

    Attributes
    ----------
    score_kind : str
        "binary", "softmax", "ovr" or "regression"; of a logistic regression made
        without `classes`, None until the first `solve`.
    objective : str
        The loss's name among those of validation scores.
    """

    model: Any  # LinearModel or NetworkModel
    n_steps: int
    learning_rate: float | str
    momentum: float
    reverse: str
    fixed_point_iter: int

    @property
    def score_kind(self):
        return self.model.score_kind

    @property
    def objective(self):
        return self.model.objective

    def solve(self, X, y, weights=None, start=None):
        """Train.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            Codes 0..K-1, or numbers.
        weights : ndarray of shape (n_samples,), default=None
            Factors of the rows' losses; the sum stays divided by the number of rows.
        start : object, default=None
            Not used: training always sets out from the same point, or its result
            would depend on more than the data.

        Returns
        -------
        solution : Solution
        """
        weights = np.ones(len(y)) if weights is None else np.asarray(weights, float)
        problem = self.model.problem(X, y, weights)
        rate = self.learning_rate
        if isinstance(rate, str):
            curvature = max(_largest_eigenvalue(*problem.curvature()), 1e-12)
            octaves = math.floor(-4 * math.log2(curvature)) / 4
            rate = 2.0**octaves
        exact = self.reverse == "exact"
        every = self.n_steps
        if self.momentum:
            growth = -math.log(self.momentum)
            every = min(every, max(1, int(math.log(_GROWTH) / growth)))
        theta = problem.start()
        velocity = 0.0 * theta
        kept = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(self.n_steps):
                if exact or t % every == 0:
                    kept[t] = theta, velocity
                velocity = self.momentum * velocity + problem.gradient(theta)
                theta = theta - rate * velocity
            length = float(theta @ theta)
        if not math.isfinite(length):
            raise ValueError(
                f"gradient descent with learning_rate={rate:g} leaves the finite "
                "numbers: lower it, or scale X"
            )
        return Solution(self, problem, X, y, rate, theta, velocity, kept)


@dataclass(eq=False)
class Solution:
    """A trained model."""

    learner: UnrolledLearner
    problem: Any  # LinearProblem or NetworkProblem
    X: np.ndarray  # what it was trained on
    y: np.ndarray
    learning_rate: float
    theta: Any  # the last state: arrays or tensors of shape (n_parameters,)
    velocity: Any
    kept: dict  # states (theta, velocity) by the number of steps before them

    def scores(self, X):
        """Return the scores, of shape (n_samples, n_scores)."""
        return self.problem.scores(self.theta, X)

    def adjoint(self, X_val, G):
        """Differentiate a function A of the scores at X_val through training.

        Parameters
        ----------
        X_val : ndarray of shape (n_validation, n_features)
        G : ndarray of shape (n_validation, n_scores)
            dA/dscores.

        Returns
        -------
        adjoint : Adjoint
        """
        return Adjoint(self, X_val, G)

    def states(self):
        """Yield theta_t from t = T - 1 to 0; takes g(theta_t) in return.

        The last value yielded is the drift: how far the reversal was off at the worst
        of the states that were kept, relative to the way from there to the end.
        """
        learner, problem = self.learner, self.problem
        rate, momentum = self.learning_rate, learner.momentum
        theta, velocity = self.theta, self.velocity
        drift = 0.0
        for t in reversed(range(learner.n_steps)):
            if t not in self.kept or learner.reverse != "exact":
                after = theta
                if momentum:
                    theta = after + rate * velocity
                else:
                    for _ in range(learner.fixed_point_iter):
                        theta = after + rate * problem.gradient(theta)
            if t in self.kept:
                found, (theta, before) = theta, self.kept[t]
                if learner.reverse != "exact":
                    off, way = found - theta, self.theta - theta
                    share = float(off @ off) / max(float(way @ way), 1e-300)
                    # NaN, where the reversal exploded, is infinitely far off
                    drift = max(drift, share**0.5 if share == share else math.inf)
                yield theta
                velocity = before
            else:
                gradient = yield theta
                if momentum:
                    velocity = (velocity - gradient) / momentum
        yield drift


class Adjoint:
    """Derivatives of A through training.

    The learning rate "auto", "balanced" class weights and a network's first weights
    count as given; the mean and scale of a TorchRegressor's targets do not.

    Attributes
    ----------
    drift : float
        0 for ``reverse="exact"``; else how far off the reversed states were.
    """

    def __init__(self, solution, X_val, G):
        self.solution = solution
        problem = solution.problem
        self._G, self._X_val = G, X_val
        self._by_theta, self._by_X_val = problem.pull_scores(solution.theta, X_val, G)
        self._by_X, self._by_y, self._by_weight = self._run(
            lambda theta, q: problem.pull(theta, q)
        )
        if self.drift > _TOLERANCE:
            warnings.warn(
                "gradient descent run backwards strays from its way by "
                f"{self.drift:.2g} of its length, and its derivatives with it: lower "
                "learning_rate or n_steps, or take momentum or reverse='exact'",
                RuntimeWarning,
                stacklevel=3,
            )

    def _run(self, pull):
        """Run the recursion's adjoint and sum up what `pull` finds at each step.

        ``p = dA/dtheta_t`` and ``q = dA/dv_t``. A step makes v of ``momentum v + g``
        and takes ``learning_rate v`` off theta; so backwards
        ``q <- momentum q - learning_rate p``, and what q finds in g goes to theta,
        ``p <- p + H q``, and to the data.
        """
        solution = self.solution
        rate, momentum = solution.learning_rate, solution.learner.momentum
        p, q = self._by_theta, 0.0
        totals: list = []
        states = solution.states()
        with np.errstate(over="ignore", invalid="ignore"):
            theta = next(states)
            for _ in range(solution.learner.n_steps):
                q = momentum * q - rate * p
                gradient, product, *found = pull(theta, q)
                p = p + product
                if totals:
                    found = [
                        total if total is None else total + more
                        for total, more in zip(totals, found, strict=True)
                    ]
                totals = found
                theta = states.send(gradient)
        self.drift = theta  # what the states end with
        return [t if t is None else solution.problem.numpy(t) for t in totals]

    def rows(self, rows=slice(None)):
        """dA/dX of these training rows."""
        return self._by_X[rows].copy()

    def targets(self, rows=slice(None)):
        """dA/dy of these training rows, for regressors."""
        if self._by_y is None:
            raise TypeError("class labels have no derivative: see weights and gain")
        solution = self.solution
        return solution.problem.by_targets(
            self._by_y, solution.theta, self._X_val, self._G
        )[rows]

    def weights(self, rows=slice(None)):
        """dA/dw of the sample weights of these training rows, w as given."""
        return self._by_weight[rows].copy()

    def validation(self):
        """dA/dX_val."""
        return self._by_X_val

    def gain(self, X_new, y_new):
        """dA/dw at w = 0 of adding a row (x, y) with weight w; a second run back.

        The step size stays as it is: the loss is divided by the rows there were.
        """
        problem = self.solution.problem
        new = problem.beside(X_new, y_new)

        def pull(theta, q):
            gradient, product, *_ = problem.pull(theta, q)
            return gradient, product, new.pull(theta, q)[-1]

        return self._run(pull)[0]


def _largest_eigenvalue(size, product):
    """Estimate the largest eigenvalue of a matrix by the power method."""
    v = np.random.RandomState(0).randn(size)
    found = 0.0
    for _ in range(_POWER_ITERATIONS):
        v = product(v / (np.linalg.norm(v) or 1.0))
        found = float(np.linalg.norm(v))
    return found
