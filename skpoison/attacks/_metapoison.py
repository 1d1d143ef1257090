"""MetaPoison: poisons crafted by differentiating through steps of training."""

import numpy as np

from skpoison.attacks._crafted import TargetedMixin
from skpoison.attacks._unrolled_attack import UnrolledAttack
from skpoison.utils._validation import check_number, check_option


class MetaPoisonAttack(TargetedMixin, UnrolledAttack):
    """MetaPoison: targeted clean-label poisoning by looking ahead in training.

    Threat model: as of :class:`GradientMatchingAttack`. The attacker knows the training
    data and the victim's architecture and recipe, changes a share of the rows within
    ``eps``, labels stay right, and wants given inputs, which he can't touch, to be read
    as ``target_labels``. It asks of the poisons that a few steps of training on them
    turn each network of an ensemble, and differentiates through those steps. The
    defaults are the cheap form of it, on trained networks and steps on the poisons
    alone, which was also the stronger one at small scale; Notes tell how to have the
    paper's, on batches of networks in training.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:]), default=None
        Inputs outside the training set. None takes a random training row, which stays
        in the data with its right label and is hard to win: only good for a trial run.
    target_labels : array-like of shape (n_targets,) or a label, default=None
        What the targets are to be read as. With ``objective="conceal"`` any label but
        the true one.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        Needed by ``threat_model="self"`` and by the objectives "conceal" and "dual".
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored. 0.01
        is the paper's.
    eps : float or array, default=None
        Radius of the additive part in the unit of X. None is 8/255 of the data's
        range, 8 for uint8 images; the paper's.
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
        the targets in features, or given ones, best first. The middle two ask the
        ensemble as crafting starts.
    surrogate : TorchClassifier, torch module, list, FrozenEstimator, "victim" or \
None, default=None
        What is crafted on. Its ``max_epochs`` is the length T of a full training, its
        ``batch_size`` that of the batches that poisons are looked for in. Pipelines of
        linear steps that end in a TorchClassifier are taken too, and frozen estimators
        and skorch nets with ``ensemble_stagger=None``. A list is cycled over the
        ensemble. None is ``TorchClassifier()``.
    n_ensemble : int, default=4
        Surrogates M. The paper has 24; 4 craft a target on a small network and one
        CPU core in seconds.
    ensemble_stagger : {"even", None}, default=None
        None: all members are trained in full and stay as they are. "even", the
        paper's: member m starts at epoch ``m * T // M``, goes on by one epoch a
        crafting step, and starts anew after T epochs; see Notes for the surrogates
        that can.
    max_iter : int, default=60
        Crafting steps C; the paper's.
    n_unroll : int, default=2
        Steps of training K that are differentiated through; the paper's.
    unroll_on : {"poisons", "batches"}, default="poisons"
        What these steps are taken on. "poisons": each of them on all poisons and on
        nothing else, once a crafting step, as in the code of [2]_. "batches", the
        paper's: the first on a batch of the training set that holds poisons, the
        others on those after it, for each such batch of an epoch.
    objective : {"cw", "xent", "conceal", "dual"}, default="cw"
        What is wanted of the unrolled networks, see Notes; the paper's is "cw".
        "conceal" goes with the threat models "self" and "third_party".
    kappa : float, default=100
        Margin at which "cw" is content; the paper's.
    trajectory : {"clean", "poison"}, default="clean"
        What members of a staggered ensemble train on between crafting steps; the
        paper's is "clean".
    inner_lr : float, default=None
        Rate of the unrolled steps. None is 1e-4 on "poisons", where the schedule of
        [2]_ ends, and the surrogate's current learning rate on "batches", the paper's.
    bn_mode : {"train", "eval"} or None, default=None
        Whether unrolled networks use batch statistics, of the batch together with the
        targets, or running ones. None is "eval" on "poisons", whose statistics are not
        those of training, and "train", the paper's, on "batches". Networks without
        batch normalisation are not affected.
    optimizer : {"sign_adam", "adam", "pgd", "mom_pgd", "gd"}, default="sign_adam"
    step_size : float, default=None
        In units of ``eps``. None is 0.4 for "sign_adam" and "adam", 0.1 for the
        others. The published rate is "adam" with 25.
    schedule : {"thirds", "steps", "cosine"}, callable or None, default="thirds"
        "thirds" divides the step by ten after one and two thirds of the steps, as
        published; "steps" after 37, 62 and 87 %. A callable is given step and
        ``max_iter`` and returns a factor.
    init : {"randn", "uniform", "zero"}, default="uniform"
        Start of the additive part; as published.
    color_eps : float, default=0.0
        Largest move of a colour, as a share of the range of each channel of YUV, by a
        smooth map of colour space that each poison gets beside its additive part. For
        images of shape (1 or 3, H, W). The paper's runs have 0.04; 0 switches it off
        and keeps all of the change within ``eps``.
    color_resolution : int, default=10
        Knots of that map along each channel; the paper's.
    color_smoothness : float, default=1.0
        Weight of its penalty; the paper's.
    batch_size : int, default=2048
        Rows, times members, that are in memory at once.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : int, default=0
        1 shows progress on stderr.
    checkpoint : str or Path, default=None
        Folder that keeps the state, that of the members included: a killed fit goes on
        from there and ends with the same bits. Needs ``random_state``. Other targets
        can share the folder, and with it the start of a staggered ensemble.

    Attributes
    ----------
    loss_curve_ : ndarray of shape (max_iter,)
        The objective in each step, the mean over members and unrolled batches.
    eps_ : float or ndarray
    n_iter_ : int
    surrogates_ : list of estimators
        The ensemble as crafting left it; staggered members are at various epochs.
    targets_, target_labels_ : ndarray
    poison_class_ : label or None
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`. With ``color_eps`` the sum of
        both parts.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    Raises
    ------
    ValueError
        Also for surrogates that can't be trained step by step, see Notes, and for
        ``color_eps`` with rows that are no images.

    See Also
    --------
    GradientMatchingAttack : Cheaper, on trained networks.
    skpoison.model_selection.evaluate_targeted : Success over many victims.
    WatermarkAttack : The control without optimisation, to be beaten first.

    Notes
    -----
    The weights :math:`\\theta_0` of a member take K steps on paper,

    .. math:: \\theta_{k+1} = \\theta_k - \\alpha \\nabla_\\theta L(b_k; \\theta_k),

    with :math:`\\alpha` ``inner_lr``. On "poisons" each :math:`b_k` is all poisons
    :math:`x_i + \\delta_i`, or, where they are more than ``batch_size``, each part of
    them in its turn. On "batches" :math:`b_0` holds those of one training batch, and
    the batches after it are the member's next. The gradient in :math:`\\delta` of
    :math:`\\frac{1}{K} \\sum_{k=1}^{K} A(\\theta_k)`, averaged over members and
    batches, moves the poisons; on "batches" that in the first step's poisons, as
    published. With logits z of a target, which is to be read as w, is a t and has
    poisons of class b, :math:`A(\\theta)` is the mean over targets of

    - "cw": :math:`\\max(\\max_{c \\ne w} z_c - z_w, -\\kappa)`,
    - "xent": the cross-entropy with w,
    - "conceal": :math:`-\\log(1 - p_t) - \\log(1 - p_b)`,
    - "dual": "xent" :math:`- \\log(1 - p_t)`.

    The paper's attack is ``unroll_on="batches"``, ``ensemble_stagger="even"`` and
    ``n_ensemble=24``. "First-order MetaPoison", which [2]_ compares with, is the
    default with ``n_ensemble=1``, ``objective="xent"`` and the loss after the last
    step alone.

    Members of one architecture are one batch. With ``ensemble_stagger="even"`` an
    epoch of training follows each crafting step, which is done for surrogates that
    :func:`~skpoison.models.can_train_together` accepts. On clean trajectories members
    don't depend on the targets: :meth:`craft_each` trains them once for all.

    On small networks try gradient matching first. With multilayer perceptrons on 2,000
    rows of Fashion-MNIST, 5 % poisons, ``eps`` 16/255 and 4 near-class targets of 4
    victims each, the default won 13 of 16, gradient matching 15 on the same rows in
    about the same time, the watermark 16 and noise none of 8. Larger ``inner_lr`` was
    no better, 12 of 16 with 0.001 and 7 with the rate of training, 0.05: poisons alone
    soon turn the unrolled networks, and the gradient then says little about training
    on all rows. Staggered members on "poisons" won 10 of 16 (8 members, 0.001), the
    paper's form 5 of 8 in three times the time (4 members, 20 steps). On harder targets
    that form (6 members, 40 steps) won 1 of 16, gradient matching 8, the watermark 12;
    the default was not measured there.

    References
    ----------
    .. [1] W. R. Huang et al. MetaPoison: practical general-purpose clean-label data
       poisoning. NeurIPS 2020. arXiv:2004.00225.
    .. [2] J. Geiping et al. Witches' Brew: industrial scale data poisoning via
       gradient matching. ICLR 2021. arXiv:2009.02276.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import MetaPoisonAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> net = TorchClassifier(max_epochs=6, device="cpu")
    >>> attack = MetaPoisonAttack(
    ...     X[1500:1501], target_labels=8, budget=0.02, eps=0.2, surrogate=net,
    ...     n_ensemble=3, max_iter=8, random_state=0,
    ... )
    >>> data = attack.poison(X[:500], y[:500])
    >>> int(data.poison_mask.sum()), sorted(set(y[data.poison_indices].tolist()))
    (10, [8])
    >>> attack.loss_curve_.shape
    (8,)
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
        n_ensemble=4,
        ensemble_stagger=None,
        max_iter=60,
        n_unroll=2,
        unroll_on="poisons",
        objective="cw",
        kappa=100.0,
        trajectory="clean",
        inner_lr=None,
        bn_mode=None,
        optimizer="sign_adam",
        step_size=None,
        schedule="thirds",
        init="uniform",
        color_eps=0.0,
        color_resolution=10,
        color_smoothness=1.0,
        batch_size=2048,
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
        self.max_iter = max_iter
        self.n_unroll = n_unroll
        self.unroll_on = unroll_on
        self.objective = objective
        self.kappa = kappa
        self.trajectory = trajectory
        self.inner_lr = inner_lr
        self.bn_mode = bn_mode
        self.optimizer = optimizer
        self.step_size = step_size
        self.schedule = schedule
        self.init = init
        self.color_eps = color_eps
        self.color_resolution = color_resolution
        self.color_smoothness = color_smoothness
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    # Parameters

    def _check_params(self, X, y):
        vars(self).pop("_started", None)  # of a fit that failed
        if hasattr(self, "_given"):  # of a sibling, see craft_each
            self._started = vars(self).pop("_given")
        super()._check_params(X, y)
        if self.eps is None:
            self.eps_ = self.eps_ / 2  # 8/255, where the other attacks have 16/255

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        check_option("objective", self.objective, ["cw", "xent", "conceal", "dual"])
        check_option("trajectory", self.trajectory, ["clean", "poison"])
        check_option("unroll_on", self.unroll_on, ["poisons", "batches"])
        if self.bn_mode is not None:
            check_option("bn_mode", self.bn_mode, ["train", "eval"])
        check_number("n_unroll", self.n_unroll, low=1, integer=True)
        check_number("kappa", self.kappa, low=0.0)
        check_number("color_eps", self.color_eps, low=0.0, high=1.0)
        check_number("color_resolution", self.color_resolution, low=2, integer=True)
        check_number("color_smoothness", self.color_smoothness, low=0.0)
        if self.inner_lr is not None:
            check_number("inner_lr", self.inner_lr, low=0.0, strict=True)
        if self.ensemble_stagger is not None:
            from skpoison.attacks._craft._trajectory import unfitted

            check_option("ensemble_stagger", self.ensemble_stagger, ["even"])
            unfitted(self.surrogate, X, self.n_ensemble, self.device)
        elif self.trajectory == "poison":
            raise ValueError(
                "trajectory='poison' needs ensemble_stagger='even': without it members "
                "do not train while poisons are crafted"
            )
        if self.color_eps and (X.ndim != 4 or X.shape[1] not in (1, 3)):
            raise ValueError(
                "color_eps needs images of shape (1 or 3, H, W), got rows of shape "
                f"{X.shape[1:]}"
            )
        self._check_targeting(X, y)
        if self.objective == "conceal" and self.threat_model not in (
            "self",
            "third_party",
        ):
            raise ValueError(
                "objective='conceal' needs threat_model='self' or 'third_party', got "
                f"{self.threat_model!r}"
            )

    def _resolve_targets(self, X, y, keys, streams):
        super()._resolve_targets(X, y, keys, streams)
        if self.objective in ("conceal", "dual") and len(self._true_codes) == 0:
            raise ValueError(f"objective={self.objective!r} needs target_true_labels")

    def attack_outcomes(self, predict, X, y):
        """Tell for each target whether it is read as the attacker wants.

        Parameters
        ----------
        predict : callable
        X, y
            Not used.

        Returns
        -------
        outcomes : ndarray of bool, one a target
            With ``objective="conceal"`` whether it is not read as what it is.
        """
        if self.objective != "conceal":
            return super().attack_outcomes(predict, X, y)
        return np.asarray(predict(self.targets_)) != self.classes_[self._true_codes]
