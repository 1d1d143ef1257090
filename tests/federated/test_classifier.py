"""The estimator: rounds, data, attackers, and scikit-learn's ways."""

import pickle
import random
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skpoison.federated import (
    BaseUpdateAttack,
    Bucketing,
    CenteredClipping,
    ClientLabelFlipAttack,
    FederatedClassifier,
    FLTrust,
    FoolsGold,
    GaussianNoiseAttack,
    IPMAttack,
    Krum,
    Mean,
    Median,
    Rejection,
    SignFlipAttack,
    SybilAttack,
    TrimmedMean,
    partition_clients,
)
from skpoison.federated._clients import BatchPlan, ClientWork
from skpoison.models import MLP
from skpoison.utils import RandomStreams

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_TEST, Y_TEST, X, Y = X[1000:], Y[1000:], X[:600], Y[:600]


class Push(BaseUpdateAttack):
    """Send the honest update, scaled, and remember how often."""

    def __init__(self, scale=-10.0, knowledge="full"):
        self.scale = scale
        self.knowledge = knowledge

    def craft(self, context):
        context.history["rounds"] = context.history.get("rounds", 0) + 1
        context.info["scale"] = self.scale
        noise = context.rng.normal(size=context.own.shape) * 1e-3
        return self.scale * context.own + noise + context.history["rounds"] * 1e-3


class Watch(BaseUpdateAttack):
    """Change nothing and keep what it was shown."""

    def __init__(self):
        pass

    def poison_round(self, context):
        context.history.setdefault("seen", []).append(context)
        return np.array(context.updates)


class Last:
    """A rule that keeps what it was given."""

    def __init__(self, kept):
        self.kept = kept

    def __deepcopy__(self, memo):
        return self

    def __call__(self, updates):
        self.kept.append(updates)
        return updates.mean(axis=0)


def classifier(estimator=None, **params):
    params = {
        "n_clients": 12,
        "n_byzantine": 3,
        "n_rounds": 30,
        "lr": 0.5,
        "random_state": 0,
        **params,
    }
    return FederatedClassifier(estimator, **params)


