"""What the tracker writes down, and that training does not notice it."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from skorch.callbacks import Callback, Freezer
from skorch.dataset import ValidSplit
from torch import nn

from skpoison.defenses import MixupClassifier
from skpoison.landscape import NTKTracker, empirical_ntk, ntk_change
from skpoison.models import MLP, TorchClassifier, TorchRegressor

DIGITS, LABELS = load_digits(return_X_y=True)
X, y = DIGITS[:200] / 16, LABELS[:200]
KEYS = ["ntk_norm", "ntk_correlation", "ntk_similarity", "ntk_step_correlation"]


class Noisy(nn.Module):
    """Batch normalisation and dropout: everything that has a mode."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(12, n_outputs),
        )  # fmt: skip

    def forward(self, X):
        return self.layers(X.flatten(1))


class Drawing(Noisy):
    """Draws when it predicts, too."""

    def forward(self, X):
        return super().forward(X) + 0.1 * torch.rand(1)


class Keeper(Callback):
    """Copies of the network before training and after each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.states_ = []
        self.keep(net)

    def on_epoch_end(self, net, **kwargs):
        self.keep(net)

    def keep(self, net):
        state = net.module_.state_dict()
        self.states_.append({name: value.clone() for name, value in state.items()})


def small(*callbacks, module=MLP, **params):
    params = {"max_epochs": 3, "module__hidden": (8,), **params}
    if module is not MLP:
        del params["module__hidden"]
    return TorchClassifier(
        module, callbacks=list(callbacks), device="cpu", random_state=0, **params
    )


def global_numpy_state():
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002
    return key.copy(), position


def tracked(tracker, module=MLP, **params):
    """Return a fitted classifier and its tracker."""
    clf = small(("ntk", tracker), module=module, **params).fit(X, y)
    return clf, dict(clf.net_.callbacks_)["ntk"]


@pytest.mark.parametrize("module", [Noisy, Drawing])
@pytest.mark.parametrize("probe", [None, X[:3]], ids=["chosen", "given"])
def test_training_does_not_notice(probe, module):
    tracker = NTKTracker(probe, n_probe=3, at=1, random_state=0)
    watched = small(("ntk", tracker), module=module)
    before = [torch.random.get_rng_state(), *global_numpy_state()]
    watched.fit(X, y)
    after = [torch.random.get_rng_state(), *global_numpy_state()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    plain = small(module=module).fit(X, y)
    for ours, theirs in zip(
        watched.module_.state_dict().values(),
        plain.module_.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    assert watched.history_[:, "train_loss"] == plain.history_[:, "train_loss"]


def test_the_history_holds_changes_recomputed_from_kept_weights():
    given = X[::40]
    keeper, tracker = Keeper(), NTKTracker(given, at=1)
    clf = small(("ntk", tracker), ("keep", keeper)).fit(X, y)
    callbacks = dict(clf.net_.callbacks_)
    tracker, states = callbacks["ntk"], callbacks["keep"].states_
    net = MLP((64,), 10, hidden=(8,))
    kernels = []
    for state in states:
        net.load_state_dict(state)
        kernels.append(empirical_ntk(net, given))
    theta = [torch.cat([v.flatten() for v in s.values()]).double() for s in states]
    for i, row in enumerate(clf.history_, 1):
        change, step = (ntk_change(kernels[j], kernels[i]) for j in (0, i - 1))
        wanted = [change.norm1, change.correlation, change.similarity, step.correlation]
        assert [row[key] for key in KEYS] == pytest.approx(wanted, rel=1e-12)
        assert row["param_norm"] == pytest.approx(theta[i].norm().item())
        moved = (theta[i] - theta[0]).norm() / theta[0].norm()
        assert row["param_change"] == pytest.approx(moved.item(), rel=1e-6)
        assert all(type(row[key]) is float for key in KEYS)
    assert np.array_equal(tracker.initial_kernel_, kernels[0])
    assert np.array_equal(tracker.kernel_, kernels[-1])
    last = clf.history_[-1]
    assert tracker.change_.correlation == last["ntk_correlation"] < 1
    assert tracker.change_.param_change == last["param_change"] > 0


@pytest.mark.parametrize(
    "at, epochs",
    [
        (None, [1, 2, 4, 8, 11]),
        (4, [4, 8, 11]),
        (1, list(range(1, 12))),
        ([2, 3, 99], [2, 3, 11]),
        ([], [11]),
    ],
)
def test_epochs_at_which_the_kernel_is_taken(at, epochs):
    clf, tracker = tracked(NTKTracker(X[:2], at=at), max_epochs=11)
    history = clf.history_[:, ("epoch", "ntk_correlation", "ntk_step_correlation")]
    assert [e for e, value, _ in history if value is not None] == epochs
    assert [e for e, _, step in history if step is not None] == epochs
    assert all(value is not None for value in clf.history_[:, "param_norm"])


def test_stratified_probes_are_as_even_as_the_classes_allow():
    rare = np.concatenate([np.flatnonzero(y == 0)[:1], np.flatnonzero(y != 0)])
    tracker = NTKTracker(n_probe=25, at=[], reduction="trace", random_state=0)
    clf = small(("ntk", tracker)).fit(X[rare], y[rare])
    probe = dict(clf.net_.callbacks_)["ntk"].probe_
    own = [np.flatnonzero((X[rare].astype(np.float32) == row).all(1)) for row in probe]
    classes = y[rare][np.concatenate(own)]
    counts = np.bincount(classes, minlength=10)
    assert counts[0] == 1 and set(counts[1:]) == {2, 3} and counts.sum() == 25
    assert (np.diff(classes) >= 0).all() and len(np.unique(probe, axis=0)) == 25
    again = dict(clone(clf).fit(X[rare], y[rare]).net_.callbacks_)["ntk"].probe_
    assert np.array_equal(probe, again)
    clf.set_params(callbacks__ntk__random_state=1).fit(X[rare], y[rare])
    other = dict(clf.net_.callbacks_)["ntk"].probe_
    assert not np.array_equal(probe, other)


def test_the_first_rows_of_a_sorted_batch():
    _, tracker = tracked(NTKTracker(n_probe=25, probe="first", at=[]), max_epochs=0)
    order = sorted(range(128), key=lambda i: (y[i], i))[:25]
    assert np.array_equal(tracker.probe_, X[order].astype(np.float32))
    assert len(set(y[order])) < 4


def test_probes_in_the_units_and_shapes_of_fit():
    pixels = (DIGITS[:200] * 15).astype(np.uint8)
    image = {"input_shape": (1, 8, 8), "max_epochs": 0}
    for probe in (pixels[:4], pixels[:4].reshape(4, 1, 8, 8), pixels[:4] / 255):
        clf = small(("ntk", NTKTracker(probe)), **image).fit(pixels, y)
        tracker = dict(clf.net_.callbacks_)["ntk"]
        assert tracker.probe_.shape == (4, 1, 8, 8)
        assert tracker.probe_.dtype == np.float32
        wanted = pixels[:4].reshape(4, 1, 8, 8) / 255
        assert np.allclose(tracker.probe_, wanted, rtol=1e-6)
    probe = pixels[:2].astype(float)
    tracked(NTKTracker(probe), max_epochs=0)
    assert probe.max() > 1  # the caller's own


def test_no_epoch_is_no_change():
    clf, tracker = tracked(NTKTracker(X[:3]), max_epochs=0)
    assert tracker.change_.correlation == pytest.approx(1)
    assert tracker.change_.relative_change == tracker.change_.param_change == 0
    assert np.array_equal(tracker.kernel_, empirical_ntk(clf.module_, X[:3]))
    assert clf.history_ == []


def test_recalibrated_statistics_are_those_of_the_training_rows():
    one_batch = {"module": Noisy, "batch_size": 200, "max_epochs": 0}
    clf, tracker = tracked(NTKTracker(X[:4], random_state=0), **one_batch)
    net = clf.module_
    assert torch.equal(net.layers[1].running_mean, torch.zeros(12))  # still
    activations = net.layers[0](torch.tensor(X, dtype=torch.float32)).detach()
    net.layers[1].running_mean[:] = activations.mean(0)
    net.layers[1].running_var[:] = activations.var(0)
    wanted = empirical_ntk(net, X[:4])
    assert np.allclose(tracker.initial_kernel_, wanted, rtol=1e-4, atol=1e-4)

    clf, raw = tracked(NTKTracker(X[:4], recalibrate=False), **one_batch)
    assert np.array_equal(raw.initial_kernel_, empirical_ntk(clf.module_, X[:4]))
    assert ntk_change(raw.initial_kernel_, wanted).relative_change > 0.5


def test_statistics_alone_change_no_recalibrated_kernel():
    still = {"module": Noisy, "optimizer": "sgd", "lr": 1e-12, "batch_size": 200}
    still |= {"optimizer__weight_decay": 0}
    change = tracked(NTKTracker(X[:4], random_state=0), **still)[1].change_
    assert change.relative_change < 1e-5
    change = tracked(NTKTracker(X[:4], recalibrate=False), **still)[1].change_
    assert change.relative_change > 0.2


def test_sorted_rows_recalibrate_as_shuffled_ones_do():
    order = np.argsort(y, kind="stable")
    kernels = []
    for rows in (slice(None), order):
        clf = small(
            ("ntk", NTKTracker(X[:4], random_state=0)), module=Noisy, max_epochs=0
        )
        clf.set_params(batch_size=50).fit(X[rows], y[rows])
        kernels.append(dict(clf.net_.callbacks_)["ntk"].kernel_)
    # 0.09 without a shuffle
    assert ntk_change(*kernels).relative_change < 0.05


def test_a_last_batch_of_one_row_does_not_stop_it():
    clf = small(("ntk", NTKTracker(X[:2])), module=Noisy, batch_size=50, max_epochs=1)
    clf.fit(X[:101], y[:101])
    assert dict(clf.net_.callbacks_)["ntk"].change_.norm1 > 0


def test_with_held_out_rows_early_ends_and_frozen_weights():
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                raise KeyboardInterrupt

    clf = small(
        ("stop", Stop()),  # before the tracker, which misses the end of this epoch
        ("ntk", NTKTracker(n_probe=4, at=2, random_state=0)),
        ("freeze", Freezer("layers.0*")),
        train_split=ValidSplit(5),
        max_epochs=9,
    ).fit(X, y)
    assert len(clf.history_) == 3
    values = [row.get("ntk_correlation") for row in clf.history_]
    assert values[0] is None and values[1] < 1 and values[2] < 1
    assert clf.history_[2]["param_change"] > clf.history_[0]["param_change"]


def test_each_fit_starts_anew_and_the_fitted_classifier_is_pickled():
    tracker = NTKTracker(n_probe=4, random_state=0)
    clf, first = tracked(tracker)
    assert not [name for name in vars(tracker) if name.endswith("_")]
    copied = pickle.loads(pickle.dumps(clf))
    kept = dict(copied.net_.callbacks_)["ntk"]
    assert kept.change_ == first.change_
    assert np.array_equal(kept.probe_, first.probe_)
    assert not [name for name in vars(kept) if name.startswith("_")]
    second = dict(clf.fit(X, y).net_.callbacks_)["ntk"]
    assert second is not first and second.change_ == first.change_


def test_a_search_over_its_parameters():
    clf = small(("ntk", NTKTracker(n_probe=2, random_state=0)), max_epochs=1)
    fold = PredefinedSplit(np.arange(len(X)) % 4 == 0)
    search = GridSearchCV(clf, {"callbacks__ntk__n_probe": [2, 3]}, cv=fold)
    search.fit(X, y)
    best = search.best_estimator_
    tracker = dict(best.net_.callbacks_)["ntk"]
    assert len(tracker.probe_) == search.best_params_["callbacks__ntk__n_probe"]


@pytest.mark.parametrize("reduction", ["trace", "per_class"])
def test_other_reductions(reduction):
    _, tracker = tracked(NTKTracker(X[:3], reduction=reduction), max_epochs=1)
    shape = {"trace": (3, 3), "per_class": (10, 3, 3)}[reduction]
    assert tracker.kernel_.shape == shape and tracker.change_.correlation < 1


def test_regression_and_a_defense():
    reg = TorchRegressor(
        MLP,
        module__hidden=(4,),
        callbacks=[("ntk", NTKTracker(n_probe=5, random_state=0))],
        max_epochs=1,
        device="cpu",
        random_state=0,
    ).fit(X, y.astype(float))
    assert dict(reg.net_.callbacks_)["ntk"].kernel_.shape == (5, 5)
    mixed = MixupClassifier(
        MLP,
        callbacks=[("ntk", NTKTracker(X[:2]))],
        max_epochs=1,
        device="cpu",
        random_state=0,
    ).fit(X, y)
    assert dict(mixed.net_.callbacks_)["ntk"].change_.correlation < 1


def test_a_lost_network_is_the_estimators_to_report():
    with pytest.warns(Warning, match="training loss is not finite"):
        clf, tracker = tracked(
            NTKTracker(X[:2]), optimizer="sgd", lr=1e30, optimizer__weight_decay=0
        )
    assert math.isnan(tracker.change_.correlation)
    assert math.isnan(clf.history_[-1]["ntk_correlation"])


def test_a_log_keeps_its_columns(capsys):
    tracked(NTKTracker(X[:2], at=2), verbose=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert "ntk_step_correlation" in lines[0]
    assert len({len(line) for line in lines[-3:]}) == 1


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"n_probe": 0}, ValueError, "n_probe must be >= 1"),
        ({"n_probe": 2.5}, TypeError, "n_probe must be an int"),
        ({"n_probe": 201}, ValueError, "n_probe=201 rows.*the 200"),
        ({"n_probe": 129, "probe": "first"}, ValueError, "n_probe=129 rows.*the 128"),
        ({"probe": "last"}, ValueError, "probe must be one of 'stratified', 'first'"),
        ({"at": 0}, ValueError, "at must be >= 1"),
        ({"at": [3, 0]}, ValueError, "each epoch in at must be >= 1"),
        ({"at": "all"}, TypeError, "at must be None, an int or a list of int"),
        ({"reduction": "sum"}, ValueError, "reduction must be one of"),
        ({"random_state": "a"}, ValueError, "random_state must be"),
        ({"X_probe": X[:2, :9]}, ValueError, r"X_probe has samples of shape \(9,\)"),
        ({"X_probe": X[:2] * np.nan}, ValueError, "X_probe contains NaN"),
        ({"X_probe": X[:0]}, ValueError, r"X_probe must have shape .* got \(0, "),
        ({"X_probe": X[0]}, ValueError, "X_probe must have shape"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_errors_come_before_training(params, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            small(("ntk", NTKTracker(**params)), max_epochs=10**6).fit(X, y)


@pytest.mark.gpu
def test_networks_on_a_gpu():
    clf = small(("ntk", NTKTracker(X[:3])), module=Noisy, max_epochs=2)
    clf.set_params(device="cuda").fit(X, y)
    tracker = dict(clf.net_.callbacks_)["ntk"]
    assert isinstance(tracker.kernel_, np.ndarray)
    assert tracker.change_.correlation < 1
