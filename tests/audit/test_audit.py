"""The audit: honest numbers, resumable, the same on any number of workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from skpoison.attacks import BackdoorAttack, ColumnTrigger, LabelFlipAttack
from skpoison.audit import (
    AttackEntry,
    AuditContext,
    AuditReport,
    DefenseEntry,
    audit,
    register_attack,
    register_defense,
)
from skpoison.audit._checkpoint import Checkpoint
from skpoison.audit._registry import ATTACKS, DEFENSES
from skpoison.compose import FilteredEstimator

pd = pytest.importorskip("pandas")

X, Y = load_wine(return_X_y=True)
VICTIM = make_pipeline(StandardScaler(), LogisticRegression())
FAST = {"budgets": (0, 0.1), "cv": 2, "random_state": 0, "verbose": 0}
SMALL = {**FAST, "attacks": ["random-flips", "backdoor"], "defenses": []}


def _same(a, b):
    pd.testing.assert_frame_equal(a.table, b.table)
    pd.testing.assert_frame_equal(a.summary(), b.summary())
    assert a.recommendation == b.recommendation


@pytest.fixture(scope="module")
def report():
    return audit(
        {"nb": GaussianNB(), "svm": make_pipeline(StandardScaler(), SVC())},
        X,
        Y,
        **{**FAST, "budgets": (0, 0.05, 0.2)},
        attacks=["random-flips", "adversarial-flips", "backdoor"],
        defenses=["label-filter"],
        n_trials=2,
    )


@pytest.mark.slow
def test_table_is_tidy_and_complete(report):
    table = report.table
    keys = ["estimator", "attack", "defense", "budget", "fold", "trial"]
    assert not table.duplicated(keys).any()
    assert len(table) == 2 * 3 * 2 * 3 * 2 * 2
    assert table["attack"].unique().tolist() == list(report.meta["attacks"])
    assert (table["n_poisoned"] <= table["budget"] * table["n_train"]).all()
    assert table["clean_score"].between(0, 1).all()
    assert (table["n_success"] <= table["n_tries"]).all()


def test_budget_zero_is_the_clean_run_for_every_attack(report):
    clean = report.table[report.table["budget"] == 0]
    keys = ["estimator", "defense", "fold", "trial"]
    assert (clean.groupby(keys)["clean_score"].nunique() == 1).all()
    np.testing.assert_array_equal(clean["attack_success"], clean["control_success"])


@pytest.mark.slow
def test_numbers_equal_a_loop_by_hand():
    """Folds, poison and victims can be rebuilt from the seeds that are stated."""
    folds = StratifiedKFold(3, shuffle=True, random_state=7)
    attack = BackdoorAttack(ColumnTrigger([0, 1], values=0.0), random_state=5)
    found = audit(
        VICTIM,
        X,
        Y,
        attacks={"mine": attack},
        defenses={"forest": IsolationForest(random_state=1)},
        budgets=[0.1],
        cv=folds,
        random_state=0,
        verbose=0,
    ).table.set_index(["defense", "budget", "fold"])
    for i, (train, test) in enumerate(folds.split(X, Y)):
        for budget in (0, 0.1):
            fold = clone(attack).set_params(budget=budget)
            data = fold.poison(X[train], Y[train])
            for name, model in {
                "none": clone(VICTIM),
                "forest": FilteredEstimator(IsolationForest(random_state=1), VICTIM),
            }.items():
                model.fit(data.X, data.y)
                row = found.loc[(name, budget, i)]
                assert row["clean_score"] == model.score(X[test], Y[test])
                success = fold.attack_success(model.predict, X[test], Y[test])
                assert row["attack_success"] == success


def test_summary_intervals_and_damage(report):
    summary = report.summary()
    assert len(summary) == 2 * 3 * 2 * 3
    inside = summary["low"] <= summary["attack_success"]
    assert (inside & (summary["attack_success"] <= summary["high"])).all()
    flips = summary[
        (summary["estimator"] == "nb") & (summary["attack"] == "adversarial-flips")
    ].set_index(["defense", "budget"])
    lost = flips.loc[("none", 0), "clean_score"] - flips["clean_score"]
    np.testing.assert_allclose(flips["damage"], lost.clip(lower=0))
    doors = summary[summary["attack"] == "backdoor"]
    gained = doors["attack_success"] - doors["control_success"]
    np.testing.assert_allclose(doors["damage"], gained.clip(lower=0))


def test_recommendation_follows_its_rule(report):
    ranking = report.ranking()
    for line, estimator in zip(
        report.recommendation.splitlines(), ["nb", "svm"], strict=True
    ):
        own = ranking[ranking["estimator"] == estimator].set_index("defense")
        gain = own.loc["none", "worst_damage"] - own.loc["label-filter", "worst_damage"]
        use = gain >= 0.02 and own.loc["label-filter", "price"] <= 0.02
        apart = own.loc["label-filter", "worst_high"] < own.loc["none", "worst_low"]
        assert own.loc["none", "worst_damage"] >= 0.05
        assert line.startswith(f"{estimator}: ")
        assert ("Use label-filter" in line) == (use and apart)
        assert ("try label-filter" in line) == (use and not apart)


def _report_of(damages, prices):
    """A report whose defenses have these worst damages and prices."""
    rows = []
    for defense, damage in damages.items():
        for budget in (0, 0.1):
            score = 0.9 - prices[defense] - (damage - prices[defense]) * (budget > 0)
            rows.append(
                {
                    "estimator": "e",
                    "attack": "flips",
                    "defense": defense,
                    "budget": budget,
                    "fold": 0,
                    "trial": 0,
                    "n_poisoned": 10,
                    "n_train": 100,
                    "clean_score": score,
                    "n_success": 10,
                    "n_tries": 100,
                    "attack_success": 0.1,
                    "n_control": 10,
                    "n_control_tries": 100,
                    "control_success": 0.1,
                }
            )
    meta = {
        "name": "made",
        "estimators": {"e": "e"},
        "attacks": {"flips": {"goal": "availability"}},
        "defenses": dict.fromkeys(damages, ""),
        "budgets": [0, 0.1],
    }
    return AuditReport(rows, [], meta)


@pytest.mark.parametrize(
    "damages, prices, expected",
    [
        ({"none": 0.3, "a": 0.1, "b": 0.04}, {"a": 0, "b": 0.01}, "Use b:"),
        ({"none": 0.3, "a": 0.1, "b": 0.04}, {"a": 0, "b": 0.03}, "Use a:"),
        ({"none": 0.3, "a": 0.29}, {"a": 0}, "None of the defenses"),
        ({"none": 0.3}, {}, "No defense was tested"),
        ({"none": 0.03, "a": 0.0}, {"a": 0}, "No defense is needed"),
        ({"none": 0.3, "a": 0.1}, {"a": 0}, "That is not safe yet"),
    ],
)
def test_recommendation_on_made_numbers(damages, prices, expected):
    assert expected in _report_of(damages, {"none": 0, **prices}).recommendation


def test_workers_do_not_change_the_result():
    _same(audit(VICTIM, X, Y, **SMALL), audit(VICTIM, X, Y, **SMALL, n_jobs=2))


def test_user_seeds_are_kept_and_missing_ones_are_drawn():
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(5)
    first = audit(forest, X, Y, **SMALL)
    _same(first, audit(forest, X, Y, **SMALL))
    other = audit(forest, X, Y, **{**SMALL, "random_state": 1})
    assert not first.table.equals(other.table)


@pytest.mark.long
def test_frames_strings_and_missing_values():
    from skpoison.utils import make_table_encoder

    frame = pd.DataFrame(X).add_prefix("f")
    frame["kind"] = np.where(X[:, 0] > 13, "high", "low")
    frame.loc[::9, "f0"] = np.nan
    labels = pd.Series(np.array(["a", "b", "c"])[Y], name="wine", index=frame.index)
    model = make_pipeline(make_table_encoder(frame), LogisticRegression())
    attacks = ["backdoor", "adaptive-flips"]
    defenses = ["label-filter", "partition-aggregation"]
    found = audit(
        model, frame, labels, **{**FAST, "attacks": attacks, "defenses": defenses}
    )
    assert found.meta["data"] == "mixed"
    context = AuditContext.of(model, frame, labels)
    automatic = [entry.name for entry in ATTACKS.automatic(context)]
    assert set(attacks) < set(automatic) and "clean-label-backdoor" not in automatic
    assert found.summary()["clean_score"].max() > 0.9
    changed = [p["rows"] for p in found.findings["poisons"] if p["rows"]]
    assert changed and all(isinstance(r["after"][-1], str) for r in changed[0])


@pytest.mark.slow
def test_images_and_networks_get_their_own():
    digits, labels = load_digits(return_X_y=True)
    from skpoison.models import TorchClassifier

    images = (digits[:300] / 16).astype("float32").reshape(-1, 1, 8, 8)
    found = audit(
        TorchClassifier(max_epochs=2, device="cpu"),
        images,
        labels[:300],
        **{**FAST, "attacks": ["backdoor", "clean-label-backdoor"]},
    )
    assert "PatchTrigger" in found.meta["attacks"]["backdoor"]["parameters"]
    assert list(found.meta["defenses"]) == [
        "none",
        "label-filter",
        "poison-detector",
        "mixup",
        "cutmix",
    ]
    assert found.table["clean_score"].notna().all()


def test_context_sees_through_pipelines():
    from scipy import sparse

    from skpoison.models import TorchClassifier

    network = make_pipeline(StandardScaler(), TorchClassifier(input_shape=(1, 8, 8)))
    context = AuditContext.of(network, np.zeros((4, 64)), [0, 1, 0, 1])
    assert (context.data, context.image_shape, context.neural) == (
        "numeric",
        (1, 8, 8),
        True,
    )
    context = AuditContext.of(SVC(), sparse.eye(4, format="csr"), [0, 1, 0, 1])
    assert (context.data, context.neural) == ("sparse", False)
    wrapped = DEFENSES.entries["mixup"].wrap(network)
    assert type(wrapped[-1]).__name__ == "MixupClassifier"
    assert wrapped[-1].input_shape == (1, 8, 8)


NEURAL = [name for name, entry in DEFENSES.entries.items() if entry.neural]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::skpoison.privacy.PrivacyWarning")
@pytest.mark.parametrize("name", NEURAL)
def test_every_training_defense_trains_the_network_it_is_given(name):
    from skpoison.models import MLP, TorchClassifier

    digits, labels = load_digits(return_X_y=True)
    network = TorchClassifier(
        MLP,
        module__hidden=(7,),
        input_shape=(1, 8, 8),
        max_epochs=2,
        device="cpu",
        random_state=0,
    )
    bare = make_pipeline(MinMaxScaler(), network)
    wrapped = DEFENSES.entries[name].wrap(bare).fit(digits[:200], labels[:200])
    assert type(bare[-1]) is TorchClassifier and type(wrapped[-1]) is not type(bare[-1])
    trained = wrapped[-1]
    if name in ("fine-pruning", "neural-cleanse"):  # around the network
        trained = trained.estimator_
        assert wrapped[-1].estimator.max_epochs == 2
    elif name != "abl":  # which has stages of its own before and after
        assert trained.n_iter_ == 2
    assert trained.max_epochs == 2
    assert trained.get_params()["module__hidden"] == (7,)
    assert wrapped.predict(digits[:5]).shape == (5,)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"estimator": SVC}, TypeError, r"is a class; pass an instance, SVC\(\)"),
        ({"estimator": {}}, ValueError, "at least one estimator"),
        ({"estimator": KFold()}, TypeError, "estimator API"),
        ({"y": np.zeros(len(Y))}, ValueError, "at least two classes"),
        ({"y": Y[:-1]}, ValueError, "inconsistent numbers of samples"),
        ({"attacks": ["nuke"]}, ValueError, "attacks: 'nuke' is not known; there are"),
        ({"attacks": "backdoor"}, ValueError, "attacks must be 'auto', a list"),
        ({"attacks": {"x": SVC()}}, TypeError, r"attacks\['x'\] must have poison"),
        ({"attacks": []}, ValueError, "attacks: none"),
        ({"defenses": ["mixup"]}, ValueError, "does not apply to a model on numeric"),
        ({"defenses": {"x": 3}}, TypeError, r"defenses\['x'\] must be a detector"),
        ({"budgets": [0]}, ValueError, "got only 0"),
        ({"budgets": [2.0]}, ValueError, r"budgets must be in \[0.0, 1.0\]"),
        ({"budgets": 0.1}, ValueError, "budgets must be a list"),
        ({"cv": 60}, ValueError, "48 rows, fewer than cv=60 folds"),
        ({"cv": 1}, ValueError, "cv must be >= 2"),
        ({"cv": GroupKFold(2)}, ValueError, "goes in as cv=list"),
        ({"budgets": [150]}, ValueError, "150 rows are more than the 89"),
        ({"budgets": [1, 1.0]}, ValueError, "1, a row, and 1.0, all rows"),
        ({"attacks": ["backdoor"] * 2}, ValueError, "attacks names one twice"),
        ({"defenses": {"none": SVC()}}, ValueError, "'none' is the bare estimator"),
        ({"scoring": ["accuracy"]}, ValueError, "scoring must be one scorer"),
        ({"n_trials": 0}, ValueError, r"n_trials must be in \[1, 10000\]"),
        ({"n_jobs": 0}, ValueError, "n_jobs must not be 0"),
        ({"scoring": "acuracy"}, ValueError, "acuracy"),
        ({"random_state": "x"}, ValueError, "random_state"),
    ],
)
def test_bad_input_is_named_before_any_work(change, error, message, tmp_path):
    arguments = {"estimator": VICTIM, "X": X, "y": Y, **SMALL}
    arguments.update(change, checkpoint=tmp_path / "state")
    with pytest.raises(error, match=message):
        audit(**arguments)
    assert not (tmp_path / "state").exists()


class Fragile(KNeighborsClassifier):
    """Can't be trained on what a trigger touched."""

    def fit(self, X, y):
        if (X[:, 0] == -99).any():
            raise RuntimeError("odd value")
        return super().fit(X, y)


