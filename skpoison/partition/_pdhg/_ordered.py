"""Iterations for ordered labels, and for two labels."""

from typing import Any

import numpy as np

from skpoison.partition._pdhg._schemes import (
    _HALVED,
    Scheme,
    shrink_to_ball,
    useful_strength,
)


class LevelScheme(Scheme):
    """What schemes of levels u_k = the mass on labels above k share."""

    rel: Any = 1.0  # bound of the duals of each level, where not 1

    def project_duals(self, blocks):
        """Move duals, in units of their scales, into their set, in place."""
        xp, rel = self.xp, self.rel
        even = isinstance(rel, float)
        if not even:
            rel = xp.wide(rel) if blocks[0].dtype != rel.dtype else rel
        if self.coupled:
            for block in blocks if not even else ():
                xp.divide(block, rel, out=block)
            shrink_to_ball(xp, blocks)
            for block in blocks if not even else ():
                xp.multiply(block, rel, out=block)
        elif even:
            super().project_duals(blocks)
        else:
            for block in blocks:
                xp.minimum(block, rel, out=block)
                xp.maximum(block, -rel, out=block)

    def start(self):
        """Set the state of a cold start."""
        for level, row in enumerate(self.U):
            row[...] = self.radius * (1.0 - (level + 1) / (len(self.U) + 1))

    def round(self, U):
        """Return the labels that primal variables round to, (n,)."""
        return self.xp.get((U > 0.5 * self.radius).sum(0))

    def add_lifted(self, costs, G):
        """Add what sums G of duals at nodes mean to the costs of labels, in place."""
        for level in range(1, len(G)):
            G[level] += G[level - 1]
        costs[1:] += G

    def assignment(self, U):
        """Return the assignment of primal variables, rows in the simplex."""
        U = np.clip(self.xp.get(U) / self.radius, 0.0, 1.0)
        np.minimum.accumulate(U, axis=0, out=U)
        above = np.concatenate([np.ones_like(U[:1]), U])
        above[:-1] -= above[1:]
        return above.T

    def set_primal(self, assignment):
        """Start from an assignment of labels."""
        levels = np.cumsum(assignment[:, :0:-1], axis=1)[:, ::-1]
        self.U[...] = self.xp.put(levels.T * self.radius)


class BinaryScheme(LevelScheme):
    """Two labels: one number a node, and no constraint that joins labels."""

    def __init__(self, xp, energy, *, kappa, rho):
        self.halved = energy.pairwise.name in _HALVED
        cost = energy.pairwise.distance(np.array([0]), np.array([1]))[0]
        scale = useful_strength(energy) * cost
        super().__init__(xp, energy, scale, 1, 1, kappa=kappa, rho=rho)
        op = self.op
        step = 0.5 * self.inverse(op.total) * op.common
        self.step = self.per_node(step)
        F = self.unaries(energy.unary.min(axis=1), step / op.common, self.reach())
        self.F = F[1:] - F[:1]

    def project_primal(self, new):
        """Move the variables of a range of nodes into their interval, in place."""
        self.xp.clip(new, 0.0, self.radius, out=new)

    def edge_duals(self, duals):
        """Return duals of the energy, (n_edges, n_duals), from a copy of ours."""
        found = super().edge_duals(duals)
        return np.concatenate([-0.5 * found, 0.5 * found], 1) if self.halved else found

    def set_duals(self, duals):
        """Start from duals of the energy, moved into the present set."""
        duals = self.energy.project(duals)
        if self.halved:
            duals = duals[:, 1:] - duals[:, :1]
        blocks = self.op.from_edges(duals * self.inverse(self.scale)[:, None])
        for mine, block in zip(self.duals, blocks, strict=True):
            mine[...] = self.xp.put(block)


class OrderedScheme(LevelScheme):
    """Levels in [0, 1], whose order a dual of each label keeps (Pock et al. 2010).

    With t_l = u_{l-1} - u_l, u_{-1} = 1, u_{L-1} = 0 the mass on label l:

        min_u max_{|p| <= c, Q <= F} <p, D u> + sum_l Q_l t_l.
    """

    def __init__(self, xp, energy, *, kappa, rho):
        costs = energy.pairwise.costs
        unit = costs.mean()
        n_levels = len(costs)
        scale = useful_strength(energy) * unit
        super().__init__(xp, energy, scale, n_levels, n_levels, kappa=kappa, rho=rho)
        if np.ptp(costs) > 1e-9 * unit:
            self.rel = xp.put((costs / unit)[:, None])
        op, unary = self.op, energy.unary
        low = unary.min(axis=1)
        middle = np.partition(unary, unary.shape[1] // 2, axis=1)[
            :, unary.shape[1] // 2
        ]
        spread = middle - low
        # unit of the duals of labels; a node without a preference has its edges'
        units = np.maximum(spread, 0.1 * op.total)
        units[units == 0] = 1.0
        step = 0.5 / (op.total + 2.0 * units)
        self.step = xp.put(step * op.common)
        self.label_step = xp.put(step * units)
        self.F = self.unaries(low, 1.0 / units, self.reach())
        self.Q = xp.zeros((n_levels + 1, op.n))
        self.units = units
        longest = self._nodes.shape[1]
        self._labels = xp.empty((n_levels + 1, longest))

    def primal_step(self, a, b):
        """Move u, and the duals of labels, at a range of nodes."""
        xp, u, Q = self.xp, self.U[:, a:b], self.Q[:, a:b]
        new, change = self._nodes[:, : b - a], self._work[: len(u), : b - a]
        self.op.adjoint(self.duals, (a, b), new, self._work)
        xp.multiply(new, self.step[a:b], out=new)
        xp.subtract(Q[:-1], Q[1:], out=change)
        xp.multiply(change, self.label_step[a:b], out=change)
        xp.subtract(new, change, out=new)
        xp.subtract(u, new, out=new)
        xp.clip(new, 0.0, self.radius, out=new)
        bar = self.bar[:, a:b]
        self.extrapolate(u, new, bar)
        self.relax(u, new)
        labels = self._labels[:, : b - a]
        xp.subtract(bar[:-1], bar[1:], out=labels[1:-1])
        labels[-1] = bar[-1]
        labels[0] = self.radius
        labels[0] -= bar[0]
        xp.add(labels, Q, out=labels)
        xp.minimum(labels, self.F[:, a:b], out=labels)
        self.relax(Q, labels)

    def set_duals(self, duals):
        """Start from duals of the energy, moved into the present set."""
        super().set_duals(duals)
        for a, b in self.op_node_ranges():
            G = self.op.wide_adjoint(self.duals, (a, b), self.make_feasible)
            lifted = self.xp.wide(self.F[:, a:b]) * 0.0
            self.add_lifted(lifted, G)
            lifted = self.xp.get(lifted) / self.units[a:b]
            # the best for these duals: the least reduced cost less what edges add
            least = (self.xp.get(self.F[:, a:b]) + lifted).min(axis=0)
            self.Q[:, a:b] = self.xp.put(least - lifted)

    def arrays(self):
        """Return the arrays that the next iterate depends on."""
        return [self.U, self.Q, *self.duals]
