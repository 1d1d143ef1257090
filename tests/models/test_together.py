"""Networks trained together equal those trained one by one."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit

from skpoison.defenses import AugmentedClassifier, MaxUpClassifier, MixupClassifier
from skpoison.models import (
    ConvNet,
    ResNet18,
    ShiftFlip,
    TorchClassifier,
    TorchRegressor,
    _together,
    can_train_together,
    fit_together,
)

X, Y = load_digits(return_X_y=True)
X, Y = (X[:193] / 16).astype(np.float32), Y[:193]  # a last batch of one row
IMAGES = X.reshape(-1, 1, 8, 8)
FAST = {"max_epochs": 2, "device": "cpu"}


@pytest.fixture
def stacks(monkeypatch):
    """Return the list of the sizes of the stacks that were trained."""
    sizes, train = [], _together._fit_stack

    def counted(estimators, *data):
        sizes.append(len(estimators))
        train(estimators, *data)

    monkeypatch.setattr(_together, "_fit_stack", counted)
    return sizes


def seeded(make, n):
    return [make(random_state=seed) for seed in range(n)]


def assert_equal_training(fitted, alone):
    assert fitted.n_iter_ == alone.n_iter_
    states = fitted.module_.state_dict(), alone.module_.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(fitted.history_, alone.history_, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["train_batch_count"] == theirs["train_batch_count"]
        np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=1e-5)
        assert ours.get("event_lr") == theirs.get("event_lr")
        for batch, other in zip(ours["batches"], theirs["batches"], strict=True):
            assert batch.get("event_lr") == other.get("event_lr")


class Halved(torch.nn.Module):
    """A user's module: named arguments, a frozen layer, dropout by choice."""

    def __init__(self, n_features_in, n_classes, dropout=0.0):
        super().__init__()
        self.first = torch.nn.Linear(n_features_in, 16).requires_grad_(False)
        self.second = torch.nn.Linear(16, n_classes)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, X):
        return self.second(self.dropout(self.first(X).relu_()))


class Unstackable(Halved):
    def forward(self, X):
        return super().forward(X) * (1.0 if X.sum().item() > -1e9 else 0.0)


SGD = {"optimizer": "sgd", "lr": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize(
    "data, params",
    [
        (X, {}),
        (X, SGD),
        (X, {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 0.1}),
        (X, {"module": Halved}),
        (IMAGES, {"module": ConvNet, "module__channels": (4, 8), **SGD}),
        (IMAGES, {"module": ResNet18, "module__width": 4, **SGD, "lr": 0.01}),
        (IMAGES, {"augment": ShiftFlip(flip=True), **SGD}),
        (X, {"callbacks": [LRScheduler("MultiStepLR", milestones=[1])], **SGD}),
        (X, {"callbacks": [("lr", LRScheduler(
            torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6, step_every="batch",
        ))]}),
    ],
    ids=[
        "mlp-adam", "mlp-sgd", "adamw", "frozen", "conv", "resnet", "augment",
        "multistep", "cosine-by-batch",
    ],
)  # fmt: skip
def test_equals_one_by_one(data, params, stacks):
    def make(random_state):
        return TorchClassifier(**FAST, **params, random_state=random_state)

    for fitted, alone in zip(
        fit_together(seeded(make, 3), [data] * 3, [Y] * 3), seeded(make, 3), strict=True
    ):
        assert_equal_training(fitted, alone.fit(data, Y))
    assert stacks == [3]


def test_batch_hooks_see_their_own_streams_and_weights(stacks):
    seen = []

    class Watching(MixupClassifier):
        def _batch_hook(self, streams):
            mix = super()._batch_hook(streams)

            def hook(X, T, context):
                weight = next(context.module.parameters()).detach().sum().item()
                seen.append((context.epoch, context.step, weight))
                return mix(X, T, context)

            return hook

    def make(random_state):
        return Watching(**FAST, augment="default", random_state=random_state)

    fitted = fit_together(seeded(make, 2), [IMAGES] * 2, [Y] * 2)
    assert stacks == [2]
    together, seen[:] = sorted(seen), []
    for one, alone in zip(fitted, seeded(make, 2), strict=True):
        assert_equal_training(one, alone.fit(IMAGES, Y))
    alone = sorted(seen)
    assert [s[:2] for s in together] == [s[:2] for s in alone]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def climb(X, T, context):
    """A hook that takes a gradient through the network in training."""
    P = X.detach().clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(context.module(P), T)
    (g,) = torch.autograd.grad(loss, P)
    return X + 0.05 * g / g.norm(), T


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: MaxUpClassifier(warmup_epochs=1, **FAST, random_state=seed),
        lambda seed: AugmentedClassifier(augmentation=climb, **FAST, random_state=seed),
    ],
    ids=["maxup", "gradient"],
)
def test_batch_hooks_may_call_the_network(make, stacks):
    given = [make(seed).set_params(max_epochs=2 + seed) for seed in range(3)]
    fitted = fit_together(given, [X] * 3, [Y] * 3)
    assert stacks == [3]
    for one, alone in zip(fitted, given, strict=True):
        assert_equal_training(one, clone(alone).fit(X, Y))


