"""The iterations: one class a model, all of one shape.

Variables are scaled so that step sizes vanish from the formulas. With c_e the scale of
an edge, p = c_e q, and U = r u with r = kappa / 2, the preconditioned steps

    u+ = proj(u - tau_v (F + D^T p)),        tau_v = 1 / (kappa sum_{e at v} c_e),
    p+ = clip(p + sigma_e D(2 u+ - u), -c_e, c_e),        sigma_e = kappa c_e / 2

become

    U+ = proj_r(U - (F + D^T c q) / (2 sum_{e at v} c_e)),
    q+ = clip(q + D(2 U+ - U), -1, 1),

so that kappa is the size of the simplex. Both are over-relaxed (Condat 2013): of a step
from x to x', the iterate takes x + rho (x' - x), 1 <= rho < 2.
"""

import numpy as np

from skpoison.partition._pdhg._arrays import NumpyArrays
from skpoison.partition._pdhg._operators import GraphOperator, GridOperator
from skpoison.partition._pdhg._simplex import project_simplex

# interface terms that see each jump twice
_HALVED = ("potts", "truncated")
_DECAY = 0.2


def useful_strength(energy):
    """Return the strengths of edges, none above what cutting it rules out.

    An edge that costs more than the best constant labelling has above the least
    unaries is never cut. Smaller strengths give a smaller dual set, so that bounds
    hold for the energy as it is.
    """
    term, unary = energy.pairwise, energy.unary
    if term.name == "sublabel":  # real values may differ by as little as they like
        return energy.strength
    labels = np.arange(1, term.n_labels)
    jump = term.distance(labels - 1, labels).min()
    excess = unary.sum(axis=0).min() - unary.min(axis=1).sum()
    if excess <= 0:
        return energy.strength
    return np.minimum(energy.strength, 1.001 * excess / jump)


