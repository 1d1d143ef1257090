"""The README's code runs and prints what it shows."""

import contextlib
import functools
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def _run(mark):
    """Return the lines that the first block with `mark` prints, and those shown."""
    block = r"```python\n([^`]*)```\s+```text\n([^`]*)```"
    blocks = re.findall(block, README)
    code, shown = next(block for block in blocks if mark in block[0])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    return [text.rstrip().splitlines() for text in (out.getvalue(), shown)]


def test_audit_of_a_model_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import skpoison.audit

    blocks = re.findall(r"```python\n([^`]*)```", README)
    code = next(block for block in blocks if "import audit, defend" in block)
    X, y = load_wine(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    # all of it takes minutes
    few = {"attacks": ["random-flips"], "defenses": ["label-filter"], "cv": 2}
    short = functools.partial(skpoison.audit.audit, **few, budgets=[0.2], verbose=0)
    monkeypatch.setattr(skpoison.audit, "audit", short)
    monkeypatch.chdir(tmp_path)
    names = {"pipeline": pipeline, "X": X, "y": y}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert names["model"].score(X, y) > 0.9
    assert "label-filter" in capsys.readouterr().out


def test_repair_prints_what_is_shown():
    (found, certificate), (shown, _) = _run("LiftedLabelRepair")
    assert float(found[:5]) == float(shown[:5]) == 0.7
    after = r"right, ([.\d]+) after"
    found, shown = (float(re.search(after, s)[1]) for s in (found, shown))
    assert found == pytest.approx(shown, abs=0.003)
    energy, bound = map(float, re.findall(r"[\d.]+\d", certificate))
    assert bound <= energy <= 1.001 * bound


def test_sweep_prints_what_is_shown():
    pytest.importorskip("pandas")
    lines = _run("cv=3, refit")
    assert len(lines[0]) == len(lines[1]) == 9
    for found, expected in zip(*lines, strict=True):
        found, expected = found.split(), expected.split()
        assert found[:-2] == expected[:-2]
        if expected[-1] != "mean_test_attack":  # solvers differ between versions
            for a, b in zip(found[-2:], expected[-2:], strict=True):
                assert float(a) == pytest.approx(float(b), abs=0.02)


def test_evasion_and_inversion_print_what_is_shown():
    found, shown = _run("AnalyticInversion")
    for line, expected in zip(found[:3], shown[:3], strict=True):
        *words, share, _ = line.split()
        *known, wanted, _ = expected.split()
        assert words == known
        assert float(share) == pytest.approx(float(wanted), abs=0.01)
    assert found[3].startswith("from its gradient: label 1, row off by")
    assert float(found[3].split()[-1]) < 1e-12


def test_minima_print_what_is_shown():
    found, shown = _run("construct_suboptimal_minimum")
    assert [line.split()[-1] for line in found] == ["True", "False"]
    for line, expected in zip(found, shown, strict=True):
        loss, wanted = (float(text.split()[2].strip(",")) for text in (line, expected))
        assert loss == pytest.approx(wanted, abs=0.01)
