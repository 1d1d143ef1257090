"""What every attack must do, a function each; see ``estimator_checks``."""

import functools
import pickle
import random
import warnings

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags


def checks_of(attack):
    """Return the checks that concern an attack."""
    if hasattr(attack, "fit_resample"):
        own = _REGRESSION if _is_regression(attack) else _CLASSIFICATION
        return [*_COMMON, *_SAMPLER, *own]
    checks = [*_COMMON, *_PERTURBATION]
    if hasattr(attack, "eps") and not hasattr(attack, "trigger"):
        checks.append(check_eps_and_bounds)
    if hasattr(attack, "targets"):
        checks.append(check_target_inside_data_is_refused)
    return checks


def _is_regression(attack):
    return getattr(attack, "_is_regression", lambda: False)()


def _data(attack, seed=0, n_samples=60, shape=(6,)):
    """Three string classes in [0, 1], well apart, no two rows equal.

    For an attack on regressors y holds numbers that follow from X but for noise.
    """
    rng = np.random.RandomState(seed)
    y = np.array(["ant", "bee", "cat"])[np.arange(n_samples) % 3]
    X = 0.2 * rng.rand(n_samples, *shape) + 0.3 * (np.arange(n_samples) % 3).reshape(
        -1, *[1] * len(shape)
    )
    if _is_regression(attack):
        y = X.reshape(n_samples, -1).sum(axis=1) + 0.1 * rng.rand(n_samples)
    return X, y


def _with(attack, **params):
    attack = clone(attack)
    params = {k: v for k, v in params.items() if k in attack.get_params()}
    return attack.set_params(**params)


def _quiet(check):
    @functools.wraps(check)
    def quiet(attack):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            check(attack)

    return quiet


class _Constant(BaseEstimator):
    """A victim that every attack can be scored against."""

    def fit(self, X, y):
        self.answer_ = np.unique(y)[0]
        return self

    def predict(self, X):
        return np.full(len(X), self.answer_)


def _numpy_state():
    return np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002


def _changed_rows(X, X_out):
    return np.flatnonzero((X.reshape(len(X), -1) != X_out.reshape(len(X), -1)).any(1))


# What both kinds must do


@_quiet
def check_budget_zero_is_identity(attack):
    """Budget 0 poisons nothing and still sets everything else up."""
    X, y = _data(attack)
    attack = _with(attack, budget=0, random_state=0)
    data = attack.poison(X, y)
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, y)
    assert data.poison_mask.shape == (len(X),) and not data.poison_mask.any()
    assert 0 <= attack.attack_success(_Constant().fit(X, y).predict, X, y) <= 1


@_quiet
def check_budget_is_never_exceeded(attack):
    """No budget, as count or share, is overstepped; the mask tells what changed."""
    X, y = _data(attack)
    for budget in (1, 0.05, 0.29, 7, 1.0):
        attack = _with(attack, budget=budget, random_state=0)
        data = attack.poison(X, y)
        n_rows = budget if isinstance(budget, int) else int(budget * len(X) + 1e-9)
        assert data.poison_mask.sum() == attack.n_poisoned_ <= n_rows
        np.testing.assert_array_equal(
            np.flatnonzero(data.poison_mask), data.poison_indices
        )
        assert len(data.y_original) == attack.n_poisoned_
        clean = np.flatnonzero(~data.poison_mask)
        sources = data.sample_indices[clean]
        np.testing.assert_array_equal(np.asarray(data.X)[clean], X[sources])
        np.testing.assert_array_equal(np.asarray(data.y)[clean], y[sources])


@_quiet
def check_something_is_poisoned(attack):
    """A budget that allows rows changes some, and says which."""
    X, y = _data(attack, n_samples=90)
    data = _with(attack, budget=0.2, random_state=0).poison(X, y)
    assert data.poison_mask.any()
    rows = data.poison_indices
    sources = data.sample_indices[rows]
    made = sources < 0
    added = rows >= len(X)
    moved = (np.asarray(data.X)[rows] != X[sources]).reshape(len(rows), -1).any(1)
    relabelled = np.asarray(data.y)[rows] != y[sources]
    # a row may by chance be what the attack makes of it; most are not
    assert np.mean(made | added | moved | relabelled) > 0.5


@_quiet
def check_bad_budget_is_refused(attack):
    """A budget out of range raises and names the parameter."""
    X, y = _data(attack)
    for budget in (-1, -0.1, 1.5, len(X) + 1, float("nan"), "all", None, True):
        try:
            _with(attack, budget=budget).poison(X, y)
        except (ValueError, TypeError) as error:
            assert "budget" in str(error), error
        else:
            raise AssertionError(f"budget={budget!r} was accepted")


