"""Rows that were poisoned, as a page shows them: before, after, difference."""

import numpy as np

from skpoison.audit._markup import picture, text

_MOST_COLUMNS = 8


def show_poisons(found, name):
    """Return the section's markup for one attack's examples.

    Parameters
    ----------
    found : dict
        One of ``findings["poisons"]``.
    name : str
        Of the attack, with what it was crafted against.
    """
    shown = [
        (_picture if found["kind"] == "image" else _columns)(found, row)
        for row in found["rows"]
    ]
    note = f'<p class="note">{text(found["note"])}</p>' if "note" in found else ""
    if not shown and not note:
        return ""
    return (
        f"<h4>{text(name)}, budget {found['budget']:g}</h4>{note}"
        f'<div class="pictures">{"".join(shown)}</div>'
    )


def _labels(row):
    origin = f"row {row['row']}"
    if row["before"] is None:
        origin = "added row" if row["row"] < 0 else f"added row, made of {origin}"
    if row["y_before"] is None or row["y_before"] == row["y_after"]:
        return f"{origin}, labelled {row['y_after']}"
    return f"{origin}, label {row['y_before']} -> {row['y_after']}"


def _picture(found, row):
    after = _pixels(row["after"], found["shape"])
    if row["before"] is None:
        low, high = after.min(), after.max()
        scaled = (after - low) / (high - low or 1)
        said = f"{found['attack']}: {_labels(row)}"
        return f"<figure>{picture(scaled, said)}{_caption(_labels(row))}</figure>"
    before = _pixels(row["before"], found["shape"])
    low = min(before.min(), after.min(), 0.0)
    high = max(before.max(), after.max(), low + 1e-12)
    change = (after - before) / (high - low)
    largest = np.abs(change).max()
    gain = 1 if largest == 0 else max(1, int(0.5 / largest))
    images = [
        ((before - low) / (high - low), "before"),
        ((after - low) / (high - low), "after"),
        (0.5 + gain * change, f"difference times {gain}, grey for none"),
    ]
    shown = "".join(
        picture(pixels, f"{found['attack']}, {_labels(row)}: {what}")
        for pixels, what in images
    )
    said = f"{_labels(row)}: before, after, difference"
    said += (
        " (none)" if largest == 0 else f" x {gain}; largest {largest:.2g} of the range"
    )
    return f"<figure>{shown}{_caption(said)}</figure>"


def _caption(said):
    return f"<figcaption>{text(said)}</figcaption>"


def _pixels(row, shape):
    """Return a row as (H, W), or (H, W, 3) where it has three channels."""
    image = np.asarray(row, dtype=float).reshape(shape)
    return np.moveaxis(image, 0, -1) if shape[0] == 3 else image.mean(axis=0)


def _columns(found, row):
    """Return the columns of a row that were changed most, before and after."""
    after = np.ravel(np.asarray(row["after"], dtype=object)).tolist()
    names = found["columns"] or [f"column {i}" for i in range(len(after))]
    if row["before"] is None:
        lines = [(n, None, a) for n, a in zip(names, after, strict=True)]
    else:
        before = np.ravel(np.asarray(row["before"], dtype=object)).tolist()
        lines = [
            (n, b, a) for n, b, a in zip(names, before, after, strict=True) if b != a
        ]
        lines.sort(key=lambda line: -_size(*line[1:]))
    rest = len(lines) - _MOST_COLUMNS
    body = "".join(
        f'<tr><th scope="row">{text(n)}</th>'
        + ("" if row["before"] is None else f'<td class="number">{_cell(b)}</td>')
        + f'<td class="number">{_cell(a)}</td></tr>'
        for n, b, a in lines[:_MOST_COLUMNS]
    )
    heads = ["after"] if row["before"] is None else ["before", "after"]
    head = "".join(f'<th scope="col" class="number">{h}</th>' for h in heads)
    said = _labels(row)
    if rest > 0:
        said += f"; {rest} more columns"
    if not lines:
        return f"<figure>{_caption(f'{said}; no column changed')}</figure>"
    return (
        f"<figure>{_caption(said)}<table><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></figure>"
    )


def _size(before, after):
    """Return how large a change is, for the order: text changes come first."""
    if isinstance(before, int | float) and isinstance(after, int | float):
        return abs(after - before) / (abs(before) + abs(after))
    return np.inf


def _cell(value):
    if value is None:
        return "missing"
    return text(f"{value:.4g}" if isinstance(value, float) else value)
