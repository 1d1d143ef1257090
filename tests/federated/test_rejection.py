import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    NNM,
    CenteredClipping,
    FLTrust,
    FoolsGold,
    Krum,
    Mean,
    Median,
    Rejection,
    TrimmedMean,
)
from skpoison.federated._aggregators._server_rule import ServerRule


class Quadratic:
    """Errors and losses of a model that is best at one; counts the calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, candidates):
        self.calls += 1
        losses = ((np.asarray(candidates, dtype=np.float64) - 1) ** 2).mean(axis=1)
        return np.floor(losses * 4) / 4, losses


def made(n=12, n_bad=3, d=30, seed=0):
    """Return updates near one, the last of them far off."""
    updates = 1 + 0.3 * np.random.default_rng(seed).normal(size=(n, d))
    updates[n - n_bad :] = -4
    return updates


def naive(updates, rule, n_reject, which):
    """Return who is left out, calling the rule on the others for each client."""
    found = []
    for i in range(len(updates)):
        location = clone(rule)(np.delete(updates, i, axis=0))
        found.append(Quadratic()(location[np.newaxis])[which][0])
    return np.sort(np.argsort(found, kind="stable")[:n_reject]), found


@pytest.mark.parametrize("rule", [TrimmedMean(3), Median(3), Mean(3), Krum(3)])
def test_those_of_largest_impact_go(rule):
    updates = made()
    gone, losses = naive(updates, rule, 3, which=1)
    rejection, judge = Rejection("lfr", random_state=0), Quadratic()
    kept = rejection.keep(updates, rule, 3, judge)
    assert judge.calls == 1
    np.testing.assert_allclose(rejection.losses_, losses, rtol=1e-9)
    assert rejection.rejected_.tolist() == np.setdiff1d(np.arange(12), kept).tolist()
    if not isinstance(rule, Krum):  # without any client but one Krum's row is the same
        assert rejection.rejected_.tolist() == gone.tolist() == [9, 10, 11]


def test_error_rates_and_both():
    updates = made()
    errors = np.arange(12) % 6  # the least: 0 and 6, 1 and 7, ...
    losses = np.arange(12)[::-1]  # the least: 11, 10, ...

    def judge(candidates):
        return errors, losses

    def gone(method, n_reject):
        rejection = Rejection(method, n_reject=n_reject)
        kept = rejection.keep(updates, Mean(), 3, judge)
        assert len(kept) + len(rejection.rejected_) == 12
        return rejection.rejected_.tolist()

    assert gone("err", 4) == [0, 1, 6, 7]
    assert gone("lfr", 3) == [9, 10, 11]
    assert gone("union", 2) == [0, 6, 10, 11]
    assert gone("union", 6) == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert gone("union", None) in ([0, 1, 6, 9, 10, 11], [0, 6, 7, 9, 10, 11])
    assert gone("lfr", 0) == []


def test_a_real_model_on_digits():
    X, y = load_digits(return_X_y=True)
    X = np.c_[X / 16, np.ones(len(X))]
    onehot = np.eye(10)[y]

    def update(rows, labels):  # one step of softmax regression from zero
        return (5 * X[rows].T @ (labels[rows] - 0.1) / len(rows)).ravel()

    def judge(candidates):
        scores = np.einsum("ij,kjl->kil", X[1700:], candidates.reshape(-1, 65, 10))
        P = np.exp(scores - scores.max(axis=2, keepdims=True))
        P /= P.sum(axis=2, keepdims=True)
        errors = (P.argmax(axis=2) != y[1700:]).mean(axis=1)
        return errors, [log_loss(y[1700:], p, labels=range(10)) for p in P]

    parts = np.split(np.arange(1600), 20)
    updates = np.stack([update(rows, onehot) for rows in parts])
    updates[:4] = [3 * update(rows, onehot[:, ::-1]) for rows in parts[:4]]
    for method in ("err", "lfr", "union"):
        rejection = Rejection(method, random_state=0)
        kept = rejection.keep(updates, Mean(), 4, judge)
        assert not set(range(4)) & set(kept.tolist())
        before, after = judge(np.stack([Mean()(updates), Mean()(updates[kept])]))[1]
        assert after < before


# ---------------------------------------------------------------------------- ties


@pytest.mark.parametrize("method", ["err", "lfr"])
def test_ties_fall_on_anyone(method):
    updates = np.ones((10, 4))
    gone = np.zeros(10)
    for seed in range(200):
        rejection = Rejection(method, random_state=seed)
        rejection.keep(updates, Median(), 2, Quadratic())
        gone[rejection.rejected_] += 1
    assert gone.sum() == 400
    assert gone.min() > 20 and gone.max() < 65  # 40 each, with a deviation of 5.7


def test_ties_depend_on_the_seed_alone():
    updates = np.ones((30, 4))

    def kept(rng=None, **params):
        return Rejection(**params).keep(updates, Mean(), 5, Quadratic(), rng).tolist()

    assert kept(random_state=1) == kept(random_state=1) != kept(random_state=2)
    generators = [np.random.default_rng(s) for s in (0, 0, 1)]
    a, b, c = (kept(rng=g, random_state=1) for g in generators)
    assert a == b != c
    assert kept(rng=np.random.RandomState(0)) == kept(rng=np.random.RandomState(0))


# ------------------------------------------------------------------- rules, numbers


def test_the_rule_is_not_called_for_each_client():
    class Once(TrimmedMean):
        def __call__(self, updates):
            raise AssertionError

    kept = Rejection().keep(made(), Once(3), 3, Quadratic())
    assert kept.tolist() == list(range(9))


def test_any_form_of_a_rule():
    updates, expected = made(), list(range(9))
    pipeline = make_pipeline(NNM(), Mean())
    rules = [None, Mean(), pipeline, lambda U: U.mean(axis=0), ServerRule(Mean())]
    for rule in rules:
        kept = Rejection().keep(updates, rule, 3, Quadratic())
        assert len(kept) == 9
        if rule is not pipeline:
            assert kept.tolist() == expected
    kept = Rejection().keep(updates, FLTrust(), 3, Quadratic(), root_update=np.ones(30))
    assert len(kept) == 9  # whom it doesn't trust has no impact
    with pytest.raises(ValueError, match="can't be used with rejection"):
        Rejection().keep(updates, FoolsGold(), 3, Quadratic())


def test_a_rule_remembers_nothing_of_it():
    server = ServerRule(CenteredClipping())
    server(made(seed=1), 3)
    before = server.rule.location_.copy()
    Rejection().keep(made(), server, 3, Quadratic())
    np.testing.assert_array_equal(server.rule.location_, before)


def test_tensors_and_an_input_that_stays():
    updates = made().astype(np.float32)
    updates.flags.writeable = False
    kept = Rejection(random_state=0).keep(updates, TrimmedMean(), 3, Quadratic())

    def judge(candidates):
        assert isinstance(candidates, torch.Tensor)
        return tuple(torch.tensor(v) for v in Quadratic()(candidates))

    tensor = torch.tensor(np.array(updates))
    found = Rejection(random_state=0).keep(tensor, TrimmedMean(), 3, judge)
    assert isinstance(found, np.ndarray) and found.tolist() == kept.tolist()


def test_faulty_updates_go_first():
    updates = made(n_bad=1)
    updates[[2, 5]] = [[np.nan], [np.inf]]
    rejection = Rejection()
    rejection.keep(updates, TrimmedMean(), 3, Quadratic())
    assert rejection.rejected_.tolist() == [2, 5, 11]
    rejection = Rejection(n_reject=1, n_byzantine_after="reduced")
    kept = rejection.keep(updates, TrimmedMean(), 3, Quadratic())
    assert rejection.rejected_[0] in (2, 5) and len(kept) == 11
    with pytest.raises(ValueError, match="more than its f=1"):
        Rejection().keep(updates, TrimmedMean(), 1, Quadratic())


@pytest.mark.parametrize("value", [1e30, 3e38, -3e38])
def test_huge_updates_go(value):
    updates = made(n_bad=2).astype(np.float32)
    updates[-2:] = value
    for rule in (TrimmedMean(), Median(), Krum()):
        kept = Rejection("union").keep(updates, rule, 2, Quadratic())
        assert len(kept) >= 8
    # the mean: all models but those without them are beyond any number
    updates[:-1] = made(n_bad=0)[:-1]
    rejection = Rejection("lfr")
    with np.errstate(over="ignore", invalid="ignore"):
        rejection.keep(updates, Mean(), 1, Quadratic())
    assert rejection.rejected_.tolist() == [11]


def test_losses_that_are_not_numbers_are_the_worst():
    losses = np.array([5.0, np.nan, 4.0, np.inf, np.nan, 6.0])
    rejection = Rejection("lfr", n_reject=3)
    rejection.keep(made(6), Mean(), 1, lambda _: (np.zeros(6), losses))
    assert rejection.rejected_.tolist() == [0, 2, 5]


def test_how_many_liars_are_left():
    assert Rejection().n_byzantine_after_(3, 9, 12) == 3
    reduced = Rejection(n_byzantine_after="reduced")
    assert reduced.n_byzantine_after_(3, 9, 12) == 0
    assert reduced.n_byzantine_after_(3, 10, 12) == 1
    assert reduced.n_byzantine_after_(3, 6, 12) == 0


def test_too_few_left_for_the_rule():
    message = (
        r"leaves 9 of n=12 clients, n_byzantine=4 of them, too few for the rule: Krum "
        r"needs n >= 2\*f\+3: n=9, f=4"
    )
    with pytest.raises(ValueError, match=message):
        Rejection(n_reject=3).keep(made(), Krum(), 4, Quadratic())
    reduced = Rejection(n_reject=3, n_byzantine_after="reduced")
    assert len(reduced.keep(made(), Krum(), 4, Quadratic())) == 9
    with pytest.raises(ValueError, match=r"Krum needs n >= 2\*f\+3: n=8, f=3"):
        Rejection().keep(made(9), Krum(), 3, Quadratic())


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"method": "roni"}, ValueError, "method must be one of 'err', 'lfr', 'union'"),
        ({"n_reject": -1}, ValueError, r"n_reject must be in \[0, 11\]"),
        ({"n_reject": 12}, ValueError, r"n_reject must be in \[0, 11\]"),
        ({"n_reject": 0.2}, TypeError, "n_reject must be an int"),
        ({"n_byzantine_after": 3}, ValueError, "n_byzantine_after must be one of"),
        ({"random_state": "a"}, ValueError, "random_state must be"),
    ],
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        Rejection(**params).keep(made(), Mean(), 3, Quadratic())


def test_bad_calls():
    with pytest.raises(TypeError, match="needs validation data of the server"):
        Rejection().keep(made(), Mean(), 3, None)
    with pytest.raises(ValueError, match=r"must return 12 losses, got shape \(11,\)"):
        Rejection().keep(made(), Mean(), 3, lambda c: (np.zeros(12), np.zeros(11)))
    with pytest.raises(ValueError, match=r"share must be in \[0, 0.5\)"):
        Rejection().keep(made(), Mean(), 0.5, Quadratic())


def test_an_estimator_like_others():
    rejection = Rejection("union", n_reject=2, random_state=3)
    copy = clone(rejection)
    assert copy.get_params() == rejection.get_params() and copy is not rejection
    assert copy.set_params(method="err").method == "err"
    assert Rejection().keep(made(), Mean(), 0.25, Quadratic()).tolist() == [*range(9)]
