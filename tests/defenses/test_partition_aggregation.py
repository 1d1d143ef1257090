import itertools
import pickle
import zlib

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs, make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skpoison.attacks import BackdoorAttack, LabelFlipAttack, PatchTrigger
from skpoison.compose import PoisonedEstimator
from skpoison.defenses import DeepPartitionAggregationClassifier
from skpoison.defenses._partition_aggregation import _as_numbers, certified_votes


def aggregation(estimator=None, **params):
    if estimator is None:
        estimator = KNeighborsClassifier(1)
    return DeepPartitionAggregationClassifier(estimator, **params)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:1400], y[:1400], X[1400:], y[1400:]


# ------------------------------------------------------------------------ contract


def test_the_number_of_parts_can_be_searched(digits):
    X, y, *_ = digits
    search = GridSearchCV(aggregation(), {"n_partitions": [5, 100]}, cv=2)
    search.fit(X[:300], y[:300])
    assert search.best_params_ == {"n_partitions": 5}


def test_copies_and_parallel_runs_give_the_same(digits):
    X, y, X_test, _ = digits
    model = aggregation(DecisionTreeClassifier(max_features=4), n_partitions=20)
    votes = model.fit(X, y).vote_counts(X_test)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.vote_counts(X_test), votes)
    with parallel_config("threading", n_jobs=2):
        again = clone(model).fit(X, y)
        np.testing.assert_array_equal(again.vote_counts(X_test), votes)


def test_a_seed_reaches_the_classifiers_and_nothing_else(digits):
    X, y, X_test, _ = digits
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    trees = DecisionTreeClassifier(max_features=4)
    one, two, three = (
        aggregation(trees, n_partitions=20, random_state=seed).fit(X, y)
        for seed in (0, 0, 1)
    )
    seeds = [tree.random_state for tree in one.estimators_]
    assert len(set(seeds)) == 20
    assert seeds == [tree.random_state for tree in two.estimators_]
    votes = one.vote_counts(X_test)
    np.testing.assert_array_equal(two.vote_counts(X_test), votes)
    assert (three.vote_counts(X_test) != votes).any()
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(after, state)
    assert trees.random_state is None


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"estimator": 3}, TypeError, "estimator must be an estimator or None"),
        ({"n_partitions": 0}, ValueError, "n_partitions must be >= 1"),
        ({"n_partitions": 2.5}, TypeError, "n_partitions must be an int"),
        ({"hash": "md5"}, ValueError, "hash must be one of 'blake2b', 'sum'"),
        ({"hash": lambda row: 0.5}, TypeError, "hash must return an int, got 0.5"),
        ({"hash": "sum"}, ValueError, "whole numbers"),
        (
            {"estimator": FrozenEstimator(object())},
            TypeError,
            "on each part for itself",
        ),
    ],
)
def test_bad_parameters(params, error, match):
    X, y = make_classification(60, random_state=0)
    with pytest.raises(error, match=match):
        aggregation(**params).fit(X, y)


def test_one_class_is_refused(digits):
    X, *_ = digits
    with pytest.raises(ValueError, match="at least two classes, got one class: 3"):
        aggregation().fit(X, np.full(len(X), 3))


class Odd(KNeighborsClassifier):
    """Predicts in an unusual form."""

    def __init__(self, n_neighbors=1, form=None):
        super().__init__(n_neighbors)
        self.form = form

    def predict(self, X):
        return self.form(super().predict(X))


@pytest.mark.parametrize(
    "form",
    [lambda y: y[:, None], lambda y: y.astype(float), lambda y: y.astype(object)],
)
def test_columns_floats_and_objects_are_the_same_votes(digits, form):
    X, y, X_test, _ = digits
    votes = aggregation(n_partitions=5).fit(X, y).vote_counts(X_test)
    odd = aggregation(Odd(form=form), n_partitions=5).fit(X, y)
    np.testing.assert_array_equal(odd.vote_counts(X_test), votes)


