import numpy as np
import pytest

from skpoison.partition import _matching_costs
from skpoison.partition._matching_costs import (
    count_bits,
    disparity_costs,
    displacement_costs,
    matching_cost,
)

N_DISPARITIES = 5
SHAPE = (7, 11)


def pair(n_channels=3, seed=0):
    """Two unrelated images of whole levels, where ties occur."""
    rng = np.random.RandomState(seed)
    return rng.randint(0, 40, (2, *SHAPE, n_channels)) * 6 / 255


def luminance(image):
    weights = [0.299, 0.587, 0.114] if image.shape[2] == 3 else [1] * image.shape[2]
    return (image * weights).sum(axis=2) / sum(weights)


# ------------------------------------------------- one pixel at a time, as in the text


def at(values, y, x):
    """Return a value of an image whose border pixels go on outside."""
    height, width = values.shape[:2]
    return values[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]


def naive_census(left, right, y, x, d):
    if x - d < 0:
        return 0.5
    a, b = luminance(left), luminance(right)
    differ = 0
    for v in range(y - 2, y + 3):
        for s in range(-2, 3):
            darker_a = at(a, v, x + s) < a[y, x] - 1e-9
            darker_b = at(b, v, x - d + s) < b[y, x - d] - 1e-9
            differ += darker_a != darker_b
    return differ / 24


def naive_adgrad(left, right, y, x, d):
    if x - d < 0:
        return 0.1 * 7 + 0.9 * 2
    a, b = 255 * left.mean(axis=2), 255 * right.mean(axis=2)

    def slope(grey, x):
        low, high = max(x - 1, 0), min(x + 1, grey.shape[1] - 1)
        return (grey[y, high] - grey[y, low]) / (high - low)

    channels = range(left.shape[2])
    difference = np.mean([abs(left[y, x, c] - right[y, x - d, c]) for c in channels])
    gradient = abs(slope(a, x) - slope(b, x - d))
    return 0.1 * min(255 * difference, 7) + 0.9 * min(gradient, 2)


