"""MetaPoison: the unrolled gradient, the ensemble in training, and the attack."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.nn import functional as F

from skpoison.attacks._craft._members import stack
from skpoison.attacks._craft._trajectory import Trajectory
from skpoison.attacks._craft._unroll import (
    AdversarialLoss,
    Unrolled,
    UnrolledOnPoisons,
    training_gradient,
    unrolled_loss,
)
from skpoison.attacks._metapoison import MetaPoisonAttack
from skpoison.attacks._store import Store
from skpoison.models import MLP, ShiftFlip, TorchClassifier
from skpoison.utils import RandomStreams


class NormNet(nn.Sequential):
    """A small convolutional network with batch normalisation and dropout."""

    def __init__(self, input_shape, n_outputs, dropout=0.2):
        super().__init__(
            nn.Conv2d(input_shape[0], 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(24, n_outputs),
        )


class SmoothNet(nn.Sequential):
    """Without the kinks of ReLU, where the gradient of training jumps."""

    def __init__(self, input_shape, n_outputs, norm=nn.Identity):
        width = int(np.prod(input_shape))
        super().__init__(
            nn.Flatten(),
            nn.Linear(width, 16),
            norm(16),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(16, n_outputs),
        )


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return X[:400], y[:400], X[1500:1503], np.array([8, 9, 1])


def _net(max_epochs=4, **params):
    return TorchClassifier(max_epochs=max_epochs, device="cpu", **params)


def _attack(*aims, **params):
    fast = {
        "budget": 0.05,
        "eps": 0.2,
        "surrogate": _net(),
        "n_ensemble": 3,
        "ensemble_stagger": "even",
        "max_iter": 3,
        "device": "cpu",
        "random_state": 0,
    }
    return MetaPoisonAttack(*aims, **{**fast, **params})


# The unrolled gradient.


def _small(kind, n_members=2):
    torch.manual_seed(0)
    modules = []
    for _ in range(n_members):
        if kind == "batch norm":
            body = [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)]
        else:
            body = [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)]
        modules.append(nn.Sequential(*body).double())
    (members,) = stack(modules, (5,), "cpu")
    if kind == "batch norm":
        members.module.train()
    generator = torch.Generator().manual_seed(1)

    def batch(n):
        X = torch.rand(n_members, n, 5, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (n_members, n), generator=generator)
        return X, y, torch.full((n_members, n), 1 / n, dtype=torch.float64)

    aims = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    goal = AdversarialLoss("xent", torch.tensor([0, 2]))
    rates = torch.tensor([0.3, 0.5], dtype=torch.float64)[:n_members]
    return members, batch, aims, goal, rates


@pytest.mark.slow
@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize("kind", ["plain", "batch norm"])
def test_unrolled_gradient_equals_finite_differences(kind, n_members):
    torch.manual_seed(0)
    members, batch, aims, goal, rates = _small(kind, n_members)
    coupled = kind == "batch norm"
    first, *later = [batch(6) for _ in range(3 + coupled)]

    def loss(X):
        return unrolled_loss(
            members,
            members.params,
            members.others,
            [(X, *first[1:]), *later],
            aims,
            goal,
            rates,
            coupled=coupled,
        )

    assert torch.autograd.gradcheck(loss, first[0].requires_grad_(), eps=1e-6)


def test_one_step_is_minus_the_rate_times_the_pulled_back_target_gradient():
    members, batch, aims, goal, rates = _small("plain")
    X, y, weights = batch(6)
    X.requires_grad_()
    value = unrolled_loss(
        members, members.params, members.others, [(X, y, weights)], aims, goal, rates
    )
    (found,) = torch.autograd.grad(value.sum(), X)
    # by hand: -rate <grad A(theta_1), d/dX grad L>
    params = {n: p.clone().requires_grad_() for n, p in members.params.items()}
    gradient, _ = training_gradient(
        members, params, members.others, (X, y, weights), graph=True
    )
    by_name = dict(zip(params, gradient, strict=True))
    after = {
        n: (p - rates.reshape(-1, *[1] * (p.ndim - 1)) * by_name[n])
        .detach()
        .requires_grad_()
        for n, p in params.items()
    }
    logits = members.logits(after, members.others, aims.expand(2, *aims.shape))
    wanted = torch.autograd.grad(goal(logits).sum(), list(after.values()))
    inner = sum(
        -(rates * (g * w).flatten(1).sum(1)).sum()
        for g, w in zip(gradient, wanted, strict=True)
    )
    (expected,) = torch.autograd.grad(inner, X)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(value, goal(logits))


def test_rows_that_stay_put_enter_the_first_step_as_a_constant():
    members, batch, aims, goal, rates = _small("plain")
    (X, y, weights), later = batch(6), batch(6)
    given = members.params, members.others
    X.requires_grad_()
    whole = unrolled_loss(members, *given, [(X, y, weights), later], aims, goal, rates)
    (expected,) = torch.autograd.grad(whole.sum(), X)
    params = {n: p.clone().requires_grad_() for n, p in members.params.items()}
    still = X[:, 2:].detach(), y[:, 2:], weights[:, 2:]
    constant, _ = training_gradient(members, params, given[1], still, graph=False)
    moving = X[:, :2].detach().requires_grad_()
    parts = unrolled_loss(
        members,
        *given,
        [(moving, y[:, :2], weights[:, :2]), later],
        aims,
        goal,
        rates,
        constant=constant,
    )
    (found,) = torch.autograd.grad(parts.sum(), moving)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(found, expected[:, :2])


def test_batch_statistics_are_of_batch_and_targets_and_leave_the_buffers_alone():
    members, batch, aims, goal, rates = _small("batch norm", 1)
    first, last = batch(6), batch(6)
    before = {n: b.clone() for n, b in members.others.items()}
    found = unrolled_loss(
        members,
        members.params,
        members.others,
        [first, last],
        aims,
        goal,
        rates,
        coupled=True,
    )
    for n, b in members.others.items():
        torch.testing.assert_close(b, before[n], rtol=0, atol=0)
    module = copy.deepcopy(members.module).train()
    for name, p in module.named_parameters():
        p.data = members.params[name][0].clone().requires_grad_()
        p.requires_grad_(True)
    loss = F.cross_entropy(module(torch.cat([first[0][0], aims]))[:6], first[1][0])
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    with torch.no_grad():
        for p, g in zip(module.parameters(), gradients, strict=True):
            p -= rates[0] * g
    logits = module(torch.cat([last[0][0], aims]))[6:]
    torch.testing.assert_close(found, goal(logits[None]).detach())


def test_objectives_by_their_formulas():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    wished, true = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 0])
    base = torch.tensor([1, 1, 1])
    p = logits.softmax(-1)
    rows = torch.arange(3)
    others = logits.clone()
    others[:, rows, wished] = -torch.inf
    margin = others.amax(-1) - logits[:, rows, wished]
    xent = -p[:, rows, wished].log()
    hidden = -torch.log1p(-p[:, rows, true])
    expected = {
        "cw": margin.clamp_min(-0.1),
        "xent": xent,
        "conceal": hidden - torch.log1p(-p[:, rows, base]),
        "dual": xent + hidden,
    }
    assert (margin < -0.1).any() and (margin > -0.1).any()
    for name, value in expected.items():
        loss = AdversarialLoss(name, wished, true, base, kappa=0.1)
        torch.testing.assert_close(loss(logits), value.mean(1))


# The ensemble in training.


def _trajectory(surrogate, X, y, n_members=3, **params):
    rows = torch.as_tensor(X, dtype=torch.float32)
    given = {"moves": True, "device": "cpu", "batch_size": 2048, **params}
    return Trajectory(
        surrogate,
        X,
        y,
        rows,
        torch.as_tensor(y),
        n_members=n_members,
        streams=RandomStreams(0),
        **given,
    )


def _go_on(trajectory, n_epochs):
    for _ in range(n_epochs):
        for kind in trajectory.kinds:
            for at in trajectory.chunks(kind):
                for name, rows in trajectory.batches(kind, at):
                    trajectory.advance(kind, at, rows, trajectory.rows[rows], name)
                trajectory.end_epoch(kind, at)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_members_train_as_a_plain_loop_does(digits, optimizer):
    X, y, *_ = digits
    surrogate = _net(
        max_epochs=3,
        optimizer=optimizer,
        lr=0.02,
        callbacks=[LRScheduler(policy="StepLR", step_size=1, gamma=0.5)],
    )
    together = _trajectory(surrogate, X, y, n_members=2)
    modules = [copy.deepcopy(n.module_) for n in together.networks]
    orders = [
        [
            torch.randperm(len(X), generator=RandomStreams(0).torch(f"order {m} 0 {e}"))
            for e in range(2)
        ]
        for m in range(2)
    ]
    _go_on(together, 2)
    for m, module in enumerate(modules):
        if optimizer == "sgd":
            steps = torch.optim.SGD(
                module.parameters(),
                lr=0.02,
                momentum=0.9,
                weight_decay=5e-4,
                nesterov=True,
            )
        else:
            steps = torch.optim.Adam(module.parameters(), lr=0.02)
        for order in orders[m]:
            for rows in order.split(64):
                steps.zero_grad()
                inputs = torch.as_tensor(X[rows], dtype=torch.float32)
                F.cross_entropy(module(inputs), torch.as_tensor(y[rows])).backward()
                steps.step()
            steps.param_groups[0]["lr"] /= 2
        for p, q in zip(
            module.parameters(), together.networks[m].module_.parameters(), strict=True
        ):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_members_start_staggered_and_anew_after_their_last_epoch(digits):
    X, y, *_ = digits
    ensemble = _trajectory(_net(max_epochs=4), X, y, n_members=3)
    ensemble.stagger(Store(None, None), 0)
    assert ensemble.epochs == [0, 1, 2]  # floor(m T / M)
    before = ensemble.kinds[0].members.params["layers.0.weight"][2].clone()
    _go_on(ensemble, 2)
    assert ensemble.epochs == [2, 3, 0] and ensemble.lives == [0, 0, 1]
    after = ensemble.kinds[0].members.params["layers.0.weight"][2]
    assert (after - before).abs().max() > 0.05
    assert ensemble.networks[2].net_.module_.layers[0].weight.data_ptr() == (
        after.data_ptr()
    )


def test_memory_bound_changes_nothing_but_rounding(digits):
    X, y, *_ = digits
    found = []
    for batch_size in (2048, 64):
        ensemble = _trajectory(_net(max_epochs=3), X, y, batch_size=batch_size)
        ensemble.stagger(Store(None, None), 0)
        found.append(ensemble.kinds[0].members.params["layers.0.weight"])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_several_architectures_and_pipelines_train_side_by_side(digits):
    X, y, *_ = digits
    surrogate = [
        _net(),
        make_pipeline(StandardScaler(), _net(module__hidden=(32,))),
    ]
    ensemble = _trajectory(surrogate, X, y, n_members=4)
    assert [kind.numbers for kind in ensemble.kinds] == [[0, 2], [1, 3]]
    _go_on(ensemble, 3)
    ensemble.settle()
    for estimator in ensemble.estimators:
        assert estimator.score(X, y) > 0.8


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_state_holds_all_of_training(digits, optimizer):
    X, y, *_ = digits
    surrogate = _net(
        module=NormNet,
        optimizer=optimizer,
        augment=ShiftFlip(),
        input_shape=(1, 8, 8),
        callbacks=[LRScheduler(policy="StepLR", step_size=1, gamma=0.5)],
    )
    ensemble = _trajectory(surrogate, X[:150], y[:150], n_members=2)
    _go_on(ensemble, 2)
    kept = ensemble.state()
    _go_on(ensemble, 1)
    other = _trajectory(surrogate, X[:150], y[:150], n_members=2)
    other.restore(kept)
    _go_on(other, 1)
    for n, t in ensemble.state().items():
        assert torch.equal(t, other.state()[n]), n


def test_all_members_and_their_buffers_train_in_training_mode(digits):
    X, y, *_ = digits
    surrogate = _net(module=NormNet, input_shape=(1, 8, 8))
    ensemble = _trajectory(surrogate, X, y, n_members=2)
    before = ensemble.kinds[0].members.others["1.running_mean"].clone()
    _go_on(ensemble, 1)
    moved = (ensemble.kinds[0].members.others["1.running_mean"] - before).abs()
    assert (moved.amax(1) > 1e-3).all()


# The objective.


def _objective(digits, kind=Unrolled, batch_size=2048, **params):
    X, y, targets, wished = digits
    moves = params.pop("moves", True)
    net = {"module": SmoothNet, **params.pop("net", {})}
    surrogate = _net(max_epochs=3, **net)
    ensemble = _trajectory(
        surrogate, X, y, n_members=2, moves=moves, batch_size=batch_size
    )
    goal = AdversarialLoss("xent", torch.as_tensor(wished))
    aims = torch.as_tensor(targets, dtype=torch.float32)
    given = {"n_unroll": 2, "inner_rate": 0.5, "bn_mode": "train", "poisoned": False}
    rows = np.array([3, 10, 17, 200])
    return kind(ensemble, [(rows, goal, aims)], **{**given, **params})


_AUGMENTED = {
    "module__norm": nn.BatchNorm1d,
    "input_shape": (1, 8, 8),
    "augment": ShiftFlip(),
}


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        # poisons in later batches are not differentiated, see the paper's code
        (Unrolled, {"n_unroll": 1}),
        (UnrolledOnPoisons, {}),
        (UnrolledOnPoisons, {"moves": False, "n_unroll": 3}),
        (UnrolledOnPoisons, {"batch_size": 3}),
        (UnrolledOnPoisons, {"net": _AUGMENTED}),
        (UnrolledOnPoisons, {"net": _AUGMENTED, "bn_mode": "eval"}),
    ],
    ids=["batches", "poisons", "trained", "two parts", "batch norm", "eval"],
)
def test_gradient_of_an_epoch_equals_finite_differences(digits, kind, params):
    def objective():
        return _objective(digits, kind, **copy.deepcopy(params))

    delta = torch.zeros(1, 4, 64)
    value, gradient = objective()(delta, 0)
    # along the gradient itself float32 leaves the most digits
    direction = gradient / gradient.norm()
    step = 1e-2
    up, down = (objective()(delta + s * direction, 0)[0] for s in (step, -step))
    slope = (up - down).item() / (2 * step)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=0.02)
    assert gradient.flatten(2).norm(dim=2).min() > 0
    assert value.shape == (1,)


def test_all_steps_are_taken_on_all_poisons_of_members_as_they_are(digits):
    X, y, targets, wished = digits
    net = {"module": MLP}
    objective = _objective(digits, UnrolledOnPoisons, n_unroll=3, net=net)
    modules = [copy.deepcopy(n.module_) for n in objective.trajectory.networks]
    rows = objective.problems[0][0]
    delta = 0.1 * torch.rand(1, 4, 64, generator=torch.Generator().manual_seed(0))
    value, _ = objective(delta, 0)
    poisons, labels = torch.tensor(X[rows]).float() + delta[0], torch.tensor(y[rows])
    total = 0.0
    for module in modules:
        for _ in range(3):
            module.zero_grad()
            F.cross_entropy(module(poisons), labels).backward()
            with torch.no_grad():
                for p in module.parameters():
                    p -= 0.5 * p.grad
            logits = module(torch.tensor(targets).float())
            total += F.cross_entropy(logits, torch.tensor(wished)).item()
    assert value.item() == pytest.approx(total / 6, rel=1e-4)
    assert objective.trajectory.epochs == [1, 1]


# The attack.


def test_crafts_legal_poisons_of_the_wished_class(digits):
    X, y, targets, wished = digits
    attack = _attack(targets[:1], 8)
    data = attack.poison(X, y)
    moved = np.abs(data.X - X).max(axis=1)
    assert data.poison_mask.sum() == 20
    assert (moved[~data.poison_mask] == 0).all() and (moved[data.poison_mask] > 0).all()
    assert moved.max() <= 0.2 + 1e-12
    assert data.X.min() >= X.min() and data.X.max() <= X.max()
    assert (y[data.poison_mask] == 8).all()
    assert attack.loss_curve_.shape == (3,)
    assert len(attack.surrogates_) == 3
    assert attack.surrogates_[2].predict(X).shape == y.shape


def test_default_eps_is_the_papers():
    X, y = load_digits(return_X_y=True)
    attack = _attack(eps=None, n_ensemble=1, max_iter=1)
    images = (X * 15).astype(np.uint8)[:200]
    assert attack.fit(images, y[:200]).eps_ == 8
    assert clone(attack).fit(X[:200] / 16, y[:200]).eps_ == pytest.approx(8 / 255)


@pytest.mark.slow
@pytest.mark.parametrize(("unroll_on", "rate"), [("batches", 1.0), ("poisons", 0.05)])
def test_turns_its_own_ensemble_where_noise_does_not(digits, unroll_on, rate):
    X, y, targets, wished = digits
    params = {"n_ensemble": 4, "max_iter": 10, "budget": 0.08, "eps": 0.3}
    params |= {"objective": "xent", "n_unroll": 1, "inner_lr": rate}
    params["unroll_on"] = unroll_on
    attack = _attack(targets[:1], 9, **params).fit(X, y)
    # the random start stays; the same members in the same epochs
    noise = _attack(targets[:1], 9, step_size=1e-9, **params).fit(X, y)
    assert attack.loss_curve_[0] == noise.loss_curve_[0]
    gained = noise.loss_curve_ - attack.loss_curve_
    assert (gained[2:] > 0).all() and gained[5:].mean() > 0.05


@pytest.mark.slow
def test_victims_from_scratch_are_turned_and_those_of_noise_are_not(digits):
    X, y, _, _ = digits
    every, labels = load_digits(return_X_y=True)
    target = every[labels == 8][[-5]] / 16
    surrogate = _net(max_epochs=12, lr=0.01)
    attack = _attack(
        target,
        1,
        budget=0.08,
        eps=0.4,
        surrogate=surrogate,
        n_ensemble=4,
        max_iter=20,
    )
    poisoned = attack.fit_transform(X, y)
    signs = np.random.RandomState(0).choice([-0.4, 0.4], X.shape)
    rows, noisy = attack.poison_indices_, X.copy()
    noisy[rows] = np.clip(X[rows] + signs[rows], 0, 1)

    def odds(data):
        nets = [clone(surrogate).set_params(random_state=s) for s in range(4)]
        return np.mean([n.fit(data, y).predict_proba(target)[0, 1] for n in nets])

    assert odds(poisoned) > 5 * max(odds(noisy), odds(X), 0.01)


@pytest.mark.parametrize(
    "params",
    [
        {"objective": "dual"},
        {"objective": "conceal", "threat_model": "self"},
        {"objective": "conceal", "threat_model": "third_party", "poison_class": 5},
        {"threat_model": "random_subset"},
        {"trajectory": "poison"},
        {"unroll_on": "batches", "trajectory": "poison"},
        {"unroll_on": "batches", "ensemble_stagger": None},
        {"unroll_on": "batches", "n_unroll": 3, "inner_lr": 0.1},
        {"ensemble_stagger": None, "n_ensemble": 1},
        {"optimizer": "adam", "step_size": 25.0, "schedule": None},
        {"batch_size": 7},
        {"norm": "l2", "eps": 1.0},
        {"selection": "nearest"},
    ],
    ids=lambda p: ", ".join(f"{k}={v}" for k, v in p.items()),
)
def test_variants_run_and_repeat(digits, params):
    X, y, targets, wished = digits
    params = {"max_iter": 2, "n_ensemble": 2, "surrogate": _net(max_epochs=2), **params}
    true = load_digits().target[1500:1503]
    attack = _attack(targets, wished, target_true_labels=true, **params).fit(X, y)
    again = clone(attack).fit(X, y)
    np.testing.assert_array_equal(attack.perturbation_, again.perturbation_)
    assert np.isfinite(attack.loss_curve_).all()
    assert np.abs(attack.perturbation_).max() > 0


def test_frozen_surrogate_stays_as_it_is(digits):
    X, y, targets, _ = digits
    trained = _net(max_epochs=5, random_state=0).fit(X, y)
    before = copy.deepcopy(trained.module_.state_dict())
    attack = _attack(
        targets[:1],
        8,
        surrogate=FrozenEstimator(trained),
        n_ensemble=1,
        ensemble_stagger=None,
    ).fit(X, y)
    for name, tensor in trained.module_.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert attack.surrogates_[0] is trained


def test_crafts_on_a_skorch_net(digits):
    X, y, targets, _ = digits
    net = NeuralNetClassifier(
        MLP,
        module__input_shape=(64,),
        module__n_outputs=10,
        criterion=nn.CrossEntropyLoss,
        batch_size=-1,
        max_epochs=3,
        lr=0.5,
        train_split=None,
        verbose=0,
    )
    attack = _attack(targets[:1], 8, surrogate=net, n_ensemble=1)
    with pytest.raises(ValueError, match="ensemble_stagger=None takes it as it is"):
        attack.fit(X, y)
    attack.set_params(ensemble_stagger=None).fit(X, y)
    assert attack.perturbation_norms_["linf"].max() == pytest.approx(0.2)


def test_concealed_targets_are_won_by_any_other_label(digits):
    X, y, targets, wished = digits
    true = load_digits().target[1500:1503]
    attack = _attack(
        targets,
        wished,
        target_true_labels=true,
        objective="conceal",
        threat_model="self",
        n_ensemble=1,
        max_iter=1,
        surrogate=_net(max_epochs=1),
    ).fit(X, y)
    answers = true.copy()
    answers[1] = (true[1] + 5) % 10
    outcomes = attack.attack_outcomes(lambda rows: answers, None, None)
    assert outcomes.tolist() == [False, True, False]


def test_images_of_any_kind_and_batch_normalisation(digits):
    X, y, targets, _ = digits
    images = (X.reshape(-1, 1, 8, 8) * 255).astype(np.uint8)
    aim = (targets[:1].reshape(-1, 1, 8, 8) * 255).astype(np.uint8)
    net = _net(max_epochs=2, module=NormNet, augment=ShiftFlip())
    found = []
    for mode in ("train", "eval", None):
        attack = _attack(
            aim, 8, eps=30, surrogate=net, bn_mode=mode, n_ensemble=2, max_iter=2
        )
        out = attack.fit_transform(images, y)
        assert out.dtype == np.uint8
        assert np.abs(out.astype(int) - images).max() == 30
        found.append(out)
    assert (found[0] != found[1]).any() and (found[2] == found[1]).all()


@pytest.mark.parametrize("n_channels", [1, 3])
def test_colours_move_beyond_eps(digits, n_channels):
    X, y, targets, _ = digits
    images = np.repeat(X.reshape(-1, 1, 8, 8), n_channels, axis=1)
    images = (images * 255).astype(np.uint8)
    aim = np.repeat(targets[:1].reshape(-1, 1, 8, 8) * 255, n_channels, axis=1)
    net = _net(max_epochs=2)
    attack = _attack(
        aim.astype(np.uint8),
        8,
        eps=4,
        color_eps=0.2,
        color_smoothness=0.0,
        surrogate=net,
        n_ensemble=2,
        max_iter=2,
    )
    out = attack.fit_transform(images, y)
    assert out.dtype == np.uint8
    reach = attack.perturbation_norms_["linf"].max()
    assert 4 < reach <= 4 + 0.2 * 255 * (1 if n_channels == 1 else 2.8) + 1
    still = clone(attack).set_params(color_eps=0.0).fit(images, y)
    assert still.perturbation_norms_["linf"].max() == 4


def test_each_of_several_targets_is_crafted_as_if_alone(digits):
    X, y, targets, wished = digits
    together = _attack().craft_each(X, y, targets, wished)
    alone = _attack(targets[1:2], wished[1:2]).fit(X, y)
    np.testing.assert_array_equal(together[1].perturbation_, alone.perturbation_)
    np.testing.assert_array_equal(together[1].loss_curve_, alone.loss_curve_)
    assert together[0].surrogates_ is together[2].surrogates_


def test_poisoned_trajectories_are_each_targets_own(digits):
    X, y, targets, wished = digits
    attack = _attack(trajectory="poison", n_ensemble=2)
    together = attack.craft_each(X, y, targets[:2], wished[:2])
    alone = _attack(targets[1:2], wished[1:2], trajectory="poison", n_ensemble=2)
    np.testing.assert_array_equal(
        together[1].perturbation_, alone.fit(X, y).perturbation_
    )
    clean = alone.set_params(trajectory="clean").fit(X, y)
    assert (clean.perturbation_ != together[1].perturbation_).any()


class _Killed(Exception):
    pass


def test_killed_crafting_goes_on_with_the_same_bits(digits, tmp_path, monkeypatch):
    X, y, targets, _ = digits
    from skpoison.attacks._craft import _minimise

    net = _net(
        max_epochs=3, callbacks=[LRScheduler(policy="StepLR", step_size=1, gamma=0.5)]
    )
    params = {"surrogate": net, "n_ensemble": 2, "max_iter": 5, "color_eps": 0.0}
    whole = _attack(targets[:1], 8, **params).fit(X, y)
    attack = _attack(targets[:1], 8, checkpoint=tmp_path, **params)
    save, saved = _minimise._save, []

    def dying_save(*args):
        save(*args)
        saved.append(1)
        if len(saved) == 3:
            raise _Killed

    monkeypatch.setattr(_minimise, "_SECONDS_BETWEEN_SAVES", -1.0)
    monkeypatch.setattr(_minimise, "_save", dying_save)
    with pytest.raises(_Killed):
        clone(attack).fit(X, y)
    monkeypatch.setattr(_minimise, "_save", save)
    resumed = clone(attack).fit(X, y)
    np.testing.assert_array_equal(resumed.perturbation_, whole.perturbation_)
    np.testing.assert_array_equal(resumed.loss_curve_, whole.loss_curve_)
    ended = zip(resumed.surrogates_, whole.surrogates_, strict=True)
    for mine, theirs in ended:
        for p, q in zip(
            mine.module_.parameters(), theirs.module_.parameters(), strict=True
        ):
            assert torch.equal(p, q)
    # other targets share the folder, other parameters are refused
    clone(attack).set_params(targets=targets[1:2]).fit(X, y)
    with pytest.raises(ValueError, match="another attack"):
        clone(attack).set_params(n_unroll=1).fit(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"objective": "margin"}, "objective must be one of"),
        ({"trajectory": "dirty"}, "trajectory must be one of"),
        ({"unroll_on": "rows"}, "unroll_on must be one of"),
        ({"bn_mode": "both"}, "bn_mode must be one of"),
        ({"ensemble_stagger": "first_n"}, "ensemble_stagger must be one of"),
        ({"n_unroll": 0}, "n_unroll must be >= 1"),
        ({"kappa": -1.0}, "kappa must be >= 0"),
        ({"inner_lr": 0.0}, "inner_lr must be > 0"),
        ({"color_eps": 0.1}, "color_eps needs images"),
        ({"objective": "conceal"}, "threat_model='self' or 'third_party'"),
        ({"objective": "dual"}, "needs target_true_labels"),
        (
            {"trajectory": "poison", "ensemble_stagger": None},
            "needs ensemble_stagger='even'",
        ),
        ({"surrogate": _net(max_epochs=0)}, "max_epochs of at least 1"),
        ({"surrogate": _net(criterion=nn.NLLLoss)}, "can_train_together"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_bad_parameters_are_named(digits, params, message):
    X, y, targets, _ = digits
    with pytest.raises(ValueError, match=message):
        _attack(targets[:1], 8, **params).fit(X, y)
