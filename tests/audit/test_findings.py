"""What an audit finds beside scores: suspects, poisons, certificates, bills, cost."""

import json
import time

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import BackdoorAttack, ColumnTrigger, LabelFlipAttack
from skpoison.audit import audit
from skpoison.audit._checkpoint import RESULT_KEYS
from skpoison.defenses import LabelIssueDetector
from skpoison.models import MLP, TorchClassifier

pd = pytest.importorskip("pandas")

CANCER, ILL = load_breast_cancer(return_X_y=True)
X = pd.DataFrame(CANCER[:240, :6], columns=list("abcdef"))
Y = np.where(ILL[:240] == 1, "benign", "malign")
VICTIM = make_pipeline(StandardScaler(), LogisticRegression())
JUDGE = make_pipeline(StandardScaler(), LogisticRegression())
# wrong labels where they show
_SURE = np.abs(clone(JUDGE).fit(X, Y).decision_function(X))
WRONG = np.argsort(-_SURE)[10:14].tolist()
FAST = {"budgets": [0.05, 0.1], "cv": 2, "random_state": 0, "verbose": 0}


def _plain(estimator):
    return estimator


@pytest.fixture(scope="module")
def arguments():
    y = Y.copy()
    y[WRONG] = np.where(y[WRONG] == "benign", "malign", "benign")
    attacks = {
        "flips": LabelFlipAttack(),
        "mark": BackdoorAttack(ColumnTrigger([0], values=99.0)),
    }
    defenses = {
        "judge": LabelIssueDetector([JUDGE], cv=3),
        "plain": _plain,
    }
    return {
        "estimator": {"one": VICTIM},
        "X": X,
        "y": y,
        "attacks": attacks,
        "defenses": defenses,
        **FAST,
        "n_trials": 2,
    }


@pytest.fixture(scope="module")
def report(arguments):
    return audit(**arguments)


@pytest.mark.slow
def test_findings_are_plain(report):
    assert json.loads(json.dumps(report.findings)) == report.findings
    assert set(report.findings) == {
        "suspects",
        "filtering",
        "poisons",
        "certificates",
        "privacy",
    }
    assert report.findings["certificates"] == report.findings["privacy"] == []


def test_wrong_labels_are_the_first_suspects(report, arguments):
    suspects = report.findings["suspects"]
    assert set(WRONG) <= {s["row"] for s in suspects[:12]}
    shares = [s["n_dropped"] / s["n_seen"] for s in suspects]
    assert shares == sorted(shares, reverse=True) and len(suspects) <= 50
    by_row = {s["row"]: s for s in suspects}
    for row in WRONG:
        one = by_row[row]
        # in the training part of one of the two folds, in two trials
        assert one["n_seen"] == 2 and one["by"] == ["judge"]
        assert one["label"] == arguments["y"][row] != one["suggested"] == Y[row]
        assert 0.9 < one["score"] <= 1


def test_filters_are_counted_by_hand(report, arguments):
    """The backdoor draws rows at random: the judge finds some of its labels."""
    counts = {(c["attack"], c["budget"]): c for c in report.findings["filtering"]}
    assert set(counts) == {(a, b) for a in ("flips", "mark") for b in (0.05, 0.1)}
    table = report.table[report.table["defense"] == "judge"]
    for (attack, budget), one in counts.items():
        rows = table[(table["attack"] == attack) & (table["budget"] == budget)]
        assert (
            one["n_poisoned"] == rows["n_poisoned"].sum() == len(rows) * (budget * 120)
        )
        assert one["n_poisons_dropped"] <= min(one["n_dropped"], one["n_poisoned"])
        assert (one["estimator"], one["defense"]) == ("one", "judge")
    assert counts["flips", 0.1]["n_poisons_dropped"] > 24  # of 48


def test_poisons_are_shown_before_and_after(report, arguments):
    flips, mark = report.findings["poisons"]
    assert (flips["attack"], mark["attack"]) == ("flips", "mark")
    for one in (flips, mark):
        assert (one["estimator"], one["defense"], one["budget"]) == (None, None, 0.1)
        assert (one["kind"], one["shape"]) == ("table", None)
        assert one["columns"] == list("abcdef") and len(one["rows"]) == 4
        for row in one["rows"]:
            np.testing.assert_allclose(row["before"], X.iloc[row["row"]], rtol=1e-5)
            assert row["y_before"] == arguments["y"][row["row"]]
    for row in flips["rows"]:
        assert row["after"] == row["before"] and row["y_after"] != row["y_before"]
    for row in mark["rows"]:
        assert row["after"] == [99.0, *row["before"][1:]]
        assert row["y_after"] == "benign"


class Slow(LabelFlipAttack):
    """Takes its time."""

    def poison(self, X, y):
        time.sleep(0.05)
        return super().poison(X, y)


def test_crafting_is_paid_for_once():
    timings = audit(
        VICTIM, X, Y, attacks={"slow": Slow()}, defenses={"plain": _plain}, **FAST
    ).timings
    seconds = timings.set_index(["defense", "budget"])
    crafted = seconds["craft_seconds"]
    assert (crafted.xs(0, level="budget") == 0).all()
    for budget in FAST["budgets"]:
        assert (crafted.loc["none", budget] >= 0.05).all()
        assert (crafted.loc["plain", budget] < 0.05).all()
    assert (seconds["fit_seconds"] > 0).all()


