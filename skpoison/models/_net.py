"""The only contact with skorch: nets, their batches, and the hook of defenses."""

import inspect
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from skorch import NeuralNet
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset, unpack_data
from skorch.utils import data_from_dataset, to_tensor
from torch.utils.data import DataLoader, Subset

# Data smaller than this moves to the GPU once, not batch by batch.
_RESIDENT_BYTES = 2**30
# Values in one batch of prediction: large enough to hide the cost of a call, small
# enough for a CPU's cache to hold what a layer makes of them.
_PREDICT_VALUES = {"cpu": 2**17, "cuda": 2**20}


@dataclass(slots=True)
class BatchContext:
    """What a batch hook may know.

    Attributes
    ----------
    module : torch.nn.Module
        The network in training. A hook that uses it leaves its mode and its
        gradients as they were.
    n_classes : int
        1 for regression.
    generator : torch.Generator
        On the CPU; the only source of random numbers of a hook.
    epoch : int
        From 0.
    step : int
        Batches before this one, from 0, over all epochs.
    """

    module: torch.nn.Module
    n_classes: int
    generator: torch.Generator
    epoch: int = 0
    step: int = 0


class StopTraining(KeyboardInterrupt):
    """A callback ended training; a real Ctrl-C stays a KeyboardInterrupt."""


def _as_tensor(array, dtype):
    with warnings.catch_warnings():
        # read-only arrays come from joblib's memory maps; batches are copies
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.as_tensor(array).to(dtype)


def batch_cuts(n_rows, batch_size, drop_last=False):
    """Return where batches begin, and where the last one ends."""
    starts = list(range(0, n_rows, batch_size))
    if drop_last and n_rows % batch_size:
        return starts
    if len(starts) > 1 and n_rows - starts[-1] == 1:
        starts.pop()
    return [*starts, n_rows]


class BatchIterator:
    """Batches cut from tensors in memory by one indexing call each.

    Parameters
    ----------
    dataset : skorch Dataset or Subset of one
    batch_size : int
        A last batch of one row joins the batch before it, because batch
        normalisation can't train on one row.
    shuffle : bool, default=False
        A new order in every epoch, drawn from `generator`.
    drop_last : bool, default=False
        Leave out the rows that don't fill a batch.
    generator : torch.Generator, default=None
    device : torch.device or str, default="cpu"
    """

    def __init__(
        self,
        dataset,
        batch_size,
        shuffle=False,
        drop_last=False,
        generator=None,
        device="cpu",
    ):
        X, y = data_from_dataset(dataset)
        self.X = _as_tensor(X, torch.float32)
        if y is None:  # prediction: skorch wants something in y's place
            y = torch.zeros(len(self.X))
        floating = torch.as_tensor(y[:0]).is_floating_point()
        self.y = _as_tensor(y, torch.float32 if floating else torch.int64)
        self.device = torch.device(device)
        if self.X.nbytes < _RESIDENT_BYTES:
            self.X, self.y = self.X.to(self.device), self.y.to(self.device)
        self.shuffle, self.generator = shuffle, generator
        self._cuts = batch_cuts(len(self.X), batch_size, drop_last)

    def __len__(self):
        return len(self._cuts) - 1

    def __iter__(self):
        order = None
        if self.shuffle:
            order = torch.randperm(len(self.X), generator=self.generator)
            order = order.to(self.X.device)
        for start, stop in zip(self._cuts[:-1], self._cuts[1:], strict=True):
            if order is None:
                # a copy: a module that works in place must not reach the caller's X
                X, y = self.X[start:stop].clone(), self.y[start:stop]
            else:
                rows = order[start:stop]
                X, y = self.X[rows], self.y[rows]
            yield X.to(self.device), y.to(self.device)


def _in_memory(dataset):
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return type(dataset) is Dataset


def class_probabilities(logits):
    """Softmax in float64, so that rows sum to 1 at that precision."""
    return torch.softmax(logits.double(), dim=-1)


