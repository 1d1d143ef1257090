"""DP-SGD: the step is the formula, the bill is the accountant's, nothing leaks."""

import math
import pickle
import pickletools
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from skorch.dataset import Dataset, ValidSplit
from torch import nn
from torch.nn import functional as F

from skpoison.defenses import DPSGDClassifier
from skpoison.defenses._dpsgd import NativeEngine, OpacusEngine, PoissonIterator
from skpoison.models import MLP, ConvNet, ShiftFlip, TorchClassifier
from skpoison.privacy import PrivacyWarning, audit_epsilon, dpsgd_epsilon
from skpoison.utils import RandomStreams

FAST = {"max_epochs": 3, "batch_size": 32, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(150, 4, centers=3, random_state=0)
    return (X / 10).astype(np.float32), y


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def weights(classifier):
    return torch.cat([p.detach().ravel() for p in classifier.module_.parameters()])


def engine(module, kind=NativeEngine, losses_of=None, **params):
    class Net:
        module_ = module
        optimizer_ = torch.optim.SGD(module.parameters(), lr=0.1)

        @staticmethod
        def infer(X):
            return module(X)

    settings = {
        "net": Net,
        "losses_of": losses_of
        or (lambda out, y: F.cross_entropy(out, y, reduction="none")),
        "max_grad_norm": 1.0,
        "noise_multiplier": 1.0,
        "n_rows": 10,
        "batch_size": 10,
        "generator": torch.Generator().manual_seed(0),
        "chunk_size": None,
    }
    return kind(**{**settings, **params})


# ------------------------------------------------------------------- the mechanism


def test_training_is_the_formula(blobs):
    X, y = blobs
    clf = DPSGDClassifier(
        optimizer=torch.optim.SGD,
        lr=0.3,
        noise_multiplier=0.8,
        max_grad_norm=0.5,
        **FAST,
    )
    start = clone(clf).set_params(max_epochs=0).fit(X, y)
    clf.fit(X, y)

    module = start.module_.train()
    parameters = list(module.parameters())
    streams = RandomStreams(0)
    batches, draws = streams.torch("batches"), streams.torch("noise")
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    for _ in range(3 * round(150 / 32)):
        rows = torch.rand(150, generator=batches, dtype=torch.float64) < 32 / 150
        total = torch.zeros(sum(p.numel() for p in parameters))
        for row in rows.nonzero():
            loss = F.cross_entropy(module(X[row]), y[row])
            found = torch.autograd.grad(loss, parameters)
            gradient = torch.cat([g.ravel() for g in found])
            total += gradient * min(1, 0.5 / gradient.norm())
        step = (total + 0.8 * 0.5 * torch.randn(len(total), generator=draws)) / 32
        with torch.no_grad():
            flat = nn.utils.parameters_to_vector(parameters) - 0.3 * step
            nn.utils.vector_to_parameters(flat, parameters)
    torch.testing.assert_close(weights(clf), weights(start), rtol=1e-4, atol=1e-5)
    assert clf.n_steps_ == 15


@pytest.mark.parametrize(
    "criterion", [{}, {"criterion__label_smoothing": 0.2}], ids=str
)
@pytest.mark.parametrize("chunk_size", [None, 40])
def test_no_noise_no_clipping_all_rows_is_gradient_descent(
    blobs, criterion, chunk_size
):
    params = {**FAST, "batch_size": 150, "optimizer": torch.optim.SGD, "lr": 0.1}
    reference = TorchClassifier(**params, **criterion).fit(*blobs)
    clf = DPSGDClassifier(
        noise_multiplier=0, max_grad_norm=1e9, chunk_size=chunk_size, **params
    )
    with pytest.warns(PrivacyWarning, match="inf promises nothing"):
        clf.set_params(**criterion).fit(*blobs)
    torch.testing.assert_close(weights(clf), weights(reference), rtol=1e-4, atol=1e-6)
    assert clf.epsilon_ == math.inf and clf.n_steps_ == 3
    losses = [row["train_loss"] for row in reference.history_]
    np.testing.assert_allclose(
        [row["train_loss"] for row in clf.history_], losses, rtol=1e-4
    )


@pytest.mark.parametrize("kind", [NativeEngine, OpacusEngine])
def test_noise_is_gaussian_of_the_stated_scale(kind):
    if kind is OpacusEngine:
        pytest.importorskip("opacus")
    module = MLP((40,), 3, hidden=(200,))
    step = engine(module, kind, noise_multiplier=1.5, max_grad_norm=0.2, batch_size=7)
    found = []
    for _ in range(5):
        step.set_gradients(torch.zeros(0, 40), torch.zeros(0, dtype=torch.int64))
        found += [p.grad.ravel() / (1.5 * 0.2 / 7) for p in module.parameters()]
    draws = torch.cat(found).numpy()
    assert len(draws) == 5 * 8803 and len(np.unique(draws)) > 0.99 * len(draws)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(draws.std() - 1) < 4 / math.sqrt(2 * len(draws))


def test_rows_join_batches_on_their_own():
    X = np.arange(60, dtype=np.float32)[:, None]
    data = Dataset(X, np.zeros(60, np.int64))
    batches = PoissonIterator(data, 15, torch.Generator().manual_seed(0))
    assert len(batches) == 4
    joined = np.zeros((4000, 60))
    for i in range(1000):
        for j, (rows, _) in enumerate(batches):
            assert len(rows.unique()) == len(rows)
            joined[4 * i + j, rows[:, 0].long().numpy()] = 1
    spread = math.sqrt(0.25 * 0.75 / 4000)
    assert np.abs(joined.mean(0) - 0.25).max() < 4.5 * spread
    # independent rows and steps: sizes are binomial, neighbours uncorrelated
    sizes = joined.sum(1)
    assert abs(sizes.var() / (60 * 0.25 * 0.75) - 1) < 4.5 * math.sqrt(2 / 4000)
    assert abs(np.corrcoef(joined[:, 0], joined[:, 1])[0, 1]) < 4.5 / math.sqrt(4000)
    assert abs(np.corrcoef(sizes[1:], sizes[:-1])[0, 1]) < 4.5 / math.sqrt(4000)


@pytest.mark.slow
@pytest.mark.parametrize("noise_multiplier, sound", [(1.0, True), (0.25, False)])
def test_audit_stays_below_the_claim(noise_multiplier, sound):
    # one step on all rows; the canary's gradient points away from the others'
    X = torch.tensor([[1.0]] * 9 + [[-50.0]])
    y = torch.zeros(10, dtype=torch.int64)
    module = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(module.weight)
    step = engine(module, noise_multiplier=noise_multiplier)

    def scores(n_rows):
        found = []
        for _ in range(700):
            step.set_gradients(X[:n_rows], y[:n_rows])
            found.append((module.weight.grad[0, 0] - module.weight.grad[1, 0]).item())
        return found

    lower = audit_epsilon(scores(10), scores(9), delta=1e-3)
    claim = dpsgd_epsilon(10, 10, 1.0, 1, 1e-3)
    assert lower > 0
    assert (lower <= claim) is sound  # the audit notices noise that is too small


# ------------------------------------------------------------------------- the bill


def test_bill(blobs):
    X, y = blobs
    clf = DPSGDClassifier(noise_multiplier=1.3, **FAST).fit(X, y)
    assert clf.n_steps_ == 3 * round(150 / 32) == clf.privacy_["n_steps"]
    assert clf.delta_ == 1e-5 and clf.noise_multiplier_ == 1.3
    assert clf.epsilon_ == dpsgd_epsilon(150, 32, 1.3, 15, 1e-5)
    assert clf.epsilon_ == clf.privacy_["epsilon"]
    assert clf.privacy_["sampling_rate"] == 32 / 150
    assert any("history_" in text for text in clf.privacy_["assumptions"])
    clf.set_params(delta=1e-3).fit(X, y)
    assert clf.delta_ == 1e-3 and clf.epsilon_ == dpsgd_epsilon(150, 32, 1.3, 15, 1e-3)


def test_target_epsilon_chooses_the_noise(blobs):
    clf = DPSGDClassifier(target_epsilon=2.0, noise_multiplier=0, **FAST).fit(*blobs)
    assert 1.98 < clf.epsilon_ <= 2.0
    assert clf.noise_multiplier_ > 1 and clf.noise_multiplier == 0


def test_no_steps_cost_nothing(blobs):
    for target in (None, 3.0):
        clf = DPSGDClassifier(target_epsilon=target, **{**FAST, "max_epochs": 0})
        assert clf.fit(*blobs).epsilon_ == 0.0 and clf.n_steps_ == 0


def test_a_batch_is_at_most_all_rows(blobs):
    clf = DPSGDClassifier(noise_multiplier=3.0, **{**FAST, "batch_size": 999})
    clf.fit(*blobs)
    assert clf.privacy_["batch_size"] == 150 and clf.privacy_["sampling_rate"] == 1
    assert clf.n_steps_ == 3


def test_rows_held_out_are_gone_before_sampling(blobs):
    X, y = blobs
    seen = []

    def remember(X, generator):
        seen.append(X[:, 0])
        return X

    clf = DPSGDClassifier(
        train_split=ValidSplit(5), augment=remember, noise_multiplier=2.0, **FAST
    ).fit(X, y)
    assert clf.privacy_["n"] == 120
    assert clf.n_steps_ == 3 * round(120 / 32)
    assert clf.epsilon_ == dpsgd_epsilon(120, 32, 2.0, clf.n_steps_, 1e-5)
    assert "valid_loss" in clf.history_[-1]
    assert len(torch.cat(seen).unique()) <= 120


def test_stopping_early_does_not_lower_the_bill(blobs):
    class Stop(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            if len(net.history) == 2 and training:
                raise KeyboardInterrupt

    clf = DPSGDClassifier(callbacks=[Stop()], noise_multiplier=2.0, **FAST).fit(*blobs)
    # when it stopped was read off the rows: a bill for 6 steps would not cover that
    assert clf.n_steps_ == clf.privacy_["n_steps"] == 6
    assert clf.privacy_["n_billed"] == 15
    assert clf.epsilon_ == dpsgd_epsilon(150, 32, 2.0, 15, 1e-5)
    early = EarlyStopping("train_loss", patience=1, threshold=10.0)
    clf = DPSGDClassifier(callbacks=[early], **{**FAST, "max_epochs": 20}).fit(*blobs)
    assert clf.n_steps_ == 5 * clf.n_iter_ < 100


def test_warns_where_the_bill_is_worthless(blobs):
    clf = DPSGDClassifier(noise_multiplier=0.2, **FAST)
    with pytest.warns(PrivacyWarning, match="empirical defense only"):
        clf.fit(*blobs)
    assert clf.epsilon_ > 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.set_params(noise_multiplier=1.0).fit(*blobs)
    assert clf.epsilon_ < 50


@pytest.mark.slow
def test_empty_batches_are_steps(blobs):
    X, y = blobs
    params = {**FAST, "batch_size": 1, "max_epochs": 120}
    clf = DPSGDClassifier(noise_multiplier=20.0, **params).fit(X[:3], [0, 1, 0])
    sizes = [sum(b["train_batch_size"] for b in e["batches"]) for e in clf.history_]
    losses = [epoch["train_loss"] for epoch in clf.history_]
    empty = [
        all(b["train_loss"] == 0 for b in epoch["batches"]) for epoch in clf.history_
    ]
    assert clf.n_steps_ == 360 and sum(empty) > 1 and min(sizes) >= 1
    assert np.isfinite(losses).all()
    assert weights(clf).isfinite().all()


# ---------------------------------------------------------------------- refusals


class Normed(nn.Module):
    def __init__(self, n_features_in, n_classes, norm):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features_in, 8), norm, nn.Linear(8, n_classes)
        )

    def forward(self, X):
        return self.layers(X.flatten(1))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(8),
        nn.BatchNorm1d(8, affine=False, track_running_stats=False),
        nn.InstanceNorm1d(8, track_running_stats=True),
    ],
    ids=str,
)
def test_layers_that_mix_rows_are_refused_by_name(blobs, norm):
    clf = DPSGDClassifier(Normed, module__norm=norm, **FAST)
    with pytest.raises(ValueError, match=r"layer 'layers.1'.*Norm1d"):
        clf.fit(*blobs)
    DPSGDClassifier(Normed, module__norm=nn.GroupNorm(2, 8), **FAST).fit(*blobs)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"noise_multiplier": -1}, "noise_multiplier must be >= 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be > 0"),
        ({"target_epsilon": 0.0}, "target_epsilon must be > 0"),
        ({"delta": 0.0}, r"delta must be in \(0"),
        ({"engine": "jax"}, "engine must be one of 'native', 'opacus'"),
        ({"chunk_size": 0}, "chunk_size must be >= 1"),
        ({"iterator_train": torch.utils.data.DataLoader}, "iterator_train is not open"),
        ({"iterator_train__shuffle": False}, "iterator_train__shuffle is not open"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS asks for the gradient"),
        ({"criterion": lambda: nn.Softmax()}, "reduction='none'"),
        ({"criterion": nn.BCEWithLogitsLoss}, "Target size"),
    ],
    ids=lambda value: str(value).split(" at ")[0][:40],
)
def test_bad_parameters(blobs, params, message):
    with pytest.raises(ValueError, match=message):
        DPSGDClassifier(**{**FAST, **params}).fit(*blobs)


