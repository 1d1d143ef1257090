"""The audit: every attack, budget and defense on the same folds, victims and seeds."""

import sys
import time
import warnings

import joblib
import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from tqdm import tqdm

from skpoison.audit._collect import collect
from skpoison.audit._crafting import Crafter
from skpoison.audit._plan import NO_SHARE, make_plan
from skpoison.audit._report import AuditReport
from skpoison.audit._test_time import Trained
from skpoison.compose._estimators import victim_parameters
from skpoison.utils import RandomStreams, get_versions, set_random_states
from skpoison.utils._containers import take_rows

_NO_TRIES = np.zeros(0, dtype=bool)


def audit(
    estimator,
    X,
    y,
    *,
    attacks="auto",
    defenses="auto",
    budgets=(0, 0.01, 0.05, 0.1),
    cv=5,
    scoring=None,
    n_jobs=None,
    random_state=None,
    checkpoint=None,
    verbose=1,
    n_trials=1,
    n_targets=1,
    client_id=None,
    name="data",
):
    """Say how poisonable an estimator is on its data, and what each defense buys.

    Each attack poisons the training folds at each budget; the estimator, bare and
    behind each defense, is trained on them from scratch and scored on the clean test
    fold. Folds, seeds, victims and poisoned rows are the same across the settings
    compared, and the rows of a smaller budget are among those of a larger one.

    Parameters
    ----------
    estimator : classifier, regressor or dict of str to them
        The victim, a pipeline for instance; several of one kind under names of your
        own.
    X : array-like, sparse matrix or data frame of shape (n_samples, ...)
        As the estimator takes it. A data frame may hold text and missing values if
        the estimator's pipeline copes with them.
    y : array-like of shape (n_samples,)
        Class labels, or numbers for a regressor.
    attacks : "auto", list of str or dict of str to attack, default="auto"
        "auto" takes what is registered for this kind of data and estimator. An attack
        whose `estimator` or `surrogate` is "victim" is crafted against each bare
        victim.
    defenses : "auto", list of str or dict, default="auto"
        The values of a dict are detectors, or functions from an estimator to a
        defended one. The bare estimator is always there, as "none".
    budgets : sequence of int or float, default=(0, 0.01, 0.05, 0.1)
        Poisoned rows as count or share of the training fold. 0, the control, is
        always there.
    cv : int or splitter, default=5
        An int makes shuffled folds, stratified for classifiers.
    scoring : str or callable, default=None
        The clean score, larger is better. For classifiers a share in [0, 1]; None is
        the estimator's ``score``. For regressors a score that is 1 for perfect
        predictions; None is "r2".
    n_jobs : int, default=None
        Jobs in parallel, in joblib's current backend. The result does not depend on
        it.
    random_state : None, int, RandomState or Generator, default=None
        Seeds whatever in attacks, defenses and estimators has no seed of its own.
    checkpoint : str or Path, default=None
        A folder. Killed at any moment, the same call goes on from there and gives
        the same report.
    verbose : int, default=1
        1 prints the estimated time and memory and a progress bar on stderr.
    n_trials : int, default=1
        Repetitions of each fold with seeds of their own.
    n_targets : int, default=1
        Held-out rows that a targeted attack aims at, together, in each fold and trial.
    client_id : array-like of shape (n_samples,), default=None
        Owners of the rows. The model is then trained by a
        :class:`~skpoison.federated.FederatedClassifier`, which the estimator is, ends
        in or is put into, with its 500 rounds; clients attack while it trains, and
        budgets count clients.
    name : str, default="data"
        What the report calls the data.

    Returns
    -------
    report : AuditReport

    Raises
    ------
    ValueError, TypeError
        Before any work: an unknown attack or defense, a class with fewer rows than
        folds, data that do not fit the estimator, classifiers and regressors in one
        audit, another audit in `checkpoint`.

    Warns
    -----
    UserWarning
        A victim could not be trained on some poisoned fold: its scores are NaN and
        the report says so.

    See Also
    --------
    skpoison.model_selection.robustness_curve : One attack, one victim.
    skpoison.model_selection.evaluate_targeted : Many targets, each attacked alone.

    Notes
    -----
    A targeted attack wants certain inputs misread. For each fold and trial the audit
    draws `n_targets` rows of the test fold, none of which has a copy in the training
    fold, and, with equal chances, the class that they are to be read as, which is not
    theirs. They are the same for every attack, budget, defense and estimator. Success
    is the share of targets that are read so; the control is the same share for the
    model trained on clean data. One target a fold makes few tries: more trials make
    more.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skpoison.audit import audit
    >>> X, y = load_wine(return_X_y=True)
    >>> report = audit(
    ...     GaussianNB(), X, y, attacks=["random-flips"], defenses=[],
    ...     budgets=(0, 0.2), cv=3, random_state=0, verbose=0,
    ... )
    >>> report.table.shape
    (6, 15)
    """
    started = time.perf_counter()
    plan = make_plan(
        estimator,
        X,
        y,
        attacks=attacks,
        defenses=defenses,
        budgets=budgets,
        cv=cv,
        scoring=scoring,
        n_trials=n_trials,
        n_jobs=n_jobs,
        random_state=random_state,
        checkpoint=checkpoint,
        n_targets=n_targets,
        client_id=client_id,
    )
    done = _run(plan, n_jobs=n_jobs, verbose=verbose)
    notes = sorted({note for r in done.values() for note in r["notes"]})
    notes += _hopeless(plan, done)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    rows, timings = collect(plan, done)
    meta = {
        "name": name,
        "task": plan.context.task,
        "estimators": {key: repr(value) for key, value in plan.victims.items()},
        "attacks": {e.name: _describe(plan, e, done) for e in plan.attacks},
        "defenses": {e.name: e.summary for e in plan.defenses},
        "budgets": [0, *plan.budgets],
        "n_samples": len(plan.y),
        "shape": list(np.shape(X)[1:]),
        "data": plan.context.data,
        **_describe_target(plan),
        "n_folds": len(plan.folds),
        "n_trials": n_trials,
        "targets": _describe_aims(plan),
        "scoring": "the estimator's own" if plan.scoring is None else str(plan.scoring),
        "seed": plan.streams.root,
        "notes": notes,
        "versions": get_versions(),
    }
    report = AuditReport(rows, timings, meta)
    if verbose:
        print(
            f"audit of {name} finished in {time.perf_counter() - started:.0f} s",
            file=sys.stderr,
        )
    return report


