"""The crafting engine: steps, sets, objectives, the loop and its checkpoint."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from skpoison.attacks._craft._goals import gradient_norms, stacked_goals
from skpoison.attacks._craft._matching import (
    GradientMatching,
    match,
    target_loss,
)
from skpoison.attacks._craft._members import affine_of, stack
from skpoison.attacks._craft._minimise import minimise
from skpoison.attacks._craft._sets import Ball, inside, resolve_eps
from skpoison.attacks._craft._steps import Optimizer, decay
from skpoison.attacks._store import Store
from skpoison.models import ConvNet, ShiftFlip
from skpoison.utils import RandomStreams

_SHAPE = (2, 8, 8)


class Pooled(nn.Module):
    """Convolution, batch normalisation and pooling, as in a residual network."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6 * 16, 4)

    def forward(self, X):
        X = F.max_pool2d(torch.relu(self.norm(self.conv(X))), 2)
        return self.linear(X.flatten(1))


def _nets(n, kind=Pooled):
    nets = []
    for seed in range(n):
        torch.manual_seed(seed)
        net = kind()
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        nets.append(net)
    return nets


def _goals(groups, n_problems, loss="cross_entropy"):
    generator = torch.Generator().manual_seed(3)
    targets = torch.rand(n_problems, 1, *_SHAPE, generator=generator)
    problems = [[(t, torch.tensor([j % 4]))] for j, t in enumerate(targets)]
    return [stacked_goals(members, problems, loss) for members in groups]


def _objective(n_members=3, n_problems=2, n_rows=9, **params):
    groups = stack(_nets(n_members), _SHAPE, torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(n_problems, n_rows, *_SHAPE, generator=generator)
    labels = torch.randint(4, (n_problems, n_rows), generator=generator)
    params = {"loss": "cosine", "streams": RandomStreams(0), **params}
    goals = _goals(groups, n_problems)
    return GradientMatching(groups, goals, x, labels, **params)


def _delta(n_problems=2, n_restarts=2, n_rows=9):
    generator = torch.Generator().manual_seed(7)
    shape = (n_problems, n_restarts, n_rows, *_SHAPE)
    return 0.1 * (torch.rand(shape, generator=generator) - 0.5)


def _by_hand(objective, delta, j, r):
    """Return value and gradient of one problem and restart, one member at a time."""
    value, gradient = 0.0, 0.0
    (group,), (goals,) = objective.groups, objective.goals
    for e, net in enumerate(_nets(len(group))):
        net.eval()
        at = delta[j, r].clone().requires_grad_()
        loss = F.cross_entropy(net(objective.x[j] + at), objective.labels[j])
        g = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        flat = torch.cat([t.flatten() for t in g])
        goal = torch.cat([goals[n][e, j, 0].flatten() for n in group.params])
        part = 1 - flat @ goal / (flat.norm() * goal.norm())
        gradient = gradient + torch.autograd.grad(part, at)[0] / len(group)
        value = value + part.item() / len(group)
    return value, gradient


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [512, 20, 9, 4, 1])
def test_objective_and_gradient_are_those_of_plain_autograd(batch_size):
    objective, delta = _objective(batch_size=batch_size), _delta()
    values, gradient = objective(delta, 0)
    for j in range(2):
        for r in range(2):
            value, expected = _by_hand(objective, delta, j, r)
            assert values[j, r].item() == pytest.approx(value, rel=1e-5)
            torch.testing.assert_close(
                gradient[j, r], expected, rtol=1e-4, atol=1e-4 * expected.abs().max()
            )


@pytest.mark.parametrize("loss", ["cosine", "se", "top_5", "layer_cosine"])
def test_two_passes_give_the_gradient_of_one(loss):
    augment, delta = ShiftFlip(3.0, flip=True), _delta()
    one = _objective(loss=loss, augment=augment)(delta, 4)
    two = _objective(loss=loss, augment=augment, batch_size=4)(delta, 4)
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        one[1], two[1], rtol=1e-4, atol=1e-4 * one[1].abs().max()
    )