def naive_bt(left, right, y, x, d):
    n_channels = left.shape[2]
    if x - d < 0:
        return 255 * n_channels
    a, b = (np.rint(255 * image).astype(int) for image in (left, right))

    def reach(image, x, c):
        centre = image[y, x, c]
        halves = [(at(image, y, x + s)[c] + centre) // 2 for s in (-1, 1)]
        return min(centre, *halves), max(centre, *halves)

    total = 0
    for c in range(n_channels):
        low, high = reach(a, x, c)
        low_2, high_2 = reach(b, x - d, c)
        value, value_2 = a[y, x, c], b[y, x - d, c]
        forth = max(0, value - high_2, low_2 - value)
        back = max(0, value_2 - high, low - value_2)
        total += min(forth, back)
    return total


def naive_gradient(left, right, y, x, d):
    if x - d < 0:
        return 0.2
    along = sum(
        abs(
            (at(left, y, x + 1)[c] - left[y, x, c])
            - (at(right, y, x - d + 1)[c] - right[y, x - d, c])
        )
        for c in range(left.shape[2])
    )
    down = sum(
        abs(
            (at(left, y + 1, x)[c] - left[y, x, c])
            - (at(right, y + 1, x - d)[c] - right[y, x - d, c])
        )
        for c in range(left.shape[2])
    )
    return min(along, 0.1) + min(down, 0.1)


NAIVE = {
    "census": naive_census,
    "adgrad": naive_adgrad,
    "bt": naive_bt,
    "gradient": naive_gradient,
}


@pytest.mark.parametrize("n_channels", [1, 3, 4])
@pytest.mark.parametrize("cost", NAIVE)
def test_against_loops(cost, n_channels):
    left, right = pair(n_channels)
    if cost in ("adgrad", "gradient"):  # else most are at their largest
        left, right = left / 20, right / 20
    costs = matching_cost(left, right, N_DISPARITIES, cost)
    wanted = np.array(
        [
            [
                [NAIVE[cost](left, right, y, x, d) for d in range(N_DISPARITIES)]
                for x in range(SHAPE[1])
            ]
            for y in range(SHAPE[0])
        ]
    )
    assert len(np.unique(wanted)) > 10
    np.testing.assert_allclose(costs, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cost", NAIVE)
def test_nothing_costs_nothing(cost):
    left = pair()[0]
    right = np.roll(left, -2, axis=1)
    costs = matching_cost(left, right, 4, cost)
    np.testing.assert_array_equal(costs[2:-2, 4:-3, 2], 0)
    assert (costs[2:-2, 4:-3, [0, 1, 3]].mean(axis=(0, 1)) > 0.05 * costs.max()).all()


@pytest.mark.parametrize("cost", NAIVE)
def test_more_disparities_than_columns(cost):
    left, right = pair()
    costs = matching_cost(left, right, SHAPE[1] + 3, cost)
    assert (costs[:, :, SHAPE[1] :] == costs[0, 0, -1]).all()


def test_levels_that_are_equal_but_for_rounding():
    rng = np.random.RandomState(0)
    levels = rng.randint(0, 4, (20, 30, 1))
    grey = np.repeat(levels * 50, 3, axis=2) / 255  # sums of weights round off
    single = levels * 50 / 255
    np.testing.assert_array_equal(
        matching_cost(grey, grey, 4), matching_cost(single, single, 4)
    )


def test_bits():
    rng = np.random.RandomState(0)
    codes = rng.randint(0, 2**32, 1000, dtype=np.uint64).astype(np.uint32)
    wanted = [bin(code).count("1") for code in codes.tolist()]
    np.testing.assert_array_equal(count_bits(codes), wanted)


def test_bits_without_numpy_2(monkeypatch):
    left, right = pair()
    wanted = matching_cost(left, right, N_DISPARITIES)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    test_bits()
    np.testing.assert_array_equal(matching_cost(left, right, N_DISPARITIES), wanted)


def test_a_callable():
    left, right = pair()

    def cost(a, b, n):
        assert a is left and n == N_DISPARITIES
        return matching_cost(a, b, n, "adgrad") * 2

    np.testing.assert_array_equal(
        matching_cost(left, right, N_DISPARITIES, cost),
        matching_cost(left, right, N_DISPARITIES, "adgrad") * 2,
    )


@pytest.mark.parametrize(
    "volume, match",
    [
        (np.zeros((*SHAPE, 4)), r"shape \(7, 11, 5\), got \(7, 11, 4\)"),
        (np.full((*SHAPE, 5), np.nan), "finite"),
        (np.full((*SHAPE, 5), "a"), "finite"),
    ],
    ids=["shape", "NaN", "text"],
)
def test_a_bad_callable(volume, match):
    with pytest.raises(ValueError, match=match):
        matching_cost(*pair(), 5, lambda left, right, n: volume)


def test_an_unknown_cost():
    with pytest.raises(ValueError, match="cost must be one of 'census'"):
        matching_cost(*pair(), 5, "ssd")


# ------------------------------------------------------------------- between pixels


@pytest.mark.parametrize("cost", [*NAIVE, lambda *a: matching_cost(*a, "census")])
def test_whole_disparities_are_not_interpolated(cost):
    left, right = pair()
    some = list(disparity_costs(left, right, [3.0, 1.5, 1.0], cost))
    whole = matching_cost(left, right, 4, cost)
    np.testing.assert_array_equal(some[0], whole[:, :, 3])
    np.testing.assert_array_equal(some[2], whole[:, :, 1])


def test_between_two_disparities():
    left = np.sin(np.arange(40) / 3)[None, :, None] * np.ones((6, 1, 1)) / 4 + 0.5
    right = np.sin((np.arange(40) + 1.5) / 3)[None, :, None] * np.ones((6, 1, 1))
    right = right / 4 + 0.5
    values = np.arange(0, 3.25, 0.25)
    costs = np.stack(list(disparity_costs(left, right, values, "gradient")))
    assert (values[costs[:, :, 5:-2].mean(axis=(1, 2)).argmin()]) == 1.5
    # 1.5 pixels to the left of the second column is nothing
    assert (costs[6, :, :2] == costs.max()).all() and (costs[6, :, 2:] < 0.2).all()


# ------------------------------------------------------------------------------ flow


@pytest.mark.parametrize("radius", [0, 2, 8])
def test_displacements_against_loops(radius):
    first, second = pair(2) / 2
    costs = list(displacement_costs(first, second, radius))
    side = 2 * radius + 1
    assert len(costs) == side**2
    height, width = SHAPE
    for label in range(0, side**2, max(1, side**2 // 40)):
        dy, dx = label // side - radius, label % side - radius
        wanted = np.full(SHAPE, 0.15)
        for y in range(max(0, -dy), min(height, height - dy)):
            for x in range(max(0, -dx), min(width, width - dx)):
                difference = abs(second[y + dy, x + dx] - first[y, x]).mean()
                wanted[y, x] = min(difference, 0.15)
        np.testing.assert_allclose(costs[label], wanted, atol=1e-6)


def test_every_cost_is_documented():
    from skpoison.partition import LiftedStereo

    for cost in _matching_costs.COSTS:
        assert f'- "{cost}": ' in LiftedStereo.__doc__
