import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skpoison.datasets import make_gratings


def test_defaults():
    X, y = make_gratings(random_state=0)
    assert X.shape == (400, 1, 16, 16)
    assert X.dtype == np.float32
    assert y.dtype == np.int64
    assert X.min() >= 0 and X.max() <= 1
    assert np.bincount(y).tolist() == [100] * 4
    assert (np.diff(y) != 0).any() and (np.diff(y) < 0).sum() > 50  # shuffled


def test_random_state():
    first, second = (make_gratings(12, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (make_gratings(12, random_state=6)[0] != first[0]).any()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_gratings(12)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_layouts_hold_the_same_pixels():
    X, flat, last = (
        make_gratings(10, n_channels=3, layout=layout, random_state=0)[0]
        for layout in ("nchw", "flat", "nhwc")
    )
    np.testing.assert_array_equal(flat, X.reshape(10, -1))
    np.testing.assert_array_equal(last, X.transpose(0, 2, 3, 1))
    assert last.flags.c_contiguous


def test_formula_without_noise():
    X, y, params = make_gratings(
        7,
        n_classes=3,
        image_size=9,
        frequency=2.0,
        noise=0,
        random_state=1,
        return_params=True,
    )
    np.testing.assert_allclose(params.angle, np.pi * y / 3)
    for i in range(7):
        for row in range(9):
            for column in range(9):
                u, v = column - 4, row - 4
                along = u * np.cos(params.angle[i]) + v * np.sin(params.angle[i])
                wave = np.sin(2 * np.pi * 2.0 / 9 * along + params.phase[i])
                assert abs(X[i, 0, row, column] - 0.5 - 0.25 * wave) < 1e-6
    assert sorted(np.bincount(y)) == [2, 2, 3]


def test_noise_differs_by_channel():
    X, _ = make_gratings(4, n_channels=2, random_state=0)
    assert (X[:, 0] != X[:, 1]).any()
    X, _ = make_gratings(4, n_channels=2, noise=0, random_state=0)
    np.testing.assert_array_equal(X[:, 0], X[:, 1])


def test_a_linear_model_fails_and_the_spectrum_tells():
    X, y = make_gratings(1200, random_state=0)
    flat = X.reshape(len(X), -1)
    linear = LogisticRegression(max_iter=300).fit(flat[:800], y[:800])
    assert linear.score(flat[800:], y[800:]) < 0.35  # chance 0.25, error 0.022
    spectrum = np.abs(np.fft.rfft2(X[:, 0] - 0.5)).reshape(len(X), -1)
    fourier = LogisticRegression(max_iter=300).fit(spectrum[:800], y[:800])
    assert fourier.score(spectrum[800:], y[800:]) > 0.95


@pytest.mark.parametrize(
    "params, name",
    [
        ({"n_samples": 3}, "n_samples"),
        ({"n_classes": 1}, "n_classes"),
        ({"image_size": 3}, "image_size"),
        ({"n_channels": 0}, "n_channels"),
        ({"noise": -0.1}, "noise"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": 8.1}, "frequency"),
        ({"layout": "chw"}, "layout"),
    ],
)
def test_bad_parameters(params, name):
    with pytest.raises(ValueError, match=name):
        make_gratings(**params)
