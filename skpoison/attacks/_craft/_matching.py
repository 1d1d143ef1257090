"""Gradient matching: poisons whose training gradient points where the attacker wants.

The objective of one problem (its poisons, labels and goal) on one network is
``match(g_poison, g_goal)``. Many (network, problem, restart) triples are evaluated as
one batch; ``batch_size`` bounds the rows that are in memory at once.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from skpoison.attacks._adaptation import Adaptation

TINY = 1e-12
MATCHES = (
    "cosine",
    "scalar_product",
    "layer_cosine",
    "se",
    "top_5",
    "top_10",
    "top_20",
)


def target_loss(name, logits, labels):
    """Return the loss of each row that the attacker wants small.

    Parameters
    ----------
    name : {"cross_entropy", "cw", "untargeted", "reverse"}
        "cw" is the largest other logit minus that of the label, not below -100;
        "untargeted" the negative cross-entropy; "reverse" ``-log(1 - p_label)``, which
        is bounded below and small where the label is not predicted.
    logits : tensor of shape (..., n_classes)
    labels : tensor of int of shape (...)
        Wanted labels; true ones for the last two.
    """
    flat, labels = logits.flatten(0, -2), labels.flatten()
    if name == "cross_entropy":
        loss = F.cross_entropy(flat, labels, reduction="none")
    elif name == "untargeted":
        loss = -F.cross_entropy(flat, labels, reduction="none")
    else:
        own = F.one_hot(labels, flat.shape[1]).bool()
        others = flat.masked_fill(own, -torch.inf)
        if name == "cw":
            loss = (others.amax(1) - flat[own]).clamp_min(-100)
        else:  # the naive log(1 - p) is infinite at p = 1 in float32
            loss = flat.logsumexp(1) - others.logsumexp(1)
    return loss.reshape(logits.shape[:-1])


def _dot(a, b):
    return sum((a[n] * b[n]).flatten(1).sum(1) for n in a)


def flat_norm(a):
    return torch.sqrt(sum(t.flatten(1).square().sum(1) for t in a.values()))


def match(name, gradient, goal):
    """Compare training gradients with goals; small is aligned.

    Parameters
    ----------
    name : str
        One of ``MATCHES``. "top_k" is the cosine over the k tensors of weights in
        which the goal is longest.
    gradient, goal : dict of str to tensor of shape (k, ...)

    Returns
    -------
    loss : tensor of shape (k,)
    """
    if name == "layer_cosine":
        return -sum(
            (gradient[n] * goal[n]).flatten(1).sum(1)
            / (
                gradient[n].flatten(1).norm(dim=1) * goal[n].flatten(1).norm(dim=1)
                + TINY
            )
            for n in gradient
        )
    if name.startswith("top_"):
        lengths = torch.stack([g.flatten(1).norm(dim=1) for g in goal.values()], 1)
        kept = lengths.topk(min(int(name[4:]), lengths.shape[1]), dim=1).indices
        mask = torch.zeros_like(lengths).scatter_(1, kept, 1.0)
        goal = {
            n: g * mask[:, i].reshape(-1, *[1] * (g.ndim - 1))
            for i, (n, g) in enumerate(goal.items())
        }
        gradient = {
            n: g * mask[:, i].reshape(-1, *[1] * (g.ndim - 1))
            for i, (n, g) in enumerate(gradient.items())
        }
    length = flat_norm(goal)
    if name == "se":
        difference = {n: gradient[n] - goal[n] for n in goal}
        return 0.5 * flat_norm(difference).square() / length
    inner = _dot(gradient, goal) / length
    if name == "scalar_product":
        return -inner
    return 1 - inner / (flat_norm(gradient) + TINY)


def cosine_with_direction(gradient, goals):
    """Return the sum of the cosine losses to several goals, and its gradient.

    In closed form, because on a small network the graph of the comparison would cost
    as much as the network.

    Parameters
    ----------
    gradient : list of tensor of shape (k, ...)
    goals : list of dict of str to tensor of shape (k, ...)

    Returns
    -------
    value : tensor of shape (k,)
    direction : list of tensor like `gradient`
    """
    g = [t.detach().flatten(1) for t in gradient]
    length = torch.sqrt(sum(map(_product, g, g))) + TINY
    value, directions = torch.zeros_like(length), [torch.zeros_like(a) for a in g]
    for goal in goals:
        t = [a.flatten(1) for a in goal.values()]
        scale = 1 / (length * torch.sqrt(sum(map(_product, t, t))))
        cosine = sum(map(_product, g, t)) * scale
        value = value + (1 - cosine)
        along, across = (cosine / length.square())[:, None], scale[:, None]
        for d, a, b in zip(directions, g, t, strict=True):
            d.addcmul_(a, along).addcmul_(b, across, value=-1)
    shaped = zip(directions, gradient, strict=True)
    return value, [d.reshape(t.shape) for d, t in shaped]


def _product(a, b):
    # a matrix product, which makes no temporary, unlike vecdot
    return (a[:, None] @ b[:, :, None])[:, 0, 0]


class GradientMatching:
    """The objective of gradient matching: problems, restarts and members in one batch.

    Parameters
    ----------
    groups : list of Members
    goals : list of dict of str to tensor of shape (n_members, n_problems, n_goals, ...)
        One dict a group, see :func:`goal_gradient`.
    x : tensor of shape (n_problems, n, *row_shape)
    labels : tensor of int of shape (n_problems, n)
    loss : str
        One of ``MATCHES``.
    parts : list of (slice, list of int), default=None
        Rows, and the goals that their mean gradient is matched with; the objective
        sums over goals and parts. None is all rows with all goals.
    augment : ShiftFlip, callable or None
    streams : RandomStreams
    batch_size : int
    exact : bool
        False matches each batch alone, as the published code does.
    adaptation : Adaptation
    clean : (tensor, tensor), default=None
        Rows and labels that are mixed in where the adaptation mixes.
    retrain : callable, default=None
        ``retrain(delta, step)`` returns new (groups, goals), or None to go on.

    Notes
    -----
    With more poisons than ``batch_size`` the gradient takes two passes: the first sums
    the training gradient g, the second pulls ``dB/dg`` back through each batch, with
    the same draws of the augmentation. Both together are the gradient of the objective
    over all poisons.
    """

    def __init__(
        self,
        groups,
        goals,
        x,
        labels,
        *,
        loss,
        streams,
        parts=None,
        augment=None,
        batch_size=512,
        exact=True,
        adaptation=None,
        clean=None,
        retrain=None,
    ):
        self.groups, self.goals = groups, goals
        self.x, self.labels = x, labels
        self.loss, self.streams = loss, streams
        self.parts = parts
        self.augment, self.batch_size, self.exact = augment, batch_size, exact
        self.adaptation = Adaptation() if adaptation is None else adaptation
        self.clean, self.retrain = clean, retrain
        plan = self.adaptation
        self.is_plain = loss == "cosine" and not (
            plan.norm_weight or plan.gradient_noise or plan.gradient_clip is not None
        )

    def __call__(self, delta, step):
        """Return values of shape (n_problems, n_restarts) and the gradient in delta."""
        if self.retrain is not None:
            renewed = self.retrain(delta, step)
            if renewed is not None:
                self.groups, self.goals = renewed
        gradient = torch.zeros_like(delta)
        values = delta.new_zeros(delta.shape[:2])
        moves = self._moves(delta, step)
        n_members = sum(map(len, self.groups))
        n_goals = next(iter(self.goals[0].values())).shape[2]
        parts = self.parts or [(slice(0, delta.shape[2]), list(range(n_goals)))]
        for rows, wanted in parts:
            for group, goals in zip(self.groups, self.goals, strict=True):
                size = rows.stop - rows.start
                for chunk in self._chunks(len(group), delta.shape[:2], size):
                    task = _Task(self, group, goals, wanted, rows, chunk, step)
                    value, pulled = task.evaluate(delta, moves)
                    for k, (_, j, r) in enumerate(chunk):
                        values[j, r] += value[k] / n_members
                        gradient[j, r, rows] += pulled[k] / n_members
        return values, gradient

    def _chunks(self, n_members, shape, n_rows):
        """Cut the (member, problem, restart) triples into batches."""
        triples = [
            (e, j, r)
            for e in range(n_members)
            for j in range(shape[0])
            for r in range(shape[1])
        ]
        size = max(1, self.batch_size // n_rows)
        return [triples[i : i + size] for i in range(0, len(triples), size)]

    def _moves(self, delta, step):
        """Draw the augmentation of each restart's rows, the same for all problems."""
        if not hasattr(self.augment, "draw"):
            return None
        generator = self.streams.torch(f"augmentation {step}")
        n_restarts, n_rows = delta.shape[1:3]
        moves = self.augment.draw(n_restarts * n_rows, delta.shape[3:], generator)
        return moves.reshape(n_restarts, n_rows, -1).to(delta.device)


