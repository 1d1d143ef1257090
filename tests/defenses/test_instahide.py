"""Noisy mixtures: the mechanism, its bill, and the estimators around it."""

import itertools
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit

from skpoison.defenses import DPInstaHideClassifier, InstaHideRelease
from skpoison.defenses._mixtures import Mechanism, draw_groups
from skpoison.models import can_train_together
from skpoison.privacy import PrivacyWarning, audit_epsilon, mix_epsilon

FAST = {"max_epochs": 2, "device": "cpu", "random_state": 0}
SAMPLINGS = ["without_replacement", "with_replacement", "regular", "partition"]
# most settings below are vacuous in pixel space, and say so
pytestmark = pytest.mark.filterwarnings(
    "ignore::skpoison.privacy.PrivacyWarning", "ignore:.*values of X are outside"
)


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(150, 3, centers=3, random_state=0)
    return np.clip(X / 12, -1, 1).astype(np.float32), y


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split((X / 16).astype(np.float32), y, random_state=0)


def rng(seed=0):
    return np.random.default_rng(seed)


def mechanism(shape=(1,), **params):
    return Mechanism.of(InstaHideRelease(**{"bounds": (0, 1), **params}), shape)


def groups_of(n_samples, n_mix, n_mixtures, sampling, seed=0):
    members, cuts = draw_groups(rng(seed), n_samples, n_mix, n_mixtures, sampling)
    assert len(cuts) == n_mixtures + 1
    return [members[a:b] for a, b in itertools.pairwise(cuts)]


# ------------------------------------------------------------------------ draws


@pytest.mark.parametrize("n_samples, n_mix", [(9, 3), (5, 3), (6, 1), (4, 4)])
def test_every_set_of_distinct_rows_is_as_likely(n_samples, n_mix):
    groups = groups_of(n_samples, n_mix, 20_000, "without_replacement")
    sets = list(itertools.combinations(range(n_samples), n_mix))
    place = {s: i for i, s in enumerate(sets)}
    counts = np.zeros(len(sets))
    for group in groups:  # a KeyError where a row comes twice
        counts[place[tuple(sorted(group.tolist()))]] += 1
    assert len(sets) == 1 or chisquare(counts).pvalue > 1e-3


def test_order_within_a_draw_is_uniform_too():
    # Poisson draws rest on it: they take the first rows of such a draw
    groups = groups_of(8, 3, 30_000, "without_replacement", seed=1)
    counts = np.zeros((8, 8, 8))
    np.add.at(counts, tuple(np.transpose(groups)), 1)
    counts = counts[counts > 0]
    assert len(counts) == 8 * 7 * 6
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n_samples, n_mix", [(40, 4), (6, 5)])
def test_poisson_rows_join_independently(n_samples, n_mix):
    groups = groups_of(n_samples, n_mix, 20_000, "poisson")
    joined = np.zeros((len(groups), n_samples))
    for i, group in enumerate(groups):
        assert len(set(group.tolist())) == len(group)
        joined[i, group] = 1
    q = n_mix / n_samples
    np.testing.assert_allclose(joined.mean(axis=0), q, atol=0.015)
    covariance = np.cov(joined.T)
    np.testing.assert_allclose(np.diag(covariance), q * (1 - q), atol=0.01)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=0.01)


def test_with_replacement_every_sequence_is_as_likely():
    groups = np.array(groups_of(5, 3, 20_000, "with_replacement"))
    counts = np.zeros((5, 5, 5))
    np.add.at(counts, tuple(groups.T), 1)
    assert chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("n_mix", [1, 4, 13])
def test_regular_holds_each_row_as_often_in_a_pass(n_mix):
    groups = np.array(groups_of(13, n_mix, 3 * 13, "regular"))
    for one_pass in np.split(groups, 3):
        np.testing.assert_array_equal(np.bincount(one_pass.ravel()), n_mix)
    assert all(len(set(g)) == n_mix for g in groups.tolist())


def test_regular_neighbours_are_apart():
    groups = np.array(groups_of(500, 4, 500, "regular"))
    shared = [len(set(a) & set(b)) for a, b in itertools.pairwise(groups.tolist())]
    assert np.mean(shared) < 0.2


