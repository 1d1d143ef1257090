"""What a client can do to an update before it sends it."""

import numpy as np

from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number


def noise_update(update, scale, *, relative=True, random_state=None):
    """Add Gaussian noise to an update.

    Parameters
    ----------
    update : dict, list or tuple of arrays, or one array
        NumPy or torch, not changed.
    scale : float
        Standard deviation, at least 0.
    relative : bool, default=True
        Whether `scale` is in units of the update's own root mean square, over all its
        entries, or of the update itself.
    random_state : None, int, RandomState or Generator, default=None

    Returns
    -------
    update : as given

    See Also
    --------
    clip_update : Bounds what noise has to hide.
    prune_update : Sends less.

    Notes
    -----
    Relative noise has no privacy guarantee, as its size tells that of the update: clip
    first and set ``relative=False`` for one.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import noise_update
    >>> noisy = noise_update(np.full(10_000, 3.0), 0.5, random_state=0)
    >>> round(float(noisy.std()), 1)
    1.5
    """
    check_number("scale", scale, low=0.0)
    rng = RandomStreams(random_state).numpy("noise")

    def add(parts):
        size = sum(part.size for part in parts)
        sigma = scale * (_norm(parts) / size**0.5 if relative else 1.0)
        return [part + sigma * rng.normal(size=part.shape) for part in parts]

    return _changed(update, add)


def prune_update(update, fraction):
    """Set the smallest entries of each array to zero.

    Parameters
    ----------
    update : dict, list or tuple of arrays, or one array
        NumPy or torch, not changed. A flat vector is one array: its entries compete
        with each other across parameters.
    fraction : float
        In [0, 1]: how much of each array to drop, rounded down.

    Returns
    -------
    update : as given

    See Also
    --------
    noise_update : Hides entries instead.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import prune_update
    >>> prune_update([np.array([3.0, -1.0, 2.0, 0.5])], 0.5)
    [array([3., 0., 2., 0.])]
    """
    check_number("fraction", fraction, low=0.0, high=1.0)

    def drop(parts):
        for part in parts:
            # 0.29 * 100 is 28.999999999999996
            n_dropped = int(round(fraction * part.size, 9))
            smallest = np.argsort(abs(part), axis=None, kind="stable")[:n_dropped]
            part.flat[smallest] = 0.0
        return parts

    return _changed(update, drop)


def clip_update(update, max_norm):
    """Shorten an update to a length in the l2 norm.

    Parameters
    ----------
    update : dict, list or tuple of arrays, or one array
        NumPy or torch, not changed.
    max_norm : float
        Above 0. Of all arrays together, as DP-SGD [1]_ clips the gradient of a sample.

    Returns
    -------
    update : as given
        Times ``min(1, max_norm / norm)``.

    See Also
    --------
    noise_update : What makes a clipped update private.

    Notes
    -----
    Clipping alone hides nothing from an attack that compares directions.

    References
    ----------
    .. [1] M. Abadi, A. Chu, I. Goodfellow, H. B. McMahan, I. Mironov, K. Talwar and
       L. Zhang. Deep learning with differential privacy. CCS 2016, arXiv:1607.00133.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import clip_update
    >>> clip_update({"weight": np.array([3.0]), "bias": np.array([4.0])}, 1.0)
    {'weight': array([0.6]), 'bias': array([0.8])}
    """
    check_number("max_norm", max_norm, low=0.0, strict=True)

    def shorten(parts):
        norm = _norm(parts)
        return (
            [part * (max_norm / norm) for part in parts] if norm > max_norm else parts
        )

    return _changed(update, shorten)


def _norm(parts):
    return np.sqrt(sum(np.vdot(part, part) for part in parts))


def _changed(update, change):
    """Return ``change`` of the arrays, as float64 copies, in the kind they came in."""
    if isinstance(update, dict):
        values = _changed(list(update.values()), change)
        return dict(zip(update, values, strict=True))
    if not isinstance(update, list | tuple):
        return _changed([update], change)[0]
    parts = [_as_float64(value) for value in update]
    new = [_like(a, b) for a, b in zip(change(parts), update, strict=True)]
    return type(update)(new)


def _as_float64(value):
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    array = np.array(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("the update holds NaN or infinite values")
    return array


def _like(array, value):
    """Return an array in the kind and floating type of what came in."""
    if hasattr(value, "detach"):
        import torch

        dtype = value.dtype if value.is_floating_point() else torch.float64
        return torch.from_numpy(array).to(value.device, dtype)
    kept = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return array.astype(value.dtype) if kept else array
