"""Augmentation as a defense: the classifiers that train with batch hooks."""

from skpoison.defenses._hooks import MaxUp, check_hook, check_shape, make_hook
from skpoison.defenses._plain_hooks import CutMix, Cutout, Mixup, Noise
from skpoison.models import TorchClassifier
from skpoison.utils._validation import check_number, check_option


class _HookClassifier(TorchClassifier):
    """Base of classifiers whose parameters make a batch hook: `_hook` returns it."""

    def _hook(self):
        raise NotImplementedError

    def _check_parameters(self):
        super()._check_parameters()
        check_hook("augmentation", self._hook())

    def _batch_hook(self, streams):
        hook = self._hook()
        check_shape(hook, self._module_shape())
        return hook


class AugmentedClassifier(_HookClassifier):
    """Neural classifier trained on augmented batches, so that poison bites less.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    augmentation : str, hook or list of them, default="mixup"
        "mixup", "cutmix", "cutout", "noise" and "maxup" are the hooks of these names
        with their defaults. A hook may be any callable ``(X, T, context) -> (X, T)``;
        the parameters of ``Mixup()`` given as such are reached as
        ``augmentation__n_mix``. Those in a list follow each other. Mixup, because it
        takes tables and images alike.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    TypeError, ValueError
        In `fit`: a bad parameter, or samples that a hook for images can't take.

    See Also
    --------
    MixupClassifier, CutMixClassifier, CutoutClassifier, MaxUpClassifier,
    NoiseClassifier : One augmentation, its parameters beside those of the network.
    Compose : What a list becomes.

    Notes
    -----
    ``augment`` comes first, the hooks see what it made. Prediction augments nothing.

    References
    ----------
    Borgnia et al. (2021), Strong data augmentation sanitizes poisoning and backdoor
    attacks without an accuracy tradeoff. arXiv:2011.09527.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import AugmentedClassifier, Mixup
    >>> X, y = load_digits(return_X_y=True)
    >>> model = AugmentedClassifier(
    ...     augmentation=[Mixup(4, weights="uniform"), "noise"], max_epochs=10,
    ...     device="cpu", random_state=0,
    ... )
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(self, module="auto", *, augmentation="mixup", **params):
        super().__init__(module, **params)
        self.augmentation = augmentation

    def _hook(self):
        return make_hook("augmentation", self.augmentation)


class MixupClassifier(_HookClassifier):
    """Neural classifier trained on mixtures of its rows: no poison is seen alone.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    n_mix : int, default=2
        Rows mixed into one; 2, as in public implementations, is mixup.
    alpha : float, default=1.0
        Of the Dirichlet weights; 1, as in the defense paper and public
        implementations, draws them uniformly.
    weights : {"dirichlet", "uniform"}, default="dirichlet"
        "uniform" gives every row the weight ``1 / n_mix``.
    per_sample : bool, default=False
        Draw weights for each row and not once a batch.
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
        self,
        module="auto",
        *,
        n_mix=2,
        alpha=1.0,
        weights="dirichlet",
        per_sample=False,
        **params,
    ):
        super().__init__(module, **params)
        self.n_mix = n_mix
        self.alpha = alpha
        self.weights = weights
        self.per_sample = per_sample

    def _hook(self):
        return Mixup(
            self.n_mix,
            alpha=self.alpha,
            weights=self.weights,
            per_sample=self.per_sample,
        )


