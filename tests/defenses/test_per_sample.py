"""Clipped sums of per-sample gradients, against one backward pass a sample."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.defenses import _per_sample
from skpoison.defenses._per_sample import clipped_gradient
from skpoison.models import MLP, ConvNet, ResNet20


def losses_of(outputs, y):
    return F.cross_entropy(outputs, y, reduction="none")


def group_normed(module, groups):
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                norm = nn.GroupNorm(groups, child.num_features)
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
                setattr(part, name, norm)
    return module


def head(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


class Words(nn.Module):
    def __init__(self, padding_idx):
        super().__init__()
        self.embedding = nn.Embedding(6, 5, padding_idx=padding_idx)
        self.mix = nn.Linear(5, 4)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(4, 3)

    def forward(self, X):
        words = (X.flatten(1).abs() * 3).long() % 6
        return self.output(self.norm(self.mix(self.embedding(words))).mean(1))


class Named(nn.Module):
    """Calls its layer by keyword, and has one that it doesn't call."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, X):
        return self.first(input=X.flatten(1))


IMAGE = (2, 8, 8)
BY_LAYERS = {
    "MLP": (lambda: MLP((8,), 3, hidden=(16, 5)), (8,)),
    "keyword": (Named, (8,)),
    "ConvNet": (lambda: ConvNet(IMAGE, 3, channels=(4, 6), hidden=8), IMAGE),
    "ResNet20": (lambda: group_normed(ResNet20(IMAGE, 3), 4), IMAGE),
    "strided": (lambda: head(nn.Conv2d(2, 4, 3, stride=2, bias=False)), IMAGE),
    "uneven": (
        lambda: head(nn.Conv2d(2, 4, (3, 2), (1, 2), (2, 1), dilation=(2, 1))),
        IMAGE,
    ),
    "grouped": (lambda: head(nn.Conv2d(2, 6, 3, groups=2), nn.GELU()), IMAGE),
    "depthwise": (lambda: head(nn.Conv2d(2, 2, 5, padding=2, groups=2)), IMAGE),
    "same": (lambda: head(nn.Conv2d(2, 3, 4, padding="same", dilation=2)), IMAGE),
    "reflecting": (
        lambda: head(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")),
        IMAGE,
    ),
    "wide": (lambda: head(nn.Conv2d(2, 40, 6, stride=2)), IMAGE),
    "wide, grouped": (lambda: head(nn.Conv2d(2, 80, 6, 2, groups=2)), IMAGE),
    "Conv1d": (lambda: head(nn.Conv1d(2, 3, 4, padding=1, stride=3)), (2, 15)),
    "Conv3d": (lambda: head(nn.Conv3d(2, 3, 2, padding=1, dilation=2)), (2, 4, 5, 3)),
    "instance norm": (
        lambda: head(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True)),
        IMAGE,
    ),
    "group norm of a table": (
        lambda: head(nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.ReLU(inplace=True)),
        (8,),
    ),
    "layer norm of images": (
        lambda: head(nn.Conv2d(2, 3, 3), nn.LayerNorm((6, 6), bias=False)),
        IMAGE,
    ),
    "linear on places": (
        lambda: nn.Sequential(
            nn.Linear(8, 40), nn.ReLU(), nn.Flatten(1), MLP((80,), 3)
        ),
        (2, 8),
    ),
    "linear on planes": (lambda: head(nn.Linear(8, 4), nn.ReLU()), (3, 5, 8)),
    "words": (lambda: Words(None), (7,)),
    "words, padded": (lambda: Words(1), (7,)),
}


class Shared(nn.Module):
    """One layer called twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.output = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, X):
        return self.output(torch.tanh(self.layer(torch.tanh(self.layer(X)))))


class Tied(Shared):
    """A weight used by its layer and once more without it."""

    def forward(self, X):
        return self.output(F.linear(torch.tanh(self.layer(X)), self.layer.weight.T))


class Functional(Shared):
    """A layer whose parameters are used, but never the layer."""

    def forward(self, X):
        return self.output(F.linear(X, self.layer.weight, self.layer.bias))


class Custom(Shared):
    """A parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, X):
        return self.output(self.layer(X) * self.scale)


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)))


def one_parameter_twice():
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), MLP((8,), 3))
    module[2].weight = module[0].weight
    return module


class ChangedView(Shared):
    """What leaves a linear layer on places is a view, changed between two uses."""

    def forward(self, X):
        out = self.layer(X.view(-1, 2, 4).repeat(1, 1, 2))
        before = out.sum(1)
        return self.output(before + out.relu_().sum(1))


