"""Models of the unary costs: how badly each label fits each row."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.utils import check_array

from skpoison.utils._validation import check_option

UNARIES = ("kmeans", "gmm", "precomputed")
# a covariance's smallest addition to its diagonal, scikit-learn's default
_REG_COVAR = 1e-6


class KMeansUnary:
    """Squared Euclidean distances to centres, in the order of their means."""

    learns = True

    def fit(self, rows, n_labels, n_init, seed):
        """Find the centres."""
        _check_enough(rows, n_labels)
        model = KMeans(n_labels, n_init=n_init, random_state=seed).fit(rows)
        centers = model.cluster_centers_
        self.centers = centers[np.argsort(centers.mean(axis=1), kind="stable")]
        return self

    @property
    def n_labels(self):
        """Number of centres."""
        return len(self.centers)

    def update(self, rows, labels):
        """Return the model whose centres fit a labelling best."""
        model = KMeansUnary()
        counts = np.bincount(labels, minlength=self.n_labels)
        model.centers = self.centers.copy()  # of a label without rows
        sums = _sums(rows, labels, self.n_labels)
        model.centers[counts > 0] = (sums / np.maximum(counts, 1)[:, None])[counts > 0]
        return model

    def prepare(self, X):
        """Return the rows that :meth:`column` takes."""
        return X.reshape(-1, X.shape[-1])

    def column(self, rows, label):
        """Return the costs of one label, (n_rows,)."""
        return ((rows - self.centers[label]) ** 2).sum(axis=1)


class GaussianUnary:
    """Negative log-likelihoods of the Gaussians of a mixture, without its weights."""

    learns = True

    def fit(self, rows, n_labels, n_init, seed):
        """Find the Gaussians by expectation maximisation."""
        _check_enough(rows, n_labels)
        model = GaussianMixture(
            n_labels, n_init=n_init, random_state=seed, reg_covar=_REG_COVAR
        ).fit(rows)
        order = np.argsort(model.means_.mean(axis=1), kind="stable")
        self.centers = model.means_[order]
        self.roots = np.linalg.cholesky(model.covariances_[order])
        return self

    n_labels = KMeansUnary.n_labels
    prepare = KMeansUnary.prepare

    def update(self, rows, labels):
        """Return the model whose Gaussians fit a labelling best."""
        model = GaussianUnary()
        model.centers, model.roots = self.centers.copy(), self.roots.copy()
        for label in np.unique(labels):
            mine = rows[labels == label]
            model.centers[label] = mine.mean(axis=0)
            away = mine - model.centers[label]
            covariance = away.T @ away / len(mine) + _REG_COVAR * np.eye(rows.shape[1])
            model.roots[label] = np.linalg.cholesky(covariance)
        return model

    def column(self, rows, label):
        """Return the costs of one label, (n_rows,)."""
        root = self.roots[label]
        away = np.linalg.solve(root, (rows - self.centers[label]).T)
        constant = (
            0.5 * rows.shape[1] * np.log(2 * np.pi) + np.log(root.diagonal()).sum()
        )
        return 0.5 * (away**2).sum(axis=0) + constant


class GivenUnary:
    """Costs that are given, or that a function of the data gives."""

    learns = False

    def __init__(self, function=None):
        self.function = function

    def fit(self, rows, n_labels, n_init, seed):
        """Take the number of labels from the costs."""
        self.n_labels = rows.shape[1]
        return self

    def prepare(self, X):
        """Return the costs, (n_rows, n_labels)."""
        if self.function is None:
            return X.reshape(-1, X.shape[-1])
        costs = np.asarray(self.function(X), dtype=float)
        n_rows = X[..., 0].size
        if costs.ndim < 2 or costs[..., 0].size != n_rows:
            raise ValueError(
                f"unary must return costs of {n_rows} rows and one column a label, got "
                f"shape {costs.shape} for X of shape {X.shape}"
            )
        costs = check_array(costs.reshape(n_rows, -1), input_name="unary(X)")
        if costs.shape[1] != getattr(self, "n_labels", costs.shape[1]):
            raise ValueError(
                f"unary returned costs of {costs.shape[1]} labels, but "
                f"{self.n_labels} at fit"
            )
        return costs

    def column(self, rows, label):
        """Return the costs of one label, (n_rows,)."""
        return rows[:, label]


def make_unary(unary):
    """Return the model that the parameter `unary` names."""
    if callable(unary):
        return GivenUnary(unary)
    check_option("unary", unary, UNARIES)
    models = {"kmeans": KMeansUnary, "gmm": GaussianUnary, "precomputed": GivenUnary}
    return models[unary]()


def unary_costs(model, rows, graph):
    """Return the costs of each node of a graph, summed over the pixels of a cell.

    Parameters
    ----------
    model : KMeansUnary, GaussianUnary or GivenUnary
    rows : ndarray of shape (n_pixels, n_features)
    graph : PartitionGraph
        Its `labels` are the cells of the rows; None means that rows are nodes.

    Returns
    -------
    unary : ndarray of shape (n_nodes, n_labels)
        float64.
    """
    unary = np.empty((graph.n_nodes, model.n_labels))
    # one label at a time: costs of all pixels would outweigh the cells' whole problem
    for label in range(model.n_labels):
        column = model.column(rows, label)
        if graph.labels is not None:
            column = np.bincount(graph.labels.ravel(), column, graph.n_nodes)
        unary[:, label] = column
    return unary


def _sums(rows, labels, n_labels):
    return np.stack(
        [np.bincount(labels, column, n_labels) for column in rows.T], axis=1
    )


def _check_enough(rows, n_labels):
    if len(rows) < n_labels:
        raise ValueError(
            f"n_labels={n_labels} needs at least as many rows of X, got n_samples="
            f"{len(rows)}"
        )
