"""Residual networks without batch normalisation, without shortcuts, and small ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.models import ResNet18, ResNet20

SHAPE = (2, 9, 8)
SMALL = {
    "ResNet18": (ResNet18, {"width": 3}),
    "ResNet20": (ResNet20, {"width": 3}),
    "ResNet8": (ResNet20, {"width": 4, "n_blocks": 1}),
}
OPTIONS = [("batch", True), ("batch", False), ("none", True), ("none", False)]
OPTIONS.append(("fixup", True))


def make(name, **options):
    module, settings = SMALL[name]
    torch.manual_seed(0)
    return module(SHAPE, 5, **settings, **options)


def count(net, kind):
    return sum(isinstance(part, kind) for part in net.modules())


def convolutions(net):
    return [part for part in net.modules() if isinstance(part, nn.Conv2d)]


@pytest.fixture
def X():
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("normalization, skip", OPTIONS)
def test_all_trainable_parameters_take_part(name, normalization, skip, X):
    net = make(name, normalization=normalization, skip=skip)
    if normalization == "fixup":  # the start cuts branches off
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1)
    out = net(X)
    assert out.shape == (4, 5)
    F.cross_entropy(out, torch.arange(4)).backward()
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name, n_convs, n_projections",
    [("ResNet18", 17, 3), ("ResNet20", 19, 0), ("ResNet8", 7, 0)],
)
def test_numbers_of_layers(name, n_convs, n_projections):
    full = make(name)
    assert len(convolutions(full)) == n_convs + n_projections
    assert count(full, nn.BatchNorm2d) == n_convs + n_projections
    plain = make(name, skip=False)
    assert len(convolutions(plain)) == count(plain, nn.BatchNorm2d) == n_convs
    for normalization in ("none", "fixup"):
        net = make(name, normalization=normalization)
        assert count(net, nn.BatchNorm2d) == 0 and not [*net.buffers()]
        convs = convolutions(net)
        assert len(convs) == n_convs + n_projections
        biases = [conv.bias is not None for conv in convs]
        assert set(biases) == {normalization == "none"}


def test_weights_have_the_names_of_published_ones():
    def names(n_layers, n_blocks, projected):
        yield from norm("conv1", "bn1")
        for stage in range(1, n_layers + 1):
            for j in range(n_blocks):
                block = f"layer{stage}.{j}"
                for i in (1, 2):
                    yield from norm(f"{block}.conv{i}", f"{block}.bn{i}")
                if projected and stage > 1 and j == 0:
                    yield from norm(f"{block}.shortcut.0", f"{block}.shortcut.1")
        yield from ("linear.weight", "linear.bias")

    def norm(conv, bn):
        yield f"{conv}.weight"
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{bn}.{part}"
        yield f"{bn}.num_batches_tracked"

    assert list(make("ResNet20").state_dict()) == [*names(3, 3, False)]
    assert list(make("ResNet18").state_dict()) == [*names(4, 2, True)]


@pytest.mark.parametrize("name", SMALL)
def test_without_shortcuts_layers_follow_each_other(name, X):
    net = make(name, normalization="none", skip=False)
    expected = X
    for conv in convolutions(net):
        expected = F.relu(conv(expected))
    torch.testing.assert_close(net(X), net.linear(expected.mean((2, 3))))


@pytest.mark.parametrize("name", SMALL)
def test_zero_branches_leave_the_shortcut_alone(name, X):
    net = make(name, normalization="none")
    with torch.no_grad():
        for part, values in net.named_parameters():
            if ".conv2." in part:
                values.zero_()
    expected = F.relu(net.conv1(X))
    for stage in range(net.n_layers):
        for block in getattr(net, f"layer{stage + 1}"):
            expected = F.relu(block.shortcut(expected))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(net(X), net.linear(expected.mean((2, 3))))


def test_a_shortcut_without_weights_takes_every_second_pixel(X):
    net = make("ResNet8")
    wide = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    found = net.layer2[0].shortcut(wide)
    assert found.shape == (2, 8, 3, 3)
    assert torch.equal(found[:, 2:6], wide[:, :, ::2, ::2])
    assert found[:, :2].abs().sum() == found[:, 6:].abs().sum() == 0


@pytest.mark.parametrize("name, n_branches", [("ResNet18", 8), ("ResNet20", 9)])
def test_fixup_starts_as_published(name, n_branches, X):
    module = SMALL[name][0]
    torch.manual_seed(0)
    net = module((3, 8, 8), 5, width=16, normalization="fixup")
    assert net(torch.ones(2, 3, 8, 8)).abs().max() == 0
    blocks = [
        block for i in range(net.n_layers) for block in getattr(net, f"layer{i + 1}")
    ]
    assert len(blocks) == n_branches
    for block in blocks:
        first, second = block.conv1[1].weight, block.conv2[1].weight
        he = (2 / first[0].numel()) ** 0.5
        assert float(first.detach().std()) == pytest.approx(
            he * n_branches**-0.5, rel=0.05
        )
        assert second.abs().max() == 0
        assert block.bn2.weight.item() == 1
    stem = net.conv1.weight.detach()
    assert float(stem.std()) == pytest.approx((2 / 27) ** 0.5, rel=0.1)
    scalars = [p.item() for p in net.parameters() if p.shape == (1,)]
    # four shifts and a factor a branch, the stem's and the output's shift, and a
    # shift before each projection
    n_projections = 3 if module is ResNet18 else 0
    assert len(scalars) == 5 * n_branches + 2 + n_projections
    assert sorted(set(scalars)) == [0, 1] and sum(scalars) == n_branches


@pytest.mark.parametrize("normalization, skip", [("fixup", True), ("none", False)])
def test_nets_without_normalization_train(normalization, skip):
    drawn = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 4
    X = torch.randn(64, 1, 8, 8, generator=drawn)
    X += 2 * torch.randn(4, 1, 8, 8, generator=drawn)[y]
    torch.manual_seed(0)
    net = ResNet20(
        (1, 8, 8), 4, width=4, n_blocks=1, normalization=normalization, skip=skip
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(X), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert (net(X).argmax(1) == y).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"normalization": "layer"}, "normalization must be one of 'batch', 'none'"),
        ({"normalization": None}, "normalization must be one of"),
        ({"normalization": "fixup", "skip": False}, "nothing passes with skip=False"),
        ({"width": 0}, "width must be >= 1, got 0"),
    ],
)
@pytest.mark.parametrize("module", [ResNet18, ResNet20])
def test_bad_options_are_named(module, settings, message):
    with pytest.raises(ValueError, match=message):
        module(SHAPE, 5, **settings)


def test_words_for_skip_are_refused():
    with pytest.raises(TypeError, match="skip must be True or False, got 'no'"):
        ResNet20(SHAPE, 5, skip="no")


def test_bad_numbers_of_blocks_are_named():
    with pytest.raises(ValueError, match="n_blocks must be >= 1, got 0"):
        ResNet20(SHAPE, 5, n_blocks=0)
    with pytest.raises(TypeError, match="n_blocks must be an int, got 1.5"):
        ResNet20(SHAPE, 5, n_blocks=1.5)
