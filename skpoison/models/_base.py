"""What the classifier and the regressor share: parameters, data, the net."""

import copy
import inspect
import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.models._augment import ShiftFlip
from skpoison.models._modules import MLP, ConvNet
from skpoison.models._net import BatchIterator
from skpoison.utils import RandomStreams, local_torch_seed
from skpoison.utils._tensors import resolve_device
from skpoison.utils._validation import check_number, check_option

_PREFIXES = (
    "module__",
    "optimizer__",
    "criterion__",
    "iterator_train__",
    "iterator_valid__",
    "callbacks__",
    "dataset__",
)
_ITERATORS = ("iterator_train", "iterator_valid")
_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def _is_component(name):
    return name in _ITERATORS or name.startswith(_PREFIXES)


def _seeded(split, seed):
    """Copy a splitter so that it doesn't read NumPy's global stream."""
    if getattr(split, "random_state", 0) is None:
        split = copy.copy(split)
        split.random_state = seed
    if hasattr(split, "cv"):
        split = copy.copy(split)
        split.cv = _seeded(split.cv, seed)
    return split


class TorchEstimator(BaseEstimator):
    """Base of estimators that own a skorch net.

    A subclass lists its own parameters in ``__init__``, passes ``**params`` on to
    ``super().__init__``, and overrides one of

    - `_batch_hook`, to change each training batch or its loss,
    - `_train`, to change the training loop,
    - `_net_class`, to change the step itself,

    and extends `_check_parameters` with checks of its own.
    """

    _net_class: Any
    _output_function: Any = None

    def __init__(
        self,
        module="auto",
        *,
        criterion=None,
        optimizer="adam",
        lr=0.005,
        max_epochs=30,
        batch_size=64,
        input_shape=None,
        augment=None,
        train_split=None,
        callbacks=None,
        device="auto",
        verbose=0,
        random_state=None,
        **component_params,
    ):
        self.module = module
        self.criterion = criterion
        self.optimizer = optimizer
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.input_shape = input_shape
        self.augment = augment
        self.train_split = train_split
        self.callbacks = callbacks
        self.device = device
        self.verbose = verbose
        self.random_state = random_state
        self._component_params = component_params

    def __init_subclass__(cls, **kwargs):
        # scikit-learn reads the parameters, and repr their defaults, off the
        # signature of __init__: give a subclass that passes **params on its parent's
        super().__init_subclass__(**kwargs)
        init = cls.__dict__.get("__init__")
        if init is None:
            return
        own = list(inspect.signature(init).parameters.values())
        if own[-1].kind is not inspect.Parameter.VAR_KEYWORD:
            return
        names = {p.name for p in own}
        inherited = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(super(cls, cls).__init__).parameters.values()
            if p.name not in names and p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        init.__signature__ = inspect.Signature([*own[:-1], *inherited, own[-1]])

    def get_params(self, deep=True):
        """Get all parameters, those of components such as the module included.

        Parameters
        ----------
        deep : bool, default=True
            Also the parameters of contained estimators.

        Returns
        -------
        params : dict
        """
        return {**super().get_params(deep=deep), **self._component_params}

    def set_params(self, **params):
        """Set parameters, those of components such as ``module__hidden`` included.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : object
        """
        plain = {}
        for name, value in params.items():
            if _is_component(name) or name in self._component_params:
                self._component_params[name] = value
            else:
                plain[name] = value
        return super().set_params(**plain)

    def _check_parameters(self):
        """Raise on a bad parameter; `fit` calls it before any work."""
        unknown = [name for name in self._component_params if not _is_component(name)]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} got an unexpected parameter {unknown[0]!r}; "
                f"parameters of components start with {', '.join(_PREFIXES)}"
            )
        check_number("lr", self.lr, low=0, strict=True)
        check_number("max_epochs", self.max_epochs, low=0, integer=True)
        check_number("batch_size", self.batch_size, low=1, integer=True)
        if not callable(self.optimizer):
            check_option("optimizer", self.optimizer, _OPTIMIZERS)
        if not callable(self.criterion):
            raise TypeError(
                "criterion must be a torch loss, class or instance, got "
                f"{self.criterion!r}"
            )
        if isinstance(self.module, str):
            check_option("module", self.module, ["auto"])
        elif not callable(self.module):
            raise TypeError(
                "module must be 'auto', a torch.nn.Module class or instance, or a "
                f"callable that returns one, got {self.module!r}"
            )
        elif isinstance(self.module, torch.nn.Module):
            given = [p for p in self._component_params if p.startswith("module__")]
            if given:
                raise ValueError(
                    f"{given[0]} can't change a module instance: pass the class "
                    f"{type(self.module).__name__} as module"
                )
        if self.input_shape is not None:
            if not isinstance(self.input_shape, tuple | list):
                raise TypeError(
                    f"input_shape must be None or a tuple, got {self.input_shape!r}"
                )
            for side in self.input_shape:
                check_number("each number in input_shape", side, low=1, integer=True)
        if isinstance(self.augment, str):
            check_option("augment", self.augment, ["default"])
        elif self.augment is not None and not callable(self.augment):
            raise TypeError(
                "augment must be None, 'default' or a callable (X, generator) -> X, "
                f"got {self.augment!r}"
            )
        elif hasattr(self.augment, "validate"):
            self.augment.validate()
        if self.train_split is not None and not callable(self.train_split):
            raise TypeError(
                "train_split must be None or a callable such as skorch's "
                f"ValidSplit(5), got {self.train_split!r}"
            )

    def _validate(self, X, *y, **options):
        pixels = str(getattr(X, "dtype", "")).removeprefix("torch.") == "uint8"
        checked = validate_data(
            self, X, *y, dtype=np.float32, order="C", allow_nd=True, **options
        )
        checked = checked if y else (checked,)
        if pixels:
            np.divide(checked[0], 255, out=checked[0])  # the new type made a copy
        return checked

    def _module_input(self, X):
        """Return X validated against `fit`, float32, in the module's shape."""
        shape = getattr(X, "shape", ())
        if len(shape) > 2 or (len(shape) == 2 and len(self.input_shape_) > 1):
            # scikit-learn compares axis 1 alone, which is the channels of an image
            self._check_shape(shape[1:])
        (X,) = self._validate(X, reset=False)
        self._check_shape(X.shape[1:])
        return X.reshape(len(X), *self._module_shape())

    def _module_tensor(self, x):
        """Do the same to a tensor that needs no check; gradients go through."""
        return x.reshape(len(x), *self._module_shape())

    def _check_shape(self, shape):
        if tuple(shape) != self.input_shape_:
            raise ValueError(
                f"X has samples of shape {tuple(shape)}, but {type(self).__name__} "
                f"was fitted on samples of shape {self.input_shape_}"
            )

    def _module_shape(self):
        """Return the shape of one sample as the module takes it."""
        if self.input_shape is None:
            return self.input_shape_
        shape = tuple(self.input_shape)
        flat = (math.prod(shape),)
        if self.input_shape_ not in (shape, flat):
            raise ValueError(
                f"input_shape={shape} takes samples of that shape or rows of {flat[0]} "
                f"values, but the samples of X have shape {self.input_shape_}"
            )
        return shape

    def _augmentation(self):
        """Return what augments each training batch, or None."""
        if not isinstance(self.augment, str):
            return self.augment
        shape = self._module_shape()
        if len(shape) != 3:
            raise ValueError(
                "augment='default' moves images of shape (C, H, W), but samples have "
                f"shape {tuple(shape)}; input_shape=(C, H, W) makes images of rows"
            )
        return ShiftFlip()

    def _module_and_params(self, n_outputs):
        module, shape = self.module, self._module_shape()
        if isinstance(module, torch.nn.Module):
            return copy.deepcopy(module), {}  # never the caller's own
        if isinstance(module, str):
            module = ConvNet if len(shape) == 3 and min(shape[1:]) >= 4 else MLP
        offered = {
            "input_shape": shape,
            "n_features_in": math.prod(shape),
            "n_outputs": n_outputs,
        }
        if is_classifier(self):
            offered["n_classes"] = n_outputs
        named = inspect.signature(module).parameters
        return module, {f"module__{k}": v for k, v in offered.items() if k in named}

    def _optimizer_and_params(self):
        if not isinstance(self.optimizer, str):
            return self.optimizer, {}
        own, params = self._component_params, {}
        if self.optimizer == "sgd":
            params = {"optimizer__momentum": 0.9, "optimizer__weight_decay": 5e-4}
            damped = own.get("optimizer__dampening")
            if own.get("optimizer__momentum", 0.9) and not damped:
                params["optimizer__nesterov"] = True
        if not {"optimizer__foreach", "optimizer__differentiable"} & {*own}:
            # one kernel for all weights: a seventh off the time of a small net's step
            params["optimizer__fused"] = True
        return _OPTIMIZERS[self.optimizer], params

    def _make_net(self, n_outputs, device, streams):
        """Build and initialise the net, weights drawn from the stream "init"."""
        module, module_params = self._module_and_params(n_outputs)
        optimizer, optimizer_params = self._optimizer_and_params()
        callbacks = self.callbacks
        if isinstance(callbacks, list | tuple):
            # skorch sets attributes of callbacks: keep the caller's as they were
            callbacks = [
                (c[0], copy.copy(c[1])) if isinstance(c, list | tuple) else copy.copy(c)
                for c in callbacks
            ]
        params = {
            "iterator_train": BatchIterator,
            "iterator_valid": BatchIterator,
            **module_params,
            **optimizer_params,
            **self._component_params,
        }
        net = self._net_class(
            module,
            criterion=copy.deepcopy(self.criterion),
            optimizer=optimizer,
            lr=self.lr,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            train_split=_seeded(self.train_split, streams.seed("split")),
            callbacks=callbacks,
            device=str(device),
            verbose=self.verbose,
            predict_nonlinearity=self._output_function,
            **params,
        )
        with local_torch_seed(streams.seed("init")):
            net.initialize()
        known = {name for name, _ in net.callbacks_}
        for name, value in self._component_params.items():
            part, callback = name.split("__")[:2] if "__" in name else (name, None)
            if part == "callbacks" and value is not None and callback not in known:
                raise ValueError(
                    f"{name} names no callback; there are {', '.join(sorted(known))}"
                )
        return net

    def _batch_hook(self, streams):
        """Return what changes each training batch, or None.

        Parameters
        ----------
        streams : RandomStreams
            Of this fit; draws for a batch come from ``context.generator``.

        Returns
        -------
        hook : callable or None
            ``hook(X, T, context) -> (X, T)``: X on the device, augmented; T the
            targets, one-hot float32 for classes; context a BatchContext. X and T are
            not to be changed in place. A method ``loss(output, T)`` of the hook
            replaces the criterion.
        """
        return None

    def _train(self, net, X, y, streams):
        """Train an initialised net on encoded y, under the seed "dropout"."""
        with net.training(X, y):
            net.fit_loop(X, y)

    def _start_net(self, n_outputs):
        """Return a net that is ready to be trained, and the streams of this fit."""
        device = resolve_device(self.device)
        streams = RandomStreams(self.random_state)
        augment = self._augmentation()
        net = self._make_net(n_outputs, device, streams)
        net.start(n_outputs, streams, self._batch_hook(streams), augment)
        return net, streams

    def _fit_net(self, X, y, n_outputs):
        X = X.reshape(len(X), *self._module_shape())
        net, streams = self._start_net(n_outputs)
        try:
            with local_torch_seed(streams.seed("dropout"), net.device):
                self._train(net, X, y, streams)
        finally:
            net.finish()
        return self._keep_net(net)

    def _keep_net(self, net):
        """Make a trained net this estimator's."""
        # threads may share it, and none of them is to change its mode
        net.module_.eval()
        self.net_ = net
        self.n_iter_ = len(net.history)
        batches = net.history[-1]["batches"] if net.history else []
        if not all(math.isfinite(b.get("train_loss", 0)) for b in batches):
            warnings.warn(
                f"the training loss is not finite after {self.n_iter_} epochs; lower "
                f"lr (it is {self.lr}) or scale X",
                ConvergenceWarning,
                stacklevel=4,
            )
        return self

    def _output(self, X):
        check_is_fitted(self)
        X = self._module_input(X)
        # a module may draw even when it predicts, and so may the caller's loader
        with local_torch_seed(0, self.net_.device):
            return self.net_.predict_proba(X)

    @property
    def module_(self):
        """The trained torch module."""
        return self.net_.module_

    @property
    def history_(self):
        """What skorch recorded: one dict an epoch."""
        return self.net_.history

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
