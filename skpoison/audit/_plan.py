"""What an audit will do, resolved and checked before any work."""

import copy
import difflib
import numbers
import re
import warnings
from dataclasses import dataclass, replace

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets

from skpoison import __version__
from skpoison.audit._adaptive import static_forms
from skpoison.audit._checkpoint import RESULT_VERSION, Checkpoint
from skpoison.audit._clients import (
    ClientAttack,
    Federation,
    check_client_id,
    federated,
    warn_of_nobody,
)
from skpoison.audit._registry import (
    ATTACKS,
    DEFENSES,
    AuditContext,
    DefenseEntry,
    check_victim,
)
from skpoison.audit._scoring import check_best_score
from skpoison.compose._estimators import name_victim
from skpoison.utils import RandomStreams, draw_seed, n_budget, row_keys
from skpoison.utils._containers import as_rows, take_rows
from skpoison.utils._validation import check_number


def _bare(estimator):
    return estimator


_NO_DEFENSE = DefenseEntry("none", "the estimator as it is", _bare)


@dataclass(frozen=True)
class Aim:
    """What targeted attacks aim at in one fold and trial.

    Attributes
    ----------
    rows : ndarray of int
        Of X, in the test fold.
    wanted : label
        What they are all to be read as; the true label of none.
    """

    rows: np.ndarray
    wanted: object

    def parameters_of(self, attack, plan):
        """Return what an attack is to be given."""
        params = {
            "targets": np.asarray(take_rows(plan.X, self.rows)),
            "target_labels": np.full(len(self.rows), self.wanted),
            "target_true_labels": plan.y[self.rows],
        }
        return {k: v for k, v in params.items() if k in attack.get_params(deep=False)}


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
    scoring: object
    context: AuditContext
    checkpoint: Checkpoint
    aims: dict
    static_of: dict
    owners: np.ndarray | None = None

    def federation(self, fold, trial):
        """Return the clients of a training fold, None where rows have no owners."""
        if self.owners is None:
            return None
        seed = self.streams.seed(f"attack/{fold}/{trial}")
        train = self.folds[fold][0]
        return Federation(self.owners[train], seed, self.budgets[-1])

    def make_attack(self, entry):
        """Return an attack with a `budget` and ``poison``."""
        attack = entry.make(self.context)
        return attack if self.owners is None else ClientAttack(attack)

    def aim(self, entry, fold, trial):
        """Return what an attack is to aim at, None if it is not for us to say."""
        return self.aims[fold, trial] if _needs_aim(entry, self.context) else None

    def jobs(self):
        yield from self.clean_jobs()
        yield from self.attack_jobs()

    def clean_jobs(self):
        for fold in range(len(self.folds)):
            for trial in range(self.n_trials):
                yield (None, 0, fold, trial)

    def attack_jobs(self):
        # fold by fold and large budgets first: the long jobs do not come last, and
        # soon there is one of each attack to tell the time from
        for fold in range(len(self.folds)):
            for trial in range(self.n_trials):
                for budget in reversed(self.budgets):
                    for attack, entry in enumerate(self.attacks):
                        # others attack the control's models, or share a job
                        if entry.poisons and attack not in self.static_of:
                            yield (attack, budget, fold, trial)

    def twins(self, attack):
        """Return the adaptive forms of an attack, which share its jobs."""
        return [i for i, static in self.static_of.items() if static == attack]

    def rows(self, done, attack, budget, fold, trial):
        """Return what an attack came to in one fold: a row a victim and defense."""
        if attack in self.static_of:
            job = (self.static_of[attack], budget, fold, trial)
            return done[job]["twins"][str(attack)]
        return done[attack, budget, fold, trial]["rows"]

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
    n_targets,
    client_id,
):
    victims = estimator if isinstance(estimator, dict) else {"estimator": estimator}
    if not victims:
        raise ValueError("estimator must hold at least one estimator, got {}")
    if client_id is not None:
        victims = {name: federated(victim) for name, victim in victims.items()}
    task = _common_task(victims)
    X, y = as_rows(X), np.asarray(y)
    if task == "regression":
        y = _check_numbers(y)
    y = y.ravel()
    check_consistent_length(X, y)
    _check_variety(y, task)
    check_number("n_trials", n_trials, low=1, high=10_000, integer=True)
    check_number("n_targets", n_targets, low=1, integer=True)
    if n_jobs is not None:
        check_number("n_jobs", n_jobs, integer=True)
        if n_jobs == 0:
            raise ValueError("n_jobs must not be 0")
    owners, n_units = None, len(y)
    if client_id is not None:
        owners = check_client_id(client_id, y)
        n_units = len(np.unique(owners))
    budgets = _check_budgets(budgets, n_units)
    if owners is not None:
        warn_of_nobody(budgets, n_units)
    streams = RandomStreams(draw_seed(random_state))
    if hasattr(cv, "__next__"):
        cv = list(cv)
    contexts = [
        AuditContext.of(victim, X, y, owners is not None) for victim in victims.values()
    ]
    # what needs a network must be able to wrap every victim
    context = next((c for c in contexts if not c.neural), contexts[0])
    context = replace(context, linear=all(c.linear for c in contexts))
    chosen_attacks = ATTACKS.choose(attacks, context)
    chosen_defenses = [_NO_DEFENSE, *DEFENSES.choose(defenses, context)]
    if not chosen_attacks:
        raise ValueError(
            "attacks: none is registered for "
            f"{'regressors on ' if task == 'regression' else ''}{context.data} data"
        )
    for entry in chosen_attacks:
        _check_attack(entry, context, next(iter(victims.values())))
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        near = difflib.get_close_matches(scoring, get_scorer_names())
        raise ValueError(
            f"scoring={scoring!r} is no scorer of scikit-learn; close: "
            f"{', '.join(near) or 'none'}"
        )
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(
            f"scoring must be one scorer, str or callable, got {scoring!r}"
        )
    if task == "regression":
        # one unit for all victims, whatever the score of a search or a GLM is
        scoring = "r2" if scoring is None else scoring
        check_best_score(scoring, y)
    scorers = {key: check_scoring(v, scoring) for key, v in victims.items()}
    if isinstance(cv, numbers.Integral):
        check_number("cv", cv, low=2, integer=True)
        if task == "classification":
            _check_rarest(y, cv)
    is_targeted = any(_needs_aim(entry, context) for entry in chosen_attacks)

    def divide(streams):
        folds = _make_folds(cv, y, task, budgets, streams)
        if not is_targeted:
            return folds, {}
        return folds, _draw_aims(X, y, folds, n_trials, n_targets, streams)

    divide(streams)  # what is wrong with them shows here
    fingerprint = {}
    if checkpoint is not None:
        fingerprint = {
            "task": task,
            "estimator": _identity({k: clone(v) for k, v in victims.items()}),
            "X and y": joblib.hash((X, y)),
            "attacks": _identity([(e.name, e.make(context)) for e in chosen_attacks]),
            "defenses": _identity([(e.name, e.wrap) for e in chosen_defenses]),
            "budgets": repr(budgets),
            "cv": _identity(cv),
            "scoring": _identity(scoring),
            "n_trials": repr(n_trials),
            "n_targets": repr(n_targets),
            "client_id": joblib.hash(owners),
            "random_state": repr(
                random_state if isinstance(random_state, int | None) else streams.root
            ),
            "skpoison": __version__,
            "version of the results": RESULT_VERSION,
        }
    saved = Checkpoint(checkpoint, fingerprint, streams.root)
    streams = RandomStreams(saved.root_seed)
    folds, aims = divide(streams)
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
        scoring=scoring,
        context=context,
        checkpoint=saved,
        aims=aims,
        static_of=static_forms(chosen_attacks, context),
        owners=owners,
    )


