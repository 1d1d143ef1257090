"""The loop around the iterations: checks, the best of each side, warm starts."""

import sys
import time

import numpy as np
from tqdm.auto import tqdm

from skpoison.partition._pdhg._arrays import make_arrays
from skpoison.partition._pdhg._models import make_scheme
from skpoison.partition._pdhg._rounding import random_roundings
from skpoison.partition._result import LiftedResult, warn_not_converged
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number

_FOLLOW_EVERY = 5
# the relaxed problem's own gap: first and next looked at, and how small it must be
_RELAXED_AFTER, _RELAXED_GROWTH, _RELAXED_SHARE = 200, 1.25, 0.1
# of sums of float64, in units of the sum of magnitudes
_ROUNDING = 1e-14
_OPTIONS: dict[str, dict] = {
    "check_every": {"low": 1, "integer": True},
    "kappa": {"low": 0.0, "strict": True},
    "over_relaxation": {"low": 1.0, "high": 2.0},
    "n_roundings": {"low": 0, "integer": True},
    "max_seconds": {"low": 0.0},
}


def solve_pdhg(
    energy,
    *,
    tol=1e-4,
    max_iter=2000,
    backend="numpy",
    device="auto",
    dtype="float32",
    warm_start=None,
    random_state=None,
    verbose=0,
    check_every=25,
    kappa=None,
    over_relaxation=1.8,
    n_roundings=5,
    max_seconds=None,
):
    """Solve a lifted problem by the primal-dual method with diagonal preconditioning.

    Parameters
    ----------
    energy : LiftedEnergy
    tol, max_iter, backend, device, dtype, warm_start, random_state, verbose
        As in :func:`~skpoison.partition.solve_lifted`.
    check_every : int, default=25
        Iterations between two roundings and evaluations of the bound.
    kappa : float, default=None
        Balance of the primal and dual steps; None is the model's, found by experiment.
    over_relaxation : float, default=1.8
        1 is the plain method; below 2.
    n_roundings : int, default=5
        Random threshold roundings where the tolerance was missed.
    max_seconds : float, default=None
        Wall time after which the next check is the last.

    Returns
    -------
    result : LiftedResult
    """
    check_options(
        {
            "check_every": check_every,
            "kappa": kappa,
            "over_relaxation": over_relaxation,
            "n_roundings": n_roundings,
            "max_seconds": max_seconds,
        }
    )
    started = time.perf_counter()
    xp = make_arrays(backend, dtype, device)
    scheme = make_scheme(xp, energy, kappa=kappa, rho=over_relaxation)
    best = Best(energy, scheme, started)
    _begin(scheme, best, warm_start)
    done = best.reached(tol)
    iteration, look_at = 0, _RELAXED_AFTER
    with tqdm(
        total=max_iter, disable=not verbose, leave=False, file=sys.stderr
    ) as progress:
        while not done and iteration < max_iter:
            steps = min(check_every, max_iter - iteration)
            for _ in range(steps):
                scheme.iterate()
                iteration += 1
                if iteration % _FOLLOW_EVERY == 0:
                    scheme.follow()
            best.check(iteration)
            done = best.reached(tol)
            if not done and iteration >= look_at:
                look_at = int(_RELAXED_GROWTH * iteration)
                best.relax(scheme.assignment(scheme.average))
                done = best.solved(tol)
            progress.update(steps)
            progress.set_postfix(energy=best.energy, bound=best.bound)
            late = time.perf_counter() - started
            if max_seconds is not None and late > max_seconds:
                break
    if n_roundings and not best.reached(tol):
        generator = RandomStreams(random_state).numpy("threshold rounding")
        for labels in random_roundings(scheme, n_roundings, generator):
            best.offer(labels)
        best.record(iteration)
    return best.result(iteration, tol)


def check_options(options):
    """Check the names and values of options, those of :func:`solve_pdhg`'s own."""
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        raise ValueError(
            f"solver_options of 'pdhg' are {', '.join(_OPTIONS)}; got "
            f"{', '.join(map(repr, sorted(unknown, key=str)))}"
        )
    for name, value in options.items():
        if value is not None or name not in ("kappa", "max_seconds"):
            check_number(name, value, **_OPTIONS[name])
    if options.get("over_relaxation", 1.0) >= 2.0:
        raise ValueError(
            f"over_relaxation must be below 2, got {options['over_relaxation']!r}"
        )


def _begin(scheme, best, warm_start):
    """Set the first iterate, and what is known before any."""
    scheme.start()
    unary, term = best.problem.unary, best.problem.pairwise
    for labels in (
        unary.argmin(axis=1),
        np.full(len(unary), unary.sum(axis=0).argmin()),
    ):
        best.offer(term.values[labels] if term.name == "sublabel" else labels)
    if warm_start is not None:
        _go_on(scheme, warm_start)
    scheme.average[...] = scheme.U
    if warm_start is not None:
        best.offer(_their_labels(best.problem, warm_start.labels))
    best.check(0)


