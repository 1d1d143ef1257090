"""The main job on real data: audit three classical models and a small network.

Run by ``make demo``. Data ship with scikit-learn; nothing is downloaded.
"""

import sys
import time

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skpoison.audit import audit, print_report, write_html
from skpoison.models import TorchClassifier


def audit_table(n_jobs=2):
    """Audit three models on the breast cancer data."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    victims = {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
        "svm": make_pipeline(StandardScaler(), SVC()),
        "boosted trees": HistGradientBoostingClassifier(max_iter=50),
    }
    # some of "auto", so that the demonstration stays short
    return audit(
        victims,
        X,
        y,
        attacks=[
            "random-flips",
            "adversarial-flips",
            "adaptive-flips",
            "added-rows",
            "backdoor",
        ],
        defenses=["label-filter", "sanitizer", "partition-aggregation"],
        budgets=(0, 0.01, 0.1),
        cv=3,
        n_jobs=n_jobs,
        random_state=0,
        name="breast cancer",
    )


def audit_images(n_jobs=2):
    """Audit a network on the digits."""
    X, y = load_digits(return_X_y=True)
    network = TorchClassifier(input_shape=(1, 8, 8), max_epochs=15, device="cpu")
    return audit(
        {"network": network},
        (X / 16).astype("float32"),
        y,
        attacks=[
            "adversarial-flips",
            "backdoor",
            "gradient-matching",
            "adaptive-gradient-matching",
        ],
        defenses=["poison-detector", "mixup", "partition-aggregation"],
        budgets=(0, 0.01, 0.1),
        cv=2,
        n_jobs=n_jobs,
        random_state=0,
        name="digits",
    )


def main(path="report.html"):
    """Audit, print and write the page."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    reports = [audit_table(), audit_images()]
    for report in reports:
        print_report(report)
        print()
    write_html(reports, path)
    print(f"wrote {path} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
