"""Anti-backdoor learning: losses, isolation, unlearning, and a backdoor taken out."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn
from torch.nn import functional as F

from skpoison.attacks import BackdoorAttack, PatchTrigger
from skpoison.defenses import ABLClassifier
from skpoison.defenses._abl import _CONTROLS, _UNLEARNING, isolate
from skpoison.models import TorchClassifier

FAST = {
    "tuning_epochs": 3,
    "max_epochs": 4,
    "unlearn_epochs": 2,
    "isolation_ratio": 0.1,
    "device": "cpu",
    "random_state": 0,
}


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(150, 4, centers=3, cluster_std=2.0, random_state=0)
    return (X / 10).astype(np.float32), y


@pytest.fixture(scope="module")
def backdoor():
    """An attack on digits by a bright corner, the poisoned rows, the test rows."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    trigger = PatchTrigger(np.ones((4, 4)))
    attack = BackdoorAttack(trigger, target_class=0, budget=0.1, random_state=0)
    return attack, attack.poison(X[:1300], y[:1300]), X[1300:], y[1300:]


# -------------------------------------------------------------------------- the losses


def test_losses_are_the_formulas():
    output = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 5
    criterion = nn.CrossEntropyLoss()
    losses = F.cross_entropy(output, y, reduction="none")
    gamma = losses.median().item() + 0.01
    assert (losses < gamma).any() and (losses > gamma).any()

    flooding = _CONTROLS["flooding"](criterion, 3.0)(output, y)
    torch.testing.assert_close(flooding, (losses.mean() - 3.0).abs() + 3.0)
    local = _CONTROLS["local_ascent"](criterion, gamma)(output, y)
    expected = torch.where(losses > gamma, losses, -losses).mean()
    torch.testing.assert_close(local, expected)
    ascent = _UNLEARNING["ascent"](criterion)(output, y)
    torch.testing.assert_close(ascent, -losses.mean())
    unlikelihood = _UNLEARNING["unlikelihood"](criterion)(output, y)
    likely = losses < math.log(5)
    expected = -torch.log1p(-torch.exp(-losses))[likely].sum() / 8
    assert likely.any() and not likely.all()
    torch.testing.assert_close(unlikelihood, expected)