@pytest.mark.slow
def test_killed_and_resumed_audits_find_the_same(report, arguments, tmp_path):
    first = audit(**arguments, checkpoint=tmp_path)
    assert first.findings == report.findings
    for path in sorted((tmp_path / "jobs").iterdir())[::2]:
        path.unlink()
    again = audit(**arguments, checkpoint=tmp_path)
    assert again.findings == report.findings
    pd.testing.assert_frame_equal(again.table, report.table)
    job = json.loads(next((tmp_path / "jobs").iterdir()).read_text())
    assert set(job) == set(RESULT_KEYS)
    head = json.loads((tmp_path / "audit.json").read_text())
    del head["version of the results"]  # as folders of before are
    (tmp_path / "audit.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match="version of the results differ"):
        audit(**arguments, checkpoint=tmp_path)


def test_certificates_come_from_clean_models():
    found = audit(
        VICTIM,
        CANCER,
        ILL,
        attacks=["random-flips"],
        defenses=["partition-aggregation", "label-flip-smoothing"],
        **{**FAST, "budgets": [0.1]},
    )
    certificates = found.findings["certificates"]
    assert [(c["defense"], c["fold"]) for c in certificates] == [
        ("partition-aggregation", 0),
        ("label-flip-smoothing", 0),
        ("partition-aggregation", 1),
        ("label-flip-smoothing", 1),
    ]
    clean = found.table[found.table["budget"] == 0].set_index(["defense", "fold"])
    for one in certificates:
        accuracy, radii = one["certified_accuracy"], one["radii"]
        assert radii[0] == 0 and radii == sorted(set(radii)) and len(radii) <= 21
        assert accuracy == sorted(accuracy, reverse=True) and accuracy[-1] == 0
        score = clean.loc[(one["defense"], one["fold"]), "clean_score"]
        assert accuracy[0] <= score + 1e-12
        assert one["trial"] == 0 and one["statement"].endswith(".")
    assert [c["unit"] for c in certificates[:2]] == ["poisoned rows", "flipped labels"]
    # ten votes: five can turn any of them
    assert certificates[0]["radii"][-1] <= 6
    assert (
        certificates[0]["certified_accuracy"][0]
        == clean["clean_score"].loc["partition-aggregation", 0]
    )


DIGITS, LABELS = load_digits(n_class=3, return_X_y=True)
IMAGES = (DIGITS[:120] / 16).astype("float32")


@pytest.mark.filterwarnings("ignore::skpoison.privacy.PrivacyWarning")
def test_bills_and_pictures_of_networks_on_images():
    network = TorchClassifier(
        MLP,
        module__hidden=(8,),
        input_shape=(1, 8, 8),
        max_epochs=2,
        batch_size=32,
        device="cpu",
    )
    found = audit(
        network,
        IMAGES,
        LABELS[:120],
        attacks=["backdoor"],
        defenses=["dp-sgd", "dp-instahide"],
        **{**FAST, "budgets": [0.1]},
    )
    bills = found.findings["privacy"]
    assert [(b["defense"], b["fold"]) for b in bills] == [
        ("dp-sgd", 0),
        ("dp-instahide", 0),
        ("dp-sgd", 1),
        ("dp-instahide", 1),
    ]
    for bill in bills:
        assert bill["epsilon"] > 0 and 0 < bill["delta"] < 1e-3
        assert bill["adjacency"] and all(
            isinstance(a, str) for a in bill["assumptions"]
        )
    (picture,) = found.findings["poisons"]
    assert (picture["kind"], picture["shape"]) == ("image", [1, 8, 8])
    for row in picture["rows"]:
        before, after = np.array(row["before"]), np.array(row["after"])
        np.testing.assert_allclose(
            before, IMAGES[row["row"]].reshape(1, 8, 8), rtol=1e-5
        )
        changed = np.argwhere((before != after)[0])
        assert len(changed) and set(changed.ravel()) <= {5, 6}  # the patch of two


def test_large_images_are_not_kept():
    from skpoison.audit import AuditContext
    from skpoison.audit._findings import describe_poison

    class Plan:
        context = AuditContext("images", (3, 65, 20), 2, True)

    large = describe_poison(Plan, np.arange(2), np.zeros((2, 3, 65, 20)), [0, 1], None)
    assert large["rows"] == [] and "larger than 64 x 64" in large["note"]


def test_added_rows_have_a_source_and_no_before():
    found = audit(
        VICTIM,
        CANCER[:120, :4],
        ILL[:120],
        attacks=["added-rows"],
        defenses=[],
        **{**FAST, "budgets": [3]},
    )
    (example,) = found.findings["poisons"]
    assert example["estimator"] == "estimator" and example["columns"] is None
    assert len(example["rows"]) == 3
    for row in example["rows"]:
        assert row["before"] is row["y_before"] is None and len(row["after"]) == 4
        # it began as a clean row with another label
        assert row["y_after"] != str(ILL[row["row"]])
