"""The attacker's score of a victim, and intervals for shares."""

import numpy as np
from scipy.special import ndtri

from skpoison.utils._validation import check_number


def wilson_interval(n_successes, n_trials, *, confidence=0.95):
    """Wilson score interval of a share.

    Parameters
    ----------
    n_successes, n_trials : int or array of int
    confidence : float in (0, 1), default=0.95

    Returns
    -------
    low, high : float or ndarray
        NaN where there is no trial.

    Notes
    -----
    With p the share, n the trials and z the normal quantile, the centre is
    ``(p + z^2 / 2n) / (1 + z^2 / n)`` and the half width
    ``z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2)``. Trials must be
    independent: rows that one victim reads are so only given that victim.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical
    inference. JASA 22.

    Examples
    --------
    >>> from skpoison.metrics import wilson_interval
    >>> low, high = wilson_interval(0, 20)
    >>> print(f"{low:.3f} {high:.3f}")
    0.000 0.161
    """
    check_number("confidence", confidence, low=0.0, high=1.0, strict=True)
    if confidence == 1:
        raise ValueError("confidence must be below 1: no interval of trials is certain")
    wins, n = np.asarray(n_successes, dtype=float), np.asarray(n_trials, dtype=float)
    if (wins < 0).any() or (wins > n).any():
        raise ValueError(
            f"n_successes must lie between 0 and n_trials, got {n_successes} of "
            f"{n_trials}"
        )
    z = ndtri(0.5 + confidence / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = wins / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # exact at the ends, where rounding would leave the share outside its interval
    low = np.where(wins == 0, p, (centre - half).clip(0, 1))
    high = np.where(wins == n, p, (centre + half).clip(0, 1))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def attack_success_score(estimator, X, y):
    """Score a fitted victim from the attacker's side: a scorer for any search.

    Finds the attack in a :class:`~skpoison.compose.PoisonedEstimator`, in a step of
    a pipeline (rows are mapped by the steps before it) or in the best estimator of
    a search, and returns its ``attack_success`` on held-out rows.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : array-like of shape (n_samples, ...)
        Held-out rows, clean.
    y : array-like of shape (n_samples,)
        Their true labels.

    Returns
    -------
    success : float in [0, 1]
        NaN when the estimator holds no attack or no row is a trial.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_validate
    >>> from skpoison.attacks import BackdoorAttack, ColumnTrigger
    >>> from skpoison.compose import PoisonedEstimator
    >>> from skpoison.metrics import attack_success_score
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = BackdoorAttack(ColumnTrigger([62, 63], values=1.0), random_state=0)
    >>> scores = cross_validate(
    ...     PoisonedEstimator(attack), X / 16, y, cv=3,
    ...     scoring={"clean": "accuracy", "attack_success": attack_success_score},
    ... )
    >>> bool(scores["test_attack_success"].min() > 0.8)
    True
    """
    found = _locate(estimator, X)
    if found is None:
        return float("nan")
    attack, X, predict = found
    return attack.attack_success(predict, X, y)


# scikit-learn asks scorers of a dict whether they take weights: outcomes have none
attack_success_score._accept_sample_weight = lambda: False  # type: ignore[attr-defined]


def _locate(estimator, X):
    """Find the attack inside a fitted estimator.

    Returns None, or the attack, X in its input space, and a function that takes rows
    of that space through the rest of the estimator.
    """
    if hasattr(estimator, "best_estimator_"):
        return _locate(estimator.best_estimator_, X)
    if hasattr(estimator, "steps"):
        return _locate_step(estimator, X)
    if getattr(estimator, "attack_", None) is not None:
        return estimator.attack_, X, estimator.predict
    if hasattr(estimator, "estimator_"):
        inner = _locate(estimator.estimator_, X)
        if inner is not None:  # the outer one has the last word on labels
            attack, X, _ = inner
            return attack, X, estimator.predict
    return None


def _locate_step(pipeline, X):
    for i, (_, step) in enumerate(pipeline.steps):
        if step is None or isinstance(step, str):
            continue
        rest = pipeline[i + 1 :] if i + 1 < len(pipeline.steps) else None
        if hasattr(step, "attack_success"):
            found = (step, X, None)
        else:
            found = _locate(step, X)
        if found is not None:
            attack, X, start = found
            return attack, X, _chain(start, rest)
        if hasattr(step, "transform"):
            X = step.transform(X)
    return None


def _chain(start, rest):
    def follow(X):
        X = X if start is None else start(X)
        if rest is None:
            return X
        return rest.predict(X) if hasattr(rest, "predict") else rest.transform(X)

    return follow
