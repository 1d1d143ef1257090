"""The two kernels and the geometry, against plain float64."""

import numpy as np
import pytest
import torch

from skpoison.federated._aggregators import _matrix
from skpoison.federated._aggregators._geometry import Geometry
from skpoison.federated._aggregators._matrix import (
    UpdateMatrix,
    combine,
    coordinatewise,
    gram,
    row_maxima,
)

D = 12345  # three tiles


def updates(n=9, d=D, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def distances(products, n):
    with np.errstate(invalid="ignore"):  # lines of rows with infinity
        return Geometry(products, n).sq_distances


def plain(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return np.stack([((rows - row) ** 2).sum(axis=1) for row in rows])


def on_accelerator(monkeypatch):
    """Let tiles stay tensors, as those of an accelerator do."""
    monkeypatch.setattr(_matrix, "host", lambda array: array)


@pytest.fixture(params=["array", "tensor", "accelerator", "memmap", "blocks"])
def matrix_of(request, monkeypatch, tmp_path):
    """The same rows in each form that they may come in."""

    def wrap(rows):
        if request.param == "array":
            return UpdateMatrix.of(rows)
        if request.param in ("tensor", "accelerator"):
            return UpdateMatrix.of(torch.from_numpy(rows))
        if request.param == "memmap":
            path = tmp_path / "updates"
            rows.tofile(path)
            return UpdateMatrix.of(np.memmap(path, rows.dtype, "r", shape=rows.shape))
        cuts = [c for c in (1, 300, 301, 9000) if c < rows.shape[1]]
        blocks = np.split(rows, cuts, axis=1)
        return UpdateMatrix(lambda: iter(blocks), *rows.shape, as_tensor=False)

    if request.param == "accelerator":
        on_accelerator(monkeypatch)
    return wrap


# --------------------------------------------------------------------- inner products


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 5, 5000, 5001, D])
def test_distances_norms_and_products(matrix_of, dtype, d):
    rows = updates(d=d, dtype=dtype)
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    geometry = Geometry(gram(matrix_of(rows)), 9)
    exact = plain(rows)
    np.testing.assert_allclose(
        geometry.sq_distances, exact, rtol=tolerance, atol=tolerance * exact.max()
    )
    rows = rows.astype(np.float64)
    scale = (rows**2).sum(axis=1).max()
    np.testing.assert_allclose(geometry.inner, rows @ rows.T, atol=tolerance * scale)
    np.testing.assert_allclose(
        geometry.norms**2, (rows**2).sum(axis=1), atol=tolerance * scale
    )
    assert (np.diag(geometry.sq_distances) == 0).all()


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e10, 1e18, 1e30])
def test_any_unit_of_float32(matrix_of, scale):
    rows = updates() * np.float32(scale)
    found = distances(gram(matrix_of(rows)), 9)
    np.testing.assert_allclose(found, plain(rows), rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-130, 1e140])
def test_any_unit_of_float64(scale):
    rows = updates(dtype=np.float64) * scale
    found = distances(gram(UpdateMatrix.of(rows)), 9)
    np.testing.assert_allclose(found, plain(rows), rtol=1e-12)


def test_values_at_the_ends_of_float32():
    rows = updates(d=600)
    rows *= np.float32(3.4e38) / np.abs(rows).max()  # differences overflow
    found = distances(gram(UpdateMatrix.of(rows)), 9)
    np.testing.assert_allclose(found, plain(rows), rtol=2e-6)


def test_what_rows_have_in_common_costs_no_digits(matrix_of):
    """Products of the raw rows give distances wrong by a half here, and below zero."""
    rows = (1e3 + updates()).astype(np.float32)
    exact = plain(rows)
    np.testing.assert_allclose(distances(gram(matrix_of(rows)), 9), exact, rtol=2e-6)
    raw = rows @ rows.T
    naive = np.add.outer(np.diag(raw), np.diag(raw)) - 2 * raw
    assert np.abs(naive - exact).max() > 0.01 * exact.max()