def _describe(plan, entry, done):
    """Return what the report says of an attack."""
    attack = entry.make(plan.context)
    threat = entry.threat_model
    if plan.owners is not None:
        threat += " A budget is a number or share of the clients."
    if victim_parameters(attack):
        threat += (
            " Crafted against each bare estimator: the attacker does not know the "
            "defense."
        )
    opaque = {v for r in done.values() for v in r["stand_ins"].get(entry.name, [])}
    for victim in sorted(opaque):
        threat += (
            f" No gradient of {victim} is known: that of another model is followed."
        )
    return {
        "summary": entry.summary,
        "threat_model": threat,
        "goal": entry.goal,
        "parameters": repr(attack),
    }


def _hopeless(plan, done):
    """Name the regressors that a constant would beat on clean data."""
    if plan.context.task != "regression":
        return []
    notes = []
    rows = [row for job in plan.clean_jobs() for row in done[job]["rows"]]
    for name in plan.victims:
        bare = [r for r in rows if (r["estimator"], r["defense"]) == (name, "none")]
        score = np.mean([r["score"] for r in bare])
        if score <= 0:
            notes.append(
                f"{name} scores {score:.3f} on clean data, no better than a constant "
                "prediction: its damage says little"
            )
    return notes


def _describe_target(plan):
    y = plan.y
    if plan.context.task == "regression":
        numbers = {"min": y.min(), "max": y.max(), "mean": y.mean(), "std": y.std()}
        target = {key: float(value) for key, value in numbers.items()}
        return {"target": {**target, "n_distinct": len(np.unique(y))}}
    classes, counts = np.unique(y, return_counts=True)
    return {"classes": {str(c): int(n) for c, n in zip(classes, counts, strict=True)}}


