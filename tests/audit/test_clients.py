"""Audits of data whose rows belong to clients."""

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.audit import AuditContext, audit
from skpoison.audit._cli import cli
from skpoison.audit._clients import Federation, federated
from skpoison.audit._registry import ATTACKS, DEFENSES
from skpoison.federated import FederatedClassifier, Krum, Median, SignFlipAttack

X, Y = load_digits(return_X_y=True)
X, Y = X[:600] / 16, Y[:600]
OWNERS = np.random.default_rng(0).integers(20, size=600)
VICTIM = FederatedClassifier(n_rounds=60, lr=0.3)
FLIP = {"flip": SignFlipAttack(scale=10)}


def run(estimator=VICTIM, **params):
    params = {
        "attacks": FLIP,
        "defenses": ["median"],
        "budgets": (0.2,),
        "cv": 2,
        "random_state": 0,
        "verbose": 0,
        "client_id": OWNERS,
        **params,
    }
    return audit(estimator, X, Y, **params)


def damages(report):
    summary = report.summary()
    attacked = summary[summary["budget"] != 0]
    return attacked.set_index("defense")["damage"].to_dict()


def test_a_rule_saves_what_the_mean_loses():
    report = run()
    found = damages(report)
    assert found["none"] > 0.4
    assert found["median"] < 0.15
    table = report.table
    clean = table[table.budget == 0]
    assert (clean.n_poisoned == 0).all()
    # four of twenty clients own about a fifth of the rows
    share = table[table.budget != 0].n_poisoned / table[table.budget != 0].n_train
    assert share.between(0.1, 0.3).all()
    assert "clients" in report.meta["attacks"]["flip"]["threat_model"]


@pytest.mark.slow
def test_every_rule_is_told_the_largest_budget_even_unattacked(monkeypatch):
    seen = []
    original = FederatedClassifier.fit

    def fit(self, *args, **kwargs):
        aggregator = self.get_params().get("aggregator__n_byzantine")
        seen.append((self.n_byzantine, self.attack is not None, aggregator))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FederatedClassifier, "fit", fit)
    run(defenses={"krum": Krum()}, budgets=(0.1, 0.2), cv=2)
    told = {s for s in seen if s[2] is not None}
    assert told == {(0, False, 4), (2, True, 4), (4, True, 4)}


def test_compromised_clients_are_nested_and_counted():
    federation = Federation(OWNERS, 7, 0.3)
    small, large = federation.compromised(0.1), federation.compromised(0.3)
    assert len(small) == 2 and len(large) == 6
    assert set(small) <= set(large)
    names = federation.clients[large]
    assert federation.n_rows(0.3) == np.isin(OWNERS, names).sum()
    assert len(federation.compromised(3)) == 3


def test_a_budget_of_no_client_is_told():
    with pytest.warns(UserWarning, match=r"\[0.01\] of 20 clients come to no client"):
        run(FederatedClassifier(n_rounds=1), budgets=(0.01, 0.2))


@pytest.mark.long
def test_plain_models_and_pipelines_are_trained_by_the_clients():
    model = federated(make_pipeline(StandardScaler(), SGDClassifier()))
    assert isinstance(model[-1], FederatedClassifier)
    assert isinstance(model[-1].estimator, SGDClassifier)
    assert isinstance(federated(SGDClassifier()), FederatedClassifier)
    assert federated(VICTIM) is VICTIM
    model[-1].set_params(n_rounds=15)
    found = damages(run(model))
    assert found["none"] > found["median"] + 0.2


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_entries_apply_to_clients_or_to_rows_never_to_both(registry):
    clients = AuditContext.of(VICTIM, X, Y, clients=True)
    rows = AuditContext.of(VICTIM, X, Y)
    assert registry.automatic(clients)
    for entry in registry.entries.values():
        assert not (registry.applies(entry, clients) and registry.applies(entry, rows))


@pytest.mark.long
def test_every_registered_attack_runs():
    names = [n for n, e in ATTACKS.entries.items() if e.clients]
    short = FederatedClassifier(n_rounds=6, lr=0.3)
    report = run(short, attacks=names, defenses=["trimmed-mean"])
    assert report.table["attack"].nunique() == len(names)
    assert np.isfinite(report.table["clean_score"]).all()
    assert not report.meta["notes"]


@pytest.mark.long
def test_every_registered_defense_runs_and_helps():
    names = [n for n, e in DEFENSES.entries.items() if e.clients]
    found = damages(run(defenses=names))
    # without any one of the attackers the model is as wrong as with it: all error
    # rates tie; and clients that reverse what they have learnt are not alike
    idle = {"rejection-err", "foolsgold"}
    assert np.isfinite(list(found.values())).all()
    for name in set(names) - idle:
        assert found[name] < found["none"] - 0.2, name


@pytest.mark.slow
def test_checkpoint_resumes_and_knows_its_owners(tmp_path):
    first = run(checkpoint=tmp_path)
    again = run(checkpoint=tmp_path)
    assert first.table.equals(again.table)
    with pytest.raises(ValueError, match="client_id differ"):
        run(checkpoint=tmp_path, client_id=OWNERS[::-1])


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"client_id": OWNERS[:10]}, ValueError, "the owner of each of n_samples=600"),
        ({"client_id": np.zeros(600)}, ValueError, "at least two clients"),
        (
            {"client_id": np.where(OWNERS == 3, np.nan, OWNERS)},
            ValueError,
            "client_id is missing for",
        ),
        ({"attacks": ["random-flips"]}, ValueError, "does not apply"),
        ({"defenses": ["label-filter"]}, ValueError, "does not apply"),
        ({"attacks": {"mine": Median()}}, TypeError, "skpoison.federated"),
        ({"budgets": (21,)}, ValueError, "budgets"),
        (
            {"estimator": FederatedClassifier(attack=SignFlipAttack())},
            ValueError,
            "attack of its own",
        ),
    ],
)
def test_bad_input(params, error, message):
    with pytest.raises(error, match=message):
        run(**params)


def test_entries_for_clients_do_not_apply_without_owners():
    with pytest.raises(ValueError, match="does not apply"):
        audit(VICTIM, X, Y, attacks=["directed-trim"], verbose=0)


@pytest.mark.slow
def test_command_line(tmp_path):
    pytest.importorskip("pandas")
    frame = load_breast_cancer(as_frame=True).frame
    frame["clinic"] = [f"clinic {i}" for i in np.arange(len(frame)) % 15]
    path = tmp_path / "cancer.csv"
    frame.to_csv(path, index=False)
    arguments = ["audit", str(path), "--target", "target", "--client-id", "clinic"]
    arguments += ["--attacks", "sign-flip", "--defenses", "median", "--cv", "2"]
    result = CliRunner().invoke(cli, [*arguments, "--budgets", "0.2", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "sign-flip" in result.output
    arguments[5] = "hospital"
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "'hospital' is no column" in result.output
