"""Release poisoning: objectives that are sums over rows, and one that trains along."""

import torch
from torch.nn import functional as F

from skpoison.attacks._craft._matching import TINY, target_loss
from skpoison.attacks._craft._sets import noise
from skpoison.utils import local_torch_seed


def draws_by_row(streams, keys, *, init, n_restarts, shape, augment=None, n_moves=0):
    """Draw each row's randomness from a stream named by its content.

    So a row gets the same draws whatever rows it comes with.

    Parameters
    ----------
    streams : RandomStreams
    keys : list of str
    init : {"randn", "uniform", "zero", "sign"}
        "sign" draws -1 and 1.
    n_restarts : int
    shape : tuple of int
        Of one row.
    augment : ShiftFlip, default=None
        Anything with ``draw``.
    n_moves : int, default=0
        Draws of it, for each restart.

    Returns
    -------
    starts : tensor of shape (n_restarts, n, *shape)
        In units of the radius.
    moves : tensor of shape (n_moves, n_restarts, n, ...) or None
    """
    starts, moves = [], []
    for key in keys:
        generator = streams.torch(f"row {key}")
        if init == "sign":
            start = torch.randn((n_restarts, *shape), generator=generator).sign()
        else:
            start = noise(init, (n_restarts, *shape), generator)
        starts.append(start)
        if augment is not None:
            drawn = augment.draw(n_moves * n_restarts, shape, generator)
            moves.append(drawn.reshape(n_moves, n_restarts, -1))
    return torch.stack(starts, 1), torch.stack(moves, 2) if moves else None


class RowSum:
    """An objective of which each row has a term of its own.

    Parameters
    ----------
    groups : list of Members
    x : tensor of shape (n, *row_shape)
    labels : tensor of int of shape (n,)
    loss : {"untargeted", "cross_entropy"}
        The term, see :func:`target_loss`; with `goals` it is not read.
    goals : list of dict of str to tensor of shape (n_members, ...), default=None
        The term is minus the inner product of the row's training gradient with this
        direction, scaled to length one.
    augment : callable, default=None
        ``augment(rows, step)`` of rows of shape (n_restarts, n, *row_shape).

    Notes
    -----
    The rows' terms of an inner product come with the gradient for nothing: the terms
    are weighted by ones, and the derivative in the weights is taken too.
    """

    def __init__(self, groups, x, labels, *, loss, goals=None, augment=None):
        self.groups, self.x, self.labels = groups, x, labels
        self.loss, self.augment = loss, augment
        self.goals = [None] * len(groups) if goals is None else goals

    def __call__(self, delta, step):
        """Return values of shape (n_restarts,) and the gradient in delta."""
        values, gradient = self.rows(delta, step)
        return values.mean(1), gradient

    def rows(self, delta, step):
        """Return values of shape (n_restarts, n) and the gradient of their sum."""
        at = delta.detach().requires_grad_()
        rows = self.x + at
        if self.augment is not None:
            rows = self.augment(rows, step)
        rows, labels = rows.flatten(0, 1), self.labels.repeat(len(delta))
        weights = rows.new_ones(len(rows)).requires_grad_()
        total = sum(
            self._weighted(group, goal, rows, labels, weights)
            for group, goal in zip(self.groups, self.goals, strict=True)
        ) / sum(map(len, self.groups))
        gradient, values = torch.autograd.grad(total, [at, weights])
        return values.reshape(delta.shape[:2]), gradient

    def _weighted(self, group, goal, rows, labels, weights):
        """Return the weighted sum of the rows' terms over a group's members."""
        k, params = len(group), group.params
        if goal is not None:
            params = {n: p.detach().requires_grad_() for n, p in params.items()}
        logits = group.logits(params, group.others, rows.expand(k, *rows.shape))
        labels = labels.expand(k, -1)
        if goal is None:
            return (target_loss(self.loss, logits, labels) * weights).sum()
        losses = target_loss("cross_entropy", logits, labels) * weights
        g = torch.autograd.grad(losses.sum(), list(params.values()), create_graph=True)
        length = sum(goal[n].flatten(1).square().sum(1) for n in params).sqrt() + TINY
        inner = sum(
            (part * goal[n]).flatten(1).sum(1)
            for n, part in zip(params, g, strict=True)
        )
        return -(inner / length).sum()


