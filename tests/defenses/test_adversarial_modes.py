"""The batch hook: what may move, what it moves down, and what it leaves alone."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from torch.func import functional_call
from torch.nn import functional as F

from skpoison.attacks import Adaptation, GradientMatchingAttack
from skpoison.defenses import AdversarialPoison, AugmentedClassifier, MaxUp, Mixup
from skpoison.defenses._adversarial_modes import (
    MODES,
    Parts,
    _gradients,
    _members,
    _unrolled,
)
from skpoison.defenses._plain_hooks import derangement
from skpoison.models import TorchClassifier

N, K = 24, 4
GRAY, COLOUR, TABLE = (1, 8, 9), (3, 10, 8), (20,)
ON_PATCHES = {"patch", "hidden_trigger"}
OPTIMISED = [
    "gradient_matching",
    "gradient_distance",
    "feature_collision",
    "metapoison",
    "hidden_trigger",
    "evasion",
]


def network(shape, n_classes=K):
    """Batch normalisation, dropout, a frozen layer and one that stays in eval mode."""
    torch.manual_seed(1)
    d = int(np.prod(shape))
    module = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(d, 16),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(16, 12),
        torch.nn.Tanh(),
        torch.nn.Linear(12, n_classes),
    )
    module(torch.rand(50, *shape))  # running statistics of their own
    module[1].bias.requires_grad_(False)
    module[2].eval()
    return module


def batch(shape, n=N, n_classes=K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, *shape, generator=generator)
    labels = torch.randint(n_classes, (n,), generator=generator)
    return X, F.one_hot(labels, n_classes).float()


def context(module, seed=5, n_classes=K):
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(module=module, n_classes=n_classes, generator=generator)


def order_of(n, seed=5):
    """The hook's first draw."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def poisoned(attack, shape=GRAY, n=N, **params):
    """Return a batch as it was and as it came back, the poison part first."""
    X, T = batch(shape, n)
    hook = AdversarialPoison(attack, **params).validate()
    X_new, T_new = hook(X, T, context(network(shape)))
    order = order_of(n)
    if hook.recombine:
        X_new, T_new = X_new[order], T_new[order]
    return X[order], T[order], X_new, T_new


# ---------------------------------------------------------------- what every mode keeps


@pytest.mark.parametrize("shape", [GRAY, COLOUR, TABLE], ids=str)
@pytest.mark.parametrize("attack", MODES)
def test_radius_box_and_labels(attack, shape):
    X, T, X_new, T_new = poisoned(attack, shape)
    assert X_new.dtype == torch.float32 and X_new.shape == X.shape
    assert torch.equal(T_new, T)
    assert X_new.min() >= 0 and X_new.max() <= 1
    n_poisons, eps = (N, 8 / 255) if attack == "evasion" else (N // 2, 16 / 255)
    moved = (X_new - X).abs().flatten(1).amax(1)
    assert (moved[:n_poisons] > 1e-4).all()
    if attack != "patch":
        assert moved[:n_poisons].max() <= eps + 1e-6
    if attack in ON_PATCHES:
        assert (moved[n_poisons:] > 0.01).all()
    else:
        assert (moved[n_poisons:] == 0).all()


@pytest.mark.parametrize("attack", MODES)
def test_the_network_and_the_callers_tensors_stay_as_they_were(attack):
    module, (X, T) = network(GRAY), batch(GRAY)
    for p in module.parameters():
        p.grad = torch.full_like(p, 7.0)
    before = copy.deepcopy(module.state_dict())
    kept, stream = (X.clone(), T.clone()), torch.get_rng_state()
    AdversarialPoison(attack)(X, T, context(module))
    assert [m.training for m in module] == [True, True, False] + [True] * 5
    assert module.training
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert all((p.grad == 7).all() for p in module.parameters())
    assert [p.requires_grad for p in module.parameters()].count(False) == 1
    assert torch.equal(X, kept[0]) and torch.equal(T, kept[1])
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("attack", MODES)
def test_a_network_that_works_in_place(attack):
    """What it does to its input is seen by nobody else."""

    class InPlace(torch.nn.Sequential):
        def forward(self, X):
            return super().forward(X.mul_(2.0))

    class Plain(torch.nn.Sequential):
        def forward(self, X):
            return super().forward(2.0 * X)

    (X, T), hook = batch(GRAY), AdversarialPoison(attack)
    expected, _ = hook(X, T, context(Plain(*network(GRAY))))
    module = InPlace(*network(GRAY))
    assert torch.equal(hook(X, T, context(module))[0], expected)
    assert not module._forward_pre_hooks


@pytest.mark.parametrize("attack", ["patch", "random_normal", "evasion"])
def test_the_hardest_of_several_poisoned_copies(attack):
    X, T = batch(GRAY)
    hook = MaxUp(AdversarialPoison(attack), n_copies=3)
    X_new, T_new = hook(X, T, context(network(GRAY)))
    assert torch.equal(T_new, T)
    nearest = torch.cdist(X_new.flatten(1), X.flatten(1)).argmin(1)
    assert torch.equal(nearest, torch.arange(N))


def test_the_mode_comes_back_after_an_error():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, K, 3), torch.nn.AdaptiveMaxPool2d(1)
    )
    module.append(torch.nn.Flatten())
    with pytest.raises(ValueError, match="Linear"):
        AdversarialPoison("feature_collision")(*batch(GRAY), context(module))
    assert module.training and module[0].training


