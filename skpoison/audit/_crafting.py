"""The poisons of an audit: shared by all victims, or made against each."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch

from skpoison.audit._adaptive import adapted
from skpoison.audit._ingest import default_estimators
from skpoison.audit._registry import is_network
from skpoison.compose._estimators import name_victim, victim_parameters
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._containers import take_rows


def _used_surrogate(attack):
    """Tell whether an attack followed another model than the victim given."""
    source = getattr(attack, "gradient_source_", None)
    return source == "surrogate" and getattr(attack, "n_iter_", 1) > 0


@dataclass
class Crafted:
    """A fitted attack and what it made.

    Attributes
    ----------
    attack : attack
    data : Bunch or None
        None for a control.
    name : str
        Of the entry.
    victim, defense : str or None
        Whom it is meant for, None for all.
    """

    attack: Any
    data: Any
    name: str
    victim: str | None
    defense: str | None


class Crafter:
    """Crafts the poisons of one job: for each victim its own only where needed.

    What is put in the place of "victim" has the victim's own seeds; those that it
    lacks are the attack's. The attacker can't know what the victim will draw, which
    for a network, whose start is drawn, goes for its own seed too. So does it for a
    defended victim that an adaptive attacker trains.
    """

    def __init__(self, plan):
        self.plan = plan
        self.made = {}
        self.notes = set()
        self.stand_ins = {}  # by attack: the victims without a gradient
        self.helpless = {}  # by adaptive attack: the defenses it has no way around

    def __call__(self, job, victim):
        """Return what is crafted against a bare victim."""
        entry = self.plan.attacks[job[0]]
        if not victim_parameters(entry.make(self.plan.context)):
            victim = None
        key = job, victim, None
        if key not in self.made:
            self.made[key] = self._crafted(job, victim)
        return self.made[key]

    def against(self, job, entry, victim, defense, model):
        """Return what an adaptive attack makes of the poison against a bare victim.

        Where nobody knows how, or nothing is gained, that is what is crafted against
        the bare one.
        """
        static = self(job, victim)
        poisons = static.data.poison_indices
        if poisons is not None and not len(poisons):
            return static
        _, budget, fold, _ = job
        train = self.plan.folds[fold][0]
        model = self._trained_by_attacker(model, job)
        attack = None
        if poisons is not None:
            attack = adapted(static.attack, static.data, model)
        if attack is None:
            known = self.helpless.setdefault(entry.name, [])
            if defense not in known:
                known.append(defense)
            return static
        what = f"{entry.name} against {victim} behind {defense}"
        X, y = take_rows(self.plan.X, train), self.plan.y[train]
        data = self._noted(what, budget, lambda: _poison(attack, X, y))
        if data is static.data:
            return static
        crafted = Crafted(attack, data, entry.name, victim, defense)
        self.made[job, victim, (entry.name, defense)] = crafted
        return crafted

    def all(self):
        """Return all that was crafted, in its order."""
        return list(self.made.values())

    def _crafted(self, job, name):
        from skpoison.attacks._implicit._objectives import NotDifferentiableError

        entry = self.plan.attacks[job[0]]
        victim = None if name is None else self.plan.victims[name]
        what = entry.name if name is None else f"{entry.name} against {name}"
        try:
            attack, data = self._noted(what, job[1], lambda: self._craft(job, victim))
            opaque = _used_surrogate(attack)
        except NotDifferentiableError:
            attack, data = self._noted(
                what, job[1], lambda: self._craft(job, victim, smooth=True)
            )
            opaque = True
        if opaque:
            known = self.stand_ins.setdefault(entry.name, [])
            if name not in known:
                known.append(name)
        return Crafted(attack, data, entry.name, name, None)

    def _noted(self, what, budget, craft):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            crafted = craft()
        if budget:
            self.notes |= {
                f"{what} at budget {budget}: {w.message}"
                for w in caught
                if w.category is UserWarning
            }
        return crafted

    def _craft(self, job, victim, smooth=False):
        plan = self.plan
        attack = self._attack(job, victim)
        if smooth:
            name = "surrogate" if hasattr(attack, "surrogate") else "estimator"
            attack.set_params(**{name: self._stand_in(attack)})
            set_random_states(attack, self._seeds(job), only_missing=True)
        train = plan.folds[job[2]][0]
        data = _poison(attack, take_rows(plan.X, train), plan.y[train])
        # of a control the data are the clean ones
        return attack, _completed(attack, data) if job[1] else None

    def _attack(self, job, victim):
        """Return an attack, seeded, that knows a bare victim and its aim."""
        plan = self.plan
        index, budget, fold, trial = job
        attack = plan.make_attack(plan.attacks[index]).set_params(budget=budget)
        aim = plan.aim(plan.attacks[index], fold, trial)
        if aim is not None:
            attack.set_params(**aim.parameters_of(attack, plan))
        if victim is not None:
            if is_network(victim):
                victim = self._trained_by_attacker(victim, job)
            attack = name_victim(attack, victim)
        set_random_states(attack, self._seeds(job), only_missing=True)
        return attack

    def _seeds(self, job):
        # the same for every attack and budget: poisoned rows are nested and paired
        _, _, fold, trial = job
        return RandomStreams(self.plan.streams.seed(f"attack/{fold}/{trial}"))

    def _trained_by_attacker(self, model, job):
        """Return a clone with seeds that are not the victim's."""
        _, _, fold, trial = job
        model = clone(model)
        drawn = self.plan.streams.seed(f"surrogate/{fold}/{trial}")
        set_random_states(model, RandomStreams(drawn))
        return model

    def _stand_in(self, attack):
        from skpoison.attacks._crafted import CraftedAttack

        if isinstance(attack, CraftedAttack):
            return None  # its default, a network
        return self.stand_in()

    def stand_in(self):
        """Return a model, to be fitted, whose gradient is known."""
        models = default_estimators(self.plan.X, self.plan.context.task)
        return next(iter(models.values()))


def _poison(attack, X, y):
    """Let an attacker who already has what he wants do nothing."""
    from skpoison.attacks._matching_attack import NothingToMatchError

    try:
        return attack.poison(X, y)
    except NothingToMatchError as error:
        warnings.warn(f"{error}; no row was poisoned", UserWarning, stacklevel=2)
        return attack.set_params(budget=0).poison(X, y)


def _completed(attack, data):
    """Return what ``poison`` gave with what an attack of one's own may leave out.

    Without `poison_indices` nobody knows which rows are poison: it is None then.
    """
    known = data.get("poison_indices", getattr(attack, "poison_indices_", None))
    sources = data.get("sample_indices")
    if sources is None:
        sources = np.arange(len(data.y))
    return Bunch(**{**data, "poison_indices": known, "sample_indices": sources})
