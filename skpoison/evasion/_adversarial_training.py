"""Training on rows that an attack moves."""

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch

from skpoison.evasion._base import BaseEvasion
from skpoison.evasion._draws import GeneratorDraws
from skpoison.evasion._fgsm import FGSM
from skpoison.evasion._momentum import MomentumPGD
from skpoison.evasion._pgd import PGD
from skpoison.evasion._region import Region
from skpoison.evasion._search import ascend
from skpoison.evasion._steps import direction
from skpoison.evasion._witchcraft import WITCHcraft
from skpoison.models import TorchClassifier
from skpoison.models._net import ClassifierNet
from skpoison.utils._tensors import evaluating
from skpoison.utils._validation import (
    bounds_pair,
    check_number,
    check_option,
    warn_unit,
)

_ATTACKS = {"witchcraft": WITCHcraft, "pgd": PGD, "momentum": MomentumPGD}
_NAMES = (*_ATTACKS, "fgsm", "fast", "free")
#: Step size of "fast" in units of eps, as published.
_FAST_STEP = 1.25


class _Hook:
    """Batch hook: rows are moved until the network misreads them, or as far as it goes.

    Parameters
    ----------
    attack : BaseEvasion
    bounds : (low, high) arrays that broadcast to one row
    warmup, clean_weight : float
    """

    needs_module = True
    #: Times that each batch is trained on.
    n_replays = 1
    # The net gives these when training starts: batches in all, and what to minimise.
    n_steps = 1
    criterion: Any = None

    def __init__(self, attack, bounds, warmup, clean_weight):
        self.attack = attack
        self.bounds = bounds
        self.warmup = warmup
        self.clean_weight = clean_weight
        if clean_weight:
            self.loss = self._mixed_loss

    def __call__(self, X, T, context):
        """Return what the network trains on."""
        share = (context.step + 1) / max(1.0, self.warmup * self.n_steps)
        attack = _scaled(self.attack, min(1.0, share))
        with evaluating(context.module):
            X, moved = self.move(X, T.argmax(1), attack, context)
        if self.clean_weight:
            return torch.cat([X, moved]), torch.cat([T, T])
        return moved, T

    def region(self, X, attack):
        """Return what rows may become."""
        low, high = (torch.as_tensor(end, device=X.device) for end in self.bounds)
        return Region(X, attack.eps, low, high, attack.norm)

    def move(self, X, labels, attack, context):
        """Return the rows, and where the attack takes them."""
        plan = attack._plan(attack.eps, X.shape[1:])
        moved = ascend(
            context.module,
            X,
            labels,
            self.region(X, attack),
            plan["rule"],
            GeneratorDraws(context.generator),
            loss=attack.loss,
            max_iter=plan["max_iter"],
            random_start=plan["random_start"],
        )
        return X, moved

    def _mixed_loss(self, output, T):
        clean, moved = map(self.criterion, output.chunk(2), T.chunk(2))
        return self.clean_weight * clean + (1 - self.clean_weight) * moved


class _FreeHook(_Hook):
    """Batch hook: the backward pass of each update moves the rows of the next one."""

    def __init__(self, attack, *params):
        super().__init__(attack, *params)
        self.n_replays = attack.max_iter
        self.n_calls = 0
        self.rows = self.moved = None

    def move(self, X, labels, attack, context):
        """Return the rows, and where the last backward pass takes them."""
        if self.n_calls % self.n_replays:
            X = self.rows  # as they were augmented for the first time
        self.n_calls += 1
        start = X.clone()
        if self.moved is not None:
            step = direction(self.moved.grad, attack.norm) * attack.step_size
            delta = self.moved.detach() - self.rows + step
            n = min(len(delta), len(X))  # the last batch of an epoch may be smaller
            start[:n] += delta[:n]
        self.rows = X
        self.moved = self.region(X, attack).project(start).requires_grad_()
        return X, self.moved.clone()  # a first layer may work in place


def _scaled(attack, share):
    """Return an attack with a share of its radius and of its step size."""
    attack = copy.copy(attack)
    attack.eps = share * np.asarray(attack.eps, dtype=float)
    step_size = getattr(attack, "step_size", None)
    if isinstance(step_size, tuple | list):
        attack.step_size = tuple(share * np.asarray(end) for end in step_size)
    elif step_size is not None:
        attack.step_size = share * np.asarray(step_size)
    return attack