def _describe_aims(plan):
    """Say what targeted attacks aimed at, a line a target."""
    return [
        {
            "fold": fold,
            "trial": trial,
            "row": int(row),
            "class": str(plan.y[row]),
            "wanted": str(aim.wanted),
        }
        for (fold, trial), aim in plan.aims.items()
        for row in aim.rows
    ]


def _run(plan, *, n_jobs, verbose):
    jobs = list(plan.jobs())
    done = {}
    for job in jobs:
        result = plan.checkpoint.get(plan.job_name(job))
        if result is not None:
            done[job] = result
    # the first clean fold runs here: it shows errors at once and tells the time
    if jobs[0] not in done:
        done[jobs[0]] = _run_job(plan, jobs[0])
        _check_scores(plan, done[jobs[0]]["rows"])
        plan.checkpoint.put(plan.job_name(jobs[0]), done[jobs[0]])
    waiting = [job for job in jobs if job not in done]
    if verbose:
        _print_estimate(plan, done[jobs[0]], waiting, n_jobs)
    bar = tqdm(
        total=len(jobs), initial=len(done), disable=not verbose, unit="job", leave=False
    )
    saved, plan.checkpoint = plan.checkpoint, None  # workers do not write
    with bar, warnings.catch_warnings():
        # joblib replaces workers that sat idle or grew: no news for the user
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        for job, result in parallel(delayed(_named)(plan, job) for job in waiting):
            done[job] = result
            saved.put(plan.job_name(job), result)
            bar.update()
    plan.checkpoint = saved
    return done


def _check_scores(plan, rows):
    for row in rows:
        scored = f"{row['estimator']} scored {row['score']}"
        if plan.context.task == "regression":
            if not (np.isfinite(row["score"]) and row["score"] <= 1):
                raise ValueError(NO_SHARE.format(scored))
        elif not 0 <= row["score"] <= 1:
            raise ValueError(
                "scoring must give shares in [0, 1], as accuracy or roc_auc do, since "
                f"damage is measured in them; {scored}"
            )


def _named(plan, job):
    return job, _run_job(plan, job)


def _print_estimate(plan, pilot, waiting, n_jobs):
    fits = sum(r["seconds"] for r in pilot["rows"])
    n_workers = joblib.effective_n_jobs(n_jobs)
    craft = {}
    for attack in {job[0] for job in waiting} - {None}:
        craft[attack] = _craft_seconds(plan, attack)
    seconds = sum(fits + craft.get(job[0], 0.0) for job in waiting) / n_workers
    n_fits = len(waiting) * len(plan.victims) * len(plan.defenses)
    text = (
        f"{len(plan.attacks)} attacks x {len(plan.budgets)} budgets x "
        f"{len(plan.defenses)} defenses x {len(plan.victims)} estimators x "
        f"{len(plan.folds)} folds x {plan.n_trials} trials: {n_fits} fits to go, "
        f"about {_duration(seconds)} on {n_workers} worker"
        + ("s" if n_workers > 1 else "")
    )
    memory = _peak_memory()
    if memory is not None:
        total = memory * (1 if n_workers == 1 else 1 + n_workers)
        text += f", about {total / 2**30:.1f} GiB of memory"
    print(text, file=sys.stderr)


def _craft_seconds(plan, attack):
    start = time.perf_counter()
    craft = Crafter(plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in plan.victims:
                craft((attack, plan.budgets[-1], 0, 0), name)
        except Exception:  # the job itself will tell
            return 0.0
    return time.perf_counter() - start


def _peak_memory():
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds):
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _seeded_victim(plan, name, fold, trial):
    """Return a seeded clone of a bare victim, and the streams of its seeds."""
    seeds = RandomStreams(plan.streams.seed(f"victim/{fold}/{trial}"))
    model = clone(plan.victims[name])
    set_random_states(model, seeds, only_missing=True)
    return model, seeds


