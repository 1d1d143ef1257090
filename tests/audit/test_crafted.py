"""The audit of attacks that are crafted on networks, or aim at held-out targets."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

from skpoison.attacks import GradientMatchingAttack, WatermarkAttack
from skpoison.attacks._matching_attack import NothingToMatchError
from skpoison.audit import AuditContext, audit
from skpoison.audit._cli import cli
from skpoison.audit._registry import ATTACKS
from skpoison.models import TorchClassifier
from skpoison.utils import row_keys

pd = pytest.importorskip("pandas")

X, Y = load_digits(n_class=4, return_X_y=True)
X, Y = (X[:120] / 16).astype("float32"), Y[:120]
IMAGES = X.reshape(-1, 1, 8, 8)
NETWORK = TorchClassifier(max_epochs=2, device="cpu")
NEIGHBOUR = KNeighborsClassifier(1)
FAST = {"defenses": [], "budgets": (0, 0.1), "cv": 2, "random_state": 0, "verbose": 0}

AUTOMATIC = [
    "gradient-matching",
    "watermark",
    "sleeper-agent",
    "release-alignment",
    "blend-backdoor",
]
ON_REQUEST = [
    "metapoison",
    "feature-collision",
    "convex-polytope",
    "bullseye-polytope",
    "hidden-trigger",
    "sinusoid-backdoor",
    "all-to-all-backdoor",
]
TARGETED = {
    "gradient-matching",
    "watermark",
    "metapoison",
    "feature-collision",
    "convex-polytope",
    "bullseye-polytope",
}
NO_SURROGATE = {
    "watermark",
    "blend-backdoor",
    "sinusoid-backdoor",
    "all-to-all-backdoor",
}


@pytest.fixture(scope="module")
def report():
    return audit(NETWORK, IMAGES, Y, attacks=AUTOMATIC + ON_REQUEST, **FAST)


@pytest.mark.long
def test_every_entry_poisons_and_is_scored(report):
    table = report.table
    assert table["attack"].nunique() == 12 and len(table) == 12 * 2 * 2
    poisoned = table[table["budget"] > 0]
    assert (poisoned["n_poisoned"] == 6).all()
    assert poisoned["clean_score"].between(0, 1).all()
    assert (table["n_tries"] > 0).all()
    assert report.summary()["damage"].between(0, 1).all()


def test_budget_zero_is_the_clean_run(report):
    clean = report.table[report.table["budget"] == 0]
    assert (clean.groupby("fold")["clean_score"].nunique() == 1).all()
    assert (clean["n_poisoned"] == 0).all()
    np.testing.assert_array_equal(clean["n_success"], clean["n_control"])


def test_report_says_what_each_attacker_wants(report, tmp_path):
    attacks = report.meta["attacks"]
    assert {n for n, a in attacks.items() if a["goal"] == "targeted"} == TARGETED
    for name, attack in attacks.items():
        assert "wants" in attack["threat_model"]
        crafted = name not in NO_SURROGATE
        assert ("Crafted against each bare" in attack["threat_model"]) == crafted
        assert (" steps" in attack["summary"]) == crafted
        if "max_iter" in attack["parameters"]:
            steps = attack["parameters"].split("max_iter=")[1].split(",")[0].rstrip(")")
            assert f"{steps} steps" in attack["summary"]
    report.to_html(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.search(r"<h\d[^>]*>Targets<", text)
    assert "targeted attack are the targets" in text


def test_a_targeted_attack_has_a_try_a_target(report):
    tries = report.summary().set_index("attack")["n_tries"]
    for name, n_tries in tries.items():
        assert (n_tries == 2) == (name in TARGETED)


# Which attacks apply where


@pytest.mark.parametrize(
    "victim, data, automatic",
    [
        (NETWORK, IMAGES, True),
        (TorchClassifier(input_shape=(1, 8, 8)), X, True),
        (NETWORK, X, False),
        (LogisticRegression(), IMAGES, False),
        (LogisticRegression(), X, False),
    ],
    ids=["images", "flat images", "network on a table", "model on images", "table"],
)
def test_automatic_for_networks_on_images(victim, data, automatic):
    context = AuditContext.of(victim, data, Y)
    names = [entry.name for entry in ATTACKS.automatic(context)]
    assert [n for n in names if n in AUTOMATIC] == AUTOMATIC * automatic
    assert not set(names) & set(ON_REQUEST)
    for name in AUTOMATIC + ON_REQUEST:
        entry = ATTACKS.entries[name]
        surrogate = getattr(entry.make(context), "surrogate", None)
        assert (surrogate == "victim") == (context.neural and name not in NO_SURROGATE)


def test_stripes_need_images():
    stripes = ["sinusoid-backdoor"]
    with pytest.raises(ValueError, match="'sinusoid-backdoor' does not apply to a"):
        audit(NEIGHBOUR, X, Y, **{**FAST, "attacks": stripes})
    flat = TorchClassifier(max_epochs=1, input_shape=(1, 8, 8), device="cpu")
    found = audit(flat, X, Y, **{**FAST, "attacks": stripes})
    assert "input_shape=(1, 8, 8)" in found.meta["attacks"][stripes[0]]["parameters"]


def test_another_model_can_be_attacked_by_name():
    """What is crafted on the default network reaches a model of another kind."""
    found = audit(NEIGHBOUR, X, Y, **{**FAST, "attacks": ["bullseye-polytope"]})
    assert found.table["n_poisoned"].max() == 6
    threat = found.meta["attacks"]["bullseye-polytope"]["threat_model"]
    assert "Crafted against" not in threat


def test_list_shows_them():
    text = CliRunner().invoke(cli, ["list", "attacks"]).stdout
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert set(AUTOMATIC + ON_REQUEST) <= set(lines)
    assert "[flat images, images; classification]" in lines["sinusoid-backdoor"]


# Targets

CALLS = []


class Recording(WatermarkAttack):
    """Notes what it is given."""

    def _fit(self, X, y):
        given = self.targets, self.target_labels, self.target_true_labels
        CALLS.append((self.budget, X, *given))
        return super()._fit(X, y)


@pytest.mark.slow
def test_targets_are_held_out_and_the_same_for_all():
    CALLS.clear()
    found = audit(
        {"one": NEIGHBOUR, "two": KNeighborsClassifier(3)},
        X,
        Y,
        attacks={"a": Recording(), "b": Recording(alpha=0.9)},
        **{**FAST, "defenses": ["isolation-forest"], "budgets": (0, 0.05, 0.1)},
        n_trials=2,
    )
    targets = found.targets()
    assert len(targets) == 4 == len(targets[["fold", "trial"]].drop_duplicates())
    # both attacks at three budgets, on two folds in two trials
    assert len(CALLS) == 2 * 3 * 2 * 2
    keys, by_target = row_keys(X), {}
    for budget, rows, aims, wanted, true in CALLS:
        (row,) = np.flatnonzero(keys == row_keys(aims)[0])
        assert row_keys(aims)[0] not in row_keys(rows)
        assert Y[row] == true[0] != wanted[0]
        by_target.setdefault((row, wanted[0]), []).append(budget)
    assert [sorted(b) for b in by_target.values()] == [[0, 0, 0.05, 0.05, 0.1, 0.1]] * 4
    listed = zip(targets["row"], targets["wanted"], strict=True)
    assert {(row, int(wanted)) for row, wanted in listed} == set(by_target)
    tries = found.table.groupby(["attack", "defense", "budget"])["n_tries"].sum()
    assert (tries == 2 * 4).all()


def _neighbour_report(**params):
    return audit(NEIGHBOUR, X, Y, attacks={"copies": WatermarkAttack(**params)}, **FAST)


def test_success_and_control_are_of_the_targets():
    """Copies of the target with the wanted label: its nearest neighbour is one."""
    found = _neighbour_report(alpha=0.99)
    summary = found.summary().set_index("budget")
    assert summary.loc[0.1, "attack_success"] == 1 and summary.loc[0.1, "n_tries"] == 2
    assert summary.loc[0.1, "damage"] == 1 - summary.loc[0.1, "control_success"]
    # the test folds stay clean
    assert summary.loc[0.1, "clean_score"] > summary.loc[0, "clean_score"] - 0.1
    assert "(targets read as wanted: 100.0% [34.2%, 100.0%] of 2, control" in (
        found.recommendation
    )
    control = found.table[found.table["budget"] == 0].set_index("fold")["n_control"]
    folds = _folds_of(found)
    for target in found.meta["targets"]:
        train = folds[target["fold"]]
        assert target["row"] not in train
        clean = NEIGHBOUR.fit(X[train], Y[train]).predict(X[[target["row"]]])[0]
        assert control[target["fold"]] == (str(clean) == target["wanted"])


def _folds_of(found):
    from sklearn.model_selection import StratifiedKFold

    from skpoison.utils import RandomStreams

    seed = RandomStreams(found.meta["seed"]).seed("folds")
    folds = StratifiedKFold(2, shuffle=True, random_state=seed).split(X, Y)
    return [train for train, _ in folds]


def test_few_targets_rule_little_out():
    found = _neighbour_report(alpha=0.01)
    assert found.summary()["damage"].max() == 0
    assert "copies had 2 targets: at 0.1 a success of up to 66% can't" in (
        found.recommendation
    )


def test_several_targets_share_a_poisoning_and_a_label():
    found = audit(NEIGHBOUR, X, Y, attacks=["watermark"], n_targets=3, **FAST)
    targets = found.targets()
    assert len(targets) == 6 and (targets["class"] != targets["wanted"]).all()
    assert (targets.groupby("fold")["wanted"].nunique() == 1).all()
    assert (found.table["n_tries"] == 3).all()
    with pytest.raises(ValueError, match="n_targets must be >= 1"):
        audit(NEIGHBOUR, X, Y, attacks=["watermark"], n_targets=0, **FAST)


def test_rows_with_a_copy_in_training_are_no_targets(tmp_path):
    folds = [(np.arange(60, 120), np.arange(60)), (np.arange(60), np.arange(60, 120))]
    copied = X.copy()
    copied[60:119] = copied[:59]
    common = {**FAST, "cv": folds, "attacks": ["watermark"]}
    labels = np.r_[Y[:60], Y[:60]]
    # row 59 and row 119 have none; each is the only one left
    seeds = [s for s in range(8) if _has_target(copied, labels, common, s)]
    assert seeds
    for seed in seeds:
        found = audit(NEIGHBOUR, copied, labels, **{**common, "random_state": seed})
        assert found.targets()["row"].tolist() == [59, 119]
    copied[119] = copied[59]
    with pytest.raises(ValueError, match="n_targets=1: the test part of fold 0 has 0"):
        audit(NEIGHBOUR, copied, labels, **common, checkpoint=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def _has_target(X, y, common, seed):
    try:
        audit(NEIGHBOUR, X, y, **{**common, "random_state": seed})
    except ValueError as error:
        assert "are of another class than" in str(error)
        return False
    return True


def test_targets_of_the_caller_are_kept():
    attack = WatermarkAttack(np.full((1, 64), 0.5), target_labels=3, alpha=0.99)
    found = audit(NEIGHBOUR, X, Y, attacks={"mine": attack}, **FAST)
    assert found.meta["targets"] == []
    assert found.meta["attacks"]["mine"]["goal"] == "targeted"
    at = found.summary().set_index("budget").loc[0.1]
    assert at["attack_success"] == 1 and at["n_tries"] == 2


def test_targets_reach_victims_that_go_by_column_names():
    wine, labels = load_wine(return_X_y=True, as_frame=True)
    columns = ColumnTransformer([("all", StandardScaler(), list(wine.columns))])
    victim = make_pipeline(columns, LogisticRegression())
    found = audit(victim, wine, labels, attacks=["watermark"], **FAST)
    assert found.table["clean_score"].notna().all() and not found.meta["notes"]


# Crafting


class Satisfied(WatermarkAttack):
    """Finds its target read as wanted already."""

    def _craft(self, X, y, rows, streams):
        raise NothingToMatchError("targets: read as wanted")


def test_an_attacker_who_has_what_he_wants_does_nothing():
    with pytest.warns(UserWarning, match="no row was poisoned"):
        found = audit(NEIGHBOUR, X, Y, attacks={"idle": Satisfied()}, **FAST)
    table = found.table.set_index(["budget", "fold"])
    assert (table["n_poisoned"] == 0).all() and (table["n_tries"] == 1).all()
    np.testing.assert_array_equal(table.loc[0.1], table.loc[0])


class Curious(GradientMatchingAttack):
    """Notes the seed of its surrogate."""

    def _fit(self, X, y):
        CALLS.append(self.surrogate.random_state)
        return super()._fit(X, y)


def test_the_attacker_does_not_know_the_seed_of_a_network():
    CALLS.clear()
    victim = TorchClassifier(max_epochs=1, device="cpu", random_state=5)
    attack = Curious(surrogate="victim", max_iter=1, n_restarts=1)
    audit(victim, IMAGES, Y, attacks={"curious": attack}, **FAST)
    assert len(CALLS) == 4 and 5 not in CALLS and len(set(CALLS)) == 2


@pytest.mark.slow
def test_a_pipeline_without_gradient_has_a_stand_in():
    victim = make_pipeline(KBinsDiscretizer(3, encode="ordinal", strategy="uniform"))
    victim.steps.append(("network", NETWORK))
    found = audit(victim, X, Y, attacks=["convex-polytope"], **FAST)
    threat = found.meta["attacks"]["convex-polytope"]["threat_model"]
    assert "No gradient of estimator is known" in threat
    assert found.table["n_poisoned"].max() == 6


@pytest.mark.slow
def test_resumed_audit_equals_an_unbroken_one(tmp_path):
    arguments = {**FAST, "attacks": ["watermark", "bullseye-polytope"], "cv": 3}
    whole = audit(NETWORK, IMAGES, Y, **arguments)
    folder = tmp_path / "state"
    audit(NETWORK, IMAGES, Y, **arguments, checkpoint=folder)
    for path in sorted((folder / "jobs").iterdir())[::2]:
        path.unlink()
    again = audit(NETWORK, IMAGES, Y, **arguments, checkpoint=folder)
    pd.testing.assert_frame_equal(whole.table, again.table)
    pd.testing.assert_frame_equal(whole.targets(), again.targets())
    assert whole.recommendation == again.recommendation
    with pytest.raises(ValueError, match="another audit: n_targets differ"):
        audit(NETWORK, IMAGES, Y, **arguments, n_targets=2, checkpoint=folder)
