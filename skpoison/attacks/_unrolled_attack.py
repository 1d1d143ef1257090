"""Crafting through unrolled steps of training: one trajectory, many attacks on it."""

from collections import defaultdict

import joblib
import numpy as np
from sklearn.base import clone

from skpoison.attacks._crafted import CraftedAttack
from skpoison.attacks._store import Store

_RATE_ON_POISONS = 1e-4  # 0.1, divided by ten at three milestones


class UnrolledAttack(CraftedAttack):
    """Crafts against an ensemble of networks whose training is looked ahead of."""

    # The ensemble

    def _store(self, X, y, streams, *more):
        """Return where state is kept; a craft's key tells its targets apart."""
        if self.checkpoint is None:
            return Store(None, None)
        same = clone(self).set_params(
            targets=None,
            target_labels=None,
            target_true_labels=None,
            checkpoint=None,
            verbose=0,
            random_state=None,
        )
        return Store(self.checkpoint, (same, streams.root, X, y))

    def _ensemble(self, X, y, streams):
        """Return the ensemble and its state as crafting starts, once a fit."""
        if not hasattr(self, "_started"):
            from skpoison.attacks._craft._trajectory import Trajectory

            trajectory = Trajectory(
                self.surrogate,
                X,
                y,
                *self._tensors(X, y),
                n_members=self.n_ensemble,
                moves=self.ensemble_stagger is not None,
                device=self.device,
                streams=streams,
                batch_size=self.batch_size,
            )
            if trajectory.moves:
                trajectory.stagger(self._store(X, y, streams), self.verbose)
            self._started = trajectory, trajectory.state()
        return self._started

    def _members(self, X, y, streams, store=None):
        return [kind.members for kind in self._ensemble(X, y, streams)[0].kinds]

    # Crafting

    def _craft(self, X, y, rows, streams):
        return self._craft_together([self], X, y, [rows], streams)[0]

    def _fit_each(self, attacks, X, y):
        plans, started = [], None
        for attack in attacks:
            if started is not None:
                attack._given = started
            plans.append(attack._begin(X, y))
            started = getattr(attack, "_started", started)
        groups = defaultdict(list)
        for i, plan in enumerate(plans):
            alone = i if self.trajectory == "poison" else 0
            groups[len(plan.rows), alone].append(i)
        for (n_rows, _), same in groups.items():
            chosen, plan = [attacks[i] for i in same], plans[same[0]]
            found = np.zeros((len(same), 0, *plan.X.shape[1:]))
            if n_rows:
                if started is not None:
                    chosen[0]._started = started
                rows = [plans[i].rows for i in same]
                found = chosen[0]._craft_together(
                    chosen, plan.X, plan.y, rows, plan.streams
                )
                started = chosen[0]._started
            for i, crafted in zip(same, found, strict=True):
                attacks[i]._finish(plans[i], crafted)

    def _finish(self, plan, crafted):
        vars(self).pop("_started", None)
        return super()._finish(plan, crafted)

    def _craft_together(self, attacks, X, y, rows, streams):
        """Craft attacks that differ in targets and rows alone, on one trajectory.

        Parameters
        ----------
        attacks : list of attacks
            This one's siblings, itself among them.
        X, y : ndarray
        rows : list of ndarray of the same length
        streams : RandomStreams

        Returns
        -------
        crafted : list of ndarray
            A perturbation for each of `rows`, in the unit of X.
        """
        from skpoison.attacks._craft._minimise import minimise
        from skpoison.attacks._craft._unroll import Unrolled, UnrolledOnPoisons

        trajectory, start = self._ensemble(X, y, streams)
        trajectory.restore(start)
        rows = np.array(rows)
        problems = [
            (rows[j], attack._goal(), attack._tensors(attack.targets_))
            for j, attack in enumerate(attacks)
        ]
        kind, rate, mode = (
            (UnrolledOnPoisons, _RATE_ON_POISONS, "eval")
            if self.unroll_on == "poisons"
            else (Unrolled, None, "train")
        )
        objective = kind(
            trajectory,
            problems,
            n_unroll=self.n_unroll,
            inner_rate=rate if self.inner_lr is None else self.inner_lr,
            bn_mode=self.bn_mode or mode,
            poisoned=self.trajectory == "poison",
        )
        ball = self._ball(X[rows])
        shape = (1, rows.shape[1], *self.input_shape_)
        delta = ball.start(self.init, shape, streams.torch("start"))
        delta, space = delta.expand(ball.x.shape).clone(), ball
        if self.color_eps:
            from skpoison.attacks._craft._colour import with_colours

            objective, space, delta = with_colours(
                X,
                self._bounds,
                objective,
                ball,
                delta,
                eps=self.color_eps,
                resolution=self.color_resolution,
                smoothness=self.color_smoothness,
            )
        aims = [(a.targets_, a.target_labels_, a._true_codes) for a in attacks]
        crafted = minimise(
            objective,
            delta,
            space,
            n_steps=self.max_iter,
            optimizer=self.optimizer,
            step_size=self.step_size,
            schedule=self.schedule,
            store=self._store(X, y, streams),
            key=f"craft-{joblib.hash((aims, rows))[:16]}",
            verbose=self.verbose,
        )
        trajectory.settle()
        for attack, curve in zip(attacks, crafted.curve.T, strict=True):
            attack.loss_curve_, attack.n_iter_ = curve, self.max_iter
            attack.surrogates_ = trajectory.estimators
        delta, eps = crafted.delta, self.eps_
        if space is not ball:  # colours are not held by eps, only by the box
            delta, eps = space.total(delta), np.asarray(np.inf)
        flat = X[rows].reshape(-1, *self.input_shape_)
        wide = ball.expanded(delta)
        found = wide.legal(delta.flatten(0, 1), flat, self._bounds, eps)
        return found.reshape(X[rows].shape)

    def _goal(self):
        """Return what is wanted of the networks, in codes."""
        import torch

        from skpoison.attacks._craft._unroll import AdversarialLoss
        from skpoison.utils._tensors import resolve_device

        def tensor(codes):
            return torch.as_tensor(codes, device=resolve_device(self.device))

        wished = self._target_codes()
        goal = AdversarialLoss(self.objective, tensor(wished), kappa=self.kappa)
        if len(self._true_codes):
            true = np.broadcast_to(self._true_codes, wished.shape).copy()
            goal.true = goal.base = tensor(true)
        if self.threat_model == "third_party":
            base = np.flatnonzero(self.classes_ == self.poison_class_)
            goal.base = tensor(np.broadcast_to(base, wished.shape).copy())
        return goal
