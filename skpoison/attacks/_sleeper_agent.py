"""Sleeper Agent: a hidden trigger crafted by gradient matching."""

import numpy as np

from skpoison.attacks._backdoor import _BackdoorMixin
from skpoison.attacks._crafted import SelectionMixin
from skpoison.attacks._matching_attack import MatchingAttack
from skpoison.attacks._random_patch import RandomPatchTrigger
from skpoison.utils._containers import take_rows
from skpoison.utils._validation import check_label


class SleeperAgentAttack(_BackdoorMixin, SelectionMixin, MatchingAttack):
    """Hidden-trigger backdoor that survives training from scratch.

    Threat model: the attacker knows the training data and the victim's architecture
    and recipe. He changes rows of ``target_class`` within ``eps``; no training row
    shows the trigger and all labels stay right. Later he marks any input of
    ``source_class`` to have it read as ``target_class``.

    Parameters
    ----------
    trigger : trigger object, default=None
        None is a :class:`RandomPatchTrigger` at the bottom right of images, and
        :class:`ColumnTrigger` for tables. The paper's lands anywhere:
        ``RandomPatchTrigger()``; fully connected networks can't learn that one.
    source_class : label, default=None
        None is the class after ``target_class``, cyclically.
    target_class : label, default=None
        None is the first of ``classes_``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of ALL training rows, floored.
    eps : float or array, default=None
        Radius in the unit of X. None is 16/255 of the data's range, 16 for uint8
        images; the paper's.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
    selection : {"random", "max_gradient"} or array of int, default="max_gradient"
        Which rows of the target class: those with the longest training gradients, as
        published, random or given ones.
    surrogate : see :class:`GradientMatchingAttack`, default=None
    n_ensemble : int, default=1
    ensemble_stagger : {None, "first_n", "full", "inbetween"}, default=None
    loss : str, default="cosine"
        See :class:`GradientMatchingAttack`.
    optimizer : {"sign_adam", "adam", "pgd", "mom_pgd", "gd"}, default="sign_adam"
    step_size : float, default=None
        In units of ``eps``; see :class:`GradientMatchingAttack`.
    schedule : {"steps", "cosine"}, callable or None, default="steps"
    init : {"randn", "uniform", "zero"}, default="randn"
    max_iter : int, default=250
    n_restarts : int, default=1
    batch_size : int, default=512
    batch_mode : {"exact", "per_batch"}, default="exact"
    augment : "auto", "default", ShiftFlip, callable or None, default="auto"
    retrain_every : int, default=50
        Train new surrogates on the poisoned data after so many steps, as published;
        None never does.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : int, default=0
    checkpoint : str or Path, default=None
        See :class:`GradientMatchingAttack`.

    Attributes
    ----------
    trigger_ : trigger object
        Fitted clone.
    source_class_, target_class_ : label
    loss_curve_, restart_losses_, best_restart_, loss_, eps_, n_iter_, surrogates_
        See :class:`GradientMatchingAttack`.
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    HiddenTriggerBackdoorAttack : For victims that fine-tune a last layer.
    CleanLabelBackdoorAttack : The trigger is seen in training.

    Notes
    -----
    The goal of the matching is the gradient of the mean loss of all marked training
    rows of the source class on the target class.

    References
    ----------
    .. [1] H. Souri et al. Sleeper Agent: scalable hidden trigger backdoors for neural
       networks trained from scratch. NeurIPS 2022. arXiv:2106.08970.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import PatchTrigger, SleeperAgentAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = SleeperAgentAttack(
    ...     PatchTrigger("solid", size=2, margin=0, input_shape=(8, 8)),
    ...     source_class=1, target_class=7, budget=0.05, eps=0.3,
    ...     surrogate=TorchClassifier(max_epochs=10, device="cpu"), max_iter=20,
    ...     retrain_every=None, random_state=0,
    ... )
    >>> data = attack.poison(X[:1500] / 16, y[:1500])
    >>> set(y[data.poison_indices].tolist())
    {7}
    """

    def __init__(
        self,
        trigger=None,
        *,
        source_class=None,
        target_class=None,
        budget=0.01,
        eps=None,
        norm="linf",
        bounds="data",
        selection="max_gradient",
        surrogate=None,
        n_ensemble=1,
        ensemble_stagger=None,
        loss="cosine",
        optimizer="sign_adam",
        step_size=None,
        schedule="steps",
        init="randn",
        max_iter=250,
        n_restarts=1,
        batch_size=512,
        batch_mode="exact",
        augment="auto",
        retrain_every=50,
        device="auto",
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.trigger = trigger
        self.source_class = source_class
        self.target_class = target_class
        self.budget = budget
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.selection = selection
        self.surrogate = surrogate
        self.n_ensemble = n_ensemble
        self.ensemble_stagger = ensemble_stagger
        self.loss = loss
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
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def _default_trigger(self, X):
        if np.ndim(X) <= 2:
            return super()._default_trigger(X)
        return RandomPatchTrigger(position="bottom_right")

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        self._check_selection(y)
        self._fit_trigger(X, y)
        target = int(np.flatnonzero(self.classes_ == self.target_class_)[0])
        source = (target + 1) % len(self.classes_)
        if self.source_class is not None:
            source = check_label("source_class", self.source_class, self.classes_)
            if source == target and len(self.classes_) > 1:
                raise ValueError(
                    f"source_class and target_class are both {self.source_class!r}"
                )
        self.source_class_ = self.classes_[source]

    def _candidates(self, y):
        if not isinstance(self.selection, str):
            return np.isin(np.arange(len(y)), self._selected(len(y)))
        return self.classes_[y] == self.target_class_

    def _goal_rows(self, X, y):
        sources = X[self.classes_[y] == self.source_class_]
        code = np.flatnonzero(self.classes_ == self.target_class_)
        marked = self.trigger_.apply(sources)
        return [self._tensors(marked, np.repeat(code, len(marked)))]

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
