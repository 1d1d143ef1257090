"""MI-FGSM: steps along a sum of gradients."""

from skpoison.evasion._base import BaseEvasion
from skpoison.evasion._pgd import check_step
from skpoison.evasion._steps import MomentumSteps
from skpoison.utils._validation import check_number


class MomentumPGD(BaseEvasion):
    r"""Momentum iterative method: steps along a sum of normalised gradients.

    Momentum carries a run over small bumps of the loss, and what it finds transfers
    to other models better than what PGD finds [1]_.

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
        None is ``eps / max_iter``, as published: a run just reaches the sphere.
    momentum : float, default=1.0
        Factor of the sum in each step; as published.
    max_iter : int, default=20
        Steps. 20 as in :class:`PGD`, so that the two cost the same; published with 10.
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
    PGD : Without momentum, and what all attacks have in common.

    Notes
    -----
    With :math:`\mu` the momentum and :math:`s` the step size, from :math:`m_0 = 0`
    and the row itself::

        m_{k+1} = mu m_k + g_k / norm(g_k, 1),  g_k = grad loss(x_k, y)
        x_{k+1} = P(x_k + s sign m_{k+1})

    With the norm "l2" the sum divided by its length takes the place of the sign.
    Affine models are solved exactly, see :class:`PGD`.

    References
    ----------
    .. [1] Y. Dong, F. Liao, T. Pang, H. Su, J. Zhu, X. Hu and J. Li, Boosting
       adversarial attacks with momentum. CVPR 2018, arXiv:1710.06081.
    .. [2] N. Carlini and D. Wagner, Towards evaluating the robustness of neural
       networks. IEEE S&P 2017, arXiv:1608.04644.
    .. [3] F. Croce and M. Hein, Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks. ICML 2020, arXiv:2003.01690.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skpoison.evasion import MomentumPGD
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = MLPClassifier((32,), max_iter=40, random_state=0).fit(X[:900], y[:900])
    >>> other = MLPClassifier((32,), max_iter=40, random_state=1).fit(X[:900], y[:900])
    >>> X_adv = MomentumPGD(model, eps=0.15, bounds=(0, 1)).perturb(X[900:], y[900:])
    >>> other.score(X[900:], y[900:]) > 0.85 > 0.72 > other.score(X_adv, y[900:])
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
        momentum=1.0,
        max_iter=20,
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
        self.momentum = momentum
        self.max_iter = max_iter
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
        check_number("momentum", self.momentum, low=0.0)
        size = eps / self.max_iter
        if self.step_size is not None:
            size = check_step("step_size", self.step_size, sample_shape)
        return {
            "rule": MomentumSteps(size, self.momentum),
            "max_iter": self.max_iter,
            "n_restarts": 1,
            "random_start": False,
            "early_stop": bool(self.early_stop),
        }
