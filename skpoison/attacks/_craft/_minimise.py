"""The crafting loop: objective, set and optimizer put together."""

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from skpoison.attacks._craft._steps import STEP_SIZES, Optimizer, decay

_SECONDS_BETWEEN_SAVES = 20.0


@dataclass
class Crafted:
    """What a craft ended with.

    Attributes
    ----------
    delta : tensor
    curve : ndarray of shape (n_steps, ...)
        The objective at the start of each step, one entry for each problem and
        restart.
    """

    delta: torch.Tensor
    curve: np.ndarray


def minimise(
    objective,
    delta,
    ball,
    *,
    n_steps,
    optimizer="sign_adam",
    step_size=None,
    schedule="steps",
    store=None,
    key="craft",
    verbose=0,
):
    """Move perturbations down an objective, inside their set.

    Parameters
    ----------
    objective : callable
        ``objective(delta, step)`` returns the values, one for each leading index of
        delta before the rows, and the gradient in delta. It may have ``state()``, a
        dict of tensors to keep on disk, and ``restore(state)``. Where its ``done`` is
        true after a call, the craft ends before that step.
    delta : tensor of shape (..., n, *row_shape)
    ball : Ball
        Anything with ``project`` and ``unit``.
    n_steps : int
    optimizer : str
        See :class:`Optimizer`.
    step_size : float, default=None
        In units of ``ball.unit``; None is the optimizer's own.
    schedule : str, callable or None
        See :func:`decay`.
    store : Store, default=None
        Where to keep the state.
    key : str
        Names this craft in the store.
    verbose : int

    Returns
    -------
    crafted : Crafted
        Equal bits whether or not it was interrupted and resumed.
    """
    moves = Optimizer(optimizer, ball.n_row_axes)
    step_size = STEP_SIZES[optimizer] if step_size is None else step_size
    curve, first = [], 0
    kept = store.get(key) if store is not None else None
    if kept is not None:
        first = int(kept["step"])
        curve = list(kept["curve"])
        delta, moves.n_steps = _tensor(kept["delta"], delta), first
        moves.state = _named(kept, "moves.", delta)
        if hasattr(objective, "restore"):
            objective.restore(_named(kept, "objective.", delta))
    saved, n_bad = time.monotonic(), 0
    bar = tqdm(total=n_steps, initial=first, disable=not verbose, desc=key, leave=False)
    with bar:
        for step in range(first, n_steps):
            values, gradient = objective(delta, step)
            if getattr(objective, "done", False):
                break
            curve.append(values.detach().cpu().numpy())
            bad = ~torch.isfinite(gradient)
            if bad.any():  # where the norm of a gradient is 0
                n_bad = max(n_bad, int(bad.sum()))
                gradient = torch.where(bad, 0.0, gradient)
            rate = step_size * decay(schedule, step, n_steps)
            delta = ball.project(moves.step(delta, gradient, rate * ball.unit))
            bar.update()
            if verbose:
                bar.set_postfix(loss=f"{float(np.mean(curve[-1])):.4f}", refresh=False)
            late = time.monotonic() - saved > _SECONDS_BETWEEN_SAVES
            if store is not None and store.keeps and (late or step == n_steps - 1):
                _save(store, key, step + 1, delta, curve, moves, objective)
                saved = time.monotonic()
    if n_bad > 0.01 * delta.numel():
        warnings.warn(
            f"{n_bad / delta.numel():.0%} of the crafting gradient was not finite and "
            "counted as zero",
            UserWarning,
            stacklevel=2,
        )
    shape = delta.shape[: delta.ndim - ball.n_row_axes - 1]
    return Crafted(delta, np.array(curve).reshape(len(curve), *shape))


def _save(store, key, step, delta, curve, moves, objective):
    state = objective.state() if hasattr(objective, "state") else {}
    store.put(
        key,
        step=np.asarray(step),
        delta=delta.cpu().numpy(),
        curve=np.array(curve),
        **{f"moves.{k}": v.cpu().numpy() for k, v in moves.state.items()},
        **{f"objective.{k}": v.cpu().numpy() for k, v in state.items()},
    )


def _tensor(array, like):
    return torch.as_tensor(array, device=like.device)


def _named(kept, prefix, like):
    return {
        name.removeprefix(prefix): _tensor(array, like)
        for name, array in kept.items()
        if name.startswith(prefix)
    }