@pytest.mark.parametrize("row", range(9))
def test_a_reference_that_is_attacked_beyond_the_first_tile(row):
    """Whichever row is taken first: one column of it, in the last tile, is far off."""
    rows = updates()
    rows[row, -1] = 1e5
    found = distances(gram(UpdateMatrix.of(rows)), 9)
    left = np.arange(9) != row
    np.testing.assert_allclose(
        found[np.ix_(left, left)], plain(rows)[np.ix_(left, left)], rtol=1e-5
    )
    assert found[row, left] == pytest.approx(1e10, rel=1e-3)


@pytest.mark.parametrize("value", [1e10, 1e18, 1e30, 3e38, np.inf, np.nan])
def test_huge_rows_leave_the_others_their_digits(matrix_of, value):
    rows = updates()
    rows[2] = value * np.random.default_rng(1).uniform(0.5, 1, size=D)
    rows[5, 7777] = -value
    with np.errstate(all="ignore"):
        products = gram(matrix_of(rows))
        exact = plain(rows)
    found = np.diag(products)[:9]
    bad = [2, 5]
    assert np.isfinite(found[bad]).all() == (value < np.inf)
    left = np.setdiff1d(np.arange(9), bad)
    part = np.ix_(left, left)
    np.testing.assert_allclose(distances(products, 9)[part], exact[part], rtol=2e-6)
    if value < np.inf:
        np.testing.assert_allclose(
            distances(products, 9)[bad][:, left], exact[bad][:, left], rtol=1e-5
        )


def test_huge_rows_of_float64():
    rows = updates(dtype=np.float64)
    rows[0] = 1e300
    rows[1] = 1e100
    products = gram(UpdateMatrix.of(rows))
    assert not np.isfinite(products[0, 0]) and np.isfinite(products[1, 1])
    left = products[1:, 1:]
    np.testing.assert_allclose(distances(left, 8)[1:, 1:], plain(rows[2:]))


def test_no_row_is_usable():
    rows = np.full((3, 7), np.nan, np.float32)
    assert not np.isfinite(np.diag(gram(UpdateMatrix.of(rows)))[:3]).any()


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_all_rows_equal(matrix_of, value):
    geometry = Geometry(gram(matrix_of(np.full((9, 400), value, np.float32))), 9)
    np.testing.assert_array_equal(geometry.sq_distances, 0)
    np.testing.assert_allclose(geometry.norms, 20 * value)


def test_near_copies_keep_their_distance():
    rows = updates(dtype=np.float32)
    rows[3:6] = rows[3] + 1e-3 * updates(3, seed=1)
    found = distances(gram(UpdateMatrix.of(rows)), 9)
    np.testing.assert_allclose(found, plain(rows), rtol=1e-4, atol=1e-6)


