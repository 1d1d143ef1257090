"""Auto-PGD: step sizes that halve by themselves."""

import math

import torch

from skpoison.evasion._base import BaseEvasion
from skpoison.evasion._region import per_row
from skpoison.evasion._steps import Steps, Walk, direction
from skpoison.utils._validation import check_number

#: Share of the new direction in a step, share of steps that must raise the loss.
_NEW, _RISING = 0.75, 0.75


def checkpoints(max_iter):
    """Return the iterations at which step sizes are reconsidered.

    Examples
    --------
    >>> from skpoison.evasion._apgd import checkpoints
    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    points: list[int] = []
    before, share = 0.0, 0.22
    while share < 1:
        points.append(math.ceil(round(share * max_iter, 9)))
        before, share = share, share + max(share - before - 0.03, 0.06)
    return sorted(set(points))


class AutoSteps(Steps):
    """Step rule of Auto-PGD: momentum, and steps that halve where progress stalls.

    Parameters
    ----------
    size : float or tensor that broadcasts to one row
        Of the first step.
    max_iter : int
    """

    def __init__(self, size, max_iter):
        super().__init__(size)
        self.checkpoints = checkpoints(max_iter)

    def walk(self, region, draws, restart):
        """Return the state of one run."""
        return _AutoWalk(self, region, draws, restart)


class _AutoWalk(Walk):
    """One run of Auto-PGD: best points, step sizes, progress since a checkpoint."""

    x_before: torch.Tensor
    _state = (
        "n_halved",
        "x_before",
        "value",
        "x_best",
        "gradient_best",
        "best",
        "n_rising",
        "best_then",
        "has_halved",
    )

    def take(self, rows):
        super().take(rows)
        if self.n_moves:
            for name in self._state:
                setattr(self, name, getattr(self, name)[rows])

    def move(self, x, gradient, value):
        if self.n_moves == 0:
            self._begin(x, gradient, value)
        else:
            self._note(x, gradient, value)
        if self.n_moves in self.rule.checkpoints:
            x, gradient = self._reconsider(x, gradient)
        step = self.size(x) * per_row(0.5**self.n_halved, x)
        ahead = direction(gradient, self.region.norm).mul_(step).add_(x)
        ahead = self.region.project(ahead)
        if self.n_moves > 1:
            ahead = ahead.mul_(_NEW).add_(x, alpha=2 * (1 - _NEW))
            ahead = self.region.project(ahead.sub_(self.x_before, alpha=1 - _NEW))
        self.x_before = x
        return ahead

    def _begin(self, x, gradient, value):
        self.n_halved = torch.zeros_like(value)
        self.x_before = x
        self.value = self.best = self.best_then = value
        self.x_best, self.gradient_best = x.clone(), gradient.clone()
        self.n_rising = torch.zeros_like(value)
        self.has_halved = torch.zeros_like(value, dtype=torch.bool)

    def _note(self, x, gradient, value):
        """Count a step and keep the best point."""
        self.n_rising = self.n_rising + (value > self.value)
        self.value = value
        better = value > self.best
        wide = per_row(better, x)
        self.best = torch.where(better, value, self.best)
        self.x_best = torch.where(wide, x, self.x_best)
        self.gradient_best = torch.where(wide, gradient, self.gradient_best)

    def _reconsider(self, x, gradient):
        """Halve the steps of rows that stall, and put these back to their best."""
        points = [0, *self.rule.checkpoints]
        n_steps = self.n_moves - points[points.index(self.n_moves) - 1]
        is_stuck = ~self.has_halved & (self.best == self.best_then)
        halve = (self.n_rising < _RISING * n_steps) | is_stuck
        self.n_halved = self.n_halved + halve
        self.has_halved, self.best_then = halve, self.best
        self.n_rising = torch.zeros_like(self.n_rising)
        self.value = torch.where(halve, self.best, self.value)
        wide = per_row(halve, x)
        return (
            torch.where(wide, self.x_best, x),
            torch.where(wide, self.gradient_best, gradient),
        )


class APGD(BaseEvasion):
    r"""Auto-PGD: projected gradient descent that sets its own step sizes.

    Steps start long and halve where the loss stops rising, and runs go back to their
    best point then: there is no step size to tune [1]_. The attack to report robust
    accuracies by, with more than one loss.

    Parameters
    ----------
    surrogate : estimator or torch.nn.Module, default=None
        The model that is attacked: a torch module, a skorch net, a
        :class:`~skpoison.models.TorchClassifier`, one of scikit-learn's linear,
        kernel and neural classifiers, or a pipeline that ends in one. `fit` trains a
        clone, except of a torch module, of a :class:`~sklearn.frozen.FrozenEstimator`
        and with `prefit`. Without `fit` a fitted one is attacked as it is. None is
        logistic regression, trained in `fit`.
    eps : float or array that broadcasts to one row, default=0.1
        Radius, in the unit of X; 0.1 is a share of data scaled to [0, 1]. An array
        gives each value its own, for "linf".
    norm : {"linf", "l2"}, default="linf"
        In which the change of a row is at most `eps`.
    bounds : None, "data" or (low, high), default=None
        Box that rows never leave; numbers or arrays that broadcast to one row. "data"
        is the range of each feature met in `fit`; values that lie outside may stay,
        and go no farther. None is no box, as one read off a few rows would understate
        the attacker; uint8 stays in 0..255.
    max_iter : int, default=100
        Steps of a run; as published.
    n_restarts : int, default=1
        Runs, all from random starts; only rows that withstood those before take part.
    loss : {"cross_entropy", "margin", "dlr"}, default="cross_entropy"
        What is climbed. "margin" is the largest other score less that of y
        [2]_; "dlr" divides it by the distance from the first to the third score
        and needs three classes, with `target_labels` four [1]_. Two classes have no
        "dlr", hence the default.
    target_labels : label or array-like of shape (n_samples,), default=None
        Labels to be predicted instead of any wrong one, one for all rows or one each.
    prefit : bool, default=False
        Attack `surrogate` as it is, also after `fit`.
    early_stop : bool, default=True
        Rows leave once they are misread, with that iterate. Otherwise all steps are
        made, and the misread iterate of largest loss is returned, the better one to
        fool another model with. Which rows are broken is the same.
    batch_size : int, default=1024
        Rows at a time at most. On the CPU they may be fewer, so that what a network
        makes of them fits the caches. It changes no result.
    random_state : None, int, RandomState or Generator, default=None
        Draws are functions of the seed and of the content of a row, so that order,
        subsets and batches change none. It also seeds `surrogate`.
    device : str or torch.device, default="auto"
        "auto" leaves models where they are.
    verbose : int, default=0
        1 shows a progress bar over batches, on stderr.

    Attributes
    ----------
    surrogate_ : estimator or torch.nn.Module
        The model that is attacked.
    n_iter_ : int
        Steps of a run.
    bounds_ : tuple of ndarray
        Range of each feature. Only with ``bounds="data"``.
    input_shape_ : tuple of int
        Shape of a row.
    n_features_in_ : int
        Number of features, of images that of channels.
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    Raises
    ------
    ValueError, TypeError
        A parameter out of range, values outside `bounds`, labels that the model does
        not know, NaN from the model, or a model without gradients.

    Warns
    -----
    UserWarning
        A tenth or more of the rows that withstand met a gradient of zeros.

    See Also
    --------
    PGD : A fixed step size, and what all attacks have in common.

    Notes
    -----
    From a random start and with :math:`\eta = 2 \epsilon`::

        z_{k+1} = P(x_k + eta sign grad loss(x_k))
        x_{k+1} = P(x_k + 0.75 (z_{k+1} - x_k) + 0.25 (x_k - x_{k-1}))

    At the checkpoints :math:`w_j = \lceil p_j N \rceil` of N steps, with
    :math:`p_0 = 0`, :math:`p_1 = 0.22` and :math:`p_{j+1} = p_j + \max(p_j - p_{j-1} -
    0.03, 0.06)`, a row's step size is halved, and the row put back to its best point,
    if fewer than 75 % of the steps since the last checkpoint raised its loss, or if
    neither step size nor largest loss changed since then.

    With the norm "l2" the gradient divided by its length takes the place of the sign.
    Affine models are solved exactly, see :class:`PGD`.

    References
    ----------
    .. [1] F. Croce and M. Hein, Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks. ICML 2020, arXiv:2003.01690.
    .. [2] N. Carlini and D. Wagner, Towards evaluating the robustness of neural
       networks. IEEE S&P 2017, arXiv:1608.04644.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skpoison.evasion import APGD
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = MLPClassifier((32,), max_iter=40, random_state=0).fit(X[:900], y[:900])
    >>> attack = APGD(model, eps=0.5, norm="l2", max_iter=30, random_state=0)
    >>> strong = attack.attack(X[900:], y[900:]).success
    >>> other = attack.set_params(loss="dlr").attack(X[900:], y[900:]).success
    >>> bool(0.5 < strong.mean() <= (strong | other).mean() < 1)
    True
    """

    def __init__(
        self,
        surrogate=None,
        *,
        eps=0.1,
        norm="linf",
        bounds=None,
        max_iter=100,
        n_restarts=1,
        loss="cross_entropy",
        target_labels=None,
        prefit=False,
        early_stop=True,
        batch_size=1024,
        random_state=None,
        device="auto",
        verbose=0,
    ):
        self.surrogate = surrogate
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.loss = loss
        self.target_labels = target_labels
        self.prefit = prefit
        self.early_stop = early_stop
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _plan(self, eps, sample_shape):
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number("n_restarts", self.n_restarts, low=1, integer=True)
        return {
            "rule": AutoSteps(2 * eps, self.max_iter),
            "max_iter": self.max_iter,
            "n_restarts": self.n_restarts,
            "random_start": True,
            "early_stop": bool(self.early_stop),
        }