class Scheme:
    """State and steps of one model.

    Subclasses set what the steps need, and define :meth:`project_primal`, or a
    :meth:`primal_step` of their own, and what else differs.

    Parameters
    ----------
    xp : NumpyArrays or TorchArrays
    energy : LiftedEnergy
    scale : ndarray of shape (n_edges,)
        Unit of each edge's duals.
    n_primal, n_lifted : int
        Rows of u, and of what differences are taken of.
    kappa : float
        Balance of primal and dual steps.
    rho : float
        Over-relaxation, in [1, 2).
    """

    # share of the dual step that the differences of u have; flows have the rest
    share = 1.0

    def __init__(self, xp, energy, scale, n_primal, n_lifted, *, kappa, rho):
        graph = energy.graph
        self.xp, self.energy, self.rho = xp, energy, rho
        self.scale = scale
        operator = GraphOperator if graph.shape is None else GridOperator
        self.op = operator(xp, graph, scale)
        self.radius = 0.5 * kappa * self.share
        self.n_lifted = n_lifted
        self.U = xp.zeros((n_primal, self.op.n))
        self.average = xp.zeros((n_primal, self.op.n))
        self.bar = xp.zeros((n_lifted, self.op.n + self.op.pad))
        self.duals = [xp.zeros((n_lifted, length)) for length in self.op.lengths]
        rows = 4 * n_lifted + 4 * n_primal
        self.ranges = self.op.ranges(rows)
        longest = max(b - a for span in self.ranges for a, b in span)
        self._nodes = xp.empty((n_primal, longest))
        self._work = xp.empty((max(n_primal, n_lifted) + 2, longest + self.op.pad))
        self._edges = [xp.empty((n_lifted, longest)) for _ in self.duals]
        self.coupled = graph.isotropic
        self.unary = energy.unary if xp.strip_size else xp.wide(energy.unary)

    # what an iteration is

    def iterate(self):
        """Take one step of all variables, a strip of the image at a time."""
        for nodes, edges in self.ranges:
            self.primal_step(*nodes)
            self.dual_step(edges)

    def follow(self):
        """Move the average towards the iterate: it rounds better than any iterate."""
        xp = self.xp
        for (a, b), _ in self.ranges:
            part, work = self.average[:, a:b], self._nodes[:, : b - a]
            xp.multiply(self.U[:, a:b], _DECAY, out=work)
            xp.multiply(part, 1.0 - _DECAY, out=part)
            xp.add(part, work, out=part)

    def primal_step(self, a, b):
        """Move u at a range of nodes."""
        xp, u = self.xp, self.U[:, a:b]
        new = self._nodes[:, : b - a]
        self.op.adjoint(self.duals, (a, b), new, self._work)
        xp.multiply(new, self.at(self.step, a, b), out=new)
        xp.add(new, self.F[:, a:b], out=new)
        xp.subtract(u, new, out=new)
        self.project_primal(new)
        self.extrapolate(u, new, self.bar[:, a:b])
        self.relax(u, new)

    def dual_step(self, edges):
        """Move the duals of a range of edges."""
        xp, op = self.xp, self.op
        n = edges[1] - edges[0]
        views = [dual[:, op.span(edges, k)] for k, dual in enumerate(self.duals)]
        steps = [work[:, :n] for work in self._edges]
        for k, step in enumerate(steps):
            op.forward(self.bar, k, edges, step)
            op.clear(step, k, edges)
            if op.ratios is not None:
                xp.multiply(step, op.ratios[k][op.span(edges, k)], out=step)
        self.move_flows(edges, views, steps)
        for view, step in zip(views, steps, strict=True):
            xp.add(step, view, out=step)
        self.project_duals(steps)
        for view, step in zip(views, steps, strict=True):
            self.relax(view, step)

    def move_flows(self, edges, duals, steps):
        """Subtract what flows along labels carry from the steps of the duals."""

    def relax(self, old, new):
        """Move `old` on to ``old + rho (new - old)``; `new` is overwritten."""
        xp, rho = self.xp, self.rho
        xp.multiply(old, 1.0 - rho, out=old)
        xp.multiply(new, rho, out=new)
        xp.add(old, new, out=old)

    def extrapolate(self, old, new, out):
        """Write ``2 new - old``, the point whose differences the duals follow."""
        self.xp.multiply(new, 2.0, out=out)
        self.xp.subtract(out, old, out=out)

    def project_duals(self, blocks):
        """Move duals, in units of their scales, into their set, in place."""
        for block in blocks:
            self.xp.clip(block, -1.0, 1.0, out=block)

    def make_feasible(self, blocks):
        """Move float64 duals into the set of the bound, in place."""
        self.project_duals(blocks)

    # scales of the unaries

    def unaries(self, low, factor, cap):
        """Return (unary - low) * factor, label-major, in the working type.

        No label is taken that costs more than the node's best one by more than what
        all its interfaces can: differences are capped there, which keeps digits.
        """
        unary = self.energy.unary
        F = np.empty(unary.shape[::-1], np.dtype(str(self.U.dtype).split(".")[-1]))
        for label, row in enumerate(F):
            row[...] = np.minimum(unary[:, label] - low, cap) * factor
        alone = np.flatnonzero(cap == 0)
        if len(alone):  # its own best label, whatever the others do
            F[:, alone] = (unary[alone] > low[alone, None]).T * 1e3
        return self.xp.put(F)

    def reach(self):
        """Return by how much all interfaces of each node can differ at most, (n,)."""
        energy, costs = self.energy, self.energy.pairwise.costs
        largest = 2 * costs[0] if energy.pairwise.name in _HALVED else costs.sum()
        total = abs(energy.graph.incidence()).T @ energy.strength
        return 1.001 * largest * total

    def inverse(self, total):
        """Return 1 / total where that is positive, else 0."""
        total = np.asarray(total, dtype=float)
        return np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)

    def per_node(self, values):
        """Return one number for all nodes, or the array on the device."""
        return float(values) if np.ndim(values) == 0 else self.xp.put(values)

    @staticmethod
    def at(values, a, b):
        """Return the part of one number a node that belongs to a range."""
        return values if isinstance(values, float) else values[a:b]

    # what comes out

    def round(self, U):
        """Return the labels that primal variables round to, (n,)."""
        return self.xp.argmax(U)

    def roundings(self, U):
        """Yield labellings that primal variables round to."""
        yield self.round(U)

    def bound(self):
        """Return the lower bound of the present duals, summed in float64."""
        xp, total = self.xp, 0.0
        for nodes in self.op_node_ranges():
            G = self.op.wide_adjoint(self.duals, nodes, self.make_feasible)
            costs = xp.wide(self.unary[nodes[0] : nodes[1]].T)
            self.add_lifted(costs, G)
            total += float(xp.least(costs).sum())
        return total

    def op_node_ranges(self):
        """Return the ranges of nodes."""
        return [nodes for nodes, _ in self.ranges]

    def add_lifted(self, costs, G):
        """Add what sums G of duals at nodes mean to the costs of labels, in place."""
        self.xp.add(costs, G, out=costs)

    def edge_duals(self, duals):
        """Return duals of the energy, (n_edges, n_duals), from a copy of ours."""
        blocks = [self.xp.get(block) for block in duals]
        found = self.op.to_edges(blocks)
        found *= self.scale[:, None].astype(found.dtype)
        return found

    def assignment(self, U):
        """Return the assignment of primal variables, rows in the simplex."""
        return simplex_rows(self.xp.get(U) / self.radius)

    def release(self):
        """Drop what only further iterations would need."""
        del self.bar, self.average, self.F, self._nodes, self._work, self._edges

    # warm starts

    def start(self):
        """Set the state of a cold start."""
        self.U[...] = self.radius / len(self.U)

    def set_primal(self, assignment):
        """Start from an assignment of labels."""
        self.U[...] = self.xp.put(assignment.T * self.radius)

    def set_duals(self, duals):
        """Start from duals of the energy, moved into the present set."""
        factor = self.inverse(self.scale)[:, None]
        blocks = self.op.from_edges(self.energy.project(duals) * factor)
        for mine, block in zip(self.duals, blocks, strict=True):
            mine[...] = self.xp.put(block)

    def arrays(self):
        """Return the arrays that the next iterate depends on."""
        return [self.U, *self.duals]


