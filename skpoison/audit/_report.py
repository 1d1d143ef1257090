"""What an audit found: numbers, what follows from them, pictures."""

import os
from pathlib import Path

from skpoison.audit._registry import AFTER_TRAINING
from skpoison.metrics import wilson_interval
from skpoison.utils._files import write_atomically

# The rule behind the recommendation, in shares of held-out rows or, for regressors, in
# units of the score.
_MAX_PRICE = 0.02
_MIN_GAIN = 0.02
_BREAKS_AT = 0.05

RULE = (
    "Damage is what an attack costs: for attacks on availability the clean score lost "
    "against the bare estimator trained on clean data, for backdoors and targeted "
    "attacks the attack success above its control at budget 0: the share of marked "
    "rows, or of targets, that are read as the attacker wants. The price of a defense "
    "is the clean score it loses without any attack. An estimator counts as broken "
    f"from the smallest budget whose damage is {_BREAKS_AT:.0%} or more, for targeted "
    "attacks whatever the interval of their few tries. For a broken one the defense "
    "with the smallest worst-case damage over all attacks and budgets, among those "
    f"whose price is {_MAX_PRICE:.0%} or less, is recommended, if that is lower than "
    f"the bare estimator's by {_MIN_GAIN:.0%} or more. For regressors the clean score "
    "is R², or another that is 1 for perfect predictions and about 0 for a constant; "
    "damage is what it loses, 1 at most: beyond that the victim is of no use, and the "
    f"clean score tells how far. The thresholds are {_BREAKS_AT:g} and {_MAX_PRICE:g} "
    "of the score. A held-out row counts as the attacker's success where the "
    "prediction misses it by more than the standard deviation of the clean targets. "
    "What attacks a finished model has lines of its own and no part in the "
    "recommendation, which is about training data: evasion moves held-out rows at test "
    "time, a budget being the radius as a share of the range of each column, or of all "
    "pixels, and its damage the further rows that are misread; leakage turns what "
    "clients sent in the first round back into rows, a budget being the clients looked "
    "at, and its damage the share of their rows that come back to within a tenth of "
    "their distance from the mean row."
)


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

    Attributes
    ----------
    table : pandas.DataFrame
        Tidy. One row for each estimator, attack, defense, budget, fold and trial,
        with the rows poisoned, the clean score, the attacker's successes and tries
        on held-out rows, and the success on the model trained on clean data as
        control. The tries of a targeted attack are its targets.
    timings : pandas.DataFrame
    meta : dict
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
    ...     model, X, y, attacks=["adversarial-flips"], budgets=[0.1], cv=2,
    ...     random_state=0, verbose=0,
    ... )
    >>> print(report.recommendation)  # doctest: +ELLIPSIS
    estimator: broken by adversarial-flips from budget 0.1...
    """

    def __init__(self, rows, timings, meta):
        pandas = _import_pandas()
        self.table = pandas.DataFrame(rows)
        self.timings = pandas.DataFrame(timings)
        self.meta = meta

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
        """
        keys = ["estimator", "attack", "defense", "budget"]
        orders = [list(self.meta[f"{key}s"]) for key in keys]
        # in the order in which they were given
        table = self.table.sort_values(
            keys, kind="stable", key=lambda c: c.map(orders[keys.index(c.name)].index)
        )
        groups = table.groupby(keys, sort=False)
        summary = groups.agg(
            n_poisoned=("n_poisoned", "mean"),
            # a fold that failed leaves no number: the others are not its stand-in
            clean_score=("clean_score", lambda s: s.mean(skipna=False)),
            clean_std=("clean_score", lambda s: s.std(ddof=0, skipna=False)),
            attack_success=("n_success", "sum"),
            n_tries=("n_tries", "sum"),
            control_success=("n_control", "sum"),
            n_control_tries=("n_control_tries", "sum"),
            n_failed=("clean_score", lambda s: int(s.isna().sum())),
        ).reset_index()
        wins, tries = summary["attack_success"], summary["n_tries"]
        summary["attack_success"] = wins / tries.where(tries > 0)
        control_tries = summary.pop("n_control_tries")
        summary["control_success"] /= control_tries.where(control_tries > 0)
        low, high = wilson_interval(wins.to_numpy(), tries.to_numpy())
        summary.insert(8, "low", low)
        summary.insert(9, "high", high)
        bare = summary[(summary["defense"] == "none") & (summary["budget"] == 0)]
        clean = bare.drop_duplicates("estimator").set_index("estimator")["clean_score"]
        lost = summary["estimator"].map(clean) - summary["clean_score"]
        gained = summary["attack_success"] - summary["control_success"]
        on_clean = self._goals(summary) == "availability"
        # R2 has no lower end: one ruined model is no better than another
        damage = lost.where(on_clean, gained).clip(lower=0.0, upper=1.0)
        summary["damage"] = damage.where(summary["n_failed"] == 0)
        return summary

    def _goals(self, table):
        """Return the goal of each row's attack."""
        return table["attack"].map(
            {n: a["goal"] for n, a in self.meta["attacks"].items()}
        )

    def defenses(self):
        """Compare the defenses of each estimator.

        Returns
        -------
        table : pandas.DataFrame
            `clean_score` without attack, `price` in clean score, `worst_damage` over
            all attacks on the training data and all budgets, and where it occurs, best
            first.
        """
        pandas = _import_pandas()
        summary = self.summary()
        poisons = ~self._goals(summary).isin(AFTER_TRAINING)
        rows = []
        for (estimator, defense), part in summary.groupby(
            ["estimator", "defense"], sort=False
        ):
            clean = part.loc[part["budget"] == 0, "clean_score"].iloc[0]
            attacked = part[(part["budget"] != 0) & poisons[part.index]]
            if len(attacked) == 0 or attacked["damage"].isna().any():
                worst, attack, budget = float("nan"), "", float("nan")
            else:
                at = attacked.loc[attacked["damage"].idxmax()]
                worst, attack, budget = at["damage"], at["attack"], at["budget"]
            rows.append(
                {
                    "estimator": estimator,
                    "defense": defense,
                    "clean_score": clean,
                    "worst_damage": worst,
                    "worst_attack": attack,
                    "worst_budget": budget,
                }
            )
        table = pandas.DataFrame(rows)
        bare = table[table["defense"] == "none"].set_index("estimator")["clean_score"]
        price = table["estimator"].map(bare) - table["clean_score"]
        table.insert(3, "price", price)
        parts = [
            table[table["estimator"] == e].sort_values("worst_damage", kind="stable")
            for e in self.meta["estimators"]
        ]
        return pandas.concat(parts, ignore_index=True)

    def targets(self):
        """List what the targeted attacks aimed at.

        Returns
        -------
        table : pandas.DataFrame
            For each target its fold and trial, its row in the data, its class and the
            one that it was to be read as. Empty without a targeted attack.
        """
        return _import_pandas().DataFrame(self.meta.get("targets", []))

    @property
    def recommendation(self):
        """What to do, by the rule that the report states: a line an estimator."""
        summary, defenses = self.summary(), self.defenses()
        lines = []
        for estimator in self.meta["estimators"]:
            own = summary[summary["estimator"] == estimator]
            goals = self._goals(own)
            poisoned = own[~goals.isin(AFTER_TRAINING)]
            parts = []
            if len(poisoned):
                parts = [
                    _verdict(poisoned, self.unit, self.meta["attacks"]),
                    _advice(defenses, estimator, self.unit),
                ]
            parts += _after_training(own[goals.isin(AFTER_TRAINING)], self.meta)
            lines.append(f"{estimator}: {' '.join(parts)}")
        return "\n".join(lines)

    def plot(self, figsize=None):
        """Draw damage against budget: a panel an estimator and attack.

        Parameters
        ----------
        figsize : (float, float), default=None
            In inches.

        Returns
        -------
        figure : matplotlib Figure
        """
        from skpoison.audit._html import draw_curves

        return draw_curves(self, figsize=figsize, show=True)

    def to_html(self, path):
        """Write one self-contained page: no file beside it, no network.

        Parameters
        ----------
        path : str or Path
            Written whole or not at all.
        """
        write_html([self], path)


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

    path = Path(os.fspath(path)).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: the folder does not exist")
    write_atomically(path, render(reports, title))


