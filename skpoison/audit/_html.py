"""The report as one page: nothing fetched, no script."""

from functools import partial

import numpy as np

from skpoison.audit import _ranking
from skpoison.audit._markup import (
    STYLE,
    definitions,
    heat_map,
    legend,
    panel,
    table,
    text,
)
from skpoison.audit._pictures import show_poisons
from skpoison.audit._recommendation import RULE, advise

_RANK_NAMES = {
    "worst_damage": "worst damage",
    "worst_attack": "by",
    "adaptive_damage": "adaptive attacks",
    "poison_recall": "poison found",
    "certified_radius": "certified radius",
    "relative_seconds": "time",
    "reason": "why",
}
# Suspects that are shown at once.
_FIRST = 10


class _Page:
    """The sections of one report, each left out where there is nothing to show.

    Parameters
    ----------
    report : AuditReport
    anchor : str
        Prefix of its anchors.
    """

    def __init__(self, report, anchor):
        self.report, self.anchor, self.meta = report, anchor, report.meta
        self.summary = report.summary()
        self.ranking = _ranking.rank(report, self.summary)
        self.advice = advise(report, self.summary, self.ranking)
        self.amount = partial(_ranking.amount, unit=report.unit)
        unit = f" ({report.unit} lost)" if report.unit else ""
        self.damage = f"damage{unit}"

    def sections(self):
        """Return name, heading and markup of what there is to show."""
        found = [
            ("ranking", "Defenses, ranked", self.ranks()),
            ("heat", "Heat maps", self.heat_maps()),
            ("curves", "Robustness curves", self.curves()),
            ("suspects", "The worst rows found in the data", self.suspects()),
            ("poisons", "Poisons", self.poisons()),
            ("filtering", "What filters dropped", self.filtering()),
            ("certificates", "Certificates", self.certificates()),
            ("privacy", "Privacy bills", self.privacy()),
            ("cost", "Cost", self.cost()),
            ("settings", "All settings", self.settings()),
            ("targets", "Targets", self.targets()),
            ("threats", "Threat models", self.threats()),
            ("defenses", "Defenses", definitions(self.meta["defenses"].items())),
            ("audited", "What was audited", self.audited()),
        ]
        return [
            (f"{self.anchor}-{key}", name, body) for key, name, body in found if body
        ]

    def cards(self):
        """Return what to do, a card an estimator."""
        return f'<div class="cards">{"".join(map(self.card, self.advice))}</div>'

    def card(self, advice):
        state = "Broken" if advice.is_broken else "Held" if advice.verdict else ""
        action = f'<p class="action">{text(advice.action)}</p>' if advice.action else ""
        said = [f"{text(advice.verdict)}", text(advice.because)]
        said[0] = f'<span class="state">{state}:</span> {said[0]}' if state else ""
        said += map(text, advice.after_training)
        body = "".join(f"<p>{part}</p>" for part in said if part)
        kind = "card broken" if advice.is_broken else "card"
        return (
            f'<div class="{kind}"><h4>{text(advice.estimator)}</h4>{action}{body}</div>'
        )

    def ranks(self):
        columns = ["rank", "defense", "price", "worst_damage", "worst_attack"]
        columns += ["adaptive_damage", "poison_recall", "certified_radius", "epsilon"]
        shown = self.ranking[["estimator", *columns, "relative_seconds", "reason"]]
        known = shown.dropna(axis="columns", how="all")
        formats = {
            "price": self.amount,
            "worst_damage": self.amount,
            "adaptive_damage": self.amount,
            "poison_recall": "{:.0%}",
            "certified_radius": "{:g}",
            "epsilon": "{:.3g}",
            "relative_seconds": "{:.2g} x",
        }
        parts = [
            table(
                known[known["estimator"] == estimator].drop(columns="estimator"),
                formats,
                caption=f"Defenses of {estimator}, best first by the rule below",
                names=_RANK_NAMES,
            )
            for estimator in self.meta["estimators"]
        ]
        return "".join(parts)

    def heat_maps(self):
        *smaller, largest = self.meta["budgets"][1:]
        maps = self.heat_maps_at(largest)
        if smaller:
            rest = "".join(self.heat_maps_at(budget) for budget in reversed(smaller))
            maps += f"<details><summary>Smaller budgets</summary>{rest}</details>"
        note = f"Each cell is the {self.damage} by an attack behind a defense."
        return f'<p class="note">{text(note)}</p>{maps}'

    def heat_maps_at(self, budget):
        here = self.summary[self.summary["budget"] == budget]
        attacks, defenses = list(self.meta["attacks"]), list(self.meta["defenses"])
        parts = []
        for estimator in self.meta["estimators"]:
            part = here[here["estimator"] == estimator]
            values = part.pivot(index="attack", columns="defense", values="damage")
            caption = f"{estimator}: {self.damage} at budget {budget:g}"
            show = partial(self.amount, digits=0)
            parts.append(heat_map(values.loc[attacks, defenses], show, caption))
        return f'<div class="cards">{"".join(parts)}</div>'

    def curves(self):
        values = self.summary["clean_score"].dropna()
        low = max(-1.0, np.floor(values.min() * 10) / 10) if len(values) else 0.0
        high = max(1.0, np.ceil(values.max() * 10) / 10) if len(values) else 1.0
        parts = [legend(self.meta["defenses"])]
        for estimator in self.meta["estimators"]:
            own = self.summary[self.summary["estimator"] == estimator]
            parts.append(f"<h4>{text(estimator)}: {text(self.damage)}</h4>")
            parts.append(self.panels(own, "damage", (0.0, 1.0)))
            parts.append(f"<h4>{text(estimator)}: clean score</h4>")
            parts.append(self.panels(own, "clean_score", (low, high)))
        return "".join(parts)

    def panels(self, own, column, limits):
        ticks = [f"{budget:g}" for budget in self.meta["budgets"]]
        drawn = []
        for attack in self.meta["attacks"]:
            part = own[own["attack"] == attack].groupby("defense", sort=False)[column]
            lines = {name: values.to_numpy() for name, values in part}
            drawn.append(panel(attack, ticks, lines, limits, "budget"))
        return f'<div class="panels">{"".join(drawn)}</div>'

    def suspects(self):
        found = self.report.suspects()
        if len(found) == 0:
            return ""
        note = (
            "Rows of the data as they were given, with no poison added, that filtering "
            "defenses dropped from training, most often first. They are suspects, not "
            "proof: look at them before you drop them. Some filters drop a fixed share "
            "of any data."
        )
        names = {
            "n_dropped": "times dropped",
            "n_seen": "times seen",
            "by": "dropped by",
        }
        show = partial(table, formats={"share": "{:.0%}"}, names=names)
        parts = [f'<p class="note">{note}</p>', show(found[:_FIRST])]
        if len(found) > _FIRST:
            rest = f"<summary>{len(found) - _FIRST} more</summary>"
            parts.append(f"<details>{rest}{show(found[_FIRST:])}</details>")
        return "".join(parts)

    def poisons(self):
        parts = []
        for found in self.report.findings.get("poisons", []):
            against = [found[key] for key in ("estimator", "defense") if found[key]]
            name = " against ".join([found["attack"], *[" behind ".join(against)]])
            parts.append(show_poisons(found, name if against else found["attack"]))
        return "".join(parts)

    def filtering(self):
        found = self.report.filtering()
        if len(found) == 0:
            return ""
        formats = {"budget": "{:g}", "recall": "{:.0%}", "precision": "{:.0%}"}
        names = {"n_poisons_dropped": "poisoned among them"}
        rows = table(found, formats, names=names)
        note = (
            "Recall is the share of the poisoned rows that was dropped, precision the "
            "share of the dropped rows that was poisoned, over folds and trials."
        )
        shown = f"<details><summary>{len(found)} settings</summary>{rows}</details>"
        return f'<p class="note">{note}</p>{shown}'

    def certificates(self):
        curves = self.report.certificates()
        parts = []
        for estimator, own in curves.groupby("estimator", sort=False):
            drawn = []
            for (defense, unit), part in own.groupby(["defense", "unit"], sort=False):
                mean = part.groupby("radius")["certified_accuracy"].mean()
                ticks = [f"{radius:g}" for radius in mean.index]
                lines = {"certified accuracy": mean.to_numpy()}
                said = "".join(
                    f'<p class="note">{text(statement)}</p>'
                    for statement in part["statement"].unique()
                )
                chart = panel(defense, ticks, lines, (0.0, 1.0), unit)
                drawn.append(f"<figure>{chart}<figcaption>{said}</figcaption></figure>")
            heading = f"<h4>{text(estimator)}: share of held-out rows certified</h4>"
            parts.append(f'{heading}<div class="panels">{"".join(drawn)}</div>')
        return "".join(parts)

    def privacy(self):
        bills = self.report.privacy()
        if len(bills) == 0:
            return ""
        keys = ["estimator", "defense", "delta", "adjacency", "assumptions"]
        worst = bills.groupby(keys, sort=False)["epsilon"].max().reset_index()
        order = ["estimator", "defense", "epsilon", "delta", "adjacency", "assumptions"]
        formats = {"epsilon": "{:.4g}", "delta": "{:.3g}"}
        caption = "The largest epsilon of all folds and trials"
        return table(worst[order], formats, caption=caption)

    def cost(self):
        cost = self.report.cost()
        formats = {"seconds": "{:.3g}", "relative": "{:.2g} x"}
        fits = cost[cost["what"] == "defense"][["estimator", "name", *formats]]
        crafts = cost[cost["what"] == "attack"][["name", *formats]]
        names = {"name": "defense", "relative": "of the bare estimator"}
        caption = "Mean seconds to fit and score one model"
        parts = [table(fits, formats, caption=caption, names=names)]
        if len(crafts):
            names = {"name": "attack", "relative": "of fitting a bare estimator"}
            caption = "Mean seconds to craft one poison"
            parts.append(table(crafts, formats, caption=caption, names=names))
        return f'<div class="cards">{"".join(parts)}</div>' if len(cost) else ""

    def settings(self):
        meta, success = self.meta, ""
        if self.report.unit:
            success = (
                " A success is a held-out row whose prediction misses by more than the "
                "standard deviation of the clean targets."
            )
        if meta["targets"]:
            success += (
                " The tries of a targeted attack are the targets listed below, the "
                "same for all: rows of the test folds, to be read as a class drawn at "
                "random. Where they are few the interval is wide."
            )
        note = (
            f"Means over {meta['n_folds']} folds and {meta['n_trials']} trials. The "
            "interval of the attack's success, low to high, is Wilson's at 95 %, over "
            "held-out rows and given the victims trained; the control is the same "
            f"share for a model trained on clean data.{success}"
        )
        rows = table(self.summary, {"budget": "{:g}", "n_poisoned": "{:.1f}"})
        return (
            f'<p class="note">{text(note)}</p><details><summary>{len(self.summary)} '
            f"settings</summary>{rows}</details>"
        )

    def targets(self):
        targets = self.report.targets()
        if len(targets) == 0:
            return ""
        return (
            f"<details><summary>{len(targets)} targets</summary>{table(targets)}"
            "</details>"
        )

    def threats(self):
        items = "".join(
            f"<dt><b>{text(name)}</b>: {text(a['summary'])}</dt>"
            f"<dd>{text(a['threat_model'])} <code>{text(a['parameters'])}</code></dd>"
            for name, a in self.meta["attacks"].items()
        )
        return f"<dl>{items}</dl>"

    def audited(self):
        meta = self.meta
        audited = [
            ("rows x shape", f"{meta['n_samples']} x {tuple(meta['shape'])}"),
            ("kind of data", meta["data"]),
            self.target(),
            *[(f"estimator {k}", v) for k, v in meta["estimators"].items()],
            ("clean score", meta["scoring"]),
            ("folds x trials", f"{meta['n_folds']} x {meta['n_trials']}"),
            ("seed", meta["seed"]),
            *[("note of the run", note) for note in meta["notes"]],
        ]
        return definitions(audited)

    def target(self):
        meta = self.meta
        if self.report.unit:
            t = meta["target"]
            return (
                "target",
                f"{t['min']:g} to {t['max']:g}, mean {t['mean']:g}, standard deviation "
                f"{t['std']:g}, {t['n_distinct']} values",
            )
        classes = ", ".join(f"{k} ({n})" for k, n in meta["classes"].items())
        return "classes (rows)", classes


