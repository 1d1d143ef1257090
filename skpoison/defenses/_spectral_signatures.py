"""Poisons by the direction in which the features of a class are spread most."""

import numpy as np

from skpoison.defenses._feature_detectors import (
    FeatureDetector,
    check_expected,
    check_flags,
    class_projections,
    n_expected,
    spare_one,
    warn_not_judged,
)
from skpoison.utils._validation import check_label, check_number, check_option


class SpectralSignatures(FeatureDetector):
    """Find rows that stand out along the main direction of their class.

    A backdoor leaves a trace in the features of a network: the poisons of a class lie
    to one side of it, along the direction in which the class is spread most.

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
    rule : {"auto", "mad", "budget", "count"}, default="auto"
        What is removed. "mad": rows whose robust z-score exceeds `threshold`, in each
        class less than half. "budget": as many rows of all classes together as
        `multiplier` times `expected_poison`, the largest z-scores. "count", the rule
        of [1]_: that many rows of each class, the largest scores. "auto" is "count"
        where `expected_poison` is given and "mad" where it is not: counting removes
        rows of clean classes as if they were poisoned, with ten classes and 0.05
        three quarters of all rows.
    threshold : float, default=3.5
        Largest z-score that is not suspicious, of rule "mad"; that of [2]_.
    expected_poison : int or float, default=None
        Upper bound on the poisons in one class: a count, or a share of all rows. Of
        the rules "count" and "budget", where None is 0.05, the smaller share of
        [1]_'s.
    multiplier : float, default=1.5
        Rows removed for a poison expected, of the same rules; that of [1]_.
    n_components : int, default=1
        Directions looked at; 1 as in [1]_.
    per_class : bool, default=True
        False takes all rows as one class.
    target_classes : array-like of labels, default=None
        Only rows with these labels are judged; None is all.
    random_state : None, int, RandomState or Generator, default=None
        Seeds the ``random_state`` parameters of `estimator` that are None.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        Squared distance from the mean of the class along the directions; 0 where a
        class is not judged.
    z_scores_ : ndarray of shape (n_samples,), dtype float64
        Distance from the median of the class in robust standard deviations, the
        largest over the directions; comparable between classes.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust; never all rows of a class.
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
        Classes of one row, or whose rows are all alike, are not judged; features that
        are not finite are left out.

    See Also
    --------
    ActivationClustering : Splits the features of a class into clusters.
    DeepKNN : Looks at the labels of neighbours.
    LabelIssueDetector : For wrong labels without a trigger.

    Notes
    -----
    Let :math:`\\phi_i` be the features of the rows of a class, :math:`\\mu` their mean
    and :math:`v` the top right singular vector of the matrix of the
    :math:`\\phi_i - \\mu`. The score is

    .. math:: s_i = \\langle \\phi_i - \\mu, v \\rangle^2,

    summed over `n_components` vectors. With :math:`p_i = \\langle \\phi_i - \\mu, v
    \\rangle`, the z-score is :math:`|p_i - \\mathrm{median}(p)| / (1.4826 \\,
    \\mathrm{MAD})`, with the median absolute deviation, or, where more than half of the
    rows are alike, 1.2533 times the mean one. The median is not drawn towards the
    poisons as the mean is.

    The projection is that of centred features. Without centring the score is mostly
    the size of the class mean, and ranks poisons below clean rows as often as above.

    The trace is there only if the poisons are a minority of their class that shifts
    its mean along the direction of largest spread: few of them hide behind the spread
    of clean rows, and where they are the majority the clean rows stand out. The
    directions are exact, from an eigendecomposition of the smaller Gram matrix.

    References
    ----------
    .. [1] B. Tran, J. Li and A. Madry, "Spectral signatures in backdoor attacks",
       NeurIPS 2018.
    .. [2] B. Iglewicz and D. Hoaglin, "How to detect and handle outliers", ASQC Quality
       Press, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.defenses import SpectralSignatures
    >>> rng = np.random.default_rng(1)
    >>> X, y = rng.normal(size=(200, 5)), np.repeat(["cat", "dog"], 100)
    >>> X[:10] += 4
    >>> detector = SpectralSignatures(features="input").fit(X, y)
    >>> np.flatnonzero(~detector.is_clean_)
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    _takes_numbers = True

    def __init__(
        self,
        estimator=None,
        *,
        features="auto",
        rule="auto",
        threshold=3.5,
        expected_poison=None,
        multiplier=1.5,
        n_components=1,
        per_class=True,
        target_classes=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.features = features
        self.rule = rule
        self.threshold = threshold
        self.expected_poison = expected_poison
        self.multiplier = multiplier
        self.n_components = n_components
        self.per_class = per_class
        self.target_classes = target_classes
        self.random_state = random_state

    def _check_parameters(self):
        super()._check_parameters()
        check_option("rule", self.rule, ("auto", "mad", "budget", "count"))
        check_number("threshold", self.threshold, low=0.0)
        check_expected(self._expected())
        check_number("multiplier", self.multiplier, low=0.0)
        check_number("n_components", self.n_components, low=1, integer=True)
        check_flags(per_class=self.per_class)
        wanted = self.target_classes
        if wanted is not None and (np.ndim(wanted) != 1 or len(wanted) == 0):
            raise TypeError(
                f"target_classes must be None or a list of labels, got {wanted!r}"
            )

    def _expected(self):
        return 0.05 if self.expected_poison is None else self.expected_poison

    def _check_classes(self):
        for label in () if self.target_classes is None else self.target_classes:
            check_label("target_classes", label, self.classes_)

    def _pools(self, y):
        """Return the positions of the rows that are judged together."""
        codes = np.arange(len(self.classes_))
        if self.target_classes is not None:
            codes = np.flatnonzero(np.isin(self.classes_, self.target_classes))
        if self.per_class:
            return [np.flatnonzero(y == k) for k in codes]
        return [np.flatnonzero(np.isin(y, codes))]

    def _score_features(self, F, y):
        scores, self.z_scores_ = np.zeros(len(y)), np.zeros(len(y))
        alike = []
        for rows in self._pools(y):
            projections = class_projections(
                F, rows, self.n_components, dtype=np.float64
            )
            if projections.shape[1]:
                scores[rows] = (projections**2).sum(axis=1)
                self.z_scores_[rows] = _robust_z(projections)
            else:
                alike.append(y[rows])
        skipped = np.unique(np.concatenate([*alike, np.zeros(0, int)]))
        warn_not_judged(self.classes_[skipped], "one row or rows that are all alike")
        return scores

    def _flag(self, scores, y):
        pools = self._pools(y)
        rule = self.rule
        if rule == "auto":
            rule = "mad" if self.expected_poison is None else "count"
        if rule == "mad":
            return spare_one(self.z_scores_ > self.threshold, scores, y)
        count = n_expected(self._expected(), self.multiplier, len(y))
        if rule == "budget":
            suspects = _largest(self.z_scores_, np.sort(np.concatenate(pools)), count)
        else:
            suspects = np.zeros(len(y), dtype=bool)
            for rows in pools:
                suspects |= _largest(scores, rows, count)
        return spare_one(suspects, scores, y)


def _robust_z(projections):
    """Return the largest deviation from the median, over directions."""
    away = np.abs(projections - np.median(projections, axis=0))
    spread = 1.4826 * np.median(away, axis=0)
    # rounding may leave a little of a spread that is 0
    alike = spread <= 1e-9 * away.max(axis=0)
    spread[alike] = 1.2533 * away[:, alike].mean(axis=0)
    return (away / spread).max(axis=1)


def _largest(scores, rows, count):
    """Return a mask of the `count` largest scores above 0 among some rows."""
    found = rows[np.argsort(-scores[rows], kind="stable")[:count]]
    mask = np.zeros(len(scores), dtype=bool)
    mask[found] = scores[found] > 0
    return mask