def _common_task(victims):
    tasks = {key: check_victim(key, victim) for key, victim in victims.items()}
    kinds = {task: key for key, task in reversed(tasks.items())}
    if len(kinds) > 1:
        raise ValueError(
            "estimator must hold classifiers or regressors, not both: "
            f"{kinds['classification']!r} is a classifier, {kinds['regression']!r} a "
            "regressor; audit them apart"
        )
    return next(iter(kinds))


def _check_attack(entry, context, victim):
    """Raise on an attack that would take numbers for classes or the other way."""
    if not entry.poisons:
        return
    attack = name_victim(entry.make(context), victim)
    if not hasattr(attack, "_is_regression"):
        return
    task = "regression" if attack._is_regression() else "classification"
    if task != context.task:
        raise ValueError(
            f"attacks: {entry.name!r} is for {task}, the estimator for {context.task}"
        )


def _check_numbers(y):
    """Return the targets of a regressor as floats."""
    if y.ndim > 1 and y.size != len(y):
        raise ValueError(f"y must hold one target a row, got shape {y.shape}")
    try:
        values = y.astype(float) if y.dtype.kind in "biufO" else None
    except (TypeError, ValueError):
        values = None
    if values is None or not np.isfinite(values).all():
        raise ValueError(
            "y must hold finite numbers for a regressor, got "
            + (f"type {y.dtype}" if values is None else "NaN or infinity")
        )
    return values


