"""The colour maps of MetaPoison and the pairs of perturbation and grid."""

import numpy as np
import pytest
import torch

from skpoison.attacks._craft._colour import ColourBall, Coloured, ColourMap
from skpoison.attacks._craft._sets import Ball


def _images(n, n_channels, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, n_channels, 4, 5, generator=generator, dtype=dtype)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_grid_of_zeros_changes_nothing(n_channels):
    colours = ColourMap(n_channels, 10, 0.0, 1.0)
    grids = torch.zeros(3, *colours.grid_shape)
    assert colours.moved(_images(3, n_channels), grids).abs().max() < 1e-6


def test_knots_count_along_each_channel():
    assert ColourMap(1, 10, 0.0, 1.0).grid_shape == (10, 1)
    assert ColourMap(3, 4, 0.0, 1.0).grid_shape == (4, 4, 4, 3)


def test_a_grid_linear_in_the_colour_is_a_linear_change_of_it():
    # interpolation is exact for it: U moves by a tenth of Y
    colours = ColourMap(3, 5, 0.0, 1.0)
    grids = torch.zeros(1, *colours.grid_shape)
    grids[..., 1] = 0.1 * torch.linspace(0, 1, 5)[:, None, None]
    X = _images(1, 3)
    red, green, blue = X[0]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    moved = colours.moved(X, grids)[0]
    # of full-range BT.601: U alone moves green down and blue up
    torch.testing.assert_close(moved[0], torch.zeros(4, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], -0.344136 * 0.1 * luma, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[2], 1.772 * 0.1 * luma, atol=1e-5, rtol=0)


def test_grey_images_move_between_the_knots_of_their_luminance():
    colours = ColourMap(1, 3, 0.0, 1.0)
    grids = torch.tensor([[[0.0], [0.2], [0.0]]])
    X = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).reshape(1, 1, 1, 5)
    moved = colours.moved(X, grids).flatten()
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.1, 0.2, 0.1, 0.0]))


def test_each_image_has_its_own_map():
    colours = ColourMap(1, 3, 0.0, 1.0)
    grids = torch.stack([torch.zeros(3, 1), torch.full((3, 1), 0.1)])
    moved = colours.moved(_images(1, 1).repeat(2, 1, 1, 1), grids)
    assert moved[0].abs().max() == 0
    torch.testing.assert_close(moved[1], torch.full((1, 4, 5), 0.1))


def test_units_of_the_images_scale_the_move():
    grids = 0.1 * torch.rand(2, 4, 1)
    X = _images(2, 1)
    small = ColourMap(1, 4, 0.0, 1.0).moved(X, grids)
    large = ColourMap(1, 4, -50.0, 50.0).moved(100 * X - 50, grids)
    torch.testing.assert_close(large, 100 * small, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_gradient_in_the_grid(n_channels):
    colours = ColourMap(n_channels, 3, 0.0, 1.0)
    X = _images(2, n_channels, dtype=torch.float64)
    grids = 0.1 * torch.rand(2, *colours.grid_shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda g: colours.moved(X, g), grids.requires_grad_()
    )


def test_limit_keeps_the_ball_and_the_colour_space():
    colours = ColourMap(3, 4, 0.0, 1.0)
    grids = colours.limit(torch.full((2, *colours.grid_shape), 1.0), 0.05)
    assert grids.max() <= 0.05 + 1e-7
    # the last knot of each channel is at the end of its range already
    assert grids[:, -1, :, :, 0].abs().max() < 1e-6
    assert grids[:, 0, :, :, 0].min() > 0.04


def test_roughness_is_zero_for_constant_grids_and_the_squared_slope_of_others():
    colours = ColourMap(1, 10, 0.0, 1.0)
    constant = torch.full((1, 10, 1), 0.03)
    assert colours.roughness(constant).item() == 0
    slope = (0.5 * torch.arange(10.0)).reshape(1, 10, 1)
    assert colours.roughness(slope).item() == pytest.approx(25.0)


def _pair(eps=0.1, color_eps=0.04):
    X = np.random.RandomState(0).rand(3, 3, 4, 5).astype(np.float32)
    ball = Ball.around(X, eps=eps, norm="linf", bounds=(0.0, 1.0))
    colours = ColourMap(3, 4, 0.0, 1.0)
    return ball, ColourBall(ball, colours, color_eps)


def test_pairs_are_projected_each_into_its_own_ball():
    ball, space = _pair()
    packed = 5 * torch.randn(3, space.unit.numel())
    delta, grids = space.split(space.project(packed))
    assert delta.abs().max() <= 0.1 + 1e-6
    assert grids.abs().max() <= 0.04 + 1e-6
    total = space.total(space.project(packed))
    assert (ball.x + total).min() >= 0 and (ball.x + total).max() <= 1
    assert total.abs().max() > 0.1  # colours reach beyond the additive ball


def test_unit_of_steps_is_that_of_each_part():
    _, space = _pair()
    delta, grids = space.split(space.unit[None])
    np.testing.assert_allclose(delta, 0.1, rtol=1e-6)
    np.testing.assert_allclose(grids, 0.04, rtol=1e-6)


class _Toy:
    """Wants every pixel brighter."""

    def state(self):
        return {}

    def restore(self, kept):
        pass

    def __call__(self, delta, step):
        return -delta.sum()[None], torch.full_like(delta, -1.0)


def test_coloured_objective_passes_the_gradient_to_both_parts():
    ball, space = _pair()
    start = space.start(torch.zeros_like(ball.x))
    plain, gradient = Coloured(_Toy(), space, 0.0)(start, 0)
    assert plain.shape == (1,) and plain.item() == pytest.approx(0, abs=1e-4)
    delta, grids = space.split(gradient)
    assert (delta == -1).all()
    assert grids[..., 0].sum() < 0  # more luminance is brighter
    step = space.project(start - 0.01 * gradient)
    assert Coloured(_Toy(), space, 0.0)(step, 0)[0] < plain
    rough = start + 0.01 * torch.randn(start.shape)
    value = Coloured(_Toy(), space, 0.0)(rough, 0)[0]
    penalised = Coloured(_Toy(), space, 2.0)(rough, 0)[0]
    expected = 2 * space.colours.roughness(space.split(rough)[1]).mean()
    assert (penalised - value).item() == pytest.approx(expected.item(), rel=1e-3)
