"""How a batch poisons itself: crafted on the network as it is, or drawn at random."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from skpoison.attacks._craft._features import (
    FeatureMap,
    Hardness,
    Polytope,
    greedy_pairs,
)
from skpoison.attacks._craft._goals import stacked_goals
from skpoison.attacks._craft._matching import GradientMatching
from skpoison.attacks._craft._members import Members
from skpoison.attacks._craft._sets import Ball
from skpoison.attacks._craft._steps import Optimizer
from skpoison.attacks._craft._unroll import AdversarialLoss, unrolled_loss
from skpoison.defenses._plain_hooks import derangement
from skpoison.utils import RandomStreams
from skpoison.utils._tensors import evaluating

#: Steps of gradient descent that "metapoison" looks ahead, and their rate.
_N_UNROLL, _UNROLL_RATE = 2, 0.1
#: Smallest and largest sides of patches, as shares of height and of width.
_CLASS_SIDES = (0.1, 0.4), (0.1, 0.4)
_TRIGGER_SIDES = (0.2, 0.4), (0.1, 0.2)
# The shared objectives name their draws of augmentation and dropout by it; here
# there is neither.
_STREAMS = RandomStreams(0)


@dataclass
class Parts:
    """A batch in two parts: rows to poison, and the targets that they aim at.

    Attributes
    ----------
    x, targets : tensors of shape (n, *row_shape)
        Gradients of whoever crafts through the hook go through these.
    labels, target_labels : tensors of int
    ball : Ball
        Around x, without gradients.
    share : tensor
        The radius as a share of the range of each feature.
    low, high : tensors that broadcast to one row
        Pixels of patches.
    n_classes : int
    generator : torch.Generator
        On the CPU.
    """

    x: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    target_labels: torch.Tensor
    ball: Ball
    share: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    n_classes: int
    generator: torch.Generator

    def moved(self, delta):
        """Return the poison part after a perturbation: rounding can't leave the box."""
        return torch.clamp(self.x + delta, self.ball.low, self.ball.high)

    @property
    def wanted(self):
        """The label that poisons ask the network to give to every target."""
        most = torch.bincount(self.labels, minlength=self.n_classes).argmax()
        return most.expand(len(self.targets))


@dataclass
class Crafting:
    """A few steps of signed Adam on a network that is otherwise left alone.

    Attributes
    ----------
    module : torch.nn.Module
    input_shape : tuple of int
    max_iter : int
    step_size : float
        In units of the radius.
    init : {"randn", "uniform", "zero"}
    """

    module: torch.nn.Module
    input_shape: tuple
    max_iter: int
    step_size: float
    init: str

    def __call__(self, make_objective, parts):
        """Return the poison part moved down ``make_objective(parts, members)``."""
        with evaluating(self.module), torch.enable_grad():
            objective = make_objective(parts, _members(self.module, self.input_shape))
            ball = parts.ball
            delta = ball.start(self.init, parts.x.shape, parts.generator)
            moves = Optimizer("sign_adam", ball.n_row_axes)
            rate = self.step_size * ball.unit
            for step in range(self.max_iter):
                _, gradient = objective(delta, step)
                # not finite where a gradient to be matched is zero: then nothing moves
                gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
                delta = ball.project(moves.step(delta, gradient, rate))
        return parts.moved(delta)


def _members(module, input_shape):
    """Return the network as the crafting functions take it; weights aren't copied."""
    weights = dict(module.named_parameters())
    params = {n: p.detach()[None] for n, p in weights.items() if p.requires_grad}
    others = {n: p.detach()[None] for n, p in weights.items() if not p.requires_grad}
    others |= {n: b.clone()[None] for n, b in module.named_buffers()}
    members = Members(module, params, others, tuple(input_shape))
    members.draws = False  # dropout is off
    return members


# ----------------------------------------------------------------------- objectives


def _gradients(parts, members, *, loss):
    goals = stacked_goals(
        members,
        [[(parts.targets, parts.wanted)]],
        "cross_entropy",
        batch_size=len(parts.targets),
    )
    objective = GradientMatching(
        [members],
        [goals],
        parts.ball.x[None],
        parts.labels[None],
        loss=loss,
        streams=_STREAMS,
        batch_size=len(parts.x),
    )

    def one_problem(delta, step):
        values, gradient = objective(delta[None, None], step)
        return values[0, 0], gradient[0, 0]

    return one_problem


def _features(members, parts, place=None):
    if place is None:
        if members.last is None:
            raise ValueError(
                "attack: feature_collision and hidden_trigger collide in what enters "
                "the last torch.nn.Linear layer, and the module has none"
            )
        place = members.last, "input"
    n_rows = max(len(parts.x), len(parts.targets))
    return FeatureMap([members], [[place]], streams=_STREAMS, batch_size=n_rows)


def _collision(parts, members):
    features = _features(members, parts)
    return Polytope(features, parts.ball.x, features.of(parts.targets), centred=True)


def _hardness(parts, members):
    logits = _features(members, parts, ("", "output"))
    return Hardness(logits, parts.ball.x, parts.labels)


def _unrolled(parts, members):
    x, labels = parts.ball.x, parts.labels[None]
    weights = x.new_full(labels.shape, 1 / len(x))
    rates = x.new_full((1,), _UNROLL_RATE)
    goal = AdversarialLoss("xent", parts.wanted)

    def objective(delta, step):
        leaf = delta.detach().requires_grad_()
        (value,) = unrolled_loss(
            members,
            members.params,
            members.others,
            [((x + leaf)[None], labels, weights)] * _N_UNROLL,
            parts.targets,
            goal,
            rates,
        )
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    return objective


