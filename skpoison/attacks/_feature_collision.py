"""Feature collision: poisons that a frozen network takes for the target."""

import numpy as np

from skpoison.attacks._crafted import CraftedAttack, TargetedMixin
from skpoison.utils._validation import check_number


def deal_targets(labels, target_labels):
    """Give each row one of the targets, in turn.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    target_labels : ndarray of shape (n_targets,)

    Returns
    -------
    dealt : ndarray of int of shape (n,)
        A target that is wanted as the row's own label, where there is one.
    """
    dealt = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        wanted = np.flatnonzero(target_labels == label)
        if len(wanted) == 0:
            wanted = np.arange(len(target_labels))
        dealt[rows] = np.resize(wanted, len(rows))
    return dealt


class UnboundedAttack(CraftedAttack):
    """Base of attacks whose ``eps=None`` is no ball at all."""

    def _check_params(self, X, y):
        super()._check_params(X, y)
        if self.eps is None:
            self.eps_ = np.asarray(np.inf)


class WatermarkAttack(TargetedMixin, UnboundedAttack):
    """Targets blended into training rows: the control that crafting has to beat.

    Nothing is optimised and no network is needed. Labels stay right.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:]), default=None
        Inputs outside the training set. None takes a random training row, for a trial
        run.
    target_labels : array-like of shape (n_targets,) or a label, default=None
        What the targets are to be read as.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        Needed by ``threat_model="self"``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored.
    alpha : float in (0, 1], default=0.3
        Weight of the target where ``eps`` is None; the opacity of [1]_.
    eps : float or array, default=None
        Radius in the unit of X: rows move towards the target as far as it lets them.
        None sets no radius and blends.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that poisons never leave.
    threat_model : {"single_class", "third_party", "random_subset", "self"}, \
default="single_class"
        See :class:`GradientMatchingAttack`.
    poison_class : label, default=None
        The class of "third_party"; None draws one.
    selection : "random" or array of int, default="random"
        Which of those rows: at random, or given ones, best first.
    random_state : None, int, RandomState or Generator, default=None

    Attributes
    ----------
    eps_ : float or ndarray
        Infinite without a radius.
    targets_, target_labels_ : ndarray
    poison_class_ : label or None
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    FeatureCollisionAttack : Optimised, and much fainter.
    GradientMatchingAttack : For networks trained from scratch.

    Notes
    -----
    A row x becomes ``(1 - alpha) x + alpha t`` or, with ``eps``, x plus ``t - x``
    clipped to the ball. Several targets are dealt to the poisons in turn, to those of
    the label wanted for them where there are any.

    References
    ----------
    .. [1] A. Shafahi et al. Poison frogs! Targeted clean-label poisoning attacks on
       neural networks. NeurIPS 2018. arXiv:1804.00792.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import WatermarkAttack
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = WatermarkAttack(X[1500:1501], 8, budget=20, random_state=0)
    >>> data = attack.poison(X[:1500], y[:1500])
    >>> row = data.poison_indices[0]
    >>> bool(abs(data.X[row] - 0.7 * X[row] - 0.3 * X[1500]).max() < 1e-9)
    True
    """

    _selections = ("random",)

    def __init__(
        self,
        targets=None,
        target_labels=None,
        *,
        target_true_labels=None,
        budget=0.01,
        alpha=0.3,
        eps=None,
        norm="linf",
        bounds="data",
        threat_model="single_class",
        poison_class=None,
        selection="random",
        random_state=None,
    ):
        self.targets = targets
        self.target_labels = target_labels
        self.target_true_labels = target_true_labels
        self.budget = budget
        self.alpha = alpha
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.threat_model = threat_model
        self.poison_class = poison_class
        self.selection = selection
        self.random_state = random_state

    #: Where the perturbations are projected.
    device = "cpu"

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        check_number("alpha", self.alpha, low=0.0, high=1.0, strict=True)
        self._check_targeting(X, y)

    def _craft(self, X, y, rows, streams):
        import torch

        dealt = deal_targets(self.classes_[y[rows]], self.target_labels_)
        towards = self.targets_[dealt].astype(float) - X[rows]
        if self.eps is None:
            towards = self.alpha * towards
        self.n_iter_ = 1
        ball = self._ball(X[rows])
        towards = torch.from_numpy(towards / ball.scale)
        return ball.legal(towards, X[rows], self._bounds, self.eps_)


