"""What a layer of a trained network makes of rows."""

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skpoison.models._base import TorchEstimator
from skpoison.models._net import batch_cuts
from skpoison.utils import local_torch_seed

_PART_VALUES = 2**21  # of X that are prepared for the network at a time


def last_linear(module):
    """Return the name of a module's last linear layer, None where there is none."""
    names = [n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
    return names[-1] if names else None


def split_network(estimator):
    """Take a fitted estimator apart into what comes before its network, and that.

    Parameters
    ----------
    estimator : estimator
        A network, a pipeline that ends in one, or a FrozenEstimator around either.

    Returns
    -------
    before : callable
        Maps rows to what the network takes.
    network : TorchClassifier, TorchRegressor or None
        None where the estimator ends in something else.
    """
    if isinstance(estimator, FrozenEstimator):
        return split_network(estimator.estimator)
    if hasattr(estimator, "steps"):
        _, network = split_network(estimator.steps[-1][1])
        return (estimator[:-1].transform if len(estimator) > 1 else _same), network
    return _same, estimator if isinstance(estimator, TorchEstimator) else None


def _same(X):
    return X


def check_network(estimator):
    """Check that an estimator, fitted or not, ends in a network."""
    if split_network(estimator)[1] is None:
        raise TypeError(
            "estimator must be a TorchClassifier, a TorchRegressor or a pipeline that "
            f"ends in one, got {estimator!r}"
        )


def _parts(X, network):
    """Iterate over rows of X that are prepared at a time, whole batches of them.

    An array on disk, or of pixels, would come into memory as a whole otherwise.
    """
    if not isinstance(X, np.ndarray) or X.size <= _PART_VALUES:
        yield X
        return
    batch = network.net_.prediction_rows(network._module_shape())
    n_batches = max(1, _PART_VALUES * len(X) // X.size // batch)
    cuts = batch_cuts(len(X), n_batches * batch)
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        yield X[start:stop]


def extract_features(estimator, X, layer=None):
    """Return the features that a trained network computes of rows.

    Parameters
    ----------
    estimator : TorchClassifier, TorchRegressor or pipeline that ends in one
        Fitted, alone or in a ``FrozenEstimator``.
    X : array-like of shape (n_samples, ...)
        Rows as the estimator takes them.
    layer : str, default=None
        Name of the module, as in ``estimator.module_.named_modules()``, whose output
        is wanted. None is what enters the last linear layer: the penultimate
        features.

    Returns
    -------
    features : ndarray of shape (n_samples, n_features), dtype float32
        Flattened; without dropout, in the statistics that batch normalisation kept.

    Raises
    ------
    TypeError
        The estimator holds no network.
    ValueError
        No such layer, or no linear layer where `layer` is None; the layer is not called
        once a batch, or returns no tensor.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.models import TorchClassifier, extract_features
    >>> X, y = load_digits(return_X_y=True)
    >>> net = TorchClassifier(max_epochs=1, device="cpu", random_state=0).fit(X, y)
    >>> extract_features(net, X).shape
    (1797, 64)
    >>> extract_features(net, X, "layers.2").shape
    (1797, 10)
    """
    check_network(estimator)
    before, network = split_network(estimator)
    check_is_fitted(network)
    module = network.module_
    modules = dict(module.named_modules())
    name = last_linear(module) if layer is None else layer
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
        value = args[0] if layer is None else output
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"layer {name!r} returns no tensor, but {type(value)}")
        found.append(value.detach().flatten(1).float().cpu().numpy())

    hook, n_rows = modules[name].register_forward_hook(keep), 0
    try:
        # a module may draw even when it predicts, and so may the caller's loader
        with local_torch_seed(0, network.net_.device):
            for part in _parts(X, network):
                part = network._module_input(before(part))
                n_rows += len(network.net_.predict_proba(part))
    finally:
        hook.remove()
    if sum(map(len, found)) != n_rows:
        raise ValueError(
            f"layer {name!r} makes {sum(map(len, found))} outputs of {n_rows} rows: it "
            "must be called once a batch"
        )
    return np.concatenate(found)
