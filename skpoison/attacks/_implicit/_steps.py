"""Derivatives through preprocessing: steps, pipelines and tables of columns."""

from dataclasses import dataclass, replace
from functools import partial
from inspect import getattr_static

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from skpoison.attacks._implicit import _kernel_rules, _rules
from skpoison.attacks._implicit._columns import (
    Rows,
    slopes,
    substitute,
    tabulate,
    to_numbers,
)
from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.utils._containers import is_frame, take_rows


def pull_back(
    step, X_in, X_out, G, n_fit, *, jacobian="analytic", name="", categories=None
):
    """Take a derivative by a step's output back to its input.

    The derivative is total: a training row also moves the statistics that the step
    was fitted with.

    Parameters
    ----------
    step : transformer, "passthrough" or None
        Fitted on the first `n_fit` rows of `X_in`. May be a pipeline of steps.
    X_in : array, sparse matrix or data frame of shape (n_rows, n_columns)
        Training rows first, then others.
    X_out : array of shape (n_rows, n_outputs)
        What `step` makes of `X_in`.
    G : ndarray of shape (n_rows, n_outputs)
        Derivative of some number by `X_out`.
    n_fit : int
        0 holds the fitted statistics constant, as a ``FrozenEstimator`` does.
    jacobian : "analytic", "finite-differences" or dict, default="analytic"
        What happens at steps without a known derivative. "finite-differences" takes
        differences of their ``transform``, the fitted state held constant. A dict
        holds elementwise derivatives by the name of the step, as in
        "columns__numeric__log", or by the function of a FunctionTransformer. They are
        called like that function: with an array, and `kw_args` as keywords.
    name : str, default=""
        The name of the step.
    categories : dict, default=None
        From the position of an input column to the values that its cells may take,
        for columns that are no numbers, or codes.

    Returns
    -------
    G_in : ndarray of shape (n_rows, n_columns)
        Derivative by `X_in`; 0 in columns of categories or text.
    gains : dict of ndarray of shape (n_rows, n_categories)
        For each column in `categories`: the change of the number, up to a constant a
        row, when a cell takes each value; first order in what follows the encoding,
        which is held constant. NaN for a value that the fitted step refuses.

    Raises
    ------
    NotDifferentiableError
        A step without a known derivative.
    """
    if np.shape(G) != tuple(X_out.shape):
        raise ValueError(f"G has shape {np.shape(G)}, but X_out {tuple(X_out.shape)}")
    return pull_back_steps(
        [(name, step)], [X_in], G, n_fit, jacobian=jacobian, categories=categories
    )


def pull_back_steps(steps, inputs, G, n_fit, *, jacobian="analytic", categories=None):
    """Take a derivative by the output of steps in a row back to the first one's input.

    Not the same as :func:`pull_back` step by step where there are categories: these
    may pass several steps, an imputer say, before they are encoded.

    Parameters
    ----------
    steps : list of (name, transformer)
    inputs : list of array, sparse matrix or data frame
        What each step was given, training rows first.
    G, n_fit, jacobian, categories
        See :func:`pull_back`.

    Returns
    -------
    G_in, gains
        See :func:`pull_back`.
    """
    if not isinstance(jacobian, dict) and jacobian not in (
        "analytic",
        "finite-differences",
    ):
        raise ValueError(
            "jacobian must be 'analytic', 'finite-differences' or a dict of "
            f"derivatives, got {jacobian!r}"
        )
    categories = {int(j): list(values) for j, values in (categories or {}).items()}
    context = _Context(n_fit, jacobian, "")
    backs = []
    for (name, step), X in zip(steps, inputs, strict=True):
        context = replace(context, name=name)
        categories, back = _trace(step, Rows.of(X), categories, context)
        backs.append(back)
    end = f"the output of {context.describe(steps[-1][1])}" if steps else "the input"
    G = np.array(G, dtype=float)
    gains = _linear_gains(G, categories, end)
    G[:, list(categories)] = 0.0
    for back in reversed(backs):
        G, gains = back(G, gains)
    return G, gains


