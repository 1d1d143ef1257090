"""Fitted classifiers as torch modules: the same scores, with gradients."""

import itertools
import math

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.svm._base import BaseSVC
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

_ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


def as_module(estimator):
    """Return a fitted classifier as a torch module that puts out one score a class.

    Parameters
    ----------
    estimator : classifier or torch.nn.Module
        Fitted: a :class:`TorchClassifier` or what holds one, a skorch classifier, or of
        scikit-learn a linear classifier, ``MLPClassifier``, ``SVC``, ``NuSVC``,
        ``GaussianNB`` or ``QuadraticDiscriminantAnalysis``; alone, in a
        ``FrozenEstimator`` or in a search. Not changed.

    Returns
    -------
    module : torch.nn.Module
        Of torch: the network itself, a module that was given as it is, others in
        evaluation mode. Of scikit-learn: a new module in float64, in evaluation mode,
        whose parameters are the estimator's, layer by layer, weight before bias. Its
        scores stand in the order of ``classes_``; of a binary classifier with one
        decision value d they are (0, d), so that their cross entropy is the logistic
        loss.

    Raises
    ------
    TypeError
        The estimator has no gradient, or is no classifier of one label a row.
    NotFittedError

    Notes
    -----
    An SVM of more than two classes predicts by votes of pairs, which have no slope. The
    scores are its ``decision_function`` of shape "ovr"; their gradient is that of the
    pair margins over the class that wins. Where votes are tied and the estimator takes
    the first class, so do the scores.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.models import as_module
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=1000).fit(X, y)
    >>> scores = as_module(clf)(torch.from_numpy(X))
    >>> bool((scores.argmax(1).numpy() == clf.predict(X)).all())
    True
    """
    if isinstance(estimator, nn.Module):
        return estimator
    estimator = unwrapped(estimator)
    check_differentiable(estimator)
    if hasattr(estimator, "module_"):
        return of_network(estimator).eval()
    if isinstance(estimator, BaseSVC) and not _is_linear(estimator):
        return KernelMachine(estimator).eval()
    if isinstance(estimator, MLPClassifier):
        return _of_mlp(estimator).eval()
    if isinstance(estimator, GaussianNB | QuadraticDiscriminantAnalysis):
        return _of_gaussians(estimator).eval()
    coefficients = _coefficients(estimator)
    if coefficients is None:
        raise no_gradient(type(estimator).__name__)
    return nn.Sequential(*_layers([coefficients], nn.Identity)).eval()


def no_gradient(name):
    """Return the error for a step or a model that can't be differentiated."""
    return TypeError(
        f"{name} has no gradient; pass surrogate=<differentiable estimator> to attack "
        "by transfer"
    )


def unwrapped(estimator):
    """Return the fitted estimator by which a meta-estimator predicts."""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
            continue
        if isinstance(estimator, BaseSearchCV):
            name = "best_estimator_"
        elif _is_ours(estimator) and is_classifier(estimator):
            name = "estimator_"  # of those that change the training set or the network
        else:
            return estimator
        inner = vars(estimator).get(name)
        if inner is None:
            return estimator
        estimator = inner


def _is_ours(estimator):
    return any(c.__module__.startswith("skpoison.") for c in type(estimator).__mro__)


def check_differentiable(estimator):
    """Raise unless this is a fitted classifier of one label a row."""
    name = type(estimator).__name__
    if not hasattr(estimator, "fit"):
        raise TypeError(f"expected a classifier or a torch module, got {estimator!r}")
    if not is_classifier(estimator):
        raise TypeError(f"{name} is no classifier: there is no label to change")
    check_is_fitted(estimator)
    if not getattr(estimator, "initialized_", True):  # a net of skorch, before 1.3
        raise NotFittedError(f"this {name} is not fitted yet: call fit first")
    if isinstance(estimator, BaseSearchCV):
        raise TypeError(f"{name} with refit=False keeps no fitted estimator")
    kind = getattr(getattr(estimator, "_label_binarizer", None), "y_type_", "")
    if kind.startswith("multilabel") or isinstance(
        getattr(estimator, "classes_", None), list
    ):
        raise TypeError(f"{name} was fitted on several labels a row, not on one")


# Networks