class CutMixClassifier(_HookClassifier):
    """Neural classifier trained on images with a box of another pasted in.

    A patch of a backdoor is cut off, covered, or seen with a share of another label.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    alpha : float, default=1.0
        The share of an image that stays comes from Beta(alpha, alpha); 1, as in public
        implementations, draws it uniformly.
    prob : float, default=1.0
        Probability that a batch is changed; 0.5 in public implementations, which
        halves the protection.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`;
        ``input_shape=(C, H, W)`` where the rows of a table are images.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    ValueError
        In `fit`: a bad parameter, or samples that are neither images nor flat rows.

    See Also
    --------
    CutMix : The hook itself, and what it does on tables.

    References
    ----------
    Borgnia et al. (2021), Strong data augmentation sanitizes poisoning and backdoor
    attacks without an accuracy tradeoff. arXiv:2011.09527.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import CutMixClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = CutMixClassifier(
    ...     input_shape=(1, 8, 8), max_epochs=5, device="cpu", random_state=0
    ... )
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(self, module="auto", *, alpha=1.0, prob=1.0, **params):
        super().__init__(module, **params)
        self.alpha = alpha
        self.prob = prob

    def _hook(self):
        return CutMix(alpha=self.alpha, prob=self.prob)


class CutoutClassifier(_HookClassifier):
    """Neural classifier trained on images with a square blanked at a random place.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    size : float or int, default=0.5
        Side of the square: a float is a share of the shorter side of the image, an int
        a number of pixels. Public implementations have 0.58, or ask for it.
    fill : float, default=0.0
        The value put there, in the unit of X.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`;
        ``input_shape=(C, H, W)`` where the rows of a table are images.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    ValueError
        In `fit`: a bad parameter, or samples that are neither images nor flat rows.

    See Also
    --------
    Cutout : The hook itself, and what it does on tables.

    References
    ----------
    Borgnia et al. (2021), Strong data augmentation sanitizes poisoning and backdoor
    attacks without an accuracy tradeoff. arXiv:2011.09527.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import CutoutClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = CutoutClassifier(
    ...     input_shape=(1, 8, 8), max_epochs=5, device="cpu", random_state=0
    ... )
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(self, module="auto", *, size=0.5, fill=0.0, **params):
        super().__init__(module, **params)
        self.size = size
        self.fill = fill

    def _hook(self):
        return Cutout(self.size, fill=self.fill)


class MaxUpClassifier(_HookClassifier):
    """Neural classifier trained on the hardest of several copies of each row.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    base : str, hook or list of them, default="cutout"
        What makes a copy: as ``augmentation`` of :class:`AugmentedClassifier`.
    n_copies : int, default=4
        Copies of each row, the paper's and public implementations' number.
    warmup_epochs : int, default=5
        Epochs at the start without augmentation, as in public implementations. At
        most this many ``max_epochs`` leave nothing of the defense.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`;
        ``input_shape=(C, H, W)`` where the rows of a table are images.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    TypeError, ValueError
        In `fit`: a bad parameter, or samples that the base can't take.

    See Also
    --------
    MaxUp : The hook itself.

    References
    ----------
    Borgnia et al. (2021), Strong data augmentation sanitizes poisoning and backdoor
    attacks without an accuracy tradeoff. arXiv:2011.09527.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import MaxUpClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MaxUpClassifier(
    ...     warmup_epochs=2, max_epochs=8, device="cpu", random_state=0
    ... )
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(
        self, module="auto", *, base="cutout", n_copies=4, warmup_epochs=5, **params
    ):
        super().__init__(module, **params)
        self.base = base
        self.n_copies = n_copies
        self.warmup_epochs = warmup_epochs

    def _hook(self):
        return MaxUp(
            make_hook("base", self.base),
            n_copies=self.n_copies,
            warmup_epochs=self.warmup_epochs,
        )


class NoiseClassifier(_HookClassifier):
    """Neural classifier trained on noisy rows.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    noise : {"gaussian", "laplace", "uniform"}, default="gaussian"
        Its distribution.
    noise_scale : float, default=0.1
        In the unit of X: the standard deviation of "gaussian", the b of "laplace", the
        half-width of "uniform". The default is chosen here, for pixels in [0, 1] and
        standardised columns.
    bounds : pair (low, high) of numbers, default=None
        Clip to this range after the noise.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.

    Attributes
    ----------
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    See Also
    --------
    Noise : The hook itself.

    References
    ----------
    Borgnia et al. (2021), DP-InstaHide: provably defusing poisoning and backdoor
    attacks with differentially private data augmentations. arXiv:2103.02079.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import NoiseClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = NoiseClassifier(
    ...     noise="laplace", max_epochs=5, device="cpu", random_state=0
    ... )
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.8
    True
    """

    def __init__(
        self, module="auto", *, noise="gaussian", noise_scale=0.1, bounds=None, **params
    ):
        super().__init__(module, **params)
        self.noise = noise
        self.noise_scale = noise_scale
        self.bounds = bounds

    def _check_parameters(self):
        # by the names that they have here
        check_option("noise", self.noise, ["gaussian", "laplace", "uniform"])
        check_number("noise_scale", self.noise_scale, low=0.0)
        super()._check_parameters()

    def _hook(self):
        return Noise(self.noise, scale=self.noise_scale, bounds=self.bounds)
