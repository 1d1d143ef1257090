"""Training on batches that poison themselves: the hook and its classifier."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skpoison.attacks._craft._sets import DEFAULT_EPS, Ball
from skpoison.defenses._adversarial_modes import MODES, ON_IMAGES, Crafting, Parts
from skpoison.defenses._augmentation import _HookClassifier
from skpoison.defenses._plain_hooks import check_images
from skpoison.utils._validation import (
    bounds_pair,
    check_eps,
    check_number,
    check_option,
)

#: What adversarial training is used with, as a share of the range.
_EVASION_EPS = 8 / 255


@dataclass
class _Limits:
    """How far rows may move: arrays that broadcast to one row."""

    eps: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, attack, eps, bounds, shape):
        """Check the parameters against the shape of one row."""
        if attack in ON_IMAGES:
            check_images(f"attack={attack!r}", shape)
        if bounds is None:
            low, high = np.asarray(-np.inf), np.asarray(np.inf)
        else:
            if isinstance(bounds, str):  # a batch doesn't show the range of the data
                raise ValueError(
                    f"bounds must be None or a pair (low, high), got {bounds!r}"
                )
            low, high = bounds_pair(bounds, shape, others="None")
            if not np.isfinite(high - low).all():
                raise ValueError(f"bounds must be finite or None, got {bounds!r}")
        limits = cls(np.zeros(()), low, high)
        if eps is None:
            share = _EVASION_EPS if attack == "evasion" else DEFAULT_EPS
            limits.eps = share * limits.spread
        else:
            limits.eps = check_eps(eps, shape)
            if not np.isfinite(limits.eps).all():
                raise ValueError(f"eps must be finite, got {eps!r}")
        return limits

    @property
    def spread(self):
        """The range of each feature, 1 where there is no box."""
        spread = self.high - self.low
        return np.where(np.isfinite(spread), spread, 1.0)

    @property
    def share(self):
        """The radius as a share of the range."""
        return self.eps / np.where(self.spread > 0, self.spread, 1.0)

    def ball(self, x):
        """Return what rows may move in; one outside the box moves no further out."""
        eps, low, high = (_like(x, a) for a in (self.eps, self.low, self.high))
        low, high = torch.minimum(low, x), torch.maximum(high, x)
        return Ball(x, eps, low, high, "linf", x.ndim - 1, 1.0)

    def pixels(self, X):
        """Return dark and bright values: the box, or the batch's own extremes."""
        if np.isfinite(self.low).all():
            return _like(X, self.low), _like(X, self.high)
        axes = (0, *range(2, X.ndim))  # of each channel or column
        return X.amin(axes, keepdim=True), X.amax(axes, keepdim=True)


def _like(x, array):
    return torch.as_tensor(np.asarray(array), dtype=x.dtype, device=x.device)


