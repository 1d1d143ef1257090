"""What an audit will do, resolved and checked before any work."""

import copy
import numbers
import re
import warnings
from dataclasses import dataclass

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets

from skpoison import __version__
from skpoison.audit._checkpoint import Checkpoint
from skpoison.audit._registry import (
    ATTACKS,
    DEFENSES,
    AuditContext,
    DefenseEntry,
    check_victim,
)
from skpoison.utils import RandomStreams, draw_seed, n_budget
from skpoison.utils._containers import as_rows
from skpoison.utils._validation import check_number


def _bare(estimator):
    return estimator


_NO_DEFENSE = DefenseEntry("none", "the estimator as it is", _bare)


@dataclass
class Plan:
    """Everything a worker needs, resolved and checked."""

    victims: dict
    X: object
    y: object
    attacks: list
    defenses: list
    budgets: list
    folds: list
    scorers: dict
    n_trials: int
    streams: RandomStreams
    context: AuditContext
    checkpoint: Checkpoint

    def clean_jobs(self):
        for fold in range(len(self.folds)):
            for trial in range(self.n_trials):
                yield (None, 0, fold, trial)

    def attack_jobs(self):
        # fold by fold and large budgets first: the long jobs do not come last
        for fold in range(len(self.folds)):
            for trial in range(self.n_trials):
                for attack in range(len(self.attacks)):
                    for budget in reversed(self.budgets):
                        yield (attack, budget, fold, trial)

    def job_name(self, job):
        attack, budget, fold, trial = job
        if attack is None:
            return f"clean-fold{fold}-trial{trial}"
        name = re.sub(r"[^A-Za-z0-9_-]", "_", self.attacks[attack].name)
        return f"{attack}-{name}-{budget}-fold{fold}-trial{trial}"


def make_plan(
    estimator,
    X,
    y,
    *,
    attacks,
    defenses,
    budgets,
    cv,
    scoring,
    n_trials,
    n_jobs,
    random_state,
    checkpoint,
):
    victims = estimator if isinstance(estimator, dict) else {"estimator": estimator}
    if not victims:
        raise ValueError("estimator must hold at least one estimator, got {}")
    for key, victim in victims.items():
        check_victim(key, victim)
    X, y = as_rows(X), np.asarray(y).ravel()
    check_consistent_length(X, y)
    check_classification_targets(y)
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"y must hold at least two classes, got one: {y.tolist()[0]!r}"
        )
    check_number("n_trials", n_trials, low=1, integer=True)
    if n_jobs is not None:
        check_number("n_jobs", n_jobs, integer=True)
        if n_jobs == 0:
            raise ValueError("n_jobs must not be 0")
    budgets = _check_budgets(budgets, len(y))
    streams = RandomStreams(draw_seed(random_state))
    if hasattr(cv, "__next__"):
        cv = list(cv)
    contexts = [AuditContext.of(victim, X, y) for victim in victims.values()]
    # what needs a network must be able to wrap every victim
    context = next((c for c in contexts if not c.neural), contexts[0])
    chosen_attacks = ATTACKS.choose(attacks, context)
    chosen_defenses = [_NO_DEFENSE, *DEFENSES.choose(defenses, context)]
    if not chosen_attacks:
        raise ValueError(f"attacks: none is registered for {context.data} data")
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(
            f"scoring must be one scorer, str or callable, got {scoring!r}"
        )
    scorers = {key: check_scoring(v, scoring) for key, v in victims.items()}
    if isinstance(cv, numbers.Integral):
        check_number("cv", cv, low=2, integer=True)
        if counts.min() < cv:
            rarest = classes.tolist()[counts.argmin()]
            raise ValueError(
                f"class {rarest!r} has {counts.min()} rows, fewer than cv={cv} folds"
            )
    _make_folds(cv, y, budgets, streams)  # what is wrong with them shows here
    fingerprint = {}
    if checkpoint is not None:
        fingerprint = {
            "estimator": _identity({k: clone(v) for k, v in victims.items()}),
            "X and y": joblib.hash((X, y)),
            "attacks": _identity([(e.name, e.make(context)) for e in chosen_attacks]),
            "defenses": _identity([(e.name, e.wrap) for e in chosen_defenses]),
            "budgets": repr(budgets),
            "cv": _identity(cv),
            "scoring": _identity(scoring),
            "n_trials": repr(n_trials),
            "random_state": repr(
                random_state if isinstance(random_state, int | None) else streams.root
            ),
            "skpoison": __version__,
        }
    saved = Checkpoint(checkpoint, fingerprint, streams.root)
    streams = RandomStreams(saved.root_seed)
    folds = _make_folds(cv, y, budgets, streams)
    return Plan(
        victims=victims,
        X=X,
        y=y,
        attacks=chosen_attacks,
        defenses=chosen_defenses,
        budgets=budgets,
        folds=folds,
        scorers=scorers,
        n_trials=n_trials,
        streams=streams,
        context=context,
        checkpoint=saved,
    )


def _make_folds(cv, y, budgets, streams):
    """Return the train and test positions of each fold."""
    if isinstance(cv, numbers.Integral):
        cv = StratifiedKFold(int(cv), shuffle=True, random_state=streams.seed("folds"))
    else:
        cv = check_cv(cv, y, classifier=True)
        if getattr(cv, "random_state", 0) is None and getattr(cv, "shuffle", True):
            cv = copy.copy(cv)  # a resumed run needs the same folds
            cv.random_state = streams.seed("folds")
    try:
        folds = list(cv.split(np.zeros(len(y)), y))
    except ValueError as error:
        raise ValueError(
            f"cv={cv!r} can't split the data: {error}; a splitter that needs groups "
            "goes in as cv=list(splitter.split(X, y, groups))"
        ) from error
    folds = [tuple(np.arange(len(y))[part] for part in fold) for fold in folds]
    smallest = min(len(train) for train, _ in folds)
    for budget in budgets:
        if isinstance(budget, numbers.Integral) and int(budget) > smallest:
            raise ValueError(
                f"budgets: {budget} rows are more than the {smallest} of the smallest "
                "training fold"
            )
    return folds


def _check_budgets(budgets, n_samples):
    if isinstance(budgets, str) or not np.iterable(budgets):
        raise ValueError(f"budgets must be a list of budgets, got {budgets!r}")
    budgets = [b.item() if isinstance(b, np.generic) else b for b in budgets]
    if 1 in [b for b in budgets if isinstance(b, float)] and any(
        b == 1 for b in budgets if isinstance(b, int)
    ):
        raise ValueError(f"budgets holds 1, a row, and 1.0, all rows: {budgets}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sizes = {b: n_budget(b, n_samples, name="budgets") for b in budgets}
    budgets = sorted((b for b in sizes if b != 0), key=lambda b: sizes[b])
    if not budgets:
        raise ValueError("budgets must hold one that is not 0, got only 0")
    return budgets


def _identity(value):
    """Name a parameter by its content, alike in every process."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    try:
        return joblib.hash(value)
    except Exception as error:  # pickle raises whatever the object does
        raise ValueError(
            "checkpoint needs objects that another process can recognise: define "
            f"functions and classes in a module; got {value!r}"
        ) from error
