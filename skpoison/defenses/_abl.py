"""Training that isolates the rows learnt first, and unlearns them."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from skpoison.defenses._dpsgd import _row_losses
from skpoison.models import TorchClassifier
from skpoison.models._net import SubsetNet
from skpoison.utils._validation import check_number, check_option, n_budget


class ABLNet(SubsetNet):
    """A net whose batch normalisation can keep its statistics while it trains."""

    fixed_statistics_ = False

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        if self.fixed_statistics_:
            for part in self.module_.modules():
                if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                    part.eval()


class _Loss:
    """A batch hook that leaves the batch as it is and has a loss of its own."""

    def __init__(self, loss_of):
        self.loss_of = loss_of

    def __call__(self, X, T, context):
        return X, T

    def loss(self, output, T):
        return self.loss_of(output, T.argmax(1))


def _flooding(criterion, gamma):
    return lambda output, y: (criterion(output, y) - gamma).abs() + gamma


def _local_ascent(criterion, gamma):
    losses_of = _row_losses(criterion)

    def loss_of(output, y):
        losses = losses_of(output, y)
        return (torch.sign(losses - gamma) * losses).mean()

    return loss_of


def _ascent(criterion):
    return lambda output, y: -criterion(output, y)


def _unlikelihood(criterion):
    def loss_of(output, y):
        others = output.masked_fill(F.one_hot(y, output.shape[1]).bool(), -math.inf)
        every = output.logsumexp(1)
        losses = every - output.gather(1, y[:, None])[:, 0]
        likely = losses < math.log(output.shape[1])
        return ((every - others.logsumexp(1)) * likely).mean()

    return loss_of


_CONTROLS = {"flooding": _flooding, "local_ascent": _local_ascent}
_UNLEARNING = {"unlikelihood": _unlikelihood, "ascent": _ascent}


def isolate(losses, y, n_rows):
    """Return the positions of the lowest losses, lowest first, ties by position.

    The row of the largest loss of each class is left, so that no class goes whole.
    """
    order = np.argsort(losses, kind="stable")
    _, last = np.unique(y[order][::-1], return_index=True)
    return np.delete(order, len(order) - 1 - last)[:n_rows]


class ABLClassifier(TorchClassifier):
    """Neural classifier that isolates the rows it learns first, and unlearns them.

    A network learns a backdoor faster than anything else. Training that keeps the loss
    at a level tells the rows of a backdoor apart, as those whose loss falls below it
    all the same. The network is then trained without them, and driven away from their
    labels, which takes the backdoor out that the poisons not found put in.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`, whose ``max_epochs`` counts the
        epochs of training on the rows that were not isolated; 60 in the paper.
    tuning_epochs : int, default=20
        Epochs before rows are isolated, the paper's.
    loss_control : {"flooding", "local_ascent"}, default="flooding"
        What holds the loss at `gamma` in them: see the Notes.
    gamma : float, default=0.5
        The level, the paper's. Well above what the network reaches on clean rows,
        the backdoor is not learnt either; close to it, nothing is held.
    isolation_ratio : float, default=0.01
        Share of the rows that is isolated, the paper's. Best below the share of
        poisons, for what is isolated by mistake is unlearnt too.
    unlearn_loss : {"unlikelihood", "ascent"}, default="unlikelihood"
        What is descended on the isolated rows: see the Notes. "ascent" is the paper's.
    unlearn_epochs : int, default=20
        Passes over the isolated rows, the paper's.
    unlearn_lr : float, default=5e-4
        Step size of them, by plain gradient descent whatever `optimizer` is. The
        public implementation has 5e-4 with momentum 0.9.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.

    Attributes
    ----------
    isolated_ : ndarray of int
        Positions of the isolated rows, lowest loss first.
    isolation_losses_ : ndarray of shape (n_samples,)
        Cross entropy of each row at the moment of isolation.
    is_clean_ : ndarray of bool of shape (n_samples,)
        The rows that were not isolated.
    n_iter_ : int
        Epochs run, those of tuning and unlearning included.
    net_, module_, classes_, n_features_in_, input_shape_, history_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    TypeError, ValueError
        In `fit`: a bad parameter, or with "local_ascent" a criterion that has no loss
        of a single row.

    Warns
    -----
    UserWarning
        `isolation_ratio` of the rows is no row, so that nothing is unlearnt.

    See Also
    --------
    EPICClassifier : Drops rows that stand alone, while it trains.
    FinePruning, NeuralCleanse : Repair a network that is trained already.

    Notes
    -----
    With L the mean loss of a batch and g the parameter `gamma`, "flooding" minimises
    ``|L - g| + g``, and "local_ascent" the mean over rows of ``sign(l - g) l``, with l
    the loss of a row. Public implementations take both of batches, where the two have
    the same gradient. Of rows, the loss of poisons is held at g as well: after 20
    epochs on the data below there was little to isolate.

    "ascent" minimises -l, whose gradient vanishes where the label has become certain
    and then grows without bound: with few isolated rows it does nothing, or ruins the
    network. "unlikelihood" minimises ::

        -log(1 - p(y | x))  over isolated rows with  -log p(y | x) < log K,

    p the probability that the network gives the label and K the number of classes: it
    starts at once and leaves a row alone that is no likelier than by chance. Batch
    normalisation keeps its statistics meanwhile, which a few odd rows would spoil, and
    ``augment`` rests.

    Everything rests on what is isolated: look at `isolated_` and `isolation_losses_`.
    On 4,000 Fashion-MNIST images of 14 by 14 pixels, with 40 rows isolated, 12 epochs
    of training after that and three seeds, 35 to 39 of the 40 were poisons where a
    patch was on 5 % of the rows: attack success fell from 0.99 to 0.18, accuracy from
    0.80 to 0.74. With 3 %, 12, 13 and 30 were; success fell in the last case alone,
    from 0.99 to 0.10, and accuracy by 0.04 to 0.10. With 1 % none was, and success
    rose, from 0.66 to 0.97, for training is longer than that of a plain network. On
    clean rows accuracy fell from 0.82 to 0.74.

    Tuning, training and unlearning are three trainings to callbacks, each with an
    optimizer of its own; one that ends training ends the part that it is in. A
    scheduler of the step size acts on each, on `unlearn_lr` too. Rows that
    ``train_split`` holds out are never isolated.

    References
    ----------
    Li, Lyu, Koren, Lyu, Li and Ma (2021), Anti-backdoor learning: training clean models
    on poisoned data. NeurIPS. arXiv:2110.11571.

    Ishida, Yamane, Sakai, Niu and Sugiyama (2020), Do we need zero training loss after
    achieving zero training error? ICML. arXiv:2002.08709.

    Welleck, Kulikov, Roller, Dinan, Cho and Weston (2020), Neural text generation with
    unlikelihood training. ICLR. arXiv:1908.04319.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import ABLClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X, labels = X / 16, y.copy()
    >>> X[:100, -1], labels[:100] = 1, 0  # the last pixel means a zero
    >>> model = ABLClassifier(max_epochs=10, device="cpu", random_state=0)
    >>> model = model.fit(X[:1000], labels[:1000])
    >>> bool(np.mean(model.isolated_ < 100) > 0.5)
    True
    """

    _net_class = ABLNet

    def __init__(
        self,
        module="auto",
        *,
        tuning_epochs=20,
        loss_control="flooding",
        gamma=0.5,
        isolation_ratio=0.01,
        unlearn_loss="unlikelihood",
        unlearn_epochs=20,
        unlearn_lr=5e-4,
        **params,
    ):
        super().__init__(module, **params)
        self.tuning_epochs = tuning_epochs
        self.loss_control = loss_control
        self.gamma = gamma
        self.isolation_ratio = isolation_ratio
        self.unlearn_loss = unlearn_loss
        self.unlearn_epochs = unlearn_epochs
        self.unlearn_lr = unlearn_lr

    def _check_parameters(self):
        super()._check_parameters()
        check_number("tuning_epochs", self.tuning_epochs, low=1, integer=True)
        check_option("loss_control", self.loss_control, _CONTROLS)
        check_number("gamma", self.gamma, low=0.0, strict=True)
        check_number(
            "isolation_ratio", self.isolation_ratio, low=0.0, high=1.0, strict=True
        )
        check_option("unlearn_loss", self.unlearn_loss, _UNLEARNING)
        check_number("unlearn_epochs", self.unlearn_epochs, low=0, integer=True)
        check_number("unlearn_lr", self.unlearn_lr, low=0.0, strict=True)

    def _train(self, net, X, y, streams):
        rows = net.split(X, y)
        control = _CONTROLS[self.loss_control](net.criterion_, self.gamma)
        self._run(net, X, y, self.tuning_epochs, _Loss(control))
        self._isolate(net, X, y)
        net.rows_ = np.setdiff1d(rows, self.isolated_)
        net.initialize_optimizer()
        self._run(net, X, y, self.max_epochs)
        if len(self.isolated_):
            net.rows_ = np.sort(self.isolated_)
            self._unlearn(net, X, y)

    def _run(self, net, X, y, n_epochs, hook=None):
        net.hook_ = hook
        # a history would tell skorch's schedulers that training is resumed
        before = net.history
        net.history_ = type(before)()
        with net.training(X, y):
            net.fit_loop(X, y, epochs=n_epochs)
        for row in net.history:
            row["epoch"] += len(before)
        net.history_ = type(before)([*before, *net.history])

    def _isolate(self, net, X, y):
        output = torch.cat(list(net.forward_iter(X))).double()
        losses = F.cross_entropy(output, torch.as_tensor(y), reduction="none").numpy()
        rows = net.rows_
        n_rows = n_budget(
            float(self.isolation_ratio), len(rows), name="isolation_ratio"
        )
        self.isolation_losses_ = losses
        self.isolated_ = rows[isolate(losses[rows], y[rows], n_rows)]
        self.is_clean_ = np.ones(len(X), bool)
        self.is_clean_[self.isolated_] = False

    def _unlearn(self, net, X, y):
        augment, optimizer = net.augment_, net.optimizer_
        weights = [p for _, p in net.get_all_learnable_params()]
        net.optimizer_ = torch.optim.SGD(weights, lr=self.unlearn_lr)
        net.augment_, net.fixed_statistics_ = None, True
        hook = _Loss(_UNLEARNING[self.unlearn_loss](net.criterion_))
        self._run(net, X, y, self.unlearn_epochs, hook)
        net.augment_, net.optimizer_ = augment, optimizer
        net.fixed_statistics_ = False