@_quiet
def check_same_seed_same_poison(attack):
    """One seed gives one result, in scripts and in fits; others differ in rows."""
    X, y = _data(attack, n_samples=90)
    first, again = (
        _with(attack, budget=0.2, random_state=0).poison(X, y) for _ in range(2)
    )
    np.testing.assert_array_equal(first.X, again.X)
    np.testing.assert_array_equal(first.y, again.y)
    for state in (np.random.RandomState(0), np.random.default_rng(0), None):
        _with(attack, budget=0.2, random_state=state).poison(X, y)


@_quiet
def check_global_streams_are_untouched(attack):
    """The global streams of Python, NumPy and torch are neither read nor moved."""
    import torch

    X, y = _data(attack)
    for state in (0, None):
        python, torch_state = random.getstate(), torch.get_rng_state()
        numpy_state = _numpy_state()
        _with(attack, budget=0.2, random_state=state).poison(X, y)
        assert random.getstate() == python
        np.testing.assert_array_equal(_numpy_state(), numpy_state)
        assert torch.equal(torch.get_rng_state(), torch_state)


@_quiet
def check_smaller_budgets_are_nested(attack):
    """The rows of a smaller budget are among those of a larger one."""
    X, y = _data(attack, n_samples=120)
    for seed in range(3):
        smaller: set[int] = set()
        for budget in (0.02, 0.05, 0.11, 0.2):
            found = _with(attack, budget=budget, random_state=seed)
            data = found.poison(X, y)
            rows = set(data.sample_indices[data.poison_indices])
            assert smaller <= rows
            smaller = rows


@_quiet
def check_inputs_are_not_modified(attack):
    """Neither X nor y nor the attack's own parameters are written to."""
    X, y = _data(attack)
    X_before, y_before = X.copy(), y.copy()
    attack = _with(attack, budget=0.3, random_state=0)
    before = pickle.dumps(attack.get_params())
    data = attack.poison(X, y)
    if not np.shares_memory(data.X, X):
        np.asarray(data.X)[:] = -1
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    assert pickle.dumps(attack.get_params()) == before


@_quiet
def check_images(attack):
    """Images in (n, C, H, W) are taken and handed back in that shape."""
    X, y = _data(attack, shape=(1, 6, 6))
    data = _with(attack, budget=0.2, random_state=0).poison(X, y)
    assert np.asarray(data.X).shape[1:] == X.shape[1:]


@_quiet
def check_round_trips(attack):
    """A fitted attack survives pickle, copy and skops, and holds no torch object."""
    import copy

    import torch

    X, y = _data(attack)
    attack = _with(attack, budget=0.2, random_state=0)
    attack.poison(X, y)
    for name, value in vars(attack).items():
        assert not isinstance(value, torch.Tensor | torch.nn.Module), name
    loaded = [pickle.loads(pickle.dumps(attack)), copy.deepcopy(attack)]
    try:
        from skops import io
    except ImportError:
        io = None
    if io is not None and getattr(attack, "surrogate_", None) is None:
        dumped = io.dumps(attack)
        loaded.append(io.loads(dumped, trusted=io.get_untrusted_types(data=dumped)))
    for other in loaded:
        np.testing.assert_array_equal(other.poison_mask_, attack.poison_mask_)
        if hasattr(attack, "transform"):
            np.testing.assert_array_equal(other.transform(X), attack.transform(X))


@_quiet
def check_attack_success_is_a_share(attack):
    """``attack_success`` lies in [0, 1] and is the mean of the outcomes."""
    X, y = _data(attack)
    X_test, y_test = _data(attack, seed=1)
    attack = _with(attack, budget=0.2, random_state=0)
    attack.poison(X, y)
    predict = _Constant().fit(X, y).predict
    success = attack.attack_success(predict, X_test, y_test)
    outcomes = attack.attack_outcomes(predict, X_test, y_test)
    assert 0 <= success <= 1 and success == np.mean(outcomes)


@_quiet
def check_unlabelled_data_is_refused(attack):
    """y is required, and said to be."""
    X, _ = _data(attack)
    try:
        clone(attack).poison(X, None)
    except ValueError as error:
        assert "requires y to be passed" in str(error), error
    else:
        raise AssertionError("y=None was accepted")


# What attacks that change X must do


@_quiet
def check_replay_equals_crafting(attack):
    """``fit_transform`` equals ``fit().transform()``, in any order and batch."""
    X, y = _data(attack)
    attack = _with(attack, budget=0.2, random_state=0)
    poisoned = clone(attack).fit_transform(X, y)
    attack.fit(X, y)
    np.testing.assert_array_equal(attack.transform(X), poisoned)
    order = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_array_equal(attack.transform(X[order]), poisoned[order])
    halves = [attack.transform(X[:25]), attack.transform(X[25:])]
    np.testing.assert_array_equal(np.concatenate(halves), poisoned)


