"""What the repairs of a trained network share: the copy, its rows, fine-tuning."""

from abc import abstractmethod
from copy import deepcopy

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from skpoison.defenses._feature_detectors import trained
from skpoison.models import TorchClassifier
from skpoison.models._features import split_network
from skpoison.models._net import batch_cuts
from skpoison.utils import RandomStreams, local_torch_seed
from skpoison.utils._validation import check_given, check_number


class RepairedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Base of classifiers that repair a copy of a network and predict as it does.

    A subclass has the parameters ``estimator``, ``finetune_epochs``, ``finetune_lr``
    and ``random_state``, and writes ``_repair(network, X, y, streams)``, which changes
    the copy: a fitted TorchClassifier, float32 rows in the shape that its module
    takes, and their labels as positions in ``network.classes_``. Checks of its own
    parameters go into ``_check_parameters``.
    """

    def fit(self, X, y):
        """Repair a copy of the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            The defender's clean rows, as the estimator takes them. An estimator that
            is not fitted is first trained on them, and then they are not known to be
            clean.
        y : array-like of shape (n_samples,)
            Their labels, which need not cover all classes of a fitted estimator.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        given = self._inner()
        _, network = split_network(given)
        if not isinstance(network, TorchClassifier):
            raise TypeError(
                "estimator must be a TorchClassifier or a pipeline that ends in one, "
                f"got {given!r}"
            )
        check_given(self, y)
        vars(self).pop("estimator_", None)  # one that is interrupted is not fitted
        streams = RandomStreams(self.random_state)
        model = trained(given, X, y, streams)
        if model is given:
            model = deepcopy(model)
        if isinstance(model, FrozenEstimator):
            model = model.estimator
        before, network = split_network(model)
        rows = network._module_input(before(X))
        codes = _encode(column_or_1d(y), network.classes_)
        check_consistent_length(rows, codes)
        if len(rows) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two rows, got n_samples = "
                f"{len(rows)}"
            )
        self._repair(network, rows, codes, streams)
        self.estimator_ = model
        return self

    def _check_parameters(self):
        check_number("finetune_epochs", self.finetune_epochs, low=0, integer=True)
        if self.finetune_lr is not None:
            check_number("finetune_lr", self.finetune_lr, low=0, strict=True)

    @abstractmethod
    def _repair(self, network, X, y, streams):
        """Change a network in place."""

    def _inner(self):
        return TorchClassifier() if self.estimator is None else self.estimator

    def predict(self, X):
        """Predict labels with the repaired estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict(X)

    def predict_proba(self, X):
        """Predict class probabilities with the repaired estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict_proba(X)

    @property
    def classes_(self):
        """Class labels of the network."""
        return self.estimator_.classes_

    @property
    def n_features_in_(self):
        """Number of features that the network was trained on."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self):
        """Names of the features, where they had names."""
        return self.estimator_.feature_names_in_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "estimator_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self._inner()).input_tags
        return tags


def _encode(y, classes):
    """Return labels as positions in `classes`, or raise naming those unknown."""
    check_classification_targets(y)
    labels, codes = np.unique(y, return_inverse=True)
    known = {label: k for k, label in enumerate(classes.tolist())}
    unknown = [label for label in labels.tolist() if label not in known]
    if unknown:
        raise ValueError(
            f"y holds {unknown}, but the network knows only the classes {list(known)}"
        )
    return np.array([known[label] for label in labels.tolist()])[codes]


def finetune(network, X, y, *, epochs, lr, streams, alter=None, after_step=None):
    """Train a fitted network on, in place, with its own optimizer started afresh.

    The step size falls to zero along a line: rows are few, and where the last steps
    are long the accuracy depends on which they were.

    Parameters
    ----------
    network : TorchClassifier
    X, y : ndarray
        Rows in the module's shape, encoded labels.
    epochs : int
    lr : float or None
        None is the network's own.
    streams : RandomStreams
    alter : callable, default=None
        ``alter(X, generator) -> X`` changes each batch.
    after_step : callable, default=None
        Called without arguments after each step.

    Notes
    -----
    The criterion and the augmentation are the network's, a defense's batch hook is
    left out: these rows are trusted.
    """
    net, augment = network.net_, network._augmentation()
    net.initialize_optimizer()  # what Adam remembers would move weights held at zero
    first = [lr or group["lr"] for group in net.optimizer_.param_groups]
    generator = streams.torch("finetune")
    rows = torch.tensor(X, device=net.device)  # a copy: X may be read-only
    labels = torch.tensor(y, device=net.device)
    cuts = batch_cuts(len(X), network.batch_size)
    left = n_steps = epochs * (len(cuts) - 1)
    with local_torch_seed(streams.seed("dropout"), net.device):
        net.module_.train()
        for _ in range(epochs):
            order = torch.randperm(len(X), generator=generator).to(net.device)
            for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
                batch = rows[order[start:stop]]
                for change in (augment, alter):
                    batch = batch if change is None else change(batch, generator)
                _scale_lr(net.optimizer_, first, left / n_steps)
                left -= 1
                net.optimizer_.zero_grad()
                loss = net.get_loss(net.infer(batch), labels[order[start:stop]])
                loss.backward()
                net.optimizer_.step()
                if after_step is not None:
                    after_step()
    _scale_lr(net.optimizer_, first, 1.0)
    net.module_.eval().zero_grad()


def _scale_lr(optimizer, first, share):
    for group, lr in zip(optimizer.param_groups, first, strict=True):
        group["lr"] = share * lr
