"""What rules and pre-aggregators ask of their input."""

import numbers

import numpy as np
from sklearn.utils.validation import _check_n_features, validate_data

from skpoison.federated._aggregators._matrix import is_tensor
from skpoison.utils._validation import check_number


def n_faulty(n_byzantine, n_clients):
    """Turn a number or share of Byzantine clients into a number.

    Parameters
    ----------
    n_byzantine : int, float or None
        An int is a number, a float in [0, 0.5) a share of `n_clients`, rounded; None
        counts as zero.
    n_clients : int

    Returns
    -------
    n_byzantine : int
    """
    if n_byzantine is None:
        return 0
    if isinstance(n_byzantine, numbers.Integral):
        return int(check_number("n_byzantine", n_byzantine, low=0, integer=True))
    check_number("n_byzantine", n_byzantine, low=0.0)
    if n_byzantine >= 0.5:
        raise ValueError(
            f"n_byzantine as a share must be in [0, 0.5), got {n_byzantine!r}"
        )
    return round(float(n_byzantine) * n_clients)


def check_updates(estimator, updates, *, reset=True):
    """Return updates as a float array or tensor of shape (n_clients, n_weights).

    Values may be NaN or infinite: that is for the rule to judge.
    """
    if is_tensor(updates):
        if updates.ndim != 2 or 0 in updates.shape:
            raise ValueError(
                f"{type(estimator).__name__} needs updates of shape (n_clients, "
                f"n_weights), got a tensor of shape {tuple(updates.shape)}"
            )
        if not updates.is_floating_point() or updates.element_size() < 4:
            raise TypeError(
                f"{type(estimator).__name__} needs a tensor of float32 or float64, got "
                f"{updates.dtype}"
            )
        _check_n_features(estimator, updates, reset=reset)
        return updates.detach()
    return validate_data(
        estimator,
        updates,
        dtype=[np.float64, np.float32],
        ensure_all_finite=False,
        reset=reset,
    )


class Conditioned:
    """What holds between the number of rows and of Byzantine ones, or an error."""

    def _condition(self, n, f):
        """Return what n rows with f Byzantine ones must satisfy, and whether they do.

        As a pair of text and bool.
        """
        return "n >= 1", n >= 1

    def _require(self, n, f):
        text, holds = self._condition(n, f)
        if not holds:
            raise ValueError(
                f"{type(self).__name__} needs {text}: n={n}, f={f} (n_samples={n} "
                f"updates, n_byzantine={self.n_byzantine})"
            )
