"""The contract, on attacks that a user might write."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpoison.base import PerturbationMixin, SamplerMixin
from skpoison.utils._tensors import project
from skpoison.utils._validation import check_bounds, check_eps
from skpoison.utils.estimator_checks import (
    check_attack,
    parametrize_with_attack_checks,
)


class PullAttack(PerturbationMixin, BaseEstimator):
    """Pull rows of the wanted class towards the target: a targeted toy."""

    def __init__(
        self,
        targets=None,
        target_labels=None,
        *,
        budget=0.2,
        eps=0.1,
        bounds="data",
        random_state=None,
    ):
        self.targets = targets
        self.target_labels = target_labels
        self.budget = budget
        self.eps = eps
        self.bounds = bounds
        self.random_state = random_state

    def _check_params(self, X, y):
        check_eps(self.eps, X.shape[1:])
        self._low, self._high = check_bounds(self.bounds, X)

    def _craft(self, X, y, rows, streams):
        delta = (
            self.targets_[0] - X[rows] + streams.numpy("noise").randn(*X[rows].shape)
        )
        return project(delta, X[rows], self.eps, "linf", self._low, self._high)

    def attack_outcomes(self, predict, X, y):
        return np.asarray(predict(self.targets_)) == self.target_labels_


class DuplicateAttack(SamplerMixin, BaseEstimator):
    """Append copies of random rows under the first label."""

    def __init__(self, budget=0.1, random_state=None):
        self.budget = budget
        self.random_state = random_state

    def _resample(self, X, y, n_rows, streams):
        from skpoison.utils._containers import append_rows, take_rows

        rows = streams.numpy("rows").permutation(len(y))[:n_rows]
        if not n_rows:
            return self._unchanged(X, y)
        sources = np.concatenate([np.arange(len(y)), rows])
        labels = np.concatenate([y, np.zeros(n_rows, dtype=y.dtype)])
        poisons = len(y) + np.arange(n_rows)
        return append_rows(X, take_rows(X, rows)), labels, poisons, sources


USERS = [PullAttack(), DuplicateAttack()]


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(USERS)
def test_sklearn_checks(estimator, check):
    check(estimator)


@parametrize_with_attack_checks(USERS)
def test_attack_checks(attack, check):
    check(attack)


class Overspends(DuplicateAttack):
    def _resample(self, X, y, n_rows, streams):
        return super()._resample(X, y, n_rows + 1, streams)


class Unseeded(DuplicateAttack):
    def _resample(self, X, y, n_rows, streams):
        X, y, poisons, sources = super()._resample(X, y, n_rows, streams)
        if n_rows:
            y[np.random.randint(len(y))] = 1  # noqa: NPY002
        return X, y, poisons, sources


class LeavesTheBall(PullAttack):
    def _craft(self, X, y, rows, streams):
        return 3 * super()._craft(X, y, rows, streams)


class NotNested(DuplicateAttack):
    def _resample(self, X, y, n_rows, streams):
        streams.numpy = lambda name: np.random.RandomState(n_rows)
        return super()._resample(X, y, n_rows, streams)


class Idle(DuplicateAttack):
    def _resample(self, X, y, n_rows, streams):
        return self._unchanged(X, y)


class IdleOnX(PullAttack):
    def _craft(self, X, y, rows, streams):
        return np.zeros_like(X[rows])


@pytest.mark.parametrize(
    "attack",
    [Overspends(), Unseeded(), LeavesTheBall(), NotNested(), Idle(), IdleOnX()],
    ids=repr,
)
def test_checks_catch_bad_attacks(attack):
    with pytest.raises(AssertionError):
        check_attack(attack)


def test_one_poison_call_for_both_kinds():
    X, y = make_blobs(100, random_state=0)
    data = PullAttack(random_state=0, bounds=None).poison(X, y)
    assert data.poison_mask.sum() == 20 and (data.y == y).all()
    assert (data.sample_indices == np.arange(100)).all()
    data = DuplicateAttack(random_state=0).poison(X, y)
    assert len(data.X) == 110 and data.poison_indices.tolist() == [*range(100, 110)]
    assert (data.sample_indices[:100] == np.arange(100)).all()
    assert (data.y_original == y[data.sample_indices[100:]]).all()


def test_uint8_rounding_stays_inside_eps():
    rng = np.random.RandomState(0)
    X = rng.randint(0, 256, (60, 1, 4, 4)).astype(np.uint8)
    y = rng.randint(0, 2, 60)

    class Shift(PullAttack):
        def _craft(self, X, y, rows, streams):
            from skpoison.utils._tensors import quantize

            x = X[rows].astype(np.float32)
            delta = np.full(x.shape, 3.7)
            delta = project(delta, x, self.eps, "linf", 0.0, 255.0)
            return quantize(delta, self.eps, "linf")

    attack = Shift(eps=3.2, bounds=None, random_state=0)
    out = attack.fit_transform(X, y)
    assert out.dtype == np.uint8
    moved = out.astype(int) - X
    assert moved.max() == 3 and moved.min() >= 0


def test_feature_names_of_images_are_refused():
    X, y = np.random.RandomState(0).rand(20, 1, 4, 4), np.arange(20) % 2
    attack = PullAttack(random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="2-dimensional X only"):
        attack.get_feature_names_out()


def test_other_row_shape_is_refused():
    X, y = np.random.RandomState(0).rand(20, 1, 4, 4), np.arange(20) % 2
    attack = PullAttack(random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 8\).*\(1, 4, 4\)"):
        attack.transform(X.reshape(20, 1, 2, 8))


def test_fewer_candidates_than_budget_warns():
    X = np.repeat(np.random.RandomState(0).rand(10, 2), 2, axis=0)
    y = np.arange(20) % 2  # every row has a copy with the other label
    y[0] = y[1]
    with pytest.warns(UserWarning, match="only 2 are poisoned: 2 can be"):
        attack = PullAttack(random_state=0).fit(X, y)
    assert attack.n_poisoned_ == 2


def test_rows_that_differ_beyond_float32_are_told_apart():
    X = np.c_[1.7e9 + 7.0 * np.arange(100), np.zeros(100)]
    y = np.arange(100) // 50
    attack = PullAttack(eps=0.5, bounds=None, budget=20, random_state=0)
    out = attack.fit_transform(X, y)
    assert attack.n_poisoned_ == 20
    assert (np.abs(out - X).max(axis=1) > 0).sum() == 20
    unseen = X + [3.0, 0.0]
    np.testing.assert_array_equal(attack.transform(unseen), unseen)


def test_copies_of_rows_come_last_and_never_overspend():
    X = np.concatenate([np.random.RandomState(0).rand(40, 3), np.ones((60, 3))])
    y = np.r_[np.arange(40) % 2, np.zeros(60, int)]
    attack = PullAttack(budget=30, bounds=None, random_state=0).fit(X, y)
    assert attack.n_poisoned_ == 30 and attack.poison_indices_.max() < 40
    with pytest.warns(UserWarning, match="allows 50 rows, but only 40 are poisoned"):
        attack.set_params(budget=50).fit(X, y)


def test_frames_keep_what_did_not_change():
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    frame = pd.DataFrame({"n": rng.randint(0, 9, 40), "x": rng.rand(40)})
    frame["s"] = rng.rand(40).astype("float32")

    class OneColumn(PullAttack):
        def _craft(self, X, y, rows, streams):
            delta = np.zeros_like(X[rows])
            delta[:, 1] = 0.1
            return delta

    attack = OneColumn(bounds=None, random_state=0)
    out = attack.poison(frame, np.arange(40) % 2).X
    assert (out.dtypes == frame.dtypes).all() and (out["n"] == frame["n"]).all()
    assert (out["x"] != frame["x"]).sum() == 8
    with pytest.raises(ValueError, match="column 'b' holds bool, no numbers"):
        attack.poison(frame.assign(b=True), np.arange(40) % 2)


def test_cloned_attack_is_unfitted():
    X, y = make_blobs(50, random_state=0)
    fitted = PullAttack(random_state=0).fit(X, y)
    assert not hasattr(clone(fitted), "poison_indices_")


def test_caching_pipelines_craft_once(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    X, y = make_blobs(60, random_state=0)
    plain = make_pipeline(PullAttack(random_state=0), LogisticRegression()).fit(X, y)
    cached = make_pipeline(
        PullAttack(random_state=0), LogisticRegression(), memory=str(tmp_path)
    )
    for _ in range(2):
        cached.fit(X, y)
        np.testing.assert_array_equal(cached[-1].coef_, plain[-1].coef_)