@pytest.mark.parametrize("label", [-1, 0.5, 10])
def test_votes_for_labels_that_there_are_not_are_refused(digits, label):
    X, y, X_test, _ = digits
    odd = Odd(form=lambda y: np.full(len(y), label))
    with pytest.raises(ValueError, match=f"trained on, got {label} from Odd"):
        aggregation(odd, n_partitions=5).fit(X, y).predict(X_test)


@pytest.mark.parametrize("integer", [int, np.int8, np.uint64])
def test_a_hash_may_return_any_integer(digits, integer):
    X, y, *_ = digits
    model = aggregation(n_partitions=300, hash=lambda row: integer(100))
    assert (model.fit(X, y).partitions_ == 100).all()


# ----------------------------------------------------------- the vote and its radius


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_radius_is_exact_by_brute_force(n_classes):
    """Every vote of five voters, abstentions too, and every vote within reach."""
    ballots = np.array(list(itertools.product(range(n_classes + 1), repeat=5)))
    votes = np.stack([(ballots == c).sum(axis=1) for c in range(n_classes)], axis=1)
    changed = (ballots[:, None] != ballots[None]).sum(axis=2)
    winners, radius = certified_votes(votes)
    distance = np.where(winners[:, None] != winners[None], changed, 6).min(axis=1)
    someone_voted = votes.sum(axis=1) > 0  # a fitted model has a row somewhere
    np.testing.assert_array_equal(distance[someone_voted], radius[someone_voted] + 1)
    assert set(radius[someone_voted]) == {0, 1, 2}


def test_ties_go_to_the_class_that_sorts_first():
    winners, radius = certified_votes(np.array([[0, 5, 5], [5, 0, 4], [4, 0, 6]]))
    assert winners.tolist() == [1, 0, 2]
    assert radius.tolist() == [0, 0, 0]


def test_an_empty_part_abstains_and_one_class_votes_for_itself():
    X = np.array([[0.0], [10.0], [1.0], [11.0], [2.0]])
    y = np.array(["a", "b", "a", "b", "b"])

    def part(row):
        return int(np.frombuffer(row, "<f8")[0] % 10 % 4)  # 0 0 1 1 2

    model = aggregation(n_partitions=4, hash=part).fit(X, y)
    assert model.partitions_.tolist() == [0, 0, 1, 1, 2]
    assert model.estimators_[3] is None
    votes = model.vote_counts([[0.0], [12.0]])
    assert votes.tolist() == [[2, 1], [0, 3]]
    assert model.predict([[0.0], [12.0]]).tolist() == ["a", "b"]
    np.testing.assert_allclose(model.predict_proba([[0.0]]), [[2 / 3, 1 / 3]])
    labels, radius = model.certify([[0.0], [12.0]])
    assert labels.tolist() == ["a", "b"]
    assert radius.tolist() == [0, 1]


def test_fewer_rows_than_parts(digits):
    X, y, X_test, y_test = digits
    with pytest.warns(UserWarning, match="20 rows for n_partitions=50"):
        model = aggregation().fit(X[:20], y[:20])
    assert sum(e is None for e in model.estimators_) >= 30
    assert (model.vote_counts(X_test).sum(axis=1) <= 20).all()
    assert np.isfinite(model.predict_proba(X_test)).all()


# ----------------------------------------------------------------------- the attacker


