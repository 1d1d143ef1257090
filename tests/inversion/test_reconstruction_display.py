"""Drawings of reconstructions."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image
from sklearn.utils import Bunch

from skpoison.inversion import ReconstructionDisplay

plt = pytest.importorskip("matplotlib.pyplot")

GRAY = load_digits().images[:4] / 16
COLOR = load_sample_image("china.jpg")[:16, :48].reshape(16, 3, 16, 3)
COLOR = np.moveaxis(COLOR.swapaxes(0, 1), 3, 1)  # (3, channels, 16, 16)


@pytest.fixture(autouse=True)
def _figures():
    yield
    plt.close("all")


def shown(display):
    return [[ax.images[0].get_array() for ax in row] for row in display.axes_]


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1, 8, 8)], ids=["plain", "channel"])
def test_gray(shape):
    X, R = GRAY.reshape(shape), np.clip(GRAY + 0.1, None, 2).reshape(shape)
    display = ReconstructionDisplay(X, R).plot()
    np.testing.assert_allclose(shown(display)[0], GRAY)
    np.testing.assert_allclose(shown(display)[1], GRAY + 0.1)
    np.testing.assert_allclose(display.psnr_, 20)
    assert display.axes_.shape == (2, 4) and display.figure_.axes
    image = display.axes_[0, 0].images[0]
    assert image.get_clim() == (0, 1) and image.get_cmap().name == "gray"
    assert display.axes_[1, 2].get_title() == "20.0 dB"
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["true", "reconstructed"]


def test_color_in_bytes():
    display = ReconstructionDisplay(COLOR, COLOR[::-1]).plot()
    np.testing.assert_allclose(shown(display)[0][1], COLOR[1].transpose(1, 2, 0) / 255)
    np.testing.assert_allclose(shown(display)[1][0], COLOR[2].transpose(1, 2, 0) / 255)
    over = ReconstructionDisplay(COLOR / 255, COLOR / 100).plot()
    assert np.max(shown(over)[1]) == 1


def test_a_result_is_put_in_order():
    order = [2, 0, 3, 1]
    result = Bunch(X=GRAY[order] * 0.9, y=np.arange(4), loss=0.0)
    display = ReconstructionDisplay.from_reconstruction(torch.tensor(GRAY), result)
    np.testing.assert_allclose(shown(display)[1], GRAY * 0.9)
    assert (display.psnr_ > 20).all()


def test_one_exact_image_on_given_axes():
    figure, axes = plt.subplots(2, 1)
    display = ReconstructionDisplay(GRAY[:1], GRAY[:1])
    assert display.plot(axes=axes[:, None], cmap="viridis") is display
    assert display.figure_ is figure
    assert display.axes_[1, 0].get_title() == "inf dB"
    assert display.axes_[0, 0].images[0].get_cmap().name == "viridis"


@pytest.mark.parametrize(
    "X, R, message",
    [
        (GRAY.reshape(4, -1), GRAY.reshape(4, -1), "height, width"),
        (GRAY, GRAY[:2], "same shape"),
        (np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 8, 8)), "one or three channels"),
    ],
    ids=["table", "shapes", "channels"],
)
def test_bad_images(X, R, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionDisplay(X, R).plot()


def test_bad_axes():
    with pytest.raises(ValueError, match=r"axes must have shape \(2, n_images=4\)"):
        ReconstructionDisplay(GRAY, GRAY).plot(axes=plt.subplots(4, 2)[1])
