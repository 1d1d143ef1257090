"""Convex polytope and bullseye: poisons that surround the target in feature space."""

import numpy as np

from skpoison.attacks._feature_collision import FeatureAttack, feature_map


class _PolytopeAttack(FeatureAttack):
    """Base of both: one objective over all poisons of one target."""

    #: Whether coefficients stay equal.
    _centred = False

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
        layer=None,
        end_to_end=False,
        optimizer="adam",
        step_size=None,
        schedule=None,
        init="zero",
        max_iter=1200,
        batch_size=512,
        augment="auto",
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
        self.layer = layer
        self.end_to_end = end_to_end
        self.optimizer = optimizer
        self.step_size = step_size
        self.schedule = schedule
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.augment = augment
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        if not isinstance(self.end_to_end, bool):
            raise TypeError(f"end_to_end must be a bool, got {self.end_to_end!r}")
        if self.end_to_end and self.layer is not None:
            raise ValueError(
                f"layer={self.layer!r} names one layer, end_to_end=True takes them all"
            )
        if self.targets is not None:
            labels = np.unique(np.asarray(self.target_labels))
            if len(labels) > 1:
                raise ValueError(
                    "target_labels must be one label, since targets are views of one "
                    f"thing here, got {labels.tolist()}; craft_each crafts for several "
                    "targets"
                )

    def _craft(self, X, y, rows, streams):
        from skpoison.attacks._craft._features import Polytope
        from skpoison.attacks._craft._minimise import minimise

        store = self._store(X, y, streams)
        features = feature_map(self, X, y, streams, store)
        ball = self._ball(X[rows])
        aims = features.of(self._tensors(self.targets_))
        objective = Polytope(features, ball.x, aims, self._centred)
        start = ball.start(self.init, ball.x.shape, streams.torch("start"))
        crafted = minimise(
            objective,
            start,
            ball,
            n_steps=self.max_iter,
            optimizer=self.optimizer,
            step_size=self.step_size,
            schedule=self.schedule,
            store=store,
            verbose=self.verbose,
        )
        self.n_iter_ = self.max_iter
        self.loss_curve_ = crafted.curve
        self.coefficients_ = objective.coefficients.numpy()
        return ball.legal(crafted.delta, X[rows], self._bounds, self.eps_)