def test_no_attack_within_the_radius_by_brute_force():
    """All flips, deletions and insertions from a pool: eight rows, three parts."""
    rng = np.random.RandomState(3)
    X = rng.randint(0, 6, (8, 2)).astype(float)
    X = np.unique(X, axis=0)
    y = (X[:, 0] + X[:, 1] > 5).astype(int)
    x = rng.randint(0, 6, (12, 2)) + 0.25
    pool = [(np.array(row), c) for row in ([0.0, 5.0], [5.0, 1.0]) for c in (0, 1)]
    model = aggregation(n_partitions=3).fit(X, y)
    labels, radius = model.certify(x)
    assert (radius >= 1).sum() >= 6

    def neighbours_of(rows):
        """Data sets that are one step away."""
        for i in range(len(rows)):
            rest = rows[:i] + rows[i + 1 :]
            yield rest
            yield [*rest, (rows[i][0], 1 - rows[i][1])]
        for new in pool:
            yield [*rows, new]

    reached = list(neighbours_of(list(zip(X, y, strict=True))))
    outside = 0
    for rows in reached:
        R, labels_of = np.array([r for r, _ in rows]), np.array([c for _, c in rows])
        if len(set(labels_of)) < 2:
            continue
        new = aggregation(n_partitions=3).fit(R, labels_of).predict(x)
        moved = new != labels
        assert not (moved & (radius >= 1)).any()
        outside += moved.sum()
    assert outside > 0  # the attacks do something


@pytest.mark.slow
def test_no_two_flips_within_a_radius_of_two_by_brute_force():
    X, y = make_blobs(14, 2, cluster_std=2.0, random_state=7)
    model = aggregation(n_partitions=5).fit(X, y)
    x = X + 0.1
    labels, radius = model.certify(x)
    assert (radius == 2).sum() >= 5
    moved_outside = 0
    for n_flips in (1, 2):
        for rows in itertools.combinations(range(14), n_flips):
            flipped = y.copy()
            flipped[list(rows)] ^= 1
            moved = aggregation(n_partitions=5).fit(X, flipped).predict(x) != labels
            assert not (moved & (radius >= n_flips)).any()
            moved_outside += moved.sum()
    assert moved_outside > 0


class Touchy(LogisticRegression):
    """Remembers the first row: sensitive to any reordering."""

    def fit(self, X, y):
        super().fit(X, y)
        self.coef_ = self.coef_ + X[0] * 1e-3
        return self


def test_a_classifier_depends_on_the_multiset_of_its_rows_and_nothing_else():
    X, y = make_classification(200, 5, random_state=0)
    X = np.vstack([X, X[:20], -np.zeros((1, 5)), np.zeros((1, 5))])
    y = np.concatenate([y, 1 - y[:20], [0, 1]])  # equal rows with two labels
    model = aggregation(Touchy(), n_partitions=4).fit(X, y)
    np.testing.assert_array_equal(model.partitions_[:20], model.partitions_[200:220])
    assert model.partitions_[-1] == model.partitions_[-2]  # -0.0 is 0.0
    coefs = [m.coef_.copy() for m in model.estimators_]
    order = np.random.RandomState(0).permutation(len(X))
    other = aggregation(Touchy(), n_partitions=4).fit(X[order], y[order])
    for m, coef in zip(other.estimators_, coefs, strict=True):
        np.testing.assert_array_equal(m.coef_, coef)
    # one row more: one classifier differs
    more = aggregation(Touchy(), n_partitions=4)
    more.fit(np.vstack([np.ones((1, 5)), X]), np.append(1, y))
    same = [
        np.array_equal(m.coef_, coef)
        for m, coef in zip(more.estimators_, coefs, strict=True)
    ]
    assert sum(same) == 3
    assert not same[more.partitions_[0]]


def test_labels_move_no_row_and_a_lost_class_moves_no_vote(digits):
    X, y, X_test, _ = digits
    y = np.array([f"digit {c}" for c in y])
    model = aggregation(n_partitions=20).fit(X, y)
    flipped = np.where(y == "digit 0", "digit 5", y)
    other = aggregation(n_partitions=20).fit(X, flipped)
    np.testing.assert_array_equal(model.partitions_, other.partitions_)
    kept = y != "digit 0"
    without = aggregation(n_partitions=20).fit(X[kept], y[kept])
    np.testing.assert_array_equal(model.partitions_[kept], without.partitions_)
    assert without.classes_.tolist() == model.classes_.tolist()[1:]