class AdversarialPoison(BaseEstimator):
    """Batch hook: a part of the batch is poisoned against the rest of it.

    The network learns to give the right labels to rows that are aimed at, and so to
    ignore what poisons of this kind carry.

    Parameters
    ----------
    attack : str, default="gradient_matching"
        What the poison part is made of, see Notes. "gradient_matching",
        "gradient_distance", "feature_collision", "metapoison" and "hidden_trigger"
        are crafted against the network as it is; "patch" is drawn and the one to take
        against backdoors; "watermark", "random_normal", "random_laplace" and
        "random_bernoulli" are cheap controls; "evasion" is ordinary adversarial
        training.
    eps : float or array, default=None
        Radius of each perturbation in the unit of X; an array broadcasts to one
        sample. None is 16/255 of the range of `bounds`, the radius of the attacks on
        images, and 8/255 of it for "evasion". "patch" has no radius.
    max_iter : int, default=5
        Crafting steps in each batch; the cost of crafted attacks is proportional to
        it. 5 as published.
    poison_fraction : float, default=0.5
        Share of the batch that is poisoned, rounded, with at least one row in each
        part; "evasion" poisons all rows. 0.5 serves both parts alike.
    step_size : float, default=0.1
        Of a crafting step, in units of `eps`; as published.
    init : {"randn", "uniform", "zero"}, default="randn"
        Start of crafted perturbations, in units of `eps`, cut to it.
    recombine : bool, default=True
        Whether the targets are trained on too, with their true labels. False leaves
        the poison part alone.
    bounds : (low, high) or None, default=(0, 1)
        Box that no value leaves: numbers, or arrays that broadcast to one sample.
        Values of X outside it stay or move inwards. None is no box, and a range of 1.

    See Also
    --------
    AdversarialPoisonClassifier : Trains with it.
    skpoison.attacks.Adaptation : Crafts against victims that train with it.

    Notes
    -----
    `eps` and `bounds` are in the unit of X as the network sees it: for standardised
    X give both in standard deviations, for each channel or feature where they differ;
    uint8 images reach the hook divided by 255.

    The batch is cut at random into poisons :math:`(x_i, y_i)` and targets
    :math:`(t_j, l_j)`. With :math:`y_f` the most frequent of the :math:`y_i`, in
    evaluation mode, `max_iter` steps of Adam on the sign of the gradient minimise
    within the ball and the box

    ================= ==================================================================
    gradient_matching :math:`1 - \\cos(g_p, g_t)`, :math:`g_p = \\nabla_\\theta \\frac1n
                      \\sum_i CE(f(x_i + \\delta_i), y_i)`, :math:`g_t = \\nabla_\\theta
                      \\frac1m \\sum_j CE(f(t_j), y_f)`
    gradient_distance :math:`\\|g_p - g_t\\|^2 / (2 \\|g_t\\|)`
    feature_collision the distance of the mean features of poisons and of targets
    metapoison        CE of the targets with :math:`y_f`, the mean after one and two
                      steps of gradient descent on the poisons at rate 0.1
    hidden_trigger    the squared distance of features to those of targets that show a
                      random patch, paired nearest first in every step; the targets are
                      trained on with the patch
    evasion           :math:`-CE(f(x_i + \\delta_i), y_i)`, for all rows
    ================= ==================================================================

    "patch" draws a patch for each class: sides of 0.1 to 0.4 of the image, a share of
    bright values that is uniform on [0, 1], a place of its own on every image. Poisons
    show the patch of their class, targets that of another class, by a permutation
    without fixed points that is drawn for the batch. A flat row counts as an image of
    one row: its patch is an interval of columns. "watermark" moves each row towards a
    target, by the share of the range that `eps` is; the others add noise.

    Rows keep their places and their labels. A batch of one row passes unchanged.

    References
    ----------
    .. [1] J. Geiping, L. Fowl, G. Somepalli, M. Goldblum, M. Moeller and T. Goldstein.
       What doesn't kill you makes you robust(er): how to adversarially train against
       data poisoning. arXiv:2102.13624.
    .. [2] A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu. Towards deep
       learning models resistant to adversarial attacks. ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> from skpoison.defenses import AdversarialPoison
    >>> from skpoison.models._net import BatchContext
    >>> net = torch.nn.Linear(4, 2)
    >>> context = BatchContext(net, 2, torch.Generator().manual_seed(0))
    >>> X, T = torch.rand(6, 4), torch.eye(2).repeat(3, 1)
    >>> poisoned, targets = AdversarialPoison(eps=0.1)(X, T, context)
    >>> poisoned.shape, bool(targets.sum() == 6)
    (torch.Size([6, 4]), True)
    """

    #: Of hooks that look at ``context.module``: it must be the network alone.
    needs_module = True

    def __init__(
        self,
        attack="gradient_matching",
        *,
        eps=None,
        max_iter=5,
        poison_fraction=0.5,
        step_size=0.1,
        init="randn",
        recombine=True,
        bounds=(0, 1),
    ):
        self.attack = attack
        self.eps = eps
        self.max_iter = max_iter
        self.poison_fraction = poison_fraction
        self.step_size = step_size
        self.init = init
        self.recombine = recombine
        self.bounds = bounds

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        check_option("attack", self.attack, MODES)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number(
            "poison_fraction", self.poison_fraction, low=0, high=1, strict=True
        )
        check_number("step_size", self.step_size, low=0, strict=True)
        check_option("init", self.init, ["randn", "uniform", "zero"])
        if not isinstance(self.recombine, bool | np.bool_):
            raise TypeError(f"recombine must be a bool, got {self.recombine!r}")
        return self

    def check_shape(self, shape):
        """Raise on samples that `attack`, `eps` or `bounds` don't fit.

        Parameters
        ----------
        shape : tuple of int
            Of one sample as the network takes it.
        """
        self._limits(shape)

    def _limits(self, shape):
        return _Limits.of(self.attack, self.eps, self.bounds, shape)

    def __call__(self, X, T, context):
        """Poison one batch.

        Parameters
        ----------
        X : tensor of shape (n, ...)
        T : tensor of shape (n, n_classes)
            Soft targets; the largest of a row is its label.
        context : object
            Its ``generator``, a CPU torch.Generator, makes every draw; its ``module``
            is what is crafted against and stays as it is.

        Returns
        -------
        X, T : tensors of shapes (m, ...) and (m, n_classes)
            All rows in their places, or the poison part alone: m is n where
            ``recombine`` is true.
        """
        limits = self._limits(X.shape[1:])
        n_poisons = self._n_poisons(len(X))
        if len(X) < 2 or (n_poisons < 2 and not self.recombine):
            return X, T  # batch normalisation can't train on one row
        order = torch.randperm(len(X), generator=context.generator).to(X.device)
        low, high = limits.pixels(X.detach())
        images, labels = X[order], T.argmax(1)[order]
        if self.attack in ON_IMAGES and X.ndim == 2:
            images = images[:, None, None]
        parts = Parts(
            x=images[:n_poisons],
            labels=labels[:n_poisons],
            targets=images[n_poisons:],
            target_labels=labels[n_poisons:],
            ball=limits.ball(images[:n_poisons].detach()),
            share=_like(X, limits.share),
            low=low,
            high=high,
            n_classes=T.shape[1],
            generator=context.generator,
        )
        crafting = Crafting(
            context.module, X.shape[1:], self.max_iter, self.step_size, self.init
        )
        poisons, targets = MODES[self.attack](parts, crafting)
        if not self.recombine:
            return poisons.reshape(n_poisons, *X.shape[1:]), T[order[:n_poisons]]
        return torch.cat([poisons, targets]).reshape(X.shape)[order.argsort()], T

    def _n_poisons(self, n_rows):
        if self.attack == "evasion":
            return n_rows
        return min(max(1, round(self.poison_fraction * n_rows)), n_rows - 1)


