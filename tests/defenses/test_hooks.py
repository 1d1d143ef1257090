"""Batch hooks used alone: what they do to a batch, and what they leave alone."""

import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from torch.nn import functional as F

from skpoison.defenses import Compose, CutMix, Cutout, MaxUp, Mixup, Noise
from skpoison.models import ConvNet
from skpoison.models._net import BatchContext

N, CLASSES = 7, 3
SHAPES = [(1, 6, 8), (3, 5, 4), (9,)]
MIXING = [Mixup(), Mixup(3, alpha=0.4), Mixup(4, weights="uniform"), CutMix()]
MIXING += [Mixup(3, per_sample=True), CutMix(alpha=0.3)]
KEEPING = [Cutout(), Cutout(3, fill=0.7), Noise(), Noise("uniform", scale=0.2)]
KEEPING += [Noise("laplace", bounds=(0.2, 0.8))]
NESTED = [MaxUp(), MaxUp(CutMix(), n_copies=3), MaxUp(Mixup(3), n_copies=2)]
NESTED += [Compose([Mixup(3), Noise()]), Compose([CutMix(), MaxUp(Noise())])]
HOOKS = [*MIXING, *KEEPING, *NESTED]


class Net(torch.nn.Module):
    """Batch normalisation, dropout, in place: all that a hook can upset."""

    def __init__(self, shape, dtype=torch.float32):
        super().__init__()
        width = math.prod(shape)
        self.layers = torch.nn.Sequential(
            torch.nn.BatchNorm1d(width),
            torch.nn.Linear(width, CLASSES),
            torch.nn.Dropout(0.5),
        ).to(dtype)

    def forward(self, X):
        return self.layers(X.mul_(2.0).flatten(1))


def context(seed=0, module=None, **others):
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        module=module, n_classes=CLASSES, generator=generator, **others
    )


