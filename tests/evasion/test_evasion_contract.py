import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from skpoison.evasion import APGD, FGSM, PGD, MomentumPGD, WITCHcraft
from skpoison.models import TorchClassifier

ATTACKS = [FGSM, PGD, WITCHcraft, MomentumPGD, APGD]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__)


def make(attack, surrogate=None, **params):
    """An attack with few steps."""
    if attack is not FGSM:
        params = {"max_iter": 6, **params}
    return attack(surrogate, random_state=0, **params)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture(scope="module")
def mlp(iris):
    return MLPClassifier((16,), max_iter=2000, random_state=0).fit(*iris)


@pytest.fixture(scope="module")
def images():
    """A small convolutional network with batch norm and dropout, and its rows."""
    X, y = load_digits(return_X_y=True)
    X = (X[:200].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(288, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.tensor(X)), torch.tensor(y[:200]))
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return net, X, y[:200]


def predicted(net, X, scale=1.0):
    before = net.training
    net.eval()
    with torch.no_grad():
        found = net(torch.tensor(X).float() / scale).argmax(1).numpy()
    net.train(before)
    return found


# ------------------------------------------------------------------- what comes out


@each_attack
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.uint8], ids=lambda t: t.__name__
)
def test_ball_box_type_and_verdict(images, attack, norm, dtype):
    net, X, y = images
    scale = 255 if dtype == np.uint8 else 1
    X = (X * scale).astype(dtype)
    eps = {"linf": 0.1, "l2": 0.8}[norm] * scale
    found = make(attack, net, eps=eps, norm=norm, bounds=(0, scale)).attack(X, y)
    assert found.X.dtype == dtype and found.X.shape == X.shape
    assert found.X.min() >= 0 and found.X.max() <= scale
    change = (found.X.astype(float) - X.astype(float)).reshape(len(X), -1)
    size = np.abs(change).max(1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert size.max() <= eps and size.max() > 0.8 * eps
    assert not np.shares_memory(found.X, X)
    # the verdict is the model's own on the rows that come back
    np.testing.assert_array_equal(found.success, predicted(net, found.X, scale) != y)
    assert 0.1 < found.success.mean() < 1
    clean = predicted(net, X, scale) != y
    np.testing.assert_array_equal(found.X[clean], X[clean])
    assert found.loss.shape == (len(X),) and found.solver == "search"


@each_attack
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.uint8], ids=lambda t: t.__name__
)
def test_no_radius_no_change(images, attack, norm, dtype):
    net, X, y = images
    X = (X * 255).astype(dtype)
    found = make(attack, net, eps=0, norm=norm).attack(X, y)
    np.testing.assert_array_equal(found.X, X)
    assert found.X.dtype == dtype and found.X is not X
    assert found.n_gradients == 0


@each_attack
def test_batches_order_and_subsets_change_no_row(mlp, iris, attack):
    X, y = iris
    whole = make(attack, mlp, eps=0.4).attack(X, y)
    assert 0.1 < whole.success.mean() < 0.95
    order = np.random.RandomState(0).permutation(150)[:70]
    for size in (1, 32, 1000):
        part = make(attack, mlp, eps=0.4, batch_size=size).attack(X[order], y[order])
        np.testing.assert_allclose(part.X, whole.X[order], atol=1e-9)
        np.testing.assert_array_equal(part.success, whole.success[order])


