"""Meta-estimators that change the training set and nothing else."""

from copy import copy

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import (
    _num_samples,
    check_consistent_length,
    check_is_fitted,
)

from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._containers import as_rows, take_rows
from skpoison.utils._rows import keep_every_class


def _inner_has(name):
    def check(self):
        inner = getattr(self, "estimator_", None) or self._inner()
        return hasattr(inner, name)

    return check


def _routing_enabled():
    from sklearn import get_config

    return get_config()["enable_metadata_routing"]


class _TrainingSetEstimator(MetaEstimatorMixin, BaseEstimator):
    """Train a clone of ``estimator`` on a changed training set; predict as it does."""

    #: Tells `set_random_states` that seeding this object replaces its parts' seeds.
    passes_on_seeds = True

    def _change(self, X, y, streams):
        """Return X, y and, for each row, the row of the input it came from."""
        raise TypeError(f"{type(self).__name__} must define _change")

    def _inner(self):
        return LogisticRegression() if self.estimator is None else self.estimator

    def fit(self, X, y=None, **fit_params):
        """Change the training set and fit the estimator on it.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        **fit_params : dict
            For the estimator's ``fit``; what has one entry a row follows its row.

        Returns
        -------
        self
        """
        if _routing_enabled():
            fit_params = process_routing(self, "fit", **fit_params).estimator.fit
        X = as_rows(X)
        n_samples = _num_samples(X)
        streams = None
        if self.random_state is not None:
            streams = RandomStreams(self.random_state)
        X_new, y_new, sources = self._change(X, y, streams)
        fit_params = {
            name: self._follow(name, value, sources, n_samples)
            for name, value in fit_params.items()
        }
        inner = clone(self._inner())
        if streams is not None:
            set_random_states(inner, streams)
        self.estimator_ = inner.fit(X_new, y_new, **fit_params)
        return self

    def _follow(self, name, value, sources, n_samples):
        if sources is None or np.ndim(value) == 0 or len(value) != n_samples:
            return value
        if (np.asarray(sources) < 0).any():
            raise ValueError(f"{name} cannot be extended to rows made from nothing")
        return take_rows(value, sources)

    @property
    def classes_(self):
        """Class labels of the fitted estimator."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.classes_

    @property
    def n_features_in_(self):
        """Number of features seen in ``fit``."""
        return _fitted(self, "n_features_in_")

    @property
    def feature_names_in_(self):
        """Names of the features seen in ``fit``, where they had names."""
        return _fitted(self, "feature_names_in_")

    @available_if(_inner_has("predict"))
    def predict(self, X, **params):
        """Predict with the fitted estimator, on the rows as they are given."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict(X, **params)

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X):
        """Return the fitted estimator's class probabilities."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict_proba(X)

    @available_if(_inner_has("predict_log_proba"))
    def predict_log_proba(self, X):
        """Return the fitted estimator's log-probabilities."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict_log_proba(X)

    @available_if(_inner_has("decision_function"))
    def decision_function(self, X):
        """Return the fitted estimator's decision values."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.decision_function(X)

    @available_if(_inner_has("score"))
    def score(self, X, y=None, **score_params):
        """Return the fitted estimator's score on the rows as they are given."""
        check_is_fitted(self, "estimator_")
        if _routing_enabled():
            routed = process_routing(self, "score", **score_params)
            score_params = routed.estimator.score
        return self.estimator_.score(X, y, **score_params)

    def get_metadata_routing(self):
        """Return the router: ``fit`` and ``score`` metadata go to the estimator."""
        return MetadataRouter(owner=type(self).__name__).add(
            estimator=self._inner(),
            method_mapping=MethodMapping()
            .add(caller="fit", callee="fit")
            .add(caller="score", callee="score"),
        )

    def __sklearn_is_fitted__(self):
        return hasattr(self, "estimator_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self._inner())
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = inner.classifier_tags
        tags.regressor_tags = inner.regressor_tags
        tags.target_tags = inner.target_tags
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        return tags


def victim_parameters(attack):
    """Return the names of the parameters by which an attack asks for its victim."""
    return [
        name
        for name in ("estimator", "surrogate")
        if isinstance(getattr(attack, name, None), str)
        and getattr(attack, name) == "victim"
    ]


def name_victim(attack, victim):
    """Put clones of the victim where the attack, a copy, says "victim"."""
    for name in victim_parameters(attack):
        attack.set_params(**{name: clone(victim)})
    return attack


def _fitted(estimator, name):
    # AttributeError before fit, so that hasattr tells the truth
    return getattr(estimator.estimator_, name)


class PoisonedEstimator(_TrainingSetEstimator):
    """Train an estimator on poisoned data, predict on clean data.

    The recommended way to measure an attack: it takes either kind, works in every
    scikit-learn search, and never touches what is predicted, so that test folds
    stay clean. Attack, budget and victim are ordinary parameters.

    Parameters
    ----------
    attack : attack, default=None
        From :mod:`skpoison.attacks`, or any estimator whose ``poison(X, y)`` returns
        a Bunch with `X`, `y` and, where rows move, `sample_indices`; cloned. None
        trains on the data as they are. Where its ``estimator`` or ``surrogate`` is
        the string "victim", it gets a clone of `estimator`: an attack that knows
        whom it attacks, in a search over victims too.
    estimator : estimator, default=None
        The victim; cloned. None is ``LogisticRegression()``.
    random_state : None, int, RandomState or Generator, default=None
        Not None: passed on, as independent seeds, to every ``random_state`` of
        attack and victim. None leaves theirs as they are. The clone that an attack
        gets for "victim" keeps those of `estimator`: the attacker does not know the
        victim's seed.

    Attributes
    ----------
    attack_ : attack or None
        Fitted; its ``poison_indices_`` and the like tell what was done.
    estimator_ : estimator
        The victim, fitted on the poisoned data.
    classes_ : ndarray of shape (n_classes,)
        For classifiers.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    See Also
    --------
    FilteredEstimator : Filters the training data first: nest it in this one to
        measure what a filter buys.
    skpoison.metrics.attack_success_score : The attacker's score of a fitted one.

    Notes
    -----
    Fit parameters with one entry a row, such as ``sample_weight``, follow their rows
    through attacks that change the number of rows.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skpoison.attacks import LabelFlipAttack
    >>> from skpoison.compose import PoisonedEstimator
    >>> from sklearn.linear_model import RidgeClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> search = GridSearchCV(
    ...     PoisonedEstimator(LabelFlipAttack("adversarial"), RidgeClassifier()),
    ...     {"attack__budget": [0, 0.2]},
    ...     refit=False,
    ... ).fit(X, y)
    >>> clean, poisoned = search.cv_results_["mean_test_score"]
    >>> bool(clean > 0.95), bool(poisoned < 0.9)
    (True, True)
    """

    def __init__(self, attack=None, estimator=None, *, random_state=None):
        self.attack = attack
        self.estimator = estimator
        self.random_state = random_state

    def _change(self, X, y, streams):
        if self.attack is None:
            self.attack_ = None
            return X, y, None
        if not hasattr(self.attack, "poison"):
            raise TypeError(
                "attack must have poison(X, y), as the classes of skpoison.attacks "
                f"do, got {self.attack!r}"
            )
        attack = clone(self.attack)
        if streams is not None:
            set_random_states(attack, streams)
        data = name_victim(attack, self._inner()).poison(X, y)
        self.attack_ = attack
        return data.X, data.y, data.get("sample_indices")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if hasattr(self.attack, "__sklearn_tags__"):
            attack = get_tags(name_victim(copy(self.attack), self._inner()))
            tags.input_tags.sparse &= attack.input_tags.sparse
            tags.input_tags.allow_nan &= attack.input_tags.allow_nan
            tags.target_tags.required = True
            tags.target_tags.multi_output &= attack.target_tags.multi_output
            if tags.classifier_tags is not None:  # attacks read one label a row
                tags.classifier_tags.multi_label = False
        return tags


class FilteredEstimator(_TrainingSetEstimator):
    """Remove or repair suspicious training rows, then train an estimator.

    Parameters
    ----------
    detector : detector or sampler, default=None
        ``fit_predict(X, y)`` gives -1 for suspects: a detector of
        :mod:`skpoison.defenses` or one of scikit-learn's own, such as
        ``IsolationForest``; cloned. None is
        :class:`~skpoison.defenses.LabelIssueDetector`. Of a sampler, such as
        :class:`~skpoison.partition.LiftedLabelRepair`, ``fit_resample(X, y)`` gives
        the training set, whose labels may differ, and ``sample_indices_`` the rows
        that it came from.
    estimator : estimator, default=None
        Cloned. None is ``LogisticRegression()``.
    random_state : None, int, RandomState or Generator, default=None
        Not None: passed on, as independent seeds, to every ``random_state`` of
        detector and estimator. None leaves theirs as they are.

    Attributes
    ----------
    detector_ : detector
        Fitted.
    estimator_ : estimator
        Fitted on the kept rows.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        The rows that were kept.
    classes_ : ndarray of shape (n_classes,)
        For classifiers.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    Warns
    -----
    UserWarning
        The detector rejects every row of a class: its five least suspicious rows are
        kept, so that the class can still be learned.

    See Also
    --------
    PoisonedEstimator : Poisons the training data first.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skpoison.attacks import LabelFlipAttack
    >>> from skpoison.compose import FilteredEstimator, PoisonedEstimator
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> attack = LabelFlipAttack(budget=0.2, random_state=0)
    >>> victim = KNeighborsClassifier(1)
    >>> filtered = FilteredEstimator(estimator=victim, random_state=0)
    >>> for model in (victim, filtered):
    ...     model = PoisonedEstimator(attack, model).fit(X[:400], y[:400])
    ...     print(model.score(X[400:], y[400:]) > 0.85)
    False
    True
    """

    def __init__(self, detector=None, estimator=None, *, random_state=None):
        self.detector = detector
        self.estimator = estimator
        self.random_state = random_state

    def _change(self, X, y, streams):
        if y is None:  # the estimator says what it needs
            return X, y, None
        y = as_rows(y)
        check_consistent_length(X, y)
        if self.detector is None:
            from skpoison.defenses import LabelIssueDetector

            detector = LabelIssueDetector()
        elif not (hasattr(self.detector, "fit_predict") or _is_sampler(self.detector)):
            raise TypeError(
                "detector must have fit_predict, with -1 for suspects, or be a "
                f"sampler, got {self.detector!r}"
            )
        else:
            detector = clone(self.detector)
        if streams is not None:
            set_random_states(detector, streams)
        if _is_sampler(detector):
            return self._resample(detector, X, y)
        is_clean = np.asarray(detector.fit_predict(X, y)) != -1
        if is_classifier(self._inner()):
            labels = np.asarray(y).ravel()
            is_clean = keep_every_class(is_clean, labels, _suspicion(detector, X))
        self.detector_, self.is_clean_ = detector, is_clean
        kept = np.flatnonzero(is_clean)
        return take_rows(X, kept), take_rows(y, kept), kept

    def _resample(self, sampler, X, y):
        """Return what a sampler, which may relabel, makes of the training set."""
        X_new, y_new = sampler.fit_resample(X, y)
        sources = np.asarray(sampler.sample_indices_)
        self.detector_ = sampler
        self.is_clean_ = np.isin(np.arange(_num_samples(X)), sources)
        return X_new, y_new, sources

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if hasattr(self.detector, "__sklearn_tags__"):
            detector = get_tags(self.detector)
            tags.input_tags.sparse &= detector.input_tags.sparse
            tags.input_tags.allow_nan &= detector.input_tags.allow_nan
            tags.target_tags.required |= detector.target_tags.required
        return tags


def _is_sampler(detector):
    # the mark that imbalanced-learn's samplers carry too
    return getattr(detector, "_estimator_type", None) == "sampler"


def _suspicion(detector, X):
    """Return a score a row of what `detector` was fitted on, larger for suspects."""
    if hasattr(detector, "scores_"):
        return detector.scores_
    if hasattr(detector, "score_samples"):
        return -detector.score_samples(X)
    return -getattr(detector, "negative_outlier_factor_", np.zeros(_num_samples(X)))