def test_partition_shares_no_row_in_a_pass():
    groups = np.array(groups_of(14, 4, 7, "partition"))  # 3 passes, the last cut short
    for one_pass in (groups[:3], groups[3:6], groups[6:]):
        assert np.bincount(one_pass.ravel()).max() == 1


# --------------------------------------------------------------- one release


@pytest.mark.parametrize("sampling", [*SAMPLINGS, "poisson"])
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_release_is_mean_plus_noise(sampling, noise):
    X, y = rng().random((11, 2, 3)), rng(1).integers(3, size=11)
    labels = "noisy" if sampling == "poisson" else "public"
    mix = mechanism(
        (2, 3), n_mix=3, noise=noise, noise_scale=0.2, sampling=sampling,
        labels=labels, label_scale=0.0 if labels == "noisy" else None,
        clip_output=False,
    )  # fmt: skip
    members, cuts = mix.draw_groups(rng(2), 11, 9)
    Z, T = mix.release(rng(3), X, y, (members, cuts), 3)
    draws = rng(3)
    if noise == "laplace":
        expected = draws.standard_exponential((9, 6))
        expected *= 2 * draws.integers(2, size=(9, 6), dtype=np.int8) - 1
    else:
        expected = draws.standard_normal((9, 6))
    expected = 0.2 * expected.reshape(9, 2, 3)
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        target = np.zeros(3)
        for j in members[a:b]:
            expected[i] += X[j] / 3
            target[y[j]] += 1 / 3
        total = target.sum()
        target = target / total if total else np.full(3, 1 / 3)
        np.testing.assert_allclose(T[i], target, atol=1e-12)
    np.testing.assert_allclose(Z, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_noise_has_its_scale(noise, dtype):
    mix = mechanism((50,), noise=noise, noise_scale=0.3, clip_output=False)
    X, y = np.full((20, 50), 0.5, dtype), np.zeros(20, int)
    Z, _ = mix.release_all(rng(), X, y, 4000, 1)
    noise_drawn = (Z - 0.5).ravel()
    assert Z.dtype == dtype
    assert abs(noise_drawn.mean()) < 0.005
    spread = np.abs(noise_drawn).mean() if noise == "laplace" else noise_drawn.std()
    assert spread == pytest.approx(0.3, rel=0.01)
    fourth = np.mean(noise_drawn**4) / np.mean(noise_drawn**2) ** 2
    assert fourth == pytest.approx(6 if noise == "laplace" else 3, rel=0.1)


def test_blocks_make_no_difference_to_the_groups(monkeypatch):
    X, y = rng().random((30, 2)), np.arange(30) % 3
    mix = mechanism((2,), noise_scale=0.0)
    whole = mix.release_all(rng(), X, y, 100, 3)
    monkeypatch.setattr("skpoison.defenses._mixtures._BLOCK_VALUES", 14)
    for a, b in zip(whole, mix.release_all(rng(), X, y, 100, 3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_clipping_comes_after_the_noise_and_only_on_demand():
    X, y = rng().random((30, 2)), np.zeros(30, int)
    wild = mechanism((2,), noise_scale=2.0, clip_output=False)
    tame = mechanism((2,), noise_scale=2.0)
    raw, clipped = (m.release_all(rng(), X, y, 200, 1)[0] for m in (wild, tame))
    assert raw.min() < 0 and raw.max() > 1
    np.testing.assert_array_equal(clipped, np.clip(raw, 0, 1))


def test_noisy_labels_are_distributions():
    X, y = rng().random((30, 2)), np.arange(30) % 3
    mix = mechanism((2,), labels="noisy", label_scale=1.0)
    _, T = mix.release_all(rng(), X, y, 3000, 3)
    np.testing.assert_allclose(T.sum(axis=1), 1)
    assert T.min() >= 0
    uniform = np.isclose(T, 1 / 3).all(axis=1)  # all three fell below zero
    assert 0.02 < uniform.mean() < 0.2
    exact = mechanism((2,), labels="noisy", label_scale=0.0)
    _, T = exact.release_all(rng(), X, y, 300, 3)
    np.testing.assert_allclose(T * 4, np.rint(T * 4))


# ---------------------------------------------------------------- sensitivity


@pytest.mark.parametrize(
    "params, expected",
    [
        ({}, 6.0),
        ({"noise": "gaussian"}, np.sqrt(6)),
        ({"bounds": (-1, 1)}, 12.0),
        ({"bounds": (0, np.array([1, 2, 3.0]))}, 12.0),
        ({"bounds": (0, np.array([[1.0], [2.0]])), "noise": "gaussian"}, np.sqrt(15)),
        ({"clip_norm": 0.5}, 1.0),
        ({"clip_norm": 50}, 6.0),
        ({"clip_norm": 50, "bounds": (2, 3)}, 18.0),  # scaled, rows leave (2, 3)
        ({"clip_norm": 2, "bounds": None, "noise": "gaussian"}, 4.0),
        ({"bounds": None}, np.inf),
        ({"sampling": "poisson", "labels": "noisy", "bounds": (-2, 1)}, 12.0),
        ({"sampling": "poisson", "labels": "noisy", "clip_norm": 0.5}, 0.5),
    ],
)
def test_sensitivity(params, expected):
    mix = mechanism((2, 3), **params)
    assert mix.sensitivity == pytest.approx(expected)
    # and no pair of rows is farther apart, nor one row larger
    X = mix.clip(rng().normal(0, 4, (300, 2, 3))).reshape(300, 6)
    order = 2 if mix.noise == "gaussian" else 1
    pairs = X if mix.sampling == "poisson" else X[:150] - X[150:]
    assert np.linalg.norm(pairs, order, axis=1).max() <= mix.sensitivity * (1 + 1e-9)


def test_clip_norm_shortens_long_rows_alone():
    X = np.array([[0.3, 0.1], [0.9, 0.8]])
    clipped = mechanism((2,), clip_norm=1.0).clip(X)
    np.testing.assert_allclose(clipped, [[0.3, 0.1], [0.9 / 1.7, 0.8 / 1.7]])
    clipped = mechanism((2,), clip_norm=1.0, noise="gaussian").clip(X)
    np.testing.assert_allclose(np.linalg.norm(clipped, axis=1), [np.sqrt(0.1), 1])


# ---------------------------------------------------------------- the bill


@pytest.mark.parametrize(
    "params",
    [
        {"noise_scale": 1.0},
        {"noise_scale": 1.0, "noise": "gaussian"},
        {"noise_scale": 1.0, "noise": "gaussian", "delta": 0},
        {"noise_scale": 1.0, "sampling": "regular"},
        {"noise_scale": 1.0, "sampling": "partition", "n_mix": 2, "delta": 1e-4},
        {"noise_scale": 1.0, "sampling": "with_replacement"},
        {"noise_scale": 1.0, "labels": "noisy"},
        {
            "noise_scale": 1.0,
            "labels": "noisy",
            "label_scale": 2,
            "sampling": "poisson",
        },
        {"noise_scale": 1.0, "clip_norm": 0.5, "n_releases": 77},
    ],
    ids=str,
)
def test_release_bill_is_the_accountants(blobs, params):
    X, y = blobs
    release = InstaHideRelease(**params).fit(X, y)
    bill, count = release.privacy_, params.get("n_releases", 150)
    if params.get("sampling") == "partition":
        count = 75
    noisy = params.get("labels") == "noisy"
    delta = params.get("delta", 1e-5)
    known = {
        "noise": release.noise,
        "sensitivity": bill["sensitivity"],
        "sampling": release.sampling,
        "labels": release.labels,
        "class_counts": None if noisy else [50, 50, 50],
        "label_scale": params.get("label_scale", 1.0) if noisy else None,
    }
    args = (150, release.n_mix, 1.0, count)
    assert len(release.X_released_) == bill["n_releases"] == count
    assert (
        bill["epsilon"] == release.epsilon_ == mix_epsilon(*args, delta=delta, **known)
    )
    assert bill["epsilon_pure"] == mix_epsilon(*args, delta=0, **known)
    assert bill["delta"] == delta
    assert bill["n"] == 150 and bill["bounds"] == (-1, 1)
    assert "added or removed" in bill["adjacency"]
    assert ("labels public" in bill["adjacency"]) != noisy
    assert any("labels" in a for a in bill["assumptions"]) != noisy


def test_bill_is_plain_json(blobs):
    params = {
        "n_mix": np.int64(3), "noise_scale": np.float32(2), "delta": np.float32(1e-6),
        "bounds": (-np.ones(3, np.float32), 1), "clip_norm": np.float32(1),
        "labels": "noisy", "label_scale": np.float32(2),
    }  # fmt: skip
    models = (
        InstaHideRelease(n_releases=np.int64(9), **params),
        DPInstaHideClassifier(**params, **{**FAST, "max_epochs": np.int64(2)}),
    )
    for model in models:
        bill = model.fit(*blobs).privacy_
        assert json.loads(json.dumps(bill)) == {**bill, "bounds": [[-1.0] * 3, 1]}


def test_bill_says_that_callbacks_see_the_rows(blobs):
    for callbacks, told in ((None, False), ([EarlyStopping("train_loss")], True)):
        clf = DPInstaHideClassifier(callbacks=callbacks, noise_scale=3.0, **FAST)
        notes = clf.fit(*blobs).privacy_["assumptions"]
        assert any("callbacks" in note for note in notes) == told


def test_default_delta_is_below_one_over_n(blobs):
    X, y = blobs
    assert InstaHideRelease().fit(X, y).privacy_["delta"] == 1e-5
    many = np.zeros((20_000, 1)), np.arange(20_000) % 2
    assert InstaHideRelease(n_releases=1).fit(*many).privacy_["delta"] == 1 / 200_000


class StopAfter(Callback):
    def __init__(self, n_batches):
        self.n_batches = n_batches

    def on_batch_end(self, net, training, **kwargs):
        self.n_batches -= training
        if self.n_batches == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "params, expected",
    [
        ({}, 2 * 150),
        ({"batch_size": 149}, 2 * 150),  # a row alone joins the batch before it
        ({"sampling": "regular"}, 2 * 150),
        ({"sampling": "partition", "n_mix": 4}, 2 * 37),
        ({"callbacks": [StopAfter(4)]}, 150 + 64),
        ({"max_epochs": 0}, 0),
        ({"train_split": ValidSplit(5, stratified=True)}, 2 * 120),
        ({"release": "fixed"}, 150),
        ({"release": "fixed", "n_releases": 60, "max_epochs": 5}, 60),
        ({"release": "fixed", "train_split": ValidSplit(5, stratified=True)}, 120),
    ],
    ids=lambda value: str(value).split(" object")[0],
)
def test_every_row_of_every_batch_is_counted(blobs, params, expected):
    seen = []

    class Seen(Callback):
        def on_batch_begin(self, net, batch, training, **kwargs):
            if training:
                seen.append(batch)

    params = {**FAST, **params}
    params["callbacks"] = [Seen(), *params.get("callbacks", [])]
    clf = DPInstaHideClassifier(noise_scale=1.0, clip_output=False, **params)
    bill = clf.fit(*blobs).privacy_
    assert bill["n_releases"] == expected
    rows = np.concatenate([Z for Z, _ in seen]) if seen else np.empty((0, 3))
    assert len(np.unique(rows, axis=0)) == expected
    assert bill["n"] == (150 if clf.train_split is None else 120)
    held_out = any("held out" in a for a in bill["assumptions"])
    assert held_out == (clf.train_split is not None)
    stopped = any(isinstance(c, StopAfter) for c in params["callbacks"])
    assert bill["n_billed"] == (300 if stopped else expected)
    if expected:
        counts = [bill["n"] // 3] * 3
        assert bill["epsilon"] == mix_epsilon(
            bill["n"], clf.n_mix, 1.0, bill["n_billed"], sensitivity=6, delta=1e-5,
            sampling=clf.sampling, class_counts=counts,
        )  # fmt: skip
    else:
        assert clf.epsilon_ == 0


def test_early_stopping_is_billed_for_what_it_might_have_seen(blobs):
    """The end depends on the releases: a prefix of all that were planned."""
    clf = DPInstaHideClassifier(
        train_split=ValidSplit(5), callbacks=[EarlyStopping(patience=1, threshold=9)],
        max_epochs=30, device="cpu", random_state=0,
    ).fit(*blobs)  # fmt: skip
    assert clf.n_iter_ < 30
    assert clf.privacy_["n_releases"] == clf.n_iter_ * 120
    assert clf.privacy_["n_billed"] == 30 * 120
    assert "valid_acc" in clf.history_[-1]


@pytest.mark.parametrize(
    "params, message",
    [
        ({"noise_scale": 0}, "epsilon is inf: the noise hides nothing"),
        ({"bounds": None}, "epsilon is inf: without bounds or clip_norm"),
        ({"labels": "noisy", "label_scale": 0}, "epsilon is inf"),
        ({"noise_scale": 0.01}, "empirical defense only"),
    ],
)
@pytest.mark.parametrize("kind", [InstaHideRelease, DPInstaHideClassifier])
def test_warns_once_of_a_bill_that_is_no_guarantee(blobs, kind, params, message):
    fast = FAST if kind is DPInstaHideClassifier else {}
    with pytest.warns(PrivacyWarning, match=message) as caught:
        model = kind(**params, **fast).fit(*blobs)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert model.epsilon_ > 50


def test_warns_before_training_of_what_all_epochs_will_cost(blobs):
    batches = []

    class Seen(Callback):
        def on_batch_begin(self, net, **kwargs):
            batches.append(1)

    clf = DPInstaHideClassifier(noise_scale=0.5, callbacks=[Seen()], **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrivacyWarning)
        clf.fit(*blobs)
        batches.clear()
        with pytest.raises(PrivacyWarning, match="after 30000 releases"):
            clf.set_params(max_epochs=200).fit(*blobs)
    assert not batches


def test_quiet_when_the_bill_is_a_guarantee(blobs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release = InstaHideRelease(noise_scale=2.0).fit(*blobs)
        InstaHideRelease(noise="gaussian", noise_scale=2.0).fit(*blobs)
        clf = DPInstaHideClassifier(noise_scale=2.0, **FAST).fit(*blobs)
    assert release.epsilon_ < clf.epsilon_ < 50
    assert clf.privacy_["per_release"] < clf.privacy_["epsilon_pure"]


# ------------------------------------------------------- audit in one dimension


PUBLIC = {"n_samples": 6, "n_mix": 2, "noise_scale": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "params, delta, count, least",
    [
        (PUBLIC, 0, 1, 0.9),
        (PUBLIC, 0.05, 1, 0.8),
        ({**PUBLIC, "noise_scale": 0.2}, 0, 1, 0.9),
        ({**PUBLIC, "n_samples": 2}, 0, 1, 0.9),
        ({**PUBLIC, "noise": "gaussian", "noise_scale": 0.2}, 0.01, 1, 0.75),
        ({**PUBLIC, "noise": "gaussian"}, 0.05, 9, 0.5),
        ({**PUBLIC, "sampling": "with_replacement"}, 0, 1, 0.4),
        ({**PUBLIC, "sampling": "regular", "n_samples": 3}, 0, 3, 0.3),
        ({**PUBLIC, "sampling": "partition"}, 0, 3, 0.2),
    ],
    ids=str,
)
def test_audit_comes_near_the_bill_and_not_above(params, delta, count, least):
    """All rows are 0, or one is 1; the sum of the releases tells them apart."""
    params = dict(params)
    y = np.zeros(params.pop("n_samples"), int)
    mix = mechanism(clip_output=False, **params)
    m = 20_000 if mix.sampling in ("regular", "partition") else 200_000
    scores = []
    for one in (1.0, 0.0):
        X = np.zeros((len(y), 1))
        X[0] = one
        Z, _ = mix.release_all(rng(int(one)), X, y, m * count, 1)
        scores.append(Z.reshape(m, count).sum(axis=1))
    found = audit_epsilon(*scores, delta=delta, confidence=0.999)
    claim = mix.price([len(y)], count, delta)["epsilon"]
    assert least * claim < found < claim


def test_one_release_costs_what_enumeration_finds():
    mix = mechanism(n_mix=2, noise_scale=0.5)
    assert mix.price([6], 1)["epsilon_pure"] == pytest.approx(0.4528, abs=1e-4)


def test_audit_that_looks_at_public_labels_needs_the_smallest_class():
    mix = mechanism(n_mix=2, noise_scale=0.3, clip_output=False)
    scores = []
    for one in (1.0, 0.0):
        X = np.zeros((8, 1))
        X[0] = one
        Z, T = mix.release_all(rng(int(one)), X, np.repeat([0, 1], 4), 400_000, 2)
        scores.append(Z[T[:, 0] == 1, 0])  # both of the row's own class
    found = audit_epsilon(*scores, confidence=0.999)
    claim = mix.price([4, 4], 1)["epsilon_pure"]
    assert claim == pytest.approx(1.1465, abs=1e-4)  # by exact enumeration
    assert 0.7293 < 0.9 * claim < found < claim  # 0.7293 forgets the labels


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_mix": 151}, "n_mix=151 rows .* n_samples=150"),
        ({"n_mix": 0}, "n_mix must be >= 1"),
        ({"noise": "uniform"}, "noise must be one of"),
        ({"noise_scale": -1}, "noise_scale must be >= 0"),
        ({"labels": None}, "labels must be one of"),
        ({"sampling": "poison"}, "sampling must be one of"),
        ({"sampling": "poisson"}, "use labels='noisy'"),
        ({"label_scale": 1.0}, "label_scale=1.0 is for labels='noisy'"),
        ({"labels": "noisy", "label_scale": -1}, "label_scale must be >= 0"),
        ({"bounds": "data"}, "without looking"),
        ({"bounds": (1, 0)}, "low <= high"),
        ({"bounds": (1, 1)}, "leave no room"),
        ({"bounds": (0, np.ones(2))}, "broadcast"),
        ({"clip_norm": 0}, "clip_norm must be > 0"),
        ({"delta": -1e-5}, "delta must be >= 0"),
        ({"delta": 1}, r"delta must be in \[0, 1\)"),
        ({"n_releases": 0}, "n_releases must be >= 1"),
        (
            {"bounds": (0, 1), "clip_inputs": False},
            r"X lies outside bounds=\(0, 1\): its values span \[-",
        ),
    ],
)
@pytest.mark.parametrize("kind", [InstaHideRelease, DPInstaHideClassifier])
def test_bad_parameters(blobs, kind, params, message):
    with pytest.raises(ValueError, match=message):
        kind(**params).fit(*blobs)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"release": "once"}, "release must be one of"),
        ({"n_releases": 9}, "n_releases=9 is for release='fixed'"),
        ({"iterator_train": torch.utils.data.DataLoader}, "iterator_train can't"),
        ({"iterator_train__drop_last": True}, "iterator_train__drop_last can't"),
        ({"n_mix": 130, "train_split": ValidSplit(5)}, "n_samples=120"),
    ],
)
def test_bad_parameters_of_the_classifier(blobs, params, message):
    with pytest.raises(ValueError, match=message):
        DPInstaHideClassifier(device="cpu", **params).fit(*blobs)


