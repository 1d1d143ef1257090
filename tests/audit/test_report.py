"""The page is one file, shows its plots and table, and fetches nothing."""

import os
import re
import shutil
import subprocess

import pytest
from sklearn.datasets import load_wine
from sklearn.naive_bayes import GaussianNB

from skpoison.audit import audit, write_html

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report():
    return audit(
        {"<nb> & co": GaussianNB()},
        *load_wine(return_X_y=True),
        attacks=["random-flips", "backdoor"],
        budgets=(0, 0.1),
        cv=2,
        random_state=0,
        verbose=0,
        name="wine & dine",
    )


@pytest.mark.slow
def test_page_is_self_contained(report, tmp_path):
    path = tmp_path / "r.html"
    report.to_html(path)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    # a chart an attack for damage and for the clean score, both readable as text
    assert text.count('role="img" aria-label="') == 4
    assert "by budget 0, 0.1: none 0, " in text
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text)
    assert all(link.startswith(("#", "data:")) for link in links)
    anchors = set(re.findall(r' id="([^"]*)"', text))
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert not re.search(r"url\((?!#)", text)
    assert "&lt;nb&gt; &amp; co" in text and "<nb>" not in text
    for needed in (
        "What to do",
        "Threat models",
        "Wilson",
        "seed",
        "scikit-learn",
        "Knows nothing",
        report.recommendation.split(": ", 1)[1][:30],
    ):
        assert needed in text
    # nothing was found: no empty sections
    assert ">Certificates<" not in text and ">Privacy bills<" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_dollars_are_not_mathematics(tmp_path):
    found = audit(
        {r"m $\bad$": GaussianNB()},
        *load_wine(return_X_y=True),
        attacks=["random-flips"],
        defenses=[],
        cv=2,
        random_state=0,
        verbose=0,
    )
    found.to_html(tmp_path / "r.html")
    assert r"m $\bad$" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_same_numbers_draw_the_same_bytes(report, tmp_path):
    report.to_html(tmp_path / "a.html")
    report.to_html(tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_several_reports_in_one_page(report, tmp_path):
    write_html([report, report], tmp_path / "r.html", title="two")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("<section ") == 2 and "<title>two</title>" in text


def test_missing_folder_is_named(report, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        report.to_html(tmp_path / "no" / "r.html")


@pytest.mark.slow
def test_interrupted_write_leaves_the_old_page(report, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        report.to_html(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_plot_and_repr(report):
    figure = report.plot()
    assert len(figure.axes) == 2 and figure.axes[0].get_xlabel() == "budget"
    assert "wine & dine" in repr(report)
    scores = report.plot(value="clean_score").axes[1].lines[0].get_ydata()
    bare = report.summary().query("attack == 'backdoor' and defense == 'none'")
    assert list(scores) == list(bare["clean_score"])
    shown = report.heat_map(0.1, figsize=(4, 3)).axes[0]
    assert [t.get_text() for t in shown.get_yticklabels()] == [
        "random-flips",
        "backdoor",
    ]
    with pytest.raises(ValueError, match="one of those audited, .0, 0.1., got 0.3"):
        report.heat_map(0.3)
    with pytest.raises(ValueError, match="value must be 'damage' or"):
        report.plot(value="score")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_page_in_a_real_browser(report, tmp_path):
    path = tmp_path / "r.html"
    report.to_html(path)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # no host resolves: what the page shows, it shows without a network
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    probe = tmp_path / "probe.html"
    # the page in a frame; a script reads off what was laid out
    probe.write_text(
        f"""<iframe id="f" width="1200" height="900" src="{path.as_uri()}"></iframe>
        <pre id="out"></pre><script>
        document.getElementById("f").onload = () => {{
          const d = document.getElementById("f").contentDocument;
          d.querySelectorAll("details").forEach(x => x.open = true);
          const drawn = [...d.querySelectorAll("svg")].map(
            s => s.getBoundingClientRect()).filter(r => r.width > 100 && r.height > 80);
          const rows = [...d.querySelectorAll(
            "#r1-settings ~ details tbody tr")].filter(
            r => r.getBoundingClientRect().height > 5);
          document.getElementById("out").textContent =
            "plots=" + drawn.length + " rows=" + rows.length + " title=" + d.title;
        }};</script>"""
    )
    out = subprocess.run(
        [
            CHROMIUM,
            *flags,
            "--allow-file-access-from-files",
            "--virtual-time-budget=10000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    n_rows = len(report.summary())
    assert f"plots=4 rows={n_rows} title=skpoison audit" in out.stdout, out.stderr[
        -900:
    ]
