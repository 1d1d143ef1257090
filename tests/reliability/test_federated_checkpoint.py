"""A federation's checkpoint: whatever remembers rounds comes back; what is refused."""

import numpy as np
import pytest
from _instances import aggregators, update_attacks
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    ARC,
    NNM,
    BaseAggregator,
    Bucketing,
    CenteredClipping,
    DataPoisoningAttack,
    FederatedClassifier,
    FLTrust,
    Krum,
    Mean,
    ModelReplacementAttack,
    _saved,
)

X, Y = load_digits(n_class=3, return_X_y=True)
X, Y = X[:80] / 16, Y[:80]
BASE = {"n_clients": 11, "n_byzantine": 2, "n_rounds": 5, "random_state": 0}
SEEN = {"snapshot_every": 2, "record_updates": 3, "select": "best", "rejection": "lfr"}


class Stop(Exception):
    pass


def _stopping(at):
    def stop(clf):
        if clf.n_rounds_ == at:
            raise Stop

    return stop


def _history(clf):
    return {k: v for k, v in clf.history_.items() if not k.startswith("time")}


def _cases():
    for rule in [*aggregators(), FLTrust()]:
        yield type(rule).__name__, {"aggregator": rule}
    for part in (NNM(), Bucketing(), ARC()):
        rule = make_pipeline(part, CenteredClipping())
        yield type(part).__name__, {"aggregator": rule}
    for attack in update_attacks():
        # two that need data of the attacker's
        if not isinstance(attack, ModelReplacementAttack | DataPoisoningAttack):
            yield type(attack).__name__, {"attack": attack, **SEEN}
    own = SGDClassifier(random_state=0)
    yield "SGDClassifier", {"estimator": own, "clients_per_round": 0.5}


@pytest.mark.parametrize(
    "params", [pytest.param(params, id=name) for name, params in _cases()]
)
def test_every_rule_and_attack_goes_on_with_the_same_bits(
    tmp_path, monkeypatch, params
):
    monkeypatch.setattr(_saved, "_SECONDS_BETWEEN_SAVES", -1)
    params = {**BASE, **params}
    whole = FederatedClassifier(**params).fit(X, Y)
    params["checkpoint"] = tmp_path
    for at in (1, 3):
        with pytest.raises(Stop):
            FederatedClassifier(**params, callbacks=[_stopping(at)]).fit(X, Y)
    seen: list = []
    again = FederatedClassifier(
        **params, callbacks=[lambda clf: seen.append(clf.n_rounds_)]
    ).fit(X, Y)
    assert seen == [3, 4, 5]  # the third was lost with its callback
    assert again.weights_.tobytes() == whole.weights_.tobytes()
    np.testing.assert_equal(_history(again), _history(whole))
    one, other = again._state, whole._state
    np.testing.assert_equal(one.snapshots, other.snapshots)
    assert one.recorded.keys() == other.recorded.keys()
    for i, kept in one.recorded.items():
        np.testing.assert_equal(vars(kept), vars(other.recorded[i]))
    last = FederatedClassifier(**params, callbacks=[_stopping(5)]).fit(X, Y)
    assert last.n_rounds_ == 5  # nothing was left to do
    assert last.weights_.tobytes() == whole.weights_.tobytes()


def test_a_training_that_a_callback_ended_stays_ended(tmp_path):
    def enough(clf):
        return clf.n_rounds_ == 2

    clf = FederatedClassifier(**BASE, checkpoint=tmp_path, callbacks=[enough])
    first = clf.fit(X, Y).weights_
    again = clone(clf).set_params(callbacks=None).fit(X, Y)
    assert again.n_rounds_ == 2
    assert again.weights_.tobytes() == first.tobytes()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_training_that_diverged_does_so_again(tmp_path):
    clf = FederatedClassifier(**{**BASE, "lr": 3e38}, checkpoint=tmp_path)
    with pytest.warns(ConvergenceWarning, match="training ended after"):
        first = clf.fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="training ended after"):
        again = clone(clf).fit(X, Y)
    assert again.n_rounds_ == first.n_rounds_
    assert 0 < first.n_rounds_ < 5
    assert again.weights_.tobytes() == first.weights_.tobytes()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"checkpoint": 3}, TypeError, "checkpoint must be a folder, got 3"),
        ({"random_state": None}, ValueError, "checkpoint needs a random_state"),
        ({"checkpoint": __file__}, ValueError, "is a file, not a folder"),
    ],
    ids=["type", "unseeded", "file"],
)
def test_checkpoints_that_can_not_work_are_refused(tmp_path, change, error, message):
    params = {**BASE, "checkpoint": tmp_path / "new", **change}
    with pytest.raises(error, match=message):
        FederatedClassifier(**params).fit(X, Y)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["lr", "random_state", "n_rounds", "X", "y", "owners"])
def test_another_training_is_refused(tmp_path, name):
    FederatedClassifier(**BASE, checkpoint=tmp_path).fit(X, Y)
    other = {**BASE, "lr": 0.2} if name == "lr" else dict(BASE)
    for key in {"random_state", "n_rounds"} & {name}:
        other[key] += 1
    X_, Y_ = (X + 1 if name == "X" else X), (Y[::-1] if name == "y" else Y)
    owners = np.arange(len(X)) % 11 if name == "owners" else None
    clf = FederatedClassifier(**other, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds another training or other data"):
        clf.fit(X_, Y_, client_id=owners)


def test_how_a_training_is_run_and_watched_does_not_matter(tmp_path):
    clf = FederatedClassifier(**BASE, engine="loop", checkpoint=tmp_path).fit(X, Y)
    more = {"n_jobs": 2, "callbacks": [lambda clf: None]}
    assert clone(clf).set_params(**more).fit(X, Y).n_rounds_ == 5


class Hoarder(Mean):
    """A rule that remembers what can't be kept."""

    def _aggregate(self, matrix, n_byzantine):
        self.heap_ = [object()]
        return super()._aggregate(matrix, n_byzantine)


def test_what_can_not_be_kept_shows_in_the_first_round(tmp_path):
    assert issubclass(Hoarder, BaseAggregator)
    rounds: list = []
    clf = FederatedClassifier(
        **{**BASE, "aggregator": Hoarder()}, checkpoint=tmp_path,
        callbacks=[lambda clf: rounds.append(clf.n_rounds_)],
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"Hoarder\['heap_'\]\[0\] is of type object"):
        clf.fit(X, Y)
    assert rounds == [1]


def test_single_rounds_leave_the_folder_alone(tmp_path):
    clf = FederatedClassifier(**BASE, aggregator=Krum(), checkpoint=tmp_path / "new")
    clf.partial_fit(X, Y)
    assert not (tmp_path / "new").exists()