def test_other_rows_labels_and_epochs_in_one_stack(stacks):
    poisoned = X + np.float32(0.1)
    sets = [(X, Y), (poisoned, Y), (X, Y[::-1]), (poisoned, Y), (X, Y)]
    epochs = [3, 0, 1, 3, 2]

    def make():
        return [
            TorchClassifier(device="cpu", max_epochs=n, random_state=i)
            for i, n in enumerate(epochs)
        ]

    fitted = fit_together(make(), *zip(*sets, strict=True))
    assert stacks == [5]
    for one, alone, data in zip(fitted, make(), sets, strict=True):
        assert_equal_training(one, alone.fit(*data))


def test_shared_arrays_are_stored_once():
    rows = _together._Rows([X, X + 1, X], [Y] * 3, (64,), "cpu")
    assert len(rows.X) == 2 * len(X)
    one = _together._Rows([X, X], [Y] * 2, (64,), "cpu")
    assert one.X.data_ptr() == X.ctypes.data


def test_fitted_estimators_are_whole(stacks):
    names = np.array(["even", "odd"])[Y % 2]
    frame = pd.DataFrame(np.round(X * 255).astype(np.uint8))
    frame.columns = [f"pixel {i}" for i in range(64)]
    given = seeded(lambda random_state: TorchClassifier(
        **FAST, random_state=random_state), 3)  # fmt: skip
    fitted = fit_together(given, [frame] * 3, [names] * 3)
    assert stacks == [3] and not any(hasattr(one, "net_") for one in given)
    for one, alone in zip(fitted, given, strict=True):
        np.testing.assert_allclose(
            one.predict_proba(frame),
            clone(alone).fit(frame, names).predict_proba(frame),
            atol=1e-3,
        )
        assert one.classes_.tolist() == ["even", "odd"]
        assert list(one.feature_names_in_) == list(frame.columns)
        assert one.n_features_in_ == 64 and one.input_shape_ == (64,)
        assert set(one.predict(frame)) <= {"even", "odd"}
        weight = next(one.module_.parameters())
        assert weight.untyped_storage().nbytes() == weight.nbytes  # no view of a stack
        again = pickle.loads(pickle.dumps(one))
        np.testing.assert_array_equal(
            again.predict_proba(frame), one.predict_proba(frame)
        )
        clone(one).fit(X, Y)
    pixels = np.round(X * 255).astype(np.uint8)
    shades = fit_together(given, [pixels] * 3, [Y] * 3)
    assert_equal_training(shades[2], clone(given[2]).fit(pixels, Y))


def test_global_streams_and_repeats():
    def make(random_state):
        return TorchClassifier(
            Halved, module__dropout=0.5, **FAST, random_state=random_state
        )

    before = torch.get_rng_state()
    first, second = (fit_together(seeded(make, 2), [X] * 2, [Y] * 2) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.module_.second.weight, b.module_.second.weight)
    masks = {one.history_[0]["batches"][0]["train_loss"] for one in first}
    dry = make(random_state=0).set_params(module__dropout=0.0).fit(X, Y)
    assert len(masks | {dry.history_[0]["batches"][0]["train_loss"]}) == 3


class Weighted(MixupClassifier):
    def _batch_hook(self, streams):
        class Hook:
            def __call__(self, X, T, context):
                return X, T

            def loss(self, output, T):
                return 2 * torch.nn.functional.cross_entropy(output, T)

        return Hook()


