"""The network that a user passes: its module, its classes, the rows that it takes."""

from typing import Any

import numpy as np
import torch
from torch import nn

from skpoison.models._sklearn_modules import as_module, unwrapped
from skpoison.utils._validation import check_number


class Model:
    """A network, or a fitted classifier with its network inside.

    Parameters
    ----------
    model : torch.nn.Module or fitted classifier

    Attributes
    ----------
    network : torch.nn.Module
        See :func:`skpoison.models.as_module`.
    """

    def __init__(self, model):
        self.network = as_module(model)
        self._estimator: Any = (
            None if isinstance(model, nn.Module) else unwrapped(model)
        )

    def positions(self, name, labels):
        """Return the positions of labels of a fitted classifier among its classes.

        Soft labels, and those of a bare network, are positions already.
        """
        if hasattr(labels, "detach"):
            labels = labels.detach().cpu()
        labels = np.asarray(labels)
        if self._estimator is None or labels.ndim != 1:
            return labels
        classes = self._estimator.classes_.tolist()
        place = {label: i for i, label in enumerate(classes)}
        for label in labels.tolist():
            if label not in place:
                known = ", ".join(map(str, classes[:10]))
                raise ValueError(
                    f"{name} has {label!r}, which is none of the {len(classes)} "
                    f"classes {known}"
                )
        return np.array([place[label] for label in labels.tolist()], dtype=np.int64)

    def labels(self, positions):
        """Return labels as the user has them, of an array of positions."""
        if self._estimator is None:
            return positions
        return self._estimator.classes_[positions]

    def shape(self, shape):
        """Return the shape of one row, given or what the model tells, checked."""
        if shape is None and hasattr(self._estimator, "input_shape_"):
            shape = self._estimator._module_shape()
        if shape is None:
            parts = self.network.modules()
            first = next(m for m in parts if [*m.parameters(recurse=False)])
            if not isinstance(first, nn.Linear):
                raise ValueError(
                    "shape must be that of one input, such as (3, 32, 32): "
                    f"{type(self.network).__name__} starts with "
                    f"{type(first).__name__}, which does not tell it"
                )
            return (first.in_features,)
        try:
            shape = tuple(shape)
        except TypeError:
            raise TypeError(f"shape must be a tuple of int, got {shape!r}") from None
        for side in shape:
            check_number("each number in shape", side, low=1, integer=True)
        return shape

    def rows(self, X):
        """Return rows as a tensor that can be given to the network, but for its type.

        Pixels of 0 to 255 become those of [0, 1] where the model is a network's.
        """
        if not isinstance(X, torch.Tensor):
            X = np.asarray(X)
            if X.dtype.kind not in "fiubO":
                raise TypeError(f"X must hold numbers, got dtype {X.dtype}")
            # torch takes neither negative strides nor all types
            kind = np.uint8 if X.dtype == np.uint8 else np.float64
            X = torch.from_numpy(np.array(X, dtype=kind, order="C"))
        if X.is_complex():
            raise TypeError(f"X must hold real numbers, got {X.dtype}")
        if X.ndim < 2 or not len(X):
            raise ValueError(
                f"X must have shape (n_samples >= 1, ...), got {tuple(X.shape)}"
            )
        if X.is_floating_point() and not X.isfinite().all():
            raise ValueError("X holds NaN or infinite values")
        is_network = self._estimator is None or hasattr(self._estimator, "module_")
        if X.dtype == torch.uint8 and is_network:
            X = X.double() / 255
        if hasattr(self._estimator, "input_shape_"):
            self._estimator._check_shape(X.shape[1:])
            X = X.reshape(len(X), *self._estimator._module_shape())
        return X.contiguous()  # networks may call view
