"""The poisons of an audit: shared by all victims, or made against each."""

import warnings

from sklearn.base import clone

from skpoison.audit._ingest import default_estimators
from skpoison.audit._registry import is_network
from skpoison.compose._estimators import name_victim, victim_parameters
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._containers import take_rows


def _used_surrogate(attack):
    """Tell whether an attack followed another model than the victim given."""
    source = getattr(attack, "gradient_source_", None)
    return source == "surrogate" and getattr(attack, "n_iter_", 1) > 0


class Crafter:
    """Crafts the poisons of one job: for each victim its own only where needed.

    What is put in the place of "victim" has the victim's own seeds; those that it
    lacks are the attack's. The attacker can't know what the victim will draw, which
    for a network, whose start is drawn, goes for its own seed too.
    """

    def __init__(self, plan):
        self.plan = plan
        self.shared = {}
        self.notes = set()
        self.stand_ins = {}  # by attack: the victims without a gradient

    def __call__(self, job, victim):
        """Return the fitted attack and the poisoned training fold."""
        index, _, fold, trial = job
        entry = self.plan.attacks[index]
        if not victim_parameters(entry.make(self.plan.context)):
            if job not in self.shared:
                self.shared[job] = self._noted(f"{entry.name} at", job)
            return self.shared[job]
        from skpoison.attacks._implicit._objectives import NotDifferentiableError

        what = f"{entry.name} against {victim} at"
        model = self.plan.victims[victim]
        try:
            attack, data = self._noted(what, job, model)
            opaque = _used_surrogate(attack)
        except NotDifferentiableError:
            attack, data = self._noted(what, job, model, smooth=True)
            opaque = True
        if opaque:
            self.stand_ins.setdefault(entry.name, []).append(victim)
        return attack, data

    def _noted(self, what, job, victim=None, smooth=False):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            crafted = self._craft(job, victim, smooth)
        if job[1]:
            self.notes |= {
                f"{what} budget {job[1]}: {w.message}"
                for w in caught
                if w.category is UserWarning
            }
        return crafted

    def _craft(self, job, victim, smooth):
        plan = self.plan
        index, budget, fold, trial = job
        train = plan.folds[fold][0]
        attack = plan.make_attack(plan.attacks[index]).set_params(budget=budget)
        aim = plan.aim(plan.attacks[index], fold, trial)
        if aim is not None:
            attack.set_params(**aim.parameters_of(attack, plan))
        if victim is not None:
            if is_network(victim):
                victim = clone(victim)
                drawn = plan.streams.seed(f"surrogate/{fold}/{trial}")
                set_random_states(victim, RandomStreams(drawn))
            attack = name_victim(attack, victim)
        if smooth:
            name = "surrogate" if hasattr(attack, "surrogate") else "estimator"
            attack.set_params(**{name: self._stand_in(attack)})
        # the same seed for every attack and budget: poisoned rows are nested and paired
        seeds = RandomStreams(plan.streams.seed(f"attack/{fold}/{trial}"))
        set_random_states(attack, seeds, only_missing=True)
        data = _poison(attack, take_rows(plan.X, train), plan.y[train])
        return attack, data if budget else None  # a control: its data are the clean

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
