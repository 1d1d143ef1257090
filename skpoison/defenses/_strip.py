"""STRIP: triggered rows keep their prediction under any overlay."""

import warnings

import numpy as np
from scipy.special import entr
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.defenses._detectors import BaseDetector
from skpoison.defenses._feature_detectors import trained
from skpoison.utils import RandomStreams
from skpoison.utils._containers import is_frame, like, take_rows
from skpoison.utils._validation import check_number

# Values in one call of predict_proba: 16 MiB in float32.
_CHUNK = 2**22


class STRIP(BaseDetector):
    """Reject rows whose prediction no overlay can shake: a trigger holds it.

    A row is blended with clean rows of all kinds. The prediction of an honest row then
    wavers between classes; that of a row with a strong trigger stays at the target.
    The detector works when the model is in use: `fit` takes clean rows, `predict`
    judges new ones. As any detector it also filters a training set.

    Parameters
    ----------
    estimator : classifier, default=None
        Anything with ``predict_proba``; None is
        :class:`~skpoison.models.TorchClassifier`. One that is fitted, or in
        scikit-learn's ``FrozenEstimator``, is used as it is; otherwise a clone is
        trained on the rows given to `fit`. ``clone``, and so a search, forgets a fit:
        use ``FrozenEstimator`` there.
    n_overlays : int, default=20
        Rows that each row is blended with; the same for all, so that a row's score
        does not depend on its company; two at least.
    blend : float, default=0.5
        Weight of the row that is judged.
    false_rejection : float, default=0.01
        Share of clean rows that may be rejected, at most. The paper reports 0.01.
    random_state : None, int, RandomState or Generator, default=None
        Draws the overlays, and seeds the ``random_state`` parameters of the estimator
        that are None.

    Attributes
    ----------
    threshold_ : float
        Rows are rejected whose entropy is not above this; negative where none is.
    overlays_ : ndarray of shape (n_overlays, n_features) or (n_overlays, ...)
        Drawn from the rows of `fit`.
    estimator_ : classifier
        The fitted model that is asked.
    scores_ : ndarray of shape (n_samples,), dtype float64
        Minus the entropy of each row of `fit`: larger is more suspicious.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows of `fit` that are rejected; never all rows of a class.
    sample_indices_ : ndarray of int
        Positions of the rows that :meth:`fit_resample` keeps, in their order.
    n_removed_ : int
        Number of rows of `fit` that are rejected.
    classes_ : ndarray of shape (n_classes,)
        The labels met in `fit`.
    n_features_in_ : int
        Number of features met.
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    Raises
    ------
    TypeError
        In `fit`: the estimator has no ``predict_proba``, or a parameter is no number.
    ValueError
        In `fit`: a parameter out of range, or fewer than two rows.

    Warns
    -----
    UserWarning
        Nothing can be rejected: there are fewer than ``1 / false_rejection`` rows, or
        more rows than may be rejected tie at the lowest entropy. Or every row of a
        class is rejected, of which the five least suspicious are then kept.

    See Also
    --------
    NeuralCleanse : Looks for the trigger in the network itself.

    Notes
    -----
    With overlays :math:`x_1, ..., x_N` and class probabilities :math:`f_k`, the score
    is the mean entropy over classes, in nats,

    .. math::
        H(x) = -\\frac{1}{N} \\sum_{j=1}^N \\sum_k f_k(z_j) \\log f_k(z_j),
        \\qquad z_j = b\\,x + (1 - b)\\,x_j,

    with b the `blend`; a row of `fit` that is itself an overlay is not blended with
    itself. Let m be the floor of `false_rejection` times the number of rows in `fit`.
    The threshold is the largest of their H that at most m of them do not exceed, so
    that a new clean row is rejected with probability m / (n + 1) at most. This
    needs rows that the model was not trained on: on those it was, it is surer.

    Unsigned integers, as uint8 pixels, are blended as such, rounded.

    The method is weak where the trigger is: it finds only triggers that survive the
    overlay. On Fashion-MNIST of 14 by 14 pixels with a patch on 3 % of the rows it
    finds 10 to 30 % of the triggered rows at a false rejection of 1 %, and 23 to 39 %
    at 5 %; where the backdoor works half of
    the time only, triggered rows are *less* suspicious than clean ones.

    References
    ----------
    Gao et al. (2019), STRIP: a defence against trojan attacks on deep neural networks.
    ACSAC. arXiv:1902.06531.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.attacks import BackdoorAttack, PatchTrigger
    >>> from skpoison.defenses import STRIP
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> trigger = PatchTrigger("solid", margin=0, input_shape=(1, 8, 8))
    >>> attack = BackdoorAttack(trigger, target_class=3, random_state=0)
    >>> data = attack.poison(X[:1000], y[:1000])
    >>> model = LogisticRegression(max_iter=1000).fit(data.X, data.y)
    >>> detector = STRIP(model, random_state=0).fit(X[1000:1400], y[1000:1400])
    >>> bool((detector.predict(X[1400:]) == -1).mean() < 0.02)
    True
    >>> triggered = attack.apply_trigger(X[1400:])
    >>> bool((detector.predict(triggered) == -1).mean() > 0.5)
    True
    """

    def __init__(
        self,
        estimator=None,
        *,
        n_overlays=20,
        blend=0.5,
        false_rejection=0.01,
        random_state=None,
    ):
        self.estimator = estimator
        self.n_overlays = n_overlays
        self.blend = blend
        self.false_rejection = false_rejection
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X, y):
        """Read from clean rows what is usual, or judge a training set.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Numbers: the defender's clean rows, or the training rows to be filtered.
        y : array-like of shape (n_samples,)
            Their labels; a fitted estimator does not need them.

        Returns
        -------
        self : object
        """
        check_number("n_overlays", self.n_overlays, low=2, integer=True)
        check_number("blend", self.blend, low=0, high=1, strict=True)
        check_number("false_rejection", self.false_rejection, low=0, high=1)
        given = self.estimator
        is_model = hasattr(given, "predict_proba") and not isinstance(given, type)
        if given is not None and not is_model:
            raise TypeError(
                f"estimator must be a classifier with predict_proba, got {given!r}"
            )
        return self._fit(X, y)

    def _check_X(self, X, reset=True):
        checked = validate_data(
            self, X, reset=reset, allow_nd=True, ensure_min_samples=2 if reset else 1
        )
        return X if is_frame(X) else checked

    def _score(self, X, y, **fit_params):
        streams = RandomStreams(self.random_state)
        self.estimator_ = trained(self.estimator, X, self.classes_[y], streams)
        drawn = streams.numpy("overlays").permutation(len(y))[: self.n_overlays]
        self.overlays_ = _numbers(X)[drawn]
        entropies = self._entropies(X)
        entropies[drawn, np.arange(len(drawn))] = np.nan  # a row over itself
        return -np.nanmean(entropies, axis=1)

    def _flag(self, scores, y):
        entropies = -scores
        allowed = int(self.false_rejection * len(scores) + 1e-9)  # floor
        ranked = np.append(np.sort(entropies), np.inf)
        # equal rows share their fate, and then fewer are rejected, never more
        count = np.searchsorted(ranked, ranked[allowed])
        self.threshold_ = float(ranked[count - 1]) if count else -1.0
        if count == 0 and self.false_rejection > 0:
            reason = "the lowest entropies tie" if allowed else "that is less than one"
            warnings.warn(
                f"false_rejection={self.false_rejection} of {len(scores)} rows: "
                f"{reason}, so no row is rejected",
                UserWarning,
                stacklevel=4,
            )
        return entropies <= self.threshold_

    def _entropies(self, X):
        """Return the entropy of each row under each overlay."""
        numbers, overlays = _numbers(X), self.overlays_
        if numbers.shape[1:] != overlays.shape[1:]:
            raise ValueError(
                f"X has samples of shape {numbers.shape[1:]}, but STRIP was fitted on "
                f"samples of shape {overlays.shape[1:]}"
            )
        found = np.empty((len(numbers), len(overlays)))
        step = max(1, _CHUNK // overlays.size)
        for start in range(0, len(numbers), step):
            rows = numbers[start : start + step, None]
            mixed = self.blend * rows + (1 - self.blend) * overlays
            if numbers.dtype.kind == "u":
                mixed = np.rint(mixed)
            mixed = mixed.astype(
                numbers.dtype if numbers.dtype.kind in "fu" else float, copy=False
            ).reshape(-1, *overlays.shape[1:])
            if is_frame(X):
                at = np.arange(start, start + len(rows)).repeat(len(overlays))
                mixed = like(mixed, take_rows(X, at))
            chances = np.asarray(self.estimator_.predict_proba(mixed), dtype=float)
            if not np.isfinite(chances).all():
                raise ValueError(
                    "estimator must predict finite probabilities, got NaN or infinity "
                    f"from {self.estimator_}"
                )
            found[start : start + step] = (
                entr(chances).sum(axis=1).reshape(-1, len(overlays))
            )
        return found

    def score_samples(self, X):
        """Return the mean entropy of each row's predictions under the overlays.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        entropies : ndarray of shape (n_samples,), dtype float64
            In nats; larger is more normal, as in scikit-learn's outlier detectors.
        """
        check_is_fitted(self)
        return self._entropies(self._check_X(X, reset=False)).mean(axis=1)

    def decision_function(self, X):
        """Return how far each row's entropy is above the threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        margins : ndarray of shape (n_samples,)
            Rejected rows have none above 0.
        """
        return self.score_samples(X) - self.threshold_

    def predict(self, X):
        """Tell clean rows from those that seem to carry a trigger.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            +1 for clean rows, -1 for those to reject.
        """
        return np.where(self.score_samples(X) <= self.threshold_, -1, 1)


def _numbers(X):
    return X.to_numpy() if is_frame(X) else X