class ConvexPolytopeAttack(_PolytopeAttack):
    """Convex polytope: the target inside the convex hull of the poisons' features.

    Threat model: the victim trains a linear layer on the features of a frozen network
    unknown to the attacker, or fine-tunes one. He has similar networks, and changes a
    share of the rows; labels stay right.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:]), default=None
        Inputs outside the training set; several are views of one thing, whose mean
        features are aimed at. None takes a random training row, for a trial run.
    target_labels : array-like of shape (n_targets,) or a label, default=None
        What the targets are to be read as; one label.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        Needed by ``threat_model="self"``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored. 0.01
        is the share of the "Just How Toxic" benchmark; the paper uses 5 rows.
    eps : float or array, default=None
        Radius in the unit of X. None is 16/255 of the data's range, 16 for uint8
        images; the paper's is 0.1 of it, the benchmark's 8/255.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that poisons never leave.
    threat_model : {"single_class", "third_party", "random_subset", "self"}, \
default="single_class"
        See :class:`GradientMatchingAttack`.
    poison_class : label, default=None
        The class of "third_party"; None draws one.
    selection : {"random", "max_gradient", "nearest"} or array of int, default="random"
        See :class:`GradientMatchingAttack`.
    surrogate : TorchClassifier, module, list, FrozenEstimator, "victim" or None, \
default=None
        The feature extractor: trained on the clean data, or, in a FrozenEstimator, as
        it is. See :class:`GradientMatchingAttack`.
    n_ensemble : int, default=1
        Extractors; a list in ``surrogate`` is cycled over them.
    layer : str, default=None
        Module whose output are the features. None is what enters the last linear
        layer.
    end_to_end : bool, default=False
        Sum the objective over what enters each layer with weights but the first: for
        victims whose features are trained too.
    optimizer : {"adam", "sign_adam", "pgd", "mom_pgd", "gd"}, default="adam"
        The paper's.
    step_size : float, default=None
        In units of ``eps``. None is 0.4 for "adam" and "sign_adam", the paper's 0.04 at
        its ``eps`` of 0.1, and 0.1 for the others.
    schedule : {"steps", "cosine"}, callable or None, default=None
        See :class:`GradientMatchingAttack`. None, as published.
    init : {"randn", "uniform", "zero"}, default="zero"
        Start; "zero" as published.
    max_iter : int, default=1200
        Crafting steps; the benchmark's. The paper makes 4000.
    batch_size : int, default=512
        Rows, times extractors, that are in memory at once.
    augment : "auto", "default", ShiftFlip, callable or None, default="auto"
        Random augmentation that poisons are crafted through. "auto" is what the
        surrogate trains with; "default" is ``ShiftFlip()``.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : int, default=0
        1 shows progress on stderr.
    checkpoint : str or Path, default=None
        Folder that keeps the state: a killed fit goes on from there and ends with the
        same bits. Needs ``random_state``.

    Attributes
    ----------
    loss_curve_ : ndarray of shape (max_iter,)
        The objective at the start of each step.
    coefficients_ : ndarray of shape (n_ensemble * n_layers, n_poisons)
        Of the last step; a row sums to 1.
    n_iter_ : int
    eps_ : float or ndarray
    surrogates_ : list of estimators
    targets_, target_labels_ : ndarray
    poison_class_ : label or None
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    BullseyePolytopeAttack : Coefficients stay equal; stronger and faster.
    WatermarkAttack : The control without optimisation, to be beaten first.

    Notes
    -----
    With E extractors the poisons :math:`x_j` minimise

    .. math:: \\frac{1}{2 E} \\sum_m
              \\frac{\\|\\phi_m(t) - \\sum_j c_j^m \\phi_m(x_j)\\|^2}
              {\\|\\phi_m(t)\\|^2}

    over coefficients :math:`c^m` that are at least 0 and sum to 1: a linear classifier
    that reads all poisons as their class then reads the target so too. Each step
    solves for the coefficients first, those of all extractors and layers as one batch.
    A poison whose coefficients are all 0 stays where it is.

    References
    ----------
    .. [1] C. Zhu et al. Transferable clean-label poisoning attacks on deep neural nets.
       ICML 2019. arXiv:1905.05897.
    .. [2] A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark
       for backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skpoison.attacks import ConvexPolytopeAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> net = TorchClassifier(max_epochs=10, device="cpu", random_state=0)
    >>> net = net.fit(X[:1000], y[:1000])
    >>> attack = ConvexPolytopeAttack(
    ...     X[1500:1501], target_labels=8, budget=5, eps=0.2,
    ...     surrogate=FrozenEstimator(net), max_iter=50, random_state=0,
    ... )
    >>> X_poisoned = attack.fit_transform(X[1000:1500], y[1000:1500])
    >>> bool(attack.loss_curve_[-1] < 0.5 * attack.loss_curve_[0])
    True
    """