class TestTraining:
    def test_it_learns(self):
        clf = classifier(n_rounds=200, n_clients=30).fit(X, Y)
        assert clf.score(X_TEST, Y_TEST) > 0.88
        # softmax regression without a federation, on the same rows
        assert clf.score(X_TEST, Y_TEST) > (
            LogisticRegression(max_iter=500).fit(X, Y).score(X_TEST, Y_TEST) - 0.05
        )
        assert clf.weights_.shape == (65 * 10,) and clf.weights_.dtype == np.float32

    def test_seeds(self):
        first, again = classifier().fit(X, Y), classifier().fit(X, Y)
        assert np.array_equal(first.weights_, again.weights_)
        other = classifier(random_state=1).fit(X, Y)
        assert not np.array_equal(first.weights_, other.weights_)
        free = classifier(random_state=None)
        assert not np.array_equal(
            free.fit(X, Y).weights_, clone(free).fit(X, Y).weights_
        )

    @pytest.mark.slow
    def test_global_streams_are_left_alone(self):
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        state_torch, state_python = torch.get_rng_state(), random.getstate()
        classifier(MLP, attack=Push(), n_rounds=3).fit(X, Y).predict_proba(X)
        assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
        assert torch.equal(state_torch, torch.get_rng_state())
        assert state_python == random.getstate()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "params",
        [
            {},
            {"attack": Push(), "clients_per_round": 0.5, "n_byzantine": 4},
            {"aggregator": CenteredClipping(), "attack": Push(), "local_steps": 3},
            {"select": "best", "attack": Push(-1.0)},
            {"estimator": MLP, "engine": "loop"},
            {"estimator": SGDClassifier()},
        ],
        ids=["plain", "sampled", "stateful", "best", "module", "sgd"],
    )
    def test_rounds_one_by_one_are_fit(self, params):
        fitted = classifier(**params, n_rounds=9).fit(X, Y)
        steps = classifier(**params)
        for n in (1, 1, 3, 4):
            steps.partial_fit(X, Y, n_rounds=n)
        assert np.array_equal(steps.weights_, fitted.weights_)
        assert steps.n_rounds_ == fitted.n_rounds_ == 9
        for name, values in fitted.history_.items():
            if not name.startswith("time"):
                np.testing.assert_array_equal(steps.history_[name], values)

    def test_partial_fit_without_a_seed_goes_on_with_its_own(self):
        clf = classifier(random_state=None).partial_fit(X, Y)
        before = [rows.copy() for rows in clf.client_indices_]
        clf.partial_fit(X, Y)
        assert all(map(np.array_equal, before, clf.client_indices_))

    def test_fit_starts_again(self):
        clf = classifier(attack=Push(), n_rounds=4)
        first = clf.fit(X, Y).weights_
        assert np.array_equal(clf.fit(X, Y).weights_, first)
        assert clf.n_rounds_ == 4

    def test_new_data_and_classes_in_later_rounds(self):
        clf = classifier()
        some = Y < 5
        clf.partial_fit(X[some], Y[some], classes=np.arange(10))
        clf.partial_fit(X, Y, n_rounds=50)
        assert clf.score(X, Y) > 0.7
        with pytest.raises(ValueError, match="y holds 11, which is not among"):
            clf.partial_fit(X, np.where(Y == 3, 11, Y))
        with pytest.raises(ValueError, match="are not those of the first call"):
            clf.partial_fit(X, Y, classes=[0, 1])
        with pytest.raises(ValueError, match="expecting 64 features"):
            clf.partial_fit(X[:, 1:], Y)

    def test_server_lr_scales_the_step(self):
        start = classifier(n_rounds=0, dtype="float64").fit(X, Y).weights_
        whole, half = (
            classifier(n_rounds=1, dtype="float64", server_lr=size).fit(X, Y).weights_
            for size in (1.0, 0.5)
        )
        np.testing.assert_allclose(half - start, (whole - start) / 2, atol=1e-12)

    def test_what_is_recorded_of_a_round(self):
        kept = []
        clf = classifier(
            aggregator=Last(kept), n_rounds=3, batch_size=None, attack=Watch()
        ).fit(X, Y)
        history = clf.history_
        updates, honest = kept[0], np.delete(np.arange(12), clf.byzantine_clients_)
        lengths = np.linalg.norm(updates, axis=1)
        for name, wanted in (
            ("client_norm", lengths[honest].mean()),
            ("byzantine_norm", lengths[clf.byzantine_clients_].mean()),
            ("update_norm", np.linalg.norm(updates.mean(axis=0))),
        ):
            assert history[name][0] == pytest.approx(wanted, rel=1e-5)
        start = classifier(n_rounds=0).fit(X, Y)
        losses = [
            start._state.learner.evaluate(start.weights_[None], X[rows], Y[rows])[1]
            for rows in clf.client_indices_
        ]
        wanted = np.mean([losses[i] for i in honest])
        assert history["train_loss"][0] == pytest.approx(wanted, rel=1e-5)
        assert history["round"].tolist() == [0, 1, 2]
        clf.set_params(aggregator=Krum(), attack=Push(10.0)).fit(X, Y)
        assert (clf.history_["n_byzantine_selected"] == 0).all()

    @pytest.mark.slow
    def test_the_default_needs_no_torch(self):
        code = (
            "import sys; from skpoison.federated import FederatedClassifier, Krum;"
            "clf = FederatedClassifier(n_clients=4, n_byzantine=0, aggregator=Krum());"
            "clf.fit([[i] for i in range(40)], [i // 20 for i in range(40)]);"
            "print('torch' in sys.modules)"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == "False"

    def test_float64(self):
        clf = classifier(dtype="float64").fit(X, Y)
        assert clf.weights_.dtype == np.float64
        single = classifier().fit(X, Y)
        np.testing.assert_allclose(clf.weights_, single.weights_, atol=1e-4)
        assert clf.decision_function(X).dtype == np.float64

    def test_diverging_keeps_the_last_finite_weights(self):
        clf = classifier(server_lr=1e38, lr=100.0)
        with pytest.warns(ConvergenceWarning, match="not finite.*lower lr"):
            clf.fit(X, Y)
        assert clf.n_rounds_ < 30 and np.isfinite(clf.weights_).all()
        assert clf.predict(X).shape == Y.shape

    def test_too_many_rows_that_are_not_finite(self):
        class Faulty(BaseUpdateAttack):
            def craft(self, context):
                return np.full_like(context.own, np.nan)

        clf = classifier(attack=Faulty(), aggregator=Median())
        assert clf.fit(X, Y).history_["n_nonfinite"].tolist() == [3] * 30
        clf.set_params(n_byzantine=1, byzantine=[0, 4])
        with pytest.warns(ConvergenceWarning, match="2 of 12 updates are not finite"):
            clf.fit(X, Y)
        assert clf.n_rounds_ == 0

    def test_interrupted_rounds_are_not_lost(self):
        def stop(estimator):
            if estimator.n_rounds_ == 5:
                raise KeyboardInterrupt

        clf = classifier(callbacks=[stop])
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y)
        clf.set_params(callbacks=None).partial_fit(X, Y, n_rounds=25)
        assert np.array_equal(clf.weights_, classifier().fit(X, Y).weights_)

    def test_callbacks_may_end_training(self):
        seen = []
        clf = classifier(
            callbacks=[lambda e: e.n_rounds_ == 7, lambda e: seen.append(e)]
        )
        assert clf.fit(X, Y).n_rounds_ == 7
        assert seen == [clf] * 7

    def test_progress_goes_to_stderr(self, capsys):
        classifier(verbose=1).fit(X, Y)
        out, err = capsys.readouterr()
        assert not out and "/30 [" in err
        classifier().fit(X, Y)
        assert not capsys.readouterr().err


