"""PSNR, SSIM, matching and feature distance of reconstructed images."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from skpoison.metrics import feature_mse, match_reconstruction, psnr, ssim

DIGITS = load_digits().images[:6] / 16  # (6, 8, 8)
RNG = np.random.default_rng(0)
SCALE = np.array([0.05, 0.2, 0.1, 0.3, 0.02, 0.5]).reshape(6, 1, 1)
NOISY = np.clip(DIGITS + RNG.normal(size=DIGITS.shape) * SCALE, 0, 1)


def naive_psnr(a, b, data_range):
    mse = sum((x - y) ** 2 for x, y in zip(a.flat, b.flat, strict=True)) / a.size
    return 10 * math.log10(data_range**2 / mse)


def naive_ssim(a, b, size, data_range=1.0):
    """Wang's formula over all windows of one channel, sample covariances."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(a.shape[0] - size + 1):
        for j in range(a.shape[1] - size + 1):
            x = a[i : i + size, j : j + size].ravel()
            y = b[i : i + size, j : j + size].ravel()
            (vx, vxy), (_, vy) = np.cov(x, y)
            mx, my = x.mean(), y.mean()
            values.append(
                (2 * mx * my + c1)
                * (2 * vxy + c2)
                / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )
    return np.mean(values)


class TestPSNR:
    def test_each_image_then_the_mean(self):
        wanted = [naive_psnr(a, b, 1.0) for a, b in zip(DIGITS, NOISY, strict=True)]
        found = psnr(DIGITS, NOISY, average=False)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        assert psnr(DIGITS, NOISY) == pytest.approx(np.mean(wanted), rel=1e-12)
        of_the_mean_error = naive_psnr(DIGITS, NOISY, 1.0)
        assert abs(psnr(DIGITS, NOISY) - of_the_mean_error) > 1

    def test_exact_is_infinite(self):
        half = DIGITS.copy()
        half[1:] += 0.5
        values = psnr(DIGITS, half, average=False)
        assert values[0] == math.inf and np.isfinite(values[1:]).all()
        assert psnr(DIGITS, half) == math.inf
        assert isinstance(psnr(DIGITS, half), float)

    def test_units(self):
        pixels = [np.rint(a * 255).astype(np.uint8) for a in (DIGITS, NOISY)]
        in_255 = psnr(*pixels)
        assert in_255 == pytest.approx(psnr(*(p / 255 for p in pixels)))
        wider = psnr(DIGITS, NOISY, data_range=10.0)
        assert wider == pytest.approx(psnr(DIGITS, NOISY) + 20)
        with pytest.raises(ValueError, match="X_true is uint8 and X_rec is float64"):
            psnr(pixels[0], NOISY)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_tensors(self, dtype):
        a = torch.tensor(DIGITS, dtype=dtype, requires_grad=True)
        b = torch.tensor(NOISY, dtype=dtype)
        wanted = psnr(a.detach().double().numpy(), b.double().numpy())
        assert psnr(a, b) == wanted

    def test_rows_of_a_table(self):
        assert psnr([[0.0, 1.0]], [[0.1, 0.9]]) == pytest.approx(20)


class TestSSIM:
    def test_formula(self):
        wanted = [naive_ssim(a, b, 7) for a, b in zip(DIGITS, NOISY, strict=True)]
        found = ssim(DIGITS, NOISY, average=False)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
        assert ssim(DIGITS, NOISY) == pytest.approx(np.mean(wanted))

    def test_channels_come_first(self):
        a, b = DIGITS.reshape(2, 3, 8, 8), NOISY.reshape(2, 3, 8, 8)
        planes = ssim(DIGITS, NOISY, average=False).reshape(2, 3)
        np.testing.assert_allclose(ssim(a, b, average=False), planes.mean(axis=1))
        one = ssim(DIGITS[:, None], NOISY[:, None], average=False)
        np.testing.assert_allclose(one.reshape(2, 3), planes)

    @pytest.mark.parametrize("side, window", [(3, 3), (4, 3), (5, 5), (6, 5), (7, 7)])
    def test_small_images(self, side, window):
        a, b = DIGITS[:1, 1 : side + 1, :side], NOISY[:1, 1 : side + 1, :side]
        assert ssim(a, b) == pytest.approx(naive_ssim(a[0], b[0], window))

    def test_too_small(self):
        with pytest.raises(ValueError, match="sides of at least 3, got shape"):
            ssim(DIGITS[:, :2], NOISY[:, :2])
        with pytest.raises(ValueError, match=r"height, width.*got \(6, 64\)"):
            ssim(DIGITS.reshape(6, -1), NOISY.reshape(6, -1))

    def test_scale(self):
        pixels = [np.rint(a * 255).astype(np.uint8) for a in (DIGITS, NOISY)]
        assert ssim(*pixels) == pytest.approx(ssim(*(p / 255 for p in pixels)))
        assert ssim(torch.tensor(DIGITS), torch.tensor(DIGITS)) == pytest.approx(1.0)


