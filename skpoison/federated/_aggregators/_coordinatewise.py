"""Rules that look at each coordinate by itself."""

import numpy as np

from skpoison.federated._aggregators._base import OrderAggregator
from skpoison.federated._aggregators._matrix import as_double, choose, is_tensor
from skpoison.utils._validation import check_number


def middle(ordered):
    """Return the median of each line of sorted values."""
    n = ordered.shape[1]
    # halves first: the sum of two may overflow
    return ordered[:, (n - 1) // 2] / 2 + ordered[:, n // 2] / 2


def nearest(ordered, centre, n_near):
    """Tell which sorted values are the nearest to a centre among them.

    Parameters
    ----------
    ordered : array or tensor of shape (n_coordinates, n)
    centre : array or tensor of shape (n_coordinates,)
    n_near : int
        Of equally near ones the smaller comes first.

    Returns
    -------
    near : array or tensor of bool of shape (n_coordinates, n)
    """
    centre = centre[:, None]
    low, high = ordered[:, :-n_near], ordered[:, n_near:]
    # they lie next to each other: a value gives way to the one n_near places on if
    # that is nearer, and then so do all before it
    gives_way = centre - low > high - centre
    near = ordered == ordered
    near[:, : low.shape[1]] &= ~gives_way
    near[:, n_near:] &= gives_way
    return near


def mean_of_nearest(ordered, n_near):
    """Return the mean of the sorted values that are nearest to their median."""
    if n_near == ordered.shape[1]:
        return ordered.mean(1)
    return (ordered * nearest(ordered, middle(ordered), n_near)).sum(1) / n_near


def _least(values):
    return values.amin(1) if is_tensor(values) else values.min(1)


def _medians_without(rows, ordered):
    """Yield each median that is left without one of the rows, and for which rows."""
    half, odd = divmod(ordered.shape[1], 2)
    if odd:
        low, median, high = (ordered[:, half + i] / 2 for i in (-1, 0, 1))
        yield rows < ordered[:, half], median + high
        yield rows > ordered[:, half], low + median
        yield rows == ordered[:, half], low + high
    else:
        yield rows <= ordered[:, half - 1], ordered[:, half]
        yield rows > ordered[:, half - 1], ordered[:, half - 1]


class TrimmedMean(OrderAggregator):
    """Mean of each coordinate without its largest and smallest values.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone.
    n_trim : int or None, default=None
        Values dropped at either end; None is `n_byzantine`.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that were looked at: those without NaN and infinity.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless 2 n_trim < n.

    References
    ----------
    .. [1] Yin, D., Chen, Y., Kannan, R., Bartlett, P. "Byzantine-robust distributed
       learning: towards optimal statistical rates." ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import TrimmedMean
    >>> updates = np.array([[1.0, -50.0], [2.0, 1.0], [3.0, 2.0], [90.0, 3.0]])
    >>> TrimmedMean(n_byzantine=1)(updates)
    array([2.5, 1.5])
    """

    def __init__(self, n_byzantine=None, *, n_trim=None):
        self.n_byzantine = n_byzantine
        self.n_trim = n_trim

    def _n_trim(self, f):
        if self.n_trim is None:
            return f
        return check_number("n_trim", self.n_trim, low=0, integer=True)

    def _condition(self, n, f):
        n_trim = self._n_trim(f)
        return f"2*n_trim < n (n_trim={n_trim})", 2 * n_trim < n

    def _of_sorted(self, ordered, f):
        n_trim = self._n_trim(f)
        return ordered[:, n_trim : ordered.shape[1] - n_trim].mean(1)

    def _without_each(self, rows, ordered, f):
        first = self._n_trim(f)
        last = ordered.shape[1] - first - 1
        kept = as_double(ordered[:, first : last + 1]).sum(1)
        # what leaves the sum is the row's value or, if that was cut off anyhow, the
        # end of the kept values that is cut off in its place
        return (kept - rows.clip(ordered[:, first], ordered[:, last])) / (last - first)


class Median(OrderAggregator):
    """Median of each coordinate.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. It only says how many rows may hold NaN or infinity.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that were looked at: those without NaN and infinity.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n.

    Notes
    -----
    Of an even number of values, the mean of the two in the middle. It lies between
    honest values where f < n/2.

    References
    ----------
    .. [1] Yin, D., Chen, Y., Kannan, R., Bartlett, P. "Byzantine-robust distributed
       learning: towards optimal statistical rates." ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import Median
    >>> updates = np.array([[1.0, -50.0], [2.0, 1.0], [3.0, 2.0], [90.0, 3.0]])
    >>> Median()(updates)
    array([2.5, 1.5])
    """

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def _condition(self, n, f):
        return "f < n", f < n

    def _of_sorted(self, ordered, f):
        return middle(ordered)

    def _without_each(self, rows, ordered, f):
        found = rows
        for concerned, median in _medians_without(rows, ordered):
            found = choose(concerned, median, found)
        return found


class MeaMed(OrderAggregator):
    """Mean of the values of each coordinate that are nearest to their median.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. The n - f nearest values are averaged.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that were looked at: those without NaN and infinity.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n.

    Notes
    -----
    Of two values equally far from the median the smaller one comes first.

    References
    ----------
    .. [1] Xie, C., Koyejo, O., Gupta, I. "Generalized Byzantine-tolerant SGD."
       arXiv:1802.10116, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import MeaMed
    >>> updates = np.array([[1.0, -50.0], [2.0, 1.0], [3.0, 2.0], [90.0, 3.0]])
    >>> MeaMed(n_byzantine=1)(updates)
    array([2., 2.])
    """

    def __init__(self, n_byzantine=None):
        self.n_byzantine = n_byzantine

    def _condition(self, n, f):
        return "f < n", f < n

    def _of_sorted(self, ordered, f):
        return mean_of_nearest(ordered, ordered.shape[1] - f)

    def _without_each(self, rows, ordered, f):
        n_near = ordered.shape[1] - f
        found = rows
        for concerned, median in _medians_without(rows, ordered):
            near = nearest(ordered, median, n_near)
            total = as_double(ordered * near).sum(1)
            low = _least(choose(near, ordered, ordered[:, -1:]))
            high = -_least(-choose(near, ordered, ordered[:, :1]))
            farthest = choose(median - low > high - median, low, high)
            # the row is one of these, or the farthest of them is one too many
            leaves = choose((rows < low) | (rows > high), farthest, rows)
            found = choose(concerned, (total - leaves) / (n_near - 1), found)
        return found


class SignMajority(OrderAggregator):
    """A step of fixed length in each coordinate, the way most updates point.

    Parameters
    ----------
    n_byzantine : int, float or None, default=None
        Clients that may send anything: a number, or a share in [0, 0.5) of the
        clients, rounded. None is what :class:`FederatedClassifier` says, and 0 where
        the rule is used alone. It only says how many rows may hold NaN or infinity.
    step : float, default=0.001
        Length of the step. The default is Adam's usual learning rate: its steps have
        about that length too.

    Attributes
    ----------
    location_ : array or tensor of shape (n_weights,)
        The aggregated update.
    selected_ : ndarray of int
        Clients that were looked at: those without NaN and infinity.
    n_clients_, n_nonfinite_ : int
        Rows given, and how many of them held NaN or infinity.

    Raises
    ------
    ValueError
        Unless f < n.

    Notes
    -----
    .. math:: \\text{step} \\cdot \\mathrm{sign}\\Big(\\sum_i \\mathrm{sign}(u_i)\\Big),

    zero where as many updates rise as fall. Each client has one vote a coordinate,
    whatever it sends.

    References
    ----------
    .. [1] Bernstein, J., Wang, Y.-X., Azizzadenesheli, K., Anandkumar, A. "signSGD:
       compressed optimisation for non-convex problems." ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.federated import SignMajority
    >>> updates = np.array([[1.0, -50.0], [2.0, 1.0], [-90.0, -2.0]])
    >>> SignMajority(step=0.5)(updates)
    array([ 0.5, -0.5])
    """

    def __init__(self, n_byzantine=None, *, step=0.001):
        self.n_byzantine = n_byzantine
        self.step = step

    def _condition(self, n, f):
        check_number("step", self.step, low=0.0, strict=True)
        return "f < n", f < n

    def _of_sorted(self, ordered, f):
        return self._way(_votes(ordered).sum(1))

    def _without_each(self, rows, ordered, f):
        return self._way(_votes(ordered).sum(1) - _votes(rows))

    def _way(self, votes):
        return votes.clip(-1, 1) * self.step


def _votes(values):
    """Return signs in the type of the values."""
    return values.sign() if is_tensor(values) else np.sign(values)
