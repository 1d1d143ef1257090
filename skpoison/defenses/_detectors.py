"""Detectors: which training rows to distrust, by a score and a stated rule."""

import warnings
from abc import abstractmethod

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from skpoison.defenses import _label_noise
from skpoison.utils import RandomStreams, n_budget
from skpoison.utils._containers import as_rows, is_frame, is_number_type, take_rows
from skpoison.utils._rows import keep_every_class
from skpoison.utils._validation import check_given, check_number


class BaseDetector(OutlierMixin, BaseEstimator):
    """Base of all detectors of suspicious training rows.

    A subclass writes ``_score(X, y, **fit_params)``, which takes validated data and
    labels encoded as 0 ... n_classes - 1 and returns one score a row, larger for more
    suspicious, and ``_flag(scores, y)``, which returns the rows to distrust as a
    boolean mask. It may replace ``_check_X``, the validation of X.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        Larger is more suspicious.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust.
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

    Warns
    -----
    UserWarning
        The rule rejects every row of a class: the five least suspicious are kept.

    Notes
    -----
    The rule needs labels, so that this is no scikit-learn outlier detector in the
    sense of its tag (those are fitted on X alone), though it shares their +1 / -1.
    A step that drops rows cannot be in scikit-learn's Pipeline; use
    :class:`imblearn.pipeline.Pipeline`.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = None
        tags.target_tags.required = True
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "sample_indices_")

    def fit(self, X, y):
        """Score every row of a training set.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data.
        y : array-like of shape (n_samples,)
            Labels, of any kind that scikit-learn's classifiers take.

        Returns
        -------
        self : object
        """
        return self._fit(X, y)

    def _fit(self, X, y, **fit_params):
        check_given(self, y)
        vars(self).pop("sample_indices_", None)  # what is interrupted is not fitted
        X = self._check_X(X)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.scores_ = np.asarray(self._score(X, codes, **fit_params), dtype=float)
        is_clean = ~self._flag(self.scores_, codes)
        self.is_clean_ = keep_every_class(is_clean, y, self.scores_)
        self.sample_indices_ = np.flatnonzero(self.is_clean_)
        self.n_removed_ = len(self.is_clean_) - len(self.sample_indices_)
        return self

    def _check_X(self, X):
        return validate_data(self, X)

    @abstractmethod
    def _score(self, X, y, **fit_params):
        """Return one score a row, larger for more suspicious."""

    @abstractmethod
    def _flag(self, scores, y):
        """Return the rows to distrust as a boolean mask."""

    def fit_predict(self, X, y, **fit_params):
        """Score every row and tell the clean from the suspicious.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **fit_params : dict
            Passed to ``fit``.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            +1 for clean and -1 for suspicious rows.
        """
        return np.where(self.fit(X, y, **fit_params).is_clean_, 1, -1)

    def fit_resample(self, X, y, **fit_params):
        """Score every row and return the clean ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **fit_params : dict
            Passed to ``fit``.

        Returns
        -------
        X_clean, y_clean : the containers that came in
            Rows keep their order; ``sample_indices_`` tells where they came from.
        """
        self.fit(X, y, **fit_params)
        return _take(X, self.sample_indices_), _take(y, self.sample_indices_)


def _take(data, rows):
    if issparse(data):  # not every sparse format can be indexed
        return data.tocsr()[rows].asformat(data.format)
    return take_rows(data, rows)


def _has_text(X):
    """Tell whether X is a table with columns that are no numbers."""
    if is_frame(X):
        return not all(is_number_type(d) or str(d).lower() == "bool" for d in X.dtypes)
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OSU":
        return any(isinstance(value, str) for value in X.flat)
    return False


class LabelIssueDetector(BaseDetector):
    """Find wrong labels by the agreement of several models, class by class.

    Each row is judged by models that never saw it. Their probabilities are pooled and
    calibrated together with a table of how often each class is mistaken for each
    other, and a row is distrusted when its label is more likely wrong than right. The
    models are then trained again without the distrusted rows, which sharpens the
    verdict where the wrong labels have a system.

    Parameters
    ----------
    estimators : list of classifiers, default=None
        Models with ``predict_proba``; X reaches them as it came, be it text, images
        or a data frame. None takes logistic regression (C=0.1) and ten nearest
        neighbours on the columns of :func:`~skpoison.utils.make_table_encoder`
        (categories and missing values are welcome; images are flattened), and, where
        all columns are numbers without gaps, ten nearest neighbours in the data's own
        units, which is the better distance where columns are commensurate, as pixels
        are. For sparse X: logistic regression on columns scaled to a maximum of 1 and
        ten nearest neighbours on rows scaled to unit length.
    threshold : float, default=0.5
        Rows with a larger score are distrusted. The score is a probability, so 0.5
        makes the fewest wrong decisions; raise it for precision, lower it for recall.
    max_false_positive_rate : float, default=None
        Instead of `threshold`: distrust as many rows of each class as keep the
        expected share of good labels lost, class by class, at or below this.
    contamination : int or float, default=None
        Instead of `threshold`: distrust exactly this many rows, or this share of
        them, the highest scores first, as long as no class is lost.
    cv : int, default=5
        Number of folds (5 as in the first reference's experiments); a class with
        fewer members is not judged.
    max_iter : int, default=3
        Rounds of training at most; 1 trains on all rows only. Rounds end when the set
        of distrusted rows stays the same. Chosen by measurement: the second round
        matters, the third matters where wrong labels concentrate on one class pair.
    n_jobs : int, default=None
        Models trained at the same time, as in joblib; the result is the same.
    random_state : None, int, RandomState or Generator, default=None
        Draws the folds, and seeds the ``random_state`` parameters of the estimators.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        Probability that the label is wrong.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust.
    proposed_labels_ : ndarray of shape (n_samples,)
        The most likely true label of each row.
    thresholds_ : ndarray of shape (n_classes,)
        The score above which a row with that label is distrusted.
    noise_matrix_ : ndarray of shape (n_classes, n_classes)
        Estimated probability of label j (column) where the truth is i (row).
    probabilities_ : ndarray of shape (n_samples, n_classes)
        Pooled, calibrated out-of-fold probabilities, before the label is looked at.
    estimator_weights_ : ndarray of shape (n_estimators,)
        Weight of each model in the pool.
    sharpness_ : float
        The exponent that calibrates the pooled probabilities.
    n_iter_ : int
        Rounds of training.
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

    Notes
    -----
    Let :math:`p_m(k | x)` be the out-of-fold probabilities of model m, :math:`a_m` the
    share of labels it agrees with and :math:`a_0` the share of the largest class. The
    pool is :math:`\\bar p \\propto \\sum_m v_m p_m + \\epsilon / K`, with weights
    :math:`v_m \\propto \\max(a_m - a_0, 0)^4` and a floor :math:`\\epsilon = 0.05`.
    Given a sharpness w and the noise matrix
    :math:`T_{kj} = P(\\text{label } j | \\text{truth } k)`, independent of x,

    .. math::
        p_w(k | x) \\propto \\bar p(k | x)^w, \\qquad
        q_i(k) = \\frac{p_w(k | x_i) T_{k y_i}}{\\sum_l p_w(l | x_i) T_{l y_i}},
        \\qquad s_i = 1 - q_i(y_i),

    and `scores_` are the :math:`s_i`. Expectation maximisation finds T, with one
    pseudo-count on the diagonal, and w maximises the penalised likelihood
    :math:`\\sum_i \\log \\sum_k p_w(k | x_i) T_{k y_i} - 0.03 n \\log^2(w / 2.5)`. The
    penalty is needed: flat probabilities without noise explain the labels almost as
    well as sharp ones with noise.

    At the threshold 1/2 and with one rival k the rule reads
    :math:`p_w(k | x) / p_w(y | x) > T_{yy} / T_{ky}`: every ordered pair of classes
    has a threshold of its own, low where mistakes are common, and high in data
    without any, which keeps false alarms rare there. This is the purpose of the class
    thresholds of confident learning [1]_, reached by a likelihood; a vote of
    neighbours [2]_ is the case of one model and no noise matrix.

    The probabilities are worth as much as the two assumptions: mistakes depend on
    the truth and not on x otherwise, and the features separate most of the classes.
    Where classes overlap, good labels deep inside another class are distrusted (a few
    per cent of the rows); so are the confident errors of a single weak model. Labels
    that nothing predicts come out as half wrong.

    Rows of the same origin (patients, frames of one video) must be in the same fold:
    pass `groups`.

    References
    ----------
    .. [1] C. Northcutt, L. Jiang and I. Chuang, "Confident learning: estimating
       uncertainty in dataset labels", JAIR 70, 2021.
    .. [2] D. Wilson, "Asymptotic properties of nearest neighbor rules using edited
       data", IEEE Transactions on Systems, Man, and Cybernetics 2(3), 1972.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skpoison.defenses import LabelIssueDetector
    >>> X, y = load_iris(return_X_y=True)
    >>> y[[3, 70]] = 1, 0
    >>> detector = LabelIssueDetector(random_state=0).fit(X, y)
    >>> bool(detector.is_clean_[[3, 70]].any())
    False
    >>> detector.proposed_labels_[[3, 70]]
    array([0, 1])
    """

    def __init__(
        self,
        estimators=None,
        *,
        threshold=0.5,
        max_false_positive_rate=None,
        contamination=None,
        cv=5,
        max_iter=3,
        n_jobs=None,
        random_state=None,
    ):
        self.estimators = estimators
        self.threshold = threshold
        self.max_false_positive_rate = max_false_positive_rate
        self.contamination = contamination
        self.cv = cv
        self.max_iter = max_iter
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X, y, pred_proba=None, groups=None):
        """Score every row of a training set.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, ...)
            Training data.
        y : array-like of shape (n_samples,)
            Labels, of any kind that scikit-learn's classifiers take.
        pred_proba : array-like of shape (n_samples, n_classes) or a list of such, \