class TestMatching:
    def test_undoes_a_permutation(self):
        order = np.array([3, 0, 5, 1, 2, 4])
        found = match_reconstruction(DIGITS, NOISY[order])
        np.testing.assert_array_equal(NOISY[order][found], NOISY)

    def test_is_the_best_of_all(self):
        X, R = RNG.random((5, 2)), RNG.random((5, 2))
        total = {
            p: ((X - R[list(p)]) ** 2).sum() for p in itertools.permutations(range(5))
        }
        assert tuple(match_reconstruction(X, R)) == min(total, key=total.get)
        # each its nearest would not be a permutation here
        nearest = ((X[:, None] - R) ** 2).sum(2).argmin(1)
        assert len(set(nearest)) < 5

    def test_near_copies_far_from_the_origin(self):
        X = 1e6 + np.arange(4.0)[:, None] * 1e-3 + np.zeros((4, 3))
        np.testing.assert_array_equal(match_reconstruction(X, X[::-1]), [3, 2, 1, 0])


class TestFeatureMSE:
    def test_by_hand(self):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.9))
        W = module[1].weight.detach().numpy()
        wanted = (((DIGITS - NOISY).reshape(6, -1) @ W.T) ** 2).mean()
        module.train()
        assert feature_mse(module, DIGITS, NOISY) == pytest.approx(wanted, rel=1e-5)
        assert module[2].training and module[1].weight.grad is None

    def test_fitted_classifier(self):
        X, y = load_digits(return_X_y=True)
        clf = LogisticRegression(max_iter=20).fit(X[:200], y[:200])
        scores = [clf.decision_function(a) for a in (X[:9], X[9:18])]
        wanted = np.mean((scores[0] - scores[1]) ** 2)
        assert feature_mse(clf, X[:9], X[9:18]) == pytest.approx(wanted)

    def test_pixels_and_large_batches(self):
        X = np.repeat(np.uint8([[0, 255]]), 600, axis=0)
        R = X.copy()
        R[-1] = 0
        assert feature_mse(nn.Flatten(), X, R) == pytest.approx(1 / 1200)


@pytest.mark.parametrize("metric", [psnr, ssim, match_reconstruction])
@pytest.mark.parametrize(
    "X_true, X_rec, message",
    [
        (DIGITS, DIGITS[:5], r"same shape, got \(6, 8, 8\) and \(5, 8, 8\)"),
        (DIGITS, DIGITS * np.nan, "X_rec holds NaN or infinite values"),
        (DIGITS[:0], DIGITS[:0], "n_images >= 1"),
        (DIGITS[0, 0], DIGITS[0, 0], "images must have shape"),
    ],
    ids=["shapes", "nan", "empty", "1-d"],
)
def test_bad_images(metric, X_true, X_rec, message):
    with pytest.raises(ValueError, match=message):
        metric(X_true, X_rec)


def test_bad_options():
    with pytest.raises(ValueError, match="data_range must be > 0"):
        psnr(DIGITS, NOISY, data_range=0)
    with pytest.raises(TypeError, match="X_true must hold real numbers"):
        psnr(DIGITS.astype(complex), NOISY)


@pytest.mark.slow
def test_torch_is_not_imported():
    code = (
        "import sys, numpy as np; from skpoison.metrics import psnr, ssim; "
        "X = np.zeros((1, 8, 8)); psnr(X, X + 1), ssim(X, X); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
