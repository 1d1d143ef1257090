"""The drawings of a report as figures of matplotlib."""

import numpy as np


def _plain(text):
    """Keep matplotlib from reading dollars as mathematics."""
    return str(text).replace("$", r"\$")


def _subplots(n_rows, n_columns, figsize):
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "the report's plots need matplotlib: pip install 'skpoison[audit]'"
        ) from error
    return pyplot.subplots(
        n_rows, n_columns, figsize=figsize, layout="constrained", squeeze=False
    )


def damage_name(report):
    """Name damage with its unit."""
    return f"damage ({report.unit} lost)" if report.unit else "damage"


def draw_curves(report, value, figsize):
    """Draw a column of the summary, one panel an estimator and attack."""
    if value not in ("damage", "clean_score"):
        raise ValueError(f"value must be 'damage' or 'clean_score', got {value!r}")
    summary = report.summary().set_index(["estimator", "attack", "defense"])[value]
    estimators, attacks = list(report.meta["estimators"]), list(report.meta["attacks"])
    size = (3.6 * len(attacks) + 0.6, 2.9 * len(estimators) + 0.6)
    figure, axes = _subplots(len(estimators), len(attacks), figsize or size)
    budgets = report.meta["budgets"]
    for (i, j), ax in np.ndenumerate(axes):
        for defense in report.meta["defenses"]:
            line = summary.loc[[(estimators[i], attacks[j], defense)]]
            ax.plot(range(len(line)), line, marker="o", label=_plain(defense))
        ax.set(title=_plain(f"{estimators[i]}\n{attacks[j]}"), xlabel="budget")
        ax.set_xticks(range(len(budgets)), [f"{b:g}" for b in budgets])
        ax.set_ylabel(damage_name(report) if value == "damage" else "clean score")
        if value == "damage":
            ax.set_ylim(-0.02, 1.02)
        ax.grid(alpha=0.3)
    axes[0, 0].legend(title="defense", fontsize="small")
    return figure


def draw_heat_map(report, budget, figsize):
    """Draw damage at one budget: attack x defense, a panel an estimator."""
    budgets = report.meta["budgets"]
    budget = budgets[-1] if budget is None else budget
    if budget not in budgets:
        raise ValueError(
            f"budget must be one of those audited, {budgets}, got {budget!r}"
        )
    summary = report.summary()
    estimators = list(report.meta["estimators"])
    attacks, defenses = list(report.meta["attacks"]), list(report.meta["defenses"])
    width, height = 0.9 * len(defenses) + 2.6, 0.5 * len(attacks) + 1.4
    size = (width * len(estimators), height)
    figure, axes = _subplots(1, len(estimators), figsize or size)
    for ax, estimator in zip(axes[0], estimators, strict=True):
        part = summary[
            (summary["estimator"] == estimator) & (summary["budget"] == budget)
        ]
        damage = part.pivot(index="attack", columns="defense", values="damage")
        values = damage.loc[attacks, defenses].to_numpy()
        ax.imshow(values, vmin=0, vmax=1, cmap="Reds", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            shade = "white" if value > 0.6 else "black"
            text = f"{value:.2f}" if report.unit else f"{value:.0%}"
            ax.text(column, row, text, ha="center", va="center", color=shade)
        names = [*map(_plain, defenses)]
        ax.set_xticks(range(len(defenses)), names, rotation=20, ha="right")
        ax.set_yticks(range(len(attacks)), [*map(_plain, attacks)])
        ax.set_title(_plain(f"{estimator}\n{damage_name(report)} at budget {budget:g}"))
    return figure
