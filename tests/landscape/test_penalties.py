"""Penalties: their values by dense matrices, their slopes by finite differences."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from skpoison.landscape import (
    conv_singular_values,
    nuclear_norm_penalty,
    operator_norm,
    operator_norm_penalty,
)


def kernel(*shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return weight.requires_grad_()


CIRCULAR = [
    ((3, 4), {}),
    ((2, 3, 3, 3), {"input_size": 4}),
    ((2, 2, 3, 2), {"input_size": (4, 6), "stride": 2}),
    ((4, 2, 3), {"input_size": 5, "groups": 2, "dilation": 2}),
    ((2, 2, 3, 3), {"input_size": 2}),
]


@pytest.mark.parametrize("shape, options", CIRCULAR, ids=str)
def test_circular_penalties(shape, options):
    weight = kernel(*shape)
    values, times = conv_singular_values(weight.detach(), **options)
    total = (values.sum(1) * times).sum()
    assert abs(nuclear_norm_penalty(weight, **options).item() - total) < 1e-10
    assert abs(operator_norm_penalty(weight, **options).item() - values.max()) < 1e-12
    for penalty in (nuclear_norm_penalty, operator_norm_penalty):
        assert gradcheck(lambda w, f=penalty: f(w, **options), [weight])


@pytest.mark.parametrize(
    "channels, size, options",
    [
        ((2, 3), 4, {"padding": 1}),
        ((4, 6), (14, 13), {"padding": 1}),
        ((6, 3), 24, {"padding": "valid", "stride": 2, "groups": 2}),
    ],
    ids=str,
)
def test_the_norm_of_what_is_padded_with_zeros(channels, size, options):
    layer = nn.Conv2d(channels[1] * options.get("groups", 1), channels[0], 3, **options)
    weight = kernel(*layer.weight.shape)
    layer.weight = nn.Parameter(weight.detach())
    penalty = operator_norm_penalty(weight, size, **options)
    assert abs(penalty.item() - operator_norm(layer, size)) < 1e-8 * penalty.item()
    (slope,) = torch.autograd.grad(penalty, weight)
    way, step = torch.randn_like(weight), 1e-4
    with torch.no_grad():
        ends = [
            operator_norm_penalty(weight + sign * step * way, size, **options)
            for sign in (1, -1)
        ]
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert abs(numeric - (slope * way).sum()) < 1e-6 * abs(numeric)


def test_type_and_steps_downhill():
    weight = nn.Parameter(kernel(4, 4, 3, 3).detach().float())
    start = conv_singular_values(weight, 6)
    for _ in range(6):
        penalty = nuclear_norm_penalty(weight, 6) / 36
        (slope,) = torch.autograd.grad(penalty, weight)
        with torch.no_grad():
            weight -= 0.3 * slope
    assert penalty.dtype == torch.float32
    end = conv_singular_values(weight, 6)
    assert np.sum(end[0].sum(1) * end[1]) < 0.8 * np.sum(start[0].sum(1) * start[1])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_decomposed_in_float32(kind):
    weight = nn.Parameter(kernel(2, 3, 3, 3).detach().to(kind))
    twin = nn.Parameter(weight.detach().float())
    for penalty, options in (
        (nuclear_norm_penalty, {}),
        (operator_norm_penalty, {}),
        (operator_norm_penalty, {"padding": 1}),
    ):
        ours, theirs = (penalty(w, 4, **options) for w in (weight, twin))
        assert ours.dtype == kind
        assert torch.equal(ours, theirs.to(kind))
        (slope,) = torch.autograd.grad(ours, weight)
        (expected,) = torch.autograd.grad(theirs, twin)
        assert torch.equal(slope, expected.to(kind))


def test_the_slope_of_the_zero_operator_is_finite():
    weight = torch.zeros(2, 2, 3, 3, requires_grad=True)
    for padding in ("circular", 1):
        operator_norm_penalty(weight, 4, padding=padding).backward()
        assert weight.grad.isfinite().all()


@pytest.mark.parametrize("penalty", [nuclear_norm_penalty, operator_norm_penalty])
def test_what_penalties_refuse(penalty):
    with pytest.raises(TypeError, match="weight must be a torch tensor, got ndarray"):
        penalty(np.eye(2))
    with pytest.raises(TypeError, match="floating point"):
        penalty(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="input_size must be the sides"):
        penalty(torch.ones(2, 2, 3, 3))
    with pytest.raises(ValueError, match="must divide input_size"):
        penalty(torch.ones(2, 2, 3, 3), 5, stride=2)
