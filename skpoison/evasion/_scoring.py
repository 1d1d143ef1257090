"""How often a classifier is right about rows that an attack may move."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.utils import Bunch, _safe_indexing, check_consistent_length, column_or_1d

from skpoison.evasion._base import BaseEvasion
from skpoison.evasion._fgsm import FGSM
from skpoison.evasion._witchcraft import WITCHcraft
from skpoison.utils._validation import check_number


def robust_accuracy(estimator, X, y, *, attack=None):
    """Accuracy of a fitted classifier on rows that are attacked: a scorer.

    A row counts where the classifier is right about it and stays right on what the
    attack makes of it.

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        Fitted classifier; the labels of a module are 0, 1, ...
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
    y : array-like of shape (n_samples,)
        True labels.
    attack : evasion attack or list of them, default=None
        Its parameters say what the attacker may do. Without a surrogate of its own it
        attacks `estimator` itself, by its gradients. One that has a surrogate attacks
        that, and only the rows are handed to `estimator`: this is how a classifier
        without gradients, such as a forest, is scored. Of several attacks each sees the
        rows that withstood those before it. None is
        :class:`~skpoison.evasion.WITCHcraft` with ``random_state=0`` and its other
        defaults, among them ``eps=0.1`` in the unit of X and no box.

    Returns
    -------
    score : float
        Share of rows that no attack breaks. It is at most the accuracy, and an upper
        bound of what is robust: a stronger attack can lower it. Exact for affine
        classifiers, see :class:`~skpoison.evasion.PGD`.

    Raises
    ------
    TypeError
        `estimator` has no gradient and the attack no surrogate, or `attack` is none.
    NotFittedError
        The attack's own surrogate is not fitted.

    See Also
    --------
    robustness_report : Over radii and attacks, with intervals.

    Notes
    -----
    As a scorer it is passed as it is or, with an attack, through
    :func:`functools.partial`::

        scoring=partial(robust_accuracy, attack=PGD(eps=8 / 255, bounds=(0, 1)))

    Give the attack a ``random_state``, so that the candidates of a search meet the same
    draws. Against an attack on the classifier itself a row is broken if the attack
    reports so, or if the classifier's own ``predict`` misreads the row it returns.

    Examples
    --------
    >>> from functools import partial
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_validate
    >>> from skpoison.evasion import PGD, robust_accuracy
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = PGD(eps=0.1, bounds=(0, 1), random_state=0)
    >>> scores = cross_validate(
    ...     LogisticRegression(), X[:600] / 16, y[:600], cv=2, scoring={
    ...         "clean": "accuracy", "robust": partial(robust_accuracy, attack=attack)
    ...     },
    ... )
    >>> bool((scores["test_robust"] < scores["test_clean"] - 0.2).all())
    True
    """
    attacks = attack if isinstance(attack, list | tuple) else [attack]
    if not attacks:
        raise ValueError("attack must be None, an attack or a list of them, got none")
    attacks = [_aim(one, estimator) for one in attacks]
    y = _labels(X, y)
    robust = ~_misread(estimator, X, y)
    for one in attacks:
        robust = _withstand(estimator, X, y, one, robust)
    return float(robust.mean())


def robustness_report(estimator, X, y, *, eps_range, attacks=None, confidence=0.95):
    """Measure robust accuracy over radii and attacks.

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        Fitted classifier; the labels of a module are 0, 1, ...
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
    y : array-like of shape (n_samples,)
        True labels.
    eps_range : list of float
        Radii, in the unit of X and the norm of each attack.
    attacks : evasion attack, list or dict of str to attack, default=None
        As in :func:`robust_accuracy`; their own `eps` are replaced. None is
        the same attack as there.
    confidence : float, default=0.95
        Of the intervals.

    Returns
    -------
    report : Bunch
        `eps_range` : ndarray of shape (n_eps,)
        `names` : list of str, of the attacks
        `robust_accuracy` : ndarray of shape (n_attacks, n_eps)
        `low`, `high` : ndarrays of that shape, Wilson's intervals
        `worst` : ndarray of shape (n_eps,), all attacks together
        `clean_accuracy` : float
        `n_samples` : int

    See Also
    --------
    RobustAccuracyDisplay : Draws it.

    Notes
    -----
    A ball lies in every larger one, so a row that an attack broke at one radius is
    broken at all larger ones, and is not attacked there again: curves never rise. A
    single attack at a single radius may break slightly fewer rows, as
    :func:`robust_accuracy` shows. `worst` counts a row as robust at a radius only if
    every attack leaves it so.

    The intervals are those of a share of independent rows, for one given classifier.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.evasion import PGD, robustness_report
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> report = robustness_report(model, X, y, eps_range=[0, 0.5, 1], attacks=PGD())
    >>> report.robust_accuracy.shape, report.names
    ((1, 3), ['PGD'])
    >>> bool(report.robust_accuracy[0, 0] == report.clean_accuracy)
    True
    """
    check_number("confidence", confidence, low=0.0, high=1.0, strict=True)
    if confidence == 1:
        raise ValueError("confidence must be below 1: no interval of trials is certain")
    radii = np.asarray(eps_range, dtype=float)
    if radii.ndim != 1 or len(radii) == 0:
        raise ValueError(
            f"eps_range must be a list of one radius or more, got {eps_range!r}"
        )
    for eps in radii:
        check_number("each radius in eps_range", float(eps), low=0.0)
    named = {
        name: _aim(attack, estimator) for name, attack in _by_name(attacks).items()
    }
    y = _labels(X, y)
    right = ~_misread(estimator, X, y)
    robust = np.empty((len(named), len(radii), len(y)), dtype=bool)
    for i, attack in enumerate(named.values()):
        so_far = right
        for j in np.argsort(radii, kind="stable"):
            attack.set_params(eps=float(radii[j]))
            so_far = robust[i, j] = _withstand(estimator, X, y, attack, so_far)
    low, high = _intervals(robust.sum(axis=2), len(y), confidence)
    return Bunch(
        eps_range=radii,
        names=list(named),
        robust_accuracy=robust.mean(axis=2),
        low=low,
        high=high,
        worst=robust.all(axis=0).mean(axis=1),
        clean_accuracy=float(right.mean()),
        n_samples=len(y),
    )


def _aim(attack, estimator):
    """Return a copy of an attack, aimed at `estimator` where it has no surrogate."""
    if attack is None:
        attack = WITCHcraft(random_state=0)
    if not isinstance(attack, BaseEvasion):
        raise TypeError(
            "attack must be None, an evasion attack such as PGD(eps=0.1) or a list of "
            f"them, got {attack!r}"
        )
    attack = copy.copy(attack)  # a clone would forget that its surrogate is fitted
    if attack.surrogate is None:
        attack.set_params(surrogate=estimator, prefit=True)
    return attack


def _withstand(estimator, X, y, attack, robust):
    """Return which of the rows that are robust so far are so after `attack` too."""
    rows = np.flatnonzero(robust)
    if len(rows) == 0:
        return robust
    before = _safe_indexing(X, rows)
    found = attack.attack(before, y[rows])
    moved = found.X
    if hasattr(before, "iloc"):  # the estimator may look for names
        moved = type(before)(moved, columns=before.columns)
    broken = _misread(estimator, moved, y[rows])
    if attack.surrogate is estimator:
        broken |= found.success
    robust = robust.copy()
    robust[rows[broken]] = False
    return robust


def _misread(estimator, X, y):
    """Return which rows a classifier, or a torch module, gets wrong."""
    if isinstance(estimator, torch.nn.Module):
        return FGSM(estimator, eps=0).attack(X, y).success
    return estimator.predict(X) != y


def _labels(X, y):
    y = column_or_1d(y)
    check_consistent_length(X, y)
    return y


def _by_name(attacks):
    """Return attacks as a dict, named after their classes."""
    if isinstance(attacks, Mapping):
        return attacks
    named: dict = {}
    for attack in attacks if isinstance(attacks, list | tuple) else [attacks]:
        name = "WITCHcraft" if attack is None else type(attack).__name__
        count = sum(other.split(" ")[0] == name for other in named)
        named[f"{name} {count + 1}" if count else name] = attack
    return named


def _intervals(counts, n, confidence):
    """Wilson's intervals of the shares counts / n."""
    ends = [
        binomtest(int(count), n).proportion_ci(confidence, method="wilson")
        for count in counts.ravel()
    ]
    return np.reshape(ends, (*counts.shape, 2)).transpose(2, 0, 1)
