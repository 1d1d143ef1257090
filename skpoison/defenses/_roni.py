"""Reject on negative impact: rows that make a trusted set worse."""

import math
import warnings

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags
from sklearn.utils.validation import validate_data

from skpoison.defenses._detectors import BaseDetector
from skpoison.defenses._inputs import check_learner, check_numbers
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._containers import as_rows, take_rows
from skpoison.utils._validation import check_number

#: Trusted rows that a class needs: one to train on, one to test on, one to calibrate.
_FEWEST = 3
#: Trainings that a worker is given at a time.
_CHUNK = 32


def _accuracies(estimator, X, y, base, held_out, blocks):
    """Return the accuracy on held-out rows of training on the base and each block."""
    X_held, y_held = take_rows(X, held_out), y[held_out]
    found = []
    for block in blocks:
        rows = np.concatenate([base, block])
        model = clone(estimator).fit(take_rows(X, rows), y[rows])
        found.append(np.mean(np.asarray(model.predict(X_held)) == y_held))
    return found


def _halves(rows, y, generator):
    """Split rows at random into two halves with a row of each class at least."""
    base, held_out = [], []
    for k in np.unique(y[rows]):
        own = generator.permutation(rows[y[rows] == k])
        middle = (len(own) + 1) // 2
        base.append(own[:middle])
        held_out.append(own[middle:])
    return np.concatenate(base), np.concatenate(held_out)


def _blocks(rows, size):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