class TestData:
    def test_labels_and_columns(self):
        pd = pytest.importorskip("pandas")
        X, y = load_breast_cancer(return_X_y=True, as_frame=True)
        X = (X - X.mean()) / X.std()
        names = np.array(["malignant", "benign"])[y]
        clf = classifier(n_rounds=100).fit(X, names)
        assert clf.classes_.tolist() == ["benign", "malignant"]
        assert clf.feature_names_in_.tolist() == X.columns.tolist()
        assert clf.score(X, names) > 0.95
        scores = clf.decision_function(X)
        assert scores.shape == (569,)
        assert np.array_equal(scores > 0, clf.predict(X) == "malignant")
        proba = clf.predict_proba(X)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        np.testing.assert_allclose(proba[:, 1], 1 / (1 + np.exp(-scores)))
        with pytest.raises(ValueError, match="feature names should match"):
            clf.predict(pd.DataFrame(X).rename(columns={"mean radius": "radius"}))

    def test_pixels(self):
        pixels = (X * 255).astype(np.uint8)
        whole = classifier().fit(pixels, Y)
        divided = classifier().fit(pixels.astype(np.float32) / 255, Y)
        assert np.array_equal(whole.weights_, divided.weights_)
        assert np.array_equal(whole.predict(pixels), divided.predict(pixels / 255))

    def test_images(self):
        images = X.reshape(-1, 1, 8, 8)
        flat = classifier().fit(X, Y)
        clf = classifier().fit(images, Y)
        assert np.array_equal(clf.weights_, flat.weights_)
        assert np.array_equal(clf.predict(images), flat.predict(X))
        with pytest.raises(ValueError, match=r"shape \(1, 4, 16\).*fitted on.*1, 8, 8"):
            clf.predict(X.reshape(-1, 1, 4, 16))

    def test_given_data_are_not_changed(self):
        given, labels = X.copy(), Y.copy()
        given.flags.writeable = labels.flags.writeable = False
        classifier(attack=ClientLabelFlipAttack(), n_rounds=2).fit(given, labels)
        assert np.array_equal(given, X) and np.array_equal(labels, Y)

    def test_every_row_lies_with_one_client(self):
        clf = classifier(n_rounds=1).fit(X, Y)
        assert len(clf.client_indices_) == clf.n_clients_ == 12
        rows = np.concatenate(clf.client_indices_)
        assert np.array_equal(np.sort(rows), np.arange(600))
        seed = RandomStreams(0).seed("partition")
        clf.set_params(bias=0.8).fit(X, Y)
        client = partition_clients(Y, 12, bias=0.8, random_state=seed)
        for i, own in enumerate(clf.client_indices_):
            assert np.array_equal(np.sort(own), np.flatnonzero(client == i))

    def test_partition_by_a_function(self):
        uneven = partial(partition_clients, method="dirichlet", alpha=0.3)
        clf = classifier(partition=uneven, n_rounds=1).fit(X, Y)
        assert np.ptp([len(rows) for rows in clf.client_indices_]) > 20
        for wrong in (lambda y, n, random_state: np.zeros(len(y), int), len):
            with pytest.raises((ValueError, TypeError)):
                classifier(partition=wrong).fit(X, Y)

    def test_a_hundred_clients_unless_anything_says_otherwise(self):
        clf = FederatedClassifier(n_rounds=1, random_state=0).fit(X, Y)
        assert clf.n_clients_ == 100 and clf.n_byzantine_ == 20
        clf.fit(X, Y, client_id=np.arange(len(Y)) % 10)
        assert clf.n_clients_ == 10 and clf.n_byzantine_ == 2

    def test_a_rule_that_knows_clients_by_row_needs_all_of_them(self):
        with pytest.raises(ValueError, match="FoolsGold needs every client"):
            classifier(aggregator=FoolsGold(), clients_per_round=0.5).fit(X, Y)
        with pytest.raises(ValueError, match="FoolsGold needs every client"):
            classifier(aggregator=FoolsGold(), rejection="lfr").fit(X, Y)
        clf = classifier(aggregator=FoolsGold(), n_rounds=2).fit(X, Y)
        assert clf.n_rounds_ == 2

    def test_rejection_before_a_rule_with_a_root_update(self):
        clf = classifier(aggregator=FLTrust(), rejection="lfr", validation=60)
        clf.set_params(attack=SignFlipAttack(scale=5), n_rounds=60).fit(X, Y)
        assert clf.score(X_TEST, Y_TEST) > 0.7
        assert (clf.history_["n_rejected"] == 3).all()

    def test_fewer_rows_than_clients(self):
        with pytest.warns(UserWarning, match="there are 40 clients"):
            clf = FederatedClassifier(n_rounds=1, random_state=0).fit(X[:40], Y[:40])
        assert clf.n_clients_ == 40 and clf.n_byzantine_ == 8
        assert len(clf.byzantine_clients_) == 8
        with pytest.warns(UserWarning, match="there are 30 clients"):
            clf = FederatedClassifier(n_byzantine=0.1, n_rounds=1).fit(X[:30], Y[:30])
        assert clf.n_byzantine_ == 3

    def test_snapshots(self):
        clf = classifier(snapshot_every=10, n_rounds=25).fit(X, Y)
        curve = clf.evaluate(X_TEST, Y_TEST)
        assert curve.round.tolist() == [10, 20, 25]
        assert clf.evaluate(X_TEST, Y_TEST, every=20).round.tolist() == [20, 25]
        for n, error in zip(curve.round, curve.error, strict=True):
            alone = classifier(n_rounds=n).fit(X, Y)
            assert error == pytest.approx(1 - alone.score(X_TEST, Y_TEST))
        assert (np.diff(curve.loss) < 0).all()


