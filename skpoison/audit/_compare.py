"""Which defense helps most, and the estimator behind it."""

from sklearn.base import clone

from skpoison.audit._registry import DEFENSES, check_victim, is_network
from skpoison.audit._report import AuditReport
from skpoison.audit._run import audit


def compare_defenses(
    estimator, X=None, y=None, *, defenses="auto", attacks="auto", **options
):
    """Rank defenses by how much damage each leaves under every attack.

    The same as ``audit(...).ranking()``.

    Parameters
    ----------
    estimator : classifier, regressor, dict of str to them or AuditReport
        The victim, as :func:`audit` takes it, or a report that is there already,
        which takes no further argument.
    X : array-like, sparse matrix or data frame of shape (n_samples, ...), default=None
        Needed unless `estimator` is a report.
    y : array-like of shape (n_samples,), default=None
        The same.
    defenses : "auto", list of str or dict, default="auto"
        As :func:`audit` takes them.
    attacks : "auto", list of str or dict of str to attack, default="auto"
        As :func:`audit` takes them.
    **options
        All others of :func:`audit`, such as `budgets`, `cv` or `random_state`.

    Returns
    -------
    table : pandas.DataFrame
        A row for each estimator and defense, best first, with the reason of its rank;
        see :meth:`AuditReport.ranking`.

    Raises
    ------
    TypeError
        X or y is missing, or comes with a report; an option is not one of the audit's.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skpoison.audit import compare_defenses
    >>> X, y = load_wine(return_X_y=True)
    >>> table = compare_defenses(
    ...     GaussianNB(), X, y, defenses=["label-filter", "sanitizer"],
    ...     attacks=["adversarial-flips"], budgets=[0.2], cv=2, random_state=0,
    ...     verbose=0,
    ... )
    >>> table[["rank", "defense", "worst_damage", "verdict"]].round(3)
       rank       defense  worst_damage  verdict
    0     1  label-filter         0.051  unclear
    1     2          none         0.084     bare
    2     3     sanitizer         0.090  no gain
    """
    if isinstance(estimator, AuditReport):
        given = [name for name, value in (("X", X), ("y", y)) if value is not None]
        for name, value in (("defenses", defenses), ("attacks", attacks)):
            given += [name] if not (isinstance(value, str) and value == "auto") else []
        if given or options:
            raise TypeError(
                "compare_defenses takes nothing beside a report, which is an audit "
                f"that was run; got {', '.join([*given, *options])}"
            )
        return estimator.ranking()
    if X is None or y is None:
        raise TypeError("compare_defenses needs X and y, or a report of an audit")
    report = audit(estimator, X, y, defenses=defenses, attacks=attacks, **options)
    return report.ranking()


def defend(estimator, defense):
    """Return an estimator behind a defense that goes by its name in the audit.

    Parameters
    ----------
    estimator : classifier or regressor
        A pipeline for instance, as it was audited. It is not changed.
    defense : str
        A name of the ranking; "none" is the estimator itself. ``skpoison list
        defenses`` shows them all.

    Returns
    -------
    defended : estimator
        Not fitted; its ``fit`` and ``predict`` are those of any estimator.

    Raises
    ------
    ValueError
        There is no such defense, or it is for other estimators.

    Examples
    --------
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skpoison.audit import defend
    >>> defend(GaussianNB(), "label-filter")
    FilteredEstimator(detector=LabelIssueDetector(), estimator=GaussianNB())
    """
    task = check_victim("estimator", estimator)
    if defense == "none":
        return clone(estimator)
    known = DEFENSES.entries
    if defense not in known:
        others = [n for n, e in known.items() if task in e.tasks and not e.clients]
        raise ValueError(
            f"defense: {defense!r} is not known; there are "
            f"{', '.join(sorted(others))}; 'none' is the bare estimator"
        )
    entry = known[defense]
    if entry.clients:
        raise ValueError(
            f"defense: {defense!r} is a server's; give it to FederatedClassifier"
        )
    if task not in entry.tasks:
        raise ValueError(f"defense: {defense!r} is not for {task}")
    if entry.neural and not is_network(estimator):
        raise ValueError(
            f"defense: {defense!r} is for a TorchClassifier or a pipeline that ends in "
            f"one, got {estimator!r}"
        )
    return entry.wrap(estimator)
