"""Poisons by the labels of their neighbours among the features of all rows."""

import numpy as np

from skpoison.defenses._feature_blocks import LengthScaledRows, cuts
from skpoison.defenses._feature_detectors import (
    FeatureDetector,
    check_expected,
    check_flags,
    n_expected,
    spare_one,
    warn_not_judged,
)
from skpoison.utils._validation import check_number, check_option

_CHUNK_VALUES = 2**18  # distances at a time: 2 MiB, which a cache holds
_RESIDENT_VALUES = 2**27  # features that are in memory as a whole, 1 GiB
_LARGE_CHUNK_VALUES = 2**23  # distances at a time where they are not


class DeepKNN(FeatureDetector):
    """Find rows whose neighbours in the features of a network have another label.

    A poison that was made to look like another class to the network lies among the
    rows of that class, whatever its own label says.

    Parameters
    ----------
    estimator : estimator, default=None
        Computes the features: a :class:`~skpoison.models.TorchClassifier` or one of
        the library's other networks, or a pipeline that ends in one. One that is
        fitted, or in a ``FrozenEstimator``, is used as it is; otherwise a clone is
        trained on the data. Cloning the detector, as a search does, forgets a fit:
        use ``FrozenEstimator`` there. None is ``TorchClassifier()``.
    features : str, callable or array of shape (n_samples, n_values), default="auto"
        "auto" is what enters the network's last linear layer; another name is that
        of the layer whose output is taken; "input" is X itself, without a network. A
        callable maps X to features; an array holds them, row by row.
    n_neighbors : "auto" or int, default="auto"
        Neighbours that vote, at most all other rows. "auto" is twice the poisons
        expected, as [1]_ advises: they must not be a majority among themselves.
    expected_poison : int or float, default=0.05
        Upper bound on the poisons: a count, or a share of all rows. For "auto".
    vote : {"plurality", "majority"}, default="plurality"
        "plurality", the rule of [1]_, distrusts a row if another label has more
        neighbours than its own; "majority" if fewer than half of them have its own.
        Ties keep the row.
    normalize : bool, default=True
        Scale the features of each row to unit length first, as [1]_ does.
    balance : bool, default=False
        Let each row of a smaller class count as often as makes the classes equal, as
        if rows had been replicated; copies of the row itself don't vote. Otherwise a
        class of fewer than `n_neighbors` / 2 rows is outvoted everywhere.
    random_state : None, int, RandomState or Generator, default=None
        Seeds the ``random_state`` parameters of `estimator` that are None.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        In [-1, 1]: share of the neighbours with the most frequent other label, or,
        for "majority", with any other, minus that with the same label. Rows above 0
        are distrusted.
    n_neighbors_ : int
        Neighbours that voted.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust; the least suspicious row of a class is kept.
    estimator_ : estimator
        The fitted network; only where features were taken from one.
    sample_indices_ : ndarray of int
        Positions of the rows that :meth:`fit_resample` keeps, in their order.
    n_removed_ : int
        Number of rows that are distrusted.
    classes_ : ndarray of shape (n_classes,)
        The labels met.
    n_features_in_ : int
        Number of features met.
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    Raises
    ------
    TypeError, ValueError
        In `fit`: a parameter out of range, no such layer, or an estimator without a
        network where features are taken from one.

    Warns
    -----
    UserWarning
        Classes of one row are not judged, nor any where all features are alike;
        features that are not finite are left out.

    See Also
    --------
    LabelIssueDetector : For wrong labels; judges each row by models that never saw
        it.
    SpectralSignatures : Judges rows by the direction in which their class is spread.
    ActivationClustering : Splits the features of a class into clusters.

    Notes
    -----
    The row itself is left out by its position, so that a copy of it votes. Where
    several rows have the distance of the last neighbour, they share the votes that
    are left to equal parts: up to rounding, the order of rows makes no difference.

    The features are those of a network that was trained on the poisons. With a
    dirty-label backdoor it has learned to hold them together, and the votes of the
    poisons themselves are what `n_neighbors` must outnumber. Rows where clean classes
    overlap are distrusted too.

    Distances take :math:`O(n^2 p)` time and little memory.

    References
    ----------
    .. [1] N. Peri, N. Gupta, W. R. Huang, L. Fowl, C. Zhu, S. Feizi, T. Goldstein and
       J. P. Dickerson, "Deep k-NN defense against clean-label data poisoning
       attacks", ECCV Workshops 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.defenses import DeepKNN
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 100)
    >>> X = rng.normal(size=(200, 5)) + 4 * (y == "dog")[:, None]
    >>> y[[3, 7]] = "dog"
    >>> detector = DeepKNN(features="input", normalize=False).fit(X, y)
    >>> np.flatnonzero(~detector.is_clean_)
    array([3, 7])
    """

    _takes_numbers = True

    def __init__(
        self,
        estimator=None,
        *,
        features="auto",
        n_neighbors="auto",
        expected_poison=0.05,
        vote="plurality",
        normalize=True,
        balance=False,
        random_state=None,
    ):
        self.estimator = estimator
        self.features = features
        self.n_neighbors = n_neighbors
        self.expected_poison = expected_poison
        self.vote = vote
        self.normalize = normalize
        self.balance = balance
        self.random_state = random_state

    def _check_parameters(self):
        super()._check_parameters()
        if not isinstance(self.n_neighbors, str):
            check_number("n_neighbors", self.n_neighbors, low=1, integer=True)
        else:
            check_option("n_neighbors", self.n_neighbors, ("auto",))
        check_expected(self.expected_poison)
        check_option("vote", self.vote, ("plurality", "majority"))
        check_flags(normalize=self.normalize, balance=self.balance)

    def _score_features(self, F, y):
        # about their mean, which loses fewer digits of the distances
        F = LengthScaledRows(F, self.normalize, _RESIDENT_VALUES)
        wanted = self.n_neighbors
        if isinstance(wanted, str):
            wanted = n_expected(self.expected_poison, 2.0, len(y))
        self.n_neighbors_ = min(max(1, wanted), len(y) - 1)
        sizes = np.bincount(y)
        judged = (sizes > 1) & any(block.any() for _, block in F.blocks())
        warn_not_judged(self.classes_[~judged], "one row or rows that are all alike")
        if not judged.any():
            return np.zeros(len(y))
        weights = sizes.max() / sizes if self.balance else np.ones(len(sizes))
        shares = _votes(F, y, weights, self.n_neighbors_)
        rows = np.arange(len(y))
        own = shares[rows, y]
        if self.vote == "majority":
            scores = 1.0 - 2.0 * own
        else:
            shares[rows, y] = 0.0
            scores = shares.max(axis=1) - own
        # sums of weights are exact up to rounding: a tie is no more than that
        scores[np.abs(scores) < 1e-9] = 0.0
        return np.where(judged[y], scores, 0.0)

    def _flag(self, scores, y):
        return spare_one(scores > 0, scores, y)


