"""Reports as plain JSON, and back."""

import json
import math
import os
from pathlib import Path

from skpoison.utils._files import write_atomically

_FORMAT = "skpoison audit report"
_VERSION = 1
_PARTS = ("table", "timings", "meta", "findings")


def without_nan(value):
    """Return nested lists and dicts with None in the place of NaN, as JSON has it."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _columns(frame):
    return {
        name: {"dtype": str(frame[name].dtype), "values": frame[name].tolist()}
        for name in frame.columns
    }


def check_path(path):
    """Return the path of a file to be written; its folder must exist."""
    path = Path(os.fspath(path)).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: the folder does not exist")
    return path


def write(report, path):
    """Write a report whole or not at all."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "table": _columns(report.table),
        "timings": _columns(report.timings),
        "meta": report.meta,
        "findings": report.findings,
    }
    text = json.dumps(without_nan(content), allow_nan=False, ensure_ascii=False)
    write_atomically(check_path(path), text + "\n")


def read(path):
    """Return the table, the timings, the meta data and the findings of a report."""
    path = Path(os.fspath(path)).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"path={str(path)!r} holds no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"path={str(path)!r} holds no report of an audit, as to_json writes it"
        )
    if content.get("version") != _VERSION:
        raise ValueError(
            f"path={str(path)!r} holds a report of version "
            f"{content.get('version')!r}; this skpoison reads version {_VERSION}"
        )
    missing = [part for part in _PARTS if not isinstance(content.get(part), dict)]
    if missing:
        raise ValueError(f"path={str(path)!r} is damaged: no {', '.join(missing)}")
    return [content[part] for part in _PARTS]
