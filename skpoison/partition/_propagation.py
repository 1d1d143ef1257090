"""A few labels carried over a graph of neighbours to the rows that have none."""

import time

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import cg
from sklearn.base import ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from skpoison.partition._estimator import BaseLifted
from skpoison.partition._graph import PartitionGraph
from skpoison.partition._neighbors import (
    check_bandwidth,
    find_bandwidth,
    neighbor_distances,
    neighbor_weights,
)
from skpoison.utils._containers import as_rows, is_missing, take_rows
from skpoison.utils._validation import check_given, check_number, check_option

_PRIORS = ("geodesic", "poisson", "both", "none")
_FIXED = 1e3  # what another label costs a row whose own is kept
_SURE = 1e-6  # no classifier is surer than this
_LEAK = 1e-4  # of Poisson's diffusion: parts of the graph without labels are solvable


class LiftedLabelPropagation(ClassifierMixin, BaseLifted):
    """Label all rows from a few, by the cheapest cut of a graph of neighbours.

    The use of :class:`sklearn.semi_supervised.LabelSpreading`, with another model:
    neighbours should have one label, and where they cannot, few and weak edges are
    cut. The relaxation of this problem is solved with a certificate, see Notes.

    Parameters
    ----------
    n_neighbors : int, default=10
        Of each row, in the graph; at most n_samples - 1 count.
    regularization : float, default=0.3
        Cost of a cut edge of weight 1, where the prior has mean 1. With ten neighbours
        0.1 to 0.5 is the useful range; more neighbours want less of it.
    prior : {"geodesic", "poisson", "both", "none"} or classifier, default="geodesic"
        What a label costs at a row. "geodesic": the length of the shortest path in
        the graph to a row of that class. "poisson": how far the class is behind in a
        diffusion from the labelled rows [2]_, which uses all paths. "both": their
        mean, the safest choice with one or two labels a class. "none": nothing, so
        that labelled rows alone pull; this needs many of them. A classifier: minus
        the logarithm of its ``predict_proba``; a fitted one is used as it is (in
        :class:`sklearn.frozen.FrozenEstimator` it outlives a clone), another is
        cloned and fitted on the labelled rows.
    clamp : bool, default=True
        Whether labels that are given stay. False lets them change at the cost
        `alpha` each.
    alpha : float, default=1.0
        Only with ``clamp=False``: cost of contradicting a given label.
    bandwidth : "median" or float, default="median"
        The s of edge weights ``exp(-d ** 2 / (2 * s ** 2))``; by default the median
        distance of neighbours.
    solver : str, default="pdhg"
        As of :func:`~skpoison.partition.solve_lifted`, and so are the next seven.
    tol : float, default=1e-4
    max_iter : int, default=2000
    backend : {"numpy", "torch"}, default="numpy"
    device : str, default="auto"
    dtype : {"float32", "float64"}, default="float32"
    solver_options : dict, default=None
    random_state : None, int, RandomState or Generator, default=None
        Of random roundings.
    verbose : int, default=0
        1 shows progress on stderr.

    Attributes
    ----------
    transduction_ : ndarray of shape (n_samples,)
        The label of each row of the training data.
    label_distributions_ : ndarray of shape (n_samples, n_classes)
        The cheapest relaxed solution met: rows sum to 1. Mostly 0 and 1; values
        between are ties, not calibrated probabilities.
    classes_ : ndarray of shape (n_classes,)
        The labels given.
    bandwidth_ : float
        The s of the weights.
    energy_, lower_bound_, gap_, relative_gap_ : float
        Energy of `transduction_`, a bound that no labelling undercuts, and their
        distance.
    graph_ : PartitionGraph
    result_ : LiftedResult
    primal_ : ndarray of shape (n_samples, n_classes)
        Where the solver stopped, which may be early.
    n_iter_ : int
    converged_ : bool
    solve_time_, build_time_ : float
        Seconds of the solver, and of graph and prior.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    Raises
    ------
    ValueError, TypeError
        A parameter out of range, or no label at all.

    Warns
    -----
    ConvergenceWarning
        `max_iter` is used up; the labels and the bound are still valid.

    See Also
    --------
    LiftedLabelRepair : For labels that are all there and partly wrong.
    sklearn.semi_supervised.LabelSpreading : Averages neighbours instead.

    Notes
    -----
    With costs :math:`F` (n_samples, n_classes) and edges e = (i, j) of weight
    :math:`w_e`, the labelling x minimises

    .. math::
        E(x) = \\sum_v F_{v x_v} + \\lambda \\sum_e w_e [x_i \\ne x_j]

    through the relaxation to :math:`u_v` in the unit simplex with
    :math:`\\tfrac12 \\lVert u_i - u_j \\rVert_1` for the bracket [1]_. A labelled row
    has F = 0 for its label and, for others, more than all of its edges can cost.
    The geodesic prior is scaled to mean 1, Poisson's to mean 1 at the median row; a
    classifier's is used as it is, and wants its own `regularization`.

    A cut has a cost and a region has none: when labels are few, the cheapest labelling
    cuts single labelled rows off and gives the rest one label. The prior stands
    against that, and too much regularization overrules it.

    X is used as it is given. Columns of different units need a scaler in front.

    A row is unlabelled where y is -1, as in scikit-learn; where y holds strings or
    objects, also by ``"-1"``, None or NaN. Numbers that are all -1 or 1, and both
    occur, are taken for two classes: with one class there is nothing to decide.

    References
    ----------
    .. [1] Geiping, Gaede, Bauermeister and Moeller (2020), Fast Convex Relaxations
       using Graph Discretizations. arXiv:2004.11075.
    .. [2] Calder, Cook, Thorpe and Slepcev (2020), Poisson Learning: Graph Based
       Semi-Supervised Learning At Very Low Label Rates. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_moons
    >>> from skpoison.partition import LiftedLabelPropagation
    >>> X, y = make_moons(200, noise=0.05, random_state=0)
    >>> given = np.full(200, -1)
    >>> given[:4] = y[:4]
    >>> model = LiftedLabelPropagation(prior="both").fit(X, given)
    >>> bool((model.transduction_ == y).all())
    True
    >>> model.predict([[0.0, 1.0], [1.0, -0.5]])
    array([0, 1])
    """

    def __init__(
        self,
        n_neighbors=10,
        regularization=0.3,
        *,
        prior="geodesic",
        clamp=True,
        alpha=1.0,
        bandwidth="median",
        solver="pdhg",
        tol=1e-4,
        max_iter=2000,
        backend="numpy",
        device="auto",
        dtype="float32",
        solver_options=None,
        random_state=None,
        verbose=0,
    ):
        self.n_neighbors = n_neighbors
        self.regularization = regularization
        self.prior = prior
        self.clamp = clamp
        self.alpha = alpha
        self.bandwidth = bandwidth
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self.solver_options = solver_options
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y):
        """Label every row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            -1 for rows without a label.

        Returns
        -------
        self : object
        """
        self._check_params()
        started = time.perf_counter()
        given = as_rows(X)
        X = validate_data(self, X, accept_sparse="csr")
        codes = self._check_y(X, y)
        distances, scales = neighbor_distances(X, self.n_neighbors)
        graph = PartitionGraph.from_edges(
            np.stack([distances.row, distances.col], axis=1),
            neighbor_weights(distances, scales, self.bandwidth),
            X.shape[0],
        )
        unary = self._costs(given, codes, distances, graph)
        self._fix(unary, codes, graph)
        result = self._solve(unary, graph, self.regularization)
        self._keep(result, graph, started)
        self.transduction_ = self.classes_[result.labels]
        self.label_distributions_ = self._distributions(unary, result)
        self.bandwidth_ = find_bandwidth(distances, self.bandwidth)
        k = min(self.n_neighbors, X.shape[0])
        self._search = NearestNeighbors(n_neighbors=k).fit(X)
        return self

    def _check_params(self):
        self._check_solver()
        check_number("n_neighbors", self.n_neighbors, low=1, integer=True)
        check_number("regularization", self.regularization, low=0.0)
        check_number("alpha", self.alpha, low=0.0)
        check_bandwidth(self.bandwidth, ("median",))
        if isinstance(self.prior, str):
            check_option("prior", self.prior, _PRIORS)
        elif isinstance(self.prior, type) or not hasattr(self.prior, "predict_proba"):
            raise TypeError(
                f"prior must be one of {', '.join(map(repr, _PRIORS))} or a classifier "
                f"with predict_proba, got {self.prior!r}"
            )

    def _check_y(self, X, y):
        """Return the position in `classes_` of each label, -1 where there is none."""
        check_given(self, y)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        if y.dtype.kind in "OSU":
            is_given = np.array([not is_missing(v) and str(v) != "-1" for v in y])
        else:
            assert_all_finite(y, input_name="y")
            # one class alone would leave nothing to tell apart: labels of -1 and 1
            is_given = (y != -1) | np.array_equal(np.unique(y), [-1, 1])
        if not is_given.any():
            raise ValueError("y must have at least one label, got only unlabelled rows")
        check_classification_targets(y[is_given])
        codes = np.full(len(y), -1)
        self.classes_, codes[is_given] = np.unique(y[is_given], return_inverse=True)
        return codes

    def _costs(self, X, codes, distances, graph):
        """Return what each label costs at each row, (n_samples, n_classes)."""
        n_classes = len(self.classes_)
        if not isinstance(self.prior, str):
            return self._classifier_costs(X, codes)
        if self.prior == "geodesic":
            return geodesic_costs(distances, codes, n_classes)
        if self.prior == "poisson":
            return poisson_costs(graph, codes, n_classes)
        if self.prior == "both":
            near = geodesic_costs(distances, codes, n_classes)
            return 0.5 * (near + poisson_costs(graph, codes, n_classes))
        return np.zeros((len(codes), n_classes))

    def _classifier_costs(self, X, codes):
        model, rows = self.prior, np.flatnonzero(codes >= 0)
        try:
            check_is_fitted(model)
        except NotFittedError:
            y = self.classes_[codes[rows]]
            model = clone(model).fit(take_rows(X, rows), y)
        known = np.isin(self.classes_, model.classes_)
        if not known.all():
            raise ValueError(
                f"prior was fitted without the classes {self.classes_[~known].tolist()}"
            )
        columns = np.searchsorted(model.classes_, self.classes_)
        return -np.log(np.maximum(model.predict_proba(X)[:, columns], _SURE))

    def _fix(self, unary, codes, graph):
        """Set the costs of labelled rows, in place."""
        cost = self.alpha
        if self.clamp:
            ends, weights = graph.edges.ravel(), np.repeat(graph.weights, 2)
            pull = np.bincount(ends, weights, minlength=1).max()
            cost = max(_FIXED, 2 * self.regularization * pull)
        rows = np.flatnonzero(codes >= 0)
        unary[rows] = cost
        unary[rows, codes[rows]] = 0.0

    def _distributions(self, unary, result):
        """Return the solver's last iterate or its labelling, whichever is cheaper."""
        i, j = self.graph_.edges.T
        U = result.assignment
        cut = 0.5 * abs(U[i] - U[j]).sum(axis=1)
        value = (unary * U).sum() + self.regularization * self.graph_.weights @ cut
        return U if value < result.energy else np.eye(len(self.classes_))[result.labels]

    def predict_proba(self, X):
        """Return the mean of the neighbours' `label_distributions_`, near ones first.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        distances, rows = self._search.kneighbors(X)
        # relative to the nearest, or rows far from all would have weights of 0
        excess = distances**2 - distances[:, :1] ** 2
        weights = np.exp(-0.5 * excess / max(self.bandwidth_**2, 1e-300))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("ij,ijk->ik", weights, self.label_distributions_[rows])

    def predict(self, X):
        """Return the label that weighs most among the neighbours of each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]


