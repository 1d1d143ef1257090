"""Attackers who know the defense, and craft their poison against it."""

import warnings

import joblib
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Bunch

from skpoison.audit._registry import final_step
from skpoison.compose import FilteredEstimator
from skpoison.utils._containers import append_rows, put_rows, take_rows

#: Weight of the distance in features against detectors that read a network's: in the
#: objective of gradient matching, which is between 0 and 2.
_FEATURE_WEIGHT = 1.0
#: Trials of a poison on the filter, the first of what a static attacker would do.
_N_ROUNDS = 3


#: Networks and regressors that leave out rows while they are trained.
_DROPPING = {"EPICClassifier", "ABLClassifier", "TRIMRegressor"}


def is_filter(model):
    """Tell whether a model, fitted or not, leaves out or relabels training rows."""
    if isinstance(model, FilteredEstimator):
        return True
    return type(final_step(model)).__name__ in _DROPPING


def trusted_rows(model, y):
    """Return which rows a fitted filter kept with the labels that they came with.

    Parameters
    ----------
    model : estimator
    y : array-like of shape (n_train,)
        What it was trained on.

    Returns
    -------
    trusted : ndarray of bool
    """
    last = final_step(model)
    masks = (model, "is_clean_"), (last, "is_clean_"), (last, "inlier_mask_")
    part, name = next((p, n) for p, n in masks if hasattr(p, n))
    trusted = np.array(getattr(part, name), dtype=bool)
    repaired = getattr(getattr(model, "detector_", None), "repaired_labels_", None)
    if repaired is not None:
        trusted &= np.asarray(repaired) == np.asarray(y)
    return trusted


def is_trained_network(model):
    """Tell whether a model is trained by a network class, of a defense or not."""
    try:
        from skpoison.models import TorchClassifier
    except ImportError:
        return False
    return isinstance(final_step(model), TorchClassifier)


def adaptation_to(model):
    """Return what gradient matching has to know of a network's defense, or None."""
    from skpoison.attacks import Adaptation

    last = final_step(model)
    if hasattr(last, "_hook"):
        return Adaptation(mix=last._hook())
    params = last.get_params(deep=False)
    if "noise_multiplier" in params:
        noise = params["noise_multiplier"]
    elif "max_grad_norm" in params:
        noise = params["noise"]
    else:
        return None
    return Adaptation(gradient_clip=params["max_grad_norm"], gradient_noise=noise)


def evading_features():
    """Return what gradient matching has to know of detectors that read features."""
    from skpoison.attacks import Adaptation

    return Adaptation(feature_weight=_FEATURE_WEIGHT)


class SurvivingPoison(BaseEstimator):
    """Poison that its attacker has tried on the filter that it is to pass.

    The attacker crafts as if there were no filter, and trains the filtered victim on
    the result. Poisons that the filter drops give their places to others: rows that
    were changed in place to the next best ones, rows that were added to copies of
    survivors. After the last round the poison is kept that cost most of the clean
    training rows; the first, that of the static attacker, is among them.

    Parameters
    ----------
    attack : attack
        Of the static attacker, fitted and seeded.
    static : Bunch
        What it made.
    model : estimator
        The victim behind its filter, with seeds that the attacker drew.
    n_rounds : int, default=3
        Trainings of it.

    Attributes
    ----------
    harm_ : list of float
        The attacker's success on the clean training rows after each round.
    n_surviving_ : list of int
        Poisons that passed in each round.
    best_round_ : int
    n_poisoned_ : int
    """

    def __init__(self, attack, static, model, n_rounds=_N_ROUNDS):
        self.attack = attack
        self.static = static
        self.model = model
        self.n_rounds = n_rounds

    def poison(self, X, y):
        """Return the poison that did most harm; `static` itself if that is it."""
        static = self.static
        self.harm_, self.n_surviving_, tried = [], [], []
        added = len(static.sample_indices) > len(y)
        refill = _Copies(static) if added else _NextBest(self.attack, static, X, y)
        for _ in range(self.n_rounds if len(static.poison_indices) else 0):
            data = refill.data()
            model = clone(self.model)
            try:
                model.fit(data.X, data.y)
            except Exception:  # what can't be trained on stays what it was
                break
            outcomes = self.attack.attack_outcomes(model.predict, X, y)
            passed = trusted_rows(model, data.y)[data.poison_indices]
            tried.append(data)
            self.harm_.append(float(np.mean(outcomes)))
            self.n_surviving_.append(int(passed.sum()))
            if not refill.replace(passed):
                break
        self.best_round_ = int(np.argmax(self.harm_)) if tried else 0
        best = tried[self.best_round_] if self.best_round_ else static
        self.n_poisoned_ = len(best.poison_indices)
        return best

    def attack_outcomes(self, predict, X, y):
        """Tell, for each trial on held-out data, whether the attacker got his way."""
        return self.attack.attack_outcomes(predict, X, y)


