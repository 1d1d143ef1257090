"""The tangent kernel of a network while it trains."""

import copy
import numbers
from itertools import pairwise

import numpy as np
import torch
from sklearn.utils import Bunch, check_array
from skorch.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from skpoison.landscape._kernel_change import kernel_change
from skpoison.landscape._ntk import empirical_ntk
from skpoison.models._net import batch_cuts
from skpoison.utils import RandomStreams, local_torch_seed
from skpoison.utils._validation import check_number, check_option

# Rows of the batch from which the released code of the paper takes its probe.
_FIRST = 128
_KEYS = ("ntk_norm", "ntk_correlation", "ntk_similarity", "ntk_step_correlation")


class NTKTracker(Callback):
    """A skorch callback that follows the empirical tangent kernel through training.

    Give it to the `callbacks` of a :class:`~skpoison.models.TorchClassifier`. The
    estimator trains a copy; after `fit` it is in ``net_.callbacks_``. Training itself
    is left as it is, bit for bit.

    Parameters
    ----------
    X_probe : array-like of shape (n_probe, ...), default=None
        Rows whose kernel is taken, as `fit` takes them (integer pixels become those of
        [0, 1], flat rows images where the estimator's do). None chooses among the rows
        given to `fit`, those that `train_split` holds out included.
    n_probe : int, default=25
        Rows to choose. 25 is the paper's.
    probe : {"stratified", "first"}, default="stratified"
        "stratified" draws as equal numbers of each class as there are (numbers of
        regression are one class). "first" takes the first rows of the first 128 sorted
        by class, as the released code does: 25 rows of ten classes then hold two or
        three of them.
    at : int or list of int, default=None
        Epochs after which to take the kernel: every so many, or these, counted from 1.
        None is 1, 2, 4, 8, ... It is taken before the first epoch and after the last
        one in any case.
    reduction : str, default=None
        Of :func:`empirical_ntk`. None is the kernel of all outputs, the paper's.
    recalibrate : bool, default=True
        Give batch normalisation the statistics of the training rows, in a copy, before
        each kernel; see the Notes. False takes the running statistics as they are.
    random_state : int, RandomState instance or Generator, default=None
        Of the choice of rows, and of the batches that recalibrate.

    Attributes
    ----------
    probe_ : ndarray of shape (n_probe, ...), dtype float32
        The rows, as the network takes them.
    initial_kernel_ : ndarray
        Before training.
    kernel_ : ndarray
        The last one.
    change_ : Bunch
        What :func:`ntk_change` tells of the two, and ``param_change``.

    See Also
    --------
    NTKWidthDisplay : Draws the change over widths.

    Notes
    -----
    The history of each epoch gets ``param_norm``, the norm of all parameters that
    training may change, and ``param_change``, relative to those it started from::

        param_change = ||theta - theta_0|| / ||theta_0||

    and at epochs with a kernel ``ntk_norm``, ``ntk_correlation`` and ``ntk_similarity``
    with the kernel before training, ``ntk_step_correlation`` with the kernel taken
    before. At other epochs these are None.

    The kernel is that of the network in evaluation mode. A network with batch
    normalisation starts with running statistics of mean 0 and variance 1, which are not
    those of its activations: in evaluation mode it is another function than the one
    that training starts from, and its kernel would seem to change when the statistics
    alone do. `recalibrate` therefore sets them to the means of those of the training
    rows' batches, which costs a forward pass over the rows for each kernel.

    Where a defense trains several times, what is kept is of the last training.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.landscape import NTKTracker
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> net = TorchClassifier(
    ...     callbacks=[("ntk", NTKTracker(n_probe=10, random_state=0))],
    ...     max_epochs=5, device="cpu", random_state=0,
    ... )
    >>> tracker = dict(net.fit(X, y).net_.callbacks_)["ntk"]
    >>> tracker.kernel_.shape
    (100, 100)
    >>> 0 < tracker.change_.correlation < 1
    True
    >>> [row["ntk_correlation"] is not None for row in net.history_]
    [True, True, False, True, True]
    """

    def __init__(
        self,
        X_probe=None,
        *,
        n_probe=25,
        probe="stratified",
        at=None,
        reduction=None,
        recalibrate=True,
        random_state=None,
    ):
        self.X_probe = X_probe
        self.n_probe = n_probe
        self.probe = probe
        self.at = at
        self.reduction = reduction
        self.recalibrate = recalibrate
        self.random_state = random_state

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Choose the probe and take the kernel before training."""
        _check_at(self.at)
        streams = RandomStreams(self.random_state)
        if self.X_probe is None:
            rows = self._choose(y, streams.numpy("probe"))
            self.probe_ = np.array(X[rows], dtype=np.float32)
        else:
            self.probe_ = _as_module_takes(self.X_probe, tuple(X.shape[1:]))
        # skorch takes all names that don't end in _ for parameters
        self._rows_ = X, streams.numpy("batches").permutation(len(X))
        named = net.module_.named_parameters()
        self._start_ = {n: p.detach().clone() for n, p in named if p.requires_grad}
        self._before_ = len(net.history)
        self._measured_ = 0
        self.kernel_ = self.initial_kernel_ = self._kernel(net)

    def on_epoch_end(self, net, **kwargs):
        """Record norms, and the kernel where it is due."""
        epoch = len(net.history) - self._before_
        for key in _KEYS:
            net.history.record(key, None)
        if _is_due(epoch, self.at):
            self._measure(net, epoch)
        else:
            self._record_parameters(net)

    def on_train_end(self, net, **kwargs):
        """Take the last kernel, where none was due."""
        epoch = len(net.history) - self._before_
        if epoch > self._measured_:
            self._measure(net, epoch)
        change = kernel_change(self.initial_kernel_, self.kernel_)
        self.change_ = Bunch(**change, param_change=self._parameters(net)[1])
        del self._rows_, self._start_, self._before_, self._measured_

    def _choose(self, y, rng):
        """Return positions of the rows to probe, grouped by class."""
        check_number("n_probe", self.n_probe, low=1, integer=True)
        check_option("probe", self.probe, ("stratified", "first"))
        n_there = len(y) if self.probe == "stratified" else min(_FIRST, len(y))
        if self.n_probe > n_there:
            raise ValueError(
                f"n_probe={self.n_probe} rows can't be taken of the {n_there} that "
                f"probe={self.probe!r} chooses from"
            )
        y = np.asarray(y)
        if self.probe == "first":
            return np.argsort(y[:_FIRST], kind="stable")[: self.n_probe]
        if y.dtype.kind == "f":
            y = np.zeros(len(y), int)
        drawn = rng.permutation(len(y))
        # the first row drawn of each class, then the second ones, ...
        turn = np.empty(len(y), int)
        for code in np.unique(y):
            own = y[drawn] == code
            turn[own] = np.arange(own.sum())
        rows = drawn[np.argsort(turn, kind="stable")[: self.n_probe]]
        return rows[np.argsort(y[rows], kind="stable")]

    def _kernel(self, net):
        # a module may draw even when it is evaluated
        with local_torch_seed(0, net.device):
            module = net.module_
            if self.recalibrate:
                module = _recalibrated(module, *self._rows_, net.batch_size, net.device)
            return empirical_ntk(
                module, self.probe_, reduction=self.reduction, device=net.device
            )

    def _measure(self, net, epoch):
        kernel = self._kernel(net)
        change = kernel_change(self.initial_kernel_, kernel)
        step = kernel_change(self.kernel_, kernel).correlation
        values = change.norm1, change.correlation, change.similarity, step
        for key, value in zip(_KEYS, values, strict=True):
            net.history.record(key, value)
        self._record_parameters(net)
        self.kernel_, self._measured_ = kernel, epoch

    def _record_parameters(self, net):
        norm, change = self._parameters(net)
        net.history.record("param_norm", norm)
        net.history.record("param_change", change)

    def _parameters(self, net):
        """Return the parameters' norm and their relative change."""
        named = dict(net.module_.named_parameters())
        start = torch.cat([p.flatten() for p in self._start_.values()])
        now = torch.cat([named[name].detach().flatten() for name in self._start_])
        wide = {"dtype": torch.float64}
        norm0, norm, moved = (
            torch.linalg.vector_norm(v, **wide) for v in (start, now, now - start)
        )
        return norm.item(), (moved / norm0).item()


