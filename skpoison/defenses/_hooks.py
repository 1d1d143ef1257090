"""Batch hooks: what a defense does to a training batch, usable without a classifier.

A hook is called as ``hook(X, T, context)`` with a batch, soft targets and a
:class:`~skpoison.models._net.BatchContext`, and returns what the network trains on. It
changes nothing in place, draws from ``context.generator`` alone, keeps type and device,
and lets gradients through. It may have

- ``validate()``, which raises on a bad parameter,
- ``check_shape(shape)``, which raises on samples that it can't take,
- ``loss(output, T)``, which replaces the criterion,
- ``needs_module = True``: it reads ``context.module``. Attacks that craft through a
  hook build the network that it sees only where this says so.

Here are the hooks made of others; those on a batch alone are in `_plain_hooks`.
"""

import torch
from sklearn.base import BaseEstimator
from torch.nn import functional as F

from skpoison.defenses._plain_hooks import CutMix, Cutout, Mixup, Noise
from skpoison.utils._tensors import evaluating
from skpoison.utils._validation import check_number, check_option


class MaxUp(BaseEstimator):
    """Batch hook: of several augmented copies of a row the hardest one is kept.

    Parameters
    ----------
    base : callable, default=None
        The hook that makes a copy; None is ``Cutout()``.
    n_copies : int, default=4
        Copies of each row, the paper's and public implementations' number.
    warmup_epochs : int, default=5
        Epochs at the start in which the batch stays as it is, as in public
        implementations. In a context without ``epoch`` they are over.

    See Also
    --------
    MaxUpClassifier : Trains with it.

    Notes
    -----
    MaxUp minimises the mean over rows of ``max_i loss(x_i, t_i)`` over the copies i.
    The gradient of a maximum is the gradient at the copy that attains it. So the copies
    run through ``context.module`` without gradients, in evaluation mode, and only the
    chosen ones are returned, with targets of their own: the backward pass is that of
    one batch, not of ``n_copies``. The loss compared is cross entropy. Because dropout
    is off and batch normalisation at its running statistics, the choice draws and
    updates nothing.

    The copies of a row are those in its place. :class:`Mixup` puts another mixture
    there in every copy, so with it as the base the hardest of ``n_copies`` mixtures is
    kept; with the other hooks a row stays where it is.

    References
    ----------
    Gong, Ren, Ye and Liu (2020), MaxUp: a simple way to improve generalization of
    neural network training. arXiv:2002.09024.

    Examples
    --------
    >>> import torch
    >>> from skpoison.defenses import MaxUp, Noise
    >>> MaxUp(Noise(scale=0.2), n_copies=2, warmup_epochs=0).validate()
    MaxUp(base=Noise(scale=0.2), n_copies=2, warmup_epochs=0)
    """

    needs_module = True

    def __init__(self, base=None, *, n_copies=4, warmup_epochs=5):
        self.base = base
        self.n_copies = n_copies
        self.warmup_epochs = warmup_epochs

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        _check_part("base", self._base())
        check_number("n_copies", self.n_copies, low=1, integer=True)
        check_number("warmup_epochs", self.warmup_epochs, low=0, integer=True)
        return self

    def check_shape(self, shape):
        """Raise where the base can't take samples of a shape.

        Parameters
        ----------
        shape : tuple of int
        """
        check_shape(self._base(), shape)

    def _base(self):
        return Cutout() if self.base is None else self.base

    def __call__(self, X, T, context):
        """Return the hardest copy of every row.

        Parameters
        ----------
        X : tensor of shape (n, ...)
        T : tensor of shape (n, n_classes)
            Soft targets.
        context : object
            With ``module`` and ``generator``.

        Returns
        -------
        X, T : tensors of the same shapes
        """
        if getattr(context, "epoch", self.warmup_epochs) < self.warmup_epochs:
            return X, T
        base = self._base()
        copies = [base(X, T, context) for _ in range(self.n_copies)]
        Xs, Ts = (torch.stack(parts) for parts in zip(*copies, strict=True))
        with torch.no_grad(), evaluating(context.module):
            logits = context.module(Xs.flatten(0, 1))
            losses = F.cross_entropy(logits, Ts.flatten(0, 1), reduction="none")
        hardest = losses.view(len(Xs), -1).argmax(0)
        rows = torch.arange(Xs.shape[1], device=X.device)
        return Xs[hardest, rows], Ts[hardest, rows]


class Compose(BaseEstimator):
    """Batch hook: several hooks, one after the other.

    Parameters
    ----------
    hooks : list of callable
        The first sees the batch as it is, each other one what the one before made.

    See Also
    --------
    AugmentedClassifier : Takes a list of hooks.

    Examples
    --------
    >>> from skpoison.defenses import Compose, Mixup, Noise
    >>> Compose([Mixup(4, weights="uniform"), Noise("laplace")]).validate()
    Compose(hooks=[Mixup(n_mix=4, weights='uniform'),
                   Noise(distribution='laplace')])
    """

    def __init__(self, hooks):
        self.hooks = hooks

    @property
    def needs_module(self):
        """Whether one of the hooks reads ``context.module``."""
        return any(getattr(hook, "needs_module", False) for hook in self.hooks)

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        if not isinstance(self.hooks, list | tuple):
            raise TypeError(f"hooks must be a list of hooks, got {self.hooks!r}")
        for i, hook in enumerate(self.hooks):
            _check_part(f"hooks[{i}]", hook)
        return self

    def check_shape(self, shape):
        """Raise where one of the hooks can't take samples of a shape.

        Parameters
        ----------
        shape : tuple of int
        """
        for hook in self.hooks:
            check_shape(hook, shape)

    def __call__(self, X, T, context):
        """Pass one batch through all hooks.

        Parameters
        ----------
        X : tensor of shape (n, ...)
        T : tensor of shape (n, n_classes)
            Soft targets.
        context : object

        Returns
        -------
        X, T : tensors of the same shapes
        """
        for hook in self.hooks:
            X, T = hook(X, T, context)
        return X, T


NAMED_HOOKS = {
    "mixup": Mixup,
    "cutmix": CutMix,
    "cutout": Cutout,
    "noise": Noise,
    "maxup": MaxUp,
}


def make_hook(name, given):
    """Return the hook that a parameter asks for by name, as itself or in a list."""
    if isinstance(given, list | tuple):
        return Compose([make_hook(name, part) for part in given])
    if isinstance(given, str):
        return NAMED_HOOKS[check_option(name, given, NAMED_HOOKS)]()
    check_hook(name, given)
    return given


def check_hook(name, hook):
    """Raise unless a parameter is a hook with valid parameters."""
    if not callable(hook) or isinstance(hook, type):
        raise TypeError(
            f"{name} must be a batch hook, called as hook(X, T, context), got {hook!r}"
        )
    if hasattr(hook, "validate"):
        hook.validate()


def _check_part(name, hook):
    check_hook(name, hook)
    if hasattr(hook, "loss"):
        raise ValueError(
            f"{name} replaces the loss, which a hook inside another can't: {hook!r}"
        )


def check_shape(hook, shape):
    """Let a hook refuse samples of a shape, before training starts."""
    if hasattr(hook, "check_shape"):
        hook.check_shape(shape)
