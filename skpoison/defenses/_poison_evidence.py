"""The arithmetic behind PoisonDetector: patterns, neighbours and label issues."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.stats import binom
from sklearn.neighbors import NearestNeighbors

# Chosen on Fashion-MNIST, MNIST, digits, breast cancer, wine and spambase, clean and
# poisoned; the Notes of PoisonDetector say what they mean.
MIN_ROWS = 8  # fewer rows are no pattern: some always share an odd value
MAX_COMPONENTS = 1024  # of views with more columns, the leading ones
MAX_VALUES = 100  # columns of a class whose common values are looked at
RIDGES = (0.001, 0.01, 0.1, 1.0)
N_DIRECTIONS = 3
N_ROUNDS = 8
N_NEIGHBOURS = 10
MIN_SEPARATION = 6.3  # where the labels speak against the rows as well
MIN_SEPARATION_ALONE = 12.0, 8.0  # of few rows of a class, of a quarter or more
MIN_PURITY = 0.8
MAX_ISOLATION = 1.0  # of rows that lie among those of other classes
ISOLATION_MARGIN = 0.05
CONFIDENT = 0.9
MAX_DISAGREEMENT = 0.6  # of what guessing the largest class gets wrong


class LeaveOneOutRidge:
    """Ridge regression on one table, of many targets, each row left out in turn.

    Parameters
    ----------
    table : ndarray of shape (n_samples, n_values)
        Columns are scaled to unit variance; constant ones are dropped.
    """

    def __init__(self, table):
        table = table - table.mean(axis=0)
        scale = table.std(axis=0)
        varies = scale > 1e-9 * max(scale.max(initial=0.0), 1e-300)
        table = table[:, varies] / scale[varies]
        n_samples, n_values = table.shape
        wide = n_values > n_samples
        gram = table @ table.T if wide else table.T @ table
        if len(gram):
            last = len(gram) - 1
            first = max(last - MAX_COMPONENTS + 1, 0)
            power, vectors = eigh(gram, subset_by_index=(first, last))
            kept = power > 1e-8 * power[-1]
            power, vectors = power[kept], vectors[:, kept]
        else:  # nothing varies
            power, vectors = np.zeros(0), gram
        self.power = power
        self.basis = vectors if wide else table @ (vectors / np.sqrt(self.power))
        #: The rows in principal axes.
        self.rows = self.basis * np.sqrt(self.power)
        self._ridges = [self.power / (self.power + r * n_samples) for r in RIDGES]
        square = self.basis**2
        self._leverages = [
            np.minimum(square @ shrink + 1 / n_samples, 0.999)
            for shrink in self._ridges
        ]

    def predict(self, target, ridge=None):
        """Return each row's prediction by the fit without it, and the ridge chosen.

        None chooses the ridge of the smallest squared error.
        """
        mean = target.mean()
        weights = self.basis.T @ (target - mean)
        best: tuple = (np.inf,)
        for position in range(len(RIDGES)) if ridge is None else [ridge]:
            fit = mean + self.basis @ (self._ridges[position] * weights)
            error = (target - fit) / (1 - self._leverages[position])
            if (loss := error @ error) < best[0]:
                best = loss, target - error, position
        return best[1:]


@dataclass
class Pattern:
    """Rows that share what hardly any other row has."""

    rows: np.ndarray  # mask
    scores: np.ndarray  # of all rows; above 0 is inside
    separation: float
    purity: float  # share of the class in question among the rows inside
    view: str
    disagreement: float = 0.0  # share taken for another class by outside neighbours
    weight: float = 0.0  # of the evidence, to choose among the patterns of a class
    isolation: float = np.inf  # of backed ones, see `isolation`
    proposed: np.ndarray | None = None  # label codes of its rows, by neighbours


def split_in_two(values):
    """Return the threshold of the least variance within the two groups (Otsu's)."""
    ranked = np.sort(values)
    n = len(ranked)
    low = max(3, n // 100)
    left = np.arange(low, n - low + 1)
    total = np.cumsum(ranked)
    gap = total[left - 1] / left - (total[-1] - total[left - 1]) / (n - left)
    cut = left[np.argmax(left * (n - left) * gap**2)]
    return (ranked[cut - 1] + ranked[cut]) / 2


def grow(ridge, start, among, view):
    """Turn a first guess into the pattern that explains it, or None.

    Rows `among` which the leave-one-out fit puts above a gap become the next guess.
    """
    guess, position = start.astype(float), None
    for _ in range(N_ROUNDS):
        fit, position = ridge.predict(guess, position)
        threshold = split_in_two(fit[among])
        last, guess = guess, (among & (fit > threshold)).astype(float)
        if (last == guess).all():
            break
    inside = guess > 0
    rest = among & ~inside
    if inside.sum() < MIN_ROWS or rest.sum() < 2:
        return None
    gap = fit[inside].mean() - fit[rest].mean()
    spread = np.sqrt((fit[inside].var() + fit[rest].var()) / 2)
    separation = gap / (spread + 1e-6 * abs(gap) + 1e-300)
    purity = inside.sum() / (fit > threshold).sum()
    scores = 4 * (fit - threshold) / max(gap, 1e-300)
    return Pattern(scores > 0, scores, float(separation), float(purity), view)


class View:
    """One numeric description of the rows, and guesses at patterns in it."""

    def __init__(self, name, table, y):
        self.name, self.y = name, y
        self.ridge = LeaveOneOutRidge(table)
        self.within = sum(self._scatter(k) for k in range(y.max() + 1))

    def _scatter(self, label):
        members = self.ridge.rows[self.y == label]
        members = members - members.mean(axis=0)
        return members.T @ members

    def guesses(self, label):
        """Split the class along the directions in which it varies as no other does."""
        own = self.y == label
        members = self.ridge.rows[own]
        others = (self.within - self._scatter(label)) / max((~own).sum(), 1)
        # a part of the mean variance, or what never varies elsewhere would be infinite
        floor = 0.02 * np.trace(others) / len(others) + 1e-12
        others.flat[:: len(others) + 1] += floor
        white = solve_triangular(
            cholesky(others, lower=True),
            (members - members.mean(axis=0)).T,
            lower=True,
        )
        gram = white.T @ white if len(members) <= len(white) else white @ white.T
        last = len(gram) - 1
        first = max(last - N_DIRECTIONS + 1, 0)
        _, top = eigh(gram, subset_by_index=(first, last))
        top = top if len(members) <= len(white) else white.T @ top
        for direction in np.hstack([top, -top]).T:  # eigenvectors have no sign
            guess = np.zeros(len(own), dtype=bool)
            guess[own] = direction > split_in_two(direction)
            yield guess

    def patterns(self, label, more=()):
        """Return the patterns that grow from the guesses and from `more`."""
        own = self.y == label
        if not len(self.ridge.power):
            return []
        guesses = [*self.guesses(label), *more]
        return unique(grow(self.ridge, g, own, self.name) for g in guesses if g.any())


def unique(patterns):
    """Drop None and repetitions."""
    found = {p.rows.tobytes(): p for p in patterns if p is not None}
    return list(found.values())


def value_patterns(table, y, label, excess, values):
    """Return patterns in a class among the values that it has too often."""
    order = np.argsort(-excess[label], kind="stable")[:MAX_VALUES]
    order = order[excess[label, order] > 3]
    if not len(order):
        return []
    hits = table[:, order] == values[label, order]
    view = View("values", hits.astype(float), y)
    starts = [(y == label) & hits[:, j] for j in range(min(10, len(order)))]
    return view.patterns(label, starts)


def common_values(table, y):
    """Find the value of each column that is most over-represented in each class.

    Returns
    -------
    excess, values : ndarray of shape (n_classes, n_columns)
        How many standard errors more often than in the other classes, and which.
    binary : float
        Share of the columns that hold two values.
    """
    n_samples, n_columns = table.shape
    sizes = np.bincount(y)
    excess, values = np.zeros((2, len(sizes), n_columns))
    n_values = np.zeros(n_columns)
    for j in range(n_columns):
        present, codes = np.unique(table[:, j], return_inverse=True)
        n_values[j] = len(present)
        if len(present) < 2:
            continue
        cells = len(present) * len(sizes)
        counts = np.bincount(codes * len(sizes) + y, minlength=cells)
        counts = counts.reshape(-1, len(sizes))
        total = counts.sum(axis=1, keepdims=True)
        # with a pseudo-count, so that a value never seen elsewhere has a finite excess
        rate = (total - counts + 1) / (n_samples - sizes + 2)
        error = np.sqrt(rate * (1 - rate) / sizes) + 1e-12
        score = np.where(counts >= MIN_ROWS, (counts / sizes - rate) / error, 0.0)
        best = score.argmax(axis=0)
        excess[:, j] = score[best, np.arange(len(sizes))]
        values[:, j] = present[best]
    return excess, values, (n_values == 2).sum() / max((n_values > 1).sum(), 1)


def mistaken_by_neighbours(table, y):
    """Tell for each row whether its nearest neighbours take it for another class."""
    count = min(N_NEIGHBOURS, len(y) - 1)
    near = NearestNeighbors(n_neighbors=count).fit(table)
    return (y[near.kneighbors(return_distance=False)] == y[:, None]).mean(axis=1) < 0.5


def judge(pattern, table, y, label, mistaken, level, alone):
    """Return a pattern if it counts as poison, None otherwise.

    Parameters
    ----------
    pattern : Pattern
        Its disagreement, weight and proposed labels are filled in.
    table : ndarray of shape (n_samples, n_values)
        Where the neighbours are looked for.
    y : ndarray of int
    label : int
        The class it was found in.
    mistaken : ndarray of bool of shape (n_samples,)
        From `mistaken_by_neighbours`.
    level : float
        Of the test of the disagreement.
    alone : bool
        Whether a wide gap in the input counts without the labels.
    """
    if pattern.separation < MIN_SEPARATION:
        return None
    sizes = np.bincount(y)
    shares = np.bincount(y[pattern.rows], minlength=len(sizes)) / sizes
    if np.delete(shares, label).max() > 0.5:
        # what most of another class has is what that class looks like, no trigger
        pattern.rows = pattern.rows & (y == label)
    if pattern.rows.mean() > 0.5:
        return None
    inside, rest = np.flatnonzero(pattern.rows), np.flatnonzero(~pattern.rows)
    search = NearestNeighbors(n_neighbors=min(N_NEIGHBOURS, len(rest)))
    near = search.fit(table[rest]).kneighbors(table[inside], return_distance=False)
    votes = [(y[rest][near] == k).mean(axis=1) for k in range(y.max() + 1)]
    pattern.proposed = np.argmax(votes, axis=0)
    other = np.stack(votes, axis=1)[np.arange(len(inside)), y[inside]] < 0.5
    pattern.disagreement = float(other.mean())
    pure = pattern.purity >= MIN_PURITY
    # the rest of the class tells how often neighbours are wrong there anyway
    usual = 1.3 * mistaken[(y == label) & ~pattern.rows].mean()
    p_value = binom.sf(other.sum() - 1, len(inside), min(max(0.1, usual), 1.0))
    backed = p_value < level and pattern.disagreement >= (0.5 if pure else 0.7)
    # without its members even a good row is among strangers
    left = sizes[label] * (1 - shares[label])
    backed = backed and left >= 0.4 * np.median(np.delete(sizes, label))
    few = shares[label] < 0.25
    wide = pattern.separation >= MIN_SEPARATION_ALONE[0 if few else 1]
    wide = wide and pattern.view == "input"
    if not backed and not (alone and pure and wide):
        return None
    own = y[inside] == label
    if pure or not other[~own].sum() >= 0.7 * (~own).sum():
        # a trigger of this class: what other classes have of it is chance
        pattern.proposed, other = pattern.proposed[own], other[own]
        pattern.rows = pattern.rows & (y == label)
    # as many rows as possible that are wrong, as few as possible that are not
    gain = 1 + len(other) * (2 * other.mean() - 1)
    if backed:
        pattern.isolation = isolation(table[inside], table[rest[near[:, 0]]])
    pattern.weight = gain if backed else -1 / pattern.separation
    return pattern


def isolation(rows, nearest):
    """Compare the distance of rows to what is nearest outside with that among them.

    The mean difference, to which a trigger adds the same for every row, is taken off.
    """
    away = rows - nearest
    away = np.linalg.norm(away - away.mean(axis=0), axis=1)
    among = NearestNeighbors(n_neighbors=1).fit(rows).kneighbors()[0]
    return float(np.median(away) / max(np.median(among), 1e-300))


def overlap(first, second):
    """Tell whether two patterns share half of the smaller one or more."""
    n_shared = (first.rows & second.rows).sum()
    return n_shared >= 0.5 * min(first.rows.sum(), second.rows.sum())


def choose(patterns, own):
    """Return the pattern of a class that is the poison, in a list; of none, none.

    The two sides of a gap look alike, and good rows are among strangers, too, once the
    rest of their class is left out. The smaller side is the exception, unless the
    larger one lies among the rows of other classes, which it was made of.
    """

    def order(pattern):
        return (pattern.rows & own).sum() > 0.5 * own.sum(), -pattern.weight

    if not patterns:
        return []
    best = min(patterns, key=order)
    nearer = min(best.isolation - ISOLATION_MARGIN, MAX_ISOLATION)
    sides = [p for p in patterns if p.isolation < nearer and not overlap(p, best)]
    return [max(sides, key=lambda p: p.weight) if sides else best]


def test_issues(is_other, is_sure):
    """Compare how sure the models are of their disagreements with ordinary mistakes.

    Returns
    -------
    p_value : float
        Of so many sure disagreements among ordinary mistakes.
    false_share : float
        Expected share of ordinary mistakes among the sure disagreements.
    """
    n_other, n_sure = is_other.sum(), is_sure.sum()
    if not n_sure:
        return 1.0, 1.0
    unsure = n_other - n_sure
    rate = unsure / max(len(is_other) - n_sure, 1)
    # the most, and the mean, of what clean data show
    p_value = binom.sf(n_sure - 1, n_other, 0.1 + 0.5 * rate)
    share = 0.06 + 0.4 * rate
    return float(p_value), float(min(unsure * share / (1 - share) / n_sure, 1.0))
