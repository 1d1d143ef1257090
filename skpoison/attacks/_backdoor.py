"""Backdoors: a trigger in the training rows that the attacker can pull later."""

import warnings

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone

from skpoison.attacks._column_trigger import ColumnTrigger
from skpoison.attacks._triggers import PatchTrigger
from skpoison.base import PerturbationMixin, SamplerMixin
from skpoison.utils._containers import append_rows, is_frame, put_rows, take_rows
from skpoison.utils._tensors import project, quantize, resolve_device
from skpoison.utils._validation import (
    check_bounds,
    check_eps,
    check_label,
    check_number,
    check_option,
    warn_unit,
)


class _BackdoorMixin:
    """Trigger, target class and success of a backdoor, whatever its training rows."""

    def _fit_trigger(self, X, y):
        """Set trigger_ and target_class_."""
        target = 0
        if self.target_class is not None:
            target = check_label("target_class", self.target_class, self.classes_)
        self.target_class_ = self.classes_[target]
        trigger = self.trigger
        if trigger is None:
            table = is_frame(X) or sparse.issparse(X) or np.ndim(X) == 2
            trigger = ColumnTrigger() if table else PatchTrigger()
        if not (hasattr(trigger, "fit") and hasattr(trigger, "apply")):
            raise TypeError(
                "trigger must have fit and apply, as PatchTrigger() does, got "
                f"{trigger!r}"
            )
        self.trigger_ = clone(trigger).fit(X, y)

    def apply_trigger(self, X):
        """Return X with the trigger on every row, as an attacker would present it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        X_marked : like X
        """
        return self.trigger_.apply(X)

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
    random_state : None, int, RandomState or Generator, default=None
        Which rows are poisoned. Those of a smaller budget are among those of a
        larger one.

    Attributes
    ----------
    trigger_ : trigger object
        Fitted clone.
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
        random_state=None,
    ):
        self.trigger = trigger
        self.target_class = target_class
        self.budget = budget
        self.mode = mode
        self.random_state = random_state

    def _check_params(self, X, y):
        check_option("mode", self.mode, ["replace", "append"])
        self._fit_trigger(X, y)

    def _resample(self, X, y, n_rows, streams):
        target = int(np.flatnonzero(self.classes_ == self.target_class_)[0])
        others = np.flatnonzero(y != target)
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
            y[chosen] = target
            return put_rows(X, chosen, marked), y, chosen, np.arange(len(y))
        poisons = len(y) + np.arange(len(chosen))
        sources = np.concatenate([np.arange(len(y)), chosen])
        y = np.concatenate([y, np.full(len(chosen), target)])
        return append_rows(X, marked), y, poisons, sources


class CleanLabelBackdoorAttack(_BackdoorMixin, PerturbationMixin, BaseEstimator):
    """Clean-label backdoor: marked rows of the target class, rightly labelled.

    Rows of the target class are first made hard to learn, by steps that raise a
    surrogate's loss on their true label, and then marked: the victim has to lean on
    the trigger.

    Parameters
    ----------
    trigger : trigger object, default=None
        None is :class:`ColumnTrigger` for tables, :class:`PatchTrigger` for images.
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
    surrogate : TorchClassifier, default=None
        Cloned and trained on the clean data when ``eps`` is not 0. None is
        ``TorchClassifier()``.
    max_iter : int, default=20
        Projected gradient steps; the "Just How Toxic" benchmark's number.
    step_size : float, default=None
        None is ``2.5 * eps / max_iter``, so that the border can be reached.
    device : str, default="auto"
        Where a default surrogate is trained.
    random_state : None, int, RandomState or Generator, default=None

    Attributes
    ----------
    trigger_, target_class_
        See :class:`BackdoorAttack`.
    surrogate_ : TorchClassifier
        Trained on the clean data; only when ``eps`` is not 0.
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
        max_iter=20,
        step_size=None,
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
        self.max_iter = max_iter
        self.step_size = step_size
        self.device = device
        self.random_state = random_state

    def _check_params(self, X, y):
        check_option("norm", self.norm, ["linf", "l2"])
        check_eps(self.eps, X.shape[1:], norm=self.norm)
        if self.norm == "linf":
            warn_unit(self.eps, X)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        if self.step_size is not None:
            check_number("step_size", self.step_size, low=0.0, strict=True)
        check_bounds(self.bounds, X)
        self._check_surrogate()
        self._fit_trigger(X, y)
        self.n_iter_ = 0

    def _check_surrogate(self):
        if self.surrogate is None or not np.any(np.asarray(self.eps) > 0):
            return
        from skpoison.models import TorchClassifier

        if not isinstance(self.surrogate, TorchClassifier):
            raise TypeError(
                "surrogate must be a TorchClassifier, whose gradients eps > 0 needs, "
                f"got {self.surrogate!r}"
            )

    def _candidates(self, y):
        return self.classes_[y] == self.target_class_

    def _craft(self, X, y, rows, streams):
        clean = X[rows].astype(np.result_type(X, np.float32))
        hard = clean
        self.n_iter_ = 1
        if np.any(np.asarray(self.eps) > 0):
            hard = clean + self._harden(X, y, rows, streams).astype(clean.dtype)
        return self.trigger_.apply(hard.astype(X.dtype)).astype(clean.dtype) - clean

    def _harden(self, X, y, rows, streams):
        """Raise the surrogate's loss on the true label by projected gradient steps."""
        import torch

        from skpoison.models import TorchClassifier

        if self.surrogate is None:
            surrogate = TorchClassifier(device=self.device)
        else:
            surrogate = clone(self.surrogate)
        if surrogate.get_params().get("random_state") is None:
            surrogate.set_params(random_state=streams.seed("surrogate"))
        self.surrogate_ = surrogate.fit(X, y)
        self.n_iter_ = self.max_iter
        device = resolve_device(self.device)
        module = surrogate.module_.to(device).eval()
        scale = 255.0 if X.dtype == np.uint8 else 1.0
        low, high = check_bounds(self.bounds, X)

        def tensor(a):
            return torch.as_tensor(np.asarray(a, dtype=np.float32), device=device)

        x, eps = tensor(X[rows]), tensor(self.eps)
        low, high = tensor(low), tensor(high)
        labels = torch.as_tensor(y[rows], device=device)
        step = self.step_size or 2.5 * eps / self.max_iter
        shape = surrogate.input_shape or X.shape[1:]
        delta = torch.zeros_like(x)
        for _ in range(self.max_iter):
            delta.requires_grad_()
            logits = module(((x + delta) / scale).reshape(-1, *shape))
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, delta)
            if self.norm == "linf":
                move = gradient.sign()
            else:
                length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
                move = gradient / length.reshape(-1, *[1] * (x.ndim - 1))
            delta = project(delta.detach() + step * move, x, eps, self.norm, low, high)
        crafted = delta.cpu().numpy()
        if X.dtype == np.uint8:
            return quantize(crafted, self.eps, self.norm)
        return crafted
