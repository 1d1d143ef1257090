import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skpoison.attacks import BackdoorAttack, PatchTrigger
from skpoison.defenses import FinePruning, NeuralCleanse
from skpoison.defenses._repair import finetune
from skpoison.models import MLP, LinearModel, TorchClassifier, TorchRegressor
from skpoison.utils import RandomStreams

CLEAN, TEST = slice(1000, 1200), slice(1200, None)
# both repairs, as fast as they get; that of the second always trains on
REPAIRS = [
    FinePruning(finetune_epochs=2, random_state=0),
    NeuralCleanse(
        max_iter=20,
        rule="mad",
        threshold=1e-9,
        finetune_epochs=2,
        attack_success=0.2,
        random_state=0,
    ),
]
both = pytest.mark.parametrize("repair", REPAIRS, ids=lambda r: type(r).__name__)
quiet = pytest.mark.filterwarnings("ignore:no trigger", "ignore:the masks of")


class Normed(nn.Module):
    """A convolution, batch normalisation, and a head."""

    def __init__(self, n_classes, bias=False):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 8, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, n_classes)

    def body(self, X):
        X = torch.relu(self.first(X))
        return torch.relu(self.norm(self.conv(X)))

    def forward(self, X):
        return self.head(nn.functional.max_pool2d(self.body(X), 2).flatten(1))


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(return_X_y=True)
    return (X.reshape(-1, 1, 8, 8) / 16).astype(np.float32), y


@pytest.fixture(scope="module")
def backdoor(data):
    X, y = data
    trigger = PatchTrigger("solid", size=2, margin=0)
    attack = BackdoorAttack(trigger, target_class=3, random_state=0)
    poisoned = attack.poison(X[:1000], y[:1000])
    net = TorchClassifier(max_epochs=12, device="cpu", random_state=0)
    return attack, net.fit(poisoned.X, poisoned.y)


@pytest.fixture(scope="module")
def pruned(backdoor, data):
    X, y = data
    return FinePruning(backdoor[1], random_state=0).fit(X[CLEAN], y[CLEAN])


def hooks(module):
    return [
        hook
        for part in module.modules()
        for kind in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
        for hook in kind
    ]


# ---------------------------------------------------------------------- fine-pruning


@pytest.mark.slow
def test_backdoor_fades_and_accuracy_stays(pruned, backdoor, data):
    attack, net = backdoor
    X, y = data[0][TEST], data[1][TEST]
    assert attack.attack_success(net.predict, X, y) > 0.9
    assert attack.attack_success(pruned.predict, X, y) < 0.75
    assert pruned.score(X, y) > net.score(X, y) - 0.03
    assert pruned.layer_ == "features.3"  # the last convolution
    np.testing.assert_array_equal(pruned.predict(X), pruned.estimator_.predict(X))


def test_sleepiest_channels_go_first(pruned, backdoor, data):
    module = backdoor[1].module_
    with torch.no_grad():
        out = torch.relu(module.features[:4](torch.from_numpy(data[0][CLEAN])))
    expected = out.double().mean((0, 2, 3)).numpy()
    np.testing.assert_allclose(pruned.activations_, expected, rtol=1e-5)
    n_pruned = len(pruned.pruned_)
    assert 0 < n_pruned < 32
    order = np.argsort(expected, kind="stable")  # channels that never wake tie
    np.testing.assert_array_equal(pruned.pruned_, order[:n_pruned])


