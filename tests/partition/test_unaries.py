import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

from skpoison.partition import PartitionGraph
from skpoison.partition._unaries import (
    GaussianUnary,
    GivenUnary,
    KMeansUnary,
    make_unary,
    unary_costs,
)


@pytest.fixture
def rows(random_blobs):
    return random_blobs[0]


@pytest.fixture
def random_blobs():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=120)
    centers = np.array([[0.0, 0.0], [5.0, 5.0], [-4.0, 1.0]])
    return centers[truth] + 0.3 * rng.normal(size=(120, 2)), truth


def full(model, rows):
    return np.stack([model.column(rows, k) for k in range(model.n_labels)], axis=1)


def test_kmeans_costs_are_squared_distances(rows):
    model = KMeansUnary().fit(rows, 3, 3, 0)
    expected = [[np.sum((x - c) ** 2) for c in model.centers] for x in rows]
    np.testing.assert_allclose(full(model, rows), expected, rtol=1e-13)
    assert (np.diff(model.centers.mean(axis=1)) > 0).all()


def test_kmeans_costs_keep_their_digits_far_from_the_origin(rows):
    model = KMeansUnary().fit(rows, 3, 3, 0)
    far = KMeansUnary()
    far.centers = model.centers + 2.0**20
    np.testing.assert_allclose(full(far, rows + 2.0**20), full(model, rows), rtol=1e-6)


def test_gmm_costs_are_negative_log_likelihoods(rows):
    model = GaussianUnary().fit(rows, 3, 3, 0)
    for k in range(3):
        covariance = model.roots[k] @ model.roots[k].T
        density = multivariate_normal(model.centers[k], covariance)
        np.testing.assert_allclose(
            model.column(rows, k), -density.logpdf(rows), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
def test_labels_of_blobs_are_found(kind, random_blobs):
    rows, truth = random_blobs
    model = make_unary(kind).fit(rows, 3, 3, 0)
    found = full(model, rows).argmin(axis=1)
    # in the order of the means: -1.5, 0, 5
    np.testing.assert_array_equal(found, np.array([1, 2, 0])[truth])


@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
def test_an_update_fits_the_labels_best(kind, rows):
    model = make_unary(kind).fit(rows, 3, 1, 0)
    labels = np.random.default_rng(1).integers(2, size=len(rows))  # 2 is without rows

    def cost(model):
        return full(model, rows)[np.arange(len(rows)), labels].sum()

    updated = model.update(rows, labels)
    assert cost(updated) < cost(model)
    np.testing.assert_array_equal(updated.centers[2], model.centers[2])
    for label in (0, 1):
        np.testing.assert_allclose(
            updated.centers[label], rows[labels == label].mean(axis=0)
        )
        moved = make_unary(kind)
        moved.__dict__.update(updated.__dict__)
        moved.centers = updated.centers.copy()
        moved.centers[label] += [0.01, -0.01]
        assert cost(moved) > cost(updated)


def test_costs_of_a_cell_are_sums_over_its_pixels(rows):
    cells = np.arange(120).reshape(10, 12) % 7
    graph = PartitionGraph.from_grid((10, 12)).contract(cells)
    model = KMeansUnary().fit(rows, 3, 1, 0)
    table = full(model, rows)
    expected = [table[cells.ravel() == c].sum(axis=0) for c in range(7)]
    np.testing.assert_allclose(unary_costs(model, rows, graph), expected)
    grid = PartitionGraph.from_grid((10, 12))
    np.testing.assert_array_equal(unary_costs(model, rows, grid), table)
    assert unary_costs(model, rows.astype("f4"), graph).dtype == np.float64


def test_a_function_gives_the_costs():
    X = np.random.default_rng(0).random((4, 5, 2))
    model = GivenUnary(lambda image: np.stack([image[..., 0], 1 - image[..., 1]], -1))
    rows = model.prepare(X)
    model.fit(rows, None, 1, 0)
    np.testing.assert_array_equal(rows[:, 1], 1 - X[..., 1].ravel())
    assert model.n_labels == 2


@pytest.mark.parametrize(
    "function, match",
    [
        (lambda X: X[:3], "costs of 6 rows.*got shape"),
        (lambda X: X[:, 0], "one column a label, got shape"),
        (lambda X: X * np.nan, "NaN"),
    ],
    ids=["few", "flat", "nan"],
)
def test_a_function_that_gives_something_else(function, match):
    with pytest.raises(ValueError, match=match):
        GivenUnary(function).prepare(np.ones((6, 2)))


def test_a_function_that_changes_its_mind():
    model = GivenUnary(lambda X: X)
    model.fit(model.prepare(np.ones((6, 2))), None, 1, 0)
    with pytest.raises(ValueError, match="3 labels, but 2 at fit"):
        model.prepare(np.ones((6, 3)))


@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
def test_fewer_rows_than_labels(kind):
    with pytest.raises(ValueError, match="n_labels=3 needs.*n_samples=2"):
        make_unary(kind).fit(np.eye(2), 3, 1, 0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
def test_constant_rows(kind):
    rows = np.full((20, 3), 0.5)
    model = make_unary(kind).fit(rows, 4, 2, 0)
    table = full(model, rows)
    assert np.isfinite(table).all()
    assert len(np.unique(table.argmin(axis=1))) == 1
    assert np.ptp(table, axis=0).max() == 0


def test_fewer_distinct_rows_than_labels_is_told():
    rows = np.repeat([[0.0], [1.0]], 10, axis=0)
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        model = KMeansUnary().fit(rows, 4, 1, 0)
    assert full(model, rows).min(axis=1).max() == 0


def test_unknown_name():
    with pytest.raises(ValueError, match="unary must be one of 'kmeans'"):
        make_unary("mean")
