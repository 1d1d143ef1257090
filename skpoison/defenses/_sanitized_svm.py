"""What an attack behind a sanitizer can do to a linear SVM at most."""

import math

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.defenses._constrained_svm import constrained_svm
from skpoison.defenses._feasible_set import (
    FeasibleSet,
    check_magnitudes,
    check_oracle_stats,
    class_centers,
    class_percentiles,
    slab_distances,
    sphere_distances,
)
from skpoison.utils._validation import check_number, check_option


def herd(points, n_points):
    """Choose points whose mean is close to the mean of all.

    Parameters
    ----------
    points : ndarray of shape (n_found, n_values)
    n_points : int
        Above `n_found`, every point is taken as often as it can be, and the rest is
        chosen.

    Returns
    -------
    chosen : ndarray of shape (n_points, n_values)
    """
    repeats, rest = divmod(n_points, len(points))
    free = np.ones(len(points), dtype=bool)
    center = points.mean(axis=0)
    squares = np.einsum("ij,ij->i", points, points)
    lead = np.zeros(points.shape[1])  # of the sum chosen over that of the means
    chosen = []
    for _ in range(rest):
        costs = squares + 2.0 * points @ (lead - center)
        chosen.append(int(np.where(free, costs, np.inf).argmin()))
        free[chosen[-1]] = False
        lead += points[chosen[-1]] - center
    return np.concatenate([np.tile(points, (repeats, 1)), points[chosen]])