def _check_variety(y, task):
    if task == "classification":
        check_classification_targets(y)
    if len(np.unique(y)) < 2:
        kind = "classes" if task == "classification" else "values"
        raise ValueError(f"y must hold at least two {kind}, got one: {y.tolist()[0]!r}")


def _check_rarest(y, cv):
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < cv:
        rarest = classes.tolist()[counts.argmin()]
        raise ValueError(
            f"class {rarest!r} has {counts.min()} rows, fewer than cv={cv} folds"
        )


def _make_folds(cv, y, task, budgets, streams):
    """Return the train and test positions of each fold."""
    regression = task == "regression"
    if isinstance(cv, numbers.Integral):
        kind = KFold if regression else StratifiedKFold
        cv = kind(int(cv), shuffle=True, random_state=streams.seed("folds"))
    else:
        cv = check_cv(cv, y, classifier=not regression)
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
    if regression and min(len(test) for _, test in folds) < 2:
        raise ValueError(
            f"cv={cv!r} makes a test fold of one row, which has no R2; two or more "
            "are needed"
        )
    smallest = min(len(train) for train, _ in folds)
    for budget in budgets:
        if isinstance(budget, numbers.Integral) and int(budget) > smallest:
            raise ValueError(
                f"budgets: {budget} rows are more than the {smallest} of the smallest "
                "training fold"
            )
    return folds


def _needs_aim(entry, context):
    return entry.goal == "targeted" and entry.make(context).targets is None


def _draw_aims(X, y, folds, n_trials, n_targets, streams):
    """Draw targets from each test fold, and the label that is wanted for them."""
    keys = row_keys(np.asarray(X))
    aims = {}
    for fold, (train, test) in enumerate(folds):
        held_out = test[~np.isin(keys[test], keys[train])]
        known = np.unique(y[train]).tolist()
        for trial in range(n_trials):
            rng = streams.numpy(f"targets/{fold}/{trial}")
            wanted = known[rng.randint(len(known))]
            # an attack may be told the true label, which must be one it has seen
            fit = np.isin(y[held_out], known) & (y[held_out] != wanted)
            rows = rng.permutation(held_out[fit])[:n_targets]
            if len(rows) < n_targets:
                raise ValueError(
                    f"n_targets={n_targets}: the test part of fold {fold} has "
                    f"{len(rows)} rows that are not in the training part too and are "
                    f"of another class than {wanted!r}, drawn as the wanted one"
                )
            aims[fold, trial] = Aim(rows, wanted)
    return aims


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
