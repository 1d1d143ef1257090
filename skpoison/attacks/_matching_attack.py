"""Attacks that match gradients: from rows and goals to the kept restart."""

from collections import defaultdict

import joblib
import numpy as np

from skpoison.attacks._crafted import CraftedAttack
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_option

_LOSSES = [
    "cosine",
    "scalar_product",
    "layer_cosine",
    "se",
    "top_5",
    "top_10",
    "top_20",
]
#: Draws of the augmentation over which restarts are compared.
_N_FINAL_DRAWS = 8


class NothingToMatchError(ValueError):
    """A surrogate reads the targets as wanted already, with a gradient of zero."""


class MatchingAttack(CraftedAttack):
    """Base of attacks whose poisons imitate a gradient.

    A subclass writes ``_goal_rows(X, y)``, which returns (rows, labels) for each goal
    as tensors, may name another loss of theirs in ``_goal_loss``, and may split the
    poisons among goals in ``_parts(n_rows)``.
    """

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        check_option("loss", self.loss, _LOSSES)
        check_option("batch_mode", self.batch_mode, ["exact", "per_batch"])
        if self.ensemble_stagger is not None:
            staggers = ["first_n", "full", "inbetween"]
            check_option("ensemble_stagger", self.ensemble_stagger, staggers)

    @property
    def _goal_loss(self):
        return "cross_entropy"

    def _parts(self, n_rows):
        return None

    def _craft(self, X, y, rows, streams):
        return self._craft_together([self], X, y, [rows], streams)[0]

    def _fit_each(self, attacks, X, y):
        plans = []
        for before, attack in zip([None, *attacks[:-1]], attacks, strict=True):
            if hasattr(before, "surrogates_"):
                attack._given = before.surrogates_
            plans.append(attack._begin(X, y))
        same_size = defaultdict(list)
        for i, plan in enumerate(plans):
            same_size[len(plan.rows)].append(i)
        for n_rows, members in same_size.items():
            chosen = [attacks[i] for i in members]
            found = np.zeros((len(chosen), 0, *attacks[0].input_shape_))
            if n_rows:
                plan = plans[members[0]]
                rows = [plans[i].rows for i in members]
                found = chosen[0]._craft_together(
                    chosen, plan.X, plan.y, rows, plan.streams
                )
            for i, crafted in zip(members, found, strict=True):
                attacks[i]._finish(plans[i], crafted)

    def _craft_together(self, attacks, X, y, rows, streams):
        """Craft attacks that differ in goal and rows alone, as one batch.

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
        import torch

        from skpoison.attacks._craft._matching import GradientMatching
        from skpoison.attacks._craft._minimise import minimise

        store = self._store(X, y, streams)
        key = "craft"
        if len(attacks) > 1:
            aims = [(a.targets_, a.target_labels_) for a in attacks]
            key = f"craft-{joblib.hash(aims)}"
        groups = self._members(X, y, streams, store)
        for attack in attacks:
            attack.surrogates_ = self.surrogates_
        goals = self._checked_goals(groups, attacks, X, y)
        rows = np.array(rows)
        ball = self._ball(X[rows][:, None])
        codes = torch.as_tensor(y[rows], device=ball.x.device)
        objective = GradientMatching(
            groups,
            goals,
            ball.x[:, 0],
            codes,
            loss=self.loss,
            streams=streams,
            parts=self._parts(rows.shape[1]),
            augment=self._augmentation(),
            batch_size=self.batch_size,
            exact=self.batch_mode == "exact",
            adaptation=getattr(self, "adaptation", None),
            clean=self._clean_rows(X, y),
        )
        shape = (1, self.n_restarts, rows.shape[1], *self.input_shape_)
        start = ball.start(self.init, shape, streams.torch("start"))

        def descend(delta, key):
            return minimise(
                objective,
                delta,
                ball,
                n_steps=self.max_iter,
                optimizer=self.optimizer,
                step_size=self.step_size,
                schedule=self.schedule,
                store=store,
                key=key,
                verbose=self.verbose,
            )

        if self.retrain_every is None:
            crafted = descend(start, key)
            delta, curve = crafted.delta, crafted.curve
            found = self._legal(delta, X[rows], ball)
            losses = self._final_losses(objective, found, ball)
        else:
            if len(attacks) > 1:
                return [
                    a._craft_together([a], X, y, [r], streams)[0]
                    for a, r in zip(attacks, rows, strict=True)
                ]
            found, curve, losses = [], [], []
            for r in range(self.n_restarts):
                objective.groups, objective.goals = groups, goals
                objective.retrain = _Retraining(self, r, X, y, rows, streams, store)
                crafted = descend(start[:, r : r + 1], f"{key}-{r}")
                found.append(self._legal(crafted.delta, X[rows], ball))
                losses.append(self._final_losses(objective, found[-1], ball))
                curve.append(crafted.curve)
            found, losses = np.concatenate(found, 1), np.concatenate(losses, 1)
            curve = np.concatenate(curve, 2)
        best = losses.argmin(axis=1)
        for j, attack in enumerate(attacks):
            attack.loss_curve_ = curve[:, j].T
            attack.restart_losses_ = losses[j]
            attack.best_restart_ = int(best[j])
            attack.loss_ = float(losses[j, best[j]])
            attack.n_iter_ = self.max_iter
        return [found[j, best[j]] for j in range(len(attacks))]

    def _checked_goals(self, groups, attacks, X, y):
        from skpoison.attacks._craft._goals import stacked_goals

        problems = [attack._goal_rows(X, y) for attack in attacks]
        goals = [
            stacked_goals(g, problems, self._goal_loss, batch_size=self.batch_size)
            for g in groups
        ]
        for goal in goals:
            length = sum(g.flatten(3).square().sum(3) for g in goal.values())
            won = (length == 0).nonzero()
            if len(won):
                member, attack = won[0, :2].tolist()
                raise NothingToMatchError(
                    f"targets: surrogate {member} already reads target {attack} as "
                    "wanted, with a gradient of zero: there is nothing to match"
                )
        return goals

    def _clean_rows(self, X, y):
        plan = getattr(self, "adaptation", None)
        if plan is None or plan.mix is None:
            return None
        return self._tensors(X, y)

    def _legal(self, delta, X, ball):
        """Return perturbations that X can bear, in the shape of delta."""
        shape = delta.shape
        X = np.broadcast_to(X[:, None], shape).reshape(-1, *self.input_shape_)
        wide = ball.expanded(delta)
        found = wide.legal(delta.flatten(0, 2), X, self._bounds, self.eps_)
        return found.reshape(shape)

    def _final_losses(self, objective, found, ball):
        """Return the objective of what is handed back, over common random numbers."""
        import torch

        delta = torch.as_tensor(
            (found / ball.scale).astype(np.float32), device=ball.x.device
        )
        draws = objective.augment is not None or any(m.draws for m in objective.groups)
        n_draws = _N_FINAL_DRAWS if draws else 1
        retrain, objective.retrain = objective.retrain, None
        values = (
            sum(objective(delta, f"final {k}")[0] for k in range(n_draws)) / n_draws
        )
        objective.retrain = retrain
        return values.cpu().numpy()


class _Retraining:
    """Trains new surrogates on what is poisoned so far, every so many steps."""

    def __init__(self, attack, restart, X, y, rows, streams, store):
        self.attack, self.restart, self.store = attack, restart, store
        self.X, self.y, self.rows, self.streams = X, y, rows[0], streams
        self.trained_at = 0

    def __call__(self, delta, step):
        from skpoison.attacks._surrogates import members_of, train_surrogates

        attack, every = self.attack, self.attack.retrain_every
        # after a resumption the last of them is on disk
        at = step - step % every
        if at == self.trained_at:
            return None
        self.trained_at = at
        X = self.X.copy()
        ball = attack._ball(X[self.rows])
        moved = ball.legal(delta[0, 0], X[self.rows], attack._bounds, attack.eps_)
        X[self.rows] = (X[self.rows] + moved).astype(X.dtype)
        name = f"retraining {self.restart} {at}"
        trained = train_surrogates(
            attack.surrogate,
            X,
            self.y,
            n_members=attack.n_ensemble,
            stagger=attack.ensemble_stagger,
            device=attack.device,
            seeds=RandomStreams(self.streams.seed(name)),
            store=self.store,
            name=name.replace(" ", "-"),
            verbose=attack.verbose,
        )
        groups = members_of(trained, X, attack.device)
        return groups, attack._checked_goals(groups, [attack], X, self.y)