@_quiet
def check_only_poisoned_rows_change(attack):
    """Rows of `poison_indices_` change, all others and all unseen rows do not."""
    X, y = _data(attack)
    unseen, _ = _data(attack, seed=1)
    attack = _with(attack, budget=0.2, random_state=0).fit(X, y)
    changed = _changed_rows(X, attack.transform(X))
    assert set(changed) <= set(attack.poison_indices_)
    np.testing.assert_array_equal(attack.transform(unseen), unseen)
    assert len(attack.row_keys_) == len(attack.perturbation_) == attack.n_poisoned_


@_quiet
def check_equal_rows_share_one_fate(attack):
    """Copies of a row are poisoned alike, and never when their labels differ."""
    X, y = _data(attack, n_samples=30)
    X, y = np.concatenate([X, X[:12]]), np.concatenate([y, y[:12]])
    y[36:] = np.roll(y[36:], 1)  # copies with another label
    attack = _with(attack, budget=0.5, random_state=0)
    out = attack.fit_transform(X, y)
    assert attack.n_poisoned_ <= len(X) // 2
    np.testing.assert_array_equal(out[:12], out[30:])
    conflicting = [*range(6, 12), *range(36, 42)]
    conflicting = [i for i in conflicting if y[i] != y[(i + 30) % 60]]
    assert not set(conflicting) & set(attack.poison_indices_)


@_quiet
def check_dtypes(attack):
    """float32 and float64 come back as they came, and know each other's rows."""
    X, y = _data(attack)
    attack = _with(attack, budget=0.2, random_state=0).fit(X, y)
    wide, narrow = attack.transform(X), attack.transform(X.astype(np.float32))
    assert wide.dtype == np.float64 and narrow.dtype == np.float32
    np.testing.assert_array_equal(
        _changed_rows(X, wide), _changed_rows(X.astype(np.float32), narrow)
    )


@_quiet
def check_uint8_images(attack):
    """uint8 images stay uint8."""
    X, y = _data(attack, shape=(1, 6, 6))
    X = (255 * X).astype(np.uint8)
    attack = _with(attack, budget=0.2, random_state=0)
    out = attack.fit_transform(X, y)
    assert out.dtype == np.uint8
    assert set(_changed_rows(X, out)) <= set(attack.poison_indices_)


