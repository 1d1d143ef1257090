"""Backdoors: a trigger in the training rows that the attacker can pull later."""

import warnings

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone

from skpoison.attacks._column_trigger import ColumnTrigger
from skpoison.attacks._crafted import CraftedAttack
from skpoison.attacks._triggers import PatchTrigger
from skpoison.base import SamplerMixin
from skpoison.utils._containers import append_rows, is_frame, put_rows, take_rows
from skpoison.utils._tensors import project, quantize
from skpoison.utils._validation import (
    check_bounds,
    check_eps,
    check_label,
    check_number,
    check_option,
)


class _BackdoorMixin:
    """Trigger, target class and success of a backdoor, whatever its training rows."""

    def _fit_trigger(self, X, y):
        """Set target_class_, trigger_ and shown_trigger_."""
        target = 0
        if self.target_class is not None:
            target = check_label("target_class", self.target_class, self.classes_)
        self.target_class_ = self.classes_[target]
        trigger, shown = self._triggers(X)
        self.trigger_ = self.shown_trigger_ = clone(trigger).fit(X, y)
        if shown is not trigger:
            self.shown_trigger_ = clone(shown).fit(X, y)

    def _triggers(self, X):
        """Return the trigger of training rows and what the attacker shows later."""
        trigger = self._default_trigger(X) if self.trigger is None else self.trigger
        shown = getattr(self, "test_trigger", None)
        pair = {"trigger": trigger, "test_trigger": trigger if shown is None else shown}
        for name, one in pair.items():
            if not (hasattr(one, "fit") and hasattr(one, "apply")):
                raise TypeError(
                    f"{name} must have fit and apply, as PatchTrigger() does, got "
                    f"{one!r}"
                )
        return tuple(pair.values())

    def _default_trigger(self, X):
        table = is_frame(X) or sparse.issparse(X) or np.ndim(X) == 2
        return ColumnTrigger() if table else PatchTrigger()

    def apply_trigger(self, X):
        """Return X with the trigger on every row, as an attacker would present it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        X_marked : like X
        """
        return self.shown_trigger_.apply(X)

    def attack_outcomes(self, predict, X, y):
        """Tell, for each held-out row of another class, whether the trigger works.

        Parameters
        ----------
        predict : callable
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        outcomes : ndarray of bool
            One for each row whose label is not ``target_class_``.
        """
        others = np.flatnonzero(np.asarray(y) != self.target_class_)
        if len(others) == 0:
            return np.zeros(0, dtype=bool)
        triggered = self.apply_trigger(take_rows(X, others))
        return np.asarray(predict(triggered)) == self.target_class_


class BackdoorAttack(_BackdoorMixin, SamplerMixin, BaseEstimator):
    """Dirty-label backdoor: marked rows, relabelled as the target class.

    Threat model: the attacker changes rows and labels of a share of the training
    data; later he marks any input with the trigger to have it read as
    ``target_class``.

    Parameters
    ----------
    trigger : trigger object, default=None
        With ``fit(X)`` and ``apply(X)``. None is :class:`ColumnTrigger` for tables
        and :class:`PatchTrigger` for images.
    target_class : label, default=None
        None is the first of ``classes_``.
    budget : int or float, default=0.1
        Rows that are poisoned: a count, or a share of all training rows, floored.
        0.1 is the BadNets paper's share.
    mode : {"replace", "append"}, default="replace"
        Whether poisoned rows take the place of their clean originals or are added
        at the end.
    test_trigger : trigger object, default=None
        What the attacker shows to the victim later, where it is not ``trigger``: a
        stronger version of it, say.
    random_state : None, int, RandomState or Generator, default=None
        Which rows are poisoned. Those of a smaller budget are among those of a
        larger one.

    Attributes
    ----------
    trigger_, shown_trigger_ : trigger objects
        Fitted clones of ``trigger`` and ``test_trigger``.
    target_class_ : label
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    CleanLabelBackdoorAttack : Labels stay right.

    Notes
    -----
    Rows are drawn from those that are not of the target class. Success is the share
    of held-out rows of other classes that are read as the target class once marked;
    the control is the same share for a model trained on clean data.

    References
    ----------
    Gu, Dolan-Gavitt and Garg (2017), BadNets: identifying vulnerabilities in the
    machine learning model supply chain. arXiv:1708.06733.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.attacks import BackdoorAttack, PatchTrigger
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> patch = PatchTrigger("solid", size=(1, 3), margin=0, input_shape=(8, 8))
    >>> attack = BackdoorAttack(patch, target_class=0, budget=0.05, random_state=0)
    >>> data = attack.poison(X[:1200], y[:1200])
    >>> int(data.poison_mask.sum())
    60
    >>> victim = LogisticRegression(max_iter=300).fit(data.X, data.y)
    >>> victim.score(X[1200:], y[1200:]) > 0.85
    True
    >>> attack.attack_success(victim.predict, X[1200:], y[1200:]) > 0.7
    True
    """

    def __init__(
        self,
        trigger=None,
        *,
        target_class=None,
        budget=0.1,
        mode="replace",
        test_trigger=None,
        random_state=None,
    ):
        self.trigger = trigger
        self.target_class = target_class
        self.budget = budget
        self.mode = mode
        self.test_trigger = test_trigger
        self.random_state = random_state

    def _check_params(self, X, y):
        check_option("mode", self.mode, ["replace", "append"])
        self._fit_trigger(X, y)

    def _resample(self, X, y, n_rows, streams):
        wanted = self._wanted(y)
        others = np.flatnonzero(y != wanted)
        chosen = np.sort(streams.numpy("rows").permutation(others)[:n_rows])
        if len(chosen) < n_rows:
            warnings.warn(
                f"the budget allows {n_rows} rows, but only {len(others)} are not of "
                "the target class: all of them are poisoned",
                UserWarning,
                stacklevel=4,
            )
        if len(chosen) == 0:
            return self._unchanged(X, y)
        marked = self.trigger_.apply(take_rows(X, chosen))
        if self.mode == "replace":
            y = y.copy()
            y[chosen] = wanted[chosen]
            return put_rows(X, chosen, marked), y, chosen, np.arange(len(y))
        poisons = len(y) + np.arange(len(chosen))
        sources = np.concatenate([np.arange(len(y)), chosen])
        y = np.concatenate([y, wanted[chosen]])
        return append_rows(X, marked), y, poisons, sources

    def _wanted(self, y):
        """Return the code that each row gets once it is marked."""
        return np.full_like(y, np.flatnonzero(self.classes_ == self.target_class_)[0])


