"""Poisons refined by retraining a victim that has no gradient."""

from dataclasses import replace

import numpy as np
from scipy.special import expit
from sklearn.base import clone, is_classifier

from skpoison.utils._containers import append_rows

_SAVE_EVERY = 10


class BlackBox:
    """The loss of a victim on held-out clean rows, by training it.

    Parameters
    ----------
    estimator : estimator
        Cloned for every training.
    X, y : clean rows, and their codes or numbers
    X_val, y_val : the same, held out
    classes : ndarray or None
        The labels that the codes stand for.
    goal : +1 or -1
        -1 for targets that are to be read as `y_val`.
    """

    def __init__(self, estimator, X, y, X_val, y_val, *, classes, goal):
        self.estimator = estimator
        self.X, self.y, self.X_val, self.y_val = X, y, X_val, y_val
        self.classes = classes
        self.goal = goal

    def loss(self, rows, labels):
        """Train the victim with these poisons and return its loss."""
        model = clone(self.estimator)
        X, y = append_rows(self.X, rows), np.concatenate([self.y, labels])
        if not is_classifier(model):
            predicted = model.fit(X, y).predict(self.X_val)
            return self.goal * float(np.mean((predicted - self.y_val) ** 2))
        model.fit(X, self.classes[y])
        own = self.classes[self.y_val]
        if not hasattr(model, "predict_proba"):
            return self.goal * float(np.mean(model.predict(self.X_val) != own))
        place = {c: j for j, c in enumerate(model.classes_)}
        column = np.array([place.get(c, -1) for c in own])
        proba = np.column_stack([model.predict_proba(self.X_val), np.zeros(len(own))])
        rows = np.arange(len(own))
        mine = proba[rows, column].copy()  # the last column: a class that is lost
        proba[rows, column] = -1.0
        # rows misread, smoothed so that near misses count a little
        return self.goal * float(np.mean(expit(10 * (proba.max(axis=1) - mine))))


def hold_out(n_samples, taken, rng):
    """Split off a third of the clean rows, if possible none that a poison began as.

    A victim that memorises its rows shows no loss on them, and one that is given a
    copy of a row under another label shows a loss there that it has nowhere else.
    """
    order = rng.permutation(n_samples)
    order = order[np.argsort(np.isin(order, taken), kind="stable")]
    held, kept = np.split(order, [max(1, n_samples // 3)])
    return held, np.sort(kept)


def refine(problem, starts, black_box, n_queries, streams, search):
    """Improve poisons by trial: each change that raises the victim's loss is kept.

    Parameters
    ----------
    problem : PoisonProblem
        For the rows that are legal.
    starts : list of Poisons
        Tried first; the best of them is what changes are made to.
    black_box : BlackBox
    n_queries : int
        Trainings of the victim, all told.
    streams : RandomStreams
    search : Search
        For its record and its store.

    Returns
    -------
    poisons : Poisons
    """
    poisons, origin, begin, best = starts[0], 0, 0, -np.inf
    state = search.store.get("queries")
    if state is not None:
        origin, begin = int(state["origin"]), int(state["done"])
        poisons, best = replace(starts[origin], Z=state["Z"]), float(state["best"])
        search.curve[:] = state["curve"].tolist()
    for query in range(begin, n_queries):
        if query < len(starts):
            trial = starts[query]
        else:
            trial = _mutate(problem, poisons, streams.numpy(f"query/{query}"))
        value = black_box.loss(*problem.decode(trial))
        search.note(value)
        if value > best:
            poisons, best = trial, value
            origin = query if query < len(starts) else origin
        if (query + 1) % _SAVE_EVERY == 0 and search.store.keeps:
            search.store.put(
                "queries",
                Z=poisons.Z,
                origin=origin,
                best=best,
                done=query + 1,
                curve=search.curve,
            )
    return poisons


def _mutate(problem, poisons, rng):
    """Move a few poisons: by noise, next to another poison, or to another start."""
    n = len(poisons)
    some = rng.permutation(n)[: rng.randint(1, max(2, n // 4 + 1))]
    kind = rng.randint(3)
    if kind == 2:
        for i in some:
            poisons = problem.restart(poisons, i, rng.randint(5))
        return poisons
    Z = poisons.Z.copy()
    if kind == 1:
        like = rng.randint(n, size=len(some))
        # a label says which side a row belongs to: only poisons of one label mix
        same = poisons.y[like] == poisons.y[some]
        Z[some[same]] = Z[like[same]]
    scale = 10 ** rng.uniform(-2.0, -0.5)
    Z[some] += scale * rng.standard_normal(Z[some].shape)
    return replace(poisons, Z=problem.project(Z))
