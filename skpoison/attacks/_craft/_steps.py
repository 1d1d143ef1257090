"""How a perturbation moves: optimizers with their state, and schedules of the step."""

import math

import torch

#: Optimizers by name, with the step size in units of eps that each starts from.
STEP_SIZES = {"sign_adam": 0.4, "adam": 0.4, "pgd": 0.1, "mom_pgd": 0.1, "gd": 0.1}


class Optimizer:
    """One of the crafting optimizers, its state as tensors by name.

    Parameters
    ----------
    name : {"sign_adam", "adam", "pgd", "mom_pgd", "gd"}
        "sign_adam" is Adam on the sign of the gradient; "pgd" moves by the sign,
        "mom_pgd" by the sign of a running mean of l1-normalised gradients (MI-FGSM),
        "gd" by the gradient itself.
    n_row_axes : int

    Notes
    -----
    With a gradient that never vanishes the second moment of "sign_adam" is 1: the
    rate is the largest move of a step.
    """

    BETAS = 0.9, 0.999

    def __init__(self, name, n_row_axes):
        self.name = name
        self.n_row_axes = n_row_axes
        self.n_steps = 0
        self.state = {}

    def step(self, delta, gradient, rate):
        """Return moved perturbations; `rate` broadcasts to delta."""
        self.n_steps += 1
        if self.name == "pgd":
            return delta - rate * gradient.sign()
        if self.name == "gd":
            return delta - rate * gradient
        if self.name == "mom_pgd":
            axes = tuple(range(-self.n_row_axes, 0))
            length = gradient.abs().sum(axes, keepdim=True)
            mean = self._moment("mean", gradient).mul_(0.9)
            mean.add_(gradient / (length + 1e-30))
            return delta - rate * mean.sign()
        first, second = self.BETAS
        g = gradient.sign() if self.name == "sign_adam" else gradient
        mean = self._moment("mean", g).lerp_(g, 1 - first)
        square = self._moment("square", g).mul_(second).addcmul_(g, g, value=1 - second)
        length = (square / (1 - second**self.n_steps)).sqrt_().add_(1e-8)
        return delta - rate * (mean / (1 - first**self.n_steps)).div_(length)

    def _moment(self, name, like):
        if name not in self.state:
            self.state[name] = torch.zeros_like(like)
        return self.state[name]


def decay(schedule, step, n_steps):
    """Return the factor of the step size at a step, from 0.

    "steps" divides by ten at ``int(n // 2.667)``, ``int(n // 1.6)`` and
    ``int(n // 1.142)``, "thirds" after one and two thirds; "cosine" falls to zero; a
    callable is asked as it is.
    """
    if schedule is None:
        return 1.0
    if callable(schedule):
        return float(schedule(step, n_steps))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / n_steps))
    if schedule == "thirds":
        return 0.1 ** (3 * step // n_steps)
    return 0.1 ** sum(step >= int(n_steps // share) for share in (2.667, 1.6, 1.142))
