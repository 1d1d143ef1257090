"""Peak memory on data that lies on disk: how much comes into memory with it.

Each case maps a file in a process of its own, works on a piece of it first, so that
libraries are loaded, and then on all of it. Counted is what the process allocates
beyond that; pages of the file itself belong to the system, which takes them back.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _harness  # noqa: F401 - one thread, set before the libraries load
import numpy as np

MB = 2**20
# MB of the file, of a quick run, allowed beyond it (None: for information)
CASES = {
    "row_keys, images": (256, 32, 32),
    "ReleasePoisonAttack.fit, budget=1": (256, 32, 200),
    "ReleasePoisonAttack.protect, disk to disk": (32, 8, 120),
    "extract_features, pixels": (256, 32, 50),
    "SpectralSignatures, given features": (256, 64, 100),
    "ActivationClustering, given features": (256, 64, 100),
    "DeepKNN, given features": (64, 16, None),
    "LabelIssueDetector, given probabilities": (128, 32, 60),
    "PoisonDetector": (32, 8, None),
    "aggregate, TrimmedMean": (512, 64, 30),
    "aggregate_blocks, Krum": (512, 64, 30),
}


def measure(bench):
    """Print a row for each case."""
    if not Path("/proc/self/status").exists():
        print("\nmemory: skipped, needs the /proc of Linux")
        return
    head = f"{'peak memory, MB':44}{'file':>8}{'ours':>8}{'of file':>9}{'bound':>8}"
    print(f"\n{head}\n{'-' * len(head)}", flush=True)
    missed = []
    for name, (full, quick, bound) in CASES.items():
        size = bench.size(full, quick)
        ours = _peak_of(name, size)
        verdict = "-" if bound is None or bench.quick else f"{bound}"
        figures = f"{size:>8}{ours:>8.0f}{ours / size:>9.0%}{verdict:>8}"
        print(f"{name:44}{figures}", flush=True)
        if verdict != "-" and ours > bound:
            missed.append(name)
    if missed:
        raise RuntimeError(f"more memory than is allowed: {', '.join(missed)}")


def _peak_of(name, size):
    """Return the MB that a case allocates at its peak, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, name, str(size), folder]
        # what is freed goes back to the system, or a warm-up would hide the peak
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=env
        ) as case:
            if case.stdout.readline() != "ready\n":
                raise RuntimeError(f"{name} failed")
            before = peak = _allocated(case.pid)
            while case.poll() is None:
                peak = max(peak, _allocated(case.pid))
                time.sleep(0.002)
        if case.returncode:
            raise RuntimeError(f"{name} failed")
    return peak - before


def _allocated(pid):
    """Return the MB of a process that belong to no file; 0 once it has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return sum(int(x.split()[1]) for x in status if x.startswith("RssAnon")) / 1024


def _file(folder, shape, dtype, size):
    """Map a file of random numbers of a size in MB; its rows have the given shape."""
    n_rows = size * MB // (np.dtype(dtype).itemsize * int(np.prod(shape)))
    found = np.memmap(Path(folder) / "data", dtype, "w+", shape=(n_rows, *shape))
    rng, step = np.random.default_rng(0), max(1, 4 * MB // int(np.prod(shape)))
    for start in range(0, n_rows, step):
        block = found[start : start + step]
        block[...] = 255 * rng.random(block.shape, np.float32)
    found.flush()
    return np.memmap(Path(folder) / "data", dtype, "r", shape=found.shape)


def _classes(n_rows):
    return np.arange(n_rows) % 5


def _network(X):
    from skpoison.models import LinearModel, TorchClassifier

    net = TorchClassifier(LinearModel, max_epochs=1, device="cpu", random_state=0)
    return net.fit(X[:100], _classes(100))


def _release(method, **params):
    from skpoison.attacks import ReleasePoisonAttack

    return ReleasePoisonAttack(
        method, budget=1, max_iter=1, augment=None, device="cpu", random_state=0,
        **params,
    )  # fmt: skip


def _case(name, size, folder):
    """Return what a case does to some rows, and the file."""
    from skpoison import defenses
    from skpoison.federated import Krum, TrimmedMean, aggregate, aggregate_blocks
    from skpoison.models import LinearModel, TorchClassifier, extract_features
    from skpoison.utils import row_keys

    kind, _, _ = name.partition(",")
    if kind == "row_keys":
        return row_keys, _file(folder, (3, 224, 224), np.float32, size)
    if kind == "ReleasePoisonAttack.fit":
        net = TorchClassifier(LinearModel, max_epochs=1, device="cpu")
        attack = _release("alignment", online=True, surrogate=net)
        X = _file(folder, (3, 32, 32), np.float32, size)
        return lambda X: attack.fit(X, _classes(len(X))), X
    if kind == "ReleasePoisonAttack.protect":
        X = _file(folder, (3, 32, 32), np.uint8, size)
        attack = _release("error_max", eps=8, bounds=(0, 255), surrogate=_network(X))
        attack.fit(X[:200], _classes(200))
        out = np.memmap(Path(folder) / "out", np.uint8, "w+", shape=X.shape)
        return lambda X: attack.protect(X, _classes(len(X)), out=out[: len(X)]), X
    if kind == "extract_features":
        X = _file(folder, (3, 32, 32), np.uint8, size)
        net = _network(X)
        return lambda X: extract_features(net, X, "linear"), X
    if kind.startswith("aggregate"):
        X = _file(folder, (size * MB // 4 // 200,), np.float32, size)
        if kind == "aggregate":
            return lambda X: aggregate(X, TrimmedMean(len(X) // 5)), X

        def by_blocks(X):
            blocks = (X[:, i : i + 10_000] for i in range(0, X.shape[1], 10_000))
            return aggregate_blocks(list(blocks), Krum(len(X) // 5))

        return by_blocks, X
    width = {"DeepKNN": 65_536, "PoisonDetector": 784}.get(kind, 512)
    detector = getattr(defenses, kind)
    X = _file(folder, (width,), np.float32, size)

    def detect(X):
        y = _classes(len(X))
        if kind == "PoisonDetector":
            detector(features="input", random_state=0).fit(X, y)
        elif kind == "LabelIssueDetector":
            detector().fit(X, y, pred_proba=0.8 * np.eye(5)[y] + 0.04)
        else:
            detector(features=X).fit(X[:, :1], y)

    return detect, X


if __name__ == "__main__":
    run, X = _case(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    run(X[:30])
    print("ready", flush=True)
    time.sleep(0.1)
    run(X)
