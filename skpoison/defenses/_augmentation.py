"""Augmentation as a defense: batch hooks and the classifiers that train with them."""

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skpoison.models import TorchClassifier
from skpoison.utils._validation import check_number, check_option


class Mixup(BaseEstimator):
    """Batch hook: every row becomes a weighted mean of distinct rows of its batch.

    Parameters
    ----------
    n_mix : int, default=2
        Rows mixed into one; 2 is mixup. A batch with fewer rows mixes all it has.
    alpha : float, default=1.0
        Of the symmetric Dirichlet distribution of the weights, which for two rows is
        Beta(alpha, alpha); 1 draws them uniformly.
    weights : {"dirichlet", "uniform"}, default="dirichlet"
        "uniform" gives every row the weight ``1 / n_mix``.

    See Also
    --------
    MixupClassifier : Trains with it.

    Notes
    -----
    One permutation p of the batch is drawn and rolled: output i is
    ``sum_j w_j x[p[i - j]]``, j = 0, ..., n_mix - 1, and the same of the targets. So
    the partners of a row are distinct and each row is used exactly ``n_mix`` times.

    References
    ----------
    Zhang, Cisse, Dauphin and Lopez-Paz (2018), mixup: beyond empirical risk
    minimization. arXiv:1710.09412.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from skpoison.defenses import Mixup
    >>> context = SimpleNamespace(generator=torch.Generator().manual_seed(0))
    >>> X, T = torch.arange(4.0).reshape(4, 1), torch.eye(4)
    >>> mixed, targets = Mixup(n_mix=4, weights="uniform")(X, T, context)
    >>> mixed.ravel()
    tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """

    def __init__(self, n_mix=2, *, alpha=1.0, weights="dirichlet"):
        self.n_mix = n_mix
        self.alpha = alpha
        self.weights = weights

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        check_number("n_mix", self.n_mix, low=1, integer=True)
        check_number("alpha", self.alpha, low=0.0, strict=True)
        check_option("weights", self.weights, ["dirichlet", "uniform"])
        return self

    def __call__(self, X, T, context):
        """Mix one batch.

        Parameters
        ----------
        X : tensor of shape (n, ...)
        T : tensor of shape (n, n_classes)
            Soft targets.
        context : object
            Its ``generator``, a CPU torch.Generator, makes every draw.

        Returns
        -------
        X, T : tensors of the same shapes
        """
        n_mix = min(self.n_mix, len(X))
        if n_mix == 1:
            return X, T
        generator = context.generator
        order = torch.randperm(len(X), generator=generator)
        weights = self._draw_weights(n_mix, generator)
        orders = [order.roll(shift).to(X.device) for shift in range(n_mix)]
        return _mean(X, orders, weights), _mean(T, orders, weights)

    def _draw_weights(self, n_mix, generator):
        if self.weights == "uniform":
            return [1.0 / n_mix] * n_mix
        if self.alpha == 1:  # exponential clocks: no second generator in the loop
            draws = -torch.rand(n_mix, generator=generator, dtype=torch.float64).log()
            return (draws / draws.sum()).tolist()
        seed = int(torch.randint(2**62, (), generator=generator))
        return np.random.default_rng(seed).dirichlet([self.alpha] * n_mix).tolist()


def _mean(rows, orders, weights):
    """Return the weighted mean of the rows in several orders."""
    mixed, total = rows[orders[0]], weights[0]
    for order, weight in zip(orders[1:], weights[1:], strict=True):
        total += weight
        # Python floats as weights leave the rows' type alone
        mixed = torch.lerp(mixed, rows[order], weight / total)
    return mixed


class MixupClassifier(TorchClassifier):
    """Neural classifier trained on mixtures of its rows: no poison is seen alone.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    n_mix : int, default=2
        Rows mixed into one.
    alpha : float, default=1.0
        Of the Dirichlet weights; 1 as in the defense paper.
    weights : {"dirichlet", "uniform"}, default="dirichlet"
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    See Also
    --------
    Mixup : The hook itself.

    Notes
    -----
    The loss is cross entropy against the mixed targets, which equals the weighted
    sum of the cross entropies of the mixed labels. Prediction mixes nothing.

    References
    ----------
    Borgnia et al. (2021), Strong data augmentation sanitizes poisoning and backdoor
    attacks without an accuracy tradeoff. arXiv:2011.09527.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import MixupClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MixupClassifier(max_epochs=5, device="cpu", random_state=0)
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(
        self, module="auto", *, n_mix=2, alpha=1.0, weights="dirichlet", **params
    ):
        super().__init__(module, **params)
        self.n_mix = n_mix
        self.alpha = alpha
        self.weights = weights

    def _batch_hook(self, streams):
        hook = Mixup(self.n_mix, alpha=self.alpha, weights=self.weights)
        return hook.validate()
