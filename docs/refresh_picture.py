"""Draw the README's picture: the page of a real audit, as a browser shows it.

python docs/refresh_picture.py

Needs Debian's chromium and Pillow; takes about a minute.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skpoison.audit import audit

PICTURE = Path(__file__).parent / "_static" / "audit.png"
WIDTH, HEIGHT = 1100, 1500


def write_page(path):
    """Audit two models on the breast cancer data and write the page."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    audit(
        {
            "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
            "svm": make_pipeline(StandardScaler(), SVC()),
        },
        X,
        y,
        attacks=["random-flips", "adversarial-flips", "added-rows", "backdoor"],
        defenses=["label-filter", "sanitizer", "partition-aggregation"],
        budgets=(0, 0.01, 0.05, 0.1),
        cv=3,
        random_state=0,
        verbose=0,
        name="breast cancer",
    ).to_html(path)


def photograph(page, picture):
    """Save the top of a page as a PNG of few colours."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("needs Debian's chromium")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
    image = Image.open(picture).convert("RGB")
    image.quantize(64).save(picture, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "audit.html")
        write_page(page)
        photograph(page, PICTURE)
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")
