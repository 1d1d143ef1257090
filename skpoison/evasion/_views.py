"""A fitted model as torch sees it: scores with gradients, and the box it lives in."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.svm._base import BaseSVC
from torch import nn

from skpoison.evasion._calibrated import calibrated_scores
from skpoison.evasion._pipeline import Affine, keeps_pixels, stages_of, with_names
from skpoison.models._base import TorchEstimator
from skpoison.models._modules import LinearModel
from skpoison.models._sklearn_modules import (
    KernelMachine,
    WithZero,
    as_module,
    check_differentiable,
    of_network,
    unwrapped,
)
from skpoison.utils import local_torch_seed
from skpoison.utils._containers import take_rows
from skpoison.utils._tensors import evaluating, resolve_device


@dataclass
class View:
    """A fitted classifier as a differentiable function.

    Attributes
    ----------
    scores : callable
        ``scores(x)`` takes a tensor of shape (n, *sample_shape), in `dtype` and on
        `device`, and returns a tensor of shape (n, n_classes), one score a class, the
        largest of which is predicted, the first of equal ones. Cross entropy of the
        scores is the model's own.
    classes : ndarray of shape (n_classes,) or None
        Sorted labels; None for a bare module or skorch net, whose labels are
        0..n_classes-1.
    dtype : torch.dtype
    device : torch.device
    pixel_scale : float
        What uint8 values are divided by before `scores`.
    modules : list of torch.nn.Module
        Networks that are put into evaluation mode while the view is in use.
    affine : callable or None
        ``affine()`` returns (W, b) with scores = W x.ravel() + b, float64 arrays of
        shape (n_classes, n_features) and (n_classes,); None where the model is not
        affine.
    """

    scores: Callable[[torch.Tensor], torch.Tensor]
    classes: np.ndarray | None
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    pixel_scale: float = 1.0
    modules: list = field(default_factory=list)
    affine: Any = None

    @contextmanager
    def in_use(self):
        """Keep networks in evaluation mode, and leave them as they were."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(evaluating(module))
            yield self


def view(estimator, *, device="auto"):
    """Return a fitted classifier, or a torch module, as a :class:`View`.

    Parameters
    ----------
    estimator : torch.nn.Module, skorch classifier, TorchClassifier, scikit-learn \
classifier or Pipeline
        Fitted; not changed. See :func:`skpoison.models.as_module`; also a
        ``CalibratedClassifierCV`` around such a classifier, and pipelines of
        transformers with a known derivative.
    device : str or torch.device, default="auto"
        Of bare modules the device that they are on is kept under "auto", and models
        of scikit-learn stay on the CPU. Fitted networks stay where they are.

    Returns
    -------
    view : View

    Raises
    ------
    TypeError
        There is no gradient, or nothing to attack.
    NotFittedError
    """
    return _view(estimator, device, as_module)


def _view(estimator, device, module_of):
    if isinstance(estimator, nn.Module):
        return _module_view(estimator, device)
    estimator = unwrapped(estimator)
    check_differentiable(estimator)
    if isinstance(estimator, Pipeline):
        return _pipeline_view(estimator, device, module_of)
    if isinstance(estimator, CalibratedClassifierCV):
        return _calibrated_view(estimator, device)
    if hasattr(estimator, "module_"):
        return _network_view(estimator)
    module = module_of(estimator).requires_grad_(False)
    where = torch.device("cpu") if _is_auto(device) else resolve_device(device)
    module.to(where)

    def scores(x):
        return module(x.flatten(1))

    # a federation reads pixels, whatever it trained
    scale = 255.0 if hasattr(estimator, "_sample_shape") else 1.0
    affine = _affine_of(module)
    return View(scores, estimator.classes_, torch.float64, where, scale, [], affine)


def _is_auto(device):
    return isinstance(device, str) and device == "auto"


def _module_view(module, device):
    if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
        module = nn.Sequential(module)
    first = next(iter(module.parameters()), torch.zeros(0))
    where = first.device if _is_auto(device) else resolve_device(device)
    affine = _affine_of(module)
    return View(module, None, first.dtype, where, 255.0, [module], affine)


def _network_view(estimator):
    module = of_network(estimator)  # `in_use` alone changes its mode
    first = next(iter(module.parameters()), torch.zeros(0))
    classes, scale, device = None, 255.0, first.device
    if isinstance(estimator, TorchEstimator):
        classes, device = estimator.classes_, torch.device(estimator.net_.device)

        def scores(x):
            return module(estimator._module_tensor(x))

    elif hasattr(estimator, "_sample_shape"):  # a federation
        classes, learner = estimator.classes_, estimator._state.learner
        shape = getattr(learner, "sample_shape", estimator._sample_shape)

        def scores(x):
            return module(x.reshape(len(x), *shape))

    else:  # a net of skorch predicts positions, whatever labels it was given
        scores, scale = module, 1.0
    affine = _affine_of(module)
    return View(scores, classes, first.dtype, device, scale, [module], affine)


