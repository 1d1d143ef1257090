"""Aggregation rules, against ByzFL and the arithmetic that can't be avoided.

100 clients of whom 20 are Byzantine, float32; rejection against a call of the rule for
each client; and 1,000 clients of a million parameters each from a file.
"""

import multiprocessing
import resource
import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    CAF,
    MDA,
    NNM,
    Bulyan,
    GeometricMedian,
    Krum,
    MeaMed,
    Median,
    Rejection,
    TrimmedMean,
    aggregate,
    aggregate_blocks,
)

_N, _F = 100, 20
_COLUMNS_A_BLOCK = 50_000
# NNM of ByzFL takes an array of n * n * d numbers
_LARGEST_NNM = 10_000


def measure(bench):
    """Time the rules on vectors of two lengths, then rejection, then a file."""
    for d in (bench.size(7850, 785), bench.size(1_000_000, 20_000)):
        updates = np.random.default_rng(0).normal(size=(_N, d)).astype(np.float32)
        bench.title(f"Aggregation, {_N} clients, {_F} Byzantine, {d:,} parameters")
        repeats = 7 if d < 1e5 else 1
        _selection(bench, updates, repeats)
        _order(bench, updates, repeats)
        _others(bench, updates, repeats)
        if d < 1e5:
            _rejection(bench, updates)
    if not bench.quick:
        _from_a_file(bench)


def _byzfl(bench, name, updates, *args, check=None, numpy=True, **params):
    """Return runs of a rule of ByzFL on tensors and on arrays, if it is there."""
    byzfl = bench.optional("byzfl")
    if byzfl is None:
        return {}
    rule, tensor = getattr(byzfl, name)(*args, **params), torch.from_numpy(updates)
    if check is not None:
        np.testing.assert_allclose(rule(tensor), check, rtol=1e-3, atol=1e-4)
    runs = {"ByzFL, torch": lambda: rule(tensor)}
    if numpy:
        runs["ByzFL, NumPy"] = lambda: rule(updates)
    return runs


def _case(bench, name, updates, rule, peers, repeats, bars=None):
    bench.compare(
        f"{name}, {updates.shape[1]:,}",
        lambda: rule(updates) if callable(rule) else aggregate(updates, rule),
        peers,
        repeats=repeats,
        bars=bars,
    )


def _selection(bench, updates, repeats):
    # ByzFL sums one neighbour more
    theirs = Krum(_F, n_neighbors=_N - _F - 1)(updates)
    products = {"symmetric product U U'": lambda: updates @ updates.T}
    peers = products | _byzfl(bench, "Krum", updates, _F, check=theirs)
    bars = {"symmetric product U U'": 1.5, "ByzFL, torch": 0.25}
    _case(bench, "Krum", updates, Krum(_F), peers, repeats, bars)

    def bulyan_by_hand():
        squares = (updates.astype(np.float64) ** 2).sum(axis=1)
        distances = np.add.outer(squares, squares) - 2.0 * (updates @ updates.T)
        left = np.arange(_N)
        chosen = []
        for _ in range(_N - 2 * _F):
            near = np.sort(distances[np.ix_(left, left)], axis=1)[:, 1:]
            scores = near[:, : max(1, len(left) - _F - 2)].sum(axis=1)
            chosen.append(left[scores.argmin()])
            left = np.delete(left, scores.argmin())
        rows = updates[chosen]
        order = np.abs(rows - np.median(rows, axis=0)).argsort(axis=0)
        nearest = order[: len(rows) - 2 * _F]
        return np.take_along_axis(rows, nearest, axis=0).mean(axis=0)

    np.testing.assert_allclose(Bulyan(_F)(updates), bulyan_by_hand(), atol=1e-4)
    peers = {"NumPy by hand": bulyan_by_hand}
    _case(bench, "Bulyan", updates, Bulyan(_F), peers, min(repeats, 5))


def _order(bench, updates, repeats):
    bars = {"ByzFL, torch": 0.15}
    for rule, name, args in (
        (TrimmedMean(_F), "TrMean", (_F,)),
        (Median(_F), "Median", ()),
        (MeaMed(_F), "Meamed", (_F,)),
    ):
        peers = {"np.sort of columns": lambda: np.sort(updates, axis=0)}
        if name != "Meamed" or updates.shape[1] < 1e5:  # half a minute
            peers |= _byzfl(bench, name, updates, *args, check=rule(updates))
        limits = bars if name != "Meamed" else None
        _case(bench, type(rule).__name__, updates, rule, peers, repeats, limits)


