"""What the attacks that are crafted on networks share, around the crafting engine."""

import os

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skpoison.attacks._store import Store
from skpoison.base import PerturbationMixin
from skpoison.utils import RandomStreams
from skpoison.utils._validation import (
    check_bounds,
    check_eps,
    check_label,
    check_number,
    check_option,
    warn_unit,
)


class CraftedAttack(PerturbationMixin, BaseEstimator):
    """Base of clean-label attacks that descend an objective on trained networks.

    A subclass has the parameters that :meth:`_check_crafting` reads, of those that are
    named there, and writes ``_craft``. It finds its networks by :meth:`_members`.

    Attributes
    ----------
    eps_ : float or ndarray
        The radius used, in the unit of X.
    surrogates_ : list of estimators
        Trained on the clean data.
    """

    #: Start perturbations that ``init`` may name.
    _inits = ("randn", "uniform", "zero")
    #: And optimizers that ``optimizer`` may.
    _optimizers: tuple = ("sign_adam", "adam", "pgd", "mom_pgd", "gd")

    def _check_params(self, X, y):
        from skpoison.attacks._craft._sets import resolve_eps

        for name in ("surrogates_", "loss_curve_"):  # of an earlier fit
            vars(self).pop(name, None)
        if getattr(self, "eps", None) is not None:
            check_eps(self.eps, X.shape[1:], norm=self.norm)
            if self.norm == "linf":
                warn_unit(self.eps, X)
        check_bounds(self.bounds, X)
        self._check_crafting(X, y)
        self.eps_ = resolve_eps(self.eps, X, self.bounds)
        self.n_iter_ = 0

    def _check_crafting(self, X, y):
        """Raise on a bad value of a parameter that these attacks share."""
        params = self.get_params(deep=False)

        def each(check, names, **limits):
            for name in names:
                if params.get(name) is not None:
                    check(name, params[name], **limits)

        each(check_option, ["norm"], options=["linf", "l2"])
        each(check_option, ["optimizer"], options=list(self._optimizers))
        each(check_option, ["init"], options=list(self._inits))
        counts = ["max_iter", "n_restarts", "n_ensemble", "batch_size", "retrain_every"]
        each(check_number, counts, low=1, integer=True)
        each(check_number, ["step_size"], low=0.0, strict=True)
        schedule = params.get("schedule")
        if schedule is not None and not callable(schedule):
            check_option("schedule", schedule, ["steps", "thirds", "cosine"])
        if "surrogate" in params:
            from skpoison.attacks._surrogates import check_surrogate

            check_surrogate(self.surrogate, params.get("n_ensemble", 1))
        augment = params.get("augment")
        if isinstance(augment, str):
            check_option("augment", augment, ["auto", "default"])
        elif augment is not None and not callable(augment):
            raise TypeError(
                "augment must be 'auto', 'default', a callable such as ShiftFlip() or "
                f"None, got {augment!r}"
            )
        elif hasattr(augment, "validate"):
            augment.validate()
        if params.get("checkpoint") is None:
            return
        if not isinstance(self.checkpoint, str | os.PathLike):
            raise TypeError(f"checkpoint must be a folder, got {self.checkpoint!r}")
        if self.random_state is None:
            raise ValueError(
                "checkpoint needs a random_state: without one no two calls are the same"
            )

    def _store(self, X, y, streams):
        """Return where the craft keeps its state, or raise on another one's."""
        if getattr(self, "checkpoint", None) is None:
            return Store(None, None)
        same = clone(self).set_params(checkpoint=None, verbose=0, random_state=None)
        return Store(self.checkpoint, (same, streams.root, X, y))

    def _surrogates(self, X, y, streams, store=None):
        """Train the surrogates on clean data, once a fit."""
        from skpoison.attacks._surrogates import train_surrogates

        if hasattr(self, "_given"):  # of a sibling, see craft_each
            self.surrogates_ = vars(self).pop("_given")
        if not hasattr(self, "surrogates_"):
            self.surrogates_ = train_surrogates(
                self.surrogate,
                X,
                y,
                n_members=self.n_ensemble,
                stagger=getattr(self, "ensemble_stagger", None),
                device=self.device,
                seeds=streams,
                store=store,
                verbose=getattr(self, "verbose", 0),
            )
        return self.surrogates_

    def _members(self, X, y, streams, store=None):
        """Return the surrogates as stacked networks, grouped by architecture."""
        from skpoison.attacks._surrogates import members_of

        return members_of(self._surrogates(X, y, streams, store), X, self.device)

    def _ball(self, X, bounds=None):
        """Return the allowed perturbations around rows of X."""
        from skpoison.attacks._craft._sets import Ball
        from skpoison.utils._tensors import resolve_device

        return Ball.around(
            X,
            eps=self.eps_,
            norm=self.norm,
            bounds=self._bounds if bounds is None else bounds,
            box=self.input_shape_,
            device=resolve_device(self.device),
        )

    def _tensors(self, X, y=None):
        """Return rows (and codes) as the networks take them."""
        import torch

        from skpoison.utils._tensors import resolve_device

        device = resolve_device(self.device)
        scale = 255.0 if X.dtype == np.uint8 else 1.0
        rows = torch.as_tensor(np.asarray(X / scale, dtype=np.float32), device=device)
        if y is None:
            return rows
        return rows, torch.as_tensor(np.asarray(y, dtype=np.int64), device=device)

    def _begin(self, X, y):
        plan = super()._begin(X, y)
        self._bounds = check_bounds(self.bounds, plan.X)
        return plan

    def _finish(self, plan, crafted):
        vars(self).pop("_bounds", None)
        return super()._finish(plan, crafted)

    def _augmentation(self):
        """Return the augmentation that poisons are crafted through, or None."""
        from skpoison.models import ShiftFlip

        augment = self.augment
        if isinstance(augment, str) and augment == "auto":
            augment = next(
                (
                    found
                    for s in self.surrogates_
                    if (found := getattr(_final(s), "augment", None)) is not None
                ),
                None,
            )
        return ShiftFlip() if isinstance(augment, str) else augment

    def craft_each(self, X, y, targets, target_labels):
        """Craft for several targets, each alone, on the same surrogates.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        targets : array-like of shape (n_targets, *X.shape[1:])
        target_labels : array-like of shape (n_targets,) or a label
            What each is to be read as.

        Returns
        -------
        attacks : list of fitted attacks, one a target
            Each as if it had been fitted with that target alone and the same seed.
        """
        if not hasattr(self, "targets"):
            raise TypeError(f"{type(self).__name__} has no targets")
        labels = np.asarray(target_labels)
        labels = np.repeat(labels, len(targets)) if labels.ndim == 0 else labels
        if len(labels) != len(targets):
            raise ValueError(
                f"target_labels must have one label a target, {len(targets)}, got "
                f"{len(labels)}"
            )
        root = RandomStreams(self.random_state).root
        attacks = []
        for i in range(len(labels)):
            params = {
                "targets": np.asarray(targets)[i : i + 1],
                "target_labels": labels[i : i + 1],
                "random_state": root,
            }
            if getattr(self, "checkpoint", None) is not None:
                params["checkpoint"] = os.path.join(self.checkpoint, f"target-{i}")
            if getattr(self, "target_true_labels", None) is not None:
                true = np.ravel(self.target_true_labels)
                params["target_true_labels"] = (
                    true[i : i + 1] if len(true) > 1 else true
                )
            attacks.append(clone(self).set_params(**params))
        self._fit_each(attacks, X, y)
        return attacks

    def _fit_each(self, attacks, X, y):
        """Fit clones that differ in their targets alone."""
        for before, attack in zip([None, *attacks[:-1]], attacks, strict=True):
            if hasattr(before, "surrogates_"):
                attack._given = before.surrogates_
            attack.fit(X, y)


