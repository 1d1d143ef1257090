"""Rows of a training set edited along their influence on the victim's loss."""

import numpy as np
from sklearn.base import BaseEstimator, is_regressor
from tqdm import tqdm

from skpoison.attacks._implicit._ascent import EditProblem, Search, joint
from skpoison.attacks._learner_attack import LearnerAttackMixin, as_table
from skpoison.attacks._legal_rows import LegalRows
from skpoison.base import PerturbationMixin
from skpoison.utils._containers import as_rows, numbers_of, take_rows
from skpoison.utils._validation import check_eps, check_option, warn_unit


class InfluenceAttack(LearnerAttackMixin, PerturbationMixin, BaseEstimator):
    """Edit the training rows with the largest influence, labels unchanged.

    Threat model: the attacker changes at most ``budget`` rows by at most ``eps``,
    labels stay; he knows the training data and the learner with its preprocessing,
    and wants held-out rows misread, or given rows read as he likes.

    Parameters
    ----------
    estimator : classifier, regressor, "victim" or None, default=None
        The learner under attack, see :class:`BilevelPoisoningAttack` and
        :class:`RegressionPoisoningAttack`. None is a logistic regression behind
        :func:`~skpoison.utils.make_table_encoder`.
    budget : int or float, default=0.1
        Rows that are edited: a count, or a share of all rows, floored.
    eps : float or array, default=None
        Radius of an edit in the units of X; broadcasts to one row for "linf". None is
        no radius: rows move freely inside `bounds`.
    norm : {"linf", "l2"}, default="linf"
        Of `eps`. "linf" steps along the signs of the gradient, "l2" along its
        direction.
    objective, validation_data, targets, target_labels
        See :class:`BilevelPoisoningAttack`. Validation rows default to the clean
        training rows.
    max_iter : int, default=30
        Steps; the victim is retrained after each.
    step_size : float, default=0.1
        First step, in units of `eps` but at most of a column's range.
    bounds : "data", None or (low, high), default="data"
        Box that edited values never leave.
    mutable, integer : list of columns
        See :class:`BilevelPoisoningAttack`; "auto" integers are columns of an integer
        type.
    jacobian, surrogate
        See :class:`BilevelPoisoningAttack`.
    random_state : None, int, RandomState or Generator, default=None
        The rows of a smaller budget are among those of a larger one.
    verbose, checkpoint
        See :class:`BilevelPoisoningAttack`.

    Attributes
    ----------
    perturbation_, row_keys_, poison_indices_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    influence_ : ndarray of shape (n_samples,)
        Norm of the derivative of the objective by each row, in units of a column's
        range; the largest are edited.
    objective_, start_objective_, loss_curve_, n_iter_, gradient_source_
        See :class:`BilevelPoisoningAttack`.

    See Also
    --------
    BilevelPoisoningAttack : Adds rows instead.

    Notes
    -----
    The derivative by row z is the influence function's,
    ``-grad l(z_test)' H^-1 grad_x grad_theta l(z)``, by the exact Hessian of the
    retrained victim and through its preprocessing. Equal rows are edited together.

    References
    ----------
    Koh and Liang (2017), Understanding black-box predictions via influence functions.
    ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skpoison.attacks import InfluenceAttack
    >>> X, y = load_wine(return_X_y=True)
    >>> victim = make_pipeline(StandardScaler(), LogisticRegression())
    >>> attack = InfluenceAttack(victim, budget=0.1, random_state=0).fit(X, y)
    >>> attack.objective_ > 2 * attack.start_objective_
    True
    """

    def __init__(
        self,
        estimator=None,
        *,
        budget=0.1,
        eps=None,
        norm="linf",
        objective="auto",
        validation_data=None,
        targets=None,
        target_labels=None,
        max_iter=30,
        step_size=0.1,
        bounds="data",
        mutable=None,
        integer="auto",
        jacobian="analytic",
        surrogate=None,
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.estimator = estimator
        self.budget = budget
        self.eps = eps
        self.norm = norm
        self.objective = objective
        self.validation_data = validation_data
        self.targets = targets
        self.target_labels = target_labels
        self.max_iter = max_iter
        self.step_size = step_size
        self.bounds = bounds
        self.mutable = mutable
        self.integer = integer
        self.jacobian = jacobian
        self.surrogate = surrogate
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def _is_regression(self):
        # neither None nor "victim" says of itself what it is
        return hasattr(self.estimator, "fit") and is_regressor(self.estimator)

    def _check_params(self, X, y):
        check_option("norm", self.norm, ["linf", "l2"])
        if self.eps is not None:
            check_eps(self.eps, X.shape[1:], norm=self.norm)
            warn_unit(self.eps, X)
        self._check_learner_attack(self._table, y)
        self._legal_rows()

    def _fit(self, X, y):
        self.objective_ = self.start_objective_ = np.nan
        self.loss_curve_, self.gradient_source_ = np.empty(0), None
        self.influence_, self.n_iter_ = None, 0
        vars(self).update(targets_=None, target_labels_=None)
        # as it came: victims go by its column names, whole numbers by its types
        self._table = as_table(as_rows(X))
        try:
            X = super()._fit(X, y)
        finally:
            del self._table
        if self.influence_ is None:
            self.influence_ = np.zeros(len(X))
        return X

    def _legal_rows(self):
        return LegalRows(
            self._table, bounds=self.bounds, mutable=self.mutable, integer=self.integer
        )

    def _resolve_targets(self, X, y, keys, streams):
        """Leave targets as `_validation` has resolved them: None is no target."""

    def _candidates(self, y):
        is_constant = not self._is_regression() and len(self.classes_) < 2
        return np.full(len(y), not is_constant)

    def _problem(self, X, y, edited, streams):
        table, legal = self._table, self._legal_rows()
        estimator = self._seeded_estimator(table, streams)
        model, self.gradient_source_ = self._differentiable(estimator, table, streams)
        X_val, y_val = self._validation(table, y)
        radius = np.full(legal.n_coordinates, np.inf)
        if self.eps is not None:
            eps = np.broadcast_to(self.eps, X.shape[1:]).reshape(-1).astype(float)
            radius = legal.in_ranges(eps)
        return EditProblem(
            model,
            table,
            y,
            legal,
            self._objective(model.learner),
            # the clean rows: those of the training set are about to change
            (table if X_val is None else X_val, y_val),
            edited=edited,
            radius=radius,
            norm=self.norm,
        )

    def _preference(self, X, y, streams):
        if not self._candidates(y).all():
            return None
        every = np.arange(len(y))
        problem = self._problem(X, y, every, streams)
        poisons = problem.poisons(problem.X, y, every)
        self.start_objective_, G = problem.gradient(poisons)
        self.objective_ = self.start_objective_
        self.influence_ = np.linalg.norm(G, axis=1)
        return self.influence_

    def _craft(self, X, y, rows, streams):
        store = self._store(self._table, y, streams)
        problem = self._problem(X, y, rows, streams)
        poisons = problem.poisons(take_rows(problem.X, rows), y[rows], rows)
        step = self.step_size
        if self.eps is None and self.norm == "l2":
            step *= np.sqrt(max(1, problem.legal.n_mobile))
        with tqdm(total=self.max_iter, disable=not self.verbose, leave=False) as bar:
            search = Search(
                self.max_iter,
                step,
                0.0,
                store,
                lambda _: bar.update(),
                unit=np.minimum(problem.radius, 1.0),
                signed=self.norm == "linf",
            )
            found, self.objective_ = joint(problem, poisons, search)
        self.loss_curve_, self.n_iter_ = np.array(search.curve), len(search.curve)
        self._warn_unless_solved(problem)
        edited, _ = problem.decode(found)
        edited = np.column_stack(
            [numbers_of(edited, j) for j in range(edited.shape[1])]
        )
        start = X[rows].reshape(edited.shape)
        return _difference(start, edited).reshape(-1, *X.shape[1:])


def _difference(start, edited):
    """Return what to add to `start` so that the sum is not beyond `edited`."""
    if start.dtype.kind != "f":
        return edited - start
    edited = edited.astype(start.dtype)
    delta = edited - start
    moved = start + delta
    beyond = np.where(delta > 0, moved > edited, moved < edited)
    return np.where(beyond, np.nextafter(delta, np.zeros_like(delta)), delta)
