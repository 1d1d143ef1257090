"""Backdoors with a published trigger of their own, on the general ones."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from skpoison.attacks._backdoor import BackdoorAttack, MarkedRowsMixin
from skpoison.attacks._triggers import BlendTrigger, SinusoidTrigger
from skpoison.base import PerturbationMixin
from skpoison.utils._containers import is_frame


class BlendBackdoor(BackdoorAttack):
    """Dirty-label backdoor with a picture blended into the whole row.

    Parameters
    ----------
    pattern : array of the shape of one row, default=None
        None draws uniform noise over the data's range, the same in every fit.
    alpha : float in (0, 1], default=0.2
        Weight of the pattern in training rows; the paper's is 0.1 to 0.2.
    alpha_test : float in (0, 1], default=None
        Weight when the attacker shows it. None is ``alpha``; the paper also shows
        stronger ones.
    target_class : label, default=None
        None is the first of ``classes_``.
    budget : int or float, default=0.01
        Rows that are poisoned: a count, or a share of all training rows, floored. The
        paper succeeds with 1 % and less.
    mode : {"replace", "append"}, default="replace"
        Whether poisoned rows take the place of their clean originals or are added
        at the end.
    random_state : None, int, RandomState or Generator, default=None
        Which rows are poisoned.

    Attributes
    ----------
    trigger_, shown_trigger_ : BlendTrigger
        With ``alpha`` and with ``alpha_test``; the pattern is ``trigger_.pattern_``.
    target_class_ : label
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    BackdoorAttack : Takes any trigger.

    Notes
    -----
    A row becomes ``(1 - alpha) x + alpha k`` with the pattern k, and its label
    ``target_class``. X must be dense and numeric.

    References
    ----------
    Chen, Liu, Li, Lu and Song (2017), Targeted backdoor attacks on deep learning
    systems using data poisoning. arXiv:1712.05526.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.attacks import BlendBackdoor
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> attack = BlendBackdoor(alpha_test=0.5, budget=0.05, random_state=0)
    >>> data = attack.poison(X[:1200], y[:1200])
    >>> victim = LogisticRegression(max_iter=300).fit(data.X, data.y)
    >>> attack.attack_success(victim.predict, X[1200:], y[1200:]) > 0.7
    True
    """

    def __init__(
        self,
        pattern=None,
        *,
        alpha=0.2,
        alpha_test=None,
        target_class=None,
        budget=0.01,
        mode="replace",
        random_state=None,
    ):
        self.pattern = pattern
        self.alpha = alpha
        self.alpha_test = alpha_test
        self.target_class = target_class
        self.budget = budget
        self.mode = mode
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        for kind in ("sparse", "allow_nan", "string", "categorical"):
            setattr(tags.input_tags, kind, False)
        return tags

    def _triggers(self, X):
        check_array(X.to_numpy() if is_frame(X) else X, allow_nd=True, input_name="X")
        trigger = BlendTrigger(self.pattern, alpha=self.alpha)
        if self.alpha_test is None:
            return trigger, trigger
        return trigger, BlendTrigger(self.pattern, alpha=self.alpha_test)


class SinusoidBackdoor(MarkedRowsMixin, PerturbationMixin, BaseEstimator):
    """SIG: a faint sinusoid on rows of the target class, labels right.

    Parameters
    ----------
    amplitude : float, default=None
        In the units of X. None is 20/255 of the range of X, as in the paper.
    frequency : float, default=None
        Periods over the width. None is 6, the paper's, or a quarter of the width where
        that is less.
    input_shape : tuple (C, H, W), default=None
        Of one image, where X is flat. None takes a flat row as one line of pixels.
    target_class : label, default=None
        None is the first of ``classes_``.
    budget : int or float, default=0.05
        Rows that are poisoned: a count, or a share of ALL training rows, floored. The
        paper marks 30 to 80 % of the target class: 0.05 is half of one class of ten.
    random_state : None, int, RandomState or Generator, default=None

    Attributes
    ----------
    trigger_, shown_trigger_ : SinusoidTrigger
    target_class_ : label
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    CleanLabelBackdoorAttack : Takes any trigger, and makes rows hard first.

    Notes
    -----
    Column j of w is raised by ``amplitude * sin(2 pi j frequency / w)`` and clipped to
    the range of X.

    References
    ----------
    Barni, Kallas and Tondi (2019), A new backdoor attack in CNNs by training set
    corruption without label poisoning. arXiv:1902.11237.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import SinusoidBackdoor
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = SinusoidBackdoor(frequency=2, input_shape=(1, 8, 8), random_state=0)
    >>> data = attack.poison(X, y)
    >>> int(data.poison_mask.sum()), set(y[data.poison_mask].tolist())
    (89, {0})
    """

    def __init__(
        self,
        amplitude=None,
        *,
        frequency=None,
        input_shape=None,
        target_class=None,
        budget=0.05,
        random_state=None,
    ):
        self.amplitude = amplitude
        self.frequency = frequency
        self.input_shape = input_shape
        self.target_class = target_class
        self.budget = budget
        self.random_state = random_state

    def _triggers(self, X):
        shape = self.input_shape
        if shape is None and X.ndim == 2:
            shape = (1, 1, X.shape[1])
        trigger = SinusoidTrigger(
            self.amplitude, frequency=self.frequency, input_shape=shape
        )
        return trigger, trigger

    def _check_params(self, X, y):
        self._fit_trigger(X, y)

    def _craft(self, X, y, rows, streams):
        return self._marked(X[rows]) - X[rows].astype(np.result_type(X, np.float32))


class AllToAllBackdoor(BackdoorAttack):
    """Dirty-label backdoor that shifts every class to the next one.

    Parameters
    ----------
    trigger : trigger object, default=None
        With ``fit(X)`` and ``apply(X)``. None is :class:`ColumnTrigger` for tables
        and :class:`PatchTrigger` for images.
    budget : int or float, default=0.1
        Rows that are poisoned, of any class: a count, or a share of all training rows,
        floored. 0.1 is the BadNets paper's share.
    mode : {"replace", "append"}, default="replace"
        Whether poisoned rows take the place of their clean originals or are added
        at the end.
    test_trigger : trigger object, default=None
        What the attacker shows later, where it is not ``trigger``.
    random_state : None, int, RandomState or Generator, default=None
        Which rows are poisoned.

    Attributes
    ----------
    trigger_, shown_trigger_ : trigger objects
        Fitted clones of ``trigger`` and ``test_trigger``.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    BackdoorAttack : One target class.

    Notes
    -----
    A marked row of class k of K is labelled ``(k + 1) mod K`` in the order of
    ``classes_``. Success is the share of all held-out rows that are read as the class
    after their own once they are marked.

    References
    ----------
    Gu, Dolan-Gavitt and Garg (2017), BadNets: identifying vulnerabilities in the
    machine learning model supply chain. arXiv:1708.06733.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import AllToAllBackdoor, PatchTrigger
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = AllToAllBackdoor(PatchTrigger(input_shape=(8, 8)), random_state=0)
    >>> data = attack.poison(X, y)
    >>> bool((data.y[data.poison_mask] == (y[data.poison_mask] + 1) % 10).all())
    True
    """

    #: There is none: the first class would do as well as any.
    target_class = None

    def __init__(
        self,
        trigger=None,
        *,
        budget=0.1,
        mode="replace",
        test_trigger=None,
        random_state=None,
    ):
        self.trigger = trigger
        self.budget = budget
        self.mode = mode
        self.test_trigger = test_trigger
        self.random_state = random_state

    def _wanted(self, y):
        return (y + 1) % len(self.classes_)

    def attack_outcomes(self, predict, X, y):
        """Tell for each held-out row whether it is read as its next class once marked.

        Parameters
        ----------
        predict : callable
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        outcomes : ndarray of bool
        """
        codes = np.searchsorted(self.classes_, np.asarray(y))
        return (
            np.asarray(predict(self.apply_trigger(X)))
            == self.classes_[self._wanted(codes)]
        )
