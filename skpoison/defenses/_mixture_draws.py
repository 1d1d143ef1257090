"""Which rows each noisy mixture sums: draws of groups of rows."""

import numpy as np


def cut(groups, start, stop):
    """Return groups `start` to `stop` of many."""
    members, cuts = groups
    cuts = cuts[start : stop + 1]
    return members[cuts[0] : cuts[-1]], cuts - cuts[0]


def draw_groups(rng, n_samples, n_mix, n_mixtures, sampling):
    """Draw which rows each mixture sums.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_samples, n_mix, n_mixtures : int
    sampling : str
        "without_replacement": distinct rows, groups independent of each other.
        "with_replacement": a row may come twice. "poisson": every row is in every
        group with probability n_mix / n_samples. "regular": a pass is n_samples
        groups that hold every row n_mix times, at most once each. "partition": a
        pass is n_samples // n_mix groups that share no row.

    Returns
    -------
    members, cuts : ndarray of int
        Group i is ``members[cuts[i]:cuts[i + 1]]``.
    """
    if sampling == "poisson":
        sizes = rng.binomial(n_samples, n_mix / n_samples, n_mixtures)
        rows = _draw_distinct(rng, n_samples, int(sizes.max(initial=0)), n_mixtures)
        members = rows[np.arange(rows.shape[1]) < sizes[:, None]]
        return members, np.concatenate([[0], np.cumsum(sizes)])
    if sampling == "without_replacement":
        rows = _draw_distinct(rng, n_samples, n_mix, n_mixtures)
    elif sampling == "with_replacement":
        rows = rng.integers(n_samples, size=(n_mixtures, n_mix))
    else:
        draw = _draw_regular if sampling == "regular" else _draw_partition
        size = n_samples if sampling == "regular" else n_samples // n_mix
        passes = [draw(rng, n_samples, n_mix) for _ in range(-(-n_mixtures // size))]
        rows = np.concatenate(passes)[:n_mixtures]
    return rows.ravel(), np.arange(len(rows) + 1) * n_mix


def _draw_distinct(rng, n_samples, size, n_rows):
    """Draw uniform ordered samples without replacement, one a row."""
    if 2 * size > n_samples:
        return rng.random((n_rows, n_samples)).argsort(axis=1)[:, :size]
    # Draw with replacement, then draw repeats again until there are none. Nothing
    # here treats one sample differently from another, so the result is uniform.
    drawn = rng.integers(n_samples, size=(n_rows, size))
    todo = np.arange(n_rows)
    while len(todo):
        part = drawn[todo]
        order = part.argsort(axis=1, kind="stable")
        ranked = np.take_along_axis(part, order, axis=1)
        repeats = np.zeros(part.shape, bool)
        np.put_along_axis(repeats, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
        part[repeats] = rng.integers(n_samples, size=np.count_nonzero(repeats))
        drawn[todo] = part
        todo = todo[repeats.any(axis=1)]
    return drawn


def _draw_regular(rng, n_samples, n_mix):
    order = rng.permutation(n_samples)
    # in random order: neighbours in the roll share all rows but one
    first = rng.permutation(n_samples)
    return order[(first[:, None] + np.arange(n_mix)) % n_samples]


def _draw_partition(rng, n_samples, n_mix):
    size = n_samples // n_mix
    return rng.permutation(n_samples)[: size * n_mix].reshape(size, n_mix)