def print_report(report, file=None):
    """Print the damage of every setting and the recommendation.

    Parameters
    ----------
    report : AuditReport
    file : file object, default=None
        None is stdout.
    """
    keys = ["estimator", "attack", "defense"]
    damage = report.summary().set_index([*keys, "budget"])["damage"].unstack()
    order = report.summary().drop_duplicates(keys).set_index(keys).index
    damage = damage.loc[order, report.meta["budgets"]]
    scores = report.defenses().set_index(["estimator", "defense"])["clean_score"]
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
    print(f"\n{report.recommendation}", file=file)


def _amount(value, unit, digits=1):
    """Write damage or a price: in percent of the rows, or in units of the score."""
    if unit:
        return f"{value:.{digits + 2}f} {unit}"
    return f"{value:.{digits}%}"


def _verdict(own, unit, attacks):
    """Say what breaks one estimator, from the bare rows of the summary."""
    bare = own[(own["defense"] == "none") & (own["budget"] != 0)]
    broken = bare[bare["damage"] >= _BREAKS_AT]
    failed = int(bare["damage"].isna().sum())
    aside = f" In {failed} settings it could not be trained." if failed else ""
    aside += _caveat(bare, attacks)
    if bare["damage"].isna().all():
        return "it could not be trained under any attack in every fold."
    if len(broken) == 0:
        return (
            f"no attack did {_amount(_BREAKS_AT, unit, 0)} damage; the worst did "
            f"{_amount(bare['damage'].max(), unit)}.{aside}"
        )
    parts = []
    for attack, hits in broken.groupby("attack", sort=False):
        first = hits.iloc[0]
        parts.append(f"{attack} from budget {first['budget']:g}")
    at = broken.loc[broken["damage"].idxmax()]
    targeted = attacks[at["attack"]]["goal"] == "targeted"
    what, tries = ("targets read as wanted:", "") if targeted else ("success", " tries")
    return (
        f"broken by {', '.join(parts)}; the worst, {at['attack']} at {at['budget']:g}, "
        f"does {_amount(at['damage'], unit)} damage ({what} "
        f"{at['attack_success']:.1%} [{at['low']:.1%}, {at['high']:.1%}] of "
        f"{at['n_tries']}{tries}, control {at['control_success']:.1%}, clean score "
        f"{at['clean_score']:.3f}).{aside}"
    )


