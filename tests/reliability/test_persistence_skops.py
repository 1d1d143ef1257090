"""Fitted objects through skops files, and files that are refused."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from _instances import estimators
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skpoison.audit._cli import cli

io = pytest.importorskip("skops.io")
UntrustedTypesFoundException = io.exceptions.UntrustedTypesFoundException

X, Y = load_iris(return_X_y=True)
X = (X - X.min(axis=0)) / np.ptp(X, axis=0)
X, Y = X[::3], Y[::3]

#: What is not gone through, and why.
NOT_HERE = {
    "LiftedStereo": "takes pairs of images; its parts are those of LiftedPartition",
    "LiftedFlow": "takes pairs of images; its parts are those of LiftedPartition",
    "TangentKernel": "holds a bare torch module, which skops 0.16 does not write",
}
#: Where the types of a network's file come from; `print` is where skorch logs to.
ROOTS = {"skpoison", "skorch", "sklearn", "torch", "scipy", "numpy", "functools"}
OTHERS = {"builtins.print"}


def _one_of_each():
    found: dict = {}
    for estimator in estimators():
        found.setdefault(type(estimator).__name__, estimator)
    return found


EACH = _one_of_each()


def _fitted(estimator):
    params = estimator.get_params(deep=False)
    estimator = clone(estimator)
    if params.get("random_state", 0) is None:
        estimator.set_params(random_state=0)
    binary = type(estimator).__name__ == "SanitizedSVMBound"
    rows = Y > 0 if binary else slice(None)
    return estimator.fit(X[rows], Y[rows])


def _answers(model):
    found = []
    for name in ("predict", "predict_proba", "transform", "score_samples", "perturb"):
        if hasattr(model, name):
            labels = [Y] if name == "perturb" else []
            found.append(np.asarray(getattr(model, name)(X, *labels)))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(EACH.keys() - NOT_HERE.keys()))
def test_what_is_fitted_comes_back(name):
    model = _fitted(EACH[name])
    content = io.dumps(model)
    unknown = io.get_untrusted_types(data=content)
    with pytest.raises(UntrustedTypesFoundException):
        io.loads(content, trusted=[])
    roots = {kind.partition(".")[0] for kind in set(unknown) - OTHERS}
    assert "skpoison" in roots <= ROOTS
    loaded = io.loads(content, trusted=unknown)
    assert type(loaded) is type(model)
    assert repr(loaded) == repr(model)
    state = torch.random.get_rng_state()
    one, other = _answers(model), _answers(loaded)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_exceptions_are_public():
    assert NOT_HERE.keys() <= EACH.keys()


# The command line


def _audit(tmp_path, model):
    table = pd.DataFrame(X, columns=list("abcd")).assign(kind=Y)
    table.to_csv(tmp_path / "t.csv", index=False)
    line = ["audit", tmp_path / "t.csv", "--target", "kind", "--estimator", model]
    line += ["--cv", 2, "--budgets", "0,0.1", "--attacks", "random-flips"]
    line += ["--defenses", "", "--quiet"]
    return CliRunner().invoke(cli, [str(part) for part in line])


def hostile(X):
    """What an attacker would like to run: it leaves a trace."""
    sys.modules["hostile_ran"] = sys
    return X


class Hostile(LogisticRegression):
    def __setstate__(self, state):
        hostile(None)

    def __reduce__(self):
        return hostile, (None,)


def _hostile(kind):
    if kind == "function":
        return make_pipeline(FunctionTransformer(hostile), LogisticRegression())
    if kind == "type":
        return make_pipeline(Hostile())
    return FunctionTransformer(eval)


@pytest.mark.parametrize("kind", ["function", "type", "builtin"])
def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path, monkeypatch, kind):
    model = tmp_path / "m.skops"
    io.dump(_hostile(kind), model)
    monkeypatch.delitem(sys.modules, "hostile_ran", raising=False)
    found = _audit(tmp_path, model)
    assert found.exit_code == 2
    assert "holds types that are not trusted" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert "hostile_ran" not in sys.modules
    with pytest.raises(UntrustedTypesFoundException):
        io.load(model, trusted=[])
    assert "hostile_ran" not in sys.modules


class _Bomb:
    def __reduce__(self):
        return hostile, (None,)


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.joblib", "m.skops"])
def test_pickles_are_refused_whatever_their_name(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
    monkeypatch.delitem(sys.modules, "hostile_ran", raising=False)
    found = _audit(tmp_path, tmp_path / name)
    assert found.exit_code == 2
    assert "pickles run code when loaded" in found.stderr
    assert "hostile_ran" not in sys.modules