class AdversarialPoisonClassifier(_HookClassifier):
    """Neural classifier that poisons its batches and learns the right labels still.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    attack : str, default="gradient_matching"
        "gradient_matching", "gradient_distance", "feature_collision", "metapoison",
        "hidden_trigger", "patch", "watermark", "random_normal", "random_laplace",
        "random_bernoulli" or "evasion"; see :class:`AdversarialPoison`. "patch" costs
        little more than plain training and is the one to take against backdoors.
    eps : float or array, default=None
        Radius in the unit of X. None is 16/255 of the range of `bounds`, 8/255 for
        "evasion".
    max_iter : int, default=5
        Crafting steps in each batch; as published.
    poison_fraction : float, default=0.5
        Share of each batch that is poisoned.
    step_size : float, default=0.1
        Of a crafting step, in units of `eps`; as published.
    init : {"randn", "uniform", "zero"}, default="randn"
        Start of crafted perturbations, in units of `eps`.
    recombine : bool, default=True
        Whether the rows that poisons aim at are trained on too.
    bounds : (low, high) or None, default=(0, 1)
        Box that no value leaves, in the unit of X. None is no box, and a range of 1;
        it is what standardised X takes, with an `eps` in its unit.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    ValueError
        In `fit`: a parameter out of range, an `eps` or `bounds` that doesn't fit a
        sample, or patches on samples that are neither images nor flat.

    Warns
    -----
    UserWarning
        X lies outside `bounds`: they are in another unit than X.

    See Also
    --------
    AdversarialPoison : The hook itself, and what each attack does.
    skpoison.attacks.Adaptation : Crafts against victims that train like this.

    Notes
    -----
    Each step makes one ordinary update on the poisoned batch; what is crafted is
    crafted anew in every batch. A small convolutional network took 1.2 times as long
    as plain training with patches or noise, about 6 times with attacks in feature
    space, 7 to 10 times with "evasion" and the matching of gradients, whose second
    derivatives alone take 6 times a plain step, and 17 times with "metapoison"
    (``benchmarks/bench_adversarial.py``, one CPU core).

    On 4000 images of Fashion-MNIST at half size, of which 1 % bore a patch and its
    label, "patch" cut the attack's success from .73 to .13 and accuracy from .81 to .78
    (means of three seeds). With 3 % of the rows success stayed above .85: what is that
    frequent is learnt all the same.

    The published training is 40 epochs of SGD at a rate of 0.1, batches of 128, rate
    times 0.1 at 3/8, 5/8 and 7/8 of it.

    Networks are trained one at a time, by `fit_together` too.

    References
    ----------
    .. [1] J. Geiping, L. Fowl, G. Somepalli, M. Goldblum, M. Moeller and T. Goldstein.
       What doesn't kill you makes you robust(er): how to adversarially train against
       data poisoning. arXiv:2102.13624.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import AdversarialPoisonClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = AdversarialPoisonClassifier(
    ...     attack="patch", input_shape=(1, 8, 8), max_epochs=5, device="cpu",
    ...     random_state=0,
    ... )
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(
        self,
        module="auto",
        *,
        attack="gradient_matching",
        eps=None,
        max_iter=5,
        poison_fraction=0.5,
        step_size=0.1,
        init="randn",
        recombine=True,
        bounds=(0, 1),
        **params,
    ):
        super().__init__(module, **params)
        self.attack = attack
        self.eps = eps
        self.max_iter = max_iter
        self.poison_fraction = poison_fraction
        self.step_size = step_size
        self.init = init
        self.recombine = recombine
        self.bounds = bounds

    def _hook(self):
        return AdversarialPoison(
            self.attack,
            eps=self.eps,
            max_iter=self.max_iter,
            poison_fraction=self.poison_fraction,
            step_size=self.step_size,
            init=self.init,
            recombine=self.recombine,
            bounds=self.bounds,
        )

    def _train(self, net, X, y, streams):
        if self.bounds is not None:
            low, high = (np.asarray(b, dtype=np.float32) for b in self.bounds)
            slack = 1e-6 * (high - low)  # a scaler's rounding
            if (X < low - slack).any() or (X > high + slack).any():
                warnings.warn(
                    f"X lies outside bounds={self.bounds!r}: its values span "
                    f"[{X.min():g}, {X.max():g}]; give bounds and eps in the unit of X",
                    UserWarning,
                    stacklevel=4,
                )
        super()._train(net, X, y, streams)