def test_curve_and_the_step_that_is_undone(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    net = backdoor[1]
    still = FinePruning(net, finetune_epochs=0, random_state=0).fit(X, y)
    curve, n_pruned = still.accuracy_curve_, len(still.pruned_)
    assert curve[0] == net.score(X, y)
    assert (curve[:-1] >= curve[0] - 0.1 - 1e-9).all() and curve[-1] < curve[0] - 0.1
    assert len(curve) == n_pruned + 2  # one channel a step, and one was undone
    assert still.score(X, y) == curve[-2]
    # steps of a quarter of 32 channels; the whole drop allowed: all but one go
    coarse = clone(still).set_params(estimator=FrozenEstimator(net), prune_step=0.25)
    assert len(coarse.fit(X, y).pruned_) % 8 == 0
    everything = coarse.set_params(max_acc_drop=1.0).fit(X, y)
    assert len(everything.pruned_) == 31 and len(everything.accuracy_curve_) == 5


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_pruned_channels_stay_pruned(backdoor, data, optimizer):
    X, y = data
    net = TorchClassifier(
        optimizer=optimizer, lr=0.01, max_epochs=2, device="cpu", random_state=0
    ).fit(X[:300], y[:300])
    model = FinePruning(net, max_acc_drop=0.3, random_state=0).fit(X[CLEAN], y[CLEAN])
    before, after = net.module_.features[3], model.estimator_.module_.features[3]
    rows = torch.as_tensor(model.pruned_)
    kept = torch.ones(32, dtype=torch.bool)
    kept[rows] = False
    assert (after.weight[rows] == 0).all() and (after.bias[rows] == 0).all()
    assert (after.weight[kept] != before.weight[kept]).any(dim=(1, 2, 3)).all()
    assert (before.weight[rows] != 0).any()


@pytest.mark.parametrize("bias", [False, True])
def test_channels_behind_batch_normalisation(data, bias):
    X, y = data
    net = TorchClassifier(
        Normed, module__bias=bias, max_epochs=3, device="cpu", random_state=0
    ).fit(X[:500], y[:500])
    model = FinePruning(net, max_acc_drop=0.4, random_state=0).fit(X[CLEAN], y[CLEAN])
    assert model.layer_ == "conv" and len(model.pruned_) > 0
    with torch.no_grad():
        before = net.module_.eval().body(torch.from_numpy(X[CLEAN]))
        after = model.estimator_.module_.eval().body(torch.from_numpy(X[CLEAN]))
    np.testing.assert_allclose(
        model.activations_, before.double().mean((0, 2, 3)).numpy(), rtol=1e-5
    )
    gone = (after == 0).all(dim=3).all(dim=2).all(dim=0)
    assert gone[model.pruned_].all()
    # the layer by name: no normalisation there
    first = FinePruning(net, layer="first", finetune_epochs=0).fit(X[CLEAN], y[CLEAN])
    assert (first.estimator_.module_.first.weight[first.pruned_] == 0).all()
    assert (first.estimator_.module_.norm.weight == net.module_.norm.weight).all()


def test_hidden_units_of_a_dense_network(backdoor, data):
    X, y = data
    net = TorchClassifier(MLP, module__hidden=(32, 16), max_epochs=5, device="cpu")
    net.set_params(random_state=0).fit(X[:500], y[:500])
    model = FinePruning(net, random_state=0).fit(X[CLEAN], y[CLEAN])
    assert model.layer_ == "layers.2" and len(model.activations_) == 16
    assert (model.estimator_.module_.layers[2].weight[model.pruned_] == 0).all()


def test_layers_that_cannot_be_pruned(backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    for layer in ("features.1", "head.2", "nowhere"):
        with pytest.raises(ValueError, match="no convolution or hidden.*'head.0'"):
            FinePruning(backdoor[1], layer=layer).fit(X, y)
    linear = TorchClassifier(LinearModel, max_epochs=1, device="cpu").fit(X, y)
    with pytest.raises(ValueError, match="no hidden linear layer"):
        FinePruning(linear).fit(X, y)


def test_a_convolution_that_makes_the_output_is_no_layer_to_prune(data):
    X, y = data[0][CLEAN], data[1][CLEAN]

    def network(width):
        first = nn.Conv2d(1, width, 3, padding=1)
        pool = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(width, 10, 3), *pool)

    net = TorchClassifier(network(12), max_epochs=1, device="cpu").fit(X, y)
    model = FinePruning(net, max_acc_drop=1, finetune_epochs=0).fit(X, y)
    assert model.layer_ == "0" and len(model.pruned_) == 11
    weight = model.estimator_.module_[2].weight
    assert torch.equal(weight, net.module_[2].weight)
    with pytest.raises(ValueError, match="layer '2' is no convolution or hidden"):
        FinePruning(net, layer="2").fit(X, y)


def test_step_of_pruning_is_not_lost_to_rounding(backdoor, data):
    # 0.29 of 100 units: 28.999999999999996
    X, y = data[0][CLEAN], data[1][CLEAN]
    net = TorchClassifier(MLP, module__hidden=(100,), max_epochs=1, device="cpu")
    model = FinePruning(
        net.fit(X, y), prune_step=0.29, max_acc_drop=1, finetune_epochs=0
    )
    # 29, 58, 87 and 99 of 100
    assert len(model.fit(X, y).accuracy_curve_) == 5 and len(model.pruned_) == 99


# -------------------------------------------------------------- what repairs share


@quiet
@both
def test_the_callers_network_stays(repair, backdoor, data):
    X, y = data
    net = backdoor[1]
    before = {k: v.clone() for k, v in net.module_.state_dict().items()}
    steps = net.net_.optimizer_.state_dict()["state"][0]["step"].clone()
    model = clone(repair).set_params(estimator=FrozenEstimator(net))
    model.fit(X[CLEAN], y[CLEAN])
    own = model.estimator_
    assert (
        type(own) is TorchClassifier
        and own is not net
        and own.module_ is not net.module_
    )
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, before[name])
    assert any((own.module_.state_dict()[k] != v).any() for k, v in before.items())
    assert net.net_.optimizer_.state_dict()["state"][0]["step"] == steps
    for one in (net, own):
        assert not hooks(one.module_)
        assert all(p.requires_grad for p in one.module_.parameters())
    assert all(p.grad is None for p in own.module_.parameters())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        again.predict_proba(X[TEST]), model.predict_proba(X[TEST])
    )


