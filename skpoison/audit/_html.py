"""The report as one page: plots inline, nothing fetched."""

import html
import io

import numpy as np

from skpoison.audit._report import RULE

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #8886; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.advice { border-left: .4rem solid #c44; padding: .2rem 1rem; background: #8881; }
figure { margin: 1rem 0; background: #fff; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: #000; padding: .3rem; }
code, pre { font-size: .85rem; overflow-x: auto; }
.wide { overflow-x: auto; }
"""


def _pyplot():
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "the report's plots need matplotlib: pip install 'skpoison[audit]'"
        ) from error
    return matplotlib


def _plain(text):
    """Keep matplotlib from reading dollars as mathematics."""
    return str(text).replace("$", r"\$")


def _figure(n_rows, n_columns, figsize, show=False):
    """Make a figure, known to pyplot where it is to be shown."""
    _pyplot()
    if show:
        from matplotlib.pyplot import figure as make
    else:
        from matplotlib.figure import Figure as make  # type: ignore[assignment]
    figure = make(
        figsize=figsize or (3.6 * n_columns + 0.6, 2.9 * n_rows + 0.6),
        layout="constrained",
    )
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def _damage(report):
    return f"damage ({report.unit} lost)" if report.unit else "damage"


def draw_curves(report, *, figsize=None, show=False):
    """Draw damage against budget, one panel an estimator and attack."""
    summary = report.summary()
    estimators, attacks = list(report.meta["estimators"]), list(report.meta["attacks"])
    figure, axes = _figure(len(estimators), len(attacks), figsize, show)
    budgets = report.meta["budgets"]
    for i, estimator in enumerate(estimators):
        for j, attack in enumerate(attacks):
            ax = axes[i, j]
            for defense in report.meta["defenses"]:
                part = summary[
                    (summary["estimator"] == estimator)
                    & (summary["attack"] == attack)
                    & (summary["defense"] == defense)
                ]
                ax.plot(
                    range(len(part)), part["damage"], marker="o", label=_plain(defense)
                )
            ax.set(title=_plain(f"{estimator}\n{attack}"), ylim=(-0.02, 1.02))
            ax.set_xticks(range(len(budgets)), [f"{b:g}" for b in budgets])
            ax.set_xlabel("budget")
            ax.set_ylabel(_damage(report))
            ax.grid(alpha=0.3)
    axes[0, 0].legend(title="defense", fontsize="small")
    return figure


def draw_heat_map(report, *, figsize=None):
    """Draw damage at the largest budget: attack x defense, a panel an estimator."""
    summary = report.summary()
    estimators = list(report.meta["estimators"])
    attacks, defenses = list(report.meta["attacks"]), list(report.meta["defenses"])
    largest = report.meta["budgets"][-1]
    size = (0.9 * len(defenses) + 2.6, 0.5 * len(attacks) + 1.4)
    figsize = figsize or (size[0] * len(estimators), size[1])
    figure, axes = _figure(1, len(estimators), figsize)
    for ax, estimator in zip(axes[0], estimators, strict=True):
        part = summary[
            (summary["estimator"] == estimator) & (summary["budget"] == largest)
        ]
        damage = part.pivot(index="attack", columns="defense", values="damage")
        values = damage.loc[attacks, defenses].to_numpy()
        ax.imshow(values, vmin=0, vmax=1, cmap="Reds", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            shade = "white" if value > 0.6 else "black"
            text = f"{value:.2f}" if report.unit else f"{value:.0%}"
            ax.text(column, row, text, ha="center", va="center", color=shade)
        ax.set_xticks(
            range(len(defenses)), [*map(_plain, defenses)], rotation=20, ha="right"
        )
        ax.set_yticks(range(len(attacks)), [*map(_plain, attacks)])
        ax.set_title(_plain(estimator))
    return figure


def _svg(figure, caption):
    matplotlib = _pyplot()
    buffer = io.StringIO()
    # a salt and no date: the same numbers draw the same bytes
    with matplotlib.rc_context({"svg.hashsalt": "skpoison", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return f"<figure>{text}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(frame, formats=None):
    formats = formats or {}
    heads, cells = [], []
    for name in frame.columns:
        numeric = frame[name].dtype.kind in "fiu"
        kind = ' class="number"' if numeric else ""
        heads.append(f"<th{kind}>{html.escape(str(name))}</th>")
        show = formats.get(name, "{:.3f}" if frame[name].dtype.kind == "f" else "{}")
        cells.append(
            [f"<td{kind}>{html.escape(show.format(v))}</td>" for v in frame[name]]
        )
    rows = ["<tr>" + "".join(row) + "</tr>" for row in zip(*cells, strict=True)]
    return (
        '<div class="wide"><table><thead><tr>'
        + "".join(heads)
        + "</tr></thead><tbody>"
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _definitions(pairs):
    rows = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in pairs
    )
    return f"<table>{rows}</table>"


def _target(meta):
    if "target" in meta:
        t = meta["target"]
        return "target", (
            f"{t['min']:g} to {t['max']:g}, mean {t['mean']:g}, standard deviation "
            f"{t['std']:g}, {t['n_distinct']} values"
        )
    classes = ", ".join(f"{k} ({n})" for k, n in meta["classes"].items())
    return "classes (rows)", classes


def _section(report):
    meta = report.meta
    advice = "".join(
        f"<p>{html.escape(line)}</p>" for line in report.recommendation.splitlines()
    )
    audited = [
        ("rows x shape", f"{meta['n_samples']} x {tuple(meta['shape'])}"),
        ("kind of data", meta["data"]),
        _target(meta),
        *[(f"estimator {k}", v) for k, v in meta["estimators"].items()],
        ("clean score", meta["scoring"]),
        ("folds x trials", f"{meta['n_folds']} x {meta['n_trials']}"),
        ("seed", meta["seed"]),
    ]
    summary = report.summary()
    seconds = report.timings.groupby(
        ["estimator", "defense"], sort=False, as_index=False
    )["fit_seconds"].mean()
    attacks = "".join(
        f"<dt><b>{html.escape(name)}</b>: {html.escape(a['summary'])}</dt>"
        f"<dd>{html.escape(a['threat_model'])} <code>{html.escape(a['parameters'])}"
        "</code></dd>"
        for name, a in meta["attacks"].items()
    )
    damage, success = f"D{_damage(report)[1:]}", ""
    if report.unit:
        success = (
            " A success is a held-out row whose prediction misses by more than the "
            "standard deviation of the clean targets."
        )
    notes, targets = "", ""
    if meta["targets"]:
        success += (
            " The tries of a targeted attack are the targets listed below, the same "
            "for all: rows of the test folds, to be read as a class drawn at random. "
            "Where they are few the interval is wide."
        )
        targets = f"<h3>Targets</h3>{_table(report.targets())}"
    if meta["notes"]:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in meta["notes"])
        notes = f"<h3>Notes of the run</h3><ul>{items}</ul>"
    return f"""
<section>
<h2>{html.escape(meta["name"])}</h2>
<div class="advice"><h3>What to do</h3>{advice}</div>
<h3>What was audited</h3>{_definitions(audited)}
<h3>Damage at the largest budget, {meta["budgets"][-1]:g}</h3>
{_svg(draw_heat_map(report), f"{damage} by attack and defense.")}
<h3>Damage against budget</h3>
{_svg(draw_curves(report), "One panel an estimator and attack, one line a defense.")}
<h3>Defenses compared</h3>{_table(report.defenses(), {"worst_budget": "{:g}"})}
<h3>All settings</h3>
<p>Means over {meta["n_folds"]} folds and {meta["n_trials"]} trials. The interval is
Wilson's at 95 %, over held-out rows and given the victims trained; the control is the
same share for a model trained on clean data.{success}</p>
<details open><summary>{len(summary)} settings</summary>
{_table(summary, {"budget": "{:g}", "n_poisoned": "{:.1f}"})}</details>
{targets}
<h3>Threat models</h3><dl>{attacks}</dl>
<h3>Defenses</h3>{_definitions(meta["defenses"].items())}
<h3>Cost: mean seconds to fit and score</h3>{_table(seconds)}
{notes}
</section>"""


def render(reports, title):
    """Return the page as text."""
    versions = reports[0].meta["versions"]
    body = "".join(_section(report) for report in reports)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{html.escape(title)}</h1>
<p>How far can this training data be trusted? Each attack poisons the training folds;
every model is trained from scratch and scored on clean held-out rows. Folds, seeds and
poisoned rows are shared by the settings compared.</p>
{body}
<h2>How the recommendation follows from the numbers</h2><p>{html.escape(RULE)}</p>
<h2>Versions</h2>{_definitions(versions.items())}
</body></html>
"""
