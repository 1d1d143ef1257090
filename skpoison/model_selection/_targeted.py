"""What a targeted attack does to victims that it has never met."""

import time
import warnings
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone, is_classifier
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from tqdm import tqdm

from skpoison.base import PerturbationMixin
from skpoison.compose._estimators import name_victim
from skpoison.metrics import wilson_interval
from skpoison.utils import RandomStreams, row_keys, set_random_states
from skpoison.utils._validation import check_label, check_number, check_targets

# Below this training accuracy victims are immune because they have learned little.
_WELL_FITTED = 0.95


@dataclass(kw_only=True, eq=False, repr=False)
class TargetedReport:
    """Outcomes of a targeted attack; made by :func:`evaluate_targeted`.

    Attributes
    ----------
    target_labels : ndarray of shape (n_targets,)
        What the attacker wants each target to be read as.
    success : ndarray of shape (n_targets, n_victims), dtype bool
        The victim trained on poisoned data reads the target as wanted.
    control : ndarray of shape (n_targets, n_victims), dtype bool
        The same of the victim with the same seeds trained on clean data.
    misclassified, control_misclassified : ndarray like `success`, or None
        The target is not given its true label, a weaker success.
    n_poisoned : ndarray of int of shape (n_targets,)
    train_accuracy : float
        Mean accuracy of poisoned victims on the data that they were trained on.
    clean_accuracy, poisoned_accuracy : float or None
        Mean accuracy on the test data of victims trained on clean and on poisoned
        data.
    craft_seconds, train_seconds : float
        Wall time of crafting and of training and reading all victims.
    attacks : list of attacks
        Fitted, one a target.

    See Also
    --------
    evaluate_targeted : Makes it.

    Notes
    -----
    Victims of one target share its poisons: they are not independent trials, and
    `interval` is too narrow as a statement about new targets. `target_interval` and
    `standard_error` take a target as the trial.
    """

    target_labels: np.ndarray
    success: np.ndarray
    control: np.ndarray
    misclassified: np.ndarray | None
    control_misclassified: np.ndarray | None
    n_poisoned: np.ndarray
    train_accuracy: float
    clean_accuracy: float | None
    poisoned_accuracy: float | None
    craft_seconds: float
    train_seconds: float
    attacks: list[Any]

    @property
    def rate(self):
        """Share of trials in which the attacker won."""
        return float(self.success.mean())

    @property
    def interval(self):
        """Wilson interval of `rate` over all trials."""
        return wilson_interval(self.success.sum(), self.success.size)

    @property
    def control_rate(self):
        """Share of trials won without any poison."""
        return float(self.control.mean())

    @property
    def control_interval(self):
        """Wilson interval of `control_rate` over all trials."""
        return wilson_interval(self.control.sum(), self.control.size)

    @property
    def _targets_won(self):
        return self.success.mean(axis=1) >= 0.5

    @property
    def target_rate(self):
        """Share of targets that at least half of the victims read as wanted."""
        return float(self._targets_won.mean())

    @property
    def target_interval(self):
        """Wilson interval of `target_rate` over targets."""
        return wilson_interval(self._targets_won.sum(), len(self.success))

    @property
    def standard_error(self):
        """Standard error of the mean success over targets; NaN for one target."""
        if len(self.success) == 1:
            return float("nan")
        spread = self.success.mean(axis=1).std(ddof=1)
        return float(spread / np.sqrt(len(self.success)))

    def to_frame(self):
        """Return a tidy table, one row a trial.

        Returns
        -------
        frame : pandas.DataFrame
        """
        import pandas as pd

        n_targets, n_victims = self.success.shape
        columns = {
            "target": np.repeat(np.arange(n_targets), n_victims),
            "victim": np.tile(np.arange(n_victims), n_targets),
            "target_label": np.repeat(self.target_labels, n_victims),
            "n_poisoned": np.repeat(self.n_poisoned, n_victims),
            "success": self.success.ravel(),
            "control": self.control.ravel(),
        }
        for name in ("misclassified", "control_misclassified"):
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name).ravel()
        return pd.DataFrame(columns)

    def __str__(self):
        n_targets, n_victims = self.success.shape
        lines = [
            f"{n_targets} targets, {n_victims} victims each, "
            f"{_span(self.n_poisoned)} poisoned rows",
            f"success   {_share(self.rate, self.interval)}",
            f"control   {_share(self.control_rate, self.control_interval)}",
            f"targets   {_share(self.target_rate, self.target_interval)} "
            "with at least half of their victims",
        ]
        if self.clean_accuracy is not None:
            lines.append(
                f"accuracy  {self.clean_accuracy:.3f} clean, "
                f"{self.poisoned_accuracy:.3f} poisoned"
            )
        lines += [
            f"training  {self.train_accuracy:.3f} accuracy of the poisoned victims",
            f"seconds   {self.craft_seconds:.1f} crafting, "
            f"{self.train_seconds:.1f} training",
        ]
        return "\n".join(lines)

    __repr__ = __str__


