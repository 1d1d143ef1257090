"""The estimators as scikit-learn's users meet them."""

import copy
import pickle
import random
import re
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.models import MLP, TorchClassifier, TorchRegressor

FAST = {"max_epochs": 3, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(150, 4, centers=3, random_state=0)
    return (X / 10).astype(np.float32), y


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:400] / 16).astype(np.float32), y[:400]


def global_streams():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return (
        random.getstate(),
        numpy_state[1].tobytes() + bytes([numpy_state[2] % 256]),
        torch.get_rng_state().numpy().tobytes(),
    )


class Dropout(torch.nn.Module):
    """A module of a user: named arguments, dropout, batch normalisation."""

    def __init__(self, n_features_in, n_classes, units=16):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(n_features_in, units),
            torch.nn.BatchNorm1d(units),
            torch.nn.ReLU(inplace=True),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(units, n_classes),
        )

    def forward(self, X):
        return self.layers(X)


class InPlace(MLP):
    def forward(self, X):
        return super().forward(X.sub_(1.0))


# ------------------------------------------------------------------ learning


def test_learns_a_table():
    X, y = load_breast_cancer(return_X_y=True)
    clf = make_pipeline(StandardScaler(), TorchClassifier(device="cpu", random_state=0))
    assert cross_val_score(clf, X, y, cv=3).min() > 0.94


def test_learns_a_regression_as_well_as_ridge():
    X, y = load_diabetes(return_X_y=True)
    reg = make_pipeline(StandardScaler(), TorchRegressor(device="cpu", random_state=0))
    assert reg.fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.35
    assert reg.predict(X).dtype == np.float64 and reg.predict(X).shape == y.shape