def test_unlikelihood_starts_where_ascent_does_not_and_ends_where_that_does_not():
    certain = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    unlikely = torch.tensor([[-2.0, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    slopes = {}
    for name, make in _UNLEARNING.items():
        loss_of = make(nn.CrossEntropyLoss())
        slopes[name] = [
            torch.autograd.grad(loss_of(x, y), x)[0].abs().max().item()
            for x in (certain, unlikely)
        ]
    assert slopes["ascent"][0] < 1e-8 and slopes["ascent"][1] > 0.5
    assert slopes["unlikelihood"][0] > 0.9 and slopes["unlikelihood"][1] == 0.0


# ------------------------------------------------------------------------- isolation


def test_lowest_losses_are_isolated_and_ties_go_by_position():
    losses = np.array([0.3, 0.1, 0.1, 0.9, 0.2, 0.8])
    y = np.array([0, 0, 1, 0, 1, 1])
    assert isolate(losses, y, 3).tolist() == [1, 2, 4]
    assert isolate(losses, y, 0).tolist() == []
    # the last row of each class is left, whatever is asked for
    assert isolate(losses, y, 6).tolist() == [1, 2, 4, 0]
    assert isolate(np.zeros(4), np.array([0, 1, 1, 1]), 9).tolist() == [1, 2]
    assert isolate(np.array([np.nan, 1, 2.0]), np.zeros(3, int), 1).tolist() == [1]


def test_attributes_are_one_account(blobs):
    clf = ABLClassifier(**FAST).fit(*blobs)
    assert len(clf.isolated_) == 15
    np.testing.assert_array_equal(
        np.flatnonzero(~clf.is_clean_), np.sort(clf.isolated_)
    )
    chosen = clf.isolation_losses_[clf.isolated_]
    assert (np.diff(chosen) >= 0).all()
    rest = np.sort(clf.isolation_losses_[clf.is_clean_])
    assert chosen[-1] <= rest[0]
    assert clf.n_iter_ == len(clf.history_) == 3 + 4 + 2


def test_losses_are_those_of_the_network_at_isolation(blobs):
    X, y = blobs
    clf = ABLClassifier(**FAST).fit(X, y)
    early = clone(clf).set_params(max_epochs=0, unlearn_epochs=0).fit(X, y)
    proba = early.predict_proba(X)[np.arange(len(y)), y]
    np.testing.assert_allclose(clf.isolation_losses_, -np.log(proba), rtol=1e-5)


def test_tuning_holds_the_loss(blobs):
    params = {**FAST, "tuning_epochs": 40, "max_epochs": 0, "unlearn_epochs": 0}
    held = ABLClassifier(gamma=0.8, **params).fit(*blobs)
    free = ABLClassifier(gamma=1e-6, **params).fit(*blobs)
    assert free.isolation_losses_.mean() < 0.5
    assert abs(held.isolation_losses_.mean() - 0.8) < 0.15


def test_each_part_trains_on_its_rows(blobs):
    clf = ABLClassifier(**FAST).fit(*blobs)
    sizes = [sum(b["train_batch_size"] for b in e["batches"]) for e in clf.history_]
    assert sizes == [150] * 3 + [135] * 4 + [15] * 2


def test_no_row_to_isolate_warns(blobs):
    params = {**FAST, "isolation_ratio": 0.001}
    with pytest.warns(UserWarning, match="isolation_ratio=0.001 of 150 rows"):
        clf = ABLClassifier(**params).fit(*blobs)
    assert len(clf.isolated_) == 0 and clf.is_clean_.all() and clf.n_iter_ == 7


def test_no_class_is_isolated_whole(blobs):
    X, y = blobs
    y = np.where(np.arange(150) < 1, 7, np.where(np.arange(150) < 3, 8, y))
    clf = ABLClassifier(**{**FAST, "isolation_ratio": 1.0}).fit(X, y)
    assert sorted(y[clf.is_clean_]) == [0, 1, 2, 7, 8]
    assert np.isfinite(clf.predict_proba(X)).all()


# ------------------------------------------------------------------------- unlearning


@pytest.mark.parametrize("unlearn_loss", ["unlikelihood", "ascent"])
def test_isolated_rows_are_unlearnt_and_no_others(blobs, unlearn_loss):
    X, y = blobs
    params = {**FAST, "unlearn_lr": 0.05, "unlearn_epochs": 30}
    clf = ABLClassifier(unlearn_loss=unlearn_loss, **params).fit(X, y)
    before = clone(clf).set_params(unlearn_epochs=0).fit(X, y)
    np.testing.assert_array_equal(clf.isolated_, before.isolated_)

    def loss(model):
        rows = clf.isolated_
        return -np.log(model.predict_proba(X[rows])[np.arange(len(rows)), y[rows]])

    assert loss(before).max() < math.log(3) < loss(clf).min()
    if unlearn_loss == "unlikelihood":
        assert loss(clf).max() < 3 * math.log(3)


def test_a_single_isolated_row_meets_batch_normalisation(blobs):
    class Net(nn.Module):
        def __init__(self, input_shape, n_outputs):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_outputs)
            )

        def forward(self, X):
            return self.layers(X)

    X, y = blobs
    params = {**FAST, "isolation_ratio": 0.007}
    clf = ABLClassifier(Net, **params).fit(X, y)
    assert len(clf.isolated_) == 1
    before = clone(clf).set_params(unlearn_epochs=0).fit(X, y)
    for name in ("running_mean", "running_var"):
        assert torch.equal(
            getattr(clf.module_.layers[1], name),
            getattr(before.module_.layers[1], name),
        )
    assert not torch.equal(
        clf.module_.layers[0].weight, before.module_.layers[0].weight
    )


def test_augmentation_rests_while_unlearning(blobs):
    seen = []

    def augment(X, generator):
        seen.append(len(X))
        return X

    ABLClassifier(augment=augment, **FAST).fit(*blobs)
    assert sum(seen) == 150 * 3 + 135 * 4


# --------------------------------------------------------------------- the backdoor


@pytest.mark.slow
def test_a_backdoor_is_taken_out(backdoor):
    attack, poisoned, X_test, y_test = backdoor
    params = {"max_epochs": 10, "device": "cpu", "random_state": 0}
    plain = TorchClassifier(**params).fit(poisoned.X, poisoned.y)
    clf = ABLClassifier(tuning_epochs=10, isolation_ratio=0.02, **params)
    clf.fit(poisoned.X, poisoned.y)
    before = attack.attack_success(plain.predict, X_test, y_test)
    after = attack.attack_success(clf.predict, X_test, y_test)
    assert before > 0.9
    assert after < 0.5 * before
    assert poisoned.poison_mask[clf.isolated_].mean() > 0.5
    assert clf.score(X_test, y_test) > plain.score(X_test, y_test) - 0.1


# ------------------------------------------------------------------ the rest of sklearn


def test_callbacks_see_three_trainings(blobs):
    seen = []

    class Watch(Callback):
        def on_train_begin(self, net, **kwargs):
            seen.append([type(net.optimizer_).__name__])

        def on_train_end(self, net, **kwargs):
            seen[-1].append(len(net.history))

    clf = ABLClassifier(callbacks=[Watch()], **FAST).fit(*blobs)
    assert seen == [["Adam", 3], ["Adam", 4], ["SGD", 2]]
    assert [row["epoch"] for row in clf.history_] == [*range(1, 10)]
    assert type(clf.net_.optimizer_).__name__ == "Adam"


def test_a_callback_ends_the_part_it_is_in(blobs):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    clf = ABLClassifier(callbacks=[Stop()], **FAST).fit(*blobs)
    assert clf.n_iter_ == 3 and len(clf.isolated_) == 15


def test_a_scheduler_starts_anew(blobs):
    rates = EpochScoring(
        lambda net, X, y: net.optimizer_.param_groups[0]["lr"], name="lr"
    )
    callbacks = [rates, LRScheduler("StepLR", step_size=1, gamma=0.5)]
    clf = ABLClassifier(callbacks=callbacks, train_split=ValidSplit(5), **FAST)
    found = [row["lr"] for row in clf.fit(*blobs).history_]
    expected = [0.005 / 2**i for i in (0, 1, 2, 0, 1, 2, 3)] + [5e-4, 2.5e-4]
    np.testing.assert_allclose(found, expected)


def test_held_out_rows_are_never_isolated(blobs):
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, net, dataset_valid, **kwargs):
            seen.append(dataset_valid.indices)

    params = {**FAST, "train_split": ValidSplit(5), "isolation_ratio": 1.0}
    clf = ABLClassifier(callbacks=[Watch()], **params).fit(*blobs)
    assert all(np.array_equal(rows, seen[0]) for rows in seen)
    assert len(clf.isolated_) == 120 - 3 and clf.is_clean_[seen[0]].all()