class BullseyePolytopeAttack(_PolytopeAttack):
    """Bullseye polytope: the mean of the poisons' features at the target's.

    Threat model: that of :class:`ConvexPolytopeAttack`. The target ends in the middle
    of the poisons and not somewhere at the border of their hull, which moves less from
    one network to another.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:]), default=None
        Inputs outside the training set; several are views of one thing, whose mean
        features are aimed at. None takes a random training row, for a trial run.
    target_labels : array-like of shape (n_targets,) or a label, default=None
        What the targets are to be read as; one label.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        Needed by ``threat_model="self"``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored. 0.01
        is the share of the "Just How Toxic" benchmark; the paper uses 5 rows.
    eps : float or array, default=None
        Radius in the unit of X. None is 16/255 of the data's range, 16 for uint8
        images; the paper's is 0.1 of it, the benchmark's 8/255.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that poisons never leave.
    threat_model : {"single_class", "third_party", "random_subset", "self"}, \
default="single_class"
        See :class:`GradientMatchingAttack`.
    poison_class : label, default=None
        The class of "third_party"; None draws one.
    selection : {"random", "max_gradient", "nearest"} or array of int, default="random"
        See :class:`GradientMatchingAttack`.
    surrogate : TorchClassifier, module, list, FrozenEstimator, "victim" or None, \
default=None
        The feature extractor: trained on the clean data, or, in a FrozenEstimator, as
        it is. See :class:`GradientMatchingAttack`.
    n_ensemble : int, default=1
        Extractors; a list in ``surrogate`` is cycled over them.
    layer : str, default=None
        Module whose output are the features. None is what enters the last linear
        layer.
    end_to_end : bool, default=False
        Sum the objective over what enters each layer with weights but the first: for
        victims whose features are trained too.
    optimizer : {"adam", "sign_adam", "pgd", "mom_pgd", "gd"}, default="adam"
        The paper's.
    step_size : float, default=None
        In units of ``eps``. None is 0.4 for "adam" and "sign_adam", the paper's 0.04 at
        its ``eps`` of 0.1, and 0.1 for the others.
    schedule : {"steps", "cosine"}, callable or None, default=None
        See :class:`GradientMatchingAttack`. None, as published.
    init : {"randn", "uniform", "zero"}, default="zero"
        Start; "zero" as published.
    max_iter : int, default=1200
        Crafting steps; the benchmark's. The paper makes 4000.
    batch_size : int, default=512
        Rows, times extractors, that are in memory at once.
    augment : "auto", "default", ShiftFlip, callable or None, default="auto"
        Random augmentation that poisons are crafted through. "auto" is what the
        surrogate trains with; "default" is ``ShiftFlip()``.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : int, default=0
        1 shows progress on stderr.
    checkpoint : str or Path, default=None
        Folder that keeps the state: a killed fit goes on from there and ends with the
        same bits. Needs ``random_state``.

    Attributes
    ----------
    loss_curve_ : ndarray of shape (max_iter,)
        The objective at the start of each step.
    coefficients_ : ndarray of shape (n_ensemble * n_layers, n_poisons)
        Of the last step; a row sums to 1.
    n_iter_ : int
    eps_ : float or ndarray
    surrogates_ : list of estimators
    targets_, target_labels_ : ndarray
    poison_class_ : label or None
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    ConvexPolytopeAttack : Coefficients are found too.
    WatermarkAttack : The control without optimisation, to be beaten first.

    Notes
    -----
    With E extractors the P poisons :math:`x_j` minimise

    .. math:: \\frac{1}{E} \\sum_m
              \\frac{\\|\\frac{1}{P} \\sum_j \\phi_m(x_j) - \\phi_m(t)\\|}
              {\\|\\phi_m(t)\\|} .

    References
    ----------
    .. [1] H. Aghakhani et al. Bullseye polytope: a scalable clean-label poisoning
       attack with improved transferability. EuroS&P 2021. arXiv:2005.00191.
    .. [2] A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark
       for backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skpoison.attacks import BullseyePolytopeAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> net = TorchClassifier(max_epochs=10, device="cpu", random_state=0)
    >>> net = net.fit(X[:1000], y[:1000])
    >>> attack = BullseyePolytopeAttack(
    ...     X[1500:1501], target_labels=8, budget=5, eps=0.2,
    ...     surrogate=FrozenEstimator(net), max_iter=50, random_state=0,
    ... )
    >>> X_poisoned = attack.fit_transform(X[1000:1500], y[1000:1500])
    >>> bool(attack.loss_curve_[-1] < 0.5 * attack.loss_curve_[0])
    True
    """

    _centred = True
