"""What an audit finds beside scores: suspects, poisons, certificates, privacy bills.

Jobs note what they see, as plain numbers that a checkpoint can keep; `gather` puts the
notes of all jobs together.
"""

import math
from collections import Counter, defaultdict
from itertools import product
from typing import Any

import numpy as np

from skpoison.audit._adaptive import is_filter, trusted_rows
from skpoison.audit._registry import final_step
from skpoison.utils._containers import (
    cells_of,
    column_of,
    is_frame,
    is_missing,
    take_rows,
)

_MAX_SUSPECTS = 50
_MAX_EXAMPLES = 4
_MAX_SIDE = 64  # of an image that is kept as an example
_MAX_RADII = 21

_ANY_ROWS = (
    "No r training rows, added, deleted or relabelled, change a certified answer; a "
    "row whose features change counts as two. Training is a function of the rows and "
    "the seed."
)
_FLIPS = (
    "No r flipped training labels change a certified answer of the vote over all "
    "noise, with probability {confidence:g} for each row; features, the set of classes "
    "and what comes before the vote are taken as they are."
)


def look_at(model, train, y, X_test, y_test):
    """Return what is to be known of a model trained on a clean fold.

    Parameters
    ----------
    model : estimator
        Fitted.
    train : ndarray of int
        Positions in X of the rows that it was trained on.
    y : ndarray
        Their labels.
    X_test, y_test : array-like

    Returns
    -------
    found : dict
        With "dropped", "certificate" and "privacy" where there are such.
    """
    found = {}
    if is_filter(model):
        found["dropped"] = _dropped(model, train, y)
    certificate = _certificate(model, X_test, y_test)
    if certificate is not None:
        found["certificate"] = certificate
    bill = getattr(final_step(model), "privacy_", None)
    if bill is not None:
        epsilon = float(bill["epsilon"])
        found["privacy"] = {
            "epsilon": epsilon if math.isfinite(epsilon) else "inf",
            "delta": float(bill["delta"]),
            "adjacency": bill["adjacency"],
            "assumptions": list(bill["assumptions"]),
        }
    return found


def _dropped(model, train, y):
    rows = np.flatnonzero(~trusted_rows(model, y))
    detector = getattr(model, "detector_", final_step(model))
    proposed: list[str | None] = [None] * len(rows)
    ranks: list[float | None] = [None] * len(rows)
    for name in ("repaired_labels_", "proposed_labels_"):
        if hasattr(detector, name):
            proposed = [str(label) for label in getattr(detector, name)[rows]]
    scores = np.asarray(getattr(detector, "scores_", []), dtype=float)
    if scores.shape == np.shape(y):
        below = np.searchsorted(np.sort(scores), scores[rows])
        ranks = (below / max(1, len(y) - 1)).round(6).tolist()
    return {"rows": train[rows].tolist(), "suggested": proposed, "scores": ranks}


def _certificate(model, X_test, y_test):
    last = final_step(model)
    if hasattr(model, "certify") and not hasattr(model, "steps"):
        kind, X = model, X_test
    elif hasattr(last, "certify") and hasattr(last, "confidence"):
        # flips reach no step that reads features alone
        kind, X = last, model[:-1].transform(X_test)
    else:
        return None
    labels, radius = kind.certify(X)
    right = np.asarray(labels) == np.asarray(y_test)
    largest = int(np.max(radius, where=right, initial=0))
    radii = np.unique(np.linspace(0, largest + 1, _MAX_RADII).astype(int))
    if largest + 2 <= _MAX_RADII:
        radii = np.arange(largest + 2)
    flips = hasattr(kind, "confidence")
    return {
        "radii": radii.tolist(),
        "certified_accuracy": [float(np.mean(right & (radius >= r))) for r in radii],
        "unit": "flipped labels" if flips else "poisoned rows",
        "statement": _FLIPS.format(confidence=kind.confidence) if flips else _ANY_ROWS,
    }


def count_dropped(model, y, poisons):
    """Count what a filter dropped, and what of it was poison.

    Parameters
    ----------
    model : estimator
        Fitted.
    y : array-like
        The labels it was trained on.
    poisons : ndarray of int or None
        Positions of the poisoned rows in the training set.

    Returns
    -------
    found : dict
        Empty for a model that drops nothing.
    """
    if poisons is None or not is_filter(model):
        return {}
    dropped = ~trusted_rows(model, y)
    counts = {
        "n_poisoned": len(poisons),
        "n_dropped": int(dropped.sum()),
        "n_poisons_dropped": int(dropped[poisons].sum()),
    }
    return {"filtering": counts}


# Examples of poisons


def describe_poison(plan, train, X, y, data):
    """Return the rows of a poisoned fold that changed most, before and after.

    Parameters
    ----------
    plan : Plan
    train : ndarray of int
        Positions in X of the fold's rows.
    X, y : array-like
        The fold, clean.
    data : Bunch
        As ``poison`` returned it.

    Returns
    -------
    example : dict
    """
    context = plan.context
    shape = context.image_shape
    if shape is not None and len(shape) == 2:
        shape = (1, *shape)
    if shape is not None and len(shape) != 3:  # no picture: volumes, films
        shape = None
    example: dict[str, Any] = {
        "kind": "table" if shape is None else "image",
        "shape": None if shape is None else list(shape),
        "columns": [str(c) for c in X.columns] if is_frame(X) else None,
        "rows": [],
    }
    if shape is not None and max(shape[-2:]) > _MAX_SIDE:
        example["note"] = f"larger than {_MAX_SIDE} x {_MAX_SIDE} pixels: not kept"
        return example
    poisons = np.asarray(data.poison_indices)
    sources = np.asarray(data.sample_indices)[poisons]
    # a row that was added has a source, but does not replace it
    replaced = (sources >= 0) & (len(data.sample_indices) == len(y))
    moved_from = np.where(replaced, sources, -1)
    size = _change(X, data.X, poisons, moved_from, shape is not None)
    chosen = np.argsort(-size, kind="stable")[:_MAX_EXAMPLES]
    labels = np.asarray(data.y)
    for poison, source, swap in zip(
        poisons[chosen], sources[chosen], replaced[chosen], strict=True
    ):
        example["rows"].append(
            {
                "row": int(train[source]) if source >= 0 else -1,
                "before": _values(X, source, shape) if swap else None,
                "after": _values(data.X, poison, shape),
                "y_before": str(y[source]) if swap else None,
                "y_after": str(labels[poison]),
            }
        )
    return example


