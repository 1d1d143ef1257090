import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_blobs
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skpoison.attacks import (
    AllToAllBackdoor,
    BackdoorAttack,
    BlendTrigger,
    CleanLabelBackdoorAttack,
    LabelFlipAttack,
    PatchTrigger,
)
from skpoison.compose import FilteredEstimator
from skpoison.datasets import fetch_fashion_mnist
from skpoison.defenses import PoisonDetector
from skpoison.defenses._poison_evidence import (
    LeaveOneOutRidge,
    common_values,
    split_in_two,
)
from skpoison.defenses._poison_evidence import (
    test_issues as judge_issues,
)
from skpoison.metrics import detection_report
from skpoison.models import TorchClassifier


def digits():
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 1, 8, 8), y


def poisoned(X, y, attack):
    data = attack.set_params(random_state=0).poison(X, y)
    return data.X, data.y, data.poison_mask


def detect(X, y, mask, **params):
    detector = PoisonDetector(features="input", random_state=0, **params).fit(X, y)
    return detector, detection_report(mask, detector.is_clean_, detector.scores_)


def network(**params):
    return TorchClassifier(max_epochs=3, device="cpu", random_state=0, **params)


@pytest.fixture(scope="module")
def backdoored():
    return poisoned(*digits(), BackdoorAttack(target_class=3, budget=0.05))


@pytest.fixture(scope="module")
def fitted(backdoored):
    X, y, _ = backdoored
    return PoisonDetector(features="input", random_state=0).fit(X, y)


# ------------------------------------------------------------------------- contract


@pytest.mark.slow
def test_fitted_attributes_agree(fitted, backdoored):
    X, y, mask = backdoored
    n, k = len(y), 10
    assert fitted.scores_.shape == fitted.is_clean_.shape == (n,)
    assert ((fitted.scores_ >= 0) & (fitted.scores_ <= 1)).all()
    assert fitted.is_poisoned_class_.nonzero()[0].tolist() == [3]
    assert fitted.evidence_[3] in ("input", "values")
    assert (np.delete(fitted.evidence_, 3) == "").all()
    assert fitted.separations_[3] > 10 and fitted.disagreements_[3] > 0.9
    assert fitted.p_values_.shape == fitted.thresholds_.shape == (k,)
    assert fitted.n_removed_ == (~fitted.is_clean_).sum()
    assert (fitted.scores_[~fitted.is_clean_] > 0.5).all()
    assert not hasattr(fitted, "estimator_")
    # the labels before the attack come back
    truth = digits()[1]
    assert (fitted.proposed_labels_[mask] == truth[mask]).mean() > 0.8
    np.testing.assert_array_equal(
        clone(fitted).fit_predict(X, y), np.where(fitted.is_clean_, 1, -1)
    )
    X_kept, y_kept = clone(fitted).fit_resample(X, y)
    np.testing.assert_array_equal(X_kept, X[fitted.sample_indices_])
    np.testing.assert_array_equal(y_kept, y[fitted.sample_indices_])


@pytest.mark.slow
def test_same_seed_jobs_pickle_and_global_generators(fitted, backdoored):
    X, y, _ = backdoored
    X_before = X.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.random.get_rng_state()
    a, b = (PoisonDetector(network(), random_state=1).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(a.scores_, b.scores_)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(X, X_before)
    again = pickle.loads(pickle.dumps(a))
    np.testing.assert_array_equal(again.scores_, a.scores_)
    np.testing.assert_array_equal(again.estimator_.predict(X), a.estimator_.predict(X))


@pytest.mark.slow
def test_labels_and_containers(fitted, backdoored):
    X, y, _ = backdoored
    names = np.array([f"digit {k}" for k in range(10)])
    named = PoisonDetector(features="input", random_state=0).fit(X, names[y])
    np.testing.assert_array_equal(named.scores_, fitted.scores_)
    np.testing.assert_array_equal(
        named.proposed_labels_, names[fitted.proposed_labels_]
    )
    pixels = PoisonDetector(features="input", random_state=0).fit(X.astype("uint8"), y)
    np.testing.assert_array_equal(pixels.is_clean_, fitted.is_clean_)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "callable", "layer", "frozen", "fitted"])
