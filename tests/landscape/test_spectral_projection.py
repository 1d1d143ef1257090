"""Projections by dense matrices, and the callback in training."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit
from torch import nn

from skpoison.evasion import AdversarialClassifier
from skpoison.landscape import (
    SpectralProjection,
    conv_singular_values,
    effective_rank,
    rank_report,
)
from skpoison.landscape._operators import Circular, Matrix
from skpoison.landscape._projection import projected
from skpoison.models import TorchClassifier


def kernel(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def circular(n, stride=1, dilation=1, groups=1):
    return Circular((n, n), (stride,) * 2, (dilation,) * 2, groups)


CUTS = {
    "min": lambda s, limit: np.where(s < limit, 0, s),
    "max": lambda s, limit: np.minimum(s, limit),
}


def sorted_values(weight, n, **options):
    values, times = conv_singular_values(weight, n, **options)
    return np.sort(np.repeat(values, times, axis=0).ravel())


@pytest.mark.parametrize("mode", CUTS)
@pytest.mark.parametrize(
    "n, shape, options",
    [
        (4, (3, 2, 4, 4), {}),
        (5, (2, 3, 5, 5), {}),
        (4, (2, 2, 4, 4), {"stride": 2}),
        (5, (4, 2, 5, 5), {"dilation": 2, "groups": 2}),
        (3, (2, 2, 5, 4), {}),
    ],
    ids=str,
)
def test_kernels_as_large_as_the_image_are_projected_exactly(mode, n, shape, options):
    weight = kernel(*shape)
    before = sorted_values(weight, n, **options)
    limit = float(np.median(before)) + 1e-3
    found = projected(weight, circular(n, **options), mode, limit)
    after = sorted_values(found, n, **options)
    np.testing.assert_allclose(after, np.sort(CUTS[mode](before, limit)), atol=1e-10)
    again = projected(found, circular(n, **options), mode, limit * (1 - 1e-9))
    np.testing.assert_allclose(again, found, atol=1e-8)


@pytest.mark.parametrize("mode", CUTS)
def test_small_kernels_are_the_nearest_operator_cut_to_their_support(mode):
    weight, n, limit = kernel(3, 2, 3, 3), 5, 4.0
    dense = []
    for pixel in torch.eye(2 * n * n, dtype=torch.float64).reshape(-1, 1, 2, n, n):
        image = nn.functional.pad(pixel, (0, 2, 0, 2), mode="circular")
        dense.append(nn.functional.conv2d(image, weight).flatten())
    dense = torch.stack(dense, 1).numpy()
    left, values, right = np.linalg.svd(dense, full_matrices=False)
    cut = (left * CUTS[mode](values, limit)) @ right
    # output pixel (0, 0) reads the kernel off the first rows of the input
    expected = cut.reshape(3, n, n, 2, n, n)[:, 0, 0, :, :3, :3]
    found = projected(weight, circular(n), mode, limit)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_alternations_come_closer_to_the_threshold():
    weight = kernel(6, 6, 3, 3)
    norms = [
        sorted_values(projected(weight, circular(8), "max", 3, n_alternations=k), 8)[-1]
        for k in (1, 5, 40)
    ]
    assert sorted_values(weight, 8)[-1] > norms[0] > norms[1] > norms[2] >= 3 - 1e-12
    assert norms[2] < 3.05


@pytest.mark.parametrize("mode", CUTS)
def test_matrices_and_reshaped_kernels(mode):
    for weight in (kernel(6, 4), kernel(5, 2, 3, 3)):
        found = projected(weight, Matrix(), mode, 0.6, relative=True)
        values = np.linalg.svd(weight.flatten(1), compute_uv=False)
        expected = CUTS[mode](values, 0.6 * values[0])
        after = np.linalg.svd(found.flatten(1), compute_uv=False)
        np.testing.assert_allclose(after, np.sort(expected)[::-1], atol=1e-12)
    single = projected(weight.float(), Matrix(), mode, 0.6, relative=True)
    assert single.dtype == torch.float32


@pytest.mark.parametrize("mode", CUTS)
@pytest.mark.parametrize("form", ["fft", "reshaped"])
def test_pull_is_the_gradient_of_half_the_squared_distance(mode, form):
    weight, n, limit = kernel(3, 2, 3, 3), 5, 3.0
    blocks = circular(n) if form == "fft" else Matrix()
    pull = weight - projected(weight, blocks, mode, limit)
    weight.requires_grad_()
    values = torch.linalg.svdvals(blocks.blocks(weight))
    gap = values if mode == "min" else values - limit
    gap = gap * (values < limit if mode == "min" else values > limit)
    times = blocks.multiplicity()
    loss = 0.5 * (times[..., None] * gap**2).sum() / times.sum()
    (slope,) = torch.autograd.grad(loss, weight)
    np.testing.assert_allclose(pull.detach(), slope, atol=1e-10)


X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)[:400].reshape(-1, 1, 8, 8)
y = y[:400]


def network(n_outputs):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, n_outputs),
    )


def trained(*callbacks, learner=TorchClassifier, **params):
    params = {"max_epochs": 3, "lr": 0.01} | params
    clf = learner(
        network, callbacks=list(callbacks), device="cpu", random_state=0, **params
    )
    return clf.fit(X, y)


def ranks(clf):
    report = rank_report(clf, X)
    return dict(zip(report.name, report.rank_share, strict=True))


class Seen(Callback):
    """Callback that keeps the weights of each epoch, before others change them."""

    def on_train_begin(self, net, **kwargs):
        self.weights_ = []

    def on_epoch_end(self, net, **kwargs):
        state = net.module_.state_dict()
        self.weights_.append({k: v.clone() for k, v in state.items()})


@pytest.fixture(scope="module")
def plain():
    return trained(("rank", SpectralProjection(at_epochs=())))


@pytest.mark.parametrize("mode, threshold", [("min", 0.8), ("max", 0.6)])
def test_weights_are_projected_after_the_epochs_named(plain, mode, threshold):
    rank = SpectralProjection(mode, threshold, at_epochs=[3])
    clf = trained(("seen", Seen()), ("rank", rank))
    callbacks = dict(clf.net_.callbacks_)
    before, after = callbacks["seen"].weights_[-1], clf.module_.state_dict()
    forms = {"2": circular(8), "4": circular(8, stride=2)}
    for name, value in after.items():
        layer = name.removesuffix(".weight")
        if layer in forms:
            value = value.clone()
            expected = projected(before[name], forms[layer], mode, threshold)
            assert torch.equal(value, expected)
            assert not torch.allclose(value, before[name], atol=1e-3)
        else:  # the first layer, the linear one and the biases
            assert torch.equal(value, before[name])
    assert callbacks["rank"].input_sizes_ == {"2": (8, 8), "4": (8, 8)}
    was, now = ranks(plain), ranks(clf)
    for name in forms:
        assert now[name] < was[name] if mode == "min" else now[name] > was[name]


def test_history_holds_the_mean_rank(plain):
    rank = dict(plain.net_.callbacks_)["rank"]
    found = {name: ranks(plain)[name] for name in ("2", "4")}
    assert rank.effective_ranks_ == pytest.approx(found, rel=1e-12)
    recorded = plain.history_[:, "effective_rank"]
    assert len(recorded) == 3
    assert abs(recorded[-1] - np.mean(list(found.values()))) < 1e-12
    # to measure changes nothing
    other = trained()
    for ours, theirs in zip(
        plain.module_.parameters(), other.module_.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("refresh", ["epoch", 1, 5])
@pytest.mark.parametrize("mode", CUTS)
def test_the_penalty_pulls(plain, mode, refresh):
    rank = SpectralProjection(mode, 0.4, coef=3.0, refresh=refresh)
    found, was = ranks(trained(("rank", rank))), ranks(plain)
    for name in ("2", "4"):
        change = found[name] - was[name]
        assert change < -0.01 if mode == "min" else change > 0.01


def test_one_step_adds_the_pull_to_the_gradient():
    class Gradients(Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            named = net.module_.named_parameters()
            self.found_ = {n: (p.detach().clone(), p.grad.clone()) for n, p in named}

    rank = SpectralProjection("max", 0.3, coef=0.7, layers="all", operator="reshaped")
    step = {"max_epochs": 1, "batch_size": 400}
    with_rank = trained(("rank", rank), ("all", Gradients()), **step)
    without = trained(("all", Gradients()), **step)
    ours, theirs = (dict(c.net_.callbacks_)["all"].found_ for c in (with_rank, without))
    for name, (weight, gradient) in ours.items():
        pull = torch.zeros_like(weight)
        if name.endswith("weight") and name != "0.weight":
            pull = 0.7 * (weight - projected(weight, Matrix(), "max", 0.3))
            assert pull.abs().max() > 1e-3
        torch.testing.assert_close(gradient, theirs[name][1] + pull)


def test_a_shared_weight_is_pulled_once():
    def tied(n_outputs):
        module = network(n_outputs)
        module[2] = nn.Conv2d(4, 4, 3, padding=1)
        module[4] = nn.Conv2d(4, 4, 3, padding=1)
        module[4].weight = module[2].weight
        module[7] = nn.Linear(256, n_outputs)
        return module

    class Gradient(Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            weight = net.module_[2].weight
            self.found_ = weight.detach().clone(), weight.grad.clone()

    found = []
    for callbacks in ([("rank", SpectralProjection("max", 0.3, coef=0.7))], []):
        clf = TorchClassifier(
            tied, max_epochs=1, batch_size=400, device="cpu", random_state=0,
            callbacks=[*callbacks, ("seen", Gradient())],
        ).fit(X, y)  # fmt: skip
        found.append(dict(clf.net_.callbacks_)["seen"].found_)
    weight, gradient = found[0]
    pull = 0.7 * (weight - projected(weight, circular(8), "max", 0.3))
    torch.testing.assert_close(gradient, found[1][1] + pull)


def test_first_layer_linear_layers_and_frozen_ones():
    both = SpectralProjection("max", 0.2, at_epochs=[1], skip_first=False, layers="all")
    seen = trained(("rank", both), max_epochs=1)
    assert list(dict(seen.net_.callbacks_)["rank"].input_sizes_) == ["0", "2", "4", "7"]
    linear = seen.module_[7].weight.detach()
    assert torch.linalg.svdvals(linear).max() < 0.2 + 1e-6
    only = SpectralProjection("max", 0.2, at_epochs=[1], layers="linear")
    clf = trained(("rank", only), max_epochs=1)
    # the layer that meets the input is no linear one: none is left out
    assert list(dict(clf.net_.callbacks_)["rank"].input_sizes_) == ["7"]
    module = network(10)
    module[2].weight.requires_grad_(False)
    rank = SpectralProjection("max", 0.1, at_epochs=[1], coef=1.0)
    frozen = TorchClassifier(
        module, max_epochs=1, callbacks=[("rank", rank)], device="cpu", random_state=0
    ).fit(X, y)
    assert torch.equal(frozen.module_[2].weight, module[2].weight)
    assert not torch.equal(frozen.module_[4].weight, module[4].weight)


def test_cloned_pickled_searched_split_and_fitted_again():
    rank = SpectralProjection("max", 0.6, at_epochs=(2,), coef=0.1)
    assert clone(rank).get_params() == rank.get_params()
    clf = trained(("rank", rank), train_split=ValidSplit(4), max_epochs=2)
    assert not hasattr(rank, "input_sizes_")
    twin = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(twin.predict_proba(X), clf.predict_proba(X))
    assert dict(twin.net_.callbacks_)["rank"].effective_ranks_
    again = clone(clf).fit(X, y)
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    search = GridSearchCV(
        clone(clf),
        {"callbacks__rank__threshold": [0.2, 5.0]},
        cv=2,
        refit=False,
    ).fit(X[:100], y[:100])
    assert (search.cv_results_["mean_test_score"] > 0).all()
    shares = [
        clone(clf).set_params(callbacks__rank__threshold=t).fit(X, y).history_
        for t in (0.2, 5.0)
    ]
    assert shares[0][-1, "effective_rank"] > shares[1][-1, "effective_rank"] + 0.1


def test_no_epochs_and_adversarial_training():
    empty = trained(("rank", SpectralProjection()), max_epochs=0)
    assert dict(empty.net_.callbacks_)["rank"].effective_ranks_ == {}
    rank = SpectralProjection("max", 0.3, at_epochs=[1])
    robust = trained(
        ("rank", rank), learner=AdversarialClassifier, attack="fast", max_epochs=1
    )
    assert robust.history_[-1, "effective_rank"] > 0.3


def test_global_generators_stay():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained(("rank", SpectralProjection("max", 0.5, coef=1.0)), max_epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"mode": "both"}, ValueError, "mode must be one of"),
        ({"threshold": 0}, ValueError, "threshold must be > 0"),
        ({"threshold": "a"}, TypeError, "threshold must be a number"),
        ({"relative": True}, ValueError, "threshold must be given"),
        ({"relative": True, "threshold": 2}, ValueError, "at most 1"),
        ({"coef": -1}, ValueError, "coef must be >= 0"),
        ({"layers": "first"}, ValueError, "layers must be one of"),
        ({"operator": "dense"}, ValueError, "operator must be one of"),
        ({"n_alternations": 0}, ValueError, "n_alternations must be >= 1"),
        ({"refresh": 0}, ValueError, "refresh must be >= 1"),
        ({"at_epochs": 3}, TypeError, "at_epochs must be None or a list"),
        ({"at_epochs": [0]}, ValueError, "each number in at_epochs must be >= 1"),
        ({}, ValueError, "after the last epoch, 3"),
    ],
    ids=str,
)
def test_what_is_refused_before_training(params, error, message):
    with pytest.raises(error, match=message):
        trained(("rank", SpectralProjection(**params)))


def test_networks_without_such_layers():
    rank = SpectralProjection(at_epochs=[1])
    flat = X.reshape(len(X), -1)
    clf = TorchClassifier(max_epochs=1, callbacks=[("rank", rank)], device="cpu")
    with pytest.raises(ValueError, match="layers='conv': MLP has no such layer after"):
        clf.fit(flat, y)
    module = network(10)
    nn.utils.parametrizations.spectral_norm(module[2])
    clf = clone(clf).set_params(module=module)
    with pytest.raises(ValueError, match="weight of 2 is computed from other"):
        clf.fit(X, y)


@pytest.mark.gpu
def test_on_a_gpu():
    rank = SpectralProjection("max", 0.5, at_epochs=[1], coef=0.1)
    clf = TorchClassifier(
        network, max_epochs=2, callbacks=[("rank", rank)], device="cuda"
    ).fit(X, y)
    assert next(clf.module_.parameters()).is_cuda
    assert clf.history_[-1, "effective_rank"] > 0


def test_the_measured_rank_is_that_of_the_definition(plain):
    values, times = conv_singular_values(plain.module_[4].weight, 8, stride=2)
    expected = effective_rank(values, times, normalize=True)
    found = dict(plain.net_.callbacks_)["rank"].effective_ranks_["4"]
    assert abs(found - expected) < 1e-12
