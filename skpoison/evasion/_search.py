"""The search for an input that is misread, on tensors: what all attacks share."""

from dataclasses import dataclass

import torch

from skpoison.evasion._losses import as_loss, check_scores, losses, objective
from skpoison.evasion._region import Region, per_row
from skpoison.evasion._steps import MomentumSteps, Steps

__all__ = [
    "MomentumSteps",
    "Region",
    "SearchResult",
    "Steps",
    "ascend",
    "losses",
    "search",
]


@dataclass
class SearchResult:
    """What a search found.

    Attributes
    ----------
    x_adv : tensor of shape (n, *sample_shape)
        A misread iterate if there was one, else that of largest loss.
    is_broken : tensor of bool of shape (n,)
    loss : tensor of shape (n,)
        At `x_adv`.
    n_gradients : int
        Gradients of single rows that were computed.
    n_zero_gradient : int
        Rows not broken whose gradient was zero in every value somewhere.
    """

    x_adv: torch.Tensor
    is_broken: torch.Tensor
    loss: torch.Tensor
    n_gradients: int
    n_zero_gradient: int


class Victim:
    """A model with the labels of some rows and a loss: what is to be climbed."""

    def __init__(self, scores, y, loss, targets):
        self.scores, self.y, self.loss, self.targets = scores, y, loss, targets

    def take(self, rows):
        targets = None if self.targets is None else self.targets[rows]
        return Victim(self.scores, self.y[rows], self.loss, targets)

    def read(self, x):
        """Return the objective of each row, and whether it is broken."""
        scores = self.scores(x)
        check_scores(scores, len(x), self.loss, self.targets)
        scores = scores.to(x.dtype)
        value = objective(scores, self.y, self.loss, self.targets)
        predicted = scores.detach().argmax(1)
        if self.targets is None:
            return value, predicted != self.y
        return value, predicted == self.targets

    def climb(self, x):
        """Return objective, broken rows and the gradient at x."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value, is_broken = self.read(x)
            gradient = slope(value, x)
        return value.detach(), is_broken, gradient


def slope(value, x):
    """Return the gradient of the sum of `value` with respect to x alone."""
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the model is not differentiable: its scores do not depend on its input "
            "through operations that torch records; does it run under no_grad, "
            "detach() or in NumPy?"
        )
    return gradient


class Findings:
    """The best iterate of each row so far."""

    def __init__(self, region):
        x = region.x
        self.x = x.clone()
        self.value = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.is_broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.is_flat = self.is_broken.clone()

    def update(self, rows, x, value, is_broken):
        """Take the iterates in which rows are broken, or as they were with more loss.

        `rows` is None for all.
        """
        was_broken, before = self.is_broken, self.value
        if rows is not None:
            was_broken, before = was_broken[rows], before[rows]
        better = (is_broken > was_broken) | (
            (is_broken == was_broken) & (value > before)
        )
        if rows is None:
            torch.where(per_row(better, x), x, self.x, out=self.x)
            torch.where(better, value, before, out=self.value)
            self.is_broken |= is_broken
            return
        chosen = rows[better]
        self.x[chosen] = x[better]
        self.value[chosen] = value[better]
        self.is_broken[chosen] = is_broken[better]

    def mark_flat(self, rows, gradient):
        """Note the rows whose gradient is zero in every value."""
        # torch's own maximum norm and any() take ten times as long
        size = gradient.flatten(1).abs().sum(1)
        if size.isnan().any():
            raise ValueError(
                "the gradient of the loss is NaN where the loss is not; the model has "
                "a step without a derivative, such as the root of zero"
            )
        if rows is None:
            self.is_flat |= size == 0
        else:
            self.is_flat[rows] |= size == 0

    def result(self, loss, targeted, n_gradients=0):
        """Return what was found."""
        return SearchResult(
            x_adv=self.x,
            is_broken=self.is_broken,
            loss=as_loss(self.value, loss, targeted),
            n_gradients=n_gradients,
            n_zero_gradient=int((self.is_flat & ~self.is_broken).sum()),
        )


def ascend(
    scores,
    x,
    y,
    region,
    rule,
    draws,
    *,
    loss="cross_entropy",
    max_iter,
    random_start=True,
    targets=None,
):
    """Return the last iterate of one run for each row, and do nothing else.

    For training on it: ``max_iter`` forward and backward passes, no bookkeeping.
    Parameters as of :func:`search`.

    Returns
    -------
    x_adv : tensor of shape (n, *sample_shape)
    """
    victim = Victim(scores, y, loss, targets)
    with torch.no_grad():
        walk = rule.walk(region, draws, 0)
        x = _first(region, draws, 0, None if random_start else x)
        for _ in range(max_iter):
            value, _, gradient = victim.climb(region.seen(x))
            x = walk.move(x, gradient, value)
        return region.seen(x)


def search(
    scores,
    x,
    y,
    region,
    rule,
    draws,
    *,
    loss="cross_entropy",
    max_iter,
    n_restarts=1,
    random_start=True,
    early_stop=True,
    targets=None,
):
    """Look for a misread point of each row's region by gradient ascent.

    Parameters
    ----------
    scores : callable
        From a tensor of shape (n, *sample_shape) to scores of shape (n, n_classes),
        of which the largest is predicted.
    x : tensor of shape (n, *sample_shape)
        Where runs begin without a random start; ``region.x`` is the usual place.
    y : tensor of int64 of shape (n,)
        Columns of the scores that are right.
    region : Region
    rule : Steps or another with ``walk(region, draws, restart)``
    draws : RowDraws, GeneratorDraws or None
        None where nothing is drawn.
    loss : {"cross_entropy", "margin", "dlr"}
    max_iter : int
        Steps of a run.
    n_restarts : int, default=1
        Runs.
    random_start : bool, default=True
        Start from a random point of the region instead of the row.
    early_stop : bool, default=True
        Rows that are broken leave the search, with the first such iterate; else each
        makes all steps, and gets the one of largest loss among the misread ones.
    targets : tensor of int64 of shape (n,), default=None
        Columns to be reached; a row is broken when its target is predicted.

    Returns
    -------
    result : SearchResult
    """
    victim = Victim(scores, y, loss, targets)
    found = Findings(region)
    n_gradients = 0
    with torch.no_grad():
        if random_start:
            value, is_broken = victim.read(region.x)
            found.update(None, region.x, value, is_broken)
        for restart in range(n_restarts):
            rows = None
            if early_stop and (restart or random_start):
                rows = (~found.is_broken).nonzero()[:, 0]
                if not len(rows):
                    break
            n_gradients += _run(
                victim,
                region,
                rule,
                draws,
                found,
                rows,
                restart,
                begin=None if random_start else x,
                max_iter=max_iter,
                early_stop=early_stop,
            )
    return found.result(loss, targets is not None, n_gradients)


def _first(region, draws, restart, begin=None):
    """Return the first iterate of a run: a copy of `begin`, or a random point."""
    if begin is not None:
        return begin.clone()
    n_values = region.x[0].numel()
    uniforms = draws.uniform(restart, 0, (len(region.x), 1 + n_values))
    return region.random_start(uniforms)


def _run(
    victim,
    region,
    rule,
    draws,
    found,
    rows,
    restart,
    *,
    begin,
    max_iter,
    early_stop,
):
    """Make one run from the rows given, None for all; return the gradients it took."""
    if rows is not None:
        victim, region = victim.take(rows), region.take(rows)
        draws = draws and draws.take(rows)
        begin = begin if begin is None else begin[rows]
    walk = rule.walk(region, draws, restart)
    x = _first(region, draws, restart, begin)
    n_gradients = 0
    for _ in range(max_iter):
        seen = region.seen(x)
        value, is_broken, gradient = victim.climb(seen)
        n_gradients += len(x)
        found.update(rows, seen, value, is_broken)
        found.mark_flat(rows, gradient)
        if early_stop and is_broken.any():
            left = (~is_broken).nonzero()[:, 0]
            if not len(left):
                return n_gradients
            rows = left if rows is None else rows[left]
            victim, region = victim.take(left), region.take(left)
            walk.take(left)
            x, gradient, value = x[left], gradient[left], value[left]
        x = walk.move(x, gradient, value)
    seen = region.seen(x)
    value, is_broken = victim.read(seen)
    found.update(rows, seen, value, is_broken)
    return n_gradients
