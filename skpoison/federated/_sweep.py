"""Every attack against every rule, at the same seeds, and how to look at it."""

import itertools
import math
import time
import warnings

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.utils import Bunch
from sklearn.utils.validation import check_consistent_length
from tqdm import tqdm

from skpoison.attacks._store import Store
from skpoison.utils._containers import as_rows
from skpoison.utils._pyplot import import_pyplot
from skpoison.utils._validation import check_number, check_option


def robustness_sweep(
    estimator,
    attacks,
    aggregators,
    n_byzantine,
    X,
    y,
    X_test,
    y_test,
    seeds=(0,),
    *,
    param_grid=None,
    client_id=None,
    every=20,
    n_jobs=None,
    checkpoint=None,
    verbose=0,
):
    """Train a federation under every attack with every rule, at the same seeds.

    Parameters
    ----------
    estimator : FederatedClassifier
        What is not swept; cloned.
    attacks : dict of str to attack, or list of attacks
        None is no attack. A dict in the place of an attack holds parameters of the
        estimator.
    aggregators : dict of str to aggregator, or list of aggregators
        Likewise: ``{"krum + lfr": {"aggregator": Krum(), "rejection": "lfr"}}``.
    n_byzantine : int, float or list of them
        Byzantine clients, as numbers or shares.
    X : array-like of shape (n_samples, ...)
    y : array-like of shape (n_samples,)
    X_test, y_test : array-like
        Rows that errors are measured on.
    seeds : sequence of int, default=(0,)
        ``random_state`` of the estimator: partition, batches and initial weights are
        the same for all attacks and rules at one seed.
    param_grid : dict of str to list, default=None
        Further parameters of the estimator to vary, such as ``{"bias": [0.1, 0.5]}``.
    client_id : array-like of shape (n_samples,), default=None
        Owners of the rows.
    every : int, default=20
        Rounds between two measurements; the last round is always one.
    n_jobs : int, default=None
        Runs in parallel, in joblib's current backend. The result does not depend on
        it.
    checkpoint : str or Path, default=None
        A folder. Killed at any moment, the same call goes on from there.
    verbose : int, default=0
        1 shows a progress bar on stderr.

    Returns
    -------
    table : pandas.DataFrame, or Bunch of arrays where pandas is not installed
        A row for each run and measured round: `aggregator`, `attack`, `n_byzantine`,
        a column for each key of `param_grid`, `seed`, `round`, `error` (the share of
        test rows read wrongly) and `seconds` since the run began. ``error`` of the
        last `round` is the run's; under some attacks it swings from round to round,
        and :class:`RobustnessSweepDisplay` can show the mean over the last 100.

    Raises
    ------
    ValueError, TypeError
        A bad parameter, before any training; or all runs failed.

    Warns
    -----
    FitFailedWarning
        Some runs failed, such as a rule that does not bear so many Byzantine clients:
        their error is NaN.

    See Also
    --------
    RobustnessSweepDisplay : Heat map and curves.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.federated import (
    ...     FederatedClassifier, Mean, Median, SignFlipAttack, robustness_sweep,
    ... )
    >>> X, y = load_digits(return_X_y=True)
    >>> table = robustness_sweep(
    ...     FederatedClassifier(n_clients=20, n_rounds=40),
    ...     {"none": None, "flipped": SignFlipAttack(scale=5)},
    ...     {"mean": Mean(), "median": Median()},
    ...     0.2, X[:1200] / 16, y[:1200], X[1200:] / 16, y[1200:],
    ... )
    >>> sorted(set(table["round"]))
    [20, 40]
    """
    attacks = _named(attacks, "attacks", "attack")
    aggregators = _named(aggregators, "aggregators", "aggregator")
    if np.ndim(n_byzantine) == 0:
        n_byzantine = [n_byzantine]
    check_number("every", every, low=1, integer=True)
    seeds = list(seeds)
    if not seeds:
        raise ValueError("seeds must hold at least one seed, got none")
    X, X_test = as_rows(X), as_rows(X_test)
    check_consistent_length(X, y, client_id)
    check_consistent_length(X_test, y_test)
    varied = dict(param_grid or {})
    runs = []
    for rule, attack, f, values, seed in itertools.product(
        aggregators, attacks, n_byzantine, itertools.product(*varied.values()), seeds
    ):
        columns = {"aggregator": rule, "attack": attack, "n_byzantine": f}
        more = dict(zip(varied, values, strict=True))
        params = {"n_byzantine": f, **more, **aggregators[rule], **attacks[attack]}
        model = clone(estimator).set_params(**params, random_state=seed)
        runs.append(({**columns, **more, "seed": seed}, model))
    data = (X, y, X_test, y_test, client_id)
    store = Store(checkpoint, (runs, every, data), "sweep")
    found = [store.get(f"run-{i}") for i in range(len(runs))]
    failed: dict = {}
    missing = [i for i, curve in enumerate(found) if curve is None]
    bar = tqdm(total=len(runs), initial=len(runs) - len(missing), disable=not verbose)
    with bar:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        jobs = (delayed(_run)(i, runs[i][1], data, every) for i in missing)
        for i, curve, error in parallel(jobs):
            if error is None:
                store.put(f"run-{i}", **curve)
            else:
                failed[i] = error
            found[i] = curve
            bar.update()
    if failed:
        _tell(failed, [columns for columns, _ in runs])
    rows = [
        {**columns, **dict(zip(curve, point, strict=True))}
        for (columns, _), curve in zip(runs, found, strict=True)
        for point in zip(*(v.tolist() for v in curve.values()), strict=True)
    ]
    table = Bunch(**{name: _column([r[name] for r in rows]) for name in rows[0]})
    try:
        import pandas as pd
    except ImportError:
        return table
    return pd.DataFrame(dict(table))


