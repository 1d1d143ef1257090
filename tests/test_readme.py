"""The README's code runs and prints what it shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_sweep_prints_what_is_shown():
    pytest.importorskip("pandas")
    code = next(
        b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "cv=3" in b
    )
    shown = re.search(r"```text\n(.*?)```", README, re.S).group(1)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    lines = [out.getvalue().rstrip().splitlines(), shown.rstrip().splitlines()]
    assert len(lines[0]) == len(lines[1]) == 9
    for found, expected in zip(*lines, strict=True):
        found, expected = found.split(), expected.split()
        assert found[:-2] == expected[:-2]
        if expected[-1] != "mean_test_attack":  # solvers differ between versions
            for a, b in zip(found[-2:], expected[-2:], strict=True):
                assert float(a) == pytest.approx(float(b), abs=0.02)
