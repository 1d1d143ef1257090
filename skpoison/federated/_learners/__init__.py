"""Models as flat vectors of weights, and how one client trains them."""

import inspect

from skpoison.federated._learners._base import Learner
from skpoison.federated._learners._sklearn import SklearnLearner
from skpoison.federated._learners._softmax import SoftmaxLearner

__all__ = ["Learner", "SklearnLearner", "SoftmaxLearner", "make_learner"]


def make_learner(estimator, sample_shape, n_classes, *, dtype, device, seed):
    """Return the learner for what a user passes as ``estimator``.

    Parameters
    ----------
    estimator : None, torch module, skorch classifier or scikit-learn classifier
    sample_shape : tuple of int
    n_classes : int
    dtype : numpy dtype
    device : str or torch.device
        For modules.
    seed : int
        Of the initial weights.
    """
    n_features = 1
    for side in sample_shape:
        n_features *= side
    if estimator is None:
        return SoftmaxLearner(n_features, n_classes, dtype)
    is_sklearn = hasattr(estimator, "partial_fit") or hasattr(estimator, "fit")
    is_skorch = hasattr(estimator, "module") and hasattr(estimator, "get_params")
    if is_sklearn and not is_skorch and not inspect.isclass(estimator):
        return SklearnLearner(estimator, n_features, n_classes, dtype)
    if not callable(estimator) and not is_skorch:
        raise TypeError(
            "estimator must be None, a torch module, a skorch classifier or a linear "
            f"classifier with partial_fit, got {estimator!r}"
        )
    from skpoison.federated._learners._torch import TorchLearner, make_module
    from skpoison.utils._tensors import resolve_device

    module, sample_shape = make_module(estimator, sample_shape, n_classes, seed)
    device = resolve_device(device)
    return TorchLearner(module, sample_shape, n_classes, dtype, device)
