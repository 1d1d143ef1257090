"""Sanitizers: rows that lie far from what their own class looks like."""

import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.validation import validate_data

from skpoison.defenses._detectors import BaseDetector
from skpoison.defenses._feasible_set import (
    check_magnitudes,
    check_oracle_stats,
    class_centers,
    class_percentiles,
    slab_distances,
    sphere_distances,
)
from skpoison.defenses._feature_detectors import trained
from skpoison.defenses._inputs import check_learner, check_numbers
from skpoison.utils import RandomStreams
from skpoison.utils._containers import as_rows
from skpoison.utils._validation import check_number, check_option

_WITH_STATS = ("sphere", "l2", "slab", "sphere+slab")


def _in_units(values, limits, y):
    """Divide distances by the limit of their class; above 1 is outside."""
    found = np.empty(len(values))
    for k, limit in enumerate(limits):
        rows = y == k
        if limit <= 0:  # then anything that is not 0 is outside
            positive = values[rows & (values > 0)]
            limit = positive.min() / 2 if len(positive) else 1.0
        found[rows] = values[rows] / limit
    return np.minimum(found, np.finfo(np.float64).max)


def _neighbour_distances(X, y, n_neighbors):
    """Return each row's distance to its k-th neighbour in its own class."""
    found = np.zeros(len(X))
    for k in np.unique(y):
        rows = np.flatnonzero(y == k)
        n_others = min(n_neighbors, len(rows) - 1)
        if n_others:
            search = NearestNeighbors(n_neighbors=n_others).fit(X[rows])
            found[rows] = search.kneighbors()[0][:, -1]
    return found


def _subspace_residuals(X, y, centers, n_components):
    """Return each row's distance from the main subspace of its class."""
    found = np.zeros(len(X))
    for k, center in enumerate(centers):
        rows = np.flatnonzero(y == k)
        A = X[rows] - center
        _, values, axes = np.linalg.svd(A, full_matrices=False)
        energy = np.cumsum(values**2)
        rank = n_components
        if not isinstance(n_components, int | np.integer):
            rank = int(np.searchsorted(energy, n_components * energy[-1])) + 1
        axes = axes[:rank]
        found[rows] = np.linalg.norm(A - (A @ axes.T) @ axes, axis=1)
    return found


def _losses(estimator, X, y):
    """Return each row's loss under a fitted classifier: log loss, or hinge."""
    known = np.asarray(estimator.classes_)
    unknown = np.setdiff1d(y, known)
    if len(unknown):
        raise ValueError(f"the estimator knows no class {unknown.tolist()[0]!r}")
    own = np.searchsorted(known, y)
    rows = np.arange(len(y))
    if hasattr(estimator, "predict_proba"):
        proba = np.asarray(estimator.predict_proba(X), dtype=np.float64)[rows, own]
        return -np.log(np.maximum(proba, np.finfo(np.float64).tiny))
    values = np.asarray(estimator.decision_function(X), dtype=np.float64)
    if values.ndim == 1:
        values = np.column_stack([-values, values]) / 2
    others = values.copy()
    others[rows, own] = -np.inf
    return np.maximum(1.0 - values[rows, own] + others.max(axis=1), 0.0)


