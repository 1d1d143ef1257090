"""The energies, their lifted relaxations' dual sets, and weak duality."""

import numpy as np
from sklearn.utils import check_array

from skpoison.utils._validation import check_number, check_option

PAIRWISE = ("potts", "tv", "truncated", "sublabel", "separable_tv")
RELAXATIONS = ("zach", "lellmann", "ccp")


class Potts:
    """V(a, b) = [a != b]. One dual number an edge and label, at most half a weight.

    The parts that every interface term has, with those of the master form

        min <F, Z> + sum_e s_e sum_r costs_r |(D Z A)_er|,   Z_v in the simplex,

    where s = regularization * weights and A, here the identity, is the lifting.
    """

    name = "potts"

    def __init__(self, n_labels):
        self.n_labels = n_labels
        self.costs = np.full(n_labels, 0.5)

    def distance(self, a, b):
        """Return V(a, b), elementwise."""
        return (a != b).astype(float)

    def lift(self, Z):
        """Return Z A: what the interface term sees of an assignment."""
        return Z

    def lift_dual(self, G):
        """Return G A^T: what the duals add to the costs of each label."""
        return G

    def project(self, p, strength):
        """Return duals (n_edges, n_duals) moved into the dual set."""
        bound = strength[:, None] * self.costs
        return np.clip(p, -bound, bound)

    def decide(self, Z):
        """Return the labels of an assignment; the lowest on ties."""
        return Z.argmax(axis=1)

    def one_hot(self, labels):
        """Return the assignment of a labelling."""
        return np.eye(self.n_labels)[labels]


class Truncated(Potts):
    """V(a, b) = min(|a - b|, truncation), on label numbers."""

    name = "truncated"

    def __init__(self, n_labels, truncation):
        super().__init__(n_labels)
        self.truncation = float(truncation)
        self.costs = np.full(n_labels, 0.5 * self.truncation)

    def distance(self, a, b):
        """Return V(a, b), elementwise."""
        return np.minimum(abs(a - b), self.truncation).astype(float)

    def project(self, p, strength):
        """Return duals (n_edges, n_duals) moved into the dual set."""
        p = super().project(p, strength)
        if p.shape[1] < 2:
            return p
        steps = abs(np.diff(p, axis=1)).max(axis=1)
        excess = np.divide(steps, strength, out=np.ones_like(steps), where=strength > 0)
        return p / np.maximum(excess, 1.0)[:, None]


class TotalVariation(Potts):
    """V(a, b) = |g_a - g_b| for ascending label values g; the relaxation is exact."""

    name = "tv"

    def __init__(self, label_values):
        self.values = label_values
        self.n_labels = len(label_values)
        self.costs = np.diff(label_values)

    def distance(self, a, b):
        """Return V(a, b), elementwise."""
        return abs(self.values[a] - self.values[b])

    def lift(self, Z):
        """Return u_k = the mass on labels above k."""
        return np.cumsum(Z[:, :0:-1], axis=1)[:, ::-1]

    def lift_dual(self, G):
        """Return the cumulative sums of G, from 0."""
        return np.concatenate([np.zeros((len(G), 1)), np.cumsum(G, axis=1)], axis=1)

    def decide(self, Z):
        """Return the number of levels that are more than half full."""
        return (self.lift(Z) > 0.5).sum(axis=1)


class Product(Potts):
    """A term that sees a product of the assignment and a matrix A."""

    A: np.ndarray

    def lift(self, Z):
        """Return Z A."""
        return Z @ self.A

    def lift_dual(self, G):
        """Return G A^T."""
        return G @ self.A.T


class SeparableTotalVariation(Product):
    """V = |dy - dy'| + |dx - dx'| for labels on a grid of displacements."""

    name = "separable_tv"

    def __init__(self, n_rows, n_columns):
        self.n_labels = n_rows * n_columns
        self.rows, self.columns = np.divmod(np.arange(self.n_labels), n_columns)
        self.A = np.concatenate(
            [
                self.rows[:, None] > np.arange(n_rows - 1),
                self.columns[:, None] > np.arange(n_columns - 1),
            ],
            axis=1,
        ).astype(float)
        self.costs = np.ones(self.A.shape[1])

    def distance(self, a, b):
        """Return V(a, b), elementwise."""
        rows, columns = self.rows, self.columns
        return (abs(rows[a] - rows[b]) + abs(columns[a] - columns[b])).astype(float)