def _change(X, X_new, poisons, sources, is_image):
    """Return how far rows moved, each column in its own spread; 0 for new rows."""
    moved = np.zeros(len(poisons))
    swapped = np.flatnonzero(sources >= 0)
    if X is X_new or not len(swapped):
        return moved
    before, after = take_rows(X, sources[swapped]), take_rows(X_new, poisons[swapped])
    if is_frame(X):
        for j in range(X.shape[1]):
            pairs = zip(
                *(cells_of(column_of(Z, j)) for Z in (before, after)), strict=True
            )
            moved[swapped] += [_cell(a) != _cell(b) for a, b in pairs]
        return moved
    change = (_dense(after) - _dense(before)).reshape(len(swapped), -1)
    if not is_image:
        spread = _dense(X).reshape(X.shape[0], -1).std(axis=0)
        change /= np.where(spread > 0, spread, 1.0)
    moved[swapped] = np.linalg.norm(change, axis=1)
    return moved


def _dense(X):
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=float)


def _values(X, row, shape):
    """Return a row as nested lists of what JSON can hold."""
    one = take_rows(X, np.array([row]))
    if is_frame(one):
        cells = [cells_of(column_of(one, j))[0] for j in range(one.shape[1])]
        return [_cell(c) for c in cells]
    values = np.array([float(f"{v:.6g}") for v in _dense(one).ravel()])
    return values.reshape(-1 if shape is None else shape).tolist()


def _cell(cell):
    if is_missing(cell):
        return None
    if isinstance(cell, bool | np.bool_):
        return bool(cell)
    if isinstance(cell, int | float | np.number):
        return float(f"{float(cell):.6g}")
    return str(cell)


# All jobs


def gather(plan, done):
    """Put together what the jobs found.

    Parameters
    ----------
    plan : Plan
    done : dict
        From job to result.

    Returns
    -------
    findings : dict of list of dict
    """
    certificates, bills = [], []
    for job in plan.clean_jobs():
        for row in done[job]["rows"]:
            key = {
                "estimator": row["estimator"],
                "defense": row["defense"],
                "fold": job[2],
                "trial": job[3],
            }
            if "certificate" in row:
                certificates.append({**key, **row["certificate"]})
            if "privacy" in row:
                bills.append({**key, **row["privacy"]})
    return {
        "suspects": _suspects(plan, done),
        "filtering": _filtering(plan, done),
        "poisons": [
            example for job in plan.attack_jobs() for example in done[job]["poisons"]
        ],
        "certificates": certificates,
        "privacy": bills,
    }


def _suspects(plan, done):
    """Rank the rows that filters dropped while nobody attacked."""
    n_seen = np.zeros(len(plan.y), dtype=int)
    dropped: Counter = Counter()
    scores: dict = defaultdict(list)
    wanted: dict = defaultdict(Counter)
    by: dict = defaultdict(dict)
    for job in plan.clean_jobs():
        for result in done[job]["rows"]:
            if "dropped" not in result:
                continue
            n_seen[plan.folds[job[2]][0]] += 1
            found = result["dropped"]
            for row, label, score in zip(
                found["rows"], found["suggested"], found["scores"], strict=True
            ):
                dropped[row] += 1
                by[row][result["defense"]] = None
                if score is not None:
                    scores[row].append(score)
                if label is not None and label != str(plan.y[row]):
                    wanted[row][label] += 1
    suspects = [
        {
            "row": row,
            "label": str(plan.y[row]),
            "suggested": wanted[row].most_common(1)[0][0] if wanted[row] else None,
            "n_dropped": count,
            "n_seen": int(n_seen[row]),
            "by": list(by[row]),
            "score": float(np.mean(scores[row])) if scores[row] else None,
        }
        for row, count in dropped.items()
    ]

    def worst_first(one):
        score = -1.0 if one["score"] is None else one["score"]
        return -one["n_dropped"] / one["n_seen"], -score, one["row"]

    return sorted(suspects, key=worst_first)[:_MAX_SUSPECTS]


def _filtering(plan, done):
    """Sum what filters dropped over folds and trials."""
    sums: dict = defaultdict(Counter)
    for i, entry in enumerate(plan.attacks):
        if not entry.poisons:
            continue
        for budget, (_, _, fold, trial) in product(plan.budgets, plan.clean_jobs()):
            for row in plan.rows(done, i, budget, fold, trial):
                if "filtering" in row:
                    key = row["estimator"], entry.name, row["defense"], budget
                    sums[key].update(row["filtering"])
    names = "estimator", "attack", "defense", "budget"
    return [
        {**dict(zip(names, key, strict=True)), **dict(counts)}
        for key, counts in sums.items()
    ]
