"""What the drawing shows is what the report holds."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from skpoison.evasion import (
    FGSM,
    PGD,
    RobustAccuracyDisplay,
    robustness_report,
)

plt = pytest.importorskip("matplotlib.pyplot")
RADII = [0.5, 0, 0.2]


@pytest.fixture(scope="module")
def fitted():
    X, y = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=1000).fit(X, y), X, y


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.slow
def test_lines_bands_and_the_clean_level(fitted):
    attacks = {"one step": FGSM(), "best": PGD()}
    report = robustness_report(*fitted, eps_range=RADII, attacks=attacks)
    display = RobustAccuracyDisplay.from_report(report, linewidth=3)
    order = np.argsort(RADII)
    for line, values in zip(display.lines_, report.robust_accuracy, strict=True):
        assert line.get_xdata().tolist() == [0, 0.2, 0.5]
        assert np.array_equal(line.get_ydata(), values[order])
        assert line.get_linewidth() == 3
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["one step", "best"]
    edges = display.ax_.collections[1].get_paths()[0].vertices[:, 1]
    assert edges.min() == report.low[1].min() and edges.max() == report.high[1].max()
    assert display.ax_.lines[-1].get_ydata()[0] == report.clean_accuracy
    assert display.figure_ is display.ax_.figure


def test_measured_and_drawn_at_once_into_given_axes(fitted):
    _, ax = plt.subplots()
    settings = {"eps_range": RADII, "attacks": PGD()}
    display = RobustAccuracyDisplay.from_estimator(*fitted, ax=ax, **settings)
    report = robustness_report(*fitted, **settings)
    assert display.ax_ is ax
    assert np.array_equal(display.robust_accuracy, report.robust_accuracy)


def test_bare_arrays_draw_neither_legend_nor_bands():
    display = RobustAccuracyDisplay([0, 1], [[0.9, 0.4], [0.8, 0.2]]).plot()
    assert len(display.ax_.lines) == 2
    assert not display.ax_.collections
    assert display.ax_.get_legend() is None
