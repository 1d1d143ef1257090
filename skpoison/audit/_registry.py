"""What the audit knows: attacks and defenses, and the data each is for."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags

from skpoison.utils._containers import is_frame, is_number_type


@dataclass(frozen=True)
class AuditContext:
    """What decides which attacks and defenses apply.

    Attributes
    ----------
    data : {"numeric", "mixed", "sparse", "images"}
        "mixed" is a table with text, categories or missing values.
    image_shape : tuple (C, H, W) or None
        Of one row, for images and for flat images of a network with ``input_shape``.
    n_classes : int
    neural : bool
        Whether the victim is a TorchClassifier, or a pipeline that ends in one.
    """

    data: str
    image_shape: tuple | None
    n_classes: int
    neural: bool

    @classmethod
    def of(cls, estimator, X, y):
        """Look at a victim and its data."""
        final = final_step(estimator)
        neural = _is_plain_network(final)
        shape = getattr(final, "input_shape", None) if neural else None
        if sparse.issparse(X):
            data = "sparse"
        elif np.ndim(X) > 2:
            data, shape = "images", tuple(np.shape(X)[1:])
        else:
            data = "numeric" if _is_numeric(X) else "mixed"
        return cls(data, shape, len(np.unique(np.asarray(y))), neural)


def final_step(estimator):
    """Return the last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _is_plain_network(estimator):
    # by name, so that an audit of classical models does not pay for torch
    kind = type(estimator)
    return (kind.__module__, kind.__name__) == (
        "skpoison.models._estimators",
        "TorchClassifier",
    )


def _is_numeric(X):
    if is_frame(X):
        if not all(map(is_number_type, X.dtypes)):
            return False
        X = np.asarray(X, dtype=float)  # nullable columns have no NaN test of NumPy's
    X = np.asarray(X)
    return X.dtype.kind in "fiu" and not (X.dtype.kind == "f" and np.isnan(X).any())


@dataclass(frozen=True)
class AttackEntry:
    """One attack of the audit.

    Attributes
    ----------
    name : str
    summary : str
        One line.
    threat_model : str
        What the attacker knows, may change and wants.
    make : callable
        ``make(context)`` returns the attack, with a ``budget`` parameter.
    data : frozenset of str
        Kinds of data that it takes, see :class:`AuditContext`.
    goal : {"availability", "backdoor"}
        Decides what damage means.
    auto : bool
        Part of ``attacks="auto"``.
    """

    name: str
    summary: str
    threat_model: str
    make: object
    data: frozenset = frozenset({"numeric", "mixed", "sparse", "images"})
    goal: str = "availability"
    auto: bool = True


@dataclass(frozen=True)
class DefenseEntry:
    """One defense of the audit.

    Attributes
    ----------
    name : str
    summary : str
    wrap : callable
        ``wrap(estimator)`` returns the defended estimator.
    data : frozenset of str
    neural : bool
        Only for victims that are networks.
    auto : bool
        Part of ``defenses="auto"``.
    """

    name: str
    summary: str
    wrap: object
    data: frozenset = frozenset({"numeric", "mixed", "sparse", "images"})
    neural: bool = False
    auto: bool = True


@dataclass
class _Registry:
    kind: str
    entries: dict = field(default_factory=dict)

    def add(self, entry):
        if entry.name in self.entries:
            raise ValueError(f"there is a {self.kind} called {entry.name!r} already")
        self.entries[entry.name] = entry
        return entry

    def applies(self, entry, context):
        neural = getattr(entry, "neural", False)
        return context.data in entry.data and (context.neural or not neural)

    def choose(self, wanted, context):
        """Resolve "auto", a list of names or a dict of objects to entries."""
        name = f"{self.kind}s"
        if isinstance(wanted, str) and wanted == "auto":
            return [
                e for e in self.entries.values() if e.auto and self.applies(e, context)
            ]
        if isinstance(wanted, dict):
            if "none" in wanted:
                raise ValueError(f"{name}: 'none' is the bare estimator's own name")
            return [self._own(str(key), value) for key, value in wanted.items()]
        if isinstance(wanted, str) or not np.iterable(wanted):
            raise ValueError(
                f"{name} must be 'auto', a list of names or a dict from name to "
                f"{self.kind}, got {wanted!r}"
            )
        wanted, chosen = list(wanted), []
        if len(set(map(str, wanted))) < len(wanted):
            raise ValueError(f"{name} names one twice: {wanted}")
        for key in wanted:
            if not isinstance(key, str) or key not in self.entries:
                raise ValueError(
                    f"{name}: {key!r} is not known; there are "
                    f"{', '.join(sorted(self.entries))}; your own go into a dict"
                )
            if not self.applies(self.entries[key], context):
                kind = "network on " if context.neural else "model on "
                raise ValueError(
                    f"{name}: {key!r} does not apply to a {kind}{context.data} data"
                )
            chosen.append(self.entries[key])
        return chosen

    def _own(self, name, value):
        summary = repr(value)
        if self.kind == "attack":
            if not hasattr(value, "poison") or "budget" not in value.get_params():
                raise TypeError(
                    f"attacks[{name!r}] must have poison(X, y) and the parameter "
                    f"budget, got {value!r}"
                )
            goal = "backdoor" if hasattr(value, "apply_trigger") else "availability"
            make = partial(_clone_of, value)
            return AttackEntry(name, summary, "given by the caller", make, goal=goal)
        if isinstance(value, BaseEstimator) and hasattr(value, "fit_predict"):
            return DefenseEntry(name, summary, partial(_filter_with, value))
        if not callable(value):
            raise TypeError(
                f"defenses[{name!r}] must be a detector or a function that turns an "
                f"estimator into a defended one, got {value!r}"
            )
        return DefenseEntry(name, summary, value)