@pytest.mark.parametrize("attack", MODES)
def test_the_generator_decides(attack):
    module, (X, T) = network(GRAY), batch(GRAY)
    hook = AdversarialPoison(attack)
    first, _ = hook(X, T, context(module))
    torch.rand(3)  # the global stream has no say
    again, _ = hook(X, T, context(module))
    other, _ = hook(X, T, context(module, seed=6))
    assert torch.equal(first, again) and not torch.equal(first, other)


# ------------------------------------------------------------------------- objectives


def gradient(module, x, labels, graph=False):
    loss = F.cross_entropy(module(x), labels)
    weights = [p for p in module.parameters() if p.requires_grad]
    parts = torch.autograd.grad(loss, weights, create_graph=graph)
    return torch.cat([p.flatten() for p in parts])


def naive(attack, module, x, labels, targets, wanted):
    """The objectives as they are written down, on a network in evaluation mode."""
    module = copy.deepcopy(module).eval()
    if attack == "evasion":
        return -F.cross_entropy(module(x), labels)
    if attack in ("feature_collision", "hidden_trigger"):
        here, there = module[:-1](x), module[:-1](targets)
        if attack == "feature_collision":
            return (here.mean(0) - there.mean(0)).square().mean()
        cost = torch.cdist(here, there).square().detach()
        return cost[linear_sum_assignment(cost.numpy())].sum()
    if attack == "metapoison":
        weights, total = dict(module.named_parameters()), 0.0
        for _ in range(2):
            loss = F.cross_entropy(functional_call(module, weights, (x,)), labels)
            names = [n for n, p in weights.items() if p.requires_grad]
            parts = torch.autograd.grad(
                loss, [weights[n] for n in names], create_graph=True
            )
            step = zip(names, parts, strict=True)
            weights = {**weights, **{n: weights[n] - 0.1 * g for n, g in step}}
            logits = functional_call(module, weights, (targets,))
            total = total + F.cross_entropy(logits, wanted) / 2
        return total
    g_p = gradient(module, x, labels, graph=True)
    g_t = gradient(module, targets, wanted)
    if attack == "gradient_distance":
        return 0.5 * (g_p - g_t).square().sum() / g_t.norm()
    return 1 - F.cosine_similarity(g_p, g_t, dim=0)


def parts_of(X, T, n_poisons):
    labels = T.argmax(1)
    wanted = torch.bincount(labels[:n_poisons]).argmax()
    rest = X[n_poisons:]
    return labels[:n_poisons], rest, wanted.expand(len(rest))


@pytest.mark.parametrize("attack", OPTIMISED)
def test_the_objective_falls(attack):
    X, T, X_new, _ = poisoned(attack, init="zero", max_iter=10, eps=0.3)
    module, n = network(GRAY), N if attack == "evasion" else N // 2
    labels, _, wanted = parts_of(X, T, n)
    # a hidden trigger's targets are those with the patch on
    before, after = (
        naive(attack, module, x[:n], labels, X_new[n:], wanted).item()
        for x in (X, X_new)
    )
    assert after < before - 0.02 * abs(before)


