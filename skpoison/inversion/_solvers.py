"""Minimisers of the objective: each takes starts and returns the best it visited."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from tqdm.auto import tqdm

#: Shares of the iterations after which the published schedule divides the step by ten.
_MILESTONES = (1 / 2.667, 1 / 1.6, 1 / 1.142)
#: Iterations between looks at values on the device, each of which makes it wait.
_LOOK = 25


@dataclass
class Solution:
    """Where the restarts ended, restarts along the first axis.

    Attributes
    ----------
    variables : list of Tensor
        The best visited: candidates and, where sought, logits of labels.
    mismatch : ndarray of shape (n_restarts,)
        Without priors, at these; inf where a restart never had a finite value.
    diverged : ndarray of bool, shape (n_restarts,)
        Whether the last value of a restart was NaN or infinite.
    curves : list of ndarray
        The mismatch at each iteration of each restart.
    """

    variables: list
    mismatch: np.ndarray
    diverged: np.ndarray
    curves: list


def adam(
    objective, variables, labels, box, *, max_iter, step_size, signed, tol, verbose
):
    """Descend by Adam, all restarts at once, clipped to the box after every step.

    Parameters
    ----------
    objective : Objective
    variables : list of Tensor
        Starts of shape (n_restarts, n_samples, ...), and perhaps logits.
    labels : callable
        See :meth:`Objective.gradients`.
    box : tuple of Tensor
        Limits of the candidates.
    max_iter : int
    step_size : float
    signed : bool
        Take the sign of the candidates' gradient in place of the gradient.
    tol : float
        Stop when the mismatch of any restart falls below.
    verbose : int

    Returns
    -------
    solution : Solution
    """
    variables = [v.clone() for v in variables]
    best = [v.clone() for v in variables]
    first = [torch.zeros_like(v) for v in variables]
    second = [torch.zeros_like(v) for v in variables]
    n_restarts, device = len(variables[0]), variables[0].device
    lowest = torch.full((n_restarts,), torch.inf, device=device)
    best_mismatch, curve = lowest.clone(), []
    milestones = [int(max_iter * share) for share in _MILESTONES]
    with tqdm(total=max_iter, disable=not verbose, leave=False) as bar:
        for step in range(max_iter):
            total, mismatch, found = objective.gradients(variables, labels)
            curve.append(mismatch)
            better = total < lowest  # never where it is NaN
            lowest = torch.where(better, total, lowest)
            best_mismatch = torch.where(better, mismatch, best_mismatch)
            best = [_where(better, v, b) for v, b in zip(variables, best, strict=True)]
            if step % _LOOK == 0:
                bar.update(min(_LOOK, max_iter - step))
                bar.set_postfix(mismatch=f"{float(best_mismatch.min()):.3g}")
                if best_mismatch.min() < tol or not total.isfinite().any():
                    break
            rate = step_size * 0.1 ** sum(step >= m for m in milestones)
            if signed:
                found[0] = found[0].sign()
            for i, (v, g) in enumerate(zip(variables, found, strict=True)):
                first[i].lerp_(g, 0.1)
                second[i].mul_(0.999).addcmul_(g, g, value=0.001)
                deep = second[i].div(1 - 0.999 ** (step + 1)).sqrt_().add_(1e-8)
                v.addcdiv_(first[i], deep, value=-rate / (1 - 0.9 ** (step + 1)))
            variables[0].clamp_(*box)
    curves = torch.stack(curve, 1).cpu().double().numpy()
    return Solution(
        best,
        best_mismatch.cpu().double().numpy(),
        ~total.isfinite().cpu().numpy(),
        list(curves),
    )


def lbfgs(objective, variables, labels, box, *, max_iter, tol, verbose, patience=None):
    """Descend by SciPy's L-BFGS-B in the box, one restart after the other.

    Parameters
    ----------
    objective, variables, labels, box, tol, verbose
        As in :func:`adam`.
    max_iter : int
        Largest number of evaluations.
    patience : int, default=None
        Evaluations in which the objective must fall by a tenth, or a restart ends.

    Returns
    -------
    solution : Solution
    """
    ends: list = [[] for _ in variables]
    lowest, diverged, curves = [], [], []
    for restart in range(len(variables[0])):
        start = [v[restart : restart + 1] for v in variables]
        with tqdm(total=max_iter, disable=not verbose, leave=False) as bar:
            descent = _Descent(objective, start, labels, tol, patience, bar)
            descent.run(box, max_iter)
        for end, value in zip(ends, descent.unpack(descent.best), strict=True):
            end.append(value)
        lowest.append(descent.best_mismatch)
        diverged.append(not np.isfinite(descent.curve[-1]))
        curves.append(np.array(descent.curve))
    variables = [torch.cat(end) for end in ends]
    return Solution(variables, np.array(lowest), np.array(diverged), curves)


class _Done(Exception):
    """The mismatch is small enough, stuck, or no number."""


class _Descent:
    """One run of L-BFGS-B: the objective as a function of a float64 vector."""

    def __init__(self, objective, start, labels, tol, patience, bar):
        self.objective, self.labels, self.tol, self.bar = objective, labels, tol, bar
        self.patience, self.mark, self.since = patience, np.inf, 0
        self.like = start
        self.best = self.pack(start)
        self.lowest = self.best_mismatch = np.inf
        self.curve: list = []

    def run(self, box, max_iter):
        low, high = (b.expand_as(self.like[0]) for b in box)
        low, high = (
            self.pack([b, *(torch.full_like(v, end) for v in self.like[1:])])
            for b, end in ((low, -np.inf), (high, np.inf))
        )
        options = {"maxcor": 50, "maxfun": max_iter, "maxiter": max_iter}
        try:
            minimize(
                self, np.clip(self.best, low, high), jac=True, method="L-BFGS-B",
                bounds=list(zip(low, high, strict=True)),
                options={**options, "ftol": 1e-30, "gtol": 1e-14},
            )  # fmt: skip
        except _Done:
            pass

    def __call__(self, flat):
        total, mismatch, found = self.objective.gradients(
            self.unpack(flat), self.labels
        )
        value = float(total)
        self.curve.append(float(mismatch))
        self.bar.update()
        if value < self.lowest:
            self.lowest, self.best = value, flat.copy()
            self.best_mismatch = self.curve[-1]
        if self.lowest < 0.9 * self.mark:
            self.mark, self.since = self.lowest, len(self.curve)
        is_stuck = self.patience and len(self.curve) - self.since >= self.patience
        if not np.isfinite(value) or self.curve[-1] < self.tol or is_stuck:
            raise _Done
        return value, self.pack(found)

    def pack(self, values):
        """Return tensors as one vector."""
        return np.concatenate([v.cpu().double().numpy().ravel() for v in values])

    def unpack(self, flat):
        """Return the tensors of a vector."""
        parts = torch.from_numpy(flat).split([v.numel() for v in self.like])
        return [
            part.reshape(v.shape).to(v)
            for part, v in zip(parts, self.like, strict=True)
        ]


def _where(chosen, new, old):
    return torch.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
