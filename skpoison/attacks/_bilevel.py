"""Rows added to the training set of a classifier, optimised against it."""

import numpy as np

from skpoison.attacks._added_rows import AddedRowsAttack
from skpoison.attacks._learner_attack import as_table, in_types_of, rows_and_labels
from skpoison.utils._containers import take_rows
from skpoison.utils._validation import check_label, check_option

_INITS = ["flip", "adaptive", "mean_opposite"]


class BilevelPoisoningAttack(AddedRowsAttack):
    """Add rows that cost a classifier the most, by the gradient of its solution.

    Threat model: the attacker adds ``budget`` rows with labels of his choice, knows
    the training data and the learner with its preprocessing, and wants held-out rows
    misread, or given rows read as he likes. The rows follow the exact derivative of
    the retrained victim's validation loss: the victim's training problem is
    differentiated implicitly, through every preprocessing step and its fitted
    statistics.

    Parameters
    ----------
    estimator : classifier, "victim" or None, default=None
        The learner under attack, cloned: ``LogisticRegression``, ``LinearSVC``,
        ``RidgeClassifier`` or ``SVC``, alone or at the end of a pipeline, have
        gradients; for any other see `surrogate`. "victim" is the estimator of the
        :class:`~skpoison.compose.PoisonedEstimator` around the attack. None is a
        logistic regression behind :func:`~skpoison.utils.make_table_encoder`.
    budget : int or float, default=0.1
        Rows that are added: a count, or a share of the clean rows, floored.
    strategy : {"joint", "greedy", "coordinate"}, default="joint"
        "joint" moves all rows together; "greedy" one after the other, each against
        the earlier ones, as Biggio et al. do; "coordinate" cycles over them with a
        line search each.
    objective : str or callable, default="auto"
        What rises on the validation rows: "log_loss" or "hinge"; "auto" is the loss
        of the learner. A callable is given scores of shape (m, k) and codes of y, and
        returns a number and its gradient by the scores.
    validation_data : (X_val, y_val), default=None
        Rows that the objective is measured on. None: the clean training rows.
    targets : array or data frame of shape (n_targets, n_features), default=None
        Rows that are to be read as `target_labels`; held-out rows do not count then.
    target_labels : label or array of shape (n_targets,), default=None
    init : str or (X0, y0), default="flip"
        Where the rows start: "flip", random clean rows with another label, or with a
        target label; "adaptive", the clean rows and labels whose addition raises the
        objective most, re-estimated as rows are added; "mean_opposite", the mean of a
        class with the label of another; or legal rows and labels of your own, of which
        the first are taken. Labels stay as they are from there on.
    max_iter : int, default=100
        Steps: of all rows for "joint", of each row for "greedy", cycles for
        "coordinate". 0 adds the start rows as they are, the control.
    step_size : float, default=0.03
        First step, in ranges of a column, times the root of the number of columns.
    tol : float, default=1e-4
        Steps are halved when the objective rose by less, relatively, over ten steps,
        and the search ends at a sixteenth.
    bounds : "data", None or (low, high), default="data"
        Box of the numeric columns; "data" is their range in X.
    mutable : list of columns or bool mask, default=None
        Columns that may change; None is all. The others keep what the start row held.
    integer : "auto" or list of columns, default="auto"
        Columns that hold whole numbers only; "auto" goes by their type.
    categorical : "auto" or list of columns, default="auto"
        Columns that hold one of the values seen in X; "auto" goes by their type.
    one_hot : list of lists of columns, default=None
        Numeric columns that together encode one category.
    jacobian : "analytic", "finite-differences" or dict, default="analytic"
        For preprocessing steps without a known derivative:
        "finite-differences" approximates theirs; a dict from the name of a
        ``FunctionTransformer``, or from its function, gives elementwise derivatives.
    surrogate : classifier, default=None
        Differentiated instead of `estimator`. None: `estimator` itself where it has a
        gradient, an ``SVC`` behind ``make_table_encoder`` where it has none, as trees,
        boosting and neighbours.
    max_queries : int, default=0
        Trainings of `estimator` by which the rows are refined afterwards, without
        gradients: at random changes, of which those are kept that raise its loss on
        `validation_data` or `targets`; without either, on a third of the clean rows,
        which these trainings leave out.
    random_state : None, int, RandomState or Generator, default=None
        Smaller budgets start from the first of the rows that larger ones start from.
    verbose : int, default=0
        1 shows a progress bar on stderr.
    checkpoint : str or Path, default=None
        A folder. Killed at any moment, the same call, which needs a `random_state`,
        goes on from there and gives the same rows.

    Attributes
    ----------
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`. The source of a row is the clean row
        that it started from, -1 for "mean_opposite" and rows of your own.
    objective_, start_objective_ : float
        Of the rows added, and of those begun with, by the differentiated model; larger
        is better for the attacker. NaN where nothing is added.
    loss_curve_ : ndarray of shape (n_iter_,)
        The objective as the search goes on: at each step, for "coordinate" after each
        line search.
    n_iter_ : int
    query_curve_ : ndarray of shape (n_queries_,)
        The loss at each training of `estimator` for `max_queries`.
    n_queries_ : int
    gradient_source_ : {"estimator", "surrogate"}
        What was differentiated.

    Raises
    ------
    TypeError
        A preprocessing step without a known derivative, which the message names.
    ValueError
        A parameter out of range; ``"victim"`` without a PoisonedEstimator; a
        `checkpoint` of another call.

    Warns
    -----
    UserWarning
        y holds a single class: nothing is added.
    ConvergenceWarning
        An SVM was not solved to its optimum: the objective is approximate.

    See Also
    --------
    RegressionPoisoningAttack : The same for regressors.
    InfluenceAttack : Edits rows that are there.

    Notes
    -----
    With the victim's objective ``L(theta)``, its Hessian `H` at the solution and the
    attacker's objective ``A(theta)``, one linear system ``H v = dA/dtheta`` serves all
    poisons at once: ``dA/dx_c = -d/dx_c <v, grad l(theta; x_c, y_c)>``. For kernel
    machines the system is that of the margin support vectors. A poison without
    influence, such as one that is no support vector, moves to another clean row, five
    times at most; "coordinate" leaves it where it is. Categories, integers and one-hot
    groups are moved in a continuous relaxation; the victim is always trained on, and
    the objective always measured with, the legal rows nearest to it.

    References
    ----------
    Biggio, Nelson and Laskov (2012), Poisoning attacks against support vector
    machines. ICML.

    Mei and Zhu (2015), Using machine teaching to identify optimal training-set attacks
    on machine learners. AAAI.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn.svm import SVC
    >>> from skpoison.attacks import BilevelPoisoningAttack
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> victim = make_pipeline(StandardScaler(), SVC(kernel="linear"))
    >>> for max_iter in (0, 100):  # flipped rows as they are, and optimised
    ...     attack = BilevelPoisoningAttack(victim, max_iter=max_iter, random_state=0)
    ...     data = attack.poison(X[:300], y[:300])
    ...     print(victim.fit(data.X, data.y).score(X[300:], y[300:]) > 0.9)
    True
    False
    """

    def __init__(
        self,
        estimator=None,
        *,
        budget=0.1,
        strategy="joint",
        objective="auto",
        validation_data=None,
        targets=None,
        target_labels=None,
        init="flip",
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
        self.strategy = strategy
        self.objective = objective
        self.validation_data = validation_data
        self.targets = targets
        self.target_labels = target_labels
        self.init = init
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

    _hint = "; RegressionPoisoningAttack attacks regressors"

    def _check_params(self, X, y):
        super()._check_params(X, y)
        if isinstance(self.init, str):
            check_option("init", self.init, _INITS)
        else:
            table = as_table(X)
            self._given(table, self._legal_rows(table))

    def _given(self, table, legal):
        """Return the start rows and codes that the caller gave."""
        X0, y0 = rows_and_labels("init", self.init, table)
        y0 = np.array([check_label("init", c, self.classes_) for c in y0], dtype=int)
        is_legal = legal.is_legal(X0)
        if not is_legal.all():
            raise ValueError(
                f"init: row {int(np.argmin(is_legal))} is no legal row: bounds, "
                "integer and categorical columns hold for start rows too"
            )
        return in_types_of(table, X0), y0

    def _labels(self, y, streams):
        """Return the label that each clean row gets when a poison starts from it."""
        rng = streams.numpy("labels")
        if self.targets is None:
            n_classes = len(self.classes_)
            return (y + rng.randint(1, n_classes, len(y))) % n_classes
        wanted = np.flatnonzero(np.isin(self.classes_, self.target_labels_))
        return wanted[rng.randint(len(wanted), size=len(y))]

    def _starts(self, problem, n_rows, streams):
        if isinstance(self.init, str):
            return getattr(self, f"_{self.init}")(problem, n_rows, streams)
        rows, y = self._given(problem.X, problem.legal)
        if len(y) < n_rows:
            raise ValueError(
                f"init holds {len(y)} rows, but the budget allows {n_rows}"
            )
        rows = take_rows(rows, np.arange(n_rows))
        return problem.poisons(rows, y[:n_rows], np.full(n_rows, -1))

    def _more_starts(self, problem, n_rows, streams):
        if self.targets is not None or self.init == "adaptive":
            return []
        return [self._adaptive(problem, n_rows, streams)]

    def _flip(self, problem, n_rows, streams):
        sources = streams.numpy("rows").permutation(len(problem.y))[:n_rows]
        labels = self._labels(problem.y, streams)[sources]
        return problem.poisons(take_rows(problem.X, sources), labels, sources)

    def _mean_opposite(self, problem, n_rows, streams):
        rng = streams.numpy("starts")
        n_classes = len(self.classes_)
        order = streams.numpy("rows").permutation(len(problem.y))[:n_rows]
        labels = self._labels(problem.y, streams)[order]
        others = (labels + rng.randint(1, n_classes, n_rows)) % n_classes
        Z = problem.legal.relax(problem.X)
        means = np.array([Z[problem.y == c].mean(axis=0) for c in range(n_classes)])
        # jitter, or all poisons of a class would move as one
        Z = problem.legal.project(
            means[others] + 0.01 * rng.standard_normal((n_rows, Z.shape[1]))
        )
        like = np.array([np.argmax(problem.y == c) for c in others])
        rows = problem.legal.decode(Z, take_rows(problem.X, like))
        return problem.poisons(rows, labels, np.full(n_rows, -1))

    def _adaptive(self, problem, n_rows, streams):
        n_classes, n = len(self.classes_), len(problem.y)
        is_spare = np.isin(np.arange(n), problem.spares)
        chunk = max(1, n // 100)
        found = np.empty(0, dtype=int)
        labels = np.empty(0, dtype=int)
        while len(found) < n_rows:
            poisons = problem.poisons(take_rows(problem.X, found), labels, found)
            solved = problem.solve(poisons)
            gradient = solved.gradient(
                problem.X_val, problem.y_val, problem.objective, rows=slice(0, 0)
            )
            gain = np.column_stack(
                [gradient.gain(problem.X, np.full(n, c)) for c in range(n_classes)]
            )
            gain[np.arange(n), problem.y] = -np.inf
            gain[found] = gain[~is_spare] = -np.inf
            best = gain.max(axis=1)
            order = np.argsort(-best, kind="stable")[: min(chunk, n - len(found))]
            found = np.concatenate([found, order])
            labels = np.concatenate([labels, gain.argmax(axis=1)[order]])
        rows = take_rows(problem.X, found[:n_rows])
        return problem.poisons(rows, labels[:n_rows], found[:n_rows])
