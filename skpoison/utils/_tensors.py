"""Where tensors live, and the projection that every crafting step ends with."""

from contextlib import contextmanager

import numpy as np


def resolve_device(device):
    """Turn a ``device`` parameter into a torch.device, or say why not.

    Parameters
    ----------
    device : str or torch.device
        "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    RuntimeError
        CUDA is asked for by name and there is none.
    """
    import torch

    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be 'auto' or a torch device such as 'cpu' or 'cuda:0', got "
            f"{device!r}"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"device={device!r} was asked for, but torch sees no CUDA device; "
            "device='auto' falls back to the CPU"
        )
    return resolved


@contextmanager
def evaluating(module):
    """Keep a network in evaluation mode, and what it is given as it was."""
    modes = [(part, part.training) for part in module.modules()]
    # a module that works in place must not reach rows that are trained on, or needed
    # once more
    copies = module.register_forward_pre_hook(lambda _, args: (args[0].clone(),))
    module.eval()
    try:
        yield
    finally:
        copies.remove()
        for part, mode in modes:  # a callback may have frozen some
            part.training = mode


def project(delta, x, eps, norm, low, high):
    """Project perturbations onto the eps ball, then into the box around x.

    Works on NumPy arrays and torch tensors alike.

    Parameters
    ----------
    delta, x : array or tensor of shape (n, ...)
        x inside the box.
    eps : float or array that broadcasts to one row
    norm : {"linf", "l2"}
    low, high : arrays that broadcast to one row

    Returns
    -------
    delta : like the input
        Because x lies in the box, the second step can only shorten delta.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.utils._tensors import project
    >>> project(np.array([[3.0, 4.0]]), np.zeros((1, 2)), 1.0, "l2", -1.0, 0.7)
    array([[0.6, 0.7]])
    """
    if isinstance(delta, np.ndarray):
        clip = np.clip
    else:
        import torch

        clip = torch.clamp  # type: ignore[assignment]
    if norm == "linf":
        delta = clip(delta, -eps, eps)
    else:
        length = (delta.reshape(len(delta), -1) ** 2).sum(1) ** 0.5
        shrink = clip(eps / (length + 1e-30), None, 1.0)
        delta = delta * shrink.reshape(-1, *[1] * (delta.ndim - 1))
    return clip(x + delta, low, high) - x


def quantize(delta, eps, norm):
    """Round the perturbation of integer pixels without leaving the eps ball.

    Parameters
    ----------
    delta : ndarray
        Inside the ball and the box.
    eps : float or array
    norm : {"linf", "l2"}

    Returns
    -------
    delta : ndarray of whole numbers
    """
    if norm == "l2":
        return np.trunc(delta)  # rounding to nearest could lengthen a row
    limit = np.floor(np.asarray(eps) + 1e-6)  # 16/255 * 255 may fall short of 16
    return np.clip(np.rint(delta), -limit, limit)
