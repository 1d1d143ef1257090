"""Runs that are kept: what the tables of this folder share."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from skpoison.datasets import fetch_cifar10, fetch_fashion_mnist

FETCH = {"cifar10": fetch_cifar10, "fashion_mnist": fetch_fashion_mnist}


class Runs:
    """Results of named runs, a line of JSON each; a second call runs what is missing.

    Parameters
    ----------
    path : str
        The file; made where there is none.
    """

    def __init__(self, path):
        self.path = Path(path)
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        kept = [json.loads(line) for line in lines]
        self.results = {json.dumps(r["run"], sort_keys=True): r for r in kept}

    def get(self, run, measure=None):
        """Return the result of a run, measured and kept where it is missing.

        Parameters
        ----------
        run : dict
            What tells this run from others.
        measure : callable, default=None
            Called with the entries of `run`, returns a dict. Without it a missing run
            is None.
        """
        key = json.dumps(run, sort_keys=True)
        if key not in self.results and measure is not None:
            result = {"run": run, **measure(**run)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
            self.results[key] = result
        return self.results.get(key)

    def values(self, name, **run):
        """Return a figure of all runs that have these entries, in order of seeds."""
        found = [r for r in self.results.values() if run.items() <= r["run"].items()]
        return np.array(
            [r[name] for r in sorted(found, key=lambda r: r["run"]["seed"])]
        )


def interval(values, level=0.95):
    """Return the mean of independent figures and half the width of its interval."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return values.mean(), np.nan
    half = student.ppf((1 + level) / 2, len(values) - 1)
    return values.mean(), half * values.std(ddof=1) / np.sqrt(len(values))


def shown(values, digits=2):
    """Return mean and interval as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


def images(name, n_train, n_test, seed):
    """Return X_train, y_train, X_test, y_test in [0, 1]; None is all rows of a part."""
    layout = {"layout": "nchw", "dtype": "float32", "return_X_y": True}
    found = []
    for subset, n_samples in (("train", n_train), ("test", n_test)):
        drawn = {"subset": subset, "n_samples": n_samples, "random_state": seed}
        found += FETCH[name](**drawn, **layout)
    return found


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *args, **kwargs):
        found = super().parse_args(*args, **kwargs)
        if found.show and not Path(found.out).exists():
            self.error(f"--show needs a file of results, and there is no {found.out}")
        return found


def arguments(description, **defaults):
    """Return a parser with the options that all tables of this folder have.

    One torch thread is set: two of them on busy cores can take far longer.
    """
    torch.set_num_threads(1)
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="file of results, kept")
    parser.add_argument("--seeds", type=int, default=defaults.get("seeds", 5))
    parser.add_argument(
        "--full", action="store_true", help="the published setting, for a GPU"
    )
    parser.add_argument("--show", action="store_true", help="only what is there")
    parser.add_argument("--device", default=None, help="'cpu', or 'auto' with --full")
    return parser
