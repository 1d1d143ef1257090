import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.inversion import invert_linear


def random_mlp(seed, dtype):
    """Return a random network of one to four layers, and what its first one is."""
    rng = np.random.RandomState(seed)
    torch.manual_seed(seed)
    widths = [rng.randint(5, 40) for _ in range(rng.randint(1, 5))] + [4]
    unit = [nn.Tanh, nn.ReLU][seed % 2]
    n_inputs, layers = rng.randint(3, 60), []
    for n_in, n_out in zip([n_inputs, *widths[:-1]], widths, strict=True):
        layers += [nn.Linear(n_in, n_out), unit()]
    return nn.Sequential(*layers[:-1]).to(dtype), n_inputs


def first_gradient(net, X, y):
    loss = F.cross_entropy(net(X), y)
    return torch.autograd.grad(loss, [net[0].weight, net[0].bias])


@pytest.mark.parametrize(
    "dtype, error", [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["32", "64"]
)
@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed, dtype, error):
    net, n_inputs = random_mlp(seed, dtype)
    x = torch.randn(1, n_inputs, dtype=dtype)
    weight, bias = first_gradient(net, x, torch.tensor([seed % 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = invert_linear(weight, bias)
    assert found.shape == (n_inputs,) and found.dtype == np.float64
    assert abs(found - x[0].double().numpy()).max() <= error
    np.testing.assert_array_equal(invert_linear(weight.numpy(), bias.numpy()), found)


def test_any_layer_of_a_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    x = torch.rand(1, 1, 6, 6)
    loss = F.cross_entropy(net(x), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, [net[3].weight, net[3].bias])
    expected = net[:3](x)[0].detach().numpy()
    np.testing.assert_allclose(invert_linear(*gradients), expected, atol=1e-6)


def test_rows_without_gradient_and_tiny_gradients():
    x = np.array([0.3, -2.0, 5.0])
    delta = np.array([0.0, 1e-200, 0.0, -3e-200])
    np.testing.assert_allclose(invert_linear(np.outer(delta, x), delta), x)


def test_least_squares_averages_noise():
    rng = np.random.RandomState(0)
    x, delta = rng.rand(50), rng.randn(400)
    weight = np.outer(delta, x) + 0.1 * rng.randn(400, 50)
    row = abs(delta).argmax()
    with pytest.warns(UserWarning, match="not of rank one"):
        found = invert_linear(weight, delta)
    expected = np.linalg.lstsq(delta[:, None], weight, rcond=None)[0][0]
    np.testing.assert_allclose(found, expected)
    best_row = weight[row] / delta[row]
    assert np.linalg.norm(found - x) < 0.5 * np.linalg.norm(best_row - x)


def test_half_precision_is_no_batch():
    x, delta = torch.rand(20), torch.randn(30)
    for dtype in (torch.float16, torch.bfloat16):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = invert_linear(torch.outer(delta, x).to(dtype), delta.to(dtype))
        assert abs(found - x.numpy()).max() < 2 * torch.finfo(dtype).eps


# ---------------------------------------------------------------------------- batches


def test_a_batch_is_a_mixture():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))
    X = torch.rand(3, 10)
    weight, bias = first_gradient(net, X, torch.tensor([0, 1, 2]))
    with pytest.warns(UserWarning, match="of a batch"):
        found, candidates = invert_linear(weight, bias, return_candidates=True)
    assert candidates.shape == (0, 10)  # every sample reaches every tanh
    # the least-squares mixture lies in the affine hull of the samples
    weights = np.linalg.lstsq(
        np.vstack([X.T, np.ones(3)]), np.append(found, 1.0), rcond=None
    )[0]
    np.testing.assert_allclose(weights @ X.numpy(), found, atol=1e-4)


def test_rows_that_one_sample_has_to_itself():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(30, 300), nn.ReLU(), nn.Linear(300, 5)).double()
    X = torch.randn(4, 30, dtype=torch.float64)
    weight, bias = first_gradient(net, X, torch.tensor([0, 1, 2, 2]))
    with pytest.warns(UserWarning, match="of a batch"):
        _, candidates = invert_linear(weight, bias, return_candidates=True)
    distances = np.linalg.norm(candidates[:, None] - X.numpy(), axis=2)
    assert len(candidates) == 4
    assert distances.min(axis=1).max() < 1e-9 and distances.min(axis=0).max() < 1e-9


# ------------------------------------------------------------------------ without bias


@pytest.mark.parametrize(
    "bounds, x, expected",
    [
        ((0, 1), [0.2, 1.0, 0.5], [0.2, 1.0, 0.5]),
        ((0, 1), [0.2, 0.5, 0.0], [0.4, 1.0, 0.0]),  # the scale is a guess
        ((-3, 0), [-3.0, -1.0, 0.0], [-3.0, -1.0, 0.0]),
        (([0, 0, 0], [1, 4, 9]), [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_box_gives_sign_and_scale(bounds, x, expected, sign):
    weight = np.outer(sign * np.array([0.3, -0.1, -0.2, 0.05]), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = invert_linear(weight, bounds=bounds)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_without_bias_and_box():
    weight = np.outer([0.3, -0.1, -0.2], [3.0, 4.0])
    with pytest.warns(UserWarning, match="scale and sign can't be told"):
        found = invert_linear(weight)
    np.testing.assert_allclose(abs(found), [0.6, 0.8])
    with pytest.warns(UserWarning, match="the sign is a guess"):
        found = invert_linear(weight, bounds=(-2, 2))
    np.testing.assert_allclose(abs(found), [1.5, 2.0])
    with pytest.warns(UserWarning, match="unbounded box"):
        found = invert_linear(weight, bounds=(0, np.inf))
    np.testing.assert_allclose(found, [0.6, 0.8])


def test_the_result_is_clipped():
    x, delta = np.array([-0.1, 0.5, 1.2]), np.array([1.0, -2.0])
    found = invert_linear(np.outer(delta, x), delta, bounds=(0, 1))
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0])


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "weight, bias, params, error, match",
    [
        (np.ones((2, 3)), np.zeros(2), {}, ValueError, "bias_grad is zero everywhere"),
        (np.zeros((2, 3)), None, {}, ValueError, "weight_grad is zero everywhere"),
        (np.ones((2, 3)), np.ones(3), {}, ValueError, "one entry a row"),
        (np.ones(3), np.ones(3), {}, ValueError, "weight_grad must have 2 axes"),
        (np.ones((2, 3)), [[1, 1]], {}, ValueError, "bias_grad must have 1 axes"),
        (np.full((2, 3), np.nan), np.ones(2), {}, ValueError, "not finite"),
        (np.ones((2, 3)), [1, np.inf], {}, ValueError, "bias_grad holds values"),
        ([["a"]], [1], {}, TypeError, "must hold numbers"),
        (np.ones((2, 3)), np.ones(2), {"bounds": 3}, ValueError, "bounds must be"),
        (np.eye(2), None, {"return_candidates": True}, ValueError, "needs bias_grad"),
    ],
)
def test_bad_input(weight, bias, params, error, match):
    with pytest.raises(error, match=match):
        invert_linear(weight, bias, **params)