@pytest.mark.parametrize(
    "attack", ["gradient_matching", "gradient_distance", "metapoison", "evasion"]
)
def test_one_step_goes_down_the_naive_gradient(attack):
    X, T, X_new, _ = poisoned(attack, init="zero", max_iter=1, eps=0.1, bounds=None)
    module, n = network(GRAY), N if attack == "evasion" else N // 2
    labels, targets, wanted = parts_of(X, T, n)
    leaf = X[:n].clone().requires_grad_()
    value = naive(attack, module, leaf, labels, targets, wanted)
    (slope,) = torch.autograd.grad(value, leaf)
    clear = slope.abs() > 1e-5 * slope.abs().max()
    moved = X_new[:n] - X[:n]
    assert clear.float().mean() > 0.99
    assert torch.allclose(moved[clear], -0.01 * slope.sign()[clear], atol=1e-6)


@pytest.mark.parametrize("attack", ["gradient_matching", "gradient_distance"])
def test_gradient_objectives_are_those_of_plain_autograd(attack):
    module, (X, T) = network(GRAY), batch(GRAY)
    labels, targets, wanted = parts_of(X, T, 10)
    ball = SimpleNamespace(x=X[:10])
    nothing = torch.zeros(0, dtype=torch.long)
    parts = Parts(X[:10], labels, targets, nothing, ball, *[None] * 3, K, None)
    loss = "cosine" if attack == "gradient_matching" else "se"
    module.eval()
    objective = _gradients(parts, _members(module, GRAY), loss=loss)
    delta = 0.1 * torch.randn(10, *GRAY)
    value, slope = objective(delta, 0)
    leaf = (X[:10] + delta).requires_grad_()
    expected = naive(attack, module, leaf, labels, targets, wanted)
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, leaf)[0])


def test_metapoison_looks_through_two_steps():
    module, (X, T) = network(GRAY), batch(GRAY)
    labels, targets, wanted = parts_of(X, T, 10)
    ball = SimpleNamespace(x=X[:10])
    parts = Parts(X[:10], labels, targets, labels, ball, *[None] * 3, K, None)
    module.eval()
    value, _ = _unrolled(parts, _members(module, GRAY))(torch.zeros(10, *GRAY), 0)
    expected = naive("metapoison", module, X[:10], labels, targets, wanted)
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)