def _after_training(own, meta):
    """Say what the attacks on the bare finished model do, a sentence each."""
    largest = meta["budgets"][-1]
    bare = own[(own["defense"] == "none") & (own["budget"] == largest)]
    sentences = []
    for _, at in bare.iterrows():
        if at["n_tries"] == 0:
            sentences.append(
                f"{at['attack']} was not tried: only updates of torch modules and of "
                "the default model can be turned back."
            )
            continue
        share = f"{at['attack_success']:.1%} [{at['low']:.1%}, {at['high']:.1%}]"
        if meta["attacks"][at["attack"]]["goal"] == "leakage":
            what = (
                f"{at['attack']} gets back {share} of {at['n_tries']} rows from what "
                f"clients sent at {largest:g}"
            )
        else:
            what = (
                f"At test time {at['attack']} within {largest:g} of the range has "
                f"{share} of {at['n_tries']} rows misread, "
                f"{at['control_success']:.1%} without it"
            )
        sentences.append(f"{what}.")
    return sentences


def _caveat(bare, attacks):
    """Say what few targets leave open."""
    goals = bare["attack"].map({name: a["goal"] for name, a in attacks.items()})
    calm = bare[(goals == "targeted") & (bare["damage"] < _BREAKS_AT)]
    if len(calm) == 0 or calm["high"].max() < _BREAKS_AT:
        return ""
    at = calm.loc[calm["high"].idxmax()]
    return (
        f" {at['attack']} had {at['n_tries']} targets: at {at['budget']:g} a success "
        f"of up to {at['high']:.0%} can't be ruled out."
    )


def _advice(defenses, estimator, unit):
    own = defenses[defenses["estimator"] == estimator].set_index("defense")
    bare = own.loc["none"]
    rivals = own.drop(index="none")
    rivals = rivals[(rivals["price"] <= _MAX_PRICE) & rivals["worst_damage"].notna()]
    if bare["worst_damage"] < _BREAKS_AT:
        return "No defense is needed against these attacks at these budgets."
    if len(own) == 1:
        return "No defense was tested."
    if len(rivals):
        best = rivals["worst_damage"].idxmin()
        gain = bare["worst_damage"] - rivals.loc[best, "worst_damage"]
        if gain >= _MIN_GAIN:
            row = rivals.loc[best]
            safe = row["worst_damage"] < _BREAKS_AT
            return (
                f"Use {best}: worst damage {_amount(bare['worst_damage'], unit)} -> "
                f"{_amount(row['worst_damage'], unit)} ({row['worst_attack']} at "
                f"{row['worst_budget']:g}), for {_amount(max(row['price'], 0), unit)} "
                "of the clean score." + ("" if safe else " That is not safe yet.")
            )
    return (
        "None of the defenses tested lowers the worst damage by "
        f"{_amount(_MIN_GAIN, unit, 0)} at a price of {_amount(_MAX_PRICE, unit, 0)} "
        "or less: vet the sources of the training data."
    )


def _import_pandas():
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "the audit needs pandas: pip install 'skpoison[audit]'"
        ) from error
    return pandas
