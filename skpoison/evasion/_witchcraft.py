"""WITCHcraft: PGD with random step sizes."""

import numpy as np

from skpoison.evasion._pgd import PGD, check_step
from skpoison.evasion._steps import Steps
from skpoison.utils._validation import check_option


class WITCHcraft(PGD):
    """Projected gradient descent with random step sizes.

    No step size fits all rows, and a random one needs no tuning: at the same number of
    gradients the attack is as strong as PGD with the best fixed step, or stronger [1]_.

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
    step_size : pair (low, high), default=None
        Range of the step size, numbers or arrays that broadcast to one row. None is
        ``(0, eps)``; upper ends between half and twice `eps` do alike.
    step_mode : {"sample", "pixel", "batch"}, default="sample"
        In each step each row draws a step size, each value does, or one is drawn for
        all rows. "sample" costs next to nothing; none is stronger than the others.
    max_iter : int, default=20
        Steps of a run.
    n_restarts : int, default=1
        Runs from random starts; only rows that withstood those before take part.
    random_start : bool, default=True
        Begin at a random point of ball and box [2]_, not at the row.
    loss : {"cross_entropy", "margin", "dlr"}, default="cross_entropy"
        What is climbed. "margin" is the largest other score less that of y
        [3]_; "dlr" divides it by the distance from the first to the third score
        and needs three classes [4]_.
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
    As :class:`PGD`, with the step size drawn anew in each step::

        x_{k+1} = P(x_k + s_k sign grad loss(x_k, y)),  s_k ~ U(low, high)

    With ``low == high`` it is PGD, bit for bit. Affine models are solved exactly, see
    there.

    References
    ----------
    .. [1] P.-Y. Chiang, J. Geiping, M. Goldblum, T. Goldstein, R. Ni, S. Reich and A.
       Shafahi, WITCHcraft: efficient PGD attacks with random step size. ICASSP 2020,
       arXiv:1911.07989.
    .. [2] A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu, Towards deep
       learning models resistant to adversarial attacks. ICLR 2018, arXiv:1706.06083.
    .. [3] N. Carlini and D. Wagner, Towards evaluating the robustness of neural
       networks. IEEE S&P 2017, arXiv:1608.04644.
    .. [4] F. Croce and M. Hein, Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks. ICML 2020, arXiv:2003.01690.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skpoison.evasion import WITCHcraft
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = MLPClassifier((32,), max_iter=40, random_state=0).fit(X[:900], y[:900])
    >>> attack = WITCHcraft(model, eps=0.05, bounds=(0, 1), random_state=0)
    >>> outcome = attack.attack(X[900:], y[900:])
    >>> outcome.solver, bool(0.2 < outcome.success.mean() < 0.6)
    ('search', True)
    """

    def __init__(
        self,
        surrogate=None,
        *,
        eps=0.1,
        norm="linf",
        bounds=None,
        step_size=None,
        step_mode="sample",
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
        super().__init__(
            surrogate,
            eps=eps,
            norm=norm,
            bounds=bounds,
            step_size=step_size,
            max_iter=max_iter,
            n_restarts=n_restarts,
            random_start=random_start,
            loss=loss,
            target_labels=target_labels,
            prefit=prefit,
            early_stop=early_stop,
            batch_size=batch_size,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.step_mode = step_mode

    def _rule(self, eps, sample_shape):
        check_option("step_mode", self.step_mode, ["sample", "pixel", "batch"])
        if self.step_size is None:
            return Steps(0.0, eps, self.step_mode)
        if np.ndim(self.step_size) == 0 or len(self.step_size) != 2:
            raise ValueError(
                f"step_size must be None or a pair (low, high), got {self.step_size!r}"
            )
        low, high = (
            check_step(f"step_size[{i}]", end, sample_shape)
            for i, end in enumerate(self.step_size)
        )
        if (low > high).any():
            raise ValueError(f"step_size must have low <= high, got {self.step_size!r}")
        return Steps(low, high, self.step_mode)
