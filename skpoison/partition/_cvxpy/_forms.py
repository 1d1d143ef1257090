"""The variables, constraints and costs of the lifted problems, as cvxpy writes them.

What makes or breaks these models is their form, not their content: every product with
a parameter is one of flat vectors, or cvxpy would expand it to gigabytes.
"""

import cvxpy as cp
import numpy as np
from scipy.sparse import csr_array


class LiftedForm:
    """The assignment of labels and what the interface term sees of it.

    Parameters
    ----------
    energy : LiftedEnergy
        Only its graph, interface term and relaxation are read.

    Attributes
    ----------
    U : cvxpy.Variable
        Assignment (n_nodes, n_labels) or, for "tv", the mass above each label,
        (n_nodes, n_labels - 1).
    constraints : list of cvxpy.Constraint
    cost : cvxpy.Expression
        Of the interfaces, for a regularization of 1.
    """

    def __init__(self, energy):
        self.graph, self.pairwise = energy.graph, energy.pairwise
        self.relaxation = energy.relaxation
        n, n_labels = self.graph.n_nodes, energy.n_labels
        if n_labels < 2:
            raise ValueError(f"a cvxpy model needs 2 or more labels, got {n_labels}")
        self.ordered = self.pairwise.name == "tv"
        if self.ordered:
            self.U = cp.Variable((n, n_labels - 1), name="U")
            self.constraints = [self.U[:, 0] <= 1, self.U[:, -1] >= 0]
            if n_labels > 2:
                self.constraints.append(self.U[:, 1:] <= self.U[:, :-1])
        else:
            self.U = cp.Variable((n, n_labels), nonneg=True, name="U")
            self.constraints = [cp.sum(self.U, axis=1) == 1]
        self.lifted = self.U
        if self.pairwise.name in ("sublabel", "separable_tv"):
            # a variable of its own, or each edge would repeat the dense product
            self.lifted = cp.Variable((n, len(self.pairwise.costs)), name="lifted")
            self.constraints.append(self.lifted == self.U @ self.pairwise.A)
        self.cost, self.coupling = cp.Constant(0.0), None
        if self.graph.n_edges:
            self.incidence = self.graph.incidence()
            self._add_interfaces()

    def data_term(self, F):
        """Return <F, assignment> for a parameter F, as a product of flat vectors."""
        Z = self.U
        if self.ordered:
            # u to assignment: z_0 = 1 - u_0, z_k = u_{k-1} - u_k
            steps = np.diff(np.eye(self.U.shape[1] + 2)[1:-1], axis=1)
            first = np.zeros((self.graph.n_nodes, self.U.shape[1] + 1))
            first[:, 0] = 1.0
            Z = first - self.U @ steps
        return cp.vec(F, order="F") @ cp.vec(Z, order="F")

    def assignment(self):
        """Return the assignment of a solved model, its rows moved into the simplex."""
        U = self.U.value
        if U is None or not np.isfinite(U).all():
            return None
        if self.ordered:
            edge = np.ones((len(U), 1))
            U = -np.diff(np.concatenate([edge, U, 0 * edge], axis=1), axis=1)
        U = np.maximum(U, 0.0)
        total = U.sum(axis=1, keepdims=True)
        share = np.full_like(U, 1.0 / U.shape[1])
        return np.divide(U, total, out=share, where=total > 0)

    def set_assignment(self, Z):
        """Write an assignment, and the best values of all else that it allows."""
        lifted = self.pairwise.lift(Z)
        self.U.save_value(lifted if self.ordered else Z)
        if self.lifted is not self.U:
            self.lifted.save_value(lifted)
        if self.graph.n_edges:
            self._set_interfaces(self.incidence @ lifted)

    def duals(self, strength):
        """Return the duals of a solved model, or None where there are none."""
        found = None if self.coupling is None else self.coupling.dual_value
        return None if found is None else self._duals(found, strength)