def _clone_of(attack, context):
    return clone(attack)


def _filter_with(detector, estimator):
    from skpoison.compose import FilteredEstimator

    return FilteredEstimator(detector, estimator)


ATTACKS, DEFENSES = _Registry("attack"), _Registry("defense")


def register_attack(entry):
    """Add an attack to the audit.

    Parameters
    ----------
    entry : AttackEntry

    Returns
    -------
    entry : AttackEntry
    """
    return ATTACKS.add(entry)


def register_defense(entry):
    """Add a defense to the audit.

    Parameters
    ----------
    entry : DefenseEntry

    Returns
    -------
    entry : DefenseEntry
    """
    return DEFENSES.add(entry)


# The entries. A new area adds its own here: one line each, imports inside.

_DENSE = frozenset({"numeric", "images"})


def _flips(strategy, context):
    from skpoison.attacks import LabelFlipAttack

    return LabelFlipAttack(strategy)


def _trigger(context):
    from skpoison.attacks import PatchTrigger

    if context.image_shape is None:
        return None
    size = max(1, min(3, min(context.image_shape[1:]) // 3))
    return PatchTrigger(size=size, input_shape=context.image_shape)


def _backdoor(context):
    from skpoison.attacks import BackdoorAttack

    return BackdoorAttack(_trigger(context))


def _clean_label(context):
    from skpoison.attacks import CleanLabelBackdoorAttack

    return CleanLabelBackdoorAttack(_trigger(context))


def _mixup(estimator):
    from skpoison.defenses import MixupClassifier

    network = final_step(estimator)
    defended = MixupClassifier(**network.get_params(deep=False))
    if network is estimator:
        return defended
    return clone(estimator).set_params(**{estimator.steps[-1][0]: defended})


def _isolation_forest(estimator):
    from sklearn.ensemble import IsolationForest

    return _filter_with(IsolationForest(), estimator)


def _label_filter(estimator):
    from skpoison.defenses import LabelIssueDetector

    return _filter_with(LabelIssueDetector(), estimator)


for _entry in (
    AttackEntry(
        "random-flips",
        "labels of random rows changed to a random other class",
        "Knows nothing; changes labels; wants held-out rows misread. The control that "
        "every chosen flip must beat.",
        partial(_flips, "uniform"),
    ),
    AttackEntry(
        "adversarial-flips",
        "labels changed where a surrogate objects most, refitted as the flips go on",
        "Knows the training data; changes labels; wants held-out rows misread.",
        partial(_flips, "adversarial"),
    ),
    AttackEntry(
        "far-flips",
        "labels of the rows farthest from a surrogate's boundary changed",
        "Knows the training data; changes labels; wants held-out rows misread.",
        partial(_flips, "far"),
        auto=False,
    ),
    AttackEntry(
        "margin-flips",
        "labels of the rows nearest to a surrogate's boundary changed",
        "Knows the training data; changes labels that are hard to notice; wants "
        "held-out rows misread.",
        partial(_flips, "margin"),
        auto=False,
    ),
    AttackEntry(
        "pair-flips",
        "labels of random rows changed to the next class",
        "Knows nothing; changes labels; wants held-out rows misread.",
        partial(_flips, "pair"),
        auto=False,
    ),
    AttackEntry(
        "backdoor",
        "a trigger put on rows that are relabelled as the first class",
        "Changes rows and labels; later puts the trigger on any input; wants it read "
        "as the target class.",
        _backdoor,
        goal="backdoor",
    ),
    AttackEntry(
        "clean-label-backdoor",
        "a trigger put on rows of the first class, labels unchanged",
        "Changes rows, every label stays right; later puts the trigger on any input; "
        "wants it read as the target class.",
        _clean_label,
        data=_DENSE,
        goal="backdoor",
    ),
):
    register_attack(_entry)

for _defense in (
    DefenseEntry(
        "label-filter",
        "rows whose labels out-of-fold models contradict are dropped",
        _label_filter,
    ),
    DefenseEntry(
        "mixup",
        "the network is trained on mixtures of rows",
        _mixup,
        neural=True,
    ),
    DefenseEntry(
        "isolation-forest",
        "rows that an isolation forest finds unusual are dropped",
        _isolation_forest,
        data=frozenset({"numeric"}),
        auto=False,
    ),
):
    register_defense(_defense)


def check_victim(name, estimator):
    """Raise unless `estimator` is a classifier instance that can be cloned."""
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator {name!r} is a class; pass an instance, {estimator.__name__}()"
        )
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise TypeError(
            f"estimator {name!r} must follow scikit-learn's estimator API, got "
            f"{estimator!r}"
        )
    if get_tags(estimator).estimator_type != "classifier":
        raise ValueError(
            f"estimator {name!r} must be a classifier: no attack on "
            f"{get_tags(estimator).estimator_type}s is registered; got {estimator!r}"
        )