def _share(rate, interval):
    return f"{rate:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _span(counts):
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"


def evaluate_targeted(
    attack,
    victim,
    X,
    y,
    targets,
    target_labels,
    *,
    target_true_labels=None,
    n_victims=8,
    X_test=None,
    y_test=None,
    random_state=None,
    n_jobs=None,
    verbose=0,
):
    """Measure a targeted attack: one craft a target, fresh victims, a control.

    Parameters
    ----------
    attack : attack
        Changes X alone and has the parameters ``targets`` and ``target_labels``;
        cloned and crafted once for each target. Where its ``estimator`` or
        ``surrogate`` is the string "victim", it gets a clone of `victim`.
    victim : classifier
        Cloned. :class:`~skpoison.models.TorchClassifier` are trained together.
    X : array-like of shape (n_samples, ...)
        The training set, clean. uint8 images stay uint8; a data frame is read as an
        array.
    y : array-like of shape (n_samples,)
    targets : array-like of shape (n_targets, ...)
        Held-out rows.
    target_labels : array-like of shape (n_targets,) or a label
        What the attacker wants each to be read as.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        True labels, for the weaker success of any wrong label. An attack with a
        parameter of this name that is None is told them.
    n_victims : int, default=8
        Victims a target, as in the published evaluations of gradient matching [1]_.
    X_test, y_test : array-like, default=None
        Clean held-out data for the victims' accuracy.
    random_state : None, int, RandomState or Generator, default=None
        Victim number v has the same seeds for every target, for the control and, if
        this is an int, for every attack and budget: the settings are paired. An
        attack keeps its own seed; one that has none is given one.
    n_jobs : int, default=None
        Processes, as in joblib: one target in each.
    verbose : int, default=0
        1 shows progress on stderr.

    Returns
    -------
    report : TargetedReport

    Raises
    ------
    TypeError, ValueError
        Before any work: `attack` or `victim` is of another kind; targets don't fit X
        or are among its rows; a label is unknown, or wanted and true at once.

    Warns
    -----
    UserWarning
        The victims' mean training accuracy is below 0.95: an under-fitted victim is
        immune, which says nothing about the attack.

    See Also
    --------
    robustness_curve : Cross-validates attacks that aim at no row in particular.

    Notes
    -----
    Clean victims are trained once for all targets. Where an attack poisons no row
    they are its victims too, so that success equals control.

    An optimised attack should be shown beside the same number of rows that are not
    optimised, such as noise or a watermark within the same radius.

    References
    ----------
    .. [1] J. Geiping et al. Witches' Brew: industrial scale data poisoning via
       gradient matching. ICLR 2021. arXiv:2009.02276.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.attacks import InfluenceAttack
    >>> from skpoison.model_selection import evaluate_targeted
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> X, held_out, wanted = X / 16, slice(300, 303), 1 - y[300:303]
    >>> report = evaluate_targeted(
    ...     InfluenceAttack("victim", budget=0.2, max_iter=5), LogisticRegression(),
    ...     X[:300], y[:300], X[held_out], wanted, n_victims=1, random_state=0,
    ... )
    >>> report.rate > report.control_rate
    True
    """
    check_number("n_victims", n_victims, low=1, integer=True)
    if not isinstance(attack, PerturbationMixin) or not hasattr(attack, "targets"):
        raise TypeError(
            "attack must change X alone and have the parameters targets and "
            f"target_labels, got {attack!r}"
        )
    if not is_classifier(victim):
        raise TypeError(f"victim must be a classifier, got {victim!r}")
    X, y = _data("X", X, y)
    targets, target_labels = check_targets(
        targets, target_labels, X, row_keys(X), np.unique(y)
    )
    true_labels = _true_labels(target_true_labels, target_labels, y)
    if X_test is not None or y_test is not None:
        if X_test is None or y_test is None:
            raise ValueError("X_test and y_test must be given together")
        X_test, y_test = _data("X_test", X_test, y_test)
        if X_test.shape[1:] != X.shape[1:]:
            raise ValueError(
                f"X_test has rows of shape {X_test.shape[1:]}, X of {X.shape[1:]}"
            )
    streams = RandomStreams(random_state)
    attack = clone(attack)
    set_random_states(attack, RandomStreams(streams.seed("attack")), only_missing=True)
    name_victim(attack, victim)
    if true_labels is not None and getattr(attack, "target_true_labels", 0) is None:
        attack.set_params(target_true_labels=true_labels)
    began = time.perf_counter()
    attacks = _craft(attack, X, y, targets, target_labels, n_jobs)
    crafted = time.perf_counter()

    victims = []
    for number in range(n_victims):
        victims.append(clone(victim))
        seeds = RandomStreams(streams.seed(f"victim {number}"))
        set_random_states(victims[-1], seeds)
    harmful = [t for t, one in enumerate(attacks) if one.n_poisoned_]
    # lazily: only as many poisoned copies of X exist as processes work on them
    trials = (
        delayed(_trial)(
            victims, attacks[t].transform(X), y, targets[[t]], X_test, y_test
        )
        for t in harmful
    )
    control = delayed(_trial)(victims, X, y, targets, X_test, y_test)
    results = Parallel(n_jobs=n_jobs, return_as="generator")(chain([control], trials))
    n_trials = 1 + len(harmful)
    clean, *poisoned = tqdm(
        results, "victims", n_trials, disable=not verbose, leave=False
    )
    labels = clean[0].copy()
    accuracies = [clean[1]] * len(targets)
    for t, (read, accuracy) in zip(harmful, poisoned, strict=True):
        labels[:, t] = read[:, 0]
        accuracies[t] = accuracy
    train_accuracy, poisoned_accuracy = np.mean(accuracies, axis=0)
    if train_accuracy < _WELL_FITTED:
        warnings.warn(
            f"the victims' accuracy on the data that they were trained on is "
            f"{train_accuracy:.2f}: an under-fitted victim proves nothing about an "
            "attack; train it longer",
            UserWarning,
            stacklevel=2,
        )
    wrong = None if true_labels is None else true_labels[:, None]
    return TargetedReport(
        target_labels=target_labels,
        success=labels.T == target_labels[:, None],
        control=clean[0].T == target_labels[:, None],
        misclassified=None if wrong is None else labels.T != wrong,
        control_misclassified=None if wrong is None else clean[0].T != wrong,
        n_poisoned=np.array([one.n_poisoned_ for one in attacks]),
        train_accuracy=float(train_accuracy),
        clean_accuracy=None if X_test is None else float(clean[1][1]),
        poisoned_accuracy=None if X_test is None else float(poisoned_accuracy),
        craft_seconds=crafted - began,
        train_seconds=time.perf_counter() - crafted,
        attacks=attacks,
    )


