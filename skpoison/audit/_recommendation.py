"""What to do, in words that follow from the numbers by the stated rule."""

from dataclasses import dataclass

import numpy as np

from skpoison.audit._ranking import (
    BREAKS_AT,
    MAX_PRICE,
    MIN_GAIN,
    amount,
)
from skpoison.audit._registry import AFTER_TRAINING
from skpoison.audit._tables import goals_of

RULE = (
    "Damage is what an attack costs: for attacks on availability the clean score lost "
    "against the bare estimator trained on clean data, for backdoors and targeted "
    "attacks the attack success above its control at budget 0: the share of marked "
    "rows, or of targets, that are read as the attacker wants. The price of a defense "
    "is the clean score it loses without any attack. An estimator counts as broken "
    f"from the smallest budget whose damage is {BREAKS_AT:.0%} or more, for targeted "
    "attacks whatever the interval of their few tries. For a broken one the defense "
    "with the smallest worst-case damage over all attacks and budgets, among those "
    f"whose price is {MAX_PRICE:.0%} or less, is recommended, if that is lower than "
    f"the bare estimator's by {MIN_GAIN:.0%} or more and their 95 % intervals do not "
    "overlap; others that do as much follow in the same order, then those whose "
    "interval overlaps, which are worth a try and no more, then the bare estimator, "
    "then those that gain less, then those that cost more, then those that could not "
    "be trained in every fold. The worst "
    "case counts adaptive attacks, which are crafted against the defended estimator, "
    "where they were run. Certificates, privacy bills and seconds are "
    "stated and decide no rank. For regressors the clean score "
    "is R², or another that is 1 for perfect predictions and about 0 for a constant; "
    "damage is what it loses, 1 at most: beyond that the victim is of no use, and the "
    f"clean score tells how far. The thresholds are {BREAKS_AT:g} and {MAX_PRICE:g} "
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


@dataclass(frozen=True)
class Advice:
    """What to do about one estimator.

    Attributes
    ----------
    estimator : str
    is_broken : bool
        Whether some attack on the training data broke it, or could not be scored.
    verdict : str
        What breaks it; empty where no training data were attacked.
    action : str
        A few words.
    because : str
        Why, in full sentences.
    others : str
        The defenses after the recommended one.
    after_training : list of str
        What attacks on the finished model do.
    """

    estimator: str
    is_broken: bool
    verdict: str
    action: str
    because: str
    others: str
    after_training: list

    def __str__(self):
        parts = [self.verdict, self.because, self.others, *self.after_training]
        return f"{self.estimator}: {' '.join(part for part in parts if part)}"


def advise(report, summary, ranking):
    """Return an :class:`Advice` for each estimator."""
    meta, unit = report.meta, report.unit
    advice = []
    for estimator in meta["estimators"]:
        own = summary[summary["estimator"] == estimator]
        goals = goals_of(own, meta)
        bare = own[(own["defense"] == "none") & (own["budget"] != 0)]
        poisoned = bare[~goals[bare.index].isin(AFTER_TRAINING)]
        later = bare[goals[bare.index].isin(AFTER_TRAINING)]
        verdict = action = because = others = ""
        is_broken = False
        if len(poisoned):
            is_broken = bool(
                (~(poisoned["damage"] < BREAKS_AT)).any()  # NaN: could not be trained
            )
            verdict = _verdict(poisoned, unit, meta["attacks"])
            ranks = ranking[ranking["estimator"] == estimator]
            action, because, others = _advise(ranks, unit)
        after = _after_training(later, meta)
        advice.append(
            Advice(estimator, is_broken, verdict, action, because, others, after)
        )
    return advice


def _verdict(bare, unit, attacks):
    """Say what breaks one estimator, from the bare rows of the summary."""
    broken = bare[bare["damage"] >= BREAKS_AT]
    failed = int(bare["damage"].isna().sum())
    aside = f" In {failed} settings it could not be trained." if failed else ""
    aside += _caveat(bare, attacks)
    if bare["damage"].isna().all():
        return "it could not be trained under any attack in every fold."
    if len(broken) == 0:
        return (
            f"no attack did {amount(BREAKS_AT, unit, 0)} damage; the worst did "
            f"{amount(bare['damage'].max(), unit)}.{aside}"
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
        f"does {amount(at['damage'], unit)} damage ({what} "
        f"{at['attack_success']:.1%} [{at['low']:.1%}, {at['high']:.1%}] of "
        f"{at['n_tries']}{tries}, control {at['control_success']:.1%}, clean score "
        f"{at['clean_score']:.3f}).{aside}"
    )


def _caveat(bare, attacks):
    """Say what few targets leave open."""
    goals = bare["attack"].map({name: a["goal"] for name, a in attacks.items()})
    calm = bare[(goals == "targeted") & (bare["damage"] < BREAKS_AT)]
    if len(calm) == 0 or calm["high"].max() < BREAKS_AT:
        return ""
    at = calm.loc[calm["high"].idxmax()]
    return (
        f" {at['attack']} had {at['n_tries']} targets: at {at['budget']:g} a success "
        f"of up to {at['high']:.0%} can't be ruled out."
    )


def _advise(ranks, unit):
    """Say what to do, why, and what of the other defenses."""
    bare = ranks[ranks["verdict"] == "bare"].iloc[0]
    if bare["worst_damage"] < BREAKS_AT:
        because = "No defense is needed against these attacks at these budgets."
        return "No defense is needed", because, ""
    if len(ranks) == 1:
        return "Test a defense", "No defense was tested.", ""
    useful, others = ranks[ranks["verdict"].isin(["use", "unclear"])], ""
    if len(useful) == 0:
        action = "Vet the sources of the training data"
        because = (
            "None of the defenses tested lowers the worst damage by "
            f"{amount(MIN_GAIN, unit, 0)} at a price of {amount(MAX_PRICE, unit, 0)} "
            "or less: vet the sources of the training data."
        )
    else:
        best = useful.iloc[0]
        if best["verdict"] == "use":
            action = f"Use {best['defense']}"
        else:
            action = f"Vet the sources of the training data; try {best['defense']}"
        because = f"{action}: {best['reason']}."
        if best["worst_damage"] >= BREAKS_AT:
            if best["verdict"] == "use":
                action += ", which is not safe yet"
            because += " That is not safe yet."
        if np.isnan(best["adaptive_damage"]):
            because += " No adaptive attack on it was tried."
        others = " ".join(
            f"{row['rank']}. {row['defense']}: {row['reason']}."
            for _, row in useful.iloc[1:3].iterrows()
        )
    left = ranks[~ranks["verdict"].isin(["use", "unclear", "bare"])]
    if len(left):
        reasons = "; ".join(
            f"{row['defense']} ({_in_short(row, unit)})" for _, row in left.iterrows()
        )
        others = f"{others} Not recommended: {reasons}.".strip()
    return action, because, others


def _in_short(row, unit):
    if row["verdict"] == "price":
        return f"costs {amount(row['price'], unit)} of the clean score"
    if row["verdict"] == "no gain":
        return f"worst damage {amount(row['worst_damage'], unit)}"
    return "could not be trained in every fold"


def _after_training(bare, meta):
    """Say what the attacks on the bare finished model do, a sentence each."""
    largest = meta["budgets"][-1]
    sentences = []
    for _, at in bare[bare["budget"] == largest].iterrows():
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
