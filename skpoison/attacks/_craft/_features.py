"""Objectives in feature space: poisons whose features lie where a target's do.

Features come as a list with one tensor of shape (k, n, n_values) for each place in
each group of k networks; all objectives here are functions of such lists.
"""

import time

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from tqdm.auto import tqdm

from skpoison.attacks._craft._minimise import _SECONDS_BETWEEN_SAVES, Crafted
from skpoison.attacks._craft._simplex import simplex_least_squares

#: Draws of dropout that the features of what is aimed at are the mean over.
_N_AIM_DRAWS = 8
#: Steps of the coefficients' solver within one crafting step, from the last ones.
_N_INNER_STEPS = 50
#: A step is rejected where it lifts the objective over the mean of so many values.
_MEMORY = 40


def places_of(members, layer=None, end_to_end=False):
    """Return where the features of some networks are read off.

    Parameters
    ----------
    members : Members
    layer : str, default=None
        Module whose output are the features; None is what enters the last linear
        layer.
    end_to_end : bool, default=False
        What enters each layer with weights but the first.

    Returns
    -------
    places : list of (str, {"input", "output"})
    """
    modules = dict(members.module.named_modules())
    if end_to_end:
        kinds = torch.nn.Linear, torch.nn.modules.conv._ConvNd
        names = [n for n, m in modules.items() if isinstance(m, kinds)]
        return [(n, "input") for n in names[1:] or names]
    if layer is not None:
        if layer not in modules:
            known = ", ".join(repr(n) for n in modules if n)
            raise ValueError(
                f"layer={layer!r} is no module of the surrogate, which has {known}"
            )
        return [(layer, "output")]
    if members.last is None:
        raise ValueError(
            "layer: the surrogate has no linear layer, whose input would be the "
            "features; name the module whose output is"
        )
    return [(members.last, "input")]


