"""One job of an audit: a training fold, poisoned once, and all who train on it."""

import time
import warnings

import numpy as np
from sklearn.base import clone

from skpoison.audit._crafting import Crafter
from skpoison.audit._findings import count_dropped, describe_poison, look_at
from skpoison.audit._shared_filter import share_filter, take_back_filter
from skpoison.audit._test_time import Trained
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._containers import take_rows

_NO_TRIES = np.zeros(0, dtype=bool)


def run_job(plan, job):
    """Poison one training fold; train and score every victim on it.

    An attack that aims at the victim is crafted for each, any other once. Defended
    victims share the poison of the bare one, unless the attack is adaptive.

    Parameters
    ----------
    plan : Plan
    job : tuple (attack, budget, fold, trial)
        The attack by its place in the plan; None trains on the clean fold.

    Returns
    -------
    result : dict
        What JSON can hold.
    """
    return _Job(plan, job).run()


class _Job:
    def __init__(self, plan, job):
        self.plan, self.job = plan, job
        attack, self.budget, self.fold, self.trial = job
        self.is_control = attack is None
        train, test = plan.folds[self.fold]
        self.train = train
        self.X, self.y = take_rows(plan.X, train), plan.y[train]
        self.X_test, self.y_test = take_rows(plan.X, test), plan.y[test]
        self.entries = plan.attacks if attack is None else [plan.attacks[attack]]
        self.aims = [plan.aim(e, self.fold, self.trial) for e in self.entries]
        self.craft = Crafter(plan)
        self.federation = plan.federation(self.fold, self.trial)
        self.notes, self.memory = set(), {}
        # what comes after training is tried on the models of the control
        self.probes = {
            i: entry.make(plan.context)
            for i, entry in enumerate(self.entries)
            if not entry.poisons
        }

    def run(self):
        plan, start = self.plan, time.perf_counter()
        rows = []
        twins: dict[int, list] = {i: [] for i in plan.twins(self.job[0])}
        for name in plan.victims:
            for defense in plan.defenses:
                rows.append(self._row(name, defense))
                for i, found in twins.items():
                    found.append(self._twin_row(i, name, defense, rows[-1]))
        return {
            "rows": rows,
            "twins": {str(i): found for i, found in twins.items()},
            "notes": sorted(self.notes | self.craft.notes),
            "stand_ins": self.craft.stand_ins,
            "helpless": self.craft.helpless,
            "poisons": self._pictures(),
            "seconds": time.perf_counter() - start,
        }

    def _defended(self, name, defense):
        """Return a victim behind a defense, what the defense needs unseeded."""
        model, seeds = seeded_victim(self.plan, name, self.fold, self.trial)
        model = share_filter(defense.wrap(model), self.memory)
        for probe in self.probes.values():
            probe.prepare(model)
        return model, seeds

    def _row(self, name, defense):
        """Poison the fold for one victim and defense, train and score."""
        start = time.perf_counter()
        if self.is_control:
            fitted = [
                self.craft((i, 0, self.fold, self.trial), name).attack
                if entry.poisons
                else None
                for i, entry in enumerate(self.entries)
            ]
            return self._score(name, defense, fitted)
        entry = self.entries[0]
        if entry.adaptive and defense is not self.plan.defenses[0]:
            crafted = self._crafted_by_one_who_knows(entry, name, defense)
        else:
            crafted = self.craft(self.job, name)
        seconds = time.perf_counter() - start
        row = self._score(name, defense, [crafted.attack], crafted.data)
        return {**row, "craft_seconds": seconds}

    def _twin_row(self, i, name, defense, static):
        """Return what the adaptive form of this job's attack comes to."""
        entry = self.plan.attacks[i]
        if defense is self.plan.defenses[0]:
            return {**static, "craft_seconds": 0.0}
        start = time.perf_counter()
        crafted = self._crafted_by_one_who_knows(entry, name, defense)
        seconds = time.perf_counter() - start
        row = static  # the same poison and the same seeds
        if crafted.defense is not None:
            row = self._score(name, defense, [crafted.attack], crafted.data)
        return {**row, "craft_seconds": seconds}

    def _crafted_by_one_who_knows(self, entry, name, defense):
        model, _ = self._defended(name, defense)
        return self.craft.against(self.job, entry, name, defense.name, model)

    def _score(self, name, defense, fitted, data=None):
        """Train and score one victim behind one defense."""
        plan = self.plan
        model, seeds = self._defended(name, defense)
        set_random_states(model, seeds, only_missing=True)
        X, y, n_poisoned = self.X, self.y, 0
        if data is not None:
            X, y, n_poisoned = data.X, data.y, int(fitted[0].n_poisoned_)
            if self.federation is not None:
                n_poisoned = self.federation.n_rows(self.budget)
        start, spared, found = time.perf_counter(), 0.0, {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self.federation is None:
                    model.fit(X, y)
                    spared = take_back_filter(model)
                else:
                    self.federation.fit(model, X, y, fitted[0], self.budget)
                score = float(plan.scorers[name](model, self.X_test, self.y_test))
                outcomes = [
                    _NO_TRIES
                    if one is None
                    else one.attack_outcomes(
                        _reader(plan, model, aim), self.X_test, self.y_test
                    )
                    for one, aim in zip(fitted, self.aims, strict=True)
                ]
            seconds = time.perf_counter() - start + spared
            if self.federation is None and self.is_control:
                found = look_at(model, self.train, y, self.X_test, self.y_test)
            elif self.federation is None:
                found = count_dropped(model, y, data.poison_indices)
        except Exception as error:
            if self.is_control:
                raise
            self.notes.add(
                f"{name} with defense {defense.name} could not be trained under "
                f"{self.entries[0].name} at budget {self.budget}, fold {self.fold}: "
                f"{type(error).__name__}: {error}"
            )
            score, outcomes = float("nan"), [_NO_TRIES]
            seconds = time.perf_counter() - start
        row = {
            "estimator": name,
            "defense": defense.name,
            "n_poisoned": n_poisoned,
            "score": score,
            "wins": [int(np.sum(o)) for o in outcomes],
            "tries": [len(o) for o in outcomes],
            "later": {},
            "seconds": seconds,
            "craft_seconds": 0.0,
            **found,
        }
        self._probe(name, model, row)
        return row

    def _probe(self, name, model, row):
        """Attack a trained model, once for all budgets."""
        for i, probe in self.probes.items():
            trained = Trained(
                model,
                self.X,
                self.y,
                self.X_test,
                self.y_test,
                self.federation,
                self.plan.streams.seed(f"attack/{self.fold}/{self.trial}"),
                self.craft.stand_in,
            )
            found, opaque = probe.outcomes(trained, [0.0, *self.plan.budgets])
            counts = [[int(np.sum(o)), len(o)] for o in found]
            row["wins"][i], row["tries"][i] = counts[0]
            row["later"][str(i)] = counts[1:]
            if opaque:
                self.craft.stand_ins.setdefault(self.entries[i].name, []).append(name)

    def _pictures(self):
        """Return examples of what was crafted, from one job of each attack."""
        plan = self.plan
        at = (self.budget, self.fold, self.trial)
        if self.is_control or plan.owners is not None or at != (plan.budgets[-1], 0, 0):
            return []
        return [
            {
                "attack": crafted.name,
                "estimator": crafted.victim,
                "defense": crafted.defense,
                "budget": self.budget,
                **describe_poison(plan, self.train, self.X, self.y, crafted.data),
            }
            for crafted in self.craft.all()
            if crafted.data.poison_indices is not None
        ]


def seeded_victim(plan, name, fold, trial):
    """Return a seeded clone of a bare victim, and the streams of its seeds."""
    seeds = RandomStreams(plan.streams.seed(f"victim/{fold}/{trial}"))
    model = clone(plan.victims[name])
    set_random_states(model, seeds, only_missing=True)
    return model, seeds


def _reader(plan, model, aim):
    """Return by what an attack asks a victim."""
    if aim is None:
        return model.predict
    # an attack keeps its targets as an array; the victim may go by column names
    targets = take_rows(plan.X, aim.rows)
    return lambda _: model.predict(targets)