def test_batches_matched_alone_are_another_objective():
    delta = _delta()
    exact = _objective(batch_size=4)(delta, 0)[0]
    alone = _objective(batch_size=4, exact=False)(delta, 0)[0]
    assert (exact - alone).abs().max() > 1e-3


def test_the_augmentation_is_redrawn_each_step_and_repeats_for_a_step():
    objective, delta = _objective(augment=ShiftFlip(3.0)), _delta()
    first, again, other = (objective(delta, step)[0] for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_networks_are_left_as_they_were():
    nets = _nets(2)
    before = [{n: t.clone() for n, t in net.state_dict().items()} for net in nets]
    groups = stack(nets, _SHAPE, torch.device("cpu"))
    kept = [{**g.params, **g.others} for g in groups]
    kept = [{n: t.clone() for n, t in weights.items()} for weights in kept]
    x, labels = torch.rand(1, 5, *_SHAPE), torch.tensor([[0, 1, 2, 3, 0]])
    objective = GradientMatching(
        groups, _goals(groups, 1), x, labels, loss="cosine", streams=RandomStreams(0)
    )
    objective(_delta(1, 2, 5), 0)
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(state[n], t) for n, t in net.state_dict().items())
    for group, weights in zip(groups, kept, strict=True):
        assert all(
            torch.equal(weights[n], t)
            for n, t in {**group.params, **group.others}.items()
        )


def test_networks_of_several_kinds_are_grouped():
    def conv():
        return ConvNet(_SHAPE, 4, channels=(4,), hidden=8)

    groups = stack([*_nets(2), *_nets(2, conv)], _SHAPE, torch.device("cpu"))
    assert [len(g) for g in groups] == [2, 2]


def test_features_enter_the_last_linear_layer():
    (group,) = stack(_nets(2), _SHAPE, torch.device("cpu"))
    x = torch.rand(2, 3, *_SHAPE)
    features = group.features(*group.chosen([0, 1]), x)
    logits = group.logits(*group.chosen([0, 1]), x)
    for e, net in enumerate(_nets(2)):
        torch.testing.assert_close(net.linear(features[e]), logits[e])


@pytest.mark.slow
def test_gradient_norms_are_those_of_single_rows():
    net = _nets(1)[0].eval()
    groups = stack([net], _SHAPE, torch.device("cpu"))
    x, labels = torch.rand(4, *_SHAPE), torch.tensor([0, 1, 2, 3])
    expected = []
    for row, label in zip(x, labels, strict=True):
        loss = F.cross_entropy(net(row[None]), label[None])
        g = torch.autograd.grad(loss, list(net.parameters()))
        expected.append(torch.cat([t.flatten() for t in g]).norm().item())
    assert gradient_norms(groups, x, labels) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_reverse_loss_is_finite_and_has_the_right_gradient(size):
    logits = torch.tensor([[size, 0.0, -size], [-size, 0.0, size]], dtype=torch.float64)
    labels = torch.tensor([0, 0])
    at = logits.clone().requires_grad_()
    loss = target_loss("reverse", at, labels)
    (gradient,) = torch.autograd.grad(loss.sum(), at)
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
    p, others = torch.softmax(logits, 1), logits.clone()
    others[:, 0] = -torch.inf
    expected = p - torch.softmax(others, 1)
    torch.testing.assert_close(gradient, expected)
    # float32, where log(1 - p) is infinite
    single = logits.float().requires_grad_()
    assert torch.isfinite(target_loss("reverse", single, labels)).all()
    if size == 1.0:
        torch.testing.assert_close(loss, -torch.log1p(-p[:, 0]))


def test_cw_loss_is_the_margin_cut_below():
    logits = torch.tensor([[3.0, 1.0, 2.0], [300.0, 0.0, 0.0]])
    assert target_loss("cw", logits, torch.tensor([2, 0])).tolist() == [1.0, -100.0]


