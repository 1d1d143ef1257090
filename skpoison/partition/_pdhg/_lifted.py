"""Iterations for terms that see a product of the assignment, and for flows."""

import numpy as np

from skpoison.partition._pdhg._schemes import (
    PottsScheme,
    Scheme,
    shrink_to_ball,
    simplex_rows,
    useful_strength,
)
from skpoison.partition._pdhg._simplex import project_simplex


class ProductScheme(PottsScheme):
    """Simplices of labels, of which the interfaces see Z A.

    A counts up to a constant a column, which differences of rows in the simplex do not
    see: it is centred, and its spectral norm sets the steps.
    """

    def __init__(self, xp, energy, *, kappa, rho):
        term = energy.pairwise
        unit = term.costs.mean()
        n_labels, n_lifted = term.A.shape
        Scheme.__init__(
            self,
            xp,
            energy,
            useful_strength(energy) * unit,
            n_labels,
            n_lifted,
            kappa=kappa,
            rho=rho,
        )
        centred = term.A - term.A.mean(axis=0)
        norm = np.linalg.norm(centred, 2)
        self.A = xp.put(centred / norm)
        self.AT = xp.put((centred / norm).T)
        self.wide_A = xp.wide(term.A)
        self.rel = xp.put((term.costs / unit)[:, None])
        self.set_unaries(norm)
        longest = self._nodes.shape[1]
        self._sums = xp.empty((n_lifted, longest))
        self._extrapolated = xp.empty((n_labels, longest))

    def primal_step(self, a, b):
        """Move u at a range of nodes."""
        xp, u = self.xp, self.U[:, a:b]
        new, sums = self._nodes[:, : b - a], self._sums[:, : b - a]
        self.op.adjoint(self.duals, (a, b), sums, self._work)
        xp.multiply(sums, self.at(self.step, a, b), out=sums)
        xp.matmul(self.A, sums, out=new)
        xp.add(new, self.F[:, a:b], out=new)
        xp.subtract(u, new, out=new)
        project_simplex(xp, new, self.radius, self._work[:, : b - a])
        extrapolated = self._extrapolated[:, : b - a]
        self.extrapolate(u, new, extrapolated)
        xp.matmul(self.AT, extrapolated, out=sums)
        self.bar[:, a:b] = sums
        self.relax(u, new)

    def project_duals(self, blocks):
        """Move duals, in units of their scales, into their set, in place."""
        xp, rel = self.xp, self.rel
        rel = rel if blocks[0].dtype == rel.dtype else xp.wide(rel)
        for block in blocks:
            xp.minimum(block, rel, out=block)
            xp.maximum(block, -rel, out=block)

    def round(self, U):
        """Return the labels that primal variables round to, or real values."""
        term = self.energy.pairwise
        if term.name == "sublabel":
            return term.decide(simplex_rows(self.xp.get(U) / self.radius, wide=True))
        return super().round(U)

    def roundings(self, U):
        """Yield labellings that primal variables round to."""
        yield self.round(U)
        if self.energy.pairwise.name == "sublabel":
            yield self.energy.pairwise.values[self.xp.argmax(U)]

    def add_lifted(self, costs, G):
        """Add what sums G of duals at nodes mean to the costs of labels, in place."""
        costs += self.wide_A @ G


class FlowScheme(PottsScheme):
    """Simplices of labels and, on each edge, flows between pairs of labels.

    The duals' differences of those pairs are bounded by what a flow costs:

        min_{u, f} max_q <F, u> + <q, D u - B f> + (cost of f).
    """

    share = 0.5

    def __init__(self, xp, energy, pairs, *, kappa, rho):
        super().__init__(xp, energy, kappa=kappa, rho=rho)
        self.pairs = pairs
        self.flows = [xp.zeros((len(pairs), length)) for length in self.op.lengths]
        longest = self._nodes.shape[1]
        self._flows = [xp.empty((len(pairs), longest)) for _ in self.flows]
        self._bars = xp.empty((len(pairs), longest))

    def move_flows(self, edges, duals, steps):
        """Subtract what flows along labels carry from the steps of the duals."""
        xp, op = self.xp, self.op
        n = edges[1] - edges[0]
        old = [flow[:, op.span(edges, k)] for k, flow in enumerate(self.flows)]
        new = [work[:, :n] for work in self._flows]
        for target, dual, flow in zip(new, duals, old, strict=True):
            for k, (a, b) in enumerate(self.pairs):
                xp.subtract(dual[a], dual[b], out=target[k])
            xp.multiply(target, self.flow_step, out=target)
            xp.add(target, flow, out=target)
        self.shrink(new)
        bar = self._bars[:, :n]
        for target, flow, step in zip(new, old, steps, strict=True):
            self.extrapolate(flow, target, bar)
            for k, (a, b) in enumerate(self.pairs):
                xp.subtract(step[a], bar[k], out=step[a])
                xp.add(step[b], bar[k], out=step[b])
            self.relax(flow, target)

    def arrays(self):
        """Return the arrays that the next iterate depends on."""
        return [self.U, *self.flows, *self.duals]


class TruncatedScheme(FlowScheme):
    """Flows along the chain of labels; what they leave over jumps at a fixed cost."""

    # of the norm of B, 2, and the half of the dual step that flows have
    flow_step = 0.125

    def __init__(self, xp, energy, *, kappa, rho):
        pairs = [(k, k + 1) for k in range(energy.n_labels - 1)]
        super().__init__(xp, energy, pairs, kappa=kappa, rho=rho)
        self.threshold = 2.0 * self.flow_step / energy.pairwise.truncation

    def shrink(self, flows):
        """Move flows towards 0 by the threshold, in place."""
        for flow in flows:
            bar = self._bars[:, : flow.shape[1]]
            self.xp.clip(flow, -self.threshold, self.threshold, out=bar)
            self.xp.subtract(flow, bar, out=flow)

    def make_feasible(self, blocks):
        """Move float64 duals into the set of the bound, in place."""
        self.project_duals(blocks)
        for block in blocks:
            steps = abs(block[1:] - block[:-1])
            most = self.energy.pairwise.truncation * 0.5 * self.xp.largest(steps)
            self.xp.clip_below(most, 1.0, out=most)
            block /= most


class PairFlowScheme(FlowScheme):
    """Flows between all pairs of labels, isotropic grids (Chambolle et al. 2012)."""

    def __init__(self, xp, energy, *, kappa, rho):
        n = energy.n_labels
        pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
        super().__init__(xp, energy, pairs, kappa=kappa, rho=rho)
        self.flow_step = 0.5 / n

    def shrink(self, flows):
        """Shorten vectors of flows by the threshold, in place."""
        kept = [flow / (2 * self.flow_step) for flow in flows]
        shrink_to_ball(self.xp, kept)
        for flow, part in zip(flows, kept, strict=True):
            part *= 2 * self.flow_step
            self.xp.subtract(flow, part, out=flow)

    def project_duals(self, blocks):
        """Do nothing: it is the flows that bound the duals."""

    def make_feasible(self, blocks):
        """Move float64 duals into the set of the bound, in place."""
        xp = self.xp
        right, down = blocks
        longest = right[0] * 0.0
        for a, b in self.pairs:
            gap = (right[a] - right[b]) ** 2 + (down[a] - down[b]) ** 2
            xp.maximum(longest, gap, out=longest)
        xp.sqrt(longest, out=longest)
        longest *= 0.5
        xp.clip_below(longest, 1.0, out=longest)
        for block in blocks:
            block /= longest
