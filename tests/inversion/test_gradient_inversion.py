"""GradientInversion: quality, restarts, labels, errors, and the network untouched."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from skpoison.inversion import (
    GradientInversion,
    SquaredNorm,
    client_update,
    save_update,
)
from skpoison.inversion import _solvers as solvers
from skpoison.inversion._objective import Objective
from skpoison.metrics import match_reconstruction, psnr
from skpoison.models import LeNet, ResNet20, TorchClassifier

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, *SHAPE) / 16, y


@pytest.fixture
def net():
    return LeNet(SHAPE, 10).double()


def matched(X, found):
    return psnr(X, found.X[match_reconstruction(X, found.X)])


# ------------------------------------------------------------------------- quality


def test_one_image_by_lbfgs(net, digits):
    X, y = digits[0][:1], digits[1][:1]
    seen = client_update(net, X, y)
    attack = GradientInversion(net, solver="lbfgs", max_iter=300, random_state=0)
    found = attack.reconstruct(seen, shape=SHAPE)
    assert found.method == "lbfgs" and found.y.tolist() == y.tolist()
    assert found.X.shape == (1, *SHAPE) and found.X.dtype == np.float64
    assert psnr(X, found.X) > 60
    assert found.residual == pytest.approx(found.loss**0.5, rel=1e-6)
    assert found.restart_losses.tolist() == [found.loss]
    assert len(found.loss_curve) == found.n_iter <= 302
    assert found.loss_curve.min() == found.loss


def test_float32_gradients_are_enough_for_lbfgs(net, digits):
    X, y = digits[0][:1], digits[1][:1]
    net = net.float()
    seen = client_update(net, X, y)
    assert seen["linear.weight"].dtype == torch.float32
    attack = GradientInversion(net, solver="lbfgs", max_iter=300, random_state=0)
    assert psnr(X, attack.reconstruct(seen, shape=SHAPE).X) > 50


@pytest.mark.slow
def test_batch_and_the_term_that_makes_it_easy(net, digits):
    X, y = digits[0][:6], np.array([1, 1, 2, 0, 4, 7])  # a label twice
    seen = client_update(net, X, y)
    quality = {}
    for weight in (0.0, 1.0):
        attack = GradientInversion(
            net, n_samples=6, feature_weight=weight, max_iter=250, random_state=0
        )
        found = attack.reconstruct(seen, labels=y, shape=SHAPE)
        assert found.method == "lbfgs"
        quality[weight] = matched(X, found)
    assert quality[1.0] > 40
    assert quality[1.0] > quality[0.0] + 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_samples", "recipe", "least"),
    [
        (1, {"local_steps": 5}, 40),
        (1, {"local_steps": 5, "local_lr": 0.1}, 40),
        (2, {"local_steps": 2, "local_batch_size": 1, "local_lr": 0.1}, 30),
        (1, {"local_steps": 1, "local_lr": 0.1}, 40),
    ],
    ids=["five", "fast", "batches", "one"],
)
def test_weights_after_local_steps(net, digits, n_samples, recipe, least):
    X, y = digits[0][:n_samples], digits[1][:n_samples]
    client = {k.replace("local_batch", "batch"): v for k, v in recipe.items()}
    seen = client_update(net, X, y, update="weights", **client)
    attack = GradientInversion(
        net, n_samples=n_samples, update="weights", solver="lbfgs", max_iter=200,
        random_state=0, **recipe,
    )  # fmt: skip
    found = attack.reconstruct(seen, labels=y, shape=SHAPE)
    assert psnr(X, found.X) > least


@pytest.mark.slow
def test_signed_adam_improves_and_stays_in_the_box(net, digits):
    X, y = digits[0][:1], digits[1][:1]
    attack = GradientInversion(
        net, solver="signed_adam", max_iter=300, tv_weight=1e-4, mean=0.3, scale=0.4,
        random_state=0,
    )  # fmt: skip
    seen = client_update(net, (X - 0.3) / 0.4, y)
    found = attack.reconstruct(seen, labels=y, shape=SHAPE)
    assert found.X.min() >= 0 and found.X.max() <= 1
    assert psnr(X, found.X) > psnr(X, np.full_like(X, X.mean())) + 3
    assert found.loss < 0.05 * found.loss_curve[0]
    again = attack.reconstruct(seen, labels=y, shape=SHAPE)
    np.testing.assert_array_equal(found.loss_curve, again.loss_curve)
    np.testing.assert_array_equal(found.X, again.X)


def test_signed_adam_is_the_published_loop(net, digits):
    """Against torch.optim.Adam on signs, with its own schedule and clipping."""
    X, y = digits[0][:1], digits[1][:1]
    target = client_update(net, X, y)
    n_iter, bounds = 40, (-0.2, 1.1)
    attack = GradientInversion(
        net, solver="signed_adam", loss="cosine", feature_weight=0, tv_weight=0.01,
        max_iter=n_iter, bounds=bounds, init="gray",
    )  # fmt: skip
    found = attack.reconstruct(target, labels=y, shape=SHAPE)

    z = torch.full((1, *SHAPE), sum(bounds) / 2, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    steps = [int(n_iter / q) for q in (2.667, 1.6, 1.142)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma=0.1)
    flat = torch.cat([t.flatten() for t in target.values()])
    curve = []
    for _ in range(n_iter):
        loss = F.cross_entropy(net(z), torch.from_numpy(y))
        grads = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        u = torch.cat([g.flatten() for g in grads])
        mismatch = 1 - u @ flat / (u.norm() * flat.norm())
        tv = z.diff(dim=-1).abs().mean() + z.diff(dim=-2).abs().mean()
        optimizer.zero_grad()
        (mismatch + 0.01 * tv).backward(inputs=[z])
        z.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            z.clamp_(*bounds)
        curve.append(mismatch.item())
    np.testing.assert_allclose(found.loss_curve, curve, rtol=1e-6)


# ------------------------------------------------------------------------ restarts


def test_restarts_are_the_same_however_many(net, digits):
    X, y = digits[0][:1], digits[1][:1]
    seen = client_update(net, X, y)
    options = {"solver": "signed_adam", "max_iter": 5, "random_state": 3}
    curves = []
    collect = solvers.adam

    def kept(*args, **kwargs):
        solution = collect(*args, **kwargs)
        curves.append(np.array(solution.curves))
        return solution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers, "adam", kept)
        for n in (1, 2, 4):
            attack = GradientInversion(net, n_restarts=n, **options)
            found = attack.reconstruct(seen, labels=y, shape=SHAPE)
            assert found.restart_losses.shape == (n,)
            assert found.loss == found.restart_losses.min()
    np.testing.assert_allclose(curves[0][0], curves[2][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(curves[1], curves[2][:2], rtol=0, atol=1e-4)
    assert len(np.unique(curves[2][:, 0])) == 4


@pytest.mark.parametrize("scoring", ["loss", "tv", "mean", "median"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scoring(net, digits, scoring, solver):
    X, y = digits[0][:1], digits[1][:1]
    seen = client_update(net, X, y)
    attack = GradientInversion(
        net, solver=solver, n_restarts=3, max_iter=20, scoring=scoring, random_state=0
    )
    found = attack.reconstruct(seen, labels=y, shape=SHAPE)
    assert found.X.shape == (1, *SHAPE) and np.isfinite(found.loss)
    if scoring in ("mean", "median"):
        assert found.loss not in found.restart_losses
    else:
        assert found.loss in found.restart_losses


def test_diverged_restarts(net, digits, monkeypatch):
    X, y = digits[0][:1], digits[1][:1]
    seen = client_update(net, X, y)
    attack = GradientInversion(net, solver="adam", n_restarts=2, max_iter=30)
    plain, calls = Objective.gradients, []

    def broken(which):
        def gradients(self, variables, labels):
            total, mismatch, found = plain(self, variables, labels)
            calls.append(1)
            if len(calls) > 10:
                total[which], mismatch[which] = torch.nan, torch.nan
                found[0][which] = torch.nan
            return total, mismatch, found

        return gradients

    monkeypatch.setattr(Objective, "gradients", broken([1]))
    with pytest.warns(ConvergenceWarning, match="1 of 2 restarts"):
        found = attack.reconstruct(seen, labels=y, shape=SHAPE)
    assert np.isfinite(found.X).all() and np.isfinite(found.restart_losses).all()
    calls.clear()
    monkeypatch.setattr(Objective, "gradients", broken([0, 1]))
    with pytest.raises(FloatingPointError, match="every restart"):
        attack.reconstruct(seen, labels=y, shape=SHAPE)
    calls.clear()
    monkeypatch.setattr(Objective, "gradients", broken([0]))
    with pytest.raises(FloatingPointError, match="every restart"):
        clone(attack).set_params(solver="lbfgs", n_restarts=1, max_iter=50).reconstruct(
            seen, labels=y, shape=SHAPE
        )


# -------------------------------------------------------------------------- labels


@pytest.mark.slow
def test_labels_can_be_sought(net, digits):
    X, y = digits[0][:1], digits[1][:1]
    seen = client_update(net, X, y)
    attack = GradientInversion(net, max_iter=300, random_state=0)
    found = attack.reconstruct(seen, labels="optimize", shape=SHAPE)
    assert found.method == "lbfgs" and found.y.tolist() == y.tolist()
    assert psnr(X, found.X) > 40
    soft = np.eye(10)[y] * 0.8 + 0.02
    seen = client_update(net, X, soft)
    found = attack.reconstruct(seen, labels=soft, shape=SHAPE)
    assert psnr(X, found.X) > 40 and found.y.tolist() == y.tolist()


def test_classes_of_an_estimator():
    rng = np.random.RandomState(0)
    X, y = rng.rand(60, 6), np.repeat(["a", "b", "c"], 20)
    X[y == "b"] += 0.5
    clf = LogisticRegression().fit(X, y)
    probabilities = clf.predict_proba(X[:1])[0] - (clf.classes_ == "a")
    gradients = [np.outer(probabilities, X[0]), probabilities]
    found = GradientInversion(clf).reconstruct(gradients)
    assert found.method == "analytic" and found.exact
    assert found.y.tolist() == ["a"]
    np.testing.assert_allclose(found.X[0], X[0], atol=1e-8)
    given = GradientInversion(clf).reconstruct(gradients, labels=["a"])
    np.testing.assert_allclose(given.X, found.X)
    with pytest.raises(ValueError, match="'d', which is none of the 3 classes a, b, c"):
        GradientInversion(clf).reconstruct(gradients, labels=["d"])


def test_fitted_network_tells_its_shape(digits):
    X, y = digits[0][:200].astype(np.float32), digits[1][:200]
    clf = TorchClassifier(LeNet, max_epochs=1, device="cpu", random_state=0).fit(X, y)
    seen = client_update(clf.module_, X[:1], y[:1])
    found = GradientInversion(clf, max_iter=100, random_state=0).reconstruct(seen)
    assert found.X.shape == (1, *SHAPE)
    assert found.y.tolist() == y[:1].tolist()


def test_auto(net, digits):
    X, y = digits[0][:1], digits[1][:1]
    first = {"max_iter": 30, "random_state": 0}
    closed = GradientInversion(net).reconstruct(client_update(net, X, y), shape=SHAPE)
    assert closed.method == "recursive" and closed.exact and psnr(X, closed.X) > 100
    pooled = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
    )
    seen = client_update(pooled, X, y)
    found = GradientInversion(pooled, **first).reconstruct(seen, shape=SHAPE)
    assert found.method == "signed_adam" and not found.exact
    assert found.X.dtype == np.float32
    sought = GradientInversion(pooled, **first)
    assert sought.reconstruct(seen, "optimize", SHAPE).method == "adam"
    two = client_update(net, digits[0][:2], digits[1][:2])
    several = GradientInversion(net, n_samples=2, **first)
    assert several.reconstruct(two, shape=SHAPE).method == "lbfgs"


# --------------------------------------------------------------- contract and errors


def test_parameters_clone_and_pickle(net):
    attack = GradientInversion(net, priors=(SquaredNorm(1e-3),), n_restarts=2)
    copied = clone(attack)
    assert copied.get_params(deep=False)["n_restarts"] == 2
    assert copied.priors[0].weight == 1e-3
    loaded = pickle.loads(pickle.dumps(attack))
    assert loaded.n_restarts == 2
    for p, q in zip(loaded.module.parameters(), net.parameters(), strict=True):
        assert torch.equal(p, q)


def test_network_is_left_alone(net, digits, monkeypatch):
    X, y = digits[0][:2], digits[1][:2]
    net.train()
    F.cross_entropy(net(torch.from_numpy(X)), torch.from_numpy(y)).backward()
    weights = {n: v.clone() for n, v in net.state_dict().items()}
    grads = [p.grad.clone() for p in net.parameters()]
    seen = client_update(net, X, y)
    attack = GradientInversion(net, n_samples=2, max_iter=5)

    def check():
        assert all(part.training for part in net.modules())
        assert all(torch.equal(v, weights[n]) for n, v in net.state_dict().items())
        pairs = zip(net.parameters(), grads, strict=True)
        assert all(p.requires_grad and torch.equal(p.grad, g) for p, g in pairs)
        assert not any(m._forward_pre_hooks for m in net.modules())

    attack.reconstruct(seen, shape=SHAPE)
    check()

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(solvers, "minimize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attack.reconstruct(seen, shape=SHAPE)
    check()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_progress_goes_to_stderr(net, digits, solver, capsys):
    seen = client_update(net, digits[0][:1], digits[1][:1])
    for verbose in (0, 1):
        attack = GradientInversion(net, solver=solver, max_iter=3, verbose=verbose)
        attack.reconstruct(seen, shape=SHAPE)
        printed = capsys.readouterr()
        assert not printed.out and bool(printed.err) == bool(verbose)


def test_file_and_forms(net, digits, tmp_path):
    X, y = digits[0][:2], digits[1][:2]
    seen = client_update(net, X, y)
    save_update(tmp_path / "seen.npz", seen)
    flat = np.concatenate([g.numpy().ravel() for g in seen.values()])
    attack = GradientInversion(net, n_samples=2, max_iter=10, random_state=0)
    images = [
        attack.reconstruct(form, labels=y, shape=SHAPE).X
        for form in (seen, [*seen.values()], flat, tmp_path / "seen.npz")
    ]
    for other in images[1:]:
        np.testing.assert_array_equal(images[0], other)


@pytest.mark.slow
def test_limits_per_channel(digits):
    net = LeNet((2, 8, 8), 3).double()
    X = np.stack([digits[0][0, 0], digits[0][1, 0]])[None] * [[[[1.0]], [[100.0]]]]
    recipe = {"mean": (0.5, 50.0), "scale": (0.25, 25.0)}
    z = (X - np.reshape(recipe["mean"], (2, 1, 1))) / np.reshape(
        recipe["scale"], (2, 1, 1)
    )
    seen = client_update(net, z, [1])
    attack = GradientInversion(
        net, solver="lbfgs", bounds=((0, 0), (1, 100)), max_iter=300, random_state=0,
        **recipe,
    )  # fmt: skip
    found = attack.reconstruct(seen, shape=(2, 8, 8))
    assert abs(found.X - X).max(axis=(0, 2, 3)) == pytest.approx([0, 0], abs=0.2)
    attack.set_params(solver="signed_adam", max_iter=20)
    found = attack.reconstruct(seen, shape=(2, 8, 8)).X
    assert found.min() >= 0
    assert found[:, 0].max() <= 1 and 1 < found[:, 1].max() <= 100


class Steps(nn.Module):
    """A network whose gradient does not change with its input."""

    def __init__(self, how):
        super().__init__()
        self.linear, self.how = nn.Linear(4, 3), how

    def forward(self, X):
        if self.how == "once":
            X = _Once.apply(X, self.linear.weight)
            return X + self.linear.bias
        return self.linear((X > 0.5).to(X))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, X, W):
        ctx.save_for_backward(X, W)
        return X @ W.T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        X, W = ctx.saved_tensors
        return g @ W, g.T @ X


@pytest.mark.parametrize(
    ("how", "message"),
    [("flat", "objective is flat"), ("once", "differentiated twice")],
)
def test_networks_that_tell_nothing(how, message):
    net = Steps(how)
    seen = client_update(net, torch.rand(2, 4), [0, 1])
    attack = GradientInversion(net, n_samples=2, solver="adam", feature_weight=0)
    with pytest.raises(ValueError, match=message):
        attack.reconstruct(seen, labels=[0, 1])


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be >= 1"),
        ({"solver": "sgd"}, ValueError, "solver must be one of 'auto'"),
        ({"solver": "analytic"}, ValueError, "closed form takes no n_samples=2"),
        ({"loss": "l2"}, ValueError, "loss must be one of"),
        ({"tv_weight": -1}, ValueError, "tv_weight must be >= 0"),
        ({"priors": ["tv"]}, TypeError, "priors must be objects"),
        ({"priors": [SquaredNorm(-1)]}, ValueError, "weight of SquaredNorm"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"step_size": 0}, ValueError, "step_size must be > 0"),
        ({"init": "noise"}, ValueError, "init must be one of"),
        ({"init": np.zeros((2, 1, 8, 8)), "n_restarts": 2}, ValueError, "n_restarts=2"),
        ({"scoring": "best"}, ValueError, "scoring must be one of"),
        ({"bounds": (1, 0)}, ValueError, "low <= high"),
        ({"bounds": 1}, ValueError, "bounds must be None or a pair"),
        ({"scale": 0}, ValueError, "scale must be > 0"),
        ({"mean": (1, 2, 3)}, ValueError, "mean must be a number"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of"),
        ({"local_steps": 3}, ValueError, "update='weights'"),
        ({"local_batch_size": 1}, ValueError, "leaves out some of n_samples=2"),
        ({"criterion": F.cross_entropy}, ValueError, "pass labels"),
        ({"device": "nowhere"}, ValueError, "device must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_parameters(net, digits, params, error, message):
    seen = client_update(net, digits[0][:2], digits[1][:2])
    attack = GradientInversion(net, **{"n_samples": 2, **params})
    with pytest.raises(error, match=message):
        attack.reconstruct(seen, shape=SHAPE)


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([0, 10], SHAPE, r"class indices in \[0, 9\]"),
        ([0], SHAPE, "n_samples=2"),
        (1, SHAPE, "n_samples=2"),
        ("guess", SHAPE, "labels must be one of 'optimize'"),
        (np.ones((2, 3)), SHAPE, "rows of 10 probabilities"),
        ([0, 1], None, "LeNet starts with Conv2d"),
        ([0, 1], (1, 9, 30), "takes no inputs of shape"),
        ([0, 1], (1, 8, 0), "each number in shape"),
    ],
    ids=["range", "few", "scalar", "word", "narrow", "none", "wide", "empty"],
)
def test_bad_labels_and_shapes(net, digits, labels, shape, message):
    seen = client_update(net, digits[0][:2], digits[1][:2])
    with pytest.raises(ValueError, match=message):
        GradientInversion(net, n_samples=2).reconstruct(seen, labels, shape)


def test_bad_updates_and_modes(net, digits):
    seen = client_update(net, digits[0][:1], digits[1][:1])
    attack = GradientInversion(net)
    with pytest.raises(ValueError, match="update is zero"):
        attack.reconstruct({n: 0 * g for n, g in seen.items()}, shape=SHAPE)
    with pytest.raises(ValueError, match=r"linear\.bias"):
        attack.reconstruct([*seen.values()][:-1], shape=SHAPE)
    with pytest.raises(ValueError, match="labels='optimize' needs"):
        GradientInversion(net, solver="signed_adam").reconstruct(
            seen, "optimize", SHAPE
        )
    normalised = ResNet20(SHAPE, 10)
    seen = client_update(normalised, digits[0][:2], digits[1][:2], batch_norm="train")
    attack = GradientInversion(normalised, n_samples=2, max_iter=2)
    with pytest.raises(ValueError, match="batch_norm='train'"):
        attack.reconstruct(seen, shape=SHAPE)
    attack.set_params(batch_norm="train")
    before = {n: v.clone() for n, v in normalised.state_dict().items()}
    attack.reconstruct(seen, shape=SHAPE)
    after = normalised.state_dict()
    assert all(torch.equal(v, after[n]) for n, v in before.items())
    with pytest.raises(FloatingPointError, match="at every start"):
        huge = LeNet(SHAPE, 10).double()
        nn.init.constant_(huge.linear.weight, 1e308)
        GradientInversion(huge, solver="lbfgs").reconstruct(
            client_update(net, digits[0][:1], digits[1][:1]), [1], SHAPE
        )