def test_a_victim_that_fails_is_reported_and_the_rest_goes_on():
    attacks = {
        "odd": BackdoorAttack(ColumnTrigger([0], values=-99.0)),
        "flips": LabelFlipAttack(),
    }
    with pytest.warns(UserWarning, match="could not be trained under odd.*odd value"):
        found = audit({"fragile": Fragile()}, X, Y, **{**SMALL, "attacks": attacks})
    table = found.table.set_index(["attack", "budget"])
    assert table.loc[("odd", 0.1), "clean_score"].isna().all()
    assert table.loc[("flips", 0.1), "clean_score"].notna().all()
    assert (
        len(found.meta["notes"]) == 2 and "could not be trained" in found.recommendation
    )
    # an error on clean data is the caller's, and is raised
    with pytest.raises(RuntimeError, match="odd value"):
        audit(Fragile(), np.where(X < 12, -99, X), Y, **SMALL)


class Fickle(KNeighborsClassifier):
    """Fails on one of the folds, by what it holds."""

    def fit(self, X, y):
        if len(X) % 2 and (y[:5] != Y[:5]).any():
            raise RuntimeError("not today")
        return super().fit(X, y)


def _fickle(estimator):
    return Fickle()


def test_a_defense_that_fails_somewhere_is_never_recommended():
    """Folds of 118, 119 and 119 rows: fails on the odd ones, once poisoned."""
    attacks = {"flips": LabelFlipAttack(budget=0.5, random_state=0)}
    with pytest.warns(UserWarning, match="not today"):
        found = audit(
            VICTIM,
            X,
            Y,
            attacks=attacks,
            defenses={"fickle": _fickle},
            budgets=[0.9],
            cv=3,
            random_state=0,
            verbose=0,
        )
    summary = found.summary().set_index(["defense", "budget"])
    assert summary.loc[("fickle", 0.9), "n_failed"] > 0
    assert np.isnan(summary.loc[("fickle", 0.9), "damage"])
    assert np.isfinite(summary.loc[("none", 0.9), "damage"])
    assert "Use fickle" not in found.recommendation