def _votes(F, y, weights, n_neighbors):
    """Return the share of each class in the votes of each row's neighbours.

    Parameters
    ----------
    F : LengthScaledRows
    y : ndarray of int of shape (n_samples,)
    weights : ndarray of shape (n_classes,)
        Copies of each row of a class, 1 or more.
    n_neighbors : int
        Copies that vote.
    """
    n_samples = len(y)
    ballots = np.eye(len(weights))[y] * weights[y, None]
    squares = np.concatenate([_squares(block) for _, block in F.blocks()])
    votes = np.empty((n_samples, len(weights)))
    step = max(1, _CHUNK_VALUES // n_samples)
    if not F.is_resident:  # all rows are formed anew for each chunk
        step = max(1, _LARGE_CHUNK_VALUES // max(F.F.shape))
    for start in range(0, n_samples, step):
        rows = np.arange(start, min(start + step, n_samples))
        own = F[rows]
        distances = np.empty((len(rows), n_samples))
        for cut, block in F.blocks():  # plus the row's own square
            distances[:, cut] = squares[cut] - 2.0 * (own @ block.T)
        distances[rows - start, rows] = np.inf
        last = _last_distance(distances, weights[y], n_neighbors)
        votes[rows] = (distances < last) @ ballots
        left = n_neighbors - votes[rows].sum(axis=1, keepdims=True)
        level = (distances == last) @ ballots
        votes[rows] += level * (left / level.sum(axis=1, keepdims=True))
    return votes / n_neighbors


def _squares(rows):
    """Return squared lengths without a copy of all the rows."""
    squares = np.empty(len(rows))
    for cut in cuts(*rows.shape):
        squares[cut] = (rows[cut] ** 2).sum(axis=1)
    return squares


def _last_distance(distances, weights, n_neighbors):
    """Return the distance at which each row has its votes together."""
    if (weights == 1).all():
        return np.partition(distances, n_neighbors - 1)[:, [n_neighbors - 1]]
    near = np.argpartition(distances, n_neighbors - 1)[:, :n_neighbors]
    found = np.take_along_axis(distances, near, axis=1)
    order = np.argsort(found, axis=1)
    heard = np.cumsum(np.take_along_axis(weights[near], order, axis=1), axis=1)
    last = (heard < n_neighbors).sum(axis=1, keepdims=True)
    return np.take_along_axis(np.take_along_axis(found, order, axis=1), last, axis=1)
