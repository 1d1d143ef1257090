"""What every attack on training data has in common."""

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted


class BaseAttack:
    """What every attack on training data has in common.

    An attack on regressors returns True from ``_is_regression``. It is then given y
    as float64, as it is, wherever an attack on classifiers is given codes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted labels of the clean data. Not in regression.
    y_scale_ : float
        Standard deviation of the clean y. In regression only.
    poison_indices_ : ndarray of int
        Positions of the poisoned rows in the data that the attack hands back.
    sample_indices_ : ndarray of shape (n_out,)
        For each row handed back the row it came from, -1 for one made from nothing.
    poison_mask_ : ndarray of shape (n_out,), dtype bool
    n_poisoned_ : int
        Never above the budget.
    y_original_ : ndarray of shape (n_poisoned_,)
        Labels of the poisoned rows before the attack; of a row made from nothing the
        label that it was given.
    """

    def _is_regression(self):
        """Tell whether y holds numbers to be predicted and no classes."""
        return False

    def _read_targets(self, y):
        """Return y as codes 0..n_classes-1 or, in regression, as float64."""
        for name in ("classes_", "y_scale_"):  # of an earlier fit
            vars(self).pop(name, None)
        if self._is_regression():
            y = _as_numbers(y)
            self.y_scale_ = float(np.std(y))
            return y
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        return encoded

    @property
    def poison_mask_(self):
        """Bool mask of the poisoned rows of the data that was handed back."""
        mask = np.zeros(len(self.sample_indices_), dtype=np.bool_)
        mask[self.poison_indices_] = True
        return mask

    @property
    def n_poisoned_(self):
        """Number of poisoned rows."""
        return len(self.poison_indices_)

    def poison(self, X, y):
        """Poison a training set: one call for both kinds of attack.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        data : Bunch
            `X` and `y` in the containers that came in, `poison_mask`,
            `poison_indices`, `sample_indices` and `y_original` as the attributes
            of the same names.
        """
        X_out, y_out = self._poison(X, y)
        return Bunch(
            X=X_out,
            y=y_out,
            poison_mask=self.poison_mask_,
            poison_indices=self.poison_indices_,
            sample_indices=self.sample_indices_,
            y_original=self.y_original_,
        )

    def attack_outcomes(self, predict, X, y):
        """Tell, for each trial on held-out data, whether the attacker got his way.

        An attack on availability, the default here, wins a row that is misread. In
        regression these are the rows whose absolute error exceeds `y_scale_`, the
        typical error of a model that always predicts the mean.

        Parameters
        ----------
        predict : callable
            The victim's ``predict``, on rows in the attack's input space.
        X : array-like of shape (n_samples, ...)
            Held-out rows, clean.
        y : array-like of shape (n_samples,)
            Their true labels.

        Returns
        -------
        outcomes : ndarray of bool, one a trial
        """
        if self._is_regression():
            error = np.ravel(predict(X)) - _as_numbers(np.ravel(y))
            return np.abs(error) > self.y_scale_
        return np.asarray(predict(X)) != np.asarray(y)

    def attack_success(self, predict, X, y):
        """Return the share of trials that the attacker won, NaN without a trial.

        Parameters
        ----------
        predict, X, y
            See :meth:`attack_outcomes`.

        Returns
        -------
        success : float in [0, 1]
        """
        check_is_fitted(self)
        outcomes = self.attack_outcomes(predict, X, y)
        return float(np.mean(outcomes)) if len(outcomes) else float("nan")


def _as_numbers(y):
    """Return y as finite float64, or raise."""
    try:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"y must hold finite numbers, since a regressor is attacked: {error}"
        ) from error
    return y
