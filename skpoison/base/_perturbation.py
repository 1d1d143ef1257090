"""Attacks that change X and nothing else are transformers."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import RegressorTags
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.base._attack import BaseAttack
from skpoison.utils import RandomStreams, n_budget, row_keys
from skpoison.utils._containers import is_frame, is_number_type, put_cells
from skpoison.utils._validation import check_targets

# uint8 images stay uint8, every other integer becomes float64
_DTYPES = [np.float64, np.float32, np.uint8]


@dataclass
class _CraftingPlan:
    """What is known before crafting starts.

    Attributes
    ----------
    X, y : ndarray
        As validated; y encoded.
    rows : ndarray of int
        One row of each group of equal rows that is poisoned.
    owner : ndarray of int
        For each poisoned row the entry of `rows` whose perturbation it gets.
    streams : RandomStreams
    """

    X: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    owner: np.ndarray
    streams: RandomStreams


class PerturbationMixin(OneToOneFeatureMixin, TransformerMixin, BaseAttack):
    """Base of clean-label attacks: X changes, rows and labels stay.

    ``fit`` crafts one perturbation for each row that it picks; ``transform`` replays
    it by row content: a row that was poisoned comes back poisoned, every other row
    comes back bit for bit. So ``fit_transform`` equals ``fit().transform()``, a
    pipeline trains on poisoned rows, and test rows pass it untouched.

    A subclass has ``budget`` and ``random_state``, and writes ``_craft(X, y, rows,
    streams)``, which returns one perturbation for each of `rows`. It may narrow
    ``_candidates``, rank them in ``_preference`` and check its parameters in
    ``_check_params``, which runs before anything else is done. An attack with
    ``targets`` and ``target_labels`` finds them resolved in ``targets_`` and
    ``target_labels_``.

    Attributes
    ----------
    perturbation_ : ndarray of shape (n_poisoned_, *input_shape_)
        What is added to each poisoned row.
    row_keys_, exact_keys_ : ndarray of shape (n_poisoned_,), dtype <U32
        By which the rows are recognised: at float32, and at the resolution of X. An
        attack fitted on float64 knows float64 rows by the latter.
    perturbation_norms_ : dict of str to ndarray of shape (n_poisoned_,)
        "linf" and "l2" of what is added.
    input_shape_ : tuple of int
    n_features_in_ : int
        The number of channels for images.

    Notes
    -----
    Rows that are equal form a group: its members share one perturbation and are
    poisoned together or not at all. A group with more than one label never is.
    The rows of a smaller budget are a subset of those of a larger one, so that
    curves over ``budget`` are paired.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        if self._is_regression():
            tags.regressor_tags = RegressorTags()
        return tags

    def _check_params(self, X, y):
        """Raise on a bad parameter; y is encoded as 0..n_classes-1."""

    def _candidates(self, y):
        """Return a bool mask of the rows that may be poisoned."""
        return np.ones(len(y), dtype=bool)

    def _preference(self, X, y, streams):
        """Return a score for each row, larger first, or None for a random choice.

        It must not depend on the budget, so that smaller budgets are nested. Rows
        with copies still come after those without.
        """
        return None

    def _craft(self, X, y, rows, streams):
        raise TypeError(f"{type(self).__name__} must define _craft")

    def fit(self, X, y):
        """Craft the perturbations.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Dense and numeric. uint8 images stay uint8.
        y : array-like of shape (n_samples,)
            Class labels; numbers for an attack on regressors.

        Returns
        -------
        self
        """
        self._fit(X, y)
        return self

    def _fit(self, X, y):
        """Craft; return X as validated."""
        plan = self._begin(X, y)
        crafted = np.zeros((len(plan.rows), *self.input_shape_), dtype=plan.X.dtype)
        if len(plan.rows):
            crafted = self._craft(plan.X, plan.y, plan.rows, plan.streams)
        return self._finish(plan, crafted)

    def _begin(self, X, y):
        """Check everything and choose the rows; return what crafting needs."""
        _refuse_text(X)
        X, y = validate_data(self, X, y, dtype=_DTYPES, allow_nd=True, order="C")
        encoded = self._read_targets(y)
        self.input_shape_ = X.shape[1:]
        n_rows = n_budget(self.budget, len(X))
        self._check_params(X, encoded)
        streams = RandomStreams(self.random_state)
        keys = row_keys(X)
        exact = row_keys(X, np.float64) if X.dtype == np.float64 else keys
        if hasattr(self, "targets"):
            self._resolve_targets(X, y, keys, streams)
        groups, first, sizes = _pure_groups(exact, encoded, self._candidates(encoded))
        scores = self._preference(X, encoded, streams) if n_rows else None
        if scores is not None:
            scores = np.asarray(scores, dtype=float)[first]
        chosen = _prefix_within(streams.numpy("rows"), sizes, n_rows, scores)
        position = np.full(len(sizes) + 1, -1)
        position[chosen] = np.arange(len(chosen))
        owner = position[groups]  # groups is -1 for rows that are no candidates
        self.poison_indices_ = np.flatnonzero(owner >= 0)
        self.row_keys_ = keys[self.poison_indices_]
        self.exact_keys_ = exact[self.poison_indices_]
        self.fit_dtype_ = X.dtype.name
        self.sample_indices_ = np.arange(len(X))
        self.y_original_ = np.asarray(y)[self.poison_indices_]
        owner = owner[self.poison_indices_]
        return _CraftingPlan(X, encoded, first[chosen], owner, streams)

    def _finish(self, plan, crafted):
        """Keep one perturbation for each of the plan's rows; return X."""
        self.perturbation_ = _as_stored(crafted, plan.X.dtype)[plan.owner]
        size = int(np.prod(self.input_shape_))
        flat = self.perturbation_.reshape(-1, size)
        norms = np.zeros((2, len(flat)))
        for start in range(0, len(flat), 512):  # float64 copies stay small
            block = np.abs(flat[start : start + 512].astype(float))
            norms[0, start : start + 512] = block.max(axis=1, initial=0.0)
            norms[1, start : start + 512] = np.sqrt((block**2).sum(axis=1))
        self.perturbation_norms_ = {"linf": norms[0], "l2": norms[1]}
        return plan.X

    def fit_transform(self, X, y):
        """Craft and return the poisoned X: ``fit`` then ``transform``, hashing once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        X_out : ndarray
            A copy, of the same type.
        """
        return self._replay(self._fit(X, y))

    def _replay(self, X):
        """Return a copy of the X of ``fit`` with its poisoned rows perturbed."""
        X = X.copy()
        rows = self.poison_indices_
        X[rows] = _add(X[rows], self.perturbation_)
        return X

    def _resolve_targets(self, X, y, keys, streams):
        classes = getattr(self, "classes_", None)
        if self.targets is not None:
            self.targets_, self.target_labels_ = check_targets(
                self.targets, self.target_labels, X, keys, classes
            )
            return
        # some aim is needed for Attack().fit(X, y) to run: one training row, which
        # stays in the data with its true label and makes the attack harder
        row = streams.numpy("targets").randint(len(X))
        self.targets_ = X[row : row + 1].copy()
        if classes is None:  # the end of the range that is farther off
            ends = np.array([np.min(y), np.max(y)], dtype=float)
            self.target_labels_ = ends[[np.abs(ends - y[row]).argmax()]]
            return
        successor = np.searchsorted(classes, y[row]) + 1
        self.target_labels_ = classes[[successor % len(classes)]]

    def transform(self, X):
        """Return X with each row that ``fit`` poisoned perturbed.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        X_out : ndarray
            A copy, of the same type.
        """
        check_is_fitted(self)
        X = validate_data(
            self, X, reset=False, dtype=_DTYPES, allow_nd=True, copy=True, order="C"
        )
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on rows of shape {self.input_shape_}"
            )
        if len(self.row_keys_):
            exact = self.fit_dtype_ == X.dtype.name == "float64"
            known = self.exact_keys_ if exact else self.row_keys_
            order = np.argsort(known)
            ordered = known[order]
            keys = row_keys(X, np.float64 if exact else np.float32)
            place = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
            hit = np.flatnonzero(ordered[place] == keys)
            X[hit] = _add(X[hit], self.perturbation_[order[place[hit]]])
        return X

    def _poison(self, X, y):
        clean = self._fit(X, y)
        poisoned = self._replay(clean)
        return (put_cells(X, clean, poisoned) if is_frame(X) else poisoned), y

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
        if len(self.input_shape_) != 1:
            raise ValueError(
                "feature names and set_output are defined for 2-dimensional X only; "
                f"{type(self).__name__} was fitted on rows of shape {self.input_shape_}"
            )
        return super().get_feature_names_out(input_features)