class Sublabel(Product):
    """V = |x - y| for real values x, y; unaries are their hulls between coarse values.

    A[k, r] = clip((t_k - g_r) / (g_{r+1} - g_r), 0, 1) for samples t, coarse values g.
    Labels of this term are real values, not numbers of labels.
    """

    name = "sublabel"

    def __init__(self, label_values, coarse_values):
        self.values = label_values
        self.coarse = coarse_values
        self.n_labels = len(label_values)
        self.costs = np.diff(coarse_values)
        self.A = np.clip(
            (label_values[:, None] - coarse_values[:-1]) / self.costs, 0.0, 1.0
        )

    def distance(self, a, b):
        """Return V(a, b), elementwise, of real values."""
        return abs(a - b)

    def decide(self, Z):
        """Return the real value of each node."""
        return self.coarse[0] + self.lift(Z) @ self.costs

    def one_hot(self, labels):
        """Return the assignment of real values, to the samples next to each."""
        k = np.clip(np.searchsorted(self.values, labels) - 1, 0, self.n_labels - 2)
        low, high = self.values[k], self.values[k + 1]
        share = ((labels - low) / (high - low))[:, None]
        rows = np.eye(self.n_labels)
        return (1.0 - share) * rows[k] + share * rows[k + 1]


def make_pairwise(
    pairwise,
    n_labels,
    *,
    label_values=None,
    truncation=None,
    coarse_values=None,
    label_shape=None,
):
    """Return the interface term named `pairwise`, its parameters checked."""
    check_option("pairwise", pairwise, PAIRWISE)
    if pairwise == "potts":
        return Potts(n_labels)
    if pairwise == "truncated":
        if truncation is None:
            raise ValueError("pairwise='truncated' needs truncation, got None")
        return Truncated(
            n_labels, check_number("truncation", truncation, low=0.0, strict=True)
        )
    if pairwise == "separable_tv":
        if np.shape(label_shape) != (2,) or np.prod(label_shape) != n_labels:
            raise ValueError(
                f"label_shape must be a pair whose product is the number of labels, "
                f"{n_labels}, got {label_shape!r}"
            )
        return SeparableTotalVariation(*label_shape)
    values = _check_values("label_values", label_values, n_labels)
    if pairwise == "tv":
        return TotalVariation(values)
    if coarse_values is None:
        raise ValueError("pairwise='sublabel' needs coarse_values, got None")
    coarse = _check_values("coarse_values", coarse_values, np.size(coarse_values))
    if len(coarse) < 2 or coarse[0] > values[0] or coarse[-1] < values[-1]:
        raise ValueError(
            "coarse_values must be at least two and span label_values, got "
            f"[{coarse[0]}, {coarse[-1]}] for [{values[0]}, {values[-1]}]"
        )
    return Sublabel(values, coarse)


def _check_values(name, values, n_values):
    if values is None:
        return np.arange(n_values, dtype=float)
    values = np.asarray(values, dtype=float)
    fits = values.shape == (n_values,) and np.isfinite(values).all()
    if not fits or not (np.diff(values) > 0).all():
        raise ValueError(
            f"{name} must be {n_values} ascending finite numbers, got {values}"
        )
    return values