class SanitizedSVMBound(ClassifierMixin, BaseEstimator):
    """Bound the training loss that any attack behind a sanitizer can cause.

    The learner is a linear SVM on two classes. The attacker adds rows, of any kind and
    with any knowledge, that a sanitizer lets pass. For each budget epsilon the class
    computes what loss he can cause at most, an attack that nearly causes it, and the
    linear model that guarantees the bound, with which it predicts.

    Parameters
    ----------
    epsilons : sequence of float, default=(0.0, 0.01, 0.03, 0.1, 0.3)
        The attacker's budgets: rows that he adds, as a share of the clean rows.
    rule : {"sphere+slab", "sphere"}, default="sphere+slab"
        The sanitizer, as in :class:`DataSanitizer`. A slab alone bounds nothing.
    percentile : float, default=70
        The radius of a class's sphere, and the width of its slab, are this percentile
        of its rows' distances in X, if `oracle_stats` are not given.
    rho_sq : float, default=25.0
        The learner keeps ``||coef||^2 + intercept^2`` at or below this: the inverse of
        a regularisation, in the units of X.
    max_iter : int, default=3000
        Steps of the minimisation.
    burn_in : int, default=300
        Steps before the worst points count for the attack.
    lr : float, default=0.1
        Step size of the first steps.
    oracle_stats : tuple (centers, radii, widths), default=None
        The sanitizer's statistics, as in :class:`DataSanitizer`, in place of those of
        X; "sphere" needs no widths.

    Attributes
    ----------
    epsilons_ : ndarray of shape (n_epsilons,)
    bounds_ : ndarray of shape (n_epsilons,)
        No attack causes a larger loss.
    attack_losses_ : ndarray of shape (n_epsilons,)
        The loss of the best model on clean rows and each returned attack: a proven
        lower bound on it, at most 1e-6 below it unless columns are badly scaled.
    gaps_ : ndarray of shape (n_epsilons,)
        ``bounds_ - attack_losses_``: how far from the truth either can be.
    X_attack_ : list of ndarray of shape (n_poisons, n_features)
        One attack for each epsilon, of ``floor(epsilon * n_samples)`` rows.
    y_attack_ : list of ndarray of shape (n_poisons,)
        Their labels.
    coefs_ : ndarray of shape (n_epsilons, n_features)
    intercepts_ : ndarray of shape (n_epsilons,)
        The linear models that attain the bounds.
    coef_ : ndarray of shape (1, n_features)
    intercept_ : ndarray of shape (1,)
        The one of the largest epsilon, which predicts.
    oracle_stats_ : tuple (centers, radii, widths)
        The sanitizer: give it to :class:`DataSanitizer`.
    n_iter_ : int
        Steps of the minimisation, `max_iter`.
    classes_ : ndarray of shape (2,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    See Also
    --------
    DataSanitizer : The sanitizer, for use.

    Notes
    -----
    Let there be n clean rows, labels +1 and -1 and
    :math:`\\ell(\\theta; x, y) = \\max(0, 1 - y (w \\cdot x + b))`, with
    :math:`\\theta = (w, b)` in the ball :math:`\\lVert\\theta\\rVert^2 \\le \\rho^2`,
    the intercept included. With the slab's direction :math:`v = \\mu_+ - \\mu_-` the
    sanitizer lets rows of label y pass that lie in :math:`F_y = \\{x:
    \\lVert x - \\mu_y \\rVert \\le r_y, |v \\cdot (x - \\mu_y)| \\le s_y\\}`.
    What is bounded is the loss of the best model on clean rows and poisons together,
    divided by the number of clean rows: for every set P of at most
    :math:`\\epsilon n` poisons in F

    .. math::
        \\min_\\theta \\frac{1}{n} \\Big[\\sum_{clean} \\ell(\\theta; x_i, y_i)
        + \\sum_P \\ell(\\theta; x_j, y_j)\\Big]
        \\le \\min_\\theta \\Big[\\frac{1}{n} \\sum_{clean} \\ell(\\theta; x_i, y_i)
        + \\epsilon \\max_{(x, y) \\in F} \\ell(\\theta; x, y)\\Big],

    since each poison's loss is at most the maximum, whatever :math:`\\theta` is. Any
    :math:`\\theta` of the ball gives a valid bound, so that `bounds_`, the smallest of
    those met, need no convergence.

    Hinge losses aren't negative. So the bound also holds where the sanitizer drops
    some of the clean rows, whose loss is then not counted; and it holds for the clean
    part of the sum alone, at the model that the learner ends up with: of the clean rows
    that it was trained on, that model gets wrong at most n times the bound. It says
    nothing by itself of test rows, nor of a learner whose norm is larger or whose
    intercept is outside the ball.

    The maximum has a closed form. With :math:`u = -y w`, its part a along the unit
    vector :math:`\\hat v` of v, and :math:`u_\\perp` across it,

    .. math::
        x^* = \\mu_y + t \\hat v
              + \\sqrt{r_y^2 - t^2} \\, u_\\perp / \\lVert u_\\perp \\rVert,
        \\qquad t = \\mathrm{clip}(a r_y / \\lVert u \\rVert,
        \\pm s_y / \\lVert v \\rVert).

    The minimum is approached by regularised dual averaging. The attack is made of the
    worst points of its steps: those are taken, one by one and none twice while there
    are others, that keep the mean of the attack close to the mean of them all, which
    is what makes the averages on both sides meet.

    It is a certificate for a sanitizer that keeps the statistics of `oracle_stats_`
    whatever the attacker adds. X has to be clean data, therefore. A sanitizer that
    computes its centres from the poisoned data is moved by them, and can be passed by
    attacks that cause more. Columns should be scaled; a box that rows must lie in, or
    whole numbers, would only make the truth smaller.

    References
    ----------
    J. Steinhardt, P. W. Koh and P. Liang, "Certified defenses for data poisoning
    attacks", NeurIPS 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from skpoison.defenses import SanitizedSVMBound
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X) / 30**0.5
    >>> bound = SanitizedSVMBound(epsilons=[0, 0.1]).fit(X, y)
    >>> bound.bounds_.round(2), bound.attack_losses_.round(2)
    (array([0.09, 0.18]), array([0.09, 0.18]))
    >>> [len(rows) for rows in bound.X_attack_]
    [0, 56]
    """

    def __init__(
        self,
        epsilons=(0.0, 0.01, 0.03, 0.1, 0.3),
        *,
        rule="sphere+slab",
        percentile=70,
        rho_sq=25.0,
        max_iter=3000,
        burn_in=300,
        lr=0.1,
        oracle_stats=None,
    ):
        self.epsilons = epsilons
        self.rule = rule
        self.percentile = percentile
        self.rho_sq = rho_sq
        self.max_iter = max_iter
        self.burn_in = burn_in
        self.lr = lr
        self.oracle_stats = oracle_stats

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X, y):
        """Compute the bounds and the attacks.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Clean training data.
        y : array-like of shape (n_samples,)
            Labels of two classes.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            A parameter out of range, ``rule="slab"``, or not two classes.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind != "binary":
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{kind}."
            )
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"SanitizedSVMBound needs 2 classes, got 1 class: "
                f"{self.classes_.tolist()}"
            )
        check_magnitudes(X, "SanitizedSVMBound")
        self.epsilons_ = np.array(self.epsilons, dtype=np.float64)
        self.oracle_stats_ = self._statistics(X, codes)
        feasible = FeasibleSet(*self.oracle_stats_)
        Z = np.column_stack([X, np.ones(len(X))]) * (2.0 * codes - 1.0)[:, None]
        self.n_iter_ = self.max_iter
        self.bounds_ = np.full(len(self.epsilons_), np.inf)
        best = np.zeros((len(self.epsilons_), Z.shape[1]))
        found = self._minimise(Z, feasible, best)
        self._measure(Z, feasible, best, found)
        self.coefs_, self.intercepts_ = best[:, :-1], best[:, -1]
        largest = int(np.argmax(self.epsilons_))
        self.coef_ = self.coefs_[largest : largest + 1]
        self.intercept_ = self.intercepts_[largest : largest + 1]
        return self

    def _check_parameters(self):
        if self.rule == "slab":
            raise ValueError(
                "a slab alone lets unbounded rows pass, and there is no bound: take "
                "rule='sphere+slab'"
            )
        check_option("rule", self.rule, ("sphere+slab", "sphere"))
        if np.ndim(self.epsilons) != 1 or len(self.epsilons) == 0:
            raise ValueError(
                f"epsilons must be a non-empty sequence, got {self.epsilons!r}"
            )
        for epsilon in self.epsilons:
            check_number("epsilons", epsilon, low=0.0)
        check_number("percentile", self.percentile, low=0.0, high=100.0)
        check_number("rho_sq", self.rho_sq, low=0.0, strict=True)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number(
            "burn_in", self.burn_in, low=0, high=self.max_iter - 1, integer=True
        )
        check_number("lr", self.lr, low=0.0, strict=True)

    def _statistics(self, X, y):
        if self.oracle_stats is None:
            centers = class_centers(X, y, 2)
            radii, widths = (
                class_percentiles(distances(X, y, centers), y, 2, self.percentile)
                for distances in (sphere_distances, slab_distances)
            )
        else:
            centers, radii, widths = check_oracle_stats(
                self.oracle_stats, 2, X.shape[1]
            )
        widths = widths if self.rule == "sphere+slab" else None
        if radii is None or (widths is None and self.rule == "sphere+slab"):
            raise ValueError(
                f"rule={self.rule!r} needs the radii, and with a slab the widths, of "
                "oracle_stats"
            )
        return centers, radii, widths

    def _minimise(self, Z, feasible, best):
        """Run dual averaging for all epsilons at once; return the worst points."""
        n_models, rho = len(self.epsilons_), np.sqrt(self.rho_sq)
        found = np.empty((n_models, self.max_iter - self.burn_in, Z.shape[1]))
        theta, sums = np.zeros_like(best), np.zeros_like(best)
        strength = np.full(n_models, 1.0 / self.lr)
        for step in range(self.max_iter):
            losses = 1.0 - theta @ Z.T
            worst, worst_losses = feasible.worst(theta)
            clean_losses = np.maximum(losses, 0.0).mean(axis=1)
            self._keep_best(best, theta, clean_losses, worst_losses)
            if step >= self.burn_in:
                found[:, step - self.burn_in] = worst
            active = self.epsilons_ * (worst_losses > 0)
            sums -= (losses > 0) @ Z / len(Z) + active[:, None] * worst
            lengths = np.linalg.norm(sums, axis=1)
            strength = np.maximum(strength, lengths / rho)
            theta = -sums / strength[:, None]
        return found

    def _keep_best(self, best, theta, clean_losses, worst_losses):
        """Lower the bounds by models, each of which is good for any epsilon."""
        values = clean_losses[:, None] + worst_losses[:, None] * self.epsilons_
        rows = values.argmin(axis=0)
        values = values.min(axis=0)
        lower = values < self.bounds_
        self.bounds_[lower] = values[lower]
        best[lower] = theta[rows[lower]]

    def _measure(self, Z, feasible, best, found):
        """Make the attacks, and solve the learner's problem under each."""
        self.X_attack_, self.y_attack_ = [], []
        self.attack_losses_ = np.empty(len(self.epsilons_))
        for k, (epsilon, points) in enumerate(zip(self.epsilons_, found, strict=True)):
            # rounded before the floor, as 0.29 * 100 is 28.999999999999996
            poisons = herd(points, math.floor(round(epsilon * len(Z), 9)))
            signs = poisons[:, -1:].copy()
            y_attack = (signs[:, 0] > 0).astype(int)
            centers = feasible.centers[y_attack]
            # off the border, or rounding would put half of them outside
            X_attack = centers + (1 - 1e-9) * (poisons[:, :-1] * signs - centers)
            poisons[:, :-1] = X_attack * signs
            rows = np.concatenate([Z, poisons])
            weights = np.full(len(rows), 1.0 / len(Z))
            theta, _, lower = constrained_svm(rows, weights, np.sqrt(self.rho_sq))
            self.attack_losses_[k] = lower
            clean_loss = np.maximum(1.0 - Z @ theta, 0.0).mean(keepdims=True)
            _, worst_loss = feasible.worst(theta[None])
            self._keep_best(best, theta[None], clean_loss, worst_loss)
            self.X_attack_.append(X_attack)
            self.y_attack_.append(self.classes_[y_attack])
        self.gaps_ = self.bounds_ - self.attack_losses_

    def decision_function(self, X):
        """Return ``X @ coef + intercept``, positive for the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_[0] + self.intercept_[0]

    def predict(self, X):
        """Return the class on whose side of the minimax model each row is."""
        values = self.decision_function(X)
        return self.classes_[(values > 0).astype(int)]