def _go_on(scheme, warm_start):
    n, n_labels = scheme.energy.unary.shape
    if np.shape(warm_start.assignment) != (n, n_labels):
        raise ValueError(
            f"warm_start has an assignment of shape {np.shape(warm_start.assignment)}, "
            f"but the problem has {n} nodes and {n_labels} labels"
        )
    state = warm_start.state if isinstance(warm_start.state, State) else None
    if state is not None and state.restore(scheme):
        return
    scheme.set_primal(np.asarray(warm_start.assignment))
    duals = warm_start.duals
    m, n_duals = scheme.energy.graph.n_edges, len(scheme.energy.pairwise.costs)
    if duals is None or np.shape(duals) != (m, n_duals):
        return
    duals = np.asarray(duals, dtype=np.float64)
    if state is not None and len(state.scale) == m:
        # most are at a bound, which moves with the regularization
        duals = duals * (scheme.scale * scheme.inverse(state.scale))[:, None]
    scheme.set_duals(duals)


def _their_labels(problem, labels):
    """Return the labels of a warm start, kept in the range of this problem."""
    term = problem.pairwise
    if term.name == "sublabel":
        return np.clip(labels, term.values[0], term.values[-1])
    return np.clip(np.asarray(labels).astype(np.int64), 0, problem.n_labels - 1)


class State:
    """The iterate of a scheme, for a solve that goes on from it."""

    def __init__(self, scheme):
        self.key = self._key(scheme)
        self.arrays = [scheme.xp.get(array) for array in scheme.arrays()]
        self.scale = scheme.scale

    @staticmethod
    def _key(scheme):
        return type(scheme).__name__, scheme.radius, str(scheme.U.dtype)

    def restore(self, scheme):
        """Copy the iterate to a scheme of the same problem; return whether it fits."""
        mine = scheme.arrays()
        fits = (
            self.key == self._key(scheme)
            and [a.shape for a in self.arrays] == [tuple(a.shape) for a in mine]
            and np.array_equal(self.scale, scheme.scale)
        )
        if fits:
            for array, kept in zip(mine, self.arrays, strict=True):
                array[...] = scheme.xp.put(kept)
        return fits


class Best:
    """The best labelling and the best bound, which need not come at the same time."""

    def __init__(self, problem, scheme, started):
        self.problem, self.scheme, self.started = problem, scheme, started
        self.energy, self.labels = np.inf, np.empty(0)
        self.bound, self.duals = -np.inf, []
        self.relaxed = np.inf
        self.history = []
        least = problem.unary.min(axis=1)
        self.least, self.size = least.sum(), abs(least).sum()

    def check(self, iteration):
        """Round the iterate and evaluate its bound."""
        for U in (self.scheme.U, self.scheme.average):
            for labels in self.scheme.roundings(U):
                self.offer(labels)
        bound = self.scheme.bound()
        if not self.duals or bound > self.bound:
            self.bound = bound
            self.duals = [self.scheme.xp.copy(dual) for dual in self.scheme.duals]
        self.record(iteration)

    def offer(self, labels):
        """Take a labelling if it is better than the best."""
        energy = self.problem.value(labels)
        if not len(self.labels) or energy < self.energy:
            self.energy, self.labels = energy, labels

    def record(self, iteration):
        """Add a row to the history."""
        seconds = time.perf_counter() - self.started
        self.history.append((iteration, seconds, self.energy, self.bound))

    def relax(self, assignment):
        """Take the relaxed value of an assignment if it is the least."""
        self.relaxed = min(self.relaxed, self.problem.relaxed_value(assignment))

    def allowed(self, tol):
        """Return the gap at which to stop.

        A share of the bound; but a constant added to the costs of a node is no reason
        to stop early or never: of neither less than what the bound pays above every
        node's own least cost, nor more than ten times that.
        """
        excess = max(self.bound - self.least, 0.0)
        scale = min(max(abs(self.bound), excess), 10.0 * excess)
        return tol * scale + _ROUNDING * (self.size + abs(self.energy))

    def reached(self, tol):
        """Return whether the gap is small enough."""
        return self.energy - self.bound <= self.allowed(tol)

    def solved(self, tol):
        """Return whether the relaxed problem is, which rounding may not reach."""
        return self.relaxed - self.bound <= _RELAXED_SHARE * self.allowed(tol)

    def result(self, iteration, tol):
        """Return what was found."""
        scheme = self.scheme
        scheme.release()
        scheme.make_feasible(self.duals)
        duals = scheme.edge_duals(self.duals)
        self.duals = []
        self.bound = self.problem.lower_bound(duals)
        assignment = scheme.assignment(scheme.U)
        if not iteration or not self.reached(tol):
            self.relax(assignment)
        if not iteration and self.relaxed > self.energy:
            # solved at once: the first iterate has nothing to do with the labels
            assignment = self.problem.pairwise.one_hot(self.labels)
        result = LiftedResult(
            labels=self.labels,
            assignment=assignment,
            energy=self.energy,
            lower_bound=self.bound,
            n_iter=iteration,
            converged=self.reached(tol) or self.solved(tol),
            seconds=time.perf_counter() - self.started,
            solver="pdhg",
            duals=duals,
            history=self.history,
            state=State(scheme),
        )
        if not result.converged:
            warn_not_converged(result, f"short of tol={tol:g}")
        return result
