"""Attacks and defenses by name, and the data and victims that each is for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.utils import get_tags

from skpoison.utils._containers import is_frame, is_number_type

CLASSIFICATION = frozenset({"classification"})
REGRESSION = frozenset({"regression"})
ANY_TASK = CLASSIFICATION | REGRESSION
NUMERIC = frozenset({"numeric"})
TABLES = frozenset({"numeric", "mixed"})
DENSE = frozenset({"numeric", "images"})
PIXELS = frozenset({"flat images", "images"})
#: Goals of attacks that poison nothing.
AFTER_TRAINING = ("evasion", "leakage")


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
        0 for a regressor.
    n_rarest : int
        Rows of the rarest class; 0 for a regressor.
    neural : bool
        Whether the victim is a TorchClassifier, or a pipeline that ends in one.
    task : {"classification", "regression"}
    clients : bool
        Whether rows belong to clients, who train the model together.
    linear : bool
        Whether the victim is a linear classifier, or a pipeline that ends in one.
    """

    data: str
    image_shape: tuple | None
    n_classes: int
    neural: bool
    task: str = "classification"
    clients: bool = False
    linear: bool = False
    n_rarest: int = 0

    @property
    def kinds(self):
        """The kinds of data that X is, by which entries say what they take."""
        flat = self.data == "numeric" and self.image_shape is not None
        return {self.data, "flat images"} if flat else {self.data}

    @classmethod
    def of(cls, estimator, X, y, clients=False):
        """Look at a victim and its data."""
        task = task_of(estimator)
        final = final_step(estimator)
        neural = is_network(estimator)
        shape = getattr(final, "input_shape", None) if neural else None
        if sparse.issparse(X):
            data = "sparse"
        elif np.ndim(X) > 2:
            data, shape = "images", tuple(np.shape(X)[1:])
        else:
            data = "numeric" if _is_numeric(X) else "mixed"
        counts = np.zeros(1, dtype=int)
        if task == "classification":
            counts = np.unique(y, return_counts=True)[1]
        return cls(
            data,
            shape,
            n_classes=len(counts) if task == "classification" else 0,
            neural=neural,
            task=task,
            clients=clients,
            linear=isinstance(final, LinearClassifierMixin),
            n_rarest=int(counts.min()),
        )


def task_of(estimator):
    """Return what an estimator is for, None where no attack is."""
    kind = get_tags(estimator).estimator_type
    return {"classifier": "classification", "regressor": "regression"}.get(kind)


