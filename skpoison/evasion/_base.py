"""What all test-time attacks share: data, labels, the model, batches."""

import warnings

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch, check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm import tqdm

from skpoison.evasion._job import Job, batches_of
from skpoison.evasion._losses import LOSSES
from skpoison.evasion._region import NORMS
from skpoison.evasion._views import agree, view
from skpoison.utils import RandomStreams, set_random_states
from skpoison.utils._validation import (
    bounds_pair,
    check_eps,
    check_given,
    check_number,
    check_option,
    warn_unit,
)

# uint8 images stay uint8, every other integer becomes float64
_DTYPES = [np.float64, np.float32, np.uint8]
#: Share of the rows not broken with zero gradients from which on there is a warning.
_SIZEABLE = 0.1


class BaseEvasion(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of the attacks on a fitted model: rows go in, misread rows come out.

    A subclass has the parameters that its ``__init__`` lists, and writes ``_plan``,
    which returns what :func:`~skpoison.evasion._search.search` needs.
    """

    _is_exact_where_affine = True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _plan(self, eps, sample_shape):
        """Check the parameters of the search and return them as a dict.

        Parameters
        ----------
        eps : ndarray
            Broadcasts to one row.
        sample_shape : tuple of int

        Returns
        -------
        plan : dict
            `rule`, `max_iter`, `n_restarts`, `random_start` and `early_stop` of
            :func:`~skpoison.evasion._search.search`.
        """
        raise TypeError(f"{type(self).__name__} must define _plan")

    def fit(self, X, y):
        """Train the surrogate, unless it is attacked as it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Dense and numeric.
        y : array-like of shape (n_samples,)
            Class labels.

        Returns
        -------
        self : object
        """
        check_given(self, y)
        X, y = validate_data(self, X, y, dtype=_DTYPES, allow_nd=True, order="C")
        check_classification_targets(y)
        self.n_iter_ = self._checked(X.shape[1:])[1]["max_iter"]
        streams = RandomStreams(self.random_state)
        self._seed = streams.root
        self.input_shape_ = X.shape[1:]
        if isinstance(self.bounds, str):
            self.bounds_ = X.min(axis=0), X.max(axis=0)
        if self._is_attacked_as_it_is():
            self.surrogate_ = self._model()
        else:
            default = LogisticRegression(max_iter=1000)
            learner = clone(default if self.surrogate is None else self.surrogate)
            set_random_states(learner, streams, only_missing=True)
            flat = self.surrogate is None and X.ndim > 2
            self.surrogate_ = learner.fit(X.reshape(len(X), -1) if flat else X, y)
        view(self.surrogate_, device=self.device)  # refused here, not in transform
        return self

    def transform(self, X):
        """Attack the model's own predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        X_adv : ndarray
            A copy, of the same type.
        """
        return self.attack(X).X

    def perturb(self, X, y):
        """Attack rows whose true labels are known, as in published tables.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
            True labels. A row that the model gets wrong comes back as it is.

        Returns
        -------
        X_adv : ndarray
            A copy, of the same type.
        """
        check_given(self, y)
        return self.attack(X, y).X

    def attack(self, X, y=None):
        """Attack rows and tell how it went.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            True labels; None is what the model predicts.

        Returns
        -------
        outcome : Bunch
            `X` : ndarray, the attacked rows, in the type of X
            `success` : ndarray of bool, the rows that are misread; with
            `target_labels` those read as their target
            `loss` : ndarray, the loss at each row of `X`; with `target_labels` that of
            the target, times -1
            `n_gradients` : int, gradients of single rows that were computed
            `n_zero_gradient` : int, rows without success that met a gradient of zeros
            `solver` : {"exact", "search"}
        """
        estimator = self._model()
        # tensors made under a caller's inference mode can't record gradients
        with torch.inference_mode(False):
            model = view(estimator, device=self.device)
        X = self._read(X)
        check_number("batch_size", self.batch_size, low=1, integer=True)
        eps, plan = self._checked(X.shape[1:])
        warn_unit(self.eps, X)
        if not eps.any():
            plan |= {"max_iter": 0, "n_restarts": 1, "random_start": False}
        fitted = hasattr(self, "surrogate_")
        streams = RandomStreams(self._seed if fitted else self.random_state)
        box = self._box(X)
        with model.in_use(), torch.inference_mode(False), torch.no_grad():
            # models that are no networks read flat rows
            agree(model, estimator, X if model.modules else X.reshape(len(X), -1))
            job = Job(
                model,
                X,
                y,
                eps=eps,
                box=box,
                norm=self.norm,
                loss=self.loss,
                targets=self.target_labels,
                plan=plan,
                seed=streams.seed("draws"),
                is_exact=self._is_exact_where_affine,
            )
            batches = list(batches_of(X, self.batch_size, model.device))
            parts = [
                job.solve(rows)
                for rows in tqdm(batches, disable=not self.verbose, leave=False)
            ]
        arrays, results = zip(*parts, strict=True)
        outcome = Bunch(
            X=np.concatenate(arrays),
            success=np.concatenate([r.is_broken.cpu().numpy() for r in results]),
            loss=np.concatenate([r.loss.double().cpu().numpy() for r in results]),
            n_gradients=sum(r.n_gradients for r in results),
            n_zero_gradient=sum(r.n_zero_gradient for r in results),
            solver=job.solver,
        )
        _warn_flat(outcome)
        return outcome

    def _is_attacked_as_it_is(self):
        return self.prefit or isinstance(
            self.surrogate, torch.nn.Module | FrozenEstimator
        )

    def _model(self):
        """Return the fitted model that is attacked, or raise."""
        if not self._is_attacked_as_it_is() and hasattr(self, "surrogate_"):
            return self.surrogate_
        if self.surrogate is None:
            if self.prefit:
                raise ValueError("prefit=True needs a fitted surrogate, got None")
            check_is_fitted(self)
        if not isinstance(self.surrogate, torch.nn.Module):
            try:
                check_is_fitted(self.surrogate)
            except NotFittedError:
                raise NotFittedError(
                    f"neither this {type(self).__name__} nor its surrogate "
                    f"{type(self.surrogate).__name__} is fitted: call fit(X, y), or "
                    "pass a fitted surrogate"
                ) from None
        return self.surrogate

    def __sklearn_is_fitted__(self):
        if hasattr(self, "surrogate_"):
            return True
        if self.surrogate is None:
            return False
        try:
            self._model()
        except (NotFittedError, TypeError):
            return False
        return True

    def _checked(self, sample_shape):
        """Check the parameters; return the radius and the plan of the search."""
        check_option("norm", self.norm, NORMS)
        check_option("loss", self.loss, LOSSES)
        eps = check_eps(self.eps, sample_shape, norm=self.norm).astype(np.float64)
        if not np.isfinite(eps).all():
            raise ValueError(f"eps must be finite, got {self.eps!r}")
        if isinstance(self.bounds, str):
            check_option("bounds", self.bounds, ["data"])
        elif self.bounds is not None:
            bounds_pair(self.bounds, sample_shape)
        return eps, self._plan(eps, sample_shape)

    def _read(self, X):
        """Return X as an array of one of the types that come back as they came."""
        options = {"dtype": _DTYPES, "allow_nd": True, "order": "C"}
        if not hasattr(self, "n_features_in_"):
            return check_array(X, estimator=self, input_name="X", **options)
        X = validate_data(self, X, reset=False, **options)
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on rows of shape {self.input_shape_}"
            )
        return X

    def _box(self, X):
        """Return the limits of all values of a row."""
        if isinstance(self.bounds, str):
            if not hasattr(self, "bounds_"):
                raise ValueError(
                    "bounds='data' is the range of the rows met in fit, and this "
                    f"{type(self).__name__} was never fitted: call fit(X, y), or pass "
                    "bounds=(low, high)"
                )
            return self.bounds_
        lowest, highest = (0.0, 255.0) if X.dtype == np.uint8 else (-np.inf, np.inf)
        if self.bounds is None:
            return lowest, highest
        low, high = bounds_pair(self.bounds, X.shape[1:])
        # a scaler's largest value is 1 only up to rounding
        ulp = 8 * np.finfo(X.dtype if X.dtype.kind == "f" else np.float64).eps
        floor = low - ulp * np.maximum(1, np.abs(low))
        ceiling = high + ulp * np.maximum(1, np.abs(high))
        n_outside = np.count_nonzero((X < floor) | (X > ceiling))
        if n_outside:
            raise ValueError(
                f"X lies outside bounds={self.bounds!r}: {n_outside} of its {X.size} "
                f"values, which span [{X.min():g}, {X.max():g}]"
            )
        return np.maximum(low, lowest), np.minimum(high, highest)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the input features, for two-dimensional input.

        Parameters
        ----------
        input_features : array-like of str, default=None

        Returns
        -------
        names : ndarray of str
        """
        check_is_fitted(self)
        if len(getattr(self, "input_shape_", "1")) != 1:
            raise ValueError(
                "feature names and set_output are defined for 2-dimensional X only; "
                f"{type(self).__name__} was fitted on rows of shape {self.input_shape_}"
            )
        return super().get_feature_names_out(input_features)


def _warn_flat(outcome):
    n_left = int((~outcome.success).sum())
    if n_left and outcome.n_zero_gradient >= _SIZEABLE * n_left:
        warnings.warn(
            f"{outcome.n_zero_gradient} of the {n_left} rows that withstood the attack "
            "met a gradient of zeros, so that nothing moved them: their robustness is "
            "not measured. loss='margin' helps where the loss is flat, a surrogate "
            "where the model is, as after a saturated softmax or rounding",
            UserWarning,
            stacklevel=4,
        )
