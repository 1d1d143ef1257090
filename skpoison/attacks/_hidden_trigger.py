"""Hidden-trigger backdoor: poisons that feel like triggered rows and show none."""

import numpy as np

from skpoison.attacks._backdoor import MarkedRowsMixin
from skpoison.attacks._crafted import CraftedAttack
from skpoison.attacks._feature_collision import check_layer, feature_map
from skpoison.utils._containers import take_rows
from skpoison.utils._validation import check_label, check_option


class HiddenTriggerBackdoorAttack(MarkedRowsMixin, CraftedAttack):
    """Hidden trigger: rows of the target class take the features of triggered ones.

    Threat model: the victim trains a linear layer on the features of a network that
    the attacker knows, or fine-tunes it. He changes a share of the rows within
    ``eps``; labels stay right and no row shows the trigger. Later he marks rows of
    ``source_class`` to have them read as ``target_class``.

    Parameters
    ----------
    trigger : trigger object, default=None
        None is :class:`ColumnTrigger` for tables, :class:`PatchTrigger` for images.
    target_class : label, default=None
        None is the first of ``classes_``.
    source_class : label, default=None
        None is the class after the target class.
    budget : int or float, default=0.05
        Rows that are poisoned: a count, or a share of ALL training rows, floored. At
        most every row of the target class.
    eps : float or array, default=None
        Radius in the unit of X. None is 16/255 of the data's range, 16 for uint8
        images; the paper's. The "Just How Toxic" benchmark's is 8/255.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that poisons never leave.
    matching : {"greedy", "hungarian"}, default="greedy"
        How each poison gets a triggered row of its own in each step: nearest pair
        first, as in the paper, or the least sum of squared distances.
    surrogate : TorchClassifier, module, list, FrozenEstimator, "victim" or None, \
default=None
        The feature extractor: trained on the clean data, or, in a FrozenEstimator, as
        it is. See :class:`GradientMatchingAttack`.
    n_ensemble : int, default=1
        Extractors; the distance is the mean over them.
    layer : str, default=None
        Module whose output are the features. None is what enters the last linear
        layer.
    optimizer : {"sign_adam", "adam", "pgd", "mom_pgd", "gd"}, default="sign_adam"
        The paper's is "gd", whose rate depends on the scale of the features and which
        takes thousands of steps.
    step_size : float, default=None
        In units of ``eps``. None is 0.4 for "sign_adam" and "adam", 0.1 for the others.
    schedule : {"steps", "cosine"}, callable or None, default="steps"
        See :class:`GradientMatchingAttack`.
    init : {"randn", "uniform", "zero"}, default="zero"
        Start; "zero" as published.
    max_iter : int, default=250
        Crafting steps. The paper's plain gradient steps are 5000.
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
        Mean squared distance of the pairs at the start of each step.
    trigger_, shown_trigger_, target_class_
        See :class:`BackdoorAttack`.
    source_class_ : label
    n_iter_ : int
    eps_ : float or ndarray
    surrogates_ : list of estimators
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    SleeperAgentAttack : A hidden trigger for networks trained from scratch.
    CleanLabelBackdoorAttack : The trigger is in the training rows.

    Notes
    -----
    Each step draws as many rows s of the source class as there are poisons, marks them
    and pairs them one to one with the poisons, which move down

    .. math:: \\sum_j \\|\\phi(z_j) - \\phi(\\mathrm{trigger}(s_{\\pi(j)}))\\|^2,
              \\quad \\|z_j - t_j\\| \\le \\epsilon .

    References
    ----------
    .. [1] A. Saha, A. Subramanya and H. Pirsiavash. Hidden trigger backdoor attacks.
       AAAI 2020. arXiv:1910.00033.
    .. [2] A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark
       for backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skpoison.attacks import HiddenTriggerBackdoorAttack, PatchTrigger
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> net = TorchClassifier(max_epochs=10, device="cpu", random_state=0)
    >>> net = net.fit(X[:1000], y[:1000])
    >>> attack = HiddenTriggerBackdoorAttack(
    ...     PatchTrigger(size=2, input_shape=(8, 8)), target_class=3, source_class=8,
    ...     eps=0.2, surrogate=FrozenEstimator(net), max_iter=30, random_state=0,
    ... )
    >>> X_poisoned = attack.fit_transform(X[1000:1500], y[1000:1500])
    >>> bool(attack.loss_curve_[-1] < 0.5 * attack.loss_curve_[0])
    True
    """

    def __init__(
        self,
        trigger=None,
        *,
        target_class=None,
        source_class=None,
        budget=0.05,
        eps=None,
        norm="linf",
        bounds="data",
        matching="greedy",
        surrogate=None,
        n_ensemble=1,
        layer=None,
        optimizer="sign_adam",
        step_size=None,
        schedule="steps",
        init="zero",
        max_iter=250,
        batch_size=512,
        augment="auto",
        device="auto",
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.trigger = trigger
        self.target_class = target_class
        self.source_class = source_class
        self.budget = budget
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.matching = matching
        self.surrogate = surrogate
        self.n_ensemble = n_ensemble
        self.layer = layer
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
        check_layer(self.layer)
        check_option("matching", self.matching, ["greedy", "hungarian"])
        self._fit_trigger(X, y)
        target = int(np.flatnonzero(self.classes_ == self.target_class_)[0])
        source = (target + 1) % len(self.classes_)
        if self.source_class is not None:
            source = check_label("source_class", self.source_class, self.classes_)
            if source == target:
                raise ValueError(
                    f"source_class and target_class are both {self.source_class!r}"
                )
        self.source_class_ = self.classes_[source]

    def _craft(self, X, y, rows, streams):
        from skpoison.attacks._craft._features import Pairs
        from skpoison.attacks._craft._minimise import minimise

        store = self._store(X, y, streams)
        features = feature_map(self, X, y, streams, store)
        ball = self._ball(X[rows])
        sources = X[self.classes_[y] == self.source_class_]
        marked = self._tensors(self.trigger_.apply(sources))
        crafted = minimise(
            Pairs(features, ball.x, marked, self.matching),
            ball.start(self.init, ball.x.shape, streams.torch("start")),
            ball,
            n_steps=self.max_iter,
            optimizer=self.optimizer,
            step_size=self.step_size,
            schedule=self.schedule,
            store=store,
            verbose=self.verbose,
        )
        self.n_iter_, self.loss_curve_ = self.max_iter, crafted.curve
        return ball.legal(crafted.delta, X[rows], self._bounds, self.eps_)

    def attack_outcomes(self, predict, X, y):
        """Tell, for each held-out row of the source class, whether the trigger works.

        Parameters
        ----------
        predict : callable
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        outcomes : ndarray of bool
        """
        sources = np.flatnonzero(np.asarray(y) == self.source_class_)
        if len(sources) == 0:
            return np.zeros(0, dtype=bool)
        marked = self.apply_trigger(take_rows(X, sources))
        return np.asarray(predict(marked)) == self.target_class_
