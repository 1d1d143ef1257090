"""Training towards a low rank of layers, or towards a flat spectrum."""

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import nn

from skpoison.landscape._operators import (
    CONVOLUTIONS,
    OPERATORS,
    input_sizes,
    layer_form,
)
from skpoison.landscape._spectra import effective_rank
from skpoison.utils._validation import check_number, check_option

_THRESHOLDS = {"min": 0.5, "max": 1.5}
_EPOCHS = (15, 30, 40)
_KINDS = {
    "conv": tuple(CONVOLUTIONS.values()),
    "linear": (nn.Linear,),
    "all": (nn.Linear, *CONVOLUTIONS.values()),
}


class SpectralProjection(Callback):
    """Callback that lowers or raises the rank of layers while they train.

    Parameters
    ----------
    mode : {"min", "max"}, default="min"
        "min" sets singular values under the threshold to zero, which lowers the rank.
        "max" cuts those above it down to it, which flattens the spectrum, so that the
        effective rank rises, and bounds the operator norm.
    threshold : float, default=None
        None is as published: 0.5 for "min", 1.5 for "max" [2]_.
    at_epochs : sequence of int, default=None
        Weights are projected at the end of these epochs, counted from 1. None is none
        with a `coef`, and (15, 30, 40) without one, as published for training from
        scratch; a fine-tuning was published with (1, 5, 10) [2]_. An empty one, and no
        `coef`, only measures.
    coef : float, default=None
        Weight of the penalty on the distance to the projection, see Notes. None is no
        penalty.
    layers : {"conv", "linear", "all"}, default="conv"
        "conv" is the published one.
    operator : {"fft", "reshaped"}, default="fft"
        Whose singular values: "fft" is the convolution with circular padding on images
        of the size that the layer meets, "reshaped" the kernel as a matrix of outputs
        by the rest.
    skip_first : bool, default=True
        Leave out the layer that meets the input, of whatever kind, as published.
    n_alternations : int, default=1
        Times that an operator is projected and cut to the support of its kernel. One is
        the published number; with "max" each further one comes closer to both.
    relative : bool, default=False
        The threshold is a share of a layer's largest singular value. False is the
        published way.
    refresh : int or "epoch", default="epoch"
        With a `coef`: after how many updates the projection, a decomposition, is made
        again.

    Attributes
    ----------
    input_sizes_ : dict of str to tuple of int
        Of each layer in question: the sides of the images that it meets.
    effective_ranks_ : dict of str to float
        After each epoch: of each layer, its nuclear effective rank by the largest there
        can be.

    Raises
    ------
    TypeError, ValueError
        In `fit`, before training: a parameter out of range, no layer to project, a
        weight that is computed from others, or epochs that are never reached.

    See Also
    --------
    rank_report : Norms and ranks of a trained network.
    nuclear_norm_penalty : To be added to a loss of one's own.

    Notes
    -----
    P(W) is the weight W with its singular values changed as `mode` says. At the end of
    `at_epochs`, W becomes P(W). With a `coef` c every update adds to the gradient::

        c (W - P(W)),

    P(W) being that of the last refresh. With a refresh of 1, one alternation and no
    singular value at the threshold it is the gradient of the low-rank approximation
    penalty, c / 2 times the squared distance of W from P(W) [2]_; with "fft" the
    distance is that of the operators, by the number of output pixels, before the cut to
    the kernel. With "max" P is the projection onto a convex set.

    Each epoch ends with a decomposition of these layers, in float64 on the CPU: some
    20 s in one thread for a ResNet-18 on 32 x 32 pixels.

    For "fft" a kernel is taken to all frequencies, each matrix is decomposed, and the
    result is taken back and cut to the support of the kernel [1]_. After the cut some
    singular values pass the threshold again, except where the kernel is as large as the
    image. The history holds the mean of `effective_ranks_` as ``effective_rank``.
    Layers whose weight is frozen are measured, not changed. Layers that share a weight
    count as one, the first that is met.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta and P. M. Long. The singular values of convolutional
       layers. ICLR 2019, arXiv:1805.10408.
    .. [2] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.landscape import SpectralProjection
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> rank = SpectralProjection("max", 0.5, at_epochs=(2, 4))
    >>> clf = TorchClassifier(
    ...     input_shape=(1, 8, 8), module__channels=(8, 8), max_epochs=5,
    ...     callbacks=[("rank", rank)], device="cpu", random_state=0,
    ... )
    >>> history = clf.fit(X[:500] / 16, y[:500]).history_
    >>> shares = history[:, "effective_rank"]
    >>> shares[1] > shares[0]
    True
    """

    def __init__(
        self,
        mode="min",
        threshold=None,
        *,
        at_epochs=None,
        coef=None,
        layers="conv",
        operator="fft",
        skip_first=True,
        n_alternations=1,
        relative=False,
        refresh="epoch",
    ):
        self.mode = mode
        self.threshold = threshold
        self.at_epochs = at_epochs
        self.coef = coef
        self.layers = layers
        self.operator = operator
        self.skip_first = skip_first
        self.n_alternations = n_alternations
        self.relative = relative
        self.refresh = refresh

    def _check_parameters(self):
        check_option("mode", self.mode, _THRESHOLDS)
        check_option("layers", self.layers, _KINDS)
        check_option("operator", self.operator, OPERATORS)
        check_number("n_alternations", self.n_alternations, low=1, integer=True)
        if self.threshold is not None:
            check_number("threshold", self.threshold, low=0, strict=True)
        elif self.relative:
            raise ValueError("threshold must be given with relative=True, got None")
        if self.relative and self.threshold > 1:
            raise ValueError(
                "threshold must be at most 1 with relative=True, where it is a share "
                f"of the largest singular value, got {self.threshold!r}"
            )
        if self.coef is not None:
            check_number("coef", self.coef, low=0)
        if self.refresh != "epoch":
            check_number("refresh", self.refresh, low=1, integer=True)
        if self.at_epochs is not None:
            if isinstance(self.at_epochs, str) or not np.iterable(self.at_epochs):
                raise TypeError(
                    f"at_epochs must be None or a list of int, got {self.at_epochs!r}"
                )
            for epoch in self.at_epochs:
                check_number("each number in at_epochs", epoch, low=1, integer=True)

    def _epochs(self):
        if self.at_epochs is not None:
            return list(self.at_epochs)
        return [] if self.coef is not None else list(_EPOCHS)

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Check the parameters and find the layers."""
        self._check_parameters()
        epochs = self._epochs()
        if epochs and 0 < net.max_epochs < min(epochs):
            raise ValueError(
                f"at_epochs={tuple(epochs)} are all after the last epoch, "
                f"{net.max_epochs}: nothing would be projected"
            )
        row = torch.as_tensor(np.array(X[:1]))
        met = list(input_sizes(net.module_, row).items())
        self.input_sizes_, weights = {}, set()
        for name, size in met[int(self.skip_first) :]:
            layer = net.module_.get_submodule(name)
            # a weight that layers share is pulled once
            if (
                isinstance(layer, _KINDS[self.layers])
                and id(layer.weight) not in weights
            ):
                self.input_sizes_[name] = size
                weights.add(id(layer.weight))
        if not self.input_sizes_:
            beyond = " after the first" if self.skip_first else ""
            raise ValueError(
                f"layers={self.layers!r}: {type(net.module_).__name__} has no such "
                f"layer{beyond}"
            )
        for name, layer in self._found(net):
            if not isinstance(layer.weight, nn.Parameter):
                raise ValueError(
                    f"the weight of {name} is computed from other parameters, so that "
                    "it can't be projected"
                )
        self.effective_ranks_ = {}
        self.targets_, self.n_updates_ = {}, 0

    def _found(self, net):
        return [(name, net.module_.get_submodule(name)) for name in self.input_sizes_]

    def _projected(self, net):
        """Return {name: P(W)} of layers that train."""
        threshold = self.threshold
        return {
            name: projected(
                layer.weight,
                self._form(name, layer),
                self.mode,
                _THRESHOLDS[self.mode] if threshold is None else threshold,
                relative=self.relative,
                n_alternations=self.n_alternations,
            )
            for name, layer in self._found(net)
            if layer.weight.requires_grad
        }

    def _form(self, name, layer):
        return layer_form(layer, self.input_sizes_[name], self.operator)

    def on_epoch_begin(self, net, **kwargs):
        """Refresh the projection that the penalty pulls to."""
        if self.coef is not None and self.refresh == "epoch":
            self.targets_ = self._projected(net)

    def on_grad_computed(self, net, named_parameters, training=None, **kwargs):
        """Add the gradient of the penalty."""
        if self.coef is None or not training:
            return
        if self.refresh != "epoch":
            if self.n_updates_ % self.refresh == 0:
                self.targets_ = self._projected(net)
            self.n_updates_ += 1
        for name, target in self.targets_.items():
            weight = net.module_.get_submodule(name).weight
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - target, alpha=self.coef)

    def on_epoch_end(self, net, **kwargs):
        """Project where this epoch is one to project after, and record the ranks."""
        if net.history[-1, "epoch"] in self._epochs():
            with torch.no_grad():
                for name, weight in self._projected(net).items():
                    net.module_.get_submodule(name).weight.copy_(weight)
        for name, layer in self._found(net):
            form = self._form(name, layer)
            values = torch.linalg.svdvals(form.blocks(_double(layer.weight)))
            self.effective_ranks_[name] = effective_rank(
                values.reshape(-1, values.shape[-1]).numpy(),
                form.multiplicity().flatten().numpy(),
                normalize=True,
            )
        mean = float(np.mean(list(self.effective_ranks_.values())))
        net.history.record("effective_rank", mean)

    def on_train_end(self, net, **kwargs):
        """Drop what is only of use in training."""
        self.targets_ = {}


def _double(weight):
    return weight.detach().to("cpu", torch.float64)


def projected(weight, form, mode, threshold, *, relative=False, n_alternations=1):
    """Return a weight whose singular values are cut, in the weight's type.

    Parameters
    ----------
    weight : tensor
    form : Matrix or Circular
    mode : {"min", "max"}
    threshold : float
    relative : bool, default=False
    n_alternations : int, default=1

    Returns
    -------
    weight : tensor
    """
    found = _double(weight)
    if relative:
        threshold = threshold * float(torch.linalg.svdvals(form.blocks(found)).max())
    for _ in range(n_alternations):
        left, values, right = torch.linalg.svd(form.blocks(found), full_matrices=False)
        if mode == "max":
            values = values.clamp(max=threshold)
        else:
            values = values.where(values >= threshold, 0.0)
        found = form.weight((left * values[..., None, :]) @ right, found)
    return found.to(weight)