class OwnLoop(TorchClassifier):
    def _train(self, net, X, y, streams):
        super()._train(net, X, y, streams)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OwnLoop(**FAST),
        lambda: TorchRegressor(**FAST),
        lambda: LogisticRegression(),
        lambda: TorchClassifier(**FAST, train_split=ValidSplit(5)),
        lambda: TorchClassifier(**FAST, callbacks=[EarlyStopping("train_loss")]),
        lambda: TorchClassifier(
            **FAST, callbacks=[LRScheduler("ReduceLROnPlateau", monitor="train_loss")]
        ),
        lambda: TorchClassifier(**FAST, criterion__label_smoothing=0.1),
        lambda: TorchClassifier(**FAST, iterator_train__drop_last=True),
        lambda: TorchClassifier(**FAST, optimizer=torch.optim.RMSprop),
    ],
    ids=[
        "loop", "regressor", "sklearn", "split", "stopping", "plateau", "smoothing",
        "iterator", "rmsprop",
    ],
)  # fmt: skip
def test_others_are_fitted_one_by_one(make, stacks):
    given = [make().set_params(random_state=seed) for seed in range(2)]
    assert not can_train_together(given, [X, X])
    fitted = fit_together(given, [X, X], [Y, Y])
    assert stacks == []
    for one, alone in zip(fitted, given, strict=True):
        np.testing.assert_array_equal(one.predict(X), clone(alone).fit(X, Y).predict(X))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Weighted(**FAST),
        lambda: TorchClassifier(Unstackable, **FAST),
        lambda: TorchClassifier(**FAST, module__hidden=(1024,)),
        lambda: TorchClassifier(ConvNet, **FAST, input_shape=(1, 8, 8), batch_size=190),
    ],
    ids=["loss", "unstackable", "weights", "work"],
)  # fmt: skip
def test_no_stack_where_it_cannot_run_or_does_not_pay(make, stacks):
    given = [make().set_params(random_state=seed) for seed in range(2)]
    assert can_train_together(given, [X, X])
    for one, alone in zip(fit_together(given, [X] * 2, [Y] * 2), given, strict=True):
        alone = clone(alone).fit(X, Y)
        assert torch.equal(*(next(e.module_.parameters()) for e in (one, alone)))
    assert stacks == []


def test_what_shares_a_stack():
    net = TorchClassifier(callbacks=[LRScheduler("StepLR", step_size=2)])
    assert can_train_together(
        [net, clone(net).set_params(random_state=3, max_epochs=2)], [X, X + 1]
    )
    assert not can_train_together([net, clone(net)], [X, X[:-1]])
    for params in (
        {"lr": 0.1},
        {"module__hidden": (8,)},
        {"augment": ShiftFlip()},
        {"callbacks": [LRScheduler("StepLR", step_size=3)]},
    ):
        assert not can_train_together([net, clone(net).set_params(**params)], [X, X])
    shifted = [TorchClassifier(augment=ShiftFlip(shift)) for shift in (2, 2, 3)]
    assert can_train_together(shifted[:2], [X, X])
    assert not can_train_together(shifted, [X, X, X])


def test_random_state_objects_are_drawn_from_once(stacks):
    def make():
        return [
            TorchClassifier(**FAST, random_state=np.random.RandomState(i))
            for i in range(2)
        ]

    fitted = fit_together(make(), [X] * 2, [Y] * 2)
    assert stacks == [2]
    for one, alone in zip(fitted, make(), strict=True):
        assert_equal_training(one, alone.fit(X, Y))


def test_many_fill_several_stacks_and_kinds_are_kept_apart(stacks, monkeypatch):
    monkeypatch.setattr(_together, "_STACK_SIZE", 3)
    given = [
        TorchClassifier(
            max_epochs=1, device="cpu", random_state=i, lr=0.01 * (i % 2 + 1)
        )
        for i in range(8)
    ]
    fitted = fit_together(given, [X] * 8, [Y] * 8)
    assert sorted(stacks) == [2, 2, 2, 2]
    for one, alone in zip(fitted, given, strict=True):
        assert_equal_training(one, clone(alone).fit(X, Y))


def test_other_number_of_classes_is_fitted_apart(stacks):
    given = [TorchClassifier(**FAST, random_state=i) for i in range(2)]
    few = fit_together(given, [X, X], [Y, Y % 3])
    assert stacks == [] and [len(one.classes_) for one in few] == [10, 3]


def test_errors():
    net = TorchClassifier(**FAST)
    with pytest.raises(ValueError, match="must have one length, got 2, 1 and 2"):
        fit_together([net, net], [X], [Y, Y])
    bad = TorchClassifier(lr=-1)
    with pytest.raises(ValueError, match="lr must be > 0"):
        fit_together([bad, bad], [X, X], [Y, Y])
    with pytest.raises(ValueError, match="needs at least two classes"):
        fit_together([net, net], [X, X], [Y, np.zeros_like(Y)])