@each_attack
def test_targets(images, attack):
    net, X, y = images
    args = {"eps": 0.3, "bounds": (0, 1)}
    one = make(attack, net, target_labels=3, **args).attack(X, y)
    np.testing.assert_array_equal(one.success, predicted(net, one.X) == 3)
    assert one.success.mean() > 0.3
    wanted = (y + 1) % 10
    each = make(attack, net, target_labels=wanted, **args).attack(X, y)
    np.testing.assert_array_equal(each.success, predicted(net, each.X) == wanted)
    with pytest.raises(ValueError, match="target_labels has labels .* not know: 10"):
        make(attack, net, target_labels=10).perturb(X, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_networks_of_half_precision(iris, dtype):
    X = iris[0].astype(np.float32)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    y = net(torch.tensor(X, dtype=dtype)).argmax(1).numpy()
    found = make(PGD, net, eps=1.0, bounds=(0, 8)).attack(X, y)
    assert np.abs(found.X.astype(float) - X).max() <= 1.0
    read = net(torch.tensor(found.X, dtype=dtype)).argmax(1).numpy()
    np.testing.assert_array_equal(read != y, found.success)
    assert found.X.dtype == np.float32 and found.success.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_round_balls_in_half_precision(dtype):
    X = np.random.RandomState(0).uniform(size=(300, 12)).astype(np.float32)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    net[0].weight.data[:] -= 0.3  # rows that light no unit have no slope
    y = net(torch.tensor(X, dtype=dtype)).argmax(1).numpy()
    with pytest.warns(UserWarning, match="gradient of zeros"):
        found = make(PGD, net, eps=0.2, norm="l2", n_restarts=3).attack(X, y)
    assert np.linalg.norm(found.X.astype(float) - X, axis=1).max() <= 0.2


# ----------------------------------------------------------------- the model's state


@each_attack
def test_the_model_is_left_as_it_was(images, attack):
    net, X, y = images
    net.train()
    net[4].eval()
    net[0].weight.requires_grad_(False)
    net[5].bias.grad = torch.ones(10)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        make(attack, net).perturb(X, y)
        assert [part.training for part in net] == [True] * 4 + [False, True]
        assert not net[0].weight.requires_grad and net[5].weight.requires_grad
        assert net[5].weight.grad is None and (net[5].bias.grad == 1).all()
        assert not net._forward_pre_hooks
        for name, value in net.state_dict().items():
            assert torch.equal(value, state[name])
    finally:
        net.eval()
        net.requires_grad_(True)
        net[5].bias.grad = None


def test_an_interrupt_leaves_the_model_as_it_was(images):
    net, X, y = images

    class Interrupted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.n_calls = net, 0

        def forward(self, x):
            self.n_calls += 1
            if self.n_calls == 4:
                raise KeyboardInterrupt
            return self.net(x)

    module = Interrupted().train()
    with pytest.raises(KeyboardInterrupt):
        make(PGD, module).perturb(X, y)
    assert all(part.training for part in module.modules())
    assert not module._forward_pre_hooks and torch.is_grad_enabled()
    net.eval()


def test_scripted_modules(images):
    net, X, y = images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch no longer recommends scripts
        script = torch.jit.script(copy.deepcopy(net).train())
    expected = make(PGD, net).perturb(X, y)
    np.testing.assert_array_equal(make(PGD, script).perturb(X, y), expected)
    assert all(part.training for part in script.modules())


def test_callers_that_forbid_gradients(images):
    net, X, y = images
    expected = make(PGD, net).perturb(X, y)
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            np.testing.assert_array_equal(make(PGD, net).perturb(X, y), expected)


def test_inference_mode_around_models_of_scikit_learn(iris, mlp):
    X, y = iris
    scaled = make_pipeline(StandardScaler(), mlp).fit(X, y)
    for model in (mlp, scaled, SVC().fit(X, y)):
        expected = make(PGD, model).perturb(X, y)
        with torch.inference_mode():
            np.testing.assert_array_equal(make(PGD, model).perturb(X, y), expected)
            found = make(PGD, model, prefit=True).fit(X, y).perturb(X, y)
        np.testing.assert_array_equal(found, expected)


def test_global_generators_are_left_alone(images):
    net, X, y = images
    before = torch.random.get_rng_state()
    make(WITCHcraft, net).perturb(X, y)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nets_that_predict_by_loaders_leave_generator_and_mode(images):
    skorch = pytest.importorskip("skorch")
    module, X, y = images
    net = skorch.NeuralNetClassifier(
        copy.deepcopy(module), criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0
    ).fit(X, y)
    net.module_.train()
    before = torch.random.get_rng_state()
    make(PGD, net).perturb(X, y)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(part.training for part in net.module_.modules())


# ------------------------------------------------------------------- scikit-learn's


def test_fit_trains_a_copy_unless_told_otherwise(iris, mlp):
    X, y = iris
    assert isinstance(PGD().fit(X, y).surrogate_, LogisticRegression)
    attack = make(PGD, mlp).fit(X, y)
    assert attack.surrogate_ is not mlp
    assert make(PGD, mlp, prefit=True).fit(X, y).surrogate_ is mlp
    frozen = FrozenEstimator(mlp)
    assert make(PGD, frozen).fit(X, y).surrogate_ is frozen
    expected = make(PGD, mlp).perturb(X, y)  # without fit: the model itself
    for same in (make(PGD, mlp, prefit=True).fit(X, y), make(PGD, frozen)):
        np.testing.assert_array_equal(same.perturb(X, y), expected)


def test_transform_attacks_the_models_own_predictions(iris, mlp):
    X, y = iris
    attack = make(PGD, mlp, eps=0.4)
    found = attack.transform(X)
    np.testing.assert_array_equal(found, attack.perturb(X, mlp.predict(X)))
    fitted = make(PGD, eps=0.4)
    np.testing.assert_array_equal(
        fitted.fit_transform(X, y), clone(fitted).fit(X, y).transform(X)
    )


def test_one_fit_one_seed(iris, mlp):
    X, y = iris
    attack = WITCHcraft(FrozenEstimator(mlp), max_iter=3).fit(X, y)
    np.testing.assert_array_equal(attack.transform(X), attack.transform(X))
    fresh = WITCHcraft(mlp, max_iter=3)
    assert (fresh.transform(X) != fresh.transform(X)).any()


@each_attack
def test_copies_pipelines_and_frames(iris, attack):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    attack = make(attack, model, eps=0.3).fit(frame, y)
    assert (
        clone(attack).get_params(deep=False).keys()
        == attack.get_params(deep=False).keys()
    )
    loaded = pickle.loads(pickle.dumps(attack))
    np.testing.assert_array_equal(loaded.transform(frame), attack.transform(frame))
    out = attack.set_output(transform="pandas").transform(frame)
    assert list(out.columns) == list("abcd") == list(attack.get_feature_names_out())
    chain = make_pipeline(clone(attack), LogisticRegression(max_iter=1000))
    assert chain.fit(frame, y).score(frame, y) < model.fit(frame, y).score(frame, y)


def test_images_and_networks_of_the_library(images):
    _, X, y = images
    model = TorchClassifier(max_epochs=8, device="cpu", random_state=0)
    for X_in in (X, X.reshape(len(X), -1)):
        attack = make(PGD, model, eps=0.1).fit(X_in, y)
        found = attack.attack(X_in, y)
        np.testing.assert_array_equal(
            found.success, attack.surrogate_.predict(found.X) != y
        )
        assert 0.2 < found.success.mean() and found.X.shape == X_in.shape
    default = make(PGD, eps=0.1).fit(X, y)  # logistic regression on flat rows
    assert default.transform(X).shape == X.shape
    with pytest.raises(ValueError, match="2-dimensional X only"):
        default.get_feature_names_out()


# ----------------------------------------------------------------------- what is in


@each_attack
@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"eps": -0.1}, ValueError, "eps must be >= 0"),
        ({"eps": np.inf}, ValueError, "eps must be finite"),
        ({"eps": "much"}, TypeError, "eps must be a number"),
        ({"eps": [0.1, 0.2]}, ValueError, "does not broadcast"),
        ({"eps": [0.1] * 4, "norm": "l2"}, ValueError, "one number for norm='l2'"),
        ({"norm": "l1"}, ValueError, "norm must be one of"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"bounds": "box"}, ValueError, "bounds must be one of"),
        ({"bounds": (1, 0)}, ValueError, "low <= high"),
        ({"bounds": (0, 4)}, ValueError, "outside bounds.*: 150 of its 600 values"),
        ({"bounds": "data"}, ValueError, r"call fit\(X, y\)"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
    ],
)
def test_bad_parameters(iris, mlp, attack, params, error, match):
    X, y = iris
    X = np.column_stack([X[:, 1:] / 2, 4.5 + X[:, 0]])
    with pytest.raises(error, match=match):
        make(attack, mlp, **params).perturb(X, y)