@pytest.mark.slow
@quiet
@both
def test_same_seed_same_bits_and_no_global_stream(repair, backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    frozen = FrozenEstimator(backdoor[1])
    torch_state, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (
        clone(repair).set_params(estimator=frozen, random_state=seed).fit(X, y)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert (a.predict_proba(X) != c.predict_proba(X)).any()


@quiet
@both
def test_unfitted_networks_are_cloned_trained_and_seeded(repair, data):
    X, y = data[0][:200], data[1][:200]
    net = TorchClassifier(max_epochs=2, device="cpu")
    a, b = (clone(repair).set_params(estimator=net).fit(X, y) for _ in range(2))
    assert not hasattr(net, "net_") and net.random_state is None
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert isinstance(clone(repair)._inner(), TorchClassifier)


@quiet
@both
def test_labels_as_strings_and_classes_that_are_missing(repair, backdoor, data):
    X, y = data
    names = np.array([f"digit {k}" for k in y])
    net = TorchClassifier(max_epochs=2, device="cpu", random_state=0)
    net.fit(X[:300], names[:300])
    few = np.flatnonzero(y[CLEAN] > 4)
    model = clone(repair).set_params(estimator=FrozenEstimator(net))
    model.fit(X[CLEAN][few], names[CLEAN][few])
    assert model.classes_.tolist() == [f"digit {k}" for k in range(10)]
    assert model.predict_proba(X[:3]).shape == (3, 10)
    assert set(model.predict(X[TEST])) <= set(names)
    with pytest.raises(ValueError, match=r"y holds \['digit 77'\].*knows only"):
        model.fit(
            X[CLEAN], np.where(names[CLEAN] == "digit 7", "digit 77", names[CLEAN])
        )


@pytest.mark.slow
@quiet
@both
def test_pipelines(repair, data):
    X, y = data[0].reshape(-1, 64), data[1]
    net = TorchClassifier(
        input_shape=(1, 8, 8), max_epochs=3, device="cpu", random_state=0
    )
    pipeline = make_pipeline(StandardScaler(), net).fit(X[:500], y[:500])
    before = pipeline.predict_proba(X[TEST])
    model = clone(repair).set_params(estimator=FrozenEstimator(pipeline))
    model.fit(X[CLEAN], y[CLEAN])
    np.testing.assert_array_equal(pipeline.predict_proba(X[TEST]), before)
    assert (model.predict_proba(X[TEST]) != before).any()
    assert model.n_features_in_ == 64
    search = GridSearchCV(model, {"finetune_epochs": [0, 1]}, cv=2, error_score="raise")
    assert search.fit(X[CLEAN], y[CLEAN]).best_score_ > 0.3


@quiet
@both
def test_uint8_images(repair, backdoor, data):
    pixels = np.rint(data[0] * 255).astype(np.uint8)
    y = data[1][CLEAN]
    model = clone(repair).set_params(estimator=FrozenEstimator(backdoor[1]))
    whole = clone(model).fit(pixels[CLEAN], y)
    floats = clone(model).fit(pixels[CLEAN].astype(np.float32) / 255, y)
    np.testing.assert_allclose(
        whole.predict_proba(pixels[TEST]), floats.predict_proba(pixels[TEST]), atol=1e-3
    )


@quiet
@both
def test_two_classes_of_a_table(repair):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    net = TorchClassifier(max_epochs=5, device="cpu", random_state=0).fit(
        X[:300], y[:300]
    )
    model = clone(repair).set_params(estimator=FrozenEstimator(net))
    assert model.fit(X[300:400], y[300:400]).score(X[400:], y[400:]) > 0.85
    assert np.isfinite(model.fit(X[:2], y[:2]).predict_proba(X)).all()


@pytest.mark.parametrize("lr", [None, 0.01])
def test_step_size_falls_to_zero_and_is_put_back(backdoor, data, lr):
    net, seen = deepcopy(backdoor[1]), []
    finetune(
        net,
        data[0][:128],
        data[1][:128],
        epochs=2,
        lr=lr,
        streams=RandomStreams(0),
        after_step=lambda: seen.append(net.net_.optimizer_.param_groups[0]["lr"]),
    )
    first = lr or net.lr
    np.testing.assert_allclose(seen, [first, 0.75 * first, 0.5 * first, 0.25 * first])
    assert net.net_.optimizer_.param_groups[0]["lr"] == first


@quiet
@both
def test_an_interrupted_fit_is_no_fit(repair, backdoor, data, monkeypatch):
    X, y = data[0][CLEAN], data[1][CLEAN]
    model = clone(repair).set_params(estimator=FrozenEstimator(backdoor[1]))
    model.fit(X, y)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(backdoor[1].net_), "predict", stop)
    monkeypatch.setattr(type(backdoor[1].net_), "get_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert not hooks(backdoor[1].module_)
    assert all(p.requires_grad for p in backdoor[1].module_.parameters())


@both
def test_errors(repair, backdoor, data):
    X, y = data[0][CLEAN], data[1][CLEAN]
    model = clone(repair).set_params(estimator=FrozenEstimator(backdoor[1]))
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="requires y"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(X, y + 0.5)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])
    with pytest.raises(ValueError, match=r"samples of shape \(64,\)"):
        model.fit(X.reshape(-1, 64), y)
    with pytest.raises(ValueError, match="at least two rows"):
        model.fit(X[:1], y[:1])
    for wrong in (LogisticRegression(), TorchRegressor()):
        with pytest.raises(TypeError, match="estimator must be a TorchClassifier"):
            clone(repair).set_params(estimator=wrong).fit(X, y)


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"prune_step": 0}, ValueError, "prune_step must be"),
        ({"prune_step": 1.1}, ValueError, "prune_step must be"),
        ({"max_acc_drop": -0.1}, ValueError, "max_acc_drop must be"),
        ({"finetune_epochs": -1}, ValueError, "finetune_epochs must be"),
        ({"finetune_epochs": 1.5}, TypeError, "finetune_epochs must be"),
        ({"finetune_lr": 0}, ValueError, "finetune_lr must be"),
        ({"layer": 3}, TypeError, "layer must be"),
    ],
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        FinePruning(**params).fit(np.eye(4), [0, 1, 0, 1])
