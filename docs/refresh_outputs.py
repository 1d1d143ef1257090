"""Run the ``>>>`` blocks and the ``$ skpoison`` commands of the pages.

What they print is written below them.

    python docs/refresh_outputs.py            # rewrite the pages whose outputs changed
    python docs/refresh_outputs.py --check    # only say which would change

Numbers in the sentences around a block are for a person to compare.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
DOCS = Path(__file__).parent.resolve()
sys.path.insert(0, str(DOCS.parent))


def refresh_blocks(text):
    """Return the text of a page with the outputs of its blocks of today."""
    names, parts = {"__name__": "__main__"}, []
    for part in doctest.DocTestParser().parse(text):
        if isinstance(part, str):
            parts.append(part)
            continue
        lines = part.source.splitlines()
        prompts = [">>> ", *["... "] * (len(lines) - 1)]
        shown = [p + line for p, line in zip(prompts, lines, strict=True)]
        shown += _run(part, names).splitlines()
        indent = " " * part.indent
        parts.append("".join((indent + line).rstrip() + "\n" for line in shown))
    return "".join(parts)


def _run(example, names):
    out = io.StringIO()
    code = compile(example.source, "<page>", "single")
    try:
        with contextlib.redirect_stdout(out):
            exec(code, names)
    except Exception:
        if example.exc_msg is None:
            raise
        return example.want  # an error that the page shows
    if example.exc_msg is not None:
        raise AssertionError(f"no error from: {example.source}")
    return out.getvalue()


def refresh_commands(text):
    """Return the text of a page with the outputs of its commands of today."""
    return re.sub(
        r"^    \$ (skpoison audit cancer\.csv .*)\n(?:    .*\n|\n(?=    ))*",
        lambda found: _run_command(found[1]),
        text,
        flags=re.MULTILINE,
    )


def _run_command(command):
    from sklearn.datasets import load_breast_cancer

    with tempfile.TemporaryDirectory() as folder:
        table = load_breast_cancer(as_frame=True).frame
        table.to_csv(Path(folder, "cancer.csv"), index=False)
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(DOCS.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    lines = [f"$ {command}"]
    for line in done.stdout.splitlines():  # tables stay, sentences are wrapped
        lines += textwrap.wrap(line, 84) if len(line) > 100 else [line.rstrip()]
    return "".join(f"    {line}".rstrip() + "\n" for line in lines)


def main(check):
    """Go through the pages; return the number of those that changed."""
    changed = 0
    os.chdir(DOCS)  # where `python -m doctest docs/page.rst` would be run
    for path in sorted(DOCS.glob("*.rst")):
        old = path.read_text(encoding="utf-8")
        new = refresh_commands(old)
        new = refresh_blocks(new) if ">>> " in new else new
        if ">>> " not in new and new == old:
            continue
        changed += new != old
        print(f"{path.name}: {'changed' if new != old else 'as it was'}")
        if new != old and not check:
            path.write_text(new, encoding="utf-8")
    return changed


if __name__ == "__main__":
    only_check = "--check" in sys.argv[1:]
    n_changed = main(only_check)
    sys.exit(n_changed if only_check else 0)
