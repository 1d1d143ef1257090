"""Moving poison rows uphill on the victim's validation objective."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from skpoison.utils._containers import append_rows, put_rows, take_rows

_MOMENTUM = 0.9
_MAX_RESTARTS = 5  # of a row that the victim takes no notice of
_PATIENCE = 10  # steps over which the objective must rise
_SMALLEST = 1 / 16  # share of the planned step at which a search gives up
_SAVE_EVERY = 10
_MAX_TRIALS = 8  # of one line search


@dataclass
class Poisons:
    """Rows that are added, as the search holds them: it moves Z and nothing else.

    Attributes
    ----------
    rows : array or data frame of shape (n_poison, n_features)
        Legal rows: where each started, and what its fixed cells hold.
    Z : ndarray of shape (n_poison, n_coordinates)
        The relaxed rows; one coordinate more where numbers y move too.
    y : ndarray of shape (n_poison,)
        Codes or numbers.
    sources : ndarray of int of shape (n_poison,)
        The clean row that each started from, -1 for none.
    """

    rows: object
    Z: np.ndarray
    y: np.ndarray
    sources: np.ndarray

    def __len__(self):
        return len(self.y)

    def head(self, n):
        """Return the first n."""
        if n == len(self):
            return self
        rows = take_rows(self.rows, np.arange(n))
        return Poisons(rows, self.Z[:n], self.y[:n], self.sources[:n])


class PoisonProblem:
    """The objective as a function of the poisons, with its gradient.

    Parameters
    ----------
    victim : Victim
    X : array or data frame of shape (n_samples, n_features)
        The clean rows.
    y : ndarray of shape (n_samples,)
    legal : LegalRows
    objective : str or callable
        Of scores and y; it is to rise.
    validation : (X_val, y_val)
        An `X_val` of None stands for the clean rows.
    y_range : (low, high), default=None
        Of the numbers y, which then move as well.
    spares : ndarray of int, default=()
        Clean rows from which a poison that the victim takes no notice of starts again.
    """

    def __init__(
        self, victim, X, y, legal, objective, validation, *, y_range=None, spares=()
    ):
        self.victim = victim
        self.X = X
        self.y = y
        self.legal = legal
        self.objective = objective
        self.X_val, self.y_val = validation
        self.y_range = y_range
        self.spares = spares
        self.may_restart = len(spares) > 0 and legal.n_mobile > 0
        self.last = None
        self.kkt_residual = 0.0

    def poisons(self, rows, y, sources):
        """Return legal rows as a point of the search."""
        Z = self.legal.relax(rows)
        if self.y_range is not None:
            low, high = self.y_range
            Z = np.column_stack([Z, (np.asarray(y) - low) / ((high - low) or 1.0)])
        return Poisons(rows, Z, np.asarray(y), np.asarray(sources))

    def project(self, Z, first=0):
        """Return the nearest relaxed rows, for the poisons from `first`."""
        if self.y_range is None:
            return self.legal.project(Z)
        return np.column_stack(
            [self.legal.project(Z[:, :-1]), np.clip(Z[:, -1], 0.0, 1.0)]
        )

    def decode(self, poisons):
        """Return the legal rows and the labels or numbers that a point stands for."""
        if self.y_range is None:
            return self.legal.decode(poisons.Z, poisons.rows), poisons.y
        low, high = self.y_range
        y = np.clip(low + (high - low) * poisons.Z[:, -1], low, high)
        return self.legal.decode(poisons.Z[:, :-1], poisons.rows), y

    def solve(self, poisons):
        """Train the victim on clean rows and poisons."""
        X, y = self.training_set(*self.decode(poisons))
        self.last = self.victim.solve(X, y, start=self.last)
        self.kkt_residual = getattr(self.last.solution, "kkt_residual", 0.0)
        return self.last

    def training_set(self, rows, y):
        """Return what the victim is trained on."""
        return append_rows(self.X, rows), np.concatenate([self.y, y])

    def places(self, first, last):
        """Return where poisons stand in the training set."""
        return slice(len(self.y) + first, len(self.y) + last)

    def value(self, poisons):
        """Return the objective."""
        return self.solve(poisons).value(self.X_val, self.y_val, self.objective)

    def gradient(self, poisons, first=0):
        """Return the objective and its derivative by the coordinates from `first`."""
        rows = self.places(first, len(poisons))
        found = self.solve(poisons).gradient(
            self.X_val,
            self.y_val,
            self.objective,
            rows=rows,
            categories=self.legal.categories,
        )
        G = self.legal.pull(found.X, found.gains)
        if self.y_range is not None:
            low, high = self.y_range
            G = np.column_stack([G, found.targets(rows) * (high - low)])
        return found.value, G

    def restart(self, poisons, i, attempt):
        """Return the poisons with the i-th moved to another clean row.

        One of another class than its label; label and fixed cells stay.
        """
        spares = self.spares
        if self.y_range is None:
            others = spares[self.y[spares] != poisons.y[i]]
            spares = others if len(others) else spares
        source = spares[(i * _MAX_RESTARTS + attempt) % len(spares)]
        Z = poisons.Z.copy()
        fresh = self.legal.relax(take_rows(self.X, np.array([source])))[0]
        Z[i, : len(fresh)] = fresh
        return replace(poisons, Z=Z)


class EditProblem(PoisonProblem):
    """The same with rows of the training set edited, inside a ball around each.

    Parameters
    ----------
    edited : ndarray of int of shape (n_poison,)
        The rows.
    radius : ndarray of shape (n_coordinates,)
    norm : {"linf", "l2"}
    """

    def __init__(self, *args, edited, radius, norm, **kwargs):
        super().__init__(*args, **kwargs)
        self.edited = edited
        self.radius = radius
        self.norm = norm
        self.centre = self.legal.relax(take_rows(self.X, edited))

    def project(self, Z, first=0):
        centre = self.centre[first : first + len(Z)]
        delta = Z - centre
        if self.norm == "linf":
            delta = delta.clip(-self.radius, self.radius)
        else:
            # an ellipsoid in relaxed coordinates is a ball in those of X
            with np.errstate(divide="ignore", invalid="ignore"):
                length = np.linalg.norm(np.nan_to_num(delta / self.radius), axis=1)
            delta = delta / np.maximum(1.0, length)[:, None]
        return self.legal.project(centre + delta)

    def decode(self, poisons):
        whole = self.legal.whole
        if len(whole) and np.isfinite(self.radius[whole]).any():
            # rounded, a number could leave the ball: it is cut towards its start
            unit = self.legal.in_ranges(np.ones(self.X.shape[1]))[whole]
            centre = self.centre[: len(poisons), whole]
            Z = poisons.Z.copy()
            steps = (Z[:, whole] - centre) / unit
            steps = np.trunc(steps + 1e-9 * np.sign(steps))  # 2.9999999 is 3
            Z[:, whole] = centre + unit * steps
            poisons = replace(poisons, Z=Z)
        return super().decode(poisons)

    def training_set(self, rows, y):
        return put_rows(self.X, self.edited[: len(y)], rows), self.y

    def places(self, first, last):
        return self.edited[first:last]


@dataclass
class Search:
    """How the poisons are moved, and a record of it.

    Attributes
    ----------
    max_iter : int
    step_size : float
        First step of a row.
    tol : float
        Steps are halved when the best objective rose by less, relatively, over ten
        steps; the search ends at a sixteenth.
    store : Store
        Keeps the state from time to time.
    tick : callable
        Told the objective whenever it is recorded.
    unit : float or ndarray
        Of steps along each coordinate.
    signed : bool
        Go by the signs of the gradient instead of its direction.
    curve : list of float
        The objective as the search goes on.
    """

    max_iter: int
    step_size: float
    tol: float
    store: object
    tick: Callable[[float], None]
    unit: float | np.ndarray = 1.0
    signed: bool = False
    curve: list = field(default_factory=list)

    def note(self, value):
        self.curve.append(float(value))
        self.tick(value)

    def has_risen(self, value, before):
        """Tell whether the objective rose by more than the tolerance."""
        return value - before > self.tol * max(abs(value), 1e-12)


def joint(problem, poisons, search, *, first=0, key="joint"):
    """Move poisons together along normalised gradients with momentum.

    ``d <- .9 d + g / ||g||, Z <- P(Z + eta_t d)``, with `eta_t` falling linearly to 0.
    The best iterate by the objective of the retrained victim is kept; when ten steps
    find no better one, the search goes on from it with half the step. A poison that
    the victim takes no notice of, such as a row that is no support vector, starts
    again from another clean row.

    Parameters
    ----------
    problem : PoisonProblem
    poisons : Poisons
    search : Search
    first : int, default=0
        Those before stay where they are.
    key : str, default="joint"
        Of the saved state; None saves none.

    Returns
    -------
    poisons : Poisons
        The best.
    value : float
    """
    velocity = np.zeros_like(poisons.Z[first:])
    attempts = np.zeros(len(poisons) - first, dtype=int)
    top, best, begin, scale, since = poisons, [-np.inf], 0, 1.0, 0
    state = search.store.get(key)
    if state is not None:
        top = replace(poisons, Z=state["top_Z"])
        poisons = replace(poisons, Z=state["Z"])
        velocity, attempts = state["velocity"], state["attempts"]
        best, begin = state["best"].tolist(), len(state["best"]) - 1
        scale, since = float(state["scale"]), int(state["since"])
        search.curve[:] = state["curve"].tolist()
    for t in range(begin, search.max_iter + 1):
        if key and t > begin and t % _SAVE_EVERY == 0 and search.store.keeps:
            problem.last = None  # as a resumed run will find it
            search.store.put(
                key,
                Z=poisons.Z,
                top_Z=top.Z,
                velocity=velocity,
                attempts=attempts,
                best=best,
                scale=scale,
                since=since,
                curve=search.curve,
            )
        value, G = problem.gradient(poisons, first)
        search.note(value)
        if value > best[-1]:
            top = poisons
        best.append(max(best[-1], value))
        since += 1
        if t == search.max_iter:
            break
        if since >= _PATIENCE and not search.has_risen(best[-1], best[-1 - _PATIENCE]):
            poisons, scale, since = top, scale / 2, 0
            velocity = np.zeros_like(velocity)
            if scale < _SMALLEST:
                break
            continue
        G = G * search.unit
        norms = np.linalg.norm(G, axis=1)
        G = np.sign(G) if search.signed else G / np.where(norms > 0, norms, 1)[:, None]
        velocity = _MOMENTUM * velocity + G
        step = scale * search.step_size * (1 - t / search.max_iter) * search.unit
        Z = poisons.Z.copy()
        Z[first:] = problem.project(Z[first:] + step * velocity, first)
        poisons = replace(poisons, Z=Z)
        if problem.may_restart:
            idle = (norms == 0) & (attempts < _MAX_RESTARTS)
            for i in np.flatnonzero(idle):
                poisons = problem.restart(poisons, first + i, attempts[i])
                velocity[i] = 0.0
                attempts[i] += 1
    return top, best[-1]


def greedy(problem, poisons, search):
    """Move one poison after the other, each against data and earlier poisons."""
    begin, value, state = 0, -np.inf, search.store.get("greedy")
    if state is not None:
        poisons = replace(poisons, Z=state["Z"])
        begin, value = int(state["done"]), float(state["value"])
        search.curve[:] = state["curve"].tolist()
    for i in range(begin, len(poisons)):
        found, value = joint(problem, poisons.head(i + 1), search, first=i, key=None)
        poisons = replace(poisons, Z=np.concatenate([found.Z, poisons.Z[i + 1 :]]))
        if search.store.keeps:
            problem.last = None  # as a resumed run will find it
            search.store.put(
                "greedy", Z=poisons.Z, value=value, done=i + 1, curve=search.curve
            )
    return poisons, value


def coordinate(problem, poisons, search):
    """Cycle over the poisons, each moved along its gradient by a line search."""
    steps = np.full(len(poisons), search.step_size)
    begin, state = 0, search.store.get("coordinate")
    if state is None:
        value = problem.value(poisons)
        search.note(value)
    else:
        poisons = replace(poisons, Z=state["Z"])
        steps, begin, value = state["steps"], int(state["done"]), float(state["value"])
        search.curve[:] = state["curve"].tolist()
    while begin < search.max_iter:
        before = value
        for i in range(len(poisons)):
            value, G = problem.gradient(poisons, i)
            norm = np.linalg.norm(G[0])
            if norm > 0:
                poisons, value, steps[i] = _line_search(
                    problem, poisons, i, G[0] / norm, steps[i], value
                )
            search.note(value)
        begin = begin + 1 if search.has_risen(value, before) else search.max_iter
        if search.store.keeps:
            problem.last = None  # as a resumed run will find it
            search.store.put(
                "coordinate",
                Z=poisons.Z,
                steps=steps,
                value=value,
                done=begin,
                curve=search.curve,
            )
    return poisons, value


def _line_search(problem, poisons, i, direction, step, value):
    """Double the step while the objective rises, or halve it until it does."""
    best, best_value, best_step, grows = poisons, value, step, None
    for _ in range(_MAX_TRIALS):
        Z = poisons.Z.copy()
        Z[i] = problem.project(Z[i : i + 1] + step * direction, i)[0]
        trial = replace(poisons, Z=Z)
        found = problem.value(trial)
        if found > best_value:
            best, best_value, best_step = trial, found, step
            if grows is False:  # the first that rises after halving
                break
            grows, step = True, 2 * step
        elif grows:
            break
        else:
            grows, step, best_step = False, step / 2, step / 2
    return best, best_value, best_step


STRATEGIES = {"joint": joint, "greedy": greedy, "coordinate": coordinate}