def test_damage_without_poison_is_zero_on_unequal_folds():
    folds = [
        (np.arange(60, 178), np.arange(60)),
        (np.arange(60), np.arange(60, 178)),
        (np.arange(20, 178), np.arange(20)),
    ]
    summary = audit(
        KNeighborsClassifier(3), X, Y, **{**SMALL, "cv": folds, "budgets": [0.2]}
    ).summary()
    clean = summary[summary["budget"] == 0]
    assert (clean["damage"] == 0).all() and (clean["control_success"] > 0).any()


def test_bool_and_coded_columns_are_left_alone():
    """What a perturbation could not keep legal is not perturbed."""
    flag = np.random.RandomState(0).rand(len(Y)) < 0.5
    frame = pd.DataFrame(X[:, :3]).add_prefix("f").assign(flag=flag)
    from skpoison.utils import make_table_encoder

    model = make_pipeline(make_table_encoder(frame), LogisticRegression())
    context = AuditContext.of(model, frame, Y)
    names = [entry.name for entry in ATTACKS.automatic(context)]
    assert context.data == "mixed" and "clean-label-backdoor" not in names


def test_functions_of_a_script_serve_without_a_checkpoint(tmp_path):
    arguments = {**SMALL, "scoring": lambda e, X, y: e.score(X, y)}
    found = audit(VICTIM, X, Y, **arguments)
    assert found.table["clean_score"].notna().all()
    with pytest.raises(ValueError, match="another process can recognise"):
        audit(VICTIM, X, Y, **arguments, checkpoint=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_budget_of_no_row_is_noted_once():
    with pytest.warns(UserWarning) as caught:
        found = audit(VICTIM, X, Y, **{**SMALL, "budgets": [0.01, 0.1]})
    assert len(caught) == len(found.meta["notes"]) == 2
    assert "backdoor at budget 0.01: budget=0.01 of 89 rows" in found.meta["notes"][0]


# Checkpoints


@pytest.mark.slow
def test_resumed_audit_equals_an_unbroken_one(tmp_path):
    whole = audit(VICTIM, X, Y, **SMALL)
    folder = tmp_path / "state"
    first = audit(VICTIM, X, Y, **SMALL, checkpoint=folder)
    jobs = sorted((folder / "jobs").iterdir())
    for path in jobs[::2]:
        path.unlink()
    stamps = {p: p.stat().st_mtime_ns for p in jobs[1::2]}
    again = audit(VICTIM, X, Y, **SMALL, checkpoint=folder)
    _same(whole, first)
    _same(whole, again)
    assert all(p.stat().st_mtime_ns == t for p, t in stamps.items())


def test_unseeded_audit_resumes_with_its_own_seed(tmp_path):
    unseeded = {**SMALL, "random_state": None, "cv": KFold(2, shuffle=True)}
    first = audit(VICTIM, X, Y, **unseeded, checkpoint=tmp_path)
    for path in list((tmp_path / "jobs").iterdir())[::2]:
        path.unlink()
    _same(first, audit(VICTIM, X, Y, **unseeded, checkpoint=tmp_path))


def test_scores_that_are_no_shares_are_refused():
    with pytest.raises(ValueError, match=r"shares in \[0, 1\].*scored -"):
        audit(VICTIM, X, Y, **SMALL, scoring="neg_log_loss")


@pytest.mark.parametrize(
    "change",
    [
        {"estimator": GaussianNB()},
        {"X": X + 1},
        {"budgets": (0, 0.2)},
        {"random_state": 1},
        {"attacks": ["random-flips"]},
        {"cv": 3},
    ],
    ids=lambda c: next(iter(c)),
)
def test_checkpoint_of_another_audit_is_refused(tmp_path, change):
    arguments = {"estimator": VICTIM, "X": X, "y": Y, **SMALL, "checkpoint": tmp_path}
    audit(**arguments)
    before = sorted(p.name for p in (tmp_path / "jobs").iterdir())
    with pytest.raises(ValueError, match="holds another audit"):
        audit(**{**arguments, **change})
    assert sorted(p.name for p in (tmp_path / "jobs").iterdir()) == before


def test_damaged_checkpoint_is_named(tmp_path):
    audit(VICTIM, X, Y, **SMALL, checkpoint=tmp_path)
    path = next((tmp_path / "jobs").iterdir())
    for content in ("{", "[]", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{path.name} is damaged"):
            audit(VICTIM, X, Y, **SMALL, checkpoint=tmp_path)


SCRIPT = """
import sys
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from skpoison.audit import audit
X, y = load_breast_cancer(return_X_y=True)
report = audit(RandomForestClassifier(10), X, y, attacks=["random-flips", "backdoor"],
               defenses=["isolation-forest"], cv=3, random_state=0, verbose=0,
               checkpoint=sys.argv[1] if len(sys.argv) > 2 else None)
report.table.to_json(sys.argv[-1], orient="split", double_precision=15)
open(sys.argv[-1] + ".txt", "w").write(report.recommendation)
"""


@pytest.mark.long
def test_killed_at_random_moments_and_resumed(tmp_path):
    script, folder = tmp_path / "run.py", tmp_path / "state"
    script.write_text(SCRIPT)
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    subprocess.run([sys.executable, script, whole], check=True)
    rng = np.random.RandomState(os.getpid())
    for n_done in sorted(rng.choice(np.arange(1, 20), size=3, replace=False)):
        process = subprocess.Popen([sys.executable, script, folder, resumed])
        # 21 jobs in all: kill somewhere after the n-th
        while len(list(folder.glob("jobs/*.json"))) < n_done:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not resumed.exists()
    subprocess.run([sys.executable, script, folder, resumed], check=True)
    assert json.loads(resumed.read_text()) == json.loads(whole.read_text())
    texts = [p.with_name(p.name + ".txt").read_text() for p in (whole, resumed)]
    assert texts[0] == texts[1]


# The registry


@pytest.fixture
def registries():
    before = dict(ATTACKS.entries), dict(DEFENSES.entries)
    yield
    ATTACKS.entries, DEFENSES.entries = before


def _make_pair(context):
    return LabelFlipAttack("pair")


def _scaled(estimator):
    return make_pipeline(StandardScaler(), estimator)


@pytest.mark.slow
def test_registered_entries_join(registries):
    register_attack(AttackEntry("mine", "a test", "knows all", _make_pair))
    register_defense(DefenseEntry("scaling", "a test", _scaled))
    with pytest.raises(ValueError, match="called 'mine' already"):
        register_attack(AttackEntry("mine", "a test", "knows all", _make_pair))
    context = AuditContext.of(GaussianNB(), X, Y)
    assert "mine" in [entry.name for entry in ATTACKS.automatic(context)]
    found = audit(GaussianNB(), X, Y, **{**FAST, "attacks": ["mine"]})
    assert "scaling" in found.meta["defenses"]


def test_progress_and_estimate_go_to_stderr(capsys):
    audit(VICTIM, X, Y, **{**SMALL, "verbose": 1})
    out, err = capsys.readouterr()
    assert out == "" and "fits to go, about" in err and "GiB of memory" in err


def test_breast_cancer_reference_damage():
    """The figures that the README shows are of this kind."""
    cancer = load_breast_cancer(return_X_y=True)
    found = audit(
        VICTIM,
        *cancer,
        **{**FAST, "attacks": ["random-flips", "adversarial-flips", "backdoor"]},
        defenses=[],
    )
    worst = found.summary().query("budget == 0.1").set_index("attack")["damage"]
    assert worst["random-flips"] < 0.05 < worst["adversarial-flips"]
    assert worst["backdoor"] > 0.6


def test_unseeded_audits_that_begin_at_once_have_one_seed(tmp_path):
    barrier = threading.Barrier(8)

    def begin(seed):
        barrier.wait()
        return Checkpoint(tmp_path, {"data": "0"}, seed).root_seed

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(begin, range(8)))) == 1
