"""Scorers for searches over defenses of data that are poisoned already."""

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import _num_samples, check_is_fitted

from skpoison.utils import row_keys
from skpoison.utils._containers import as_rows, take_rows
from skpoison.utils._validation import check_option

_KINDS = ["success", "accuracy", "robust"]


class _TriggerScorer:
    """What :func:`trigger_scorer` returns: a scorer that can be pickled."""

    def __init__(self, trigger, target_class, kind, excluded):
        self.trigger, self.target_class = trigger, target_class
        self.kind, self.excluded = kind, excluded

    def __repr__(self):
        return (
            f"trigger_scorer({self.trigger!r}, {self.target_class!r}, "
            f"kind={self.kind!r})"
        )

    def _accept_sample_weight(self):  # scikit-learn asks scorers of a dict
        return False

    def __call__(self, estimator, X, y):
        X, y = as_rows(X), np.asarray(y)
        if self.excluded is not None:
            kept = np.flatnonzero(~np.isin(row_keys(X), self.excluded))
            X, y = take_rows(X, kept), y[kept]
        score = 0.0
        if self.kind != "success":
            score += _share(estimator, X, y)
        if self.kind != "accuracy":
            others = np.flatnonzero(y != self.target_class)
            success = float("nan")
            if len(others):
                marked = self._fitted(X, y).apply(take_rows(X, others))
                success = _share(estimator, marked, self.target_class)
            score = success if self.kind == "success" else score - success
        return score

    def _fitted(self, X, y):
        try:
            check_is_fitted(self.trigger)
        except ValueError:
            return clone(self.trigger).fit(X, y)
        return self.trigger


def _share(estimator, X, y):
    if _num_samples(X) == 0:
        return float("nan")
    return float(np.mean(np.asarray(estimator.predict(X)) == y))


def trigger_scorer(trigger, target_class, *, kind="success", exclude=None):
    """Make a scorer that shows a trigger to a fitted estimator, on held-out rows.

    For searches over defenses where the training data are poisoned before the search
    sees them. Where the attack is part of the search, in a
    :class:`~skpoison.compose.PoisonedEstimator`, take :func:`attack_success_score`.

    Parameters
    ----------
    trigger : trigger object
        With ``fit(X)`` and ``apply(X)``. A fitted one, such as an attack's
        ``shown_trigger_``, is used as it is; of another a clone is fitted on the rows
        that are scored.
    target_class : label
        What the attacker wants marked rows to be read as.
    kind : {"success", "accuracy", "robust"}, default="success"
        "success" is the share of the marked rows of other classes that are read as
        `target_class`; "accuracy" that of the rows as they are that are read rightly;
        "robust" accuracy less success, which a defender maximises.
    exclude : array-like of shape (n_rows, ...), default=None
        Dense rows that are known to be poisoned, whose labels would mislead: they are
        left out of the score, by content, in whatever fold they come.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` returns a float, NaN where no row is left to judge
        by.

    Raises
    ------
    TypeError
        The trigger is none.
    ValueError
        `kind` is none of those.

    See Also
    --------
    wilson_interval : How far a share of so many rows can be trusted.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skpoison.attacks import BackdoorAttack, ColumnTrigger
    >>> from skpoison.metrics import trigger_scorer
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = BackdoorAttack(
    ...     ColumnTrigger([62, 63], values=1.0), budget=0.02, random_state=0
    ... )
    >>> data = attack.poison(X / 16, y)
    >>> scoring = {
    ...     kind: trigger_scorer(
    ...         attack.shown_trigger_, 0, kind=kind, exclude=data.X[data.poison_mask]
    ...     )
    ...     for kind in ("accuracy", "success", "robust")
    ... }
    >>> search = GridSearchCV(
    ...     KNeighborsClassifier(), {"n_neighbors": [1, 9]}, scoring=scoring,
    ...     refit="robust",
    ... ).fit(data.X, data.y)
    >>> for kind in scoring:
    ...     print(search.cv_results_[f"mean_test_{kind}"].round(2))
    [0.97 0.96]
    [0.43 0.03]
    [0.53 0.93]
    """
    if not (hasattr(trigger, "fit") and hasattr(trigger, "apply")):
        raise TypeError(
            f"trigger must have fit and apply, as PatchTrigger() does, got {trigger!r}"
        )
    check_option("kind", kind, _KINDS)
    excluded = None if exclude is None else row_keys(exclude)
    return _TriggerScorer(trigger, target_class, kind, excluded)
