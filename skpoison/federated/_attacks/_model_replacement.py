"""The attack that puts a model with a backdoor in the global model's place."""

import numpy as np
from sklearn.base import clone

from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.federated._attacks._knowledge import repeated
from skpoison.utils._validation import check_number


class ModelReplacementAttack(BaseUpdateAttack):
    """Train a model with a backdoor, and send so much of it that the mean becomes it.

    Parameters
    ----------
    trigger : trigger, default=None
        With ``fit`` and ``apply``, as :class:`~skpoison.attacks.PatchTrigger` for
        images and :class:`~skpoison.attacks.ColumnTrigger` for tables. Must be given
        unless there is no Byzantine client.
    target_class : int, default=0
        What rows with the trigger are to be taken for, as its position in the sorted
        classes.
    share : float in (0, 1], default=0.3
        Of the attacker's rows, how many get the trigger in a round, drawn at random;
        [1]_ takes 20 of 64. Rows of the target class get none.
    gamma : float, default=None
        By how much each Byzantine client scales its update. None is
        m / (c server_lr) with c of m clients Byzantine: if the others' updates cancel,
        the mean of all makes the global model the attacker's.
    alpha : float in (0, 1], default=0.5
        Weight of the loss on the data; the rest is on the squared distance from the
        global model, which keeps the update inconspicuous. 1 leaves it out.
    n_steps : int, default=50
        Steps that the attacker trains.
    batch_size : int, default=None
        Of these steps; None is that of the clients.
    lr : float, default=None
        None is that of the clients.
    n_byzantine : int, float or None, default=None
        Rows that ``transform`` replaces. It has no data to train on: only None and 0
        work there. Federated training has its own.
    attack_rounds : float in [0, 1], default=1.0
        Share of the rounds that are attacked, drawn at random.
    strict : bool, default=False
        Raise where half of the clients or more are Byzantine.
    random_state : None, int, RandomState or Generator, default=None
        Not used: federated training has its own.

    Attributes
    ----------
    info_ : dict
        Of the last round: "gamma", and "length", that of the update before scaling.
    n_features_in_ : int

    Raises
    ------
    ValueError
        Where the round has no data or no way to train.

    Notes
    -----
    All Byzantine clients pool their data and send :math:`\\gamma (x - w)`, w being the
    global model and x the one that minimises

    .. math:: \\alpha \\, L(x) + (1 - \\alpha) \\|x - w\\|^2

    on that data, a `share` of it with trigger and target class. It is trained on this
    loss divided by :math:`\\alpha`, so that the learning rate means the same for each.
    In [1]_ one client attacks, and :math:`\\gamma` is m / server_lr.

    References
    ----------
    .. [1] Bagdasaryan, E., Veit, A., Hua, Y., Estrin, D., Shmatikov, V. "How to
       backdoor federated learning." AISTATS 2020. arXiv:1807.00459.

    Examples
    --------
    >>> from skpoison.attacks import PatchTrigger
    >>> from skpoison.federated import ModelReplacementAttack
    >>> trigger = PatchTrigger(input_shape=(8, 8))
    >>> attack = ModelReplacementAttack(trigger, target_class=7)
    """

    def __init__(
        self,
        trigger=None,
        *,
        target_class=0,
        share=0.3,
        gamma=None,
        alpha=0.5,
        n_steps=50,
        batch_size=None,
        lr=None,
        n_byzantine=None,
        attack_rounds=1.0,
        strict=False,
        random_state=None,
    ):
        self.trigger = trigger
        self.target_class = target_class
        self.share = share
        self.gamma = gamma
        self.alpha = alpha
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.lr = lr
        self.n_byzantine = n_byzantine
        self.attack_rounds = attack_rounds
        self.strict = strict
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        check_number("target_class", self.target_class, low=0, integer=True)
        check_number("share", self.share, low=0.0, high=1.0, strict=True)
        if self.gamma is not None:
            check_number("gamma", self.gamma)
        check_number("alpha", self.alpha, low=0.0, high=1.0, strict=True)
        check_number("n_steps", self.n_steps, low=1, integer=True)
        if self.batch_size is not None:
            check_number("batch_size", self.batch_size, low=1, integer=True)
        if self.lr is not None:
            check_number("lr", self.lr, low=0.0, strict=True)
        if self.trigger is not None and not hasattr(self.trigger, "apply"):
            raise TypeError(
                f"trigger must have fit and apply, as PatchTrigger, got "
                f"{self.trigger!r}"
            )

    def craft(self, context):
        """Return what the Byzantine clients send.

        Parameters
        ----------
        context : RoundContext

        Returns
        -------
        crafted : ndarray of shape (n_byzantine, n_weights)
        """
        if self.trigger is None:
            raise ValueError("trigger must be given, got None")
        if context.train is None or not context.shards:
            raise ValueError(
                "ModelReplacementAttack trains on the data of Byzantine clients: "
                "context.train and context.shards must be given"
            )
        X, y = self._backdoored(context)
        penalty = 2 * (1 - self.alpha) / self.alpha
        update = context.train(
            X,
            y,
            self.n_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            extra_loss=(lambda update: penalty * update) if penalty else None,
        )
        gamma = self.gamma
        if gamma is None:
            gamma = context.n_clients / (len(context.byzantine) * context.server_lr)
        update = np.asarray(update, dtype=np.float64)
        context.info["gamma"] = float(gamma)
        context.info["length"] = float(np.linalg.norm(update))
        return repeated(gamma * update, context)

    def _backdoored(self, context):
        """Return the attacker's data, a share of it with trigger and target class."""
        X = np.concatenate([np.asarray(X) for X, _ in context.shards])
        y = np.concatenate([np.asarray(y) for _, y in context.shards])
        trigger = clone(self.trigger).fit(X, y)
        others = np.flatnonzero(y != self.target_class)
        n_marked = min(max(round(self.share * len(y)), 1), len(others))
        rows = context.rng.choice(others, n_marked, replace=False)
        if n_marked:
            X[rows] = trigger.apply(X[rows])
            y[rows] = self.target_class
        return X, y
