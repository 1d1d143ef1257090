"""Modules, training helpers and made data: shapes, equality and types."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from properties._strategies import SEEDS, tables
from sklearn.linear_model import LogisticRegression

from skpoison.attacks import WatermarkAttack
from skpoison.datasets import (
    clear_data_home,
    find_dataset,
    get_data_home,
    make_gratings,
)
from skpoison.model_selection import benchmark_trial, evaluate_targeted
from skpoison.models import (
    MLP,
    ConvNet,
    LeNet,
    LinearModel,
    Normalized,
    ResNet18,
    ResNet20,
    ShiftFlip,
    TorchClassifier,
    as_module,
    can_train_together,
    extract_features,
    fit_together,
    training_recipe,
)
from skpoison.utils import local_torch_seed

pytestmark = pytest.mark.filterwarnings("ignore")

_SMALL = {
    ResNet18: {"width": 2},
    ResNet20: {"width": 2, "n_blocks": 1},
    Normalized: {"network": MLP},
    ConvNet: {"channels": (2, 3)},
}


@pytest.mark.parametrize(
    "make", [MLP, ConvNet, LeNet, LinearModel, Normalized, ResNet18, ResNet20]
)
@settings(max_examples=4)
@given(
    n=st.integers(1, 3),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(12, 14), st.integers(12, 14)),
    n_outputs=st.integers(1, 4),
)
def test_modules_read_each_row_alone(make, n, shape, n_outputs):
    with local_torch_seed(0):
        net = make(shape, n_outputs, **_SMALL.get(make, {})).eval()
        X = torch.rand(n, *shape)
    out = net(X)
    assert out.shape == (n, n_outputs) and out.isfinite().all()
    torch.testing.assert_close(net(X[:1]), out[:1], rtol=1e-4, atol=1e-5)


@given(shift=st.integers(0, 3), flip=st.booleans(), seed=SEEDS)
def test_shifts_and_flips_stay_in_range(shift, flip, seed):
    with local_torch_seed(seed):
        X = torch.rand(3, 1, 6, 6)
    before = X.clone()
    generator = torch.Generator().manual_seed(seed)
    out = ShiftFlip(shift, flip=flip, fill=-1.0)(X, generator)
    assert out.shape == X.shape and torch.equal(X, before)
    assert out.max() <= X.max() + 1e-6 and out.min() >= -1 - 1e-6
    if shift == 0 and not flip:
        torch.testing.assert_close(out, X, rtol=0, atol=1e-6)


@given(data=tables(), seed=st.integers(0, 99))
def test_modules_of_classifiers_predict_the_same(data, seed):
    X, y = data
    model = LogisticRegression().fit(X, y)
    scores = as_module(model)(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_array_equal(scores.argmax(1), model.predict(X))
    nets = [
        TorchClassifier(LinearModel, max_epochs=1, device="cpu", random_state=seed + i)
        for i in range(2)
    ]
    assert can_train_together(nets, [X, X])
    alone = [net.fit(X, y).predict_proba(X) for net in nets]
    for net, expected in zip(fit_together(nets, [X] * 2, [y] * 2), alone, strict=True):
        np.testing.assert_allclose(net.predict_proba(X), expected, rtol=1e-3, atol=1e-4)
    features = extract_features(nets[0], X)
    assert len(features) == len(X) and np.isfinite(features).all()
    recipe = training_recipe(
        "conservative", MLP, max_epochs=8, mean=0.5, std=0.5, augment=None, device="cpu"
    )
    assert recipe.get_params()["max_epochs"] == 8


@given(
    n=st.integers(4, 12),
    k=st.integers(2, 4),
    side=st.integers(6, 9),
    channels=st.sampled_from([1, 3]),
    layout=st.sampled_from(["nchw", "nhwc", "flat"]),
    seed=SEEDS,
)
def test_gratings_are_pictures(n, k, side, channels, layout, seed):
    made = [
        make_gratings(
            n,
            n_classes=k,
            image_size=side,
            n_channels=channels,
            layout=layout,
            random_state=seed,
        )
        for _ in range(2)
    ]
    (X, y), (X_again, _) = made
    np.testing.assert_array_equal(X, X_again)
    assert len(X) == len(y) == n and X[0].size == channels * side**2
    assert X.min() >= 0 and X.max() <= 1 and set(y) <= set(range(k))
    assert np.ptp(np.bincount(y, minlength=k)) <= 1


@given(name=st.sampled_from(["a", "b c", "ü"]))
def test_homes_are_looked_into_and_cleared(name, tmp_path_factory):
    home = tmp_path_factory.mktemp("homes") / name
    assert get_data_home(home) == str(home) and not home.exists()
    assert find_dataset("spambase", data_home=home, path=home / "none") is None
    (home / "spambase").mkdir(parents=True)
    clear_data_home(home)
    assert not (home / "spambase").exists()


@settings(max_examples=2)
@given(data=tables(n_classes=2), seed=st.integers(0, 99))
def test_targeted_rates_are_shares(data, seed):
    X, y = data
    report = evaluate_targeted(
        WatermarkAttack(budget=0.3),
        LogisticRegression(),
        X[2:],
        y[2:],
        X[:2] + 0.01,
        1 - y[:2],
        n_victims=1,
        random_state=seed,
    )
    assert 0 <= report.rate <= 1 and 0 <= report.control_rate <= 1
    assert report.n_poisoned.max() <= 0.3 * len(X)


@given(index=st.integers(0, 10**6), number=st.integers(0, 2))
def test_trials_are_read_as_they_are_listed(index, number):
    setups = {
        "scratch_target_index": np.array([index] * 3),
        "scratch_target_class": np.array([6, 5, 4]),
        "scratch_base_class": np.array([1, 2, 3]),
        "scratch_base_indices": np.arange(9).reshape(3, 3),
    }
    trial = benchmark_trial(setups, number)
    assert trial.target_index == index and trial.base_class == number + 1
    assert trial.base_indices.tolist() == list(range(3 * number, 3 * number + 3))