@_quiet
def check_works_in_pipeline_and_search(attack):
    """A step of a Pipeline, searched over its budget."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    X, y = _data(attack)
    victim = Ridge() if _is_regression(attack) else LogisticRegression()
    steps = [("attack", _with(attack, random_state=0)), ("victim", victim)]
    search = GridSearchCV(
        Pipeline(steps), {"attack__budget": [0, 0.1]}, cv=2, error_score="raise"
    ).fit(X, y)
    assert search.cv_results_["mean_test_score"].shape == (2,)


@_quiet
def check_data_frames(attack):
    """``set_output`` and ``poison`` keep names and index of a data frame."""
    pd = _import_pandas()
    if pd is None:
        return
    X, y = _data(attack)
    frame = pd.DataFrame(X, columns=list("abcdef"), index=range(100, 160))
    attack = _with(attack, budget=0.2, random_state=0)
    for out in (
        attack.poison(frame, y).X,
        clone(attack).set_output(transform="pandas").fit_transform(frame, y),
    ):
        assert list(out.columns) == list(frame.columns)
        assert list(out.index) == list(frame.index)


@_quiet
def check_eps_and_bounds(attack):
    """No perturbation leaves the eps ball or the box."""
    X, y = _data(attack)
    attack = _with(attack, budget=0.5, eps=0.05, bounds=(0.0, 1.0), random_state=0)
    out = attack.fit_transform(X, y)
    norm = "l2" if getattr(attack, "norm", "linf") == "l2" else "linf"
    assert (attack.perturbation_norms_[norm] <= 0.05 * (1 + 1e-6)).all()
    assert out.min() >= 0 and out.max() <= 1


@_quiet
def check_target_inside_data_is_refused(attack):
    """A target that is a training row raises."""
    X, y = _data(attack)
    attack = _with(attack, targets=X[:1], target_labels=[y[1]])
    try:
        attack.fit(X, y)
    except ValueError as error:
        assert "targets[0] is also a training row" in str(error), error
    else:
        raise AssertionError("a target inside X was accepted")


# What attacks that change y or the rows must do


@_quiet
def check_containers_are_kept(attack):
    """Frames, series and lists come back in kind, sparse matrices where taken."""
    from scipy import sparse

    X, y = _data(attack)
    attack = _with(attack, budget=0.2, random_state=0)
    expected_X, expected_y = clone(attack).fit_resample(X, y)
    out_X, out_y = clone(attack).fit_resample(X.tolist(), y.tolist())
    assert isinstance(out_X, list) and isinstance(out_y, list)
    assert list(out_y) == list(expected_y)
    kinds = (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix)
    for kind in kinds if get_tags(attack).input_tags.sparse else ():
        out_X, out_y = clone(attack).fit_resample(kind(X), y)
        assert sparse.issparse(out_X) and out_X.format in ("csr", "csc")
        np.testing.assert_array_equal(out_y, expected_y)
    pd = _import_pandas()
    if pd is None:
        return
    frame = pd.DataFrame(X, columns=list("abcdef"), index=range(100, 160))
    series = pd.Series(y, index=frame.index, name="insect")
    out_X, out_y = clone(attack).fit_resample(frame, series)
    assert list(out_X.columns) == list(frame.columns)
    assert (out_X.dtypes == frame.dtypes).all() and out_y.name == "insect"
    np.testing.assert_allclose(out_X.to_numpy(), expected_X)
    assert list(out_y) == list(expected_y) and list(out_X.index) == list(out_y.index)


@_quiet
def check_labels_stay_inside_classes(attack):
    """No label is made up, whatever the type of y."""
    X, y = _data(attack)
    names, codes = np.unique(y, return_inverse=True)
    for labels in (y, codes - 1, 10 * codes, names[codes].astype(object), codes > 0):
        attack = _with(attack, budget=0.3, random_state=0)
        _, y_out = attack.fit_resample(X, labels)
        assert set(y_out) <= set(labels)
        assert np.asarray(y_out).dtype.kind == labels.dtype.kind


@_quiet
def check_numbers_stay_finite(attack):
    """Numbers come back as finite numbers, floats in their own type."""
    X, y = _data(attack)
    whole = np.rint(10 * y)
    pd = _import_pandas()
    for given in (y, y.astype(np.float32), whole.astype(int), whole.astype(np.uint8)):
        attack = _with(attack, budget=0.3, random_state=0)
        _, y_out = attack.fit_resample(X, given)
        assert np.isfinite(y_out).all()
        wanted = {given.dtype} if given.dtype.kind == "f" else {given.dtype, y.dtype}
        assert y_out.dtype in wanted
        rows = attack.sample_indices_[attack.poison_indices_]
        known = rows >= 0
        np.testing.assert_array_equal(attack.y_original_[known], given[rows[known]])
        if pd is not None:
            _, series = clone(attack).fit_resample(X, pd.Series(given, name="price"))
            assert series.name == "price" and series.dtype == y_out.dtype
            np.testing.assert_array_equal(series, y_out)
    for bad in (np.where(y == y[3], np.nan, y), np.array(["ant"] * len(y))):
        try:
            clone(attack).fit_resample(X, bad)
        except ValueError as error:
            assert "y must hold finite numbers" in str(error), error
        else:
            raise AssertionError("y without numbers was accepted")


@_quiet
def check_fit_changes_nothing(attack):
    """``fit`` validates and returns self."""
    X, y = _data(attack)
    attack = _with(attack, budget=0.2, random_state=0)
    assert attack.fit(X, y) is attack
    if _is_regression(attack):
        assert attack.y_scale_ == np.std(y) and not hasattr(attack, "classes_")
    else:
        assert list(attack.classes_) == ["ant", "bee", "cat"]


def _import_pandas():
    try:
        import pandas
    except ImportError:
        return None
    return pandas


_COMMON = [
    check_budget_zero_is_identity,
    check_budget_is_never_exceeded,
    check_something_is_poisoned,
    check_bad_budget_is_refused,
    check_same_seed_same_poison,
    check_global_streams_are_untouched,
    check_smaller_budgets_are_nested,
    check_inputs_are_not_modified,
    check_images,
    check_round_trips,
    check_attack_success_is_a_share,
    check_unlabelled_data_is_refused,
]
_PERTURBATION = [
    check_replay_equals_crafting,
    check_only_poisoned_rows_change,
    check_equal_rows_share_one_fate,
    check_dtypes,
    check_uint8_images,
    check_works_in_pipeline_and_search,
    check_data_frames,
]
_SAMPLER = [check_containers_are_kept, check_fit_changes_nothing]
_CLASSIFICATION = [check_labels_stay_inside_classes]
_REGRESSION = [check_numbers_stay_finite]
