"""Poisons as a cluster of their own among the features of a class."""

import warnings

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from skpoison.defenses._feature_detectors import (
    FeatureDetector,
    class_projections,
    spare_one,
    warn_not_judged,
)
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number, check_option

_N_SAMPLED = 500  # rows of a class that k-means tries its starts on


class ActivationClustering(FeatureDetector):
    """Find classes whose features fall apart, and the cluster that does not belong.

    The features of each class are reduced and split into clusters. A class is held to
    be poisoned only if one of its clusters passes a test, and that cluster is removed;
    the other classes keep all their rows.

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
    n_components : int, default=10
        Dimensions that features are reduced to; 10 as in [1]_.
    n_clusters : int, default=2
        Clusters of each class; clean and poisoned as in [1]_.
    reduce : {"pca", "ica"}, default="pca"
        Principal or independent components. [1]_ takes "ica"; in the features of our
        small networks its clusters hold fewer of the poisons and need more time.
    analysis : {"relative_size", "smaller", "distance", "silhouette"}, \
default="relative_size"
        Which clusters are poisoned; the largest of a class never is. "relative_size":
        those with less than `size_threshold` of the class. "silhouette": those, if the
        mean silhouette of the class exceeds `silhouette_threshold`. "distance": those
        whose median is nearer to the median of another class than to that of their
        own. "smaller": the smallest of every class, which costs every clean class a
        third of its rows and more.
    size_threshold : float, default=0.35
        A third, roughly: the share that [1]_ holds poisons to stay below.
    silhouette_threshold : float, default=0.38
        Chosen on networks trained on 4,000 images of Fashion-MNIST with "pca": 0.40
        to 0.43 for a class with a backdoor from 3 % of all rows, 0.2 to 0.42 for clean
        classes, so that it tells most of them apart. The 0.1 to 0.15 of [1]_ would
        pass every class there.
    random_state : None, int, RandomState or Generator, default=None
        Starts of the clusters and of the independent components; seeds the
        ``random_state`` parameters of `estimator` that are None.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        In [0, 1], how near the row is to the centre of another cluster than the
        largest of its class, and 1 more in a poisoned cluster; 0 where a class is not
        judged.
    is_poisoned_class_ : ndarray of shape (n_classes,), dtype bool
        The decision on each class.
    is_poisoned_cluster_ : ndarray of shape (n_classes, n_clusters), dtype bool
        The decision on each cluster.
    cluster_sizes_ : ndarray of shape (n_classes, n_clusters), dtype int
        Rows in each; 0 where a class is not judged.
    cluster_labels_ : ndarray of shape (n_samples,), dtype int
        The cluster of each row among those of its class; -1 where it is not judged.
    silhouettes_ : ndarray of shape (n_classes,)
        Mean silhouettes for the analysis of that name, NaN for the others and where a
        class is not judged.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust.
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
        Classes with no more rows than clusters, or whose rows are all alike, are not
        judged, nor any where `n_clusters` is 1; features that are not finite are left
        out.

    See Also
    --------
    SpectralSignatures : Judges single rows along one direction.
    DeepKNN : Looks at the labels of neighbours.

    Notes
    -----
    With the centres :math:`c_k` of the clusters of a class in the reduced features,
    :math:`c_0` that of the largest, the score of a row with reduced features
    :math:`z` is

    .. math::
        s = \\frac{\\|z - c_0\\|}{\\|z - c_0\\| + \\min_{k \\ge 1} \\|z - c_k\\|}
        + [z \\text{ in a poisoned cluster}].

    The distances of "distance" are those of all features, not of the reduced ones,
    which differ from class to class. Where all clusters of a class have one size, none
    is the smaller one.

    Clusters must be where the poisons are: classes with several kinds of rows form
    clusters by themselves, and few poisons form none.

    References
    ----------
    .. [1] B. Chen, W. Carvalho, N. Baracaldo, H. Ludwig, B. Edwards, T. Lee, I. Molloy
       and B. Srivastava, "Detecting backdoor attacks on deep neural networks by
       activation clustering", SafeAI at AAAI 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.defenses import ActivationClustering
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(200, 5)), np.repeat(["cat", "dog"], 100)
    >>> X[:20] += 4
    >>> detector = ActivationClustering(features="input", random_state=0).fit(X, y)
    >>> dict(zip(detector.classes_.tolist(), detector.is_poisoned_class_.tolist()))
    {'cat': True, 'dog': False}
    >>> np.flatnonzero(~detector.is_clean_).tolist() == list(range(20))
    True
    """

    _takes_numbers = True

    def __init__(
        self,
        estimator=None,
        *,
        features="auto",
        n_components=10,
        n_clusters=2,
        reduce="pca",
        analysis="relative_size",
        size_threshold=0.35,
        silhouette_threshold=0.38,
        random_state=None,
    ):
        self.estimator = estimator
        self.features = features
        self.n_components = n_components
        self.n_clusters = n_clusters
        self.reduce = reduce
        self.analysis = analysis
        self.size_threshold = size_threshold
        self.silhouette_threshold = silhouette_threshold
        self.random_state = random_state

    def _check_parameters(self):
        super()._check_parameters()
        check_number("n_components", self.n_components, low=1, integer=True)
        check_number("n_clusters", self.n_clusters, low=1, integer=True)
        check_option("reduce", self.reduce, ("pca", "ica"))
        known = ("relative_size", "smaller", "distance", "silhouette")
        check_option("analysis", self.analysis, known)
        check_number("size_threshold", self.size_threshold, low=0.0, high=1.0)
        check_number("silhouette_threshold", self.silhouette_threshold, low=-1, high=1)

    def _score_features(self, F, y):
        n_classes, streams = len(self.classes_), RandomStreams(self.random_state)
        scores, self.cluster_labels_ = np.zeros(len(y)), np.full(len(y), -1)
        self.cluster_sizes_ = np.zeros((n_classes, self.n_clusters), dtype=int)
        self.is_poisoned_cluster_ = np.zeros((n_classes, self.n_clusters), dtype=bool)
        self.silhouettes_ = np.full(n_classes, np.nan)
        if self.analysis == "distance":
            medians = [np.median(F[y == k], axis=0) for k in range(n_classes)]
        for k in range(n_classes):
            rows = np.flatnonzero(y == k)
            if len(rows) <= self.n_clusters:
                continue
            generator = streams.numpy(f"class {k}")
            Z = self._reduced(F, rows, generator)
            if Z.shape[1] == 0:
                continue
            labels = _clusters(Z, self.n_clusters, generator)
            if labels.max() == 0:
                continue
            sizes = np.bincount(labels, minlength=self.n_clusters)
            self.cluster_labels_[rows], self.cluster_sizes_[k] = labels, sizes
            if self.analysis == "distance":
                found = _are_elsewhere(F[rows], labels, medians, k, self.n_clusters)
            else:
                found = self._are_small(sizes)
            if self.analysis == "silhouette":
                self.silhouettes_[k] = silhouette_score(Z, labels)
                found = found & (self.silhouettes_[k] > self.silhouette_threshold)
            found = found & (sizes > 0) & (sizes < sizes.max())
            self.is_poisoned_cluster_[k] = found
            scores[rows] = _nearness(Z, labels, sizes) + found[labels]
        self.is_poisoned_class_ = self.is_poisoned_cluster_.any(axis=1)
        warn_not_judged(
            self.classes_[self.cluster_sizes_.sum(axis=1) == 0],
            f"no more rows than n_clusters={self.n_clusters}, or in one cluster,",
        )
        return scores

    def _reduced(self, F, rows, generator):
        Z = class_projections(F, rows, self.n_components, generator)
        if self.reduce == "pca" or Z.shape[1] == 0:
            return Z
        ica = FastICA(whiten=False, tol=0.005, random_state=generator)
        with warnings.catch_warnings():  # components that still turn can be clustered
            warnings.simplefilter("ignore", ConvergenceWarning)
            return ica.fit_transform(Z / Z.std(axis=0))  # they are uncorrelated

    def _are_small(self, sizes):
        if self.analysis == "smaller":
            found = np.zeros(len(sizes), dtype=bool)
            found[np.where(sizes, sizes, sizes.sum()).argmin()] = True
            return found
        return sizes < self.size_threshold * sizes.sum()

    def _flag(self, scores, y):
        return spare_one(scores > 1, scores, y)