def test_where_features_come_from(backdoored, kind):
    X, y, mask = backdoored
    flat = X.reshape(len(X), -1)
    net = network()
    params = {
        "array": {"features": flat[:, ::2]},
        "callable": {"features": lambda X: X.reshape(len(X), -1)[:, ::2]},
        "layer": {"estimator": net, "features": "layers.2"},
        "frozen": {"estimator": FrozenEstimator(net.fit(X, y))},
        "fitted": {"estimator": net},
    }[kind]
    if kind == "layer":
        net = network().fit(X, y)
        last = [n for n, _ in net.module_.named_modules()][-1]
        params = {"estimator": net, "features": last}
    detector = PoisonDetector(**params, random_state=0).fit(X, y)
    found = detection_report(mask, detector.is_clean_, detector.scores_)
    assert found.recall > 0.9 and found.false_positive_rate < 0.01
    if kind in ("fitted", "layer"):
        assert detector.estimator_ is net
    elif kind == "frozen":
        assert detector.estimator_.estimator is net


@pytest.mark.slow
def test_features_of_what_is_no_table_of_numbers(backdoored):
    X, y, mask = backdoored
    flat = X.reshape(len(X), -1)

    class Opaque(LogisticRegression):
        """Takes rows of any kind."""

    rows = np.array([[f"row {i}"] for i in range(len(X))], dtype=object)
    detector = PoisonDetector(
        FrozenEstimator(Opaque().fit(flat, y)), features=flat, random_state=0
    ).fit(rows, y)
    found = detection_report(mask, detector.is_clean_)
    assert found.recall > 0.9 and found.false_positive_rate < 0.01


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"max_false_positive_rate": 1.5}, ValueError, "max_false_positive_rate"),
        ({"significance": -0.1}, ValueError, "significance"),
        ({"cv": 1}, ValueError, "cv"),
        ({"features": 3}, ValueError, "features"),
    ],
)
def test_wrong_parameters(params, error, match):
    X, y = load_wine(return_X_y=True)
    with pytest.raises(error, match=match):
        PoisonDetector(**{"features": "input", **params}).fit(X, y)


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class: 'a'"):
        PoisonDetector(features="input").fit(np.eye(3), ["a"] * 3)


# -------------------------------------------------------------- how well it detects


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_wine])
def test_clean_data_stay(load):
    X, y = load(return_X_y=True)
    detector, _ = detect(X, y, np.zeros(len(y), bool))
    assert detector.n_removed_ == 0
    assert not detector.is_poisoned_class_.any()


@pytest.mark.slow
def test_natural_groups_are_no_poison():
    X, y = digits()
    for grouped in (y % 2, (y < 5).astype(int)):
        detector, _ = detect(X, grouped, np.zeros(len(y), bool))
        assert detector.n_removed_ == 0
    X, y = make_blobs(900, centers=9, n_features=10, random_state=0)
    with pytest.warns(UserWarning, match="structure of the data"):
        detector, _ = detect(X, y % 3, np.zeros(len(y), bool))
    assert detector.n_removed_ == 0