class LiftedEnergy:
    """A labelling problem: unary costs, a graph, an interface term, its relaxation.

    Parameters
    ----------
    unary : ndarray of shape (n_nodes, n_labels)
        float64. SUMS of the costs of the pixels of each node.
    graph : PartitionGraph
    regularization : float
    pairwise : Potts or another term of this module
    relaxation : {"zach", "lellmann", "ccp"}
        Differ on isotropic grids with "potts" only.
    """

    def __init__(self, unary, graph, regularization, pairwise, relaxation="zach"):
        self.unary = check_array(unary, dtype=np.float64, input_name="unary")
        self.graph = graph
        self.regularization = check_number("regularization", regularization, low=0.0)
        self.pairwise = pairwise
        self.relaxation = check_option("relaxation", relaxation, RELAXATIONS)
        if len(self.unary) != graph.n_nodes:
            raise ValueError(
                f"unary has {len(self.unary)} rows, but the graph has {graph.n_nodes} "
                "nodes"
            )
        if graph.isotropic and pairwise.name not in ("potts", "tv"):
            raise ValueError(
                f"pairwise={pairwise.name!r} is not defined on an isotropic grid: use "
                "connectivity 4 or 8"
            )

    @property
    def n_labels(self):
        """Number of labels."""
        return self.pairwise.n_labels

    @property
    def strength(self):
        """Weights of the edges times the regularization, (n_edges,)."""
        return self.regularization * self.graph.weights

    def value(self, labels):
        """Return the energy of a labelling, in float64.

        Parameters
        ----------
        labels : ndarray of shape (n_nodes,)
            Label numbers; of "sublabel" real values.

        Returns
        -------
        energy : float
        """
        return float(self._unary_value(labels) + self._interface_value(labels))

    def _unary_value(self, labels):
        rows = np.arange(len(self.unary))
        if self.pairwise.name != "sublabel":
            return self.unary[rows, labels].sum()
        values = self.pairwise.values
        if len(values) == 1:
            return self.unary.sum()
        # linear between the samples
        k = np.clip(np.searchsorted(values, labels) - 1, 0, len(values) - 2)
        share = (labels - values[k]) / (values[k + 1] - values[k])
        below, above = self.unary[rows, k], self.unary[rows, k + 1]
        return (below + share * (above - below)).sum()

    def _interface_value(self, labels):
        if self.graph.isotropic:
            return isotropic_interface(labels, self)
        i, j = self.graph.edges.T
        # not a product by BLAS, whose threads cost more than they save here
        return (self.strength * self.pairwise.distance(labels[i], labels[j])).sum()

    def relaxed_value(self, Z):
        """Return what the relaxation gives an assignment.

        Parameters
        ----------
        Z : ndarray of shape (n_nodes, n_labels)
            Rows in the unit simplex.

        Returns
        -------
        value : float
            Infinity for "truncated" and "ccp", where it takes a problem of its own.
        """
        graph, term = self.graph, self.pairwise
        if term.name == "truncated" or (
            graph.isotropic and term.name == "potts" and self.relaxation == "ccp"
        ):
            return np.inf
        # rows of float32 sum to 1 but for rounding, which a large cost would show
        low = self.unary.min(axis=1)
        total = low.sum()
        for cost, share in zip(self.unary.T, Z.T, strict=True):
            total += ((cost - low) * share).sum()
        lifted, (i, j) = term.lift(Z).T, graph.edges.T
        if not graph.isotropic:
            for cost, row in zip(term.costs, lifted, strict=True):
                total += cost * (self.strength * abs(row[i] - row[j])).sum()
            return float(total)
        jumps = (lifted[:, i] - lifted[:, j]).T * self.strength[:, None]
        squares = (_directions(graph, jumps) ** 2).sum(axis=0)
        if term.name == "potts" and self.relaxation == "lellmann":
            return float(total + np.sqrt(0.5 * squares.sum(axis=2)).sum())
        return float(total + (np.sqrt(squares) @ term.costs).sum())

    def lower_bound(self, duals):
        """Return a lower bound of every labelling's energy, by weak duality.

        Parameters
        ----------
        duals : ndarray of shape (n_edges, n_duals)
            Any numbers: they are moved into the dual set first, in float64.

        Returns
        -------
        bound : float
        """
        duals, edges = np.asarray(duals), self.graph.edges
        n = self.graph.n_nodes
        G = np.zeros((duals.shape[1], n))
        # the ends of an isotropic grid's edges are coupled: one block of all edges
        step = max(len(edges), 1) if self.graph.isotropic else max(n // 4, 10_000)
        for start in range(0, len(edges), step):
            part = slice(start, start + step)
            p = np.asarray(duals[part], dtype=np.float64)
            if self.graph.isotropic:
                p = self.project(p)
            else:
                p = self.pairwise.project(p, self.strength[part])
            i, j = edges[part].T
            for row, column in zip(G, p.T, strict=True):
                row += np.bincount(i, column, n)
                row -= np.bincount(j, column, n)
        total = 0.0
        for start in range(0, n, step):
            part = slice(start, start + step)
            lifted = self.pairwise.lift_dual(G[:, part].T)
            total += (self.unary[part] + lifted).min(axis=1).sum()
        return float(total)

    def project(self, duals):
        """Return duals moved into the dual set."""
        if self.graph.isotropic:
            return project_isotropic(duals, self)
        return self.pairwise.project(duals, self.strength)


def _directions(graph, values):
    """Return an isotropic grid's values by edge as two images, zero at the far border.

    Shape (2, height, width, ...).
    """
    height, width = graph.shape
    n_right = height * (width - 1)
    images = np.zeros((2, height, width, *values.shape[1:]))
    images[0, :, :-1] = values[:n_right].reshape(height, width - 1, *values.shape[1:])
    images[1, :-1] = values[n_right:].reshape(height - 1, width, *values.shape[1:])
    return images


def isotropic_interface(labels, energy):
    """Return what the relaxation gives a labelling of an isotropic grid."""
    graph, pairwise = energy.graph, energy.pairwise
    right, down = _directions(graph, energy.strength)
    both = np.hypot(right, down)
    i, j = graph.edges.T
    if pairwise.name == "tv":
        total = 0.0
        for k, cost in enumerate(pairwise.costs):
            dx, dy = _directions(graph, ((labels[i] > k) != (labels[j] > k)) * 1.0)
            total += cost * np.hypot(dx * right, dy * down).sum()
        return total
    dx, dy = _directions(graph, pairwise.distance(labels[i], labels[j])) > 0
    image = labels.reshape(graph.shape)
    corner = dx & dy
    three = np.zeros_like(corner)
    three[:-1, :-1] = corner[:-1, :-1] & (image[:-1, 1:] != image[1:, :-1])
    total = (right * (dx & ~dy) + down * (dy & ~dx) + both * (corner & ~three)).sum()
    if energy.relaxation == "lellmann":
        junction = both
    elif energy.relaxation == "zach":
        junction = 0.5 * (both + right + down)
    else:  # the largest sum of two duals of at most unit length and distance
        junction = np.sqrt(both**2 + np.sqrt(3.0) * right * down)
    return total + (junction * three).sum()


def project_isotropic(duals, energy):
    """Return duals of an isotropic grid moved into the relaxation's dual set."""
    graph, pairwise = energy.graph, energy.pairwise
    strength = energy.strength
    scale = np.divide(1.0, strength, out=np.zeros_like(strength), where=strength > 0)
    q = _directions(graph, duals * scale[:, None])  # (2, height, width, n_duals)
    if pairwise.name == "tv":
        length = np.sqrt((q**2).sum(axis=0)) / pairwise.costs
    elif energy.relaxation == "zach":
        length = 2.0 * np.sqrt((q**2).sum(axis=0))
    elif energy.relaxation == "lellmann":
        length = np.sqrt(2.0 * (q**2).sum(axis=(0, 3)))[..., None]
    else:
        length = np.zeros(graph.shape)
        for a in range(q.shape[3]):
            gap = q[..., a + 1 :] - q[..., a : a + 1]
            length = np.maximum(length, np.hypot(*gap).max(axis=2, initial=0.0))
        length = length[..., None]
    q /= np.maximum(length, 1.0)
    flat = [q[0, :, :-1].reshape(-1, q.shape[3]), q[1, :-1].reshape(-1, q.shape[3])]
    return np.concatenate(flat) * strength[:, None]