# A step is traced in the order of the data, and then run backwards:
#     leaving, back = _trace(step, rows, categories, context)
#     G_in, gains_in = back(G_out, gains_out)
# `categories` are columns of the input that hold categories, from position to values;
# `leaving` those of the output, whose gains are known only after the steps behind.
# A category stays one as long as it stays in a column or two. Where it is encoded in
# many, or reaches a step that computes with it, the gains follow from the derivative.


@dataclass(frozen=True)
class _Context:
    n_fit: int
    jacobian: str | dict
    name: str

    def within(self, name):
        return replace(self, name=f"{self.name}__{name}" if self.name else name)

    def describe(self, step):
        step = step.step if isinstance(step, _OfVector) else step
        kind = type(step).__name__
        return f"step {self.name!r} ({kind})" if self.name else f"step {kind}"

    @property
    def given(self):
        return self.jacobian if isinstance(self.jacobian, dict) else {}


def _trace(step, rows, categories, context):
    if step is None or isinstance(step, str):  # "passthrough"
        return categories, lambda G, gains: (G, gains)
    for base in type(step).__mro__:
        if base in RULES and all(
            getattr_static(step, method) is getattr_static(base, method)
            for method in ("fit", "fit_transform", "transform")
            if hasattr(base, method)
        ):
            return RULES[base](step, rows, categories, context)
    return _unknown(step, rows, categories, context)


def _linear_gains(G, categories, where):
    """Return derivative times value for columns of categories that are numbers."""
    gains = {}
    for j, values in categories.items():
        as_numbers = to_numbers(values)
        if as_numbers is None:
            raise NotDifferentiableError(
                f"column {j} holds text at {where}, where it should be numbers. Steps "
                "that put out text have a derivative only together with the encoder "
                "behind them."
            )
        gains[j] = np.outer(G[:, j], as_numbers)
    return gains


# Single steps


def _numeric(rule, step, rows, categories, context):
    """Trace a step that computes with all its columns."""

    def back(G, gains):
        G_in = _apply(rule, step, rows, G, context)
        gains = _linear_gains(G_in, categories, context.describe(step))
        G_in[:, list(categories)] = 0.0
        return G_in, gains

    return {}, back


def _apply(rule, step, rows, G, context):
    if rule is None or not G.any():  # spares a look at all rows
        return np.zeros((len(G), rows.n_columns))
    X, is_number = rows.numbers
    G_in = rule(step, X, G, context.n_fit)
    G_in[:, ~is_number] = 0.0
    return G_in


def _columnwise(rule, step, rows, categories, context, tables=None):
    """Trace a step each of whose outputs depends on one column."""
    if tables is None:
        tables = tabulate(step, rows.head, categories)
    leaving = {
        int(p): table.cells[:, p]
        for table in tables.values()
        if len(table.varying) <= 2 or table.is_text
        for p in table.varying
    }

    def back(G, gains_out):
        G_in = _apply(rule, step, rows, G, context)
        G_in[:, list(categories)] = 0.0
        gains = {}
        for j, table in tables.items():
            if leaving.keys() & set(table.varying.tolist()):
                gains[j] = sum(gains_out[p] for p in table.varying)
            else:
                gains[j] = G[:, table.varying] @ table.values.T
            gains[j][:, table.refused] = np.nan
        return G_in, gains

    return leaving, back


def _selector(step, rows, categories, context):
    place = {int(j): p for p, j in enumerate(np.flatnonzero(step.get_support()))}

    def back(G, gains_out):
        G_in = _apply(_rules.selector, step, rows, G, context)
        gains = {
            j: gains_out[place[j]] if j in place else np.zeros((len(G), len(values)))
            for j, values in categories.items()
        }
        return G_in, gains

    return {place[j]: categories[j] for j in categories if j in place}, back


