"""The objective against its formulas, batched and one by one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.inversion import (
    BatchNormStatistics,
    SquaredNorm,
    TotalVariation,
    client_update,
)
from skpoison.inversion import _objective as objectives
from skpoison.inversion._client import Client
from skpoison.inversion._network import first_linear, has_kinks
from skpoison.inversion._objective import Objective, feature_term
from skpoison.models import MLP, ConvNet, LeNet, ResNet20

SHAPE = (1, 8, 8)


def setting(n_samples=2, n_candidates=3, net=None):
    net = LeNet(SHAPE, 5).double() if net is None else net
    rng = np.random.RandomState(0)
    X = torch.from_numpy(rng.rand(n_samples, *SHAPE))
    y = torch.arange(n_samples) % 5
    z = torch.from_numpy(rng.rand(n_candidates, n_samples, *SHAPE))
    return net, X, y, z


def naive(net, z, y, target, loss):
    """Return the mismatch of one candidate from flat vectors."""
    found = client_update(net, z, y)
    u = torch.cat([v.flatten() for v in found.values()])
    t = torch.cat([v.flatten() for v in target.values()])
    if loss == "cosine":
        return float(1 - F.cosine_similarity(u, t, dim=0))
    return float(((u - t) ** 2).sum() / (t**2).sum())


@pytest.mark.parametrize("loss", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_candidates", [1, 3])
def test_mismatch_is_the_formula(loss, n_candidates):
    net, X, y, z = setting(n_candidates=n_candidates)
    target = client_update(net, X, y)
    objective = Objective(
        Client(net), target, loss=loss, terms=[], shape=SHAPE, n_samples=2
    )
    total, mismatch = objective(z, y.expand(n_candidates, -1))
    expected = [naive(net, one, y, target, loss) for one in z]
    np.testing.assert_allclose(mismatch.detach().numpy(), expected, rtol=1e-10)
    assert torch.equal(total, mismatch)
    truth, _ = objective(X[None], y[None])
    assert abs(truth.item()) < 1e-14
    assert objective.residual(X, y) < 1e-14


def test_scale_of_the_gradient_does_not_matter():
    net, X, y, z = setting()
    net = net.float()
    target = client_update(net, X, y)
    values = []
    for factor in (1.0, 1e-25):  # whose square is no number in float32
        scaled = {n: factor * t.double() for n, t in target.items()}
        objective = Objective(
            Client(net), scaled, loss="cosine", terms=[], shape=SHAPE, n_samples=2
        )
        values.append(objective(z.float(), y.expand(3, -1))[0].detach())
    assert torch.isfinite(values[1]).all()


def test_groups_restarts_and_single_runs_agree(monkeypatch):
    net, X, y, z = setting(n_candidates=5)
    terms = [(0.1, *TotalVariation().bind(net))]
    objective = Objective(
        Client(net), client_update(net, X, y), loss="cosine", terms=terms, shape=SHAPE,
        n_samples=2,
    )  # fmt: skip
    assert objective.group >= 5

    def labels(logits, n):
        return y.expand(n, -1)

    whole = objective.gradients([z], labels)
    objective.group = 2
    parts = objective.gradients([z], labels)
    single = [objective.gradients([z[i : i + 1]], labels) for i in range(5)]
    for k in (0, 1):
        torch.testing.assert_close(whole[k], parts[k])
        torch.testing.assert_close(whole[k], torch.cat([s[k] for s in single]))
    torch.testing.assert_close(whole[2][0], parts[2][0])
    torch.testing.assert_close(whole[2][0], torch.cat([s[2][0] for s in single]))
    monkeypatch.setattr(objectives, "_MEMORY", 1)
    assert (
        Objective(
            Client(net), client_update(net, X, y), loss="cosine", terms=[],
            shape=SHAPE, n_samples=2,
        ).group
        == 1
    )  # fmt: skip


def test_gradient_by_finite_differences():
    net, X, y, z = setting(n_candidates=2, net=MLP((64,), 5).double())
    X, z = X.flatten(1), z.flatten(2)
    target = client_update(net, X, y)
    client = Client(net)
    terms = [
        (0.3, *SquaredNorm().bind(net)),
        (0.7, *feature_term(client, target, (64,), 2)),
    ]
    objective = Objective(
        client, target, loss="cosine", terms=terms, shape=(64,), n_samples=2
    )

    def labels(logits, n):
        return y.expand(n, -1)

    _, _, (gradient,) = objective.gradients([z], labels)
    direction = torch.randn_like(z)
    ends = [
        objective.gradients([z + sign * 1e-6 * direction], labels)[0]
        for sign in (1, -1)
    ]
    expected = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(
        (gradient * direction).sum((1, 2)), expected, rtol=1e-5, atol=1e-8
    )


def test_total_variation_in_any_number_of_channels():
    rng = np.random.RandomState(0)
    for shape in [(2, 3, 1, 4, 5), (2, 3, 3, 4, 5), (2, 3, 4, 5)]:
        z = rng.rand(*shape)
        expected = [
            abs(np.diff(one, axis=-1)).mean() + abs(np.diff(one, axis=-2)).mean()
            for one in z
        ]
        found = TotalVariation().value(torch.from_numpy(z), [])
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm_statistics(mode):
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
        nn.Linear(108, 5), nn.BatchNorm1d(5),
    ).double()  # fmt: skip
    _, X, y, z = setting(n_samples=4, net=net)
    net(X)
    net.eval()
    client = Client(net, batch_norm=mode)
    objective = Objective(
        client,
        client_update(net, X, y, batch_norm=mode),
        loss="cosine",
        terms=[(2.0, *BatchNormStatistics().bind(net))],
        shape=SHAPE,
        n_samples=4,
    )
    total, mismatch = objective(z, y.expand(3, -1))
    for k in range(3):
        expected, x = 0.0, z[k]
        for layer in net:
            if hasattr(layer, "running_mean"):
                axes = [a for a in range(x.ndim) if a != 1]
                mean, var = x.mean(axes), x.var(axes, correction=0)
                expected += (
                    (mean - layer.running_mean) ** 2 / layer.running_var
                ).mean()
                expected += ((var / layer.running_var - 1) ** 2).mean()
                if mode == "train":
                    x = F.batch_norm(x, None, None, layer.weight, layer.bias, True)
                    continue
            x = layer(x)
        found = float(total[k] - mismatch[k])
        assert found == pytest.approx(2 * expected.item(), rel=1e-9)
    with pytest.raises(ValueError, match="no batch normalisation"):
        BatchNormStatistics().bind(MLP((4,), 2))


@pytest.mark.parametrize("n_samples", [1, 3])
def test_feature_term_is_zero_at_the_truth_alone(n_samples):
    net, X, y, z = setting(n_samples=n_samples)
    target, client = client_update(net, X, y), Client(net)
    names, value = feature_term(client, target, SHAPE, n_samples)
    assert names == ["linear"]

    def at(z):
        features = net.features(z.flatten(0, 1))
        return value(z, [features.reshape(*z.shape[:2], -1)])

    assert at(X[None]).item() < 1e-16
    assert at(X.flip(0)[None]).item() < 1e-16  # the order can't be told
    assert (at(z) > 1e-5).all()
    if n_samples == 1:
        true, other = net.features(X)[0], net.features(z[0])[0]
        expected = ((other - true) ** 2).sum() / (true**2).sum()
        torch.testing.assert_close(at(z)[0], expected)


def test_feature_term_where_the_rank_hides_a_sample():
    net, X, y, _ = setting(n_samples=3)
    client = Client(net)
    twice = X[[0, 1, 1]]  # two rows that leave one trace
    assert (
        feature_term(client, client_update(net, twice, y[[0, 1, 1]]), SHAPE, 3) is None
    )
    noisy = {
        n: g + 1e-4 * torch.randn_like(g) for n, g in client_update(net, X, y).items()
    }
    assert feature_term(client, noisy, SHAPE, 3) is None
    many = client_update(net, torch.rand(8, *SHAPE).double(), torch.arange(8) % 5)
    assert feature_term(client, many, SHAPE, 8) is None
    steps = Client(net, update="weights", local_steps=2)
    assert feature_term(steps, many, SHAPE, 1) is None


def test_first_linear():
    assert first_linear(Client(LeNet(SHAPE, 5)), SHAPE) == "linear"
    assert first_linear(Client(MLP((6,), 2)), (6,)) == "layers.0"
    assert first_linear(Client(nn.Linear(6, 2)), (6,)) == ""
    assert first_linear(Client(nn.Linear(6, 2, bias=False)), (6,)) is None
    shared = nn.Linear(6, 6)
    assert first_linear(Client(nn.Sequential(shared, nn.ReLU(), shared)), (6,)) is None


def test_kinks_are_seen_whatever_they_are_written_as():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, X):
            return self.layer(X).clamp_min(0)

    assert has_kinks(Client(Functional()), (6,))
    assert has_kinks(Client(ConvNet(SHAPE, 5)), SHAPE)
    assert has_kinks(Client(ResNet20(SHAPE, 5).eval()), SHAPE)
    assert has_kinks(Client(LeNet(SHAPE, 5, activation="relu")), SHAPE)
    assert not has_kinks(Client(LeNet(SHAPE, 5)), SHAPE)
    assert not has_kinks(Client(nn.Sequential(nn.Linear(6, 2), nn.GELU())), (6,))