def render(reports, title):
    """Return the page as text."""
    pages = [_Page(report, f"r{i}") for i, report in enumerate(reports, 1)]
    advice = contents = body = ""
    for page in pages:
        name, sections = text(page.meta["name"]), page.sections()
        advice += f"<h3>{name}</h3>{page.cards()}"
        items = "".join(f'<li><a href="#{a}">{h}</a></li>' for a, h, _ in sections)
        contents += f'<p><a href="#{page.anchor}">{name}</a></p><ul>{items}</ul>'
        shown = "".join(f'<h3 id="{a}">{h}</h3>{b}' for a, h, b in sections)
        body += f'<section id="{page.anchor}"><h2>{name}</h2>{shown}</section>\n'
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{text(title)}</title><style>{STYLE}</style></head>
<body>
<h1>{text(title)}</h1>
<p>How far can this training data be trusted? Each attack poisons the training folds;
every model is trained from scratch and scored on clean held-out rows. Folds, seeds and
poisoned rows are shared by the settings compared.</p>
<main>
<h2 id="do">What to do</h2>
{advice}
<nav aria-label="Contents"><h2>Contents</h2>{contents}
<p><a href="#rule">How the recommendation follows from the numbers</a></p></nav>
{body}
<h2 id="rule">How the recommendation follows from the numbers</h2><p>{text(RULE)}</p>
<h2>Versions</h2>{definitions(reports[0].meta["versions"].items())}
</main>
</body></html>
"""
