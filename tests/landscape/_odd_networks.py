"""Networks with weights that no rule of the tangent kernel covers."""

import torch
from torch import nn
from torch.nn import functional as F

from skpoison.models import MLP


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 3)

    def forward(self, X):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(X)))))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, X):
        return self.last(torch.tanh(self.layer(torch.tanh(self.layer(X)))))


class UsedDirectly(nn.Module):
    """A weight used beside its layer, and scalars as in Fixup."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.bias = nn.Parameter(torch.tensor(0.1))

    def forward(self, X):
        h = self.layer(X + self.bias) * self.scale
        return self.last(torch.tanh(h + F.linear(X, self.layer.weight)))


class FunctionalOnly(nn.Module):
    """The output of the one call of a layer is not used, but its weight is."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, X):
        self.layer(X)
        return self.last(torch.tanh(F.linear(X, self.layer.weight, self.layer.bias)))


class SequenceFirst(nn.Module):
    """Places on the first axis; as many as the rows that are tried."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(3, 4), nn.Linear(8, 3)

    def forward(self, X):
        h = torch.tanh(self.layer(X.view(len(X), 2, 3).transpose(0, 1)))
        return self.last(h.transpose(0, 1).reshape(len(X), -1))


class ChangedLater(nn.Module):
    """What enters a layer with a frozen weight changes after it, which is legal."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.last = nn.Linear(6, 3)
        self.layer.weight.requires_grad_(False)

    def forward(self, X):
        h = X * 2
        out = self.layer(h)
        h.mul_(3)
        return self.last(torch.tanh(self.norm(out) + h))


class InPlaceView(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, X):
        h = self.layer(X.view(len(X), 1, 6))
        h.relu_()
        return self.last(h.view(len(X), 6))


def parametrized():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))


def hooked():
    layer = nn.Linear(6, 6)
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))


def frozen():
    net = MLP((6,), 3, hidden=(8, 8))
    net.layers[0].weight.requires_grad_(False)
    net.layers[2].bias.requires_grad_(False)
    for p in net.layers[4].parameters():
        p.requires_grad_(False)
    return net


def other_layers():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.ConvTranspose2d(1, 2, 2), nn.PReLU(),
        nn.InstanceNorm2d(2, affine=True), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


ODD = {
    "tied": (Tied, 1),
    "called twice": (CalledTwice, 1),
    "used directly": (UsedDirectly, 1),
    "functional": (FunctionalOnly, 1),
    "sequence first": (SequenceFirst, 1),
    "changed later": (ChangedLater, 2),
    "in-place on a view": (InPlaceView, 1),
    "weight norm": (parametrized, 1),
    "hook": (hooked, 1),
    "frozen": (frozen, 2),
    "other layers": (other_layers, 1),
}
