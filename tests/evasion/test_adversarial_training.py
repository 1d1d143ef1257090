"""Training on moved rows: each variant by hand, the contract, and what it gains."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from skpoison.evasion import (
    APGD,
    FGSM,
    PGD,
    AdversarialClassifier,
    MomentumPGD,
    WITCHcraft,
    robust_accuracy,
)
from skpoison.models import LinearModel, TorchClassifier, fit_together
from skpoison.models._net import BatchContext

FAST = {"max_epochs": 3, "device": "cpu", "random_state": 0}
NAMED = ("witchcraft", "pgd", "momentum", "fgsm", "fast", "free")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


class Normalised(torch.nn.Module):
    """Batch normalisation and dropout."""

    def __init__(self, n_features_in, n_classes):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(n_features_in, 32),
            torch.nn.BatchNorm1d(32),
            torch.nn.ReLU(inplace=True),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(32, n_classes),
        )

    def forward(self, X):
        return self.layers(X)


def small_batch(n=12, d=6, n_classes=3, seed=0):
    """Return a network, rows inside the unit box, labels and one-hot targets."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(d, 8), torch.nn.Tanh(), torch.nn.Linear(8, n_classes)
    )
    X, labels = torch.rand(n, d), torch.arange(n) % n_classes
    return net, X, labels, F.one_hot(labels, n_classes).float()


def hook_of(shape=(6,), **params):
    """Return the batch hook of a classifier with some parameters."""
    model = AdversarialClassifier(**params)
    model.input_shape_ = shape
    model._check_parameters()
    return model._batch_hook(None)


def context_of(net, seed=0, step=0):
    return BatchContext(net, 3, torch.Generator().manual_seed(seed), step=step)


def gradient_of(net, x, labels):
    x = x.clone().requires_grad_()
    F.cross_entropy(net(x), labels, reduction="sum").backward()
    net.zero_grad()
    return x.grad


def clip(x, start, eps):
    """Return x in the ball around start and in the unit box."""
    return torch.minimum(torch.maximum(x, start - eps), start + eps).clamp(0, 1)


# ------------------------------------------------------------------- variants by hand


def test_plain_is_projected_gradient_ascent():
    net, X, labels, T = small_batch()
    attack = PGD(eps=0.2, step_size=0.05, max_iter=3, bounds=(0, 1), random_start=False)
    moved, targets = hook_of(attack=attack, warmup=0)(X, T, context_of(net))
    expected = X
    for _ in range(3):
        expected = expected + 0.05 * gradient_of(net, expected, labels).sign()
        expected = clip(expected, X, 0.2)
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)
    assert targets is T