@pytest.mark.parametrize("name", ["clip_inputs", "clip_output", "hard_labels"])
@pytest.mark.parametrize("value", ["no", None, 1])
def test_flags_are_bools(blobs, name, value):
    for kind in (InstaHideRelease, DPInstaHideClassifier):
        if name in kind().get_params():
            with pytest.raises(TypeError, match=f"{name} must be a bool, got"):
                kind(**{name: value}).fit(*blobs)


def test_rounding_at_the_edge_of_the_box_is_no_error():
    X = MinMaxScaler().fit_transform(rng().normal(size=(40, 3))) * np.float64(1 + 1e-15)
    release = InstaHideRelease(bounds=(0, 1), clip_inputs=False)
    release.fit(X, np.arange(40) % 2)
    assert release.X_released_.max() <= 1


# ---------------------------------------------------------------- the classifier


@pytest.mark.slow
@pytest.mark.parametrize("release", ["online", "fixed"])
def test_learns_tables_and_images(digits, release):
    X, X_test, y, y_test = digits
    params = {"bounds": (0, 1), "release": release, "device": "cpu", "random_state": 0}
    for shape in [(64,), (1, 8, 8)]:
        clf = DPInstaHideClassifier(n_mix=2, max_epochs=15, **params)
        clf.fit(X.reshape(-1, *shape), y)
        assert clf.score(X_test.reshape(-1, *shape), y_test) > 0.8


