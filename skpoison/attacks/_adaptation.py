"""What an attacker does who knows how the victim defends itself."""

from sklearn.base import BaseEstimator

from skpoison.utils._validation import check_number


class Adaptation(BaseEstimator):
    """Crafting against a defended victim: the defense is part of the objective.

    Parameters
    ----------
    mix : callable, default=None
        Against victims that train on mixtures: a batch hook such as
        :class:`~skpoison.defenses.Mixup`, called as ``mix(X, T, context)``. As many
        clean rows as poisons join the batch that is mixed.
    adversary : callable, default=None
        Against adversarial training: ``adversary(logits, X, labels) -> X`` returns
        rows attacked at the step, through which no gradient goes. ``logits(X)`` is
        the network.
    gradient_clip : float, default=None
        Against DP-SGD: the poisons' gradient is cut to this norm.
    gradient_noise : float, default=0.0
        Against DP-SGD: deviation of the Gaussian noise on that gradient, in units of
        ``gradient_clip``, of 1 where that is None.
    feature_weight : float, default=0.0
        Against detectors in feature space: weight of the mean squared distance between
        the penultimate features of poisoned and of clean rows.
    loss_weight : float, default=0.0
        Weight of the poisons' own training loss.
    norm_weight : float, default=0.0
        Weight of the norm of the poisons' gradient.

    See Also
    --------
    GradientMatchingAttack : Takes it as ``adaptation``.

    References
    ----------
    Geiping et al. (2021), What doesn't kill you makes you robust(er): adversarial
    training against poisons and backdoors. arXiv:2102.13624.

    Examples
    --------
    >>> from skpoison.attacks import Adaptation
    >>> Adaptation(gradient_clip=1.0, gradient_noise=0.01).validate()
    Adaptation(gradient_clip=1.0, gradient_noise=0.01)
    """

    def __init__(
        self,
        *,
        mix=None,
        adversary=None,
        gradient_clip=None,
        gradient_noise=0.0,
        feature_weight=0.0,
        loss_weight=0.0,
        norm_weight=0.0,
    ):
        self.mix = mix
        self.adversary = adversary
        self.gradient_clip = gradient_clip
        self.gradient_noise = gradient_noise
        self.feature_weight = feature_weight
        self.loss_weight = loss_weight
        self.norm_weight = norm_weight

    def validate(self):
        """Raise on a bad parameter.

        Returns
        -------
        self
        """
        for name in ("mix", "adversary"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, got {value!r}")
        if hasattr(self.mix, "validate"):
            self.mix.validate()
        if self.gradient_clip is not None:
            check_number("gradient_clip", self.gradient_clip, low=0.0, strict=True)
        for name in ("gradient_noise", "feature_weight", "loss_weight", "norm_weight"):
            check_number(name, getattr(self, name), low=0.0)
        return self
