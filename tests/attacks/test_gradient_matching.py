"""GradientMatchingAttack: what it aims at, what it may touch, and that it works."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import Adaptation, GradientMatchingAttack, step_size_from_tau
from skpoison.compose import PoisonedEstimator
from skpoison.defenses import Mixup
from skpoison.models import MLP, TorchClassifier

NET = TorchClassifier(max_epochs=10, device="cpu")
FAST = {"budget": 0.02, "eps": 0.2, "max_iter": 12, "n_restarts": 2, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return X[:1500], y[:1500], X[1500:], y[1500:]


@pytest.fixture(scope="module")
def trained(digits):
    X, y, _, _ = digits
    return [
        FrozenEstimator(clone(NET).set_params(random_state=seed).fit(X, y))
        for seed in range(2)
    ]


def _attack(surrogate, digits, n_targets=1, **params):
    targets = digits[2][:n_targets]
    labels = np.array([8, 9, 1, 0])[:n_targets]
    params = {**FAST, "surrogate": surrogate, "n_ensemble": len(surrogate), **params}
    return GradientMatchingAttack(targets, labels, **params)


def test_the_objective_falls_and_only_the_wished_class_is_touched(digits, trained):
    X, y, _, _ = digits
    attack = _attack(trained, digits)
    out = attack.fit_transform(X, y)
    assert attack.loss_ < 0.5 * attack.loss_curve_[attack.best_restart_, 0]
    changed = np.flatnonzero((out != X).any(axis=1))
    assert np.array_equal(changed, attack.poison_indices_)
    assert len(changed) == 30 and set(y[changed]) == {8}
    assert np.abs(out - X).max() <= 0.2 + 1e-6
    assert (out >= X.min(0)).all() and (out <= X.max(0)).all()
    assert attack.loss_curve_.shape == (2, 12)
    assert attack.restart_losses_.argmin() == attack.best_restart_


def test_the_kept_loss_is_that_of_what_is_handed_back(digits, trained):
    import torch
    from torch.nn import functional as F

    X, y, X_test, _ = digits
    attack = _attack(trained[:1], digits)
    out = attack.fit_transform(X, y)
    module = trained[0].estimator.module_.eval()

    def gradient(rows, labels):
        rows = torch.as_tensor(rows, dtype=torch.float32)
        loss = F.cross_entropy(module(rows), torch.as_tensor(labels))
        parts = torch.autograd.grad(loss, list(module.parameters()))
        return torch.cat([p.flatten() for p in parts])

    goal = gradient(X_test[:1], np.array([8]))
    rows = attack.poison_indices_
    cosine = F.cosine_similarity(goal, gradient(out[rows], y[rows]), dim=0)
    assert attack.loss_ == pytest.approx(1 - cosine.item(), abs=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"multi_target": "separate"},
        {"multi_target": "split"},
        {"target_loss": "cw"},
        {"target_loss": "untargeted"},
        {"loss": "se"},
        {"loss": "scalar_product"},
        {"loss": "top_5"},
        {"loss": "layer_cosine"},
        {"norm": "l2", "eps": 1.0},
        {"optimizer": "pgd"},
        {"optimizer": "adam"},
        {"optimizer": "mom_pgd"},
        {"schedule": "cosine", "init": "uniform"},
        {"batch_size": 7},
        {"batch_size": 7, "batch_mode": "per_batch"},
        {"adaptation": Adaptation(gradient_clip=1.0, gradient_noise=0.01)},
        {"adaptation": Adaptation(mix=Mixup())},
        {"adaptation": Adaptation(feature_weight=0.1, loss_weight=0.1)},
        {"adaptation": Adaptation(adversary=lambda logits, X, labels: X + 0.01)},
    ],
    ids=lambda p: "-".join(map(str, p.values())).split("<")[0][:40],
)
def test_every_variant_lowers_its_own_objective(params, digits, trained):
    X, y, _, y_test = digits
    attack = _attack(trained[:1], digits, 3, target_true_labels=y_test[:3], **params)
    attack.fit(X, y)
    start = attack.loss_curve_[attack.best_restart_, 0]
    assert attack.loss_ < start - 0.1 * abs(start)


def test_threat_models_choose_the_rows(digits, trained):
    X, y, _, y_test = digits

    def classes(**params):
        attack = _attack(trained[:1], digits, max_iter=1, **params).fit(X, y)
        return attack, set(y[attack.poison_indices_].tolist())

    own = y_test[:1]
    assert classes()[1] == {8}
    assert classes(threat_model="self", target_true_labels=own)[1] == {int(own[0])}
    assert len(classes(threat_model="random_subset")[1]) > 5
    assert classes(threat_model="third_party", poison_class=5)[1] == {5}
    attack, found = classes(threat_model="third_party", target_true_labels=own)
    assert found == {attack.poison_class_} and not found & {8, int(own[0])}
    rows = np.array([7, 3, 11])
    attack, _ = classes(selection=rows, budget=2)
    assert set(attack.poison_indices_) == {7, 3}


def test_selections_rank_candidates_and_stay_nested(digits, trained):
    X, y, X_test, _ = digits
    for selection in ("max_gradient", "nearest"):
        small, large = (
            _attack(trained, digits, max_iter=1, selection=selection, budget=b).fit(
                X, y
            )
            for b in (5, 20)
        )
        assert set(small.poison_indices_) <= set(large.poison_indices_)
        if selection == "nearest":
            module = trained[0].estimator
            import torch

            layers = module.module_.eval().layers[:-1]

            def features(rows, layers=layers):
                return layers(torch.as_tensor(rows, dtype=torch.float32))

            d = torch.cdist(features(X[y == 8]), features(X_test[:1]))[:, 0].detach()
            nearest = np.flatnonzero(y == 8)[d.argsort()[:10].numpy()]
            assert len(set(nearest) & set(small.poison_indices_)) >= 3


@pytest.mark.slow
def test_many_targets_crafted_together_are_those_crafted_alone(digits):
    X, y, X_test, _ = digits
    attack = GradientMatchingAttack(surrogate=NET, **FAST)
    labels = [8, 9, 1]
    together = attack.craft_each(X, y, X_test[:3], labels)
    for i, one in enumerate(together):
        alone = clone(attack).set_params(
            targets=X_test[i : i + 1], target_labels=labels[i : i + 1]
        )
        alone.fit(X, y)
        assert np.array_equal(one.poison_indices_, alone.poison_indices_)
        np.testing.assert_allclose(one.perturbation_, alone.perturbation_, atol=1e-5)
        assert one.loss_ == pytest.approx(alone.loss_, abs=1e-4)


def test_more_steps_and_restarts_leave_the_rows_alone(digits, trained):
    X, y, _, _ = digits
    rows = [
        _attack(trained[:1], digits, max_iter=m, n_restarts=r).fit(X, y).poison_indices_
        for m, r in ((1, 1), (3, 2))
    ]
    assert np.array_equal(*rows)


def test_retraining_uses_poisoned_data_and_resumes(digits, tmp_path, monkeypatch):
    from skpoison.attacks import _surrogates

    X, y, _, _ = digits
    net = clone(NET).set_params(max_epochs=2)
    params = {**FAST, "surrogate": net, "retrain_every": 4, "n_restarts": 1}
    whole = GradientMatchingAttack(digits[2][:1], 8, **params).fit(X, y)
    trained_on = []
    original = _surrogates.fit_together

    def watched(estimators, Xs, ys):
        trained_on.extend(Xs)
        if Xs and len(trained_on) == 3:
            raise KeyboardInterrupt
        return original(estimators, Xs, ys)

    monkeypatch.setattr(_surrogates, "fit_together", watched)
    monkeypatch.setattr(
        "skpoison.attacks._craft._minimise._SECONDS_BETWEEN_SAVES", -1.0
    )
    attack = GradientMatchingAttack(
        digits[2][:1], 8, **params, checkpoint=tmp_path / "state"
    )
    with pytest.raises(KeyboardInterrupt):
        attack.fit(X, y)
    assert np.array_equal(trained_on[0], X)
    assert 0 < (trained_on[1] != X).any(axis=1).sum() <= 30
    n_trained = len(trained_on)
    attack.fit(X, y)
    assert len(trained_on) == n_trained + 1  # the first two came from the checkpoint
    assert np.array_equal(attack.perturbation_, whole.perturbation_)
    with pytest.raises(ValueError, match="holds another attack"):
        clone(attack).set_params(eps=0.1).fit(X, y)


@pytest.mark.slow
def test_surrogates_of_every_kind(digits):
    import torch

    X, y, _, _ = digits
    few = clone(NET).set_params(max_epochs=2)
    kinds = [
        None,
        few,
        [few, clone(few).set_params(module__hidden=(16,))],
        make_pipeline(StandardScaler(), few),
        MLP,
        torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)
        ),
    ]
    for surrogate in kinds:
        attack = GradientMatchingAttack(
            digits[2][:1],
            8,
            **{**FAST, "max_iter": 4},
            surrogate=surrogate,
            n_ensemble=2,
        ).fit(X, y)
        assert attack.loss_ < attack.loss_curve_[attack.best_restart_, 0]
        assert len(attack.surrogates_) == 2


def test_skorch_nets_are_surrogates(digits):
    import torch
    from skorch import NeuralNetClassifier

    X, y, _, _ = digits
    net = NeuralNetClassifier(
        torch.nn.Sequential(torch.nn.Linear(64, 10)),
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=2,
        verbose=0,
        train_split=None,
    )
    before = torch.random.get_rng_state()
    found = [
        GradientMatchingAttack(
            digits[2][:1], 8, **{**FAST, "max_iter": 3}, surrogate=net
        ).fit(X, y)
        for _ in range(2)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(found[0].perturbation_, found[1].perturbation_)


@pytest.mark.parametrize("stagger", ["first_n", "full", "inbetween"])
def test_staggered_members_are_trained_for_different_epochs(stagger, digits):
    X, y, _, _ = digits
    attack = GradientMatchingAttack(
        digits[2][:1],
        8,
        **{**FAST, "max_iter": 2},
        surrogate=NET,
        n_ensemble=3,
        ensemble_stagger=stagger,
    ).fit(X, y)
    epochs = [s.max_epochs for s in attack.surrogates_]
    assert (
        epochs
        == {"first_n": [0, 1, 2], "full": [0, 5, 10], "inbetween": [2, 5, 7]}[stagger]
    )
    assert [s.n_iter_ for s in attack.surrogates_] == epochs


def test_augmentation_comes_from_the_surrogate(digits):
    X, y, _, _ = digits
    images = X.reshape(-1, 1, 8, 8)
    net = TorchClassifier(max_epochs=1, device="cpu", augment="default")
    attack = GradientMatchingAttack(
        images[:1] * 0.5, 8, **{**FAST, "max_iter": 2}, surrogate=net
    ).fit(images, y)
    # eight draws of the augmentation, not the one of the last step
    assert attack.restart_losses_[0] != attack.loss_curve_[0, -1]
    plain = clone(attack).set_params(augment=None).fit(images, y)
    assert plain.loss_curve_[0, 0] != attack.loss_curve_[0, 0]


def test_in_a_meta_estimator_the_surrogate_can_be_the_victim(digits):
    X, y, X_test, _ = digits
    attack = GradientMatchingAttack(
        X_test[:1], 8, **{**FAST, "max_iter": 2}, surrogate="victim"
    )
    model = PoisonedEstimator(attack, clone(NET).set_params(max_epochs=1)).fit(X, y)
    assert model.attack_.surrogates_[0].max_epochs == 1
    with pytest.raises(ValueError, match="needs a PoisonedEstimator"):
        attack.fit(X, y)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"loss": "cos"}, ValueError, "loss must be one of"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of"),
        ({"surrogate": StandardScaler()}, TypeError, "surrogate must be"),
        ({"surrogate": []}, ValueError, "at least one network"),
        ({"surrogate": [NET, NET]}, ValueError, "n_ensemble=1 is less than"),
        ({"threat_model": "self"}, ValueError, "give target_true_labels"),
        ({"threat_model": "third_party"}, ValueError, "needs poison_class, or"),
        ({"poison_class": 3}, ValueError, "goes with threat_model='third_party'"),
        ({"target_loss": "untargeted"}, ValueError, "needs target_true_labels"),
        ({"target_true_labels": 8}, ValueError, "is the true label of the target"),
        ({"selection": [0, 0]}, ValueError, "names a row twice"),
        ({"selection": [9999]}, ValueError, "outside 0..1499"),
        ({"selection": "best"}, ValueError, "selection must be one of"),
        ({"checkpoint": "x", "random_state": None}, ValueError, "needs a random_state"),
        ({"adaptation": Mixup()}, TypeError, "must be an Adaptation"),
        ({"adaptation": Adaptation(mix=Mixup(0))}, ValueError, "n_mix must be >= 1"),
        ({"augment": "crop"}, ValueError, "augment must be one of"),
        ({"eps": -1}, ValueError, "eps must be >= 0"),
        ({"target_labels": 77}, ValueError, "not among the classes"),
    ],
    ids=lambda p: next(iter(p)) if isinstance(p, dict) else None,
)
def test_bad_parameters_are_named_before_any_training(params, error, message, digits):
    X, y, X_test, _ = digits
    slow = TorchClassifier(max_epochs=10**6, device="cpu")
    attack = GradientMatchingAttack(X_test[:1], 8, **{**FAST, "surrogate": slow})
    with pytest.raises(error, match=message):
        attack.set_params(**params).fit(X, y)


def test_targets_that_are_already_won_are_refused(digits, trained):
    X, y, _, _ = digits
    sure = clone(NET).set_params(random_state=0).fit(X, y)
    for weights in sure.module_.parameters():
        weights.data *= 100
    attack = GradientMatchingAttack(
        digits[2][:1],
        int(sure.predict(digits[2][:1])[0]),
        **FAST,
        surrogate=FrozenEstimator(sure),
    )
    with pytest.raises(ValueError, match="already reads target 0 as wanted"):
        attack.fit(X, y)


def test_published_step_in_units_of_eps():
    assert step_size_from_tau(0.1, 0.247, 8 / 255) == pytest.approx(0.787, abs=1e-3)
    halved = step_size_from_tau(0.1, 0.247, 8 / 255, n_ensemble=2)
    assert halved == pytest.approx(0.394, abs=1e-3)


def test_a_hook_sees_images_where_the_network_does(digits):
    X, y, _, _ = digits
    seen = set()

    class Watch(Mixup):
        def __call__(self, X, T, context):
            seen.add(tuple(X.shape[1:]))
            return super().__call__(X, T, context)

    net = TorchClassifier(input_shape=(1, 8, 8), max_epochs=1, device="cpu")
    adaptation = Adaptation(mix=Watch())
    attack = _attack([net], digits, adaptation=adaptation, max_iter=1)
    attack.set_params(surrogate=net).fit(X, y)
    assert seen == {(1, 8, 8)}
