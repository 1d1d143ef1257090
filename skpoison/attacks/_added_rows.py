"""What attacks share that add optimised rows to a training set."""

import warnings

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from tqdm import tqdm

from skpoison.attacks._implicit._ascent import STRATEGIES, PoisonProblem, Search
from skpoison.attacks._implicit._queries import BlackBox, hold_out, refine
from skpoison.attacks._learner_attack import LearnerAttackMixin, as_table
from skpoison.attacks._legal_rows import LegalRows
from skpoison.base import SamplerMixin
from skpoison.utils._containers import append_rows, take_rows
from skpoison.utils._validation import check_number, check_option


class AddedRowsAttack(LearnerAttackMixin, SamplerMixin, BaseEstimator):
    """Base of attacks that add rows and move them uphill on the victim's loss.

    A subclass has the parameters of :class:`BilevelPoisoningAttack`, or sets what it
    lacks as class attributes, and writes ``_starts``.
    """

    #: Whether the numbers y of poisons move as well; a parameter in regression.
    move_targets = False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags

    def _starts(self, problem, n_rows, streams):
        """Return the poisons to begin with."""
        raise TypeError(f"{type(self).__name__} must define _starts")

    def _more_starts(self, problem, n_rows, streams):
        """Return further poisons that queries try."""
        return []

    def _check_params(self, X, y):
        check_option("strategy", self.strategy, list(STRATEGIES))
        check_number("tol", self.tol, low=0.0)
        check_number("max_queries", self.max_queries, low=0, integer=True)
        if sparse.issparse(X):
            raise TypeError(
                f"Sparse data was passed, but {type(self).__name__} writes dense rows; "
                "use X.toarray(), or LabelFlipAttack, which leaves X alone"
            )
        table = as_table(X)
        self._check_learner_attack(table, y)
        self._legal_rows(table)

    def _legal_rows(self, table):
        return LegalRows(
            table,
            bounds=self.bounds,
            mutable=self.mutable,
            integer=self.integer,
            categorical=self.categorical,
            one_hot=self.one_hot,
        )

    def _resample(self, X, y, n_rows, streams):
        self.objective_ = self.start_objective_ = np.nan
        self.loss_curve_ = self.query_curve_ = np.empty(0)
        self.n_iter_ = self.n_queries_ = 0
        self.gradient_source_ = None
        if not self._is_regression() and len(self.classes_) < 2 and n_rows:
            warnings.warn(
                f"y holds one class, {self.classes_.tolist()[0]!r}: no poison could "
                "carry another label",
                UserWarning,
                stacklevel=4,
            )
            n_rows = 0
        if n_rows == 0:
            return self._unchanged(X, y)
        rows, labels, sources = self._poison_rows(as_table(X), y, n_rows, streams)
        n = len(y)
        if isinstance(X, list):
            rows = rows.tolist()
        elif np.ndim(X) > 2:
            rows = rows.reshape(-1, *np.shape(X)[1:])
        return (
            append_rows(X, rows),
            np.concatenate([y, labels]),
            np.arange(n, n + n_rows),
            np.concatenate([np.arange(n), sources]),
        )

    def _poison_rows(self, table, y, n_rows, streams):
        store = self._store(table, y, streams)
        estimator = self._seeded_estimator(table, streams)
        model, self.gradient_source_ = self._differentiable(estimator, table, streams)
        validation = self._validation(table, y)
        order = streams.numpy("rows").permutation(len(y))
        problem = PoisonProblem(
            model,
            table,
            y,
            self._legal_rows(table),
            self._objective(model.learner),
            validation,
            y_range=(y.min(), y.max()) if self.move_targets else None,
            spares=np.concatenate([order[n_rows:], order[:n_rows]]),
        )
        start = self._starts(problem, n_rows, streams)
        problem.last = None  # as a resumed run will find it
        self.start_objective_ = self.objective_ = problem.value(start)
        problem.last = None
        found = start
        if self.max_iter:
            n_turns = 1 if self.strategy == "joint" else n_rows
            step = self.step_size * np.sqrt(max(1, problem.legal.n_mobile))
            with self._progress(n_turns * self.max_iter) as bar:
                search = Search(
                    self.max_iter, step, self.tol, store, lambda _: bar.update()
                )
                found, self.objective_ = STRATEGIES[self.strategy](
                    problem, start, search
                )
            self.loss_curve_ = np.array(search.curve)
            self.n_iter_ = len(search.curve)
        if self.max_queries:
            found = self._refined(problem, estimator, start, found, streams, store)
        self._warn_unless_solved(problem)
        return *problem.decode(found), found.sources

    def _refined(self, problem, estimator, start, found, streams, store):
        """Return the poisons as queries to the victim have left them."""
        X, y, X_val, y_val = problem.X, problem.y, problem.X_val, problem.y_val
        if X_val is None:
            held, kept = hold_out(len(y), start.sources, streams.numpy("held out"))
            X_val, y_val = take_rows(X, held), y[held]
            X, y = take_rows(X, kept), y[kept]
            problem.spares = problem.spares[~np.isin(problem.spares, held)]
        black_box = BlackBox(
            estimator,
            X,
            y,
            X_val,
            y_val,
            classes=getattr(self, "classes_", None),
            goal=-1 if self.targets is not None else 1,
        )
        problem.last = None  # as a resumed run will find it
        starts = [found, start, *self._more_starts(problem, len(found), streams)]
        with self._progress(self.max_queries) as bar:
            search = Search(0, 0.0, 0.0, store, lambda _: bar.update())
            refined = refine(
                problem, starts, black_box, self.max_queries, streams, search
            )
        self.query_curve_ = np.array(search.curve)
        self.n_queries_ = len(search.curve)
        if refined is not found:
            problem.last = None
            self.objective_ = problem.value(refined)
        return refined

    def _progress(self, total):
        return tqdm(total=total, disable=not self.verbose, leave=False)
