"""FGSM: one step."""

from skpoison.evasion._base import BaseEvasion
from skpoison.evasion._steps import Steps


class FGSM(BaseEvasion):
    """Fast gradient sign method: one step of length eps up the loss.

    The cheapest attack, one gradient a row [1]_. It says that a model is weak, never
    that it is robust.

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
    loss : {"cross_entropy", "margin", "dlr"}, default="cross_entropy"
        What is climbed. "margin" is the largest other score less that of y
        [2]_; "dlr" divides it by the distance from the first to the third score
        and needs three classes [3]_.
    target_labels : label or array-like of shape (n_samples,), default=None
        Labels to be predicted instead of any wrong one, one for all rows or one each.
    prefit : bool, default=False
        Attack `surrogate` as it is, also after `fit`.
    batch_size : int, default=1024
        Rows at a time at most. On the CPU they may be fewer, so that what a network
        makes of them fits the caches. It changes no result.
    random_state : None, int, RandomState or Generator, default=None
        Seeds `surrogate`; the attack itself draws nothing.
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
    PGD : Many small steps.
    robust_accuracy : Scores a classifier under an attack.

    Notes
    -----
    With :math:`P` the projection on box and ball::

        x' = P(x + eps sign grad loss(x, y))

    and with the norm "l2" the gradient divided by its length in place of the sign. A
    row comes back as it was where the model misreads it already, or where the step
    lowers the loss.

    References
    ----------
    .. [1] I. J. Goodfellow, J. Shlens and C. Szegedy, Explaining and harnessing
       adversarial examples. ICLR 2015, arXiv:1412.6572.
    .. [2] N. Carlini and D. Wagner, Towards evaluating the robustness of neural
       networks. IEEE S&P 2017, arXiv:1608.04644.
    .. [3] F. Croce and M. Hein, Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks. ICML 2020, arXiv:2003.01690.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.evasion import FGSM
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = LogisticRegression().fit(X[:900], y[:900])
    >>> X_adv = FGSM(model, eps=0.1, bounds=(0, 1)).perturb(X[900:], y[900:])
    >>> model.score(X[900:], y[900:]) > 0.9 > 0.7 > model.score(X_adv, y[900:])
    True
    """

    _is_exact_where_affine = False

    def __init__(
        self,
        surrogate=None,
        *,
        eps=0.1,
        norm="linf",
        bounds=None,
        loss="cross_entropy",
        target_labels=None,
        prefit=False,
        batch_size=1024,
        random_state=None,
        device="auto",
        verbose=0,
    ):
        self.surrogate = surrogate
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.loss = loss
        self.target_labels = target_labels
        self.prefit = prefit
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _plan(self, eps, sample_shape):
        return {
            "rule": Steps(eps),
            "max_iter": 1,
            "n_restarts": 1,
            "random_start": False,
            "early_stop": True,
        }