def _named(objects, name, parameter):
    """Return a dict of the parameters that each entry stands for."""
    if not isinstance(objects, dict):
        objects = {"none" if o is None else repr(o): o for o in objects}
    if not objects:
        raise ValueError(f"{name} must hold at least one entry, got none")
    return {
        key: value if isinstance(value, dict) else {parameter: value}
        for key, value in objects.items()
    }


def _column(values):
    """Make an array, of objects where the values are not plain."""
    if all(isinstance(v, str) for v in values) or np.ndim(values[0]) == 0:
        return np.asarray(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _run(number, model, data, every):
    X, y, X_test, y_test, client_id = data
    start, done, points, failure = time.perf_counter(), 0, [], None
    stops = [*range(every, model.n_rounds, every), model.n_rounds]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            for stop in stops:
                model.partial_fit(X, y, client_id=client_id, n_rounds=stop - done)
                done = stop
                error = 1 - model.score(X_test, y_test)
                points.append((done, error, time.perf_counter() - start))
        except ValueError as error:  # such as too many Byzantine clients for a rule
            points, failure = [(model.n_rounds, math.nan, math.nan)], error
    columns = (np.array(column) for column in zip(*points, strict=True))
    return (
        number,
        dict(zip(("round", "error", "seconds"), columns, strict=True)),
        failure,
    )


def _tell(failed, settings):
    """Warn of runs that failed, or raise if all did."""
    first = min(failed)
    if len(failed) == len(settings):
        raise failed[first]
    warnings.warn(
        f"{len(failed)} of {len(settings)} runs failed and have NaN for an error; the "
        f"first, {settings[first]}, with: {failed[first]}",
        FitFailedWarning,
        stacklevel=3,
    )


class RobustnessSweepDisplay:
    """Heat map of attacks against rules, and curves of the error.

    Parameters
    ----------
    table : pandas.DataFrame or Bunch of arrays
        From :func:`robustness_sweep`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from skpoison.federated import RobustnessSweepDisplay
    >>> table = {
    ...     "aggregator": ["mean", "mean", "median", "median"],
    ...     "attack": ["none", "IPM", "none", "IPM"],
    ...     "seed": [0, 0, 0, 0], "round": [500, 500, 500, 500],
    ...     "error": [0.1, 0.8, 0.13, 0.2],
    ... }
    >>> display = RobustnessSweepDisplay(table)
    >>> display.errors(["attack", "aggregator"])["IPM", "mean"]
    0.8
    """

    def __init__(self, table):
        self.table = table

    def errors(self, by, *, last=1):
        """Return the mean error over seeds of each setting.

        Parameters
        ----------
        by : list of str
            Columns that tell settings apart; others are averaged over.
        last : int, default=1
            Rounds at the end of each run over which errors are averaged; 1 takes the
            last round alone.

        Returns
        -------
        errors : dict of tuple to float
            In the order of the table.
        """
        check_number("last", last, low=1, integer=True)
        columns = {name: list(self.table[name]) for name in [*by, "round", "error"]}
        cells: dict = {}
        final = max(columns["round"])
        for i, error in enumerate(columns["error"]):
            if "round" in by or columns["round"][i] > final - last:
                key = tuple(columns[name][i] for name in by)
                cells.setdefault(key, []).append(error)
        return {key: float(np.mean(values)) for key, values in cells.items()}

    def plot(self, kind="heatmap", *, x="n_byzantine", ax=None, last=1):
        """Draw the table.

        Parameters
        ----------
        kind : {"heatmap", "curve"}, default="heatmap"
            Attacks against rules, or the error against `x`, a line for each pair.
        x : str, default="n_byzantine"
            Of a curve: "round", or a column whose parameter was varied.
        ax : matplotlib Axes, default=None
        last : int, default=1
            Rounds that errors are averaged over.

        Returns
        -------
        self : object
        """
        check_option("kind", kind, ["heatmap", "curve"])
        if kind == "curve" and x not in self.table:
            raise ValueError(f"x={x!r} is no column of the table: {list(self.table)}")
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        if kind == "heatmap":
            self._draw_cells(ax, last)
        else:
            self._draw_lines(ax, x, last)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_cells(self, ax, last):
        cells = self.errors(["attack", "aggregator"], last=last)
        attacks, rules = ([*dict.fromkeys(key[i] for key in cells)] for i in (0, 1))
        grid = np.array(
            [
                [cells.get((attack, rule), np.nan) for rule in rules]
                for attack in attacks
            ]
        )
        image = ax.imshow(grid, vmin=0, vmax=1, cmap="viridis_r", aspect="auto")
        for (i, j), error in np.ndenumerate(grid):
            color = "white" if error > 0.5 else "black"
            ax.text(j, i, f"{error:.2f}", ha="center", va="center", color=color)
        ax.set_xticks(range(len(rules)), rules, rotation=30, ha="right")
        ax.set_yticks(range(len(attacks)), attacks)
        ax.set(xlabel="aggregation rule", ylabel="attack")
        ax.figure.colorbar(image, ax=ax, label="test error")

    def _draw_lines(self, ax, x, last):
        cells = self.errors(["aggregator", "attack", x], last=last)
        for rule, attack in dict.fromkeys(key[:2] for key in cells):
            points = sorted(
                (k[2], v) for k, v in cells.items() if k[:2] == (rule, attack)
            )
            ax.plot(*zip(*points, strict=True), marker=".", label=f"{rule}, {attack}")
        ax.set(xlabel=x, ylabel="test error")
        ax.legend()
