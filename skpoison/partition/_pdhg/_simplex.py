"""Projection of columns onto a simplex, in place, by whole rows."""

from functools import lru_cache

_LARGEST_NETWORK = 64


@lru_cache(maxsize=32)
def sorting_network(n):
    """Return compare-exchange pairs (i, j), i < j, that sort n rows.

    Batcher's odd-even merge sort, without the pairs that reach beyond n.
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs.append((i, i + k))
            k //= 2
        p *= 2
    return tuple(pairs)


def project_simplex(xp, V, radius, work):
    """Project each column of V onto {u >= 0, sum u = radius}, in place.

    The threshold is ``max_k (sum of the k largest - radius) / k``.

    Parameters
    ----------
    xp : NumpyArrays or TorchArrays
    V : array of shape (n_labels, n)
    radius : float
    work : array of shape (n_labels + 2, n)
        Overwritten.
    """
    n_labels = len(V)
    if n_labels == 1:
        V[...] = radius
        return
    total = work[n_labels + 1]
    ordered, threshold = _descending(xp, V, work)
    xp.subtract(ordered[0], radius, out=total)
    # the row of the largest is free from here on, and holds the quotients
    threshold[...] = total
    quotient = ordered[0]
    for k in range(1, n_labels):
        xp.add(total, ordered[k], out=total)
        xp.multiply(total, 1.0 / (k + 1), out=quotient)
        xp.maximum(threshold, quotient, out=threshold)
    xp.subtract(V, threshold, out=V)
    xp.clip_below(V, 0.0, out=V)


def _descending(xp, V, work):
    """Return rows of `work`: the columns of V in descending order, and a free one."""
    n_labels = len(V)
    if n_labels > _LARGEST_NETWORK:
        work[:n_labels] = xp.sort(V)
        return list(work[:n_labels]), work[n_labels]
    # a comparison writes the larger to a free row, the smaller in place of one of its
    # own; rows still equal to V's are read there, so nothing is copied
    rows = list(V)
    own = [False] * n_labels
    free = list(work[: n_labels + 1])
    for i, j in sorting_network(n_labels):
        a, b = rows[i], rows[j]
        high = free.pop()
        low = b if own[j] else free.pop()
        xp.maximum(a, b, out=high)
        xp.minimum(a, b, out=low)
        if own[i]:
            free.append(a)
        rows[i], rows[j] = high, low
        own[i] = own[j] = True
    return rows, free[0]
