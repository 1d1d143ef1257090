"""Fitted preprocessing as torch sees it: affine steps folded, others called."""

from itertools import groupby

import numpy as np
import torch
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from torch.autograd.function import once_differentiable

from skpoison.attacks._implicit._columns import is_missing, transform
from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._steps import pull_back_steps
from skpoison.models._sklearn_modules import no_gradient


def stages_of(steps):
    """Return what fitted steps do to rows as a list of stages.

    Parameters
    ----------
    steps : list of (name, transformer)
        Pipelines among them are taken apart.

    Returns
    -------
    stages : list of callable
        From tensors of shape (n, n_in) to (n, n_out), float64. Neighbouring affine
        steps are one :class:`Affine` stage, all others one :class:`Called` stage.

    Raises
    ------
    TypeError
        A step has no derivative.
    """
    steps = list(_flat(steps))
    stages = []
    for affine, group in groupby(steps, lambda step: _is_affine(step[1])):
        members = list(group)
        stages.append(Affine.of(members) if affine else Called(members))
    return stages


def keeps_pixels(steps):
    """Tell whether uint8 values reach the end of fitted steps as they are."""
    return all(
        isinstance(step, SelectorMixin) or _is_no_function(step)
        for _, step in _flat(steps)
    )


class Affine:
    """Steps folded into ``x * scale + shift`` or ``x @ matrix.T + shift``."""

    def __init__(self, matrix, shift):
        self.matrix = torch.from_numpy(np.ascontiguousarray(matrix))
        self.shift = torch.from_numpy(shift)

    @classmethod
    def of(cls, steps):
        row, inputs = np.zeros((1, steps[0][1].n_features_in_)), []
        for _, step in steps:
            inputs.append(row)
            row = _output(step, row)
        if all(_is_elementwise(step) for _, step in steps):
            slopes = np.ones_like(row)
        else:
            slopes = np.eye(row.shape[1])
            inputs = [np.repeat(given, len(slopes), axis=0) for given in inputs]
        matrix = pull_back_steps(steps, inputs, slopes, 0)[0]
        is_diagonal = len(slopes) == 1 and matrix.shape == row.shape
        return cls(matrix[0] if is_diagonal else matrix, row[0])

    def __call__(self, x):
        matrix, shift = self.matrix.to(x.device), self.shift.to(x.device)
        if matrix.ndim == 1:
            return x * matrix + shift
        return torch.nn.functional.linear(x, matrix, shift)

    def before(self, W, b):
        """Return the affine map that has this stage in front of W, b."""
        matrix, shift = self.matrix.numpy(), self.shift.numpy()
        return W * matrix if matrix.ndim == 1 else W @ matrix, W @ shift + b


class Called:
    """Steps run by their own ``transform``, their derivative known by rule."""

    def __init__(self, steps):
        self.steps = steps
        for name, step in steps:
            rows = np.zeros((2, getattr(step, "n_features_in_", 1)))
            try:  # with no slope at all: only what is known matters
                pull_back_steps([(name, step)], [rows], np.zeros((2, 0)), 0)
            except NotDifferentiableError as error:
                raise no_gradient(f"step {name!r} ({type(step).__name__})") from error
            except ValueError:  # zeros need not be legal input: a category, a log
                pass

    def __call__(self, x):
        return _Call.apply(x, self.steps)


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, steps):
        rows, inputs = x.detach().cpu().numpy(), []
        for _, step in steps:
            inputs.append(rows)
            rows = _output(step, rows)
        ctx.steps, ctx.inputs = steps, inputs
        return torch.from_numpy(rows).to(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, G):
        pulled, _ = pull_back_steps(ctx.steps, ctx.inputs, G.cpu().numpy(), 0)
        return torch.from_numpy(pulled).to(G), None


def _output(step, rows):
    """Transform rows in silence; the result is dense, float64 and its own memory."""
    if isinstance(step, ColumnTransformer):  # takes columns by name
        rows = with_names(step, rows)
    out = transform(step, rows)
    out = out.toarray() if sparse.issparse(out) else np.asarray(out)
    return np.array(out, dtype=np.float64, order="C")


def with_names(estimator, rows):
    """Give rows the names of the columns that an estimator was fitted on, if any."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or not isinstance(rows, np.ndarray):
        return rows
    try:
        import pandas as pd
    except ImportError:  # it was another library's frame
        import polars as pl

        return pl.DataFrame(rows, schema=list(names), orient="row")
    return pd.DataFrame(rows, columns=names)


def _flat(steps):
    for name, step in steps:
        if isinstance(step, FrozenEstimator):
            yield from _flat([(name, step.estimator)])
        elif isinstance(step, Pipeline):
            yield from _flat((f"{name}__{inner}", part) for inner, part in step.steps)
        elif hasattr(step, "transform"):  # neither "passthrough" nor a sampler
            yield name, step


# What is affine, on rows without missing values


def _is_affine(step):
    if step is None or isinstance(step, str):
        return True
    if isinstance(step, FrozenEstimator):
        return _is_affine(step.estimator)
    kind = type(step)
    if kind is Pipeline:
        return all(_is_affine(part) for _, part in step.steps)
    if kind is FeatureUnion:
        return all(_is_affine(part) for _, part in step.transformer_list)
    if kind is ColumnTransformer:
        return all(_is_affine(part) for _, part, _ in step.transformers_)
    if isinstance(step, SelectorMixin):
        return kind.transform is SelectorMixin.transform
    if kind is SimpleImputer:
        return is_missing(step.missing_values) and not callable(step.strategy)
    return kind in (PCA, TruncatedSVD) or _is_elementwise(step)


def _is_elementwise(step):
    kind = type(step)
    if kind in (MinMaxScaler, MaxAbsScaler):
        return not getattr(step, "clip", False)
    return kind in (StandardScaler, RobustScaler) or _is_no_function(step)


def _is_no_function(step):
    return type(step) is FunctionTransformer and step.func is None