def test_pixels_are_divided_by_255(digits):
    X, _, y, _ = digits
    pixels = (X * 255).astype(np.uint8).reshape(-1, 1, 8, 8)
    params = {"bounds": (0, 1), "clip_inputs": False, **FAST}
    a = DPInstaHideClassifier(**params).fit(pixels, y)
    b = DPInstaHideClassifier(**params).fit(pixels / np.float32(255), y)
    np.testing.assert_array_equal(
        a.predict_proba(pixels[:20]), b.predict_proba(pixels[:20] / np.float32(255))
    )


@pytest.mark.parametrize("params", [{"bounds": (-0.1, 0.1)}, {"clip_norm": 0.2}])
def test_prediction_clips_as_training_does(blobs, params):
    X, y = blobs
    clf = DPInstaHideClassifier(**params, **FAST).fit(X, y)
    clipped = mechanism((3,), **{"bounds": (-1, 1), **params}).clip(X)
    assert (clipped != X).any()
    np.testing.assert_allclose(
        clf.predict_proba(X), clf.predict_proba(clipped), rtol=1e-5
    )


def test_says_what_share_was_clipped(blobs):
    X, y = blobs
    share = np.mean((X < -0.5) | (X > 0.5))
    with pytest.warns(UserWarning, match=f"^{share:.0%} of the values") as caught:
        DPInstaHideClassifier(bounds=(-0.5, 0.5), noise_scale=5.0, **FAST).fit(X, y)
    assert caught[0].filename == __file__