def test_wrong_outputs_are_named(blobs):
    with pytest.raises(ValueError, match=r"tensor of shape \(n_samples, 3\)"):
        DPSGDClassifier(nn.Linear(4, 5), **FAST).fit(*blobs)


def test_opacus_missing_is_said(blobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(ImportError, match="pip install"):
        DPSGDClassifier(engine="opacus", **FAST).fit(*blobs)


# --------------------------------------------------------------------- estimator


@pytest.mark.slow
def test_learns_digits_under_a_small_bill(digits):
    X, y = digits
    clf = DPSGDClassifier(lr=0.01, batch_size=128, device="cpu", random_state=0)
    clf.fit(X[:1400], y[:1400])
    assert clf.score(X[1400:], y[1400:]) > 0.8 and clf.epsilon_ < 12


def test_images_scheduler_augmentation_and_class_weights(digits):
    X, y = digits
    images = X[:300].reshape(-1, 1, 8, 8)
    clf = DPSGDClassifier(
        augment=ShiftFlip(),
        callbacks=[LRScheduler("StepLR", step_size=1, gamma=0.5)],
        criterion__weight=torch.linspace(0.5, 1.5, 10),
        **FAST,
    ).fit(images, y[:300])
    assert isinstance(clf.module_, ConvNet)
    assert clf.predict_proba(images).shape == (300, 10)
    np.testing.assert_allclose(clf.history_[-1, "event_lr"], 0.005 / 4)
    rows = DPSGDClassifier(input_shape=(1, 8, 8), **FAST).fit(X[:300], y[:300])
    assert isinstance(rows.module_, ConvNet)


def test_modules_without_rules_take_the_slow_way(blobs):
    class Scaled(MLP):
        def __init__(self, input_shape, n_outputs):
            super().__init__(input_shape, n_outputs)
            self.scale = nn.Parameter(torch.ones(n_outputs))

        def forward(self, X):
            return super().forward(X) * self.scale

    clf = DPSGDClassifier(Scaled, chunk_size=16, **FAST).fit(*blobs)
    assert (clf.module_.scale != 1).all()


def test_same_seed_same_bits_and_refit(blobs):
    clf = DPSGDClassifier(module__dropout=0.2, **FAST).fit(*blobs)
    first = clf.predict_proba(blobs[0])
    np.testing.assert_array_equal(clf.fit(*blobs).predict_proba(blobs[0]), first)
    other = clone(clf).set_params(random_state=1).fit(*blobs)
    assert (other.predict_proba(blobs[0]) != first).all()
    copied = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copied.predict_proba(blobs[0]), first)
    assert copied.privacy_ == clf.privacy_


