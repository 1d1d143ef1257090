"""Scikit-learn estimators that own a skorch net."""

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets

from skpoison.models._base import TorchEstimator
from skpoison.models._net import ClassifierNet, RegressorNet, class_probabilities


class TorchClassifier(ClassifierMixin, TorchEstimator):
    """Classifier that trains a torch module, for tables and images alike.

    It behaves as scikit-learn's classifiers do: any labels, `clone`, pipelines,
    searches over the parameters of the module and the optimizer, pickling, and the
    same result for the same seed. Training is skorch's, with batches indexed in
    memory.

    Parameters
    ----------
    module : "auto", class, callable or torch.nn.Module, default="auto"
        Returns one logit a class. "auto" is :class:`ConvNet` for samples of shape
        (channels, height, width) and :class:`MLP` for all others. Those of
        ``input_shape``, ``n_features_in`` (values in a sample), ``n_classes`` and
        ``n_outputs`` that a class or callable names are filled in. An instance is
        copied in `fit`; its weights are the starting point.
    criterion : class or instance, default=torch.nn.CrossEntropyLoss
        Takes logits and class indices; with a defense that mixes labels, logits and
        class probabilities.
    optimizer : {"adam", "adamw", "sgd"} or class, default="adam"
        "sgd" has Nesterov momentum 0.9 and weight decay 5e-4, the settings of [2]_;
        the others are torch's, after [1]_.
    lr : float, default=0.005
        Step size; chosen here, with `max_epochs` and `batch_size`, on iris, wine,
        breast cancer and digits with "adam". "sgd" and deep networks need their own.
    max_epochs : int, default=30
        Passes over the data; 0 leaves the weights as they were drawn.
    batch_size : int, default=64
        Rows in a training batch.
    input_shape : tuple of int, default=None
        Reshape each row of a two-dimensional X to this before the module, so that
        image networks work after scikit-learn's transformers.
    augment : "default", callable or None, default=None
        Changes each training batch before a defense sees it: ``augment(X,
        generator)`` takes X on the device, in the module's shape, draws from the
        generator, on the CPU, and returns a tensor of X's shape, X as it was.
        "default" is :class:`ShiftFlip` with its defaults, for images. None because
        what may be moved or mirrored depends on the data.
    train_split : callable, default=None
        For example skorch's ``ValidSplit(5)``: holds rows out of training and scores
        them after each epoch. None because cross-validation happens outside.
    callbacks : list, default=None
        Callbacks of skorch, copied in `fit`; see ``net_.callbacks_`` after it. They see
        encoded labels 0, 1, ...
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one and the CPU elsewhere, decided in `fit`.
    verbose : int, default=0
        1 prints a line an epoch.
    random_state : int, RandomState, Generator or None, default=None
        Weights, order of batches, dropout and augmentation are separate streams of
        this one seed. Global streams are neither read nor advanced.
    **component_params : dict
        Parameters whose names start with ``module__``, ``optimizer__``,
        ``criterion__``, ``iterator_train__``, ``iterator_valid__``, ``callbacks__`` or
        ``dataset__``, and ``iterator_train`` and ``iterator_valid`` themselves, such
        as torch's DataLoader.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
        Length of the second axis of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only where X has column names.
    input_shape_ : tuple of int
        Shape of one sample of X.
    net_ : skorch.NeuralNet
        The trained net.
    module_ : torch.nn.Module
        Its module.
    history_ : list of dict
        Losses and scores of each epoch.
    n_iter_ : int
        Epochs run.

    Raises
    ------
    TypeError
        In `fit`: a parameter that is neither above nor a component's.
    ValueError
        In `fit`: a parameter out of range, or fewer than two classes in y.
    RuntimeError
        In `fit`: CUDA asked for by name where there is none.

    Warns
    -----
    ConvergenceWarning
        The training loss is not finite.

    See Also
    --------
    TorchRegressor : The same for numbers as targets.
    fit_together : Trains many at once.

    Notes
    -----
    An array or tensor of type uint8 holds pixels 0..255 and is divided by 255, by the
    type of each call; all other input is used as it is, in float32.

    Equal seeds give equal bits on one CPU with one number of threads, and equal
    figures within float32 tolerance across devices. Networks with dropout do not
    repeat when several fit at once in threads of one process; processes do.

    Ctrl-C during `fit` raises KeyboardInterrupt; only callbacks end training early.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba. Adam: a method for stochastic optimization. ICLR
       2015.
    .. [2] S. Zagoruyko and N. Komodakis. Wide residual networks. BMVC 2016.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> clf = TorchClassifier(max_epochs=3, device="cpu", random_state=0)
    >>> clf.fit(X / 16, y).score(X / 16, y) > 0.9
    True
    >>> clf.set_params(module__hidden=(32, 32))
    TorchClassifier(device='cpu', max_epochs=3, module__hidden=(32, 32),
                    random_state=0)
    """

    _net_class = ClassifierNet
    _output_function = staticmethod(class_probabilities)

    def __init__(
        self, module="auto", *, criterion=torch.nn.CrossEntropyLoss, **component_params
    ):
        super().__init__(module, criterion=criterion, **component_params)

    def fit(self, X, y):
        """Train a new network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            A float32 array in C order is used without a copy.
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        X, y = self._encode(X, y)
        return self._fit_net(X, y, len(self.classes_))

    def _encode(self, X, y):
        """Return X validated and y as codes of the classes found in it."""
        X, y = self._validate(X, y)
        check_classification_targets(y)
        self.input_shape_ = X.shape[1:]
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two classes in y, got one "
                f"class: {self.classes_.tolist()[0]!r}"
            )
        return X, y.astype(np.int64)

    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Samples of the shape seen in `fit`.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            float64 rows that sum to 1, in the order of `classes_`.
        """
        return self._output(X)

    def predict(self, X):
        """Predict labels; the first in `classes_` wins a tie.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Samples of the shape seen in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        best = self._output(X).argmax(axis=1)  # before classes_: it checks the fit
        return self.classes_[best]


class TorchRegressor(RegressorMixin, TorchEstimator):
    """Regressor that trains a torch module, for tables and images alike.

    See :class:`TorchClassifier`, with which it shares everything but the targets.

    Parameters
    ----------
    module : "auto", class, callable or torch.nn.Module, default="auto"
        Returns one column. Those of ``input_shape``, ``n_features_in`` and
        ``n_outputs`` that a class or callable names are filled in.
    criterion : class or instance, default=torch.nn.MSELoss
        Takes predictions and standardised targets, both of shape (n_samples,).
    optimizer : {"adam", "adamw", "sgd"} or class, default="adam"
        As in :class:`TorchClassifier`.
    lr : float, default=0.005
        Step size; the classifier's.
    max_epochs : int, default=30
        Passes over the data; 0 leaves the weights as they were drawn.
    batch_size : int, default=64
        Rows in a training batch.
    input_shape : tuple of int, default=None
        Reshape each row of a two-dimensional X to this before the module.
    augment : "default", callable or None, default=None
        As in :class:`TorchClassifier`.
    train_split : callable, default=None
        For example skorch's ``ValidSplit(5)``.
    callbacks : list, default=None
        Callbacks of skorch, copied in `fit`. They see standardised targets.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one and the CPU elsewhere, decided in `fit`.
    verbose : int, default=0
        1 prints a line an epoch.
    random_state : int, RandomState, Generator or None, default=None
        Seed of all streams; global streams are neither read nor advanced.
    **component_params : dict
        As in :class:`TorchClassifier`.

    Attributes
    ----------
    n_features_in_ : int
        Length of the second axis of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only where X has column names.
    input_shape_ : tuple of int
        Shape of one sample of X.
    net_ : skorch.NeuralNet
        The trained net.
    module_ : torch.nn.Module
        Its module; its output is in standardised units.
    history_ : list of dict
        Losses and scores of each epoch, in standardised units.
    n_iter_ : int
        Epochs run.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        In `fit`, as for :class:`TorchClassifier`.

    Warns
    -----
    ConvergenceWarning
        The training loss is not finite.

    See Also
    --------
    TorchClassifier : The same for classes as targets.

    Notes
    -----
    The network learns ``(y - mean(y)) / std(y)`` and `predict` maps back, so that one
    step size serves targets of any scale.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skpoison.models import TorchRegressor
    >>> X, y = make_regression(200, 5, random_state=0)
    >>> reg = TorchRegressor(device="cpu", random_state=0).fit(X, y)
    >>> reg.score(X, y) > 0.9
    True
    """

    _net_class = RegressorNet

    def __init__(
        self, module="auto", *, criterion=torch.nn.MSELoss, **component_params
    ):
        super().__init__(module, criterion=criterion, **component_params)

    def fit(self, X, y):
        """Train a new network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            A float32 array in C order is used without a copy.
        y : array-like of shape (n_samples,)
            Numbers.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        X, y = self._validate(X, y, y_numeric=True)
        self.input_shape_ = X.shape[1:]
        y = y.astype(np.float64)
        self._y_mean, self._y_scale = float(y.mean()), float(y.std()) or 1.0
        y = ((y - self._y_mean) / self._y_scale).astype(np.float32)
        return self._fit_net(X, y, 1)

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Samples of the shape seen in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            float64, in the units of the y of `fit`.
        """
        return self._output(X).astype(np.float64) * self._y_scale + self._y_mean