def test_fast_is_one_long_step_from_a_random_start():
    net, X, labels, T = small_batch()
    moved, _ = hook_of(attack="fast", eps=0.2, warmup=0)(X, T, context_of(net, 5))
    draws = torch.rand(12, 7, generator=torch.Generator().manual_seed(5))[:, 1:]
    begin = clip(X + 0.2 * (2 * draws - 1), X, 0.2)
    step = 1.25 * 0.2 * gradient_of(net, begin, labels).sign()
    torch.testing.assert_close(moved, clip(begin + step, X, 0.2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_free_moves_rows_by_the_gradients_of_the_updates(norm, digits):
    """The algorithm as published, on a linear model and plain gradient descent."""
    X, y = (part[:50] for part in digits)  # batches of 20, 20 and 10
    eps, lr, n_replays = 0.3, 0.1, 3
    model = AdversarialClassifier(
        LinearModel,
        attack="free",
        eps=eps,
        norm=norm,
        max_iter=n_replays,
        warmup=0,
        optimizer=torch.optim.SGD,
        lr=lr,
        batch_size=20,
        max_epochs=6,
        iterator_train__shuffle=False,
        device="cpu",
        random_state=0,
    )
    untrained = clone(model).set_params(max_epochs=0).fit(X, y).module_
    model.fit(X, y)
    assert model.n_iter_ == 2

    net, delta = untrained, torch.zeros(20, 64)
    rows, labels = torch.as_tensor(X), torch.as_tensor(y)
    for _ in range(2):
        for batch in (slice(0, 20), slice(20, 40), slice(40, 50)):
            x, t = rows[batch], labels[batch]
            for _ in range(n_replays):
                delta = (x + delta[: len(x)]).clamp(0, 1) - x
                delta.requires_grad_()
                F.cross_entropy(net(x + delta), t).backward()
                with torch.no_grad():
                    for weight in net.parameters():
                        weight -= lr * weight.grad
                net.zero_grad()
                g, delta = delta.grad, delta.detach()
                if norm == "linf":
                    delta = (delta + eps * g.sign()).clamp(-eps, eps)
                else:
                    delta = delta + eps * g / g.norm(dim=1, keepdim=True)
                    delta *= (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1)
            # rows of a smaller batch leave no room for those of the next one
            pad = 20 - len(delta)
            delta = torch.cat([delta, torch.zeros(pad, 64)]) if pad else delta
    for ours, theirs in zip(model.module_.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name, attack",
    [
        ("witchcraft", WITCHcraft(eps=0.2, max_iter=4, bounds=(0, 1))),
        ("pgd", PGD(eps=0.2, max_iter=4, bounds=(0, 1))),
        ("momentum", MomentumPGD(eps=0.2, max_iter=4, bounds=(0, 1))),
        ("fgsm", FGSM(eps=0.2, bounds=(0, 1))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_stands_for_the_attack(name, attack):
    net, X, _, T = small_batch()
    named = hook_of(attack=name, eps=0.2, max_iter=4)
    given = hook_of(attack=attack)
    for step in (0, 7):
        moved = [h(X, T, context_of(net, 1, step))[0] for h in (named, given)]
        assert torch.equal(*moved)
    assert not torch.equal(moved[0], X)


@pytest.mark.parametrize("attack", NAMED)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_stay_within_the_ball_and_the_box(attack, norm):
    net, X, _, T = small_batch()
    hook = hook_of(attack=attack, eps=0.25, norm=norm, max_iter=3)
    for step in range(3):
        moved, _ = hook(X, T, context_of(net, step=step))
        if attack == "free":
            F.cross_entropy(net(moved), T).backward()
        delta = (moved - X).detach()
        size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert size.max() <= 0.25 + 1e-6
        assert moved.min() >= 0 and moved.max() <= 1
    assert size.max() > 0.1


def test_the_radius_grows_over_the_first_updates(digits):
    X, y = (part[:100] for part in digits)
    seen = []

    class Spy(PGD):
        def _plan(self, eps, sample_shape):
            seen.append((float(eps), float(self.step_size)))
            return super()._plan(eps, sample_shape)

    attack = Spy(eps=0.4, step_size=0.1, max_iter=1, bounds=(0, 1))
    model = AdversarialClassifier(attack=attack, warmup=0.5, batch_size=25, **FAST)
    model.fit(X, y)  # 12 updates, in 6 of which the radius grows
    radii, steps = np.transpose(seen[1:])  # the first call checks parameters
    expected = 0.4 * np.minimum(1, np.arange(1, 13) / 6)
    np.testing.assert_allclose(radii, expected)
    np.testing.assert_allclose(steps, expected / 4)


def test_clean_rows_have_their_weight():
    net, X, _, T = small_batch()
    params = {"attack": "fgsm", "eps": 0.2, "warmup": 0}
    moved, _ = hook_of(**params)(X, T, context_of(net))
    hook = hook_of(clean_weight=0.3, **params)
    hook.criterion = torch.nn.CrossEntropyLoss()
    both, targets = hook(X, T, context_of(net))
    assert torch.equal(both, torch.cat([X, moved]))
    found = hook.loss(net(both), targets)
    expected = 0.3 * F.cross_entropy(net(X), T) + 0.7 * F.cross_entropy(net(moved), T)
    torch.testing.assert_close(found, expected)


def test_the_clean_loss_is_the_criterion_given(digits):
    X, y = (part[:200] for part in digits)
    fits = [
        AdversarialClassifier(
            attack="fgsm",
            clean_weight=0.5,
            criterion__label_smoothing=smoothing,
            max_epochs=15,
            device="cpu",
            random_state=0,
        ).fit(X, y)
        for smoothing in (0.0, 0.5)
    ]
    losses = [model.history_[-1]["train_loss"] for model in fits]
    assert losses[1] > losses[0] + 0.3


# --------------------------------------------------------------- the network as it was


@pytest.mark.parametrize("attack", NAMED[:-1])
def test_crafting_leaves_the_network_alone(attack):
    net = Normalised(6, 3).train()
    net.layers[3].eval()  # a callback may have frozen a part
    _, X, _, T = small_batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [part.training for part in net.modules()]
    given = X.clone()
    hook_of(attack=attack)(X, T, context_of(net))
    assert [part.training for part in net.modules()] == modes
    assert all(weight.grad is None for weight in net.parameters())
    assert all(torch.equal(before[n], value) for n, value in net.state_dict().items())
    assert torch.equal(X, given)
    assert not net._forward_pre_hooks


@pytest.mark.parametrize("attack, updates", [("witchcraft", 12), ("free", 16)])
def test_batch_statistics_come_from_updates_alone(attack, updates, digits):
    X, y = (part[:200] for part in digits)
    model = AdversarialClassifier(
        Normalised, attack=attack, max_iter=4, batch_size=50, **FAST
    )
    assert model.fit(X, y).module_.layers[1].num_batches_tracked == updates


def test_free_makes_as_many_updates_as_plain_training_or_a_few_more(digits):
    X, y = (part[:200] for part in digits)
    for max_epochs, n_epochs in ((0, 0), (1, 1), (8, 2), (9, 3)):
        model = AdversarialClassifier(
            attack="free", max_iter=4, max_epochs=max_epochs, device="cpu"
        )
        assert model.fit(X, y).n_iter_ == n_epochs
        assert model.max_epochs == max_epochs


# ------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("attack", ["witchcraft", "free"])
def test_equal_seeds_give_equal_bits(attack, digits):
    X, y = (part[:200] for part in digits)
    model = AdversarialClassifier(Normalised, attack=attack, max_iter=2, **FAST)
    first = model.fit(X, y).predict_proba(X)
    state = torch.random.get_rng_state()
    assert np.array_equal(first, model.fit(X, y).predict_proba(X))
    assert np.array_equal(first, clone(model).fit(X, y).predict_proba(X))
    assert torch.equal(state, torch.random.get_rng_state())
    model.set_params(random_state=1)
    assert not np.array_equal(first, model.fit(X, y).predict_proba(X))


def test_pickle_keeps_predictions_and_no_hook(digits):
    X, y = (part[:200] for part in digits)
    model = AdversarialClassifier(attack=PGD(eps=0.1), **FAST).fit(X, y)
    restored = pickle.loads(pickle.dumps(model))
    assert np.array_equal(restored.predict_proba(X), model.predict_proba(X))
    assert model.net_.hook_ is None


def test_search_over_radii(digits):
    X, y = (part[:300] for part in digits)
    settings = {"cv": 2, "scoring": robust_accuracy, "error_score": "raise"}
    model = AdversarialClassifier(attack="fgsm", **FAST)
    search = GridSearchCV(model, {"eps": [0.05, 0.1]}, **settings).fit(X, y)
    model.set_params(attack=FGSM(bounds=(0, 1)))
    other = GridSearchCV(model, {"attack__eps": [0.05, 0.1]}, **settings).fit(X, y)
    found = [s.cv_results_["mean_test_score"] for s in (search, other)]
    assert np.array_equal(*found)


def test_networks_are_trained_one_at_a_time(digits):
    X, y = (part[:150] for part in digits)
    models = [
        AdversarialClassifier(attack="free", **{**FAST, "random_state": seed})
        for seed in range(2)
    ]
    together = fit_together(models, [X] * 2, [y] * 2)
    for model, one in zip(models, together, strict=True):
        assert np.array_equal(model.fit(X, y).predict_proba(X), one.predict_proba(X))


@pytest.mark.slow
@pytest.mark.parametrize("attack", NAMED)
def test_learns_tables_and_images(attack, digits):
    X, y = digits
    labels = np.array([f"digit {digit}" for digit in y])
    for rows in (X, X.reshape(-1, 1, 8, 8)):
        model = AdversarialClassifier(
            attack=attack, eps=0.05, max_iter=2, max_epochs=8, device="cpu"
        )
        model.fit(rows[:1000], labels[:1000])
        assert model.score(rows[1000:], labels[1000:]) > 0.75


def test_pixels_are_divided_before_the_radius_counts(digits):
    X, y = (part[:200] for part in digits)
    pixels = np.rint(X * 255).astype(np.uint8)
    model = AdversarialClassifier(**FAST)
    first = model.fit(pixels, y).predict_proba(pixels)
    floats = (pixels / np.float32(255)).astype(np.float32)
    assert np.array_equal(first, model.fit(floats, y).predict_proba(floats))


def test_a_radius_for_each_feature(digits):
    X, y = (part[:100] for part in digits)
    eps = np.repeat([0.2, 0.0], 32).astype(np.float32)
    _, small, _, T = small_batch(d=64)
    hook = hook_of(shape=(64,), eps=eps, warmup=0)
    net = torch.nn.Linear(64, 3)
    moved, _ = hook(small, T, context_of(net))
    assert torch.equal(moved[:, 32:], small[:, 32:])
    assert not torch.equal(moved[:, :32], small[:, :32])
    AdversarialClassifier(eps=eps, **FAST).fit(X, y)


def test_a_box_in_another_unit_is_said(digits):
    X, y = (part[:200] for part in digits)
    scaled = make_pipeline(StandardScaler(), AdversarialClassifier(**FAST))
    with pytest.warns(UserWarning, match=r"X lies outside bounds=\(0, 1\)"):
        scaled.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled.set_params(adversarialclassifier__bounds=None).fit(X, y)
        AdversarialClassifier(attack=PGD(eps=0.1), **FAST).fit(X * 9, y)
    with pytest.warns(UserWarning, match=r"X lies outside bounds=\(0, 2\)"):
        AdversarialClassifier(attack=PGD(bounds=(0, 2)), **FAST).fit(X * 9, y)


def test_a_radius_in_pixels_is_said(digits):
    X, y = (part[:200] for part in digits)
    pixels = (255 * X).astype(np.uint8)
    with pytest.warns(UserWarning, match="eps=8 exceeds the range of X, 1"):
        AdversarialClassifier(eps=8, **FAST).fit(pixels, y)


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"attack": "sleeper"}, ValueError, "attack must be one of"),
        ({"attack": FGSM}, ValueError, "attack must be one of"),
        ({"eps": -0.1}, ValueError, "eps must be >= 0"),
        ({"eps": np.ones(3)}, ValueError, "eps has shape"),
        ({"eps": np.inf}, ValueError, "eps must be finite"),
        ({"eps": "large", "attack": "fast"}, (TypeError, ValueError), "large"),
        ({"norm": "l1"}, ValueError, "norm must be one of"),
        ({"bounds": "data"}, ValueError, "bounds must be None or a pair"),
        ({"bounds": (np.zeros(5), 1)}, ValueError, "bounds must be"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"max_iter": 0, "attack": "free"}, ValueError, "max_iter must be >= 1"),
        ({"step_size": 0.1}, ValueError, "step_size must be None or a pair"),
        ({"warmup": 1.5}, ValueError, r"warmup must be in \[0, 1\]"),
        ({"clean_weight": 1}, ValueError, "clean_weight must be < 1"),
        ({"attack": PGD(max_iter=0)}, ValueError, "max_iter must be >= 1"),
        ({"attack": APGD(bounds="data")}, ValueError, "bounds must be None"),
    ],
    ids=[f"{i}" for i in range(16)],
)
def test_refused_before_training(params, error, match, digits):
    X, y = (part[:100] for part in digits)
    model = AdversarialClassifier(**{**FAST, **params})
    with pytest.raises(error, match=match):
        model.fit(X, y)
    assert not hasattr(model, "net_")


# ------------------------------------------------------------------------------- effect


@pytest.mark.slow
def test_every_variant_withstands_more_than_plain_training(digits):
    X, y = digits
    judge = PGD(eps=0.1, bounds=(0, 1), random_state=0)
    train, test = slice(0, 1200), slice(1200, None)

    def score(model):
        model.fit(X[train], y[train])
        return robust_accuracy(model, X[test], y[test], attack=judge)

    params = {"max_epochs": 12, "device": "cpu", "random_state": 0}
    plain = score(TorchClassifier(**params))
    assert plain < 0.55
    for attack in (*NAMED[:-1], APGD(eps=0.1, max_iter=4, bounds=(0, 1))):
        robust = score(AdversarialClassifier(attack=attack, max_iter=4, **params))
        assert robust > plain + 0.12, attack
    # as many updates, a third of the rows' variety
    free = AdversarialClassifier(attack="free", max_iter=3, **params)
    assert score(free) > plain + 0.05