default=None
            Probabilities from models that did not see the row, columns in the order
            of the sorted labels. No model is trained then, and there is one round.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group are kept in one fold.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            An estimator has no ``predict_proba``.
        ValueError
            A parameter out of range, one class only, or probabilities that don't fit.

        Warns
        -----
        UserWarning
            A class with fewer members (or, with groups, fewer groups) than folds: it
            gets score 0 and is kept.
        """
        check_number("cv", self.cv, low=2, integer=True)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number("threshold", self.threshold, low=0.0, high=1.0)
        if self.max_false_positive_rate is not None:
            check_number(
                "max_false_positive_rate",
                self.max_false_positive_rate,
                low=0.0,
                high=1.0,
            )
            if self.contamination is not None:
                raise ValueError(
                    "give max_false_positive_rate or contamination, not both; got "
                    f"{self.max_false_positive_rate} and {self.contamination}"
                )
        return self._fit(X, y, pred_proba=pred_proba, groups=groups)

    def _check_X(self, X):
        if self.estimators is not None:
            validate_data(self, X, skip_check_array=True)
            return as_rows(X) if hasattr(X, "shape") else np.asarray(X)
        if _has_text(X):
            validate_data(self, X, skip_check_array=True)
            return X
        if getattr(X, "ndim", 2) > 2:
            X = np.asarray(X).reshape(len(X), -1)
        return validate_data(
            self, X, accept_sparse="csr", ensure_all_finite="allow-nan"
        )

    def _score(self, X, y, pred_proba=None, groups=None):  # type: ignore[override]
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes, got 1 class: "
                f"{self.classes_[0]!r}"
            )
        if pred_proba is None:
            streams = RandomStreams(self.random_state)
            estimators = _label_noise.seeded_estimators(self.estimators, X, streams)
            seed = streams.seed("folds")
            folds, judged = _label_noise.make_folds(y, groups, self.cv, seed)
            self._warn_not_judged(judged, len(folds))
        else:
            tables = _label_noise.check_tables(pred_proba, len(y), n_classes)
            judged = np.ones(n_classes, dtype=bool)
        keep = np.ones(len(y), dtype=bool)
        for n_iter in range(1, self.max_iter + 1):
            self.n_iter_ = n_iter
            if pred_proba is None:
                tables = _label_noise.out_of_fold(
                    estimators, X, y, folds, keep, self.n_jobs
                )
            weights = _label_noise.pool_weights(tables, y)
            sharpness, probabilities, noise, truth = _label_noise.calibrate(
                np.tensordot(weights, tables, 1), y
            )
            scores = np.where(judged[y], 1.0 - truth[np.arange(len(y)), y], 0.0)
            # train on half of each class at the least, or it could never come back
            limits = [max(0.5, np.median(scores[y == k])) for k in range(n_classes)]
            last, keep = keep, scores <= np.take(limits, y)
            if pred_proba is not None or (last == keep).all():
                break
        self.estimator_weights_, self.sharpness_ = weights, float(sharpness)
        self.probabilities_, self.noise_matrix_ = probabilities, noise
        proposed = np.where(judged[y], truth.argmax(axis=1), y)
        self.proposed_labels_ = self.classes_[proposed]
        return scores

    def _warn_not_judged(self, judged, n_folds):
        if not judged.all():
            warnings.warn(
                f"classes with fewer members or groups than the {n_folds} folds are "
                f"not judged, their rows get score 0: {self.classes_[~judged]}",
                UserWarning,
                stacklevel=5,
            )

    def _flag(self, scores, y):
        n_classes = len(self.classes_)
        if self.contamination is not None:
            count = n_budget(self.contamination, len(y), name="contamination")
            order = np.argsort(-scores, kind="stable")
            limit = scores[order[count]] if count < len(y) else -np.inf
            self.thresholds_ = np.full(n_classes, limit)
            return np.isin(np.arange(len(y)), order[:count])  # exact, also with ties
        self.thresholds_ = np.full(n_classes, float(self.threshold))
        if self.max_false_positive_rate is not None:
            for k in range(n_classes):
                ranked = np.sort(scores[y == k])[::-1]
                lost = np.cumsum(1.0 - ranked)  # expected number of good labels
                allowed = self.max_false_positive_rate * lost[-1]
                # the small relative slack is for the rounding of the sums
                count = np.searchsorted(lost, allowed * (1 + 1e-9), side="right")
                self.thresholds_[k] = ranked[count] if count < len(ranked) else 0.0
        return scores > self.thresholds_[y]
