"""Poisons that steer training: the gradient through a few steps of it."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from skpoison.attacks._craft._matching import target_loss


@dataclass
class AdversarialLoss:
    """What the attacker wants small of a network, the mean over targets.

    Attributes
    ----------
    name : {"cw", "xent", "conceal", "dual"}
    wished, true, base : tensor of int of shape (n_targets,)
        The labels that targets are to get, their own, and those of the poisons; the
        latter two where the name needs them.
    kappa : float
        Margin beyond which "cw" asks for no more.
    """

    name: str
    wished: torch.Tensor
    true: torch.Tensor | None = None
    base: torch.Tensor | None = None
    kappa: float = 100.0

    def __call__(self, logits):
        """Return the loss of each network from logits (k, n_targets, n_classes)."""
        return self._each(logits).mean(1)

    def _each(self, logits):
        if self.name == "cw":
            wished = self.wished.expand(logits.shape[:-1])[..., None]
            others = logits.scatter(-1, wished, -torch.inf).amax(-1)
            margin = others - logits.gather(-1, wished)[..., 0]
            return margin.clamp_min(-self.kappa)
        if self.name == "conceal":
            return self._of("reverse", logits, self.true) + self._of(
                "reverse", logits, self.base
            )
        loss = self._of("cross_entropy", logits, self.wished)
        if self.name == "dual":
            loss = loss + self._of("reverse", logits, self.true)
        return loss

    @staticmethod
    def _of(name, logits, labels):
        return target_loss(name, logits, labels.expand(logits.shape[:-1]))


def training_gradient(members, params, others, batch, *, graph, aims=None):
    """Return the gradient of the weighted training loss of k networks.

    Parameters
    ----------
    members : Members
    params, others : dict of str to tensor of shape (k, ...)
    batch : (inputs, labels, weights)
        Tensors of shape (k, n, ...), (k, n) and (k, n): the loss is the sum over rows
        of weight times cross-entropy.
    graph : bool
        Whether it will be differentiated again.
    aims : tensor of shape (n_aims, *row_shape), default=None
        Rows that pass the network together with the batch.

    Returns
    -------
    gradient : tuple of tensor
        In the order of params.
    there : tensor of shape (k, n_aims, n_classes) or None
        The logits of the aims.
    """
    inputs, labels, weights = batch
    n_rows, there = inputs.shape[1], None
    if aims is not None:
        inputs = _with_aims(inputs, aims)
    logits = members.logits(params, others, inputs)
    if aims is not None:
        logits, there = logits[:, :n_rows], logits[:, n_rows:]
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    loss = losses @ weights.flatten()
    return torch.autograd.grad(loss, list(params.values()), create_graph=graph), there


def unrolled_loss(
    members, params, others, batches, aims, goal, rates, *, constant=None, coupled=False
):
    """Return the adversarial loss along a few steps of gradient descent.

    Parameters
    ----------
    members : Members
    params, others : dict of str to tensor of shape (k, ...)
    batches : list of (inputs, labels, weights)
        One a step, see :func:`training_gradient`; one more where `coupled`, which
        lends the last network its batch statistics.
    aims : tensor of shape (n_aims, *row_shape)
    goal : callable
        Of logits (k, n_aims, n_classes), returns (k,).
    rates : tensor of shape (k,)
    constant : tuple of tensor, default=None
        Added to the gradient of the first step: that of rows which don't move.
    coupled : bool, default=False
        Whether aims pass the network with the batch, for batch normalisation.

    Returns
    -------
    loss : tensor of shape (k,)
        The mean over the networks after steps 1, 2, ..., differentiable in whatever
        the inputs came from.
    """
    n_steps = len(batches) - 1 if coupled else len(batches)
    theta = {n: p.detach().requires_grad_() for n, p in params.items()}
    total = 0.0
    for step, batch in enumerate(batches):
        if step == n_steps:  # only to see the last network
            inputs = _with_aims(batch[0], aims)
            logits = members.logits(theta, _copies(others), inputs)
            total = total + goal(logits[:, -len(aims) :])
            break
        gradient, there = training_gradient(
            members,
            theta,
            _copies(others) if coupled else others,
            batch,
            graph=True,
            aims=aims if coupled else None,
        )
        if coupled and step:
            total = total + goal(there)
        if step == 0 and constant is not None:
            gradient = [g + c for g, c in zip(gradient, constant, strict=True)]
        theta = {
            n: p - rates.reshape(-1, *[1] * (g.ndim - 1)) * g
            for (n, p), g in zip(theta.items(), gradient, strict=True)
        }
        if not coupled:
            there = aims.expand(len(rates), *aims.shape)
            total = total + goal(members.logits(theta, others, there))
    return total / n_steps


def _with_aims(inputs, aims):
    # augmented rows have the shape that the network takes, others that of X
    aims = aims.reshape(-1, *inputs.shape[2:])
    return torch.cat([inputs, aims.expand(len(inputs), *aims.shape)], 1)


def _copies(others):
    """Return copies: a forward pass in training mode moves running statistics."""
    return {n: b.clone() for n, b in others.items()}


class Unrolled:
    """The objective of MetaPoison on an ensemble in training.

    One call is one epoch of every member. Before each batch that holds poisons a copy
    of the member takes ``n_unroll`` steps of gradient descent, the first on the batch,
    the others on those that follow it, and the attacker's loss along them is pulled
    back to the poisons of the first batch.

    Parameters
    ----------
    trajectory : Trajectory
    problems : list of (rows, goal, aims)
        Row numbers of the poisons, an AdversarialLoss and its targets.
    n_unroll : int
    inner_rate : float or None
        None is each member's current learning rate.
    bn_mode : {"train", "eval"}
    poisoned : bool
        Whether members train on the poisons, those of the only problem.
    """

    def __init__(
        self, trajectory, problems, *, n_unroll, inner_rate, bn_mode, poisoned
    ):
        self.trajectory, self.problems = trajectory, problems
        self.n_unroll, self.inner_rate = n_unroll, inner_rate
        self.bn_mode, self.poisoned = bn_mode, poisoned
        self.places = []  # of each training row among the poisons, or how many they are
        for rows, _, _ in problems:
            place = torch.full((len(trajectory.rows),), len(rows))
            place[rows] = torch.arange(len(rows))
            self.places.append(place.to(trajectory.rows.device))

    def state(self):
        """Return what is kept between steps."""
        return self.trajectory.state()

    def restore(self, kept):
        """Go on from it."""
        self.trajectory.restore(kept)

    def __call__(self, delta, step):
        """Return values of shape (n_problems,) and the gradient in delta."""
        gradient, values = torch.zeros_like(delta), delta.new_zeros(len(delta))
        counts = [0] * len(delta)
        for kind in self.trajectory.kinds:
            for at in self.trajectory.chunks(kind):
                batches = self.trajectory.batches(kind, at)
                for b, (name, rows) in enumerate(batches):
                    following = [
                        batches[(b + i) % len(batches)][1]
                        for i in range(1, self.n_unroll + 1)
                    ]
                    for j in range(len(delta)):
                        hit = self.places[j][rows] < delta.shape[1]
                        which = hit.any(1).nonzero()[:, 0]
                        if len(which) == 0:
                            continue
                        value = self._pull(
                            kind,
                            [at[i] for i in which.tolist()],
                            j,
                            delta[j],
                            [r[which] for r in (rows, *following)],
                            name,
                            gradient[j],
                        )
                        values[j] += value.sum()
                        counts[j] += len(which)
                    if self.trajectory.moves:
                        self._advance(kind, at, rows, name, delta)
                self.trajectory.end_epoch(kind, at)
        for j, count in enumerate(counts):
            gradient[j] /= count
            values[j] /= count
        return values, gradient

    def _advance(self, kind, at, rows, name, delta):
        """Train members on a batch each."""
        inputs = self.trajectory.rows[rows]
        if self.poisoned:
            inputs = self._poisoned(0, delta[0], rows)
        self.trajectory.advance(kind, at, rows, inputs, name)

    def _network(self, kind, at):
        """Return the members `at` as they are unrolled, and their rates."""
        members = kind.training if self.bn_mode == "train" else kind.members
        params, others = kind.weights(at)
        rates = self.trajectory.rates(kind, at)
        if self.inner_rate is not None:
            rates = torch.full_like(rates, self.inner_rate)
        return members, params, others, rates

    def _coupled(self, kind):
        return self.bn_mode == "train" and kind.coupled

    def _poisoned(self, j, delta, rows):
        """Return inputs of shape (k, n, *row_shape), perturbed where poisons are."""
        inputs, place = self.trajectory.rows[rows], self.places[j][rows]
        hit = place < len(delta)
        inputs[hit] += delta[place[hit]]
        return inputs

    def _pull(self, kind, at, j, delta, rows, name, gradient):
        """Add one batch's gradient in the poisons; return the members' values."""
        trajectory = self.trajectory
        _, goal, aims = self.problems[j]
        coupled = self._coupled(kind)
        members, params, others, rates = self._network(kind, at)

        def batch(rows, inputs, weights, draw):
            inputs = trajectory.augment(kind, at, inputs, f"{name} {draw}")
            return inputs, trajectory.labels[rows], weights

        with trajectory.randomness(kind, at, f"unrolled {name}"):
            inputs = self._poisoned(j, delta, rows[0])
            place = self.places[j][rows[0]]
            weights = torch.full(place.shape, 1 / place.shape[1], device=place.device)
            first, constant = rows[0], None
            if not coupled:
                # rows that stay put need no second derivative: the few poisons go first
                hit = place < len(delta)
                params = {n: p.detach().requires_grad_() for n, p in params.items()}
                still = batch(first, inputs, weights * ~hit, "still")
                constant, _ = training_gradient(
                    members, params, others, still, graph=False
                )
                n_most = int(hit.sum(1).max())
                order = (~hit).int().argsort(dim=1, stable=True)[:, :n_most]
                first, place = first.gather(1, order), place.gather(1, order)
                weights = (weights * hit).gather(1, order)
                inputs = inputs[torch.arange(len(at))[:, None], order]
            leaf = inputs.requires_grad_()
            n_batches = self.n_unroll + coupled
            batches = [batch(first, leaf, weights, "first")]
            for i, r in enumerate(rows[1:n_batches]):
                w = torch.full(r.shape, 1 / r.shape[1], device=r.device)
                batches.append(batch(r, self._poisoned(j, delta, r), w, i))
            value = unrolled_loss(
                members,
                params,
                others,
                batches,
                aims,
                goal,
                rates,
                constant=constant,
                coupled=coupled,
            )
            (pulled,) = torch.autograd.grad(value.sum(), leaf)
        hit = place < len(delta)
        gradient.index_add_(0, place[hit], pulled[hit])
        return value.detach()


class UnrolledOnPoisons(Unrolled):
    """The same with every step of gradient descent taken on the poisons.

    One call unrolls each member once and lets it train for an epoch if it does train.
    Poisons that are too many for the memory are cut into parts, each unrolled alone.
    """

    def __call__(self, delta, step):
        """Return values of shape (n_problems,) and the gradient in delta."""
        trajectory = self.trajectory
        gradient, values = torch.zeros_like(delta), delta.new_zeros(len(delta))
        cuts = range(0, delta.shape[1], trajectory.batch_size)
        parts = [slice(cut, cut + trajectory.batch_size) for cut in cuts]
        for kind in trajectory.kinds:
            for at in trajectory.chunks(kind, n_rows=delta.shape[1]):
                for j in range(len(delta)):
                    for part in parts:
                        value, pulled = self._through(kind, at, j, delta[j], part)
                        values[j] += value
                        gradient[j, part] += pulled
            for at in trajectory.chunks(kind):
                if trajectory.moves:
                    for name, rows in trajectory.batches(kind, at):
                        self._advance(kind, at, rows, name, delta)
                trajectory.end_epoch(kind, at)
        count = len(trajectory.estimators) * len(parts)
        return values / count, gradient / count

    def _through(self, kind, at, j, delta, part):
        """Return the sum over members of the value, and its gradient in a part."""
        trajectory = self.trajectory
        rows, goal, aims = self.problems[j]
        rows, coupled = rows[part], self._coupled(kind)
        members, params, others, rates = self._network(kind, at)
        leaf = delta[part].detach().requires_grad_()
        inputs = (trajectory.rows[rows] + leaf).expand(len(at), *leaf.shape)
        labels = trajectory.labels[rows].expand(len(at), -1)
        weights = inputs.new_full(labels.shape, 1 / len(rows))
        name = f"poisons {part.start}"
        with trajectory.randomness(kind, at, f"unrolled {name}"):
            batches = [
                (trajectory.augment(kind, at, inputs, f"{name} {i}"), labels, weights)
                for i in range(self.n_unroll + coupled)
            ]
            value = unrolled_loss(
                members,
                params,
                others,
                batches,
                aims,
                goal,
                rates,
                coupled=coupled,
            )
            (pulled,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach().sum(), pulled