class TestOwners:
    owner = np.array(["north", "south", "west"])[np.arange(600) % 3]

    def test_given_owners(self):
        clf = classifier(n_clients=3, n_byzantine=1, n_rounds=40)
        clf.fit(X, Y, client_id=self.owner)
        assert clf.client_ids_.tolist() == ["north", "south", "west"]
        for name, rows in zip(clf.client_ids_, clf.client_indices_, strict=True):
            assert np.array_equal(np.sort(rows), np.flatnonzero(self.owner == name))
        clf.set_params(n_clients=None, byzantine=["west"]).fit(
            X, Y, client_id=self.owner
        )
        assert clf.byzantine_clients_.tolist() == [2]

    def test_errors(self):
        with pytest.raises(ValueError, match="names 3 clients, but n_clients=12"):
            classifier().fit(X, Y, client_id=self.owner)
        with pytest.raises(ValueError, match="missing for 1 of 600 rows"):
            ids = np.where(np.arange(600) == 7, np.nan, 1.0)
            classifier().fit(X, Y, client_id=ids)
        with pytest.raises(ValueError, match="owner of each of n_samples=600"):
            classifier().fit(X, Y, client_id=self.owner[:5])
        with pytest.raises(ValueError, match="byzantine names 'east'"):
            classifier(n_clients=3, n_byzantine=1, byzantine=["east"]).fit(
                X, Y, client_id=self.owner
            )
        with pytest.raises(ValueError, match="all rows of client 'one' were held out"):
            ids = np.where(np.arange(600) == 7, "one", "two")
            seeds = (
                classifier(
                    n_clients=2, n_byzantine=0, validation=590, select="best"
                ).set_params(random_state=seed)
                for seed in range(9)
            )
            for clf in seeds:
                clf.fit(X, Y, client_id=ids)

    @pytest.mark.parametrize("routing", [False, True])
    def test_a_search_slices_them(self, routing):
        with config_context(enable_metadata_routing=routing):
            clf = classifier(n_clients=None, n_byzantine=0, n_rounds=20)
            if routing:
                clf.set_fit_request(client_id=True)
            model = make_pipeline(StandardScaler(), clf) if routing else clf
            name = "federatedclassifier__lr" if routing else "lr"
            search = GridSearchCV(model, {name: [0.01, 0.5]}, cv=3, error_score="raise")
            search.fit(X, Y, client_id=self.owner)
        best = search.best_estimator_
        best = best[-1] if routing else best
        assert best.client_ids_.tolist() == ["north", "south", "west"]
        assert best.lr == 0.5