def test_extra_rows_and_left_out_rows(matrix_of):
    rows, extra = updates(11), updates(2, seed=5) * 3
    matrix = matrix_of(rows).without([0, 4]).without([8])
    left = rows[[1, 2, 3, 5, 6, 7, 8, 9]]
    assert len(matrix) == 8
    geometry = Geometry(gram(matrix, list(extra)), 8)
    exact = plain([*left, *extra, np.zeros(D)])
    np.testing.assert_allclose(geometry.sq_distances, exact[:8, :8], rtol=2e-6)
    np.testing.assert_allclose(geometry.extra_sq_distances, exact[8:10, :8], rtol=2e-6)
    np.testing.assert_allclose(geometry.norms**2, exact[-1, :-1], rtol=2e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_some_columns(matrix_of, scale):
    rows, extra = updates() * np.float32(scale), updates(1, seed=5) * np.float32(scale)
    columns = np.random.default_rng(0).random(D) < 0.1
    columns[5000:10000] = False
    found = distances(gram(matrix_of(rows), extra, columns=columns), 10)
    exact = plain(np.vstack([rows, extra])[:, columns])
    np.testing.assert_allclose(found, exact, rtol=2e-6)


def test_nothing_given_is_changed(matrix_of):
    rows = updates()
    rows[1] = 1e30
    before = rows.copy()
    rows.flags.writeable = False
    matrix = UpdateMatrix.of(rows)
    gram(matrix)
    combine(matrix, np.ones(9))
    coordinatewise(matrix, lambda ordered: ordered[:, 0])
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_tile_is_held(order, monkeypatch):
    """Not a second matrix: the largest array made is one tile with the origin."""
    made = []
    plain_empty = _matrix.empty_like
    monkeypatch.setattr(
        _matrix,
        "empty_like",
        lambda tile, shape: made.append(shape) or plain_empty(tile, shape),
    )
    rows = np.asarray(updates(), order=order)
    np.testing.assert_allclose(
        distances(gram(UpdateMatrix.of(rows)), 9), plain(rows), rtol=2e-6
    )
    assert made == [(10, D // 3)]


# ---------------------------------------------------------------------- weighted sums


@pytest.mark.parametrize("weights", ["one", "some", "all"])
def test_weighted_sums(matrix_of, weights):
    rows, extra = updates(), updates(2, seed=5)
    share = np.random.default_rng(1).normal(size=(3, 11))
    if weights != "all":
        share[:, [0, 3, 4, 10]] = 0
    if weights == "one":
        share = share[1]
    matrix = matrix_of(rows)
    found = matrix.join(combine(matrix, share, list(extra)))
    assert isinstance(found, torch.Tensor) == matrix.as_tensor
    exact = share @ np.vstack([rows, extra]).astype(np.float64)
    assert found.dtype in (np.float32, torch.float32)
    np.testing.assert_allclose(np.asarray(found), exact, rtol=1e-4, atol=1e-5)


def test_rows_without_weight_are_not_read():
    rows = updates()
    rows[[2, 6]] = np.nan
    weights = np.ones(9)
    weights[[2, 6]] = 0
    (*parts,) = combine(UpdateMatrix.of(rows), weights)
    exact = np.delete(rows, [2, 6], axis=0).sum(axis=0)
    np.testing.assert_allclose(np.concatenate(parts), exact, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------- by coordinates


def test_coordinates_sorted(matrix_of):
    rows = updates()
    matrix = matrix_of(rows)
    found = matrix.join(coordinatewise(matrix, lambda ordered: ordered[:, 4]))
    np.testing.assert_array_equal(np.asarray(found), np.median(rows, axis=0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite(matrix_of, value):
    rows = updates()
    rows[3, D - 1] = value
    matrix = matrix_of(rows)
    assert coordinatewise(matrix, lambda ordered: ordered[:, 4]) is None
    largest = row_maxima(matrix)
    assert np.flatnonzero(~np.isfinite(largest)).tolist() == [3]
    left = np.arange(9) != 3
    np.testing.assert_array_equal(largest[left], np.abs(rows[left]).max(axis=1))


# ------------------------------------------------------------------------- geometry


def test_combinations_of_rows():
    rng = np.random.default_rng(0)
    rows, extra = updates(8, 50, np.float64) + 7, updates(2, 50, np.float64, seed=1)
    products = gram(UpdateMatrix.of(rows), list(extra))
    first, second = rng.normal(size=(5, 8)), rng.normal(size=(3, 5))
    geometry = Geometry(products, 8).mapped(first).mapped(second)
    new = second @ first @ rows
    exact = plain([*new, *extra, np.zeros(50)])
    np.testing.assert_allclose(geometry.sq_distances, exact[:3, :3], rtol=1e-9)
    np.testing.assert_allclose(geometry.extra_sq_distances, exact[3:5, :3], rtol=1e-9)
    np.testing.assert_allclose(geometry.norms**2, exact[-1, :-1], rtol=1e-9)
    weights = rng.normal(size=5)
    given = geometry.to_given(weights)
    np.testing.assert_allclose(
        given @ np.vstack([rows, extra]), weights @ np.vstack([new, extra])
    )
    centre = weights @ np.vstack([new, extra])
    np.testing.assert_allclose(
        geometry.sq_distance_to_mean(weights), ((new - centre) ** 2).sum(axis=1)
    )
