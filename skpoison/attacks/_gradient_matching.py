"""Gradient matching: clean-label poisons that survive training from scratch."""

from skpoison.attacks._adaptation import Adaptation
from skpoison.attacks._crafted import TargetedMixin
from skpoison.attacks._matching_attack import MatchingAttack
from skpoison.utils._validation import check_option


def step_size_from_tau(tau, std, eps, *, batch_size=512, n_ensemble=1):
    """Convert a published step size into units of eps.

    The published code steps by ``tau * batch_size / 512 / n_ensemble`` in normalised
    units, where a pixel is divided by the standard deviation of its channel.

    Parameters
    ----------
    tau : float
        0.1 in the paper.
    std : float
        Standard deviation of the pixels, in the unit of `eps`.
    eps : float
    batch_size : int, default=512
    n_ensemble : int, default=1

    Returns
    -------
    step_size : float

    Examples
    --------
    >>> from skpoison.attacks import step_size_from_tau
    >>> round(step_size_from_tau(0.1, std=0.247, eps=16 / 255), 2)
    0.39
    """
    return tau * batch_size / 512 / n_ensemble * std / eps


class GradientMatchingAttack(TargetedMixin, MatchingAttack):
    """Witches' Brew: targeted clean-label poisoning of networks trained from scratch.

    Threat model: the attacker knows the training data and the victim's architecture
    and recipe, not its initialisation or the order of its batches. He changes a share
    of the rows within ``eps``, labels stay right, and wants given inputs, which he
    can't touch, to be read as ``target_labels``.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:]), default=None
        Inputs outside the training set. None takes a random training row, which stays
        in the data with its right label and is hard to win: only good for a trial run.
    target_labels : array-like of shape (n_targets,) or a label, default=None
        What the targets are to be read as.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        Needed by ``threat_model="self"`` and ``target_loss="untargeted"``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored. 0.01
        is the paper's.
    eps : float or array, default=None
        Radius in the unit of X. None is 16/255 of the data's range, 16 for uint8
        images; the paper's.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that poisons never leave.
    threat_model : {"single_class", "third_party", "random_subset", "self"}, \
default="single_class"
        Poisons come from the wished class, from a third one, from all rows, or from
        the targets' own class.
    poison_class : label, default=None
        The class of "third_party"; None draws one.
    selection : {"random", "max_gradient", "nearest"} or array of int, default="random"
        Which rows of those: at random, with the longest training gradients, nearest to
        the targets in features, or given ones, best first.
    surrogate : estimator, torch module, list, "victim" or None, default=None
        What is crafted on: a TorchClassifier, cloned and trained on the clean data, or,
        inside a FrozenEstimator, a fitted one as it is. Pipelines of linear steps that
        end in a TorchClassifier and skorch nets are taken too. A list is cycled over
        the ensemble. None is ``TorchClassifier()``.
    n_ensemble : int, default=1
        Surrogates; the objective is the mean over them.
    ensemble_stagger : {None, "first_n", "full", "inbetween"}, default=None
        Members trained for different numbers of epochs, see Notes.
    loss : {"cosine", "scalar_product", "layer_cosine", "se", "top_5", "top_10", \
"top_20"}, default="cosine"
        How gradients are compared.
    target_loss : {"cross_entropy", "cw", "untargeted"}, default="cross_entropy"
    multi_target : {"mean", "separate", "split"}, default="mean"
        Several targets share one gradient, are matched each, or get a part of the
        poisons each.
    optimizer : {"sign_adam", "adam", "pgd", "mom_pgd", "gd"}, default="sign_adam"
    step_size : float, default=None
        In units of ``eps``. None is 0.4 for "sign_adam" and "adam", which is the
        published 0.1 in normalised units, and 0.1 for the others. See
        :func:`step_size_from_tau`.
    schedule : {"steps", "cosine"}, callable or None, default="steps"
        "steps" divides the step by ten after 37, 62 and 87 % of the steps. A callable
        is given step and ``max_iter`` and returns a factor.
    init : {"randn", "uniform", "zero"}, default="randn"
        Start: normal draws of deviation ``eps``, clipped; as published.
    max_iter : int, default=250
        Crafting steps; the paper's.
    n_restarts : int, default=8
        Independent starts, the best is kept; the paper's.
    batch_size : int, default=512
        Rows, times restarts and members, that are in memory at once.
    batch_mode : {"exact", "per_batch"}, default="exact"
        With more poisons than ``batch_size``: match them all at once, in two passes,
        or each batch alone as in the published code.
    augment : "auto", "default", ShiftFlip, callable or None, default="auto"
        Random augmentation that poisons are crafted through. "auto" is what the
        surrogate trains with; "default" is ``ShiftFlip()``.
    retrain_every : int, default=None
        Train new surrogates on the poisoned data after so many steps.
    adaptation : Adaptation, default=None
        Against a defended victim.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : int, default=0
        1 shows progress on stderr.
    checkpoint : str or Path, default=None
        Folder that keeps the state: a killed fit goes on from there and ends with the
        same bits. Needs ``random_state``.

    Attributes
    ----------
    loss_curve_ : ndarray of shape (n_restarts, max_iter)
        The objective at the start of each step, under the step's augmentation.
    restart_losses_ : ndarray of shape (n_restarts,)
        The objective of what each restart ended with, over the same eight draws of
        the augmentation.
    best_restart_ : int
    loss_ : float
        That of the best.
    eps_ : float or ndarray
    n_iter_ : int
    surrogates_ : list of estimators
    targets_, target_labels_ : ndarray
    poison_class_ : label or None
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    Raises
    ------
    ValueError
        Also where a surrogate already reads the targets as wished, with a gradient of
        zero.

    See Also
    --------
    skpoison.model_selection.evaluate_targeted : Success over many victims.
    WatermarkAttack : The control without optimisation, to be beaten first.

    Notes
    -----
    With surrogates F of weights theta, the attack minimises over the perturbations
    delta the mean over surrogates of

    .. math:: B(\\delta) = 1 - \\frac{\\langle g_t, g_p(\\delta) \\rangle}
              {\\|g_t\\| \\|g_p(\\delta)\\|}

    where :math:`g_t` is the gradient in theta of the targets' loss on their wished
    labels, and :math:`g_p` that of the mean loss of the poisons on their own labels:
    training on the poisons then descends the targets' loss as well.

    "first_n" trains member k for k epochs, "full" spreads the epochs evenly from none
    to all, "inbetween" strictly between them. With ``retrain_every`` restarts run one
    after the other, each with its own surrogates.

    References
    ----------
    .. [1] J. Geiping et al. Witches' Brew: industrial scale data poisoning via
       gradient matching. ICLR 2021. arXiv:2009.02276.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import GradientMatchingAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> net = TorchClassifier(max_epochs=10, device="cpu")
    >>> attack = GradientMatchingAttack(
    ...     X[1500:1501], target_labels=8, budget=0.02, eps=0.2, surrogate=net,
    ...     max_iter=20, n_restarts=2, random_state=0,
    ... )
    >>> data = attack.poison(X[:1500], y[:1500])
    >>> int(data.poison_mask.sum()), sorted(set(y[data.poison_indices].tolist()))
    (30, [8])
    >>> bool(attack.loss_ < 0.7 * attack.loss_curve_[0, 0])
    True
    """

    def __init__(
        self,
        targets=None,
        target_labels=None,
        *,
        target_true_labels=None,
        budget=0.01,
        eps=None,
        norm="linf",
        bounds="data",
        threat_model="single_class",
        poison_class=None,
        selection="random",
        surrogate=None,
        n_ensemble=1,
        ensemble_stagger=None,
        loss="cosine",
        target_loss="cross_entropy",
        multi_target="mean",
        optimizer="sign_adam",
        step_size=None,
        schedule="steps",
        init="randn",
        max_iter=250,
        n_restarts=8,
        batch_size=512,
        batch_mode="exact",
        augment="auto",
        retrain_every=None,
        adaptation=None,
        device="auto",
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.targets = targets
        self.target_labels = target_labels
        self.target_true_labels = target_true_labels
        self.budget = budget
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.threat_model = threat_model
        self.poison_class = poison_class
        self.selection = selection
        self.surrogate = surrogate
        self.n_ensemble = n_ensemble
        self.ensemble_stagger = ensemble_stagger
        self.loss = loss
        self.target_loss = target_loss
        self.multi_target = multi_target
        self.optimizer = optimizer
        self.step_size = step_size
        self.schedule = schedule
        self.init = init
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.batch_size = batch_size
        self.batch_mode = batch_mode
        self.augment = augment
        self.retrain_every = retrain_every
        self.adaptation = adaptation
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        losses = ["cross_entropy", "cw", "untargeted"]
        check_option("target_loss", self.target_loss, losses)
        if self.target_loss == "untargeted" and self.targets is not None:
            if self.target_true_labels is None:
                raise ValueError("target_loss='untargeted' needs target_true_labels")
        check_option("multi_target", self.multi_target, ["mean", "separate", "split"])
        if self.adaptation is not None:
            if not isinstance(self.adaptation, Adaptation):
                raise TypeError(
                    f"adaptation must be an Adaptation, got {self.adaptation!r}"
                )
            self.adaptation.validate()
        self._check_targeting(X, y)

    @property
    def _goal_loss(self):
        return self.target_loss

    def _goal_rows(self, X, y):
        untargeted = self.target_loss == "untargeted"
        codes = self._true_codes if untargeted else self._target_codes()
        rows, codes = self._tensors(self.targets_, codes)
        if self.multi_target == "mean":
            return [(rows, codes)]
        return list(zip(rows.split(1), codes.split(1), strict=True))

    def _parts(self, n_rows):
        if self.multi_target != "split":
            return None
        n_targets = len(self.targets_)
        if n_rows < n_targets:
            raise ValueError(
                f"multi_target='split' needs a poisoned row a target: {n_rows} rows, "
                f"{n_targets} targets"
            )
        cuts = [n_rows * t // n_targets for t in range(n_targets + 1)]
        return [(slice(*cuts[t : t + 2]), [t]) for t in range(n_targets)]
