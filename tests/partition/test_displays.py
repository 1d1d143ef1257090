import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from skpoison.partition import (
    BoundDisplay,
    DisparityDisplay,
    LiftedPartition,
    LiftedResult,
    SegmentationDisplay,
)

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def image():
    image = np.random.default_rng(0).random((8, 10, 3))
    image[:, 5:] /= 4
    return image


@pytest.fixture(scope="module")
def fitted(image):
    return LiftedPartition(2, 0.5, discretization="grid", random_state=0).fit(image)


def test_segments_are_painted_and_outlined(image, fitted):
    display = SegmentationDisplay.from_estimator(fitted, image)
    picture = np.asarray(display.image_.get_array())
    labels = fitted.labels_
    border = display.boundaries()
    naive = np.zeros((8, 10), bool)
    for y in range(8):
        for x in range(10):
            for there in ((y + 1, x), (y, x + 1)):
                if there[0] < 8 and there[1] < 10:
                    naive[y, x] |= labels[y, x] != labels[there]
    np.testing.assert_array_equal(border, naive)
    assert (picture[border] == 1).all() and border.any()
    for label in np.unique(labels):
        mine = labels == label
        expected = 0.4 * image + 0.6 * image[mine].mean(axis=0)
        inner = mine & ~border
        np.testing.assert_allclose(picture[inner], expected[inner])
    assert display.figure_ is display.ax_.figure


def test_parts_of_the_drawing(image):
    labels = np.arange(80) // 40 * 7
    _, ax = plt.subplots()
    display = SegmentationDisplay.from_labels(
        image, labels, ax=ax, alpha=1.0, color=None, cmap="tab10"
    )
    assert display.ax_ is ax
    picture = np.asarray(display.image_.get_array())
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 2
    plain = SegmentationDisplay.from_labels(image, labels, alpha=0.0, color=None)
    np.testing.assert_allclose(plain.image_.get_array(), image)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 5])
def test_channels(channels):
    shape = (6, 7) if channels is None else (6, 7, channels)
    display = SegmentationDisplay.from_labels(np.ones(shape), np.zeros((6, 7), int))
    assert display.image_.get_array().shape == (6, 7, 3)
    assert not display.boundaries().any()


def test_bytes_are_scaled(image):
    whole = (255 * image).astype(np.uint8)
    labels = np.zeros((8, 10), int)
    pictures = [
        np.asarray(SegmentationDisplay.from_labels(x, labels).image_.get_array())
        for x in (whole, whole / 255)
    ]
    np.testing.assert_allclose(*pictures)


def test_disparities():
    class Stereo(LiftedPartition):
        pass

    stereo = Stereo()
    stereo.disparity_ = np.arange(12.0).reshape(3, 4)
    stereo.disparity_[0, 0] = np.inf
    display = DisparityDisplay.from_estimator(stereo, vmax=9)
    shown = display.image_.get_array()
    assert shown.mask.sum() == 1 and shown[2, 3] == 11
    assert display.image_.norm.vmax == 9
    assert display.colorbar_.ax.get_ylabel() == "disparity in pixels"
    with pytest.raises(ValueError, match=r"shape \(height, width\), got \(3,\)"):
        DisparityDisplay(np.zeros(3)).plot()


def test_energy_and_bound(fitted):
    display = BoundDisplay.from_estimator(fitted, x="iterations")
    energy, bound = display.lines_
    history = np.array(fitted.result_.history)
    np.testing.assert_array_equal(energy.get_xdata(), history[:, 0])
    np.testing.assert_array_equal(energy.get_ydata(), history[:, 2])
    np.testing.assert_array_equal(bound.get_ydata(), history[:, 3])
    assert display.ax_.get_xlabel() == "iterations"
    gap = BoundDisplay.from_result(fitted.result_, kind="gap")
    assert gap.ax_.get_yscale() == "log" and gap.ax_.get_xlabel() == "seconds"
    assert gap.relative_gaps()[-1] == pytest.approx(fitted.relative_gap_)


def test_a_result_without_history_is_a_point():
    result = LiftedResult(
        labels=np.zeros(2),
        assignment=np.ones((2, 1)),
        energy=-3.0,
        lower_bound=-4.0,
        n_iter=7,
        converged=True,
        seconds=0.5,
        solver="none",
    )
    display = BoundDisplay.from_result(result)
    assert [line.get_ydata().tolist() for line in display.lines_] == [[-3.0], [-4.0]]
    np.testing.assert_allclose(display.relative_gaps(), [0.25])


def test_errors(image, fitted):
    with pytest.raises(NotFittedError):
        SegmentationDisplay.from_estimator(LiftedPartition(), image)
    with pytest.raises(NotFittedError):
        BoundDisplay.from_estimator(LiftedPartition())
    with pytest.raises(ValueError, match=r"one entry a pixel of \(4, 10\)"):
        SegmentationDisplay.from_estimator(fitted, image[:4])
    with pytest.raises(ValueError, match="alpha must be in"):
        SegmentationDisplay.from_estimator(fitted, image, alpha=2.0)
    with pytest.raises(ValueError, match="kind must be one of"):
        BoundDisplay.from_estimator(fitted, kind="both")
    with pytest.raises(ValueError, match="x must be one of"):
        BoundDisplay.from_estimator(fitted, x="hours")