def test_matches_of_equal_and_opposite_gradients():
    g = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[[1.0], [0.0]]])}
    opposite = {n: -2 * t for n, t in g.items()}
    for name, same, other in [
        ("cosine", 0.0, 2.0),
        ("top_5", 0.0, 2.0),
        ("layer_cosine", -2.0, 2.0),
    ]:
        assert match(name, g, g).item() == pytest.approx(same, abs=1e-6)
        assert match(name, opposite, g).item() == pytest.approx(other, abs=1e-6)
    assert match("se", opposite, g).item() == pytest.approx(0.5 * 9 * 26 / 26**0.5)
    assert match("scalar_product", opposite, g).item() == pytest.approx(2 * 26**0.5)


def test_signed_adam_against_a_trace_by_hand():
    moves, delta, m, v = Optimizer("sign_adam", 1), torch.tensor([[0.5]]), 0.0, 0.0
    expected = 0.5
    for t, g in enumerate([2.0, -0.1, 0.0], start=1):
        s = np.sign(g)
        m, v = 0.9 * m + 0.1 * s, 0.999 * v + 0.001 * s * s
        expected -= 0.2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        delta = moves.step(delta, torch.tensor([[g]]), 0.2)
        assert delta.item() == pytest.approx(expected, rel=1e-5)


def test_pgd_and_momentum_move_by_the_sign():
    g = torch.tensor([[2.0, -4.0, 0.0]])
    for name in ("pgd", "mom_pgd"):
        moved = Optimizer(name, 1).step(torch.zeros(1, 3), g, 0.1)
        assert moved.tolist() == [pytest.approx([-0.1, 0.1, 0.0])]
    assert Optimizer("gd", 1).step(torch.zeros(1, 3), g, 0.5).tolist() == [[-1, 2, 0]]


