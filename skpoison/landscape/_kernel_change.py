"""How far apart two kernels of the same rows are, and how features lie."""

import copy

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.utils import Bunch

from skpoison.models._features import last_linear
from skpoison.models._given import Model
from skpoison.utils import local_torch_seed

# Added to entries before dividing by them, as in the released code of the paper.
_FLOOR = 1e-4


def ntk_change(K0, K1):
    """Measure how far a kernel has moved from another one of the same rows.

    Parameters
    ----------
    K0, K1 : array-like of the same shape, of two axes or more
        Kernels such as :func:`empirical_ntk` returns, before and after.

    Returns
    -------
    change : Bunch
        Floats:

        - ``norm0``, ``norm1``: Frobenius norms;
        - ``relative_change``: of the difference, relative to the first kernel;
        - ``correlation``: Pearson's, over all entries;
        - ``similarity``: the cosine of the angle between the kernels;
        - ``elementwise_change``: the norm of the entries' own relative changes.

    Raises
    ------
    ValueError
        The shapes differ, are empty or have fewer than two axes, or an entry is NaN or
        infinite.

    See Also
    --------
    NTKTracker : Measures it in training.

    Notes
    -----
    With Frobenius norms, the entries' means m0 and m1, and absolute values, a product
    and a quotient taken entry by entry::

        relative_change    = ||K1 - K0|| / ||K0||
        correlation        = <K0 - m0, K1 - m1> / (||K0 - m0|| ||K1 - m1||)
        similarity         = <K0, K1> / (||K0|| ||K1||)
        elementwise_change = || |K1 - K0| / (|K0| + 0.0001) ||

    Correlation and similarity don't see the scale of a kernel, the others do. A figure
    that divides zero by zero is NaN: similarity where a kernel is zero, correlation
    where all entries of one are equal. The relative change from a zero kernel to
    another one is infinite.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.landscape import ntk_change
    >>> K = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> change = ntk_change(K, 2 * K)
    >>> round(change.relative_change, 6), round(change.similarity, 6)
    (1.0, 1.0)
    """
    K0, K1 = (_kernel(name, K) for name, K in (("K0", K0), ("K1", K1)))
    if K0.shape != K1.shape:
        raise ValueError(
            f"K0 and K1 must have the same shape, got {K0.shape} and {K1.shape}"
        )
    return kernel_change(K0, K1)


def _kernel(name, K):
    if isinstance(K, torch.Tensor):
        K = K.detach().cpu()
    try:
        K = np.asarray(K)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from error
    if K.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {K.dtype}")
    if K.ndim < 2 or not K.size:
        raise ValueError(
            f"{name} must have two axes or more and none of length 0, got shape "
            f"{K.shape}"
        )
    if not np.isfinite(K).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    return K


def kernel_change(K0, K1):
    """Do what :func:`ntk_change` does to arrays that are not checked."""
    k0, k1 = (np.asarray(K, dtype=np.float64).ravel() for K in (K0, K1))
    moved = k1 - k0
    norm0, norm1 = np.linalg.norm(k0), np.linalg.norm(k1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "norm0": norm0,
            "norm1": norm1,
            "relative_change": np.linalg.norm(moved) / norm0,
            "correlation": _cosine(_centred(k0), _centred(k1)),
            "similarity": _cosine(k0, k1),
            "elementwise_change": np.linalg.norm(moved / (abs(k0) + _FLOOR)),
        }
    return Bunch(**{name: float(value) for name, value in found.items()})


def _centred(k):
    k = k - k[0]  # equal entries leave exact zeros, not the mean's rounding
    return k - k.mean()


def _cosine(a, b):
    cosine = (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return np.clip(cosine, -1.0, 1.0)  # rounding may leave the interval


def feature_distances(module, X, *, layer=None):
    """Measure how the features that a network makes of rows lie to each other.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        What :func:`skpoison.models.as_module` takes. Not changed; measured in
        evaluation mode.
    X : array-like of shape (n_samples, ...)
        Rows as the network, or the classifier, takes them.
    layer : str, default=None
        Name of the module, as in ``named_modules()``, whose output is wanted. None is
        what enters the last linear layer, the features of the paper [1]_.

    Returns
    -------
    distances : Bunch
        Arrays of shape (n_samples, n_samples), float64: ``distance``, Euclidean;
        ``cosine`` of the angle, 0 with a row of zeros; ``inner`` products.

    Raises
    ------
    ValueError
        No such layer, or no linear layer where `layer` is None; the layer is not called
        exactly once, or returns no tensor with one entry a row.

    See Also
    --------
    skpoison.models.extract_features : The features themselves.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.landscape import feature_distances
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> net = TorchClassifier(max_epochs=1, device="cpu", random_state=0).fit(X, y)
    >>> feature_distances(net, X[:5]).cosine.shape
    (5, 5)
    """
    model = Model(module)
    network = copy.deepcopy(model.network).eval()
    parameter = next(network.parameters(), torch.zeros(()))
    rows = model.rows(X).to(parameter)
    features = _features(network, rows, layer).double().cpu().numpy()
    return Bunch(
        distance=cdist(features, features),
        cosine=cosine_similarity(features),
        inner=features @ features.T,
    )


def _features(network, rows, layer):
    """Return the features of rows, flattened; the hook stays on the network."""
    name = last_linear(network) if layer is None else layer
    modules = dict(network.named_modules())
    if name is None:
        raise ValueError(
            "the network has no linear layer, whose input would be the features; name "
            "the layer whose output is"
        )
    if name not in modules:
        known = ", ".join(repr(n) for n in modules if n)
        raise ValueError(f"layer {layer!r} is no module of the network; it has {known}")
    found = []

    def keep(part, args, output):
        # a copy: what follows may work in place
        found.append(copy.deepcopy(args[0] if layer is None else output))

    modules[name].register_forward_hook(keep)
    # a module may draw even when it predicts
    with torch.no_grad(), local_torch_seed(0, rows.device):
        network(rows)
    if len(found) != 1:
        raise ValueError(
            f"layer {name!r} must be called once, was called {len(found)} times"
        )
    (value,) = found
    if not isinstance(value, torch.Tensor) or value.shape[:1] != rows.shape[:1]:
        got = tuple(getattr(value, "shape", ())) or type(value).__name__
        raise ValueError(
            f"layer {name!r} must return a tensor with one entry a row, {len(rows)}, "
            f"got {got}"
        )
    return value.flatten(1)