class ErrorMin:
    """Perturbations and a network that learns from them descend one loss in turn.

    Parameters
    ----------
    module : torch.nn.Module
        Trained in place.
    optimizer : torch.optim.Optimizer
        Of its weights.
    shape : tuple of int
        What the module takes a row as.
    ball : Ball
        Around all rows.
    labels : tensor of int of shape (n,)
    owner : tensor of int of shape (n,)
        The perturbation that each row gets.
    by_class : bool
        A step moves by one batch of rows, not by all; a round of steps is then a pass
        over the rows, not ``N_STEPS``.
    limit : float
        Done when the network misreads a smaller share of the perturbed rows.
    train_size, batch_size : int
        Rows in a batch, of training and of the gradient in the perturbations.
    augment : callable or None
        ``augment(rows, generator)``.
    streams : RandomStreams
    """

    #: Training steps before a round, and steps of the perturbations in it.
    N_TRAIN, N_STEPS = 10, 20

    def __init__(
        self,
        module,
        optimizer,
        shape,
        ball,
        labels,
        owner,
        *,
        by_class,
        limit,
        train_size,
        batch_size,
        augment,
        streams,
    ):
        self.module, self.optimizer, self.shape = module, optimizer, shape
        self.ball, self.labels, self.owner = ball, labels, owner
        self.by_class, self.limit, self.train_size = by_class, limit, train_size
        self.batches = torch.arange(len(labels), device=labels.device).split(batch_size)
        self.round = len(self.batches) if by_class else self.N_STEPS
        self.augment, self.streams = augment, streams
        self.done = False

    def __call__(self, delta, step):
        """Return the mean loss, of shape (1,), and the gradient in delta."""
        table = delta[0].detach()
        if step % self.round == 0:
            self.done = step > 0 and self._error(table) < self.limit
            if not self.done:
                self._train(table, step)
        if self.done:
            return None, None
        batches = self.batches
        if self.by_class:
            batches = batches[step % self.round : step % self.round + 1]
        self.module.eval()
        table.requires_grad_()
        gradient, value = torch.zeros_like(table), table.new_zeros(())
        for rows in batches:
            name = f"augmentation {step} {int(rows[0])}"
            loss = self._losses(table, rows, name).sum()
            gradient += torch.autograd.grad(loss, table)[0]
            value += loss.detach()
        return (value / sum(map(len, batches)))[None], gradient[None]

    def _inputs(self, table, rows):
        x = self.ball.x[rows]
        return torch.clamp(x + table[self.owner[rows]], self.ball.low, self.ball.high)

    def _losses(self, table, rows, name):
        inputs = self._inputs(table, rows)
        if self.augment is not None:
            inputs = self.augment(inputs, self.streams.torch(name))
        logits = self.module(inputs.reshape(-1, *self.shape))
        return F.cross_entropy(logits, self.labels[rows], reduction="none")

    def _train(self, table, step):
        generator = self.streams.torch(f"training rows {step}")
        n_rows = len(self.labels)
        # skorch's -1 is all rows
        n_batch = min(self.train_size, n_rows) if self.train_size > 0 else n_rows
        drawn = torch.randint(n_rows, (self.N_TRAIN, n_batch), generator=generator)
        self.module.train()
        with local_torch_seed(self.streams.seed(f"dropout {step}"), table.device):
            for i, rows in enumerate(drawn.to(table.device)):
                self.optimizer.zero_grad()
                name = f"training augmentation {step} {i}"
                self._losses(table, rows, name).mean().backward()
                self.optimizer.step()

    @torch.no_grad()
    def _error(self, table):
        """Return the share of perturbed rows that the network misreads."""
        self.module.eval()
        wrong = 0
        for rows in self.batches:
            logits = self.module(self._inputs(table, rows).reshape(-1, *self.shape))
            wrong += int((logits.argmax(1) != self.labels[rows]).sum())
        return wrong / len(self.labels)

    def state(self):
        """Return the network and its optimizer's state, by name."""
        found = {f"module.{n}": t for n, t in self.module.state_dict().items()}
        for i, parts in self.optimizer.state_dict()["state"].items():
            tensors = {n: t for n, t in parts.items() if torch.is_tensor(t)}
            found |= {f"optimizer.{i}.{n}": t for n, t in tensors.items()}
        return found

    def restore(self, state):
        """Go on from what :meth:`state` returned."""
        weights: dict = {}
        moments: dict = {}
        for name, tensor in state.items():
            kind, _, rest = name.partition(".")
            if kind == "module":
                weights[rest] = tensor
            else:
                i, _, part = rest.partition(".")
                moments.setdefault(int(i), {})[part] = tensor
        self.module.load_state_dict(weights)
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": moments})