class SelectionMixin:
    """Which of the rows that may be poisoned are.

    Notes
    -----
    Parameter read: ``selection``, one of ``_selections`` or row numbers, best first.
    """

    _selections: tuple = ("random", "max_gradient")

    def _check_selection(self, y):
        if isinstance(self.selection, str):
            check_option("selection", self.selection, self._selections)
        else:
            self._selected(len(y))

    def _selected(self, n_samples):
        """Return `selection` as row numbers, best first."""
        rows = np.asarray(self.selection)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) == 0:
            raise TypeError(
                f"selection must be one of {', '.join(map(repr, self._selections))} or "
                f"an array of row numbers, got {self.selection!r}"
            )
        if rows.min() < 0 or rows.max() >= n_samples:
            raise ValueError(
                f"selection holds row numbers outside 0..{n_samples - 1}: "
                f"[{rows.min()}, {rows.max()}]"
            )
        if len(np.unique(rows)) < len(rows):
            raise ValueError("selection names a row twice")
        return rows

    def _preference(self, X, y, streams):
        if not isinstance(self.selection, str):
            scores = np.full(len(y), -np.inf)
            rows = self._selected(len(y))
            scores[rows] = -np.arange(len(rows))
            return scores
        if self.selection == "random":
            return None
        from skpoison.attacks._craft._goals import gradient_norms
        from skpoison.attacks._craft._members import feature_distances

        wanted = np.flatnonzero(self._candidates(y))
        scores = np.full(len(y), -np.inf)
        if len(wanted) == 0:
            return scores
        groups = self._members(X, y, streams, self._store(X, y, streams))
        rows, codes = self._tensors(X[wanted], y[wanted])
        if self.selection == "max_gradient":
            scores[wanted] = gradient_norms(groups, rows, codes)
        else:
            aims = self._tensors(self.targets_)
            scores[wanted] = -feature_distances(groups, rows, aims)
        return scores