class FeatureAttack(TargetedMixin, CraftedAttack):
    """Base of targeted attacks whose poisons meet the targets in feature space.

    Notes
    -----
    Parameters read: those of the bases, ``layer, augment, batch_size``, and
    ``end_to_end`` where there is one.
    """

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        check_layer(self.layer)
        self._check_targeting(X, y)


def check_layer(layer):
    """Raise unless `layer` may name a module."""
    if layer is not None and not (isinstance(layer, str) and layer):
        raise TypeError(f"layer must be None or the name of a module, got {layer!r}")


def feature_map(attack, X, y, streams, store):
    """Train an attack's surrogates and return the map to their features."""
    from skpoison.attacks._craft._features import FeatureMap, places_of

    groups = attack._members(X, y, streams, store)
    end_to_end = getattr(attack, "end_to_end", False)
    return FeatureMap(
        groups,
        [places_of(members, attack.layer, end_to_end) for members in groups],
        streams=streams,
        augment=attack._augmentation(),
        batch_size=attack.batch_size,
    )


class FeatureCollisionAttack(FeatureAttack, UnboundedAttack):
    """Poison Frogs: each poison looks like its own class and feels like the target.

    Threat model: the victim trains a linear layer on the features of a frozen network,
    or fine-tunes one. The attacker knows it, or similar ones, and changes a share of
    the rows; labels stay right.

    Parameters
    ----------
    targets : array-like of shape (n_targets, *X.shape[1:]), default=None
        Inputs outside the training set. None takes a random training row, for a trial
        run.
    target_labels : array-like of shape (n_targets,) or a label, default=None
        What the targets are to be read as.
    target_true_labels : array-like of shape (n_targets,) or a label, default=None
        Needed by ``threat_model="self"``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored. 0.01
        is the share of the "Just How Toxic" benchmark.
    eps : float or array, default=None
        Radius in the unit of X; the benchmark's is 8/255. None sets no radius: the
        penalty ``beta`` alone keeps poisons near their clean rows, as in the paper.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that poisons never leave.
    beta : float, default=0.25
        Weight of the penalty, times ``(n_features / n_inputs) ** 2``; the paper's.
    opacity : float in [0, 1), default=0.0
        Start from rows into which so much of the target is blended. The paper's 0.3
        is for victims that are trained end to end.
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
        Extractors; the distance is the mean over them.
    layer : str, default=None
        Module whose output are the features. None is what enters the last linear
        layer.
    optimizer : {"fbs", "sign_adam"}, default="fbs"
        Forward-backward splitting with a rate for each poison, or Adam on the sign of
        the gradient, which needs ``eps``.
    step_size : float, default=None
        For "fbs" times a rate that is found from value f and gradient of the distance
        at the start, ``2 f / ||grad f||^2``; None is 1. For "sign_adam" in units of
        ``eps``; None is 0.4.
    max_iter : int, default=250
        Crafting steps at most. The benchmark makes 120, the paper up to 1500.
    tol : float, default=1e-5
        "fbs" leaves a poison alone once a step changes its objective by less than this
        share; the larger of the published values.
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
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        Mean objective at the start and after each step of "fbs"; at the start of each
        step of "sign_adam".
    n_iter_ : int
    eps_ : float or ndarray
        Infinite without a radius.
    surrogates_ : list of estimators
    targets_, target_labels_ : ndarray
    poison_class_ : label or None
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    BullseyePolytopeAttack : The poisons together surround the target; transfers better.
    WatermarkAttack : The control without optimisation, to be beaten first.

    Notes
    -----
    For a clean row b and a target t each poison minimises

    .. math:: \\|\\phi(x) - \\phi(t)\\|^2 + \\beta \\|x - b\\|^2 .

    A step of rate :math:`\\lambda` goes forward,
    :math:`\\hat x = x - \\lambda \\nabla_x \\|\\phi(x) - \\phi(t)\\|^2`, and backward,
    :math:`x = (\\hat x + 2 \\lambda \\beta b) / (1 + 2 \\lambda \\beta)`; with ``eps``
    the projection on the ball takes the place of the latter. A step that lifts the
    objective over the mean of the last 40 values is taken back and the rate halved.
    Several targets are dealt to the poisons in turn, to those of the label wanted for
    them where there are any. Distances are in the unit that networks take: pixels of
    uint8 images are divided by 255.

    References
    ----------
    .. [1] A. Shafahi et al. Poison frogs! Targeted clean-label poisoning attacks on
       neural networks. NeurIPS 2018. arXiv:1804.00792.
    .. [2] A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark
       for backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skpoison.attacks import FeatureCollisionAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> net = TorchClassifier(max_epochs=10, device="cpu", random_state=0)
    >>> net = net.fit(X[:1000], y[:1000])
    >>> attack = FeatureCollisionAttack(
    ...     X[1500:1501], target_labels=8, budget=10, eps=0.2,
    ...     surrogate=FrozenEstimator(net), max_iter=50, random_state=0,
    ... )
    >>> X_poisoned = attack.fit_transform(X[1000:1500], y[1000:1500])
    >>> bool(attack.loss_curve_[-1] < 0.5 * attack.loss_curve_[0])
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
        beta=0.25,
        opacity=0.0,
        threat_model="single_class",
        poison_class=None,
        selection="random",
        surrogate=None,
        n_ensemble=1,
        layer=None,
        optimizer="fbs",
        step_size=None,
        max_iter=250,
        tol=1e-5,
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
        self.beta = beta
        self.opacity = opacity
        self.threat_model = threat_model
        self.poison_class = poison_class
        self.selection = selection
        self.surrogate = surrogate
        self.n_ensemble = n_ensemble
        self.layer = layer
        self.optimizer = optimizer
        self.step_size = step_size
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.augment = augment
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    _optimizers = ("fbs", "sign_adam")

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        if self.optimizer == "sign_adam" and self.eps is None:
            raise ValueError("optimizer='sign_adam' moves in units of eps: give one")
        check_number("beta", self.beta, low=0.0)
        check_number("tol", self.tol, low=0.0)
        check_number("opacity", self.opacity, low=0.0, high=1.0)

    def _craft(self, X, y, rows, streams):
        import torch

        from skpoison.attacks._craft._features import Collision, forward_backward
        from skpoison.attacks._craft._minimise import minimise

        store = self._store(X, y, streams)
        features = feature_map(self, X, y, streams, store)
        dealt = torch.from_numpy(
            deal_targets(self.classes_[y[rows]], self.target_labels_)
        )
        ball, targets = self._ball(X[rows]), self._tensors(self.targets_)
        aims = [aim[:, dealt] for aim in features.of(targets)]
        objective = Collision(features, ball.x, aims, self.beta)
        start = ball.project(self.opacity * (targets[dealt] - ball.x))
        common = {"n_steps": self.max_iter, "store": store, "verbose": self.verbose}
        if self.optimizer == "fbs":
            step_size = 1.0 if self.step_size is None else self.step_size
            crafted = forward_backward(
                objective, start, ball, step_size=step_size, tol=self.tol, **common
            )
            self.n_iter_ = len(crafted.curve) - 1
        else:
            crafted = minimise(
                objective, start, ball, step_size=self.step_size, **common
            )
            self.n_iter_ = self.max_iter
        self.loss_curve_ = crafted.curve
        return ball.legal(crafted.delta, X[rows], self._bounds, self.eps_)
