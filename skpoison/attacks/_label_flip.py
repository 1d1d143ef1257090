"""Label flips: from blind noise to flips chosen against a surrogate."""

import numbers
import warnings

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import check_consistent_length

from skpoison.attacks._implicit._objectives import resolve_objective
from skpoison.attacks._implicit._victim import Victim
from skpoison.base import SamplerMixin
from skpoison.utils import make_table_encoder, set_random_states
from skpoison.utils._containers import flat_numeric, take_rows
from skpoison.utils._validation import check_label, check_number, check_option

_BLIND = ["uniform", "pair", "confusion"]
_BY_SURROGATE = ["margin", "far", "adversarial", "alfa", "influence"]
# fits of "alfa" before it settles for the flips it has; a handful is common
_MAX_ROUNDS = 50


class LabelFlipAttack(SamplerMixin, BaseEstimator):
    """Change the labels of a share of the training rows.

    Threat model: the attacker relabels at most ``budget`` rows and wants held-out
    rows misread; X stays. "uniform" is the control that any chosen flips must beat.

    Parameters
    ----------
    strategy : str, default="uniform"
        Which rows are flipped, and to what:

        - "uniform": random rows to a random other class;
        - "pair": random rows of the classes in `pairs`, each to its partner;
        - "confusion": rows and labels drawn by `confusion_matrix`;
        - "margin": the rows nearest to a surrogate's boundary to their runner-up
          class, the flips that are hardest to notice;
        - "far": the rows farthest from it to their least likely class;
        - "adversarial": rows and labels chosen against a surrogate that is refitted
          as the flips go on, see Notes;
        - "alfa": the flips that a support vector machine is misled by most, for two
          classes [1]_;
        - "influence": the flips that, to first order, raise a differentiable
          surrogate's validation loss most [2]_.
    budget : int or float, default=0.1
        Rows that are flipped: a count, or a share of all rows, floored.
    pairs : dict, default=None
        For "pair": from label to label. None sends every class to the next one in
        order, the last to the first.
    confusion_matrix : array of shape (n_classes, n_classes), default=None
        For "confusion": row i holds the probabilities of the labels given to rows of
        class i. The budget decides how many rows change; the matrix decides which,
        in proportion to its off-diagonal mass.
    surrogate : classifier or "victim", default=None
        For "margin", "far", "adversarial", "alfa" and "influence". None is a logistic
        regression, for "alfa" a linear SVC, behind
        :func:`~skpoison.utils.make_table_encoder`. Needs ``predict_proba`` or
        ``decision_function``; for "alfa" it must be an SVC or LinearSVC, for
        "influence" a classifier with a derivative such as LogisticRegression,
        RidgeClassifier, LinearSVC or SVC, alone or at the end of a pipeline. "victim"
        is the estimator of the :class:`~skpoison.compose.PoisonedEstimator` around.
    validation_data : (X, y), default=None
        For "influence": the rows whose loss is raised. None is the clean training
        rows.
    cv : int, default=5
        Folds of the out-of-fold margins of "margin" and "far".
    chunk_size : int or float, default=0.01
        For "adversarial" and "influence": rows flipped between two fits of the
        surrogate, a count or a share of all rows. Smaller is stronger and slower.
    random_state : None, int, RandomState or Generator, default=None
        The rows of a smaller budget are among those of a larger one, but for "alfa".

    Attributes
    ----------
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.
    surrogate_ : classifier
        For "adversarial" and "alfa": as last fitted; a default one on encoded rows.

    Raises
    ------
    ValueError
        An option out of range, a class that is not in y, a matrix that is none, more
        than two classes for "alfa".
    TypeError
        A surrogate that the strategy can't use.

    Warns
    -----
    UserWarning
        Fewer rows can be flipped than the budget allows; a single class in y.

    Notes
    -----
    "adversarial" follows the loss-gap criterion of ALFA: a flip to label c is worth
    ``log p(c | x; tainted) - log p(c | x; clean)``, that is, it is bought where the
    clean model objects most and the tainted model least. Where ALFA alternates
    between a weighted fit and a linear program for a binary support vector machine,
    the flips here are bought greedily, `chunk_size` at a time, with a refit of the
    surrogate in between: this serves any classifier and any number of classes, and
    keeps the flips of a smaller budget among those of a larger one. The first chunk
    has no tainted model yet and takes the flips that the clean model objects to most.

    "alfa" is that alternation. With l the hinge loss, f the clean machine and g the
    tainted one, it looks for the flips that minimise ``|g|^2 / 2 + C sum_i [l(g(x_i),
    z_i) - l(f(x_i), z_i)]``, z the labels after the flips. For given g the linear
    program over flips of equal cost is solved by sorting, and its solution is whole
    flips, so that the weighted fit of g is a fit on flipped labels; each step lowers
    the objective, until the flips stay the same. The program is solved anew for each
    budget: flips of a smaller one need not be among those of a larger one. Of a
    LinearSVC l is its own `loss`.

    "influence" solves one linear system for the effect that weight on any row with any
    label has on the validation loss through the refitted surrogate, and ranks the
    flips by the effect of the new label less that of the old; after each `chunk_size`
    flips the surrogate is fitted and the system solved again. A flip is no small step
    for its row: the estimate is as good as one row is small among all.

    References
    ----------
    .. [1] Xiao, Xiao and Eckert (2012), Adversarial label flips attack on support
       vector machines. ECAI.
    .. [2] Koh and Liang (2017), Understanding black-box predictions via influence
       functions. ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skpoison.attacks import LabelFlipAttack
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = StandardScaler().fit_transform(X)
    >>> for strategy in ("uniform", "adversarial"):
    ...     attack = LabelFlipAttack(strategy, budget=0.1, random_state=0)
    ...     data = attack.poison(X[:400], y[:400])
    ...     victim = LogisticRegression(max_iter=300).fit(data.X, data.y)
    ...     print(strategy, victim.score(X[400:], y[400:]) > 0.9)
    uniform True
    adversarial False
    """

    def __init__(
        self,
        strategy="uniform",
        *,
        budget=0.1,
        pairs=None,
        confusion_matrix=None,
        surrogate=None,
        validation_data=None,
        cv=5,
        chunk_size=0.01,
        random_state=None,
    ):
        self.strategy = strategy
        self.budget = budget
        self.pairs = pairs
        self.confusion_matrix = confusion_matrix
        self.surrogate = surrogate
        self.validation_data = validation_data
        self.cv = cv
        self.chunk_size = chunk_size
        self.random_state = random_state

    def _check_params(self, X, y):
        check_option("strategy", self.strategy, [*_BLIND, *_BY_SURROGATE])
        check_number("cv", self.cv, low=2, integer=True)
        if isinstance(self.chunk_size, numbers.Integral):
            check_number("chunk_size", self.chunk_size, low=1, integer=True)
        else:
            check_number("chunk_size", self.chunk_size, low=0.0, high=1.0, strict=True)
        if self.strategy == "pair":
            self._partners()
        if self.strategy == "confusion":
            self._transition()
        if self.strategy in _BY_SURROGATE and isinstance(self.surrogate, str):
            check_option("surrogate", self.surrogate, ["victim"])
            raise ValueError(
                "surrogate='victim' needs a PoisonedEstimator around the attack"
            )
        if self.strategy == "alfa":
            self._check_alfa()
        if self.strategy == "influence":
            self._validation_rows()

    def _resample(self, X, y, n_rows, streams):
        if n_rows == 0 or len(self.classes_) < 2:
            if n_rows:
                _warn(
                    f"y holds one class, {self.classes_.tolist()[0]!r}: nothing to flip"
                )
            return self._unchanged(X, y)
        rows, labels = getattr(self, f"_{self.strategy}")(X, y, n_rows, streams)
        if len(rows) < n_rows:
            _warn(
                f"the budget allows {n_rows} flips, but strategy={self.strategy!r} "
                f"finds {len(rows)} rows to flip"
            )
        rows, labels = rows[:n_rows], labels[:n_rows]
        flipped = y.copy()
        flipped[rows] = labels
        return X, flipped, rows, np.arange(len(y))

    # Each strategy returns at least n_rows rows in order of preference, where there
    # are that many, and the label for each.

    def _uniform(self, X, y, n_rows, streams):
        n_classes = len(self.classes_)
        # one draw a row, whether it is flipped or not: labels do not depend on budget
        shift = streams.numpy("labels").randint(1, n_classes, size=len(y))
        rows = streams.numpy("rows").permutation(len(y))
        return rows, ((y + shift) % n_classes)[rows]

    def _partners(self):
        """Return the partner of each class, -1 for a class that stays."""
        n_classes = len(self.classes_)
        if self.pairs is None:
            return (np.arange(n_classes) + 1) % n_classes
        if not isinstance(self.pairs, dict) or not self.pairs:
            raise ValueError(
                f"pairs must be a dict from label to label, got {self.pairs!r}"
            )
        partner = np.full(n_classes, -1)
        for source, target in self.pairs.items():
            c = check_label("pairs", source, self.classes_)
            partner[c] = check_label("pairs", target, self.classes_)
            if partner[c] == c:
                raise ValueError(f"pairs sends {source!r} to itself")
        return partner

    def _pair(self, X, y, n_rows, streams):
        partner = self._partners()
        rows = streams.numpy("rows").permutation(np.flatnonzero(partner[y] >= 0))
        return rows, partner[y[rows]]

    def _transition(self):
        n_classes = len(self.classes_)
        if self.confusion_matrix is None:
            raise ValueError("strategy='confusion' needs confusion_matrix, got None")
        matrix = np.asarray(self.confusion_matrix, dtype=float)
        if matrix.shape != (n_classes, n_classes):
            raise ValueError(
                f"confusion_matrix must have shape ({n_classes}, {n_classes}), one row "
                f"and column a class, got {matrix.shape}"
            )
        sums = matrix.sum(axis=1)
        if not np.isfinite(matrix).all() or (matrix < 0).any() or (sums <= 0).any():
            raise ValueError(
                "confusion_matrix must hold non-negative numbers and no empty row"
            )
        return matrix / sums[:, None]

    def _confusion(self, X, y, n_rows, streams):
        off = self._transition()
        np.fill_diagonal(off, 0.0)
        rate = off.sum(axis=1)
        draw = streams.numpy("labels").rand(len(y), 1)
        cumulated = np.cumsum(off, axis=1) / np.where(rate, rate, 1.0)[:, None]
        labels = (draw >= cumulated[y]).sum(axis=1)
        # rows without replacement in proportion to their rate: exponential clocks
        with np.errstate(divide="ignore"):
            clock = streams.numpy("rows").exponential(size=len(y)) / rate[y]
        rows = np.argsort(clock, kind="stable")[: np.count_nonzero(rate[y])]
        return rows, labels[rows].clip(max=len(self.classes_) - 1)

    def _margins(self, X, y, streams):
        """Return out-of-fold log-probabilities and the margin of each row."""
        X, model = self._prepare(X, streams)
        counts = np.bincount(y)
        if counts.max() < 2:
            raise ValueError(
                f"strategy={self.strategy!r} needs a class with two rows or more: its "
                "margins are out of fold"
            )
        # the lone row of a class goes along but is not judged by a model that saw it
        folds = min(self.cv, counts[counts > 1].min())
        splits = StratifiedKFold(
            folds, shuffle=True, random_state=streams.seed("folds")
        )
        log_proba = np.empty((len(y), len(self.classes_)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            parts = list(splits.split(np.zeros(len(y)), y))
        for train, test in parts:
            fold = clone(model).fit(take_rows(X, train), y[train])
            log_proba[test] = _log_proba(fold, take_rows(X, test), y)
        own = np.arange(len(y)), y
        rivals = log_proba.copy()
        rivals[own] = -np.inf
        return log_proba, rivals, log_proba[own] - rivals.max(axis=1)

    def _margin(self, X, y, n_rows, streams):
        _, rivals, margin = self._margins(X, y, streams)
        rows = np.argsort(margin, kind="stable")
        return rows, rivals.argmax(axis=1)[rows]

    def _far(self, X, y, n_rows, streams):
        log_proba, _, margin = self._margins(X, y, streams)
        log_proba[np.arange(len(y)), y] = np.inf
        rows = np.argsort(-margin, kind="stable")
        return rows, log_proba.argmin(axis=1)[rows]

    def _adversarial(self, X, y, n_rows, streams):
        X, model = self._prepare(X, streams)
        chunk = self._chunk(len(y))
        clean = _log_proba(model.fit(X, y), X, y)
        tainted_labels = y.copy()
        rows = np.empty(0, dtype=int)
        worth = -clean
        while len(rows) < n_rows:
            gain = worth.copy()
            gain[np.arange(len(y)), y] = -np.inf
            gain[rows] = -np.inf
            best = gain.max(axis=1)
            order = np.argsort(-best, kind="stable")[: min(chunk, len(y) - len(rows))]
            tainted_labels[order] = gain.argmax(axis=1)[order]
            rows = np.concatenate([rows, order])
            # flips without end may leave one class, which nothing can be fitted on
            if len(rows) < n_rows and len(np.unique(tainted_labels)) > 1:
                model = clone(model).fit(X, tainted_labels)
                worth = _log_proba(model, X, y) - clean
        self.surrogate_ = model
        return rows, tainted_labels[rows]

    def _check_alfa(self):
        if len(self.classes_) > 2:
            raise ValueError(
                "strategy='alfa' is binary: it is defined for two classes, but y has "
                f"{len(self.classes_)}; strategy='adversarial' and "
                "strategy='influence' take any number"
            )
        if self.surrogate is not None and not isinstance(
            _last(self.surrogate), SVC | LinearSVC
        ):
            raise TypeError(
                "surrogate must be an SVC or LinearSVC, alone or at the end of a "
                f"pipeline, for strategy='alfa', got {self.surrogate!r}"
            )

    def _alfa(self, X, y, n_rows, streams):
        X, model = self._prepare(X, streams, SVC(kernel="linear"))
        squared = getattr(_last(model), "loss", "hinge") == "squared_hinge"

        def objection(model):
            """How much more loss the flipped label of each row has than its own."""
            margin = model.decision_function(X) * np.where(y == 1, 1.0, -1.0)
            own, flipped = ((1 - s * margin).clip(min=0) for s in (1, -1))
            return flipped**2 - own**2 if squared else flipped - own

        clean = objection(model.fit(X, y))
        tainted, chosen = 0.0, np.zeros(len(y), dtype=bool)
        for _ in range(_MAX_ROUNDS):
            cost = tainted - clean
            rows = np.argsort(cost, kind="stable")[:n_rows]
            flips = np.isin(np.arange(len(y)), rows)
            labels = np.where(flips, 1 - y, y)
            if np.array_equal(flips, chosen) or len(np.unique(labels)) < 2:
                break
            chosen = flips
            model = clone(model).fit(X, labels)
            tainted = objection(model)
        self.surrogate_ = model
        return rows, labels[rows]

    def _validation_rows(self):
        """Return the rows and codes of `validation_data`, or None twice."""
        if self.validation_data is None:
            return None, None
        if (
            not isinstance(self.validation_data, tuple | list)
            or len(self.validation_data) != 2
        ):
            raise TypeError(
                "validation_data must be None or a pair (X, y), got "
                f"{type(self.validation_data).__name__}"
            )
        X_val, y_val = self.validation_data
        X_val, labels = flat_numeric(X_val), np.asarray(y_val).ravel()
        check_consistent_length(X_val, labels)
        known, codes = np.unique(labels, return_inverse=True)
        own = [check_label("validation_data y", c, self.classes_) for c in known]
        return X_val, np.array(own)[codes]

    def _influence(self, X, y, n_rows, streams):
        X_val, y_val = self._validation_rows()
        X = flat_numeric(X)
        if self.surrogate is None:
            encoder = make_table_encoder(X).fit(X)
            X = encoder.transform(X)
            X_val = X_val if X_val is None else encoder.transform(X_val)
            model = LogisticRegression()
        else:
            model = clone(self.surrogate)
            set_random_states(model, streams, only_missing=True)
        if not hasattr(model, "steps"):  # a pipeline knows what to do with a matrix
            X, X_val = (a.toarray() if sparse.issparse(a) else a for a in (X, X_val))
        if X_val is None:
            X_val, y_val = X, y
        victim = Victim(model, classes=self.classes_)
        objective = resolve_objective("auto", victim.learner)

        def effects(solved):
            """Change of the loss by one more copy of each row, under each label."""
            features = solved.features(X)
            V = features if X_val is X else solved.features(X_val)
            _, G = objective(solved.solution.scores(V), y_val)
            adjoint = solved.solution.adjoint(V, G)
            return np.column_stack(
                [
                    adjoint.gain(features, np.full(len(y), c))
                    for c in range(len(self.classes_))
                ]
            )

        chunk = self._chunk(len(y))
        labels = y.copy()
        rows = np.empty(0, dtype=int)
        solved = victim.solve(X, y)
        by_label = effects(solved)
        own = np.arange(len(y)), y
        while len(rows) < n_rows:
            gain = by_label - by_label[own][:, None]
            gain[own] = -np.inf
            gain[rows] = -np.inf
            best = gain.max(axis=1)
            order = np.argsort(-best, kind="stable")[: min(chunk, len(y) - len(rows))]
            labels[order] = gain.argmax(axis=1)[order]
            rows = np.concatenate([rows, order])
            # without a class there is no optimum to differentiate
            if len(rows) < n_rows and len(np.unique(labels)) == len(self.classes_):
                solved = victim.solve(X, labels, start=solved)
                by_label = effects(solved)
        return rows, labels[rows]

    def _chunk(self, n_samples):
        if isinstance(self.chunk_size, numbers.Integral):
            return int(self.chunk_size)
        return max(1, int(self.chunk_size * n_samples))

    def _prepare(self, X, streams, default=None):
        """Return X as the surrogate takes it, and an unfitted surrogate."""
        X = flat_numeric(X)
        if self.surrogate is None:
            # the encoder reads no label: once for all fits
            X = make_table_encoder(X).fit_transform(X)
            return X, LogisticRegression(max_iter=300) if default is None else default
        if not any(
            hasattr(self.surrogate, name)
            for name in ("predict_proba", "decision_function")
        ):
            raise TypeError(
                "surrogate must have predict_proba or decision_function for "
                f"strategy={self.strategy!r}, got {self.surrogate!r}"
            )
        model = clone(self.surrogate)
        if "ovo" in [
            v for k, v in model.get_params().items() if "decision_function_shape" in k
        ]:
            raise ValueError(
                "surrogate must score classes, not pairs of them: "
                "decision_function_shape='ovr' is needed, got 'ovo'"
            )
        set_random_states(model, streams, only_missing=True)
        return X, model


def _last(estimator):
    """Return the final step of nested pipelines."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def _log_proba(model, X, y):
    """Return log-probabilities, one column for each code in y."""
    if hasattr(model, "predict_proba"):
        found = np.log(np.clip(model.predict_proba(X), 1e-12, 1.0))
    else:
        score = model.decision_function(X)
        score = np.column_stack([-score, score]) / 2 if score.ndim == 1 else score
        found = score - np.logaddexp.reduce(score, axis=1, keepdims=True)
    if found.shape[1] == y.max() + 1:
        return found
    # a class that the flips emptied is as unlikely as can be
    log_proba = np.full((len(found), y.max() + 1), np.log(1e-12))
    log_proba[:, model.classes_] = found
    return log_proba


def _warn(message):
    warnings.warn(message, UserWarning, stacklevel=5)