def simplex_rows(U, wide=False):
    """Return the columns of U, (n_labels, n), projected onto the unit simplex, as rows.

    In float64 if `wide`.
    """
    U = U.astype(np.float64) if wide else U
    xp = NumpyArrays(U.dtype)
    project_simplex(xp, U, 1.0, xp.empty((len(U) + 2, U.shape[1])))
    U /= U.sum(axis=0)
    return U.T


class PottsScheme(Scheme):
    """Simplices of all labels, a dual a label."""

    def __init__(self, xp, energy, *, kappa, rho):
        strength = useful_strength(energy)
        scale = strength * energy.pairwise.costs[0]
        if energy.graph.isotropic and energy.relaxation == "lellmann":
            scale = strength / np.sqrt(2.0)
        n = energy.n_labels
        super().__init__(xp, energy, scale, n, n, kappa=kappa, rho=rho)
        self.set_unaries(1.0)

    def set_unaries(self, norm):
        """Set the steps of the primal variables, for a lifting of that norm."""
        op = self.op
        step = 0.5 * self.share * self.inverse(op.total) * op.common
        self.step = self.per_node(step)
        unary = self.energy.unary
        factor = step / (op.common * norm)
        self.F = self.unaries(unary.min(axis=1), factor, self.reach())

    def project_primal(self, new):
        """Move the variables of a range of nodes into the simplex, in place."""
        project_simplex(self.xp, new, self.radius, self._work[:, : new.shape[1]])

    def project_duals(self, blocks):
        """Move duals, in units of their scales, into their set, in place."""
        if not self.coupled:
            return super().project_duals(blocks)
        together = self.energy.relaxation == "lellmann"
        return shrink_to_ball(self.xp, blocks, together)


def shrink_to_ball(xp, blocks, together=False):
    """Divide vectors, one component a block, by their length where that exceeds 1.

    In place; of all rows together, or of each row.
    """
    right, down = blocks
    length = right * right
    length += down * down
    if together:
        length = length.sum(axis=0)
    xp.sqrt(length, out=length)
    xp.clip_below(length, 1.0, out=length)
    for block in blocks:
        xp.divide(block, length, out=block)
