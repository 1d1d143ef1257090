"""Runs that are kept: what the scripts of this folder share."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from skpoison.datasets import fetch_cifar10, fetch_fashion_mnist, fetch_mnist
from skpoison.metrics import wilson_interval

FETCH = {
    "cifar10": fetch_cifar10,
    "fashion_mnist": fetch_fashion_mnist,
    "mnist": fetch_mnist,
}


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
            is None. CPU seconds are added where it does not tell them.
        """
        key = json.dumps(run, sort_keys=True)
        if key not in self.results and measure is not None:
            start = time.process_time()
            found = measure(**run)
            seconds = round(time.process_time() - start, 2)
            self.keep({"run": run, "seconds": seconds, **found})
        return self.results.get(key)

    def keep(self, result):
        """Write a result, whose entry "run" names it, to the file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)
        self.results[json.dumps(result["run"], sort_keys=True)] = result

    def values(self, name, **run):
        """Return a figure of all runs that have these entries, in order of seeds."""
        found = [r for r in self.results.values() if run.items() <= r["run"].items()]
        found.sort(key=lambda r: r["run"].get("seed", 0))
        return np.array([r[name] for r in found])


def interval(values, level=0.95):
    """Return the mean of independent figures and half the width of its interval."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return values.mean(), np.nan
    half = student.ppf((1 + level) / 2, len(values) - 1)
    return values.mean(), half * values.std(ddof=1) / np.sqrt(len(values))


def sign(values):
    """Return 1 or -1 where the interval of the mean is above or below 0, else 0."""
    mean, half = interval(values)
    return int(mean - half > 0) - int(mean + half < 0)


def shown(values, digits=2):
    """Return mean and interval as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


def shown_share(n_hits, n, digits=2):
    """Return a share of independent trials and its Wilson interval as text."""
    low, high = wilson_interval(n_hits, n)
    return f"{n_hits / n:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


HEAD = ("setting", "published", "ours", "n", "seconds")


def print_table(rows, head=HEAD):
    """Print rows of anything under heads: the first column left, the others right."""
    lines = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = "".join(
            f"{c:>{w + 2}}" for c, w in zip(others, widths[1:], strict=True)
        )
        print(f"{first:{widths[0]}}{cells}")


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
        if found.seeds < 1:
            self.error(f"--seeds must be at least 1, got {found.seeds}")
        found.size = "full" if found.full else "tiny" if found.tiny else "cpu"
        found.device = found.device or ("auto" if found.full else "cpu")
        return found


def arguments(description, seeds=5, full=True):
    """Return a parser with the options that all scripts have, or all but --full.

    What it parses has `size` too: "cpu", "full", or "tiny" for a run of seconds that
    shows nothing but that the script works. One torch thread is set: two of them on
    busy cores can take far longer.
    """
    torch.set_num_threads(1)
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="file of results, kept")
    parser.add_argument("--seeds", type=int, default=seeds)
    if full:
        parser.add_argument(
            "--full", action="store_true", help="the published setting, for a GPU"
        )
    else:
        parser.set_defaults(full=False)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--show", action="store_true", help="only what is there")
    parser.add_argument("--device", help="cpu, or auto: the default of --full")
    return parser