@pytest.mark.parametrize("name", ["max_iter", "n_restarts"])
def test_bad_counts(iris, mlp, name):
    for bad, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=f"{name} must be"):
            PGD(mlp, **{name: bad}).perturb(*iris)
        with pytest.raises(error, match=f"{name} must be"):
            APGD(**{name: bad}).fit(*iris)


def test_bad_rows_and_labels(iris, mlp):
    X, y = iris
    attack = make(PGD, mlp)
    holed = X.copy()
    holed[3, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        attack.perturb(holed, y)
    with pytest.raises(ValueError, match="0 sample"):
        attack.perturb(X[:0], y[:0])
    with pytest.raises(ValueError, match="y is None"):
        attack.perturb(X, None)
    with pytest.raises(ValueError, match="y must have one label .* 150 rows .* 149"):
        attack.perturb(X, y[:-1])
    with pytest.raises(ValueError, match="target_labels must have one label"):
        make(PGD, mlp, target_labels=["setosa", "virginica"]).perturb(X, y)
    with pytest.raises(ValueError, match="does not know: 0, 1, 2; its classes are"):
        attack.perturb(X, np.arange(150) % 3)
    with pytest.raises(ValueError, match="rows of shape"):
        make(PGD).fit(np.ones((4, 2, 2)) * [[[1]], [[2]], [[3]], [[4]]], y[48:52])\
            .transform(np.ones((4, 2, 3)))  # fmt: skip


def test_rows_that_a_module_cannot_read(images):
    net, X, y = images
    with pytest.raises(ValueError, match=r"can't read rows of X, of shape \(64,\)"):
        make(PGD, net).perturb(X.reshape(len(X), -1), y)


def test_a_box_beyond_the_pixels_range(images):
    net, X, y = images
    pixels = (255 * X).astype(np.uint8)
    attack = make(PGD, net, eps=80.0, early_stop=False)
    expected = attack.perturb(pixels, y)
    wide = attack.set_params(bounds=(-20, 300)).perturb(pixels, y)
    np.testing.assert_array_equal(wide, expected)


def test_labels_of_bare_modules_are_positions(images):
    net, X, y = images
    with pytest.raises(ValueError, match="not know: 10; its classes are 0, 1"):
        make(PGD, net).perturb(X, y + 1)


def test_unfitted(iris):
    X, y = iris
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        PGD().transform(X)
    with pytest.raises(NotFittedError, match="nor its surrogate LogisticRegression"):
        PGD(LogisticRegression()).perturb(X, y)
    with pytest.raises(ValueError, match="needs a fitted surrogate"):
        PGD(prefit=True).perturb(X, y)


def test_box_of_the_data_met_in_fit(iris):
    X, y = iris
    attack = make(PGD, eps=3.0, bounds="data").fit(X[::2], y[::2])
    found = attack.perturb(X, y)
    low = np.minimum(X[::2].min(axis=0), X)  # rows beyond it stay, and go no farther
    high = np.maximum(X[::2].max(axis=0), X)
    assert (found >= low).all() and (found <= high).all() and (found != X).any()


# ------------------------------------------------------------------ models at fault


class Faulty(nn.Module):
    """A linear model with a fault at the end."""

    def __init__(self, fault):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.fault = nn.Linear(4, 3), fault

    def forward(self, x):
        return self.fault(self.linear(x))


@pytest.mark.parametrize(
    "fault, match",
    [
        (lambda z: z / 0 * 0, "returns NaN for 1 of 1 rows, so that the loss is NaN"),
        (lambda z: z.detach(), "not differentiable"),
        (lambda z: z[:, 0], "shape .n_samples=1, n_classes., got .1,."),
        (lambda z: z[:, :1], "at least 2 scores"),
        (lambda z: (z, z), "got tuple"),
        (lambda z: z + 0 * (z - z).abs().sqrt(), "gradient of the loss is NaN"),
    ],
    ids=["nan", "detached", "one axis", "one score", "tuple", "nan gradient"],
)
def test_clear_errors(fault, match):
    X = np.random.RandomState(0).rand(20, 4).astype(np.float32)
    with pytest.raises(ValueError, match=match):
        make(PGD, Faulty(fault)).perturb(X, np.arange(20) % 3)


def test_flat_gradients_are_counted_and_warned_of():
    X = np.random.RandomState(0).rand(20, 4).astype(np.float32)
    net = Faulty(lambda z: torch.softmax(1e4 * z, dim=1))
    y = net(torch.tensor(X)).argmax(1).numpy()
    with pytest.warns(UserWarning, match="20 of the 20 rows .* gradient of zeros"):
        found = make(PGD, net, eps=1e-4).attack(X, y)
    assert found.n_zero_gradient == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sure = Faulty(lambda z: 1e4 * z)  # cross entropy itself is flat, not its slope
        assert make(PGD, sure, eps=1e-4).attack(X, y).n_zero_gradient == 0


def test_progress_is_on_stderr(images, capsys):
    net, X, y = images
    make(PGD, net, batch_size=50, verbose=1).perturb(X, y)
    shown = capsys.readouterr()
    assert "0/4" in shown.err and not shown.out