def gratings(n, seed):
    """Stripes across or along, random phase: no pixel alone tells the class."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    rows, columns = np.mgrid[:10, :10]
    along = np.where(y[:, None, None] == 1, rows, columns)
    X = np.sin(along * 1.5 + rng.uniform(0, 6.3, (n, 1, 1)))
    X = X + rng.normal(scale=0.5, size=X.shape)
    return X[:, None].astype(np.float32), np.array(["along", "across"])[y]


def test_auto_module_is_a_convolutional_net_on_images():
    X, y = gratings(300, 0)
    clf = TorchClassifier(max_epochs=6, device="cpu", random_state=0).fit(X, y)
    assert type(clf.module_).__name__ == "ConvNet"
    assert clf.score(*gratings(200, 1)) > 0.95


# -------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "names", [["b", "a", "c"], [-7, 30, 4], [2.0, 1.0, 5.0]], ids=str
)
def test_any_labels(blobs, names):
    X, y = blobs
    labels = np.array(names)[y]
    clf = TorchClassifier(**FAST).fit(X, labels)
    np.testing.assert_array_equal(clf.classes_, np.unique(labels))
    assert clf.predict(X).dtype == labels.dtype
    reference = TorchClassifier(**FAST).fit(X, np.argsort(np.argsort(names))[y])
    np.testing.assert_array_equal(clf.predict_proba(X), reference.predict_proba(X))


def test_probabilities_are_float64_and_sum_to_one(blobs):
    proba = TorchClassifier(**FAST).fit(*blobs).predict_proba(blobs[0])
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-15)


def test_one_class_is_an_error(blobs):
    with pytest.raises(ValueError, match="two classes in y, got one class: 'a'"):
        TorchClassifier(**FAST).fit(blobs[0], ["a"] * 150)


def test_constant_target():
    reg = TorchRegressor(**FAST).fit(np.eye(20), np.full(20, 3.0))
    np.testing.assert_allclose(reg.predict(np.eye(20)), 3.0, atol=1.0)


# ---------------------------------------------------------------- randomness


@pytest.mark.parametrize("module", ["auto", Dropout])
@pytest.mark.parametrize("iterator", [{}, {"iterator_train": "loader"}], ids=str)
def test_same_seed_same_bits_and_global_streams_untouched(blobs, module, iterator):
    X, y = blobs
    loader = torch.utils.data.DataLoader
    params = {**FAST, **dict.fromkeys(iterator, loader)}
    if iterator:
        params["iterator_valid"] = loader
    first = TorchClassifier(module, **params)
    before = global_streams()
    proba = first.fit(X, y).predict_proba(X)
    assert global_streams() == before
    torch.rand(3), np.random.rand(3)  # noqa: NPY002
    np.testing.assert_array_equal(first.fit(X, y).predict_proba(X), proba)
    other = TorchClassifier(module, **{**params, "random_state": 1}).fit(X, y)
    assert np.abs(other.predict_proba(X) - proba).max() > 1e-4


def test_unseeded_fits_differ_and_leave_global_streams_alone(blobs):
    X, y = blobs
    before = global_streams()
    a, b = (
        TorchClassifier(max_epochs=1, device="cpu").fit(X, y).predict_proba(X)
        for _ in range(2)
    )
    assert global_streams() == before
    assert np.abs(a - b).max() > 1e-4


def test_random_state_objects(blobs):
    X, y = blobs
    params = {"max_epochs": 1, "device": "cpu"}
    for make in (np.random.RandomState, np.random.default_rng):
        a, b = (
            TorchClassifier(random_state=make(3), **params).fit(X, y).predict_proba(X)
            for _ in range(2)
        )
        np.testing.assert_array_equal(a, b)


def test_data_order_and_weights_are_separate_streams(blobs):
    X, y = blobs
    frozen = {**FAST, "lr": 1e-30, "max_epochs": 1}
    a = TorchClassifier(**frozen).fit(X, y)
    b = TorchClassifier(**frozen, iterator_train__shuffle=False).fit(X, y)
    for p, q in zip(a.module_.parameters(), b.module_.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_threads_draw_the_same_weights(blobs):
    X, y = blobs
    one = TorchClassifier(**FAST).fit(X, y).predict_proba(X)
    many = joblib.Parallel(2, backend="threading")(
        joblib.delayed(lambda: TorchClassifier(**FAST).fit(X, y).predict_proba(X))()
        for _ in range(6)
    )
    for proba in many:
        np.testing.assert_array_equal(proba, one)


# ------------------------------------------------------- parameters, searches


def test_component_parameters_survive_get_set_clone_and_repr():
    clf = TorchClassifier(lr=0.1, module__hidden=(8,), optimizer__weight_decay=0.1)
    for deep in (True, False):
        params = clf.get_params(deep=deep)
        assert params["module__hidden"] == (8,) and params["lr"] == 0.1
        assert "component_params" not in params
    assert clone(clf).get_params() == clf.get_params()
    assert repr(clf) == (
        "TorchClassifier(lr=0.1, module__hidden=(8,), optimizer__weight_decay=0.1)"
    )
    copied = clone(clf).set_params(module__hidden=(3,), module__dropout=0.5, lr=0.2)
    assert copied.get_params()["module__dropout"] == 0.5
    assert clf.get_params()["module__hidden"] == (8,)
    assert "module__dropout" not in clf.get_params()
    with pytest.raises(ValueError, match="hiden"):
        clf.set_params(hiden=3)
    assert repr(TorchRegressor()) == "TorchRegressor()"


def test_component_parameters_reach_their_component(blobs):
    clf = TorchClassifier(
        **FAST,
        module__hidden=(8, 5),
        optimizer="adamw",
        optimizer__weight_decay=0.25,
        criterion__label_smoothing=0.125,
        iterator_train__drop_last=True,
        batch_size=40,
        callbacks__print_log=None,
    ).fit(*blobs)
    assert [p.shape[0] for p in clf.module_.parameters()] == [8, 8, 5, 5, 3, 3]
    assert isinstance(clf.net_.optimizer_, torch.optim.AdamW)
    assert clf.net_.optimizer_.param_groups[0]["weight_decay"] == 0.25
    assert clf.net_.criterion_.label_smoothing == 0.125
    assert clf.history_[-1, "batches", :, "train_batch_size"] == [40, 40, 40]
    assert "print_log" not in dict(clf.net_.callbacks_)


def test_sgd_has_nesterov_momentum_unless_told_otherwise(blobs):
    group = TorchClassifier(optimizer="sgd", **FAST).fit(*blobs)
    group = group.net_.optimizer_.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.9, True)
    assert group["weight_decay"] == 5e-4
    plain = TorchClassifier(optimizer="sgd", optimizer__momentum=0, **FAST).fit(*blobs)
    assert plain.net_.optimizer_.param_groups[0]["nesterov"] is False
    each = TorchClassifier(optimizer__foreach=True, **FAST).fit(*blobs)
    assert each.net_.optimizer_.param_groups[0]["foreach"] is True
    lbfgs = TorchClassifier(optimizer=torch.optim.LBFGS, **FAST).fit(*blobs)
    assert lbfgs.score(*blobs) > 0.9


def test_grid_search_over_components_in_processes(blobs):
    pipe = make_pipeline(StandardScaler(), TorchClassifier(**FAST))
    grid = {
        "torchclassifier__module__hidden": [(4,), (16,)],
        "torchclassifier__optimizer__weight_decay": [0.0, 0.1],
    }
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2, error_score="raise").fit(*blobs)
    serial = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(*blobs)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )


def test_metadata_routing_changes_nothing(blobs):
    with sklearn.config_context(enable_metadata_routing=True):
        assert cross_val_score(TorchClassifier(**FAST), *blobs, cv=2).min() > 0


def _three():
    return 3


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"lr": -1}, ValueError, "lr must be > 0, got -1"),
        ({"max_epochs": -1}, ValueError, "max_epochs must be >= 0, got -1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an int, got 2.5"),
        ({"optimizer": "adm"}, ValueError, "optimizer must be one of 'adam', "),
        ({"criterion": "mse"}, TypeError, "criterion must be a torch loss"),
        ({"module": "resnet"}, ValueError, "module must be one of 'auto', got"),
        ({"module": 3}, TypeError, "module must be 'auto', a torch.nn.Module"),
        ({"module": _three}, TypeError, "module must make a torch.nn.Module, got 3"),
        ({"device": "gpu"}, ValueError, "device must be 'auto' or"),
        ({"input_shape": (1, 3, 3)}, ValueError, "input_shape=.1, 3, 3. takes"),
        ({"input_shape": 4}, TypeError, "input_shape must be None or a tuple"),
        ({"train_split": 5}, TypeError, "train_split must be None or a callable"),
        ({"max_epoch": 5}, TypeError, "unexpected parameter 'max_epoch'"),
        ({"module__hiden": 5}, TypeError, "hiden"),
        ({"callbacks__nope__x": 5}, ValueError, "callbacks__nope__x names no callback"),
        ({"random_state": "a"}, ValueError, "random_state must be"),
    ],
    ids=lambda value: getattr(value, "__name__", re.sub(r" at 0x\w+", "", str(value))),
)
def test_bad_parameters_wait_for_fit(blobs, params, error, message):
    clf = clone(TorchClassifier(**{**FAST, **params}))
    with pytest.raises(error, match=message):
        clf.fit(*blobs)
    assert not hasattr(clf, "net_")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_by_name_without_a_device(blobs):
    with pytest.raises(RuntimeError, match="no CUDA device"):
        TorchClassifier(device="cuda").fit(*blobs)
    clf = TorchClassifier(max_epochs=1).fit(*blobs)
    assert clf.device == "auto" and clf.net_.device == "cpu"


def test_extra_fit_arguments_are_errors(blobs):
    with pytest.raises(TypeError, match="sample_weight"):
        TorchClassifier(**FAST).fit(*blobs, sample_weight=np.ones(150))
    assert not hasattr(TorchClassifier, "partial_fit")


def test_predict_before_fit():
    for estimator in (TorchClassifier(), TorchRegressor()):
        with pytest.raises(NotFittedError):
            estimator.predict(np.ones((2, 2)))
        assert not hasattr(estimator, "history_")


# ------------------------------------------------------------------- modules


def test_module_instance_is_a_starting_point_and_stays_as_it_was(blobs):
    module = MLP((4,), 3, hidden=(7,))
    before = copy.deepcopy(module.state_dict())
    clf = TorchClassifier(module, **FAST).fit(*blobs)
    proba = clf.predict_proba(blobs[0])
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert clf.module_ is not module
    np.testing.assert_array_equal(clf.fit(*blobs).predict_proba(blobs[0]), proba)
    with pytest.raises(ValueError, match="module__hidden can't change a module inst"):
        clf.set_params(module__hidden=(3,)).fit(*blobs)


def test_callable_module(blobs):
    def make(n_features_in, n_outputs):
        return torch.nn.Linear(n_features_in, n_outputs)

    clf = TorchClassifier(make, **FAST).fit(*blobs)
    assert isinstance(clf.module_, torch.nn.Linear)
    with pytest.raises(ValueError, match=r"shape \(n_samples, 3\), got \(64, 1\)"):
        TorchClassifier(torch.nn.Linear(4, 1), **FAST).fit(*blobs)
    with pytest.raises(ValueError, match=r"shape \(n_samples, 1\), got \(64, 2\)"):
        TorchRegressor(torch.nn.Linear(4, 2), **FAST).fit(*blobs)


def test_batch_norm_survives_a_last_batch_of_one(blobs):
    X, y = blobs
    clf = TorchClassifier(Dropout, **FAST, batch_size=50).fit(X[:101], y[:101])
    assert clf.history_[-1, "batches", :, "train_batch_size"] == [50, 51]


@pytest.mark.parametrize("shuffle", [True, False])
def test_module_that_works_in_place_never_reaches_the_data(blobs, shuffle):
    X, y = blobs[0].copy(), blobs[1]
    clf = TorchClassifier(InPlace, **FAST, iterator_train__shuffle=shuffle).fit(X, y)
    clf.predict(X)
    np.testing.assert_array_equal(X, blobs[0])


# ---------------------------------------------------------------------- data


def test_input_shape_makes_images_of_rows(digits):
    X, y = digits
    flat = TorchClassifier(input_shape=(1, 8, 8), **FAST).fit(X, y)
    images = TorchClassifier(**FAST).fit(X.reshape(-1, 1, 8, 8), y)
    np.testing.assert_array_equal(
        flat.predict_proba(X), images.predict_proba(X.reshape(-1, 1, 8, 8))
    )
    assert (flat.input_shape_, flat.n_features_in_) == ((64,), 64)
    assert (images.input_shape_, images.n_features_in_) == ((1, 8, 8), 1)
    with pytest.raises(ValueError, match="64 values, but the samples of X have shape"):
        TorchClassifier(input_shape=(1, 8, 8), **FAST).fit(X[:, :63], y)
    scaled = make_pipeline(StandardScaler(), flat)
    assert scaled.fit(X, y).score(X, y) > 0.7


def test_other_sample_shape_names_both(digits):
    X, y = digits
    clf = TorchClassifier(**FAST).fit(X.reshape(-1, 1, 8, 8), y)
    for wrong in (X.reshape(-1, 1, 4, 16), X, X.reshape(-1, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"shape \(.*\), but .*\(1, 8, 8\)"):
            clf.predict(wrong)


@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor])
def test_uint8_is_pixels(digits, container):
    X = np.round(digits[0] * 255).astype(np.uint8).reshape(-1, 1, 8, 8)
    kept = X.copy()
    pixels = TorchClassifier(**FAST).fit(container(X), digits[1])
    scaled = X.astype(np.float32) / 255
    floats = TorchClassifier(**FAST).fit(scaled, digits[1])
    np.testing.assert_array_equal(pixels.predict_proba(X), floats.predict_proba(scaled))
    # the rule looks at each call's own type
    np.testing.assert_array_equal(
        pixels.predict_proba(scaled), floats.predict_proba(container(X))
    )
    np.testing.assert_array_equal(X, kept)


def test_float32_is_neither_copied_nor_changed(blobs, tmp_path):
    class Seen(TorchClassifier):
        def _train(self, net, X, y, streams):
            self.seen_ = X
            super()._train(net, X, y, streams)

    X, y = blobs
    assert np.shares_memory(Seen(**FAST).fit(X, y).seen_, X)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = Seen(**FAST).fit(mapped, y)
        proba = clf.predict_proba(mapped)
    assert np.shares_memory(clf.seen_, mapped)
    expected = Seen(**FAST).fit(X.astype(np.float64), y).predict_proba(X)
    np.testing.assert_array_equal(proba, expected)


def test_data_frames_keep_column_names(blobs):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(blobs[0], columns=list("abcd"))
    clf = TorchClassifier(**FAST).fit(X, blobs[1])
    assert list(clf.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(X[list("dcba")])


def test_divergence_is_a_warning_that_names_lr(blobs):
    clf = TorchRegressor(optimizer="sgd", lr=1e6, **FAST)
    with pytest.warns(ConvergenceWarning, match="lower lr"):
        clf.fit(blobs[0] * 100, blobs[1])


# --------------------------------------------------------------- persistence


@pytest.mark.parametrize("make", [TorchClassifier, TorchRegressor])
def test_pickle_joblib_deepcopy(blobs, tmp_path, make):
    X, y = blobs
    estimator = make(**FAST, module__hidden=(5,))
    copies = [pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)]
    expected = estimator.fit(X, y).predict(X)
    for unfitted in copies:
        np.testing.assert_array_equal(unfitted.fit(X, y).predict(X), expected)
    joblib.dump(estimator, tmp_path / "clf.joblib")
    for fitted in (
        pickle.loads(pickle.dumps(estimator)),
        copy.deepcopy(estimator),
        joblib.load(tmp_path / "clf.joblib"),
    ):
        np.testing.assert_array_equal(fitted.predict(X), expected)
        assert len(fitted.history_) == 3


def test_nothing_of_the_run_stays_behind(blobs):
    clf = TorchClassifier(**FAST).fit(*blobs)
    held = [*vars(clf).values(), *vars(clf.net_).values()]
    kinds = (torch.Generator, torch.utils.data.DataLoader, torch.utils.data.Dataset)
    assert not any(isinstance(value, kinds) for value in held)
    assert clf.net_.hook_ is None and clf.net_.context_ is None


def test_html_repr(blobs):
    html = TorchClassifier(lr=0.123, module__hidden=(5,)).fit(*blobs)._repr_html_()
    assert "0.123" in html and len(html) < 200_000