def _clusters(Z, n_clusters, generator):
    """Return the cluster of each row, numbered without gaps.

    One start may miss a small cluster; several on a sample cost less than one on all.
    """
    with warnings.catch_warnings():  # fewer clusters where there are fewer points
        warnings.simplefilter("ignore", ConvergenceWarning)
        sample = Z
        if len(Z) > _N_SAMPLED:
            sample = Z[generator.choice(len(Z), _N_SAMPLED, replace=False)]
        k_means = KMeans(n_clusters, n_init=4, random_state=generator).fit(sample)
        if len(sample) < len(Z):
            k_means = KMeans(n_clusters, init=k_means.cluster_centers_, n_init=1).fit(Z)
    return np.unique(k_means.labels_, return_inverse=True)[1]


def _are_elsewhere(F, labels, medians, own, n_clusters):
    """Tell which clusters of a class have their median nearer to another class's."""
    found = np.zeros(n_clusters, dtype=bool)
    for j in range(labels.max() + 1):
        away = cdist([np.median(F[labels == j], axis=0)], medians)[0]
        found[j] = away.min() < away[own]
    return found


def _nearness(Z, labels, sizes):
    """Return how near rows are to other centres than that of the largest cluster."""
    centres = [Z[labels == j].mean(axis=0) for j in range(labels.max() + 1)]
    away = cdist(Z, centres)
    from_largest = away[:, sizes.argmax()].copy()
    away[:, sizes.argmax()] = np.inf
    return from_largest / (from_largest + away.min(axis=1))
