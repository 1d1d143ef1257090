"""Tables that follow from the rows, the timings and the findings of an audit."""

import numpy as np

from skpoison.audit._registry import AFTER_TRAINING
from skpoison.metrics import wilson_interval
from skpoison.utils._intervals import half_width

KEYS = ["estimator", "attack", "defense", "budget"]

#: What each kind of finding holds, in the order of its table.
FINDINGS = {
    "suspects": [
        "row",
        "label",
        "suggested",
        "n_dropped",
        "n_seen",
        "share",
        "by",
        "score",
    ],
    "filtering": [*KEYS, "n_poisoned", "n_dropped", "n_poisons_dropped"],
    "poisons": [
        "attack",
        "estimator",
        "defense",
        "budget",
        "kind",
        "shape",
        "row",
        "y_before",
        "y_after",
        "before",
        "after",
    ],
    "certificates": [
        "estimator",
        "defense",
        "fold",
        "trial",
        "radius",
        "certified_accuracy",
        "unit",
        "statement",
    ],
    "privacy": [
        "estimator",
        "defense",
        "fold",
        "trial",
        "epsilon",
        "delta",
        "adjacency",
        "assumptions",
    ],
}


def import_pandas():
    """Return pandas, or say what to install."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "the audit needs pandas: pip install 'skpoison[audit]'"
        ) from error
    return pandas


def goals_of(table, meta):
    """Return the goal of each row's attack."""
    return table["attack"].map({n: a["goal"] for n, a in meta["attacks"].items()})


def summarise(table, meta):
    """Return one row for each setting, see :meth:`AuditReport.summary`."""
    orders = [list(meta[f"{key}s"]) for key in KEYS]
    # in the order in which they were given
    table = table.sort_values(
        KEYS, kind="stable", key=lambda c: c.map(orders[KEYS.index(c.name)].index)
    )
    bare = table[(table["defense"] == "none") & (table["budget"] == 0)]
    run = ["estimator", "fold", "trial"]
    clean = bare.drop_duplicates(run).set_index(run)["clean_score"]
    own = clean.reindex(table.set_index(run).index).to_numpy()
    misread = table["n_success"] / table["n_tries"].where(table["n_tries"] > 0)
    table = table.assign(
        lost=own - table["clean_score"],
        # whether the score is the share of the rows that are read rightly
        is_share=np.isclose(table["clean_score"] + misread, 1),
    )
    groups = table.groupby(KEYS, sort=False)
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
        is_share=("is_share", "all"),
    ).reset_index()
    wins, tries = summary["attack_success"], summary["n_tries"]
    summary["attack_success"] = wins / tries.where(tries > 0)
    control_tries = summary.pop("n_control_tries")
    summary["control_success"] /= control_tries.where(control_tries > 0)
    low, high = wilson_interval(wins.to_numpy(), tries.to_numpy())
    summary.insert(8, "low", low)
    summary.insert(9, "high", high)
    mean = clean.groupby(level=0).mean()
    lost = summary["estimator"].map(mean) - summary["clean_score"]
    gained = summary["attack_success"] - summary["control_success"]
    on_clean = goals_of(summary, meta) == "availability"
    trained = summary["n_failed"] == 0
    damage = lost.where(on_clean, gained)
    # of a share Wilson's interval, of any other score Student's over the runs
    counted = summary.pop("is_share") | ~on_clean
    below = (summary["attack_success"] - summary["low"]).where(counted)
    above = (summary["high"] - summary["attack_success"]).where(counted)
    if not counted.all():
        spread = groups["lost"].agg(lambda s: half_width(s.to_numpy()))
        spread = spread.reset_index(drop=True)
        below, above = below.where(counted, spread), above.where(counted, spread)
    # R2 has no lower end: one ruined model is no better than another
    for name, column in (
        ("damage", damage),
        ("damage_low", damage - below),
        ("damage_high", damage + above),
    ):
        summary[name] = column.clip(lower=0.0, upper=1.0).where(trained)
    return summary


def worst_of(attacked):
    """Return the setting of most damage; None where one of them has no number."""
    if len(attacked) == 0 or attacked["damage"].isna().any():
        return None
    return attacked.loc[attacked["damage"].idxmax()]


def _frame(kind, rows, **dtypes):
    frame = import_pandas().DataFrame(rows, columns=FINDINGS[kind])
    return frame.astype(dtypes)


def suspects(findings):
    rows = [
        {
            **found,
            "share": found["n_dropped"] / found["n_seen"],
            "by": ", ".join(found["by"]),
        }
        for found in findings.get("suspects", [])
    ]
    return _frame("suspects", rows, row=int, n_dropped=int, n_seen=int, share=float)


def filtering(findings):
    counts = dict.fromkeys(["n_poisoned", "n_dropped", "n_poisons_dropped"], int)
    table = _frame("filtering", findings.get("filtering", []), **counts)
    table["recall"] = _ratio(table["n_poisons_dropped"], table["n_poisoned"])
    table["precision"] = _ratio(table["n_poisons_dropped"], table["n_dropped"])
    return table


def _ratio(part, whole):
    return part / whole.where(whole > 0)


def poisons(findings):
    rows = [
        {**{k: v for k, v in found.items() if k != "rows"}, **row}
        for found in findings.get("poisons", [])
        for row in found["rows"]
    ]
    return _frame("poisons", rows)


def certificates(findings):
    rows = [
        {**found, "radius": radius, "certified_accuracy": accuracy}
        for found in findings.get("certificates", [])
        for radius, accuracy in zip(
            found["radii"], found["certified_accuracy"], strict=True
        )
    ]
    return _frame("certificates", rows, radius=int, certified_accuracy=float)


def privacy(findings):
    rows = [
        {
            **found,
            "epsilon": float(found["epsilon"]),
            "assumptions": "; ".join(found["assumptions"]),
        }
        for found in findings.get("privacy", [])
    ]
    return _frame("privacy", rows, epsilon=float)


def cost(timings, meta):
    """Return seconds by defense and by attack, see :meth:`AuditReport.cost`."""
    pandas = import_pandas()
    columns = ["what", "name", "estimator", "seconds", "relative"]
    if len(timings) == 0:
        return pandas.DataFrame(columns=columns)
    fits = timings.groupby(["estimator", "defense"])["fit_seconds"].mean()
    rows = [
        ("defense", d, e, fits[e, d], fits[e, d] / fits[e, "none"])
        for e in meta["estimators"]
        for d in meta["defenses"]
    ]
    if "craft_seconds" in timings:
        # shared between estimators, a poison is paid for in the row of one of them
        bare = float(fits.xs("none", level="defense").mean())
        runs = ["attack", "budget", "fold", "trial"]
        poisoned = timings[timings["budget"] != 0]
        craft = poisoned.groupby(runs)["craft_seconds"].sum().groupby("attack").mean()
        rows += [
            ("attack", a, "all", craft[a], craft[a] / bare)
            for a, entry in meta["attacks"].items()
            if entry["goal"] not in AFTER_TRAINING
        ]
    return pandas.DataFrame(rows, columns=columns)


def restore(columns):
    """Return a saved table with the types that it had."""
    pandas = import_pandas()
    return pandas.DataFrame(
        {
            name: pandas.Series(column["values"], dtype=column["dtype"])
            for name, column in columns.items()
        }
    )