def _run_job(plan, job):
    """Poison one training fold; train and score every victim on it.

    An attack that aims at the victim is crafted for each, any other once. Defended
    victims share the poison of the bare one.
    """
    attack, budget, fold, trial = job
    train, test = plan.folds[fold]
    X_test, y_test = take_rows(plan.X, test), plan.y[test]
    craft = Crafter(plan)
    entries = plan.attacks if attack is None else [plan.attacks[attack]]
    aims = [plan.aim(entry, fold, trial) for entry in entries]
    notes, rows = set(), []
    federation = plan.federation(fold, trial)
    # what comes after training is tried on the models of the control
    probes = {
        i: entry.make(plan.context)
        for i, entry in enumerate(entries)
        if not entry.poisons
    }
    if attack is None:
        X, y, n_poisoned = take_rows(plan.X, train), plan.y[train], 0
    for name in plan.victims:
        if attack is None:
            controls = [(i, 0, fold, trial) for i in range(len(plan.attacks))]
            fitted = [
                craft(control, name)[0] if entry.poisons else None
                for control, entry in zip(controls, entries, strict=True)
            ]
        else:
            crafted, data = craft(job, name)
            X, y, n_poisoned = data.X, data.y, int(crafted.n_poisoned_)
            if federation is not None:
                n_poisoned = federation.n_rows(budget)
            fitted = [crafted]
        for defense in plan.defenses:
            model, seeds = _seeded_victim(plan, name, fold, trial)
            model = defense.wrap(model)
            for probe in probes.values():
                probe.prepare(model)
            set_random_states(model, seeds, only_missing=True)
            start = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if federation is None:
                        model.fit(X, y)
                    else:
                        federation.fit(model, X, y, fitted[0], budget)
                    score = float(plan.scorers[name](model, X_test, y_test))
                    outcomes = [
                        _NO_TRIES
                        if one is None
                        else one.attack_outcomes(
                            _reader(plan, model, aim), X_test, y_test
                        )
                        for one, aim in zip(fitted, aims, strict=True)
                    ]
            except Exception as error:
                if attack is None:
                    raise
                notes.add(
                    f"{name} with defense {defense.name} could not be trained under "
                    f"{plan.attacks[attack].name} at budget {budget}, fold {fold}: "
                    f"{type(error).__name__}: {error}"
                )
                score, outcomes = float("nan"), [_NO_TRIES]
            wins = [int(np.sum(o)) for o in outcomes]
            tries = [len(o) for o in outcomes]
            later = {}
            for i, probe in probes.items():
                trained = Trained(
                    model,
                    X,
                    y,
                    X_test,
                    y_test,
                    federation,
                    plan.streams.seed(f"attack/{fold}/{trial}"),
                    craft.stand_in,
                )
                found, opaque = probe.outcomes(trained, [0.0, *plan.budgets])
                counts = [[int(np.sum(o)), len(o)] for o in found]
                wins[i], tries[i] = counts[0]
                later[str(i)] = counts[1:]
                if opaque:
                    craft.stand_ins.setdefault(entries[i].name, []).append(name)
            rows.append(
                {
                    "estimator": name,
                    "defense": defense.name,
                    "n_poisoned": n_poisoned,
                    "score": score,
                    "wins": wins,
                    "tries": tries,
                    "later": later,
                    "seconds": time.perf_counter() - start,
                }
            )
    return {
        "rows": rows,
        "notes": sorted(notes | craft.notes),
        "stand_ins": craft.stand_ins,
    }


def _reader(plan, model, aim):
    """Return by what an attack asks a victim."""
    if aim is None:
        return model.predict
    # an attack keeps its targets as an array; the victim may go by column names
    targets = take_rows(plan.X, aim.rows)
    return lambda _: model.predict(targets)
