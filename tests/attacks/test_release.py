"""Release poisoning: what each method moves, row by row, on the release and late."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier

from skpoison.attacks._craft._matching import GradientMatching, target_loss
from skpoison.attacks._craft._members import stack
from skpoison.attacks._craft._release import RowSum
from skpoison.attacks._release import ReleasePoisonAttack
from skpoison.models import ConvNet, ShiftFlip, TorchClassifier, fit_together
from skpoison.utils import RandomStreams, local_torch_seed

METHODS = [
    "alignment",
    "tensorclog",
    "error_max",
    "class_target",
    "error_min",
    "error_min_class",
]
BY_ROW = [
    {"online": True},
    {"method": "error_max"},
    {"method": "class_target"},
    {"method": "random"},
]
NET = TorchClassifier(max_epochs=4, device="cpu")


def _attack(**params):
    return ReleasePoisonAttack(
        **{
            "surrogate": NET,
            "max_iter": 5,
            "random_state": 0,
            "device": "cpu",
            **params,
        }
    )


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


@pytest.fixture(scope="module")
def images(digits):
    X, y = digits
    return X.reshape(-1, 1, 8, 8)[:60].astype(np.float32), y[:60]


def _fitted(X, y, **params):
    return TorchClassifier(device="cpu", random_state=1, **params).fit(X, y)


# Effect


def _clean_accuracy(released, digits):
    """Mean test accuracy of three networks trained on rows in place of the first."""
    X, y = digits
    n = len(released)
    nets = [TorchClassifier(device="cpu", random_state=s) for s in (11, 12, 13)]
    nets = fit_together(nets, [released] * 3, [y[:n]] * 3)
    return np.mean([net.score(X[1000:], y[1000:]) for net in nets])


@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True])
def test_alignment_does_harm_that_noise_does_not(digits, online):
    X, y = digits
    net = TorchClassifier(device="cpu")
    params = {"eps": 0.3, "surrogate": net, "random_state": 0, "device": "cpu"}
    noise = ReleasePoisonAttack("random", **params).fit_transform(X[:600], y[:600])
    attack = ReleasePoisonAttack(online=online, max_iter=40, **params)
    released = attack.fit_transform(X[:600], y[:600])
    control = _clean_accuracy(noise, digits)
    assert control > 0.85
    assert _clean_accuracy(released, digits) < control - 0.1


@pytest.mark.long
@pytest.mark.dataset("fashion_mnist")
def test_alignment_on_fashion_mnist():
    from skpoison.datasets import fetch_fashion_mnist

    X, y = fetch_fashion_mnist(n_samples=1000, return_X_y=True)
    X_test, y_test = fetch_fashion_mnist(subset="test", n_samples=2000, return_X_y=True)
    net = TorchClassifier(module__hidden=(128, 64), device="cpu")
    scores = {}
    for method in ("random", "alignment"):
        attack = ReleasePoisonAttack(
            method,
            eps=32 / 255,
            surrogate=net,
            max_iter=40,
            random_state=0,
            device="cpu",
        )
        released = attack.fit_transform(X, y)
        nets = [
            TorchClassifier(**{**net.get_params(), "random_state": s}) for s in (1, 2)
        ]
        nets = fit_together(nets, [released] * 2, [y] * 2)
        scores[method] = np.mean([n.score(X_test, y_test) for n in nets])
    assert scores["random"] > 0.7
    assert scores["alignment"] < scores["random"] - 0.1


@pytest.mark.parametrize("method", METHODS)
def test_each_method_descends_its_objective(digits, method):
    X, y = digits[0][:200], digits[1][:200]
    attack = _attack(method=method, eps=0.2, max_iter=25, init="zero").fit(X, y)
    curve = attack.loss_curve_[0]
    assert curve.shape == (attack.n_iter_,) and curve[-1] < curve[0] - 1e-3
    assert (np.abs(attack.perturbation_) <= 0.2 + 1e-12).all()


def test_error_max_is_misread_and_class_target_read_as_mapped(digits):
    X, y = digits[0][:200], digits[1][:200]
    net = FrozenEstimator(_fitted(X, y))
    for method, wanted in (("error_max", None), ("class_target", (y + 3) % 10)):
        attack = _attack(
            method=method,
            surrogate=net,
            eps=0.5,
            max_iter=30,
            class_map=[(c + 3) % 10 for c in range(10)],
        )
        read = net.predict(attack.fit_transform(X, y))
        assert np.mean(read == y) < 0.1
        if wanted is not None:
            assert np.mean(read == wanted) > 0.9


def test_error_min_stops_when_its_network_reads_the_rows(digits):
    X, y = digits[0][:200], digits[1][:200]
    attack = _attack(method="error_min", eps=0.5, max_iter=2000).fit(X, y)
    assert attack.n_iter_ < 2000 and attack.n_iter_ % 20 == 0
    (trained,) = attack.surrogates_
    assert trained.score(attack.transform(X), y) > 0.99


def test_error_min_class_has_one_perturbation_a_class(digits):
    X, y = digits[0][:100], digits[1][:100]
    attack = _attack(method="error_min_class", bounds=None, eps=0.1).fit(X, y)
    for label in range(10):
        own = attack.perturbation_[y == label]
        np.testing.assert_allclose(own, own[:1].repeat(len(own), 0), atol=1e-6)


# Gradients


def test_the_goal_is_bounded_where_its_rows_are_sure():
    logits = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 0.0]])
    logits.requires_grad_()
    labels = torch.tensor([0, 0])
    loss = target_loss("reverse", logits, labels)
    torch.testing.assert_close(loss.detach(), torch.tensor([100.0, 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(
        gradient, torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    )
    drawn = torch.linspace(-3, 3, 12).reshape(4, 3)
    wanted = -torch.log(1 - drawn.softmax(1)[:, 1])
    torch.testing.assert_close(
        target_loss("reverse", drawn, torch.ones(4, dtype=int)), wanted
    )


class _Pooled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.Softplus(),
            torch.nn.AvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(36, 3),
        )

    def forward(self, X):
        return self.layers(X)


@pytest.mark.parametrize("aligned", [True, False])
def test_rows_gradient_against_finite_differences(aligned):
    with local_torch_seed(0):
        nets = [_Pooled().double() for _ in range(3)]
        x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
        delta = 0.1 * torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
    groups = stack(nets, (1, 8, 8), "cpu")
    goals = None
    if aligned:
        goals = [{n: torch.rand_like(p) for n, p in groups[0].params.items()}]
    objective = RowSum(
        groups, x, torch.tensor([0, 1, 2, 1]), loss="untargeted", goals=goals
    )
    values, gradient = objective.rows(delta, 0)
    assert values.shape == (2, 4)
    move = torch.rand_like(delta) - 0.5
    h = 1e-5
    ahead, behind = (objective.rows(delta + s * h * move, 0)[0] for s in (1, -1))
    slopes = (gradient * move).flatten(2).sum(2)
    torch.testing.assert_close((ahead - behind) / (2 * h), slopes, rtol=1e-5, atol=1e-8)


def test_online_alignment_is_the_linear_part_of_matching(images):
    X, y = images
    groups = stack([_fitted(X, y, max_epochs=3).module_], (1, 8, 8), "cpu")
    goals = [{n: torch.randn_like(p) for n, p in groups[0].params.items()}]
    x, labels = torch.as_tensor(X), torch.as_tensor(y)
    delta = torch.zeros(1, *x.shape)
    values, gradient = RowSum(groups, x, labels, loss=None, goals=goals)(delta, 0)
    together = GradientMatching(
        groups,
        [{n: g[:, None, None] for n, g in goals[0].items()}],
        x[None],
        labels[None],
        loss="scalar_product",
        streams=RandomStreams(0),
    )
    value, mean = together(delta[None], 0)
    torch.testing.assert_close(values, value[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient[0] / len(x), mean[0, 0], rtol=1e-3, atol=1e-7)


# Rows by themselves


@pytest.mark.slow
@pytest.mark.parametrize("params", BY_ROW, ids=lambda p: p.get("method", "online"))
def test_row_by_row_is_the_batch(images, params):
    X, y = images
    net = TorchClassifier(
        ConvNet, module__dropout=0.3, max_epochs=2, augment="default", device="cpu"
    )
    # steps along the gradient: those along its sign jump where rounding turns a sign
    attack = _attack(
        surrogate=net, optimizer="gd", step_size=5, max_iter=4, n_restarts=2, **params
    )
    attack.fit(X[:40], y[:40])
    batch = attack.protect(X[40:52], y[40:52])
    alone = [attack.protect(X[i : i + 1], y[i : i + 1])[0] for i in range(40, 52)]
    np.testing.assert_allclose(batch, alone, atol=1e-5)
    assert np.abs(batch - X[40:52]).max() > 1e-3
    small = attack.set_params(batch_size=3).protect(X[40:52], y[40:52])
    np.testing.assert_allclose(batch, small, atol=1e-5)


def test_protect_repeats_what_fit_did(images):
    X, y = images
    attack = _attack(online=True, eps=0.1, bounds=(0, 1), optimizer="gd", step_size=5)
    released = attack.fit_transform(X, y)
    np.testing.assert_allclose(attack.protect(X, y), released, atol=1e-5)


def test_the_best_restart_of_each_row_is_kept(images):
    X, y = images
    params = {"method": "error_max", "eps": 0.1, "max_iter": 2}
    net = FrozenEstimator(_fitted(X, y, max_epochs=5))
    one = _attack(surrogate=net, n_restarts=1, **params).fit(X, y)
    five = _attack(surrogate=net, n_restarts=5, **params).fit(X, y)
    assert five.loss_ < one.loss_ and five.loss_curve_.shape == (5, 2)
    logits = torch.log(torch.as_tensor(net.predict_proba(five.transform(X))))
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(y))
    assert five.loss_ == pytest.approx(-float(loss), rel=1e-4)


def test_partial_fit_remembers_what_it_protects(digits):
    X, y = digits
    names = np.array([f"digit {c}" for c in y])
    attack = _attack(online=True, eps=0.1)
    first = attack.partial_fit(X[:50], names[:50]).transform(X[:50])
    attack.partial_fit(X[40:80], names[40:80])
    late = attack.transform(X[:100])
    np.testing.assert_array_equal(late[:50], first)
    np.testing.assert_array_equal(late[50:80], attack.protect(X[50:80], names[50:80]))
    np.testing.assert_array_equal(late[80:], X[80:100])
    assert attack.n_poisoned_ == 80 and attack.poison_mask_.shape == (90,)
    np.testing.assert_array_equal(attack.y_original_[50:], names[50:80])
    assert set(attack.perturbation_norms_["linf"] <= 0.1 + 1e-12) == {True}


def test_partial_fit_leaves_rows_of_two_labels_alone(digits):
    X, y = digits
    attack = _attack(online=True, eps=0.1).fit(X[:50], y[:50])
    attack.partial_fit(X[[60, 60, 61, 61]], [1, 2, 3, 3])
    late = attack.transform(X[[60, 61]])
    np.testing.assert_array_equal(late[0], X[60])
    assert (late[1] != X[61]).any() and attack.n_poisoned_ == 52


def test_new_rows_outside_the_data_keep_to_their_own_box(digits):
    X, y = digits
    attack = _attack(method="random", eps=0.1).fit(X[:50], y[:50])
    wide = X[50:60] * 3 - 1
    assert np.abs(attack.protect(wide, y[50:60]) - wide).max() <= 0.1 + 1e-12
    attack = _attack(method="random", eps=0.1, bounds=(0, 1)).fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="outside bounds"):
        attack.protect(wide, y[50:60])


# Types, networks, state


@pytest.mark.parametrize("method", [*METHODS, "random"])
def test_uint8_images_stay_inside_eps(images, method):
    X, y = images
    X = (255 * X).astype(np.uint8)
    out = _attack(method=method, max_iter=2).fit_transform(X, y)
    assert out.dtype == np.uint8
    assert 0 < np.abs(out.astype(int) - X).max() <= 8


@pytest.mark.parametrize("method", ["alignment", "error_min"])
def test_pipelines_and_several_architectures(method):
    X, y = make_classification(80, 6, random_state=0)
    piped = make_pipeline(StandardScaler(), NET)
    several = [piped, TorchClassifier(module__hidden=(8,), max_epochs=2, device="cpu")]
    one = method == "error_min"
    attack = _attack(
        method=method, surrogate=piped if one else several, n_ensemble=1 if one else 2
    )
    out = attack.fit_transform(X, y)
    assert (out != X).any() and np.isfinite(attack.loss_curve_).all()


@pytest.mark.parametrize("method", ["alignment", "error_min"])
def test_skorch_nets(method):
    X, y = make_classification(40, 6, random_state=0)
    net = NeuralNetClassifier(
        torch.nn.Linear,
        module__in_features=6,
        module__out_features=2,
        criterion=torch.nn.CrossEntropyLoss,
        train_split=None,
        batch_size=-1,
        max_epochs=2,
        verbose=0,
    )
    before = torch.random.get_rng_state()
    first, again = (
        _attack(method=method, surrogate=net).fit_transform(X, y) for _ in range(2)
    )
    assert (first != X).any()
    np.testing.assert_array_equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_rows_may_set_the_direction(digits):
    X, y = digits
    params = {"eps": 0.1, "surrogate": FrozenEstimator(_fitted(X[:200], y[:200]))}
    own = _attack(**params).fit(X[:100], y[:100])
    same = _attack(target_data=(X[:100], y[:100]), **params).fit(X[:100], y[:100])
    other = _attack(target_data=(X[200:400], y[200:400]), **params).fit(
        X[:100], y[:100]
    )
    np.testing.assert_array_equal(own.perturbation_, same.perturbation_)
    assert (own.perturbation_ != other.perturbation_).any()


def test_a_frozen_network_is_left_as_it_was(images):
    X, y = images
    with local_torch_seed(0):
        module = _Pooled()
    module.layers[-1] = torch.nn.Linear(36, 10)
    net = TorchClassifier(module, max_epochs=1, device="cpu", random_state=0).fit(X, y)
    before = {n: t.clone() for n, t in net.module_.state_dict().items()}
    for params in ({}, *BY_ROW, {"method": "tensorclog"}):
        _attack(surrogate=FrozenEstimator(net), max_iter=2, **params).fit(X, y)
    for name, tensor in net.module_.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [{}, {"online": True, "batch_size": 30}, {"method": "error_min", "max_iter": 45}],
    ids=["alignment", "online", "error_min"],
)
def test_a_killed_craft_ends_with_the_same_bits(images, tmp_path, monkeypatch, params):
    from skpoison.attacks._craft import _minimise

    X, y = images
    params = {"max_iter": 12, "augment": ShiftFlip(), "eps": 0.1, **params}
    whole = _attack(**params).fit(X, y)
    monkeypatch.setattr(_minimise, "_SECONDS_BETWEEN_SAVES", -1)
    calls = []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) > 0.7 * params["max_iter"]:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = _minimise.decay
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_minimise, "decay", killed)
        _attack(checkpoint=tmp_path, **params).fit(X, y)
    resumed = _attack(checkpoint=tmp_path, **params).fit(X, y)
    np.testing.assert_array_equal(resumed.perturbation_, whole.perturbation_)
    np.testing.assert_array_equal(resumed.loss_curve_, whole.loss_curve_)


# What is refused


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"method": "magic"}, ValueError, "method must be one of"),
        ({"online": "yes"}, TypeError, "online must be a bool"),
        ({"class_map": [0, 2, 1]}, ValueError, "every class to another one"),
        ({"class_map": [1, 2, 1]}, ValueError, "no two to the same"),
        ({"class_map": [1, 0]}, ValueError, "one label a class, 3"),
        ({"class_map": {0: 1, 1: 0}}, ValueError, "one entry for each class"),
        ({"class_map": {0: 1, 1: 2, 2: 7}}, ValueError, "class_map=7 is not among"),
        ({"method": "error_min", "n_ensemble": 2}, ValueError, "n_ensemble must be 1"),
        ({"method": "error_min", "n_restarts": 3}, ValueError, "n_restarts must be 1"),
        ({"method": "alignment", "target_data": 3}, TypeError, "pair"),
        (
            {"method": "alignment", "target_data": (np.zeros((2, 5)), [0, 1])},
            ValueError,
            "rows of shape",
        ),
        (
            {"method": "alignment", "target_data": (np.zeros((2, 4)), [0])},
            ValueError,
            "one label a row",
        ),
        (
            {"method": "alignment", "target_data": (np.zeros((1, 4)), ["x"])},
            ValueError,
            "'x' is not among",
        ),
        (
            {"method": "alignment", "target_data": (np.zeros((1, 4), np.uint8), [0])},
            ValueError,
            "one unit",
        ),
    ],
)
def test_bad_parameters(params, error, message):
    X, y = np.random.RandomState(0).rand(12, 4), np.arange(12) % 3
    params = {"method": "class_target", **params}
    with pytest.raises(error, match=message):
        _attack(**params).fit(X, y)


def test_a_frozen_network_is_no_surrogate_of_error_min(images):
    X, y = images
    net = FrozenEstimator(_fitted(X, y, max_epochs=1))
    with pytest.raises(ValueError, match="can't be frozen"):
        _attack(method="error_min", surrogate=[net]).fit(X, y)


def test_class_map_by_label(digits):
    X, y = digits[0][:100] * 16, np.array(["even", "odd"])[digits[1][:100] % 2]
    both = [
        _attack(method="class_target", eps=2, class_map=m).fit(X, y).perturbation_
        for m in (None, {"odd": "even", "even": "odd"})
    ]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("method", ["alignment", "tensorclog", "error_min"])
def test_methods_that_craft_together_take_no_late_rows(method):
    attack = _attack(method=method)
    assert not hasattr(attack, "protect") and not hasattr(attack, "partial_fit")
    with pytest.raises(AttributeError) as found:
        attack.protect([[0.0]], [0])
    assert "online=True" in str(found.value.__cause__)


def test_late_rows_must_fit(digits):
    X, y = digits
    attack = _attack(method="random", eps=0.1).fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="y=77 is not among the classes"):
        attack.protect(X[:2], [1, 77])
    with pytest.raises(ValueError, match="one unit"):
        attack.protect(X[:2].astype(np.uint8), y[:2])
    with pytest.raises(ValueError, match="features"):
        attack.protect(X[:2, :5], y[:2])
    with pytest.raises(ValueError, match="budget must be 1.0, got 0.5"):
        _attack(method="random", budget=0.5).partial_fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="nothing was crafted"):
        _attack(method="random", budget=0).fit(X[:50], y[:50]).protect(X[:1], y[:1])