class TestAttackers:
    def test_without_an_attack_byzantine_clients_behave(self):
        some, none = classifier().fit(X, Y), classifier(n_byzantine=0).fit(X, Y)
        assert np.array_equal(some.weights_, none.weights_)
        assert len(some.byzantine_clients_) == 3
        watched = classifier(attack=Watch()).fit(X, Y)
        assert np.array_equal(watched.weights_, none.weights_)

    def test_an_attack_changes_no_batch(self):
        def updates(attack):
            kept = []
            clf = classifier(attack=attack, aggregator=Last(kept), n_rounds=1)
            return kept, clf.fit(X, Y).byzantine_clients_

        (plain,), byzantine = updates(None)
        (attacked,), same = updates(Push())
        honest = np.delete(np.arange(12), byzantine)
        assert np.array_equal(byzantine, same)
        assert np.array_equal(plain[honest], attacked[honest])
        assert not np.isclose(plain[byzantine], attacked[byzantine]).all()

    def test_what_the_attacker_is_shown(self):
        clf = classifier(attack=Watch(), aggregator=Krum(), n_rounds=2, lr=0.25)
        clf.fit(X, Y)
        first, second = clf._state.attack_history["seen"]
        assert first.updates.shape == (12, 650) and first.n_clients == 12
        assert np.array_equal(first.byzantine, clf.byzantine_clients_)
        assert (first.round, second.round) == (0, 1)
        assert first.aggregator.n_byzantine == 3
        assert first.history is second.history
        assert first.rng.random() != second.rng.random()
        before = classifier(n_rounds=0, lr=0.25).fit(X, Y).weights_
        assert np.array_equal(first.weights, before)
        for i, (X_own, y_own) in zip(first.byzantine, first.shards, strict=True):
            assert np.array_equal(X_own, X[clf.client_indices_[i]])
            assert np.array_equal(y_own, Y[clf.client_indices_[i]])

    def test_training_by_the_attacker(self):
        clf = classifier(attack=Watch(), n_rounds=1, lr=0.25, batch_size=16).fit(X, Y)
        (context,) = clf._state.attack_history["seen"]
        X_own, y_own = context.shards[0]
        now = clf._state.weights  # of the round that would come next
        learner = clf._state.learner
        whole = context.train(X_own, y_own, 1, batch_size=1000)
        assert np.array_equal(whole, learner.client_update(now, [(X_own, y_own)], 0.25))
        double = context.train(X_own, y_own, 1, batch_size=1000, lr=0.5)
        np.testing.assert_allclose(double, 2 * whole, atol=1e-6)
        steps = context.train(X_own, y_own, 5)
        assert np.array_equal(steps, context.train(X_own, y_own, 5, batch_size=16))
        assert not np.allclose(steps, context.train(X_own, y_own, 5, batch_size=17))

    def test_noted_numbers_reach_the_history(self):
        clf = classifier(attack=Push(-3.0), n_rounds=4).fit(X, Y)
        history = clf.history_
        assert history["attack_scale"].tolist() == [-3.0] * 4
        assert (history["byzantine_norm"] > 2 * history["client_norm"]).all()
        assert history["n_byzantine"].tolist() == [3] * 4
        assert {"time", "time_clients", "time_attack", "time_aggregation"} <= {*history}
        assert clf.attack_ is not clf.attack

    def test_the_median_withstands_what_the_mean_does_not(self):
        scores = {
            rule: classifier(attack=Push(-10.0), aggregator=rule, n_rounds=100)
            .fit(X, Y)
            .score(X_TEST, Y_TEST)
            for rule in (None, Median(), TrimmedMean())
        }
        broken, *robust = scores.values()
        assert broken < 0.5 and min(robust) > 0.75

    def test_data_are_poisoned_once_and_for_byzantine_clients_alone(self):
        clf = classifier(attack=ClientLabelFlipAttack(), n_rounds=5).fit(X, Y)
        flipped = Y.copy()
        for i in clf.byzantine_clients_:
            rows = clf.client_indices_[i]
            flipped[rows] = 9 - Y[rows]
        client = np.empty(600, int)
        for i, rows in enumerate(clf.client_indices_):
            client[rows] = i
        by_hand = classifier(n_rounds=5, attack=Watch())
        by_hand.fit(X, flipped, client_id=client)
        assert np.array_equal(clf.weights_, by_hand.weights_)

    def test_faulty_attacks(self):
        class Shape(Watch):
            def poison_round(self, context):
                return context.updates[:2]

        class Labels(Watch):
            def poison_shard(self, X, y, n_classes, rng):
                return X, y + n_classes

        class Rows(Watch):
            def poison_shard(self, X, y, n_classes, rng):
                return X[:0], y[:0]

        for attack, message in (
            (Shape(), r"updates of shape \(12, 650\), got \(2, 650\)"),
            (Labels(), "labels in 0..9, got 1"),
            (Rows(), "must return X of shape"),
        ):
            with pytest.raises(ValueError, match=message):
                classifier(attack=attack).fit(X, Y)

    def test_injected_clients_share_the_rows_of_one(self):
        clf = classifier(attack=SybilAttack(Push()), n_rounds=3).fit(X, Y)
        assert clf.n_clients_ == 15
        assert clf.byzantine_clients_.tolist() == [12, 13, 14]
        assert clf.client_ids_.tolist() == list(range(12))
        *honest, a, b, c = clf.client_indices_
        assert a is b is c and any(a is rows for rows in honest)
        assert clf.history_["n_clients"].tolist() == [15] * 3

    def test_lengths_beyond_what_float32_can_square(self):
        attack = GaussianNoiseAttack(std=1e30)
        clf = classifier(attack=attack, n_rounds=1).fit(X, Y)
        assert 1e29 < clf.history_["update_norm"][0] < 1e32

    def test_byzantine_clients_may_be_named(self):
        clf = classifier(byzantine=[5, 2], attack=Push(), n_rounds=2).fit(X, Y)
        assert clf.byzantine_clients_.tolist() == [2, 5] and clf.n_byzantine_ == 3
        assert clf.history_["n_byzantine"].tolist() == [2, 2]


