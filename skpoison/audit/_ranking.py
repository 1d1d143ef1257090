"""Defenses ranked by one stated rule, with a reason each."""

import numpy as np

from skpoison.audit import _tables
from skpoison.audit._registry import AFTER_TRAINING

# The thresholds of the rule, in shares of held-out rows or, for regressors, in units
# of the score.
MAX_PRICE = 0.02
MIN_GAIN = 0.02
BREAKS_AT = 0.05

COLUMNS = [
    "estimator",
    "rank",
    "defense",
    "clean_score",
    "price",
    "worst_damage",
    "worst_low",
    "worst_high",
    "worst_attack",
    "worst_budget",
    "mean_damage",
    "adaptive_damage",
    "poison_recall",
    "poison_precision",
    "certified_radius",
    "certified_accuracy",
    "epsilon",
    "seconds",
    "relative_seconds",
    "verdict",
    "reason",
]
#: The verdicts, in the order of the ranks.
VERDICTS = (
    "use",
    "unclear",
    "bare",
    "not needed",
    "no gain",
    "price",
    "failed",
    "untested",
)


def amount(value, unit, digits=1):
    """Write damage or a price: in percent of the rows, or in units of the score."""
    if unit:
        return f"{value:.{digits + 2}f} {unit}"
    return f"{value:.{digits}%}"


def interval(low, high, unit):
    """Write the interval of an amount; nothing where there is none."""
    if not np.isfinite(low):
        return ""
    if unit:
        return f" [{low:.3f}, {high:.3f}]"
    return f" [{low:.1%}, {high:.1%}]"


def rank(report, summary):
    """Return one row for each estimator and defense, best first."""
    pandas = _tables.import_pandas()
    meta, unit = report.meta, report.unit
    found = _found(report)
    parts = []
    for estimator in meta["estimators"]:
        own = summary[summary["estimator"] == estimator]
        rows = [
            _row(own[own["defense"] == d], estimator, d, meta, found)
            for d in meta["defenses"]
        ]
        bare = rows[0]
        for row in rows:
            row["price"] = bare["clean_score"] - row["clean_score"]
            row["verdict"] = _verdict(row, bare)
            row["reason"] = _reason(row, bare, unit)
        rows.sort(key=_order)
        for place, row in enumerate(rows, 1):
            row["rank"] = place
        parts += rows
    return pandas.DataFrame(parts, columns=COLUMNS)


def _row(part, estimator, defense, meta, found):
    """Measure one defense of one estimator."""
    poisons = ~_tables.goals_of(part, meta).isin(AFTER_TRAINING)
    attacked = part[(part["budget"] != 0) & poisons]
    # against some defenses an adaptive attack is no other than the static one
    knows = attacked["attack"].map(
        {
            name: a.get("adaptive", False)
            and defense not in a.get("helpless_against", [])
            for name, a in meta["attacks"].items()
        }
    )
    at, nan = _tables.worst_of(attacked), float("nan")
    by_adaptive = _tables.worst_of(attacked[knows.astype(bool)])
    return {
        "estimator": estimator,
        "defense": defense,
        "clean_score": part.loc[part["budget"] == 0, "clean_score"].iloc[0],
        "worst_damage": nan if at is None else at["damage"],
        "worst_low": nan if at is None else at["damage_low"],
        "worst_high": nan if at is None else at["damage_high"],
        "worst_attack": "" if at is None else at["attack"],
        "worst_budget": nan if at is None else at["budget"],
        "mean_damage": nan if at is None else attacked["damage"].mean(),
        "adaptive_damage": nan if by_adaptive is None else by_adaptive["damage"],
        "n_failed": int(attacked["damage"].isna().sum()),
        **{key: value.get((estimator, defense), nan) for key, value in found.items()},
    }


def _found(report):
    """Return what the findings say of each defense, by estimator and defense."""
    keys = ["estimator", "defense"]
    counts = (
        report.filtering()
        .groupby(keys)[["n_poisoned", "n_dropped", "n_poisons_dropped"]]
        .sum()
    )
    curves = report.certificates().groupby([*keys, "radius"])["certified_accuracy"]
    curve = curves.mean().astype(float)
    half = curve[curve >= 0.5].reset_index().groupby(keys)["radius"].max()
    certified = curve.groupby(level=keys).size()
    first = curve[curve.index.get_level_values("radius") > 0]
    cost = report.cost()
    cost = cost[cost["what"] == "defense"].set_index(["estimator", "name"])
    hits = counts["n_poisons_dropped"]
    return {
        "poison_recall": _quotients(hits, counts["n_poisoned"]),
        "poison_precision": _quotients(hits, counts["n_dropped"]),
        # where fewer than half are certified even of no change, the radius is 0
        "certified_radius": {k: int(half.get(k, 0)) for k in certified.index},
        "certified_accuracy": first.groupby(level=keys).first().to_dict(),
        "epsilon": report.privacy().groupby(keys)["epsilon"].max().to_dict(),
        "seconds": cost["seconds"].to_dict(),
        "relative_seconds": cost["relative"].to_dict(),
    }


