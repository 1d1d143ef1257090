"""Federated training of a classifier, with clients that may lie, as an estimator."""

import warnings
from contextlib import closing

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from tqdm import tqdm

from skpoison.attacks._store import Store
from skpoison.federated._engines import make_engine
from skpoison.federated._model import FederatedModel
from skpoison.federated._recorded import Recorder
from skpoison.federated._rounds import Federation, NotFiniteError
from skpoison.federated._saved import SavedTraining, check_checkpoint, open_store
from skpoison.federated._setup import (
    cast_clients,
    check_parameters,
    hold_out,
    make_clients,
    n_sampled,
    new_state,
)
from skpoison.utils._validation import check_given, check_number


class FederatedClassifier(FederatedModel):
    """Classifier trained by clients that keep their data, some of them Byzantine.

    The rows of X are spread over clients. In each round every client trains the
    server's model on its own rows and sends the change of the weights; an attack
    replaces what the Byzantine clients send, or the data they train on; the server
    aggregates by a rule.

    Parameters
    ----------
    estimator : None, torch module, skorch or scikit-learn classifier, default=None
        The model. None is softmax regression. A torch module, class or instance,
        returns one logit a class; those of ``input_shape``, ``n_features_in``,
        ``n_classes`` and ``n_outputs`` that a class names are filled in. Of
        :class:`~skpoison.models.TorchClassifier` and skorch's classifiers only the
        module is used. A scikit-learn classifier has ``partial_fit``, ``coef_`` and
        ``intercept_``, as SGDClassifier, and its own step sizes: `lr` is not used.
    n_clients : int or None, default=None
        None is as many as `client_id` names and, where it is not given, 100, as in
        [1]_. With fewer samples there are as many as samples, and a warning.
    n_byzantine : int or float, default=0.2
        Byzantine clients: a number, or a share in [0, 0.5), rounded. 20 of 100 is
        what [1]_ uses. The server reckons with them whether there is an attack or
        not.
    aggregator : aggregator, Pipeline, callable or None, default=None
        Cloned. A pipeline ends in an aggregator; a callable takes updates of shape
        (n, n_weights) and returns one. ``n_byzantine`` is filled in where its own is
        None. None is :class:`Mean`, which is not robust.
    attack : attack or None, default=None
        Cloned. Without one, Byzantine clients behave.
    rejection : {"err", "lfr", "union"}, Rejection or None, default=None
        Leaves out clients that harm most on the server's own rows, before
        aggregation. Needs `validation`.
    partition : {"fang", "iid", "dirichlet", "shards"} or callable, default="fang"
        How rows are spread, see :func:`partition_clients`; a callable is called as
        ``partition(y, n_clients, random_state=seed)`` and returns the client of each
        row, such as ``functools.partial(partition_clients, method="dirichlet",
        alpha=0.1)``. Not used with `client_id`.
    bias : float, default=0.5
        Of "fang": the probability that a row goes to the group of its class. As in
        [1]_.
    byzantine : "random" or array-like, default="random"
        Which clients are Byzantine: numbers, or with `client_id` its ids. Then
        `n_byzantine` is what the server reckons with only.
    n_rounds : int, default=500
        As in [1]_ for softmax regression.
    batch_size : int or None, default=32
        Rows of a client's batch, as in [1]_; None is all it has, and so is more than
        it has.
    lr : float, default=0.1
        Step size of the clients on the mean loss of a batch; about that of [1]_,
        whose code has 0.003 on the sum over 32 rows.
    local_steps : int, default=1
        Steps of a client in a round, as in [1]_.
    server_lr : float, default=1.0
        What the aggregated update is multiplied by.
    clients_per_round : float or int, default=1.0
        Share or number of clients drawn for each round, all as in [1]_. How many
        Byzantine ones are among them varies; the server reckons with their share,
        rounded up.
    validation : float, int, (X, y) or None, default=0.1
        The server's own rows: a share or number of the rows given to `fit`, held out
        only where rejection, FLTrust, ``select="best"`` or
        ``aggregate_buffers="server"`` need them; or data. [1]_ has 100 rows.
    select : {"last", "best"}, default="last"
        Weights that are kept: of the last round, or of that with the lowest error on
        the validation rows, the first of equals.
    engine : {"vectorized", "loop", "joblib", "flower"}, default="vectorized"
        How clients are run: all at once, in turn, in parallel by joblib, by Flower
        (optional). All but the first give the same bits, the first the same up to
        rounding. Models for which there is no vectorised way are run in turn, and so
        are convolutional networks on a CPU, where it is no faster.
    chunk_clients : int or None, default=None
        Clients trained at once by "vectorized"; None goes by memory.
    aggregate_buffers : {"rule", "mean", "server"}, default="rule"
        What happens to running statistics, as of batch normalisation: they are
        further coordinates for the rule, or averaged, or the server moves its own by
        a pass over its validation rows.
    snapshot_every : int or None, default=None
        Keep the weights after every so many rounds, for :meth:`evaluate`.
    record_updates : int, list of int or None, default=None
        Keep what each client sends, for :meth:`observed_update`: in every so many
        rounds from the first on, or in the rounds listed, numbered from 0 as in
        `history_`. Each takes the memory of n_clients times n_weights numbers. Not
        for scikit-learn classifiers.
    device : str or torch.device, default="auto"
        Of torch modules: "auto" is CUDA where there is one. All else runs on the CPU.
    dtype : {"float32", "float64"}, default="float32"
        Of data, weights and updates.
    random_state : None, int, RandomState or Generator, default=None
        Partition, initial weights, batches, attack and ties have separate streams of
        this one seed: another attack changes no batch. Global streams are neither read
        nor advanced.
    n_jobs : int or None, default=None
        Of "joblib" and "flower". The result does not depend on it.
    verbose : int, default=0
        1 shows a progress bar on stderr.
    callbacks : list of callables or None, default=None
        Each is called with this estimator after every round; training ends when one
        returns a true value.
    checkpoint : str or Path, default=None
        A folder of this one training. Killed at any moment, the same `fit` goes on from
        there and gives the same bits; callbacks see the rounds that it does. Needs a
        `random_state`. A rule, attack or rejection of your own is to remember earlier
        rounds in attributes that hold numbers, texts, arrays, lists or dicts. Not for
        :meth:`partial_fit`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.
    weights_ : ndarray of shape (n_weights,)
        The model as one vector.
    module_ : torch.nn.Module
        The model, where `estimator` is one of torch.
    n_clients_ : int
        Clients, injected ones included.
    client_indices_ : list of ndarray of int
        The rows of X that each client holds.
    client_ids_ : ndarray
        What `client_id` calls each client; otherwise their numbers. Injected clients
        come after these and have none.
    byzantine_clients_ : ndarray of int
        Numbers of the Byzantine clients.
    n_byzantine_ : int
        What the server reckons with.
    n_rounds_ : int
        Rounds done.
    attack_ : attack or None
        The attack, with what it noted of its last round.
    history_ : dict of str to ndarray
        One entry a round: `round`, `n_clients` and `n_byzantine` of the round,
        `train_loss` of the honest clients before it, mean lengths `client_norm`,
        `byzantine_norm` of what was sent, `update_norm` of the aggregated,
        `n_nonfinite` rows, `n_byzantine_selected` rows that counted and were Byzantine
        (where the rule tells), `n_rejected`, `validation_error` and
        `validation_loss`, what the attack noted as `attack_...`, and seconds: `time`
        of the round and `time_clients`, `time_attack`, `time_rejection` and
        `time_aggregation`. NaN where a round has none.

    Raises
    ------
    ValueError, TypeError
        In `fit`, before any training: a parameter out of range, or too many Byzantine
        clients for the rule.

    Warns
    -----
    UserWarning
        There are fewer samples than clients, or a module can't be run vectorised.
    ConvergenceWarning
        Weights would no longer be finite: training ended, the last finite ones are
        kept.

    See Also
    --------
    robustness_sweep : Attacks against rules, in a table.
    aggregate : A rule alone.

    Notes
    -----
    With the weights :math:`w` of the server, client i does `local_steps` steps of SGD
    from them to :math:`w_i` and sends :math:`u_i = w_i - w`; the server goes on from
    :math:`w + \\eta A(u_1, ..., u_m)`, with :math:`\\eta` = `server_lr` and the
    rule A.

    A client goes through its rows in a new order in each epoch; those that do not fill
    a batch wait for another. Clients count alike, whatever rows they hold.

    k calls of `partial_fit` with one round and the same data are `fit` with k rounds,
    bit by bit. After Ctrl-C in `fit` the rounds done are there, and `partial_fit` goes
    on from them.

    uint8 arrays hold pixels 0..255 and are divided by 255.

    References
    ----------
    .. [1] Fang, M., Cao, X., Jia, J., Gong, N. Z. "Local model poisoning attacks to
       Byzantine-robust federated learning." USENIX Security 2020. arXiv:1911.11815.
    .. [2] McMahan, B., Moore, E., Ramage, D., Hampson, S., y Arcas, B. A.
       "Communication-efficient learning of deep networks from decentralized data."
       AISTATS 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.federated import FederatedClassifier, TrimmedMean
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FederatedClassifier(
    ...     n_clients=20, n_byzantine=4, aggregator=TrimmedMean(), n_rounds=200,
    ...     random_state=0,
    ... )
    >>> clf.fit(X[:1200] / 16, y[:1200]).score(X[1200:] / 16, y[1200:]) > 0.85
    True
    """

    def __init__(
        self,
        estimator=None,
        *,
        n_clients=None,
        n_byzantine=0.2,
        aggregator=None,
        attack=None,
        rejection=None,
        partition="fang",
        bias=0.5,
        byzantine="random",
        n_rounds=500,
        batch_size=32,
        lr=0.1,
        local_steps=1,
        server_lr=1.0,
        clients_per_round=1.0,
        validation=0.1,
        select="last",
        engine="vectorized",
        chunk_clients=None,
        aggregate_buffers="rule",
        snapshot_every=None,
        record_updates=None,
        device="auto",
        dtype="float32",
        random_state=None,
        n_jobs=None,
        verbose=0,
        callbacks=None,
        checkpoint=None,
    ):
        self.estimator = estimator
        self.n_clients = n_clients
        self.n_byzantine = n_byzantine
        self.aggregator = aggregator
        self.attack = attack
        self.rejection = rejection
        self.partition = partition
        self.bias = bias
        self.byzantine = byzantine
        self.n_rounds = n_rounds
        self.batch_size = batch_size
        self.lr = lr
        self.local_steps = local_steps
        self.server_lr = server_lr
        self.clients_per_round = clients_per_round
        self.validation = validation
        self.select = select
        self.engine = engine
        self.chunk_clients = chunk_clients
        self.aggregate_buffers = aggregate_buffers
        self.snapshot_every = snapshot_every
        self.record_updates = record_updates
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def fit(self, X, y, client_id=None, X_val=None, y_val=None):
        """Train from new weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.
        client_id : array-like of shape (n_samples,), default=None
            The owner of each row, of any kind; None spreads the rows by `partition`.
            With metadata routing, ``set_fit_request(client_id=True)``.
        X_val, y_val : array-like, default=None
            The server's own rows, in the place of `validation`; the error on them is
            recorded in each round.

        Returns
        -------
        self : object
        """
        check_parameters(self)
        check_checkpoint(self)
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together")
        X, y = self._first_rows(X, y, None)
        validation = None if X_val is None else (X_val, y_val)
        data = (X, y, self.classes_, client_id, validation)
        store = open_store(self, self._state, data)
        return self._run(X, y, client_id, validation, self.n_rounds, store)

    def partial_fit(self, X, y, classes=None, n_rounds=1, client_id=None):
        """Go on for some rounds, or begin.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            What the clients hold in these rounds.
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            In the first call, all classes; None is those of `y`.
        n_rounds : int, default=1
        client_id : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object
        """
        check_parameters(self)
        check_number("n_rounds", n_rounds, low=0, integer=True)
        if hasattr(self, "_state"):
            X, y = self._more_rows(X, y, "y")
            if classes is not None and not np.array_equal(
                np.unique(classes), self.classes_
            ):
                raise ValueError(
                    f"classes={classes!r} are not those of the first call, "
                    f"{self.classes_.tolist()}"
                )
        else:
            X, y = self._first_rows(X, y, classes)
        return self._run(X, y, client_id, None, n_rounds, Store(None, None))

    def _first_rows(self, X, y, classes):
        """Validate the first data and start a training; return X and codes."""
        check_given(self, y)
        X, y = self._floats(X, y, dtype=np.dtype(self.dtype))
        check_classification_targets(y)
        self.classes_ = np.unique(y if classes is None else classes)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two classes in y, got one "
                f"class: {self.classes_.tolist()[0]!r}"
            )
        y = self._codes(y, "y")
        self._sample_shape = X.shape[1:]
        self._state = new_state(self, X.shape[1:], len(self.classes_))
        return X, y

    def _run(self, X, y, client_id, validation, n_rounds, store):
        state = self._state
        if validation is None and isinstance(self.validation, tuple | list):
            validation = self.validation
        given = validation is not None
        rows, held = hold_out(self, state, len(y), given)
        if given:
            X_val, y_val = validation
            validation = self._more_rows(X_val, y_val, "y_val")
        elif held is not None:
            validation = X[held], y[held]
        cast = cast_clients(self, state, y, rows, client_id)
        clients = make_clients(self, state, X, y, cast)
        saved = SavedTraining(state, store)
        federation = Federation(
            state,
            clients,
            cast.byzantine,
            cast.n_byzantine,
            n_sampled(self, len(clients)),
            server_lr=self.server_lr,
            aggregate_buffers=self.aggregate_buffers,
            validation=validation,
            track=given or self.select == "best",
            recorder=Recorder(
                self.record_updates, clients, cast, state.attack is not None
            ),
        )
        self.n_clients_ = len(clients)
        self.client_indices_ = cast.indices
        self.client_ids_ = cast.ids
        self.byzantine_clients_ = cast.byzantine
        self.n_byzantine_ = cast.n_byzantine
        self._publish()
        engine = make_engine(
            self.engine, clients, n_jobs=self.n_jobs, chunk_clients=self.chunk_clients
        )
        with closing(engine) as federation.engine:
            self._do_rounds(federation, saved, n_rounds)
        return self

    def _do_rounds(self, federation, saved, n_rounds):
        state = self._state
        rounds = range(saved.n_done, 0 if saved.is_over else n_rounds)
        for i in tqdm(rounds, disable=not self.verbose, leave=False):
            try:
                federation.run_round()
            except NotFiniteError as error:
                warnings.warn(
                    f"{error}: training ended after {state.round} rounds; lower lr (it "
                    f"is {self.lr}) or server_lr, or scale X",
                    ConvergenceWarning,
                    stacklevel=4,
                )
                return
            if self.snapshot_every and state.round % self.snapshot_every == 0:
                state.snapshots.append((state.round, state.weights))
            self._publish()
            answers = [callback(self) for callback in self.callbacks or ()]  # of all
            saved.is_over = any(answers)
            # what can't be kept shows in the first round
            saved.save(now=saved.is_over or i in (0, n_rounds - 1))
            if saved.is_over:
                return

    def _publish(self):
        state = self._state
        best = self.select == "best" and state.best_weights is not None
        self.weights_ = state.best_weights if best else state.weights
        self.n_rounds_ = state.round
        self.attack_ = state.attack
