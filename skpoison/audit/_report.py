"""What an audit found: numbers, what follows from them, pictures."""

from skpoison.audit import _ranking, _save, _tables
from skpoison.audit._recommendation import advise
from skpoison.utils._files import write_atomically


class AuditReport:
    """The result of :func:`~skpoison.audit.audit`.

    Parameters
    ----------
    rows : list of dict
        One for each setting, fold and trial.
    timings : list of dict
        The seconds of each, kept apart: they are all that differs between two runs.
    meta : dict
        What was audited, how, with which seed and versions. `task` is
        "classification", with the rows of each class in `classes`, or "regression",
        with a summary of y in `target`. `targets` lists what targeted attacks aimed
        at.
    findings : dict of list of dict, default=None
        What was seen besides scores: "suspects", "filtering", "poisons",
        "certificates" and "privacy", each read by the method of that name. None is
        nothing.

    Attributes
    ----------
    table : pandas.DataFrame
        Tidy. One row for each estimator, attack, defense, budget, fold and trial,
        with the rows poisoned, the clean score, the attacker's successes and tries
        on held-out rows, and the success on the model trained on clean data as
        control. The tries of a targeted attack are its targets.
    timings : pandas.DataFrame
    meta : dict
    findings : dict
    recommendation : str
    unit : str

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skpoison.audit import audit
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression())
    >>> report = audit(
    ...     model, X, y, attacks=["adversarial-flips"], defenses=["label-filter"],
    ...     budgets=[0.1], cv=2, random_state=0, verbose=0,
    ... )
    >>> print(report.recommendation)  # doctest: +ELLIPSIS
    estimator: broken by adversarial-flips from budget 0.1...
    >>> report.ranking()[["rank", "defense", "verdict"]]
       rank       defense  verdict
    0     1          none     bare
    1     2  label-filter  no gain
    """

    def __init__(self, rows, timings, meta, findings=None):
        pandas = _tables.import_pandas()
        self.table = pandas.DataFrame(rows)
        self.timings = pandas.DataFrame(timings)
        self.meta = meta
        self.findings = _save.without_nan(findings or {})

    @property
    def unit(self):
        """What damage is measured in: "" for shares, else the name of the score."""
        if self.meta.get("task") != "regression":
            return ""
        return {"r2": "R²"}.get(self.meta["scoring"], self.meta["scoring"])

    def __repr__(self):
        return (
            f"<AuditReport of {self.meta['name']}: {len(self.meta['estimators'])} "
            f"estimators, {len(self.meta['attacks'])} attacks, "
            f"{len(self.meta['defenses'])} defenses, {len(self.table)} rows>"
        )

    def summary(self):
        """Summarise the table: one row for each setting.

        Returns
        -------
        summary : pandas.DataFrame
            Means over folds and trials; attack success and control are pooled over
            held-out rows or targets, with the 95 % Wilson interval of the former in
            `low` and `high`, which holds given the victims trained. `n_failed` counts
            the folds and trials in which the model could not be trained: with one,
            there is no `clean_score` and no `damage`, which the report explains.
            `damage_low` and `damage_high` bound the damage: by that same interval
            where damage is a share of rows, given the control, else by Student's 95 %
            interval of the loss over folds and trials, which share training rows.
        """
        return _tables.summarise(self.table, self.meta)

    def ranking(self):
        """Rank the defenses of each estimator by the rule of the recommendation.

        Returns
        -------
        table : pandas.DataFrame
            A row for each estimator and defense, "none" among them: `rank`,
            `clean_score` without attack, `price` in clean score, `worst_damage` over
            all attacks on the training data and all budgets, within `worst_low` and
            `worst_high`, by which attack at which budget, `mean_damage` over them,
            `adaptive_damage`, the worst of the attacks that are crafted against the
            defense, `poison_recall` and `poison_precision` of what a filter dropped
            under all attacks, `certified_accuracy` at the smallest radius and
            `certified_radius`, the largest at which half of the held-out rows are
            certified, `epsilon` of the privacy bill, the largest of all folds,
            `seconds` to fit and score and those relative to the bare estimator, the
            `verdict` that gives the rank ("use", "unclear" where intervals overlap,
            "bare", "not needed", "no gain", "price", "failed" or "untested") and its
            `reason`. NaN where something does not apply.
        """
        return _ranking.rank(self, self.summary())

    def targets(self):
        """List what the targeted attacks aimed at.

        Returns
        -------
        table : pandas.DataFrame
            For each target its fold and trial, its row in the data, its class and the
            one that it was to be read as. Empty without a targeted attack.
        """
        return _tables.import_pandas().DataFrame(self.meta.get("targets", []))

    def suspects(self):
        """List the rows of the data as given that defenses distrust.

        Returns
        -------
        table : pandas.DataFrame
            At most 50 rows that filtering defenses dropped where nothing was
            poisoned, worst first: the position `row` in X, its `label`, the one that
            was `suggested` instead, `n_dropped` of the `n_seen` fits that saw it,
            their `share`, the defenses that dropped it and, where one gives it, a
            `score`. Empty without such a defense.
        """
        return _tables.suspects(self.findings)

    def filtering(self):
        """Count what filtering defenses dropped under each attack.

        Returns
        -------
        table : pandas.DataFrame
            For each estimator, attack, defense and budget, over folds and trials: the
            rows poisoned, those dropped, the poisoned ones among them, `recall`, the
            share of the poisoned that was dropped, and `precision`, the share of the
            dropped that was poisoned.
        """
        return _tables.filtering(self.findings)

    def poisons(self):
        """Show rows that were poisoned, before and after.

        Returns
        -------
        table : pandas.DataFrame
            At most four rows an attack, those changed most, of the first fold at the
            largest budget. `before` is None for a row that was added; `row` is then
            the one that it was made of, or -1. `estimator` and `defense` tell against
            what it was crafted, None where one poison serves all.
        """
        return _tables.poisons(self.findings)

    def certificates(self):
        """Give the curves of the defenses that come with a certificate.

        Returns
        -------
        table : pandas.DataFrame
            A row for each estimator, defense, fold, trial and radius: the share of
            held-out rows that are read rightly whatever an attacker does who changes
            at most `radius` of what `unit` names. `statement` says what is assumed.
        """
        return _tables.certificates(self.findings)

    def privacy(self):
        """Give the privacy bills of the defenses that have one.

        Returns
        -------
        table : pandas.DataFrame
            Epsilon and delta by estimator, defense, fold and trial, for which
            neighbouring data sets they hold and what they assume.
        """
        return _tables.privacy(self.findings)

    def cost(self):
        """Say what defenses and attacks take.

        Returns
        -------
        table : pandas.DataFrame
            `seconds` to fit and score one model, for each defense and estimator, and
            to craft one poison, for each attack, over all estimators and defenses
            that it is crafted against; means over the settings. `relative` divides
            by the bare estimator's seconds, for attacks by their mean over
            estimators.
        """
        return _tables.cost(self.timings, self.meta)

    @property
    def recommendation(self):
        """What to do, by the rule that the report states: a line an estimator."""
        summary = self.summary()
        advice = advise(self, summary, _ranking.rank(self, summary))
        return "\n".join(map(str, advice))

    def plot(self, figsize=None, *, value="damage"):
        """Draw damage or clean score against budget: a panel an estimator and attack.

        Parameters
        ----------
        figsize : (float, float), default=None
            In inches.
        value : {"damage", "clean_score"}, default="damage"
            What to draw.

        Returns
        -------
        figure : matplotlib Figure
        """
        from skpoison.audit._figures import draw_curves

        return draw_curves(self, value, figsize)

    def heat_map(self, budget=None, *, figsize=None):
        """Draw damage by attack and defense at one budget: a panel an estimator.

        Parameters
        ----------
        budget : int or float, default=None
            One of those audited. None is the largest.
        figsize : (float, float), default=None
            In inches.

        Returns
        -------
        figure : matplotlib Figure
        """
        from skpoison.audit._figures import draw_heat_map

        return draw_heat_map(self, budget, figsize)

    def to_html(self, path):
        """Write one self-contained page: no file beside it, no network.

        Parameters
        ----------
        path : str or Path
            Written whole or not at all.
        """
        write_html([self], path)

    def to_json(self, path):
        """Write everything that the report holds as plain JSON.

        Parameters
        ----------
        path : str or Path
            Written whole or not at all.
        """
        _save.write(self, path)

    @classmethod
    def from_json(cls, path):
        """Read a report that :meth:`to_json` wrote.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        report : AuditReport
            Equal in every number to the one that was written.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        table, timings, meta, findings = _save.read(path)
        report = cls([], [], meta, findings)
        report.table, report.timings = _tables.restore(table), _tables.restore(timings)
        return report


def write_html(reports, path, *, title="skpoison audit"):
    """Write several reports into one self-contained page.

    Parameters
    ----------
    reports : list of AuditReport
    path : str or Path
        Written whole or not at all.
    title : str, default="skpoison audit"
    """
    from skpoison.audit._html import render

    path = _save.check_path(path)
    write_atomically(path, render(reports, title))


def print_report(report, file=None):
    """Print the damage of every setting, the defenses ranked and the recommendation.

    Parameters
    ----------
    report : AuditReport
    file : file object, default=None
        None is stdout.
    """
    keys = ["estimator", "attack", "defense"]
    summary = report.summary()
    ranking = _ranking.rank(report, summary)
    damage = summary.set_index([*keys, "budget"])["damage"].unstack()
    order = summary.drop_duplicates(keys).set_index(keys).index
    damage = damage.loc[order, report.meta["budgets"]]
    scores = ranking.set_index(["estimator", "defense"])["clean_score"]
    damage.insert(0, "clean score", [scores[e, d] for e, _, d in damage.index])
    meta = report.meta
    if report.unit:
        target = f"target from {meta['target']['min']:g} to {meta['target']['max']:g}"
        damage_in = f"{report.unit} lost"
    else:
        target = f"{len(meta['classes'])} classes"
        damage_in = "share of held-out rows"
        if any(a["goal"] == "targeted" for a in meta["attacks"].values()):
            damage_in += " or targets"
    print(
        f"{meta['name']}: {meta['n_samples']} rows, {target}; damage in {damage_in}, "
        "by budget",
        file=file,
    )
    text = damage.to_string(float_format=lambda v: f"{v:.3f}")
    print(text, file=file)
    if len(meta["defenses"]) > 1:
        print(f"\n{_ranking.as_text(ranking, report.unit)}", file=file)
    advice = "\n".join(map(str, advise(report, summary, ranking)))
    print(f"\n{advice}", file=file)