def _pipeline_view(pipeline, device, module_of):
    *steps, (_, final) = pipeline.steps
    inner = _view(final, device, module_of)
    stages = stages_of(steps)
    if not stages:
        return inner

    def scores(x):
        for stage in stages:
            x = stage(x)
        return inner.scores(x.to(inner.dtype))

    scale = inner.pixel_scale if keeps_pixels(steps) else 1.0
    found = replace(inner, scores=scores, dtype=torch.float64, pixel_scale=scale)
    if inner.affine is None or not all(isinstance(s, Affine) for s in stages):
        return replace(found, affine=None)
    W, b = inner.affine()
    for stage in reversed(stages):
        W, b = stage.before(W, b)
    weight, bias = (torch.from_numpy(v).to(inner.device) for v in (W, b))
    return replace(
        found,
        scores=lambda x: nn.functional.linear(x, weight, bias),
        affine=lambda: (W, b),
    )


def _calibrated_view(estimator, device):
    def module_of(inner):
        if isinstance(inner, BaseSVC) and len(inner.classes_) > 2:
            return KernelMachine(inner, first_of_ties=False)
        return as_module(inner)

    views = [
        _view(member.estimator, device, module_of)
        for member in estimator.calibrated_classifiers_
    ]
    return replace(
        views[0],
        scores=calibrated_scores(estimator, views),
        classes=estimator.classes_,
        dtype=torch.float64,
        modules=[module for inner in views for module in inner.modules],
        affine=None,
    )


def _affine_of(module):
    """Return what computes (W, b) of a module that is affine, else None."""
    layers = _layers(module)
    return partial(_compose, layers) if layers else None


def _layers(module):
    """Return the layers of an affine module that matter, None of others."""
    kind = type(module)
    if kind is nn.Sequential:
        parts = [_layers(part) for part in module]
        return None if None in parts else sum(parts, [])
    if kind is LinearModel:
        return [module.linear]
    if kind in (nn.Linear, WithZero):
        return [module]
    return [] if kind in (nn.Identity, nn.Flatten, nn.Dropout) else None


def _compose(layers):
    W, b = np.ones(()), np.zeros(())
    for layer in layers:
        if isinstance(layer, WithZero):
            W, b = np.concatenate([0 * W, W]), np.concatenate([0 * b, b])
            continue
        V = layer.weight.detach().cpu().double().numpy()
        W, b = V * W if W.ndim == 0 else V @ W, V.sum(1) * b if b.ndim == 0 else V @ b
        if layer.bias is not None:
            b = b + layer.bias.detach().cpu().double().numpy()
    return W, b


def agree(view, estimator, X, *, n_rows=50):
    """Raise unless a view predicts as its estimator does, on some rows.

    Parameters
    ----------
    view : View
    estimator : estimator
        What the view was made of; a bare module has nothing to disagree with.
    X : array or data frame of shape (n_samples, ...)
        As the estimator takes it.
    n_rows : int, default=50
        Rows that are compared, spread over X.

    Raises
    ------
    RuntimeError
        A row is read differently, and not for a tie.
    """
    if isinstance(estimator, nn.Module):
        return
    at = np.unique(np.linspace(0, len(X) - 1, min(n_rows, len(X))).astype(int))
    rows = take_rows(X, at)
    with view.in_use(), torch.no_grad():
        with local_torch_seed(0):  # loaders of skorch draw from the global stream
            codes = own_codes(view, estimator, rows)
        scores = view.scores(as_tensor(view, rows)).double().cpu().numpy()
    if codes.max(initial=0) < scores.shape[1]:
        best, own = scores.max(axis=1), scores[np.arange(len(at)), codes]
        # float32 rows may stay float32 in the estimator
        is_exact = view.dtype == torch.float64 and np.asarray(rows).dtype != np.float32
        tie = 1e-6 if is_exact else 1e-4
        wrong = at[~(best - own <= tie * np.maximum(1, np.abs(scores).max(axis=1)))]
    else:
        wrong = at
    if len(wrong):
        raise RuntimeError(
            f"the scores of {type(estimator).__name__} disagree with its predict in "
            f"{len(wrong)} of {len(at)} rows, such as row {wrong[0]}: its predict does "
            "not take the class of largest score, or it draws at random"
        )


def as_tensor(view, X):
    """Return rows as the tensor that the scores of a view take."""
    X = np.asarray(X)
    x = torch.tensor(X, device=view.device).to(view.dtype)
    return x / view.pixel_scale if X.dtype == np.uint8 else x


def own_codes(view, estimator, X):
    """Return the estimator's own predictions as positions among the classes."""
    if view.dtype == torch.float32 and isinstance(X, np.ndarray):
        # nets of skorch insist; others take pixels as they are
        X = X if X.dtype == np.uint8 else X.astype(np.float32)
    found = np.asarray(estimator.predict(with_names(estimator, X)))
    if view.classes is None:
        return found.astype(np.int64)
    return np.searchsorted(view.classes, found)