class MarkedRowsMixin(_BackdoorMixin):
    """Rows of the target class marked, labels right: what clean-label backdoors do."""

    def _candidates(self, y):
        return self.classes_[y] == self.target_class_

    def _marked(self, rows):
        """Return rows with the trigger on, as floats."""
        return self.trigger_.apply(rows).astype(np.result_type(rows, np.float32))


class CleanLabelBackdoorAttack(MarkedRowsMixin, CraftedAttack):
    """Clean-label backdoor: marked rows of the target class, rightly labelled.

    Rows of the target class are first made hard to learn, by steps that raise a
    surrogate's loss on their true label, and then marked: the victim has to lean on
    the trigger.

    Parameters
    ----------
    trigger : trigger object, default=None
        None is :class:`ColumnTrigger` for tables, :class:`PatchTrigger` for images.
        The paper's is ``PatchTrigger(position="corners")``, with an ``amplitude`` of
        16/255 to 64/255 where it is to be faint.
    target_class : label, default=None
        None is the first of ``classes_``.
    budget : int or float, default=0.05
        Rows that are poisoned: a count, or a share of ALL training rows, floored. At
        most every row of the target class.
    eps : float or array, default=0.0
        Radius of the perturbation before marking, in the units of X. 0 marks the
        rows and crafts nothing; the paper uses 8/255 to 32/255 on images in [0, 1].
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that the perturbation never leaves; the trigger may.
    surrogate : TorchClassifier, module, list, FrozenEstimator, "victim" or None, \
default=None
        Trained on the clean data when ``eps`` is not 0, or, in a FrozenEstimator, used
        as it is. None is ``TorchClassifier()``.
    n_ensemble : int, default=1
        Surrogates, whose mean loss is raised.
    max_iter : int, default=20
        Projected gradient steps; the "Just How Toxic" benchmark's number.
    step_size : float, default=None
        In units of ``eps``. None is ``2.5 / max_iter``, so that the border can be
        reached: 2/255 at 20 steps and 16/255, the benchmark's.
    init : {"uniform", "randn", "zero"}, default="uniform"
        Start; the benchmark's.
    clip_trigger : bool, default=False
        Clip the marked rows to the ball and the box as well. The benchmark does, which
        nearly erases the trigger.
    test_trigger : trigger object, default=None
        What the attacker shows later, where it is not ``trigger``: the paper trains on
        a faint trigger and shows the full one.
    batch_size : int, default=512
        Rows, times surrogates, that are in memory at once.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None

    Attributes
    ----------
    trigger_, shown_trigger_, target_class_
        See :class:`BackdoorAttack`.
    eps_ : float or ndarray
    surrogates_ : list of estimators
        Trained on the clean data; only when ``eps`` is not 0.
    surrogate_ : estimator
        The first of them.
    loss_curve_ : ndarray of shape (max_iter,)
        Minus the mean loss on the true labels at the start of each step; only when
        ``eps`` is not 0.
    n_iter_ : int
        Steps taken; 1 where all that is done is to mark the rows.
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`; the perturbation includes the
        trigger, to which ``eps`` does not apply.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    BackdoorAttack : Labels change too; far fewer rows do.
    HiddenTriggerBackdoorAttack : The trigger is in no training row.

    Notes
    -----
    Rows are recognised by content: in a ``Pipeline``, make the attack the first step.

    References
    ----------
    Turner, Tsipras and Madry (2019), Label-consistent backdoor attacks.
    arXiv:1912.02771.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skpoison.attacks import CleanLabelBackdoorAttack, PatchTrigger
    >>> from skpoison.metrics import attack_success_score
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> patch = PatchTrigger("solid", size=(1, 3), margin=0, input_shape=(8, 8))
    >>> attack = CleanLabelBackdoorAttack(patch, target_class=3, random_state=0)
    >>> pipe = make_pipeline(attack, LogisticRegression(max_iter=300))
    >>> for budget in (0, 0.05):
    ...     _ = pipe.set_params(cleanlabelbackdoorattack__budget=budget)
    ...     _ = pipe.fit(X[:1200], y[:1200])
    ...     print(attack_success_score(pipe, X[1200:], y[1200:]) > 0.03)
    False
    True
    """

    def __init__(
        self,
        trigger=None,
        *,
        target_class=None,
        budget=0.05,
        eps=0.0,
        norm="linf",
        bounds="data",
        surrogate=None,
        n_ensemble=1,
        max_iter=20,
        step_size=None,
        init="uniform",
        clip_trigger=False,
        test_trigger=None,
        batch_size=512,
        device="auto",
        random_state=None,
    ):
        self.trigger = trigger
        self.target_class = target_class
        self.budget = budget
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.surrogate = surrogate
        self.n_ensemble = n_ensemble
        self.max_iter = max_iter
        self.step_size = step_size
        self.init = init
        self.clip_trigger = clip_trigger
        self.test_trigger = test_trigger
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    @property
    def surrogate_(self):
        """First of the surrogates."""
        return self.surrogates_[0]

    def _check_params(self, X, y):
        check_option("norm", self.norm, ["linf", "l2"])
        check_eps(self.eps, X.shape[1:], norm=self.norm)
        if not isinstance(self.clip_trigger, bool):
            raise TypeError(f"clip_trigger must be a bool, got {self.clip_trigger!r}")
        if self._hardens():
            super()._check_params(X, y)
        else:  # without torch, which tables then need not load
            if self.clip_trigger:
                raise ValueError("clip_trigger=True with eps=0 leaves nothing to mark")
            for name in ("surrogates_", "loss_curve_"):  # of an earlier fit
                vars(self).pop(name, None)
            check_number("max_iter", self.max_iter, low=1, integer=True)
            if self.step_size is not None:
                check_number("step_size", self.step_size, low=0.0, strict=True)
            check_bounds(self.bounds, X)
            self.eps_, self.n_iter_ = np.asarray(self.eps, dtype=float), 0
        self._fit_trigger(X, y)

    def _hardens(self):
        return bool(np.any(np.asarray(self.eps) > 0))

    def _craft(self, X, y, rows, streams):
        clean = X[rows].astype(np.result_type(X, np.float32))
        hard = clean
        self.n_iter_ = 1
        if self._hardens():
            hard = clean + self._harden(X, y, rows, streams).astype(clean.dtype)
        delta = self._marked(hard.astype(X.dtype)) - clean
        if self.clip_trigger:
            delta = project(delta, clean, self.eps_, self.norm, *self._bounds)
            if X.dtype == np.uint8:
                delta = quantize(delta, self.eps_, self.norm)
        return delta.astype(clean.dtype)

    def _harden(self, X, y, rows, streams):
        """Raise the surrogates' loss on the true labels by projected gradient steps."""
        from skpoison.attacks._craft._features import FeatureMap, Hardness
        from skpoison.attacks._craft._minimise import minimise

        groups = self._members(X, y, streams)
        logits = FeatureMap(
            groups,
            [[("", "output")] for _ in groups],
            streams=streams,
            batch_size=self.batch_size,
        )
        ball = self._ball(X[rows])
        _, labels = self._tensors(X[rows], y[rows])
        step_size = 2.5 / self.max_iter if self.step_size is None else self.step_size
        crafted = minimise(
            Hardness(logits, ball.x, labels),
            ball.start(self.init, ball.x.shape, streams.torch("start")),
            ball,
            n_steps=self.max_iter,
            optimizer="pgd",
            step_size=step_size,
            schedule=None,
        )
        self.n_iter_, self.loss_curve_ = self.max_iter, crafted.curve
        return ball.legal(crafted.delta, X[rows], self._bounds, self.eps_)