ATTACKS = {
    "badnets 1 %": BackdoorAttack(target_class=0, budget=0.01),
    "badnets 5 %": BackdoorAttack(target_class=3, budget=0.05),
    "badnets 10 %": BackdoorAttack(target_class=8, budget=0.10),
    "over the digit": BackdoorAttack(
        PatchTrigger("solid", position=(3, 3)), target_class=3, budget=0.05
    ),
    "blend": BackdoorAttack(BlendTrigger(alpha=0.1), target_class=1, budget=0.05),
    "clean label": CleanLabelBackdoorAttack(
        PatchTrigger(size=2), target_class=5, budget=136
    ),
    "all to all": AllToAllBackdoor(PatchTrigger(), budget=0.05),
    "random flips": LabelFlipAttack("uniform", budget=0.1),
    "pair flips": LabelFlipAttack("pair", budget=0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_digits(name):
    X, y, mask = poisoned(*digits(), clone(ATTACKS[name]))
    _, found = detect(X, y, mask)
    assert found.recall > 0.85
    assert found.false_positive_rate < 0.02
    assert found.auc > 0.95


@pytest.mark.parametrize("budget", [0.05, 0.1])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_tables(load, budget):
    X, y = load(return_X_y=True)
    X, y, mask = poisoned(X, y, BackdoorAttack(target_class=1, budget=budget))
    _, found = detect(X, y, mask)
    assert found.recall > 0.85 and found.false_positive_rate < 0.02


@pytest.mark.slow
def test_the_network_is_used(backdoored):
    """Triggers that only the features show are found, those of the input as well."""
    X, y, mask = backdoored
    rng = np.random.RandomState(0)
    noise = rng.normal(size=(len(y), 20))
    shown = noise + 12 * mask[:, None] * np.eye(20)[0]
    X_hidden, y_hidden = digits()[0], y  # labels wrong, no trigger in the pixels
    blind, without = detect(X_hidden, y_hidden, mask)
    detector = PoisonDetector(features=shown, random_state=0).fit(X_hidden, y_hidden)
    found = detection_report(mask, detector.is_clean_, detector.scores_)
    assert detector.evidence_[3] == "features"
    assert found.recall == 1 and found.false_positive_rate == 0
    assert blind.evidence_[3] in ("labels", "")
    assert without.recall < 1


@pytest.mark.long
def test_the_budget_binds_and_is_monotone():
    X, y, mask = poisoned(*digits(), LabelFlipAttack("uniform", budget=0.1))
    last = np.zeros(len(y), dtype=bool)
    counts = []
    for budget in (0.0, 0.0005, 0.002, 0.01, 0.1):
        detector, _ = detect(X, y, mask, max_false_positive_rate=budget)
        flagged = ~detector.is_clean_
        lost = (1 - detector.scores_[flagged]).sum()
        assert lost <= budget * len(y) * (1 + 1e-6)
        assert not (last & ~flagged).any()
        assert (detector.scores_[flagged] >= detector.thresholds_[y[flagged]]).all()
        last, counts = flagged, [*counts, flagged.sum()]
    assert counts[0] == 0 < counts[1] < counts[2] < counts[-1]


@pytest.mark.slow
def test_search_over_filtered_estimator(backdoored):
    X, y, _ = backdoored
    search = GridSearchCV(
        FilteredEstimator(PoisonDetector(features="input", random_state=0), network()),
        {"detector__max_false_positive_rate": [0.0, 0.03]},
        cv=2,
        error_score="raise",
    ).fit(X, y)
    kept = search.best_estimator_.detector_.is_clean_
    assert len(kept) == len(y)


@pytest.mark.long
@pytest.mark.dataset("fashion_mnist")
def test_the_bar_on_fashion_mnist():
    X, y = fetch_fashion_mnist(
        subset="train", layout="nchw", dtype="float32", return_X_y=True
    )
    rows = np.random.default_rng(0).permutation(len(X))[:2500]
    X, y = X[rows].reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)), y[rows]
    params = {"estimator": TorchClassifier(device="cpu", max_epochs=10)}
    detector = PoisonDetector(**params, random_state=0).fit(X, y)
    assert detector.n_removed_ <= 0.03 * len(y)
    X, y, mask = poisoned(X, y, BackdoorAttack(target_class=0, budget=0.05))
    detector = PoisonDetector(**params, random_state=0).fit(X, y)
    found = detection_report(mask, detector.is_clean_, detector.scores_)
    assert found.recall > 0.9
    assert found.n_false_alarms <= 0.05 * len(y)