def _imputer(step, rows, categories, context):
    if callable(step.strategy):
        return _unknown(step, rows, categories, context)
    return _columnwise(_rules.simple_imputer, step, rows, categories, context)


def _nystroem(step, rows, categories, context):
    if step.kernel != "rbf" or step.kernel_params:
        return _unknown(step, rows, categories, context)
    return _numeric(_kernel_rules.nystroem, step, rows, categories, context)


def _elementwise(derivative, kw_args=None):
    def rule(step, X, G, n_fit):
        with np.errstate(all="ignore"):
            slope = np.asarray(derivative(X, **(kw_args or {})), dtype=float)
            # 0 * inf where nothing arrives, or where a missing value stays missing
            return np.where((G == 0) | np.isnan(X), 0.0, G * slope)

    return rule


def _function(step, rows, categories, context):
    given = context.given
    derivative = None
    if context.name in given:
        derivative = given[context.name]
    elif step.func is None:
        derivative = np.ones_like
    elif step.func in given:
        derivative = given[step.func]
    elif not step.kw_args:
        derivative = _rules.DERIVATIVES.get(step.func)
    if derivative is not None:
        rule = _elementwise(derivative, step.kw_args)
        return _columnwise(rule, step, rows, categories, context)
    if _needs_no_slope(rows, categories):
        tables = tabulate(step, rows.head, categories)
        if step.feature_names_out == "one-to-one" or _is_columnwise(
            tables, step, rows, categories
        ):
            return _columnwise(None, step, rows, categories, context, tables)
    name = getattr(step.func, "__name__", repr(step.func))
    return _unknown(
        step,
        rows,
        categories,
        context,
        f" The derivative of {name} can be given as "
        f"jacobian={{{context.name or name!r}: derivative}}.",
    )


def _needs_no_slope(rows, categories):
    is_number = rows.numbers[1].copy()
    is_number[list(categories)] = False
    return not is_number.any()


def _is_columnwise(tables, step, rows, categories):
    """Tell whether cells of categories are turned into the same in two rows."""
    others = tabulate(step, rows.head, categories, row=1)
    return all(table.agrees(others[j]) for j, table in tables.items())


def _unknown(step, rows, categories, context, hint=""):
    """Trace a step that no rule is known for."""
    if context.name in context.given:
        rule = _elementwise(context.given[context.name])
        return _columnwise(rule, step, rows, categories, context)
    if context.jacobian == "finite-differences":
        return _differences(step, rows, categories, context)
    if not categories and _needs_no_slope(rows, categories):
        return {}, lambda G, gains: (np.zeros((len(G), rows.n_columns)), {})
    raise NotDifferentiableError(
        f"{context.describe(step)} has no derivative that is known here.{hint} "
        'jacobian="finite-differences" takes differences of its transform, its fitted '
        "state held constant."
    )


def _differences(step, rows, categories, context):
    """Trace a step by what it makes of rows with one column moved."""
    tables = tabulate(step, rows.head, categories)
    if any(table.is_text for table in tables.values()):
        if not _is_columnwise(tables, step, rows, categories):
            raise NotDifferentiableError(
                f"{context.describe(step)} puts out text that depends on more than one "
                "column."
            )
        leaving, back = _columnwise(None, step, rows, categories, context, tables)
    else:
        leaving, back = {}, None

    def pull(G, gains_out):
        gains = {}
        if back is not None:
            gains = back(G, gains_out)[1]
        else:
            for j, values in categories.items():
                gains[j] = substitute(step, rows, j, values, G)
        return slopes(step, rows, categories, G), gains

    return leaving, pull


# Steps of steps


def _pipeline(step, rows, categories, context):
    backs = []
    for name, part in step.steps:
        categories, back = _trace(part, rows, categories, context.within(name))
        backs.append(back)
        rows = rows.after(part)

    def pull(G, gains):
        for back in reversed(backs):
            G, gains = back(G, gains)
        return G, gains

    return categories, pull


