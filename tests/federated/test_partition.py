"""Rows spread over clients: shares as promised, nobody without any."""

import warnings

import numpy as np
import pytest
from scipy.stats import binom

from skpoison.federated import partition_clients
from skpoison.federated._partition import clients_of_ids

Y = np.repeat(np.arange(10), 600)


def groups_of(y, client, n_clients):
    """Return each client's most frequent class."""
    counts = np.zeros((n_clients, y.max() + 1))
    np.add.at(counts, (client, y), 1)
    return counts, counts.argmax(axis=1)


@pytest.mark.parametrize("bias", [0.5, 0.9])
def test_fang_sends_a_class_to_its_group_with_the_given_probability(bias):
    client = partition_clients(Y, 50, bias=bias, random_state=0)
    counts, group = groups_of(Y, client, 50)
    assert (np.bincount(group, minlength=10) == 5).all()
    by_group = np.array([counts[group == g].sum(axis=0) for g in range(10)])
    low, high = binom.interval(1 - 1e-6, 600, bias)
    assert ((np.diag(by_group) >= low) & (np.diag(by_group) <= high)).all()
    low, high = binom.interval(1 - 1e-7, 600, (1 - bias) / 9)
    others = by_group[~np.eye(10, dtype=bool)]
    assert ((others >= low) & (others <= high)).all()


def test_bias_of_one_over_the_classes_is_iid():
    client = partition_clients(Y, 50, bias=0.1, random_state=0)
    counts = groups_of(Y, client, 50)[0]
    expected = counts.sum(axis=1, keepdims=True) / 10
    statistic = ((counts - expected) ** 2 / expected).sum()
    # chi square with 50 * 9 degrees of freedom: mean 450, deviation 30
    assert 300 < statistic < 600


def test_bias_one_is_one_class_a_client_and_zero_none_of_it():
    client = partition_clients(Y, 20, bias=1.0, random_state=0)
    counts = groups_of(Y, client, 20)[0]
    assert ((counts > 0).sum(axis=1) == 1).all()
    client = partition_clients(Y, 10, bias=0.0, random_state=0)
    assert ((groups_of(Y, client, 10)[0] == 0).sum(axis=1) == 1).all()


def test_even_fills_the_clients_of_a_group_alike():
    client = partition_clients(Y, 40, bias=0.7, within="even", random_state=0)
    counts, group = groups_of(Y, client, 40)
    for g in range(10):
        sizes = counts[group == g].sum(axis=1)
        assert sizes.max() - sizes.min() <= 1
    # that is not what "random" does
    client = partition_clients(Y, 40, bias=0.7, random_state=0)
    assert np.ptp(np.bincount(client)) > 10


def test_groups_lie_in_random_order_of_clients():
    client = partition_clients(Y, 50, bias=0.9, random_state=0)
    group = groups_of(Y, client, 50)[1]
    assert len(set(group[:10])) > 4


@pytest.mark.parametrize("method", ["fang", "iid", "dirichlet", "shards"])
@pytest.mark.parametrize("n_clients", [1, 3, 7, 23])
def test_every_client_has_a_row_and_every_row_one_client(method, n_clients):
    y = np.random.default_rng(0).integers(0, 5, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        client = partition_clients(y, n_clients, method, random_state=0)
    assert client.shape == y.shape and client.dtype.kind == "i"
    assert (np.bincount(client, minlength=n_clients) >= 1).all()
    assert client.max() == n_clients - 1


def test_iid_sizes_and_shards():
    client = partition_clients(Y, 70, "iid", random_state=0)
    assert np.ptp(np.bincount(client)) <= 1
    client = partition_clients(Y, 30, "shards", n_shards=2, random_state=0)
    counts = groups_of(Y, client, 30)[0]
    assert (counts.sum(axis=1) == 200).all()
    # a shard of 100 rows lies within one class of 600
    assert ((counts > 0).sum(axis=1) <= 2).all()
    assert set(counts[counts > 0]) <= {100.0, 200.0}


def test_dirichlet_approaches_iid_and_one_class():
    even = partition_clients(Y, 20, "dirichlet", alpha=1e5, random_state=0)
    counts = groups_of(Y, even, 20)[0]
    assert abs(counts - 30).max() <= 2
    with pytest.warns(UserWarning, match="came out without a sample"):
        skewed = partition_clients(Y, 20, "dirichlet", alpha=1e-3, random_state=0)
    counts = groups_of(Y, skewed, 20)[0]
    # each class lies with one or two clients, but for what empty ones were given
    assert (counts.max(axis=0) > 300).all()


def test_empty_clients_get_one_row_of_the_largest_in_their_group():
    # 12 clients in 2 groups of 6; 2 rows of class 1 leave four of its clients empty
    y = np.array([0] * 38 + [1] * 2)
    with pytest.warns(UserWarning, match="of 12 clients came out without") as caught:
        client = partition_clients(y, 12, bias=1.0, random_state=0)
    assert len(caught) == 1
    sizes = np.bincount(client, minlength=12)
    assert sizes.min() == 1 and sizes.sum() == 40
    # the four have rows of class 0: their own group had none to give
    with_one = set(client[y == 1])
    assert len(with_one) == 2


def test_as_many_clients_as_rows():
    y = np.array(["a", "b", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert sorted(partition_clients(y, 4, random_state=1)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="n_clients must be at most n_samples=4"):
        partition_clients(y, 5)


def test_seed_decides_and_global_streams_are_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = partition_clients(Y, 20, random_state=3)
    assert np.array_equal(first, partition_clients(Y, 20, random_state=3))
    assert not np.array_equal(first, partition_clients(Y, 20, random_state=4))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    # labels count by their order alone
    names = np.array([f"class {i}" for i in range(10)])
    assert np.array_equal(first, partition_clients(names[Y], 20, random_state=3))


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"bias": 1.5}, ValueError, "bias must be in"),
        ({"bias": np.nan}, ValueError, "bias must be in"),
        ({"bias": "half"}, TypeError, "bias must be a number"),
        ({"alpha": 0.0}, ValueError, "alpha must be"),
        ({"n_shards": 0}, ValueError, "n_shards must be"),
        ({"within": "odd"}, ValueError, "within must be one of 'random', 'even'"),
        ({"method": "none"}, ValueError, "method must be one of"),
        ({"n_clients": 0}, ValueError, "n_clients must be"),
        ({"n_clients": 2.0}, TypeError, "n_clients must be an int"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        partition_clients(Y, **{"n_clients": 10, **params})


def test_ids_become_numbers_in_sorted_order():
    numbers, names = clients_of_ids(["b", "a", "b", "c"], 4)
    assert numbers.tolist() == [1, 0, 1, 2] and names.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("missing", [None, np.nan, "NA"])
def test_missing_ids(missing):
    if missing == "NA":
        missing = pytest.importorskip("pandas").NA
    ids = np.array([1, 2, missing, 1], dtype=object)
    with pytest.raises(ValueError, match="missing for 1 of 4 rows, first for row 2"):
        clients_of_ids(ids, 4)
    with pytest.raises(ValueError, match="missing for 1 of 2 rows"):
        clients_of_ids(np.array([1.0, np.nan]), 2)
    with pytest.raises(ValueError, match="each of n_samples=3 rows, got 2"):
        clients_of_ids([1, 2], 3)
    with pytest.raises(TypeError, match="client_id must hold ids that can be sorted"):
        clients_of_ids(np.array([1, "a"], dtype=object), 2)
