"""The contract, on attacks that a user might write."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import make_blobs
from sklearn.utils import get_tags
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


class TiltAttack(SamplerMixin, BaseEstimator):
    """Append rows, or move them, under a number far from their own."""

    def __init__(self, budget=0.1, *, mode="copy", random_state=None):
        self.budget = budget
        self.mode = mode
        self.random_state = random_state

    def _is_regression(self):
        return True

    def _resample(self, X, y, n_rows, streams):
        from skpoison.utils._containers import append_rows, take_rows

        if not n_rows:
            return self._unchanged(X, y)
        assert y.dtype == np.float64
        rows = streams.numpy("rows").permutation(len(y))[:n_rows]
        wrong = y.min() + y.max() - y[rows]
        if self.mode == "relabel":
            y = y.copy()
            y[rows] = wrong
            return X, y, rows, np.arange(len(y))
        sources = rows if self.mode == "copy" else np.full(n_rows, -1)
        return (
            append_rows(X, take_rows(X, rows)),
            np.concatenate([y, wrong]),
            len(y) + np.arange(n_rows),
            np.concatenate([np.arange(len(y)), sources]),
        )


class PullNumbers(PullAttack):
    """Pull the rows with the largest y towards the target."""

    def _is_regression(self):
        return True

    def _preference(self, X, y, streams):
        return y


USERS = [
    PullAttack(),
    DuplicateAttack(),
    TiltAttack(),
    TiltAttack(mode="relabel"),
    TiltAttack(mode="nothing"),
    PullNumbers(),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(USERS)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
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


class Infinite(TiltAttack):
    def _resample(self, X, y, n_rows, streams):
        X, y, poisons, sources = super()._resample(X, y, n_rows, streams)
        y = y.copy()
        y[poisons] = np.inf
        return X, y, poisons, sources


@pytest.mark.parametrize(
    "attack",
    [
        Overspends(),
        Unseeded(),
        LeavesTheBall(),
        NotNested(),
        Idle(),
        IdleOnX(),
        Infinite(),
    ],
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


@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_numbers_come_back_in_their_type():
    pd = pytest.importorskip("pandas")
    X = np.arange(20.0).reshape(10, 2)
    y = np.arange(10) - 3
    attack = TiltAttack(budget=3, random_state=0)
    for template in (y, y.astype("uint8") + 3, y.astype("float32"), y.reshape(-1, 1)):
        data = attack.poison(X, template)
        assert data.y.dtype == template.dtype and data.y.shape == (13,)
        rows = data.sample_indices[10:]
        np.testing.assert_array_equal(data.y_original, template.ravel()[rows])
        assert (data.y[10:] == template.min() + template.max() - data.y_original).all()
    frame = pd.DataFrame(X, index=range(5, 15))
    series = pd.Series(y, index=frame.index, name="price", dtype="Int32")
    data = attack.poison(frame, series)
    assert data.y.dtype == "Int32" and data.y.name == "price"
    assert list(data.X.index) == list(data.y.index)
    assert attack.poison(X.tolist(), y.tolist()).y[:10] == y.tolist()

    class Half(TiltAttack):
        def _resample(self, X, y, n_rows, streams):
            X, y, poisons, sources = super()._resample(X, y, n_rows, streams)
            y[poisons] += 0.5
            return X, y, poisons, sources

    for template in (y, y.tolist(), series):
        out = Half(budget=3, random_state=0).poison(frame, template).y
        assert np.asarray(out).dtype == np.float64
        np.testing.assert_array_equal(out[:10], y)


def test_numbers_of_polars_come_back_in_their_type():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": np.arange(10.0)})
    for dtype in (pl.Int16, pl.Float32, pl.Float64):
        series = pl.Series("price", range(10), dtype=dtype)
        data = TiltAttack(budget=3, random_state=0).poison(frame, series)
        assert data.y.dtype == dtype and data.y.name == "price" and len(data.y) == 13


def test_rows_from_nothing_have_the_label_they_were_given():
    pd = pytest.importorskip("pandas")
    X, y = np.random.RandomState(0).rand(30, 2), np.arange(30.0)
    data = TiltAttack(mode="nothing", random_state=0).poison(X, y)
    np.testing.assert_array_equal(data.y_original, data.y[30:])

    class Injects(DuplicateAttack):
        def _resample(self, X, y, n_rows, streams):
            X, y, poisons, sources = super()._resample(X, y, n_rows, streams)
            sources[poisons] = -1
            return X, y, poisons, sources

    frame, labels = pd.DataFrame(X, index=range(7, 37)), pd.Series(list("abc" * 10))
    labels.index = frame.index
    data = Injects(random_state=0).poison(frame, labels)
    assert list(data.y_original) == ["a"] * 3 and list(data.y[-3:]) == ["a"] * 3
    assert list(data.X.index) == list(data.y.index)


def test_an_error_beyond_the_spread_of_y_is_a_win():
    X, y = np.zeros((40, 1)), np.tile([0.0, 1, 2, 5], 10)
    attack = TiltAttack(random_state=0).fit(X, y)
    assert attack.y_scale_ == y.std() and not hasattr(attack, "classes_")
    outcomes = attack.attack_outcomes(lambda X: np.full(4, y.mean()), X[:4], y[:4])
    assert outcomes.tolist() == [True, False, False, True]
    assert attack.attack_success(lambda X: y[:4, None], X[:4], y[:4]) == 0
    with pytest.raises(ValueError, match="y must hold finite numbers, since a regr"):
        attack.fit(X, ["a", "b"] * 20)


def test_a_second_fit_forgets_what_kind_the_first_was():
    class Either(TiltAttack):
        def _is_regression(self):
            return self.mode != "classes"

    X, y = np.zeros((6, 1)), np.arange(6)
    attack = Either(budget=1).fit(X, y)
    attack.set_params(mode="classes").fit(X, y)
    assert len(attack.classes_) == 6 and not hasattr(attack, "y_scale_")
    assert get_tags(attack).regressor_tags is None
    attack.set_params(mode="copy").fit(X, y)
    assert not hasattr(attack, "classes_")
    assert get_tags(attack).regressor_tags is not None


def test_preferred_rows_come_first():
    rng = np.random.RandomState(0)
    X, y = rng.rand(50, 3), rng.rand(50)
    X[40:], y[40:] = X[0], 9.0  # copies, with the largest y
    y[0] = 9.0
    smaller: set[int] = set()
    for budget in (1, 7, 15):
        attack = PullNumbers(budget=budget, bounds=None, random_state=0).fit(X, y)
        rows = set(attack.poison_indices_)
        assert rows == set(1 + np.argsort(-y[1:40])[:budget]) and smaller <= rows
        smaller = rows
    attack = PullNumbers(budget=50, bounds=None, random_state=0).fit(X, y)
    assert len(attack.poison_indices_) == 50
    np.testing.assert_array_equal(attack.y_original_, y)


def test_targets_of_regression_are_numbers():
    rng = np.random.RandomState(0)
    X, y = rng.rand(30, 3), rng.rand(30)
    attack = PullNumbers(bounds=None, random_state=0).fit(X, y)
    (row,) = np.flatnonzero((X == attack.targets_).all(axis=1))
    far = y.min() if y[row] > (y.min() + y.max()) / 2 else y.max()
    assert attack.target_labels_ == [far]
    attack.set_params(targets=rng.rand(2, 3), target_labels=3).fit(X, y)
    assert attack.target_labels_.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="target_labels must hold finite numbers"):
        attack.set_params(target_labels=["a", "b"]).fit(X, y)


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
