"""The audit: every attack, budget and defense on the same folds, victims and seeds."""

import sys
import time
import warnings

import joblib
import numpy as np
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from tqdm import tqdm

from skpoison.audit._collect import collect
from skpoison.audit._findings import gather
from skpoison.audit._job import run_job
from skpoison.audit._plan import make_plan
from skpoison.audit._report import AuditReport
from skpoison.audit._scoring import NO_SHARE
from skpoison.compose._estimators import victim_parameters
from skpoison.utils import get_versions


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
        "auto" takes what is registered for this kind of data and estimator; ``skpoison
        list attacks`` shows all. An attack whose `estimator` or `surrogate` is
        "victim" is crafted against each bare victim, an adaptive one against each
        defended victim, see Notes.
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
        With the scores, what they cost in time, and `findings`: the rows that filters
        distrust in the data as they are, what filters found of the poison, examples
        of poisons, certificates and privacy bills.

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

    An adaptive attacker knows the defense, and has drawn other seeds than the victim.
    He crafts gradient matching through what a network's training does to batches and
    gradients, and with features like those of clean rows against a filter. With any
    other attack he tries his poison on the filter, replaces what it drops, three times
    at most, and keeps what costs most of the clean training rows. He gains nothing for
    sure: the larger of the two damages, static and adaptive, counts. Where neither
    applies, and without a defense, his poison is the static one.

    A detector with the same parameters and seeds runs once for all victims that are
    trained on the same rows; the seconds it took are counted for each.

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
    report = AuditReport(rows, timings, meta, gather(plan, done))
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
    if entry.adaptive:
        threat += " Crafted against each defended estimator."
    elif victim_parameters(attack):
        threat += (
            " Crafted against each bare estimator: the attacker does not know the "
            "defense."
        )
    helpless = {d for r in done.values() for d in r["helpless"].get(entry.name, [])}
    if helpless:
        listed = ", ".join(d.name for d in plan.defenses if d.name in helpless)
        threat += (
            f" No way around {listed} is known: there the poison is the one against "
            "the bare estimator."
        )
    # the adaptive form of an attack starts from what that one made
    at = plan.static_of.get(plan.attacks.index(entry))
    names = {entry.name} if at is None else {entry.name, plan.attacks[at].name}
    opaque = {
        victim
        for result in done.values()
        for name in names
        for victim in result["stand_ins"].get(name, [])
    }
    for victim in sorted(opaque):
        threat += (
            f" No gradient of {victim} is known: that of another model is followed."
        )
    return {
        "summary": entry.summary,
        "threat_model": threat,
        "goal": entry.goal,
        "adaptive": entry.adaptive,
        "helpless_against": [d.name for d in plan.defenses if d.name in helpless],
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
        done[jobs[0]] = run_job(plan, jobs[0])
        _check_scores(plan, done[jobs[0]]["rows"])
        plan.checkpoint.put(plan.job_name(jobs[0]), done[jobs[0]])
    waiting = [job for job in jobs if job not in done]
    n_workers = joblib.effective_n_jobs(n_jobs)
    if verbose:
        _print_estimate(plan, done[jobs[0]], waiting, n_workers)
    bar = tqdm(
        total=len(jobs), initial=len(done), disable=not verbose, unit="job", leave=False
    )
    # one job of each attack tells what it takes to craft
    pilots = {(i, plan.budgets[-1], 0, 0) for i in range(len(plan.attacks))}
    pilots &= set(waiting)
    saved, plan.checkpoint = plan.checkpoint, None  # workers do not write
    with bar, warnings.catch_warnings():
        # joblib replaces workers that sat idle or grew: no news for the user
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        for job, result in _finished(plan, waiting, n_jobs):
            done[job] = result
            saved.put(plan.job_name(job), result)
            bar.update()
            if verbose and pilots and not (pilots := pilots - {job}):
                left = [job for job in waiting if job not in done]
                seconds = _seconds_left(plan, done, left) / n_workers
                bar.write(f"about {_duration(seconds)} to go", file=sys.stderr)
    plan.checkpoint = saved
    return done


def _finished(plan, jobs, n_jobs):
    """Iterate over jobs and their results as they are finished."""
    backend, _ = get_active_backend()
    streams = backend.supports_return_generator
    # another backend, as Ray's, hands results back by rounds
    step = len(jobs) if streams else 8 * joblib.effective_n_jobs(n_jobs)
    return_as = "generator_unordered" if streams else "list"
    with Parallel(n_jobs=n_jobs, return_as=return_as) as parallel:
        for at in range(0, len(jobs), max(step, 1)):
            part = jobs[at : at + step]
            yield from parallel(delayed(_named)(plan, job) for job in part)


def _seconds_left(plan, done, left):
    """Take each job for as long as one of its attack at the largest budget took."""
    return sum(
        done[(None, 0, 0, 0) if job[0] is None else (job[0], plan.budgets[-1], 0, 0)][
            "seconds"
        ]
        for job in left
    )


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
    return job, run_job(plan, job)


def _print_estimate(plan, pilot, waiting, n_workers):
    fits = sum(r["seconds"] for r in pilot["rows"])
    seconds = len(waiting) * fits / n_workers
    n_fits = len(waiting) * len(plan.victims) * len(plan.defenses)
    text = (
        f"{len(plan.attacks)} attacks x {len(plan.budgets)} budgets x "
        f"{len(plan.defenses)} defenses x {len(plan.victims)} estimators x "
        f"{len(plan.folds)} folds x {plan.n_trials} trials: {n_fits} fits to go, "
        f"about {_duration(seconds)} on {n_workers} worker"
        + ("s" if n_workers > 1 else "")
        + " and what it takes to craft the poisons"
    )
    memory = _peak_memory()
    if memory is not None:
        total = memory * (1 if n_workers == 1 else 1 + n_workers)
        text += f", about {total / 2**30:.1f} GiB of memory"
    print(text, file=sys.stderr)


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
