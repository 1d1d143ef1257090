"""Tables, small charts and pictures as markup that needs nothing else.

Whatever comes from the user is escaped here.
"""

import base64
import html
import struct
import zlib

import numpy as np

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --bad: #b3261e;
  --good: #1b7f3b; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7ddc9a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3, h4 { line-height: 1.2; }
h2 { border-top: 2px solid var(--line); padding-top: 1rem; margin-top: 2.5rem; }
h3 { margin-top: 2rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem; }
caption { text-align: left; font-size: .85rem; padding-bottom: .3rem; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.cards, .panels, .pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.card { flex: 1 1 20rem; border: 1px solid var(--line); border-radius: .4rem;
  border-top: .4rem solid var(--good); padding: .2rem 1rem .6rem;
  background: var(--soft); }
.card.broken { border-top-color: var(--bad); }
.card h4 { margin: .5rem 0 0; font-size: 1rem; font-weight: 400; }
.card .action { font-size: 1.35rem; font-weight: 700; margin: .1rem 0; }
.card .state { font-weight: 700; color: var(--good); }
.card.broken .state { color: var(--bad); }
.card p { margin: .4rem 0; }
nav ul { columns: 3 14rem; padding-left: 1.2rem; }
figure { margin: 0; }
figcaption, .note { font-size: .85rem; }
.panel { width: 17rem; max-width: 100%; height: auto; }
.panel text { fill: currentColor; font-size: 11px; }
.panel .axis { stroke: currentColor; stroke-opacity: .25; }
.heat td { text-align: center; min-width: 3.5rem; border: 1px solid var(--line); }
.pictures figure { border: 1px solid var(--line); border-radius: .4rem;
  padding: .5rem; }
.pictures img { width: 96px; height: auto; image-rendering: pixelated; margin: 2px; }
.key { display: inline-block; margin-right: 1rem; white-space: nowrap; }
code { font-size: .85rem; overflow-wrap: anywhere; }
summary { cursor: pointer; }
"""

# told apart by hue, by lightness and by dashes
_COLOURS = ["#888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9"]
_DASHES = ["", "6 3", "2 2", "8 3 2 3"]


def text(value):
    """Return a value as text of a page."""
    return html.escape(str(value))


def table(frame, formats=None, *, caption="", names=None):
    """Return a data frame as a table; NaN is an empty cell."""
    formats, names = formats or {}, names or {}
    heads, cells = [], []
    for name in frame.columns:
        is_float = frame[name].dtype.kind == "f"
        kind = ' class="number"' if frame[name].dtype.kind in "fiu" else ""
        heads.append(f'<th scope="col"{kind}>{text(names.get(name, name))}</th>')
        show = formats.get(name, "{:.3f}" if is_float else "{}")
        show = show if callable(show) else show.format
        cells.append(
            [
                f"<td{kind}>{'' if _is_missing(v) else text(show(v))}</td>"
                for v in frame[name]
            ]
        )
    rows = ["<tr>" + "".join(row) + "</tr>" for row in zip(*cells, strict=True)]
    caption = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{caption}<thead><tr>{"".join(heads)}</tr></thead>'
        "<tbody>" + "\n".join(rows) + "</tbody></table></div>"
    )


def _is_missing(value):
    return value is None or (isinstance(value, float) and np.isnan(value))


def definitions(pairs):
    """Return pairs as a table of two columns."""
    rows = "".join(
        f'<tr><th scope="row">{text(k)}</th><td>{text(v)}</td></tr>' for k, v in pairs
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def heat_map(values, show, caption):
    """Return a data frame of shares as a table whose cells are shaded."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in values.columns)
    rows = []
    for name, row in values.iterrows():
        cells = "".join(_shaded(value, show) for value in row)
        rows.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table class="heat"><caption>{text(caption)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _shaded(value, show):
    if np.isnan(value):
        return '<td title="could not be trained in every fold">failed</td>'
    ink = ";color:#fff" if value >= 0.7 else ""
    shade = f"background:color-mix(in srgb,#a50000 {100 * value:.0f}%,transparent)"
    return f'<td style="{shade}{ink}">{text(show(value))}</td>'


def legend(names):
    """Return which line is whose."""
    keys = "".join(
        '<span class="key"><svg width="34" height="10" aria-hidden="true">'
        f'<line x1="0" y1="5" x2="34" y2="5" {_stroke(i)}/></svg> {text(name)}</span>'
        for i, name in enumerate(names)
    )
    return f"<p>{keys}</p>"


def _stroke(i):
    colour = _COLOURS[i % len(_COLOURS)]
    dash = _DASHES[(i // len(_COLOURS) + i) % len(_DASHES)]
    return f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'


def panel(title, ticks, lines, limits, across):
    """Return a small chart.

    Parameters
    ----------
    title : str
    ticks : list of str
        Of the points of every line, at equal distances.
    lines : dict of str to array
        NaN leaves a gap.
    limits : (float, float)
        Of the upright axis.
    across : str
        What the level axis shows.
    """
    left, top, width, height = 38, 24, 222, 120
    low, high = limits
    step = width / max(len(ticks) - 1, 1)

    def y(value):
        share = (np.clip(value, low, high) - low) / (high - low)
        return top + height * (1 - share)

    marks = []
    for value in np.linspace(low, high, 5):
        marks.append(
            f'<line class="axis" x1="{left}" x2="{left + width}" y1="{y(value):.1f}" '
            f'y2="{y(value):.1f}"/><text x="{left - 4}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{value:.2g}</text>'
        )
    every = -(-len(ticks) // 6)
    for i in range(0, len(ticks), every):
        marks.append(
            f'<text x="{left + i * step:.1f}" y="{top + height + 15}" '
            f'text-anchor="middle">{text(ticks[i])}</text>'
        )
    said = []
    for i, (name, values) in enumerate(lines.items()):
        parts, pen = [], "M"
        for at, value in enumerate(values):
            if np.isnan(value):
                pen = "M"
                continue
            parts.append(f"{pen}{left + at * step:.1f} {y(value):.1f}")
            pen = "L"
        marks.append(f'<path d="{" ".join(parts)}" {_stroke(i)}/>')
        said.append(f"{name} {', '.join(f'{value:.3g}' for value in values)}")
    label = f"{title}, by {across} {', '.join(ticks)}: {'; '.join(said)}"
    return (
        '<svg class="panel" viewBox="0 0 270 185" role="img" '
        f'aria-label="{text(label)}">'
        f'<text x="{left}" y="14" font-weight="700">{text(title)}</text>'
        f'{"".join(marks)}<text x="{left + width / 2}" y="{top + height + 32}" '
        f'text-anchor="middle">{text(across)}</text></svg>'
    )


def picture(pixels, alt):
    """Return an image of shape (H, W) or (H, W, 3) with values in [0, 1]."""
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    data = base64.b64encode(_png(levels)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{text(alt)}">'


def _png(levels):
    height, width = levels.shape[:2]
    rows = levels.reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    colour = 2 if levels.ndim == 3 else 0
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", head),
            (b"IDAT", zlib.compress(raw)),
            (b"IEND", b""),
        )
    )