@pytest.mark.parametrize(("n", "cuts"), [(250, (93, 156, 218)), (100, (37, 62, 87))])
def test_published_milestones(n, cuts):
    rates = [decay("steps", step, n) for step in range(n)]
    changes = [i for i in range(1, n) if rates[i] != rates[i - 1]]
    assert tuple(changes) == cuts
    assert rates[-1] == pytest.approx(1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_ends_in_ball_and_box_and_keeps_what_is_inside(norm):
    rng = np.random.RandomState(0)
    X = rng.rand(6, 3, 4).astype(np.float32)
    ball = Ball.around(X, eps=0.3, norm=norm, bounds=(0.0, 1.0))
    wild = torch.as_tensor(rng.randn(2, 6, 3, 4), dtype=torch.float32)
    found = ball.project(wild)
    length = found.abs() if norm == "linf" else found.square().sum((2, 3)).sqrt()
    assert length.max() <= 0.3 + 1e-6
    assert (ball.x + found).min() >= -1e-6 and (ball.x + found).max() <= 1 + 1e-6
    torch.testing.assert_close(ball.project(found), found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("bounds", ["type", "inner"])
def test_legal_perturbations_hold_to_the_last_bit(norm, dtype, bounds):
    rng = np.random.RandomState(1)
    top = 255 if dtype == "uint8" else 1
    inner = bounds == "inner"
    low, high = (0.2 * top + 0.1, 0.8 * top - 0.1) if inner else (0, top)
    X = rng.uniform(np.ceil(low) if top > 1 else low, high, (40, 5, 5)).astype(dtype)
    eps = 16.5 if dtype == "uint8" else 0.1
    ball = Ball.around(X, eps=eps, norm=norm, bounds=(low, high))
    delta = torch.as_tensor(rng.randn(40, 5, 5), dtype=torch.float32)
    found = ball.legal(delta, X, (low, high), eps)
    out = X.astype(float) + found if dtype == "uint8" else X + found
    slack = 0 if dtype == "uint8" else 1e-6
    assert out.min() >= low and out.max() <= high
    moved = (out - X.astype(float)).reshape(40, -1)
    length = np.abs(moved).max(1) if norm == "linf" else np.linalg.norm(moved, axis=1)
    assert length.max() <= eps + slack
    assert length.max() > 0.5 * eps
    if dtype == "uint8":
        assert np.array_equal(found, np.rint(found))


def test_rounding_is_kept_inside_the_box():
    X = np.array([0.1, 0.7, 0.3], dtype=np.float32)
    delta = (np.float32(1) - X) + np.float32(1e-7)
    assert (X + delta > 1).any()
    assert (X + inside(delta, X, 0.0, 1.0) <= 1).all()


def test_default_radius():
    X = np.array([[0.0, 10.0], [4.0, 2.0]])
    assert resolve_eps(None, X.astype(np.uint8), "data") == 16
    assert resolve_eps(None, X, "data") == pytest.approx(16 / 255 * 10)
    assert resolve_eps(None, X, (0, 20)) == pytest.approx(16 / 255 * 20)
    assert resolve_eps(0.5, X, "data") == 0.5


def test_eps_by_feature_leaves_immutable_features_alone():
    X = np.random.RandomState(0).rand(4, 3)
    eps = np.array([0.0, 0.1, np.inf])
    ball = Ball.around(X, eps=eps, norm="linf", bounds=(0.0, 1.0))
    start = ball.start("uniform", (2, 4, 3), torch.Generator().manual_seed(0))
    assert (start[..., 0] == 0).all()
    assert 0 < start[..., 1].abs().max() <= 0.1 + 1e-6
    assert start[..., 2].abs().max() > 0.3


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sign_adam", "mom_pgd"])
def test_an_interrupted_craft_ends_with_the_same_bits(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "skpoison.attacks._craft._minimise._SECONDS_BETWEEN_SAVES", -1.0
    )
    objective, start = _objective(augment=ShiftFlip(2.0)), _delta()
    ball = Ball.around(
        objective.x.numpy()[:, None], eps=0.1, norm="linf", bounds=(0, 1), box=_SHAPE
    )

    def descend(objective, store):
        return minimise(
            objective, start, ball, n_steps=9, optimizer=optimizer, store=store
        )

    def broken(delta, step):
        if step == 5:
            raise _Interrupted
        return objective(delta, step)

    whole = descend(objective, None)
    with pytest.raises(_Interrupted):
        descend(broken, Store(tmp_path, "same"))
    seen = []

    def watched(delta, step):
        seen.append(step)
        return objective(delta, step)

    resumed = descend(watched, Store(tmp_path, "same"))
    assert seen == [5, 6, 7, 8]
    assert torch.equal(resumed.delta, whole.delta)
    assert np.array_equal(resumed.curve, whole.curve)
    with pytest.raises(ValueError, match="holds another attack"):
        Store(tmp_path, "other")


def test_gradients_that_are_not_finite_count_as_zero_and_are_told():
    ball = Ball.around(np.zeros((2, 3)), eps=1.0, norm="linf", bounds=(-9, 9))

    def objective(delta, step):
        gradient = torch.ones_like(delta)
        gradient[0] = torch.nan
        return delta.new_zeros(()), gradient

    with pytest.warns(UserWarning, match="50% of the crafting gradient"):
        found = minimise(objective, torch.zeros(2, 3), ball, n_steps=2, optimizer="pgd")
    assert (found.delta[0] == 0).all() and (found.delta[1] < 0).all()


def test_steps_before_the_network_become_one_matrix():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

    X = load_digits().data[:200]
    for step in (StandardScaler(), MinMaxScaler(), PCA(5, whiten=True)):
        step.fit(X)
        module = affine_of(step, 64)
        found = module(torch.as_tensor(X, dtype=torch.float32)).numpy()
        np.testing.assert_allclose(found, step.transform(X), rtol=1e-3, atol=1e-3)
    with pytest.raises(TypeError, match="no gradient goes through Normalizer"):
        affine_of(Normalizer().fit(X), 64)
