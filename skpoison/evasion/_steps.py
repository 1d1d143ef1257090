"""Step rules: where to go from an iterate and its gradient."""

import torch

from skpoison.evasion._region import lengths, per_row


def direction(gradient, norm):
    """Return the steepest step of length 1, in place; zero where there is no slope."""
    if norm == "linf":
        return gradient.sign_()
    # by the largest value first: squares of small ones underflow
    tiny = torch.finfo(gradient.dtype).tiny
    largest = per_row(gradient.flatten(1).abs().amax(1), gradient)
    gradient /= largest.clamp_min_(tiny)
    return gradient.div_(lengths(gradient).clamp_min_(tiny))


def _as(value, like):
    """Give a number or a tensor the type of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


class Steps:
    """Step rule of projected gradient ascent, with a fixed or a random step size.

    Parameters
    ----------
    low : float or tensor that broadcasts to one row
    high : float or tensor, default=None
        None is `low`: no draw is made.
    mode : {"sample", "pixel", "batch"}, default="sample"
        Each row draws its own step size from U(low, high) in each step, each value
        does, or all rows share one.
    """

    needs_draws = property(lambda self: self.high is not None)

    def __init__(self, low, high=None, mode="sample"):
        self.low = low
        self.high = high
        self.mode = mode

    def walk(self, region, draws, restart):
        """Return the state of one run: ``move(x, gradient, value)``, ``take(rows)``."""
        return Walk(self, region, draws, restart)


class Walk:
    """One run of projected gradient ascent: the state of a rule."""

    def __init__(self, rule, region, draws, restart):
        self.rule = rule
        self.region = region
        self.draws = draws
        self.restart = restart
        self.n_moves = 0

    def take(self, rows):
        """Keep some rows."""
        self.region = self.region.take(rows)
        self.draws = self.draws and self.draws.take(rows)

    def size(self, x):
        """Return the step size of the next move."""
        self.n_moves += 1
        rule = self.rule
        low = _as(rule.low, x)
        if rule.high is None:
            return low
        if rule.mode == "batch":
            share = self.draws.shared(self.restart, self.n_moves)
        elif rule.mode == "pixel":
            share = self.draws.uniform(self.restart, self.n_moves, x.shape).to(x)
        else:
            drawn = self.draws.uniform(self.restart, self.n_moves, (len(x), 1))
            share = per_row(drawn.to(x), x)
        return low + (_as(rule.high, x) - low) * share

    def move(self, x, gradient, value):
        """Return the next iterate; x and gradient may be overwritten."""
        step = self.size(x)
        return self.region.project(
            x.addcmul_(direction(gradient, self.region.norm), step)
        )


class MomentumSteps(Steps):
    """Step rule of MI-FGSM: along a decaying sum of gradients of L1 norm 1.

    Parameters
    ----------
    size : float or tensor that broadcasts to one row
    momentum : float, default=1.0
    """

    def __init__(self, size, momentum=1.0):
        super().__init__(size)
        self.momentum = momentum

    def walk(self, region, draws, restart):
        """Return the state of one run."""
        return _MomentumWalk(self, region, draws, restart)


class _MomentumWalk(Walk):
    def __init__(self, rule, region, draws, restart):
        super().__init__(rule, region, draws, restart)
        self.sum = torch.zeros_like(region.x)

    def take(self, rows):
        super().take(rows)
        self.sum = self.sum[rows]

    def move(self, x, gradient, value):
        length = gradient.flatten(1).abs().sum(1)
        tiny = torch.finfo(x.dtype).tiny
        gradient /= per_row(length.clamp_min_(tiny), gradient)
        self.sum.mul_(self.rule.momentum).add_(gradient)
        return super().move(x, gradient.copy_(self.sum), value)