def _others(bench, updates, repeats):
    products = {"symmetric product U U'": lambda: updates @ updates.T}
    peers = products | _byzfl(bench, "GeometricMedian", updates)
    rule = GeometricMedian(_F, max_iter=3)  # as many as ByzFL
    _case(bench, "GeometricMedian, 3 steps", updates, rule, peers, repeats)
    _case(bench, "GeometricMedian", updates, GeometricMedian(_F), products, repeats)
    rule = make_pipeline(NNM(_F), rule)
    peers = dict(products)
    if updates.shape[1] < _LARGEST_NNM:
        first, then = (
            _byzfl(bench, name, updates, *args, numpy=False)
            for name, args in (("NNM", (_F,)), ("GeometricMedian", ()))
        )
        if first:
            peers["ByzFL, torch"] = lambda: (first["ByzFL, torch"](),
                                             then["ByzFL, torch"]())  # fmt: skip
    _case(bench, "NNM + GeometricMedian, 3 steps", updates, rule, peers, repeats)
    for rule, theirs in ((MDA(_F), {}), (CAF(_F), ("CAF", _F))):
        peers = dict(products)
        if theirs:  # ByzFL's MDA looks at each of 5e20 subsets
            peers |= _byzfl(bench, theirs[0], updates, theirs[1], numpy=False)
        _case(bench, type(rule).__name__, updates, rule, peers, min(repeats, 3))


def _rejection(bench, updates):
    rng = np.random.default_rng(1)
    X, y = rng.random((100, 784), dtype=np.float32), rng.integers(0, 10, 100)
    n_weights = updates.shape[1] // 10 * 10
    updates, X = updates[:, :n_weights] * 0.01, X[:, : n_weights // 10]
    X = np.c_[X, np.ones((100, n_weights // 10 - X.shape[1]), np.float32)]

    def evaluate(candidates):
        weights = candidates.reshape(len(candidates), 10, -1).reshape(-1, X.shape[1])
        scores = (X @ weights.T).reshape(len(X), -1, 10)
        scores -= scores.max(axis=2, keepdims=True)
        right = scores[np.arange(len(X)), :, y]
        errors = (scores.argmax(axis=2) != y[:, np.newaxis]).mean(axis=0)
        return errors, (np.log(np.exp(scores).sum(axis=2)) - right).mean(axis=0)

    rule, rejection = TrimmedMean(_F), Rejection("lfr", random_state=0)

    def by_calls():
        rule(updates)
        models = [rule(np.delete(updates, i, axis=0)) for i in range(_N)]
        return evaluate(np.stack(models))[1]

    kept = rejection.keep(updates, rule, _F, evaluate)
    assert set(np.argsort(by_calls())[: _F // 2]) <= set(np.setdiff1d(range(_N), kept))
    bench.compare(
        f"LFR with TrimmedMean, {n_weights:,}, 100 rows",
        lambda: rejection.keep(updates, rule, _F, evaluate),
        {"n + 1 calls of our rule": by_calls},
        repeats=3,
        bars={"n + 1 calls of our rule": 0.15},
    )


def _from_a_file(bench):
    n, d = 1000, 1_000_000
    folder = Path(tempfile.gettempdir())
    if shutil.disk_usage(folder).free < 6 * n * d:
        print("\nfrom a file: skipped, less than 6 GB free")
        return
    print(f"\n{n:,} clients, {d:,} parameters, a file of {4 * n * d / 1e9:.0f} GB")
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        rng = np.random.default_rng(0)
        for _ in range(n):
            file.write(rng.standard_normal(d, dtype=np.float32).tobytes())
        file.flush()
        for rule in (Krum(200), TrimmedMean(200)):
            # a process of its own: the peak of this one is past
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(_one_from_a_file, (file.name, n, d, rule))
            seconds, resident, allocated = found
            # the pages of a mapped file come in large pieces, and the system takes
            # them back when it needs them
            print(
                f"{type(rule).__name__:20} {seconds:6.1f} s, at its peak "
                f"{allocated / 1e6:.0f} MB allocated; resident memory grows by "
                f"{resident / 1e6:.0f} MB, pages of the file included",
                flush=True,
            )


def _one_from_a_file(path, n, d, rule):
    def blocks():
        for left in range(0, d, _COLUMNS_A_BLOCK):
            whole = np.memmap(path, np.float32, "r", shape=(n, d))
            yield whole[:, left : left + _COLUMNS_A_BLOCK]

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    start = time.perf_counter()
    aggregate_blocks(blocks, rule)
    seconds = time.perf_counter() - start
    allocated = tracemalloc.get_traced_memory()[1]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, (after - before) * 1024, allocated
