"""Row keys, streams, budgets, containers, encoders."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from skpoison.utils import (
    RandomStreams,
    draw_seed,
    local_torch_seed,
    make_table_encoder,
    n_budget,
    row_keys,
    set_random_states,
)
from skpoison.utils._tensors import project, quantize, resolve_device
from skpoison.utils._validation import check_bounds, check_number, check_targets


def test_row_keys_know_content_only():
    X = np.random.RandomState(0).rand(5000, 7)
    keys = row_keys(X)
    assert len(set(keys)) == len(X) and keys.dtype == "<U32"
    np.testing.assert_array_equal(row_keys(np.asfortranarray(X)), keys)
    np.testing.assert_array_equal(row_keys(X.astype(np.float32)), keys)
    np.testing.assert_array_equal(row_keys(X[::-1]), keys[::-1])
    np.testing.assert_array_equal(row_keys(X.reshape(5000, 7, 1)), keys)


def test_row_keys_tell_huge_rows_apart_and_leave_the_input_alone():
    X = np.array([[1e300, -0.0], [2e300, 0.0], [1.7e9, 0.0], [1.7e9 + 1, 0.0]])
    before = X.tobytes()
    assert len(set(row_keys(X, np.float64))) == 4
    assert X.tobytes() == before
    single = np.array([[-0.0, 1.0]], dtype=np.float32)
    before = single.tobytes()
    row_keys(single[:])
    assert single.tobytes() == before


@pytest.mark.parametrize(
    "budget, n, expected", [(0.29, 100, 29), (0.1, 30, 3), (1.0, 7, 7), (1, 7, 1)]
)
def test_budgets_are_floored(budget, n, expected):
    assert n_budget(budget, n) == expected


def test_budget_of_no_row_warns():
    with pytest.warns(UserWarning, match=r"budget=0.01 of 50 rows"):
        assert n_budget(0.01, 50) == 0


@pytest.mark.parametrize("budget", [-1, 8, 1.01, float("inf"), "x", None, True])
def test_bad_budgets_are_named(budget):
    with pytest.raises((ValueError, TypeError), match="budget"):
        n_budget(budget, 7)


def test_streams_are_named_and_independent():
    a, b = RandomStreams(3), RandomStreams(3)
    assert a.seed("rows") == b.seed("rows") != a.seed("labels")
    b.numpy("labels").rand(99)
    assert a.numpy("rows").rand() == b.numpy("rows").rand()
    assert RandomStreams(4).seed("rows") != a.seed("rows")


def test_streams_are_the_same_in_another_process():
    code = "from skpoison.utils import RandomStreams; print(RandomStreams(3).seed('a'))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) == RandomStreams(3).seed("a")


@pytest.mark.parametrize(
    "state", [None, 5, np.int64(5), np.random.RandomState(0), np.random.default_rng(0)]
)
def test_seeds_from_anything(state):
    assert 0 <= draw_seed(state) < 2**32


@pytest.mark.parametrize("state", [-1, 2**32, 1.5, "a", True, np.random])
def test_bad_random_states_are_named(state):
    with pytest.raises(ValueError, match="random_state"):
        draw_seed(state)


def test_local_torch_seed_puts_the_global_stream_back():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), local_torch_seed(1):
        first = torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
    with local_torch_seed(1):
        assert torch.equal(torch.rand(3), first)


def test_nothing_reads_the_global_streams():
    np_before, before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    draw_seed(None), RandomStreams(None).numpy("x").rand()
    np.testing.assert_array_equal(np.random.get_state()[1], np_before)  # noqa: NPY002
    assert random.getstate() == before


def test_set_random_states_reaches_nested_ones():
    from sklearn.ensemble import BaggingClassifier
    from sklearn.tree import DecisionTreeClassifier

    model = BaggingClassifier(DecisionTreeClassifier(random_state=7))
    set_random_states(model, RandomStreams(0), only_missing=True)
    assert model.estimator.random_state == 7 and model.random_state is not None
    set_random_states(model, RandomStreams(0))
    assert model.estimator.random_state not in (7, model.random_state)


def test_projection_on_both_libraries():
    rng = np.random.RandomState(0)
    x = rng.rand(20, 3, 2)
    delta = rng.randn(20, 3, 2)
    for norm in ("linf", "l2"):
        out = project(delta, x, 0.3, norm, 0.0, 1.0)
        other = project(torch.tensor(delta), torch.tensor(x), 0.3, norm, 0.0, 1.0)
        np.testing.assert_allclose(out, other.numpy(), atol=1e-12)
        assert (x + out >= -1e-12).all() and (x + out <= 1 + 1e-12).all()
        flat = out.reshape(20, -1)
        size = np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))
        assert (size <= 0.3 + 1e-12).all()


def test_quantized_perturbations_stay_in_the_ball():
    delta = np.array([7.9999995, -7.6, 0.4, 3.5])
    assert np.abs(quantize(delta, 7.9, "linf")).max() == 7
    np.testing.assert_array_equal(quantize(delta, 8.0, "linf"), [8, -8, 0, 4])
    assert (np.abs(quantize(delta, 8.0, "l2")) <= np.abs(delta)).all()


def test_device_is_resolved_or_refused():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device"):
        resolve_device("quantum")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="device='cuda'"):
            resolve_device("cuda")


def test_bounds():
    X = np.array([[0.0, 1.0], [0.5, 3.0]])
    low, high = check_bounds("data", X)
    np.testing.assert_array_equal(low, [0, 1])
    np.testing.assert_array_equal(high, [0.5, 3])
    assert np.isinf(check_bounds(None, X)[0])
    scaled = np.array([[0.0], [1 + 2**-52]])  # what MinMaxScaler may give
    assert check_bounds((0, 1), scaled)[1] == 1 + 2**-52
    with pytest.raises(ValueError, match="X lies outside"):
        check_bounds((0, 1), scaled + 1e-9)
    with pytest.raises(ValueError, match="X lies outside"):
        check_bounds((-np.inf, 1), X)
    with pytest.raises(ValueError, match=r"X lies outside bounds=\(0, 1\).*\[0, 3\]"):
        check_bounds((0, 1), X)
    for bad in ((1, 0), "box", (0,), (0, [1, 2, 3]), 3, (0, float("nan"))):
        with pytest.raises(ValueError, match="bounds"):
            check_bounds(bad, X)


def test_numbers():
    assert check_number("eps", 0.5, low=0) == 0.5
    for bad in ("a", None, True, 1j):
        with pytest.raises(TypeError, match="eps must be a number"):
            check_number("eps", bad)
    with pytest.raises(ValueError, match=r"eps must be >= 0, got -0.1"):
        check_number("eps", -0.1, low=0)
    with pytest.raises(ValueError, match="n must be >= 1, got 1000"):
        check_number("n", 10**400, low=1, integer=True)  # no float holds it
    with pytest.raises(TypeError, match="n must be an int, got 1.5"):
        check_number("n", 1.5, integer=True)


def test_targets():
    X, classes = np.eye(4), np.array(["a", "b"])
    targets, labels = check_targets([[2.0, 0, 0, 0]], "b", X, row_keys(X), classes)
    assert targets.shape == (1, 4) and labels.tolist() == ["b"]
    with pytest.raises(ValueError, match=r"targets\[0\] is also a training row"):
        check_targets(X[:1], "b", X, row_keys(X), classes)
    with pytest.raises(ValueError, match="target_labels='c' is not among"):
        check_targets(X[:1] * 3, "c", X, row_keys(X), classes)
    with pytest.raises(ValueError, match="targets must have shape"):
        check_targets(np.ones((2, 3)), "b", X, row_keys(X), classes)
    with pytest.raises(ValueError, match="one label a target"):
        check_targets(X[:1] * 3, ["a", "b"], X, row_keys(X), classes)


def test_table_encoder_takes_mixed_tables():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pd.DataFrame(
        {
            "count": pd.array([1, None, 3], dtype="Int64"),
            "flag": [True, False, True],
            "kind": pd.Categorical(["x", None, "x"]),
            "name": ["u", None, "v"],
        }
    )
    assert make_table_encoder(frame).fit_transform(frame).shape == (3, 6)
    other = pl.DataFrame({"a": [1.0, None, 3.0], "c": ["x", "y", None]})
    assert make_table_encoder(other).fit_transform(other).shape == (3, 3)
    array = np.array([[1, "x"], [2, None], [3.0, "y"]], dtype=object)
    assert make_table_encoder(array).fit_transform(array).shape == (3, 3)