def test_same_seed_same_bits_and_another_seed_others(blobs):
    fit = [
        DPInstaHideClassifier(**{**FAST, "random_state": s}).fit(*blobs)
        for s in (3, 3, 4)
    ]
    a, b, c = (clf.predict_proba(blobs[0]) for clf in fit)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("params", [{}, {"release": "fixed"}, {"labels": "noisy"}])
def test_pickles_without_a_private_row(blobs, params):
    X, y = blobs
    clf = DPInstaHideClassifier(**params, **FAST).fit(X, y)
    blob = pickle.dumps(clf)
    assert not any(row.tobytes() in blob for row in X)
    restored = pickle.loads(blob)
    np.testing.assert_array_equal(restored.predict_proba(X), clf.predict_proba(X))
    assert restored.privacy_ == clf.privacy_
    assert clone(clf).get_params() == clf.get_params()


def test_search_and_pipeline(blobs):
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), DPInstaHideClassifier(bounds=(0, 1), **FAST)),
        {
            "dpinstahideclassifier__n_mix": [1, 4],
            "dpinstahideclassifier__noise_scale": [0.01, 3.0],
            "dpinstahideclassifier__module__hidden": [(8,), (64,)],
        },
        cv=2,
        error_score="raise",
    ).fit(*blobs)
    best = search.best_estimator_[-1]
    assert search.best_params_["dpinstahideclassifier__noise_scale"] == 0.01
    assert best.privacy_["n"] == 150


