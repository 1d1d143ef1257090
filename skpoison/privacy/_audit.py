"""A lower bound of epsilon from what a mechanism was seen to do."""

import numpy as np
from scipy.special import betaincinv

from skpoison.privacy._mixing import check_delta
from skpoison.utils._validation import check_number

N_THRESHOLDS = 500


def audit_epsilon(scores, scores_neighbour, *, delta=0.0, confidence=0.95):
    r"""Return a lower confidence bound on epsilon from runs of a mechanism.

    Parameters
    ----------
    scores : array-like of shape (n_runs,)
        One number a run of the mechanism on a data set, each run with noise of its own:
        any function of what was released, such as its mean or a model's loss on the
        record in question.
    scores_neighbour : array-like of shape (n_runs_neighbour,)
        The same, on a neighbouring data set. Which two runs stand first must not
        depend on their scores.
    delta : float, default=0.0
    confidence : float, default=0.95

    Returns
    -------
    epsilon : float
        With at least this confidence the mechanism is not (epsilon', delta) private
        for any epsilon' below it. 0 shows nothing.

    Raises
    ------
    TypeError, ValueError
        Fewer than two scores, a score that is not finite, or a number out of range.

    See Also
    --------
    mix_epsilon, dpsgd_epsilon : Upper bounds, by proof.

    Notes
    -----
    For every event E of a private mechanism and both orders of the data sets,
    :math:`P(E) \le e^{\varepsilon} Q(E) + \delta`. The event, a score at or above or
    below a threshold, and the order are chosen on every second run. The other runs
    judge this one choice, so nothing is paid for the search:

    .. math:: \varepsilon \ge \log \frac{\underline{P}(E) - \delta}{\overline{Q}(E)},

    with one-sided Clopper-Pearson limits, each wrong with chance
    :math:`(1 - \text{confidence}) / 2`. If both hold, which has at least the chance
    `confidence`, the figure is not above the true epsilon. With n runs in each half it
    can't exceed about log(n / 4).

    References
    ----------
    Jagielski, Ullman and Oprea (2020), Auditing differentially private machine
    learning: how private is private SGD? arXiv:2006.07709.

    Nasr et al. (2021), Adversary instantiation: lower bounds for differentially private
    machine learning. arXiv:2101.04535.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.privacy import audit_epsilon
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.laplace(size=(2, 20000))
    >>> 0.9 < audit_epsilon(noise[0] + 1, noise[1]) < 1.0  # the truth is 1
    True
    """
    scores = _check_scores("scores", scores)
    scores_neighbour = _check_scores("scores_neighbour", scores_neighbour)
    check_delta(delta)
    check_number("confidence", confidence, low=0.0, high=1.0)
    if confidence in (0, 1):
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
    level = (1 - confidence) / 2  # one half a rate
    first, second = scores[::2], scores_neighbour[::2]
    ranked = np.sort(np.concatenate([first, second]))
    ranks = np.linspace(0, len(ranked) - 1, min(N_THRESHOLDS, len(ranked)))
    thresholds = np.unique(ranked[ranks.astype(int)])
    bounds = _bounds(first, second, thresholds, delta, level)
    attack, at = np.unravel_index(np.argmax(bounds), bounds.shape)
    judged = scores[1::2], scores_neighbour[1::2]
    return float(_bounds(*judged, thresholds[[at]], delta, level)[attack, 0])


def _check_scores(name, scores):
    wanted = f"{name} must be a list of two or more finite numbers, got"
    try:
        scores = np.asarray(scores, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{wanted} {scores!r:.80}") from None
    if scores.ndim != 1 or len(scores) < 2:
        raise ValueError(f"{wanted} shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{wanted} {scores[~np.isfinite(scores)][0]}")
    return scores


def _bounds(first, second, thresholds, delta, level):
    """Return lower bounds of epsilon, a row an attack, a column a threshold.

    An attack guesses one of the two data sets from a score at or above, or below, the
    threshold: four in all.
    """
    above = [
        len(x) - np.searchsorted(np.sort(x), thresholds, side="left")
        for x in (first, second)
    ]
    bounds = []
    for hits, others, n, m in (
        (above[0], above[1], len(first), len(second)),
        (above[1], above[0], len(second), len(first)),
    ):
        for p, q in ((hits, others), (n - hits, m - others)):
            # Clopper and Pearson's: the rate of p at least, the rate of q at most
            least = np.where(p > 0, betaincinv(np.maximum(p, 1), n - p + 1, level), 0)
            most = betaincinv(q + 1, np.maximum(m - q, 1), 1 - level)
            most = np.where(q < m, most, 1)
            with np.errstate(divide="ignore"):
                bounds.append(np.log(np.maximum(least - delta, 0)) - np.log(most))
    return np.maximum(bounds, 0)
