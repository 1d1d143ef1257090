"""Lines are the layers' singular values."""

import numpy as np
import pytest
import torch

from skpoison.landscape import SpectrumDisplay, conv_singular_values
from skpoison.models import ConvNet

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return ConvNet((1, 8, 8), 10, channels=(4, 6))


def test_lines_are_all_singular_values(module):
    X = np.zeros((1, 1, 8, 8))
    display = SpectrumDisplay.from_module(module, X, linewidth=3)
    assert display.names == ["features.0", "features.3", "head.0", "head.2"]
    values, times = conv_singular_values(module.features[3].weight, 4)
    expected = np.sort(np.repeat(values, times, axis=0).ravel())[::-1]
    line = display.lines_[1]
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    np.testing.assert_allclose(line.get_xdata(), np.arange(1, 65) / 64)
    assert line.get_linewidth() == 3
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == display.names
    assert display.ax_.get_yscale() == "log"
    assert display.figure_ is display.ax_.figure


def test_some_layers_of_another_operator_in_given_axes(module):
    _, ax = plt.subplots()
    X, names = np.zeros((1, 1, 8, 8)), ["head.2", "features.3"]
    display = SpectrumDisplay.from_module(
        module, X, layers=names, operator="reshaped", relative=True, ax=ax
    )
    assert display.ax_ is ax and display.names == names
    matrix = module.features[3].weight.detach().flatten(1)
    expected = torch.linalg.svdvals(matrix.double())
    drawn = display.lines_[1].get_ydata()
    np.testing.assert_allclose(drawn, expected / expected[0], rtol=1e-10)
    with pytest.raises(ValueError, match="'tail' is none of those met, features.0"):
        SpectrumDisplay.from_module(module, X, layers=["tail"])


def test_what_is_refused():
    with pytest.raises(ValueError, match="names must be one a layer, 2, got 1"):
        SpectrumDisplay([[1.0], [2.0]], names=["a"]).plot()
    with pytest.raises(ValueError, match="a layer without values"):
        SpectrumDisplay([[1.0], []]).plot()


def test_tensors_and_blocks_are_drawn():
    display = SpectrumDisplay([torch.tensor([1.0, 2.0]), [[3.0], [4.0]]]).plot()
    assert [line.get_ydata().tolist() for line in display.lines_] == [[2, 1], [4, 3]]


def test_zeros_are_not_drawn():
    display = SpectrumDisplay([[0.5, 1e-17, 2, 0], [0.0, 0.0]]).plot()
    first, second = display.lines_
    assert first.get_ydata().tolist() == [2, 0.5]
    assert first.get_xdata().tolist() == [0.25, 0.5]
    assert len(second.get_ydata()) == 0
    assert display.ax_.get_legend() is None
    low = SpectrumDisplay([[1.0, 1e-17]]).plot(floor=0)
    assert len(low.lines_[0].get_ydata()) == 2
