"""The report's rows are what the functions say of each layer."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from skpoison.landscape import (
    conv_singular_values,
    effective_rank,
    operator_norm,
    rank_report,
)
from skpoison.models import ConvNet, TorchClassifier


class Reordered(nn.Module):
    """Layers that run in another order than they are listed; one never does."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4 * 4 * 4, 3)
        self.second = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.unused = nn.Linear(2, 2)
        self.first = nn.Conv2d(1, 2, 3, padding="same", padding_mode="circular")
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)

    def forward(self, X):
        hidden = self.drop(self.norm(self.first(X)))
        return self.last(self.second(input=hidden).flatten(1))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Reordered()


def test_rows_of_a_module(module):
    report = rank_report(module, np.zeros((5, 1, 7, 7)), kind="stable")
    assert report.name == ["first", "second", "last"]
    assert report.layer == ["Conv2d", "Conv2d", "Linear"]
    assert report.shape == [(2, 1, 3, 3), (4, 2, 3, 3), (3, 64)]
    assert report.input_size == [(7, 7), (7, 7), ()]
    assert report.approximate.tolist() == [False, True, False]
    # a stride of 2 on 7 pixels leaves 4, as it does on 8
    spectra = [
        conv_singular_values(module.first.weight, 7),
        conv_singular_values(module.second.weight, 8, stride=2),
        conv_singular_values(module.last.weight),
    ]
    for i, (values, times) in enumerate(spectra):
        rank = effective_rank(values, times, kind="stable")
        assert abs(report.effective_rank[i] - rank) < 1e-12
        share = rank / (times.sum() * values.shape[1])
        assert abs(report.rank_share[i] - share) < 1e-12
    norms = [
        operator_norm(module.first, 7),
        operator_norm(module.second, 7),
        operator_norm(module.last),
    ]
    np.testing.assert_allclose(report.operator_norm, norms, rtol=1e-12)


def test_reshaped_kernels(module):
    report = rank_report(module, np.zeros((1, 1, 8, 8)), operator="reshaped")
    expected = effective_rank(
        *conv_singular_values(module.second.weight.detach().flatten(1))
    )
    assert abs(report.effective_rank[1] - expected) < 1e-12
    assert report.approximate.tolist() == [True, True, False]


@pytest.mark.parametrize(
    "layer, size, exact",
    [
        (nn.Conv2d(2, 2, 1), 5, True),
        (nn.Conv2d(2, 2, 1, padding="valid"), 5, True),
        (nn.Conv2d(2, 1, 1, padding=1), 5, False),
        (nn.Conv2d(2, 2, 1, padding=1, padding_mode="replicate"), 5, False),
        (nn.Conv2d(2, 4, 1, stride=2), 6, True),
        (nn.Conv2d(2, 8, 1, stride=2), 5, False),
        (nn.Conv2d(2, 3, 4, padding="same", padding_mode="circular"), 5, True),
        (nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"), 5, False),
        (nn.Conv2d(2, 4, 1, groups=2), 5, True),
        (nn.Conv2d(2, 2, 3, padding=1), 5, False),
        (nn.Conv2d(2, 2, 3, padding="valid"), 5, False),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), 5, True),
        (nn.Conv2d(2, 2, 3, 2, padding=1, padding_mode="circular"), 6, True),
        (nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"), 5, False),
    ],
    ids=str,
)
def test_approximate_means_what_it_says(layer, size, exact):
    report = rank_report(layer, np.zeros((1, 2, size, size)))
    pixels = torch.eye(2 * size * size).reshape(-1, 2, size, size)
    with torch.no_grad():
        image = layer(pixels) - layer(torch.zeros_like(pixels[:1]))
    values = torch.linalg.svdvals(image.flatten(1).T.double())
    share = effective_rank(values, normalize=True)
    norm = report.operator_norm[0]
    assert abs(norm - values[0]) < 1e-6
    assert report.approximate.tolist() == [not exact]
    reshaped = rank_report(layer, np.zeros((1, 2, size, size)), operator="reshaped")
    assert reshaped.approximate.tolist() == [True]
    assert (abs(report.rank_share[0] - share) < 1e-6) == exact


def test_a_fitted_classifier_and_what_stays(module):
    X, y = load_digits(return_X_y=True)
    clf = TorchClassifier(
        ConvNet, input_shape=(1, 8, 8), max_epochs=1, device="cpu", random_state=0
    ).fit(X[:200] / 16, y[:200])
    ours, theirs = (
        rank_report(clf, X[:3] / 16),
        rank_report(clf.module_, X[:1].reshape(1, 1, 8, 8)),
    )
    assert ours.name == theirs.name
    assert np.array_equal(ours.effective_rank, theirs.effective_rank)
    module.train()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    generator = torch.get_rng_state()
    rank_report(module, torch.ones(1, 1, 7, 7))
    assert module.training and module.norm.training
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert not module.first._forward_pre_hooks and module.first.weight.grad is None


def test_a_weight_that_is_computed_is_read_without_training_it(module):
    nn.utils.parametrizations.spectral_norm(module.second)
    module.train()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    report = rank_report(module, np.zeros((1, 1, 7, 7)))
    assert operator_norm(module.second, 7) == report.operator_norm[1]
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    assert module.training and module.second.training


def test_what_is_refused(module):
    X = np.zeros((1, 1, 7, 7))
    with pytest.raises(ValueError, match="kind must be one of"):
        rank_report(module, X, kind="rank")
    with pytest.raises(ValueError, match="operator must be one of"):
        rank_report(module, X, operator="dense")
    with pytest.raises(ValueError, match="Flatten has no linear layer"):
        rank_report(nn.Flatten(), X)
    idle = nn.Flatten()
    idle.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Flatten calls none of its linear layers"):
        rank_report(idle, X)
    with pytest.raises(ValueError, match="X must have shape"):
        rank_report(module, np.zeros((0, 1, 7, 7)))
    with pytest.raises(TypeError, match="expected a classifier or a torch module"):
        rank_report("net", X)


def test_linear_classifiers_of_scikit_learn_have_a_rank_too():
    X, y = load_digits(return_X_y=True)
    clf = LogisticRegression(max_iter=20, C=1e-3).fit(X[:300] / 16, y[:300])
    report = rank_report(clf, X)
    norm = np.linalg.norm(clf.coef_, 2)
    assert report.shape == [(10, 64)]
    assert abs(report.operator_norm[0] - norm) < 1e-10
