"""Losses of validation scores: what a poison is to raise."""

import numpy as np
from scipy.special import expit, logsumexp, softmax

from skpoison.utils._validation import check_option

# the kinds of scores a learner gives, and the loss that stands for its errors
DEFAULT_OBJECTIVE = {
    "binary": "log_loss",
    "softmax": "log_loss",
    "ovr": "hinge",
    "ovo": "hinge",
    "regression": "squared_error",
}


class NotDifferentiableError(TypeError):
    """An estimator or a preprocessing step has no derivative that is known here."""


def resolve_objective(objective, learner):
    """Return ``objective(scores, y) -> (value, gradient)`` for a learner's scores.

    Parameters
    ----------
    objective : "auto", "log_loss", "hinge", "squared_error" or callable
        "auto" is the loss the learner itself goes by. A callable is given scores of
        shape (m, k) and y, codes or numbers, and returns a number and its gradient.
    learner : Learner
    """
    if callable(objective):
        return _checked(objective)
    check_option("objective", objective, ["auto", "log_loss", "hinge", "squared_error"])
    kind = learner.score_kind
    if objective == "auto":
        objective = getattr(learner, "objective", DEFAULT_OBJECTIVE[kind])
    if (objective == "squared_error") != (kind == "regression"):
        raise ValueError(
            f"objective={objective!r} does not fit a "
            + ("regressor" if kind == "regression" else "classifier")
        )
    return {
        "squared_error": squared_error,
        "log_loss": {"softmax": cross_entropy, "ovr": cross_entropy}.get(
            kind, log_loss
        ),
        "hinge": {"softmax": multiclass_hinge, "ovr": multiclass_hinge}.get(
            kind, hinge
        ),
    }[objective]


def _checked(objective):
    def checked(scores, y):
        found = objective(scores, y)
        if (
            not isinstance(found, tuple | list)
            or len(found) != 2
            or np.size(found[0]) != 1
            or np.size(found[1]) != scores.size
        ):
            raise ValueError(
                "objective must return a number and its gradient by the scores, of "
                f"shape {scores.shape}"
            )
        value, gradient = (np.asarray(part, dtype=np.float64) for part in found)
        return value.item(), gradient.reshape(scores.shape)

    return checked


def squared_error(scores, y):
    """Mean squared error."""
    residual = scores - np.reshape(y, (len(scores), -1))
    return float(np.mean(residual**2)), 2 * residual / residual.size


def cross_entropy(scores, y):
    """Mean of ``-log softmax(scores)[y]``."""
    rows = np.arange(len(y))
    rivals = scores - scores[rows, y][:, None]
    rivals[rows, y] = -np.inf
    lead = logsumexp(rivals, axis=1)  # over the own score: no 1 - 1 if all is well
    gradient = expit(lead)[:, None] * softmax(rivals, axis=1)
    gradient[rows, y] = -expit(lead)
    return float(np.mean(np.logaddexp(0, lead))), gradient / len(y)


def multiclass_hinge(scores, y):
    """Mean of ``max(0, 1 + best rival - own)``: the margin that the argmax goes by."""
    rows = np.arange(len(y))
    rivals = scores.copy()
    rivals[rows, y] = -np.inf
    best = rivals.argmax(axis=1)
    margin = 1 + scores[rows, best] - scores[rows, y]
    active = (margin > 0) / len(y)
    gradient = np.zeros_like(scores)
    gradient[rows, best] = active
    gradient[rows, y] = -active
    return float(np.mean(margin.clip(min=0))), gradient


def _signs(scores, y):
    """Return +1, -1 or 0: which way each score should go for each row."""
    if scores.shape[1] == 1:  # binary: positive speaks for code 1
        return np.where(y == 1, 1.0, -1.0)[:, None]
    n_classes = int(round((1 + np.sqrt(1 + 8 * scores.shape[1])) / 2))
    first, second = np.triu_indices(n_classes, 1)
    return (y[:, None] == first).astype(float) - (y[:, None] == second)


def hinge(scores, y):
    """Mean over rows of ``max(0, 1 - margin)``, summed over the pairs of a row."""
    signs = _signs(scores, y)
    margin = np.where(signs == 0, 0.0, 1 - signs * scores)
    return float(margin.clip(min=0).sum() / len(y)), -signs * (margin > 0) / len(y)


def log_loss(scores, y):
    """Mean over rows of ``log(1 + exp(-margin))``, summed over the pairs of a row."""
    signs = _signs(scores, y)
    used = signs != 0
    value = np.where(used, np.logaddexp(0, -signs * scores), 0.0).sum() / len(y)
    return float(value), -signs * expit(-signs * scores) / len(y)
