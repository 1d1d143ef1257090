import numpy as np
import pytest

import skpoison.datasets
from skpoison.datasets import fetch_mnist
from skpoison.datasets._bunch import _stratified, require


@pytest.fixture
def folder(tmp_path, write_idx):
    write_idx(tmp_path)
    return tmp_path


@pytest.fixture
def fetch(folder):
    return lambda **params: fetch_mnist(path=folder, **{"verify": False, **params})


def test_fields(fetch, folder):
    bunch = fetch()
    assert bunch.data.shape == (40, 784)
    assert bunch.data.dtype == np.float32
    assert bunch.target.dtype == bunch.index.dtype == np.int64
    assert bunch.split.dtype == np.int8
    assert bunch.images.shape == (40, 28, 28)
    assert bunch.images.dtype == np.uint8
    assert bunch.target_names == list("0123456789")
    assert bunch.feature_names[29] == "pixel_1_1"
    assert len(bunch.feature_names) == 784
    assert bunch.frame is None
    assert bunch.verified is False
    assert bunch.source == f"path: {folder}"
    assert bunch.url.startswith("https://")
    assert "Licence" in bunch.DESCR
    np.testing.assert_array_equal(bunch.data * 255, bunch.images.reshape(40, -1))


def test_subsets(fetch):
    train, test, both = (fetch(subset=s) for s in ("train", "test", "all"))
    np.testing.assert_array_equal(both.data, np.concatenate([train.data, test.data]))
    np.testing.assert_array_equal(both.split, [0] * 40 + [1] * 20)
    np.testing.assert_array_equal(test.index, 60_000 + np.arange(20))
    np.testing.assert_array_equal(both.index, np.append(train.index, test.index))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize(
    "layout, shape",
    [("flat", (40, 784)), ("nchw", (40, 1, 28, 28)), ("nhwc", (40, 28, 28, 1))],
)
def test_layout_and_dtype(fetch, layout, shape, dtype):
    bunch = fetch(layout=layout, dtype=dtype)
    assert bunch.data.shape == shape
    assert bunch.data.dtype == dtype
    scale = 1 if dtype == "uint8" else 255
    expected = (bunch.images.reshape(shape) / scale).astype(dtype)
    np.testing.assert_array_equal(bunch.data, expected)
    assert bunch.data.flags.c_contiguous
    assert bunch.data.flags.writeable


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_arrays_are_independent(fetch, dtype):
    first, second = fetch(dtype=dtype), fetch(dtype=dtype)
    for name in ("data", "images", "target", "index", "split"):
        assert first[name].flags.writeable
        assert not np.shares_memory(first[name], second[name])
    assert not np.shares_memory(first.data, first.images)


def test_return_X_y(fetch):
    X, y = fetch(return_X_y=True)
    bunch = fetch()
    np.testing.assert_array_equal(X, bunch.data)
    np.testing.assert_array_equal(y, bunch.target)


def test_n_samples_is_stratified_and_repeats(fetch):
    first = fetch(n_samples=20)
    np.testing.assert_array_equal(np.bincount(first.target), [2] * 10)
    assert (np.diff(first.index) > 0).all()
    np.testing.assert_array_equal(first.index, fetch(n_samples=20).index)
    np.testing.assert_array_equal(first.index, fetch(n_samples=0.5).index)
    other = fetch(n_samples=20, random_state=np.random.RandomState(3))
    assert (first.index != other.index).any()
    np.testing.assert_array_equal(first.data, fetch().data[first.index])


def test_n_samples_gives_these_rows_on_every_platform(fetch):
    bunch = fetch(n_samples=10)
    assert bunch.index.tolist() == [1, 5, 7, 13, 14, 16, 20, 28, 29, 32]


def test_n_samples_leaves_the_global_stream_alone(fetch):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fetch(n_samples=10, random_state=None)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_share_is_rounded_up_without_float_noise(fetch):
    assert len(fetch(n_samples=0.26).target) == 11
    assert len(fetch(subset="all", n_samples=0.1).target) == 6  # 60 * 0.1 > 6
    assert len(fetch(n_samples=1e-9).target) == 1
    assert len(fetch(n_samples=1.0).target) == 40


@pytest.mark.parametrize(
    "counts, n_chosen, expected",
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([50, 30, 20], 7, [4, 2, 1]),  # 3.5, 2.1, 1.4
        ([97, 2, 1], 3, [1, 1, 1]),  # every class is there
        ([97, 2, 1], 10, [8, 1, 1]),
        ([97, 2, 1], 2, [2, 0, 0]),  # fewer rows than classes
        ([1, 1, 1], 2, [1, 1, 0]),  # ties go to the first classes
    ],
)
def test_largest_remainders(counts, n_chosen, expected):
    target = np.repeat([0, 1, 2], counts)
    chosen = _stratified(target, n_chosen, np.random.RandomState(0))
    assert np.bincount(target[chosen], minlength=3).tolist() == expected
    assert (np.diff(chosen) > 0).all()


@pytest.mark.parametrize(
    "n_samples", [0, -1, 41, 0.0, 1.5, -0.1, True, False, np.nan, "10", [1]]
)
def test_bad_n_samples(fetch, n_samples):
    with pytest.raises(ValueError, match="n_samples must be None, an int >= 1"):
        fetch(n_samples=n_samples)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"subset": "valid"}, "subset must be one of 'train', 'test', 'all'"),
        ({"layout": "hwc"}, "layout must be one of 'flat', 'nchw', 'nhwc'"),
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'float64', 'uint8'"),
        ({"as_frame": True}, "as_frame must be False"),
        ({"n_retries": -1}, "n_retries must be >= 0"),
        ({"delay": -1}, "delay must be >= 0"),
        ({"timeout": 0}, "timeout must be > 0"),
    ],
)
def test_bad_parameters_before_the_search(params, message):
    with pytest.raises(ValueError, match=message):
        fetch_mnist(path="/no/such/folder", **params)
    with pytest.raises(ValueError, match="n_samples"):
        fetch_mnist(path="/no/such/folder", n_samples=0)


def test_missing_package_names_itself():
    with pytest.raises(ImportError, match="fetch_x needs pillow: pip install pillow"):
        require("no_such_module", "pillow", "fetch_x")


def test_all_is_sorted_and_documented():
    names = skpoison.datasets.__all__
    assert names == sorted(names)
    for name in names:
        text = getattr(skpoison.datasets, name).__doc__
        assert "%(" not in text
        assert ">>>" in text