class FeatureMap:
    """Features of rows at some places of some networks, and their pull on the rows.

    Parameters
    ----------
    groups : list of Members
    places : list of list of (str, {"input", "output"})
        One list a group, see :func:`places_of`.
    streams : RandomStreams
    augment : ShiftFlip, callable or None
    batch_size : int
        Rows, times networks, that are in memory at once.

    Attributes
    ----------
    n_members : int
    """

    def __init__(self, groups, places, *, streams, augment=None, batch_size=512):
        self.groups, self.places = groups, places
        self.streams, self.augment = streams, augment
        self.n_members = sum(map(len, groups))
        self.batch_size = max(1, batch_size // max(map(len, groups)))

    def of(self, rows):
        """Return the features of rows as they are, without gradients."""
        n_draws = _N_AIM_DRAWS if any(m.draws for m in self.groups) else 1
        with torch.no_grad():
            draws = [
                [
                    self._forward(part, f"aim {k}", i)
                    for i, part in enumerate(rows.split(self.batch_size))
                ]
                for k in range(n_draws)
            ]
        joined = [[torch.cat(p, 1) for p in zip(*d, strict=True)] for d in draws]
        return [sum(each) / n_draws for each in zip(*joined, strict=True)]

    def pull(self, rows, step, compare):
        """Return a function of the features of rows, and its gradient in the rows.

        Parameters
        ----------
        rows : tensor of shape (n, *row_shape)
        step : int or str
            Names the draws of augmentation and dropout.
        compare : callable
            Takes the list of features and returns values, whose sum is differentiated.

        Notes
        -----
        More than ``batch_size`` rows take two passes, the second with the draws of
        the first: the gradient is that of all rows together.
        """
        cuts = [
            slice(i, i + self.batch_size) for i in range(0, len(rows), self.batch_size)
        ]
        moves = self._moves(rows, step)

        def forward(cut):
            at = rows[cut].detach().requires_grad_()
            return at, self._forward(self._augmented(at, step, cut, moves), step, cut)

        with torch.set_grad_enabled(len(cuts) == 1):
            passes = [forward(cut) for cut in cuts]
        parts = zip(*(found for _, found in passes), strict=True)
        leaves = [torch.cat(p, 1).detach().requires_grad_() for p in parts]
        values = compare(leaves)
        directions = torch.autograd.grad(values.sum(), leaves)
        gradient = torch.empty_like(rows)
        for cut, (at, found) in zip(cuts, passes, strict=True):
            if len(cuts) > 1:
                at, found = forward(cut)
            there = [d[:, cut] for d in directions]
            (gradient[cut],) = torch.autograd.grad(found, at, there)
        return values.detach(), gradient

    def _moves(self, rows, step):
        if not hasattr(self.augment, "draw"):
            return None
        generator = self.streams.torch(f"augmentation {step}")
        return self.augment.draw(len(rows), rows.shape[1:], generator)

    def _augmented(self, rows, step, cut, moves):
        if self.augment is None:
            return rows
        if moves is not None:
            return self.augment.apply(rows, moves[cut].to(rows.device))
        generator = self.streams.torch(f"augmentation {step} {cut.start}")
        return self.augment(rows, generator)

    def _forward(self, rows, step, cut):
        found = []
        for members, places in zip(self.groups, self.places, strict=True):
            inputs = rows.expand(len(members), *rows.shape)
            weights = members.params, members.others
            with members.randomness(self.streams.seed(f"dropout {step} {cut}")):
                found += members.activations(*weights, inputs, places)
        return found


class Collision:
    """Each row's features at those of an aim: ``||phi(x) - phi(t)||^2 + beta ||d||^2``.

    Parameters
    ----------
    features : FeatureMap
    x : tensor of shape (n, *row_shape)
    aims : list of tensors of shape (k, n, n_values)
        See :meth:`FeatureMap.of`: for each row what it is to collide with.
    beta0 : float
        ``beta`` over the squared ratio of the numbers of features and of inputs.
    """

    def __init__(self, features, x, aims, beta0):
        self.features, self.x, self.aims = features, x, aims
        n_values = np.mean([aim.shape[2] for aim in aims])
        self.beta = beta0 * (n_values / x[0].numel()) ** 2

    def distances(self, delta, step):
        """Return squared distances of shape (n,), the mean over networks, and pulls."""

        def compare(found):
            apart = zip(found, self.aims, strict=True)
            return sum((f - a).square().sum((0, 2)) for f, a in apart) / (
                self.features.n_members
            )

        return self.features.pull(self.x + delta, step, compare)

    def penalty(self, delta):
        """Return what staying near the own clean row costs, of shape (n,)."""
        return self.beta * delta.flatten(1).square().sum(1)

    def __call__(self, delta, step):
        """Return the mean objective, and the gradient of its sum in delta."""
        distances, gradient = self.distances(delta, step)
        values = distances + self.penalty(delta)
        return values.mean(), gradient + 2 * self.beta * delta


def forward_backward(
    objective,
    delta,
    ball,
    *,
    n_steps,
    step_size=1.0,
    tol=1e-5,
    store=None,
    key="craft",
    verbose=0,
):
    """Minimise a :class:`Collision` by forward-backward splitting, each row alone.

    Parameters
    ----------
    objective : Collision
    delta : tensor of shape (n, *row_shape)
    ball : Ball
        With a finite radius its projection takes the place of the penalty.
    n_steps : int
    step_size : float, default=1.0
        Times ``2 f / ||grad f||^2`` at the start, which solves the problem at once
        where features are linear along the gradient.
    tol : float, default=1e-5
        A row is done once an accepted step changes its objective by this share.
    store, key, verbose
        See :func:`~skpoison.attacks._craft._minimise.minimise`.

    Returns
    -------
    crafted : Crafted
    """
    free = not bool(torch.isfinite(ball.eps).all())

    def wide(rates):
        return rates.reshape(-1, *[1] * (delta.ndim - 1))

    def evaluate(delta, step):
        distances, gradient = objective.distances(delta, step)
        return distances + (objective.penalty(delta) if free else 0.0), gradient

    kept = store.get(key) if store is not None else None
    if kept is None:
        first = 0
        values, gradient = evaluate(delta, "start")
        square = gradient.flatten(1).square().sum(1)
        rates = step_size * torch.where(square > 0, 2 * values / square, 0.0)
        done = rates == 0
        history, curve = values[None], [float(values.mean())]
    else:
        first, curve = int(kept["step"]), kept["curve"].tolist()
        names = ["delta", "values", "gradient", "rates", "done", "history"]
        delta, values, gradient, rates, done, history = (
            torch.as_tensor(kept[name], device=delta.device) for name in names
        )
    saved = time.monotonic()
    bar = tqdm(total=n_steps, initial=first, disable=not verbose, desc=key, leave=False)
    with bar:
        for step in range(first, n_steps):
            if done.all():
                break
            moved = delta - wide(rates) * gradient
            if free:
                moved = moved / wide(1 + 2 * rates * objective.beta)
            moved = ball.project(moved)
            new_values, new_gradient = evaluate(moved, step)
            better = ~done & (new_values <= history.mean(0))
            settled = (new_values - values).abs() <= tol * values
            done = done | (better & settled)
            rates = torch.where(better | done, rates, 0.5 * rates)
            delta = torch.where(wide(better), moved, delta)
            gradient = torch.where(wide(better), new_gradient, gradient)
            values = torch.where(better, new_values, values)
            history = torch.cat([history, values[None]])[-_MEMORY:]
            curve.append(float(values.mean()))
            bar.update()
            late = time.monotonic() - saved > _SECONDS_BETWEEN_SAVES
            if store is not None and store.keeps and (late or step == n_steps - 1):
                state = {
                    "delta": delta,
                    "values": values,
                    "gradient": gradient,
                    "rates": rates,
                    "done": done,
                    "history": history,
                }
                arrays = {n: t.cpu().numpy() for n, t in state.items()}
                store.put(
                    key, step=np.asarray(step + 1), curve=np.array(curve), **arrays
                )
                saved = time.monotonic()
    return Crafted(delta, np.array(curve))


class Polytope:
    """Features of the target in, or in the middle of, the hull of the poisons'.

    Parameters
    ----------
    features : FeatureMap
    x : tensor of shape (n, *row_shape)
    aims : list of tensors of shape (k, n_targets, n_values)
        Their mean is what is aimed at.
    centred : bool
        True for bullseye: coefficients stay ``1 / n``, and the distance itself is
        summed, not half its square.
    """

    def __init__(self, features, x, aims, centred):
        self.features, self.x, self.centred = features, x, centred
        self.aims = [aim.mean(1) for aim in aims]
        n_problems, n_rows = sum(map(len, self.aims)), len(x)
        shape = n_problems, n_rows
        self.coefficients = torch.full(shape, 1 / n_rows, dtype=torch.float64)

    def state(self):
        """Return what a resumed craft starts from."""
        return {"coefficients": self.coefficients}

    def restore(self, state):
        """Take it."""
        self.coefficients = state["coefficients"].cpu()

    def __call__(self, delta, step):
        """Return the objective and its gradient in delta, at the best coefficients."""
        return self.features.pull(self.x + delta, step, self._compare)

    def _compare(self, found):
        if not self.centred:
            self._fit_coefficients(found)
        total, first = 0.0, 0
        for f, aim in zip(found, self.aims, strict=True):
            c = self.coefficients[first : first + len(f)].to(f)
            first += len(f)
            apart = (torch.einsum("kn,knd->kd", c, f) - aim).norm(dim=1)
            apart = apart / (aim.norm(dim=1) + 1e-12)
            total = total + (apart if self.centred else 0.5 * apart.square()).sum()
        return total / self.features.n_members

    def _fit_coefficients(self, found):
        """Solve for the hull's nearest points: all networks and layers as one batch."""
        grams, inner = [], []
        for f, aim in zip(found, self.aims, strict=True):
            f, aim = f.detach().double(), aim.double()
            grams.append(f @ f.transpose(1, 2))
            inner.append(torch.einsum("knd,kd->kn", f, aim))
        solved = simplex_least_squares(
            torch.cat(grams),
            torch.cat(inner),
            self.coefficients.to(grams[0].device),
            max_iter=_N_INNER_STEPS,
        )
        self.coefficients = solved.cpu()


def greedy_pairs(cost):
    """Give each row a column of its own, smallest entry of the matrix first.

    Parameters
    ----------
    cost : ndarray of shape (n, m), m >= n

    Returns
    -------
    partner : ndarray of int of shape (n,)
    """
    # not a number is as bad as can be, and still less than what is taken
    cost = np.nan_to_num(np.array(cost, dtype=float), nan=1e300, posinf=1e300)
    partner = np.full(len(cost), -1)
    while (partner < 0).any():
        # entries least in row and column are taken whatever comes before them
        best = cost.argmin(1)
        mutual = cost.argmin(0)[best] == np.arange(len(cost))
        mutual &= partner < 0
        partner[mutual] = best[mutual]
        cost[mutual], cost[:, best[mutual]] = np.inf, np.inf
    return partner


class Pairs:
    """Rows at the features of triggered sources, each with a source of its own.

    Parameters
    ----------
    features : FeatureMap
    x : tensor of shape (n, *row_shape)
    sources : tensor of shape (n_sources, *row_shape)
        With the trigger on. Each step draws as many as there are rows.
    matching : {"greedy", "hungarian"}

    Attributes
    ----------
    drawn : ndarray of int of shape (n,)
        Of the last step: for each row the source it was paired with.
    """

    def __init__(self, features, x, sources, matching):
        self.features, self.x, self.matching = features, x, matching
        self.sources = sources

    def __call__(self, delta, step):
        """Return the mean squared distance, and the gradient of the sum in delta."""
        rng = self.features.streams.numpy(f"sources {step}")
        # fewer sources than rows: none serves once more before all have served
        drawn = np.resize(rng.permutation(len(self.sources)), len(self.x))
        aims = self.features.of(self.sources[torch.as_tensor(drawn)])

        def compare(found):
            leaves = [f.detach() for f in found]
            pairs = self._match(
                sum(
                    torch.cdist(f, a).square().sum(0)
                    for f, a in zip(leaves, aims, strict=True)
                )
            )
            self.drawn = drawn[pairs]
            index = torch.as_tensor(pairs, device=delta.device)
            return sum(
                (f - a[:, index]).square().sum((0, 2))
                for f, a in zip(found, aims, strict=True)
            )

        values, gradient = self.features.pull(self.x + delta, step, compare)
        return values.mean() / self.features.n_members, gradient

    def _match(self, cost):
        cost = cost.cpu().numpy()
        if self.matching == "greedy":
            return greedy_pairs(cost)
        return linear_sum_assignment(cost)[1]


class Hardness:
    """The negative loss of rows on their true labels: its descent makes them hard.

    Parameters
    ----------
    features : FeatureMap
        Of logits.
    x : tensor of shape (n, *row_shape)
    labels : tensor of int of shape (n,)
    """

    def __init__(self, features, x, labels):
        self.features, self.x, self.labels = features, x, labels

    def __call__(self, delta, step):
        """Return minus the mean loss, and the gradient of minus its sum in delta."""

        def compare(found):
            return -sum(
                F.cross_entropy(logits, self.labels, reduction="none")
                for f in found
                for logits in f
            )

        values, gradient = self.features.pull(self.x + delta, step, compare)
        return values.mean() / self.features.n_members, gradient
