"""Every named setting constructs, clones and runs; trials are drawn as stated."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import cross_validate

from skpoison import datasets
from skpoison.compose import PoisonedEstimator
from skpoison.model_selection import (
    TargetedReport,
    benchmark_trial,
    evaluate_targeted,
    published_setting,
    published_settings,
)
from skpoison.models import LinearModel, can_train_together, training_recipe

NAMES = published_settings()
UNTARGETED = [n for n in NAMES if n.startswith(("sleeper", "release"))]
N_TRAIN = 100


def images(n_channels=3):
    """Return bright and dark images of ten classes, in training and test rows."""
    rng = np.random.RandomState(0)
    y = np.arange(130) % 10
    X = rng.randint(0, 256, (len(y), n_channels, 8, 8)).astype(np.uint8)
    X[..., 0, 0] = 25 * y[:, None]
    return X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:], y[N_TRAIN:]


def shrunk(setting):
    """Make a setting run in a fraction of a second."""
    most = {"max_iter": 2, "n_restarts": 1, "n_ensemble": 2, "retrain_every": 1}
    most["color_resolution"] = 3
    params = setting.attack.get_params(deep=False)
    if params.get("optimizer") == "fbs":
        most["max_iter"] = 20  # of which the first few may be taken back
    for name in most.keys() & params.keys():
        if params[name] is not None:
            setting.attack.set_params(**{name: min(params[name], most[name])})
    setting.attack.set_params(budget=max(setting.budget, 0.02))
    for net in (setting.victim, params.get("surrogate")):
        if hasattr(net, "module"):
            kind = net.get_params()["module__network"].__name__
            small = {
                "ResNet18": {"module__width": 4},
                "ConvNet": {"module__channels": (4, 4), "module__hidden": 4},
                "MLP": {"module__hidden": (4,)},
            }
            net.set_params(batch_size=50, **small.get(kind, {}))
    return setting


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the victims' accuracy")
@pytest.mark.parametrize("name", [n for n in NAMES if n not in UNTARGETED])
def test_targeted_settings_run(name):
    setting = shrunk(published_setting(name, max_epochs=1))
    data = images(3 if setting.dataset == "cifar10" else 1)
    report = setting.evaluate(*data, n_targets=2, n_victims=1, device="cpu")
    assert isinstance(report, TargetedReport) and report.success.shape == (2, 1)
    assert (report.n_poisoned == int(setting.budget * N_TRAIN)).all()
    for attack in report.attacks:
        assert attack.perturbation_.any()
        if not getattr(setting.attack, "color_eps", 0):
            assert abs(attack.perturbation_).max() <= 255 * setting.eps


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the victims' accuracy")
@pytest.mark.parametrize("name", UNTARGETED)
def test_other_settings_run_in_cross_validation(name):
    setting = shrunk(published_setting(name, max_epochs=1))
    X, y, X_test, y_test = images()
    with pytest.raises(TypeError, match="PoisonedEstimator"):
        setting.evaluate(X, y, X_test, y_test)
    with pytest.raises(TypeError, match="has no targets"):
        setting.draw_trials(X, y, X_test, y_test)
    victim = PoisonedEstimator(setting.attack_for(X), setting.victim)
    scores = cross_validate(victim, X, y, cv=2, return_estimator=True, n_jobs=1)
    for fold in scores["estimator"]:
        assert fold.attack_.n_poisoned_ == int(setting.budget * N_TRAIN / 2)
        assert type(fold.attack_.surrogates_[0]) is type(setting.victim)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_stated_in_full(name):
    setting = published_setting(name)
    attack = clone(setting.attack)
    if not isinstance(attack.get_params().get("surrogate", ""), str):
        nets = [attack.surrogate, setting.attack.surrogate]
        assert can_train_together(nets, [[0]] * 2)
        attack.set_params(surrogate=nets[1])
    assert repr(attack) == repr(setting.attack)
    # by the rule that equal parameters make a stack
    assert can_train_together([setting.victim, clone(setting.victim)], [[0]] * 2)
    assert setting.name in repr(setting) and setting.summary in repr(setting)
    assert setting.reference and len(set(setting.seeds)) == len(setting.seeds)
    assert 0 < setting.eps <= 32 / 255 and 0 < setting.budget <= 1
    assert setting.n_targets == (0 if name in UNTARGETED else len(setting.seeds))
    for figure in setting.figures:
        assert 0 <= figure.value <= 1
        assert figure.source in ("read", "memory", "measured")
        assert str(figure) in repr(setting)


def test_the_main_setting_by_the_paper():
    setting = published_setting("witches-brew-cifar10-resnet18")
    attack, victim = setting.attack, setting.victim
    assert (setting.eps, setting.budget) == (16 / 255, 0.01)
    assert (attack.max_iter, attack.n_restarts, attack.n_ensemble) == (250, 8, 1)
    assert (setting.n_targets, setting.n_victims) == (10, 8)
    assert setting.threat_model == "single_class" and attack.surrogate == "victim"
    assert attack.augment == "auto" and victim.augment is not None
    assert (victim.max_epochs, victim.callbacks[0].milestones) == (40, [14, 24, 35])
    (figure,) = setting.figures
    assert (figure.value, figure.standard_error) == (0.9125, 0.0614)
    assert figure.source == "memory"


def test_names_build_anew():
    name = "witches-brew-cifar10-resnet18"
    published_setting(name).attack.set_params(max_iter=1)
    published_setting(name).victim.set_params(lr=7.0)
    assert published_setting(name).attack.max_iter == 250
    assert published_setting(name).victim.lr == 0.1
    with pytest.raises(ValueError, match="name must be one of 'witches-brew-cifar10"):
        published_setting("witches")


def test_fewer_epochs_reach_victims_and_surrogates():
    setting = published_setting("witches-brew-benchmark", max_epochs=8)
    assert setting.victim.max_epochs == setting.attack.surrogate.max_epochs == 8
    assert setting.victim.callbacks[0].milestones == [4, 6]
    assert setting.attack.surrogate.callbacks[0].milestones == [2, 4, 7]


def test_trials_are_drawn_by_their_seeds():
    X, y, X_test, y_test = images()
    setting = published_setting("witches-brew-cifar10-resnet18")
    trials = setting.draw_trials(X, y, X_test, y_test)
    assert len(trials.targets) == 10
    assert_array_equal(trials.targets, X_test[trials.test_indices])
    assert_array_equal(trials.target_true_labels, y_test[trials.test_indices])
    assert (trials.target_labels != trials.target_true_labels).all()
    assert len(set(trials.target_labels.tolist())) > 2
    few = setting.draw_trials(X, y, X_test, y_test, n_targets=3)
    assert_array_equal(few.test_indices, trials.test_indices[:3])
    other = replace(setting, seeds=setting.seeds[3:5])
    other = other.draw_trials(X, y, X_test, y_test)
    assert_array_equal(other.test_indices, trials.test_indices[3:5])


def test_trials_of_one_pair_of_classes():
    setting = published_setting("metapoison-cifar10")
    trials = setting.draw_trials(*images())
    assert set(trials.target_true_labels) == {2} and set(trials.target_labels) == {5}
    assert len(set(trials.test_indices.tolist())) > 1


def test_targets_are_held_out():
    X, y, X_test, y_test = images()
    X_test = np.where(
        (np.arange(len(X_test)) < 20)[:, None, None, None], X[:30], X_test
    )
    setting = published_setting("bullseye-benchmark")
    trials = setting.draw_trials(X, y, X_test, y_test)
    assert trials.test_indices.min() >= 20
    with pytest.raises(ValueError, match="no row of class"):
        setting.draw_trials(X, y, X[:30], y[:30])


def test_more_trials_need_more_seeds():
    setting = published_setting("metapoison-cifar10")
    with pytest.raises(ValueError, match="n_targets=11: .* seeds for 10 targets"):
        setting.draw_trials(*images(), n_targets=11)
    trials = replace(setting, seeds=range(11)).draw_trials(*images())
    assert len(trials.targets) == 11


def test_radius_and_box_follow_the_unit_of_the_data():
    setting = published_setting("witches-brew-benchmark")
    X = images()[0]
    pixels, floats = setting.attack_for(X), setting.attack_for(X / 255)
    assert (pixels.eps, pixels.bounds) == (8.0, (0.0, 255.0))
    assert (floats.eps, floats.bounds) == (8 / 255, (0.0, 1.0))
    assert setting.attack.eps == 8 / 255
    for wrong in (X.astype(float), X / 255 - 0.5, X.astype(int)):
        with pytest.raises(ValueError, match="uint8 pixels or floats in"):
            setting.attack_for(wrong)
    setting.attack.set_params(bounds="data")
    assert setting.attack_for(X).bounds == "data"


@pytest.mark.filterwarnings("ignore:the victims' accuracy")
def test_evaluate_is_evaluate_targeted_on_the_trials():
    setting = shrunk(published_setting("watermark-fashion-mnist-mlp", max_epochs=2))
    X, y, X_test, y_test = images(1)
    report = setting.evaluate(
        X, y, X_test, y_test, n_targets=3, n_victims=2, device="cpu"
    )
    trials = setting.draw_trials(X, y, X_test, y_test, n_targets=3)
    by_hand = evaluate_targeted(
        setting.attack_for(X), setting.victim.set_params(device="cpu"), X, y,
        trials.targets, trials.target_labels, n_victims=2, X_test=X_test, y_test=y_test,
        target_true_labels=trials.target_true_labels, random_state=setting.seeds[0],
    )  # fmt: skip
    assert_array_equal(report.success, by_hand.success)
    assert_array_equal(report.misclassified, by_hand.misclassified)
    assert report.clean_accuracy == by_hand.clean_accuracy


@pytest.mark.filterwarnings("ignore:the victims' accuracy")
def test_another_victim_is_another_surrogate():
    setting = shrunk(published_setting("gradient-matching-fashion-mnist-mlp"))
    setting.victim = training_recipe("basic", LinearModel, max_epochs=1, mean=0, std=1)
    report = setting.evaluate(*images(1), n_targets=1, n_victims=1, device="cpu")
    network = report.attacks[0].surrogates_[0].module_.network
    assert isinstance(network, LinearModel)


SETUPS = {
    "scratch_target_index": np.array([4, 7]),
    "scratch_target_class": np.array([0, 6], np.uint8),
    "scratch_base_class": np.array([3, 1], np.uint8),
    "scratch_base_indices": np.array([[3, 5, 8], [1, 11, 21]], np.int32),
}


def test_trials_of_the_benchmark(tmp_path):
    np.savez(tmp_path / "setups.npz", **SETUPS)
    with np.load(tmp_path / "setups.npz") as setups:
        trial = benchmark_trial(setups, 1)
    assert (trial.target_index, trial.target_class, trial.base_class) == (7, 6, 1)
    assert_array_equal(trial.base_indices, [1, 11, 21])
    X, y, X_test, _ = images()
    attack = shrunk(published_setting("witches-brew-benchmark", max_epochs=1)).attack
    attack = attack.set_params(
        targets=X_test[trial.target_index][None] / 255,
        target_labels=trial.base_class,
        selection=trial.base_indices,
        budget=3,
        random_state=0,
        device="cpu",
        surrogate__device="cpu",
    )
    assert set(attack.fit(X / 255, y).poison_indices_) == {1, 11, 21}


def test_bad_trials_of_the_benchmark():
    with pytest.raises(ValueError, match="number=2: setups has 2 scratch trials"):
        benchmark_trial(SETUPS, 2)
    with pytest.raises(ValueError, match="number"):
        benchmark_trial(SETUPS, -1)
    with pytest.raises(ValueError, match="kind"):
        benchmark_trial(SETUPS, 0, kind="warm")
    with pytest.raises(KeyError, match="transfer_target_index"):
        benchmark_trial(SETUPS, 0, kind="transfer")


@pytest.mark.filterwarnings("ignore:the victims' accuracy")
def test_the_script_runs_a_setting(monkeypatch, capsys):
    def fetch(subset="train", n_samples=None, **layout):
        X, y, X_test, y_test = images(1)
        assert (subset, n_samples) in [("train", 2000), ("test", None)]
        assert layout == {"layout": "nchw", "dtype": "uint8", "return_X_y": True}
        return (X, y) if subset == "train" else (X_test, y_test)

    monkeypatch.setattr(datasets, "fetch_fashion_mnist", fetch)
    path = Path(__file__).parents[2] / "examples" / "published_setting.py"
    main = runpy.run_path(str(path))["main"]
    main(
        ["watermark-fashion-mnist-mlp", "--device", "cpu"]
        + ["--targets", "2", "--victims", "1", "--epochs", "1"]
    )
    out = capsys.readouterr().out
    assert "WatermarkAttack, eps 16/255" in out and "2 targets, 1 victims each" in out