class TestServer:
    def test_the_rule_gets_n_and_f_of_the_round(self):
        seen = []

        class Record(Mean):
            def __call__(self, updates):
                seen.append((len(updates), self.n_byzantine))
                return super().__call__(updates)

        clf = classifier(
            aggregator=Record(), attack=Watch(), clients_per_round=0.4, n_rounds=20
        ).fit(X, Y)
        # 5 of 12 clients; 3 * 5 / 12 = 1.25, rounded up
        assert seen == [(5, 2)] * 20
        counts = clf.history_["n_byzantine"]
        assert counts.min() == 0 and counts.max() >= 2
        shown = clf._state.attack_history["seen"]
        assert {context.aggregator.n_byzantine for context in shown} == {2}
        assert len({float(abs(context.updates).sum()) for context in shown}) == 20

    def test_a_rule_s_own_number_counts(self):
        clf = classifier(aggregator=TrimmedMean(1), n_rounds=1).fit(X, Y)
        assert clf._state.rule.rule.n_byzantine == 1
        assert clf.aggregator.n_byzantine == 1
        clf = classifier(aggregator=TrimmedMean(), n_rounds=1).fit(X, Y)
        assert clf._state.rule.rule.n_byzantine == 3
        assert clf.aggregator.n_byzantine is None

    def test_random_parts_follow_the_one_seed(self):
        rule = make_pipeline(Bucketing(), Median())
        first, again, other = (
            classifier(aggregator=rule, n_rounds=3, random_state=seed).fit(X, Y)
            for seed in (0, 0, 1)
        )
        assert np.array_equal(first.weights_, again.weights_)
        seeds = [clf._state.rule.rule[0].random_state for clf in (first, again, other)]
        assert seeds[0] == seeds[1] != seeds[2] and None not in seeds
        assert rule[0].random_state is None

    def test_conditions_are_checked_before_training(self):
        called = []
        with pytest.raises(ValueError, match=r"Krum needs n >= 2\*f\+3: n=12, f=5"):
            classifier(aggregator=Krum(), n_byzantine=5, callbacks=[called.append]).fit(
                X, Y
            )
        assert not called

    def test_the_servers_rows(self):
        clf = classifier(select="best", validation=0.2, n_rounds=10).fit(X, Y)
        rows = np.concatenate(clf.client_indices_)
        assert len(rows) == len(set(rows.tolist())) == 480
        assert (
            classifier(n_rounds=1)
            .fit(X, Y)
            .history_.keys()
            .isdisjoint({"validation_error"})
        )
        clf = classifier(select="best", validation=100, n_rounds=1).fit(X, Y)
        assert sum(map(len, clf.client_indices_)) == 500

    def test_select_best(self):
        clf = classifier(select="best", n_rounds=12, lr=30.0, attack=Push(-2.0))
        clf.fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
        errors = clf.history_["validation_error"]
        assert 1 - clf.score(X_TEST, Y_TEST) == pytest.approx(errors.min())
        best = int(errors.argmin()) + 1
        assert best < 12 and clf.n_rounds_ == 12
        assert sum(map(len, clf.client_indices_)) == 600
        stopped = clone(clf).set_params(select="last", n_rounds=best).fit(X, Y)
        assert np.array_equal(stopped.weights_, clf.weights_)

    def test_the_first_of_equals_is_best(self):
        clf = classifier(select="best", lr=1e-6, dtype="float64", n_rounds=5).fit(X, Y)
        assert len(set(clf.history_["validation_error"])) == 1
        first = clone(clf).set_params(n_rounds=1).fit(X, Y)
        assert np.array_equal(clf.weights_, first.weights_)

    def test_the_error_on_given_rows_is_recorded(self):
        pair = classifier(validation=(X_TEST, Y_TEST), n_rounds=4).fit(X, Y)
        given = classifier(n_rounds=4).fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
        errors = pair.history_["validation_error"]
        assert np.array_equal(errors, given.history_["validation_error"])
        assert errors[-1] == pytest.approx(1 - pair.score(X_TEST, Y_TEST))

    @pytest.mark.parametrize(
        "params, name",
        [
            ({"select": "best"}, "select='best'"),
            ({"aggregator": FLTrust()}, "aggregator=FLTrust"),
        ],
    )
    def test_no_rows_for_the_server(self, params, name):
        with pytest.raises(ValueError, match=f"{name}.*needs rows.*validation is None"):
            classifier(**params, validation=None).fit(X, Y)
        with pytest.raises(ValueError, match="X_val and y_val must be given together"):
            classifier(**params).fit(X, Y, X_val=X)
        with pytest.raises(ValueError, match="y_val holds 10"):
            classifier(**params).fit(X, Y, X_val=X, y_val=Y + 3)
        with pytest.raises(ValueError, match="leaves none of n_samples=600"):
            classifier(**params, validation=600).fit(X, Y)

    def test_root_update_is_the_servers_own_training(self):
        roots = []

        class Root(Mean):
            needs_root_update = True

            def __call__(self, updates, root_update):
                roots.append(root_update)
                return super().__call__(updates)

        clf = classifier(aggregator=Root(), n_rounds=1, batch_size=None, local_steps=2)
        clf.fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
        start = classifier(n_rounds=0).fit(X, Y).weights_
        plan = BatchPlan(0, None, 2)
        work = ClientWork(clf._state.learner, X_TEST, Y_TEST, plan, 0, 0.5)
        assert np.array_equal(roots[0], work.update(0, start))

    def test_fltrust(self):
        clf = classifier(aggregator=FLTrust(), attack=Push(), n_rounds=60)
        assert clf.fit(X, Y).score(X_TEST, Y_TEST) > 0.6

    @pytest.mark.parametrize("rejection", ["err", "lfr", "union", Rejection("lfr")])
    def test_rejection_keeps_what_serves(self, rejection):
        plain = classifier(attack=Push(), aggregator=Mean(), n_rounds=60)
        clf = clone(plain).set_params(rejection=rejection).fit(X, Y)
        if rejection != "err":  # with 60 rows, most error rates are equal
            broken = plain.fit(X, Y).score(X_TEST, Y_TEST)
            assert clf.score(X_TEST, Y_TEST) > broken + 0.2
        n_rejected = clf.history_["n_rejected"]
        assert n_rejected.min() >= 3
        assert n_rejected.max() <= (6 if rejection == "union" else 3)
        again = clone(clf).fit(X, Y)
        assert np.array_equal(again.weights_, clf.weights_)

    def test_rejection_with_a_root_update_and_statistics(self):
        clf = classifier(
            Norm,
            rejection="lfr",
            aggregator=FLTrust(),
            aggregate_buffers="mean",
            engine="loop",
            n_rounds=20,
        )
        assert clf.fit(X, Y).score(X_TEST, Y_TEST) > 0.5

    def test_rejected_rows_do_not_count(self):
        kept_rows, seen = [], []

        class Drop:
            def keep(self, updates, rule, n_byzantine, evaluate, rng, root_update):
                errors, losses = evaluate(updates)
                assert errors.shape == losses.shape == (12,) and n_byzantine == 3
                seen.append((updates, losses))
                return np.argsort(losses)[:9]

            def n_byzantine_after_(self, n_byzantine, n_kept, n):
                return n_byzantine - (n - n_kept)

        clf = classifier(
            rejection=Drop(),
            aggregator=Last(kept_rows),
            attack=Push(),
            n_rounds=2,
            server_lr=0.5,
        ).fit(X, Y)
        updates, losses = seen[0]
        assert np.array_equal(kept_rows[0], updates[np.argsort(losses)[:9]])
        assert clf.history_["n_rejected"].tolist() == [3, 3]
        # the loss is that of the model that one update alone would make
        learner = clf._state.learner
        start = classifier(n_rounds=0, rejection=Drop()).fit(X, Y)
        held = np.setdiff1d(np.arange(600), np.concatenate(start.client_indices_))
        models = start.weights_ + 0.5 * updates
        wanted = learner.evaluate(models, X[held], Y[held])[1]
        np.testing.assert_allclose(losses, wanted, rtol=1e-5)

    def test_numbers_of_clients_after_rejection(self):
        seen = []

        class Look(Watch):
            def poison_round(self, context):
                seen.append(context.aggregator.n_byzantine)
                return super().poison_round(context)

        class First:
            def keep(self, updates, rule, n_byzantine, evaluate, rng, root_update):
                return np.arange(3, 12)

            def n_byzantine_after_(self, n_byzantine, n_kept, n):
                return 1

        clf = classifier(
            rejection=First(),
            aggregator=Median(),
            attack=Look(),
            byzantine=[0, 1, 2],
            n_rounds=2,
        ).fit(X, Y)
        assert clf.history_["n_byzantine_selected"].tolist() == [0, 0]
        assert clf._state.rule.rule.n_byzantine == 1
        assert seen == [3, 3]  # what the server says of all, not of those left