# ------------------------------------------------------------------ degenerate input


def degenerate():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 4))
    y = np.repeat([0, 1, 2], 20)
    return {
        "class of one row": (X, np.where(np.arange(60) == 0, 3, y)),
        "constant columns": (np.hstack([X, np.ones((60, 2))]), y),
        "all constant": (np.ones((60, 3)), y),
        "all rows equal": (np.tile(X[:1], (60, 1)), y),
        "ties everywhere": (np.round(X), y),
        "two rows": (X[:2], np.array([0, 1])),
        "two and one": (X[:3], np.array([0, 0, 1])),
        "more columns than rows": (rng.normal(size=(40, 200)), y[:40]),
        "huge units": (X * [1e12, 1.0, 1e-12, 1.0], y),
        "labels at random": (rng.normal(size=(300, 3)), rng.randint(0, 2, 300)),
        "every row its class": (X[:12], np.arange(12)),
    }


@pytest.mark.parametrize("case", degenerate())
def test_degenerate_input(case):
    X, y = degenerate()[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="classes with fewer than")
        warnings.filterwarnings("ignore", message=".*structure of the data")
        detector = PoisonDetector(features="input", random_state=0).fit(X, y)
    assert np.isfinite(detector.scores_).all()
    assert set(y[detector.is_clean_]) == set(y)
    assert detector.n_removed_ <= 0.05 * len(y)


def test_small_classes_are_named():
    X, y = degenerate()["class of one row"]
    with pytest.warns(UserWarning, match=r"not judged by patterns: \[3\]"):
        PoisonDetector(features="input", random_state=0).fit(X, y)
    with pytest.warns(UserWarning, match=r"not judged by labels: \[3\]"):
        PoisonDetector(features="input", random_state=0).fit(X, y)


# ------------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize("shape", [(30, 5), (20, 40)])
def test_leave_one_out_is_that(shape):
    rng = np.random.RandomState(0)
    X, u = rng.normal(size=shape), rng.randint(0, 2, shape[0]).astype(float)
    ridge = LeaveOneOutRidge(X)
    found, position = ridge.predict(u, 2)
    assert position == 2
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    penalty = 0.1 * len(X)
    for i in range(len(X)):
        kept = np.arange(len(X)) != i
        # the fit with an unpenalised constant, over the columns as they are scaled
        A = np.column_stack([np.ones(kept.sum()), Z[kept]])
        ridge_part = penalty * np.eye(A.shape[1])
        ridge_part[0, 0] = 0
        weights = np.linalg.solve(A.T @ A + ridge_part, A.T @ u[kept])
        np.testing.assert_allclose(found[i], np.r_[1, Z[i]] @ weights)
    losses = [((ridge.predict(u, k)[0] - u) ** 2).sum() for k in range(4)]
    assert ridge.predict(u)[1] == np.argmin(losses)


def test_split_in_two_by_hand():
    values = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 0.3, 0.1])
    assert split_in_two(values) == pytest.approx((0.3 + 5.0) / 2)


def test_common_values_by_hand():
    X = np.zeros((40, 3))
    X[:10, 1] = 7
    X[:, 2] = np.arange(40)
    excess, values, binary = common_values(X, np.repeat([0, 1], 20))
    assert excess[0].argmax() == 1 and values[0, 1] == 7 and values[1, 1] == 0
    assert (excess[:, [0, 2]] == 0).all()
    assert binary == 0.5  # one of the two columns that vary


def test_issue_test_by_hand():
    other, sure = np.zeros((2, 1000), dtype=bool)
    assert judge_issues(other, sure) == (1.0, 1.0)
    other[:100] = sure[:10] = True  # as many as in clean data
    assert judge_issues(other, sure)[0] > 0.5
    sure[:90] = True
    p_value, false_share = judge_issues(other, sure)
    assert p_value < 1e-50
    share = 0.06 + 0.4 * 10 / 910
    assert false_share == pytest.approx(10 * share / (1 - share) / 90)