BY_VMAP = [
    Shared,
    Tied,
    Functional,
    Custom,
    ChangedView,
    weight_normed,
    one_parameter_twice,
]


def batch(make, shape, n_rows=6):
    torch.manual_seed(1)
    module, X = make(), torch.randn(n_rows, *shape)
    module(X)  # lazy layers find their shape
    return module, X, torch.arange(n_rows) % 3


def by_row(module, X, y, max_norm):
    """One backward pass a sample, in float64."""
    module = copy.deepcopy(module).double()
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    total, norms = {n: torch.zeros_like(p) for n, p in trainable.items()}, []
    for x, target in zip(X.double(), y, strict=True):
        loss = losses_of(module(x[None].clone()), target[None]).sum()
        found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        found = [torch.zeros(1) if g is None else g for g in found]
        norm = sum(g.square().sum() for g in found).sqrt()
        norms.append(norm)
        for sum_, gradient in zip(total.values(), found, strict=True):
            sum_ += gradient * min(1, max_norm / norm)
    return total, torch.stack(norms)


def assert_close(clipped, module, X, y, max_norm):
    total, norms = by_row(module, X, y, max_norm)
    torch.testing.assert_close(clipped.norms.double(), norms, rtol=2e-5, atol=0)
    assert [*clipped.gradients] == [*total]
    for name, gradient in clipped.gradients.items():
        torch.testing.assert_close(
            gradient.double(), total[name], rtol=2e-5, atol=3e-6 * max_norm
        )
    torch.testing.assert_close(clipped.losses, losses_of(module(X.clone()), y).detach())


@pytest.mark.parametrize("case", BY_LAYERS)
def test_layers_and_vmap_agree_with_a_loop(case):
    module, X, y = batch(*BY_LAYERS[case])
    _, norms = by_row(module, X, y, 1.0)
    max_norm = norms.median().item()  # half of the samples are clipped
    fast = clipped_gradient(module, losses_of, X, y, max_norm)
    assert fast.method == "layers"
    assert_close(fast, module, X, y, max_norm)
    slow = clipped_gradient(module, losses_of, X, y, max_norm, method="vmap")
    assert slow.method == "vmap"
    assert_close(slow, module, X, y, max_norm)
    torch.testing.assert_close(fast.outputs, slow.outputs)


@pytest.mark.parametrize("make", BY_VMAP, ids=lambda make: make.__name__)
@pytest.mark.parametrize("method", ["auto", "layers"])
def test_other_modules_are_mapped(make, method):
    module, X, y = batch(make, (8,))
    clipped = clipped_gradient(module, losses_of, X, y, 1.0, method=method)
    assert clipped.method == "vmap"
    assert_close(clipped, module, X, y, 1.0)


def test_both_ways_to_square_are_taken(monkeypatch):
    taken = []
    pays = _per_sample._pays_in_pairs

    def record(n_places, *sizes):
        taken.append((n_places > 1, pays(n_places, *sizes)))
        return taken[-1][1]

    monkeypatch.setattr(_per_sample, "_pays_in_pairs", record)
    monkeypatch.setitem(_per_sample._WINDOW_VALUES, "cpu", 1000)
    for case in ("wide", "wide, grouped", "strided", "linear on places"):
        module, X, y = batch(*BY_LAYERS[case])
        clipped = clipped_gradient(module, losses_of, X, y, 1.0)
        assert_close(clipped, module, X, y, 1.0)
    assert {(True, True), (True, False), (False, True)} <= {*taken}


@pytest.mark.parametrize("method", ["layers", "vmap"])
def test_no_sample_adds_more_than_the_limit(method):
    module, X, y = batch(*BY_LAYERS["ConvNet"], n_rows=40)
    X = X * torch.logspace(-2, 3, 40).view(-1, 1, 1, 1)
    for row in range(40):
        part = slice(row, row + 1)
        clipped = clipped_gradient(
            module, losses_of, X[part], y[part], 0.3, method=method
        )
        added = sum(g.double().square().sum() for g in clipped.gradients.values())
        assert added.sqrt() <= 0.3
        if clipped.norms < 0.299:
            torch.testing.assert_close(added.sqrt(), clipped.norms[0].double())


@pytest.mark.parametrize("method", ["layers", "vmap"])
@pytest.mark.parametrize("case", ["MLP", "ConvNet", "wide", "words"])
def test_a_gradient_that_is_not_finite_counts_as_zero(case, method):
    module, X, y = batch(*BY_LAYERS[case])
    kept = [0, 1, 3, 4, 5]
    expected = clipped_gradient(module, losses_of, X[kept], y[kept], 0.5, method=method)

    def relabelled(outputs, y):
        return losses_of(outputs, y % 7) * torch.where(y == 9, torch.inf, 1.0)

    y[2] = 9
    clipped = clipped_gradient(module, relabelled, X, y, 0.5, method=method)
    assert not clipped.norms[2].isfinite()
    for name, gradient in clipped.gradients.items():
        torch.testing.assert_close(gradient, expected.gradients[name])