class _Net(ClassifierNet):
    """A net that trains on each batch as often as its hook says."""

    def get_iterator(self, dataset, training=False):
        iterator = super().get_iterator(dataset, training=training)
        if training:
            hook = self.hook_
            hook.n_steps = len(iterator) * self.max_epochs * hook.n_replays
            hook.criterion = self.get_loss
        return iterator

    def train_step(self, batch, **fit_params):
        for _ in range(self.hook_.n_replays):
            step = super().train_step(batch, **fit_params)
        return step


class AdversarialClassifier(TorchClassifier):
    """Neural classifier trained on rows that an attack moves, so that it withstands it.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    attack : str or evasion attack, default="witchcraft"
        What moves each batch before an update:

        - "witchcraft", "pgd", "momentum", "fgsm": the steps of
          :class:`WITCHcraft`, :class:`PGD`, :class:`MomentumPGD`, :class:`FGSM` against
          the network as it is, with the parameters below [1]_ [4]_;
        - "fast": one step of 1.25 `eps` from a random start [2]_;
        - "free": every batch is trained on `max_iter` times, and the backward pass of
          each update also moves its rows, by a step of `eps` [3]_;
        - an attack: its own `eps`, `norm`, `bounds`, `max_iter`, `step_size`, start and
          loss hold instead of those below, and are reached as ``attack__eps``. Its
          surrogate, targets and restarts are not used.
    eps : float or array, default=0.1
        Radius in the unit of X; an array broadcasts to one sample. uint8 images are
        divided by 255 before: 8/255 is what it is in [0, 1].
    norm : {"linf", "l2"}, default="linf"
    bounds : (low, high) or None, default=(0, 1)
        Box that no value leaves, in the unit of X; values of X outside it stay, or move
        inwards. None is no box; it is what standardised X takes, with an `eps` in its
        unit.
    max_iter : int, default=7
        Steps of the attack in each batch, as published for CIFAR-10 [1]_; of "free"
        the updates in a row on each batch. "fgsm" and "fast" make one.
    step_size : float, (low, high) or None, default=None
        Of the attack. None is the attack's default.
    warmup : float, default=0.4
        Share of all updates in which the radius, and a given step size, grow linearly
        from 0. Without it small networks on 4,000 images of MNIST at ``eps=0.3`` only
        learnt to answer one class; with it they came to an accuracy of 0.91.
    clean_weight : float in [0, 1), default=0.0
        Weight of the loss of the rows as they are; that of the moved rows has the rest.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    TypeError, ValueError
        In `fit`: a parameter out of range, an `eps` or `bounds` that doesn't fit a
        sample, or a network whose scores become NaN, as with a large `lr`.

    Warns
    -----
    UserWarning
        X lies outside `bounds`, or `eps` exceeds the range of X: they are in another
        unit than X.

    See Also
    --------
    robust_accuracy : Scores it.
    skpoison.defenses.AdversarialPoisonClassifier : Trains against poisons.

    Notes
    -----
    With :math:`B` the ball of radius `eps` around a row, within the box, and
    :math:`w` the `clean_weight`, training minimises the mean over rows of

    .. math:: w\\, \\ell(f(x), y) + (1 - w) \\max_{x' \\in B(x)} \\ell(f(x'), y),

    the maximum being what the attack reaches in its last step. It crafts in evaluation
    mode, and moves neither the network's gradients nor its buffers; "free" has no
    crafting, and moves rows by the gradient of the training pass itself.

    An update costs `max_iter` forward and backward passes besides its own, "fgsm" and
    "fast" one, "free" none. "free" makes ``ceil(max_epochs / max_iter)`` epochs, so
    that there are as many updates as in plain training, or a few more; `n_iter_` is
    the number of these epochs.

    Score it by :func:`robust_accuracy` on rows not trained on, with another attack than
    it was trained with, or more steps. "fast" can fail in the middle of a long
    training: the network then withstands the one step alone, and robust accuracy falls
    to zero.

    References
    ----------
    .. [1] A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu. Towards deep
       learning models resistant to adversarial attacks. ICLR 2018.
    .. [2] E. Wong, L. Rice and J. Z. Kolter. Fast is better than free: revisiting
       adversarial training. ICLR 2020.
    .. [3] A. Shafahi, M. Najibi, A. Ghiasi, Z. Xu, J. Dickerson, C. Studer, L. S.
       Davis, G. Taylor and T. Goldstein. Adversarial training for free! NeurIPS 2019.
    .. [4] P.-Y. Chiang, J. Geiping, M. Goldblum, T. Goldstein, R. Ni, S. Reich and
       A. Shafahi. WITCHcraft: efficient PGD attacks with random step size.
       arXiv:1911.07989.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.evasion import PGD, AdversarialClassifier, robust_accuracy
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> params = {"max_epochs": 10, "device": "cpu", "random_state": 0}
    >>> plain = TorchClassifier(**params).fit(X[:1000], y[:1000])
    >>> robust = AdversarialClassifier(max_iter=3, **params).fit(X[:1000], y[:1000])
    >>> attack = PGD(eps=0.1, bounds=(0, 1), random_state=0)
    >>> gain = robust_accuracy(robust, X[1000:], y[1000:], attack=attack)
    >>> gain -= robust_accuracy(plain, X[1000:], y[1000:], attack=attack)
    >>> gain > 0.1
    True
    """

    _net_class = _Net

    def __init__(
        self,
        module="auto",
        *,
        attack="witchcraft",
        eps=0.1,
        norm="linf",
        bounds=(0, 1),
        max_iter=7,
        step_size=None,
        warmup=0.4,
        clean_weight=0.0,
        **params,
    ):
        super().__init__(module, **params)
        self.attack = attack
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.max_iter = max_iter
        self.step_size = step_size
        self.warmup = warmup
        self.clean_weight = clean_weight

    def _attack(self):
        """Return the attack that the parameters describe."""
        if isinstance(self.attack, BaseEvasion):
            return self.attack
        check_option("attack", self.attack, _NAMES)
        ball = {"eps": self.eps, "norm": self.norm, "bounds": self.bounds}
        if self.attack == "fgsm":
            return FGSM(**ball)
        steps = {"max_iter": self.max_iter, "step_size": self.step_size}
        if self.attack in _ATTACKS:
            return _ATTACKS[self.attack](**ball, **steps)
        if self.attack == "fast":
            steps["max_iter"] = 1
        if self.step_size is None:
            factor = _FAST_STEP if self.attack == "fast" else 1.0
            steps["step_size"] = factor * np.asarray(self.eps, dtype=float)
        return PGD(**ball, **steps)

    def _check_parameters(self):
        super()._check_parameters()
        check_number("warmup", self.warmup, low=0, high=1)
        check_number("clean_weight", self.clean_weight, low=0, high=1)
        if self.clean_weight == 1:
            raise ValueError("clean_weight must be < 1, got 1: nothing would be moved")

    def _batch_hook(self, streams):
        attack, shape = self._attack(), self._module_shape()
        attack._checked(shape)
        bounds = (-np.inf, np.inf)
        if attack.bounds is not None:
            if isinstance(attack.bounds, str):  # a batch doesn't show the data's range
                raise ValueError(
                    f"bounds must be None or a pair (low, high), got {attack.bounds!r}"
                )
            bounds = bounds_pair(attack.bounds, shape, others="None")
        is_free = isinstance(self.attack, str) and self.attack == "free"
        hook = _FreeHook if is_free else _Hook
        return hook(attack, bounds, self.warmup, self.clean_weight)

    def _train(self, net, X, y, streams):
        low, high = (np.asarray(end, dtype=np.float32) for end in net.hook_.bounds)
        slack = 1e-6 * np.where(np.isfinite(high - low), high - low, 0.0)
        if (X < low - slack).any() or (X > high + slack).any():
            warnings.warn(
                f"X lies outside bounds={net.hook_.attack.bounds!r}: its values span "
                f"[{X.min():g}, {X.max():g}]; give bounds and eps in the unit of X",
                UserWarning,
                stacklevel=4,
            )
        warn_unit(net.hook_.attack.eps, X)
        net.max_epochs = math.ceil(net.max_epochs / net.hook_.n_replays)
        super()._train(net, X, y, streams)
