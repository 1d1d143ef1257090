"""Training recipes of the papers, by name."""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from skpoison.models._augment import ShiftFlip
from skpoison.models._estimators import TorchClassifier
from skpoison.models._modules import ConvNet, Normalized
from skpoison.models._resnets import ResNet18
from skpoison.utils._validation import check_number, check_option

# Of the channels of CIFAR-10's training images, pixels in [0, 1].
_CIFAR10_MEAN = 0.4914, 0.4822, 0.4465
_CIFAR10_STD = 0.2470, 0.2435, 0.2616


def _drops(milestones):
    # a very short training starts at the full rate and not after its milestones
    milestones = [m for m in milestones if m > 0]
    return [LRScheduler(MultiStepLR, milestones=milestones, gamma=0.1)]


def _conservative(n_epochs):
    # floor division of floats, as published: 14, 24 and 35 of 40
    return _drops([int(n_epochs // share) for share in (2.667, 1.6, 1.142)])


def _benchmark(n_epochs):
    return _drops([n_epochs // 2, 3 * n_epochs // 4])


def _metapoison(n_epochs):
    milestones = tuple(m for m in (n_epochs // 2, 3 * n_epochs // 4) if m > 0)
    factor = WarmUpSteps(max(1, n_epochs // 40), milestones)
    return [LRScheduler(LambdaLR, lr_lambda=factor)]


def _constant(n_epochs):
    return None


@dataclass(frozen=True)
class WarmUpSteps:
    """Factor of the rate: a linear rise, then a division by ten at each milestone.

    An object and not a function, so that a clone's equals its own and networks with
    this schedule can be trained together.
    """

    n_warm_up: int
    milestones: tuple[int, ...]

    def __call__(self, epoch):
        rise = min(1.0, (epoch + 1) / self.n_warm_up)
        return rise * 0.1 ** sum(epoch >= m for m in self.milestones)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    max_epochs: int
    batch_size: int = 128
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    augments: bool = False
    schedule: Any = _constant
    #: Networks without batch normalisation get a tenth of the rate.
    cautious: bool = False


_RECIPES = {
    "conservative": _Recipe(
        max_epochs=40,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        augments=True,
        schedule=_conservative,
        cautious=True,
    ),
    "basic": _Recipe(max_epochs=80, cautious=True),
    "metapoison": _Recipe(max_epochs=200, batch_size=125, schedule=_metapoison),
    "benchmark_scratch": _Recipe(
        max_epochs=200,
        momentum=0.9,
        weight_decay=2e-4,
        augments=True,
        schedule=_benchmark,
    ),
}


def training_recipe(
    name,
    module=ResNet18,
    *,
    max_epochs=None,
    mean=_CIFAR10_MEAN,
    std=_CIFAR10_STD,
    device="auto",
    random_state=None,
    **params,
):
    """Return a classifier that trains a network as a paper does.

    Parameters
    ----------
    name : {"conservative", "basic", "metapoison", "benchmark_scratch"}
        See Notes.
    module : class or callable, default=ResNet18
        Called with ``input_shape`` and ``n_outputs``, and put behind the normalisation
        of its pixels.
    max_epochs : int, default=None
        Passes over the data; the schedule is scaled with them. None is the paper's.
    mean, std : float or sequence of float
        Of the pixels, as numbers in [0, 1]: one, or one a channel. The defaults are
        CIFAR-10's.
    device : str or torch.device, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    **params : dict
        Any other parameter of :class:`TorchClassifier`, in place of the recipe's, and
        parameters of the network as ``module__width``.

    Returns
    -------
    classifier : TorchClassifier
        Takes float images in [0, 1] and uint8 images.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, a module that can't be called, ``max_epochs`` below 1.

    See Also
    --------
    fit_together : Trains several of one recipe at once.
    skpoison.model_selection.published_setting : Attacks with the recipe of the paper.

    Notes
    -----
    All minimise the cross-entropy by stochastic gradient descent from a rate of 0.1.

    ================= ====== ===== ======== ============ ====================== =======
    name              epochs batch momentum weight decay rate                   used in
    ================= ====== ===== ======== ============ ====================== =======
    conservative      40     128   0.9      5e-4         tenth at 14, 24, 35    [1]_
    basic             80     128   none     0            constant               [1]_
    metapoison        200    125   none     0            rises over 5 epochs,   [2]_
                                                         tenth at 100, 150
    benchmark_scratch 200    128   0.9      2e-4         tenth at 100, 150      [3]_
    ================= ====== ===== ======== ============ ====================== =======

    The momentum of "conservative" is Nesterov's. "conservative" and
    "benchmark_scratch" move and mirror images at random, by up to an eighth of the
    side, 4 pixels of 32, and what moves in is the mean grey; the others don't augment.
    In "conservative" and "basic" a :class:`ConvNet` starts from a rate of 0.01, as
    networks without batch normalisation do in the code of [1]_. Batch size and weight
    decay of "benchmark_scratch" are from memory.

    References
    ----------
    .. [1] J. Geiping et al. Witches' Brew: industrial scale data poisoning via
       gradient matching. ICLR 2021. arXiv:2009.02276.
    .. [2] W. R. Huang et al. MetaPoison: practical general-purpose clean-label data
       poisoning. NeurIPS 2020. arXiv:2004.00225.
    .. [3] A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark
       for backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.models import MLP, training_recipe
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = training_recipe(
    ...     "conservative", MLP, max_epochs=8, mean=0.3, std=0.38, augment=None,
    ...     device="cpu", random_state=0,
    ... )
    >>> clf.callbacks[0].milestones
    [2, 4, 7]
    >>> clf.fit(X / 16, y).score(X / 16, y) > 0.9
    True
    """
    recipe = _RECIPES[check_option("name", name, _RECIPES)]
    if not callable(module) or isinstance(module, torch.nn.Module):
        raise TypeError(
            "module must be a network's class, or a callable that returns one for "
            f"input_shape and n_outputs, got {module!r}"
        )
    if max_epochs is None:
        max_epochs = recipe.max_epochs
    check_number("max_epochs", max_epochs, low=1, integer=True)
    plain = inspect.isclass(module) and issubclass(module, ConvNet)
    settings = {
        "module__network": module,
        "module__mean": mean,
        "module__std": std,
        "optimizer": "sgd",
        "optimizer__momentum": recipe.momentum,
        "optimizer__nesterov": recipe.nesterov,
        "optimizer__weight_decay": recipe.weight_decay,
        "lr": 0.01 if recipe.cautious and plain else 0.1,
        "max_epochs": max_epochs,
        "batch_size": recipe.batch_size,
        "callbacks": recipe.schedule(max_epochs),
        "device": device,
        "random_state": random_state,
    }
    if recipe.augments:
        grey = float(np.mean(mean))
        settings["augment"] = ShiftFlip(flip=True, fill=grey)
    return TorchClassifier(Normalized, **{**settings, **params})