def _quotients(part, whole):
    return {k: part[k] / whole[k] for k in part.index if whole[k] > 0}


def _verdict(row, bare):
    if row["defense"] == "none":
        return "bare"
    if row["n_failed"]:
        return "failed"
    if np.isnan(row["worst_damage"]):
        return "untested"
    if row["price"] > MAX_PRICE:
        return "price"
    gain = bare["worst_damage"] - row["worst_damage"]
    # a bare estimator that fails under some attack has no number to gain on
    if bare["worst_damage"] < BREAKS_AT:
        return "not needed"
    if not gain >= MIN_GAIN:
        return "no gain"
    return "unclear" if row["worst_high"] >= bare["worst_low"] else "use"


def _order(row):
    place = VERDICTS.index(row["verdict"])
    # worst damage decides; then damage over all attacks, then the price
    tiers = np.nan_to_num([row["worst_damage"], row["mean_damage"], row["price"]])
    return place, *tiers


def _reason(row, bare, unit):
    """Say in one sentence why a defense stands where it does."""
    if row["verdict"] == "failed":
        return f"could not be trained in every fold of {row['n_failed']} settings"
    if row["verdict"] == "untested":
        return "no attack on the training data was tried"
    spread = interval(row["worst_low"], row["worst_high"], unit)
    at = f"{spread} ({row['worst_attack']} at {row['worst_budget']:g})"
    if row["verdict"] == "bare":
        if np.isnan(row["worst_damage"]):
            return "the estimator as it is"
        return (
            f"the estimator as it is: worst damage {amount(row['worst_damage'], unit)}"
            f"{at}"
        )
    before = "the bare estimator could not be trained everywhere"
    if np.isfinite(bare["worst_damage"]):
        before = amount(bare["worst_damage"], unit)
    change = f"worst damage {before} -> {amount(row['worst_damage'], unit)}{at}"
    price = f"{amount(max(row['price'], 0), unit)} of the clean score"
    if row["verdict"] == "price":
        text = f"costs {price}, more than {amount(MAX_PRICE, unit, 0)}; {change}"
    elif row["verdict"] == "no gain":
        text = f"{change}: no gain of {amount(MIN_GAIN, unit, 0)}"
    else:
        text = f"{change}, for {price}"
        if row["verdict"] == "unclear":
            text += "; the intervals overlap: more trials would tell"
    return "; ".join([text, *_asides(row, unit)])


def _asides(row, unit):
    """Say what else was found about a defense."""
    parts = []
    if np.isfinite(row["adaptive_damage"]):
        damage = amount(row["adaptive_damage"], unit)
        parts.append(f"adaptive attacks on it do {damage}")
    if np.isfinite(row["poison_recall"]):
        text = f"it finds {row['poison_recall']:.0%} of the poisoned rows"
        if np.isfinite(row["poison_precision"]):
            text += f", and {row['poison_precision']:.0%} of what it finds is poisoned"
        parts.append(text)
    if np.isfinite(row["certified_accuracy"]):
        parts.append(
            f"{row['certified_accuracy']:.0%} of held-out rows are certified at the "
            f"smallest radius, half of all up to {row['certified_radius']:g}"
        )
    if not np.isnan(row["epsilon"]):
        parts.append(f"privacy bill epsilon {row['epsilon']:.3g}")
    return parts


def as_text(ranking, unit, *, seconds=False):
    """Write a ranking compactly, a line an estimator and defense.

    Without seconds, the same audit gives the same text.
    """
    pandas = _tables.import_pandas()

    def written(column, digits=1):
        return ["" if np.isnan(v) else amount(v, unit, digits) for v in ranking[column]]

    spread = zip(ranking["worst_low"], ranking["worst_high"], strict=True)
    columns = {
        "rank": ranking["rank"],
        "defense": ranking["defense"],
        "price": written("price"),
        "worst damage": written("worst_damage"),
        "interval": [interval(low, high, unit).strip() for low, high in spread],
        "by": [
            "" if np.isnan(b) else f"{a} at {b:g}"
            for a, b in zip(
                ranking["worst_attack"], ranking["worst_budget"], strict=True
            )
        ],
        "adaptive": written("adaptive_damage"),
        "radius": _rounded(ranking["certified_radius"], "{:g}"),
        "epsilon": _rounded(ranking["epsilon"], "{:.3g}"),
    }
    if seconds:
        columns["time"] = _rounded(ranking["relative_seconds"], "x{:.2g}")
    kept = {name: column for name, column in columns.items() if any(map(str, column))}
    table = pandas.DataFrame(kept)
    if ranking["estimator"].nunique() > 1:
        table.insert(0, "estimator", ranking["estimator"])
    return table.to_string(index=False)


def _rounded(values, text):
    return ["" if np.isnan(value) else text.format(value) for value in values]