def test_search_over_noise_and_module(blobs):
    search = GridSearchCV(
        DPSGDClassifier(**FAST),
        {"noise_multiplier": [0.5, 1.0], "module__hidden": [(8,), (16,)]},
        cv=2,
        n_jobs=2,
        error_score="raise",
    ).fit(*blobs)
    assert search.best_estimator_.noise_multiplier_ in (0.5, 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["native", "opacus"])
def test_cuda(digits, engine):
    if engine == "opacus":
        pytest.importorskip("opacus")
    X, y = digits
    clf = DPSGDClassifier(
        lr=0.01, batch_size=128, engine=engine, device="cuda", random_state=0
    ).fit(X[:1400], y[:1400])
    assert clf.score(X[1400:], y[1400:]) > 0.8
    pickle.loads(pickle.dumps(clf)).predict(X[:5])


# ------------------------------------------------------------------------ Opacus


def test_opacus_agrees_and_leaves_nothing(digits):
    pytest.importorskip("opacus")
    X, y = digits
    params = {
        **FAST,
        "input_shape": (1, 8, 8),
        "max_grad_norm": 0.5,
        "callbacks": [LRScheduler("StepLR", step_size=1, gamma=0.9)],
    }
    # without noise the two are the same arithmetic
    found = {}
    for engine_ in ("native", "opacus"):
        clf = DPSGDClassifier(noise_multiplier=0, engine=engine_, **params)
        with pytest.warns(PrivacyWarning):
            found[engine_] = clf.fit(X[:300], y[:300])
    native, opacus = found["native"], found["opacus"]
    torch.testing.assert_close(weights(native), weights(opacus), rtol=1e-3, atol=1e-4)
    text = "".join(str(arg) for _, arg, _ in pickletools.genops(pickle.dumps(opacus)))
    assert "opacus." not in text and "opacus" in text  # but for the parameter
    assert [*opacus.module_.state_dict()] == [*native.module_.state_dict()]
    assert type(opacus.net_.optimizer_) is type(native.net_.optimizer_)
    for part in (*opacus.module_.modules(), *opacus.module_.parameters()):
        assert not {"activations", "grad_sample", "summed_grad"} & {*vars(part)}
        assert not getattr(part, "_forward_hooks", None)


