"""How well a detector separates poisoned rows from clean ones."""

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch, check_consistent_length


def _mask(name, values):
    values = np.asarray(values)
    if values.ndim != 1 or (values.dtype != bool and not np.isin(values, (0, 1)).all()):
        raise ValueError(f"{name} must be a 1-d array of bool")
    return values.astype(bool)


def detection_report(is_poison, is_clean, scores=None):
    """Compare what a detector kept with what was really poisoned.

    Parameters
    ----------
    is_poison : array-like of bool of shape (n_samples,)
        The truth, such as the ``poison_mask`` of an attack.
    is_clean : array-like of bool of shape (n_samples,)
        The detector's decision, its ``is_clean_``: False is removed.
    scores : array-like of shape (n_samples,), default=None
        The detector's ``scores_``, larger for more suspicious rows.

    Returns
    -------
    report : :class:`~sklearn.utils.Bunch`
        precision : float
            Share of the removed rows that were poisoned; NaN when none was removed.
        recall : float
            Share of the poisoned rows that were removed; NaN when none was poisoned.
        f1 : float
            :math:`2 n_{caught} / (n_{removed} + n_{poison})`; NaN when both are 0.
        false_positive_rate : float
            Share of the clean rows that were removed; NaN when no row is clean.
        auc : float
            Chance that a poisoned row outranks a clean one, ties counting half; NaN
            without scores, or when one of the two kinds is absent.
        n_removed, n_poison, n_caught, n_false_alarms : int
            The counts behind the shares, for an interval such as Wilson's.

    Raises
    ------
    ValueError
        Lengths differ, a mask holds something else than bool, or a score is NaN.

    Examples
    --------
    >>> from skpoison.metrics import detection_report
    >>> is_poison = [True, True, False, False, False]
    >>> is_clean = [False, True, False, True, True]
    >>> report = detection_report(is_poison, is_clean, [0.9, 0.4, 0.6, 0.1, 0.2])
    >>> report.precision, report.recall, report.n_removed
    (0.5, 0.5, 2)
    >>> round(report.auc, 3)
    0.833
    """
    is_poison, is_clean = _mask("is_poison", is_poison), _mask("is_clean", is_clean)
    check_consistent_length(is_poison, is_clean, scores)
    n_poison, n_removed = int(is_poison.sum()), int((~is_clean).sum())
    n_caught = int((is_poison & ~is_clean).sum())
    n_clean, n_false_alarms = len(is_poison) - n_poison, n_removed - n_caught

    def share(part, whole):
        return part / whole if whole else float("nan")

    auc = float("nan")
    if scores is not None and n_poison and n_clean:
        auc = float(roc_auc_score(is_poison, scores))
    return Bunch(
        precision=share(n_caught, n_removed),
        recall=share(n_caught, n_poison),
        f1=share(2 * n_caught, n_removed + n_poison),
        false_positive_rate=share(n_false_alarms, n_clean),
        auc=auc,
        n_removed=n_removed,
        n_poison=n_poison,
        n_caught=n_caught,
        n_false_alarms=n_false_alarms,
    )
