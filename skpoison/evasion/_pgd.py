"""PGD: many small steps, from random starts."""

import numpy as np

from skpoison.evasion._base import BaseEvasion
from skpoison.evasion._steps import Steps
from skpoison.utils._validation import check_eps, check_number

#: A default step size lets max_iter steps go this many radii.
_REACH = 2.5


class PGD(BaseEvasion):
    """Projected gradient descent, the standard attack on differentiable models.

    Small steps up the loss, each brought back into the ball of radius `eps` around the
    row and into the box [1]_.

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
    step_size : float or array that broadcasts to one row, default=None
        None is ``2.5 * eps / max_iter``, with which a run can cross the ball and come
        back from a bad start [1]_.
    max_iter : int, default=20
        Steps of a run. 20 is enough for comparisons; 100 and some restarts are what
        published robust accuracies rest on.
    n_restarts : int, default=1
        Runs from random starts; only rows that withstood those before take part.
    random_start : bool, default=True
        Begin at a random point of ball and box [1]_, not at the row.
    loss : {"cross_entropy", "margin", "dlr"}, default="cross_entropy"
        What is climbed. "margin" is the largest other score less that of y
        [2]_; "dlr" divides it by the distance from the first to the third score
        and needs three classes [3]_.
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
    WITCHcraft : Random step sizes.
    APGD : Sets its step sizes by itself.
    robust_accuracy : Scores a classifier under an attack.

    Notes
    -----
    With :math:`P` the projection on ball and box, :math:`u` uniform on the ball and
    :math:`s` the step size::

        x_0 = P(x + u),  x_{k+1} = P(x_k + s sign grad loss(x_k, y))

    With the norm "l2" the gradient divided by its length takes the place of the sign.
    Limits are rounded inward, in the type of X: they hold to the bit. Pixels of type
    uint8 are judged as they are returned, rounded.

    The clean row, the start and every iterate of every run are judged, on the scores
    that come with the gradients. A row is broken if one of them is misread; that one is
    returned, else the one of largest loss. Attacks that judge the last iterate alone
    report more robustness than there is.

    Cross entropy is climbed along the slope of its logit, which has the same direction
    and does not vanish in floating point where the model is sure.

    Affine models are not searched. For "linf", and for "l2" without `target_labels` or
    with two classes, the worst point of ball and box has a closed form, and the
    `solver` of the outcome is "exact": no attack within `eps` does better. `loss`,
    steps and restarts then play no part.

    References
    ----------
    .. [1] A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu, Towards deep
       learning models resistant to adversarial attacks. ICLR 2018, arXiv:1706.06083.
    .. [2] N. Carlini and D. Wagner, Towards evaluating the robustness of neural
       networks. IEEE S&P 2017, arXiv:1608.04644.
    .. [3] F. Croce and M. Hein, Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks. ICML 2020, arXiv:2003.01690.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skpoison.evasion import PGD
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = MLPClassifier((32,), max_iter=40, random_state=0).fit(X[:900], y[:900])
    >>> attack = PGD(model, eps=0.1, bounds=(0, 1), random_state=0)
    >>> X_adv = attack.perturb(X[900:], y[900:])
    >>> model.score(X[900:], y[900:]) > 0.85 > 0.5 > model.score(X_adv, y[900:])
    True
    >>> bool(abs(X_adv - X[900:]).max() <= 0.1)
    True
    """

    def __init__(
        self,
        surrogate=None,
        *,
        eps=0.1,
        norm="linf",
        bounds=None,
        step_size=None,
        max_iter=20,
        n_restarts=1,
        random_start=True,
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
        self.step_size = step_size
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.random_start = random_start
        self.loss = loss
        self.target_labels = target_labels
        self.prefit = prefit
        self.early_stop = early_stop
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _rule(self, eps, sample_shape):
        """Return the step rule."""
        if self.step_size is None:
            return Steps(_REACH * eps / self.max_iter)
        return Steps(check_step("step_size", self.step_size, sample_shape))

    def _plan(self, eps, sample_shape):
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number("n_restarts", self.n_restarts, low=1, integer=True)
        rule = self._rule(eps, sample_shape)
        if self.n_restarts > 1 and not (self.random_start or rule.needs_draws):
            raise ValueError(
                f"n_restarts={self.n_restarts} runs would all be the same with "
                "random_start=False and a fixed step size"
            )
        return {
            "rule": rule,
            "max_iter": self.max_iter,
            "n_restarts": self.n_restarts,
            "random_start": bool(self.random_start),
            "early_stop": bool(self.early_stop),
        }


def check_step(name, size, sample_shape):
    """Return a step size as an array that broadcasts to one row."""
    checked = check_eps(size, sample_shape, name=name).astype(np.float64)
    if not np.isfinite(checked).all():
        raise ValueError(f"{name} must be finite, got {size!r}")
    return checked
