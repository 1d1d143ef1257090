"""Points, means and intervals of the drawing are those of the networks."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from skpoison.landscape import NormAccuracyDisplay
from skpoison.models import MLP, TorchClassifier

plt = pytest.importorskip("matplotlib.pyplot")
NORMS = [[100.0, 110.0, 130.0], [300.0]]
ACCURACY = [[0.8, 0.84, 0.85], [0.9]]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def spans(ax):
    """Return the ends of each error bar, as arrays of two points."""
    return [s for c in ax.collections for s in c.get_segments()]


def test_means_intervals_and_points():
    display = NormAccuracyDisplay(NORMS, ACCURACY, names=["decay", "bias"])
    assert display.plot(markersize=9) is display
    for line, norms, accuracy in zip(display.lines_, NORMS, ACCURACY, strict=True):
        assert line.get_xdata() == pytest.approx([np.mean(norms)])
        assert line.get_ydata() == pytest.approx([np.mean(accuracy)])
        assert line.get_markersize() == 9
    across, upright = spans(display.ax_)  # one network alone has no interval
    for ends, values in ((across[:, 0], NORMS[0]), (upright[:, 1], ACCURACY[0])):
        low, high = stats.t.interval(
            0.95, 2, loc=np.mean(values), scale=stats.sem(values)
        )
        assert ends == pytest.approx([low, high])
    drawn = [line.get_xydata() for line in display.ax_.lines]
    for norms, accuracy in zip(NORMS, ACCURACY, strict=True):
        points = np.column_stack([norms, accuracy])
        assert any(d.shape == points.shape and np.allclose(d, points) for d in drawn)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["decay", "bias"]
    assert display.figure_ is display.ax_.figure


def test_fitted_classifiers_are_measured():
    X, y = load_digits(n_class=3, return_X_y=True)
    fitted = [
        TorchClassifier(
            MLP, module__hidden=(width,), max_epochs=1, device="cpu", random_state=seed
        ).fit(X, y)
        for width, seed in ((4, 0), (8, 0), (4, 1))
    ]
    fitted[0].module_.layers[0].weight.requires_grad_(False)
    _, ax = plt.subplots()
    display = NormAccuracyDisplay.from_estimators(
        fitted, X, y, names=["narrow", "wide", "narrow"], ax=ax
    )
    assert display.ax_ is ax and display.names == ["narrow", "wide"]

    def norm(clf):
        kept = [p.detach() for p in clf.module_.parameters() if p.requires_grad]
        return torch.cat([p.flatten() for p in kept]).square().sum().item()

    narrow, wide = display.squared_norms
    assert narrow == pytest.approx([norm(fitted[0]), norm(fitted[2])], rel=1e-5)
    assert wide == pytest.approx([norm(fitted[1])], rel=1e-5)
    assert display.accuracy[0].tolist() == [fitted[i].score(X, y) for i in (0, 2)]
    alone = NormAccuracyDisplay.from_estimators(fitted, X, y)
    assert len(alone.lines_) == 1 and alone.ax_.get_legend() is None
    assert sorted(alone.squared_norms[0]) == sorted([*narrow, *wide])


@pytest.mark.parametrize(
    "args, names, message",
    [
        (([[1.0, 2.0]], [[0.5]]), None, r"got shapes \[\(2,\)\] and \[\(1,\)\]"),
        (([[1.0]], [[0.5], [0.6]]), None, "as many figures for each group"),
        (([[]], [[]]), None, "at least one"),
        (([1.0], [0.5]), None, "in one dimension"),
        (([[1.0]], [[0.5]]), ["a", "b"], "names must have one for each group, 1, got"),
    ],
)
def test_figures_that_do_not_fit_are_named(args, names, message):
    with pytest.raises(ValueError, match=message):
        NormAccuracyDisplay(*args, names=names)


def test_names_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="one for each estimator, 0, got 1"):
        NormAccuracyDisplay.from_estimators([], None, None, names=["a"])