def test_a_gradient_of_zero_is_not_followed():
    """Targets that already have the wanted label, beyond doubt: nothing to match."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.copy_(torch.tensor([200.0, -200.0]))
    X, T = torch.rand(6, 3), torch.eye(2)[[0] * 6]
    X_new, _ = AdversarialPoison()(X, T, context(module))
    assert torch.isfinite(X_new).all()
    assert (X_new - X).abs().max() <= 16 / 255 + 1e-6


# ------------------------------------------------------------------------------ patches


def patches(images, clean):
    """Cut out of each image what differs from its clean one."""
    found, corners = [], []
    for image, own in zip(images, clean, strict=True):
        changed = (image != own).any(0)
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        corners.append((int(rows[0]), int(columns[0])))
        cut = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        found.append(cut)
    return found, corners


@pytest.mark.parametrize("shape", [(1, 20, 30), (3, 30, 20)], ids=str)
def test_a_patch_for_each_class(shape):
    torch.manual_seed(3)
    X, n = 0.3 + 0.4 * torch.rand(80, *shape), 40
    T = torch.eye(K)[torch.arange(80) % (K - 1)]  # the last class is absent
    X_new, T_new = AdversarialPoison("patch")(X, T, context(network(shape)))
    order = order_of(80)
    X_new, T_new = X_new[order], T_new[order]
    found, corners = patches(X_new, X[order])
    labels = T_new.argmax(1).tolist()
    own = dict(zip(labels[:n], found[:n], strict=True))
    others = dict(zip(labels[n:], found[n:], strict=True))
    for label, patch in zip(labels[:n], found[:n], strict=True):
        assert torch.equal(patch, own[label])
    for label, patch in zip(labels[n:], found[n:], strict=True):
        assert torch.equal(patch, others[label])
        assert patch.shape != own[label].shape or not torch.equal(patch, own[label])
    # each of them is another class's own, but for that of the absent class
    known = [
        any(o.shape == p.shape and o.equal(p) for p in own.values())
        for o in others.values()
    ]
    assert sum(known) >= K - 2
    for patch in [*own.values(), *others.values()]:
        # the patch itself, not what was under it
        assert ((patch == 0) | (patch == 1)).all()
        for side, size in zip(patch.shape[1:], shape[1:], strict=True):
            assert max(1, int(0.1 * size)) <= side <= 0.4 * size
    assert len(set(corners)) > 40
    largest = max(p.shape[1] for p in found)
    assert max(c[0] for c in corners) >= shape[1] - largest - 2


def test_patches_are_drawn_anew_for_each_batch_with_a_rate_of_their_own():
    X, T = torch.full((200, 1, 40, 40), 0.5), torch.eye(50).repeat(4, 1)
    X_new, T_new = AdversarialPoison("patch")(X, T, context(network((1, 40, 40))))
    shares = [float(p.mean()) for p in patches(X_new, X)[0] if p.numel() > 60]
    assert np.quantile(shares, 0.1) < 0.3 and np.quantile(shares, 0.9) > 0.7


def test_an_interval_of_columns_is_the_patch_of_a_row():
    X, T, X_new, _ = poisoned("patch", (50,), bounds=None)
    assert torch.isfinite(X_new).all()
    low, high = X.amin(0), X.amax(0)
    for row, clean in zip(X_new, X, strict=True):
        at = (row != clean).nonzero()[:, 0]
        inside = slice(int(at[0]), int(at[-1]) + 1)
        assert len(at) <= 20
        extremes = (row == low) | (row == high)  # of the columns of the batch
        assert extremes[inside].all()


def test_hidden_triggers_show_the_patch_itself():
    X = 0.3 + 0.4 * torch.rand(N, 3, 20, 30)
    T = torch.eye(K).repeat(N // K, 1)
    module = network((3, 20, 30))
    X_new, _ = AdversarialPoison("hidden_trigger")(X, T, context(module))
    aimed_at = order_of(N)[N // 2 :]
    found, _ = patches(X_new[aimed_at], X[aimed_at])
    assert all(torch.equal(patch, found[0]) for patch in found)
    assert ((found[0] == 0) | (found[0] == 1)).all()
    assert 4 <= found[0].shape[1] <= 8 and 3 <= found[0].shape[2] <= 6


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_a_derangement_has_no_fixed_point(n):
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        other = derangement(n, generator)
        assert (other != torch.arange(n)).all()
        assert torch.equal(other.sort().values, torch.arange(n))
        seen.add(int(other[0]))
    assert seen == set(range(1, n))


# --------------------------------------------------------------------------- edge cases


@pytest.mark.parametrize("attack", MODES)
def test_odd_batches(attack):
    module = network(GRAY, 2)
    hook = AdversarialPoison(attack)
    X, T = batch(GRAY, 1, 2)
    alone = hook(X, T, context(module))
    assert alone[0] is X and alone[1] is T
    X, T = batch(GRAY, 2, 2)
    assert hook(X, T, context(module))[0].shape == X.shape
    X, T = batch(GRAY, 5, 2)
    one_class = torch.zeros_like(T)
    one_class[:, 1] = 1.0
    for targets in (T, one_class, 0.6 * T + 0.2):
        X_new, T_new = hook(X, targets, context(module))
        assert torch.isfinite(X_new).all()
        assert torch.equal(T_new, targets)


@pytest.mark.parametrize(
    "share, n, expected",
    [(0.5, 10, 5), (0.75, 10, 8), (0.01, 10, 1), (1.0, 10, 9), (0.9, 2, 1)],
)
def test_the_share_of_poisons_is_rounded(share, n, expected):
    X, _, X_new, _ = poisoned("random_bernoulli", n=n, poison_fraction=share)
    moved = (X_new != X).flatten(1).any(1)
    assert moved.tolist() == [True] * expected + [False] * (n - expected)


@pytest.mark.parametrize("attack", MODES)
def test_without_the_targets(attack):
    X, T, both, _ = poisoned(attack, poison_fraction=0.25)
    _, _, alone, T_alone = poisoned(attack, poison_fraction=0.25, recombine=False)
    n = N if attack == "evasion" else N // 4
    assert torch.equal(alone, both[:n]) and torch.equal(T_alone, T[:n])
    X, T = batch(GRAY, 2)
    hook = AdversarialPoison(attack, recombine=False)
    assert len(hook(X, T, context(network(GRAY)))[0]) == 2  # for batch normalisation


def test_more_poisons_than_targets_share_them():
    for attack in ("watermark", "hidden_trigger"):
        X, _, X_new, _ = poisoned(attack, poison_fraction=0.9)
        assert (X_new[:20] != X[:20]).flatten(1).any(1).all()


def test_a_watermark_is_a_share_of_the_way_to_a_target():
    bounds = -1.0, 3.0
    X, _, X_new, _ = poisoned("watermark", bounds=bounds, eps=0.8)
    torch.testing.assert_close(X_new[:12], X[:12] + 0.2 * (X[12:] - X[:12]))


def test_noise_is_what_its_name_says():
    def noise(attack):
        X, _, X_new, _ = poisoned(attack, (3, 30, 30), eps=0.1, bounds=None)
        return ((X_new - X)[: N // 2] / 0.1).flatten()

    torch.testing.assert_close(noise("random_bernoulli").abs(), torch.ones(32400))
    for attack, share in (("random_normal", 0.317), ("random_laplace", np.exp(-1))):
        found = noise(attack)
        assert float((found.abs() > 0.999).float().mean()) == pytest.approx(
            share, abs=0.015
        )
        assert abs(float(found.mean())) < 0.02


def test_limits_in_the_units_of_each_feature():
    scale = np.linspace(1.0, 20.0, 20)
    X, T = batch(TABLE)
    X = X * torch.as_tensor(scale, dtype=torch.float32)
    X_new, _ = AdversarialPoison("random_bernoulli", bounds=(0 * scale, scale))(
        X, T, context(network(TABLE))
    )
    moved = (X_new - X).abs().amax(0).numpy()
    np.testing.assert_allclose(moved, 16 / 255 * scale, rtol=1e-4)
    assert (X_new >= 0).all() and (X_new.numpy() <= scale + 1e-5).all()
    eps = np.zeros((3, 1, 1))
    eps[1] = 0.2
    X, _, X_new, _ = poisoned("evasion", COLOUR, eps=eps)
    moved = (X_new - X).abs().amax((0, 2, 3))
    assert moved[0] == moved[2] == 0 and 0.1 < moved[1] <= 0.2 + 1e-6


def test_no_box_and_values_outside_a_box():
    X, T = batch(TABLE)
    X = 4 * X - 2
    net = context(network(TABLE))
    X_new, _ = AdversarialPoison("random_bernoulli", bounds=None)(X, T, net)
    moved = (X_new - X).abs()[order_of(N)[: N // 2]]
    torch.testing.assert_close(moved, torch.full_like(moved, 16 / 255))
    net = context(network(TABLE))
    X_new, _ = AdversarialPoison("random_bernoulli")(X, T, net)
    assert (X_new >= X.clamp_max(0)).all() and (X_new <= X.clamp_min(1)).all()
    assert (X_new - X).abs().max() <= 16 / 255 + 1e-6


@pytest.mark.parametrize(
    "params, shape, error, match",
    [
        ({"attack": "badnets"}, GRAY, ValueError, "attack must be one of"),
        ({"max_iter": 0}, GRAY, ValueError, "max_iter must be >= 1"),
        ({"max_iter": 2.5}, GRAY, TypeError, "max_iter must be an int"),
        ({"poison_fraction": 0}, GRAY, ValueError, "poison_fraction must be in"),
        ({"poison_fraction": 1.1}, GRAY, ValueError, "poison_fraction must be in"),
        ({"step_size": 0.0}, GRAY, ValueError, "step_size must be"),
        ({"init": "ones"}, GRAY, ValueError, "init must be one of"),
        ({"recombine": 1}, GRAY, TypeError, "recombine must be a bool"),
        ({"eps": -0.1}, GRAY, ValueError, "eps must be >= 0"),
        ({"eps": "small"}, GRAY, TypeError, "eps must be a number"),
        ({"eps": [0.1, 0.2]}, GRAY, ValueError, "eps has shape"),
        ({"eps": np.inf}, GRAY, ValueError, "eps must be finite, got inf"),
        ({"bounds": "data"}, GRAY, ValueError, "bounds must be None or a pair"),
        ({"bounds": (1, 0)}, GRAY, ValueError, "low <= high"),
        ({"bounds": (0, np.inf)}, GRAY, ValueError, "bounds must be finite"),
        ({"attack": "patch"}, (4, 5), ValueError, "input_shape"),
        ({"attack": "hidden_trigger"}, (2, 3, 4, 5), ValueError, "input_shape"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_is_refused(params, shape, error, match):
    with pytest.raises(error, match=match):
        AdversarialPoison(**params).validate().check_shape(shape)


def test_it_composes_with_other_hooks():
    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16, y[:300]
    hooks = [AdversarialPoison("patch"), Mixup()]
    model = AugmentedClassifier(
        augmentation=hooks, max_epochs=2, device="cpu", random_state=0
    )
    assert model.fit(X, y).n_iter_ == 2
    with pytest.raises(ValueError, match="input_shape"):
        model.set_params(input_shape=(8, 8)).fit(X, y)


def test_features_need_a_linear_layer():
    module = torch.nn.Sequential(torch.nn.Conv2d(1, K, (8, 9)), torch.nn.Flatten())
    for attack in ("feature_collision", "hidden_trigger"):
        with pytest.raises(ValueError, match=r"torch\.nn\.Linear"):
            AdversarialPoison(attack)(*batch(GRAY), context(module))


# ---------------------------------------------------------------- the adaptive attacker


@pytest.fixture(scope="module")
def victims():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    nets = [
        TorchClassifier(max_epochs=5, device="cpu", random_state=seed)
        for seed in range(2)
    ]
    return X, y, [FrozenEstimator(net.fit(X[:1500], y[:1500])) for net in nets]


def craft(victims, adaptation, **params):
    X, y, nets = victims
    params = {"budget": 0.02, "eps": 0.2, "max_iter": 8, "n_restarts": 1, **params}
    attack = GradientMatchingAttack(
        X[1500:1501],
        np.array([8]),
        surrogate=nets,
        n_ensemble=2,
        adaptation=adaptation,
        random_state=0,
        **params,
    )
    return attack.fit(X[:1500], y[:1500])


@pytest.mark.parametrize(
    "attack", ["feature_collision", "gradient_matching", "evasion"]
)
def test_attacks_adapt_to_victims_that_train_like_this(attack, victims):
    found = craft(victims, Adaptation(mix=AdversarialPoison(attack, max_iter=2)))
    assert found.loss_ < 0.8 * found.loss_curve_[0, 0]


@pytest.mark.slow
def test_attacks_adapt_to_victims_that_train_on_patches(victims):
    adaptation = Adaptation(mix=AdversarialPoison("patch"))
    curve = craft(victims, adaptation, max_iter=60).loss_curve_[0]
    assert curve[-20:].mean() < 0.9 * curve[:20].mean()  # new patches in each step


def test_a_hook_that_needs_the_network_sees_each_members_own(victims):
    seen = []

    class Watching(AdversarialPoison):
        def __call__(self, X, T, context):
            seen.append(copy.deepcopy(context.module))
            return super().__call__(X, T, context)

    craft(victims, Adaptation(mix=Watching("random_normal")), max_iter=1)
    nets = [frozen.estimator.module_ for frozen in victims[2]]
    rows = torch.as_tensor(victims[0][:5], dtype=torch.float32)
    for module in seen:
        logits = module.eval()(rows)
        assert any(torch.allclose(logits, n.eval()(rows), atol=1e-6) for n in nets)
        assert all(p.requires_grad for p in module.parameters())
    weights = {float(next(m.parameters()).detach().sum()) for m in seen}
    assert len(weights) == 2
    assert not getattr(Mixup, "needs_module", False)


def test_crafting_against_adversarial_training(victims):
    """One step of FGSM on the rows, on the network of the step."""
    moved = []

    def fgsm(logits, X, labels):
        leaf = X.clone().requires_grad_()
        out = logits(leaf)
        loss = F.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="sum")
        (slope,) = torch.autograd.grad(loss, leaf)
        with torch.no_grad():
            after = logits(X + 0.05 * slope.sign())
            moved.append(float(F.cross_entropy(after.flatten(0, 1), labels.flatten())))
            moved.append(float(loss) / labels.numel())
        return X + 0.05 * slope.sign()

    found = craft(victims, Adaptation(adversary=fgsm))
    curve = found.loss_curve_[0]
    assert found.loss_ < 0.8 * curve[0]
    assert all(after > before for after, before in zip(*[iter(moved)] * 2, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("attack", MODES)
def test_on_a_gpu_the_same_draws(attack):
    X, T = batch(GRAY)
    module = network(GRAY)
    here, T_here = AdversarialPoison(attack)(X, T, context(module))
    there, T_there = AdversarialPoison(attack)(
        X.cuda(), T.cuda(), context(module.cuda())
    )
    assert there.is_cuda and torch.equal(T_there.cpu(), T_here)
    # a sign of a gradient near zero may differ, and with it a step
    apart = (there.cpu() - here).abs() > 1e-5
    assert apart.float().mean() < 0.05
