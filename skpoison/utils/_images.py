"""Batches of images side by side: checked, compared, put in order."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


def image_pair(X_true, X_rec, *, ndim=None):
    """Return two batches as float64 arrays of one shape, or raise.

    Parameters
    ----------
    X_true, X_rec : array-like or torch.Tensor of shape (n, ...)
    ndim : tuple of int, default=None
        Numbers of axes that are allowed; None is any from 2.

    Returns
    -------
    X_true, X_rec : ndarray of float64
    data_range : float
        255 where both are uint8, 1 otherwise.
    """
    true, kind = _as_images("X_true", X_true)
    rec, other = _as_images("X_rec", X_rec)
    if true.shape != rec.shape:
        raise ValueError(
            "X_true and X_rec must have the same shape, got "
            f"{true.shape} and {rec.shape}"
        )
    allowed = true.ndim >= 2 if ndim is None else true.ndim in ndim
    if not allowed or true.size == 0:
        wanted = {
            None: "(n_images >= 1, ...)",
            (3, 4): "(n_images >= 1, height, width) or with channels, "
            "(n_images >= 1, channels, height, width)",
        }[ndim]
        raise ValueError(f"images must have shape {wanted}, got {true.shape}")
    if (kind == np.uint8) != (other == np.uint8):
        raise ValueError(
            f"X_true is {kind} and X_rec is {other}: bring both to one unit, for "
            "example uint8 to [0, 1] by dividing by 255"
        )
    return true, rec, 255.0 if kind == np.uint8 else 1.0


def _as_images(name, X):
    if hasattr(X, "detach"):  # a tensor of torch, which is not imported for this
        X = X.detach().cpu()
        kept = str(X.dtype) == "torch.uint8" or X.is_complex()
        X = X.numpy() if kept else X.double().numpy()
    X = np.asarray(X)
    if X.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {X.dtype}")
    images = X.astype(np.float64)
    if not np.isfinite(images).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    return images, X.dtype


def psnr_per_image(true, rec, data_range):
    """Return the PSNR of each image in dB; arrays of shape (n, ...)."""
    mse = np.mean((true - rec).reshape(len(true), -1) ** 2, axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / mse)


def match_images(true, rec):
    """Return the order of `rec` that is closest to `true` in total squared error."""
    # differences one by one: the product form would lose what tells near copies apart
    cost = cdist(true.reshape(len(true), -1), rec.reshape(len(rec), -1), "sqeuclidean")
    return linear_sum_assignment(cost)[1]