def _frozen(step, rows, categories, context):
    return _trace(step.estimator, rows, categories, replace(context, n_fit=0))


class _OfVector:
    """A step that a ColumnTransformer gives one column as a vector, such as text."""

    def __init__(self, step):
        self.step = step

    def transform(self, X):
        return self.step.transform(take_rows(X, 0, axis=1))


def _column_transformer(step, rows, categories, context):
    weights = step.transformer_weights or {}
    parts = []
    for name, part, wanted in step.transformers_:
        columns = np.asarray(_positions(step, name, rows), dtype=int)
        if len(columns) == 0 or isinstance(part, str) and part == "drop":
            continue
        if np.isscalar(wanted):
            part = _OfVector(part)
        outputs = step.output_indices_[name]
        parts.append((name, part, columns, outputs, weights.get(name)))
    return _side_by_side(parts, rows, categories, context)


def _positions(step, name, rows):
    """Return where the columns of a part lie: a frame's are found by name."""
    positions = step._transformer_to_input_indices[name]
    if is_frame(rows.head) and hasattr(step, "feature_names_in_"):
        columns = list(rows.head.columns)
        return [columns.index(step.feature_names_in_[j]) for j in positions]
    return positions


def _union(step, rows, categories, context):
    weights = step.transformer_weights or {}
    parts = []
    start = 0
    for name, part in step.transformer_list:
        if isinstance(part, str) and part == "drop":
            continue
        width = rows.after(part).n_columns
        outputs = slice(start, start + width)
        columns = np.arange(rows.n_columns)
        parts.append((name, part, columns, outputs, weights.get(name)))
        start += width
    return _side_by_side(parts, rows, categories, context)


def _side_by_side(parts, rows, categories, context):
    """Trace steps that each take some columns; their outputs stand side by side."""
    leaving = {}
    backs = []
    for name, part, columns, outputs, weight in parts:
        own = {i: categories[j] for i, j in enumerate(columns) if j in categories}
        out, back = _trace(part, rows.columns(columns), own, context.within(name))
        for p, values in out.items():
            if weight is not None:
                values = weight * to_numbers(values)
            leaving[outputs.start + p] = values
        backs.append((back, columns, outputs, list(out), weight))

    def pull(G, gains_out):
        G_in = np.zeros((len(G), rows.n_columns))
        gains = {j: np.zeros((len(G), len(v))) for j, v in categories.items()}
        for back, columns, outputs, out, weight in backs:
            G_part, gains_part = back(
                G[:, outputs] * (1.0 if weight is None else weight),
                {p: gains_out[outputs.start + p] for p in out},
            )
            for i, j in enumerate(columns):
                G_in[:, j] += G_part[:, i]
                if i in gains_part:
                    gains[j] += gains_part[i]
        return G_in, gains

    return leaving, pull


RULES: dict = {
    ColumnTransformer: _column_transformer,
    FeatureUnion: _union,
    FrozenEstimator: _frozen,
    FunctionTransformer: _function,
    MaxAbsScaler: partial(_numeric, _rules.max_abs_scaler),
    MinMaxScaler: partial(_numeric, _rules.min_max_scaler),
    MissingIndicator: partial(_columnwise, None),
    Normalizer: partial(_numeric, _rules.normalizer),
    Nystroem: _nystroem,
    OneHotEncoder: partial(_columnwise, None),
    OrdinalEncoder: partial(_columnwise, None),
    PCA: partial(_numeric, _rules.pca),
    Pipeline: _pipeline,
    PolynomialFeatures: partial(_numeric, _rules.polynomial_features),
    RBFSampler: partial(_numeric, _kernel_rules.rbf_sampler),
    RobustScaler: partial(_numeric, _rules.robust_scaler),
    SelectorMixin: _selector,
    SimpleImputer: _imputer,
    StandardScaler: partial(_numeric, _rules.standard_scaler),
    TruncatedSVD: partial(_numeric, _rules.truncated_svd),
}