def _check_at(at):
    """Raise on epochs that are neither None, an int nor a list of int."""
    if at is None:
        return
    if isinstance(at, str | bytes) or not isinstance(at, numbers.Number | list | tuple):
        raise TypeError(f"at must be None, an int or a list of int, got {at!r}")
    if not isinstance(at, list | tuple):
        check_number("at", at, low=1, integer=True)
        return
    for epoch in at:
        check_number("each epoch in at", epoch, low=1, integer=True)


def _is_due(epoch, at):
    if at is None:
        return epoch & (epoch - 1) == 0  # powers of two
    return epoch in at if isinstance(at, list | tuple) else epoch % at == 0


def _as_module_takes(X_probe, shape):
    """Return the user's rows as the estimator hands its own to the network."""
    if np.ndim(X_probe) < 2 or not len(X_probe):
        raise ValueError(
            f"X_probe must have shape (n_samples >= 1, ...), got {np.shape(X_probe)}"
        )
    pixels = str(getattr(X_probe, "dtype", "")).removeprefix("torch.") == "uint8"
    rows = check_array(
        X_probe, dtype=np.float32, order="C", allow_nd=True, copy=True,
        input_name="X_probe",
    )  # fmt: skip
    if rows.shape[1:] not in (shape, (int(np.prod(shape)),)):
        raise ValueError(
            f"X_probe has samples of shape {rows.shape[1:]}, but the network takes "
            f"{shape}"
        )
    if pixels:
        rows /= 255
    return rows.reshape(len(rows), *shape)


def _recalibrated(module, X, order, batch_size, device):
    """Return a copy whose batch normalisation has the statistics of the rows."""
    if not _layers(module):
        return module
    module = copy.deepcopy(module).eval()
    for layer in _layers(module):
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
        layer.train()
    with torch.no_grad():
        for start, stop in pairwise(batch_cuts(len(X), batch_size)):
            # shuffled, because rows may come sorted by class
            module(torch.as_tensor(X[order[start:stop]]).to(device))
    return module.eval()


def _layers(module):
    parts = module.modules()
    return [m for m in parts if isinstance(m, _BatchNorm) and m.track_running_stats]