def test_is_not_trained_in_a_stack(blobs):
    """A stack has a loop of its own, which would see the rows themselves."""
    models = [DPInstaHideClassifier(**{**FAST, "random_state": s}) for s in (0, 1)]
    assert not can_train_together(models, [blobs[0]] * 2)


def test_augment_acts_on_what_is_released(blobs):
    seen = []

    def augment(X, generator):
        seen.append(X)
        return X

    X, y = blobs
    DPInstaHideClassifier(augment=augment, noise_scale=0.01, **FAST).fit(X, y)
    rows = torch.cat(seen).numpy()
    assert len(rows) == 300
    assert not np.isin(rows, X).all(axis=1).any()


def test_same_network_as_from_the_release(blobs):
    """The fixed release is what InstaHideRelease hands out: same law, same bill."""
    X, y = blobs
    clf = DPInstaHideClassifier(release="fixed", noise_scale=1.0, **FAST).fit(X, y)
    release = InstaHideRelease(noise_scale=1.0).fit(X, y)
    assert clf.privacy_ == release.privacy_


# ---------------------------------------------------------------- the release


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_release_keeps_type_and_shape(digits, dtype):
    X, _, y, _ = digits
    images = X.reshape(-1, 1, 8, 8).astype(dtype)
    release = InstaHideRelease(n_releases=50, bounds=(0, 1), random_state=0)
    X_out, y_out = release.fit_resample(images, np.array(list("abcdefghij"))[y])
    assert X_out.dtype == dtype and X_out.shape == (50, 1, 8, 8)
    assert set(y_out) <= set("abcdefghij")
    assert release.Y_released_.shape == (50, 10)
    np.testing.assert_allclose(release.Y_released_.sum(axis=1), 1, rtol=1e-6)
    assert X_out is release.X_released_
    again = clone(release).fit(images, y)
    np.testing.assert_array_equal(again.X_released_, X_out)


