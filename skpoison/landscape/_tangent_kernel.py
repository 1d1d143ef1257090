"""The empirical tangent kernel as a step in front of a kernel method."""

import copy
import inspect
import math

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.landscape._ntk import METHODS, empirical_ntk
from skpoison.models import MLP, as_module
from skpoison.utils import RandomStreams, local_torch_seed
from skpoison.utils._tensors import resolve_device
from skpoison.utils._validation import check_number, check_option

_HIDDEN = (256, 256)


class TangentKernel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transformer of rows into their tangent kernel with the rows of `fit`.

    It stands in front of a kernel method with ``kernel="precomputed"``, so that kernel
    regression with the tangent kernel of any network is a pipeline that is cross
    validated on the rows themselves.

    Parameters
    ----------
    module : "auto", torch.nn.Module, class, callable or estimator, default="auto"
        The network whose kernel it is. "auto" is an
        :class:`~skpoison.models.MLP` with two hidden layers of 256 units, chosen here:
        wide enough for the kernel of one initialisation to be near that of another. A
        class or callable is called with those of ``input_shape``, ``n_features_in`` and
        ``n_outputs`` that it takes, and its weights come from `random_state`. An
        instance is copied as it is. A fitted classifier gives the kernel after
        training; wrap it in a ``FrozenEstimator``, since ``clone`` forgets a fit.
    n_outputs : int, default=1
        Outputs of a network that is made here. One is enough for kernel regression:
        with several, their kernels are summed.
    reduction : {"trace", "mean_logit"}, default="trace"
        See :func:`~skpoison.landscape.empirical_ntk`. The trace is that of the limit of
        wide networks, times the number of outputs.
    method : {"auto", "layerwise", "jacobian", "products"}, default="auto"
        See :func:`~skpoison.landscape.empirical_ntk`.
    batch_size : int, default=None
        Rows at a time; None follows from a bound on memory.
    random_state : int, RandomState, Generator or None, default=None
        Draws the weights of a network that is made here.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.

    Attributes
    ----------
    module_ : torch.nn.Module or estimator
        What the kernel is of.
    X_fit_ : ndarray of shape (n_samples, ...)
        The rows of `fit`.
    n_features_in_ : int
        ``X_fit_.shape[1]``.

    Raises
    ------
    TypeError, ValueError
        A bad parameter, or see :func:`~skpoison.landscape.empirical_ntk`.

    Notes
    -----
    With f the network, theta its weights and the trace over its outputs ::

        K(x, z) = sum_c <grad_theta f_c(x), grad_theta f_c(z)>

    Kernel ridge regression with K is ridge regression on the network linearised at its
    weights. K grows with the width and the number of layers: choose ``alpha`` or ``C``
    of the kernel method on its scale.

    X of type uint8 counts as pixels, divided by 255. The kernel has the type of X,
    float32 or else float64, whatever the type of the network.

    References
    ----------
    .. [1] A. Jacot, F. Gabriel and C. Hongler. Neural tangent kernel: convergence and
       generalization in neural networks. NeurIPS 2018, arXiv:1806.07572.
    .. [2] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein.
       Truth or backpropaganda? An empirical investigation of deep learning theory.
       ICLR 2020, arXiv:1910.00359.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn.svm import SVC
    >>> from skpoison.landscape import TangentKernel
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> kernel = TangentKernel(random_state=0, device="cpu")
    >>> clf = make_pipeline(StandardScaler(), kernel, SVC(kernel="precomputed"))
    >>> bool(cross_val_score(clf, X, y, cv=3).mean() > 0.95)
    True
    """

    def __init__(
        self,
        module="auto",
        *,
        n_outputs=1,
        reduction="trace",
        method="auto",
        batch_size=None,
        random_state=None,
        device="auto",
    ):
        self.module = module
        self.n_outputs = n_outputs
        self.reduction = reduction
        self.method = method
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device

    def fit(self, X, y=None):
        """Keep the rows, and the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Rows as the network takes them; those of a fitted classifier as it was
            fitted on.
        y : None
            Not used.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        X = self._validated(X, reset=True)
        self.module_ = self._make_module(X.shape[1:])
        self.X_fit_ = X
        return self

    def fit_transform(self, X, y=None):
        """Fit, and return the kernel of the rows with themselves.

        Half of the work of ``fit(X).transform(X)``, and exactly symmetric.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : None
            Not used.

        Returns
        -------
        K : ndarray of shape (n_samples, n_samples)
        """
        return self.fit(X)._kernel(self.X_fit_, None)

    def transform(self, X):
        """Return the kernel of rows with those of `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        K : ndarray of shape (n_samples, n_samples_fit)
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        if X.shape[1:] != self.X_fit_.shape[1:]:
            raise ValueError(
                f"X must have rows of shape {self.X_fit_.shape[1:]} as in fit, got "
                f"{X.shape[1:]}"
            )
        return self._kernel(X, self.X_fit_)

    def _check_parameters(self):
        check_number("n_outputs", self.n_outputs, low=1, integer=True)
        check_option("reduction", self.reduction, ("trace", "mean_logit"))
        check_option("method", self.method, METHODS)
        if self.batch_size is not None:
            check_number("batch_size", self.batch_size, low=1, integer=True)
        resolve_device(self.device)
        if isinstance(self.module, str):
            check_option("module", self.module, ("auto",))
        elif not callable(self.module):
            as_module(self.module)  # or raises

    def _validated(self, X, reset):
        pixels = str(getattr(X, "dtype", "")).removeprefix("torch.") == "uint8"
        kinds = [np.float64, np.float32]
        X = validate_data(
            self, X, reset=reset, dtype=kinds, order="C", allow_nd=True, copy=reset
        )
        return X / 255 if pixels else X

    def _make_module(self, shape):
        module = self.module
        if not callable(module) and not isinstance(module, str):
            return copy.deepcopy(module)
        if isinstance(module, torch.nn.Module):
            return copy.deepcopy(module)
        offered = {
            "input_shape": shape,
            "n_features_in": math.prod(shape),
            "n_outputs": self.n_outputs,
        }
        if isinstance(module, str):
            module = MLP
            offered["hidden"] = _HIDDEN
        named = inspect.signature(module).parameters
        with local_torch_seed(RandomStreams(self.random_state).seed("init")):
            made = module(**{k: v for k, v in offered.items() if k in named})
        if not isinstance(made, torch.nn.Module):
            raise TypeError(
                f"module must make a torch.nn.Module, got {type(made).__name__}"
            )
        return made

    def _kernel(self, X, X2):
        return empirical_ntk(
            self.module_,
            X,
            X2,
            reduction=self.reduction,
            method=self.method,
            batch_size=self.batch_size,
            dtype=str(self.X_fit_.dtype),
            device=self.device,
        )

    @property
    def _n_features_out(self):
        return len(self.X_fit_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