class TrainingNet(NeuralNet):
    """A skorch net with fast batches, random streams, augmentation and a batch hook.

    `start` gives it a run's streams and hook, `finish` takes them away again, so
    that what is left can be pickled.
    """

    augment_: Any = None
    hook_: Any = None
    context_: Any = None
    generator_: Any = None
    share_: Any = None  # of the batches, where several processes train
    shares_batches = True
    n_outputs_ = 1

    def initialize_module(self):
        super().initialize_module()
        if not isinstance(self.module_, torch.nn.Module):
            raise TypeError(f"module must make a torch.nn.Module, got {self.module_!r}")
        return self

    def start(self, n_outputs, streams, hook, augment):
        self.n_outputs_ = n_outputs
        self.augment_ = augment
        self.generator_ = streams.torch("batches")
        self.hook_ = hook
        self.context_ = BatchContext(
            self.module_, n_outputs, streams.torch("augmentation")
        )

    def finish(self):
        self.augment_ = self.hook_ = self.context_ = self.generator_ = None
        self.share_ = None

    @contextmanager
    def training(self, X, y):
        """Around calls of `fit_loop`: a callback may end them, Ctrl-C goes through."""
        self.notify("on_train_begin", X=X, y=y)
        try:
            yield
        except StopTraining:
            pass
        self.notify("on_train_end", X=X, y=y)

    def notify(self, method_name, **kwargs):
        try:
            super().notify(method_name, **kwargs)
        except KeyboardInterrupt as error:
            # skorch's callbacks stop training by this exception, and skorch then
            # swallows a user's Ctrl-C too: a half-trained net would pass as trained
            raise StopTraining from error

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        self._set_training(True)  # once, before callbacks that may freeze a part

    def get_params_for(self, prefix):
        kwargs = super().get_params_for(prefix)
        if prefix not in ("iterator_train", "iterator_valid"):
            return kwargs
        named = inspect.signature(getattr(self, prefix)).parameters
        anything = any(p.kind == p.VAR_KEYWORD for p in named.values())

        def offer(name, value):
            if anything or name in named:
                kwargs.setdefault(name, value)

        # without a generator a DataLoader reads torch's global stream, always
        offer("generator", self.generator_ or torch.Generator())
        if prefix == "iterator_train" and not {"sampler", "batch_sampler"} & {*kwargs}:
            offer("shuffle", True)
        return kwargs

    def get_iterator(self, dataset, training=False):
        prefix = "iterator_train" if training else "iterator_valid"
        iterator = getattr(self, prefix)
        kwargs = self.get_params_for(prefix)
        kwargs.setdefault("batch_size", self.batch_size)
        if iterator is BatchIterator:
            if not _in_memory(dataset):  # the user's own, from a predefined split
                return DataLoader(dataset, **kwargs)
            kwargs["device"] = self.device
            if not training:
                kwargs["batch_size"] = self.prediction_rows(np.shape(dataset[0][0]))
        return iterator(dataset, **kwargs)

    def prediction_rows(self, shape):
        """Return the rows in a batch of prediction, for samples of a shape."""
        own = vars(self).get("iterator_valid__batch_size")
        if own is not None:
            return own
        room = _PREDICT_VALUES.get(torch.device(self.device).type, 2**17)
        return max(self.batch_size, min(4096, room // max(1, math.prod(shape))))

    def targets(self, y):
        """Return the targets that a hook sees."""
        return y

    def alter(self, X, y):
        """Return a training batch as augmentation and hook change it."""
        if self.augment_ is not None:
            X = self.augment_(X, self.context_.generator)
        if self.hook_ is not None:
            self.context_.epoch = len(self.history) - 1
            X, y = self.hook_(X, self.targets(y), self.context_)
            self.context_.step += 1
        return X, y

    def train_step_single(self, batch, **fit_params):
        if not self.module_.training:
            self._set_training(True)
        X, y = unpack_data(batch)
        if self.share_ is not None:
            X, y = self.share_.take(X, y)
        X, y = self.alter(to_tensor(X, self.device), to_tensor(y, self.device))
        loss_function: Any = getattr(self.hook_, "loss", self.get_loss)
        out = self.infer(X, **fit_params)
        loss = loss_function(out, y)
        loss.backward()
        if self.share_ is not None:
            loss = self.share_.combine(self, loss)
        return {"loss": loss, "y_pred": out}

    def infer(self, x, **fit_params):
        out = super().infer(x, **fit_params)
        shape = getattr(out, "shape", None)
        if shape is None or len(shape) != 2 or shape[1] != self.n_outputs_:
            got = type(out).__name__ if shape is None else tuple(shape)
            raise ValueError(
                f"the module must return a tensor of shape (n_samples, "
                f"{self.n_outputs_}), got {got} for a batch of {len(x)} samples"
            )
        return out


class ClassifierNet(ClassifierMixin, TrainingNet):
    """Logits, integer targets, one-hot targets for hooks."""

    @property
    def classes_(self):
        return np.arange(self.n_outputs_)

    @property
    def _default_callbacks(self):
        accuracy = EpochScoring("accuracy", name="valid_acc", lower_is_better=False)
        *others, print_log = super()._default_callbacks
        return [*others, ("valid_acc", accuracy), print_log]

    def targets(self, y):
        # F.one_hot looks at the values first, for which a GPU has to wait
        zeros = torch.zeros((len(y), self.n_outputs_), device=y.device)
        return zeros.scatter_(1, y[:, None], 1.0)

    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)


class SubsetNet(ClassifierNet):
    """A net that trains on the rows named in `rows_`; held-out rows stay the same.

    `split` asks `train_split` once for a whole training. Where skorch asks at every
    call of `fit_loop`, a row held out before a call could be trained on after it.
    """

    rows_: Any = None
    valid_: Any = None

    def split(self, X, y):
        """Set `rows_` to the rows that are not held out, in order, and return them."""
        train, self.valid_ = super().get_split_datasets(X, y)
        held_in = isinstance(train, Subset)
        self.rows_ = np.sort(train.indices) if held_in else np.arange(len(X))
        return self.rows_

    def get_split_datasets(self, X, y=None, **fit_params):
        return Subset(self.get_dataset(X, y), self.rows_), self.valid_

    def finish(self):
        super().finish()
        self.rows_ = self.valid_ = None


class RegressorNet(RegressorMixin, TrainingNet):
    """One output a sample, as a vector."""

    def infer(self, x, **fit_params):
        return super().infer(x, **fit_params).squeeze(1)