@pytest.mark.parametrize("loss_control", ["flooding", "local_ascent"])
def test_same_seed_same_bits_pickling_and_global_stream(blobs, loss_control):
    clf = ABLClassifier(loss_control=loss_control, **FAST)
    state = torch.get_rng_state()
    first = clf.fit(*blobs).predict_proba(blobs[0])
    assert torch.equal(torch.get_rng_state(), state)
    copied = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copied.predict_proba(blobs[0]), first)
    np.testing.assert_array_equal(clf.fit(*blobs).predict_proba(blobs[0]), first)
    other = clone(clf).set_params(random_state=1).fit(*blobs)
    assert (other.predict_proba(blobs[0]) != first).all()


def test_search_in_a_pipeline(blobs):
    pipeline = make_pipeline(StandardScaler(), ABLClassifier(**FAST))
    grid = {"ablclassifier__isolation_ratio": [0.05, 0.1]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(*blobs)
    assert len(search.best_estimator_[-1].isolated_) in (7, 15)


def test_images_of_bytes_and_labels_as_strings(backdoor):
    _, poisoned, _, _ = backdoor
    images = (poisoned.X[:200] * 255).astype(np.uint8)
    names = np.array([f"digit {d}" for d in poisoned.y[:200]])
    clf = ABLClassifier(**FAST).fit(images, names)
    assert clf.isolation_losses_.shape == (200,) and len(clf.isolated_) == 20
    assert set(clf.predict(images)) <= set(names)


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"tuning_epochs": 0}, ValueError, "tuning_epochs must be >= 1"),
        ({"loss_control": "none"}, ValueError, "loss_control must be one of"),
        ({"gamma": 0}, ValueError, "gamma must be > 0"),
        ({"gamma": "0.5"}, TypeError, "gamma must be a number"),
        ({"isolation_ratio": 0.0}, ValueError, r"isolation_ratio must be in \(0"),
        ({"isolation_ratio": 1.1}, ValueError, r"isolation_ratio must be in \(0"),
        ({"unlearn_loss": "descent"}, ValueError, "unlearn_loss must be one of"),
        ({"unlearn_epochs": -1}, ValueError, "unlearn_epochs must be >= 0"),
        ({"unlearn_lr": 0}, ValueError, "unlearn_lr must be > 0"),
    ],
)
def test_bad_parameters(blobs, params, error, message):
    with pytest.raises(error, match=message):
        ABLClassifier(**{**FAST, **params}).fit(*blobs)


def test_a_criterion_without_losses_of_rows(blobs):
    class Mean(nn.Module):
        def forward(self, output, y):
            return F.cross_entropy(output, y)

    params = {**FAST, "criterion": Mean}
    assert ABLClassifier(**params).fit(*blobs).n_iter_ == 9
    with pytest.raises(ValueError, match="criterion must be a loss with"):
        ABLClassifier(loss_control="local_ascent", **params).fit(*blobs)


@pytest.mark.gpu
def test_cuda(blobs):
    clf = ABLClassifier(**{**FAST, "device": "cuda"}).fit(*blobs)
    assert len(clf.isolated_) == 15 and clf.score(*blobs) > 0.5