class Norm(nn.Module):
    def __init__(self, n_features_in, n_classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features_in)
        self.linear = nn.Linear(n_features_in, n_classes)

    def forward(self, X):
        return self.linear(self.norm(X))


class TestModels:
    def test_a_module(self):
        clf = classifier(MLP, n_rounds=80).fit(X, Y)
        assert clf.score(X_TEST, Y_TEST) > 0.75
        module = clf.module_
        assert isinstance(module, MLP) and not module.training
        with torch.no_grad():
            logits = module(torch.tensor(X_TEST)).numpy()
        np.testing.assert_allclose(clf.decision_function(X_TEST), logits, atol=1e-5)
        with pytest.raises(AttributeError, match="module_ is for models of torch"):
            classifier(n_rounds=1).fit(X, Y).module_  # noqa: B018

    @pytest.mark.parametrize("buffers", ["rule", "mean", "server"])
    def test_batch_normalisation(self, buffers):
        kept = []
        clf = classifier(Norm, aggregate_buffers=buffers, n_rounds=25)
        with pytest.warns(UserWarning, match="in turn.*keeps running statistics"):
            clf.fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
        assert clf.score(X_TEST, Y_TEST) > 0.75
        seen = X_TEST if buffers == "server" else X
        means = clf.module_.norm.running_mean.numpy()
        np.testing.assert_allclose(means, seen.mean(axis=0), atol=0.1)
        clf.set_params(aggregator=Last(kept), engine="loop", n_rounds=1).fit(X, Y)
        n_weights = 64 * 2 + 650 + 64 * 2
        n_seen = n_weights if buffers == "rule" else n_weights - 128
        assert kept[0].shape == (12, n_seen)

    def test_statistics_of_the_server(self):
        net = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
        clf = classifier(net, aggregate_buffers="server", engine="loop", n_rounds=1)
        clf.fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
        linear, norm = clf.module_
        with torch.no_grad():  # of the weights after the round
            wanted = 0.1 * linear(torch.tensor(X_TEST)).mean(dim=0)
        np.testing.assert_allclose(norm.running_mean, wanted, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("n_classes", [2, 10])
    def test_hinge_loss_has_no_probabilities(self, n_classes):
        some = n_classes > Y
        clf = classifier(SGDClassifier(alpha=0.01), n_rounds=30).fit(X[some], Y[some])
        assert not hasattr(clf, "predict_proba")
        assert clf.score(X[some], Y[some]) > 0.85
        scores = clf.decision_function(X)
        assert scores.ndim == (1 if n_classes == 2 else 2)

    @pytest.mark.slow
    def test_log_loss_has_its_own(self):
        log = SGDClassifier(loss="log_loss", alpha=0.01)
        clf = classifier(log, n_rounds=30).fit(X, Y)
        proba = clf.predict_proba(X_TEST)
        model = SGDClassifier(loss="log_loss").partial_fit(
            X[:20], Y[:20], np.arange(10)
        )
        model.coef_ = clf.weights_[:640].reshape(10, 64)
        model.intercept_ = clf.weights_[640:]
        np.testing.assert_allclose(proba, model.predict_proba(X_TEST), rtol=1e-5)
        assert np.array_equal(clf.predict(X_TEST), model.predict(X_TEST))

    def test_parameters_of_models_are_reached(self):
        clf = classifier(SGDClassifier()).set_params(estimator__alpha=0.5)
        assert clf.get_params()["estimator__alpha"] == 0.5
        assert clone(clf).estimator.alpha == 0.5


class TestSearch:
    def test_over_attacks_and_rules(self):
        grid = [
            {"attack": [None, Push()], "aggregator": [Mean(), Median()]},
            {"attack": [Push()], "attack__scale": [-1.0, -50.0], "n_byzantine": [0, 3]},
            {"aggregator": [TrimmedMean()], "aggregator__n_trim": [0, 4]},
        ]
        search = GridSearchCV(classifier(n_rounds=15), grid, cv=2, error_score="raise")
        table = search.fit(X, Y).cv_results_
        scores = dict(
            zip(map(str, table["params"]), table["mean_test_score"], strict=True)
        )
        assert len(scores) == 10 and np.isfinite([*scores.values()]).all()
        attacked = str({"aggregator": Mean(), "attack": Push()})
        assert scores[attacked] < 0.5 < max(scores.values())

    @pytest.mark.slow
    def test_in_processes_and_behind_a_scaler(self):
        model = make_pipeline(StandardScaler(), classifier(n_rounds=15))
        grid = {
            "federatedclassifier__attack": [None, ClientLabelFlipAttack()],
            "federatedclassifier__aggregator": [None, Median()],
            "federatedclassifier__n_byzantine": [1, 0.25],
        }
        results = [
            GridSearchCV(model, grid, cv=2, n_jobs=n_jobs, error_score="raise")
            .fit(X, Y)
            .cv_results_["mean_test_score"]
            for n_jobs in (1, 2)
        ]
        assert np.array_equal(*results)

    def test_cross_validation_of_few_rows(self):
        clf = FederatedClassifier(n_rounds=50, random_state=0)
        with pytest.warns(UserWarning, match="clients"):
            assert cross_val_score(clf, X[:100], Y[:100], cv=2).min() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"attack": Push(), "aggregator": CenteredClipping()},
        {"estimator": MLP},
        {"estimator": SGDClassifier(loss="log_loss")},
    ],
    ids=["attacked", "module", "sgd"],
)
def test_pickle_keeps_predictions_and_goes_on(params):
    clf = classifier(**params, n_rounds=5).fit(X, Y)
    copied = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(copied.predict_proba(X), clf.predict_proba(X))
    assert len(pickle.dumps(clf)) < X.nbytes  # no data
    for model in (clf, copied):
        model.partial_fit(X, Y, n_rounds=5)
    assert np.array_equal(copied.weights_, clf.weights_)


