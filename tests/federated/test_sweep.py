"""Sweeps: paired seeds, checkpoints, and what the display shows."""

import builtins

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning

from skpoison.federated import (
    Bulyan,
    FederatedClassifier,
    Mean,
    Median,
    RobustnessSweepDisplay,
    SignFlipAttack,
    TrimmedMean,
    robustness_sweep,
)

X, Y = load_digits(return_X_y=True)
X = X / 16
DATA = (X[:600], Y[:600], X[600:900], Y[600:900])
FEDERATION = FederatedClassifier(n_clients=10, n_rounds=12, lr=0.3)
ATTACKS = {"none": None, "flip": SignFlipAttack(scale=8)}
RULES = {"mean": Mean(), "median": Median()}


def sweep(*args, **params):
    return robustness_sweep(FEDERATION, *args, 0.3, *DATA, every=5, **params)


def test_rows_and_errors_equal_training_by_hand():
    table = sweep(ATTACKS, RULES, seeds=(3, 4))
    assert len(table) == 2 * 2 * 2 * 3
    assert sorted(set(table["round"])) == [5, 10, 12]
    model = FederatedClassifier(
        n_clients=10,
        n_rounds=12,
        lr=0.3,
        n_byzantine=0.3,
        attack=SignFlipAttack(scale=8),
        aggregator=Median(),
        random_state=4,
    ).fit(*DATA[:2])
    row = table[
        (table.attack == "flip")
        & (table.aggregator == "median")
        & (table.seed == 4)
        & (table["round"] == 12)
    ]
    assert row["error"].item() == 1 - model.score(*DATA[2:])


def test_median_withstands_what_the_mean_does_not():
    errors = RobustnessSweepDisplay(sweep(ATTACKS, RULES)).errors(
        ["attack", "aggregator"]
    )
    assert errors["flip", "mean"] > errors["flip", "median"] + 0.3
    assert abs(errors["none", "mean"] - errors["none", "median"]) < 0.1


def test_parameters_in_the_place_of_objects_and_a_grid():
    table = sweep(
        [None],
        {"median + lfr": {"aggregator": Median(), "rejection": "lfr"}},
        param_grid={"bias": [0.1, 0.9]},
    )
    assert list(table["aggregator"].unique()) == ["median + lfr"]
    assert list(table["attack"].unique()) == ["none"]
    final = table[table["round"] == 12].set_index("bias")["error"]
    assert sorted(final.index) == [0.1, 0.9]
    assert final[0.1] != final[0.9]


def test_jobs_and_checkpoint_give_the_same_table(tmp_path, monkeypatch):
    whole = sweep(ATTACKS, RULES).drop(columns="seconds")
    parallel = sweep(ATTACKS, RULES, n_jobs=2).drop(columns="seconds")
    assert whole.equals(parallel)
    first = sweep(ATTACKS, RULES, checkpoint=tmp_path)
    (tmp_path / "run-2.npz").unlink()
    fits = []
    original = FederatedClassifier.partial_fit

    def counted(self, *args, **kwargs):
        fits.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FederatedClassifier, "partial_fit", counted)
    again = sweep(ATTACKS, RULES, checkpoint=tmp_path)
    assert len(fits) == 3  # one run, measured three times
    assert first.drop(columns="seconds").equals(again.drop(columns="seconds"))
    with pytest.raises(ValueError, match="checkpoint"):
        sweep(ATTACKS, {"mean": Mean()}, checkpoint=tmp_path)


def test_a_rule_that_does_not_apply_is_nan_and_all_of_them_an_error(tmp_path):
    rules = {"bulyan": Bulyan(), "median": Median()}
    with pytest.warns(FitFailedWarning, match="1 of 2 runs.*Bulyan needs n >= 4"):
        table = sweep([None], rules, checkpoint=tmp_path)
    errors = RobustnessSweepDisplay(table).errors(["aggregator"])
    assert np.isnan(errors["bulyan",]) and errors["median",] < 0.9
    with pytest.warns(FitFailedWarning):  # a failure is not kept
        sweep([None], rules, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="Bulyan needs n >= 4"):
        sweep([None], [Bulyan()])


def test_owners_are_passed_on():
    owners = np.arange(600) % 7
    federation = FederatedClassifier(n_rounds=12, lr=0.3)
    table = robustness_sweep(
        federation, [None], [Mean()], 2, *DATA, client_id=owners, every=12
    )
    model = federation.set_params(n_byzantine=2, random_state=0)
    model.fit(*DATA[:2], client_id=owners)
    assert table["error"].item() == 1 - model.score(*DATA[2:])


def test_without_pandas_it_is_a_bunch(monkeypatch):
    original = builtins.__import__

    def no_pandas(name, *args, **kwargs):
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    table = sweep({"none": None}, RULES)
    monkeypatch.undo()
    assert table["error"].shape == (6,)
    assert RobustnessSweepDisplay(table).errors(["aggregator"]).keys() == {
        ("mean",),
        ("median",),
    }


@pytest.mark.parametrize(
    "params, message",
    [
        ({"attacks": {}}, "attacks must hold at least one"),
        ({"aggregators": []}, "aggregators must hold at least one"),
        ({"seeds": ()}, "seeds must hold at least one"),
        ({"every": 0}, "every must be >= 1"),
        ({"param_grid": {"bais": [1]}}, "bais"),
    ],
)
def test_bad_parameters(params, message):
    params = {"attacks": ATTACKS, "aggregators": RULES, "every": 5, **params}
    attacks, rules = params.pop("attacks"), params.pop("aggregators")
    with pytest.raises(ValueError, match=message):
        robustness_sweep(FEDERATION, attacks, rules, 0.3, *DATA, **params)


def test_display_draws_every_cell_and_every_line():
    pytest.importorskip("matplotlib")
    table = robustness_sweep(
        FEDERATION, ATTACKS, RULES, [0.1, 0.3], *DATA, every=6, seeds=(0,)
    )
    display = RobustnessSweepDisplay(table)
    drawn = display.plot().ax_
    errors = display.errors(["attack", "aggregator"])
    assert {t.get_text() for t in drawn.texts} == {f"{e:.2f}" for e in errors.values()}
    lines = display.plot("curve", x="round").ax_.lines
    assert [len(line.get_xdata()) for line in lines] == [2] * 4
    lines = display.plot("curve").ax_.lines
    assert list(lines[0].get_xdata()) == [0.1, 0.3]
    assert display.errors(["attack"], last=12)["none",] == pytest.approx(
        table[table.attack == "none"]["error"].mean()
    )
    with pytest.raises(ValueError, match="no column"):
        display.plot("curve", x="bias")


def test_trimming_parameter_of_a_rule_can_be_swept():
    table = sweep(
        {"none": None},
        {f"trim {k}": TrimmedMean(n_trim=k) for k in (0, 4)},
    )
    errors = RobustnessSweepDisplay(table).errors(["aggregator"])
    assert errors["trim 0",] != errors["trim 4",]