class _LogProbabilities(nn.Module):
    """Scores of a network that puts out probabilities."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        out = self.module(x)
        return torch.log(out + torch.finfo(out.dtype).tiny)


class _OneOutput(nn.Module):
    """Scores of a network that puts out one logit, or one probability."""

    def __init__(self, module, threshold, is_probability):
        super().__init__()
        self.module = module
        self.own_logit = math.log(threshold / (1 - threshold))
        self.is_probability = is_probability

    def forward(self, x):
        out = self.module(x)
        out = out.reshape(len(out), 1)
        if self.is_probability:
            out = torch.logit(out, torch.finfo(out.dtype).eps)
        return torch.cat([torch.full_like(out, self.own_logit), out], dim=1)


def of_network(estimator):
    """Return the scores of a fitted network, which stays in the mode that it is in."""
    module = estimator.module_
    # ours put out logits
    criterion = None if _is_ours(estimator) else getattr(estimator, "criterion_", None)
    if isinstance(criterion, nn.NLLLoss):  # skorch's default takes probabilities
        return _LogProbabilities(module)
    if isinstance(criterion, nn.BCELoss | nn.BCEWithLogitsLoss):
        threshold = getattr(estimator, "threshold", 0.5)
        return _OneOutput(module, threshold, isinstance(criterion, nn.BCELoss))
    return module


# Layers of scikit-learn's


class WithZero(nn.Module):
    """Scores (0, d) of one decision value d."""

    def forward(self, d):
        return torch.cat([torch.zeros_like(d), d], dim=-1)


def _tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def _linear(weight, bias):
    n_out, n_in = weight.shape
    layer = nn.Linear(
        n_in, n_out, bias=bias is not None, dtype=torch.float64, device="meta"
    )
    layer.weight = nn.Parameter(_tensor(weight))
    if bias is not None:
        layer.bias = nn.Parameter(_tensor(np.broadcast_to(bias, n_out)))
    return layer


def _layers(coefficients, activation):
    """Return linear layers with activations between, and one column made two."""
    layers = []
    for weight, bias in coefficients:
        layers += [_linear(weight, bias), activation()]
    layers.pop()
    return [*layers, WithZero()] if len(coefficients[-1][0]) == 1 else layers


def _coefficients(estimator):
    """Return the weight and bias of a linear classifier, None of others."""
    if hasattr(estimator, "coef_") and hasattr(estimator, "intercept_"):
        has_bias = getattr(estimator, "fit_intercept", True)
        coef = np.atleast_2d(_dense(estimator.coef_))
        return coef, estimator.intercept_ if has_bias else None
    if hasattr(estimator, "_sample_shape"):
        return _probed(estimator)
    return None


def _probed(estimator):
    """Return what a federation trained without torch, which is linear."""
    shape = estimator._sample_shape
    d = math.prod(shape)
    rows = np.concatenate([np.zeros((1, d)), np.eye(d)])
    scores = estimator.decision_function(rows.reshape(-1, *shape))
    bias, *weight = scores.reshape(len(rows), -1)
    return np.stack(weight, axis=1) - bias[:, None], bias


def _of_mlp(estimator):
    weights = [coef.T for coef in estimator.coefs_]
    layers = _layers(
        list(zip(weights, estimator.intercepts_, strict=True)),
        _ACTIVATIONS[estimator.activation],
    )
    return nn.Sequential(*layers)


class _Gaussians(nn.Module):
    """Log densities of one Gaussian a class, up to a constant."""

    means: torch.Tensor
    offsets: torch.Tensor

    def __init__(self, means, whitenings, offsets):
        super().__init__()
        self.register_buffer("means", _tensor(means))
        self.register_buffer("offsets", _tensor(offsets))
        for k, whitening in enumerate(whitenings):
            self.register_buffer(f"whitening_{k}", _tensor(whitening))

    def forward(self, x):
        # not by squares and products: a variance may be 1e-9 of another
        squares = []
        for k, mean in enumerate(self.means):
            whitening = getattr(self, f"whitening_{k}")
            z = x - mean
            z = z * whitening if whitening.ndim == 1 else z @ whitening
            squares.append((z**2).sum(dim=1))
        return self.offsets - 0.5 * torch.stack(squares, dim=1)


def _of_gaussians(estimator):
    if isinstance(estimator, GaussianNB):
        deviations = np.sqrt(estimator.var_)
        offsets = np.log(estimator.class_prior_) - np.log(deviations).sum(axis=1)
        offsets -= 0.5 * deviations.shape[1] * np.log(2 * np.pi)
        return _Gaussians(estimator.theta_, 1 / deviations, offsets)
    whitenings = [
        rotation / np.sqrt(scaling)
        for rotation, scaling in zip(
            estimator.rotations_, estimator.scalings_, strict=True
        )
    ]
    spreads = [0.5 * np.sum(np.log(scaling)) for scaling in estimator.scalings_]
    return _Gaussians(estimator.means_, whitenings, np.log(estimator.priors_) - spreads)


# Support vector machines


class KernelMachine(nn.Module):
    """Scores of a fitted ``SVC`` or ``NuSVC``; see the Notes of :func:`as_module`.

    Parameters
    ----------
    estimator : SVC or NuSVC
    first_of_ties : bool, default=None
        Of classes with equally many votes the first wins; None is what the estimator
        does, which is not what its ``decision_function`` says.
    """

    coef: torch.Tensor
    dual_coef: torch.Tensor
    first: torch.Tensor
    intercept: torch.Tensor
    second: torch.Tensor
    support_vectors: torch.Tensor

    def __init__(self, estimator, first_of_ties=None):
        super().__init__()
        self.kernel = estimator.kernel
        if self.kernel not in ("linear", "rbf", "poly", "sigmoid"):
            raise no_gradient(f"{type(estimator).__name__} with kernel={self.kernel!r}")
        if first_of_ties is None:
            first_of_ties = not estimator.break_ties
        self.first_of_ties = first_of_ties
        self.gamma = float(estimator._gamma)
        self.coef0, self.degree = float(estimator.coef0), int(estimator.degree)
        self.n_classes = len(estimator.classes_)
        self.n_support = [int(n) for n in estimator.n_support_]
        first, second = torch.triu_indices(self.n_classes, self.n_classes, 1)
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        self.register_buffer("intercept", _tensor(estimator.intercept_))
        if self.kernel == "linear":
            self.register_buffer("coef", _tensor(_dense(estimator.coef_)))
        else:
            vectors = _dense(estimator.support_vectors_)
            self.register_buffer("support_vectors", _tensor(vectors))
            self.register_buffer("dual_coef", _tensor(_dense(estimator.dual_coef_)))

    def _kernel(self, x):
        products = x @ self.support_vectors.T
        if self.kernel == "rbf":
            squares = (x**2).sum(1, keepdim=True) - 2 * products
            squares = squares + (self.support_vectors**2).sum(1)
            return torch.exp(-self.gamma * squares.clamp(min=0))
        products = self.gamma * products + self.coef0
        return products.tanh() if self.kernel == "sigmoid" else products**self.degree

    def pairs(self, x):
        """Return the decision values of all pairs (i < j), positive for i.

        Of two classes there is one value, positive for the second.
        """
        if self.kernel == "linear":
            return F.linear(x, self.coef, self.intercept)
        kernel = self._kernel(x)
        if self.n_classes == 2:
            return F.linear(kernel, self.dual_coef, self.intercept)
        # a class's support vectors hold coefficients against each of the others
        parts = [
            part @ coef.T
            for part, coef in zip(
                kernel.split(self.n_support, 1),
                self.dual_coef.split(self.n_support, 1),
                strict=True,
            )
        ]
        values = [
            parts[i][:, j - 1] + parts[j][:, i]
            for i, j in itertools.combinations(range(self.n_classes), 2)
        ]
        return torch.stack(values, dim=1) + self.intercept

    def forward(self, x):
        pairs = self.pairs(x)
        if self.n_classes == 2:
            return torch.cat([torch.zeros_like(pairs), pairs], dim=1)
        rows = torch.arange(len(x), device=x.device)
        first, second = self.first, self.second
        leads = pairs.new_zeros(len(x), self.n_classes, self.n_classes)
        leads = leads.index_put((rows[:, None], first, second), pairs)
        leads = leads - leads.transpose(1, 2)  # of the row's class over the column's
        with torch.no_grad():
            scores = self._by_votes(pairs, leads.sum(dim=2))
        catching_up = -leads[rows, scores.argmax(dim=1)]
        return catching_up + (scores - catching_up).detach()

    def _by_votes(self, pairs, sums):
        votes = torch.zeros_like(sums)
        # a pair at zero votes for its second in libsvm, its first in decision_function
        is_first = pairs > 0 if self.first_of_ties else pairs >= 0
        votes.index_add_(1, self.first, is_first.to(sums))
        votes.index_add_(1, self.second, (~is_first).to(sums))
        scores = votes + sums / (3 * (sums.abs() + 1))
        if self.first_of_ties:
            winner = votes.argmax(dim=1, keepdim=True)
            best = scores.amax(dim=1, keepdim=True)
            # no change where the winner is the best already
            lift = (scores.gather(1, winner) < best) * 1e-9
            scores.scatter_(1, winner, best + lift)
        return scores


def _is_linear(estimator):
    return estimator.kernel == "linear" and len(estimator.classes_) == 2


def _dense(values):
    return values.toarray() if hasattr(values, "toarray") else values