def _data(name, X, y):
    X = check_array(
        X, dtype=[np.float64, np.float32, np.uint8], allow_nd=True, input_name=name
    )
    y = column_or_1d(y)
    check_consistent_length(X, y)
    check_classification_targets(y)
    return X, y


def _true_labels(true_labels, target_labels, y):
    if true_labels is None:
        return None
    true_labels = np.asarray(true_labels)
    if true_labels.ndim == 0:
        true_labels = np.repeat(true_labels, len(target_labels))
    if true_labels.shape != target_labels.shape:
        raise ValueError(
            "target_true_labels must have one label a target, "
            f"{len(target_labels)}, got shape {true_labels.shape}"
        )
    for label in true_labels:
        check_label("target_true_labels", label, np.unique(y))
    same = np.flatnonzero(true_labels == target_labels)
    if len(same):
        raise ValueError(
            f"target_labels[{same[0]}]={target_labels[same[0]]!r} is the true label "
            "of that target: there is nothing to attack"
        )
    return true_labels


def _craft(attack, X, y, targets, target_labels, n_jobs):
    if hasattr(attack, "craft_each"):
        return attack.craft_each(X, y, targets, target_labels)
    aimed = (
        clone(attack).set_params(targets=targets[[t]], target_labels=target_labels[[t]])
        for t in range(len(targets))
    )
    return Parallel(n_jobs=n_jobs)(delayed(one.fit)(X, y) for one in aimed)


def _trial(victims, X, y, targets, X_test, y_test):
    """Return how fresh victims read the targets, and two mean accuracies.

    Returns
    -------
    labels : ndarray of shape (n_victims, n_targets)
    accuracies : pair of float
        On the training data, and on the test data or NaN.
    """
    n_victims = len(victims)
    if hasattr(victims[0], "_fit_net"):  # a TorchClassifier: torch is there already
        from skpoison.models import fit_together

        fitted = fit_together(victims, [X] * n_victims, [y] * n_victims)
    else:
        fitted = [clone(one).fit(X, y) for one in victims]
    train = np.mean([np.mean(one.predict(X) == y) for one in fitted])
    test = np.nan
    if X_test is not None:
        test = np.mean([np.mean(one.predict(X_test) == y_test) for one in fitted])
    return np.stack([one.predict(targets) for one in fitted]), (train, test)
