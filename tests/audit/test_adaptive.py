"""Attackers who know the defense: what they gain, and that nothing else changes."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import (
    BackdoorAttack,
    BilevelPoisoningAttack,
    ColumnTrigger,
    LabelFlipAttack,
)
from skpoison.audit import AttackEntry, DefenseEntry, audit, register_attack
from skpoison.audit._adaptive import (
    SurvivingPoison,
    _Copies,
    _NextBest,
    adaptation_to,
    is_filter,
    trusted_rows,
)
from skpoison.audit._registry import ATTACKS, DEFENSES
from skpoison.compose import FilteredEstimator
from skpoison.defenses import DataSanitizer, LabelIssueDetector
from skpoison.models import TorchClassifier

pd = pytest.importorskip("pandas")

X, Y = load_breast_cancer(return_X_y=True)
VICTIM = make_pipeline(StandardScaler(), LogisticRegression())
SANITIZED = FilteredEstimator(DataSanitizer(), VICTIM)
HALF = X[::2], Y[::2]
REST = X[1::2], Y[1::2]

ATTACKERS = {
    "flips": LabelFlipAttack("adversarial", random_state=0),
    "backdoor": BackdoorAttack(ColumnTrigger([0, 1], values=9.0), random_state=0),
    "added rows": BilevelPoisoningAttack(VICTIM, max_iter=20, random_state=0),
}


@pytest.fixture(scope="module", params=ATTACKERS)
def tried(request):
    attack = clone(ATTACKERS[request.param])
    static = attack.poison(*HALF)
    surviving = SurvivingPoison(attack, static, SANITIZED)
    return static, surviving, surviving.poison(*HALF)


def test_the_budget_is_kept_and_clean_rows_stay(tried):
    static, surviving, data = tried
    assert surviving.n_poisoned_ == len(static.poison_indices) == 28
    assert len(np.unique(data.poison_indices)) == 28 and len(data.y) == len(static.y)
    clean = np.setdiff1d(np.arange(len(data.y)), data.poison_indices)
    np.testing.assert_array_equal(data.X[clean], HALF[0][data.sample_indices[clean]])
    np.testing.assert_array_equal(data.y[clean], HALF[1][data.sample_indices[clean]])


def test_what_is_kept_did_most_harm_in_training(tried):
    static, surviving, data = tried
    assert surviving.harm_[surviving.best_round_] == max(surviving.harm_)
    n_first = surviving.n_surviving_[0]
    assert n_first == 28 or max(surviving.n_surviving_) > n_first
    assert len(surviving.harm_) <= 3
    model = clone(SANITIZED).fit(data.X, data.y)
    outcomes = surviving.attack_outcomes(model.predict, *HALF)
    assert outcomes.mean() == max(surviving.harm_)
    assert (data is static) == (surviving.best_round_ == 0)


def test_rows_that_are_found_give_way_to_others():
    attack = clone(ATTACKERS["flips"])
    refill = _NextBest(attack, attack.poison(*HALF), *HALF)
    first = refill.data()
    assert refill.replace(np.arange(28) >= 8)
    second = refill.data()
    assert len(second.poison_indices) == 28
    kept = np.intersect1d(first.poison_indices, second.poison_indices)
    np.testing.assert_array_equal(kept, np.sort(first.poison_indices[8:]))
    assert (second.y[second.poison_indices] != HALF[1][second.poison_indices]).all()
    assert (
        second.y[first.poison_indices[:8]] == HALF[1][first.poison_indices[:8]]
    ).all()
    # the new ones are those that a larger budget would have taken
    larger = clone(attack).set_params(budget=56).poison(*HALF).poison_indices
    assert set(second.poison_indices) <= set(larger)


def test_added_rows_become_copies_of_survivors():
    attack = clone(ATTACKERS["added rows"]).set_params(max_iter=0)
    static = attack.poison(*HALF)
    refill = _Copies(static)
    assert refill.replace(np.arange(28) >= 20)
    data = refill.data()
    survivors = static.X[static.poison_indices[20:]]
    assert len(data.poison_indices) == 28
    np.testing.assert_array_equal(
        data.X[data.poison_indices], survivors[np.arange(28) % 8]
    )
    np.testing.assert_array_equal(data.X[: len(HALF[0])], HALF[0])
    # all are found: the attacker has nothing left
    assert not refill.replace(np.zeros(28, dtype=bool))


def test_nothing_to_replace_is_one_round():
    attack = LabelFlipAttack(budget=4, random_state=0)
    static = attack.poison(*HALF)

    class Credulous(DataSanitizer):
        def fit_predict(self, X, y):
            return np.ones(len(y))

    surviving = SurvivingPoison(attack, static, FilteredEstimator(Credulous(), VICTIM))
    assert surviving.poison(*HALF) is static
    assert surviving.n_surviving_ == [4]


def test_what_cannot_be_trained_on_is_left_as_it_was():
    class Broken(DataSanitizer):
        def fit_predict(self, X, y):
            raise RuntimeError("no")

    attack = LabelFlipAttack(random_state=0)
    static = attack.poison(*HALF)
    surviving = SurvivingPoison(attack, static, FilteredEstimator(Broken(), VICTIM))
    assert surviving.poison(*HALF) is static and surviving.harm_ == []


def test_relabelled_rows_do_not_pass():
    wrap = DEFENSES.entries["label-repair"].wrap
    flips = LabelFlipAttack(budget=0.2, random_state=0).poison(*HALF)
    model = wrap(VICTIM).fit(flips.X, flips.y)
    assert is_filter(model) and model.is_clean_.all()
    passed = trusted_rows(model, flips.y)
    assert passed[flips.poison_indices].mean() < 0.5 < passed.mean()


@pytest.mark.slow
def test_survival_is_a_real_effect_against_the_label_filter():
    """Random flips, paired by fold; the control is the filter on clean data."""
    damage = {"static": [], "adaptive": []}
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(X, Y):
        attack = LabelFlipAttack(budget=0.2, random_state=0)
        static = attack.poison(X[train], Y[train])
        filtered = FilteredEstimator(LabelIssueDetector(random_state=1), VICTIM)
        adaptive = SurvivingPoison(attack, static, filtered).poison(X[train], Y[train])
        # the attacker did not know the filter's seed
        filtered = FilteredEstimator(LabelIssueDetector(random_state=2), VICTIM)
        clean = clone(filtered).fit(X[train], Y[train]).score(X[test], Y[test])
        for name, data in {"static": static, "adaptive": adaptive}.items():
            model = clone(filtered).fit(data.X, data.y)
            damage[name].append(clean - model.score(X[test], Y[test]))
    gained = np.subtract(damage["adaptive"], damage["static"])
    assert (gained > 0.005).all() and np.mean(gained) > 0.02


# In the audit


@pytest.fixture(scope="module")
def report():
    return audit(
        VICTIM,
        X,
        Y,
        attacks=["added-rows", "adaptive-rows"],
        defenses=["sanitizer", "partition-aggregation"],
        budgets=[0.1],
        cv=2,
        random_state=0,
        verbose=0,
    )


@pytest.mark.slow
def test_without_a_defense_and_without_a_way_it_is_the_static_attack(report):
    keys = ["defense", "budget", "fold"]
    static, adaptive = (
        report.table[report.table["attack"] == name]
        .set_index(keys)
        .drop(columns="attack")
        for name in ("added-rows", "adaptive-rows")
    )
    for defense in ("none", "partition-aggregation"):
        pd.testing.assert_frame_equal(static.loc[[defense]], adaptive.loc[[defense]])
    assert not static.loc[["sanitizer"]].equals(adaptive.loc[["sanitizer"]])
    threat = report.meta["attacks"]["adaptive-rows"]["threat_model"]
    assert "Crafted against each defended estimator" in threat
    assert "No way around partition-aggregation is known" in threat
    assert report.meta["attacks"]["adaptive-rows"]["adaptive"] is True
    assert report.meta["attacks"]["added-rows"]["adaptive"] is False


def test_it_does_more_behind_the_sanitizer(report):
    damage = report.summary().query("budget > 0").set_index(["attack", "defense"])
    damage = damage["damage"]
    static = damage.loc["added-rows", "sanitizer"]
    assert damage.loc["adaptive-rows", "sanitizer"] > static
    assert damage.loc["added-rows", "none"] > static


@pytest.mark.slow
def test_alone_it_is_what_it_is_beside_its_static_form(report):
    alone = audit(
        VICTIM,
        X,
        Y,
        attacks=["adaptive-rows"],
        defenses=["sanitizer", "partition-aggregation"],
        budgets=[0.1],
        cv=2,
        random_state=0,
        verbose=0,
        n_jobs=2,
    )
    both = report.table[report.table["attack"] == "adaptive-rows"]
    pd.testing.assert_frame_equal(alone.table, both.reset_index(drop=True))


CALLS = []


class Counting(DataSanitizer):
    """Notes that it was asked."""

    def fit_predict(self, X, y):
        CALLS.append(len(y))
        return super().fit_predict(X, y)


def test_a_filter_of_several_victims_runs_once():
    CALLS.clear()
    victims = {"one": VICTIM, "two": clone(VICTIM).set_params(standardscaler=None)}
    victims["two"].set_params(logisticregression__C=0.01)
    found = audit(
        victims,
        X[:, :5],
        Y,
        attacks=["random-flips"],
        defenses={"counting": Counting()},
        budgets=[0.1],
        cv=2,
        random_state=0,
        verbose=0,
    )
    assert len(CALLS) == 2 * 2  # a fold, clean and poisoned
    alone = audit(
        {"two": victims["two"]},
        X[:, :5],
        Y,
        attacks=["random-flips"],
        defenses={"counting": Counting()},
        budgets=[0.1],
        cv=2,
        random_state=0,
        verbose=0,
    )
    both = found.table[found.table["estimator"] == "two"].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, alone.table)


# Networks

DIGITS, LABELS = load_digits(n_class=3, return_X_y=True)
IMAGES = (DIGITS[:90] / 16).astype("float32").reshape(-1, 1, 8, 8)
NETWORK = TorchClassifier(max_epochs=2, device="cpu")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("mixup", {"mix": "Mixup"}),
        ("cutmix", {"mix": "CutMix"}),
        ("noise", {"mix": "Noise"}),
        ("dp-sgd", {"gradient_clip": 1.0, "gradient_noise": 1.0}),
        ("gradient-shaping", {"gradient_clip": 1.0, "gradient_noise": 0.01}),
        ("epic", None),
    ],
)
def test_gradient_matching_knows_what_the_defense_does(name, expected):
    known = adaptation_to(DEFENSES.entries[name].wrap(NETWORK))
    if expected is None:
        assert known is None
        return
    params = known.validate().get_params(deep=False)
    if "mix" in expected:
        params["mix"] = type(params["mix"]).__name__
    assert expected.items() <= params.items()


@pytest.fixture
def quick_matching():
    """Gradient matching of three steps, static and adaptive."""
    before = dict(ATTACKS.entries)
    for adaptive in (False, True):
        name = "quick-adaptive" if adaptive else "quick"
        threat = "Knows all."
        entry = AttackEntry(
            name, "quick", threat, _quick, goal="targeted", adaptive=adaptive
        )
        register_attack(entry)
    yield
    ATTACKS.entries = before


def _quick(context):
    from skpoison.attacks import GradientMatchingAttack

    return GradientMatchingAttack(surrogate="victim", max_iter=8, n_restarts=1)


@pytest.mark.slow
def test_networks_are_attacked_through_their_defenses(quick_matching):
    found = audit(
        NETWORK,
        IMAGES,
        LABELS[:90],
        attacks=["quick", "quick-adaptive"],
        defenses=["mixup", "spectral-signatures"],
        budgets=[0.1],
        cv=2,
        random_state=0,
        verbose=0,
    )
    assert not found.meta["notes"] and found.table["clean_score"].notna().all()
    made = {
        (p["attack"], p["defense"]): [row["after"] for row in p["rows"]]
        for p in found.findings["poisons"]
    }
    assert set(made) == {
        ("quick", None),
        ("quick-adaptive", "mixup"),
        ("quick-adaptive", "spectral-signatures"),
    }
    assert len({str(rows) for rows in made.values()}) == 3


def test_defense_entries_of_the_caller_are_adapted_to():
    entry = DefenseEntry("mine", "a sanitizer", _sanitized)
    model = entry.wrap(VICTIM)
    assert is_filter(model) and not is_filter(VICTIM)


def _sanitized(estimator):
    return FilteredEstimator(DataSanitizer(), estimator)
