"""Timings as ratios: ours, a peer and a lower bound, taken in turns in one process."""

import gc
import importlib
import json
import os
import platform
import re
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# before the libraries that read it; a small net on two threads of a busy machine can
# take many times what one thread takes
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import sklearn
import torch

torch.set_num_threads(1)

_COLUMNS = ("ours", "peer", "ratio", "bound", "bar", "")
_HEAD = f"{'case':48} {'against':24} " + " ".join(f"{c:>9}" for c in _COLUMNS)
_RULE = "-" * len(_HEAD)


_KEPT: list = []


class Bench:
    """Runs cases, prints a row for each and keeps the figures.

    Parameters
    ----------
    quick : bool, default=False
        Smaller data and fewer repetitions: does it run, not how fast is it.
    device : str, default="cpu"
        For the benchmarks that train networks.
    """

    def __init__(self, quick=False, device="cpu"):
        if device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device {device!r}: torch sees no CUDA device")
        self.quick = quick
        self.device = device
        self.area = self._title = None
        self.results = []
        self.skipped = []

    def size(self, full, quick):
        """Return the first number, or with ``quick`` the second."""
        return quick if self.quick else full

    def optional(self, module):
        """Return a peer's module, or None where its package is not installed."""
        _stand_in_for_operators()
        try:
            return importlib.import_module(module)
        except ImportError:
            package = module.partition(".")[0]
            if package not in self.skipped:
                self.skipped.append(package)
            return None

    def title(self, text):
        """Start a table."""
        self._title = text
        print(f"\n{text}\n{_HEAD.rstrip()}\n{_RULE}", flush=True)

    def compare(self, name, ours, peers, *, repeats, work=1, bound=None, bars=None):
        """Time `ours` against each of `peers` and print a row for each.

        Parameters
        ----------
        name : str
            The case.
        ours : callable
        peers : dict of str to callable
            Each does the same work another way.
        repeats : int
            Rounds after one that warms up; ours, the peers and the bound take turns
            in each. Medians over the rounds are reported.
        work : float, default=1
            Times are divided by it, to report seconds an epoch for a fit of several.
        bound : callable, default=None
            Only the arithmetic that no implementation can do without.
        bars : dict of str to float, default=None
            Largest ratio to each peer that is good enough; a peer without a bar is
            shown for information.
        """
        runs = {"ours": ours, **{f"peer {peer}": run for peer, run in peers.items()}}
        if bound is not None:
            runs["bound"] = bound
        times = {label: [] for label in runs}
        for round_ in range(self.size(repeats, 1) + 1):
            for label, run in runs.items():
                seconds = self._time(run) / work
                if round_:
                    times[label].append(seconds)
        median = {label: statistics.median(found) for label, found in times.items()}
        for peer in peers:
            # one round on small data judges nothing
            bar = None if self.quick else (bars or {}).get(peer)
            result = {
                "area": self.area,
                "table": self._title,
                "case": name,
                "peer": peer,
                "ours_s": median["ours"],
                "peer_s": median[f"peer {peer}"],
                "ratio": median["ours"] / median[f"peer {peer}"],
                "bound_s": median.get("bound"),
                "bound_share": bound and median["bound"] / median["ours"],
                "bar": bar,
            }
            result["met"] = None if bar is None else result["ratio"] <= bar
            print(_line(result), flush=True)
            result["rounds_s"] = {
                label: times[key]
                for label, key in [("ours", "ours"), ("peer", f"peer {peer}")]
            }
            self.results.append(result)

    def _time(self, run):
        gc.collect()
        self._synchronise()
        start = time.perf_counter()
        run()
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self):
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    def summary(self):
        """Print what was skipped and which bars were missed; return the latter."""
        missed = [result for result in self.results if result["met"] is False]
        n_bars = sum(result["met"] is not None for result in self.results)
        judged = f"{n_bars - len(missed)} of {n_bars} bars met"
        print("\n" + ("--quick judges no bars" if self.quick else judged))
        for result in missed:
            print(f"  missed: {_line(result)}")
        for package in self.skipped:
            print(f"  skipped: {package} is not installed")
        return missed

    def save(self, path):
        """Write the results and what they were taken on to a JSON file."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "machine": machine(self.device),
                    "quick": self.quick,
                    "skipped": self.skipped,
                    "results": self.results,
                },
                file,
                indent=1,
            )
            file.write("\n")


def _stand_in_for_operators():
    """Declare operators that torchvision asks for where its compiled part is missing.

    Some peers import it for data sets or models, which are not used here.
    """
    if _KEPT:
        return
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        _KEPT.append(library)  # what it declares ends with it
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")


def machine(device="cpu"):
    """Return what a reader needs to judge the figures, and nothing that names a host.

    Returns
    -------
    machine : dict
    """
    found = {
        "architecture": platform.machine(),
        "system": platform.system(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }
    found |= {f"peer {name}": found_version for name, found_version in _peers()}
    if hasattr(os, "getloadavg"):
        found["load_average"] = round(os.getloadavg()[0], 1)
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _peers():
    for line in (Path(__file__).parent / "peers.txt").read_text("utf-8").splitlines():
        name = re.match(r"[\w.-]*", line)[0]
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _line(result):
    share, bar, met = result["bound_share"], result["bar"], result["met"]
    cells = (
        _seconds(result["ours_s"]),
        _seconds(result["peer_s"]),
        f"{result['ratio']:.2f}",
        "-" if share is None else f"{share:.0%}",
        "-" if bar is None else f"<= {bar:g}",
        {None: "", True: "met", False: "MISSED"}[met],
    )
    first = f"{result['case']:48} {result['peer']:24} "
    return (first + " ".join(f"{cell:>9}" for cell in cells)).rstrip()


def _seconds(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
