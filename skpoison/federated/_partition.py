"""Which client holds which rows, from alike to one class each."""

import warnings

import numpy as np
from sklearn.utils.validation import column_or_1d

from skpoison.utils import RandomStreams
from skpoison.utils._containers import is_missing
from skpoison.utils._validation import check_number, check_option

METHODS = ("fang", "iid", "dirichlet", "shards")


def partition_clients(
    y,
    n_clients,
    method="fang",
    *,
    bias=0.5,
    within="random",
    alpha=0.5,
    n_shards=2,
    random_state=None,
):
    """Assign each sample to one client, with as much difference as wanted.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of any kind.
    n_clients : int
        At most one for each sample: no client is left without any.
    method : {"fang", "iid", "dirichlet", "shards"}, default="fang"
        - "fang": clients form groups, one a class; a sample goes to the group of its
          class with probability `bias` and to each other group alike [1]_.
        - "iid": in random order, the same number to all, up to one.
        - "dirichlet": the samples of each class are split over the clients in
          proportions drawn from a Dirichlet distribution [2]_.
        - "shards": samples sorted by class are cut into ``n_clients * n_shards``
          pieces, of which each client gets `n_shards` at random [3]_.
    bias : float, default=0.5
        Of "fang", the paper's p: 1 over the number of classes is IID, 1 gives each
        group one class. 0.5 is the paper's.
    within : {"random", "even"}, default="random"
        Of "fang": clients of a group draw each sample at random, as in the paper, or
        get the same number, up to one.
    alpha : float, default=0.5
        Of "dirichlet": the smaller, the less clients have in common. The paper's
        range from 0.05 to 100; 0.5 is chosen here.
    n_shards : int, default=2
        Of "shards": the paper's.
    random_state : None, int, RandomState or Generator, default=None

    Returns
    -------
    client : ndarray of int of shape (n_samples,)
        The client of each sample, 0 to ``n_clients - 1``, in random order of clients.

    Raises
    ------
    ValueError
        Fewer samples than clients, or a parameter out of range.

    Warns
    -----
    UserWarning
        Clients came out without any sample; each gets one of the client that has most,
        of its group where there is one.

    Notes
    -----
    With fewer clients than classes, classes share groups. Where the number of clients
    is no multiple of the number of groups, groups differ by one client.

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.
    .. [2] Hsu, T.-M. H., Qi, H., Brown, M. "Measuring the effects of non-identical
       data distribution for federated visual classification." 2019. arXiv:1909.06335.
    .. [3] McMahan, B., Moore, E., Ramage, D., Hampson, S., y Arcas, B. A.
       "Communication-efficient learning of deep networks from decentralized data."
       AISTATS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import partition_clients
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> client = partition_clients(y, 4, bias=0.9, random_state=0)
    >>> cats = np.bincount(client[y == "cat"], minlength=4)
    >>> dogs = np.bincount(client[y == "dog"], minlength=4)
    >>> cats.tolist(), dogs.tolist()
    ([3, 16, 1, 30], [27, 4, 18, 1])
    """
    check_option("method", method, METHODS)
    check_option("within", within, ("random", "even"))
    check_number("n_clients", n_clients, low=1, integer=True)
    check_number("bias", bias, low=0.0, high=1.0)
    check_number("alpha", alpha, low=0.0, strict=True)
    check_number("n_shards", n_shards, low=1, integer=True)
    codes = np.unique(column_or_1d(y), return_inverse=True)[1]
    n_samples = len(codes)
    if n_samples < n_clients:
        raise ValueError(
            f"n_clients must be at most n_samples={n_samples}, so that each has one, "
            f"got {n_clients}"
        )
    rng = np.random.default_rng(RandomStreams(random_state).seed("partition"))
    group = np.zeros(n_clients, int)
    if method == "fang":
        client, group = _fang(codes, n_clients, bias, within, rng)
    elif method == "iid":
        client = rng.permutation(np.arange(n_samples) % n_clients)
    elif method == "dirichlet":
        client = _dirichlet(codes, n_clients, alpha, rng)
    else:
        client = _shards(codes, n_clients, n_shards, rng)
    _fill_empty(client, group)
    return rng.permutation(n_clients)[client]


def _fang(codes, n_clients, bias, within, rng):
    """Return clients in the order of their groups, and each client's group."""
    n_groups = min(codes.max() + 1, n_clients)
    members = np.array_split(np.arange(n_clients), n_groups)
    sizes = np.array([len(m) for m in members])
    own = codes % n_groups
    chosen = own
    if n_groups > 1:
        # the others, counted on from the own group
        other = (own + rng.integers(1, n_groups, len(codes))) % n_groups
        chosen = np.where(rng.random(len(codes)) < bias, own, other)
    first = np.cumsum(sizes) - sizes
    if within == "random":
        place = rng.integers(0, sizes[chosen])
    else:
        place = np.empty(len(codes), int)
        for g in range(n_groups):
            rows = rng.permutation(np.flatnonzero(chosen == g))
            place[rows] = np.arange(len(rows)) % sizes[g]
    return first[chosen] + place, np.repeat(np.arange(n_groups), sizes)


def _dirichlet(codes, n_clients, alpha, rng):
    client = np.empty(len(codes), int)
    for code in range(codes.max() + 1):
        rows = rng.permutation(np.flatnonzero(codes == code))
        cuts = np.cumsum(rng.dirichlet(np.full(n_clients, alpha)))[:-1]
        # rounded sums: every row goes to one client, shares are met up to one row
        cuts = np.rint(cuts * len(rows)).astype(int)
        for i, part in enumerate(np.split(rows, cuts)):
            client[part] = i
    return client


def _shards(codes, n_clients, n_shards, rng):
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    owners = rng.permutation(np.repeat(np.arange(n_clients), n_shards))
    client = np.empty(len(codes), int)
    for owner, rows in zip(owners, np.array_split(order, len(owners)), strict=True):
        client[rows] = owner
    return client


def _fill_empty(client, group):
    """Give each client without a sample one of the largest of its group, in place."""
    counts = np.bincount(client, minlength=len(group))
    empty = np.flatnonzero(counts == 0)
    for i in empty:
        mates = np.where(group == group[i], counts, 0)
        giver = int(np.argmax(mates if mates.max() > 1 else counts))
        client[np.flatnonzero(client == giver)[-1]] = i
        counts[giver] -= 1
        counts[i] = 1
    if len(empty):
        warnings.warn(
            f"{len(empty)} of {len(group)} clients came out without a sample; each got "
            "one of another client",
            UserWarning,
            stacklevel=3,
        )


def clients_of_ids(client_id, n_samples):
    """Return the client number of each sample and the sorted ids.

    Parameters
    ----------
    client_id : array-like of shape (n_samples,)
        Owners, of any kind; none may be missing.
    n_samples : int
    """
    ids = column_or_1d(client_id)
    if len(ids) != n_samples:
        raise ValueError(
            f"client_id must name the owner of each of n_samples={n_samples} rows, got "
            f"{len(ids)}"
        )
    missing = [i for i, own in enumerate(ids.tolist()) if is_missing(own)]
    if missing:
        raise ValueError(
            f"client_id is missing for {len(missing)} of {n_samples} rows, first for "
            f"row {missing[0]}"
        )
    try:
        names, numbers = np.unique(ids, return_inverse=True)
    except TypeError as error:
        raise TypeError(
            f"client_id must hold ids that can be sorted: {error}"
        ) from error
    return numbers, names