class RONI(BaseDetector):
    """Distrust the rows whose addition makes a model worse on trusted rows.

    Rows are tried in blocks. A block is distrusted when the accuracy of models trained
    with it falls, against the same models without it, by more than that of blocks
    which are known to be good.

    Parameters
    ----------
    estimator : classifier, default=None
        Cloned and trained again and again, even if it is fitted; X reaches it as it
        came. None is ``LogisticRegression()``, with images flattened.
    trusted_size : float, default=0.2
        Share of each class that is sampled as trusted, three rows of it at least,
        when :meth:`fit` is given no `trusted` rows.
    block_size : int or "auto", default="auto"
        Rows that are tried together. "auto" is the smallest that stays within
        `max_fits`: 1 up to about a thousand rows.
    n_trials : int, default=5
        Splits of the trusted rows over which the drop is averaged.
    n_calibration : int, default=20
        Good blocks that are tried, for the threshold.
    threshold : "calibrated" or float, default="calibrated"
        Blocks with a larger drop in accuracy are distrusted. "calibrated" is the mean
        drop of the good blocks plus three standard deviations.
    max_fits : int, default=5000
        More trainings than this are refused: there are `n_trials` for each block, for
        each good block, and for the base.
    n_jobs : int, default=None
        Trainings at the same time, as in joblib; the result is the same.
    random_state : None, int, RandomState or Generator, default=None
        Draws the trusted rows, splits and blocks, and seeds the ``random_state``
        parameters of the estimator that are None: all trainings with one seed, so that
        they differ by their rows only.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        Mean drop in accuracy by the row's block. Rows that are not judged have the
        smallest score met.
    threshold_ : float
        The drop above which a block is distrusted.
    calibration_drops_ : ndarray of shape (n_calibration,)
        Mean drops by the good blocks.
    trusted_ : ndarray of shape (n_samples,), dtype bool
        The trusted rows, which are always kept.
    judged_ : ndarray of shape (n_samples,), dtype bool
        The rows that were tried.
    block_size_ : int
    n_fits_ : int
        Number of trainings.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust: all of a block, or none.
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

    See Also
    --------
    DataSanitizer : Judges rows by geometry, at the price of one pass over them.

    Notes
    -----
    A quarter of the trusted rows of each class is set aside, and good blocks are drawn
    from it. In each trial the others are split anew into a base set B and a test set V.
    With A the accuracy on V of training on the rows given, the score of a block C is
    the mean over trials of

    .. math:: A(B) - A(B \\cup C).

    Accuracy on a small V is coarse, and one row among many moves it rarely: the method
    finds rows that do visible damage alone, and can't find those that do it together
    only, or on few inputs only, as targeted attacks and backdoors do. Larger blocks
    show more of the former, and throw good rows away with bad ones; they are drawn at
    random from all candidates, so that good ones are alike the good ones of the
    calibration.

    Trusted rows that are sampled from poisoned data hold their share of the poisons:
    these are kept, unjudged; the base is worse for them; and the good blocks, which
    set the threshold, contain some, which raises it. Give trusted rows wherever there
    are any.

    References
    ----------
    M. Barreno, B. Nelson, A. D. Joseph and J. D. Tygar, "The security of machine
    learning", Machine Learning 81, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_blobs
    >>> from skpoison.defenses import RONI
    >>> X, y = make_blobs(60, centers=[[-2, 0], [2, 0]], random_state=0)
    >>> X[:3], y[:3] = [30, 0], 0  # three rows that turn the boundary
    >>> trusted = np.arange(60) >= 30
    >>> roni = RONI(random_state=0).fit(X, y, trusted=trusted)
    >>> roni.is_clean_[:3]
    array([False, False, False])
    """

    def __init__(
        self,
        estimator=None,
        *,
        trusted_size=0.2,
        block_size="auto",
        n_trials=5,
        n_calibration=20,
        threshold="calibrated",
        max_fits=5000,
        n_jobs=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.trusted_size = trusted_size
        self.block_size = block_size
        self.n_trials = n_trials
        self.n_calibration = n_calibration
        self.threshold = threshold
        self.max_fits = max_fits
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = True
        if self.estimator is not None:
            tags.input_tags.sparse = get_tags(self.estimator).input_tags.sparse
        return tags

    def fit(self, X, y, trusted=None):
        """Try every row that is not trusted.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features) or \
(n_samples, ...)
            Training data, tables or images; with an `estimator`, whatever that takes.
        y : array-like of shape (n_samples,)
            Labels, of any kind that scikit-learn's classifiers take.
        trusted : array-like of bool of shape (n_samples,), default=None
            The rows that are known to be good. None samples `trusted_size`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            A parameter out of range, one class only, or more than `max_fits`
            trainings.

        Warns
        -----
        UserWarning
            A class has fewer than three trusted rows, or, where these are sampled,
            fewer than four rows: its rows are kept, unjudged. So is every row where
            fewer than two classes are left.
        """
        check_learner("estimator", self.estimator)
        check_number("trusted_size", self.trusted_size, low=0.0, high=1.0, strict=True)
        if self.block_size != "auto":
            check_number("block_size", self.block_size, low=1, integer=True)
        check_number("n_trials", self.n_trials, low=1, integer=True)
        check_number("n_calibration", self.n_calibration, low=2, integer=True)
        if self.threshold != "calibrated":
            check_number("threshold", self.threshold)
        check_number("max_fits", self.max_fits, low=1, integer=True)
        return self._fit(X, y, trusted=trusted)

    def _check_X(self, X):
        if self.estimator is not None:  # it says itself what it can't take
            validate_data(self, X, skip_check_array=True)
            return as_rows(X)
        return check_numbers(self, X, accept_sparse="csr")

    def _score(self, X, y, trusted=None):  # type: ignore[override]
        if len(self.classes_) < 2:
            raise ValueError(
                f"RONI needs at least 2 classes, got {len(self.classes_)} class: "
                f"{self.classes_.tolist()}"
            )
        streams = RandomStreams(self.random_state)
        self.trusted_ = self._trusted_rows(trusted, y, streams.numpy("trusted"))
        judged = self._judged_classes(y)
        self.judged_ = ~self.trusted_ & judged[y]
        candidates = np.flatnonzero(self.judged_)
        generator = streams.numpy("blocks")
        self.block_size_ = self._find_block_size(len(candidates))
        tried = _blocks(generator.permutation(candidates), self.block_size_)
        if not tried:
            self.calibration_drops_, self.n_fits_ = np.zeros(self.n_calibration), 0
            return np.zeros(len(y))

        known = np.flatnonzero(self.trusted_ & judged[y])
        apart, rest = self._set_apart(known, y, generator)
        good = self._good_blocks(apart, generator)
        estimator = LogisticRegression() if self.estimator is None else self.estimator
        estimator = clone(estimator)
        set_random_states(estimator, streams, only_missing=True)
        splits = [_halves(rest, y, generator) for _ in range(self.n_trials)]
        drops = self._drops(estimator, X, self.classes_[y], splits, good + tried)
        self.calibration_drops_ = drops[: len(good)]
        scores = np.full(len(y), drops[len(good) :].min())
        for block, drop in zip(tried, drops[len(good) :], strict=True):
            scores[block] = drop
        return scores

    def _trusted_rows(self, trusted, y, generator):
        if trusted is not None:
            trusted = np.asarray(trusted)
            if trusted.shape != y.shape or trusted.dtype != bool:
                raise ValueError(
                    f"trusted must be a mask of bool of shape ({len(y)},), got "
                    f"{trusted.dtype} of shape {trusted.shape}"
                )
            return trusted.copy()
        trusted = np.zeros(len(y), dtype=bool)
        for k in range(len(self.classes_)):
            rows = np.flatnonzero(y == k)
            count = max(math.floor(self.trusted_size * len(rows)), _FEWEST)
            if count < len(rows):
                trusted[generator.choice(rows, count, replace=False)] = True
        return trusted

    def _judged_classes(self, y):
        counts = np.bincount(y[self.trusted_], minlength=len(self.classes_))
        judged = counts >= _FEWEST
        if judged.sum() < 2:
            judged[:] = False
        if not judged.all():
            warnings.warn(
                "classes with too few trusted rows are not judged, and kept: "
                f"{self.classes_[~judged].tolist()}",
                UserWarning,
                stacklevel=5,
            )
        return judged

    def _find_block_size(self, n_candidates):
        fixed = self.n_trials * (1 + self.n_calibration)
        most = (self.max_fits - fixed) // self.n_trials  # blocks that can be afforded
        size = self.block_size
        if size == "auto":
            size = max(math.ceil(n_candidates / max(most, 1)), 1)
        self.n_fits_ = fixed + self.n_trials * math.ceil(n_candidates / size)
        if self.n_fits_ > self.max_fits:
            raise ValueError(
                f"{n_candidates} rows in blocks of block_size={size} with n_trials="
                f"{self.n_trials} and n_calibration={self.n_calibration} take "
                f"{self.n_fits_} trainings, more than max_fits={self.max_fits}: take "
                "larger blocks or fewer trials, or raise max_fits"
            )
        return size

    def _set_apart(self, rows, y, generator):
        """Split rows into a quarter of each class, one at least, and the rest."""
        apart, rest = [], []
        for k in np.unique(y[rows]):
            own = generator.permutation(rows[y[rows] == k])
            count = max(len(own) // 4, 1)
            apart.append(own[:count])
            rest.append(own[count:])
        return np.concatenate(apart), np.concatenate(rest)

    def _good_blocks(self, rows, generator):
        size = self.block_size_
        n_rounds = math.ceil(self.n_calibration * size / len(rows))
        drawn = np.concatenate([generator.permutation(rows) for _ in range(n_rounds)])
        return _blocks(drawn, size)[: self.n_calibration]

    def _drops(self, estimator, X, labels, splits, blocks):
        """Return the mean drop of accuracy over the splits by each block."""
        chunks = _blocks([[], *blocks], _CHUNK)
        chunks[0][0] = np.empty(0, dtype=np.intp)  # the base alone
        found = Parallel(n_jobs=self.n_jobs)(
            delayed(_accuracies)(estimator, X, labels, base, held_out, chunk)
            for base, held_out in splits
            for chunk in chunks
        )
        table = np.concatenate(found).reshape(len(splits), 1 + len(blocks))
        return (table[:, :1] - table[:, 1:]).mean(axis=0)

    def _flag(self, scores, y):
        self.threshold_ = self.threshold
        if self.threshold == "calibrated":
            drops = self.calibration_drops_
            self.threshold_ = float(drops.mean() + 3 * drops.std(ddof=1))
        # the slack is for the rounding of means that are equal
        return (scores > self.threshold_ + 1e-12) & self.judged_
