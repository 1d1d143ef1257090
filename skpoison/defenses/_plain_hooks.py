"""Batch hooks that need the batch alone: mixing, boxes and noise."""

import math
import numbers

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skpoison.utils._validation import check_number, check_option


class Mixup(BaseEstimator):
    """Batch hook: every row becomes a weighted mean of distinct rows of its batch.

    Parameters
    ----------
    n_mix : int, default=2
        Rows mixed into one; 2 is mixup. A batch with fewer rows mixes all it has.
    alpha : float, default=1.0
        Of the symmetric Dirichlet distribution of the weights, which for two rows is
        Beta(alpha, alpha); 1, as in public implementations, draws them uniformly.
    weights : {"dirichlet", "uniform"}, default="dirichlet"
        "uniform" gives every row the weight ``1 / n_mix``.
    per_sample : bool, default=False
        Draw weights for each row and not once a batch.

    See Also
    --------
    MixupClassifier : Trains with it.

    Notes
    -----
    One permutation p of the batch is drawn and rolled: output i is
    ``sum_j w_j x[p[i + j]]``, j = 0, ..., n_mix - 1, and the same of the targets. So
    the partners of a row are distinct, and each row is used exactly ``n_mix`` times.
    The place of a mixture in the batch tells nothing of what is in it.

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

    def __init__(self, n_mix=2, *, alpha=1.0, weights="dirichlet", per_sample=False):
        self.n_mix = n_mix
        self.alpha = alpha
        self.weights = weights
        self.per_sample = per_sample

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        check_number("n_mix", self.n_mix, low=1, integer=True)
        check_number("alpha", self.alpha, low=0.0, strict=True)
        check_option("weights", self.weights, ["dirichlet", "uniform"])
        if not isinstance(self.per_sample, bool | np.bool_):
            raise TypeError(f"per_sample must be a bool, got {self.per_sample!r}")
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
        n, generator = len(X), context.generator
        n_mix = min(self.n_mix, n)
        if n_mix == 1:
            return X, T
        order = torch.randperm(n, generator=generator)
        ring = torch.cat([order, order[: n_mix - 1]]).to(X.device)
        shares = self._draw_shares(n_mix, n, generator)
        return _mean(X, ring, shares), _mean(T, ring, shares)

    def _draw_shares(self, n_mix, n, generator):
        """Return what row j is of the mean of rows 0, ..., j: the weights, in turn."""
        if self.weights == "uniform":
            return [1 / j for j in range(1, n_mix + 1)]
        n_draws = n if self.per_sample else 1
        weights = _dirichlet(self.alpha, n_draws, n_mix, generator).T
        shares = (weights / weights.cumsum(0)).nan_to_num_(0.0)  # 0 of 0
        return shares if self.per_sample else shares[:, 0].tolist()


def _dirichlet(alpha, n, n_weights, generator):
    """Draw n rows of weights, in float64 on the CPU."""
    if alpha == 1:  # exponential clocks: no second generator in the loop
        draws = torch.empty((n, n_weights), dtype=torch.float64)
        draws.exponential_(generator=generator)
        return draws / draws.sum(1, keepdim=True)
    seed = int(torch.randint(2**62, (), generator=generator))
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet([alpha] * n_weights, size=n))


def _mean(rows, ring, shares):
    """Return the weighted means of rows that follow each other in the ring."""
    n, ringed = len(rows), rows[ring]
    mixed = ringed[:n]
    for j, share in enumerate(shares[1:], start=1):
        if torch.is_tensor(share):  # a Python float leaves the rows' type alone
            share = share.to(rows).reshape(-1, *[1] * (rows.ndim - 1))
        # a running mean by lerp never leaves the range of the rows
        mixed = torch.lerp(mixed, ringed[j : j + n], share)
    return mixed


def check_images(name, shape):
    """Raise unless samples are images or flat rows, for whatever `name` says."""
    if len(shape) not in (1, 3):
        raise ValueError(
            f"{name} takes images of shape (C, H, W) or flat rows, got samples of "
            f"shape {tuple(shape)}: reshape X, or give flat rows and "
            "input_shape=(C, H, W)"
        )


def derangement(n, generator):
    """Draw a permutation without a fixed point: one cycle through all of n >= 2."""
    order = torch.randperm(n, generator=generator)
    moved = torch.empty_like(order)
    moved[order] = order.roll(1)
    return moved


class _BoxHook(BaseEstimator):
    """Base of hooks that change a box of an image, or an interval of columns."""

    def check_shape(self, shape):
        """Raise unless samples are images or flat rows.

        Parameters
        ----------
        shape : tuple of int
            Of one sample.
        """
        check_images(type(self).__name__, shape)

    def _space(self, X):
        """Return the lengths of the axes in which boxes lie."""
        shape = X.shape[1:]
        self.check_shape(shape)
        return shape[-2:]


def _box_ends(space, sides, n, generator):
    """Draw n boxes with uniform centres; return starts and stops, (n_axes, n) each."""
    centres = [torch.randint(length, (n,), generator=generator) for length in space]
    sides, lengths = torch.tensor(sides)[:, None], torch.tensor(space)[:, None]
    starts = torch.stack(centres) - sides // 2
    return starts.clamp_min(0), torch.minimum(starts + sides, lengths)


class CutMix(_BoxHook):
    """Batch hook: a box of every image is pasted from another image of its batch.

    Parameters
    ----------
    alpha : float, default=1.0
        The share of an image that stays is drawn, once a batch, from Beta(alpha,
        alpha); 1, as in public implementations, draws it uniformly.
    prob : float, default=1.0
        Probability that a batch is changed. Public implementations have 0.5, which
        leaves half the batches, and what is poisoned in them, as they are.

    See Also
    --------
    CutMixClassifier : Trains with it.

    Notes
    -----
    For a share lambda the box has sides ``floor(H sqrt(1 - lambda))`` and ``floor(W
    sqrt(1 - lambda))``, its centre is uniform, and the image's border clips it.
    Targets are mixed by the pixels that were pasted, not by lambda. No image is its
    own partner.

    A flat row of d values is an image of one line: ``floor(d (1 - lambda))`` adjacent
    columns are pasted, which makes CutMix a defense for tables too. Where flat rows
    are images, ``input_shape`` says so.

    References
    ----------
    Yun et al. (2019), CutMix: regularization strategy to train strong classifiers with
    localizable features. arXiv:1905.04899.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from skpoison.defenses import CutMix
    >>> context = SimpleNamespace(generator=torch.Generator().manual_seed(1))
    >>> X = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    >>> X, T = CutMix()(X, torch.eye(2), context)
    >>> pasted = X[0].mean().item()
    >>> (T[0] == torch.tensor([1 - pasted, pasted])).all()
    tensor(True)
    """

    def __init__(self, *, alpha=1.0, prob=1.0):
        self.alpha = alpha
        self.prob = prob

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        check_number("alpha", self.alpha, low=0.0, strict=True)
        check_number("prob", self.prob, low=0.0, high=1.0)
        return self

    def __call__(self, X, T, context):
        """Paste boxes within one batch.

        Parameters
        ----------
        X : tensor of shape (n, C, H, W) or (n, n_features)
        T : tensor of shape (n, n_classes)
            Soft targets.
        context : object
            Its ``generator``, a CPU torch.Generator, makes every draw.

        Returns
        -------
        X, T : tensors of the same shapes
        """
        space, generator = self._space(X), context.generator
        if len(X) == 1 or torch.rand((), generator=generator) >= self.prob:
            return X, T
        share = float(_dirichlet(self.alpha, 1, 2, generator)[0, 0])
        sides = [math.floor(side * share ** (1 / len(space))) for side in space]
        ends = zip(*_box_ends(space, sides, 1, generator), strict=True)
        box = (..., *(slice(int(start), int(stop)) for start, stop in ends))
        partners = derangement(len(X), generator).to(X.device)
        mixed = X.clone()
        mixed[box] = X[box][partners]
        return mixed, torch.lerp(T, T[partners], X[box].numel() / X.numel())


class Cutout(_BoxHook):
    """Batch hook: a square of every image, each at its own place, is filled.

    Parameters
    ----------
    size : float or int, default=0.5
        Side of the square: a float in [0, 1] is a share of the shorter side of the
        image, floored, an int a number of pixels. Public implementations have 0.58, or
        ask for it.
    fill : float, default=0.0
        The value put there, in the unit of X; the mean of the data hides most.

    See Also
    --------
    CutoutClassifier : Trains with it.

    Notes
    -----
    Centres are uniform over the pixels, and the border clips the square. Labels stay.

    A flat row is an image of one line: an interval of adjacent columns is filled. For
    columns that are standardised, 0 is their mean.

    References
    ----------
    DeVries and Taylor (2017), Improved regularization of convolutional neural networks
    with cutout. arXiv:1708.04552.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from skpoison.defenses import Cutout
    >>> context = SimpleNamespace(generator=torch.Generator().manual_seed(4))
    >>> X, T = Cutout(size=2)(torch.ones(1, 1, 3, 4), torch.eye(1), context)
    >>> X[0, 0]
    tensor([[1., 0., 0., 1.],
            [1., 0., 0., 1.],
            [1., 1., 1., 1.]])
    """

    def __init__(self, size=0.5, *, fill=0.0):
        self.size = size
        self.fill = fill

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        whole = isinstance(self.size, numbers.Integral)
        check_number("size", self.size, low=0, high=None if whole else 1.0)
        check_number("fill", self.fill)
        return self

    def __call__(self, X, T, context):
        """Fill squares in one batch.

        Parameters
        ----------
        X : tensor of shape (n, C, H, W) or (n, n_features)
        T : tensor of shape (n, n_classes)
            Soft targets, returned as they are.
        context : object
            Its ``generator``, a CPU torch.Generator, makes every draw.

        Returns
        -------
        X, T : tensors of the same shapes
        """
        space, side = self._space(X), self.size
        if not isinstance(side, numbers.Integral):
            # 0.29 * 100 is 28.999999999999996
            side = math.floor(round(side * min(space), 9))
        ends = _box_ends(space, [side] * len(space), len(X), context.generator)
        starts, stops = torch.stack(ends).to(X.device)
        covered = []  # one (n, length) mask an axis
        for length, start, stop in zip(space, starts, stops, strict=True):
            place = torch.arange(length, device=X.device)
            covered.append((place >= start[:, None]) & (place < stop[:, None]))
        inside = covered[0]
        if X.ndim == 4:
            inside = inside[:, None, :, None] & covered[1][:, None, None, :]
        return X.masked_fill(inside, self.fill), T


class Noise(BaseEstimator):
    """Batch hook: independent noise is added to every value.

    Parameters
    ----------
    distribution : {"gaussian", "laplace", "uniform"}, default="gaussian"
    scale : float, default=0.1
        In the unit of X: the standard deviation of "gaussian", the b of "laplace",
        whose standard deviation is ``sqrt(2) b``, the half-width of "uniform". The
        default is chosen here, for pixels in [0, 1] and standardised columns.
    bounds : pair (low, high) of numbers, default=None
        Clip to this range after the noise.

    See Also
    --------
    NoiseClassifier : Trains with it.

    Notes
    -----
    Laplace noise is drawn as the inverse of the distribution function at 24 random
    bits (53 for float64), so it never exceeds ``17 b`` in float32.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from skpoison.defenses import Noise
    >>> context = SimpleNamespace(generator=torch.Generator().manual_seed(0))
    >>> noise = Noise("laplace", scale=2.0)
    >>> X, T = noise(torch.zeros(1000, 100), torch.ones(1000, 1), context)
    >>> round(X.abs().mean().item(), 1)
    2.0
    """

    def __init__(self, distribution="gaussian", *, scale=0.1, bounds=None):
        self.distribution = distribution
        self.scale = scale
        self.bounds = bounds

    def validate(self):
        """Raise on a bad parameter, before training starts.

        Returns
        -------
        self
        """
        check_option("distribution", self.distribution, _NOISES)
        check_number("scale", self.scale, low=0.0)
        if self.bounds is not None:
            try:
                low, high = self.bounds
            except (TypeError, ValueError):
                raise ValueError(
                    "bounds must be None or a pair (low, high) of numbers, got "
                    f"{self.bounds!r}"
                ) from None
            check_number("the lower of bounds", low)
            check_number("the upper of bounds", high, low=low)
        return self

    def __call__(self, X, T, context):
        """Add noise to one batch.

        Parameters
        ----------
        X : tensor of shape (n, ...)
        T : tensor of shape (n, n_classes)
            Soft targets, returned as they are.
        context : object
            Its ``generator``, a CPU torch.Generator, makes every draw.

        Returns
        -------
        X, T : tensors of the same shapes
        """
        drawn = torch.empty(X.shape, dtype=torch.promote_types(X.dtype, torch.float32))
        noise = _NOISES[self.distribution](drawn, context.generator)
        noisy = torch.add(X, noise.to(X), alpha=self.scale)
        return (noisy if self.bounds is None else noisy.clamp(*self.bounds)), T


def _gaussian(drawn, generator):
    return drawn.normal_(generator=generator)


def _uniform(drawn, generator):
    return drawn.uniform_(-1, 1, generator=generator)


def _laplace(drawn, generator):
    # a third of the time of exponential_; without the limit -1 would become infinite
    drawn.uniform_(-1, 1, generator=generator)
    below_one = 1 - torch.finfo(drawn.dtype).eps / 2
    return drawn.abs().clamp_max_(below_one).neg_().log1p_().copysign_(drawn)


_NOISES = {"gaussian": _gaussian, "laplace": _laplace, "uniform": _uniform}
