"""What a federation has trained: data checked against it, predictions, its record."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Bunch
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from skpoison.federated._learners._base import softmax
from skpoison.federated._recorded import observed
from skpoison.federated._rounds import as_arrays
from skpoison.utils._validation import check_given, check_number


def takes_own_steps(estimator):
    """Tell whether a federation's model is scikit-learn's, with steps of its own."""
    linear = hasattr(estimator, "partial_fit") and not hasattr(estimator, "module")
    return linear and not isinstance(estimator, type)


def _tells_probabilities(self):
    # of scikit-learn's classifiers only some do; networks and the default always
    own = takes_own_steps(self.estimator)
    return hasattr(self.estimator, "predict_proba") or not own


class FederatedModel(ClassifierMixin, BaseEstimator):
    """Base of the classifier: everything but training.

    Training sets `classes_`, `weights_`, `_state` and `_sample_shape`.
    """

    estimator: Any
    _state: Any
    _sample_shape: tuple

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "weights_")

    def _floats(self, X, *y, dtype, **options):
        pixels = str(getattr(X, "dtype", "")).removeprefix("torch.") == "uint8"
        checked = validate_data(self, X, *y, dtype=dtype, allow_nd=True, **options)
        if not pixels:
            return checked
        if not y:
            return checked / dtype.type(255)
        return checked[0] / dtype.type(255), checked[1]

    def _more_rows(self, X, y, name):
        """Validate further data against the first; return X and codes."""
        check_given(self, y)
        X = self._checked(X)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        return X, self._codes(y, name)

    def _codes(self, y, name):
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"{name} holds {unknown.tolist()[0]!r}, which is not among the classes "
                f"{self.classes_.tolist()[:10]}"
            )
        return np.searchsorted(self.classes_, y)

    def _checked(self, X):
        X = self._floats(X, dtype=self._state.learner.dtype, reset=False)
        if X.shape[1:] != self._sample_shape:
            raise ValueError(
                f"X has samples of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on samples of shape {self._sample_shape}"
            )
        return X

    @property
    def history_(self):
        """What was recorded: one entry a round."""
        return as_arrays(self._state.records)

    @property
    def module_(self):
        """The trained torch module, a copy."""
        if not hasattr(self._state.learner, "module"):
            raise AttributeError("module_ is for models of torch")
        return self._state.learner.fitted(self.weights_)

    def _logits(self, X):
        check_is_fitted(self)
        return self._state.learner.logits(self.weights_, self._checked(X))

    def decision_function(self, X):
        """Return the model's scores.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of two classes, the second one's score minus the first one's.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X):
        """Predict labels; the first in `classes_` wins a tie.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        best = self._logits(X).argmax(axis=1)  # before classes_: it checks the fit
        return self.classes_[best]

    @available_if(_tells_probabilities)
    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        logits = self._logits(X)
        learner = self._state.learner
        if hasattr(learner, "probabilities"):
            return learner.probabilities(self.weights_, self._checked(X))
        return softmax(logits)

    def evaluate(self, X, y, every=1):
        """Measure the weights that `snapshot_every` kept, and the last ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
        every : int, default=1
            Only snapshots whose round it divides.

        Returns
        -------
        curve : Bunch
            ``round``, ``error`` (the share of rows read wrongly) and ``loss`` (mean
            cross entropy), arrays with an entry for each.
        """
        check_is_fitted(self)
        check_number("every", every, low=1, integer=True)
        X, y = self._more_rows(X, y, "y")
        state = self._state
        kept = {r: w for r, w in state.snapshots if r % every == 0}
        kept[state.round] = state.weights
        errors, losses = state.learner.evaluate(np.stack(list(kept.values())), X, y)
        return Bunch(round=np.array(list(kept)), error=errors, loss=losses)

    def observed_update(self, round, client):
        """Return what the server saw of one client, ready for gradient inversion.

        Parameters
        ----------
        round : int
            One that `record_updates` kept, from 0.
        client : object
            Its number, or where `client_id` was given its id.

        Returns
        -------
        observed : ObservedUpdate
            ``module``, a torch module with the weights before the round, in evaluation
            mode; ``update``, what the client sent by parameter name; ``kind``,
            "weights"; the client's recipe as ``n_samples``, ``local_steps``,
            ``local_lr``, ``local_batch_size`` and ``batch_norm``, and the ``shape`` of
            a sample; ``sample_indices``, the rows of X in its batches, in order, None
            where an attacker sent the update.

        Raises
        ------
        ValueError
            The round was not recorded, the client took no part in it, or what it sent
            is zero or not finite.

        See Also
        --------
        skpoison.inversion.GradientInversion : Reconstructs the rows.

        Notes
        -----
        Weights after less weights before lose digits: with ``dtype="float32"`` and a
        small `lr`, few are left. A client's dropout can't be known.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from skpoison.federated import FederatedClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> clf = FederatedClassifier(
        ...     n_clients=20, n_rounds=3, batch_size=1, record_updates=[2],
        ...     dtype="float64", random_state=0,
        ... ).fit(X / 16, y)
        >>> seen = clf.observed_update(2, client=7)
        >>> weight, bias = seen.update.values()
        >>> row = (weight[0] / bias[0]).numpy() * 16
        >>> bool(abs(row - X[seen.sample_indices[0]]).max() < 1e-9)
        True
        """
        check_is_fitted(self)
        return observed(self._state, round, client, self._sample_shape)
