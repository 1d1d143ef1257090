"""What an attack climbs, one number a row."""

import torch
from torch.nn import functional as F

LOSSES = ("cross_entropy", "margin", "dlr")


def _largest_other(scores, y):
    return scores.scatter(1, y[:, None], -torch.inf).amax(1)


def objective(scores, y, loss, targets=None):
    """Return what each row climbs: the loss, or a number that grows with it.

    Cross entropy is log(1 + exp(m)) of m = log sum_{j != y} exp(z_j) - z_y. The
    gradient of m points the same way and, unlike that of the loss itself, does not
    vanish in floating point where the model is sure.
    """
    label = y if targets is None else targets
    own = scores.gather(1, label[:, None])[:, 0]
    if loss == "cross_entropy":
        others = scores.scatter(1, label[:, None], -torch.inf).logsumexp(1)
        ascent = others - own
    elif loss == "margin":
        ascent = _largest_other(scores, label) - own
    else:
        ranked = scores.sort(1, descending=True).values
        if targets is None:
            ascent = _largest_other(scores, label) - own
            spread = ranked[:, 0] - ranked[:, 2]
        else:
            ascent = scores.gather(1, y[:, None])[:, 0] - own
            spread = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
        ascent = ascent / (spread + 1e-12)
    return ascent if targets is None else -ascent


def as_loss(value, loss, targeted=False):
    """Turn values of the objective into the loss itself."""
    if loss != "cross_entropy":
        return value
    return -F.softplus(-value) if targeted else F.softplus(value)


def losses(scores, y, loss="cross_entropy", targets=None):
    """Return the loss of each row.

    Parameters
    ----------
    scores : tensor of shape (n, n_classes)
    y : tensor of int64 of shape (n,)
    loss : {"cross_entropy", "margin", "dlr"}
        "margin" is the largest other score less that of y; "dlr" divides it by the
        distance from the first to the third score and needs three classes.
    targets : tensor of int64 of shape (n,), default=None
        Labels to be reached: the loss with respect to them, times -1. "dlr" is then
        the targeted one, for four classes or more.

    Returns
    -------
    loss : tensor of shape (n,)
        What an attack raises.
    """
    return as_loss(
        objective(scores, y, loss, targets), loss, targeted=targets is not None
    )


def check_scores(scores, n, loss="cross_entropy", targets=None):
    """Raise unless a model gave one score a class for each of n rows."""
    shape = tuple(scores.shape) if torch.is_tensor(scores) else type(scores).__name__
    if not torch.is_tensor(scores) or scores.ndim != 2 or len(scores) != n:
        raise ValueError(
            f"the model must return scores of shape (n_samples={n}, n_classes), got "
            f"{shape}"
        )
    fewest = {"dlr": 3}.get(loss, 2) + (loss == "dlr" and targets is not None)
    if scores.shape[1] < fewest:
        raise ValueError(
            f"loss={loss!r} needs a model with at least {fewest} scores, one a class, "
            f"got scores of shape {shape}"
        )
    if scores.isnan().any():
        n_bad = int(scores.isnan().any(1).sum())
        raise ValueError(
            f"the model returns NaN for {n_bad} of {n} rows, so that the loss is NaN"
        )