class DataSanitizer(BaseDetector):
    """Distrust the rows that are farthest from the rest of their class.

    A rule gives each row a distance from its own class, and either a share of each
    class, the farthest rows, or all rows beyond a radius are distrusted.

    Parameters
    ----------
    rule : str, default="sphere"
        The distance of a row:

        - "sphere", or "l2": from the centre of its class;
        - "slab": from that centre in the direction of another class's centre;
        - "sphere+slab": the larger of both, each in units of its radius;
        - "knn": from the `n_neighbors`-th nearest row of its class;
        - "svd": from the subspace of the first components of its class;
        - "loss": the loss of its label under `estimator`.
    frac_remove : float, default=0.05
        Share of each class that is distrusted, rounded to whole rows. It should be at
        least the share of poisons expected in a class: less leaves some, more costs
        clean rows only.
    percentile : float, default=None
        Instead of `frac_remove`: distrust the rows beyond this percentile of their
        class's distances; for "sphere+slab", beyond either percentile.
    center : {"mean", "median"}, default="mean"
        Of each class. The median of each column, which few rows can't move far.
    n_neighbors : int, default=5
        For "knn"; fewer where a class has no more rows.
    n_components : int or float, default=0.95
        For "svd": the number of components, or the share of a class's squared
        distances from its centre that they hold at least.
    estimator : classifier, default=None
        For "loss", with ``predict_proba`` (log loss) or ``decision_function`` (hinge
        loss). One that is fitted is used as it is; ``clone``, and so a search, forgets
        a fit unless it is in a :class:`~sklearn.frozen.FrozenEstimator`. Otherwise a
        clone is trained on all rows, poisons included. None is
        ``LogisticRegression()`` on standardised columns.
    oracle_stats : tuple (centers, radii, widths), default=None
        For the rules of spheres and slabs: what is known of clean data, such as
        ``SanitizedSVMBound.oracle_stats_``. Centres have shape (n_classes,
        n_features), radii and widths of the slabs, either of which may be None,
        (n_classes,), in the order of the sorted labels. With radii (or widths, or
        both, as the rule needs) rows beyond them are distrusted, however many; without
        them `frac_remove` or `percentile` decides.
    random_state : None, int, RandomState or Generator, default=None
        Seeds the ``random_state`` parameters of `estimator` that are None.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        The distances.
    thresholds_ : ndarray of shape (n_classes,)
        The largest score that is not distrusted for itself, of each class.
    centers_ : ndarray of shape (n_classes, n_features)
        For the rules that have centres.
    estimator_ : classifier
        For "loss".
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust.
    sample_indices_ : ndarray of int
        Positions of the rows that :meth:`fit_resample` keeps, in their order.
    n_removed_ : int
        Number of rows that are distrusted.
    classes_ : ndarray of shape (n_classes,)
        The labels met.
    n_features_in_ : int
        Number of features met; images are flattened.
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    See Also
    --------
    SanitizedSVMBound : What an attack behind a sphere and a slab can do at most.
    LabelIssueDetector : Finds wrong labels without being told how many.

    Notes
    -----
    With the centres :math:`\\mu_k`, a row x of class k has the distances

    .. math::
        s_{sphere} = \\lVert x - \\mu_k \\rVert_2, \\qquad
        s_{slab} = \\max_{l \\ne k}
            |\\langle \\mu_k - \\mu_l, x - \\mu_k \\rangle|.

    They are in the units of the columns: scale columns that are not commensurate.

    Rows are ranked within their class, equal ones by position, and no class is removed
    whole: one row stays even where all lie beyond given radii.

    Statistics of poisoned data are the attacker's too. He may move the centre, or
    place his rows so that they vouch for each other, and a sanitizer that looked
    perfect against one attack is passed by the next [2]_. `oracle_stats`, from data
    that can be trusted, takes this away from him.

    References
    ----------
    .. [1] J. Steinhardt, P. W. Koh and P. Liang, "Certified defenses for data poisoning
       attacks", NeurIPS 2017.
    .. [2] P. W. Koh, J. Steinhardt and P. Liang, "Stronger data poisoning attacks break
       data sanitization defenses", Machine Learning 111, 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpoison.defenses import DataSanitizer
    >>> X, y = load_iris(return_X_y=True)
    >>> X[[3, 70]] += 10
    >>> sanitizer = DataSanitizer(frac_remove=0.02).fit(X, y)
    >>> (~sanitizer.is_clean_).nonzero()[0]
    array([  3,  70, 106])
    """

    def __init__(
        self,
        rule="sphere",
        *,
        frac_remove=0.05,
        percentile=None,
        center="mean",
        n_neighbors=5,
        n_components=0.95,
        estimator=None,
        oracle_stats=None,
        random_state=None,
    ):
        self.rule = rule
        self.frac_remove = frac_remove
        self.percentile = percentile
        self.center = center
        self.n_neighbors = n_neighbors
        self.n_components = n_components
        self.estimator = estimator
        self.oracle_stats = oracle_stats
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        if self.rule == "loss" and self.estimator is not None:
            tags.input_tags.sparse = get_tags(self.estimator).input_tags.sparse
        return tags

    def fit(self, X, y):
        """Measure every row's distance from its class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training data, tables or images; for "loss" with an `estimator`, whatever
            that takes.
        y : array-like of shape (n_samples,)
            Labels, of any kind that scikit-learn's classifiers take.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            A parameter out of range; one class only, where the rule needs two; or
            `oracle_stats` that don't fit.

        Warns
        -----
        UserWarning
            A class of one row, which is kept; or classes so small that `frac_remove`
            comes to no row at all.
        """
        self._check_parameters()
        return self._fit(X, y)

    def _check_parameters(self):
        rules = ("sphere", "l2", "slab", "sphere+slab", "knn", "svd", "loss")
        check_option("rule", self.rule, rules)
        check_learner("estimator", self.estimator)
        check_option("center", self.center, ("mean", "median"))
        check_number("frac_remove", self.frac_remove, low=0.0, high=1.0)
        if self.percentile is not None:
            check_number("percentile", self.percentile, low=0.0, high=100.0)
        check_number("n_neighbors", self.n_neighbors, low=1, integer=True)
        if isinstance(self.n_components, float | np.floating):
            check_number(
                "n_components", self.n_components, low=0.0, high=1.0, strict=True
            )
        else:
            check_number("n_components", self.n_components, low=0, integer=True)
        if self.oracle_stats is not None and self.rule not in _WITH_STATS:
            raise ValueError(
                "oracle_stats are for the rules of spheres and slabs, got "
                f"rule={self.rule!r}"
            )

    def _check_X(self, X):
        if self.rule == "loss" and self.estimator is not None:
            validate_data(self, X, skip_check_array=True)  # it says what it can't take
            return as_rows(X)
        X = check_numbers(self, X, dtype=np.float64)
        check_magnitudes(X, "DataSanitizer")
        return X

    def _score(self, X, y):  # type: ignore[override]
        n_classes = len(self.classes_)
        if n_classes < 2 and self.rule in ("slab", "sphere+slab", "loss"):
            raise ValueError(
                f"rule={self.rule!r} needs at least 2 classes, got {n_classes} class: "
                f"{self.classes_.tolist()}"
            )
        single = np.bincount(y) == 1
        if single.any():
            warnings.warn(
                "classes of one row are not judged, and kept: "
                f"{self.classes_[single].tolist()}",
                UserWarning,
                stacklevel=4,
            )
        if self.rule == "loss":
            estimator = self.estimator
            if estimator is None:
                estimator = make_pipeline(StandardScaler(), LogisticRegression())
            streams, labels = RandomStreams(self.random_state), self.classes_[y]
            self.estimator_ = trained(estimator, X, labels, streams)
            return _losses(self.estimator_, X, labels)
        if self.rule == "knn":
            return _neighbour_distances(X, y, self.n_neighbors)
        return self._score_centered(X, y)

    def _score_centered(self, X, y):
        n_classes = len(self.classes_)
        radii = widths = None
        if self.oracle_stats is None:
            self.centers_ = class_centers(X, y, n_classes, self.center)
        else:
            self.centers_, radii, widths = self._oracle(X.shape[1])
        if self.rule in ("sphere", "l2"):
            return sphere_distances(X, y, self.centers_)
        if self.rule == "slab":
            return slab_distances(X, y, self.centers_)
        if self.rule == "svd":
            return _subspace_residuals(X, y, self.centers_, self.n_components)
        far, along = (
            f(X, y, self.centers_) for f in (sphere_distances, slab_distances)
        )
        if radii is None or widths is None:
            share = self.percentile
            if share is None:
                share = 100.0 * (1.0 - self.frac_remove)
            radii = class_percentiles(far, y, n_classes, share)
            widths = class_percentiles(along, y, n_classes, share)
        return np.maximum(_in_units(far, radii, y), _in_units(along, widths, y))

    def _oracle(self, n_features):
        stats = check_oracle_stats(self.oracle_stats, len(self.classes_), n_features)
        if self.rule == "sphere+slab" and (stats[1] is None) != (stats[2] is None):
            raise ValueError(
                "for rule='sphere+slab' give both radii and widths in oracle_stats, or "
                "neither"
            )
        return stats

    def _oracle_limits(self):
        """Return the limits that oracle_stats set, None where they set none."""
        if self.oracle_stats is None:
            return None
        _, radii, widths = self._oracle(self.n_features_in_)
        if self.rule == "sphere+slab":
            return None if radii is None else np.ones(len(radii))
        return widths if self.rule == "slab" else radii

    def _flag(self, scores, y):
        n_classes = len(self.classes_)
        limits = self._oracle_limits()
        if limits is None and self.percentile is not None:
            limits = class_percentiles(scores, y, n_classes, self.percentile)
            if self.rule == "sphere+slab":
                limits = np.ones(n_classes)
        self.thresholds_ = np.empty(n_classes) if limits is None else limits
        flagged = np.zeros(len(y), dtype=bool)
        for k in range(n_classes):
            rows = np.flatnonzero(y == k)
            order = rows[np.argsort(-scores[rows], kind="stable")]
            if limits is None:
                count = min(round(self.frac_remove * len(rows)), len(rows) - 1)
                self.thresholds_[k] = scores[order[count]]
            else:
                count = min((scores[rows] > limits[k]).sum(), len(rows) - 1)
            flagged[order[:count]] = True
        if limits is None and self.frac_remove > 0 and not flagged.any():
            warnings.warn(
                f"frac_remove={self.frac_remove} comes to no row of any class: nothing "
                "is removed",
                UserWarning,
                stacklevel=4,
            )
        return flagged