def geodesic_costs(distances, codes, n_classes):
    """Return lengths of shortest paths to each class, of mean 1.

    Parameters
    ----------
    distances : coo_array of shape (n_samples, n_samples)
        Each pair of neighbours once.
    codes : ndarray of int, shape (n_samples,)
        Class of each row, -1 for none.
    n_classes : int

    Returns
    -------
    costs : ndarray of shape (n_samples, n_classes)
        A class that no path reaches costs as much as the longest path.
    """
    lengths = csr_array(distances)
    costs = np.empty((len(codes), n_classes))
    for k in range(n_classes):
        sources = np.flatnonzero(codes == k)
        costs[:, k] = dijkstra(lengths, directed=False, indices=sources, min_only=True)
    reached = np.isfinite(costs)
    costs[~reached] = costs[reached].max()
    return costs / (costs.mean() or 1.0)


def poisson_costs(graph, codes, n_classes):
    """Return how far each class is behind the first one in a diffusion.

    Labelled rows are sources of their class and sinks of the others: L u = B with the
    graph's Laplacian L and the one-hot labels B less their mean.
    """
    labelled = np.flatnonzero(codes >= 0)
    sources = np.zeros((len(codes), n_classes))
    sources[labelled, codes[labelled]] = 1.0
    sources[labelled] -= sources[labelled].mean(axis=0)
    weights = graph.adjacency()
    degrees = np.maximum(weights.sum(axis=1), 1e-12)
    laplacian = csr_array(diags_array((1 + _LEAK) * degrees) - weights)
    scale = diags_array(1 / degrees)
    potential = [cg(laplacian, b, M=scale, rtol=1e-4)[0] for b in sources.T]
    costs = np.stack(potential, axis=1)
    costs = costs.max(axis=1, keepdims=True) - costs
    # mean 1 at the median row: rows that no other class reaches are far out
    return costs / (np.median(costs.mean(axis=1)) or 1.0)