def _pairs(parts, members):
    features = _features(members, parts)
    # fewer targets than rows: none serves once more before all have served
    rows = torch.arange(max(len(parts.x), len(parts.targets))) % len(parts.targets)
    (aims,) = features.of(parts.targets[rows.to(parts.x.device)])

    def compare(found):
        (here,) = found
        cost = torch.cdist(here.detach(), aims)[0]
        partner = torch.as_tensor(greedy_pairs(cost.cpu().numpy()))
        return (here - aims[:, partner.to(aims.device)]).square().sum((0, 2))

    return lambda delta, step: features.pull(parts.ball.x + delta, step, compare)


# -------------------------------------------------------------------------- patches


def _draw_sides(n, size, shares, generator):
    low, high = (max(1, int(share * size)) for share in shares)
    return torch.randint(low, high + 1, (n,), generator=generator)


def stamp(x, which, spans, rates, low, high, generator):
    """Put random patches on images, each at a random place.

    Parameters
    ----------
    x : tensor of shape (n, C, H, W)
    which : tensor of int of shape (n,)
        On the CPU: the patch of each image.
    spans : pair of pairs of float
        Smallest and largest height and width, as shares of the image's.
    rates : tensor of shape (n_patches,)
        Share of the bright values of each patch.
    low, high : tensors that broadcast to one image
        Dark and bright values.
    generator : torch.Generator

    Returns
    -------
    x : tensor of shape (n, C, H, W)
    """
    n, channels, *sizes = x.shape
    inside, at, largest = [], [], []
    for size, shares in zip(sizes, spans, strict=True):
        sides = _draw_sides(len(rates), size, shares, generator)
        own = sides[which]
        first = (torch.rand(n, generator=generator) * (size - own + 1)).long()
        offset = torch.arange(size) - first[:, None]
        inside.append((offset >= 0) & (offset < own[:, None]))
        at.append(offset.clamp(0, int(sides.max()) - 1))
        largest.append(int(sides.max()))
    shape = len(rates), *largest, channels
    bright = torch.rand(shape, generator=generator) < rates[:, None, None, None]
    pixels = bright[which[:, None, None], at[0][:, :, None], at[1][:, None, :]]
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    pixels, mask = pixels.movedim(-1, 1).to(x.device), mask.to(x.device)
    return torch.where(mask, torch.where(pixels, high, low), x)


def _patched(parts, crafting):
    """Own patches on poisons, those of another class on targets."""
    other = derangement(parts.n_classes, parts.generator)
    wanted = [parts.labels.cpu(), other[parts.target_labels.cpu()]]
    used, which = torch.unique(torch.cat(wanted), return_inverse=True)
    rates = torch.rand(len(used), generator=parts.generator)
    images = torch.cat([parts.x, parts.targets])
    images = stamp(
        images, which, _CLASS_SIDES, rates, parts.low, parts.high, parts.generator
    )
    return images[: len(parts.x)], images[len(parts.x) :]


def _hidden_trigger(parts, crafting):
    """Targets with a trigger, poisons near them in features."""
    targets = stamp(
        parts.targets,
        torch.zeros(len(parts.targets), dtype=torch.long),
        _TRIGGER_SIDES,
        torch.tensor([0.5]),
        parts.low,
        parts.high,
        parts.generator,
    )
    return crafting(_pairs, replace(parts, targets=targets)), targets


# ---------------------------------------------------------------------------- modes


def _crafted(parts, crafting, *, objective):
    return crafting(objective, parts), parts.targets


def _added(parts, crafting, *, draw):
    return parts.moved(parts.ball.project(draw(parts))), parts.targets


def _towards_targets(parts):
    rows = torch.arange(len(parts.x), device=parts.x.device) % len(parts.targets)
    return parts.share * (parts.targets.detach()[rows] - parts.ball.x)


def _normal(parts):
    return parts.ball.start("randn", parts.x.shape, parts.generator)


def _laplace(parts):
    # the difference of two exponential draws
    draws = torch.rand((2, *parts.x.shape), generator=parts.generator)
    draws = torch.log1p(-draws)
    return (draws[0] - draws[1]).to(parts.x) * parts.ball.unit


def _bernoulli(parts):
    draws = torch.randint(2, parts.x.shape, generator=parts.generator)
    return (2 * draws - 1).to(parts.x) * parts.ball.unit


#: What each attack makes of a batch: ``MODES[attack](parts, crafting)`` returns the
#: poison part and the targets as they are trained on.
MODES: dict[str, Any] = {
    "gradient_matching": partial(
        _crafted, objective=partial(_gradients, loss="cosine")
    ),
    "gradient_distance": partial(_crafted, objective=partial(_gradients, loss="se")),
    "feature_collision": partial(_crafted, objective=_collision),
    "metapoison": partial(_crafted, objective=_unrolled),
    "hidden_trigger": _hidden_trigger,
    "patch": _patched,
    "watermark": partial(_added, draw=_towards_targets),
    "random_normal": partial(_added, draw=_normal),
    "random_laplace": partial(_added, draw=_laplace),
    "random_bernoulli": partial(_added, draw=_bernoulli),
    "evasion": partial(_crafted, objective=_hardness),
}
#: Attacks that put patches on images.
ON_IMAGES = "hidden_trigger", "patch"
