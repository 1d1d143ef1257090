"""What is done to the updates before a rule sees them."""

import numpy as np

from skpoison.federated._aggregators._base import PreAggregator
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number


class NNM(PreAggregator):
    """Put in each update's place the mean of the updates nearest to it.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the step is used alone.

    Raises
    ------
    ValueError
        Unless f < n.

    Notes
    -----
    Row i becomes the mean of the n - f rows nearest to it, itself included; of equal
    distances, the first. Rules that are weak where honest updates differ much get
    back the best possible guarantee behind it [1]_. Rows with NaN or infinity count as
    zero rows.

    References
    ----------
    .. [1] Allouah, Y., Farhadkhani, S., Guerraoui, R., Gupta, N., Pinot, R., Stephan,
       J. "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity."
       AISTATS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import NNM
    >>> NNM(n_byzantine=1).fit_transform(np.array([[0.0], [1.0], [2.0], [9.0]]))
    array([[1.],
           [1.],
           [1.],
           [4.]])
    """

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def _condition(self, n, f):
        return "f < n", f < n

    def _mapping(self, geometry, f):
        n = geometry.n
        distances = geometry.sq_distances.copy()
        np.fill_diagonal(distances, -1)  # before its copies
        near = np.argsort(distances, axis=1, kind="stable")[:, : n - f]
        mapping = np.zeros((n, n))
        np.put_along_axis(mapping, near, 1 / (n - f), axis=1)
        return mapping


class Bucketing(PreAggregator):
    """Put means of random groups of updates in their place.

    Parameters
    ----------
    s : int, default=2
        Updates in a group; what is left over is a smaller one.
    random_state : int, RandomState instance, Generator or None, default=None
        Draws the groups. A server draws anew each round.

    Notes
    -----
    Of n rows ceil(n / s) are left. Each of f Byzantine clients may spoil one of them:
    what follows still has to bear f.

    References
    ----------
    .. [1] Karimireddy, S. P., He, L., Jaggi, M. "Byzantine-robust learning on
       heterogeneous datasets via bucketing." ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Bucketing
    >>> Bucketing(s=5, random_state=0).fit_transform(np.arange(5.0)[:, np.newaxis])
    array([[2.]])
    """

    def __init__(self, s=2, *, random_state=None):
        self.s = s
        self.random_state = random_state

    def _condition(self, n, f):
        check_number("s", self.s, low=1, integer=True)
        return super()._condition(n, f)

    def _n_rows(self, n):
        return -(-n // self.s)

    def _mapping(self, geometry, f):
        n = geometry.n
        order = RandomStreams(self.random_state).numpy("groups").permutation(n)
        mapping = np.zeros((self._n_rows(n), n))
        mapping[np.arange(n) // self.s, order] = 1
        return mapping / mapping.sum(axis=1, keepdims=True)


class Clipping(PreAggregator):
    """Shorten updates that are longer than a bound.

    Parameters
    ----------
    max_norm : float, default=2.0
        The bound, as in ByzFL; it has the unit of the updates.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Clipping
    >>> Clipping(max_norm=1.0).fit_transform(np.array([[0.3, 0.4], [3.0, 4.0]]))
    array([[0.3, 0.4],
           [0.6, 0.8]])
    """

    def __init__(self, max_norm=2.0):
        self.max_norm = max_norm

    def _condition(self, n, f):
        check_number("max_norm", self.max_norm, low=0, strict=True)
        return super()._condition(n, f)

    def _mapping(self, geometry, f):
        return _clipped(geometry, self.max_norm)


class ARC(PreAggregator):
    """Shorten the longest updates to the length of the longest after them.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the step is used alone.

    Raises
    ------
    ValueError
        Unless 2f < n.

    Notes
    -----
    The k = floor(2 f (n - f) / n) longest updates are shortened to the length of the
    next longest. No update keeps a length that no honest one has, since k >= f.

    References
    ----------
    .. [1] Allouah, Y., Guerraoui, R., Gupta, N., Jellouli, A., Rizk, G., Stephan, J.
       "Adaptive gradient clipping for robust federated learning." ICLR 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import ARC
    >>> updates = np.array([[0.3, 0.4], [1.0, 0.0], [0.0, 1.2], [30.0, 40.0]])
    >>> ARC(n_byzantine=1).fit_transform(updates)
    array([[0.3 , 0.4 ],
           [1.  , 0.  ],
           [0.  , 1.2 ],
           [0.72, 0.96]])
    """

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def _condition(self, n, f):
        return "2*f < n", 2 * f < n

    def _mapping(self, geometry, f):
        n = geometry.n
        n_clipped = 2 * f * (n - f) // n
        norms = np.sort(geometry.norms[:n])
        return _clipped(geometry, norms[n - 1 - n_clipped])


def _clipped(geometry, max_norm):
    norms = geometry.norms[: geometry.n]
    factors = np.ones(geometry.n)
    np.divide(max_norm, norms, out=factors, where=norms > max_norm)
    return np.diag(factors)