def batch(shape, n=N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    X = torch.rand((n, *shape), generator=generator, dtype=dtype)
    T = torch.rand((n, CLASSES), generator=generator, dtype=dtype)
    return X, T / T.sum(1, keepdim=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hook", HOOKS, ids=repr)
def test_every_hook(hook, dtype, shape):
    X, T = batch(shape, dtype=dtype)
    net = Net(shape, dtype)
    before = X.clone(), T.clone(), torch.get_rng_state()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    X1, T1 = hook(X, T, context(module=net))
    assert (X1.shape, T1.shape) == (X.shape, T.shape)
    assert X1.dtype == T1.dtype == dtype
    torch.testing.assert_close(T1.sum(1), torch.ones(N, dtype=dtype), rtol=0, atol=1e-6)
    assert torch.isfinite(X1).all() and not torch.equal(X1, X)

    # neither the batch, nor the network, nor a global stream is touched
    assert torch.equal(X, before[0]) and torch.equal(T, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(torch.equal(value, state[n]) for n, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert all(part.training for part in net.modules())

    # a function of the batch and the state of the generator
    for same in (hook, clone(hook), pickle.loads(pickle.dumps(hook))):
        X2, T2 = same(X, T, context(module=net))
        assert torch.equal(X1, X2) and torch.equal(T1, T2)
    assert not torch.equal(hook(X, T, context(1, net))[0], X1)


@pytest.mark.parametrize("hook", HOOKS, ids=repr)
def test_gradients_flow(hook):
    X, T = (part.requires_grad_() for part in batch((1, 4, 5), 3, torch.float64))
    net = Net((1, 4, 5), torch.float64)
    assert torch.autograd.gradcheck(
        lambda X, T: hook(X, T, context(2, net)), (X, T), atol=1e-6
    )


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("hook", HOOKS, ids=repr)
def test_small_batches(hook, n):
    X, T = batch((1, 6, 8), n)
    X1, T1 = hook(X, T, context(module=Net((1, 6, 8))))
    assert X1.shape == X.shape and torch.isfinite(X1).all()
    torch.testing.assert_close(T1.sum(1), torch.ones(n))
    if n == 1:  # nobody to mix with
        torch.testing.assert_close(T1, T)
        if hook in MIXING:
            assert torch.equal(X1, X)


@pytest.mark.parametrize("hook", KEEPING, ids=repr)
def test_labels_are_untouched(hook):
    X, T = batch((1, 6, 8))
    assert hook(X, T, context())[1] is T


@pytest.mark.gpu
@pytest.mark.parametrize("hook", HOOKS, ids=repr)
def test_on_the_gpu_as_on_the_cpu(hook):
    X, T = batch((1, 6, 8))
    net = Net((1, 6, 8))
    expected = hook(X, T, context(module=net))
    found = hook(X.cuda(), T.cuda(), context(module=net.cuda()))
    for a, b in zip(expected, found, strict=True):
        assert b.is_cuda
        torch.testing.assert_close(a, b.cpu())


# ------------------------------------------------------------------------- mixup


def mixing_matrix(hook, n, seed):
    """Return the weights of the rows (columns) in each output (row)."""
    eye = torch.eye(n, dtype=torch.float64)
    X, T = hook(eye, eye, context(seed))
    assert torch.equal(X, T)
    return X


@pytest.mark.parametrize("n, n_mix", [(8, 1), (8, 2), (9, 4), (5, 5), (3, 8)])
@pytest.mark.parametrize("weights", ["uniform", "dirichlet"])
def test_mixup_has_distinct_partners_and_uses_each_row_alike(n, n_mix, weights):
    hook, k = Mixup(n_mix, weights=weights), min(n, n_mix)
    for seed in range(20):
        W = mixing_matrix(hook, n, seed)
        assert ((W > 0).sum(0) == k).all() and ((W > 0).sum(1) == k).all()
        torch.testing.assert_close(W.sum(1), torch.ones(n, dtype=W.dtype))
        # the mean of the batch is kept, draw by draw
        torch.testing.assert_close(W.mean(0), torch.full((n,), 1 / n, dtype=W.dtype))
        if weights == "uniform":
            torch.testing.assert_close(W[W > 0], torch.full((n * k,), 1 / k).double())


def test_mixup_is_unbiased_in_every_place():
    n, draws = 5, 3000
    mean = sum(mixing_matrix(Mixup(3, weights="uniform"), n, s) for s in range(draws))
    # five standard errors; a weight is 1/3 with probability 3/5
    error = 5 * math.sqrt(0.6 * 0.4 / 9 / draws)
    torch.testing.assert_close(
        mean / draws, torch.full((n, n), 1 / n, dtype=mean.dtype), rtol=0, atol=error
    )


@pytest.mark.parametrize("alpha", [0.4, 1, 1.0, 3.0])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("n_mix", [2, 3])
def test_mixup_weights_are_dirichlet(alpha, per_sample, n_mix):
    hook = Mixup(n_mix, alpha=alpha, per_sample=per_sample)
    drawn = []
    for seed in range(600):
        W = mixing_matrix(hook, 6, seed)
        kinds = [np.round(np.sort(row[row > 0]), 12) for row in W.numpy()]
        alike = all(np.array_equal(kinds[0], kind) for kind in kinds)
        assert alike is not per_sample
        drawn += W[0][W[0] > 0][:1].tolist()
    law = stats.beta(alpha, alpha * (n_mix - 1))
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_weights_that_vanish(per_sample):
    hook = Mixup(4, alpha=1e-3, per_sample=per_sample)
    for seed in range(50):
        W = mixing_matrix(hook, 6, seed)
        torch.testing.assert_close(W.sum(1), torch.ones(6, dtype=W.dtype))


def test_mixtures_stay_in_the_range_of_the_rows():
    X = torch.full((6, 4), 0.1)
    for seed in range(20):
        mixed, _ = Mixup(5)(X, torch.eye(6), context(seed))
        assert torch.equal(mixed, X)


# ------------------------------------------------------------------------ cutmix


def constant_images(n, *space):
    X = torch.arange(float(n)).reshape(n, 1, 1, 1).expand(n, 2, *space).clone()
    return X, torch.eye(n, dtype=torch.float64)


def test_cutmix_labels_are_counted_pixels():
    """The label's share is that of the pixels, also where the border clips the box."""
    n, height, width = 4, 7, 15
    X, T = constant_images(n, height, width)
    clipped = 0
    for seed in range(200):
        mixed, targets = CutMix()(X, T, context(seed))
        assert torch.equal(mixed[:, 0], mixed[:, 1])
        changed = (mixed != X)[:, 0]
        assert (changed == changed[0]).all()  # one box a batch
        rows, columns = changed[0].any(1), changed[0].any(0)
        assert torch.equal(changed[0], rows[:, None] & columns)
        h, w = int(rows.sum()), int(columns.sum())
        for i in range(n):
            pasted = mixed[i, 0][changed[i]].unique().tolist()
            assert len(pasted) <= 1 and i not in pasted
            share = torch.zeros(n, dtype=T.dtype)
            for partner in pasted:
                share[int(partner)] = h * w / (height * width)
            share[i] = 1 - h * w / (height * width)
            torch.testing.assert_close(targets[i], share, rtol=0, atol=1e-12)
        if h * w:
            ends = rows[0] | rows[-1], columns[0] | columns[-1]
            # inside, w = floor(15 s) and h = floor(7 s) for one s
            if not any(ends):
                assert max(h / 7, w / 15) < min((h + 1) / 7, (w + 1) / 15)
            clipped += any(ends)
    assert 50 < clipped < 200


def test_cutmix_of_known_share():
    def pasted(X, seed):
        return (CutMix(alpha=1e6)(X, torch.eye(2), context(seed))[0] != X)[0]

    X, _ = constant_images(2, 16, 16)  # 16 sqrt(0.5) = 11.3
    sides = [pasted(X, seed)[0].any(1).sum().item() for seed in range(40)]
    assert max(sides) == 11 and min(sides) >= 5
    rows = torch.tensor([[0.0], [1.0]]).expand(2, 101).clone()
    widths = []
    for seed in range(40):
        columns = pasted(rows, seed).nonzero().ravel()
        widths.append(len(columns))
        assert columns[-1] - columns[0] == len(columns) - 1  # adjacent
    assert max(widths) == 50 and min(widths) >= 25


def test_cutmix_by_chance():
    X, T = batch((1, 6, 8))
    hook = CutMix(alpha=100.0, prob=0.3)
    changed = [not torch.equal(hook(X, T, context(s))[0], X) for s in range(300)]
    assert 0.2 < np.mean(changed) < 0.4
    assert not any(CutMix(prob=0)(X, T, context(s))[0] is not X for s in range(9))


# ------------------------------------------------------------------------ cutout


@pytest.mark.parametrize("size, side", [(3, 3), (4, 4), (0.5, 3), (1.0, 6), (99, 99)])
def test_cutout_fills_exactly_the_clipped_box(size, side):
    n, height, width = 300, 6, 11
    X = torch.rand(n, 3, height, width) + 1
    found, _ = Cutout(size, fill=-1.0)(X, torch.eye(n), context())
    filled = found == -1
    assert torch.equal(found[~filled], X[~filled])
    assert torch.equal(filled, filled[:, :1].expand_as(filled))
    starts = set()
    for image in filled[:, 0]:
        rows, columns = image.any(1), image.any(0)
        assert torch.equal(image, rows[:, None] & columns)
        ends = []
        for axis, length in ((rows, height), (columns, width)):
            start, n_filled = int(axis.int().argmax()), int(axis.sum())
            stop = start + n_filled
            # of its full length, or the border has taken less than half away
            assert n_filled == min(side, length) or start == 0 or stop == length
            assert n_filled >= min((side + 1) // 2, length)
            ends += [start, stop]
        starts.add(tuple(ends))
    # uniform centres: every place occurs, each image has its own
    places = math.prod(len({_ends(c, side, m) for c in range(m)}) for m in (6, 11))
    assert len(starts) == places


def _ends(centre, side, length):
    return max(0, centre - side // 2), min(length, centre - side // 2 + side)


def test_cutout_of_tables_and_shares():
    X = torch.ones(50, 100)
    found, _ = Cutout(0.29)(X, torch.eye(50), context())
    assert (100 - found.sum(1)).max() == 29
    assert Cutout(0.5)(torch.ones(3, 1), torch.eye(3), context())[0].all()  # 0 columns


# ------------------------------------------------------------------------- noise


@pytest.mark.parametrize(
    "name, law",
    [
        ("gaussian", stats.norm(scale=0.3)),
        ("laplace", stats.laplace(scale=0.3)),
        ("uniform", stats.uniform(-0.3, 0.6)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_follows_its_law(name, law, dtype):
    X = torch.full((100, 2, 30), 0.5, dtype=dtype)
    noisy, _ = Noise(name, scale=0.3)(X, torch.eye(100), context())
    noise = (noisy - X).double().numpy()
    assert stats.kstest(noise.ravel(), law.cdf).pvalue > 1e-3
    assert abs(noise.std() - law.std()) < 0.03 * law.std()
    assert len(np.unique(noise)) > 0.9 * noise.size  # each value has its own
    bounded, _ = Noise(name, scale=0.3, bounds=(0.4, 0.7))(X, T=None, context=context())
    assert torch.equal(bounded, noisy.clamp(0.4, 0.7))
    assert torch.equal(Noise(name, scale=0)(X, None, context())[0], X)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "uniform"])
def test_noise_has_the_precision_of_the_rows(name):
    X = torch.zeros(9, 5, dtype=torch.float64)
    noisy, _ = Noise(name, scale=1.0)(X, None, context())
    assert not torch.equal(noisy, noisy.float().double())


def test_noise_of_half_precision():
    X = torch.zeros(40, 50, dtype=torch.bfloat16)
    noisy, _ = Noise("laplace", scale=1.0)(X, None, context())
    assert noisy.dtype == X.dtype and 0.8 < noisy.float().abs().mean() < 1.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_laplace_noise_is_finite_at_the_end_of_the_range(monkeypatch, dtype):
    monkeypatch.setattr(
        torch.Tensor, "uniform_", lambda self, low, high, generator: self.fill_(low)
    )
    noisy, _ = Noise("laplace", scale=1.0)(
        torch.zeros(3, 2, dtype=dtype), None, context()
    )
    assert torch.isfinite(noisy).all() and (noisy < -15).all()


# ------------------------------------------------------------------------- maxup

BASES = [Cutout(), CutMix(), Noise(scale=0.5), Compose([CutMix(), Noise()])]


def losses(net, X, T):
    with torch.no_grad():
        return F.cross_entropy(net(X.clone()), T, reduction="none")


@pytest.mark.parametrize("base", BASES, ids=repr)
def test_maxup_of_one_copy_is_its_base(base):
    X, T = batch((1, 6, 8))
    one = MaxUp(base, n_copies=1)(X, T, context(module=ConvNet((1, 6, 8), CLASSES)))
    for a, b in zip(one, base(X, T, context()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("base", BASES, ids=repr)
def test_maxup_keeps_the_hardest_copy_of_each_row_with_its_targets(base):
    X, T = batch((1, 6, 8), 20)
    net = ConvNet((1, 6, 8), CLASSES)
    hardest, targets = MaxUp(base, n_copies=5)(X, T, context(module=net))
    replay = context()
    copies = [base(X, T, replay) for _ in range(5)]
    every = torch.stack([losses(net, *copy) for copy in copies])
    torch.testing.assert_close(losses(net, hardest, targets), every.max(0).values)
    best = every.argmax(0)
    assert len(best.unique()) > 1
    for i, j in enumerate(best.tolist()):  # of this row, not of another
        assert torch.equal(hardest[i], copies[j][0][i])
        assert torch.equal(targets[i], copies[j][1][i])


def test_maxup_has_the_gradient_of_the_maximum():
    X, T = batch((1, 6, 8), 10)
    net = ConvNet((1, 6, 8), CLASSES)
    hardest = MaxUp(n_copies=3)(X, T, context(module=net))
    replay, weights = context(), list(net.parameters())
    every = torch.stack([
        F.cross_entropy(net(copy), T, reduction="none")
        for copy, _ in (Cutout()(X, T, replay) for _ in range(3))
    ])  # fmt: skip
    direct = torch.autograd.grad(every.max(0).values.mean(), weights)
    ours = torch.autograd.grad(F.cross_entropy(net(hardest[0]), hardest[1]), weights)
    for a, b in zip(ours, direct, strict=True):
        torch.testing.assert_close(a, b)


def test_maxup_leaves_modes_as_they_were():
    X, T = batch((9,))
    net = Net((9,))
    net.layers[0].eval()  # a callback froze it
    modes = [part.training for part in net.modules()]
    MaxUp()(X, T, context(module=net))
    assert [part.training for part in net.modules()] == modes
    with pytest.raises(RuntimeError):
        MaxUp()(X[:, :4], T, context(module=net))
    assert [part.training for part in net.modules()] == modes


def test_maxup_warms_up():
    X, T = batch((9,))
    hook, net = MaxUp(warmup_epochs=2), Net((9,))
    for epoch in (0, 1):
        now = BatchContext(net, CLASSES, torch.Generator(), epoch)
        state = now.generator.get_state()
        assert hook(X, T, now) == (X, T)
        assert torch.equal(now.generator.get_state(), state)
    now = BatchContext(net, CLASSES, torch.Generator().manual_seed(0), 2)
    later = hook(X, T, now)[0]
    assert not torch.equal(later, X)
    # without epochs the warm-up is over
    assert torch.equal(hook(X, T, context(module=net))[0], later)


# ----------------------------------------------------------------------- compose


def test_compose_goes_from_left_to_right():
    X, T = batch((1, 6, 8))
    now, later = context(), context()
    expected = Noise()(*Mixup(3)(X, T, now), now)
    found = Compose([Mixup(3), Noise()])(X, T, later)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(now.generator.get_state(), later.generator.get_state())
    assert Compose([])(X, T, context()) == (X, T)


def test_needs_module_goes_up():
    assert MaxUp().needs_module and Compose([Noise(), MaxUp()]).needs_module
    assert not Compose([Noise(), Mixup(), lambda X, T, context: (X, T)]).needs_module
    assert Compose([Compose([MaxUp()])]).needs_module


# ------------------------------------------------------------------------ errors


class OwnLoss:
    def __repr__(self):
        return "OwnLoss()"

    def __call__(self, X, T, context):
        return X, T

    def loss(self, output, T):
        return output.sum()


@pytest.mark.parametrize(
    "hook, error, message",
    [
        (Mixup(0), ValueError, "n_mix must be >= 1, got 0"),
        (Mixup(2.5), TypeError, "n_mix must be an int"),
        (Mixup(alpha=0), ValueError, "alpha must be > 0"),
        (Mixup(weights="beta"), ValueError, "weights must be one of 'dirichlet'"),
        (Mixup(per_sample=1), TypeError, "per_sample must be a bool, got 1"),
        (CutMix(alpha=-1), ValueError, "alpha must be > 0"),
        (CutMix(prob=1.5), ValueError, r"prob must be in \[0.0, 1.0\], got 1.5"),
        (Cutout(1.5), ValueError, r"size must be in \[0, 1.0\], got 1.5"),
        (Cutout(-1), ValueError, "size must be >= 0, got -1"),
        (Cutout(True), TypeError, "size must be a number"),
        (Cutout(fill="mean"), TypeError, "fill must be a number"),
        (Noise("normal"), ValueError, "distribution must be one of 'gaussian'"),
        (Noise(scale=-1), ValueError, "scale must be >= 0"),
        (Noise(bounds=1), ValueError, "bounds must be None or a pair"),
        (Noise(bounds=(0, 1, 2)), ValueError, "bounds must be None or a pair"),
        (Noise(bounds=(1, 0)), ValueError, "the upper of bounds must be >= 1, got 0"),
        (Noise(bounds=("a", 0)), TypeError, "the lower of bounds must be a number"),
        (MaxUp(n_copies=0), ValueError, "n_copies must be >= 1"),
        (MaxUp(warmup_epochs=-1), ValueError, "warmup_epochs must be >= 0"),
        (MaxUp("cutout"), TypeError, "base must be a batch hook"),
        (MaxUp(Cutout(-1)), ValueError, "size must be >= 0"),
        (MaxUp(OwnLoss()), ValueError, "base replaces the loss"),
        (Compose(Mixup()), TypeError, "hooks must be a list"),
        (Compose([Mixup(), 3]), TypeError, r"hooks\[1\] must be a batch hook"),
        (Compose([Mixup]), TypeError, r"hooks\[0\] must be a batch hook"),
        (Compose([Noise(), Mixup(0)]), ValueError, "n_mix must be >= 1"),
        (Compose([OwnLoss()]), ValueError, r"hooks\[0\] replaces the loss"),
    ],
    ids=repr,
)  # fmt: skip
def test_bad_parameters(hook, error, message):
    with pytest.raises(error, match=message):
        hook.validate()


@pytest.mark.parametrize("hook", HOOKS, ids=repr)
def test_good_parameters(hook):
    assert hook.validate() is hook


def test_values_of_a_grid_are_good_parameters():
    for per_sample in np.array([True, False]):
        Mixup(np.int64(3), alpha=np.float32(0.5), per_sample=per_sample).validate()


@pytest.mark.parametrize("shape", [(5, 4), (1, 2, 5, 4)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name, hook", [
    ("CutMix", CutMix()), ("Cutout", Cutout()), ("Cutout", MaxUp()),
    ("CutMix", Compose([Noise(), CutMix(prob=0)])),
], ids=repr)  # fmt: skip
def test_samples_that_are_neither_images_nor_rows(hook, name, shape, n):
    X, T = batch(shape, n)
    said = (
        rf"{name} takes images of shape \(C, H, W\) or flat rows, got .*{shape[-1]}\)"
    )
    with pytest.raises(ValueError, match=said + r".*input_shape=\(C, H, W\)"):
        hook(X, T, context())
    with pytest.raises(ValueError, match=said):
        hook.check_shape(shape)
