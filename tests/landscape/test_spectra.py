"""Spectra are those of the operator's dense matrix, built without the library."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.landscape import conv_singular_values, effective_rank, operator_norm


def kernel(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def columns(function, *shape):
    """Return the matrix of a linear function of images, a column a pixel."""
    pixels = torch.eye(int(np.prod(shape)), dtype=torch.float64)
    return np.stack(
        [function(p.reshape(1, *shape)).flatten().numpy() for p in pixels], axis=1
    )


def circular(weight, stride, dilation, groups):
    """Return a convolution with circular padding as a sum of shifted images."""
    n_each = len(weight) // groups

    def function(x):
        parts = []
        for g, images in enumerate(x[0].chunk(groups)):
            out = 0
            for a in range(weight.shape[2]):
                for b in range(weight.shape[3]):
                    back = (-a * dilation, -b * dilation)
                    moved = torch.roll(images, back, dims=(1, 2))
                    mix = weight[g * n_each : (g + 1) * n_each, :, a, b]
                    out = out + torch.einsum("oi,ihw->ohw", mix, moved)
            parts.append(out[:, ::stride, ::stride])
        return torch.cat(parts)

    return function


def all_values(values, multiplicity):
    return np.sort(np.repeat(values, multiplicity, axis=0).ravel())[::-1]


@pytest.mark.parametrize(
    "size, shape, options",
    [
        ((5, 5), (3, 2, 3, 3), {}),
        ((6, 6), (2, 3, 3, 3), {}),
        ((4, 7), (2, 2, 2, 3), {}),
        ((7, 4), (2, 1, 3, 2), {"dilation": 2}),
        ((6, 6), (3, 2, 3, 3), {"stride": 2}),
        ((8, 4), (1, 3, 3, 3), {"stride": 4}),
        ((6, 9), (4, 2, 3, 3), {"stride": 3, "dilation": 2, "groups": 2}),
        ((3, 3), (2, 2, 3, 3), {}),
        ((2, 3), (2, 2, 5, 4), {}),
        ((4, 4), (2, 2, 1, 1), {"stride": 2}),
    ],
    ids=str,
)
def test_circular_spectrum_is_that_of_the_dense_matrix(size, shape, options):
    weight = kernel(*shape)
    options = {"stride": 1, "dilation": 1, "groups": 1} | options
    n_in = shape[1] * options["groups"]
    dense = columns(circular(weight, **options), n_in, *size)
    values, multiplicity = conv_singular_values(weight, size, **options)
    expected = np.linalg.svd(dense, compute_uv=False)
    np.testing.assert_allclose(all_values(values, multiplicity), expected, atol=1e-12)
    assert values.dtype == np.float64 and (np.diff(values) <= 1e-12).all()


def test_blocks_of_a_stride_are_the_frequencies_that_meet():
    # the formula of the docstring, by NumPy's transform of both axes
    weight, n, s = kernel(3, 2, 3, 3).numpy(), 6, 2
    full = np.fft.fft2(weight, (n, n)).transpose(2, 3, 0, 1)
    half = n // s
    blocks = [
        np.concatenate(
            [full[i + a * half, j + b * half] for a in (0, 1) for b in (0, 1)], 1
        )
        for i in range(half)
        for j in range(half)
    ]
    expected = np.linalg.svd(np.stack(blocks) / s, compute_uv=False)
    found = all_values(*conv_singular_values(weight, n, stride=s))
    np.testing.assert_allclose(found, np.sort(expected.ravel())[::-1], atol=1e-12)


@pytest.mark.parametrize("size", [5, 6])
def test_signals_and_volumes(size):
    weight = kernel(2, 3, 3)
    values, times = conv_singular_values(weight, size)
    # a signal is an image of one row
    others, again = conv_singular_values(weight[:, :, None], (1, size))
    assert np.array_equal(values, others) and np.array_equal(times, again)
    volume = kernel(1, 2, 2, 2, 2)
    dense = columns(
        lambda x: F.conv3d(F.pad(x, (0, 1) * 3, mode="circular"), volume), 2, 2, 3, size
    )
    found = all_values(*conv_singular_values(volume, (2, 3, size)))
    np.testing.assert_allclose(
        found, np.linalg.svd(dense, compute_uv=False), atol=1e-12
    )


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": "same"},
        {"padding": "valid", "stride": 2},
        {"padding": (2, 0), "dilation": 2, "groups": 2},
    ],
    ids=str,
)
def test_padding_with_zeros(options):
    weight = kernel(4, 3, 3, 3)
    n_in = 3 * options.get("groups", 1)
    dense = columns(lambda x: F.conv2d(x, weight, **options), n_in, 5, 6)
    values, multiplicity = conv_singular_values(weight.numpy(), (5, 6), **options)
    expected = np.linalg.svd(dense, compute_uv=False)
    assert multiplicity.tolist() == [1]
    np.testing.assert_allclose(values[0], expected, atol=1e-12)


def test_matrices_are_taken_as_they_are():
    weight = kernel(4, 6)
    values, multiplicity = conv_singular_values(weight)
    expected = np.linalg.svd(weight.numpy(), compute_uv=False)
    np.testing.assert_allclose(values, [expected], atol=1e-13)
    assert multiplicity.tolist() == [1]
    whole = conv_singular_values([[3, 0], [0, 4]])[0]
    assert whole.tolist() == [[4.0, 3.0]]
    again, _ = conv_singular_values(weight, padding="valid")
    assert np.array_equal(again, values)


LAYERS = {
    "zeros": nn.Conv2d(6, 9, 3, padding=1),
    "strided": nn.Conv2d(6, 12, 3, padding=1, stride=2),
    "dilated groups": nn.Conv2d(6, 8, 3, padding=2, dilation=2, groups=2),
    "valid, even kernel": nn.Conv2d(6, 7, (2, 4)),
    "reflected": nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
    "circular": nn.Conv2d(6, 8, 3, padding="same", padding_mode="circular"),
    "signals": nn.Conv1d(6, 30, 5, padding=2),
    "volumes": nn.Conv3d(6, 4, 3, padding=1),
}
SIZES = {"signals": (60,), "volumes": (4, 4, 4)}


@pytest.mark.parametrize("name", LAYERS)
def test_norm_of_a_layer_as_it_is(name):
    layer, size = LAYERS[name], SIZES.get(name, (10, 9))
    before = layer.weight.detach().clone()
    found = operator_norm(layer, size)
    weight = nn.Parameter(before.double())
    twin = type(layer)(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        dtype=torch.float64,
    )
    twin.weight = weight
    with torch.no_grad():
        pixels = torch.eye(6 * int(np.prod(size)), dtype=torch.float64)
        dense = twin(pixels.reshape(-1, 6, *size)).flatten(1)
    assert dense.numel() > 2**16  # so that the iteration is what is tested
    assert abs(found - np.linalg.norm(dense.numpy(), 2)) < 1e-6 * found
    assert torch.equal(layer.weight, before) and layer.weight.grad is None


def test_norm_of_circular_convolutions_small_operators_and_matrices():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    values, _ = conv_singular_values(layer.weight, 8)
    assert operator_norm(layer, 8, circular=True) == values.max()
    zeros, _ = conv_singular_values(layer.weight, 8, padding=1)
    assert abs(operator_norm(layer, 8) - zeros.max()) < 1e-12
    assert abs(operator_norm(np.diag([2.0, 5.0])) - 5) < 1e-12
    wide = nn.Linear(2100, 40)
    expected = np.linalg.norm(wide.weight.detach().double().numpy(), 2)
    assert abs(operator_norm(wide) - expected) < 1e-10
    assert operator_norm(nn.Linear(2100, 40).requires_grad_(False), tol=0) > 0


def test_only_all_values_need_a_small_matrix(monkeypatch):
    monkeypatch.setattr("skpoison.landscape._spectra._DENSE_ENTRIES", 100)
    layer = nn.Conv2d(1, 2, 5, padding="valid")
    with pytest.raises(ValueError, match="operator_norm finds"):
        conv_singular_values(layer.weight, 9, padding="valid")
    assert operator_norm(layer, 9) > 0
    assert len(conv_singular_values(np.eye(20))[0][0]) == 20


def test_norm_of_zero_and_the_start_do_not_matter():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    norms = [operator_norm(layer, 12, random_state=seed) for seed in (0, 1, None)]
    assert np.ptp(norms) < 1e-7 * norms[0]
    nn.init.zeros_(layer.weight)
    assert operator_norm(layer, 12) == 0.0


def test_zeros_are_bounded_by_circular_padding_of_larger_images_only():
    # the frequencies of three pixels miss the largest value of [1, -1]
    difference = torch.tensor([[[1.0, -1.0]]])
    zeros = conv_singular_values(difference, 3, padding=1)[0].max()
    same = conv_singular_values(difference, 3)[0].max()
    larger = conv_singular_values(difference, 4)[0].max()
    assert same < zeros < larger


SPECTRUM = np.array([2.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("nuclear", 1.75),
        ("stable", 1.3125),
        ("count", 3),
        ("entropy", np.prod((SPECTRUM[:3] / 3.5) ** (-SPECTRUM[:3] / 3.5))),
    ],
)
def test_effective_rank(kind, expected):
    assert abs(effective_rank(SPECTRUM, kind=kind) - expected) < 1e-12
    flipped = torch.tensor(7 * SPECTRUM[::-1].copy(), requires_grad=True)
    share = effective_rank(flipped, kind=kind, normalize=True)
    assert abs(share - expected / 4) < 1e-12
    blocks, times = SPECTRUM.reshape(2, 2), [3, 2]
    repeated = np.repeat(blocks, times, axis=0).ravel()
    ours = effective_rank(blocks, times, kind=kind, normalize=True)
    assert abs(ours - effective_rank(repeated, kind=kind, normalize=True)) < 1e-12


@pytest.mark.parametrize("kind", ["nuclear", "stable", "count", "entropy"])
def test_effective_rank_at_its_ends(kind):
    assert effective_rank([0.0, 0.0], kind=kind) == 0.0
    assert abs(effective_rank([5.0, 0, 0], kind=kind) - 1) < 1e-12
    assert abs(effective_rank([0.3] * 6, kind=kind, normalize=True) - 1) < 1e-12


def test_count_takes_its_tolerance():
    assert effective_rank([1, 1e-7], kind="count") == 1
    assert effective_rank([1, 1e-7], kind="count", tol=1e-8) == 2


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: conv_singular_values([1.0, 2.0]),
            ValueError,
            "weight must have shape",
        ),
        (lambda: conv_singular_values([["a"]]), TypeError, "real numbers"),
        (lambda: conv_singular_values([[1j]]), TypeError, "real numbers"),
        (lambda: conv_singular_values([[np.nan]]), ValueError, "NaN"),
        (
            lambda: conv_singular_values([[1.0]], 3),
            ValueError,
            "input_size must be None",
        ),
        (
            lambda: conv_singular_values(kernel(1, 1, 3, 3)),
            ValueError,
            "input_size must be",
        ),
        (
            lambda: conv_singular_values(kernel(1, 1, 3, 3), (4,)),
            ValueError,
            "2, one a side",
        ),
        (
            lambda: conv_singular_values(kernel(1, 1, 3, 3), 4.5),
            TypeError,
            "input_size",
        ),
        (
            lambda: conv_singular_values(kernel(1, 1, 3, 3), 5, stride=2),
            ValueError,
            "stride=.* must divide",
        ),
        (
            lambda: conv_singular_values(kernel(3, 1, 3, 3), 4, groups=2),
            ValueError,
            "groups=2 must divide",
        ),
        (
            lambda: conv_singular_values(kernel(1, 1, 3, 3), 4, padding="zeros"),
            ValueError,
            "padding must be one of",
        ),
        (
            lambda: conv_singular_values(kernel(9, 9, 3, 3), 24, padding=1),
            ValueError,
            "operator_norm finds",
        ),
        (
            lambda: conv_singular_values(kernel(1, 1, 3, 3), 4, padding=-1),
            ValueError,
            "padding must be >= 0",
        ),
        (
            lambda: conv_singular_values(kernel(3, 1, 3, 3), 4, groups=2, padding=1),
            ValueError,
            "groups=2 must divide",
        ),
        (lambda: operator_norm(nn.Conv2d(1, 1, 5), 4), ValueError, "input_size=.* fit"),
        (lambda: operator_norm(nn.BatchNorm2d(3), 4), TypeError, "got BatchNorm2d"),
        (lambda: operator_norm(kernel(1, 1, 3, 3), 4), TypeError, "a kernel of shape"),
        (lambda: operator_norm(nn.Conv2d(1, 1, 3)), ValueError, "input_size must be"),
        (lambda: operator_norm(nn.Linear(2, 2), 4), ValueError, "must be None"),
        (lambda: effective_rank([[1.0, 2.0]]), ValueError, "conv_singular_values"),
        (lambda: effective_rank([1.0, -1.0]), ValueError, "finite and >= 0"),
        (lambda: effective_rank([]), ValueError, "must have shape"),
        (lambda: effective_rank([[1.0]], [1, 2]), ValueError, "one number a row"),
        (lambda: effective_rank([[1.0]], [0]), ValueError, ">= 1"),
        (lambda: effective_rank([[1.0]], [np.nan]), ValueError, ">= 1"),
        (lambda: effective_rank([1.0], tol=1), ValueError, "tol must be < 1"),
        (lambda: effective_rank([1.0], kind="rank"), ValueError, "kind must be one of"),
    ],
    ids=[str(i) for i in range(27)],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