class _NextBest:
    """Rows changed in place: those that are found give way to the next best ones."""

    def __init__(self, attack, static, X, y):
        self.X, self.y = X, np.asarray(y)
        self.static = static
        n_rows = len(static.poison_indices)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that there are not
            budget = min(2 * n_rows, len(self.y))
            pool = clone(attack).set_params(budget=budget).poison(X, y)
        further = np.setdiff1d(pool.poison_indices, static.poison_indices)
        self.order = np.concatenate([static.poison_indices, further])
        labels = np.asarray(static.y).copy()
        labels[further] = np.asarray(pool.y)[further]
        self.labels = labels
        self.rows = None
        if static.X is not X:
            own = take_rows(static.X, static.poison_indices)
            self.rows = append_rows(own, take_rows(pool.X, further))
        self.n_rows = n_rows
        self.found = np.zeros(len(self.order), dtype=bool)

    def data(self):
        """Return the poisoned training set of this round."""
        self.chosen = np.flatnonzero(~self.found)[: self.n_rows]
        positions = self.order[self.chosen]
        y = self.y.copy()
        y[positions] = self.labels[positions]
        X = self.X
        if self.rows is not None:
            X = put_rows(X, positions, take_rows(self.rows, self.chosen))
        return Bunch(
            X=X, y=y, poison_indices=positions, sample_indices=np.arange(len(y))
        )

    def replace(self, passed):
        """Give up what was found; tell whether there is more to try."""
        self.found[self.chosen[~passed]] = True
        return not passed.all() and not self.found.all()


class _Copies:
    """Rows that were added: those that are found give way to copies of survivors."""

    def __init__(self, static):
        self.static = static
        self.source = np.asarray(static.poison_indices)
        self.n_clean = len(static.sample_indices) - len(self.source)
        self.found = set()

    def data(self):
        """Return the poisoned training set of this round."""
        static, n_clean = self.static, self.n_clean
        rows = np.concatenate([np.arange(n_clean), self.source])
        return Bunch(
            X=take_rows(static.X, rows),
            y=np.asarray(static.y)[rows],
            poison_indices=np.arange(n_clean, len(rows)),
            sample_indices=np.asarray(static.sample_indices)[rows],
        )

    def replace(self, passed):
        """Give up what was found; tell whether there is more to try."""
        self.found |= set(self.source[~passed].tolist())
        alive = [r for r in self.static.poison_indices if r not in self.found]
        if passed.all() or not alive:
            return False
        self.source = np.resize(alive, len(self.source))
        return True


def adapted(attack, static, model):
    """Return an attack that reckons with a defended model, None if it knows no way.

    Parameters
    ----------
    attack : attack
        Fitted against a victim's bare self, and seeded.
    static : Bunch
        What it made.
    model : estimator
        The defended victim, with seeds that the attacker drew.

    Returns
    -------
    attack : attack or None
    """
    params = attack.get_params(deep=False)
    if "adaptation" in params and "surrogate" in params:  # gradient matching
        attack = clone(attack)
        if isinstance(model, FilteredEstimator) and is_trained_network(model.estimator):
            return attack.set_params(adaptation=evading_features())
        if is_trained_network(model):
            return attack.set_params(surrogate=model, adaptation=adaptation_to(model))
    if is_filter(model):
        return SurvivingPoison(attack, static, model)
    return None


def static_forms(entries, context):
    """Return, for each adaptive attack, the one that it starts from, by their places.

    It is told by what is made; the adaptive attacks whose static form is not there
    are left out.
    """
    adaptive = [i for i, entry in enumerate(entries) if entry.adaptive]
    if not adaptive:
        return {}
    static = {
        _content(entry.make(context)): i
        for i, entry in reversed(list(enumerate(entries)))
        if entry.poisons and not entry.adaptive
    }
    found = {i: static.get(_content(entries[i].make(context))) for i in adaptive}
    return {i: at for i, at in found.items() if at is not None}


def _content(attack):
    try:
        return joblib.hash(attack)
    except Exception:  # pickle raises whatever the object does
        return object()  # equal to none