def _pure_groups(keys, y, candidates):
    """Group equal rows; keep the groups of one label whose rows all are candidates.

    Returns the group of each row (-1: none), each group's first row and its size.
    """
    _, first, group, sizes = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    usable = np.ones(len(first), dtype=bool)
    usable[group[(y != y[first[group]]) | ~candidates]] = False
    number = np.cumsum(usable) - 1
    number[~usable] = -1
    return number[group], first[usable], sizes[usable]


def _prefix_within(rng, sizes, n_rows, scores=None):
    """Pick groups in random order, or best first, while their rows fit into n_rows.

    A prefix of one permutation, so that smaller budgets stay nested in larger ones.
    """
    order = rng.permutation(len(sizes))
    if scores is not None:
        order = order[np.argsort(-scores[order], kind="stable")]
    order = order[np.argsort(sizes[order], kind="stable")]  # many copies: last
    total = np.cumsum(sizes[order])
    n_groups = np.searchsorted(total, n_rows, side="right")
    found = total[n_groups - 1] if n_groups else 0
    if found < n_rows:
        warnings.warn(
            f"the budget allows {n_rows} rows, but only {found} are poisoned: "
            f"{sizes.sum()} can be, and copies of a row go together",
            UserWarning,
            stacklevel=5,
        )
    return order[:n_groups]


def _refuse_text(X):
    """Raise on a data frame with columns that are no numbers."""
    if is_frame(X):
        for name, dtype in zip(X.columns, X.dtypes, strict=True):
            if not is_number_type(dtype):
                raise ValueError(
                    f"X: column {name!r} holds {dtype}, no numbers: an attack that "
                    "perturbs X needs numeric columns; LabelFlipAttack and "
                    "BackdoorAttack take any"
                )


def _as_stored(perturbation, dtype):
    """Keep perturbations in X's own floating type, those of uint8 as int16."""
    if dtype == np.uint8:
        return np.rint(perturbation).astype(np.int16)
    return np.asarray(perturbation, dtype=dtype)


def _add(X, perturbation):
    if X.dtype == np.uint8:
        return np.clip(np.rint(X + perturbation.astype(np.float32)), 0, 255)
    return X + perturbation.astype(X.dtype)