def test_opacus_bill(blobs):
    accountants = pytest.importorskip("opacus.accountants")
    clf = DPSGDClassifier(engine="opacus", noise_multiplier=1.2, **FAST).fit(*blobs)
    accountant = accountants.PRVAccountant()
    accountant.history = [(1.2, 32 / 150, clf.n_steps_)]
    assert clf.epsilon_ == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


@pytest.mark.slow
def test_opacus_learns_as_much(digits):
    pytest.importorskip("opacus")
    X, y = digits
    scores = [
        DPSGDClassifier(
            lr=0.01, batch_size=128, engine=engine_, device="cpu", random_state=0
        )
        .fit(X[:1400], y[:1400])
        .score(X[1400:], y[1400:])
        for engine_ in ("native", "opacus")
    ]
    assert min(scores) > 0.8 and abs(scores[0] - scores[1]) < 0.08


def test_opacus_takes_empty_batches(blobs):
    pytest.importorskip("opacus")
    params = {**FAST, "batch_size": 1, "max_epochs": 20}
    clf = DPSGDClassifier(engine="opacus", noise_multiplier=9.0, **params)
    clf.fit(blobs[0][:3], [0, 1, 0])
    assert clf.n_steps_ == 60
    assert clf.fit(blobs[0][:3], [0, 1, 0]).n_steps_ == 60
