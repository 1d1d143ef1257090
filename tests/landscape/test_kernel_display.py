"""What the drawing shows is what the trackers hold."""

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.landscape import NTKTracker, NTKWidthDisplay
from skpoison.models import MLP, TorchClassifier

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def fitted(width, seed, *callbacks):
    X, y = load_iris(return_X_y=True)
    net = TorchClassifier(
        MLP,
        module__hidden=(width,),
        callbacks=list(callbacks or [NTKTracker(X[::30], at=[])]),
        max_epochs=1,
        device="cpu",
        random_state=seed,
    )
    return make_pipeline(StandardScaler(), net).fit(X, y)


def correlation(pipeline):
    return pipeline[-1].net_.callbacks_[-2][1].change_.correlation


def test_means_and_intervals_of_the_runs_of_each_family():
    runs = [(8, 0, "a"), (2, 0, "a"), (2, 1, "a"), (2, 2, "a"), (4, 0, "b")]
    networks = [fitted(width, seed) for width, seed, _ in runs]
    widths, _, names = zip(*runs, strict=True)
    _, ax = pyplot.subplots()
    display = NTKWidthDisplay.from_estimators(
        networks, widths, names=names, ax=ax, linewidth=3
    )
    values = np.array([correlation(n) for n in networks])
    one, other = display.lines_
    assert one.get_xdata().tolist() == [2, 8] and other.get_xdata().tolist() == [4]
    assert np.allclose(one.get_ydata(), [values[1:4].mean(), values[0]])
    assert other.get_ydata().tolist() == [values[4]]
    half = student.ppf(0.975, 2) * values[1:4].std(ddof=1) / np.sqrt(3)
    assert display.high[0][0] - display.correlation[0][0] == pytest.approx(half)
    assert display.correlation[0][0] - display.low[0][0] == pytest.approx(half)
    assert np.isnan(display.low[0][1]) and np.isnan(display.high[1][0])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["a", "b"] and one.get_linewidth() == 3
    assert display.ax_ is ax and display.figure_ is ax.figure
    assert ax.get_xscale() == "log"

    narrow = NTKWidthDisplay.from_estimators(networks, widths, names=names, level=0.5)
    assert narrow.high[0][0] < display.high[0][0]
    alone = NTKWidthDisplay.from_estimators(networks, widths)
    assert len(alone.lines_) == 1 and alone.ax_.get_legend() is None


def test_arrays_are_drawn_in_order_of_width_with_their_bands():
    low, high = [[0.5, 0.1]], [[0.9, 0.3]]
    display = NTKWidthDisplay([64, 16], [[0.7, 0.2]], low=low, high=high).plot()
    (line,) = display.lines_
    assert line.get_xdata().tolist() == [16, 64]
    assert line.get_ydata().tolist() == [0.2, 0.7]
    (band,) = display.ax_.collections
    assert set(band.get_paths()[0].vertices[:, 1]) == {0.1, 0.3, 0.5, 0.9}
    bare = NTKWidthDisplay([16, 64], [[0.2, 0.7], [0.3, 0.4]]).plot()
    assert len(bare.lines_) == 2 and not bare.ax_.collections


def test_networks_that_cannot_be_drawn():
    X, y = load_iris(return_X_y=True)
    net = fitted(2, 0)
    draw = NTKWidthDisplay.from_estimators
    with pytest.raises(ValueError, match="one entry a network, got 1, 2 and 2"):
        draw([net], [2, 4])
    with pytest.raises(ValueError, match="one entry a network, got 0, 0 and 0"):
        draw([], [])
    with pytest.raises(ValueError, match="each width must be > 0"):
        draw([net], [0])
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\]"):
        draw([net], [2], level=0)
    with pytest.raises(TypeError, match="estimator must be a TorchClassifier"):
        draw([LogisticRegression(max_iter=1000).fit(X, y)], [2])
    both = fitted(2, 0, ("a", NTKTracker(X[:2])), ("b", NTKTracker(X[:3])))
    with pytest.raises(ValueError, match="one NTKTracker .* one with 2"):
        draw([both], [2])
    with pytest.raises(ValueError, match="one NTKTracker .* one with 0"):
        draw([TorchClassifier(max_epochs=1, device="cpu").fit(X, y)], [2])