def test_release_of_pixels_is_float32(digits):
    X, _, y, _ = digits
    pixels = (X * 255).astype(np.uint8)
    X_out, _ = InstaHideRelease(bounds=(0, 1), random_state=0).fit_resample(pixels, y)
    assert X_out.dtype == np.float32
    assert X_out.max() <= 1


def test_hard_labels_are_the_likeliest_and_ties_are_fair():
    X, y = np.zeros((200, 1)), np.arange(200) % 2
    release = InstaHideRelease(n_mix=2, n_releases=4000, random_state=0)
    _, labels = release.fit_resample(X, y)
    Y = release.Y_released_
    sure = Y.max(axis=1) == 1
    np.testing.assert_array_equal(labels[sure], Y[sure].argmax(axis=1))
    assert 0.4 < sure.mean() < 0.6
    assert abs(labels[~sure].mean() - 0.5) < 0.05
    X_out, soft = release.set_params(hard_labels=False).fit_resample(X, y)
    assert soft is release.Y_released_


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_release_holds_no_private_row_nor_who_was_mixed(blobs, sampling):
    X, y = blobs
    X = X.astype(np.float64)
    release = InstaHideRelease(sampling=sampling)
    release.fit_resample(X, y)
    blob = pickle.dumps(release)
    assert not any(row.tobytes() in blob for row in X)
    assert {name for name in vars(release) if name.endswith("_")} == {
        "X_released_", "Y_released_", "classes_", "n_features_in_", "privacy_"
    }  # fmt: skip
    # and no seed of 31 bits, which could be tried one by one
    first = InstaHideRelease().fit(X, y).X_released_
    assert (first != InstaHideRelease().fit(X, y).X_released_).all()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_release_of_a_frame_is_a_frame(blobs, library):
    frames = pytest.importorskip(library)
    X, y = blobs[0].astype(float), blobs[1]
    table = frames.DataFrame({name: X[:, j] for j, name in enumerate("abc")})
    X_out, _ = InstaHideRelease(random_state=0).fit_resample(table, y)
    assert type(X_out) is frames.DataFrame
    assert list(X_out.columns) == ["a", "b", "c"]
    plain, _ = InstaHideRelease(random_state=0).fit_resample(X, y)
    np.testing.assert_array_equal(np.asarray(X_out), plain)


def test_release_in_the_pipeline_of_imbalanced_learn():
    pipeline = pytest.importorskip("imblearn.pipeline")
    X, y = load_breast_cancer(return_X_y=True)
    model = pipeline.make_pipeline(
        MinMaxScaler(),
        InstaHideRelease(bounds=(0, 1), random_state=0),
        LogisticRegression(),
    )
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    assert model.fit(X, y).score(X_test, y_test) > 0.9


def test_global_streams_stay(blobs):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    InstaHideRelease().fit(*blobs)
    DPInstaHideClassifier(max_epochs=1, device="cpu").fit(*blobs)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


# ---------------------------------------------------------------- scikit-learn


@pytest.mark.gpu
def test_gpu_learns_the_same(digits):
    X, X_test, y, y_test = digits
    scores = [
        DPInstaHideClassifier(
            n_mix=2, bounds=(0, 1), max_epochs=15, device=d, random_state=0
        )
        .fit(X, y)
        .score(X_test, y_test)
        for d in ("cpu", "cuda")
    ]
    assert abs(scores[0] - scores[1]) < 0.03