def test_one_flip_more_than_the_radius_can_turn_a_prediction(digits):
    """The vote of a nearest neighbour turns when that neighbour is relabelled."""
    X, y, X_test, _ = digits
    model = aggregation(n_partitions=25).fit(X[:500], y[:500])
    rows = X_test[:6]
    labels, radius = model.certify(rows)
    ballots = np.stack([voter.predict(rows) for voter in model.estimators_])
    turned = []
    for i, row in enumerate(rows):
        rivals = model.vote_counts(row[None])[0] + (np.arange(10) < labels[i])
        rivals[labels[i]] = -1
        distance = np.linalg.norm(X[:500] - row, axis=1)
        for more in (0, 1):
            flipped = y[:500].copy()
            for part in np.flatnonzero(ballots[:, i] == labels[i])[: radius[i] + more]:
                members = np.flatnonzero(model.partitions_ == part)
                flipped[members[distance[members].argmin()]] = rivals.argmax()
            other = aggregation(n_partitions=25).fit(X[:500], flipped)
            turned.append(other.predict(row[None])[0] != labels[i])
    assert turned == [False, True] * len(rows)


@pytest.mark.parametrize("strategy", ["uniform", "adversarial"])
def test_label_flips_within_the_certificate(digits, strategy):
    X, y, X_test, _ = digits
    model = aggregation(n_partitions=40).fit(X, y)
    labels, radius = model.certify(X_test)
    for budget in (2, 6, 10):
        assert 20 < (radius >= budget).sum() < len(radius)
        attack = LabelFlipAttack(strategy, budget=budget, random_state=0)
        poisoned = PoisonedEstimator(attack, clone(model)).fit(X, y)
        moved = poisoned.predict(X_test) != labels
        assert not (moved & (radius >= budget)).any()


def test_appended_backdoors_within_the_certificate(digits):
    X, y, X_test, _ = digits
    X, X_test = X.reshape(-1, 8, 8), X_test.reshape(-1, 8, 8)
    trigger = PatchTrigger(np.full((2, 2), 16.0)).fit(X)
    X_test = np.concatenate([X_test, trigger.apply(X_test)])
    tree = make_pipeline(Flatten(), DecisionTreeClassifier())
    model = aggregation(tree, n_partitions=15).fit(X, y)
    labels, radius = model.certify(X_test)
    for budget in (1, 3, 5):
        attack = BackdoorAttack(
            trigger, target_class=7, budget=budget, mode="append", random_state=0
        )
        poisoned = PoisonedEstimator(attack, clone(model)).fit(X, y)
        assert len(poisoned.estimator_.partitions_) == len(X) + budget
        moved = poisoned.predict(X_test) != labels
        assert (radius >= budget).any()
        assert not (moved & (radius >= budget)).any()


# ---------------------------------------------------------------- hashes and containers


class Flatten(StandardScaler):
    """Images to rows, standardised."""

    def fit(self, X, y=None):
        return super().fit(X.reshape(len(X), -1))

    def transform(self, X):
        return super().transform(X.reshape(len(X), -1))


def test_blake2b_gives_parts_of_equal_size_and_sum_is_the_remainder(digits):
    X, y, *_ = digits
    sizes = np.bincount(aggregation(n_partitions=7).fit(X, y).partitions_, minlength=7)
    expected = len(X) / 7
    assert ((sizes - expected) ** 2 / expected).sum() < 22.5  # chi2(6) at 0.1 %
    for data in (X, X.astype(np.uint8), X.astype(np.float32)):
        model = aggregation(n_partitions=7, hash="sum").fit(data, y)
        np.testing.assert_array_equal(model.partitions_, X.sum(axis=1) % 7)