def test_before_fit():
    clf = FederatedClassifier()
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(clf, method)(X)
    with pytest.raises(NotFittedError):
        clf.evaluate(X, Y)
    assert not hasattr(clf, "history_")


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"n_rounds": -1}, ValueError, "n_rounds must be >= 0"),
        ({"n_clients": 0}, ValueError, "n_clients must be >= 1"),
        ({"n_clients": 2.5}, TypeError, "n_clients must be an int"),
        ({"n_byzantine": -1}, ValueError, "n_byzantine must be >= 0"),
        ({"n_byzantine": 0.5}, ValueError, r"n_byzantine as a share.*\[0, 0.5\)"),
        ({"n_byzantine": 12}, ValueError, "less than n_clients=12, got 12"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"lr": 0}, ValueError, "lr must be > 0"),
        ({"lr": np.nan}, ValueError, "lr must be > 0"),
        ({"local_steps": 0}, ValueError, "local_steps must be >= 1"),
        ({"server_lr": "1"}, TypeError, "server_lr must be a number"),
        ({"bias": 1.2}, ValueError, "bias must be in"),
        ({"partition": "random"}, ValueError, "partition must be one of"),
        ({"byzantine": "first"}, ValueError, "byzantine must be one of"),
        ({"byzantine": [12]}, ValueError, "byzantine names 12, which is none"),
        ({"clients_per_round": 0.0}, ValueError, "clients_per_round must be"),
        ({"clients_per_round": 1.5}, ValueError, "clients_per_round must be"),
        ({"clients_per_round": 13}, ValueError, "at most n_clients=12, got 13"),
        ({"validation": 1.0}, ValueError, "validation as a share must be below 1"),
        ({"validation": "all"}, TypeError, "validation must be a number"),
        ({"select": "first"}, ValueError, "select must be one of"),
        ({"engine": "ray"}, ValueError, "engine must be one of"),
        ({"chunk_clients": 0}, ValueError, "chunk_clients must be >= 1"),
        ({"aggregate_buffers": "no"}, ValueError, "aggregate_buffers must be one of"),
        ({"snapshot_every": 0}, ValueError, "snapshot_every must be >= 1"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of"),
        ({"rejection": "roni"}, ValueError, "rejection must be one of"),
        ({"callbacks": [3]}, TypeError, "callbacks must hold callables"),
        ({"aggregator": "krum"}, TypeError, "aggregator must be"),
        ({"aggregator": Krum}, TypeError, "aggregator must be an instance"),
        ({"attack": "krum"}, TypeError, "attack must"),
        ({"attack": SybilAttack("krum")}, TypeError, "attack must be an attack"),
        ({"attack": IPMAttack(eps=-1), "n_rounds": 0}, ValueError, "eps must be >= 0"),
        ({"random_state": -1}, ValueError, "random_state must be"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        classifier(**params).fit(X, Y)


def test_bad_labels():
    with pytest.raises(ValueError, match="at least two classes in y, got one class"):
        classifier().fit(X, np.zeros(600))
    with pytest.raises(ValueError, match="requires y to be passed"):
        classifier().fit(X, None)
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier().fit(X, np.linspace(0, 1, 600))
