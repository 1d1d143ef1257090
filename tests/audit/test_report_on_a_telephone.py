"""The audit's page in a browser window of 400 pixels: all of it is there to be read."""

import shutil
import subprocess

import pytest
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB

from skpoison.audit import audit

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTH, HEIGHT = 400, 2400


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_page_fits_and_is_drawn(tmp_path):
    report = audit(
        GaussianNB(),
        *load_iris(return_X_y=True),
        attacks=["random-flips"],
        defenses=[],
        budgets=(0, 0.2),
        cv=2,
        random_state=0,
        verbose=0,
    )
    page, picture = tmp_path / "r.html", tmp_path / "r.png"
    report.to_html(page)
    probe = tmp_path / "probe.html"
    # headless windows have a least width; a frame has not
    probe.write_text(
        f"""<body style="margin:0"><iframe id="f" style="border:0" width="{WIDTH}"
        height="{HEIGHT}" src="{page.as_uri()}"></iframe><script>
        document.getElementById("f").onload = () => {{
          const d = document.getElementById("f").contentDocument.documentElement;
          const all = [...d.querySelectorAll("svg")].map(
            s => Math.round(s.getBoundingClientRect().width));
          document.title = "wide=" + (d.scrollWidth - {WIDTH}) + " plots=" + all;
          document.body.append(document.title);
        }};</script>"""
    )
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size=600,{HEIGHT + 100}",
            "--virtual-time-budget=10000",
            f"--screenshot={picture}",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "wide=" in done.stdout, done.stderr[-900:]
    found = done.stdout.rpartition("wide=")[2].split("<")[0]
    excess, widths = found.split(" plots=")
    plots = [width for width in map(int, widths.split(",")) if width > 100]
    assert int(excess) <= 0, found  # nothing sticks out
    assert len(plots) == 2 and all(250 < width <= WIDTH for width in plots), found
    image = Image.open(picture).convert("L").crop((0, 0, WIDTH, HEIGHT))
    dark = sum(image.histogram()[:100]) / (WIDTH * HEIGHT)
    assert 0.005 < dark < 0.5, dark  # text and lines on a light ground
