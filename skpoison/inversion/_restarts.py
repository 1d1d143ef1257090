"""Whether restarts can begin, and which of them is returned."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skpoison.inversion._priors import TotalVariation

SCORES = ("loss", "tv", "mean", "median")


def check_start(objective, variables, labels):
    """Raise where no restart can move."""
    try:
        total, _, gradients = objective.gradients(variables, labels)
        # all the way back: the engine else leaves out, without a word, what says that
        # it can't be differentiated twice
        one = [v[:1].clone().requires_grad_() for v in variables]
        objective(one[0], labels(one[-1], 1))[0].sum().backward()
    except (RuntimeError, NotImplementedError) as error:
        name = type(objective.client.module).__name__
        raise ValueError(
            f"{name} can't be differentiated twice, or not for several restarts at "
            f"once: {error}"
        ) from error
    if not total.isfinite().any():
        raise FloatingPointError(
            "the objective is NaN or infinite at every start: the update or the "
            "weights are too large for their type, or the bounds too wide"
        )
    if not any(gradient.any() for gradient in gradients):
        raise ValueError(
            "the objective is flat: the module's gradients do not change with its "
            "input, as behind step functions, detached tensors or dead units"
        )


def choose(scoring, solution, objective, labels):
    """Return the restart that scores best, or what all agree on.

    Parameters
    ----------
    scoring : str
    solution : Solution
    objective : Objective
    labels : callable
        See :meth:`Objective.gradients`.

    Returns
    -------
    z, y : Tensor
        Rows as the network takes them, and their labels.
    figures : dict
    """
    losses, diverged = solution.mismatch, solution.diverged
    if diverged.all():
        raise FloatingPointError(
            "the objective became NaN or infinite in every restart: lower "
            "step_size, or narrow bounds"
        )
    if diverged.any():
        warnings.warn(
            f"the objective of {diverged.sum()} of {len(diverged)} restarts became "
            "NaN or infinite; what they had before counts",
            ConvergenceWarning,
            stacklevel=4,
        )
    finite = np.isfinite(losses)
    z = solution.variables[0]
    scores = losses
    if scoring == "tv" and z.ndim > 3:
        scores = TotalVariation().value(z, []).cpu().double().numpy()
    best = int(np.where(finite, scores, np.inf).argmin())
    logits = None
    if len(solution.variables) > 1:
        logits = solution.variables[1][best : best + 1]
    y = labels(logits, 1)
    chosen, loss = z[best : best + 1], losses[best]
    if scoring in ("mean", "median"):
        every = z[torch.from_numpy(finite)]
        middle = every.mean(0) if scoring == "mean" else every.quantile(0.5, 0)
        chosen = middle[None]
        with torch.no_grad():
            loss = float(objective(chosen, y)[1])
    curve = solution.curves[best]
    figures = {
        "loss": float(loss),
        "n_iter": len(curve),
        "loss_curve": curve,
        "restart_losses": losses,
    }
    return chosen[0], y[0], figures
