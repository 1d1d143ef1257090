"""What engines, rules and the estimator need to know of a model."""

import numpy as np

# Values of logits, in float64, that are held at a time.
_LOGIT_VALUES = 2**22


class Learner:
    """A model as a flat vector of weights.

    A subclass writes `initial_weights`, `train` and `candidate_logits`, and, where all
    clients can train at once, `train_together`. It is picklable and holds no data.

    Parameters
    ----------
    n_classes : int
    n_weights : int
    dtype : numpy dtype
        Of weights and updates.
    """

    #: Whether `train_together` gives what `train` gives, up to rounding, and faster.
    vectorizes = False
    #: Why it does not, where a user should know; None where nothing is lost.
    reason_for_loop: str | None = None
    #: So many weights, the last ones, are running statistics and not trained.
    n_buffers = 0
    #: Values that `train_together` should hold at a time, see `values_together`.
    most_values = 0

    def __init__(self, n_classes, n_weights, dtype):
        self.n_classes = n_classes
        self.n_weights = n_weights
        self.dtype = np.dtype(dtype)

    def initial_weights(self, seed):
        """Return the weights of the first round.

        Parameters
        ----------
        seed : int

        Returns
        -------
        weights : ndarray of shape (n_weights,)
        """
        raise NotImplementedError

    def train(self, weights, batches, lr, *, seed=(0,), n_seen=0, extra_loss=None):
        """Train one client.

        Parameters
        ----------
        weights : ndarray of shape (n_weights,)
            Never changed.
        batches : list of (X, y)
            One a step.
        lr : float
            Step size on the mean loss of a batch.
        seed : tuple of int
            For models that draw while they train.
        n_seen : int, default=0
            Rows that this client trained on in earlier rounds, for step sizes that
            fall.
        extra_loss : callable, default=None
            ``extra_loss(update) -> gradient`` of what is added to the loss of each
            step, where the model has moved by `update` so far.

        Returns
        -------
        update : ndarray of shape (n_weights,)
        loss : float
            Mean loss of the first batch, at `weights`.
        """
        raise NotImplementedError

    def values_together(self, n_values):
        """Return the values that one client adds to a chunk.

        Parameters
        ----------
        n_values : ndarray of int
            Values of its batch.
        """
        return n_values

    def client_update(self, weights, batches, lr, **options):
        """Return the update of `train` without the loss."""
        return self.train(weights, batches, lr, **options)[0]

    def candidate_logits(self, candidates, X):
        """Return the logits of many models on the same rows.

        Parameters
        ----------
        candidates : ndarray of shape (k, n_weights)
        X : ndarray of shape (n, ...)

        Returns
        -------
        logits : ndarray of shape (k, n, n_classes)
        """
        raise NotImplementedError

    def logits(self, weights, X):
        """Return the logits of one model in float64, of shape (n, n_classes)."""
        found = np.empty((len(X), self.n_classes))
        step = max(1, _LOGIT_VALUES // max(1, int(np.prod(X.shape[1:]))))
        for start in range(0, len(X), step):
            part = slice(start, start + step)
            found[part] = self._accurate_logits(weights, X[part])
        return found

    def _accurate_logits(self, weights, X):
        return self.candidate_logits(weights[np.newaxis], X)[0]

    def evaluate(self, candidates, X, y):
        """Return error rate and mean cross entropy of many models.

        Parameters
        ----------
        candidates : ndarray of shape (k, n_weights)
        X : ndarray of shape (n, ...)
        y : ndarray of int of shape (n,)

        Returns
        -------
        errors, losses : ndarray of shape (k,)
            Where weights are not finite: 1 and infinity.
        """
        k = len(candidates)
        errors, losses = np.ones(k), np.full(k, np.inf)
        step = max(1, _LOGIT_VALUES // (len(y) * self.n_classes))
        for start in range(0, k, step):
            part = slice(start, start + step)
            with np.errstate(over="ignore", invalid="ignore"):
                logits = self.candidate_logits(candidates[part], X)
                logits = np.asarray(logits, dtype=np.float64)
                finite = np.isfinite(logits).all(axis=(1, 2))
                losses[part] = np.where(
                    finite, cross_entropy(logits, y).mean(axis=1), np.inf
                )
            errors[part] = np.where(
                finite, (logits.argmax(axis=2) != y).mean(axis=1), 1.0
            )
        return errors, losses


def cross_entropy(logits, y):
    """Return the loss of each row; logits of shape (..., n, n_classes), y (..., n)."""
    top = logits.max(axis=-1)
    y = np.broadcast_to(y, top.shape)
    own = np.take_along_axis(logits, y[..., np.newaxis], axis=-1)[..., 0]
    total = np.exp(logits - top[..., np.newaxis]).sum(axis=-1)
    return np.log(total) + top - own


def softmax(logits):
    """Return probabilities; logits of shape (..., n_classes)."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    odds /= odds.sum(axis=-1, keepdims=True)
    return odds
