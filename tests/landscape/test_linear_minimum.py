import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from skpoison.landscape import _linear_minimum, linear_minimum


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return PCA(8, whiten=True, random_state=0).fit_transform(X), y


def gradient(found, X, y, loss):
    """Return the norm of the gradient by autograd."""
    X = torch.from_numpy(np.asarray(X, float)).flatten(1)
    coef = torch.tensor(found.coef, requires_grad=True)
    intercept = torch.tensor(found.intercept, requires_grad=True)
    value = loss(X @ coef.T + intercept, torch.from_numpy(y))
    parts = torch.autograd.grad(value, [coef, intercept])
    norm = torch.cat([p.flatten() for p in parts]).norm()
    return value.item(), norm.item()


def test_it_is_the_logistic_regression_without_a_penalty(digits):
    X, y = digits
    found = linear_minimum(X, y)
    value, norm = gradient(found, X, y, nn.functional.cross_entropy)
    assert value == pytest.approx(found.loss, rel=1e-12)
    assert norm < 1e-8 and found.grad_norm < 1e-8 and found.n_iter < 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the option's name is on the move
        peer = LogisticRegression(C=np.inf, tol=1e-9, max_iter=3000).fit(X, y)
    assert found.loss <= log_loss(y, peer.predict_proba(X)) + 1e-12
    np.testing.assert_allclose(found.coef, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(found.intercept, peer.intercept_, atol=2e-3)
    np.testing.assert_allclose(found.coef.sum(0), 0, atol=1e-12)
    np.testing.assert_array_equal(found.classes, np.arange(10))


def test_two_classes_with_names():
    X, y = load_breast_cancer(return_X_y=True)
    X = PCA(5, whiten=True, random_state=0).fit_transform(X)
    labels = np.array(["mild", "bad"])[y]
    found = linear_minimum(X, labels)
    assert found.classes.tolist() == ["bad", "mild"]
    assert gradient(found, X, 1 - y, nn.functional.cross_entropy)[1] < 1e-8
    np.testing.assert_allclose(found.coef[0], -found.coef[1])
    scores = X @ found.coef.T + found.intercept
    assert (found.classes[scores.argmax(1)] == labels).mean() > 0.9


def separable(X, y):
    """Tell by a linear program whether some direction never lowers any margin."""
    n_classes, Z = y.max() + 1, np.column_stack([X, np.ones(len(X))])
    rows = []
    for z, label in zip(Z, y, strict=True):
        for other in set(range(n_classes)) - {int(label)}:
            row = np.zeros((n_classes, Z.shape[1]))
            row[label], row[other] = z, -z
            rows.append(row.ravel())
    margins = np.array(rows)
    best = linprog(-margins.sum(0), -margins, np.zeros(len(margins)), bounds=(-1, 1))
    return -best.fun > 1e-6


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_no_minimum_exactly_where_a_linear_program_says_so(n_classes):
    rng = np.random.RandomState(n_classes)
    outcomes = []
    for trial in range(25):
        X = rng.randn(12 * n_classes, 2)
        y = np.arange(len(X)) % n_classes
        if trial % 3 == 0:  # integers: rows on the boundary, so weak separation
            X = np.round(X)
        X[:, 0] += rng.uniform(0.5, 2.5) * y
        if trial % 4 == 0:
            X[y == 1, 1] += 8  # one class from the rest
        try:
            found = linear_minimum(X, y)
        except ValueError as error:
            assert "linearly separable, at least" in str(error)  # proven
            outcomes.append(True)
        else:
            assert gradient(found, X, y, nn.functional.cross_entropy)[1] < 1e-8
            outcomes.append(False)
        assert outcomes[-1] == separable(X, y), trial
    assert 3 < sum(outcomes) < 22


@pytest.mark.parametrize("n_rows, gap", [(2000, 1), (20000, 3)])
def test_a_small_overlap_has_a_minimum_with_large_scores(n_rows, gap):
    """Scores of thousands of rows far from the boundary are no sign of separation."""
    x = np.sort(np.random.RandomState(3).randn(n_rows))
    y = (x > 0).astype(int)
    y[np.searchsorted(x, 0) + gap] = 0
    found = linear_minimum(x[:, None], y)
    value, norm = gradient(found, x[:, None], y, nn.functional.cross_entropy)
    assert norm < 1e-8 and value == pytest.approx(found.loss, rel=1e-10)
    assert abs(np.diff(found.coef, axis=0) * x.max()).max() > 1000
    for factor in (0.95, 1.05):  # along the steepest valley too it is the least
        margin = (found.coef[1] - found.coef[0]) * x + np.diff(found.intercept)
        loss = np.logaddexp(0, factor * np.where(y == 1, -margin, margin)).mean()
        assert loss > found.loss * (1 + 1e-5)


def test_an_overlap_at_the_limit_of_float64():
    x = np.r_[np.linspace(-1, 0.15, 100), np.linspace(0.25, 1, 100), 0.2, 0.2]
    y = np.repeat([0, 1, 0, 1], [100, 100, 1, 1])
    x[-2] += 1e-8
    found = linear_minimum(x[:, None], y)
    assert found.loss == pytest.approx(0.00686285, abs=1e-8)
    assert gradient(found, x[:, None], y, nn.functional.cross_entropy)[1] < 1e-8
    x[-2] = 0.2 - 1e-8
    with pytest.raises(ValueError, match="linearly separable, at least"):
        linear_minimum(x[:, None], y)
    x[-2] = 0.2  # weakly: two rows on the boundary
    with pytest.raises(ValueError, match="linearly separable, at least"):
        linear_minimum(x[:, None], y)


def test_what_is_not_proven_is_not_said(monkeypatch):
    monkeypatch.setattr(_linear_minimum, "_ENDLESS_STEPS", 0)
    X = np.r_[np.linspace(-1, 0.15, 100), np.linspace(0.25, 1, 100), 0.2 + 1e-8, 0.2]
    y = np.repeat([0, 1, 0, 1], [100, 100, 1, 1])
    with pytest.raises(ValueError, match="separable, or too nearly so for float64"):
        linear_minimum(X[:, None], y)


def test_real_data_that_are_separable(digits):
    X, y = load_digits(return_X_y=True)
    with pytest.raises(ValueError, match=r"linearly separable.*PCA"):
        linear_minimum(X, y)
    X, y = digits
    apart = np.where(y == 3, 100.0, 0.0)[:, None]
    with pytest.raises(ValueError, match="at least one class from the rest"):
        linear_minimum(np.hstack([X, apart]), y)


def test_features_that_say_nothing_new(digits):
    X, y = digits
    extra = np.column_stack([X, X[:, 0] + 2 * X[:, 1], np.full(len(X), 0.1), X[:, 3]])
    found, plain = linear_minimum(extra, y), linear_minimum(X, y)
    assert found.loss == pytest.approx(plain.loss, rel=1e-10)
    assert found.grad_norm < 1e-8
    assert (found.coef[:, 9] == 0).all()
    # of equal columns each takes half, the shortest that does the same
    np.testing.assert_allclose(found.coef[:, 3], found.coef[:, 10])
    np.testing.assert_allclose(2 * found.coef[:, 3], plain.coef[:, 3], atol=1e-6)


def test_scales_do_not_matter(digits):
    X, y = digits
    factors = 10.0 ** np.arange(-4, 4)
    found = linear_minimum(X * factors + 5, y, tol=1e-5)
    np.testing.assert_allclose(found.coef * factors, linear_minimum(X, y).coef, 1e-5)


def test_least_squares():
    X, y = load_diabetes(return_X_y=True)
    found = linear_minimum(X, y)
    peer = LinearRegression().fit(X, y)
    np.testing.assert_allclose(found.coef[0], peer.coef_, rtol=1e-8)
    np.testing.assert_allclose(found.intercept[0], peer.intercept_, rtol=1e-10)
    assert found.loss == pytest.approx(((peer.predict(X) - y) ** 2).mean())
    assert found.classes is None and found.grad_norm < 1e-8
    both = linear_minimum(X, np.column_stack([y, -2 * y]), criterion=nn.MSELoss())
    assert both.coef.shape == (2, 10) and both.loss == pytest.approx(2.5 * found.loss)
    value, norm = gradient(both, X, np.column_stack([y, -2 * y]), nn.MSELoss())
    assert value == pytest.approx(both.loss) and norm < 1e-8


def test_labels_that_are_floats_and_numbers_that_are_whole(digits):
    X, y = digits
    as_labels = linear_minimum(X, y.astype(float), criterion=nn.CrossEntropyLoss)
    assert as_labels.loss == linear_minimum(X, y).loss
    as_numbers = linear_minimum(X, y, criterion=nn.MSELoss)
    assert as_numbers.coef.shape == (1, 8)


def test_rows_of_any_shape_and_type(digits):
    X, y = digits
    found = linear_minimum(torch.from_numpy(X).reshape(-1, 2, 2, 2), torch.tensor(y))
    np.testing.assert_array_equal(found.coef, linear_minimum(X, y).coef)
    pixels = np.random.RandomState(0).randint(0, 256, (200, 3)).astype(np.uint8)
    labels = np.arange(200) % 2
    np.testing.assert_allclose(
        linear_minimum(pixels, labels).coef, linear_minimum(pixels / 255, labels).coef
    )


def test_too_few_steps_are_told(digits):
    X, y = digits
    with pytest.warns(ConvergenceWarning, match="after 4 Newton steps, above tol"):
        found = linear_minimum(X, y, max_iter=4)
    assert found.n_iter == 4 and found.grad_norm > 1e-4


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"y": np.zeros(4)[:3]}, ValueError, "one entry for each of the 4 rows"),
        ({"y": [1, 1, 1, 1]}, ValueError, r"two classes or more, got \[1\]"),
        ({"y": [[1, 0]] * 4}, ValueError, "one label a row"),
        ({"y": [0.0, 1, np.nan, 1]}, ValueError, "y holds NaN"),
        ({"X": [[0.0], [1], [np.inf], [1]]}, ValueError, "X holds NaN or infinite"),
        ({"X": [1.0, 2, 3, 4]}, ValueError, "X must have shape"),
        ({"y": list("abca"), "criterion": nn.MSELoss}, ValueError, "must hold numbers"),
        ({"criterion": nn.L1Loss()}, ValueError, "criterion must be 'auto'"),
        ({"criterion": "hinge"}, ValueError, "criterion must be 'auto'"),
        (
            {"criterion": nn.CrossEntropyLoss(label_smoothing=0.1)},
            ValueError,
            "without class weights or other options",
        ),
        ({"tol": 0}, ValueError, "tol must be > 0"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be an int"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input(change, error, message):
    given = {"X": [[0.0], [1.0], [2.0], [3.0]], "y": [0, 1, 0, 1]}
    with pytest.raises(error, match=message):
        linear_minimum(**{**given, **change})