@pytest.mark.parametrize("case", ["ConvNet", "words"])
@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_chunks_change_nothing(case, method):
    module, X, y = batch(*BY_LAYERS[case])
    whole = clipped_gradient(module, losses_of, X, y, 0.5, method=method)
    parts = clipped_gradient(module, losses_of, X, y, 0.5, method=method, chunk_size=4)
    assert parts.method == whole.method
    for name, gradient in parts.gradients.items():
        torch.testing.assert_close(gradient, whole.gradients[name])
    torch.testing.assert_close(parts.norms, whole.norms)
    torch.testing.assert_close(parts.outputs, whole.outputs)


def test_an_empty_batch_has_gradient_zero_and_decides_nothing():
    module, X, y = batch(*BY_LAYERS["ConvNet"])
    clipped = clipped_gradient(module, losses_of, X[:0], y[:0], 1.0)
    assert clipped.method == "auto" and len(clipped.losses) == 0
    assert {*clipped.gradients} == {n for n, _ in module.named_parameters()}
    assert not any(g.any() for g in clipped.gradients.values())
    assert clipped_gradient(module, losses_of, X[:1], y[:1], 1.0).method == "auto"


def test_frozen_parameters_are_left_out():
    module, X, y = batch(*BY_LAYERS["ConvNet"])
    first, last = module.features[0], module.head[-1]
    first.requires_grad_(False)
    last.weight.requires_grad_(False)
    clipped = clipped_gradient(module, losses_of, X, y, 0.5)
    assert clipped.method == "layers"
    assert "features.0.weight" not in clipped.gradients
    assert (
        "head.2.weight" not in clipped.gradients and "head.2.bias" in clipped.gradients
    )
    assert_close(clipped, module, X, y, 0.5)


@pytest.mark.parametrize(
    "mix",
    [
        lambda X: X - X.mean(0),
        lambda X: X.cumsum(0),
        lambda X: X + X.roll(1, 0),
        lambda X: X.flip(0),
    ],
)
def test_samples_that_affect_each_other_are_refused(mix):
    class Mixing(Shared):
        def forward(self, X):
            return self.output(mix(self.layer(X)))

    module, X, y = batch(Mixing, (8,))
    with pytest.raises(ValueError, match="affect each other"):
        clipped_gradient(module, losses_of, X, y, 1.0)


def test_an_input_changed_in_place_is_not_taken_by_layers():
    class Careless(Shared):
        def forward(self, X):
            hidden = X * 1.0
            out = self.layer(hidden)
            hidden.zero_()
            return self.output(out)

    module, X, y = batch(Careless, (8,))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        clipped_gradient(module, losses_of, X, y, 1.0)


def test_a_module_may_change_its_batch_in_place():
    class InPlace(Shared):
        def forward(self, X):
            return super().forward(X.sub_(1.0))

    module, X, y = batch(InPlace, (8,))
    X_before = X.clone()
    clipped = clipped_gradient(module, losses_of, X, y, 1.0)
    assert torch.equal(X, X_before)
    assert_close(clipped, module, X, y, 1.0)


def test_dropout_draws_a_mask_a_sample():
    module = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    X, y = torch.ones(8, 4), torch.zeros(8, dtype=torch.int64)
    for method in ("auto", "vmap"):
        clipped = clipped_gradient(module, losses_of, X, y, 1.0, method=method)
        assert len(clipped.norms.unique()) == 8


def test_no_hook_stays():
    module, X, y = batch(*BY_LAYERS["ConvNet"])
    before = pickle.dumps(module)
    clipped_gradient(module, losses_of, X, y, 1.0)
    with pytest.raises(RuntimeError):
        clipped_gradient(module, losses_of, X[:, :1], y, 1.0)
    assert pickle.dumps(module) == before
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    for case in ("ConvNet", "ResNet20", "wide", "Conv3d", "words, padded"):
        module, X, y = batch(*BY_LAYERS[case])
        here = clipped_gradient(module, losses_of, X, y, 0.5)
        there = clipped_gradient(module.cuda(), losses_of, X.cuda(), y.cuda(), 0.5)
        for name, gradient in there.gradients.items():
            torch.testing.assert_close(
                gradient.cpu(), here.gradients[name], rtol=1e-2, atol=1e-3
            )
