"""Minimum-diameter averaging, exact."""

import numpy as np

from skpoison.federated._aggregators._base import GramAggregator
from skpoison.utils._validation import check_number


class MDA(GramAggregator):
    """Average of the n - f updates that lie closest together.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    max_nodes : int, default=1_000_000
        Bound on the search, in nodes of its trees; some seconds for a hundred clients.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that are averaged.
    diameter_ : float
        Largest distance between two of them.
    n_nodes_ : int
        Nodes that the search took.
    weights_ : ndarray of shape (n_clients,)
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless 2f < n.
    RuntimeError
        The search takes more than `max_nodes`.

    Notes
    -----
    There are n - f updates of diameter t at most if and only if f clients can be
    dropped so that no two of those left are farther apart than t: if the graph of the
    pairs at a distance above t has a vertex cover of f clients. That is decided by a
    bounded search tree, for the values of t that bisection asks for; the subsets
    themselves are too many to be looked at.

    Often several subsets have the least diameter. Of these the one is taken whose
    second longest distance is least, and so on down; this depends on the order of
    the clients only if distances are equal, and then those given first stay.

    References
    ----------
    .. [1] El Mhamdi, E. M., Guerraoui, R., Guirguis, A., Hoang, L. N., Rouault, S.
       "Genuinely distributed Byzantine machine learning." PODC 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MDA
    >>> updates = np.array([[1.0, 1.1], [1.1, 1.0], [0.9, 1.0], [1.0, 0.9], [9.0, 9.0]])
    >>> MDA(n_byzantine=1)(updates)
    array([1., 1.])
    """

    def __init__(self, n_byzantine=None, *, max_nodes=1_000_000):
        self.n_byzantine = n_byzantine
        self.max_nodes = max_nodes

    def _condition(self, n, f):
        check_number("max_nodes", self.max_nodes, low=1, integer=True)
        return "2*f < n", 2 * f < n

    def _weigh(self, geometry, f):
        search = _CoverSearch(self.max_nodes)
        kept = _closest(geometry.sq_distances, f, search)
        self.n_nodes_ = search.n_nodes
        self.diameter_ = float(np.sqrt(geometry.sq_distances[np.ix_(kept, kept)].max()))
        weights = np.zeros(geometry.n)
        weights[kept] = 1 / len(kept)
        return weights


def _closest(distances, n_drop, search):
    """Return the n - n_drop rows whose distances, the longest first, are least."""
    n = len(distances)
    if n_drop == 0:
        return np.arange(n)
    first, second = np.triu_indices(n, 1)
    # the longest first; of equal ones, those of the last rows, which so are dropped
    order = np.lexsort((-first, -second, -distances[first, second]))
    rank = np.full((n, n), len(order))
    rank[first[order], second[order]] = np.arange(len(order))
    rank = np.minimum(rank, rank.T)
    kept = np.zeros(n, bool)  # in every subset that is still in question

    def cover(n_longest):
        """Return rows that hit all of the longest pairs but those of kept rows."""
        graph = rank < n_longest
        graph &= ~np.logical_and.outer(kept, kept)
        return search.cover(graph, kept, n_drop)

    low, dropped = 0, np.zeros(n, bool)
    while True:
        high = len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            found = cover(middle)
            low, high = (low, middle) if found is None else (middle, high)
            dropped = dropped if found is None else found
        if low == len(order):
            return np.flatnonzero(~dropped)
        # the next pair can't be hit as well, whichever rows are dropped
        kept[[first[order[low]], second[order[low]]]] = True
        low += 1
        forced = (rank[:, kept] < low).any(axis=1) & ~kept
        if forced.sum() == n_drop:
            return np.flatnonzero(~forced)


class _CoverSearch:
    """Vertex covers by bounded search trees, on rows as the bits of integers."""

    def __init__(self, max_nodes):
        self.max_nodes = max_nodes
        self.n_nodes = 0

    def cover(self, graph, kept, size):
        """Return at most `size` vertices that hit all edges and none that is kept.

        As a mask; None if there are none.
        """
        cover = graph[:, kept].any(axis=1)
        size -= int(cover.sum())
        if size < 0:
            return None
        left = ~cover & ~kept
        left &= (graph & left).any(axis=1)
        left = np.flatnonzero(left)
        packed = np.packbits(graph[np.ix_(left, left)], axis=1, bitorder="little")
        near = [int.from_bytes(row.tobytes(), "little") for row in packed]
        chosen = self._search(near, size)
        if chosen is None:
            return None
        cover[[left[v] for v in _bits(chosen)]] = True
        return cover

    def _search(self, near, size):
        stack = [((1 << len(near)) - 1, size, 0)]
        while stack:
            self.n_nodes += 1
            if self.n_nodes > self.max_nodes:
                raise RuntimeError(
                    f"MDA's search for the closest updates takes more than max_nodes="
                    f"{self.max_nodes} nodes"
                )
            alive, size, chosen = stack.pop()
            alive, size, chosen, top = _reduced(near, alive, size, chosen)
            if size < 0:
                continue
            if top is None:
                return chosen
            # either the top or all that it is joined to
            joined = near[top] & alive
            without = alive & ~(1 << top)
            stack.append(
                (without & ~joined, size - joined.bit_count(), chosen | joined)
            )
            stack.append((without, size - 1, chosen | 1 << top))
        return None


def _reduced(near, alive, size, chosen):
    """Choose vertices while some must be, or may as well be, in the cover.

    Returns what is left and the vertex to branch on, None if no edge is left; a size
    below 0 if there is no cover.
    """
    while True:
        degrees = {v: (near[v] & alive).bit_count() for v in _bits(alive)}
        top = max(degrees, key=degrees.__getitem__, default=None)
        if top is None or degrees[top] == 0:
            return alive, size, chosen, None
        most = degrees[top]
        if most > size:  # or all that it is joined to would be
            taken = sum(1 << v for v, degree in degrees.items() if degree > size)
        elif sum(degrees.values()) > 2 * size * most:
            return alive, -1, chosen, None
        elif 1 in degrees.values():
            leaf = next(v for v, degree in degrees.items() if degree == 1)
            taken = near[leaf] & alive
        elif most == 2:  # cycles, where each vertex is as good as any
            taken = 1 << top
        else:
            return alive, size, chosen, top
        size -= taken.bit_count()
        if size < 0:
            return alive, size, chosen, None
        chosen |= taken
        alive &= ~taken


def _bits(mask):
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
