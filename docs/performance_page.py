"""The tables and the picture of the performance page, from one run."""

import importlib.util
import json
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def write_performance(folder):
    """Write ``performance.inc`` and ``performance.svg`` from the kept results.

    Parameters
    ----------
    folder : Path
        Made where there is none.
    """
    run = json.loads((BENCHMARKS / "results.json").read_text("utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.spec_from_file_location("plot", BENCHMARKS / "_plot.py")
    plot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plot)
    plot.draw(run["results"], folder / "performance.svg")
    (folder / "performance.inc").write_text(_text(run), encoding="utf-8")


def _text(run):
    judged = [r for r in run["results"] if r["met"] is not None]
    met = sum(r["met"] for r in judged)
    facts = ", ".join(f"{name} {value}" for name, value in run["machine"].items())
    lines = [f"{met} of {len(judged)} bars met. Taken on: {facts}.", ""]
    for area in dict.fromkeys(r["area"] for r in run["results"]):
        lines += [f"``{area}``", "^" * (len(area) + 4), ""]
        own = [r for r in run["results"] if r["area"] == area]
        for title in dict.fromkeys(r["table"] for r in own):
            lines += _table(title, [r for r in own if r["table"] == title])
    return "\n".join(lines)


def _table(title, rows):
    head = ["case", "against", "ours", "peer", "ratio", "bound", "bar"]
    lines = [f"{_plain(title)}", "", ".. list-table::", "   :header-rows: 1"]
    lines += ["   :widths: 34 24 9 9 8 8 8", ""]
    for cells in [head, *map(_cells, rows)]:
        lines += [f"   {'* -' if i == 0 else '  -'} {c}" for i, c in enumerate(cells)]
    return [*lines, ""]


def _cells(row):
    share, bar = row["bound_share"], row["bar"]
    judged = {None: "", True: f"{bar:g}" if bar else "", False: f"**{bar or 0:g}**"}
    return [
        _plain(row["case"]),
        _plain(row["peer"]),
        _seconds(row["ours_s"]),
        _seconds(row["peer_s"]),
        f"{row['ratio']:.2g}",
        "" if share is None else f"{share:.0%}",
        judged[row["met"]],
    ]


def _plain(text):
    """Keep reStructuredText from reading marks in a name."""
    for mark in "\\*`_|":
        text = text.replace(mark, f"\\{mark}")
    return text


def _seconds(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