class TargetedMixin(SelectionMixin):
    """Targets with the labels they are to get, and whose rows are poisoned for it.

    Notes
    -----
    Parameters read: ``targets, target_labels, target_true_labels, threat_model,
    poison_class, selection``.

    Attributes
    ----------
    targets_, target_labels_ : ndarray
        What the attack aims at.
    poison_class_ : label or None
        Class of the poisoned rows in the threat models that have one of their own.
    """

    _selections: tuple = ("random", "max_gradient", "nearest")

    def _check_targeting(self, X, y):
        check_option(
            "threat_model",
            self.threat_model,
            ["single_class", "third_party", "random_subset", "self"],
        )
        if self.poison_class is not None:
            if self.threat_model != "third_party":
                raise ValueError(
                    "poison_class goes with threat_model='third_party', got "
                    f"{self.threat_model!r}"
                )
            check_label("poison_class", self.poison_class, self.classes_)
        self._check_selection(y)

    def _resolve_targets(self, X, y, keys, streams):
        super()._resolve_targets(X, y, keys, streams)  # type: ignore[misc]
        self._true_codes = np.empty(0, dtype=int)
        if self.targets is None:  # a training row, whose label is known
            row = streams.numpy("targets").randint(len(X))
            self._true_codes = np.searchsorted(self.classes_, [y[row]])
        elif self.target_true_labels is not None:
            true = np.atleast_1d(np.asarray(self.target_true_labels))
            true = np.broadcast_to(true, self.target_labels_.shape)
            self._true_codes = np.array(
                [check_label("target_true_labels", t, self.classes_) for t in true]
            )
            won = np.flatnonzero(true == self.target_labels_)
            if len(won) and len(self.classes_) > 1:
                raise ValueError(
                    f"target_labels[{won[0]}] is the true label of the target, "
                    f"{true[won[0]]!r}: there is nothing to attack"
                )
        self.poison_class_ = None
        if self.threat_model == "third_party":
            self.poison_class_ = self._third_party(streams)
        if self.threat_model == "self" and len(self._true_codes) == 0:
            raise ValueError(
                "threat_model='self' poisons rows of the target's own class: give "
                "target_true_labels"
            )

    def _third_party(self, streams):
        if self.poison_class is not None:
            return self.poison_class
        if len(self._true_codes) == 0:
            raise ValueError(
                "threat_model='third_party' needs poison_class, or target_true_labels "
                "to keep clear of"
            )
        taken = {
            *self.classes_[self._true_codes].tolist(),
            *self.target_labels_.tolist(),
        }
        free = [c for c in self.classes_ if c not in taken]
        if not free:
            raise ValueError(
                "threat_model='third_party' needs a class that is neither the "
                f"target's nor wanted for it; y has {len(self.classes_)} classes"
            )
        return free[streams.numpy("poison class").randint(len(free))]

    def _candidates(self, y):
        labels = self.classes_[y]
        if not isinstance(self.selection, str):
            return np.isin(np.arange(len(y)), self._selected(len(y)))
        if self.threat_model == "random_subset":
            return np.ones(len(y), dtype=bool)
        if self.threat_model == "self":
            return np.isin(y, self._true_codes)
        if self.threat_model == "third_party":
            return labels == self.poison_class_
        return np.isin(labels, self.target_labels_)

    def _target_codes(self):
        return np.searchsorted(self.classes_, self.target_labels_)

    def attack_outcomes(self, predict, X, y):
        """Tell for each target whether it is read as the attacker wants.

        Parameters
        ----------
        predict : callable
        X, y
            Not used.

        Returns
        -------
        outcomes : ndarray of bool, one a target
        """
        check_is_fitted(self)
        return np.asarray(predict(self.targets_)) == self.target_labels_


def _final(estimator):
    """Return the last step of a pipeline, what a frozen estimator holds, or itself."""
    if hasattr(estimator, "steps"):
        return estimator.steps[-1][1]
    if type(estimator).__name__ == "FrozenEstimator":
        return _final(estimator.estimator)
    return estimator