def test_whole_numbers_below_zero_and_images_have_a_sum_too(digits):
    X, y, *_ = digits
    images = X.reshape(-1, 8, 8) - 8
    model = aggregation(make_pipeline(Flatten(), KNeighborsClassifier(1)), hash="sum")
    model.fit(images, y)
    np.testing.assert_array_equal(
        model.partitions_, images.sum(axis=(1, 2)).astype(int) % 50
    )


@pytest.mark.slow
def test_a_part_does_not_depend_on_type_layout_or_batch(digits):
    X, y, *_ = digits
    expected = aggregation().fit(X, y).partitions_
    frame = pd.DataFrame(X, columns=[f"pixel {j}" for j in range(64)])
    mixed = frame.astype({"pixel 1": "int64", "pixel 2": "Float64"})
    objects = frame.astype({"pixel 3": object})
    for same in (X.astype(np.uint8), np.asfortranarray(X), frame, mixed, objects):
        np.testing.assert_array_equal(aggregation().fit(same, y).partitions_, expected)
    some = aggregation().fit(X[100:300], y[100:300])
    np.testing.assert_array_equal(some.partitions_, expected[100:300])


def test_a_callable_gets_the_bytes_of_the_features(digits):
    X, y, *_ = digits
    model = aggregation(hash=zlib.crc32, n_partitions=9).fit(X.astype(np.uint8), y)
    expected = [zlib.crc32(row.astype("<f8").tobytes()) % 9 for row in X]
    np.testing.assert_array_equal(model.partitions_, expected)


def test_tables_with_text_and_gaps():
    X = pd.DataFrame(
        {
            "age": [20.0, None, 60.0, 65.0, 25.0, 58.0] * 20,
            "job": ["a", "a", "b", "b", None, "b"] * 20,
            "id": np.arange(120),
        }
    )
    y = np.array(["young", "young", "old", "old", "young", "old"] * 20)
    model = DeepPartitionAggregationClassifier(n_partitions=8).fit(X, y)
    assert model.score(X, y) > 0.95
    assert len(np.unique(model.partitions_)) == 8
    # a cell is hashed for itself: one row with text in a column of numbers moves none
    other = X.astype({"id": object})
    other.loc[0, "id"] = "zero"
    numbers = [_as_numbers(frame) for frame in (X, other)]
    changed = (numbers[0] != numbers[1]) & ~np.isnan(numbers[0])
    assert np.argwhere(changed).tolist() == [[0, 2]]


@pytest.mark.slow
def test_uint8_images_reach_a_network_as_they_are(digits):
    torch = pytest.importorskip("torch")
    from skpoison.models import TorchClassifier

    X, y, X_test, y_test = (A[:300] for A in digits)
    X, X_test = ((15 * A).reshape(-1, 1, 8, 8).astype(np.uint8) for A in (X, X_test))
    before = torch.random.get_rng_state()
    net = TorchClassifier(max_epochs=10, lr=0.01, batch_size=16, device="cpu")
    model = aggregation(net, n_partitions=3)
    labels, radius = model.fit(X, y).certify(X_test)
    assert (labels == y_test).mean() > 0.5
    assert radius.max() == 1
    assert torch.equal(torch.random.get_rng_state(), before)
    again = clone(model).fit(X[::-1], y[::-1]).vote_counts(X_test)
    np.testing.assert_array_equal(again, model.vote_counts(X_test))


@pytest.mark.slow
@pytest.mark.dataset("mnist")
def test_figures_on_mnist():
    from skpoison.datasets import fetch_mnist

    X, y = fetch_mnist(subset="all", dtype="uint8", return_X_y=True)
    X = X.reshape(len(X), -1).astype(np.float32)
    model = aggregation(n_partitions=250).fit(X[:60_000], y[:60_000])
    labels, radius = model.certify(X[60_000:60_200])
    right = labels == y[60_000:60_200]
    assert right.mean() > 0.85
    assert 80 < np.median(np.where(right, radius, 0)) < 105
