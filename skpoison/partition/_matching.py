"""What the estimators of displacements between two images share."""

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skpoison.partition._energy import make_pairwise
from skpoison.partition._estimator import BaseLifted
from skpoison.partition._graph import PartitionGraph
from skpoison.partition._pixels import check_image
from skpoison.partition._result import LiftedResult, warn_user
from skpoison.partition._superpixels import SuperpixelGraph, pixel_grid, with_metric
from skpoison.utils._validation import check_number

# compactness 10 and not 30: where cells follow colour, their borders are depth's
_CELLS = SuperpixelGraph("slic", n_segments=3000, compactness=10.0)


class _Match(NamedTuple):
    result: LiftedResult
    graph: PartitionGraph
    scale: float  # of the regularization

    def spread(self, values):
        """Give each pixel the value of its node."""
        if self.graph.labels is None:
            return values.reshape(self.graph.shape)
        return values[self.graph.labels]


class BaseMatching(BaseLifted):
    """Matches each pair of images by itself, on a graph of the first image.

    Subclasses have the parameters ``regularization, discretization, contrast,
    connectivity, normalize_cost`` and those of :class:`BaseLifted`. They define
    ``_check_parameters(width)``; ``_n_labels``; ``_costs(first, second)``, which yields
    the costs (height, width) of each label; ``_term()``, the arguments of the solver
    about interfaces; and ``_decode(labels)``, from labels to displacements.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _fit(self, X):
        """Match X, set the attributes of results, return the displacements."""
        started = time.perf_counter()
        matches, single = self._match_pairs(X)
        results = [match.result for match in matches]
        if single:
            self._keep(results[0], matches[0].graph, started)
        else:
            self._keep(_total(results), [match.graph for match in matches], started)
            self.result_ = results
            self.primal_ = [result.assignment for result in results]
        labels = [match.spread(match.result.labels) for match in matches]
        self.labels_ = _join(labels, single)
        self.confidence_ = _join(
            [match.spread(match.result.assignment.max(axis=1)) for match in matches],
            single,
        )
        self.scale_ = _join([np.float64(match.scale) for match in matches], single)
        return _join([self._decode(field) for field in labels], single)

    def _predict(self, X):
        check_is_fitted(self)
        matches, single = self._match_pairs(X)
        return _join([self._field(match) for match in matches], single)

    def _score(self, X, y, error):
        """Return the mean over the pairs of ``error(displacements, truth)``."""
        check_is_fitted(self)
        matches, single = self._match_pairs(X)
        y = [y] if single else y
        if len(y) != len(matches):
            raise ValueError(f"X has {len(matches)} pairs of images, but y {len(y)}")
        errors = []
        for match, truth in zip(matches, y, strict=True):
            field, truth = self._field(match), np.asarray(truth, dtype=float)
            if truth.shape != field.shape:
                raise ValueError(
                    f"y must have the shape of the prediction, {field.shape}, got "
                    f"{truth.shape}"
                )
            errors.append(error(field, truth))
        return float(np.mean(errors))

    def _field(self, match):
        return self._decode(match.spread(match.result.labels))

    def _match_pairs(self, X):
        """Return the solution of each pair, and whether X is a single one."""
        pairs, single = check_pairs(X)
        check_number("regularization", self.regularization, low=0.0)
        self._check_solver()
        self._check_parameters(min(first.shape[1] for first, _ in pairs))
        make_pairwise(n_labels=self._n_labels, **self._term())
        return [self._match(*pair) for pair in pairs], single

    def _match(self, first, second):
        graph = self._make_graph(first)
        # floats, eight times the bytes, only now: cells take most of the memory
        costs = self._costs(check_image(first), check_image(second))
        unary, scale = sum_costs(costs, self._n_labels, graph)
        scale = scale if self.normalize_cost else 1.0
        result = self._solve(unary, graph, self.regularization * scale, **self._term())
        return _Match(result, graph, scale)

    def _make_graph(self, image):
        cells = self.discretization
        if isinstance(cells, str) and cells == "grid":
            return pixel_grid(image, self)
        if isinstance(cells, str) and cells == "superpixel":
            cells = _CELLS
        if not isinstance(cells, SuperpixelGraph):
            raise ValueError(
                "discretization must be 'superpixel', 'grid' or a SuperpixelGraph, got "
                f"{cells!r}"
            )
        return with_metric(cells, self).fit(image).graph_


def check_pairs(X):
    """Return a list of pairs of arrays, and whether X is a single pair."""
    if isinstance(X, list | tuple) and _holds_arrays(X):
        single = not any(isinstance(x, list | tuple) or np.ndim(x) == 4 for x in X)
    else:
        X = np.asarray(X)
        if X.ndim not in (3, 4, 5):
            raise ValueError(
                "X must be a pair of images, (2, height, width) or (2, height, width, "
                "n_channels), or several, (n_pairs, 2, height, width, n_channels), got "
                f"shape {X.shape}"
            )
        single = X.ndim < 5
    if len(X) == 0:
        raise ValueError("X must hold at least one pair of images, got none")
    pairs = []
    for pair in [X] if single else X:
        pairs.append(_check_pair(pair))
    return pairs, single


def _holds_arrays(X):
    """Tell pairs of arrays from an array that is written as lists of lists."""
    members = (v for x in X for v in (x if isinstance(x, list | tuple) else [x]))
    return any(hasattr(v, "shape") for v in members) or not len(X)


def _check_pair(pair):
    if len(pair) != 2:
        raise ValueError(f"a pair must be two images, got {len(pair)}")
    pair = [np.asarray(image) for image in pair]
    first, second = (check_image(image, "an image of X") for image in pair)
    if first.shape != second.shape:
        raise ValueError(
            "the two images of a pair must have the same shape, got "
            f"{first.shape} and {second.shape}"
        )
    largest = max(first.max(), second.max())
    if largest > 1.0:
        warn_user(
            f"pixels reach {largest:g}, but costs and contrast expect [0, 1]: only "
            "uint8 is scaled to it"
        )
    return pair


def sum_costs(costs, n_labels, graph):
    """Sum the costs of pixels over nodes.

    Parameters
    ----------
    costs : iterable of ndarray of shape (height, width)
        One a label; no two are held at a time.
    n_labels : int
    graph : PartitionGraph

    Returns
    -------
    unary : ndarray of shape (n_nodes, n_labels)
    scale : float
        Median over pixels of the largest less the least cost.
    """
    unary = np.empty((n_labels, graph.n_nodes))
    low, high = np.inf, -np.inf
    for label, cost in enumerate(costs):
        low, high = np.minimum(low, cost), np.maximum(high, cost)
        if graph.labels is None:
            unary[label] = cost.ravel()
        else:
            unary[label] = np.bincount(
                graph.labels.ravel(), cost.ravel(), graph.n_nodes
            )
    return unary.T, float(np.median(high - low))


def _join(fields, single):
    """Return the only field, an array of all, or a list where their shapes differ."""
    if single:
        return fields[0]
    return np.stack(fields) if len({f.shape for f in fields}) == 1 else fields


def _total(results):
    """Return sums over pairs, with the labels of the first."""
    return replace(
        results[0],
        energy=sum(result.energy for result in results),
        lower_bound=sum(result.lower_bound for result in results),
        n_iter=max(result.n_iter for result in results),
        converged=all(result.converged for result in results),
        seconds=sum(result.seconds for result in results),
    )
