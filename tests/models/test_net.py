"""What reaches skorch: batches, callbacks, splits, hooks."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import ShuffleSplit
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split

from skpoison.models import TorchClassifier, TorchRegressor
from skpoison.models._net import BatchIterator

FAST = {"max_epochs": 3, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def data():
    X, y = make_blobs(150, 4, centers=3, random_state=0)
    return (X / 10).astype(np.float32), np.array(["x", "y", "z"])[y]


# ------------------------------------------------------------------- batches


def test_batches_cover_every_row_once_in_a_new_order_each_epoch():
    X = np.arange(25, dtype=np.float32).reshape(-1, 1)
    batches = BatchIterator(
        Dataset(X, np.arange(25)), 8, shuffle=True, generator=torch.Generator()
    )
    epochs = [torch.cat([y for _, y in batches]).tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(25))
    assert [len(y) for _, y in batches] == [8, 8, 9] and len(batches) == 3
    for X_batch, y_batch in batches:
        assert X_batch.flatten().tolist() == y_batch.tolist()


@pytest.mark.parametrize(
    "n, drop_last, sizes",
    [(24, False, [8, 8, 8]), (26, False, [8, 8, 8, 2]), (1, False, [1]),
     (26, True, [8, 8, 8]), (24, True, [8, 8, 8]), (25, True, [8, 8, 8])],
)  # fmt: skip
def test_batch_sizes(n, drop_last, sizes):
    X = np.zeros((n, 2), np.float32)
    batches = BatchIterator(Dataset(X, np.zeros(n)), 8, drop_last=drop_last)
    assert [len(X) for X, _ in batches] == sizes


def test_data_loader_opt_in_learns_the_same_task(data):
    loader = torch.utils.data.DataLoader
    clf = TorchClassifier(
        **FAST, iterator_train=loader, iterator_valid=loader, batch_size=16
    ).fit(*data)
    assert isinstance(clf.net_.get_iterator(Dataset(data[0])), loader)
    assert clf.score(*data) > 0.9
    reg = TorchRegressor(**FAST, iterator_train=loader).fit(data[0], data[0][:, 0])
    assert reg.score(data[0], data[0][:, 0]) > 0
    assert clone(clf).get_params()["iterator_train"] is loader


def test_prediction_does_not_depend_on_batches(data):
    clf = TorchClassifier(**FAST).fit(*data)
    small = TorchClassifier(**FAST, iterator_valid__batch_size=7).fit(*data)
    np.testing.assert_allclose(
        clf.predict_proba(data[0]), small.predict_proba(data[0]), atol=1e-6
    )


# -------------------------------------------------------- callbacks and splits


def test_validation_split_and_scores_with_string_labels(data):
    macro = EpochScoring("f1_macro", lower_is_better=False, name="macro")
    clf = TorchClassifier(
        **FAST,
        train_split=ValidSplit(5, stratified=True),
        callbacks=[("macro", macro), EpochScoring("roc_auc_ovr", name="auc")],
        callbacks__macro__use_caching=False,
    ).fit(*data)
    last = clf.history_[-1]
    assert {"train_loss", "valid_loss", "valid_acc", "macro", "auc"} <= set(last)
    assert last["valid_acc"] > 0.8 and last["macro"] > 0.8
    # a callback passed in is not the callback that ran
    assert not hasattr(macro, "best_score_")
    assert "use_caching=False" not in repr(vars(macro)) and macro.use_caching


def test_early_stopping_stops_and_restores(data):
    stopping = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
    clf = TorchClassifier(max_epochs=50, device="cpu", callbacks=[stopping])
    assert clf.fit(*data).n_iter_ == 3
    assert len(clf.fit(*data).history_) == 3


def test_keyboard_interrupt_is_not_swallowed(data):
    class Interrupted(torch.nn.Linear):
        def forward(self, X):
            raise KeyboardInterrupt

    clf = TorchClassifier(Interrupted(4, 3), **FAST)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*data)
    assert not hasattr(clf, "net_")


def test_scheduler_and_callback_parameters(data):
    clf = TorchClassifier(
        **FAST,
        callbacks=[("rate", LRScheduler("StepLR", step_size=1, gamma=1.0))],
        callbacks__rate__gamma=0.1,
    ).fit(*data)
    rates = clf.history_[:, "event_lr"]
    np.testing.assert_allclose(rates, [5e-3, 5e-4, 5e-5])


@pytest.mark.parametrize(
    "split", [ValidSplit(0.3), ValidSplit(ShuffleSplit(1, test_size=0.3))]
)
def test_unseeded_split_follows_random_state(data, split):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b = (
        TorchClassifier(**FAST, train_split=split).fit(*data).history_[-1, "valid_loss"]
        for _ in range(2)
    )
    assert a == b
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert getattr(split, "random_state", None) is None
    assert getattr(split.cv, "random_state", None) is None


def test_predefined_split_and_a_foreign_dataset(data):
    X, y = data
    codes = np.unique(y, return_inverse=True)[1]
    valid = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(codes))
    for held_out in (Dataset(X, codes), valid):
        clf = TorchClassifier(**FAST, train_split=predefined_split(held_out)).fit(X, y)
        assert clf.history_[-1, "valid_acc"] == clf.score(X, y)


def test_regressor_scores_on_a_split():
    X = np.random.RandomState(0).normal(size=(200, 3)).astype(np.float32)
    reg = TorchRegressor(
        max_epochs=20,
        device="cpu",
        random_state=0,
        train_split=ValidSplit(5),
        callbacks=[EpochScoring("r2", lower_is_better=False)],
    ).fit(X, 1000 * X[:, 0] + 5)
    assert reg.history_[-1, "r2"] > 0.9


# --------------------------------------------------------------------- hooks


class Swap:
    """Replaces each batch by a mixture of two rows, and notes what it was given."""

    def __init__(self):
        self.steps, self.epochs, self.draws, self.seen = [], [], [], []

    def __call__(self, X, T, context):
        self.steps.append(context.step)
        self.epochs.append(context.epoch)
        order = torch.randperm(len(X), generator=context.generator)
        self.draws.append(order.tolist())
        self.seen.append((X.dtype, T.dtype, T.shape, context.module.training))
        self.n_classes = context.n_classes
        return (X + X[order]) / 2, (T + T[order]) / 2


class SwapClassifier(TorchClassifier):
    def __init__(self, module="auto", *, active=True, **params):
        super().__init__(module, **params)
        self.active = active

    def _batch_hook(self, streams):
        self.hook = Swap()
        return self.hook if self.active else None


class Inherited(SwapClassifier):
    """A second level, which also changes a default."""

    def __init__(self, module="auto", *, lr=0.02, depth=3, **params):
        super().__init__(module, lr=lr, **params)
        self.depth = depth


def test_hook_sees_batches_and_context(data):
    clf = SwapClassifier(**FAST, train_split=ValidSplit(3)).fit(*data)
    hook = clf.hook
    # 100 rows in two batches; validation batches skip the hook
    assert hook.steps == list(range(6)) and hook.epochs == [0, 0, 1, 1, 2, 2]
    expected = (torch.float32, torch.float32, (64, 3), True)
    assert hook.seen[0] == expected and hook.n_classes == 3
    assert SwapClassifier(**FAST, train_split=ValidSplit(3)).fit(*data).hook.draws == (
        hook.draws
    )
    plain = TorchClassifier(**FAST).fit(*data).predict_proba(data[0])
    off = SwapClassifier(active=False, **FAST).fit(*data).predict_proba(data[0])
    np.testing.assert_array_equal(plain, off)
    on = SwapClassifier(**FAST).fit(*data)
    assert np.abs(on.predict_proba(data[0]) - plain).max() > 1e-3
    assert on.net_.hook_ is None


def test_soft_target_loss_is_the_mixture_of_hard_losses(data):
    class Keep:
        def __call__(self, X, T, context):
            return X, T

    class KeepClassifier(TorchClassifier):
        def _batch_hook(self, streams):
            return Keep()

    hard = TorchClassifier(**FAST).fit(*data)
    soft = KeepClassifier(**FAST).fit(*data)
    np.testing.assert_allclose(
        hard.predict_proba(data[0]), soft.predict_proba(data[0]), atol=1e-5
    )


def test_hook_may_set_the_loss(data):
    class Worst:
        def __call__(self, X, T, context):
            return X.repeat(2, 1), T.repeat(2, 1)

        def loss(self, output, T):
            assert len(output) == len(T)
            return -0.0 * output.sum()

    class WorstClassifier(TorchClassifier):
        def _batch_hook(self, streams):
            return Worst()

    clf = WorstClassifier(**FAST).fit(*data)
    assert clf.history_[:, "train_loss"] == [0, 0, 0]


def test_regressor_hook():
    class Noisy(TorchRegressor):
        def _batch_hook(self, streams):
            def hook(X, T, context):
                self.shape_ = T.shape, T.dtype, context.n_classes
                return X + 0.1 * torch.randn(X.shape, generator=context.generator), T

            return hook

    X = np.eye(40, dtype=np.float32)
    reg = Noisy(**FAST).fit(X, np.arange(40))
    assert reg.shape_ == ((40,), torch.float32, 1)


def test_subclass_has_one_merged_signature(data):
    clf = SwapClassifier(lr=0.1, active=False, module__hidden=(3,))
    expected = {*TorchClassifier().get_params(), "active", "module__hidden"}
    assert set(clf.get_params()) == expected
    assert repr(clf) == "SwapClassifier(active=False, lr=0.1, module__hidden=(3,))"
    assert repr(SwapClassifier()) == "SwapClassifier()"
    assert clone(clf).get_params() == clf.get_params()
    deep = Inherited(active=False, criterion=torch.nn.MultiMarginLoss)
    assert repr(Inherited()) == "Inherited()" and Inherited().lr == 0.02
    assert {"active", "depth", "lr"} <= set(deep.get_params())
    assert clone(deep).get_params() == deep.get_params()
    assert deep.set_params(max_epochs=2, **{"device": "cpu"}).fit(*data).n_iter_ == 2
    with pytest.raises(TypeError, match="unexpected parameter 'activ'"):
        SwapClassifier(activ=True).fit(*data)


def test_training_loop_can_be_overridden(data):
    class TwoPhases(TorchClassifier):
        def _train(self, net, X, y, streams):
            with net.training(X, y):
                net.fit_loop(X, y, epochs=2)
                kept = streams.numpy("rows").permutation(len(X))[:70]
                net.fit_loop(X[kept], y[kept], epochs=1)

    clf = TwoPhases(**FAST).fit(*data)
    assert clf.history_[:, "train_batch_count"] == [3, 3, 2]
    proba = clf.predict_proba(data[0])
    np.testing.assert_array_equal(
        TwoPhases(**FAST).fit(*data).predict_proba(data[0]), proba
    )


def test_callbacks_may_freeze_a_part_for_an_epoch(data):
    class Freeze(Callback):
        def on_epoch_begin(self, net, **kwargs):
            net.module_[1].eval()

    module = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)
    )
    clf = TorchClassifier(module, callbacks=[Freeze()], **FAST).fit(*data)
    assert int(clf.module_[1].num_batches_tracked) == 0