class LinearForm(LiftedForm):
    """Interfaces of separate edges: a linear program.

    As abs(d) = 2 max(d, 0) - d, one non-negative slack a dual number is enough. Where
    the d of an edge sum to zero, as they do on the simplex, the last term does too.
    """

    def _add_interfaces(self):
        graph, term = self.graph, self.pairwise
        shape = (graph.n_edges, len(term.costs))
        self.slack = cp.Variable(shape, nonneg=True, name="S")
        gap = self.incidence @ self.lifted
        if term.name == "truncated":
            # mass moves along the chain of labels, a unit a step, or through the hub
            steps = (shape[0], shape[1] - 1)
            self.up = cp.Variable(steps, nonneg=True, name="up")
            self.down = cp.Variable(steps, nonneg=True, name="down")
            chain = -np.diff(np.eye(shape[1]), axis=0)
            gap = gap - (self.up - self.down) @ chain
            self.cost = graph.weights @ cp.sum(self.up + self.down, axis=1)
        self.coupling = self.slack >= gap
        self.constraints.append(self.coupling)
        self.cost += 2.0 * (graph.weights @ self.slack) @ term.costs
        if term.name not in ("potts", "truncated"):
            flux = self.incidence.T @ graph.weights
            self.cost -= (flux @ self.lifted) @ term.costs

    def _duals(self, coupling, strength):
        return coupling - strength[:, None] * self.pairwise.costs

    def _set_interfaces(self, gap):
        if self.pairwise.name == "truncated":
            # per edge the cheaper of all along the chain and all through the hub
            moved = np.cumsum(gap, axis=1)[:, :-1]
            hub = self.pairwise.truncation * np.maximum(gap, 0.0).sum(axis=1)
            moved[abs(moved).sum(axis=1) > hub] = 0.0
            self.up.save_value(np.maximum(moved, 0.0))
            self.down.save_value(np.maximum(-moved, 0.0))
            gap = gap - np.diff(moved, axis=1, prepend=0.0, append=0.0)
        self.slack.save_value(np.maximum(gap, 0.0))


class ConeForm(LiftedForm):
    """Interfaces of an isotropic grid: 2-norms over the two edges of a pixel.

    The jumps of the lifted assignment are split into flows V, one a label or, for
    "ccp", one a pair of labels, whose norms are what is paid for.
    """

    def _add_interfaces(self):
        graph, term = self.graph, self.pairwise
        n_duals = len(term.costs)
        self.split = np.eye(n_duals)
        scale = np.full(n_duals, 0.5)
        if self.ordered:
            scale = term.costs
        elif self.relaxation == "lellmann":
            scale = np.full(n_duals, np.sqrt(0.5))
        elif self.relaxation == "ccp":
            a, b = np.triu_indices(n_duals, 1)
            self.split = self.split[a] - self.split[b]
            scale = np.ones(len(a))
        self.flows = cp.Variable((graph.n_edges, len(self.split)), name="V")
        self.coupling = self.incidence @ self.lifted == self.flows @ self.split
        self.constraints.append(self.coupling)
        right, down = (part @ self.flows for part in self._parts())
        if self.relaxation == "lellmann" and not self.ordered:
            norms = cp.norm(cp.hstack([right, down]), 2, axis=1)
            self.cost = scale[0] * cp.sum(norms)
        else:
            both = [cp.vec(part, order="F") for part in (right, down)]
            norms = cp.norm(cp.vstack(both), 2, axis=0)
            self.cost = np.repeat(scale, graph.n_nodes) @ norms

    def _parts(self):
        """Return the maps from edges to the pixels that they start at, by direction."""
        graph = self.graph
        height, width = graph.shape
        n_right = height * (width - 1)
        for part in (np.arange(n_right), np.arange(n_right, graph.n_edges)):
            yield csr_array(
                (graph.weights[part], (graph.edges[part, 0], part)),
                shape=(graph.n_nodes, graph.n_edges),
            )

    def _duals(self, coupling, strength):
        return coupling

    def _set_interfaces(self, gap):
        if self.relaxation == "ccp" and not self.ordered:
            # from labels that lose mass to labels that gain it, both in their order
            lost = np.cumsum(np.maximum(gap, 0.0), axis=1)
            gained = np.cumsum(np.maximum(-gap, 0.0), axis=1)
            joint = np.minimum(lost[:, :, None], gained[:, None, :])
            moved = np.diff(np.diff(joint, axis=1, prepend=0.0), axis=2, prepend=0.0)
            a, b = np.triu_indices(gap.shape[1], 1)
            gap = moved[:, a, b] - moved[:, b, a]
        self.flows.save_value(gap)