def final_step(estimator):
    """Return the last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def is_network(estimator):
    """Tell whether an estimator is a TorchClassifier, or a pipeline that ends in one.

    Not one of a defense.
    """
    # by name, so that an audit of classical models does not pay for torch
    kind = type(final_step(estimator))
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
        Kinds of data that it takes, see :class:`AuditContext`; "flat images" are those
        numeric tables whose rows a network reads as images.
    goal : {"availability", "backdoor", "targeted", "evasion", "leakage"}
        Decides what damage means. An attack that is "targeted" has the parameters
        `targets` and `target_labels`, and `target_true_labels` if it can use them. The
        audit sets them to rows of the test fold. The last two poison nothing: they
        attack a trained model, or look at what its clients sent.
    auto : bool or callable
        Part of ``attacks="auto"``; a callable tells so for an :class:`AuditContext`.
    tasks : frozenset of {"classification", "regression"}
    clients : bool
        Mounted by clients of a federation, on data whose rows have owners; ``make``
        then returns an attack of :mod:`skpoison.federated`.
    adaptive : bool
        Whether the attacker knows the defense. ``make`` returns what he would do
        without one. Gradient matching is then crafted through what a network does
        while it trains, and past detectors that read features; any other attack is
        tried on the filter that it is to pass, and what is dropped is replaced.
        Where neither can be done, the poison is that against the bare victim.

    Notes
    -----
    An attack whose parameter `estimator` or `surrogate` is "victim" is crafted once
    for each victim, against the bare one unless it is adaptive.
    """

    name: str
    summary: str
    threat_model: str
    make: object
    data: frozenset = frozenset({"numeric", "mixed", "sparse", "images"})
    goal: str = "availability"
    auto: bool | Callable[[AuditContext], bool] = True
    tasks: frozenset = CLASSIFICATION
    clients: bool = False
    adaptive: bool = False

    @property
    def poisons(self):
        """Whether it changes what a model is trained on."""
        return self.goal not in AFTER_TRAINING


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
    auto : bool or callable
        Part of ``defenses="auto"``; a callable tells so for an :class:`AuditContext`.
    tasks : frozenset of {"classification", "regression"}
    clients : bool
        Of a federation's server: ``wrap`` gets a FederatedClassifier, or a pipeline
        that ends in one.
    """

    name: str
    summary: str
    wrap: object
    data: frozenset = frozenset({"numeric", "mixed", "sparse", "images"})
    neural: bool = False
    auto: bool | Callable[[AuditContext], bool] = True
    tasks: frozenset = CLASSIFICATION
    clients: bool = False


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
        return (
            context.task in entry.tasks
            and entry.clients == context.clients
            and bool(entry.data & context.kinds)
            and (context.neural or not neural)
        )

    def automatic(self, context):
        """Return what "auto" stands for."""
        return [
            e
            for e in self.entries.values()
            if self.applies(e, context)
            and (e.auto(context) if callable(e.auto) else e.auto)
        ]

    def choose(self, wanted, context):
        """Resolve "auto", a list of names or a dict of objects to entries."""
        name = f"{self.kind}s"
        if isinstance(wanted, str) and wanted == "auto":
            return self.automatic(context)
        if isinstance(wanted, dict):
            if "none" in wanted:
                raise ValueError(f"{name}: 'none' is the bare estimator's own name")
            own = self._client_own if context.clients else self._own
            return [own(str(key), value) for key, value in wanted.items()]
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
                raise ValueError(
                    f"{name}: {key!r} does not apply to a {_kind(context)}; `skpoison "
                    f"list {name}` says what each is for"
                )
            chosen.append(self.entries[key])
        return chosen

    def _own(self, name, value):
        summary = repr(value)
        if self.kind == "attack":
            if hasattr(value, "perturb"):
                from skpoison.audit._test_time import EvasionProbe

                make = partial(_clone_of, EvasionProbe(value))
                return AttackEntry(
                    name, summary, "given by the caller", make, goal="evasion"
                )
            if not hasattr(value, "poison") or "budget" not in value.get_params():
                raise TypeError(
                    f"attacks[{name!r}] must have poison(X, y) and the parameter "
                    f"budget, got {value!r}"
                )
            make = partial(_clone_of, value)
            goal = _goal_of(value)
            return AttackEntry(name, summary, "given by the caller", make, goal=goal)
        if isinstance(value, BaseEstimator) and hasattr(value, "fit_predict"):
            return DefenseEntry(name, summary, partial(filter_with, value))
        if not callable(value):
            raise TypeError(
                f"defenses[{name!r}] must be a detector or a function that turns an "
                f"estimator into a defended one, got {value!r}"
            )
        return DefenseEntry(name, summary, value)

    def _client_own(self, name, value):
        from skpoison.federated import BaseUpdateAttack

        summary = repr(value)
        if self.kind == "attack":
            if not isinstance(value, BaseUpdateAttack):
                raise TypeError(
                    f"attacks[{name!r}] must be an attack of skpoison.federated where "
                    f"rows have owners, got {value!r}"
                )
            make = partial(_clone_of, value)
            return AttackEntry(name, summary, "given by the caller", make, clients=True)
        if callable(value) and not isinstance(value, BaseEstimator):
            return DefenseEntry(name, summary, value, clients=True)
        wrap = partial(served_by, {"aggregator": value})
        return DefenseEntry(name, summary, wrap, clients=True)


def served_by(params, estimator):
    """Set parameters of the server of a federation, or of a pipeline's last step."""
    estimator = clone(estimator)
    final_step(estimator).set_params(**params)
    return estimator


def _kind(context):
    if context.clients:
        return f"federation on {context.data} data"
    if context.task == "regression":
        return f"regressor on {context.data} data"
    return f"{'network' if context.neural else 'model'} on {context.data} data"


def _goal_of(attack):
    from skpoison.attacks._crafted import TargetedMixin

    if isinstance(attack, TargetedMixin):
        return "targeted"
    return "backdoor" if hasattr(attack, "apply_trigger") else "availability"


def _clone_of(attack, context):
    return clone(attack)


def filter_with(detector, estimator):
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


def check_victim(name, estimator):
    """Raise unless `estimator` can be cloned and has a task; return the task."""
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator {name!r} is a class; pass an instance, {estimator.__name__}()"
        )
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise TypeError(
            f"estimator {name!r} must follow scikit-learn's estimator API, got "
            f"{estimator!r}"
        )
    task = task_of(estimator)
    if task is None:
        raise ValueError(
            f"estimator {name!r} must be a classifier or a regressor: no attack on "
            f"anything else is registered; got {estimator!r}"
        )
    return task


def in_regression(context):
    """Be part of "auto" for targets that are numbers."""
    return context.task == "regression"


def is_image_network(context):
    """Be part of "auto" for networks on images."""
    return context.neural and bool(context.kinds & PIXELS)


def is_dense_table(context):
    """Be part of "auto" for classical models on numbers."""
    return context.data == "numeric" and not context.neural


def has_rows_to_spare(context):
    """Be part of "auto" where ten classical models can share the rows."""
    return is_dense_table(context) and context.n_rarest >= 150


def follows_gradients(context):
    """Be part of "auto" for linear classifiers, and for networks on images."""
    return context.linear or is_image_network(context)
