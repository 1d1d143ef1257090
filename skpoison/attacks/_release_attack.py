"""How data is crafted before a release: row by row, all together, or with a network."""

import numpy as np

from skpoison.attacks._crafted import CraftedAttack
from skpoison.attacks._store import Store
from skpoison.utils import RandomStreams, row_keys

#: Draws of the augmentation over which restarts are compared.
_N_FINAL_DRAWS = 8
#: Rows, and their bytes in float32, in memory at a time where gradients are not.
_BLOCK, _BLOCK_BYTES = 4096, 2**26


class ReleaseCrafting(CraftedAttack):
    """Base of the attack on a release: what ``fit`` and ``protect`` craft by.

    A subclass has the parameters, and checks them: ``_wanted_codes()`` returns where
    "class_target" sends each class, ``_check_target_data(X)`` rows and codes.
    """

    def _is_by_row(self):
        """Tell whether each row is crafted by itself."""
        alone = self.method in ("error_max", "class_target", "random")
        return alone or (self.method == "alignment" and self.online)

    def _learn(self, X, y, streams, store):
        """Train what a row is crafted with, or take it from the store."""
        if self.method == "random":
            return None
        groups = self._members(X, y, streams, store)
        if self.method == "alignment":
            self.goal_gradient_ = self._goals(groups, X, y, store)
        return groups

    def _learn_alone(self, X, y, open_store):
        """Do what ``fit`` does before it crafts, with ``budget=0``."""
        plan = self._begin(X, y)
        store = open_store()  # which makes a folder: after all checks
        self.seed_, self.bounds_ = plan.streams.root, self._bounds
        self._learn(plan.X, plan.y, plan.streams, store)
        self._finish(plan, self._empty(plan.X, 0))

    def _goals(self, groups, X, y, store):
        """Return the direction of each group's members."""
        import torch

        from skpoison.attacks._craft._goals import goal_gradient

        kept = store.get("goal")
        if kept is not None:
            names = [name.partition(".") for name in kept]
            return [
                {n: kept[f"{i}.{n}"] for k, _, n in names if k == str(i)}
                for i in range(len(groups))
            ]
        if self.target_data is not None:
            X, y = self._check_target_data(X)
        goals = []
        for members in groups:
            total = {n: torch.zeros_like(p) for n, p in members.params.items()}
            for cut in _cuts(len(X), max(_rows_in_memory(X), self.batch_size)):
                rows, codes = self._tensors(X[cut], y[cut])
                parts = [
                    goal_gradient(
                        members, e, rows, codes, "reverse", batch_size=self.batch_size
                    )
                    for e in range(len(members))
                ]
                share = len(rows) / len(X)
                for n in total:
                    total[n] += share * torch.stack([p[n] for p in parts])
            goals.append({n: t.cpu().numpy() for n, t in total.items()})
        if store.keeps:
            flat = {f"{i}.{n}": a for i, g in enumerate(goals) for n, a in g.items()}
            store.put("goal", **flat)
        return goals

    def _directions(self):
        import torch

        from skpoison.utils._tensors import resolve_device

        device = resolve_device(self.device)
        return [
            {n: torch.as_tensor(a, device=device) for n, a in goal.items()}
            for goal in self.goal_gradient_
        ]

    def _craft(self, X, y, rows, streams):
        store = self._store(X, y, streams)
        self.seed_, self.bounds_ = streams.root, self._bounds
        if self.method.startswith("error_min"):
            return self._craft_error_min(X, y, rows, streams, store)
        groups = self._learn(X, y, streams, store)
        if self._is_by_row():
            found, curve, losses = self._craft_rows(X, y, rows, groups, store)
            self.n_iter_ = 1
            if self.method != "random":
                self.loss_curve_, self.loss_ = curve, float(losses.mean())
                self.n_iter_ = self.max_iter
            return found
        return self._craft_together(X, y, rows, streams, groups, store)

    def _craft_rows(self, X, y, rows, groups, store):
        """Craft each row by itself, a batch at a time.

        Returns
        -------
        found : ndarray of shape (len(rows), *row_shape)
        curve : ndarray of shape (n_restarts, max_iter)
        losses : ndarray of shape (len(rows),)
        """
        n_copies = self.n_restarts * (sum(map(len, groups)) if groups else 1)
        found, losses, curve = self._empty(X, len(rows)), np.zeros(len(rows)), 0.0
        for cut in _cuts(len(rows), max(1, self.batch_size // n_copies)):
            part = rows[cut]
            key = f"rows-{cut.start}"
            batch = self._craft_batch(X[part], y[part], groups, store, key)
            found[cut], losses[cut] = batch[0], batch[2]
            curve = curve + batch[1] * (len(part) / len(rows))
        return found, curve, losses

    def _craft_batch(self, X, y, groups, store, key):
        import torch

        from skpoison.attacks._craft._minimise import minimise
        from skpoison.attacks._craft._release import RowSum, draws_by_row

        low, high = self.bounds_
        if isinstance(self.bounds, str):
            low, high = np.minimum(low, X), np.maximum(high, X)
        ball = self._ball(X, (low, high))
        streams, keys = RandomStreams(self.seed_), row_keys(X)
        shared = {"shape": self.input_shape_, "n_restarts": self.n_restarts}
        if self.method == "random":
            start, _ = draws_by_row(streams, keys, init="sign", **shared)
            delta = ball.project(start[0].to(ball.x.device) * ball.unit)
            return ball.legal(delta, X, (low, high), self.eps_), 0.0, 0.0
        for members in groups:
            members.module.eval()  # a draw of dropout belongs to a batch, not to a row
        augment = self._augmentation()
        start, moves = draws_by_row(
            streams,
            keys,
            init=self.init,
            augment=augment if hasattr(augment, "draw") else None,
            n_moves=self.max_iter + _N_FINAL_DRAWS,
            **shared,
        )

        def augmented(inputs, step):
            flat = inputs.flatten(0, 1)
            if moves is not None:
                flat = augment.apply(flat, moves[step].flatten(0, 1).to(flat))
            else:
                flat = augment(flat, streams.torch(f"augmentation {step} {keys[0]}"))
            return flat.reshape(inputs.shape)

        wanted = self._wanted_codes()[y] if self.method == "class_target" else y
        objective = RowSum(
            groups,
            ball.x,
            torch.as_tensor(wanted, device=ball.x.device),
            loss="untargeted" if self.method == "error_max" else "cross_entropy",
            goals=self._directions() if self.method == "alignment" else None,
            augment=None if augment is None else augmented,
        )
        start = ball.project(start.to(ball.x.device) * ball.unit)
        crafted = minimise(objective, start, ball, **self._schedule(store, key))
        found = np.stack(
            [ball.legal(d, X, (low, high), self.eps_) for d in crafted.delta]
        )
        final = torch.as_tensor(found / ball.scale, dtype=torch.float32)
        final = final.to(ball.x.device)
        draws = range(self.max_iter, self.max_iter + (_N_FINAL_DRAWS if augment else 1))
        values = sum(objective.rows(final, k)[0] for k in draws) / len(draws)
        best = values.argmin(0).cpu().numpy()
        values = values.min(0).values.cpu().numpy()
        return found[best, np.arange(len(X))], crafted.curve.T, values

    def _craft_together(self, X, y, rows, streams, groups, store):
        """Craft all rows on one objective."""
        import torch

        from skpoison.attacks._adaptation import Adaptation
        from skpoison.attacks._craft._matching import GradientMatching
        from skpoison.attacks._craft._minimise import minimise
        from skpoison.attacks._craft._release import draws_by_row

        ball = self._ball(X[rows])
        n_rows = len(rows)
        own = {}
        if self.method == "alignment":
            # one problem, one goal
            goals = [
                {n: t[:, None, None] for n, t in g.items()} for g in self._directions()
            ]
        else:
            goals = [{"": torch.zeros(len(g), 1, 0)} for g in groups]
            own = {
                "parts": [(slice(0, n_rows), [])],
                "adaptation": Adaptation(norm_weight=1.0),
            }
        augment = self._augmentation()
        objective = GradientMatching(
            groups,
            goals,
            ball.x[None],
            torch.as_tensor(y[rows], device=ball.x.device)[None],
            loss="cosine",
            streams=streams,
            augment=augment,
            batch_size=self.batch_size,
            exact=False,  # as published, and stronger than all rows at once
            **own,
        )
        start, _ = draws_by_row(
            streams,
            row_keys(X[rows]),
            init=self.init,
            n_restarts=self.n_restarts,
            shape=self.input_shape_,
        )
        start = ball.project(start.to(ball.x.device) * ball.unit)[None]
        crafted = minimise(objective, start, ball, **self._schedule(store, "craft"))
        found = [self._legal(d, X, rows, ball) for d in crafted.delta[0]]
        final = torch.stack(
            [torch.as_tensor(f / ball.scale, dtype=torch.float32) for f in found]
        ).to(ball.x.device)[None]
        chance = augment is not None or any(g.draws for g in groups)
        n_draws = _N_FINAL_DRAWS if chance else 1
        values = sum(objective(final, f"final {k}")[0][0] for k in range(n_draws))
        best = int(values.argmin())
        self.loss_curve_, self.n_iter_ = crafted.curve[:, 0].T, self.max_iter
        self.loss_ = float(values[best]) / n_draws
        return found[best]

    def _craft_error_min(self, X, y, rows, streams, store):
        """Craft with a network that is trained along."""
        from dataclasses import replace

        import torch

        from skpoison.attacks._craft._minimise import minimise
        from skpoison.attacks._craft._release import ErrorMin, draws_by_row
        from skpoison.attacks._surrogates import module_of, optimizer_of, untrained

        by_class = self.method == "error_min_class"
        estimator = untrained(self.surrogate, X, y, streams, self.device)
        self.surrogates_ = [estimator]
        ball = self._ball(X[rows])
        device = ball.x.device
        module, shape = module_of(estimator, X.shape[1:])
        optimizer, train_size = optimizer_of(estimator)
        labels = torch.as_tensor(y[rows], device=device)
        owner, keys = torch.arange(len(rows), device=device), row_keys(X[rows])
        around = ball
        if by_class:  # each row is cut to the box when it gets its class's
            owner, keys = labels, [f"class {c}" for c in range(len(self.classes_))]
            centre = ball.x.new_zeros(len(keys), *self.input_shape_)
            free = torch.full((), torch.inf, device=device)
            around = replace(ball, x=centre, low=-free, high=free)
        objective = ErrorMin(
            module.to(device),
            optimizer,
            shape,
            ball,
            labels,
            owner,
            by_class=by_class,
            limit=0.1 if by_class else 0.01,
            train_size=train_size,
            batch_size=self.batch_size,
            augment=self._augmentation(),
            streams=streams,
        )
        start, _ = draws_by_row(
            streams, keys, init=self.init, n_restarts=1, shape=self.input_shape_
        )
        start = around.project(start.to(device) * around.unit)
        crafted = minimise(objective, start, around, **self._schedule(store, "craft"))
        self.loss_curve_, self.n_iter_ = crafted.curve.T, len(crafted.curve)
        return self._legal(crafted.delta[0], X, rows, ball, owner.cpu())

    def _schedule(self, store, key):
        return {
            "n_steps": self.max_iter,
            "optimizer": self.optimizer,
            "step_size": self.step_size,
            "schedule": self.schedule,
            "store": store,
            "key": key,
            "verbose": self.verbose,
        }

    def _empty(self, X, n_rows):
        dtype = np.int16 if X.dtype == np.uint8 else X.dtype
        return np.zeros((n_rows, *self.input_shape_), dtype)

    def _legal(self, delta, X, rows, ball, owner=None):
        """Return perturbations that X can bear, with a block of them in memory."""
        found = self._empty(X, len(rows))
        for cut in _cuts(len(rows), _rows_in_memory(X)):
            part = delta[cut] if owner is None else delta[owner[cut]]
            found[cut] = ball.legal(part, X[rows[cut]], self.bounds_, self.eps_)
        return found

    def _new_cuts(self, X):
        """Return slices of new rows, each a batch of `_craft_rows`."""
        n_members = 1 if self.method == "random" else len(self.surrogates_)
        return _cuts(len(X), max(1, self.batch_size // (self.n_restarts * n_members)))

    def _craft_new(self, X, y, rows):
        """Return perturbations of new rows."""
        from skpoison.attacks._surrogates import members_of

        groups = None
        if self.method != "random":
            groups = members_of(self.surrogates_, X, self.device)
        return self._craft_rows(X, y, rows, groups, Store(None, None))[0]


def _rows_in_memory(X):
    """Return how many rows, 1 or more, are copied at a time."""
    return max(1, min(_BLOCK, _BLOCK_BYTES * len(X) // (4 * max(1, X.size))))


def _cuts(n_rows, size):
    """Return slices of at most `size` rows."""
    return [slice(i, min(i + size, n_rows)) for i in range(0, n_rows, size)]