class _Task:
    """A batch of (member, problem, restart) triples on some rows, at one step."""

    def __init__(self, problem, members, goals, wanted, rows, triples, step):
        self.problem, self.members, self.rows, self.step = problem, members, rows, step
        indices = [list(index) for index in zip(*triples, strict=True)]
        alone = len(triples) == 1
        if alone:  # views: nothing is copied
            indices = [slice(i[0], i[0] + 1) for i in indices]  # type: ignore[misc]
        e, j, r = indices
        self.problems, self.restarts = j, r
        self.params = {n: p[e].detach() for n, p in members.params.items()}
        self.params = {n: p.requires_grad_() for n, p in self.params.items()}
        self.others = {n: b[e] for n, b in members.others.items()}
        if alone:
            goals = {n: g[e, triples[0][1]] for n, g in goals.items()}
        else:
            goals = {n: g[e, j] for n, g in goals.items()}
        self.goals = [{n: g[:, t] for n, g in goals.items()} for t in wanted]

    def evaluate(self, delta, moves):
        """Return values (k,) and gradients (k, len(rows), *row_shape)."""
        size, n_rows = self.problem.batch_size, self.rows.stop - self.rows.start
        if isinstance(self.problems, slice):
            leaf = delta[self.problems.start, self.restarts, self.rows]
        else:
            leaf = delta[self.problems, self.restarts, self.rows]
        cuts = [slice(i, i + size) for i in range(0, n_rows, size)]
        if len(cuts) == 1:
            return self._whole(leaf, moves)
        pulled = torch.empty_like(leaf)
        if not self.problem.exact:
            value = 0.0
            for cut in cuts:
                part, pulled[:, cut] = self._whole(leaf[:, cut], moves, cut)
                value = value + part * leaf[:, cut].shape[1] / n_rows
            return value, pulled
        total = [torch.zeros_like(p) for p in self.params.values()]
        for cut in cuts:
            mean, _ = self._mean_loss(leaf[:, cut], moves, cut, n_rows)
            part = torch.autograd.grad(mean.sum(), list(self.params.values()))
            for t, p in zip(total, part, strict=True):
                t.add_(p)
        value, direction = self._compare(total)
        for cut in cuts:
            extra, pulled[:, cut] = self._pull(leaf[:, cut], moves, cut, direction)
            value = value + extra
        return value, pulled

    def _whole(self, leaf, moves, cut=slice(0, None)):
        """Return value and gradient on rows that are matched by themselves."""
        return self._pull(leaf, moves, cut, None)

    def _pull(self, leaf, moves, cut, direction):
        """Pull a direction in weight space back to the rows.

        Without one it is that of these rows' own objective, whose value is returned
        with what is added to it; with one only the latter.
        """
        at = leaf.clone().requires_grad_()
        n_rows = at.shape[1]
        if direction is not None:
            n_rows = self.rows.stop - self.rows.start
        mean, extra = self._mean_loss(at, moves, cut, n_rows)
        g = torch.autograd.grad(
            mean.sum(), list(self.params.values()), create_graph=True
        )
        value = 0.0
        if direction is None:
            value, direction = self._compare(g)
        outputs, weights = list(g), list(direction)
        if extra.requires_grad:
            outputs, weights = [*outputs, extra], [*weights, torch.ones_like(extra)]
        (pulled,) = torch.autograd.grad(outputs, at, weights)
        return value + extra.detach(), pulled

    def _compare(self, g):
        """Return the objective at the poisons' training gradient, and its gradient."""
        plan, extra = self.problem.adaptation, 0.0
        if self.problem.is_plain:
            return cosine_with_direction(g, self.goals)
        leaves = [t.detach().requires_grad_() for t in g]
        gradient = dict(zip(self.params, leaves, strict=True))
        if plan.norm_weight:
            extra = plan.norm_weight * flat_norm(gradient)
        if plan.gradient_clip is not None:
            shrink = (plan.gradient_clip / (flat_norm(gradient) + TINY)).clamp_max(1.0)
            gradient = {
                n: g * shrink.reshape(-1, *[1] * (g.ndim - 1))
                for n, g in gradient.items()
            }
        if plan.gradient_noise:
            generator = self.problem.streams.torch(f"gradient noise {self.step}")
            scale = plan.gradient_noise * (
                1.0 if plan.gradient_clip is None else plan.gradient_clip
            )
            gradient = {
                n: g + scale * torch.randn(g.shape[1:], generator=generator).to(g)
                for n, g in gradient.items()
            }
        loss = self.problem.loss
        value = sum(match(loss, gradient, goal) for goal in self.goals) + extra
        return value.detach(), torch.autograd.grad(value.sum(), leaves)

    def _mean_loss(self, delta, moves, cut, n_rows):
        """Return the loss of some rows over n_rows, and what is added to the objective.

        delta : tensor of shape (k, n, *row_shape)
        """
        problem, plan = self.problem, self.problem.adaptation
        first = self.rows.start + cut.start
        rows = slice(first, first + delta.shape[1])
        clean = problem.x[self.problems, rows]
        labels = problem.labels[self.problems, rows]
        inputs = self._augmented(clean + delta, moves, rows, "poisons")
        with self.members.randomness(problem.streams.seed(f"dropout {self.step}")):
            if plan.adversary is not None:
                inputs = self._attacked(inputs, labels)
            if plan.mix is not None:
                losses = self._mixed(inputs, labels, rows)
            else:
                logits = self.members.logits(self.params, self.others, inputs)
                losses = F.cross_entropy(
                    logits.flatten(0, 1), labels.flatten(), reduction="none"
                ).reshape(labels.shape)
        share = delta.shape[1] / n_rows
        mean = losses.mean(1) * share
        extra = delta.new_zeros(len(delta))
        if plan.loss_weight:
            extra = extra + plan.loss_weight * mean
        if plan.feature_weight:
            shown = self._augmented(clean, moves, rows, "clean rows")
            params = {n: p.detach() for n, p in self.params.items()}
            there = self.members.features(params, self.others, inputs)
            here = self.members.features(params, self.others, shown).detach()
            distance = (there - here).square().flatten(1).mean(1)
            extra = extra + plan.feature_weight * share * distance
        return mean, extra

    def _augmented(self, inputs, moves, rows, which):
        """Augment rows; poisons by the moves that were drawn for the step."""
        augment = self.problem.augment
        if augment is None:
            return inputs
        flat = inputs.flatten(0, 1)
        if moves is not None and which == "poisons":
            return augment.apply(
                flat, moves[self.restarts, rows].flatten(0, 1)
            ).reshape(inputs.shape)
        # the rows and the step name the draw, so that a second pass repeats it
        name = f"augmentation {self.step} {which} {rows.start}"
        return augment(flat, self.problem.streams.torch(name)).reshape(inputs.shape)

    def _attacked(self, inputs, labels):
        params = {n: p.detach() for n, p in self.params.items()}

        def logits(rows):
            return self.members.logits(params, self.others, rows)

        moved = self.problem.adaptation.adversary(logits, inputs.detach(), labels)
        return inputs + (moved - inputs).detach()

    def _mixed(self, inputs, labels, rows):
        """Return losses of poisons and as many clean rows, mixed as in training.

        A hook that needs no network mixes one more column of the targets, which marks
        the poisons. Each row then weighs what there is of poisons in it: the clean
        rows' own gradient would only hide that of the poisons.
        """
        others, codes = self.problem.clean
        k, n = labels.shape
        name = f"clean rows {self.step} {rows.start}"
        generator = self.problem.streams.torch(name)
        drawn = torch.randint(len(others), (n,), generator=generator).to(codes.device)
        marked = not getattr(self.problem.adaptation.mix, "needs_module", False)
        n_classes = self.n_classes()
        mark = (torch.arange(2 * n, device=codes.device) < n).long()[:, None]
        mixed, targets = [], []
        for member in range(k):
            X = torch.cat([inputs[member], others[drawn]])
            X = X.reshape(-1, *self.members.input_shape)  # as hooks see it in training
            T = F.one_hot(torch.cat([labels[member], codes[drawn]]), n_classes)
            if marked:
                T = torch.cat([T, mark], dim=1)
            draws = self.problem.streams.torch(f"mixing {self.step} {member}")
            context = _MixContext(self._network(member, marked), n_classes, draws)
            X, T = self.problem.adaptation.mix(X, T.to(X.dtype), context)
            mixed.append(X)
            targets.append(T)
        T = torch.cat(targets)
        logits = self.members.logits(self.params, self.others, torch.stack(mixed))
        losses = F.cross_entropy(
            logits.flatten(0, 1), T[:, :n_classes], reduction="none"
        )
        if marked:
            losses = losses * T[:, n_classes] * len(T) / (k * n)
        return losses.reshape(k, -1)

    def _network(self, k, bare):
        """Return what a mixing hook sees: with its own weights where it needs them."""
        if bare:
            return self.members.module
        params, others = (
            {n: t[k] for n, t in tensors.items()}
            for tensors in (self.params, self.others)
        )
        return self.members.network(params, others)

    def n_classes(self):
        """Return the number of logits of the members."""
        _, codes = self.problem.clean
        return int(codes.max()) + 1


@dataclass
class _MixContext:
    module: object
    n_classes: int
    generator: torch.Generator
